//! Bad people, through real sockets: they are bounded, and nobody else notices.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use curve_blockdev::MemoryDevice;
use curve_nbd::exports::{Export, Exports};
use curve_nbd::server::{self, Listen, Listener, ServerLimits};
use curve_serving::admission::Limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::raw::{Framing, RawClient};

/// Where bad people connect from, and where good ones do.
const BAD: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 66));
const GOOD: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 7));
/// More than any answer takes on a busy machine that runs a debug build.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server on a free port. It ends when the sender is dropped.
async fn serve(limits: ServerLimits) -> (SocketAddr, watch::Sender<bool>) {
    let listener = Listener::bind(&Listen::Tcp("127.0.0.1:0".to_owned())).await.expect("a free port");
    let uri = listener.uri("/demo", false);
    let place = uri.strip_prefix("nbd://").and_then(|rest| rest.split('/').next()).expect("a TCP URI");
    let address = place.parse().expect("an address");
    let device = Arc::new(MemoryDevice::new(8 << 20, 4096));
    let export = Export { name: "/demo".to_owned(), description: String::new(), device };
    let (stop, stopping) = watch::channel(false);
    tokio::spawn(server::run(listener, Arc::new(Exports::new(vec![export])), None, limits, stopping));
    (address, stop)
}

fn limits(connections: usize, of_peer: usize, newcomers: usize, handshake_timeout: Duration) -> ServerLimits {
    ServerLimits { admission: Limits { connections, of_peer, newcomers }, handshake_timeout }
}

async fn connect(from: IpAddr, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind((from, 0).into()).expect("all of 127.0.0.0/8 is this host");
    timeout(PATIENCE, socket.connect(to)).await.expect("in time").expect("the server accepts")
}

async fn client(from: IpAddr, to: SocketAddr) -> RawClient<TcpStream> {
    let stream = connect(from, to).await;
    timeout(PATIENCE, RawClient::connect(stream, Framing::Structured, "demo")).await.expect("in time")
}

/// Ends when the server has closed the connection.
async fn closed(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    // A reset is an end, too.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("the server closes the connection");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_keep_nobody_out() {
    // Both ends are ours: fewer than a usual limit of 1024 files lets us have.
    let (to, _stop) = serve(limits(128, 128, 32, Duration::from_secs(30))).await;
    let mut first = client(GOOD, to).await;
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(connect(BAD, to).await);
        let begin = Instant::now();
        assert_eq!(timeout(PATIENCE, first.read(0, 4096)).await.expect("an answer").len(), 4096);
        assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    }
    // One more gets in; the silent ones have only made room for each other, and the first client is still there.
    assert_eq!(client(GOOD, to).await.read(0, 4096).await.len(), 4096);
    assert_eq!(first.read(0, 4096).await.len(), 4096);
    closed(&mut silent[0]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_of_a_byte_a_second_ends() {
    let handshake_timeout = Duration::from_secs(3);
    let (to, _stop) = serve(limits(128, 128, 32, handshake_timeout)).await;
    let begin = Instant::now();
    let mut stream = connect(BAD, to).await;
    let mut greeting = [0; 18];
    stream.read_exact(&mut greeting).await.expect("a greeting");
    // Flags, then an option that never ends.
    for byte in [&[0, 0, 0, 3][..], b"IHAVEOPT", &[0; 20]].concat() {
        let mut gone = [0];
        let written = stream.write_all(&[byte]).await;
        if written.is_err() || timeout(Duration::from_secs(1), stream.read(&mut gone)).await.is_ok() {
            break;
        }
    }
    let took = begin.elapsed();
    assert!((handshake_timeout..4 * handshake_timeout).contains(&took), "{took:?}");
}

#[tokio::test]
async fn a_host_has_a_share_of_the_connections() {
    let (to, _stop) = serve(limits(8, 4, 4, Duration::from_secs(30))).await;
    let mut greedy = Vec::new();
    for _ in 0..4 {
        greedy.push(client(BAD, to).await);
    }
    closed(&mut connect(BAD, to).await).await;
    client(GOOD, to).await;
    assert_eq!(greedy[0].read(0, 4096).await.len(), 4096);
}
