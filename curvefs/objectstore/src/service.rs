//! S3 in terms of the store: decode, call, encode.

mod convert;
mod listing;
mod multipart;
mod objects;
mod refuse;

use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use s3s::dto::*;
use s3s::{S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result, s3_error};

use crate::error::StoreError;
use crate::ingest::on_disk;
use crate::store::Store;

/// S3's trait over a store.
pub(crate) struct Service {
    store: Arc<Store>,
    idle_timeout: Duration,
}

impl Service {
    pub(crate) fn new(store: Arc<Store>, idle_timeout: Duration) -> Self {
        Self { store, idle_timeout }
    }
}

/// What a client is told.
pub(crate) fn answer(error: StoreError) -> S3Error {
    let message = error.to_string();
    if error.is_no_space() {
        let mut answer = S3Error::with_message(S3ErrorCode::Custom("StorageFull".into()), message);
        answer.set_status_code(StatusCode::INSUFFICIENT_STORAGE);
        return answer;
    }
    let code = match error {
        StoreError::NoSuchBucket => S3ErrorCode::NoSuchBucket,
        StoreError::BucketExists => S3ErrorCode::BucketAlreadyOwnedByYou,
        StoreError::BucketNotEmpty => S3ErrorCode::BucketNotEmpty,
        StoreError::NoSuchKey => S3ErrorCode::NoSuchKey,
        StoreError::NoSuchUpload => S3ErrorCode::NoSuchUpload,
        StoreError::InvalidPart(_) => S3ErrorCode::InvalidPart,
        StoreError::InvalidPartOrder => S3ErrorCode::InvalidPartOrder,
        StoreError::PartTooSmall(_) => S3ErrorCode::EntityTooSmall,
        StoreError::Precondition => S3ErrorCode::PreconditionFailed,
        StoreError::BadKey => S3ErrorCode::KeyTooLongError,
        StoreError::MetadataTooLarge(_) => S3ErrorCode::MetadataTooLarge,
        StoreError::TooLarge(_) => S3ErrorCode::EntityTooLarge,
        StoreError::Stopped => S3ErrorCode::ServiceUnavailable,
        StoreError::Damaged(_) | StoreError::Io(_) | StoreError::NoSpace { .. } => {
            tracing::error!(%message, "a request failed");
            S3ErrorCode::InternalError
        }
    };
    S3Error::with_message(code, message)
}

type Answer<T> = S3Result<S3Response<T>>;

fn done<T>(output: T) -> Answer<T> {
    Ok(S3Response::new(output))
}

#[async_trait::async_trait]
impl S3 for Service {
    async fn list_buckets(&self, _: S3Request<ListBucketsInput>) -> Answer<ListBucketsOutput> {
        let bucket = |(name, created): (String, i64)| Bucket {
            name: Some(name),
            creation_date: Some(convert::timestamp(created)),
            ..Default::default()
        };
        let buckets = self.store.buckets().into_iter().map(bucket).collect();
        done(ListBucketsOutput { buckets: Some(buckets), ..Default::default() })
    }

    async fn create_bucket(&self, req: S3Request<CreateBucketInput>) -> Answer<CreateBucketOutput> {
        let (store, name) = (self.store.clone(), req.input.bucket);
        let location = Some(format!("/{name}"));
        on_disk(move || store.create_bucket(&name)).await?;
        done(CreateBucketOutput { location })
    }

    async fn delete_bucket(&self, req: S3Request<DeleteBucketInput>) -> Answer<DeleteBucketOutput> {
        let (store, name) = (self.store.clone(), req.input.bucket);
        on_disk(move || store.delete_bucket(&name)).await?;
        done(DeleteBucketOutput::default())
    }

    async fn head_bucket(&self, req: S3Request<HeadBucketInput>) -> Answer<HeadBucketOutput> {
        self.store.check_bucket(&req.input.bucket).map_err(answer)?;
        done(HeadBucketOutput::default())
    }

