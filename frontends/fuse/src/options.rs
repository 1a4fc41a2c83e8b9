//! The text after `-o`. Pure.

use std::path::PathBuf;
use std::time::Duration;

use curve_config::nearest;
use curve_types::{ByteSize, HumanDuration};
use curvefs_fuse::{IdMap, IdMaps, KernelOptions};
use curvefs_types::MountOptions;
use curvefs_types::limits::STAGED_SLICE_BYTES_MAX;
use thiserror::Error;

/// What `-o` says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Options {
    /// For the file system.
    pub fs: MountOptions,
    /// Changes to what the kernel is told.
    pub kernel: Flags,
    /// Addresses of the MDSs.
    pub mds: Option<Vec<String>>,
    /// The client's configuration.
    pub config: Option<PathBuf>,
    /// Where to log.
    pub log: Option<PathBuf>,
    /// Where to serve metrics.
    pub http: Option<String>,
    /// The directory of the file system that is mounted as the root.
    pub subdir: Option<String>,
    /// Users and groups that have other numbers here than in the file system.
    pub ids: IdMaps,
}

/// Flags of the kernel; `None` leaves the default.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Flags {
    allow_other: Option<bool>,
    dev: Option<bool>,
    suid: Option<bool>,
    exec: Option<bool>,
}

impl Flags {
    /// Together with the defaults of who mounts: only root can let others in, unless the system's administrator says so.
    pub fn kernel(self, source: &str, is_root: bool) -> KernelOptions {
        KernelOptions {
            source: source.to_owned(),
            allow_other: self.allow_other.unwrap_or(is_root),
            dev: self.dev.unwrap_or(is_root),
            suid: self.suid.unwrap_or(is_root),
            exec: self.exec.unwrap_or(true),
            ids: IdMaps::default(),
        }
    }
}

/// An option that cannot be.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum OptionError {
    /// Nobody knows it.
    #[error("unknown mount option `{name}` (`curve-fuse mount --help` lists all){}",
        nearest.map_or(String::new(), |nearest| format!("; did you mean `{nearest}`?")))]
    Unknown {
        /// As given.
        name: String,
        /// What was probably meant.
        nearest: Option<&'static str>,
    },
    /// It needs a value, or takes none.
    #[error("mount option `{0}` {1}")]
    Shape(String, &'static str),
    /// Its value is none.
    #[error("mount option `{name}={value}`: {why}")]
    Value {
        /// The option.
        name: &'static str,
        /// Its value.
        value: String,
        /// What is wrong.
        why: String,
    },
    /// It is known and cannot be had.
    #[error("mount option `{0}` is not supported: {1}")]
    Unsupported(&'static str, &'static str),
}

/// How an option is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Shape {
    Flag,
    Value(&'static str),
}

use Shape::{Flag, Value};

/// What is ours, in the order of the help.
const OURS: &[(&str, Shape, &str)] = &[
    ("ro", Flag, "read only"),
    ("rw", Flag, "read and write (default)"),
    (
        "nocto",
        Flag,
        "open does not ask whether others have changed the file: they are seen after attr_timeout",
    ),
    ("noatime", Flag, "access times are not kept"),
    (
        "delegate",
        Flag,
        "new files in directories that this mount made are made without asking, and published many at a time (default)",
    ),
    ("adopt", Flag, "so too in directories that others made, as long as nobody else works in them (default)"),
    ("noadopt", Flag, "so only in directories that this mount made"),
    ("nodelegate", Flag, "every file is made by its partition, and durable then"),
    ("attr_timeout", Value("TIME"), "how long attributes of files are believed (1s)"),
    ("dir_attr_timeout", Value("TIME"), "how long attributes of directories are believed (1s)"),
    ("entry_timeout", Value("TIME"), "how long names are believed (1s)"),
    ("negative_timeout", Value("TIME"), "how long it is believed that a name is not there (0s)"),
    ("write_cache", Value("SIZE"), "written data in memory that is not stored yet (64MiB)"),
    ("read_cache", Value("SIZE"), "read data in memory (256MiB)"),
    (
        "stage",
        Value("BYTES"),
        "synced writes of no more wait in the metadata, not for the data store (32KiB; 0: never)",
    ),
    ("hard", Flag, "wait for servers and the data store for ever (default)"),
    ("soft", Flag, "fail with EIO after timeo"),
    ("timeo", Value("TIME"), "how long `soft` waits (30s)"),
    ("allow_other", Flag, "other users may use the mount (default for root)"),
    ("noallow_other", Flag, "only who mounts may use it"),
    ("subdir", Value("DIR"), "mount this directory of the file system, as NAME:/DIR does"),
    (
        "uidmap",
        Value("HOST:FS[:N]"),
        "users with other numbers here than in the file system; several with `+` between them",
    ),
    ("gidmap", Value("HOST:FS[:N]"), "the same of groups"),
    ("mds", Value("H:P/H:P"), "addresses of the MDSs, separated by `/`"),
    ("config", Value("FILE"), "client configuration"),
    ("log", Value("FILE"), "append the log to this file"),
    ("http", Value("H:P"), "serve /metrics and /healthz here"),
    ("dev", Flag, "device files work; nodev: they do not"),
    ("suid", Flag, "set-user-id works; nosuid: it does not"),
    ("exec", Flag, "programs can be run; noexec: they cannot"),
];

