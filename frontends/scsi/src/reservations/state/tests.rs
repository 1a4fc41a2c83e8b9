use proptest::prelude::proptest;
use proptest::{collection, prop_assert, prop_assert_eq};

use super::testing::{any_change, key_of, register, registrant, reserve, run};
use super::*;

fn change(who: u8, action: Action) -> Change {
    Change { by: registrant(who), action }
}

fn state(changes: &[Change]) -> State {
    let mut state = State::default();
    for change in changes {
        state.apply(change).unwrap_or_else(|refused| panic!("{change:?}: {refused:?}"));
    }
    state
}

use ReservationKind::{
    ExclusiveAccess as EA, ExclusiveAccessAllRegistrants as EAAR, ExclusiveAccessRegistrantsOnly as EARO,
    WriteExclusive as WE, WriteExclusiveAllRegistrants as WEAR, WriteExclusiveRegistrantsOnly as WERO,
};

/// SPC-4 table 66 and SBC-3 table 13, spelled out: for each type, who may read and write. 1 holds the reservation, 2 is
/// registered, 3 is not.
#[test]
fn the_allow_table_is_the_standards() {
    let table = [
        (WE, [(true, true), (true, false), (true, false)]),
        (EA, [(true, true), (false, false), (false, false)]),
        (WERO, [(true, true), (true, true), (true, false)]),
        (EARO, [(true, true), (true, true), (false, false)]),
        (WEAR, [(true, true), (true, true), (true, false)]),
        (EAAR, [(true, true), (true, true), (false, false)]),
    ];
    for (kind, rows) in table {
        let state = state(&[register(1, 1, false), register(2, 2, false), reserve(1, kind)]);
        for (who, (reads, writes)) in (1..).zip(rows) {
            let who = registrant(who);
            assert_eq!(state.allows(&who, Access::Read), reads, "{kind:?} {who:?} reads");
            assert_eq!(state.allows(&who, Access::Write), writes, "{kind:?} {who:?} writes");
            assert!(state.allows(&who, Access::Always) && state.allows(&who, Access::Reservation));
        }
    }
}

#[test]
fn keys_must_match() {
    let mut state = state(&[register(1, 1, false)]);
    let wrong = [
        Action::Reserve { key: 2, kind: WE },
        Action::Release { key: 2, kind: WE },
        Action::Clear { key: 2 },
        Action::Preempt { key: 2, service_key: 1, kind: WE, abort: false },
    ];
    for action in wrong {
        assert_eq!(state.apply(&change(1, action.clone())), Err(Refused::Conflict));
        assert_eq!(state.apply(&change(2, action)), Err(Refused::Conflict));
    }
    let reregister = Action::Register {
        key: 7,
        service_key: 8,
        ignore_key: false,
        persist: false,
        all_ports: vec![],
        also: vec![],
    };
    assert_eq!(state.apply(&change(1, reregister.clone())), Err(Refused::Conflict));
    assert_eq!(state.apply(&change(2, reregister)), Err(Refused::Conflict));
    assert_eq!(state.generation(), 1);
}

#[test]
fn releasing_tells_the_registered_where_they_had_access() {
    for kind in ReservationKind::ALL {
        let mut state = state(&[register(1, 1, false), register(2, 2, false), reserve(1, kind)]);
        let other = if kind == WE { EA } else { WE };
        assert_eq!(
            state.apply(&change(1, Action::Release { key: 1, kind: other })),
            Err(Refused::InvalidRelease)
        );
        let outcome = state.apply(&change(1, Action::Release { key: 1, kind })).expect("held");
        let told = vec![(registrant(2), Attention::ReservationsReleased)];
        assert_eq!(outcome.attentions, if kind.allows_registrants() { told } else { vec![] }, "{kind:?}");
        assert_eq!(state.reservation(), None);
    }
}

