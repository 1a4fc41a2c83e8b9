//! PERSISTENT RESERVE IN and OUT as bytes (SPC-4 6.15, 6.16).

use bytes::{Buf, Bytes};

use super::state::{Action, Registrant, ReservationKind, State};
use crate::cdb::{ReserveIn, ReserveOut};
use crate::nexus::InitiatorPort;
use crate::sense::{AdditionalSense, Sense};

/// The parameter list of every service action but REGISTER AND MOVE, without TransportIDs.
const BASIC_BYTES: usize = 24;
/// TransportIDs that one SPEC_I_PT may name.
const SPEC_I_PT_MAX: usize = 64;

const PARAMETER_LIST_LENGTH: Sense = Sense::illegal(AdditionalSense::PARAMETER_LIST_LENGTH_ERROR);

/// Parameter data of PERSISTENT RESERVE IN, before they are cut to the allocation length.
pub(crate) fn reserve_in(action: ReserveIn, state: &State) -> Bytes {
    match action {
        ReserveIn::ReadKeys => {
            let keys = state.registrations().values();
            with_header(state, keys.flat_map(|registration| registration.key.to_be_bytes()).collect())
        }
        ReserveIn::ReadReservation => with_header(state, read_reservation(state)),
        ReserveIn::ReportCapabilities => capabilities(state),
        ReserveIn::ReadFullStatus => with_header(state, full_status(state)),
    }
}

fn with_header(state: &State, rest: Vec<u8>) -> Bytes {
    let mut out = state.generation().to_be_bytes().to_vec();
    out.extend_from_slice(&(rest.len() as u32).to_be_bytes());
    out.extend_from_slice(&rest);
    Bytes::from(out)
}

fn read_reservation(state: &State) -> Vec<u8> {
    let Some(reservation) = state.reservation() else { return Vec::new() };
    let holder = state.registrations().get(&reservation.holder);
    // An all registrants reservation has no key of its own (SPC-4 6.15.3.2).
    let key = if reservation.kind.all_registrants() { 0 } else { holder.map_or(0, |held| held.key) };
    let mut out = key.to_be_bytes().to_vec();
    out.extend_from_slice(&[0, 0, 0, 0, 0, reservation.kind as u8, 0, 0]);
    out
}

/// SIP_C, ATP_C and PTPL_C; TMV and whether reservations persist now; then a bit for each type.
fn capabilities(state: &State) -> Bytes {
    let persists = u8::from(state.persists());
    Bytes::copy_from_slice(&[0, 8, 0x0d, 0x80 | persists, 0xea, 0x01, 0, 0])
}

fn full_status(state: &State) -> Vec<u8> {
    let mut out = Vec::new();
    for (registrant, registration) in state.registrations() {
        let holds = state.holds(registrant);
        let kind = state.reservation().filter(|_| holds).map_or(0, |reservation| reservation.kind as u8);
        let id = registrant.initiator.transport_id();
        out.extend_from_slice(&registration.key.to_be_bytes());
        let flags = u8::from(registration.all_ports) << 1 | u8::from(holds);
        out.extend_from_slice(&[0, 0, 0, 0, flags, kind, 0, 0, 0, 0]);
        out.extend_from_slice(&registrant.port.to_be_bytes());
        out.extend_from_slice(&(id.len() as u32).to_be_bytes());
        out.extend_from_slice(&id);
    }
    out
}

/// What PERSISTENT RESERVE OUT carries beside its service action.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ReserveOutCdb {
    pub(crate) action: ReserveOut,
    pub(crate) scope: u8,
    pub(crate) kind: u8,
    pub(crate) parameter_len: u32,
}

