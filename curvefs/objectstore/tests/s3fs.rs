//! A client that knows nothing of us: s3fs mounts a bucket, and programs work in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use curve_types::ByteSize;
use curvefs_objectstore::ObjectStoreConfig;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

const SECRET: &str = "a-secret-key";

struct Mount {
    daemon: Child,
    dir: PathBuf,
}

impl Mount {
    fn new(base: &Path, address: &str) -> Self {
        use std::os::unix::fs::OpenOptionsExt;
        let (dir, keys) = (base.join("mount"), base.join("keys"));
        fs::create_dir(&dir).unwrap();
        let mut file =
            fs::File::options().create(true).write(true).truncate(true).mode(0o600).open(&keys).unwrap();
        std::io::Write::write_all(&mut file, format!("access:{SECRET}\n").as_bytes()).unwrap();
        let options = format!("passwd_file={},url=http://{address},use_path_request_style", keys.display());
        let log = fs::File::create(base.join("log")).unwrap();
        let daemon = Command::new("s3fs")
            .arg("bucket")
            .arg(&dir)
            .args(["-f", "-o", &options])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut mount = Self { daemon, dir };
        let deadline = Instant::now() + Duration::from_secs(20);
        while !mount.is_mounted() {
            let log = || fs::read_to_string(base.join("log")).unwrap_or_default();
            assert!(mount.daemon.try_wait().unwrap().is_none(), "s3fs ended: {}", log());
            assert!(Instant::now() < deadline, "s3fs does not mount: {}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
        mount
    }

    fn is_mounted(&self) -> bool {
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        mounts.lines().any(|line| line.split(' ').nth(1) == self.dir.to_str())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let unmounted = Command::new("fusermount").arg("-u").arg(&self.dir).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            // The daemon is ours; without it the kernel lets go of the mount.
            let _ = self.daemon.kill();
        }
        let _ = self.daemon.wait();
    }
}

fn can_mount() -> bool {
    let found = |name: &str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|dir| dir.join(name).is_file())
    };
    found("s3fs") && found("fusermount") && Path::new("/dev/fuse").exists()
}

fn use_it(dir: &Path) {
    let large = (0..25 << 20).map(|at: u32| (at % 251) as u8).collect::<Vec<_>>();
    fs::create_dir_all(dir.join("a/b")).unwrap();
    fs::write(dir.join("a/small"), b"hello").unwrap();
    fs::write(dir.join("a/b/large"), &large).unwrap();
    fs::write(dir.join("a/empty"), b"").unwrap();
    assert_eq!(fs::read(dir.join("a/small")).unwrap(), b"hello");
    assert!(fs::read(dir.join("a/b/large")).unwrap() == large);
    fs::write(dir.join("a/small"), b"another").unwrap();
    assert_eq!(fs::read(dir.join("a/small")).unwrap(), b"another");
    fs::rename(dir.join("a/b/large"), dir.join("moved")).unwrap();
    assert!(fs::read(dir.join("moved")).unwrap() == large);
    assert!(!dir.join("a/b/large").exists());
    let mut names =
        fs::read_dir(dir.join("a")).unwrap().map(|it| it.unwrap().file_name()).collect::<Vec<_>>();
    names.sort();
    assert_eq!(names, ["b", "empty", "small"]);
    fs::remove_dir_all(dir.join("a")).unwrap();
    assert_eq!(fs::read_dir(dir).unwrap().count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3fs_works_on_a_bucket() {
    if !can_mount() {
        println!("needs s3fs, fusermount and /dev/fuse (make deps); nothing was tested");
        return;
    }
    let base = tempfile::tempdir().unwrap();
    fs::write(base.path().join("secret"), SECRET).unwrap();
    let config = ObjectStoreConfig {
        data_dir: base.path().join("data"),
        http_address: String::new(),
        access_key: "access".into(),
        secret_key_file: base.path().join("secret"),
        buckets: vec!["bucket".into()],
        reserve: ByteSize(0),
        ..Default::default()
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (stop, stopped) = oneshot::channel::<()>();
    let served = tokio::spawn(async move {
        let stopped = async { drop(stopped.await) };
        curvefs_objectstore::serve(config, listener, stopped, || ()).await
    });
    let path = base.path().to_path_buf();
    let used = tokio::task::spawn_blocking(move || {
        let mount = Mount::new(&path, &address);
        use_it(&mount.dir);
    });
    used.await.unwrap();
    stop.send(()).unwrap();
    served.await.unwrap().unwrap();
}
