//! Sense data (SPC-4 4.5): why a command did not end well, in the fixed and the descriptor format.
//!
//! Fixed format, 18 bytes:
//!
//! | byte | what |
//! |---|---|
//! | 0 | VALID (bit 7), response code 70h |
//! | 2 | sense key |
//! | 3–6 | INFORMATION, big-endian, if VALID |
//! | 7 | additional length: 10 |
//! | 12, 13 | additional sense code and qualifier |
//! | 15–17 | sense-key specific: SKSV (bit 7), C/D (bit 6), BPV (bit 3), bit pointer; field pointer |
//!
//! Descriptor format: 72h, key, code, qualifier, three reserved bytes, additional length; then descriptors: information
//! (type 0, 12 bytes) and sense-key specific (type 2, 8 bytes).

use bytes::Bytes;

/// Sense keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum SenseKey {
    /// Nothing to say.
    NoSense = 0x0,
    /// The unit does not answer just now.
    NotReady = 0x2,
    /// Data are lost.
    MediumError = 0x3,
    /// A fault that is not of the medium.
    HardwareError = 0x4,
    /// The command is not what the unit can do.
    IllegalRequest = 0x5,
    /// Something happened that the initiator must know first.
    UnitAttention = 0x6,
    /// Writes are not possible.
    DataProtect = 0x7,
    /// A third-party copy ended early.
    CopyAborted = 0xa,
    /// The command was aborted; trying again may help.
    AbortedCommand = 0xb,
    /// What was compared differs.
    Miscompare = 0xe,
}

/// ADDITIONAL SENSE CODE and its qualifier.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct AdditionalSense {
    /// ASC.
    pub code: u8,
    /// ASCQ.
    pub qualifier: u8,
}

const fn asc(code: u8, qualifier: u8) -> AdditionalSense {
    AdditionalSense { code, qualifier }
}

/// The names of SPC-4 annex F that are used here.
#[allow(missing_docs, reason = "the names are the standard's")]
impl AdditionalSense {
    pub const NO_ADDITIONAL_SENSE: Self = asc(0x00, 0x00);
    pub const OPERATION_IN_PROGRESS: Self = asc(0x00, 0x16);
    pub const TARGET_PORT_UNAVAILABLE: Self = asc(0x04, 0x0c);
    pub const LOGICAL_UNIT_COMMUNICATION_TIME_OUT: Self = asc(0x08, 0x01);
    pub const UNREACHABLE_COPY_TARGET: Self = asc(0x08, 0x04);
    pub const THIRD_PARTY_DEVICE_FAILURE: Self = asc(0x0d, 0x01);
    pub const COPY_TARGET_DEVICE_NOT_REACHABLE: Self = asc(0x0d, 0x02);
    pub const UNRECOVERED_READ_ERROR: Self = asc(0x11, 0x00);
    pub const PARAMETER_LIST_LENGTH_ERROR: Self = asc(0x1a, 0x00);
    pub const MISCOMPARE_DURING_VERIFY: Self = asc(0x1d, 0x00);
    pub const INVALID_COMMAND_OPERATION_CODE: Self = asc(0x20, 0x00);
    pub const LBA_OUT_OF_RANGE: Self = asc(0x21, 0x00);
    pub const INVALID_FIELD_IN_CDB: Self = asc(0x24, 0x00);
    pub const LOGICAL_UNIT_NOT_SUPPORTED: Self = asc(0x25, 0x00);
    pub const INVALID_FIELD_IN_PARAMETER_LIST: Self = asc(0x26, 0x00);
    pub const INVALID_RELEASE_OF_PERSISTENT_RESERVATION: Self = asc(0x26, 0x04);
    pub const TOO_MANY_TARGET_DESCRIPTORS: Self = asc(0x26, 0x06);
    pub const UNSUPPORTED_TARGET_DESCRIPTOR_TYPE: Self = asc(0x26, 0x07);
    pub const TOO_MANY_SEGMENT_DESCRIPTORS: Self = asc(0x26, 0x08);
    pub const UNSUPPORTED_SEGMENT_DESCRIPTOR_TYPE: Self = asc(0x26, 0x09);
    pub const INLINE_DATA_LENGTH_EXCEEDED: Self = asc(0x26, 0x0b);
    pub const WRITE_PROTECTED: Self = asc(0x27, 0x00);
    pub const SOFTWARE_WRITE_PROTECTED: Self = asc(0x27, 0x02);
    pub const SPACE_ALLOCATION_FAILED_WRITE_PROTECT: Self = asc(0x27, 0x07);
    pub const POWER_ON_OR_RESET: Self = asc(0x29, 0x00);
    pub const BUS_DEVICE_RESET: Self = asc(0x29, 0x03);
    pub const MODE_PARAMETERS_CHANGED: Self = asc(0x2a, 0x01);
    pub const RESERVATIONS_PREEMPTED: Self = asc(0x2a, 0x03);
    pub const RESERVATIONS_RELEASED: Self = asc(0x2a, 0x04);
    pub const REGISTRATIONS_PREEMPTED: Self = asc(0x2a, 0x05);
    pub const CAPACITY_DATA_HAS_CHANGED: Self = asc(0x2a, 0x09);
    pub const COMMANDS_CLEARED_BY_ANOTHER_INITIATOR: Self = asc(0x2f, 0x00);
    pub const SAVING_PARAMETERS_NOT_SUPPORTED: Self = asc(0x39, 0x00);
    pub const REPORTED_LUNS_DATA_HAS_CHANGED: Self = asc(0x3f, 0x0e);
    pub const INTERNAL_TARGET_FAILURE: Self = asc(0x44, 0x00);
    pub const INSUFFICIENT_REGISTRATION_RESOURCES: Self = asc(0x55, 0x04);
}

