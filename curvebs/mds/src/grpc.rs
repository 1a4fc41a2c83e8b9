//! The control plane over gRPC.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use curve_proto::pb::mds::mds_server::{Mds, MdsServer};
use curve_proto::pb::mds::{MdsRequest, MdsResponse};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use crate::node::Shared;
use crate::service::{self, Via};

/// The largest message, both ways.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// Requests in progress on one connection; more wait.
const IN_PROGRESS_MAX: usize = 1024;

struct Service(Arc<Shared>);

#[tonic::async_trait]
impl Mds for Service {
    async fn call(&self, request: Request<MdsRequest>) -> Result<Response<MdsResponse>, Status> {
        Ok(Response::new(service::call(&self.0, request.into_inner(), Via::Grpc).await))
    }
}

/// How long a stop waits for requests in progress.
const STOP_WAIT: Duration = Duration::from_secs(1);

/// A gRPC server; it stops when this is dropped.
pub(crate) struct GrpcHandle {
    pub address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    server: JoinHandle<()>,
}

impl GrpcHandle {
    /// Accepts nothing new, answers what is in progress, and closes the connections.
    pub(crate) async fn stop(mut self) {
        drop(self.stop.take());
        if timeout(STOP_WAIT, &mut self.server).await.is_err() {
            tracing::debug!("gRPC connections were cut");
        }
    }
}

impl Drop for GrpcHandle {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Serves the control plane at `host:port`.
pub(crate) async fn serve(address: &str, shared: Arc<Shared>) -> io::Result<GrpcHandle> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    let service = MdsServer::new(Service(shared))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = Server::builder()
        .concurrency_limit_per_connection(IN_PROGRESS_MAX)
        .add_service(service)
        .serve_with_incoming_shutdown(incoming, async move { drop(stopped.await) });
    let server = tokio::spawn(async move {
        if let Err(error) = serving.await {
            tracing::error!(%address, %error, "the gRPC server stopped");
        }
    });
    Ok(GrpcHandle { address, stop: Some(stop), server })
}
