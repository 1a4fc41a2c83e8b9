//! Unix sockets and TLS.

mod support;

use std::path::Path;

use curve_io::{Network, RpcError};
use curve_rpc::{RpcConfig, RpcNetwork, TlsConfig, TlsError};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use support::{DEADLINE, echo, message, serve_at};

#[tokio::test]
async fn unix_sockets_are_replaced_when_stale_and_removed_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rpc.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let address = format!("unix:{}", path.display());
    let network = RpcNetwork::new(RpcConfig::default());
    let (server, _) = serve_at(&network, &address, echo()).await;
    assert_eq!(server.address(), address);
    network.call(&address, message(1, 100_000), DEADLINE).await.unwrap();
    let in_use = network.serve(&address, echo()).await.err().unwrap();
    assert_eq!(in_use.kind(), std::io::ErrorKind::AddrInUse);
    drop(server);
    while path.exists() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_file_that_is_no_socket_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("precious");
    std::fs::write(&path, "data").unwrap();
    let network = RpcNetwork::new(RpcConfig::default());
    assert!(network.serve(&format!("unix:{}", path.display()), echo()).await.is_err());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "data");
}

/// Makes `ca.pem`, and a certificate for loopback signed by it as `NAME.pem` and `NAME.key`.
fn make_certificates(dir: &Path, name: &str) -> TlsConfig {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let cert = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
    let path = |suffix: &str| dir.join(format!("{name}.{suffix}"));
    std::fs::write(path("ca.pem"), issuer.as_ref().pem()).unwrap();
    std::fs::write(path("pem"), cert.pem()).unwrap();
    std::fs::write(path("key"), key.serialize_pem()).unwrap();
    TlsConfig {
        ca: path("ca.pem"),
        cert: Some(path("pem")),
        key: Some(path("key")),
        require_client_cert: true,
        server_name: None,
    }
}

fn network_with(tls: Option<&TlsConfig>) -> std::sync::Arc<RpcNetwork> {
    RpcNetwork::new(RpcConfig { tls: tls.map(|tls| tls.load().unwrap()), ..RpcConfig::default() })
}

#[tokio::test]
async fn tls_carries_calls_both_sides_knowing_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let network = network_with(Some(&make_certificates(dir.path(), "a")));
    let (server, _) = serve_at(&network, "127.0.0.1:0", echo()).await;
    for len in [0, 4096, 1 << 20] {
        let request = message(len as u64, len);
        let reply = network.call(&server.address(), request.clone(), DEADLINE).await.unwrap();
        assert_eq!(reply.payload.concat(), request.payload.concat());
    }
    let calls: Vec<_> =
        (0..100).map(|n| network.call(&server.address(), message(n, 4096), DEADLINE)).collect();
    for call in calls {
        call.await.unwrap();
    }
}

#[tokio::test]
async fn strangers_are_refused_and_told_why() {
    let dir = tempfile::tempdir().unwrap();
    let ours = make_certificates(dir.path(), "ours");
    let network = network_with(Some(&ours));
    let (server, _) = serve_at(&network, "127.0.0.1:0", echo()).await;

    let plain = network_with(None).call(&server.address(), message(1, 1), DEADLINE).await.unwrap_err();
    assert!(plain.to_string().contains("it wants TLS"), "{plain}");

    let others = make_certificates(dir.path(), "theirs");
    let error =
        network_with(Some(&others)).call(&server.address(), message(1, 1), DEADLINE).await.unwrap_err();
    assert!(error.to_string().contains("TLS"), "{error}");

    let anonymous = TlsConfig { cert: None, key: None, ..ours.clone() };
    let error =
        network_with(Some(&anonymous)).call(&server.address(), message(1, 1), DEADLINE).await.unwrap_err();
    assert!(matches!(error, RpcError::Unreachable { .. }), "{error}");

    let misnamed = TlsConfig { server_name: Some("elsewhere.example".to_owned()), ..ours };
    let error =
        network_with(Some(&misnamed)).call(&server.address(), message(1, 1), DEADLINE).await.unwrap_err();
    assert!(error.to_string().contains("TLS"), "{error}");
}

#[tokio::test]
async fn a_plain_server_is_no_tls_server() {
    let dir = tempfile::tempdir().unwrap();
    let servers = network_with(None);
    let (server, _) = serve_at(&servers, "127.0.0.1:0", echo()).await;
    let network = network_with(Some(&make_certificates(dir.path(), "a")));
    let error = network.call(&server.address(), message(1, 1), DEADLINE).await.unwrap_err();
    assert!(error.to_string().contains("TLS handshake failed"), "{error}");
}

#[test]
fn unusable_files_are_explained() {
    let dir = tempfile::tempdir().unwrap();
    let good = make_certificates(dir.path(), "a");
    assert!(matches!(TlsConfig { key: None, ..good.clone() }.load(), Err(TlsError::HalfIdentity)));
    let missing = TlsConfig { ca: dir.path().join("missing.pem"), ..good.clone() }.load().unwrap_err();
    assert!(missing.to_string().contains("missing.pem"), "{missing}");
    let key_as_ca = TlsConfig { ca: good.key.clone().unwrap(), ..good }.load().unwrap_err();
    assert!(key_as_ca.to_string().contains("no PEM certificate"), "{key_as_ca}");
}
