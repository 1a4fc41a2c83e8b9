//! Several partitions and a network that loses, repeats and reorders; leaders that die. Everything from one seed.

use std::collections::BTreeMap;

use curve_types::{Epoch, Term};
use curvefs_meta::{Action, Coordinator, Entry, Outcome, Partition, Route, Walk, check, server_request};
use curvefs_types::{
    Answer, Ask, Dentry, FsError, InodeId, MountId, NameOp, Op, PartitionId, Query, Reply, Request, Told,
    TxId, TxNumber,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// How unkind the network is.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    pub lose: f64,
    pub repeat: f64,
    pub crash: f64,
    pub resolve: f64,
}

impl Faults {
    pub const NONE: Self = Self { lose: 0.0, repeat: 0.0, crash: 0.0, resolve: 0.0 };
    pub const MANY: Self = Self { lose: 0.1, repeat: 0.1, crash: 0.01, resolve: 0.02 };
}

/// A message to the coordinator of a node in a term; others are gone.
#[derive(Clone, Copy, Debug)]
struct To {
    node: usize,
    term: u64,
}

#[derive(Clone, Debug)]
enum Message {
    Client { ticket: u64, request: Request, source: Option<Dentry> },
    Propose { back: To, to: usize, tx: TxId, request: Request },
    Voted { to: To, tx: TxId, from: PartitionId, vote: Result<Vec<curvefs_types::Attr>, FsError> },
    Finished { to: To, tx: TxId, from: PartitionId },
    Decide { to: To, tx: TxId, request: Request },
    Walk { to: To, tx: TxId, walks: Vec<Walk> },
    Tell { told: Told },
    ToldDone { told: Told },
}

struct Node {
    partition: Partition,
    term: u64,
    coordinator: Coordinator,
}

pub struct Net {
    nodes: Vec<Node>,
    bag: Vec<Message>,
    /// Requests without an answer.
    waiting: BTreeMap<u64, Request>,
    pub answers: BTreeMap<u64, Outcome>,
    random: StdRng,
    pub faults: Faults,
    now: i64,
}

impl Net {
    pub fn new(nodes: u32, seed: u64, faults: Faults) -> Self {
        let node = |slot| {
            let (coordinator, _) = Coordinator::new(PartitionId(slot + 1), Term(1), Vec::new(), 0);
            Node { partition: super::partition(slot), term: 1, coordinator }
        };
        Self {
            nodes: (0..nodes).map(node).collect(),
            bag: Vec::new(),
            waiting: BTreeMap::new(),
            answers: BTreeMap::new(),
            random: StdRng::seed_from_u64(seed),
            faults,
            now: 1,
        }
    }

    pub fn places(&self) -> Vec<PartitionId> {
        (1..=self.nodes.len() as u32).map(PartitionId).collect()
    }

    pub fn partitions(&self) -> Vec<&Partition> {
        self.nodes.iter().map(|node| &node.partition).collect()
    }

    fn home(&self, inode: InodeId) -> usize {
        (inode.slot() as usize).min(self.nodes.len() - 1)
    }

    fn apply(&mut self, node: usize, term: u64, request: &Request) -> Outcome {
        let entry = Entry { term: Term(term), requests: vec![request.clone()] };
        self.nodes[node].partition.apply(&[entry], None).unwrap().remove(0).remove(0)
    }

    fn propose(&mut self, node: usize, op: Op) -> Outcome {
        let request = server_request(self.now, op);
        self.apply(node, self.nodes[node].term, &request)
    }

    pub fn ask(&self, node: usize, query: Query) -> Result<Answer, FsError> {
        let ask = Ask { mount: MountId::SERVERS, epoch: Epoch(0), query };
        self.nodes[node].partition.query(&ask).unwrap()
    }

    /// Asks where the inode is.
    pub fn ask_home(&self, query: Query) -> Result<Answer, FsError> {
        let node = self.home(query.home().unwrap());
        self.ask(node, query)
    }

    /// A client asks.
    pub fn submit(&mut self, ticket: u64, request: Request) {
        self.waiting.insert(ticket, request.clone());
        self.bag.push(Message::Client { ticket, request, source: None });
    }

    /// Runs until a ticket is answered.
    pub fn run_to_answer(&mut self, ticket: u64) -> Outcome {
        for _ in 0..20_000 {
            if let Some(outcome) = self.answers.remove(&ticket) {
                return outcome;
            }
            self.step();
        }
        panic!("no answer to {:?}; on the way: {:#?}", self.waiting, self.bag);
    }

    /// One event.
    pub fn step(&mut self) {
        self.now += 1;
        let chance = |random: &mut StdRng, p: f64| p > 0.0 && random.random_bool(p);
        if chance(&mut self.random, self.faults.crash) {
            let node = self.random.random_range(0..self.nodes.len());
            self.crash(node);
        }
        if chance(&mut self.random, self.faults.resolve) {
            let node = self.random.random_range(0..self.nodes.len());
            self.resolve_one(node);
            self.gather_told(node);
        }
        if self.bag.is_empty() {
            self.send_again();
            return;
        }
        let at = self.random.random_range(0..self.bag.len());
        let message = self.bag.swap_remove(at);
        if chance(&mut self.random, self.faults.lose) {
            return;
        }
        if chance(&mut self.random, self.faults.repeat) {
            self.bag.push(message.clone());
        }
        self.deliver(message);
    }

