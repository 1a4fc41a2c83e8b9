//! The program itself, with the kernel, over sockets, with data in an object store. Metaservers and MDS are those of the
//! client's tests (state machines without replication); what is tested is what a user sees of `curve-fuse`.

#[path = "../../../curvefs/client/tests/support/mod.rs"]
mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use curve_io::{Network, ServerHandle};
use curve_proto::pb::mds as pb;
use curve_proto::pb::mds::mds_server::{Mds, MdsServer};
use curve_rpc::{RpcConfig, RpcNetwork};
use curve_types::ByteSize;
use curvefs_objectstore::ObjectStoreConfig;
use curvefs_types::MountId;
use support::{NODES, State, World};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

const PROGRAM: &str = env!("CARGO_BIN_EXE_curve-fuse");
/// No step takes longer.
const STEP_MAX: Duration = Duration::from_secs(40);

struct Service(Arc<Mutex<State>>);

#[tonic::async_trait]
impl Mds for Service {
    async fn call(
        &self,
        request: tonic::Request<pb::MdsRequest>,
    ) -> Result<tonic::Response<pb::MdsResponse>, tonic::Status> {
        let answer = support::answer(&self.0, request.into_inner());
        answer.map(tonic::Response::new).ok_or_else(|| tonic::Status::unavailable("down"))
    }
}

/// A cluster in this process, and a directory for mounts.
struct Cluster {
    world: World,
    mds: String,
    dir: TempDir,
    _servers: Vec<Box<dyn ServerHandle>>,
    /// Last, so that what runs on it ends first.
    _runtime: Runtime,
}

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

async fn start_store(dir: &Path) -> String {
    fs::write(dir.join("secret"), "a-secret-key").unwrap();
    let config = ObjectStoreConfig {
        data_dir: dir.join("s3"),
        http_address: String::new(),
        access_key: "key".into(),
        secret_key_file: dir.join("secret"),
        buckets: vec!["bucket-1".into()],
        reserve: ByteSize(0),
        ..Default::default()
    };
    let (listener, address) = listen().await;
    let (ready, is_ready) = tokio::sync::oneshot::channel();
    tokio::spawn(curvefs_objectstore::serve(config, listener, std::future::pending(), || {
        ready.send(()).unwrap()
    }));
    is_ready.await.unwrap();
    format!("http://{address}")
}

async fn start_mds(state: Arc<Mutex<State>>) -> String {
    let (listener, address) = listen().await;
    drop(listener);
    let serving = tonic::transport::Server::builder().add_service(MdsServer::new(Service(state)));
    tokio::spawn(serving.serve(address.parse().unwrap()));
    address
}

impl Cluster {
    /// `None`, with a message, where this machine cannot mount.
    fn start() -> Option<Self> {
        if !Path::new("/dev/fuse").exists() || !rustix::process::geteuid().is_root() {
            eprintln!("skipped: it needs root and /dev/fuse");
            return None;
        }
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let dir = TempDir::new().unwrap();
        fs::create_dir(dir.path().join("mnt")).unwrap();
        let (world, mds, servers) = runtime.block_on(async {
            let world = World::new(3, 1).await;
            let network = RpcNetwork::new(RpcConfig::default());
            let mut servers = Vec::new();
            for node in NODES {
                let server = network.serve("127.0.0.1:0", world.metaserver(node)).await.unwrap();
                world.state().addresses.insert(node, server.address());
                servers.push(server);
            }
            let endpoint = start_store(dir.path()).await;
            {
                let mds = &mut world.state().mds;
                (mds.endpoint, mds.secret, mds.lease_ms) = (endpoint, "a-secret-key", 1500);
            }
            let address = start_mds(world.shared()).await;
            (world.clone(), address, servers)
        });
        Some(Self { world, mds, dir, _servers: servers, _runtime: runtime })
    }

