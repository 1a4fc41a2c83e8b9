//! State and changes as bytes: what a log, a snapshot or a file holds. Little-endian.
//!
//! Both begin and end alike:
//!
//! | bytes | what |
//! |---|---|
//! | 4 | magic: `CRRS` for a state, `CRRC` for a change |
//! | 1 | version: 1 |
//! | … | body |
//! | 4 | CRC-32 of everything before |
//!
//! A *port* is `name length: u16, name, isid: 6 bytes`; a *registrant* is `port, relative target port: u16`; a *list* is
//! `count: u32`, then its elements.
//!
//! Body of a state:
//!
//! | what | as |
//! |---|---|
//! | generation | u32 |
//! | flags | u8: bit 0 persists, bit 1 there is a reservation, bit 2 there is a RESERVE(6) |
//! | registrations | list of `registrant, key: u64, all ports: u8`, in order |
//! | reservation, if any | `kind: u8, registrant` |
//! | holder of RESERVE(6), if any | registrant |
//!
//! Body of a change: the registrant, an action code (u8), then its fields in the order of [`Action`]; booleans and kinds are
//! a u8 each.

use thiserror::Error;

use super::state::{Action, Change, Registrant, Registration, Reservation, ReservationKind, State};
use crate::nexus::InitiatorPort;

const STATE_MAGIC: [u8; 4] = *b"CRRS";
const CHANGE_MAGIC: [u8; 4] = *b"CRRC";
const VERSION: u8 = 1;

const PERSISTS: u8 = 1;
const RESERVED: u8 = 1 << 1;
const LEGACY: u8 = 1 << 2;

/// Why bytes are no state or change.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
pub enum FormatError {
    /// Another magic, shorter than that, or longer than what it says.
    #[error("not a reservation record")]
    NotThis,
    /// Written by a later version.
    #[error("version {0} of reservation records is not known here")]
    Version(u8),
    /// Damaged.
    #[error("the checksum of a reservation record is wrong")]
    Checksum,
    /// A field that cannot be.
    #[error("a field of a reservation record has no meaning")]
    Field,
}

/// Encodes a state.
pub fn encode_state(state: &State) -> Vec<u8> {
    let mut out = Writer::new(STATE_MAGIC);
    out.u32(state.generation);
    let flag = |set: bool, bit: u8| if set { bit } else { 0 };
    out.u8(flag(state.persist, PERSISTS)
        | flag(state.reservation.is_some(), RESERVED)
        | flag(state.legacy.is_some(), LEGACY));
    out.u32(state.registrations.len() as u32);
    for (registrant, registration) in &state.registrations {
        out.registrant(registrant);
        out.u64(registration.key);
        out.bool(registration.all_ports);
    }
    if let Some(reservation) = &state.reservation {
        out.u8(reservation.kind as u8);
        out.registrant(&reservation.holder);
    }
    if let Some(holder) = &state.legacy {
        out.registrant(holder);
    }
    out.finish()
}

/// Decodes a state.
pub fn decode_state(bytes: &[u8]) -> Result<State, FormatError> {
    let mut body = Reader::open(bytes, STATE_MAGIC)?;
    let generation = body.u32()?;
    let flags = body.u8()?;
    let mut state = State { generation, persist: flags & PERSISTS != 0, ..State::default() };
    for _ in 0..body.u32()? {
        let registrant = body.registrant()?;
        let registration = Registration { key: body.u64()?, all_ports: body.bool()? };
        state.registrations.insert(registrant, registration);
    }
    if flags & RESERVED != 0 {
        state.reservation = Some(Reservation { kind: body.kind()?, holder: body.registrant()? });
    }
    if flags & LEGACY != 0 {
        state.legacy = Some(body.registrant()?);
    }
    body.finish()?;
    Ok(state)
}

