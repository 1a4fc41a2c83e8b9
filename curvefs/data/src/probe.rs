//! Whether a bucket can be used: by using it.

use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;
use tokio::time::{Instant, timeout};

use crate::bucket::ObjectStore;
use crate::error::DataError;

/// How long everything may take.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(10);
const PROBE_BYTES: usize = 256 << 10;
/// What is beyond this for one request of 256 KiB is no store for a file system.
const REQUEST_MAX: Duration = Duration::from_secs(3);

/// What a bucket cannot do.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ProbeError {
    /// A step failed.
    #[error("{step} in bucket {bucket} failed: {cause} ({code})", code = .cause.code())]
    Failed {
        /// The bucket.
        bucket: String,
        /// PUT, GET, ranged GET or DELETE.
        step: &'static str,
        /// Why.
        cause: DataError,
    },
    /// It answers, and something else than what was stored.
    #[error("a {step} in bucket {bucket} returns other bytes than were put (OBJECT_DAMAGED)")]
    Wrong {
        /// The bucket.
        bucket: String,
        /// Which.
        step: &'static str,
    },
    /// A deleted object is still there.
    #[error("a deleted object in bucket {bucket} can still be read (STORE_REFUSED)")]
    NotDeleted {
        /// The bucket.
        bucket: String,
    },
    /// Too slow for a file system.
    #[error("bucket {bucket} is too slow: {step} took {took:?} (STORE_SLOW)")]
    Slow {
        /// The bucket.
        bucket: String,
        /// Which step.
        step: &'static str,
        /// How long.
        took: Duration,
    },
}

/// How long the requests of a probe took.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ProbeTimes {
    /// Putting 256 KiB.
    pub put: Duration,
    /// Getting them.
    pub get: Duration,
    /// Deleting the object.
    pub delete: Duration,
}

impl ProbeError {
    /// The stable name of what is wrong.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Failed { cause, .. } => cause.code(),
            Self::Wrong { .. } => "OBJECT_DAMAGED",
            Self::NotDeleted { .. } => "STORE_REFUSED",
            Self::Slow { .. } => "STORE_SLOW",
        }
    }
}

/// Whether a bucket can be used: see [`time_bucket`].
pub async fn probe_bucket(bucket: &dyn ObjectStore, nonce: u64) -> Result<(), ProbeError> {
    time_bucket(bucket, nonce).await.map(drop)
}

/// Puts, gets and deletes an object of its own, in at most [`PROBE_TIMEOUT`]. `nonce` tells probes that run at the same time
/// apart. There are no repetitions: who asks wants to know what is wrong now.
pub async fn time_bucket(bucket: &dyn ObjectStore, nonce: u64) -> Result<ProbeTimes, ProbeError> {
    let object = format!("probe/{nonce:016x}");
    let probing = steps(bucket, &object);
    match timeout(PROBE_TIMEOUT, probing).await {
        Ok(result) => result,
        Err(_) => {
            Err(ProbeError::Slow { bucket: bucket.name().into(), step: "everything", took: PROBE_TIMEOUT })
        }
    }
}

async fn steps(bucket: &dyn ObjectStore, object: &str) -> Result<ProbeTimes, ProbeError> {
    let content = (0..PROBE_BYTES).map(|at| (at % 251) as u8).collect::<Bytes>();
    let name = || bucket.name().to_owned();
    let ((), put) = step(bucket, "PUT", bucket.put(object.into(), content.clone().into())).await?;
    let (whole, get) = step(bucket, "GET", bucket.get(object.into(), 0..PROBE_BYTES as u64)).await?;
    if whole.concat() != content {
        return Err(ProbeError::Wrong { bucket: name(), step: "GET" });
    }
    let (part, _) = step(bucket, "ranged GET", bucket.get(object.into(), 1000..2000)).await?;
    if part.concat() != content[1000..2000] {
        return Err(ProbeError::Wrong { bucket: name(), step: "ranged GET" });
    }
    let ((), delete) = step(bucket, "DELETE", bucket.delete(vec![object.into()])).await?;
    match bucket.get(object.into(), 0..1).await {
        Err(DataError::Missing { .. }) => Ok(ProbeTimes { put, get, delete }),
        Ok(_) => Err(ProbeError::NotDeleted { bucket: name() }),
        Err(cause) => Err(ProbeError::Failed { bucket: name(), step: "GET after DELETE", cause }),
    }
}

async fn step<T>(
    bucket: &dyn ObjectStore,
    step: &'static str,
    call: crate::bucket::ObjectFuture<'_, T>,
) -> Result<(T, Duration), ProbeError> {
    let begun = Instant::now();
    let done =
        call.await.map_err(|cause| ProbeError::Failed { bucket: bucket.name().into(), step, cause })?;
    let took = begun.elapsed();
    if took > REQUEST_MAX {
        return Err(ProbeError::Slow { bucket: bucket.name().into(), step, took });
    }
    Ok((done, took))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Fault, MemoryBucket};

    #[tokio::test(start_paused = true)]
    async fn a_probe_says_what_is_wrong_and_leaves_nothing() {
        let bucket = MemoryBucket::new();
        assert_eq!(probe_bucket(&bucket, 1).await, Ok(()));
        assert!(bucket.objects().is_empty());
        let error = DataError::NoBucket { bucket: "b".into() };
        bucket.inject(Fault::Fail { calls: 1, error: error.clone() });
        let failed = probe_bucket(&bucket, 1).await.unwrap_err();
        assert_eq!(failed, ProbeError::Failed { bucket: "memory".into(), step: "PUT", cause: error });
        assert!(failed.to_string().contains("BUCKET_MISSING"), "{failed}");
        bucket.inject(Fault::Delay(Duration::from_secs(4)));
        assert!(matches!(probe_bucket(&bucket, 1).await, Err(ProbeError::Slow { step: "PUT", .. })));
        bucket.inject(Fault::Delay(Duration::from_secs(60)));
        let begun = Instant::now();
        assert!(matches!(probe_bucket(&bucket, 1).await, Err(ProbeError::Slow { .. })));
        assert!(begun.elapsed() <= PROBE_TIMEOUT);
    }
}
