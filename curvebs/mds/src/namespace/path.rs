//! What a path may look like.

use curve_proto::MdsError;

const PATH_BYTES_MAX: usize = 4096;
const NAME_BYTES_MAX: usize = 255;
const DEPTH_MAX: usize = 64;

/// A valid absolute path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NamePath<'a> {
    names: Vec<&'a str>,
}

impl<'a> NamePath<'a> {
    /// Accepts `/`, and `/a/b` with or without a slash at its end.
    pub(crate) fn parse(text: &'a str) -> Result<Self, MdsError> {
        let refuse = |why: &str| Err(MdsError::BadPath { path: text.to_owned(), why: why.to_owned() });
        let Some(rest) = text.strip_prefix('/') else {
            return refuse("it must begin with `/`");
        };
        if text.len() > PATH_BYTES_MAX {
            return refuse("it is longer than 4096 bytes");
        }
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.is_empty() {
            return Ok(Self { names: Vec::new() });
        }
        let names: Vec<&str> = rest.split('/').collect();
        if names.len() > DEPTH_MAX {
            return refuse("it has more than 64 parts");
        }
        for name in &names {
            match *name {
                "" => return refuse("it has an empty part"),
                "." | ".." => return refuse("`.` and `..` are not allowed"),
                name if name.len() > NAME_BYTES_MAX => return refuse("a part is longer than 255 bytes"),
                name if name.chars().any(char::is_control) => return refuse("it has a control character"),
                _ => {}
            }
        }
        Ok(Self { names })
    }

    /// The names from the root down.
    pub(crate) fn names(&self) -> &[&'a str] {
        &self.names
    }

    /// The directory above and the last name; `None` for the root.
    pub(crate) fn split(&self) -> Option<(Self, &'a str)> {
        let (last, above) = self.names.split_last()?;
        Some((Self { names: above.to_vec() }, last))
    }

    /// The path of the first `depth` names, as text.
    pub(crate) fn prefix(&self, depth: usize) -> String {
        format!("/{}", self.names[..depth].join("/"))
    }

    /// As text, without a slash at the end.
    pub(crate) fn text(&self) -> String {
        self.prefix(self.names.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_paths() {
        for (text, names) in
            [("/", &[][..]), ("/a", &["a"]), ("/a/b c/d.e", &["a", "b c", "d.e"]), ("/a/", &["a"])]
        {
            assert_eq!(NamePath::parse(text).unwrap().names(), names, "{text}");
        }
        let path = NamePath::parse("/a/b").unwrap();
        let (above, last) = path.split().unwrap();
        assert_eq!((above.text(), last), ("/a".to_owned(), "b"));
    }

    #[test]
    fn bad_paths_say_why() {
        let long = format!("/{}", "x".repeat(256));
        let deep = "/x".repeat(65);
        for (text, why) in [
            ("", "begin"),
            ("a/b", "begin"),
            ("//a", "empty"),
            ("/a//b", "empty"),
            ("/a/../b", "`..`"),
            ("/a\n", "control"),
            (&long, "255"),
            (&deep, "64"),
        ] {
            let error = NamePath::parse(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
