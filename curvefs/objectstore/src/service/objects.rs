//! Objects: PUT, GET, HEAD, copy, delete.

use std::ops;

use bytes::Bytes;
use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};

use super::convert::{self, Kept, ReadConditions};
use super::{Answer, Service, answer, copy_source, done, refuse};
use crate::egress::{self, PIECE_BYTES};
use crate::error::StoreError;
use crate::format::ObjectRow;
use crate::ingest::{Body, ingest, joined, on_disk};
use crate::store::Reader;

const DELETE_KEYS_MAX: usize = 1000;

/// An opened object, the range that is wanted, and its first bytes.
struct Opened {
    reader: Reader,
    range: ops::Range<u64>,
    first: Bytes,
}

fn open(mut reader: Reader, conditions: &ReadConditions, range: Option<&Range>) -> S3Result<Opened> {
    conditions.check(reader.row())?;
    let size = reader.row().size;
    let range = match range {
        None => 0..size,
        Some(range) => {
            range.check(size).map_err(|_| s3_error!(InvalidRange, "the object has {size} bytes"))?
        }
    };
    let first = match range.end - range.start {
        0 => Bytes::new(),
        len => reader.read(range.start, len.min(PIECE_BYTES)).map_err(answer)?,
    };
    Ok(Opened { reader, range, first })
}

impl Service {
    pub(super) async fn put(&self, req: S3Request<PutObjectInput>) -> Answer<PutObjectOutput> {
        let input = req.input;
        refuse::encryption(input.server_side_encryption.as_ref(), input.sse_customer_algorithm.as_ref())?;
        let expect = convert::expect(input.if_match, input.if_none_match)?;
        let kept = Kept {
            content_type: input.content_type,
            cache_control: input.cache_control,
            content_disposition: input.content_disposition,
            content_encoding: input.content_encoding,
            content_language: input.content_language,
            metadata: input.metadata,
        };
        self.store.check_bucket(&input.bucket).map_err(answer)?;
        let body = Body {
            stream: input.body,
            length: input.content_length,
            md5: input.content_md5,
            any_tag: true,
            headers: req.headers,
            trailers: req.trailing_headers,
        };
        let (store, bucket, key) = (self.store.clone(), input.bucket, input.key);
        let put = move |bytes| store.put(&bucket, &key, bytes, kept.into_rows(), &expect);
        let row = ingest(&self.store, body, self.idle_timeout, put).await?;
        done(PutObjectOutput { e_tag: Some(convert::etag(&row)), ..Default::default() })
    }

    pub(super) async fn get(&self, input: GetObjectInput) -> Answer<GetObjectOutput> {
        refuse::version(input.version_id.as_deref())?;
        refuse::part(input.part_number)?;
        let store = self.store.clone();
        let ranged = input.range.is_some();
        let opening = tokio::task::spawn_blocking(move || {
            let conditions = ReadConditions {
                if_match: input.if_match,
                if_none_match: input.if_none_match,
                if_modified_since: input.if_modified_since,
                if_unmodified_since: input.if_unmodified_since,
            };
            let reader = store.read(&input.bucket, &input.key).map_err(answer)?;
            open(reader, &conditions, input.range.as_ref())
        });
        let Opened { reader, range, first } = joined(opening).await??;
        let row = reader.row();
        let kept = Kept::of(row);
        let last = range.end.saturating_sub(1);
        let output = GetObjectOutput {
            accept_ranges: Some("bytes".into()),
            content_length: Some((range.end - range.start) as i64),
            content_range: ranged.then(|| format!("bytes {}-{last}/{}", range.start, row.size)),
            e_tag: Some(convert::etag(row)),
            last_modified: Some(convert::timestamp(row.modified_ms)),
            content_type: kept.content_type,
            cache_control: kept.cache_control,
            content_disposition: kept.content_disposition,
            content_encoding: kept.content_encoding,
            content_language: kept.content_language,
            metadata: kept.metadata,
            body: Some(egress::body(reader, first, range.start, range.end)),
            ..Default::default()
        };
        done(output)
    }

