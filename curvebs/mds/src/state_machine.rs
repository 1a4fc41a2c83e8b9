//! The MDS's replicated state: commands in, answers out, rows in the store. This file only dispatches; what a command
//! means is in the folder of its noun.
//!
//! Applying looks at the command and the rows and at nothing else, so every replica ends with the same rows. All
//! commands of one call become one batch together with the runtime's marker, so a crash never leaves a part of one.

mod snapshot;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use curve_io::BoxFuture;
use curve_kv::{KvError, Store, Txn};
use curve_multiraft::{Applied, SnapshotFetch, SnapshotSource, StateMachine};
use curve_proto::MdsError;
use curve_proto::pb::mds::mds_response::Result as Answer;
use curve_proto::pb::mds::{Empty, MdsResponse};
use curve_proto::pb::mds_state::command::Op;
use curve_proto::pb::mds_state::{ClusterRow, Command, Found, ResultRow, SlotRow};
use prost::Message;
use tokio::sync::watch;

use crate::config::MDS_ID_MAX;
use crate::rows::{Refusal, cluster, get, put};
use crate::{fs, iscsi, keys, lease, namespace, placement, topology};

/// How many results of mutations are remembered for retries.
const RESULTS_MAX: u64 = 4096;

/// The state machine of the MDS group.
pub(crate) struct MdsMachine {
    store: Arc<dyn Store>,
    recovered: Option<Bytes>,
    /// Told after each change of the rows: requests wait for some.
    changed: watch::Sender<()>,
}

impl MdsMachine {
    /// Over an open store.
    pub(crate) fn new(store: Arc<dyn Store>, changed: watch::Sender<()>) -> Result<Self, KvError> {
        let recovered = store.applied()?;
        Ok(Self { store, recovered, changed })
    }
}

impl StateMachine for MdsMachine {
    fn recovered(&self) -> Option<Bytes> {
        self.recovered.clone()
    }

    fn apply(&mut self, entries: Vec<Applied>, marker: Bytes) -> BoxFuture<'_, io::Result<Vec<Vec<Bytes>>>> {
        let results = apply_all(&*self.store, &entries, &marker);
        self.changed.send_replace(());
        Box::pin(std::future::ready(results.map_err(io::Error::from)))
    }

    fn checkpoint(&mut self) -> BoxFuture<'static, io::Result<()>> {
        let flush = self.store.flush();
        Box::pin(async move { Ok(flush.await?) })
    }

    fn snapshot(&mut self) -> BoxFuture<'_, io::Result<Arc<dyn SnapshotSource>>> {
        let source = self.store.view().map(|view| snapshot::source(view));
        Box::pin(std::future::ready(source.map_err(io::Error::from)))
    }

    fn install(&mut self, fetch: Arc<dyn SnapshotFetch>, marker: Bytes) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(snapshot::install(self.store.clone(), fetch, marker))
    }
}

/// Applies entries as one batch.
pub(crate) fn apply_all(
    store: &dyn Store,
    entries: &[Applied],
    marker: &[u8],
) -> Result<Vec<Vec<Bytes>>, KvError> {
    let mut txn = Txn::new(store);
    let mut results = Vec::with_capacity(entries.len());
    for entry in entries {
        let mut of_entry = Vec::with_capacity(entry.ops.len());
        for op in &entry.ops {
            of_entry.push(apply_one(&mut txn, &op.header)?);
        }
        results.push(of_entry);
    }
    store.write(txn.into_batch(), Some(marker))?;
    Ok(results)
}

fn apply_one(txn: &mut Txn<'_>, encoded: &[u8]) -> Result<Bytes, KvError> {
    let outcome = match Command::decode(encoded) {
        Ok(command) => once(txn, &command),
        Err(error) => Err(MdsError::BadRequest {
            why: format!("a command that this version does not understand: {error}"),
        }
        .into()),
    };
    match outcome {
        Ok(response) => {
            txn.keep();
            Ok(response)
        }
        Err(Refusal::No(error)) => {
            txn.discard();
            Ok(encode(Answer::Error((&error).into())))
        }
        Err(Refusal::Store(error)) => Err(error),
    }
}

fn encode(answer: Answer) -> Bytes {
    MdsResponse { result: Some(answer) }.encode_to_vec().into()
}

