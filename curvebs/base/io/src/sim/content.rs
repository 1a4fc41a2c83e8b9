//! The bytes of one simulated file, and the changes that have not been synced.

use std::collections::BTreeMap;
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

/// Bytes of a file. A page that is present is allocated; `None` is allocated and reads as zeros.
#[derive(Clone, Default)]
pub(super) struct Content {
    pages: BTreeMap<u64, Option<Arc<Page>>>,
    len: u64,
}

fn pages_of(offset: u64, len: u64) -> Range<u64> {
    offset / PAGE..(offset + len).div_ceil(PAGE)
}

impl Content {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn allocated_pages(&self) -> u64 {
        self.pages.len() as u64
    }

    /// How many pages a change would allocate.
    pub(super) fn pages_missing(&self, offset: u64, len: u64) -> u64 {
        if len == 0 {
            return 0;
        }
        let wanted = pages_of(offset, len);
        let present = self.pages.range(wanted.clone()).count() as u64;
        wanted.end - wanted.start - present
    }

    pub(super) fn read(&self, offset: u64, buf: &mut [u8]) -> usize {
        let n = self.len.saturating_sub(offset).min(buf.len() as u64) as usize;
        let mut done = 0;
        while done < n {
            let at = offset + done as u64;
            let within = (at % PAGE) as usize;
            let part = (PAGE as usize - within).min(n - done);
            match self.pages.get(&(at / PAGE)) {
                Some(Some(page)) => buf[done..done + part].copy_from_slice(&page[within..within + part]),
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
                        self.pages.entry(page).or_insert(None);
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
        self.pages.iter().filter(|(_, page)| page.is_some()).map(|(n, _)| n * PAGE).collect()
    }

    fn page_mut(&mut self, page: u64) -> &mut Page {
        let slot = self.pages.entry(page).or_insert(None);
        Arc::make_mut(slot.get_or_insert_with(|| Arc::new([0; PAGE as usize])))
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done as u64;
            let within = (at % PAGE) as usize;
            let part = (PAGE as usize - within).min(bytes.len() - done);
            self.page_mut(at / PAGE)[within..within + part].copy_from_slice(&bytes[done..done + part]);
            done += part;
        }
        if !bytes.is_empty() {
            self.len = self.len.max(offset + bytes.len() as u64);
        }
    }

    fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.pages.split_off(&len.div_ceil(PAGE));
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
                self.pages.remove(&(at / PAGE));
            } else {
                self.zero_within_page(at, part);
            }
            at += part;
        }
    }

    fn zero_within_page(&mut self, offset: u64, len: u64) {
        let within = (offset % PAGE) as usize;
        if self.pages.get(&(offset / PAGE)).is_some_and(Option::is_some) {
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
