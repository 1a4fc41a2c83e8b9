//! Whether it can be mounted there: everything that can be said before anybody is asked.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use curvefs_fuse::KernelOptions;

use crate::cli::Mount;
use crate::error::FuseError;
use crate::mounts;
use crate::options::{self, Options};

/// What is to be mounted where and how, checked.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The file system.
    pub name: String,
    /// The directory of it that becomes the root, without slashes around it; `None` for its own root.
    pub subdir: Option<String>,
    /// Where, by its full name.
    pub dir: PathBuf,
    /// How.
    pub options: Options,
    /// The options as given, for people.
    pub options_text: String,
    /// The MDSs, if they were named.
    pub mds: Option<Vec<String>>,
    /// The client's configuration, if it was named.
    pub config: Option<PathBuf>,
    /// The log, if it was named.
    pub log: Option<PathBuf>,
    /// Where to serve metrics.
    pub http: Option<String>,
}

impl Plan {
    /// Checks what the command line says and what is in its way on this host.
    pub fn new(mount: &Mount) -> Result<Self, FuseError> {
        let mut plan = Self::of_words(mount)?;
        plan.dir = check_dir(&mount.dir)?;
        check_device()?;
        Ok(plan)
    }

    /// What the command line says, without looking at the host.
    pub fn of_words(mount: &Mount) -> Result<Self, FuseError> {
        let options = options::parse(mount.options.iter().map(String::as_str), mount.sloppy)?;
        let (name, path) = match mount.name.split_once(':') {
            Some((name, path)) => (name, Some(path.to_owned())),
            None => (mount.name.as_str(), None),
        };
        check_name(name)?;
        let subdir = path.or_else(|| options.subdir.clone());
        let subdir = subdir.map(|path| check_subdir(&path)).transpose()?.filter(|path| !path.is_empty());
        let mds = Some(mount.mds.clone()).filter(|mds| !mds.is_empty()).or_else(|| options.mds.clone());
        Ok(Self {
            name: name.to_owned(),
            subdir,
            dir: mount.dir.clone(),
            options_text: mount.options.join(","),
            mds,
            config: mount.config.clone().or_else(|| options.config.clone()),
            log: mount.log.clone().or_else(|| options.log.clone()),
            http: mount.http.clone().or_else(|| options.http.clone()),
            options,
        })
    }

    /// What the kernel is told.
    pub fn kernel(&self, is_root: bool) -> KernelOptions {
        KernelOptions { ids: self.options.ids.clone(), ..self.options.kernel.kernel(&self.source(), is_root) }
    }

    /// The source as `mount` shows it.
    pub fn source(&self) -> String {
        match &self.subdir {
            Some(path) => format!("{}:/{path}", self.name),
            None => self.name.clone(),
        }
    }
}

fn check_name(name: &str) -> Result<(), FuseError> {
    let letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let good = name.starts_with(letter)
        && name.len() <= 63
        && name.chars().all(|c| letter(c) || c == '-' || c == '_');
    if good { Ok(()) } else { Err(FuseError::Name(name.to_owned())) }
}

/// The path without slashes around it, and without steps that lead nowhere or up.
fn check_subdir(path: &str) -> Result<String, FuseError> {
    let steps: Vec<&str> = path.split('/').filter(|step| !step.is_empty() && *step != ".").collect();
    if !path.starts_with('/') || steps.contains(&"..") {
        return Err(FuseError::SubdirName(path.to_owned()));
    }
    Ok(steps.join("/"))
}

fn check_dir(dir: &Path) -> Result<PathBuf, FuseError> {
    let failed = |cause: io::Error| match cause.kind() {
        ErrorKind::NotFound => FuseError::NoDir(dir.to_owned()),
        ErrorKind::NotADirectory => FuseError::NotDir(dir.to_owned()),
        ErrorKind::NotConnected => FuseError::Stale(dir.to_owned()),
        _ => FuseError::System { what: dir.display().to_string(), cause },
    };
    let full = mounts::full_name(dir).map_err(failed)?;
    let lines = mounts::all().map_err(FuseError::system(mounts::TABLE))?;
    let ours = mounts::ours_at(&lines, &full);
    // Asked of a mount whose servers do not answer, it would wait with them: only what is not ours is asked.
    if let Some(line) = ours {
        return match fs::metadata(&full) {
            Err(cause) if cause.kind() == ErrorKind::NotConnected => Err(FuseError::Stale(full)),
            _ => Err(FuseError::Mounted { dir: full, source_name: line.source }),
        };
    }
    let metadata = fs::metadata(&full).map_err(failed)?;
    if metadata.is_dir() { Ok(full) } else { Err(FuseError::NotDir(full)) }
}

fn check_device() -> Result<(), FuseError> {
    match File::options().read(true).write(true).open("/dev/fuse") {
        Ok(_) => Ok(()),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound) => Err(FuseError::NoFuse),
        // No module behind the device (ENODEV, ENXIO).
        Err(error) if matches!(error.raw_os_error(), Some(19 | 6)) => Err(FuseError::NoFuse),
        Err(error) => Err(FuseError::FuseRefused(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(name: &str, options: &str) -> Result<Plan, FuseError> {
        let options = vec![options.to_owned()];
        Plan::of_words(&Mount { name: name.into(), dir: "/mnt".into(), options, ..Mount::default() })
    }

    #[test]
    fn names_are_checked_and_directories_of_them_taken() {
        for (name, subdir) in [
            ("data", None),
            ("9-a_b", None),
            ("data:/", None),
            ("data:/a", Some("a")),
            ("data://a/./b/", Some("a/b")),
        ] {
            let plan = words(name, "").unwrap();
            assert_eq!(plan.subdir.as_deref(), subdir, "{name}");
        }
        assert_eq!(words("data", "subdir=/x/y").unwrap().source(), "data:/x/y");
        let long = "a".repeat(64);
        for name in ["", "-a", "Data", "a b", "data/x", "é", long.as_str()] {
            assert!(matches!(words(name, ""), Err(FuseError::Name(_))), "{name}");
        }
        for path in ["data:a", "data:", "data:/a/../b"] {
            assert!(matches!(words(path, ""), Err(FuseError::SubdirName(_))), "{path}");
        }
    }

    #[test]
    fn the_command_line_stands_before_the_options() {
        let mount = Mount {
            name: "data".into(),
            options: vec!["mds=a:1/b:2,log=/l".into(), "http=h:1".into()],
            log: Some("/other".into()),
            ..Mount::default()
        };
        let plan = Plan::of_words(&mount).unwrap();
        assert_eq!(plan.mds, Some(vec!["a:1".into(), "b:2".into()]));
        assert_eq!((plan.log, plan.http.as_deref()), (Some("/other".into()), Some("h:1")));
        assert_eq!(plan.options_text, "mds=a:1/b:2,log=/l,http=h:1");
        let plan = Plan::of_words(&Mount { mds: vec!["c:3".into()], ..mount }).unwrap();
        assert_eq!(plan.mds, Some(vec!["c:3".into()]));
    }

    #[test]
    fn directories_are_checked() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(check_dir(dir.path()).unwrap(), dir.path().canonicalize().unwrap());
        assert!(matches!(check_dir(&dir.path().join("none")), Err(FuseError::NoDir(_))));
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(matches!(check_dir(&file), Err(FuseError::NotDir(_))));
        assert!(matches!(check_dir(&file.join("below")), Err(FuseError::NotDir(_))));
    }
}
