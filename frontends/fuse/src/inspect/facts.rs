//! What a mount finds out about itself and everything it depends on, by trying it. Each step has an end.

use std::fs;
use std::path::Path;
use std::time::Duration;

use curvefs_client::{MdsSaid, MountState, PartitionPing};
use curvefs_data::{ProbeError, ProbeTimes};
use curvefs_vfs::{Pending, Vfs};
use rand::Rng;
use tokio::time::timeout;

use super::Inspector;
use super::readings::resident_bytes;

/// How long the MDSs may take for their answers together.
const MDS_WITHIN: Duration = Duration::from_secs(5);
/// How long a partition may take.
const PARTITION_WITHIN: Duration = Duration::from_secs(3);

/// Memory of the process, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Memory {
    /// What it has.
    pub resident: u64,
    /// What it may have: the control group's limit, or the machine's memory; 0 when that is not told.
    pub limit: u64,
    /// What caches and requests may grow to.
    pub wanted: u64,
}

/// What was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Facts {
    /// Where it is mounted.
    pub dir: String,
    /// How the mount is.
    pub state: MountState,
    /// The lease, and how long ago it was refreshed.
    pub lease: Duration,
    /// See `lease`.
    pub lease_age: Duration,
    /// What the MDSs answer.
    pub mds: Result<MdsSaid, String>,
    /// How far the MDS's clock was ahead of this machine's at the mount, in milliseconds: what is beyond the time that the
    /// mount took.
    pub clock_ahead_ms: Option<i64>,
    /// What the partitions answer. Nothing when the mount is over.
    pub partitions: Vec<PartitionPing>,
    /// What the buckets do.
    pub buckets: Vec<(String, Result<ProbeTimes, ProbeError>)>,
    /// What is wanted of the kernel and not there.
    pub kernel_lacks: Option<Vec<String>>,
    /// Memory.
    pub memory: Memory,
    /// What is not published.
    pub pending: Pending,
    /// Bytes that were given up.
    pub lost_bytes: u64,
    /// The file of the program that runs was replaced or removed.
    pub program_replaced: bool,
}

/// Finds out everything. The store is tried after the rest, so that its bytes are in nobody's time.
pub async fn gather(inspector: &Inspector, vfs: &Vfs) -> Facts {
    let mount = &inspector.mount;
    let state = *mount.state().borrow();
    let mds = async {
        match timeout(MDS_WITHIN, mount.ask_mds()).await {
            Ok(said) => said.map_err(|error| error.to_string()),
            Err(_) => Err(format!("no answer within {} s", MDS_WITHIN.as_secs())),
        }
    };
    let partitions =
        async { if state == MountState::Active { mount.ping(PARTITION_WITHIN).await } else { Vec::new() } };
    let nonce = rand::rng().random();
    let (mds, partitions) = tokio::join!(mds, partitions);
    let buckets = inspector.data.time_buckets(nonce).await;
    let began = mds.as_ref().ok().and_then(|said| said.mounted_at_ms);
    let options = vfs.options();
    let wanted = options.write_cache_bytes
        + options.read_cache_bytes
        + inspector.data.options().memory_bytes_max as u64;
    Facts {
        dir: inspector.identity.dir.display().to_string(),
        state,
        lease: mount.grant().lease,
        lease_age: mount.lease_age(),
        clock_ahead_ms: began
            .zip(inspector.identity.granted_ms)
            .map(|(began, granted)| ahead(began, granted)),
        mds,
        partitions,
        buckets,
        kernel_lacks: inspector.features.get().and_then(|features| Some(features.missing()?.to_vec())),
        memory: Memory { resident: resident_bytes(), limit: memory_limit(), wanted },
        pending: vfs.pending(),
        lost_bytes: vfs.counters().lost_bytes(),
        program_replaced: fs::read_link("/proc/self/exe").is_ok_and(|exe| is_replaced(&exe)),
    }
}

/// How far another clock is ahead that showed `there` at some moment while this one went from `from` to `to`.
fn ahead(there: u64, (from, to): (u64, u64)) -> i64 {
    let distance = |a: u64, b: u64| i64::try_from(a.abs_diff(b)).unwrap_or(i64::MAX);
    if there < from {
        -distance(from, there)
    } else if there > to {
        distance(there, to)
    } else {
        0
    }
}

/// proc_pid_exe(5).
fn is_replaced(exe: &Path) -> bool {
    exe.to_string_lossy().ends_with(" (deleted)")
}

/// The lowest limit that holds for this process.
fn memory_limit() -> u64 {
    let group = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let files = group_files(&group);
    let groups =
        files.into_iter().filter_map(|file| fs::read_to_string(file).ok()?.trim().parse::<u64>().ok());
    let machine = fs::read_to_string("/proc/meminfo").ok().as_deref().and_then(total);
    // A limit of version 1 that is none is an enormous number.
    groups.chain(machine).min().unwrap_or(0)
}

/// Where limits of the process's control groups and those above them are: cgroups(7).
fn group_files(text: &str) -> Vec<String> {
    let mut files = Vec::new();
    for line in text.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            list if list.split(',').any(|one| one == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let mut at = path.trim_end_matches('/');
        loop {
            files.push(format!("{root}{at}/{file}"));
            match at.rfind('/') {
                Some(slash) => at = &at[..slash],
                None => break,
            }
        }
    }
    files
}

/// `MemTotal` of proc_meminfo(5).
fn total(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_are_compared_as_far_as_can_be_known() {
        for (there, ahead_by) in
            [(1500, 0), (1000, 0), (2000, 0), (2500, 500), (400, -600), (u64::MAX, i64::MAX)]
        {
            assert_eq!(ahead(there, (1000, 2000)), ahead_by, "{there}");
        }
    }

    #[test]
    fn limits_are_looked_for_in_all_groups_above() {
        assert_eq!(
            group_files("0::/a/b\n"),
            ["/sys/fs/cgroup/a/b/memory.max", "/sys/fs/cgroup/a/memory.max", "/sys/fs/cgroup/memory.max"]
        );
        assert_eq!(
            group_files("5:cpu:/x\n4:memory,x:/d\n"),
            ["/sys/fs/cgroup/memory/d/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        );
        assert_eq!(group_files("odd\n0::/"), ["/sys/fs/cgroup/memory.max"]);
        assert!(memory_limit() > 0, "this machine has memory");
    }

    #[test]
    fn programs_that_were_replaced_are_known() {
        assert!(is_replaced(Path::new("/usr/bin/curve-fuse (deleted)")));
        assert!(!is_replaced(Path::new("/usr/bin/curve-fuse")));
        assert_eq!(total("MemFree: 1 kB\nMemTotal:       16 kB\n"), Some(16 << 10));
    }
}
