//! The state machine of reservations. Pure: the same changes give the same state and the same outcomes.

use std::collections::BTreeMap;

use crate::nexus::{InitiatorPort, Nexus};
use crate::opcodes::Access;

/// Registrations that one unit keeps; more are refused with INSUFFICIENT REGISTRATION RESOURCES.
pub const REGISTRATIONS_MAX: usize = 1024;

/// An I_T nexus as reservations know it. It outlives its sessions.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Registrant {
    /// The initiator port.
    pub initiator: InitiatorPort,
    /// RELATIVE TARGET PORT IDENTIFIER.
    pub port: u16,
}

impl From<&Nexus> for Registrant {
    fn from(nexus: &Nexus) -> Self {
        Self { initiator: nexus.initiator.clone(), port: nexus.target_port.relative_id }
    }
}

/// What is known of a registered nexus.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Registration {
    /// Its reservation key, not 0.
    pub key: u64,
    /// Whether it was made with ALL_TG_PT.
    pub all_ports: bool,
}

/// Types of persistent reservation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum ReservationKind {
    /// Only the holder writes.
    WriteExclusive = 1,
    /// Only the holder reads and writes.
    ExclusiveAccess = 3,
    /// Only registered nexuses write.
    WriteExclusiveRegistrantsOnly = 5,
    /// Only registered nexuses read and write.
    ExclusiveAccessRegistrantsOnly = 6,
    /// Only registered nexuses write, and each of them is a holder.
    WriteExclusiveAllRegistrants = 7,
    /// Only registered nexuses read and write, and each of them is a holder.
    ExclusiveAccessAllRegistrants = 8,
}

impl ReservationKind {
    /// Every type.
    pub const ALL: [ReservationKind; 6] = [
        ReservationKind::WriteExclusive,
        ReservationKind::ExclusiveAccess,
        ReservationKind::WriteExclusiveRegistrantsOnly,
        ReservationKind::ExclusiveAccessRegistrantsOnly,
        ReservationKind::WriteExclusiveAllRegistrants,
        ReservationKind::ExclusiveAccessAllRegistrants,
    ];

    /// The type with a TYPE code.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == code)
    }

    /// Whether reads are not exclusive.
    pub fn allows_reads(self) -> bool {
        matches!(
            self,
            Self::WriteExclusive | Self::WriteExclusiveRegistrantsOnly | Self::WriteExclusiveAllRegistrants
        )
    }

    /// Whether every registered nexus holds it.
    pub fn all_registrants(self) -> bool {
        matches!(self, Self::WriteExclusiveAllRegistrants | Self::ExclusiveAccessAllRegistrants)
    }

    /// Whether registered nexuses have the holder's access.
    pub fn allows_registrants(self) -> bool {
        !matches!(self, Self::WriteExclusive | Self::ExclusiveAccess)
    }
}

/// A persistent reservation of the whole unit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reservation {
    /// Its type.
    pub kind: ReservationKind,
    /// Who made it. With an all registrants type it says only who that was.
    pub holder: Registrant,
}

/// A change that a nexus asks for, or that happens to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// The nexus.
    pub by: Registrant,
    /// What.
    pub action: Action,
}

/// What a [`Change`] does. `key` is RESERVATION KEY, `service_key` SERVICE ACTION RESERVATION KEY.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "fields are the parameter list's fields under the standard's names")]
pub enum Action {
    /// REGISTER, and with `ignore_key` REGISTER AND IGNORE EXISTING KEY.
    Register {
        key: u64,
        service_key: u64,
        ignore_key: bool,
        /// APTPL: reservations persist through power loss from now on, or no longer.
        persist: bool,
        /// ALL_TG_PT: every port of the target, the nexus's own among them. Empty without.
        all_ports: Vec<u16>,
        /// SPEC_I_PT: further initiator ports to register.
        also: Vec<InitiatorPort>,
    },
    /// RESERVE
    Reserve { key: u64, kind: ReservationKind },
    /// RELEASE
    Release { key: u64, kind: ReservationKind },
    /// CLEAR
    Clear { key: u64 },
    /// PREEMPT, and with `abort` PREEMPT AND ABORT
    Preempt { key: u64, service_key: u64, kind: ReservationKind, abort: bool },
    /// REGISTER AND MOVE
    RegisterAndMove { key: u64, service_key: u64, unregister: bool, persist: bool, to: Registrant },
    /// RESERVE(6)
    Reserve6,
    /// RELEASE(6)
    Release6,
    /// The nexus is gone: ends its RESERVE(6). Registrations stay.
    NexusLost,
    /// A logical unit or target reset: ends a RESERVE(6), whoever made it.
    Reset,
}

