//! Metaservers with four partitions on simulated disks and a simulated network, under a stand-in for the MDS, in virtual time.
//! Everything of a run comes from one seed: CURVE_META_SEED=n runs that one, CURVE_META_SEEDS=n so many, from
//! CURVE_META_FROM on.

mod bed;
mod client;
mod mds;
#[path = "../../../meta/tests/support/model.rs"]
#[allow(dead_code, reason = "of another crate's tests, which use all of it")]
mod model;
#[path = "../../../meta/tests/support/ops.rs"]
#[allow(dead_code, reason = "of another crate's tests, which use all of it")]
mod ops;
mod recall;
mod synced;
mod workload;

use std::ops::Range;
use std::time::Duration;

use bed::{Bed, PARTITIONS};
use client::Client;
use curve_io::sim::Outage;
use curve_types::Epoch;
use curvefs_types::{
    Answer, FsError, InodeId, Kind, Name, NameOp, NewInode, Op, PartitionId, Query, RenameMode, Reply, Xattr,
    XattrName,
};
use rand::Rng;
use synced::Syncing;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use workload::{Private, disturb, shared_maker};

const SERVERS: usize = 3;

fn seeds(default: u64) -> Range<u64> {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().expect("a number"));
    match number("CURVE_META_SEED") {
        Some(seed) => seed..seed + 1,
        None => {
            let from = number("CURVE_META_FROM").unwrap_or(1);
            from..from + number("CURVE_META_SEEDS").unwrap_or(default)
        }
    }
}

fn new_inode(kind: Kind) -> NewInode {
    let target = if kind == Kind::Symlink { "t".into() } else { Default::default() };
    NewInode { kind, mode: 0o755, uid: 0, gid: 0, rdev: 0, target, xattrs: Vec::new() }
}

fn name(text: &str) -> Name {
    Name::new(text.to_owned()).unwrap()
}

async fn mkdir(client: &mut Client, parent: InodeId, text: &str, place: u32) -> InodeId {
    let (new, place) = (new_inode(Kind::Directory), Some(PartitionId(place)));
    let op = NameOp::Mkdir { parent, name: name(text), new, place };
    match client.change(op.into()).await {
        Ok(Reply::Attr { attr, .. }) => attr.inode,
        other => panic!("{text}: {other:?}"),
    }
}

