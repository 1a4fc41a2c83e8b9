//! One connection: login, then the full feature phase.

mod full_feature;
mod login;
mod work;

use std::future::pending;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use curve_scsi::{Attachment, InitiatorPort, Nexus, TargetPort};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{oneshot, watch};
use tracing::info;

use crate::catalog::{Catalog, CatalogSource};
use crate::core::{Established, FramingError, LoginRefusal, NodeName, Outbox, Parties, Violation};
use crate::sessions::{Registration, Sessions};
use full_feature::FullFeature;

/// How long an initiator may take to log in, if nothing else is asked for.
pub const LOGIN_TIMEOUT: Duration = Duration::from_secs(30);
/// How long an initiator that says nothing is left alone, and how long it may then take to answer a ping.
pub const SILENCE_MAX: Duration = Duration::from_secs(15);
/// How long initiators have to log out once the gateway is told to stop.
pub const LOGOUT_WAIT: Duration = Duration::from_secs(3);

/// Why a connection ended before its initiator logged out.
#[derive(Debug, Error)]
pub enum SessionError {
    /// The socket failed, or the initiator vanished.
    #[error("connection lost: {0}")]
    Lost(#[from] io::Error),
    /// What came cannot be understood or trusted.
    #[error("protocol violated: {0}")]
    Framing(#[from] FramingError),
    /// The initiator broke a rule.
    #[error("protocol violated: {0}")]
    Violated(#[from] Violation),
    /// The login came to nothing.
    #[error("login of {initiator} refused: {refusal}")]
    Refused {
        /// Who it said it was.
        initiator: String,
        /// Why.
        refusal: LoginRefusal,
    },
    /// The login took too long.
    #[error("no login within {} s", .0.as_secs())]
    Slow(Duration),
    /// Too many connections that have not logged in; this was the oldest.
    #[error("dropped without login to make room for others")]
    Evicted,
    /// No answer to a ping.
    #[error("the initiator did not answer for {} s", 2 * SILENCE_MAX.as_secs())]
    Silent,
    /// The same initiator port logged in again.
    #[error("the initiator logged in anew")]
    Replaced,
    /// This process did not run for a while.
    #[error("this gateway did not run for a while; the initiator may have gone on elsewhere")]
    Stalled,
    /// The target is gone, or no longer for this initiator.
    #[error("the target is not for this initiator any more")]
    Revoked,
}

impl SessionError {
    /// A short name, for counters.
    pub const fn cause(&self) -> &'static str {
        match self {
            Self::Lost(_) => "lost",
            Self::Framing(_) => "framing",
            Self::Violated(_) => "violated",
            Self::Refused { refusal, .. } => match refusal {
                LoginRefusal::Authentication => "authentication",
                LoginRefusal::Forbidden => "forbidden",
                LoginRefusal::NotFound => "unknown_target",
                _ => "login",
            },
            Self::Slow(_) => "slow",
            Self::Evicted => "evicted",
            Self::Silent => "silent",
            Self::Replaced => "replaced",
            Self::Stalled => "stalled",
            Self::Revoked => "revoked",
        }
    }
}

/// What a session needs to know of its server.
#[derive(Clone, Debug)]
pub struct SessionContext {
    /// What is served.
    pub catalog: CatalogSource,
    /// The others.
    pub sessions: Arc<Sessions>,
    /// `host:port` that the initiator has connected to.
    pub local: String,
    /// How long a login may take.
    pub login_timeout: Duration,
}

/// A stream and what has been read from it but not used.
struct Wire<S> {
    stream: S,
    input: BytesMut,
}

/// A session that is about to begin.
struct Admitted {
    established: Established,
    registration: Registration,
    /// The catalog that the target was found in.
    catalog: Arc<Catalog>,
    /// The last answer of the login, to be sent.
    outbox: Outbox,
}

/// Serves one initiator until it logs out, breaks the protocol, falls silent, or `stopping` becomes true; in the latter
/// case it is asked to log out, and commands in flight are completed and answered first. `evict` ends a connection that
/// has not logged in.
pub async fn serve<S>(
    stream: S,
    context: SessionContext,
    evict: oneshot::Receiver<()>,
    mut stopping: watch::Receiver<bool>,
) -> Result<(), SessionError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut wire = Wire { stream, input: BytesMut::new() };
    let admitted = tokio::select! {
        login = tokio::time::timeout(context.login_timeout, login::run(&mut wire, &context)) => {
            login.map_err(|_| SessionError::Slow(context.login_timeout))??
        }
        Ok(()) = evict => return Err(SessionError::Evicted),
        _ = stopping.wait_for(|stopping| *stopping) => return Ok(()),
    };
    let Admitted { established, registration, catalog, outbox } = admitted;
    let target = established.target.map(|index| catalog.target(index));
    let attachment = target.map(|(name, device)| {
        info!(initiator = %established.initiator, target = %name, tsih = registration.tsih(), "a session begins");
        let group = catalog.login().group();
        device.attach(nexus(&established, name.as_str(), group))
    });
    let parties = Parties {
        initiator: established.initiator.clone(),
        target: target.map(|(name, _)| name.clone()),
        local: context.local,
    };
    let revoked = revoked(context.catalog.clone(), parties.initiator.clone(), parties.target.clone());
    let gauge = metrics::gauge!("curve_iscsi_sessions");
    gauge.increment(1.0);
    let session = FullFeature::new(wire, &established, parties, attachment, context.catalog, outbox);
    let ended = session.run(&registration, revoked, stopping).await;
    gauge.decrement(1.0);
    ended
}

/// Completes when the catalog does not let the initiator use its target any more. Changed secrets are for the next login.
async fn revoked(mut catalog: CatalogSource, initiator: NodeName, target: Option<NodeName>) {
    let Some(target) = target else { return pending().await };
    while catalog.borrow_and_update().login().find(target.as_str(), &initiator).is_ok() {
        if catalog.changed().await.is_err() {
            // Nobody publishes any more.
            return pending().await;
        }
    }
}

fn nexus(established: &Established, target: &str, group: u16) -> Nexus {
    Nexus {
        initiator: InitiatorPort { name: established.initiator.as_str().into(), isid: established.isid },
        target_port: TargetPort { name: target.into(), relative_id: group, portal_group: group },
    }
}

/// The nexus of a normal session, shared by the session and the functions that it runs.
type SharedAttachment = Option<Arc<Attachment>>;
