//! The authority: makes certificates for the server and its clients, and enrols clients.
//!
//! A client's key is made here, or stays on its machine: then the machine makes a request
//! ([`request_client`]), and the authority signs it ([`Enrollment::request`]). Of a request only
//! the public key is used; the operator says what the client may do.
//!
//! Behaviour on failure: a client's file under `clients` is written last, so nobody is admitted who
//! has no whole bundle. A renewal replaces one file after the other; see `reload`.

use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hrl::store::check_name;
use hrl::{Error, ErrorKind, Result, SystemClock};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
};

use crate::enrolled::Pin;
use crate::fingerprint;
use crate::rights::{ALL_VOLUMES, Role, uris};

/// Default days of a server's and a client's certificate.
const LEAF_DAYS: u32 = 397;
/// Days of the authority's certificate: ten years.
const AUTHORITY_DAYS: u32 = 3653;
/// Longest time that a certificate can be made for, in days: a hundred years.
const DAYS_MAX: u32 = 36_525;
/// Certificates are valid from this long before they are made, so that clocks may differ.
const CLOCKS_DIFFER: Duration = Duration::from_secs(24 * 3600);
/// Largest request that is read, in bytes.
const REQUEST_BYTES_MAX: u64 = 64 << 10;
/// Names by which programs that use GnuTLS (libnbd, QEMU) look for the files of a bundle.
const GNUTLS_NAMES: [(&str, &str); 3] = [
    ("ca-cert.pem", "authority.pem"),
    ("client-cert.pem", "client.pem"),
    ("client-key.pem", "client.key"),
];

/// First and last moment of a certificate, in seconds since 1970.
#[derive(Clone, Copy)]
struct Lifetime {
    from: u64,
    until: u64,
}

impl Lifetime {
    /// Returns the lifetime of a certificate that is made now, for `days`.
    fn days(days: u32) -> Result<Self> {
        if !(1..=DAYS_MAX).contains(&days) {
            return Err(Error::new(ErrorKind::InvalidInput, "make certificate", "days")
                .expected(format_args!("1 to {DAYS_MAX}"))
                .found(days));
        }
        let now = u64::try_from(SystemClock::shared().now().seconds()).unwrap_or_default();
        let from = now.saturating_sub(CLOCKS_DIFFER.as_secs());
        Ok(Self { from, until: now + u64::from(days) * 24 * 3600 })
    }

    /// Returns the lifetime of a certificate of 2020 that is valid until a year begins.
    #[cfg(feature = "testing")]
    fn until_year(year: i32) -> Self {
        let seconds = |year| rcgen::date_time_ymd(year, 1, 1).unix_timestamp().unsigned_abs();
        Self { from: seconds(2020), until: seconds(year) }
    }
}

/// Makes a certificate authority and a server's certificate for `hosts` (names or addresses) in a
/// directory. `AlreadyExists` if there is an authority.
pub fn create_authority(pki: &Path, hosts: &[String]) -> Result<()> {
    let failed = |error: rcgen::Error| crypto("create authority", pki.display(), error);
    std::fs::create_dir_all(pki.join("clients"))
        .map_err(|error| Error::io("create authority", pki.display(), error))?;
    let key = KeyPair::generate().map_err(failed)?;
    let mut params = CertificateParams::new(Vec::<String>::new()).map_err(failed)?;
    describe(&mut params, "hrl authority", Lifetime::days(AUTHORITY_DAYS)?);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let certificate = params.self_signed(&key).map_err(failed)?;
    write_new(&pki.join("authority.key"), key.serialize_pem().as_bytes())?;
    write_new(&pki.join("authority.pem"), certificate.pem().as_bytes())?;
    issue_server(pki, hosts, Lifetime::days(LEAF_DAYS)?)
}

/// Replaces the server's certificate and key by new ones for `hosts`, valid for `days`. A server
/// that runs uses them from the next connection on. `NotFound` if there is no authority.
pub fn renew_server(pki: &Path, hosts: &[String], days: u32) -> Result<()> {
    issue_server(pki, hosts, Lifetime::days(days)?)
}

