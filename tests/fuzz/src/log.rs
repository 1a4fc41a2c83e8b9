//! The shared log: opened over damaged segments, it refuses, or gives only entries that were appended.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use curve_io::sim::{SimDisk, SimDiskConfig};
use curve_io::{Disk, OpenMode};
use curve_log::format::SegmentHeader;
use curve_log::{Entry, Log, LogConfig, LogError, Records};
use curve_types::GroupId;
use rand::Rng;
use rand::rngs::StdRng;

use crate::damage::damage_in_place;

const DIR: &str = "log";
const GROUPS: u64 = 3;

pub fn case(random: &mut StdRng) -> &'static str {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(damaged(random))
}

async fn damaged(random: &mut StdRng) -> &'static str {
    let platter = SimDisk::new(SimDiskConfig { seed: random.random(), ..SimDiskConfig::default() });
    let entries = random.random_range(1..30);
    fill(&platter, entries).await;
    for (path, len) in platter.files() {
        if len > 0 && random.random_bool(0.5) {
            rewrite(&*platter.mount(), &path, random).await;
        }
    }
    let disk = platter.mount();
    match Log::open(disk, Path::new(DIR), config()).await {
        Err(LogError::Corrupt { .. }) => "corrupt",
        Err(_) => "refused",
        Ok((log, recovery)) => {
            for group in recovery.groups {
                check(&log, group, entries).await;
            }
            log.close().await;
            "accepted"
        }
    }
}

fn config() -> LogConfig {
    LogConfig { segment_bytes: 256 << 10, ..LogConfig::default() }
}

async fn fill(platter: &SimDisk, entries: u64) {
    let (log, _) = Log::open(platter.mount(), Path::new(DIR), config()).await.expect("an empty disk");
    for group in 1..=GROUPS {
        let group_log = log.group(GroupId(group));
        group_log.save_vote(Bytes::from(vec![group as u8; 8])).await.expect("a good disk");
        for index in 1..=entries {
            let (done, durable) = tokio::sync::oneshot::channel();
            let done = Box::new(move |result| done.send(result).expect("it is waited for"));
            group_log.append(vec![entry(group, index)], done);
            durable.await.expect("the log answers").expect("a good disk");
        }
    }
    log.close().await;
}

fn entry(group: u64, index: u64) -> Entry {
    let payload = vec![(group * 31 + index) as u8; 100 + (index as usize * 37) % 900];
    Entry { index, meta: Bytes::from(index.to_le_bytes().to_vec()), payload: vec![Bytes::from(payload)] }
}

/// Damages one file; its records are also walked offline.
async fn rewrite(disk: &dyn Disk, path: &Path, random: &mut StdRng) {
    let file = disk.open(path, OpenMode::Existing).expect("it is there");
    let len = file.len().expect("a length") as usize;
    let mut bytes = vec![0; len];
    file.read_at(0, &mut bytes).expect("readable");
    // Where something is; the rest of a segment is zeros.
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
    damage_in_place(random, &mut bytes[..used]);
    if let Ok(header) = SegmentHeader::decode(&bytes) {
        let _ = Records::new(&bytes, &header).count();
    }
    file.write_at(0, &[std::io::IoSlice::new(&bytes)]).expect("writable");
    Arc::clone(&file).sync().await.expect("a good disk");
}

async fn check(log: &Log, group: GroupId, entries: u64) {
    assert!((1..=GROUPS).contains(&group.get()), "{group} was never written");
    let group_log = log.group(group);
    let state = group_log.state();
    let Some((last, _)) = state.last else { return };
    assert!(last <= entries, "{group}: entry {last} was never appended");
    let first = state.first.unwrap_or(1);
    // An entry that was damaged after the log was opened may fail; one that is returned must be right.
    if let Ok(read) = group_log.read(first..last + 1, usize::MAX).await {
        for found in read {
            let expected = entry(group.get(), found.index);
            assert_eq!(found.meta, expected.meta, "{group} entry {}", found.index);
            let right = found.payload.concat() == expected.payload.concat();
            assert!(right, "{group} entry {} is not what was appended", found.index);
        }
    }
}
