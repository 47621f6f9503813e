//! The object of a catalog version: envelope, edits, checksum; `core/docs/format.md` specifies its
//! bytes.
//!
//! With a volume key the edits are encrypted, and the envelope is authenticated with them. Decoding
//! is total: any bytes give a version or an error with its offset.

use chacha20poly1305::XChaCha20Poly1305;
use chacha20poly1305::aead::{AeadInOut, KeyInit};

use super::codec::{put_edit, read_edit};
use super::edit::CatalogEdit;
use crate::bytes::{Reader, Writer};
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::journal::{KeyRing, VolumeKey, nonce_for};
use crate::units::VolumeId;

/// Largest version that is read.
pub(super) const VERSION_BYTES_MAX: u64 = 256 << 20;
const MAGIC: &[u8; 8] = b"HRLCAT\x01\x00";
const KEY_CONTEXT: &str = "hrl 2026-11-21 catalog key v1";
const FLAGS_AT: usize = 8;
const VOLUME_AT: usize = 12;
const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;
/// The part of the envelope that is authenticated: magic, flags, volume, number, hash before,
/// author.
const HEAD_BYTES: usize = 8 + 4 + 16 + 8 + 32 + 16;
const ENVELOPE_BYTES: usize = HEAD_BYTES + NONCE_BYTES + TAG_BYTES;
/// Bytes of the checksum at the end.
pub(super) const CHECKSUM_BYTES: usize = 4;

/// A volume's version of some number: what its object must belong to.
#[derive(Clone, Copy)]
pub(crate) struct VersionId {
    pub volume: VolumeId,
    pub number: u64,
}

/// One version.
pub(super) struct Version {
    /// Hash of the version before.
    pub previous: [u8; 32],
    /// Identity of its writer: of the source, or random.
    pub author: [u8; 16],
    /// Generation of the volume key that encrypts it; 0 without one.
    pub generation: u32,
    pub edits: Vec<CatalogEdit>,
}

/// What can be read of a version without its key, and proves nothing.
pub struct VersionEnvelope {
    /// The volume.
    pub volume: VolumeId,
    /// Number of the version.
    pub number: u64,
    /// Hash of the version before.
    pub previous: [u8; 32],
    /// Generation of the volume key that encrypts them; 0 without one.
    pub generation: u32,
    author: [u8; 16],
}

impl VersionEnvelope {
    /// Reads it from the bytes of a version. `Corrupt` if they are none, or their checksum is wrong.
    pub fn read(bytes: &[u8], object: &str) -> Result<Self> {
        if bytes.len() < ENVELOPE_BYTES + CHECKSUM_BYTES || !bytes.starts_with(MAGIC) {
            return Err(Error::new(ErrorKind::Corrupt, "read catalog", object)
                .at(0)
                .expected("magic HRLCAT")
                .found(format_args!("{} bytes", bytes.len())));
        }
        let mut whole = Reader::new(bytes, "read catalog", object);
        let content = whole.take(bytes.len() - CHECKSUM_BYTES)?;
        whole.crc32_le()?;
        let mut from = Reader::new(content, "read catalog", object);
        from.magic(MAGIC)?;
        let generation = from.u32_le()?;
        let (volume, number) = (VolumeId(from.array()?), from.u64_le()?);
        let (previous, author) = (from.array()?, from.array()?);
        Ok(Self { volume, number, previous, generation, author })
    }

    /// Returns the hash of a version's bytes, which the next version names.
    pub fn hash(object: &[u8]) -> [u8; 32] {
        hash(object)
    }
}

/// Returns the hash that the next version names.
pub(super) fn hash(object: &[u8]) -> [u8; 32] {
    *blake3::hash(object).as_bytes()
}

/// Returns the bytes of a version, encrypted with a key if there is one.
pub(crate) fn encode(
    id: VersionId,
    previous: [u8; 32],
    author: [u8; 16],
    edits: &[CatalogEdit],
    encryption: Option<(u32, &VolumeKey, &dyn Clock)>,
) -> Vec<u8> {
    let mut body = Vec::new();
    body.put_u32_le(edits.len() as u32);
    edits.iter().for_each(|edit| put_edit(&mut body, edit));
    let mut out = Vec::with_capacity(ENVELOPE_BYTES + body.len() + CHECKSUM_BYTES);
    out.put_bytes(MAGIC).put_u32_le(encryption.map_or(0, |(generation, ..)| generation));
    out.put_bytes(&id.volume.0).put_u64_le(id.number).put_bytes(&previous).put_bytes(&author);
    assert_eq!(out.len(), HEAD_BYTES, "the envelope's size is the sum of its fields");
    match encryption {
        Some((_, key, clock)) => {
            let key = catalog_key(key);
            let nonce = nonce_for(&key, &[&out, &body], clock);
            let tag = XChaCha20Poly1305::new(&key.into())
                .encrypt_inout_detached(&nonce.into(), &out, body.as_mut_slice().into())
                .expect("a catalog version is far below the limit of the cipher");
            out.put_bytes(&nonce).put_bytes(&tag);
        }
        None => {
            out.put_zeroes(NONCE_BYTES + TAG_BYTES);
        }
    }
    out.put_bytes(&body).put_crc32_le();
    out
}

