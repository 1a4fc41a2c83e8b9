//! The commands of a session from their arrival to their end.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use tracing::debug;

use super::{Action, Answer, Entered, Violation};
use crate::core::Outbox;
use crate::core::data_in::{self, Reading};
use crate::core::intake::{Announced, Broken, Intake};
use crate::core::negotiate::SessionParams;
use crate::core::pdu::PduEncoder;
use crate::core::reply::{Numbers, Residual, r2t, response};
use crate::core::request::{Attribute, Command, DataOut};

/// Bytes of solicited data, of reads that execute and of answers that wait to be sent, for one session.
pub const MEMORY_BYTES_MAX: u64 = 64 << 20;
/// What a read may take of it: the device bounds what one command reads.
const READ_BYTES_MAX: u32 = 32 << 20;

const GOOD: u8 = 0;

/// All commands that came and have not ended.
///
/// A command waits in `queue`, in the order of arrival, until there is memory for all its data; then its R2Ts go out. When
/// its data is complete and its attribute lets it, it executes. Memory is granted for a whole command at once: two that had
/// half of what they need each would wait for each other for ever.
///
/// ORDERED is kept among the commands of one session. Commands of different sessions can only be told apart in time by
/// their answers, and an ORDERED command starts after every command that was answered before it came.
#[derive(Debug)]
pub(super) struct Tasks<T, A> {
    by_itt: HashMap<u32, Entry<T, A>>,
    /// Tags of those without a grant.
    queue: VecDeque<u32>,
    /// Tags of those with a grant that do not execute yet, in the order of their grants.
    granted: Vec<u32>,
    reserved: u64,
    arrivals: u64,
    /// Commands with the attribute ORDERED.
    ordered: usize,
}

#[derive(Debug)]
struct Entry<T, A> {
    arrival: u64,
    lun: [u8; 8],
    attribute: Attribute,
    immediate: bool,
    read: bool,
    expected: u32,
    wanted: u64,
    intake: Intake,
    abort: A,
    /// Taken when it begins to execute.
    task: Option<T>,
    granted: bool,
}

/// Why data cannot be taken in.
#[derive(Clone, Copy, Debug)]
pub(super) enum DataOutError {
    /// It breaks the order: the command cannot be executed any more.
    Sequence(Broken),
    /// The command has all of it and executes.
    Late,
}

/// A command that does not execute, as a task management function looks at it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub(super) itt: u32,
    pub(super) lun: [u8; 8],
    /// Its data is not complete.
    pub(super) incomplete: bool,
}

/// What is left of a command that has ended.
#[derive(Debug)]
pub(super) struct EndedTask {
    itt: u32,
    pub(super) immediate: bool,
    read: bool,
    expected: u32,
    wanted: u64,
    r2ts: u32,
}

impl<T, A> Default for Tasks<T, A> {
    fn default() -> Self {
        Self {
            by_itt: HashMap::new(),
            queue: VecDeque::new(),
            granted: Vec::new(),
            reserved: 0,
            arrivals: 0,
            ordered: 0,
        }
    }
}

impl<T, A> Entry<T, A> {
    /// Memory that it needs.
    fn need(&self) -> u64 {
        let read = if self.read { self.expected.min(READ_BYTES_MAX) } else { 0 };
        u64::from(self.intake.total()) + u64::from(read)
    }
}

impl<T, A: Clone> Tasks<T, A> {
    pub(super) fn is_empty(&self) -> bool {
        self.by_itt.is_empty()
    }

    pub(super) fn contains(&self, itt: u32) -> bool {
        self.by_itt.contains_key(&itt)
    }

    /// Takes a command in.
    pub(super) fn begin(
        &mut self,
        command: Command,
        entered: Entered<T, A>,
        params: &SessionParams,
    ) -> Result<(), Violation> {
        let intake = if command.write {
            let announced = Announced {
                expected: command.expected_len,
                wanted: entered.wanted,
                immediate: command.data,
                last: command.last,
            };
            Intake::begin(announced, params).map_err(Violation)?
        } else {
            Intake::none()
        };
        match command.attribute {
            Attribute::HeadOfQueue => self.queue.push_front(command.itt),
            _ => self.queue.push_back(command.itt),
        }
        self.arrivals += 1;
        self.ordered += usize::from(command.attribute == Attribute::Ordered);
        let entry = Entry {
            arrival: self.arrivals,
            lun: command.lun,
            attribute: command.attribute,
            immediate: command.immediate,
            read: command.read,
            expected: command.expected_len,
            wanted: entered.wanted,
            intake,
            abort: entered.abort,
            task: Some(entered.task),
            granted: false,
        };
        self.by_itt.insert(command.itt, entry);
        Ok(())
    }

    /// Takes data in. Data of a command that is not there was sent before the initiator knew that it is gone.
    pub(super) fn data_out(&mut self, data: DataOut) -> Result<(), DataOutError> {
        match self.by_itt.get_mut(&data.itt) {
            Some(entry) if entry.task.is_some() => entry.intake.accept(data).map_err(DataOutError::Sequence),
            Some(_) => Err(DataOutError::Late),
            None => {
                debug!(itt = data.itt, "data for a command that is gone is dropped");
                Ok(())
            }
        }
    }