fn issue_server(pki: &Path, hosts: &[String], lifetime: Lifetime) -> Result<()> {
    let failed = |error: rcgen::Error| crypto("issue certificate", "hrl gateway", error);
    let key = KeyPair::generate().map_err(failed)?;
    let params = CertificateParams::new(hosts).map_err(failed)?;
    let usage = ExtendedKeyUsagePurpose::ServerAuth;
    let (pem, _) = issue(pki, "hrl gateway", params, &key, usage, lifetime)?;
    replace(&pki.join("server.key"), key.serialize_pem().as_bytes())?;
    replace(&pki.join("server.pem"), pem.as_bytes())
}

/// Replaces the server's certificate by one that is valid until `last_year` begins, which may be in
/// the past. Feature `testing`.
#[cfg(feature = "testing")]
pub fn reissue_server(pki: &Path, hosts: &[String], last_year: i32) -> Result<()> {
    issue_server(pki, hosts, Lifetime::until_year(last_year))
}

/// Enrols a client as a source of `volumes`; see [`Enrollment`].
pub fn enroll_client(pki: &Path, client: &str, volumes: &[String], bundle: &Path) -> Result<()> {
    Enrollment::new(client, volumes).enroll(pki, bundle)
}

/// Makes a key and a request for a certificate in a new bundle: `client.key`, which never leaves
/// this machine, and `request.pem` for the authority. `AlreadyExists` if the bundle has a key.
pub fn request_client(client: &str, bundle: &Path) -> Result<()> {
    check_name(client)?;
    let failed = |error: rcgen::Error| crypto("request certificate", client, error);
    make_directory(bundle)?;
    let key = KeyPair::generate().map_err(failed)?;
    let mut params = CertificateParams::new(Vec::<String>::new()).map_err(failed)?;
    params.distinguished_name.push(DnType::CommonName, client);
    let request = params.serialize_request(&key).and_then(|made| made.pem()).map_err(failed)?;
    write_new(&bundle.join("client.key"), key.serialize_pem().as_bytes())?;
    replace(&bundle.join("request.pem"), request.as_bytes())
}

/// Enrolment of a client: what it may do, and for how long.
#[derive(Clone, Debug)]
pub struct Enrollment {
    client: String,
    volumes: Vec<String>,
    role: Role,
    days: u32,
    request: Option<PathBuf>,
}

impl Enrollment {
    /// Describes a client with rights for `volumes` alone; [`ALL_VOLUMES`] is all of them.
    pub fn new(client: &str, volumes: &[String]) -> Self {
        let (client, volumes) = (client.to_owned(), volumes.to_vec());
        Self { client, volumes, role: Role::Source, days: LEAF_DAYS, request: None }
    }

    /// Describes an enrolled client as it is, to renew its certificate. `NotFound` if no client of
    /// this name is enrolled.
    pub fn of_enrolled(pki: &Path, client: &str) -> Result<Self> {
        check_name(client)?;
        let path = pki.join("clients").join(client);
        let text = text(&path)?;
        let pin = Pin::parse(client, &text);
        let role = text.lines().find_map(|line| line.strip_prefix("role "));
        let role = role.map_or(Ok(Role::default()), |name| Role::parse(name.trim()))?;
        Ok(Self::new(client, &pin.volumes).role(role))
    }

    /// Sets what the client may do. Default [`Role::Source`].
    pub fn role(mut self, role: Role) -> Self {
        self.role = role;
        self
    }

    /// Sets the client's volumes.
    pub fn volumes(mut self, volumes: &[String]) -> Self {
        self.volumes = volumes.to_vec();
        self
    }

    /// Sets for how many days the certificate is valid. Default 397.
    pub fn days(mut self, days: u32) -> Self {
        self.days = days;
        self
    }

    /// Signs the key of this certificate request, a PEM file, rather than making a key. Everything
    /// else in the request is ignored.
    pub fn request(mut self, file: impl Into<PathBuf>) -> Self {
        self.request = Some(file.into());
        self
    }

    /// Enrols the client: signs and pins its certificate, and writes its bundle into `bundle`,
    /// without a key if it signs a request. `AlreadyExists` if a client of this name is enrolled.
    pub fn enroll(&self, pki: &Path, bundle: &Path) -> Result<()> {
        check_name(&self.client)?;
        let pin = pki.join("clients").join(&self.client);
        if pin.exists() {
            return Err(Error::new(ErrorKind::AlreadyExists, "enroll", &self.client)
                .message(format_args!("remove {} to enroll it anew, or renew it", pin.display())));
        }
        let fingerprint = self.issue(pki, bundle, &write_new)?;
        write_new(&pin, self.pin(&[fingerprint], "").as_bytes())
    }

