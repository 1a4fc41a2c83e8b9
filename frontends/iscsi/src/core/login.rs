//! The login phase (RFC 7143 chapter 6): security, then operational negotiation, then full feature phase.

use std::sync::Arc;

use thiserror::Error;

use super::Outbox;
use super::catalog::{Catalog, NoAccess, NodeName};
use super::chap::{Challenge, Chap, ChapError, ChapKeys, Credentials};
use super::negotiate::{Negotiation, SessionKind, SessionParams};
use super::pdu::PduEncoder;
use super::reply::{LoginAnswer, Numbers, login_response};
use super::request::LoginRequest;
use super::serial::Serial;
use super::text::{TextAssembler, TextWriter, pairs};

/// PDUs of one login. More than any initiator needs, so that nobody negotiates for ever.
const ROUNDS_MAX: u32 = 32;

const SECURITY: u8 = 0;
const OPERATIONAL: u8 = 1;
const FULL_FEATURE: u8 = 3;

/// Status class and detail of a Login Response (RFC 7143 11.13.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[repr(u16)]
pub enum LoginRefusal {
    /// The initiator broke the protocol.
    #[error("the initiator broke the protocol")]
    InitiatorError = 0x0200,
    /// It did not show who it is.
    #[error("authentication failed")]
    Authentication = 0x0201,
    /// It may not use the target.
    #[error("this initiator may not use this target")]
    Forbidden = 0x0202,
    /// There is no such target.
    #[error("no such target")]
    NotFound = 0x0203,
    /// It speaks another version.
    #[error("unsupported version")]
    Version = 0x0205,
    /// A session has one connection.
    #[error("a session has one connection")]
    TooManyConnections = 0x0206,
    /// A name is missing.
    #[error("a name is missing")]
    MissingParameter = 0x0207,
    /// Neither Normal nor Discovery.
    #[error("unsupported session type")]
    SessionType = 0x0209,
    /// The session that a connection is to join is gone.
    #[error("no such session")]
    NoSession = 0x020a,
    /// Something that login does not allow.
    #[error("a request that login does not allow")]
    InvalidRequest = 0x020b,
    /// The target cannot serve now.
    #[error("the target cannot serve now")]
    Unavailable = 0x0301,
    /// Too many sessions.
    #[error("too many sessions")]
    OutOfResources = 0x0302,
}

/// Who logged in, to what, and what was agreed on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Established {
    /// What the session is for.
    pub kind: SessionKind,
    /// Who.
    pub initiator: NodeName,
    /// The initiator's part of the session id.
    pub isid: [u8; 6],
    /// The connection's id.
    pub cid: u16,
    /// Place of the target in the catalog; none in a discovery session.
    pub target: Option<usize>,
    /// What was agreed on.
    pub params: SessionParams,
    /// CmdSN of the first command.
    pub first_command: Serial,
    /// StatSN of the first answer.
    pub first_status: Serial,
}

/// What a login PDU leads to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LoginStep {
    /// Another PDU has to come.
    Continue,
    /// All is agreed. The last answer waits for [`Login::admit`] or [`Login::refuse`].
    Admit(Box<Established>),
    /// The initiator was told why not; the connection ends.
    Refused(LoginRefusal),
}

/// One login. Eats login PDUs and writes the answers.
#[derive(Debug)]
pub struct Login {
    /// One value for the whole login, so that what was found in it stays there.
    catalog: Arc<Catalog>,
    stage: Option<u8>,
    rounds: u32,
    assembler: TextAssembler,
    status: Serial,
    window: u32,
    /// Who it says it is, also if it wants what it does not get.
    initiator: Option<NodeName>,
    identity: Option<Identity>,
    auth: Auth,
    negotiation: Negotiation,
    /// The request whose answer waits.
    last: Option<(LoginRequest, TextWriter)>,
}