    fn send_again(&mut self) {
        let clients = self.waiting.clone();
        self.bag.extend(clients.into_iter().map(|(ticket, request)| Message::Client {
            ticket,
            request,
            source: None,
        }));
        for node in 0..self.nodes.len() {
            let actions = self.nodes[node].coordinator.outstanding();
            self.act(node, actions);
            // Without this a transaction whose coordinator died before deciding would keep its locks.
            if self.random.random_bool(0.3) {
                self.resolve_one(node);
            }
        }
    }

    /// The leader of a node dies, and another takes over. What it had proposed was committed or not.
    fn crash(&mut self, node: usize) {
        let term = self.nodes[node].term;
        for message in self.bag.clone() {
            if let Message::Decide { to, request, .. } = message
                && (to.node, to.term) == (node, term)
                && self.random.random_bool(0.5)
            {
                let _ = self.apply(node, term, &request);
            }
        }
        let Ok(Answer::CommittedTxs { txs }) = self.ask(node, Query::CommittedTxs { limit: 1000 }) else {
            panic!()
        };
        let partition = PartitionId(node as u32 + 1);
        let (coordinator, actions) = Coordinator::new(partition, Term(term + 1), txs, self.now);
        self.nodes[node].term = term + 1;
        self.nodes[node].coordinator = coordinator;
        self.act(node, actions);
    }

    /// A participant asks what became of a transaction.
    fn resolve_one(&mut self, node: usize) {
        let Ok(Answer::PreparedTxs { txs }) = self.ask(node, Query::PreparedTxs { limit: 10 }) else {
            panic!()
        };
        if txs.is_empty() {
            return;
        }
        let tx = txs[self.random.random_range(0..txs.len())];
        let coordinator = tx.coordinator.0 as usize - 1;
        let Ok(Reply::Resolved { decision }) = self.propose(coordinator, Op::Resolve { tx }) else {
            panic!()
        };
        let commit = matches!(decision, curvefs_types::Decision::Committed { .. });
        // It may be busy with another one's lock; then later.
        let _ = self.propose(node, Op::Finish { tx, floor: TxNumber::default(), commit });
    }

    fn gather_told(&mut self, node: usize) {
        let _ = self.propose(node, Op::Settle { limit: 2 });
        let Ok(Answer::Untold { told }) = self.ask(node, Query::Untold { limit: 3 }) else { panic!() };
        self.bag.extend(told.into_iter().map(|told| Message::Tell { told }));
    }

    fn deliver(&mut self, message: Message) {
        match message {
            Message::Client { ticket, request, source } => self.client(ticket, request, source),
            Message::Propose { back, to, tx, request } => {
                let outcome = self.apply(to, self.nodes[to].term, &request);
                let from = PartitionId(to as u32 + 1);
                match (outcome, &request.op) {
                    (outcome, Op::Prepare { .. }) => {
                        let vote = outcome.map(|reply| match reply {
                            Reply::Prepared { attrs } => attrs,
                            other => panic!("{other:?}"),
                        });
                        self.bag.push(Message::Voted { to: back, tx, from, vote });
                    }
                    (Ok(_), _) => self.bag.push(Message::Finished { to: back, tx, from }),
                    (Err(FsError::Busy), _) => {}
                    (Err(error), op) => panic!("{op:?}: {error}"),
                }
            }
            Message::Voted { to, tx, from, vote } => self.tell(to, |c| c.voted(tx, from, vote)),
            Message::Finished { to, tx, from } => self.tell(to, |c| c.finished(tx, from)),
            Message::Walk { to, tx, walks } => {
                if let Some(result) = self.walk(&walks) {
                    self.tell(to, |c| c.walked(tx, result));
                }
            }
            Message::Decide { to, tx, request } => self.decide(to, tx, &request),
            Message::Tell { told } => {
                let parent = self.home(told.parent);
                let _ = self.propose(parent, Op::Tell { told: vec![told] });
                self.bag.push(Message::ToldDone { told });
            }
            Message::ToldDone { told } => {
                let child = self.home(told.child);
                let _ = self.propose(child, Op::ToldDone { told: vec![told] });
            }
        }
    }

    fn tell(&mut self, to: To, what: impl FnOnce(&mut Coordinator) -> Vec<Action>) {
        if self.nodes[to.node].term == to.term {
            let actions = what(&mut self.nodes[to.node].coordinator);
            self.act(to.node, actions);
        }
    }

