//! Calls over real sockets on the loopback: replies, order, limits, deadlines, ends.

mod support;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use curve_io::{Message, Network, RpcError};
use curve_rpc::{RpcConfig, RpcNetwork, unknown_method};
use curve_types::{FRAME_HEADER_BYTES_MAX, FRAME_PAYLOAD_BYTES_MAX};
use support::{Act, DEADLINE, Script, echo, message, serve_at};

const ANY: &str = "127.0.0.1:0";

#[tokio::test]
async fn a_call_brings_its_own_reply() {
    let network = RpcNetwork::new(RpcConfig::default());
    let (server, _) = serve_at(&network, ANY, echo()).await;
    for len in [0, 1, 511, 4096, 32 << 10, 100_000, FRAME_PAYLOAD_BYTES_MAX] {
        let request = message(len as u64, len);
        let reply = network.call(&server.address(), request.clone(), DEADLINE).await.unwrap();
        assert_eq!(reply.header, request.header);
        assert_eq!(reply.payload.concat(), request.payload.concat(), "payload of {len}");
    }
    let stats = network.stats();
    assert_eq!((stats.connects, stats.requests_sent, stats.replies_received), (1, 7, 7));
}

#[tokio::test]
async fn requests_arrive_in_the_order_of_the_calls_not_of_the_polls() {
    let network = RpcNetwork::new(RpcConfig { inflight_max: 10, ..RpcConfig::default() });
    let (server, script) = serve_at(&network, ANY, echo()).await;
    let calls: Vec<_> =
        (0..500).map(|n| network.call(&server.address(), message(n, 4096), DEADLINE)).collect();
    for call in calls.into_iter().rev() {
        call.await.unwrap();
    }
    assert_eq!(script.seen(), (0..500).collect::<Vec<_>>());
}

#[tokio::test]
async fn replies_come_in_the_order_of_completion() {
    let network = RpcNetwork::new(RpcConfig::default());
    let script = Script::new(|n, _| if n == 0 { Act::Keep } else { Act::Echo });
    let (server, script) = serve_at(&network, ANY, script).await;
    let slow = network.call(&server.address(), message(0, 10), DEADLINE);
    network.call(&server.address(), message(1, 10), DEADLINE).await.unwrap();
    script.answer_kept();
    assert_eq!(slow.await.unwrap().header, message(0, 10).header);
}

#[tokio::test]
async fn a_message_above_the_limits_is_refused_before_it_is_sent() {
    let network = RpcNetwork::new(RpcConfig::default());
    let payload = message(0, FRAME_PAYLOAD_BYTES_MAX + 1);
    let header = Message { header: Bytes::from(vec![0; FRAME_HEADER_BYTES_MAX + 1]), ..Message::default() };
    for request in [payload, header] {
        let error = network.call("127.0.0.1:1", request, DEADLINE).await.unwrap_err();
        assert!(matches!(error, RpcError::TooLarge { .. }), "{error}");
    }
}

#[tokio::test]
async fn nobody_listening_is_unreachable_at_once_and_found_when_it_comes() {
    let network = RpcNetwork::new(RpcConfig::default());
    let dir = tempfile::tempdir().unwrap();
    let address = format!("unix:{}", dir.path().join("s").display());
    for _ in 0..4 {
        let error = network.call(&address, message(1, 1), DEADLINE).await.unwrap_err();
        assert!(matches!(error, RpcError::Unreachable { .. }), "{error}");
    }
    let (_server, _) = serve_at(&network, &address, echo()).await;
    network.call(&address, message(1, 1), DEADLINE).await.unwrap();
    assert_eq!(network.stats().connect_failures, 4);
}

#[tokio::test]
async fn a_bad_address_is_explained() {
    let network = RpcNetwork::new(RpcConfig::default());
    let error = network.call("nonsense", message(1, 1), DEADLINE).await.unwrap_err();
    assert!(error.to_string().contains("host:port"), "{error}");
}

#[tokio::test]
async fn a_deadline_ends_a_call_and_frees_its_credit() {
    let network = RpcNetwork::new(RpcConfig { inflight_max: 1, ..RpcConfig::default() });
    let (server, _) =
        serve_at(&network, ANY, Script::new(|n, _| if n == 0 { Act::Keep } else { Act::Echo })).await;
    let error = network.call(&server.address(), message(0, 1), Duration::from_millis(30)).await.unwrap_err();
    assert_eq!(error, RpcError::Deadline { address: server.address(), deadline_ms: 30 });
    network.call(&server.address(), message(1, 1), DEADLINE).await.unwrap();
    assert_eq!(network.stats().deadlines_passed, 1);
}

#[tokio::test]
async fn a_nearer_deadline_is_not_held_up_by_a_farther_one() {
    let network = RpcNetwork::new(RpcConfig::default());
    let (server, _) = serve_at(&network, ANY, Script::new(|_, _| Act::Keep)).await;
    let address = server.address();
    let far = network.call(&address, message(0, 1), Duration::from_secs(60));
    let far = tokio::spawn(far);
    let near = network.call(&address, message(1, 1), Duration::from_millis(50));
    let error = tokio::time::timeout(Duration::from_secs(1), near).await.unwrap().unwrap_err();
    assert!(matches!(error, RpcError::Deadline { deadline_ms: 50, .. }), "{error}");
    far.abort();
}

