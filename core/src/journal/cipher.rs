//! Keys: the volume key that encrypts segments, and the ring that readers search.
//!
//! Each segment has its own key, derived from the volume key and the whole segment header: an
//! altered header gives a key that decrypts nothing. Derivation is BLAKE3's `derive_key` mode.
//!
//! Nothing here relies on random numbers to be fresh. A machine that is resumed twice from one
//! memory snapshot goes on twice with the same salt, the same frame numbers, and perhaps the same
//! generator. So the tag of a frame is computed from its content, and the key stream from the tag.
//! Nonces of whole objects mix random bytes with what they encrypt. `wrapping` stores keys.

use std::ops::Deref;
use std::sync::Arc;

use chacha20::XChaCha20;
use chacha20::cipher::{KeyIvInit, StreamCipher};
use chacha20poly1305::ChaCha20Poly1305;
use chacha20poly1305::aead::{AeadInOut, KeyInit};
use zeroize::Zeroize;

use super::format::Aead;
use crate::clock::{Clock, random_bytes};
use crate::macros::shown;
use crate::sync::Mutex;
use crate::units::KeyId;

const SEGMENT_CONTEXT: &str = "hrl 2026-11-21 segment key v1";
const KEY_ID_CONTEXT: &str = "hrl 2026-11-21 volume key id v1";
const STREAM_CONTEXT: &str = "hrl 2026-11-30 frame stream key v1";
const TAG_CONTEXT: &str = "hrl 2026-11-30 frame tag key v1";
const NONCE_CONTEXT: &str = "hrl 2026-11-30 nonce v1";

/// The bytes of a key. They stay in one place, and are overwritten when they are dropped.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Secret(Box<[u8; 32]>);

impl From<[u8; 32]> for Secret {
    fn from(mut bytes: [u8; 32]) -> Self {
        let secret = Self(Box::new(bytes));
        bytes.zeroize();
        secret
    }
}

impl Deref for Secret {
    type Target = [u8; 32];

    fn deref(&self) -> &[u8; 32] {
        &self.0
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// Secret of one volume. Every segment key and the catalog key derive from it.
#[derive(Clone, PartialEq, Eq)]
pub struct VolumeKey(Secret);

impl VolumeKey {
    /// Makes a random key.
    pub fn generate(clock: &dyn Clock) -> Self {
        Self(random_bytes(clock).into())
    }

    /// Makes a key from its bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes.into())
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
        hasher.update(&*self.0);
        hasher.update(salt);
        *hasher.finalize().as_bytes()
    }
}

shown!(VolumeKey, value => value.id());

/// The keys of a volume, by generation: the first is of generation 1, and each rotation draws one of
/// the next. An empty ring reads segments that are not encrypted.
///
/// Clones share the keys, so that a writer encrypts with the key that its reader has learned of.
#[derive(Clone, Debug, Default)]
pub struct KeyRing(Arc<Mutex<Vec<(u32, VolumeKey)>>>);

impl KeyRing {
    /// Adds the key of a generation. Of two in one generation the one of higher id is newer.
    pub fn insert(&self, generation: u32, key: VolumeKey) {
        let mut keys = self.0.lock();
        let place = keys.binary_search_by_key(&(generation, key.id().0), |(of, k)| (*of, k.id().0));
        if let Err(place) = place {
            keys.insert(place, (generation, key));
        }
    }

    /// Returns the key of this name.
    pub fn find(&self, id: KeyId) -> Option<VolumeKey> {
        self.0.lock().iter().map(|(_, key)| key).find(|key| key.id() == id).cloned()
    }

    /// Returns the key that encrypts what is new.
    pub fn newest(&self) -> Option<VolumeKey> {
        self.0.lock().last().map(|(_, key)| key.clone())
    }

    /// Returns the keys and their generations, oldest first.
    pub fn all(&self) -> Vec<(u32, VolumeKey)> {
        self.0.lock().clone()
    }
}

impl From<VolumeKey> for KeyRing {
    fn from(key: VolumeKey) -> Self {
        let ring = Self::default();
        ring.insert(1, key);
        ring
    }
}

/// Returns a nonce of XChaCha20-Poly1305 for encrypting `content` under `key`. Wherever random
/// bytes repeat, different content still gets a different nonce.
pub fn nonce_for(key: &[u8; 32], content: &[&[u8]], clock: &dyn Clock) -> [u8; 24] {
    let mut hasher = blake3::Hasher::new_derive_key(NONCE_CONTEXT);
    hasher.update(key).update(&random_bytes::<24>(clock));
    content.iter().for_each(|part| {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
    });
    hasher.finalize().as_bytes()[..24].try_into().expect("24 bytes")
}

/// Encrypts and decrypts the frames of one segment.
pub(super) enum SegmentCipher {
    /// The nonce is the frame's number: for reading segments of version 1.0.
    Numbered(ChaCha20Poly1305),
    /// The nonce is the tag, which is a keyed hash of the content.
    Synthetic { stream: Secret, tag: Secret },
}

impl SegmentCipher {
    /// Derives the key of the segment with this header; `None` if its frames are not encrypted.
    pub(super) fn new(key: &VolumeKey, header: &[u8], aead: Aead) -> Option<Self> {
        let key = Secret::from(key.derive(SEGMENT_CONTEXT, header));
        match aead {
            Aead::None => None,
            Aead::ChaCha20Poly1305 => Some(Self::Numbered(ChaCha20Poly1305::new(&(*key).into()))),
            Aead::ChaCha20Blake3 => Some(Self::Synthetic {
                stream: blake3::derive_key(STREAM_CONTEXT, &*key).into(),
                tag: blake3::derive_key(TAG_CONTEXT, &*key).into(),
            }),
        }
    }

