//! `curve fs info`: what a file is made of.

mod pages;
mod ranges;

use std::fs::{self, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use curve_telemetry::say;
use curve_types::ByteSize;
use serde_json::{Value, json};

use self::pages::Found;
use self::ranges::Kind;
use super::attributes::{self, Lines, Links};
use super::du;
use crate::cli::mounted::InfoArgs;
use crate::failure::Failure;
use crate::output;

/// Shows each path.
pub(super) fn run(args: &InfoArgs) -> Result<(), Failure> {
    let mut all = Vec::new();
    for path in &args.paths {
        all.push(Info::of(path, args)?);
    }
    if args.json {
        output::json(&all.iter().map(Info::json).collect::<Vec<_>>());
        return Ok(());
    }
    all.iter().for_each(Info::print);
    Ok(())
}

/// What is known of a path.
struct Info<'a> {
    path: &'a Path,
    mount: Lines,
    place: Lines,
    metadata: Metadata,
    usage: Option<(du::Usage, du::Usage)>,
    found: Option<Found>,
}

impl<'a> Info<'a> {
    fn of(path: &'a Path, args: &InfoArgs) -> Result<Self, Failure> {
        let mount = attributes::mount_of(path, Links::Themselves)?;
        let metadata = fs::symlink_metadata(path).map_err(|error| Failure::file("read", path, &error))?;
        let place = attributes::lines(path, "curve.file.info", Links::Themselves)?;
        let usage = match metadata.is_dir() {
            true => du::usage_of(&attributes::lines(path, "curve.dir.usage", Links::Themselves)?),
            false => None,
        };
        let found = match metadata.is_file() {
            true => Some(pages::find(path, args.offset.0, args.limit as usize)?),
            false => None,
        };
        Ok(Self { path, mount, place, metadata, usage, found })
    }

    fn kind(&self) -> &'static str {
        let kind = self.metadata.file_type();
        match () {
            () if kind.is_file() => "file",
            () if kind.is_dir() => "directory",
            () if kind.is_symlink() => "symlink",
            () if kind.is_fifo() => "fifo",
            () if kind.is_socket() => "socket",
            () if kind.is_char_device() => "character device",
            () => "block device",
        }
    }

    fn number(&self, name: &str) -> u64 {
        self.place.number(name).unwrap_or(0)
    }

    fn json(&self) -> Value {
        let metadata = &self.metadata;
        let mut value = json!({
            "path": self.path.display().to_string(),
            "file_system": self.mount.text("file_system"),
            "mount": self.mount.text("mount"),
            "inode": self.number("inode"),
            "partition": self.number("partition"),
            "leader": self.place.number::<u64>("leader"),
            "type": self.kind(),
            "mode": format!("{:04o}", metadata.mode() & 0o7777),
            "nlink": metadata.nlink(),
            "uid": metadata.uid(),
            "gid": metadata.gid(),
            "size": metadata.len(),
            "allocated": metadata.blocks() * 512,
            "unpublished_bytes": self.number("unpublished_bytes"),
        });
        if let Some((own, all)) = self.usage {
            value["usage"] = all.json();
            value["own"] = own.json();
        }
        if let Some(found) = &self.found {
            let chunk_bytes = self.number("chunk_bytes").max(1);
            value["chunk_bytes"] = chunk_bytes.into();
            value["object_bytes"] = self.number("object_bytes").into();
            value["generation"] = found.generation.into();
            value["ranges"] = found.ranges.iter().map(|range| range.json(chunk_bytes)).collect();
            value["next"] = found.next.into();
        }
        value
    }

    fn print(&self) {
        let metadata = &self.metadata;
        say!("{}", self.path.display());
        say!(
            "  file system  {} ({} at {})",
            self.mount.text("file_system"),
            self.mount.text("mount"),
            self.mount.text("directory")
        );
        let leader = match self.place.number::<u64>("leader") {
            Some(node) => format!(", led by metaserver {node} at {}", self.place.text("leader_address")),
            None => String::new(),
        };
        say!("  inode        {:#x} in partition {}{leader}", self.number("inode"), self.number("partition"));
        say!(
            "  type         {}, mode {:04o}, {} links, owner {}:{}",
            self.kind(),
            metadata.mode() & 0o7777,
            metadata.nlink(),
            metadata.uid(),
            metadata.gid()
        );
        if let Some((own, all)) = self.usage {
            say!(
                "  below it     {} files, {} directories, {} ({} bytes)",
                all.files,
                all.directories,
                ByteSize(all.bytes),
                all.bytes
            );
            say!("  in it        {} files, {} directories", own.files, own.directories);
        } else {
            say!(
                "  size         {} ({} bytes), {} allocated, {} not stored yet",
                ByteSize(metadata.len()),
                metadata.len(),
                ByteSize(metadata.blocks() * 512),
                ByteSize(self.number("unpublished_bytes"))
            );
        }
        if let Some(found) = &self.found {
            self.print_ranges(found);
        }
    }

    fn print_ranges(&self, found: &Found) {
        let chunk_bytes = self.number("chunk_bytes").max(1);
        let of = |kind: Kind| found.ranges.iter().filter(move |range| range.kind() == kind);
        let bytes = |kind| ByteSize(of(kind).map(|range| range.len).sum());
        say!(
            "  ranges       {} in objects ({}), {} holes ({}), {} never written ({})",
            of(Kind::Data).count(),
            bytes(Kind::Data),
            of(Kind::Hole).count(),
            bytes(Kind::Hole),
            of(Kind::Unwritten).count(),
            bytes(Kind::Unwritten)
        );
        if !found.ranges.is_empty() {
            let header =
                ["CHUNK", "OFFSET", "BYTES", "KIND", "BUCKET", "OBJECT", "OBJECT BYTES", "AT", "VERSION"];
            output::table(&header, found.ranges.iter().map(|range| range.row(chunk_bytes)));
        }
        if let Some(next) = found.next {
            say!("  more follow: --offset {next}");
        }
    }
}
