//! Changes of targets, as they are applied.

use curve_kv::Txn;
use curve_proto::MdsError;
use curve_proto::mds::ANY_INITIATOR;
use curve_proto::pb::mds as pb;
use curve_proto::pb::mds::iscsi_edit::Edit;
use curve_proto::pb::mds::mds_response::Result as Answer;
use curve_proto::pb::mds_state as state;
use curve_proto::pb::mds_state::{IscsiLunRow, IscsiSeatRow, IscsiTargetRow, IscsiUnitRow};
use ring::digest::{SHA256, digest};

use super::{gateways, names, next_revision, seats};
use crate::keys;
use crate::namespace::{NamePath, volume_at};
use crate::rows::{Refusal, cluster, get, put, scan};

const TARGETS_MAX: usize = 4096;
const LUNS_MAX: usize = 256;
const INITIATORS_MAX: usize = 1024;
/// The highest number that flat space addressing can express (SAM-5 4.7.7.3).
const LUN_MAX: u32 = 0x3fff;

/// Makes a change that has no secrets in it.
pub(crate) fn edit(txn: &mut Txn<'_>, now_ms: u64, op: &pb::IscsiEdit) -> Result<Answer, Refusal> {
    let Some(edit) = &op.edit else {
        return Err(MdsError::BadRequest { why: "a change that this version does not know".into() }.into());
    };
    match edit {
        Edit::CreateTarget(name) => create(txn, now_ms, name)?,
        Edit::RemoveTarget(name) => remove(txn, name)?,
        Edit::AddLun(op) => add_lun(txn, op)?,
        Edit::RemoveLun(op) => remove_lun(txn, op)?,
        Edit::RemoveAuth(name) => {
            let mut target = target(txn, name)?;
            let none = || MdsError::NotFound { what: format!("CHAP of target {}", target.name) };
            target.auth.take().ok_or_else(none)?;
            put_target(txn, target)?;
        }
        Edit::AddInitiator(op) => add_initiator(txn, op)?,
        Edit::RemoveInitiator(op) => remove_initiator(txn, op)?,
        Edit::RemoveGateway(name) => gateways::remove(txn, name)?,
        Edit::SetAuth(_) => {
            return Err(
                MdsError::BadRequest { why: "secrets must be sealed before they are logged".into() }.into()
            );
        }
    }
    Ok(Answer::Done(pb::Empty {}))
}

/// Sets a target's sealed secrets.
pub(crate) fn set_auth(txn: &mut Txn<'_>, op: &state::IscsiSealAuth) -> Result<Answer, Refusal> {
    let mut target = target(txn, &op.target)?;
    target.auth = op.auth.clone();
    put_target(txn, target)?;
    Ok(Answer::Done(pb::Empty {}))
}

fn target(txn: &Txn<'_>, name: &str) -> Result<IscsiTargetRow, Refusal> {
    let name = names::node(name)?;
    let row = get(txn, &keys::iscsi_target(&name))?;
    row.ok_or_else(|| MdsError::NotFound { what: format!("iSCSI target {name}") }.into())
}

fn put_target(txn: &mut Txn<'_>, mut target: IscsiTargetRow) -> Result<(), Refusal> {
    target.revision = next_revision(txn)?;
    put(txn, keys::iscsi_target(&target.name), &target);
    Ok(())
}

fn limit(count: usize, max: usize, what: &str) -> Result<(), MdsError> {
    if count < max {
        Ok(())
    } else {
        Err(MdsError::Conflict { why: format!("there are {max} {what} already") })
    }
}

fn create(txn: &mut Txn<'_>, now_ms: u64, name: &str) -> Result<(), Refusal> {
    let name = names::node(name)?;
    if get::<IscsiTargetRow>(txn, &keys::iscsi_target(&name))?.is_some() {
        return Err(MdsError::Exists { path: format!("iSCSI target {name}") }.into());
    }
    limit(scan::<IscsiTargetRow>(txn, &keys::iscsi_targets(), TARGETS_MAX)?.len(), TARGETS_MAX, "targets")?;
    let row =
        IscsiTargetRow { name, any_initiator: true, created_at_ms: now_ms, ..IscsiTargetRow::default() };
    put_target(txn, row)
}

fn remove(txn: &mut Txn<'_>, name: &str) -> Result<(), Refusal> {
    let target = target(txn, name)?;
    for lun in &target.luns {
        forget_unit(txn, lun.volume)?;
    }
    txn.delete(keys::iscsi_target(&target.name));
    next_revision(txn)?;
    Ok(())
}

