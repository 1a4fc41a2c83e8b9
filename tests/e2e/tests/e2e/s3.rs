//! S3 with programs that are not ours: boto3 and s3fs on `curve serve s3`, and a file system in the store that the
//! environment names (`make fs-s3`: moto's), or in the embedded one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use curve_e2e::{Boto3, ServedStore, StorePlace, turn};
use curve_harness::{Finished, FsMount, Playground, PlaygroundOptions, has_program, is_mount_point, run};

use crate::curvefs::{blocking, can_mount};

#[tokio::test]
async fn boto3_works_with_the_embedded_store() {
    let _turn = turn("boto3_works_with_the_embedded_store").await;
    let Some(boto3) = Boto3::found().await else { return };
    let store = ServedStore::start().await;
    let said = boto3.everything(&store.place()).await;
    let said = said.unwrap_or_else(|error| panic!("{error}\n{}", store.log()));
    println!("{}", said.stdout.trim());
    assert_eq!(boto3.keys(&store.place()).await.expect("a list"), Vec::<String>::new());
    store.stop().await;
}

#[tokio::test]
async fn s3fs_works_with_the_embedded_store() {
    let _turn = turn("s3fs_works_with_the_embedded_store").await;
    if !can_mount() {
        return;
    }
    if !has_program("s3fs") || !has_program("fusermount") {
        println!("needs s3fs and fusermount (make deps); nothing was tested");
        return;
    }
    let store = ServedStore::start().await;
    let dir = tempfile::Builder::new().prefix("curve-s3fs-").tempdir().expect("a directory");
    let mount = S3fs::mount(dir.path(), &store.place()).await;
    let root = mount.dir.clone();
    blocking(move || files_come_and_go(&root)).await;
    let (root, source) = (mount.dir.display().to_string(), dir.path().join("source"));
    make_tree(&source);
    let (source, copied) = (source.display().to_string(), format!("{root}/tree"));
    for (program, arguments) in [
        ("cp", &["-r", &source, &copied][..]),
        ("diff", &["-r", &source, &copied]),
        ("rm", &["-r", &copied, &format!("{root}/moved")]),
    ] {
        run(120, program, arguments).await.unwrap_or_else(|error| panic!("{error}"));
    }
    blocking(move || assert_eq!(fs::read_dir(root).expect("read").count(), 0)).await;
    mount.unmount().await;
    if let Some(boto3) = Boto3::found().await {
        assert_eq!(boto3.keys(&store.place()).await.expect("a list"), Vec::<String>::new());
    }
    store.stop().await;
}

/// A bucket, mounted by s3fs. Unmounted when dropped.
struct S3fs {
    daemon: Child,
    dir: PathBuf,
    log: PathBuf,
}

