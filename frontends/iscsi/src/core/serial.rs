//! Sequence numbers that wrap (RFC 1982, as RFC 7143 4.2.2.1 asks).

/// CmdSN, StatSN and their like.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Serial(pub u32);

impl Serial {
    /// The number `count` further on.
    pub fn plus(self, count: u32) -> Self {
        Self(self.0.wrapping_add(count))
    }

    /// The one after this.
    pub fn next(self) -> Self {
        self.plus(1)
    }

    /// Whether this comes before `other`; two numbers half the circle apart are before each other.
    pub fn is_before(self, other: Self) -> bool {
        self != other && other.0.wrapping_sub(self.0) < 1 << 31
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_wrap() {
        for (first, second, before) in [
            (0, 1, true),
            (1, 0, false),
            (5, 5, false),
            (u32::MAX, 0, true),
            (0, u32::MAX, false),
            (u32::MAX - 5, 10, true),
            (1 << 31, 0, false),
        ] {
            assert_eq!(Serial(first).is_before(Serial(second)), before, "{first} {second}");
        }
        assert_eq!(Serial(u32::MAX).next(), Serial(0));
    }
}