/// A unit attention that a change causes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Attention {
    /// RESERVATIONS PREEMPTED
    ReservationsPreempted,
    /// RESERVATIONS RELEASED
    ReservationsReleased,
    /// REGISTRATIONS PREEMPTED
    RegistrationsPreempted,
}

/// What must be done beside remembering the state. A gateway does it for the nexuses that are attached to it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Outcome {
    /// Unit attentions to establish.
    pub attentions: Vec<(Registrant, Attention)>,
    /// Nexuses whose tasks are to be aborted.
    pub abort: Vec<Registrant>,
}

/// Why a change did not happen. The state is as it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// RESERVATION CONFLICT status.
    Conflict,
    /// INVALID FIELD IN PARAMETER LIST.
    InvalidParameter,
    /// INVALID FIELD IN CDB.
    InvalidCdb,
    /// INVALID RELEASE OF PERSISTENT RESERVATION.
    InvalidRelease,
    /// INSUFFICIENT REGISTRATION RESOURCES.
    Full,
}

/// Registrations and reservations of one logical unit.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct State {
    pub(super) generation: u32,
    pub(super) persist: bool,
    pub(super) registrations: BTreeMap<Registrant, Registration>,
    pub(super) reservation: Option<Reservation>,
    pub(super) legacy: Option<Registrant>,
}

impl State {
    /// PRGENERATION.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Whether it is to survive a loss of power (APTPL).
    pub fn persists(&self) -> bool {
        self.persist
    }

    /// Who is registered.
    pub fn registrations(&self) -> &BTreeMap<Registrant, Registration> {
        &self.registrations
    }

    /// The persistent reservation.
    pub fn reservation(&self) -> Option<&Reservation> {
        self.reservation.as_ref()
    }

    /// Who holds the unit with RESERVE(6).
    pub fn legacy_holder(&self) -> Option<&Registrant> {
        self.legacy.as_ref()
    }

    /// Whether nothing is registered or reserved: the state of almost every unit at almost any time.
    pub fn is_idle(&self) -> bool {
        self.registrations.is_empty() && self.legacy.is_none()
    }

    /// Whether a nexus holds the persistent reservation.
    pub fn holds(&self, who: &Registrant) -> bool {
        self.reservation.as_ref().is_some_and(|reservation| {
            if reservation.kind.all_registrants() {
                self.registrations.contains_key(who)
            } else {
                reservation.holder == *who
            }
        })
    }

    /// Whether a nexus may send a command that needs `access` (SPC-4 table 66).
    pub fn allows(&self, who: &Registrant, access: Access) -> bool {
        let Some(reservation) = &self.reservation else { return true };
        match access {
            Access::Always | Access::Reservation => true,
            _ if self.holds(who) => true,
            _ if reservation.kind.allows_registrants() && self.registrations.contains_key(who) => true,
            Access::Read => reservation.kind.allows_reads(),
            Access::Write => false,
        }
    }

    /// Whether a RESERVE(6) of another nexus is in the way of a command.
    pub fn blocked_by_legacy(&self, who: &Registrant) -> bool {
        self.legacy.as_ref().is_some_and(|holder| holder != who)
    }

    /// What is left after a loss of power: everything if it persists, else nothing. The generation starts again.
    pub fn after_power_loss(self) -> State {
        if self.persist { State { generation: 0, legacy: None, ..self } } else { State::default() }
    }

    /// Makes a change, or refuses it and stays as it was.
    pub fn apply(&mut self, change: &Change) -> Result<Outcome, Refused> {
        let by = &change.by;
        match &change.action {
            Action::Register { .. } => self.register(by, &change.action),
            Action::Reserve { key, kind } => self.reserve(by, *key, *kind),
            Action::Release { key, kind } => self.release(by, *key, *kind),
            Action::Clear { key } => self.clear(by, *key),
            Action::Preempt { key, service_key, kind, abort } => {
                self.preempt(by, *key, *service_key, *kind, *abort)
            }
            Action::RegisterAndMove { .. } => self.register_and_move(by, &change.action),
            Action::Reserve6 => self.reserve6(by),
            Action::Release6 => self.release6(by),
            Action::NexusLost => {
                self.legacy.take_if(|holder| holder == by);
                Ok(Outcome::default())
            }
            Action::Reset => {
                self.legacy = None;
                Ok(Outcome::default())
            }
        }
    }

