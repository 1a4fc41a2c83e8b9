//! Requests about file systems, mounts and metaservers.

use std::time::Duration;

use curve_proto::MdsError;
use curve_proto::pb::fs::fs_request::Op;
use curve_proto::pb::fs::fs_response::Result as FsAnswer;
use curve_proto::pb::fs::{
    FsCreate, FsEmpty, FsEvict, FsGetPartitions, FsMount, FsMountKey, FsName, FsPartitions, FsRecord,
    FsRecords, FsRefresh, FsRefreshed, FsRequest, FsResponse, FsSetKeys, MetaHeartbeat, MetaOrders,
    MetaRegister, MetaRemove,
};
use curve_proto::pb::mds::mds_response::Result as Answer;
use curve_proto::pb::mds_state as state;
use curve_proto::pb::mds_state::FsSystemRow;
use curve_proto::pb::mds_state::fs_command::Op as FsOp;
use curve_sched::REPLICAS;
use curvefs_mds::{Picture, check_create, check_keys, messages, next_id, orders_for, plan, query};
use rand::Rng;
use tokio::time::{Instant, timeout_at};

use crate::fs::{self, command, open_secret, seal_secret, times};
use crate::rows::cluster;
use crate::service::{Call, store_failed};

/// Metaservers that have something to do report this often.
const BUSY_INTERVAL: Duration = Duration::from_millis(200);
/// When to ask again for a file system whose partitions are being made.
const RETRY: Duration = Duration::from_millis(50);

/// Answers one.
pub(super) async fn answer(call: Call<'_>, request: FsRequest) -> Result<Answer, MdsError> {
    let why = || "an operation on file systems that this version does not know".to_owned();
    let op = request.op.ok_or_else(|| MdsError::BadRequest { why: why() })?;
    let result = match op {
        Op::Create(op) => FsAnswer::FileSystem(create(call, op).await?),
        Op::Get(name) => FsAnswer::FileSystem(get(call, &name)?),
        Op::List(_) => FsAnswer::FileSystems(list(call)?),
        Op::Delete(name) => delete(call, &name).await?,
        Op::Purged(name) => purged(call, &name).await?,
        Op::SetKeys(op) => set_keys(call, op).await?,
        Op::Mount(op) => mount(call, op).await?,
        Op::Refresh(op) => FsAnswer::Refreshed(refresh(call, &op)?),
        Op::Unmount(key) => call.end_mount(key).await?,
        Op::Mounts(name) => mounts(call, &name)?,
        Op::Evict(op) => evict(call, op).await?,
        Op::Partitions(op) => FsAnswer::Partitions(partitions(call, op)?),
        Op::Register(op) => register(call, op).await?,
        Op::Heartbeat(op) => FsAnswer::Heartbeat(heartbeat(call, op).await?),
        Op::Metaservers(_) => {
            call.fs(|picture, memory| FsAnswer::Metaservers(messages::metaservers(picture, memory)))?
        }
        Op::RemoveMetaserver(op) => remove_metaserver(call, op).await?,
    };
    Ok(Answer::Fs(FsResponse { result: Some(result) }))
}

/// Its name in metrics.
pub(super) fn name(request: &FsRequest) -> &'static str {
    match &request.op {
        None => "fs",
        Some(Op::Create(_)) => "fs_create",
        Some(Op::Get(_)) => "fs_get",
        Some(Op::List(_)) => "fs_list",
        Some(Op::Delete(_)) => "fs_delete",
        Some(Op::Purged(_)) => "fs_purged",
        Some(Op::SetKeys(_)) => "fs_set_keys",
        Some(Op::Mount(_)) => "fs_mount",
        Some(Op::Refresh(_)) => "fs_refresh",
        Some(Op::Unmount(_)) => "fs_unmount",
        Some(Op::Mounts(_)) => "fs_mounts",
        Some(Op::Evict(_)) => "fs_evict",
        Some(Op::Partitions(_)) => "fs_partitions",
        Some(Op::Register(_)) => "fs_register",
        Some(Op::Heartbeat(_)) => "fs_heartbeat",
        Some(Op::Metaservers(_)) => "fs_metaservers",
        Some(Op::RemoveMetaserver(_)) => "fs_remove_metaserver",
    }
}

