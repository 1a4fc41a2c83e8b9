//! The coordinator of operations over several partitions, as values in and values out. One per partition and term of its
//! leader; the server that owns it sends what it says, and tells it what came back. The protocol is in `curvefs_types` (`tx.rs`).

use std::collections::{BTreeMap, BTreeSet};

use curve_types::Term;
use curvefs_types::{
    Attr, CommittedTx, FsError, InodeId, NameOp, Op, Part, PartTarget, PartitionId, Request, TimeNs, TxId,
    TxNumber, Vote,
};

use crate::mounts::Outcome;
use crate::others::Walk;
use crate::partition::{Plan, server_request};

/// What is to be done next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Propose it in a partition, which may be the coordinator's own, until there is an answer that is not transient; tell
    /// [`Coordinator::voted`], also of `Busy`.
    Prepare {
        /// Where.
        to: PartitionId,
        /// Transaction.
        tx: TxId,
        /// What.
        request: Request,
    },
    /// Make these walks; tell [`Coordinator::walked`].
    Walk {
        /// Transaction.
        tx: TxId,
        /// Walks.
        walks: Vec<Walk>,
    },
    /// Propose it in the own partition, read whether it is committed, tell [`Coordinator::decided`].
    Decide {
        /// Transaction.
        tx: TxId,
        /// What.
        request: Request,
    },
    /// Answer the caller. `Busy`: route its request again in a while.
    Answer {
        /// Whom.
        ticket: u64,
        /// What.
        outcome: Outcome,
    },
    /// Propose it in a partition until it is done; tell [`Coordinator::finished`].
    Finish {
        /// Where.
        to: PartitionId,
        /// Transaction.
        tx: TxId,
        /// What.
        request: Request,
    },
    /// Propose it in the own partition; nobody waits for it.
    Forget {
        /// What.
        request: Request,
    },
}

#[derive(Clone, Debug)]
enum Phase {
    Preparing,
    Walking,
    Deciding,
    Finishing { commit: bool },
}

#[derive(Clone, Debug)]
struct Running {
    ticket: u64,
    request: Request,
    op: Option<NameOp>,
    walks: Vec<Walk>,
    phase: Phase,
    /// To be prepared after the walks.
    later: Vec<(PartitionId, Vec<Part>)>,
    asked: Vec<(PartitionId, Vec<Part>)>,
    waiting: BTreeSet<PartitionId>,
    votes: Vec<Vote>,
    /// What the caller is told when all have finished.
    answer: Option<Outcome>,
}

impl Running {
    /// Whether a participant changes something that it does not lock: the attributes of a directory. What is locked
    /// can be answered for at once, since whoever looks waits; this cannot.
    fn touches_directories(&self) -> bool {
        let parts = self.asked.iter().flat_map(|(_, parts)| parts);
        parts.into_iter().any(|part| matches!(part, Part::RemoveName { .. } | Part::ReplaceName { .. }))
    }
}

/// The transactions of one leader. Keeps nothing that must survive: what is decided is in the partition's rows, and a new
/// leader begins with those.
#[derive(Clone, Debug)]
pub struct Coordinator {
    partition: PartitionId,
    term: Term,
    next: u64,
    running: BTreeMap<TxNumber, Running>,
}

impl Coordinator {
    /// For a leader that has applied everything of older terms; `committed` is what its partition says
    /// (`Query::CommittedTxs`). Says how to finish those.
    pub fn new(
        partition: PartitionId,
        term: Term,
        committed: Vec<CommittedTx>,
        now_ns: TimeNs,
    ) -> (Self, Vec<Action>) {
        let mut coordinator = Self { partition, term, next: 1, running: BTreeMap::new() };
        for tx in committed {
            let asked: Vec<_> = tx.participants.iter().map(|to| (*to, Vec::new())).collect();
            coordinator.running.insert(
                tx.tx.number,
                Running {
                    ticket: 0,
                    request: server_request(now_ns, Op::Forget { numbers: vec![tx.tx.number] }),
                    op: None,
                    walks: Vec::new(),
                    phase: Phase::Finishing { commit: true },
                    later: Vec::new(),
                    waiting: asked.iter().map(|(to, _)| *to).collect(),
                    asked,
                    votes: Vec::new(),
                    answer: None,
                },
            );
        }
        let actions = coordinator.outstanding();
        (coordinator, actions)
    }

