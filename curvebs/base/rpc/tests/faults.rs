//! Peers that break the rules, stop, die, come back, or fall silent.

mod support;

use std::time::Duration;

use curve_io::{Network, RpcError};
use curve_rpc::format::{
    HELLO_BYTES, Hello, Kind, PREFIX_BYTES, VERSION, Verdict, decode_hello, decode_prefix, encode_hello,
    encode_prefix,
};
use curve_rpc::{RpcConfig, RpcNetwork};
use support::{Act, DEADLINE, Script, echo, message, serve_at};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

const ANY: &str = "127.0.0.1:0";

const CLIENT_HELLO: Hello =
    Hello { version: VERSION, verdict: Verdict::GoOn, inflight_max: 0, inflight_bytes_max: 0, clock: 0 };

/// A connection on which the test writes what it likes.
async fn raw(address: &str, hello: &Hello) -> (TcpStream, Hello) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&encode_hello(hello)).await.unwrap();
    let mut bytes = [0; HELLO_BYTES];
    stream.read_exact(&mut bytes).await.unwrap();
    (stream, decode_hello(&bytes).unwrap())
}

/// A time for requests to arrive by: in the server's future.
fn ahead(server: &Hello) -> u32 {
    server.clock.wrapping_add(DEADLINE.as_millis() as u32)
}

/// Waits until the other side closes, which it must.
async fn closes(mut stream: TcpStream) {
    let mut rest = Vec::new();
    let end = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut rest)).await.expect("it must close");
    drop(end);
}

