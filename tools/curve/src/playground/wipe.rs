//! Removes a playground with all its data.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use crate::cli::DestroyArgs;
use crate::confirm::confirm;
use crate::failure::Failure;
use crate::playground::control::{any_alive, stop_members};
use crate::playground::layout::Layout;
use crate::playground::plan::Plan;

/// Stops the members and removes what a playground consists of. Other files in the directory are left, and it with them.
pub async fn wipe(dir: &Path, destroy: DestroyArgs) -> Result<(), Failure> {
    let layout = Layout::existing(dir)?;
    let plan = Plan::load(&layout)?;
    let root = layout.root().display().to_string();
    let running = if any_alive(&layout, &plan) { "stops its processes and " } else { "" };
    let what = format!("{running}removes {root} with the data of {} members", plan.members.len());
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

fn remove_dir(dir: &Path) -> Result<(), Failure> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Failure::file("remove", dir, &error)),
        _ => Ok(()),
    }
}
