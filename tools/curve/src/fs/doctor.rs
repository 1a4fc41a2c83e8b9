//! `curve fs doctor`: tries what a mount or a file system depends on.
//!
//! Of a mount its own process does it and answers as an attribute (`curve-fuse`, `inspect`): it alone knows what it can reach. Here is
//! what has to be said when it does not answer. Of a file system this command does it itself, as a mount here would.

mod codes;
mod system;

use std::path::{Path, PathBuf};
use std::time::Duration;

use curve_telemetry::say;
use curve_telemetry::{HealthItem, HealthLevel, HealthReport};
use rustix::io::Errno;
use serde_json::json;

use super::attributes::{self, Lines};
use crate::cli::mounted::DoctorArgs;
use crate::failure::{Code, Failure};
use crate::output;

pub(crate) use codes::{CODES, meaning};

/// How long a mount may take: its own steps end within 15 s.
const HEALTH_WITHIN: Duration = Duration::from_secs(25);
/// What it says without asking anybody.
const MOUNT_WITHIN: Duration = Duration::from_secs(5);

/// Tries, tells, and fails if something does not work.
pub(super) async fn run(config: Option<&Path>, args: &DoctorArgs) -> Result<(), Failure> {
    let is_dir = args.what.contains('/') || matches!(args.what.as_str(), "." | "..");
    let (subject, report) =
        if is_dir { of_mount(Path::new(&args.what))? } else { system::of(config, &args.what).await? };
    tell(&subject, &report, args.json);
    match report.level {
        HealthLevel::Err => Err(Failure::new(Code::Unhealthy, format!("{subject}: something does not work"))
            .try_this("follow the remedies above; `curve explain CODE` says more")),
        HealthLevel::Ok | HealthLevel::Warn => Ok(()),
    }
}

fn tell(subject: &str, report: &HealthReport, json: bool) {
    if json {
        output::json(&json!({ "subject": subject, "level": report.level, "items": report.items }));
        return;
    }
    say!("{subject}: {}", report.level);
    for item in &report.items {
        say!("  {:<4} {:<22} {}", item.level, item.code, item.summary);
        if item.level != HealthLevel::Ok {
            say!("       cause:  {}", item.cause);
            say!("       remedy: {}", item.remedy);
        }
    }
}

/// A finding that is not good.
fn finding(
    level: HealthLevel,
    code: &str,
    summary: String,
    cause: impl Into<String>,
    remedy: impl Into<String>,
) -> HealthItem {
    HealthItem { code: code.to_owned(), level, summary, cause: cause.into(), remedy: remedy.into() }
}

/// A good one.
fn good(code: &str, summary: String) -> HealthItem {
    finding(HealthLevel::Ok, code, summary, "", "")
}

fn of_mount(dir: &Path) -> Result<(String, HealthReport), Failure> {
    let point = point_of(dir).ok_or_else(|| attributes::failure(dir, Errno::OPNOTSUPP))?;
    let shown = point.display().to_string();
    let identity = match attributes::get_within(&point, "system.curve.mount", MOUNT_WITHIN) {
        Some(Ok(text)) => Lines::parse(&text),
        other => return Ok((shown.clone(), HealthReport::new(vec![silent(&shown, other)]))),
    };
    let subject = format!(
        "{} at {shown} ({}, process {}, version {})",
        identity.text("file_system"),
        identity.text("mount"),
        identity.text("process"),
        identity.text("version")
    );
    let answer = attributes::get_within(&point, "system.curve.health", HEALTH_WITHIN);
    let mut items = match answer {
        Some(Ok(text)) => match serde_json::from_str::<HealthReport>(&text) {
            Ok(report) => report.items,
            Err(error) => return Err(attributes::confused(&point, &error.to_string())),
        },
        other => vec![silent(&shown, other)],
    };
    items.extend(version(identity.text("version"), env!("CARGO_PKG_VERSION")));
    Ok((subject, HealthReport::new(items)))
}

/// Where the mount is: by the path's text, or by what it leads to, as long as that can be found out.
fn point_of(dir: &Path) -> Option<PathBuf> {
    attributes::mount_point(dir).or_else(|| attributes::mount_point(&dir.canonicalize().ok()?))
}

/// What a mount that does not say how it is means.
fn silent(dir: &str, answer: Option<Result<String, Errno>>) -> HealthItem {
    match answer {
        None => finding(
            HealthLevel::Err,
            "MOUNT_HUNG",
            format!("the process of the mount at {dir} does not answer"),
            "it is stopped (SIGSTOP, a debugger), has no processor, or its machine has no memory left",
            "see its state (`ps`) and its log; what waits for it goes on when it does. To give it up: kill it, then `curve-fuse umount`",
        ),
        Some(Err(Errno::NOTCONN)) => finding(
            HealthLevel::Err,
            "MOUNT_DEAD",
            format!("the process of the mount at {dir} is gone"),
            "it was killed (out of memory?), or has failed; its log says more",
            format!("run `curve-fuse umount {dir}`, and mount it again; what was `fsync`ed is there"),
        ),
        Some(other) => finding(
            HealthLevel::Err,
            "VERSION_MISMATCH",
            format!("the mount at {dir} does not say how it is"),
            other.err().map_or_else(|| "no answer".to_owned(), |error| error.to_string()),
            "its curve-fuse is older than this command: mount it again with the new one",
        ),
    }
}

fn version(mount: &str, own: &str) -> Option<HealthItem> {
    (mount != own).then(|| {
        finding(
            HealthLevel::Warn,
            "VERSION_MISMATCH",
            format!("the mount runs version {mount}, this command is version {own}"),
            "one of them was upgraded and the other was not, or not started anew",
            "restart the mount when it suits",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_that_does_not_answer_has_a_code() {
        for (answer, code) in [
            (None, "MOUNT_HUNG"),
            (Some(Err(Errno::NOTCONN)), "MOUNT_DEAD"),
            (Some(Err(Errno::NODATA)), "VERSION_MISMATCH"),
        ] {
            let item = silent("/mnt", answer);
            assert_eq!((item.code.as_str(), item.level), (code, HealthLevel::Err));
            assert!(meaning(code).is_some() && !item.cause.is_empty() && !item.remedy.is_empty());
        }
        assert_eq!(version("1", "2").unwrap().code, "VERSION_MISMATCH");
        assert_eq!(version("1", "1"), None);
    }

    #[tokio::test]
    async fn what_is_no_mount_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let args = DoctorArgs { what: dir.path().display().to_string(), json: false };
        assert_eq!(run(None, &args).await.unwrap_err().code, Code::NotFound);
    }
}
