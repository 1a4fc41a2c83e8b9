//! A simulated network: messages between named nodes over links that lose, delay, duplicate and reorder them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::disk::BoxFuture;
use crate::net::{Handler, Message, Network, Reply, RpcError, ServerHandle};

/// How one direction between two nodes behaves.
#[derive(Clone, Debug)]
pub struct Link {
    /// Time a message takes; drawn evenly. Empty means exactly its start.
    pub delay: Range<Duration>,
    /// Probability that a message is lost.
    pub loss: f64,
    /// Probability that a request arrives twice.
    pub duplication: f64,
    /// Probability that a message does not wait for those sent before it.
    pub reordering: f64,
    /// Whether nothing passes, silently.
    pub cut: bool,
}

impl Default for Link {
    fn default() -> Self {
        let delay = Duration::from_micros(100)..Duration::from_micros(100);
        Self { delay, loss: 0.0, duplication: 0.0, reordering: 0.0, cut: false }
    }
}

/// What callers of a node that is down notice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outage {
    /// The process is gone and its machine answers for it: open calls break, new ones find nobody.
    Refused,
    /// The machine is gone: nothing comes back, calls run into their deadline.
    Silent,
}

/// What a network did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SimNetworkStats {
    /// Requests that reached a handler, each copy counted.
    pub requests: u64,
    /// Replies that reached their caller's node.
    pub replies: u64,
    /// Messages lost by chance or by a cut link.
    pub lost: u64,
    /// Payload and header bytes delivered.
    pub bytes: u64,
}

/// A network in memory. `node` gives one process its view of it.
///
/// One task delivers everything in the order of (time, number of the message), so that a run depends on the seed and on
/// nothing else. Messages over one link stay in order unless `Link::reordering` says otherwise. A message that is under
/// way when its link is cut or its receiver goes down is lost. Nodes come into being when they are named.
#[derive(Clone)]
pub struct SimNetwork {
    fabric: Arc<Fabric>,
}

struct Fabric {
    state: Mutex<State>,
    /// Signals that the earliest delivery has changed.
    changed: Notify,
}

struct State {
    rng: StdRng,
    default_link: Link,
    links: BTreeMap<(String, String), Link>,
    nodes: BTreeMap<String, Node>,
    listeners: BTreeMap<String, Listener>,
    /// Which node listened at an address last; a call to a node that is down still goes there.
    owners: BTreeMap<String, String>,
    in_flight: BTreeMap<(Instant, u64), Delivery>,
    stalled: BTreeSet<String>,
    /// What arrived for or from a stalled node, by number.
    held: BTreeMap<u64, Delivery>,
    /// When the last ordered message of a link arrives.
    last_arrival: BTreeMap<(String, String), Instant>,
    next_message: u64,
    pumping: bool,
    stats: SimNetworkStats,
}

#[derive(Default)]
struct Node {
    /// Grows when the node goes down; what belongs to an earlier life is void.
    life: u64,
    down: Option<Outage>,
    last_outage: Option<Outage>,
}

#[derive(Clone)]
struct Listener {
    node: String,
    life: u64,
    handler: Arc<dyn Handler>,
    serial: u64,
}

struct Delivery {
    from: String,
    to: String,
    cargo: Cargo,
}

enum Cargo {
    Request { address: String, message: Message, caller: Caller, answer: SharedAnswer },
    Reply { message: Message, caller: Caller, answer: SharedAnswer },
    Failure { error: RpcError, caller: Caller, answer: SharedAnswer },
}

#[derive(Clone)]
struct Caller {
    node: String,
    life: u64,
}

type Answer = oneshot::Sender<Result<Message, RpcError>>;
type SharedAnswer = Arc<Mutex<Option<Answer>>>;

fn answer(slot: &SharedAnswer, result: Result<Message, RpcError>) {
    if let Some(sender) = slot.lock().expect("no panic while an answer is taken").take() {
        // The caller may have given up.
        let _ = sender.send(result);
    }
}

impl SimNetwork {
    /// A network whose links are all `Link::default()`.
    pub fn new(seed: u64) -> Self {
        let state = State {
            rng: StdRng::seed_from_u64(seed),
            default_link: Link::default(),
            links: BTreeMap::new(),
            nodes: BTreeMap::new(),
            listeners: BTreeMap::new(),
            owners: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            stalled: BTreeSet::new(),
            held: BTreeMap::new(),
            last_arrival: BTreeMap::new(),
            next_message: 1,
            pumping: false,
            stats: SimNetworkStats::default(),
        };
        Self { fabric: Arc::new(Fabric { state: Mutex::new(state), changed: Notify::new() }) }
    }

