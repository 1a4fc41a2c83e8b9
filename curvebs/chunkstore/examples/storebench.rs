//! CPU per 4 KiB write and read of the chunk store on a real directory: `storebench [dir] [operations]`.
//!
//! Writes land in the page cache and reads come from it, so what is measured is the code and the system calls, not the
//! disk. CPU is that of the whole process (user and system), from `/proc/self/stat`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use curve_chunkstore::{ChunkStore, ChunkStoreConfig, CopysetStore, block_crc};
use curve_io::RealDisk;
use curve_types::{ChunkKey, CopysetId, LogIndex, VolumeId};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const CHUNKS: u32 = 16;
const BLOCK: u32 = 4096;

/// CPU seconds of this process, in ticks of 10 ms.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() / 100.0
}

struct Lap {
    wall: Instant,
    cpu: f64,
}

impl Lap {
    fn start() -> Self {
        Self { wall: Instant::now(), cpu: cpu_seconds() }
    }

    fn report(&self, what: &str, operations: u64) {
        let (wall, cpu) = (self.wall.elapsed().as_secs_f64(), cpu_seconds() - self.cpu);
        let each = 1e6 / operations as f64;
        println!(
            "{what:<28} {operations:>8} ops  {:>7.2} us wall  {:>7.2} us CPU each",
            wall * each,
            cpu * each
        );
    }
}

fn place(rng: &mut StdRng, blocks: u32) -> (ChunkKey, u32) {
    let key = ChunkKey { volume: VolumeId(1), index: rng.random_range(0..CHUNKS) };
    (key, rng.random_range(0..4096 / blocks) * blocks * BLOCK)
}

fn write(copyset: &CopysetStore, rng: &mut StdRng, data: &Bytes, crcs: &[u32], index: u64) {
    let (key, offset) = place(rng, crcs.len() as u32);
    copyset.write(key, offset, std::slice::from_ref(data), crcs, LogIndex(index)).expect("write");
}

async fn bench(dir: PathBuf, operations: u64) {
    let store =
        ChunkStore::open(Arc::new(RealDisk::new(dir)), Path::new("bench"), ChunkStoreConfig::default());
    let store = store.await.expect("open");
    let copyset = store.create_copyset(CopysetId(1)).await.expect("copyset");
    let mut rng = StdRng::seed_from_u64(1);
    let mut bytes = vec![0; 1 << 20];
    rng.fill(&mut bytes[..]);
    let data = Bytes::from(bytes);
    let crcs: Vec<_> = data.chunks_exact(BLOCK as usize).map(block_crc).collect();

    // Every block once, so that later laps overwrite.
    let lap = Lap::start();
    for n in 0..CHUNKS * 16 {
        let key = ChunkKey { volume: VolumeId(1), index: n / 16 };
        copyset
            .write(key, n % 16 * (1 << 20), std::slice::from_ref(&data), &crcs, LogIndex(1))
            .expect("write");
    }
    lap.report("1 MiB fill", u64::from(CHUNKS * 16));
    let lap = Lap::start();
    copyset.sync().await.expect("sync");
    lap.report("sync of all", 1);

    let small = data.slice(..BLOCK as usize);
    let lap = Lap::start();
    (0..operations).for_each(|n| write(&copyset, &mut rng, &small, &crcs[..1], n + 2));
    lap.report("4 KiB random write", operations);
    let lap = Lap::start();
    for _ in 0..operations {
        let (key, offset) = place(&mut rng, 1);
        copyset.read(key, offset, BLOCK).await.expect("read");
    }
    lap.report("4 KiB random read", operations);
    let lap = Lap::start();
    for _ in 0..operations / 16 {
        let (key, offset) = place(&mut rng, 16);
        copyset.read(key, offset, 16 * BLOCK).await.expect("read");
    }
    lap.report("64 KiB random read", operations / 16);
    let lap = Lap::start();
    copyset.sync().await.expect("sync");
    lap.report("sync after random writes", 1);
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let dir = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let operations = arguments.next().and_then(|n| n.parse().ok()).unwrap_or(200_000);
    let dir = tempfile::tempdir_in(dir).expect("a directory to work in");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("runtime");
    runtime.block_on(bench(dir.path().to_owned(), operations));
}