    /// Grants memory as far as it goes, and asks for the data of those that have it.
    pub(super) fn admit(
        &mut self,
        out: &mut Outbox,
        encoder: PduEncoder,
        numbers: Numbers,
        mut tag: impl FnMut() -> u32,
    ) {
        while let Some(itt) = self.queue.front() {
            let entry = self.by_itt.get_mut(itt).expect("what is queued is there");
            let used = self.reserved + out.len() as u64;
            let alone = self.reserved == 0 && out.is_empty();
            if used + entry.need() > MEMORY_BYTES_MAX && !alone {
                break;
            }
            entry.granted = true;
            self.reserved += entry.need();
            self.granted.extend(self.queue.pop_front());
        }
        for itt in &self.granted {
            let entry = self.by_itt.get_mut(itt).expect("what has a grant is there");
            while let Some(wanted) = entry.intake.next_r2t(&mut tag) {
                encoder.push_copied(out, &mut r2t(entry.lun, *itt, wanted, numbers), &[]);
            }
        }
    }

    /// Hands over what can execute.
    pub(super) fn start(&mut self, actions: &mut VecDeque<Action<T, A>>) {
        let mut index = 0;
        while index < self.granted.len() {
            let itt = self.granted[index];
            if !self.may_start(itt) {
                index += 1;
                continue;
            }
            self.granted.remove(index);
            let entry = self.by_itt.get_mut(&itt).expect("what has a grant is there");
            let task = entry.task.take().expect("it was not started");
            actions.push_back(Action::Execute { itt, task, data: entry.intake.take() });
        }
    }

    fn may_start(&self, itt: u32) -> bool {
        let entry = &self.by_itt[&itt];
        if !entry.intake.is_complete() {
            return false;
        }
        if self.ordered == 0 || entry.attribute == Attribute::HeadOfQueue {
            return true;
        }
        let in_the_way = |other: &Entry<T, A>| {
            other.arrival < entry.arrival
                && same_unit(other.lun, entry.lun)
                && (entry.attribute == Attribute::Ordered || other.attribute == Attribute::Ordered)
        };
        !self.by_itt.values().any(in_the_way)
    }

    /// The handle that aborts a command: `Some(None)` if it does not execute yet.
    pub(super) fn abort_handle(&self, itt: u32) -> Option<Option<A>> {
        let entry = self.by_itt.get(&itt)?;
        Some(entry.task.is_none().then(|| entry.abort.clone()))
    }

    /// Drops commands that do not execute. Says of each whether it was immediate.
    pub(super) fn drop_waiting(&mut self, which: impl Fn(Waiting) -> bool) -> Vec<bool> {
        let doomed = |(itt, entry): (&u32, &Entry<T, A>)| {
            let incomplete = !entry.intake.is_complete();
            let waiting = Waiting { itt: *itt, lun: entry.lun, incomplete };
            (entry.task.is_some() && which(waiting)).then_some(*itt)
        };
        let doomed: Vec<u32> = self.by_itt.iter().filter_map(doomed).collect();
        self.queue.retain(|itt| !doomed.contains(itt));
        self.granted.retain(|itt| !doomed.contains(itt));
        doomed.into_iter().map(|itt| self.end(itt).immediate).collect()
    }

    /// Forgets a command that is in no queue any more.
    pub(super) fn end(&mut self, itt: u32) -> EndedTask {
        let entry = self.by_itt.remove(&itt).expect("what ends is there");
        if entry.granted {
            self.reserved -= entry.need();
        }
        self.ordered -= usize::from(entry.attribute == Attribute::Ordered);
        EndedTask {
            itt,
            immediate: entry.immediate,
            read: entry.read,
            expected: entry.expected,
            wanted: entry.wanted,
            r2ts: entry.intake.r2ts(),
        }
    }
}

impl EndedTask {
    /// Sends data and status. Gives how many status numbers that took.
    pub(super) fn answer(
        &self,
        answer: Answer,
        encoder: PduEncoder,
        params: &SessionParams,
        numbers: Numbers,
        out: &mut Outbox,
    ) -> u32 {
        let Answer { status, sense, data } = answer;
        let given: u64 = data.iter().map(|part| part.len() as u64).sum();
        let room = if self.read { self.expected } else { 0 };
        let residual = if self.read || given > 0 {
            Residual::between(room, given)
        } else {
            Residual::between(self.expected, self.wanted)
        };
        let len = u64::from(room).min(given) as u32;
        let in_data = status == GOOD && len > 0;
        let reading = Reading {
            itt: self.itt,
            len,
            pdu_max: params.send_data_max,
            burst_max: params.burst_max,
            status: in_data.then_some((status, residual)),
            numbers,
        };
        let pdus = data_in::push(out, encoder, reading, data);
        if !in_data {
            let bhs = &mut response(self.itt, status, residual, pdus + self.r2ts, numbers);
            let sense = if sense.is_empty() { Vec::new() } else { with_length(&sense) };
            encoder.push_copied(out, bhs, &sense);
        }
        1
    }
}

/// Sense data as a response carries it.
fn with_length(sense: &Bytes) -> Vec<u8> {
    [&(sense.len() as u16).to_be_bytes()[..], sense].concat()
}

/// Whether two LUN fields address the same unit: below 256 there are two ways to write a number.
pub(super) fn same_unit(left: [u8; 8], right: [u8; 8]) -> bool {
    let plain = |lun: [u8; 8]| match lun {
        [0x40, number, rest @ ..] if rest == [0; 6] => [0, number, 0, 0, 0, 0, 0, 0],
        lun => lun,
    };
    plain(left) == plain(right)
}
