//! Small conversions between S3's types and the store's.

use std::time::{Duration, UNIX_EPOCH};

use s3s::dto::{ETag, ETagCondition, Map, Timestamp};
use s3s::{S3Result, s3_error};

use crate::error::StoreError;
use crate::format::ObjectRow;
use crate::store::{Expect, UploadId};

const USER_PREFIX: &str = "x-amz-meta-";

pub(super) fn timestamp(ms: i64) -> Timestamp {
    (UNIX_EPOCH + Duration::from_millis(ms.max(0) as u64)).into()
}

/// Whole seconds, which is all that headers say.
pub(super) fn seconds(timestamp: &Timestamp) -> i64 {
    time_seconds(timestamp.clone())
}

fn time_seconds(timestamp: Timestamp) -> i64 {
    let mut text = Vec::new();
    let format = s3s::dto::TimestampFormat::EpochSeconds;
    let formatted = timestamp.format(format, &mut text);
    formatted
        .ok()
        .and_then(|()| String::from_utf8(text).ok())
        .map_or(0, |text| text.split('.').next().and_then(|whole| whole.parse().ok()).unwrap_or(0))
}

pub(super) fn etag(row: &ObjectRow) -> ETag {
    ETag::Strong(row.etag())
}

/// If-Match and If-None-Match of a change.
pub(super) fn expect(
    if_match: Option<ETagCondition>,
    if_none_match: Option<ETagCondition>,
) -> S3Result<Expect> {
    match (if_match, if_none_match) {
        (None, None) => Ok(Expect::Anything),
        (Some(ETagCondition::Any), None) => Ok(Expect::Present),
        (Some(ETagCondition::ETag(etag)), None) => Ok(Expect::ETag(etag.into_value())),
        (None, Some(ETagCondition::Any)) => Ok(Expect::Absent),
        _ => Err(s3_error!(NotImplemented, "only If-None-Match: * or one If-Match")),
    }
}

/// If-Match, If-None-Match and dates of a read.
pub(super) struct ReadConditions {
    pub if_match: Option<ETagCondition>,
    pub if_none_match: Option<ETagCondition>,
    pub if_modified_since: Option<Timestamp>,
    pub if_unmodified_since: Option<Timestamp>,
}

impl ReadConditions {
    /// Checks them (RFC 9110, 13.2.2): an ETag decides where there is one, and a date otherwise.
    pub(super) fn check(&self, row: &ObjectRow) -> S3Result<()> {
        let same = |condition: &ETagCondition| match condition {
            ETagCondition::Any => true,
            ETagCondition::ETag(etag) => etag.value() == row.etag(),
        };
        let modified = row.modified_ms.div_euclid(1000);
        let failed = match (&self.if_match, &self.if_unmodified_since) {
            (Some(condition), _) => !same(condition),
            (None, Some(since)) => modified > seconds(since),
            (None, None) => false,
        };
        if failed {
            return Err(s3_error!(PreconditionFailed, "the object is another"));
        }
        let unchanged = match (&self.if_none_match, &self.if_modified_since) {
            (Some(condition), _) => same(condition),
            (None, Some(since)) => modified <= seconds(since),
            (None, None) => false,
        };
        if unchanged { Err(s3_error!(NotModified)) } else { Ok(()) }
    }
}

/// Headers that are kept with an object.
#[derive(Default)]
pub(super) struct Kept {
    pub content_type: Option<String>,
    pub cache_control: Option<String>,
    pub content_disposition: Option<String>,
    pub content_encoding: Option<String>,
    pub content_language: Option<String>,
    pub metadata: Option<Map<String, String>>,
}

