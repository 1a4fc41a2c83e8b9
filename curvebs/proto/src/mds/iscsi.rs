//! iSCSI as the MDS describes it: targets, gateways, sessions, reservations.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use curve_types::{ClientId, VolumeId};

use crate::mds::wire::{BadReply, required};
use crate::pb::mds as pb;

/// The entry of an access list that stands for every initiator.
pub const ANY_INITIATOR: &str = "any";

/// A volume as a unit of a target.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IscsiLun {
    /// Its number in the target.
    pub number: u16,
    /// The volume.
    pub volume: VolumeId,
    /// The volume's path, for people: not up to date where a directory above was renamed.
    pub path: String,
    /// Bytes of a logical block.
    pub block_bytes: u32,
    /// Whether writes are refused.
    pub read_only: bool,
    /// What it is recognised by, the same wherever and whenever the volume is served.
    pub uuid: [u8; 16],
}

/// Secrets of a target. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct IscsiSecrets {
    /// What initiators have to know.
    pub incoming: Bytes,
    /// What proves to them who we are.
    pub mutual: Option<Bytes>,
}

impl fmt::Debug for IscsiSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IscsiSecrets")
    }
}

/// CHAP of a target.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IscsiAuth {
    /// The name that initiators give.
    pub user: String,
    /// The name that we give to initiators that ask.
    pub mutual_user: Option<String>,
    /// Absent in listings, and where the MDS cannot unseal them.
    pub secrets: Option<IscsiSecrets>,
}

/// Which initiators may use a target.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum IscsiAccess {
    /// Every one.
    Any,
    /// These; with an empty list nobody.
    Listed(Vec<String>),
}

/// A target.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IscsiTarget {
    /// Its iSCSI name, in lower case.
    pub name: String,
    /// Its units, by number.
    pub luns: Vec<IscsiLun>,
    /// Who may use it.
    pub access: IscsiAccess,
    /// What they have to know; nothing if absent.
    pub auth: Option<IscsiAuth>,
    /// When it was created, in milliseconds since 1970.
    pub created_at_ms: u64,
}

/// A change of what is served.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum IscsiEdit {
    /// A target without units that any initiator may use.
    CreateTarget(String),
    /// Takes a target away with its units; volumes stay.
    RemoveTarget(String),
    /// Makes a volume a unit.
    AddLun {
        /// The target.
        target: String,
        /// The unit's number.
        number: u16,
        /// The volume's path.
        path: String,
        /// 512 or 4096.
        block_bytes: u32,
        /// Refuse writes.
        read_only: bool,
    },
    /// Takes a unit away; the volume stays.
    RemoveLun {
        /// The target.
        target: String,
        /// The unit's number.
        number: u16,
    },
    /// Asks initiators for CHAP. The secrets must be there.
    SetAuth {
        /// The target.
        target: String,
        /// Names and secrets.
        auth: IscsiAuth,
    },
    /// Asks for nothing any more.
    RemoveAuth(String),
    /// Lets an initiator in: a name, or `any`. The first name takes the place of `any`.
    AddInitiator {
        /// The target.
        target: String,
        /// Who.
        initiator: String,
    },
    /// Lets an initiator in no longer.
    RemoveInitiator {
        /// The target.
        target: String,
        /// Who.
        initiator: String,
    },
    /// Forgets a gateway that is never to come back.
    RemoveGateway(String),
}

/// A gateway.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IscsiGateway {
    /// Of its target port and of its port group; stays with the name.
    pub number: u16,
    /// Its name.
    pub name: String,
    /// `host:port` of its portals.
    pub addresses: Vec<String>,
    /// Where it runs.
    pub host: String,
    /// As which process.
    pub process: u32,
    /// Stopped in order.
    pub stopped: bool,
    /// What is left of its lease. Only in listings.
    pub lease_left: Duration,
}