    /// Numbers below are finished.
    fn floor(&self) -> TxNumber {
        let next = TxNumber { term: self.term, number: self.next };
        self.running.keys().next().copied().unwrap_or(next)
    }

    fn tx(&self, number: TxNumber) -> TxId {
        TxId { coordinator: self.partition, number }
    }

    /// Begins a request that [`Plan`] is the plan of. `home` says where inodes are.
    pub fn start(
        &mut self,
        ticket: u64,
        request: Request,
        plan: Plan,
        home: impl Fn(InodeId) -> PartitionId,
    ) -> Vec<Action> {
        let Op::Name { op } = &request.op else {
            return vec![Action::Answer { ticket, outcome: Err(FsError::Invalid) }];
        };
        let number = TxNumber { term: self.term, number: self.next };
        self.next += 1;
        let has_walks = !plan.walks.is_empty();
        let (mut first, mut later): (Vec<(PartitionId, Vec<Part>)>, Vec<_>) = (Vec::new(), Vec::new());
        for part in plan.parts {
            let to = match part.target() {
                PartTarget::Inode(inode) => home(inode),
                PartTarget::Place => plan.place.unwrap_or(self.partition),
            };
            // Nothing but the root's partition is asked before the lock on moves is held.
            let group = if !has_walks || to == home(InodeId::ROOT) { &mut first } else { &mut later };
            match group.iter_mut().find(|(partition, _)| *partition == to) {
                Some((_, parts)) => parts.push(part),
                None => group.push((to, vec![part])),
            }
        }
        let op = Some(op.clone());
        self.running.insert(
            number,
            Running {
                ticket,
                request,
                op,
                walks: plan.walks,
                phase: Phase::Preparing,
                later,
                waiting: first.iter().map(|(to, _)| *to).collect(),
                asked: first,
                votes: Vec::new(),
                answer: None,
            },
        );
        self.sends(number)
    }

    /// A participant's vote.
    pub fn voted(&mut self, tx: TxId, from: PartitionId, vote: Result<Vec<Attr>, FsError>) -> Vec<Action> {
        let Some(running) = self.running.get_mut(&tx.number) else { return Vec::new() };
        if !matches!(running.phase, Phase::Preparing) || !running.waiting.contains(&from) {
            return Vec::new();
        }
        let attrs = match vote {
            Ok(attrs) => attrs,
            // The participant has asked, and was told that this one is aborted: the request itself may begin again.
            Err(FsError::Forgotten) => return self.abort(tx, FsError::Busy),
            Err(error) => return self.abort(tx, error),
        };
        running.waiting.remove(&from);
        let parts = running.asked.iter().find(|(to, _)| *to == from).map(|(_, parts)| parts.clone());
        running.votes.push(Vote { partition: from, parts: parts.unwrap_or_default(), attrs });
        if !running.waiting.is_empty() {
            return Vec::new();
        }
        running.phase = if running.walks.is_empty() { Phase::Deciding } else { Phase::Walking };
        self.sends(tx.number)
    }

    /// How the walks ended: `Invalid` if one met what it must not.
    pub fn walked(&mut self, tx: TxId, result: Result<(), FsError>) -> Vec<Action> {
        let Some(running) = self.running.get_mut(&tx.number) else { return Vec::new() };
        if !matches!(running.phase, Phase::Walking) {
            return Vec::new();
        }
        if let Err(error) = result {
            return self.abort(tx, error);
        }
        running.walks.clear();
        let later = std::mem::take(&mut running.later);
        running.waiting = later.iter().map(|(to, _)| *to).collect();
        running.phase = if later.is_empty() { Phase::Deciding } else { Phase::Preparing };
        running.asked.extend(later);
        self.sends(tx.number)
    }

    /// What the own partition said to `Decide`, and whether it has the row that commits.
    pub fn decided(&mut self, tx: TxId, outcome: Outcome, committed: bool) -> Vec<Action> {
        let Some(running) = self.running.get(&tx.number) else { return Vec::new() };
        if !matches!(running.phase, Phase::Deciding) {
            return Vec::new();
        }
        self.end(tx, outcome, committed)
    }

