//! `curve fs du`: what is below directories, one question each.

use std::fs;
use std::path::{Path, PathBuf};

use curve_types::ByteSize;
use rustix::io::Errno;
use serde_json::{Value, json};

use super::attributes::{self, Lines, Links};
use crate::cli::mounted::DuArgs;
use crate::failure::{Code, Failure};
use crate::output;

/// Directories that one command shows.
const ROWS_MAX: usize = 200_000;

/// Files, directories and bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Usage {
    pub files: u64,
    pub directories: u64,
    pub bytes: u64,
}

impl Usage {
    pub fn json(self) -> Value {
        json!({ "files": self.files, "directories": self.directories, "bytes": self.bytes })
    }
}

/// A directory's counters: of its own entries, and of everything below it.
pub(super) fn usage_of(lines: &Lines) -> Option<(Usage, Usage)> {
    let of = |files, directories, bytes| {
        Some(Usage {
            files: lines.number(files)?,
            directories: lines.number(directories)?,
            bytes: lines.number(bytes)?,
        })
    };
    Some((of("files", "subdirs", "fbytes")?, of("rfiles", "rsubdirs", "rfbytes")?))
}

/// A line of the output.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Row {
    path: PathBuf,
    depth: u32,
    own: Usage,
    all: Usage,
}

/// Shows the usage of each path.
pub(super) fn run(args: &DuArgs) -> Result<(), Failure> {
    let mut rows = Vec::new();
    for path in &args.paths {
        attributes::mount_of(path, Links::Follow)?;
        let metadata = fs::metadata(path).map_err(|error| Failure::file("read", path, &error))?;
        if metadata.is_dir() {
            let row = directory(path, 0)?.ok_or_else(|| attributes::failure(path, Errno::NODATA))?;
            walk(row, args.depth, &mut rows)?;
        } else {
            let usage = Usage { files: 1, directories: 0, bytes: metadata.len() };
            rows.push(Row { path: path.clone(), depth: 0, own: usage, all: usage });
        }
    }
    print(&rows, args.json);
    Ok(())
}

/// A directory's row; none when it has gone meanwhile, or something else is mounted there.
fn directory(path: &Path, depth: u32) -> Result<Option<Row>, Failure> {
    let text = match attributes::get(path, "curve.dir.usage", Links::Follow) {
        Ok(text) => text,
        Err(Errno::NOENT | Errno::STALE) if depth > 0 => return Ok(None),
        Err(error) if depth > 0 && attributes::is_elsewhere(error) => return Ok(None),
        Err(error) => return Err(attributes::failure(path, error)),
    };
    let usage = usage_of(&Lines::parse(&text));
    let (own, all) = usage.ok_or_else(|| attributes::confused(path, &text))?;
    Ok(Some(Row { path: path.to_owned(), depth, own, all }))
}

/// The row, then its directories down to a depth, larger ones first.
fn walk(row: Row, deeper: u32, rows: &mut Vec<Row>) -> Result<(), Failure> {
    if rows.len() >= ROWS_MAX {
        return Err(Failure::new(Code::Usage, format!("there are more than {ROWS_MAX} directories"))
            .try_this("use a smaller --depth, or paths further down"));
    }
    let (path, depth) = (row.path.clone(), row.depth);
    rows.push(row);
    if deeper == 0 {
        return Ok(());
    }
    let failed = |error: std::io::Error| Failure::file("read", &path, &error);
    let mut below = Vec::new();
    for entry in fs::read_dir(&path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        // The kind comes with the name; nothing is asked for it.
        if entry.file_type().map_err(failed)?.is_dir() {
            below.extend(directory(&entry.path(), depth + 1)?);
        }
    }
    below.sort_by(|a, b| (b.all.bytes, b.all.files, &a.path).cmp(&(a.all.bytes, a.all.files, &b.path)));
    below.into_iter().try_for_each(|row| walk(row, deeper - 1, rows))
}

fn print(rows: &[Row], json: bool) {
    if json {
        let each = rows.iter().map(|row| {
            let mut value = row.all.json();
            value["path"] = row.path.display().to_string().into();
            value["depth"] = row.depth.into();
            value["own"] = row.own.json();
            value
        });
        output::json(&each.collect::<Vec<_>>());
        return;
    }
    let each = rows.iter().map(|row| {
        vec![
            ByteSize(row.all.bytes).to_string(),
            row.all.files.to_string(),
            row.all.directories.to_string(),
            row.path.display().to_string(),
        ]
    });
    output::table(&["BYTES", "FILES", "DIRECTORIES", "PATH"], each);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_and_none_may_lack() {
        let text =
            "files 1\nsubdirs 2\nentries 3\nfbytes 4\nrfiles 10\nrsubdirs 20\nrentries 30\nrfbytes 40\n";
        let usage = |files, directories, bytes| Usage { files, directories, bytes };
        assert_eq!(usage_of(&Lines::parse(text)), Some((usage(1, 2, 4), usage(10, 20, 40))));
        assert_eq!(usage_of(&Lines::parse(&text.replace("rfiles", "x"))), None);
        assert_eq!(usage_of(&Lines::parse(&text.replace("40", "-1"))), None);
    }

    #[test]
    fn what_is_not_in_a_mount_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let args = DuArgs { paths: vec![dir.path().to_owned()], depth: 0, json: false };
        assert_eq!(run(&args).unwrap_err().code, Code::NotFound);
        let row = Row { path: dir.path().to_owned(), depth: 0, own: Usage::default(), all: Usage::default() };
        fs::create_dir(dir.path().join("below")).unwrap();
        let mut rows = Vec::new();
        walk(row.clone(), 1, &mut rows).unwrap();
        assert_eq!(rows, [row], "what is not ours below is passed over");
    }
}
