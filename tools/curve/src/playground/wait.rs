//! Waits until members answer, serve, or are healthy together; on failure says which log has the reason.

use std::path::Path;
use std::time::Duration;

use curve_telemetry::{say, say_error};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::api;
use crate::failure::{Code, Failure};
use crate::playground::layout::Layout;
use crate::playground::plan::{Member, MemberName, Plan, Role};
use crate::playground::probe;
use crate::playground::process::{self, State};
use crate::progress::Progress;

/// Long enough to show a panic's message above its backtrace.
const LOG_TAIL_LINES: usize = 80;
const POLL_EVERY: Duration = Duration::from_millis(50);

/// What is still missing.
struct Missing {
    /// Said to the operator.
    what: String,
    /// Whose log has the reason.
    member: Option<MemberName>,
}

/// `curve playground wait`.
pub async fn wait(dir: &Path, timeout: Duration) -> Result<(), Failure> {
    let layout = Layout::existing(dir)?;
    let plan = Plan::load(&layout)?;
    until_healthy(&layout, &plan, timeout).await?;
    say!("healthy");
    Ok(())
}

/// Waits until every server answers and the cluster says that its health is OK.
pub(super) async fn until_healthy(layout: &Layout, plan: &Plan, limit: Duration) -> Result<(), Failure> {
    let servers: Vec<Member> = plan.servers().cloned().collect();
    poll(layout, limit, async || match first_silent(layout, &servers).await? {
        Some(missing) => Ok(Some(missing)),
        None => Ok(unhealthy(layout, plan).await),
    })
    .await
}

/// Waits until each of `members` answers.
pub(super) async fn until_answering(
    layout: &Layout,
    members: &[Member],
    limit: Duration,
) -> Result<(), Failure> {
    let servers: Vec<Member> =
        members.iter().filter(|member| member.name.role.is_server()).cloned().collect();
    poll(layout, limit, async || first_silent(layout, &servers).await).await
}

/// Waits until an NBD server has announced every export.
pub(super) async fn until_serving(layout: &Layout, member: &Member, limit: Duration) -> Result<(), Failure> {
    poll(layout, limit, async || {
        check_alive(layout, member.name)?;
        let log = layout.log_tail(member.name, usize::MAX);
        // The log of an earlier run ends where this one begins; its socket was removed before the start.
        let ready = log.lines().filter(|line| line.starts_with("ready ")).count() >= member.paths.len();
        let listening = std::os::unix::net::UnixStream::connect(&member.socket).is_ok();
        let what = format!("{} has not announced its exports", member.name);
        Ok((!(ready && listening)).then_some(Missing { what, member: Some(member.name) }))
    })
    .await
}

async fn poll(
    layout: &Layout,
    limit: Duration,
    check: impl AsyncFn() -> Result<Option<Missing>, Failure>,
) -> Result<(), Failure> {
    let deadline = Instant::now() + limit;
    let mut ticks = interval(POLL_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut progress = Progress::start();
    loop {
        ticks.tick().await;
        let Some(missing) = check().await? else { return Ok(()) };
        progress.say(&missing.what);
        if Instant::now() >= deadline {
            return Err(late(layout, limit, &missing));
        }
    }
}

fn late(layout: &Layout, limit: Duration, missing: &Missing) -> Failure {
    let mut failure = Failure::new(Code::TimedOut, format!("not healthy within {} s", limit.as_secs()))
        .because(&missing.what);
    if let Some(name) = missing.member {
        print_log(layout, name);
        failure = failure.try_this(format!("read {}", layout.log_file(name).display()));
    }
    failure
}

/// The first server that does not answer; one whose process is gone is an error, since it will not come back.
async fn first_silent(layout: &Layout, servers: &[Member]) -> Result<Option<Missing>, Failure> {
    for member in servers {
        check_alive(layout, member.name)?;
    }
    for member in servers {
        if probe::get(&member.http_address(), "/healthz").await.is_none() {
            let what = format!("{} does not answer on {}", member.name, member.http_address());
            return Ok(Some(Missing { what, member: Some(member.name) }));
        }
    }
    Ok(None)
}

fn check_alive(layout: &Layout, name: MemberName) -> Result<(), Failure> {
    let reason = match process::state(layout, name).0 {
        State::Running => return Ok(()),
        State::Paused => "is paused",
        State::Stopped => "was stopped",
        State::Crashed => "has ended",
    };
    print_log(layout, name);
    Err(Failure::new(Code::Unhealthy, format!("{name} {reason}"))
        .because("its log ends as shown above")
        .try_this(format!("read {}; then start or restart again", layout.log_file(name).display())))
}

async fn unhealthy(layout: &Layout, plan: &Plan) -> Option<Missing> {
    let chunkservers = plan.of(Role::Chunkserver).count();
    let metaservers = plan.of(Role::Metaserver).count();
    let what = match api::health(&layout.client_config()).await {
        Err(failure) => failure.message,
        Ok(health) if !health.is_ok() => health.first_problem(),
        Ok(health) if health.chunkservers_online < chunkservers => {
            format!("{} of {chunkservers} chunkservers are registered", health.chunkservers_online)
        }
        // Copysets need three chunkservers in three zones; they are made soon after the last has registered.
        Ok(health)
            if chunkservers >= 3 && (health.copysets == 0 || health.copysets_whole < health.copysets) =>
        {
            format!("{} of {} copysets are whole", health.copysets_whole, health.copysets)
        }
        Ok(_) if metaservers == 0 => return None,
        Ok(_) => match api::metaservers_up(&layout.client_config()).await {
            Ok(up) if up >= metaservers => return None,
            Ok(up) => format!("{up} of {metaservers} metaservers are registered"),
            Err(failure) => failure.message,
        },
    };
    Some(Missing { what, member: plan.of(Role::Mds).next().map(|member| member.name) })
}

fn print_log(layout: &Layout, name: MemberName) {
    say_error!("--- the end of {} ---", layout.log_file(name).display());
    say_error!("{}", layout.log_tail(name, LOG_TAIL_LINES).trim_end());
    say_error!("---");
}
