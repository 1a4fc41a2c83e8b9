//! Bytes that were written and are not yet in the store. Pure.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::buffers;

/// Small writes that follow each other are joined up to this size.
const JOINED_BYTES_MAX: usize = 128 << 10;

/// Pieces of a file by their offset; they never overlap.
pub(crate) type Pieces<V> = BTreeMap<u64, V>;

/// Pieces on their way to the store.
pub(crate) type Frozen = Pieces<Bytes>;

/// The byte behind the last piece; 0 without pieces.
pub(crate) fn end_of<V: AsRef<[u8]>>(pieces: &Pieces<V>) -> u64 {
    pieces.last_key_value().map_or(0, |(offset, piece)| offset + piece.as_ref().len() as u64)
}

/// Bytes of all pieces.
pub(crate) fn bytes_of<V: AsRef<[u8]>>(pieces: &Pieces<V>) -> u64 {
    pieces.values().map(|piece| piece.as_ref().len() as u64).sum()
}

/// The offset of the first piece that reaches into or beyond `from`.
fn first_at<V: AsRef<[u8]>>(pieces: &Pieces<V>, from: u64) -> u64 {
    match pieces.range(..=from).next_back() {
        Some((offset, piece)) if offset + piece.as_ref().len() as u64 > from => *offset,
        _ => from,
    }
}

/// Copies what the pieces have of `from .. from + out.len()` over `out`.
pub(crate) fn overlay<V: AsRef<[u8]>>(pieces: &Pieces<V>, from: u64, out: &mut [u8]) {
    let to = from + out.len() as u64;
    for (offset, piece) in pieces.range(first_at(pieces, from)..to) {
        overlay_one(*offset, piece.as_ref(), from, out);
    }
}

/// Copies what one piece has of `from .. from + out.len()` over `out`.
pub(crate) fn overlay_one(offset: u64, piece: &[u8], from: u64, out: &mut [u8]) {
    let (start, end) = (offset.max(from), (offset + piece.len() as u64).min(from + out.len() as u64));
    if start < end {
        let source = &piece[(start - offset) as usize..(end - offset) as usize];
        out[(start - from) as usize..(end - from) as usize].copy_from_slice(source);
    }
}

/// The parts of `from .. to` that no piece covers.
pub(crate) fn gaps<V: AsRef<[u8]>>(pieces: &Pieces<V>, from: u64, to: u64) -> Vec<(u64, u64)> {
    let mut gaps = Vec::new();
    let mut at = from;
    for (offset, piece) in pieces.range(first_at(pieces, from)..to) {
        if *offset > at {
            gaps.push((at, *offset));
        }
        at = at.max(offset + piece.as_ref().len() as u64);
    }
    if at < to {
        gaps.push((at, to));
    }
    gaps
}

/// Written bytes of one file. Later writes cover earlier ones in place, so a byte that is written a thousand times goes to
/// the store once, and memory is what is dirty, not what was written.
#[derive(Default, Debug)]
pub(crate) struct Dirty {
    pieces: Pieces<Vec<u8>>,
    bytes: u64,
}

impl Dirty {
    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// The pieces.
    pub fn pieces(&self) -> &Pieces<Vec<u8>> {
        &self.pieces
    }

    /// Writes. Gives by how many bytes it has grown.
    pub fn write(&mut self, offset: u64, data: Vec<u8>) -> u64 {
        let before = self.bytes;
        let to = offset + data.len() as u64;
        let holes = gaps(&self.pieces, offset, to);
        if holes.len() == 1 && holes[0] == (offset, to) {
            self.add(offset, data);
            return self.bytes - before;
        }
        for (at, piece) in self.pieces.range_mut(first_at(&self.pieces, offset)..to) {
            overlay_one(offset, &data, *at, piece);
        }
        for (from, to) in holes {
            self.add(from, data[(from - offset) as usize..(to - offset) as usize].to_vec());
        }
        self.bytes - before
    }

    /// Adds what no piece covers.
    fn add(&mut self, offset: u64, data: Vec<u8>) {
        if data.is_empty() {
            return;
        }
        self.bytes += data.len() as u64;
        if let Some((at, last)) = self.pieces.range_mut(..offset).next_back()
            && at + last.len() as u64 == offset
            && last.len() + data.len() <= JOINED_BYTES_MAX
        {
            last.extend_from_slice(&data);
            return;
        }
        self.pieces.insert(offset, data);
    }

    /// Drops what is in `from .. to`. Gives by how many bytes it has shrunk.
    pub fn cut(&mut self, from: u64, to: u64) -> u64 {
        let before = self.bytes;
        let first = first_at(&self.pieces, from);
        let offsets: Vec<u64> = self.pieces.range(first..to.max(first)).map(|(offset, _)| *offset).collect();
        for offset in offsets {
            let Some(mut piece) = self.pieces.remove(&offset) else { continue };
            self.bytes -= piece.len() as u64;
            let end = offset + piece.len() as u64;
            if end > to {
                let rest = piece.split_off((to - offset) as usize);
                self.bytes += rest.len() as u64;
                self.pieces.insert(to, rest);
            }
            if offset < from {
                piece.truncate((from - offset) as usize);
                self.bytes += piece.len() as u64;
                self.pieces.insert(offset, piece);
            }
        }
        before - self.bytes
    }

