//! The log store over our log, as the engine relies on it.

use std::path::Path;
use std::sync::Arc;

use curve_io::sim::{SimDisk, SimDiskConfig};
use curve_log::{Log, LogConfig};
use curve_types::{GroupId, NodeId};
use tokio::sync::oneshot;

use crate::flags::GroupFlags;
use crate::format::encode_ops;
use crate::op::Op;
use crate::store::Store;
use crate::types::{Entry, LeaderId, LogId, Membership, Payload, StoredMembership, Vote};

fn id(term: u64, index: u64) -> LogId {
    LogId { leader_id: LeaderId { term, node_id: 1 }, index }
}

fn ops(term: u64, index: u64) -> Entry {
    let op = Op { header: vec![index as u8; 3].into(), payload: vec![vec![term as u8; 100].into()] };
    Entry { id: id(term, index), payload: Payload::Ops(encode_ops(&[op])) }
}

async fn append(store: &Store, entries: &[Entry]) {
    let (tell, durable) = oneshot::channel();
    store.append(entries, Vec::new(), Box::new(move |result| drop(tell.send(result))));
    durable.await.unwrap().unwrap();
}

async fn open(disk: &SimDisk) -> (Log, Store) {
    let (log, _) = Log::open(disk.mount(), Path::new("log"), LogConfig::default()).await.unwrap();
    let store = Store::new(log.group(GroupId(1)), Arc::new(GroupFlags::default()));
    (log, store)
}

fn voters(range: std::ops::RangeInclusive<u64>) -> Membership {
    Membership::of(range.collect())
}

#[tokio::test]
async fn a_new_group_begins_with_its_members() {
    let disk = SimDisk::new(SimDiskConfig::default());
    let (_log, store) = open(&disk).await;
    assert!(store.is_pristine());
    store.bootstrap(&[NodeId(1), NodeId(2)]).await.unwrap();
    assert!(!store.is_pristine());
    let (vote, log, commit) = store.recover(LogId::NONE, StoredMembership::default()).await.unwrap();
    assert_eq!((vote, commit, log.last_index()), (Vote::default(), 0, 1));
    assert_eq!(log.membership().membership, voters(1..=2));
}

#[tokio::test]
async fn a_restart_finds_what_was_durable() {
    let disk = SimDisk::new(SimDiskConfig::default());
    let (log, store) = open(&disk).await;
    store.bootstrap(&[NodeId(1)]).await.unwrap();
    let vote = Vote { leader_id: LeaderId { term: 2, node_id: 1 }, committed: true };
    store.save_vote(&vote).await.unwrap();
    let members = Entry { id: id(2, 4), payload: Payload::Membership(voters(1..=3)) };
    append(&store, &[ops(1, 2), ops(1, 3), members.clone(), ops(2, 5), ops(2, 6)]).await;
    store.truncate(5).await.unwrap();
    append(&store, &[ops(3, 6)]).await;
    store.save_committed(id(2, 5));
    log.close().await;

    let (_log, store) = open(&disk).await;
    let (found, view, commit) = store.recover(LogId::NONE, StoredMembership::default()).await.unwrap();
    assert_eq!((found, commit, view.last_id()), (vote, 5, id(3, 6)));
    let ids: Vec<Option<LogId>> = (2..=7).map(|index| view.id_at(index)).collect();
    assert_eq!(ids, [Some(id(1, 2)), Some(id(1, 3)), Some(id(2, 4)), Some(id(2, 5)), Some(id(3, 6)), None]);
    assert_eq!(view.membership().log_id, members.id);
    assert_eq!(store.read(2, 3, usize::MAX).await.unwrap(), [ops(1, 2), ops(1, 3), members]);
    // Members before what is applied are the state machine's to know.
    let known = StoredMembership { log_id: id(2, 4), membership: voters(7..=9) };
    let (_, view, _) = store.recover(id(2, 5), known.clone()).await.unwrap();
    assert_eq!(view.membership(), &known);
}

#[tokio::test]
async fn a_log_behind_its_state_machine_is_forgotten() {
    for (applied, entries_left) in [(id(1, 3), true), (id(2, 3), false), (id(2, 9), false)] {
        let disk = SimDisk::new(SimDiskConfig::default());
        let (_log, store) = open(&disk).await;
        store.bootstrap(&[NodeId(1)]).await.unwrap();
        append(&store, &[ops(1, 2), ops(1, 3), ops(1, 4)]).await;
        store.reconcile(applied).await.unwrap();
        let (_, view, commit) = store.recover(applied, StoredMembership::default()).await.unwrap();
        assert_eq!(commit, applied.index);
        assert_eq!(view.id_at(applied.index), Some(applied));
        assert_eq!(view.last_index() > applied.index, entries_left, "{applied:?}");
        append(&store, &[ops(5, view.last_index() + 1)]).await;
    }
}

#[tokio::test]
async fn a_purged_log_begins_behind_what_was_purged() {
    let disk = SimDisk::new(SimDiskConfig::default());
    let (_log, store) = open(&disk).await;
    store.bootstrap(&[NodeId(1)]).await.unwrap();
    append(&store, &[ops(1, 2), ops(1, 3), ops(2, 4)]).await;
    store.purge(id(1, 3));
    let known = StoredMembership { log_id: id(0, 1), membership: voters(1..=1) };
    let (_, view, _) = store.recover(id(1, 3), known).await.unwrap();
    assert_eq!((view.purged(), view.id_at(4), view.id_at(2)), (id(1, 3), Some(id(2, 4)), None));
    assert_eq!(store.read(2, 9, usize::MAX).await.unwrap(), []);
}
