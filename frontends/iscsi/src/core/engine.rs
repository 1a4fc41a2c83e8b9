//! The full feature phase of one session, as a machine: PDUs and outcomes in, PDUs and actions out.

mod tasks;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use thiserror::Error;
use tracing::debug;

use super::Outbox;
use super::catalog::{Catalog, NodeName};
use super::exchange::{Exchange, Turn};
use super::login::Established;
use super::negotiate::{SessionKind, SessionParams, declared_length};
use super::pdu::{Bhs, Pdu, PduEncoder};
use super::reply::{
    AsyncEvent, LogoutOutcome, Numbers, RejectReason, Residual, TaskOutcome, async_message, logout_response,
    nop_in, reject, response, task_response, text_response,
};
use super::request::{Command, DataOut, Function, LogoutRequest, NopOut, Request, TaskRequest, TextRequest};
use super::serial::Serial;
use super::text::{TextWriter, pairs};
use super::window::{Arrival, Window};
use super::wire::TAG_NONE;
use tasks::{DataOutError, Tasks};

/// Commands of a session that may be outstanding.
pub const COMMANDS_MAX: u32 = 128;
/// Immediate requests that may be outstanding beside them.
pub const IMMEDIATES_MAX: u32 = 16;

/// SCSI status of a command that ended with sense data.
const CHECK_CONDITION: u8 = 0x02;
/// Sense data in fixed format.
const SENSE_BYTES: usize = 18;
/// Additional sense code of data that did not come as it should, and its qualifiers (RFC 7143 11.4.7.2).
const WRITE_ERROR: u8 = 0x0c;
const UNEXPECTED_DATA: u8 = 0x0c;
const WRONG_DATA: u8 = 0x0d;

/// ABORTED COMMAND in fixed format.
fn aborted_command(code: u8, qualifier: u8) -> [u8; SENSE_BYTES] {
    let mut sense = [0; SENSE_BYTES];
    (sense[0], sense[2], sense[7]) = (0x70, 0x0b, SENSE_BYTES as u8 - 8);
    (sense[12], sense[13]) = (code, qualifier);
    sense
}

/// The initiator broke the protocol: it was told so, and the connection has to end (error recovery level 0).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("{0}")]
pub struct Violation(pub &'static str);

/// What the machine wants done.
#[derive(Debug, PartialEq, Eq)]
pub enum Action<T, A> {
    /// Execute a command with its data, then call [`Engine::complete`].
    Execute {
        /// Names it.
        itt: u32,
        /// What was made of the command when it arrived.
        task: T,
        /// What came with it.
        data: Vec<Bytes>,
    },
    /// Do a task management function, then call [`Engine::managed`]. Tasks that were not executing are gone already.
    Manage {
        /// Names the request.
        itt: u32,
        /// What to do.
        what: Management<A>,
    },
}

/// A task management function that reaches beyond this machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Management<A> {
    /// Abort this one, which is executing.
    AbortTask(A),
    /// Abort all of this session's tasks on a unit.
    AbortTaskSet([u8; 8]),
    /// Abort everybody's tasks on a unit.
    ClearTaskSet([u8; 8]),
    /// Reset a unit.
    ResetUnit([u8; 8]),
    /// Reset all units.
    ResetTarget,
}

/// What a command became when it arrived.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entered<T, A> {
    /// What executes it. Dropped if it never gets so far.
    pub task: T,
    /// What aborts it while it executes.
    pub abort: A,
    /// Bytes of data that it is going to use.
    pub wanted: u64,
}

/// How a command ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Send this.
    Completed(Answer),
    /// Send nothing: it was aborted.
    Aborted,
}

/// A status and what belongs to it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Answer {
    /// SCSI status.
    pub status: u8,
    /// Sense data.
    pub sense: Bytes,
    /// Data for the initiator: all that the command gives.
    pub data: Vec<Bytes>,
}

/// Whom the session is with.
#[derive(Clone, Debug)]
pub struct Parties {
    /// The initiator's name.
    pub initiator: NodeName,
    /// The target's name; none in a discovery session.
    pub target: Option<NodeName>,
    /// `host:port` that the initiator has connected to.
    pub local: String,
}

/// Target transfer tags.
#[derive(Debug, Default)]
struct Tags(u32);

