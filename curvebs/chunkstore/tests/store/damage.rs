//! Damage on a disk at rest: never wrong data, always a named error, and healing from a healthy replica.

use std::path::{Path, PathBuf};

use curve_chunkstore::{
    BlockRepair, ChunkStore, CopysetError, CopysetStore, HOLE, OpenError, ReadError, RecordError,
};
use curve_io::sim::{SimDisk, SimDiskConfig};
use curve_types::{ChunkKey, CopysetId};

use crate::support::{BLOCK, BLOCKS, Content, DIR, assert_content, config, key, open, read, run, write};

const ID: CopysetId = CopysetId(1);
const KEYS: [(u64, u32); 2] = [(1, 0), (1, 1)];

/// A synced store with two chunks, holes in both, and a record.
async fn healthy(seed: u64) -> (SimDisk, Content) {
    let disk = SimDisk::new(SimDiskConfig { seed, ..SimDiskConfig::default() });
    let store = open(&disk).await;
    let copyset = store.create_copyset(ID).await.unwrap();
    let mut content = Content::new();
    for (n, (volume, index)) in KEYS.into_iter().enumerate() {
        let first = 3 + n as u32;
        let seeds: Vec<_> = (0..9).map(|block| block * 1000 + n as u64 + 1).collect();
        write(&copyset, key(volume, index), first, &seeds, n as u64 + 1);
        content.extend(
            seeds.iter().enumerate().map(|(n, seed)| ((key(volume, index), first + n as u32), *seed)),
        );
        copyset.sync().await.unwrap();
    }
    write(&copyset, key(1, 0), 20, &[0], 3);
    content.insert((key(1, 0), 20), 0);
    copyset.sync().await.unwrap();
    copyset.save_record("applied", b"3").await.unwrap();
    disk.detach();
    (disk, content)
}

/// Opens and reads everything. True if some damage was noticed; panics on wrong data.
async fn damage_is_noticed(disk: &SimDisk, content: &Content) -> bool {
    let store = match ChunkStore::open(disk.mount(), Path::new(DIR), config()).await {
        Ok(store) => store,
        Err(OpenError::Damaged(_)) => return true,
        Err(other) => panic!("{other}"),
    };
    let copyset = match store.copyset(ID) {
        Ok(copyset) => copyset,
        Err(CopysetError::Damaged { .. }) => return true,
        Err(other) => panic!("{other}"),
    };
    let mut noticed = match copyset.load_record("applied").await {
        Ok(record) => {
            assert_eq!(record.as_deref(), Some(&b"3"[..]));
            false
        }
        Err(RecordError::Damaged { .. }) => true,
        Err(other) => panic!("{other}"),
    };
    for (volume, index) in KEYS {
        match copyset.read(key(volume, index), 0, BLOCKS * BLOCK).await {
            Ok(found) => assert_content(&found, key(volume, index), content),
            Err(ReadError::Corrupt { .. }) => noticed = true,
            Err(other) => panic!("{other}"),
        }
    }
    noticed || copyset.stats().salvaged_chunks > 0
}

fn file_named(disk: &SimDisk, part: &str) -> (PathBuf, u64) {
    let files = disk.files();
    files.into_iter().find(|(path, _)| path.to_string_lossy().contains(part)).unwrap()
}

#[test]
fn any_flipped_byte_of_any_file_is_noticed_or_harmless() {
    run(async {
        let (disk, content) = healthy(1).await;
        assert!(!damage_is_noticed(&disk, &content).await);
        disk.detach();
        for (path, len) in disk.files() {
            let chunk = path.to_string_lossy().ends_with(".chunk");
            let pool = path.starts_with(Path::new(DIR).join("pool"));
            // Data bytes are many and all alike.
            let step = |at: u64| if chunk && at >= 8192 { 509 } else { 1 };
            let mut at = 0;
            while at < len && !pool {
                disk.flip_bit(&path, at, (at % 8) as u8).unwrap();
                let noticed = damage_is_noticed(&disk, &content).await;
                let block = at.saturating_sub(8192) / 4096;
                let hole = !content.contains_key(&(
                    key(1, u32::from(path.to_string_lossy().contains("-00000001-"))),
                    block as u32,
                ));
                assert!(noticed || (chunk && at >= 8192 && hole), "{} byte {at}", path.display());
                disk.detach();
                disk.flip_bit(&path, at, (at % 8) as u8).unwrap();
                at += step(at);
            }
        }
        assert!(!damage_is_noticed(&disk, &content).await);
    });
}

