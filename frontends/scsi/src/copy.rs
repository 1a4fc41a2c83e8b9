//! EXTENDED COPY(LID1) and RECEIVE COPY RESULTS (SPC-4 6.4, 6.24): block to block, between units of this target.
//!
//! A target descriptor (E4h) names a unit by one of its designators; a segment descriptor (02h) copies blocks from one
//! unit to another. The command is in the task sets of all the units that it touches, so that whoever preempts its nexus
//! on one of them waits for it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use crate::cdb::Blocks;
use crate::execute::{Job, writable};
use crate::failure::Failure;
use crate::opcodes::Access;
use crate::sense::{AdditionalSense, Sense, SenseKey};
use crate::status::Response;
use crate::target::UnitNexus;
use crate::task::TaskState;
use crate::unit::{ByteRange, Geometry, Identity};

const TARGETS_MAX: usize = 16;
const SEGMENTS_MAX: usize = 16;
const DESCRIPTOR_BYTES_MAX: usize = 2048;
/// Bytes of one segment: its two-byte count of blocks of 4096 bytes.
const SEGMENT_BYTES_MAX: u32 = u16::MAX as u32 * 4096;
/// Copied in one piece.
const PIECE_BYTES: u64 = 1 << 20;
/// Ended copies remembered for RECEIVE COPY RESULTS, for each nexus and unit.
const COPIES_MAX: usize = 16;

const HEADER_BYTES: usize = 16;
const TARGET_BYTES: usize = 32;
const SEGMENT_BYTES: usize = 28;
const IDENTIFICATION_TARGET: u8 = 0xe4;
const BLOCK_TO_BLOCK: u8 = 0x02;
/// LIST ID USAGE: the list id is not used.
const DISCARD: u8 = 3;

const PARAMETER_LIST_LENGTH: Sense = Sense::illegal(AdditionalSense::PARAMETER_LIST_LENGTH_ERROR);

const fn copy_aborted(code: AdditionalSense) -> Sense {
    Sense::new(SenseKey::CopyAborted, code)
}

/// How far a copy is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct CopyRecord {
    list_id: u8,
    /// COPY MANAGER STATUS: 0 in progress, 1 ended without errors, 2 with errors.
    status: u8,
    segments: u16,
    bytes: u32,
}

/// The copies of a nexus, for RECEIVE COPY RESULTS.
#[derive(Debug, Default)]
pub(crate) struct CopyLog(Mutex<VecDeque<CopyRecord>>);

impl CopyLog {
    fn begin(&self, list_id: u8) -> Result<(), Sense> {
        let mut log = self.0.lock().expect("no panic under the lock");
        if log.iter().any(|copy| copy.list_id == list_id && copy.status == 0) {
            return Err(Sense::illegal(AdditionalSense::OPERATION_IN_PROGRESS));
        }
        log.retain(|copy| copy.list_id != list_id);
        if log.len() == COPIES_MAX {
            log.pop_front();
        }
        log.push_back(CopyRecord { list_id, status: 0, segments: 0, bytes: 0 });
        Ok(())
    }

    fn update(&self, list_id: u8, change: impl FnOnce(&mut CopyRecord)) {
        let mut log = self.0.lock().expect("no panic under the lock");
        if let Some(copy) = log.iter_mut().find(|copy| copy.list_id == list_id) {
            change(copy);
        }
    }

    fn find(&self, list_id: u8) -> Option<CopyRecord> {
        self.0.lock().expect("no panic under the lock").iter().find(|copy| copy.list_id == list_id).copied()
    }
}