impl Tags {
    fn next(&mut self) -> u32 {
        self.0 = match self.0.wrapping_add(1) {
            TAG_NONE => 0,
            tag => tag,
        };
        self.0
    }
}

/// One session with its one connection.
///
/// It numbers commands and answers, collects the data of writes, cuts that of reads, decides which command may start when
/// (memory and task attributes), and answers whatever needs no device. It does no I/O and knows no SCSI: a command is a
/// `T` that the caller makes when it arrives, with an `A` that aborts it.
///
/// Memory is bounded by construction: the command window bounds the commands and with them the unsolicited data
/// ([`COMMANDS_MAX`] × first burst); solicited data and reads are let in only as far as `tasks::MEMORY_BYTES_MAX` goes,
/// answers that wait to be sent included.
pub struct Engine<T, A> {
    kind: SessionKind,
    cid: u16,
    parties: Parties,
    params: SessionParams,
    encoder: PduEncoder,
    status: Serial,
    window: Window,
    immediates: u32,
    tasks: Tasks<T, A>,
    exchange: Option<Exchange>,
    tags: Tags,
    /// The logout whose answer waits for the last command.
    leaving: Option<(u32, LogoutOutcome)>,
    closed: bool,
    actions: VecDeque<Action<T, A>>,
}

impl<T, A: Clone> Engine<T, A> {
    /// A session that just logged in.
    pub fn new(established: &Established, parties: Parties) -> Self {
        let params = established.params;
        Self {
            kind: established.kind,
            cid: established.cid,
            parties,
            params,
            encoder: PduEncoder { digests: params.digests },
            status: established.first_status,
            window: Window::new(established.first_command, COMMANDS_MAX),
            immediates: 0,
            tasks: Tasks::default(),
            exchange: None,
            tags: Tags::default(),
            leaving: None,
            closed: false,
            actions: VecDeque::new(),
        }
    }

    /// Takes a PDU. `enter` makes a task of a command, `catalog` is what a SendTargets sees. After an error the connection has to end once the outbox is empty.
    pub fn receive(
        &mut self,
        pdu: Pdu,
        catalog: impl FnOnce() -> Arc<Catalog>,
        enter: impl FnOnce(&Command) -> Entered<T, A>,
        out: &mut Outbox,
    ) -> Result<(), Violation> {
        let bhs = pdu.bhs;
        let taken = match Request::decode(pdu) {
            Ok(request) => self.take(request, &bhs, catalog, enter, out),
            Err(malformed) => {
                self.reject(malformed.reason, &bhs, out);
                Ok(())
            }
        };
        if taken.is_err() {
            self.reject(RejectReason::Protocol, &bhs, out);
        }
        taken
    }

    fn take(
        &mut self,
        request: Request,
        bhs: &Bhs,
        catalog: impl FnOnce() -> Arc<Catalog>,
        enter: impl FnOnce(&Command) -> Entered<T, A>,
        out: &mut Outbox,
    ) -> Result<(), Violation> {
        if let Some((number, immediate)) = sequenced(&request)
            && !self.arrive(number, immediate)?
        {
            return Ok(());
        }
        match request {
            Request::NopOut(nop) => self.nop_out(nop, out),
            Request::Command(_) | Request::Task(_) if self.kind == SessionKind::Discovery => {
                self.leave(bhs[0] & super::wire::IMMEDIATE != 0);
                self.reject(RejectReason::CommandNotSupported, bhs, out);
            }
            Request::Command(command) => return self.command(command, bhs, enter, out),
            Request::Task(request) => self.manage(&request, bhs, out),
            Request::Text(text) => return self.text(text, catalog, out),
            Request::DataOut(data) => return self.data_out(data, out),
            Request::Logout(logout) => self.logout(&logout, out),
            Request::Login(_) => return Err(Violation("login in full feature phase")),
            Request::Snack => self.reject(RejectReason::Snack, bhs, out),
        }
        Ok(())
    }

    /// The next thing to do.
    pub fn next_action(&mut self) -> Option<Action<T, A>> {
        self.actions.pop_front()
    }

    /// A command that was to be executed has ended.
    pub fn complete(&mut self, itt: u32, outcome: Outcome, out: &mut Outbox) {
        let ended = self.tasks.end(itt);
        // Before the answer, so that it tells of the place that is free again.
        self.leave(ended.immediate);
        if let Outcome::Completed(answer) = outcome {
            let used = ended.answer(answer, self.encoder, &self.params, self.numbers(), out);
            self.status = self.status.plus(used);
        }
        self.pump(out);
    }

