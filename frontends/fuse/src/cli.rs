//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

const EXAMPLES: &str = "\
Examples:
  curve-fuse mount data /mnt/data --background       returns when it is usable
  curve-fuse mount data /mnt/data -o ro,noatime
  curve-fuse upgrade /mnt/data --background          this program goes on with the mount; open files stay open
  curve-fuse umount /mnt/data                        returns when everything is stored

  In /etc/fstab (with curve-fuse linked as /sbin/mount.curvefs):
    data  /mnt/data  curvefs  _netdev,mds=10.0.0.1:6700/10.0.0.2:6700/10.0.0.3:6700  0 0";

const UPGRADE_EXAMPLES: &str = "\
Examples:
  /usr/bin/curve-fuse upgrade /mnt/data --background
      the installed version serves /mnt/data from now on
  for dir in $(findmnt -nlo TARGET -t fuse.curvefs); do curve-fuse upgrade $dir --background; done
      all mounts of this host";

/// Mounts CurveFS file systems on this host.
#[derive(Debug, Parser)]
#[command(name = "curve-fuse", version, arg_required_else_help = true, after_help = EXAMPLES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Mount a file system in a directory, and serve it until it is unmounted or SIGTERM comes.
    ///
    /// Prints `mounted DIR` once it is usable. A mount survives restarts and outages of every server: what needs them waits,
    /// and goes on (`-o soft,timeo=30s` lets it fail instead).
    Mount(Box<Mount>),
    /// Go on with a mount that another process serves, in its place: for a new version, or new limits of the process.
    ///
    /// Programs notice nothing: open files, locks, mappings and directories being listed go on, and requests wait for a moment.
    /// Prints `took over DIR` once they are served; the other process has ended then. If anything is in the way the other process
    /// goes on, and it is said why. Options and configuration are those of the mount. To be run as the user who mounted.
    Upgrade(Upgrade),
    /// Unmount a directory, and wait until everything that was written is stored.
    Umount(Umount),
    /// Print a completion script for a shell.
    Completion {
        /// Which shell.
        shell: Shell,
    },
}

/// What to mount.
#[derive(Clone, Debug, Default, Args)]
#[command(after_help = mount_help())]
pub struct Mount {
    /// The file system; `NAME:/DIR` for a directory of it.
    pub name: String,
    /// Where.
    pub dir: PathBuf,
    /// Mount options, separated by commas; see below.
    #[arg(short = 'o', value_name = "OPTS", action = clap::ArgAction::Append)]
    pub options: Vec<String>,
    /// Return as soon as the mount is usable; a process of its own serves it.
    #[arg(long)]
    pub background: bool,
    /// Addresses of the MDSs, separated by commas [default: $CURVE_MDS, or those of the configuration].
    #[arg(long, value_name = "HOST:PORT,…", value_delimiter = ',')]
    pub mds: Vec<String>,
    /// Client configuration [default: $CURVE_CONFIG, ./curve.toml, /etc/curve/curve.toml].
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Append the log to this file [default: standard error; with --background /var/log/curve/curve-fuse.log].
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// Serve /metrics and /healthz here.
    #[arg(long, value_name = "HOST:PORT")]
    pub http: Option<String>,
    /// Ignore mount options that are not known (mount(8)'s `-s`).
    #[arg(long, hide = true)]
    pub sloppy: bool,
    /// Started by a process that reads one line.
    #[arg(long, hide = true)]
    pub child: bool,
}

/// What to go on with.
#[derive(Clone, Debug, Args)]
#[command(after_help = UPGRADE_EXAMPLES)]
pub struct Upgrade {
    /// The directory.
    pub dir: PathBuf,
    /// Return as soon as the mount was taken over; a process of its own serves it.
    #[arg(long)]
    pub background: bool,
    /// Started by a process that reads one line.
    #[arg(long, hide = true)]
    pub child: bool,
}

/// What to unmount.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Umount {
    /// The directory.
    pub dir: PathBuf,
    /// Take it out of the tree even if it is in use; it ends when nobody uses it any more.
    #[arg(long)]
    pub lazy: bool,
}

fn mount_help() -> String {
    format!("Mount options:\n{}\n{EXAMPLES}", crate::options::help())
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
    fn mounts_are_parsed_and_refusals_say_what_to_do() {
        let args =
            ["curve-fuse", "mount", "data", "/mnt", "-o", "ro,soft", "-o", "noatime", "--mds", "a:1,b:2"];
        let Command::Mount(mount) = Cli::try_parse_from(args).unwrap().command else { panic!() };
        assert_eq!(
            (mount.options, mount.mds),
            (vec!["ro,soft".into(), "noatime".into()], vec!["a:1".into(), "b:2".into()])
        );
        for (args, hint) in [
            (&["mount", "data"][..], "DIR"),
            (&["mount", "data", "/mnt", "--backgroud"], "--background"),
            (&["umount"], "DIR"),
            (&["upgrade"], "DIR"),
        ] {
            let error =
                Cli::try_parse_from([&["curve-fuse"], args].concat()).expect_err("refused").to_string();
            assert!(error.contains(hint), "no `{hint}` in: {error}");
        }
        let help = Cli::try_parse_from(["curve-fuse", "mount", "--help"]).expect_err("help").to_string();
        assert!(help.contains("attr_timeout=") && help.contains("/etc/fstab"), "{help}");
        let help = Cli::try_parse_from(["curve-fuse", "upgrade", "--help"]).expect_err("help").to_string();
        assert!(help.contains("curve-fuse upgrade /mnt/data --background"), "{help}");
    }
}
