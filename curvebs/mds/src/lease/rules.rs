//! Who may hold a volume beside whom, and who is shut out when somebody comes in. Pure.
//!
//! # Modes
//!
//! | wants \ holds | exclusive | shared | read-only |
//! |---------------|-----------|--------|-----------|
//! | **exclusive** | refused   | refused| beside    |
//! | **shared**    | refused   | beside | beside    |
//! | **read-only** | beside    | beside | beside    |
//!
//! Shared writers see each other's writes as soon as those are acknowledged; which of them writes where is theirs to
//! agree on. A reader is always beside others, so there is no "exclusive read-only".
//!
//! # Who is displaced
//!
//! - A writer (exclusive or shared) that comes in displaces **every session whose lease has run out**, whether it stands
//!   in the way or not: nobody is let in beside a writer that may wake up.
//! - `takeover` displaces whoever would refuse the opener, lapsed or not, and nobody else.
//! - An opener may name holders that it knows to be gone (a daemon started again after a crash names its predecessor);
//!   they are displaced.
//! - A reader that comes in displaces nobody (unless it names one): it harms nobody, and a writer that has merely lost
//!   touch with the MDS must not be stopped for a reader. Only when the volume has [`HOLDERS_MAX`] sessions do lapsed
//!   readers make room.
//!
//! Until one of these happens a lapsed holder goes on: an MDS outage stops no I/O.
//!
//! # Epochs
//!
//! A session is granted the volume's epoch of the moment and keeps it for life. Displacing anybody raises the volume's
//! epoch, and the opener is answered only after every copyset of the volume refuses all lower epochs **except those of
//! the sessions that go on, which the fence names** ([`kept`]). So:
//!
//! - Whoever was displaced is refused everywhere before the newcomer can do anything; clocks play no part.
//! - Live holders notice nothing: their requests keep their epoch and their numbers, what they have in flight is
//!   accepted, and a repeated request still finds its first result. They need not be told anything, so that losing all
//!   MDSs in the middle of a takeover stops none of them.
//! - Several sessions may have the same epoch; opening beside others without displacing anybody raises nothing.
//!
//! A kept session is named with its epoch: if the same client id ever came back in a new session (a copy of its open that
//! arrives late), requests of the displaced life would still be refused.
//!
//! # Rejected
//!
//! *One lowest epoch and nothing else*: live shared holders would have to fetch the new epoch before they go on. Their
//! I/O would stall in every takeover, and stop when the MDSs are lost in the middle of one; and a request repeated under
//! the new epoch could be applied a second time, over a later write, since its first result is dropped with the old
//! epoch.
//!
//! *A list of refused clients in each copyset*: it grows with every displaced client for ever, and a copyset that missed
//! one entry lets that client in. The list of those that go on is as long as there are holders, and is replaced as a
//! whole with each fence.

use curve_proto::mds::OpenMode;
use curve_types::HOLDERS_MAX;

/// A session as the rules see it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Seat {
    pub client: u64,
    pub mode: OpenMode,
    /// Its lease has run out.
    pub lapsed: bool,
}

/// What an opener asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Wanted<'a> {
    pub mode: OpenMode,
    /// Shut out whoever stands in the way.
    pub takeover: bool,
    /// Shut these out in any case.
    pub displaced: &'a [u64],
}

/// What letting the opener in does to others.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Admission {
    /// Sessions that end.
    pub displaced: Vec<u64>,
    /// Whether the epoch rises.
    pub raise: bool,
}

/// Why an opener is not let in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refused {
    /// This session stands in the way.
    By(u64),
    /// There are as many sessions as there may be.
    Full,
}

fn excludes(wanted: OpenMode, held: OpenMode) -> bool {
    let alone = wanted == OpenMode::Exclusive || held == OpenMode::Exclusive;
    wanted.writes() && held.writes() && alone
}

