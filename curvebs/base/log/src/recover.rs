//! Reads a log at start: which segments count, what they say, and where the next record goes.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use bytes::Bytes;
use curve_io::{Disk, OpenMode};
use curve_types::GroupId;

use crate::batch::Place;
use crate::config::Recovery;
use crate::error::LogError;
use crate::format::{
    FORMAT_VERSION, GroupRecord, HeaderError, Kind, Record, SEGMENT_HEADER_BYTES, SegmentHeader,
};
use crate::index::GroupIndex;
use crate::pool::{Segment, segment_number};
use crate::scan::{Records, Tail, judge_tail};

/// Where the next record goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TailPosition {
    pub(crate) sequence: u64,
    pub(crate) offset: u32,
}

/// All that a log's files say.
pub(crate) struct Recovered {
    pub(crate) groups: BTreeMap<GroupId, GroupIndex>,
    pub(crate) live: BTreeMap<u64, Segment>,
    pub(crate) free: Vec<Segment>,
    /// `None` when there is no segment in use yet.
    pub(crate) tail: Option<TailPosition>,
    /// The highest incarnation seen.
    pub(crate) incarnation: u32,
    /// The oldest sequence that is needed.
    pub(crate) floor: u64,
    pub(crate) next_number: u64,
    pub(crate) summary: Recovery,
}

pub(crate) fn io_error(operation: &'static str, path: &Path, source: io::Error) -> LogError {
    LogError::Io { operation, file: path.display().to_string(), source }
}

fn corrupt(path: &Path, offset: u64, reason: impl Into<String>) -> LogError {
    LogError::Corrupt { file: path.display().to_string(), offset, reason: reason.into() }
}

/// Reads a log.
pub(crate) fn recover(disk: &dyn Disk, dir: &Path) -> Result<Recovered, LogError> {
    let found = find_segments(disk, dir, HalfMade::Remove)?;
    let mut recovered = Recovered {
        groups: BTreeMap::new(),
        live: BTreeMap::new(),
        free: found.unused,
        tail: None,
        incarnation: 0,
        floor: 1,
        next_number: found.next_number,
        summary: Recovery::default(),
    };
    let mut used = found.used;
    if let Some((newest, _)) = used.last_key_value() {
        let newest = *newest;
        recovered.floor = read_floor(&used[&newest])?;
        let needed = used.split_off(&recovered.floor);
        recovered.free.extend(used.into_values().map(|(_, segment)| segment));
        if let Some(sequence) = (recovered.floor..=newest).find(|sequence| !needed.contains_key(sequence)) {
            return Err(LogError::MissingSegment { dir: dir.display().to_string(), sequence });
        }
        replay_all(&mut recovered, needed)?;
    }
    check_whole(&recovered, dir)?;
    recovered.groups.retain(|_, index| !index.removed);
    recovered.summary.groups = recovered.groups.keys().copied().collect();
    recovered.summary.entries = recovered.groups.values().map(GroupIndex::entries).sum();
    recovered.summary.segments = recovered.live.len();
    Ok(recovered)
}

type Headed = (SegmentHeader, Segment);

struct FoundSegments {
    used: BTreeMap<u64, Headed>,
    unused: Vec<Segment>,
    next_number: u64,
}

/// What to do with segments that a crash left half made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum HalfMade {
    Remove,
    Keep,
}

/// Reads the headers of all files.
fn find_segments(disk: &dyn Disk, dir: &Path, half_made: HalfMade) -> Result<FoundSegments, LogError> {
    let mut found = FoundSegments { used: BTreeMap::new(), unused: Vec::new(), next_number: 1 };
    for entry in disk.list(dir).map_err(|error| io_error("list", dir, error))? {
        let path = dir.join(&entry.name);
        if entry.name.ends_with(".new") {
            if half_made == HalfMade::Remove {
                disk.remove_file(&path).map_err(|error| io_error("remove", &path, error))?;
            }
            continue;
        }
        let Some(number) = segment_number(&entry.name) else { continue };
        found.next_number = found.next_number.max(number + 1);
        let file = disk.open(&path, OpenMode::Existing).map_err(|error| io_error("open", &path, error))?;
        let header = read_segment_header(&*file, &path)?;
        let segment = Segment { path: path.clone(), file };
        if header.sequence == 0 {
            found.unused.push(segment);
        } else if let Some((_, other)) = found.used.insert(header.sequence, (header, segment)) {
            let reason = format!("has the same sequence {} as {}", header.sequence, other.path.display());
            return Err(corrupt(&path, 0, reason));
        }
    }
    Ok(found)
}

/// Reads and checks the header of a segment file; `path` is for messages.
pub fn read_segment_header(file: &dyn curve_io::File, path: &Path) -> Result<SegmentHeader, LogError> {
    let mut sector = [0; SEGMENT_HEADER_BYTES];
    file.read_at(0, &mut sector).map_err(|error| io_error("read", path, error))?;
    SegmentHeader::decode(&sector).map_err(|error| match error {
        HeaderError::Damaged => corrupt(path, 0, error.to_string()),
        HeaderError::Version(found) => {
            LogError::Version { file: path.display().to_string(), found, known: FORMAT_VERSION }
        }
    })
}

fn read_bytes(segment: &Segment, len: u64) -> Result<Vec<u8>, LogError> {
    let mut bytes = vec![0; len as usize];
    let n = segment.file.read_at(0, &mut bytes).map_err(|error| io_error("read", &segment.path, error))?;
    if n < bytes.len() {
        return Err(corrupt(&segment.path, n as u64, format!("the file is shorter than {len} bytes")));
    }
    Ok(bytes)
}

