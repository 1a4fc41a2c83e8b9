//! How mount(8) calls the helper of a file system: `mount.curvefs NAME DIR [-sfnv] [-N NAMESPACE] [-o OPTS] [-t TYPE]`
//! (mount(8), "EXTERNAL HELPERS").

use std::ffi::{OsStr, OsString};

use thiserror::Error;

use crate::cli::Mount;

/// What mount(8) wants.
#[derive(Debug)]
pub struct Helper {
    /// The mount. mount(8) returns when it is usable.
    pub mount: Mount,
    /// Do everything but mount.
    pub fake: bool,
}

/// The command line is not mount(8)'s.
#[derive(Debug, PartialEq, Eq, Error)]
pub enum HelperError {
    /// Source or directory are missing.
    #[error("usage: mount.curvefs NAME DIR [-sfnv] [-o OPTS]")]
    Usage,
    /// A flag that is not mount(8)'s.
    #[error("unknown flag `{0}`; usage: mount.curvefs NAME DIR [-sfnv] [-o OPTS]")]
    Flag(String),
    /// The flag needs something after it.
    #[error("`{0}` needs a value")]
    Value(String),
}

/// Whether the program was called by one of the names that mount(8) uses.
pub fn is_helper(name: &OsStr) -> bool {
    name == "mount.curvefs" || name == "mount.fuse.curvefs"
}

/// The arguments after the program's name.
pub fn parse(args: &[OsString]) -> Result<Helper, HelperError> {
    let mut mount = Mount { background: true, ..Mount::default() };
    let (mut fake, mut named) = (false, Vec::new());
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let text = arg.to_string_lossy().into_owned();
        let Some(flags) = text.strip_prefix('-').filter(|flags| !flags.is_empty()) else {
            named.push(arg.clone());
            continue;
        };
        for (at, flag) in flags.char_indices() {
            match flag {
                's' => mount.sloppy = true,
                'f' => fake = true,
                'n' | 'v' => {}
                'o' | 't' | 'N' => {
                    let rest = &flags[at + 1..];
                    let value = match (rest, args.as_slice()) {
                        ("", []) => return Err(HelperError::Value(format!("-{flag}"))),
                        ("", _) => args.next().map(|next| next.to_string_lossy().into_owned()),
                        (rest, _) => Some(rest.to_owned()),
                    };
                    mount.options.extend(value.filter(|_| flag == 'o'));
                    break;
                }
                _ => return Err(HelperError::Flag(text)),
            }
        }
    }
    let [name, dir] = named.as_slice() else { return Err(HelperError::Usage) };
    mount.name = name.to_string_lossy().into_owned();
    mount.dir = dir.into();
    Ok(Helper { mount, fake })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    fn parsed(line: &str) -> Result<Helper, HelperError> {
        parse(&line.split_whitespace().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn mounts_way_of_calling_is_understood() {
        for line in [
            "data /mnt -o rw,ro",
            "data /mnt -o rw -o ro",
            "-o rw,ro data /mnt",
            "data /mnt -n -v -orw,ro",
            "data /mnt -nvo rw,ro -t curvefs",
        ] {
            let helper = parsed(line).unwrap();
            assert_eq!(
                (helper.mount.name.as_str(), &*helper.mount.dir),
                ("data", Path::new("/mnt")),
                "{line}"
            );
            assert_eq!(helper.mount.options.join(","), "rw,ro", "{line}");
            assert!(helper.mount.background && !helper.fake && !helper.mount.sloppy);
        }
        let helper = parsed("data /mnt -sf").unwrap();
        assert!(helper.fake && helper.mount.sloppy);
        for (line, error) in [
            ("data", HelperError::Usage),
            ("data /mnt more", HelperError::Usage),
            ("data /mnt -x", HelperError::Flag("-x".into())),
            ("data /mnt --background", HelperError::Flag("--background".into())),
            ("data /mnt -o", HelperError::Value("-o".into())),
        ] {
            assert_eq!(parsed(line).unwrap_err(), error, "{line}");
        }
        assert!(is_helper("mount.curvefs".as_ref()) && !is_helper("curve-fuse".as_ref()));
    }

    proptest! {
        #[test]
        fn no_command_line_panics(args in prop::collection::vec("[-a-zA-Z,=/é]{0,6}", 0..6)) {
            let _ = parse(&args.into_iter().map(OsString::from).collect::<Vec<_>>());
        }
    }
}