/// A parameter list, read.
#[derive(Clone, PartialEq, Eq, Debug)]
struct CopyList {
    /// `None` if results are not to be kept.
    list_id: Option<u8>,
    targets: Vec<TargetDescriptor>,
    segments: Vec<Segment>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct TargetDescriptor {
    /// NUL: nothing is there, and nothing may be copied.
    null: bool,
    kind: u8,
    designator: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Segment {
    source: u16,
    destination: u16,
    /// DC: the count is in blocks of the destination.
    count_of_destination: bool,
    count: u16,
    source_lba: u64,
    destination_lba: u64,
}

fn be<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    std::array::from_fn(|i| bytes[at + i])
}

fn read_list(list: &[u8]) -> Result<CopyList, Sense> {
    let header = list.get(..HEADER_BYTES).ok_or(PARAMETER_LIST_LENGTH)?;
    let targets_len = usize::from(u16::from_be_bytes(be(header, 2)));
    let segments_len = u32::from_be_bytes(be(header, 8)) as usize;
    let inline_len = u32::from_be_bytes(be(header, 12)) as usize;
    let descriptors_len = targets_len.saturating_add(segments_len);
    if descriptors_len > DESCRIPTOR_BYTES_MAX || list.len() - HEADER_BYTES < descriptors_len {
        return Err(PARAMETER_LIST_LENGTH);
    }
    if inline_len > 0 {
        return Err(Sense::illegal(AdditionalSense::INLINE_DATA_LENGTH_EXCEEDED));
    }
    let (targets, rest) = list[HEADER_BYTES..].split_at(targets_len);
    let list_id = (header[1] >> 3 & 3 != DISCARD).then_some(header[0]);
    Ok(CopyList { list_id, targets: read_targets(targets)?, segments: read_segments(&rest[..segments_len])? })
}

fn read_targets(bytes: &[u8]) -> Result<Vec<TargetDescriptor>, Sense> {
    if bytes.len() > TARGETS_MAX * TARGET_BYTES {
        return Err(Sense::illegal(AdditionalSense::TOO_MANY_TARGET_DESCRIPTORS));
    }
    let mut targets = Vec::new();
    for (index, bytes) in bytes.chunks(TARGET_BYTES).enumerate() {
        let at = (HEADER_BYTES + index * TARGET_BYTES) as u16;
        if bytes.len() < TARGET_BYTES {
            return Err(PARAMETER_LIST_LENGTH);
        }
        if bytes[0] != IDENTIFICATION_TARGET {
            return Err(Sense::illegal(AdditionalSense::UNSUPPORTED_TARGET_DESCRIPTOR_TYPE));
        }
        // Byte 1 had LU ID TYPE in SPC-3; SPC-4 has it ignored.
        let designator = bytes.get(8..8 + usize::from(bytes[7])).filter(|found| found.len() <= 20);
        let designator = designator.ok_or(Sense::invalid_parameter(at + 7))?.to_vec();
        targets.push(TargetDescriptor { null: bytes[1] & 0x20 != 0, kind: bytes[5] & 0x3f, designator });
    }
    Ok(targets)
}

fn read_segments(mut bytes: &[u8]) -> Result<Vec<Segment>, Sense> {
    let mut segments = Vec::new();
    while let Some(kind) = bytes.first() {
        if segments.len() == SEGMENTS_MAX {
            return Err(Sense::illegal(AdditionalSense::TOO_MANY_SEGMENT_DESCRIPTORS));
        }
        if *kind != BLOCK_TO_BLOCK {
            return Err(Sense::illegal(AdditionalSense::UNSUPPORTED_SEGMENT_DESCRIPTOR_TYPE));
        }
        let (segment, rest) = bytes.split_at_checked(SEGMENT_BYTES).ok_or(PARAMETER_LIST_LENGTH)?;
        segments.push(Segment {
            source: u16::from_be_bytes(be(segment, 4)),
            destination: u16::from_be_bytes(be(segment, 6)),
            count_of_destination: segment[1] & 0x02 != 0,
            count: u16::from_be_bytes(be(segment, 10)),
            source_lba: u64::from_be_bytes(be(segment, 12)),
            destination_lba: u64::from_be_bytes(be(segment, 20)),
        });
        bytes = rest;
    }
    Ok(segments)
}

/// EXTENDED COPY
pub(crate) async fn extended_copy(job: &Job<'_>, parameter_len: u32) -> Result<Response, Failure> {
    if parameter_len == 0 {
        return Ok(Response::good());
    }
    if parameter_len as usize > HEADER_BYTES + DESCRIPTOR_BYTES_MAX {
        return Err(PARAMETER_LIST_LENGTH.into());
    }
    let list = read_list(&job.parameter_list(parameter_len)?)?;
    let log = &job.nexus.copies;
    if let Some(list_id) = list.list_id {
        log.begin(list_id)?;
    }
    let result = copy_all(job, &list).await;
    if let Some(list_id) = list.list_id {
        log.update(list_id, |copy| copy.status = if result.is_ok() { 1 } else { 2 });
    }
    result.map(|()| Response::good())
}

async fn copy_all(job: &Job<'_>, list: &CopyList) -> Result<(), Failure> {
    let members: Vec<Option<Member<'_>>> =
        list.targets.iter().map(|target| Member::join(job, target)).collect();
    for segment in &list.segments {
        let member = |index: u16| members.get(usize::from(index)).and_then(Option::as_ref);
        let unreachable = copy_aborted(AdditionalSense::UNREACHABLE_COPY_TARGET);
        let source = member(segment.source).ok_or(unreachable)?;
        let destination = member(segment.destination).ok_or(unreachable)?;
        source.check_access(Access::Read)?;
        destination.check_access(Access::Write)?;
        writable(&destination.nexus.unit, &destination.geometry)
            .map_err(|_| copy_aborted(AdditionalSense::THIRD_PARTY_DEVICE_FAILURE))?;
        let (from, to) = ranges(segment, source.geometry, destination.geometry)?;
        copy(job, list.list_id, (source, from), (destination, to)).await?;
        if let Some(list_id) = list.list_id {
            job.nexus.copies.update(list_id, |copy| copy.segments += 1);
        }
    }
    Ok(())
}

/// The bytes that a segment reads and those that it writes: as many.
fn ranges(
    segment: &Segment,
    source: Geometry,
    destination: Geometry,
) -> Result<(ByteRange, ByteRange), Sense> {
    let unit = if segment.count_of_destination { &destination } else { &source };
    let len = u64::from(segment.count) * u64::from(unit.block_bytes);
    let range = |geometry: &Geometry, lba| {
        let block = u64::from(geometry.block_bytes);
        // Padding a block that would be partly copied is not offered.
        if !len.is_multiple_of(block) {
            return Err(copy_aborted(AdditionalSense::NO_ADDITIONAL_SENSE));
        }
        let blocks = Blocks { lba, count: (len / block) as u32 };
        geometry.range(blocks).map_err(|_| copy_aborted(AdditionalSense::NO_ADDITIONAL_SENSE))
    };
    Ok((range(&source, segment.source_lba)?, range(&destination, segment.destination_lba)?))
}

async fn copy(
    job: &Job<'_>,
    list_id: Option<u8>,
    (source, from): (&Member<'_>, ByteRange),
    (destination, to): (&Member<'_>, ByteRange),
) -> Result<(), Failure> {
    let failed = |_| copy_aborted(AdditionalSense::THIRD_PARTY_DEVICE_FAILURE);
    let mut at = 0;
    while at < from.len {
        job.check_aborted()?;
        let len = PIECE_BYTES.min(from.len - at);
        let read = source.nexus.unit.store().read(from.offset + at, len as u32);
        let data = read.await.map_err(failed)?;
        destination.nexus.unit.store().write(to.offset + at, data).await.map_err(failed)?;
        at += len;
        if let Some(list_id) = list_id {
            job.nexus.copies.update(list_id, |copy| copy.bytes = copy.bytes.saturating_add(len as u32));
        }
    }
    Ok(())
}

/// A unit that takes part in a copy, for the nexus that asked for it.
struct Member<'a> {
    nexus: Arc<UnitNexus>,
    geometry: Geometry,
    task: &'a Arc<TaskState>,
    /// Whether the task was taken into another unit's task set for this.
    entered: bool,
}

impl<'a> Member<'a> {
    /// Finds the unit that a descriptor names; `None` if there is none here.
    fn join(job: &Job<'a>, target: &TargetDescriptor) -> Option<Self> {
        if target.null {
            return None;
        }
        let mut units = job.units.target().units().into_iter();
        let (lun, _) = units.find(|(_, unit)| names(target, unit.identity()))?;
        let nexus = job.units.unit(lun)?;
        let entered = !Arc::ptr_eq(&nexus, job.nexus);
        if entered {
            nexus.enter(job.task);
        }
        Some(Self { geometry: nexus.unit.geometry(), nexus, task: job.task, entered })
    }

    fn check_access(&self, access: Access) -> Result<(), Sense> {
        let state = self.nexus.unit.reservations().view();
        let who = self.nexus.registrant();
        if state.blocked_by_legacy(who) || !state.allows(who, access) {
            return Err(copy_aborted(AdditionalSense::THIRD_PARTY_DEVICE_FAILURE));
        }
        Ok(())
    }
}

impl Drop for Member<'_> {
    fn drop(&mut self) {
        if self.entered {
            self.nexus.leave(self.task);
        }
    }
}

/// Whether a designator is one of the unit's.
fn names(target: &TargetDescriptor, identity: &Identity) -> bool {
    match target.kind {
        1 => identity.t10() == target.designator,
        3 => identity.naa()[..] == target.designator[..],
        _ => false,
    }
}

/// RECEIVE COPY RESULTS: COPY STATUS
pub(crate) fn copy_status(job: &Job<'_>, list_id: u8, allocation: u32) -> Result<Response, Failure> {
    let copy = job.nexus.copies.find(list_id).ok_or(Sense::invalid_field(2))?;
    let mut data = vec![0, 0, 0, 8, copy.status];
    data.extend_from_slice(&copy.segments.to_be_bytes());
    // TRANSFER COUNT UNITS 0: bytes.
    data.push(0);
    data.extend_from_slice(&copy.bytes.to_be_bytes());
    Ok(job.parameter_data(Bytes::from(data), allocation))
}

/// RECEIVE COPY RESULTS: OPERATING PARAMETERS
pub(crate) fn operating_parameters() -> Bytes {
    let mut data = vec![0; 44];
    let mut put = |at: usize, bytes: &[u8]| data[at..at + bytes.len()].copy_from_slice(bytes);
    // SNLID: a list id need not be used.
    put(4, &[0x01]);
    put(8, &(TARGETS_MAX as u16).to_be_bytes());
    put(10, &(SEGMENTS_MAX as u16).to_be_bytes());
    put(12, &(DESCRIPTOR_BYTES_MAX as u32).to_be_bytes());
    put(16, &SEGMENT_BYTES_MAX.to_be_bytes());
    // Copies at once, of the target and of a unit: as many as there may be tasks.
    put(34, &[0, 0xff, 0xff]);
    // Data are copied in multiples of 2^9 bytes.
    put(37, &[9]);
    put(43, &[2]);
    data.extend_from_slice(&[BLOCK_TO_BLOCK, IDENTIFICATION_TARGET]);
    let len = (data.len() - 4) as u32;
    data[..4].copy_from_slice(&len.to_be_bytes());
    Bytes::from(data)
}

#[cfg(test)]
mod tests {
    use proptest::collection;
    use proptest::prelude::{any, proptest};

