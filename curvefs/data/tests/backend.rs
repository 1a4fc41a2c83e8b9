//! The backend over buckets in memory: what was written comes back, limits hold, failures have their errors.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use curvefs_data::{BackendOptions, DataError, Fault, MemoryBucket, ObjectBackend, ObjectStore, Patience};
use curvefs_types::{DataBackend, DataRef, Extent, FsError, FsId, InodeId, SliceRef, WriterId};
use proptest::prelude::*;
use tokio::time::Instant;

const CHUNK: u64 = 64 << 20;

fn backend(count: usize, options: BackendOptions) -> (Vec<Arc<MemoryBucket>>, ObjectBackend) {
    let buckets = (0..count).map(|_| Arc::new(MemoryBucket::new())).collect::<Vec<_>>();
    let stores = buckets.iter().map(|bucket| bucket.clone() as Arc<dyn ObjectStore>).collect();
    let backend = ObjectBackend::new(stores, FsId(1), WriterId(2), options);
    (buckets, backend)
}

fn small() -> BackendOptions {
    BackendOptions { object_bytes: 100_000, requests_max: 4, memory_bytes_max: 300_000, ..Default::default() }
}

fn content(len: usize) -> Bytes {
    (0..len).map(|at| (at % 249) as u8).collect()
}

async fn write(backend: &ObjectBackend, offset: u64, data: Vec<Bytes>) -> Result<Vec<Extent>, FsError> {
    Ok(backend.write(InodeId::ROOT, offset, data).await?.into_inner())
}

async fn read(backend: &ObjectBackend, extents: &[Extent]) -> Result<Vec<u8>, FsError> {
    let mut whole = Vec::new();
    for extent in extents {
        backend.read(*extent).await?.iter().for_each(|bytes| whole.extend_from_slice(bytes));
    }
    Ok(whole)
}

fn slices(extents: &[Extent]) -> Vec<SliceRef> {
    extents.iter().filter_map(|extent| extent.data.slice()).collect()
}