/// What the first text says.
#[derive(Clone, Debug)]
struct Identity {
    kind: SessionKind,
    initiator: NodeName,
    target: Option<usize>,
    isid: [u8; 6],
    cid: u16,
}

#[derive(Debug)]
enum Auth {
    /// No method is agreed on.
    Open(Challenge),
    Chap(Chap),
    /// Authenticated, or nobody asked for it.
    Done,
}

type Refuse<T> = Result<T, LoginRefusal>;

impl Login {
    /// A login whose challenge was never used. `window` is the number of commands that will be allowed at first.
    pub fn new(catalog: Arc<Catalog>, challenge: Challenge, window: u32) -> Self {
        Self {
            catalog,
            stage: None,
            rounds: 0,
            assembler: TextAssembler::default(),
            status: Serial(1),
            window,
            initiator: None,
            identity: None,
            auth: Auth::Open(challenge),
            negotiation: Negotiation::new(SessionKind::Normal),
            last: None,
        }
    }

    /// Takes a PDU.
    pub fn handle(&mut self, request: LoginRequest, out: &mut Outbox) -> LoginStep {
        match self.advance(&request) {
            Ok(None) => {
                self.answer(out, &request, TextWriter::default(), false, 0);
                LoginStep::Continue
            }
            Ok(Some((text, transit))) if transit && request.next_stage == FULL_FEATURE => {
                let established = self.established(&request);
                self.last = Some((request, text));
                LoginStep::Admit(Box::new(established))
            }
            Ok(Some((text, transit))) => {
                self.answer(out, &request, text, transit, 0);
                if transit {
                    self.stage = Some(request.next_stage);
                }
                LoginStep::Continue
            }
            Err(refusal) => self.refuse_request(&request, refusal, out),
        }
    }

    /// Sends the last answer: the session exists under this number.
    pub fn admit(&mut self, tsih: u16, out: &mut Outbox) {
        let (request, text) = self.last.take().expect("only what is to be admitted is admitted");
        self.answer(out, &request, text, true, tsih);
    }

    /// Sends the last answer: it came to nothing.
    pub fn refuse(&mut self, refusal: LoginRefusal, out: &mut Outbox) -> LoginStep {
        let (request, _) = self.last.take().expect("only what is to be admitted is refused");
        self.refuse_request(&request, refusal, out)
    }

    /// Answers a request with a refusal.
    pub fn refuse_request(
        &mut self,
        request: &LoginRequest,
        refusal: LoginRefusal,
        out: &mut Outbox,
    ) -> LoginStep {
        let answer = LoginAnswer {
            transit: false,
            current_stage: request.current_stage,
            next_stage: 0,
            tsih: request.tsih,
            status: refusal as u16,
        };
        self.push(out, request, answer, &[]);
        LoginStep::Refused(refusal)
    }

    /// Who wants to log in, as far as it has said.
    pub fn initiator(&self) -> Option<&NodeName> {
        self.initiator.as_ref()
    }

    fn answer(
        &mut self,
        out: &mut Outbox,
        request: &LoginRequest,
        text: TextWriter,
        transit: bool,
        tsih: u16,
    ) {
        let answer = LoginAnswer {
            transit,
            current_stage: request.current_stage,
            next_stage: request.next_stage,
            tsih,
            status: 0,
        };
        self.push(out, request, answer, text.as_bytes());
    }

    fn push(&mut self, out: &mut Outbox, request: &LoginRequest, answer: LoginAnswer, text: &[u8]) {
        let expected = request.number;
        let last = expected.plus(self.window).plus(u32::MAX);
        let numbers = Numbers { status: self.status, expected, last };
        self.status = self.status.next();
        PduEncoder::default().push_copied(out, &mut login_response(request, answer, numbers), text);
    }

    fn established(&self, request: &LoginRequest) -> Established {
        let identity = self.identity.clone().expect("the first text said who it is");
        Established {
            kind: identity.kind,
            initiator: identity.initiator,
            isid: identity.isid,
            cid: identity.cid,
            target: identity.target,
            params: self.negotiation.params(),
            first_command: request.number,
            first_status: self.status.next(),
        }
    }

