//! The protocol of [`units`](super::units) over the rows.

use curve_kv::Txn;
use curve_proto::MdsError;
use curve_proto::mds::IscsiGatewayKey;
use curve_proto::pb::mds as pb;
use curve_proto::pb::mds::mds_response::Result as Answer;
use curve_proto::pb::mds_state as state;
use curve_proto::pb::mds_state::{
    IscsiGatewayRow, IscsiMade, IscsiReservationRow, IscsiSeatRow, IscsiUnitRow,
};
use std::time::Duration;

use super::next_revision;
use super::query::revision;
use super::units::{Occupied, Refused, Seat, Swap, Unit};
use crate::keys;
use crate::lease;
use crate::rows::{Refusal, Rows, all, get, put};

/// When to ask again for what waits for a fence or for other gateways.
const RETRY: Duration = Duration::from_millis(20);

/// Who serves a unit, and its versions.
pub(crate) fn unit(rows: &(impl Rows + ?Sized), volume: u64) -> Result<Unit, Refusal> {
    let row = get::<IscsiReservationRow>(rows, &keys::iscsi_reservation(volume))?.unwrap_or_default();
    let seats = all::<IscsiSeatRow>(rows, &keys::iscsi_seats(volume))?.into_iter().map(|seat| {
        let IscsiSeatRow { gateway, incarnation, client, enforced } = seat;
        (gateway as u16, Seat { incarnation, client, enforced })
    });
    Ok(Unit {
        version: row.version,
        before: row.before,
        seats: seats.collect(),
        made: row.made.into_iter().map(|made| (made.id, made.version)).collect(),
    })
}

fn put_seat(txn: &mut Txn<'_>, volume: u64, gateway: u16, seat: Seat) {
    let Seat { incarnation, client, enforced } = seat;
    let row = IscsiSeatRow { gateway: gateway.into(), incarnation, client, enforced };
    put(txn, keys::iscsi_seat(volume, gateway), &row);
}

/// The gateway that a request names, if this is the life that it is in.
fn caller(
    rows: &(impl Rows + ?Sized),
    key: Option<pb::IscsiGatewayKey>,
) -> Result<(IscsiGatewayKey, IscsiGatewayRow), Refusal> {
    let key = curve_proto::mds::gateway_key(key).map_err(MdsError::from)?;
    Ok((key, super::gateway(rows, key)?))
}

fn refused(volume: u64, refused: Refused) -> Refusal {
    match refused {
        Refused::NotSeated => MdsError::NotHeld { what: format!("iSCSI unit of volume {volume}") }.into(),
        Refused::Unsettled(gateways) => {
            let why = format!("gateways {gateways:?} do not enforce the reservations of before yet");
            MdsError::InProgress { why, retry_after: RETRY }.into()
        }
    }
}

/// The reservations of a unit as gateways hear of them.
pub(crate) fn reservation_message(
    rows: &(impl Rows + ?Sized),
    volume: u64,
    enforced: u64,
) -> Result<pb::IscsiReservation, Refusal> {
    let row = get::<IscsiReservationRow>(rows, &keys::iscsi_reservation(volume))?.unwrap_or_default();
    let IscsiReservationRow { version, before, state, change, .. } = row;
    Ok(pb::IscsiReservation { volume, version, state, change, before, enforced, waiting: Vec::new() })
}

/// A gateway begins to serve a unit; the answer is what it has to enforce.
pub(crate) fn serve(txn: &mut Txn<'_>, op: &pb::IscsiServe) -> Result<Answer, Refusal> {
    let (gateway, _) = caller(txn, op.gateway)?;
    if get::<IscsiUnitRow>(txn, &keys::iscsi_unit(op.volume))?.is_none() {
        return Err(MdsError::NotFound { what: format!("iSCSI unit of volume {}", op.volume) }.into());
    }
    if !lease::sessions_of(txn, op.volume)?.iter().any(|session| session.client == op.client) {
        // Shut out since it opened: a seat would be one that nobody can fence.
        return Err(MdsError::NotHeld { what: format!("volume {}", op.volume) }.into());
    }
    let mut unit = unit(txn, op.volume)?;
    let seat =
        unit.serve(gateway.number, gateway.incarnation, op.client).map_err(|Occupied { client }| {
            let why = format!("session {client} of the same gateway must be shut out first");
            MdsError::InProgress { why, retry_after: RETRY }
        })?;
    put_seat(txn, op.volume, gateway.number, seat);
    Ok(Answer::IscsiReservation(reservation_message(txn, op.volume, seat.enforced)?))
}

