//! One request, once.

use curve_kv::{KvError, Txn};
use curve_types::Term;
use curvefs_types::{FileLock, FsError, MountId, Op, Reply, Request};

use crate::data::{CopyRange, Written};
use crate::fail::{Fail, Step};
use crate::locks::Holder;
use crate::mounts::{Outcome, admit, remember};
use crate::others::Others;
use crate::step::Change;

/// Applies a request over what was applied before it, and keeps it or nothing.
pub(crate) fn apply_one(txn: &mut Txn<'_>, term: Term, request: &Request) -> Result<Outcome, KvError> {
    let outcome = match once(txn, term, request) {
        Ok(outcome) => {
            txn.keep();
            return Ok(outcome);
        }
        Err(Fail::Fs(error)) => Err(error),
        Err(Fail::Store(error)) => return Err(error),
    };
    txn.discard();
    Ok(outcome)
}

fn once(txn: &mut Txn<'_>, term: Term, request: &Request) -> Step<Outcome> {
    let from_servers = request.mount == MountId::SERVERS;
    let for_mount = !request.op.is_internal() || matches!(request.op, Op::Decide { .. });
    if from_servers == for_mount {
        return Err(FsError::NotPermitted.into());
    }
    if from_servers {
        return Ok(Ok(run(txn, term, request)?));
    }
    if let Some(outcome) = admit(txn, request)? {
        return Ok(outcome);
    }
    let outcome = match run(txn, term, request) {
        Ok(reply) => Ok(reply),
        // It left no trace, so the number is still free.
        Err(Fail::Fs(error)) if error.is_transient() => return Err(error.into()),
        Err(Fail::Fs(error)) => {
            txn.discard();
            Err(error)
        }
        Err(store) => return Err(store),
    };
    remember(txn, request, &outcome)?;
    Ok(outcome)
}

fn run(txn: &mut Txn<'_>, term: Term, request: &Request) -> Step<Reply> {
    let mut change = Change::begin(txn, request.now_ns, request.mount, term, Others::none())?;
    let reply = if request.op.is_internal() {
        run_internal(&mut change, &request.op)
    } else {
        run_for_mount(&mut change, &request.op)
    }?;
    change.finish();
    Ok(reply)
}

fn run_for_mount(change: &mut Change<'_, '_>, op: &Op) -> Step<Reply> {
    match op {
        Op::Name { op } => change.name_op(op),
        Op::SetAttr { inode, set } => {
            let attr = change.set_attrs(*inode, set)?;
            Ok(Reply::Attr { attr, created: false })
        }
        Op::Truncate { inode, length, kill_priv } => {
            let attr = change.truncate(*inode, *length, *kill_priv)?;
            Ok(Reply::Attr { attr, created: false })
        }
        Op::Write { inode, place, extents, length, mtime, expect, kill_priv, set, staged } => {
            let written = Written {
                place: *place,
                extents,
                length: *length,
                mtime: *mtime,
                expect: *expect,
                kill_priv: *kill_priv,
                set,
                staged,
            };
            change.write(*inode, &written)
        }
        Op::Punch { inode, offset, len } => change.punch(*inode, *offset, *len),
        Op::Allocate { inode, offset, len, keep_size } => change.allocate(*inode, *offset, *len, *keep_size),
        Op::CopyRange { from, from_offset, to, to_offset, len } => change.copy_range(&CopyRange {
            from: *from,
            from_offset: *from_offset,
            to: *to,
            to_offset: *to_offset,
            len: *len,
        }),
        Op::SetXattr { inode, xattr, create, replace } => change.set_xattr(*inode, xattr, *create, *replace),
        Op::RemoveXattr { inode, name } => change.remove_xattr(*inode, name),
        Op::Open { inode, truncate } => change.open(*inode, *truncate),
        Op::Close { inodes } => change.close(inodes),
        Op::Delegate { dir, knows, reserve } => change.delegate(*dir, knows.as_deref(), *reserve),
        Op::Publish { dirs, lowest, reserve } => change.publish(dirs, *lowest, *reserve),
        Op::Lock { inode, owner, pid, family, kind, range } => {
            let (mount, owner, pid, family) = (change.mount, *owner, *pid, *family);
            change.lock(*inode, FileLock { mount, owner, pid, family, kind: *kind, range: *range })
        }
        Op::Unlock { inode, owner, family, range } => {
            let holder = Holder { mount: change.mount, owner: *owner, family: *family };
            change.unlock(*inode, holder, *range)
        }
        _ => Err(FsError::NotPermitted.into()),
    }
}

fn run_internal(change: &mut Change<'_, '_>, op: &Op) -> Step<Reply> {
    match op {
        Op::Prepare { tx, floor, parts } => change.prepare(*tx, *floor, parts),
        Op::Decide { tx, op, votes } => change.decide(*tx, op, votes),
        Op::Finish { tx, floor, commit } => change.finish_tx(*tx, *floor, *commit),
        Op::Resolve { tx } => change.resolve(*tx),
        Op::Forget { numbers } => change.forget(numbers),
        Op::Tell { told } => change.tell(told),
        Op::ToldDone { told } => change.told_done(told),
        Op::Settle { limit } => change.settle(*limit),
        Op::Drain { limit } => change.drain(*limit),
        Op::Reclaimed { slices } => Ok(change.reclaimed(slices)),
        Op::Stored { slices } => change.stored(slices),
        Op::Fence { mount, epoch } => change.fence(*mount, *epoch),
        Op::ReleaseMount { mount, limit } => change.release_mount(*mount, *limit),
        Op::Revoke { dir, mount } => change.revoke(*dir, *mount),
        _ => Err(FsError::NotPermitted.into()),
    }
}
