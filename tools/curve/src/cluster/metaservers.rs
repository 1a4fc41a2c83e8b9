//! `curve cluster metaservers` and `curve cluster remove-metaserver`.

use curve_client::mds::MdsError;
use curve_proto::pb::fs::fs_request::Op;
use curve_proto::pb::fs::fs_response::Result as Answer;
use curve_proto::pb::fs::{FsEmpty, MetaRemove, Metaserver, MetaserverState};
use curve_telemetry::say;
use curve_types::ByteSize;
use serde_json::{Value, json};

use crate::api::{Api, mds_failure};
use crate::cli::DestroyArgs;
use crate::confirm::confirm;
use crate::failure::{Code, Failure};
use crate::output;

async fn metaservers(api: &Api) -> Result<Vec<Metaserver>, Failure> {
    match api.mds().fs(Op::Metaservers(FsEmpty {})).await {
        Ok(Answer::Metaservers(listed)) => Ok(listed.metaservers),
        Ok(_) => {
            let error = MdsError::BadRequest { why: "the MDS answered another question".into() };
            Err(mds_failure(&error))
        }
        Err(error) => Err(mds_failure(&error)),
    }
}

/// Lists them.
pub(super) async fn list(api: &Api, json: bool) -> Result<(), Failure> {
    let metaservers = metaservers(api).await?;
    if json {
        output::json(&metaservers.iter().map(metaserver_json).collect::<Vec<_>>());
        return Ok(());
    }
    let rows = metaservers.iter().map(|metaserver| {
        vec![
            metaserver.node.to_string(),
            state_name(metaserver.state()).to_owned(),
            metaserver.address.clone(),
            metaserver.zone.clone(),
            format!("{}/{}", ByteSize(metaserver.free_bytes), ByteSize(metaserver.total_bytes)),
            metaserver.partitions.to_string(),
            metaserver.leaders.to_string(),
        ]
    });
    output::table(&["ID", "STATE", "ADDRESS", "ZONE", "FREE/TOTAL", "PARTITIONS", "LEADERS"], rows);
    Ok(())
}

/// Takes one out of service.
pub(super) async fn remove(api: &Api, node: u64, destroy: DestroyArgs) -> Result<(), Failure> {
    let found = metaservers(api).await?.into_iter().find(|metaserver| metaserver.node == node);
    let found = found.ok_or_else(|| {
        Failure::new(Code::NotFound, format!("there is no metaserver {node}"))
            .try_this("`curve cluster metaservers` lists them")
    })?;
    let what = format!(
        "moves {} partitions away from metaserver {node} at {}, then forgets it",
        found.partitions, found.address
    );
    if destroy.dry_run {
        say!("would: {what}");
        return Ok(());
    }
    confirm(&what, &node.to_string(), destroy.yes)?;
    let removed = api.mds().fs(Op::RemoveMetaserver(MetaRemove { node })).await;
    removed.map_err(|error| mds_failure(&error))?;
    say!("metaserver {node} is being removed; `curve cluster metaservers` shows the progress");
    Ok(())
}

fn metaserver_json(metaserver: &Metaserver) -> Value {
    json!({
        "id": metaserver.node,
        "state": state_name(metaserver.state()),
        "address": metaserver.address,
        "zone": metaserver.zone,
        "bytes": { "total": metaserver.total_bytes, "free": metaserver.free_bytes },
        "partitions": metaserver.partitions,
        "leaders": metaserver.leaders,
        "heartbeat_age_ms": metaserver.heartbeat_age_ms,
    })
}

const fn state_name(state: MetaserverState) -> &'static str {
    match state {
        MetaserverState::MetaserverUp => "up",
        MetaserverState::MetaserverDown => "down",
        MetaserverState::MetaserverDead => "dead",
        MetaserverState::MetaserverLeaving => "leaving",
    }
}
