//! S3 buckets against the embedded store, or any other that the environment names (`store`; `make fs-s3` names moto's): the
//! same data, and what a wrong set-up is told.

mod store;

use std::time::{Duration, Instant};

use bytes::Bytes;
use curvefs_data::{
    BackendOptions, DataError, ObjectBackend, ObjectStore, Patience, ProbeError, S3Access, S3Bucket,
    SecretKey, probe_bucket, purge,
};
use curvefs_types::{DataBackend, FsError, FsId, InodeId, WriterId};
use futures::{StreamExt, TryStreamExt, stream};
use tokio::net::TcpListener;

use store::{Store, unused_fs};

fn content(len: u32) -> Bytes {
    (0..len).map(|at| (at % 251) as u8).collect()
}

fn backend(store: &Store, fs: FsId, options: BackendOptions) -> ObjectBackend {
    ObjectBackend::new(store.buckets(), fs, WriterId(2), options)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_are_put_read_in_parts_overwritten_and_deleted() {
    let store = Store::start().await;
    let bucket = store.bucket();
    let [object, absent] = ["object", "absent"].map(|what| format!("test/{:08x}/{what}", unused_fs().0));
    let long = content(300_000);
    bucket.put(object.clone(), long.clone().into()).await.unwrap();
    for range in [0..300_000, 0..1, 65_535..65_537, 100_000..200_000, 299_999..300_000] {
        let part = bucket.get(object.clone(), range.clone()).await.unwrap();
        assert!(part.concat() == long[range.start as usize..range.end as usize], "{range:?}");
    }
    bucket.put(object.clone(), Bytes::from_static(b"another").into()).await.unwrap();
    assert_eq!(bucket.get(object.clone(), 0..7).await.unwrap().concat(), b"another");
    assert_eq!(
        bucket.get(object.clone(), 4..100).await.unwrap().concat(),
        b"her",
        "an object ends where it ends"
    );
    let beyond = bucket.get(object.clone(), 7..8).await;
    assert!(matches!(beyond, Err(DataError::Refused { .. })), "{beyond:?}");
    assert_eq!(bucket.get(absent.clone(), 0..1).await, Err(DataError::Missing { object: absent.clone() }));
    bucket.delete(vec![object.clone(), absent]).await.unwrap();
    assert_eq!(bucket.get(object.clone(), 0..1).await, Err(DataError::Missing { object: object.clone() }));
    bucket.delete(vec![object]).await.unwrap();
    store.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_objects_are_listed_and_deleted_at_a_time() {
    let store = Store::start().await;
    let bucket = store.bucket();
    let prefix = format!("test/{:08x}", unused_fs().0);
    let names = (0..1005).map(|at| format!("{prefix}/{at:04}")).collect::<Vec<_>>();
    let beside = format!("{prefix}0/beside");
    let puts = names.iter().chain([&beside]).map(|name| bucket.put(name.clone(), Bytes::new().into()));
    stream::iter(puts.collect::<Vec<_>>()).buffer_unordered(16).try_collect::<()>().await.unwrap();
    let list = || bucket.list(format!("{prefix}/"));
    assert!(list().await.unwrap() == names[..1000], "the first, in order");
    bucket.delete(names[..1000].to_vec()).await.unwrap();
    assert_eq!(list().await.unwrap(), names[1000..]);
    bucket.delete(names[1000..].to_vec()).await.unwrap();
    assert_eq!(list().await.unwrap(), Vec::<String>::new());
    assert_eq!(bucket.list(prefix).await.unwrap(), [&*beside]);
    bucket.delete(vec![beside]).await.unwrap();
    store.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probe_passes_and_leaves_nothing() {
    let store = Store::start().await;
    let nonce = u64::from(unused_fs().0);
    backend(&store, FsId(1), BackendOptions::default()).check(nonce).await.unwrap();
    for bucket in store.buckets() {
        assert_eq!(bucket.list(format!("probe/{nonce:016x}")).await.unwrap(), Vec::<String>::new());
    }
    store.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_comes_back_from_all_buckets_and_is_gone_when_it_is_deleted() {
    let store = Store::start().await;
    let data = backend(&store, unused_fs(), BackendOptions::default());
    let content = content(20_000_000);
    let written = data.write(InodeId::ROOT, 60 << 20, vec![content.clone()]).await.unwrap();
    let extents = written.into_inner();
    assert_eq!(extents.len(), 2, "it crosses a chunk's border");
    let mut whole = data.read(extents[0]).await.unwrap().concat();
    whole.extend(data.read(extents[1]).await.unwrap().concat());
    assert!(whole == content);
    // The second lies in two objects.
    for (extent, from, to) in [(extents[0], 100_000, 100_010), (extents[1], 8_388_000, 8_389_000)] {
        let part = extent.part((60 << 20) + from, (60 << 20) + to).unwrap();
        assert!(data.read(part).await.unwrap().concat() == content[from as usize..to as usize]);
    }
    let over = data.write(InodeId::ROOT, 60 << 20, vec![Bytes::from_static(b"another")]).await.unwrap();
    let over = over.into_inner()[0];
    assert_eq!(data.read(over).await.unwrap().concat(), b"another");
    assert!(data.read(extents[1]).await.is_ok(), "what was there before is read as before");
    let slices = extents.iter().chain([&over]).filter_map(|extent| extent.data.slice()).collect::<Vec<_>>();
    data.delete(slices.clone()).await.unwrap();
    data.delete(slices).await.unwrap();
    let begun = Instant::now();
    assert_eq!(data.read(extents[0]).await.unwrap_err(), FsError::DataLost);
    assert!(begun.elapsed() < Duration::from_secs(5));
    store.end().await;
}

/// Only of the store that can be stopped from here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_restarts_is_waited_for_and_has_everything() {
    let store = Store::embedded().await;
    let data = backend(&store, FsId(1), BackendOptions::default());
    let content = content(5_000_000);
    let written = data.write(InodeId::ROOT, 0, vec![content.clone()]).await.unwrap().into_inner();
    let stopped = store.stop().await;
    let restarted = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        stopped.start().await
    };
    let (read, store) = tokio::join!(data.read(written[0]), restarted);
    assert!(read.unwrap().concat() == content);
    store.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_systems_objects_are_found_and_deleted_and_those_of_others_stay() {
    let store = Store::start().await;
    let options = BackendOptions { object_bytes: 64 << 10, ..BackendOptions::default() };
    let (mine, others) = (unused_fs(), unused_fs());
    let content = Bytes::from(vec![7; 4 << 20]);
    let mut extents = Vec::new();
    for fs in [mine, others] {
        let written =
            backend(&store, fs, options).write(InodeId::ROOT, 0, vec![content.clone()]).await.unwrap();
        extents.push(written.into_inner()[0]);
    }
    let patience = Patience::Soft(Duration::from_secs(10));
    let buckets = store.buckets();
    assert_eq!(purge(&buckets, mine, patience, |_| ()).await, Ok(64));
    assert_eq!(purge(&buckets, mine, patience, |_| ()).await, Ok(0));
    assert_eq!(backend(&store, mine, options).read(extents[0]).await.unwrap_err(), FsError::DataLost);
    assert!(backend(&store, others, options).read(extents[1]).await.unwrap().concat() == content);
    assert_eq!(purge(&buckets, others, patience, |_| ()).await, Ok(64));
    store.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_set_up_is_told_what_is_wrong() {
    let store = Store::start().await;
    let good = store.access();
    let wrong_key = S3Access { secret_key: SecretKey::new("another-key"), ..good.clone() };
    let no_bucket = format!("curve-none-{:08x}", unused_fs().0);
    for (access, code) in [
        (S3Access { bucket: no_bucket, ..good.clone() }, "BUCKET_MISSING"),
        (wrong_key.clone(), "STORE_CREDENTIALS"),
        (S3Access { access_key: "nobody".into(), ..good.clone() }, "STORE_CREDENTIALS"),
        (S3Access { endpoint: "http://127.0.0.1:1".into(), ..good.clone() }, "STORE_UNREACHABLE"),
        (S3Access { endpoint: "http://no-such-host.invalid".into(), ..good.clone() }, "STORE_UNREACHABLE"),
    ] {
        let begun = Instant::now();
        match probe_bucket(&S3Bucket::new(access.clone()), 1).await {
            Err(ProbeError::Failed { cause, .. }) => assert_eq!(cause.code(), code, "{access:?}: {cause}"),
            other => panic!("{access:?}: {other:?}"),
        }
        assert!(begun.elapsed() < Duration::from_secs(10));
    }
    let bucket = S3Bucket::new(wrong_key);
    let object = format!("test/{:08x}/rotated", unused_fs().0);
    let refused = |done| matches!(done, Err(DataError::Credentials { .. }));
    assert!(refused(bucket.put(object.clone(), Bytes::new().into()).await));
    assert!(refused(bucket.get(object.clone(), 0..1).await.map(drop)));
    assert!(refused(bucket.delete(vec![object.clone()]).await));
    assert!(refused(bucket.list(object.clone()).await.map(drop)));
    bucket.rotate(&good.access_key, &good.secret_key);
    bucket.put(object.clone(), Bytes::from_static(b"x").into()).await.unwrap();
    bucket.delete(vec![object]).await.unwrap();
    store.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_never_answers_ends_the_probe_in_ten_seconds() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let access = S3Access {
        endpoint: format!("http://{}", silent.local_addr().unwrap()),
        region: "us-east-1".into(),
        bucket: "one".into(),
        access_key: "a".into(),
        secret_key: SecretKey::new("s"),
    };
    let begun = Instant::now();
    let probed = probe_bucket(&S3Bucket::new(access), 1).await;
    assert!(matches!(probed, Err(ProbeError::Slow { .. })), "{probed:?}");
    assert!(begun.elapsed() < Duration::from_secs(12));
}
