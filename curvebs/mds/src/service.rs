//! The control plane's requests: each is answered by one function, from the rows or by a command.

mod cluster;
mod fs;
mod iscsi;
mod sessions;
mod volumes;

pub(crate) use cluster::findings;

use std::time::Duration;

use curve_proto::MdsError;
use curve_proto::pb::mds::mds_request::Op;
use curve_proto::pb::mds::mds_response::Result as Answer;
use curve_proto::pb::mds::{MdsRequest, MdsResponse};
use curve_proto::pb::mds_state as state;
use curve_proto::pb::mds_state::ClusterRow;
use curve_types::Term;
use tokio::time::{Instant, timeout_at};

use crate::keys;
use crate::node::{DEADLINE_DEFAULT, Shared};
use crate::rows::{Refusal, get};

/// Over what a request came: its sender understands addresses of that kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Via {
    /// gRPC.
    Grpc,
    /// Frames.
    Frames,
}

/// One request being answered by the leader of `term`.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a> {
    pub shared: &'a Shared,
    pub term: Term,
    pub via: Via,
    pub until: Instant,
    pub client: u64,
    pub sequence: u64,
}

/// No request may take longer, whatever its sender says.
const DEADLINE_MAX: Duration = Duration::from_secs(60);

/// Answers a request.
pub(crate) async fn call(shared: &Shared, request: MdsRequest, via: Via) -> MdsResponse {
    let wanted = match request.deadline_ms {
        0 => DEADLINE_DEFAULT,
        ms => Duration::from_millis(u64::from(ms)).min(DEADLINE_MAX),
    };
    let until = Instant::now() + wanted;
    let Some(op) = request.op else {
        return refusal(&MdsError::BadRequest { why: "an operation that this version does not know".into() });
    };
    let name = name(&op);
    let answering = async {
        let term = shared.lead(via).await?;
        if get::<ClusterRow>(shared.rows(), &keys::cluster()).map_err(store_failed)?.is_none() {
            // The leader founds the cluster in a moment; asking again finds it.
            return Err(MdsError::NotLeader { hint: None });
        }
        let call = Call { shared, term, via, until, client: request.client, sequence: request.sequence };
        answer(call, op).await
    };
    let outcome = timeout_at(until, answering).await;
    let late = || MdsError::Unavailable { why: format!("not done within {} ms", wanted.as_millis()) };
    match outcome.unwrap_or_else(|_| Err(late())) {
        Ok(answer) => {
            count(name, "OK");
            MdsResponse { result: Some(answer) }
        }
        Err(error) => {
            count(name, error.code());
            refusal(&error)
        }
    }
}

fn count(operation: &'static str, code: &'static str) {
    metrics::counter!("curve_mds_requests_total", "operation" => operation, "code" => code).increment(1);
}

/// The response that refuses.
pub(crate) fn refusal(error: &MdsError) -> MdsResponse {
    MdsResponse { result: Some(Answer::Error(error.into())) }
}

impl From<Refusal> for MdsError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::No(error) => error,
            Refusal::Store(error) => {
                tracing::debug!(%error, "the state store failed");
                // Another MDS may have a store that works.
                Self::NotLeader { hint: None }
            }
        }
    }
}

/// The refusal for a store that failed.
pub(crate) fn store_failed(error: curve_kv::KvError) -> MdsError {
    Refusal::Store(error).into()
}

impl Call<'_> {
    /// Proposes a mutation of the namespace: a retry of the request gets the first result.
    async fn mutate(&self, op: state::command::Op) -> Result<Answer, MdsError> {
        self.propose(op, self.client, self.sequence).await
    }

    /// Proposes a command that may be repeated by its nature.
    async fn command(&self, op: state::command::Op) -> Result<Answer, MdsError> {
        self.propose(op, 0, 0).await
    }

    async fn propose(&self, op: state::command::Op, client: u64, sequence: u64) -> Result<Answer, MdsError> {
        let command = state::Command { now_ms: self.shared.now_ms(), client, sequence, op: Some(op) };
        self.shared.propose(command, self.via).await
    }
}