#[test]
fn a_holder_that_unregisters_gives_the_reservation_up() {
    let leave = |who: u8| {
        let action = Action::Register {
            key: u64::from(who),
            service_key: 0,
            ignore_key: false,
            persist: false,
            all_ports: vec![],
            also: vec![],
        };
        change(who, action)
    };
    for kind in ReservationKind::ALL {
        let mut state = state(&[register(1, 1, false), register(2, 2, false), reserve(1, kind)]);
        let outcome = state.apply(&leave(1)).expect("registered");
        assert_eq!(state.reservation().is_some(), kind.all_registrants(), "{kind:?}");
        let told = kind.allows_registrants() && !kind.all_registrants();
        assert_eq!(outcome.attentions.len(), usize::from(told), "{kind:?}");
        state.apply(&leave(2)).expect("registered");
        assert_eq!(state.reservation(), None);
    }
}

#[test]
fn clearing_tells_everybody_else() {
    let mut state = state(&[register(1, 1, true), register(2, 2, true), reserve(1, EA)]);
    let outcome = state.apply(&change(2, Action::Clear { key: 2 })).expect("registered");
    assert_eq!(outcome.attentions, [(registrant(1), Attention::ReservationsPreempted)]);
    assert!(state.is_idle() && state.reservation().is_none());
}

#[test]
fn preempting_the_holder_takes_the_reservation() {
    let mut state = state(&[
        register(1, 1, false),
        register(2, 2, false),
        register(3, 1, false),
        register(4, 4, false),
        reserve(1, WERO),
    ]);
    let preempt = Action::Preempt { key: 2, service_key: 1, kind: EA, abort: true };
    let outcome = state.apply(&change(2, preempt)).expect("registered");
    assert_eq!(state.reservation(), Some(&Reservation { kind: EA, holder: registrant(2) }));
    assert_eq!(outcome.abort, [registrant(1), registrant(3)]);
    let lost = |who| (registrant(who), Attention::RegistrationsPreempted);
    let told = vec![lost(1), lost(3), (registrant(4), Attention::ReservationsReleased)];
    assert_eq!(outcome.attentions, told);
}

#[test]
fn preempting_another_key_leaves_the_reservation() {
    let mut state =
        state(&[register(1, 1, false), register(2, 2, false), register(3, 3, false), reserve(1, WE)]);
    let preempt = |service_key| Action::Preempt { key: 2, service_key, kind: EA, abort: false };
    assert_eq!(state.apply(&change(2, preempt(9))), Err(Refused::Conflict));
    assert_eq!(state.apply(&change(2, preempt(0))), Err(Refused::InvalidParameter));
    let outcome = state.apply(&change(2, preempt(3))).expect("registered");
    assert!(outcome.abort.is_empty());
    assert!(state.holds(&registrant(1)) && !state.registrations().contains_key(&registrant(3)));
}

#[test]
fn all_registrants_are_preempted_with_key_zero() {
    let mut state = state(&[register(1, 1, false), register(2, 2, false), reserve(1, WEAR)]);
    let preempt = Action::Preempt { key: 2, service_key: 0, kind: WEAR, abort: false };
    state.apply(&change(2, preempt)).expect("registered");
    assert!(state.holds(&registrant(2)) && !state.holds(&registrant(1)));
    assert_eq!(state.registrations().len(), 1);
}

#[test]
fn a_reservation_moves_to_another_nexus() {
    let moved = |to, service_key| Action::RegisterAndMove {
        key: 1,
        service_key,
        unregister: true,
        persist: true,
        to: registrant(to),
    };
    let mut state = state(&[register(1, 1, false)]);
    assert_eq!(state.apply(&change(1, moved(5, 9))), Err(Refused::InvalidCdb));
    state.apply(&reserve(1, EA)).expect("free");
    assert_eq!(state.apply(&change(1, moved(1, 9))), Err(Refused::InvalidParameter));
    assert_eq!(state.apply(&change(1, moved(5, 0))), Err(Refused::InvalidParameter));
    state.apply(&change(1, moved(5, 9))).expect("held");
    assert!(state.holds(&registrant(5)) && state.persists());
    assert_eq!(state.registrations().keys().collect::<Vec<_>>(), [&registrant(5)]);
}