    /// Encrypts `content` in place and returns its tag.
    pub(super) fn encrypt(&self, number: u32, aad: &[u8], content: &mut [u8]) -> [u8; 16] {
        match self {
            Self::Numbered(cipher) => cipher
                .encrypt_inout_detached(&numbered(number).into(), aad, content.into())
                .expect("a frame is far below the limit of the cipher")
                .into(),
            Self::Synthetic { stream, tag } => {
                let hash = content_hash(tag, number, aad, content);
                let tag = hash.as_bytes()[..16].try_into().expect("16 bytes");
                apply_stream(stream, number, &tag, content);
                tag
            }
        }
    }

    /// Decrypts `content` in place; returns false if it, its place or its header was altered.
    pub(super) fn decrypt(
        &self,
        number: u32,
        aad: &[u8],
        content: &mut [u8],
        tag: &[u8; 16],
    ) -> bool {
        match self {
            Self::Numbered(cipher) => cipher
                .decrypt_inout_detached(
                    &numbered(number).into(),
                    aad,
                    content.into(),
                    &(*tag).into(),
                )
                .is_ok(),
            Self::Synthetic { stream, tag: key } => {
                apply_stream(stream, number, tag, content);
                let right = content_hash(key, number, aad, content);
                // `blake3::Hash` compares in constant time.
                let mut found = *right.as_bytes();
                found[..16].copy_from_slice(tag);
                right == blake3::Hash::from(found)
            }
        }
    }
}

fn content_hash(key: &[u8; 32], number: u32, aad: &[u8], content: &[u8]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new_keyed(key);
    hasher.update(&number.to_le_bytes()).update(aad).update(content).finalize()
}

fn apply_stream(key: &[u8; 32], number: u32, tag: &[u8; 16], content: &mut [u8]) {
    let mut nonce = [0; 24];
    nonce[..16].copy_from_slice(tag);
    nonce[16..20].copy_from_slice(&number.to_le_bytes());
    XChaCha20::new(&(*key).into(), &nonce.into()).apply_keystream(content);
}

fn numbered(number: u32) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[..4].copy_from_slice(&number.to_le_bytes());
    nonce
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn promise_10_frames_open_in_their_own_place_with_their_own_header_only() {
        let key = VolumeKey::from_bytes([1; 32]);
        for aead in [Aead::ChaCha20Poly1305, Aead::ChaCha20Blake3] {
            let cipher = SegmentCipher::new(&key, &[2; 256], aead).expect("encrypted");
            let plain = [5; 100];
            let mut content = plain;
            let tag = cipher.encrypt(7, &[3; 40], &mut content);
            let opens = |number: u32, aad: &[u8], content: &[u8], tag: &[u8; 16]| {
                let mut content = content.to_vec();
                cipher.decrypt(number, aad, &mut content, tag) && content == plain
            };
            assert!(opens(7, &[3; 40], &content, &tag), "{aead:?}");
            assert!(!opens(8, &[3; 40], &content, &tag), "{aead:?}");
            for at in 0..40 {
                let mut altered = [3; 40];
                altered[at] ^= 1;
                assert!(!opens(7, &altered, &content, &tag), "{aead:?}");
            }
            for at in 0..content.len() {
                let mut altered = content;
                altered[at] ^= 1;
                assert!(!opens(7, &[3; 40], &altered, &tag), "{aead:?}");
            }
            for at in 0..tag.len() {
                let mut altered = tag;
                altered[at] ^= 0x80;
                assert!(!opens(7, &[3; 40], &content, &altered), "{aead:?}");
            }
            assert!(!opens(7, &[3; 40], &content[..99], &tag), "{aead:?}");
            let other = SegmentCipher::new(&key, &[4; 256], aead).expect("encrypted");
            assert!(!other.decrypt(7, &[3; 40], &mut content.clone(), &tag), "{aead:?}");
        }
    }
}
