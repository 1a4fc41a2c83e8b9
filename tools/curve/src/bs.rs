//! `curve bs`: volumes and directories.

mod holders;

use std::path::Path;

use curve_client::mds::{Entry, Holder, VolumeRecord};
use curve_telemetry::{say, say_error};
use curve_types::ByteSize;
use serde_json::{Value, json};

use crate::api::{Api, mds_failure};
use crate::cli::{BsCommand, DestroyArgs};
use crate::confirm::confirm;
use crate::failure::Failure;
use crate::output;

/// Runs one `curve bs` command.
pub async fn run(config: Option<&Path>, command: BsCommand) -> Result<(), Failure> {
    let api = Api::connect(config).await?;
    match command {
        BsCommand::Create { path, size, json } => create(&api, &path, size, json).await,
        BsCommand::Mkdir { path, json } => done(
            api.mds().make_directory(&path, false).await.map_err(|error| mds_failure(&error)),
            json,
            || (format!("created directory {path}"), json!({ "path": path })),
        ),
        BsCommand::Stat { path, json } => stat(&api, &path, json).await,
        BsCommand::Ls { path, json } => list(&api, &path, json).await,
        BsCommand::Rm { path, destroy, json } => remove(&api, &path, destroy, json).await,
        BsCommand::Mv { from, to, json } => {
            done(api.mds().rename(&from, &to).await.map_err(|error| mds_failure(&error)), json, || {
                (format!("renamed {from} to {to}"), json!({ "from": from, "to": to }))
            })
        }
        BsCommand::Resize { path, size, json } => {
            let volume = api.mds().resize(&path, size.0).await.map_err(|error| mds_failure(&error))?;
            done(Ok(()), json, || (format!("{path} has {size} now"), volume_json(&path, &volume, &[])))
        }
        BsCommand::Du { path, json } => usage(&api, &path, json).await,
        BsCommand::Holders { path, json } => holders::list(&api, &path, json).await,
        BsCommand::Fence { path, holder, destroy, json } => {
            holders::fence(&api, &path, holder.map(|holder| holder.0), destroy, json).await
        }
    }
}

fn done(
    result: Result<(), Failure>,
    json: bool,
    say: impl FnOnce() -> (String, Value),
) -> Result<(), Failure> {
    result?;
    let (text, value) = say();
    if json {
        output::json(&value)
    } else {
        say!("{text}")
    }
    Ok(())
}

async fn create(api: &Api, path: &str, size: ByteSize, json: bool) -> Result<(), Failure> {
    let created = api.mds().create_volume(path, size.0).await.map_err(|error| mds_failure(&error))?;
    if let Some(warning) = &created.warning {
        say_error!("warning: {warning}");
    }
    done(Ok(()), json, || {
        let text = format!("created {path}: {}, {size}", created.volume.id);
        (text, volume_json(path, &created.volume, &[]))
    })
}

async fn stat(api: &Api, path: &str, json: bool) -> Result<(), Failure> {
    let entry = api.mds().stat(path).await.map_err(|error| mds_failure(&error))?;
    if json {
        output::json(&entry_json(path, &entry));
        return Ok(());
    }
    let Some(volume) = &entry.volume else {
        say!("{path}: directory");
        return Ok(());
    };
    let allocated = u64::from(volume.segments_allocated) * volume.geometry.segment_bytes();
    say!("{path}: volume {}", volume.id);
    say!("  size       {} ({} bytes)", ByteSize(volume.size), volume.size);
    say!("  allocated  {} in {} segments", ByteSize(allocated), volume.segments_allocated);
    say!("  epoch      {}", volume.epoch.get());
    if entry.holders.is_empty() {
        say!("  open by    nobody");
    }
    for holder in &entry.holders {
        say!("  open by    {holder}, {}", holder.mode.name());
    }
    Ok(())
}

async fn list(api: &Api, path: &str, json: bool) -> Result<(), Failure> {
    let entries = api.mds().list(path).await.map_err(|error| mds_failure(&error))?;
    if json {
        let all: Vec<Value> =
            entries.iter().map(|entry| entry_json(&join(path, &entry.name), entry)).collect();
        output::json(&all);
        return Ok(());
    }
    let rows = entries.iter().map(|entry| match &entry.volume {
        Some(volume) => vec![
            entry.name.clone(),
            "volume".to_owned(),
            ByteSize(volume.size).to_string(),
            entry.holders.len().to_string(),
        ],
        None => vec![format!("{}/", entry.name), "directory".to_owned(), "-".to_owned(), "-".to_owned()],
    });
    output::table(&["NAME", "TYPE", "SIZE", "OPEN"], rows);
    Ok(())
}

async fn remove(api: &Api, path: &str, destroy: DestroyArgs, json: bool) -> Result<(), Failure> {
    let entry = api.mds().stat(path).await.map_err(|error| mds_failure(&error))?;
    let what = match &entry.volume {
        Some(volume) => {
            let allocated = u64::from(volume.segments_allocated) * volume.geometry.segment_bytes();
            let (size, allocated) = (ByteSize(volume.size), ByteSize(allocated));
            format!("removes volume {path}: {size}, of which {allocated} are allocated")
        }
        None => format!("removes directory {path}, which must be empty"),
    };
    if destroy.dry_run {
        return done(Ok(()), json, || {
            (format!("would: {what}"), json!({ "path": path, "dry_run": true, "would": what }))
        });
    }
    confirm(&what, path, destroy.yes)?;
    done(api.mds().delete(path).await.map_err(|error| mds_failure(&error)), json, || {
        (format!("removed {path}"), json!({ "path": path, "removed": true }))
    })
}

async fn usage(api: &Api, path: &str, json: bool) -> Result<(), Failure> {
    let usage = api.mds().disk_usage(path).await.map_err(|error| mds_failure(&error))?;
    if json {
        output::json(&json!({
            "path": path,
            "volumes": usage.volumes,
            "directories": usage.directories,
            "size": usage.size,
            "allocated": usage.allocated,
        }));
        return Ok(());
    }
    let row = vec![
        path.to_owned(),
        usage.volumes.to_string(),
        usage.directories.to_string(),
        ByteSize(usage.size).to_string(),
        ByteSize(usage.allocated).to_string(),
    ];
    output::table(&["PATH", "VOLUMES", "DIRECTORIES", "SIZE", "ALLOCATED"], [row]);
    Ok(())
}

fn join(directory: &str, name: &str) -> String {
    match name {
        "" => directory.to_owned(),
        name => format!("{}/{name}", directory.trim_end_matches('/')),
    }
}

fn entry_json(path: &str, entry: &Entry) -> Value {
    match &entry.volume {
        Some(volume) => volume_json(path, volume, &entry.holders),
        None => json!({ "path": path, "name": entry.name, "type": "directory" }),
    }
}

fn volume_json(path: &str, volume: &VolumeRecord, holders: &[Holder]) -> Value {
    let holders: Vec<Value> = holders.iter().map(holders::describe).collect();
    json!({
        "path": path,
        "name": path.rsplit('/').next(),
        "type": "volume",
        "id": volume.id.get(),
        "size": volume.size,
        "allocated": u64::from(volume.segments_allocated) * volume.geometry.segment_bytes(),
        "segments_allocated": volume.segments_allocated,
        "block_bytes": volume.geometry.block_bytes(),
        "chunk_bytes": volume.geometry.chunk_bytes(),
        "segment_bytes": volume.geometry.segment_bytes(),
        "epoch": volume.epoch.get(),
        "created_at_ms": volume.created_at_ms,
        "holders": holders,
    })
}
