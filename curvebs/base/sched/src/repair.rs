//! What to do about copysets whose disks are dead or leaving.

use std::collections::BTreeMap;

use curve_types::{CopysetId, NodeId};

use crate::view::{ClusterView, CopysetView, DiskState, Operator, REPLICAS, Step};

/// How much may be moved at the same time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RepairLimits {
    /// Replicas that one disk receives at the same time.
    pub adds_per_disk_max: usize,
}

impl Default for RepairLimits {
    fn default() -> Self {
        Self { adds_per_disk_max: 2 }
    }
}

/// The next steps. A copyset with a dead or leaving member first gets a new one on the best other disk and then loses
/// the old one, so that it never has fewer copies than before; one with too few members gets one, one with too many
/// loses one. A member that can never come back goes first: it is no copy, and with one more member beside it the two
/// that are left would be no majority if the new one were lost as well. A copyset with something running, or without a leader to carry the step out, is left alone.
pub fn plan_repair(view: &ClusterView, limits: RepairLimits) -> Vec<Operator> {
    let mut plan = Repair { view, limits, counts: view.replica_counts(), adding: adding(view) };
    let mut operators = Vec::new();
    let mut order: Vec<(CopysetId, &CopysetView)> =
        view.copysets.iter().map(|(&id, copyset)| (id, copyset)).collect();
    // Those with the fewest good copies first.
    order.sort_by_key(|(id, copyset)| (healthy(view, copyset).len(), *id));
    for (id, copyset) in order {
        if copyset.running.is_some() || copyset.leader.is_none() || !view.has_quorum(copyset) {
            continue;
        }
        if let Some(step) = plan.step(copyset) {
            operators.push(Operator { copyset: id, step });
        }
    }
    operators
}

struct Repair<'a> {
    view: &'a ClusterView,
    limits: RepairLimits,
    counts: BTreeMap<NodeId, usize>,
    adding: BTreeMap<NodeId, usize>,
}

fn adding(view: &ClusterView) -> BTreeMap<NodeId, usize> {
    let mut adding = BTreeMap::new();
    for copyset in view.copysets.values() {
        if let Some(Step::Add(node)) = copyset.running {
            *adding.entry(node).or_default() += 1;
        }
    }
    adding
}

fn state(view: &ClusterView, node: NodeId) -> DiskState {
    view.disks.get(&node).map_or(DiskState::Dead, |disk| disk.state)
}

fn healthy(view: &ClusterView, copyset: &CopysetView) -> Vec<NodeId> {
    let stays = |node: &NodeId| matches!(state(view, *node), DiskState::Up | DiskState::Down);
    copyset.members.iter().copied().filter(stays).collect()
}

