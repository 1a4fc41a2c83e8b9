//! PDUs as they travel: framing, padding, digests. What they mean is the business of `request` and `reply`.

use bytes::{Buf, Bytes, BytesMut};
use thiserror::Error;

use super::Outbox;
use super::digest::{Crc, Digests};
use super::wire::{BHS_BYTES, DIGEST_BYTES};

/// A basic header segment.
pub type Bhs = [u8; BHS_BYTES];

/// A PDU that came whole, with good digests.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pdu {
    /// The basic header.
    pub bhs: Bhs,
    /// Additional header segments, undecoded.
    pub ahs: Bytes,
    /// The data segment without its padding: a slice of what was read from the socket.
    pub data: Bytes,
}

/// What follows cannot be understood or trusted: the connection has to be dropped (error recovery level 0).
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum FramingError {
    /// The header's digest is wrong, so that not even its length can be trusted.
    #[error("a header digest is wrong")]
    HeaderDigest,
    /// The data's digest is wrong. The header is what a Reject repeats.
    #[error("a data digest is wrong (opcode {:#04x})", .0[0] & 0x3f)]
    DataDigest(Box<Bhs>),
    /// More data than was allowed. The header is what a Reject repeats.
    #[error("a data segment of {len} bytes, {max} are allowed")]
    DataLength {
        /// What the header announces.
        len: u32,
        /// What was declared.
        max: u32,
        /// The PDU's header.
        bhs: Box<Bhs>,
    },
}

/// Turns bytes into PDUs. Holds no more input than one PDU.
#[derive(Debug)]
pub struct PduDecoder {
    digests: Digests,
    data_max: u32,
    /// Bytes of the PDU at the front of the input, once its header was checked.
    checked: Option<Shape>,
}

#[derive(Clone, Copy, Debug)]
struct Shape {
    ahs: usize,
    data: usize,
}

/// Bytes of padding after `len` bytes.
pub(super) fn padding(len: usize) -> usize {
    len.wrapping_neg() % 4
}

impl Shape {
    fn of(bhs: &[u8]) -> Self {
        let data = u32::from_be_bytes([0, bhs[5], bhs[6], bhs[7]]) as usize;
        Self { ahs: usize::from(bhs[4]) * 4, data }
    }

    fn header_bytes(self, digests: Digests) -> usize {
        BHS_BYTES + self.ahs + digests.header_bytes()
    }

    fn bytes(self, digests: Digests) -> usize {
        self.header_bytes(digests) + self.data + padding(self.data) + digests.data_bytes(self.data)
    }
}

impl PduDecoder {
    /// A decoder that lets data segments of `data_max` bytes through.
    pub fn new(digests: Digests, data_max: u32) -> Self {
        Self { digests, data_max, checked: None }
    }

    /// How many bytes the input must hold before [`PduDecoder::next`] can go on, given that it holds `input` now.
    pub fn wanted(&self, input: &[u8]) -> usize {
        match self.checked {
            Some(shape) => shape.bytes(self.digests),
            None if input.len() < BHS_BYTES => BHS_BYTES,
            None => Shape::of(input).header_bytes(self.digests),
        }
    }

    /// Takes the next PDU from the front of `input`; `None` if more bytes are needed.
    pub fn next(&mut self, input: &mut BytesMut) -> Result<Option<Pdu>, FramingError> {
        let shape = match self.checked {
            Some(shape) => shape,
            None => {
                if input.len() < self.wanted(input) {
                    return Ok(None);
                }
                let shape = self.check_header(input)?;
                self.checked = Some(shape);
                shape
            }
        };
        if input.len() < shape.bytes(self.digests) {
            return Ok(None);
        }
        self.checked = None;
        self.take(shape, input).map(Some)
    }

