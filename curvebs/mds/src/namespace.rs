//! Volumes in a tree of directories. Directories and volumes have ids, and a name is a row of its own, so that a
//! rename of a directory with a million volumes changes one row.

mod mutate;
mod path;
mod query;
mod tree;

pub(crate) use mutate::{create_volume, delete, make_directory, rename, resize};
pub(crate) use path::NamePath;
pub(crate) use query::{disk_usage, list, stat};
pub(crate) use tree::{path_of, volume, volume_at, volume_message};
