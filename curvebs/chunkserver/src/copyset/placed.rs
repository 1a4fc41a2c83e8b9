//! Bytes of a write as the log holds it when parts of its payload were placed in the chunk file.
//!
//! ```text
//! operation header
//!  at  bytes  what
//!   0     64  as of a write, but for the kind, which is 8
//!  64    4*n  the checksum of each block, placed or not
//!   …    4*r  for each run of placed extents: u8 first extent, u8 number of extents - 1, u8 plane (0 or 1), u8 0
//! ```
//!
//! Runs are in order and do not overlap. The payload is what they leave over, in order.

use bytes::{BufMut, Bytes, BytesMut};
use curve_chunkstore::{PlacedRun, extent_bytes};
use curve_types::Geometry;

use super::format::HEADER_BYTES;

const KIND_WRITE: u8 = 1;
const KIND_PLACED: u8 = 8;
const RUN_BYTES: usize = 4;
/// Where a mutation's header has the bytes it is about.
const LEN_AT: usize = 60;

/// Makes the header of a write that of one of which `runs` were placed.
pub fn encode(header: &[u8], runs: &[PlacedRun]) -> Bytes {
    let mut out = BytesMut::with_capacity(header.len() + RUN_BYTES * runs.len());
    out.put_slice(header);
    out[1] = KIND_PLACED;
    for run in runs {
        out.put_u8(run.first as u8);
        out.put_u8((run.extents - 1) as u8);
        out.put_u8(u8::from(run.second));
        out.put_u8(0);
    }
    out.freeze()
}

/// The header of the write that was proposed, and what was placed of it; other headers as they are. Headers that
/// `encode` never makes are left for the decoder to refuse.
pub fn split(header: &Bytes) -> (Bytes, Option<Vec<PlacedRun>>) {
    if header.get(1) != Some(&KIND_PLACED) || header.len() < HEADER_BYTES {
        return (header.clone(), None);
    }
    let len = u32::from_le_bytes(header[LEN_AT..HEADER_BYTES].try_into().expect("4 bytes")) as usize;
    let runs_at = HEADER_BYTES + len / 4096 * 4;
    let Some(rows) = header.get(runs_at..).filter(|rows| rows.len().is_multiple_of(RUN_BYTES)) else {
        return (header.clone(), None);
    };
    let run = |row: &[u8; RUN_BYTES]| PlacedRun {
        first: row[0].into(),
        extents: u32::from(row[1]) + 1,
        second: row[2] != 0,
    };
    let runs = rows.as_chunks::<RUN_BYTES>().0.iter().map(run).collect();
    let mut plain = BytesMut::from(&header[..runs_at]);
    plain[1] = KIND_WRITE;
    (plain.freeze(), Some(runs))
}

/// Bytes of all that was placed.
pub fn bytes(runs: &[PlacedRun], geometry: Geometry) -> usize {
    runs.iter().map(|run| run.extents as usize * extent_bytes(geometry) as usize).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::copyset::format::CopysetOp;

    fn plain(blocks: u32) -> Bytes {
        let mut header = BytesMut::zeroed(HEADER_BYTES);
        (header[0], header[1]) = (1, KIND_WRITE);
        header[LEN_AT..].copy_from_slice(&(blocks * 4096).to_le_bytes());
        (0..blocks).for_each(|block| header.put_u32_le(block + 1));
        header.freeze()
    }

    #[test]
    fn golden_bytes() {
        let runs = [
            PlacedRun { first: 1, extents: 2, second: true },
            PlacedRun { first: 255, extents: 1, second: false },
        ];
        let bytes = encode(&plain(2), &runs);
        assert_eq!(bytes[..2], [1, 8]);
        assert_eq!(bytes[HEADER_BYTES..], [1, 0, 0, 0, 2, 0, 0, 0, 1, 1, 1, 0, 255, 0, 0, 0]);
        assert_eq!(split(&bytes), (plain(2), Some(runs.to_vec())));
        assert_eq!(self::bytes(&runs, Geometry::default()), 3 * 65536);
    }

    #[test]
    fn other_headers_are_left_alone() {
        assert_eq!(split(&plain(3)), (plain(3), None));
        let marker = CopysetOp::Marker.encode(&[]);
        assert_eq!(split(&marker), (marker, None));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), placed: bool) {
            if placed && bytes.len() > 1 {
                bytes[1] = KIND_PLACED;
            }
            let (header, runs) = split(&Bytes::from(bytes));
            let len = runs.map_or(0, |runs| self::bytes(&runs, Geometry::default()));
            let _ = CopysetOp::decode(&header, len, Geometry::default(), &mut Vec::new());
        }
    }
}
