//! Metadata whose requests are counted.

use std::sync::Arc;

use curvefs_types::{Answer, FsError, FsFuture, FsId, Metadata, Meter, Op, Query, Reply, Usage};

/// Decorates metadata with a counter. What a partition refuses, such as a name that is taken, is an answer like others; what
/// counts as failed is what has none, or none that makes sense.
pub struct CountedMetadata {
    inner: Arc<dyn Metadata>,
    meter: Arc<Meter>,
}

impl CountedMetadata {
    /// Counts what is asked of `inner`, and how long it takes with everything that was repeated.
    pub fn new(inner: Arc<dyn Metadata>, meter: Arc<Meter>) -> Self {
        Self { inner, meter }
    }

    fn counted<'a, T: Send + 'a>(&'a self, asked: FsFuture<'a, T>) -> FsFuture<'a, T> {
        Box::pin(async move {
            let metering = self.meter.begin();
            let outcome = asked.await;
            if !outcome.as_ref().is_err_and(|error| is_failure(*error)) {
                metering.done(0);
            }
            outcome
        })
    }
}

const fn is_failure(error: FsError) -> bool {
    matches!(
        error,
        FsError::Fenced | FsError::Stopped | FsError::TimedOut | FsError::Corrupt | FsError::Forgotten
    )
}

impl Metadata for CountedMetadata {
    fn fs(&self) -> FsId {
        self.inner.fs()
    }

    fn change(&self, op: Op) -> FsFuture<'_, Reply> {
        self.counted(self.inner.change(op))
    }

    fn query(&self, query: Query) -> FsFuture<'_, Answer> {
        if matches!(query, Query::Recalls { .. }) {
            // It waits for other mounts, which is no server's slowness.
            return self.inner.query(query);
        }
        self.counted(self.inner.query(query))
    }

    fn stat_fs(&self) -> FsFuture<'_, Usage> {
        self.counted(self.inner.stat_fs())
    }
}

#[cfg(test)]
mod tests {
    use curvefs_types::InodeId;

    use super::*;

    /// Fails as it is told.
    struct Failing(FsError);

    impl Metadata for Failing {
        fn fs(&self) -> FsId {
            FsId(1)
        }

        fn change(&self, _: Op) -> FsFuture<'_, Reply> {
            Box::pin(async { Err(self.0) })
        }

        fn query(&self, _: Query) -> FsFuture<'_, Answer> {
            Box::pin(async { Err(self.0) })
        }

        fn stat_fs(&self) -> FsFuture<'_, Usage> {
            Box::pin(async { Ok(Usage::default()) })
        }
    }

    #[tokio::test]
    async fn an_answer_is_no_failure_whatever_it_says() {
        for (error, failures) in [(FsError::NotFound, 0), (FsError::TimedOut, 2), (FsError::Corrupt, 2)] {
            let meter = Arc::new(Meter::default());
            let counted = CountedMetadata::new(Arc::new(Failing(error)), meter.clone());
            assert_eq!(counted.query(Query::GetAttr { inode: InodeId::ROOT }).await, Err(error));
            assert_eq!(counted.change(Op::Close { inodes: vec![InodeId::ROOT] }).await, Err(error));
            assert_eq!(counted.stat_fs().await, Ok(Usage::default()));
            let read = meter.read();
            assert_eq!((read.calls, read.failures, read.under_way), (3, failures, 0), "{error}");
        }
    }
}
