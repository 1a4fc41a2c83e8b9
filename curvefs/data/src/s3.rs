//! A bucket of an S3 store.

use std::convert::Infallible;
use std::fmt;
use std::ops::Range;
use std::pin::Pin;
use std::sync::{PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;

use aws_credential_types::Credentials;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    StalledStreamProtectionConfig,
};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::{ByteStream, ByteStreamError, SdkBody};
use aws_sdk_s3::types::{Delete, ObjectIdentifier};
use bytes::Bytes;
use http_body::{Frame, SizeHint};

use crate::bucket::{DELETE_MAX, ObjectFuture, ObjectStore};
use crate::content::Content;
use crate::error::DataError;
use crate::options::{S3Access, SecretKey};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// One attempt for at most 4 MiB: slower than 200 KiB/s is no answer.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(20);
const USER_AGENT: &str = "curve";

/// A bucket of an S3 store. One attempt a call: the SDK's own repetitions are off, since they would be multiplied with
/// ours and know nothing of `soft`.
pub struct S3Bucket {
    access: S3Access,
    client: RwLock<Client>,
}

fn client(access: &S3Access, access_key: &str, secret_key: &SecretKey) -> Client {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .operation_attempt_timeout(ATTEMPT_TIMEOUT)
        .operation_timeout(ATTEMPT_TIMEOUT)
        .build();
    let keys = Credentials::new(access_key, secret_key.expose(), None, None, USER_AGENT);
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(access.region.clone()))
        .endpoint_url(access.endpoint.clone())
        .credentials_provider(keys)
        .force_path_style(true)
        // Trailers with checksums break many stores; our own checksums are inside the objects.
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts);
    Client::from_conf(config.build())
}

impl S3Bucket {
    /// Nothing is asked yet; a wrong address is noticed by the first call.
    pub fn new(access: S3Access) -> Self {
        let client = RwLock::new(client(&access, &access.access_key, &access.secret_key));
        Self { access, client }
    }

    /// Signs requests with other keys from now on.
    pub fn rotate(&self, access_key: &str, secret_key: &SecretKey) {
        let rotated = client(&self.access, access_key, secret_key);
        *self.client.write().unwrap_or_else(PoisonError::into_inner) = rotated;
    }

    fn client(&self) -> Client {
        self.client.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What an SDK's error means.
    fn failed<E, R>(&self, error: &SdkError<E, R>, object: &str) -> DataError
    where
        E: ProvideErrorMetadata + fmt::Debug,
        R: fmt::Debug + HttpStatus,
    {
        match error {
            SdkError::TimeoutError(_) => DataError::Slow,
            SdkError::DispatchFailure(failure) if failure.is_timeout() => {
                DataError::Unreachable { why: format!("no connection to {} in time", self.access.endpoint) }
            }
            SdkError::DispatchFailure(failure) => {
                let cause = failure.as_connector_error().map_or_else(|| format!("{failure:?}"), chain);
                DataError::Unreachable { why: format!("{}: {cause}", self.access.endpoint) }
            }
            SdkError::ResponseError(_) => DataError::Unreachable { why: "an answer that is no S3".into() },
            SdkError::ServiceError(context) => {
                let said = context.err();
                let why = said.message().unwrap_or("no reason given").to_owned();
                self.refused(said.code().unwrap_or_default(), context.raw().status(), why, object)
            }
            other => DataError::Refused { why: format!("{other:?}") },
        }
    }

    fn refused(&self, code: &str, status: u16, why: String, object: &str) -> DataError {
        let why = if code.is_empty() { format!("status {status}: {why}") } else { format!("{code}: {why}") };
        match (code, status) {
            ("NoSuchKey" | "NotFound", _) => DataError::Missing { object: object.to_owned() },
            ("NoSuchBucket", _) => DataError::NoBucket { bucket: self.access.bucket.clone() },
            ("RequestTimeTooSkewed", _) => DataError::ClockSkew,
            ("StorageFull" | "XMinioStorageFull" | "QuotaExceeded", _) | (_, 507) => DataError::Full { why },
            (
                "SlowDown" | "RequestTimeout" | "IncompleteBody" | "ServiceUnavailable" | "InternalError"
                | "OperationAborted"
                // The bytes were changed on their way, which will not happen each time; a store that miscalculates does not pass
                // the probe.
                | "BadDigest" | "XAmzContentSHA256Mismatch",
                _,
            )
            | (_, 429 | 500..=599) => DataError::Busy { why },
            (
                "InvalidAccessKeyId"
                | "SignatureDoesNotMatch"
                | "AccessDenied"
                | "NotSignedUp"
                | "ExpiredToken",
                _,
            )
            | (_, 401 | 403) => DataError::Credentials { why },
            _ => DataError::Refused { why },
        }
    }
}

/// The status of an answer.
trait HttpStatus {
    fn status(&self) -> u16;
}

impl HttpStatus for aws_sdk_s3::config::http::HttpResponse {
    fn status(&self) -> u16 {
        self.status().as_u16()
    }
}

/// Pieces as a body, each sent from where it is.
fn body_of(content: Content) -> ByteStream {
    SdkBody::retryable(move || {
        let body = Body { left: content.len(), pieces: content.clone().into_pieces().into_iter() };
        SdkBody::from_body_1_x(body)
    })
    .into()
}

struct Body {
    left: u64,
    pieces: std::vec::IntoIter<Bytes>,
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.pieces.next();
        self.left -= piece.as_ref().map_or(0, |piece| piece.len() as u64);
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// An error with its causes.
fn chain(error: &(impl std::error::Error + ?Sized)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

impl ObjectStore for S3Bucket {
    fn name(&self) -> &str {
        &self.access.bucket
    }

    fn put(&self, object: String, content: Content) -> ObjectFuture<'_, ()> {
        Box::pin(async move {
            let put = self.client().put_object().bucket(&self.access.bucket).key(&object);
            let sum = aws_smithy_types::base64::encode(content.crc32c().to_be_bytes());
            let put = put.checksum_crc32_c(sum).body(body_of(content)).customize();
            // Its SHA-256 was a fifth of what writing costs, here and at the store again. Who can change what is on the way could change
            // answers as well, which nobody signs; against mishaps there is the checksum.
            let put = put.disable_payload_signing().send().await;
            put.map(drop).map_err(|error| self.failed(&error, &object))
        })
    }

    fn get(&self, object: String, range: Range<u64>) -> ObjectFuture<'_, Vec<Bytes>> {
        Box::pin(async move {
            let wanted = format!("bytes={}-{}", range.start, range.end - 1);
            let get = self.client().get_object().bucket(&self.access.bucket).key(&object).range(wanted);
            let mut answer = get.send().await.map_err(|error| self.failed(&error, &object))?;
            // The operation's timeout ends with the headers.
            let body = async {
                let mut pieces = Vec::new();
                while let Some(piece) = answer.body.try_next().await? {
                    pieces.push(piece);
                }
                Ok(pieces)
            };
            let body = tokio::time::timeout(ATTEMPT_TIMEOUT, body).await.map_err(|_| DataError::Slow)?;
            body.map_err(|error: ByteStreamError| DataError::Unreachable { why: chain(&error) })
        })
    }

