//! Keys: the volume key that seals segments, the key-encryption key that wraps it, and the ring that readers search.
//!
//! Every segment is sealed with a key of its own, derived from the volume key and the whole segment header (which
//! holds a random salt), so a changed header opens nothing and a nonce, the frame's number, never repeats under one key.
//! Derivation is BLAKE3's `derive_key` mode; sealing is ChaCha20-Poly1305 (RFC 8439); wrapping is XChaCha20-Poly1305.

use std::fmt;
use std::path::Path;

use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{ChaCha20Poly1305, XChaCha20Poly1305};

use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::units::{KeyId, decode_hex};

const SEGMENT_CONTEXT: &str = "hrl 2026-11-21 segment key v1";
const KEY_ID_CONTEXT: &str = "hrl 2026-11-21 volume key id v1";
const WRAP_MAGIC: &[u8; 8] = b"HRLWRAP\x01";
/// Magic, nonce, key and tag.
const WRAPPED_BYTES: usize = 8 + 24 + 32 + 16;
/// Largest key file that is read.
const KEY_FILE_BYTES_MAX: u64 = 4096;

/// Secret of one volume; every segment key and the catalog key derive from it.
#[derive(Clone, PartialEq, Eq)]
pub struct VolumeKey([u8; 32]);

impl VolumeKey {
    /// A new random key.
    pub fn generate(clock: &dyn Clock) -> Self {
        let mut bytes = [0; 32];
        clock.fill_random(&mut bytes);
        Self(bytes)
    }

    /// A key from its bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The name of the key, which tells nothing about it.
    pub fn id(&self) -> KeyId {
        let hash = self.derive(KEY_ID_CONTEXT, &[]);
        KeyId(hash[..16].try_into().expect("16 bytes"))
    }

    /// Derives a key for `context`, a constant unique to the use, and `salt`.
    pub(crate) fn derive(&self, context: &'static str, salt: &[u8]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key(context);
        hasher.update(&self.0);
        hasher.update(salt);
        *hasher.finalize().as_bytes()
    }
}

impl fmt::Debug for VolumeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VolumeKey({})", self.id())
    }
}

/// Key-encryption key: wraps volume keys, so that it can change without rewriting data.
#[derive(Clone, PartialEq, Eq)]
pub struct WrappingKey([u8; 32]);

impl WrappingKey {
    /// A key from its bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Reads a key file: 32 raw bytes, or 64 hexadecimal digits and white space around them.
    /// `InvalidInput` when it is neither.
    pub fn from_file(path: &Path) -> Result<Self> {
        let io = |error| Error::io("read key file", path.display(), error);
        let length = std::fs::metadata(path).map_err(io)?.len();
        let bad = |found: String| {
            Error::new(ErrorKind::InvalidInput, "read key file", path.display())
                .expected("32 bytes or 64 hexadecimal digits")
                .found(found)
        };
        if length > KEY_FILE_BYTES_MAX {
            return Err(bad(format!("{length} bytes")));
        }
        let content = std::fs::read(path).map_err(io)?;
        let mut key = [0; 32];
        if let Ok(raw) = content.as_slice().try_into() {
            return Ok(Self(raw));
        }
        match std::str::from_utf8(&content) {
            Ok(text) if decode_hex(text.trim(), &mut key) => Ok(Self(key)),
            _ => Err(bad(format!("{length} bytes that are not"))),
        }
    }

    /// Wraps a volume key for storage beside its volume.
    pub fn wrap(&self, key: &VolumeKey, clock: &dyn Clock) -> Vec<u8> {
        let mut wrapped = vec![0; WRAPPED_BYTES];
        wrapped[..8].copy_from_slice(WRAP_MAGIC);
        let mut nonce = [0; 24];
        clock.fill_random(&mut nonce);
        wrapped[8..32].copy_from_slice(&nonce);
        wrapped[32..64].copy_from_slice(&key.0);
        let tag = XChaCha20Poly1305::new(&self.0.into())
            .encrypt_inout_detached(&nonce.into(), WRAP_MAGIC, (&mut wrapped[32..64]).into())
            .expect("32 bytes are far below the limit of the cipher");
        wrapped[64..].copy_from_slice(&tag);
        wrapped
    }

