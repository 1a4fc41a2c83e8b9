//! A file system as seen from here: the MDSs, its partitions, its store, its mounts.

use std::path::Path;
use std::time::{Duration, Instant};

use curve_client::mds::{MdsApi, MdsError};
use curve_proto::pb::fs::{FsMountInfo, FsPartition, FsRecord, MountState, PartitionHealth, S3Backend};
use curve_telemetry::{HealthItem, HealthLevel, HealthReport};
use curvefs_data::{ProbeError, ProbeTimes, time_bucket};
use futures::future::join_all;
use rand::TryRngCore;
use rand::rngs::OsRng;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{finding, good};
use crate::api::{Api, mds_failure};
use crate::failure::{Code, Failure};
use crate::fs::store;

/// An MDS is asked rarely: beyond this something is wrong all the same.
const MDS_SLOW: Duration = Duration::from_millis(500);
/// How long a connection to a metaserver may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// Findings of one kind.
const LISTED_MAX: usize = 16;

/// Tries everything.
pub(super) async fn of(config: Option<&Path>, name: &str) -> Result<(String, HealthReport), Failure> {
    let subject = format!("file system {name}");
    let api = Api::connect(config).await?;
    let begun = Instant::now();
    let record = match crate::fs::get(api.mds(), name, true).await {
        Ok(record) => record,
        Err(error @ MdsError::NotFound { .. }) => return Err(mds_failure(&error)),
        Err(error) => {
            let failure = mds_failure(&error);
            let remedy = failure.remedy.unwrap_or_default();
            let item = finding(
                HealthLevel::Err,
                "MDS_UNREACHABLE",
                "no MDS answers".into(),
                error.to_string(),
                remedy,
            );
            return Ok((subject, HealthReport::new(vec![item])));
        }
    };
    let mut items = vec![mds(begun.elapsed())];
    items.extend(of_record(api.mds(), &record).await?);
    Ok((subject, HealthReport::new(items)))
}

async fn of_record(mds: &MdsApi, record: &FsRecord) -> Result<Vec<HealthItem>, Failure> {
    let partitions = crate::fs::partitions(mds, record.id).await?.partitions;
    let mounts = crate::fs::mounts(mds, Some(&record.name)).await?;
    let s3 = record.s3.clone().unwrap_or_default();
    let (connections, buckets) = tokio::join!(connect(&partitions), try_store(&s3));
    let mut items = of_partitions(&partitions, &connections);
    items.extend(
        buckets?.iter().take(LISTED_MAX).map(|(bucket, tried)| bucket_item(&s3.endpoint, bucket, tried)),
    );
    items.extend(of_mounts(&mounts));
    Ok(items)
}

fn mds(took: Duration) -> HealthItem {
    let said = format!("an MDS answered in {}", ms(took));
    if took <= MDS_SLOW {
        return good("MDS_OK", said);
    }
    finding(
        HealthLevel::Warn,
        "MDS_SLOW",
        said,
        "the MDSs are electing a leader, are busy, or the network to them is slow",
        "see `curve cluster status`, and the load of the MDSs' machines",
    )
}

fn ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

/// How long it takes to reach each partition's leader, or why it cannot be reached.
async fn connect(partitions: &[FsPartition]) -> Vec<Result<Duration, String>> {
    let one = |partition: &FsPartition| {
        let leader = partition.members.iter().find(|member| member.node == partition.leader);
        let address = leader.map(|member| member.address.clone());
        async move {
            let Some(address) = address else { return Err("it has no leader".to_owned()) };
            let begun = Instant::now();
            match timeout(CONNECT_WITHIN, TcpStream::connect(&address)).await {
                Ok(Ok(_)) => Ok(begun.elapsed()),
                Ok(Err(error)) => Err(format!("its leader at {address}: {error}")),
                Err(_) => Err(format!("its leader at {address} takes no connection")),
            }
        }
    };
    join_all(partitions.iter().map(one)).await
}

fn of_partitions(partitions: &[FsPartition], connections: &[Result<Duration, String>]) -> Vec<HealthItem> {
    let mut items = Vec::new();
    for (partition, connection) in partitions.iter().zip(connections) {
        let id = partition.id;
        match (partition.health(), connection) {
            (PartitionHealth::PartitionNoQuorum, _) => items.push(finding(
                HealthLevel::Err,
                "PARTITION_UNREACHABLE",
                format!("part-{id} has no majority of its replicas"),
                "too many of its metaservers are down",
                "start them: `curve cluster metaservers`",
            )),
            (_, Err(why)) => items.push(finding(
                HealthLevel::Err,
                "PARTITION_UNREACHABLE",
                format!("part-{id} cannot be reached from here"),
                why.clone(),
                "see whether the metaserver runs and whether its port is open to this machine: `curve cluster metaservers`",
            )),
            (PartitionHealth::PartitionDegraded, Ok(_)) => items.push(finding(
                HealthLevel::Warn,
                "PARTITION_DEGRADED",
                format!("part-{id} lacks a replica"),
                "a metaserver that holds one is down, or a replica is being made",
                "see `curve cluster status` and `curve cluster metaservers`",
            )),
            (PartitionHealth::PartitionOk | PartitionHealth::PartitionCreating, Ok(_)) => {}
        }
    }
    items.truncate(LISTED_MAX);
    let reached: Vec<Duration> =
        connections.iter().filter_map(|connection| connection.clone().ok()).collect();
    if let Some(slowest) = reached.iter().max() {
        let said = format!(
            "{} of {} partitions' leaders take connections, the slowest in {}",
            reached.len(),
            partitions.len(),
            ms(*slowest)
        );
        items.push(good("PARTITIONS_OK", said));
    }
    items
}

