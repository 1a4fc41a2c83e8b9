//! One call's tries: how long each may take, how long to wait before the next, and what a refusal means. Pure.

use std::time::Duration;

use curve_io::RpcError;
use curve_types::NodeId;
use curvefs_proto::Refusal;
use curvefs_types::FsError;

/// Limits of the waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryLimits {
    /// Longest pause after the first refusal.
    pub pause_min: Duration,
    /// Longest pause.
    pub pause_max: Duration,
    /// Time given to the first try.
    pub try_min: Duration,
    /// Longest time given to a try.
    pub try_max: Duration,
}

impl Default for RetryLimits {
    fn default() -> Self {
        Self {
            pause_min: Duration::from_millis(5),
            pause_max: Duration::from_millis(200),
            try_min: Duration::from_millis(1500),
            try_max: Duration::from_secs(10),
        }
    }
}

/// What a try came to that brought no answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Failure {
    /// No reply. Whether the other side acted is not known.
    Lost(RpcError),
    /// The metaserver gave none of its partition's answers.
    Refused(Refusal),
    /// The partition's own transient answer (`FsError::is_transient`).
    Transient(FsError),
    /// The partition is not in the map, or has no member.
    Unknown,
}

/// What to do next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Ask the same partition again, wherever its leader is believed to be now.
    Again {
        /// After a pause.
        pause: bool,
        /// Ask the MDS for the partitions meanwhile.
        refresh: bool,
    },
    /// It left no trace: look up again whose it is, after a pause and with new partitions.
    Elsewhere,
    /// Trying again is pointless.
    Fail(FsError),
}

/// How the guess of a partition's leader moves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Guess {
    /// It stays.
    Keep,
    /// This one leads; its address may be empty.
    Leader(NodeId, String),
    /// Not who was asked.
    NotThis,
}

/// The tries of one call.
///
/// A member that did not answer is left out for some tries: the others soon elect another leader, and to wait for it again would
/// be to miss that. But it may only have been slow, so it is asked again from time to time. A hint is followed at
/// once, twice; then with pauses, since during an election members may point at each other.
#[derive(Clone, Debug)]
pub struct Trail {
    limits: RetryLimits,
    pauses: u32,
    timeouts: u32,
    redirects: u32,
    failures: u32,
    silent: Option<NodeId>,
    left_out: u32,
    /// An earlier try may have been made without its answer having come.
    in_doubt: bool,
}

/// How often a member that did not answer is left out before it is asked again.
const LEFT_OUT_MAX: u32 = 6;
/// Redirects that are followed without a pause.
const REDIRECTS_MAX: u32 = 2;
/// After so many failures the MDS is asked for the members.
const REFRESH_EACH: u32 = 4;
/// How often a reply that makes no sense is asked for again: a peer of another version says it each time.
const NONSENSE_MAX: u32 = 3;

impl Trail {
    /// Of a call that was not tried yet.
    pub fn new(limits: RetryLimits) -> Self {
        Self {
            limits,
            pauses: 0,
            timeouts: 0,
            redirects: 0,
            failures: 0,
            silent: None,
            left_out: 0,
            in_doubt: false,
        }
    }

    /// Who is not to be asked in the next try.
    pub fn avoid(&mut self) -> Option<NodeId> {
        let silent = self.silent?;
        self.left_out += 1;
        if self.left_out >= LEFT_OUT_MAX {
            self.silent = None;
        }
        Some(silent)
    }

    /// Time to give the next try.
    pub fn try_for(&self) -> Duration {
        self.limits.try_min.saturating_mul(1 << self.timeouts.min(10)).min(self.limits.try_max)
    }

