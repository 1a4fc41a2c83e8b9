//! One command on one logical unit: what comes before it, and which module does it.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::atomics::AtomicBlocks;
use crate::cdb::{Command, Decoded};
use crate::failure::Failure;
use crate::opcodes::CommandSpec;
use crate::reservations::commands::{ReserveOutCdb, reserve_in, reserve_out};
use crate::reservations::{Action, Change};
use crate::sense::{AdditionalSense, Sense, SenseFormat, SenseKey};
use crate::status::{Response, Status};
use crate::target::{NexusUnits, UnitNexus};
use crate::task::TaskState;
use crate::unit::{Geometry, LogicalUnit};
use crate::{alua, capacity, compare, copy, inquiry, luns, mode, opcodes, provisioning, read_write, verify};

/// Data-out of a command.
#[derive(Debug, Default)]
pub(crate) struct DataOut {
    /// What came.
    pub(crate) parts: Vec<Bytes>,
    /// How much the initiator said it would send, if the transport knows.
    pub(crate) expected: Option<u64>,
}

impl DataOut {
    pub(crate) fn len(&self) -> u64 {
        self.parts.iter().map(|part| part.len() as u64).sum()
    }
}

/// A command being executed.
pub(crate) struct Job<'a> {
    pub(crate) unit: &'a LogicalUnit,
    pub(crate) nexus: &'a Arc<UnitNexus>,
    pub(crate) units: &'a NexusUnits,
    pub(crate) task: &'a Arc<TaskState>,
    pub(crate) geometry: Geometry,
    pub(crate) data_out: DataOut,
}

impl<'a> Job<'a> {
    pub(crate) fn new(
        units: &'a NexusUnits,
        nexus: &'a Arc<UnitNexus>,
        task: &'a Arc<TaskState>,
        data_out: DataOut,
    ) -> Self {
        let unit = &*nexus.unit;
        Self { unit, nexus, units, task, geometry: unit.geometry(), data_out }
    }

    /// Executes a command.
    pub(crate) async fn run(self, decoded: Result<Decoded, Sense>) -> Response {
        let (block_bytes, unit) = (self.geometry.block_bytes, self.unit);
        let result = self.checked(decoded).await;
        result.unwrap_or_else(|failure| failure.response(block_bytes, unit.sense_format()))
    }

    async fn checked(self, decoded: Result<Decoded, Sense>) -> Result<Response, Failure> {
        self.unit.notice_capacity();
        let tells_itself = |command: &Command| {
            matches!(
                command,
                Command::Inquiry { .. } | Command::ReportLuns { .. } | Command::RequestSense { .. }
            )
        };
        if !decoded.as_ref().is_ok_and(|decoded| tells_itself(&decoded.command))
            && let Some(code) = self.nexus.attentions.take()
        {
            return Err(Sense::attention(code).into());
        }
        let Decoded { command, spec } = decoded?;
        self.check_reservations(spec, &command)?;
        if spec.writes {
            self.check_writable()?;
        }
        self.dispatch(command).await
    }

    fn check_reservations(&self, spec: &CommandSpec, command: &Command) -> Result<(), Failure> {
        let state = self.unit.reservations().view();
        if state.is_idle() {
            return Ok(());
        }
        let who = self.nexus.registrant();
        let access = match command {
            // Starting a unit that nobody can stop is harmless (SBC-3 table 13).
            Command::StartStopUnit { start: true, power_condition: 0, .. } => opcodes::Access::Always,
            _ => spec.access,
        };
        let blocked = !spec.under_reserve && state.blocked_by_legacy(who);
        if blocked || !state.allows(who, access) {
            return Err(Failure::Status(Status::ReservationConflict));
        }
        Ok(())
    }

    /// Refuses a command that writes where that is not possible.
    pub(crate) fn check_writable(&self) -> Result<(), Sense> {
        writable(self.unit, &self.geometry)
    }

