//! Kills, freezes, stops and restarts one member at a time, in an order that a seed decides.

use std::fmt;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::checker::{Checker, Report};
use crate::playground::Playground;
use crate::shell::ShellError;

/// What tells the time of a run, so that faults and what clients saw can be compared.
pub trait Clock {
    /// Since the run began.
    fn elapsed(&self) -> Duration;
}

impl Clock for Checker {
    fn elapsed(&self) -> Duration {
        Self::elapsed(self)
    }
}

/// What is done to a member.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fault {
    /// SIGKILL, and a restart a moment later.
    Kill,
    /// SIGSTOP for ten seconds.
    Pause,
    /// SIGTERM, and a restart a moment later.
    Stop,
}

impl std::str::FromStr for Fault {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "kill" => Ok(Self::Kill),
            "pause" => Ok(Self::Pause),
            "stop" => Ok(Self::Stop),
            _ => Err(format!("`{name}` is no fault; there are kill, pause and stop")),
        }
    }
}

/// One fault, on the checker's clock.
#[derive(Clone, Debug)]
pub struct FaultEvent {
    /// What.
    pub fault: Fault,
    /// To whom.
    pub member: String,
    /// When it was begun.
    pub began: Duration,
    /// When the member was there again, before the cluster's health was waited for.
    pub undone: Duration,
    /// When the cluster was healthy again.
    pub healed: Duration,
}

/// How faults are chosen.
#[derive(Clone, Debug)]
pub struct FaultOptions {
    /// Decides victims, faults and times.
    pub seed: u64,
    /// How long new faults are begun.
    pub duration: Duration,
    /// Quiet time after the cluster is healthy again.
    pub quiet: Duration,
    /// How long a pause lasts.
    pub pause: Duration,
    /// What may happen.
    pub faults: Vec<Fault>,
}

impl FaultOptions {
    /// All faults for `duration`.
    pub fn new(seed: u64, duration: Duration) -> Self {
        let faults = vec![Fault::Kill, Fault::Pause, Fault::Stop];
        Self { seed, duration, quiet: Duration::from_secs(2), pause: Duration::from_secs(10), faults }
    }
}

impl fmt::Display for FaultEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [began, undone, healed] = [self.began, self.undone, self.healed].map(|at| at.as_secs_f64());
        write!(
            f,
            "{began:8.3} s {:?} {}: back at {undone:.3} s, healthy at {healed:.3} s",
            self.fault, self.member
        )
    }
}

/// Breaks the cluster under a running checker until the time is over. The cluster must become healthy after each fault.
pub async fn inflict(
    playground: &Playground,
    checker: &impl Clock,
    options: &FaultOptions,
) -> Result<Vec<FaultEvent>, ShellError> {
    let mut random = StdRng::seed_from_u64(options.seed);
    let members = playground.servers().await?;
    let end = checker.elapsed() + options.duration;
    let mut events = Vec::new();
    while checker.elapsed() < end {
        let member = &members[random.random_range(0..members.len())];
        let fault = options.faults[random.random_range(0..options.faults.len())];
        let away = Duration::from_millis(random.random_range(300..3000));
        let event = inflict_one(playground, checker, fault, member, away, options.pause).await?;
        println!("{event}");
        events.push(event);
        tokio::time::sleep(options.quiet).await;
    }
    Ok(events)
}

/// One fault from its begin to the cluster's health.
pub async fn inflict_one(
    playground: &Playground,
    checker: &impl Clock,
    fault: Fault,
    member: &str,
    away: Duration,
    pause: Duration,
) -> Result<FaultEvent, ShellError> {
    let began = checker.elapsed();
    match fault {
        Fault::Kill => {
            playground.kill(member).await?;
            tokio::time::sleep(away).await;
        }
        Fault::Stop => {
            playground.stop(member).await?;
            tokio::time::sleep(away).await;
        }
        Fault::Pause => {
            playground.pause(member).await?;
            tokio::time::sleep(pause).await;
        }
    }
    match fault {
        Fault::Kill | Fault::Stop => {
            playground.verb(60, &["playground", "restart", member, "--no-wait"]).await?;
        }
        Fault::Pause => playground.resume(member).await?,
    }
    let undone = checker.elapsed();
    playground.wait_healthy(60).await?;
    Ok(FaultEvent { fault, member: member.to_owned(), began, undone, healed: checker.elapsed() })
}

/// The longest stall for each kind of fault, one line each.
pub fn summarize(events: &[FaultEvent], report: &Report) -> Vec<(Fault, usize, Duration)> {
    let mut lines = Vec::new();
    for fault in [Fault::Kill, Fault::Pause, Fault::Stop] {
        let of_kind: Vec<&FaultEvent> = events.iter().filter(|event| event.fault == fault).collect();
        let longest = of_kind.iter().map(|event| report.longest_between(event.began, event.healed)).max();
        if let Some(longest) = longest {
            lines.push((fault, of_kind.len(), longest));
        }
    }
    lines
}
