//! What a source keeps of its volume, to begin a session while its vault is away: the volume's
//! record, and its key as it is wrapped in the vault.
//!
//! The key lies outside of the vault only wrapped by the key-encryption key. Whoever has that key,
//! and this, can read copies of a shredded volume, so a source that loses its volume drops it.

use super::Vault;
use super::record::{VolumeInfo, binding, decode_volume, encode_volume, properties};
use crate::error::{Error, ErrorKind, Result};
use crate::journal::{KeyRing, VolumeKey};
use crate::units::KeyId;

/// The record of a volume and its wrapped keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Keepsake {
    /// The record, as the vault has it.
    pub record: Vec<u8>,
    /// Generation, id and wrapped form of each key, oldest first; empty if the volume is not
    /// encrypted.
    pub wrapped: Vec<(u32, KeyId, Vec<u8>)>,
}

impl Vault {
    /// Makes a keepsake of an open volume. `None` if its keys cannot be wrapped, because the vault
    /// was opened without a key-encryption key.
    pub(crate) fn keepsake(&self, info: &VolumeInfo, keys: &KeyRing) -> Option<Keepsake> {
        let wrap = |(generation, key): &(u32, VolumeKey)| {
            let properties = properties(info, *generation);
            let by = self.wrapping_key.as_ref()?;
            Some((*generation, key.id(), by.wrap(key, &binding(info, &properties), &*self.clock)))
        };
        let wrapped = keys.all().iter().map(wrap).collect::<Option<_>>()?;
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
        let keys = KeyRing::default();
        match (info.key_id, &kept.wrapped[..], &self.wrapping_key) {
            (None, [], None) => {}
            (Some(first), [_, ..], Some(by)) => {
                for (generation, id, wrapped) in &kept.wrapped {
                    let id = if *generation == 1 { first } else { *id };
                    let properties = properties(&info, *generation);
                    let key = by.unwrap(wrapped, &binding(&info, &properties), id, file)?;
                    keys.insert(*generation, key);
                }
            }
            _ => {
                let name = |yes| if yes { "a key-encryption key" } else { "no key" };
                return Err(Error::new(ErrorKind::WrongKey, "open volume", &info.name)
                    .expected(name(info.key_id.is_some()))
                    .found(name(self.wrapping_key.is_some())));
            }
        }
        Ok((info, keys))
    }
}
