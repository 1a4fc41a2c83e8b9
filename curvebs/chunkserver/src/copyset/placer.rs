//! What a copyset does with large writes before they are logged.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use curve_chunkstore::{Append, Plan};
use curve_io::BoxFuture;
use curve_multiraft::{Op, Place, Placer};
use curve_types::LogIndex;

use super::format::{Action, CopysetOp, append_of};
use super::placed;
use super::replica::Replica;

/// Puts the payload of large writes straight into the chunk files, so that it reaches the disk once. What may be placed
/// and why that is safe is the store's business (`curve_chunkstore`); here operations become what the store knows, and
/// back.
pub struct CopysetPlacer {
    replica: Arc<Replica>,
}

impl CopysetPlacer {
    /// The placer of a replica.
    pub fn new(replica: Arc<Replica>) -> Self {
        Self { replica }
    }
}

impl Placer for CopysetPlacer {
    fn append(&self, index: LogIndex, ops: &mut dyn Iterator<Item = (Bytes, usize)>) -> Option<Place> {
        let ops = ops.map(|(header, _)| append_of(&header).unwrap_or(Append::Nothing));
        let plan = self.replica.store().note_append(index, ops)?;
        let replica = self.replica.clone();
        Some(Box::new(move |ops| Box::pin(place(replica, plan, ops))))
    }

    fn wants_checkpoint(&self) -> bool {
        self.replica.store().wants_checkpoint()
    }

    fn restore(&self, ops: Vec<Op>) -> BoxFuture<'static, io::Result<Option<Vec<Op>>>> {
        let replica = self.replica.clone();
        Box::pin(async move {
            let mut restored = Vec::with_capacity(ops.len());
            for op in ops {
                match restore(&replica, op).await? {
                    Some(op) => restored.push(op),
                    None => return Ok(None),
                }
            }
            Ok(Some(restored))
        })
    }
}

async fn place(replica: Arc<Replica>, plan: Plan, mut ops: Vec<Op>) -> io::Result<Option<Vec<Op>>> {
    let placed = replica.store().place(plan, |n| ops[n].payload.as_slice()).await?;
    let Some(placed) = placed else { return Ok(None) };
    let mut bytes = 0;
    for (n, runs, rest) in placed {
        bytes += placed::bytes(&runs, replica.geometry()) as u64;
        ops[n] = Op { header: placed::encode(&ops[n].header, &runs), payload: rest };
    }
    replica.metrics().placed.increment(bytes);
    Ok(Some(ops))
}

/// A write as it was proposed; `None` if its bytes have been overwritten.
async fn restore(replica: &Replica, op: Op) -> io::Result<Option<Op>> {
    let (header, Some(runs)) = placed::split(&op.header) else { return Ok(Some(op)) };
    let geometry = replica.geometry();
    let len = placed::bytes(&runs, geometry) + op.payload.iter().map(Bytes::len).sum::<usize>();
    let mut crcs = Vec::new();
    match CopysetOp::decode(&header, len, geometry, &mut crcs) {
        Ok(CopysetOp::Mutation(m)) if m.action == Action::Write => {
            let payload = replica.store().read_placed(m.key, m.offset, &runs, &op.payload, &crcs).await?;
            Ok(payload.map(|payload| Op { header, payload }))
        }
        _ => {
            Err(io::Error::new(io::ErrorKind::InvalidData, "a logged operation that was placed is malformed"))
        }
    }
}
