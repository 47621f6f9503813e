//! TLS for whoever serves or calls: configurations from the directories that the crate `hrl-tls` makes, and who is enrolled
//! there.
//!
//! ```text
//! PKI/authority.pem                          whose certificates are believed
//! PKI/server.pem, PKI/server.key             the server
//! PKI/clients/NAME                           fingerprint of the client's certificate, and its volumes, a line each
//! BUNDLE/authority.pem client.pem client.key what a client needs
//! ```
//! A client is let in when the authority signed its certificate *and* its fingerprint is pinned: removing its file under
//! `clients` shuts it out at its next connection. The provider is ring; no global default is installed.

use std::path::Path;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;

use crate::error::{Error, ErrorKind, Result};

/// Longest file of a client.
const CLIENT_FILE_BYTES_MAX: u64 = 64 << 10;

/// A client that is let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EnrolledClient {
    /// Its name.
    pub name: String,
    /// The volumes that it may read and write.
    pub volumes: Vec<String>,
}

/// TLS of a server. With `verify` clients must show a certificate of the authority; whether it is pinned is asked for each
/// connection, by [`find_client`].
pub(crate) fn server_config(pki: &Path, verify: bool) -> Result<Arc<ServerConfig>> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| failed("use certificates", pki, error))?;
    let builder = if verify {
        let roots = Arc::new(roots(&pki.join("authority.pem"))?);
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
            .build()
            .map_err(|error| failed("use authority", pki, error))?;
        builder.with_client_cert_verifier(verifier)
    } else {
        builder.with_no_client_auth()
    };
    let path = pki.join("server.pem");
    let config = builder
        .with_single_cert(certificates(&path)?, private_key(&pki.join("server.key"))?)
        .map_err(|error| failed("use certificate", &path, error))?;
    Ok(Arc::new(config))
}

/// TLS of a client, from its bundle.
pub(crate) fn client_config(bundle: &Path) -> Result<Arc<ClientConfig>> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| failed("use identity", bundle, error))?
        .with_root_certificates(roots(&bundle.join("authority.pem"))?)
        .with_client_auth_cert(
            certificates(&bundle.join("client.pem"))?,
            private_key(&bundle.join("client.key"))?,
        )
        .map_err(|error| failed("use identity", bundle, error))?;
    Ok(Arc::new(config))
}

/// Fingerprint of a certificate: BLAKE3 of its DER form.
pub(crate) fn fingerprint(certificate: &[u8]) -> String {
    blake3::hash(certificate).to_hex().to_string()
}

/// The client with this fingerprint, `None` when nobody enrolled it.
pub(crate) fn find_client(pki: &Path, fingerprint: &str) -> Result<Option<EnrolledClient>> {
    let directory = pki.join("clients");
    let io = |error| Error::io("look for client", directory.display(), error);
    for entry in std::fs::read_dir(&directory).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        if !path.metadata().is_ok_and(|m| m.is_file() && m.len() <= CLIENT_FILE_BYTES_MAX) {
            continue;
        }
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        let lines = |word: &'static str| {
            text.lines().filter_map(move |line| line.split_once(' ').filter(|(w, _)| *w == word))
        };
        if lines("fingerprint").any(|(_, pinned)| pinned.trim() == fingerprint) {
            let volumes = lines("volume").map(|(_, volume)| volume.trim().to_owned()).collect();
            return Ok(Some(EnrolledClient { name: name.to_owned(), volumes }));
        }
    }
    Ok(None)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn roots(path: &Path) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| failed("use certificate", path, error))?;
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(&read(path)?)
        .collect::<std::result::Result<Vec<_>, _>>()
        .map_err(|error| failed("read certificate", path, error))
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_slice(&read(path)?)
        .map_err(|error| failed("read private key", path, error))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| Error::io("read", path.display(), error))
}

fn failed(
    operation: &'static str,
    path: &Path,
    error: impl std::error::Error + Send + Sync + 'static,
) -> Error {
    Error::new(ErrorKind::InvalidInput, operation, path.display()).source(error)
}
