//! Why a command did not end with GOOD, and what the initiator hears.

use curve_blockdev::BlockError;

use crate::reservations::{Refused, StoreError};
use crate::sense::{AdditionalSense, Sense, SenseFormat, SenseKey};
use crate::status::{Response, Status};

/// Why a command failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Failure {
    /// CHECK CONDITION with this.
    Sense(Sense),
    /// A status without sense data.
    Status(Status),
    /// The device said no.
    Block(BlockError),
}

impl From<Sense> for Failure {
    fn from(sense: Sense) -> Self {
        Failure::Sense(sense)
    }
}

impl From<BlockError> for Failure {
    fn from(error: BlockError) -> Self {
        Failure::Block(error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Refused(Refused::Conflict) => Failure::Status(Status::ReservationConflict),
            StoreError::Refused(Refused::InvalidParameter) => {
                Sense::illegal(AdditionalSense::INVALID_FIELD_IN_PARAMETER_LIST).into()
            }
            StoreError::Refused(Refused::InvalidCdb) => {
                Sense::illegal(AdditionalSense::INVALID_FIELD_IN_CDB).into()
            }
            StoreError::Refused(Refused::InvalidRelease) => {
                Sense::illegal(AdditionalSense::INVALID_RELEASE_OF_PERSISTENT_RESERVATION).into()
            }
            StoreError::Refused(Refused::Full) => {
                Sense::illegal(AdditionalSense::INSUFFICIENT_REGISTRATION_RESOURCES).into()
            }
            // The initiator must ask what holds now: BUSY would let it take the change for not made.
            StoreError::Unavailable => {
                Sense::new(SenseKey::AbortedCommand, AdditionalSense::INTERNAL_TARGET_FAILURE).into()
            }
        }
    }
}

impl Failure {
    /// The answer, on a unit with blocks of `block_bytes`.
    pub(crate) fn response(&self, block_bytes: u32, format: SenseFormat) -> Response {
        match self {
            Failure::Sense(sense) => Response::check(sense, format),
            Failure::Status(status) => Response::status(*status),
            Failure::Block(error) => Response::check(&sense_of(error, block_bytes), format),
        }
    }
}

/// What an initiator hears of a device's error.
fn sense_of(error: &BlockError, block_bytes: u32) -> Sense {
    match error {
        // The capacity was checked before: the device shrank meanwhile.
        BlockError::BadRange { .. } => Sense::illegal(AdditionalSense::LBA_OUT_OF_RANGE),
        BlockError::ReadOnly => Sense::new(SenseKey::DataProtect, AdditionalSense::WRITE_PROTECTED),
        BlockError::NoSpace => {
            Sense::new(SenseKey::DataProtect, AdditionalSense::SPACE_ALLOCATION_FAILED_WRITE_PROTECT)
        }
        // Another gateway may still serve the unit: this tells multipath drivers to take another path.
        BlockError::Fenced | BlockError::Closed => {
            Sense::new(SenseKey::NotReady, AdditionalSense::TARGET_PORT_UNAVAILABLE)
        }
        BlockError::TimedOut { .. } => {
            Sense::new(SenseKey::AbortedCommand, AdditionalSense::LOGICAL_UNIT_COMMUNICATION_TIME_OUT)
        }
        BlockError::Corrupt { offset, .. } => {
            Sense::new(SenseKey::MediumError, AdditionalSense::UNRECOVERED_READ_ERROR)
                .with_information(offset / u64::from(block_bytes))
        }
        BlockError::Unsupported(_) => Sense::illegal(AdditionalSense::INVALID_FIELD_IN_CDB),
        BlockError::Io(_) => Sense::new(SenseKey::HardwareError, AdditionalSense::INTERNAL_TARGET_FAILURE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_is_said_in_its_own_way() {
        let bad = BlockError::BadRange { offset: 0, len: 1, size: 2 };
        let corrupt = BlockError::Corrupt { offset: 8192, len: 1 };
        for (error, key, code) in [
            (bad, 5, [0x21, 0x00]),
            (BlockError::ReadOnly, 7, [0x27, 0x00]),
            (BlockError::NoSpace, 7, [0x27, 0x07]),
            (BlockError::Fenced, 2, [0x04, 0x0c]),
            (BlockError::Closed, 2, [0x04, 0x0c]),
            (BlockError::TimedOut { seconds: 1 }, 0xb, [0x08, 0x01]),
            (corrupt, 3, [0x11, 0x00]),
            (BlockError::Unsupported("x"), 5, [0x24, 0x00]),
            (BlockError::Io("x".to_owned()), 4, [0x44, 0x00]),
        ] {
            let response = Failure::from(error.clone()).response(4096, SenseFormat::Fixed);
            assert_eq!(response.status, Status::CheckCondition);
            assert_eq!((response.sense[2], &response.sense[12..14]), (key, &code[..]), "{error:?}");
            let information = if key == 3 { [0, 0, 0, 2] } else { [0; 4] };
            assert_eq!(response.sense[3..7], information);
        }
    }
}