    fn decide(&mut self, to: To, tx: TxId, request: &Request) {
        if self.nodes[to.node].term != to.term {
            return;
        }
        let outcome = self.apply(to.node, to.term, request);
        let Ok(Answer::CommittedTxs { txs }) = self.ask(to.node, Query::CommittedTxs { limit: 1000 }) else {
            panic!()
        };
        let committed = txs.iter().any(|committed| committed.tx == tx);
        self.tell(to, |c| c.decided(tx, outcome, committed));
    }

    /// `None`: something is locked; try again.
    fn walk(&self, walks: &[Walk]) -> Option<Result<(), FsError>> {
        for walk in walks {
            let mut at = walk.from;
            loop {
                if at == walk.avoid {
                    return Some(Err(FsError::Invalid));
                }
                if at == InodeId::ROOT {
                    break;
                }
                match self.ask_home(Query::GetAttr { inode: at }) {
                    Ok(Answer::Attrs { attrs }) => at = attrs[0].parent,
                    Err(FsError::Busy) => return None,
                    Err(error) => return Some(Err(error)),
                    Ok(other) => panic!("{other:?}"),
                }
            }
        }
        Some(Ok(()))
    }

    fn client(&mut self, ticket: u64, request: Request, source: Option<Dentry>) {
        if !self.waiting.contains_key(&ticket) {
            // A late copy: it must find the first answer. The client is told nothing.
            let node = self.home(request.op.home().unwrap());
            self.apply_late(node, &request);
            return;
        }
        let node = self.home(request.op.home().unwrap());
        let coordinator = &self.nodes[node].coordinator;
        if coordinator.is_running(&request) || coordinator.is_recovering() {
            return;
        }
        match self.nodes[node].partition.route(&request, source).unwrap() {
            Route::Known(outcome) => self.answer(ticket, outcome),
            Route::Alone => {
                let outcome = self.apply(node, self.nodes[node].term, &request);
                self.answer(ticket, outcome);
            }
            Route::NeedsSource => self.look_up_source(ticket, request),
            Route::Across(plan) => {
                let nodes = self.nodes.len();
                let home = |inode: InodeId| PartitionId((inode.slot() as usize).min(nodes - 1) as u32 + 1);
                let actions = self.nodes[node].coordinator.start(ticket, request, plan, home);
                self.act(node, actions);
            }
        }
    }

    fn apply_late(&mut self, node: usize, request: &Request) {
        if let Route::Known(_) = self.nodes[node].partition.route(request, None).unwrap() {
            let _ = self.apply(node, self.nodes[node].term, request);
        }
    }

    fn look_up_source(&mut self, ticket: u64, request: Request) {
        let Op::Name { op: NameOp::Rename { parent, name, .. } } = &request.op else { panic!() };
        match self.ask_home(Query::Lookup { parent: *parent, name: name.clone() }) {
            Ok(Answer::Entry { dentry, .. }) => {
                self.bag.push(Message::Client { ticket, request, source: Some(dentry) });
            }
            Err(error) => self.answer(ticket, Err(error)),
            Ok(other) => panic!("{other:?}"),
        }
    }

    fn answer(&mut self, ticket: u64, outcome: Outcome) {
        if outcome == Err(FsError::Busy) {
            // The client's next try comes when nothing else is under way, or at some time before.
            if let Some(request) = self.waiting.get(&ticket).cloned()
                && self.random.random_bool(0.5)
            {
                self.bag.push(Message::Client { ticket, request, source: None });
            }
            return;
        }
        if self.waiting.remove(&ticket).is_some() {
            self.answers.insert(ticket, outcome);
        }
    }

    fn act(&mut self, node: usize, actions: Vec<Action>) {
        let back = To { node, term: self.nodes[node].term };
        for action in actions {
            match action {
                Action::Prepare { to, tx, request } | Action::Finish { to, tx, request } => {
                    self.bag.push(Message::Propose { back, to: to.0 as usize - 1, tx, request });
                }
                Action::Walk { tx, walks } => self.bag.push(Message::Walk { to: back, tx, walks }),
                Action::Decide { tx, request } => self.bag.push(Message::Decide { to: back, tx, request }),
                Action::Answer { ticket, outcome } => self.answer(ticket, outcome),
                Action::Forget { request } => drop(self.apply(node, back.term, &request)),
            }
        }
    }

    /// Lets everything come to its end, and says what is wrong then.
    pub fn quiesce(&mut self) -> Vec<String> {
        self.faults = Faults::NONE;
        let mut problems = Vec::new();
        for _ in 0..400 {
            for _ in 0..200 {
                self.step();
                if self.bag.is_empty() {
                    break;
                }
            }
            for node in 0..self.nodes.len() {
                self.resolve_one(node);
                self.gather_told(node);
                let _ = self.propose(node, Op::Drain { limit: 100 });
                let _ = self.propose(node, Op::Forget { numbers: Vec::new() });
            }
            let idle = self.nodes.iter().all(|node| node.coordinator.is_idle()) && self.waiting.is_empty();
            problems = check::problems(&self.partitions(), true).unwrap();
            if idle && problems.is_empty() {
                break;
            }
        }
        problems
    }
}