/// Reads the parameter list of PERSISTENT RESERVE OUT. `ports` are all the ports of the target.
pub(crate) fn reserve_out(cdb: ReserveOutCdb, list: &[u8], ports: &[u16]) -> Result<Action, Sense> {
    if list.len() != cdb.parameter_len as usize || list.len() < BASIC_BYTES {
        return Err(PARAMETER_LIST_LENGTH);
    }
    if cdb.action == ReserveOut::RegisterAndMove {
        return register_and_move(list);
    }
    let (key, service_key) = keys(list);
    let flags = list[20];
    let also = initiator_ports(cdb.action, list, flags & 0x08 != 0)?;
    Ok(match cdb.action {
        ReserveOut::Register | ReserveOut::RegisterAndIgnore => Action::Register {
            key,
            service_key,
            ignore_key: cdb.action == ReserveOut::RegisterAndIgnore,
            persist: flags & 0x01 != 0,
            all_ports: if flags & 0x04 != 0 { ports.to_vec() } else { Vec::new() },
            also,
        },
        ReserveOut::Reserve => Action::Reserve { key, kind: cdb.kind()? },
        ReserveOut::Release => Action::Release { key, kind: cdb.kind()? },
        ReserveOut::Clear => Action::Clear { key },
        ReserveOut::Preempt => Action::Preempt { key, service_key, kind: cdb.kind()?, abort: false },
        ReserveOut::PreemptAndAbort => Action::Preempt { key, service_key, kind: cdb.kind()?, abort: true },
        ReserveOut::RegisterAndMove => unreachable!("it has a parameter list of its own"),
    })
}

impl ReserveOutCdb {
    /// Scope and type of the actions that have one.
    fn kind(&self) -> Result<ReservationKind, Sense> {
        if self.scope != 0 {
            return Err(Sense::invalid_bit(2, 7));
        }
        ReservationKind::from_code(self.kind).ok_or(Sense::invalid_bit(2, 3))
    }
}

/// RESERVATION KEY and SERVICE ACTION RESERVATION KEY.
fn keys(mut list: &[u8]) -> (u64, u64) {
    (list.get_u64(), list.get_u64())
}

/// The TransportIDs of SPEC_I_PT, which only REGISTER may have.
fn initiator_ports(action: ReserveOut, list: &[u8], named: bool) -> Result<Vec<InitiatorPort>, Sense> {
    if !named {
        return if list.len() == BASIC_BYTES { Ok(Vec::new()) } else { Err(PARAMETER_LIST_LENGTH) };
    }
    if action != ReserveOut::Register {
        return Err(Sense::invalid_parameter(20));
    }
    let (len, mut ids) = list[BASIC_BYTES..].split_first_chunk::<4>().ok_or(PARAMETER_LIST_LENGTH)?;
    if ids.len() != u32::from_be_bytes(*len) as usize {
        return Err(PARAMETER_LIST_LENGTH);
    }
    let mut ports = Vec::new();
    while !ids.is_empty() {
        let at = (list.len() - ids.len()) as u16;
        let (port, len) = InitiatorPort::from_transport_id(ids).ok_or(Sense::invalid_parameter(at))?;
        if ports.len() == SPEC_I_PT_MAX {
            return Err(Sense::illegal(AdditionalSense::INSUFFICIENT_REGISTRATION_RESOURCES));
        }
        ports.push(port);
        ids = &ids[len..];
    }
    Ok(ports)
}

fn register_and_move(list: &[u8]) -> Result<Action, Sense> {
    let (key, service_key) = keys(list);
    let flags = list[17];
    let port = u16::from_be_bytes([list[18], list[19]]);
    let len = u32::from_be_bytes([list[20], list[21], list[22], list[23]]) as usize;
    let id = &list[BASIC_BYTES..];
    if id.len() != len {
        return Err(PARAMETER_LIST_LENGTH);
    }
    let (initiator, _) = InitiatorPort::from_transport_id(id)
        .filter(|(_, used)| *used == len)
        .ok_or(Sense::invalid_parameter(24))?;
    Ok(Action::RegisterAndMove {
        key,
        service_key,
        unregister: flags & 0x02 != 0,
        persist: flags & 0x01 != 0,
        to: Registrant { initiator, port },
    })
}

#[cfg(test)]
mod tests {
    use proptest::collection;
    use proptest::prelude::{any, proptest};

    use super::super::state::Change;
    use super::super::state::testing::{register, registrant};
    use super::*;

    fn list(key: u64, service_key: u64, flags: u8) -> Vec<u8> {
        let mut list = [key.to_be_bytes(), service_key.to_be_bytes()].concat();
        list.extend_from_slice(&[0, 0, 0, 0, flags, 0, 0, 0]);
        list
    }

    fn read(action: ReserveOut, list: &[u8]) -> Result<Action, Sense> {
        let cdb = ReserveOutCdb { action, scope: 0, kind: 3, parameter_len: list.len() as u32 };
        reserve_out(cdb, list, &[1, 2])
    }

