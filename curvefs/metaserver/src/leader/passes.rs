//! Work that a leader looks for again and again, and does a page at a time.

use std::time::Duration;

use curve_io::BoxFuture;
use tokio::time::sleep;

use crate::replica::Replica;

/// How some work is paced, and what is said when it fails.
pub(super) struct Passes {
    /// How often it is looked.
    pub every: Duration,
    /// The longest pause after failures.
    pub pause_max: Duration,
    /// What happens to the work meanwhile.
    pub waits: &'static str,
}

impl Passes {
    /// Runs until the term is over, one pass after the other while each says that there may be more. The error is for people.
    pub async fn run<'a>(&self, replica: &Replica, pass: impl Fn() -> BoxFuture<'a, Result<bool, String>>) {
        let mut pause = self.every;
        loop {
            sleep(pause).await;
            let failed = loop {
                match pass().await {
                    Ok(true) => pause = self.every,
                    Ok(false) => break None,
                    Err(why) => break Some(why),
                }
            };
            pause = if failed.is_some() { (pause * 2).min(self.pause_max) } else { self.every };
            if let Some(why) = failed {
                tracing::warn!(partition = %replica.id(), why, again = pause.as_secs(), "{}", self.waits);
            }
        }
    }
}