    async fn get_bucket_location(
        &self,
        req: S3Request<GetBucketLocationInput>,
    ) -> Answer<GetBucketLocationOutput> {
        self.store.check_bucket(&req.input.bucket).map_err(answer)?;
        done(GetBucketLocationOutput::default())
    }

    async fn put_object(&self, req: S3Request<PutObjectInput>) -> Answer<PutObjectOutput> {
        self.put(req).await
    }

    async fn get_object(&self, req: S3Request<GetObjectInput>) -> Answer<GetObjectOutput> {
        self.get(req.input).await
    }

    async fn head_object(&self, req: S3Request<HeadObjectInput>) -> Answer<HeadObjectOutput> {
        self.head(req.input).await
    }

    async fn copy_object(&self, req: S3Request<CopyObjectInput>) -> Answer<CopyObjectOutput> {
        self.copy(req.input).await
    }

    async fn delete_object(&self, req: S3Request<DeleteObjectInput>) -> Answer<DeleteObjectOutput> {
        let (store, input) = (self.store.clone(), req.input);
        refuse::version(input.version_id.as_deref())?;
        let expect = convert::expect(input.if_match, None)?;
        on_disk(move || store.delete_if(&input.bucket, &[input.key], &expect)).await?;
        done(DeleteObjectOutput::default())
    }

    async fn delete_objects(&self, req: S3Request<DeleteObjectsInput>) -> Answer<DeleteObjectsOutput> {
        self.delete_many(req.input).await
    }

    async fn list_objects(&self, req: S3Request<ListObjectsInput>) -> Answer<ListObjectsOutput> {
        self.list_v1(req.input).await
    }

    async fn list_objects_v2(&self, req: S3Request<ListObjectsV2Input>) -> Answer<ListObjectsV2Output> {
        self.list_v2(req.input).await
    }

    async fn create_multipart_upload(
        &self,
        req: S3Request<CreateMultipartUploadInput>,
    ) -> Answer<CreateMultipartUploadOutput> {
        self.begin_upload(req.input).await
    }

    async fn upload_part(&self, req: S3Request<UploadPartInput>) -> Answer<UploadPartOutput> {
        self.take_part(req).await
    }

    async fn upload_part_copy(&self, req: S3Request<UploadPartCopyInput>) -> Answer<UploadPartCopyOutput> {
        self.copy_part(req.input).await
    }

    async fn complete_multipart_upload(
        &self,
        req: S3Request<CompleteMultipartUploadInput>,
    ) -> Answer<CompleteMultipartUploadOutput> {
        self.complete(req.input).await
    }

    async fn abort_multipart_upload(
        &self,
        req: S3Request<AbortMultipartUploadInput>,
    ) -> Answer<AbortMultipartUploadOutput> {
        let (store, input) = (self.store.clone(), req.input);
        let id = convert::upload_id(&input.upload_id)?;
        on_disk(move || store.abort_upload(&input.bucket, &input.key, id)).await?;
        done(AbortMultipartUploadOutput::default())
    }

    async fn list_parts(&self, req: S3Request<ListPartsInput>) -> Answer<ListPartsOutput> {
        self.parts(req.input).await
    }

    async fn list_multipart_uploads(
        &self,
        req: S3Request<ListMultipartUploadsInput>,
    ) -> Answer<ListMultipartUploadsOutput> {
        self.uploads(req.input).await
    }
}

/// The bucket and key that a copy is made of.
fn copy_source(source: &CopySource) -> S3Result<(String, String)> {
    match source {
        CopySource::Bucket { bucket, key, version_id: None } => Ok((bucket.to_string(), key.to_string())),
        CopySource::Bucket { .. } => Err(s3_error!(NotImplemented, "objects have no versions here")),
        _ => Err(s3_error!(NotImplemented, "a copy's source is a bucket and a key")),
    }
}
