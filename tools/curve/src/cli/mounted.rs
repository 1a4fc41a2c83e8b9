//! The grammar of those `curve fs` commands that ask a mount on this host. They need no configuration and reach no server themselves.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use curve_types::{ByteSize, HumanDuration};

/// The verbs.
#[derive(Subcommand, Debug)]
pub enum MountedCommand {
    /// Show what is below a directory: files, directories and bytes, kept by the servers; nothing is walked.
    ///
    /// Hard links count once. What a program has written and the mount has not published yet (3 seconds at most) is not in it.
    #[command(
        after_help = "Examples:\n  curve fs du /mnt/data\n  curve fs du /mnt/data --depth 2\n  curve fs du /mnt/data/a /mnt/data/b --json | jq \
                      '.[].bytes'\n\nOne directory alone, without this program:\n  getfattr -n curve.dir.rfbytes --only-values /mnt/data"
    )]
    Du(DuArgs),
    /// Show what a file is made of: inode, partition, and which ranges are in which objects; of a directory what is below it.
    #[command(
        after_help = "Examples:\n  curve fs info /mnt/data/file\n  curve fs info /mnt/data/big --offset 1GiB --limit 100\n  curve fs info \
                      /mnt/data/file --json | jq -r '.[].ranges[].object'"
    )]
    Info(InfoArgs),
    /// Show what a mount does, once an interval, as counted inside it: which of FUSE, metadata and store it is.
    #[command(
        after_help = "Examples:\n  curve fs stats /mnt/data\n  curve fs stats /mnt/data --interval 10s --count 6\n  curve fs stats /mnt/data --count 1 \
                      --json\n\nColumns: requests of programs a second and their mean time; bytes read and written by them a second; requests to \
                      metaservers; objects got, put and deleted a second with bytes and failed requests; written bytes that are not stored \
                      yet; the cache of what was read; processor and memory of the mount's process. Requests that wait for a lock are not counted.\n\n\
                      With --json each interval is one object on a line of its own."
    )]
    Stats(StatsArgs),
    /// Try everything that a mount, or a file system, depends on, and say what is wrong, why, and what to do.
    #[command(
        after_help = "Examples:\n  curve fs doctor /mnt/data          the mount there, as seen from inside it\n  curve fs doctor data               the file \
                      system data, as seen from here (needs the client configuration)\n  curve fs doctor /mnt/data --json | jq -r '.items[] | \
                      select(.level != \"OK\") | .code'\n\nWhat has a `/` in it, or is `.`, is a directory. The exit status is 9 when something is \
                      ERR, otherwise 0; `curve explain CODE` says what a code means."
    )]
    Doctor(DoctorArgs),
}

/// `curve fs du`.
#[derive(Args, Debug)]
pub struct DuArgs {
    /// Directories or files in a mount.
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Show so many levels of directories below each, the larger ones first.
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = clap::value_parser!(u32).range(..=256))]
    pub depth: u32,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `curve fs info`.
#[derive(Args, Debug)]
pub struct InfoArgs {
    /// Files or directories in a mount.
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Show ranges from this offset on.
    #[arg(long, default_value = "0", value_name = "SIZE")]
    pub offset: ByteSize,
    /// Show at most so many ranges of each file.
    #[arg(long, default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub limit: u32,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `curve fs stats`.
#[derive(Args, Debug)]
pub struct StatsArgs {
    /// A directory in a mount.
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// How long an interval is.
    #[arg(long, default_value = "1s")]
    pub interval: HumanDuration,
    /// End after so many intervals.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Print JSON, a line for each interval.
    #[arg(long)]
    pub json: bool,
}

/// `curve fs doctor`.
#[derive(Args, Debug)]
pub struct DoctorArgs {
    /// A directory in a mount, or the name of a file system.
    #[arg(value_name = "DIR|NAME")]
    pub what: String,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

impl MountedCommand {
    /// Whether failures should be printed as JSON.
    pub fn wants_json(&self) -> bool {
        match self {
            Self::Du(args) => args.json,
            Self::Info(args) => args.json,
            Self::Stats(args) => args.json,
            Self::Doctor(args) => args.json,
        }
    }
}
