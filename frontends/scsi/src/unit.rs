//! A logical unit: a block device with an identity, and what its nexuses share.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use curve_blockdev::BlockDevice;
use thiserror::Error;

use crate::atomics::{AtomicBlocks, LocalAtomics, volume_atomic_max};
use crate::attention::attention_code;
use crate::cdb::Blocks;
use crate::mode::ModeParameters;
use crate::nexus::InitiatorPort;
use crate::opcodes::Access;
use crate::reservations::{Action, Change, LocalReservations, Outcome, Registrant, ReservationStore, State};
use crate::sense::{AdditionalSense, Sense, SenseFormat};
use crate::target::UnitNexus;
use crate::task::Aborter;

/// The longest read or write of one command, in bytes. What a task may pin in memory.
pub const TRANSFER_BYTES_MAX: u32 = 16 << 20;

/// What a logical unit is called. The same on every gateway that serves it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// 128 bits that no other unit has, for example the volume's UUID. Designators and the serial number are made of it.
    pub uuid: [u8; 16],
    /// T10 VENDOR IDENTIFICATION, at most 8 printable ASCII bytes.
    pub vendor: String,
    /// PRODUCT IDENTIFICATION, at most 16.
    pub product: String,
    /// PRODUCT REVISION LEVEL, at most 4.
    pub revision: String,
}

impl Identity {
    /// The house's names with a UUID.
    pub fn of_volume(uuid: [u8; 16]) -> Self {
        Self {
            uuid,
            vendor: "CURVE".to_owned(),
            product: "Curve volume".to_owned(),
            revision: "0001".to_owned(),
        }
    }

    /// The UUID in hexadecimal: the unit serial number.
    pub(crate) fn serial(&self) -> String {
        self.uuid.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// A locally assigned NAA designator (type 3): 60 bits of the UUID.
    pub(crate) fn naa(&self) -> [u8; 8] {
        let [.., a, b, c, d, e, f, g, h] = self.uuid;
        [0x30 | a & 0x0f, b, c, d, e, f, g, h]
    }

    /// A T10 vendor ID based designator.
    pub(crate) fn t10(&self) -> Vec<u8> {
        format!("{:8.8}{}", self.vendor, self.serial()).into_bytes()
    }
}

/// How a device is presented.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UnitOptions {
    /// Bytes of a logical block: 512 or 4096, and not less than the device's `block_min`.
    pub block_bytes: u32,
    /// Refuse writes although the device takes them.
    pub read_only: bool,
}

/// Why a device cannot be a logical unit.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum UnitError {
    /// Not 512 or 4096.
    #[error("logical blocks have 512 or 4096 bytes, not {0}")]
    BlockSize(u32),
    /// Blocks smaller than the device's would be a read-modify-write here, which two gateways cannot do safely.
    #[error("the device addresses {device} bytes: blocks of {wanted} bytes cannot be served from it")]
    BlockTooSmall {
        /// Asked for.
        wanted: u32,
        /// `block_min` of the device.
        device: u32,
    },
}

/// A block device as a SCSI direct-access unit, with what its nexuses share: mode parameters, reservations, and who they
/// are. One unit may be in several targets, under different numbers.
///
/// It has no loop of its own: every command runs in its task, concurrently with the others. What they share is either a
/// snapshot (the reservations' view, the device's shape) or behind a lock that is held for a few instructions.
/// The order that matters: a command is in its nexus's task set *before* it looks at the reservations. So whoever has
/// changed the reservations and then waits for a nexus's tasks has waited for every command that had seen the old ones.
pub struct LogicalUnit {
    identity: Identity,
    options: UnitOptions,
    blocks: Arc<dyn AtomicBlocks>,
    reservations: Arc<dyn ReservationStore>,
    mode: ModeParameters,
    /// The size that nexuses know of; one that differs is a capacity change.
    known_size: AtomicU64,
    nexuses: Mutex<Vec<Weak<UnitNexus>>>,
}

/// A device as a unit with its options sees it at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Geometry {
    pub(crate) block_bytes: u32,
    pub(crate) blocks: u64,
    /// Blocks of the longest transfer.
    pub(crate) transfer_max: u32,
    /// Logical blocks of the unit in which the device works best.
    pub(crate) preferred_blocks: u32,
    pub(crate) read_only: bool,
}

/// A range of whole blocks inside the unit, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ByteRange {
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

impl Geometry {
    /// The bytes of a range of blocks, which must lie inside the unit.
    pub(crate) fn range(&self, blocks: Blocks) -> Result<ByteRange, Sense> {
        let block = u64::from(self.block_bytes);
        let end = blocks.lba.checked_add(u64::from(blocks.count)).filter(|end| *end <= self.blocks);
        match end {
            Some(_) => Ok(ByteRange { offset: blocks.lba * block, len: u64::from(blocks.count) * block }),
            None => Err(Sense::illegal(AdditionalSense::LBA_OUT_OF_RANGE)),
        }
    }