    /// Gives an enrolled client a new certificate in `bundle`, and with a new key unless it signs a
    /// request. The certificate before it stays valid until it expires, so that the client can go
    /// on until it has the new one. `NotFound` if no client of this name is enrolled.
    pub fn renew(&self, pki: &Path, bundle: &Path) -> Result<()> {
        check_name(&self.client)?;
        let path = pki.join("clients").join(&self.client);
        let before = text(&path)?;
        let fingerprint = self.issue(pki, bundle, &replace)?;
        let last = Pin::parse(&self.client, &before).fingerprints.pop();
        let fingerprints: Vec<_> = last.into_iter().chain([fingerprint]).collect();
        replace(&path, self.pin(&fingerprints, &before).as_bytes())
    }

    /// Writes the client's bundle with `write`. Returns the fingerprint of its certificate.
    fn issue(
        &self,
        pki: &Path,
        bundle: &Path,
        write: &dyn Fn(&Path, &[u8]) -> Result<()>,
    ) -> Result<String> {
        for volume in self.volumes.iter().filter(|volume| *volume != ALL_VOLUMES) {
            check_name(volume)?;
        }
        let failed = |error: rcgen::Error| crypto("issue certificate", &self.client, error);
        let mut params = CertificateParams::new(vec![self.client.clone()]).map_err(failed)?;
        for uri in uris(self.role, &self.volumes) {
            params.subject_alt_names.push(SanType::URI(uri.try_into().map_err(failed)?));
        }
        let lifetime = Lifetime::days(self.days)?;
        make_directory(bundle)?;
        let (pem, fingerprint) = match &self.request {
            Some(path) => {
                let request = CertificateSigningRequestParams::from_pem(&text(path)?)
                    .map_err(|error| crypto("read request", path.display(), error))?;
                issue_client(pki, &self.client, params, &request.public_key, lifetime)?
            }
            None => {
                let key = KeyPair::generate().map_err(failed)?;
                let issued = issue_client(pki, &self.client, params, &key, lifetime)?;
                write(&bundle.join("client.key"), key.serialize_pem().as_bytes())?;
                issued
            }
        };
        write(&bundle.join("client.pem"), pem.as_bytes())?;
        replace(&bundle.join("authority.pem"), text(&pki.join("authority.pem"))?.as_bytes())?;
        for (name, file) in GNUTLS_NAMES {
            match symlink(file, bundle.join(name)) {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                    return Err(Error::io("enroll", bundle.join(name).display(), error));
                }
                _ => {}
            }
        }
        Ok(fingerprint)
    }

    /// Returns the client's file, with the revocations of the one before.
    fn pin(&self, fingerprints: &[String], before: &str) -> String {
        let line = |word: &str, value: &str| format!("{word} {value}\n");
        let pinned = fingerprints.iter().map(|value| line("fingerprint", value));
        let volumes = self.volumes.iter().map(|value| line("volume", value));
        let revoked = before.lines().filter(|line| line.starts_with("revoked "));
        let revoked = revoked.map(|line| format!("{line}\n"));
        let role = std::iter::once(line("role", self.role.name()));
        pinned.chain(role).chain(volumes).chain(revoked).collect()
    }
}

/// Revokes all certificates of an enrolled client, for ever. Returns their fingerprints, so that
/// servers with other directories can be asked to refuse them too. `NotFound` if no client of this
/// name is enrolled.
pub fn revoke_client(pki: &Path, client: &str) -> Result<Vec<String>> {
    check_name(client)?;
    let path = pki.join("clients").join(client);
    let before = text(&path)?;
    let fingerprints = Pin::parse(client, &before).fingerprints;
    let lines = before.lines().map(|line| match line.strip_prefix("fingerprint ") {
        Some(value) => format!("revoked {value}\n"),
        None => format!("{line}\n"),
    });
    replace(&path, lines.collect::<String>().as_bytes())?;
    Ok(fingerprints)
}

/// Puts an expired certificate into a client's bundle and pins it, for the volume `disk`. Feature
/// `testing`.
#[cfg(feature = "testing")]
pub fn let_client_expire(pki: &Path, client: &str, bundle: &Path) -> Result<()> {
    let uris = uris(Role::Source, &["disk".to_owned()]);
    replace_client(pki, client, bundle, &uris, Lifetime::until_year(2021))
}

