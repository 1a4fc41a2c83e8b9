//! `curve fs`: file systems and their mounts.

mod attributes;
mod doctor;
mod du;
mod info;
mod listings;
mod stats;
mod store;

use std::path::Path;
use std::time::Duration;

use curve_client::mds::{MdsApi, MdsError};
use curve_proto::pb::fs::fs_request::Op;
use curve_proto::pb::fs::fs_response::Result as Answer;
use curve_proto::pb::fs::{
    FsCreate, FsEmpty, FsEvict, FsGetPartitions, FsMountInfo, FsName, FsPartitions, FsRecord, FsSetKeys,
    S3Backend,
};
use curve_telemetry::say;
use curve_types::HumanDuration;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::api::{Api, mds_failure};
use crate::cli::DestroyArgs;
use crate::cli::fs::{CreateArgs, FsCommand, KeyArgs, SystemCommand};
use crate::cli::mounted::MountedCommand;
use crate::confirm::confirm;
use crate::failure::{Code, Failure};
use crate::output;
use crate::progress::Progress;

pub(crate) use doctor::{CODES as FINDINGS, meaning as finding_meaning};

const ASK_EVERY: Duration = Duration::from_millis(200);
/// How long the MDS is asked to forget a file system whose objects are deleted.
const PURGED_PATIENCE: Duration = Duration::from_secs(30);

/// Runs one `curve fs` command.
pub async fn run(config: Option<&Path>, command: FsCommand) -> Result<(), Failure> {
    let command = match command {
        FsCommand::Mounted(command) => return of_mount(config, command).await,
        FsCommand::Cluster(command) => command,
    };
    let api = Api::connect(config).await?;
    let mds = api.mds();
    match command {
        SystemCommand::Create(args) => create(mds, args).await,
        SystemCommand::Ls { json } => {
            listings::file_systems(&list(mds).await?, json);
            Ok(())
        }
        SystemCommand::Stat { name, json } => {
            let record = get(mds, &name, false).await.map_err(|error| mds_failure(&error))?;
            let partitions = partitions(mds, record.id).await?;
            listings::file_system(&record, &partitions, json);
            Ok(())
        }
        SystemCommand::Rm { name, keep_objects, timeout, destroy, json } => {
            remove(mds, &name, keep_objects, timeout, destroy, json).await
        }
        SystemCommand::Mounts { name, json } => {
            let (mounts, systems) = (mounts(mds, name.as_deref()).await?, list(mds).await?);
            listings::mounts(&mounts, &systems, json);
            Ok(())
        }
        SystemCommand::Evict { mount, timeout, destroy, json } => {
            evict(mds, mount.0, timeout, destroy, json).await
        }
        SystemCommand::SetKeys { name, keys, json } => set_keys(mds, name, keys, json).await,
    }
}

/// Commands that ask a mount on this host: they need neither configuration nor MDS.
async fn of_mount(config: Option<&Path>, command: MountedCommand) -> Result<(), Failure> {
    match command {
        MountedCommand::Du(args) => du::run(&args),
        MountedCommand::Info(args) => info::run(&args),
        MountedCommand::Stats(args) => stats::run(&args).await,
        MountedCommand::Doctor(args) => doctor::run(config, &args).await,
    }
}

fn done(json: bool, text: &str, value: Value) {
    if json { output::json(&value) } else { say!("{text}") }
}

/// The failure for an answer to another question.
fn confused() -> MdsError {
    MdsError::BadRequest { why: "the MDS answered another question".into() }
}

async fn get(mds: &MdsApi, name: &str, with_secret: bool) -> Result<FsRecord, MdsError> {
    match mds.fs(Op::Get(FsName { name: name.to_owned(), with_secret, ..FsName::default() })).await? {
        Answer::FileSystem(record) => Ok(record),
        _ => Err(confused()),
    }
}

async fn list(mds: &MdsApi) -> Result<Vec<FsRecord>, Failure> {
    match mds.fs(Op::List(FsEmpty {})).await {
        Ok(Answer::FileSystems(records)) => Ok(records.file_systems),
        other => Err(mds_failure(&other.err().unwrap_or_else(confused))),
    }
}

async fn partitions(mds: &MdsApi, fs: u32) -> Result<FsPartitions, Failure> {
    match mds.fs(Op::Partitions(FsGetPartitions { fs })).await {
        Ok(Answer::Partitions(partitions)) => Ok(partitions),
        other => Err(mds_failure(&other.err().unwrap_or_else(confused))),
    }
}

