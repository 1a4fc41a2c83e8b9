//! Uploads in parts.

use s3s::dto::*;
use s3s::{S3Request, S3Result, s3_error};

use super::convert::{self, Kept, ReadConditions};
use super::objects::check_source;
use super::{Answer, Service, answer, copy_source, done, refuse};
use crate::ingest::{Body, ingest, joined, on_disk};

const LIST_MAX: i32 = 1000;

impl Service {
    pub(super) async fn begin_upload(
        &self,
        input: CreateMultipartUploadInput,
    ) -> Answer<CreateMultipartUploadOutput> {
        refuse::encryption(input.server_side_encryption.as_ref(), input.sse_customer_algorithm.as_ref())?;
        let kept = Kept {
            content_type: input.content_type,
            cache_control: input.cache_control,
            content_disposition: input.content_disposition,
            content_encoding: input.content_encoding,
            content_language: input.content_language,
            metadata: input.metadata,
        };
        let (store, bucket, key) = (self.store.clone(), input.bucket.clone(), input.key.clone());
        let id = on_disk(move || store.create_upload(&bucket, &key, kept.into_rows())).await?;
        done(CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(format!("{:016x}", id.0)),
            ..Default::default()
        })
    }

    pub(super) async fn take_part(&self, req: S3Request<UploadPartInput>) -> Answer<UploadPartOutput> {
        let input = req.input;
        let (id, number) = (convert::upload_id(&input.upload_id)?, convert::part_number(input.part_number)?);
        let body = Body {
            stream: input.body,
            length: input.content_length,
            md5: input.content_md5,
            any_tag: false,
            headers: req.headers,
            trailers: req.trailing_headers,
        };
        let (store, bucket, key) = (self.store.clone(), input.bucket, input.key);
        let put = move |bytes| store.put_part(&bucket, &key, id, number, bytes);
        let part = ingest(&self.store, body, self.idle_timeout, put).await?;
        done(UploadPartOutput { e_tag: Some(ETag::Strong(part.etag)), ..Default::default() })
    }

    pub(super) async fn copy_part(&self, input: UploadPartCopyInput) -> Answer<UploadPartCopyOutput> {
        let (from_bucket, from_key) = copy_source(&input.copy_source)?;
        let (id, number) = (convert::upload_id(&input.upload_id)?, convert::part_number(input.part_number)?);
        let range = input.copy_source_range.as_deref().map(Range::parse).transpose();
        let range = range.map_err(|_| s3_error!(InvalidArgument, "the range is bytes=FIRST-LAST"))?;
        let conditions = ReadConditions {
            if_match: input.copy_source_if_match,
            if_none_match: input.copy_source_if_none_match,
            if_modified_since: input.copy_source_if_modified_since,
            if_unmodified_since: input.copy_source_if_unmodified_since,
        };
        let store = self.store.clone();
        let copying = tokio::task::spawn_blocking(move || {
            let mut source = store.read(&from_bucket, &from_key).map_err(answer)?;
            check_source(&conditions, source.row())?;
            let size = source.row().size;
            let range = match range {
                None => 0..size,
                Some(range) => range.check(size).map_err(|_| s3_error!(InvalidRange))?,
            };
            let bytes = store.spool_copy(&mut source, range).map_err(answer)?;
            store.put_part(&input.bucket, &input.key, id, number, bytes).map_err(answer)
        });
        let part = joined(copying).await??;
        let result = CopyPartResult {
            e_tag: Some(ETag::Strong(part.etag)),
            last_modified: Some(convert::timestamp(part.modified_ms)),
            ..Default::default()
        };
        done(UploadPartCopyOutput { copy_part_result: Some(result), ..Default::default() })
    }

    pub(super) async fn complete(
        &self,
        input: CompleteMultipartUploadInput,
    ) -> Answer<CompleteMultipartUploadOutput> {
        let id = convert::upload_id(&input.upload_id)?;
        let expect = convert::expect(input.if_match, input.if_none_match)?;
        let parts = input.multipart_upload.and_then(|upload| upload.parts).unwrap_or_default();
        let wanted = parts.into_iter().map(|part| {
            let number = convert::part_number(part.part_number.unwrap_or(0))?;
            let etag = part.e_tag.ok_or_else(|| s3_error!(InvalidPart, "part {number} has no ETag"))?;
            Ok((number, etag.into_value()))
        });
        let wanted = wanted.collect::<S3Result<Vec<_>>>()?;
        let (store, bucket, key) = (self.store.clone(), input.bucket.clone(), input.key.clone());
        let row = on_disk(move || store.complete_upload(&bucket, &key, id, &wanted, &expect)).await?;
        done(CompleteMultipartUploadOutput {
            location: Some(format!("/{}/{}", input.bucket, input.key)),
            bucket: Some(input.bucket),
            key: Some(input.key),
            e_tag: Some(convert::etag(&row)),
            ..Default::default()
        })
    }

    pub(super) async fn parts(&self, input: ListPartsInput) -> Answer<ListPartsOutput> {
        let id = convert::upload_id(&input.upload_id)?;
        let (store, bucket, key) = (self.store.clone(), input.bucket.clone(), input.key.clone());
        let parts = on_disk(move || store.parts(&bucket, &key, id)).await?;
        let marker = input.part_number_marker.unwrap_or(0);
        let max = input.max_parts.unwrap_or(LIST_MAX).clamp(0, LIST_MAX);
        let mut rest = parts.into_iter().filter(|part| i32::from(part.number) > marker);
        let page = rest.by_ref().take(max as usize).collect::<Vec<_>>();
        let truncated = rest.next().is_some();
        let next = page.last().filter(|_| truncated).map(|part| i32::from(part.number));
        let part = |part: crate::store::Part| Part {
            part_number: Some(i32::from(part.number)),
            size: Some(part.size as i64),
            e_tag: Some(ETag::Strong(part.etag)),
            last_modified: Some(convert::timestamp(part.modified_ms)),
            ..Default::default()
        };
        done(ListPartsOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(input.upload_id),
            part_number_marker: Some(marker),
            next_part_number_marker: next,
            max_parts: Some(max),
            is_truncated: Some(truncated),
            parts: Some(page.into_iter().map(part).collect()),
            ..Default::default()
        })
    }

    /// The first page only: there are never so many uploads that a client would need a second one, and it is told that
    /// there is more.
    pub(super) async fn uploads(
        &self,
        input: ListMultipartUploadsInput,
    ) -> Answer<ListMultipartUploadsOutput> {
        let max = input.max_uploads.unwrap_or(LIST_MAX).clamp(0, LIST_MAX);
        let prefix = input.prefix.clone().unwrap_or_default();
        let (store, bucket) = (self.store.clone(), input.bucket.clone());
        let mut uploads = on_disk(move || store.uploads(&bucket, &prefix, max as usize + 1)).await?;
        let truncated = uploads.len() > max as usize;
        uploads.truncate(max as usize);
        let upload = |upload: crate::store::Upload| MultipartUpload {
            key: Some(upload.key),
            upload_id: Some(format!("{:016x}", upload.id.0)),
            initiated: Some(convert::timestamp(upload.begun_ms)),
            ..Default::default()
        };
        done(ListMultipartUploadsOutput {
            bucket: Some(input.bucket),
            prefix: input.prefix,
            max_uploads: Some(max),
            is_truncated: Some(truncated),
            uploads: Some(uploads.into_iter().map(upload).collect()),
            ..Default::default()
        })
    }
}
