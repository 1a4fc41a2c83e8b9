//! Changes for tests of reservations.

use proptest::prelude::{Strategy, any, prop_oneof};
use proptest::{collection, sample};

use super::{Action, Change, InitiatorPort, Registrant, ReservationKind, State};

/// Nexus number `who`: three initiators, through two ports.
pub(crate) fn registrant(who: u8) -> Registrant {
    let initiator =
        InitiatorPort { name: format!("iqn.2026-11.test:{who}").into(), isid: [0x40, 0, 0, 0, 0, who] };
    Registrant { initiator, port: 1 }
}

/// Nexus `who` registers `key`, whatever it had before.
pub(crate) fn register(who: u8, key: u64, persist: bool) -> Change {
    let action = Action::Register {
        key: 0,
        service_key: key,
        ignore_key: true,
        persist,
        all_ports: vec![],
        also: vec![],
    };
    Change { by: registrant(who), action }
}

/// Nexus `who`, whose key is its number, reserves.
pub(crate) fn reserve(who: u8, kind: ReservationKind) -> Change {
    Change { by: registrant(who), action: Action::Reserve { key: u64::from(who), kind } }
}

/// The key that nexus `who` has.
pub(crate) fn key_of(state: &State, who: u8) -> Option<u64> {
    state.registrations().get(&registrant(who)).map(|registration| registration.key)
}

/// The state after changes, of which some may be refused.
pub(crate) fn run(changes: &[Change]) -> State {
    let mut state = State::default();
    for change in changes {
        // A refused change is part of the run: it must leave the state alone.
        let _ = state.apply(change);
    }
    state
}

/// Any change of a few nexuses with a few keys, so that many succeed.
pub(crate) fn any_change() -> impl Strategy<Value = Change> {
    let who = || (0u8..6).prop_map(registrant);
    let key = || 0u64..4;
    let kind = || sample::select(ReservationKind::ALL.to_vec());
    let register = (key(), key(), any::<bool>(), any::<bool>(), any::<bool>(), collection::vec(0u8..6, 0..2))
        .prop_map(|(key, service_key, ignore_key, persist, all, also)| Action::Register {
            key,
            service_key,
            ignore_key,
            persist,
            all_ports: if all { vec![1, 2] } else { vec![] },
            also: also.into_iter().map(|who| registrant(who).initiator).collect(),
        });
    let preempt = (key(), key(), kind(), any::<bool>())
        .prop_map(|(key, service_key, kind, abort)| Action::Preempt { key, service_key, kind, abort });
    let moved = (key(), key(), any::<bool>(), any::<bool>(), who()).prop_map(
        |(key, service_key, unregister, persist, to)| Action::RegisterAndMove {
            key,
            service_key,
            unregister,
            persist,
            to,
        },
    );
    let action = prop_oneof![
        4 => register,
        3 => (key(), kind()).prop_map(|(key, kind)| Action::Reserve { key, kind }),
        2 => (key(), kind()).prop_map(|(key, kind)| Action::Release { key, kind }),
        1 => key().prop_map(|key| Action::Clear { key }),
        3 => preempt,
        1 => moved,
        1 => sample::select(vec![Action::Reserve6, Action::Release6, Action::NexusLost, Action::Reset]),
    ];
    (who(), action).prop_map(|(by, action)| Change { by, action })
}
