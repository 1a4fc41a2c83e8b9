//! Mounts as they are applied.
//!
//! A mount begins with epoch 1. It ends when it says so, when its lease has run out, or when an operator says so: its epoch
//! rises, and every partition is told to refuse what is below. When all have reported that they do and have released what
//! the mount held, its row goes.

use curve_kv::Txn;
use curve_proto::MdsError;
use curve_proto::pb::fs::fs_response::Result as Answer;
use curve_proto::pb::fs::{FsGrant, FsMount, FsName};
use curve_proto::pb::mds_state::{FsEndMounts, FsIdRow, FsMountRow, FsShutOut};
use curve_rows::{get, put};

use crate::apply::{Ids, done};
use crate::file_systems::{counters, next_u64};
use crate::keys;
use crate::query::{file_system, key_of, mount_over, no_file_system, partitions_of};
use crate::refusal::Refusal;

const TEXT_BYTES_MAX: usize = 4096;

/// Begins a mount, or finds the one that the nonce got.
pub(crate) fn mount(txn: &mut Txn<'_>, now_ms: u64, ids: &Ids, op: &FsMount) -> Result<Answer, Refusal> {
    let system = file_system(txn, &FsName { name: op.name.clone(), ..FsName::default() })?;
    if system.deleting {
        return Err(no_file_system(&op.name).into());
    }
    if op.nonce == 0 || [&op.host, &op.directory, &op.options].iter().any(|text| text.len() > TEXT_BYTES_MAX)
    {
        let why = "a mount needs a nonce other than 0, and names of at most 4096 bytes".to_owned();
        return Err(MdsError::BadRequest { why }.into());
    }
    let nonce_key = keys::nonce(system.id, op.nonce);
    if let Some(known) = get::<FsIdRow>(txn, &nonce_key)? {
        let row = get::<FsMountRow>(txn, &keys::mount(system.id, known.id))?;
        let row = row.filter(|row| !row.ending).ok_or_else(|| mount_over(known.id))?;
        return Ok(grant(&row));
    }
    let mut counters = counters(txn, ids.cluster)?;
    let row = FsMountRow {
        id: next_u64(&mut counters.next_mount)?,
        fs: system.id,
        epoch: 1,
        writer: next_u64(&mut counters.next_writer)?,
        nonce: op.nonce,
        host: op.host.clone(),
        process: op.process,
        directory: op.directory.clone(),
        options: op.options.clone(),
        read_only: op.read_only,
        mounted_at_ms: now_ms,
        ending: false,
        shut_out: Vec::new(),
    };
    put(txn, keys::counters(), &counters);
    put(txn, nonce_key, &FsIdRow { id: row.id });
    put(txn, keys::mount(row.fs, row.id), &row);
    Ok(grant(&row))
}

fn grant(row: &FsMountRow) -> Answer {
    Answer::Grant(FsGrant { mount: Some(key_of(row)), writer: row.writer, ..FsGrant::default() })
}

/// Ends a mount that goes on.
pub(crate) fn end(txn: &mut Txn<'_>, row: &mut FsMountRow) {
    row.ending = true;
    row.epoch += 1;
    row.shut_out.clear();
    put(txn, keys::mount(row.fs, row.id), row);
}

/// Ends mounts. Those that are over already stay as they are.
pub(crate) fn end_mounts(txn: &mut Txn<'_>, op: &FsEndMounts) -> Result<Answer, Refusal> {
    for key in &op.mounts {
        let row = get::<FsMountRow>(txn, &keys::mount(key.fs, key.mount))?;
        if let Some(mut row) = row.filter(|row| !row.ending && row.epoch == key.epoch) {
            end(txn, &mut row);
        }
    }
    Ok(done())
}

/// Notes which partitions refuse a mount; after the last one nothing reminds of it.
pub(crate) fn shut_out(txn: &mut Txn<'_>, op: &FsShutOut) -> Result<Answer, Refusal> {
    let key = op.mount.unwrap_or_default();
    let row = get::<FsMountRow>(txn, &keys::mount(key.fs, key.mount))?;
    let Some(mut row) = row.filter(|row| row.ending && row.epoch == key.epoch) else { return Ok(done()) };
    let partitions: Vec<u32> = partitions_of(txn, row.fs)?.iter().map(|partition| partition.id).collect();
    row.shut_out.extend(op.partitions.iter().filter(|id| partitions.contains(id)));
    row.shut_out.sort_unstable();
    row.shut_out.dedup();
    if partitions.iter().all(|id| row.shut_out.contains(id)) {
        remove(txn, &row);
    } else {
        put(txn, keys::mount(row.fs, row.id), &row);
    }
    Ok(done())
}

/// Forgets a mount.
pub(crate) fn remove(txn: &mut Txn<'_>, row: &FsMountRow) {
    txn.delete(keys::nonce(row.fs, row.nonce));
    txn.delete(keys::mount(row.fs, row.id));
}
