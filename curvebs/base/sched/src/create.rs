//! Which copysets to make.

use std::collections::BTreeMap;

use curve_types::NodeId;
use rand::Rng;
use rand::rngs::StdRng;

use crate::view::{ClusterView, REPLICAS};

const PER_DISK_MIN: usize = 4;
const PER_DISK_MAX: usize = 100;

/// How many replicas a disk should have, by the number of disks. The rule is the scatter width: a lost disk is rebuilt
/// by as many others as share a copyset with it, and each copyset adds two of them; so half as many copysets as there
/// are other disks lets all of them help. Few on a small cluster, because every group costs CPU and spoils batches.
pub fn copysets_per_disk(disks: usize) -> usize {
    disks.saturating_sub(1).div_ceil(REPLICAS - 1).clamp(PER_DISK_MIN, PER_DISK_MAX)
}

/// The members of the copysets to add so that each usable disk has at least `per_disk` replicas. Members are distinct
/// disks in distinct zones (in as many zones as there are, when there are fewer than three). Empty when fewer than
/// three disks are usable.
pub fn plan_creation(view: &ClusterView, per_disk: usize, rng: &mut StdRng) -> Vec<[NodeId; REPLICAS]> {
    let Some(mut plan) = Creation::new(view, rng) else { return Vec::new() };
    let mut made = Vec::new();
    while let Some(first) = plan.neediest(per_disk) {
        made.push(plan.make(first));
    }
    made
}

/// The members of `count` groups more, each begun on the disk with the fewest replicas; else as [`plan_creation`].
pub fn plan_groups(view: &ClusterView, count: usize, rng: &mut StdRng) -> Vec<[NodeId; REPLICAS]> {
    let Some(mut plan) = Creation::new(view, rng) else { return Vec::new() };
    let make = |_| {
        let first = plan.neediest(usize::MAX).expect("there are targets");
        plan.make(first)
    };
    (0..count).map(make).collect()
}

struct Creation<'a> {
    view: &'a ClusterView,
    targets: Vec<NodeId>,
    counts: BTreeMap<NodeId, usize>,
    /// How many copysets two disks share, the smaller id first.
    pairs: BTreeMap<(NodeId, NodeId), usize>,
    ranks: BTreeMap<NodeId, u64>,
}

fn pairs(view: &ClusterView) -> BTreeMap<(NodeId, NodeId), usize> {
    let mut pairs = BTreeMap::new();
    for copyset in view.copysets.values() {
        count_pairs(&mut pairs, &copyset.members);
    }
    pairs
}

fn count_pairs(pairs: &mut BTreeMap<(NodeId, NodeId), usize>, members: &[NodeId]) {
    for (i, &a) in members.iter().enumerate() {
        for &b in &members[i + 1..] {
            *pairs.entry((a.min(b), a.max(b))).or_default() += 1;
        }
    }
}

impl<'a> Creation<'a> {
    /// `None` when there are fewer targets than replicas.
    fn new(view: &'a ClusterView, rng: &mut StdRng) -> Option<Self> {
        let targets: Vec<NodeId> = view.targets().into_iter().collect();
        (targets.len() >= REPLICAS).then(|| Self {
            view,
            counts: view.replica_counts(),
            pairs: pairs(view),
            // A random rank breaks ties, so that neighbours in id order do not always end up together.
            ranks: targets.iter().map(|&node| (node, rng.random())).collect(),
            targets,
        })
    }

    fn count(&self, node: NodeId) -> usize {
        self.counts.get(&node).copied().unwrap_or(0)
    }

    fn neediest(&self, per_disk: usize) -> Option<NodeId> {
        let needy = self.targets.iter().copied().filter(|&node| self.count(node) < per_disk);
        needy.min_by_key(|&node| (self.count(node), self.ranks[&node]))
    }

    fn make(&mut self, first: NodeId) -> [NodeId; REPLICAS] {
        let mut members = vec![first];
        while members.len() < REPLICAS {
            let partner = self.partner(&members);
            members.push(partner);
        }
        for &node in &members {
            *self.counts.entry(node).or_default() += 1;
        }
        count_pairs(&mut self.pairs, &members);
        members.sort_unstable();
        members.try_into().expect("as many members as replicas")
    }

    fn partner(&self, members: &[NodeId]) -> NodeId {
        let zone_taken = |node| members.iter().any(|&m| self.view.zone(m) == self.view.zone(node));
        let shared = |node: NodeId| -> usize {
            members.iter().map(|&m| self.pairs.get(&(m.min(node), m.max(node))).copied().unwrap_or(0)).sum()
        };
        let free = self.targets.iter().copied().filter(|node| !members.contains(node));
        free.min_by_key(|&node| (zone_taken(node), self.count(node), shared(node), self.ranks[&node]))
            .expect("there are at least as many targets as replicas")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};
    use rand::SeedableRng;

    use super::*;
    use crate::view::{DiskState, DiskView};

