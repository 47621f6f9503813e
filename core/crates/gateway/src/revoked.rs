//! Certificates that no gateway admits any more: a list in the vault, which gateways share.
//!
//! An object `revoked/FINGERPRINT` revokes a certificate, for ever; its content is for people.
//! Gateways read the list every [`LIST_EVERY`]. Behaviour on failure: while the vault is away, what
//! was read last stays in force.

use std::collections::HashSet;
use std::time::Duration;

use hrl::store::Store;
use hrl::sync::lock::Mutex;
use hrl::vault::layout::REVOKED;
use hrl::{Error, ErrorKind, Result};

/// How often a gateway reads the list.
pub(crate) const LIST_EVERY: Duration = Duration::from_secs(6);

/// Revokes a certificate at all gateways of a vault, by its fingerprint; see
/// `hrl_tls::revoke_client`. `reason` is for people. `InvalidInput` if it is no fingerprint.
pub fn revoke(vault: &dyn Store, fingerprint: &str, reason: &str) -> Result<()> {
    if fingerprint.len() != 64 || !fingerprint.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(Error::new(ErrorKind::InvalidInput, "revoke", fingerprint)
            .expected("a fingerprint: 64 hexadecimal digits")
            .found(fingerprint));
    }
    vault.put(&format!("{REVOKED}{fingerprint}"), reason.as_bytes()).map(drop)
}

/// Returns the fingerprints of the certificates that are revoked in a vault.
pub fn revocations(vault: &dyn Store) -> Result<Vec<String>> {
    let objects = vault.list(REVOKED)?;
    Ok(objects.iter().filter_map(|info| info.name.strip_prefix(REVOKED)).map(Into::into).collect())
}

/// The list as a gateway read it last.
#[derive(Default)]
pub(crate) struct Revoked(Mutex<HashSet<String>>);

impl Revoked {
    pub(crate) fn read(&self, vault: &dyn Store) -> Result<()> {
        *self.0.lock() = revocations(vault)?.into_iter().collect();
        Ok(())
    }

    pub(crate) fn has(&self, fingerprint: &str) -> bool {
        self.0.lock().contains(fingerprint)
    }
}
