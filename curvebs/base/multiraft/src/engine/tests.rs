//! Tables: what one engine does with one input.

use std::time::Duration;

use super::ChangeRefused;
use super::core::{Core, Recovered, Role, Timing};
use super::log::{Limits, LogView};
use super::message::{
    Actions, AppendReply, AppendRequest, Change, Message, Reply, Time, TransferRequest, VoteReply,
    VoteRequest, WriteKind,
};
use crate::types::{Entry, LeaderId, LogId, Membership, Payload, StoredMembership, Vote};

fn ms(millis: u64) -> Time {
    Duration::from_millis(millis)
}

fn timing() -> Timing {
    Timing {
        heartbeat: ms(200),
        election_min: ms(400),
        election_max: ms(800),
        clock_margin: ms(100),
        notice_delay: ms(5),
        in_flight_max: 8,
        message: Limits { head_bytes: 1 << 20, payload_bytes: 1 << 20, entries: 256 },
    }
}

fn id(term: u64, node_id: u64, index: u64) -> LogId {
    LogId { leader_id: LeaderId { term, node_id }, index }
}

fn blank(term: u64, node: u64, index: u64) -> Entry {
    Entry { id: id(term, node, index), payload: Payload::Blank }
}

/// Node 1 of these members, at term 1, with the first entry.
fn replica(membership: Membership) -> Core {
    let log_id = id(0, 0, 1);
    let stored = StoredMembership { log_id, membership };
    let log = LogView::new(LogId::NONE, vec![(1, log_id.leader_id)], 1, vec![stored]);
    let vote = Vote { leader_id: LeaderId { term: 1, node_id: 0 }, committed: false };
    let found = Recovered { vote, log, commit: 0, applied: LogId::NONE, votes_from: Duration::ZERO };
    Core::new(1, 7, timing(), found, Duration::ZERO)
}

fn three() -> Core {
    replica(Membership::of([1, 2, 3].into()))
}

/// Makes all writes durable, and returns everything that was wanted.
fn settle(core: &mut Core, now: Time) -> Actions {
    let mut all = Actions::default();
    loop {
        core.finish(now);
        let some = core.take_actions();
        let last = some.writes.last().map(|write| write.io);
        all.writes.extend(some.writes);
        all.replies.extend(some.replies);
        all.sends.extend(some.sends);
        all.reads.extend(some.reads);
        all.fetches.extend(some.fetches);
        all.snapshots.extend(some.snapshots);
        all.resigned |= some.resigned;
        while let Some((_, upto)) = core.to_apply() {
            let upto = core.log().id_at(upto).unwrap();
            core.applied(upto);
        }
        match last {
            Some(io) => core.flushed(io, now),
            None => return all,
        }
    }
}

/// Lets node 1 win an election at `now`.
fn elect(core: &mut Core, now: Time) {
    core.tick(now);
    for _ in 0..2 {
        let asked = settle(core, now);
        for (peer, message) in asked.sends {
            if let Message::Vote(request) = message {
                core.vote_reply(peer, &request, Some(VoteReply { term: core.term(), granted: true }), now);
            }
        }
    }
    assert_eq!(core.role(), Role::Leader);
}

/// Answers everything that was sent to these peers.
fn ack(core: &mut Core, actions: Actions, peers: &[u64], now: Time) {
    for (peer, message) in actions.sends {
        if let (Message::Append(request, sent), true) = (message, peers.contains(&peer)) {
            let matched = request.last_index();
            core.append_reply(peer, &sent, Some(AppendReply::Ok { matched }), now);
        }
    }
}

fn append(term: u64, leader: u64, prev: LogId, entries: Vec<Entry>, commit: u64) -> AppendRequest {
    AppendRequest { term, leader, prev, entries, commit }
}

