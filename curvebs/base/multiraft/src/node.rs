//! All groups of one process.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use curve_io::{Handler, Message, Network, Reply};
use curve_log::Log;
use curve_types::{GroupId, NodeId};
use futures::StreamExt;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::Instant;

use crate::driver::{Driver, Input};
use crate::engine::{Core, Recovered, Timing};
use crate::errors::GroupError;
use crate::flags::GroupFlags;
use crate::group::{Group, Inner};
use crate::install::Progress;
use crate::machine::Machine;
use crate::options::RaftOptions;
use crate::proposer::Room;
use crate::source::Sources;
use crate::stall::{DiskState, Stall};
use crate::state_machine::StateMachine;
use crate::store::Store;
use crate::throttle::Throttle;
use crate::transport::Caller;
use crate::types::{LogId, StoredMembership};
use crate::view::Published;
use crate::{driver, lifecycle, membership, purge, quiesce, receive};

/// The method numbers that belong to this crate: a process's handler routes them to [`MultiRaft::handle`].
pub const METHODS: Range<u16> = 0x100..0x200;

/// Appends to one follower that wait for their reply, at most.
const IN_FLIGHT_MAX: usize = 8;
/// How long the notice that something is committed waits for entries to go with: followers are in no hurry to know.
const NOTICE_DELAY: Duration = Duration::from_millis(5);
/// Groups that are stopped at the same time, at most.
const STOPS_MAX: usize = 64;
/// How long the state machine of a stopped group may take to finish what it does.
const DROP_DEADLINE: Duration = Duration::from_secs(10);

/// Where the members can be called. Asked before each call, so that an address may change.
pub trait AddressBook: Send + Sync + 'static {
    /// The address of a node's framed port; `None` while it is unknown.
    fn address(&self, node: NodeId) -> Option<String>;
}

/// All groups of one process, over one log.
///
/// # Who owns what
///
/// Each group is one task (`driver`), which owns the group's engine and state machine. Two tasks are per process: `purge`
/// makes checkpoints and purges logs, `quiesce` puts idle groups to sleep and pings, and looks whether the disk answers (`stall`). Requests of other nodes run in the
/// task of their connection up to the group's inbox (`receive`), which keeps them in order.
///
/// # A write
///
/// `Group::propose` → room in the queue → the group's task puts what waits into one entry → `store` appends to the
/// shared log and `calls` sends to the followers, at the same time → the log's writer has synced, a majority has
/// answered → the engine commits → the state machine applies, and the task answers the callers.
///
/// # Invariants
///
/// - What is acknowledged was synced by a majority and applied here.
/// - A read is served under a lease, or after a majority was heard. The lease counts from the sending of messages that
///   a majority answered, ends earlier than followers' promises by `clock_margin`, and is looked at with the clock at
///   each read. A leader that has asked a successor to take over uses no lease any more in that term, and a restarted
///   follower gives no vote until promises it may have made have ended.
/// - A follower that receives a snapshot keeps its log and vote until the state machine has all of it durably.
/// - Timers, not rounds, are what idle groups cost; sleeping turns only timers off, so it cannot break any of this.
/// - Random draws come from the seed; tasks and messages are started in the order of group and node ids.
///
/// # Rejected
///
/// openraft, which was the engine at first: about eight tasks per group and as many wake-ups per round, at 50 to 80 µs of
/// CPU a round whatever it carried. One entry per operation: a round costs the same whatever it carries. Snapshots as
/// files: a copyset is larger than what changed in it.
///
/// # Costs
///
/// See `examples/raftbench`, which measures them: three replicas in one process with real logs.
pub struct MultiRaft {
    log: Log,
    caller: Caller,
    seed: u64,
    options: Arc<RaftOptions>,
    groups: RwLock<BTreeMap<GroupId, Group>>,
    /// Groups that are being opened or removed, so that no two do it at once.
    busy: Mutex<BTreeSet<GroupId>>,
    closing: AtomicBool,
    fetches: Arc<Semaphore>,
    throttle: Arc<Throttle>,
    silences: quiesce::Silences,
    stall: Arc<Stall>,
}

