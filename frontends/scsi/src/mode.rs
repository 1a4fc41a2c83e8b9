//! Mode parameters: MODE SENSE and MODE SELECT, 6 and 10 (SPC-4 6.11–6.14, 7.5; SBC-3 6.5).
//!
//! Two pages, with what can be changed in them:
//!
//! | page | bytes | changeable |
//! |---|---|---|
//! | 08h caching | 20 | nothing. WCE = 0: a write that ended is durable |
//! | 0Ah control | 12 | D_SENSE (byte 2 bit 2), SWP (byte 4 bit 3). TAS = 1, QUEUE ALGORITHM MODIFIER = 1 |
//!
//! Changes are this gateway's and last until a reset: nothing is saved.

use std::sync::atomic::{AtomicU8, Ordering};

use bytes::Bytes;

use crate::cdb::ModeSense;
use crate::execute::Job;
use crate::failure::Failure;
use crate::sense::{AdditionalSense, Sense, SenseFormat};
use crate::status::Response;
use crate::unit::Geometry;

const CACHING: u8 = 0x08;
const CONTROL: u8 = 0x0a;
const ALL_PAGES: u8 = 0x3f;
const ALL_SUBPAGES: u8 = 0xff;

const D_SENSE: u8 = 1;
const SWP: u8 = 1 << 1;

const PARAMETER_LIST_LENGTH: Sense = Sense::illegal(AdditionalSense::PARAMETER_LIST_LENGTH_ERROR);

/// What MODE SELECT can change.
#[derive(Debug, Default)]
pub(crate) struct ModeParameters(AtomicU8);

impl ModeParameters {
    pub(crate) fn sense_format(&self) -> SenseFormat {
        if self.get() & D_SENSE != 0 { SenseFormat::Descriptor } else { SenseFormat::Fixed }
    }

    /// SWP: the initiators have protected the unit themselves.
    pub(crate) fn write_protected(&self) -> bool {
        self.get() & SWP != 0
    }

    pub(crate) fn reset(&self) {
        self.0.store(0, Ordering::Release);
    }

    fn get(&self) -> u8 {
        self.0.load(Ordering::Acquire)
    }
}

fn caching_page() -> Vec<u8> {
    let mut page = vec![CACHING, 18];
    page.resize(20, 0);
    page
}

fn control_page(flags: u8) -> Vec<u8> {
    let d_sense = if flags & D_SENSE != 0 { 0x04 } else { 0 };
    let swp = if flags & SWP != 0 { 0x08 } else { 0 };
    vec![CONTROL, 10, d_sense, 0x10, swp, 0x40, 0, 0, 0xff, 0xff, 0, 0]
}

/// The bits of a page that MODE SELECT may change.
fn changeable(page: u8) -> Vec<u8> {
    match page {
        CONTROL => vec![CONTROL, 10, 0x04, 0, 0x08, 0, 0, 0, 0, 0, 0, 0],
        _ => {
            let mut mask = caching_page();
            mask[2..].fill(0);
            mask
        }
    }
}

fn page(code: u8, page_control: u8, flags: u8) -> Vec<u8> {
    match (page_control, code) {
        (1, code) => changeable(code),
        (_, CACHING) => caching_page(),
        (2, _) => control_page(0),
        _ => control_page(flags),
    }
}

/// MODE SENSE
pub(crate) fn mode_sense(job: &Job<'_>, asked: ModeSense) -> Result<Response, Failure> {
    if asked.page_control == 3 {
        return Err(Sense::illegal(AdditionalSense::SAVING_PARAMETERS_NOT_SUPPORTED).into());
    }
    if asked.subpage != 0 && asked.subpage != ALL_SUBPAGES {
        return Err(Sense::invalid_field(3).into());
    }
    let codes: &[u8] = match asked.page {
        ALL_PAGES => &[CACHING, CONTROL],
        CACHING => &[CACHING],
        CONTROL => &[CONTROL],
        _ => return Err(Sense::invalid_bit(2, 5).into()),
    };
    let flags = job.unit.mode().get();
    let pages: Vec<u8> = codes.iter().flat_map(|code| page(*code, asked.page_control, flags)).collect();
    let protected = job.geometry.read_only || job.unit.mode().write_protected();
    let mut out = header(asked, protected, job.geometry, pages.len());
    out.extend(pages);
    Ok(job.parameter_data(Bytes::from(out), asked.allocation))
}

