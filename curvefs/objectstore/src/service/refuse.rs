//! What S3 has and this store has not, where doing without would be something else than the client asked for.

use s3s::dto::{ObjectIdentifier, PartNumber, SSECustomerAlgorithm, ServerSideEncryption};
use s3s::{S3Result, s3_error};

/// Encryption: the bytes would lie on the disk as they came.
pub(super) fn encryption(
    asked: Option<&ServerSideEncryption>,
    with_own_key: Option<&SSECustomerAlgorithm>,
) -> S3Result<()> {
    match (asked, with_own_key) {
        (None, None) => Ok(()),
        _ => Err(s3_error!(NotImplemented, "objects are not encrypted here")),
    }
}

/// A version that is not the only one, which is called `null` in a bucket without versions.
pub(super) fn version(id: Option<&str>) -> S3Result<()> {
    match id {
        None | Some("" | "null") => Ok(()),
        Some(_) => Err(s3_error!(NoSuchVersion, "objects have no versions here")),
    }
}

/// The same for many.
pub(super) fn versions(objects: &[ObjectIdentifier]) -> S3Result<()> {
    objects.iter().try_for_each(|object| version(object.version_id.as_deref()))
}

/// A part of an object by its number: the whole object would be taken for it.
pub(super) fn part(number: Option<PartNumber>) -> S3Result<()> {
    match number {
        None => Ok(()),
        Some(_) => Err(s3_error!(NotImplemented, "parts are read by their ranges here")),
    }
}
