//! Sockets of every kind behind one type: TCP, TCP with TLS, Unix.

use std::io::{self, IoSlice};
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::{TlsConnector, TlsStream};

use crate::tls::Tls;

/// Where a server listens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Address {
    /// `host:port`.
    Tcp(String),
    /// `unix:/path`.
    Unix(PathBuf),
}

impl Address {
    /// Understands `host:port` and `unix:/path`.
    pub(crate) fn parse(text: &str) -> io::Result<Self> {
        let invalid = || {
            let message = format!("`{text}` is not an address; write `host:port` or `unix:/path`");
            io::Error::new(io::ErrorKind::InvalidInput, message)
        };
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() { Err(invalid()) } else { Ok(Self::Unix(PathBuf::from(path))) };
        }
        match text.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
                Ok(Self::Tcp(text.to_owned()))
            }
            _ => Err(invalid()),
        }
    }
}

/// A connected socket.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// Connects, and does the TLS handshake where `tls` is given and the address is TCP.
    pub(crate) async fn connect(address: &str, tls: Option<&Tls>) -> io::Result<Self> {
        match (Address::parse(address)?, tls) {
            (Address::Unix(path), _) => Ok(Self::Unix(UnixStream::connect(path).await?)),
            (Address::Tcp(host_port), None) => Ok(Self::Tcp(connect_tcp(&host_port).await?)),
            (Address::Tcp(host_port), Some(tls)) => {
                let host = host_port.rsplit_once(':').map_or(host_port.as_str(), |(host, _)| host);
                let name = tls.name_for(host)?;
                let socket = connect_tcp(&host_port).await?;
                let stream = TlsConnector::from(tls.client_config())
                    .connect(name, socket)
                    .await
                    .map_err(|e| io::Error::new(e.kind(), format!("TLS handshake failed: {e}")))?;
                Ok(Self::Tls(Box::new(TlsStream::Client(stream))))
            }
        }
    }
}

async fn connect_tcp(host_port: &str) -> io::Result<TcpStream> {
    let socket = TcpStream::connect(host_port).await?;
    socket.set_nodelay(true)?;
    Ok(socket)
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::Unix(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::Tls(socket) => Pin::new(socket.as_mut()).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_write_vectored(cx, slices),
            Self::Unix(socket) => Pin::new(socket).poll_write_vectored(cx, slices),
            Self::Tls(socket) => Pin::new(socket.as_mut()).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(_) | Self::Unix(_) => Poll::Ready(Ok(())),
            Self::Tls(socket) => Pin::new(socket.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Unix(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Tls(socket) => Pin::new(socket.as_mut()).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_understood_or_explained() {
        assert_eq!(Address::parse("h:80").unwrap(), Address::Tcp("h:80".to_owned()));
        assert_eq!(Address::parse("[::1]:80").unwrap(), Address::Tcp("[::1]:80".to_owned()));
        assert_eq!(Address::parse("unix:/run/x").unwrap(), Address::Unix(PathBuf::from("/run/x")));
        for bad in ["", "host", ":80", "host:port", "unix:"] {
            assert!(Address::parse(bad).unwrap_err().to_string().contains("host:port"), "{bad}");
        }
    }
}
