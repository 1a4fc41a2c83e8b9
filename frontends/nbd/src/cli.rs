//! The command line.

use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use curve_nbd::server::Listen;
use curve_nbd::tls::TlsFiles;
use curve_types::ByteSize;

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
    curve-nbd serve bench --memory 1GiB --socket /tmp/bench.sock";

/// NBD server for volumes.
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
    /// Print a completion script for a shell.
    Completion {
        /// Which shell.
        shell: Shell,
    },
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
}

/// A block size that devices can have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum BlockSize {
    /// Sectors, for file systems and loop devices that insist on them; each costs a read of its block.
    #[value(name = "512")]
    Sector,
    /// Blocks as they are stored.
    #[value(name = "4096")]
    Block,
}

impl BlockSize {
    /// As a number.
    pub const fn bytes(self) -> u32 {
        match self {
            Self::Sector => 512,
            Self::Block => 4096,
        }
    }
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
