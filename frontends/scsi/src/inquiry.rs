//! INQUIRY: standard data (SPC-4 6.6.2). Vital product data are in `vpd`.

use bytes::Bytes;

use crate::execute::Job;
use crate::failure::Failure;
use crate::sense::Sense;
use crate::status::Response;
use crate::unit::Identity;
use crate::vpd;

/// Bytes of standard INQUIRY data.
const STANDARD_BYTES: usize = 96;
/// PERIPHERAL QUALIFIER 011b and DEVICE TYPE 1Fh: no unit is or can be here.
pub(crate) const NO_UNIT: u8 = 0x7f;

/// VERSION DESCRIPTORs: SAM-5, iSCSI, SPC-4, SBC-3.
const VERSIONS: [u16; 4] = [0x00a0, 0x0960, 0x0460, 0x04c0];

/// INQUIRY
pub(crate) fn inquiry(job: &Job<'_>, page: Option<u8>, allocation: u32) -> Result<Response, Failure> {
    let data = match page {
        None => standard(0x00, job.unit.identity()),
        Some(code) => vpd::page(job, code).ok_or(Sense::invalid_field(2))?,
    };
    Ok(job.parameter_data(data, allocation))
}

/// Standard data of a unit, or of the absence of one.
pub(crate) fn standard(peripheral: u8, identity: &Identity) -> Bytes {
    let mut out = vec![0; STANDARD_BYTES];
    out[0] = peripheral;
    // VERSION: SPC-4. HISUP and RESPONSE DATA FORMAT 2.
    out[2] = 0x06;
    out[3] = 0x12;
    out[4] = (STANDARD_BYTES - 5) as u8;
    // TPGS 01b (implicit) and 3PC; MULTIP; CMDQUE.
    out[5] = 0x18;
    out[6] = 0x10;
    out[7] = 0x02;
    out[8..16].copy_from_slice(&text::<8>(&identity.vendor));
    out[16..32].copy_from_slice(&text::<16>(&identity.product));
    out[32..36].copy_from_slice(&text::<4>(&identity.revision));
    for (slot, version) in out[58..74].chunks_exact_mut(2).zip(VERSIONS) {
        slot.copy_from_slice(&version.to_be_bytes());
    }
    Bytes::from(out)
}

/// Left-aligned ASCII, padded with spaces; what is not printable becomes a space.
fn text<const N: usize>(value: &str) -> [u8; N] {
    let mut out = [b' '; N];
    for (slot, byte) in out.iter_mut().zip(value.bytes()) {
        *slot = if byte.is_ascii_graphic() { byte } else { b' ' };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_padded_and_printable() {
        let identity = Identity { vendor: "Ü1".to_owned(), ..Identity::of_volume([0; 16]) };
        let data = standard(NO_UNIT, &identity);
        assert_eq!(data.len(), 96);
        assert_eq!((data[0], data[4]), (0x7f, 91));
        assert_eq!(&data[8..36], b"  1     Curve volume    0001");
        assert_eq!(&data[58..68], [0x00, 0xa0, 0x09, 0x60, 0x04, 0x60, 0x04, 0xc0, 0, 0]);
    }
}