    /// A task management function has ended.
    pub fn managed(&mut self, itt: u32, outcome: TaskOutcome, out: &mut Outbox) {
        self.immediates -= 1;
        self.answer_task(itt, outcome, out);
    }

    /// Starts what waited for room: to be called when the outbox got shorter, too.
    pub fn pump(&mut self, out: &mut Outbox) {
        let numbers = self.numbers();
        let tags = &mut self.tags;
        self.tasks.admit(out, self.encoder, numbers, || tags.next());
        self.tasks.start(&mut self.actions);
        if let Some((itt, outcome)) = self.leaving
            && self.tasks.is_empty()
        {
            self.leaving = None;
            self.closed = true;
            self.push(out, |numbers| logout_response(itt, outcome, numbers));
        }
    }

    /// Whether the initiator has logged out and was told so: nothing more is to come.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether a logout is under way or done, so that nothing more is to be read.
    pub fn is_leaving(&self) -> bool {
        self.closed || self.leaving.is_some()
    }

    /// Pings the initiator, which has to answer.
    pub fn ping(&mut self, out: &mut Outbox) {
        let ttt = self.tags.next();
        let bhs = &mut nop_in([0; 8], TAG_NONE, ttt, self.numbers());
        self.encoder.push_copied(out, bhs, &[]);
    }

    /// Sends an asynchronous message, with sense data if it is about that.
    pub fn announce(&mut self, event: AsyncEvent, sense: &[u8], out: &mut Outbox) {
        let bhs = &mut async_message(event, self.numbers());
        let mut data = Vec::new();
        if !sense.is_empty() {
            data.extend_from_slice(&(sense.len() as u16).to_be_bytes());
            data.extend_from_slice(sense);
        }
        self.encoder.push_copied(out, bhs, &data);
        self.status = self.status.next();
    }

    /// Forgets what is not executing: the connection is going to end.
    pub fn abandon(&mut self) {
        self.tasks.drop_waiting(|_| true);
        self.actions.clear();
    }

    /// Refuses a PDU.
    pub fn reject(&mut self, reason: RejectReason, bhs: &Bhs, out: &mut Outbox) {
        let refused = *bhs;
        let header = &mut reject(reason, self.numbers());
        self.encoder.push_copied(out, header, &refused);
        self.status = self.status.next();
    }

    fn numbers(&self) -> Numbers {
        Numbers { status: self.status, expected: self.window.expected(), last: self.window.last() }
    }

    /// Sends an answer that uses up a status number and has no data.
    fn push(&mut self, out: &mut Outbox, bhs: impl FnOnce(Numbers) -> Bhs) {
        self.encoder.push_copied(out, &mut bhs(self.numbers()), &[]);
        self.status = self.status.next();
    }

    /// Whether a request is to be looked at. It then holds a place until [`Engine::leave`].
    fn arrive(&mut self, number: Serial, immediate: bool) -> Result<bool, Violation> {
        if immediate {
            self.immediates += 1;
            return Ok(true);
        }
        match self.window.arrive(number) {
            Arrival::InTurn => Ok(true),
            Arrival::Outside => Ok(false),
            Arrival::Gap => Err(Violation("a command before this one is missing")),
        }
    }

    fn leave(&mut self, immediate: bool) {
        if immediate {
            self.immediates -= 1;
        } else {
            self.window.leave();
        }
    }

    fn nop_out(&mut self, nop: NopOut, out: &mut Outbox) {
        if nop.itt == TAG_NONE {
            // The answer to our ping, or only news of ExpStatSN.
            return;
        }
        self.leave(nop.immediate);
        let data = nop.data.slice(..nop.data.len().min(self.params.send_data_max as usize));
        let bhs = &mut nop_in(nop.lun, nop.itt, TAG_NONE, self.numbers());
        self.encoder.push(out, bhs, [data]);
        self.status = self.status.next();
    }

