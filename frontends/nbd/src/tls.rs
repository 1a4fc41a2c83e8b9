//! Certificates.
//!
//! Only X.509 certificates are served: rustls has no external pre-shared keys (`gnutls`' TLS-PSK, libnbd's
//! `tls-psk-file`). A server that has a certificate insists on TLS (the protocol's FORCEDTLS), since a client that may
//! choose can be talked out of it by whoever sits in between.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig};
use thiserror::Error;
use tokio_rustls::TlsAcceptor;

/// Where a server's certificate and key are, in PEM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsFiles {
    /// The server's certificate, followed by those between it and the authority.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// If given, only clients with a certificate of one of these authorities are let in.
    pub ca: Option<PathBuf>,
}

/// Why TLS cannot be served.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file cannot be read or holds no PEM of the kind wanted.
    #[error("{path} holds no usable {what}: {cause}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
        /// What is wrong with it.
        cause: pem::Error,
    },
    /// Certificate and key do not go together, or are of an unknown kind.
    #[error("the certificate {cert} cannot be used: {cause}")]
    Unusable {
        /// The certificate's file.
        cert: PathBuf,
        /// What rustls says.
        cause: String,
    },
}

/// Reads the files and prepares the server's side of TLS 1.2 and 1.3.
pub fn load_acceptor(files: &TlsFiles) -> Result<TlsAcceptor, TlsError> {
    let unusable = |cause: String| TlsError::Unusable { cert: files.cert.clone(), cause };
    let chain = certificates(&files.cert)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|cause| TlsError::File {
        path: files.key.clone(),
        what: "private key",
        cause,
    })?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier: Arc<dyn ClientCertVerifier> = match &files.ca {
        None => WebPkiClientVerifier::no_client_auth(),
        Some(ca) => {
            let mut roots = RootCertStore::empty();
            for root in certificates(ca)? {
                roots.add(root).map_err(|error| unusable(format!("authority {}: {error}", ca.display())))?;
            }
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                .build()
                .map_err(|error| unusable(error.to_string()))?
        }
    };
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(error.to_string()))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|error| unusable(error.to_string()))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |cause| TlsError::File { path: path.to_owned(), what: "certificate", cause };
    let chain = CertificateDer::pem_file_iter(path)
        .map_err(failed)?
        .collect::<Result<Vec<_>, _>>()
        .map_err(failed)?;
    if chain.is_empty() { Err(failed(pem::Error::NoItemsFound)) } else { Ok(chain) }
}