    /// Pause before the next try: a random part, at least half, of what doubles up to the maximum. `chance` is in 0..1.
    pub fn pause(&mut self, chance: f64) -> Duration {
        let whole = self.limits.pause_min.saturating_mul(1 << self.pauses.min(10)).min(self.limits.pause_max);
        self.pauses += 1;
        whole.mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0)
    }

    /// What a failure of `asked` means.
    pub fn failed(&mut self, asked: NodeId, failure: &Failure) -> (Guess, Next) {
        self.failures += 1;
        let refresh = self.failures.is_multiple_of(REFRESH_EACH);
        let again = |pause| Next::Again { pause, refresh };
        self.in_doubt |= leaves_doubt(failure);
        match failure {
            Failure::Unknown => (Guess::Keep, Next::Again { pause: true, refresh: true }),
            Failure::Lost(error) => self.lost(asked, error, refresh),
            Failure::Refused(Refusal::NotLeader { hint: Some(leader) })
                if self.silent != Some(leader.node) =>
            {
                self.redirects += 1;
                let follows = self.redirects <= REDIRECTS_MAX && leader.node != asked;
                (Guess::Leader(leader.node, leader.address.clone()), again(!follows))
            }
            Failure::Refused(Refusal::NotLeader { .. }) => (Guess::NotThis, again(true)),
            Failure::Refused(Refusal::NoPartition) => {
                (Guess::NotThis, Next::Again { pause: true, refresh: true })
            }
            Failure::Refused(Refusal::Unavailable { .. }) => (Guess::Keep, again(true)),
            // Of an earlier try the answer may still come: what is told as not done must not have been.
            Failure::Refused(Refusal::NoSpace) if self.in_doubt => (Guess::Keep, again(true)),
            Failure::Refused(Refusal::NoSpace) => (Guess::Keep, Next::Fail(FsError::NoSpace)),
            Failure::Refused(Refusal::Stopped) | Failure::Transient(FsError::Stopped) => {
                self.silence(asked);
                (Guess::NotThis, again(true))
            }
            Failure::Refused(Refusal::BadRequest { .. }) => (Guess::Keep, Next::Fail(FsError::Invalid)),
            Failure::Refused(Refusal::Malformed { .. }) if self.failures <= NONSENSE_MAX => {
                (Guess::NotThis, again(true))
            }
            Failure::Refused(Refusal::Malformed { .. }) => (Guess::Keep, Next::Fail(FsError::Corrupt)),
            Failure::Transient(FsError::NotHere { .. }) => (Guess::Keep, Next::Elsewhere),
            Failure::Transient(_) => (Guess::Keep, Next::Again { pause: true, refresh: false }),
        }
    }

    fn lost(&mut self, asked: NodeId, error: &RpcError, refresh: bool) -> (Guess, Next) {
        match error {
            RpcError::TooLarge { .. } => return (Guess::Keep, Next::Fail(FsError::TooBig)),
            RpcError::UnknownMethod { .. } => return (Guess::Keep, Next::Fail(FsError::NotSupported)),
            RpcError::Deadline { .. } => self.timeouts += 1,
            RpcError::Unreachable { .. } | RpcError::Broken { .. } => {}
        }
        self.silence(asked);
        (Guess::NotThis, Next::Again { pause: true, refresh })
    }

    fn silence(&mut self, node: NodeId) {
        (self.silent, self.left_out) = (Some(node), 0);
    }
}

/// Whether the other side may have acted, or may still.
fn leaves_doubt(failure: &Failure) -> bool {
    match failure {
        Failure::Lost(error) => matches!(error, RpcError::Deadline { .. } | RpcError::Broken { .. }),
        Failure::Refused(refusal) => {
            matches!(refusal, Refusal::Unavailable { .. } | Refusal::Stopped | Refusal::Malformed { .. })
        }
        Failure::Transient(_) | Failure::Unknown => false,
    }
}