/// A server that says hello and then does what the test likes with each connection.
async fn raw_server() -> (TcpListener, String) {
    let listener = TcpListener::bind(ANY).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

async fn raw_accept(listener: &TcpListener) -> TcpStream {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut bytes = [0; HELLO_BYTES];
    stream.read_exact(&mut bytes).await.unwrap();
    let hello = Hello { inflight_max: 100, inflight_bytes_max: 1 << 20, ..CLIENT_HELLO };
    stream.write_all(&encode_hello(&hello)).await.unwrap();
    stream
}

#[tokio::test]
async fn a_server_cuts_off_clients_that_break_the_rules() {
    let network = RpcNetwork::new(RpcConfig { inflight_max: 4, ..RpcConfig::default() });
    let (server, _) = serve_at(&network, ANY, Script::new(|_, _| Act::Keep)).await;
    let (_, hello) = raw(&server.address(), &CLIENT_HELLO).await;
    let mut oversize = encode_prefix(Kind::Request, 7, 1, ahead(&hello), &[], 0);
    oversize[7] = 0xff;
    let crc = crc32fast::hash(&oversize[..28]);
    oversize[28..].copy_from_slice(&crc.to_le_bytes());
    let request = |id: u64| {
        let header = [0; 8];
        let mut bytes = encode_prefix(Kind::Request, 7, id, ahead(&hello), &header, 0).to_vec();
        bytes.extend_from_slice(&header);
        bytes
    };
    let attacks = [
        ("garbage", vec![0xa5; 4096]),
        ("oversize", oversize.to_vec()),
        ("a reply", encode_prefix(Kind::Reply, 7, 1, 0, &[], 0).to_vec()),
        ("an id twice", [request(1), request(1)].concat()),
        ("more than the credit", (0..5).flat_map(request).collect()),
    ];
    for (name, bytes) in attacks {
        let (mut stream, hello) = raw(&server.address(), &CLIENT_HELLO).await;
        assert_eq!((hello.verdict, hello.inflight_max), (Verdict::GoOn, 4), "{name}");
        stream.write_all(&bytes).await.unwrap();
        closes(stream).await;
    }
    assert_eq!(network.stats().connections_broken, 5);
}

#[tokio::test]
async fn a_server_refuses_what_is_no_client() {
    let config = RpcConfig { connect_timeout: Duration::from_millis(100), ..RpcConfig::default() };
    let network = RpcNetwork::new(config);
    let (server, _) = serve_at(&network, ANY, echo()).await;
    let mut http = TcpStream::connect(server.address()).await.unwrap();
    http.write_all(b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n").await.unwrap();
    closes(http).await;
    closes(TcpStream::connect(server.address()).await.unwrap()).await;
    let (stream, hello) = raw(&server.address(), &Hello { version: 99, ..CLIENT_HELLO }).await;
    assert_eq!(hello.verdict, Verdict::Version);
    closes(stream).await;
    assert_eq!(network.stats().connections_refused, 3);
}

#[tokio::test]
async fn a_server_takes_only_so_many_connections() {
    let network = RpcNetwork::new(RpcConfig { connections_max: 2, ..RpcConfig::default() });
    let (server, _) = serve_at(&network, ANY, echo()).await;
    let _first = raw(&server.address(), &CLIENT_HELLO).await;
    let second = raw(&server.address(), &CLIENT_HELLO).await;
    let error = network.call(&server.address(), message(1, 1), DEADLINE).await.unwrap_err();
    assert!(error.to_string().contains("too many connections"), "{error}");
    drop(second);
    while network.call(&server.address(), message(1, 1), DEADLINE).await.is_err() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_client_that_closes_its_half_is_forgotten() {
    let network = RpcNetwork::new(RpcConfig::default());
    let (server, script) = serve_at(&network, ANY, Script::new(|_, _| Act::Keep)).await;
    let (mut stream, hello) = raw(&server.address(), &CLIENT_HELLO).await;
    let mut request = encode_prefix(Kind::Request, 7, 3, ahead(&hello), &[0; 8], 0).to_vec();
    request.extend_from_slice(&[0; 8]);
    stream.write_all(&request).await.unwrap();
    script.wait_for(1).await;
    stream.shutdown().await.unwrap();
    closes(stream).await;
    script.answer_kept();
    assert_eq!(network.stats().server_connections_open, 0);
}

#[tokio::test]
async fn pings_are_answered() {
    let network = RpcNetwork::new(RpcConfig::default());
    let (server, _) = serve_at(&network, ANY, echo()).await;
    let (mut stream, hello) = raw(&server.address(), &CLIENT_HELLO).await;
    stream.write_all(&encode_prefix(Kind::Ping, 0, 0, 0, &[], 0)).await.unwrap();
    let mut pong = [0; PREFIX_BYTES];
    stream.read_exact(&mut pong).await.unwrap();
    let pong = decode_prefix(&pong).unwrap();
    assert_eq!((pong.kind, pong.id), (Kind::Pong, 0));
    assert!(pong.clock.wrapping_sub(hello.clock) < 20_000, "it brings the server's time");
}

#[tokio::test]
async fn a_request_that_comes_after_its_time_is_not_looked_at() {
    let network = RpcNetwork::new(RpcConfig::default());
    let (server, script) = serve_at(&network, ANY, echo()).await;
    let (mut stream, hello) = raw(&server.address(), &CLIENT_HELLO).await;
    for (id, by) in
        [(1, hello.clock.wrapping_sub(1)), (2, ahead(&hello)), (3, hello.clock.wrapping_sub(1 << 30))]
    {
        let mut request = encode_prefix(Kind::Request, 7, id, by, &id.to_le_bytes(), 0).to_vec();
        request.extend_from_slice(&id.to_le_bytes());
        stream.write_all(&request).await.unwrap();
        let mut answer = [0; PREFIX_BYTES];
        stream.read_exact(&mut answer).await.unwrap();
        let answer = decode_prefix(&answer).unwrap();
        stream.read_exact(&mut vec![0; answer.header_len as usize]).await.unwrap();
        assert_eq!((answer.kind, answer.id), (if id == 2 { Kind::Reply } else { Kind::Late }, id));
    }
    assert_eq!(script.seen(), [2]);
    assert_eq!(network.stats().requests_late, 2);
}

/// Between a client and a server; lets nothing through to the server while told so, as a client that is stopped does, or a
/// network that is.
async fn valve(server: String) -> (String, watch::Sender<bool>) {
    let (listener, address) = raw_server().await;
    let (open, mut is_open) = watch::channel(true);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = TcpStream::connect(&server).await.unwrap().into_split();
            tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
            let mut bytes = [0; 4096];
            while let Ok(len @ 1..) = from_client.read(&mut bytes).await {
                is_open.wait_for(|open| *open).await.unwrap();
                to_server.write_all(&bytes[..len]).await.unwrap();
            }
        }
    });
    (address, open)
}

