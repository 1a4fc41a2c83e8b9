//! What the command line says when it cannot do what was asked: a stable code, the cause and the remedy.
//!
//! Codes and exit statuses are part of the interface: scripts match on them, so they are never renumbered.
//!
//! | exit | codes |
//! |---|---|
//! | 0 | done |
//! | 1 | `INTERNAL` |
//! | 2 | `USAGE` |
//! | 3 | `NOT_FOUND` |
//! | 4 | `ALREADY_EXISTS`, `NOT_EMPTY`, `IN_USE`, `CONFLICT` |
//! | 5 | `NO_SPACE` |
//! | 6 | `UNAVAILABLE`, `TIMED_OUT` |
//! | 7 | `NOT_CONFIRMED` |
//! | 8 | `CONFIG` |
//! | 9 | `UNHEALTHY` |
//! | 10 | `ENVIRONMENT` |

use std::fmt;
use std::io;
use std::path::Path;

/// The kind of a failure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Code {
    /// A bug, or an error of the world that has no better name.
    Internal,
    /// The arguments do not fit together.
    Usage,
    /// The named volume, directory, member or file does not exist.
    NotFound,
    /// The name is taken.
    AlreadyExists,
    /// A directory still holds something.
    NotEmpty,
    /// Somebody holds the volume open, or another command works on the same playground.
    InUse,
    /// The state of the object does not allow this.
    Conflict,
    /// The cluster's disks are full.
    NoSpace,
    /// No MDS answered, or none leads; too few servers are up; a data store does not answer.
    Unavailable,
    /// It was not done before the deadline. It may still happen.
    TimedOut,
    /// A destroying command was not confirmed.
    NotConfirmed,
    /// A configuration file is missing or wrong.
    Config,
    /// The cluster is not healthy.
    Unhealthy,
    /// The machine lacks something: a program, ports, descriptors, permissions.
    Environment,
}

/// Every code, for `curve explain` and the documentation's test.
pub const CODES: [Code; 14] = [
    Code::Internal,
    Code::Usage,
    Code::NotFound,
    Code::AlreadyExists,
    Code::NotEmpty,
    Code::InUse,
    Code::Conflict,
    Code::NoSpace,
    Code::Unavailable,
    Code::TimedOut,
    Code::NotConfirmed,
    Code::Config,
    Code::Unhealthy,
    Code::Environment,
];

impl Code {
    /// The name that is printed and that scripts match on.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Internal => "INTERNAL",
            Self::Usage => "USAGE",
            Self::NotFound => "NOT_FOUND",
            Self::AlreadyExists => "ALREADY_EXISTS",
            Self::NotEmpty => "NOT_EMPTY",
            Self::InUse => "IN_USE",
            Self::Conflict => "CONFLICT",
            Self::NoSpace => "NO_SPACE",
            Self::Unavailable => "UNAVAILABLE",
            Self::TimedOut => "TIMED_OUT",
            Self::NotConfirmed => "NOT_CONFIRMED",
            Self::Config => "CONFIG",
            Self::Unhealthy => "UNHEALTHY",
            Self::Environment => "ENVIRONMENT",
        }
    }

    /// The process's exit status.
    pub const fn exit(self) -> u8 {
        match self {
            Self::Internal => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::AlreadyExists | Self::NotEmpty | Self::InUse | Self::Conflict => 4,
            Self::NoSpace => 5,
            Self::Unavailable | Self::TimedOut => 6,
            Self::NotConfirmed => 7,
            Self::Config => 8,
            Self::Unhealthy => 9,
            Self::Environment => 10,
        }
    }

    /// One sentence for `curve explain`.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Internal => "An error that has no better name, or a bug. The message has the details.",
            Self::Usage => "The arguments do not fit together; nothing was done. See --help.",
            Self::NotFound => {
                "The named volume, directory, file system, mount, server, member or file does not exist."
            }
            Self::AlreadyExists => "The name is taken; nothing was changed.",
            Self::NotEmpty => "A directory still holds volumes or directories; nothing was removed.",
            Self::InUse => {
                "A client holds the volume open, a file system is mounted, or another command works on the same playground."
            }
            Self::Conflict => "The object's state does not allow this, for example a volume cannot shrink.",
            Self::NoSpace => {
                "The disks of chunkservers or metaservers are full up to their reserve. Delete or discard data, or add servers; `curve cluster status` says which."
            }
            Self::Unavailable => {
                "No MDS answered, the MDS group has no leader (a majority must be up), too few servers are up, or a data store does not answer."
            }
            Self::TimedOut => {
                "Not finished before the deadline. It may still happen; look before you repeat it."
            }
            Self::NotConfirmed => {
                "A destroying command was answered with something else than the name it asked for."
            }
            Self::Config => {
                "A configuration file is missing, or a key or value in it is wrong; or a data store refuses its keys."
            }
            Self::Unhealthy => "The cluster's health is not OK; `curve cluster status` names each reason.",
            Self::Environment => {
                "The machine lacks something: a program, free ports, file descriptors, permissions."
            }
        }
    }
}

/// What went wrong, why, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Its kind.
    pub code: Code,
    /// What could not be done, in one line.
    pub message: String,
    /// Why, when that is known.
    pub cause: Option<String>,
    /// What the operator can do.
    pub remedy: Option<String>,
}

impl Failure {
    /// A failure with only a message.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), cause: None, remedy: None }
    }

    /// Adds the cause.
    #[must_use]
    pub fn because(mut self, cause: impl fmt::Display) -> Self {
        self.cause = Some(cause.to_string());
        self
    }

    /// Adds the remedy.
    #[must_use]
    pub fn try_this(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// A file operation failed.
    pub fn file(action: &str, path: &Path, error: &io::Error) -> Self {
        let code = match error.kind() {
            io::ErrorKind::NotFound => Code::NotFound,
            io::ErrorKind::StorageFull => Code::NoSpace,
            _ => Code::Environment,
        };
        Self::new(code, format!("cannot {action} {}", path.display())).because(error)
    }

    /// The same as one JSON object, for `--json`.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "error": {
                "code": self.code.name(),
                "message": self.message,
                "cause": self.cause,
                "remedy": self.remedy,
            }
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.name(), self.message)?;
        if let Some(cause) = &self.cause {
            write!(f, "\n  cause:  {cause}")?;
        }
        if let Some(remedy) = &self.remedy {
            write!(f, "\n  remedy: {remedy}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_no_failure_exits_with_zero() {
        let names: BTreeSet<_> = CODES.iter().map(|code| code.name()).collect();
        assert_eq!(names.len(), CODES.len());
        assert!(CODES.iter().all(|code| code.exit() != 0));
    }

    #[test]
    fn a_failure_prints_code_cause_and_remedy() {
        let failure =
            Failure::new(Code::NotFound, "there is no /a").because("no such entry").try_this("curve bs ls /");
        let text = failure.to_string();
        assert_eq!(text, "NOT_FOUND: there is no /a\n  cause:  no such entry\n  remedy: curve bs ls /");
        assert_eq!(failure.to_json()["error"]["code"], "NOT_FOUND");
    }
}
