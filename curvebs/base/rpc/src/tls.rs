//! TLS for TCP connections: the only place that names rustls' cryptography provider.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use serde::Deserialize;
use thiserror::Error;

/// Where the certificates are: PEM files. `cert` and `key` are what this process shows, `ca` signs what it accepts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// Certificates of the authorities that sign the other side's certificate.
    pub ca: PathBuf,
    /// This process' certificate chain. A server needs one; a client only where the server asks for it.
    #[serde(default)]
    pub cert: Option<PathBuf>,
    /// The private key of `cert`.
    #[serde(default)]
    pub key: Option<PathBuf>,
    /// Whether a server refuses clients without a certificate signed by `ca`.
    #[serde(default)]
    pub require_client_cert: bool,
    /// The name a client expects in the server's certificate; the host of the address when not given.
    #[serde(default)]
    pub server_name: Option<String>,
}

/// Why a `TlsConfig` cannot be used.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file cannot be read or holds no PEM of the wanted kind.
    #[error("TLS file {path}: {cause}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// Only one of `cert` and `key` is given.
    #[error("TLS needs both `cert` and `key`, or neither")]
    HalfIdentity,
    /// rustls refuses the combination.
    #[error("TLS certificates are not usable: {0}")]
    Unusable(String),
    /// `server_name` is not a host name or an address.
    #[error("`{0}` is not a valid TLS server name")]
    ServerName(String),
}

/// Loaded certificates, ready for both sides of connections.
#[derive(Clone, Debug)]
pub struct Tls {
    client: Arc<ClientConfig>,
    server: Option<Arc<ServerConfig>>,
    server_name: Option<ServerName<'static>>,
}

/// The cryptography used everywhere in Curve.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

impl TlsConfig {
    /// Reads the files.
    pub fn load(&self) -> Result<Tls, TlsError> {
        let identity = match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => Some((read_certs(cert)?, read_key(key)?)),
            (None, None) => None,
            _ => return Err(TlsError::HalfIdentity),
        };
        let roots = Arc::new(self.read_roots()?);
        let server_name = match &self.server_name {
            Some(name) => Some(parse_server_name(name)?),
            None => None,
        };
        let server = match &identity {
            Some((certs, key)) => {
                Some(Arc::new(self.server_config(Arc::clone(&roots), certs.clone(), key.clone_key())?))
            }
            None => None,
        };
        Ok(Tls { client: Arc::new(client_config(roots, identity)?), server, server_name })
    }

    fn read_roots(&self) -> Result<RootCertStore, TlsError> {
        let mut roots = RootCertStore::empty();
        for cert in read_certs(&self.ca)? {
            roots.add(cert).map_err(|e| TlsError::File { path: self.ca.clone(), cause: e.to_string() })?;
        }
        Ok(roots)
    }

    fn server_config(
        &self,
        roots: Arc<RootCertStore>,
        certs: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<ServerConfig, TlsError> {
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(unusable)?;
        let builder = if self.require_client_cert {
            let verifier =
                WebPkiClientVerifier::builder_with_provider(roots, provider()).build().map_err(unusable)?;
            builder.with_client_cert_verifier(verifier)
        } else {
            builder.with_no_client_auth()
        };
        builder.with_single_cert(certs, key).map_err(unusable)
    }
}

impl Tls {
    /// For a client that wraps its own streams.
    pub fn client_config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.client)
    }

    /// For a server that wraps its own streams; `None` without a certificate of its own.
    pub fn server_config(&self) -> Option<Arc<ServerConfig>> {
        self.server.clone()
    }

    /// The name to expect in the certificate of the server at `host`.
    pub(crate) fn name_for(&self, host: &str) -> io::Result<ServerName<'static>> {
        match &self.server_name {
            Some(name) => Ok(name.clone()),
            None => parse_server_name(host).map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e)),
        }
    }
}

fn client_config(
    roots: Arc<RootCertStore>,
    identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
) -> Result<ClientConfig, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_root_certificates(roots);
    match identity {
        Some((certs, key)) => builder.with_client_auth_cert(certs, key).map_err(unusable),
        None => Ok(builder.with_no_client_auth()),
    }
}

fn parse_server_name(name: &str) -> Result<ServerName<'static>, TlsError> {
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    ServerName::try_from(bare.to_owned()).map_err(|_| TlsError::ServerName(name.to_owned()))
}

fn read_certs(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = read(path)?;
    let certs = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| TlsError::File { path: path.to_owned(), cause: e.to_string() })?;
    if certs.is_empty() {
        return Err(TlsError::File { path: path.to_owned(), cause: "holds no PEM certificate".to_owned() });
    }
    Ok(certs)
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(&read(path)?)
        .map_err(|e| TlsError::File { path: path.to_owned(), cause: format!("no usable private key: {e}") })
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|e| TlsError::File { path: path.to_owned(), cause: e.to_string() })
}

fn unusable(cause: impl std::fmt::Display) -> TlsError {
    TlsError::Unusable(cause.to_string())
}
