//! From the bytes of a header and table to a chunk in memory, and what to do when they are damaged.

use std::io;
use std::sync::Arc;

use curve_io::File;
use curve_types::ChunkKey;
use tokio::time::Instant;

use super::{CopysetStore, State};
use crate::checksum::{HOLE, block_crc};
use crate::chunk::{Chunk, Tables};
use crate::format::chunk::{ChunkHeader, ChunkIdentity, decode, decode_page, decode_torn};
use crate::format::crc_of;
use crate::format::manifest::ChunkEntry;
use crate::layout::{BLOCK, ENTRIES_PER_PAGE, Layout};
use crate::planes::{Plane, Planes};

/// A checksum for a block whose true checksum is not known: one that its present bytes do not have.
fn poison(present: u32) -> u32 {
    match !present {
        HOLE => 1,
        crc => crc,
    }
}

/// What the head of a chunk file says.
#[derive(Debug, PartialEq, Eq)]
struct Decoded {
    tables: Tables,
    /// Pages of the table that cannot be trusted, with the cause.
    suspect: Vec<usize>,
    cause: String,
    /// Whether data may confirm entries of suspect pages. Not if the file as a whole is another chunk's or an old one.
    confirmable: bool,
    /// Whether it is not known which plane an extent's data are in.
    planeless: bool,
}

/// Checks that an intact header is the one that the manifest expects.
fn check_header(
    header: &ChunkHeader,
    identity: ChunkIdentity,
    entry: ChunkEntry,
    torn: bool,
) -> Result<(), String> {
    if header.identity != identity {
        return Err(format!("header is that of {:?}", header.identity));
    }
    if !torn && header.generation != entry.generation {
        return Err(format!("header is of sync {}, expected {}", header.generation, entry.generation));
    }
    Ok(())
}

/// Decodes header and table. `torn`: an interrupted sync may have half written them.
fn decode_head(
    layout: &Layout,
    head: &[u8],
    identity: ChunkIdentity,
    entry: ChunkEntry,
    torn: bool,
) -> Decoded {
    let header = if torn { decode_torn(head, layout) } else { decode(head, layout) };
    let table = head.get(BLOCK..).unwrap_or_default();
    let mut crcs: Vec<u32> = decode_page(table).take(layout.blocks).collect();
    crcs.resize(layout.blocks, HOLE);
    let lost = |cause, confirmable| {
        let tables = Tables::loaded(unknown_header(layout, identity, entry), crcs.clone().into());
        Decoded { tables, suspect: (0..layout.pages).collect(), cause, confirmable, planeless: true }
    };
    let mut header = match header {
        Err(error) => return lost(format!("header: {error}"), true),
        Ok(header) => header,
    };
    if let Err(cause) = check_header(&header, identity, entry, torn) {
        return lost(cause, false);
    }
    let intact = |page: &usize| {
        let bytes = table.get(page * BLOCK..(page + 1) * BLOCK);
        bytes.is_some_and(|bytes| torn || crc_of(&[bytes]) == header.page_crcs[*page])
    };
    let suspect: Vec<_> = (0..layout.pages).filter(|page| !intact(page)).collect();
    header.last_changed = header.last_changed.max(entry.last_changed);
    let tables = Tables::loaded(header, crcs.into());
    Decoded { tables, suspect, cause: "checksum table".into(), confirmable: true, planeless: false }
}

/// A header for a chunk whose own is lost: everything counts as changed when the manifest last knew of a change.
fn unknown_header(layout: &Layout, identity: ChunkIdentity, entry: ChunkEntry) -> ChunkHeader {
    ChunkHeader {
        identity,
        generation: entry.generation,
        last_changed: entry.last_changed,
        punched: true,
        page_crcs: vec![0; layout.pages].into(),
        extents: vec![entry.last_changed; layout.extents].into(),
        planes: Planes::default(),
    }
}

/// Finds out in which plane the data of each extent are, from their checksums. Blocking, as `salvage_page`.
fn guess_planes(layout: &Layout, file: &dyn File, tables: &mut Tables) {
    let mut block_bytes = [0; BLOCK];
    let mut confirmed = |plane, extent| {
        let confirms = |block: &usize| {
            let read = file.read_at(layout.block_in(plane, *block), &mut block_bytes);
            matches!(read, Ok(BLOCK)) && block_crc(&block_bytes) == tables.crcs[*block]
        };
        layout.blocks_of(&(extent..extent + 1)).filter(confirms).count()
    };
    let mut planes = Planes::default();
    for extent in 0..layout.extents {
        if confirmed(Plane::Second, extent) > confirmed(Plane::First, extent) {
            planes.set(extent..extent + 1, Plane::Second);
        }
    }
    tables.planes = planes;
}