async fn try_store(s3: &S3Backend) -> Result<Vec<(String, Result<ProbeTimes, ProbeError>)>, Failure> {
    let nonce = OsRng.try_next_u64().map_err(|error| {
        Failure::new(Code::Environment, "this machine gives no random numbers").because(error)
    })?;
    let buckets = store::buckets(s3);
    let probes = buckets
        .iter()
        .map(|bucket| async { (bucket.name().to_owned(), time_bucket(&**bucket, nonce).await) });
    Ok(join_all(probes).await)
}

fn bucket_item(endpoint: &str, bucket: &str, tried: &Result<ProbeTimes, ProbeError>) -> HealthItem {
    match tried {
        Ok(ProbeTimes { put, get, delete }) => {
            let times = format!("PUT {}, GET {}, DELETE {}", ms(*put), ms(*get), ms(*delete));
            good("STORE_OK", format!("bucket {bucket} at {endpoint}: {times}"))
        }
        Err(error) => {
            let failure = store::unusable(endpoint, error);
            finding(
                HealthLevel::Err,
                error.code(),
                failure.message,
                error.to_string(),
                failure.remedy.unwrap_or_default(),
            )
        }
    }
}

fn of_mounts(mounts: &[FsMountInfo]) -> Vec<HealthItem> {
    let late = mounts.iter().filter(|mount| mount.state() != MountState::MountActive);
    let mut items: Vec<_> = late
        .take(LISTED_MAX)
        .map(|mount| {
            let id = mount.key.unwrap_or_default().mount;
            finding(
                HealthLevel::Warn,
                "MOUNT_LAPSED",
                format!("mount-{id:x} at {} on {} has lost its lease", mount.directory, mount.host),
                "its process is gone or stopped, or its host does not reach the MDSs",
                "look at that host: `curve fs doctor DIR` there",
            )
        })
        .collect();
    if items.is_empty() {
        items.push(good("MOUNTS_OK", format!("{} mounts, all with their leases", mounts.len())));
    }
    items
}

#[cfg(test)]
mod tests {
    use curve_proto::pb::fs::FsMountKey;
    use curvefs_data::DataError;

    use super::*;

    fn partition(id: u32, health: PartitionHealth) -> FsPartition {
        let mut partition = FsPartition { id, ..FsPartition::default() };
        partition.set_health(health);
        partition
    }

    fn codes(items: &[HealthItem]) -> Vec<(&str, HealthLevel)> {
        items.iter().map(|item| (item.code.as_str(), item.level)).collect()
    }

    #[test]
    fn partitions_are_judged_by_what_the_mds_says_and_by_what_can_be_reached() {
        use PartitionHealth::{PartitionDegraded, PartitionNoQuorum, PartitionOk};
        let partitions = [
            partition(1, PartitionOk),
            partition(2, PartitionDegraded),
            partition(3, PartitionNoQuorum),
            partition(4, PartitionOk),
        ];
        let near = || Ok(Duration::from_millis(1));
        let items = of_partitions(&partitions, &[near(), near(), Err("x".into()), Err("y".into())]);
        assert_eq!(
            codes(&items),
            [
                ("PARTITION_DEGRADED", HealthLevel::Warn),
                ("PARTITION_UNREACHABLE", HealthLevel::Err),
                ("PARTITION_UNREACHABLE", HealthLevel::Err),
                ("PARTITIONS_OK", HealthLevel::Ok)
            ]
        );
        assert!(items[3].summary.starts_with("2 of 4"), "{}", items[3].summary);
    }

    #[test]
    fn stores_and_mounts_are_judged() {
        let few = Duration::from_millis(1);
        let times = ProbeTimes { put: few, get: few, delete: few };
        assert_eq!(bucket_item("http://h", "b", &Ok(times)).level, HealthLevel::Ok);
        let cause = DataError::Credentials { why: "x".into() };
        let item =
            bucket_item("http://h", "b", &Err(ProbeError::Failed { bucket: "b".into(), step: "PUT", cause }));
        assert_eq!((item.code.as_str(), item.level), ("STORE_CREDENTIALS", HealthLevel::Err));
        assert!(!item.remedy.is_empty());
        let mut mount = FsMountInfo {
            key: Some(FsMountKey { mount: 31, ..FsMountKey::default() }),
            ..Default::default()
        };
        assert_eq!(codes(&of_mounts(&[mount.clone()])), [("MOUNTS_OK", HealthLevel::Ok)]);
        mount.set_state(MountState::MountLapsed);
        let items = of_mounts(&[mount]);
        assert_eq!(codes(&items), [("MOUNT_LAPSED", HealthLevel::Warn)]);
        assert!(items[0].summary.contains("mount-1f"));
    }

    #[tokio::test]
    async fn leaders_that_take_no_connection_are_told() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let member =
            |address: String| curve_proto::pb::fs::PartitionMember { node: 5, address, ..Default::default() };
        let at =
            |address| FsPartition { leader: 5, members: vec![member(address)], ..FsPartition::default() };
        let open = at(listener.local_addr().unwrap().to_string());
        let none = FsPartition::default();
        let found = connect(&[open, none]).await;
        assert!(
            found[0].is_ok() && found[1].as_ref().is_err_and(|why| why.contains("no leader")),
            "{found:?}"
        );
    }
}
