//! The encoding of everything in this crate, for the log of a partition, the wire and the values of its rows.
//!
//! A value is its fields in the order of its `wire_struct!` line, which is the table of its bytes; a variant is one
//! byte, its number in `wire_enum!`, and then its fields. Numbers are little-endian and have their full width. What
//! travels whole (a request, a reply, a query) begins with a version byte.
//!
//! | type | bytes |
//! |---|---|
//! | `bool` | 1: 0 or 1, nothing else |
//! | `u8` … `u64`, `i64` | 1 … 8 |
//! | `Option<T>` | 1: 0 or 1, then `T` |
//! | `Bytes` | 4 (length), the bytes |
//! | `Vec<T>` | 4 (number), each `T` |
//! | ids | their number |
//!
//! Decoding takes any bytes: it never panics, never allocates more than a small multiple of what was given, and never
//! recurses, since no type holds itself. Fields are never reordered and numbers never reused; a new field means a new
//! version.

use bytes::Bytes;
use curve_types::{ClientId, Epoch, NodeId, Sequence, Term, VolumeId};

/// The version of everything that travels whole.
pub const WIRE_VERSION: u8 = 1;

/// A number of elements that is believed before they are there.
const TRUSTED_ELEMENTS: usize = 256;

/// Why bytes are not what they should be: a bug of the sender, damage, or a newer version.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WireError {
    /// They end early.
    #[error("ends early")]
    Short,
    /// Bytes follow the end.
    #[error("{0} bytes follow the end")]
    Trailing(usize),
    /// Written by a newer program.
    #[error("version {0} is not known")]
    Version(u8),
    /// A number that names no variant.
    #[error("{0} names no {1}")]
    Tag(u8, &'static str),
    /// A value its type does not allow.
    #[error("not a valid {0}")]
    Value(&'static str),
}

/// What is left to decode.
#[derive(Debug)]
pub struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    /// Begins at the front.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The next `len` bytes.
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(WireError::Short)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(WireError::Short)?;
        self.rest = rest;
        Ok(*taken)
    }

    /// Everything that is left.
    pub fn take_rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// Refuses bytes after the end.
    pub fn finish(self) -> Result<(), WireError> {
        if self.rest.is_empty() { Ok(()) } else { Err(WireError::Trailing(self.rest.len())) }
    }
}

/// Numbers from a seed, for samples.
#[derive(Debug)]
pub struct Seeds(u64);

impl Seeds {
    /// Begins a series.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number (SplitMix64); small ones and edges come often.
    pub fn number(&mut self) -> u64 {
        let raw = self.raw();
        match raw % 4 {
            0 => (raw >> 8) % 4,
            1 => (raw >> 8) % 1000,
            2 => u64::MAX - (raw >> 8) % 3,
            _ => self.raw(),
        }
    }

    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.raw() % limit
    }

    fn raw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

/// Something with a fixed encoding.
pub trait Wire: Sized {
    /// Appends the bytes.
    fn put(&self, out: &mut Vec<u8>);
    /// Takes the bytes from the front.
    fn get(input: &mut Input<'_>) -> Result<Self, WireError>;
    /// Some valid value, for tests and fuzzing.
    #[doc(hidden)]
    fn sample(seeds: &mut Seeds) -> Self;

    /// The bytes of the value alone, as a row keeps it.
    fn to_row(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        self.put(&mut out);
        out
    }

    /// The value from a row, which it fills.
    fn from_row(bytes: &[u8]) -> Result<Self, WireError> {
        let mut input = Input::new(bytes);
        let value = Self::get(&mut input)?;
        input.finish()?;
        Ok(value)
    }

    /// The bytes as they travel: version, then the value.
    fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(128);
        out.push(WIRE_VERSION);
        self.put(&mut out);
        out.into()
    }

    /// The value from what travelled.
    fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let (version, rest) = bytes.split_first().ok_or(WireError::Short)?;
        if *version != WIRE_VERSION {
            return Err(WireError::Version(*version));
        }
        Self::from_row(rest)
    }
}

macro_rules! wire_number {
    ($($type:ty),*) => {$(
        impl Wire for $type {
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
            fn get(input: &mut Input<'_>) -> Result<Self, WireError> {
                Ok(Self::from_le_bytes(input.array()?))
            }
            fn sample(seeds: &mut Seeds) -> Self {
                seeds.number() as $type
            }
        }
    )*};
}
wire_number!(u8, u16, u32, u64, i64);

/// Implements [`Wire`] for newtypes of numbers.
#[macro_export]
macro_rules! wire_newtype {
    ($($type:ident),* $(,)?) => {$(
        impl $crate::wire::Wire for $type {
            fn put(&self, out: &mut Vec<u8>) {
                $crate::wire::Wire::put(&self.0, out);
            }
            fn get(input: &mut $crate::wire::Input<'_>) -> Result<Self, $crate::wire::WireError> {
                Ok(Self($crate::wire::Wire::get(input)?))
            }
            fn sample(seeds: &mut $crate::wire::Seeds) -> Self {
                Self($crate::wire::Wire::sample(seeds))
            }
        }
    )*};
}
wire_newtype!(ClientId, Epoch, NodeId, Sequence, Term, VolumeId);

/// Implements [`Wire`] for a struct: its fields in the order of their bytes.
#[macro_export]
macro_rules! wire_struct {
    ($type:ident { $($field:ident),* $(,)? }) => {
        impl $crate::wire::Wire for $type {
            fn put(&self, out: &mut Vec<u8>) {
                $($crate::wire::Wire::put(&self.$field, out);)*
            }
            fn get(input: &mut $crate::wire::Input<'_>) -> Result<Self, $crate::wire::WireError> {
                Ok(Self { $($field: $crate::wire::Wire::get(input)?),* })
            }
            fn sample(seeds: &mut $crate::wire::Seeds) -> Self {
                Self { $($field: $crate::wire::Wire::sample(seeds)),* }
            }
        }
    };
}