async fn mounts(mds: &MdsApi, name: Option<&str>) -> Result<Vec<FsMountInfo>, Failure> {
    let name = FsName { name: name.unwrap_or_default().to_owned(), ..FsName::default() };
    match mds.fs(Op::Mounts(name)).await {
        Ok(Answer::Mounts(mounts)) => Ok(mounts.mounts),
        other => Err(mds_failure(&other.err().unwrap_or_else(confused))),
    }
}

async fn create(mds: &MdsApi, args: CreateArgs) -> Result<(), Failure> {
    let secret = store::secret(&args.keys)?;
    let s3 = S3Backend {
        endpoint: args.endpoint,
        region: args.region,
        buckets: args.bucket,
        access_key: args.keys.access_key,
        secret_key: secret.into(),
        object_bytes: u32::try_from(args.object_size.0).unwrap_or(u32::MAX),
    };
    // Before the store is written to: a name that is taken, or a mistake in the arguments.
    match get(mds, &args.name, false).await {
        Ok(record) if record.deleting => {
            let failure = Failure::new(Code::Conflict, format!("file system {} is being deleted", args.name));
            return Err(failure
                .try_this(format!("`curve fs rm {}` goes on with it; then its name is free", args.name)));
        }
        Ok(_) => {
            let taken = MdsError::Exists { path: format!("file system {}", args.name) };
            return Err(mds_failure(&taken).try_this("choose another name; `curve fs ls` lists what exists"));
        }
        Err(MdsError::NotFound { .. }) => {}
        Err(error) => return Err(mds_failure(&error)),
    }
    store::check(&s3).await?;
    let create = FsCreate {
        name: args.name,
        s3: Some(s3),
        partitions: args.partitions.unwrap_or(0),
        root_uid: args.uid,
        root_gid: args.gid,
        root_mode: args.mode,
    };
    let created = match mds.fs_until_done(Op::Create(create), args.timeout.0).await {
        Ok(Answer::FileSystem(record)) => record,
        Err(error @ MdsError::BadRequest { .. }) => {
            return Err(mds_failure(&error).try_this("correct that; --help has examples"));
        }
        other => return Err(mds_failure(&other.err().unwrap_or_else(confused))),
    };
    let s3 = created.s3.clone().unwrap_or_default();
    let text = format!(
        "created file system {}: {} partitions, data in {} at {}\nmount it: curve-fuse mount {} DIR",
        created.name,
        created.partitions,
        s3.buckets.join(", "),
        s3.endpoint,
        created.name
    );
    done(args.json, &text, listings::record_json(&created));
    Ok(())
}

async fn remove(
    mds: &MdsApi,
    name: &str,
    keep_objects: bool,
    timeout: HumanDuration,
    destroy: DestroyArgs,
    json: bool,
) -> Result<(), Failure> {
    let record =
        get(mds, name, !keep_objects && !destroy.dry_run).await.map_err(|error| mds_failure(&error))?;
    let (usage, s3) = (record.usage.unwrap_or_default(), record.s3.clone().unwrap_or_default());
    let fate = if keep_objects { "stay in" } else { "are deleted from" };
    let what = format!(
        "removes file system {name}: {} files and {} directories; its objects {fate} {} at {}",
        usage.files,
        usage.directories,
        s3.buckets.join(", "),
        s3.endpoint
    );
    if destroy.dry_run {
        let value = json!({ "name": name, "id": record.id, "dry_run": true, "would": what });
        done(json, &format!("would: {what}"), value);
        return Ok(());
    }
    confirm(&what, name, destroy.yes)?;
    // The record stays until the objects are deleted: whoever asks again goes on where this was interrupted.
    let delete = FsName { id: record.id, until_purged: !keep_objects, ..FsName::default() };
    let until = Instant::now() + timeout.0;
    mds.fs_until_done(Op::Delete(delete), timeout.0).await.map_err(|error| mds_failure(&error))?;
    let mut progress = Progress::start();
    progress.say("metaservers drop what they have of it");
    wait_until_emptied(mds, record.id, keep_objects, until).await?;
    let deleted = if keep_objects { 0 } else { purge(mds, name, &record, &mut progress).await? };
    drop(progress);
    let value = json!({ "name": name, "id": record.id, "removed": true, "objects_deleted": deleted });
    done(json, &format!("removed file system {name}; {deleted} objects deleted"), value);
    Ok(())
}