/// What kind of replica is opened.
enum Start<'a> {
    Create(&'a [NodeId]),
    Join,
    Open,
}

impl MultiRaft {
    /// Starts with no group. `seed` feeds all random draws (election timeouts). Must be called inside a tokio runtime.
    ///
    /// # Panics
    /// If `node` is 0, which stands for "nobody" in the log.
    pub fn new(
        node: NodeId,
        log: Log,
        network: Arc<dyn Network>,
        addresses: Arc<dyn AddressBook>,
        seed: u64,
        options: RaftOptions,
    ) -> Arc<Self> {
        assert_ne!(node.get(), 0, "node ids begin at 1");
        let options = options.raised();
        let stall = Arc::new(Stall::new(log.disk().clone(), options.room_min));
        let this = Arc::new(Self {
            log,
            caller: Caller { node, network, addresses },
            seed,
            groups: RwLock::default(),
            busy: Mutex::default(),
            closing: AtomicBool::new(false),
            fetches: Arc::new(Semaphore::new(options.snapshot_parallel)),
            throttle: Arc::new(Throttle::new(options.snapshot_bytes_per_second)),
            options: Arc::new(options),
            silences: quiesce::Silences::default(),
            stall,
        });
        tokio::spawn(purge::run(Arc::downgrade(&this)));
        tokio::spawn(quiesce::run(Arc::downgrade(&this)));
        this
    }

    /// This process's id.
    pub fn node(&self) -> NodeId {
        self.caller.node
    }

    /// Makes a new group. Every initial member calls it with the same list; it elects a leader once a majority has.
    /// Harmless when the group already exists in the log (then it is opened). A node that has lost its disk must never
    /// call it for a group it was a member of, since it has forgotten what it voted for: it calls `join_group`, and the
    /// leader removes and adds it.
    pub async fn create_group(
        self: &Arc<Self>,
        group: GroupId,
        initial_members: &[NodeId],
        machine: Box<dyn StateMachine>,
    ) -> Result<Group, GroupError> {
        self.start(group, machine, Start::Create(initial_members)).await
    }

    /// Makes an empty replica that waits until the group's leader adds it.
    pub async fn join_group(
        self: &Arc<Self>,
        group: GroupId,
        machine: Box<dyn StateMachine>,
    ) -> Result<Group, GroupError> {
        self.start(group, machine, Start::Join).await
    }

    /// Opens a replica after a restart.
    pub async fn open_group(
        self: &Arc<Self>,
        group: GroupId,
        machine: Box<dyn StateMachine>,
    ) -> Result<Group, GroupError> {
        self.start(group, machine, Start::Open).await
    }

    /// Stops a replica and forgets its log. The state machine has been dropped when this returns.
    pub async fn remove_group(&self, group: GroupId) -> Result<(), GroupError> {
        let _busy = self.reserve(group)?;
        let removed = self.groups.write().expect("never poisoned").remove(&group);
        stop(&removed.ok_or(GroupError::NotOpen(group))?.inner).await;
        self.log.remove_group(group).await.map_err(|cause| GroupError::Io { group, cause })
    }

    /// An open group.
    pub fn group(&self, group: GroupId) -> Option<Group> {
        self.groups.read().expect("never poisoned").get(&group).cloned()
    }

    /// All open groups, in order of id.
    pub fn groups(&self) -> Vec<Group> {
        self.groups.read().expect("never poisoned").values().cloned().collect()
    }

    /// Takes a request whose method is in [`METHODS`]. Does not block.
    pub fn handle(&self, request: Message, reply: Box<dyn Reply>) {
        receive::dispatch(self, request, reply);
    }

