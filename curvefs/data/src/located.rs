//! Where bytes of a file are in the store, as text: what `curve fs info` shows.

use std::fmt;
use std::str::FromStr;

/// A range of a file inside one object. As text its fields in this order, with blanks between them: neither buckets' names nor
/// objects' have any.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ObjectPart {
    /// First byte in the file.
    pub offset: u64,
    /// Bytes.
    pub len: u32,
    /// The bucket.
    pub bucket: String,
    /// The object's name. It is never written twice: the number of its writer and the writer's serial in it are its version.
    pub object: String,
    /// Bytes of the file that the whole object holds; it is a little longer, since it has checksums.
    pub object_bytes: u32,
    /// First byte in those.
    pub at: u32,
}

impl fmt::Display for ObjectPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { offset, len, bucket, object, object_bytes, at } = self;
        write!(f, "{offset} {len} {bucket} {object} {object_bytes} {at}")
    }
}

/// A text that is no [`ObjectPart`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no part of an object")]
pub struct NoObjectPart;

impl FromStr for ObjectPart {
    type Err = NoObjectPart;

    fn from_str(text: &str) -> Result<Self, NoObjectPart> {
        let words: Vec<&str> = text.split(' ').collect();
        let &[offset, len, bucket, object, object_bytes, at] = words.as_slice() else {
            return Err(NoObjectPart);
        };
        let small = |word: &str| word.parse::<u32>().map_err(|_| NoObjectPart);
        Ok(Self {
            offset: offset.parse().map_err(|_| NoObjectPart)?,
            len: small(len)?,
            bucket: bucket.to_owned(),
            object: object.to_owned(),
            object_bytes: small(object_bytes)?,
            at: small(at)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use curvefs_types::{DataRef, Extent, FsId, SliceId, WriterId};
    use proptest::prelude::*;

    use super::*;
    use crate::backend::ObjectBackend;
    use crate::options::BackendOptions;

    #[test]
    fn an_extent_is_the_sum_of_its_objects() {
        let options = BackendOptions { object_bytes: 1 << 20, ..BackendOptions::default() };
        let (backend, _) = ObjectBackend::in_memory(FsId(7), WriterId(9), options);
        let slice = SliceId { writer: WriterId(9), serial: 3 };
        let bytes = (2 << 20) + 1000;
        let data = DataRef::Slice { slice, bytes, at: (1 << 20) - 10 };
        let parts = backend.locate(&Extent::checked(5000, (1 << 20) + 500, data).unwrap());
        let places: Vec<_> =
            parts.iter().map(|part| (part.offset, part.len, part.at, part.object_bytes)).collect();
        assert_eq!(
            places,
            [
                (5000, 10, (1 << 20) - 10, 1 << 20),
                (5010, 1 << 20, 0, 1 << 20),
                (5010 + (1 << 20), 490, 0, 1000)
            ]
        );
        for (index, part) in parts.iter().enumerate() {
            assert_eq!(part.bucket, "memory");
            let wanted = format!("/00000007/0000000000000009/0000000000000003/{index:04x}");
            assert!(part.object.ends_with(&wanted), "{}", part.object);
            assert_eq!(part.to_string().parse(), Ok(part.clone()));
        }
        assert_eq!(backend.locate(&Extent::checked(0, 5, DataRef::Unwritten).unwrap()), []);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[ 0-9a-z/-]{0,60}") {
            let _ = text.parse::<ObjectPart>();
        }
    }
}