impl S3fs {
    async fn mount(base: &Path, place: &StorePlace) -> Self {
        let (dir, keys, log) = (base.join("mount"), base.join("keys"), base.join("log"));
        fs::create_dir(&dir).expect("made");
        let mut file = File::options().create_new(true).write(true).mode(0o600).open(&keys).expect("made");
        file.write_all(format!("{}:{}\n", place.access_key, place.secret_key).as_bytes()).expect("written");
        let options = format!("passwd_file={},url={},use_path_request_style", keys.display(), place.endpoint);
        let output = File::create(&log).expect("a log");
        let daemon = Command::new("s3fs")
            .arg(&place.bucket)
            .arg(&dir)
            .args(["-f", "-o", &options])
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a descriptor"))
            .stderr(output)
            .spawn()
            .expect("s3fs starts");
        let mut mount = Self { daemon, dir, log };
        let until = Instant::now() + Duration::from_secs(20);
        while !is_mount_point(&mount.dir) {
            let ended = mount.daemon.try_wait().expect("a child can be waited for");
            let said = || fs::read_to_string(&mount.log).unwrap_or_default();
            assert!(ended.is_none() && Instant::now() < until, "s3fs does not mount ({ended:?}): {}", said());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        mount
    }

    /// In order: what was written is in the bucket.
    async fn unmount(mut self) {
        let dir = self.dir.display().to_string();
        run(30, "fusermount", &["-u", &dir]).await.unwrap_or_else(|error| panic!("{error}"));
        let until = Instant::now() + Duration::from_secs(30);
        while self.daemon.try_wait().expect("a child can be waited for").is_none() {
            assert!(Instant::now() < until, "s3fs runs on after fusermount -u");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for S3fs {
    fn drop(&mut self) {
        if is_mount_point(&self.dir) {
            // Without its daemon the kernel lets go of the mount.
            let _ = self.daemon.kill();
            let _ = Command::new("umount").arg("-l").arg(&self.dir).status();
        }
        let _ = self.daemon.wait();
    }
}

fn bytes(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|at| (at % 251) as u8 ^ seed).collect()
}

fn files_come_and_go(dir: &Path) {
    let large = bytes(25 << 20, 0);
    fs::create_dir_all(dir.join("a/b")).expect("made");
    fs::write(dir.join("a/small"), b"hello").expect("written");
    fs::write(dir.join("a/b/large"), &large).expect("written");
    fs::write(dir.join("a/empty"), b"").expect("written");
    assert_eq!(fs::read(dir.join("a/small")).expect("read"), b"hello");
    assert!(fs::read(dir.join("a/b/large")).expect("read") == large);
    fs::write(dir.join("a/small"), b"another").expect("written");
    assert_eq!(fs::read(dir.join("a/small")).expect("read"), b"another");
    fs::rename(dir.join("a/b/large"), dir.join("moved")).expect("moved");
    assert!(fs::read(dir.join("moved")).expect("read") == large);
    assert!(!dir.join("a/b/large").exists());
    let names = fs::read_dir(dir.join("a")).expect("read").map(|it| it.expect("an entry").file_name());
    let names = names.collect::<BTreeSet<_>>();
    assert!(names.iter().eq(["b", "empty", "small"]), "{names:?}");
    fs::remove_dir_all(dir.join("a")).expect("removed");
    assert_eq!(fs::read_dir(dir).expect("read").count(), 1);
}

/// Four directories with files of 0 to 150,000 bytes.
fn make_tree(root: &Path) {
    for dir in ["", "one", "two", "two/three"] {
        fs::create_dir_all(root.join(dir)).expect("made");
        for file in 0..5 {
            let content = bytes(file * file * 10_000, file as u8);
            fs::write(root.join(dir).join(format!("file {file}")), content).expect("written");
        }
    }
}

/// What `curve fs create` is told beside the name.
async fn create(playground: &Playground, place: &StorePlace) -> Finished {
    let secret = playground.dir().join("secret-of-the-test");
    fs::write(&secret, &place.secret_key).expect("written");
    let secret = secret.display().to_string();
    let store = ["--backend", "s3", "--endpoint", &place.endpoint, "--region", &place.region];
    let keys = ["--bucket", &place.bucket, "--access-key", &place.access_key, "--secret-key-file", &secret];
    let all = [&["fs", "create", "fs"], &store[..], &keys[..]].concat();
    playground.curve(&all).await.expect("it runs")
}

/// Bytes that a file system puts into a store are all there for another mount, and none is left after they were deleted.
#[tokio::test]
async fn a_store_keeps_a_file_system_and_is_empty_after_it() {
    let _turn = turn("a_store_keeps_a_file_system_and_is_empty_after_it").await;
    let Some(boto3) = Boto3::found().await.filter(|_| can_mount()) else { return };
    let more = ["--fs", "--metaserver-set", "garbage_grace = '2s'"].map(str::to_owned).to_vec();
    let options = PlaygroundOptions { more, ..PlaygroundOptions::default() };
    let playground = Playground::start(options).await.unwrap_or_else(|error| panic!("{error}"));
    let place = match StorePlace::of_environment() {
        Some(place) => place,
        None => StorePlace::of_playground(&playground).await.expect("a playground with a store"),
    };
    println!("the store is at {}", place.endpoint);
    wrong_places_are_refused(&playground, &place).await;
    let before = boto3.keys(&place).await.unwrap_or_else(|error| panic!("{error}"));
    create(&playground, &place).await.success().unwrap_or_else(|error| panic!("{error}"));
    let mounts = tempfile::Builder::new().prefix("curve-mounts-").tempdir().expect("a directory");

    let mount = FsMount::start(&playground, "fs", &mounts.path().join("a"), &[]).await;
    let root = mount.dir().to_path_buf();
    let files = blocking(move || write_files(&root)).await;
    mount.unmount().await.unwrap_or_else(|error| panic!("{error}"));
    let keys = boto3.keys(&place).await.expect("a list");
    let objects = keys.len().saturating_sub(before.len());
    println!("{} files are in {objects} objects", files.len());
    assert!(objects >= 5, "20 MB are in objects of 4 MiB: {keys:?}");

    let mount = FsMount::start(&playground, "fs", &mounts.path().join("b"), &[]).await;
    let root = mount.dir().to_path_buf();
    blocking(move || {
        for (name, content) in &files {
            assert!(fs::read(root.join(name)).expect("read") == *content, "{name} is another");
        }
        fs::remove_dir_all(root.join("dir")).expect("removed");
        for name in files.keys().filter(|name| !name.starts_with("dir/")) {
            fs::remove_file(root.join(name)).expect("removed");
        }
    })
    .await;
    mount.unmount().await.unwrap_or_else(|error| panic!("{error}"));
    becomes(&boto3, &place, &before).await;
    let removed =
        playground.json(&["fs", "rm", "fs", "--yes"]).await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(removed["objects_deleted"], 0, "{removed}");
}

async fn wrong_places_are_refused(playground: &Playground, good: &StorePlace) {
    for (place, code) in [
        (StorePlace { bucket: "curve-none-at-all".into(), ..good.clone() }, "BUCKET_MISSING"),
        (StorePlace { secret_key: "another-key".into(), ..good.clone() }, "STORE_CREDENTIALS"),
        (StorePlace { access_key: "nobody".into(), ..good.clone() }, "STORE_CREDENTIALS"),
    ] {
        let refused = create(playground, &place).await;
        assert!(!refused.status.success() && refused.stderr.contains(code), "no {code}: {}", refused.stderr);
    }
}

/// Files of all kinds, synced; their names and contents.
fn write_files(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    fs::create_dir(root.join("dir")).expect("made");
    for number in 0..30 {
        files.insert(format!("dir/{number}"), bytes(1000 * number, number as u8));
    }
    files.insert("small".into(), bytes(10, 1));
    files.insert("medium".into(), bytes(300_000, 2));
    files.insert("large".into(), bytes(20_000_000, 3));
    for (name, content) in &files {
        let mut file = File::create(root.join(name)).expect("made");
        file.write_all(content).expect("written");
        file.sync_all().expect("durable");
    }
    // Over two objects' border and the end.
    let large = files.get_mut("large").expect("it is there");
    let mut file = OpenOptions::new().write(true).open(root.join("large")).expect("opened");
    for (at, len) in [(4_100_000, 200_000), (19_999_000, 5000)] {
        let over = bytes(len, 77);
        file.seek(SeekFrom::Start(at as u64)).expect("sought");
        file.write_all(&over).expect("written");
        large.resize(large.len().max(at + len), 0);
        large[at..at + len].copy_from_slice(&over);
    }
    file.sync_all().expect("durable");
    files
}

/// Waits until the bucket holds these objects and no others.
async fn becomes(boto3: &Boto3, place: &StorePlace, wanted: &[String]) {
    let until = Instant::now() + Duration::from_secs(120);
    loop {
        let keys = boto3.keys(place).await.expect("a list");
        if keys == wanted {
            return;
        }
        assert!(Instant::now() < until, "deleted, and still in the bucket: {keys:?}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
