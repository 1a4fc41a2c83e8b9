//! Who has a volume open, and how a former holder is shut out.
//!
//! A session is a row. That it is alive is known only to the leader, in memory: a lease that is not refreshed runs out,
//! and after a change of leader every lease starts anew. The end of a lease does nothing by itself; it only allows the
//! next opener to displace the session, which raises the volume's epoch, and the open is answered once every copyset of
//! the volume refuses the old epoch. So no promise rests on a clock, and an MDS outage stops no I/O.

mod fence;
mod sessions;

pub(crate) use fence::{FenceProgress, Fencer};
pub(crate) use sessions::{break_sessions, close, end_for_delete, fenced, holders, open, sessions_of};
