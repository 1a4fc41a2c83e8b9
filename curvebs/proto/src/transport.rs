//! How a process calls the MDS group: one call, whoever leads, over gRPC or over frames.
//!
//! [`MdsTransport`] is what a chunkserver or a client holds. [`MdsRouter`] implements it over any [`MdsChannel`]: it
//! remembers which address answered last, follows the hint of a node that does not lead, and goes round the addresses
//! until the deadline. [`GrpcMds`] is the channel of real processes, [`MessageMds`] the one of the simulator.
//!
//! A call that ends without an answer may have been done: every request of the control plane is idempotent.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use curve_io::{BoxFuture, Message, Network};
use prost::Message as _;
use thiserror::Error;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};

use crate::methods;
use crate::pb::mds::mds_client::MdsClient;
use crate::pb::mds::{ErrorCode, MdsRequest, MdsResponse, mds_response};

/// The longest wait for one address before the next one is tried.
const ATTEMPT_MAX: Duration = Duration::from_secs(2);
/// The pause after all addresses failed, and while a new leader is elected.
const ROUND_PAUSE: Duration = Duration::from_millis(100);
/// The largest gRPC message, both ways.
const GRPC_BYTES_MAX: usize = 64 << 20;

/// Why the MDS group gave no answer.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum MdsCallError {
    /// No MDS address is configured.
    #[error("no MDS address is configured")]
    NoAddress,
    /// No leader answered in time; `cause` is what the last address said.
    #[error("no MDS answered within {waited_ms} ms (tried {addresses}): {cause}")]
    Unavailable {
        /// How long was tried.
        waited_ms: u64,
        /// The addresses, separated by commas.
        addresses: String,
        /// What the last one said.
        cause: String,
    },
}

/// Calls the MDS group.
pub trait MdsTransport: Send + Sync + 'static {
    /// Sends a request to the leader and returns its response, which is never "not the leader".
    fn call(
        &self,
        request: MdsRequest,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<MdsResponse, MdsCallError>>;
}

/// Calls one MDS.
pub trait MdsChannel: Send + Sync + 'static {
    /// Sends a request to `address`; the error is for people.
    fn call_one(
        &self,
        address: String,
        request: MdsRequest,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<MdsResponse, String>>;
}

/// Finds the leader among configured addresses.
pub struct MdsRouter<C> {
    channel: Arc<C>,
    addresses: Arc<[String]>,
    leader: Arc<Mutex<Option<String>>>,
}

impl<C: MdsChannel> MdsRouter<C> {
    /// Routes over `channel` among `addresses`.
    pub fn new(channel: C, addresses: &[String]) -> Self {
        Self { channel: Arc::new(channel), addresses: addresses.into(), leader: Arc::default() }
    }
}