/// A session of an initiator.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IscsiSession {
    /// Number of the gateway.
    pub gateway: u16,
    /// The target's name.
    pub target: String,
    /// The initiator's name.
    pub initiator: String,
    /// The initiator's part of the session id.
    pub isid: [u8; 6],
    /// The target's part.
    pub tsih: u16,
    /// How long ago it began.
    pub age: Duration,
}

/// One life of a gateway's process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IscsiGatewayKey {
    /// The gateway's number.
    pub number: u16,
    /// Random for each start.
    pub incarnation: u64,
}

/// Through which session of a volume a gateway serves it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct IscsiSeat {
    /// The volume.
    pub volume: VolumeId,
    /// The session.
    pub client: ClientId,
}

/// The reservations of a unit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IscsiReservation {
    /// The unit's volume.
    pub volume: VolumeId,
    /// Names this state; grows with each change.
    pub version: u64,
    /// As `curve-scsi` encodes it; empty: nothing is reserved.
    pub state: Bytes,
    /// What led here from `before`; empty when that cannot be said.
    pub change: Bytes,
    /// The version before.
    pub before: u64,
    /// What the asking gateway has confirmed.
    pub enforced: u64,
    /// Gateways that have not confirmed it. Only in listings.
    pub waiting: Vec<u16>,
}

/// A new state of a unit's reservations.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IscsiReserve {
    /// Who asks.
    pub gateway: IscsiGatewayKey,
    /// Through which session it serves the unit.
    pub seat: IscsiSeat,
    /// Random for each change, the same in all its tries.
    pub id: u64,
    /// The version that it replaces.
    pub expected: u64,
    /// The state.
    pub state: Bytes,
    /// What led to it.
    pub change: Bytes,
}

/// What a gateway has not heard yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IscsiNews {
    /// What the gateway knows once it has taken this in.
    pub revision: u64,
    /// Targets that changed.
    pub targets: Vec<IscsiTarget>,
    /// All targets there are.
    pub target_names: Vec<String>,
    /// All gateways.
    pub gateways: Vec<IscsiGateway>,
    /// Reservations that changed.
    pub reservations: Vec<IscsiReservation>,
    /// What the gateway serves as far as the cluster knows.
    pub seats: Vec<IscsiSeat>,
    /// The next poll should bring the sessions.
    pub want_sessions: bool,
    /// How long the gateway lives without another poll.
    pub lease: Duration,
}

/// Everything that the cluster knows of iSCSI, without secrets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IscsiListing {
    /// By name.
    pub targets: Vec<IscsiTarget>,
    /// By number.
    pub gateways: Vec<IscsiGateway>,
    /// By volume.
    pub reservations: Vec<IscsiReservation>,
    /// As the gateways last told.
    pub sessions: Vec<IscsiSession>,
}

fn number(value: u32, what: &'static str) -> Result<u16, BadReply> {
    u16::try_from(value).map_err(|_| BadReply(what))
}

fn each<A, B: TryFrom<A, Error = BadReply>>(list: Vec<A>) -> Result<Vec<B>, BadReply> {
    list.into_iter().map(B::try_from).collect()
}

impl TryFrom<pb::IscsiLun> for IscsiLun {
    type Error = BadReply;

    fn try_from(lun: pb::IscsiLun) -> Result<Self, BadReply> {
        Ok(Self {
            number: number(lun.number, "unit number")?,
            volume: VolumeId(lun.volume),
            path: lun.path,
            block_bytes: lun.block_bytes,
            read_only: lun.read_only,
            uuid: lun.uuid[..].try_into().map_err(|_| BadReply("unit identifier"))?,
        })
    }
}

impl From<IscsiAuth> for pb::IscsiAuth {
    fn from(auth: IscsiAuth) -> Self {
        let (secret, mutual_secret) = match auth.secrets {
            Some(secrets) => (secrets.incoming, secrets.mutual.unwrap_or_default()),
            None => (Bytes::new(), Bytes::new()),
        };
        Self { user: auth.user, secret, mutual_user: auth.mutual_user.unwrap_or_default(), mutual_secret }
    }
}