    /// The same for a command that moves the blocks' data: not more than the longest transfer.
    pub(crate) fn transfer(&self, blocks: Blocks, length_field: u16) -> Result<ByteRange, Sense> {
        let range = self.range(blocks)?;
        if blocks.count > self.transfer_max { Err(Sense::invalid_field(length_field)) } else { Ok(range) }
    }
}

impl LogicalUnit {
    /// Serves a volume that no other gateway serves, or memory: reservations are this process's.
    pub fn new(
        identity: Identity,
        device: Arc<dyn BlockDevice>,
        options: UnitOptions,
    ) -> Result<Arc<Self>, UnitError> {
        let blocks = Arc::new(LocalAtomics::new(device, volume_atomic_max(options.block_bytes)));
        Self::with_seams(identity, blocks, Arc::new(LocalReservations::in_memory()), options)
    }

    /// Serves a device with the given atomic operations and reservations.
    pub fn with_seams(
        identity: Identity,
        blocks: Arc<dyn AtomicBlocks>,
        reservations: Arc<dyn ReservationStore>,
        options: UnitOptions,
    ) -> Result<Arc<Self>, UnitError> {
        let wanted = options.block_bytes;
        if wanted != 512 && wanted != 4096 {
            return Err(UnitError::BlockSize(wanted));
        }
        let shape = blocks.shape();
        if wanted < shape.block_min {
            return Err(UnitError::BlockTooSmall { wanted, device: shape.block_min });
        }
        Ok(Arc::new(Self {
            identity,
            options,
            blocks,
            reservations,
            mode: ModeParameters::default(),
            known_size: AtomicU64::new(shape.size),
            nexuses: Mutex::default(),
        }))
    }

    /// What it is called.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Bytes of a logical block.
    pub fn block_bytes(&self) -> u32 {
        self.options.block_bytes
    }

    /// Blocks in all, now.
    pub fn blocks(&self) -> u64 {
        self.geometry().blocks
    }

    /// Its reservations, for a display of who holds what.
    pub fn reservations(&self) -> &Arc<dyn ReservationStore> {
        &self.reservations
    }

    /// Does for the nexuses attached here what a change of reservations asks for beside the new state: raises unit
    /// attentions and aborts tasks. Completes when no aborted task can reach the device any more.
    ///
    /// A gateway calls it when it learns of a change that was made through another gateway, *after* its
    /// [`view`](ReservationStore::view) shows the new state.
    pub async fn enforce(&self, outcome: &Outcome) {
        if outcome.attentions.is_empty() && outcome.abort.is_empty() {
            return;
        }
        let nexuses = self.nexuses();
        let of = |who: &Registrant| {
            let who = who.clone();
            nexuses.iter().filter(move |nexus| *nexus.registrant() == who)
        };
        for (who, attention) in &outcome.attentions {
            of(who).for_each(|nexus| nexus.raise(attention_code(*attention)));
        }
        for who in &outcome.abort {
            for nexus in of(who) {
                nexus.abort_tasks(Aborter::OtherNexus).await;
            }
        }
    }

    /// Completes when no command that `state` forbids is executing: commands of nexuses that may not do everything are
    /// waited for. Whatever starts from now on is decided by the [`view`](ReservationStore::view), which must be `state`
    /// already.
    pub async fn drain_forbidden(&self, state: &State) {
        for nexus in self.nexuses() {
            let who = nexus.registrant();
            if !state.allows(who, Access::Write) || state.blocked_by_legacy(who) {
                nexus.drain().await;
            }
        }
    }

    /// Completes when every command that is executing now has ended, or cannot reach the device any more.
    pub async fn drain(&self) {
        for nexus in self.nexuses() {
            nexus.drain().await;
        }
    }

    /// LOGICAL UNIT RESET: aborts every nexus's tasks, ends a RESERVE(6), takes mode parameters back, and tells every
    /// nexus. Completes when none of the tasks can reach the device any more; the reservation store passes it on to other
    /// gateways.
    pub async fn reset(&self) {
        self.reset_here().await;
        let holder = self.reservations.view().legacy_holder().cloned();
        // Whose change it is makes no difference.
        let nobody = || Registrant { initiator: InitiatorPort { name: "".into(), isid: [0; 6] }, port: 0 };
        let by = holder.unwrap_or_else(nobody);
        if let Err(error) = self.reservations.change(Change { by, action: Action::Reset }).await {
            tracing::warn!(serial = self.identity.serial(), %error, "a reset may not have reached other gateways");
        }
    }