    pub(super) async fn head(&self, input: HeadObjectInput) -> Answer<HeadObjectOutput> {
        refuse::version(input.version_id.as_deref())?;
        refuse::part(input.part_number)?;
        let store = self.store.clone();
        let row = on_disk(move || store.head(&input.bucket, &input.key)).await?;
        let conditions = ReadConditions {
            if_match: input.if_match,
            if_none_match: input.if_none_match,
            if_modified_since: input.if_modified_since,
            if_unmodified_since: input.if_unmodified_since,
        };
        conditions.check(&row)?;
        let kept = Kept::of(&row);
        done(HeadObjectOutput {
            accept_ranges: Some("bytes".into()),
            content_length: Some(row.size as i64),
            e_tag: Some(convert::etag(&row)),
            last_modified: Some(convert::timestamp(row.modified_ms)),
            content_type: kept.content_type,
            cache_control: kept.cache_control,
            content_disposition: kept.content_disposition,
            content_encoding: kept.content_encoding,
            content_language: kept.content_language,
            metadata: kept.metadata,
            ..Default::default()
        })
    }

    pub(super) async fn copy(&self, input: CopyObjectInput) -> Answer<CopyObjectOutput> {
        refuse::encryption(input.server_side_encryption.as_ref(), input.sse_customer_algorithm.as_ref())?;
        let (from_bucket, from_key) = copy_source(&input.copy_source)?;
        let replace =
            input.metadata_directive.as_ref().is_some_and(|it| it.as_str() == MetadataDirective::REPLACE);
        if !replace && (&from_bucket, &from_key) == (&input.bucket, &input.key) {
            return Err(s3_error!(InvalidRequest, "a copy onto itself must replace the metadata"));
        }
        let conditions = ReadConditions {
            if_match: input.copy_source_if_match,
            if_none_match: input.copy_source_if_none_match,
            if_modified_since: input.copy_source_if_modified_since,
            if_unmodified_since: input.copy_source_if_unmodified_since,
        };
        let kept = Kept {
            content_type: input.content_type,
            cache_control: input.cache_control,
            content_disposition: input.content_disposition,
            content_encoding: input.content_encoding,
            content_language: input.content_language,
            metadata: input.metadata,
        };
        let store = self.store.clone();
        let copying = tokio::task::spawn_blocking(move || {
            let mut source = store.read(&from_bucket, &from_key).map_err(answer)?;
            check_source(&conditions, source.row())?;
            let headers = if replace { kept.into_rows() } else { source.row().headers.clone() };
            let size = source.row().size;
            let bytes = store.spool_copy(&mut source, 0..size).map_err(answer)?;
            let expect = crate::store::Expect::Anything;
            store.put(&input.bucket, &input.key, bytes, headers, &expect).map_err(answer)
        });
        let row = joined(copying).await??;
        let result = CopyObjectResult {
            e_tag: Some(convert::etag(&row)),
            last_modified: Some(convert::timestamp(row.modified_ms)),
            ..Default::default()
        };
        done(CopyObjectOutput { copy_object_result: Some(result), ..Default::default() })
    }

    pub(super) async fn delete_many(&self, input: DeleteObjectsInput) -> Answer<DeleteObjectsOutput> {
        refuse::versions(&input.delete.objects)?;
        let keys = input.delete.objects.into_iter().map(|object| object.key).collect::<Vec<_>>();
        if keys.len() > DELETE_KEYS_MAX {
            return Err(s3_error!(MalformedXML, "at most {DELETE_KEYS_MAX} keys"));
        }
        let store = self.store.clone();
        let keys = on_disk(move || {
            store.delete(&input.bucket, &keys)?;
            Ok::<_, StoreError>(keys)
        });
        let keys = keys.await?;
        let quiet = input.delete.quiet.unwrap_or(false);
        let deleted = |key| DeletedObject { key: Some(key), ..Default::default() };
        let deleted = (!quiet).then(|| keys.into_iter().map(deleted).collect());
        Ok(S3Response::new(DeleteObjectsOutput { deleted, ..Default::default() }))
    }
}

/// A copy's conditions fail as preconditions, whichever they are.
pub(super) fn check_source(conditions: &ReadConditions, row: &ObjectRow) -> S3Result<()> {
    conditions.check(row).map_err(|_| s3_error!(PreconditionFailed, "the copy's source is another"))
}
