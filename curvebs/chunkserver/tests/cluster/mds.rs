//! A stand-in for the MDS: gives node ids, tells addresses, and orders one copyset.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Duration;

use curve_io::BoxFuture;
use curve_proto::mds::{Heartbeat, HeartbeatReply, Order, OrderAction, Registered, Registration};
use curve_proto::pb::mds::mds_request::Op;
use curve_proto::pb::mds::mds_response::Result as Answer;
use curve_proto::pb::mds::{MdsRequest, MdsResponse};
use curve_proto::transport::{MdsCallError, MdsTransport};
use curve_types::{CopysetId, NodeId};

#[derive(Default)]
struct State {
    nodes: BTreeMap<u128, NodeId>,
    addresses: BTreeMap<NodeId, String>,
    full: BTreeSet<NodeId>,
    down: bool,
}

pub struct Mds {
    copyset: CopysetId,
    replicas: usize,
    state: Mutex<State>,
}

impl Mds {
    pub fn new(copyset: CopysetId, replicas: usize) -> Self {
        Self { copyset, replicas, state: Mutex::default() }
    }

    pub fn set_down(&self, down: bool) {
        self.state.lock().unwrap().down = down;
    }

    pub fn address(&self, node: NodeId) -> Option<String> {
        self.state.lock().unwrap().addresses.get(&node).cloned()
    }

    /// Who has said that its disk is full.
    pub fn full(&self) -> BTreeSet<NodeId> {
        self.state.lock().unwrap().full.clone()
    }

    fn register(state: &mut State, registration: &Registration) -> Registered {
        let next = NodeId(state.nodes.len() as u64 + 11);
        let node = *state.nodes.entry(registration.token).or_insert(next);
        state.addresses.insert(node, registration.address.clone());
        Registered { node, cluster: "test".into(), heartbeat_interval: Duration::from_secs(1) }
    }

    fn heartbeat(&self, state: &mut State, heartbeat: &Heartbeat) -> HeartbeatReply {
        state.addresses.insert(heartbeat.node, heartbeat.address.clone());
        match heartbeat.reserve_low {
            true => state.full.insert(heartbeat.node),
            false => state.full.remove(&heartbeat.node),
        };
        let members: Vec<NodeId> = state.addresses.keys().copied().collect();
        let mut orders = Vec::new();
        if members.len() == self.replicas && heartbeat.replicas.is_empty() {
            orders.push(Order { copyset: self.copyset, action: OrderAction::Create(members) });
        }
        HeartbeatReply {
            orders,
            addresses: state.addresses.iter().map(|(node, address)| (*node, address.clone())).collect(),
            heartbeat_interval: Duration::from_secs(1),
        }
    }
}

impl MdsTransport for Mds {
    fn call(
        &self,
        request: MdsRequest,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<MdsResponse, MdsCallError>> {
        let mut state = self.state.lock().unwrap();
        if state.down {
            let gone = MdsCallError::Unavailable {
                waited_ms: deadline.as_millis() as u64,
                addresses: "mds".into(),
                cause: "down".into(),
            };
            return Box::pin(async move {
                tokio::time::sleep(deadline).await;
                Err(gone)
            });
        }
        let answer = match request.op.unwrap() {
            Op::Register(r) => Answer::Registered(Self::register(&mut state, &r.try_into().unwrap()).into()),
            Op::Heartbeat(h) => Answer::Heartbeat(self.heartbeat(&mut state, &h.try_into().unwrap()).into()),
            other => panic!("a chunkserver asked {other:?}"),
        };
        let response = MdsResponse { result: Some(answer) };
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            Ok(response)
        })
    }
}
