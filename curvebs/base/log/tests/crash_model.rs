//! A reference model: random operations on several groups, with process deaths and power losses in between.
//!
//! The model keeps for each group what is durable for certain and what has been issued since. After a crash the log must
//! hold the certain part and some prefix of the rest, over all groups in the order of issue: no acknowledged record is
//! missing, nothing that was truncated, purged or removed returns, and no payload has changed.

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use curve_io::sim::{SimDisk, SimDiskConfig};
use curve_log::{Entry, GroupState, Log};
use curve_types::GroupId;
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use support::{append, entry, open, read_all};

const GROUPS: u64 = 3;

#[derive(Clone, Debug)]
enum Op {
    Append {
        group: u64,
        count: u64,
        len: usize,
    },
    Vote {
        group: u64,
    },
    Committed {
        group: u64,
    },
    /// How many entries from the end go.
    Truncate {
        group: u64,
        from_end: u64,
    },
    /// How many entries from the front go.
    Purge {
        group: u64,
        count: u64,
    },
    /// A snapshot was installed: everything goes and the log continues later.
    Skip {
        group: u64,
        ahead: u64,
    },
    Remove {
        group: u64,
    },
    /// Wait until all that was issued is durable.
    Await,
    /// Let time pass, so that lazy records are written.
    Rest,
    Kill,
    PowerLoss,
    Close,
}

fn op() -> impl Strategy<Value = Op> {
    let group = 0..GROUPS;
    prop_oneof![
        12 => (group.clone(), 1..6u64, prop_oneof![0..300usize, 3000..9000usize])
            .prop_map(|(group, count, len)| Op::Append { group, count, len }),
        3 => group.clone().prop_map(|group| Op::Vote { group }),
        3 => group.clone().prop_map(|group| Op::Committed { group }),
        2 => (group.clone(), 0..6u64).prop_map(|(group, from_end)| Op::Truncate { group, from_end }),
        4 => (group.clone(), 1..20u64).prop_map(|(group, count)| Op::Purge { group, count }),
        1 => (group.clone(), 1..50u64).prop_map(|(group, ahead)| Op::Skip { group, ahead }),
        1 => group.prop_map(|group| Op::Remove { group }),
        4 => Just(Op::Await),
        1 => Just(Op::Rest),
        1 => Just(Op::Kill),
        2 => Just(Op::PowerLoss),
        1 => Just(Op::Close),
    ]
}

/// One group as the model sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Group {
    entries: BTreeMap<u64, Entry>,
    purged: Option<(u64, Bytes)>,
    vote: Option<Bytes>,
    committed: Option<Bytes>,
}

impl Group {
    fn next(&self) -> u64 {
        let after_purge = self.purged.as_ref().map_or(1, |(purged, _)| purged + 1);
        self.entries.last_key_value().map_or(after_purge, |(last, _)| last + 1)
    }

    fn purge(&mut self, upto: u64, meta: Bytes) {
        if self.purged.as_ref().is_some_and(|(purged, _)| upto <= *purged) {
            return;
        }
        self.entries = self.entries.split_off(&(upto + 1));
        self.purged = Some((upto, meta));
    }

    fn state(&self) -> GroupState {
        GroupState {
            purged: self.purged.clone(),
            last: self.entries.last_key_value().map(|(n, entry)| (*n, entry.meta.clone())),
            first: self.entries.first_key_value().map(|(n, _)| *n),
            vote: self.vote.clone(),
            committed: self.committed.clone(),
        }
    }
}

type Groups = BTreeMap<u64, Group>;

/// A record that may or may not have become durable.
#[derive(Clone, Debug)]
enum Step {
    Append(u64, Entry),
    Vote(u64, Bytes),
    Committed(u64, Bytes),
    Truncate(u64, u64),
    Purge(u64, u64, Bytes),
    Remove(u64),
}

