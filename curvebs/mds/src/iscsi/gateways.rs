//! Gateways begin and end, as they are applied.

use curve_kv::Txn;
use curve_proto::MdsError;
use curve_proto::mds::IscsiGatewayKey;
use curve_proto::pb::mds as pb;
use curve_proto::pb::mds::mds_response::Result as Answer;
use curve_proto::pb::mds_state::{IscsiGatewayRow, IscsiRow, IscsiSeatRow};

use super::{names, next_revision};
use crate::keys;
use crate::rows::{Refusal, Rows, all, get, put};

/// Gateways of a cluster.
const GATEWAYS_MAX: usize = 256;
const ADDRESSES_MAX: usize = 16;
const ADDRESS_BYTES_MAX: usize = 255;

/// The row of a gateway, if it is in the life that the key names.
pub(crate) fn gateway(rows: &(impl Rows + ?Sized), key: IscsiGatewayKey) -> Result<IscsiGatewayRow, Refusal> {
    let row = get::<IscsiGatewayRow>(rows, &keys::iscsi_gateway(key.number))?;
    let gone = || MdsError::NotHeld { what: format!("iSCSI gateway {}", key.number) };
    Ok(row.filter(|row| row.incarnation == key.incarnation).ok_or_else(gone)?)
}

fn named(rows: &(impl Rows + ?Sized), name: &str) -> Result<Option<IscsiGatewayRow>, Refusal> {
    Ok(all::<IscsiGatewayRow>(rows, &keys::iscsi_gateways())?.into_iter().find(|row| row.name == name))
}

/// A gateway begins a life. An earlier one under the same name is over with that: what it asks for is refused, and its
/// seats go to whoever comes after it, once its sessions are shut out.
pub(crate) fn enroll(txn: &mut Txn<'_>, op: &pb::IscsiEnroll) -> Result<Answer, Refusal> {
    names::gateway(&op.name)?;
    if op.addresses.len() > ADDRESSES_MAX || op.addresses.iter().any(|place| place.len() > ADDRESS_BYTES_MAX)
    {
        let why = format!("a gateway has at most {ADDRESSES_MAX} addresses of {ADDRESS_BYTES_MAX} bytes");
        return Err(MdsError::BadRequest { why }.into());
    }
    let number = match named(txn, &op.name)? {
        Some(row) => row.number,
        None => new_number(txn)?,
    };
    let row = IscsiGatewayRow {
        number,
        name: op.name.clone(),
        incarnation: op.incarnation,
        addresses: op.addresses.clone(),
        host: op.host.clone(),
        process: op.process,
        stopped: false,
    };
    put(txn, keys::iscsi_gateway(number as u16), &row);
    next_revision(txn)?;
    Ok(Answer::IscsiEnrolled(pb::IscsiEnrolled { number, lease_ms: 0 }))
}

/// Numbers are never given out twice: registrations name ports by them.
fn new_number(txn: &mut Txn<'_>) -> Result<u32, Refusal> {
    let count = all::<IscsiGatewayRow>(txn, &keys::iscsi_gateways())?.len();
    let mut row = get::<IscsiRow>(txn, &keys::iscsi())?.unwrap_or_default();
    if count >= GATEWAYS_MAX || row.last_gateway >= u32::from(u16::MAX) {
        let why = format!("there are {count} gateways; `curve iscsi gateway rm` forgets those that are gone");
        return Err(MdsError::Conflict { why }.into());
    }
    row.last_gateway += 1;
    put(txn, keys::iscsi(), &row);
    Ok(row.last_gateway)
}

/// A gateway stops in order.
pub(crate) fn withdraw(txn: &mut Txn<'_>, op: &pb::IscsiGatewayKey) -> Result<Answer, Refusal> {
    let key = curve_proto::mds::gateway_key(Some(*op)).map_err(MdsError::from)?;
    let mut row = gateway(txn, key)?;
    row.stopped = true;
    put(txn, keys::iscsi_gateway(key.number), &row);
    next_revision(txn)?;
    Ok(Answer::Done(pb::Empty {}))
}

/// Forgets a gateway. One that still has seats is not gone as far as anybody knows.
pub(super) fn remove(txn: &mut Txn<'_>, name: &str) -> Result<(), Refusal> {
    let Some(row) = named(txn, name)? else {
        return Err(MdsError::NotFound { what: format!("iSCSI gateway {name}") }.into());
    };
    let seats = all::<IscsiSeatRow>(txn, &keys::iscsi_all_seats())?;
    let serving = seats.iter().filter(|seat| seat.gateway == row.number).count();
    if serving > 0 {
        let why = format!(
            "gateway {name} still serves {serving} units; stop it, or wait until its lease has run out"
        );
        return Err(MdsError::Conflict { why }.into());
    }
    txn.delete(keys::iscsi_gateway(row.number as u16));
    next_revision(txn)?;
    Ok(())
}
