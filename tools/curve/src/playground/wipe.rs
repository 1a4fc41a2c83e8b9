//! Removes a playground with all its data.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

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
    let mounts = Path::new("/proc/self/mounts");
    let mounted = fs::read_to_string(mounts).map_err(|error| Failure::file("read", mounts, &error))?;
    if let Some(at) = mounts_below(&mounted, layout.root()).first() {
        return Err(Failure::new(Code::InUse, format!("a file system of the playground is mounted on {at}"))
            .try_this(format!("curve-fuse umount {at}; with --lazy if its servers are gone")));
    }
    if destroy.dry_run {
        println!("would: {what}");
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
        Ok(()) => println!("removed {root}"),
        Err(_) => println!("removed the playground; {root} holds other files and stays"),
    }
    Ok(())
}

/// Where CurveFS file systems are mounted below a directory, as `/proc/self/mounts` writes it. Source: proc_pid_mounts(5), fstab(5).
fn mounts_below<'a>(mounts: &'a str, root: &Path) -> Vec<&'a str> {
    let escaped = |text: String, (plain, code): (&str, &str)| text.replace(plain, code);
    let blanks = [("\\", "\\134"), (" ", "\\040"), ("\t", "\\011"), ("\n", "\\012")];
    let root = blanks.into_iter().fold(format!("{}/", root.display()), escaped);
    let fields = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        Some((fields.next()?, fields.next()?))
    });
    fields.filter(|(at, kind)| *kind == "fuse.curvefs" && at.starts_with(&root)).map(|(at, _)| at).collect()
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
        let mounts = "\
/dev/vda / ext4 rw 0 0
demo /p/g/mnt fuse.curvefs rw 0 0
demo /p/gg/mnt fuse.curvefs rw 0 0
other /p/g/other fuse.sshfs rw 0 0
demo /p/a\\040b/mnt fuse.curvefs rw 0 0
broken
";
        assert_eq!(mounts_below(mounts, Path::new("/p/g")), ["/p/g/mnt"]);
        assert_eq!(mounts_below(mounts, Path::new("/p/a b")), ["/p/a\\040b/mnt"]);
        assert!(mounts_below(mounts, Path::new("/q")).is_empty());
    }
}
