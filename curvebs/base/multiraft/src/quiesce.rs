//! Groups that are idle cost nothing: no timers, no heartbeats of their own.
//!
//! The leader of a group in which nothing has happened for a while, and whose members all have everything, asks them to
//! sleep. Once all have agreed, it sleeps too. From then on one ping per pair of nodes, each heartbeat interval, names
//! all groups that the sender leads and that sleep; a follower that has not heard its group named for the length of a
//! lease wakes and stands for election, as it would had heartbeats stopped.
//!
//! What wakes a group: a proposal, a read that needs a message, or a change of members at its leader; an append or a
//! request to take over at a follower; a ping's answer in which a member does not sleep; a pause of this process.
//! A member whose node has not answered pings for a while is left out of the agreement, so that a lost node does not
//! keep all its groups awake; when it answers again, its groups are woken.
//!
//! A sleeping member does not vote against a leader it hears of: a node that comes back and asks for votes is refused,
//! and its question wakes the leader, which then tells it who leads.
//!
//! Sleeping is safe whatever is lost or late, since it only turns timers off. Leases are not renewed while a group
//! sleeps; the first operation after it waits for one round.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use curve_types::{GroupId, NodeId};
use tokio::time::Instant;

use crate::group::{Group, Inner};
use crate::node::MultiRaft;
use crate::stall;
use crate::types::{LeaderId, LogId};
use crate::wire::{Outcome, PING, Ping, PingReply, Sleep, decode, message};

/// A node that has not answered pings for this long is left out.
const DOWN_AFTER: Duration = Duration::from_secs(3);
/// Groups named in one ping, at most.
const GROUPS_PER_PING_MAX: usize = 512;

/// Since when a group has looked the same.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Still {
    last: LogId,
    touches: u64,
    since: Instant,
}

/// A group that would sleep if these members agreed.
struct Candidate {
    group: Group,
    touches: u64,
    sleep: Sleep,
    missing: Mutex<BTreeSet<NodeId>>,
}

/// Since when nodes have not answered pings.
#[derive(Default)]
pub(crate) struct Silences {
    since: Mutex<BTreeMap<NodeId, Instant>>,
}

impl Silences {
    fn note(&self, node: NodeId, answered: bool) {
        let mut since = self.since.lock().expect("never poisoned");
        match answered {
            true => drop(since.remove(&node)),
            false => drop(since.entry(node).or_insert_with(Instant::now)),
        }
    }

    fn is_down(&self, node: NodeId) -> bool {
        let since = self.since.lock().expect("never poisoned");
        since.get(&node).is_some_and(|since| since.elapsed() >= DOWN_AFTER)
    }
}

/// Pings, puts groups to sleep and wakes them, until the node is gone; looks at the disk on the way.
pub(crate) async fn run(node: Weak<MultiRaft>) {
    let Some((interval, lease, after)) = node.upgrade().map(|node| {
        let options = node.options();
        (options.heartbeat, options.election_max, options.quiesce_after)
    }) else {
        return;
    };
    let mut still = BTreeMap::new();
    let mut last_round = Instant::now();
    loop {
        tokio::time::sleep(interval).await;
        let Some(node) = node.upgrade() else { return };
        if node.is_closing() {
            return;
        }
        stall::look(&node);
        let Some(after) = after else { continue };
        // After a pause of the whole process, nothing that was heard before it counts.
        let paused = last_round.elapsed() > lease;
        last_round = Instant::now();
        round(&node, &mut still, after, paused);
    }
}

fn round(node: &Arc<MultiRaft>, still: &mut BTreeMap<GroupId, Still>, after: Duration, paused: bool) {
    let mut pings: BTreeMap<NodeId, Vec<Sleep>> = BTreeMap::new();
    let mut candidates: BTreeMap<GroupId, Arc<Candidate>> = BTreeMap::new();
    let groups = node.groups();
    still.retain(|id, _| node.group(*id).is_some());
    for group in groups.into_iter().filter(|group| !group.inner.is_stopped()) {
        let inner = &group.inner;
        if let Some(sleep) = inner.flags.led_asleep() {
            if paused || inner.leading().is_none() {
                group.inner.wake();
                continue;
            }
            peers(inner).into_iter().for_each(|peer| pings.entry(peer).or_default().push(sleep));
            continue;
        }
        if inner.flags.is_asleep() {
            if paused || !inner.flags.heard_within(node.options().election_max) {
                group.inner.wake();
            }
            continue;
        }
        match look(&group, node.silences(), still, after) {
            Look::Busy => {}
            // Pinged to learn whether they can be reached at all.
            Look::Lagging(members) => {
                for peer in members {
                    pings.entry(peer).or_default();
                }
            }
            Look::Idle(candidate) if candidate.missing.lock().expect("never poisoned").is_empty() => {
                fall_asleep(&candidate);
            }
            Look::Idle(candidate) => {
                peers(inner)
                    .into_iter()
                    .for_each(|peer| pings.entry(peer).or_default().push(candidate.sleep));
                candidates.insert(inner.id, candidate);
            }
        }
    }
    let candidates = Arc::new(candidates);
    for (peer, sleeps) in pings {
        let mut rest = &sleeps[..];
        loop {
            let some;
            (some, rest) = rest.split_at(rest.len().min(GROUPS_PER_PING_MAX));
            tokio::spawn(ping(node.clone(), peer, some.to_vec(), candidates.clone()));
            if rest.is_empty() {
                break;
            }
        }
    }
}

