//! Configurations of `rustls` from the directories of an authority and of a client. Certificates
//! that are renewed are used from the next connection on.

use std::path::Path;
use std::sync::Arc;

use hrl::{Error, ErrorKind, Result};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::reload::Pair;

/// Returns the configuration of the server whose certificate is in `pki`.
///
/// With `verify`, clients must show a certificate of the authority. The server must look up its pin
/// at each connection, with [`find_client`](crate::find_client). `InvalidInput` if a file of the
/// directory cannot be used.
pub fn server_config(pki: &Path, verify: bool) -> Result<Arc<ServerConfig>> {
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
    let pair = Pair::open(&pki.join("server.pem"), &pki.join("server.key"))?;
    Ok(Arc::new(builder.with_cert_resolver(pair)))
}

/// Returns the configuration of the client that owns a bundle. `InvalidInput` if the bundle cannot
/// be used.
pub fn client_config(bundle: &Path) -> Result<Arc<ClientConfig>> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| failed("use identity", bundle, error))?
        .with_root_certificates(roots(&bundle.join("authority.pem"))?);
    let pair = Pair::open(&bundle.join("client.pem"), &bundle.join("client.key"))?;
    Ok(Arc::new(config.with_client_cert_resolver(pair)))
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn roots(path: &Path) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| failed("use certificate", path, error))?;
    }
    Ok(roots)
}

pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(&read(path)?)
        .collect::<std::result::Result<Vec<_>, _>>()
        .map_err(|error| failed("read certificate", path, error))
}

/// Returns the first certificate of a PEM file, in DER form.
pub(crate) fn first_certificate(path: &Path) -> Result<CertificateDer<'static>> {
    certificates(path)?.into_iter().next().ok_or_else(|| {
        Error::new(ErrorKind::InvalidInput, "read certificate", path.display())
            .expected("a certificate")
            .found("none")
    })
}

pub(crate) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_slice(&read(path)?)
        .map_err(|error| failed("read private key", path, error))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| Error::io("read", path.display(), error))
}

pub(crate) fn failed(
    operation: &'static str,
    path: &Path,
    error: impl std::error::Error + Send + Sync + 'static,
) -> Error {
    Error::new(ErrorKind::InvalidInput, operation, path.display()).caused_by(error)
}