    /// The network as the present life of a node sees it. After `take_down` it is dead; ask again after `bring_up`.
    pub fn node(&self, name: &str) -> Arc<dyn Network> {
        let life = self.lock().node(name).life;
        Arc::new(SimNode { fabric: self.fabric.clone(), name: name.to_owned(), life })
    }

    /// Sets how all links without a setting of their own behave.
    pub fn set_default_link(&self, link: Link) {
        self.lock().default_link = link;
    }

    /// Sets how messages from `from` to `to` travel; the other direction is not touched.
    pub fn set_link(&self, from: &str, to: &str, link: Link) {
        self.lock().links.insert((from.to_owned(), to.to_owned()), link);
    }

    /// Lets nothing pass from `from` to `to`, or lets it pass again.
    pub fn cut(&self, from: &str, to: &str, cut: bool) {
        let mut state = self.lock();
        let mut link = state.link(from, to);
        link.cut = cut;
        state.links.insert((from.to_owned(), to.to_owned()), link);
    }

    /// Cuts a node off from all others, in both directions, or connects it again.
    pub fn isolate(&self, name: &str, isolated: bool) {
        let others: Vec<String> = self.lock().nodes.keys().filter(|other| *other != name).cloned().collect();
        for other in others {
            self.cut(name, &other, isolated);
            self.cut(&other, name, isolated);
        }
    }

    /// Holds back everything that a node sends or is sent, or delivers all of it at once, in order: as after a long
    /// pause, when callers have given up long ago.
    pub fn stall(&self, name: &str, stalled: bool) {
        let mut state = self.lock();
        if stalled {
            state.stalled.insert(name.to_owned());
            return;
        }
        state.stalled.remove(name);
        let now = Instant::now();
        for (number, delivery) in std::mem::take(&mut state.held) {
            if state.is_stalled(&delivery) {
                state.held.insert(number, delivery);
            } else {
                state.in_flight.insert((now, number), delivery);
            }
        }
        self.fabric.wake(&mut state);
    }

    /// Forgets all link settings but the default, so that every cut is healed.
    pub fn heal(&self) {
        self.lock().links.clear();
    }

    /// Takes a node down. Its handlers are called no more, and replies they still hold go nowhere.
    pub fn take_down(&self, name: &str, outage: Outage) {
        let mut state = self.lock();
        let node = state.node(name);
        node.life += 1;
        node.down = Some(outage);
        node.last_outage = Some(outage);
        state.listeners.retain(|_, listener| listener.node != name);
    }

    /// Brings a node up again, with nothing served yet.
    pub fn bring_up(&self, name: &str) {
        self.lock().node(name).down = None;
    }

    /// Counters.
    pub fn stats(&self) -> SimNetworkStats {
        self.lock().stats
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.fabric.lock()
    }
}

impl State {
    fn node(&mut self, name: &str) -> &mut Node {
        self.nodes.entry(name.to_owned()).or_default()
    }

    fn is_current(&mut self, name: &str, life: u64) -> bool {
        let node = self.node(name);
        node.life == life && node.down.is_none()
    }

    fn link(&self, from: &str, to: &str) -> Link {
        self.links.get(&(from.to_owned(), to.to_owned())).unwrap_or(&self.default_link).clone()
    }

    /// Takes out a message that is due, if it is to be delivered now.
    fn take(&mut self, at: Instant, number: u64) -> Option<Delivery> {
        let delivery = self.in_flight.remove(&(at, number))?;
        if self.is_stalled(&delivery) {
            self.held.insert(number, delivery);
            return None;
        }
        Some(delivery)
    }

    fn is_stalled(&self, delivery: &Delivery) -> bool {
        self.stalled.contains(&delivery.from) || self.stalled.contains(&delivery.to)
    }

    /// Sends one message along its link; chance decides when it arrives, and whether.
    fn send(&mut self, from: &str, to: &str, cargo: Cargo) {
        let link = self.link(from, to);
        if link.cut || self.rng.random_bool(link.loss) {
            self.stats.lost += 1;
            return;
        }
        if matches!(cargo, Cargo::Request { .. }) && self.rng.random_bool(link.duplication) {
            let copy = cargo.copy_of_request();
            self.schedule(from, to, &link, copy);
        }
        self.schedule(from, to, &link, cargo);
    }

    fn schedule(&mut self, from: &str, to: &str, link: &Link, cargo: Cargo) {
        let delay =
            if link.delay.is_empty() { link.delay.start } else { self.rng.random_range(link.delay.clone()) };
        let mut at = Instant::now() + delay;
        if !self.rng.random_bool(link.reordering) {
            let last = self.last_arrival.entry((from.to_owned(), to.to_owned())).or_insert(at);
            at = at.max(*last);
            *last = at;
        }
        let number = self.next_message;
        self.next_message += 1;
        let delivery = Delivery { from: from.to_owned(), to: to.to_owned(), cargo };
        self.in_flight.insert((at, number), delivery);
    }
}

