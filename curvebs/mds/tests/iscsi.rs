//! Targets, gateways and reservations in an MDS group of three on simulated disks and a simulated network.

#[allow(dead_code, reason = "each test program uses a part of it")]
mod support;

use std::time::Duration;

use curve_proto::mds::{
    ANY_INITIATOR, IscsiAccess, IscsiAuth, IscsiEdit, IscsiGatewayKey, IscsiReserve, IscsiSeat, IscsiSecrets,
    OpenMode, OpenRequest, SessionKey,
};
use curve_proto::{MdsApi, MdsError};
use curve_types::{ClientId, Epoch, SegmentIndex, VolumeId};
use support::{Cluster, eventually};
use tokio::time::{Instant, sleep};

const GIB: u64 = 1 << 30;
const IQN: &str = "iqn.2026-01.com.example:disk";
const PATIENCE: Duration = Duration::from_secs(60);

fn lun(number: u16, path: &str) -> IscsiEdit {
    let (target, path) = (IQN.to_owned(), path.to_owned());
    IscsiEdit::AddLun { target, number, path, block_bytes: 512, read_only: false }
}

fn acl(add: bool, initiator: &str) -> IscsiEdit {
    let (target, initiator) = (IQN.to_owned(), initiator.to_owned());
    match add {
        true => IscsiEdit::AddInitiator { target, initiator },
        false => IscsiEdit::RemoveInitiator { target, initiator },
    }
}

fn auth(secret: &'static str) -> IscsiEdit {
    let secrets = IscsiSecrets { incoming: secret.into(), mutual: None };
    let auth = IscsiAuth { user: "alice".into(), mutual_user: None, secrets: Some(secrets) };
    IscsiEdit::SetAuth { target: IQN.to_owned(), auth }
}

/// A gateway as the MDS sees one.
struct Gateway {
    api: MdsApi,
    key: IscsiGatewayKey,
    seat: IscsiSeat,
}

impl Gateway {
    /// Enrolls, opens `/disk` and takes the seat.
    async fn start(cluster: &Cluster, name: &str, client: u64) -> Self {
        let api = cluster.api(client);
        let addresses = [format!("{name}:3260")];
        let (key, _) = api.iscsi_enroll(name, client, &addresses, ("host", 1)).await.unwrap();
        let request = OpenRequest {
            path: String::new(),
            volume: Some(VolumeId(1)),
            mode: OpenMode::Shared,
            client: ClientId(client),
            host: "host".into(),
            process: 1,
            takeover: false,
            displaced: Vec::new(),
        };
        let opened = api.open(&request).await.unwrap();
        let seat = IscsiSeat { volume: opened.volume.id, client: ClientId(client) };
        api.iscsi_serve(key, seat).await.unwrap();
        Self { api, key, seat }
    }

    async fn reserve(&self, id: u64, expected: u64, patience: Duration) -> Result<Option<u64>, MdsError> {
        let (state, change) = (format!("state {id}").into(), format!("change {id}").into());
        let request = IscsiReserve { gateway: self.key, seat: self.seat, id, expected, state, change };
        self.api.iscsi_reserve(&request, patience).await
    }

    /// Polls until it hears of a version above `seen`, and confirms it.
    async fn follow(&self, seen: u64) -> Result<u64, MdsError> {
        loop {
            let news = self.api.iscsi_poll(self.key, seen, Some(Vec::new())).await?;
            if let Some(unit) = news.reservations.first() {
                self.api.iscsi_enforced(self.key, self.seat, unit.version).await?;
                return Ok(unit.version);
            }
        }
    }

    async fn segment(&self, epoch: u64) -> Result<(), MdsError> {
        let session = SessionKey { volume: self.seat.volume, client: self.seat.client, epoch: Epoch(epoch) };
        self.api.segment(session, SegmentIndex(0), true).await.map(drop)
    }
}

/// A cluster with `/disk` as unit 0.
async fn served() -> (Cluster, MdsApi) {
    let cluster = Cluster::start(3, 3).await;
    let api = cluster.api(1);
    cluster.wait_healthy(&api).await;
    api.create_volume("/disk", 4 * GIB).await.unwrap();
    api.iscsi_edit(IscsiEdit::CreateTarget(IQN.to_owned())).await.unwrap();
    api.iscsi_edit(lun(0, "/disk")).await.unwrap();
    (cluster, api)
}

