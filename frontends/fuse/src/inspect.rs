//! What a mount says of itself and of its files, as virtual attributes: `curve fs info`, `stats` and `doctor` read them, and so can
//! `getfattr`. No port and no file is needed for it: who reaches the mount can ask it.
//!
//! | attribute | of | says |
//! |---|---|---|
//! | `system.curve.mount` | anything in the mount | whose mount it is: a line `NAME VALUE` each |
//! | `system.curve.stats` | anything | counters since it began: a line `NAME NUMBER` each (`readings`) |
//! | `system.curve.health` | anything | what was found by trying everything it depends on, as JSON (`facts`, `verdict`) |
//! | `curve.file.info` | a file or directory | where it is kept: a line `NAME VALUE` each |
//! | `curve.file.extents.OFFSET` | a file | a page of its extents from there on (`extents`) |
//!
//! Those of the mount can be read when no server answers, and by everybody who may use the mount; those of files by who may
//! read the file. Finding out the health costs requests, so it is done once at a time; who asks meanwhile gets the same answer.

mod extents;
mod facts;
mod readings;
mod verdict;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use curve_telemetry::HealthReport;
use curvefs_client::{Mount, S3Data};
use curvefs_data::{ObjectBackend, StoreMeters};
use curvefs_fuse::Features;
use curvefs_types::limits::CHUNK_BYTES;
use curvefs_types::{FsError, FsFuture, InodeId, Meter, XattrName};
use curvefs_vfs::{Vfs, VirtualAttributes};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::checks::Plan;

pub use readings::Reading;

/// The time as this machine's clock has it, in milliseconds since 1970.
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// What is counted outside of the `Vfs`.
#[derive(Clone, Default)]
pub struct Meters {
    /// Requests to partitions.
    pub meta: Arc<Meter>,
    /// Requests to the store.
    pub store: Arc<StoreMeters>,
}

/// What is mounted where.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The file system, and the directory of it.
    pub source: String,
    /// Where.
    pub dir: PathBuf,
    /// Options as given.
    pub options: String,
    /// The root's number in the file system.
    pub top: InodeId,
    /// This machine's clock before and after the mount was asked for, in milliseconds since 1970; none if another process has
    /// asked for it.
    pub granted_ms: Option<(u64, u64)>,
}

/// Answers the virtual attributes of a mount.
pub struct Inspector {
    identity: Identity,
    mount: Arc<Mount>,
    data: Arc<ObjectBackend>,
    meters: Meters,
    began: Instant,
    features: OnceLock<Features>,
    /// The last health, and when it was found out.
    health: Mutex<Option<(Instant, Bytes)>>,
}

impl Inspector {
    /// For a mount that begins, or is gone on with: the `Vfs` answers virtual attributes by it. `top`: the number of the directory that is
    /// its root, if that is not the file system's own.
    pub fn begin(
        plan: &Plan,
        mount: &Arc<Mount>,
        data: &S3Data,
        meters: Meters,
        (top, granted_ms): (Option<InodeId>, Option<(u64, u64)>),
        vfs: &Vfs,
    ) -> Arc<Self> {
        let (source, dir, options) = (plan.source(), plan.dir.clone(), plan.options_text.clone());
        let identity = Identity { source, dir, options, top: top.unwrap_or(InodeId::ROOT), granted_ms };
        let inspector = Arc::new(Self {
            identity,
            mount: mount.clone(),
            data: data.backend(),
            meters,
            began: Instant::now(),
            features: OnceLock::new(),
            health: Mutex::default(),
        });
        vfs.set_virtual_attributes(inspector.clone());
        inspector
    }

    /// The kernel's side is there.
    pub fn set_features(&self, features: Features) {
        // A second time would be a second mount of the same process, which there is not.
        let _ = self.features.set(features);
    }

    /// All counters.
    pub fn readings(&self, vfs: &Vfs) -> Vec<Reading> {
        readings::readings(
            vfs,
            &self.meters,
            self.data.options().memory_bytes_max as u64,
            self.began.elapsed(),
        )
    }

    fn describe(&self, vfs: &Vfs) -> String {
        let (grant, Identity { source, dir, options, .. }) = (self.mount.grant(), &self.identity);
        let lines = [
            ("file_system", grant.file_system.name.clone()),
            ("file_system_id", grant.key.fs.get().to_string()),
            ("mount", grant.key.mount.to_string()),
            ("source", source.clone()),
            ("directory", dir.display().to_string()),
            ("options", options.clone()),
            ("mode", if vfs.options().read_only { "ro" } else { "rw" }.to_owned()),
            ("process", std::process::id().to_string()),
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
            ("uptime_ms", self.began.elapsed().as_millis().to_string()),
        ];
        text(&lines)
    }

    /// Where an inode is kept.
    fn place(&self, vfs: &Vfs, inode: InodeId) -> String {
        let known = if inode == InodeId::ROOT { self.identity.top } else { inode };
        let (partition, leader) = self.mount.metadata().whereabouts(known);
        let mut lines = vec![
            ("inode", known.get().to_string()),
            ("partition", partition.get().to_string()),
            ("unpublished_bytes", vfs.unpublished_of(inode).to_string()),
            ("chunk_bytes", CHUNK_BYTES.to_string()),
            ("object_bytes", self.data.options().object_bytes.to_string()),
        ];
        if let Some(leader) = leader {
            lines.push(("leader", leader.node.get().to_string()));
            lines.push(("leader_address", leader.address));
        }
        text(&lines)
    }

    async fn health(&self, vfs: &Vfs) -> Bytes {
        let asked = Instant::now();
        let mut kept = self.health.lock().await;
        if let Some((found, report)) = kept.as_ref()
            && *found > asked
        {
            return report.clone();
        }
        let facts = facts::gather(self, vfs).await;
        let report = HealthReport::new(verdict::items(&facts));
        let report = Bytes::from(serde_json::to_vec(&report).expect("a report is plain text and enums"));
        *kept = Some((Instant::now(), report.clone()));
        report
    }
}

/// Lines `NAME VALUE`. What would break a line is left out of it.
fn text(lines: &[(&str, String)]) -> String {
    let mut out = String::new();
    for (name, value) in lines {
        // Writing to a string does not fail.
        let _ = writeln!(out, "{name} {}", value.replace('\n', " "));
    }
    out
}

impl VirtualAttributes for Inspector {
    fn value<'a>(&'a self, vfs: &'a Vfs, inode: InodeId, name: &'a XattrName) -> FsFuture<'a, Option<Bytes>> {
        Box::pin(async move {
            Ok(match name.as_bytes() {
                b"system.curve.mount" => Some(self.describe(vfs).into()),
                b"system.curve.stats" => Some(readings::text(&self.readings(vfs)).into()),
                b"system.curve.health" => Some(self.health(vfs).await),
                b"curve.file.info" => Some(self.place(vfs, inode).into()),
                other => match extents::offset(other) {
                    Some(from) => Some(self.extents(vfs, inode, from).await?.into()),
                    None => None,
                },
            })
        })
    }
}

impl Inspector {
    async fn extents(&self, vfs: &Vfs, inode: InodeId, from: u64) -> Result<String, FsError> {
        match vfs.extents(inode, from).await {
            Ok(page) => Ok(extents::text(&page, from, |extent| self.data.locate(extent))),
            // Directories, links and devices have none.
            Err(FsError::IsDir | FsError::Invalid) => Err(FsError::NoAttribute),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_stays_a_line() {
        assert_eq!(text(&[("a", "1".into()), ("b", "x\ny".into())]), "a 1\nb x y\n");
        assert!(unix_ms() > 1_600_000_000_000);
    }
}
