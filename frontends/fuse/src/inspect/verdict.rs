//! What facts mean: a finding for each thing that is tried, good ones too. Pure.
//!
//! Codes are stable; `curve explain CODE` and docs/curvefs.md have all of them. Good findings have codes that end in `_OK`.

use std::time::Duration;

use curve_telemetry::{HealthItem, HealthLevel};
use curve_types::ByteSize;
use curvefs_client::{MountState, PartitionPing};
use curvefs_data::{ProbeError, ProbeTimes};

use super::facts::{Facts, Memory};

/// An MDS is asked rarely: beyond this something is wrong all the same.
const MDS_SLOW: Duration = Duration::from_millis(500);
/// Every change waits for a partition.
const PARTITION_SLOW: Duration = Duration::from_millis(200);
/// A request of 256 KiB.
const STORE_SLOW: Duration = Duration::from_secs(1);
/// Clocks that differ more make times of files odd.
const CLOCK_MS: u64 = 1000;
/// What is written is published within three seconds when everything works.
const PENDING_OLD: Duration = Duration::from_secs(15);
/// Findings of one kind.
const LISTED_MAX: usize = 16;

/// Everything that was found.
pub fn items(facts: &Facts) -> Vec<HealthItem> {
    let mut items = vec![mount(facts)];
    if facts.state == MountState::Active {
        items.push(lease(facts));
    }
    items.push(mds(facts));
    items.extend(clock(facts));
    items.extend(partitions(facts));
    items.extend(facts.buckets.iter().take(LISTED_MAX).map(|(bucket, tried)| store(bucket, tried)));
    items.extend(kernel(facts));
    items.push(memory(facts.memory));
    items.push(pending(facts));
    items.extend(lost(facts));
    items.extend(version(facts));
    items
}

fn ok(code: &str, summary: String) -> HealthItem {
    HealthItem {
        code: code.to_owned(),
        level: HealthLevel::Ok,
        summary,
        cause: String::new(),
        remedy: String::new(),
    }
}

fn bad(level: HealthLevel, code: &str, summary: String, cause: &str, remedy: String) -> HealthItem {
    HealthItem { code: code.to_owned(), level, summary, cause: cause.to_owned(), remedy }
}

fn ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

fn mount(facts: &Facts) -> HealthItem {
    let dir = &facts.dir;
    match facts.state {
        MountState::Active => ok("MOUNT_OK", format!("{dir} is mounted and answers")),
        MountState::Fenced => bad(
            HealthLevel::Err,
            "MOUNT_FENCED",
            format!("{dir} was shut out; its programs get I/O errors"),
            "the mount did not reach the MDS for longer than its lease, or an operator ended it",
            format!("stop the programs that use it, run `curve-fuse umount {dir}`, and mount it again"),
        ),
        MountState::Closed => bad(
            HealthLevel::Err,
            "MOUNT_ENDING",
            format!("{dir} is being unmounted"),
            "somebody unmounts it, or its process was told to end",
            "wait for the end, and mount it again".to_owned(),
        ),
    }
}

fn lease(facts: &Facts) -> HealthItem {
    let said =
        format!("the lease of {} was refreshed {} ago", seconds(facts.lease), seconds(facts.lease_age));
    if facts.lease_age <= facts.lease / 2 {
        return ok("LEASE_OK", said);
    }
    // It goes on working: what ends a mount is an epoch, and nobody raises it without an MDS.
    bad(
        HealthLevel::Warn,
        "LEASE_OLD",
        said,
        "this process does not reach the MDSs, or was stopped for a while; when the lease is over an MDS may end the mount",
        "see whether the MDSs run (`curve cluster status`) and can be reached from here".to_owned(),
    )
}

fn mds(facts: &Facts) -> HealthItem {
    match &facts.mds {
        Ok(said) if said.took <= MDS_SLOW => ok("MDS_OK", format!("an MDS answered in {}", ms(said.took))),
        Ok(said) => bad(
            HealthLevel::Warn,
            "MDS_SLOW",
            format!("an MDS took {} to answer", ms(said.took)),
            "the MDSs are electing a leader, are busy, or the network to them is slow",
            "see `curve cluster status`, and the load of the MDSs' machines".to_owned(),
        ),
        Err(why) => bad(
            HealthLevel::Warn,
            "MDS_UNREACHABLE",
            format!("no MDS answers; the mount goes on without ({why})"),
            "no majority of the MDSs runs, or the network is cut",
            "see `curve cluster status`".to_owned(),
        ),
    }
}

