//! The store that is tested: an embedded one in this process, or the one that the environment names.

use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::sync::Arc;

use curve_types::ByteSize;
use curvefs_data::{ObjectStore, S3Access, S3Bucket, SecretKey};
use curvefs_objectstore::{ObjectStoreConfig, SetupError};
use curvefs_types::FsId;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// `CURVE_TEST_S3_ENDPOINT`, and with it `…_BUCKET` (several with commas between them), `…_ACCESS_KEY`, `…_SECRET_KEY` and, unless
/// it is us-east-1, `…_REGION`.
const VARIABLES: &str = "CURVE_TEST_S3_";
const REGION: &str = "us-east-1";
const ACCESS_KEY: &str = "access";
const SECRET_KEY: &str = "a-secret-key";

fn variable(name: &str) -> Option<String> {
    std::env::var(format!("{VARIABLES}{name}")).ok().filter(|value| !value.is_empty())
}

/// The store that is tested. What a test leaves in it stays when it is not the embedded one.
pub struct Store {
    /// With its first bucket.
    access: S3Access,
    buckets: Vec<String>,
    embedded: Option<Embedded>,
}

impl Store {
    /// The store of the environment; without it an embedded one for this test alone.
    pub async fn start() -> Self {
        let Some(endpoint) = variable("ENDPOINT") else { return Self::embedded().await };
        let needed = |name| variable(name).unwrap_or_else(|| panic!("{VARIABLES}{name} is needed, too"));
        let buckets = needed("BUCKET").split(',').map(str::to_owned).collect::<Vec<_>>();
        let access = S3Access {
            endpoint,
            region: variable("REGION").unwrap_or_else(|| REGION.into()),
            bucket: buckets[0].clone(),
            access_key: needed("ACCESS_KEY"),
            secret_key: SecretKey::new(needed("SECRET_KEY")),
        };
        Self { access, buckets, embedded: None }
    }

    /// An embedded store, whatever the environment says.
    pub async fn embedded() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("secret"), SECRET_KEY).unwrap();
        let running = Running::start(dir.path(), "127.0.0.1:0").await;
        let access = S3Access {
            endpoint: format!("http://{}", running.address),
            region: REGION.into(),
            bucket: "one".into(),
            access_key: ACCESS_KEY.into(),
            secret_key: SecretKey::new(SECRET_KEY),
        };
        Self { access, buckets: vec!["one".into(), "two".into()], embedded: Some(Embedded { dir, running }) }
    }

    /// The first bucket, with keys that work.
    pub fn access(&self) -> S3Access {
        self.access.clone()
    }

    /// The first bucket.
    pub fn bucket(&self) -> S3Bucket {
        S3Bucket::new(self.access())
    }

    /// All buckets: two of the embedded store.
    pub fn buckets(&self) -> Vec<Arc<dyn ObjectStore>> {
        let bucket = |bucket: &String| -> Arc<dyn ObjectStore> {
            Arc::new(S3Bucket::new(S3Access { bucket: bucket.clone(), ..self.access() }))
        };
        self.buckets.iter().map(bucket).collect()
    }

    /// Stops an embedded store, and returns what starts it again at the same address.
    pub async fn stop(self) -> Stopped {
        let Embedded { dir, running } = self.embedded.expect("a store that may be stopped");
        let address = running.address.clone();
        running.stop().await;
        Stopped { dir, address, access: self.access, buckets: self.buckets }
    }

    /// Ends an embedded store in order.
    pub async fn end(self) {
        if let Some(embedded) = self.embedded {
            embedded.running.stop().await;
        }
    }
}

/// A number of a file system that no other test, here or in another process, uses in the same store.
pub fn unused_fs() -> FsId {
    FsId(RandomState::new().hash_one(std::process::id()) as u32)
}

/// An embedded store that does not run.
pub struct Stopped {
    dir: TempDir,
    address: String,
    access: S3Access,
    buckets: Vec<String>,
}

impl Stopped {
    pub async fn start(self) -> Store {
        let running = Running::start(self.dir.path(), &self.address).await;
        let embedded = Some(Embedded { dir: self.dir, running });
        Store { access: self.access, buckets: self.buckets, embedded }
    }
}

struct Embedded {
    dir: TempDir,
    running: Running,
}

struct Running {
    address: String,
    stop: oneshot::Sender<()>,
    served: JoinHandle<Result<(), SetupError>>,
}

impl Running {
    async fn start(dir: &Path, address: &str) -> Self {
        let config = ObjectStoreConfig {
            data_dir: dir.join("data"),
            http_address: String::new(),
            access_key: ACCESS_KEY.into(),
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

    async fn stop(self) {
        self.stop.send(()).unwrap();
        self.served.await.unwrap().unwrap();
    }
}