    /// The volume key in `wrapped`, read from `object`. `WrongKey` when another key wrapped it (or it was altered),
    /// `Corrupt` when it is no wrapped key.
    pub fn unwrap(&self, wrapped: &[u8], object: &str) -> Result<VolumeKey> {
        if wrapped.len() != WRAPPED_BYTES || &wrapped[..8] != WRAP_MAGIC {
            return Err(Error::new(ErrorKind::Corrupt, "unwrap key", object)
                .expected(format_args!("{WRAPPED_BYTES} bytes that begin with HRLWRAP"))
                .found(format_args!("{} bytes", wrapped.len())));
        }
        let nonce: [u8; 24] = wrapped[8..32].try_into().expect("24 bytes");
        let tag: [u8; 16] = wrapped[64..].try_into().expect("16 bytes");
        let mut key: [u8; 32] = wrapped[32..64].try_into().expect("32 bytes");
        XChaCha20Poly1305::new(&self.0.into())
            .decrypt_inout_detached(&nonce.into(), WRAP_MAGIC, (&mut key[..]).into(), &tag.into())
            .map_err(|_| {
                Error::new(ErrorKind::WrongKey, "unwrap key", object)
                    .message("the key-encryption key given is not the one that wrapped it")
            })?;
        Ok(VolumeKey(key))
    }
}

impl fmt::Debug for WrappingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WrappingKey(secret)")
    }
}

/// Volume keys by id. An empty ring reads segments that are not encrypted.
#[derive(Clone, Debug, Default)]
pub struct KeyRing {
    keys: Vec<VolumeKey>,
}

impl KeyRing {
    /// Adds a key; it becomes the one that new segments are sealed with.
    pub fn insert(&mut self, key: VolumeKey) {
        self.keys.retain(|known| *known != key);
        self.keys.push(key);
    }

    /// The key of this name.
    pub fn find(&self, id: KeyId) -> Option<&VolumeKey> {
        self.keys.iter().find(|key| key.id() == id)
    }

    /// The key that new segments are sealed with.
    pub fn newest(&self) -> Option<&VolumeKey> {
        self.keys.last()
    }
}

impl From<VolumeKey> for KeyRing {
    fn from(key: VolumeKey) -> Self {
        Self { keys: vec![key] }
    }
}

/// Seals and opens the frames of one segment.
pub(super) struct SegmentSeal(ChaCha20Poly1305);

impl SegmentSeal {
    /// The seal of the segment with this header.
    pub(super) fn new(key: &VolumeKey, header: &[u8]) -> Self {
        Self(ChaCha20Poly1305::new(&key.derive(SEGMENT_CONTEXT, header).into()))
    }

    /// Encrypts `content` in place and gives its tag.
    pub(super) fn seal(&self, number: u32, aad: &[u8], content: &mut [u8]) -> [u8; 16] {
        self.0
            .encrypt_inout_detached(&nonce(number).into(), aad, content.into())
            .expect("a frame is far below the limit of the cipher")
            .into()
    }

    /// Decrypts `content` in place; false when it, its place or its header are not what was sealed.
    pub(super) fn open(&self, number: u32, aad: &[u8], content: &mut [u8], tag: &[u8; 16]) -> bool {
        self.0
            .decrypt_inout_detached(&nonce(number).into(), aad, content.into(), &(*tag).into())
            .is_ok()
    }
}

fn nonce(number: u32) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[..4].copy_from_slice(&number.to_le_bytes());
    nonce
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::units::Timestamp;

    #[test]
    fn a_wrapped_key_opens_with_its_own_key_only() {
        let clock = ManualClock::new(Timestamp(0), 1);
        let key = VolumeKey::generate(&clock);
        let wrapping = WrappingKey::from_bytes([1; 32]);
        let mut wrapped = wrapping.wrap(&key, &clock);
        assert_eq!(wrapping.unwrap(&wrapped, "k").expect("opens"), key);
        let other = WrappingKey::from_bytes([2; 32]);
        assert_eq!(other.unwrap(&wrapped, "k").expect_err("other").kind(), ErrorKind::WrongKey);
        assert_eq!(other.unwrap(&wrapped[1..], "k").expect_err("short").kind(), ErrorKind::Corrupt);
        wrapped[40] ^= 1;
        assert!(wrapping.unwrap(&wrapped, "k").is_err());
        assert!(!format!("{key:?} {wrapping:?}").contains("[1"));
    }

    #[test]
    fn key_files_are_raw_or_hexadecimal() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("key");
        std::fs::write(&path, [9; 32]).expect("write");
        let raw = WrappingKey::from_file(&path).expect("raw");
        std::fs::write(&path, format!("{}\n", "09".repeat(32))).expect("write");
        assert!(WrappingKey::from_file(&path).expect("hexadecimal") == raw);
        for text in ["", "abc", &"zz".repeat(32)] {
            std::fs::write(&path, text).expect("write");
            let error = WrappingKey::from_file(&path).expect_err("bad");
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
        }
    }
}