    fn point(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command
            .args(args)
            .env("CURVE_MDS", &self.mds)
            .env_remove("CURVE_CONFIG")
            .current_dir(self.dir.path());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    fn mount(&self, more: &[&str]) -> Output {
        let log = format!("log={}", self.dir.path().join("log").display());
        self.run(&[&["mount", "demo", "mnt", "--background", "-o", &log], more].concat())
    }

    fn umount(&self) -> Output {
        self.run(&["umount", "mnt"])
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // After a failure; nothing is there otherwise.
        let _ = self.command(&["umount", "--lazy", "mnt"]).stderr(Stdio::null()).status();
    }
}

fn good(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

fn bad(output: &Output, hint: &str) {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains(hint), "no `{hint}` in: {said}");
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let until = Instant::now() + STEP_MAX;
    while !done() {
        assert!(Instant::now() < until, "{what} takes too long");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn is_mounted(dir: &Path) -> bool {
    curve_mounts::at(&curve_mounts::all().unwrap(), dir).is_some()
}

fn kill(child: &Child, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

#[test]
fn what_was_written_is_there_after_umount_and_mount() {
    let Some(cluster) = Cluster::start() else { return };
    let point = cluster.point();
    let said = good(&cluster.mount(&[]));
    assert_eq!(said.trim(), format!("mounted {}", point.canonicalize().unwrap().display()));
    bad(&cluster.mount(&[]), "already");
    let content: Vec<u8> = (0..9_000_000_u32).map(|at| (at % 251) as u8).collect();
    for dir in ["a", "b", "c"] {
        fs::create_dir(point.join(dir)).unwrap();
        fs::write(point.join(dir).join("big"), &content).unwrap();
    }
    fs::rename(point.join("a/big"), point.join("b/moved")).unwrap();
    good(&cluster.umount());
    assert!(!is_mounted(&point));
    assert_eq!(
        cluster.world.state().mds.unmounted,
        [1],
        "the mount is ended at the MDS before umount returns"
    );
    bad(&cluster.umount(), "not a CurveFS mount");
    // mount(8)'s way, a directory of it, read only.
    let helper = cluster.dir.path().join("mount.curvefs");
    symlink(PROGRAM, &helper).unwrap();
    let log = format!("ro,_netdev,log={}", cluster.dir.path().join("log").display());
    let mut command = Command::new(&helper);
    command.args(["demo:/b", point.to_str().unwrap(), "-o", &log]).env("CURVE_MDS", &cluster.mds);
    good(&command.output().unwrap());
    assert!(fs::read(point.join("moved")).unwrap() == content);
    let refused = fs::write(point.join("new"), "x").unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(30), "EROFS");
    good(&cluster.umount());
    assert_eq!(cluster.world.problems(), Vec::<String>::new());
}

#[test]
fn a_signal_unmounts_and_loses_nothing() {
    let Some(cluster) = Cluster::start() else { return };
    let point = cluster.point();
    let mut command = cluster.command(&["mount", "demo", "mnt"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("mounted "), "{line}");
    let mut file = fs::File::create(point.join("open")).unwrap();
    file.write_all(b"not synced").unwrap();
    kill(&child, rustix::process::Signal::TERM);
    // The file is open: the directory is taken out of the tree first, and the process ends after the file was closed.
    wait_for("taking it out of the tree", || !is_mounted(&point));
    file.write_all(b", and more").unwrap();
    drop(file);
    let status = child.wait().unwrap();
    let mut log = String::new();
    child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert!(status.success() && log.contains("in use"), "{log}");
    good(&cluster.mount(&[]));
    assert_eq!(fs::read(point.join("open")).unwrap(), b"not synced, and more");
    good(&cluster.umount());
}

#[test]
fn a_mount_that_is_shut_out_says_so_and_stays_until_it_is_unmounted() {
    let Some(cluster) = Cluster::start() else { return };
    let point = cluster.point();
    good(&cluster.mount(&["-o", "attr_timeout=0,dir_attr_timeout=0,entry_timeout=0"]));
    fs::write(point.join("file"), "x").unwrap();
    cluster.world.state().mds.over = true;
    cluster.world.state().shut_out(MountId(1));
    wait_for("the fence", || cluster.log().contains("MOUNT_FENCED"));
    let failed = fs::write(point.join("file"), "y").unwrap_err();
    assert_eq!(failed.raw_os_error(), Some(5), "EIO");
    assert!(cluster.log().contains("curve-fuse umount"), "it says what to do");
    assert!(is_mounted(&point));
    good(&cluster.umount());
    cluster.world.state().mds.over = false;
    good(&cluster.mount(&[]));
    assert_eq!(fs::read(point.join("file")).unwrap(), b"x");
    good(&cluster.umount());
}

#[test]
fn a_mount_whose_process_died_is_said_and_can_be_replaced() {
    let Some(cluster) = Cluster::start() else { return };
    let point = cluster.point();
    let mut child = cluster.command(&["mount", "demo", "mnt"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let mut file = fs::File::create(point.join("file")).unwrap();
    file.write_all(b"synced").unwrap();
    file.sync_all().unwrap();
    kill(&child, rustix::process::Signal::KILL);
    child.wait().unwrap();
    drop(file);
    assert!(fs::read(point.join("file")).is_err());
    bad(&cluster.mount(&[]), "curve-fuse umount");
    bad(&cluster.run(&["upgrade", "mnt"]), "curve-fuse umount");
    good(&cluster.umount());
    good(&cluster.mount(&["-o", "noexec"]));
    assert_eq!(fs::read(point.join("file")).unwrap(), b"synced");
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let ours = mounts.lines().find(|line| line.contains(point.to_str().unwrap())).unwrap();
    assert!(
        ours.starts_with("demo ") && ours.contains(" fuse.curvefs ") && ours.contains("noexec"),
        "{ours}"
    );
    good(&cluster.umount());
}

#[test]
fn what_cannot_be_mounted_is_said_and_leaves_nothing() {
    let Some(cluster) = Cluster::start() else { return };
    let mount = |name: &str, dir: &str, more: &[&str]| {
        let log = format!("log={}", cluster.dir.path().join("log").display());
        cluster.run(&[&["mount", name, dir, "--background", "-o", &log], more].concat())
    };
    for (name, dir, more, hint) in [
        ("demo", "none", &[][..], "mkdir -p none"),
        ("demo", "secret", &[], "not a directory"),
        ("none", "mnt", &[], "`curve fs ls`"),
        ("No!", "mnt", &[], "no name of a file system"),
        ("demo:/x", "mnt", &[], "no such file or directory"),
        ("demo", "mnt", &["-o", "noatme"], "did you mean `noatime`?"),
        ("demo", "mnt", &["--config", "/none.toml"], "/none.toml"),
    ] {
        bad(&mount(name, dir, more), hint);
    }
    cluster.world.state().mds.down = true;
    bad(&mount("demo", "mnt", &[]), "no MDS");
    let mut command = Command::new(PROGRAM);
    command.args(["mount", "demo"]).arg(cluster.point()).env_remove("CURVE_MDS").env_remove("CURVE_CONFIG");
    bad(&command.current_dir("/").output().unwrap(), "$CURVE_MDS");
    assert!(!is_mounted(&cluster.point()));
    let state = cluster.world.state();
    assert_eq!(state.mds.mounts.len(), state.mds.unmounted.len());
}

/// Where the process of the mount listens, and its number.
fn door(point: &Path) -> (PathBuf, u32) {
    let mounts = curve_mounts::all().unwrap();
    let device = &curve_mounts::at(&mounts, point).unwrap().device;
    let place = Path::new("/run/curve/fuse");
    let process = fs::read_to_string(place.join(device)).unwrap().parse().unwrap();
    (place.join(format!("{device}.sock")), process)
}

/// A process that wants to go on with the mount, by hand: says what it says, and hears what it hears.
struct Next(UnixStream);

impl Next {
    fn knock(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(STEP_MAX)).unwrap();
        let mut next = Self(stream);
        next.say(1, b"CURVEHND\x01\x00");
        next
    }

    fn say(&mut self, kind: u8, body: &[u8]) {
        let message = [&[kind], &(body.len() as u64).to_le_bytes()[..], body].concat();
        self.0.write_all(&message).unwrap();
    }

    /// The kind of the next message; the descriptors that come with it are lost, which is what a process does that dies.
    fn hear(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut header = [0; 9];
        self.0.read_exact(&mut header).ok()?;
        let mut body = vec![0; u64::from_le_bytes(header[1..].try_into().unwrap()) as usize];
        self.0.read_exact(&mut body).ok()?;
        Some((header[0], body))
    }
}

fn healthz(address: &str) -> Option<String> {
    let mut stream = std::net::TcpStream::connect(address).ok()?;
    stream.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").ok()?;
    let mut said = String::new();
    stream.read_to_string(&mut said).ok()?;
    Some(said)
}

#[test]
fn another_process_goes_on_with_a_mount() {
    let Some(cluster) = Cluster::start() else { return };
    let point = cluster.point();
    let http = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    good(&cluster.mount(&["--http", &http]));
    fs::create_dir(point.join("dir")).unwrap();
    let mut file = fs::File::create(point.join("dir/open")).unwrap();
    let mut expected = Vec::new();
    for round in 0..4_u8 {
        file.write_all(&[round; 5000]).unwrap();
        expected.extend([round; 5000]);
        let (_, before) = door(&point);
        let said = good(&cluster.run(&["upgrade", "mnt", "--background"]));
        assert_eq!(said.trim(), format!("took over {}", point.canonicalize().unwrap().display()));
        assert_ne!(door(&point).1, before);
        wait_for("the end of the process before", || !is_running(before));
        wait_for("metrics", || healthz(&http).is_some_and(|said| said.contains("200 OK")));
        assert!(fs::read(point.join("dir/open")).unwrap() == expected);
    }
    drop(file);
    assert!(cluster.log().contains("handed over") && cluster.log().contains("took the mount over"));
    {
        let state = cluster.world.state();
        assert_eq!((state.mds.mounts.len(), state.mds.unmounted.len()), (1, 0), "it is the same mount");
    }
    good(&cluster.umount());
    assert_eq!(cluster.world.state().mds.unmounted, [1]);
    good(&cluster.mount(&[]));
    assert!(fs::read(point.join("dir/open")).unwrap() == expected);
    // In the foreground, and a directory of the file system: also one that has another name by now.
    good(&cluster.umount());
    let log = format!("log={}", cluster.dir.path().join("log").display());
    good(&cluster.run(&["mount", "demo:/dir", "mnt", "--background", "-o", &log]));
    let mut child = cluster.command(&["upgrade", "mnt"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("took over "), "{line}");
    assert!(fs::read(point.join("open")).unwrap() == expected);
    kill(&child, rustix::process::Signal::TERM);
    assert!(child.wait().unwrap().success());
    assert!(!is_mounted(&point));
    assert_eq!(cluster.world.problems(), Vec::<String>::new());
}

fn is_running(process: u32) -> bool {
    fs::read_to_string(format!("/proc/{process}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn a_mount_stays_with_its_process_whatever_the_next_does() {
    let Some(cluster) = Cluster::start() else { return };
    let point = cluster.point();
    bad(&cluster.run(&["upgrade", "mnt"]), "not a CurveFS mount");
    good(&cluster.mount(&[]));
    let mut file = fs::File::create(point.join("open")).unwrap();
    let (socket, process) = door(&point);
    let mut written = 0;
    let mut goes_on = |what: &str| {
        file.write_all(b"x").unwrap();
        file.sync_all().unwrap();
        written += 1;
        assert_eq!(fs::metadata(point.join("open")).unwrap().len(), written, "{what}");
        assert_eq!(door(&point).1, process, "{what}");
    };
    // It hangs up after each step, or says what nobody expects; the last one after it was told to go.
    for steps in [&[][..], &[9], &[7], &[4], &[4, 2], &[4, 6]] {
        let mut next = Next::knock(&socket);
        assert_eq!(next.hear().unwrap().0, 3, "terms");
        for (step, kind) in steps.iter().enumerate() {
            next.say(*kind, b"");
            let (heard, body) = next.hear().unwrap();
            let expected = if *kind == 4 && step == 0 {
                5
            } else if *kind == 6 {
                7
            } else {
                2
            };
            assert_eq!(heard, expected, "{steps:?}: {}", String::from_utf8_lossy(&body));
        }
        drop(next);
        goes_on(&format!("{steps:?}"));
    }
    // One at a time.
    let mut first = Next::knock(&socket);
    first.hear().unwrap();
    bad(&cluster.run(&["upgrade", "mnt", "--background"]), "right now");
    drop(first);
    goes_on("two at once");
    let mut old = Next(UnixStream::connect(&socket).unwrap());
    old.say(1, b"CURVEHND\x00\x00");
    let (kind, why) = old.hear().unwrap();
    assert!(kind == 2 && String::from_utf8_lossy(&why).contains("version 0 is not known"));
    // What the next process needs is not there.
    cluster.world.state().mds.down = true;
    bad(&cluster.run(&["upgrade", "mnt"]), "no MDS");
    cluster.world.state().mds.down = false;
    goes_on("no MDS");
    assert!(cluster.log().contains("not handed over; serving on"));
    wait_for("the door", || cluster.run(&["upgrade", "mnt", "--background"]).status.success());
    assert_ne!(door(&point).1, process);
    drop(file);
    good(&cluster.umount());
    assert_eq!(cluster.world.problems(), Vec::<String>::new());
}

#[test]
fn a_signal_during_a_handover_ends_the_mount() {
    let Some(cluster) = Cluster::start() else { return };
    let point = cluster.point();
    good(&cluster.mount(&[]));
    fs::write(point.join("file"), "x").unwrap();
    let (socket, process) = door(&point);
    let mut next = Next::knock(&socket);
    next.hear().unwrap();
    let pid = rustix::process::Pid::from_raw(process as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    wait_for("unmounting", || !is_mounted(&point) && !is_running(process));
    assert!(next.hear().is_none(), "hung up");
    assert_eq!(cluster.world.state().mds.unmounted, [1]);
    assert!(!socket.exists());
}
