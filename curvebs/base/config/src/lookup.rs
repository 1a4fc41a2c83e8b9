//! Where clients find their configuration: one rule for every tool.

use std::path::{Path, PathBuf};

use crate::error::ConfigError;

/// Where a client configuration is looked for when neither `--config` nor `$CURVE_CONFIG` names one.
pub const CLIENT_CONFIG_PATHS: [&str; 2] = ["./curve.toml", "/etc/curve/curve.toml"];

const CONFIG_VARIABLE: &str = "CURVE_CONFIG";
const MDS_VARIABLE: &str = "CURVE_MDS";

/// The client configuration to use: `--config FILE` (`explicit`), else `$CURVE_CONFIG`, else `./curve.toml`, else
/// `/etc/curve/curve.toml`. A file that is named must exist; it is never passed over for the next.
pub fn find_client_config(explicit: Option<&Path>) -> Result<PathBuf, ConfigError> {
    find(explicit, std::env::var_os(CONFIG_VARIABLE).map(PathBuf::from), &CLIENT_CONFIG_PATHS)
}

/// The MDS addresses of `$CURVE_MDS`, a list separated by commas, which override those of the configuration.
pub fn mds_override() -> Option<Vec<String>> {
    parse_addresses(&std::env::var(MDS_VARIABLE).ok()?)
}

fn find(explicit: Option<&Path>, variable: Option<PathBuf>, paths: &[&str]) -> Result<PathBuf, ConfigError> {
    let named = [("--config", explicit.map(Path::to_owned)), ("$CURVE_CONFIG", variable)];
    let mut looked = Vec::new();
    for (name, path) in named {
        let Some(path) = path.filter(|path| !path.as_os_str().is_empty()) else { continue };
        if path.is_file() {
            return Ok(path);
        }
        looked.push(format!("{name} {} (no such file)", path.display()));
        return Err(ConfigError::NotFound { looked });
    }
    for path in paths {
        if Path::new(path).is_file() {
            return Ok(PathBuf::from(path));
        }
        looked.push((*path).to_owned());
    }
    Err(ConfigError::NotFound { looked })
}

fn parse_addresses(list: &str) -> Option<Vec<String>> {
    let addresses: Vec<String> =
        list.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect();
    (!addresses.is_empty()).then_some(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_the_rule_wins_and_a_named_file_must_exist() {
        let dir = tempfile::tempdir().unwrap();
        let [a, b, c] = ["a.toml", "b.toml", "c.toml"].map(|name| dir.path().join(name));
        let last = [c.to_str().unwrap()];
        for path in [&a, &b, &c] {
            std::fs::write(path, "").unwrap();
        }
        assert_eq!(find(Some(&a), Some(b.clone()), &last).unwrap(), a);
        assert_eq!(find(None, Some(b.clone()), &last).unwrap(), b);
        assert_eq!(find(None, Some(PathBuf::new()), &last).unwrap(), c);
        std::fs::remove_file(&a).unwrap();
        let message = find(Some(&a), Some(b), &last).unwrap_err().to_string();
        assert!(message.contains("a.toml") && !message.contains("b.toml"), "{message}");
    }

    #[test]
    fn the_refusal_lists_where_it_looked() {
        let message =
            find(None, None, &["/nonexistent/x.toml", "/nonexistent/y.toml"]).unwrap_err().to_string();
        assert!(message.contains("/nonexistent/x.toml, /nonexistent/y.toml"), "{message}");
        assert!(message.contains("--config"), "{message}");
    }

    #[test]
    fn addresses_are_a_comma_list() {
        assert_eq!(parse_addresses("a:1, b:2,"), Some(vec!["a:1".to_owned(), "b:2".to_owned()]));
        assert_eq!(parse_addresses(" , "), None);
    }
}
