//! A sparse device in memory.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};

use bytes::{Bytes, BytesMut};

use crate::compare::{first_difference, total_bytes};
use crate::device::{
    Allocation, BlockDevice, BlockError, BlockFuture, Compared, DeviceShape, Extent, ZeroMode,
};
use crate::zeroes::push_zeroes;

/// The unit of allocation in bytes.
const PAGE_BYTES: u64 = 4096;
/// Pages behind one lock: 2 MiB.
const REGION_PAGES: u64 = 512;
const REGION_BYTES: u64 = PAGE_BYTES * REGION_PAGES;
const REQUEST_BYTES_MAX: u32 = 32 << 20;

/// Holds what was written to it, a page at a time, and nothing else; everything is lost when it is dropped.
///
/// It is the twin of a volume for tests, and the device behind a frontend's own benchmark; so an operation costs a lock
/// and a lookup per 2 MiB region, and a read shares pages instead of copying them. A written page is a copy of its own:
/// keeping the caller's buffer would pin a whole socket buffer for 4 KiB.
///
/// Operations complete at once. A page changes under its region's lock, so overlapping operations never mix within it.
pub struct MemoryDevice {
    shape: DeviceShape,
    regions: Vec<Mutex<Region>>,
    closed: AtomicBool,
}

/// `None`, the region or the page, is a hole.
#[derive(Default)]
struct Region(Option<Box<[Option<Bytes>]>>);

/// The part of a request that lies in one page.
#[derive(Clone, Copy)]
struct PageSpan {
    page: usize,
    from: usize,
    len: usize,
}

impl MemoryDevice {
    /// An empty device. `block_min` is 512 or 4096, and `size` a multiple of it.
    pub fn new(size: u64, block_min: u32) -> Self {
        assert!(
            block_min == 512 || block_min == 4096,
            "a device addresses 512 or 4096 bytes, not {block_min}"
        );
        assert!(size.is_multiple_of(u64::from(block_min)), "size {size} is no multiple of {block_min}");
        let regions = (0..size.div_ceil(REGION_BYTES)).map(|_| Mutex::default()).collect();
        let shape = DeviceShape {
            size,
            block_min,
            block_preferred: PAGE_BYTES as u32,
            request_max: REQUEST_BYTES_MAX,
            read_only: false,
        };
        Self { shape, regions, closed: AtomicBool::new(false) }
    }

    /// Bytes held now, in whole pages.
    pub fn allocated_bytes(&self) -> u64 {
        let pages =
            |region: &Mutex<Region>| region.lock().expect("no panic under the lock").allocated_pages();
        self.regions.iter().map(pages).sum::<u64>() * PAGE_BYTES
    }