/// The header and the block descriptor. DPOFUA is set: both bits are taken.
fn header(asked: ModeSense, protected: bool, geometry: Geometry, pages_len: usize) -> Vec<u8> {
    let specific = if protected { 0x90 } else { 0x10 };
    let descriptor = block_descriptor(asked, geometry);
    let rest = descriptor.len() + pages_len;
    let mut out = if asked.ten {
        let [high, low] = ((6 + rest) as u16).to_be_bytes();
        let long = u8::from(descriptor.len() == 16);
        vec![high, low, 0, specific, long, 0, 0, descriptor.len() as u8]
    } else {
        vec![(3 + rest) as u8, 0, specific, descriptor.len() as u8]
    };
    out.extend(descriptor);
    out
}

fn block_descriptor(asked: ModeSense, geometry: Geometry) -> Vec<u8> {
    if asked.no_descriptor {
        return Vec::new();
    }
    let mut out = Vec::new();
    if asked.long_lba {
        out.extend_from_slice(&geometry.blocks.to_be_bytes());
        out.extend_from_slice(&[0; 4]);
    } else {
        // More blocks than fit are said with all ones.
        out.extend_from_slice(&u32::try_from(geometry.blocks).unwrap_or(u32::MAX).to_be_bytes());
    }
    out.extend_from_slice(&geometry.block_bytes.to_be_bytes());
    out
}

/// MODE SELECT
pub(crate) fn mode_select(
    job: &Job<'_>,
    ten: bool,
    page_format: bool,
    save: bool,
    parameter_len: u32,
) -> Result<Response, Failure> {
    if !page_format {
        return Err(Sense::invalid_bit(1, 4).into());
    }
    if save {
        return Err(Sense::invalid_bit(1, 0).into());
    }
    if parameter_len == 0 {
        return Ok(Response::good());
    }
    let list = job.parameter_list(parameter_len)?;
    let before = job.unit.mode().get();
    let after = select(&list, ten, job.geometry, before)?;
    if after != before {
        job.unit.mode().0.store(after, Ordering::Release);
        job.unit.raise_for_others(job.nexus, AdditionalSense::MODE_PARAMETERS_CHANGED);
    }
    Ok(Response::good())
}

/// The flags after a parameter list, all of which is checked before anything changes.
fn select(list: &[u8], ten: bool, geometry: Geometry, before: u8) -> Result<u8, Sense> {
    let (header_len, descriptor_len) = match (ten, list) {
        (false, [_, _, _, len, ..]) => (4, usize::from(*len)),
        (true, [_, _, _, _, _, _, high, low, ..]) => (8, usize::from(u16::from_be_bytes([*high, *low]))),
        _ => return Err(PARAMETER_LIST_LENGTH),
    };
    let body = &list[header_len..];
    let (descriptor, mut pages) = body.split_at_checked(descriptor_len).ok_or(PARAMETER_LIST_LENGTH)?;
    check_descriptor(descriptor, header_len, geometry)?;
    let mut flags = before;
    while let [code, rest @ ..] = pages {
        let at = (list.len() - pages.len()) as u16;
        let code = code & 0x7f;
        if code != CACHING && code != CONTROL {
            return Err(Sense::invalid_parameter(at));
        }
        let current = page(code, 0, flags);
        if rest.first().is_some_and(|len| usize::from(*len) != current.len() - 2) {
            return Err(Sense::invalid_parameter(at + 1));
        }
        let (wanted, rest) = pages.split_at_checked(current.len()).ok_or(PARAMETER_LIST_LENGTH)?;
        let mask = changeable(code);
        for (index, ((wanted, current), mask)) in wanted.iter().zip(&current).zip(&mask).enumerate().skip(2) {
            if (wanted ^ current) & !mask != 0 {
                return Err(Sense::invalid_parameter(at + index as u16));
            }
        }
        if code == CONTROL {
            flags =
                if wanted[2] & 0x04 != 0 { D_SENSE } else { 0 } | if wanted[4] & 0x08 != 0 { SWP } else { 0 };
        }
        pages = rest;
    }
    Ok(flags)
}

