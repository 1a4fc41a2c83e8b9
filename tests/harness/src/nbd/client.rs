//! The transmission phase: many requests in flight on one connection.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::handshake::{self, Export};
use super::{NbdError, wire};

type Outcome = Result<Vec<u8>, NbdError>;

/// One request that waits for its reply.
struct Waiting {
    offset: u64,
    /// Where a read's bytes gather; empty for everything else.
    buffer: Vec<u8>,
    filled: usize,
    error: Option<NbdError>,
    done: oneshot::Sender<Outcome>,
}

/// Requests by cookie; `None` once the connection is gone.
type Table = Arc<Mutex<Option<HashMap<u64, Waiting>>>>;

/// One connection. Operations run concurrently; a task reads the replies until the connection or the client ends.
pub struct NbdClient {
    export: Export,
    writer: tokio::sync::Mutex<OwnedWriteHalf>,
    waiting: Table,
    cookie: AtomicU64,
    reader: JoinHandle<()>,
}

impl NbdClient {
    /// Connects to an export behind a Unix socket.
    pub async fn connect(socket: &Path, export: &str, structured: bool) -> Result<Self, NbdError> {
        let mut stream = UnixStream::connect(socket).await?;
        let export = handshake::negotiate(&mut stream, export, structured).await?;
        let (read, write) = stream.into_split();
        let waiting: Table = Arc::new(Mutex::new(Some(HashMap::new())));
        let reader =
            tokio::spawn(read_replies(BufReader::with_capacity(256 << 10, read), Arc::clone(&waiting)));
        let writer = tokio::sync::Mutex::new(write);
        Ok(Self { export, writer, waiting, cookie: AtomicU64::new(1), reader })
    }

    /// What the server said about the export.
    pub const fn export(&self) -> Export {
        self.export
    }

    /// Reads `len` bytes.
    pub async fn read(&self, offset: u64, len: u32) -> Result<Vec<u8>, NbdError> {
        self.exchange(0, wire::COMMAND_READ, offset, len, Bytes::new()).await
    }

    /// Writes; the reply means durable, since the server's writes always are.
    pub async fn write(&self, offset: u64, payload: Bytes) -> Result<(), NbdError> {
        let len = payload.len() as u32;
        self.exchange(0, wire::COMMAND_WRITE, offset, len, payload).await.map(drop)
    }

    /// Flushes.
    pub async fn flush(&self) -> Result<(), NbdError> {
        self.exchange(0, wire::COMMAND_FLUSH, 0, 0, Bytes::new()).await.map(drop)
    }

    /// Gives a range back.
    pub async fn trim(&self, offset: u64, len: u32) -> Result<(), NbdError> {
        self.exchange(0, wire::COMMAND_TRIM, offset, len, Bytes::new()).await.map(drop)
    }

    /// Makes a range read as zeros.
    pub async fn write_zeroes(&self, offset: u64, len: u32) -> Result<(), NbdError> {
        self.exchange(0, wire::COMMAND_WRITE_ZEROES, offset, len, Bytes::new()).await.map(drop)
    }

    /// Sends any request, also a wrong one.
    pub async fn exchange(&self, flags: u16, command: u16, offset: u64, len: u32, payload: Bytes) -> Outcome {
        let cookie = self.cookie.fetch_add(1, Ordering::Relaxed);
        let (done, outcome) = oneshot::channel();
        let buffer = if command == wire::COMMAND_READ { vec![0; len as usize] } else { Vec::new() };
        self.enlist(cookie, Waiting { offset, buffer, filled: 0, error: None, done })?;
        self.send(&wire::request(flags, command, cookie, offset, len), &payload).await?;
        outcome.await.unwrap_or_else(|_| Err(NbdError::Lost("the connection ended".to_owned())))
    }

    /// Says goodbye; the server answers nothing.
    pub async fn disconnect(&self) {
        let _ = self.send(&wire::request(0, wire::COMMAND_DISCONNECT, 0, 0, 0), &[]).await;
    }

    fn enlist(&self, cookie: u64, waiting: Waiting) -> Result<(), NbdError> {
        let mut table = self.waiting.lock().expect("no holder panics");
        let table = table.as_mut().ok_or_else(|| NbdError::Lost("the connection has ended".to_owned()))?;
        table.insert(cookie, waiting);
        Ok(())
    }

    async fn send(&self, header: &[u8], payload: &[u8]) -> Result<(), NbdError> {
        let mut writer = self.writer.lock().await;
        writer.write_all(header).await?;
        if !payload.is_empty() {
            writer.write_all(payload).await?;
        }
        Ok(())
    }
}