/// What the newest segment says of the oldest that is needed.
fn read_floor((header, segment): &Headed) -> Result<u64, LogError> {
    let bytes = read_bytes(segment, header.segment_bytes)?;
    let floors = Records::new(&bytes, header).filter(|(_, record)| record.header.kind == Kind::Floor);
    Ok(floors.map(|(_, record)| record.header.index).fold(header.oldest, u64::max).min(header.sequence))
}

fn replay_all(recovered: &mut Recovered, needed: BTreeMap<u64, Headed>) -> Result<(), LogError> {
    let ends: Vec<Option<u32>> =
        needed.values().skip(1).map(|(next, _)| Some(next.previous_end)).chain([None]).collect();
    for ((sequence, (header, segment)), end) in needed.into_iter().zip(ends) {
        replay_segment(recovered, &header, &segment, end)?;
        recovered.live.insert(sequence, segment);
    }
    Ok(())
}

/// Replays one segment. `end` is where its records must end; unknown for the newest, whose tail may be torn.
fn replay_segment(
    recovered: &mut Recovered,
    header: &SegmentHeader,
    segment: &Segment,
    end: Option<u32>,
) -> Result<(), LogError> {
    let bytes = read_bytes(segment, end.map_or(header.segment_bytes, u64::from))?;
    let mut records = Records::new(&bytes, header);
    for (offset, record) in records.by_ref() {
        let place = Place { segment: header.sequence, offset, len: record.header.record_len() as u32 };
        replay_record(&mut recovered.groups, &record, place)
            .map_err(|reason| corrupt(&segment.path, u64::from(offset), reason))?;
    }
    let (offset, why) = (records.offset(), records.end().map_or(String::new(), |error| error.to_string()));
    match end {
        Some(end) if end != offset => {
            let reason = format!("{why}, but the next segment says that records go on until {end}");
            return Err(corrupt(&segment.path, u64::from(offset), reason));
        }
        Some(_) => {}
        None => match judge_tail(&records) {
            Tail::Clean => {}
            Tail::Torn(bytes) => {
                recovered.summary.truncated_tail_bytes = bytes;
                tracing::warn!(file = %segment.path.display(), offset, bytes, "cut a torn, unacknowledged log tail");
            }
            Tail::Corrupt { witness } => {
                let reason =
                    format!("{why}, but the record at {witness} was written when this one was durable");
                return Err(corrupt(&segment.path, u64::from(offset), reason));
            }
        },
    }
    recovered.incarnation = recovered.incarnation.max(records.incarnation());
    recovered.tail = Some(TailPosition { sequence: header.sequence, offset });
    Ok(())
}

/// Applies one record to what is known.
fn replay_record(
    groups: &mut BTreeMap<GroupId, GroupIndex>,
    record: &Record<'_>,
    place: Place,
) -> Result<(), String> {
    let header = &record.header;
    let meta = || Bytes::copy_from_slice(record.meta);
    match header.kind {
        Kind::Opened | Kind::Floor | Kind::Settled => return Ok(()),
        Kind::RemoveGroup => {
            groups.remove(&header.group);
            return Ok(());
        }
        _ => {}
    }
    let group = groups.entry(header.group).or_default();
    match header.kind {
        Kind::Append => {
            if !group.recover(header.index, record.meta, place, header.payload_len) {
                return Err(format!("entry {} of {} leaves a hole", header.index, header.group));
            }
        }
        Kind::Vote => group.set_vote(meta()),
        Kind::Committed => group.set_committed(meta()),
        Kind::Truncate => group.truncate_from(header.index),
        Kind::Purge => {
            group.purge(header.index, meta());
        }
        Kind::State => {
            let Some(known) = GroupRecord::decode(header.index, record.meta) else {
                return Err(format!("malformed state of {}", header.group));
            };
            restore_state(group, known);
        }
        Kind::Opened | Kind::Floor | Kind::Settled | Kind::RemoveGroup => {
            unreachable!("handled above")
        }
    }
    Ok(())
}

fn restore_state(group: &mut GroupIndex, known: GroupRecord) {
    if let Some((upto, meta)) = known.purged {
        group.purge(upto, meta);
    }
    if let Some(vote) = known.vote {
        group.set_vote(vote);
    }
    if let Some(committed) = known.committed {
        group.set_committed(committed);
    }
}

/// A group's entries must follow its purge point.
fn check_whole(recovered: &Recovered, dir: &Path) -> Result<(), LogError> {
    match recovered.groups.iter().find(|(_, index)| !index.is_whole()) {
        Some((id, _)) => {
            Err(corrupt(dir, 0, format!("entries of {id} between its purge point and its first are missing")))
        }
        None => Ok(()),
    }
}

/// Reads all segments of a log offline, oldest first, and calls `visit` with each record up to the first bad one of the
/// segment. Segments that are free already and not reused yet are shown too.
pub fn read_log(
    disk: &dyn Disk,
    dir: &Path,
    mut visit: impl FnMut(&Path, &SegmentHeader, u32, &Record<'_>),
) -> Result<(), LogError> {
    for (header, segment) in find_segments(disk, dir, HalfMade::Keep)?.used.into_values() {
        let bytes = read_bytes(&segment, header.segment_bytes)?;
        for (offset, record) in Records::new(&bytes, &header) {
            visit(&segment.path, &header, offset, &record);
        }
    }
    Ok(())
}