#[test]
fn every_port_and_further_initiators_are_registered_at_once() {
    let action = Action::Register {
        key: 0,
        service_key: 7,
        ignore_key: false,
        persist: false,
        all_ports: vec![1, 2],
        also: vec![registrant(8).initiator],
    };
    let mut state = state(&[change(1, action.clone())]);
    assert_eq!(state.registrations().len(), 4);
    assert!(state.registrations().values().all(|held| held.key == 7 && held.all_ports));
    let Action::Register { also, .. } = action else { unreachable!() };
    let again = Action::Register {
        key: 7,
        service_key: 8,
        ignore_key: false,
        persist: false,
        all_ports: vec![],
        also,
    };
    assert_eq!(state.apply(&change(1, again)), Err(Refused::InvalidCdb));
}

#[test]
fn registrations_have_a_limit() {
    let mut state = State::default();
    for number in 0..REGISTRATIONS_MAX as u64 + 1 {
        let initiator = InitiatorPort { name: format!("iqn.{number}").into(), isid: [0; 6] };
        let by = Registrant { initiator, port: 1 };
        let Change { action, .. } = register(1, 1, false);
        let result = state.apply(&Change { by, action });
        assert_eq!(result.is_ok(), number < REGISTRATIONS_MAX as u64);
    }
}

#[test]
fn reserve6_excludes_others_and_persistent_reservations() {
    let mut state = state(&[change(1, Action::Reserve6), change(1, Action::Reserve6)]);
    assert!(state.blocked_by_legacy(&registrant(2)) && !state.blocked_by_legacy(&registrant(1)));
    assert_eq!(state.apply(&change(2, Action::Reserve6)), Err(Refused::Conflict));
    state.apply(&change(2, Action::Release6)).expect("no error, no effect");
    state.apply(&change(2, Action::NexusLost)).expect("no effect");
    assert!(state.blocked_by_legacy(&registrant(2)));
    state.apply(&change(1, Action::NexusLost)).expect("ends it");
    assert!(state.is_idle());
    state.apply(&change(2, Action::Reserve6)).expect("free");
    state.apply(&change(1, Action::Reset)).expect("ends it");
    state.apply(&register(1, 1, false)).expect("free");
    assert_eq!(state.apply(&change(1, Action::Reserve6)), Err(Refused::Conflict));
    assert_eq!(state.apply(&change(1, Action::Release6)), Err(Refused::Conflict));
}

/// A second implementation, as naive as can be: sets of pairs and SPC-4's sentences one by one.
#[derive(Default)]
struct Model {
    keys: Vec<(Registrant, u64)>,
    held: Option<(ReservationKind, Registrant)>,
}

impl Model {
    fn key(&self, who: &Registrant) -> Option<u64> {
        self.keys.iter().find(|(known, _)| known == who).map(|(_, key)| *key)
    }

    fn holds(&self, who: &Registrant) -> bool {
        match &self.held {
            Some((WEAR | EAAR, _)) => self.key(who).is_some(),
            Some((_, holder)) => holder == who,
            None => false,
        }
    }

    fn set(&mut self, who: &Registrant, key: u64) {
        self.keys.retain(|(known, _)| known != who);
        self.keys.push((who.clone(), key));
    }

    fn drop_registration(&mut self, who: &Registrant) {
        let held = self.holds(who);
        self.keys.retain(|(known, _)| known != who);
        let all = matches!(self.held, Some((WEAR | EAAR, _)));
        if (held && !all) || self.keys.is_empty() {
            self.held = None;
        }
    }

