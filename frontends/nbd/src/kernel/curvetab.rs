//! `/etc/curve/curvetab`: what is to be mapped when the machine starts.
//!
//! ```text
//! # volume   device      options
//! /db        /dev/nbd0   block-size=512,on-timeout=eio,timeout=30s
//! /logs      -           read-only
//! ```
//!
//! One line for each mapping; `-` takes a free device; options are those of `curve-nbd map`, separated by commas, or
//! `defaults`. A file system on a device is mounted by `/etc/fstab` with the options
//! `nofail,_netdev,x-systemd.requires=curve-nbd.service`.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use curve_types::HumanDuration;
use thiserror::Error;

use super::mapping::{Mapping, OnTimeout};
use super::sysfs;

/// How long `OnTimeout::Eio` waits if nothing is said.
pub const TIMEOUT_MS: u64 = 30_000;

/// What is wrong with a line.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("line {line}: {problem}")]
pub struct TabError {
    line: usize,
    problem: String,
}

/// All lines of a file.
pub fn parse(text: &str) -> Result<Vec<Mapping>, TabError> {
    let used = text.lines().enumerate().map(|(number, line)| (number + 1, line.trim()));
    used.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(line, content)| parse_line(content).map_err(|problem| TabError { line, problem }))
        .collect()
}

fn parse_line(line: &str) -> Result<Mapping, String> {
    let mut fields = line.split_whitespace();
    let path = fields.next().unwrap_or_default().to_owned();
    if !path.starts_with('/') {
        return Err(format!("`{path}` is no volume's path; it begins with `/`"));
    }
    let device = fields.next().unwrap_or("-");
    let index = match device {
        "-" => None,
        device => Some(sysfs::index_of(device).ok_or(format!("`{device}` is no /dev/nbdN"))?),
    };
    let mut mapping = Mapping {
        path,
        index,
        read_only: false,
        shared: false,
        block: 4096,
        on_timeout: OnTimeout::Queue,
        timeout_ms: TIMEOUT_MS,
        config: None,
    };
    for option in fields.next().unwrap_or("defaults").split(',') {
        set(&mut mapping, option)?;
    }
    match fields.next() {
        Some(more) => Err(format!("`{more}` is one field too many")),
        None => Ok(mapping),
    }
}

fn set(mapping: &mut Mapping, option: &str) -> Result<(), String> {
    let bad = || format!("unknown option `{option}`; known: {}", KNOWN.join(", "));
    match option.split_once('=').unwrap_or((option, "")) {
        ("defaults", "") => {}
        ("read-only", "") => mapping.read_only = true,
        ("shared", "") => mapping.shared = true,
        ("block-size", "512") => mapping.block = 512,
        ("block-size", "4096") => mapping.block = 4096,
        ("on-timeout", "queue") => mapping.on_timeout = OnTimeout::Queue,
        ("on-timeout", "eio") => mapping.on_timeout = OnTimeout::Eio,
        ("timeout", value) => {
            let time: HumanDuration = value.parse().map_err(|error| format!("timeout: {error}"))?;
            mapping.timeout_ms = u64::try_from(time.0.as_millis()).map_err(|_| bad())?;
        }
        ("config", file) if !file.is_empty() => mapping.config = Some(PathBuf::from(file)),
        _ => return Err(bad()),
    }
    Ok(())
}

const KNOWN: [&str; 7] = [
    "defaults",
    "read-only",
    "shared",
    "block-size=512|4096",
    "on-timeout=queue|eio",
    "timeout=30s",
    "config=FILE",
];

/// The line of a mapping.
pub fn line(mapping: &Mapping) -> String {
    let mut options = Vec::new();
    if mapping.read_only {
        options.push("read-only".to_owned());
    }
    if mapping.shared {
        options.push("shared".to_owned());
    }
    if mapping.block != 4096 {
        options.push(format!("block-size={}", mapping.block));
    }
    if mapping.on_timeout == OnTimeout::Eio {
        options.push(format!("on-timeout=eio,timeout={}ms", mapping.timeout_ms));
    }
    if let Some(config) = &mapping.config {
        options.push(format!("config={}", config.display()));
    }
    if options.is_empty() {
        options.push("defaults".to_owned());
    }
    let device = mapping.index.map_or("-".to_owned(), sysfs::device_of);
    format!("{} {device} {}", mapping.path, options.join(","))
}

/// The text with this volume's line replaced, added, or (without a mapping) left out. Other lines stay as they are.
pub fn with(text: &str, path: &str, mapping: Option<&Mapping>) -> String {
    let is_its = |line: &&str| line.split_whitespace().next() == Some(path);
    let mut lines: Vec<String> = text.lines().filter(|line| !is_its(line)).map(str::to_owned).collect();
    lines.extend(mapping.map(line));
    lines.into_iter().map(|line| line + "\n").collect()
}

/// Reads a file; one that is not there is empty.
pub fn read(path: &Path) -> io::Result<String> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        read => read,
    }
}

/// Replaces a file in one step.
pub fn write(path: &Path, text: &str) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let new = path.with_extension("new");
    let mut file = fs::File::create(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(new, path)
}

#[cfg(test)]
mod tests {
    use super::super::mapping::tests::sample;
    use super::*;

    #[test]
    fn a_line_is_read_as_it_was_written() {
        let mut odd = sample("/a/b", None);
        odd.read_only = true;
        odd.block = 512;
        odd.on_timeout = OnTimeout::Eio;
        odd.timeout_ms = 1500;
        odd.config = Some(PathBuf::from("/etc/curve/other.toml"));
        let plain = sample("/db", Some(3));
        assert_eq!(line(&plain), "/db /dev/nbd3 defaults");
        let text = format!("# comment\n\n{}\n  {}\n", line(&plain), line(&odd));
        assert_eq!(parse(&text), Ok(vec![plain, odd]));
        assert_eq!(parse("/x"), Ok(vec![sample("/x", None)]));
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        for (text, part) in [
            ("db -", "begins with `/`"),
            ("/db /dev/sda", "no /dev/nbdN"),
            ("/db - readonly", "known: defaults, read-only"),
            ("/db - block-size=1024", "unknown option"),
            ("/db - timeout=never", "timeout:"),
            ("/db - defaults 0 0", "one field too many"),
        ] {
            let error = parse(&format!("# first\n{text}")).unwrap_err().to_string();
            assert!(error.starts_with("line 2: ") && error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn only_the_volumes_own_line_changes() {
        let text = "# mine\n/db /dev/nbd0 defaults\n/dbx - shared\n";
        let moved = sample("/db", Some(5));
        assert_eq!(with(text, "/db", Some(&moved)), "# mine\n/dbx - shared\n/db /dev/nbd5 defaults\n");
        assert_eq!(with(text, "/db", None), "# mine\n/dbx - shared\n");
        assert_eq!(with("", "/x", None), "");
    }
}
