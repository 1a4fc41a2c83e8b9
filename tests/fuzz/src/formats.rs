//! Formats that crates keep to themselves: each crate gives valid bytes and decoders, here they are damaged.

use rand::Rng;
use rand::rngs::StdRng;

use crate::damage::damage;

/// A format: its name, valid bytes from a seed, and whether any bytes are accepted.
type Format = (&'static str, fn(u64) -> Vec<u8>, fn(&[u8]) -> bool);

/// What multiraft writes to the log and sends to its peers.
pub fn raft(random: &mut StdRng) -> &'static str {
    case(random, &curve_multiraft::fuzzing::FORMATS)
}

/// Chunk headers, manifests and records; half of the damage is behind their checksums.
pub fn chunk(random: &mut StdRng) -> &'static str {
    case(random, &curve_chunkstore::fuzzing::FORMATS)
}

/// Operations, outcomes, checkpoints and snapshots of copysets.
pub fn copyset(random: &mut StdRng) -> &'static str {
    case(random, &curve_chunkserver::fuzzing::FORMATS)
}

/// Requests, queries, rows and keys of CurveFS.
pub fn fs(random: &mut StdRng) -> &'static str {
    case(random, &curvefs_types::fuzzing::FORMATS)
}

/// What metaservers keep beside rows.
pub fn metaserver(random: &mut StdRng) -> &'static str {
    case(random, &curvefs_metaserver::fuzzing::FORMATS)
}

fn case(random: &mut StdRng, formats: &[Format]) -> &'static str {
    let (name, sample, accepts) = formats[random.random_range(0..formats.len())];
    let mut bytes = sample(random.random());
    if random.random_bool(0.1) {
        assert!(accepts(&bytes), "{name}: valid bytes are refused");
        return "valid";
    }
    damage(random, &mut bytes);
    if accepts(&bytes) { "accepted" } else { "refused" }
}
