//! Torn tails and flipped bytes: never wrong data, and what was durable is never taken for a torn tail.

mod support;

use std::io::IoSlice;
use std::path::{Path, PathBuf};

use curve_io::sim::{SimDisk, SimDiskConfig};
use curve_io::{Disk, OpenMode};
use curve_log::format::{Kind, RECORDS_START, Record, SegmentHeader};
use curve_log::{Entry, Log, LogError, Records, read_log};
use curve_types::GroupId;
use support::{append, config, dir, entry, open, read_all};

const A: GroupId = GroupId(1);

/// A record's place, for choosing what to damage.
#[derive(Clone, Debug)]
struct Spot {
    path: PathBuf,
    sequence: u64,
    offset: u32,
    len: u32,
    kind: Kind,
    index: u64,
    batch_start: u32,
}

fn spots(disk: &dyn Disk) -> Vec<Spot> {
    let mut spots = Vec::new();
    let visit = |path: &Path, header: &SegmentHeader, offset: u32, record: &Record<'_>| {
        spots.push(Spot {
            path: path.to_path_buf(),
            sequence: header.sequence,
            offset,
            len: record.header.record_len() as u32,
            kind: record.header.kind,
            index: record.header.index,
            batch_start: record.header.batch_start,
        });
    };
    read_log(disk, dir(), visit).expect("the log can be read");
    spots
}

fn entries(range: std::ops::RangeInclusive<u64>, len: usize) -> Vec<Entry> {
    range.map(|n| entry(n, 1, len)).collect()
}

/// Three acknowledged batches of two entries each; the process dies without closing the log.
async fn three_batches() -> SimDisk {
    let disk = SimDisk::new(SimDiskConfig::default());
    let (log, _) = open(&disk).await;
    for first in [1, 3, 5] {
        append(&log.group(A), entries(first..=first + 1, 600)).await.unwrap();
    }
    disk.detach();
    disk
}