#[tokio::test]
async fn a_request_that_is_held_up_on_its_way_is_not_executed() {
    const HELD: Duration = Duration::from_millis(200);
    let network = RpcNetwork::new(RpcConfig::default());
    let (server, script) = serve_at(&network, ANY, echo()).await;
    let (address, open) = valve(server.address()).await;
    network.call(&address, message(0, 1), DEADLINE).await.unwrap();
    // One of those who wait goes on in another way, the other waits as long as it takes.
    open.send_replace(false);
    let begun = tokio::time::Instant::now();
    let held = network.call_by(&address, message(1, 1), Some(begun + HELD), DEADLINE);
    let patient = network.call(&address, message(2, 1), DEADLINE);
    tokio::time::sleep_until(begun + 2 * HELD).await;
    open.send_replace(true);
    let error = held.await.unwrap_err();
    assert!(matches!(error, RpcError::Unreachable { .. }), "nothing was done: {error}");
    patient.await.unwrap();
    let ahead = tokio::time::Instant::now() + DEADLINE;
    network.call_by(&address, message(3, 1), Some(ahead), DEADLINE).await.unwrap();
    assert_eq!(script.seen(), [0, 2, 3]);
    assert_eq!(network.stats().requests_late, 1);
}

#[tokio::test]
async fn a_machine_that_was_frozen_notices_by_the_clocks_of_others() {
    let network = RpcNetwork::new(RpcConfig::default());
    let (listener, address) = raw_server().await;
    let server = async {
        let mut stream = raw_accept(&listener).await;
        // The second answer comes from ten seconds later, by the server's clock only.
        for later in [100, 10_100, 10_200] {
            let mut request = [0; PREFIX_BYTES + 9];
            stream.read_exact(&mut request).await.unwrap();
            let request = decode_prefix(request[..PREFIX_BYTES].try_into().unwrap()).unwrap();
            let reply = encode_prefix(Kind::Reply, 9, request.id, later, &[], 0);
            stream.write_all(&reply).await.unwrap();
        }
        stream
    };
    let client = async {
        for leaps in [0, 1, 1] {
            network.call(&address, message(1, 1), DEADLINE).await.unwrap();
            assert_eq!(network.clock_leaps(), leaps);
        }
    };
    tokio::join!(server, client);
}

#[tokio::test]
async fn garbage_from_a_server_breaks_the_calls() {
    let network = RpcNetwork::new(RpcConfig::default());
    let (listener, address) = raw_server().await;
    let call = network.call(&address, message(1, 1), DEADLINE);
    let mut stream = raw_accept(&listener).await;
    stream.read_exact(&mut [0; PREFIX_BYTES]).await.unwrap();
    stream.write_all(&[0x5a; 1000]).await.unwrap();
    let error = call.await.unwrap_err();
    assert!(matches!(&error, RpcError::Broken { cause, .. } if cause.contains("checksum")), "{error}");
}

