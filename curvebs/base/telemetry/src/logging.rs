//! Where log lines go and which are written.

use std::io::IsTerminal;

use thiserror::Error;
use tracing_subscriber::EnvFilter;

/// The variable that chooses what is logged.
const LOG_VARIABLE: &str = "CURVE_LOG";

/// Why logging could not be set up.
#[derive(Debug, Error)]
pub enum LoggingError {
    /// `CURVE_LOG` is not understood.
    #[error(
        "CURVE_LOG=`{value}` is not a log filter ({cause}); write for example `info` or `warn,curve_rpc=debug`"
    )]
    Filter {
        /// Its value.
        value: String,
        /// Why not.
        cause: String,
    },
    /// Somebody else set up logging in this process.
    #[error("logging is already set up in this process")]
    AlreadySet,
}

/// What is logged when nothing is asked for.
const DEFAULT_FILTER: &str = "info";

/// Logs to standard error at `info`, or as `$CURVE_LOG` says: a level, or a list of `target=level`.
pub fn init_logging() -> Result<(), LoggingError> {
    let value = std::env::var(LOG_VARIABLE).unwrap_or_else(|_| DEFAULT_FILTER.to_owned());
    let filter = parse_filter(&value)?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .try_init()
        .map_err(|_| LoggingError::AlreadySet)
}

fn parse_filter(value: &str) -> Result<EnvFilter, LoggingError> {
    EnvFilter::builder()
        .parse(value)
        .map_err(|e| LoggingError::Filter { value: value.to_owned(), cause: e.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_filter_is_explained() {
        assert!(parse_filter("info").is_ok());
        assert!(parse_filter("warn,curve_rpc=debug").is_ok());
        let message = parse_filter("curve_rpc=loud").unwrap_err().to_string();
        assert!(message.contains("curve_rpc=loud") && message.contains("for example"), "{message}");
    }
}
