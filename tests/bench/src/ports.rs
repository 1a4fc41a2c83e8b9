//! Free ports for programs that cannot choose their own.

use std::net::{Ipv4Addr, TcpListener};

/// Two consecutive ports that are free now. They are below the kernel's usual ephemeral range (32768…), so that no
/// outgoing connection takes them before they are used.
pub fn free_pair() -> Result<u16, String> {
    let begin = (std::process::id() % 10_000) as u16;
    let free = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    let mut candidates = (0..10_000u16).map(|step| 20_000 + (begin + step) % 10_000);
    candidates
        .find(|port| free(*port) && free(*port + 1))
        .ok_or_else(|| "no free ports on 127.0.0.1".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_avoided() {
        let port = free_pair().unwrap();
        let _held = TcpListener::bind((Ipv4Addr::LOCALHOST, port + 1)).unwrap();
        assert!(!(port..=port + 1).contains(&free_pair().unwrap()));
    }
}