/// Repairs all bad blocks of a chunk from a healthy replica, as the chunkserver would.
async fn heal(sick: &CopysetStore, well: &CopysetStore, key: ChunkKey) -> usize {
    let Err(ReadError::Corrupt { bad, .. }) = sick.read(key, 0, BLOCKS * BLOCK).await else { return 0 };
    let mut repairs = Vec::new();
    for bad in &bad {
        let found = well.read(key, bad.block * BLOCK, BLOCK).await.unwrap();
        let crc = found.crcs[0];
        let data = if crc == HOLE { Default::default() } else { found.parts.concat().into() };
        repairs.push(BlockRepair { block: bad.block, reported: bad.reported, crc, data });
    }
    sick.repair(key, &repairs).unwrap()
}

async fn heals(flips: &[(&str, u64)]) {
    let (disk, content) = healthy(2).await;
    let (well_disk, _) = healthy(3).await;
    for (part, at) in flips {
        disk.flip_bit(&file_named(&disk, part).0, *at, 3).unwrap();
    }
    let (sick_store, well_store) = (open(&disk).await, open(&well_disk).await);
    let (sick, well) = (sick_store.copyset(ID).unwrap(), well_store.copyset(ID).unwrap());
    let damaged = key(1, 0);
    let healed = heal(&sick, &well, damaged).await;
    assert!(healed > 0, "{flips:?}");
    assert_eq!(sick.stats().repaired_blocks, healed as u64);
    assert_content(&read(&sick, damaged).await, damaged, &content);
    sick.sync().await.unwrap();
    disk.crash();
    let sick = open(&disk).await.copyset(ID).unwrap();
    assert_content(&read(&sick, damaged).await, damaged, &content);
    assert_eq!(sick.digest(damaged).await.unwrap().hash, well.digest(damaged).await.unwrap().hash);
    assert_eq!(sick.stats().salvaged_chunks, 0);
}

#[test]
fn data_table_and_header_heal_from_a_replica() {
    run(async {
        heals(&[("-00000000-", 8192 + 4 * 4096 + 17)]).await;
        heals(&[("-00000000-", 4096 + 4 * 4)]).await;
        heals(&[("-00000000-", 17)]).await;
        heals(&[("-00000000-", 1030), ("-00000000-", 4096 + 4 * 5), ("-00000000-", 8192 + 6 * 4096)]).await;
    });
}

#[test]
fn a_lost_chunk_file_heals_from_a_replica() {
    run(async {
        let (disk, content) = healthy(4).await;
        let (well_disk, _) = healthy(5).await;
        let path = file_named(&disk, "-00000000-").0;
        disk.mount().remove_file(&path).unwrap();
        let (sick_store, well_store) = (open(&disk).await, open(&well_disk).await);
        let (sick, well) = (sick_store.copyset(ID).unwrap(), well_store.copyset(ID).unwrap());
        assert_eq!(heal(&sick, &well, key(1, 0)).await, BLOCKS as usize);
        assert_content(&read(&sick, key(1, 0)).await, key(1, 0), &content);
    });
}

