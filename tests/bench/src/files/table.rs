//! Creates a second for some numbers of mounts and of partitions.

use std::fs::File;
use std::path::Path;
use std::time::Instant;

use curve_harness::FsMount;

use super::targets::playground;
use crate::report::median;

const MOUNTS: [usize; 4] = [1, 2, 4, 8];
const PARTITIONS: [u32; 3] = [1, 3, 6];
/// Each mount's, by four programs in directories of their own.
const PROGRAMS: usize = 4;
const FILES: usize = 250;

/// Measures and prints a table in Markdown.
pub async fn print(dir: &Path, repeats: usize) -> Result<(), String> {
    println!(
        "Creates a second; each mount has {PROGRAMS} programs that create files in their own directories.\n"
    );
    println!("| mounts | {} |", PARTITIONS.map(|count| format!("{count} partitions")).join(" | "));
    println!("|---|---|---|---|");
    let mut rows = MOUNTS.map(|mounts| vec![mounts.to_string()]);
    for partitions in PARTITIONS {
        let made = tempfile::Builder::new().prefix("curve-bench-").tempdir_in(dir);
        let dir = made.map_err(|error| format!("{}: {error}", dir.display()))?;
        let playground = playground(dir.path(), partitions).await?;
        for (row, mounts) in MOUNTS.iter().enumerate() {
            let mut mounted = Vec::new();
            for number in 0..*mounts {
                let at = dir.path().join(format!("m{mounts}-{number}"));
                mounted.push(FsMount::start(&playground, "bench", &at, &[]).await);
            }
            let mut rates = Vec::new();
            for round in 0..repeats.max(1) {
                let paths = mounted.iter().map(|mount| mount.dir().to_path_buf()).collect::<Vec<_>>();
                let name = format!("{mounts}-{round}");
                let measured = tokio::task::spawn_blocking(move || creates(&paths, &name)).await;
                rates.push(measured.map_err(|error| error.to_string())??);
            }
            rows[row].push(format!("{:.0}", median(rates.into_iter())));
            for mount in mounted {
                mount.unmount().await.map_err(|error| error.to_string())?;
            }
        }
    }
    for row in rows {
        println!("| {} |", row.join(" | "));
    }
    Ok(())
}

/// Creates by all programs at the same time; their directories are made before.
fn creates(mounts: &[std::path::PathBuf], round: &str) -> Result<f64, String> {
    let mut dirs = Vec::new();
    for (number, mount) in mounts.iter().enumerate() {
        for program in 0..PROGRAMS {
            let dir = mount.join(format!("{round}-{number}-{program}"));
            std::fs::create_dir(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
            dirs.push(dir);
        }
    }
    let begun = Instant::now();
    let ended = std::thread::scope(|scope| {
        let create = |dir: std::path::PathBuf| {
            (0..FILES).try_for_each(|file| File::create_new(dir.join(file.to_string())).map(drop))
        };
        let count = dirs.len();
        let running = dirs.into_iter().map(|dir| scope.spawn(move || create(dir))).collect::<Vec<_>>();
        let ended = running.into_iter().map(|one| one.join().expect("it does not panic"));
        ended.collect::<Result<Vec<()>, _>>().map(|_| count)
    });
    let programs = ended.map_err(|error| error.to_string())?;
    Ok((programs * FILES) as f64 / begun.elapsed().as_secs_f64())
}
