//! What is done in a mounted directory.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::targets::Mounted;
use crate::cpu;

/// A case. They come in this order: some use what an earlier one has left.
#[derive(Debug)]
pub struct Case {
    /// Its name.
    pub name: &'static str,
    /// What one operation is.
    pub unit: Unit,
    /// Mounted anew before it.
    pub uncached: bool,
    work: fn(&Path) -> Result<u64, String>,
}

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    /// Calls or files.
    Operations,
    /// Bytes.
    Bytes,
}

const FILES: u64 = 2_000;
const SMALL_FILES: usize = 5_000;
const LARGE_BYTES: u64 = 512 << 20;
const BLOCK: usize = 1 << 20;
const SYNCED_BYTES: u64 = 64 << 20;
const SYNCED_FOR: Duration = Duration::from_secs(5);

/// All cases; one process, one thread.
pub const CASES: [Case; 8] = [
    Case { name: "create", unit: Unit::Operations, uncached: false, work: create },
    Case { name: "stat", unit: Unit::Operations, uncached: true, work: stat },
    Case { name: "rename", unit: Unit::Operations, uncached: false, work: rename },
    Case { name: "unlink", unit: Unit::Operations, uncached: false, work: unlink },
    Case { name: "write-4k-fsync", unit: Unit::Operations, uncached: false, work: write_and_sync },
    Case { name: "untar", unit: Unit::Operations, uncached: false, work: untar },
    Case { name: "write", unit: Unit::Bytes, uncached: false, work: write },
    Case { name: "read", unit: Unit::Bytes, uncached: true, work: read },
];

/// One run's figures.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Operations or bytes a second.
    pub rate: f64,
    /// CPU microseconds of the target's processes, for one operation or MiB.
    pub cpu_us: f64,
    /// Bytes that the mount's process has had resident at most, where there is one.
    pub mount_bytes: u64,
}

/// Runs a case once. The caller has mounted anew if the case asks for that.
pub async fn run(case: &'static Case, mount: &Mounted, round: usize) -> Result<Run, String> {
    let mut pids = mount.pids();
    // The client is this process.
    pids.extend(mount.s3().map(|_| std::process::id()));
    let (begun, cpu_s) = (Instant::now(), cpu::seconds(&pids));
    let done = match mount.s3() {
        Some(client) => client.run(case, round).await?,
        None => {
            let dir = mount.work_dir(round);
            fs::create_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
            let work = case.work;
            tokio::task::spawn_blocking(move || work(&dir)).await.map_err(|error| error.to_string())??
        }
    };
    let took = begun.elapsed().as_secs_f64();
    let per = if case.unit == Unit::Bytes { done as f64 / BLOCK as f64 } else { done as f64 };
    Ok(Run {
        rate: done as f64 / took,
        cpu_us: (cpu::seconds(&pids) - cpu_s) * 1e6 / per,
        mount_bytes: mount.resident_max(),
    })
}

fn said(path: &Path) -> impl Fn(std::io::Error) -> String {
    move |error| format!("{}: {error}", path.display())
}

fn each(dir: &Path, name: &str, call: impl Fn(PathBuf) -> std::io::Result<()>) -> Result<u64, String> {
    for number in 0..FILES {
        call(dir.join(format!("{name}{number:06}"))).map_err(said(dir))?;
    }
    Ok(FILES)
}

fn create(dir: &Path) -> Result<u64, String> {
    each(dir, "f", |path| File::create_new(path).map(drop))
}

fn stat(dir: &Path) -> Result<u64, String> {
    each(dir, "f", |path| fs::symlink_metadata(path).map(drop))
}

fn rename(dir: &Path) -> Result<u64, String> {
    each(dir, "f", |path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().replace('f', "g");
        fs::rename(&path, path.with_file_name(name))
    })
}

fn unlink(dir: &Path) -> Result<u64, String> {
    each(dir, "g", fs::remove_file)
}

/// 4 KiB anywhere in a file that was written before, then `fsync`.
fn write_and_sync(dir: &Path) -> Result<u64, String> {
    let path = dir.join("synced");
    let file = File::create(&path).map_err(said(&path))?;
    let block = vec![0x5a; BLOCK];
    for at in 0..SYNCED_BYTES / BLOCK as u64 {
        file.write_all_at(&block, at * BLOCK as u64).map_err(said(&path))?;
    }
    file.sync_all().map_err(said(&path))?;
    let (begun, mut done, mut state) = (Instant::now(), 0, 0x9e37_79b9_7f4a_7c15_u64);
    while begun.elapsed() < SYNCED_FOR {
        // xorshift64: any spread will do.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let at = state % (SYNCED_BYTES / 4096) * 4096;
        file.write_all_at(&block[..4096], at).and_then(|()| file.sync_all()).map_err(said(&path))?;
        done += 1;
    }
    Ok(done)
}

/// `tar` unpacks 5,000 files of 4 KiB in 50 directories. The archive is made outside of the mount, once.
fn untar(dir: &Path) -> Result<u64, String> {
    let archive = archive().map_err(|error| format!("the archive: {error}"))?;
    let ended = Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(dir).output();
    let ended = ended.map_err(|error| format!("tar: {error}"))?;
    if !ended.status.success() {
        return Err(format!("tar: {}", String::from_utf8_lossy(&ended.stderr)));
    }
    Ok(SMALL_FILES as u64)
}

fn archive() -> std::io::Result<PathBuf> {
    let archive = std::env::temp_dir().join(format!("curve-bench-{}.tar", std::process::id()));
    if archive.exists() {
        return Ok(archive);
    }
    let dir = tempfile::tempdir()?;
    for number in 0..SMALL_FILES {
        let sub = dir.path().join(format!("tree/d{:02}", number % 50));
        fs::create_dir_all(&sub)?;
        fs::write(sub.join(format!("f{number}")), vec![b'x'; 4096])?;
    }
    let made = Command::new("tar").arg("-cf").arg(&archive).arg("-C").arg(dir.path()).arg("tree").status()?;
    if made.success() { Ok(archive) } else { Err(std::io::Error::other(made.to_string())) }
}

/// Removes the archive.
pub fn forget_archive() {
    // It was perhaps never made.
    let _ = fs::remove_file(std::env::temp_dir().join(format!("curve-bench-{}.tar", std::process::id())));
}

fn write(dir: &Path) -> Result<u64, String> {
    let path = dir.join("large");
    let mut file = File::create(&path).map_err(said(&path))?;
    let block: Vec<u8> = (0..BLOCK).map(|at| (at % 251) as u8).collect();
    for _ in 0..LARGE_BYTES / BLOCK as u64 {
        file.write_all(&block).map_err(said(&path))?;
    }
    file.sync_all().map_err(said(&path))?;
    Ok(LARGE_BYTES)
}

fn read(dir: &Path) -> Result<u64, String> {
    let path = dir.join("large");
    let mut file = OpenOptions::new().read(true).open(&path).map_err(said(&path))?;
    let (mut block, mut read) = (vec![0; BLOCK], 0);
    loop {
        match file.read(&mut block).map_err(said(&path))? {
            0 if read == LARGE_BYTES => return Ok(read),
            0 => return Err(format!("{}: {read} bytes", path.display())),
            count => read += count as u64,
        }
    }
}

/// Bytes of the sequential cases.
pub const fn large_bytes() -> u64 {
    LARGE_BYTES
}
