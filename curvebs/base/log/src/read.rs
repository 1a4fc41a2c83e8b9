//! Reads entries of a group: from memory where they are there, otherwise from disk with their checksum verified.

use std::io;
use std::ops::Range;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use crate::batch::Place;
use crate::error::LogError;
use crate::format::{Kind, RECORD_HEADER_BYTES, RecordPlace, decode_record};
use crate::group::Entry;
use crate::index::{Found, GroupCore};
use crate::log::Handle;

/// Entries that lie close together are read at once, up to this many bytes.
const RUN_BYTES_MAX: u32 = 1 << 20;
/// Bytes of other groups between two entries that are rather read than skipped.
const GAP_BYTES_MAX: u32 = 32 << 10;

/// Entries on disk that are read with one call.
struct Run {
    segment: u64,
    begin: u32,
    end: u32,
    entries: Vec<(u64, Place)>,
}

impl Run {
    fn takes(&self, place: &Place) -> bool {
        place.segment == self.segment
            && place.offset >= self.end
            && place.offset - self.end <= GAP_BYTES_MAX
            && place.offset + place.len - self.begin <= RUN_BYTES_MAX
    }
}

enum Step {
    Cached(Entry),
    Run(Run),
}

pub(crate) async fn read_entries(
    core: &GroupCore,
    handle: &Handle,
    range: Range<u64>,
    bytes_max: usize,
) -> io::Result<Vec<Entry>> {
    loop {
        let found = core.lock().find(range.start, range.end, bytes_max);
        let mut entries = Vec::with_capacity(found.len());
        let mut gone = false;
        for step in steps(found) {
            match step {
                Step::Cached(entry) => {
                    handle.cache_hits.fetch_add(1, Ordering::Relaxed);
                    entries.push(entry);
                }
                Step::Run(run) => match read_run(core, handle, &run, &mut entries).await {
                    Ok(()) => {}
                    Err(error) if is_current(core, &run) => return Err(error),
                    // It was purged or truncated while it was read, and the segment used again.
                    Err(_) => gone = true,
                },
            }
            if gone {
                break;
            }
        }
        if !entries.is_empty() || !gone {
            return Ok(entries);
        }
    }
}

fn steps(found: Vec<Found>) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for found in found {
        match (found, steps.last_mut()) {
            (Found::Cached(entry), _) => steps.push(Step::Cached(entry)),
            (Found::OnDisk(index, place), Some(Step::Run(run))) if run.takes(&place) => {
                run.end = place.offset + place.len;
                run.entries.push((index, place));
            }
            (Found::OnDisk(index, place), _) => steps.push(Step::Run(Run {
                segment: place.segment,
                begin: place.offset,
                end: place.offset + place.len,
                entries: vec![(index, place)],
            })),
        }
    }
    steps
}

/// Whether all entries of the run are still where they were.
fn is_current(core: &GroupCore, run: &Run) -> bool {
    let index = core.lock();
    run.entries.iter().all(|(n, place)| index.place(*n) == Some(*place))
}

async fn read_run(core: &GroupCore, handle: &Handle, run: &Run, entries: &mut Vec<Entry>) -> io::Result<()> {
    let segment = handle.live.get(run.segment).ok_or(io::ErrorKind::NotFound)?;
    let bytes = segment.file.read(u64::from(run.begin), (run.end - run.begin) as usize).await?;
    handle.cache_misses.fetch_add(run.entries.len() as u64, Ordering::Relaxed);
    for (index, place) in &run.entries {
        let entry = decode_entry(core, &bytes, run.begin, *index, *place).map_err(|reason| {
            let file = segment.path.display().to_string();
            io::Error::from(LogError::Corrupt { file, offset: u64::from(place.offset), reason })
        })?;
        entries.push(entry);
    }
    Ok(())
}

fn decode_entry(
    core: &GroupCore,
    bytes: &Bytes,
    begin: u32,
    index: u64,
    place: Place,
) -> Result<Entry, String> {
    let at = (place.offset - begin) as usize;
    let slice = bytes.get(at..at + place.len as usize).ok_or("the file ends before the entry")?;
    let at_place = RecordPlace { sequence: place.segment, offset: place.offset };
    let record = decode_record(slice, at_place).map_err(|error| error.to_string())?;
    let header = record.header;
    if header.kind != Kind::Append || header.group != core.id || header.index != index {
        return Err(format!(
            "found {:?} {} of {} instead of entry {index}",
            header.kind, header.index, header.group
        ));
    }
    let meta_at = at + RECORD_HEADER_BYTES;
    let payload_at = meta_at + record.meta.len();
    let payload = bytes.slice(payload_at..payload_at + record.payload.len());
    let parts = if payload.is_empty() { Vec::new() } else { vec![payload] };
    Ok(Entry { index, meta: bytes.slice(meta_at..payload_at), payload: parts })
}
