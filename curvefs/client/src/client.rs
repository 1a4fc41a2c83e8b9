//! A mount's requests: routed, numbered, repeated until there is an answer.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use curve_io::Network;
use curve_types::Sequence;
use curvefs_proto::{Call, Outcome, answer_of, call_frame};
use curvefs_types::{
    Answer, Ask, FsError, FsFuture, FsId, InodeId, Metadata, NameOp, Op, PartitionId, Query, Reply, Request,
    Usage,
};
use futures::future::{join_all, try_join_all};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::grant::MountKey;
use crate::inspect::PartitionPing;
use crate::place::{Depths, spread};
use crate::router::{BadPartitions, Member, Partitions, Router};
use crate::trail::{Failure, Guess, Next, RetryLimits, Trail};

/// How a mount is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MountState {
    /// It works.
    Active,
    /// The MDS or a partition refuses it: others may have gone on, and nothing it sends is accepted any more.
    Fenced,
    /// It was ended in order.
    Closed,
}

/// How long a call waits until the log is told.
const COMPLAIN_AFTER: Duration = Duration::from_secs(5);

/// A mounted file system's metadata over the network.
///
/// **A change** takes a number of its home partition and is sent, always with this number, until the partition has answered: then
/// it was made once, however often it arrived. Only `NotHere` ends that otherwise: the partition has never made it and never will,
/// so it gets a number of the partition that has the inode now. **A question** is repeated the same way.
///
/// What is shared is a table in memory (`Router`), locked for moments, never while something is waited for. Any number of
/// calls are under way at once; nothing is queued here, connections and their limits are the network's.
///
/// There is no deadline: whoever wants one drops the future (`soft`). The number counts as answered then, so a copy that arrives
/// later is refused.
pub struct Client {
    network: Arc<dyn Network>,
    key: MountKey,
    limits: RetryLimits,
    router: Mutex<Router>,
    depths: Mutex<Depths>,
    random: Mutex<SmallRng>,
    state: watch::Sender<MountState>,
    /// The partitions are to be asked for.
    stale: Notify,
    /// Partitions that the log was told about, and how many they are, which is looked at without the lock.
    complaints: Mutex<BTreeSet<PartitionId>>,
    complaining: AtomicUsize,
}

/// A change's number. Dropping it says that nobody waits for the answer.
struct Ticket<'a> {
    client: &'a Client,
    partition: PartitionId,
    sequence: Sequence,
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.client.router().finish(self.partition, self.sequence);
    }
}

/// Counts a call and takes its time, however it ends.
struct Timed {
    kind: &'static str,
    begun: Instant,
}

impl Timed {
    fn begin(kind: &'static str) -> Self {
        metrics::counter!("curve_fs_meta_calls_total", "kind" => kind).increment(1);
        Self { kind, begun: Instant::now() }
    }
}

impl Drop for Timed {
    fn drop(&mut self) {
        let seconds = self.begun.elapsed().as_secs_f64();
        metrics::histogram!("curve_fs_meta_seconds", "kind" => self.kind).record(seconds);
    }
}

