//! Delegated directories: asked back from who answers, taken away from who does not, whoever leads.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use curve_io::sim::Outage;
use curvefs_types::{
    Answer, Attr, Born, Dentry, FsError, InodeId, Kind, Moved, NameAt, NameOp, Op, Published, Query,
    RenameMode, Reply, SetAttr,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::{Instant, sleep};

use crate::bed::{self, Bed, PARTITIONS};
use crate::client::Client;
use crate::ops::Maker;
use crate::{SERVERS, mkdir, name, new_inode};

/// A mount's directory, in which it makes files without asking.
pub struct Delegated {
    pub dir: InodeId,
    numbers: Vec<InodeId>,
    /// What was published.
    published: BTreeMap<String, InodeId>,
    /// What was moved away or removed.
    gone: Vec<String>,
}

fn born(inode: InodeId, parent: InodeId, of: &str) -> Born {
    let attr = Attr {
        inode,
        kind: Kind::File,
        mode: 0o644,
        uid: 0,
        gid: 0,
        nlink: 1,
        rdev: 0,
        flags: 0,
        length: 0,
        allocated: 0,
        atime: 1,
        mtime: 1,
        ctime: 1,
        parent,
        version: 1,
        generation: 1,
    };
    Born {
        name: name(of),
        attr,
        target: Default::default(),
        xattrs: Vec::new(),
        extents: Vec::new(),
        open: false,
    }
}

impl Delegated {
    pub async fn new(client: &mut Client, of: &str, place: u32) -> Self {
        Self::new_in(client, InodeId::ROOT, of, place).await
    }

    async fn new_in(client: &mut Client, parent: InodeId, of: &str, place: u32) -> Self {
        let dir = mkdir(client, parent, of, place).await;
        let asked = client.change(Op::Delegate { dir, knows: Some(Vec::new()), reserve: 100 }).await;
        let Ok(Reply::Delegated { reserved, .. }) = asked else { panic!("{asked:?}") };
        let numbers = (0..u64::from(reserved.count)).rev().map(|n| InodeId(reserved.first.0 + n)).collect();
        Self { dir, numbers, published: BTreeMap::new(), gone: Vec::new() }
    }

    /// Publishes files; whether the directory is still ours.
    pub async fn publish(&mut self, client: &mut Client, names: &[String], give_back: bool) -> bool {
        let born: Vec<_> =
            names.iter().map(|of| born(self.numbers.pop().expect("enough numbers"), self.dir, of)).collect();
        let made: Vec<_> = born.iter().map(|born| (born.name.to_string(), born.attr.inode)).collect();
        let published = Published {
            dir: self.dir,
            moved: Vec::new(),
            born,
            mtime: 1,
            set: SetAttr::default(),
            give_back,
        };
        let op = Op::Publish { dirs: vec![published], lowest: InodeId(0), reserve: 0 };
        match client.change(op).await {
            Ok(Reply::Published { refused, .. }) if refused.is_empty() => {
                self.published.extend(made);
                !give_back
            }
            Ok(Reply::Published { refused, .. }) => {
                assert_eq!(refused, [self.dir], "a directory is lost as a whole");
                false
            }
            other => panic!("{other:?}"),
        }
    }

    /// Moves a name and removes another, in one change; whether the directory is still ours.
    pub async fn change(&mut self, client: &mut Client, to: &str) -> bool {
        let mut names = self.published.clone().into_iter();
        let (Some((moved, first)), Some((removed, second))) = (names.next(), names.next()) else {
            return true;
        };
        let dentry = |inode| Dentry { inode, kind: Kind::File };
        let to_at = Some(NameAt { dir: self.dir, name: name(to) });
        let moves = vec![
            Moved { name: name(&moved), dentry: dentry(first), to: to_at, at: 5 },
            Moved { name: name(&removed), dentry: dentry(second), to: None, at: 5 },
        ];
        let set = SetAttr::default();
        let published =
            Published { dir: self.dir, moved: moves, born: Vec::new(), mtime: 1, set, give_back: false };
        let op = Op::Publish { dirs: vec![published], lowest: InodeId(0), reserve: 0 };
        match client.change(op).await {
            Ok(Reply::Published { refused, unmoved, .. }) if refused.is_empty() => {
                assert_eq!(unmoved, [], "nobody else changes names");
                self.published.remove(&moved);
                self.published.remove(&removed);
                self.published.insert(to.to_owned(), first);
                self.gone.extend([moved, removed]);
                true
            }
            Ok(Reply::Published { refused, .. }) => {
                assert_eq!(refused, [self.dir], "a directory is lost as a whole");
                false
            }
            other => panic!("{other:?}"),
        }
    }

    /// Whether others wait for the directory.
    pub async fn is_wanted(&self, client: &mut Client) -> bool {
        let asked = client.query(Query::Recalls { inode: self.dir, known: Vec::new() }).await;
        let Ok(Answer::Recalls { dirs }) = asked else { panic!("{asked:?}") };
        dirs.contains(&self.dir)
    }

    /// What was published is there.
    pub async fn check(&self, client: &mut Client) {
        for (of, inode) in &self.published {
            let found = client.query(Query::Lookup { parent: self.dir, name: name(of) }).await;
            let right = matches!(found, Ok(Answer::Entry { dentry, .. }) if dentry.inode == *inode);
            assert!(right, "{of} of {}: {found:?}", self.dir);
        }
        for of in &self.gone {
            let found = client.query(Query::Lookup { parent: self.dir, name: name(of) }).await;
            assert_eq!(found, Err(FsError::NotFound), "{of} of {}", self.dir);
        }
    }
}

/// Makes directories and files in them while others are in its way; now and then it forgets to give one back.
pub async fn delegate(
    mut client: Client,
    maker: Arc<Mutex<Maker>>,
    seed: u64,
    rounds: usize,
) -> Vec<Delegated> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut done = Vec::new();
    for round in 0..rounds {
        let of = format!("own-{}-{round}", client.mount.0);
        let mut own = Delegated::new(&mut client, &of, random.random_range(1..=PARTITIONS)).await;
        maker.lock().unwrap().known.push(own.dir);
        let mut ours = true;
        for batch in 0..random.random_range(1..4) {
            let names: Vec<_> = (0..random.random_range(0..5)).map(|n| format!("born-{batch}-{n}")).collect();
            let gives = own.is_wanted(&mut client).await && random.random_bool(0.7);
            ours = ours && own.publish(&mut client, &names, gives).await;
            ours = ours && own.change(&mut client, &format!("moved-{batch}")).await;
        }
        if ours && random.random_bool(0.7) {
            own.publish(&mut client, &[], true).await;
        }
        own.check(&mut client).await;
        done.push(own);
    }
    done
}

