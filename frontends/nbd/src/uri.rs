//! The address of an export, as NBD clients take it (<https://github.com/NetworkBlockDevice/nbd/blob/master/doc/uri.md>).

use std::fmt::Write;
use std::path::Path;

/// Where a server listens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place<'a> {
    /// A socket file.
    Unix(&'a Path),
    /// `host:port`.
    Tcp(&'a str),
}

/// The URI of an export, for example `nbd+unix:///demo?socket=/tmp/s` or `nbds://127.0.0.1:10809/demo`.
pub fn export_uri(place: Place<'_>, export: &str, tls: bool) -> String {
    let scheme = if tls { "nbds" } else { "nbd" };
    let name = encode(export.strip_prefix('/').unwrap_or(export).as_bytes());
    match place {
        Place::Unix(path) => {
            format!("{scheme}+unix:///{name}?socket={}", encode(path.as_os_str().as_encoded_bytes()))
        }
        Place::Tcp(address) => format!("{scheme}://{address}/{name}"),
    }
}

fn encode(text: &[u8]) -> String {
    let mut encoded = String::with_capacity(text.len());
    for &byte in text {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                encoded.push(byte.into())
            }
            _ => write!(encoded, "%{byte:02X}").expect("a string takes everything"),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris() {
        let unix = Place::Unix(Path::new("/tmp/a b"));
        assert_eq!(export_uri(unix, "/demo", false), "nbd+unix:///demo?socket=/tmp/a%20b");
        assert_eq!(export_uri(unix, "a/ü?", true), "nbds+unix:///a/%C3%BC%3F?socket=/tmp/a%20b");
        assert_eq!(export_uri(Place::Tcp("[::1]:10809"), "/demo", false), "nbd://[::1]:10809/demo");
    }
}
