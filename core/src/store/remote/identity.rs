//! Who a gateway and its clients are: a small certificate authority in a directory, and the bundles that it gives out.
//!
//! ```text
//! PKI/authority.pem, PKI/authority.key       signs; the key stays where agents are enrolled
//! PKI/server.pem, PKI/server.key             the gateway
//! PKI/clients/NAME                           fingerprint of the client's certificate, and its volumes, a line each
//! BUNDLE/authority.pem client.pem client.key what an agent needs to reach the gateway
//! ```
//! A client is let in when the authority signed its certificate *and* its fingerprint is pinned: removing its file under
//! `clients` shuts it out at its next connection.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::error::{Error, ErrorKind, Result};

/// Certificates are good for this many years.
const VALID_YEARS: i32 = 10;
/// Longest file of a client.
const CLIENT_FILE_BYTES_MAX: u64 = 64 << 10;

/// A client that is let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnrolledClient {
    /// Its name.
    pub name: String,
    /// The volumes that it may read and write.
    pub volumes: Vec<String>,
}

/// Makes a certificate authority and the gateway's certificate, good for `hosts` (names or addresses), in a new directory.
/// `AlreadyExists` when there is one.
pub fn create_authority(pki: &Path, hosts: &[String]) -> Result<()> {
    let failed = |error: rcgen::Error| crypto("create authority", pki.display(), error);
    std::fs::create_dir_all(pki.join("clients"))
        .map_err(|error| Error::io("create authority", pki.display(), error))?;
    let key = KeyPair::generate().map_err(failed)?;
    let mut params = CertificateParams::new(Vec::<String>::new()).map_err(failed)?;
    name(&mut params, "hrl authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let certificate = params.self_signed(&key).map_err(failed)?;
    write_new(&pki.join("authority.key"), key.serialize_pem().as_bytes())?;
    write_new(&pki.join("authority.pem"), certificate.pem().as_bytes())?;
    let (pem, key, _) =
        issue(pki, "hrl gateway", hosts.to_vec(), ExtendedKeyUsagePurpose::ServerAuth)?;
    write_new(&pki.join("server.key"), key.as_bytes())?;
    write_new(&pki.join("server.pem"), pem.as_bytes())
}

/// Makes a certificate for a client that may touch `volumes` alone, pins it, and writes its bundle into a new directory.
/// `AlreadyExists` when a client of this name is enrolled.
pub fn enroll_client(pki: &Path, client: &str, volumes: &[String], bundle: &Path) -> Result<()> {
    crate::store::check_name(client)?;
    for volume in volumes {
        crate::store::check_name(volume)?;
    }
    let pin = pki.join("clients").join(client);
    if pin.exists() {
        return Err(Error::new(ErrorKind::AlreadyExists, "enroll", client)
            .message(format_args!("remove {} to enroll it anew", pin.display())));
    }
    let usage = ExtendedKeyUsagePurpose::ClientAuth;
    let (pem, key, fingerprint) = issue(pki, client, vec![client.to_owned()], usage)?;
    std::fs::create_dir_all(bundle)
        .map_err(|error| Error::io("enroll", bundle.display(), error))?;
    write_new(&bundle.join("client.key"), key.as_bytes())?;
    write_new(&bundle.join("client.pem"), pem.as_bytes())?;
    let authority = read(&pki.join("authority.pem"))?;
    write_new(&bundle.join("authority.pem"), &authority)?;
    let mut text = format!("fingerprint {fingerprint}\n");
    for volume in volumes {
        text.push_str("volume ");
        text.push_str(volume);
        text.push('\n');
    }
    write_new(&pin, text.as_bytes())
}

/// A certificate signed by the authority of a directory: certificate and key as PEM, and its fingerprint.
fn issue(
    pki: &Path,
    common_name: &str,
    names: Vec<String>,
    usage: ExtendedKeyUsagePurpose,
) -> Result<(String, String, String)> {
    let failed = |error: rcgen::Error| crypto("issue certificate", common_name, error);
    let text = |path: &str| -> Result<String> {
        let path = pki.join(path);
        String::from_utf8(read(&path)?)
            .map_err(|error| crypto("read certificate", path.display(), error))
    };
    let authority_key = KeyPair::from_pem(&text("authority.key")?).map_err(failed)?;
    let issuer =
        Issuer::from_ca_cert_pem(&text("authority.pem")?, authority_key).map_err(failed)?;
    let key = KeyPair::generate().map_err(failed)?;
    let mut params = CertificateParams::new(names).map_err(failed)?;
    name(&mut params, common_name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    let certificate = params.signed_by(&key, &issuer).map_err(failed)?;
    Ok((certificate.pem(), key.serialize_pem(), fingerprint(certificate.der())))
}

fn name(params: &mut CertificateParams, common_name: &str) {
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2026 + VALID_YEARS, 1, 1);
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

/// TLS of a gateway: clients must show a certificate of the authority.
pub(crate) fn server_config(pki: &Path) -> Result<Arc<ServerConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let roots = Arc::new(roots(&pki.join("authority.pem"))?);
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone())
        .build()
        .map_err(|error| crypto("use authority", pki.display(), error))?;
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| {
            let builder = builder.with_client_cert_verifier(verifier);
            builder.with_single_cert(
                certificates(&pki.join("server.pem")).map_err(other)?,
                private_key(&pki.join("server.key")).map_err(other)?,
            )
        })
        .map_err(|error| crypto("use certificate", pki.join("server.pem").display(), error))?;
    Ok(Arc::new(config))
}

/// TLS of a client, from its bundle.
pub(crate) fn client_config(bundle: &Path) -> Result<Arc<ClientConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| {
            let roots = roots(&bundle.join("authority.pem")).map_err(other)?;
            builder.with_root_certificates(roots).with_client_auth_cert(
                certificates(&bundle.join("client.pem")).map_err(other)?,
                private_key(&bundle.join("client.key")).map_err(other)?,
            )
        })
        .map_err(|error| crypto("use identity", bundle.display(), error))?;
    Ok(Arc::new(config))
}

fn other(error: Error) -> rustls::Error {
    rustls::Error::General(error.to_string())
}

fn roots(path: &Path) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| crypto("use certificate", path.display(), error))?;
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(&read(path)?)
        .collect::<std::result::Result<Vec<_>, _>>()
        .map_err(|error| crypto("read certificate", path.display(), error))
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_slice(&read(path)?)
        .map_err(|error| crypto("read private key", path.display(), error))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| Error::io("read", path.display(), error))
}

/// Writes a new file that only its owner may read, durably.
fn write_new(path: &Path, content: &[u8]) -> Result<()> {
    let io = |error| Error::io("write", path.display(), error);
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(io)?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(io)
}

fn crypto(
    operation: &'static str,
    object: impl std::fmt::Display,
    error: impl std::error::Error + Send + Sync + 'static,
) -> Error {
    Error::new(ErrorKind::InvalidInput, operation, object).source(error)
}