/// Where in a CDB or parameter list the fault is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FieldPointer {
    /// In the CDB (`true`) or in the parameter list.
    pub in_cdb: bool,
    /// First byte of the field.
    pub byte: u16,
    /// Its most significant bit, where the field is not whole bytes.
    pub bit: Option<u8>,
}

/// How sense data are encoded: the choice of D_SENSE in the control mode page, or of REQUEST SENSE's DESC bit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SenseFormat {
    /// 70h.
    #[default]
    Fixed,
    /// 72h.
    Descriptor,
}

/// Sense data before they are encoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sense {
    /// Sense key.
    pub key: SenseKey,
    /// Code and qualifier.
    pub code: AdditionalSense,
    /// INFORMATION: the offset of a miscompare, the LBA of a medium error.
    pub information: Option<u64>,
    /// Where the fault is.
    pub field: Option<FieldPointer>,
}

impl Sense {
    /// Key and code alone.
    pub const fn new(key: SenseKey, code: AdditionalSense) -> Self {
        Self { key, code, information: None, field: None }
    }

    /// ILLEGAL REQUEST with a code.
    pub const fn illegal(code: AdditionalSense) -> Self {
        Self::new(SenseKey::IllegalRequest, code)
    }

    /// INVALID FIELD IN CDB, pointing at a byte.
    pub const fn invalid_field(byte: u16) -> Self {
        Self::illegal(AdditionalSense::INVALID_FIELD_IN_CDB).pointing(true, byte, None)
    }

    /// INVALID FIELD IN CDB, pointing at a bit of a byte.
    pub const fn invalid_bit(byte: u16, bit: u8) -> Self {
        Self::illegal(AdditionalSense::INVALID_FIELD_IN_CDB).pointing(true, byte, Some(bit))
    }

    /// INVALID FIELD IN PARAMETER LIST, pointing at a byte.
    pub const fn invalid_parameter(byte: u16) -> Self {
        Self::illegal(AdditionalSense::INVALID_FIELD_IN_PARAMETER_LIST).pointing(false, byte, None)
    }

    /// UNIT ATTENTION with a code.
    pub const fn attention(code: AdditionalSense) -> Self {
        Self::new(SenseKey::UnitAttention, code)
    }

    /// The same with INFORMATION.
    pub const fn with_information(self, information: u64) -> Self {
        Self { information: Some(information), ..self }
    }

