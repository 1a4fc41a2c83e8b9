//! A client that speaks every framing, and may break the rules.

use std::collections::HashMap;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

pub const READ: u16 = 0;
pub const WRITE: u16 = 1;
pub const DISC: u16 = 2;
pub const FLUSH: u16 = 3;
pub const TRIM: u16 = 4;
pub const CACHE: u16 = 5;
pub const WRITE_ZEROES: u16 = 6;
pub const BLOCK_STATUS: u16 = 7;

pub const FUA: u16 = 1 << 0;
pub const NO_HOLE: u16 = 1 << 1;
pub const DF: u16 = 1 << 2;
pub const REQ_ONE: u16 = 1 << 3;
pub const FAST_ZERO: u16 = 1 << 4;
pub const PAYLOAD_LEN: u16 = 1 << 5;

pub const OK: u32 = 0;
pub const EPERM: u32 = 1;
pub const EIO: u32 = 5;
pub const EINVAL: u32 = 22;
pub const ENOSPC: u32 = 28;
pub const ENOTSUP: u32 = 95;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Framing {
    Simple,
    Structured,
    Extended,
}

/// One chunk of a reply: its type and payload.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chunk {
    pub kind: u16,
    pub payload: Vec<u8>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    pub cookie: u64,
    pub error: u32,
    pub chunks: Vec<Chunk>,
}

