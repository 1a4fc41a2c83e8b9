//! The grammar of the command line. Only shapes: nothing here acts.

pub mod fs;
pub mod iscsi;
pub mod mounted;

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand, ValueEnum};
use curve_types::{ByteSize, ClientId, HumanDuration};
use fs::FsArgs;
use iscsi::IscsiArgs;

/// Replicated block storage: volumes, the cluster behind them, and a playground to try both.
#[derive(Parser, Debug)]
#[command(
    name = "curve",
    version,
    propagate_version = true,
    arg_required_else_help = true,
    after_help = "Exit status: 0 done, 1 internal, 2 usage, 3 not found, 4 exists/in use/conflict, 5 no space, 6 unavailable, \
                  7 not confirmed, 8 configuration, 9 unhealthy, 10 environment. `curve explain CODE` tells more.\n\n\
                  Examples:\n  curve playground start --dir ./playground\n  curve bs create /demo --size 4GiB\n  \
                  curve cluster status"
)]
pub struct Cli {
    /// Client configuration; else $CURVE_CONFIG, ./curve.toml, /etc/curve/curve.toml. $CURVE_MDS overrides its MDS addresses.
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The families of commands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run a server role in the foreground until SIGTERM.
    Serve(ServeArgs),
    /// A whole cluster of real processes on this machine.
    Playground(PlaygroundArgs),
    /// Volumes and their directories.
    Bs(BsArgs),
    /// File systems: their data is in S3 buckets, their metadata on metaservers.
    Fs(FsArgs),
    /// iSCSI targets: what the gateways serve, to whom.
    Iscsi(IscsiArgs),
    /// The state of the cluster.
    Cluster(ClusterArgs),
    /// Explain an error code.
    #[command(after_help = "Examples:\n  curve explain UNAVAILABLE\n  curve explain")]
    Explain {
        /// The code; all of them when absent.
        code: Option<String>,
    },
    /// Print a completion script.
    #[command(after_help = "Examples:\n  curve completion bash > /etc/bash_completion.d/curve\n  \
                            curve completion zsh > ~/.zfunc/_curve")]
    Completion {
        /// For which shell.
        shell: clap_complete::Shell,
    },
}

/// `curve serve`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  curve serve mds --config /etc/curve/mds.toml\n  \
                        curve serve chunkserver --config /etc/curve/chunkserver.toml\n  \
                        curve serve chunkserver --config /etc/curve/chunkserver.toml --rebuild\n  \
                        curve serve metaserver --config /etc/curve/metaserver.toml\n  \
                        curve serve s3 --config /etc/curve/s3.toml")]
pub struct ServeArgs {
    /// Which role.
    pub role: ServeRole,
    /// Move the data aside first, and start empty. For a damaged disk: the other replicas fill it again. A chunkserver
    /// or metaserver comes back under a new id, an MDS under its old one.
    #[arg(long)]
    pub rebuild: bool,
}

/// The roles that `curve serve` runs.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum ServeRole {
    /// Metadata server.
    Mds,
    /// Chunkserver: one per disk.
    Chunkserver,
    /// Metaserver of CurveFS: partitions of file systems' metadata.
    Metaserver,
    /// Embedded object store: S3 on one directory.
    S3,
}

/// `curve playground`.
#[derive(Args, Debug)]
pub struct PlaygroundArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: PlaygroundCommand,
}

/// Where a playground lives.
#[derive(Args, Debug, Clone)]
pub struct DirArg {
    /// The playground's directory.
    #[arg(long, default_value = "./playground", value_name = "D")]
    pub dir: PathBuf,
}

/// Which members a command acts on.
#[derive(Args, Debug, Clone)]
pub struct NamesArg {
    /// Members, for example mds-1 or chunkserver-2.
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// Every member.
    #[arg(long, conflicts_with = "names")]
    pub all: bool,
}