impl Cargo {
    fn copy_of_request(&self) -> Cargo {
        let Cargo::Request { address, message, caller, answer } = self else {
            unreachable!("only requests are duplicated");
        };
        Cargo::Request {
            address: address.clone(),
            message: message.clone(),
            caller: caller.clone(),
            answer: answer.clone(),
        }
    }
}

impl Fabric {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while the network is locked")
    }

    /// Sends a message and sees to it that somebody delivers it.
    fn send(self: &Arc<Self>, state: &mut State, from: &str, to: &str, cargo: Cargo) {
        state.send(from, to, cargo);
        self.wake(state);
    }

    /// Sees to it that somebody delivers what is in flight.
    fn wake(self: &Arc<Self>, state: &mut State) {
        if !state.pumping && !state.in_flight.is_empty() {
            state.pumping = true;
            tokio::spawn(pump(Arc::downgrade(self)));
        }
        self.changed.notify_one();
    }

    fn deliver(self: &Arc<Self>, delivery: Delivery) {
        let Delivery { from, to, cargo } = delivery;
        let mut state = self.lock();
        if state.link(&from, &to).cut {
            state.stats.lost += 1;
            return;
        }
        match cargo {
            Cargo::Request { address, message, caller, answer } => {
                drop(state);
                self.deliver_request(&to, address, message, caller, answer);
            }
            Cargo::Reply { message, caller, answer: slot } => {
                if state.is_current(&caller.node, caller.life) {
                    state.stats.replies += 1;
                    state.stats.bytes += (message.header.len() + message.payload_len()) as u64;
                    drop(state);
                    answer(&slot, Ok(message));
                }
            }
            Cargo::Failure { error, caller, answer: slot } => {
                if state.is_current(&caller.node, caller.life) {
                    drop(state);
                    answer(&slot, Err(error));
                }
            }
        }
    }

    fn deliver_request(
        self: &Arc<Self>,
        to: &str,
        address: String,
        message: Message,
        caller: Caller,
        slot: SharedAnswer,
    ) {
        let mut state = self.lock();
        if state.node(to).down == Some(Outage::Silent) {
            return;
        }
        let Some(listener) = state.listeners.get(&address).filter(|listener| listener.node == to).cloned()
        else {
            let error = RpcError::Unreachable { address, cause: "connection refused".to_owned() };
            let back = caller.node.clone();
            self.send(&mut state, to, &back, Cargo::Failure { error, caller, answer: slot });
            return;
        };
        state.stats.requests += 1;
        state.stats.bytes += (message.header.len() + message.payload_len()) as u64;
        drop(state);
        let reply = SimReply {
            fabric: Arc::downgrade(self),
            node: listener.node,
            life: listener.life,
            address,
            pending: Some((caller, slot)),
        };
        listener.handler.handle(flatten(message), Box::new(reply));
    }
}

/// A received message has at most one part.
fn flatten(mut message: Message) -> Message {
    if message.payload.len() > 1 {
        message.payload = vec![message.payload.concat().into()];
    }
    message.payload.retain(|part| !part.is_empty());
    message
}

/// Delivers what is due, in order, until nothing is in flight.
async fn pump(fabric: Weak<Fabric>) {
    loop {
        let Some(fabric) = fabric.upgrade() else { return };
        let next = {
            let mut state = fabric.lock();
            let Some(((at, number), _)) = state.in_flight.first_key_value() else {
                state.pumping = false;
                return;
            };
            let (at, number) = (*at, *number);
            if at <= Instant::now() { Ok(state.take(at, number)) } else { Err(at) }
        };
        match next {
            Ok(Some(delivery)) => fabric.deliver(delivery),
            Ok(None) => {}
            Err(at) => {
                tokio::select! {
                    biased;
                    () = fabric.changed.notified() => {}
                    () = tokio::time::sleep_until(at) => {}
                }
            }
        }
    }
}

/// One life of one node.
struct SimNode {
    fabric: Arc<Fabric>,
    name: String,
    life: u64,
}

