//! The login phase of one connection.

use std::io::IoSlice;

use rand::RngCore;
use rand::TryRngCore;
use rand::rngs::OsRng;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{Admitted, SessionContext, SessionError, Wire};
use crate::catalog::Catalog;
use crate::core::{
    CHALLENGE_BYTES, COMMANDS_MAX, Challenge, Digests, Established, LOGIN_DATA_BYTES_MAX, Login,
    LoginRefusal, LoginRequest, LoginStep, Outbox, Pdu, PduDecoder, Request, SessionKind, Violation,
};
use crate::sessions::SessionKey;

const READ_BYTES: usize = 4096;

/// Runs until the initiator is let in; the last answer is in the outbox of what this gives.
pub(super) async fn run<S>(wire: &mut Wire<S>, context: &SessionContext) -> Result<Admitted, SessionError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let catalog = context.catalog.borrow().clone();
    let mut login = Login::new(catalog.login().clone(), challenge(), COMMANDS_MAX);
    let mut decoder = PduDecoder::new(Digests::default(), LOGIN_DATA_BYTES_MAX);
    let mut outbox = Outbox::default();
    loop {
        let pdu = next_pdu(wire, &mut decoder).await?;
        let Ok(Request::Login(request)) = Request::decode(pdu) else {
            return Err(Violation("something other than a login begins the connection").into());
        };
        let step = match joins(&request, context) {
            Some(refusal) => login.refuse_request(&request, refusal, &mut outbox),
            None => login.handle(request, &mut outbox),
        };
        match step {
            LoginStep::Continue => send(&mut wire.stream, &mut outbox).await?,
            LoginStep::Refused(refusal) => {
                send(&mut wire.stream, &mut outbox).await?;
                metrics::counter!("curve_iscsi_logins_total", "result" => "refused").increment(1);
                let initiator =
                    login.initiator().map_or("an unnamed initiator", |name| name.as_str()).to_owned();
                return Err(SessionError::Refused { initiator, refusal });
            }
            LoginStep::Admit(established) => {
                let registration = match session_key(&established, &catalog) {
                    Some(key) => context.sessions.begin(key).await,
                    None => context.sessions.discovery(),
                };
                login.admit(registration.tsih(), &mut outbox);
                metrics::counter!("curve_iscsi_logins_total", "result" => "admitted").increment(1);
                return Ok(Admitted { established: *established, registration, catalog, outbox });
            }
        }
    }
}

/// Why a connection cannot join the session that it names.
fn joins(request: &LoginRequest, context: &SessionContext) -> Option<LoginRefusal> {
    match request.tsih {
        0 => None,
        tsih if context.sessions.has(tsih) => Some(LoginRefusal::TooManyConnections),
        _ => Some(LoginRefusal::NoSession),
    }
}

/// The port that a normal session belongs to.
fn session_key(established: &Established, catalog: &Catalog) -> Option<SessionKey> {
    if established.kind == SessionKind::Discovery {
        return None;
    }
    let (target, _) = catalog.target(established.target?);
    Some(SessionKey {
        initiator: established.initiator.clone(),
        isid: established.isid,
        target: target.clone(),
    })
}

/// From the system: whoever could guess it could answer before it is asked.
fn challenge() -> Challenge {
    let mut bytes = [0; CHALLENGE_BYTES + 1];
    OsRng.unwrap_err().fill_bytes(&mut bytes);
    let (id, bytes) = bytes.split_first().expect("it is not empty");
    Challenge { id: *id, bytes: *bytes.first_chunk().expect("it is as long as that") }
}

async fn next_pdu<S>(wire: &mut Wire<S>, decoder: &mut PduDecoder) -> Result<Pdu, SessionError>
where
    S: AsyncRead + Unpin,
{
    loop {
        if let Some(pdu) = decoder.next(&mut wire.input)? {
            return Ok(pdu);
        }
        wire.input.reserve(READ_BYTES);
        if wire.stream.read_buf(&mut wire.input).await? == 0 {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        }
    }
}

async fn send<S>(stream: &mut S, outbox: &mut Outbox) -> Result<(), SessionError>
where
    S: AsyncWrite + Unpin,
{
    while !outbox.is_empty() {
        let mut slices = [IoSlice::new(&[]); 4];
        let filled = outbox.slices(&mut slices);
        let sent = stream.write_vectored(&slices[..filled]).await?;
        if sent == 0 {
            return Err(std::io::Error::from(std::io::ErrorKind::WriteZero).into());
        }
        outbox.advance(sent);
    }
    Ok(stream.flush().await?)
}