    /// Hands leaderships over, then stops all groups. The log stays open: close it afterwards.
    pub async fn shutdown(&self) {
        if self.closing.swap(true, Ordering::AcqRel) {
            return;
        }
        let left = self.hand_over().await;
        if left > 0 {
            tracing::info!(left, "leaderships were not handed over");
        }
        self.halt().await;
    }

    /// Hands leaderships over; the groups go on as followers. What a process does before it ends, so that its clients
    /// do not wait while it tidies up. Tells how many groups nobody else would lead.
    pub async fn hand_over(&self) -> usize {
        let hand_over = |group: Group| async move {
            for successor in membership::successors(&group.inner) {
                if group.inner.leading().is_none() {
                    break;
                }
                if let Err(error) = membership::transfer(&group.inner, successor).await {
                    tracing::debug!(group = %group.id(), %successor, %error, "leadership was not handed over");
                }
            }
            usize::from(group.inner.leading().is_some())
        };
        let groups = futures::stream::iter(self.groups());
        groups.map(hand_over).buffer_unordered(STOPS_MAX).fold(0, async |sum, left| sum + left).await
    }

    /// Stops all groups at once, as a crash would: nothing is handed over.
    pub async fn halt(&self) {
        self.closing.store(true, Ordering::Release);
        let halt = |group: Group| async move { stop(&group.inner).await };
        futures::stream::iter(self.groups()).for_each_concurrent(STOPS_MAX, halt).await;
        self.groups.write().expect("never poisoned").clear();
    }

    /// How the disk is. Unless it is fine, this node leads nothing that another can lead.
    pub fn disk(&self) -> DiskState {
        self.stall.disk()
    }

    pub(crate) fn stall(&self) -> &Stall {
        &self.stall
    }

    pub(crate) fn options(&self) -> &RaftOptions {
        &self.options
    }

    pub(crate) fn log(&self) -> &Log {
        &self.log
    }

    pub(crate) fn silences(&self) -> &quiesce::Silences {
        &self.silences
    }

    pub(crate) fn caller(&self) -> &Caller {
        &self.caller
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    pub(crate) fn fetches(&self) -> Arc<Semaphore> {
        self.fetches.clone()
    }

    pub(crate) fn throttle(&self) -> Arc<Throttle> {
        self.throttle.clone()
    }

    /// The log takes nothing any more, so no group can go on, idle ones included.
    pub(crate) fn log_failed(&self) {
        for group in self.groups() {
            if !group.inner.is_stopped() {
                lifecycle::failed(&group.inner, "the log failed".into());
                group.inner.tell(Input::Stop);
            }
        }
    }

    fn reserve(&self, group: GroupId) -> Result<Reserved<'_>, GroupError> {
        match self.busy.lock().expect("never poisoned").insert(group) {
            true => Ok(Reserved { busy: &self.busy, group }),
            false => Err(GroupError::AlreadyOpen(group)),
        }
    }

    async fn start(
        self: &Arc<Self>,
        id: GroupId,
        machine: Box<dyn StateMachine>,
        start: Start<'_>,
    ) -> Result<Group, GroupError> {
        let _busy = self.reserve(id)?;
        if self.is_closing() || self.log.failed() {
            return Err(GroupError::Stopped);
        }
        if self.group(id).is_some() {
            return Err(GroupError::AlreadyOpen(id));
        }
        let group = self.build(id, machine, start).await?;
        self.groups.write().expect("never poisoned").insert(id, group.clone());
        Ok(group)
    }

