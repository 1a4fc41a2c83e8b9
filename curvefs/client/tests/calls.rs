//! Calls of a mount against metaservers that lead, do not lead, die, forget, repeat and refuse. Time is tokio's paused clock.

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use curve_io::sim::{Link, Outage};
use curvefs_client::{Client, Mount, MountState};
use curvefs_proto::Refusal;
use curvefs_types::{
    Answer, Attr, DataRef, Extent, FileLock, FsError, InodeId, Kind, LockFamily, LockKind, LockOwner,
    LockRange, Metadata, MountId, Name, NameOp, NewInode, Op, PartitionId, Place, Query, RenameMode, Reply,
    SetAttr, SliceId, WriterId,
};
use futures::future::join_all;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use support::World;
use tokio::time::Instant;

fn name(text: &str) -> Name {
    Name::try_from(text).unwrap()
}

fn new(kind: Kind) -> NewInode {
    NewInode::plain(kind, 0o755)
}

async fn make(client: &Client, parent: InodeId, text: &str) -> Result<Attr, FsError> {
    let op = NameOp::Create { parent, name: name(text), new: new(Kind::File), open: false, or_open: false };
    attr(client.change(op.into()).await)
}

async fn mkdir(client: &Client, parent: InodeId, text: &str) -> Result<Attr, FsError> {
    let op = NameOp::Mkdir { parent, name: name(text), new: new(Kind::Directory), place: None };
    attr(client.change(op.into()).await)
}

fn attr(reply: Result<Reply, FsError>) -> Result<Attr, FsError> {
    match reply? {
        Reply::Attr { attr, .. } | Reply::Written { attr, .. } => Ok(attr),
        other => panic!("{other:?}"),
    }
}

async fn get(client: &Client, inode: InodeId) -> Result<Attr, FsError> {
    match client.query(Query::GetAttr { inode }).await? {
        Answer::Attrs { attrs } => Ok(attrs[0]),
        other => panic!("{other:?}"),
    }
}

fn append(inode: InodeId, serial: u64) -> Op {
    let slice = SliceId { writer: WriterId(7), serial };
    let extent = Extent::checked(0, 1, DataRef::Slice { slice, bytes: 1, at: 0 }).unwrap();
    Op::Write {
        inode,
        place: Place::AtEnd,
        extents: vec![extent],
        length: 1,
        mtime: 1,
        expect: None,
        kill_priv: false,
        set: SetAttr::default(),
        staged: Vec::new(),
    }
}

async fn mounted(partitions: u32) -> (World, Mount) {
    let world = World::new(partitions, 1).await;
    let mount = world.mount().await;
    (world, mount)
}