impl<C: MdsChannel> MdsTransport for MdsRouter<C> {
    fn call(
        &self,
        request: MdsRequest,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<MdsResponse, MdsCallError>> {
        let (channel, addresses, leader) =
            (self.channel.clone(), self.addresses.clone(), self.leader.clone());
        Box::pin(async move { route(&*channel, &addresses, &leader, request, deadline).await })
    }
}

/// `Some` when the response says that its sender does not lead, with the leader's address if it knows it.
fn not_leader(response: &MdsResponse) -> Option<Option<String>> {
    match &response.result {
        Some(mds_response::Result::Error(error)) if error.code() == ErrorCode::NotLeader => {
            Some(Some(error.leader_address.clone()).filter(|address| !address.is_empty()))
        }
        _ => None,
    }
}

async fn route<C: MdsChannel>(
    channel: &C,
    addresses: &[String],
    leader: &Mutex<Option<String>>,
    request: MdsRequest,
    deadline: Duration,
) -> Result<MdsResponse, MdsCallError> {
    if addresses.is_empty() {
        return Err(MdsCallError::NoAddress);
    }
    let remember = |address: Option<String>| *leader.lock().unwrap_or_else(PoisonError::into_inner) = address;
    let started = Instant::now();
    let until = started + deadline;
    let mut next = 0;
    let mut failed_in_a_row = 0;
    let mut cause = "not tried".to_owned();
    loop {
        let known = leader.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let address = known.unwrap_or_else(|| {
            next += 1;
            addresses[(next - 1) % addresses.len()].clone()
        });
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(MdsCallError::Unavailable {
                waited_ms: started.elapsed().as_millis() as u64,
                addresses: addresses.join(", "),
                cause,
            });
        }
        match channel.call_one(address.clone(), request.clone(), left.min(ATTEMPT_MAX)).await {
            Ok(response) => match not_leader(&response) {
                None => {
                    remember(Some(address));
                    return Ok(response);
                }
                Some(hint) => {
                    cause = format!("{address} does not lead");
                    let hint = hint.filter(|hint| *hint != address);
                    // A hint is followed at once, once; two nodes that point at each other must not spin.
                    failed_in_a_row +=
                        if hint.is_some() && failed_in_a_row == 0 { 1 } else { addresses.len() };
                    remember(hint);
                }
            },
            Err(error) => {
                cause = format!("{address}: {error}");
                failed_in_a_row += 1;
                remember(None);
            }
        }
        if failed_in_a_row >= addresses.len() {
            failed_in_a_row = 0;
            tokio::time::sleep(ROUND_PAUSE.min(left)).await;
        }
    }
}

/// gRPC to one MDS; connections are made when needed and kept.
#[derive(Default)]
pub struct GrpcChannel {
    channels: Mutex<BTreeMap<String, MdsClient<Channel>>>,
}

/// The transport of real processes.
pub type GrpcMds = MdsRouter<GrpcChannel>;

impl GrpcMds {
    /// Calls the MDS group whose gRPC addresses (`host:port`) are given. Connects when first used.
    pub fn grpc(addresses: &[String]) -> Self {
        Self::new(GrpcChannel::default(), addresses)
    }
}

impl GrpcChannel {
    fn client(&self, address: &str) -> Result<MdsClient<Channel>, String> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = channels.get(address) {
            return Ok(client.clone());
        }
        let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|e| e.to_string())?;
        let channel = endpoint
            .connect_timeout(Duration::from_secs(1))
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(5))
            .keep_alive_timeout(Duration::from_secs(2))
            .connect_lazy();
        let client = MdsClient::new(channel)
            .max_decoding_message_size(GRPC_BYTES_MAX)
            .max_encoding_message_size(GRPC_BYTES_MAX);
        channels.insert(address.to_owned(), client.clone());
        Ok(client)
    }
}