impl Drop for NbdClient {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

async fn read_replies(mut stream: BufReader<OwnedReadHalf>, table: Table) {
    let error = loop {
        if let Err(error) = read_reply(&mut stream, &table).await {
            break error;
        }
    };
    let abandoned = table.lock().expect("no holder panics").take().unwrap_or_default();
    for (_, waiting) in abandoned {
        // Nobody waits any more when the caller was cancelled.
        let _ = waiting.done.send(Err(error.clone()));
    }
}

async fn read_reply(stream: &mut BufReader<OwnedReadHalf>, table: &Table) -> Result<(), NbdError> {
    match stream.read_u32().await? {
        wire::SIMPLE_REPLY_MAGIC => read_simple(stream, table).await,
        wire::STRUCTURED_REPLY_MAGIC => read_structured(stream, table).await,
        magic => Err(NbdError::Protocol(format!("reply magic {magic:#x}"))),
    }
}

async fn read_simple(stream: &mut BufReader<OwnedReadHalf>, table: &Table) -> Result<(), NbdError> {
    let errno = stream.read_u32().await?;
    let cookie = stream.read_u64().await?;
    let mut waiting = take(table, cookie)?;
    if errno != 0 {
        waiting.error = Some(NbdError::Refused { errno, message: String::new() });
    } else {
        stream.read_exact(&mut waiting.buffer).await?;
        waiting.filled = waiting.buffer.len();
    }
    finish(waiting);
    Ok(())
}

async fn read_structured(stream: &mut BufReader<OwnedReadHalf>, table: &Table) -> Result<(), NbdError> {
    let flags = stream.read_u16().await?;
    let kind = stream.read_u16().await?;
    let cookie = stream.read_u64().await?;
    let len = stream.read_u32().await?;
    if len > wire::PAYLOAD_BYTES_MAX {
        return Err(NbdError::Protocol(format!("a reply of {len} bytes")));
    }
    let mut payload = vec![0; len as usize];
    stream.read_exact(&mut payload).await?;
    let mut waiting = take(table, cookie)?;
    absorb(&mut waiting, kind, &payload)?;
    if flags & wire::CHUNK_FLAG_DONE != 0 {
        finish(waiting);
    } else if let Some(table) = table.lock().expect("no holder panics").as_mut() {
        table.insert(cookie, waiting);
    }
    Ok(())
}

fn take(table: &Table, cookie: u64) -> Result<Waiting, NbdError> {
    let mut table = table.lock().expect("no holder panics");
    let waiting = table.as_mut().and_then(|table| table.remove(&cookie));
    waiting.ok_or_else(|| NbdError::Protocol(format!("a reply with the unknown cookie {cookie}")))
}

fn absorb(waiting: &mut Waiting, kind: u16, payload: &[u8]) -> Result<(), NbdError> {
    let short = || NbdError::Protocol(format!("short chunk of type {kind}"));
    let place = |payload: &[u8], len: usize, waiting: &Waiting| {
        let offset = u64::from_be_bytes(*payload.first_chunk().ok_or_else(short)?);
        let at = offset.checked_sub(waiting.offset).map(|at| at as usize);
        at.filter(|at| at + len <= waiting.buffer.len())
            .ok_or_else(|| NbdError::Protocol(format!("bytes for {offset} that were not asked for")))
    };
    match kind {
        wire::CHUNK_NONE => {}
        wire::CHUNK_OFFSET_DATA => {
            let bytes = payload.get(8..).ok_or_else(short)?;
            let at = place(payload, bytes.len(), waiting)?;
            waiting.buffer[at..at + bytes.len()].copy_from_slice(bytes);
            waiting.filled += bytes.len();
        }
        wire::CHUNK_OFFSET_HOLE => {
            let len = payload.get(8..).and_then(|rest| rest.first_chunk()).ok_or_else(short)?;
            let len = u32::from_be_bytes(*len) as usize;
            let at = place(payload, len, waiting)?;
            waiting.buffer[at..at + len].fill(0);
            waiting.filled += len;
        }
        wire::CHUNK_ERROR | wire::CHUNK_ERROR_OFFSET => {
            let errno = u32::from_be_bytes(*payload.first_chunk().ok_or_else(short)?);
            let len = payload.get(4..).and_then(|rest| rest.first_chunk()).ok_or_else(short)?;
            let words = payload.get(6..6 + usize::from(u16::from_be_bytes(*len))).unwrap_or_default();
            waiting.error =
                Some(NbdError::Refused { errno, message: String::from_utf8_lossy(words).into_owned() });
        }
        _ => return Err(NbdError::Protocol(format!("chunk type {kind:#x}"))),
    }
    Ok(())
}

fn finish(waiting: Waiting) {
    let outcome = match waiting.error {
        Some(error) => Err(error),
        None if waiting.filled != waiting.buffer.len() => {
            let (got, asked) = (waiting.filled, waiting.buffer.len());
            Err(NbdError::Protocol(format!("{got} of {asked} bytes in a finished read")))
        }
        None => Ok(waiting.buffer),
    };
    // Nobody waits any more when the caller was cancelled.
    let _ = waiting.done.send(outcome);
}
