//! A rate limit for background transfers.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Spreads bytes over time. Without a rate it lets everything pass.
pub(crate) struct Throttle {
    bytes_per_second: Option<u64>,
    free_at: Mutex<Instant>,
}

impl Throttle {
    pub(crate) fn new(bytes_per_second: Option<u64>) -> Self {
        Self { bytes_per_second, free_at: Mutex::new(Instant::now()) }
    }

    /// Waits until `bytes` more may pass.
    pub(crate) async fn admit(&self, bytes: usize) {
        let Some(rate) = self.bytes_per_second else { return };
        let takes = Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
        let at = {
            let mut free_at = self.free_at.lock().expect("never poisoned");
            let at = (*free_at).max(Instant::now());
            *free_at = at + takes;
            at
        };
        sleep_until(at).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bytes_pass_at_the_rate() {
        let throttle = Throttle::new(Some(1000));
        let start = Instant::now();
        for _ in 0..5 {
            throttle.admit(500).await;
        }
        assert_eq!(start.elapsed().as_millis(), 2000);
    }
}
