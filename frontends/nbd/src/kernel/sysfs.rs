//! What the kernel shows of a device, and who uses it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use curve_mounts::Mount;

/// After so long, and about a second that the kernel adds to the first time, the driver looks at a request without an
/// answer; it repeats it if its socket was replaced meanwhile, and otherwise looks again after so long. It writes a line to
/// the kernel's log each time.
pub const IO_TIMEOUT: Duration = Duration::from_millis(200);

/// `/dev/nbdN` → N.
pub fn index_of(device: &str) -> Option<u32> {
    device.strip_prefix("/dev/").unwrap_or(device).strip_prefix("nbd")?.parse().ok()
}

/// N → `/dev/nbdN`.
pub fn device_of(index: u32) -> String {
    format!("/dev/nbd{index}")
}

fn block(index: u32) -> PathBuf {
    PathBuf::from(format!("/sys/block/nbd{index}"))
}

/// Whether something is attached to the device.
pub fn is_attached(index: u32) -> bool {
    block(index).join("pid").exists()
}

/// What whoever attached it called it; empty where the kernel does not say.
pub fn backend(index: u32) -> String {
    fs::read_to_string(block(index).join("backend"))
        .map(|text| text.trim_end().to_owned())
        .unwrap_or_default()
}

/// Bytes, as the kernel knows them.
pub fn size(index: u32) -> Option<u64> {
    let sectors: u64 = fs::read_to_string(block(index).join("size")).ok()?.trim().parse().ok()?;
    Some(sectors * 512)
}

/// Has the driver look often at requests without an answer.
pub fn set_io_timeout(index: u32) -> io::Result<()> {
    fs::write(block(index).join("queue/io_timeout"), IO_TIMEOUT.as_millis().to_string())
}

/// What uses a device, in words; empty if nothing does. An error: it cannot be told.
pub fn users(index: u32) -> io::Result<Vec<String>> {
    let numbers: Vec<String> = parts(index)
        .iter()
        .filter_map(|part| fs::read_to_string(part.join("dev")).ok())
        .map(|text| text.trim().to_owned())
        .collect();
    let mounts = curve_mounts::all()?;
    let points = mount_points(&mounts, &numbers);
    let mut users: Vec<String> = points.map(|point| format!("mounted at {}", point.display())).collect();
    let name = device_of(index);
    let swap = match fs::read_to_string("/proc/swaps") {
        // A kernel without swap space has no such file.
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        other => other?,
    };
    users.extend(swaps(&swap, &name).map(|device| format!("{device} is swap space")));
    for part in parts(index) {
        let holders = fs::read_dir(part.join("holders")).into_iter().flatten().flatten();
        users.extend(holders.map(|holder| format!("used by {}", holder.file_name().display())));
    }
    Ok(users)
}

/// The device and its partitions.
fn parts(index: u32) -> Vec<PathBuf> {
    let whole = block(index);
    let inside = fs::read_dir(&whole).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_part = |path: &PathBuf| path.join("partition").exists();
    std::iter::once(whole.clone()).chain(inside.filter(is_part)).collect()
}

/// Mount points of devices with these numbers (`major:minor`).
fn mount_points<'a>(mounts: &'a [Mount], numbers: &'a [String]) -> impl Iterator<Item = &'a Path> {
    mounts.iter().filter(|mount| numbers.contains(&mount.device)).map(|mount| &*mount.point)
}

/// Swap devices that are this device or a partition of it. Source: proc_swaps(5).
fn swaps<'a>(swaps: &'a str, device: &'a str) -> impl Iterator<Item = &'a str> {
    swaps.lines().skip(1).filter_map(|line| line.split_whitespace().next()).filter(move |name| {
        let rest = name.strip_prefix(device);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('p'))
    })
}

/// Whether the kernel has the driver.
pub fn has_driver() -> bool {
    Path::new("/sys/module/nbd").exists() || Path::new("/sys/block/nbd0").exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_numbers() {
        assert_eq!(index_of("/dev/nbd12"), Some(12));
        assert_eq!(index_of("nbd0"), Some(0));
        for bad in ["/dev/sda", "/dev/nbd", "/dev/nbd1p1", "nbd-1", ""] {
            assert_eq!(index_of(bad), None, "{bad}");
        }
        assert_eq!(device_of(3), "/dev/nbd3");
    }

    #[test]
    fn mounts_and_swap_space_are_found() {
        let mountinfo =
            b"22 1 254:0 / / rw - ext4 /dev/vda rw\n40 22 43:0 / /mnt/db rw - ext4 /dev/nbd0 rw\n\
                         41 22 43:1 /sub /mnt/part rw shared:1 - xfs /dev/nbd0p1 rw\n";
        let mounts = curve_mounts::parse(mountinfo);
        let numbers = ["43:0".to_owned(), "43:1".to_owned()];
        let points: Vec<_> = mount_points(&mounts, &numbers).collect();
        assert_eq!(points, [Path::new("/mnt/db"), Path::new("/mnt/part")]);
        assert_eq!(mount_points(&mounts, &[]).count(), 0);
        let list = "Filename Type Size Used Priority\n/dev/nbd1 partition 1 0 -2\n/dev/nbd10 partition 1 0 -2\n\
                    /dev/nbd1p2 partition 1 0 -2\n";
        assert_eq!(swaps(list, "/dev/nbd1").collect::<Vec<_>>(), ["/dev/nbd1", "/dev/nbd1p2"]);
    }
}