#[test]
fn an_election_asks_first_and_votes_durably() {
    let mut core = three();
    let at = core.deadline().unwrap();
    assert!((ms(1200)..=ms(1600)).contains(&at), "{at:?}");
    core.tick(at);
    let asked = core.take_actions();
    assert!(asked.writes.is_empty(), "a question changes nothing");
    let Message::Vote(request) = asked.sends[0].1.clone() else { panic!() };
    assert!(request.pre && request.term == 2);
    core.vote_reply(2, &request, Some(VoteReply { term: 1, granted: true }), at);
    let stands = core.take_actions();
    assert_eq!(
        (core.role(), core.term(), stands.sends.len()),
        (Role::Candidate, 2, 0),
        "the vote is not durable"
    );
    assert!(
        matches!(stands.writes[0].kind, WriteKind::Vote(vote) if vote.leader_id == LeaderId { term: 2, node_id: 1 })
    );
    core.flushed(stands.writes[0].io, at);
    let asked = core.take_actions();
    let Message::Vote(request) = asked.sends[0].1.clone() else { panic!() };
    core.vote_reply(3, &request, Some(VoteReply { term: 2, granted: false }), at);
    assert_eq!(core.role(), Role::Candidate);
    core.vote_reply(2, &request, Some(VoteReply { term: 2, granted: true }), at);
    assert_eq!(core.role(), Role::Leader);
}

#[test]
fn one_vote_per_term_and_none_while_a_leader_is_heard() {
    let ask = |term, candidate, last, transfer| VoteRequest { term, candidate, last, transfer, pre: false };
    let vote = |core: &mut Core, request: VoteRequest, now| {
        core.vote(1, &request, now);
        let replies = settle(core, now).replies;
        let Reply::Vote(reply) = replies[0].1 else { panic!() };
        reply.granted
    };
    let mut core = three();
    assert!(!vote(&mut core, ask(5, 2, LogId::NONE, false), ms(0)), "its log is shorter");
    assert_eq!(core.term(), 5);
    assert!(vote(&mut core, ask(5, 3, id(0, 0, 1), false), ms(0)));
    assert!(vote(&mut core, ask(5, 3, id(0, 0, 1), false), ms(0)), "the same question again");
    assert!(!vote(&mut core, ask(5, 2, id(4, 2, 9), false), ms(0)), "the vote of this term is given");
    core.append(2, append(5, 3, id(0, 0, 1), vec![], 0), ms(1000));
    settle(&mut core, ms(1000));
    assert!(!vote(&mut core, ask(6, 2, id(4, 2, 9), false), ms(1799)), "promised to the leader");
    assert_eq!(core.term(), 5, "and not disturbed");
    assert!(vote(&mut core, ask(6, 2, id(4, 2, 9), true), ms(1799)), "but the leader asked for it");
    assert!(vote(&mut core, ask(7, 3, id(4, 2, 9), false), ms(1800)));
}

#[test]
fn a_reply_leaves_when_what_it_claims_is_durable() {
    let mut core = three();
    core.append(1, append(2, 2, id(0, 0, 1), vec![blank(2, 2, 2), blank(2, 2, 3)], 9), ms(0));
    let actions = core.take_actions();
    let writes: Vec<u64> = actions.writes.iter().map(|write| write.io).collect();
    assert_eq!((writes.len(), actions.replies.len()), (2, 0), "vote, then entries");
    assert_eq!(
        (core.commit_index(), core.to_apply()),
        (3, Some((1, 1))),
        "nothing is applied that is not durable"
    );
    core.flushed(writes[0], ms(1));
    assert!(core.take_actions().replies.is_empty());
    // A sign of life claims only what is durable.
    core.append(2, append(2, 2, id(2, 2, 3), vec![], 3), ms(1));
    assert_eq!(core.take_actions().replies, [(2, Reply::Append(AppendReply::Ok { matched: 1 }))]);
    core.flushed(writes[1], ms(2));
    assert_eq!(core.take_actions().replies, [(1, Reply::Append(AppendReply::Ok { matched: 3 }))]);
    assert_eq!(core.to_apply(), Some((1, 3)));
}

