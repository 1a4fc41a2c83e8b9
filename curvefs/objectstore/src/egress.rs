//! Bodies of answers: from the disk to the network, in pieces, each verified before it is sent.

use std::convert::identity;
use std::io;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use s3s::dto::StreamingBlob;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::error::StoreError;
use crate::store::Reader;

/// Bytes that are read at a time. Two pieces of each answer are in memory.
pub(crate) const PIECE_BYTES: u64 = 1 << 20;

type Piece = Result<(Reader, Bytes), StoreError>;

fn read(mut reader: Reader, at: u64, end: u64) -> JoinHandle<Piece> {
    spawn_blocking(move || {
        let bytes = reader.read(at, PIECE_BYTES.min(end - at))?;
        Ok((reader, bytes))
    })
}

/// What is left of an answer: the piece that is being read, and where it begins.
struct Rest {
    piece: Option<JoinHandle<Piece>>,
    at: u64,
    end: u64,
}

/// A body that begins with `first`, which was read already, and goes on up to `end`.
pub(crate) fn body(reader: Reader, first: Bytes, at: u64, end: u64) -> StreamingBlob {
    let at = at + first.len() as u64;
    let first = stream::iter([Ok(first)]);
    if at >= end {
        return StreamingBlob::wrap(first.map(identity::<io::Result<Bytes>>));
    }
    let rest = Rest { piece: Some(read(reader, at, end)), at, end };
    let rest = stream::try_unfold(rest, |mut rest| async move {
        let Some(piece) = rest.piece.take() else { return Ok(None) };
        let (reader, bytes) = piece.await.map_err(io::Error::other)?.map_err(|error| {
            tracing::error!(%error, at = rest.at, "an answer breaks off");
            io::Error::other(error)
        })?;
        rest.at += bytes.len() as u64;
        rest.piece = (rest.at < rest.end && !bytes.is_empty()).then(|| read(reader, rest.at, rest.end));
        Ok(Some((bytes, rest)))
    });
    StreamingBlob::wrap(first.chain(rest.into_stream()))
}
