//! TLS with certificates, by libnbd and QEMU.

use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

use crate::server::{Server, run, scratch, succeed};

/// Makes an authority and certificates of it for a server and a client, under the names that libnbd and QEMU expect.
fn make_certificates(dir: &Path) {
    let mut authority = CertificateParams::new(Vec::new()).expect("no names");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let authority =
        CertifiedIssuer::self_signed(authority, KeyPair::generate().expect("a key")).expect("a certificate");
    let write = |name: &str, text: String| std::fs::write(dir.join(name), text).expect("a file");
    write("ca-cert.pem", authority.pem());
    for (name, usage) in
        [("server", ExtendedKeyUsagePurpose::ServerAuth), ("client", ExtendedKeyUsagePurpose::ClientAuth)]
    {
        let key = KeyPair::generate().expect("a key");
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut params = CertificateParams::new(names).expect("good names");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        write(&format!("{name}-cert.pem"), params.signed_by(&key, &authority).expect("a certificate").pem());
        write(&format!("{name}-key.pem"), key.serialize_pem());
    }
}

fn serve(dir: &Path, certificates: &Path, more: &[&str]) -> Server {
    let file = |name: &str| certificates.join(name).display().to_string();
    let (cert, key) = (file("server-cert.pem"), file("server-key.pem"));
    Server::memory(dir, "8MiB", &[&["--tls-cert", &cert, "--tls-key", &key], more].concat())
}

#[test]
fn libnbd_and_qemu_talk_tls_and_plain_clients_are_refused() {
    let dir = scratch();
    make_certificates(dir.path());
    let server = serve(dir.path(), dir.path(), &[]);
    assert!(server.uri().starts_with("nbds+unix:///demo?socket="), "{}", server.uri());
    let uri = format!("{}&tls-certificates={}", server.uri(), dir.path().display());
    let info = succeed("nbdinfo", "libnbd-bin", &[&uri]);
    assert!(info.contains("newstyle-fixed with TLS, using structured packets"), "{info}");

    let image = dir.path().join("image").display().to_string();
    let back = dir.path().join("back").display().to_string();
    std::fs::write(&image, crate::server::noise(5, 8 << 20)).unwrap();
    succeed("nbdcopy", "libnbd-bin", &[&image, &uri]);
    succeed("nbdcopy", "libnbd-bin", &[&uri, &back]);
    assert!(std::fs::read(&image).unwrap() == std::fs::read(&back).unwrap(), "the copy differs");

    let plain = server.uri().replace("nbds+unix", "nbd+unix");
    let refused = run("nbdinfo", "libnbd-bin", &[&plain]);
    assert!(!refused.status.success());
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(message.contains("not supported"), "{message}");

    let socket = server.uri().split_once("socket=").unwrap().1.to_owned();
    let credentials =
        format!("tls-creds-x509,id=t,endpoint=client,verify-peer=on,dir={}", dir.path().display());
    let options = format!(
        "driver=nbd,server.type=unix,server.path={socket},export=demo,tls-creds=t,tls-hostname=localhost"
    );
    let info =
        succeed("qemu-img", "qemu-utils", &["info", "--object", &credentials, "--image-opts", &options]);
    assert!(info.contains("8 MiB"), "{info}");
}

#[test]
fn only_clients_of_our_authority_are_let_in_if_one_is_named() {
    let (dir, others) = (scratch(), scratch());
    make_certificates(dir.path());
    make_certificates(others.path());
    let authority = dir.path().join("ca-cert.pem").display().to_string();
    let server = serve(dir.path(), dir.path(), &["--tls-ca", &authority]);
    let uri = |certificates: &Path| format!("{}&tls-certificates={}", server.uri(), certificates.display());
    succeed("nbdinfo", "libnbd-bin", &["--size", &uri(dir.path())]);
    // A client whose certificate another authority made; it trusts our server all the same.
    std::fs::copy(dir.path().join("ca-cert.pem"), others.path().join("ca-cert.pem")).unwrap();
    let refused = run("nbdinfo", "libnbd-bin", &["--size", &uri(others.path())]);
    assert!(!refused.status.success(), "a stranger was let in");
}

#[test]
fn tls_over_tcp_is_checked_against_the_host() {
    let dir = scratch();
    make_certificates(dir.path());
    let file = |name: &str| dir.path().join(name).display().to_string();
    let (cert, key) = (file("server-cert.pem"), file("server-key.pem"));
    let arguments =
        ["/demo", "--memory", "8MiB", "--listen", "127.0.0.1:0", "--tls-cert", &cert, "--tls-key", &key];
    let server = Server::start(&arguments);
    assert!(server.uri().starts_with("nbds://127.0.0.1:"), "{}", server.uri());
    let uri = format!("{}?tls-certificates={}", server.uri(), dir.path().display());
    assert_eq!(succeed("nbdinfo", "libnbd-bin", &["--size", &uri]).trim(), "8388608");
}
