//! Lies that a log tells when it is opened after a crash: what was promised is forgotten, what was torn looks whole.
//!
//! They are told by editing the simulated disk before a process starts, in the documented format of the log; the code
//! that recovers stays as it is and has no way to know.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use curve_io::{Disk, OpenMode};
use curve_log::format::{Kind, RECORD_HEADER_BYTES, RecordHeader, RecordPlace, SegmentHeader};
use curve_log::{LogError, Records, read_log};
use curve_types::GroupId;

/// A record to be written anew, in its place.
struct Edit {
    path: PathBuf,
    place: RecordPlace,
    header: RecordHeader,
    content: Vec<u8>,
}

impl Edit {
    async fn write(self, disk: &dyn Disk) -> io::Result<()> {
        let fixed = self.header.encode(self.place, std::iter::once(&self.content[..]));
        let file = disk.open(&self.path, OpenMode::Existing)?;
        file.write_at(u64::from(self.place.offset), &[io::IoSlice::new(&fixed)])?;
        file.sync().await
    }
}

/// Forgets the votes of each group that no entry follows: the last one given before the crash, as a rule to somebody who
/// then became leader. Returns how many.
pub async fn forget_votes(disk: &dyn Disk, log_dir: &Path) -> io::Result<u64> {
    let mut last: BTreeMap<GroupId, Vec<Edit>> = BTreeMap::new();
    let seen = read_log(disk, log_dir, |path, segment, offset, record| {
        let mut header = record.header;
        match header.kind {
            Kind::Vote => {
                // It says nothing and has the same length.
                header.kind = Kind::Settled;
                let place = RecordPlace { sequence: segment.sequence, offset };
                let content = [record.meta, record.payload].concat();
                let edit = Edit { path: path.to_owned(), place, header, content };
                last.entry(record.header.group).or_default().push(edit);
            }
            Kind::Append | Kind::RemoveGroup => drop(last.remove(&header.group)),
            _ => {}
        }
    });
    if !readable(seen)? {
        return Ok(0);
    }
    let mut forgotten = 0;
    for edit in last.into_values().flatten() {
        edit.write(disk).await?;
        forgotten += 1;
    }
    Ok(forgotten)
}

/// A log that is not there yet or damaged has no story to tell.
fn readable(seen: Result<(), LogError>) -> io::Result<bool> {
    match seen {
        Ok(()) => Ok(true),
        Err(LogError::Io { source, .. }) if source.kind() != io::ErrorKind::NotFound => Err(source),
        Err(_) => Ok(false),
    }
}

/// Gives the torn records at the end of the log checksums that fit what is left of them. Returns how many.
pub async fn accept_torn_records(disk: &dyn Disk, log_dir: &Path) -> io::Result<u64> {
    let mut newest: Option<(PathBuf, SegmentHeader)> = None;
    let seen = read_log(disk, log_dir, |path, segment, _, _| {
        if newest.as_ref().is_none_or(|(_, known)| known.sequence < segment.sequence) {
            newest = Some((path.to_owned(), *segment));
        }
    });
    let (true, Some((path, segment))) = (readable(seen)?, newest) else { return Ok(0) };
    let mut accepted = 0;
    while let Some(edit) = torn_record(disk, &path, &segment)? {
        edit.write(disk).await?;
        accepted += 1;
    }
    Ok(accepted)
}

/// The record at the end of the segment, if its checksum alone is wrong.
fn torn_record(disk: &dyn Disk, path: &Path, segment: &SegmentHeader) -> io::Result<Option<Edit>> {
    let file = disk.open(path, OpenMode::Existing)?;
    let mut bytes = vec![0; file.len()? as usize];
    file.read_at(0, &mut bytes)?;
    let mut records = Records::new(&bytes, segment);
    records.by_ref().for_each(drop);
    let offset = records.offset();
    let rest = &bytes[offset as usize..];
    let Ok(header) = RecordHeader::decode_unchecked(rest) else { return Ok(None) };
    let end = RECORD_HEADER_BYTES as u64 + u64::from(header.meta_len) + u64::from(header.payload_len);
    let of_last_batch = header.incarnation == records.incarnation() && header.batch_start <= offset;
    if !of_last_batch || header.kind != Kind::Append || end > rest.len() as u64 {
        return Ok(None);
    }
    let content = rest[RECORD_HEADER_BYTES..end as usize].to_vec();
    let place = RecordPlace { sequence: segment.sequence, offset };
    Ok(Some(Edit { path: path.to_owned(), place, header, content }))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use curve_io::sim::{SimDisk, SimDiskConfig};
    use curve_log::{Entry, Log, LogConfig};

    use super::*;

    const DIR: &str = "log";

    fn config() -> LogConfig {
        LogConfig { segment_bytes: 1 << 20, ..LogConfig::default() }
    }

    #[tokio::test]
    async fn a_vote_that_no_entry_follows_is_forgotten() {
        let sim = SimDisk::new(SimDiskConfig::default());
        let (log, _) = Log::open(sim.mount(), Path::new(DIR), config()).await.unwrap();
        let entry = Entry { index: 1, meta: Bytes::from("m"), payload: vec![Bytes::from("p")] };
        for group in [1, 2] {
            log.group(GroupId(group)).save_vote(Bytes::from("old")).await.unwrap();
        }
        let (tell, told) = tokio::sync::oneshot::channel();
        let done = Box::new(move |result| drop(tell.send(result)));
        log.group(GroupId(2)).append(vec![entry], done);
        told.await.unwrap().unwrap();
        sim.detach();
        assert_eq!(forget_votes(&*sim.mount(), Path::new(DIR)).await.unwrap(), 1);
        let (log, _) = Log::open(sim.mount(), Path::new(DIR), config()).await.unwrap();
        assert_eq!(log.group(GroupId(1)).state().vote, None);
        assert_eq!(log.group(GroupId(2)).state().vote, Some(Bytes::from("old")));
        assert_eq!(forget_votes(&*sim.mount(), Path::new("nowhere")).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_torn_record_is_accepted() {
        let mut accepted = 0;
        for seed in 0..20 {
            let sim = SimDisk::new(SimDiskConfig { seed, ..SimDiskConfig::default() });
            let (log, _) = Log::open(sim.mount(), Path::new(DIR), config()).await.unwrap();
            // A log has something whole before what is torn.
            let entry =
                |index| Entry { index, meta: Bytes::from("m"), payload: vec![Bytes::from(vec![7; 8192])] };
            let (tell, told) = tokio::sync::oneshot::channel();
            let done = Box::new(move |result| drop(tell.send(result)));
            log.group(GroupId(1)).append(vec![entry(1)], done);
            told.await.unwrap().unwrap();
            sim.set_sync_delay(std::time::Duration::from_secs(3600)..std::time::Duration::from_secs(3601));
            log.group(GroupId(1)).append(vec![entry(2)], Box::new(drop));
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            assert!(sim.has_unsynced(Path::new(DIR)));
            sim.crash();
            sim.set_sync_delay(std::time::Duration::ZERO..std::time::Duration::ZERO);
            let torn = accept_torn_records(&*sim.mount(), Path::new(DIR)).await.unwrap();
            let (_, recovery) = Log::open(sim.mount(), Path::new(DIR), config()).await.unwrap();
            assert!(recovery.entries > torn);
            accepted += torn;
        }
        assert!(accepted > 0);
    }
}