/// Puts a certificate as of before there were roles into a client's bundle and pins it, for the
/// volume `disk`. Feature `testing`.
#[cfg(feature = "testing")]
pub fn enroll_without_role(pki: &Path, client: &str, bundle: &Path) -> Result<()> {
    make_directory(bundle)?;
    replace(&bundle.join("authority.pem"), text(&pki.join("authority.pem"))?.as_bytes())?;
    replace_client(pki, client, bundle, &[], Lifetime::days(LEAF_DAYS)?)
}

#[cfg(feature = "testing")]
fn replace_client(
    pki: &Path,
    client: &str,
    bundle: &Path,
    uris: &[String],
    lifetime: Lifetime,
) -> Result<()> {
    let failed = |error: rcgen::Error| crypto("issue certificate", client, error);
    let mut params = CertificateParams::new(vec![client.to_owned()]).map_err(failed)?;
    for uri in uris {
        params.subject_alt_names.push(SanType::URI(uri.as_str().try_into().map_err(failed)?));
    }
    let key = KeyPair::generate().map_err(failed)?;
    let (pem, fingerprint) = issue_client(pki, client, params, &key, lifetime)?;
    replace(&bundle.join("client.key"), key.serialize_pem().as_bytes())?;
    replace(&bundle.join("client.pem"), pem.as_bytes())?;
    let pin = format!("fingerprint {fingerprint}\nvolume disk\n");
    replace(&pki.join("clients").join(client), pin.as_bytes())
}

fn issue_client(
    pki: &Path,
    client: &str,
    params: CertificateParams,
    key: &impl PublicKeyData,
    lifetime: Lifetime,
) -> Result<(String, String)> {
    issue(pki, client, params, key, ExtendedKeyUsagePurpose::ClientAuth, lifetime)
}

/// Makes a certificate signed by the authority of a directory. Returns it as PEM, and its
/// fingerprint.
fn issue(
    pki: &Path,
    common_name: &str,
    mut params: CertificateParams,
    key: &impl PublicKeyData,
    usage: ExtendedKeyUsagePurpose,
    lifetime: Lifetime,
) -> Result<(String, String)> {
    let failed = |error: rcgen::Error| crypto("issue certificate", common_name, error);
    let authority_key = KeyPair::from_pem(&text(&pki.join("authority.key"))?).map_err(failed)?;
    let issuer = Issuer::from_ca_cert_pem(&text(&pki.join("authority.pem"))?, authority_key)
        .map_err(failed)?;
    describe(&mut params, common_name, lifetime);
    // QEMU requires the second usage, although no current algorithm needs it.
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![usage];
    let certificate = params.signed_by(key, &issuer).map_err(failed)?;
    Ok((certificate.pem(), fingerprint(certificate.der())))
}

fn describe(params: &mut CertificateParams, common_name: &str, lifetime: Lifetime) {
    let start = rcgen::date_time_ymd(1970, 1, 1);
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = start + Duration::from_secs(lifetime.from);
    params.not_after = start + Duration::from_secs(lifetime.until);
}

fn make_directory(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).map_err(|error| Error::io("create", path.display(), error))
}

fn text(path: &Path) -> Result<String> {
    let io = |error| Error::io("read", path.display(), error);
    let length = path.metadata().map_err(io)?.len();
    if length > REQUEST_BYTES_MAX {
        return Err(Error::new(ErrorKind::InvalidInput, "read", path.display())
            .expected(format_args!("at most {REQUEST_BYTES_MAX} bytes"))
            .found(length));
    }
    std::fs::read_to_string(path).map_err(io)
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

/// Writes a file as [`write_new`] does, in place of one of its name, whole or not at all.
fn replace(path: &Path, content: &[u8]) -> Result<()> {
    let io = |error| Error::io("replace", path.display(), error);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let new = path.with_file_name(format!(".{name}.new"));
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(error)),
        _ => {}
    }
    write_new(&new, content)?;
    std::fs::rename(&new, path).map_err(io)?;
    let directory = path.parent().unwrap_or(Path::new("."));
    std::fs::File::open(directory).and_then(|directory| directory.sync_all()).map_err(io)
}

fn crypto(
    operation: &'static str,
    object: impl std::fmt::Display,
    error: impl std::error::Error + Send + Sync + 'static,
) -> Error {
    Error::new(ErrorKind::InvalidInput, operation, object).caused_by(error)
}
