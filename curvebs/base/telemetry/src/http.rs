//! `/metrics` and `/healthz`.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::health::{HealthLevel, HealthSource};
use crate::recorder::{install_metrics, render_metrics, upkeep};

/// How often histograms take in their samples.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(10);

/// A running HTTP server; it stops when this is dropped.
#[derive(Debug)]
pub struct HttpHandle {
    /// Where it listens, with the port that was chosen where 0 was asked for.
    pub address: SocketAddr,
    server: JoinHandle<()>,
    upkeep: JoinHandle<()>,
}

impl Drop for HttpHandle {
    fn drop(&mut self) {
        self.server.abort();
        self.upkeep.abort();
    }
}

/// Serves `/metrics` (Prometheus' text format) and `/healthz` (the report as JSON; status 503 when its level is
/// `Err`, otherwise 200) on `address`, which is `host:port`.
pub async fn serve_http(address: &str, health: Arc<dyn HealthSource>) -> io::Result<HttpHandle> {
    install_metrics();
    let listener = TcpListener::bind(address)
        .await
        .map_err(|e| io::Error::new(e.kind(), format!("cannot serve HTTP on {address}: {e}")))?;
    let address = listener.local_addr()?;
    let router = Router::new()
        .route("/metrics", get(serve_metrics))
        .route("/healthz", get(serve_health))
        .with_state(health);
    let server = tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%address, %error, "the HTTP server stopped");
        }
    });
    Ok(HttpHandle { address, server, upkeep: tokio::spawn(run_upkeep()) })
}

async fn run_upkeep() {
    let mut ticks = tokio::time::interval(UPKEEP_INTERVAL);
    loop {
        ticks.tick().await;
        upkeep();
    }
}

async fn serve_metrics(State(health): State<Arc<dyn HealthSource>>) -> Response {
    health.collect();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], render_metrics()).into_response()
}

async fn serve_health(State(health): State<Arc<dyn HealthSource>>) -> Response {
    let report = health.health();
    let status = match report.level {
        HealthLevel::Ok | HealthLevel::Warn => StatusCode::OK,
        HealthLevel::Err => StatusCode::SERVICE_UNAVAILABLE,
    };
    let body = serde_json::to_string_pretty(&report).expect("a report is plain text and enums");
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;
    use crate::health::{HealthItem, HealthReport};

    struct Fixed(Mutex<HealthReport>);

    impl HealthSource for Fixed {
        fn health(&self) -> HealthReport {
            self.0.lock().unwrap().clone()
        }

        fn collect(&self) {
            metrics::gauge!("test_collected").set(7.0);
        }
    }

    async fn get(address: SocketAddr, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    fn item(code: &str, level: HealthLevel) -> HealthItem {
        let text = |what: &str| format!("{what} of {code}");
        HealthItem {
            code: code.to_owned(),
            level,
            summary: text("summary"),
            cause: text("cause"),
            remedy: text("remedy"),
        }
    }

    #[tokio::test]
    async fn health_is_served_with_the_status_of_the_worst() {
        let source = Arc::new(Fixed(Mutex::default()));
        let handle = serve_http("127.0.0.1:0", Arc::clone(&source) as _).await.unwrap();
        let (status, body) = get(handle.address, "/healthz").await;
        assert_eq!((status, serde_json::from_str(&body).unwrap()), (200, HealthReport::default()));

        let items = vec![item("DISK_FULL", HealthLevel::Warn), item("NO_LEADER", HealthLevel::Err)];
        let report = HealthReport::new(items);
        assert_eq!((report.level, report.items[0].code.as_str()), (HealthLevel::Err, "NO_LEADER"));
        *source.0.lock().unwrap() = report.clone();
        let (status, body) = get(handle.address, "/healthz").await;
        assert_eq!((status, serde_json::from_str(&body).unwrap()), (503, report));
        assert!(body.contains("\"level\": \"ERR\"") && body.contains("remedy of NO_LEADER"), "{body}");
    }

    #[tokio::test]
    async fn metrics_hold_what_was_counted_collected_and_timed() {
        let handle = serve_http("127.0.0.1:0", Arc::new(Fixed(Mutex::default()))).await.unwrap();
        metrics::counter!("test_counted_total", "kind" => "a").increment(3);
        metrics::histogram!("test_latency_seconds").record(0.0007);
        let (status, body) = get(handle.address, "/metrics").await;
        assert_eq!(status, 200);
        for line in [
            "test_counted_total{kind=\"a\"} 3",
            "test_collected 7",
            "test_latency_seconds_bucket{le=\"0.00075\"} 1",
            "test_latency_seconds_bucket{le=\"0.0005\"} 0",
        ] {
            assert!(body.contains(line), "{line} is missing in {body}");
        }
        assert_eq!(get(handle.address, "/elsewhere").await.0, 404);
    }

    #[tokio::test]
    async fn a_taken_port_is_named_and_a_dropped_handle_frees_it() {
        let source = Arc::new(Fixed(Mutex::default()));
        let handle = serve_http("127.0.0.1:0", Arc::clone(&source) as _).await.unwrap();
        let address = handle.address.to_string();
        let error = serve_http(&address, Arc::clone(&source) as _).await.unwrap_err();
        assert!(error.to_string().contains(&address), "{error}");
        drop(handle);
        while serve_http(&address, Arc::clone(&source) as _).await.is_err() {
            tokio::task::yield_now().await;
        }
    }
}