/// The verbs of `curve playground`.
#[derive(Subcommand, Debug)]
pub enum PlaygroundCommand {
    /// Start a cluster, or what is missing of it, and return when it is healthy.
    #[command(after_help = "Examples:\n  curve playground start --dir ./playground\n  \
                            curve playground start --dir ./playground --fs\n  \
                            curve playground start --dir /tmp/p --chunkservers 5 --port-base 24000")]
    Start(StartArgs),
    /// Show members, addresses and states.
    #[command(after_help = "Examples:\n  curve playground status --dir ./playground\n  \
                            curve playground status --json | jq '.members[].state'")]
    Status {
        #[command(flatten)]
        dir: DirArg,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Stop members in order (SIGTERM) and wait until they are gone; all of them when none is named.
    #[command(after_help = "Examples:\n  curve playground stop\n  curve playground stop chunkserver-2")]
    Stop {
        #[command(flatten)]
        dir: DirArg,
        #[command(flatten)]
        members: NamesArg,
        /// How long a member may take before it is killed.
        #[arg(long, default_value = "30s")]
        timeout: HumanDuration,
    },
    /// Kill members at once (SIGKILL).
    #[command(after_help = "Examples:\n  curve playground kill chunkserver-2\n  curve playground kill --all")]
    Kill {
        #[command(flatten)]
        dir: DirArg,
        #[command(flatten)]
        members: NamesArg,
    },
    /// Start members again; running ones are stopped in order first.
    #[command(
        after_help = "Examples:\n  curve playground restart chunkserver-2\n  curve playground restart --all"
    )]
    Restart {
        #[command(flatten)]
        dir: DirArg,
        #[command(flatten)]
        members: NamesArg,
        /// Return once the processes answer, without waiting for the cluster's health.
        #[arg(long)]
        no_wait: bool,
        /// Move damaged data aside and start empty; the other replicas fill it again.
        #[arg(long)]
        rebuild: bool,
        /// How long to wait for health.
        #[arg(long, default_value = "60s")]
        timeout: HumanDuration,
    },
    /// Freeze members (SIGSTOP).
    #[command(after_help = "Examples:\n  curve playground pause chunkserver-1; sleep 10; \
                            curve playground resume chunkserver-1")]
    Pause {
        #[command(flatten)]
        dir: DirArg,
        #[command(flatten)]
        members: NamesArg,
    },
    /// Let frozen members go on (SIGCONT).
    Resume {
        #[command(flatten)]
        dir: DirArg,
        #[command(flatten)]
        members: NamesArg,
    },
    /// Serve volumes over NBD from a background member, nbd-1, nbd-2…
    #[command(after_help = "Examples:\n  curve playground nbd /demo\n  \
                            curve playground nbd /demo --socket /tmp/demo.sock && nbdinfo 'nbd+unix:///demo?socket=/tmp/demo.sock'")]
    Nbd(NbdArgs),
    /// Wait until the cluster is healthy.
    Wait {
        #[command(flatten)]
        dir: DirArg,
        /// How long to wait.
        #[arg(long, default_value = "60s")]
        timeout: HumanDuration,
    },
    /// Stop everything and remove the directory with all data.
    #[command(after_help = "Examples:\n  curve playground wipe --dry-run\n  curve playground wipe --yes")]
    Wipe {
        #[command(flatten)]
        dir: DirArg,
        #[command(flatten)]
        destroy: DestroyArgs,
    },
}

/// `curve playground start`.
#[derive(Args, Debug, Clone)]
pub struct StartArgs {
    #[command(flatten)]
    pub dir: DirArg,
    /// Chunkservers, each in a zone of its own.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=200))]
    pub chunkservers: u16,
    /// Metadata servers; an odd number.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=7))]
    pub mds: u16,
    /// For file systems, too: metaserver-1 to metaserver-3, and the object store s3-1.
    #[arg(long)]
    pub fs: bool,
    /// First port to use; free ports are chosen when absent.
    #[arg(long, value_name = "P", value_parser = clap::value_parser!(u16).range(1024..=64000))]
    pub port_base: Option<u16>,
    /// Replicas for each chunkserver, which with three chunkservers is the number of copysets; the MDS decides when absent.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub copysets: Option<u16>,
    /// A `key = value` line added to every chunkserver's configuration (TOML; may be repeated).
    #[arg(long, value_name = "LINE")]
    pub chunkserver_set: Vec<String>,
    /// A `key = value` line added to every MDS's configuration (TOML; may be repeated).
    #[arg(long, value_name = "LINE")]
    pub mds_set: Vec<String>,
    /// A `key = value` line added to every metaserver's configuration (TOML; may be repeated).
    #[arg(long, value_name = "LINE")]
    pub metaserver_set: Vec<String>,
    /// How long to wait for health.
    #[arg(long, default_value = "60s")]
    pub timeout: HumanDuration,
}

/// `curve playground nbd`.
#[derive(Args, Debug, Clone)]
pub struct NbdArgs {
    #[command(flatten)]
    pub dir: DirArg,
    /// Volumes to serve.
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<String>,
    /// Unix socket; D/run/NAME.sock when absent.
    #[arg(long, value_name = "S")]
    pub socket: Option<PathBuf>,
    /// Refuse writes.
    #[arg(long)]
    pub read_only: bool,
    /// Open beside other servers that share the volumes.
    #[arg(long)]
    pub shared: bool,
    /// How long to wait until the exports are ready.
    #[arg(long, default_value = "30s")]
    pub timeout: HumanDuration,
}