async fn answer(call: Call<'_>, op: Op) -> Result<Answer, MdsError> {
    match op {
        Op::CreateVolume(op) => volumes::create(call, op).await,
        Op::MakeDirectory(op) => call.mutate(state::command::Op::MakeDirectory(op)).await,
        Op::Stat(op) => volumes::stat(call, &op),
        Op::List(op) => volumes::list(call, &op),
        Op::Delete(op) => volumes::delete(call, op).await,
        Op::Rename(op) => call.mutate(state::command::Op::Rename(op)).await,
        Op::Resize(op) => call.mutate(state::command::Op::Resize(op)).await,
        Op::DiskUsage(op) => volumes::disk_usage(call, &op),
        Op::Open(op) => sessions::open(call, op).await,
        Op::Refresh(op) => sessions::refresh(call, op),
        Op::Close(op) => call.command(state::command::Op::Close(op)).await,
        Op::BreakSessions(op) => sessions::break_sessions(call, op).await,
        Op::Segment(op) => volumes::segment(call, op).await,
        Op::GetCopysets(op) => cluster::copysets(call, &op),
        Op::Register(op) => cluster::register(call, op).await,
        Op::Heartbeat(op) => cluster::heartbeat(call, op).await,
        Op::Status(_) => cluster::status(call),
        Op::ListChunkservers(_) => cluster::chunkservers(call),
        Op::RemoveChunkserver(op) => cluster::remove_chunkserver(call, op).await,
        Op::IscsiEdit(op) => iscsi::edit(call, op).await,
        Op::IscsiList(_) => iscsi::list(call),
        Op::IscsiEnroll(op) => iscsi::enroll(call, op).await,
        Op::IscsiWithdraw(op) => call.command(state::command::Op::IscsiWithdraw(op)).await,
        Op::IscsiPoll(op) => iscsi::poll(call, op).await,
        Op::IscsiServe(op) => iscsi::serve(call, op).await,
        Op::IscsiLeave(op) => call.command(state::command::Op::IscsiLeave(op)).await,
        Op::IscsiEnforced(op) => call.command(state::command::Op::IscsiEnforced(op)).await,
        Op::IscsiReserve(op) => iscsi::reserve(call, op).await,
        Op::Fs(op) => fs::answer(call, op).await,
    }
}

fn name(op: &Op) -> &'static str {
    match op {
        Op::CreateVolume(_) => "create_volume",
        Op::MakeDirectory(_) => "make_directory",
        Op::Stat(_) => "stat",
        Op::List(_) => "list",
        Op::Delete(_) => "delete",
        Op::Rename(_) => "rename",
        Op::Resize(_) => "resize",
        Op::DiskUsage(_) => "disk_usage",
        Op::Open(_) => "open",
        Op::Refresh(_) => "refresh",
        Op::Close(_) => "close",
        Op::BreakSessions(_) => "break_sessions",
        Op::Segment(_) => "segment",
        Op::GetCopysets(_) => "get_copysets",
        Op::Register(_) => "register",
        Op::Heartbeat(_) => "heartbeat",
        Op::Status(_) => "status",
        Op::ListChunkservers(_) => "list_chunkservers",
        Op::RemoveChunkserver(_) => "remove_chunkserver",
        Op::IscsiEdit(_) => "iscsi_edit",
        Op::IscsiList(_) => "iscsi_list",
        Op::IscsiEnroll(_) => "iscsi_enroll",
        Op::IscsiWithdraw(_) => "iscsi_withdraw",
        Op::IscsiPoll(_) => "iscsi_poll",
        Op::IscsiServe(_) => "iscsi_serve",
        Op::IscsiLeave(_) => "iscsi_leave",
        Op::IscsiEnforced(_) => "iscsi_enforced",
        Op::IscsiReserve(_) => "iscsi_reserve",
        Op::Fs(op) => fs::name(op),
    }
}
