//! A handler that acts by a script and remembers what came.

#![allow(dead_code, reason = "each test program uses a part")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use curve_io::{Handler, Message, Network, Reply, ServerHandle};
use curve_rpc::RpcNetwork;
use tokio::sync::watch;

/// Long enough to never pass in a test that works.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// What to do with a request.
pub enum Act {
    /// Send the request back.
    Echo,
    /// Send this.
    Reply(Message),
    /// Drop the reply.
    Drop,
    /// Keep the reply until told.
    Keep,
}

type Decide = dyn Fn(u64, &Message) -> Act + Send + Sync;

/// The handler.
pub struct Script {
    decide: Box<Decide>,
    seen: Mutex<Vec<u64>>,
    count: watch::Sender<usize>,
    kept: Mutex<Vec<(Message, Box<dyn Reply>)>>,
}

impl Script {
    /// Acts as `decide` says for the number in the request's header.
    pub fn new(decide: impl Fn(u64, &Message) -> Act + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            decide: Box::new(decide),
            seen: Mutex::default(),
            count: watch::Sender::new(0),
            kept: Mutex::default(),
        })
    }

    /// The numbers that came, in order.
    pub fn seen(&self) -> Vec<u64> {
        self.seen.lock().unwrap().clone()
    }

    /// Waits until this many requests have come.
    pub async fn wait_for(&self, count: usize) {
        let mut seen = self.count.subscribe();
        tokio::time::timeout(DEADLINE, seen.wait_for(|seen| *seen >= count)).await.unwrap().unwrap();
    }

    /// Echoes the oldest kept request.
    pub fn answer_one(&self) {
        let mut kept = self.kept.lock().unwrap();
        if !kept.is_empty() {
            let (request, reply) = kept.remove(0);
            reply.send(request);
        }
    }

    /// Echoes all kept requests.
    pub fn answer_kept(&self) {
        for (request, reply) in self.kept.lock().unwrap().drain(..) {
            reply.send(request);
        }
    }
}

impl Handler for Script {
    fn handle(&self, request: Message, reply: Box<dyn Reply>) {
        let number = u64::from_le_bytes(request.header[..8].try_into().unwrap());
        self.seen.lock().unwrap().push(number);
        match (self.decide)(number, &request) {
            Act::Echo => reply.send(request),
            Act::Reply(message) => reply.send(message),
            Act::Drop => drop(reply),
            Act::Keep => self.kept.lock().unwrap().push((request, reply)),
        }
        self.count.send_modify(|count| *count += 1);
    }
}

/// Sends every request back.
pub fn echo() -> Arc<Script> {
    Script::new(|_, _| Act::Echo)
}

/// A request with a number in its header and a payload of this length in two parts.
pub fn message(number: u64, len: usize) -> Message {
    let body = Bytes::from((0..len).map(|at| (at as u64 ^ number) as u8).collect::<Vec<u8>>());
    let half = len / 3;
    Message {
        method: 7,
        header: Bytes::copy_from_slice(&number.to_le_bytes()),
        payload: vec![body.slice(..half), body.slice(half..)],
    }
}

/// Serves at an address.
pub async fn serve_at(
    network: &Arc<RpcNetwork>,
    address: &str,
    script: Arc<Script>,
) -> (Box<dyn ServerHandle>, Arc<Script>) {
    let handler: Arc<dyn Handler> = Arc::clone(&script) as _;
    (network.serve(address, handler).await.unwrap(), script)
}