#[test]
fn a_claim_is_withdrawn_when_the_term_changes() {
    let mut core = three();
    core.append(1, append(2, 2, id(0, 0, 1), vec![blank(2, 2, 2)], 0), ms(0));
    core.append(2, append(3, 3, id(0, 0, 1), vec![blank(3, 3, 2)], 0), ms(0));
    let replies = settle(&mut core, ms(1)).replies;
    assert!(replies.contains(&(1, Reply::Append(AppendReply::Higher { term: 3 }))), "{replies:?}");
    assert!(replies.contains(&(2, Reply::Append(AppendReply::Ok { matched: 2 }))), "{replies:?}");
    assert_eq!(core.log().last_id(), id(3, 3, 2));
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut core = three();
    let last = vec![blank(2, 2, 2), blank(2, 2, 3), blank(2, 2, 4)];
    core.append(1, append(2, 2, id(0, 0, 1), last, 2), ms(0));
    settle(&mut core, ms(0));
    for (request, reply) in [
        (append(1, 3, id(0, 0, 1), vec![], 0), AppendReply::Higher { term: 2 }),
        (append(2, 3, id(0, 0, 1), vec![], 0), AppendReply::Higher { term: 2 }),
        (append(2, 2, id(2, 2, 9), vec![], 0), AppendReply::Conflict { hint: 4 }),
        (append(3, 3, id(3, 3, 4), vec![], 0), AppendReply::Conflict { hint: 2 }),
        // It would undo what is committed.
        (append(3, 3, id(0, 0, 1), vec![blank(3, 3, 2)], 0), AppendReply::Conflict { hint: 2 }),
        (append(3, 3, id(2, 2, 3), vec![], 3), AppendReply::Ok { matched: 3 }),
    ] {
        core.append(1, request.clone(), ms(1));
        assert_eq!(settle(&mut core, ms(1)).replies, [(1, Reply::Append(reply))], "{request:?}");
    }
    assert_eq!(core.log().last_index(), 4, "nothing was removed");
}

#[test]
fn a_leader_commits_what_a_majority_has_and_serves_then() {
    let mut core = three();
    elect(&mut core, ms(2000));
    let sent = settle(&mut core, ms(2000));
    assert_eq!((core.commit_index(), core.serves(), core.lease_until()), (0, false, None));
    ack(&mut core, sent, &[2], ms(2010));
    settle(&mut core, ms(2010));
    assert_eq!((core.commit_index(), core.serves()), (2, true));
    assert_eq!(core.lease_until(), Some(ms(2000 + 700)), "from the sending");
    let proposed = core.propose(Payload::Blank).unwrap();
    core.finish(ms(2020));
    let actions = core.take_actions();
    assert_eq!(
        (proposed.index, actions.writes.len(), actions.sends.len()),
        (3, 1, 1),
        "3 has not answered yet"
    );
    ack(&mut core, actions, &[2], ms(2030));
    core.finish(ms(2030));
    assert_eq!(core.commit_index(), 2, "its own log does not have it");
    core.flushed(u64::MAX, ms(2040));
    core.finish(ms(2040));
    assert_eq!(core.commit_index(), 3);
    assert!(core.take_actions().sends.is_empty(), "the notice waits for entries to go with");
    core.tick(ms(2045));
    core.finish(ms(2045));
    assert!(matches!(&core.take_actions().sends[0].1, Message::Append(request, _) if request.commit == 3));
}

