//! What a client can choose from.

use curve_blockdev::DeviceShape;

/// One export as a client sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExportInfo {
    /// The name it is listed under: the volume's path without the leading slash.
    pub name: String,
    /// For people.
    pub description: String,
    /// Sizes and abilities when the client connected. A volume that grows is seen larger by the next connection.
    pub shape: DeviceShape,
}

/// The exports of a server, in the order in which they were given; the first is the default.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Catalog {
    exports: Vec<ExportInfo>,
}

impl Catalog {
    /// Names are taken without their leading slash.
    pub fn new(exports: Vec<ExportInfo>) -> Self {
        let exports = exports
            .into_iter()
            .map(|export| ExportInfo { name: canonical(&export.name).to_owned(), ..export });
        Self { exports: exports.collect() }
    }

    /// The export that `name` selects. A leading slash makes no difference, and the empty name selects the first.
    pub fn find(&self, name: &str) -> Option<usize> {
        let wanted = canonical(name);
        if wanted.is_empty() {
            return (!self.exports.is_empty()).then_some(0);
        }
        self.exports.iter().position(|export| export.name == wanted)
    }

    /// The exports in order.
    pub fn exports(&self) -> &[ExportInfo] {
        &self.exports
    }
}

fn canonical(name: &str) -> &str {
    name.strip_prefix('/').unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_with_and_without_a_slash_and_the_empty_one_is_the_first() {
        let shape = DeviceShape {
            size: 0,
            block_min: 512,
            block_preferred: 4096,
            request_max: 1 << 20,
            read_only: false,
        };
        let export = |name: &str| ExportInfo { name: name.to_owned(), description: String::new(), shape };
        let catalog = Catalog::new(vec![export("/demo"), export("/a/b"), export("plain")]);
        for (name, found) in [
            ("", Some(0)),
            ("/", Some(0)),
            ("demo", Some(0)),
            ("/demo", Some(0)),
            ("a/b", Some(1)),
            ("/a/b", Some(1)),
            ("/plain", Some(2)),
            ("b", None),
            ("//demo", None),
        ] {
            assert_eq!(catalog.find(name), found, "{name:?}");
        }
        assert_eq!(Catalog::default().find(""), None);
    }
}