#[tokio::test(start_paused = true)]
async fn hints_are_followed_and_remembered() {
    let (world, mount) = mounted(3).await;
    let client = mount.metadata();
    let begun = Instant::now();
    world.state().lead(1, 3);
    make(&client, InodeId::ROOT, "a").await.unwrap();
    // Two calls there and back, each message a tick of the clock.
    assert!(begun.elapsed() <= Duration::from_millis(4), "a hint is followed at once: {:?}", begun.elapsed());
    let before = world.network.stats().requests;
    make(&client, InodeId::ROOT, "b").await.unwrap();
    assert_eq!(world.network.stats().requests - before, 1, "the leader is known now");
    world.state().hints = false;
    world.state().lead(1, 2);
    make(&client, InodeId::ROOT, "c").await.unwrap();
    assert!(begun.elapsed() < Duration::from_millis(100), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_dead_leader_is_left_for_the_next_one() {
    for outage in [Outage::Refused, Outage::Silent] {
        let (world, mount) = mounted(1).await;
        let client = mount.metadata();
        make(&client, InodeId::ROOT, "a").await.unwrap();
        world.stop(1, outage);
        let begun = Instant::now();
        // The others know nothing better for a second.
        let election = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            world.state().lead(1, 3);
        };
        let (made, ()) = tokio::join!(make(&client, InodeId::ROOT, "b"), election);
        made.unwrap();
        assert!(begun.elapsed() < Duration::from_millis(2500), "{outage:?}: {:?}", begun.elapsed());
        assert_eq!(world.problems(), Vec::<String>::new());
    }
}

#[tokio::test(start_paused = true)]
async fn when_all_are_gone_calls_wait_and_go_on() {
    let (world, mount) = mounted(2).await;
    let client = mount.metadata();
    for node in support::NODES {
        world.stop(node, Outage::Refused);
    }
    let restart = async {
        tokio::time::sleep(Duration::from_secs(90)).await;
        for node in support::NODES {
            world.start(node).await;
        }
    };
    let calls = join_all((0..20).map(|n| {
        let client = client.clone();
        async move { make(&client, InodeId::ROOT, &format!("f{n}")).await }
    }));
    let (made, ()) = tokio::join!(calls, restart);
    assert!(made.into_iter().all(|made| made.is_ok()));
    assert_eq!((client.under_way(), world.problems()), (0, Vec::new()));
}

/// Sixty programs at once: each appends, makes a directory and a file in it, moves the file out, and removes the directory.
/// What was done twice, or not at all, is an error or is seen in the end.
async fn work(client: &Client, file: InodeId) {
    let each = (0..60).map(async |n| {
        client.change(append(file, n + 1)).await.unwrap();
        let dir_name = format!("dir{n}");
        let dir = mkdir(client, InodeId::ROOT, &dir_name).await.unwrap().inode;
        make(client, dir, "file").await.unwrap();
        let rename = NameOp::Rename {
            parent: dir,
            name: name("file"),
            new_parent: InodeId::ROOT,
            new_name: name(&format!("moved{n}")),
            mode: RenameMode::NoReplace,
        };
        client.change(rename.into()).await.unwrap();
        let rmdir = NameOp::Rmdir { parent: InodeId::ROOT, name: name(&dir_name) };
        client.change(rmdir.into()).await.unwrap();
    });
    join_all(each).await;
}

async fn check_work(world: &World, client: &Client, file: InodeId) {
    assert_eq!(get(client, file).await.unwrap().length, 60, "each append once");
    let page = client.query(Query::ReadDir { inode: InodeId::ROOT, after: None, limit: 500, plus: false });
    let Answer::Page { entries, .. } = page.await.unwrap() else { panic!() };
    assert_eq!(entries.len(), 61);
    assert_eq!((client.under_way(), world.problems()), (0, Vec::new()));
}

/// Leaders move, metaservers die and come back, without an end.
async fn unrest(world: &World, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    loop {
        tokio::time::sleep(Duration::from_millis(random.random_range(5..300))).await;
        let node = random.random_range(1..=3);
        let next = node % 3 + 1;
        match random.random_range(0..4) {
            0 => world.state().lead(random.random_range(1..=3), node),
            1 => world.state().hints = random.random(),
            which => {
                world.stop(node, if which == 2 { Outage::Refused } else { Outage::Silent });
                tokio::time::sleep(Duration::from_millis(random.random_range(1..1500))).await;
                for partition in 1..=3 {
                    if world.state().leader(partition) == node {
                        world.state().lead(partition, next);
                    }
                }
                tokio::time::sleep(Duration::from_millis(random.random_range(1..500))).await;
                world.start(node).await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_done_twice_or_not_at_all_while_leaders_move_and_die() {
    for seed in 0..12 {
        let world = World::new(3, seed).await;
        let mount = world.mount().await;
        let client = mount.metadata();
        let file = make(&client, InodeId::ROOT, "log").await.unwrap().inode;
        let delay = Duration::from_millis(1)..Duration::from_millis(40);
        world.links(&Link { delay, duplication: 0.1, reordering: 0.2, ..Link::default() });
        let begun = Instant::now();
        tokio::select! {
            () = work(&client, file) => {}
            () = unrest(&world, seed) => unreachable!("it has no end"),
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "seed {seed}: {:?}", begun.elapsed());
        // Whoever was down when the work was done comes back.
        for node in support::NODES {
            world.stop(node, Outage::Refused);
            world.start(node).await;
        }
        check_work(&world, &client, file).await;
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_done_twice_or_not_at_all_over_a_bad_network() {
    let mut asked = 0;
    for seed in 0..4 {
        let world = World::new(3, seed).await;
        let mount = world.mount().await;
        let client = mount.metadata();
        let file = make(&client, InodeId::ROOT, "log").await.unwrap().inode;
        let link = Link {
            delay: Duration::from_micros(50)..Duration::from_millis(20),
            loss: 0.1,
            duplication: 0.2,
            reordering: 0.3,
            cut: false,
        };
        world.links(&link);
        work(&client, file).await;
        world.network.heal();
        assert_eq!(get(&client, file).await.unwrap().length, 60, "each append once");
        let page =
            client.query(Query::ReadDir { inode: InodeId::ROOT, after: None, limit: 500, plus: false });
        let Answer::Page { entries, .. } = page.await.unwrap() else { panic!() };
        assert_eq!(entries.len(), 61);
        assert_eq!((client.under_way(), world.problems()), (0, Vec::new()));
        asked += world.state().heard.len();
    }
    assert!(asked > 4 * 60 * 5 * 11 / 10, "some were repeated: {asked}");
}

#[tokio::test(start_paused = true)]
async fn any_number_of_changes_is_under_way_at_once() {
    let (world, mount) = mounted(3).await;
    let client = mount.metadata();
    make(&client, InodeId::ROOT, "first").await.unwrap();
    let ms = Duration::from_millis(10);
    world.links(&Link { delay: ms..ms, ..Link::default() });
    let begun = Instant::now();
    let made = join_all((0..500).map(|n| {
        let client = client.clone();
        async move { make(&client, InodeId::ROOT, &format!("f{n}")).await }
    }));
    let inodes: BTreeSet<_> = made.await.into_iter().map(|made| made.unwrap().inode).collect();
    assert_eq!(inodes.len(), 500);
    assert!(begun.elapsed() <= 3 * ms, "{:?}", begun.elapsed());
    assert_eq!(world.state().numbers(1), (1..=501).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn an_old_map_costs_a_call_and_no_wrong_answer() {
    let world = World::new(3, 1).await;
    world.state().mds.grants_old_map = true;
    let mount = world.mount().await;
    let client = mount.metadata();
    assert_eq!(client.map_version(), 0);
    // The old map has one partition only, so all directories are made there; another mount makes one elsewhere.
    world.state().mds.grants_old_map = false;
    let other = world.try_mount(support::NAME, 43).await.unwrap();
    let place = Some(PartitionId(3));
    let op = NameOp::Mkdir { parent: InodeId::ROOT, name: name("far"), new: new(Kind::Directory), place };
    let far = attr(other.metadata().change(op.into()).await).unwrap().inode;
    assert_eq!(far.slot(), 2);
    let made = make(&client, far, "file").await.unwrap();
    assert_eq!((made.inode.slot(), client.map_version()), (2, 1));
    assert_eq!(world.state().numbers(1), [1], "NotHere left no trace, and the number there was given up");
    assert_eq!(get(&client, far).await.unwrap().inode, far);
    assert_eq!((client.under_way(), world.problems()), (0, Vec::new()));
}

#[tokio::test(start_paused = true)]
async fn a_metaserver_without_the_partition_is_left() {
    let (world, mount) = mounted(1).await;
    let client = mount.metadata();
    make(&client, InodeId::ROOT, "a").await.unwrap();
    {
        let mut state = world.state();
        state.empty.push(1);
        state.lead(1, 2);
        state.hints = false;
    }
    let begun = Instant::now();
    make(&client, InodeId::ROOT, "b").await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(world.state().mds.maps_asked >= 1, "the MDS is asked for the members");
}

#[tokio::test(start_paused = true)]
async fn what_passes_is_waited_for_with_the_same_number() {
    let (world, mount) = mounted(1).await;
    let client = mount.metadata();
    world.state().errors.extend([FsError::Busy; 5]);
    let why = || "full".to_owned();
    world.state().refusals.extend([Refusal::Unavailable { why: why() }, Refusal::Stopped]);
    make(&client, InodeId::ROOT, "a").await.unwrap();
    assert_eq!(world.state().numbers(1), [1]);
    world.state().errors.extend([FsError::Busy; 3]);
    assert!(get(&client, InodeId::ROOT).await.is_ok(), "questions wait, too");
    for (refusal, error) in [
        (Refusal::BadRequest { why: why() }, FsError::Invalid),
        (Refusal::Malformed { why: why() }, FsError::Invalid),
    ] {
        world.state().refusals.push_back(refusal);
        assert_eq!(make(&client, InodeId::ROOT, "b").await, Err(error));
    }
    assert_eq!(
        make(&client, InodeId::ROOT, "a").await,
        Err(FsError::Exists),
        "answers of partitions are passed on"
    );
}

#[tokio::test(start_paused = true)]
async fn who_gives_up_acknowledges() {
    let (world, mount) = mounted(1).await;
    let client = mount.metadata();
    for node in support::NODES {
        world.network.stall(&format!("meta-{node}"), true);
    }
    let late = tokio::time::timeout(Duration::from_secs(5), make(&client, InodeId::ROOT, "late")).await;
    assert!(late.is_err());
    assert_eq!(client.under_way(), 0);
    // From now on the partition may forget it, and refuse copies that are still under way.
    let requests = world.network.stats().requests;
    for node in support::NODES {
        world.stop(node, Outage::Silent);
        world.start(node).await;
        world.network.stall(&format!("meta-{node}"), false);
    }
    make(&client, InodeId::ROOT, "next").await.unwrap();
    let heard = world.state().heard.clone();
    assert!(
        heard.iter().any(|(_, number, ack_below)| (*number, *ack_below) == (2, 2)),
        "{heard:?} after {requests}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_mount_that_is_shut_out_fails_at_once_and_for_good() {
    let (world, mount) = mounted(2).await;
    let client = mount.metadata();
    world.state().shut_out(MountId(1));
    // One call waits for a partition that does not answer while another one is told.
    world.state().lead(2, 0);
    let waiting = {
        let client = client.clone();
        tokio::spawn(async move { get(&client, InodeId(1 << 40 | 1)).await })
    };
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(make(&client, InodeId::ROOT, "a").await, Err(FsError::Fenced));
    assert_eq!(waiting.await.unwrap(), Err(FsError::Fenced));
    assert_eq!(*mount.state().borrow(), MountState::Fenced);
    let requests = world.network.stats().requests;
    assert_eq!(get(&client, InodeId::ROOT).await, Err(FsError::Fenced));
    assert_eq!(client.stat_fs().await, Err(FsError::Fenced));
    assert_eq!(world.network.stats().requests, requests, "nobody is asked any more");
    mount.close().await.unwrap();
    assert_eq!(world.state().mds.unmounted, [] as [u64; 0], "the MDS has ended it already");
}

#[tokio::test(start_paused = true)]
async fn questions_to_several_partitions_are_asked_together() {
    let (world, mount) = mounted(3).await;
    let client = mount.metadata();
    let mut inodes = vec![InodeId::ROOT];
    for n in 0..12 {
        inodes.push(mkdir(&client, InodeId::ROOT, &format!("dir{n}")).await.unwrap().inode);
    }
    let slots: BTreeSet<_> = inodes.iter().map(|inode| inode.slot()).collect();
    assert_eq!(slots, BTreeSet::from([0, 1, 2]), "directories near the root spread");
    let deep = mkdir(&client, mkdir(&client, inodes[1], "b").await.unwrap().inode, "c").await.unwrap();
    assert_eq!(deep.inode.slot(), deep.parent.slot(), "deeper ones stay with their parent");
    inodes.reverse();
    inodes.push(InodeId(1 << 40 | 999_999));
    let Answer::Attrs { attrs } = client.query(Query::GetAttrs { inodes: inodes.clone() }).await.unwrap()
    else {
        panic!()
    };
    let got: Vec<_> = attrs.iter().map(|attr| attr.inode).collect();
    assert_eq!(got, inodes[..13], "in the order asked for, without what is gone");
    let ms = Duration::from_millis(10);
    world.links(&Link { delay: ms..ms, ..Link::default() });
    let begun = Instant::now();
    assert_eq!(client.stat_fs().await.unwrap().dirs, 15);
    assert!(begun.elapsed() <= 3 * ms, "all at once: {:?}", begun.elapsed());
    let closed = client.change(Op::Close { inodes }).await;
    assert!(closed.is_ok(), "{closed:?}");
    assert_eq!(world.problems(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_lock_question_carries_the_mount() {
    let (world, mount) = mounted(1).await;
    let other = world.try_mount(support::NAME, 7).await.unwrap();
    let inode = make(&mount.metadata(), InodeId::ROOT, "a").await.unwrap().inode;
    let (owner, pid, family, kind) = (LockOwner(1), 9, LockFamily::Posix, LockKind::Write);
    let lock = Op::Lock { inode, owner, pid, family, kind, range: LockRange::ALL };
    mount.metadata().change(Op::Open { inode, truncate: false }).await.unwrap();
    mount.metadata().change(lock.clone()).await.unwrap();
    let wish = FileLock { mount: MountId::SERVERS, owner, pid, family, kind, range: LockRange::ALL };
    let held = async |mount: &Mount| {
        let Answer::Lock { held } =
            mount.metadata().query(Query::GetLock { inode, lock: wish }).await.unwrap()
        else {
            panic!()
        };
        held.map(|held| held.mount)
    };
    assert_eq!(held(&mount).await, None, "one's own lock is not in the way");
    assert_eq!(held(&other).await, Some(MountId(1)));
}
