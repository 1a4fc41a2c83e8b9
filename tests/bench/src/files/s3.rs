//! What a client gets from the object store that has many objects under way, each as large as those of CurveFS.

use std::sync::Arc;

use bytes::Bytes;
use curve_harness::Playground;
use curvefs_data::{ObjectStore, S3Access, S3Bucket, SecretKey};
use futures::{StreamExt, TryStreamExt, stream};

use super::Case;
use super::cases::large_bytes;

const OBJECT: u64 = 4 << 20;
const UNDER_WAY: usize = 16;

/// A client with its bucket.
pub struct S3Client {
    bucket: Arc<S3Bucket>,
}

impl S3Client {
    /// A client of the store of a playground.
    pub async fn new(playground: &Playground) -> Result<Self, String> {
        let address = playground.store_address().await.map_err(|error| error.to_string())?;
        let secret = std::fs::read_to_string(playground.secret_file()).map_err(|error| error.to_string())?;
        let access = S3Access {
            endpoint: format!("http://{address}"),
            region: "us-east-1".to_owned(),
            bucket: "curve".to_owned(),
            access_key: "playground".to_owned(),
            secret_key: SecretKey::new(secret.trim()),
        };
        Ok(Self { bucket: Arc::new(S3Bucket::new(access)) })
    }

    /// Puts or gets as many bytes as the file of the case has. Every round puts new objects, as every new file does.
    pub async fn run(&self, case: &Case, round: usize) -> Result<u64, String> {
        let content = Bytes::from((0..OBJECT as usize).map(|at| (at % 251) as u8).collect::<Vec<_>>());
        let reading = case.name == "read";
        let each = stream::iter(0..large_bytes() / OBJECT).map(|number| {
            let (name, content) = (name(round, number), content.clone());
            async move {
                if reading {
                    let found = self.bucket.get(name, 0..OBJECT).await?;
                    // In one piece, as programs get it from a client's library.
                    let found = found.concat();
                    assert_eq!(found.len() as u64, OBJECT, "objects are given whole");
                    Ok(())
                } else {
                    self.bucket.put(name, content.into()).await
                }
            }
        });
        let ended: Result<(), curvefs_data::DataError> = each.buffer_unordered(UNDER_WAY).try_collect().await;
        ended.map_err(|error| error.to_string())?;
        Ok(large_bytes())
    }

    /// Removes what a round has left.
    pub async fn clean(&self, round: usize) -> Result<(), String> {
        let names: Vec<String> = (0..large_bytes() / OBJECT).map(|number| name(round, number)).collect();
        self.bucket.delete(names).await.map_err(|error| error.to_string())
    }
}

fn name(round: usize, number: u64) -> String {
    format!("bench/{round}/{number}")
}
