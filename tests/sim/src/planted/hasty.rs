//! An MDS that answers a change of reservations as soon as it is made.

use std::sync::Arc;
use std::time::Duration;

use curve_io::{BoxFuture, Handler, Message, Network, RpcError, ServerHandle};
use curve_proto::methods;
use curve_proto::pb::mds::mds_request::Op;
use curve_proto::pb::mds::mds_response::Result as Answer;
use curve_proto::pb::mds::{ErrorCode, IscsiReserved, MdsRequest, MdsResponse};
use prost::Message as _;

/// A network on which "it is in progress", said of a change of reservations, has become "it is enforced everywhere".
pub struct HastyNetwork(pub Arc<dyn Network>);

impl Network for HastyNetwork {
    fn call_by(
        &self,
        address: &str,
        request: Message,
        arrives_by: Option<tokio::time::Instant>,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Message, RpcError>> {
        let expected = expected_version(&request);
        let call = self.0.call_by(address, request, arrives_by, deadline);
        Box::pin(async move {
            let mut reply = call.await?;
            if let Some(expected) = expected
                && is_in_progress(&reply)
            {
                let reserved = IscsiReserved { made: true, version: expected + 1 };
                let forged = MdsResponse { result: Some(Answer::IscsiReserved(reserved)) };
                reply.payload = vec![forged.encode_to_vec().into()];
            }
            Ok(reply)
        })
    }

    fn serve<'a>(
        &'a self,
        address: &'a str,
        handler: Arc<dyn Handler>,
    ) -> BoxFuture<'a, std::io::Result<Box<dyn ServerHandle>>> {
        self.0.serve(address, handler)
    }
}

/// The version that a change of reservations is made from.
fn expected_version(request: &Message) -> Option<u64> {
    let decoded = (request.method == methods::MDS_CALL)
        .then(|| MdsRequest::decode(&*request.payload.concat()).ok())
        .flatten()?;
    match decoded.op? {
        Op::IscsiReserve(reserve) => Some(reserve.expected),
        _ => None,
    }
}

fn is_in_progress(reply: &Message) -> bool {
    let decoded = MdsResponse::decode(&*reply.payload.concat()).ok().and_then(|response| response.result);
    matches!(decoded, Some(Answer::Error(error)) if error.code == ErrorCode::InProgress as i32)
}
