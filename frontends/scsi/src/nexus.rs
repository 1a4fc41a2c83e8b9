//! The two ends of an I_T nexus, and the TransportID that names an initiator port (SPC-4 7.6.4.6).

use std::fmt;
use std::sync::Arc;

/// PROTOCOL IDENTIFIER of iSCSI.
pub(crate) const PROTOCOL_ISCSI: u8 = 5;
/// Longest iSCSI name in bytes (RFC 7143 4.2.7.1).
const NAME_BYTES_MAX: usize = 223;
/// What stands between the name and the ISID of an initiator port.
const PORT_SEPARATOR: &str = ",i,0x";

/// An iSCSI initiator port: the node's name and the ISID that it chose for the session.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct InitiatorPort {
    /// iSCSI name, at most 223 bytes.
    pub name: Arc<str>,
    /// Initiator session id.
    pub isid: [u8; 6],
}

impl InitiatorPort {
    /// Encodes the TransportID of format 01b: `name,i,0xISID`, null-terminated, padded to a multiple of four.
    pub fn transport_id(&self) -> Vec<u8> {
        let mut text = self.to_string().into_bytes();
        text.push(0);
        text.resize(text.len().next_multiple_of(4).max(20), 0);
        let mut id = vec![0x40 | PROTOCOL_ISCSI, 0];
        id.extend_from_slice(&(text.len() as u16).to_be_bytes());
        id.extend_from_slice(&text);
        id
    }

    /// Reads one TransportID and says how many bytes it took. `None` for what names no iSCSI initiator port: another
    /// protocol, malformed, or format 00b, which names a node and leaves open which of its ports is meant.
    pub fn from_transport_id(bytes: &[u8]) -> Option<(InitiatorPort, usize)> {
        let (&[kind, _, high, low], rest) = bytes.split_first_chunk::<4>()?;
        let len = usize::from(u16::from_be_bytes([high, low]));
        if kind != 0x40 | PROTOCOL_ISCSI || len < 20 || !len.is_multiple_of(4) {
            return None;
        }
        let text = rest.get(..len)?;
        let end = text.iter().position(|byte| *byte == 0)?;
        let text = std::str::from_utf8(&text[..end]).ok()?;
        let (name, isid) = text.split_once(PORT_SEPARATOR)?;
        let port = InitiatorPort { name: checked_name(name)?.into(), isid: isid_from_hex(isid)? };
        Some((port, 4 + len))
    }
}

impl fmt::Display for InitiatorPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{PORT_SEPARATOR}", self.name)?;
        self.isid.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A target port: one way into a target device. All gateways that serve a target number its ports together.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TargetPort {
    /// iSCSI name of the target.
    pub name: Arc<str>,
    /// RELATIVE TARGET PORT IDENTIFIER: unique in the target device, not 0.
    pub relative_id: u16,
    /// Target portal group tag.
    pub portal_group: u16,
}

impl fmt::Display for TargetPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},t,0x{:04x}", self.name, self.portal_group)
    }
}

/// An initiator port and the target port that it came through.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Nexus {
    /// Who.
    pub initiator: InitiatorPort,
    /// Which way in.
    pub target_port: TargetPort,
}

fn checked_name(name: &str) -> Option<&str> {
    (!name.is_empty() && name.len() <= NAME_BYTES_MAX).then_some(name)
}

fn isid_from_hex(text: &str) -> Option<[u8; 6]> {
    if text.len() != 12 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let value = u64::from_str_radix(text, 16).ok()?;
    let [_, _, isid @ ..] = value.to_be_bytes();
    Some(isid)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};
    use proptest::{collection, prop_assert_eq};

    use super::*;

    fn port(name: &str) -> InitiatorPort {
        InitiatorPort { name: name.into(), isid: [0x40, 0, 1, 0x37, 0, 0xab] }
    }

    #[test]
    fn a_transport_id_is_padded_text() {
        let id = port("iqn.1993-08.org.debian:01:a").transport_id();
        let mut expected = vec![0x45, 0, 0, 48];
        expected.extend_from_slice(b"iqn.1993-08.org.debian:01:a,i,0x4000013700ab\0\0\0\0");
        assert_eq!(id, expected);
    }

    #[test]
    fn short_names_take_the_least_length() {
        let id = port("a").transport_id();
        assert_eq!(&id[..4], &[0x45, 0, 0, 20]);
        assert_eq!(id.len(), 24);
    }

    #[test]
    fn what_is_no_initiator_port_is_refused() {
        let good = port("iqn.x:y").transport_id();
        assert_eq!(InitiatorPort::from_transport_id(&good), Some((port("iqn.x:y"), good.len())));
        for (at, byte) in [(0, 0x05), (0, 0x46), (3, 19), (3, 16), (11, b'.'), (16, b'x')] {
            let mut bad = good.clone();
            bad[at] = byte;
            assert_eq!(InitiatorPort::from_transport_id(&bad), None, "byte {at} = {byte:#x}");
        }
        assert_eq!(InitiatorPort::from_transport_id(&good[..good.len() - 1]), None);
    }

    proptest! {
        #[test]
        fn names_come_back(name in "[a-z0-9.:-]{1,223}", isid in any::<[u8; 6]>(), tail in collection::vec(any::<u8>(), 0..8)) {
            let port = InitiatorPort { name: name.as_str().into(), isid };
            let mut bytes = port.transport_id();
            let len = bytes.len();
            bytes.extend(tail);
            prop_assert_eq!(InitiatorPort::from_transport_id(&bytes), Some((port, len)));
        }

        #[test]
        fn garbage_does_no_harm(bytes in collection::vec(any::<u8>(), 0..64)) {
            InitiatorPort::from_transport_id(&bytes);
        }
    }
}