fn done() -> FsAnswer {
    FsAnswer::Done(FsEmpty {})
}

impl Call<'_> {
    /// Proposes a command about file systems. All of them may be repeated.
    async fn fs_command(&self, op: FsOp) -> Result<FsAnswer, MdsError> {
        match self.command(command(op)).await? {
            Answer::Fs(FsResponse { result: Some(result) }) => Ok(result),
            _ => unreachable!("a command about file systems is answered with what concerns them"),
        }
    }

    /// Looks at everything that concerns file systems.
    fn fs<R>(&self, look: impl FnOnce(&Picture, &curvefs_mds::Memory) -> R) -> Result<R, MdsError> {
        self.shared.memory.with(self.term, |memory| {
            let picture = fs::picture_with(self.shared, memory).map_err(store_failed)?;
            Ok(look(&picture, &memory.fs))
        })
    }

    /// A file system's row, with its own error when it is not there.
    fn system(&self, name: &FsName) -> Result<FsSystemRow, MdsError> {
        Ok(query::file_system(self.shared.rows(), name)?)
    }

    fn record(&self, row: &FsSystemRow, with_secret: bool) -> Result<FsRecord, MdsError> {
        let mut record = self.fs(|picture, memory| {
            let emptied = plan::is_emptied(picture, memory, &times(&self.shared.config), row.id);
            FsRecord { emptied, ..messages::record(picture, row) }
        })?;
        if let Some(s3) = record.s3.as_mut().filter(|_| with_secret) {
            s3.secret_key = open_secret(self.shared.sealing(), row)?;
        }
        Ok(record)
    }

    fn touch_mount(&self, mount: u64) {
        let now = Instant::now().into_std();
        self.shared.memory.with(self.term, |memory| memory.fs.touch(mount, now));
    }

    async fn end_mount(&self, key: FsMountKey) -> Result<FsAnswer, MdsError> {
        self.fs_command(FsOp::EndMounts(state::FsEndMounts { mounts: vec![key] })).await
    }
}

/// Makes a file system and answers when all its partitions have a leader. The same caller may ask again, which goes on
/// waiting.
async fn create(call: Call<'_>, op: FsCreate) -> Result<FsRecord, MdsError> {
    let op = check_create(op)?;
    let known = query::by_name(call.shared.rows(), &op.name).map_err(store_failed)?;
    if known.is_none_or(|row| row.creator != call.client || call.client == 0 || row.deleting) {
        make(call, &op).await?;
    }
    let name = FsName { name: op.name, ..FsName::default() };
    wait_for_leaders(call, &name).await?;
    call.record(&call.system(&name)?, false)
}

async fn make(call: Call<'_>, op: &FsCreate) -> Result<(), MdsError> {
    let shared = call.shared;
    let cluster = cluster(shared.rows())?;
    let picture = fs::picture(shared, call.term).map_err(store_failed)?;
    let taken = picture.systems.values().any(|row| row.name == op.name);
    let (placed, nonce) = shared.memory.with(call.term, |memory| {
        (plan::place(&picture, op.partitions, &mut memory.rng), memory.rng.random())
    });
    // That the name is taken is said by the command, which knows best.
    let partitions = if taken { placed.unwrap_or_default() } else { placed? };
    let mut s3 = op.s3.clone().unwrap_or_default();
    let secret = std::mem::take(&mut s3.secret_key);
    let id = next_id(shared.rows(), cluster.id)?;
    let sealed = seal_secret(shared.sealing(), id, &s3.access_key, &secret, nonce)?;
    let make = state::FsMake {
        id,
        name: op.name.clone(),
        s3: Some(s3),
        sealed,
        root_uid: op.root_uid,
        root_gid: op.root_gid,
        root_mode: op.root_mode,
        creator: call.client,
        partitions,
    };
    call.fs_command(FsOp::Make(make)).await.map(drop)
}