/// A gateway serves a unit no longer. A seat that it has not is no error.
pub(crate) fn leave(txn: &mut Txn<'_>, op: &pb::IscsiLeave) -> Result<Answer, Refusal> {
    let (gateway, _) = caller(txn, op.gateway)?;
    take_seat(txn, op.volume, gateway.number, op.client)
}

/// The session that had a seat is shut out of every copyset.
pub(crate) fn vacate(txn: &mut Txn<'_>, op: &state::IscsiVacate) -> Result<Answer, Refusal> {
    take_seat(txn, op.volume, op.gateway as u16, op.client)
}

fn take_seat(txn: &mut Txn<'_>, volume: u64, gateway: u16, client: u64) -> Result<Answer, Refusal> {
    if unit(txn, volume)?.vacate(gateway, client) {
        txn.delete(keys::iscsi_seat(volume, gateway));
        // Gateways look at their seats when there is news.
        next_revision(txn)?;
    }
    Ok(Answer::Done(pb::Empty {}))
}

/// A gateway enforces a version.
pub(crate) fn enforced(txn: &mut Txn<'_>, op: &pb::IscsiEnforced) -> Result<Answer, Refusal> {
    let (gateway, _) = caller(txn, op.gateway)?;
    let mut unit = unit(txn, op.volume)?;
    unit.confirm(gateway.number, op.client, op.version).map_err(|why| refused(op.volume, why))?;
    put_seat(txn, op.volume, gateway.number, unit.seats[&gateway.number]);
    Ok(Answer::Done(pb::Empty {}))
}

/// Makes a change of reservations. The answer is not for the gateway before the version is settled.
pub(crate) fn reserve(txn: &mut Txn<'_>, op: &pb::IscsiReserve) -> Result<Answer, Refusal> {
    let (gateway, _) = caller(txn, op.gateway)?;
    let mut unit = unit(txn, op.volume)?;
    let next = revision(txn)? + 1;
    let swap = unit.swap(gateway.number, op.client, op.id, op.expected, next);
    let (made, version) = match swap.map_err(|why| refused(op.volume, why))? {
        Swap::Made(version) if version == next => {
            next_revision(txn)?;
            put_unit(txn, op.volume, &unit, op.state.clone(), op.change.clone());
            (true, version)
        }
        Swap::Made(version) => (true, version),
        Swap::Stale(version) => (false, version),
    };
    Ok(Answer::IscsiReserved(pb::IscsiReserved { made, version }))
}

fn put_unit(txn: &mut Txn<'_>, volume: u64, unit: &Unit, state: bytes::Bytes, change: bytes::Bytes) {
    let made = unit.made.iter().map(|&(id, version)| IscsiMade { id, version }).collect();
    let (version, before) = (unit.version, unit.before);
    let row = IscsiReservationRow { volume, version, before, state, change, made };
    put(txn, keys::iscsi_reservation(volume), &row);
}

/// A volume is a unit no longer: nothing is reserved any more. Gateways that serve it keep their seats until they have
/// left.
pub(super) fn reset(txn: &mut Txn<'_>, volume: u64) -> Result<(), Refusal> {
    let mut unit = unit(txn, volume)?;
    if unit.version > 0 {
        unit.reset(next_revision(txn)?);
        put_unit(txn, volume, &unit, bytes::Bytes::new(), bytes::Bytes::new());
    }
    Ok(())
}

/// Ends a session of a volume and raises the epoch, so that it can be shut out.
pub(crate) fn expel(txn: &mut Txn<'_>, op: &state::IscsiExpel) -> Result<Answer, Refusal> {
    lease::end_session(txn, op.volume, op.client)?;
    Ok(Answer::Done(pb::Empty {}))
}