fn blocking<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn what_was_written_comes_back(
        before in 0u64..400_000,
        len in 1usize..600_000,
        cut in 1usize..200_000,
        a in any::<u64>(),
        b in any::<u64>(),
    ) {
        blocking(async {
            let (buckets, backend) = backend(3, small());
            let (offset, whole) = (CHUNK - before, content(len));
            let data = whole.chunks(cut).map(Bytes::copy_from_slice).collect();
            let extents = write(&backend, offset, data).await.unwrap();
            let mut at = offset;
            for extent in &extents {
                prop_assert!(extent.offset == at && extent.by_chunk().count() == 1);
                at = extent.end();
            }
            prop_assert_eq!(at, offset + len as u64);
            prop_assert!(read(&backend, &extents).await.unwrap() == whole);
            let (a, b) = (offset + a % len as u64, offset + b % len as u64);
            let (from, to) = (a.min(b), a.max(b) + 1);
            let parts = extents.iter().filter_map(|extent| extent.part(from, to)).collect::<Vec<_>>();
            let found = read(&backend, &parts).await.unwrap();
            prop_assert!(found == whole[(from - offset) as usize..(to - offset) as usize]);
            backend.delete(slices(&extents)).await.unwrap();
            prop_assert!(buckets.iter().all(|bucket| bucket.objects().is_empty()));
            prop_assert_eq!(read(&backend, &parts).await, Err(FsError::DataLost));
            Ok(())
        })?;
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_that_was_written_is_ever_changed() {
    let (backend, bucket) = ObjectBackend::in_memory(FsId(1), WriterId(2), small());
    let first = write(&backend, 0, vec![content(1000)]).await.unwrap();
    let second = write(&backend, 0, vec![content(500)]).await.unwrap();
    assert_eq!(bucket.objects().len(), 2, "a new version has a new name");
    assert_eq!(read(&backend, &first).await.unwrap(), content(1000));
    assert_eq!(read(&backend, &second).await.unwrap(), content(500));
}

#[tokio::test]
async fn a_writer_that_is_taken_over_uses_no_name_again() {
    let (first, bucket) = ObjectBackend::in_memory(FsId(1), WriterId(2), small());
    let extents = write(&first, 0, vec![content(1000)]).await.unwrap();
    let next = ObjectBackend::new(vec![bucket.clone()], FsId(1), WriterId(2), small());
    next.set_next_serial(first.next_serial());
    write(&next, 0, vec![content(500)]).await.unwrap();
    assert_eq!(bucket.objects().len(), 2);
    assert_eq!(read(&next, &extents).await.unwrap(), content(1000));
}

#[tokio::test(start_paused = true)]
async fn buckets_share_the_objects_and_the_limits_hold() {
    let (buckets, backend) = backend(2, BackendOptions { memory_bytes_max: 250_000, ..small() });
    buckets.iter().for_each(|bucket| bucket.inject(Fault::Delay(Duration::from_millis(10))));
    let extents = write(&backend, 0, vec![content(5_000_000)]).await.unwrap();
    let counts = buckets.iter().map(|bucket| bucket.objects().len()).collect::<Vec<_>>();
    assert!(counts.iter().sum::<usize>() == 50 && counts.iter().all(|count| *count > 10), "{counts:?}");
    let most = buckets.iter().map(|bucket| bucket.running_max()).sum::<usize>();
    assert!(most <= 4, "two objects fit into the memory at a time: {most}");
    assert_eq!(read(&backend, &extents).await.unwrap(), content(5_000_000));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_is_waited_for() {
    let (buckets, backend) = backend(1, small());
    let away = DataError::Unreachable { why: "x".into() };
    buckets[0].inject(Fault::Fail { calls: 30, error: away });
    let begun = Instant::now();
    let extents = write(&backend, 0, vec![content(10)]).await.unwrap();
    assert!(begun.elapsed() > Duration::from_secs(30));
    buckets[0].inject(Fault::LoseAnswers { calls: 3 });
    assert_eq!(read(&backend, &extents).await.unwrap(), content(10));
    buckets[0].inject(Fault::LoseAnswers { calls: 3 });
    write(&backend, 0, vec![content(10)]).await.unwrap();
    assert_eq!(buckets[0].objects().len(), 2, "an answer that was lost makes no second object");
}

#[tokio::test(start_paused = true)]
async fn soft_ends_in_time_and_refusals_have_their_errors() {
    let soft = BackendOptions { patience: Patience::Soft(Duration::from_secs(5)), ..small() };
    let (buckets, backend) = backend(1, soft);
    let cases = [
        (DataError::Unreachable { why: "x".into() }, FsError::TimedOut),
        (DataError::Slow, FsError::TimedOut),
        (DataError::Credentials { why: "x".into() }, FsError::StoreRefused),
        (DataError::NoBucket { bucket: "b".into() }, FsError::StoreRefused),
        (DataError::Full { why: "x".into() }, FsError::NoSpace),
        (DataError::Refused { why: "x".into() }, FsError::StoreRefused),
    ];
    for (error, expected) in cases {
        buckets[0].inject(Fault::Fail { calls: u32::MAX, error: error.clone() });
        let begun = Instant::now();
        assert_eq!(write(&backend, 0, vec![content(10)]).await.unwrap_err(), expected, "{error}");
        assert!(begun.elapsed() <= Duration::from_secs(5));
    }
}

#[tokio::test(start_paused = true)]
async fn lost_and_damaged_objects_have_errors_of_their_own_at_once() {
    let (buckets, backend) = backend(1, small());
    let extents = write(&backend, 0, vec![content(250_000)]).await.unwrap();
    let objects = buckets[0].objects();
    let begun = Instant::now();
    buckets[0].damage(&objects[0], 10);
    assert_eq!(read(&backend, &extents).await, Err(FsError::DataDamaged));
    buckets[0].damage(&objects[0], 10);
    assert!(read(&backend, &extents).await.is_ok());
    buckets[0].lose(&objects[1]);
    assert_eq!(read(&backend, &extents).await, Err(FsError::DataLost));
    assert!(begun.elapsed() < Duration::from_secs(1), "nothing is waited for");
}

#[tokio::test(start_paused = true)]
async fn deletions_are_paced() {
    let (buckets, backend) = backend(2, BackendOptions { deletes_per_second: 100, ..small() });
    let extents = write(&backend, 0, vec![content(40_000_000)]).await.unwrap();
    let begun = Instant::now();
    backend.delete(slices(&extents)).await.unwrap();
    backend.delete(slices(&extents)).await.unwrap();
    assert!(buckets.iter().all(|bucket| bucket.objects().is_empty()));
    let took = begun.elapsed();
    assert!((Duration::from_secs(5)..Duration::from_secs(9)).contains(&took), "800 in {took:?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_no_slice() {
    let (_, backend) = backend(1, small());
    let unwritten = Extent { offset: 0, len: 100_000, data: DataRef::Unwritten };
    let zeros = read(&backend, &[unwritten]).await.unwrap();
    assert!(zeros.len() == 100_000 && zeros.iter().all(|byte| *byte == 0));
    assert_eq!(write(&backend, u64::MAX, vec![content(10)]).await.unwrap_err(), FsError::TooBig);
    assert!(write(&backend, 0, Vec::new()).await.unwrap().is_empty());
    let DataRef::Slice { slice, .. } = write(&backend, 0, vec![content(9)]).await.unwrap()[0].data else {
        panic!("a slice")
    };
    let hostile = Extent { offset: 0, len: 10, data: DataRef::Slice { slice, bytes: 5, at: u32::MAX } };
    assert_eq!(backend.read(hostile).await.unwrap_err(), FsError::Invalid);
}