/// Encodes a change.
pub fn encode_change(change: &Change) -> Vec<u8> {
    let mut out = Writer::new(CHANGE_MAGIC);
    out.registrant(&change.by);
    match &change.action {
        Action::Register { key, service_key, ignore_key, persist, all_ports, also } => {
            out.u8(0);
            out.u64(*key);
            out.u64(*service_key);
            out.bool(*ignore_key);
            out.bool(*persist);
            out.u32(all_ports.len() as u32);
            all_ports.iter().for_each(|port| out.u16(*port));
            out.u32(also.len() as u32);
            also.iter().for_each(|port| out.port(port));
        }
        Action::Reserve { key, kind } => {
            out.u8(1);
            out.u64(*key);
            out.u8(*kind as u8);
        }
        Action::Release { key, kind } => {
            out.u8(2);
            out.u64(*key);
            out.u8(*kind as u8);
        }
        Action::Clear { key } => {
            out.u8(3);
            out.u64(*key);
        }
        Action::Preempt { key, service_key, kind, abort } => {
            out.u8(4);
            out.u64(*key);
            out.u64(*service_key);
            out.u8(*kind as u8);
            out.bool(*abort);
        }
        Action::RegisterAndMove { key, service_key, unregister, persist, to } => {
            out.u8(5);
            out.u64(*key);
            out.u64(*service_key);
            out.bool(*unregister);
            out.bool(*persist);
            out.registrant(to);
        }
        Action::Reserve6 => out.u8(6),
        Action::Release6 => out.u8(7),
        Action::NexusLost => out.u8(8),
        Action::Reset => out.u8(9),
    }
    out.finish()
}

/// Decodes a change.
pub fn decode_change(bytes: &[u8]) -> Result<Change, FormatError> {
    let mut body = Reader::open(bytes, CHANGE_MAGIC)?;
    let by = body.registrant()?;
    let action = match body.u8()? {
        0 => Action::Register {
            key: body.u64()?,
            service_key: body.u64()?,
            ignore_key: body.bool()?,
            persist: body.bool()?,
            all_ports: body.list(Reader::u16)?,
            also: body.list(Reader::port)?,
        },
        1 => Action::Reserve { key: body.u64()?, kind: body.kind()? },
        2 => Action::Release { key: body.u64()?, kind: body.kind()? },
        3 => Action::Clear { key: body.u64()? },
        4 => Action::Preempt {
            key: body.u64()?,
            service_key: body.u64()?,
            kind: body.kind()?,
            abort: body.bool()?,
        },
        5 => Action::RegisterAndMove {
            key: body.u64()?,
            service_key: body.u64()?,
            unregister: body.bool()?,
            persist: body.bool()?,
            to: body.registrant()?,
        },
        6 => Action::Reserve6,
        7 => Action::Release6,
        8 => Action::NexusLost,
        9 => Action::Reset,
        _ => return Err(FormatError::Field),
    };
    body.finish()?;
    Ok(Change { by, action })
}

struct Writer(Vec<u8>);

impl Writer {
    fn new(magic: [u8; 4]) -> Self {
        let mut out = magic.to_vec();
        out.push(VERSION);
        Self(out)
    }

    fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    fn bool(&mut self, value: bool) {
        self.u8(u8::from(value));
    }

    fn u16(&mut self, value: u16) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn port(&mut self, port: &InitiatorPort) {
        self.u16(port.name.len() as u16);
        self.0.extend_from_slice(port.name.as_bytes());
        self.0.extend_from_slice(&port.isid);
    }

    fn registrant(&mut self, registrant: &Registrant) {
        self.port(&registrant.initiator);
        self.u16(registrant.port);
    }

