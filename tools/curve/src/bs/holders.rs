//! `curve bs holders` and `curve bs fence`: who has a volume open, and shutting them out.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use curve_client::mds::Holder;
use curve_telemetry::say;
use curve_types::{ClientId, HumanDuration};
use serde_json::{Value, json};

use super::done;
use crate::api::{Api, mds_failure};
use crate::cli::DestroyArgs;
use crate::confirm::confirm;
use crate::failure::{Code, Failure};
use crate::output;

/// How long copysets are waited for. One without a majority refuses nobody until it has one again.
const FENCE_PATIENCE: Duration = Duration::from_secs(30);

async fn holders_of(api: &Api, path: &str) -> Result<Vec<Holder>, Failure> {
    let entry = api.mds().stat(path).await.map_err(|error| mds_failure(&error))?;
    match entry.volume {
        Some(_) => Ok(entry.holders),
        None => Err(Failure::new(Code::Usage, format!("{path} is a directory, which nobody holds"))
            .try_this(format!("curve bs ls {path}"))),
    }
}

/// Lists who has a volume open.
pub async fn list(api: &Api, path: &str, json: bool) -> Result<(), Failure> {
    let holders = holders_of(api, path).await?;
    if json {
        output::json(&holders.iter().map(describe).collect::<Vec<Value>>());
        return Ok(());
    }
    if holders.is_empty() {
        say!("nobody holds {path}");
        return Ok(());
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let rows = holders.iter().map(|holder| {
        let since = now.saturating_sub(Duration::from_millis(holder.opened_at_ms));
        let lease = match holder.lapsed {
            true => "lapsed".to_owned(),
            false => seconds(holder.lease_left),
        };
        vec![
            holder.client.get().to_string(),
            holder.host.clone(),
            holder.process.to_string(),
            holder.mode.name().to_owned(),
            holder.epoch.get().to_string(),
            seconds(since),
            lease,
        ]
    });
    output::table(&["HOLDER", "HOST", "PROCESS", "MODE", "EPOCH", "HELD FOR", "LEASE LEFT"], rows);
    Ok(())
}

fn seconds(duration: Duration) -> String {
    HumanDuration(Duration::from_secs(duration.as_secs())).to_string()
}

/// Shuts holders out: the one that is named, or all. Returns once every copyset refuses them.
pub async fn fence(
    api: &Api,
    path: &str,
    holder: Option<ClientId>,
    destroy: DestroyArgs,
    json: bool,
) -> Result<(), Failure> {
    let holders = holders_of(api, path).await?;
    let chosen: Vec<&Holder> =
        holders.iter().filter(|held| holder.is_none_or(|wanted| wanted == held.client)).collect();
    let who = match (chosen.as_slice(), holder) {
        ([], Some(holder)) => format!("nobody: {} does not hold {path} any more", holder.get()),
        ([], None) => format!("nobody: {path} is not open"),
        (some, _) => some.iter().map(|holder| holder.to_string()).collect::<Vec<_>>().join("; "),
    };
    let fenced: Vec<Value> = chosen.iter().map(|holder| describe(holder)).collect();
    if destroy.dry_run {
        return done(Ok(()), json, || {
            (format!("would: shut out {who}"), json!({ "path": path, "dry_run": true, "fenced": fenced }))
        });
    }
    if !chosen.is_empty() {
        confirm(&format!("shuts out {who}; their I/O fails from then on"), path, destroy.yes)?;
    }
    let clients: Vec<ClientId> = chosen.iter().map(|holder| holder.client).collect();
    let broken = api.mds().break_sessions(path, &clients, FENCE_PATIENCE).await.map_err(|error| {
        mds_failure(&error).try_this(
            "see `curve cluster status` for copysets without a majority, and give the same command again: it goes on where it stopped",
        )
    });
    done(broken, json, || (format!("shut out {who}"), json!({ "path": path, "fenced": fenced })))
}

/// A holder as JSON.
pub fn describe(holder: &Holder) -> Value {
    json!({
        "client": holder.client.get().to_string(),
        "host": holder.host,
        "process": holder.process,
        "mode": holder.mode.name(),
        "epoch": holder.epoch.get(),
        "opened_at_ms": holder.opened_at_ms,
        "lease_left_ms": holder.lease_left.as_millis() as u64,
        "lapsed": holder.lapsed,
    })
}
