//! The S3 bucket against the embedded store: the same data, and what a wrong set-up is told.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use curve_types::ByteSize;
use curvefs_data::{
    BackendOptions, DataError, ObjectBackend, ObjectStore, Patience, ProbeError, S3Access, S3Bucket,
    SecretKey, probe_bucket, purge,
};
use curvefs_objectstore::{ObjectStoreConfig, SetupError};
use curvefs_types::{DataBackend, FsError, FsId, InodeId, WriterId};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const SECRET: &str = "a-secret-key";

struct Server {
    address: String,
    stop: oneshot::Sender<()>,
    served: JoinHandle<Result<(), SetupError>>,
}

impl Server {
    async fn start(dir: &Path, address: &str) -> Self {
        std::fs::write(dir.join("secret"), SECRET).unwrap();
        let config = ObjectStoreConfig {
            data_dir: dir.join("data"),
            http_address: String::new(),
            access_key: "access".into(),
            secret_key_file: dir.join("secret"),
            buckets: vec!["one".into(), "two".into()],
            reserve: ByteSize(0),
            ..Default::default()
        };
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = oneshot::channel();
        let served = tokio::spawn(async move {
            let stopped = async { drop(stopped.await) };
            curvefs_objectstore::serve(config, listener, stopped, || ready.send(()).unwrap()).await
        });
        is_ready.await.unwrap();
        Self { address, stop, served }
    }

    fn access(&self, bucket: &str) -> S3Access {
        S3Access {
            endpoint: format!("http://{}", self.address),
            region: "us-east-1".into(),
            bucket: bucket.into(),
            access_key: "access".into(),
            secret_key: SecretKey::new(SECRET),
        }
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        self.served.await.unwrap().unwrap();
    }
}

fn backend(buckets: Vec<S3Bucket>) -> ObjectBackend {
    let buckets = buckets.into_iter().map(|bucket| Arc::new(bucket) as Arc<dyn ObjectStore>).collect();
    ObjectBackend::new(buckets, FsId(1), WriterId(2), BackendOptions::default())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_comes_back_from_two_buckets_and_after_a_restart_of_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), "127.0.0.1:0").await;
    let address = server.address.clone();
    let data = backend(["one", "two"].map(|bucket| S3Bucket::new(server.access(bucket))).into());
    data.probe().await.unwrap();
    let content = (0..20_000_000).map(|at: u32| (at % 251) as u8).collect::<Bytes>();
    let written = data.write(InodeId::ROOT, 60 << 20, vec![content.clone()]).await.unwrap();
    let extents = written.into_inner();
    assert_eq!(extents.len(), 2, "it crosses a chunk's border");
    server.stop().await;
    let waiting = data.read(extents[0]);
    let restarted = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        Server::start(dir.path(), &address).await
    };
    let (first, server) = tokio::join!(waiting, restarted);
    let mut whole = first.unwrap().concat();
    whole.extend(data.read(extents[1]).await.unwrap().concat());
    assert!(whole == content);
    let part = extents[0].part((60 << 20) + 100_000, (60 << 20) + 100_010).unwrap();
    assert!(data.read(part).await.unwrap().concat() == content[100_000..100_010]);
    let slices = extents.iter().filter_map(|extent| extent.data.slice()).collect::<Vec<_>>();
    data.delete(slices).await.unwrap();
    let begun = Instant::now();
    assert_eq!(data.read(part).await.unwrap_err(), FsError::DataLost);
    assert!(begun.elapsed() < Duration::from_secs(5));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_systems_objects_are_found_and_deleted_and_those_of_others_stay() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), "127.0.0.1:0").await;
    let buckets = || -> Vec<Arc<dyn ObjectStore>> {
        let bucket = |bucket| Arc::new(S3Bucket::new(server.access(bucket))) as Arc<dyn ObjectStore>;
        ["one", "two"].map(bucket).into()
    };
    let options = BackendOptions { object_bytes: 64 << 10, ..BackendOptions::default() };
    let of = |fs| ObjectBackend::new(buckets(), FsId(fs), WriterId(2), options);
    let content = Bytes::from(vec![7; 4 << 20]);
    let mut extents = Vec::new();
    for fs in [1, 2] {
        let written = of(fs).write(InodeId::ROOT, 0, vec![content.clone()]).await.unwrap();
        extents.push(written.into_inner()[0]);
    }
    let patience = Patience::Soft(Duration::from_secs(10));
    assert_eq!(purge(&buckets(), FsId(1), patience, |_| ()).await, Ok(64));
    assert_eq!(purge(&buckets(), FsId(1), patience, |_| ()).await, Ok(0));
    assert_eq!(of(1).read(extents[0]).await.unwrap_err(), FsError::DataLost);
    assert!(of(2).read(extents[1]).await.unwrap().concat() == content);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_set_up_is_told_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), "127.0.0.1:0").await;
    let good = server.access("one");
    let wrong_key = S3Access { secret_key: SecretKey::new("another-key"), ..good.clone() };
    for (access, code) in [
        (server.access("none"), "BUCKET_MISSING"),
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
    assert!(matches!(bucket.put("o".into(), Bytes::new()).await, Err(DataError::Credentials { .. })));
    bucket.rotate("access", &SecretKey::new(SECRET));
    bucket.put("o".into(), Bytes::from_static(b"x")).await.unwrap();
    bucket.delete(vec!["o".into()]).await.unwrap();
    server.stop().await;
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