fn clock(facts: &Facts) -> Option<HealthItem> {
    let ahead = facts.clock_ahead_ms?;
    if ahead.unsigned_abs() <= CLOCK_MS {
        return Some(ok("CLOCK_OK", "this machine's clock agreed with the MDS's at the mount".to_owned()));
    }
    let which = if ahead > 0 { "behind" } else { "ahead of" };
    Some(bad(
        HealthLevel::Warn,
        "CLOCK_SKEW",
        format!("at the mount this machine's clock was {} ms {which} the MDS's", ahead.unsigned_abs()),
        "a machine does not keep its clock; times of files then depend on who wrote them, and stores refuse requests beyond 15 \
         minutes",
        "keep clocks with NTP on all machines (`timedatectl`)".to_owned(),
    ))
}

fn partitions(facts: &Facts) -> Vec<HealthItem> {
    let mut items = Vec::new();
    let (mut good, mut slowest) = (0, None::<(Duration, &PartitionPing)>);
    for ping in &facts.partitions {
        match &ping.answer {
            Ok(took) => {
                good += 1;
                if slowest.is_none_or(|(longest, _)| *took > longest) {
                    slowest = Some((*took, ping));
                }
                if *took > PARTITION_SLOW {
                    items.push(slow_partition(ping, *took));
                }
            }
            Err(error) => items.push(unreachable(ping, &error.to_string())),
        }
    }
    if let Ok(said) = &facts.mds {
        let ailing = said.ailing.iter().map(|(id, what)| {
            bad(
                HealthLevel::Warn,
                "PARTITION_DEGRADED",
                format!("{id} {what}"),
                "a metaserver that holds a replica is down, or a replica is being made",
                "see `curve cluster status` and `curve cluster metaservers`".to_owned(),
            )
        });
        items.extend(ailing);
    }
    items.truncate(LISTED_MAX);
    if let Some((took, ping)) = slowest {
        let all = facts.partitions.len();
        let said = format!("{good} of {all} partitions answered, the slowest ({}) in {}", ping.id, ms(took));
        items.push(ok("PARTITIONS_OK", said));
    }
    items
}

fn asked(ping: &PartitionPing) -> String {
    ping.asked.map_or("its leader is not known".to_owned(), |node| {
        format!("metaserver {} was asked first", node.get())
    })
}

fn slow_partition(ping: &PartitionPing, took: Duration) -> HealthItem {
    bad(
        HealthLevel::Warn,
        "PARTITION_SLOW",
        format!("{} took {} to answer; {}", ping.id, ms(took), asked(ping)),
        "an election was under way, or the metaserver's disk or machine is busy",
        "ask again; if it stays, see the metaserver's /metrics and its disk".to_owned(),
    )
}

fn unreachable(ping: &PartitionPing, error: &str) -> HealthItem {
    bad(
        HealthLevel::Err,
        "PARTITION_UNREACHABLE",
        format!("{} does not answer ({error}); {}", ping.id, asked(ping)),
        "no majority of its metaservers runs, or the network to its leader is cut; what needs the partition waits",
        "start the metaservers that are down: `curve cluster metaservers`".to_owned(),
    )
}

fn store(bucket: &str, tried: &Result<ProbeTimes, ProbeError>) -> HealthItem {
    match tried {
        Ok(ProbeTimes { put, get, delete }) => {
            let said = format!("bucket {bucket}: PUT {}, GET {}, DELETE {}", ms(*put), ms(*get), ms(*delete));
            if [put, get, delete].into_iter().all(|took| *took <= STORE_SLOW) {
                return ok("STORE_OK", said);
            }
            bad(
                HealthLevel::Warn,
                "STORE_SLOW",
                said,
                "the store is busy, or the network to it is slow; `fsync` and reads of what is not cached take as long",
                "see the load of the store and of the network to it".to_owned(),
            )
        }
        Err(error) => bad(
            HealthLevel::Err,
            error.code(),
            error.to_string(),
            store_cause(error.code()),
            store_remedy(error.code()).to_owned(),
        ),
    }
}

fn store_cause(code: &str) -> &'static str {
    match code {
        "BUCKET_MISSING" => "somebody has removed the bucket, or the endpoint is another store's",
        "STORE_CREDENTIALS" => "the keys are wrong, have expired, or may not put, get and delete",
        "CLOCK_SKEW" => "this machine's clock or the store's is wrong",
        "STORE_FULL" => "the store has no room, or a quota is used up",
        "STORE_UNREACHABLE" => "the store does not run, or the network to it is cut",
        "STORE_SLOW" | "STORE_BUSY" | "STORE_TIMED_OUT" => {
            "the store is overloaded, or the network to it is slow"
        }
        "OBJECT_DAMAGED" => "what was put is not what is got: a cache, a proxy, or a bad disk or network",
        _ => "the store does not do what S3 asks for",
    }
}

