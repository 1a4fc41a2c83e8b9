//! What a session has under way: commands and task management functions.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use curve_scsi::{AbortHandle, Attachment, Ended, LunAddress, NoSuchUnit, Task};

use crate::core::{Answer, Command, Entered, Management, Outcome, TaskOutcome};

/// Something that ends by itself, with the tag of what asked for it.
pub(super) type Work = Pin<Box<dyn Future<Output = Done> + Send>>;

/// What ended.
pub(super) enum Done {
    Command { itt: u32, outcome: Outcome },
    Management { itt: u32, outcome: TaskOutcome },
}

/// Makes a task of a command.
pub(super) fn enter(attachment: &Attachment, command: &Command) -> Entered<Task, AbortHandle> {
    let mut task = attachment.task(LunAddress::from_bytes(command.lun), &command.cdb);
    if command.write {
        task = task.with_expected_len(u64::from(command.expected_len));
    }
    let (abort, wanted) = (task.abort_handle(), task.data_out_len());
    Entered { task, abort, wanted }
}

/// Executes a command.
pub(super) fn execute(itt: u32, task: Task, data: Vec<Bytes>) -> Work {
    Box::pin(async move {
        let outcome = match task.execute(data).await {
            Ended::Aborted => Outcome::Aborted,
            Ended::Completed(response) => Outcome::Completed(Answer {
                status: response.status as u8,
                sense: response.sense,
                data: response.data_in,
            }),
        };
        Done::Command { itt, outcome }
    })
}

/// Does a task management function.
pub(super) fn manage(itt: u32, what: Management<AbortHandle>, attachment: Arc<Attachment>) -> Work {
    Box::pin(async move {
        let outcome = match what {
            Management::AbortTask(handle) => {
                if handle.abort().await {
                    TaskOutcome::Complete
                } else {
                    TaskOutcome::NoTask
                }
            }
            Management::AbortTaskSet(lun) => {
                on_unit(attachment.abort_task_set(LunAddress::from_bytes(lun)).await)
            }
            Management::ClearTaskSet(lun) => {
                on_unit(attachment.clear_task_set(LunAddress::from_bytes(lun)).await)
            }
            Management::ResetUnit(lun) => on_unit(attachment.reset_unit(LunAddress::from_bytes(lun)).await),
            Management::ResetTarget => {
                attachment.target().reset().await;
                TaskOutcome::Complete
            }
        };
        Done::Management { itt, outcome }
    })
}

fn on_unit(done: Result<(), NoSuchUnit>) -> TaskOutcome {
    match done {
        Ok(()) => TaskOutcome::Complete,
        Err(NoSuchUnit) => TaskOutcome::NoUnit,
    }
}
