//! A Ceph cluster on this machine, to measure beside ours: one monitor, one manager, three BlueStore OSDs.
//!
//! It has the shape of the cluster that it is compared with: three replicas on the same disk, over loopback, two of them
//! enough to go on, no authentication. It is tuned as its users tune it: OSD settings for SSDs, debug levels 0 (they cost
//! a fifth of its CPU), scrubs off, caches as large as `osd_memory_target` would make them, and OSDs that allocate with
//! tcmalloc, as upstream's packages do and Debian's do not. OSD files are written once through, so that no run pays for
//! the file system's conversion of unwritten extents. All is in one directory, which its owner removes.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use curve_harness::{has_program, run_within};
use serde_json::Value;
use tokio::process::{Child, Command};

use crate::fio::Engine;
use crate::ports;

const OSDS: u32 = 3;
/// `osd_memory_target`. Debian's Ceph cannot tune its caches without tcmalloc built in, so they are fixed at two thirds.
const OSD_MEMORY_BYTES: u64 = 1536 << 20;
/// Monitor and manager beside the OSDs.
const OTHERS_MEMORY_BYTES: u64 = 1 << 30;
const POOL: &str = "rbd";
const IMAGE: &str = "bench";
const PLACEMENT_GROUPS: &str = "64";
/// What logs when nothing says otherwise.
const SUBSYSTEMS: &str = "\
    lockdep context crush buffer timer filer objecter rados rbd rbd_mirror journaler objectcacher client \
    osd optracker objclass filestore journal ms mon monc paxos tp auth finisher bluestore bluefs bdev \
    kstore rocksdb leveldb memdb mds mds_balancer mds_locker mds_log throttle perfcounter asok mgr mgrc \
    heartbeatmap prioritycache";

/// A running cluster with one image. Dropping it ends its processes and waits until they are gone.
pub struct Ceph {
    dir: PathBuf,
    daemons: Vec<Child>,
}

impl Ceph {
    /// Memory that a cluster will use, about.
    pub const MEMORY_BYTES: u64 = OSDS as u64 * OSD_MEMORY_BYTES + OTHERS_MEMORY_BYTES;

    /// Starts a cluster in the empty directory `dir`, with an image of `size` bytes that is not yet written.
    pub async fn start(dir: &Path, size: u64) -> Result<Self, String> {
        let mut ceph = Self::start_empty(dir, size, &["rbd"]).await?;
        ceph.ceph(&["osd", "pool", "create", POOL, PLACEMENT_GROUPS, PLACEMENT_GROUPS]).await?;
        ceph.ceph(&["osd", "pool", "application", "enable", POOL, "rbd"]).await?;
        ceph.wait(90, &["pg", "stat"], "placement groups are not clean", all_clean).await?;
        let conf = ceph.conf().display().to_string();
        let image = Self::image();
        run(30, "rbd", &["-c", &conf, "create", &image, "--size", &format!("{}M", size >> 20)]).await?;
        Ok(ceph)
    }

    /// Starts a cluster with a file system, for files of `size` bytes in all; `ceph-fuse` mounts it.
    pub async fn start_files(dir: &Path, size: u64) -> Result<Self, String> {
        let mut ceph = Self::start_empty(dir, size, &["ceph-mds", "ceph-fuse"]).await?;
        for (pool, groups) in [("names", "16"), ("bytes", PLACEMENT_GROUPS)] {
            ceph.ceph(&["osd", "pool", "create", pool, groups, groups]).await?;
        }
        ceph.ceph(&["fs", "new", "files", "names", "bytes"]).await?;
        ceph.daemon("ceph-mds", &["-i", "x"], None)?;
        ceph.wait(90, &["pg", "stat"], "placement groups are not clean", all_clean).await?;
        let active = |status: &Value| {
            let up = status["fsmap"]["filesystems"][0]["mdsmap"]["info"].as_object();
            up.is_some_and(|up| up.values().any(|mds| mds["state"] == "up:active"))
        };
        ceph.wait(60, &["mds", "stat"], "the MDS is not active", active).await?;
        Ok(ceph)
    }

