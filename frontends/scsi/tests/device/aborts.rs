//! Aborts: when they return, nothing that they aborted reaches the device.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use curve_blockdev::{Fault, Operation};
use curve_scsi::{Ended, Response, Status};

use crate::lab::{Disk, Initiator, disk, lun, read16, target, write16};

fn block(byte: u8) -> Vec<Bytes> {
    vec![Bytes::from(vec![byte; 512])]
}

/// Makes the next write take a second.
fn slow_write(disk: &Disk) {
    disk.faulty.fail_next(Operation::Write, Fault::Delay(Duration::from_secs(1_000)));
}

#[tokio::test]
async fn a_task_aborted_before_its_start_has_no_effect() {
    let disk = disk(1, 512);
    let target = target(&[&disk]);
    let initiator = Initiator::login(&target, 1).await;
    let task = initiator.attachment.task(lun(0).into(), &write16(0, 1));
    assert_eq!(task.data_out_len(), 512);
    let handle = task.abort_handle();
    assert!(handle.abort().await);
    handle.aborted().await;
    assert_eq!(task.execute(block(1)).await, Ended::Aborted);
    assert!(!handle.abort().await, "it has ended");
    assert_eq!(disk.memory.allocated_bytes(), 0);
    initiator.attachment.abort_task_set(lun(1).into()).await.expect_err("no such unit");
}

#[tokio::test(start_paused = true)]
async fn a_running_task_is_waited_for() {
    let disk = disk(1, 512);
    let target = target(&[&disk]);
    let initiator = Initiator::login(&target, 1).await;
    slow_write(&disk);
    let task = initiator.attachment.task(lun(0).into(), &write16(0, 1));
    let handle = task.abort_handle();
    let running = tokio::spawn(task.execute(block(1)));
    tokio::task::yield_now().await;
    assert!(handle.abort().await);
    assert_eq!(disk.memory.allocated_bytes(), 4096, "the write had reached the device and has ended");
    assert_eq!(running.await.expect("no panic"), Ended::Aborted);
}

#[tokio::test(start_paused = true)]
async fn clearing_the_task_set_tells_the_others() {
    let disk = disk(1, 512);
    let target = target(&[&disk]);
    let (one, two) = (Initiator::login(&target, 1).await, Initiator::login(&target, 2).await);
    slow_write(&disk);
    let running = tokio::spawn(two.attachment.task(lun(0).into(), &write16(0, 1)).execute(block(1)));
    let waiting = two.attachment.task(lun(0).into(), &write16(8, 1));
    tokio::task::yield_now().await;
    one.attachment.clear_task_set(lun(0).into()).await.expect("there");
    let told = Ended::Completed(Response::status(Status::TaskAborted));
    assert_eq!(running.await.expect("no panic"), told);
    assert_eq!(waiting.execute(block(2)).await, told);
    assert_eq!(two.refused(&[0; 6], &[]).await, (6, 0x2f, 0));
    one.good(&[0; 6], &[]).await;
    assert_eq!(one.good(&read16(8, 1), &[]).await, [0; 512]);
}

#[tokio::test(start_paused = true)]
async fn preempt_and_abort_waits_for_the_preempted() {
    let disk = disk(1, 512);
    let target = target(&[&disk]);
    let (one, two) = (Initiator::login(&target, 1).await, Initiator::login(&target, 2).await);
    let register = |key: u64| [[0; 8], key.to_be_bytes(), [0; 8]].concat();
    one.good(&[0x5f, 6, 0, 0, 0, 0, 0, 0, 24, 0], &register(1)).await;
    two.good(&[0x5f, 6, 0, 0, 0, 0, 0, 0, 24, 0], &register(2)).await;
    one.good(&[0x5f, 1, 5, 0, 0, 0, 0, 0, 24, 0], &[1u64.to_be_bytes(), [0; 8], [0; 8]].concat()).await;
    slow_write(&disk);
    let running = tokio::spawn(two.attachment.task(lun(0).into(), &write16(0, 1)).execute(block(7)));
    let waiting = two.attachment.task(lun(0).into(), &write16(0, 1));
    tokio::task::yield_now().await;
    let preempt = [1u64.to_be_bytes(), 2u64.to_be_bytes(), [0; 8]].concat();
    one.good(&[0x5f, 5, 5, 0, 0, 0, 0, 0, 24, 0], &preempt).await;
    // From here on not one byte of the preempted initiator lands.
    one.good(&write16(0, 1), &[9; 512]).await;
    let told = Ended::Completed(Response::status(Status::TaskAborted));
    assert_eq!(running.await.expect("no panic"), told);
    assert_eq!(waiting.execute(block(8)).await, told);
    assert_eq!(two.refused(&[0; 6], &[]).await, (6, 0x2a, 0x05));
    assert_eq!(two.send(&write16(0, 1), &[8; 512]).await.status, Status::ReservationConflict);
    assert_eq!(one.good(&read16(0, 1), &[]).await, [9; 512]);
}

#[tokio::test(start_paused = true)]
async fn a_lost_nexus_leaves_nothing_behind() {
    let disk = disk(1, 512);
    let target = target(&[&disk]);
    let one = Initiator::login(&target, 1).await;
    slow_write(&disk);
    let running = tokio::spawn(one.attachment.task(lun(0).into(), &write16(0, 1)).execute(block(1)));
    let waiting = one.attachment.task(lun(0).into(), &write16(8, 1));
    tokio::task::yield_now().await;
    let Initiator { attachment } = one;
    attachment.detach().await;
    assert!(running.is_finished());
    assert_eq!(waiting.execute(block(2)).await, Ended::Aborted);
    assert_eq!(disk.memory.allocated_bytes(), 4096);
}

#[tokio::test(start_paused = true)]
async fn a_target_reset_is_heard_by_everybody() {
    let (disk_one, disk_two) = (disk(1, 512), disk(2, 512));
    let target = target(&[&disk_one, &disk_two]);
    let initiators = [Initiator::login(&target, 1).await, Initiator::login(&target, 2).await];
    let handle = initiators[0].attachment.task(lun(0).into(), &write16(0, 1)).abort_handle();
    target.reset().await;
    for initiator in &initiators {
        for number in 0..2 {
            let response = initiator.send_to(number, &[0; 6], &[]).await;
            assert_eq!(crate::lab::code(&response), Some((6, 0x29, 3)));
        }
    }
    assert!(!handle.abort().await, "the task was dropped");
    assert_eq!(Arc::strong_count(&target), 3, "the target and two attachments");
}