pub struct RawClient<S> {
    pub stream: S,
    framing: Framing,
    pub size: u64,
    pub flags: u16,
    next_cookie: u64,
    /// Lengths of reads in flight; simple replies do not say them.
    reads: HashMap<u64, usize>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> RawClient<S> {
    /// Negotiates `framing` and, unless it is simple, `base:allocation`.
    pub async fn connect(stream: S, framing: Framing, export: &str) -> Self {
        let mut client = Self { stream, framing, size: 0, flags: 0, next_cookie: 1, reads: HashMap::new() };
        let mut greeting = [0; 18];
        client.stream.read_exact(&mut greeting).await.expect("a greeting");
        assert_eq!(&greeting, b"NBDMAGICIHAVEOPT\x00\x03");
        client.stream.write_all(&3u32.to_be_bytes()).await.unwrap();
        match framing {
            Framing::Simple => client.export_name(export).await,
            Framing::Structured | Framing::Extended => {
                let option = if framing == Framing::Extended { 11 } else { 8 };
                assert_eq!(client.option(option, &[]).await.last().unwrap().0, 1);
                let name = text(export);
                let query = [&name[..], &1u32.to_be_bytes(), &text("base:allocation")].concat();
                assert_eq!(client.option(10, &query).await.len(), 2);
                let infos = client.option(7, &[&name[..], &[0, 0]].concat()).await;
                let (kind, data) = &infos[0];
                assert_eq!((*kind, data.len()), (3, 12));
                client.size = u64::from_be_bytes(data[2..10].try_into().unwrap());
                client.flags = u16::from_be_bytes(data[10..].try_into().unwrap());
            }
        }
        client
    }

    async fn export_name(&mut self, export: &str) {
        self.send_option(1, export.as_bytes()).await;
        self.size = self.stream.read_u64().await.expect("the export");
        self.flags = self.stream.read_u16().await.unwrap();
    }

    async fn send_option(&mut self, option: u32, data: &[u8]) {
        let header = [&b"IHAVEOPT"[..], &option.to_be_bytes(), &(data.len() as u32).to_be_bytes()].concat();
        self.stream.write_all(&[&header, data].concat()).await.unwrap();
    }

    /// Sends an option and gives all replies to it, up to the final one.
    pub async fn option(&mut self, option: u32, data: &[u8]) -> Vec<(u32, Vec<u8>)> {
        self.send_option(option, data).await;
        let mut replies = Vec::new();
        loop {
            assert_eq!(self.stream.read_u64().await.unwrap(), 0x3e889045565a9);
            assert_eq!(self.stream.read_u32().await.unwrap(), option);
            let kind = self.stream.read_u32().await.unwrap();
            let mut data = vec![0; self.stream.read_u32().await.unwrap() as usize];
            self.stream.read_exact(&mut data).await.unwrap();
            replies.push((kind, data));
            if kind == 1 || kind & 1 << 31 != 0 {
                return replies;
            }
        }
    }

    /// The bytes of a request header.
    pub fn header(&mut self, kind: u16, flags: u16, offset: u64, len: u64) -> Vec<u8> {
        let magic = if self.framing == Framing::Extended { 0x21e41c71u32 } else { 0x25609513 };
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        let mut bytes = magic.to_be_bytes().to_vec();
        bytes.extend_from_slice(&flags.to_be_bytes());
        bytes.extend_from_slice(&kind.to_be_bytes());
        bytes.extend_from_slice(&cookie.to_be_bytes());
        bytes.extend_from_slice(&offset.to_be_bytes());
        match self.framing {
            Framing::Extended => bytes.extend_from_slice(&len.to_be_bytes()),
            _ => bytes.extend_from_slice(&(len as u32).to_be_bytes()),
        }
        if kind == READ {
            self.reads.insert(cookie, len as usize);
        }
        bytes
    }

    /// Sends a request and gives its cookie.
    pub async fn send(&mut self, kind: u16, flags: u16, offset: u64, len: u64, payload: &[u8]) -> u64 {
        let header = self.header(kind, flags, offset, len);
        self.stream.write_all(&[&header, payload].concat()).await.expect("the connection lives");
        self.next_cookie - 1
    }

    /// The next whole reply, whichever request it belongs to.
    pub async fn receive(&mut self) -> Reply {
        let mut chunks = Vec::new();
        let mut error = 0;
        loop {
            let magic = self.stream.read_u32().await.expect("a reply");
            if magic == 0x67446698 {
                return self.receive_simple().await;
            }
            let flags = self.stream.read_u16().await.unwrap();
            let kind = self.stream.read_u16().await.unwrap();
            let cookie = self.stream.read_u64().await.unwrap();
            let len = match self.framing {
                Framing::Extended => {
                    assert_eq!(magic, 0x6e8a278c);
                    self.stream.read_u64().await.unwrap();
                    self.stream.read_u64().await.unwrap()
                }
                _ => {
                    assert_eq!(magic, 0x668e33ef);
                    u64::from(self.stream.read_u32().await.unwrap())
                }
            };
            let mut payload = vec![0; len as usize];
            self.stream.read_exact(&mut payload).await.unwrap();
            if kind & 1 << 15 != 0 {
                error = u32::from_be_bytes(payload[..4].try_into().unwrap());
            } else if kind != 0 {
                chunks.push(Chunk { kind, payload });
            }
            if flags & 1 != 0 {
                return Reply { cookie, error, chunks };
            }
        }
    }

    async fn receive_simple(&mut self) -> Reply {
        assert_ne!(self.framing, Framing::Extended, "extended headers allow no simple replies");
        let error = self.stream.read_u32().await.unwrap();
        let cookie = self.stream.read_u64().await.unwrap();
        let len =
            self.reads.remove(&cookie).filter(|_| error == 0 && self.framing == Framing::Simple).unwrap_or(0);
        let mut payload = vec![0; len];
        self.stream.read_exact(&mut payload).await.unwrap();
        let chunks = if len > 0 { vec![Chunk { kind: 1, payload }] } else { Vec::new() };
        Reply { cookie, error, chunks }
    }

    /// Sends one request and gives the reply to it.
    pub async fn ask(&mut self, kind: u16, flags: u16, offset: u64, len: u64) -> Reply {
        let cookie = self.send(kind, flags, offset, len, &[]).await;
        let reply = self.receive().await;
        assert_eq!(reply.cookie, cookie);
        reply
    }

    /// Writes and gives the error.
    pub async fn write(&mut self, offset: u64, data: &[u8]) -> u32 {
        let flags = if self.framing == Framing::Extended { PAYLOAD_LEN } else { 0 };
        let cookie = self.send(WRITE, flags, offset, data.len() as u64, data).await;
        let reply = self.receive().await;
        assert_eq!(reply.cookie, cookie);
        reply.error
    }

    /// Reads, putting data and holes together.
    pub async fn read(&mut self, offset: u64, len: usize) -> Vec<u8> {
        let reply = self.ask(READ, 0, offset, len as u64).await;
        assert_eq!(reply.error, OK);
        if self.framing == Framing::Simple {
            return reply.chunks[0].payload.clone();
        }
        let mut all = Vec::new();
        for chunk in reply.chunks {
            let at = u64::from_be_bytes(chunk.payload[..8].try_into().unwrap());
            assert_eq!(at, offset + all.len() as u64, "our server sends chunks in order");
            match chunk.kind {
                1 => all.extend_from_slice(&chunk.payload[8..]),
                2 => all.resize(
                    all.len() + u32::from_be_bytes(chunk.payload[8..].try_into().unwrap()) as usize,
                    0,
                ),
                kind => panic!("chunk of type {kind}"),
            }
        }
        assert_eq!(all.len(), len);
        all
    }

    /// Whether the server has closed the connection.
    pub async fn is_closed(&mut self) -> bool {
        !matches!(self.stream.read(&mut [0]).await, Ok(1))
    }
}

/// A string with its length.
pub fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u32).to_be_bytes(), text.as_bytes()].concat()
}
