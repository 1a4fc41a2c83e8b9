//! Requests about iSCSI.

use std::time::Duration;

use curve_proto::MdsError;
use curve_proto::mds::{IscsiGatewayKey, gateway_key};
use curve_proto::pb::mds as pb;
use curve_proto::pb::mds::iscsi_edit::Edit;
use curve_proto::pb::mds::mds_response::Result as Answer;
use curve_proto::pb::mds_state as state;
use curve_proto::pb::mds_state::command::Op;
use rand::Rng;
use tokio::time::{Instant, timeout_at};

use super::sessions;
use crate::iscsi::{self, Occupied};
use crate::service::Call;

/// How long one request waits for news, or for other gateways. Shorter than the time after which a caller tries another
/// MDS.
const WAIT: Duration = Duration::from_millis(1500);
/// Left for the answer.
const ANSWER_TIME: Duration = Duration::from_millis(100);
const RETRY: Duration = Duration::from_millis(20);

impl Call<'_> {
    /// When a request that waits is answered at the latest.
    pub(super) fn waits_until(&self) -> Instant {
        (Instant::now() + WAIT).min(self.until - ANSWER_TIME)
    }

    fn gateway_left(&self, number: u16, incarnation: u64) -> Duration {
        let lease = self.shared.config.lease.0;
        self.shared
            .memory
            .with(self.term, |memory| memory.gateway_lease_left(number, incarnation, lease, Instant::now()))
    }

    fn hear_gateway(&self, gateway: IscsiGatewayKey) {
        let IscsiGatewayKey { number, incarnation } = gateway;
        self.shared.memory.with(self.term, |memory| {
            memory.hear_gateway(number, incarnation, Instant::now());
        });
    }
}

/// Changes what is served. Secrets are sealed before anything is logged.
pub(super) async fn edit(call: Call<'_>, op: pb::IscsiEdit) -> Result<Answer, MdsError> {
    let set = match op.edit {
        Some(Edit::SetAuth(set)) => set,
        edit => return call.mutate(Op::IscsiEdit(pb::IscsiEdit { edit })).await,
    };
    let auth = set.auth.ok_or(MdsError::BadRequest { why: "no credentials are given".into() })?;
    let nonces = call.shared.memory.with(call.term, |memory| memory.rng.random());
    let sealed = iscsi::seal_auth(call.shared.sealing(), &set.target, &auth, nonces)?;
    let command = state::IscsiSealAuth { target: set.target, auth: Some(sealed) };
    call.mutate(Op::IscsiSealAuth(command)).await
}

pub(super) fn list(call: Call<'_>) -> Result<Answer, MdsError> {
    let left = |row: &state::IscsiGatewayRow| {
        call.gateway_left(row.number as u16, row.incarnation).as_millis() as u64
    };
    let mut listing = iscsi::listing(call.shared.rows(), left)?;
    call.shared.memory.with(call.term, |memory| {
        for heard in memory.gateways.values() {
            listing.sessions.extend(heard.sessions.iter().flatten().cloned().map(pb::IscsiSession::from));
        }
    });
    Ok(Answer::IscsiListing(listing))
}

pub(super) async fn enroll(call: Call<'_>, op: pb::IscsiEnroll) -> Result<Answer, MdsError> {
    let incarnation = op.incarnation;
    let answer = call.mutate(Op::IscsiEnroll(op)).await?;
    let Answer::IscsiEnrolled(mut enrolled) = answer else { return Ok(answer) };
    call.hear_gateway(IscsiGatewayKey { number: enrolled.number as u16, incarnation });
    enrolled.lease_ms = call.shared.config.lease.0.as_millis() as u64;
    Ok(Answer::IscsiEnrolled(enrolled))
}

/// Answers when there is something that the gateway has not seen, or after a moment.
pub(super) async fn poll(call: Call<'_>, op: pb::IscsiPoll) -> Result<Answer, MdsError> {
    let gateway = gateway_key(op.gateway)?;
    let rows = call.shared.rows();
    iscsi::gateway(rows, gateway)?;
    let sessions = op.sessions.map(|list| list.sessions.into_iter().map(TryInto::try_into));
    let sessions = sessions.map(Iterator::collect::<Result<Vec<_>, _>>).transpose()?;
    let want_sessions = call.shared.memory.with(call.term, |memory| {
        let heard = memory.hear_gateway(gateway.number, gateway.incarnation, Instant::now());
        if sessions.is_some() {
            heard.sessions = sessions;
        }
        heard.sessions.is_none()
    });
    let mut applied = call.shared.applied.clone();
    let until = call.waits_until();
    // The gateway is not told what it has to repeat at once.
    while !want_sessions && iscsi::revision(rows)? <= op.seen {
        if !matches!(timeout_at(until, applied.changed()).await, Ok(Ok(()))) {
            break;
        }
    }
    // Another life may have begun meanwhile, which must not be told about to this one.
    iscsi::gateway(rows, gateway)?;
    let mut news = iscsi::news(rows, gateway, op.seen, call.shared.sealing())?;
    news.want_sessions = want_sessions;
    news.lease_ms = call.shared.config.lease.0.as_millis() as u64;
    Ok(Answer::IscsiNews(news))
}

