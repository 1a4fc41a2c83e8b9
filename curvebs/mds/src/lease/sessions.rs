//! Sessions as they are applied.

use std::time::Duration;

use curve_kv::{KvError, Txn};
use curve_proto::MdsError;
use curve_proto::mds::{Holder, OpenMode};
use curve_proto::pb::mds as pb;
use curve_proto::pb::mds::mds_response::Result as Answer;
use curve_proto::pb::mds_state as state;
use curve_proto::pb::mds_state::{SessionRow, VolumeRow};
use curve_types::{ClientId, Epoch, HOLDERS_MAX};

use super::rules::{self, Refused, Seat, Wanted};
use crate::keys;
use crate::namespace::{NamePath, path_of, volume, volume_at, volume_message};
use crate::rows::{Refusal, Rows, all, cluster, get, put};

/// All sessions of a volume.
pub(crate) fn sessions_of(rows: &(impl Rows + ?Sized), volume: u64) -> Result<Vec<SessionRow>, KvError> {
    all(rows, &keys::sessions_of(volume))
}

/// A client's session, if it is the one that was granted `epoch`.
pub(crate) fn session(
    rows: &(impl Rows + ?Sized),
    volume: u64,
    client: u64,
    epoch: u64,
) -> Result<Option<SessionRow>, KvError> {
    let session = get::<SessionRow>(rows, &keys::session(volume, client))?;
    Ok(session.filter(|session| session.epoch == epoch))
}

/// Whether a holder may still change the volume's map: as long as nobody has shut it out. That its session is gone is no
/// reason to refuse it before the epoch rises.
pub(crate) fn may_go_on(
    rows: &(impl Rows + ?Sized),
    volume: &VolumeRow,
    client: u64,
    epoch: u64,
) -> Result<(), Refusal> {
    if epoch > volume.epoch {
        let why = format!("epoch {epoch} of volume {} is not given out yet", volume.id);
        return Err(MdsError::BadRequest { why }.into());
    }
    if epoch == volume.epoch || session(rows, volume.id, client, epoch)?.is_some() {
        return Ok(());
    }
    Err(MdsError::Fenced { held: Epoch(volume.epoch) }.into())
}

/// Sessions as clients see them; `lease_left` knows what is left of whose lease.
pub(crate) fn holders(sessions: Vec<SessionRow>, lease_left: impl Fn(ClientId) -> Duration) -> Vec<Holder> {
    let holder = |session: SessionRow| {
        let lease_left = lease_left(ClientId(session.client));
        Holder {
            mode: session.mode().into(),
            client: ClientId(session.client),
            host: session.host,
            process: session.process,
            opened_at_ms: session.opened_at_ms,
            epoch: Epoch(session.epoch),
            lease_left,
            lapsed: lease_left.is_zero(),
        }
    };
    sessions.into_iter().map(holder).collect()
}

fn mode(session: &SessionRow) -> OpenMode {
    session.mode().into()
}

fn held_by(path: String, session: SessionRow) -> Refusal {
    // How much of the lease is left is not known to the rows; the refusal itself says that it has not run out.
    let holder = holders(vec![session], |_| Duration::from_millis(1)).remove(0);
    MdsError::HeldBy { path, holder }.into()
}

