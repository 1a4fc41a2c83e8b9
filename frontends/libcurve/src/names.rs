//! The ways in which programs write a volume's name with a user in it.
//!
//! `/dir/file_user_`, `cbd:pool//dir/file_user_:/etc/client.conf` and `pool@@file_user_` name `/dir/file` and `/file`. The
//! pool means nothing, to the original neither; the user nothing to us.

/// A name taken apart.
#[derive(PartialEq, Eq, Debug)]
pub struct VolumeName {
    /// The path in the cluster.
    pub path: String,
    /// The configuration file that the name carries.
    pub config: Option<String>,
}

impl VolumeName {
    /// Takes a name apart. A name without a user is a path already.
    pub fn parse(name: &str) -> Self {
        let (rest, config) = match name.strip_prefix("cbd:") {
            Some(rest) => match rest.split_once(':') {
                Some((rest, config)) => (rest, Some(config.to_owned())),
                None => (rest, None),
            },
            None => (name, None),
        };
        let rest = without_user(rest);
        let path = if rest.starts_with('/') {
            rest.to_owned()
        } else if let Some((_, path)) = rest.split_once("@@") {
            format!("/{path}")
        } else if let Some((_, path)) = rest.split_once('/') {
            if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
        } else {
            format!("/{rest}")
        };
        Self { path, config: config.filter(|config| !config.is_empty()) }
    }
}

/// The last component without `_user_` at its end.
fn without_user(name: &str) -> &str {
    let Some(rest) = name.strip_suffix('_') else { return name };
    match rest.rsplit_once('_') {
        Some((path, user)) if !user.is_empty() && !user.contains('/') && !path.ends_with('/') => path,
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_users() {
        for (name, path, config) in [
            ("/disk_me_", "/disk", None),
            ("/a/b_c_me_", "/a/b_c", None),
            ("/disk", "/disk", None),
            ("/disk_", "/disk_", None),
            ("/_me_", "/_me_", None),
            ("/a_b/c_", "/a_b/c_", None),
            ("cbd:pool//a/disk_me_", "/a/disk", None),
            ("cbd:pool//disk_me_:/etc/c.conf", "/disk", Some("/etc/c.conf")),
            ("cbd:pool/disk_me_:", "/disk", None),
            ("pool@@disk_me_", "/disk", None),
            ("pool//disk_me_", "/disk", None),
            ("disk", "/disk", None),
            ("", "/", None),
            ("__", "/__", None),
        ] {
            let parsed = VolumeName::parse(name);
            assert_eq!((parsed.path.as_str(), parsed.config.as_deref()), (path, config), "{name}");
        }
    }
}
