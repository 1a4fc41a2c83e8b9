//! The store in a process: connections, limits, and how it stops.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use curve_telemetry::{install_metrics, serve_http};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use s3s::auth::{S3Auth, SecretKey, SimpleAuth};
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{S3Result, s3_error};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::config::{ObjectStoreConfig, SetupError};
use crate::error::StoreError;
use crate::health::Health;
use crate::service::Service;
use crate::store::Store;

/// Bytes of an XML body: the names of 1000 keys of 1024 bytes, escaped, and of 10,000 parts.
const XML_BYTES_MAX: usize = 8 << 20;
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
const CLOSE_POLL: Duration = Duration::from_millis(5);

/// The configured keys. An unknown one gets the code that S3 has for it.
struct Keys(SimpleAuth);

#[async_trait::async_trait]
impl S3Auth for Keys {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        let known = self.0.lookup(access_key).cloned();
        known.ok_or_else(|| s3_error!(InvalidAccessKeyId, "the access key is not known"))
    }
}

/// Serves as configured until `stop` resolves, and then stops gracefully. `ready` is called with the address.
pub async fn run(
    config: ObjectStoreConfig,
    stop: impl Future<Output = ()>,
    ready: impl FnOnce(&str),
) -> Result<(), SetupError> {
    let address = config.listen_address.clone();
    let failed = |cause| SetupError::Listen { address: address.clone(), cause };
    let listener = TcpListener::bind(&address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?.to_string();
    serve(config, listener, stop, || ready(&bound)).await
}

/// Serves on a listener that is bound already until `stop` resolves, and then stops gracefully: no new requests, those
/// under way are finished for at most `stop_timeout`, and the store is closed in order. `ready` is called when
/// requests are answered.
pub async fn serve(
    config: ObjectStoreConfig,
    listener: TcpListener,
    stop: impl Future<Output = ()>,
    ready: impl FnOnce(),
) -> Result<(), SetupError> {
    config.check()?;
    let secret_key = config.secret_key()?;
    // Counters are made at start, so they need their registry before.
    install_metrics();
    let store = open(&config).await?;
    let _http = match config.http_address.as_str() {
        "" => None,
        address => {
            let served = serve_http(address, Arc::new(Health(Arc::downgrade(&store)))).await;
            let address = address.to_owned();
            Some(served.map_err(|cause| SetupError::Listen { address, cause })?)
        }
    };
    let mut builder = S3ServiceBuilder::new(Service::new(store.clone(), config.idle_timeout.0));
    builder.set_auth(Keys(SimpleAuth::from_single(config.access_key.clone(), secret_key)));
    let mut limits = s3s::config::S3Config::default();
    limits.xml_max_body_size = XML_BYTES_MAX;
    builder.set_config(Arc::new(s3s::config::StaticConfigProvider::new(Arc::new(limits))));
    ready();
    accept(&config, listener, builder.build(), stop).await;
    close(store).await;
    Ok(())
}

/// Closes the store in order, unless somebody still works on it: a request that was given up, or the rest of one whose
/// client went away. Then the next start searches, as after a crash.
async fn close(store: Arc<Store>) {
    let deadline = Instant::now() + CLOSE_TIMEOUT;
    while Arc::strong_count(&store) > 1 && Instant::now() < deadline {
        // What holds it is work on the disk's threads, which tells nobody when it ends.
        tokio::time::sleep(CLOSE_POLL).await;
    }
    if Arc::strong_count(&store) > 1 {
        tracing::warn!("requests still use the store; the next start searches for unfinished writes");
        return;
    }
    if let Ok(Err(error)) = tokio::task::spawn_blocking(move || store.close()).await {
        tracing::warn!(%error, "the store was not closed in order; the next start searches for unfinished writes");
    }
}

async fn open(config: &ObjectStoreConfig) -> Result<Arc<Store>, SetupError> {
    let (dir, limits, buckets) = (config.data_dir.clone(), config.limits(), config.buckets.clone());
    let opening = tokio::task::spawn_blocking(move || {
        let store = Store::open(&dir, limits)?;
        for name in &buckets {
            match store.create_bucket(name) {
                Ok(()) | Err(StoreError::BucketExists) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(store)
    });
    let opened = opening.await.unwrap_or_else(|error| Err(std::io::Error::other(error).into()));
    let dir = config.data_dir.display().to_string();
    opened.map_err(|cause| SetupError::Store { dir, cause })
}

async fn accept(
    config: &ObjectStoreConfig,
    listener: TcpListener,
    service: S3Service,
    stop: impl Future<Output = ()>,
) {
    let room = Arc::new(Semaphore::new(config.connections_max));
    let graceful = GracefulShutdown::new();
    tokio::pin!(stop);
    loop {
        let accepted = async {
            let permit = room.clone().acquire_owned().await.expect("the semaphore is never closed");
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            () = &mut stop => break,
            accepted = accepted => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let connection = graceful.watch(connection(config, stream, service.clone()));
                tokio::spawn(async move {
                    if let Err(error) = connection.await {
                        tracing::debug!(%error, "a connection ended");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections");
                // No descriptor is free: one is when another connection ends.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    if tokio::time::timeout(config.stop_timeout.0, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests were under way for too long and are given up");
    }
}

fn connection(
    config: &ObjectStoreConfig,
    stream: TcpStream,
    service: S3Service,
) -> impl hyper_util::server::graceful::GracefulConnection<Error = hyper::Error> + Send + use<> {
    // Without it small answers wait for acknowledgements; a socket that refuses is only slower.
    let _ = stream.set_nodelay(true);
    let serve = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let service = service.clone();
        async move {
            let (begun, method) = (Instant::now(), request.method().to_string());
            let answer = service.call(request.map(s3s::Body::from)).await;
            let status = answer.as_ref().map_or(500, |answer| answer.status().as_u16());
            metrics::counter!("curve_s3_requests_total", "method" => method.clone(), "status" => status.to_string())
                .increment(1);
            metrics::histogram!("curve_s3_request_seconds", "method" => method)
                .record(begun.elapsed().as_secs_f64());
            answer
        }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(config.idle_timeout.0)
        .serve_connection(TokioIo::new(stream), serve)
}
