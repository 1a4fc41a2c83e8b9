//! The command line.

use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use curve_nbd::server::Listen;
use curve_nbd::tls::TlsFiles;
use curve_serving::{BlockSize, LimitArguments};
use curve_types::{ByteSize, HumanDuration};

const EXAMPLES: &str = "\
Examples:
  Serve a volume on a Unix socket, and use it:
    curve-nbd serve /demo --socket /tmp/demo.sock
    nbdinfo 'nbd+unix:///demo?socket=/tmp/demo.sock'
    qemu-img convert -n disk.qcow2 'nbd+unix:///demo?socket=/tmp/demo.sock'

  Serve two volumes over TCP with TLS, to clients with a certificate of our own authority only:
    curve-nbd serve /db /logs --listen 0.0.0.0:10809 \\
        --tls-cert server-cert.pem --tls-key server-key.pem --tls-ca ca-cert.pem
    nbdinfo --list 'nbds://host?tls-certificates=DIR'

  Measure the NBD frontend alone, without a cluster:
    curve-nbd serve bench --memory 1GiB --socket /tmp/bench.sock

  Attach a volume to this host's kernel:
    curve-nbd map /demo";

/// NBD for volumes: a server for NBD clients, and block devices of this host's kernel.
#[derive(Debug, Parser)]
#[command(name = "curve-nbd", version, arg_required_else_help = true, after_help = EXAMPLES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve volumes until SIGTERM or SIGINT, which lets requests in flight finish first.
    ///
    /// Prints one line `ready URI` for each volume once clients can connect.
    Serve(Box<Serve>),
    /// Attach a volume to this host's kernel as /dev/nbdN, and print the device.
    ///
    /// The device outlives the process that serves it: when that dies or is upgraded, I/O waits in the kernel and goes on
    /// with the next process, which is started at once.
    Map(Box<Map>),
    /// Detach devices. A device that is mounted or used otherwise is refused.
    Unmap(Unmap),
    /// Show the devices of this host.
    ListMapped(ListMapped),
    /// Let new processes of this version serve devices, whether their old ones still run or not.
    Takeover(Takeover),
    /// Serve one device until it is unmapped, starting its process again whenever it dies.
    #[command(hide = true)]
    Keep(Attach),
    /// Serve one device.
    #[command(hide = true)]
    Attach(Attach),
    /// Print a completion script for a shell.
    Completion {
        /// Which shell.
        shell: Shell,
    },
}

const MAP_EXAMPLES: &str = "\
Examples:
  curve-nbd map /db                                  prints /dev/nbd0
  mkfs.ext4 /dev/nbd0 && mount -o discard /dev/nbd0 /mnt
  curve-nbd map /db --device /dev/nbd3 --persist     also after a reboot (systemctl enable curve-nbd)
  curve-nbd map --all                                what /etc/curve/curvetab lists
  curve-nbd list-mapped
  curve-nbd takeover --all                           after an upgrade; I/O waits for less than a second
  curve-nbd unmap /dev/nbd0";

const LIST_EXAMPLES: &str = "\
Examples:
  curve-nbd list-mapped
  curve-nbd list-mapped --json | jq -r '.[] | .device + \" \" + .path'";

/// What to map.
#[derive(Debug, Args)]
#[command(after_help = MAP_EXAMPLES, group(ArgGroup::new("what").required(true).args(["path", "all"])))]
pub struct Map {
    /// The volume.
    pub path: Option<String>,
    /// Whatever /etc/curve/curvetab lists and is not mapped yet.
    #[arg(long)]
    pub all: bool,
    /// Which device, /dev/nbdN [default: a free one].
    #[arg(long, value_name = "DEVICE", conflicts_with = "all")]
    pub device: Option<String>,
    /// Map it again when the machine starts: adds it to /etc/curve/curvetab.
    #[arg(long, conflicts_with = "all")]
    pub persist: bool,
    /// What an I/O does that cannot finish: wait, or fail with EIO after --timeout.
    #[arg(long, value_enum, default_value = "queue", conflicts_with = "all")]
    pub on_timeout: OnTimeoutArg,
    /// How long an I/O may take with `--on-timeout eio`.
    #[arg(long, value_name = "TIME", default_value = "30s", conflicts_with = "all")]
    pub timeout: HumanDuration,
    /// Refuse whatever would change the volume.
    #[arg(long, conflicts_with = "all")]
    pub read_only: bool,
    /// Open the volume beside other hosts that share it.
    #[arg(long, conflicts_with = "all")]
    pub shared: bool,
    /// Smallest unit that may be addressed, in bytes.
    #[arg(long, value_name = "BYTES", value_enum, default_value = "4096", conflicts_with = "all")]
    pub block_size: BlockSize,
    /// Shut out whoever has the volume open and stands in the way.
    #[arg(long, conflicts_with_all = ["all", "read_only"])]
    pub takeover: bool,
    /// Client configuration [default: $CURVE_CONFIG, ./curve.toml, /etc/curve/curve.toml].
    #[arg(long, value_name = "FILE", conflicts_with = "all")]
    pub config: Option<PathBuf>,
    /// Stay, and serve until the device is unmapped.
    #[arg(long, conflicts_with = "all")]
    pub foreground: bool,
}

/// What an I/O does that cannot finish.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum OnTimeoutArg {
    /// It waits, as a disk's queue does.
    Queue,
    /// It fails.
    Eio,
}