    /// Takes pieces from the front, about `limit` bytes of them.
    pub fn take(&mut self, limit: u64) -> Frozen {
        let mut taken = Frozen::new();
        let mut bytes = 0;
        while bytes < limit
            && let Some((offset, piece)) = self.pieces.pop_first()
        {
            bytes += piece.len() as u64;
            taken.insert(offset, buffers::freeze(piece));
        }
        self.bytes -= bytes;
        taken
    }

    /// Puts back what could not be stored, under what was written since. Gives how many bytes were covered meanwhile.
    pub fn put_back(&mut self, frozen: Frozen) -> u64 {
        let mut covered = 0;
        for (offset, piece) in frozen {
            let end = offset + piece.len() as u64;
            covered += piece.len() as u64;
            for (from, to) in gaps(&self.pieces, offset, end) {
                covered -= to - from;
                self.add(from, piece[(from - offset) as usize..(to - offset) as usize].to_vec());
            }
        }
        covered
    }
}

/// Cuts pieces into runs: each is one range of the file inside one chunk.
pub(crate) fn runs(pieces: &Frozen, chunk: u64) -> Vec<(u64, Vec<Bytes>)> {
    let mut runs: Vec<(u64, Vec<Bytes>)> = Vec::new();
    let mut end = u64::MAX;
    for (offset, piece) in pieces {
        let (mut at, mut rest) = (*offset, piece.clone());
        while !rest.is_empty() {
            let room = (chunk - at % chunk).min(rest.len() as u64) as usize;
            let part = rest.split_to(room);
            match runs.last_mut() {
                Some((_, run)) if end == at && !at.is_multiple_of(chunk) => run.push(part),
                _ => runs.push((at, vec![part])),
            }
            at += room as u64;
            end = at;
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BYTES: usize = 200;

    fn seen(dirty: &Dirty) -> Vec<u8> {
        let mut out = vec![0; BYTES];
        overlay(dirty.pieces(), 0, &mut out);
        out
    }

    proptest! {
        /// Against a plain array.
        #[test]
        fn pieces_are_as_an_array_of_bytes_says(
            steps in prop::collection::vec((0u8..4, 0..BYTES, 1..60usize, 1u8..=255), 1..60),
        ) {
            let (mut dirty, mut model) = (Dirty::default(), vec![None; BYTES]);
            for (what, from, len, byte) in steps {
                let to = (from + len).min(BYTES);
                let held = |model: &[Option<u8>]| model.iter().flatten().count() as u64;
                let before = held(&model);
                match what {
                    0 | 1 => {
                        let grown = dirty.write(from as u64, vec![byte; to - from]);
                        model[from..to].fill(Some(byte));
                        prop_assert_eq!(grown, held(&model) - before);
                    }
                    2 => {
                        let shrunk = dirty.cut(from as u64, to as u64);
                        model[from..to].fill(None);
                        prop_assert_eq!(shrunk, before - held(&model));
                    }
                    _ => {
                        let frozen = dirty.take(len as u64);
                        let mut below = vec![0; BYTES];
                        overlay(&frozen, 0, &mut below);
                        let taken = bytes_of(&frozen);
                        let grown = dirty.write(from as u64, vec![byte; to - from]);
                        let covered = dirty.put_back(frozen);
                        model[from..to].fill(Some(byte));
                        prop_assert_eq!(before + grown - covered, held(&model), "taken {}", taken);
                    }
                }
                prop_assert_eq!(dirty.bytes(), held(&model));
                prop_assert_eq!(dirty.bytes(), bytes_of(dirty.pieces()));
                prop_assert_eq!(seen(&dirty), model.iter().map(|byte| byte.unwrap_or(0)).collect::<Vec<_>>());
                let end = model.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
                prop_assert_eq!(end_of(dirty.pieces()), end as u64);
                let missing: u64 = gaps(dirty.pieces(), 0, BYTES as u64).iter().map(|(from, to)| to - from).sum();
                prop_assert_eq!(missing, BYTES as u64 - held(&model));
            }
        }
    }

    #[test]
    fn runs_end_at_gaps_and_chunks() {
        let piece = |len: usize| Bytes::from(vec![1; len]);
        let pieces = Frozen::from([(5, piece(5)), (10, piece(25)), (40, piece(2))]);
        let runs: Vec<(u64, Vec<usize>)> = runs(&pieces, 20)
            .into_iter()
            .map(|(offset, run)| (offset, run.iter().map(Bytes::len).collect()))
            .collect();
        assert_eq!(runs, [(5, vec![5, 10]), (20, vec![15]), (40, vec![2])]);
    }
}