#[test]
fn salvage_keeps_what_the_data_confirm() {
    run(async {
        let (disk, _) = healthy(6).await;
        disk.flip_bit(&file_named(&disk, "-00000000-").0, 20, 0).unwrap();
        let store = open(&disk).await;
        let copyset = store.copyset(ID).unwrap();
        assert_eq!(copyset.read(key(1, 0), 3 * BLOCK, 9 * BLOCK).await.unwrap().crcs.len(), 9);
        let Err(ReadError::Corrupt { bad, .. }) = copyset.read(key(1, 0), 0, 4 * BLOCK).await else {
            panic!()
        };
        assert_eq!(bad.iter().map(|bad| bad.block).collect::<Vec<_>>(), [0, 1, 2], "holes are not believed");
    });
}

#[test]
fn a_repair_of_a_block_that_changed_since_is_skipped() {
    run(async {
        let (disk, _) = healthy(7).await;
        disk.flip_bit(&file_named(&disk, "-00000000-").0, 8192 + 4 * 4096, 0).unwrap();
        let store = open(&disk).await;
        let copyset = store.copyset(ID).unwrap();
        let Err(ReadError::Corrupt { bad, .. }) = copyset.read(key(1, 0), 4 * BLOCK, BLOCK).await else {
            panic!()
        };
        write(&copyset, key(1, 0), 4, &[77], 4);
        let old = crate::support::block(1001);
        let crc = curve_chunkstore::block_crc(&old);
        let repair = BlockRepair { block: 4, reported: bad[0].reported, crc, data: old };
        assert_eq!(copyset.repair(key(1, 0), &[repair]).unwrap(), 0);
        assert_eq!(
            copyset.read(key(1, 0), 4 * BLOCK, BLOCK).await.unwrap().parts[0],
            crate::support::block(77)
        );
    });
}

#[test]
fn scrub_finds_damage_and_goes_on() {
    run(async {
        let (disk, _) = healthy(8).await;
        disk.flip_bit(&file_named(&disk, "-00000000-").0, 8192 + 5 * 4096, 0).unwrap();
        disk.flip_bit(&file_named(&disk, "-00000001-").0, 8192 + 6 * 4096, 0).unwrap();
        let copyset = open(&disk).await.copyset(ID).unwrap();
        let (mut cursor, mut bad, mut bytes) = (None, Vec::new(), 0);
        loop {
            let report = copyset.scrub_step(cursor, 8192).await.unwrap();
            bytes += report.bytes;
            bad.extend(report.bad);
            cursor = report.next;
            if cursor.is_none() {
                break;
            }
        }
        let found: Vec<_> = bad.iter().map(|(key, bad)| (key.index, bad[0].block, bad.len())).collect();
        assert_eq!(found, [(0, 5, 1), (1, 6, 1)]);
        assert_eq!(bytes, 19 * 4096);
    });
}

#[test]
fn a_damaged_copyset_can_be_removed_and_made_anew() {
    run(async {
        let (disk, _) = healthy(9).await;
        disk.flip_bit(&file_named(&disk, "manifest").0, 5, 0).unwrap();
        let store = open(&disk).await;
        assert_eq!(store.damaged_copysets().len(), 1);
        assert!(matches!(store.create_copyset(ID).await, Err(CopysetError::Damaged { .. })));
        store.remove_copyset(ID).await.unwrap();
        let copyset = store.create_copyset(ID).await.unwrap();
        assert_content(&read(&copyset, key(1, 0)).await, key(1, 0), &Content::new());
    });
}

#[test]
fn another_geometry_and_a_missing_format_file_are_refused() {
    run(async {
        let (disk, _) = healthy(10).await;
        let mut other = config();
        other.geometry = curve_types::Geometry::new(4096, 1 << 20, 1 << 20).unwrap();
        let opened = ChunkStore::open(disk.mount(), Path::new(DIR), other).await;
        assert!(matches!(opened, Err(OpenError::OtherGeometry { .. })));
        disk.mount().remove_file(&Path::new(DIR).join("format")).unwrap();
        let opened = ChunkStore::open(disk.mount(), Path::new(DIR), config()).await;
        assert!(matches!(opened, Err(OpenError::Damaged(_))));
    });
}
