//! The protocol with gateways that crash and are paused, messages that are lost, repeated and late, and leases that
//! run out: what a settled state forbids is never accepted afterwards.

use std::collections::BTreeMap;

use proptest::collection;
use proptest::prelude::{Just, Strategy, any, prop_assert, prop_oneof, proptest};

use super::{Swap, Unit};

/// A state: the initiators that may write, a bit for each.
type Allowed = u8;

const GATEWAYS: u16 = 2;
const EVERYBODY: Allowed = 0b111;

/// A message on its way. Any may be lost, come late, and come again.
#[derive(Clone, Copy, Debug)]
enum Message {
    /// To the MDS.
    Serve {
        gateway: u16,
        client: u64,
    },
    Confirm {
        gateway: u16,
        client: u64,
        version: u64,
    },
    Swap {
        gateway: u16,
        client: u64,
        id: u64,
        expected: u64,
        allowed: Allowed,
    },
    /// To a gateway: the seat is taken, and this is the state.
    Seated {
        client: u64,
        version: u64,
    },
    /// To a gateway: the state is this one now.
    News {
        version: u64,
    },
    /// To the copysets: a write of an initiator.
    Write {
        client: u64,
        initiator: u8,
    },
}

/// One life of a gateway: it has one session for all of it.
struct Life {
    client: u64,
    /// What it decides by, once it is seated.
    view: Option<u64>,
    enforced: u64,
    /// Writes that are not answered, by initiator.
    inflight: Vec<u8>,
}

struct World {
    unit: Unit,
    /// What each version allows.
    states: BTreeMap<u64, Allowed>,
    lives: BTreeMap<u16, Life>,
    /// Sessions that every copyset refuses.
    fenced: Vec<u64>,
    network: Vec<Message>,
    /// The newest settled version.
    settled: u64,
    next: u64,
}

#[derive(Clone, Debug)]
enum Step {
    /// A gateway starts, again if it ran: what it knew is gone, what it sent is not.
    Start(u16),
    Deliver {
        at: usize,
        again: bool,
    },
    Lose(usize),
    /// Gateways are sent the newest version.
    Tell,
    /// An initiator writes through a gateway.
    Submit {
        gateway: u16,
        initiator: u8,
    },
    /// A gateway confirms what it has to, if nothing forbidden is under way.
    Confirm(u16),
    Change {
        gateway: u16,
        allowed: Allowed,
    },
    /// The MDS shuts out whoever keeps it waiting; whether it still lives is not asked.
    Expel,
    /// A gateway that stops in order.
    Leave(u16),
}

fn step() -> impl Strategy<Value = Step> {
    let gateway = || 1..=GATEWAYS;
    prop_oneof![
        1 => gateway().prop_map(Step::Start),
        8 => (any::<usize>(), any::<bool>()).prop_map(|(at, again)| Step::Deliver { at, again }),
        1 => any::<usize>().prop_map(Step::Lose),
        3 => Just(Step::Tell),
        5 => (gateway(), 0u8..3).prop_map(|(gateway, initiator)| Step::Submit { gateway, initiator }),
        4 => gateway().prop_map(Step::Confirm),
        3 => (gateway(), 0u8..8).prop_map(|(gateway, allowed)| Step::Change { gateway, allowed }),
        1 => Just(Step::Expel),
        1 => gateway().prop_map(Step::Leave),
    ]
}

impl World {
    fn new() -> Self {
        Self {
            unit: Unit::default(),
            states: BTreeMap::from([(0, EVERYBODY)]),
            lives: BTreeMap::new(),
            fenced: Vec::new(),
            network: Vec::new(),
            settled: 0,
            next: 1,
        }
    }