    fn finish(mut self) -> Vec<u8> {
        let crc = crc32fast::hash(&self.0);
        self.u32(crc);
        self.0
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn open(bytes: &'a [u8], magic: [u8; 4]) -> Result<Self, FormatError> {
        let (body, crc) = bytes.split_last_chunk::<4>().ok_or(FormatError::NotThis)?;
        let (head, rest) = body.split_first_chunk::<4>().ok_or(FormatError::NotThis)?;
        let (&version, rest) = rest.split_first().ok_or(FormatError::NotThis)?;
        if *head != magic {
            return Err(FormatError::NotThis);
        }
        if version != VERSION {
            return Err(FormatError::Version(version));
        }
        if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
            return Err(FormatError::Checksum);
        }
        Ok(Self(rest))
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(FormatError::NotThis)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u8(&mut self) -> Result<u8, FormatError> {
        self.bytes::<1>().map(|[byte]| byte)
    }

    fn bool(&mut self) -> Result<bool, FormatError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(FormatError::Field),
        }
    }

    fn kind(&mut self) -> Result<ReservationKind, FormatError> {
        ReservationKind::from_code(self.u8()?).ok_or(FormatError::Field)
    }

    fn u16(&mut self) -> Result<u16, FormatError> {
        self.bytes().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, FormatError> {
        self.bytes().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, FormatError> {
        self.bytes().map(u64::from_le_bytes)
    }

    fn port(&mut self) -> Result<InitiatorPort, FormatError> {
        let len = usize::from(self.u16()?);
        let (name, rest) = self.0.split_at_checked(len).ok_or(FormatError::NotThis)?;
        self.0 = rest;
        let name = std::str::from_utf8(name).map_err(|_| FormatError::Field)?;
        Ok(InitiatorPort { name: name.into(), isid: self.bytes()? })
    }

    fn registrant(&mut self) -> Result<Registrant, FormatError> {
        Ok(Registrant { initiator: self.port()?, port: self.u16()? })
    }

    fn list<T>(
        &mut self,
        element: impl Fn(&mut Self) -> Result<T, FormatError>,
    ) -> Result<Vec<T>, FormatError> {
        // A false count ends with the bytes: nothing is reserved for it.
        (0..self.u32()?).map(|_| element(self)).collect()
    }

    fn finish(self) -> Result<(), FormatError> {
        if self.0.is_empty() { Ok(()) } else { Err(FormatError::NotThis) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};
    use proptest::{collection, prop_assert_eq};

    use super::super::state::testing::{any_change, run};
    use super::*;

    #[test]
    fn a_state_is_byte_for_byte() {
        let by = Registrant {
            initiator: InitiatorPort { name: "iqn.a".into(), isid: [1, 2, 3, 4, 5, 6] },
            port: 7,
        };
        let mut state = State::default();
        let register = Action::Register {
            key: 0,
            service_key: 0xabcd,
            ignore_key: false,
            persist: true,
            all_ports: vec![],
            also: vec![],
        };
        state.apply(&Change { by: by.clone(), action: register }).expect("free");
        let reserve = Action::Reserve { key: 0xabcd, kind: ReservationKind::WriteExclusive };
        state.apply(&Change { by, action: reserve }).expect("free");
        let registrant = [&[5, 0][..], b"iqn.a", &[1, 2, 3, 4, 5, 6, 7, 0]].concat();
        let mut expected = [&b"CRRS\x01"[..], &[1, 0, 0, 0, 0b011, 1, 0, 0, 0], &registrant].concat();
        expected.extend([0xcd, 0xab, 0, 0, 0, 0, 0, 0, 0]);
        expected.push(1);
        expected.extend(&registrant);
        let crc = crc32fast::hash(&expected);
        expected.extend(crc.to_le_bytes());
        assert_eq!(encode_state(&state), expected);
        assert_eq!(decode_state(&expected), Ok(state));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let good = encode_state(&State::default());
        assert_eq!(decode_state(&good[..3]), Err(FormatError::NotThis));
        assert_eq!(decode_change(&good), Err(FormatError::NotThis));
        let mut newer = good.clone();
        newer[4] = 2;
        assert_eq!(decode_state(&newer), Err(FormatError::Version(2)));
        let mut damaged = good.clone();
        damaged[6] ^= 1;
        assert_eq!(decode_state(&damaged), Err(FormatError::Checksum));
    }

    proptest! {
        #[test]
        fn states_and_changes_come_back(changes in collection::vec(any_change(), 0..20)) {
            for change in &changes {
                prop_assert_eq!(decode_change(&encode_change(change)), Ok(change.clone()));
            }
            let state = run(&changes);
            prop_assert_eq!(decode_state(&encode_state(&state)), Ok(state));
        }

        #[test]
        fn garbage_does_no_harm(mut bytes in collection::vec(any::<u8>(), 0..80), change in any::<bool>()) {
            let magic = if change { CHANGE_MAGIC } else { STATE_MAGIC };
            drop(bytes.splice(0..0, magic.into_iter().chain([VERSION])));
            let crc = crc32fast::hash(&bytes);
            bytes.extend(crc.to_le_bytes());
            if change {
                let _ = decode_change(&bytes);
            } else {
                let _ = decode_state(&bytes);
            }
        }
    }
}