impl From<pb::IscsiAuth> for IscsiAuth {
    fn from(auth: pb::IscsiAuth) -> Self {
        let mutual_user = Some(auth.mutual_user).filter(|user| !user.is_empty());
        let mutual = mutual_user.is_some().then_some(auth.mutual_secret);
        let whole = !auth.secret.is_empty() && mutual.as_ref().is_none_or(|secret| !secret.is_empty());
        let secrets = whole.then_some(IscsiSecrets { incoming: auth.secret, mutual });
        Self { user: auth.user, mutual_user, secrets }
    }
}

impl TryFrom<pb::IscsiTarget> for IscsiTarget {
    type Error = BadReply;

    fn try_from(target: pb::IscsiTarget) -> Result<Self, BadReply> {
        let access =
            if target.any_initiator { IscsiAccess::Any } else { IscsiAccess::Listed(target.initiators) };
        Ok(Self {
            name: target.name,
            luns: each(target.luns)?,
            access,
            auth: target.auth.map(Into::into),
            created_at_ms: target.created_at_ms,
        })
    }
}

impl From<IscsiEdit> for pb::IscsiEdit {
    fn from(edit: IscsiEdit) -> Self {
        use pb::iscsi_edit::Edit;
        let edit = match edit {
            IscsiEdit::CreateTarget(name) => Edit::CreateTarget(name),
            IscsiEdit::RemoveTarget(name) => Edit::RemoveTarget(name),
            IscsiEdit::AddLun { target, number, path, block_bytes, read_only } => {
                Edit::AddLun(pb::IscsiAddLun { target, number: number.into(), path, block_bytes, read_only })
            }
            IscsiEdit::RemoveLun { target, number } => {
                Edit::RemoveLun(pb::IscsiRemoveLun { target, number: number.into() })
            }
            IscsiEdit::SetAuth { target, auth } => {
                Edit::SetAuth(pb::IscsiSetAuth { target, auth: Some(auth.into()) })
            }
            IscsiEdit::RemoveAuth(name) => Edit::RemoveAuth(name),
            IscsiEdit::AddInitiator { target, initiator } => {
                Edit::AddInitiator(pb::IscsiAcl { target, initiator })
            }
            IscsiEdit::RemoveInitiator { target, initiator } => {
                Edit::RemoveInitiator(pb::IscsiAcl { target, initiator })
            }
            IscsiEdit::RemoveGateway(name) => Edit::RemoveGateway(name),
        };
        Self { edit: Some(edit) }
    }
}

impl TryFrom<pb::IscsiGateway> for IscsiGateway {
    type Error = BadReply;

    fn try_from(gateway: pb::IscsiGateway) -> Result<Self, BadReply> {
        Ok(Self {
            number: number(gateway.number, "gateway number")?,
            name: gateway.name,
            addresses: gateway.addresses,
            host: gateway.host,
            process: gateway.process,
            stopped: gateway.stopped,
            lease_left: Duration::from_millis(gateway.lease_left_ms),
        })
    }
}

impl From<IscsiSession> for pb::IscsiSession {
    fn from(session: IscsiSession) -> Self {
        Self {
            gateway: session.gateway.into(),
            target: session.target,
            initiator: session.initiator,
            isid: session.isid.to_vec().into(),
            tsih: session.tsih.into(),
            age_ms: session.age.as_millis() as u64,
        }
    }
}

impl TryFrom<pb::IscsiSession> for IscsiSession {
    type Error = BadReply;

    fn try_from(session: pb::IscsiSession) -> Result<Self, BadReply> {
        Ok(Self {
            gateway: number(session.gateway, "gateway number")?,
            target: session.target,
            initiator: session.initiator,
            isid: session.isid[..].try_into().map_err(|_| BadReply("ISID"))?,
            tsih: number(session.tsih, "TSIH")?,
            age: Duration::from_millis(session.age_ms),
        })
    }
}