    fn fresh(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn allows(&self, version: u64, initiator: u8) -> bool {
        self.states[&version] & (1 << initiator) != 0
    }

    fn life_of(&mut self, client: u64) -> Option<&mut Life> {
        self.lives.values_mut().find(|life| life.client == client)
    }

    fn step(&mut self, step: Step) -> Result<(), String> {
        match step {
            Step::Start(gateway) => self.start(gateway),
            Step::Deliver { at, again } if !self.network.is_empty() => {
                let at = at % self.network.len();
                let message = if again { self.network[at] } else { self.network.swap_remove(at) };
                self.deliver(message)?;
            }
            Step::Lose(at) if !self.network.is_empty() => {
                let at = at % self.network.len();
                self.network.swap_remove(at);
            }
            Step::Tell => self.network.push(Message::News { version: self.unit.version }),
            Step::Submit { gateway, initiator } => self.submit(gateway, initiator),
            Step::Confirm(gateway) => self.confirm(gateway),
            Step::Change { gateway, allowed } => self.change(gateway, allowed),
            Step::Expel => {
                for gateway in self.unit.waiting(self.unit.version) {
                    self.expel(gateway);
                }
            }
            Step::Leave(gateway) => self.leave(gateway),
            Step::Deliver { .. } | Step::Lose(_) => {}
        }
        // The MDS notices by itself when everybody has confirmed.
        if self.unit.waiting(self.unit.version).is_empty() {
            self.settled = self.unit.version;
        }
        Ok(())
    }

    fn start(&mut self, gateway: u16) {
        let client = self.fresh();
        self.lives.insert(gateway, Life { client, view: None, enforced: 0, inflight: Vec::new() });
        self.network.push(Message::Serve { gateway, client });
    }

    /// Every copyset refuses the session first; then the seat is free.
    fn expel(&mut self, gateway: u16) {
        let client = self.unit.seats[&gateway].client;
        self.fenced.push(client);
        self.unit.vacate(gateway, client);
    }

    fn leave(&mut self, gateway: u16) {
        let Some(life) = self.lives.get(&gateway).filter(|life| life.inflight.is_empty()) else { return };
        let client = life.client;
        // Copies of earlier requests of it may still be on their way; its session is closed.
        self.fenced.push(client);
        self.unit.vacate(gateway, client);
        self.lives.remove(&gateway);
    }

    fn deliver(&mut self, message: Message) -> Result<(), String> {
        match message {
            Message::Serve { gateway, client } => {
                // A life that is over is refused: the gateway's row names another.
                if self.lives.get(&gateway).is_none_or(|life| life.client != client) {
                    return Ok(());
                }
                if self.unit.seats.get(&gateway).is_some_and(|seat| seat.client != client) {
                    self.expel(gateway);
                }
                if !self.fenced.contains(&client) {
                    self.unit.serve(gateway, 0, client).expect("the seat is free or its own");
                    self.network.push(Message::Seated { client, version: self.unit.version });
                }
            }
            Message::Confirm { gateway, client, version } => {
                // Refused when it was shut out meanwhile.
                let _ = self.unit.confirm(gateway, client, version);
            }
            Message::Swap { gateway, client, id, expected, allowed } => {
                let next = self.fresh();
                if let Ok(Swap::Made(version)) = self.unit.swap(gateway, client, id, expected, next)
                    && version == next
                {
                    self.states.insert(version, allowed);
                }
            }
            Message::Seated { client, version } => {
                if let Some(life) = self.life_of(client).filter(|life| life.view.is_none()) {
                    life.view = Some(version);
                    // It has to confirm: the seat may have been taken at an earlier version.
                    life.enforced = 0;
                }
            }
            Message::News { version } => {
                for life in self.lives.values_mut() {
                    life.view = life.view.map(|view| view.max(version));
                }
            }
            Message::Write { client, initiator } => self.write(client, initiator)?,
        }
        Ok(())
    }

    fn submit(&mut self, gateway: u16, initiator: u8) {
        let Some(view) = self.lives.get(&gateway).and_then(|life| life.view) else { return };
        if !self.allows(view, initiator) {
            return;
        }
        let life = self.lives.get_mut(&gateway).expect("it was there");
        life.inflight.push(initiator);
        let client = life.client;
        self.network.push(Message::Write { client, initiator });
    }

    /// A copyset decides. The answer ends the command, and the client then repeats it no more.
    fn write(&mut self, client: u64, initiator: u8) -> Result<(), String> {
        if self.fenced.contains(&client) {
            return Ok(());
        }
        let settled = self.settled;
        let settled_now = settled == self.unit.version;
        if !self.allows(settled, initiator) && (settled_now || !self.allows(self.unit.version, initiator)) {
            return Err(format!("a write of initiator {initiator} after version {settled} was settled"));
        }
        if let Some(life) = self.life_of(client)
            && let Some(at) = life.inflight.iter().position(|inflight| *inflight == initiator)
        {
            life.inflight.swap_remove(at);
            // Copies of an answered write are recognised by their number.
            self.network.retain(|message| {
                !matches!(message, Message::Write { client: of, initiator: by } if *of == client && *by == initiator)
            });
            let left = self
                .life_of(client)
                .map_or(0, |life| life.inflight.iter().filter(|inflight| **inflight == initiator).count());
            for _ in 0..left {
                self.network.push(Message::Write { client, initiator });
            }
        }
        Ok(())
    }

    fn confirm(&mut self, gateway: u16) {
        let Some(Life { client, view: Some(view), inflight, .. }) = self.lives.get(&gateway) else { return };
        let (client, version) = (*client, *view);
        if inflight.iter().all(|initiator| self.allows(version, *initiator)) {
            self.lives.get_mut(&gateway).expect("it was there").enforced = version;
            self.network.push(Message::Confirm { gateway, client, version });
        }
    }

    fn change(&mut self, gateway: u16, allowed: Allowed) {
        let id = self.fresh();
        let Some(life) = self.lives.get(&gateway).filter(|life| life.view.is_some()) else { return };
        let (client, expected) = (life.client, life.enforced);
        self.network.push(Message::Swap { gateway, client, id, expected, allowed });
    }
}

proptest! {
    #[test]
    fn nothing_that_a_settled_state_forbids_is_accepted(steps in collection::vec(step(), 1..200)) {
        let mut world = World::new();
        for step in steps {
            let kept = world.step(step.clone());
            prop_assert!(kept.is_ok(), "{step:?}: {kept:?}");
        }
    }
}

/// The model sees what it is for: a gateway that confirms too early is found.
#[test]
fn a_gateway_that_does_not_drain_is_found() {
    let mut world = World::new();
    world.step(Step::Start(1)).unwrap();
    for _ in 0..2 {
        world.step(Step::Deliver { at: 0, again: false }).unwrap();
    }
    world.step(Step::Submit { gateway: 1, initiator: 0 }).unwrap();
    let client = world.lives[&1].client;
    world.states.insert(50, 0b110);
    assert_eq!(world.unit.swap(1, client, 1, 0, 50), Ok(Swap::Made(50)));
    world.unit.confirm(1, client, 50).unwrap();
    world.step(Step::Tell).unwrap();
    assert!(world.step(Step::Deliver { at: 0, again: false }).is_err(), "{:?}", world.network);
}