/// Decides on an opener. `stray` says that a former writer may have requests under way although its session has ended.
pub(crate) fn admit(wanted: Wanted<'_>, seats: &[Seat], stray: bool) -> Result<Admission, Refused> {
    let goes = |seat: &Seat| {
        wanted.displaced.contains(&seat.client)
            || wanted.mode.writes() && seat.lapsed
            || wanted.takeover && excludes(wanted.mode, seat.mode)
    };
    let (mut displaced, mut stay): (Vec<Seat>, Vec<Seat>) = seats.iter().copied().partition(goes);
    if let Some(other) = stay.iter().find(|seat| excludes(wanted.mode, seat.mode)) {
        return Err(Refused::By(other.client));
    }
    if stay.len() >= HOLDERS_MAX {
        let room;
        (room, stay) = stay.into_iter().partition(|seat| seat.lapsed && !seat.mode.writes());
        displaced.extend(room);
    }
    if stay.len() >= HOLDERS_MAX {
        return Err(Refused::Full);
    }
    let raise = !displaced.is_empty() || stray && wanted.mode.writes();
    Ok(Admission { displaced: displaced.into_iter().map(|seat| seat.client).collect(), raise })
}

/// The sessions that go on below a fence at `epoch`, out of all sessions by client and granted epoch. The epoch must be
/// read no later than the sessions, so that none displaced by a further raise is among them.
pub(crate) fn kept(sessions: impl Iterator<Item = (u64, u64)>, epoch: u64) -> Vec<(u64, u64)> {
    sessions.filter(|&(_, granted)| granted < epoch).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MODES: [OpenMode; 3] = [OpenMode::Exclusive, OpenMode::Shared, OpenMode::ReadOnly];

    fn seat(client: u64, mode: OpenMode, lapsed: bool) -> Seat {
        Seat { client, mode, lapsed }
    }

    fn wanted(mode: OpenMode) -> Wanted<'static> {
        Wanted { mode, takeover: false, displaced: &[] }
    }

    #[test]
    fn a_table_of_openers() {
        use OpenMode::{Exclusive as X, ReadOnly as R, Shared as S};
        let live = |mode| seat(1, mode, false);
        let lapsed = |mode| seat(1, mode, true);
        let beside = || Ok(Admission { displaced: vec![], raise: false });
        let instead = || Ok(Admission { displaced: vec![1], raise: true });
        let refused = || Err(Refused::By(1));
        for (mode, holder, takeover, expected) in [
            (X, live(X), false, refused()),
            (X, live(S), false, refused()),
            (X, live(R), false, beside()),
            (S, live(X), false, refused()),
            (S, live(S), false, beside()),
            (S, live(R), false, beside()),
            (R, live(X), false, beside()),
            (R, live(S), false, beside()),
            (R, live(R), false, beside()),
            (X, lapsed(X), false, instead()),
            (X, lapsed(R), false, instead()),
            (S, lapsed(S), false, instead()),
            (S, lapsed(X), false, instead()),
            (R, lapsed(X), false, beside()),
            (R, lapsed(R), false, beside()),
            (X, live(S), true, instead()),
            (S, live(X), true, instead()),
            (S, live(S), true, beside()),
            (R, live(X), true, beside()),
        ] {
            let got = admit(Wanted { takeover, ..wanted(mode) }, &[holder], false);
            assert_eq!(got, expected, "{mode:?} beside {holder:?}, takeover {takeover}");
        }
    }

    #[test]
    fn a_named_holder_goes_and_the_others_stay() {
        let seats = [seat(1, OpenMode::Shared, false), seat(2, OpenMode::Shared, false)];
        let named = Wanted { displaced: &[2, 9], ..wanted(OpenMode::Shared) };
        assert_eq!(admit(named, &seats, false), Ok(Admission { displaced: vec![2], raise: true }));
        let alone = Wanted { displaced: &[2], ..wanted(OpenMode::Exclusive) };
        assert_eq!(admit(alone, &seats, false), Err(Refused::By(1)));
    }

    #[test]
    fn a_stray_writer_is_fenced_by_the_next_writer() {
        for mode in MODES {
            let got = admit(wanted(mode), &[], true).unwrap();
            assert_eq!(got, Admission { displaced: vec![], raise: mode.writes() });
        }
    }

    #[test]
    fn a_full_volume_makes_room_of_lapsed_readers_only() {
        let reader = |client, lapsed| seat(client, OpenMode::ReadOnly, lapsed);
        let mut seats: Vec<Seat> = (0..HOLDERS_MAX as u64).map(|client| reader(client, false)).collect();
        assert_eq!(admit(wanted(OpenMode::ReadOnly), &seats, false), Err(Refused::Full));
        seats[5].lapsed = true;
        seats[6] = seat(6, OpenMode::Shared, true);
        let made = admit(wanted(OpenMode::ReadOnly), &seats, false).unwrap();
        assert_eq!(made, Admission { displaced: vec![5], raise: true });
    }

    fn mode() -> impl Strategy<Value = OpenMode> {
        prop_oneof![Just(OpenMode::Exclusive), Just(OpenMode::Shared), Just(OpenMode::ReadOnly)]
    }

    /// A volume's sessions as the state machine keeps them.
    #[derive(Default)]
    struct Model {
        epoch: u64,
        stray: bool,
        sessions: Vec<(Seat, u64)>,
        /// Sessions that were shut out, with their epochs.
        out: Vec<(u64, u64)>,
    }

    #[derive(Clone, Debug)]
    enum Step {
        Open { mode: OpenMode, takeover: bool, name: Option<usize> },
        Lapse(usize),
        Refresh(usize),
        Close { at: usize, drained: bool },
    }

    fn step() -> impl Strategy<Value = Step> {
        let open = (mode(), any::<bool>(), proptest::option::of(0usize..8));
        prop_oneof![
            4 => open.prop_map(|(mode, takeover, name)| Step::Open { mode, takeover, name }),
            2 => (0usize..8).prop_map(Step::Lapse),
            1 => (0usize..8).prop_map(Step::Refresh),
            1 => ((0usize..8), any::<bool>()).prop_map(|(at, drained)| Step::Close { at, drained }),
        ]
    }

    impl Model {
        fn open(&mut self, client: u64, mode: OpenMode, takeover: bool, name: Option<usize>) -> bool {
            let named: Vec<u64> =
                name.and_then(|at| self.sessions.get(at)).map(|(seat, _)| seat.client).into_iter().collect();
            let seats: Vec<Seat> = self.sessions.iter().map(|(seat, _)| *seat).collect();
            let wanted = Wanted { mode, takeover, displaced: &named };
            let Ok(admission) = admit(wanted, &seats, self.stray) else { return false };
            self.epoch += u64::from(admission.raise);
            self.stray &= !admission.raise;
            let goes = |client: u64| admission.displaced.contains(&client);
            let gone = self.sessions.iter().filter(|(seat, _)| goes(seat.client));
            self.out.extend(gone.map(|(seat, granted)| (seat.client, *granted)));
            self.sessions.retain(|(seat, _)| !goes(seat.client));
            self.sessions.push((seat(client, mode, false), self.epoch));
            true
        }
    }

    proptest! {
        /// Whatever happens: two live writers are both shared; who was shut out is below the epoch and not kept; who
        /// goes on is at the epoch or kept; and nobody who lapsed is beside a writer that came in later.
        #[test]
        fn the_rules_hold_after_any_steps(steps in proptest::collection::vec(step(), 1..60)) {
            let mut model = Model { epoch: 1, ..Model::default() };
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Open { mode, takeover, name } => {
                        let came = model.open(number as u64 + 1, mode, takeover, name);
                        if came && mode.writes() {
                            prop_assert!(model.sessions.iter().all(|(seat, _)| !seat.lapsed));
                            prop_assert!(!model.stray);
                        }
                    }
                    Step::Lapse(at) => {
                        if let Some((seat, _)) = model.sessions.get_mut(at) {
                            seat.lapsed = true;
                        }
                    }
                    Step::Refresh(at) => {
                        if let Some((seat, _)) = model.sessions.get_mut(at) {
                            seat.lapsed = false;
                        }
                    }
                    Step::Close { at, drained } => {
                        if at < model.sessions.len() {
                            let (seat, _) = model.sessions.remove(at);
                            model.stray |= seat.mode.writes() && !drained;
                        }
                    }
                }
                let writers: Vec<OpenMode> =
                    model.sessions.iter().map(|(seat, _)| seat.mode).filter(|mode| mode.writes()).collect();
                prop_assert!(writers.len() < 2 || writers.iter().all(|mode| *mode == OpenMode::Shared));
                let pairs = || model.sessions.iter().map(|(seat, granted)| (seat.client, *granted));
                let kept = kept(pairs(), model.epoch);
                prop_assert!(pairs().all(|pair| pair.1 == model.epoch || kept.contains(&pair)));
                prop_assert!(model.out.iter().all(|pair| pair.1 < model.epoch && !kept.contains(pair)));
            }
        }
    }
}
