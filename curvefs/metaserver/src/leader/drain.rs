//! Ends inodes that have no name and that nobody holds.

use std::sync::Arc;
use std::time::Duration;

use curvefs_types::Op;
use curvefs_types::keys::tag;
use tokio::time::{sleep, timeout};

use super::settle::{has_rows, until_done};
use crate::context::Context;
use crate::replica::Replica;

/// Extents of one step.
const STEP: u32 = 512;
/// The shortest time between two passes, since held inodes are looked at each time.
const SPACING: Duration = Duration::from_millis(500);
const AGAIN: Duration = Duration::from_secs(2);

/// Runs until the term is over.
pub(super) async fn run(context: &Arc<Context>, replica: &Arc<Replica>) {
    let mut changed = replica.bells().changed.subscribe();
    loop {
        changed.borrow_and_update();
        let done =
            !has_rows(replica, tag::DOOMED) || until_done(context, replica, &Op::Drain { limit: STEP }).await;
        if done {
            // The bell cannot end, since the replica has it.
            let _ = changed.changed().await;
        } else {
            let _ = timeout(AGAIN, changed.changed()).await;
        }
        sleep(SPACING).await;
    }
}