    fn check(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(BlockError::Closed);
        }
        let align = u64::from(self.shape.block_min);
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.shape.size);
        if inside && offset.is_multiple_of(align) && len.is_multiple_of(align) {
            return Ok(());
        }
        Err(BlockError::BadRange { offset, len, size: self.shape.size })
    }

    fn read_now(&self, offset: u64, len: u32) -> Result<Vec<Bytes>, BlockError> {
        self.check(offset, u64::from(len))?;
        let mut parts = Vec::with_capacity(len as usize / PAGE_BYTES as usize + 1);
        let mut hole = 0;
        self.for_each_page(offset, u64::from(len), |region, span| match region.page(span.page) {
            Some(page) => {
                push_zeroes(&mut parts, std::mem::take(&mut hole));
                parts.push(page.slice(span.from..span.from + span.len));
            }
            None => hole += span.len as u64,
        });
        push_zeroes(&mut parts, hole);
        Ok(parts)
    }

    fn write_now(&self, offset: u64, data: &[Bytes]) -> Result<(), BlockError> {
        let len = total_bytes(data);
        self.check(offset, len)?;
        let mut source = Source { parts: data, at: 0 };
        self.for_each_page(offset, len, |region, span| region.write(span, &mut source));
        Ok(())
    }

    fn clear_now(&self, offset: u64, len: u64, keep_allocated: bool) -> Result<(), BlockError> {
        self.check(offset, len)?;
        self.for_each_page(offset, len, |region, span| region.clear(span, keep_allocated));
        Ok(())
    }

    fn status_now(&self, offset: u64, len: u64) -> Result<Vec<Extent>, BlockError> {
        self.check(offset, len)?;
        let mut extents: Vec<Extent> = Vec::new();
        self.for_each_page(offset, len, |region, span| {
            let allocation =
                if region.page(span.page).is_some() { Allocation::Data } else { Allocation::Hole };
            match extents.last_mut() {
                Some(last) if last.allocation == allocation => last.len += span.len as u64,
                _ => extents.push(Extent { len: span.len as u64, allocation }),
            }
        });
        Ok(extents)
    }

    /// Compares and writes with all regions of the range locked, in their order.
    fn compare_now(&self, offset: u64, expected: &[Bytes], data: &[Bytes]) -> Result<Compared, BlockError> {
        let len = total_bytes(data);
        self.check(offset, len)?;
        if total_bytes(expected) != len {
            return Err(BlockError::Unsupported("a comparison with another length"));
        }
        let first = (offset / REGION_BYTES) as usize;
        let end = ((offset + len).div_ceil(REGION_BYTES) as usize).max(first);
        let mut held: Vec<MutexGuard<'_, Region>> = Vec::with_capacity(end - first);
        for region in &self.regions[first..end] {
            held.push(region.lock().expect("no panic under the lock"));
        }
        let mut found = Vec::new();
        for (region, span) in spans(offset, len) {
            match held[region - first].page(span.page) {
                Some(page) => found.push(page.slice(span.from..span.from + span.len)),
                None => push_zeroes(&mut found, span.len as u64),
            }
        }
        if let Some(at) = first_difference(&found, expected) {
            return Ok(Compared::Differs { at });
        }
        drop(found);
        let mut source = Source { parts: data, at: 0 };
        for (region, span) in spans(offset, len) {
            held[region - first].write(span, &mut source);
        }
        Ok(Compared::Written)
    }

    /// Visits the pages of a range in order, each under its region's lock.
    fn for_each_page(&self, offset: u64, len: u64, mut visit: impl FnMut(&mut Region, PageSpan)) {
        let end = offset + len;
        let mut at = offset;
        while at < end {
            let index = (at / REGION_BYTES) as usize;
            let region_end = end.min((index as u64 + 1) * REGION_BYTES);
            let mut region = self.regions[index].lock().expect("no panic under the lock");
            while at < region_end {
                let from = at % PAGE_BYTES;
                let span_len = (PAGE_BYTES - from).min(region_end - at);
                let page = (at % REGION_BYTES / PAGE_BYTES) as usize;
                visit(&mut region, PageSpan { page, from: from as usize, len: span_len as usize });
                at += span_len;
            }
        }
    }
}

/// The pages of a range in order, each with the number of its region.
fn spans(offset: u64, len: u64) -> impl Iterator<Item = (usize, PageSpan)> {
    let end = offset + len;
    let mut at = offset;
    std::iter::from_fn(move || {
        let from = at % PAGE_BYTES;
        let len = (PAGE_BYTES - from).min(end - at);
        let page = (at % REGION_BYTES / PAGE_BYTES) as usize;
        let region = (at / REGION_BYTES) as usize;
        at += len;
        (len > 0).then_some((region, PageSpan { page, from: from as usize, len: len as usize }))
    })
}

impl Region {
    fn page(&self, index: usize) -> Option<&Bytes> {
        self.0.as_ref()?[index].as_ref()
    }

    fn pages_mut(&mut self) -> &mut [Option<Bytes>] {
        self.0.get_or_insert_with(|| vec![None; REGION_PAGES as usize].into_boxed_slice())
    }

    fn allocated_pages(&self) -> u64 {
        self.0.as_ref().map_or(0, |pages| pages.iter().flatten().count() as u64)
    }

    fn write(&mut self, span: PageSpan, source: &mut Source<'_>) {
        let slot = &mut self.pages_mut()[span.page];
        let mut page = match slot.take().map(Bytes::try_into_mut) {
            // Nobody reads it just now: it is overwritten in place.
            Some(Ok(page)) => page,
            Some(Err(shared)) => BytesMut::from(&shared[..]),
            None => BytesMut::zeroed(PAGE_BYTES as usize),
        };
        let mut at = span.from;
        source.take(span.len, |piece| {
            page[at..at + piece.len()].copy_from_slice(piece);
            at += piece.len();
        });
        *slot = Some(page.freeze());
    }

