//! Data of one read on its way out: cut into PDUs and bursts, with the status in the last one.

use std::collections::VecDeque;

use bytes::Bytes;

use super::Outbox;
use super::pdu::PduEncoder;
use super::reply::{DataIn, Numbers, Residual, data_in};

/// What a read answers with.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// The task.
    pub itt: u32,
    /// Bytes to send.
    pub len: u32,
    /// Bytes of a PDU.
    pub pdu_max: u32,
    /// Bytes of a sequence that ends with a final bit.
    pub burst_max: u32,
    /// Status and what is left over, if the last PDU is to carry them; it then uses up a status number.
    pub status: Option<(u8, Residual)>,
    /// For the header.
    pub numbers: Numbers,
}

/// Appends the first bytes of `parts`, which hold at least as many as are to be sent, and gives the number of PDUs.
pub fn push(out: &mut Outbox, encoder: PduEncoder, reading: Reading, parts: Vec<Bytes>) -> u32 {
    let Reading { itt, len, pdu_max, burst_max, status, numbers } = reading;
    let mut parts = VecDeque::from(parts);
    let mut segment = Vec::new();
    let (mut offset, mut number) = (0, 0);
    while offset < len {
        let burst_left = burst_max - offset % burst_max;
        let end = offset + pdu_max.min(burst_left).min(len - offset);
        take(&mut parts, (end - offset) as usize, &mut segment);
        let header = DataIn {
            itt,
            number,
            offset,
            last: end == len || end.is_multiple_of(burst_max),
            status: status.filter(|_| end == len),
        };
        encoder.push(out, &mut data_in(&header, numbers), segment.iter().cloned());
        segment.clear();
        offset = end;
        number += 1;
    }
    number
}

/// Moves `len` bytes from the front of `parts` to `segment`.
fn take(parts: &mut VecDeque<Bytes>, mut len: usize, segment: &mut Vec<Bytes>) {
    while len > 0 {
        let front = parts.front_mut().expect("the parts hold what is to be sent");
        if front.len() <= len {
            len -= front.len();
            segment.extend(parts.pop_front());
        } else {
            segment.push(front.split_to(len));
            len = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;

    use super::*;
    use crate::core::serial::Serial;

    /// (flags, DataSN, offset, length, StatSN) of every PDU.
    fn cut(pdu: u32, burst: u32, parts: &[usize], len: u32, status: Option<(u8, Residual)>) -> Vec<[u32; 5]> {
        let mut out = Outbox::default();
        let parts: Vec<Bytes> = parts.iter().map(|len| Bytes::from(vec![3; *len])).collect();
        let numbers = Numbers { status: Serial(7), expected: Serial(1), last: Serial(2) };
        let reading = Reading { itt: 1, len, pdu_max: pdu, burst_max: burst, status, numbers };
        let count = push(&mut out, PduEncoder::default(), reading, parts);
        let mut slices = [IoSlice::new(&[]); 64];
        let filled = out.slices(&mut slices);
        let mut wire: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.iter().copied()).collect();
        let mut pdus = Vec::new();
        while !wire.is_empty() {
            let field = |at: usize| u32::from_be_bytes(*wire[at..].first_chunk().unwrap());
            let len = field(4) & 0xff_ffff;
            pdus.push([u32::from(wire[1]), field(36), field(40), len, field(24)]);
            assert!(wire[48..48 + len as usize].iter().all(|byte| *byte == 3));
            wire.drain(..48 + len.next_multiple_of(4) as usize);
        }
        assert_eq!(pdus.len(), count as usize);
        pdus
    }

    #[test]
    fn data_is_cut_at_pdus_and_bursts() {
        let good = Some((0, Residual::None));
        assert_eq!(cut(8, 100, &[8], 8, good), [[0x81, 0, 0, 8, 7]]);
        assert_eq!(cut(8, 100, &[3, 3, 3], 9, good), [[0, 0, 0, 8, 0], [0x81, 1, 8, 1, 7]]);
        assert_eq!(
            cut(8, 12, &[30], 26, good),
            [[0, 0, 0, 8, 0], [0x80, 1, 8, 4, 0], [0, 2, 12, 8, 0], [0x80, 3, 20, 4, 0], [0x81, 4, 24, 2, 7],]
        );
        // The status follows in a PDU of its own.
        assert_eq!(cut(8, 100, &[4], 4, None), [[0x80, 0, 0, 4, 0]]);
        assert_eq!(cut(8, 100, &[4], 4, Some((0, Residual::Underflow(4)))), [[0x83, 0, 0, 4, 7]]);
        assert_eq!(cut(8, 100, &[4], 0, good), Vec::<[u32; 5]>::new());
    }
}