#[tokio::test]
async fn a_server_killed_in_mid_call_breaks_it_and_the_next_call_reconnects() {
    let network = RpcNetwork::new(RpcConfig::default());
    let (listener, address) = raw_server().await;
    let call = tokio::spawn(network.call(&address, message(1, 1), DEADLINE));
    let mut stream = raw_accept(&listener).await;
    let mut some = [0; 10];
    stream.read_exact(&mut some).await.unwrap();
    stream.set_zero_linger().unwrap();
    drop(stream);
    let error = call.await.unwrap().unwrap_err();
    assert!(matches!(error, RpcError::Broken { .. }), "{error}");
    drop(listener);
    let (_server, _) = serve_at(&network, &address, echo()).await;
    network.call(&address, message(2, 1), DEADLINE).await.unwrap();
    assert_eq!(network.stats().connects, 2);
}

#[tokio::test]
async fn calls_that_were_not_sent_survive_a_break() {
    let network = RpcNetwork::new(RpcConfig { inflight_max: 1, ..RpcConfig::default() });
    let (listener, address) = raw_server().await;
    let sent = network.call(&address, message(1, 1), DEADLINE);
    let waiting = network.call(&address, message(2, 1), DEADLINE);
    let mut stream = raw_accept(&listener).await;
    stream.read_exact(&mut [0; PREFIX_BYTES]).await.unwrap();
    drop(stream);
    assert!(matches!(sent.await, Err(RpcError::Broken { .. })));
    let mut stream = raw_accept(&listener).await;
    let mut request = [0; PREFIX_BYTES + 9];
    stream.read_exact(&mut request).await.unwrap();
    assert_eq!(request[PREFIX_BYTES..PREFIX_BYTES + 8], message(2, 1).header[..]);
    let id = u64::from_le_bytes(request[8..16].try_into().unwrap());
    stream.write_all(&encode_prefix(Kind::Reply, 9, id, 0, &[], 0)).await.unwrap();
    assert_eq!(waiting.await.unwrap().method, 9);
}

#[tokio::test]
async fn a_server_that_hangs_up_after_its_hello_is_not_called_in_a_hot_loop() {
    let network = RpcNetwork::new(RpcConfig::default());
    let (listener, address) = raw_server().await;
    let call = tokio::spawn(network.call(&address, message(1, 1), Duration::from_millis(300)));
    let hang_up = async {
        loop {
            drop(raw_accept(&listener).await);
        }
    };
    tokio::select! {
        result = call => assert!(result.unwrap().is_err()),
        () = hang_up => {}
    }
    assert!(network.stats().connects < 20, "{:?}", network.stats());
}

#[tokio::test]
async fn a_silent_server_is_noticed() {
    let config = RpcConfig {
        ping_interval: Duration::from_millis(20),
        ping_timeout: Duration::from_millis(60),
        ..RpcConfig::default()
    };
    let network = RpcNetwork::new(config);
    let (listener, address) = raw_server().await;
    let call = tokio::spawn(network.call(&address, message(1, 1), DEADLINE));
    let _stream = raw_accept(&listener).await;
    let error = call.await.unwrap().unwrap_err();
    assert!(matches!(&error, RpcError::Broken { cause, .. } if cause.contains("nothing heard")), "{error}");
}

#[tokio::test]
async fn a_silent_client_is_dropped_and_a_pinging_one_is_not() {
    let config = RpcConfig {
        ping_interval: Duration::from_millis(30),
        idle_timeout: Duration::from_millis(200),
        ..RpcConfig::default()
    };
    let network = RpcNetwork::new(config);
    let (server, _) = serve_at(&network, ANY, echo()).await;
    network.call(&server.address(), message(1, 1), DEADLINE).await.unwrap();
    let (silent, _) = raw(&server.address(), &CLIENT_HELLO).await;
    closes(silent).await;
    network.call(&server.address(), message(1, 1), DEADLINE).await.unwrap();
    assert_eq!(network.stats().connects, 1);
}

