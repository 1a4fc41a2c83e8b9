//! Configuration of one MDS.

use std::path::PathBuf;
use std::time::Duration;

use curve_types::{ByteSize, HumanDuration, NodeId};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The largest id of an MDS; chunkservers get the ids above it.
pub const MDS_ID_MAX: u64 = 100;

/// One member of the MDS group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberConfig {
    /// Its id: 1 to 100, never reused.
    pub id: u64,
    /// `host:port` of the framed port, where the members replicate.
    pub data_address: String,
    /// `host:port` of the gRPC port, where clients and chunkservers call.
    pub grpc_address: String,
}

/// The configuration file of an MDS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MdsConfig {
    /// The cluster's name. Chunkservers remember it and refuse to serve another.
    pub cluster: String,
    /// This member's id; one of `members`.
    pub id: u64,
    /// All members of the group, this one included. They make the group at the first start.
    pub members: Vec<MemberConfig>,
    /// Where the log and the state are kept.
    pub data_dir: PathBuf,
    /// `host:port` for `/metrics` and `/healthz`; empty for none.
    pub http_address: String,
    /// How long a session lives without a refresh. After that the volume may be opened by somebody else.
    pub lease: HumanDuration,
    /// How often chunkservers report.
    pub heartbeat_interval: HumanDuration,
    /// A chunkserver that is silent for this long counts as down: health says so.
    pub down_after: HumanDuration,
    /// A chunkserver that is silent for this long counts as dead: its replicas are rebuilt on others.
    pub dead_after: HumanDuration,
    /// After a change of leader no repair is decided for this long, since the new leader has yet to hear from everybody.
    pub grace_after_failover: HumanDuration,
    /// A member that is up and does not have its replica for this long has lost it: it is rebuilt.
    pub lost_replica_after: HumanDuration,
    /// How long a mount of a file system lives without a refresh. After that every partition refuses it, and what it had
    /// locked or held open is released.
    pub mount_lease: HumanDuration,
    /// A metaserver that is silent for this long counts as dead: its partitions are rebuilt on others.
    pub metaserver_dead_after: HumanDuration,
    /// Replicas that each chunkserver should have; 0 follows the number of chunkservers (4 on small clusters, up to 100).
    pub copysets_per_chunkserver: u32,
    /// Bytes of each chunkserver's disk that new segments must leave free. At most a twentieth of the disk is kept.
    pub reserve: ByteSize,
    /// File with the keys that seal CHAP secrets and the secret keys of object stores: 64 hexadecimal digits in a line, the first of which seals. The same on every
    /// MDS; empty: no secrets can be kept.
    pub secrets_key_file: PathBuf,
    /// Share of a disk in percent below which health warns of low capacity.
    pub capacity_low_percent: u32,
}

impl Default for MdsConfig {
    fn default() -> Self {
        let seconds = |n| HumanDuration(Duration::from_secs(n));
        Self {
            cluster: "curve".into(),
            id: 1,
            members: Vec::new(),
            data_dir: PathBuf::from("/var/lib/curve/mds"),
            http_address: String::new(),
            lease: seconds(10),
            heartbeat_interval: seconds(1),
            down_after: seconds(5),
            dead_after: seconds(600),
            grace_after_failover: seconds(30),
            lost_replica_after: seconds(30),
            mount_lease: seconds(30),
            metaserver_dead_after: seconds(300),
            copysets_per_chunkserver: 0,
            reserve: ByteSize(20 << 30),
            secrets_key_file: PathBuf::new(),
            capacity_low_percent: 15,
        }
    }
}

/// Why a configuration makes no sense.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum ConfigRefusal {
    /// No members, or this one is not among them.
    #[error("`members` must list every MDS, and one of them must have `id = {id}`")]
    NotAMember {
        /// This member's id.
        id: u64,
    },
    /// An id is out of range or used twice.
    #[error("the ids in `members` must be different numbers from 1 to {MDS_ID_MAX}")]
    BadIds,
    /// One duration must be longer than another.
    #[error("`{shorter}` must be shorter than `{longer}`")]
    Order {
        /// The key that is too long.
        shorter: &'static str,
        /// The key that is too short.
        longer: &'static str,
    },
    /// A key needs another value.
    #[error("`{key}` must be {rule}")]
    Value {
        /// The key.
        key: &'static str,
        /// What it must be.
        rule: &'static str,
    },
}