#[test]
fn a_directory_that_others_wait_for_is_given_back() {
    bed::run(21, SERVERS, async |bed: &mut Bed| {
        bed.wait_until_led().await;
        // Also one whose inode another partition made.
        for place in [1, 3] {
            let mut holder = bed.client();
            let mut own = Delegated::new(&mut holder, &format!("d{place}"), place).await;
            assert!(own.publish(&mut holder, &["a".into()], false).await);
            assert!(!own.is_wanted(&mut holder).await);
            let mut other = bed.client();
            let dir = own.dir;
            let begun = Instant::now();
            let (seen, ()) = tokio::join!(
                async { other.query(Query::Lookup { parent: dir, name: name("b") }).await },
                async {
                    while !own.is_wanted(&mut holder).await {}
                    own.publish(&mut holder, &["b".into()], true).await;
                }
            );
            assert!(matches!(seen, Ok(Answer::Entry { .. })), "{seen:?}");
            assert!(begun.elapsed() < Duration::from_millis(300), "{:?}", begun.elapsed());
            own.check(&mut other).await;
        }
        bed.settle().await;
    });
}

/// What a coordinator wants of another partition that its own metaserver leads does not go over the network.
#[test]
fn partitions_of_one_metaserver_ask_each_other() {
    bed::run(23, SERVERS, async |bed: &mut Bed| {
        bed.wait_until_led().await;
        let led_by = |partition| bed.leader(partition).unwrap().0;
        let pairs = (1..=PARTITIONS).flat_map(|one| (1..one).map(move |two| (one, two)));
        let (one, two) = pairs.into_iter().find(|(one, two)| led_by(*one) == led_by(*two)).unwrap();
        for is_rename in [true, false] {
            let (mut holder, mut other) = (bed.client(), bed.client());
            let parent = mkdir(&mut other, InodeId::ROOT, &format!("parent-{is_rename}"), one).await;
            let mut own = Delegated::new_in(&mut holder, parent, "own", two).await;
            let op = if is_rename {
                own.publish(&mut holder, &["a".into()], false).await;
                NameOp::Rename {
                    parent: own.dir,
                    name: name("a"),
                    new_parent: parent,
                    new_name: name("b"),
                    mode: RenameMode::Replace,
                }
            } else {
                NameOp::Rmdir { parent, name: name("own") }
            };
            let begun = Instant::now();
            let (done, ()) = tokio::join!(other.change(op.into()), async {
                while !own.is_wanted(&mut holder).await {}
                own.publish(&mut holder, &[], true).await;
            });
            assert!(done.is_ok(), "{done:?}");
            assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        }
        assert_eq!(bed.leader(one).map(|(at, _)| at), bed.leader(two).map(|(at, _)| at));
        bed.settle().await;
    });
}

#[test]
fn a_silent_mount_loses_its_directories_whoever_leads() {
    bed::run(22, SERVERS, async |bed: &mut Bed| {
        bed.wait_until_led().await;
        let mut holder = bed.client();
        let mut own = Delegated::new(&mut holder, "d", 2).await;
        let mut other = bed.client();
        let op = NameOp::Create {
            parent: own.dir,
            name: name("theirs"),
            new: new_inode(Kind::File),
            open: false,
            or_open: false,
        };
        let (at, _) = bed.leader(2).unwrap();
        let begun = Instant::now();
        let waiting = tokio::spawn(async move { (other.change(op.into()).await, other) });
        sleep(Duration::from_secs(2)).await;
        bed.crash(at, Outage::Refused);
        bed.start(at).await;
        let (made, mut other) = waiting.await.unwrap();
        assert!(matches!(made, Ok(Reply::Attr { created: true, .. })), "{made:?}");
        assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
        assert!(!own.publish(&mut holder, &["late".into()], false).await, "it is not ours any more");
        let late = other.query(Query::Lookup { parent: own.dir, name: name("late") }).await;
        assert_eq!(late, Err(FsError::NotFound));
        bed.settle().await;
    });
}
