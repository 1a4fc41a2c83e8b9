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
