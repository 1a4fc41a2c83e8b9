//! Listings, version 1 and 2.

use s3s::dto::*;
use s3s::{S3Result, s3_error};

use super::{Answer, Service, convert, done};
use crate::format::{ObjectRow, hex};
use crate::ingest::on_disk;
use crate::store::{After, ListQuery, Listed};

const KEYS_MAX: i32 = 1000;

fn limit(asked: Option<i32>) -> S3Result<i32> {
    match asked.unwrap_or(KEYS_MAX) {
        negative if negative < 0 => Err(s3_error!(InvalidArgument, "max-keys is not negative")),
        keys => Ok(keys.min(KEYS_MAX)),
    }
}

/// Where the next page begins, as clients carry it: `k` or `p`, then the key or prefix in hexadecimal.
fn token(after: &After) -> Option<String> {
    match after {
        After::Nothing => None,
        After::Key(key) => Some(format!("k{}", hex(key.as_bytes()))),
        After::Prefix(prefix) => Some(format!("p{}", hex(prefix.as_bytes()))),
    }
}

fn parse_token(token: &str) -> S3Result<After> {
    let bad = || s3_error!(InvalidArgument, "the continuation token is none of ours");
    let (kind, digits) = token.split_at_checked(1).ok_or_else(bad)?;
    if digits.len() % 2 != 0 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(bad());
    }
    let pairs = digits.as_bytes().chunks(2);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let bytes = pairs.map(byte).collect::<Option<Vec<_>>>().ok_or_else(bad)?;
    let text = String::from_utf8(bytes).map_err(|_| bad())?;
    match kind {
        "k" => Ok(After::Key(text)),
        "p" => Ok(After::Prefix(text)),
        _ => Err(bad()),
    }
}

/// Keys and prefixes as the client wants them written.
struct Writer {
    url: bool,
}

impl Writer {
    fn of(encoding: Option<&EncodingType>) -> Self {
        Self { url: encoding.is_some_and(|encoding| encoding.as_str() == EncodingType::URL) }
    }

    fn text(&self, text: String) -> String {
        if self.url { convert::url_encode(&text) } else { text }
    }

    fn objects(&self, objects: Vec<(String, ObjectRow)>) -> Option<Vec<Object>> {
        let object = |(key, row): (String, ObjectRow)| Object {
            key: Some(self.text(key)),
            size: Some(row.size as i64),
            e_tag: Some(convert::etag(&row)),
            last_modified: Some(convert::timestamp(row.modified_ms)),
            storage_class: Some(ObjectStorageClass::from_static(ObjectStorageClass::STANDARD)),
            ..Default::default()
        };
        Some(objects.into_iter().map(object).collect())
    }

    fn prefixes(&self, prefixes: Vec<String>) -> Option<Vec<CommonPrefix>> {
        let prefix = |prefix| CommonPrefix { prefix: Some(self.text(prefix)) };
        Some(prefixes.into_iter().map(prefix).collect())
    }
}

impl Service {
    async fn page(&self, bucket: String, query: ListQuery) -> S3Result<Listed> {
        let store = self.store.clone();
        on_disk(move || store.list(&bucket, &query)).await
    }

    pub(super) async fn list_v2(&self, input: ListObjectsV2Input) -> Answer<ListObjectsV2Output> {
        let max = limit(input.max_keys)?;
        let after = match (&input.continuation_token, &input.start_after) {
            (Some(token), _) => parse_token(token)?,
            (None, Some(key)) if !key.is_empty() => After::Key(key.clone()),
            _ => After::Nothing,
        };
        let query = ListQuery {
            prefix: input.prefix.clone().unwrap_or_default(),
            delimiter: input.delimiter.clone(),
            after,
            max: max as usize,
        };
        let page = self.page(input.bucket.clone(), query).await?;
        let writer = Writer::of(input.encoding_type.as_ref());
        done(ListObjectsV2Output {
            name: Some(input.bucket),
            prefix: Some(writer.text(input.prefix.unwrap_or_default())),
            delimiter: input.delimiter.map(|text| writer.text(text)),
            start_after: input.start_after.map(|text| writer.text(text)),
            max_keys: Some(max),
            key_count: Some((page.objects.len() + page.prefixes.len()) as i32),
            is_truncated: Some(page.next.is_some()),
            continuation_token: input.continuation_token,
            next_continuation_token: page.next.as_ref().and_then(token),
            contents: writer.objects(page.objects),
            common_prefixes: writer.prefixes(page.prefixes),
            encoding_type: input.encoding_type,
            ..Default::default()
        })
    }

    pub(super) async fn list_v1(&self, input: ListObjectsInput) -> Answer<ListObjectsOutput> {
        let max = limit(input.max_keys)?;
        let delimiter = input.delimiter.as_deref().filter(|text| !text.is_empty());
        // A marker that is a common prefix comes from a page that ended with it.
        let after = match input.marker.as_deref() {
            None | Some("") => After::Nothing,
            Some(marker) if delimiter.is_some_and(|end| marker.ends_with(end)) => {
                After::Prefix(marker.into())
            }
            Some(marker) => After::Key(marker.into()),
        };
        let query = ListQuery {
            prefix: input.prefix.clone().unwrap_or_default(),
            delimiter: input.delimiter.clone(),
            after,
            max: max as usize,
        };
        let page = self.page(input.bucket.clone(), query).await?;
        let writer = Writer::of(input.encoding_type.as_ref());
        let next_marker = match page.next.clone() {
            Some(After::Key(text) | After::Prefix(text)) => Some(writer.text(text)),
            Some(After::Nothing) | None => None,
        };
        done(ListObjectsOutput {
            name: Some(input.bucket),
            prefix: Some(writer.text(input.prefix.unwrap_or_default())),
            delimiter: input.delimiter.map(|text| writer.text(text)),
            marker: Some(writer.text(input.marker.unwrap_or_default())),
            max_keys: Some(max),
            is_truncated: Some(page.next.is_some()),
            next_marker,
            contents: writer.objects(page.objects),
            common_prefixes: writer.prefixes(page.prefixes),
            encoding_type: input.encoding_type,
            ..Default::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_and_others_are_refused() {
        for after in [After::Key("a/ä".into()), After::Prefix("a/".into()), After::Key(String::new())] {
            assert_eq!(parse_token(&token(&after).unwrap()).unwrap(), after);
        }
        for bad in ["", "x61", "k6", "kzz", "kff", "é"] {
            assert!(parse_token(bad).is_err(), "{bad}");
        }
    }
}