/// How the tries at one partition ended.
enum Tried<T> {
    Answered(Outcome<T>),
    Elsewhere,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Client {
    /// For a mount that was granted. `seed` feeds the lengths of pauses.
    pub fn new(
        network: Arc<dyn Network>,
        key: MountKey,
        partitions: Partitions,
        limits: RetryLimits,
        seed: u64,
    ) -> Result<Self, BadPartitions> {
        Ok(Self {
            network,
            key,
            limits,
            router: Mutex::new(Router::new(partitions)?),
            depths: Mutex::default(),
            random: Mutex::new(SmallRng::seed_from_u64(seed)),
            state: watch::Sender::new(MountState::Active),
            stale: Notify::new(),
            complaints: Mutex::default(),
            complaining: AtomicUsize::new(0),
        })
    }

    /// Which mount.
    pub fn key(&self) -> MountKey {
        self.key
    }

    /// How the mount is, and how it becomes.
    pub fn state(&self) -> watch::Receiver<MountState> {
        self.state.subscribe()
    }

    /// The version of the map.
    pub fn map_version(&self) -> u64 {
        self.router().version()
    }

    /// Changes that are not answered yet.
    pub fn under_way(&self) -> usize {
        self.router().under_way()
    }

    /// The next number of each partition, for the process that takes the mount over; `None` while a change is under way.
    pub fn next_numbers(&self) -> Option<Vec<(PartitionId, Sequence)>> {
        self.router().next_numbers()
    }

    /// Goes on with the numbers of the process before. Before the first change, or partitions would take it for an old one.
    pub fn set_numbers(&self, numbers: Vec<(PartitionId, Sequence)>) {
        self.router().set_numbers(numbers);
    }

    /// The partition that holds an inode, and who leads it as far as is known.
    pub fn whereabouts(&self, inode: InodeId) -> (PartitionId, Option<Member>) {
        let router = self.router();
        let partition = router.home(inode);
        (partition, router.target(partition, None))
    }

    /// Asks each partition a question, and waits for each answer no longer than that.
    pub(crate) async fn ping(&self, within: Duration) -> Vec<PartitionPing> {
        let partitions = self.router().partitions();
        let ping = |(id, inode)| async move {
            let asked = self.router().target(id, None).map(|member| member.node);
            let begun = Instant::now();
            let asking = self.while_active(self.ask_at(inode, Query::StatFs { inode }));
            let answer = match tokio::time::timeout(within, asking).await {
                Ok(answered) => answered.map(|_| begun.elapsed()),
                Err(_) => Err(FsError::TimedOut),
            };
            PartitionPing { id, asked, answer }
        };
        join_all(partitions.into_iter().map(ping)).await
    }

    /// Takes over partitions as the MDS tells them.
    pub fn learn(&self, partitions: Partitions) -> Result<(), BadPartitions> {
        self.router().learn(partitions)
    }

    /// Waits until the partitions are to be asked for.
    pub(crate) async fn stale(&self) {
        self.stale.notified().await;
    }

    /// Ends all calls, those under way too. The first end is the one that counts. Gives the state before.
    pub(crate) fn end(&self, how: MountState) -> MountState {
        let mut before = MountState::Active;
        self.state.send_if_modified(|state| {
            before = *state;
            let ends = *state == MountState::Active;
            if ends {
                *state = how;
            }
            ends
        });
        before
    }

    fn router(&self) -> MutexGuard<'_, Router> {
        locked(&self.router)
    }

