//! The grammar of `curve fs`.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Subcommand, ValueEnum};
use curve_types::{ByteSize, HumanDuration};

use super::DestroyArgs;
use super::mounted::MountedCommand;

/// `curve fs`.
#[derive(Args, Debug)]
pub struct FsArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: FsCommand,
}

/// The verbs of `curve fs`.
#[derive(Subcommand, Debug)]
pub enum FsCommand {
    /// Of file systems.
    #[command(flatten)]
    Cluster(SystemCommand),
    /// Of a mount on this host.
    #[command(flatten)]
    Mounted(MountedCommand),
}

/// Verbs that ask the cluster.
#[derive(Subcommand, Debug)]
pub enum SystemCommand {
    /// Create a file system. The store is tried first: an object is put, read and deleted in each bucket.
    #[command(
        after_help = "Examples:\n  curve fs create demo --backend s3 --endpoint http://10.0.0.9:9000 --bucket demo --access-key K \
                      --secret-key-file ./secret\n  CURVE_S3_SECRET_KEY=… curve fs create big --backend s3 --endpoint https://s3.example.com \
                      --region eu-1 --bucket big-1,big-2 --access-key K --partitions 12\n\n\
                      The secret key is never an argument. The MDSs keep it sealed with the key in their `secrets_key_file`."
    )]
    Create(CreateArgs),
    /// List file systems.
    #[command(after_help = "Examples:\n  curve fs ls\n  curve fs ls --json | jq -r '.[].name'")]
    Ls {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show a file system: its store, its size, its partitions and where they are.
    #[command(
        after_help = "Examples:\n  curve fs stat demo\n  curve fs stat demo --json | jq '.partitions[].health'"
    )]
    Stat {
        /// Its name.
        name: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Remove a file system that nobody has mounted, with all its files: first the metadata, then the objects in its buckets. If it is
    /// interrupted, the same command goes on.
    #[command(after_help = "Examples:\n  curve fs rm demo --dry-run\n  curve fs rm demo --yes")]
    Rm {
        /// Its name.
        name: String,
        /// Leave the objects in the buckets.
        #[arg(long)]
        keep_objects: bool,
        /// How long the metaservers are waited for.
        #[arg(long, default_value = "120s")]
        timeout: HumanDuration,
        #[command(flatten)]
        destroy: DestroyArgs,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// List mounts: host, process, directory, state, and what is left of the lease.
    #[command(after_help = "Examples:\n  curve fs mounts\n  curve fs mounts demo --json | jq -r '.[].host'")]
    Mounts {
        /// Of this file system only.
        name: Option<String>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// End a mount without asking it: from the return of this command on, no partition accepts anything from it, and what
    /// it had locked or held open is released.
    #[command(after_help = "Examples:\n  curve fs evict mount-1f --dry-run\n  curve fs evict mount-1f --yes")]
    Evict {
        /// The mount, as `curve fs mounts` shows it.
        mount: MountName,
        /// How long the partitions are waited for.
        #[arg(long, default_value = "60s")]
        timeout: HumanDuration,
        #[command(flatten)]
        destroy: DestroyArgs,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Replace the keys of a file system's store, after they have been tried. Mounts and metaservers go on with them.
    #[command(
        after_help = "Examples:\n  curve fs set-keys demo --access-key K2 --secret-key-file ./new-secret"
    )]
    SetKeys {
        /// The file system.
        name: String,
        #[command(flatten)]
        keys: KeyArgs,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// `curve fs create`.
#[derive(Args, Debug)]
pub struct CreateArgs {
    /// 1 to 63 of a-z, 0-9, - and _.
    pub name: String,
    /// Where the data is.
    #[arg(long, value_enum)]
    pub backend: BackendKind,
    /// `http://HOST:PORT` or `https://HOST` of the store.
    #[arg(long, value_name = "URL")]
    pub endpoint: String,
    /// Buckets, which must exist; the list never changes after this.
    #[arg(long, value_name = "B[,B2]", required = true, value_delimiter = ',')]
    pub bucket: Vec<String>,
    #[command(flatten)]
    pub keys: KeyArgs,
    /// The region that requests are signed for; most stores take any.
    #[arg(long, default_value = "us-east-1", value_name = "R")]
    pub region: String,
    /// Bytes of an object: a multiple of 64KiB up to 4MiB.
    #[arg(long, default_value = "4MiB", value_name = "SIZE")]
    pub object_size: ByteSize,
    /// Partitions of the metadata; as many as there are metaservers when absent.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub partitions: Option<u32>,
    /// Who owns the root directory.
    #[arg(long, default_value_t = 0)]
    pub uid: u32,
    /// The group of the root directory.
    #[arg(long, default_value_t = 0)]
    pub gid: u32,
    /// Permission bits of the root directory, in octal.
    #[arg(long, default_value = "755", value_parser = octal)]
    pub mode: u32,
    /// How long the partitions are waited for.
    #[arg(long, default_value = "60s")]
    pub timeout: HumanDuration,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// The keys of a store.
#[derive(Args, Debug)]
pub struct KeyArgs {
    /// The access key.
    #[arg(long, value_name = "K")]
    pub access_key: String,
    /// File with the secret key; else $CURVE_S3_SECRET_KEY.
    #[arg(long, value_name = "F")]
    pub secret_key_file: Option<PathBuf>,
}

/// Where the data of a file system is.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum BackendKind {
    /// Objects in S3 buckets.
    S3,
}

fn octal(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).map_err(|_| "permission bits are an octal number such as 755")?;
    if (1..=0o7777).contains(&mode) { Ok(mode) } else { Err("permission bits are 1 to 7777".into()) }
}

/// A mount's id: `mount-` and a hexadecimal number, as everything prints it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MountName(pub u64);

impl FromStr for MountName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.strip_prefix("mount-").and_then(|digits| u64::from_str_radix(digits, 16).ok());
        digits.map(Self).ok_or_else(|| "a mount is named mount-1f; `curve fs mounts` lists them".into())
    }
}

impl FsCommand {
    /// Whether failures should be printed as JSON.
    pub fn wants_json(&self) -> bool {
        match self {
            Self::Cluster(command) => command.wants_json(),
            Self::Mounted(command) => command.wants_json(),
        }
    }
}

impl SystemCommand {
    fn wants_json(&self) -> bool {
        match self {
            Self::Create(args) => args.json,
            Self::Ls { json }
            | Self::Stat { json, .. }
            | Self::Rm { json, .. }
            | Self::Mounts { json, .. }
            | Self::Evict { json, .. }
            | Self::SetKeys { json, .. } => *json,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_and_modes_are_read_as_they_are_printed() {
        assert_eq!("mount-1f".parse(), Ok(MountName(31)));
        for bad in ["31", "mount-", "mount-xyz", ""] {
            assert!(bad.parse::<MountName>().is_err(), "{bad}");
        }
        assert_eq!((octal("755"), octal("1777")), (Ok(0o755), Ok(0o1777)));
        assert!(octal("0").is_err() && octal("8").is_err() && octal("17777").is_err());
    }
}
