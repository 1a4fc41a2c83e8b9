//! Messages and descriptors over a Unix socket.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, Shutdown,
};
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::format::{FormatError, HEADER_BYTES, Kind, header, parse_header};

/// Descriptors that travel with a message at most.
const DESCRIPTORS_MAX: usize = 2;

/// Why the other process is not talked to any more.
#[derive(Debug, Error)]
pub enum LinkError {
    /// It is gone.
    #[error("it has ended, or hung up")]
    Closed,
    /// It takes too long.
    #[error("it did not answer within {0:?}")]
    Late(Duration),
    /// It refuses, and says why.
    #[error("it refuses: {0}")]
    Refused(String),
    /// It says what nobody expects.
    #[error("it says {said:?} and not {expected:?}")]
    Unexpected {
        /// What it says.
        said: Kind,
        /// What it should.
        expected: Kind,
    },
    /// It cannot be understood.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The system refuses.
    #[error(transparent)]
    System(io::Error),
}

impl From<io::Error> for LinkError {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
        match error.kind() {
            BrokenPipe | ConnectionReset | UnexpectedEof => Self::Closed,
            _ => Self::System(error),
        }
    }
}

/// A message.
#[derive(Debug)]
pub struct Message {
    /// What it is.
    pub kind: Kind,
    /// What it says.
    pub body: Vec<u8>,
    /// What came with it.
    pub descriptors: Vec<OwnedFd>,
}

/// The other process.
#[derive(Debug)]
pub struct Link {
    stream: UnixStream,
}

impl Link {
    /// Over a connection.
    pub fn new(stream: UnixStream) -> Self {
        Self { stream }
    }

    /// Connects.
    pub async fn connect(path: &Path) -> io::Result<Self> {
        UnixStream::connect(path).await.map(Self::new)
    }

    /// The user and the process at the other end.
    pub fn peer(&self) -> io::Result<(u32, i32)> {
        let peer = self.stream.peer_cred()?;
        Ok((peer.uid(), peer.pid().unwrap_or(0)))
    }

    /// Says something without a body.
    pub async fn say(&mut self, kind: Kind, within: Duration) -> Result<(), LinkError> {
        self.send(kind, &[], &[], within).await
    }

    /// Says why it ends here. Whoever has hung up need not know.
    pub async fn refuse(&mut self, why: &str, within: Duration) {
        if let Err(error) = self.send(Kind::Refused, why.as_bytes(), &[], within).await {
            tracing::debug!(%error, "the other process is not told: {why}");
        }
    }

    /// Sends a message, its descriptors with its first byte.
    pub async fn send(
        &mut self,
        kind: Kind,
        body: &[u8],
        descriptors: &[BorrowedFd<'_>],
        within: Duration,
    ) -> Result<(), LinkError> {
        let sent = async {
            let header = header(kind, body.len());
            let first = self
                .stream
                .async_io(Interest::WRITABLE, || send_with(&self.stream, &header, descriptors))
                .await?;
            self.stream.write_all(&header[first..]).await?;
            self.stream.write_all(body).await?;
            Ok(())
        };
        timeout(within, sent).await.unwrap_or(Err(LinkError::Late(within)))
    }

    /// Receives a message.
    pub async fn receive(&mut self, within: Duration) -> Result<Message, LinkError> {
        let received = async {
            let (mut header, mut descriptors) = ([0; HEADER_BYTES], Vec::new());
            let first = self
                .stream
                .async_io(Interest::READABLE, || receive_with(&self.stream, &mut header, &mut descriptors))
                .await?;
            if first == 0 {
                return Err(LinkError::Closed);
            }
            self.stream.read_exact(&mut header[first..]).await?;
            let (kind, length) = parse_header(&header)?;
            let mut body = Vec::new();
            let read = (&mut self.stream).take(length).read_to_end(&mut body).await?;
            if read as u64 != length {
                return Err(LinkError::Closed);
            }
            Ok(Message { kind, body, descriptors })
        };
        timeout(within, received).await.unwrap_or(Err(LinkError::Late(within)))
    }

    /// Receives what is expected, or the reason why not.
    pub async fn expect(&mut self, expected: Kind, within: Duration) -> Result<Message, LinkError> {
        let message = self.receive(within).await?;
        match message.kind {
            kind if kind == expected => Ok(message),
            Kind::Refused => Err(LinkError::Refused(String::from_utf8_lossy(&message.body).into_owned())),
            said => Err(LinkError::Unexpected { said, expected }),
        }
    }

    /// Takes nothing more in: from now on the other cannot send, and what it has sent can still be received.
    pub fn close(&self) {
        if let Err(error) = rustix::net::shutdown(&self.stream, Shutdown::Both) {
            tracing::debug!(%error, "the other process has hung up already");
        }
    }
}

fn send_with(stream: &UnixStream, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("too many descriptors for a message"));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    Ok(rustix::net::sendmsg(stream, &[IoSlice::new(bytes)], &mut ancillary, flags)?)
}