fn store_remedy(code: &str) -> &'static str {
    match code {
        "STORE_CREDENTIALS" => "give the mounts working keys: `curve fs set-keys`",
        "CLOCK_SKEW" => "keep clocks with NTP (`timedatectl`)",
        "STORE_FULL" => "free space in the store, or raise the quota",
        "BUCKET_MISSING" => "restore the bucket; `curve fs stat` shows its name and the endpoint",
        _ => "look at the store's own log and load; writes wait in memory until it works",
    }
}

fn kernel(facts: &Facts) -> Option<HealthItem> {
    let lacks = facts.kernel_lacks.as_ref()?;
    if lacks.is_empty() {
        return Some(ok("FUSE_OK", "the kernel has all that is wanted of FUSE".to_owned()));
    }
    Some(bad(
        HealthLevel::Warn,
        "FUSE_FEATURES",
        format!("the kernel lacks {}", lacks.join(", ")),
        "the kernel is old; what is lacking costs speed, or what its name says",
        "use a newer kernel (5.15 or later)".to_owned(),
    ))
}

fn memory(Memory { resident, limit, wanted }: Memory) -> HealthItem {
    let said = format!(
        "{} of memory in use; caches and requests may grow to {}, the limit is {}",
        ByteSize(resident),
        ByteSize(wanted),
        if limit == 0 { "not known".to_owned() } else { ByteSize(limit).to_string() }
    );
    if limit == 0 || wanted <= limit - limit / 5 {
        return ok("MEMORY_OK", said);
    }
    bad(
        HealthLevel::Warn,
        "MEMORY_LIMIT",
        said,
        "the control group or the machine has less memory than the caches may use: the kernel may end the process",
        "mount with smaller caches (-o write_cache=64MiB,read_cache=64MiB), or allow more memory".to_owned(),
    )
}

fn pending(facts: &Facts) -> HealthItem {
    let pending = &facts.pending;
    let oldest = pending.oldest.unwrap_or_default();
    let said = format!(
        "{} of {} files are not stored yet, the oldest for {}",
        ByteSize(pending.bytes),
        pending.files,
        seconds(oldest)
    );
    if pending.failing > 0 {
        let why = pending.failure.map_or_else(String::new, |error| format!(" ({error})"));
        return bad(
            HealthLevel::Err,
            "UPDATES_FAILED",
            format!("{said}; {} failed{why} and are tried again", pending.failing),
            "the store or a partition refuses what was written; `fsync` and `close` say so to programs",
            "see the other findings; nothing is lost while this process runs".to_owned(),
        );
    }
    if oldest > PENDING_OLD {
        return bad(
            HealthLevel::Warn,
            "UPDATES_PENDING",
            said,
            "the store or a partition is slower than programs write, or does not answer",
            "see the other findings; nothing is lost while this process runs".to_owned(),
        );
    }
    match pending.files {
        0 => ok("UPDATES_OK", "everything that was written is stored".to_owned()),
        _ => ok("UPDATES_OK", said),
    }
}

fn lost(facts: &Facts) -> Option<HealthItem> {
    (facts.lost_bytes > 0).then(|| {
        bad(
            HealthLevel::Err,
            "UPDATES_LOST",
            format!("{} that were written could not be stored and were given up", ByteSize(facts.lost_bytes)),
            "the files were removed while they were written, or the mount was shut out; `fsync` and `close` said so",
            "the log names the inodes; write those files again".to_owned(),
        )
    })
}

fn version(facts: &Facts) -> Option<HealthItem> {
    facts.program_replaced.then(|| {
        bad(
            HealthLevel::Warn,
            "VERSION_MISMATCH",
            "the program's file was replaced or removed since the mount began".to_owned(),
            "curve-fuse was upgraded; this mount still runs the old one",
            "restart the mount when it suits".to_owned(),
        )
    })
}

#[cfg(test)]
mod tests {
    use curvefs_client::MdsSaid;
    use curvefs_data::DataError;
    use curvefs_types::{FsError, PartitionId};
    use curvefs_vfs::Pending;

    use super::*;

    fn good() -> Facts {
        let few = Duration::from_millis(2);
        let ping = |id| PartitionPing { id: PartitionId(id), asked: Some(3.into()), answer: Ok(few) };
        Facts {
            dir: "/mnt".into(),
            state: MountState::Active,
            lease: Duration::from_secs(30),
            lease_age: Duration::from_secs(9),
            mds: Ok(MdsSaid { took: few, ailing: Vec::new(), mounted_at_ms: Some(1) }),
            clock_ahead_ms: Some(-3),
            partitions: vec![ping(1), ping(2)],
            buckets: vec![("b".into(), Ok(ProbeTimes { put: few, get: few, delete: few }))],
            kernel_lacks: Some(Vec::new()),
            memory: Memory { resident: 50 << 20, limit: 8 << 30, wanted: 768 << 20 },
            pending: Pending::default(),
            lost_bytes: 0,
            program_replaced: false,
        }
    }