    /// The part of a [`reset`](LogicalUnit::reset) that concerns the nexuses attached here. A gateway does it when it learns
    /// of a reset through another one.
    pub async fn reset_here(&self) {
        for nexus in self.nexuses() {
            nexus.abort_tasks(Aborter::OwnNexus).await;
            nexus.raise(AdditionalSense::BUS_DEVICE_RESET);
        }
        self.mode.reset();
    }

    /// Makes a change that ends a RESERVE(6).
    pub(crate) async fn end_reserve6(&self, change: Change) {
        if let Err(error) = self.reservations.change(change).await {
            tracing::warn!(serial = self.identity.serial(), %error, "a RESERVE(6) could not be ended");
        }
    }

    pub(crate) fn store(&self) -> &dyn AtomicBlocks {
        &*self.blocks
    }

    pub(crate) fn mode(&self) -> &ModeParameters {
        &self.mode
    }

    pub(crate) fn sense_format(&self) -> SenseFormat {
        self.mode.sense_format()
    }

    pub(crate) fn geometry(&self) -> Geometry {
        let shape = self.blocks.shape();
        let block_bytes = self.options.block_bytes;
        Geometry {
            block_bytes,
            blocks: shape.size / u64::from(block_bytes),
            transfer_max: shape.request_max.min(TRANSFER_BYTES_MAX) / block_bytes,
            preferred_blocks: (shape.block_preferred / block_bytes).max(1),
            read_only: shape.read_only || self.options.read_only,
        }
    }

    /// Notices that the device has another size and tells every nexus.
    pub(crate) fn notice_capacity(&self) {
        let size = self.blocks.shape().size;
        if self.known_size.swap(size, Ordering::Relaxed) != size {
            for nexus in self.nexuses() {
                nexus.raise(AdditionalSense::CAPACITY_DATA_HAS_CHANGED);
            }
        }
    }

    pub(crate) fn join(&self, nexus: &Arc<UnitNexus>) {
        let mut nexuses = self.nexuses.lock().expect("no panic under the lock");
        nexuses.retain(|known| known.strong_count() > 0);
        nexuses.push(Arc::downgrade(nexus));
    }

    /// Every nexus that is attached, or gone with tasks still running.
    pub(crate) fn nexuses(&self) -> Vec<Arc<UnitNexus>> {
        self.nexuses.lock().expect("no panic under the lock").iter().filter_map(Weak::upgrade).collect()
    }

    /// Tells every nexus but one.
    pub(crate) fn raise_for_others(&self, but: &UnitNexus, code: AdditionalSense) {
        for nexus in self.nexuses() {
            if !std::ptr::eq(&*nexus, but) {
                nexus.raise(code);
            }
        }
    }
}

impl fmt::Debug for LogicalUnit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { identity, options, .. } = self;
        f.debug_struct("LogicalUnit").field("identity", identity).field("options", options).finish()
    }
}

#[cfg(test)]
mod tests {
    use curve_blockdev::MemoryDevice;

    use super::*;

    #[test]
    fn blocks_that_the_device_cannot_address_are_refused() {
        let unit = |device_block, block_bytes| {
            let device = Arc::new(MemoryDevice::new(1 << 20, device_block));
            let options = UnitOptions { block_bytes, read_only: false };
            LogicalUnit::new(Identity::of_volume([1; 16]), device, options).map(|unit| unit.blocks())
        };
        assert_eq!(unit(512, 512), Ok(2048));
        assert_eq!(unit(512, 4096), Ok(256));
        assert_eq!(unit(4096, 4096), Ok(256));
        assert_eq!(unit(4096, 512), Err(UnitError::BlockTooSmall { wanted: 512, device: 4096 }));
        assert_eq!(unit(512, 1024), Err(UnitError::BlockSize(1024)));
    }

    #[test]
    fn ranges_end_where_the_unit_ends() {
        let geometry = Geometry {
            block_bytes: 4096,
            blocks: 100,
            transfer_max: 8,
            preferred_blocks: 1,
            read_only: false,
        };
        let range = |lba, count| geometry.range(Blocks { lba, count });
        let outside = Err(Sense::illegal(AdditionalSense::LBA_OUT_OF_RANGE));
        assert_eq!(range(99, 1), Ok(ByteRange { offset: 99 * 4096, len: 4096 }));
        assert_eq!(range(100, 0), Ok(ByteRange { offset: 409_600, len: 0 }));
        for (lba, count) in [(99, 2), (100, 1), (101, 0), (u64::MAX, 1), (u64::MAX, 0), (1, u32::MAX)] {
            assert_eq!(range(lba, count), outside, "{lba}+{count}");
        }
        assert_eq!(geometry.transfer(Blocks { lba: 0, count: 9 }, 7), Err(Sense::invalid_field(7)));
    }
}
