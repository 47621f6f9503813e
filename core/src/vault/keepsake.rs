//! What a source keeps of its volume, to begin a session while its vault is away: the volume's
//! record, and its key as it is wrapped in the vault.
//!
//! The key lies outside of the vault only wrapped by the key-encryption key. Whoever has that key,
//! and this, can read copies of a shredded volume, so a source that loses its volume drops it.

use super::Vault;
use super::record::{VolumeInfo, binding, decode_volume, encode_volume, properties};
use crate::error::{Error, ErrorKind, Result};
use crate::journal::KeyRing;

/// The record of a volume and its wrapped key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Keepsake {
    /// The record, as the vault has it.
    pub record: Vec<u8>,
    /// The wrapped key; `None` if the volume is not encrypted.
    pub wrapped: Option<Vec<u8>>,
}

impl Vault {
    /// Makes a keepsake of an open volume. `None` if its key cannot be wrapped, because the vault
    /// was opened without a key-encryption key.
    pub(crate) fn keepsake(&self, info: &VolumeInfo, keys: &KeyRing) -> Option<Keepsake> {
        let properties = properties(info);
        let wrapped = match (keys.newest(), &self.wrapping_key) {
            (None, _) => None,
            (Some(key), Some(by)) => Some(by.wrap(key, &binding(info, &properties), &*self.clock)),
            (Some(_), None) => return None,
        };
        Some(Keepsake { record: encode_volume(info), wrapped })
    }

    /// Opens a keepsake of the volume `name`, which lies in `file`. `WrongKey` if the
    /// key-encryption key of the vault is not the one that wrapped its key.
    pub(crate) fn recall(
        &self,
        name: &str,
        kept: &Keepsake,
        file: &str,
    ) -> Result<(VolumeInfo, KeyRing)> {
        let info = decode_volume(name, &kept.record, file)?;
        let keys = match (info.key_id, &kept.wrapped, &self.wrapping_key) {
            (None, None, None) => KeyRing::default(),
            (Some(id), Some(wrapped), Some(by)) => {
                by.unwrap(wrapped, &binding(&info, &properties(&info)), id, file)?.into()
            }
            _ => {
                let name = |yes| if yes { "a key-encryption key" } else { "no key" };
                return Err(Error::new(ErrorKind::WrongKey, "open volume", &info.name)
                    .expected(name(info.key_id.is_some()))
                    .found(name(self.wrapping_key.is_some())));
            }
        };
        Ok((info, keys))
    }
}
