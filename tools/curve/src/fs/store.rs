//! The data store of a file system, as far as an operator's commands use it: to try it, and to empty it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use curve_proto::pb::fs::S3Backend;
use curvefs_data::{
    DataError, ObjectStore, Patience, ProbeError, S3Access, S3Bucket, SecretKey, probe_bucket,
    purge as purge_buckets,
};
use curvefs_types::FsId;
use futures::future::try_join_all;
use rand::TryRngCore;
use rand::rngs::OsRng;

use crate::cli::fs::KeyArgs;
use crate::failure::{Code, Failure};
use crate::progress::Progress;

const SECRET_VARIABLE: &str = "CURVE_S3_SECRET_KEY";
/// How long a store that does not answer is waited for while objects are deleted.
const PURGE_PATIENCE: Duration = Duration::from_secs(60);

/// The secret key, from its file or the environment.
pub(super) fn secret(keys: &KeyArgs) -> Result<String, Failure> {
    let (text, from) = match &keys.secret_key_file {
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|error| Failure::file("read", path, &error))?;
            (text, path.display().to_string())
        }
        None => (std::env::var(SECRET_VARIABLE).unwrap_or_default(), format!("${SECRET_VARIABLE}")),
    };
    // Editors end a file with a newline, which is not meant.
    match text.trim() {
        "" => Err(Failure::new(Code::Usage, format!("there is no secret key in {from}"))
            .try_this(format!("pass --secret-key-file FILE or set ${SECRET_VARIABLE}"))),
        secret => Ok(secret.to_owned()),
    }
}

/// The buckets of a file system, by its record with the secret.
pub(super) fn buckets(s3: &S3Backend) -> Vec<Arc<dyn ObjectStore>> {
    let secret = String::from_utf8_lossy(&s3.secret_key).into_owned();
    let bucket = |bucket: &String| -> Arc<dyn ObjectStore> {
        Arc::new(S3Bucket::new(S3Access {
            endpoint: s3.endpoint.clone(),
            region: s3.region.clone(),
            bucket: bucket.clone(),
            access_key: s3.access_key.clone(),
            secret_key: SecretKey::new(secret.clone()),
        }))
    };
    s3.buckets.iter().map(bucket).collect()
}

/// Puts, reads and deletes an object in each bucket, in ten seconds at most.
pub(super) async fn check(s3: &S3Backend) -> Result<(), Failure> {
    let nonce = OsRng.try_next_u64().map_err(|error| {
        Failure::new(Code::Environment, "this machine gives no random numbers").because(error)
    })?;
    let buckets = buckets(s3);
    let probes = buckets.iter().map(|bucket| probe_bucket(&**bucket, nonce));
    try_join_all(probes).await.map(drop).map_err(|error| unusable(&s3.endpoint, &error))
}

/// The failure for a store that did not do it.
pub(super) fn unusable(endpoint: &str, error: &ProbeError) -> Failure {
    let message = format!("the store at {endpoint} cannot hold a file system");
    let (code, remedy) = match error {
        ProbeError::Failed { cause, .. } => remedy(cause),
        ProbeError::Slow { .. } => (Code::Unavailable, "look at the store's load and at the network to it"),
        ProbeError::Wrong { .. } | ProbeError::NotDeleted { .. } => (
            Code::Conflict,
            "use a store that is consistent, and a bucket without caches or versions before it",
        ),
    };
    Failure::new(code, message).because(error).try_this(remedy)
}

