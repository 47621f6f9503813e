//! The clients that a server admits, by the fingerprints that were pinned at their enrolment.
//!
//! A client's file has a `fingerprint` line for each of its certificates, and a `volume` line for
//! each volume. The certificate decides what the client may do; the file can only take volumes
//! away. `revoked` lines refuse a certificate for ever, even if its fingerprint is pinned again.

use std::path::Path;

use hrl::{Error, Result, Timestamp};

use crate::rights::{ALL_VOLUMES, CertificateRights, Role, covers};

/// Longest file of a client.
const CLIENT_FILE_BYTES_MAX: u64 = 64 << 10;

/// An admitted client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnrolledClient {
    /// Name of the client.
    pub name: String,
    /// What the client may do.
    pub role: Role,
    /// Volumes of the client, or [`ALL_VOLUMES`].
    pub volumes: Vec<String>,
    /// When its certificate expires.
    pub expires: Timestamp,
}

impl EnrolledClient {
    /// Describes a client whose certificate never expires. For tests, and for servers that know
    /// their clients in another way.
    pub fn new(name: &str, role: Role, volumes: &[String]) -> Self {
        let expires = Timestamp(i64::MAX);
        Self { name: name.to_owned(), role, volumes: volumes.to_vec(), expires }
    }

    /// Returns whether the client has rights for a volume.
    pub fn has_volume(&self, volume: &str) -> bool {
        covers(&self.volumes, volume)
    }

    /// Returns whether the client has rights for all volumes.
    pub fn has_all_volumes(&self) -> bool {
        self.volumes.iter().any(|volume| volume == ALL_VOLUMES)
    }
}

/// Returns the fingerprint of a certificate: BLAKE3 of its DER form, in hexadecimal.
pub fn fingerprint(certificate: &[u8]) -> String {
    blake3::hash(certificate).to_hex().to_string()
}

/// Returns the client that is enrolled in `pki` with this certificate in DER form, or `None`.
/// `InvalidInput` if the certificate names an unknown role.
pub fn find_client(pki: &Path, certificate: &[u8]) -> Result<Option<EnrolledClient>> {
    Enrolled::read(pki)?.find(certificate)
}

/// All enrolled clients, as they were when they were read.
pub struct Enrolled(Vec<Pin>);

impl Enrolled {
    /// Reads the clients of a directory. A client's file that cannot be read, or is too long, is
    /// left out.
    pub fn read(pki: &Path) -> Result<Self> {
        pins(pki).map(Self)
    }

    /// Returns the client with this certificate, as [`find_client`] does.
    pub fn find(&self, certificate: &[u8]) -> Result<Option<EnrolledClient>> {
        let fingerprint = fingerprint(certificate);
        let Some(pin) = self.0.iter().find(|pin| pin.has(&fingerprint)) else { return Ok(None) };
        let rights = CertificateRights::of(certificate)?;
        let volumes = match rights.role {
            // Made before there were roles.
            None => pin.volumes.clone(),
            Some(_) => both(rights.volumes, pin.volumes.clone()),
        };
        let (name, role) = (pin.name.clone(), rights.role.unwrap_or_default());
        Ok(Some(EnrolledClient { name, role, volumes, expires: rights.expires }))
    }
}

/// Returns the volumes that are in both lists.
fn both(one: Vec<String>, other: Vec<String>) -> Vec<String> {
    if other.iter().any(|volume| volume == ALL_VOLUMES) {
        return one;
    }
    if one.iter().any(|volume| volume == ALL_VOLUMES) {
        return other;
    }
    one.into_iter().filter(|volume| other.contains(volume)).collect()
}

/// A client's file.
pub(crate) struct Pin {
    pub name: String,
    pub fingerprints: Vec<String>,
    pub volumes: Vec<String>,
}

impl Pin {
    fn has(&self, fingerprint: &str) -> bool {
        self.fingerprints.iter().any(|pinned| pinned == fingerprint)
    }

    pub(crate) fn parse(name: &str, text: &str) -> Self {
        let values = |word: &'static str| {
            let lines = text.lines().filter_map(|line| line.split_once(' '));
            lines.filter(move |(found, _)| *found == word).map(|(_, value)| value.trim().to_owned())
        };
        let revoked: Vec<_> = values("revoked").collect();
        let fingerprints = values("fingerprint").filter(|pinned| !revoked.contains(pinned));
        Self {
            name: name.to_owned(),
            fingerprints: fingerprints.collect(),
            volumes: values("volume").collect(),
        }
    }
}

fn pins(pki: &Path) -> Result<Vec<Pin>> {
    let directory = pki.join("clients");
    let io = |error| Error::io("look for client", directory.display(), error);
    let mut pins = Vec::new();
    for entry in std::fs::read_dir(&directory).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        // Such as a file that is being replaced.
        if name.starts_with('.') {
            continue;
        }
        if !path.metadata().is_ok_and(|m| m.is_file() && m.len() <= CLIENT_FILE_BYTES_MAX) {
            continue;
        }
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        pins.push(Pin::parse(name, &text));
    }
    Ok(pins)
}
