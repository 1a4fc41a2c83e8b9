//! Telling systemd that the mount is usable: units of `Type=notify` begin what needs it only then (sd_notify(3)).

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;

const SOCKET: &str = "NOTIFY_SOCKET";

/// The mount is usable. Without systemd there is nobody to tell.
pub fn ready() {
    let Some(socket) = std::env::var_os(SOCKET).filter(|socket| !socket.is_empty()) else { return };
    if let Err(error) = send(Path::new(&socket), b"READY=1") {
        tracing::warn!(%error, socket = %socket.display(), "systemd was not told that the mount is usable");
    }
}

fn send(socket: &Path, message: &[u8]) -> io::Result<()> {
    let bytes = socket.as_os_str().as_bytes();
    let address = match bytes.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(message, &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_sockets_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let name = format!("curve-fuse-test-{}", std::process::id());
        let abstract_address = SocketAddr::from_abstract_name(&name).unwrap();
        for (socket, at) in [
            (UnixDatagram::bind(&path).unwrap(), path),
            (UnixDatagram::bind_addr(&abstract_address).unwrap(), format!("@{name}").into()),
        ] {
            send(&at, b"READY=1").unwrap();
            let mut told = [0; 32];
            let len = socket.recv(&mut told).unwrap();
            assert_eq!(&told[..len], b"READY=1");
        }
        assert!(send(Path::new("/nowhere/at/all"), b"x").is_err());
    }
}