/// Applies a command, or answers with what its first try was answered.
fn once(txn: &mut Txn<'_>, command: &Command) -> Result<Bytes, Refusal> {
    if command.client == 0 {
        return dispatch(txn, command).map(encode);
    }
    let key = keys::result(command.client, command.sequence);
    if let Some(row) = get::<ResultRow>(txn, &key)? {
        return Ok(row.response);
    }
    let response = match dispatch(txn, command) {
        Ok(answer) => encode(answer),
        Err(Refusal::No(error)) => {
            // What the refused command had changed goes; that it was refused stays.
            txn.discard();
            encode(Answer::Error((&error).into()))
        }
        Err(store) => return Err(store),
    };
    remember(txn, command, &response)?;
    Ok(response)
}

fn remember(txn: &mut Txn<'_>, command: &Command, response: &Bytes) -> Result<(), Refusal> {
    let mut cluster = cluster(txn)?;
    let slot = keys::slot(cluster.results % RESULTS_MAX);
    if let Some(old) = get::<SlotRow>(txn, &slot)? {
        txn.delete(keys::result(old.client, old.sequence));
    }
    cluster.results += 1;
    put(txn, keys::cluster(), &cluster);
    put(txn, slot, &SlotRow { client: command.client, sequence: command.sequence });
    put(txn, keys::result(command.client, command.sequence), &ResultRow { response: response.clone() });
    Ok(())
}

fn dispatch(txn: &mut Txn<'_>, command: &Command) -> Result<Answer, Refusal> {
    let now = command.now_ms;
    let Some(op) = &command.op else {
        return Err(MdsError::BadRequest { why: "a command that this version does not know".into() }.into());
    };
    match op {
        Op::Found(op) => found(txn, op),
        Op::CreateVolume(op) => namespace::create_volume(txn, now, op),
        Op::MakeDirectory(op) => namespace::make_directory(txn, op),
        Op::Delete(op) => namespace::delete(txn, now, op),
        Op::Rename(op) => namespace::rename(txn, op),
        Op::Resize(op) => namespace::resize(txn, op),
        Op::Open(op) => lease::open(txn, now, op),
        Op::Close(op) => lease::close(txn, op),
        Op::BreakSessions(op) => lease::break_sessions(txn, op),
        Op::Fenced(op) => lease::fenced(txn, op),
        Op::Allocate(op) => placement::allocate(txn, op),
        Op::CreateCopysets(op) => placement::create_copysets(txn, op),
        Op::CopysetChanges(op) => placement::change_copysets(txn, op),
        Op::Purged(op) => placement::purged(txn, op),
        Op::Register(op) => topology::register(txn, now, op),
        Op::RemoveChunkserver(op) => topology::remove(txn, op),
        Op::ForgetChunkserver(op) => topology::forget(txn, op),
        Op::Moved(op) => topology::moved(txn, op),
        Op::IscsiEdit(op) => iscsi::edit(txn, now, op),
        Op::IscsiSealAuth(op) => iscsi::set_auth(txn, op),
        Op::IscsiEnroll(op) => iscsi::enroll(txn, op),
        Op::IscsiWithdraw(op) => iscsi::withdraw(txn, op),
        Op::IscsiServe(op) => iscsi::serve(txn, op),
        Op::IscsiLeave(op) => iscsi::leave(txn, op),
        Op::IscsiEnforced(op) => iscsi::enforced(txn, op),
        Op::IscsiReserve(op) => iscsi::reserve(txn, op),
        Op::IscsiExpel(op) => iscsi::expel(txn, op),
        Op::IscsiVacate(op) => iscsi::vacate(txn, op),
        Op::Fs(op) => fs::apply(txn, now, op),
    }
}

/// Founds the cluster. The first command wins, since two leaders may have tried.
fn found(txn: &mut Txn<'_>, op: &Found) -> Result<Answer, Refusal> {
    if get::<ClusterRow>(txn, &keys::cluster())?.is_none() {
        let row = ClusterRow {
            id: op.id,
            name: op.name.clone(),
            block_bytes: op.block_bytes,
            chunk_bytes: op.chunk_bytes,
            segment_bytes: op.segment_bytes,
            next_volume: 1,
            next_directory: keys::ROOT + 1,
            next_copyset: 1,
            next_node: MDS_ID_MAX + 1,
            results: 0,
        };
        put(txn, keys::cluster(), &row);
    }
    Ok(Answer::Done(Empty {}))
}