/// Implements [`Wire`] for an enum: the number of each variant and its fields in the order of their bytes.
#[macro_export]
macro_rules! wire_enum {
    ($type:ident { $($tag:literal => $variant:ident { $($field:ident),* $(,)? }),* $(,)? }) => {
        impl $crate::wire::Wire for $type {
            fn put(&self, out: &mut Vec<u8>) {
                match self {$(
                    Self::$variant { $($field),* } => {
                        out.push($tag);
                        $($crate::wire::Wire::put($field, out);)*
                    }
                )*}
            }
            fn get(input: &mut $crate::wire::Input<'_>) -> Result<Self, $crate::wire::WireError> {
                let tag: u8 = $crate::wire::Wire::get(input)?;
                match tag {
                    $($tag => Ok(Self::$variant { $($field: $crate::wire::Wire::get(input)?),* }),)*
                    other => Err($crate::wire::WireError::Tag(other, stringify!($type))),
                }
            }
            fn sample(seeds: &mut $crate::wire::Seeds) -> Self {
                const TAGS: &[u8] = &[$($tag),*];
                match TAGS[seeds.below(TAGS.len() as u64) as usize] {
                    $($tag => Self::$variant { $($field: $crate::wire::Wire::sample(seeds)),* },)*
                    _ => unreachable!("every tag is listed"),
                }
            }
        }
    };
}

impl Wire for bool {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }

    fn get(input: &mut Input<'_>) -> Result<Self, WireError> {
        match u8::get(input)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(WireError::Value("bool")),
        }
    }

    fn sample(seeds: &mut Seeds) -> Self {
        seeds.below(2) == 1
    }
}

impl<T: Wire> Wire for Option<T> {
    fn put(&self, out: &mut Vec<u8>) {
        self.is_some().put(out);
        if let Some(value) = self {
            value.put(out);
        }
    }

    fn get(input: &mut Input<'_>) -> Result<Self, WireError> {
        Ok(if bool::get(input)? { Some(T::get(input)?) } else { None })
    }

    fn sample(seeds: &mut Seeds) -> Self {
        bool::sample(seeds).then(|| T::sample(seeds))
    }
}

fn put_len(len: usize, out: &mut Vec<u8>) {
    u32::try_from(len).expect("what is encoded is far below 4 GiB").put(out);
}

impl<T: Wire> Wire for Vec<T> {
    fn put(&self, out: &mut Vec<u8>) {
        put_len(self.len(), out);
        self.iter().for_each(|value| value.put(out));
    }

    fn get(input: &mut Input<'_>) -> Result<Self, WireError> {
        let count = u32::get(input)? as usize;
        // Every element has at least one byte.
        if count > input.rest.len() {
            return Err(WireError::Short);
        }
        let mut values = Vec::with_capacity(count.min(TRUSTED_ELEMENTS));
        for _ in 0..count {
            values.push(T::get(input)?);
        }
        Ok(values)
    }

    fn sample(seeds: &mut Seeds) -> Self {
        (0..seeds.below(4)).map(|_| T::sample(seeds)).collect()
    }
}

impl Wire for Bytes {
    fn put(&self, out: &mut Vec<u8>) {
        put_len(self.len(), out);
        out.extend_from_slice(self);
    }

    fn get(input: &mut Input<'_>) -> Result<Self, WireError> {
        let len = u32::get(input)? as usize;
        Ok(Self::copy_from_slice(input.take(len)?))
    }

    fn sample(seeds: &mut Seeds) -> Self {
        (0..seeds.below(40)).map(|_| seeds.number() as u8).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fuzzing::FORMATS;
    use crate::{InodeId, NameOp, Op, Request};

    proptest! {
        #[test]
        fn everything_round_trips(seed: u64) {
            for (name, sample, accepts) in FORMATS {
                prop_assert!(accepts(&sample(seed)), "{}", name);
            }
        }

        #[test]
        fn any_bytes_are_taken(bytes: Vec<u8>, cut: u16, seed: u64) {
            for (_, sample, accepts) in FORMATS {
                accepts(&bytes);
                let valid = sample(seed);
                accepts(&valid[..usize::from(cut) % (valid.len() + 1)]);
            }
        }
    }

    #[test]
    fn golden_bytes() {
        let op = NameOp::Unlink { parent: InodeId::ROOT, name: "a".try_into().unwrap() };
        let request = Request {
            mount: crate::MountId(2),
            epoch: Epoch(3),
            sequence: Sequence(4),
            ack_below: Sequence(5),
            now_ns: -1,
            op: op.into(),
        };
        let mut expected = vec![1];
        for number in [2u64, 3, 4, 5, u64::MAX] {
            expected.extend(number.to_le_bytes());
        }
        expected.extend([1, 3]);
        expected.extend(1u64.to_le_bytes());
        expected.extend([1, 0, 0, 0, b'a']);
        assert_eq!(request.encode(), expected);
    }

    #[test]
    fn hostile_lengths_allocate_little() {
        let mut bytes = vec![WIRE_VERSION];
        Op::Close { inodes: Vec::new() }.put(&mut bytes);
        let len = bytes.len();
        bytes[len - 4..].fill(0xFF);
        assert_eq!(Op::decode(&bytes), Err(WireError::Short));
    }
}
