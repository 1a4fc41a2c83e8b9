//! Reservations seen from initiators.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use curve_blockdev::{Fault, MemoryDevice, Operation};
use curve_scsi::opcodes::{Access, COMMANDS, CommandSpec};
use curve_scsi::reservations::{
    Action, Change, LocalReservations, Outcome, ReservationFuture, ReservationKind, ReservationStore, State,
    StoreError,
};
use curve_scsi::{Ended, Identity, LocalAtomics, LogicalUnit, Response, Status, TargetDevice, UnitOptions};

use crate::lab::{Initiator, cdb16, disk, lun, read16, target, write16};

/// A parameter list of PERSISTENT RESERVE OUT.
fn list(key: u64, service_key: u64) -> Vec<u8> {
    let mut list = [key.to_be_bytes(), service_key.to_be_bytes()].concat();
    list.extend([0; 8]);
    list
}

fn out(action: u8, kind: u8) -> [u8; 10] {
    [0x5f, action, kind, 0, 0, 0, 0, 0, 24, 0]
}

async fn register(initiator: &Initiator, key: u64) {
    initiator.good(&out(6, 0), &list(0, key)).await;
}

/// Sends a command that does nothing, and says whether a reservation was in its way.
async fn conflicts(initiator: &Initiator, spec: &CommandSpec) -> bool {
    let mut cdb = vec![0; spec.usage.len()];
    cdb[0] = spec.opcode();
    cdb[1] = spec.service_action.unwrap_or(0) as u8;
    initiator.send(&cdb, &[]).await.status == Status::ReservationConflict
}

/// SPC-4 table 66 and SBC-3 table 13, for every command there is, every type, and a holder, a registered nexus and a
/// stranger.
#[tokio::test]
async fn every_command_obeys_every_type() {
    for kind in [1, 3, 5, 6, 7, 8] {
        let target = target(&[&disk(1, 512)]);
        let mut who = Vec::new();
        for number in 1..=3 {
            who.push(Initiator::login(&target, number).await);
        }
        register(&who[0], 1).await;
        register(&who[1], 2).await;
        who[0].good(&out(1, kind), &list(1, 0)).await;
        let reads_are_open = matches!(kind, 1 | 5 | 7);
        let registered_are_in = kind >= 5;
        // Those that would change the reservation, and RESERVE and RELEASE, which registrations exclude, are looked at
        // elsewhere.
        let subjects = COMMANDS
            .iter()
            .filter(|spec| spec.access != Access::Reservation && !matches!(spec.opcode(), 0x16 | 0x17));
        for spec in subjects {
            // START STOP UNIT of all zeros stops.
            let open = spec.access == Access::Always || (spec.access == Access::Read && reads_are_open);
            let expected = [true, open || registered_are_in, open];
            for (initiator, allowed) in who.iter().zip(expected) {
                assert_eq!(!conflicts(initiator, spec).await, allowed, "{} under type {kind}", spec.name);
            }
        }
    }
}

#[tokio::test]
async fn starting_is_allowed_under_any_reservation() {
    let target = target(&[&disk(1, 512)]);
    let (one, two) = (Initiator::login(&target, 1).await, Initiator::login(&target, 2).await);
    register(&one, 1).await;
    one.good(&out(1, 3), &list(1, 0)).await;
    two.good(&[0x1b, 0, 0, 0, 1, 0], &[]).await;
    assert_eq!(two.send(&[0x1b, 0, 0, 0, 0, 0], &[]).await.status, Status::ReservationConflict);
}

#[tokio::test]
async fn changes_are_told_to_those_they_concern() {
    let target = target(&[&disk(1, 512)]);
    let (one, two) = (Initiator::login(&target, 1).await, Initiator::login(&target, 2).await);
    let third = Initiator::login(&target, 3).await;
    for (initiator, key) in [(&one, 1), (&two, 2), (&third, 3)] {
        register(initiator, key).await;
    }
    one.good(&out(1, 5), &list(1, 0)).await;
    two.good(&out(4, 3), &list(2, 1)).await;
    assert_eq!(one.refused(&[0; 6], &[]).await, (6, 0x2a, 0x05), "registrations preempted");
    assert_eq!(third.refused(&[0; 6], &[]).await, (6, 0x2a, 0x04), "reservations released");
    assert_eq!(one.send(&write16(0, 1), &[0; 512]).await.status, Status::ReservationConflict);
    let reservation = two.good(&[0x5e, 1, 0, 0, 0, 0, 0, 0, 255, 0], &[]).await;
    assert_eq!((&reservation[8..16], reservation[21]), (&2u64.to_be_bytes()[..], 3));
    third.good(&out(3, 0), &list(3, 0)).await;
    assert_eq!(two.refused(&[0; 6], &[]).await, (6, 0x2a, 0x03), "reservations preempted");
    one.good(&write16(0, 1), &[0; 512]).await;
    assert_eq!(two.good(&[0x5e, 0, 0, 0, 0, 0, 0, 0, 255, 0], &[]).await[4..], [0; 4]);
}