    fn check_header(&self, input: &[u8]) -> Result<Shape, FramingError> {
        let shape = Shape::of(input);
        let header = BHS_BYTES + shape.ahs;
        if self.digests.header {
            let digest = Crc::default().add(&input[..header]).to_bytes();
            if input[header..header + DIGEST_BYTES] != digest {
                return Err(FramingError::HeaderDigest);
            }
        }
        if shape.data > self.data_max as usize {
            let bhs = Box::new(bhs_of(input));
            return Err(FramingError::DataLength { len: shape.data as u32, max: self.data_max, bhs });
        }
        Ok(shape)
    }

    fn take(&self, shape: Shape, input: &mut BytesMut) -> Result<Pdu, FramingError> {
        let bhs = bhs_of(input);
        input.advance(BHS_BYTES);
        let ahs = if shape.ahs > 0 { input.split_to(shape.ahs).freeze() } else { Bytes::new() };
        input.advance(self.digests.header_bytes());
        let padding = padding(shape.data);
        let mut data = Bytes::new();
        if shape.data > 0 {
            data = input.split_to(shape.data + padding).freeze();
            if self.digests.data {
                let digest = Crc::default().add(&data).to_bytes();
                if input[..DIGEST_BYTES] != digest {
                    return Err(FramingError::DataDigest(Box::new(bhs)));
                }
                input.advance(DIGEST_BYTES);
            }
            data.truncate(shape.data);
        }
        Ok(Pdu { bhs, ahs, data })
    }
}

fn bhs_of(input: &[u8]) -> Bhs {
    *input.first_chunk().expect("the length was checked")
}

/// Frames PDUs for one connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PduEncoder {
    /// What was negotiated.
    pub digests: Digests,
}

impl PduEncoder {
    /// Appends a PDU with the data of `parts`, which are not copied.
    ///
    /// The data length in `bhs` is filled in here. It must be below 16 MiB: what a peer may declare is.
    pub fn push(self, out: &mut Outbox, bhs: &mut Bhs, parts: impl IntoIterator<Item = Bytes> + Clone) {
        let len: usize = parts.clone().into_iter().map(|part| part.len()).sum();
        self.push_header(out, bhs, len);
        let mut crc = Crc::default();
        for part in parts {
            if self.digests.data {
                crc = crc.add(&part);
            }
            out.push_payload(part);
        }
        self.push_tail(out, crc, len);
    }

    /// Appends a PDU with a copy of `data`: right for what is short.
    pub fn push_copied(self, out: &mut Outbox, bhs: &mut Bhs, data: &[u8]) {
        self.push_header(out, bhs, data.len());
        out.push_head(data);
        let crc = if self.digests.data { Crc::default().add(data) } else { Crc::default() };
        self.push_tail(out, crc, data.len());
    }

    fn push_header(self, out: &mut Outbox, bhs: &mut Bhs, len: usize) {
        assert!(len < 1 << 24, "a data segment of {len} bytes has no length field");
        bhs[4] = 0;
        bhs[5..8].copy_from_slice(&(len as u32).to_be_bytes()[1..]);
        out.push_head(bhs);
        if self.digests.header {
            out.push_head(&Crc::default().add(bhs).to_bytes());
        }
    }