/// Opens a volume by the [`rules`]: records the session, and raises the epoch when somebody must be shut out. The answer
/// is not for the client before the volume's copysets have been fenced up to that epoch.
pub(crate) fn open(txn: &mut Txn<'_>, now_ms: u64, op: &state::Open) -> Result<Answer, Refusal> {
    let Some(open) = &op.open else {
        return Err(MdsError::BadRequest { why: "an open without its request".into() }.into());
    };
    let (mut volume, name) = match open.volume {
        0 => {
            let path = NamePath::parse(&open.path)?;
            (volume_at(txn, &path)?, path.text())
        }
        id => {
            let volume = volume(txn, id)?;
            let name = path_of(&volume);
            (volume, name)
        }
    };
    let cluster = cluster(txn)?;
    let opened = |volume: &VolumeRow, epoch: u64| {
        let volume = Some(volume_message(&cluster, volume));
        Answer::Opened(pb::Opened { volume, lease_ms: 0, epoch })
    };
    if let Some(session) = get::<SessionRow>(txn, &keys::session(volume.id, open.client))? {
        return Ok(opened(&volume, session.epoch));
    }
    let sessions = sessions_of(txn, volume.id)?;
    let admission = admit(op, open, &sessions, volume.stray_writer).map_err(|refused| match refused {
        Refused::By(client) => {
            let holder = sessions.iter().find(|session| session.client == client);
            held_by(name.clone(), holder.expect("the rules name one of the sessions").clone())
        }
        Refused::Full => {
            let why = format!("{name} is open {HOLDERS_MAX} times, which is the limit");
            MdsError::Conflict { why }.into()
        }
    })?;
    for client in &admission.displaced {
        txn.delete(keys::session(volume.id, *client));
    }
    if admission.raise {
        raise_epoch(&mut volume);
        put(txn, keys::volume(volume.id), &volume);
    }
    let session = SessionRow {
        client: open.client,
        host: open.host.clone(),
        process: open.process,
        mode: open.mode,
        opened_at_ms: now_ms,
        epoch: volume.epoch,
    };
    put(txn, keys::session(volume.id, session.client), &session);
    Ok(opened(&volume, session.epoch))
}

fn admit(
    op: &state::Open,
    open: &pb::Open,
    sessions: &[SessionRow],
    stray: bool,
) -> Result<rules::Admission, Refused> {
    let seat = |session: &SessionRow| Seat {
        client: session.client,
        mode: mode(session),
        lapsed: op.lapsed.contains(&session.client),
    };
    let seats: Vec<Seat> = sessions.iter().map(seat).collect();
    let wanted = Wanted { mode: open.mode().into(), takeover: open.takeover, displaced: &open.displaced };
    rules::admit(wanted, &seats, stray)
}

fn raise_epoch(volume: &mut VolumeRow) {
    volume.epoch += 1;
    volume.stray_writer = false;
    if volume.segments_allocated == 0 {
        // No copyset knows the volume yet, and the MDS itself refuses segments to whoever was shut out.
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
    if let Some(session) = session(txn, key.volume, key.client, key.epoch)? {
        txn.delete(keys::session(key.volume, key.client));
        if mode(&session).writes() && !op.drained {
            mark_stray(txn, key.volume)?;
        }
    }
    Ok(Answer::Done(pb::Empty {}))
}

/// Ends the sessions of some clients, and raises the epoch when there was one, or when a former writer may still have
/// requests under way. The sessions that stay go on, lapsed or not: nobody is let in.
pub(crate) fn break_sessions(txn: &mut Txn<'_>, op: &pb::BreakSessions) -> Result<Answer, Refusal> {
    let mut volume = volume_at(txn, &NamePath::parse(&op.path)?)?;
    let mut raise = volume.stray_writer;
    for client in &op.clients {
        let key = keys::session(volume.id, *client);
        if get::<SessionRow>(txn, &key)?.is_some() {
            txn.delete(key);
            raise = true;
        }
    }
    if raise {
        raise_epoch(&mut volume);
        put(txn, keys::volume(volume.id), &volume);
    }
    Ok(Answer::Volume(volume_message(&cluster(txn)?, &volume)))
}

/// Ends one session of a volume, and raises the epoch when there was one, or when a former writer may still have requests
/// under way. Of a volume that is gone nothing is left to end.
pub(crate) fn end_session(txn: &mut Txn<'_>, volume: u64, client: u64) -> Result<(), Refusal> {
    let Some(mut volume) = get::<VolumeRow>(txn, &keys::volume(volume))? else { return Ok(()) };
    let key = keys::session(volume.id, client);
    let held = get::<SessionRow>(txn, &key)?.is_some();
    if held || volume.stray_writer {
        txn.delete(key);
        raise_epoch(&mut volume);
        put(txn, keys::volume(volume.id), &volume);
    }
    Ok(())
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
