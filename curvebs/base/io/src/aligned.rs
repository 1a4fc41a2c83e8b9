//! Memory that disks can take without a copy of the kernel's.

use std::fmt;

/// Bytes of a page: what [`AlignedBuf`] begins at a multiple of, and the unit of writes around the page cache.
pub const PAGE_BYTES: usize = 4096;

/// What memory that is to be written around the page cache must begin at a multiple of, and its length be a multiple of:
/// the sector of a disk.
pub const SECTOR_ALIGN: usize = 512;

#[derive(Clone)]
#[repr(C, align(4096))]
struct Page([u8; PAGE_BYTES]);

const ZERO: Page = Page([0; PAGE_BYTES]);

/// A growing buffer that begins at a page boundary, as writes around the page cache demand. Keeps its memory when it is
/// cleared, so that one buffer serves many writes.
#[derive(Default)]
pub struct AlignedBuf {
    pages: Vec<Page>,
    len: usize,
}

impl AlignedBuf {
    /// An empty buffer; takes no memory yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes in it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends bytes.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        let start = self.len;
        self.grow(start + bytes.len());
        self[start..].copy_from_slice(bytes);
    }

    /// Appends zeros up to the next page boundary.
    pub fn fill_page(&mut self) {
        let start = self.len;
        self.grow(start.next_multiple_of(PAGE_BYTES));
        self[start..].fill(0);
    }

    /// Cuts it to `len` bytes; the memory stays.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn truncate(&mut self, len: usize) {
        assert!(len <= self.len, "a buffer is not lengthened by cutting it");
        self.len = len;
    }

    /// Moves the bytes from `from` on to the beginning and drops those before.
    pub fn keep_from(&mut self, from: usize) {
        self.copy_within(from.., 0);
        self.len -= from;
    }

    /// Gives memory beyond `bytes` back.
    pub fn shrink_to(&mut self, bytes: usize) {
        self.pages.truncate(self.len.max(bytes).div_ceil(PAGE_BYTES));
        self.pages.shrink_to_fit();
    }

    fn grow(&mut self, len: usize) {
        let pages = len.div_ceil(PAGE_BYTES);
        if pages > self.pages.len() {
            self.pages.resize(pages.max(2 * self.pages.len()), ZERO);
        }
        self.len = len;
    }
}

impl std::ops::Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        debug_assert!(self.len <= self.pages.len() * PAGE_BYTES);
        // SAFETY: the pages are initialised arrays of bytes one after the other, at least `len` bytes of them.
        unsafe { std::slice::from_raw_parts(self.pages.as_ptr().cast(), self.len) }
    }
}

impl std::ops::DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        debug_assert!(self.len <= self.pages.len() * PAGE_BYTES);
        // SAFETY: as for `deref`, and `self` is borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.pages.as_mut_ptr().cast(), self.len) }
    }
}

impl fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBuf({} bytes)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behaves_as_a_vector_that_begins_at_a_page() {
        let mut buf = AlignedBuf::new();
        let mut model = Vec::new();
        for n in 0..200usize {
            let part = vec![n as u8; n * 37 % 5000];
            buf.extend_from_slice(&part);
            model.extend_from_slice(&part);
            if n % 7 == 3 {
                buf.fill_page();
                model.resize(model.len().next_multiple_of(PAGE_BYTES), 0);
            }
            if n % 11 == 5 {
                let from = model.len() / 3;
                buf.keep_from(from);
                model.drain(..from);
            }
            if n % 50 == 49 {
                buf.truncate(model.len() / 2);
                model.truncate(model.len() / 2);
                buf.shrink_to(100);
            }
            assert_eq!(&buf[..], &model[..]);
            assert!((buf.as_ptr() as usize).is_multiple_of(PAGE_BYTES));
        }
    }
}