fn peers(group: &Inner) -> Vec<NodeId> {
    let membership = group.view.lock().membership.clone();
    let members = membership.membership.nodes().iter().map(|id| NodeId(*id));
    members.filter(|member| *member != group.node()).collect()
}

/// What the leader of a group thinks of letting it sleep.
enum Look {
    /// It is not idle, or not led by this node.
    Busy,
    /// It is idle, but these members do not have everything yet.
    Lagging(Vec<NodeId>),
    /// It is idle, and all members that can be reached have everything.
    Idle(Arc<Candidate>),
}

fn look(group: &Group, silences: &Silences, still: &mut BTreeMap<GroupId, Still>, after: Duration) -> Look {
    let inner = &group.inner;
    let touches = inner.flags.touches();
    let view = inner.view.lock();
    let now = Still { last: view.last, touches, since: Instant::now() };
    let before = still.entry(inner.id).or_insert(now);
    if (before.last, before.touches) != (now.last, now.touches) {
        *before = now;
    }
    let Some(leader) = view.leading() else { return Look::Busy };
    let last = view.applied;
    let membership = &view.membership.membership;
    let settled = before.since.elapsed() >= after
        && view.serves
        && view.last == last
        && !membership.is_joint()
        && inner.change.try_lock().is_ok();
    let others = membership.nodes().iter().map(|id| NodeId(*id)).filter(|member| *member != inner.node());
    let (down, up): (Vec<NodeId>, Vec<NodeId>) = others.partition(|member| silences.is_down(*member));
    let lost = down.iter().filter(|member| membership.is_voter(member.get())).count();
    if !settled || lost * 2 >= membership.voters().len() {
        return Look::Busy;
    }
    let lagging: Vec<NodeId> =
        up.iter().copied().filter(|member| view.matched(member.get()) != Some(last.index)).collect();
    if !lagging.is_empty() {
        return Look::Lagging(lagging);
    }
    let sleep = Sleep { group: inner.id.get(), term: leader.term, last: last.into() };
    let missing = Mutex::new(up.into_iter().collect());
    Look::Idle(Arc::new(Candidate { group: group.clone(), touches, sleep, missing }))
}

/// Sends one ping and acts on the answer.
async fn ping(
    node: Arc<MultiRaft>,
    peer: NodeId,
    sleep: Vec<Sleep>,
    candidates: Arc<BTreeMap<GroupId, Arc<Candidate>>>,
) {
    let named: Vec<GroupId> = sleep.iter().map(|sleep| GroupId(sleep.group)).collect();
    let ping = Ping { route: node.caller().route(GroupId(0), peer), sleep };
    let deadline = node.options().heartbeat * 2;
    let reply = node.caller().call(peer, message(PING, &ping), deadline).await;
    node.silences().note(peer, reply.is_ok());
    let Some(reply) = reply.ok().and_then(|reply| decode::<PingReply>(reply.header).ok()) else { return };
    let agreed: BTreeSet<GroupId> = reply.asleep.iter().map(|group| GroupId(*group)).collect();
    for id in named {
        match (agreed.contains(&id), candidates.get(&id)) {
            (true, Some(candidate)) => {
                let all = {
                    let mut missing = candidate.missing.lock().expect("never poisoned");
                    missing.remove(&peer);
                    missing.is_empty()
                };
                if all {
                    fall_asleep(candidate);
                }
            }
            // A member is awake, for example since it has restarted: it must hear the leader.
            (false, None) => {
                if let Some(group) = node.group(id) {
                    group.inner.wake();
                }
            }
            (true, None) | (false, Some(_)) => {}
        }
    }
}

/// Turns the leader's timers off, if nothing has happened since the members were asked.
fn fall_asleep(candidate: &Candidate) {
    let inner = &candidate.group.inner;
    let unchanged = {
        let view = inner.view.lock();
        view.leading().is_some_and(|leader| leader.term == candidate.sleep.term)
            && view.last.index == candidate.sleep.last.index
    };
    if !unchanged || inner.flags.touches() != candidate.touches {
        return;
    }
    inner.flags.sleep_leading(candidate.sleep);
    // Whoever came in between has either seen that the group sleeps, or is seen here.
    if inner.flags.touches() != candidate.touches {
        inner.wake();
    }
}

/// Answers another node's ping: which of the groups it names sleep here.
pub(crate) fn answer(node: &MultiRaft, ping: &Ping) -> PingReply {
    let agrees = |sleep: &&Sleep| {
        let group = node.group(GroupId(sleep.group)).filter(|group| !group.inner.is_stopped());
        group.is_some_and(|group| agree(&group.inner, ping.route.from, sleep))
    };
    let outcome = if ping.route.to == node.node().get() { Outcome::Ok } else { Outcome::NotHere };
    let asleep = match outcome {
        Outcome::Ok => ping.sleep.iter().filter(agrees).map(|sleep| sleep.group).collect(),
        _ => Vec::new(),
    };
    PingReply { outcome: outcome.into(), asleep }
}

fn agree(group: &Inner, leader: u64, sleep: &Sleep) -> bool {
    let leader = LeaderId { term: sleep.term, node_id: leader };
    if group.flags.hear(leader) {
        return true;
    }
    let level = {
        let view = group.view.lock();
        let last = LogId::from(sleep.last);
        view.followed() == Some(leader) && view.applied == last && view.last == last
    };
    let sleeps = level && !group.flags.is_installing() && group.options.quiesce_after.is_some();
    if sleeps {
        group.flags.sleep_following(leader);
    }
    sleeps
}
