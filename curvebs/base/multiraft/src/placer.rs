//! How a state machine takes large payloads out of the log: it puts them where they belong before the entry is logged.

use std::io;

use bytes::Bytes;
use curve_io::BoxFuture;
use curve_types::LogIndex;

use crate::format::{bad, decode_ops, encode_ops};
use crate::op::Op;
use crate::types::{Batch, Entry, Payload};

/// Puts payloads of the operations it was made for where they belong, durably. Returns what the log is to hold instead,
/// in the state machine's own encoding; `None`: the operations as they are.
pub type Place = Box<dyn FnOnce(Vec<Op>) -> BoxFuture<'static, io::Result<Option<Vec<Op>>>> + Send>;

/// Takes large payloads out of a group's log on this node. What the log of another node holds is that node's affair:
/// between nodes, operations travel as they were proposed.
///
/// An entry is logged, and so acknowledged, only after what its operations place is durable. It may still be truncated;
/// so placing must not touch anything that the state machine needs as it is.
pub trait Placer: Send + Sync + 'static {
    /// Hears of every entry with operations that is about to be logged, in the order of the log: the header of each
    /// operation and the bytes of its payload. An index that is not larger than the last one means that the entries from
    /// there on were truncated. Short, since the group's task waits for it. Returns what places payloads of this entry, if
    /// that is to be done; several may be at work at the same time, and all are brought to an end.
    fn append(&self, index: LogIndex, ops: &mut dyn Iterator<Item = (Bytes, usize)>) -> Option<Place>;

    /// Whether a checkpoint would let it place more than it can now.
    fn wants_checkpoint(&self) -> bool;

    /// Makes operations as the log holds them what they were when they were proposed; `None` when what they placed has
    /// been changed since.
    fn restore(&self, ops: Vec<Op>) -> BoxFuture<'static, io::Result<Option<Vec<Op>>>>;
}

/// Asks the placer what to do with an entry. The future gives the body that is to be logged instead.
pub(crate) fn begin(
    placer: &dyn Placer,
    entry: &Entry,
) -> Option<BoxFuture<'static, io::Result<Option<Batch>>>> {
    let Payload::Ops(batch) = &entry.payload else { return None };
    let place = placer.append(LogIndex(entry.id.index), &mut crate::format::heads(batch))?;
    let batch = batch.clone();
    Some(Box::pin(async move { Ok(place(decode_ops(&batch)?).await?.map(|ops| encode_ops(&ops))) }))
}

/// Makes entries as the log holds them fit to be sent, up to the first that cannot be, or about `bytes_max` bytes.
pub(crate) async fn restore(
    placer: Option<&dyn Placer>,
    entries: Vec<Entry>,
    bytes_max: usize,
) -> io::Result<Vec<Entry>> {
    let mut restored: Vec<Entry> = Vec::with_capacity(entries.len());
    let mut bytes = 0;
    for entry in entries {
        bytes += restored.last().map_or(0, Entry::payload_bytes);
        if bytes >= bytes_max {
            break;
        }
        let Payload::Placed(batch) = &entry.payload else {
            restored.push(entry);
            continue;
        };
        let placer = placer.ok_or_else(|| bad("log: an entry was placed by a state machine that cannot"))?;
        let Some(ops) = placer.restore(decode_ops(batch)?).await? else { break };
        restored.push(Entry { id: entry.id, payload: Payload::Ops(encode_ops(&ops)) });
    }
    Ok(restored)
}