/// Negations that are not in the help's column.
const NEGATIONS: &[&str] = &["nodev", "nosuid", "noexec"];

/// What others read (mount(8), systemd) or what means nothing here.
const IGNORED: &[&str] = &[
    "defaults",
    "_netdev",
    "auto",
    "noauto",
    "nofail",
    "user",
    "nouser",
    "users",
    "owner",
    "group",
    "async",
    "relatime",
    "norelatime",
    "nodiratime",
    "nostrictatime",
    "silent",
    "loud",
    "nomand",
    "cto",
];

/// What is known and refused.
const REFUSED: &[(&str, &str)] = &[
    ("remount", "unmount and mount again"),
    ("bind", "use `mount --bind` without a type"),
    ("sync", "open files with O_SYNC, or call fsync"),
    ("dirsync", "changes of directories are always durable when they are answered"),
    ("strictatime", "reads leave access times alone"),
    ("uid", "files have owners of their own; uidmap=HOST:FS translates"),
    ("gid", "files have groups of their own; gidmap=HOST:FS translates"),
];

/// The list for the help.
pub fn help() -> String {
    let line = |(name, shape, text): &(&str, Shape, &str)| {
        let written = match shape {
            Flag => (*name).to_owned(),
            Value(what) => format!("{name}={what}"),
        };
        format!("  {written:<24} {text}\n")
    };
    OURS.iter().map(line).collect()
}

/// Parses all that `-o` says; later options win. `sloppy` passes over what nobody knows.
pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>, sloppy: bool) -> Result<Options, OptionError> {
    let mut options = Options::default();
    let (mut soft, mut timeo) = (false, None);
    for item in texts.into_iter().flat_map(|text| text.split(',')).map(str::trim) {
        let (name, value) = item.split_once('=').map_or((item, None), |(name, value)| (name, Some(value)));
        if name.is_empty() || IGNORED.contains(&name) || name.starts_with("x-") || name.starts_with("comment")
        {
            continue;
        }
        if let Some((name, why)) = REFUSED.iter().find(|(refused, _)| *refused == name) {
            return Err(OptionError::Unsupported(name, why));
        }
        match shape(name) {
            None if sloppy => continue,
            None => return Err(unknown(name)),
            Some((_, Flag)) if value.is_some() => {
                return Err(OptionError::Shape(name.to_owned(), "takes no value"));
            }
            Some((name, Flag)) => match name {
                "soft" => soft = true,
                "hard" => soft = false,
                _ => options.set_flag(name),
            },
            Some((name, Value(what))) => match value.filter(|value| !value.is_empty()) {
                None => {
                    let example = match what {
                        "SIZE" => "needs a value such as 64MiB",
                        "BYTES" => "needs a value such as 32KiB",
                        _ => "needs a value",
                    };
                    return Err(OptionError::Shape(name.to_owned(), example));
                }
                Some(value) if name == "timeo" => timeo = Some(time(name, value)?),
                Some(value) => options.set_value(name, value)?,
            },
        }
    }
    match (soft, timeo) {
        (true, timeo) => options.fs.soft_timeout = Some(timeo.unwrap_or(SOFT_DEFAULT)),
        (false, Some(_)) => return Err(OptionError::Shape("timeo".into(), "goes with `soft`")),
        (false, None) => {}
    }
    Ok(options)
}

/// What `soft` waits without `timeo`.
const SOFT_DEFAULT: Duration = Duration::from_secs(30);
/// Less memory than one block of each kind needs is no cache.
const CACHE_MIN: u64 = 8 << 20;

fn shape(name: &str) -> Option<(&'static str, Shape)> {
    let ours = OURS.iter().map(|(name, shape, _)| (*name, *shape));
    ours.chain(NEGATIONS.iter().map(|name| (*name, Flag))).find(|(known, _)| *known == name)
}

fn unknown(name: &str) -> OptionError {
    let known: Vec<&'static str> =
        OURS.iter().map(|(name, ..)| *name).chain(NEGATIONS.iter().copied()).collect();
    OptionError::Unknown { name: name.to_owned(), nearest: nearest(name, &known) }
}

fn bad(name: &'static str, value: &str, why: impl Into<String>) -> OptionError {
    OptionError::Value { name, value: value.to_owned(), why: why.into() }
}

