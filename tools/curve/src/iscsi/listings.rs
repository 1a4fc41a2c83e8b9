//! What the cluster knows of iSCSI, as tables and as JSON.

use std::collections::BTreeMap;
use std::time::Duration;

use curve_client::mds::{ANY_INITIATOR, IscsiAccess, IscsiListing, IscsiReservation, IscsiTarget};
use curve_scsi::reservations::format::decode_state;
use curve_scsi::reservations::{Registrant, ReservationKind, State};
use curve_telemetry::say;
use curve_types::HumanDuration;
use serde_json::{Value, json};

use super::failure;
use crate::api::Api;
use crate::failure::{Code, Failure};
use crate::output;

async fn list(api: &Api) -> Result<IscsiListing, Failure> {
    api.mds().iscsi_list().await.map_err(|error| failure(&error))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn seconds(duration: Duration) -> String {
    HumanDuration(Duration::from_secs(duration.as_secs())).to_string()
}

/// The names in an access list.
pub(super) fn initiators(access: &IscsiAccess) -> Vec<String> {
    match access {
        IscsiAccess::Any => vec![ANY_INITIATOR.to_owned()],
        IscsiAccess::Listed(names) => names.clone(),
    }
}

fn target_json(target: &IscsiTarget) -> Value {
    let luns = target.luns.iter().map(|lun| {
        json!({
            "lun": lun.number,
            "volume": lun.path,
            "volume_id": lun.volume.get(),
            "block_size": lun.block_bytes,
            "read_only": lun.read_only,
            "serial": hex(&lun.uuid),
        })
    });
    let auth = target.auth.as_ref();
    let auth = auth.map(|auth| json!({ "user": auth.user, "mutual_user": auth.mutual_user }));
    json!({
        "target": target.name,
        "luns": luns.collect::<Vec<_>>(),
        "initiators": initiators(&target.access),
        "auth": auth,
        "created_at_ms": target.created_at_ms,
    })
}

/// Targets with their units.
pub(super) fn targets(targets: &[IscsiTarget], json: bool) {
    if json {
        return output::json(&targets.iter().map(target_json).collect::<Vec<_>>());
    }
    if targets.is_empty() {
        say!("no targets; `curve iscsi target create IQN` makes one");
    }
    for target in targets {
        let auth = match &target.auth {
            None => "no CHAP".to_owned(),
            Some(auth) => match &auth.mutual_user {
                None => format!("CHAP as {}", auth.user),
                Some(mutual) => format!("CHAP as {}, mutual as {mutual}", auth.user),
            },
        };
        let who = match &target.access {
            IscsiAccess::Any => "any initiator".to_owned(),
            IscsiAccess::Listed(names) => format!("{} initiators", names.len()),
        };
        say!("{} ({who}, {auth})", target.name);
        for lun in &target.luns {
            let read_only = if lun.read_only { ", read-only" } else { "" };
            say!("  {:>5}  {}  {}-byte blocks{read_only}", lun.number, lun.path, lun.block_bytes);
        }
    }
}

/// Gateways.
pub(super) async fn gateways(api: &Api, json: bool) -> Result<(), Failure> {
    let gateways = list(api).await?.gateways;
    let state = |stopped: bool, left: Duration| match (stopped, left.is_zero()) {
        (true, _) => "stopped",
        (false, true) => "lapsed",
        (false, false) => "up",
    };
    if json {
        let all = gateways.iter().map(|gateway| {
            json!({
                "gateway": gateway.name,
                "number": gateway.number,
                "addresses": gateway.addresses,
                "host": gateway.host,
                "process": gateway.process,
                "state": state(gateway.stopped, gateway.lease_left),
                "lease_left_ms": gateway.lease_left.as_millis() as u64,
            })
        });
        output::json(&all.collect::<Vec<_>>());
        return Ok(());
    }
    let rows = gateways.iter().map(|gateway| {
        vec![
            gateway.number.to_string(),
            gateway.name.clone(),
            state(gateway.stopped, gateway.lease_left).to_owned(),
            gateway.addresses.join(","),
            gateway.host.clone(),
            gateway.process.to_string(),
        ]
    });
    output::table(&["PORT", "GATEWAY", "STATE", "ADDRESSES", "HOST", "PROCESS"], rows);
    Ok(())
}

fn gateway_names(listing: &IscsiListing) -> BTreeMap<u16, String> {
    listing.gateways.iter().map(|gateway| (gateway.number, gateway.name.clone())).collect()
}

fn name_of(names: &BTreeMap<u16, String>, number: u16) -> String {
    names.get(&number).cloned().unwrap_or_else(|| format!("port {number}"))
}

/// Sessions of initiators.
pub(super) async fn sessions(api: &Api, json: bool) -> Result<(), Failure> {
    let listing = list(api).await?;
    let names = gateway_names(&listing);
    if json {
        let all = listing.sessions.iter().map(|session| {
            json!({
                "gateway": name_of(&names, session.gateway),
                "target": session.target,
                "initiator": session.initiator,
                "isid": hex(&session.isid),
                "tsih": session.tsih,
                "age_ms": session.age.as_millis() as u64,
            })
        });
        output::json(&all.collect::<Vec<_>>());
        return Ok(());
    }
    let rows = listing.sessions.iter().map(|session| {
        vec![
            session.initiator.clone(),
            hex(&session.isid),
            session.target.clone(),
            name_of(&names, session.gateway),
            seconds(session.age),
        ]
    });
    output::table(&["INITIATOR", "ISID", "TARGET", "GATEWAY", "AGE WHEN TOLD"], rows);
    Ok(())
}

/// The name of a type of reservation.
const fn kind(kind: ReservationKind) -> &'static str {
    match kind {
        ReservationKind::WriteExclusive => "write exclusive",
        ReservationKind::ExclusiveAccess => "exclusive access",
        ReservationKind::WriteExclusiveRegistrantsOnly => "write exclusive, registrants only",
        ReservationKind::ExclusiveAccessRegistrantsOnly => "exclusive access, registrants only",
        ReservationKind::WriteExclusiveAllRegistrants => "write exclusive, all registrants",
        ReservationKind::ExclusiveAccessAllRegistrants => "exclusive access, all registrants",
    }
}

