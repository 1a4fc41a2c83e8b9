//! A bucket of an S3 store, and what boto3 says of it.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use curve_harness::{Finished, Playground, ShellError, run_within};

/// Debian's, which has Debian's boto3.
const PYTHON: &str = "/usr/bin/python3";
/// Of a store that says nothing else.
pub(crate) const REGION: &str = "us-east-1";
/// For everything that a script does.
const SCRIPT_WITHIN: Duration = Duration::from_secs(180);

/// Where a bucket is, and the keys for it.
#[derive(Clone)]
pub struct StorePlace {
    /// `http://HOST:PORT`.
    pub endpoint: String,
    /// The region that requests are signed for.
    pub region: String,
    /// The bucket, which exists.
    pub bucket: String,
    /// The access key.
    pub access_key: String,
    /// The secret key.
    pub secret_key: String,
}

fn variable(name: &str) -> Option<String> {
    std::env::var(format!("CURVE_TEST_S3_{name}")).ok().filter(|value| !value.is_empty())
}

impl StorePlace {
    /// The first bucket of the store that `$CURVE_TEST_S3_ENDPOINT` names, with `…_BUCKET`, `…_ACCESS_KEY`,
    /// `…_SECRET_KEY` and, unless it is us-east-1, `…_REGION`.
    pub fn of_environment() -> Option<Self> {
        let endpoint = variable("ENDPOINT")?;
        let needed = |name| variable(name).unwrap_or_else(|| panic!("CURVE_TEST_S3_{name} is needed, too"));
        let region = variable("REGION").unwrap_or_else(|| REGION.into());
        let bucket = needed("BUCKET").split(',').next().unwrap_or_default().to_owned();
        Some(Self {
            endpoint,
            region,
            bucket,
            access_key: needed("ACCESS_KEY"),
            secret_key: needed("SECRET_KEY"),
        })
    }

    /// The embedded store of a playground with `--fs`.
    pub async fn of_playground(playground: &Playground) -> Result<Self, ShellError> {
        let secret = std::fs::read_to_string(playground.secret_file()).expect("a playground has its keys");
        Ok(Self {
            endpoint: format!("http://{}", playground.store_address().await?),
            region: REGION.into(),
            bucket: "curve".into(),
            access_key: "playground".into(),
            secret_key: secret.trim().to_owned(),
        })
    }
}

/// A Python that has boto3: `$CURVE_PYTHON`, or Debian's.
pub struct Boto3 {
    python: String,
}

impl Boto3 {
    /// `None`, with the reason said, where there is none.
    pub async fn found() -> Option<Self> {
        let python = std::env::var("CURVE_PYTHON").unwrap_or_else(|_| PYTHON.into());
        let imported = run_within(Duration::from_secs(60), &python, &["-c", "import boto3"]).await;
        if imported.is_ok_and(|ended| ended.status.success()) {
            return Some(Self { python });
        }
        println!("{python} has no boto3 (make deps); nothing was tested");
        None
    }

    /// Everything that a program does with boto3 (`s3/client.py`).
    pub async fn everything(&self, place: &StorePlace) -> Result<Finished, ShellError> {
        self.script("client.py", place).await
    }

    /// The keys of all objects in the bucket, in order.
    pub async fn keys(&self, place: &StorePlace) -> Result<Vec<String>, ShellError> {
        let listed = self.script("keys.py", place).await?;
        Ok(listed.stdout.lines().map(str::to_owned).collect())
    }

    async fn script(&self, name: &str, place: &StorePlace) -> Result<Finished, ShellError> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("s3").join(name);
        let path = path.display().to_string();
        let StorePlace { endpoint, region, bucket, access_key, secret_key } = place;
        // Arguments are seen by others, and in messages.
        let mut secret = tempfile::NamedTempFile::new().expect("a temporary file");
        secret.write_all(secret_key.as_bytes()).expect("written");
        let secret = secret.into_temp_path();
        let file = secret.display().to_string();
        let arguments = [&*path, endpoint, region, bucket, access_key, &file];
        run_within(SCRIPT_WITHIN, &self.python, &arguments).await?.success()
    }
}
