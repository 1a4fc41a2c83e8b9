//! How one node calls others.
//!
//! Appends to one peer are sent in order, and several are in flight; the network keeps the order of calls. If
//! messages are lost or overtake each other all the same, the receiver reports a conflict and the leader probes again.

use std::sync::Arc;
use std::time::Duration;

use curve_io::{BoxFuture, Message, Network, RpcError};
use curve_types::{GroupId, NodeId};
use futures::future::FutureExt;

use crate::node::AddressBook;
use crate::wire::Route;

/// How one node calls others.
#[derive(Clone)]
pub(crate) struct Caller {
    pub(crate) node: NodeId,
    pub(crate) network: Arc<dyn Network>,
    pub(crate) addresses: Arc<dyn AddressBook>,
}

impl Caller {
    /// Sends a request now; the future waits for the reply.
    pub(crate) fn call(
        &self,
        to: NodeId,
        request: Message,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Message, RpcError>> {
        match self.addresses.address(to) {
            Some(address) => self.network.call(&address, request, deadline),
            None => {
                let error =
                    RpcError::Unreachable { address: to.to_string(), cause: "no address known".into() };
                async move { Err(error) }.boxed()
            }
        }
    }

    pub(crate) fn route(&self, group: GroupId, to: NodeId) -> Route {
        Route { group: group.get(), from: self.node.get(), to: to.get() }
    }
}