    async fn start_empty(dir: &Path, size: u64, more: &[&str]) -> Result<Self, String> {
        for program in ["ceph-mon", "ceph-mgr", "ceph-osd", "ceph", "monmaptool"].iter().chain(more) {
            if !has_program(program) {
                return Err(format!("{program} is missing; install Ceph with `tools/deps.sh peers`"));
            }
        }
        let mut ceph = Self { dir: dir.to_path_buf(), daemons: Vec::new() };
        ceph.start_monitor(size).await?;
        ceph.daemon("ceph-mgr", &["-i", "x"], None)?;
        let allocator = allocator()?;
        for id in 0..OSDS {
            ceph.make_osd(id, osd_bytes(size)).await?;
            ceph.daemon("ceph-osd", &["-i", &id.to_string()], Some(&allocator))?;
        }
        let up = |status: &Value| status["num_up_osds"] == OSDS;
        ceph.wait(60, &["osd", "stat"], "OSDs are not up", up).await?;
        for flag in ["noscrub", "nodeep-scrub"] {
            ceph.ceph(&["osd", "set", flag]).await?;
        }
        Ok(ceph)
    }

    /// How fio reaches the image.
    pub fn engine(&self) -> Engine {
        Engine::rbd(&self.conf(), POOL, IMAGE)
    }

    /// The processes of the cluster.
    pub fn pids(&self) -> Vec<u32> {
        self.daemons.iter().filter_map(Child::id).collect()
    }

    /// Flushes that the OSDs made for transactions.
    pub async fn flushes(&self) -> Result<f64, String> {
        let mut sum = 0.0;
        for id in 0..OSDS {
            let socket = self.dir.join(format!("run/osd.{id}.asok")).display().to_string();
            let text = run(10, "ceph", &["--admin-daemon", &socket, "perf", "dump", "bluestore"]).await?;
            let counters: Value = serde_json::from_str(&text).map_err(|e| format!("osd.{id}: {e}"))?;
            let counted = counters["bluestore"]["kv_flush_lat"]["avgcount"].as_f64();
            sum += counted.ok_or_else(|| format!("osd.{id} counts no flushes"))?;
        }
        Ok(sum)
    }

    /// The image's name with its pool.
    pub fn image() -> String {
        format!("{POOL}/{IMAGE}")
    }

    /// The configuration file.
    pub fn conf(&self) -> PathBuf {
        self.dir.join("ceph.conf")
    }

    async fn start_monitor(&mut self, size: u64) -> Result<(), String> {
        for part in ["run", "log", "mon.a", "mgr.x", "mds.x"] {
            std::fs::create_dir_all(self.dir.join(part)).map_err(|e| e.to_string())?;
        }
        let fsid = uuid()?;
        let port = ports::free_pair()?;
        let text = configuration(&self.dir, &fsid, port, size);
        std::fs::write(self.conf(), text).map_err(|e| e.to_string())?;
        let (conf, map) = (self.conf().display().to_string(), self.dir.join("monmap").display().to_string());
        let address = monitor_address(port);
        run(10, "monmaptool", &["--create", "--clobber", "--fsid", &fsid, "--addv", "a", &address, &map])
            .await?;
        run(30, "ceph-mon", &["-c", &conf, "--mkfs", "-i", "a", "--monmap", &map]).await?;
        self.daemon("ceph-mon", &["-i", "a"], None)?;
        self.wait(30, &["quorum_status"], "the monitor does not answer", |_| true).await
    }

