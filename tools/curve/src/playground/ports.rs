//! Picks ports that are free and stay free.

use std::net::{Ipv4Addr, TcpListener};

use crate::failure::{Code, Failure};

/// Ports below the kernel's usual ephemeral range (32768…), so that no outgoing connection takes a stopped member's port.
const PORTS_FIRST: u16 = 10_240;
const PORTS_LAST: u16 = 32_000;

/// `count` consecutive ports: those from `base` when it is given, else the first free run after a place that depends
/// on `seed` (so that playgrounds started together do not look at the same ports).
pub fn choose(base: Option<u16>, count: u16, seed: u64) -> Result<u16, Failure> {
    if let Some(base) = base {
        return match first_taken(base, count) {
            None => Ok(base),
            Some(port) => Err(Failure::new(Code::Environment, format!("port {port} on 127.0.0.1 is taken"))
                .because(format!("ports {base}..{} are needed", base.saturating_add(count)))
                .try_this("choose another --port-base, or leave it out to have free ports chosen")),
        };
    }
    let span = PORTS_LAST - PORTS_FIRST - count;
    let begin = (seed % u64::from(span)) as u16;
    let mut tried = 0;
    while tried < span {
        let candidate = PORTS_FIRST + (begin + tried) % span;
        match first_taken(candidate, count) {
            None => return Ok(candidate),
            Some(port) => tried += port - candidate + 1,
        }
    }
    Err(Failure::new(Code::Environment, format!("no {count} consecutive free ports on 127.0.0.1"))
        .try_this("stop other playgrounds, or choose ports with --port-base"))
}

fn first_taken(base: u16, count: u16) -> Option<u16> {
    let mut held = Vec::new();
    for port in base..base.saturating_add(count) {
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(listener) => held.push(listener),
            Err(_) => return Some(port),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_named_and_avoided() {
        let base = choose(None, 8, 4711).expect("free ports");
        let _held = TcpListener::bind((Ipv4Addr::LOCALHOST, base + 3)).expect("still free");
        let failure = choose(Some(base), 8, 0).expect_err("one is taken");
        assert!(failure.message.contains(&(base + 3).to_string()), "{failure}");
        let other = choose(None, 8, 4711).expect("others are free");
        assert!(other > base + 3 || other + 8 <= base + 3);
    }
}
