//! Keys: the volume key that seals segments, and the ring that readers search.
//!
//! Every segment is sealed with a key of its own, derived from the volume key and the whole segment header (which
//! holds a random salt), so a changed header opens nothing and a nonce, the frame's number, never repeats under one key.
//! Derivation is BLAKE3's `derive_key` mode; sealing is ChaCha20-Poly1305 (RFC 8439). How keys are kept: `wrapping`.

use std::fmt;

use chacha20poly1305::ChaCha20Poly1305;
use chacha20poly1305::aead::{AeadInOut, KeyInit};

use crate::clock::{Clock, random_bytes};
use crate::units::KeyId;

const SEGMENT_CONTEXT: &str = "hrl 2026-11-21 segment key v1";
const KEY_ID_CONTEXT: &str = "hrl 2026-11-21 volume key id v1";

/// Secret of one volume; every segment key and the catalog key derive from it.
#[derive(Clone, PartialEq, Eq)]
pub struct VolumeKey([u8; 32]);

impl VolumeKey {
    /// A new random key.
    pub fn generate(clock: &dyn Clock) -> Self {
        Self(random_bytes(clock))
    }

    /// A key from its bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub(super) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
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
pub(super) struct SegmentCipher(ChaCha20Poly1305);

impl SegmentCipher {
    /// The seal of the segment with this header.
    pub(super) fn new(key: &VolumeKey, header: &[u8]) -> Self {
        Self(ChaCha20Poly1305::new(&key.derive(SEGMENT_CONTEXT, header).into()))
    }

    /// Encrypts `content` in place and gives its tag.
    pub(super) fn encrypt(&self, number: u32, aad: &[u8], content: &mut [u8]) -> [u8; 16] {
        self.0
            .encrypt_inout_detached(&nonce(number).into(), aad, content.into())
            .expect("a frame is far below the limit of the cipher")
            .into()
    }

    /// Decrypts `content` in place; false when it, its place or its header are not what was sealed.
    pub(super) fn decrypt(
        &self,
        number: u32,
        aad: &[u8],
        content: &mut [u8],
        tag: &[u8; 16],
    ) -> bool {
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