impl MdsChannel for GrpcChannel {
    fn call_one(
        &self,
        address: String,
        request: MdsRequest,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<MdsResponse, String>> {
        let client = self.client(&address);
        Box::pin(async move {
            let mut client = client?;
            match tokio::time::timeout(deadline, client.call(request)).await {
                Ok(Ok(response)) => Ok(response.into_inner()),
                Ok(Err(status)) => Err(format!("{}: {}", status.code(), status.message())),
                Err(_) => Err(format!("no reply within {} ms", deadline.as_millis())),
            }
        })
    }
}

/// Frames to one MDS.
pub struct MessageChannel {
    network: Arc<dyn Network>,
}

/// The transport of the simulator: the same requests as frames over a [`Network`].
pub type MessageMds = MdsRouter<MessageChannel>;

impl MessageMds {
    /// Calls the MDS group over `network`.
    pub fn framed(network: Arc<dyn Network>, addresses: &[String]) -> Self {
        Self::new(MessageChannel { network }, addresses)
    }
}

impl MdsChannel for MessageChannel {
    fn call_one(
        &self,
        address: String,
        request: MdsRequest,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<MdsResponse, String>> {
        let call = self.network.call(&address, request_frame(&request), deadline);
        Box::pin(async move { response_of(&call.await.map_err(|e| e.to_string())?) })
    }
}

/// A request as a frame.
pub fn request_frame(request: &MdsRequest) -> Message {
    frame(request.encode_to_vec())
}

/// A response as a frame.
pub fn response_frame(response: &MdsResponse) -> Message {
    frame(response.encode_to_vec())
}

/// The request in a frame; the error is for people.
pub fn request_of(message: &Message) -> Result<MdsRequest, String> {
    MdsRequest::decode(&*payload(message)).map_err(|e| format!("malformed MDS request: {e}"))
}

/// The response in a frame; the error is for people.
pub fn response_of(message: &Message) -> Result<MdsResponse, String> {
    MdsResponse::decode(&*payload(message)).map_err(|e| format!("malformed MDS response: {e}"))
}

fn frame(bytes: Vec<u8>) -> Message {
    Message { method: methods::MDS_CALL, header: Bytes::new(), payload: vec![bytes.into()] }
}

fn payload(message: &Message) -> Bytes {
    match message.payload.as_slice() {
        [] => Bytes::new(),
        [one] => one.clone(),
        many => many.concat().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mds::MdsError;

    struct Scripted {
        answers: BTreeMap<&'static str, Result<MdsResponse, String>>,
        asked: Mutex<Vec<String>>,
    }

    impl MdsChannel for Arc<Scripted> {
        fn call_one(
            &self,
            address: String,
            _request: MdsRequest,
            _deadline: Duration,
        ) -> BoxFuture<'static, Result<MdsResponse, String>> {
            self.asked.lock().unwrap().push(address.clone());
            let answer = self.answers.get(address.as_str()).cloned().unwrap_or(Err("nobody there".into()));
            Box::pin(async move { answer })
        }
    }

    fn router(
        answers: &[(&'static str, Result<MdsResponse, String>)],
    ) -> (Arc<Scripted>, MdsRouter<Arc<Scripted>>) {
        let scripted =
            Arc::new(Scripted { answers: answers.iter().cloned().collect(), asked: Mutex::default() });
        let addresses = ["a".to_owned(), "b".to_owned(), "c".to_owned()];
        (scripted.clone(), MdsRouter::new(scripted, &addresses))
    }

    #[tokio::test(start_paused = true)]
    async fn goes_round_to_the_one_that_answers_and_stays_there() {
        let (scripted, router) = router(&[("c", Ok(MdsResponse::default()))]);
        for _ in 0..2 {
            router.call(MdsRequest::default(), Duration::from_secs(1)).await.unwrap();
        }
        assert_eq!(*scripted.asked.lock().unwrap(), ["a", "b", "c", "c"]);
    }

    #[tokio::test(start_paused = true)]
    async fn gives_up_at_the_deadline_and_says_what_was_tried() {
        let (_, router) = router(&[]);
        let error = router.call(MdsRequest::default(), Duration::from_secs(1)).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains("a, b, c") && text.contains("nobody there"), "{text}");
    }

    #[tokio::test(start_paused = true)]
    async fn follows_the_hint_of_a_follower() {
        let not_leader = MdsError::NotLeader { hint: Some("c".into()) };
        let refusal = MdsResponse { result: Some(mds_response::Result::Error((&not_leader).into())) };
        let (scripted, router) = router(&[("a", Ok(refusal)), ("c", Ok(MdsResponse::default()))]);
        router.call(MdsRequest::default(), Duration::from_secs(1)).await.unwrap();
        assert_eq!(*scripted.asked.lock().unwrap(), ["a", "c"]);
    }

    #[test]
    fn frames_round_trip() {
        let request = MdsRequest::default();
        assert_eq!(request_of(&request_frame(&request)).unwrap(), request);
        let response = MdsResponse::default();
        assert_eq!(response_of(&response_frame(&response)).unwrap(), response);
    }
}