impl Network for SimNode {
    fn call_by(
        &self,
        address: &str,
        request: Message,
        _: Option<Instant>,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Message, RpcError>> {
        let (sender, receiver) = oneshot::channel();
        let address = address.to_owned();
        // The caller holds the sender too, so that a lost message looks like silence and not like a break.
        let slot: SharedAnswer = Arc::new(Mutex::new(Some(sender)));
        let mut state = self.fabric.lock();
        let alive = state.is_current(&self.name, self.life);
        if alive {
            let caller = Caller { node: self.name.clone(), life: self.life };
            let message =
                Cargo::Request { address: address.clone(), message: request, caller, answer: slot.clone() };
            match node_of(&state, &address) {
                Some(to) => self.fabric.send(&mut state, &self.name, &to, message),
                None => {
                    let cause = "nobody ever listened there".to_owned();
                    answer(&slot, Err(RpcError::Unreachable { address: address.clone(), cause }));
                }
            }
        }
        drop(state);
        Box::pin(async move {
            let result = tokio::time::timeout(deadline, receiver).await;
            drop(slot);
            match result {
                Ok(Ok(result)) => result,
                Ok(Err(_)) => Err(RpcError::Broken { address, cause: "the network is gone".to_owned() }),
                Err(_) => Err(RpcError::Deadline { address, deadline_ms: deadline.as_millis() as u64 }),
            }
        })
    }

    fn serve<'a>(
        &'a self,
        address: &'a str,
        handler: Arc<dyn Handler>,
    ) -> BoxFuture<'a, io::Result<Box<dyn ServerHandle>>> {
        Box::pin(async move {
            let mut state = self.fabric.lock();
            if !state.is_current(&self.name, self.life) {
                return Err(io::ErrorKind::NetworkDown.into());
            }
            let serial = state.next_message;
            state.next_message += 1;
            let address = match address.strip_suffix(":0") {
                Some(host) => format!("{host}:{serial}"),
                None => address.to_owned(),
            };
            if state.listeners.contains_key(&address) {
                return Err(io::ErrorKind::AddrInUse.into());
            }
            let listener = Listener { node: self.name.clone(), life: self.life, handler, serial };
            state.listeners.insert(address.clone(), listener);
            state.owners.insert(address.clone(), self.name.clone());
            let fabric = Arc::downgrade(&self.fabric);
            Ok(Box::new(SimServer { fabric, address, serial }) as Box<dyn ServerHandle>)
        })
    }
}

/// The node an address belongs to: the one that listened there last, or the one whose name is the address's host.
fn node_of(state: &State, address: &str) -> Option<String> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let named = || state.nodes.contains_key(host).then(|| host.to_owned());
    state.owners.get(address).cloned().or_else(named)
}

struct SimServer {
    fabric: Weak<Fabric>,
    address: String,
    serial: u64,
}

impl ServerHandle for SimServer {
    fn address(&self) -> String {
        self.address.clone()
    }
}

impl Drop for SimServer {
    fn drop(&mut self) {
        let Some(fabric) = self.fabric.upgrade() else { return };
        // A poisoned lock means that a test is failing already.
        let Ok(mut state) = fabric.state.lock() else { return };
        if state.listeners.get(&self.address).is_some_and(|listener| listener.serial == self.serial) {
            state.listeners.remove(&self.address);
        }
    }
}

struct SimReply {
    fabric: Weak<Fabric>,
    node: String,
    life: u64,
    address: String,
    pending: Option<(Caller, SharedAnswer)>,
}

impl SimReply {
    /// Sends something back unless the answering node has died since.
    fn finish(&mut self, cargo: impl FnOnce(Caller, SharedAnswer) -> Cargo) {
        let (Some((caller, slot)), Some(fabric)) = (self.pending.take(), self.fabric.upgrade()) else {
            return;
        };
        let Ok(mut state) = fabric.state.lock() else { return };
        let node = state.node(&self.node);
        let same_life = node.life == self.life;
        let broken = node.last_outage == Some(Outage::Refused);
        let back = caller.node.clone();
        if same_life {
            fabric.send(&mut state, &self.node, &back, cargo(caller, slot));
        } else if broken {
            let error =
                RpcError::Broken { address: self.address.clone(), cause: "connection reset".to_owned() };
            fabric.send(&mut state, &self.node, &back, Cargo::Failure { error, caller, answer: slot });
        }
    }
}

impl Reply for SimReply {
    fn send(mut self: Box<Self>, message: Message) {
        self.finish(|caller, answer| Cargo::Reply { message: flatten(message), caller, answer });
    }
}

impl Drop for SimReply {
    fn drop(&mut self) {
        // Dropping outside of a runtime happens when a test ends; there is nobody to tell.
        if self.pending.is_none() || tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        let error =
            RpcError::Broken { address: self.address.clone(), cause: "dropped unanswered".to_owned() };
        self.finish(|caller, answer| Cargo::Failure { error, caller, answer });
    }
}

#[cfg(test)]
mod tests;
