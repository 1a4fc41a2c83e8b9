//! Cuts a range of a volume into pieces that one request to one copyset can carry. Pure.

use curve_types::{BLOCK_BYTES, ChunkIndex, FRAME_PAYLOAD_BYTES_MAX, Geometry, VolumeOffset};

/// One request's worth of a range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// Which chunk.
    pub chunk: ChunkIndex,
    /// First byte within the chunk.
    pub offset: u32,
    /// Bytes.
    pub len: u32,
}

impl Piece {
    /// Offset and length of the whole blocks that the piece touches.
    pub fn whole_blocks(self) -> (u32, u32) {
        let block = BLOCK_BYTES as u32;
        let first = self.offset / block * block;
        (first, (self.offset + self.len).next_multiple_of(block) - first)
    }
}

/// The pieces of `offset..offset+len`, in order. None crosses a chunk or is longer than `piece_max` bytes.
///
/// Inner cuts fall on multiples of `piece_max` within the chunk, so that pieces after the first are aligned.
pub fn pieces(offset: u64, len: u64, piece_max: u32, geometry: Geometry) -> impl Iterator<Item = Piece> {
    assert!(piece_max.is_power_of_two() && piece_max <= geometry.chunk_bytes(), "pieces must tile a chunk");
    let end = offset + len;
    let mut at = offset;
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let position = VolumeOffset(at);
        let in_chunk = position.in_chunk(geometry).0;
        let to_cut = piece_max - in_chunk % piece_max;
        let piece_len = u64::from(to_cut).min(end - at) as u32;
        let piece = Piece { chunk: position.chunk(geometry), offset: in_chunk, len: piece_len };
        at += u64::from(piece_len);
        Some(piece)
    })
}

/// Pieces for requests that carry a payload.
pub fn payload_pieces(offset: u64, len: u64, geometry: Geometry) -> impl Iterator<Item = Piece> {
    pieces(offset, len, FRAME_PAYLOAD_BYTES_MAX as u32, geometry)
}

/// Pieces for requests without a payload: whole chunks.
pub fn chunk_pieces(offset: u64, len: u64, geometry: Geometry) -> impl Iterator<Item = Piece> {
    pieces(offset, len, geometry.chunk_bytes(), geometry)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn cuts_at_chunk_ends_and_at_the_frame_limit() {
        let g = Geometry::default();
        let chunk = u64::from(g.chunk_bytes());
        let got: Vec<_> = payload_pieces(chunk - 8192, 16384, g).collect();
        assert_eq!(
            got,
            [
                Piece { chunk: ChunkIndex(0), offset: g.chunk_bytes() - 8192, len: 8192 },
                Piece { chunk: ChunkIndex(1), offset: 0, len: 8192 },
            ]
        );
        let lens: Vec<_> = payload_pieces(4096, 2 << 20, g).map(|p| p.len).collect();
        assert_eq!(lens, [(1 << 20) - 4096, 1 << 20, 4096]);
        assert_eq!(payload_pieces(0, 0, g).count(), 0);
    }

    #[test]
    fn a_piece_knows_the_blocks_it_touches() {
        let piece = |offset, len| Piece { chunk: ChunkIndex(0), offset, len };
        assert_eq!(piece(4096, 8192).whole_blocks(), (4096, 8192));
        assert_eq!(piece(512, 4096).whole_blocks(), (0, 8192));
        assert_eq!(piece(4608, 512).whole_blocks(), (4096, 4096));
    }

    proptest! {
        #[test]
        fn pieces_tile_the_range(offset in 0u64..1 << 40, len in 0u64..200 << 20) {
            let g = Geometry::default();
            let mut at = offset;
            for piece in payload_pieces(offset, len, g) {
                prop_assert_eq!(piece.chunk.start(g).0 + u64::from(piece.offset), at);
                prop_assert!(piece.len > 0 && piece.len as usize <= FRAME_PAYLOAD_BYTES_MAX);
                prop_assert!(piece.offset + piece.len <= g.chunk_bytes());
                at += u64::from(piece.len);
            }
            prop_assert_eq!(at, offset + len);
        }
    }
}
