//! From commands to the functions that apply them.

use curve_kv::Txn;
use curve_proto::MdsError;
use curve_proto::pb::fs::FsEmpty;
use curve_proto::pb::fs::fs_response::Result as Answer;
use curve_proto::pb::mds_state::FsCommand;
use curve_proto::pb::mds_state::fs_command::Op;

use crate::refusal::Refusal;
use crate::{file_systems, metaservers, mounts, partitions};

/// What the cluster's own row says, and the ids that it gives out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ids {
    /// The cluster's number for ever.
    pub cluster: u64,
    /// Its name and number, as servers remember it.
    pub cluster_name: String,
    /// The next node id, of chunkservers and metaservers.
    pub next_node: u64,
}

pub(crate) fn done() -> Answer {
    Answer::Done(FsEmpty {})
}

/// Applies a command. A refused one may leave changes in `txn` that are to be discarded, and ids that are.
pub fn apply(txn: &mut Txn<'_>, now_ms: u64, ids: &mut Ids, command: &FsCommand) -> Result<Answer, Refusal> {
    let Some(op) = &command.op else {
        return Err(MdsError::BadRequest { why: "a command that this version does not know".into() }.into());
    };
    match op {
        Op::Make(op) => file_systems::make(txn, now_ms, ids, op),
        Op::Doom(op) => file_systems::doom(txn, op),
        Op::Forget(op) => file_systems::forget(txn, op),
        Op::SealKeys(op) => file_systems::seal_keys(txn, op),
        Op::Mount(op) => mounts::mount(txn, now_ms, ids, op),
        Op::EndMounts(op) => mounts::end_mounts(txn, op),
        Op::ShutOut(op) => mounts::shut_out(txn, op),
        Op::PartitionChanges(op) => partitions::change(txn, op),
        Op::Register(op) => metaservers::register(txn, now_ms, ids, op),
        Op::Moved(op) => metaservers::moved(txn, op),
        Op::RemoveMetaserver(op) => metaservers::remove(txn, op),
        Op::ForgetMetaserver(op) => metaservers::forget(txn, op),
    }
}
