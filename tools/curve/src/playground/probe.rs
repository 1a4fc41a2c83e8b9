//! Asks a member's `/healthz` whether it is there.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const ANSWER_BYTES_MAX: u64 = 64 << 10;
const ANSWER_TIME_MAX: Duration = Duration::from_secs(2);

/// The status code and body of `GET path` at `address`; `None` when nobody answers in time.
pub async fn get(address: &str, path: &str) -> Option<(u16, String)> {
    tokio::time::timeout(ANSWER_TIME_MAX, exchange(address, path)).await.ok()?
}

async fn exchange(address: &str, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await.ok()?;
    parse(&String::from_utf8_lossy(&answer))
}

fn parse(answer: &str) -> Option<(u16, String)> {
    let status = answer.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Some((status, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_and_body_are_found() {
        assert_eq!(parse("HTTP/1.1 503 Service Unavailable\r\nA: b\r\n\r\nno"), Some((503, "no".to_owned())));
        assert_eq!(parse("SSH-2.0"), None);
    }
}