/// A block descriptor may say the block size that there is, and all blocks.
fn check_descriptor(descriptor: &[u8], at: usize, geometry: Geometry) -> Result<(), Sense> {
    let at = at as u16;
    let block_bytes = match descriptor {
        [] => return Ok(()),
        [_, _, _, _, _, a, b, c] => u32::from_be_bytes([0, *a, *b, *c]),
        [_, _, _, _, _, _, _, _, _, _, _, _, a, b, c, d] => u32::from_be_bytes([*a, *b, *c, *d]),
        _ => return Err(Sense::invalid_parameter(at - 1)),
    };
    if block_bytes == geometry.block_bytes || block_bytes == 0 {
        Ok(())
    } else {
        Err(Sense::invalid_parameter(at + 5))
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection;
    use proptest::prelude::{any, proptest};

    use super::*;

    const GEOMETRY: Geometry =
        Geometry { block_bytes: 512, blocks: 2048, transfer_max: 64, preferred_blocks: 8, read_only: false };

    fn list(d_sense: u8, swp: u8) -> Vec<u8> {
        let mut list = vec![0, 0, 0x10, 0];
        list.extend(control_page(0));
        list[4 + 2] = d_sense;
        list[4 + 4] = swp;
        list
    }

    #[test]
    fn only_what_is_changeable_changes() {
        for (list, flags) in [
            (list(0x04, 0), Ok(D_SENSE)),
            (list(0, 0x08), Ok(SWP)),
            (list(0, 0), Ok(0)),
            (list(0x02, 0), Err(Sense::invalid_parameter(6))),
            (list(0, 0x10), Err(Sense::invalid_parameter(8))),
            (vec![0, 0, 0], Err(PARAMETER_LIST_LENGTH)),
            (vec![0, 0, 0, 8], Err(PARAMETER_LIST_LENGTH)),
            (vec![0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 2, 0], Ok(0)),
            (vec![0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 4, 0], Err(Sense::invalid_parameter(9))),
            (vec![0, 0, 0, 0, 0x0a, 11], Err(Sense::invalid_parameter(5))),
            (vec![0, 0, 0, 0, 0x0a, 10, 0], Err(PARAMETER_LIST_LENGTH)),
            (vec![0, 0, 0, 0, 0x01, 10], Err(Sense::invalid_parameter(4))),
        ] {
            assert_eq!(select(&list, false, GEOMETRY, 0), flags, "{list:02x?}");
        }
    }

    #[test]
    fn headers_have_the_length_that_they_say() {
        let asked = ModeSense {
            ten: true,
            no_descriptor: false,
            long_lba: true,
            page_control: 0,
            page: ALL_PAGES,
            subpage: 0,
            allocation: 255,
        };
        let long = header(asked, true, GEOMETRY, 32);
        assert_eq!(&long[..8], [0, 6 + 16 + 32, 0, 0x90, 1, 0, 0, 16]);
        assert_eq!(long.len(), 24);
        let short = header(ModeSense { ten: false, long_lba: false, ..asked }, false, GEOMETRY, 32);
        assert_eq!(short, [3 + 8 + 32, 0, 0x10, 8, 0, 0, 8, 0, 0, 0, 2, 0]);
    }

    proptest! {
        #[test]
        fn garbage_does_no_harm(list in collection::vec(any::<u8>(), 0..64), ten in any::<bool>()) {
            let _ = select(&list, ten, GEOMETRY, 0);
        }
    }
}