    fn push_tail(self, out: &mut Outbox, crc: Crc, len: usize) {
        let padding = &[0; 3][..padding(len)];
        out.push_head(padding);
        if self.digests.data && len > 0 {
            out.push_head(&crc.add(padding).to_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;

    use proptest::prelude::{any, proptest};
    use proptest::{collection, prop_assert, prop_assert_eq};

    use super::*;

    fn bytes_of(outbox: &Outbox) -> Vec<u8> {
        let mut slices = [IoSlice::new(&[]); 64];
        let filled = outbox.slices(&mut slices);
        slices[..filled].iter().flat_map(|slice| slice.iter().copied()).collect()
    }

    fn encode(digests: Digests, data: &[u8]) -> Vec<u8> {
        let mut out = Outbox::default();
        let mut bhs = [0x5a; BHS_BYTES];
        PduEncoder { digests }.push(&mut out, &mut bhs, [Bytes::copy_from_slice(data)]);
        let mut copied = Outbox::default();
        PduEncoder { digests }.push_copied(&mut copied, &mut bhs, data);
        assert_eq!(bytes_of(&out), bytes_of(&copied));
        bytes_of(&out)
    }

    const ALL: [Digests; 4] = [
        Digests { header: false, data: false },
        Digests { header: true, data: false },
        Digests { header: false, data: true },
        Digests { header: true, data: true },
    ];

    #[test]
    fn lengths_on_the_wire() {
        for (digests, data, total) in [
            (ALL[0], 0, 48),
            (ALL[0], 1, 52),
            (ALL[0], 4, 52),
            (ALL[1], 0, 52),
            (ALL[2], 0, 48),
            (ALL[2], 5, 60),
            (ALL[3], 8, 64),
        ] {
            assert_eq!(encode(digests, &vec![1; data]).len(), total, "{digests:?} {data}");
        }
    }

    #[test]
    fn pdus_come_back_however_they_are_cut() {
        for digests in ALL {
            let mut wire = Vec::new();
            for len in [0, 1, 2, 3, 4, 100] {
                wire.extend(encode(digests, &vec![7; len]));
            }
            for step in [1, 3, 50, 1000] {
                let mut decoder = PduDecoder::new(digests, 100);
                let mut input = BytesMut::new();
                let mut lengths = Vec::new();
                for piece in wire.chunks(step) {
                    input.extend_from_slice(piece);
                    while let Some(pdu) = decoder.next(&mut input).expect("it is well formed") {
                        assert_eq!(pdu.data, vec![7; pdu.data.len()]);
                        lengths.push(pdu.data.len());
                    }
                    assert!(input.len() < decoder.wanted(&input));
                }
                assert_eq!(lengths, [0, 1, 2, 3, 4, 100], "{digests:?} in steps of {step}");
            }
        }
    }

    #[test]
    fn damage_is_found() {
        let digests = ALL[3];
        let wire = encode(digests, b"hello");
        for at in 0..wire.len() {
            let mut input = BytesMut::from(&wire[..]);
            input[at] ^= 0x10;
            // A damaged length may make the decoder wait for more; the digest settles it.
            input.extend_from_slice(&[0; 2048]);
            let found = PduDecoder::new(digests, 100).next(&mut input);
            match at {
                0..52 => assert_eq!(found, Err(FramingError::HeaderDigest), "byte {at}"),
                _ => assert!(matches!(found, Err(FramingError::DataDigest(_))), "byte {at}: {found:?}"),
            }
        }
    }

    #[test]
    fn too_long_a_segment_is_refused_before_it_comes() {
        let mut input = BytesMut::from(&encode(ALL[0], &[0; 101])[..48]);
        let refused = PduDecoder::new(ALL[0], 100).next(&mut input);
        assert!(matches!(refused, Err(FramingError::DataLength { len: 101, max: 100, .. })), "{refused:?}");
    }

    #[test]
    fn additional_headers_are_kept_apart() {
        let mut wire = encode(ALL[0], b"data");
        wire[4] = 2;
        let tail = wire.split_off(48);
        wire.extend_from_slice(b"ahs-ahs-");
        wire.extend(tail);
        let pdu = PduDecoder::new(ALL[0], 100).next(&mut BytesMut::from(&wire[..])).unwrap().unwrap();
        assert_eq!((&pdu.ahs[..], &pdu.data[..]), (&b"ahs-ahs-"[..], &b"data"[..]));
    }

    proptest! {
        #[test]
        fn garbage_does_no_harm(bytes in collection::vec(any::<u8>(), 0..3000), which in 0..4usize) {
            let mut decoder = PduDecoder::new(ALL[which], 512);
            let mut input = BytesMut::from(&bytes[..]);
            while let Ok(Some(pdu)) = decoder.next(&mut input) {
                prop_assert!(pdu.data.len() <= 512);
                prop_assert_eq!(pdu.ahs.len(), usize::from(pdu.bhs[4]) * 4);
            }
            prop_assert!(decoder.wanted(&input) <= 48 + 1020 + 4 + 512 + 4);
        }
    }
}