fn state_of(unit: &IscsiReservation) -> Result<State, Failure> {
    if unit.state.is_empty() {
        return Ok(State::default());
    }
    decode_state(&unit.state).map_err(|error| {
        let message = format!("the reservations of volume {} cannot be read", unit.volume.get());
        Failure::new(Code::Internal, message).because(error)
    })
}

/// Where a volume is served: target, number, path.
fn units(listing: &IscsiListing) -> BTreeMap<u64, (String, u16, String)> {
    let of = |target: &IscsiTarget| {
        let name = target.name.clone();
        let lun =
            target.luns.iter().map(|lun| (lun.volume.get(), (name.clone(), lun.number, lun.path.clone())));
        lun.collect::<Vec<_>>()
    };
    listing.targets.iter().flat_map(of).collect()
}

/// Registrations and reservations.
pub(super) async fn reservations(api: &Api, json: bool) -> Result<(), Failure> {
    let listing = list(api).await?;
    let (names, units) = (gateway_names(&listing), units(&listing));
    let mut rows = Vec::new();
    let mut values = Vec::new();
    for unit in &listing.reservations {
        let Some((target, lun, path)) = units.get(&unit.volume.get()) else { continue };
        let state = state_of(unit)?;
        let waiting: Vec<String> = unit.waiting.iter().map(|number| name_of(&names, *number)).collect();
        let through = |who: &Registrant| name_of(&names, who.port);
        let registrations = state.registrations().iter().map(|(who, registration)| {
            json!({
                "initiator": who.initiator.name.as_ref(),
                "isid": hex(&who.initiator.isid),
                "gateway": through(who),
                "key": format!("{:#018x}", registration.key),
                "holds": state.holds(who),
            })
        });
        let reservation = state.reservation().map(|held| {
            json!({ "type": kind(held.kind), "code": held.kind as u8, "initiator": held.holder.initiator.name.as_ref(),
                    "gateway": through(&held.holder) })
        });
        let legacy = state.legacy_holder().map(|who| who.initiator.name.to_string());
        values.push(json!({
            "target": target, "lun": lun, "volume": path, "version": unit.version,
            "generation": state.generation(), "aptpl": state.persists(),
            "registrations": registrations.collect::<Vec<_>>(),
            "reservation": reservation, "reserve6": legacy, "waiting_for": waiting,
        }));
        for (who, registration) in state.registrations() {
            let held = state.reservation().filter(|_| state.holds(who));
            rows.push(vec![
                target.clone(),
                lun.to_string(),
                who.initiator.name.to_string(),
                through(who),
                format!("{:#x}", registration.key),
                held.map_or("-", |held| kind(held.kind)).to_owned(),
                if waiting.is_empty() { "-".to_owned() } else { waiting.join(",") },
            ]);
        }
        if let Some(who) = state.legacy_holder() {
            let (name, port) = (who.initiator.name.to_string(), through(who));
            rows.push(vec![
                target.clone(),
                lun.to_string(),
                name,
                port,
                "-".into(),
                "RESERVE(6)".into(),
                "-".into(),
            ]);
        }
    }
    if json {
        output::json(&values);
    } else {
        output::table(&["TARGET", "LUN", "INITIATOR", "THROUGH", "KEY", "HOLDS", "WAITING FOR"], rows);
    }
    Ok(())
}
