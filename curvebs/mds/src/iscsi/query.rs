//! Questions about iSCSI.

use curve_proto::mds::IscsiGatewayKey;
use curve_proto::pb::mds as pb;
use curve_proto::pb::mds_state::{
    IscsiGatewayRow, IscsiLunRow, IscsiReservationRow, IscsiRow, IscsiSealedRow, IscsiSeatRow, IscsiTargetRow,
};

use super::seats::{reservation_message, unit};
use crate::keys;
use crate::rows::{Refusal, Rows, all, get, scan};
use crate::sealing::SealingKeys;

/// The number of the last change.
pub(crate) fn revision(rows: &(impl Rows + ?Sized)) -> Result<u64, Refusal> {
    Ok(get::<IscsiRow>(rows, &keys::iscsi())?.unwrap_or_default().revision)
}

fn lun_message(lun: IscsiLunRow) -> pb::IscsiLun {
    let IscsiLunRow { number, volume, block_bytes, read_only, uuid, path } = lun;
    pb::IscsiLun { number, volume, path, block_bytes, read_only, uuid }
}

/// A target with whatever `auth` makes of its secrets.
fn target_message(
    row: IscsiTargetRow,
    auth: impl Fn(&str, &IscsiSealedRow) -> pb::IscsiAuth,
) -> pb::IscsiTarget {
    pb::IscsiTarget {
        auth: row.auth.as_ref().map(|sealed| auth(&row.name, sealed)),
        luns: row.luns.into_iter().map(lun_message).collect(),
        any_initiator: row.any_initiator,
        initiators: row.initiators,
        created_at_ms: row.created_at_ms,
        name: row.name,
    }
}

fn without_secrets(row: &IscsiSealedRow) -> pb::IscsiAuth {
    pb::IscsiAuth { user: row.user.clone(), mutual_user: row.mutual_user.clone(), ..pb::IscsiAuth::default() }
}

fn gateway_message(row: IscsiGatewayRow, lease_left_ms: u64) -> pb::IscsiGateway {
    let IscsiGatewayRow { number, name, addresses, host, process, stopped, .. } = row;
    pb::IscsiGateway { number, name, addresses, host, process, stopped, lease_left_ms }
}

/// Everything without secrets; `lease_left_ms` knows what is left of whose lease. Sessions are not in the rows.
pub(crate) fn listing(
    rows: &(impl Rows + ?Sized),
    lease_left_ms: impl Fn(&IscsiGatewayRow) -> u64,
) -> Result<pb::IscsiListing, Refusal> {
    let targets = all::<IscsiTargetRow>(rows, &keys::iscsi_targets())?;
    let targets = targets.into_iter().map(|row| target_message(row, |_, sealed| without_secrets(sealed)));
    let gateways = all::<IscsiGatewayRow>(rows, &keys::iscsi_gateways())?;
    let gateways = gateways.into_iter().map(|row| {
        let left = lease_left_ms(&row);
        gateway_message(row, left)
    });
    let mut reservations = Vec::new();
    for row in all::<IscsiReservationRow>(rows, &keys::iscsi_reservations())? {
        let unit = unit(rows, row.volume)?;
        let mut message = reservation_message(rows, row.volume, 0)?;
        message.waiting = unit.waiting(unit.version).into_iter().map(u32::from).collect();
        reservations.push(message);
    }
    let (targets, gateways) = (targets.collect(), gateways.collect());
    Ok(pb::IscsiListing { targets, gateways, reservations, sessions: Vec::new() })
}

/// What a gateway has not heard that knows the revision `seen`.
pub(crate) fn news(
    rows: &(impl Rows + ?Sized),
    gateway: IscsiGatewayKey,
    seen: u64,
    keys_of_secrets: Option<&SealingKeys>,
) -> Result<pb::IscsiNews, Refusal> {
    let unsealed = |target: &str, sealed: &IscsiSealedRow| {
        let opened = keys_of_secrets.and_then(|keys| keys.unseal_auth(target, sealed));
        opened.unwrap_or_else(|| without_secrets(sealed))
    };
    let targets = all::<IscsiTargetRow>(rows, &keys::iscsi_targets())?;
    let target_names = targets.iter().map(|target| target.name.clone()).collect();
    let changed = targets.into_iter().filter(|target| target.revision > seen);
    let gateways = all::<IscsiGatewayRow>(rows, &keys::iscsi_gateways())?;
    let reservations = all::<IscsiReservationRow>(rows, &keys::iscsi_reservations())?;
    let reservations = reservations.into_iter().filter(|row| row.version > seen);
    let seats = scan::<IscsiSeatRow>(rows, &keys::iscsi_all_seats(), usize::MAX)?.into_iter();
    let own = seats.filter(|(_, seat)| {
        seat.gateway == u32::from(gateway.number) && seat.incarnation == gateway.incarnation
    });
    Ok(pb::IscsiNews {
        revision: revision(rows)?,
        targets: changed.map(|row| target_message(row, unsealed)).collect(),
        target_names,
        gateways: gateways.into_iter().map(|row| gateway_message(row, 0)).collect(),
        reservations: reservations
            .map(|row| reservation_message(rows, row.volume, 0))
            .collect::<Result<_, _>>()?,
        seats: own
            .map(|(key, seat)| pb::IscsiSeat { volume: keys::iscsi_seat_volume(&key), client: seat.client })
            .collect(),
        want_sessions: false,
        lease_ms: 0,
    })
}
