//! Shows a playground's members.

use std::path::Path;

use curve_telemetry::say;
use serde::Serialize;

use crate::failure::Failure;
use crate::output;
use crate::playground::configs::{S3_ACCESS_KEY, S3_BUCKET};
use crate::playground::layout::Layout;
use crate::playground::plan::{Member, Plan, Role};
use crate::playground::process::{self, State};

/// One member in `status --json`.
#[derive(Serialize)]
struct MemberStatus {
    name: String,
    role: Role,
    state: State,
    pid: Option<i32>,
    address: String,
    control_address: Option<String>,
    http_address: Option<String>,
    zone: Option<String>,
    uris: Vec<String>,
    log: String,
    data: String,
}

/// The whole of `status --json`.
#[derive(Serialize)]
struct PlaygroundStatus {
    dir: String,
    config: String,
    cluster: String,
    members: Vec<MemberStatus>,
}

/// `curve playground status`.
pub fn status(dir: &Path, json: bool) -> Result<(), Failure> {
    let layout = Layout::existing(dir)?;
    let plan = Plan::load(&layout)?;
    let members: Vec<MemberStatus> =
        plan.members.iter().map(|member| member_status(&layout, member)).collect();
    if json {
        output::json(&PlaygroundStatus {
            dir: layout.root().display().to_string(),
            config: layout.client_config().display().to_string(),
            cluster: plan.cluster,
            members,
        });
        return Ok(());
    }
    let rows = members.iter().map(|member| {
        let pid = member.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        vec![
            member.name.clone(),
            state_name(member.state).to_owned(),
            pid,
            member.address.clone(),
            member.log.clone(),
        ]
    });
    output::table(&["NAME", "STATE", "PID", "ADDRESS", "LOG"], rows);
    Ok(())
}

/// What is printed after a start.
pub(super) fn print_started(layout: &Layout, plan: &Plan, already: bool) {
    let (mds, chunkservers) = (plan.of(Role::Mds).count(), plan.of(Role::Chunkserver).count());
    let metaservers = match plan.of(Role::Metaserver).count() {
        0 => String::new(),
        count => format!(", {count} metaservers, an object store"),
    };
    let verb = if already { "already runs" } else { "runs" };
    let config = layout.client_config();
    say!(
        "playground {verb} in {}: {mds} MDSs, {chunkservers} chunkservers{metaservers}, health OK",
        layout.root().display()
    );
    say!("client configuration: {}", config.display());
    say!("try: curve --config {} bs create /demo --size 4GiB", config.display());
    if let Some(store) = plan.of(Role::S3).next() {
        say!(
            "     curve --config {} fs create demo --backend s3 --endpoint http://{} --bucket {S3_BUCKET} \
             --access-key {S3_ACCESS_KEY} --secret-key-file {}",
            config.display(),
            store.data_address(),
            layout.s3_secret().display()
        );
    }
}

fn member_status(layout: &Layout, member: &Member) -> MemberStatus {
    let (state, pid) = process::state(layout, member.name);
    let some = |port: u16, address: String| (port != 0).then_some(address);
    MemberStatus {
        name: member.name.to_string(),
        role: member.name.role,
        state,
        pid,
        address: match member.name.role {
            Role::Nbd => format!("unix:{}", member.socket),
            _ => member.data_address(),
        },
        control_address: some(member.control_port, member.control_address()),
        http_address: some(member.http_port, member.http_address()),
        zone: (!member.zone.is_empty()).then(|| member.zone.clone()),
        uris: member.paths.iter().map(|path| super::nbd::uri(path, &member.socket)).collect(),
        log: layout.log_file(member.name).display().to_string(),
        data: layout.data_dir(member.name).display().to_string(),
    }
}

const fn state_name(state: State) -> &'static str {
    match state {
        State::Running => "running",
        State::Paused => "paused",
        State::Stopped => "stopped",
        State::Crashed => "crashed",
    }
}