    /// Gives a transaction up that is not being decided, for example since a participant does not answer.
    pub fn abort(&mut self, tx: TxId, error: FsError) -> Vec<Action> {
        match self.running.get(&tx.number).map(|running| &running.phase) {
            Some(Phase::Preparing | Phase::Walking) => self.end(tx, Err(error), false),
            _ => Vec::new(),
        }
    }

    fn end(&mut self, tx: TxId, outcome: Outcome, commit: bool) -> Vec<Action> {
        let Some(running) = self.running.get_mut(&tx.number) else { return Vec::new() };
        running.phase = Phase::Finishing { commit };
        running.waiting = running.asked.iter().map(|(to, _)| *to).collect();
        let mut actions = Vec::new();
        if commit && running.touches_directories() {
            running.answer = Some(outcome);
        } else {
            actions.push(Action::Answer { ticket: running.ticket, outcome });
        }
        actions.extend(self.sends(tx.number));
        actions
    }

    /// A participant has finished.
    pub fn finished(&mut self, tx: TxId, from: PartitionId) -> Vec<Action> {
        let Some(running) = self.running.get_mut(&tx.number) else { return Vec::new() };
        let Phase::Finishing { commit } = running.phase else { return Vec::new() };
        running.waiting.remove(&from);
        if !running.waiting.is_empty() {
            return Vec::new();
        }
        let Some(running) = self.running.remove(&tx.number) else { return Vec::new() };
        let answer = running.answer.map(|outcome| Action::Answer { ticket: running.ticket, outcome });
        let mut actions: Vec<_> = answer.into_iter().collect();
        if commit {
            let op = Op::Forget { numbers: vec![tx.number] };
            actions.push(Action::Forget { request: server_request(running.request.now_ns, op) });
        }
        actions
    }

    /// Everything that is waited for, to be sent again when it may have been lost.
    pub fn outstanding(&self) -> Vec<Action> {
        self.running.keys().flat_map(|number| self.sends(*number)).collect()
    }

    /// Whether a request is under way: a repeated one then waits for the same answer.
    pub fn is_running(&self, request: &Request) -> bool {
        self.running.values().any(|running| {
            let same = (running.request.mount, running.request.sequence) == (request.mount, request.sequence);
            let answered = matches!(running.phase, Phase::Finishing { .. }) && running.answer.is_none();
            same && running.op.is_some() && !answered
        })
    }

    /// Whether something that an earlier leader decided is not finished everywhere. Until it is, remembered answers of
    /// changes of names wait: they may be about that.
    pub fn is_recovering(&self) -> bool {
        self.running.values().any(|running| running.op.is_none())
    }

    /// Whether nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.running.is_empty()
    }

    fn sends(&self, number: TxNumber) -> Vec<Action> {
        let Some(running) = self.running.get(&number) else { return Vec::new() };
        let tx = self.tx(number);
        let floor = self.floor();
        let now_ns = running.request.now_ns;
        match &running.phase {
            Phase::Preparing => {
                let waiting = running.asked.iter().filter(|(to, _)| running.waiting.contains(to));
                waiting
                    .map(|(to, parts)| {
                        let op = Op::Prepare { tx, floor, parts: parts.clone() };
                        Action::Prepare { to: *to, tx, request: server_request(now_ns, op) }
                    })
                    .collect()
            }
            Phase::Walking => vec![Action::Walk { tx, walks: running.walks.clone() }],
            Phase::Deciding => {
                let Some(op) = running.op.clone() else { return Vec::new() };
                let op = Op::Decide { tx, op, votes: running.votes.clone() };
                vec![Action::Decide { tx, request: Request { op, ..running.request.clone() } }]
            }
            Phase::Finishing { commit } => running
                .waiting
                .iter()
                .map(|to| {
                    let op = Op::Finish { tx, floor, commit: *commit };
                    Action::Finish { to: *to, tx, request: server_request(now_ns, op) }
                })
                .collect(),
        }
    }
}