impl From<IscsiGatewayKey> for pb::IscsiGatewayKey {
    fn from(key: IscsiGatewayKey) -> Self {
        Self { number: key.number.into(), incarnation: key.incarnation }
    }
}

impl TryFrom<pb::IscsiReservation> for IscsiReservation {
    type Error = BadReply;

    fn try_from(unit: pb::IscsiReservation) -> Result<Self, BadReply> {
        let waiting = unit.waiting.into_iter().map(|gateway| number(gateway, "gateway number"));
        Ok(Self {
            volume: VolumeId(unit.volume),
            version: unit.version,
            state: unit.state,
            change: unit.change,
            before: unit.before,
            enforced: unit.enforced,
            waiting: waiting.collect::<Result<_, _>>()?,
        })
    }
}

impl TryFrom<pb::IscsiNews> for IscsiNews {
    type Error = BadReply;

    fn try_from(news: pb::IscsiNews) -> Result<Self, BadReply> {
        let seat =
            |seat: pb::IscsiSeat| IscsiSeat { volume: VolumeId(seat.volume), client: ClientId(seat.client) };
        Ok(Self {
            revision: news.revision,
            targets: each(news.targets)?,
            target_names: news.target_names,
            gateways: each(news.gateways)?,
            reservations: each(news.reservations)?,
            seats: news.seats.into_iter().map(seat).collect(),
            want_sessions: news.want_sessions,
            lease: Duration::from_millis(news.lease_ms),
        })
    }
}

impl TryFrom<pb::IscsiListing> for IscsiListing {
    type Error = BadReply;

    fn try_from(listing: pb::IscsiListing) -> Result<Self, BadReply> {
        Ok(Self {
            targets: each(listing.targets)?,
            gateways: each(listing.gateways)?,
            reservations: each(listing.reservations)?,
            sessions: each(listing.sessions)?,
        })
    }
}

impl From<IscsiReserve> for pb::IscsiReserve {
    fn from(reserve: IscsiReserve) -> Self {
        Self {
            gateway: Some(reserve.gateway.into()),
            volume: reserve.seat.volume.get(),
            client: reserve.seat.client.get(),
            id: reserve.id,
            expected: reserve.expected,
            state: reserve.state,
            change: reserve.change,
        }
    }
}

/// The gateway that a request names.
pub fn gateway_key(key: Option<pb::IscsiGatewayKey>) -> Result<IscsiGatewayKey, BadReply> {
    let key = required(key, "gateway")?;
    Ok(IscsiGatewayKey { number: number(key.number, "gateway number")?, incarnation: key.incarnation })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_never_printed() {
        let secrets =
            IscsiSecrets { incoming: "hush-hush-hush".into(), mutual: Some("other-secret-x".into()) };
        let auth =
            IscsiAuth { user: "alice".into(), mutual_user: Some("gate".into()), secrets: Some(secrets) };
        let wire = pb::IscsiAuth::from(auth.clone());
        for text in [format!("{auth:?}"), format!("{wire:?}")] {
            assert!(text.contains("alice") && !text.contains("hush") && !text.contains("other"), "{text}");
        }
        assert_eq!(IscsiAuth::from(wire), auth);
    }

    #[test]
    fn secrets_are_whole_or_absent() {
        let wire = |secret: &'static str, mutual_user: &str, mutual_secret: &'static str| pb::IscsiAuth {
            user: "u".into(),
            secret: secret.into(),
            mutual_user: mutual_user.into(),
            mutual_secret: mutual_secret.into(),
        };
        assert!(IscsiAuth::from(wire("a", "", "")).secrets.is_some());
        assert!(IscsiAuth::from(wire("", "", "")).secrets.is_none());
        assert!(IscsiAuth::from(wire("a", "m", "")).secrets.is_none());
        assert_eq!(IscsiAuth::from(wire("a", "m", "b")).mutual_user.as_deref(), Some("m"));
    }
}