    async fn build(
        &self,
        id: GroupId,
        user: Box<dyn StateMachine>,
        start: Start<'_>,
    ) -> Result<Group, GroupError> {
        let io_error = |cause: io::Error| match cause.kind() {
            io::ErrorKind::InvalidData => GroupError::Corrupt { group: id, cause: cause.to_string() },
            _ => GroupError::Io { group: id, cause },
        };
        let seed = mix(self.seed ^ mix(self.node().get()) ^ id.get());
        let flags = Arc::new(GroupFlags::default());
        let store = Store::new(self.log.group(id), flags.clone());
        let pristine = store.is_pristine();
        let sources = Sources::new(mix(seed));
        let (alive, dropped) = watch::channel(());
        let machine = Machine::new(user, sources.clone(), alive).map_err(io_error)?;
        match (&start, pristine) {
            (Start::Create(members), true) => store.bootstrap(members).await.map_err(io_error)?,
            _ => store.reconcile(machine.applied()).await.map_err(io_error)?,
        }
        let state = (machine.applied(), machine.membership().clone());
        let base = Instant::now();
        let core = self.recover(&store, state, pristine, seed).await.map_err(io_error)?;
        let (inbox, inputs) = mpsc::unbounded_channel();
        let inner = Arc::new(Inner {
            id,
            options: self.options.clone(),
            caller: self.caller.clone(),
            view: Published::new(
                driver::view_of(&core, &machine, base),
                flags.clone(),
                self.options.lease_reads,
            ),
            flags,
            sources,
            inbox,
            room: Room::new(&self.options),
            leader: watch::Sender::new(None),
            stop: watch::Sender::new(false),
            failure: Mutex::default(),
            successor: Mutex::default(),
            change: tokio::sync::Mutex::default(),
            stall: self.stall.clone(),
            install: Mutex::new(Progress::default()),
            dropped,
        });
        if let (Start::Create(members), true) = (start, pristine) {
            // Different groups begin with different leaders.
            let first = members.get((mix(id.get()) % members.len().max(1) as u64) as usize);
            if first == Some(&self.node()) {
                inner.tell(Input::StandFirst);
            }
        }
        tokio::spawn(Driver::new(inner.clone(), core, store, machine, inputs, base).run());
        Ok(Group { inner })
    }

    /// The engine as the log and the state machine have it. Its time begins now.
    async fn recover(
        &self,
        store: &Store,
        (applied, known): (LogId, StoredMembership),
        pristine: bool,
        seed: u64,
    ) -> io::Result<Core> {
        let (vote, log, commit) = store.recover(applied, known).await?;
        let this_node = self.node().get();
        let alone = log.membership().membership.is_alone(this_node);
        // Before a restart, this node may have promised a leader not to vote for another for the length of a lease.
        let votes_from = if pristine || alone { Duration::ZERO } else { self.options.election_max };
        let found = Recovered { vote, log, commit, applied, votes_from };
        Ok(Core::new(this_node, seed, timing(&self.options), found, Duration::ZERO))
    }
}

impl Handler for MultiRaft {
    fn handle(&self, request: Message, reply: Box<dyn Reply>) {
        Self::handle(self, request, reply);
    }
}

/// Keeps a group's id from being opened or removed by two callers at once.
struct Reserved<'a> {
    busy: &'a Mutex<BTreeSet<GroupId>>,
    group: GroupId,
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.busy.lock().expect("never poisoned").remove(&self.group);
    }
}

/// Stops a group and waits until its state machine is gone.
async fn stop(group: &Arc<Inner>) {
    group.flags.stop();
    lifecycle::ended(group);
    group.tell(Input::Stop);
    let mut dropped = group.dropped.clone();
    if tokio::time::timeout(DROP_DEADLINE, async { while dropped.changed().await.is_ok() {} }).await.is_err()
    {
        tracing::warn!(group = %group.id, "the state machine is still busy");
    }
}

fn timing(options: &RaftOptions) -> Timing {
    Timing {
        heartbeat: options.heartbeat,
        election_min: options.election_min,
        election_max: options.election_max,
        clock_margin: options.clock_margin,
        notice_delay: NOTICE_DELAY,
        in_flight_max: IN_FLIGHT_MAX,
        message: driver::MESSAGE,
    }
}

/// Spreads seeds (SplitMix64).
fn mix(seed: u64) -> u64 {
    let mixed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
