//! Placement and balancing as pure functions over a view of the cluster.
//!
//! Values in, values out: no clock, no disk, no network, and the only randomness is the generator that is passed. The
//! MDS builds a [`ClusterView`] from its topology and the last heartbeats, asks for a plan, and carries it out step by
//! step; the next view shows what became of it.

mod create;
mod leaders;
mod repair;
mod segment;
mod view;

pub use create::{copysets_per_disk, plan_creation, plan_groups};
pub use leaders::plan_leaders;
pub use repair::{RepairLimits, plan_repair};
pub use segment::{SegmentError, choose_segment_copysets};
pub use view::{ClusterView, CopysetView, DiskState, DiskView, Operator, REPLICAS, Silences, Step};