    #[test]
    fn parameter_lists_are_read() {
        let action = read(ReserveOut::Register, &list(1, 2, 0x05));
        let expected = Action::Register {
            key: 1,
            service_key: 2,
            ignore_key: false,
            persist: true,
            all_ports: vec![1, 2],
            also: vec![],
        };
        assert_eq!(action, Ok(expected));
        let kind = ReservationKind::ExclusiveAccess;
        let preempt = Action::Preempt { key: 1, service_key: 2, kind, abort: true };
        assert_eq!(read(ReserveOut::PreemptAndAbort, &list(1, 2, 0)), Ok(preempt));
    }

    #[test]
    fn transport_ids_are_read_and_refused() {
        let others = [registrant(5).initiator, registrant(6).initiator];
        let ids: Vec<u8> = others.iter().flat_map(InitiatorPort::transport_id).collect();
        let mut long = list(0, 2, 0x08);
        long.extend((ids.len() as u32).to_be_bytes());
        long.extend(&ids);
        let Ok(Action::Register { also, .. }) = read(ReserveOut::Register, &long) else {
            panic!("{long:02x?} is well formed")
        };
        assert_eq!(also, others);
        assert_eq!(read(ReserveOut::RegisterAndIgnore, &long), Err(Sense::invalid_parameter(20)));
        long[28] = 0x05;
        assert_eq!(read(ReserveOut::Register, &long), Err(Sense::invalid_parameter(28)));
        long.pop();
        assert_eq!(read(ReserveOut::Register, &long), Err(PARAMETER_LIST_LENGTH));
        assert_eq!(read(ReserveOut::Register, &list(0, 1, 0)[..23]), Err(PARAMETER_LIST_LENGTH));
        let mut padded = list(0, 1, 0);
        padded.extend([0; 4]);
        assert_eq!(read(ReserveOut::Clear, &padded), Err(PARAMETER_LIST_LENGTH));
    }

    #[test]
    fn a_move_names_its_destination() {
        let to = registrant(9);
        let id = to.initiator.transport_id();
        let mut list = [1u64.to_be_bytes(), 2u64.to_be_bytes()].concat();
        list.extend([0, 0x03]);
        list.extend(to.port.to_be_bytes());
        list.extend((id.len() as u32).to_be_bytes());
        list.extend(id);
        let expected =
            Action::RegisterAndMove { key: 1, service_key: 2, unregister: true, persist: true, to };
        assert_eq!(read(ReserveOut::RegisterAndMove, &list), Ok(expected));
    }

    #[test]
    fn status_is_byte_for_byte() {
        let mut state = State::default();
        state.apply(&register(1, 0x11, true)).expect("free");
        let reserve = Action::Reserve { key: 0x11, kind: ReservationKind::WriteExclusive };
        state.apply(&Change { by: registrant(1), action: reserve }).expect("free");
        let key = 0x11u64.to_be_bytes();
        let keys = [&[0, 0, 0, 1, 0, 0, 0, 8][..], &key].concat();
        assert_eq!(reserve_in(ReserveIn::ReadKeys, &state), keys);
        let reservation = [&[0, 0, 0, 1, 0, 0, 0, 16][..], &key, &[0, 0, 0, 0, 0, 1, 0, 0]].concat();
        assert_eq!(reserve_in(ReserveIn::ReadReservation, &state), reservation);
        assert_eq!(&reserve_in(ReserveIn::ReportCapabilities, &state)[..], [0, 8, 0x0d, 0x81, 0xea, 1, 0, 0]);
        let id = registrant(1).initiator.transport_id();
        let mut full = vec![0, 0, 0, 1, 0, 0, 0, 24 + id.len() as u8];
        full.extend(key);
        full.extend([0, 0, 0, 0, 0x01, 0x01, 0, 0, 0, 0, 0, 1, 0, 0, 0, id.len() as u8]);
        full.extend(id);
        assert_eq!(reserve_in(ReserveIn::ReadFullStatus, &state), full);
    }

    proptest! {
        #[test]
        fn garbage_does_no_harm(list in collection::vec(any::<u8>(), 0..120), action in 0usize..8) {
            let actions = [
                ReserveOut::Register, ReserveOut::Reserve, ReserveOut::Release, ReserveOut::Clear,
                ReserveOut::Preempt, ReserveOut::PreemptAndAbort, ReserveOut::RegisterAndIgnore,
                ReserveOut::RegisterAndMove,
            ];
            let _ = read(actions[action], &list);
        }
    }
}
