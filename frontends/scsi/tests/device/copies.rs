//! EXTENDED COPY between units of a target.

use curve_scsi::{Identity, Status};

use crate::lab::{BLOCKS, Initiator, cdb16, code, disk, lun, read16, target, write16};

const COPY_ABORTED: u8 = 0xa;

/// A parameter list that copies `count` blocks from unit number `from` to unit number `to`.
fn list(from: u8, to: u8, count: u16, source_lba: u64, destination_lba: u64) -> Vec<u8> {
    let mut list = vec![5, 0, 0, 64, 0, 0, 0, 0, 0, 0, 0, 28, 0, 0, 0, 0];
    for number in [from, to] {
        let [.., a, b, c, d, e, f, g, h] = Identity::of_volume([number; 16]).uuid;
        list.extend([0xe4, 0, 0, 0, 1, 3, 0, 8, 0x30 | a & 0x0f, b, c, d, e, f, g, h]);
        list.extend([0; 16]);
    }
    list.extend([2, 0, 0, 24, 0, 0, 0, 1, 0, 0]);
    list.extend(count.to_be_bytes());
    list.extend(source_lba.to_be_bytes());
    list.extend(destination_lba.to_be_bytes());
    list
}

fn copy(list: &[u8]) -> Vec<u8> {
    let mut cdb = vec![0; 16];
    cdb[0] = 0x83;
    cdb[10..14].copy_from_slice(&(list.len() as u32).to_be_bytes());
    cdb
}

fn results(action: u8, list_id: u8) -> Vec<u8> {
    let mut cdb = vec![0; 16];
    (cdb[0], cdb[1], cdb[2], cdb[13]) = (0x84, action, list_id, 255);
    cdb
}

#[tokio::test]
async fn blocks_are_copied_and_the_result_is_kept() {
    let (one, two) = (disk(1, 512), disk(2, 4096));
    let target = target(&[&one, &two]);
    let initiator = Initiator::login(&target, 1).await;
    let data: Vec<u8> = (0..8192u32).map(|byte| (byte >> 3) as u8).collect();
    initiator.good(&write16(8, 16), &data).await;
    assert_eq!(initiator.refused(&results(0, 5), &[]).await, (5, 0x24, 0));
    let list = list(1, 2, 16, 8, 100);
    initiator.good(&copy(&list), &list).await;
    let copied = initiator.send_to(1, &read16(100, 2), &[]).await;
    assert_eq!(copied.data_in.concat(), data);
    let status = initiator.good(&results(0, 5), &[]).await;
    assert_eq!(status, [0, 0, 0, 8, 1, 0, 1, 0, 0, 0, 0x20, 0]);
    let parameters = initiator.good(&results(3, 0), &[]).await;
    assert_eq!((parameters.len(), parameters[3]), (46, 42));
    initiator.good(&copy(&[]), &[]).await;
}

#[tokio::test]
async fn a_copy_that_cannot_be_is_aborted() {
    let (one, two) = (disk(1, 512), disk(2, 512));
    let target = target(&[&one, &two]);
    let initiator = Initiator::login(&target, 1).await;
    for list in [list(1, 9, 1, 0, 0), list(1, 2, 2, 0, BLOCKS - 1), list(1, 2, 2, BLOCKS - 1, 0)] {
        let response = initiator.send(&copy(&list), &list).await;
        assert_eq!(code(&response).map(|code| code.0), Some(COPY_ABORTED));
        assert_eq!(initiator.good(&results(0, 5), &[]).await[4], 2);
    }
    let mut null = list(1, 2, 1, 0, 0);
    null[17] = 0x20;
    assert_eq!(initiator.refused(&copy(&null), &null).await, (COPY_ABORTED, 8, 4));
}

#[tokio::test]
async fn a_copy_respects_the_reservations_of_both_units() {
    let (one, two) = (disk(1, 512), disk(2, 512));
    let target = target(&[&one, &two]);
    let (initiator, other) = (Initiator::login(&target, 1).await, Initiator::login(&target, 2).await);
    let key = [[0; 8], 1u64.to_be_bytes(), [0; 8]].concat();
    other.send_to(1, &[0x5f, 6, 0, 0, 0, 0, 0, 0, 24, 0], &key).await;
    let key = [1u64.to_be_bytes(), [0; 8], [0; 8]].concat();
    let reserved = other.send_to(1, &[0x5f, 1, 1, 0, 0, 0, 0, 0, 24, 0], &key).await;
    assert_eq!(reserved.status, Status::Good);
    let there = list(1, 2, 1, 0, 0);
    assert_eq!(initiator.refused(&copy(&there), &there).await, (COPY_ABORTED, 0x0d, 1));
    let back = list(2, 1, 1, 0, 0);
    initiator.good(&copy(&back), &back).await;
    // A write-protected destination is none either.
    let protect = [0, 0, 0, 0, 0x0a, 10, 0, 0x10, 0x08, 0x40, 0, 0, 0xff, 0xff, 0, 0];
    initiator.good(&[0x15, 0x10, 0, 0, 16, 0], &protect).await;
    assert_eq!(initiator.refused(&copy(&back), &back).await, (COPY_ABORTED, 0x0d, 1));
}

#[tokio::test(start_paused = true)]
async fn preempting_on_the_destination_waits_for_the_copy() {
    use curve_blockdev::{Fault, Operation};
    let (one, two) = (disk(1, 512), disk(2, 512));
    let target = target(&[&one, &two]);
    let initiator = Initiator::login(&target, 1).await;
    initiator.good(&write16(0, 4), &[1; 2048]).await;
    two.faulty.fail_next(Operation::Write, Fault::Delay(std::time::Duration::from_secs(1_000)));
    let list = list(1, 2, 4, 0, 0);
    let parts = vec![bytes::Bytes::from(list.clone())];
    let running = tokio::spawn(initiator.attachment.task(lun(0).into(), &copy(&list)).execute(parts));
    tokio::task::yield_now().await;
    initiator.attachment.abort_task_set(lun(1).into()).await.expect("there");
    assert!(running.is_finished());
    initiator.good(&cdb16(0x91, 0, 0, 0), &[]).await;
}
