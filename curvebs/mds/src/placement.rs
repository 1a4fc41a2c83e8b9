//! Which copysets there are, which of them hold a segment, and what becomes of a deleted volume's data.

mod copysets;
mod segments;
mod trash;

pub(crate) use copysets::{change_copysets, create_copysets};
pub(crate) use segments::{allocate, copysets_of, segment};
pub(crate) use trash::{Purger, discard_volume, purged};
