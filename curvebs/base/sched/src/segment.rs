//! Which copysets get the chunks of a new segment.

use std::collections::BTreeMap;

use curve_types::{CopysetId, NodeId};
use rand::Rng;
use rand::rngs::StdRng;
use thiserror::Error;

use crate::view::{ClusterView, CopysetView};

/// Why a segment was not placed.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum SegmentError {
    /// There is no copyset, or none with a majority up.
    #[error("no copyset has a majority of its chunkservers up")]
    NoCopyset,
    /// Every copyset that works has a disk under its reserve.
    #[error("every copyset has a chunkserver whose free space is below its reserve: {}", full_text(full))]
    NoSpace {
        /// The disks that are full.
        full: Vec<NodeId>,
    },
}

fn full_text(full: &[NodeId]) -> String {
    full.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Chooses a copyset for each of `chunks` chunks: spread over all copysets that work, in proportion to the free space
/// behind each. Copysets with a disk under its reserve get none.
pub fn choose_segment_copysets(
    view: &ClusterView,
    chunks: usize,
    rng: &mut StdRng,
) -> Result<Vec<CopysetId>, SegmentError> {
    let working: Vec<(CopysetId, &CopysetView)> = view
        .copysets
        .iter()
        .filter(|(_, copyset)| view.has_quorum(copyset))
        .map(|(&id, copyset)| (id, copyset))
        .collect();
    if working.is_empty() {
        return Err(SegmentError::NoCopyset);
    }
    let counts = view.replica_counts();
    let mut seats: Vec<Seat> = working
        .iter()
        .map(|&(id, copyset)| Seat { id, weight: weight(view, copyset, &counts), given: 0 })
        .filter(|seat| seat.weight > 0)
        .collect();
    if seats.is_empty() {
        return Err(SegmentError::NoSpace { full: full_disks(view, &working) });
    }
    // Start somewhere else each time, so that small volumes do not all begin in the same copyset.
    let start = rng.random_range(0..seats.len());
    seats.rotate_left(start);
    Ok((0..chunks).map(|_| next(&mut seats)).collect())
}

struct Seat {
    id: CopysetId,
    weight: u64,
    given: u64,
}

/// The highest quotient gets the next chunk (d'Hondt's method): proportional, and round robin when weights are equal.
fn next(seats: &mut [Seat]) -> CopysetId {
    let mut best = 0;
    for i in 1..seats.len() {
        let (a, b) = (&seats[best], &seats[i]);
        // b.weight / (b.given + 1) > a.weight / (a.given + 1), without division.
        if u128::from(b.weight) * u128::from(a.given + 1) > u128::from(a.weight) * u128::from(b.given + 1) {
            best = i;
        }
    }
    seats[best].given += 1;
    seats[best].id
}

/// The copyset's share of the free space of its fullest disk, in MiB so that equal disks are equal.
fn weight(view: &ClusterView, copyset: &CopysetView, counts: &BTreeMap<NodeId, usize>) -> u64 {
    let share = |node: &NodeId| {
        let usable = view.disks.get(node).map_or(0, |disk| disk.usable_bytes());
        // A little room is still room; only a disk at its reserve counts as full.
        let sharing = counts.get(node).map_or(1, |&n| n.max(1) as u64);
        if usable == 0 { 0 } else { ((usable / sharing) >> 20).max(1) }
    };
    copyset.members.iter().map(share).min().unwrap_or(0)
}

fn full_disks(view: &ClusterView, working: &[(CopysetId, &CopysetView)]) -> Vec<NodeId> {
    let mut full: Vec<NodeId> = working
        .iter()
        .flat_map(|(_, copyset)| &copyset.members)
        .copied()
        .filter(|node| view.disks.get(node).is_none_or(|disk| disk.usable_bytes() == 0))
        .collect();
    full.sort_unstable();
    full.dedup();
    full
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;
    use crate::view::{DiskState, DiskView};

    fn view(free: &[u64], copysets: &[[u64; 3]]) -> ClusterView {
        let disk = |&free_bytes: &u64| DiskView {
            zone: String::new(),
            state: DiskState::Up,
            free_bytes,
            reserve_bytes: 10 << 30,
            reserve_low: false,
        };
        let copyset = |members: &[u64; 3]| CopysetView {
            members: members.iter().map(|&n| NodeId(n)).collect(),
            ..CopysetView::default()
        };
        ClusterView {
            disks: free.iter().enumerate().map(|(i, free)| (NodeId(i as u64), disk(free))).collect(),
            copysets: copysets
                .iter()
                .enumerate()
                .map(|(i, c)| (CopysetId(i as u32 + 1), copyset(c)))
                .collect(),
        }
    }

    fn choose(view: &ClusterView) -> Result<BTreeMap<CopysetId, usize>, SegmentError> {
        let mut counts = BTreeMap::new();
        for copyset in choose_segment_copysets(view, 64, &mut StdRng::seed_from_u64(1))? {
            *counts.entry(copyset).or_default() += 1;
        }
        Ok(counts)
    }

    const T: u64 = 1 << 40;

    #[test]
    fn equal_copysets_share_equally_and_in_turn() {
        let view = view(&[T; 3], &[[0, 1, 2]; 4]);
        assert!(choose(&view).unwrap().values().all(|&n| n == 16));
        let order = choose_segment_copysets(&view, 64, &mut StdRng::seed_from_u64(1)).unwrap();
        assert!(order.windows(4).all(|four| (1..4).all(|i| four[0] != four[i])), "{order:?}");
    }

    #[test]
    fn more_free_space_gets_more_chunks() {
        let counts = choose(&view(&[T, T, T, 3 * T, 3 * T, 3 * T], &[[0, 1, 2], [3, 4, 5]])).unwrap();
        assert_eq!(counts[&CopysetId(1)] + counts[&CopysetId(2)], 64);
        assert!((14..=18).contains(&counts[&CopysetId(1)]), "{counts:?}");
    }

    #[test]
    fn a_full_disk_takes_its_copysets_out() {
        let mut cluster = view(&[T, T, T, 1, T, T], &[[0, 1, 2], [3, 4, 5]]);
        assert_eq!(choose(&cluster).unwrap(), [(CopysetId(1), 64)].into());
        cluster.disks.get_mut(&NodeId(1)).unwrap().reserve_low = true;
        assert_eq!(choose(&cluster), Err(SegmentError::NoSpace { full: vec![NodeId(1), NodeId(3)] }));
    }

    #[test]
    fn copysets_without_a_majority_are_left_out() {
        let mut cluster = view(&[T; 6], &[[0, 1, 2], [3, 4, 5]]);
        cluster.disks.get_mut(&NodeId(0)).unwrap().state = DiskState::Down;
        assert_eq!(choose(&cluster).unwrap().len(), 2);
        cluster.disks.get_mut(&NodeId(1)).unwrap().state = DiskState::Down;
        assert_eq!(choose(&cluster).unwrap(), [(CopysetId(2), 64)].into());
        cluster.copysets.remove(&CopysetId(2));
        assert_eq!(choose(&cluster), Err(SegmentError::NoCopyset));
    }
}
