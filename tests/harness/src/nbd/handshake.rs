//! From a fresh connection to the transmission phase.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::NbdError;
use super::wire;

/// What the server said about an export.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Export {
    /// Bytes.
    pub size: u64,
    /// Transmission flags.
    pub flags: u16,
    /// Smallest block in bytes; 1 when the server did not say.
    pub block_min: u32,
    /// Longest payload in bytes.
    pub block_max: u32,
    /// Whether structured replies were agreed on.
    pub structured: bool,
}

struct OptionReply {
    kind: u32,
    payload: Vec<u8>,
}

/// Agrees with the server on an export by name.
pub(super) async fn negotiate<S>(stream: &mut S, name: &str, structured: bool) -> Result<Export, NbdError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    greet(stream).await?;
    let structured = structured && ask_structured(stream).await?;
    go(stream, name, structured).await
}

async fn greet<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> Result<(), NbdError> {
    let (init, option) = (stream.read_u64().await?, stream.read_u64().await?);
    if (init, option) != (wire::INIT_MAGIC, wire::OPTION_MAGIC) {
        return Err(NbdError::Protocol(format!("greeting {init:#x} {option:#x}")));
    }
    let flags = stream.read_u16().await?;
    if flags & wire::FLAG_FIXED_NEWSTYLE == 0 {
        return Err(NbdError::Protocol("the server does not speak fixed newstyle".to_owned()));
    }
    let answer = wire::FLAG_FIXED_NEWSTYLE | (flags & wire::FLAG_NO_ZEROES);
    stream.write_u32(u32::from(answer)).await?;
    Ok(())
}

async fn ask_structured<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> Result<bool, NbdError> {
    send_option(stream, wire::OPTION_STRUCTURED_REPLY, &[]).await?;
    let reply = read_reply(stream, wire::OPTION_STRUCTURED_REPLY).await?;
    Ok(reply.kind == wire::REPLY_ACK)
}

async fn go<S>(stream: &mut S, name: &str, structured: bool) -> Result<Export, NbdError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let length = u32::try_from(name.len()).map_err(|_| NbdError::Protocol("name too long".to_owned()))?;
    let mut payload = length.to_be_bytes().to_vec();
    payload.extend(name.as_bytes());
    payload.extend(1u16.to_be_bytes());
    payload.extend(wire::INFO_BLOCK_SIZE.to_be_bytes());
    send_option(stream, wire::OPTION_GO, &payload).await?;
    let mut export =
        Export { size: 0, flags: 0, block_min: 1, block_max: wire::PAYLOAD_BYTES_MAX, structured };
    loop {
        let reply = read_reply(stream, wire::OPTION_GO).await?;
        match reply.kind {
            wire::REPLY_ACK => return Ok(export),
            wire::REPLY_INFO => note(&mut export, &reply.payload)?,
            kind => {
                let message = String::from_utf8_lossy(&reply.payload).into_owned();
                return Err(NbdError::Refused { errno: kind & !wire::REPLY_ERROR_BIT, message });
            }
        }
    }
}

fn note(export: &mut Export, payload: &[u8]) -> Result<(), NbdError> {
    let short = || NbdError::Protocol("short information reply".to_owned());
    let kind = payload.first_chunk::<2>().map(|bytes| u16::from_be_bytes(*bytes)).ok_or_else(short)?;
    let rest = &payload[2..];
    match kind {
        wire::INFO_EXPORT => {
            export.size = u64::from_be_bytes(*rest.first_chunk().ok_or_else(short)?);
            export.flags = u16::from_be_bytes(*rest[8..].first_chunk().ok_or_else(short)?);
        }
        wire::INFO_BLOCK_SIZE if rest.len() >= 12 => {
            export.block_min = u32::from_be_bytes(*rest.first_chunk().ok_or_else(short)?);
            export.block_max = u32::from_be_bytes(*rest[8..].first_chunk().ok_or_else(short)?);
        }
        _ => {}
    }
    Ok(())
}

async fn send_option<S: AsyncWrite + Unpin>(
    stream: &mut S,
    option: u32,
    payload: &[u8],
) -> Result<(), NbdError> {
    let mut bytes = wire::OPTION_MAGIC.to_be_bytes().to_vec();
    bytes.extend(option.to_be_bytes());
    bytes.extend((payload.len() as u32).to_be_bytes());
    bytes.extend(payload);
    stream.write_all(&bytes).await?;
    Ok(())
}

async fn read_reply<S: AsyncRead + Unpin>(stream: &mut S, asked: u32) -> Result<OptionReply, NbdError> {
    let magic = stream.read_u64().await?;
    let option = stream.read_u32().await?;
    let kind = stream.read_u32().await?;
    let len = stream.read_u32().await?;
    if magic != wire::OPTION_REPLY_MAGIC || option != asked || len > 64 << 10 {
        return Err(NbdError::Protocol(format!("option reply {magic:#x} to {option} of {len} bytes")));
    }
    let mut payload = vec![0; len as usize];
    stream.read_exact(&mut payload).await?;
    Ok(OptionReply { kind, payload })
}
