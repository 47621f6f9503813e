//! The record of a volume: what it is, written once when it is created.

use super::codec::{Decoder, Encoder};
use crate::error::Result;
use crate::units::{KeyId, Timestamp, VolumeId};

const MAGIC: &[u8; 8] = b"HRLVOL\x01\x00";
/// Largest record, marker or wrapped key that is read.
pub(super) const RECORD_BYTES_MAX: u64 = 64 << 10;

/// What the vault says of a volume.
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
    /// Name of the key that it is sealed with; `None` when it is not encrypted.
    pub key_id: Option<KeyId>,
    /// Changes are tracked without their data.
    pub extents_only: bool,
    /// Its keys were deleted: nothing of it can be read any more.
    pub shredded: bool,
}
pub(super) fn encode_volume(info: &VolumeInfo) -> Vec<u8> {
    let mut out = Encoder::default();
    out.bytes(MAGIC).bytes(&info.id.0).u64(info.device_bytes).u32(info.block_bytes);
    out.time(info.created).u8(u8::from(info.extents_only)).u8(u8::from(info.key_id.is_some()));
    out.bytes(&info.key_id.unwrap_or_default().0);
    let crc = crc32fast::hash(&out.0);
    out.u32(crc);
    out.0
}

pub(super) fn decode_volume(name: &str, bytes: &[u8], object: &str) -> Result<VolumeInfo> {
    let mut decoder = Decoder::new(bytes, object);
    if decoder.take(8)? != MAGIC {
        return Err(decoder.bad("magic HRLVOL", "another"));
    }
    let id = VolumeId(decoder.array()?);
    let (device_bytes, block_bytes, created) = (decoder.u64()?, decoder.u32()?, decoder.time()?);
    let extents_only = decoder.u8()? != 0;
    let sealed = decoder.u8()? != 0;
    let key = KeyId(decoder.array()?);
    let checked = bytes.len().saturating_sub(4);
    let found = decoder.u32()?;
    decoder.end()?;
    if crc32fast::hash(&bytes[..checked]) != found {
        return Err(decoder.bad("a right checksum", format_args!("{found:#010x}")));
    }
    if !block_bytes.is_power_of_two() {
        return Err(decoder.bad("a block size that is a power of two", block_bytes));
    }
    let key_id = sealed.then_some(key);
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

/// Makes the checksum of an altered volume record right again. Feature `testing`.
#[cfg(any(test, feature = "testing"))]
pub fn mend_volume_record(bytes: &mut [u8]) {
    if let Some(checked) = bytes.len().checked_sub(4) {
        let crc = crc32fast::hash(&bytes[..checked]);
        bytes[checked..].copy_from_slice(&crc.to_le_bytes());
    }
}