fn apply(groups: &mut Groups, step: &Step) {
    match step.clone() {
        Step::Append(group, entry) => {
            groups.entry(group).or_default().entries.insert(entry.index, entry);
        }
        Step::Vote(group, vote) => groups.entry(group).or_default().vote = Some(vote),
        Step::Committed(group, meta) => groups.entry(group).or_default().committed = Some(meta),
        Step::Truncate(group, first_removed) => {
            groups.entry(group).or_default().entries.split_off(&first_removed);
        }
        Step::Purge(group, upto, meta) => groups.entry(group).or_default().purge(upto, meta),
        Step::Remove(group) => {
            groups.remove(&group);
        }
    }
}

struct Model {
    disk: SimDisk,
    log: Log,
    certain: Groups,
    issued: Vec<Step>,
    /// The state with all issued steps, which is what callers see.
    seen: Groups,
    waiting: Vec<support::Durable>,
    /// Commit points that may be found: lazy records, of which a newer one may replace an older one in the queue.
    commits: BTreeMap<u64, Vec<Bytes>>,
    counter: u64,
}

impl Model {
    async fn new(seed: u64) -> Self {
        let delay = Duration::ZERO..Duration::from_millis(3);
        let disk = SimDisk::new(SimDiskConfig { seed, sync_delay: delay, ..SimDiskConfig::default() });
        let (log, _) = open(&disk).await;
        let (certain, seen) = (Groups::new(), Groups::new());
        Self {
            disk,
            log,
            certain,
            issued: Vec::new(),
            seen,
            waiting: Vec::new(),
            commits: BTreeMap::new(),
            counter: 0,
        }
    }

    fn issue(&mut self, step: Step) {
        apply(&mut self.seen, &step);
        self.issued.push(step);
    }

    fn seen(&self, group: u64) -> Group {
        self.seen.get(&group).cloned().unwrap_or_default()
    }

    fn label(&mut self) -> Bytes {
        self.counter += 1;
        format!("label {}", self.counter).into()
    }

    async fn run(&mut self, op: Op) {
        match op {
            Op::Append { group, count, len } => self.append(group, count, len),
            Op::Vote { group } => {
                let vote = self.label();
                self.waiting.push(self.handle(group).save_vote(vote.clone()));
                self.issue(Step::Vote(group, vote));
            }
            Op::Committed { group } => {
                let meta = self.label();
                self.handle(group).save_committed(meta.clone());
                self.commits.entry(group).or_default().push(meta.clone());
                self.issue(Step::Committed(group, meta));
            }
            Op::Truncate { group, from_end } => {
                let first_removed = self.seen(group).next().saturating_sub(from_end);
                let last_kept = first_removed.checked_sub(1);
                self.waiting.push(self.handle(group).truncate_after(last_kept));
                self.issue(Step::Truncate(group, first_removed));
            }
            Op::Purge { group, count } => {
                let seen = self.seen(group);
                if let Some((first, _)) = seen.entries.first_key_value() {
                    self.purge(group, (first + count - 1).min(seen.next() - 1));
                }
            }
            Op::Skip { group, ahead } => self.purge(group, self.seen(group).next() + ahead),
            Op::Remove { group } => {
                // Of a group that is not there nothing is written, so that nothing issued before becomes certain by it.
                if !self.log.groups().contains(&GroupId(group)) {
                    return self.log.remove_group(GroupId(group)).await.expect("there is nothing to do");
                }
                self.waiting.push(self.log.remove_group(GroupId(group)));
                self.issue(Step::Remove(group));
            }
            Op::Await => self.settle_issued().await,
            Op::Rest => {
                tokio::time::sleep(Duration::from_secs(2)).await;
                self.settle_issued().await;
                self.all_certain();
            }
            Op::Kill => self.restart(|disk| disk.detach()).await,
            Op::PowerLoss => self.restart(|disk| disk.crash()).await,
            Op::Close => {
                self.log.close().await;
                self.all_certain();
                self.restart(|disk| disk.crash()).await;
            }
        }
    }

    fn handle(&self, group: u64) -> curve_log::GroupLog {
        self.log.group(GroupId(group))
    }

    fn append(&mut self, group: u64, count: u64, len: usize) {
        let first = self.seen(group).next();
        self.counter += 1;
        let entries: Vec<Entry> = (first..first + count).map(|n| entry(n, self.counter, len)).collect();
        self.waiting.push(Box::pin(append(&self.handle(group), entries.clone())));
        entries.into_iter().for_each(|entry| self.issue(Step::Append(group, entry)));
    }