fn overwrite(disk: &SimDisk, path: &Path, offset: u64, bytes: &[u8]) {
    let file = disk.mount().open(path, OpenMode::Existing).unwrap();
    file.write_at(offset, &[IoSlice::new(bytes)]).unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_torn_is_cut_and_what_was_durable_is_corrupt() {
    #[derive(Debug, PartialEq)]
    enum Outcome {
        /// Opens with entries up to this one.
        Cut(u64),
        Corrupt,
    }
    // Which entry's record is zeroed from which byte on, and what must follow. The last batch is 5 and 6.
    let table = [
        (6, 0, Outcome::Cut(5)),
        (6, 32, Outcome::Cut(5)),
        (6, 512, Outcome::Cut(5)),
        (5, 0, Outcome::Cut(4)),
        (5, 600, Outcome::Cut(4)),
        (4, 0, Outcome::Corrupt),
        (4, 100, Outcome::Corrupt),
        (1, 0, Outcome::Corrupt),
    ];
    for (index, from, expected) in table {
        let disk = three_batches().await;
        let spots = spots(&*disk.mount());
        let spot = spots.iter().find(|spot| spot.kind == Kind::Append && spot.index == index).unwrap();
        let zeros = vec![0; (spot.len - from) as usize];
        overwrite(&disk, &spot.path, u64::from(spot.offset + from), &zeros);
        let outcome = match Log::open(disk.mount(), dir(), config()).await {
            Ok((log, recovery)) => {
                let found = read_all(&log.group(A)).await;
                assert_eq!(found, entries(1..=found.len() as u64, 600));
                assert_eq!(recovery.truncated_tail_bytes > 0, from > 0 || index == 5, "{recovery:?}");
                Outcome::Cut(found.len() as u64)
            }
            Err(LogError::Corrupt { file, offset, .. }) => {
                assert_eq!((file, offset), (spot.path.display().to_string(), u64::from(spot.offset)));
                Outcome::Corrupt
            }
            Err(error) => panic!("{error}"),
        };
        assert_eq!(outcome, expected, "entry {index} from byte {from}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_lies_behind_a_cut_does_not_come_back() {
    let disk = three_batches().await;
    let spots = spots(&*disk.mount());
    let spot = spots.iter().find(|spot| spot.kind == Kind::Append && spot.index == 5).unwrap();
    // Entry 5 is torn; 6, of the same batch, is whole and must never be seen again.
    overwrite(&disk, &spot.path, u64::from(spot.offset) + 100, &[0; 8]);
    for _ in 0..3 {
        let (log, _) = open(&disk).await;
        assert_eq!(read_all(&log.group(A)).await, entries(1..=4, 600));
        disk.detach();
    }
    let (log, _) = open(&disk).await;
    // As long as the torn ones, so that the old record of entry 6 would lie right behind if it were believed.
    append(&log.group(A), vec![entry(5, 9, 600)]).await.unwrap();
    disk.detach();
    let (log, _) = open(&disk).await;
    let found = read_all(&log.group(A)).await;
    assert_eq!((found.len(), &found[4]), (5, &entry(5, 9, 600)));
}

/// Several segments, two groups, all kinds of records; closed, so that every record is known to be durable.
async fn rich_log() -> (SimDisk, Vec<Entry>) {
    let disk = SimDisk::new(SimDiskConfig::default());
    let (log, _) = open(&disk).await;
    let (a, b) = (log.group(A), log.group(GroupId(2)));
    for n in 1..=24 {
        append(&a, vec![entry(n, 1, 5000)]).await.unwrap();
        append(&b, vec![entry(n, 1, 40)]).await.unwrap();
        a.save_vote(format!("v{n}").into()).await.unwrap();
        b.purge(n - 1, "p".into());
    }
    a.truncate_after(Some(22)).await.unwrap();
    append(&a, vec![entry(23, 2, 100)]).await.unwrap();
    let expected = read_all(&a).await;
    log.close().await;
    disk.detach();
    (disk, expected)
}

#[tokio::test(start_paused = true)]
async fn no_flipped_byte_is_ever_believed() {
    let (disk, expected) = rich_log().await;
    let spots = spots(&*disk.mount());
    assert!(spots.iter().map(|spot| spot.sequence).max().unwrap() >= 3);
    let last = spots.last().unwrap().clone();
    assert_eq!((last.kind, last.offset), (Kind::Settled, last.batch_start));
    let mut offsets: Vec<(PathBuf, u64, bool)> = Vec::new();
    for spot in &spots {
        let is_last = (spot.sequence, spot.offset) == (last.sequence, last.offset);
        // All of the header and the meta; of long payloads every 97th byte.
        let step = |n: &u32| *n < 64 || n.is_multiple_of(97);
        let content = spot.len - 7;
        offsets.extend(
            (0..content).filter(step).map(|n| (spot.path.clone(), u64::from(spot.offset + n), is_last)),
        );
    }
    for (path, _) in disk.files() {
        offsets.extend((0..512).map(|n| (path.clone(), n, false)));
    }
    for (n, (path, offset, harmless)) in offsets.into_iter().enumerate() {
        let bit = (n % 8) as u8;
        let copy = rebuilt(&disk);
        copy.flip_bit(&path, offset, bit).unwrap();
        match Log::open(copy.mount(), dir(), config()).await {
            Err(LogError::Corrupt { file, offset: at, .. }) => {
                assert!(
                    !harmless && file == path.display().to_string() && at <= offset,
                    "{file} {at} {offset}"
                );
            }
            Err(error) => panic!("{} at {offset}: {error}", path.display()),
            Ok((log, _)) => {
                let known = padding(&spots, &path, offset) || harmless;
                assert!(known, "a flip in {} at {offset} was not noticed", path.display());
                assert_eq!(read_all(&log.group(A)).await, expected);
            }
        }
    }
}

/// Whether the byte only fills a record up to its alignment; nobody reads it.
fn padding(spots: &[Spot], path: &Path, offset: u64) -> bool {
    spots.iter().any(|spot| {
        let end = u64::from(spot.offset + spot.len);
        spot.path == path && offset < end && offset + 7 >= end
    })
}

/// A disk with the same files.
fn rebuilt(disk: &SimDisk) -> SimDisk {
    let copy = SimDisk::new(SimDiskConfig::default());
    let (from, to) = (disk.mount(), copy.mount());
    to.create_dir_all(dir()).unwrap();
    for (path, len) in disk.files() {
        let mut bytes = vec![0; len as usize];
        from.open(&path, OpenMode::Existing).unwrap().read_at(0, &mut bytes).unwrap();
        to.open(&path, OpenMode::CreateNew).unwrap().write_at(0, &[IoSlice::new(&bytes)]).unwrap();
    }
    copy
}

#[tokio::test(start_paused = true)]
async fn a_byte_that_rots_while_the_log_runs_is_an_error_of_the_read() {
    let disk = SimDisk::new(SimDiskConfig::default());
    let (log, _) = open(&disk).await;
    let a = log.group(A);
    for n in 1..=10 {
        append(&a, vec![entry(n, 1, 4000)]).await.unwrap();
    }
    let spots = spots(&*disk.mount());
    let spot = spots.iter().find(|spot| spot.kind == Kind::Append && spot.index == 2).unwrap();
    disk.flip_bit(&spot.path, u64::from(spot.offset) + 2000, 3).unwrap();
    let error = a.read(1..11, usize::MAX).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
    assert!(error.to_string().contains(&format!("corrupt at offset {}", spot.offset)), "{error}");
    assert_eq!(a.read(1..2, usize::MAX).await.unwrap().len(), 1);
    assert!(!log.failed());
}

#[tokio::test(start_paused = true)]
async fn missing_segments_and_other_versions_are_named() {
    let (disk, _) = rich_log().await;
    let spots = spots(&*disk.mount());
    let middle = spots.iter().find(|spot| spot.sequence == 2).unwrap();

    let copy = rebuilt(&disk);
    copy.mount().remove_file(&middle.path).unwrap();
    let error = Log::open(copy.mount(), dir(), config()).await.err().unwrap();
    assert!(matches!(error, LogError::MissingSegment { sequence: 2, .. }), "{error}");

    let copy = rebuilt(&disk);
    let file = copy.mount().open(&middle.path, OpenMode::Existing).unwrap();
    file.set_len(40_000).unwrap();
    let error = Log::open(copy.mount(), dir(), config()).await.err().unwrap();
    assert!(matches!(error, LogError::Corrupt { offset: 40_000, .. }), "{error}");

    let copy = rebuilt(&disk);
    let mut sector = [0; 512];
    let file = copy.mount().open(&middle.path, OpenMode::Existing).unwrap();
    file.read_at(0, &mut sector).unwrap();
    sector[8] = 2;
    let crc = {
        let mut crc = crc32fast::Hasher::new();
        crc.update(&sector[..12]);
        crc.update(&sector[16..]);
        crc.finalize()
    };
    sector[12..16].copy_from_slice(&crc.to_le_bytes());
    file.write_at(0, &[IoSlice::new(&sector)]).unwrap();
    let error = Log::open(copy.mount(), dir(), config()).await.err().unwrap();
    assert!(matches!(error, LogError::Version { found: 2, known: 1, .. }), "{error}");

    let mut wrong = config();
    wrong.segment_bytes = 100_000;
    let error = Log::open(disk.mount(), dir(), wrong).await.err().unwrap();
    assert!(matches!(error, LogError::Config(_)), "{error}");
}

#[tokio::test(start_paused = true)]
async fn tools_read_the_records_of_one_segment() {
    let disk = three_batches().await;
    let (path, len) = disk.files().into_iter().next().unwrap();
    let mut bytes = vec![0; len as usize];
    disk.mount().open(&path, OpenMode::Existing).unwrap().read_at(0, &mut bytes).unwrap();
    let header = SegmentHeader::decode(&bytes).unwrap();
    let mut records = Records::new(&bytes, &header);
    let kinds: Vec<(u64, Kind)> =
        records.by_ref().map(|(_, record)| (record.header.index, record.header.kind)).collect();
    assert_eq!(kinds, (1..=6).map(|n| (n, Kind::Append)).collect::<Vec<_>>());
    assert!(records.offset() > RECORDS_START && records.end().is_some());
}