/// What to detach.
#[derive(Debug, Args)]
#[command(after_help = MAP_EXAMPLES, group(ArgGroup::new("what").required(true).args(["names", "all"])))]
pub struct Unmap {
    /// Devices, or the volumes that are attached to them.
    #[arg(value_name = "DEVICE|PATH")]
    pub names: Vec<String>,
    /// All devices of this host.
    #[arg(long)]
    pub all: bool,
    /// Even if it is mounted or used otherwise: what is not written yet is lost, and its users get errors.
    #[arg(long)]
    pub force: bool,
    /// Take it out of /etc/curve/curvetab, too.
    #[arg(long)]
    pub forget: bool,
}

/// How to show the devices.
#[derive(Debug, Args)]
#[command(after_help = LIST_EXAMPLES)]
pub struct ListMapped {
    /// As JSON.
    #[arg(long)]
    pub json: bool,
}

/// Which devices.
#[derive(Debug, Args)]
#[command(after_help = MAP_EXAMPLES, group(ArgGroup::new("what").required(true).args(["names", "all"])))]
pub struct Takeover {
    /// Devices, or the volumes that are attached to them.
    #[arg(value_name = "DEVICE|PATH")]
    pub names: Vec<String>,
    /// All devices of this host.
    #[arg(long)]
    pub all: bool,
}

/// A mapping, as one process of ours tells it to another.
#[derive(Debug, Args)]
pub struct Attach {
    /// The mapping as JSON.
    #[arg(long)]
    pub mapping: String,
    /// The device is attached already and waits for a process.
    #[arg(long)]
    pub again: bool,
    /// Shut out whoever has the volume open and stands in the way.
    #[arg(long)]
    pub takeover: bool,
}

/// How to serve.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, group(ArgGroup::new("place").required(true)))]
pub struct Serve {
    /// Volumes to serve, each under its path; a client that names none gets the first.
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<String>,
    /// Listen on a Unix socket. The file of a server that is gone is replaced.
    #[arg(long, value_name = "FILE", group = "place")]
    pub socket: Option<PathBuf>,
    /// Listen on a TCP address; port 0 takes a free one.
    #[arg(long, value_name = "HOST:PORT", group = "place")]
    pub listen: Option<String>,
    /// Refuse whatever would change a volume. It is then open beside any other holder, with --shared or without.
    #[arg(long)]
    pub read_only: bool,
    /// Open the volumes beside other servers that share them, and let those write, too. All see each other's writes at
    /// once; which of their clients writes where is up to those (a cluster file system, a clustered database).
    #[arg(long, conflicts_with = "memory")]
    pub shared: bool,
    /// Client configuration [default: $CURVE_CONFIG, ./curve.toml, /etc/curve/curve.toml].
    #[arg(long, value_name = "FILE", conflicts_with = "memory")]
    pub config: Option<PathBuf>,
    /// Serve empty devices of this size in memory instead of volumes: to measure the frontend alone.
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<ByteSize>,
    /// Smallest unit that clients may address, in bytes.
    #[arg(long, value_name = "BYTES", value_enum, default_value = "4096")]
    pub block_size: BlockSize,
    /// Shut out whoever has a volume open and stands in the way. A former server on this host that is gone needs no such
    /// permission.
    #[arg(long, conflicts_with_all = ["memory", "read_only"])]
    pub takeover: bool,
    /// Require TLS, with this certificate (PEM, followed by those between it and its authority).
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// Private key of the certificate (PEM).
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Let in only clients with a certificate of this authority (PEM).
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_ca: Option<PathBuf>,
    /// Serve /metrics and /healthz here.
    #[arg(long, value_name = "HOST:PORT")]
    pub http: Option<String>,
    /// Limit each volume to this many operations per second.
    #[arg(long, value_name = "N")]
    pub ops_per_second: Option<NonZeroU64>,
    /// Limit each volume to this much read and written per second.
    #[arg(long, value_name = "SIZE")]
    pub bytes_per_second: Option<ByteSize>,
    /// Threads to serve with. One uses the least CPU per operation; more help several busy connections.
    #[arg(long, value_name = "N", default_value = "1")]
    pub threads: NonZeroUsize,
    /// How long a client may take until it has chosen an export, and as long again for TLS.
    #[arg(long, value_name = "TIME", default_value = "30s", help_heading = "Limits")]
    pub handshake_timeout: HumanDuration,
    /// How many may connect.
    #[command(flatten)]
    pub limits: LimitArguments,
}

impl Serve {
    /// Where to listen.
    pub fn place(&self) -> Listen {
        match (&self.socket, &self.listen) {
            (Some(path), _) => Listen::Unix(path.clone()),
            (None, Some(address)) => Listen::Tcp(address.clone()),
            (None, None) => unreachable!("clap requires one of the group"),
        }
    }

    /// Where the certificate is, if TLS is wanted.
    pub fn tls_files(&self) -> Option<TlsFiles> {
        let (cert, key) = (self.tls_cert.clone()?, self.tls_key.clone()?);
        Some(TlsFiles { cert, key, ca: self.tls_ca.clone() })
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn refusals_say_what_to_do() {
        for (args, hint) in [
            (&["serve", "/demo"][..], "--socket"),
            (&["serve", "--socket", "/s"], "PATH"),
            (&["serve", "/demo", "--socket", "/s", "--listen", "h:1"], "cannot be used with"),
            (&["serve", "/demo", "--socket", "/s", "--memory", "10"], "GiB"),
            (&["serve", "/demo", "--socket", "/s", "--tls-cert", "c"], "--tls-key"),
            (&["serve", "/demo", "--socket", "/s", "--reed-only"], "--read-only"),
        ] {
            let error =
                Cli::try_parse_from([&["curve-nbd"], args].concat()).expect_err("refused").to_string();
            assert!(error.contains(hint), "no `{hint}` in: {error}");
        }
    }
}
