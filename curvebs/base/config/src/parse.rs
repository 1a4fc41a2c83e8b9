//! Reads a configuration from TOML.

use std::path::Path;

use serde::de::DeserializeOwned;
use toml::de::DeTable;

use crate::error::{ConfigError, Refusal};
use crate::value::{Document, Fault};

/// Reads the configuration in a file.
pub fn load<T: DeserializeOwned>(path: impl AsRef<Path>) -> Result<T, ConfigError> {
    let path = path.as_ref();
    let text =
        std::fs::read_to_string(path).map_err(|cause| ConfigError::Read { path: path.to_owned(), cause })?;
    parse(&text, &path.display().to_string())
}

/// Reads the configuration in `text`; `origin` is what refusals call it.
///
/// A key that its struct does not have is refused with the nearest one that it has, whether or not the struct derives
/// `deny_unknown_fields`. (A struct with a `flatten`ed field cannot be checked: serde does not tell its keys.)
pub fn parse<T: DeserializeOwned>(text: &str, origin: &str) -> Result<T, ConfigError> {
    let document = DeTable::parse(text).map_err(|e| {
        let at = e.span().map_or(0, |span| span.start);
        refuse(text, origin, at, String::new(), e.message().to_owned())
    })?;
    T::deserialize(Document(document.get_ref())).map_err(|fault| refuse_fault(text, origin, &fault))
}

fn refuse_fault(text: &str, origin: &str, fault: &Fault) -> ConfigError {
    let key = fault.key();
    let message = if key.is_empty() { fault.message.clone() } else { format!("`{key}`: {}", fault.message) };
    refuse(text, origin, fault.at.unwrap_or(0), key, message)
}

fn refuse(text: &str, origin: &str, at: usize, key: String, message: String) -> ConfigError {
    let line = 1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count();
    ConfigError::Refused(Refusal { origin: origin.to_owned(), line, key, message })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use curve_types::{ByteSize, HumanDuration};
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize, Debug, PartialEq)]
    struct Server {
        address: String,
        #[serde(default)]
        port: Option<u16>,
    }

    #[derive(Deserialize, Debug, PartialEq)]
    #[serde(rename_all = "snake_case")]
    enum Mode {
        Fast,
        Careful { checks: u8 },
    }

    #[derive(Deserialize, Debug, PartialEq)]
    #[serde(default)]
    struct Config {
        cache_size: ByteSize,
        timeout: HumanDuration,
        ratio: f64,
        is_read_only: bool,
        servers: Vec<Server>,
        main: Option<Server>,
        labels: BTreeMap<String, String>,
        mode: Mode,
    }

    impl Default for Config {
        fn default() -> Self {
            Self {
                cache_size: ByteSize(1),
                timeout: HumanDuration::default(),
                ratio: 0.0,
                is_read_only: false,
                servers: Vec::new(),
                main: None,
                labels: BTreeMap::new(),
                mode: Mode::Fast,
            }
        }
    }

    const GOOD: &str = r#"
        cache_size = "16MiB"
        timeout = "5s"
        ratio = 0.5
        is_read_only = true
        mode = { careful = { checks = 3 } }
        [main]
        address = "a"
        [labels]
        any-key = "x"
        [[servers]]
        address = "b"
        port = 0x10
        [[servers]]
        address = "c"
    "#;

    #[test]
    fn every_kind_of_value_is_read() {
        let config: Config = parse(GOOD, "t").unwrap();
        assert_eq!(config.cache_size, ByteSize(16 << 20));
        assert_eq!(config.main, Some(Server { address: "a".to_owned(), port: None }));
        assert_eq!(config.servers[0], Server { address: "b".to_owned(), port: Some(16) });
        assert_eq!(config.mode, Mode::Careful { checks: 3 });
        assert_eq!(config.labels["any-key"], "x");
        assert_eq!(parse::<Config>("", "t").unwrap(), Config::default());
    }

    #[test]
    fn refusals_name_the_line_the_key_and_the_way_out() {
        for (text, line, key, wanted) in [
            ("ratio = 1.0\ncache_sise = \"1MiB\"", 2, "cache_sise", "did you mean `cache_size`?"),
            ("colour = 1", 1, "colour", "known here: cache_size, timeout"),
            ("[main]\naddress = \"a\"\nprot = 1", 3, "main.prot", "did you mean `port`?"),
            (
                "[[servers]]\naddress = \"a\"\n[[servers]]\n\nadress = \"b\"",
                5,
                "servers[1].adress",
                "`address`?",
            ),
            ("\ncache_size = 4096", 2, "cache_size", "\"16MiB\""),
            ("cache_size = \"4096\"", 1, "cache_size", "GiB"),
            ("timeout = \"5 parsecs\"", 1, "timeout", "ms, s, m"),
            ("servers = 5", 1, "servers", "a list is written"),
            ("is_read_only = \"yes\"", 1, "is_read_only", "expected a boolean, found string \"yes\""),
            ("ratio = 1.0\n[main]\nport = 1", 2, "main", "`address` is missing"),
            ("[main]\naddress = \"a\"\nport = 70000", 3, "main.port", "70000"),
            ("mode = \"fats\"", 1, "mode", "did you mean `fast`?"),
            ("mode = 7", 1, "mode", "fast, careful"),
            ("mode = { careful = { check = 3 } }", 1, "mode.careful.check", "did you mean `checks`?"),
        ] {
            let error = parse::<Config>(text, "/etc/x.toml").unwrap_err();
            let ConfigError::Refused(refusal) = &error else { panic!("{error}") };
            assert_eq!((refusal.line, refusal.key.as_str()), (line, key), "{text}: {error}");
            assert!(refusal.message.contains(wanted), "{text}: {error}");
            assert!(error.to_string().starts_with(&format!("/etc/x.toml:{line}: `{key}`: ")), "{error}");
        }
    }

    #[test]
    fn broken_toml_is_refused_with_its_line() {
        let error = parse::<Config>("ratio = 1.0\ncache_size = \n", "t").unwrap_err();
        assert!(error.to_string().starts_with("t:2: "), "{error}");
        assert!(parse::<Config>("ratio = 1\nratio = 2", "t").is_err());
    }

    #[test]
    fn an_integer_is_taken_where_a_fraction_is_wanted() {
        assert_eq!(parse::<Config>("ratio = 2", "t").unwrap().ratio, 2.0);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let message = load::<Config>("/nonexistent/x.toml").unwrap_err().to_string();
        assert!(message.contains("/nonexistent/x.toml") && message.contains("No such file"), "{message}");
    }
}