    async fn dispatch(self, command: Command) -> Result<Response, Failure> {
        match command {
            Command::TestUnitReady => Ok(Response::good()),
            Command::RequestSense { descriptor, allocation } => {
                Ok(self.request_sense(descriptor, allocation))
            }
            Command::Inquiry { page, allocation } => inquiry::inquiry(&self, page, allocation),
            Command::ReportLuns { select, allocation } => {
                self.nexus.attentions.clear(AdditionalSense::REPORTED_LUNS_DATA_HAS_CHANGED);
                Ok(luns::report_luns(self.units.target(), select, allocation)?)
            }
            Command::ModeSense(asked) => mode::mode_sense(&self, asked),
            Command::ModeSelect { ten, page_format, save, parameter_len } => {
                mode::mode_select(&self, ten, page_format, save, parameter_len)
            }
            Command::ReadCapacity10 => Ok(capacity::read_capacity10(&self)),
            Command::ReadCapacity16 { allocation } => Ok(capacity::read_capacity16(&self, allocation)),
            Command::StartStopUnit { load_eject, power_condition, .. } => {
                self.start_stop(load_eject, power_condition).await
            }
            Command::ReportOpcodes { options, timeouts, allocation } => {
                let atomic = self.store().atomic_write_max() > 0;
                let offered = |spec: &CommandSpec| atomic || spec.opcode() != opcodes::WRITE_ATOMIC_16;
                Ok(self.parameter_data(opcodes::report(options, timeouts, offered)?, allocation))
            }
            Command::ReportTaskManagement { extended, allocation } => {
                Ok(self.parameter_data(task_management(extended), allocation))
            }
            Command::ReportTargetPortGroups { extended, allocation } => {
                Ok(self.parameter_data(alua::report(&self.units.port_groups(), extended), allocation))
            }
            Command::Reserve6 => self.change(Action::Reserve6).await,
            Command::Release6 => self.change(Action::Release6).await,
            Command::PersistentReserveIn { action, allocation } => {
                let state = self.unit.reservations().view();
                Ok(self.parameter_data(reserve_in(action, &state), allocation))
            }
            Command::PersistentReserveOut { action, scope, kind, parameter_len } => {
                self.reserve_out(ReserveOutCdb { action, scope, kind, parameter_len }).await
            }
            Command::ExtendedCopy { parameter_len } => copy::extended_copy(&self, parameter_len).await,
            Command::CopyStatus { list_id, allocation } => copy::copy_status(&self, list_id, allocation),
            Command::CopyParameters { allocation } => {
                Ok(self.parameter_data(copy::operating_parameters(), allocation))
            }
            medium => self.medium(medium).await,
        }
    }

    /// Commands that touch blocks.
    async fn medium(self, command: Command) -> Result<Response, Failure> {
        match command {
            Command::Read(blocks) => read_write::read(&self, blocks).await,
            Command::Write(blocks) => read_write::write(self, blocks).await,
            Command::SynchronizeCache(blocks) => read_write::synchronize_cache(&self, blocks).await,
            Command::Prefetch(blocks) => read_write::prefetch(&self, blocks),
            Command::Verify { blocks, check } => verify::verify(&self, blocks, check).await,
            Command::WriteAndVerify { blocks, compare } => {
                verify::write_and_verify(self, blocks, compare).await
            }
            Command::WriteSame { blocks, unmap, anchor, no_data_out } => {
                provisioning::write_same(&self, blocks, unmap, anchor, no_data_out).await
            }
            Command::Unmap { anchor, parameter_len } => {
                provisioning::unmap(&self, anchor, parameter_len).await
            }
            Command::GetLbaStatus { lba, allocation } => {
                provisioning::get_lba_status(&self, lba, allocation).await
            }
            Command::CompareAndWrite(blocks) => compare::compare_and_write(self, blocks).await,
            Command::OrWrite(blocks) => compare::or_write(self, blocks).await,
            Command::WriteAtomic { blocks, boundary } => compare::write_atomic(self, blocks, boundary).await,
            other => unreachable!("{other:?} is dispatched before"),
        }
    }

