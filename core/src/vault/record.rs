//! The record of a volume: its properties, written once when it is created.
//! `core/docs/format.md` specifies its bytes.
//!
//! A record carries the volume's name, so that the objects of one volume are not taken for those of
//! another. Version 1.0 has no name and is still read. The checksum guards against accidents; with
//! a key-encryption key, the wrapped volume key opens only for the properties that it was wrapped
//! for ([`properties`]).

use crate::bytes::{Reader, Writer};
use crate::error::{Error, ErrorKind, Result};
use crate::journal::Binding;
use crate::units::{KeyId, Timestamp, VolumeId};

/// Magic and major version; the minor version follows.
const MAGIC: &[u8; 7] = b"HRLVOL\x01";
/// The first minor version that has a name.
const MINOR: u8 = 1;
/// Largest record, marker or wrapped key that is read.
pub(super) const RECORD_BYTES_MAX: u64 = 64 << 10;
/// Structure `volume_record`: name, offset and size of each field before the name.
#[cfg(test)]
pub(super) const FIELDS: [(&str, usize, usize); 9] = [
    ("magic", 0, 7),
    ("version_minor", 7, 1),
    ("volume", 8, 16),
    ("device_bytes", 24, 8),
    ("block_bytes", 32, 4),
    ("created", 36, 8),
    ("extents_only", 44, 1),
    ("encrypted", 45, 1),
    ("key_id", 46, 16),
];

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
    /// Whether it was shredded: nothing of it can be read any more.
    pub shredded: bool,
}

impl VolumeInfo {
    /// Returns whether both are of one volume with the same properties, shredded since or not.
    pub(super) fn is_same_volume(&self, other: &Self) -> bool {
        Self { shredded: other.shredded, ..self.clone() } == *other
    }
}

/// Returns the properties that a wrapped key of this generation is bound to.
pub(super) fn properties(info: &VolumeInfo, generation: u32) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_u64_le(info.device_bytes).put_u32_le(info.block_bytes).put_i64_le(info.created.0);
    out.put_u8(u8::from(info.extents_only)).put_bytes(info.name.as_bytes());
    if generation > 1 {
        out.put_u8(0).put_u32_le(generation);
    }
    out
}

/// Returns what a wrapped key of the volume is bound to.
pub(super) fn binding<'a>(info: &VolumeInfo, properties: &'a [u8]) -> Binding<'a> {
    Binding { volume: info.id, properties }
}

pub(super) fn encode_volume(info: &VolumeInfo) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_bytes(MAGIC).put_u8(MINOR).put_bytes(&info.id.0);
    out.put_u64_le(info.device_bytes).put_u32_le(info.block_bytes).put_i64_le(info.created.0);
    out.put_u8(u8::from(info.extents_only)).put_u8(u8::from(info.key_id.is_some()));
    out.put_bytes(&info.key_id.unwrap_or_default().0);
    out.put_u16_le(info.name.len() as u16).put_bytes(info.name.as_bytes()).put_crc32_le();
    out
}

/// Reads the record of the volume `name`. `Corrupt` if it is that of a volume of another name.
pub(super) fn decode_volume(name: &str, bytes: &[u8], object: &str) -> Result<VolumeInfo> {
    let mut from = Reader::new(bytes, "read volume record", object);
    from.magic(MAGIC)?;
    let minor = from.u8()?;
    if minor > MINOR {
        return Err(Error::new(ErrorKind::Unsupported, "read volume record", object)
            .expected(format_args!("version 1.{MINOR} or older"))
            .found(format_args!("version 1.{minor}")));
    }
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
    let mut recorded = None;
    if minor >= 1 {
        let name_bytes = from.u16_le()?;
        recorded = Some(from.text(name_bytes.into(), super::layout::VOLUME_NAME_BYTES_MAX)?);
    }
    from.crc32_le()?;
    from.end()?;
    if let Some(recorded) = recorded.filter(|recorded| *recorded != name) {
        return Err(Error::new(ErrorKind::Corrupt, "read volume record", object)
            .expected(format_args!("the record of volume {name}"))
            .found(format_args!("that of volume {recorded:?}")));
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::specification::check_fields;

    fn info(name: &str) -> VolumeInfo {
        VolumeInfo {
            name: name.to_owned(),
            id: VolumeId([1; 16]),
            device_bytes: 4096,
            block_bytes: 512,
            created: Timestamp(7),
            key_id: Some(KeyId([2; 16])),
            extents_only: true,
            shredded: false,
        }
    }

    /// Returns the record as version 1.0 wrote it.
    fn without_name(record: &[u8]) -> Vec<u8> {
        let mut old = record[..62].to_vec();
        old[7] = 0;
        old.put_crc32_le();
        old
    }

    #[test]
    fn a_record_is_that_of_its_name_alone() {
        let record = encode_volume(&info("a"));
        assert_eq!(decode_volume("a", &record, "o").expect("its own"), info("a"));
        let error = decode_volume("b", &record, "volumes/b/volume").expect_err("moved");
        assert_eq!((error.kind(), error.object()), (ErrorKind::Corrupt, "volumes/b/volume"));
        assert!(error.to_string().contains("volume b") && error.to_string().contains("\"a\""));
    }

    #[test]
    fn a_record_without_a_name_is_still_read() {
        let old = without_name(&encode_volume(&info("a")));
        assert_eq!(old.len(), 66);
        assert_eq!(decode_volume("b", &old, "o").expect("of any name"), info("b"));
    }

    #[test]
    fn promise_11_any_altered_byte_of_a_record_is_an_error() {
        let record = encode_volume(&info("a"));
        for at in 0..record.len() {
            let mut altered = record.clone();
            altered[at] ^= 1;
            decode_volume("a", &altered, "o").expect_err("a flipped bit");
            decode_volume("a", &record[..at], "o").expect_err("cut off");
        }
        let mut newer = record;
        newer[7] = 2;
        mend_volume_record(&mut newer);
        let error = decode_volume("a", &newer, "o").expect_err("newer");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn each_property_is_bound() {
        let one = info("a");
        let others = [
            info("b"),
            VolumeInfo { device_bytes: 8192, ..one.clone() },
            VolumeInfo { block_bytes: 4096, ..one.clone() },
            VolumeInfo { created: Timestamp(8), ..one.clone() },
            VolumeInfo { extents_only: false, ..one.clone() },
        ];
        for other in others {
            assert_ne!(properties(&other, 1), properties(&one, 1), "{other:?}");
            assert!(!other.is_same_volume(&one));
        }
        assert!(VolumeInfo { shredded: true, ..one.clone() }.is_same_volume(&one));
    }

    #[test]
    fn the_specification_is_the_layout_of_the_code() {
        let next = check_fields("Structure `volume_record`", &FIELDS);
        assert_eq!(next, without_name(&encode_volume(&info("a"))).len() - 4);
    }
}