    async fn make_osd(&self, id: u32, bytes: u64) -> Result<(), String> {
        let dir = self.dir.join(format!("osd.{id}"));
        std::fs::create_dir_all(&dir).map_err(|e| e.to_string())?;
        let (to, count) = (format!("of={}", dir.join("block").display()), format!("count={}", bytes >> 22));
        run(300, "dd", &["if=/dev/zero", &to, "bs=4M", &count, "oflag=direct", "status=none"]).await?;
        let (uuid, conf, id) = (uuid()?, self.conf().display().to_string(), id.to_string());
        self.ceph(&["osd", "new", &uuid, &id]).await?;
        run(120, "ceph-osd", &["-c", &conf, "-i", &id, "--mkfs", "--osd-uuid", &uuid]).await.map(drop)
    }

    /// Starts a daemon in the foreground as our child; the kernel ends it should this program be killed.
    fn daemon(&mut self, program: &str, arguments: &[&str], preload: Option<&Path>) -> Result<(), String> {
        let name = format!("{program}-{}", arguments.last().expect("every daemon has an id"));
        let log = self.dir.join("log").join(format!("{name}.out"));
        let log = std::fs::File::create(&log).map_err(|e| e.to_string())?;
        let errors = log.try_clone().map_err(|e| e.to_string())?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", program, "-f", "-c"]).arg(self.conf()).args(arguments);
        if let Some(library) = preload {
            command.env("LD_PRELOAD", library);
        }
        command.stdin(Stdio::null()).stdout(log).stderr(errors).process_group(0).kill_on_drop(true);
        self.daemons.push(command.spawn().map_err(|error| format!("cannot start {name}: {error}"))?);
        Ok(())
    }

    async fn ceph(&self, arguments: &[&str]) -> Result<String, String> {
        let conf = self.conf().display().to_string();
        let mut all = vec!["-c", &conf, "--connect-timeout", "10", "-f", "json"];
        all.extend(arguments);
        run(30, "ceph", &all).await
    }