#[cfg(test)]
mod tests {
    use curvefs_proto::Leader;
    use curvefs_types::PartitionId;
    use proptest::prelude::*;

    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);

    fn hint(node: NodeId) -> Failure {
        let hint = Some(Leader { node, address: "b:1".into() });
        Failure::Refused(Refusal::NotLeader { hint })
    }

    fn why() -> String {
        "x".into()
    }

    fn unreachable() -> Failure {
        Failure::Lost(RpcError::Unreachable { address: why(), cause: why() })
    }

    #[test]
    fn each_refusal_has_its_consequence() {
        let again = |pause, refresh| Next::Again { pause, refresh };
        let lost = |error| Failure::Lost(error);
        for (failure, guess, next) in [
            (Failure::Unknown, Guess::Keep, again(true, true)),
            (hint(B), Guess::Leader(B, "b:1".into()), again(false, false)),
            (Failure::Refused(Refusal::NotLeader { hint: None }), Guess::NotThis, again(true, false)),
            (Failure::Refused(Refusal::NoPartition), Guess::NotThis, again(true, true)),
            (Failure::Refused(Refusal::Unavailable { why: why() }), Guess::Keep, again(true, false)),
            (Failure::Refused(Refusal::NoSpace), Guess::Keep, Next::Fail(FsError::NoSpace)),
            (Failure::Refused(Refusal::Stopped), Guess::NotThis, again(true, false)),
            (Failure::Refused(Refusal::Malformed { why: why() }), Guess::NotThis, again(true, false)),
            (Failure::Refused(Refusal::BadRequest { why: why() }), Guess::Keep, Next::Fail(FsError::Invalid)),
            (unreachable(), Guess::NotThis, again(true, false)),
            (lost(RpcError::Deadline { address: why(), deadline_ms: 1 }), Guess::NotThis, again(true, false)),
            (lost(RpcError::TooLarge { len: 2, max: 1 }), Guess::Keep, Next::Fail(FsError::TooBig)),
            (
                lost(RpcError::UnknownMethod { address: why(), method: 1 }),
                Guess::Keep,
                Next::Fail(FsError::NotSupported),
            ),
            (Failure::Transient(FsError::Busy), Guess::Keep, again(true, false)),
            (Failure::Transient(FsError::Stopped), Guess::NotThis, again(true, false)),
            (
                Failure::Transient(FsError::NotHere { partition: PartitionId(1) }),
                Guess::Keep,
                Next::Elsewhere,
            ),
        ] {
            let mut trail = Trail::new(RetryLimits::default());
            assert_eq!(trail.failed(A, &failure), (guess, next), "{failure:?}");
        }
    }

    #[test]
    fn no_space_is_the_answer_only_of_what_was_surely_not_done() {
        let deadline = Failure::Lost(RpcError::Deadline { address: why(), deadline_ms: 1 });
        let unavailable = Failure::Refused(Refusal::Unavailable { why: why() });
        for (before, fails) in
            [(hint(B), true), (unreachable(), true), (deadline, false), (unavailable, false)]
        {
            let mut trail = Trail::new(RetryLimits::default());
            trail.failed(A, &before);
            let (_, next) = trail.failed(A, &Failure::Refused(Refusal::NoSpace));
            assert_eq!(next == Next::Fail(FsError::NoSpace), fails, "{before:?}");
            assert!(fails || matches!(next, Next::Again { pause: true, .. }), "{before:?}");
        }
    }

    #[test]
    fn hints_are_followed_at_once_but_not_for_ever() {
        let mut trail = Trail::new(RetryLimits::default());
        let pauses: Vec<_> = (0..4)
            .map(|_| match trail.failed(A, &hint(B)).1 {
                Next::Again { pause, .. } => pause,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(pauses, [false, false, true, true]);
        let mut trail = Trail::new(RetryLimits::default());
        assert!(
            matches!(trail.failed(B, &hint(B)).1, Next::Again { pause: true, .. }),
            "who points at itself is not asked again at once"
        );
    }

    #[test]
    fn who_is_silent_is_left_out_for_a_while_whatever_others_say() {
        let mut trail = Trail::new(RetryLimits::default());
        assert_eq!(trail.avoid(), None);
        trail.failed(B, &unreachable());
        assert_eq!(trail.failed(A, &hint(B)).0, Guess::NotThis, "a hint to the silent one");
        for _ in 0..LEFT_OUT_MAX {
            assert_eq!(trail.avoid(), Some(B));
        }
        assert_eq!(trail.avoid(), None);
        assert_eq!(trail.failed(A, &hint(B)).0, Guess::Leader(B, "b:1".into()));
    }

    #[test]
    fn a_peer_that_talks_nonsense_is_given_up() {
        let mut trail = Trail::new(RetryLimits::default());
        let nonsense = Failure::Refused(Refusal::Malformed { why: why() });
        let ends = (0..10).position(|_| trail.failed(A, &nonsense).1 == Next::Fail(FsError::Corrupt));
        assert_eq!(ends, Some(NONSENSE_MAX as usize));
    }

    proptest! {
        #[test]
        fn waits_grow_to_their_limits_and_the_mds_is_asked_now_and_then(chances in prop::collection::vec(0.0..1.0, 1..40)) {
            let limits = RetryLimits::default();
            let mut trail = Trail::new(limits);
            let mut refreshes = 0;
            for (at, chance) in chances.iter().enumerate() {
                let whole = limits.pause_min.saturating_mul(1 << at.min(10)).min(limits.pause_max);
                let pause = trail.pause(*chance);
                prop_assert!(pause >= whole / 2 && pause <= whole);
                let deadline = Failure::Lost(RpcError::Deadline { address: why(), deadline_ms: 1 });
                let (_, next) = trail.failed(A, &deadline);
                refreshes += u32::from(matches!(next, Next::Again { refresh: true, .. }));
                prop_assert!(trail.try_for() >= limits.try_min && trail.try_for() <= limits.try_max);
            }
            prop_assert_eq!(refreshes, trail.failures / REFRESH_EACH);
        }
    }
}
