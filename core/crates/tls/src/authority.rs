//! The authority: makes certificates for the server and its clients, and enrols clients.

use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::Path;

use hrl::store::check_name;
use hrl::{Error, ErrorKind, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use crate::fingerprint;

/// Certificates are valid until this year begins.
const LAST_YEAR: i32 = 2036;
/// Names by which programs that use GnuTLS (libnbd, QEMU) look for the files of a bundle.
const GNUTLS_NAMES: [(&str, &str); 3] = [
    ("ca-cert.pem", "authority.pem"),
    ("client-cert.pem", "client.pem"),
    ("client-key.pem", "client.key"),
];

/// Makes a certificate authority and a server's certificate for `hosts` (names or addresses) in a
/// directory. `AlreadyExists` if there is an authority.
pub fn create_authority(pki: &Path, hosts: &[String]) -> Result<()> {
    let failed = |error: rcgen::Error| crypto("create authority", pki.display(), error);
    std::fs::create_dir_all(pki.join("clients"))
        .map_err(|error| Error::io("create authority", pki.display(), error))?;
    let key = KeyPair::generate().map_err(failed)?;
    let mut params = CertificateParams::new(Vec::<String>::new()).map_err(failed)?;
    name(&mut params, "hrl authority", LAST_YEAR);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let certificate = params.self_signed(&key).map_err(failed)?;
    write_new(&pki.join("authority.key"), key.serialize_pem().as_bytes())?;
    write_new(&pki.join("authority.pem"), certificate.pem().as_bytes())?;
    issue_server(pki, hosts, LAST_YEAR)
}

fn issue_server(pki: &Path, hosts: &[String], last_year: i32) -> Result<()> {
    let usage = ExtendedKeyUsagePurpose::ServerAuth;
    let (pem, key, _) = issue(pki, "hrl gateway", hosts.to_vec(), usage, last_year)?;
    write_new(&pki.join("server.key"), key.as_bytes())?;
    write_new(&pki.join("server.pem"), pem.as_bytes())
}

/// Replaces the server's certificate by one that is valid until `last_year` begins, which may be in
/// the past. Feature `testing`.
#[cfg(feature = "testing")]
pub fn reissue_server(pki: &Path, hosts: &[String], last_year: i32) -> Result<()> {
    for name in ["server.key", "server.pem"] {
        let path = pki.join(name);
        std::fs::remove_file(&path).map_err(|error| Error::io("remove", path.display(), error))?;
    }
    issue_server(pki, hosts, last_year)
}

/// Enrols a client for `volumes` alone: signs and pins its certificate, and writes its bundle into
/// `bundle`. `AlreadyExists` if a client of this name is enrolled.
pub fn enroll_client(pki: &Path, client: &str, volumes: &[String], bundle: &Path) -> Result<()> {
    check_name(client)?;
    for volume in volumes {
        check_name(volume)?;
    }
    let pin = pki.join("clients").join(client);
    if pin.exists() {
        return Err(Error::new(ErrorKind::AlreadyExists, "enroll", client)
            .message(format_args!("remove {} to enroll it anew", pin.display())));
    }
    let usage = ExtendedKeyUsagePurpose::ClientAuth;
    let names = vec![client.to_owned()];
    let (pem, key, fingerprint) = issue(pki, client, names, usage, LAST_YEAR)?;
    std::fs::create_dir_all(bundle)
        .map_err(|error| Error::io("enroll", bundle.display(), error))?;
    write_new(&bundle.join("client.key"), key.as_bytes())?;
    write_new(&bundle.join("client.pem"), pem.as_bytes())?;
    let authority = read(&pki.join("authority.pem"))?;
    write_new(&bundle.join("authority.pem"), &authority)?;
    for (name, file) in GNUTLS_NAMES {
        symlink(file, bundle.join(name))
            .map_err(|error| Error::io("enroll", bundle.join(name).display(), error))?;
    }
    let mut text = format!("fingerprint {fingerprint}\n");
    for volume in volumes {
        text.push_str("volume ");
        text.push_str(volume);
        text.push('\n');
    }
    write_new(&pin, text.as_bytes())
}

/// Puts an expired certificate into a client's bundle and pins it, for the volume `disk`. Feature
/// `testing`.
#[cfg(feature = "testing")]
pub fn let_client_expire(pki: &Path, client: &str, bundle: &Path) -> Result<()> {
    let usage = ExtendedKeyUsagePurpose::ClientAuth;
    let (pem, key, fingerprint) = issue(pki, client, vec![client.to_owned()], usage, 2021)?;
    let io = |error| Error::io("write", bundle.display(), error);
    std::fs::write(bundle.join("client.key"), key).map_err(io)?;
    std::fs::write(bundle.join("client.pem"), pem).map_err(io)?;
    let pin = format!("fingerprint {fingerprint}\nvolume disk\n");
    std::fs::write(pki.join("clients").join(client), pin).map_err(io)
}

/// Makes a certificate signed by the authority of a directory. Returns certificate and key as PEM,
/// and the fingerprint.
fn issue(
    pki: &Path,
    common_name: &str,
    names: Vec<String>,
    usage: ExtendedKeyUsagePurpose,
    last_year: i32,
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
    name(&mut params, common_name, last_year);
    // QEMU requires the second usage, although no current algorithm needs it.
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![usage];
    let certificate = params.signed_by(&key, &issuer).map_err(failed)?;
    Ok((certificate.pem(), key.serialize_pem(), fingerprint(certificate.der())))
}

fn name(params: &mut CertificateParams, common_name: &str, last_year: i32) {
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(last_year, 1, 1);
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
    Error::new(ErrorKind::InvalidInput, operation, object).caused_by(error)
}
