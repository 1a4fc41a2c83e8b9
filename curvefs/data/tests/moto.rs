//! The same data on a store that is not ours: moto's server, if it is installed.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use bytes::Bytes;
use curvefs_data::{BackendOptions, ObjectBackend, ObjectStore, S3Access, S3Bucket, SecretKey};
use curvefs_types::{DataBackend, FsError, FsId, InodeId, WriterId};

struct Moto(Child);

impl Drop for Moto {
    fn drop(&mut self) {
        // It keeps nothing that could be lost.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(port: u16) -> Option<Moto> {
    let port = port.to_string();
    let mut server = Command::new("moto_server");
    server.args(["-H", "127.0.0.1", "-p", &port]).stdin(Stdio::null());
    server.stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok().map(Moto)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moto_keeps_the_same_data() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let Some(mut server) = start(port) else {
        println!("needs moto_server (pip install moto[server]); nothing was tested");
        return;
    };
    let endpoint = format!("http://127.0.0.1:{port}");
    let deadline = Instant::now() + Duration::from_secs(60);
    while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        if server.0.try_wait().unwrap().is_some() {
            println!("moto_server does not run here; nothing was tested");
            return;
        }
        assert!(Instant::now() < deadline, "moto_server does not listen");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let access = |bucket: &str| S3Access {
        endpoint: endpoint.clone(),
        region: "us-east-1".into(),
        bucket: bucket.into(),
        access_key: "access".into(),
        secret_key: SecretKey::new("secret"),
    };
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("access", "secret", None, None, "test"))
        .endpoint_url(&endpoint)
        .force_path_style(true);
    let client = aws_sdk_s3::Client::from_conf(config.build());
    for bucket in ["one", "two"] {
        client.create_bucket().bucket(bucket).send().await.unwrap();
    }
    let buckets =
        ["one", "two"].map(|bucket| Arc::new(S3Bucket::new(access(bucket))) as Arc<dyn ObjectStore>);
    let data = ObjectBackend::new(buckets.into(), FsId(1), WriterId(2), BackendOptions::default());
    data.check(1).await.unwrap();
    let content = (0..9_000_000).map(|at: u32| (at % 251) as u8).collect::<Bytes>();
    let written = data.write(InodeId::ROOT, 5, vec![content.clone()]).await.unwrap().into_inner();
    let [extent] = written[..] else { panic!("{written:?}") };
    assert!(data.read(extent).await.unwrap().concat() == content);
    let part = extent.part(4_200_000, 4_200_100).unwrap();
    assert!(data.read(part).await.unwrap().concat() == content[4_199_995..4_200_095]);
    data.delete(extent.data.slice().into_iter().collect()).await.unwrap();
    assert_eq!(data.read(part).await.unwrap_err(), FsError::DataLost);
}
