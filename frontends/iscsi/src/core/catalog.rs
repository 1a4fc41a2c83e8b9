//! Who may log in to what, and where: what login and discovery need to know.

use std::collections::BTreeSet;

use super::chap::Credentials;
use super::text::TextWriter;

/// Longest name of a node (RFC 7143 4.2.7.1).
const NAME_BYTES_MAX: usize = 223;

/// The name of an initiator or target, in its normal form.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeName(String);

impl NodeName {
    /// Takes an `iqn.`, `eui.` or `naa.` name. Case makes no difference, so lower case is what is kept.
    pub fn new(name: &str) -> Option<Self> {
        let name = name.to_lowercase();
        let allowed = |letter: char| letter.is_alphanumeric() || "-.:".contains(letter);
        let typed =
            ["iqn.", "eui.", "naa."].iter().any(|kind| name.starts_with(kind) && name.len() > kind.len());
        (typed && name.len() <= NAME_BYTES_MAX && name.chars().all(allowed)).then_some(Self(name))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for NodeName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which initiators a target knows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Access {
    /// Every one.
    All,
    /// These.
    Only(BTreeSet<NodeName>),
}

impl Access {
    fn admits(&self, initiator: &NodeName) -> bool {
        match self {
            Self::All => true,
            Self::Only(names) => names.contains(initiator),
        }
    }
}

/// A target as login sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TargetEntry {
    /// TargetName.
    pub name: NodeName,
    /// TargetAlias, for people.
    pub alias: Option<String>,
    /// Who may see and use it.
    pub access: Access,
    /// What they have to know; nothing if absent.
    pub credentials: Option<Credentials>,
}

/// Where targets can be reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Portal {
    /// `host:port`, IPv6 in brackets; the address that the initiator has connected to if absent.
    pub address: Option<String>,
    /// Portal group: sessions do not span groups.
    pub group: u16,
}

/// All that is served at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Catalog {
    /// Targets.
    pub targets: Vec<TargetEntry>,
    /// Portals of all of them.
    pub portals: Vec<Portal>,
    /// What an initiator may be asked for that insists on CHAP in discovery.
    pub discovery: Option<Credentials>,
}

/// Why a target is not to be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoAccess {
    /// There is none of that name.
    Unknown,
    /// It is not for this initiator.
    Forbidden,
}

impl Catalog {
    /// The place of a target that an initiator asks for.
    pub fn find(&self, target: &str, initiator: &NodeName) -> Result<usize, NoAccess> {
        let name = NodeName::new(target).ok_or(NoAccess::Unknown)?;
        let index = self.targets.iter().position(|entry| entry.name == name).ok_or(NoAccess::Unknown)?;
        if self.targets[index].access.admits(initiator) { Ok(index) } else { Err(NoAccess::Forbidden) }
    }

    /// Answers SendTargets: all targets that the initiator may use, or one.
    pub fn send_targets(&self, only: Option<&str>, initiator: &NodeName, local: &str, out: &mut TextWriter) {
        let only = only.map(NodeName::new);
        for target in &self.targets {
            let wanted = only.as_ref().is_none_or(|only| only.as_ref() == Some(&target.name));
            if !wanted || !target.access.admits(initiator) {
                continue;
            }
            out.pair("TargetName", target.name.as_str());
            if let Some(alias) = &target.alias {
                out.pair("TargetAlias", alias);
            }
            for portal in &self.portals {
                let address = portal.address.as_deref().unwrap_or(local);
                out.pair("TargetAddress", &format!("{address},{}", portal.group));
            }
        }
    }

    /// The portal group of a connection.
    pub fn group(&self) -> u16 {
        self.portals.first().map_or(1, |portal| portal.group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> NodeName {
        NodeName::new(text).expect("a good name")
    }

    #[test]
    fn names_have_a_type_and_no_case() {
        assert_eq!(name("IQN.2001-04.com.Example:Disk").as_str(), "iqn.2001-04.com.example:disk");
        for good in ["eui.02004567A425678D", "naa.52004567BA64678D", "iqn.2001-04.com.example:ä"] {
            name(good);
        }
        for bad in ["", "iqn.", "disk", "iqn.a b", "iqn.a/b", "iqn.a,b", &format!("iqn.{}", "x".repeat(220))]
        {
            assert_eq!(NodeName::new(bad), None, "{bad}");
        }
    }

    fn catalog() -> Catalog {
        let target =
            |text: &str, access| TargetEntry { name: name(text), alias: None, access, credentials: None };
        Catalog {
            targets: vec![
                target("iqn.x:open", Access::All),
                target("iqn.x:mine", Access::Only([name("iqn.i:a")].into())),
            ],
            portals: vec![
                Portal { address: None, group: 1 },
                Portal { address: Some("[::1]:3261".to_owned()), group: 1 },
            ],
            discovery: None,
        }
    }

    #[test]
    fn targets_are_found_by_those_who_may() {
        for (target, initiator, found) in [
            ("iqn.x:open", "iqn.i:b", Ok(0)),
            ("IQN.X:OPEN", "iqn.i:b", Ok(0)),
            ("iqn.x:mine", "iqn.i:a", Ok(1)),
            ("iqn.x:mine", "iqn.i:b", Err(NoAccess::Forbidden)),
            ("iqn.x:none", "iqn.i:a", Err(NoAccess::Unknown)),
            ("", "iqn.i:a", Err(NoAccess::Unknown)),
        ] {
            assert_eq!(catalog().find(target, &name(initiator)), found, "{target} {initiator}");
        }
    }

    #[test]
    fn discovery_lists_what_the_initiator_may_use() {
        let list = |only, initiator| {
            let mut out = TextWriter::default();
            catalog().send_targets(only, &name(initiator), "10.0.0.1:3260", &mut out);
            String::from_utf8(out.into_bytes()).unwrap().replace('\0', " ")
        };
        let portals = "TargetAddress=10.0.0.1:3260,1 TargetAddress=[::1]:3261,1 ";
        let (open, mine) =
            (format!("TargetName=iqn.x:open {portals}"), format!("TargetName=iqn.x:mine {portals}"));
        assert_eq!(list(None, "iqn.i:a"), format!("{open}{mine}"));
        assert_eq!(list(None, "iqn.i:b"), open);
        assert_eq!(list(Some("iqn.x:mine"), "iqn.i:a"), mine);
        assert_eq!(list(Some("iqn.x:mine"), "iqn.i:b"), "");
        assert_eq!(list(Some("nonsense"), "iqn.i:a"), "");
    }
}