#[tokio::test(start_paused = true)]
async fn edits_are_checked_and_seen() {
    let (mut cluster, api) = served().await;
    api.create_volume("/logs", GIB).await.unwrap();
    let create = |name: &str| IscsiEdit::CreateTarget(name.to_owned());
    let remove_lun = |number| IscsiEdit::RemoveLun { target: IQN.to_owned(), number };
    for (edit, code) in [
        (create("disk"), "BAD_NAME"),
        (create(&IQN.to_uppercase()), "EXISTS"),
        (lun(0, "/logs"), "EXISTS"),
        (lun(1, "/disk"), "CONFLICT"),
        (lun(1, "/none"), "NOT_FOUND"),
        (lun(20_000, "/logs"), "BAD_REQUEST"),
        (remove_lun(1), "NOT_FOUND"),
        (acl(false, "iqn.i:a"), "NOT_FOUND"),
        (acl(true, "somebody"), "BAD_NAME"),
        (IscsiEdit::RemoveAuth(IQN.to_owned()), "NOT_FOUND"),
        (IscsiEdit::RemoveTarget("iqn.x:none".to_owned()), "NOT_FOUND"),
        (IscsiEdit::RemoveGateway("gw".to_owned()), "NOT_FOUND"),
        (auth("short"), "BAD_REQUEST"),
    ] {
        let error = api.iscsi_edit(edit.clone()).await.unwrap_err();
        assert_eq!(error.code(), code, "{edit:?}: {error}");
    }
    assert_eq!(api.delete("/disk").await.unwrap_err().code(), "CONFLICT", "it is a unit");
    let before = api.iscsi_list().await.unwrap().targets.remove(0);
    api.iscsi_edit(remove_lun(0)).await.unwrap();
    api.iscsi_edit(lun(7, "/disk")).await.unwrap();
    api.rename("/disk", "/disk-1").await.unwrap();
    let leader = cluster.leader().await;
    cluster.kill_mds(leader);
    let after = api.iscsi_list().await.unwrap().targets.remove(0);
    assert_eq!((after.luns[0].number, after.luns[0].path.as_str()), (7, "/disk-1"));
    assert_eq!(after.luns[0].uuid, before.luns[0].uuid, "the same disk under another number");
    api.iscsi_edit(IscsiEdit::RemoveTarget(IQN.to_owned())).await.unwrap();
    assert!(api.iscsi_list().await.unwrap().targets.is_empty());
    api.delete("/disk-1").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_list_of_initiators_never_opens_a_target_by_getting_shorter() {
    let (_cluster, api) = served().await;
    let access = async || api.iscsi_list().await.unwrap().targets.remove(0).access;
    let listed = |names: &[&str]| IscsiAccess::Listed(names.iter().map(|&name| name.to_owned()).collect());
    assert_eq!(access().await, IscsiAccess::Any);
    for (add, name, expected) in [
        (true, "IQN.i:b", listed(&["iqn.i:b"])),
        (true, "iqn.i:a", listed(&["iqn.i:a", "iqn.i:b"])),
        (false, "iqn.i:a", listed(&["iqn.i:b"])),
        (false, "iqn.i:b", listed(&[])),
        (true, ANY_INITIATOR, IscsiAccess::Any),
        (false, ANY_INITIATOR, listed(&[])),
    ] {
        api.iscsi_edit(acl(add, name)).await.unwrap();
        assert_eq!(access().await, expected, "{add} {name}");
    }
}

#[tokio::test(start_paused = true)]
async fn secrets_reach_gateways_and_nobody_else() {
    let (_cluster, api) = served().await;
    api.iscsi_edit(auth("a-secret-of-alice")).await.unwrap();
    let listed = api.iscsi_list().await.unwrap().targets.remove(0).auth.unwrap();
    assert_eq!((listed.user.as_str(), listed.secrets), ("alice", None));
    let (gateway, _) = api.iscsi_enroll("gw-1", 5, &[], ("host", 1)).await.unwrap();
    let news = api.iscsi_poll(gateway, 0, Some(Vec::new())).await.unwrap();
    let secrets = news.targets[0].auth.clone().unwrap().secrets.unwrap();
    assert_eq!(secrets.incoming, "a-secret-of-alice");
    let stranger = IscsiGatewayKey { incarnation: 6, ..gateway };
    assert_eq!(api.iscsi_poll(stranger, 0, None).await.unwrap_err().code(), "NOT_HELD");
    // Nothing new: the poll waits; a change ends that at once.
    let begun = Instant::now();
    let (quiet, _) = tokio::join!(api.iscsi_poll(gateway, news.revision, None), async {
        sleep(Duration::from_millis(500)).await;
        api.iscsi_edit(acl(true, "iqn.i:a")).await.unwrap();
    });
    let quiet = quiet.unwrap();
    assert!(quiet.revision > news.revision && quiet.targets.len() == 1);
    assert!(begun.elapsed() < Duration::from_millis(800), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_change_of_reservations_waits_for_every_gateway() {
    let (mut cluster, _) = served().await;
    let (one, two) = (Gateway::start(&cluster, "gw-1", 11).await, Gateway::start(&cluster, "gw-2", 12).await);
    assert_eq!((one.key.number, two.key.number), (1, 2));
    let begun = Instant::now();
    let (made, _, second) = tokio::join!(one.reserve(1, 0, PATIENCE), one.follow(0), async {
        sleep(Duration::from_secs(4)).await;
        two.follow(0).await
    });
    let version = made.unwrap().expect("made");
    assert_eq!(second.unwrap(), version);
    assert!(begun.elapsed() >= Duration::from_secs(4));
    // Asked again it is found; from an older version nothing is changed.
    assert_eq!(one.reserve(1, 0, PATIENCE).await.unwrap(), Some(version));
    assert_eq!(two.reserve(2, 0, PATIENCE).await.unwrap(), None);
    // It survives the leader and is there for whoever comes next.
    let leader = cluster.leader().await;
    cluster.kill_mds(leader);
    let unit = two.api.iscsi_serve(two.key, two.seat).await.unwrap();
    assert_eq!((unit.version, &unit.state[..], unit.enforced), (version, &b"state 1"[..], version));
}

#[tokio::test(start_paused = true)]
async fn a_silent_gateway_is_fenced_before_the_change_completes() {
    let (cluster, _) = served().await;
    let (one, two) = (Gateway::start(&cluster, "gw-1", 11).await, Gateway::start(&cluster, "gw-2", 12).await);
    one.segment(1).await.unwrap();
    two.segment(1).await.unwrap();
    let begun = Instant::now();
    let keep_alive = async {
        one.follow(0).await.unwrap();
        loop {
            one.api.iscsi_poll(one.key, 0, Some(Vec::new())).await.unwrap();
            sleep(Duration::from_secs(1)).await;
        }
    };
    cluster.refuse_fences(true);
    let refused = one.reserve(1, 0, Duration::from_secs(15));
    tokio::select! {
        refused = refused => assert!(refused.is_err(), "not before it is shut out everywhere"),
        () = keep_alive => unreachable!("it never ends"),
    }
    assert!(begun.elapsed() > Duration::from_secs(10), "not before its lease has run out");
    cluster.refuse_fences(false);
    one.api.iscsi_poll(one.key, 0, None).await.unwrap();
    let version = one.reserve(1, 0, PATIENCE).await.unwrap().expect("it was made");
    assert!(cluster.fences(one.seat.volume).iter().all(|(_, epoch)| *epoch == 2));
    assert!(cluster.kept(one.seat.volume).iter().all(|kept| *kept == [(11, 1)]), "the live one goes on");
    assert!(matches!(two.segment(1).await, Err(MdsError::Fenced { .. })));
    // It wakes up: it hears that it serves nothing, and what it confirms is refused.
    let news = two.api.iscsi_poll(two.key, 0, Some(Vec::new())).await.unwrap();
    assert!(news.seats.is_empty());
    let late = two.api.iscsi_enforced(two.key, two.seat, version).await;
    assert_eq!(late.unwrap_err().code(), "NOT_HELD");
    assert_eq!(two.reserve(9, version, PATIENCE).await.unwrap_err().code(), "NOT_HELD");
    let again = two.api.iscsi_serve(two.key, two.seat).await;
    assert_eq!(again.unwrap_err().code(), "NOT_HELD", "its session is over: it must open the volume anew");
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_starts_again_shuts_its_former_life_out() {
    let (cluster, api) = served().await;
    let (one, two) = (Gateway::start(&cluster, "gw-1", 11).await, Gateway::start(&cluster, "gw-2", 12).await);
    one.segment(1).await.unwrap();
    // Killed; the next life does not wait for a lease.
    let begun = Instant::now();
    let again = Gateway::start(&cluster, "gw-2", 13).await;
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!(again.key.number, two.key.number, "the name keeps its port");
    assert!(matches!(two.segment(1).await, Err(MdsError::Fenced { .. })));
    assert_eq!(two.api.iscsi_poll(two.key, 0, None).await.unwrap_err().code(), "NOT_HELD");
    again.segment(2).await.ok();
    // Killed again and nobody comes after it: a change does not wait for its lease either, once the name is taken.
    api.iscsi_enroll("gw-2", 14, &[], ("host", 1)).await.unwrap();
    let (made, _) = tokio::join!(one.reserve(1, 0, PATIENCE), one.follow(0));
    assert!(made.unwrap().is_some());
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    eventually("the seat is free", || async {
        api.iscsi_edit(IscsiEdit::RemoveGateway("gw-2".to_owned())).await.is_ok()
    })
    .await;
}
