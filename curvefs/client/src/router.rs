//! Which partition holds an inode, and whom to ask there. Pure.

use std::collections::BTreeMap;

use curve_types::{NodeId, Sequence};
use curvefs_types::{InodeId, MapLine, PartitionId, PartitionMap};
use thiserror::Error;

use crate::numbers::Numbers;
use crate::trail::Guess;

/// A metaserver with a replica of a partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// Which metaserver.
    pub node: NodeId,
    /// Where it listens.
    pub address: String,
}

/// A partition as the MDS tells of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PartitionInfo {
    /// Which.
    pub id: PartitionId,
    /// It holds the inodes from each of these up to the next of any partition.
    pub first_inodes: Vec<InodeId>,
    /// Where its replicas are.
    pub members: Vec<Member>,
    /// Who leads, as far as the MDS knows.
    pub leader: Option<NodeId>,
}

/// All partitions of a file system.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Partitions {
    /// Of the map of inodes; grows with each change of it. Members change without it.
    pub version: u64,
    /// In any order.
    pub partitions: Vec<PartitionInfo>,
}

/// The MDS tells of partitions that cannot be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum BadPartitions {
    /// The map has a hole, or two partitions hold the same inode.
    #[error("the partitions' inodes are no map")]
    Map,
    /// The same partition twice.
    #[error("{0} is listed twice")]
    Twice(PartitionId),
}

impl Partitions {
    fn map(&self) -> Result<PartitionMap, BadPartitions> {
        let line = |info: &PartitionInfo, first: &InodeId| MapLine { first: *first, partition: info.id };
        let lines =
            self.partitions.iter().flat_map(|info| info.first_inodes.iter().map(|first| line(info, first)));
        let mut lines: Vec<_> = lines.collect();
        lines.sort_by_key(|line| line.first);
        PartitionMap::new(self.version, lines).ok_or(BadPartitions::Map)
    }
}

/// One partition: members, the guess of who leads, and the numbers of changes. The numbers outlive every new map, since
/// the partition remembers answers by them.
#[derive(Clone, Default, Debug)]
struct Route {
    members: Vec<Member>,
    leader: Option<Member>,
    /// Who is asked next while no leader is known.
    next: usize,
    numbers: Numbers,
}

impl Route {
    fn member(&self, node: NodeId) -> Option<&Member> {
        self.members.iter().find(|member| member.node == node)
    }

    fn learn(&mut self, info: PartitionInfo) {
        self.members = info.members;
        // What was heard from the members themselves is newer than what the MDS has heard.
        let known = self.leader.take().and_then(|leader| self.member(leader.node).cloned());
        self.leader = known.or_else(|| self.member(info.leader?).cloned());
    }

    fn target(&self, avoid: Option<NodeId>) -> Option<&Member> {
        let others = || self.members.iter().cycle().skip(self.next).take(self.members.len());
        let wanted = self.leader.iter().chain(others()).find(|member| Some(member.node) != avoid);
        wanted.or_else(|| others().next())
    }

    fn moved(&mut self, asked: NodeId, guess: Guess) {
        if self.leader.as_ref().is_some_and(|leader| leader.node != asked) {
            // Somebody else has learnt better meanwhile.
            return;
        }
        match guess {
            Guess::Keep => {}
            Guess::Leader(node, address) if !address.is_empty() => {
                self.leader = Some(Member { node, address })
            }
            Guess::Leader(node, _) if self.member(node).is_some() => self.leader = self.member(node).cloned(),
            Guess::Leader(..) | Guess::NotThis => {
                self.leader = None;
                let at = self.members.iter().position(|member| member.node == asked);
                self.next = at.map_or(self.next, |at| at + 1) % self.members.len().max(1);
            }
        }
    }
}

/// Everything a mount knows about where things are.
///
/// Nothing here is true for ever: a partition says `NotHere` when it is asked for what it does not hold, and a replica that
/// does not lead says so. So an old map costs a call and never gives a wrong answer.
#[derive(Clone, Debug)]
pub struct Router {
    map: PartitionMap,
    routes: BTreeMap<PartitionId, Route>,
}

impl Router {
    /// Begins with what the MDS told at the mount.
    pub fn new(partitions: Partitions) -> Result<Self, BadPartitions> {
        let mut router = Self { map: partitions.map()?, routes: BTreeMap::new() };
        router.learn(partitions)?;
        Ok(router)
    }

