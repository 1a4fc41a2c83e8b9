//! Metaservers that keep their word but store nothing: Raft groups that everybody agrees on at once. Pure; also used by the
//! tests of curve-mds.

use std::collections::{BTreeMap, BTreeSet};

use curve_proto::pb::fs::meta_order::Action;
use curve_proto::pb::fs::{FsMountKey, FsUsage, MetaOrder, MetaReplica, PartitionBirth};

/// A Raft group.
#[derive(Clone, Debug)]
struct Group {
    members: BTreeSet<u64>,
    index: u64,
    term: u64,
    leader: u64,
    birth: PartitionBirth,
    shut_out: Vec<FsMountKey>,
}

/// What the pretended metaservers share.
#[derive(Default)]
pub struct Fleet {
    groups: BTreeMap<u32, Group>,
    pub alive: BTreeSet<u64>,
    pub replicas: BTreeMap<u64, BTreeSet<u32>>,
    pub creations: BTreeMap<u64, usize>,
    /// File systems that are being deleted: only of those a member's replica may be dropped.
    pub doomed: BTreeSet<u32>,
    /// Mounts are not shut out while this is set.
    pub stubborn: bool,
}

impl Fleet {
    /// Who leads a partition: whoever did, or the first member that is there once that is gone.
    pub fn leads(&mut self, partition: u32) -> Option<u64> {
        let group = self.groups.get_mut(&partition)?;
        let has = |node: &u64| {
            self.alive.contains(node) && self.replicas.get(node).is_some_and(|held| held.contains(&partition))
        };
        if !has(&group.leader) || !group.members.contains(&group.leader) {
            let up: Vec<u64> = group.members.iter().copied().filter(has).collect();
            if up.len() <= group.members.len() / 2 {
                return None;
            }
            (group.leader, group.term) = (up[0], group.term + 1);
        }
        Some(group.leader)
    }

    /// The members of a partition.
    pub fn members(&self, partition: u32) -> Vec<u64> {
        self.groups[&partition].members.iter().copied().collect()
    }

    /// What a partition was born with.
    pub fn birth(&self, partition: u32) -> &PartitionBirth {
        &self.groups[&partition].birth
    }

    /// What a partition refuses.
    pub fn shut_out(&self, partition: u32) -> &[FsMountKey] {
        &self.groups[&partition].shut_out
    }

    /// What a metaserver reports.
    pub fn reports(&mut self, node: u64) -> Vec<MetaReplica> {
        let replicas: Vec<u32> = self.replicas.entry(node).or_default().iter().copied().collect();
        let report = |partition: u32| {
            let leader = self.leads(partition).unwrap_or(0);
            let group = &self.groups[&partition];
            MetaReplica {
                partition,
                term: group.term,
                leader,
                members: group.members.iter().copied().collect(),
                learners: Vec::new(),
                applied: 10,
                last_log: 10,
                members_index: group.index,
                usage: Some(FsUsage { files: 1, directories: 2, bytes: 3 }),
                shut_out: if leader == node { group.shut_out.clone() } else { Vec::new() },
            }
        };
        replicas.into_iter().map(report).collect()
    }

    /// Does what a metaserver is told.
    pub fn obey(&mut self, node: u64, order: &MetaOrder) {
        let partition = order.partition;
        match order.action.as_ref().expect("an order says what to do") {
            Action::Create(birth) => {
                let members: BTreeSet<u64> = birth.members.iter().copied().collect();
                assert!(members.len() == 3 && members.contains(&node), "{birth:?}");
                let group = Group {
                    leader: birth.members[0],
                    members,
                    index: 1,
                    term: 1,
                    birth: birth.clone(),
                    shut_out: Vec::new(),
                };
                let known = self.groups.entry(partition).or_insert(group);
                assert_eq!(&known.birth, birth, "one birth for all members");
                *self.creations.entry(node).or_default() += 1;
                self.replicas.entry(node).or_default().insert(partition);
            }
            Action::Join(birth) => {
                let born = &self.groups[&partition].birth;
                assert_eq!((born.fs, born.slot, born.now_ns), (birth.fs, birth.slot, birth.now_ns));
                self.replicas.entry(node).or_default().insert(partition);
            }
            Action::DropReplica(_) => {
                let group = &self.groups[&partition];
                let may = !group.members.contains(&node) || self.doomed.contains(&group.birth.fs);
                assert!(may, "a member's replica was to be dropped");
                self.replicas.entry(node).or_default().remove(&partition);
            }
            Action::AddMember(to) => {
                assert_eq!(self.leads(partition), Some(node));
                assert!(self.replicas[to].contains(&partition), "the new member has joined");
                self.change(partition, |members| members.insert(*to));
            }
            Action::RemoveMember(from) => {
                assert_eq!(self.leads(partition), Some(node));
                self.change(partition, |members| members.remove(from));
            }
            Action::TransferLeader(to) => {
                let group = self.groups.get_mut(&partition).unwrap();
                assert!(group.members.contains(to));
                (group.leader, group.term) = (*to, group.term + 1);
            }
            Action::ShutOut(key) => {
                assert_eq!(self.leads(partition), Some(node), "only leaders shut out");
                let group = self.groups.get_mut(&partition).unwrap();
                assert_eq!(group.birth.fs, key.fs);
                if !self.stubborn && !group.shut_out.contains(key) {
                    group.shut_out.push(*key);
                }
            }
        }
    }

    fn change(&mut self, partition: u32, change: impl FnOnce(&mut BTreeSet<u64>) -> bool) {
        let group = self.groups.get_mut(&partition).unwrap();
        group.index += u64::from(change(&mut group.members));
        assert!((2..=4).contains(&group.members.len()), "{group:?}");
    }
}