    /// Asks until the answer is right.
    async fn wait(
        &mut self,
        seconds: u64,
        question: &[&str],
        otherwise: &str,
        right: impl Fn(&Value) -> bool,
    ) -> Result<(), String> {
        let begun = Instant::now();
        loop {
            let answer = self.ceph(question).await;
            if answer.as_ref().is_ok_and(|text| serde_json::from_str(text).is_ok_and(|value| right(&value))) {
                return Ok(());
            }
            let ended = self.daemons.iter_mut().any(|daemon| !matches!(daemon.try_wait(), Ok(None)));
            if ended || begun.elapsed() > Duration::from_secs(seconds) {
                let logs = self.last_lines();
                return Err(format!("Ceph: {otherwise}; its last answer: {answer:?}; its logs:\n{logs}"));
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    /// The ends of what the daemons said.
    fn last_lines(&self) -> String {
        let files = std::fs::read_dir(self.dir.join("log")).into_iter().flatten().flatten();
        let ends = files.map(|file| {
            let text = std::fs::read_to_string(file.path()).unwrap_or_default();
            let skipped = text.lines().count().saturating_sub(5);
            let lines: Vec<&str> = text.lines().skip(skipped).collect();
            format!("{}: {}", file.file_name().to_string_lossy(), lines.join("\n    "))
        });
        ends.collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Ceph {
    fn drop(&mut self) {
        for daemon in &mut self.daemons {
            // One that has ended already is no error here.
            let _ = daemon.start_kill();
        }
        // The directory is removed next: nobody may still write there.
        let begun = Instant::now();
        let gone = |daemon: &mut Child| !matches!(daemon.try_wait(), Ok(None));
        while !self.daemons.iter_mut().all(gone) && begun.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Room for an image of `size` bytes, which every OSD holds whole, and for its metadata and slack.
fn osd_bytes(size: u64) -> u64 {
    (size + size / 2 + (2 << 30)) >> 22 << 22
}

fn monitor_address(port: u16) -> String {
    format!("[v2:127.0.0.1:{port},v1:127.0.0.1:{}]", port + 1)
}

fn configuration(dir: &Path, fsid: &str, port: u16, size: u64) -> String {
    let quiet: String = SUBSYSTEMS.split_whitespace().map(|name| format!("debug_{name} = 0/0\n")).collect();
    let (dir, address) = (dir.display(), monitor_address(port));
    let (block_bytes, cache_bytes) = (osd_bytes(size), OSD_MEMORY_BYTES * 2 / 3);
    format!(
        "[global]
fsid = {fsid}
mon_host = {address}
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
ms_bind_ipv6 = false
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
run_dir = {dir}/run
crash_dir = {dir}/run
osd_pool_default_size = 3
osd_pool_default_min_size = 2
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
mon_warn_on_insecure_global_id_reclaim_allowed = false
mon_data_avail_warn = 2
mon_data_avail_crit = 1
{quiet}
[mon]
mon_data = {dir}/mon.a
log_file = {dir}/log/$name.log
admin_socket = {dir}/run/$name.asok
[mgr]
mgr_data = {dir}/mgr.x
log_file = {dir}/log/$name.log
admin_socket = {dir}/run/$name.asok
[osd]
osd_data = {dir}/osd.$id
log_file = {dir}/log/$name.log
admin_socket = {dir}/run/$name.asok
osd_objectstore = bluestore
osd_memory_target = {OSD_MEMORY_BYTES}
osd_crush_update_on_start = true
bluestore_debug_enforce_settings = ssd
bluestore_cache_autotune = false
bluestore_cache_size = {cache_bytes}
bluestore_block_create = true
bluestore_block_size = {block_bytes}
bluestore_block_preallocate_file = true
osd_scrub_during_recovery = false
osd_class_update_on_start = false
[mds]
mds_data = {dir}/mds.x
log_file = {dir}/log/$name.log
admin_socket = {dir}/run/$name.asok
[client]
rbd_cache = false
log_file =
"
    )
}

/// Whether `ceph pg stat` names the state `active+clean` and no other.
fn all_clean(status: &Value) -> bool {
    let states = status["pg_summary"]["num_pg_by_state"].as_array();
    states.is_some_and(|states| states.len() == 1 && states[0]["name"] == "active+clean")
}

fn allocator() -> Result<PathBuf, String> {
    let name = "libtcmalloc_minimal.so.4";
    let folders = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"];
    let found = folders.iter().map(|folder| Path::new(folder).join(name)).find(|path| path.is_file());
    found.ok_or_else(|| format!("{name} is missing; install it with `tools/deps.sh peers`"))
}

fn uuid() -> Result<String, String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/uuid").map_err(|error| error.to_string())?;
    Ok(text.trim().to_owned())
}

async fn run(seconds: u64, program: &str, arguments: &[&str]) -> Result<String, String> {
    let finished = run_within(Duration::from_secs(seconds), program, arguments).await;
    Ok(finished.and_then(curve_harness::Finished::success).map_err(|error| error.to_string())?.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_names_only_the_given_directory() {
        let text = configuration(Path::new("/d"), "f", 20_000, 1 << 30);
        assert!(text.contains("mon_host = [v2:127.0.0.1:20000,v1:127.0.0.1:20001]\n"));
        assert!(text.contains("bluestore_block_size = 3758096384\n"));
        let paths = text.split([' ', '\n']).filter(|word| word.starts_with('/'));
        assert!(paths.clone().count() > 8 && paths.clone().all(|path| path.starts_with("/d/")));
        assert!(text.contains("debug_bluestore = 0/0\n"));
    }

    #[test]
    fn only_clean_placement_groups_will_do() {
        let stat = |states: Value| serde_json::json!({"pg_summary": {"num_pg_by_state": states}});
        assert!(all_clean(&stat(serde_json::json!([{"name": "active+clean", "num": 64}]))));
        let peering = serde_json::json!([{"name": "active+clean", "num": 60}, {"name": "peering", "num": 4}]);
        assert!(!all_clean(&stat(peering)));
        assert!(!all_clean(&stat(serde_json::json!([]))));
        assert!(!all_clean(&Value::Null));
    }
}