    fn register(&mut self, by: &Registrant, action: &Action) -> Result<Outcome, Refused> {
        let Action::Register { key, service_key, ignore_key, persist, all_ports, also } = action else {
            unreachable!("called for REGISTER alone")
        };
        let registered = self.registrations.get(by).map(|registration| registration.key);
        if !ignore_key && registered.unwrap_or(0) != *key {
            return Err(Refused::Conflict);
        }
        if registered.is_some() && !also.is_empty() {
            return Err(Refused::InvalidCdb);
        }
        let mut outcome = Outcome::default();
        if *service_key == 0 {
            if registered.is_none() {
                return Ok(outcome);
            }
            self.unregister(by, &mut outcome);
        } else {
            self.register_all(by, *service_key, all_ports, also)?;
        }
        self.persist = *persist;
        self.generation = self.generation.wrapping_add(1);
        Ok(outcome)
    }

    /// Registers a nexus, the same initiator port at `all_ports`, and `also` other initiator ports; all or none.
    fn register_all(
        &mut self,
        by: &Registrant,
        key: u64,
        all_ports: &[u16],
        also: &[InitiatorPort],
    ) -> Result<(), Refused> {
        let registration = Registration { key, all_ports: !all_ports.is_empty() };
        let ports = if all_ports.is_empty() { std::slice::from_ref(&by.port) } else { all_ports };
        let mut next = self.registrations.clone();
        for port in ports {
            next.insert(Registrant { port: *port, ..by.clone() }, registration);
        }
        for initiator in also {
            for port in ports {
                let registrant = Registrant { initiator: initiator.clone(), port: *port };
                next.entry(registrant).or_insert(registration);
            }
        }
        if next.len() > REGISTRATIONS_MAX {
            return Err(Refused::Full);
        }
        self.registrations = next;
        Ok(())
    }

    /// Takes a registration away, and a reservation with it that has no holder any more (SPC-4 5.12.11.2.3).
    fn unregister(&mut self, who: &Registrant, outcome: &mut Outcome) {
        let held = self.holds(who);
        self.registrations.remove(who);
        let Some(reservation) = &self.reservation else { return };
        let kind = reservation.kind;
        let ends = if kind.all_registrants() { self.registrations.is_empty() } else { held };
        if ends {
            self.reservation = None;
            if kind.allows_registrants() {
                self.tell_others(who, Attention::ReservationsReleased, outcome);
            }
        }
    }

    fn tell_others(&self, but: &Registrant, attention: Attention, outcome: &mut Outcome) {
        let others = self.registrations.keys().filter(|registrant| *registrant != but);
        outcome.attentions.extend(others.map(|registrant| (registrant.clone(), attention)));
    }

    fn check_key(&self, by: &Registrant, key: u64) -> Result<(), Refused> {
        match self.registrations.get(by) {
            Some(registration) if registration.key == key => Ok(()),
            _ => Err(Refused::Conflict),
        }
    }

    fn reserve(&mut self, by: &Registrant, key: u64, kind: ReservationKind) -> Result<Outcome, Refused> {
        self.check_key(by, key)?;
        match &self.reservation {
            None => self.reservation = Some(Reservation { kind, holder: by.clone() }),
            Some(reservation) if reservation.kind == kind && self.holds(by) => {}
            Some(_) => return Err(Refused::Conflict),
        }
        Ok(Outcome::default())
    }

    fn release(&mut self, by: &Registrant, key: u64, kind: ReservationKind) -> Result<Outcome, Refused> {
        self.check_key(by, key)?;
        let mut outcome = Outcome::default();
        if !self.holds(by) {
            return Ok(outcome);
        }
        self.reservation.take_if(|reservation| reservation.kind == kind).ok_or(Refused::InvalidRelease)?;
        if kind.allows_registrants() {
            self.tell_others(by, Attention::ReservationsReleased, &mut outcome);
        }
        Ok(outcome)
    }

