//! One replica of one partition: its rows, its group, and its leader while this node leads.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use bytes::Bytes;
use curve_multiraft::{Group, GroupState, ProposeError, ReadError, Role};
use curve_types::{GroupId, NodeId, Term};
use curvefs_meta::{Birth, Outcome, Partition};
use curvefs_proto::{Leader as LeaderHint, Refusal, outcome_of};
use curvefs_types::{Answer, Ask, FsError, FsId, PartitionId, Query, Reply, Request};
use tokio::sync::watch;

use crate::leader::Leadership;
use crate::machine::{Bells, op_of};

/// The Raft group of a partition. A metaserver's process has no other groups, so the numbers are the same.
pub fn group_of(partition: PartitionId) -> GroupId {
    GroupId(u64::from(partition.0))
}

/// A replica of a partition on this metaserver.
pub struct Replica {
    birth: Birth,
    partition: Partition,
    bells: Arc<Bells>,
    group: OnceLock<Group>,
    /// While this node leads, and has found what its predecessor left.
    leadership: watch::Sender<Option<Arc<Leadership>>>,
}

impl Replica {
    /// A replica that is not in its group yet.
    pub fn new(birth: Birth, partition: Partition, bells: Arc<Bells>) -> Self {
        Self { birth, partition, bells, group: OnceLock::new(), leadership: watch::Sender::new(None) }
    }

    /// It is in its group now.
    pub fn set_group(&self, group: Group) {
        assert!(self.group.set(group).is_ok(), "a replica enters its group once");
    }

    /// Its partition.
    pub fn id(&self) -> PartitionId {
        self.birth.partition
    }

    /// Its file system.
    pub fn fs(&self) -> FsId {
        self.birth.fs
    }

    /// What its partition was born with.
    pub fn birth(&self) -> &Birth {
        &self.birth
    }

    /// Its rows, as far as they are applied here.
    pub fn partition(&self) -> &Partition {
        &self.partition
    }

    /// What rings when something is applied.
    pub fn bells(&self) -> &Bells {
        &self.bells
    }

    /// Its group, once it is open.
    pub fn group(&self) -> Option<&Group> {
        self.group.get()
    }

    /// Its group, if that works.
    pub fn working_group(&self) -> Option<&Group> {
        let works =
            |group: &&Group| !matches!(group.status().state, GroupState::Stopped | GroupState::Failed(_));
        self.group.get().filter(works)
    }

    /// The leader's side of the present term, if this node leads.
    pub(crate) fn leadership(&self) -> Option<Arc<Leadership>> {
        self.leadership.borrow().clone()
    }

    /// The term in which this node leads and has found what its predecessor left.
    pub fn leadership_term(&self) -> Option<Term> {
        self.leadership().map(|leadership| leadership.term())
    }

    /// Follows [`leadership`](Self::leadership).
    pub(crate) fn watch_leadership(&self) -> watch::Receiver<Option<Arc<Leadership>>> {
        self.leadership.subscribe()
    }

    /// A term of this node has begun or ended.
    pub(crate) fn set_leadership(&self, leadership: Option<Arc<Leadership>>) {
        self.leadership.send_replace(leadership);
    }

    /// The term that this node leads.
    pub fn led_term(&self) -> Option<Term> {
        let group = self.group.get()?;
        let status = group.status();
        (status.role == Role::Leader && status.leader == Some(group.node())).then_some(status.term)
    }

    /// Has a request committed and applied; the outcome is in its bytes.
    pub async fn propose(&self, request: &Request) -> Result<Bytes, ProposeError> {
        let group = self.group.get().ok_or(ProposeError::Stopped)?;
        Ok(group.propose(op_of(request)).await?.result)
    }

    /// As [`propose`](Self::propose), decoded.
    pub async fn change(&self, request: &Request) -> Result<Outcome, ProposeError> {
        let bytes = self.propose(request).await?;
        Ok(outcome_of::<Reply>(&bytes).unwrap_or(Err(FsError::Corrupt)))
    }

    /// Returns when a read sees everything that was acknowledged before.
    pub async fn barrier(&self) -> Result<(), ReadError> {
        self.group.get().ok_or(ReadError::Stopped)?.read_barrier().await
    }

    /// What the rows that are applied here say, be they old or not.
    pub fn look(&self, ask: &Ask) -> Result<Answer, FsError> {
        match self.partition.query(ask) {
            Ok(answer) => answer,
            Err(error) => {
                tracing::error!(partition = %self.id(), %error, "rows cannot be read");
                Err(FsError::Corrupt)
            }
        }
    }

    /// As [`look`](Self::look), for the servers themselves.
    pub fn look_as_server(&self, query: Query) -> Result<Answer, FsError> {
        self.look(&server_ask(query))
    }
}

/// A question of the servers themselves.
pub fn server_ask(query: Query) -> Ask {
    Ask { mount: curvefs_types::MountId::SERVERS, epoch: Default::default(), query }
}

/// The replicas of this metaserver, by partition.
#[derive(Default)]
pub struct ReplicaTable {
    replicas: RwLock<BTreeMap<PartitionId, Arc<Replica>>>,
}

impl ReplicaTable {
    /// The replica of a partition.
    pub fn get(&self, id: PartitionId) -> Option<Arc<Replica>> {
        self.replicas.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    /// All of them, in order.
    pub fn all(&self) -> Vec<Arc<Replica>> {
        self.replicas.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Adds one.
    pub fn insert(&self, replica: Arc<Replica>) {
        self.replicas.write().unwrap_or_else(PoisonError::into_inner).insert(replica.id(), replica);
    }

    /// Takes one out.
    pub fn remove(&self, id: PartitionId) -> Option<Arc<Replica>> {
        self.replicas.write().unwrap_or_else(PoisonError::into_inner).remove(&id)
    }
}

/// What a mount or metaserver is told when nothing could be proposed.
pub fn propose_refusal(error: &ProposeError, address: impl Fn(NodeId) -> Option<String>) -> Refusal {
    match error {
        ProposeError::NotLeader { hint } => not_leader(*hint, address),
        ProposeError::Unavailable => Refusal::Unavailable { why: error.to_string() },
        ProposeError::Stopped => Refusal::Stopped,
        ProposeError::TooLarge { .. } => Refusal::BadRequest { why: error.to_string() },
    }
}

/// What a mount or metaserver is told when nothing may be read here.
pub fn read_refusal(error: ReadError, address: impl Fn(NodeId) -> Option<String>) -> Refusal {
    match error {
        ReadError::NotLeader { hint } => not_leader(hint, address),
        ReadError::Unavailable => Refusal::Unavailable { why: error.to_string() },
        ReadError::Stopped => Refusal::Stopped,
    }
}

/// Whom to ask instead.
pub fn not_leader(hint: Option<NodeId>, address: impl Fn(NodeId) -> Option<String>) -> Refusal {
    let hint = hint.map(|node| LeaderHint { node, address: address(node).unwrap_or_default() });
    Refusal::NotLeader { hint }
}
