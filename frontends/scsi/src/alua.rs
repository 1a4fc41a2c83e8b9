//! Target port groups: which ways into a target are alike (SPC-4 5.15, 6.37). Access states are told, not asked for:
//! implicit ALUA.

use bytes::Bytes;

/// ASYMMETRIC ACCESS STATE
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum AccessState {
    /// As good as any.
    #[default]
    ActiveOptimized = 0x0,
    /// Works, and another is better.
    ActiveNonOptimized = 0x1,
    /// Cannot be used now.
    Unavailable = 0x3,
}

/// A group of target ports with the same access state: a gateway's portals.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortGroup {
    /// TARGET PORT GROUP
    pub id: u16,
    /// Their state.
    pub state: AccessState,
    /// PREF: initiators should take these ports.
    pub preferred: bool,
    /// RELATIVE TARGET PORT IDENTIFIERs.
    pub ports: Vec<u16>,
}

/// U_SUP, AN_SUP and AO_SUP: the states that can be reported.
const SUPPORTED: u8 = 0x08 | 0x02 | 0x01;
/// STATUS CODE 02h: the state changed by itself.
const IMPLICIT: u8 = 0x02;
/// Most a group can list.
const PORTS_MAX: usize = u8::MAX as usize;

/// Parameter data of REPORT TARGET PORT GROUPS.
pub(crate) fn report(groups: &[PortGroup], extended: bool) -> Bytes {
    let mut out = vec![0; 4];
    if extended {
        // RETURN DATA FORMAT 001b and no transition time.
        out.extend_from_slice(&[0x10, 0, 0, 0]);
    }
    for group in groups {
        let ports = &group.ports[..group.ports.len().min(PORTS_MAX)];
        let [high, low] = group.id.to_be_bytes();
        let state = u8::from(group.preferred) << 7 | group.state as u8;
        out.extend_from_slice(&[state, SUPPORTED, high, low, 0, IMPLICIT, 0, ports.len() as u8]);
        for port in ports {
            let [high, low] = port.to_be_bytes();
            out.extend_from_slice(&[0, 0, high, low]);
        }
    }
    let len = (out.len() - 4) as u32;
    out[..4].copy_from_slice(&len.to_be_bytes());
    Bytes::from(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_listed_with_their_ports() {
        let groups = [
            PortGroup { id: 1, state: AccessState::ActiveOptimized, preferred: true, ports: vec![1, 2] },
            PortGroup { id: 0x102, state: AccessState::Unavailable, preferred: false, ports: vec![3] },
        ];
        let expected: &[u8] = &[
            0, 0, 0, 28, 0x80, 0x0b, 0, 1, 0, 2, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2, 0x03, 0x0b, 1, 2, 0, 2, 0, 1,
            0, 0, 0, 3,
        ];
        assert_eq!(&report(&groups, false)[..], expected);
        let extended = report(&groups, true);
        assert_eq!(extended[..8], [0, 0, 0, 32, 0x10, 0, 0, 0]);
        assert_eq!(extended[8..], expected[4..]);
    }
}