    fn request_sense(&self, descriptor: bool, allocation: u32) -> Response {
        let format = if descriptor { SenseFormat::Descriptor } else { SenseFormat::Fixed };
        let nothing = Sense::new(SenseKey::NoSense, AdditionalSense::NO_ADDITIONAL_SENSE);
        let sense = self.nexus.attentions.take().map_or(nothing, Sense::attention);
        self.parameter_data(sense.encode(format), allocation)
    }

    /// There is nothing to start, stop or eject. A stop is taken as a wish for durability.
    async fn start_stop(&self, load_eject: bool, power_condition: u8) -> Result<Response, Failure> {
        if load_eject {
            return Err(Sense::invalid_bit(4, 1).into());
        }
        if power_condition > 3 && !matches!(power_condition, 0x7 | 0xa | 0xb) {
            return Err(Sense::invalid_bit(4, 7).into());
        }
        self.store().flush().await?;
        Ok(Response::good())
    }

    async fn reserve_out(&self, cdb: ReserveOutCdb) -> Result<Response, Failure> {
        let list = self.parameter_list(cdb.parameter_len)?;
        let action = reserve_out(cdb, &list, &self.units.ports())?;
        self.change(action).await
    }

    async fn change(&self, action: Action) -> Result<Response, Failure> {
        let change = Change { by: self.nexus.registrant().clone(), action };
        self.task.renounce();
        let outcome = tokio::select! {
            biased;
            // Whoever preempts this nexus must not have to wait for what the nexus wants of the store.
            () = self.task.aborted() => return Err(Failure::Status(Status::TaskAborted)),
            outcome = self.unit.reservations().change(change) => outcome?,
        };
        self.unit.enforce(&outcome).await;
        Ok(Response::good())
    }

    pub(crate) fn store(&self) -> &dyn AtomicBlocks {
        self.unit.store()
    }

    /// Parameter data, cut to the allocation length.
    pub(crate) fn parameter_data(&self, data: Bytes, allocation: u32) -> Response {
        parameter_data(data, allocation)
    }

    /// The parameter list of the length that the CDB says, in one piece.
    pub(crate) fn parameter_list(&self, len: u32) -> Result<Bytes, Sense> {
        if self.data_out.len() < u64::from(len) {
            return Err(Sense::illegal(AdditionalSense::PARAMETER_LIST_LENGTH_ERROR));
        }
        let len = len as usize;
        if let Some(first) = self.data_out.parts.first()
            && first.len() >= len
        {
            return Ok(first.slice(..len));
        }
        let mut list = BytesMut::with_capacity(len);
        for part in &self.data_out.parts {
            let rest = len - list.len();
            list.extend_from_slice(&part[..part.len().min(rest)]);
        }
        Ok(list.freeze())
    }

    /// Ends a command with many steps early when its task was aborted. The answer is not sent.
    pub(crate) fn check_aborted(&self) -> Result<(), Failure> {
        if self.task.is_aborted() { Err(Failure::Status(Status::TaskAborted)) } else { Ok(()) }
    }
}

/// Why a unit cannot be written just now.
pub(crate) fn writable(unit: &LogicalUnit, geometry: &Geometry) -> Result<(), Sense> {
    if geometry.read_only {
        return Err(Sense::new(SenseKey::DataProtect, AdditionalSense::WRITE_PROTECTED));
    }
    if unit.mode().write_protected() {
        return Err(Sense::new(SenseKey::DataProtect, AdditionalSense::SOFTWARE_WRITE_PROTECTED));
    }
    Ok(())
}

/// Parameter data, cut to the allocation length.
pub(crate) fn parameter_data(mut data: Bytes, allocation: u32) -> Response {
    data.truncate(allocation as usize);
    Response::data(if data.is_empty() { Vec::new() } else { vec![data] })
}

/// REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS: abort task, abort task set, clear task set, logical unit reset, target
/// reset. With REPD a length and no timeouts follow.
fn task_management(extended: bool) -> Bytes {
    const FUNCTIONS: u8 = 0x80 | 0x40 | 0x10 | 0x08 | 0x02;
    let mut data = vec![FUNCTIONS, 0, 0, 0];
    if extended {
        data[3] = 12;
        data.extend_from_slice(&[0; 12]);
    }
    Bytes::from(data)
}