    use super::*;

    /// A parameter list with one target and one segment.
    fn list() -> Vec<u8> {
        let mut list = vec![7, 0, 0, 32, 0, 0, 0, 0, 0, 0, 0, 28, 0, 0, 0, 0];
        list.extend([0xe4, 0, 0, 0, 1, 3, 0, 8]);
        list.extend(Identity::of_volume([9; 16]).naa());
        list.extend([0; 16]);
        list.extend([2, 0, 0, 24, 0, 0, 0, 0, 0, 0, 0, 4]);
        list.extend(5u64.to_be_bytes());
        list.extend(6u64.to_be_bytes());
        list
    }

    #[test]
    fn lists_are_read() {
        let read = read_list(&list()).expect("well formed");
        assert_eq!(read.list_id, Some(7));
        assert!(names(&read.targets[0], &Identity::of_volume([9; 16])));
        assert!(!names(&read.targets[0], &Identity::of_volume([8; 16])));
        let segment = Segment {
            source: 0,
            destination: 0,
            count_of_destination: false,
            count: 4,
            source_lba: 5,
            destination_lba: 6,
        };
        assert_eq!(read.segments, [segment]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let with = |at: usize, byte: u8| {
            let mut list = list();
            list[at] = byte;
            read_list(&list).map(|_| ())
        };
        assert_eq!(with(16, 0xe0), Err(Sense::illegal(AdditionalSense::UNSUPPORTED_TARGET_DESCRIPTOR_TYPE)));
        assert_eq!(with(48, 3), Err(Sense::illegal(AdditionalSense::UNSUPPORTED_SEGMENT_DESCRIPTOR_TYPE)));
        assert_eq!(with(17, 0xc0), Ok(()));
        assert_eq!(with(23, 21), Err(Sense::invalid_parameter(23)));
        assert_eq!(with(15, 1), Err(Sense::illegal(AdditionalSense::INLINE_DATA_LENGTH_EXCEEDED)));
        for len in [0, 15, 47, 75] {
            assert_eq!(read_list(&list()[..len]), Err(PARAMETER_LIST_LENGTH), "{len}");
        }
    }

    #[test]
    fn a_list_id_is_used_once_at_a_time() {
        let log = CopyLog::default();
        log.begin(1).expect("unused");
        assert_eq!(log.begin(1), Err(Sense::illegal(AdditionalSense::OPERATION_IN_PROGRESS)));
        log.update(1, |copy| copy.status = 1);
        log.begin(1).expect("ended");
        for list_id in 2..2 + COPIES_MAX as u8 {
            log.begin(list_id).expect("unused");
        }
        assert_eq!(log.find(1), None);
    }

    proptest! {
        #[test]
        fn garbage_does_no_harm(list in collection::vec(any::<u8>(), 0..200)) {
            let _ = read_list(&list);
        }
    }
}
