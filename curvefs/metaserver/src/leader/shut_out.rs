//! Shuts a mount out as the MDS orders: refuses it from now on, and releases what it holds.

use std::sync::{Arc, PoisonError};

use curve_types::Epoch;
use curvefs_meta::server_request;
use curvefs_types::{MountId, Op};

use super::settle::until_done;
use crate::context::Context;
use crate::replica::Replica;

/// Inodes released in one step.
const STEP: u32 = 256;
/// Mounts that are remembered to be reported. One that is forgotten before is ordered, and done, again.
const REPORTED_MAX: usize = 4096;

/// Does it, if this node leads the partition and has not done it in this term. The MDS repeats what is not reported.
pub async fn shut_out(context: &Arc<Context>, replica: &Arc<Replica>, mount: MountId, epoch: Epoch) {
    let Some(leadership) = replica.leadership() else { return };
    let done = || leadership.shut_out.lock().unwrap_or_else(PoisonError::into_inner);
    if done().get(&mount).is_some_and(|at| *at >= epoch) {
        return;
    }
    let fence = server_request(context.clock.now_ns(), Op::Fence { mount, epoch });
    match replica.change(&fence).await {
        Ok(Ok(_)) => {}
        other => {
            tracing::debug!(partition = %replica.id(), %mount, ?other, "not fenced yet");
            return;
        }
    }
    if !until_done(context, replica, &Op::ReleaseMount { mount, limit: STEP }).await {
        return;
    }
    tracing::info!(partition = %replica.id(), %mount, %epoch, "shut a mount out");
    let mut done = done();
    done.insert(mount, epoch);
    if done.len() > REPORTED_MAX {
        done.pop_first();
    }
    context.news.notify_one();
}