fn remedy(cause: &DataError) -> (Code, &'static str) {
    match cause {
        DataError::NoBucket { .. } => {
            (Code::NotFound, "create the bucket first, or check --bucket and --region")
        }
        DataError::Credentials { .. } => (
            Code::Config,
            "check the access key, the secret key and what they may do: put, get, delete, list",
        ),
        DataError::ClockSkew => (Code::Environment, "set this machine's clock, for example with NTP"),
        DataError::Full { .. } => (Code::NoSpace, "free space in the store, or use another"),
        DataError::Unreachable { .. } => (Code::Unavailable, "check --endpoint, and that the store runs"),
        DataError::Slow | DataError::Busy { .. } => {
            (Code::Unavailable, "look at the store's load and at the network to it")
        }
        DataError::GivenUp { last, .. } => remedy(last),
        DataError::Missing { .. } | DataError::Damaged { .. } | DataError::Refused { .. } => {
            (Code::Conflict, "the store does not do what S3 asks for; its own log may say more")
        }
    }
}

/// Deletes every object of a file system that nobody uses any more. Those that are gone already are not counted.
pub(super) async fn purge(
    name: &str,
    fs: u32,
    s3: &S3Backend,
    progress: &mut Progress,
) -> Result<u64, Failure> {
    let buckets = buckets(s3);
    progress.say("objects are deleted");
    let progress = Mutex::new(progress);
    let say = |deleted: u64| {
        let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
        // Not a line for each thousand where there is no terminal.
        if deleted.is_power_of_two() || deleted % 100_000 < 1000 {
            progress.say(&format!("objects are deleted: {deleted}"));
        }
    };
    let purged = purge_buckets(&buckets, FsId(fs), Patience::Soft(PURGE_PATIENCE), say).await;
    purged.map_err(|error| {
        let (code, _) = remedy(&error);
        Failure::new(code, "some of the file system's objects are still in the store").because(&error).try_this(
            format!(
                "`curve fs rm {name}` again: it goes on. Without the store, `curve fs rm {name} --keep-objects`, and delete \
                 the objects named ??/{fs:08x}/* from {} at {} with the store's tools",
                s3.buckets.join(", "),
                s3.endpoint
            ),
        )
    })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn a_secret_comes_from_its_file_without_the_newline() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        let from = |path: PathBuf| secret(&KeyArgs { access_key: "k".into(), secret_key_file: Some(path) });
        std::fs::write(&path, "hush\n").unwrap();
        assert_eq!(from(path.clone()).unwrap(), "hush");
        std::fs::write(&path, "\n").unwrap();
        assert_eq!(from(path).unwrap_err().code, Code::Usage);
        assert_eq!(from(dir.path().join("none")).unwrap_err().code, Code::NotFound);
    }

    #[test]
    fn what_is_wrong_with_a_store_has_its_own_code() {
        let failed = |cause| {
            let error = ProbeError::Failed { bucket: "b".into(), step: "PUT", cause };
            let failure = unusable("http://h:1", &error);
            assert!(failure.remedy.is_some());
            (failure.code, failure.cause.unwrap())
        };
        let why = || "x".to_owned();
        for (cause, code, said) in [
            (DataError::NoBucket { bucket: "b".into() }, Code::NotFound, "BUCKET_MISSING"),
            (DataError::Credentials { why: why() }, Code::Config, "STORE_CREDENTIALS"),
            (DataError::Unreachable { why: why() }, Code::Unavailable, "STORE_UNREACHABLE"),
            (DataError::Full { why: why() }, Code::NoSpace, "STORE_FULL"),
            (DataError::ClockSkew, Code::Environment, "CLOCK_SKEW"),
        ] {
            let (got, text) = failed(cause);
            assert!(got == code && text.contains(said), "{text}");
        }
    }

    #[tokio::test]
    async fn a_store_that_is_not_there_is_said_to_be_unreachable() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let s3 = S3Backend {
            endpoint: format!("http://{address}"),
            region: "us-east-1".into(),
            buckets: vec!["b".into()],
            access_key: "k".into(),
            secret_key: "hush".into(),
            ..S3Backend::default()
        };
        let failure = check(&s3).await.unwrap_err();
        assert_eq!(failure.code, Code::Unavailable);
        let text = failure.to_string();
        assert!(text.contains("STORE_UNREACHABLE") && !text.contains("hush"), "{text}");
    }
}