#[test]
fn a_conflict_is_followed_by_the_entries_that_lack() {
    let mut core = three();
    elect(&mut core, ms(2000));
    for _ in 0..5 {
        core.propose(Payload::Blank);
    }
    let sent = settle(&mut core, ms(2000));
    let conflict = |core: &mut Core, sent: &Actions, hint| {
        for (peer, message) in &sent.sends {
            if let (3, Message::Append(_, sent)) = (peer, message) {
                core.append_reply(3, sent, Some(AppendReply::Conflict { hint }), ms(2001));
            }
        }
    };
    conflict(&mut core, &sent, 0);
    let again = settle(&mut core, ms(2001));
    assert_eq!((again.fetches, again.sends.len()), (vec![(3, 1)], 0), "the first is not in memory");
    core.fetched(3, core.term(), vec![blank(0, 0, 1)], ms(2001));
    let again = settle(&mut core, ms(2001));
    let Message::Append(request, _) = &again.sends[0].1 else { panic!() };
    assert_eq!((request.prev, request.entries.len(), again.sends.len()), (LogId::NONE, 1, 1));
    let now = ms(2002);
    ack(&mut core, again, &[3], now);
    let rest = settle(&mut core, now);
    ack(&mut core, rest, &[3], now);
    settle(&mut core, now);
    assert_eq!(core.matched().find(|(peer, _)| *peer == 3), Some((3, 7)));
}

#[test]
fn a_peer_that_did_not_answer_is_asked_again_at_the_same_place() {
    let mut core = three();
    elect(&mut core, ms(2000));
    let asked = |actions: &Actions| {
        let prev = |(peer, message): &(u64, Message)| match message {
            Message::Append(request, _) if *peer == 2 => Some(request.prev.index),
            _ => None,
        };
        actions.sends.iter().filter_map(prev).collect::<Vec<_>>()
    };
    let first = settle(&mut core, ms(2000));
    assert_eq!(asked(&first), [1]);
    for (peer, message) in first.sends {
        if let Message::Append(_, sent) = message {
            core.append_reply(peer, &sent, None, ms(2300));
        }
    }
    core.tick(ms(2600));
    let sign_of_life = settle(&mut core, ms(2600));
    let again = sign_of_life.sends.iter().find(|(peer, _)| *peer == 2).map(|(_, message)| message.clone());
    let Some(Message::Append(_, sent)) = again else { panic!() };
    assert_eq!(sent.prev, 1);
    core.append_reply(2, &sent, Some(AppendReply::Ok { matched: 1 }), ms(2610));
    let actions = settle(&mut core, ms(2610));
    assert_eq!((asked(&actions), actions.snapshots), (vec![1], vec![]), "it may well have what comes before");
}

#[test]
fn a_leader_that_cannot_give_on_what_is_not_applied_makes_room() {
    let mut core = three();
    elect(&mut core, ms(2000));
    let sent = settle(&mut core, ms(2000));
    let to_3 = sent.sends.iter().find(|(peer, _)| *peer == 3).map(|(_, message)| message.clone());
    ack(&mut core, sent, &[2], ms(2010));
    settle(&mut core, ms(2010));
    let (first, term) = (core.propose(Payload::Blank).unwrap(), core.term());
    settle(&mut core, ms(2020));
    let Some(Message::Append(_, sent)) = to_3 else { panic!() };
    core.append_reply(3, &sent, Some(AppendReply::Conflict { hint: 0 }), ms(2030));
    core.lost(3, term, ms(2030));
    let actions = settle(&mut core, ms(2030));
    assert_eq!((core.role(), actions.snapshots), (Role::Leader, vec![3]), "a snapshot has what is applied");

    core.lost(2, term, ms(2040));
    let actions = settle(&mut core, ms(2040));
    assert!(actions.resigned && actions.snapshots.is_empty(), "{first:?} is in no snapshot");
    assert!(core.role() == Role::Follower && core.deadline().unwrap() > ms(2040 + 5000));
    let vote = VoteRequest { term: term + 1, candidate: 2, last: first, transfer: false, pre: false };
    core.vote(2, &vote, ms(9000));
    settle(&mut core, ms(9000));
    assert_eq!(core.term(), term + 1, "it votes for others");
}

