//! One answer for all who ask the same question at the same time.

use std::sync::atomic::{AtomicU64, Ordering};

/// Lets those who wait for the same answer share one request, which begins after each of them has asked: what it tells
/// was true at a moment within each one's operation, as if each had asked alone.
#[derive(Debug, Default)]
pub struct Together {
    asked: AtomicU64,
    /// Questions up to this number are answered.
    answered: tokio::sync::Mutex<u64>,
}

impl Together {
    /// Waits for an answer to a question asked now; `request` is run unless somebody else's covers it. An error is the one
    /// asker's own: the others ask again.
    pub async fn ask<E>(&self, request: impl Future<Output = Result<(), E>>) -> Result<(), E> {
        let own = self.asked.fetch_add(1, Ordering::Relaxed) + 1;
        let mut answered = self.answered.lock().await;
        if *answered >= own {
            return Ok(());
        }
        let all = self.asked.load(Ordering::Relaxed);
        request.await?;
        *answered = all;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_request_answers_those_who_asked_before_it_began_and_nobody_else() {
        let together = Together::default();
        let requests = AtomicU64::new(0);
        let ask = |after: u64| {
            let (together, requests) = (&together, &requests);
            async move {
                tokio::time::sleep(Duration::from_millis(after)).await;
                let request = async {
                    requests.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    Ok::<(), ()>(())
                };
                together.ask(request).await
            }
        };
        // The first begins at once; those that ask while it runs share the second; the last comes later.
        let all = [ask(0), ask(1), ask(2), ask(9), ask(30)];
        futures::future::try_join_all(all).await.unwrap();
        assert_eq!(requests.load(Ordering::Relaxed), 3);
    }

    #[tokio::test]
    async fn a_failure_answers_nobody() {
        let together = Together::default();
        assert_eq!(together.ask(async { Err(1) }).await, Err(1));
        assert_eq!(together.ask(async { Ok::<(), i32>(()) }).await, Ok(()));
    }
}