    fn command(
        &mut self,
        command: Command,
        bhs: &Bhs,
        enter: impl FnOnce(&Command) -> Entered<T, A>,
        out: &mut Outbox,
    ) -> Result<(), Violation> {
        let refused = if self.tasks.contains(command.itt) || command.itt == TAG_NONE {
            Some(RejectReason::TaskInProgress)
        } else if command.immediate && self.immediates > IMMEDIATES_MAX {
            Some(RejectReason::ImmediateCommands)
        } else {
            None
        };
        if let Some(reason) = refused {
            self.leave(command.immediate);
            self.reject(reason, bhs, out);
            return Ok(());
        }
        let entered = enter(&command);
        self.tasks.begin(command, entered, &self.params)?;
        self.pump(out);
        Ok(())
    }

    /// Data that breaks the order ends its command (RFC 7143 11.4.7.2); what still comes for it is dropped.
    fn data_out(&mut self, data: DataOut, out: &mut Outbox) -> Result<(), Violation> {
        let (itt, qualifier) = (data.itt, if data.ttt == TAG_NONE { UNEXPECTED_DATA } else { WRONG_DATA });
        match self.tasks.data_out(data) {
            Ok(()) => {}
            Err(DataOutError::Late) => return Err(Violation("data for a command that has all of it")),
            Err(DataOutError::Sequence(reason)) => {
                debug!(itt, reason, "a write ends before it begins");
                self.drop_waiting(|task| task.itt == itt);
                let bhs = &mut response(itt, CHECK_CONDITION, Residual::None, 0, self.numbers());
                let mut data = [0; 2 + SENSE_BYTES];
                data[1] = SENSE_BYTES as u8;
                data[2..].copy_from_slice(&aborted_command(WRITE_ERROR, qualifier));
                self.encoder.push_copied(out, bhs, &data);
                self.status = self.status.next();
            }
        }
        self.pump(out);
        Ok(())
    }

    fn manage(&mut self, request: &TaskRequest, bhs: &Bhs, out: &mut Outbox) {
        // All of them count as immediate from here on; the window must not close behind one.
        if !request.immediate {
            self.window.leave();
            self.immediates += 1;
        }
        if self.immediates > IMMEDIATES_MAX {
            self.immediates -= 1;
            return self.reject(RejectReason::ImmediateCommands, bhs, out);
        }
        match self.managed_here(request) {
            Ok(what) => self.actions.push_back(Action::Manage { itt: request.itt, what }),
            Err(outcome) => {
                self.immediates -= 1;
                self.answer_task(request.itt, outcome, out);
            }
        }
        // What was dropped may have been in the way of others.
        self.pump(out);
    }

    /// Drops what is not executing. Gives what is left to do, or the outcome if that is nothing.
    fn managed_here(&mut self, request: &TaskRequest) -> Result<Management<A>, TaskOutcome> {
        let unit = request.lun;
        let what = match request.function {
            Function::AbortTask => match self.tasks.abort_handle(request.referenced) {
                None => return Err(TaskOutcome::NoTask),
                Some(Some(handle)) => return Ok(Management::AbortTask(handle)),
                Some(None) => {
                    self.drop_waiting(|task| task.itt == request.referenced);
                    return Err(TaskOutcome::Complete);
                }
            },
            Function::AbortTaskSet => Management::AbortTaskSet(unit),
            Function::ClearTaskSet => Management::ClearTaskSet(unit),
            Function::LogicalUnitReset => Management::ResetUnit(unit),
            Function::TargetWarmReset => {
                self.drop_waiting(|_| true);
                return Ok(Management::ResetTarget);
            }
            Function::TaskReassign => return Err(TaskOutcome::ReassignNotSupported),
            Function::ClearAca | Function::TargetColdReset | Function::Unknown(_) => {
                return Err(TaskOutcome::NotSupported);
            }
        };
        self.drop_waiting(|task| tasks::same_unit(task.lun, unit));
        Ok(what)
    }

    fn drop_waiting(&mut self, which: impl Fn(tasks::Waiting) -> bool) {
        for immediate in self.tasks.drop_waiting(which) {
            self.leave(immediate);
        }
    }

    fn answer_task(&mut self, itt: u32, outcome: TaskOutcome, out: &mut Outbox) {
        self.push(out, |numbers| task_response(itt, outcome, numbers));
    }