fn receive_with(stream: &UnixStream, bytes: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = rustix::net::recvmsg(stream, &mut [IoSliceMut::new(bytes)], &mut ancillary, flags)?;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::Error::other("more descriptors than expected came with a message"));
    }
    Ok(received.bytes)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    const WITHIN: Duration = Duration::from_secs(20);

    fn pair() -> (Link, Link) {
        let (one, other) = UnixStream::pair().unwrap();
        (Link::new(one), Link::new(other))
    }

    #[tokio::test]
    async fn messages_travel_with_their_descriptors() {
        let (mut one, mut other) = pair();
        let (reader, writer) = std::io::pipe().unwrap();
        let body = vec![7; 3_000_000];
        let sending = async {
            let both = [reader.as_fd(), writer.as_fd()];
            one.send(Kind::State, &body, &both, WITHIN).await.unwrap();
            one.say(Kind::Go, WITHIN).await.unwrap();
        };
        let receiving = async {
            let message = other.expect(Kind::State, WITHIN).await.unwrap();
            assert!(message.body == vec![7; 3_000_000]);
            assert_eq!(message.descriptors.len(), 2);
            rustix::io::write(&message.descriptors[1], b"x").unwrap();
            let message = other.receive(WITHIN).await.unwrap();
            assert_eq!((message.kind, message.body.len(), message.descriptors.len()), (Kind::Go, 0, 0));
        };
        tokio::join!(sending, receiving);
        let mut byte = [0];
        rustix::io::read(&reader, &mut byte).unwrap();
        assert_eq!(byte, *b"x");
    }

    #[tokio::test]
    async fn what_goes_wrong_is_told_apart() {
        let (mut one, mut other) = pair();
        let soon = Duration::from_millis(20);
        assert!(matches!(other.receive(soon).await, Err(LinkError::Late(_))));
        one.refuse("why not", WITHIN).await;
        let refused = other.expect(Kind::Terms, WITHIN).await.unwrap_err();
        assert!(matches!(&refused, LinkError::Refused(why) if why == "why not"), "{refused}");
        one.say(Kind::Taken, WITHIN).await.unwrap();
        let said = other.expect(Kind::Ready, WITHIN).await.unwrap_err();
        assert!(matches!(said, LinkError::Unexpected { said: Kind::Taken, .. }), "{said}");
        drop(one);
        assert!(matches!(other.receive(WITHIN).await, Err(LinkError::Closed)));
        assert!(matches!(other.say(Kind::Go, WITHIN).await, Err(LinkError::Closed)));

        let (one, mut other) = pair();
        let mut raw = one.stream;
        raw.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        assert!(matches!(other.receive(WITHIN).await, Err(LinkError::Format(_))));
    }

    /// What decides who serves: a message was received or cannot be sent, never neither.
    #[tokio::test]
    async fn what_was_sent_before_the_end_is_received_and_nothing_after() {
        let (mut one, mut other) = pair();
        one.say(Kind::Taken, WITHIN).await.unwrap();
        other.close();
        assert_eq!(other.receive(WITHIN).await.unwrap().kind, Kind::Taken);
        assert!(matches!(one.say(Kind::Taken, WITHIN).await, Err(LinkError::Closed)));
        assert!(matches!(other.receive(WITHIN).await, Err(LinkError::Closed)));
    }
}