impl Kept {
    pub(super) fn into_rows(self) -> Vec<(String, String)> {
        let known = [
            ("content-type", self.content_type),
            ("cache-control", self.cache_control),
            ("content-disposition", self.content_disposition),
            // What describes the transfer and not the object is not kept.
            ("content-encoding", self.content_encoding.filter(|value| value != "aws-chunked")),
            ("content-language", self.content_language),
        ];
        let known = known.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        let mut user = self.metadata.unwrap_or_default().into_iter().collect::<Vec<_>>();
        user.sort_unstable();
        known.chain(user.into_iter().map(|(name, value)| (format!("{USER_PREFIX}{name}"), value))).collect()
    }

    pub(super) fn of(row: &ObjectRow) -> Self {
        let mut kept = Self::default();
        let mut metadata = Map::new();
        for (name, value) in row.headers.iter().cloned() {
            match name.as_str() {
                "content-type" => kept.content_type = Some(value),
                "cache-control" => kept.cache_control = Some(value),
                "content-disposition" => kept.content_disposition = Some(value),
                "content-encoding" => kept.content_encoding = Some(value),
                "content-language" => kept.content_language = Some(value),
                user => {
                    drop(metadata.insert(user.strip_prefix(USER_PREFIX).unwrap_or(user).to_owned(), value))
                }
            }
        }
        kept.metadata = Some(metadata).filter(|metadata| !metadata.is_empty());
        kept
    }
}

pub(super) fn upload_id(text: &str) -> S3Result<UploadId> {
    let id = u64::from_str_radix(text, 16).ok().filter(|_| text.len() == 16);
    id.map(UploadId).ok_or_else(|| super::answer(StoreError::NoSuchUpload))
}

pub(super) fn part_number(number: i32) -> S3Result<u16> {
    let number = u16::try_from(number).ok().filter(|number| (1..=10_000).contains(number));
    number.ok_or_else(|| s3_error!(InvalidArgument, "a part's number is 1 to 10000"))
}

/// A key as `encoding-type=url` asks for.
pub(super) fn url_encode(key: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~/".contains(&byte);
    key.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_of_changes_and_reads() {
        let row = ObjectRow { modified_ms: 5_500, ..ObjectRow::default() };
        let tag = |value: &str| Some(ETagCondition::ETag(ETag::Strong(value.to_owned())));
        let at = |seconds: i64| Some(timestamp(seconds * 1000));
        let etag = row.etag();
        let none = || ReadConditions {
            if_match: None,
            if_none_match: None,
            if_modified_since: None,
            if_unmodified_since: None,
        };
        for (conditions, good) in [
            (none(), true),
            (ReadConditions { if_match: tag(&etag), ..none() }, true),
            (ReadConditions { if_match: tag("x"), ..none() }, false),
            (ReadConditions { if_match: tag(&etag), if_unmodified_since: at(1), ..none() }, true),
            (ReadConditions { if_unmodified_since: at(4), ..none() }, false),
            (ReadConditions { if_unmodified_since: at(5), ..none() }, true),
            (ReadConditions { if_none_match: tag(&etag), ..none() }, false),
            (ReadConditions { if_none_match: tag("x"), if_modified_since: at(9), ..none() }, true),
            (ReadConditions { if_modified_since: at(5), ..none() }, false),
            (ReadConditions { if_modified_since: at(4), ..none() }, true),
        ] {
            assert_eq!(conditions.check(&row).is_ok(), good);
        }
        assert_eq!(expect(None, Some(ETagCondition::Any)).unwrap(), Expect::Absent);
        assert_eq!(expect(tag("x"), None).unwrap(), Expect::ETag("x".into()));
        assert!(expect(None, tag("x")).is_err());
    }

    #[test]
    fn names_and_numbers() {
        assert_eq!(url_encode("a b/ä+"), "a%20b/%C3%A4%2B");
        assert_eq!(upload_id("00000000000000ff").unwrap(), UploadId(255));
        for bad in ["", "ff", "gggggggggggggggg"] {
            assert!(upload_id(bad).is_err(), "{bad}");
        }
        assert!(part_number(0).is_err() && part_number(10_001).is_err() && part_number(-1).is_err());
    }
}
