//! Which copysets should be led by somebody else.

use std::collections::BTreeMap;

use curve_types::{CopysetId, NodeId};

use crate::view::{ClusterView, CopysetView, Operator, REPLICAS, Step};

/// At most `transfers_max` transfers that bring disks closer in the number of copysets they lead. Each takes from a
/// disk that leads at least two more than the receiver, so that nothing moves back and forth. Copysets that are not
/// whole, or have something running, stay as they are.
pub fn plan_leaders(view: &ClusterView, transfers_max: usize) -> Vec<Operator> {
    let mut counts: BTreeMap<NodeId, usize> =
        view.disks.keys().filter(|&&node| view.is_up(node)).map(|&node| (node, 0)).collect();
    let mut whole: BTreeMap<CopysetId, (NodeId, &CopysetView)> = BTreeMap::new();
    for (&id, copyset) in &view.copysets {
        let Some(leader) = copyset.leader else { continue };
        if let Some(count) = counts.get_mut(&leader) {
            *count += 1;
        }
        let up = copyset.members.iter().all(|&node| view.is_up(node));
        if up
            && copyset.running.is_none()
            && copyset.members.len() == REPLICAS
            && copyset.members.contains(&leader)
        {
            whole.insert(id, (leader, copyset));
        }
    }
    let mut plan = Vec::new();
    while plan.len() < transfers_max {
        let Some((operator, from, to)) = best(&whole, &counts) else { break };
        *counts.get_mut(&from).expect("a leader that is up") -= 1;
        *counts.get_mut(&to).expect("a member that is up") += 1;
        whole.remove(&operator.copyset);
        plan.push(operator);
    }
    plan
}

fn best(
    whole: &BTreeMap<CopysetId, (NodeId, &CopysetView)>,
    counts: &BTreeMap<NodeId, usize>,
) -> Option<(Operator, NodeId, NodeId)> {
    let candidates = whole.iter().flat_map(|(&copyset, &(from, view))| {
        view.members.iter().map(move |&to| (Operator { copyset, step: Step::Transfer(to) }, from, to))
    });
    let gains = candidates.filter_map(|(operator, from, to)| {
        let gain = counts.get(&from)?.checked_sub(*counts.get(&to)?).filter(|&gain| gain >= 2)?;
        Some((gain, operator, from, to))
    });
    let (_, operator, from, to) =
        gains.max_by_key(|&(gain, operator, _, to)| (gain, std::cmp::Reverse((operator.copyset, to))))?;
    Some((operator, from, to))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Just, Strategy, prop_assert, proptest};

    use super::*;
    use crate::view::{DiskState, DiskView};

    fn cluster(disks: u64, copysets: &[([u64; 3], u64)]) -> ClusterView {
        let disk = DiskView {
            zone: String::new(),
            state: DiskState::Up,
            free_bytes: 1 << 40,
            reserve_bytes: 0,
            reserve_low: false,
        };
        let copyset = |&(members, leader): &([u64; 3], u64)| CopysetView {
            members: members.map(NodeId).to_vec(),
            leader: Some(NodeId(leader)),
            ..CopysetView::default()
        };
        ClusterView {
            disks: (1..=disks).map(|node| (NodeId(node), disk.clone())).collect(),
            copysets: copysets
                .iter()
                .enumerate()
                .map(|(i, c)| (CopysetId(i as u32 + 1), copyset(c)))
                .collect(),
        }
    }

    fn leaders(view: &ClusterView) -> BTreeMap<NodeId, usize> {
        let mut counts: BTreeMap<NodeId, usize> = view.disks.keys().map(|&node| (node, 0)).collect();
        for copyset in view.copysets.values() {
            *counts.get_mut(&copyset.leader.unwrap()).unwrap() += 1;
        }
        counts
    }

    fn carry_out(view: &mut ClusterView) -> usize {
        let plan = plan_leaders(view, 100);
        for operator in &plan {
            let Step::Transfer(to) = operator.step else { panic!("not a transfer: {operator:?}") };
            view.copysets.get_mut(&operator.copyset).unwrap().leader = Some(to);
        }
        plan.len()
    }

    #[test]
    fn one_that_leads_all_gives_some_away() {
        let mut view = cluster(3, &[([1, 2, 3], 1); 4]);
        assert_eq!(carry_out(&mut view), 2);
        assert_eq!(leaders(&view).into_values().collect::<Vec<_>>(), [2, 1, 1]);
        assert_eq!(carry_out(&mut view), 0);
    }

    #[test]
    fn copysets_that_are_not_whole_are_left_alone() {
        let mut view = cluster(3, &[([1, 2, 3], 1); 4]);
        view.disks.get_mut(&NodeId(3)).unwrap().state = DiskState::Down;
        assert!(plan_leaders(&view, 100).is_empty());
    }

    proptest! {
        #[test]
        fn leaders_end_up_within_one_of_what_members_allow(
            copysets in proptest::collection::vec(
                (0u64..4).prop_flat_map(|gap| (Just([1, 2, 3, 4].into_iter().filter(|&n| n != gap + 1).collect::<Vec<u64>>()), 0usize..3)),
                1..40,
            )
        ) {
            let copysets: Vec<([u64; 3], u64)> =
                copysets.iter().map(|(members, leader)| ([members[0], members[1], members[2]], members[*leader])).collect();
            let mut view = cluster(4, &copysets);
            let rounds = (0..100).take_while(|_| carry_out(&mut view) > 0).count();
            prop_assert!(rounds < 20, "{} rounds", rounds);
            // No transfer within a copyset can gain any more.
            let counts = leaders(&view);
            for copyset in view.copysets.values() {
                let leads = counts[&copyset.leader.unwrap()];
                prop_assert!(copyset.members.iter().all(|member| leads <= counts[member] + 1), "{:?}", counts);
            }
        }
    }
}