    fn begin(&self, home: InodeId) -> Ticket<'_> {
        let mut router = self.router();
        let partition = router.home(home);
        Ticket { client: self, partition, sequence: router.begin(partition) }
    }

    fn pause(&self, trail: &mut Trail) -> Duration {
        let chance = locked(&self.random).random();
        trail.pause(chance)
    }

    /// Runs as long as the mount lives.
    async fn while_active<T>(&self, work: impl Future<Output = Result<T, FsError>>) -> Result<T, FsError> {
        let mut state = self.state.subscribe();
        let ended = async {
            // The sender lives as long as we do.
            state
                .wait_for(|state| *state != MountState::Active)
                .await
                .map_or(MountState::Closed, |state| *state)
        };
        tokio::select! {
            biased;
            ended = ended => Err(if ended == MountState::Fenced { FsError::Fenced } else { FsError::Stopped }),
            done = work => done,
        }
    }

    /// One try.
    async fn attempt<C: Call>(
        &self,
        partition: PartitionId,
        member: &Member,
        call: &C,
        within: Duration,
    ) -> Result<Outcome<C::Answer>, Failure> {
        let frame = call_frame(C::FROM_MOUNTS, partition, call);
        let reply = self.network.call(&member.address, frame, within).await.map_err(Failure::Lost)?;
        match answer_of::<C::Answer>(&reply).map_err(Failure::Refused)? {
            Err(error) if error.is_transient() => Err(Failure::Transient(error)),
            outcome => Ok(outcome),
        }
    }

    /// Tries until the partition has answered. `anew` sets before each try what is to be of the moment.
    async fn tries<C: Call>(
        &self,
        partition: PartitionId,
        trail: &mut Trail,
        call: &mut C,
        anew: impl Fn(&mut C, &Router),
    ) -> Tried<C::Answer> {
        let begun = Instant::now();
        let mut complained = false;
        loop {
            let avoid = trail.avoid();
            let target = {
                let router = self.router();
                anew(call, &router);
                router.target(partition, avoid)
            };
            let failure = match &target {
                None => Failure::Unknown,
                Some(member) => match self.attempt(partition, member, call, trail.try_for()).await {
                    Ok(outcome) => {
                        self.router().answered(partition, member);
                        self.praise(partition);
                        return Tried::Answered(outcome);
                    }
                    Err(failure) => failure,
                },
            };
            let asked = target.map_or_else(Default::default, |member| member.node);
            let (guess, next) = trail.failed(asked, &failure);
            if guess != Guess::Keep {
                self.router().moved(partition, asked, guess);
            }
            metrics::counter!("curve_fs_meta_retries_total").increment(1);
            tracing::debug!(%partition, %asked, ?failure, ?next, "no answer");
            match next {
                Next::Fail(error) => {
                    tracing::error!(%partition, %asked, ?failure, "a metaserver cannot be understood, or does not understand");
                    return Tried::Answered(Err(error));
                }
                Next::Elsewhere => {
                    self.stale.notify_one();
                    return Tried::Elsewhere;
                }
                Next::Again { pause, refresh } => {
                    if refresh {
                        self.stale.notify_one();
                    }
                    if !complained && begun.elapsed() >= COMPLAIN_AFTER {
                        complained = true;
                        self.complain(partition, &failure);
                    }
                    if pause {
                        tokio::time::sleep(self.pause(trail)).await;
                    }
                }
            }
        }
    }

    /// The log is told once of a partition, however many calls wait for it.
    fn complain(&self, partition: PartitionId, failure: &Failure) {
        let mut complaints = locked(&self.complaints);
        if complaints.insert(partition) {
            self.complaining.store(complaints.len(), Ordering::Relaxed);
            tracing::warn!(%partition, ?failure, "the partition does not answer; what needs it waits");
        }
    }

    fn praise(&self, partition: PartitionId) {
        if self.complaining.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut complaints = locked(&self.complaints);
        if complaints.remove(&partition) {
            self.complaining.store(complaints.len(), Ordering::Relaxed);
            tracing::info!(%partition, "the partition answers again");
        }
    }

    /// The end of every call.
    fn answered<T>(&self, outcome: Outcome<T>) -> Outcome<T> {
        if let Err(FsError::Fenced) = outcome {
            self.end(MountState::Fenced);
        }
        outcome
    }

    async fn change_at(&self, home: InodeId, op: Op) -> Result<Reply, FsError> {
        let _timed = Timed::begin("change");
        let MountKey { mount, epoch, .. } = self.key;
        let zero = Sequence::default();
        let mut request = Request { mount, epoch, sequence: zero, ack_below: zero, now_ns: 0, op };
        let mut trail = Trail::new(self.limits);
        loop {
            let ticket = self.begin(home);
            request.sequence = ticket.sequence;
            let partition = ticket.partition;
            let anew =
                |request: &mut Request, router: &Router| request.ack_below = router.ack_below(partition);
            match self.tries(partition, &mut trail, &mut request, anew).await {
                Tried::Answered(outcome) => return self.answered(outcome),
                Tried::Elsewhere => tokio::time::sleep(self.pause(&mut trail)).await,
            }
        }
    }

    async fn ask_at(&self, home: InodeId, query: Query) -> Result<Answer, FsError> {
        let _timed = Timed::begin(if matches!(query, Query::Recalls { .. }) { "recalls" } else { "query" });
        let MountKey { mount, epoch, .. } = self.key;
        let mut ask = Ask { mount, epoch, query };
        let mut trail = Trail::new(self.limits);
        loop {
            let partition = self.router().home(home);
            match self.tries(partition, &mut trail, &mut ask, |_, _| ()).await {
                Tried::Answered(outcome) => return self.answered(outcome),
                Tried::Elsewhere => tokio::time::sleep(self.pause(&mut trail)).await,
            }
        }
    }

    /// Inodes by their partitions.
    fn by_home(&self, inodes: &[InodeId]) -> Vec<Vec<InodeId>> {
        let router = self.router();
        let mut groups: BTreeMap<PartitionId, Vec<InodeId>> = BTreeMap::new();
        for inode in inodes {
            groups.entry(router.home(*inode)).or_default().push(*inode);
        }
        groups.into_values().collect()
    }

    async fn run_change(&self, op: Op) -> Result<Reply, FsError> {
        if let Op::Close { inodes } = &op {
            let groups = self.by_home(inodes);
            let closes = groups.into_iter().map(|inodes| self.change_at(inodes[0], Op::Close { inodes }));
            return Ok(try_join_all(closes).await?.pop().unwrap_or(Reply::Done));
        }
        let home = op.home().ok_or(FsError::Invalid)?;
        let Op::Name { op } = op else { return self.change_at(home, op).await };
        let op = self.placed(op);
        let (from, to) = match &op {
            NameOp::Rename { parent, new_parent, .. } => (*parent, *new_parent),
            other => (other.home(), other.home()),
        };
        let reply = self.change_at(home, Op::Name { op }).await?;
        let mut depths = locked(&self.depths);
        match &reply {
            Reply::Attr { attr, .. } if attr.is_dir() => depths.seen(to, attr.inode),
            Reply::Renamed { moved, other } => {
                let exchanged = other.iter().filter(|other| other.nlink > 0).map(|other| (from, other));
                for (parent, attr) in exchanged.chain([(to, moved)]).filter(|(_, attr)| attr.is_dir()) {
                    depths.seen(parent, attr.inode);
                }
            }
            _ => {}
        }
        drop(depths);
        Ok(reply)
    }

    /// Says where a new directory goes, unless the caller did.
    fn placed(&self, op: NameOp) -> NameOp {
        match op {
            NameOp::Mkdir { parent, name, new, place: None } if locked(&self.depths).spreads(parent) => {
                let router = self.router();
                let partitions: Vec<_> = router.partitions().into_iter().map(|(id, _)| id).collect();
                let place = spread(parent, &name, &partitions).filter(|place| *place != router.home(parent));
                NameOp::Mkdir { parent, name, new, place }
            }
            other => other,
        }
    }

    async fn run_query(&self, query: Query) -> Result<Answer, FsError> {
        let query = match query {
            Query::GetAttrs { inodes } => return self.get_attrs(&inodes).await,
            Query::GetLock { inode, mut lock } => {
                lock.mount = self.key.mount;
                Query::GetLock { inode, lock }
            }
            other => other,
        };
        let home = query.home().ok_or(FsError::Invalid)?;
        let is_of_names = matches!(query, Query::Lookup { .. } | Query::ReadDir { .. });
        let answer = self.ask_at(home, query).await?;
        if is_of_names {
            self.see(home, &answer);
        }
        Ok(answer)
    }

    /// Learns the depths of directories that were found in another one.
    fn see(&self, parent: InodeId, answer: &Answer) {
        let one = |answer: &Answer| match answer {
            Answer::Entry { dentry, .. } => Some(*dentry),
            _ => None,
        };
        let page = match answer {
            Answer::Page { entries, .. } => entries.as_slice(),
            _ => &[],
        };
        let found = one(answer).into_iter().chain(page.iter().map(|entry| entry.dentry));
        let mut dirs = found.filter(|found| found.kind == curvefs_types::Kind::Directory).peekable();
        if dirs.peek().is_some() {
            let mut depths = locked(&self.depths);
            dirs.for_each(|dir| depths.seen(parent, dir.inode));
        }
    }

    /// Of each partition its own, together in the order asked for.
    async fn get_attrs(&self, inodes: &[InodeId]) -> Result<Answer, FsError> {
        let groups = self.by_home(inodes);
        let asks = groups.into_iter().map(|inodes| self.ask_at(inodes[0], Query::GetAttrs { inodes }));
        let mut found = BTreeMap::new();
        for answer in try_join_all(asks).await? {
            let Answer::Attrs { attrs } = answer else { return Err(FsError::Corrupt) };
            found.extend(attrs.into_iter().map(|attr| (attr.inode, attr)));
        }
        Ok(Answer::Attrs { attrs: inodes.iter().filter_map(|inode| found.get(inode).copied()).collect() })
    }

    /// Gives up holds: one change for each partition.
    async fn close_all(&self, inodes: Vec<InodeId>) -> Result<Reply, FsError> {
        let mut homes: BTreeMap<PartitionId, Vec<InodeId>> = BTreeMap::new();
        {
            let router = self.router();
            inodes.into_iter().for_each(|inode| homes.entry(router.home(inode)).or_default().push(inode));
        }
        try_join_all(homes.into_values().map(|inodes| self.run_change(Op::Close { inodes }))).await?;
        Ok(Reply::Done)
    }

    async fn sum_up(&self) -> Result<Usage, FsError> {
        let partitions = self.router().partitions();
        let asks = partitions.into_iter().map(|(_, inode)| self.ask_at(inode, Query::StatFs { inode }));
        let mut sum = Usage::default();
        for answer in try_join_all(asks).await? {
            let Answer::StatFs { usage } = answer else { return Err(FsError::Corrupt) };
            sum = sum.plus(usage);
        }
        Ok(sum)
    }
}

impl Metadata for Client {
    fn fs(&self) -> FsId {
        self.key.fs
    }

    fn change(&self, op: Op) -> FsFuture<'_, Reply> {
        match op {
            Op::Close { inodes } if inodes.len() > 1 => Box::pin(self.while_active(self.close_all(inodes))),
            op => Box::pin(self.while_active(self.run_change(op))),
        }
    }

    fn query(&self, query: Query) -> FsFuture<'_, Answer> {
        Box::pin(self.while_active(self.run_query(query)))
    }

    fn stat_fs(&self) -> FsFuture<'_, Usage> {
        Box::pin(self.while_active(self.sum_up()))
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("key", &self.key).finish_non_exhaustive()
    }
}
