//! The log's behaviour through its public interface, on a simulated disk.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use curve_io::sim::{DiskFault, SimDisk, SimDiskConfig};
use curve_log::{Entry, Log, LogConfig, LogError};
use curve_types::GroupId;
use support::{append, config, dir, entry, open, read_all};

const A: GroupId = GroupId(1);
const B: GroupId = GroupId(2);

#[tokio::test(start_paused = true)]
async fn everything_is_there_after_a_restart() {
    let disk = SimDisk::new(SimDiskConfig::default());
    let (log, recovery) = open(&disk).await;
    assert_eq!(recovery.groups, []);
    let (a, b) = (log.group(A), log.group(B));
    let first: Vec<Entry> = (1..=5).map(|n| entry(n, 1, 100)).collect();
    append(&a, first.clone()).await.unwrap();
    append(&b, vec![entry(0, 2, 700)]).await.unwrap();
    a.save_vote("vote 3".into()).await.unwrap();
    a.truncate_after(Some(3)).await.unwrap();
    append(&a, vec![entry(4, 3, 9)]).await.unwrap();
    a.purge(1, "one".into());
    a.save_committed("c2".into());
    b.save_committed("c0".into());
    let before = (a.state(), b.state());
    log.close().await;
    assert!(a.save_vote("late".into()).await.is_err());

    let (log, recovery) = open(&disk).await;
    assert_eq!((recovery.groups, recovery.truncated_tail_bytes, recovery.entries), (vec![A, B], 0, 4));
    let (a, b) = (log.group(A), log.group(B));
    assert_eq!((a.state(), b.state()), before);
    assert_eq!(a.state().last, Some((4, entry(4, 3, 9).meta)));
    assert_eq!(a.state().purged, Some((1, "one".into())));
    assert_eq!(read_all(&a).await, [first[1].clone(), first[2].clone(), entry(4, 3, 9)]);
    assert_eq!(read_all(&b).await, [entry(0, 2, 700)]);
    assert_eq!(log.groups(), [A, B]);
}

#[tokio::test(start_paused = true)]
async fn entries_can_be_read_at_once_and_reads_are_cut_by_bytes() {
    let disk = SimDisk::new(SimDiskConfig::default());
    let (log, _) = open(&disk).await;
    let a = log.group(A);
    a.append((1..=10).map(|n| entry(n, 1, 1000)).collect(), Box::new(|_| {}));
    assert_eq!(a.read(1..11, usize::MAX).await.unwrap().len(), 10);
    assert_eq!(a.read(3..11, 2500).await.unwrap().len(), 2);
    assert_eq!(a.read(3..11, 0).await.unwrap(), [entry(3, 1, 1000)]);
    assert_eq!(a.read(9..100, usize::MAX).await.unwrap().len(), 2);
    for nothing in [0..1, 11..12, 5..5] {
        assert_eq!(a.read(nothing, usize::MAX).await.unwrap(), []);
    }
    assert_eq!(log.stats().cache_misses, 0);
}

