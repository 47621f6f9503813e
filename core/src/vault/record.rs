//! The record of a volume: its properties, written once when it is created.

use crate::bytes::{Reader, Writer};
use crate::error::Result;
use crate::units::{KeyId, Timestamp, VolumeId};

const MAGIC: &[u8; 8] = b"HRLVOL\x01\x00";
/// Largest record, marker or wrapped key that is read.
pub(super) const RECORD_BYTES_MAX: u64 = 64 << 10;

/// Properties of a volume, as its vault records them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeInfo {
    /// Name in the vault.
    pub name: String,
    /// Random identity.
    pub id: VolumeId,
    /// Size in bytes.
    pub device_bytes: u64,
    /// Logical block size in bytes.
    pub block_bytes: u32,
    /// When it was first protected.
    pub created: Timestamp,
    /// Identity of the volume key; `None` if the volume is not encrypted.
    pub key_id: Option<KeyId>,
    /// Whether changes are tracked without their data.
    pub extents_only: bool,
    /// Whether its keys were deleted, so that nothing of it can be read any more.
    pub shredded: bool,
}

pub(super) fn encode_volume(info: &VolumeInfo) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_bytes(MAGIC).put_bytes(&info.id.0);
    out.put_u64_le(info.device_bytes).put_u32_le(info.block_bytes).put_i64_le(info.created.0);
    out.put_u8(u8::from(info.extents_only)).put_u8(u8::from(info.key_id.is_some()));
    out.put_bytes(&info.key_id.unwrap_or_default().0).put_crc32_le();
    out
}

pub(super) fn decode_volume(name: &str, bytes: &[u8], object: &str) -> Result<VolumeInfo> {
    let mut from = Reader::new(bytes, "read volume record", object);
    from.magic(MAGIC)?;
    let id = VolumeId(from.array()?);
    let device_bytes = from.u64_le()?;
    let block_bytes = from.u32_le()?;
    if !block_bytes.is_power_of_two() {
        return Err(from.invalid("a block size that is a power of two", block_bytes));
    }
    let created = Timestamp(from.i64_le()?);
    let extents_only = from.u8()? != 0;
    let is_encrypted = from.u8()? != 0;
    let key = KeyId(from.array()?);
    from.crc32_le()?;
    from.end()?;
    let key_id = is_encrypted.then_some(key);
    Ok(VolumeInfo {
        name: name.to_owned(),
        id,
        device_bytes,
        block_bytes,
        created,
        key_id,
        extents_only,
        shredded: false,
    })
}

/// Makes the checksum of an altered volume record match again. Feature `testing`.
#[cfg(any(test, feature = "testing"))]
pub fn mend_volume_record(bytes: &mut [u8]) {
    crate::bytes::overwrite_crc32_le(bytes);
}