    #[test]
    fn a_good_mount_has_good_findings_of_everything() {
        let items = items(&good());
        assert!(
            items.iter().all(|item| item.level == HealthLevel::Ok && item.code.ends_with("_OK")),
            "{items:?}"
        );
        let codes: Vec<_> = items.iter().map(|item| item.code.as_str()).collect();
        assert_eq!(
            codes,
            [
                "MOUNT_OK",
                "LEASE_OK",
                "MDS_OK",
                "CLOCK_OK",
                "PARTITIONS_OK",
                "STORE_OK",
                "FUSE_OK",
                "MEMORY_OK",
                "UPDATES_OK"
            ]
        );
    }

    /// The one finding of a mount with one fault.
    fn with(change: impl FnOnce(&mut Facts)) -> (String, HealthLevel) {
        let mut facts = good();
        change(&mut facts);
        let all = items(&facts);
        let bad: Vec<_> = all.iter().filter(|item| item.level != HealthLevel::Ok).collect();
        assert_eq!(bad.len(), 1, "{bad:?}");
        assert!(!bad[0].cause.is_empty() && !bad[0].remedy.is_empty(), "{bad:?}");
        (bad[0].code.clone(), bad[0].level)
    }

    #[test]
    fn each_fault_has_its_code() {
        use HealthLevel::{Err as Error, Warn};
        let secs = Duration::from_secs;
        let failing = || Pending {
            files: 1,
            bytes: 5,
            oldest: Some(secs(1)),
            failing: 1,
            failure: Some(FsError::StoreRefused),
        };
        let refused = |cause| Err(ProbeError::Failed { bucket: "b".into(), step: "PUT", cause });
        let found = [
            (with(|facts| facts.state = MountState::Fenced), "MOUNT_FENCED", Error),
            (with(|facts| facts.state = MountState::Closed), "MOUNT_ENDING", Error),
            (with(|facts| facts.lease_age = secs(16)), "LEASE_OLD", Warn),
            (with(|facts| facts.mds = Err("no".into())), "MDS_UNREACHABLE", Warn),
            (with(|facts| facts.mds.as_mut().unwrap().took = secs(1)), "MDS_SLOW", Warn),
            (
                with(|facts| facts.mds.as_mut().unwrap().ailing.push((PartitionId(2), "lacks"))),
                "PARTITION_DEGRADED",
                Warn,
            ),
            (with(|facts| facts.clock_ahead_ms = Some(-5000)), "CLOCK_SKEW", Warn),
            (
                with(|facts| facts.partitions[0].answer = Err(FsError::TimedOut)),
                "PARTITION_UNREACHABLE",
                Error,
            ),
            (with(|facts| facts.partitions[0].answer = Ok(secs(1))), "PARTITION_SLOW", Warn),
            (with(|facts| facts.buckets[0].1.as_mut().unwrap().put = secs(2)), "STORE_SLOW", Warn),
            (with(|facts| facts.buckets[0].1 = refused(DataError::Slow)), "STORE_SLOW", Error),
            (
                with(|facts| facts.buckets[0].1 = refused(DataError::NoBucket { bucket: "b".into() })),
                "BUCKET_MISSING",
                Error,
            ),
            (with(|facts| facts.kernel_lacks = Some(vec!["FUSE_X".into()])), "FUSE_FEATURES", Warn),
            (with(|facts| facts.memory.limit = 512 << 20), "MEMORY_LIMIT", Warn),
            (with(|facts| facts.pending = failing()), "UPDATES_FAILED", Error),
            (
                with(|facts| facts.pending = Pending { failing: 0, oldest: Some(secs(20)), ..failing() }),
                "UPDATES_PENDING",
                Warn,
            ),
            (with(|facts| facts.lost_bytes = 1), "UPDATES_LOST", Error),
            (with(|facts| facts.program_replaced = true), "VERSION_MISMATCH", Warn),
        ];
        for ((code, level), wanted, wanted_level) in found {
            assert_eq!((code.as_str(), level), (wanted, wanted_level));
        }
    }

    #[test]
    fn many_faults_stay_within_an_attribute() {
        let mut facts = good();
        let failed = |id| PartitionPing { id: PartitionId(id), asked: None, answer: Err(FsError::TimedOut) };
        facts.partitions = (0..256).map(failed).collect();
        facts.buckets = (0..100).map(|n| (format!("b{n}"), facts.buckets[0].1.clone())).collect();
        let report = curve_telemetry::HealthReport::new(items(&facts));
        assert_eq!(report.level, HealthLevel::Err);
        assert!(serde_json::to_vec(&report).unwrap().len() < 64 << 10);
    }
}