#[tokio::test(start_paused = true)]
async fn what_waits_together_is_synced_together_and_completed_in_order() {
    let delay = Duration::from_millis(4)..Duration::from_millis(4);
    let disk = SimDisk::new(SimDiskConfig { sync_delay: delay, ..SimDiskConfig::default() });
    let (log, _) = open(&disk).await;
    // The spare segment is made and synced meanwhile.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = (log.stats().flushes, disk.stats().syncs);
    let order = Arc::new(AtomicU64::new(0));
    let mut last = None;
    for n in 0..320 {
        let group = log.group(GroupId(n % 32));
        let (order, (sender, receiver)) = (order.clone(), tokio::sync::oneshot::channel());
        let done = move |result: std::io::Result<()>| {
            result.expect("the disk is fine");
            assert_eq!(order.fetch_add(1, Ordering::Relaxed), n, "completions keep the order of the calls");
            let _ = sender.send(());
        };
        group.append(vec![entry(n / 32, 1, 64)], Box::new(done));
        last = Some(receiver);
        // The first append begins a sync; the others gather while it runs.
        if n == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    last.unwrap().await.unwrap();
    assert_eq!(order.load(Ordering::Relaxed), 320);
    let flushes = log.stats().flushes - before.0;
    assert_eq!(flushes, 2, "one for the first append, one for all that came meanwhile");
    assert_eq!(disk.stats().syncs - before.1, flushes, "a flush is one fdatasync");
}

#[tokio::test(start_paused = true)]
async fn segments_are_reused_and_old_entries_are_read_from_disk() {
    let disk = SimDisk::new(SimDiskConfig::default());
    let (log, _) = open(&disk).await;
    let (a, b) = (log.group(A), log.group(B));
    b.save_vote("old but needed".into()).await.unwrap();
    for n in 1..=400u64 {
        append(&a, vec![entry(n, n, 4000)]).await.unwrap();
        if n > 20 {
            a.purge(n - 20, entry(n - 20, n - 20, 0).meta);
        }
        assert!(disk.files().len() <= 6, "files are reused: {:?}", disk.files());
    }
    assert!(log.stats().live_segments <= 3, "{:?}", log.stats());
    assert!(log.stats().flushes < 450);
    let entries = read_all(&a).await;
    assert_eq!(entries, (381..=400).map(|n| entry(n, n, 4000)).collect::<Vec<_>>());
    assert!(log.stats().cache_misses > 0, "the cache is smaller than 20 entries");
    log.close().await;
    let (log, _) = open(&disk).await;
    assert_eq!(read_all(&log.group(A)).await, entries);
    assert_eq!(log.group(B).state().vote, Some("old but needed".into()));
}

#[tokio::test(start_paused = true)]
async fn stats_name_the_group_that_pins_old_segments() {
    let disk = SimDisk::new(SimDiskConfig::default());
    let (log, _) = open(&disk).await;
    let (a, b) = (log.group(A), log.group(B));
    append(&b, vec![entry(1, 1, 10), entry(2, 1, 10)]).await.unwrap();
    for n in 1..=100 {
        append(&a, vec![entry(n, 1, 4000)]).await.unwrap();
        a.purge(n, Bytes::new());
    }
    let stats = log.stats();
    assert_eq!(stats.pinning.len(), 1);
    let pin = stats.pinning[0];
    assert_eq!((pin.group, pin.first_index, pin.last_index_in_segment), (B, 1, 2));
    assert_eq!(pin.segments, stats.live_segments as u64);
    assert!(stats.live_segments > 5);
    b.purge(pin.last_index_in_segment, Bytes::new());
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!((log.stats().live_segments, log.stats().pinning), (1, vec![]));
    assert!(disk.files().len() <= 3, "what is free beyond the spares is deleted");
}

#[tokio::test(start_paused = true)]
async fn a_removed_group_is_gone_and_may_come_back_empty() {
    let disk = SimDisk::new(SimDiskConfig::default());
    let (log, _) = open(&disk).await;
    let a = log.group(A);
    append(&a, vec![entry(1, 1, 10)]).await.unwrap();
    log.remove_group(A).await.unwrap();
    log.remove_group(B).await.unwrap();
    assert!(append(&a, vec![entry(2, 1, 10)]).await.is_err());
    assert_eq!(log.groups(), []);
    let again = log.group(A);
    assert_eq!(again.state(), Default::default());
    append(&again, vec![entry(7, 2, 10)]).await.unwrap();
    log.close().await;
    let (log, recovery) = open(&disk).await;
    assert_eq!(recovery.groups, [A]);
    assert_eq!(read_all(&log.group(A)).await, [entry(7, 2, 10)]);
}

#[tokio::test(start_paused = true)]
async fn a_failed_sync_is_final() {
    let disk = SimDisk::new(SimDiskConfig::default());
    let (log, _) = open(&disk).await;
    let a = log.group(A);
    append(&a, vec![entry(1, 1, 10)]).await.unwrap();
    disk.set_fault(DiskFault::Syncs);
    let (first, second) = tokio::join!(append(&a, vec![entry(2, 1, 10)]), a.save_vote("v".into()));
    assert!(first.is_err() && second.is_err() && log.failed());
    disk.set_fault(DiskFault::None);
    assert!(append(&a, vec![entry(3, 1, 10)]).await.is_err(), "nobody retries after a failed sync");
    log.group(A).admit().await;
    log.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_is_told_before_it_hurts_and_a_purge_helps() {
    let disk = SimDisk::new(SimDiskConfig { capacity: 3 * (64 << 10), ..SimDiskConfig::default() });
    let (log, _) = open(&disk).await;
    let a = log.group(A);
    let mut n = 0;
    while !log.space_low() {
        n += 1;
        append(&a, vec![entry(n, 1, 4000)]).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert!(n > 15, "two segments were filled");
    // What is in hand still takes entries; then the log stalls, without an error, until entries are purged.
    let more: Vec<_> = (1..=20).map(|k| append(&a, vec![entry(n + k, 1, 4000)])).collect();
    let more = tokio::spawn(futures::future::join_all(more));
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(!more.is_finished() && !log.failed() && log.waits_for_room());
    a.purge(n, "gone".into());
    assert!(more.await.unwrap().into_iter().all(|result| result.is_ok()));
    assert!(!log.failed() && !log.waits_for_room());
    assert_eq!(read_all(&a).await.len(), 20);
    a.purge(n + 20, "all".into());
    log.close().await;
    let (log, _) = open(&disk).await;
    assert_eq!(log.group(A).state().purged, Some((n + 20, "all".into())));

    let tiny = SimDisk::new(SimDiskConfig { capacity: 32 << 10, ..SimDiskConfig::default() });
    let error = Log::open(tiny.mount(), dir(), config()).await.err().unwrap();
    assert!(matches!(error, LogError::NoSpace { bytes: 65536, .. }), "{error}");
    assert_eq!(tiny.files(), [], "the attempt leaves nothing behind");
}

#[tokio::test(start_paused = true)]
async fn new_segments_leave_room_for_others() {
    let disk = SimDisk::new(SimDiskConfig { capacity: 512 << 10, ..SimDiskConfig::default() });
    let config = LogConfig { keep_free_bytes: 256 << 10, ..config() };
    let (log, _) = Log::open(disk.mount(), dir(), config).await.unwrap();
    let a = log.group(A);
    let more: Vec<_> = (1..=200).map(|n| append(&a, vec![entry(n, 1, 4000)])).collect();
    let more = tokio::spawn(futures::future::join_all(more));
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(!more.is_finished() && log.waits_for_room());
    let free = disk.mount().space().unwrap().free;
    assert!((256 << 10..320 << 10).contains(&free), "{free}");
    disk.set_capacity(4 << 20);
    assert!(more.await.unwrap().into_iter().all(|result| result.is_ok()));
    assert!(!log.waits_for_room() && !log.space_low());
}

#[tokio::test(start_paused = true)]
async fn the_queue_holds_callers_back_by_bytes() {
    let delay = Duration::from_millis(50)..Duration::from_millis(50);
    let disk = SimDisk::new(SimDiskConfig { sync_delay: delay, ..SimDiskConfig::default() });
    let mut config = config();
    config.queue_bytes_max = 10_000;
    let (log, _) = Log::open(disk.mount(), dir(), config).await.unwrap();
    let a = log.group(A);
    for n in 1..=4 {
        a.append(vec![entry(n, 1, 4000)], Box::new(|_| {}));
    }
    let waited = tokio::time::timeout(Duration::from_millis(5), a.admit()).await;
    assert!(waited.is_err(), "{} bytes are queued", log.stats().queued_bytes);
    a.admit().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(log.stats().queued_bytes, 0);
    let huge = append(&a, vec![entry(5, 1, 20_000)]).await.unwrap_err();
    assert_eq!(huge.kind(), std::io::ErrorKind::InvalidInput);
    assert_eq!(a.state().last.unwrap().0, 4, "nothing of a refused call is appended");
}

#[tokio::test(start_paused = true)]
async fn lazy_records_become_durable_by_themselves() {
    let disk = SimDisk::new(SimDiskConfig::default());
    let (log, _) = open(&disk).await;
    let a = log.group(A);
    append(&a, vec![entry(1, 1, 10), entry(2, 1, 10)]).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    a.purge(1, "p".into());
    a.save_committed("c1".into());
    a.save_committed("c2".into());
    tokio::time::sleep(Duration::from_secs(5)).await;
    let flushes = log.stats().flushes;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(log.stats().flushes, flushes, "an idle log does nothing");
    disk.crash();
    let (log, _) = open(&disk).await;
    let state = log.group(A).state();
    assert_eq!((state.purged, state.committed), (Some((1, "p".into())), Some("c2".into())));
}

#[tokio::test(start_paused = true)]
async fn many_restarts_go_on_in_the_same_segment() {
    let disk = SimDisk::new(SimDiskConfig::default());
    for n in 1..=50 {
        let (log, recovery) = open(&disk).await;
        assert_eq!((recovery.entries, recovery.truncated_tail_bytes), (n - 1, 0));
        let a = log.group(A);
        append(&a, vec![entry(n, n, 100)]).await.unwrap();
        if n % 2 == 0 {
            log.close().await;
        }
        disk.detach();
    }
    assert!(disk.files().len() <= 3, "{:?}", disk.files());
}
