//! Who has a volume open, and how a former holder is shut out.
//!
//! A session is a row. That it is alive is known only to the leader, in memory: a lease that is not refreshed runs out,
//! and after a change of leader every lease starts anew. The end of a lease does nothing by itself; it only allows the
//! next writer to displace the session, which raises the volume's epoch, and the open is answered once every copyset of
//! the volume refuses the displaced holder. So no promise rests on a clock, and an MDS outage stops no I/O. Who may hold
//! a volume beside whom, who is displaced, and what epochs mean is in [`rules`].

mod fence;
mod rules;
mod sessions;

pub(crate) use fence::{FenceProgress, Fencer};
pub(crate) use sessions::{
    break_sessions, close, end_for_delete, end_session, fenced, holders, may_go_on, open, session,
    sessions_of,
};