#[tokio::test]
async fn what_cannot_be_is_refused() {
    let target = target(&[&disk(1, 512)]);
    let one = Initiator::login(&target, 1).await;
    register(&one, 1).await;
    assert_eq!(one.refused(&out(1, 2), &list(1, 0)).await, (5, 0x24, 0));
    assert_eq!(one.refused(&out(1, 0x13), &list(1, 0)).await, (5, 0x24, 0));
    assert_eq!(one.refused(&out(8, 0), &list(1, 0)).await, (5, 0x24, 0));
    assert_eq!(one.refused(&[0x5f, 0, 0, 0, 0, 0, 0, 0, 23, 0], &list(1, 0)).await, (5, 0x1a, 0));
    assert_eq!(one.refused(&out(4, 1), &list(1, 0)).await, (5, 0x26, 0));
    assert_eq!(one.send(&out(1, 1), &list(9, 0)).await.status, Status::ReservationConflict);
    one.good(&out(1, 1), &list(1, 0)).await;
    assert_eq!(one.refused(&out(2, 3), &list(1, 0)).await, (5, 0x26, 4));
    assert_eq!(one.send(&[0x16, 0, 0, 0, 0, 0], &[]).await.status, Status::ReservationConflict);
}

#[tokio::test]
async fn reserve6_lasts_as_long_as_its_nexus() {
    let target = target(&[&disk(1, 512)]);
    let (one, two) = (Initiator::login(&target, 1).await, Initiator::login(&target, 2).await);
    let (reserve, release) = ([0x16, 0, 0, 0, 0, 0], [0x17, 0, 0, 0, 0, 0]);
    one.good(&reserve, &[]).await;
    for cdb in
        [vec![0; 6], reserve.to_vec(), vec![0x1a, 0, 0x0a, 0, 255, 0], read16(0, 1), cdb16(0x91, 0, 0, 0)]
    {
        assert_eq!(two.send(&cdb, &[]).await.status, Status::ReservationConflict, "{cdb:02x?}");
    }
    two.good(&[0x12, 0, 0, 0, 96, 0], &[]).await;
    two.good(&release, &[]).await;
    assert_eq!(two.send(&reserve, &[]).await.status, Status::ReservationConflict);
    one.attachment.detach().await;
    two.good(&reserve, &[]).await;
    two.attachment.reset_unit(lun(0).into()).await.expect("there");
    let again = Initiator::login(&target, 1).await;
    again.good(&reserve, &[]).await;
    again.good(&release, &[]).await;
    drop(again);
    two.refused(&[0; 6], &[]).await;
    two.good(&reserve, &[]).await;
}

/// A store that answers no change, as one whose cluster is away.
struct Silent(LocalReservations);

impl ReservationStore for Silent {
    fn view(&self) -> Arc<State> {
        self.0.view()
    }

    fn change(&self, _change: Change) -> ReservationFuture<'_, Result<Outcome, StoreError>> {
        Box::pin(std::future::pending())
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_the_store_is_not_waited_for() {
    let memory = Arc::new(MemoryDevice::new(1 << 20, 512));
    let unit = LogicalUnit::with_seams(
        Identity::of_volume([1; 16]),
        Arc::new(LocalAtomics::new(memory, 0)),
        Arc::new(Silent(LocalReservations::in_memory())),
        UnitOptions { block_bytes: 512, read_only: false },
    );
    let target = TargetDevice::new("iqn.2026-11.test:target");
    target.insert(lun(0), unit.expect("a valid size"));
    let (one, two) = (Initiator::login(&target, 1).await, Initiator::login(&target, 2).await);
    let waiting = one.attachment.task(lun(0).into(), &out(6, 0));
    let waiting = tokio::spawn(waiting.execute(vec![list(0, 1).into()]));
    tokio::task::yield_now().await;
    target.unit(lun(0)).expect("there").drain().await;
    two.attachment.clear_task_set(lun(0).into()).await.expect("there");
    let told = Ended::Completed(Response::status(Status::TaskAborted));
    assert_eq!(waiting.await.expect("no panic"), told);
}

#[tokio::test(start_paused = true)]
async fn what_a_state_forbids_is_drained_and_nothing_else() {
    let disk = disk(1, 512);
    let target = target(&[&disk]);
    let (one, two) = (Initiator::login(&target, 1).await, Initiator::login(&target, 2).await);
    register(&one, 1).await;
    let write = |initiator: &Initiator| {
        disk.faulty.fail_next(Operation::Write, Fault::Delay(Duration::from_secs(1_000)));
        let task = initiator.attachment.task(lun(0).into(), &write16(0, 1));
        tokio::spawn(task.execute(vec![Bytes::from(vec![1; 512])]))
    };
    // Nobody has reserved it: nothing is forbidden to anybody.
    let running = write(&two);
    tokio::task::yield_now().await;
    disk.unit.drain_forbidden(&disk.unit.reservations().view()).await;
    assert!(!running.is_finished());
    running.await.expect("no panic");
    let mut reserved = State::clone(&disk.unit.reservations().view());
    let by = reserved.registrations().keys().next().expect("registered").clone();
    let action = Action::Reserve { key: 1, kind: ReservationKind::WriteExclusive };
    reserved.apply(&Change { by, action }).expect("free");
    let (allowed, forbidden) = (write(&one), write(&two));
    for _ in 0..4 {
        tokio::task::yield_now().await;
    }
    disk.unit.drain_forbidden(&reserved).await;
    assert!(forbidden.is_finished(), "it has ended");
    allowed.await.expect("no panic");
}
