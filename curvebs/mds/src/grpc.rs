//! The control plane over gRPC.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use curve_proto::pb::mds::mds_server::{Mds, MdsServer};
use curve_proto::pb::mds::{MdsRequest, MdsResponse};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
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

/// A gRPC server; it stops when this is dropped.
pub(crate) struct GrpcHandle {
    pub address: SocketAddr,
    server: JoinHandle<()>,
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
    let serving = Server::builder()
        .concurrency_limit_per_connection(IN_PROGRESS_MAX)
        .add_service(service)
        .serve_with_incoming(incoming);
    let server = tokio::spawn(async move {
        if let Err(error) = serving.await {
            tracing::error!(%address, %error, "the gRPC server stopped");
        }
    });
    Ok(GrpcHandle { address, server })
}