/// How a destroying command is guarded.
#[derive(Args, Debug, Clone, Copy)]
pub struct DestroyArgs {
    /// Do not ask.
    #[arg(long)]
    pub yes: bool,
    /// Say what would be destroyed, and do nothing.
    #[arg(long)]
    pub dry_run: bool,
}

/// `curve bs`.
#[derive(Args, Debug)]
pub struct BsArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: BsCommand,
}

/// The verbs of `curve bs`.
#[derive(Subcommand, Debug)]
pub enum BsCommand {
    /// Create a volume.
    #[command(
        after_help = "Examples:\n  curve bs create /demo --size 4GiB\n  curve bs create /vms/web-1 --size 100GiB --json"
    )]
    Create {
        /// Absolute path; its directory must exist.
        path: String,
        /// Size, a multiple of 1 MiB up to 64 TiB. Space is taken only as it is written.
        #[arg(long)]
        size: ByteSize,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Create a directory.
    #[command(after_help = "Examples:\n  curve bs mkdir /vms")]
    Mkdir {
        /// Absolute path; its parent must exist.
        path: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show a volume or directory, and who holds it.
    #[command(after_help = "Examples:\n  curve bs stat /demo --json")]
    Stat {
        /// Absolute path.
        path: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// List a directory.
    #[command(after_help = "Examples:\n  curve bs ls\n  curve bs ls /vms --json")]
    Ls {
        /// Absolute path.
        #[arg(default_value = "/")]
        path: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Remove a volume, or an empty directory.
    #[command(after_help = "Examples:\n  curve bs rm /demo --dry-run\n  curve bs rm /demo --yes")]
    Rm {
        /// Absolute path.
        path: String,
        #[command(flatten)]
        destroy: DestroyArgs,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Rename a volume or directory.
    #[command(after_help = "Examples:\n  curve bs mv /demo /old-demo")]
    Mv {
        /// The present path.
        from: String,
        /// The new path; must not exist.
        to: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Grow a volume; it may be open.
    #[command(after_help = "Examples:\n  curve bs resize /demo --size 8GiB")]
    Resize {
        /// Absolute path.
        path: String,
        /// The new size.
        #[arg(long)]
        size: ByteSize,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// List who has a volume open: host, process, mode, epoch, since when, and what is left of the lease.
    #[command(
        after_help = "Examples:\n  curve bs holders /demo\n  curve bs holders /demo --json | jq -r '.[].client'"
    )]
    Holders {
        /// Absolute path.
        path: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Shut holders of a volume out: from the return of this command on, no request of theirs is accepted anywhere.
    ///
    /// Without --holder all of them. The others go on without noticing. Given again after a failure it goes on.
    #[command(
        after_help = "Examples:\n  curve bs fence /demo --dry-run\n  curve bs fence /demo --holder 1234567 --yes"
    )]
    Fence {
        /// Absolute path.
        path: String,
        /// Only this holder, by its id in `curve bs holders`.
        #[arg(long, value_name = "ID")]
        holder: Option<HolderId>,
        #[command(flatten)]
        destroy: DestroyArgs,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show how much space a volume or directory takes.
    #[command(after_help = "Examples:\n  curve bs du /demo --json")]
    Du {
        /// Absolute path.
        path: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// A holder's id, as `curve bs holders` prints it (or as messages name it, with `client-` before it).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HolderId(pub ClientId);

impl FromStr for HolderId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.strip_prefix("client-").unwrap_or(text).parse();
        number
            .map(|id| Self(ClientId(id)))
            .map_err(|_| "an id is a number; `curve bs holders PATH` lists them".into())
    }
}

/// `curve cluster`.
#[derive(Args, Debug)]
pub struct ClusterArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: ClusterCommand,
}

/// The verbs of `curve cluster`.
#[derive(Subcommand, Debug)]
pub enum ClusterCommand {
    /// Health with named codes, each with cause and remedy; MDS members; space.
    #[command(
        after_help = "Examples:\n  curve cluster status\n  curve cluster status --json | jq -r .health"
    )]
    Status {
        /// Print JSON.
        #[arg(long)]
        json: bool,
        /// Exit with 9 unless health is OK.
        #[arg(long)]
        check: bool,
    },
    /// Copysets: members, leader, state.
    #[command(after_help = "Examples:\n  curve cluster copysets --json")]
    Copysets {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Take a chunkserver out of the cluster: its replicas move to others, then it is forgotten.
    #[command(
        after_help = "Examples:\n  curve cluster remove-chunkserver 102 --dry-run\n  curve cluster remove-chunkserver 102"
    )]
    RemoveChunkserver {
        /// Its id, as `curve cluster chunkservers` shows it.
        id: u64,
        #[command(flatten)]
        destroy: DestroyArgs,
    },
    /// Chunkservers: address, zone, state, space.
    #[command(after_help = "Examples:\n  curve cluster chunkservers --json")]
    Chunkservers {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Metaservers: address, zone, state, space, partitions of file systems.
    #[command(after_help = "Examples:\n  curve cluster metaservers --json")]
    Metaservers {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Take a metaserver out of the cluster: its partitions move to others, then it is forgotten.
    #[command(
        after_help = "Examples:\n  curve cluster remove-metaserver 104 --dry-run\n  curve cluster remove-metaserver 104"
    )]
    RemoveMetaserver {
        /// Its id, as `curve cluster metaservers` shows it.
        id: u64,
        #[command(flatten)]
        destroy: DestroyArgs,
    },
}

