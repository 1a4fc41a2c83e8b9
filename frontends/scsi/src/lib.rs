//! The SCSI device server: everything between a decoded SCSI command and a [`curve_blockdev::BlockDevice`].
//!
//! It knows no transport, no socket and no cluster. A transport (iSCSI) builds a [`TargetDevice`] of
//! [`LogicalUnit`]s, [attaches](TargetDevice::attach) an I_T nexus for each of its sessions, and makes a [`Task`] of
//! each command it receives:
//!
//! ```text
//! login                     target.attach(nexus)                  → Attachment
//! SCSI command PDU          attachment.task(lun, cdb)             → Task: how many bytes to expect, an abort handle
//! all data-out is here      task.execute(data_out).await          → Ended::Completed(Response) | Ended::Aborted
//! ABORT TASK                handle.abort().await                  the task can reach the device no more
//! ABORT TASK SET            attachment.abort_task_set(lun).await
//! CLEAR TASK SET            attachment.clear_task_set(lun).await  … and the other nexuses' tasks, with unit attentions
//! LOGICAL UNIT RESET        attachment.reset_unit(lun).await
//! TARGET WARM/COLD RESET    target.reset().await
//! logout, connection loss   attachment.detach().await             I_T nexus loss
//! ```
//!
//! | module | commands |
//! |---|---|
//! | `luns`, `inquiry`, `vpd`, `capacity` | REPORT LUNS, INQUIRY, READ CAPACITY |
//! | `read_write`, `verify`, `compare` | READ, WRITE, SYNCHRONIZE CACHE, VERIFY, COMPARE AND WRITE, ORWRITE, WRITE ATOMIC |
//! | `provisioning` | UNMAP, WRITE SAME, GET LBA STATUS |
//! | `mode`, `alua`, `opcodes` | MODE SENSE and SELECT, REPORT TARGET PORT GROUPS, REPORT SUPPORTED OPERATION CODES |
//! | `copy` | EXTENDED COPY, RECEIVE COPY RESULTS |
//! | [`reservations`] | PERSISTENT RESERVE IN and OUT, RESERVE and RELEASE |
//!
//! Sources: SPC-4 (T10/1731-D r37), SBC-3 (T10/1799-D r36) with the atomic writes of SBC-4, SAM-5.

pub mod cdb;
pub mod opcodes;
pub mod reservations;

mod alua;
mod atomics;
mod attention;
mod capacity;
mod compare;
mod copy;
mod execute;
mod failure;
mod inquiry;
mod lun;
mod luns;
mod mode;
mod nexus;
mod provisioning;
mod read_write;
mod sense;
mod status;
mod target;
mod task;
mod unit;
mod verify;
mod vpd;

pub use alua::{AccessState, PortGroup};
pub use atomics::{ATOMIC_BORDER_BYTES, AtomicBlocks, LocalAtomics, volume_atomic_max};
pub use lun::{Lun, LunAddress};
pub use nexus::{InitiatorPort, Nexus, TargetPort};
pub use sense::{AdditionalSense, FieldPointer, Sense, SenseFormat, SenseKey};
pub use status::{Response, Status};
pub use target::{Attachment, NoSuchUnit, TargetDevice};
pub use task::{AbortHandle, Ended, Task};
pub use unit::{Identity, LogicalUnit, TRANSFER_BYTES_MAX, UnitError, UnitOptions};