    const fn pointing(self, in_cdb: bool, byte: u16, bit: Option<u8>) -> Self {
        Self { field: Some(FieldPointer { in_cdb, byte, bit }), ..self }
    }

    /// Encodes it.
    pub fn encode(&self, format: SenseFormat) -> Bytes {
        match format {
            SenseFormat::Fixed => self.encode_fixed(),
            SenseFormat::Descriptor => self.encode_descriptor(),
        }
    }

    fn encode_fixed(&self) -> Bytes {
        let mut out = [0u8; 18];
        out[0] = 0x70;
        out[2] = self.key as u8;
        // A value of more than 32 bits cannot be said in this format (SPC-4 4.5.3): VALID stays 0.
        if let Some(information) = self.information.and_then(|value| u32::try_from(value).ok()) {
            out[0] |= 0x80;
            out[3..7].copy_from_slice(&information.to_be_bytes());
        }
        out[7] = 10;
        out[12] = self.code.code;
        out[13] = self.code.qualifier;
        if let Some(field) = self.field {
            out[15..18].copy_from_slice(&field.encode());
        }
        Bytes::copy_from_slice(&out)
    }

    fn encode_descriptor(&self) -> Bytes {
        let mut out = vec![0x72, self.key as u8, self.code.code, self.code.qualifier, 0, 0, 0, 0];
        if let Some(information) = self.information {
            out.extend_from_slice(&[0x00, 0x0a, 0x80, 0x00]);
            out.extend_from_slice(&information.to_be_bytes());
        }
        if let Some(field) = self.field {
            let [first, high, low] = field.encode();
            out.extend_from_slice(&[0x02, 0x06, 0x00, 0x00, first, high, low, 0x00]);
        }
        out[7] = (out.len() - 8) as u8;
        Bytes::from(out)
    }
}

impl FieldPointer {
    fn encode(self) -> [u8; 3] {
        let mut first = 0x80 | if self.in_cdb { 0x40 } else { 0 };
        if let Some(bit) = self.bit {
            first |= 0x08 | (bit & 0x07);
        }
        let [high, low] = self.byte.to_be_bytes();
        [first, high, low]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_are_byte_for_byte() {
        let miscompare = Sense::new(SenseKey::Miscompare, AdditionalSense::MISCOMPARE_DURING_VERIFY)
            .with_information(0x1234);
        let cases: [(Sense, &[u8], &[u8]); 3] = [
            (
                Sense::illegal(AdditionalSense::LBA_OUT_OF_RANGE),
                &[0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x21, 0, 0, 0, 0, 0],
                &[0x72, 5, 0x21, 0, 0, 0, 0, 0],
            ),
            (
                Sense::invalid_bit(1, 7),
                &[0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x24, 0, 0, 0xcf, 0, 1],
                &[0x72, 5, 0x24, 0, 0, 0, 0, 8, 2, 6, 0, 0, 0xcf, 0, 1, 0],
            ),
            (
                miscompare,
                &[0xf0, 0, 0xe, 0, 0, 0x12, 0x34, 10, 0, 0, 0, 0, 0x1d, 0, 0, 0, 0, 0],
                &[0x72, 0xe, 0x1d, 0, 0, 0, 0, 12, 0, 10, 0x80, 0, 0, 0, 0, 0, 0, 0, 0x12, 0x34],
            ),
        ];
        for (sense, fixed, descriptor) in cases {
            assert_eq!(&sense.encode(SenseFormat::Fixed)[..], fixed);
            assert_eq!(&sense.encode(SenseFormat::Descriptor)[..], descriptor);
        }
    }

    #[test]
    fn information_that_does_not_fit_is_not_valid() {
        let sense = Sense::new(SenseKey::MediumError, AdditionalSense::UNRECOVERED_READ_ERROR)
            .with_information(1 << 32);
        assert_eq!(sense.encode(SenseFormat::Fixed)[0], 0x70);
        assert_eq!(&sense.encode(SenseFormat::Descriptor)[12..20], &(1u64 << 32).to_be_bytes());
    }
}