impl Repair<'_> {
    fn step(&mut self, copyset: &CopysetView) -> Option<Step> {
        let healthy = healthy(self.view, copyset);
        if let Some(gone) = copyset.members.iter().find(|&&node| state(self.view, node) == DiskState::Gone) {
            return Some(Step::Remove(*gone));
        }
        if copyset.members.len() > REPLICAS {
            return Some(Step::Remove(self.surplus(copyset)));
        }
        if healthy.len() == REPLICAS {
            // A learner that nobody waits for is left over from a step that was given up.
            return copyset.learners.first().map(|&node| Step::Remove(node));
        }
        let target = self.target(copyset, &healthy)?;
        *self.adding.entry(target).or_default() += 1;
        *self.counts.entry(target).or_default() += 1;
        Some(Step::Add(target))
    }

    /// The member to give up: the one that is worst off, then one that shares a zone, then the one on the busiest disk.
    fn surplus(&self, copyset: &CopysetView) -> NodeId {
        let badness = |node: NodeId| match state(self.view, node) {
            DiskState::Dead | DiskState::Gone => 3,
            DiskState::Leaving => 2,
            DiskState::Down => 1,
            DiskState::Up => 0,
        };
        let shares_zone = |node: NodeId| {
            copyset
                .members
                .iter()
                .any(|&other| other != node && self.view.zone(other) == self.view.zone(node))
        };
        let leads = |node: NodeId| copyset.leader == Some(node);
        let count = |node: NodeId| self.counts.get(&node).copied().unwrap_or(0);
        let key = |node: NodeId| (badness(node), shares_zone(node), !leads(node), count(node), node);
        copyset.members.iter().copied().max_by_key(|&node| key(node)).expect("a copyset has members")
    }

    /// The disk for a new member: a learner that is already there, then another zone, few replicas, much room.
    fn target(&self, copyset: &CopysetView, healthy: &[NodeId]) -> Option<NodeId> {
        let zone_taken = |node| healthy.iter().any(|&member| self.view.zone(member) == self.view.zone(node));
        let learning = |node| copyset.learners.contains(&node);
        let room = |node: NodeId| self.view.disks.get(&node).map_or(0, |disk| disk.usable_bytes());
        let busy =
            |node: &NodeId| self.adding.get(node).copied().unwrap_or(0) >= self.limits.adds_per_disk_max;
        let mut free = self.view.targets();
        free.retain(|node| !copyset.members.contains(node));
        // A busy disk in a zone of its own is waited for: doubling a zone now could not be undone by repair.
        if free.iter().any(|&node| !zone_taken(node)) {
            free.retain(|&node| !zone_taken(node));
        }
        free.into_iter().filter(|node| !busy(node)).min_by_key(|&node| {
            let count = self.counts.get(&node).copied().unwrap_or(0);
            (!learning(node), count, u64::MAX - room(node), node)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;
    use crate::view::DiskView;

    fn cluster(zones: &[&str], copysets: &[&[u64]]) -> ClusterView {
        let disk = |zone: &&str| DiskView {
            zone: (*zone).to_owned(),
            state: DiskState::Up,
            free_bytes: 1 << 40,
            reserve_bytes: 0,
            reserve_low: false,
        };
        let copyset = |members: &&[u64]| CopysetView {
            members: members.iter().map(|&n| NodeId(n)).collect(),
            leader: members.first().map(|&n| NodeId(n)),
            ..CopysetView::default()
        };
        ClusterView {
            disks: zones.iter().enumerate().map(|(i, zone)| (NodeId(i as u64 + 1), disk(zone))).collect(),
            copysets: copysets
                .iter()
                .enumerate()
                .map(|(i, c)| (CopysetId(i as u32 + 1), copyset(c)))
                .collect(),
        }
    }

    fn set(view: &mut ClusterView, node: u64, state: DiskState) {
        view.disks.get_mut(&NodeId(node)).unwrap().state = state;
    }

    fn steps(view: &ClusterView) -> Vec<Step> {
        plan_repair(view, RepairLimits::default()).into_iter().map(|operator| operator.step).collect()
    }

    #[test]
    fn a_healthy_or_merely_silent_cluster_is_left_alone() {
        let mut view = cluster(&["a", "b", "c", "d"], &[&[1, 2, 3]]);
        assert!(steps(&view).is_empty());
        set(&mut view, 3, DiskState::Down);
        assert!(steps(&view).is_empty());
    }

    #[test]
    fn a_dead_member_is_replaced_before_it_is_removed() {
        let mut view = cluster(&["a", "b", "c", "c", "a"], &[&[1, 2, 3]]);
        set(&mut view, 3, DiskState::Dead);
        assert_eq!(steps(&view), [Step::Add(NodeId(4))], "the free disk in the dead one's zone");
        view.copysets.get_mut(&CopysetId(1)).unwrap().running = Some(Step::Add(NodeId(4)));
        assert!(steps(&view).is_empty(), "one step at a time");
        let copyset = view.copysets.get_mut(&CopysetId(1)).unwrap();
        (copyset.running, copyset.members) = (None, [1, 2, 3, 4].map(NodeId).to_vec());
        assert_eq!(steps(&view), [Step::Remove(NodeId(3))]);
    }

    #[test]
    fn a_member_that_never_comes_back_is_removed_before_it_is_replaced() {
        let mut view = cluster(&["a", "b", "c", "c"], &[&[1, 2, 3]]);
        set(&mut view, 3, DiskState::Gone);
        assert_eq!(steps(&view), [Step::Remove(NodeId(3))]);
        view.copysets.get_mut(&CopysetId(1)).unwrap().members = [1, 2].map(NodeId).to_vec();
        assert_eq!(steps(&view), [Step::Add(NodeId(4))]);
    }

    #[test]
    fn nothing_is_done_without_a_spare_a_leader_or_a_majority() {
        let mut view = cluster(&["a", "b", "c"], &[&[1, 2, 3]]);
        set(&mut view, 3, DiskState::Dead);
        assert!(steps(&view).is_empty(), "no spare");
        let mut view = cluster(&["a", "b", "c", "d"], &[&[1, 2, 3]]);
        set(&mut view, 3, DiskState::Dead);
        view.copysets.get_mut(&CopysetId(1)).unwrap().leader = None;
        assert!(steps(&view).is_empty(), "no leader");
        view.copysets.get_mut(&CopysetId(1)).unwrap().leader = Some(NodeId(1));
        set(&mut view, 2, DiskState::Down);
        assert!(steps(&view).is_empty(), "no majority");
    }

    #[test]
    fn a_zone_is_doubled_only_when_there_is_no_other() {
        let mut view = cluster(&["a", "b", "c", "a"], &[&[1, 2, 3]]);
        set(&mut view, 3, DiskState::Dead);
        assert_eq!(steps(&view), [Step::Add(NodeId(4))]);
    }

    #[test]
    fn a_disk_receives_few_at_a_time() {
        let mut view = cluster(&["a", "b", "c", "d"], &[&[1, 2, 3][..]; 10]);
        set(&mut view, 3, DiskState::Dead);
        assert_eq!(steps(&view).len(), RepairLimits::default().adds_per_disk_max);
    }

    #[test]
    fn a_leaving_disk_is_emptied_and_a_forgotten_learner_removed() {
        let mut view = cluster(&["a", "b", "c", "d"], &[&[1, 2, 3]]);
        set(&mut view, 1, DiskState::Leaving);
        assert_eq!(steps(&view), [Step::Add(NodeId(4))]);
        let mut view = cluster(&["a", "b", "c", "d"], &[&[1, 2, 3]]);
        view.copysets.get_mut(&CopysetId(1)).unwrap().learners = vec![NodeId(4)];
        assert_eq!(steps(&view), [Step::Remove(NodeId(4))]);
    }

    fn carry_out(view: &mut ClusterView, operators: &[Operator]) {
        for operator in operators {
            let copyset = view.copysets.get_mut(&operator.copyset).unwrap();
            match operator.step {
                Step::Add(node) => copyset.members.push(node),
                Step::Remove(node) => copyset.members.retain(|&member| member != node),
                Step::Transfer(node) => copyset.leader = Some(node),
            }
            if !copyset.leader.is_some_and(|leader| copyset.members.contains(&leader)) {
                copyset.leader = copyset.members.first().copied();
            }
        }
    }

    proptest! {
        #[test]
        fn carried_out_to_the_end_every_copyset_is_whole_again(
            sizes in [2usize..5, 2usize..5, 2usize..5], dead in 1u64..7, how in 0usize..3, seed in any::<u64>()
        ) {
            let zones: Vec<&str> = sizes.iter().zip(["a", "b", "c"]).flat_map(|(&n, zone)| vec![zone; n]).collect();
            let mut view = cluster(&zones, &[]);
            let made = crate::plan_creation(&view, 6, &mut StdRng::seed_from_u64(seed));
            for (i, members) in made.into_iter().enumerate() {
                let copyset = CopysetView { members: members.to_vec(), leader: Some(members[0]), ..CopysetView::default() };
                view.copysets.insert(CopysetId(i as u32 + 1), copyset);
            }
            set(&mut view, dead, [DiskState::Leaving, DiskState::Dead, DiskState::Gone][how]);
            for copyset in view.copysets.values_mut() {
                copyset.leader = copyset.members.iter().copied().find(|&node| node != NodeId(dead));
            }
            for _ in 0..1000 {
                let operators = plan_repair(&view, RepairLimits::default());
                if operators.is_empty() {
                    break;
                }
                let copysets: BTreeSet<_> = operators.iter().map(|operator| operator.copyset).collect();
                prop_assert_eq!(copysets.len(), operators.len());
                for operator in &operators {
                    if let Step::Add(node) = operator.step {
                        prop_assert!(view.is_up(node));
                    }
                }
                carry_out(&mut view, &operators);
                for copyset in view.copysets.values() {
                    let good = copyset.members.iter().filter(|&&node| node != NodeId(dead)).count();
                    prop_assert!(good >= REPLICAS - 1 && copyset.members.len() <= REPLICAS + 1);
                }
            }
            for copyset in view.copysets.values() {
                prop_assert!(!copyset.members.contains(&NodeId(dead)));
                let distinct: BTreeSet<_> = copyset.members.iter().collect();
                prop_assert_eq!(distinct.len(), REPLICAS);
                let zones: BTreeSet<_> = copyset.members.iter().map(|&node| view.zone(node)).collect();
                prop_assert_eq!(zones.len(), REPLICAS);
            }
        }
    }
}