    /// The text of the answer and whether the stage changes; `None` while the initiator's text is not complete.
    fn advance(&mut self, request: &LoginRequest) -> Refuse<Option<(TextWriter, bool)>> {
        self.check(request)?;
        let text = self.assembler.push(&request.data, request.more);
        let Some(text) = text.map_err(|_| LoginRefusal::InitiatorError)? else { return Ok(None) };
        let pairs = pairs(&text).map_err(|_| LoginRefusal::InitiatorError)?;
        let mut out = TextWriter::default();
        let catalog = self.catalog.clone();
        if self.identity.is_none() {
            self.identify(request, &pairs, &catalog, &mut out)?;
        }
        let (stage, credentials) = (request.current_stage, self.credentials(&catalog));
        if stage == OPERATIONAL && !self.is_authenticated(credentials) {
            return Err(LoginRefusal::Authentication);
        }
        let transit = if stage == SECURITY {
            self.secure(&pairs, credentials, request.transit, &mut out)?
        } else {
            self.negotiate(&pairs, &mut out)?;
            request.transit
        };
        Ok(Some((out, transit)))
    }

    /// The fields of the header.
    fn check(&mut self, request: &LoginRequest) -> Refuse<()> {
        self.rounds += 1;
        if request.version_min > 0 {
            return Err(LoginRefusal::Version);
        }
        let stage = *self.stage.get_or_insert(request.current_stage);
        let next_is_later = request.next_stage > stage && request.next_stage != 2;
        let same = self
            .identity
            .as_ref()
            .is_none_or(|identity| (identity.isid, identity.cid) == (request.isid, request.cid));
        let sound = matches!(stage, SECURITY | OPERATIONAL)
            && stage == request.current_stage
            && !(request.transit && request.more)
            && (!request.transit || next_is_later)
            && same
            && self.rounds <= ROUNDS_MAX;
        if sound { Ok(()) } else { Err(LoginRefusal::InitiatorError) }
    }

    /// Who is it, and what does it want?
    fn identify(
        &mut self,
        request: &LoginRequest,
        pairs: &[(&str, &str)],
        catalog: &Catalog,
        out: &mut TextWriter,
    ) -> Refuse<()> {
        let value = |key| pairs.iter().find(|(name, _)| *name == key).map(|(_, value)| *value);
        let kind = match value("SessionType") {
            None | Some("Normal") => SessionKind::Normal,
            Some("Discovery") => SessionKind::Discovery,
            Some(_) => return Err(LoginRefusal::SessionType),
        };
        let initiator = value("InitiatorName").ok_or(LoginRefusal::MissingParameter)?;
        let initiator = NodeName::new(initiator).ok_or(LoginRefusal::InitiatorError)?;
        self.initiator = Some(initiator.clone());
        let target = match (kind, value("TargetName")) {
            (SessionKind::Discovery, _) => None,
            (SessionKind::Normal, None) => return Err(LoginRefusal::MissingParameter),
            (SessionKind::Normal, Some(name)) => {
                let found = catalog.find(name, &initiator).map_err(|why| match why {
                    NoAccess::Unknown => LoginRefusal::NotFound,
                    NoAccess::Forbidden => LoginRefusal::Forbidden,
                })?;
                if let Some(alias) = &catalog.targets[found].alias {
                    out.pair("TargetAlias", alias);
                }
                out.pair("TargetPortalGroupTag", &catalog.group().to_string());
                Some(found)
            }
        };
        self.negotiation = Negotiation::new(kind);
        self.identity = Some(Identity { kind, initiator, target, isid: request.isid, cid: request.cid });
        Ok(())
    }