/// Deletes the objects of a file system that nobody uses any more, and then its record.
async fn purge(mds: &MdsApi, name: &str, record: &FsRecord, progress: &mut Progress) -> Result<u64, Failure> {
    let s3 = record.s3.clone().unwrap_or_default();
    let deleted = store::purge(name, record.id, &s3, progress).await?;
    let purged = FsName { id: record.id, ..FsName::default() };
    mds.fs_until_done(Op::Purged(purged), PURGED_PATIENCE).await.map_err(|error| {
        let failure = mds_failure(&error);
        failure.try_this(format!(
            "`curve fs rm {name}` again: its objects are deleted, and its name is not free yet"
        ))
    })?;
    Ok(deleted)
}

/// Waits until no metaserver has anything of it, and, `forgotten`, until the MDS has not either.
async fn wait_until_emptied(mds: &MdsApi, id: u32, forgotten: bool, until: Instant) -> Result<(), Failure> {
    loop {
        match mds.fs(Op::Get(FsName { id, ..FsName::default() })).await {
            Err(MdsError::NotFound { .. }) => return Ok(()),
            Ok(Answer::FileSystem(record)) if record.emptied && !forgotten => return Ok(()),
            Err(error) if !error.is_transient() => return Err(mds_failure(&error)),
            Ok(_) | Err(_) => {}
        }
        if Instant::now() >= until {
            return Err(Failure::new(Code::TimedOut, "metaservers still hold a part of the file system")
                .because("it is being deleted, and one of them does not answer")
                .try_this("`curve cluster metaservers` shows which; give the same command again to go on"));
        }
        sleep(ASK_EVERY).await;
    }
}

async fn evict(
    mds: &MdsApi,
    id: u64,
    timeout: HumanDuration,
    destroy: DestroyArgs,
    json: bool,
) -> Result<(), Failure> {
    let name = format!("mount-{id:x}");
    let is_it = |mount: &FsMountInfo| mount.key.is_some_and(|key| key.mount == id);
    let found = mounts(mds, None).await?.into_iter().find(is_it);
    let found = found.ok_or_else(|| mds_failure(&MdsError::NotFound { what: name.clone() }))?;
    let what = format!("ends {name}: {} on {}, process {}", found.directory, found.host, found.process);
    if destroy.dry_run {
        let value = json!({ "mount": name, "dry_run": true, "would": what });
        done(json, &format!("would: {what}"), value);
        return Ok(());
    }
    confirm(&what, &name, destroy.yes)?;
    match mds.fs(Op::Evict(FsEvict { mount: id })).await {
        // It has gone by itself meanwhile.
        Ok(_) | Err(MdsError::NotFound { .. }) => {}
        Err(error) => return Err(mds_failure(&error)),
    }
    let mut progress = Progress::start();
    progress.say("partitions shut it out");
    let until = Instant::now() + timeout.0;
    while mounts(mds, None).await?.iter().any(is_it) {
        if Instant::now() >= until {
            return Err(Failure::new(
                Code::TimedOut,
                format!("{name} has ended, but is not shut out everywhere yet"),
            )
            .because("a partition has no leader, so it cannot refuse anybody")
            .try_this("`curve fs stat` shows the partitions; it ends by itself when they have a majority"));
        }
        sleep(ASK_EVERY).await;
    }
    drop(progress);
    done(json, &format!("{name} is shut out"), json!({ "mount": name, "evicted": true }));
    Ok(())
}

async fn set_keys(mds: &MdsApi, name: String, keys: KeyArgs, json: bool) -> Result<(), Failure> {
    let secret_key = store::secret(&keys)?;
    let record = get(mds, &name, false).await.map_err(|error| mds_failure(&error))?;
    let access_key = keys.access_key;
    let s3 = S3Backend {
        access_key: access_key.clone(),
        secret_key: secret_key.clone().into(),
        ..record.s3.unwrap_or_default()
    };
    store::check(&s3).await?;
    let set = FsSetKeys { name: name.clone(), access_key: access_key.clone(), secret_key: secret_key.into() };
    mds.fs(Op::SetKeys(set)).await.map_err(|error| mds_failure(&error))?;
    let text =
        format!("{name} uses access key {access_key}; mounts and metaservers take it over by themselves");
    done(json, &text, json!({ "name": name, "access_key": access_key }));
    Ok(())
}
