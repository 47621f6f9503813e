//! Keys: the volume key that encrypts segments, and the ring that readers search.
//!
//! Each segment has its own key, derived from the volume key and the whole segment header. The
//! header contains a random salt, so no nonce (the frame's number) repeats under one key; an
//! altered header gives a key that decrypts nothing. Derivation is BLAKE3's `derive_key` mode,
//! encryption is ChaCha20-Poly1305 (RFC 8439). `wrapping` stores keys.

use std::fmt;

use chacha20poly1305::ChaCha20Poly1305;
use chacha20poly1305::aead::{AeadInOut, KeyInit};

use crate::clock::{Clock, random_bytes};
use crate::units::KeyId;

const SEGMENT_CONTEXT: &str = "hrl 2026-11-21 segment key v1";
const KEY_ID_CONTEXT: &str = "hrl 2026-11-21 volume key id v1";

/// Secret of one volume. Every segment key and the catalog key derive from it.
#[derive(Clone, PartialEq, Eq)]
pub struct VolumeKey([u8; 32]);

impl VolumeKey {
    /// Makes a random key.
    pub fn generate(clock: &dyn Clock) -> Self {
        Self(random_bytes(clock))
    }

    /// Makes a key from its bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub(super) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Returns the name of the key, which reveals nothing about it.
    pub fn id(&self) -> KeyId {
        let hash = self.derive(KEY_ID_CONTEXT, &[]);
        KeyId(hash[..16].try_into().expect("16 bytes"))
    }

    /// Derives a key. `context` is a constant, unique to the use.
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
    /// Adds a key and makes it the newest.
    pub fn insert(&mut self, key: VolumeKey) {
        self.keys.retain(|known| *known != key);
        self.keys.push(key);
    }

    /// Returns the key of this name.
    pub fn find(&self, id: KeyId) -> Option<&VolumeKey> {
        self.keys.iter().find(|key| key.id() == id)
    }

    /// Returns the key that encrypts new segments.
    pub fn newest(&self) -> Option<&VolumeKey> {
        self.keys.last()
    }
}

impl From<VolumeKey> for KeyRing {
    fn from(key: VolumeKey) -> Self {
        Self { keys: vec![key] }
    }
}

/// Encrypts and decrypts the frames of one segment.
pub(super) struct SegmentCipher(ChaCha20Poly1305);

impl SegmentCipher {
    /// Derives the key of the segment with this header.
    pub(super) fn new(key: &VolumeKey, header: &[u8]) -> Self {
        Self(ChaCha20Poly1305::new(&key.derive(SEGMENT_CONTEXT, header).into()))
    }

    /// Encrypts `content` in place and returns its tag.
    pub(super) fn encrypt(&self, number: u32, aad: &[u8], content: &mut [u8]) -> [u8; 16] {
        self.0
            .encrypt_inout_detached(&nonce(number).into(), aad, content.into())
            .expect("a frame is far below the limit of the cipher")
            .into()
    }

    /// Decrypts `content` in place; returns false if it, its place or its header was altered.
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