/// Returns whether somebody with one of the keys of generation `least` or later made these bytes, as
/// version `id`, whatever they say.
pub(super) fn authenticates(bytes: &[u8], id: VersionId, keys: &KeyRing, least: u32) -> bool {
    let Ok(envelope) = VersionEnvelope::read(bytes, "") else { return false };
    let is_meant = envelope.volume == id.volume && envelope.number == id.number;
    let is_late = envelope.generation >= least.max(1);
    is_meant && is_late && open(bytes, envelope.generation, &keys.all()).is_some()
}

/// Decrypts the edits of a version; `None` if none of the keys has made it.
fn open(bytes: &[u8], generation: u32, keys: &[(u32, VolumeKey)]) -> Option<Vec<u8>> {
    let content = bytes.get(..bytes.len().checked_sub(CHECKSUM_BYTES)?)?;
    let (head, rest) = content.split_at_checked(HEAD_BYTES)?;
    let (nonce, rest) = rest.split_first_chunk::<NONCE_BYTES>()?;
    let (tag, body) = rest.split_first_chunk::<TAG_BYTES>()?;
    keys.iter().filter(|(of, _)| *of == generation).find_map(|(_, key)| {
        let (mut body, cipher) = (body.to_vec(), XChaCha20Poly1305::new(&catalog_key(key).into()));
        let content = body.as_mut_slice().into();
        cipher.decrypt_inout_detached(nonce.into(), head, content, tag.into()).ok()?;
        Some(body)
    })
}

/// Reads the bytes of a version. `Corrupt` if they are not those of version `id` or none of the keys
/// has made it, `WrongKey` if it is encrypted and there is no key.
pub(super) fn decode(bytes: &[u8], object: &str, id: VersionId, keys: &KeyRing) -> Result<Version> {
    let bad = |at: usize| Error::new(ErrorKind::Corrupt, "read catalog", object).at(at as u64);
    let envelope = VersionEnvelope::read(bytes, object)?;
    let VersionEnvelope { previous, author, generation, .. } = envelope;
    if envelope.volume != id.volume || envelope.number != id.number {
        return Err(bad(VOLUME_AT)
            .expected(format_args!("version {} of volume {}", id.number, id.volume))
            .found("another version or volume"));
    }
    let keys = keys.all();
    let body = match (keys.is_empty(), generation) {
        (true, 0) => bytes[ENVELOPE_BYTES..bytes.len() - CHECKSUM_BYTES].to_vec(),
        (true, _) => {
            return Err(Error::new(ErrorKind::WrongKey, "read catalog", object)
                .message("the catalog is encrypted and no key was given"));
        }
        (false, 0) => {
            return Err(bad(FLAGS_AT)
                .expected("an encrypted version")
                .found("one that is not encrypted"));
        }
        (false, _) => open(bytes, generation, &keys).ok_or_else(|| {
            bad(0)
                .expected("the version that was encrypted here")
                .found(format_args!("another, under generation {generation} of the volume key"))
        })?,
    };
    let mut from = Reader::new(&body, "read catalog", object).at_offset(ENVELOPE_BYTES as u64);
    let count = from.u32_le()?;
    let count = from.count(count, 1)?;
    let edits = (0..count).map(|_| read_edit(&mut from)).collect::<Result<_>>()?;
    from.end()?;
    Ok(Version { previous, author, generation, edits })
}

/// Makes altered bytes a version that follows the one with the hash `previous`, as version `number`
/// of `volume`, with a matching checksum. Returns its hash. Feature `testing`.
#[cfg(any(test, feature = "testing"))]
pub fn mend_catalog_version(
    bytes: &mut [u8],
    volume: VolumeId,
    number: u64,
    previous: [u8; 32],
) -> [u8; 32] {
    if bytes.len() >= ENVELOPE_BYTES + CHECKSUM_BYTES {
        bytes[12..28].copy_from_slice(&volume.0);
        bytes[28..36].copy_from_slice(&number.to_le_bytes());
        bytes[36..68].copy_from_slice(&previous);
        crate::bytes::overwrite_crc32_le(bytes);
    }
    hash(bytes)
}

fn catalog_key(key: &VolumeKey) -> [u8; 32] {
    key.derive(KEY_CONTEXT, &[])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::units::Timestamp;

    #[test]
    fn promise_10_two_versions_have_two_nonces_although_random_bytes_repeat() {
        let (key, id) =
            (VolumeKey::from_bytes([1; 32]), VersionId { volume: VolumeId([2; 16]), number: 7 });
        let encoded = |name: &str, seed: u64| {
            let edits = [CatalogEdit::Deleted(vec![name.to_owned()])];
            let clock = ManualClock::new(Timestamp(0), seed);
            let bytes = encode(id, [3; 32], [4; 16], &edits, Some((1, &key, &clock)));
            let version = decode(&bytes, "version", id, &key.clone().into()).expect("sound");
            assert!(version.edits == edits);
            bytes[HEAD_BYTES..][..NONCE_BYTES].to_vec()
        };
        assert_ne!(encoded("one", 1), encoded("two", 1), "one generator, two contents");
        assert_ne!(encoded("one", 1), encoded("one", 2), "two generators, one content");
    }
}