/// Keeps the checksums of a suspect page that their data confirm, if they may, and poisons the others. Reads up to 4 MiB,
/// blocking: it happens only to damaged chunks.
fn salvage_page(layout: &Layout, file: &dyn File, tables: &mut Tables, page: usize, confirmable: bool) {
    let mut block_bytes = [0; BLOCK];
    for block in page * ENTRIES_PER_PAGE..layout.blocks.min((page + 1) * ENTRIES_PER_PAGE) {
        let present = match file.read_at(tables.block_at(layout, block), &mut block_bytes) {
            Ok(BLOCK) => block_crc(&block_bytes),
            _ => HOLE,
        };
        if !confirmable || tables.crcs[block] == HOLE || tables.crcs[block] != present {
            tables.set(block, &[poison(present)]);
        }
    }
}

impl CopysetStore {
    /// Takes a chunk into memory from the head of its file; no file means that it is lost.
    pub(super) fn install(
        &self,
        state: &mut State,
        key: ChunkKey,
        entry: ChunkEntry,
        file: Option<Arc<dyn File>>,
        head: &[u8],
    ) -> io::Result<()> {
        let layout = self.layout();
        let torn = state.manifest.unclean.contains(&key);
        let Some(file) = file else { return self.replace_lost(state, key, entry) };
        let Decoded { mut tables, suspect, cause, confirmable, planeless } =
            decode_head(layout, head, self.identity(key, entry.birth), entry, torn);
        if !suspect.is_empty() {
            tracing::warn!(copyset = %self.id, chunk = %key, "chunk is damaged ({cause}); keeping what its data confirm");
            if planeless && file.len()? > layout.file_bytes {
                guess_planes(layout, &*file, &mut tables);
            }
            suspect.iter().for_each(|page| salvage_page(layout, &*file, &mut tables, *page, confirmable));
            state.salvaged_chunks += 1;
        }
        let rewrite = torn || !suspect.is_empty();
        if rewrite {
            tables.dirty_all_pages();
        }
        let mut chunk = Chunk::new(file, entry.birth, tables);
        chunk.spare = (chunk.file.len()? > layout.file_bytes).then(Instant::now);
        self.insert(state, key, chunk);
        if rewrite {
            state.mark_dirty(key);
        }
        Ok(())
    }

    /// Stands in for a file that is gone: every block is bad until it is written or repaired.
    fn replace_lost(&self, state: &mut State, key: ChunkKey, entry: ChunkEntry) -> io::Result<()> {
        let layout = self.layout();
        tracing::warn!(copyset = %self.id, chunk = %key, "chunk file is missing");
        let (file, _) = self.take_file(state, key, entry.birth)?;
        file.punch(0, layout.file_bytes)?;
        let mut tables = Tables::empty(layout, entry.last_changed, true);
        tables.set(0, &vec![poison(block_crc(&[0; BLOCK])); layout.blocks]);
        state.salvaged_chunks += 1;
        self.insert(state, key, Chunk::new(file, entry.birth, tables));
        state.mark_dirty(key);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use curve_types::{CopysetId, Geometry};
    use proptest::prelude::{any, prop, proptest};

    use super::*;
    use crate::format::manifest::tests::key;

    #[test]
    fn poison_is_never_a_hole_and_never_what_is_there() {
        for crc in [0, 1, 2, u32::MAX, u32::MAX - 1] {
            assert!(poison(crc) != HOLE && poison(crc) != crc);
        }
    }

    #[test]
    fn headers_of_other_chunks_and_other_syncs_are_not_believed() {
        let layout = Layout::new(Geometry::new(4096, 64 << 10, 64 << 10).unwrap()).unwrap();
        let identity = ChunkIdentity { key: key(1, 2), copyset: CopysetId(3), birth: 4 };
        let entry = ChunkEntry { birth: 4, generation: 5, last_changed: 6 };
        let page = [7; BLOCK];
        let mut header = unknown_header(&layout, identity, entry);
        header.page_crcs = [crc_of(&[&page])].into();
        let head = [crate::format::chunk::encode(&header, &layout), page].concat();
        let decode = |identity, entry, torn| {
            let decoded = decode_head(&layout, &head, identity, entry, torn);
            (decoded.suspect.is_empty(), decoded.confirmable)
        };
        assert_eq!(decode(identity, entry, false), (true, true));
        assert_eq!(decode(ChunkIdentity { birth: 9, ..identity }, entry, false), (false, false));
        assert_eq!(decode(identity, ChunkEntry { generation: 9, ..entry }, false), (false, false));
        assert_eq!(decode(identity, ChunkEntry { generation: 9, ..entry }, true), (true, true));
        let mut flipped = head.clone();
        flipped[4096] ^= 1;
        let decoded = decode_head(&layout, &flipped, identity, entry, false);
        assert_eq!((decoded.suspect, decoded.confirmable), (vec![0], true));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(head in prop::collection::vec(any::<u8>(), 0..9000), torn in any::<bool>()) {
            let layout = Layout::new(Geometry::new(4096, 64 << 10, 64 << 10).unwrap()).unwrap();
            let identity = ChunkIdentity { key: key(1, 2), copyset: CopysetId(3), birth: 4 };
            let entry = ChunkEntry { birth: 4, generation: 5, last_changed: 6 };
            let decoded = decode_head(&layout, &head, identity, entry, torn);
            assert_eq!(decoded.suspect, [0], "random bytes are no chunk");
        }
    }
}
