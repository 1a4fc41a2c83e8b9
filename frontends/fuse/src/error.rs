//! Why there is no mount, each with what to do about it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use curve_config::ConfigError;
use curve_proto::MdsError;
use curve_serving::startup::StartError;
use curvefs_client::{MountError, ObjectTooLarge};
use curvefs_types::FsError;
use thiserror::Error;

use crate::handover::link::LinkError;
use crate::options::OptionError;

/// Why there is no mount, or why it did not end in order.
#[derive(Debug, Error)]
pub enum FuseError {
    /// A mount option.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// The name cannot be a file system's.
    #[error(
        "`{0}` is no name of a file system: 1 to 63 of a-z, 0-9, `-` and `_`, a letter or a digit first; `curve fs ls` lists what exists"
    )]
    Name(String),
    /// The path in the file system is none.
    #[error("`{0}` is no directory of a file system; write NAME:/DIR, or -o subdir=/DIR")]
    SubdirName(String),
    /// The path in the file system is not there, or no directory.
    #[error("{path} in {name}: {cause}; mount {name} whole to see what is there")]
    Subdir {
        /// The file system.
        name: String,
        /// The path.
        path: String,
        /// What is wrong.
        cause: FsError,
    },
    /// The directory is not there.
    #[error("{0} does not exist; make it: mkdir -p {0}")]
    NoDir(PathBuf),
    /// It is something else.
    #[error("{0} is not a directory; mount in a directory")]
    NotDir(PathBuf),
    /// The process of an earlier mount is gone.
    #[error("{0} is a mount whose process is gone; run `curve-fuse umount {0}` first")]
    Stale(PathBuf),
    /// It is there already.
    #[error("{dir} is a mount of {source_name} already; `curve-fuse umount {dir}` ends it")]
    Mounted {
        /// Where.
        dir: PathBuf,
        /// What.
        source_name: String,
    },
    /// The kernel has no FUSE.
    #[error("there is no /dev/fuse: load the module (modprobe fuse); in a container pass --device /dev/fuse")]
    NoFuse,
    /// We may not use it.
    #[error("/dev/fuse cannot be opened ({0}): run as root, or give this user access to it")]
    FuseRefused(io::Error),
    /// The kernel, or fusermount3, refuses.
    #[error("cannot mount in {dir}: {cause}; {hint}")]
    Kernel {
        /// Where.
        dir: PathBuf,
        /// What it says.
        cause: io::Error,
        /// What to do.
        hint: &'static str,
    },
    /// The configuration is missing or wrong.
    #[error("{0}; or name the MDSs with --mds, -o mds= or $CURVE_MDS")]
    Config(#[from] ConfigError),
    /// No such file system.
    #[error("there is no file system {0}; `curve fs ls` lists what exists, `curve fs create` makes one")]
    NoFileSystem(String),
    /// The MDS refuses, or does not answer.
    #[error("cannot mount {name}: {cause}. {remedy}")]
    Mds {
        /// The file system.
        name: String,
        /// Why.
        cause: Box<MdsError>,
        /// What to do.
        remedy: String,
    },
    /// The grant or the record cannot be used.
    #[error("cannot mount {name}: {why}; use a curve-fuse of the servers' version")]
    Version {
        /// The file system.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// The root does not answer.
    #[error(
        "the metaservers of {name} do not answer ({why}); see `curve fs stat {name}` and `curve cluster status`"
    )]
    Unusable {
        /// The file system.
        name: String,
        /// What was seen.
        why: String,
    },
    /// There is nothing to take over.
    #[error("{dir} is not a CurveFS mount; {}", if mounts.is_empty() { "there is none on this host".to_owned() } else { format!("mounted are: {}", mounts.join(", ")) })]
    NotMounted {
        /// The directory.
        dir: PathBuf,
        /// What is.
        mounts: Vec<String>,
    },
    /// The process of the mount does not listen.
    #[error(
        "nobody serves {dir} who could hand it over ({cause}): if its process is gone run `curve-fuse umount {dir}` and mount again; if it \
         is of a version without `upgrade`, unmount and mount once"
    )]
    NoDoor {
        /// The directory.
        dir: PathBuf,
        /// What was seen.
        cause: io::Error,
    },
    /// The mount is another user's.
    #[error("{dir} is served by user {user}; run `curve-fuse upgrade` as that user")]
    NotYours {
        /// The directory.
        dir: PathBuf,
        /// Whose it is.
        user: u32,
    },
    /// The process that serves the mount goes on.
    #[error("{dir} was not taken over from the process that serves it, which goes on: {why}")]
    Stays {
        /// The directory.
        dir: PathBuf,
        /// What is in the way.
        why: LinkError,
    },
    /// A signal came before the mount was usable.
    #[error("ended by {0} before the mount was usable")]
    Interrupted(&'static str),
    /// The process behind the mount says why it does not work.
    #[error("{0}")]
    Failed(String),
    /// It says nothing.
    #[error("the process behind the mount ended without a word; see {0}")]
    Silent(PathBuf),
    /// Whoever started the mount is gone.
    #[error("nobody waits for the mount any more; it was ended")]
    Unwanted,
    /// Data could not be stored in time.
    #[error("{bytes} written bytes could not be stored within {} s of the signal and are lost ({why})", within.as_secs())]
    Unpublished {
        /// How many.
        bytes: u64,
        /// How long was tried.
        within: Duration,
        /// The last failure.
        why: String,
    },
    /// It does not even begin.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The system refuses something basic.
    #[error("{what}: {cause}")]
    System {
        /// What was tried.
        what: String,
        /// Why it failed.
        cause: io::Error,
    },
}

impl FuseError {
    /// Names what was tried.
    pub fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |cause| Self::System { what: what.into(), cause }
    }

    /// The mount stays with the process that serves it.
    pub fn stays(dir: &Path, why: LinkError) -> Self {
        Self::Stays { dir: dir.to_owned(), why }
    }

    /// Why the MDS grants no mount of a file system.
    pub fn of_grant(name: &str, error: MountError) -> Self {
        let name = name.to_owned();
        match error {
            MountError::Mds(MdsError::NotFound { .. }) => Self::NoFileSystem(name),
            MountError::Mds(cause) => Self::Mds { name, remedy: cause.remedy(), cause: Box::new(cause) },
            MountError::Partitions(bad) => Self::Version { name, why: bad.to_string() },
        }
    }

    /// The record has a store that this version cannot use.
    pub fn of_store(name: &str, error: ObjectTooLarge) -> Self {
        Self::Version { name: name.to_owned(), why: error.to_string() }
    }
}
