//! Small records of the copyset's owner: its applied index, fences, the table of answered requests.

use std::io;
use std::path::PathBuf;

use bytes::Bytes;
use curve_io::{read_whole, replace_file};

use super::CopysetStore;
use crate::error::RecordError;
use crate::format::record;

/// Longest name of a record.
const NAME_LEN_MAX: usize = 64;

impl CopysetStore {
    /// Stores a small record crash-safely: after a crash there is the old one or the new one, whole. Names are made of
    /// lower-case letters, digits, `-` and `_`.
    pub async fn save_record(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let _turn = self.record_turn.lock().await;
        let stamp = self.writable()?.manifest.sync;
        let saved =
            replace_file(&*self.shared.disk, &self.record_path(name), &record::encode(stamp, bytes)).await;
        self.guard("record", saved)
    }

    /// Loads a record; nothing if it was never saved.
    pub async fn load_record(&self, name: &str) -> Result<Option<Bytes>, RecordError> {
        let Some(bytes) = read_whole(&*self.shared.disk, &self.record_path(name)).await? else {
            return Ok(None);
        };
        match record::decode(&bytes) {
            Ok((_, content)) => Ok(Some(bytes.slice_ref(content))),
            Err(cause) => Err(RecordError::Damaged { name: name.to_owned(), cause: cause.to_string() }),
        }
    }

    fn record_path(&self, name: &str) -> PathBuf {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
        assert!(
            !name.is_empty() && name.len() <= NAME_LEN_MAX && name.chars().all(plain),
            "bad record name {name:?}"
        );
        self.dir.join(format!("{name}.rec"))
    }
}
