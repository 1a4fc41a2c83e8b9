//! Sessions as they are applied.

use curve_kv::{KvError, Txn};
use curve_proto::MdsError;
use curve_proto::mds::{Holder, OpenMode};
use curve_proto::pb::mds as pb;
use curve_proto::pb::mds::mds_response::Result as Answer;
use curve_proto::pb::mds_state as state;
use curve_proto::pb::mds_state::{SessionRow, VolumeRow};
use curve_types::ClientId;

use crate::keys;
use crate::namespace::{NamePath, volume_at, volume_message};
use crate::rows::{Refusal, Rows, all, cluster, get, put};

/// All sessions of a volume.
pub(crate) fn sessions_of(rows: &(impl Rows + ?Sized), volume: u64) -> Result<Vec<SessionRow>, KvError> {
    all(rows, &keys::sessions_of(volume))
}

/// Sessions as clients see them; `lapsed` knows whose lease has run out.
pub(crate) fn holders(sessions: Vec<SessionRow>, lapsed: impl Fn(ClientId) -> bool) -> Vec<Holder> {
    let holder = |session: SessionRow| Holder {
        mode: session.mode().into(),
        client: ClientId(session.client),
        host: session.host,
        process: session.process,
        opened_at_ms: session.opened_at_ms,
        lapsed: lapsed(ClientId(session.client)),
    };
    sessions.into_iter().map(holder).collect()
}

fn writes(session: &SessionRow) -> bool {
    OpenMode::from(session.mode()) != OpenMode::ReadOnly
}

fn excludes(wanted: OpenMode, session: &SessionRow) -> bool {
    match (wanted, OpenMode::from(session.mode())) {
        (OpenMode::ReadOnly, _) | (_, OpenMode::ReadOnly) => false,
        (OpenMode::Shared, OpenMode::Shared) => false,
        (OpenMode::Exclusive, _) | (_, OpenMode::Exclusive) => true,
    }
}

fn held_by(path: String, session: SessionRow) -> Refusal {
    let holder = holders(vec![session], |_| false).remove(0);
    MdsError::HeldBy { path, holder }.into()
}

/// Opens a volume: records the session, and raises the epoch when a writer may still be about. The answer is not for
/// the client before the volume's copysets have been fenced up to that epoch.
pub(crate) fn open(txn: &mut Txn<'_>, now_ms: u64, op: &state::Open) -> Result<Answer, Refusal> {
    let Some(open) = &op.open else {
        return Err(MdsError::BadRequest { why: "an open without its request".into() }.into());
    };
    let path = NamePath::parse(&open.path)?;
    let mut volume = volume_at(txn, &path)?;
    let cluster = cluster(txn)?;
    let mode = OpenMode::from(open.mode());
    let opened = |volume: &VolumeRow| {
        Answer::Opened(pb::Opened { volume: Some(volume_message(&cluster, volume)), lease_ms: 0 })
    };
    if get::<SessionRow>(txn, &keys::session(volume.id, open.client))?.is_some() {
        return Ok(opened(&volume));
    }
    for session in sessions_of(txn, volume.id)?.into_iter().filter(|session| excludes(mode, session)) {
        if !open.takeover && !op.lapsed.contains(&session.client) {
            return Err(held_by(path.text(), session));
        }
        txn.delete(keys::session(volume.id, session.client));
        volume.stray_writer = true;
    }
    if volume.stray_writer && mode != OpenMode::ReadOnly {
        raise_epoch(&mut volume);
    }
    let session = SessionRow {
        client: open.client,
        host: open.host.clone(),
        process: open.process,
        mode: open.mode,
        opened_at_ms: now_ms,
    };
    put(txn, keys::session(volume.id, session.client), &session);
    put(txn, keys::volume(volume.id), &volume);
    Ok(opened(&volume))
}

fn raise_epoch(volume: &mut VolumeRow) {
    volume.epoch += 1;
    volume.stray_writer = false;
    if volume.segments_allocated == 0 {
        // No copyset knows the volume yet, and the MDS itself refuses segments to the old epoch.
        volume.fenced_epoch = volume.epoch;
    }
}

/// Every copyset of the volume accepts only epochs from `epoch`.
pub(crate) fn fenced(txn: &mut Txn<'_>, op: &state::Fenced) -> Result<Answer, Refusal> {
    if let Some(mut volume) = get::<VolumeRow>(txn, &keys::volume(op.volume))? {
        assert!(op.epoch <= volume.epoch, "fenced {} beyond its epoch {}", op.epoch, volume.epoch);
        if op.epoch > volume.fenced_epoch {
            volume.fenced_epoch = op.epoch;
            put(txn, keys::volume(volume.id), &volume);
        }
    }
    Ok(Answer::Done(pb::Empty {}))
}

/// Ends a session. One that is gone already is no error.
pub(crate) fn close(txn: &mut Txn<'_>, op: &pb::Close) -> Result<Answer, Refusal> {
    let key = op.session.unwrap_or_default();
    let row = keys::session(key.volume, key.client);
    if let Some(session) = get::<SessionRow>(txn, &row)? {
        txn.delete(row);
        if writes(&session) && !op.drained {
            mark_stray(txn, key.volume)?;
        }
    }
    Ok(Answer::Done(pb::Empty {}))
}

/// Ends all sessions of a volume.
pub(crate) fn break_sessions(txn: &mut Txn<'_>, op: &pb::BreakSessions) -> Result<Answer, Refusal> {
    let volume = volume_at(txn, &NamePath::parse(&op.path)?)?;
    let sessions = sessions_of(txn, volume.id)?;
    for session in &sessions {
        txn.delete(keys::session(volume.id, session.client));
    }
    if sessions.iter().any(writes) {
        mark_stray(txn, volume.id)?;
    }
    Ok(Answer::Done(pb::Empty {}))
}

/// Ends the sessions of a volume that is about to be deleted; refused when one is alive.
pub(crate) fn end_for_delete(
    txn: &mut Txn<'_>,
    volume: &VolumeRow,
    path: &str,
    lapsed: &[u64],
) -> Result<(), Refusal> {
    for session in sessions_of(txn, volume.id)? {
        if !lapsed.contains(&session.client) {
            return Err(held_by(path.to_owned(), session));
        }
        txn.delete(keys::session(volume.id, session.client));
    }
    Ok(())
}

fn mark_stray(txn: &mut Txn<'_>, volume: u64) -> Result<(), Refusal> {
    if let Some(mut volume) = get::<VolumeRow>(txn, &keys::volume(volume))? {
        volume.stray_writer = true;
        put(txn, keys::volume(volume.id), &volume);
    }
    Ok(())
}
