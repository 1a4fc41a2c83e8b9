//! How far to read ahead of a program that reads a file from front to back. Pure.

/// The first step.
const WINDOW_BYTES_MIN: u64 = 512 << 10;
/// The last: enough objects in flight to fill a store's line.
const WINDOW_BYTES_MAX: u64 = 32 << 20;

/// What one open file was asked for.
#[derive(Default, Debug)]
pub(crate) struct ReadAhead {
    next: u64,
    window: u64,
    ahead: u64,
}

impl ReadAhead {
    /// A read of `offset .. offset + len` happens: the range to read ahead now, if any. `cache` bounds what is ahead.
    pub fn read(&mut self, offset: u64, len: u64, cache: u64) -> Option<(u64, u64)> {
        // The kernel sends the reads of its own window side by side: they arrive in any order.
        let slack = WINDOW_BYTES_MIN.max(len);
        let sequential =
            offset <= self.next.saturating_add(slack) && self.next <= offset.saturating_add(slack);
        let end = offset + len;
        if !sequential {
            *self = Self { next: end, window: 0, ahead: 0 };
            return None;
        }
        self.next = self.next.max(end);
        let limit = WINDOW_BYTES_MAX.min(cache / 4);
        self.window = (self.window * 2).clamp(WINDOW_BYTES_MIN, WINDOW_BYTES_MAX).min(limit);
        let from = self.ahead.max(end);
        let to = end + self.window;
        // In large steps, so that the store sees few large requests.
        if from >= to || to - from < (self.window / 2).max(1) {
            return None;
        }
        self.ahead = to;
        Some((from, to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_grows_for_sequential_reads_only() {
        let mut ahead = ReadAhead::default();
        let step = 128 << 10;
        let cache = 256 << 20;
        assert_eq!(ahead.read(0, step, cache), Some((step, step + WINDOW_BYTES_MIN)));
        let (mut end, mut covered) = (step, step + WINDOW_BYTES_MIN);
        for _ in 0..1000 {
            if let Some((from, to)) = ahead.read(end, step, cache) {
                assert_eq!(from, covered);
                covered = to;
            }
            end += step;
            assert!(covered >= end && covered <= end + WINDOW_BYTES_MAX);
        }
        assert!(covered - end >= WINDOW_BYTES_MAX / 2);
        assert_eq!(ahead.read(1 << 40, step, cache), None);
        assert_eq!(ahead.read(5 << 40, step, cache), None);
        let mut none = ReadAhead::default();
        assert_eq!(none.read(0, step, 0), None);
    }
}
