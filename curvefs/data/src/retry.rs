//! Again, or not.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use crate::error::{Again, DataError};
use crate::options::Patience;

const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// How long what somebody may be correcting is waited for.
const CORRECTION: Duration = Duration::from_secs(10);

/// Makes attempts until one succeeds or it is of no use. With `Soft` the last one is cut off in time.
pub(crate) async fn retry<T, F>(patience: Patience, mut attempt: impl FnMut() -> F) -> Result<T, DataError>
where
    F: Future<Output = Result<T, DataError>>,
{
    let begun = Instant::now();
    let mut pause = PAUSE_FIRST;
    for attempts in 1.. {
        let tried = match patience {
            Patience::Hard => attempt().await,
            Patience::Soft(time) => timeout_at(begun + time, attempt()).await.unwrap_or(Err(DataError::Slow)),
        };
        let error = match tried {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        let allowed = match (error.again(), patience) {
            (Again::Never, _) => return Err(error),
            (Again::Shortly, Patience::Hard) => Some(CORRECTION),
            (Again::Shortly, Patience::Soft(time)) => Some(time.min(CORRECTION)),
            (Again::Always, Patience::Hard) => None,
            (Again::Always, Patience::Soft(time)) => Some(time),
        };
        if allowed.is_some_and(|allowed| begun.elapsed() + pause > allowed) {
            return Err(DataError::GivenUp { attempts, last: Box::new(error) });
        }
        if attempts == 5 {
            tracing::warn!(code = error.code(), %error, "the data store does not do what it is asked; trying on");
        }
        metrics::counter!("curve_fs_store_retries_total", "code" => error.code()).increment(1);
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
    unreachable!("the loop ends with an answer")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn busy() -> DataError {
        DataError::Busy { why: "x".into() }
    }

    async fn run(
        patience: Patience,
        error: DataError,
        good_at: u32,
    ) -> (Result<u32, DataError>, u32, Duration) {
        let (count, begun) = (AtomicU32::new(0), Instant::now());
        let attempt = || {
            let now = count.fetch_add(1, Ordering::Relaxed) + 1;
            let result = if now >= good_at { Ok(now) } else { Err(error.clone()) };
            async move { result }
        };
        let result = retry(patience, attempt).await;
        (result, count.load(Ordering::Relaxed), begun.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn what_ends_is_waited_for_and_what_does_not_is_not() {
        assert_eq!(run(Patience::Hard, busy(), 100).await.0, Ok(100));
        let missing = DataError::Missing { object: "o".into() };
        assert_eq!(run(Patience::Hard, missing.clone(), 2).await, (Err(missing), 1, Duration::ZERO));
        let (given_up, _, after) = run(Patience::Soft(Duration::from_secs(3)), busy(), u32::MAX).await;
        assert!(matches!(given_up, Err(DataError::GivenUp { .. })) && after <= Duration::from_secs(3));
        let keys = DataError::Credentials { why: "x".into() };
        let (given_up, _, after) = run(Patience::Hard, keys, u32::MAX).await;
        assert!(matches!(given_up, Err(DataError::GivenUp { .. })) && after <= CORRECTION);
    }

    #[tokio::test(start_paused = true)]
    async fn a_hanging_attempt_ends_in_time() {
        let begun = Instant::now();
        let patience = Patience::Soft(Duration::from_secs(2));
        let hangs = retry(patience, std::future::pending::<Result<(), DataError>>).await;
        assert!(matches!(hangs, Err(DataError::GivenUp { last, .. }) if *last == DataError::Slow));
        assert!(begun.elapsed() <= Duration::from_secs(2));
    }
}