    fn apply(&mut self, change: &Change) -> bool {
        let by = &change.by;
        let own = self.key(by);
        match &change.action {
            Action::Register { key, service_key, ignore_key, also, all_ports, .. } => {
                if (!ignore_key && own.unwrap_or(0) != *key) || (own.is_some() && !also.is_empty()) {
                    return false;
                }
                match (own, *service_key) {
                    (None, 0) => {}
                    (Some(_), 0) => self.drop_registration(by),
                    (_, service_key) => {
                        let ports = if all_ports.is_empty() { vec![by.port] } else { all_ports.clone() };
                        for port in ports {
                            let at =
                                |initiator: &InitiatorPort| Registrant { initiator: initiator.clone(), port };
                            self.set(&at(&by.initiator), service_key);
                            for other in also {
                                if self.key(&at(other)).is_none() {
                                    self.set(&at(other), service_key);
                                }
                            }
                        }
                    }
                }
                true
            }
            Action::Reserve { key, kind } => {
                if own != Some(*key) {
                    return false;
                }
                match &self.held {
                    None => self.held = Some((*kind, by.clone())),
                    Some((held, _)) => return held == kind && self.holds(by),
                }
                true
            }
            Action::Release { key, kind } => {
                if own != Some(*key) {
                    return false;
                }
                if self.holds(by) {
                    if self.held.as_ref().is_none_or(|(held, _)| held != kind) {
                        return false;
                    }
                    self.held = None;
                }
                true
            }
            Action::Clear { key } => {
                if own == Some(*key) {
                    *self = Model::default();
                }
                own == Some(*key)
            }
            Action::Preempt { key, service_key, kind, .. } => {
                own == Some(*key) && self.preempt(by, *service_key, *kind)
            }
            _ => unreachable!("not generated for the model"),
        }
    }

    fn preempt(&mut self, by: &Registrant, service_key: u64, kind: ReservationKind) -> bool {
        let takes = match &self.held {
            Some((WEAR | EAAR, _)) => service_key == 0,
            Some((_, holder)) => service_key != 0 && self.key(holder) == Some(service_key),
            None => false,
        };
        if !takes && (service_key == 0 || self.keys.iter().all(|(_, key)| *key != service_key)) {
            return false;
        }
        self.keys.retain(|(who, key)| who == by || (service_key != 0 && *key != service_key));
        if takes {
            self.held = Some((kind, by.clone()));
        }
        true
    }
}

proptest! {
    #[test]
    fn the_state_machine_agrees_with_a_naive_model(changes in collection::vec(any_change(), 0..60)) {
        let mut state = State::default();
        let mut model = Model::default();
        for change in &changes {
            if matches!(change.action, Action::RegisterAndMove { .. } | Action::Reserve6 | Action::Release6
                | Action::NexusLost | Action::Reset) {
                continue;
            }
            let before = state.clone();
            let result = state.apply(change);
            prop_assert_eq!(result.is_ok(), model.apply(change), "{:?}", change);
            if result.is_err() {
                prop_assert_eq!(&before, &state);
            }
            for who in (0..6).map(registrant) {
                prop_assert_eq!(state.registrations().get(&who).map(|held| held.key), model.key(&who));
                prop_assert_eq!(state.holds(&who), model.holds(&who));
                let registered = model.key(&who).is_some();
                for access in [Access::Read, Access::Write] {
                    let reads = access == Access::Read;
                    let allowed = match &model.held {
                        None => true,
                        Some(_) if model.holds(&who) => true,
                        Some((WE, _)) => reads,
                        Some((EA, _)) => false,
                        Some((WERO | WEAR, _)) => registered || reads,
                        Some((EARO | EAAR, _)) => registered,
                    };
                    prop_assert_eq!(state.allows(&who, access), allowed);
                }
            }
        }
    }

    #[test]
    fn a_reservation_has_a_registered_holder(changes in collection::vec(any_change(), 0..60)) {
        let state = run(&changes);
        if let Some(reservation) = state.reservation() {
            prop_assert!(!state.registrations().is_empty());
            let holder = state.registrations().contains_key(&reservation.holder);
            prop_assert!(holder || reservation.kind.all_registrants());
        }
        prop_assert!(state.registrations().values().all(|held| held.key != 0));
        prop_assert!(key_of(&state, 1).is_none_or(|key| key != 0));
    }
}
