//! Vital product data pages (SPC-4 7.8, SBC-3 6.6).

use bytes::Bytes;

use crate::compare::compare_max;
use crate::execute::Job;
use crate::provisioning::{UNMAP_BLOCKS_MAX, UNMAP_DESCRIPTORS_MAX, WRITE_SAME_BYTES_MAX};

const SUPPORTED: u8 = 0x00;
const SERIAL: u8 = 0x80;
const IDENTIFICATION: u8 = 0x83;
const EXTENDED: u8 = 0x86;
const BLOCK_LIMITS: u8 = 0xb0;
const CHARACTERISTICS: u8 = 0xb1;
const PROVISIONING: u8 = 0xb2;

const PAGES: [u8; 7] =
    [SUPPORTED, SERIAL, IDENTIFICATION, EXTENDED, BLOCK_LIMITS, CHARACTERISTICS, PROVISIONING];

/// A page with its header; `None` if there is no such page.
pub(crate) fn page(job: &Job<'_>, code: u8) -> Option<Bytes> {
    let body = match code {
        SUPPORTED => PAGES.to_vec(),
        SERIAL => job.unit.identity().serial().into_bytes(),
        IDENTIFICATION => identification(job),
        EXTENDED => extended(),
        BLOCK_LIMITS => block_limits(job),
        CHARACTERISTICS => characteristics(),
        PROVISIONING => provisioning(),
        _ => return None,
    };
    let mut out = vec![0, code];
    out.extend_from_slice(&(body.len() as u16).to_be_bytes());
    out.extend(body);
    Some(Bytes::from(out))
}

/// Code sets.
const BINARY: u8 = 1;
const ASCII: u8 = 2;
const UTF8: u8 = 3;
/// Associations, in place.
const LOGICAL_UNIT: u8 = 0x00;
const TARGET_PORT: u8 = 0x10;
const TARGET_DEVICE: u8 = 0x20;
/// Designator types.
const T10_VENDOR: u8 = 1;
const NAA: u8 = 3;
const RELATIVE_PORT: u8 = 4;
const PORT_GROUP: u8 = 5;
const SCSI_NAME: u8 = 8;

/// Device identification: the unit by NAA and T10 vendor id, the port by number, group and name, the target by name.
fn identification(job: &Job<'_>) -> Vec<u8> {
    let identity = job.unit.identity();
    let port = &job.nexus.nexus.target_port;
    let group = job.units.port_group_of(port.relative_id);
    let mut out = Vec::new();
    designator(&mut out, BINARY, LOGICAL_UNIT | NAA, &identity.naa());
    designator(&mut out, ASCII, LOGICAL_UNIT | T10_VENDOR, &identity.t10());
    designator(&mut out, BINARY, TARGET_PORT | RELATIVE_PORT, &number(port.relative_id));
    designator(&mut out, BINARY, TARGET_PORT | PORT_GROUP, &number(group));
    designator(&mut out, UTF8, TARGET_PORT | SCSI_NAME, &name(&port.to_string()));
    designator(&mut out, UTF8, TARGET_DEVICE | SCSI_NAME, &name(&port.name));
    out
}

fn designator(out: &mut Vec<u8>, code_set: u8, kind: u8, value: &[u8]) {
    let port_or_device = kind & 0x30 != 0;
    // PIV and iSCSI's protocol identifier, where the name is one of the protocol's.
    let protocol = if port_or_device { crate::nexus::PROTOCOL_ISCSI << 4 } else { 0 };
    let valid = if port_or_device { 0x80 } else { 0 };
    out.extend_from_slice(&[protocol | code_set, valid | kind, 0, value.len() as u8]);
    out.extend_from_slice(value);
}

fn number(value: u16) -> [u8; 4] {
    let [high, low] = value.to_be_bytes();
    [0, 0, high, low]
}

/// Null-terminated and padded to a multiple of four.
fn name(value: &str) -> Vec<u8> {
    let mut out = value.as_bytes().to_vec();
    out.push(0);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

/// Extended INQUIRY data: no protection, simple tasks.
fn extended() -> Vec<u8> {
    let mut out = vec![0; 60];
    out[1] = 0x01;
    out
}

/// Block limits. Offsets here are those of the page less 4.
fn block_limits(job: &Job<'_>) -> Vec<u8> {
    let geometry = job.geometry;
    let mut out = vec![0; 60];
    let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
    let granularity = geometry.preferred_blocks;
    // WSNZ: WRITE SAME of 0 blocks is refused.
    put(0, &[0x01, compare_max(geometry.block_bytes)]);
    put(2, &u16::try_from(granularity).unwrap_or(u16::MAX).to_be_bytes());
    put(4, &geometry.transfer_max.to_be_bytes());
    put(8, &((1 << 20) / geometry.block_bytes).min(geometry.transfer_max).to_be_bytes());
    put(16, &UNMAP_BLOCKS_MAX.to_be_bytes());
    put(20, &UNMAP_DESCRIPTORS_MAX.to_be_bytes());
    put(24, &granularity.to_be_bytes());
    // UGAVALID, with an alignment of 0.
    put(28, &0x8000_0000u32.to_be_bytes());
    put(32, &(WRITE_SAME_BYTES_MAX / u64::from(geometry.block_bytes)).to_be_bytes());
    put(40, &(job.store().atomic_write_max() / geometry.block_bytes).to_be_bytes());
    out
}

/// Block device characteristics: nothing rotates.
fn characteristics() -> Vec<u8> {
    let mut out = vec![0; 60];
    out[1] = 0x01;
    out
}

/// Logical block provisioning: thin; UNMAP, WRITE SAME(16) and (10) unmap; what is unmapped reads as zeros. No threshold
/// exponent: usage thresholds are the cluster's, not a unit's.
fn provisioning() -> Vec<u8> {
    vec![0, 0x80 | 0x40 | 0x20 | 0x04, 0x02, 0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn designators_say_their_protocol_and_length() {
        let mut out = Vec::new();
        designator(&mut out, BINARY, LOGICAL_UNIT | NAA, &[0x30; 8]);
        designator(&mut out, UTF8, TARGET_PORT | SCSI_NAME, &name("iqn.a,t,0x0001"));
        assert_eq!(out[..4], [0x01, 0x03, 0, 8]);
        assert_eq!(out[12..16], [0x53, 0x98, 0, 16]);
        assert_eq!(&out[16..], b"iqn.a,t,0x0001\0\0");
    }
}