/// A time with a unit. A bare number is seconds, as in other FUSE file systems; but of `timeo`, where NFS has tenths of a second.
fn time(name: &'static str, value: &str) -> Result<Duration, OptionError> {
    if let Ok(seconds) = value.parse::<f64>() {
        if name == "timeo" {
            return Err(bad(name, value, format!("write the unit: {value}s, or {value}00ms as NFS has it")));
        }
        return Duration::try_from_secs_f64(seconds).map_err(|error| bad(name, value, error.to_string()));
    }
    let parsed = value.parse::<HumanDuration>().map_err(|error| bad(name, value, error.to_string()))?;
    if name == "timeo" && parsed.0.is_zero() {
        return Err(bad(name, value, "must be more than nothing; without `soft` I/O waits for ever"));
    }
    Ok(parsed.0)
}

fn size(name: &'static str, value: &str) -> Result<u64, OptionError> {
    let parsed = value.parse::<ByteSize>().map_err(|error| bad(name, value, error.to_string()))?;
    if parsed.0 < CACHE_MIN {
        return Err(bad(name, value, format!("at least {}", ByteSize(CACHE_MIN))));
    }
    Ok(parsed.0)
}

fn stage_size(name: &'static str, value: &str) -> Result<u64, OptionError> {
    let parsed = value.parse::<ByteSize>().map_err(|error| bad(name, value, error.to_string()))?;
    let most = u64::from(STAGED_SLICE_BYTES_MAX);
    if parsed.0 > most {
        return Err(bad(name, value, format!("at most {}", ByteSize(most))));
    }
    Ok(parsed.0)
}

impl Options {
    fn set_flag(&mut self, name: &str) {
        let Self { fs, kernel, .. } = self;
        match name {
            "ro" => fs.read_only = true,
            "rw" => fs.read_only = false,
            "nocto" => fs.close_to_open = false,
            "noatime" => fs.no_atime = true,
            "delegate" => fs.delegate = true,
            "nodelegate" => fs.delegate = false,
            "adopt" => fs.adopt = true,
            "noadopt" => fs.adopt = false,
            "allow_other" => kernel.allow_other = Some(true),
            "noallow_other" => kernel.allow_other = Some(false),
            "dev" => kernel.dev = Some(true),
            "nodev" => kernel.dev = Some(false),
            "suid" => kernel.suid = Some(true),
            "nosuid" => kernel.suid = Some(false),
            "exec" => kernel.exec = Some(true),
            "noexec" => kernel.exec = Some(false),
            other => unreachable!("the table has no flag {other}"),
        }
    }

    fn set_value(&mut self, name: &'static str, value: &str) -> Result<(), OptionError> {
        let fs = &mut self.fs;
        match name {
            "attr_timeout" => fs.attr_timeout = time(name, value)?,
            "dir_attr_timeout" => fs.dir_attr_timeout = time(name, value)?,
            "entry_timeout" => fs.entry_timeout = time(name, value)?,
            "negative_timeout" => fs.negative_timeout = time(name, value)?,
            "write_cache" => fs.write_cache_bytes = size(name, value)?,
            "read_cache" => fs.read_cache_bytes = size(name, value)?,
            "stage" => fs.stage_bytes = stage_size(name, value)?,
            "mds" => self.mds = Some(addresses(name, value)?),
            "config" => self.config = Some(value.into()),
            "log" => self.log = Some(value.into()),
            "http" => self.http = Some(value.to_owned()),
            "subdir" => self.subdir = Some(value.to_owned()),
            "uidmap" => self.ids.users = joined(name, value, &self.ids.users)?,
            "gidmap" => self.ids.groups = joined(name, value, &self.ids.groups)?,
            other => unreachable!("the table has no value {other}"),
        }
        Ok(())
    }
}

/// A map's lines behind those that were given before.
fn joined(name: &'static str, value: &str, before: &IdMap) -> Result<IdMap, OptionError> {
    let map = value.parse::<IdMap>().and_then(|map| before.joined(&map));
    map.map_err(|error| bad(name, value, error.to_string()))
}

