//! The process's only source of entropy, so that a run depends on its seed alone.
//!
//! The production code draws from generators that are passed to it. What is left are the keys of the standard
//! library's hash maps and the like, which ask the system. This module answers for the system: the linker takes our
//! `getrandom` before libc's. One process runs one seed, so nothing carries over from an earlier one.

use std::sync::atomic::{AtomicU64, Ordering};

static STATE: AtomicU64 = AtomicU64::new(0);

/// Sets where the entropy begins.
pub fn seed(seed: u64) {
    STATE.store(seed, Ordering::SeqCst);
}

/// SplitMix64 (Steele, Lea, Flood 2014): full period, good enough for hash keys.
fn next() -> u64 {
    let mut z = STATE.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::SeqCst).wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Stands in for libc's `getrandom`.
///
/// # Safety
///
/// `buffer` must be valid for writes of `len` bytes, as the function it replaces demands.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buffer: *mut u8, len: usize, _flags: u32) -> isize {
    for at in (0..len).step_by(8) {
        let bytes = next().to_le_bytes();
        let now = (len - at).min(8);
        // SAFETY: `at + now <= len`, and the caller vouches for `len` bytes.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), buffer.add(at), now) };
    }
    len as isize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_draws_from_the_seed() {
        let draw = || {
            seed(7);
            let mut bytes = [0u8; 20];
            // SAFETY: the buffer has 20 bytes.
            let got = unsafe { getrandom(bytes.as_mut_ptr(), bytes.len(), 0) };
            (got, bytes)
        };
        assert_eq!(draw(), draw());
        assert_eq!(draw().0, 20);
    }
}
