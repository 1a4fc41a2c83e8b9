//! The command line.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use curve_iscsi::core::NodeName;
use curve_scsi::Lun;
use curve_serving::volumes::Opening;
use curve_serving::{BlockSize, LimitArguments};
use curve_types::{ByteSize, HumanDuration};

const EXAMPLES: &str = "\
Examples:
  Serve every target of the cluster (`curve iscsi target create`, `curve iscsi lun add`), beside other gateways:
    curve-iscsi serve --gateway gw-1 --listen 0.0.0.0:3260 --advertise gw-1.example.com:3260

  Serve two volumes as one target, and use them from a host with open-iscsi:
    curve-iscsi serve --listen 0.0.0.0:3260 --iqn iqn.2026-01.com.example:db --lun 0=/db --lun 1=/logs
    iscsiadm -m discovery -t sendtargets -p HOST
    iscsiadm -m node -T iqn.2026-01.com.example:db -p HOST --login

  The same for two hosts that know a secret, and prove to them who we are:
    curve-iscsi serve --listen 0.0.0.0:3260 --iqn iqn.2026-01.com.example:db --lun 0=/db \\
        --initiator iqn.1993-08.org.debian:01:a --initiator iqn.1993-08.org.debian:01:b \\
        --chap-user db --chap-password-file secret --mutual-user gw --mutual-password-file other-secret

  Copy an image with QEMU, without a kernel initiator:
    qemu-img convert -n disk.qcow2 iscsi://HOST/iqn.2026-01.com.example:db/0

  Measure the iSCSI frontend alone, without a cluster:
    curve-iscsi serve --listen 127.0.0.1:3260 --iqn iqn.2026-01.com.example:bench --lun 0=bench --memory 1GiB";

/// iSCSI target for volumes.
#[derive(Debug, Parser)]
#[command(name = "curve-iscsi", version, arg_required_else_help = true, after_help = EXAMPLES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve volumes until SIGTERM or SIGINT, which asks initiators to log out and lets commands in flight finish first.
    ///
    /// Prints one line `ready iscsi://HOST:PORT/IQN/LUN` for each portal and unit once initiators can connect; with
    /// --gateway, whose units come and go, one line `ready iscsi://HOST:PORT` for each portal.
    Serve(Box<Serve>),
    /// Print a completion script for a shell.
    Completion {
        /// Which shell.
        shell: Shell,
    },
}

/// How to serve.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Serve {
    /// Listen on these. Port 0 takes a free one.
    #[arg(long, value_name = "HOST:PORT", required = true, num_args = 1..)]
    pub listen: Vec<String>,
    /// What discovery tells initiators to connect to [default: what they have connected to].
    #[arg(long, value_name = "HOST:PORT", num_args = 1..)]
    pub advertise: Vec<String>,
    /// Serve the targets of the cluster, under this name. Any number of gateways serve the same units, each with a name of
    /// its own, which it keeps: reservations remember through which gateway they were made.
    #[arg(long, value_name = "NAME", conflicts_with_all = [
        "iqn", "lun", "block_size", "read_only", "memory", "takeover", "initiator", "chap_user", "chap_password_file",
        "mutual_user", "mutual_password_file",
    ])]
    pub gateway: Option<String>,
    /// Name of the target.
    #[arg(long, value_name = "IQN", value_parser = name, required_unless_present = "gateway")]
    pub iqn: Option<NodeName>,
    /// A volume and the number it is served under; may be given several times.
    #[arg(long, value_name = "N=PATH", required_unless_present = "gateway")]
    pub lun: Vec<LunArgument>,
    /// Bytes of a logical block.
    #[arg(long, value_name = "BYTES", value_enum, default_value = "512")]
    pub block_size: BlockSize,
    /// Refuse whatever would change a volume.
    #[arg(long)]
    pub read_only: bool,
    /// Client configuration [default: $CURVE_CONFIG, ./curve.toml, /etc/curve/curve.toml].
    #[arg(long, value_name = "FILE", conflicts_with = "memory")]
    pub config: Option<PathBuf>,
    /// Serve empty devices of this size in memory instead of volumes: to measure the frontend alone.
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<ByteSize>,
    /// Shut out whoever has a volume open. A former server on this host that is gone needs no such permission.
    #[arg(long, conflicts_with_all = ["memory", "read_only"])]
    pub takeover: bool,
    /// Let in only this initiator; may be given several times [default: every one].
    #[arg(long, value_name = "NAME", value_parser = name)]
    pub initiator: Vec<NodeName>,
    /// Require CHAP: the name that initiators give.
    #[arg(long, value_name = "NAME", requires = "chap_password_file")]
    pub chap_user: Option<String>,
    /// File with the secret that initiators have to know, 12 bytes or more.
    #[arg(long, value_name = "FILE", requires = "chap_user")]
    pub chap_password_file: Option<PathBuf>,
    /// Prove who we are to initiators that ask: our name.
    #[arg(long, value_name = "NAME", requires_all = ["mutual_password_file", "chap_user"])]
    pub mutual_user: Option<String>,
    /// File with the secret of ours, 12 bytes or more and not that of the initiators.
    #[arg(long, value_name = "FILE", requires = "mutual_user")]
    pub mutual_password_file: Option<PathBuf>,
    /// Serve /metrics and /healthz here.
    #[arg(long, value_name = "HOST:PORT")]
    pub http: Option<String>,
    /// Threads to serve with. One uses the least CPU per operation; more help several busy sessions.
    #[arg(long, value_name = "N", default_value = "1")]
    pub threads: NonZeroUsize,
    /// How long an initiator may take to log in.
    #[arg(long, value_name = "TIME", default_value = "30s", help_heading = "Limits")]
    pub login_timeout: HumanDuration,
    /// How many may connect.
    #[command(flatten)]
    pub limits: LimitArguments,
}

