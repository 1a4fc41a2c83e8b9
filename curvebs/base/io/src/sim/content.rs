//! The bytes of one simulated file, and the changes that have not been synced.

use std::ops::Range;
use std::sync::Arc;

use rand::Rng;
use rand::rngs::StdRng;

/// Unit of allocation.
pub(super) const PAGE: u64 = 4096;
/// Unit of atomicity: a crash keeps or loses a sector of a write as a whole.
pub(super) const SECTOR: u64 = 512;

type Page = [u8; PAGE as usize];

/// One change of a file since its last sync.
#[derive(Clone)]
pub(super) enum Change {
    Write { offset: u64, bytes: Vec<u8> },
    SetLen(u64),
    Allocate { offset: u64, len: u64 },
    Punch { offset: u64, len: u64 },
}

/// What a file has at one page.
#[derive(Clone)]
enum Slot {
    /// No room; reads as zeros.
    Hole,
    /// Room that was never written, or written with zeros.
    Zeros,
    Data(Arc<Page>),
}

static ZEROS: Page = [0; PAGE as usize];

/// Bytes of a file. Behind the last slot are holes.
#[derive(Clone, Default)]
pub(super) struct Content {
    slots: Vec<Slot>,
    /// Slots that are no hole.
    allocated: u64,
    len: u64,
}

fn pages_of(offset: u64, len: u64) -> Range<usize> {
    (offset / PAGE) as usize..(offset + len).div_ceil(PAGE) as usize
}

impl Content {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn allocated_pages(&self) -> u64 {
        self.allocated
    }

    /// How many pages a change would allocate.
    pub(super) fn pages_missing(&self, offset: u64, len: u64) -> u64 {
        if len == 0 {
            return 0;
        }
        let wanted = pages_of(offset, len);
        let known = wanted.start.min(self.slots.len())..wanted.end.min(self.slots.len());
        let present = self.slots[known].iter().filter(|slot| !matches!(slot, Slot::Hole)).count();
        (wanted.len() - present) as u64
    }

    pub(super) fn read(&self, offset: u64, buf: &mut [u8]) -> usize {
        let n = self.len.saturating_sub(offset).min(buf.len() as u64) as usize;
        let mut done = 0;
        while done < n {
            let at = offset + done as u64;
            let within = (at % PAGE) as usize;
            let part = (PAGE as usize - within).min(n - done);
            match self.slots.get((at / PAGE) as usize) {
                Some(Slot::Data(page)) => {
                    buf[done..done + part].copy_from_slice(&page[within..within + part])
                }
                _ => buf[done..done + part].fill(0),
            }
            done += part;
        }
        n
    }

    pub(super) fn apply(&mut self, change: &Change) {
        match change {
            Change::Write { offset, bytes } => self.write(*offset, bytes),
            Change::SetLen(len) => self.set_len(*len),
            Change::Allocate { offset, len } => {
                if *len > 0 {
                    for page in pages_of(*offset, *len) {
                        self.allocate(page);
                    }
                    self.len = self.len.max(offset + len);
                }
            }
            Change::Punch { offset, len } => self.punch(*offset, *len),
        }
    }

    /// Applies what a power loss leaves of a change: each sector of a write, each other change, with even odds.
    pub(super) fn apply_torn(&mut self, change: &Change, rng: &mut StdRng) {
        let Change::Write { offset, bytes } = change else {
            if rng.random() {
                self.apply(change);
            }
            return;
        };
        let mut at = 0;
        while at < bytes.len() {
            let position = offset + at as u64;
            let part = ((SECTOR - position % SECTOR) as usize).min(bytes.len() - at);
            if rng.random() {
                self.write(position, &bytes[at..at + part]);
            }
            at += part;
        }
    }

    pub(super) fn flip_bit(&mut self, offset: u64, bit: u8) {
        if offset < self.len {
            let page = self.page_mut(offset / PAGE);
            page[(offset % PAGE) as usize] ^= 1 << (bit % 8);
        }
    }

    /// Offsets of pages that hold bytes, for choosing a place to damage.
    pub(super) fn written_pages(&self) -> Vec<u64> {
        let written = self.slots.iter().enumerate().filter(|(_, slot)| matches!(slot, Slot::Data(_)));
        written.map(|(n, _)| n as u64 * PAGE).collect()
    }