    fn text(
        &mut self,
        request: TextRequest,
        catalog: impl FnOnce() -> Arc<Catalog>,
        out: &mut Outbox,
    ) -> Result<(), Violation> {
        self.leave(request.immediate);
        let mut exchange = match self.exchange.take() {
            Some(exchange) if exchange.is(request.itt, request.ttt) => exchange,
            _ if request.ttt == TAG_NONE => Exchange::new(request.itt, self.tags.next()),
            _ => return Err(Violation("text for a negotiation that is over")),
        };
        let turn = exchange.receive(&request.data, request.more);
        match turn.map_err(|_| Violation("too long a text"))? {
            Turn::GoOn => {
                self.text_part(exchange, &request, out);
                return Ok(());
            }
            Turn::SendMore => {}
            Turn::Read(text) => {
                let pairs = pairs(&text).map_err(|_| Violation("malformed text"))?;
                let mut answer = TextWriter::default();
                let catalog = catalog();
                for (key, value) in pairs {
                    self.answer_key(key, value, &catalog, &mut answer);
                }
                exchange.answer(answer.into_bytes());
            }
        }
        self.text_part(exchange, &request, out);
        Ok(())
    }

    fn answer_key(&mut self, key: &str, value: &str, catalog: &Catalog, answer: &mut TextWriter) {
        let Parties { initiator, target, local } = &self.parties;
        match (key, self.kind, value) {
            ("SendTargets", SessionKind::Discovery, "All") => {
                catalog.send_targets(None, initiator, local, answer);
            }
            // An empty name means the target of the session.
            ("SendTargets", SessionKind::Normal, "") => {
                let own = target.as_ref().map(NodeName::as_str);
                catalog.send_targets(Some(own.unwrap_or_default()), initiator, local, answer);
            }
            ("SendTargets", SessionKind::Normal, name) if NodeName::new(name) != *target => {
                answer.pair(key, "Reject");
            }
            ("SendTargets", _, name) => catalog.send_targets(Some(name), initiator, local, answer),
            ("MaxRecvDataSegmentLength", _, value) => match declared_length(value) {
                Some(len) => self.params.send_data_max = len,
                None => answer.pair(key, "Reject"),
            },
            ("InitiatorAlias", ..) => {}
            (key, ..) if key.starts_with("X-") => answer.pair(key, "NotUnderstood"),
            // Keys of login, or none at all.
            (key, ..) => answer.pair(key, "Reject"),
        }
    }

    /// Sends the next part of an answer, and keeps the exchange if it goes on.
    fn text_part(&mut self, mut exchange: Exchange, request: &TextRequest, out: &mut Outbox) {
        let (part, more) = exchange.part(self.params.send_data_max);
        let goes_on = more || request.more || !request.last;
        let ttt = if goes_on { exchange.ttt() } else { TAG_NONE };
        let bhs = &mut text_response(request.lun, request.itt, ttt, more, self.numbers());
        self.encoder.push(out, bhs, [part]);
        self.status = self.status.next();
        self.exchange = goes_on.then_some(exchange);
    }

    fn logout(&mut self, request: &LogoutRequest, out: &mut Outbox) {
        self.leave(request.immediate);
        let outcome = match (request.reason, request.cid == self.cid) {
            (0, _) | (1, true) => LogoutOutcome::Closed,
            (1, false) => LogoutOutcome::NoConnection,
            _ => LogoutOutcome::RecoveryNotSupported,
        };
        if outcome != LogoutOutcome::Closed {
            return self.push(out, |numbers| logout_response(request.itt, outcome, numbers));
        }
        self.leaving = Some((request.itt, outcome));
        self.abandon_for_logout();
        self.pump(out);
    }

    /// A task that still waits for its data ends with the session; one that waits for others only may run.
    fn abandon_for_logout(&mut self) {
        self.drop_waiting(|task| task.incomplete);
    }
}

/// CmdSN and whether it is only for information.
fn sequenced(request: &Request) -> Option<(Serial, bool)> {
    match request {
        // The answer to a ping has no place in the order of commands.
        Request::NopOut(nop) if nop.itt == TAG_NONE => None,
        Request::NopOut(nop) => Some((nop.number, nop.immediate)),
        Request::Command(command) => Some((command.number, command.immediate)),
        Request::Task(task) => Some((task.number, task.immediate)),
        Request::Text(text) => Some((text.number, text.immediate)),
        Request::Logout(logout) => Some((logout.number, logout.immediate)),
        Request::Login(_) | Request::DataOut(_) | Request::Snack => None,
    }
}

#[cfg(test)]
mod tests;