async fn create(client: &mut Client, parent: InodeId, text: &str) -> InodeId {
    let new = new_inode(Kind::File);
    let op = NameOp::Create { parent, name: name(text), new, open: true, or_open: false };
    match client.change(op.into()).await {
        Ok(Reply::Attr { attr, .. }) => attr.inode,
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn directories_are_spread_and_usage_comes_up_to_the_root() {
    bed::run(1, SERVERS, async |bed: &mut Bed| {
        bed.wait_until_led().await;
        let mut client = bed.client();
        let mut parent = InodeId::ROOT;
        for place in 1..=PARTITIONS {
            parent = mkdir(&mut client, parent, "d", place).await;
            assert_eq!(parent.slot(), place - 1);
            create(&mut client, parent, "f").await;
        }
        bed.settle().await;
        let usage = client.query(Query::DirUsage { inode: InodeId::ROOT }).await;
        let Ok(Answer::DirUsage { usage }) = usage else { panic!("{usage:?}") };
        assert_eq!((usage.recursive.files, usage.recursive.dirs), (4, 4));
        sleep(Duration::from_secs(2)).await;
        assert_eq!(bed.mds.usage(), (4, 5, 0));
    });
}

#[test]
fn a_mount_that_is_shut_out_holds_nothing_and_changes_nothing() {
    bed::run(2, SERVERS, async |bed: &mut Bed| {
        bed.wait_until_led().await;
        let (mut gone, mut other) = (bed.client(), bed.client());
        let dir = mkdir(&mut gone, InodeId::ROOT, "d", 3).await;
        let file = create(&mut gone, dir, "f").await;
        let unlink = NameOp::Unlink { parent: dir, name: name("f") };
        assert!(other.change(unlink.into()).await.is_ok());
        assert!(other.query(Query::GetAttr { inode: file }).await.is_ok(), "it is held open");
        bed.mds.end(gone.mount.0, 2);
        let until = Instant::now() + Duration::from_secs(10);
        while !bed.mds.has_ended(gone.mount.0) {
            assert!(Instant::now() < until, "not shut out");
            sleep(Duration::from_millis(50)).await;
        }
        let late = NameOp::Create {
            parent: dir,
            name: name("late"),
            new: new_inode(Kind::File),
            open: false,
            or_open: false,
        };
        assert_eq!(gone.change(late.into()).await, Err(FsError::Fenced));
        assert_eq!(gone.query(Query::GetAttr { inode: dir }).await, Err(FsError::Fenced));
        gone.epoch = Epoch(2);
        bed.settle().await;
        assert_eq!(other.query(Query::GetAttr { inode: file }).await, Err(FsError::NotFound));
    });
}

#[test]
fn a_page_of_long_names_fits_a_frame() {
    bed::run(5, SERVERS, async |bed: &mut Bed| {
        bed.wait_until_led().await;
        let mut client = bed.client();
        for n in 0..2900 {
            create(&mut client, InodeId::ROOT, &format!("{n:0250}")).await;
        }
        let (mut after, mut seen) = (None, 0);
        loop {
            let query = Query::ReadDir { inode: InodeId::ROOT, after, limit: u32::MAX, plus: true };
            let page = client.query(query).await;
            let Ok(Answer::Page { entries, end }) = page else { panic!("{page:?}") };
            seen += entries.len();
            after = entries.last().map(|entry| entry.name.clone());
            if end {
                break;
            }
            assert!(!entries.is_empty());
        }
        assert_eq!(seen, 2900);
    });
}

#[test]
fn a_graceful_stop_hands_over_at_once() {
    bed::run(3, SERVERS, async |bed: &mut Bed| {
        bed.wait_until_led().await;
        let mut client = bed.client();
        create(&mut client, InodeId::ROOT, "a").await;
        let (at, _) = bed.leader(1).unwrap();
        let before = Instant::now();
        bed.stop(at).await;
        create(&mut client, InodeId::ROOT, "b").await;
        let stall = before.elapsed();
        assert!(stall < Duration::from_millis(500), "stalled for {stall:?}");
        bed.start(at).await;
        bed.settle().await;
    });
}

/// A leader dies between the decision and its end elsewhere. Whoever looks then waits, and sees the whole operation.
#[test]
fn what_a_dead_leader_decided_is_finished_by_the_next() {
    for seed in seeds(4) {
        bed::run(seed, SERVERS, async |bed: &mut Bed| {
            bed.wait_until_led().await;
            let mut client = bed.client();
            for round in 0..6 {
                let text = format!("d{round}");
                let place = 2 + round % 3;
                let mut maker = bed.client();
                let making = tokio::spawn(async move {
                    mkdir(&mut maker, InodeId::ROOT, &format!("d{round}"), place).await
                });
                let micros = bed.random.random_range(0..6_000);
                sleep(Duration::from_micros(micros)).await;
                let at = bed.leader(1).map_or(0, |(at, _)| at);
                bed.crash(at, Outage::Refused);
                let dir = making.await.unwrap();
                let found = client.query(Query::Lookup { parent: InodeId::ROOT, name: name(&text) }).await;
                let Ok(Answer::Entry { dentry, .. }) = found else { panic!("{text}: {found:?}") };
                assert_eq!(dentry.inode, dir);
                create(&mut client, dir, "f").await;
                bed.start(at).await;
                bed.wait_until_led().await;
            }
            bed.settle().await;
        });
    }
}

#[test]
fn a_lost_metaserver_is_replaced_and_the_new_one_gets_everything() {
    bed::run(4, SERVERS + 1, async |bed: &mut Bed| {
        bed.wait_until_led().await;
        let mut client = bed.client();
        let dir = mkdir(&mut client, InodeId::ROOT, "d", 2).await;
        for n in 0..50 {
            create(&mut client, dir, &format!("f{n}")).await;
        }
        // The founders are the first three.
        bed.crash(0, Outage::Silent);
        bed.mds.replace(11, 14);
        let until = Instant::now() + Duration::from_secs(60);
        while !bed.mds.is_as_wanted() {
            assert!(Instant::now() < until, "not replaced");
            sleep(Duration::from_millis(200)).await;
        }
        bed.crash(1, Outage::Silent);
        bed.wait_until_led().await;
        let other = mkdir(&mut client, InodeId::ROOT, "e", 3).await;
        for n in 0..50 {
            let rename = NameOp::Rename {
                parent: dir,
                name: name(&format!("f{n}")),
                new_parent: other,
                new_name: name(&format!("g{n}")),
                mode: RenameMode::NoReplace,
            };
            assert!(client.change(rename.into()).await.is_ok());
        }
        bed.start(1).await;
        bed.settle().await;
    });
}

fn create_op(parent: InodeId, text: &str, or_open: bool) -> Op {
    let new = new_inode(Kind::File);
    NameOp::Create { parent, name: name(text), new, open: true, or_open }.into()
}

/// Whoever's disk it is: each partition has a replica on it.
#[test]
fn on_a_full_disk_what_grows_is_refused_and_all_else_goes_on() {
    bed::run(6, SERVERS, async |bed: &mut Bed| {
        bed.wait_until_led().await;
        let mut client = bed.client();
        let dir = mkdir(&mut client, InodeId::ROOT, "d", 2).await;
        let mut files = Vec::new();
        for n in 0..SERVERS * 2 {
            files.push(create(&mut client, dir, &format!("f{n}")).await);
        }
        for at in 0..SERVERS {
            let before = client.request(create_op(dir, &format!("before{at}"), false));
            let made = client.call(before.0, &before.1).await;
            assert!(made.is_ok(), "{made:?}");
            bed.fill(at, Some(1 << 20));
            // The others hear of it from the MDS.
            sleep(Duration::from_secs(3)).await;
            let elsewhere = PartitionId(3);
            let new_dir = |parent, place| NameOp::Mkdir {
                parent,
                name: name("new"),
                new: new_inode(Kind::Directory),
                place,
            };
            let xattr = Xattr { name: XattrName::new("user.a").unwrap(), value: "v".into() };
            for op in [
                create_op(dir, "new", false),
                create_op(dir, "new", true),
                new_dir(dir, None).into(),
                new_dir(InodeId::ROOT, Some(elsewhere)).into(),
                NameOp::Link { inode: files[0], parent: dir, name: name("new") }.into(),
                Op::SetXattr { inode: files[0], xattr, create: false, replace: false },
                Op::Allocate { inode: files[0], offset: 0, len: 4096, keep_size: false },
            ] {
                assert_eq!(client.change(op.clone()).await, Err(FsError::NoSpace), "{op:?}");
            }
            // What was made before the disk was full is not refused afterwards.
            assert_eq!(client.call(before.0, &before.1).await, made);
            let found = client.query(Query::Lookup { parent: dir, name: name("new") }).await;
            assert_eq!(found, Err(FsError::NotFound), "nothing of it was done");
            let (one, other) = (at * 2, at * 2 + 1);
            let renamed = NameOp::Rename {
                parent: dir,
                name: name(&format!("f{other}")),
                new_parent: InodeId::ROOT,
                new_name: name(&format!("g{other}")),
                mode: RenameMode::Replace,
            };
            for op in [
                create_op(dir, &format!("f{one}"), true),
                Op::Open { inode: files[one], truncate: false },
                Op::Truncate { inode: files[one], length: 0, kill_priv: false },
                NameOp::Unlink { parent: dir, name: name(&format!("f{one}")) }.into(),
                renamed.into(),
                Op::Close { inodes: vec![files[one]] },
            ] {
                let done = client.change(op.clone()).await;
                assert!(done.is_ok(), "{op:?}: {done:?}");
            }
            bed.fill(at, None);
            sleep(Duration::from_secs(3)).await;
            create(&mut client, dir, &format!("after{at}")).await;
        }
        bed.mds.end(client.mount.0, 2);
        bed.settle().await;
    });
}

/// Whoever led what: each knows from its disk where the others and their partitions are.
#[test]
fn metaservers_that_start_without_an_mds_serve_and_coordinate() {
    bed::run(7, SERVERS, async |bed: &mut Bed| {
        bed.wait_until_led().await;
        let mut client = bed.client();
        let dir = mkdir(&mut client, InodeId::ROOT, "d", 2).await;
        // Each hears by its heartbeat that there is something to be known.
        sleep(Duration::from_secs(3)).await;
        bed.mds.set_down(true);
        for at in 0..SERVERS {
            bed.crash(at, Outage::Refused);
        }
        for at in 0..SERVERS {
            bed.start(at).await;
        }
        bed.wait_until_led().await;
        for (at, place) in (1..=PARTITIONS).enumerate() {
            let below = mkdir(&mut client, dir, &format!("e{at}"), place).await;
            let file = create(&mut client, below, "f").await;
            let rename = NameOp::Rename {
                parent: below,
                name: name("f"),
                new_parent: InodeId::ROOT,
                new_name: name(&format!("f{at}")),
                mode: RenameMode::NoReplace,
            };
            let renamed = client.change(rename.into()).await;
            assert!(matches!(renamed, Ok(Reply::Renamed { .. })), "{renamed:?}");
            assert!(client.change(Op::Close { inodes: vec![file] }).await.is_ok());
        }
        bed.heal().await;
        bed.settle().await;
    });
}

/// One unkind thing after the other while clients work, never more than one server at a time.
async fn torment(bed: &mut Bed, mut clients: JoinSet<()>) {
    let pause = |bed: &mut Bed, most: u64| Duration::from_millis(bed.random.random_range(1..most));
    bed.set_unkind(true);
    while !clients.is_empty() {
        let work = pause(bed, 1500);
        while let Ok(Some(done)) = timeout(work, clients.join_next()).await {
            done.unwrap();
        }
        let at = bed.random.random_range(0..SERVERS);
        match bed.random.random_range(0..8) {
            0..3 => {
                let outage = if bed.random.random_bool(0.5) { Outage::Silent } else { Outage::Refused };
                bed.crash(at, outage);
                sleep(pause(bed, 3000)).await;
                bed.start(at).await;
            }
            3 => {
                bed.stop(at).await;
                sleep(pause(bed, 1000)).await;
                bed.start(at).await;
            }
            4 | 5 => {
                bed.isolate(at, true);
                sleep(pause(bed, 3000)).await;
                bed.isolate(at, false);
                bed.network.heal();
                bed.set_unkind(true);
            }
            6 => {
                bed.mds.set_down(true);
                sleep(pause(bed, 5000)).await;
                bed.mds.set_down(false);
            }
            _ => {
                if let Some((at, _)) = bed.leader(1).filter(|(at, _)| bed.is_up(*at)) {
                    bed.crash(at, Outage::Refused);
                    bed.start(at).await;
                }
            }
        }
    }
}

#[test]
fn nothing_that_was_answered_is_lost_whatever_fails() {
    for seed in seeds(4) {
        bed::run(seed, SERVERS, async |bed: &mut Bed| {
            bed.wait_until_led().await;
            let (done, mut ready) = tokio::sync::mpsc::unbounded_channel();
            let mut clients = JoinSet::new();
            for n in 0..4 {
                let mut private = Private::new(bed.client(), seed * 100 + n);
                let done = done.clone();
                clients.spawn(async move {
                    private.work(120).await;
                    done.send(private).unwrap();
                });
            }
            let maker = shared_maker();
            let mut others = Vec::new();
            for n in 0..3 {
                let client = bed.client();
                others.push(client.mount.0);
                let disturbing = disturb(client, maker.clone(), seed * 100 + 50 + n, 100);
                clients.spawn(async move { drop(disturbing.await) });
            }
            let (told, mut owned) = tokio::sync::mpsc::unbounded_channel();
            let client = bed.client();
            others.push(client.mount.0);
            let delegating = recall::delegate(client, maker.clone(), seed * 100 + 60, 6);
            clients.spawn(async move { told.send(delegating.await).unwrap() });
            torment(bed, clients).await;
            bed.heal().await;
            drop(done);
            while let Some(mut private) = ready.recv().await {
                private.check_all().await;
                private.close_all().await;
                private.check_all().await;
            }
            let mut looker = bed.client();
            for own in owned.recv().await.unwrap() {
                own.check(&mut looker).await;
            }
            // Those who were in each other's way hold files open.
            others.iter().for_each(|mount| bed.mds.end(*mount, 2));
            bed.settle().await;
        });
    }
}

#[test]
fn synced_bytes_are_found_wherever_they_are_and_all_come_to_the_store() {
    for seed in seeds(2) {
        bed::run(seed, SERVERS, async |bed: &mut Bed| {
            bed.wait_until_led().await;
            let (done, mut ready) = tokio::sync::mpsc::unbounded_channel();
            let mut clients = JoinSet::new();
            for n in 0..3 {
                let (client, data) = (bed.client(), bed.data.clone());
                let mut syncing = Syncing::new(client, data, PARTITIONS, seed * 100 + n).await;
                let done = done.clone();
                clients.spawn(async move {
                    syncing.work(100).await;
                    done.send(syncing).unwrap();
                });
            }
            torment(bed, clients).await;
            bed.heal().await;
            drop(done);
            bed.settle().await;
            let mut slices = 0;
            while let Some(mut syncing) = ready.recv().await {
                slices += syncing.check_stored().await;
                bed.mds.end(syncing.client.mount.0, 2);
            }
            assert_eq!(bed.bucket.objects().len(), slices, "what nobody needs is not in the store");
        });
    }
}