fn add_lun(txn: &mut Txn<'_>, op: &pb::IscsiAddLun) -> Result<(), Refusal> {
    let mut target = target(txn, &op.target)?;
    let refuse = |why: String| -> Result<(), Refusal> { Err(MdsError::BadRequest { why }.into()) };
    if op.number > LUN_MAX {
        return refuse(format!("a unit has a number from 0 to {LUN_MAX}"));
    }
    if ![512, 4096].contains(&op.block_bytes) {
        return refuse("logical blocks have 512 or 4096 bytes".into());
    }
    if target.luns.iter().any(|lun| lun.number == op.number) {
        return Err(MdsError::Exists { path: format!("unit {} of {}", op.number, target.name) }.into());
    }
    limit(target.luns.len(), LUNS_MAX, "units in this target")?;
    let path = NamePath::parse(&op.path)?;
    let volume = volume_at(txn, &path)?;
    if let Some(unit) = get::<IscsiUnitRow>(txn, &keys::iscsi_unit(volume.id))? {
        let why = format!("{} is unit {} of {} already", path.text(), unit.number, unit.target);
        return Err(MdsError::Conflict { why }.into());
    }
    target.luns.push(IscsiLunRow {
        number: op.number,
        volume: volume.id,
        block_bytes: op.block_bytes,
        read_only: op.read_only,
        uuid: uuid(cluster(txn)?.id, volume.id).to_vec().into(),
        path: path.text(),
    });
    target.luns.sort_by_key(|lun| lun.number);
    let unit = IscsiUnitRow { target: target.name.clone(), number: op.number };
    put(txn, keys::iscsi_unit(volume.id), &unit);
    put_target(txn, target)
}

/// What a unit is recognised by: a rule, so that a volume that is taken away and given again is the same disk.
fn uuid(cluster: u64, volume: u64) -> [u8; 16] {
    let named = [&b"curve iscsi unit"[..], &cluster.to_be_bytes(), &volume.to_be_bytes()].concat();
    let mut uuid: [u8; 16] = *digest(&SHA256, &named).as_ref().first_chunk().expect("a digest is longer");
    // Version 8 (made by a rule of one's own), variant of RFC 9562.
    uuid[6] = uuid[6] & 0x0f | 0x80;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    uuid
}

fn remove_lun(txn: &mut Txn<'_>, op: &pb::IscsiRemoveLun) -> Result<(), Refusal> {
    let mut target = target(txn, &op.target)?;
    let Some(at) = target.luns.iter().position(|lun| lun.number == op.number) else {
        return Err(MdsError::NotFound { what: format!("unit {} of {}", op.number, target.name) }.into());
    };
    let lun = target.luns.remove(at);
    forget_unit(txn, lun.volume)?;
    put_target(txn, target)
}

fn forget_unit(txn: &mut Txn<'_>, volume: u64) -> Result<(), Refusal> {
    txn.delete(keys::iscsi_unit(volume));
    seats::reset(txn, volume)
}

/// The first name takes the place of "any", so that whoever lists one initiator has shut out the others.
fn add_initiator(txn: &mut Txn<'_>, op: &pb::IscsiAcl) -> Result<(), Refusal> {
    let mut target = target(txn, &op.target)?;
    if op.initiator == ANY_INITIATOR {
        target.any_initiator = true;
        target.initiators.clear();
        return put_target(txn, target);
    }
    let name = names::node(&op.initiator)?;
    if target.initiators.contains(&name) {
        return Err(MdsError::Exists { path: format!("{name} in the list of {}", target.name) }.into());
    }
    limit(target.initiators.len(), INITIATORS_MAX, "initiators in this target's list")?;
    target.any_initiator = false;
    target.initiators.push(name);
    target.initiators.sort();
    put_target(txn, target)
}

/// With the last name gone nobody is let in: a list never opens a target by getting shorter.
fn remove_initiator(txn: &mut Txn<'_>, op: &pb::IscsiAcl) -> Result<(), Refusal> {
    let mut target = target(txn, &op.target)?;
    let found = if op.initiator == ANY_INITIATOR {
        std::mem::take(&mut target.any_initiator)
    } else {
        let name = names::node(&op.initiator)?;
        let before = target.initiators.len();
        target.initiators.retain(|known| *known != name);
        target.initiators.len() < before
    };
    if !found {
        let what = format!("{} in the list of {}", op.initiator, target.name);
        return Err(MdsError::NotFound { what }.into());
    }
    put_target(txn, target)
}

/// A volume has another name.
pub(crate) fn rename_volume(txn: &mut Txn<'_>, volume: u64, path: &str) -> Result<(), Refusal> {
    let Some(unit) = get::<IscsiUnitRow>(txn, &keys::iscsi_unit(volume))? else { return Ok(()) };
    let mut target = target(txn, &unit.target)?;
    for lun in target.luns.iter_mut().filter(|lun| lun.volume == volume) {
        path.clone_into(&mut lun.path);
    }
    put_target(txn, target)
}

/// A volume is about to be deleted: refused while it is a unit.
pub(crate) fn discard_volume(txn: &mut Txn<'_>, volume: u64, path: &str) -> Result<(), Refusal> {
    if let Some(unit) = get::<IscsiUnitRow>(txn, &keys::iscsi_unit(volume))? {
        let IscsiUnitRow { target, number } = unit;
        let why = format!(
            "{path} is unit {number} of {target}; `curve iscsi lun rm {target} --lun {number}` first"
        );
        return Err(MdsError::Conflict { why }.into());
    }
    for (key, _) in scan::<IscsiSeatRow>(txn, &keys::iscsi_seats(volume), usize::MAX)? {
        txn.delete(key);
    }
    txn.delete(keys::iscsi_reservation(volume));
    Ok(())
}