async fn wait_for_leaders(call: Call<'_>, name: &FsName) -> Result<(), MdsError> {
    let until = call.waits_until();
    let mut heard = call.shared.fs_heard.subscribe();
    loop {
        heard.mark_unchanged();
        let row = call.system(name)?;
        let (led, all) = call.fs(|picture, _| {
            let led = picture.partitions_of(row.id).filter(|row| picture.leader(row.id).is_some());
            (led.count(), picture.partitions_of(row.id).count())
        })?;
        if led == all {
            return Ok(());
        }
        if timeout_at(until, heard.changed()).await.is_err() {
            let why = format!("{led} of {all} partitions of file system {} have a leader", row.name);
            return Err(MdsError::InProgress { why, retry_after: RETRY });
        }
    }
}

fn get(call: Call<'_>, name: &FsName) -> Result<FsRecord, MdsError> {
    call.record(&call.system(name)?, name.with_secret)
}

fn list(call: Call<'_>) -> Result<FsRecords, MdsError> {
    call.fs(|picture, _| {
        let mut file_systems: Vec<FsRecord> =
            picture.systems.values().map(|row| messages::record(picture, row)).collect();
        file_systems.sort_by(|a, b| a.name.cmp(&b.name));
        FsRecords { file_systems }
    })
}

async fn delete(call: Call<'_>, name: &FsName) -> Result<FsAnswer, MdsError> {
    let row = call.system(name)?;
    let lease = times(&call.shared.config).mount_lease;
    let lapsed = call.fs(|picture, memory| {
        let over = |id: &u64| memory.lease_left(*id, lease, picture.now).is_zero();
        picture.mounts_of(row.id).map(|mount| mount.id).filter(over).collect()
    })?;
    let until_purged = name.until_purged;
    call.fs_command(FsOp::Doom(state::FsDoom { name: row.name, lapsed, until_purged })).await
}

/// The objects of a file system that is being deleted are gone: its rows may go, too.
async fn purged(call: Call<'_>, name: &FsName) -> Result<FsAnswer, MdsError> {
    let row = match call.system(name) {
        Ok(row) => row,
        // The same was said before.
        Err(MdsError::NotFound { .. }) => return Ok(done()),
        Err(error) => return Err(error),
    };
    if !call.record(&row, false)?.emptied {
        let why = format!("metaservers still have something of file system {}", row.name);
        return Err(MdsError::Conflict { why });
    }
    call.fs_command(FsOp::Forget(state::FsForget { fs: row.id })).await
}

async fn set_keys(call: Call<'_>, op: FsSetKeys) -> Result<FsAnswer, MdsError> {
    check_keys(&op.access_key, &op.secret_key)?;
    let row = call.system(&FsName { name: op.name, ..FsName::default() })?;
    let nonce = call.shared.memory.with(call.term, |memory| memory.rng.random());
    let sealed = seal_secret(call.shared.sealing(), row.id, &op.access_key, &op.secret_key, nonce)?;
    let access_key = op.access_key;
    call.fs_command(FsOp::SealKeys(state::FsSealKeys { fs: row.id, access_key, sealed })).await
}

async fn mount(call: Call<'_>, op: FsMount) -> Result<FsAnswer, MdsError> {
    let FsAnswer::Grant(mut grant) = call.fs_command(FsOp::Mount(op)).await? else {
        unreachable!("a mount is answered with a grant");
    };
    let key = grant.mount.unwrap_or_default();
    call.touch_mount(key.mount);
    let row = call.system(&FsName { id: key.fs, ..FsName::default() })?;
    grant.lease_ms = times(&call.shared.config).mount_lease.as_millis() as u64;
    grant.file_system = Some(call.record(&row, true)?);
    grant.partitions = Some(call.fs(|picture, _| messages::partitions(picture, &row))?);
    Ok(FsAnswer::Grant(grant))
}

