//! The configuration file: ours, or one of the original's.

use std::path::Path;

use curve_client::ClientConfig;
use curve_config::ConfigError;

use crate::code::Code;

const MDS_KEY: &str = "mds.listen.addr";

/// The configuration in a file. Without one, where every client looks; `$CURVE_MDS` replaces the addresses.
pub fn load(path: Option<&str>) -> Result<ClientConfig, Code> {
    let overriding = curve_config::mds_override();
    let path = path.filter(|path| !path.is_empty()).map(Path::new);
    let mut config = match curve_config::find_client_config(path) {
        Ok(path) => {
            let text = std::fs::read_to_string(&path).map_err(|_| Code::Failed)?;
            parse(&text, &path.display().to_string())?
        }
        Err(ConfigError::NotFound { .. }) if path.is_none() && overriding.is_some() => {
            ClientConfig::default()
        }
        Err(_) => return Err(Code::Failed),
    };
    config.mds_addresses = overriding.unwrap_or(config.mds_addresses);
    if config.mds_addresses.is_empty() { Err(Code::Failed) } else { Ok(config) }
}

/// Reads `key=value` lines if one of them is the original's for the MDSs, whose other keys mean nothing here; else TOML.
fn parse(text: &str, origin: &str) -> Result<ClientConfig, Code> {
    match original_addresses(text) {
        Some(mds_addresses) => Ok(ClientConfig { mds_addresses, ..ClientConfig::default() }),
        None => curve_config::parse(text, origin).map_err(|_| Code::Param),
    }
}

fn original_addresses(text: &str) -> Option<Vec<String>> {
    let pairs = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    let value = pairs
        .filter_map(|line| line.split_once('='))
        .filter(|(key, _)| key.trim() == MDS_KEY)
        .map(|(_, value)| value.split('#').next().unwrap_or_default())
        .next_back()?;
    let addresses = value.split(',').map(str::trim).filter(|address| !address.is_empty());
    Some(addresses.map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_give_the_addresses() {
        let cases = [
            ("mds.listen.addr=a:1,b:2\nglobal.log=x\n", Ok(vec!["a:1", "b:2"])),
            ("# mds.listen.addr=old:1\n mds.listen.addr = a:1 , b:2 # all\n", Ok(vec!["a:1", "b:2"])),
            ("mds.listen.addr=\n", Ok(vec![])),
            ("mds_addresses = [\"a:1\"]\nio_timeout = \"5s\"\n", Ok(vec!["a:1"])),
            ("mds_adresses = [\"a:1\"]\n", Err(Code::Param)),
            ("global.log=x\n", Err(Code::Param)),
        ];
        for (text, expected) in cases {
            let addresses = parse(text, "test").map(|config| config.mds_addresses);
            let expected =
                expected.map(|list: Vec<&str>| list.into_iter().map(str::to_owned).collect::<Vec<_>>());
            assert_eq!(addresses, expected, "{text}");
        }
    }

    #[test]
    fn a_file_without_addresses_or_no_file_is_a_failure() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("client.conf");
        std::fs::write(&file, "mds.listen.addr=\n").unwrap();
        if curve_config::mds_override().is_none() {
            assert_eq!(load(file.to_str()).err(), Some(Code::Failed));
        }
        assert_eq!(load(Some("/no/such/file")).err(), Some(Code::Failed));
    }
}