    fn clear(&mut self, span: PageSpan, keep_allocated: bool) {
        if self.0.is_none() && !keep_allocated {
            return;
        }
        let slot = &mut self.pages_mut()[span.page];
        if span.len == PAGE_BYTES as usize {
            *slot = keep_allocated.then(|| Bytes::from(vec![0; PAGE_BYTES as usize]));
        } else if slot.is_some() || keep_allocated {
            let mut page = slot.as_deref().map_or_else(|| vec![0; PAGE_BYTES as usize], <[u8]>::to_vec);
            page[span.from..span.from + span.len].fill(0);
            *slot = Some(Bytes::from(page));
        }
    }
}

/// A cursor over the parts of a write.
struct Source<'a> {
    parts: &'a [Bytes],
    at: usize,
}

impl Source<'_> {
    fn take(&mut self, mut len: usize, mut piece: impl FnMut(&[u8])) {
        while len > 0 {
            let part = &self.parts[0][self.at..];
            let n = part.len().min(len);
            piece(&part[..n]);
            len -= n;
            self.at += n;
            if self.at == self.parts[0].len() {
                self.parts = &self.parts[1..];
                self.at = 0;
            }
        }
    }
}

impl BlockDevice for MemoryDevice {
    fn shape(&self) -> DeviceShape {
        self.shape
    }