impl Cli {
    /// Whether failures should be printed as JSON.
    pub fn wants_json(&self) -> bool {
        match &self.command {
            Command::Playground(args) => matches!(args.command, PlaygroundCommand::Status { json: true, .. }),
            Command::Bs(args) => match args.command {
                BsCommand::Create { json, .. }
                | BsCommand::Mkdir { json, .. }
                | BsCommand::Stat { json, .. }
                | BsCommand::Ls { json, .. }
                | BsCommand::Rm { json, .. }
                | BsCommand::Mv { json, .. }
                | BsCommand::Resize { json, .. }
                | BsCommand::Holders { json, .. }
                | BsCommand::Fence { json, .. }
                | BsCommand::Du { json, .. } => json,
            },
            Command::Fs(args) => args.command.wants_json(),
            Command::Iscsi(args) => args.command.wants_json(),
            Command::Cluster(args) => match args.command {
                ClusterCommand::Status { json, .. }
                | ClusterCommand::Copysets { json }
                | ClusterCommand::Chunkservers { json }
                | ClusterCommand::Metaservers { json } => json,
                ClusterCommand::RemoveChunkserver { .. } | ClusterCommand::RemoveMetaserver { .. } => false,
            },
            Command::Serve(_) | Command::Explain { .. } | Command::Completion { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_grammar_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_documented_commands_parse() {
        for line in [
            "curve playground start --dir D --chunkservers 3 --mds 3 --port-base 20000",
            "curve playground status --dir D --json",
            "curve playground stop",
            "curve playground kill mds-1 chunkserver-2 --dir D",
            "curve playground restart mds-1",
            "curve playground wipe --dir D --yes",
            "curve --config c.toml bs create /a --size 4GiB --json",
            "curve bs ls --config c.toml",
            "curve bs mv /a /b",
            "curve bs holders /a --json",
            "curve bs fence /a --holder client-12 --yes",
            "curve iscsi target create iqn.2026-01.com.example:a",
            "curve iscsi target rm iqn.2026-01.com.example:a --yes",
            "curve iscsi target ls --json",
            "curve iscsi lun add iqn.2026-01.com.example:a --lun 0 --volume /a --block-size 4096 --read-only",
            "curve iscsi lun rm iqn.2026-01.com.example:a --lun 0",
            "curve iscsi auth set iqn.2026-01.com.example:a --user u --password-file f --mutual-user v --mutual-password-file g",
            "curve iscsi acl add iqn.2026-01.com.example:a --initiator iqn.i:a",
            "curve iscsi sessions --json",
            "curve iscsi reservations --json",
            "curve cluster status --json",
            "curve cluster metaservers --json",
            "curve cluster remove-metaserver 104 --yes",
            "curve fs create demo --backend s3 --endpoint http://h:9000 --bucket a,b --access-key k --secret-key-file f",
            "curve fs create demo --backend s3 --endpoint http://h:9000 --bucket a --access-key k --region r --partitions 6",
            "curve fs ls --json",
            "curve fs stat demo --json",
            "curve fs rm demo --dry-run",
            "curve fs mounts",
            "curve fs mounts demo --json",
            "curve fs evict mount-1f --yes",
            "curve fs set-keys demo --access-key k --secret-key-file f",
            "curve serve chunkserver --config c.toml",
        ] {
            Cli::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }

    #[test]
    fn a_size_without_a_unit_says_which_units_exist() {
        let error =
            Cli::try_parse_from(["curve", "bs", "create", "/a", "--size", "4096"]).unwrap_err().to_string();
        assert!(error.contains("GiB"), "{error}");
    }
}