    fn allocate(&mut self, page: usize) -> &mut Slot {
        if page >= self.slots.len() {
            self.slots.resize(page + 1, Slot::Hole);
        }
        let slot = &mut self.slots[page];
        if matches!(slot, Slot::Hole) {
            *slot = Slot::Zeros;
            self.allocated += 1;
        }
        slot
    }

    fn page_mut(&mut self, page: u64) -> &mut Page {
        let slot = self.allocate(page as usize);
        if !matches!(slot, Slot::Data(_)) {
            *slot = Slot::Data(Arc::new(ZEROS));
        }
        match slot {
            Slot::Data(page) => Arc::make_mut(page),
            Slot::Hole | Slot::Zeros => unreachable!("was just filled"),
        }
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done as u64;
            let within = (at % PAGE) as usize;
            let part = (PAGE as usize - within).min(bytes.len() - done);
            let piece = &bytes[done..done + part];
            // Files that are filled with zeros to have their room are most of what is written.
            let clean = !matches!(self.slots.get((at / PAGE) as usize), Some(Slot::Data(_)));
            if clean && *piece == ZEROS[..part] {
                self.allocate((at / PAGE) as usize);
            } else {
                self.page_mut(at / PAGE)[within..within + part].copy_from_slice(piece);
            }
            done += part;
        }
        if !bytes.is_empty() {
            self.len = self.len.max(offset + bytes.len() as u64);
        }
    }

    fn set_len(&mut self, len: u64) {
        if len < self.len {
            let kept = (len.div_ceil(PAGE) as usize).min(self.slots.len());
            let cut = self.slots.drain(kept..).filter(|slot| !matches!(slot, Slot::Hole)).count();
            self.allocated -= cut as u64;
            self.zero_within_page(len, PAGE - len % PAGE);
        }
        self.len = len;
    }

    fn punch(&mut self, offset: u64, len: u64) {
        let end = (offset + len).min(self.len.next_multiple_of(PAGE));
        let mut at = offset;
        while at < end {
            let part = (PAGE - at % PAGE).min(end - at);
            if part == PAGE {
                if let Some(slot) = self.slots.get_mut((at / PAGE) as usize)
                    && !matches!(std::mem::replace(slot, Slot::Hole), Slot::Hole)
                {
                    self.allocated -= 1;
                }
            } else {
                self.zero_within_page(at, part);
            }
            at += part;
        }
    }

    fn zero_within_page(&mut self, offset: u64, len: u64) {
        let within = (offset % PAGE) as usize;
        if matches!(self.slots.get((offset / PAGE) as usize), Some(Slot::Data(_))) {
            self.page_mut(offset / PAGE)[within..within + len as usize].fill(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(content: &Content, offset: u64, len: usize) -> Vec<u8> {
        let mut buf = vec![9; len];
        let n = content.read(offset, &mut buf);
        buf.truncate(n);
        buf
    }

    #[test]
    fn behaves_like_a_file() {
        let mut content = Content::default();
        content.apply(&Change::Write { offset: 4094, bytes: b"abcd".to_vec() });
        assert_eq!((content.len(), content.allocated_pages()), (4098, 2));
        assert_eq!(bytes(&content, 4093, 100), b"\0abcd");
        content.apply(&Change::SetLen(4095));
        content.apply(&Change::SetLen(5000));
        assert_eq!(bytes(&content, 4094, 4), b"a\0\0\0");
        content.apply(&Change::Allocate { offset: 0, len: 12288 });
        assert_eq!((content.len(), content.allocated_pages()), (12288, 3));
        assert_eq!(content.pages_missing(8192, 8192), 1);
        content.apply(&Change::Write { offset: 0, bytes: vec![1; 12288] });
        content.apply(&Change::Punch { offset: 4000, len: 4292 });
        assert_eq!(content.allocated_pages(), 2);
        assert_eq!(bytes(&content, 3999, 2), [1, 0]);
        assert_eq!(bytes(&content, 8291, 2), [0, 1]);
    }
}
