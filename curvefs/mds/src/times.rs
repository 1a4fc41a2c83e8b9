//! How long things may take.

use std::time::Duration;

/// The times that planning depends on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Times {
    /// How often metaservers report.
    pub heartbeat_interval: Duration,
    /// Silent for this long: down.
    pub down_after: Duration,
    /// Silent for this long: dead; its replicas are rebuilt on others.
    pub dead_after: Duration,
    /// A new leader decides no repair before.
    pub grace_after_failover: Duration,
    /// A member that is up and lacks its replica for this long has lost it.
    pub lost_replica_after: Duration,
    /// How long a mount lives without a refresh.
    pub mount_lease: Duration,
}
