//! Reads a configuration from TOML.

use std::path::Path;

use serde::de::DeserializeOwned;

use crate::error::{ConfigError, Refusal};

/// Reads the configuration in a file.
pub fn load<T: DeserializeOwned>(path: impl AsRef<Path>) -> Result<T, ConfigError> {
    let path = path.as_ref();
    let text = std::fs::read_to_string(path)
        .map_err(|cause| ConfigError::Read { path: path.to_owned(), cause })?;
    parse(&text, &path.display().to_string())
}

/// Reads the configuration in `text`; `origin` is what refusals call it.
pub fn parse<T: DeserializeOwned>(text: &str, origin: &str) -> Result<T, ConfigError> {
    toml::from_str(text).map_err(|e| {
        let start = e.span().map_or(0, |span| span.start);
        ConfigError::Refused(Refusal {
            origin: origin.to_owned(),
            line: 1 + text[..start].matches('\n').count(),
            key: String::new(),
            message: e.message().to_owned(),
        })
    })
}