    pub(crate) fn cluster(zones: &[&str]) -> ClusterView {
        let disk = |zone: &&str| DiskView {
            zone: (*zone).to_owned(),
            state: DiskState::Up,
            free_bytes: 1 << 40,
            reserve_bytes: 1 << 30,
            reserve_low: false,
        };
        let disks = zones.iter().enumerate().map(|(i, zone)| (NodeId(i as u64 + 1), disk(zone))).collect();
        ClusterView { disks, copysets: BTreeMap::new() }
    }

    fn plan(view: &ClusterView, per_disk: usize) -> Vec<[NodeId; REPLICAS]> {
        plan_creation(view, per_disk, &mut StdRng::seed_from_u64(1))
    }

    #[test]
    fn few_on_small_clusters_growing_to_a_hundred() {
        for (disks, expected) in [(3, 4), (6, 4), (9, 4), (20, 10), (101, 50), (201, 100), (1000, 100)] {
            assert_eq!(copysets_per_disk(disks), expected, "{disks} disks");
        }
    }

    #[test]
    fn as_many_groups_as_are_asked_for_spread_over_disks_and_zones() {
        let view = cluster(&["a", "b", "c", "a"]);
        let made = plan_groups(&view, 4, &mut StdRng::seed_from_u64(1));
        assert_eq!(made.len(), 4);
        for node in (1..=4).map(NodeId) {
            let replicas = made.iter().filter(|members| members.contains(&node)).count();
            // Two disks share zone a, so each of the others is in every group.
            assert_eq!(replicas, if [1, 4].contains(&node.get()) { 2 } else { 4 });
        }
        assert!(plan_groups(&cluster(&["a", "b"]), 1, &mut StdRng::seed_from_u64(1)).is_empty());
    }

    #[test]
    fn three_disks_share_every_copyset() {
        let made = plan(&cluster(&["a", "b", "c"]), 4);
        assert_eq!(made, vec![[NodeId(1), NodeId(2), NodeId(3)]; 4]);
    }

    #[test]
    fn two_disks_make_none_and_a_full_or_silent_disk_is_not_used() {
        assert!(plan(&cluster(&["a", "b"]), 4).is_empty());
        let mut view = cluster(&["a", "b", "c", "d", "e"]);
        view.disks.get_mut(&NodeId(1)).unwrap().state = DiskState::Down;
        view.disks.get_mut(&NodeId(2)).unwrap().free_bytes = 1;
        assert!(plan(&view, 4).iter().all(|members| *members == [NodeId(3), NodeId(4), NodeId(5)]));
    }

    #[test]
    fn zones_are_distinct_when_there_are_three() {
        for members in plan(&cluster(&["a", "a", "a", "a", "b", "b", "c"]), 10) {
            let zones: BTreeSet<_> =
                members.iter().map(|node| [0, 1, 1, 1, 1, 2, 2, 3][node.0 as usize]).collect();
            assert_eq!(zones.len(), REPLICAS, "{members:?}");
        }
    }

    #[test]
    fn everybody_shares_with_everybody_by_the_scatter_rule() {
        let view = cluster(&["a", "b", "c"].repeat(10));
        let made = plan(&view, copysets_per_disk(30));
        let mut peers: BTreeMap<NodeId, BTreeSet<NodeId>> = BTreeMap::new();
        for members in &made {
            for &node in members {
                peers.entry(node).or_default().extend(members.iter().filter(|&&other| other != node));
            }
        }
        // 20 disks are in other zones; a perfect design is not needed, most of them are.
        assert!(peers.values().all(|peers| peers.len() >= 15), "{peers:?}");
    }

    proptest! {
        #[test]
        fn plans_are_distinct_balanced_and_reach_the_count(sizes in [1usize..6, 0usize..6, 0usize..6, 0usize..3], per_disk in 1usize..20, seed in any::<u64>()) {
            let names = ["a", "b", "c", "d"];
            let zones: Vec<&str> = sizes.iter().zip(names).flat_map(|(&n, zone)| vec![zone; n]).collect();
            let view = cluster(&zones);
            let made = plan_creation(&view, per_disk, &mut StdRng::seed_from_u64(seed));
            if zones.len() < REPLICAS {
                prop_assert!(made.is_empty());
                return Ok(());
            }
            let zones_there = sizes.iter().filter(|&&n| n > 0).count();
            let mut counts: BTreeMap<NodeId, usize> = BTreeMap::new();
            for members in &made {
                let distinct: BTreeSet<_> = members.iter().collect();
                prop_assert_eq!(distinct.len(), REPLICAS);
                let zones: BTreeSet<_> = members.iter().map(|&node| view.zone(node)).collect();
                prop_assert_eq!(zones.len(), zones_there.min(REPLICAS));
                for &node in members {
                    *counts.entry(node).or_default() += 1;
                }
            }
            prop_assert!(view.disks.keys().all(|node| counts.get(node).copied().unwrap_or(0) >= per_disk));
            // The smaller zones carry more when the zones differ; within a zone the load is even.
            for zone in names {
                let loads: Vec<usize> = counts.iter().filter(|(node, _)| view.zone(**node) == zone).map(|(_, &n)| n).collect();
                if let (Some(max), Some(min)) = (loads.iter().max(), loads.iter().min()) {
                    prop_assert!(max - min <= 2, "zone {}: {:?}", zone, loads);
                }
            }
        }
    }
}