    /// What the initiator has to know, or may be asked for.
    fn credentials<'a>(&self, catalog: &'a Catalog) -> Option<&'a Credentials> {
        match self.identity.as_ref()?.target {
            Some(target) => catalog.targets[target].credentials.as_ref(),
            None => catalog.discovery.as_ref(),
        }
    }

    fn is_discovery(&self) -> bool {
        self.identity.as_ref().is_some_and(|identity| identity.kind == SessionKind::Discovery)
    }

    /// Whether the initiator may do without CHAP.
    fn is_open(&self, credentials: Option<&Credentials>) -> bool {
        credentials.is_none() || self.is_discovery()
    }

    fn is_authenticated(&self, credentials: Option<&Credentials>) -> bool {
        matches!(self.auth, Auth::Done) || self.stage == Some(OPERATIONAL) && self.is_open(credentials)
    }

    /// The security stage. Gives whether it is over.
    fn secure(
        &mut self,
        pairs: &[(&str, &str)],
        credentials: Option<&Credentials>,
        transit: bool,
        out: &mut TextWriter,
    ) -> Refuse<bool> {
        let mut keys = ChapKeys::default();
        let mut methods = None;
        for (key, value) in pairs {
            match *key {
                "AuthMethod" => methods = Some(*value),
                key if is_declared(key) || keys.take(key, value) => {}
                key if key.starts_with("CHAP_") => return Err(LoginRefusal::InitiatorError),
                key => out.pair(key, "NotUnderstood"),
            }
        }
        if let Some(methods) = methods {
            self.choose(methods, credentials, out)?;
        }
        match (&mut self.auth, credentials) {
            (Auth::Chap(chap), Some(credentials)) => {
                chap.advance(keys, credentials, out).map_err(|error| match error {
                    ChapError::Order => LoginRefusal::InitiatorError,
                    _ => LoginRefusal::Authentication,
                })?;
                if chap.is_done() {
                    self.auth = Auth::Done;
                }
            }
            // It wants to go on without having offered a method.
            (Auth::Open(_), _) if transit && methods.is_none() => {
                if !self.is_open(credentials) {
                    return Err(LoginRefusal::Authentication);
                }
                self.auth = Auth::Done;
            }
            _ => {}
        }
        Ok(transit && matches!(self.auth, Auth::Done))
    }

    /// Chooses the method: none where none is needed and the initiator can do without.
    fn choose(
        &mut self,
        methods: &str,
        credentials: Option<&Credentials>,
        out: &mut TextWriter,
    ) -> Refuse<()> {
        let Auth::Open(challenge) = self.auth else { return Err(LoginRefusal::InitiatorError) };
        let offered = |method| methods.split(',').any(|offered| offered == method);
        if self.is_open(credentials) && offered("None") {
            self.auth = Auth::Done;
            out.pair("AuthMethod", "None");
        } else if credentials.is_some() && offered("CHAP") {
            self.auth = Auth::Chap(Chap::new(challenge));
            out.pair("AuthMethod", "CHAP");
        } else {
            return Err(LoginRefusal::Authentication);
        }
        Ok(())
    }

    /// The operational stage.
    fn negotiate(&mut self, pairs: &[(&str, &str)], out: &mut TextWriter) -> Refuse<()> {
        self.negotiation.declare(out);
        for (key, value) in pairs {
            if is_declared(key) {
                continue;
            }
            if matches!(
                *key,
                "TargetAlias" | "TargetAddress" | "TargetPortalGroupTag" | "AuthMethod" | "SendTargets"
            ) {
                // Known, but not the initiator's to say, or not now.
                out.pair(key, "Reject");
                continue;
            }
            self.negotiation.offer(key, value, out).map_err(|_| LoginRefusal::InitiatorError)?;
        }
        Ok(())
    }
}

/// What an initiator says without wanting an answer.
fn is_declared(key: &str) -> bool {
    matches!(key, "InitiatorName" | "InitiatorAlias" | "TargetName" | "SessionType")
}

#[cfg(test)]
mod tests;