impl MdsConfig {
    /// Checks what a type cannot.
    pub fn check(&self) -> Result<(), ConfigRefusal> {
        if !self.members.iter().any(|member| member.id == self.id) {
            return Err(ConfigRefusal::NotAMember { id: self.id });
        }
        let mut ids: Vec<u64> = self.members.iter().map(|member| member.id).collect();
        ids.sort_unstable();
        ids.dedup();
        if ids.len() != self.members.len() || ids.iter().any(|id| !(1..=MDS_ID_MAX).contains(id)) {
            return Err(ConfigRefusal::BadIds);
        }
        let order = [
            ("heartbeat_interval", self.heartbeat_interval, "down_after", self.down_after),
            ("down_after", self.down_after, "dead_after", self.dead_after),
            ("down_after", self.down_after, "metaserver_dead_after", self.metaserver_dead_after),
        ];
        for (shorter, a, longer, b) in order {
            if a >= b {
                return Err(ConfigRefusal::Order { shorter, longer });
            }
        }
        if self.lease.0 < Duration::from_secs(1) {
            return Err(ConfigRefusal::Value { key: "lease", rule: "at least 1s" });
        }
        if self.mount_lease.0 < Duration::from_secs(1) {
            return Err(ConfigRefusal::Value { key: "mount_lease", rule: "at least 1s" });
        }
        if self.copysets_per_chunkserver > 1000 {
            return Err(ConfigRefusal::Value { key: "copysets_per_chunkserver", rule: "at most 1000" });
        }
        if self.capacity_low_percent > 100 {
            return Err(ConfigRefusal::Value { key: "capacity_low_percent", rule: "from 0 to 100" });
        }
        Ok(())
    }

    /// This member. Panics unless `check` has passed.
    pub fn me(&self) -> &MemberConfig {
        self.members
            .iter()
            .find(|member| member.id == self.id)
            .expect("a checked configuration lists its own member")
    }

    /// This member's node id.
    pub fn node(&self) -> NodeId {
        NodeId(self.id)
    }

    /// Another member.
    pub fn member(&self, node: NodeId) -> Option<&MemberConfig> {
        self.members.iter().find(|member| member.id == node.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> MdsConfig {
        let member =
            |id| MemberConfig { id, data_address: format!("h:{id}"), grpc_address: format!("h:1{id}") };
        MdsConfig { members: (1..=3).map(member).collect(), ..MdsConfig::default() }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        assert_eq!(config().check(), Ok(()));
        assert_eq!(MdsConfig { id: 4, ..config() }.check(), Err(ConfigRefusal::NotAMember { id: 4 }));
        let mut twice = config();
        twice.members[1].id = 1;
        assert_eq!(twice.check(), Err(ConfigRefusal::BadIds));
        let hasty = MdsConfig { dead_after: HumanDuration(Duration::from_secs(2)), ..config() };
        assert!(matches!(hasty.check(), Err(ConfigRefusal::Order { longer: "dead_after", .. })));
    }

    #[test]
    fn a_file_reads_as_written_in_the_manual() {
        let text = r#"
            cluster = "demo"
            id = 2
            data_dir = "/tmp/x"
            dead_after = "1m"
            members = [
                { id = 1, data_address = "a:1", grpc_address = "a:2" },
                { id = 2, data_address = "b:1", grpc_address = "b:2" },
            ]
        "#;
        let config: MdsConfig = curve_config::parse(text, "test").unwrap();
        assert_eq!(config.check(), Ok(()));
        assert_eq!(config.me().grpc_address, "b:2");
        assert!(curve_config::parse::<MdsConfig>("leese = \"5s\"", "test").is_err());
    }

    #[test]
    fn the_sample_shows_the_defaults() {
        let sample: MdsConfig =
            curve_config::parse(include_str!("../../../deploy/mds.toml"), "sample").unwrap();
        assert_eq!(sample.check(), Ok(()));
        assert_eq!(MdsConfig { members: Vec::new(), ..sample }, MdsConfig::default());
    }
}
