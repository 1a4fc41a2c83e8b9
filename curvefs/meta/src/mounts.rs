//! Mounts: what they were answered, and their end.

use curve_kv::{KeyRange, Txn};
use curve_types::{Epoch, Sequence};
use curvefs_types::keys::{Key, tag};
use curvefs_types::{FsError, MountId, Reply, Request, Wire};

use crate::fail::Step;
use crate::rows::SessionRow;
use crate::step::{Change, TxnView};
use crate::view::{PAGE, View, between};

/// What a request is answered.
pub type Outcome = Result<Reply, FsError>;

fn answer_key(mount: MountId, sequence: Sequence) -> Key {
    Key::Answer { mount, sequence }
}

/// The row of an answer: 1 and the reply, or 0 and the error.
pub(crate) fn encode_outcome(outcome: &Outcome) -> Vec<u8> {
    let mut out = vec![u8::from(outcome.is_ok())];
    match outcome {
        Ok(reply) => reply.put(&mut out),
        Err(error) => error.put(&mut out),
    }
    out
}

/// The reverse.
pub(crate) fn decode_outcome(bytes: &[u8]) -> Step<Outcome> {
    let (is_ok, rest) = bytes.split_first().ok_or(curvefs_types::WireError::Short)?;
    Ok(match is_ok {
        1 => Ok(Reply::from_row(rest)?),
        _ => Err(FsError::from_row(rest)?),
    })
}

/// Whether a mount may go on with a request: its answer if it was applied before.
pub(crate) fn admit(txn: &Txn<'_>, request: &Request) -> Step<Option<Outcome>> {
    let view = TxnView(txn);
    let session = view.session(request.mount)?;
    if request.epoch < session.epoch {
        return Ok(Some(Err(FsError::Fenced)));
    }
    if request.sequence < session.floor {
        return Ok(Some(Err(FsError::Forgotten)));
    }
    let key = answer_key(request.mount, request.sequence).encode();
    txn.get(&key)?.map(|row| decode_outcome(&row)).transpose()
}

/// Remembers an answer, and forgets those that the mount knows.
pub(crate) fn remember(txn: &mut Txn<'_>, request: &Request, outcome: &Outcome) -> Step<()> {
    let mount = request.mount;
    let session = TxnView(txn).session(mount)?;
    // A mount that acknowledges what it asks has no use for the answer, but is not believed.
    let floor = request.ack_below.min(request.sequence).max(session.floor);
    if floor > session.floor {
        let known = between(&answer_key(mount, session.floor), &answer_key(mount, floor));
        for (key, _) in txn.scan(&known, usize::MAX >> 1)? {
            txn.delete(key);
        }
        let row = SessionRow { floor, ..session };
        txn.put(Key::Session { mount }.encode(), row.to_row());
    }
    txn.put(answer_key(mount, request.sequence).encode(), encode_outcome(outcome));
    Ok(())
}

impl Change<'_, '_> {
    /// Refuses lower epochs of a mount from now on.
    pub fn fence(&mut self, mount: MountId, epoch: Epoch) -> Step<Reply> {
        let session = self.session(mount)?;
        let row = SessionRow { epoch: session.epoch.max(epoch), ..session };
        self.put(&Key::Session { mount }, &row);
        Ok(Reply::Done)
    }

    /// Releases what a mount holds, and forgets its answers.
    pub fn release_mount(&mut self, mount: MountId, limit: u32) -> Step<Reply> {
        self.mount = mount;
        let range = KeyRange::prefix(Key::prefix(tag::HELD, mount.0));
        let held = self.page(&range, (limit as usize).min(PAGE * 8))?;
        let answers = KeyRange::prefix(Key::prefix(tag::ANSWER, mount.0));
        let answers = self.page(&answers, PAGE * 8)?;
        let taken = self.take_all_back(mount)?;
        if held.is_empty() && answers.is_empty() && !taken {
            return Ok(Reply::Progress { more: false });
        }
        for (key, _) in held {
            if let Key::Held { inode, .. } = key {
                self.unlock_all(inode)?;
                self.release(inode)?;
            }
        }
        answers.iter().for_each(|(key, _)| self.delete(key));
        Ok(Reply::Progress { more: true })
    }
}
