//! Bodies of requests: from the network to the disk, in pieces, with their checksums compared.

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use s3s::checksum::ChecksumHasher;
use s3s::crypto::{Checksum as _, Crc32, Crc32c, Crc64Nvme, Sha1, Sha256};
use s3s::dto::{Checksum, StreamingBlob};
use s3s::{S3Result, TrailingHeaders, s3_error};
use tokio::task::JoinHandle;

use crate::error::StoreError;
use crate::service::answer;
use crate::store::{Spool, Spooled, Store};

/// Bytes that are handed to the disk at a time. Two pieces of each request are in memory.
const PIECE_BYTES: usize = 1 << 20;
/// Bytes of a refused body that are taken before it is answered.
const REFUSED_BYTES_MAX: usize = 64 << 20;
const ALGORITHMS: [&str; 5] = ["crc32", "crc32c", "crc64nvme", "sha1", "sha256"];

/// A body, and what the client says of it.
pub(crate) struct Body {
    pub stream: Option<StreamingBlob>,
    pub length: Option<i64>,
    pub md5: Option<String>,
    /// The object's tag need not be an MD5 if another checksum vouches for the bytes.
    pub any_tag: bool,
    pub headers: hyper::HeaderMap,
    pub trailers: Option<TrailingHeaders>,
}

struct Work {
    spool: Spool,
    hasher: ChecksumHasher,
}

impl Work {
    fn append(mut self, pieces: Vec<Bytes>) -> Result<Self, StoreError> {
        for piece in pieces {
            self.hasher.update(&piece);
            self.spool.append(&piece)?;
        }
        Ok(self)
    }
}

enum Disk {
    Idle(Box<Work>),
    Busy(JoinHandle<Result<Work, StoreError>>),
}

impl Disk {
    async fn idle(self) -> S3Result<Work> {
        match self {
            Self::Idle(work) => Ok(*work),
            Self::Busy(task) => joined(task).await?.map_err(answer),
        }
    }
}

/// What a task for the disk came to.
pub(crate) async fn joined<T>(task: JoinHandle<T>) -> S3Result<T> {
    task.await.map_err(|error| s3_error!(error, InternalError, "a task of the disk did not finish"))
}

/// Runs something that waits for the disk.
pub(crate) async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> S3Result<T> {
    joined(tokio::task::spawn_blocking(work)).await?.map_err(answer)
}

/// Takes a body to the disk, compares its checksums, and then does `then` with it.
pub(crate) async fn ingest<T: Send + 'static>(
    store: &Arc<Store>,
    mut body: Body,
    idle: Duration,
    then: impl FnOnce(Spooled) -> Result<T, StoreError> + Send + 'static,
) -> S3Result<T> {
    let announced = body.length.and_then(|length| u64::try_from(length).ok());
    let spool = match store.spool(announced.unwrap_or(0)) {
        Ok(spool) if body.any_tag && body.md5.is_none() && has_checksum(&body.headers) => spool.without_md5(),
        Ok(spool) => spool,
        Err(error) => {
            discard(body, idle).await;
            return Err(answer(error));
        }
    };
    let mut disk = Disk::Idle(Box::new(Work { spool, hasher: hasher(&body.headers) }));
    let (mut held, mut held_bytes, mut total) = (Vec::new(), 0, 0u64);
    if let Some(mut stream) = body.stream.take() {
        while let Some(piece) = next(&mut stream, idle).await? {
            held_bytes += piece.len();
            total += piece.len() as u64;
            held.push(piece);
            if held_bytes >= PIECE_BYTES {
                let (work, pieces) = (disk.idle().await?, mem::take(&mut held));
                held_bytes = 0;
                disk = Disk::Busy(tokio::task::spawn_blocking(move || work.append(pieces)));
            }
        }
    }
    if announced.is_some_and(|announced| announced != total) {
        return Err(s3_error!(IncompleteBody, "{total} bytes came and {announced:?} were announced"));
    }
    let work = disk.idle().await?;
    let task = tokio::task::spawn_blocking(move || {
        let Work { spool, hasher } = work.append(held).map_err(answer)?;
        let spooled = spool.finish().map_err(answer)?;
        compare(&body, &spooled, hasher.finalize())?;
        then(spooled).map_err(answer)
    });
    joined(task).await?
}

