//! A logical unit: a block device with an identity, and what its nexuses share.

use std::fmt;
use std::sync::{Arc, Mutex, Weak};

use bytes::Bytes;
use curve_blockdev::BlockDevice;
use thiserror::Error;

use crate::sense::{AdditionalSense, Sense, SenseFormat};
use crate::status::Response;
use crate::target::UnitNexus;

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
pub struct LogicalUnit {
    identity: Identity,
    device: Arc<dyn BlockDevice>,
    options: UnitOptions,
    nexuses: Mutex<Vec<Weak<UnitNexus>>>,
}

impl LogicalUnit {
    /// Serves `device`.
    pub fn new(
        identity: Identity,
        device: Arc<dyn BlockDevice>,
        options: UnitOptions,
    ) -> Result<Arc<Self>, UnitError> {
        let wanted = options.block_bytes;
        if wanted != 512 && wanted != 4096 {
            return Err(UnitError::BlockSize(wanted));
        }
        let block_min = device.shape().block_min;
        if wanted < block_min {
            return Err(UnitError::BlockTooSmall { wanted, device: block_min });
        }
        Ok(Arc::new(Self { identity, device, options, nexuses: Mutex::default() }))
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
        self.device.shape().size / u64::from(self.options.block_bytes)
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

    pub(crate) async fn execute(&self, _nexus: &UnitNexus, cdb: &[u8], _data_out: Vec<Bytes>) -> Response {
        match cdb.first() {
            Some(0x00) => Response::good(),
            _ => {
                let sense = Sense::illegal(AdditionalSense::INVALID_COMMAND_OPERATION_CODE);
                Response::check(&sense, SenseFormat::Fixed)
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
