//! Changes bytes as disks, networks and bugs do.

use rand::Rng;
use rand::rngs::StdRng;

/// Numbers that sit at the edges of checks.
const EDGES: [u32; 10] =
    [0, 1, 0x7f, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0x8000_0000, 0xffff_fffe, 0xffff_ffff];

/// Damages `bytes` in one to four places.
pub fn damage(random: &mut StdRng, bytes: &mut Vec<u8>) {
    for _ in 0..random.random_range(1..=4) {
        if bytes.is_empty() {
            return;
        }
        let at = random.random_range(0..bytes.len());
        match random.random_range(0..7) {
            0 => bytes[at] ^= 1 << random.random_range(0..8),
            1 => bytes[at] = random.random(),
            2 => overwrite(bytes, at, &EDGES[random.random_range(0..EDGES.len())].to_le_bytes()),
            3 => bytes.truncate(at),
            4 => {
                let end = (at + random.random_range(1..600)).min(bytes.len());
                bytes[at..end].fill(if random.random() { 0 } else { 0xff });
            }
            5 => {
                let end = (at + random.random_range(1..64)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                let to = random.random_range(0..bytes.len());
                overwrite(bytes, to, &piece);
            }
            _ => {
                let end = (at + random.random_range(1..16)).min(bytes.len());
                bytes.drain(at..end);
            }
        }
    }
}

/// Damages without changing the length, as a disk does.
pub fn damage_in_place(random: &mut StdRng, bytes: &mut [u8]) {
    for _ in 0..random.random_range(1..=3) {
        if bytes.is_empty() {
            return;
        }
        let at = random.random_range(0..bytes.len());
        match random.random_range(0..4) {
            0 => bytes[at] ^= 1 << random.random_range(0..8),
            1 => overwrite(bytes, at, &EDGES[random.random_range(0..EDGES.len())].to_le_bytes()),
            2 => {
                let sector = at / 512 * 512;
                let end = (sector + 512).min(bytes.len());
                bytes[sector..end].fill(0);
            }
            _ => {
                let from = random.random_range(0..bytes.len()) / 512 * 512;
                let piece = bytes[from..(from + 512).min(bytes.len())].to_vec();
                overwrite(bytes, at / 512 * 512, &piece);
            }
        }
    }
}

fn overwrite(bytes: &mut [u8], at: usize, piece: &[u8]) {
    let end = (at + piece.len()).min(bytes.len());
    bytes[at..end].copy_from_slice(&piece[..end - at]);
}
