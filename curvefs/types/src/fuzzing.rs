//! Valid bytes, and decoders that take any bytes. For `tests/fuzz`, which damages the former and gives them to the latter;
//! not an API.

use crate::keys::Key;
use crate::map::PartitionMap;
use crate::op::{Reply, Request};
use crate::query::{Answer, Ask};
use crate::tx::{Decision, Prepared};
use crate::wire::{Seeds, Wire};
use crate::{Attr, FsError};

/// A format: its name, valid bytes from a seed, and whether any bytes are accepted.
pub type Format = (&'static str, fn(u64) -> Vec<u8>, fn(&[u8]) -> bool);

/// What travels to partitions and what they keep.
pub const FORMATS: [Format; 10] = [
    ("request", sample::<Request>, accepts::<Request>),
    ("reply", sample::<Reply>, accepts::<Reply>),
    ("error", sample::<FsError>, accepts::<FsError>),
    ("ask", sample::<Ask>, accepts::<Ask>),
    ("answer", sample::<Answer>, accepts::<Answer>),
    ("attributes", sample::<Attr>, accepts::<Attr>),
    ("prepared", sample::<Prepared>, accepts::<Prepared>),
    ("decision", sample::<Decision>, accepts::<Decision>),
    ("map", sample::<PartitionMap>, accepts::<PartitionMap>),
    ("key", |seed| Key::sample(&mut Seeds::new(seed)).encode(), accepts_key),
];

fn sample<T: Wire>(seed: u64) -> Vec<u8> {
    T::sample(&mut Seeds::new(seed)).encode().into()
}

fn accepts<T: Wire>(bytes: &[u8]) -> bool {
    let Ok(value) = T::decode(bytes) else { return false };
    assert_eq!(value.encode(), bytes, "one value has one encoding");
    true
}

fn accepts_key(bytes: &[u8]) -> bool {
    let Ok(key) = Key::decode(bytes) else { return false };
    assert_eq!(key.encode(), bytes, "one key has one encoding");
    true
}