    /// Takes over what the MDS tells, unless it is older than what is known. What cannot be changes nothing.
    pub fn learn(&mut self, partitions: Partitions) -> Result<(), BadPartitions> {
        if partitions.version < self.map.version() {
            return Ok(());
        }
        let map = partitions.map()?;
        let mut ids: Vec<_> = partitions.partitions.iter().map(|info| info.id).collect();
        ids.sort_unstable();
        if let Some(pair) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(BadPartitions::Twice(pair[0]));
        }
        for (id, route) in &mut self.routes {
            if ids.binary_search(id).is_err() {
                (route.members, route.leader) = (Vec::new(), None);
            }
        }
        for info in partitions.partitions {
            self.routes.entry(info.id).or_default().learn(info);
        }
        self.map = map;
        Ok(())
    }

    /// The version of the map.
    pub fn version(&self) -> u64 {
        self.map.version()
    }

    /// Who holds an inode.
    pub fn home(&self, inode: InodeId) -> PartitionId {
        self.map.partition_of(inode)
    }

    /// All partitions with inodes, each with the first of them, in order of partition.
    pub fn partitions(&self) -> Vec<(PartitionId, InodeId)> {
        let mut first: BTreeMap<PartitionId, InodeId> = BTreeMap::new();
        for line in self.map.lines() {
            first.entry(line.partition).or_insert(line.first);
        }
        first.into_iter().collect()
    }

    /// Whom to ask, preferably not `avoid`. `None`: no member is known.
    pub fn target(&self, partition: PartitionId, avoid: Option<NodeId>) -> Option<Member> {
        self.routes.get(&partition)?.target(avoid).cloned()
    }

    /// The member that was asked did not answer as the leader does.
    pub fn moved(&mut self, partition: PartitionId, asked: NodeId, guess: Guess) {
        if let Some(route) = self.routes.get_mut(&partition) {
            route.moved(asked, guess);
        }
    }

    /// The member answered, so it leads.
    pub fn answered(&mut self, partition: PartitionId, by: &Member) {
        if let Some(route) = self.routes.get_mut(&partition)
            && route.leader.as_ref() != Some(by)
        {
            route.leader = Some(by.clone());
        }
    }

    /// A number for a change.
    pub fn begin(&mut self, partition: PartitionId) -> Sequence {
        self.routes.entry(partition).or_default().numbers.begin()
    }

    /// Nobody waits for the answer to a change any more.
    pub fn finish(&mut self, partition: PartitionId, number: Sequence) {
        if let Some(route) = self.routes.get_mut(&partition) {
            route.numbers.finish(number);
        }
    }

    /// Below which number the partition may forget its answers.
    pub fn ack_below(&self, partition: PartitionId) -> Sequence {
        self.routes.get(&partition).map_or(Sequence(0), |route| route.numbers.ack_below())
    }

    /// The next numbers, in order of partition, for the process that takes the mount over; `None` while a change is under way.
    pub fn next_numbers(&self) -> Option<Vec<(PartitionId, Sequence)>> {
        self.routes.iter().map(|(id, route)| Some((*id, route.numbers.next()?))).collect()
    }

    /// Goes on with another process's numbers. Before the first change.
    pub fn set_numbers(&mut self, numbers: Vec<(PartitionId, Sequence)>) {
        for (id, next) in numbers {
            self.routes.entry(id).or_default().numbers = Numbers::from_next(next);
        }
    }

    /// Changes that are not answered, at all partitions.
    pub fn under_way(&self) -> usize {
        self.routes.values().map(|route| route.numbers.under_way()).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const ONE: PartitionId = PartitionId(1);
    const TWO: PartitionId = PartitionId(2);

    fn member(node: u64) -> Member {
        Member { node: NodeId(node), address: format!("meta-{node}:1") }
    }

    fn info(id: PartitionId, first: &[u64], members: &[u64], leader: Option<u64>) -> PartitionInfo {
        PartitionInfo {
            id,
            first_inodes: first.iter().map(|first| InodeId(*first)).collect(),
            members: members.iter().map(|node| member(*node)).collect(),
            leader: leader.map(NodeId),
        }
    }

    fn two(version: u64) -> Partitions {
        let partitions = vec![info(ONE, &[0], &[1, 2, 3], Some(2)), info(TWO, &[1 << 40], &[2, 3, 4], None)];
        Partitions { version, partitions }
    }

    fn target(router: &Router, partition: PartitionId, avoid: Option<u64>) -> Option<u64> {
        router.target(partition, avoid.map(NodeId)).map(|member| member.node.get())
    }

    #[test]
    fn inodes_are_where_the_map_says_and_older_maps_are_ignored() {
        let mut router = Router::new(two(2)).unwrap();
        assert_eq!((router.home(InodeId(1)), router.home(InodeId(1 << 40 | 7))), (ONE, TWO));
        assert_eq!(router.partitions(), [(ONE, InodeId(0)), (TWO, InodeId(1 << 40))]);
        let moved = |version| {
            let partitions =
                vec![info(TWO, &[1 << 40], &[4], None), info(ONE, &[0, 1 << 40 | 5], &[9], None)];
            Partitions { version, partitions }
        };
        router.learn(moved(1)).unwrap();
        assert_eq!(router.version(), 2);
        router.learn(moved(3)).unwrap();
        assert_eq!((router.home(InodeId(1 << 40 | 4)), router.home(InodeId(1 << 40 | 7))), (TWO, ONE));
        assert_eq!(target(&router, ONE, None), Some(9), "the leader that was known is no member any more");
    }

    #[test]
    fn what_cannot_be_is_refused_and_changes_nothing() {
        let mut router = Router::new(two(2)).unwrap();
        for (partitions, error) in [
            (vec![], BadPartitions::Map),
            (vec![info(ONE, &[1], &[1], None)], BadPartitions::Map),
            (vec![info(ONE, &[0], &[1], None), info(TWO, &[0], &[1], None)], BadPartitions::Map),
            (vec![info(ONE, &[0], &[1], None), info(ONE, &[5], &[1], None)], BadPartitions::Twice(ONE)),
        ] {
            assert_eq!(router.learn(Partitions { version: 9, partitions }), Err(error));
            assert_eq!((router.version(), target(&router, ONE, None)), (2, Some(2)));
        }
    }

    #[test]
    fn the_guess_moves_once_per_failure() {
        let mut router = Router::new(two(1)).unwrap();
        assert_eq!(target(&router, ONE, None), Some(2));
        assert_eq!(target(&router, ONE, Some(2)), Some(1));
        router.moved(ONE, NodeId(2), Guess::NotThis);
        assert_eq!(target(&router, ONE, None), Some(3));
        router.moved(ONE, NodeId(3), Guess::Leader(NodeId(1), String::new()));
        assert_eq!(target(&router, ONE, None), Some(1));
        router.moved(ONE, NodeId(3), Guess::NotThis);
        assert_eq!(
            target(&router, ONE, None),
            Some(1),
            "another call's failure, of who is not asked any more"
        );
        router.moved(ONE, NodeId(1), Guess::Leader(NodeId(8), "new:1".into()));
        assert_eq!(
            router.target(ONE, None).unwrap().address,
            "new:1",
            "a member that the map does not know yet"
        );
        router.moved(ONE, NodeId(8), Guess::Leader(NodeId(9), String::new()));
        assert_eq!(target(&router, ONE, None), Some(3), "a hint without an address is none");
        router.answered(ONE, &member(3));
        router.learn(two(1)).unwrap();
        assert_eq!(target(&router, ONE, None), Some(3), "what answers is newer than what the MDS has heard");
        assert_eq!(target(&router, PartitionId(7), None), None);
    }

    #[test]
    fn numbers_are_each_partitions_own_and_survive_a_new_map() {
        let mut router = Router::new(two(1)).unwrap();
        assert_eq!([router.begin(ONE), router.begin(ONE), router.begin(TWO)], [1, 2, 1].map(Sequence));
        router.finish(TWO, Sequence(1));
        router.learn(two(5)).unwrap();
        assert_eq!((router.ack_below(ONE), router.ack_below(TWO)), (Sequence(1), Sequence(2)));
        assert_eq!((router.begin(ONE), router.under_way()), (Sequence(3), 3));
        assert_eq!(router.next_numbers(), None, "changes are under way");
        (1..4).for_each(|number| router.finish(ONE, Sequence(number)));
        let numbers = router.next_numbers().unwrap();
        assert_eq!(numbers, [(ONE, Sequence(4)), (TWO, Sequence(2))]);
        let mut next = Router::new(two(5)).unwrap();
        next.set_numbers(numbers);
        assert_eq!(
            (next.begin(ONE), next.begin(TWO), next.ack_below(TWO)),
            (Sequence(4), Sequence(2), Sequence(2))
        );
    }

    proptest! {
        /// Whatever was heard, somebody is asked, nobody that is to be avoided if there is another, and members that all
        /// disclaim are all asked in turn.
        #[test]
        fn everybody_is_asked_sooner_or_later(
            events in prop::collection::vec((0u64..5, 0u8..4, 0u64..7), 0..40),
            avoid in prop::option::of(0u64..5),
        ) {
            let mut router = Router::new(two(1)).unwrap();
            for (asked, what, other) in events {
                match what {
                    0 => router.moved(ONE, NodeId(asked), Guess::NotThis),
                    1 => router.moved(ONE, NodeId(asked), Guess::Leader(NodeId(other), String::new())),
                    2 => router.answered(ONE, &member(asked)),
                    _ => router.learn(two(other)).unwrap(),
                }
                let target = target(&router, ONE, avoid);
                prop_assert!(target.is_some() && (target != avoid || avoid.is_none()));
            }
            let mut asked = BTreeSet::new();
            for _ in 0..4 {
                let target = router.target(ONE, None).unwrap();
                router.moved(ONE, target.node, Guess::NotThis);
                asked.insert(target.node.get());
            }
            prop_assert!(asked.is_superset(&BTreeSet::from([1, 2, 3])), "{:?}", asked);
        }
    }
}