    fn read(&self, offset: u64, len: u32) -> BlockFuture<'_, Vec<Bytes>> {
        Box::pin(std::future::ready(self.read_now(offset, len)))
    }

    fn write(&self, offset: u64, data: Vec<Bytes>) -> BlockFuture<'_, ()> {
        Box::pin(std::future::ready(self.write_now(offset, &data)))
    }

    fn flush(&self) -> BlockFuture<'_, ()> {
        Box::pin(std::future::ready(self.check(0, 0)))
    }

    fn discard(&self, offset: u64, len: u64) -> BlockFuture<'_, ()> {
        Box::pin(std::future::ready(self.clear_now(offset, len, false)))
    }

    fn write_zeroes(&self, offset: u64, len: u64, mode: ZeroMode) -> BlockFuture<'_, ()> {
        if mode.fast_only && mode.keep_allocated {
            return Box::pin(std::future::ready(Err(BlockError::Unsupported(
                "fast zeroing that keeps space",
            ))));
        }
        Box::pin(std::future::ready(self.clear_now(offset, len, mode.keep_allocated)))
    }

    fn block_status(&self, offset: u64, len: u64) -> BlockFuture<'_, Vec<Extent>> {
        Box::pin(std::future::ready(self.status_now(offset, len)))
    }

    fn compare_and_write(
        &self,
        offset: u64,
        expected: Vec<Bytes>,
        data: Vec<Bytes>,
    ) -> BlockFuture<'_, Compared> {
        Box::pin(std::future::ready(self.compare_now(offset, &expected, &data)))
    }

    fn close(&self) -> BlockFuture<'_, ()> {
        self.closed.store(true, Ordering::Release);
        Box::pin(std::future::ready(Ok(())))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Strategy, any, prop_oneof, proptest};
    use proptest::{collection, prop_assert_eq};

    use super::*;

    const SIZE: u64 = 3 << 20;

    fn bytes(device: &MemoryDevice, offset: u64, len: u32) -> Vec<u8> {
        device.read_now(offset, len).expect("in range").concat()
    }

    #[test]
    fn a_new_device_reads_as_zeros_and_is_one_hole() {
        let device = MemoryDevice::new(SIZE, 4096);
        assert_eq!(bytes(&device, 0, SIZE as u32), vec![0; SIZE as usize]);
        assert_eq!(
            device.status_now(0, SIZE).expect("in range"),
            [Extent { len: SIZE, allocation: Allocation::Hole }]
        );
        assert_eq!(device.allocated_bytes(), 0);
    }

    #[test]
    fn holes_are_read_as_shared_zeroes() {
        let device = MemoryDevice::new(SIZE, 4096);
        device.write_now(4096, &[Bytes::from(vec![7; 4096])]).expect("in range");
        let parts = device.read_now(0, 16384).expect("in range");
        assert_eq!(parts.iter().map(crate::is_zeroes).collect::<Vec<_>>(), [true, false, true]);
    }

    #[test]
    fn ranges_outside_or_unaligned_change_nothing() {
        let device = MemoryDevice::new(SIZE, 4096);
        for (offset, len) in
            [(512, 4096), (0, 512), (SIZE, 4096), (SIZE - 4096, 8192), (u64::MAX - 4095, 4096)]
        {
            let refused = Err(BlockError::BadRange { offset, len, size: SIZE });
            assert_eq!(device.clear_now(offset, len, true), refused);
        }
        assert_eq!(device.allocated_bytes(), 0);
    }

    #[test]
    fn keeping_space_allocates_and_discarding_frees_it() {
        let device = MemoryDevice::new(SIZE, 4096);
        device.clear_now(0, 8192, true).expect("in range");
        assert_eq!(device.allocated_bytes(), 8192);
        device.clear_now(4096, 4096, false).expect("in range");
        assert_eq!(device.allocated_bytes(), 4096);
    }

    #[test]
    fn a_closed_device_says_so() {
        let device = MemoryDevice::new(SIZE, 4096);
        drop(device.close());
        assert_eq!(device.read_now(0, 4096), Err(BlockError::Closed));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Write { sector: u64, parts: Vec<u8> },
        Clear { sector: u64, sectors: u64, keep: bool },
        Compare { sector: u64, sectors: u64, flip: Option<u16> },
        Read { sector: u64, sectors: u64 },
    }

    const SECTORS: u64 = SIZE / 512;

    fn step() -> impl Strategy<Value = Step> {
        let place = 0..SECTORS - 64;
        prop_oneof![
            (place.clone(), collection::vec(any::<u8>(), 1..6))
                .prop_map(|(sector, parts)| Step::Write { sector, parts }),
            (place.clone(), 1u64..64, any::<bool>()).prop_map(|(sector, sectors, keep)| Step::Clear {
                sector,
                sectors,
                keep
            }),
            (place.clone(), 1u64..64, proptest::option::of(any::<u16>()))
                .prop_map(|(sector, sectors, flip)| Step::Compare { sector, sectors, flip }),
            (place, 1u64..64).prop_map(|(sector, sectors)| Step::Read { sector, sectors }),
        ]
    }

    proptest! {
        /// 512-byte operations in any order leave what they leave in a plain array, and what is no hole covers all of it.
        #[test]
        fn behaves_like_an_array(steps in collection::vec(step(), 1..40)) {
            let size = SECTORS * 512;
            let device = MemoryDevice::new(size, 512);
            let mut model = vec![0u8; size as usize];
            for step in steps {
                match step {
                    Step::Write { sector, parts } => {
                        let at = (sector * 512) as usize;
                        let parts: Vec<Bytes> =
                            parts.iter().map(|byte| Bytes::from(vec![*byte; 512 * (1 + *byte as usize % 9)])).collect();
                        let flat = parts.concat();
                        model[at..at + flat.len()].copy_from_slice(&flat);
                        device.write_now(sector * 512, &parts).expect("in range");
                    }
                    Step::Clear { sector, sectors, keep } => {
                        model[(sector * 512) as usize..((sector + sectors) * 512) as usize].fill(0);
                        device.clear_now(sector * 512, sectors * 512, keep).expect("in range");
                    }
                    Step::Compare { sector, sectors, flip } => {
                        let (from, to) = ((sector * 512) as usize, ((sector + sectors) * 512) as usize);
                        let mut expected = model[from..to].to_vec();
                        let at = flip.map(|at| at as usize % expected.len());
                        at.into_iter().for_each(|at| expected[at] ^= 1);
                        let data = vec![sectors as u8; to - from];
                        let answer = match at {
                            Some(at) => Compared::Differs { at: at as u64 },
                            None => {
                                model[from..to].copy_from_slice(&data);
                                Compared::Written
                            }
                        };
                        let got = device.compare_now(sector * 512, &[expected.into()], &[data.into()]);
                        prop_assert_eq!(got, Ok(answer));
                    }
                    Step::Read { sector, sectors } => {
                        let expected = &model[(sector * 512) as usize..((sector + sectors) * 512) as usize];
                        prop_assert_eq!(bytes(&device, sector * 512, (sectors * 512) as u32), expected);
                    }
                }
            }
            prop_assert_eq!(bytes(&device, 0, size as u32), &model[..]);
            let mut at = 0usize;
            for extent in device.status_now(0, size).expect("in range") {
                let end = at + extent.len as usize;
                let zeros = model[at..end].iter().all(|byte| *byte == 0);
                prop_assert_eq!(extent.allocation == Allocation::Hole && !zeros, false);
                at = end;
            }
            prop_assert_eq!(at as u64, size);
        }
    }
}