#[tokio::test]
async fn the_longest_deadline_is_no_deadline() {
    let network = RpcNetwork::new(RpcConfig::default());
    let (server, _) = serve_at(&network, ANY, echo()).await;
    network.call(&server.address(), message(0, 1), Duration::MAX).await.unwrap();
}

#[tokio::test]
async fn the_deadline_also_covers_connecting() {
    let silent = tokio::net::TcpListener::bind(ANY).await.unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let network = RpcNetwork::new(RpcConfig::default());
    let error = network.call(&address, message(0, 1), Duration::from_millis(50)).await.unwrap_err();
    assert!(matches!(error, RpcError::Deadline { .. }), "{error}");
}

#[tokio::test]
async fn a_dropped_call_frees_its_credit() {
    let network = RpcNetwork::new(RpcConfig { inflight_max: 1, ..RpcConfig::default() });
    let (server, script) =
        serve_at(&network, ANY, Script::new(|n, _| if n == 0 { Act::Keep } else { Act::Echo })).await;
    let address = server.address();
    let stuck = network.call(&address, message(0, 1), DEADLINE);
    script.wait_for(1).await;
    let next = network.call(&address, message(1, 1), DEADLINE);
    drop(stuck);
    next.await.unwrap();
    script.answer_kept();
    network.call(&address, message(2, 1), DEADLINE).await.unwrap();
}

#[tokio::test]
async fn a_dropped_reply_breaks_the_call_at_once() {
    let network = RpcNetwork::new(RpcConfig::default());
    let (server, _) = serve_at(&network, ANY, Script::new(|_, _| Act::Drop)).await;
    let error = network.call(&server.address(), message(0, 1), DEADLINE).await.unwrap_err();
    assert!(matches!(error, RpcError::Broken { .. }), "{error}");
}

#[tokio::test]
async fn an_unknown_method_is_an_error_of_its_own() {
    let network = RpcNetwork::new(RpcConfig::default());
    let (server, _) = serve_at(&network, ANY, Script::new(|_, _| Act::Reply(unknown_method()))).await;
    let error = network.call(&server.address(), message(0, 1), DEADLINE).await.unwrap_err();
    assert_eq!(error, RpcError::UnknownMethod { address: server.address(), method: 7 });
}

#[tokio::test]
async fn no_more_than_the_credit_is_under_way() {
    let network = RpcNetwork::new(RpcConfig { inflight_max: 8, ..RpcConfig::default() });
    let (server, script) = serve_at(&network, ANY, Script::new(|_, _| Act::Keep)).await;
    let calls: Vec<_> = (0..20).map(|n| network.call(&server.address(), message(n, 1), DEADLINE)).collect();
    script.wait_for(8).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(script.seen().len(), 8);
    for round in 1..=20 {
        script.answer_one();
        script.wait_for((8 + round).min(20)).await;
    }
    for call in calls {
        call.await.unwrap();
    }
}

#[tokio::test]
async fn bytes_under_way_are_bounded_too() {
    let network = RpcNetwork::new(RpcConfig { inflight_bytes_max: 3 << 20, ..RpcConfig::default() });
    let (server, script) = serve_at(&network, ANY, Script::new(|_, _| Act::Keep)).await;
    let calls: Vec<_> =
        (0..6).map(|n| network.call(&server.address(), message(n, 1 << 20), DEADLINE)).collect();
    script.wait_for(2).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(script.seen().len(), 2, "a third would exceed 3 MiB by its header");
    for round in 1..=6 {
        script.answer_one();
        script.wait_for((2 + round).min(6)).await;
    }
    for call in calls {
        call.await.unwrap();
    }
}

#[tokio::test]
async fn many_calls_share_few_writes() {
    let network = RpcNetwork::new(RpcConfig::default());
    let (server, _) = serve_at(&network, ANY, echo()).await;
    network.call(&server.address(), message(0, 1), DEADLINE).await.unwrap();
    let before = network.stats();
    let calls: Vec<_> =
        (0..100).map(|n| network.call(&server.address(), message(n, 100), DEADLINE)).collect();
    for call in calls {
        call.await.unwrap();
    }
    let writes = network.stats().socket_writes - before.socket_writes;
    assert!(writes <= 20, "{writes} writes for 100 requests and 100 replies");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_tasks_on_many_threads_get_their_own_replies() {
    let network = RpcNetwork::new(RpcConfig { inflight_max: 50, ..RpcConfig::default() });
    let (server, _) = serve_at(&network, ANY, echo()).await;
    let workers: Vec<_> = (0..64u64)
        .map(|worker| {
            let (network, address) = (Arc::clone(&network), server.address());
            tokio::spawn(async move {
                for n in 0..100 {
                    let request = message(worker << 32 | n, (n * 977 % 60_000) as usize);
                    let reply = network.call(&address, request.clone(), DEADLINE).await.unwrap();
                    assert_eq!(reply.header, request.header);
                    assert_eq!(reply.payload.concat(), request.payload.concat());
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await.unwrap();
    }
}
