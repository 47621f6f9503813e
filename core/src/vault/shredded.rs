//! The marker of a shredded volume; `core/docs/format.md` specifies its bytes.
//!
//! Whoever may put objects can put one of this name, so its presence alone takes nothing away. With
//! the volume's key the shredder proves the marker: then the volume is shredded even while wrapped
//! keys are left, which a second run deletes. Without the key it has a checksum, and what counts is
//! that the wrapped keys are gone.

use super::layout;
use super::record::{RECORD_BYTES_MAX, VolumeInfo};
use crate::bytes::{Reader, Writer};
use crate::error::{ErrorKind, Result};
use crate::journal::VolumeKey;
use crate::store::{Store, get_all};
use crate::units::VolumeId;

const MAGIC: &[u8; 8] = b"HRLSHR\x01\x00";
const KEY_CONTEXT: &str = "hrl 2026-11-30 shredded marker key v1";
const TAG_BYTES: usize = 32;
/// Structure `shredded`: name, offset and size of each field.
#[cfg(test)]
pub(super) const FIELDS: [(&str, usize, usize); 4] =
    [("magic", 0, 8), ("volume", 8, 16), ("tag", 24, TAG_BYTES), ("checksum", 56, 4)];

/// What the marker of a volume says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Marker {
    /// There is none, or it was altered or made by somebody who knows nothing of the volume.
    None,
    /// Its checksum is right; anybody may have put it.
    Claimed,
    /// It was made with the volume's key.
    Proven,
}

/// Returns the marker of a volume, proven if there is a key.
pub(super) fn encode(name: &str, volume: VolumeId, key: Option<&VolumeKey>) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_bytes(MAGIC).put_bytes(&volume.0);
    out.put_bytes(&key.map_or([0; TAG_BYTES], |key| tag(name, volume, key))).put_crc32_le();
    out
}

fn tag(name: &str, volume: VolumeId, key: &VolumeKey) -> [u8; TAG_BYTES] {
    let mut hasher = blake3::Hasher::new_keyed(&key.derive(KEY_CONTEXT, &[]));
    hasher.update(MAGIC).update(&volume.0).update(name.as_bytes());
    *hasher.finalize().as_bytes()
}

fn decode(bytes: &[u8], object: &str) -> Result<(VolumeId, [u8; TAG_BYTES])> {
    let mut from = Reader::new(bytes, "read marker", object);
    from.magic(MAGIC)?;
    let (volume, tag) = (VolumeId(from.array()?), from.array()?);
    from.crc32_le()?;
    from.end()?;
    Ok((volume, tag))
}

/// Reads the marker of a volume; a key proves it.
pub(super) fn read(
    store: &dyn Store,
    info: &VolumeInfo,
    key: Option<&VolumeKey>,
) -> Result<Marker> {
    let object = layout::shredded(&info.name);
    let content = match get_all(store, &object, RECORD_BYTES_MAX) {
        // Too long for a marker.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Corrupt) => {
            return Ok(Marker::None);
        }
        content => content?,
    };
    let Ok((volume, found)) = decode(&content, &object) else { return Ok(Marker::None) };
    let proof = key.map(|key| blake3::Hash::from(tag(&info.name, info.id, key)));
    Ok(match proof {
        _ if volume != info.id => Marker::None,
        // `blake3::Hash` compares in constant time.
        Some(proof) if proof == blake3::Hash::from(found) => Marker::Proven,
        _ => Marker::Claimed,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::specification::{SPECIFICATION, check_fields};

    #[test]
    fn promise_11_any_altered_byte_of_a_marker_is_an_error() {
        let marker = encode("a", VolumeId([1; 16]), Some(&VolumeKey::from_bytes([2; 32])));
        decode(&marker, "o").expect("as it was made");
        for at in 0..marker.len() {
            let mut altered = marker.clone();
            altered[at] ^= 1;
            decode(&altered, "o").expect_err("a flipped bit");
            decode(&marker[..at], "o").expect_err("cut off");
        }
        for old in [&b""[..], b"hrl shredded 1\n"] {
            decode(old, "o").expect_err("no checksum");
        }
    }

    #[test]
    fn the_specification_is_the_layout_of_the_code() {
        let next = check_fields("Structure `shredded`, 60 bytes", &FIELDS);
        assert_eq!(next, encode("a", VolumeId::default(), None).len());
        assert!(SPECIFICATION.contains(KEY_CONTEXT));
    }
}