impl Serve {
    /// How the volumes of the command line are opened.
    pub fn opening(&self) -> Opening {
        Opening {
            config: self.config.clone(),
            read_only: self.read_only,
            takeover: self.takeover,
            block: self.block_size.bytes(),
            ..Opening::default()
        }
    }
}

/// `N=PATH`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LunArgument {
    /// The unit's number.
    pub lun: Lun,
    /// The volume's path.
    pub path: String,
}

impl FromStr for LunArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, path) = text.split_once('=').ok_or("write NUMBER=PATH, for example 0=/db")?;
        let lun = number.parse().ok().and_then(Lun::new);
        let lun = lun.ok_or_else(|| format!("{number} is no number from 0 to {}", Lun::MAX.number()))?;
        if path.is_empty() {
            return Err("the path after = is missing".to_owned());
        }
        Ok(Self { lun, path: path.to_owned() })
    }
}

fn name(text: &str) -> Result<NodeName, String> {
    NodeName::new(text).ok_or_else(|| {
        "write a name like iqn.2026-01.com.example:disk (iqn., eui. or naa., letters, digits, - . :)"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn refusals_say_what_to_do() {
        let good = ["serve", "--listen", "h:1", "--iqn", "iqn.x:y", "--lun", "0=/a"];
        assert!(Cli::try_parse_from([&["curve-iscsi"], &good[..]].concat()).is_ok());
        for more in [
            &["--listen", "h:1", "--advertise", "g:1"][..],
            &["--listen", "h:1", "i:1"],
            &["--listen", "h:1", "--listen", "i:1"],
        ] {
            let gateway = [&["curve-iscsi", "serve", "--gateway", "gw-1"], more].concat();
            assert!(Cli::try_parse_from(gateway).is_ok(), "{more:?}");
        }
        for (args, hint) in [
            (&["serve", "--iqn", "iqn.x:y", "--lun", "0=/a"][..], "--listen"),
            (&["serve", "--listen", "h:1", "--lun", "0=/a"], "--iqn"),
            (&["serve", "--listen", "h:1", "--iqn", "iqn.x:y"], "--lun"),
            (&["serve", "--listen", "h:1", "--iqn", "disk", "--lun", "0=/a"], "iqn.2026-01.com.example:disk"),
            (&["serve", "--listen", "h:1", "--iqn", "iqn.x:y", "--lun", "/a"], "0=/db"),
            (&["serve", "--listen", "h:1", "--iqn", "iqn.x:y", "--lun", "16384=/a"], "16383"),
            (&["serve", "--listen", "h:1", "--iqn", "iqn.x:y", "--lun", "1="], "missing"),
            (&[&good[..], &["--chap-user", "u"]].concat(), "--chap-password-file"),
            (&[&good[..], &["--mutual-user", "u", "--mutual-password-file", "f"]].concat(), "--chap-user"),
            (&[&good[..], &["--memory", "10"]].concat(), "GiB"),
            (&[&good[..], &["--block-size", "1024"]].concat(), "4096"),
            (&[&good[..], &["--gateway", "gw-1"]].concat(), "--gateway"),
            (&["serve", "--gateway", "gw-1"], "--listen"),
        ] {
            let error =
                Cli::try_parse_from([&["curve-iscsi"], args].concat()).expect_err("refused").to_string();
            assert!(error.contains(hint), "no `{hint}` in: {error}");
        }
    }
}
