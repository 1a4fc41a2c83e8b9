//! Secret keys of object stores at rest: each is sealed for its file system and its access key.

use bytes::Bytes;
use curve_proto::MdsError;
use curve_proto::pb::mds_state::FsSystemRow;

use crate::sealing::{SealingKeys, SealingNonce};

fn bound(fs: u32, access_key: &str) -> Vec<u8> {
    format!("curve fs\0{fs}\0{access_key}").into_bytes()
}

/// Seals the secret of an access key of a file system.
pub(crate) fn seal_secret(
    keys: Option<&SealingKeys>,
    fs: u32,
    access_key: &str,
    secret: &[u8],
    nonce: SealingNonce,
) -> Result<Bytes, MdsError> {
    let why = "no MDS key is configured on the leader".to_owned();
    let keys = keys.ok_or(MdsError::NoSealingKey { why })?;
    Ok(keys.seal(secret, &bound(fs, access_key), nonce))
}

/// The secret of a file system's store.
pub(crate) fn open_secret(keys: Option<&SealingKeys>, row: &FsSystemRow) -> Result<Bytes, MdsError> {
    let access_key = row.s3.as_ref().map_or("", |s3| s3.access_key.as_str());
    let opened = keys.and_then(|keys| keys.open(&row.sealed, &bound(row.id, access_key)));
    let why = || format!("the leader has no key that opens the secret of file system {}", row.name);
    opened.ok_or_else(|| MdsError::NoSealingKey { why: why() })
}

#[cfg(test)]
mod tests {
    use curve_proto::pb::fs::S3Backend;

    use super::*;

    #[test]
    fn a_secret_opens_only_in_its_place() {
        let keys = SealingKeys::parse(&"5a".repeat(32)).unwrap();
        let sealed = seal_secret(Some(&keys), 7, "key", b"secret", [1; 12]).unwrap();
        assert!(!sealed.windows(6).any(|window| window == b"secret"));
        let row = |id, access_key: &str| FsSystemRow {
            id,
            s3: Some(S3Backend { access_key: access_key.into(), ..S3Backend::default() }),
            sealed: sealed.clone(),
            ..FsSystemRow::default()
        };
        assert_eq!(open_secret(Some(&keys), &row(7, "key")).unwrap(), "secret");
        let other = SealingKeys::parse(&"5b".repeat(32)).unwrap();
        for refused in [
            open_secret(Some(&keys), &row(8, "key")),
            open_secret(Some(&keys), &row(7, "other")),
            open_secret(Some(&other), &row(7, "key")),
            open_secret(None, &row(7, "key")),
            seal_secret(None, 7, "key", b"secret", [1; 12]),
        ] {
            assert!(matches!(refused, Err(MdsError::NoSealingKey { .. })), "{refused:?}");
        }
    }
}