    fn clear(&mut self, by: &Registrant, key: u64) -> Result<Outcome, Refused> {
        self.check_key(by, key)?;
        let mut outcome = Outcome::default();
        self.tell_others(by, Attention::ReservationsPreempted, &mut outcome);
        self.registrations.clear();
        self.reservation = None;
        self.generation = self.generation.wrapping_add(1);
        Ok(outcome)
    }

    fn preempt(
        &mut self,
        by: &Registrant,
        key: u64,
        service_key: u64,
        kind: ReservationKind,
        abort: bool,
    ) -> Result<Outcome, Refused> {
        self.check_key(by, key)?;
        let takes_over = self.preempts_reservation(service_key)?;
        let everybody = service_key == 0;
        let is_victim = |registration: &Registration| everybody || registration.key == service_key;
        if !takes_over && !self.registrations.values().any(is_victim) {
            return Err(Refused::Conflict);
        }
        let victims: Vec<Registrant> = self
            .registrations
            .iter()
            .filter(|(registrant, registration)| *registrant != by && is_victim(registration))
            .map(|(registrant, _)| registrant.clone())
            .collect();
        let mut outcome = Outcome::default();
        for victim in &victims {
            self.registrations.remove(victim);
            outcome.attentions.push((victim.clone(), Attention::RegistrationsPreempted));
        }
        if takes_over {
            let changed = self.reservation.as_ref().is_some_and(|reservation| reservation.kind != kind);
            if changed {
                self.tell_others(by, Attention::ReservationsReleased, &mut outcome);
            }
            self.reservation = Some(Reservation { kind, holder: by.clone() });
        }
        if abort {
            outcome.abort = victims;
        }
        self.generation = self.generation.wrapping_add(1);
        Ok(outcome)
    }

    /// Whether preempting `service_key` preempts the reservation too (SPC-4 5.12.11.4.2).
    fn preempts_reservation(&self, service_key: u64) -> Result<bool, Refused> {
        match &self.reservation {
            Some(reservation) if reservation.kind.all_registrants() => Ok(service_key == 0),
            _ if service_key == 0 => Err(Refused::InvalidParameter),
            Some(reservation) => {
                Ok(self.registrations.get(&reservation.holder).is_some_and(|held| held.key == service_key))
            }
            None => Ok(false),
        }
    }

    fn register_and_move(&mut self, by: &Registrant, action: &Action) -> Result<Outcome, Refused> {
        let Action::RegisterAndMove { key, service_key, unregister, persist, to } = action else {
            unreachable!("called for REGISTER AND MOVE alone")
        };
        self.check_key(by, *key)?;
        let kind = match &self.reservation {
            None => return Err(Refused::InvalidCdb),
            Some(reservation) if reservation.kind.all_registrants() || reservation.holder != *by => {
                return Err(Refused::Conflict);
            }
            Some(reservation) => reservation.kind,
        };
        if *service_key == 0 || to == by {
            return Err(Refused::InvalidParameter);
        }
        if self.registrations.len() == REGISTRATIONS_MAX && !self.registrations.contains_key(to) {
            return Err(Refused::Full);
        }
        self.registrations.insert(to.clone(), Registration { key: *service_key, all_ports: false });
        self.reservation = Some(Reservation { kind, holder: to.clone() });
        if *unregister {
            self.registrations.remove(by);
        }
        self.persist = *persist;
        self.generation = self.generation.wrapping_add(1);
        Ok(Outcome::default())
    }

    fn reserve6(&mut self, by: &Registrant) -> Result<Outcome, Refused> {
        if !self.registrations.is_empty() || self.blocked_by_legacy(by) {
            return Err(Refused::Conflict);
        }
        self.legacy = Some(by.clone());
        Ok(Outcome::default())
    }

    /// A RELEASE(6) of one who holds nothing is no error (SPC-2 7.21).
    fn release6(&mut self, by: &Registrant) -> Result<Outcome, Refused> {
        if !self.registrations.is_empty() {
            return Err(Refused::Conflict);
        }
        self.legacy.take_if(|holder| holder == by);
        Ok(Outcome::default())
    }
}

#[cfg(test)]
pub(super) mod testing;
#[cfg(test)]
mod tests;