    fn delete(&self, objects: Vec<String>) -> ObjectFuture<'_, ()> {
        Box::pin(async move {
            let bad = |error: aws_sdk_s3::error::BuildError| DataError::Refused { why: error.to_string() };
            let names = objects.iter().map(|key| ObjectIdentifier::builder().key(key).build());
            let names = names.collect::<Result<Vec<_>, _>>().map_err(bad)?;
            let delete = Delete::builder().set_objects(Some(names)).quiet(true).build().map_err(bad)?;
            let delete = self.client().delete_objects().bucket(&self.access.bucket).delete(delete);
            let answer = delete.send().await.map_err(|error| self.failed(&error, "objects"))?;
            let Some(first) = answer.errors().first() else { return Ok(()) };
            let (code, why) =
                (first.code().unwrap_or_default(), first.message().unwrap_or_default().to_owned());
            match self.refused(code, 200, why, first.key().unwrap_or_default()) {
                DataError::Missing { .. } => Ok(()),
                failed => Err(failed),
            }
        })
    }

    fn list(&self, prefix: String) -> ObjectFuture<'_, Vec<String>> {
        Box::pin(async move {
            let list = self.client().list_objects_v2().bucket(&self.access.bucket).prefix(&prefix);
            let answer = list.max_keys(DELETE_MAX as i32).send().await;
            let answer = answer.map_err(|error| self.failed(&error, &prefix))?;
            Ok(answer.contents().iter().filter_map(|object| object.key().map(str::to_owned)).collect())
        })
    }
}

impl fmt::Debug for S3Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Bucket")
            .field("endpoint", &self.access.endpoint)
            .field("bucket", &self.access.bucket)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_have_their_codes() {
        let bucket = S3Bucket::new(S3Access {
            endpoint: "http://127.0.0.1:1".into(),
            region: "us-east-1".into(),
            bucket: "b".into(),
            access_key: "a".into(),
            secret_key: SecretKey::new("s"),
        });
        for (code, status, expected) in [
            ("NoSuchKey", 404, "OBJECT_MISSING"),
            ("NoSuchBucket", 404, "BUCKET_MISSING"),
            ("AccessDenied", 403, "STORE_CREDENTIALS"),
            ("", 403, "STORE_CREDENTIALS"),
            ("RequestTimeTooSkewed", 403, "CLOCK_SKEW"),
            ("SlowDown", 503, "STORE_BUSY"),
            ("", 502, "STORE_BUSY"),
            ("BadDigest", 400, "STORE_BUSY"),
            ("StorageFull", 507, "STORE_FULL"),
            ("InvalidRequest", 400, "STORE_REFUSED"),
        ] {
            assert_eq!(bucket.refused(code, status, String::new(), "o").code(), expected, "{code} {status}");
        }
        assert!(!format!("{:?}", bucket.access).contains("\"s\""), "secrets are not printed");
    }
}