/// Keeps a mount alive, and tells it what has changed.
fn refresh(call: Call<'_>, op: &FsRefresh) -> Result<FsRefreshed, MdsError> {
    let key = op.mount.ok_or_else(|| MdsError::BadRequest { why: "which mount is not said".into() })?;
    query::active_mount(call.shared.rows(), &key)?;
    call.touch_mount(key.mount);
    let row = call.system(&FsName { id: key.fs, ..FsName::default() })?;
    let mut refreshed = FsRefreshed {
        lease_ms: times(&call.shared.config).mount_lease.as_millis() as u64,
        ..FsRefreshed::default()
    };
    if row.version != op.record_version {
        refreshed.file_system = Some(call.record(&row, true)?);
    }
    if row.map_version != op.map_version {
        refreshed.partitions = Some(call.fs(|picture, _| messages::partitions(picture, &row))?);
    }
    Ok(refreshed)
}

/// The mounts of one file system; of all when none is named.
fn mounts(call: Call<'_>, name: &FsName) -> Result<FsAnswer, MdsError> {
    let fs = match (name.name.as_str(), name.id) {
        ("", 0) => None,
        _ => Some(call.system(name)?.id),
    };
    let times = times(&call.shared.config);
    call.fs(|picture, memory| FsAnswer::Mounts(messages::mounts(picture, memory, &times, fs)))
}

async fn evict(call: Call<'_>, op: FsEvict) -> Result<FsAnswer, MdsError> {
    let row = query::mount_by_id(call.shared.rows(), op.mount)?;
    if row.ending {
        return Ok(done());
    }
    tracing::info!(fs = row.fs, mount = row.id, "an operator evicts a mount");
    call.end_mount(query::key_of(&row)).await
}

fn partitions(call: Call<'_>, op: FsGetPartitions) -> Result<FsPartitions, MdsError> {
    let row = call.system(&FsName { id: op.fs, ..FsName::default() })?;
    call.fs(|picture, _| messages::partitions(picture, &row))
}

async fn register(call: Call<'_>, op: MetaRegister) -> Result<FsAnswer, MdsError> {
    let answer = call.fs_command(FsOp::Register(op)).await?;
    let FsAnswer::Registered(mut registered) = answer else { return Ok(answer) };
    registered.heartbeat_interval_ms = call.shared.config.heartbeat_interval.0.as_millis() as u64;
    Ok(FsAnswer::Registered(registered))
}

async fn heartbeat(call: Call<'_>, op: MetaHeartbeat) -> Result<MetaOrders, MdsError> {
    let (shared, node) = (call.shared, op.node);
    let row = query::metaserver(shared.rows(), node).map_err(store_failed)?;
    let row = row.ok_or_else(|| MdsError::NotFound { what: format!("metaserver {node}") })?;
    if row.token != op.token {
        let why = format!("{node} has another token: two metaservers use one id");
        return Err(MdsError::Conflict { why });
    }
    if row.address != op.address {
        let moved = state::FsMetaserverMoved { node, address: op.address.clone() };
        call.fs_command(FsOp::Moved(moved)).await?;
    }
    let times = times(&shared.config);
    let now = Instant::now().into_std();
    shared.memory.with(call.term, |memory| memory.fs.hear(op.clone(), times.down_after, now));
    shared.fs_heard.send_replace(());
    call.fs(|picture, memory| {
        let orders = orders_for(&op, picture, memory, &times);
        let busy = !orders.is_empty() || !memory.running.is_empty() || picture.has_news();
        let usual = times.heartbeat_interval;
        let interval = if busy { usual.min(BUSY_INTERVAL) } else { usual };
        MetaOrders {
            orders,
            addresses: messages::addresses(picture),
            heartbeat_interval_ms: interval.as_millis() as u64,
            versions: messages::versions(picture, &op),
            no_space: messages::no_space(picture),
        }
    })
}

async fn remove_metaserver(call: Call<'_>, op: MetaRemove) -> Result<FsAnswer, MdsError> {
    let (used, others) = call.fs(|picture, _| {
        let used = picture.partitions.values().any(|row| row.members.contains(&op.node));
        let others = picture.metaservers.keys().filter(|&&node| node != op.node && picture.is_usable(node));
        (used, others.count())
    })?;
    if used && others < REPLICAS {
        return Err(MdsError::NotEnoughMetaservers { have: others as u32, need: REPLICAS as u32 });
    }
    call.fs_command(FsOp::RemoveMetaserver(op)).await
}