/// Takes a body that is refused: a client that is still sending when the connection ends may never hear why.
async fn discard(mut body: Body, idle: Duration) {
    let mut left = REFUSED_BYTES_MAX;
    let Some(mut stream) = body.stream.take() else { return };
    while let Ok(Some(piece)) = next(&mut stream, idle).await
        && piece.len() < left
    {
        left -= piece.len();
    }
}

async fn next(stream: &mut StreamingBlob, idle: Duration) -> S3Result<Option<Bytes>> {
    match tokio::time::timeout(idle, stream.next()).await {
        Err(_) => Err(s3_error!(RequestTimeout, "nothing came for {idle:?}")),
        Ok(None) => Ok(None),
        Ok(Some(Ok(piece))) => Ok(Some(piece)),
        Ok(Some(Err(error))) => {
            let why = error.to_string();
            // What s3s finds in a signed body reaches us as an error of the stream.
            if why.contains("ignature") || why.contains("Mismatch") {
                return Err(s3_error!(SignatureDoesNotMatch, "{why}"));
            }
            Err(s3_error!(IncompleteBody, "the body broke off: {why}"))
        }
    }
}

fn announced(headers: &hyper::HeaderMap, algorithm: &str) -> bool {
    let name = format!("x-amz-checksum-{algorithm}");
    let in_trailer = headers.get_all("x-amz-trailer").iter().filter_map(|value| value.to_str().ok());
    headers.contains_key(&name)
        || in_trailer.flat_map(|value| value.split(',')).any(|trailer| trailer.trim() == name)
}

fn has_checksum(headers: &hyper::HeaderMap) -> bool {
    ALGORITHMS.into_iter().any(|algorithm| announced(headers, algorithm))
}

fn hasher(headers: &hyper::HeaderMap) -> ChecksumHasher {
    let wanted = |algorithm| announced(headers, algorithm);
    ChecksumHasher {
        crc32: wanted("crc32").then(Crc32::new),
        crc32c: wanted("crc32c").then(Crc32c::new),
        sha1: wanted("sha1").then(Sha1::new),
        sha256: wanted("sha256").then(Sha256::new),
        crc64nvme: wanted("crc64nvme").then(Crc64Nvme::new),
    }
}

fn compare(body: &Body, spooled: &Spooled, found: Checksum) -> S3Result<()> {
    if let Some(expected) = &body.md5
        && spooled.md5().is_none_or(|md5| *expected != base64(&md5))
    {
        return Err(s3_error!(BadDigest, "the Content-MD5 is not that of the body"));
    }
    let trailers = body.trailers.as_ref().and_then(TrailingHeaders::take).unwrap_or_default();
    let found = [
        found.checksum_crc32,
        found.checksum_crc32c,
        found.checksum_crc64nvme,
        found.checksum_sha1,
        found.checksum_sha256,
    ];
    for (algorithm, found) in ALGORITHMS.into_iter().zip(found) {
        let name = format!("x-amz-checksum-{algorithm}");
        let expected = body.headers.get(&name).or_else(|| trailers.get(&name));
        let expected = expected.and_then(|value| value.to_str().ok());
        if found.is_some() && found.as_deref() != expected {
            return Err(s3_error!(BadDigest, "the {algorithm} is not that of the body"));
        }
    }
    Ok(())
}

/// RFC 4648, with padding.
pub(crate) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits =
            group.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for at in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * at) & 63) as usize];
            text.push(if at <= group.len() { digit as char } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_as_in_rfc_4648() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }
}