/// Gives a gateway its seat. An earlier session of the same gateway is shut out first.
pub(super) async fn serve(call: Call<'_>, op: pb::IscsiServe) -> Result<Answer, MdsError> {
    let gateway = gateway_key(op.gateway)?;
    iscsi::gateway(call.shared.rows(), gateway)?;
    call.hear_gateway(gateway);
    let mut unit = iscsi::unit(call.shared.rows(), op.volume)?;
    if let Err(Occupied { client }) = unit.serve(gateway.number, gateway.incarnation, op.client) {
        shut_out(call, op.volume, gateway.number, client).await?;
    }
    call.mutate(Op::IscsiServe(op)).await
}

/// Makes a change of reservations and answers when every gateway enforces it.
pub(super) async fn reserve(call: Call<'_>, op: pb::IscsiReserve) -> Result<Answer, MdsError> {
    let volume = op.volume;
    // What is not settled yet may wait for a gateway that is gone, and nobody else may ask.
    let now = iscsi::unit(call.shared.rows(), volume)?.version;
    settle(call, volume, now).await?;
    let answer = call.command(Op::IscsiReserve(op)).await?;
    if let Answer::IscsiReserved(pb::IscsiReserved { made: true, version }) = answer {
        settle(call, volume, version).await?;
    }
    Ok(answer)
}

/// Waits a moment until every gateway that serves a unit enforces a version, or is shut out.
async fn settle(call: Call<'_>, volume: u64, version: u64) -> Result<(), MdsError> {
    let until = call.waits_until();
    let mut applied = call.shared.applied.clone();
    loop {
        applied.mark_unchanged();
        let unit = iscsi::unit(call.shared.rows(), volume)?;
        let waiting = unit.waiting(version);
        if waiting.is_empty() {
            return Ok(());
        }
        let mut next = until;
        for gateway in &waiting {
            let seat = unit.seats[gateway];
            let left = left_of(call, *gateway, seat.incarnation)?;
            if left.is_zero() {
                tracing::info!(
                    gateway,
                    volume,
                    version,
                    "a gateway does not answer: it is shut out of the volume"
                );
                shut_out(call, volume, *gateway, seat.client).await?;
            } else {
                next = next.min(Instant::now() + left);
            }
        }
        if Instant::now() >= until {
            let why = format!("gateways {waiting:?} have yet to enforce the reservations of volume {volume}");
            return Err(MdsError::InProgress { why, retry_after: RETRY });
        }
        // Whether it changed or the time is over, the rows tell; a group that has failed changes nothing any more, and
        // would be asked again without a pause.
        if let Ok(Err(_)) = timeout_at(next, applied.changed()).await {
            return Err(MdsError::Unavailable { why: "this MDS has stopped applying".into() });
        }
    }
}

/// What is left of the lease of the life that has a seat: nothing, if the gateway began another.
fn left_of(call: Call<'_>, gateway: u16, incarnation: u64) -> Result<Duration, MdsError> {
    match iscsi::gateway(call.shared.rows(), IscsiGatewayKey { number: gateway, incarnation }) {
        Ok(row) if !row.stopped => Ok(call.gateway_left(gateway, incarnation)),
        Ok(_) | Err(crate::rows::Refusal::No(_)) => Ok(Duration::ZERO),
        Err(store) => Err(store.into()),
    }
}

/// Shuts a session of a gateway out of every copyset of a volume; only then its seat is free.
async fn shut_out(call: Call<'_>, volume: u64, gateway: u16, client: u64) -> Result<(), MdsError> {
    call.command(Op::IscsiExpel(state::IscsiExpel { volume, client })).await?;
    match sessions::fence(call, volume).await {
        // The volume is gone, and so is whatever could be written to.
        Ok(()) | Err(MdsError::NotFound { .. }) => {}
        Err(error) => return Err(error),
    }
    let vacate = state::IscsiVacate { volume, gateway: gateway.into(), client };
    call.command(Op::IscsiVacate(vacate)).await.map(drop)
}