#[tokio::test]
async fn a_stopping_server_answers_what_it_has_and_refuses_what_comes() {
    let servers = RpcNetwork::new(RpcConfig::default());
    let network = RpcNetwork::new(RpcConfig::default());
    let (server, script) =
        serve_at(&servers, ANY, Script::new(|n, _| if n == 0 { Act::Keep } else { Act::Echo })).await;
    let address = server.address();
    let owed = tokio::spawn(network.call(&address, message(0, 1), DEADLINE));
    script.wait_for(1).await;
    drop(server);
    let error = loop {
        match network.call(&address, message(1, 1), DEADLINE).await {
            Ok(_) => tokio::task::yield_now().await,
            Err(error) => break error,
        }
    };
    assert!(matches!(&error, RpcError::Unreachable { cause, .. } if cause.contains("stopping")), "{error}");
    script.answer_kept();
    owed.await.unwrap().unwrap();
    while servers.stats().server_connections_open > 0 {
        tokio::task::yield_now().await;
    }
    let (_server, _) = serve_at(&servers, &address, echo()).await;
    network.call(&address, message(2, 1), DEADLINE).await.unwrap();
}

#[tokio::test]
async fn a_stopping_server_does_not_wait_for_ever() {
    let servers =
        RpcNetwork::new(RpcConfig { drain_timeout: Duration::from_millis(50), ..RpcConfig::default() });
    let network = RpcNetwork::new(RpcConfig::default());
    let (server, script) = serve_at(&servers, ANY, Script::new(|_, _| Act::Keep)).await;
    let owed = tokio::spawn(network.call(&server.address(), message(0, 1), DEADLINE));
    script.wait_for(1).await;
    drop(server);
    assert!(matches!(owed.await.unwrap(), Err(RpcError::Broken { .. })));
}

#[tokio::test]
async fn dropping_the_network_fails_its_calls() {
    let servers = RpcNetwork::new(RpcConfig::default());
    let network = RpcNetwork::new(RpcConfig::default());
    let (server, script) = serve_at(&servers, ANY, Script::new(|_, _| Act::Keep)).await;
    let call = network.call(&server.address(), message(0, 1), DEADLINE);
    script.wait_for(1).await;
    drop(network);
    assert!(matches!(call.await, Err(RpcError::Broken { .. })));
    while servers.stats().server_connections_open > 0 {
        tokio::task::yield_now().await;
    }
}

#[test]
fn a_call_whose_runtime_is_gone_fails_and_another_runtime_can_go_on() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let network = RpcNetwork::new(RpcConfig::default());
    let first = runtime();
    let (call, address) = first.block_on(async {
        let (listener, address) = raw_server().await;
        let call = network.call(&address, message(1, 1), DEADLINE);
        let _stream = raw_accept(&listener).await;
        (call, address)
    });
    drop(first);
    runtime().block_on(async {
        assert!(call.await.is_err());
        let (_server, _) = serve_at(&network, &address, echo()).await;
        network.call(&address, message(2, 1), DEADLINE).await.unwrap();
    });
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_not_read_from_for_ever() {
    let network = RpcNetwork::new(RpcConfig { inflight_max: 100_000, ..RpcConfig::default() });
    let big = message(0, 1 << 20);
    let (server, script) = serve_at(&network, ANY, Script::new(move |_, _| Act::Reply(big.clone()))).await;
    let (mut stream, hello) = raw(&server.address(), &CLIENT_HELLO).await;
    for id in 0..500u64 {
        let mut request = encode_prefix(Kind::Request, 7, id, ahead(&hello), &[0; 8], 0).to_vec();
        request.extend_from_slice(&[0; 8]);
        stream.write_all(&request).await.unwrap();
        let taken = script.wait_for(id as usize + 1);
        if tokio::time::timeout(Duration::from_millis(300), taken).await.is_err() {
            break;
        }
    }
    // 32 MiB wait in the server, some more in the buffers of the sockets.
    assert!(script.seen().len() < 100, "{} requests were taken", script.seen().len());
}
