//! Which members a playground has. Written when it is made, read by every later command.

use std::fmt;
use std::fs;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::failure::{Code, Failure};
use crate::playground::layout::{Layout, replace_file};

/// What a member does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Metadata server of volumes and of the cluster.
    Mds,
    /// Chunkserver.
    Chunkserver,
    /// Metadata server of file systems.
    Metaserver,
    /// Object store: where file systems keep data.
    S3,
    /// NBD server: a client of the cluster, not a part of it.
    Nbd,
}

/// A member's name: its role and number, as in `mds-1`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct MemberName {
    /// Its role.
    pub role: Role,
    /// Its number among those of its role, from 1.
    pub number: u16,
}

impl Role {
    /// All of them, in the order in which they are started.
    pub const ALL: [Self; 5] = [Self::Mds, Self::Chunkserver, Self::Metaserver, Self::S3, Self::Nbd];

    /// The first part of names.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Mds => "mds",
            Self::Chunkserver => "chunkserver",
            Self::Metaserver => "metaserver",
            Self::S3 => "s3",
            Self::Nbd => "nbd",
        }
    }

    /// Whether the cluster consists of it.
    pub const fn is_server(self) -> bool {
        !matches!(self, Self::Nbd)
    }

    /// Whether there are replicas that it can be filled from.
    pub const fn has_replicas(self) -> bool {
        matches!(self, Self::Mds | Self::Chunkserver | Self::Metaserver)
    }
}

impl fmt::Display for MemberName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}-{}", self.role.prefix(), self.number))
    }
}

impl FromStr for MemberName {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self, Failure> {
        let parsed = text.rsplit_once('-').and_then(|(prefix, number)| {
            let role = Role::ALL.into_iter().find(|role| role.prefix() == prefix)?;
            Some(Self { role, number: number.parse().ok().filter(|n| *n > 0)? })
        });
        parsed.ok_or_else(|| {
            Failure::new(Code::Usage, format!("`{text}` is not the name of a member")).try_this(
                "use names such as mds-1, chunkserver-2 or nbd-1; `curve playground status` lists them",
            )
        })
    }
}

impl Serialize for MemberName {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MemberName {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// One member.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Member {
    /// Its name.
    pub name: MemberName,
    /// Framed data-plane port; 0 for a member that does not listen there.
    pub data_port: u16,
    /// gRPC port; 0 for a member without the control plane.
    pub control_port: u16,
    /// Port of `/metrics` and `/healthz`.
    pub http_port: u16,
    /// Failure domain; empty for a member that stores nothing.
    #[serde(default)]
    pub zone: String,
    /// For `nbd-N`: what is served.
    #[serde(default)]
    pub paths: Vec<String>,
    /// For `nbd-N`: the Unix socket.
    #[serde(default)]
    pub socket: String,
    /// For `nbd-N`: whether writes are refused.
    #[serde(default)]
    pub read_only: bool,
    /// For `nbd-N`: whether others may have the volumes open, too.
    #[serde(default)]
    pub shared: bool,
}

impl Member {
    /// `127.0.0.1:PORT` of the data plane.
    pub fn data_address(&self) -> String {
        format!("127.0.0.1:{}", self.data_port)
    }

    /// `127.0.0.1:PORT` of the control plane.
    pub fn control_address(&self) -> String {
        format!("127.0.0.1:{}", self.control_port)
    }

    /// `127.0.0.1:PORT` of `/metrics` and `/healthz`.
    pub fn http_address(&self) -> String {
        format!("127.0.0.1:{}", self.http_port)
    }
}

/// The members of a playground.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// Version of this file's format.
    pub version: u32,
    /// The MDS group's name, so that processes of two playgrounds never take each other for members.
    pub cluster: String,
    /// All members, in the order of their roles.
    pub members: Vec<Member>,
}

impl Plan {
    /// The present format.
    pub const VERSION: u32 = 1;

    /// Reads the plan of a playground.
    pub fn load(layout: &Layout) -> Result<Self, Failure> {
        let path = layout.plan_file();
        let text = fs::read_to_string(&path).map_err(|error| Failure::file("read", &path, &error))?;
        let broken = |cause: String| {
            Failure::new(Code::Config, format!("{} is not a playground's plan", path.display()))
                .because(cause)
                .try_this("start another playground in another directory, or restore the file")
        };
        let plan: Self = serde_json::from_str(&text).map_err(|error| broken(error.to_string()))?;
        if plan.version != Self::VERSION {
            return Err(broken(format!(
                "its version is {}, this program knows {}",
                plan.version,
                Self::VERSION
            )));
        }
        Ok(plan)
    }

    /// Writes the plan.
    pub fn store(&self, layout: &Layout) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(self).expect("a plan is always representable");
        replace_file(&layout.plan_file(), &(text + "\n"))
    }

    /// Members of one role.
    pub fn of(&self, role: Role) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(move |member| member.name.role == role)
    }

    /// All but clients.
    pub fn servers(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.name.role.is_server())
    }

    /// The member called `name`.
    pub fn member(&self, name: MemberName) -> Result<&Member, Failure> {
        self.members.iter().find(|member| member.name == name).ok_or_else(|| {
            let known: Vec<String> = self.members.iter().map(|member| member.name.to_string()).collect();
            Failure::new(Code::NotFound, format!("this playground has no {name}"))
                .try_this(format!("its members are {}", known.join(", ")))
        })
    }

    /// The members that `names` mean; all of them when there are none.
    pub fn select(&self, names: &[String]) -> Result<Vec<Member>, Failure> {
        if names.is_empty() {
            return Ok(self.members.clone());
        }
        let mut selected: Vec<Member> = Vec::new();
        for name in names {
            let member = self.member(name.parse()?)?;
            if !selected.contains(member) {
                selected.push(member.clone());
            }
        }
        Ok(selected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_wrong_ones_say_which_are_right() {
        for text in ["mds-1", "chunkserver-12", "metaserver-3", "s3-1", "nbd-1"] {
            assert_eq!(text.parse::<MemberName>().expect(text).to_string(), text);
        }
        for text in ["mds", "mds-0", "mds-x", "osd-1", ""] {
            let failure = text.parse::<MemberName>().expect_err(text);
            assert_eq!(failure.code, Code::Usage);
            assert!(failure.remedy.is_some_and(|remedy| remedy.contains("chunkserver-2")));
        }
    }
}
