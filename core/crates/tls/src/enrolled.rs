//! The clients that a server admits, by the fingerprints that were pinned at their enrolment.

use std::path::Path;

use hrl::{Error, Result};

/// Longest file of a client.
const CLIENT_FILE_BYTES_MAX: u64 = 64 << 10;

/// An admitted client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnrolledClient {
    /// Name of the client.
    pub name: String,
    /// Volumes that the client may read and write.
    pub volumes: Vec<String>,
}

/// Returns the fingerprint of a certificate: BLAKE3 of its DER form, in hexadecimal.
pub fn fingerprint(certificate: &[u8]) -> String {
    blake3::hash(certificate).to_hex().to_string()
}

/// Returns the client that is enrolled in `pki` with this fingerprint, or `None`.
pub fn find_client(pki: &Path, fingerprint: &str) -> Result<Option<EnrolledClient>> {
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
