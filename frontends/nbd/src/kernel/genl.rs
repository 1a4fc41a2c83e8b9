//! Generic netlink messages as bytes. Source: `linux/netlink.h`, `linux/genetlink.h`; numbers are of the host's order.
//!
//! ```text
//! message    length 4 | type 2 | flags 2 | sequence 4 | port 4 | body, padded to 4
//! body       command 1 | version 1 | reserved 2 | attributes         (an error: errno 4 (negative, or 0) | …)
//! attribute  length 2 (with these 4) | type 2 | value, padded to 4
//! ```

use std::io;

pub(super) const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
/// Marks an attribute that holds attributes.
const NLA_F_NESTED: u16 = 1 << 15;
const TYPE_MASK: u16 = 0x3fff;
const MESSAGE_HEAD: usize = 16;
const GENERIC_HEAD: usize = 4;
const ATTRIBUTE_HEAD: usize = 4;

/// A request under construction.
pub(super) struct Request {
    bytes: Vec<u8>,
}

impl Request {
    /// Asks `family` to carry out a command and to say how that went.
    pub(super) fn new(family: u16, command: u8, sequence: u32) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend(family.to_ne_bytes());
        bytes.extend((NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend([command, 1, 0, 0]);
        Self { bytes }
    }

    /// Adds an attribute.
    pub(super) fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let len = u16::try_from(ATTRIBUTE_HEAD + value.len()).expect("attributes here are short");
        self.bytes.extend(len.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }

    /// Adds an attribute that holds attributes.
    pub(super) fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let at = self.bytes.len();
        self.attribute(kind | NLA_F_NESTED, &[]);
        fill(self);
        let len = u16::try_from(self.bytes.len() - at).expect("attributes here are short");
        self.bytes[at..at + 2].copy_from_slice(&len.to_ne_bytes());
        self
    }

    /// The whole message.
    pub(super) fn finish(mut self) -> Vec<u8> {
        let len = u32::try_from(self.bytes.len()).expect("messages here are short");
        self.bytes[..4].copy_from_slice(&len.to_ne_bytes());
        self.bytes
    }
}

/// One message that came back.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Answer<'a> {
    /// How the command went: 0, or an errno.
    Outcome { sequence: u32, errno: i32 },
    /// What it found: attributes.
    Found { sequence: u32, attributes: &'a [u8] },
}

fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the kernel sent a netlink message that is cut off")
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> io::Result<[u8; N]> {
    bytes.get(at..at + N).and_then(|part| part.try_into().ok()).ok_or_else(cut)
}

/// Takes the first message off a datagram. `None` at its end.
pub(super) fn next_answer<'a>(datagram: &mut &'a [u8]) -> io::Result<Option<Answer<'a>>> {
    let bytes = *datagram;
    if bytes.is_empty() {
        return Ok(None);
    }
    let len = u32::from_ne_bytes(array(bytes, 0)?) as usize;
    let kind = u16::from_ne_bytes(array(bytes, 4)?);
    let sequence = u32::from_ne_bytes(array(bytes, 8)?);
    let body = bytes.get(MESSAGE_HEAD..len).ok_or_else(cut)?;
    // The body begins behind the head, so that this is an advance.
    *datagram = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    Ok(Some(match kind {
        NLMSG_ERROR => {
            Answer::Outcome { sequence, errno: i32::from_ne_bytes(array(body, 0)?).saturating_neg() }
        }
        _ => Answer::Found { sequence, attributes: body.get(GENERIC_HEAD..).ok_or_else(cut)? },
    }))
}

/// The value of the first attribute of a kind.
pub(super) fn find(attributes: &[u8], kind: u16) -> io::Result<Option<&[u8]>> {
    let mut rest = attributes;
    while !rest.is_empty() {
        let len = usize::from(u16::from_ne_bytes(array(rest, 0)?));
        let found = u16::from_ne_bytes(array(rest, 2)?) & TYPE_MASK;
        let value = rest.get(ATTRIBUTE_HEAD..len).ok_or_else(cut)?;
        if found == kind {
            return Ok(Some(value));
        }
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, proptest};

    use super::*;

    #[cfg(target_endian = "little")]
    #[test]
    fn a_request_has_the_documented_bytes() {
        let mut request = Request::new(0x1c, 3, 9);
        request.attribute(1, &7u32.to_ne_bytes());
        request.nested(7, |sockets| {
            sockets.nested(1, |item| {
                item.attribute(1, &5u32.to_ne_bytes());
            });
        });
        request.attribute(10, b"abcde");
        let bytes = request.finish();
        let expected: &[&[u8]] = &[
            &[56, 0, 0, 0, 0x1c, 0, 5, 0, 9, 0, 0, 0, 0, 0, 0, 0],
            &[3, 1, 0, 0],
            &[8, 0, 1, 0, 7, 0, 0, 0],
            &[16, 0, 7, 0x80, 12, 0, 1, 0x80, 8, 0, 1, 0, 5, 0, 0, 0],
            &[9, 0, 10, 0, b'a', b'b', b'c', b'd', b'e', 0, 0, 0],
        ];
        assert_eq!(bytes, expected.concat());
    }

    #[test]
    fn answers_are_taken_off_one_after_the_other() {
        let mut found = Request::new(0x1c, 1, 4);
        found.attribute(2, b"nbd\0").attribute(1, &17u32.to_ne_bytes());
        let mut outcome = Vec::new();
        outcome.extend(20u32.to_ne_bytes());
        outcome.extend(NLMSG_ERROR.to_ne_bytes());
        outcome.extend([0; 2]);
        outcome.extend(4u32.to_ne_bytes());
        outcome.extend([0; 4]);
        outcome.extend((-22i32).to_ne_bytes());
        let datagram = [found.finish(), outcome].concat();
        let mut rest = &datagram[..];
        let Some(Answer::Found { sequence: 4, attributes }) = next_answer(&mut rest).unwrap() else {
            panic!()
        };
        assert_eq!(find(attributes, 1).unwrap(), Some(&17u32.to_ne_bytes()[..]));
        assert_eq!(find(attributes, 2).unwrap(), Some(&b"nbd\0"[..]));
        assert_eq!(find(attributes, 3).unwrap(), None);
        assert_eq!(next_answer(&mut rest).unwrap(), Some(Answer::Outcome { sequence: 4, errno: 22 }));
        assert_eq!(next_answer(&mut rest).unwrap(), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic_or_loop(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut rest = &bytes[..];
            while let Ok(Some(answer)) = next_answer(&mut rest) {
                if let Answer::Found { attributes, .. } = answer {
                    let _ = find(attributes, 1);
                }
            }
        }
    }
}