fn addresses(name: &'static str, value: &str) -> Result<Vec<String>, OptionError> {
    let all: Vec<String> = value.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect();
    match all.iter().find(|address| !address.contains(':')) {
        Some(odd) => Err(bad(name, value, format!("`{odd}` has no port; write HOST:PORT/HOST:PORT"))),
        None if all.is_empty() => Err(bad(name, value, "write HOST:PORT/HOST:PORT")),
        None => Ok(all),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(text: &str) -> Result<Options, OptionError> {
        parse([text], false)
    }

    #[test]
    fn options_mean_what_they_say() {
        let seconds = Duration::from_secs;
        let all = one(
            "rw,ro,nocto,noatime,delegate,nodelegate,adopt,noadopt,attr_timeout=5s,dir_attr_timeout=0.5,entry_timeout=1m,negative_timeout=0,\
             write_cache=64MiB,read_cache=1GiB,stage=4KiB,soft,timeo=10s,noallow_other,nodev,nosuid,noexec,mds=a:1/b:2,log=/l,\
             _netdev,nofail,x-systemd.automount,comment=hello,defaults",
        );
        let options = all.unwrap();
        let fs = MountOptions {
            close_to_open: false,
            read_only: true,
            no_atime: true,
            attr_timeout: seconds(5),
            dir_attr_timeout: Duration::from_millis(500),
            entry_timeout: seconds(60),
            negative_timeout: seconds(0),
            soft_timeout: Some(seconds(10)),
            delegate: false,
            adopt: false,
            write_cache_bytes: 64 << 20,
            read_cache_bytes: 1 << 30,
            stage_bytes: 4 << 10,
        };
        assert_eq!((options.fs, options.mds), (fs, Some(vec!["a:1".into(), "b:2".into()])));
        let kernel = options.kernel.kernel("data", true);
        assert_eq!((kernel.allow_other, kernel.dev, kernel.suid, kernel.exec), (false, false, false, false));
        let plain = one("").unwrap();
        assert_eq!(plain, Options::default());
        let delegates = |text| one(text).unwrap().fs.delegate;
        assert_eq!(["", "nodelegate", "nodelegate,delegate"].map(delegates), [true, false, true]);
        assert!(
            plain.kernel.kernel("data", true).allow_other && !plain.kernel.kernel("data", false).allow_other
        );
        assert_eq!(one("soft").unwrap().fs.soft_timeout, Some(SOFT_DEFAULT));
        assert_eq!(one("soft,hard").unwrap().fs.soft_timeout, None);
        assert!(!parse(["ro", "rw"], false).unwrap().fs.read_only, "the last one wins");
        let mapped = one("uidmap=1:2+3:4,gidmap=5:6:10,uidmap=7:8").unwrap().ids;
        assert_eq!(
            (mapped.users.to_string(), mapped.groups.to_string()),
            ("1:2:1+3:4:1+7:8:1".into(), "5:6:10".into())
        );
    }

    #[test]
    fn refusals_say_what_to_do() {
        for (text, hint) in [
            ("noatme", "did you mean `noatime`?"),
            ("atr_timeout=1s", "did you mean `attr_timeout`?"),
            ("colour=red", "--help"),
            ("ro=1", "takes no value"),
            ("attr_timeout", "needs a value"),
            ("write_cache", "64MiB"),
            ("attr_timeout=soon", "attr_timeout=soon"),
            ("attr_timeout=-1", "attr_timeout=-1"),
            ("soft,timeo=600", "600s"),
            ("soft,timeo=0s", "more than nothing"),
            ("timeo=5s", "soft"),
            ("write_cache=10", "write_cache=10"),
            ("read_cache=1MiB", "8MiB"),
            ("stage=1MiB", "at most 128KiB"),
            ("stage", "32KiB"),
            ("mds=host", "no port"),
            ("remount,ro", "unmount and mount again"),
            ("uid=5", "uidmap=HOST:FS"),
            ("uidmap", "needs a value"),
            ("uidmap=5", "HOST:FS"),
            ("gidmap=1:2,gidmap=1:3", "twice"),
        ] {
            let error = one(text).expect_err(text).to_string();
            assert!(error.contains(hint), "no `{hint}` in: {error}");
        }
        assert!(parse(["colour=red,ro"], true).unwrap().fs.read_only, "sloppy passes over it");
    }

    #[test]
    fn the_help_has_every_option_and_each_is_taken() {
        let help = help();
        for (name, shape, _) in OURS {
            assert!(help.contains(&format!("  {name}")), "{name}");
            let text = match shape {
                Flag => (*name).to_owned(),
                Value("SIZE") => format!("{name}=64MiB"),
                Value("BYTES") => format!("{name}=16KiB"),
                Value("TIME") => format!("soft,{name}=1s"),
                Value("HOST:FS[:N]") => format!("{name}=1:2:3+50:60"),
                Value(_) => format!("{name}=a:1"),
            };
            assert!(one(&text).is_ok(), "{text}");
        }
        assert!(NEGATIONS.iter().all(|name| one(name).is_ok()));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[a-z_=,.0-9/é-]{0,40}", sloppy: bool) {
            let _ = parse([text.as_str()], sloppy);
        }

        #[test]
        fn no_time_panics(name in prop::sample::select(vec!["attr_timeout", "timeo"]), value in "[0-9eE.+infanms-]{1,12}") {
            let _ = one(&format!("soft,{name}={value}"));
        }
    }
}
