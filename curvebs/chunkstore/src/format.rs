//! What is on the disk, byte by byte. All numbers are little-endian; every structure has a magic and a CRC-32 (IEEE).
//!
//! ```text
//! <store>/format                                      store sizes (format::store)
//! <store>/pool/<number>                               free files, length of a chunk file, content meaningless
//! <store>/copysets/<id>/manifest                      which chunks exist, what was deleted (format::manifest)
//! <store>/copysets/<id>/<name>.rec                    the owner's small records (format::record)
//! <store>/copysets/<id>/<volume>-<index>-<birth>.chunk   one chunk (format::chunk), numbers in hex
//! <store>/copysets/<id>/removed                       the copyset is being removed
//! ```
//!
//! Every name is unique: a chunk that is deleted and made again has a later birth number, so a file never changes its
//! owner without changing its name. A `.chunk` file that the manifest does not list was made after the last sync (its
//! writes are still in the Raft log) or dropped by it; it is removed when the store is opened.

pub(crate) mod chunk;
pub(crate) mod manifest;
pub(crate) mod record;
pub(crate) mod store;

use thiserror::Error;

/// Why bytes are not what they should be.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
pub enum FormatError {
    /// Fewer bytes than the structure has.
    #[error("too short")]
    Short,
    /// Something else is there.
    #[error("wrong magic")]
    Magic,
    /// Written by a later release.
    #[error("version {0} is not known")]
    Version(u32),
    /// The bytes were changed.
    #[error("wrong checksum")]
    Checksum,
    /// A field has an impossible value.
    #[error("impossible {0}")]
    Field(&'static str),
}

/// Reads little-endian fields one after the other and never beyond the end.
pub(crate) struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], FormatError> {
        let (head, tail) = self.0.split_at_checked(len).ok_or(FormatError::Short)?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let (head, tail) = self.0.split_first_chunk::<N>().ok_or(FormatError::Short)?;
        self.0 = tail;
        Ok(*head)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, FormatError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, FormatError> {
        self.array().map(u64::from_le_bytes)
    }

    /// A count of things of `size` bytes each that must still be there, so that a wild count reserves no memory.
    pub(crate) fn count(&mut self, size: usize) -> Result<usize, FormatError> {
        let count = self.u32()? as usize;
        match count.checked_mul(size) {
            Some(bytes) if bytes <= self.0.len() => Ok(count),
            _ => Err(FormatError::Short),
        }
    }

    pub(crate) fn end(&self) -> Result<(), FormatError> {
        if self.0.is_empty() { Ok(()) } else { Err(FormatError::Field("length")) }
    }
}

/// CRC-32 over parts that follow each other.
pub(crate) fn crc_of(parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize()
}