    fn purge(&mut self, group: u64, upto: u64) {
        let meta = self.label();
        self.handle(group).purge(upto, meta.clone());
        self.issue(Step::Purge(group, upto, meta));
    }

    /// Waits for everything that somebody waits for. The lazy records behind the last such one stay uncertain.
    async fn settle_issued(&mut self) {
        for durable in self.waiting.drain(..) {
            durable.await.expect("the disk is fine");
        }
        let lazy = |step: &Step| matches!(step, Step::Committed(..) | Step::Purge(..));
        let certain = self.issued.iter().rposition(|step| !lazy(step)).map_or(0, |n| n + 1);
        for step in self.issued.drain(..certain) {
            apply(&mut self.certain, &step);
        }
    }

    fn all_certain(&mut self) {
        self.certain = self.seen.clone();
        self.commits = committed_of(&self.certain);
        self.issued.clear();
    }

    async fn restart(&mut self, end: impl FnOnce(&SimDisk)) {
        end(&self.disk);
        self.waiting.clear();
        let (log, recovery) = open(&self.disk).await;
        self.log = log;
        let mut found = Groups::new();
        for id in &recovery.groups {
            let group = self.log.group(*id);
            let state = group.state();
            let entries = read_all(&group).await.into_iter().map(|entry| (entry.index, entry)).collect();
            let GroupState { purged, vote, committed, .. } = state.clone();
            let read = Group { entries, purged, vote, committed };
            assert_eq!(read.state(), state, "the state agrees with the entries");
            found.insert(id.get(), read);
        }
        self.check(&found);
        self.seen = found;
        self.all_certain();
    }

    /// The log holds the certain state and a prefix of what was issued later.
    fn check(&self, found: &Groups) {
        let mut candidate = self.certain.clone();
        if agree(&candidate, found, &self.commits) {
            return;
        }
        for step in &self.issued {
            apply(&mut candidate, step);
            if agree(&candidate, found, &self.commits) {
                return;
            }
        }
        let steps: Vec<String> = self.issued.iter().map(|step| brief(&format!("{step:?}"))).collect();
        panic!("no prefix of {steps:#?} after\n{}\ngives\n{}", summary(&self.certain), summary(found));
    }
}

fn summary(groups: &Groups) -> String {
    let group = |(id, group): (&u64, &Group)| {
        let entries: Vec<_> = group.entries.values().map(|entry| entry.meta.clone()).collect();
        format!("{id}: {entries:?} {:?} {:?} {:?}", group.purged, group.vote, group.committed)
    };
    groups.iter().map(group).collect::<Vec<_>>().join("\n")
}

fn brief(text: &str) -> String {
    text.chars().take(60).collect()
}

fn committed_of(groups: &Groups) -> BTreeMap<u64, Vec<Bytes>> {
    groups.iter().map(|(id, group)| (*id, group.committed.iter().cloned().collect())).collect()
}

/// Equal, where a commit point may be any of those that were saved: they are lazy, and only the newest matters.
fn agree(model: &Groups, found: &Groups, commits: &BTreeMap<u64, Vec<Bytes>>) -> bool {
    let ids: std::collections::BTreeSet<u64> = model.keys().chain(found.keys()).copied().collect();
    ids.into_iter().all(|id| {
        let mut model = model.get(&id).cloned().unwrap_or_default();
        let found = found.get(&id).cloned().unwrap_or_default();
        let allowed = |meta: &Bytes| commits.get(&id).is_some_and(|saved| saved.contains(meta));
        if found.committed.as_ref().is_none_or(allowed) {
            model.committed = found.committed.clone();
        }
        model == found
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(150),
        failure_persistence: Some(Box::new(FileFailurePersistence::Off)),
        ..ProptestConfig::default()
    })]

    #[test]
    fn crashes_lose_nothing_that_was_acknowledged(seed in any::<u64>(), ops in proptest::collection::vec(op(), 1..120)) {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut model = Model::new(seed).await;
            for op in ops {
                model.run(op).await;
            }
            model.restart(|disk| disk.crash()).await;
        });
    }
}
