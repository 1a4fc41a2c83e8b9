//! Removes a playground with all its data.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use curve_mounts::Mount;
use curve_telemetry::say;

use crate::cli::DestroyArgs;
use crate::confirm::confirm;
use crate::failure::{Code, Failure};
use crate::playground::control::{any_alive, stop_members};
use crate::playground::layout::Layout;
use crate::playground::plan::Plan;

/// Stops the members and removes what a playground consists of. Other files in the directory are left, and it with them. Refused
/// while a file system is mounted there: without its servers whoever touches it would wait for ever.
pub async fn wipe(dir: &Path, destroy: DestroyArgs) -> Result<(), Failure> {
    let layout = Layout::existing(dir)?;
    let plan = Plan::load(&layout)?;
    let root = layout.root().display().to_string();
    let running = if any_alive(&layout, &plan) { "stops its processes and " } else { "" };
    let what = format!("{running}removes {root} with the data of {} members", plan.members.len());
    let mounts =
        curve_mounts::all().map_err(|error| Failure::file("read", Path::new(curve_mounts::TABLE), &error))?;
    if let Some(at) = mounted_below(&mounts, layout.root()) {
        let at = at.display();
        return Err(Failure::new(Code::InUse, format!("a file system of the playground is mounted on {at}"))
            .try_this(format!("curve-fuse umount {at}; with --lazy if its servers are gone")));
    }
    if destroy.dry_run {
        say!("would: {what}");
        return Ok(());
    }
    confirm(&what, &root, destroy.yes)?;
    let lock = layout.lock()?;
    stop_members(&layout, &plan.members, Duration::from_secs(5)).await?;
    for part in ["data", "log", "etc", "run"] {
        remove_dir(&layout.root().join(part))?;
    }
    // The plan goes last, so that an interrupted wipe can be repeated.
    for file in [layout.client_config(), layout.plan_file()] {
        match fs::remove_file(&file) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(Failure::file("remove", &file, &error));
            }
            _ => {}
        }
    }
    drop(lock);
    match fs::remove_dir(layout.root()) {
        Ok(()) => say!("removed {root}"),
        Err(_) => say!("removed the playground; {root} holds other files and stays"),
    }
    Ok(())
}

/// Where a CurveFS is mounted below a directory.
fn mounted_below<'a>(mounts: &'a [Mount], root: &Path) -> Option<&'a Path> {
    let below = |mount: &&Mount| mount.is_curvefs() && mount.point != root && mount.point.starts_with(root);
    mounts.iter().find(below).map(|mount| &*mount.point)
}

fn remove_dir(dir: &Path) -> Result<(), Failure> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Failure::file("remove", dir, &error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_file_systems_below_the_directory_count() {
        let mounts = curve_mounts::parse(
            b"\
22 1 254:1 / / rw - ext4 /dev/vda1 rw
40 22 0:35 / /p/gg/mnt rw - fuse.curvefs demo rw
41 22 0:36 / /p/g/other rw - fuse.sshfs other rw
42 22 0:37 / /p/g/mnt rw - fuse.curvefs demo rw
43 22 0:38 / /p/a\\040b/mnt rw - fuse.curvefs demo rw
",
        );
        let below = |root: &str| mounted_below(&mounts, Path::new(root)).and_then(Path::to_str);
        assert_eq!(below("/p/g"), Some("/p/g/mnt"));
        assert_eq!(below("/p/a b"), Some("/p/a b/mnt"));
        assert_eq!((below("/q"), below("/p/gg/mnt")), (None, None));
    }
}