#[test]
fn a_leader_without_a_majority_resigns() {
    let mut core = three();
    elect(&mut core, ms(2000));
    let mut now = ms(2000);
    while core.is_leader() {
        assert!(now < ms(4500), "it still leads");
        now += ms(50);
        core.tick(now);
        settle(&mut core, now);
    }
    assert!(now > ms(3500));
}

#[test]
fn a_read_by_message_waits_for_answers_to_what_was_sent_after_it() {
    let mut core = three();
    elect(&mut core, ms(2000));
    let sent = settle(&mut core, ms(2000));
    assert!(core.read(77));
    ack(&mut core, sent, &[2, 3], ms(2001));
    let later = settle(&mut core, ms(2001));
    assert!(later.reads.is_empty());
    ack(&mut core, later, &[2], ms(2002));
    assert_eq!(settle(&mut core, ms(2002)).reads, [(77, 2)]);
}

#[test]
fn members_change_one_after_the_other() {
    let mut core = three();
    assert_eq!(core.change(Change::AddLearner(4)), Err(ChangeRefused::NotLeader));
    elect(&mut core, ms(2000));
    assert_eq!(core.change(Change::AddLearner(4)), Err(ChangeRefused::InProgress));
    let sent = settle(&mut core, ms(2000));
    ack(&mut core, sent, &[2, 3], ms(2001));
    settle(&mut core, ms(2001));
    assert_eq!(core.change(Change::AddLearner(3)), Err(ChangeRefused::Nothing));
    assert_eq!(core.change(Change::AddLearner(4)).map(|id| id.index), Ok(3));
    assert_eq!(core.change(Change::Promote(4)), Err(ChangeRefused::InProgress));
    let sent = settle(&mut core, ms(2002));
    assert!(sent.sends.iter().any(|(peer, _)| *peer == 4));
    ack(&mut core, sent, &[2], ms(2003));
    settle(&mut core, ms(2003));
    assert!(core.change(Change::Promote(4)).is_ok());
    let sent = settle(&mut core, ms(2004));
    ack(&mut core, sent, &[2], ms(2005));
    settle(&mut core, ms(2005));
    assert_eq!(core.commit_index(), 3, "two of four are no majority");
}

#[test]
fn a_change_that_an_earlier_version_left_half_way_is_completed() {
    let sets = vec![[1, 2, 3].into(), [1, 2, 4].into()];
    let mut core = replica(Membership::new(sets, [1, 2, 3, 4].into()).unwrap());
    elect(&mut core, ms(2000));
    let sent = settle(&mut core, ms(2000));
    ack(&mut core, sent, &[2], ms(2001));
    let sent = settle(&mut core, ms(2001));
    assert!(!core.log().membership().membership.is_joint());
    assert_eq!(core.log().membership().membership.voters(), [1, 2, 4].into());
    ack(&mut core, sent, &[2], ms(2002));
    settle(&mut core, ms(2002));
    assert_eq!(core.commit_index(), 3);
}

#[test]
fn a_successor_stands_at_once() {
    let mut core = three();
    core.append(1, append(2, 2, id(0, 0, 1), vec![blank(2, 2, 2)], 1), ms(0));
    settle(&mut core, ms(0));
    let ask = |term, leader, last| TransferRequest { term, leader, last };
    assert!(!core.transfer(&ask(1, 3, LogId::NONE), ms(1)), "an old message");
    assert!(!core.transfer(&ask(2, 2, id(2, 2, 3)), ms(1)), "it lacks an entry");
    assert!(core.transfer(&ask(2, 2, id(2, 2, 2)), ms(1)));
    let asked = settle(&mut core, ms(1));
    assert_eq!((core.role(), core.term()), (Role::Candidate, 3));
    assert!(matches!(asked.sends[0].1, Message::Vote(request) if request.transfer && !request.pre));
}
