//! Wraps volume keys with a key-encryption key, which can change without rewriting data.
//!
//! A wrapped key names its key-encryption key, by an id that reveals nothing about that key. It is
//! bound to its volume, to that volume's properties and to the key that it stands for, so it does
//! not open in the place of another. Wrapping is XChaCha20-Poly1305; `core/docs/format.md`
//! specifies the bytes. Versions 1, which neither named nor bound anything, and 2, which was bound
//! to identities alone, are still read.
//!
//! No error and no `Debug` output contains key material.

use std::io::Read;
use std::path::Path;

use chacha20poly1305::XChaCha20Poly1305;
use chacha20poly1305::aead::{AeadInOut, KeyInit};
use zeroize::Zeroizing;

use super::VolumeKey;
use super::cipher::{Secret, nonce_for};
use crate::bytes::parse_hex;
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::macros::shown;
use crate::units::{KeyId, VolumeId};

const KEY_ID_CONTEXT: &str = "hrl 2026-11-21 key-encryption key id v1";
const MAGIC: &[u8; 8] = b"HRLWRAP\x03";
const MAGIC_V2: &[u8; 8] = b"HRLWRAP\x02";
const MAGIC_V1: &[u8; 8] = b"HRLWRAP\x01";
/// Magic, and the id of the key-encryption key.
const HEAD_BYTES: usize = 8 + 16;
const WRAPPED_BYTES: usize = HEAD_BYTES + ENCRYPTED_BYTES;
const WRAPPED_V1_BYTES: usize = 8 + ENCRYPTED_BYTES;
/// Nonce, key and tag.
const ENCRYPTED_BYTES: usize = 24 + 32 + 16;
/// Most bytes that are read of a key's text.
const KEY_TEXT_BYTES_MAX: u64 = 4096;

/// What a wrapped key is bound to: it opens for nothing else.
#[derive(Clone, Copy, Debug)]
pub struct Binding<'a> {
    /// The volume.
    pub volume: VolumeId,
    /// What is known of the volume where the key is stored, in any fixed form. Keys of version 2
    /// are not bound to it.
    pub properties: &'a [u8],
}

/// Key-encryption key: wraps the keys of volumes.
#[derive(Clone, PartialEq, Eq)]
pub struct WrappingKey(Secret);

impl WrappingKey {
    /// Makes a key from its bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes.into())
    }

    /// Parses a key from a file, a command or a variable: 32 raw bytes, or 64 hexadecimal digits
    /// with white space around them. Otherwise `InvalidInput`; the error names `origin` and no byte
    /// of `content`.
    pub fn from_text(content: &[u8], origin: &str) -> Result<Self> {
        if let Ok(raw) = content.try_into() {
            return Ok(Self::from_bytes(raw));
        }
        let text = std::str::from_utf8(content).ok();
        text.and_then(|text| parse_hex(text.trim())).map(Self::from_bytes).ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, "read key", origin)
                .expected("32 bytes or 64 hexadecimal digits")
                .found(format_args!("{} bytes that are not", content.len()))
        })
    }

    /// Reads a key file, as [`WrappingKey::from_text`] understands it.
    pub fn from_file(path: &Path) -> Result<Self> {
        let io = |error| Error::io("read key file", path.display(), error);
        // As large as it may get, so that no copy is left behind.
        let mut content = Zeroizing::new(Vec::with_capacity(KEY_TEXT_BYTES_MAX as usize + 1));
        let file = std::fs::File::open(path).map_err(io)?;
        // Reads at most one byte past the limit, so that an endless device is refused too.
        file.take(KEY_TEXT_BYTES_MAX + 1).read_to_end(&mut content).map_err(io)?;
        Self::from_text(&content, &path.display().to_string())
    }

    /// Returns the name of the key, which reveals nothing about it.
    pub fn id(&self) -> KeyId {
        let hash = blake3::derive_key(KEY_ID_CONTEXT, &*self.0);
        KeyId(hash[..16].try_into().expect("16 bytes"))
    }

    /// Derives a key for one purpose. `context` is unique to it and never changes: a sentence with
    /// a date. The derived key reveals nothing about this one.
    pub fn derive(&self, context: &'static str) -> [u8; 32] {
        blake3::derive_key(context, &*self.0)
    }

    /// Wraps the key of a volume for storage beside it.
    pub fn wrap(&self, key: &VolumeKey, to: &Binding<'_>, clock: &dyn Clock) -> Vec<u8> {
        let wrapped = [&MAGIC[..], &self.id().0].concat();
        let aad = bound_to(&wrapped, to.volume, key.id(), to.properties);
        let nonce = nonce_for(&self.0, &[&aad, key.as_bytes()], clock);
        let mut secret = *key.as_bytes();
        let tag = XChaCha20Poly1305::new(&(*self.0).into())
            .encrypt_inout_detached(&nonce.into(), &aad, (&mut secret[..]).into())
            .expect("32 bytes are far below the limit of the cipher");
        [&wrapped[..], &nonce, &secret, &tag].concat()
    }

    /// Unwraps the key `id` from `wrapped`, the content of `object`.
    ///
    /// `WrongKey` if another key wrapped it; the error names both if the bytes do. `Corrupt` if the
    /// bytes are no wrapped key, were altered, or are bound to something else.
    pub fn unwrap(
        &self,
        wrapped: &[u8],
        to: &Binding<'_>,
        id: KeyId,
        object: &str,
    ) -> Result<VolumeKey> {
        let key = match wrapped.first_chunk::<8>() {
            Some(MAGIC) if wrapped.len() == WRAPPED_BYTES => {
                self.open_bound(wrapped, to, id, object)?
            }
            Some(MAGIC_V2) if wrapped.len() == WRAPPED_BYTES => {
                self.open_bound(wrapped, &Binding { properties: &[], ..*to }, id, object)?
            }
            Some(MAGIC_V1) if wrapped.len() == WRAPPED_V1_BYTES => {
                self.open(&wrapped[8..], MAGIC_V1).ok_or_else(|| {
                    Error::new(ErrorKind::WrongKey, "unwrap key", object)
                        .message("the key-encryption key given is not the one that wrapped it")
                        .found(format_args!("key-encryption key {}", self.id()))
                })?
            }
            _ => {
                return Err(Error::new(ErrorKind::Corrupt, "unwrap key", object)
                    .expected(format_args!("{WRAPPED_BYTES} bytes that begin with HRLWRAP"))
                    .found(format_args!("{} bytes", wrapped.len())));
            }
        };
        if key.id() == id {
            return Ok(key);
        }
        Err(Error::new(ErrorKind::Corrupt, "unwrap key", object)
            .expected(format_args!("volume key {id}"))
            .found(format_args!("volume key {}", key.id())))
    }

    fn open_bound(
        &self,
        wrapped: &[u8],
        to: &Binding<'_>,
        id: KeyId,
        object: &str,
    ) -> Result<VolumeKey> {
        let (head, encrypted) = wrapped.split_at(HEAD_BYTES);
        let wrapped_by = KeyId(head[8..].try_into().expect("16 bytes"));
        if wrapped_by != self.id() {
            return Err(wrong_key(object, &[wrapped_by], self.id()));
        }
        self.open(encrypted, &bound_to(head, to.volume, id, to.properties)).ok_or_else(|| {
            Error::new(ErrorKind::Corrupt, "unwrap key", object)
                .expected(format_args!(
                    "key {id} of volume {}, with the name and properties that it was wrapped for",
                    to.volume
                ))
                .found("another key, altered bytes, or a volume with another name or record")
        })
    }

    /// Decrypts a key from nonce, key and tag.
    fn open(&self, encrypted: &[u8], aad: &[u8]) -> Option<VolumeKey> {
        let nonce: [u8; 24] = encrypted[..24].try_into().expect("24 bytes");
        let mut key: [u8; 32] = encrypted[24..56].try_into().expect("32 bytes");
        let tag: [u8; 16] = encrypted[56..].try_into().expect("16 bytes");
        XChaCha20Poly1305::new(&(*self.0).into())
            .decrypt_inout_detached(&nonce.into(), aad, (&mut key[..]).into(), &tag.into())
            .ok()?;
        Some(VolumeKey::from_bytes(key))
    }
}

shown!(WrappingKey, value => value.id());

/// Makes the error of a key-encryption key that is not one of those that `object` needs.
pub(crate) fn wrong_key(object: &str, needed: &[KeyId], given: KeyId) -> Error {
    let needed: Vec<_> = needed.iter().map(ToString::to_string).collect();
    Error::new(ErrorKind::WrongKey, "unwrap key", object)
        .expected(format_args!("key-encryption key {}", needed.join(" or ")))
        .found(format_args!("key-encryption key {given}"))
}

fn bound_to(head: &[u8], volume: VolumeId, id: KeyId, properties: &[u8]) -> Vec<u8> {
    [head, &volume.0, &id.0, properties].concat()
}

/// Returns a key as version 2 wrapped it. Feature `testing`.
#[cfg(any(test, feature = "testing"))]
pub fn wrap_version_2(
    wrapping: &WrappingKey,
    key: &VolumeKey,
    volume: VolumeId,
    clock: &dyn Clock,
) -> Vec<u8> {
    let nonce = nonce_for(&wrapping.0, &[key.as_bytes()], clock);
    let head = [&MAGIC_V2[..], &wrapping.id().0].concat();
    let mut secret = *key.as_bytes();
    let tag = XChaCha20Poly1305::new(&(*wrapping.0).into())
        .encrypt_inout_detached(
            &nonce.into(),
            &bound_to(&head, volume, key.id(), &[]),
            (&mut secret[..]).into(),
        )
        .expect("32 bytes are far below the limit of the cipher");
    [&head[..], &nonce, &secret, &tag].concat()
}

/// Wraps a key as version 1 did. Feature `testing`.
#[cfg(any(test, feature = "testing"))]
pub fn wrap_version_1(wrapping: &WrappingKey, key: &VolumeKey, clock: &dyn Clock) -> Vec<u8> {
    let nonce = nonce_for(&wrapping.0, &[key.as_bytes()], clock);
    let mut secret = *key.as_bytes();
    let tag = XChaCha20Poly1305::new(&(*wrapping.0).into())
        .encrypt_inout_detached(&nonce.into(), MAGIC_V1, (&mut secret[..]).into())
        .expect("32 bytes are far below the limit of the cipher");
    [&MAGIC_V1[..], &nonce, &secret, &tag].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::units::Timestamp;

    const PLACE: Binding<'static> = Binding { volume: VolumeId([4; 16]), properties: b"disk a" };

    fn kind_of(result: Result<VolumeKey>) -> ErrorKind {
        result.expect_err("refused").kind()
    }

    #[test]
    fn promise_10_a_wrapped_key_opens_with_its_own_key_in_its_own_place_only() {
        let clock = ManualClock::new(Timestamp(0), 1);
        let (key, other_key) = (VolumeKey::generate(&clock), VolumeKey::generate(&clock));
        let (wrapping, other) =
            (WrappingKey::from_bytes([1; 32]), WrappingKey::from_bytes([2; 32]));
        let wrapped = wrapping.wrap(&key, &PLACE, &clock);
        assert_eq!(wrapping.unwrap(&wrapped, &PLACE, key.id(), "k").expect("opens"), key);
        let error = other.unwrap(&wrapped, &PLACE, key.id(), "k").expect_err("other");
        assert_eq!(error.kind(), ErrorKind::WrongKey);
        for id in [wrapping.id(), other.id()] {
            assert!(error.to_string().contains(&id.to_string()), "{error}");
        }
        for elsewhere in [
            Binding { volume: VolumeId([5; 16]), ..PLACE },
            Binding { properties: b"disk b", ..PLACE },
            Binding { properties: b"", ..PLACE },
        ] {
            let refused = wrapping.unwrap(&wrapped, &elsewhere, key.id(), "k");
            assert_eq!(kind_of(refused), ErrorKind::Corrupt, "{elsewhere:?}");
        }
        assert_eq!(
            kind_of(wrapping.unwrap(&wrapped, &PLACE, other_key.id(), "k")),
            ErrorKind::Corrupt
        );
        for at in 0..wrapped.len() {
            let mut altered = wrapped.clone();
            altered[at] ^= 1;
            wrapping.unwrap(&altered, &PLACE, key.id(), "k").expect_err("a flipped bit");
            wrapping.unwrap(&wrapped[..at], &PLACE, key.id(), "k").expect_err("cut off");
        }
        assert!(!format!("{key:?} {wrapping:?}").contains("[1"));
    }

    #[test]
    fn promise_10_two_keys_are_wrapped_under_two_nonces_although_random_bytes_repeat() {
        let wrapping = WrappingKey::from_bytes([1; 32]);
        let [one, two] = [2, 3].map(|byte| {
            let clock = ManualClock::new(Timestamp(0), 1);
            wrapping.wrap(&VolumeKey::from_bytes([byte; 32]), &PLACE, &clock)
        });
        assert_ne!(one[HEAD_BYTES..][..24], two[HEAD_BYTES..][..24]);
        let again = ManualClock::new(Timestamp(0), 2);
        let again = wrapping.wrap(&VolumeKey::from_bytes([2; 32]), &PLACE, &again);
        assert_ne!(one[HEAD_BYTES..][..24], again[HEAD_BYTES..][..24]);
    }

    #[test]
    fn keys_wrapped_by_version_1_open_with_the_right_key_only() {
        let clock = ManualClock::new(Timestamp(0), 1);
        let (key, other_key) = (VolumeKey::generate(&clock), VolumeKey::generate(&clock));
        let wrapping = WrappingKey::from_bytes([1; 32]);
        let wrapped = wrap_version_1(&wrapping, &key, &clock);
        assert_eq!(wrapping.unwrap(&wrapped, &PLACE, key.id(), "k").expect("opens"), key);
        assert_eq!(
            kind_of(WrappingKey::from_bytes([2; 32]).unwrap(&wrapped, &PLACE, key.id(), "k")),
            ErrorKind::WrongKey
        );
        assert_eq!(
            kind_of(wrapping.unwrap(&wrapped, &PLACE, other_key.id(), "k")),
            ErrorKind::Corrupt
        );
    }

    #[test]
    fn keys_wrapped_by_version_2_open_for_their_volume_whatever_its_properties() {
        let clock = ManualClock::new(Timestamp(0), 1);
        let (key, wrapping) = (VolumeKey::generate(&clock), WrappingKey::from_bytes([1; 32]));
        let wrapped = wrap_version_2(&wrapping, &key, PLACE.volume, &clock);
        assert_eq!(wrapping.unwrap(&wrapped, &PLACE, key.id(), "k").expect("opens"), key);
        let mut newer = wrapped.clone();
        newer[7] = 3;
        let other = Binding { volume: VolumeId([5; 16]), ..PLACE };
        for (bytes, to) in [(&newer, &PLACE), (&wrapped, &other)] {
            assert_eq!(kind_of(wrapping.unwrap(bytes, to, key.id(), "k")), ErrorKind::Corrupt);
        }
    }

    #[test]
    fn keys_are_raw_or_hexadecimal_and_errors_do_not_show_them() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("key");
        std::fs::write(&path, [9; 32]).expect("write");
        let raw = WrappingKey::from_file(&path).expect("raw");
        std::fs::write(&path, format!("{}\n", "09".repeat(32))).expect("write");
        assert!(WrappingKey::from_file(&path).expect("hexadecimal") == raw);
        let text = "09".repeat(32);
        assert!(WrappingKey::from_text(text.as_bytes(), "variable").expect("text") == raw);
        for text in ["", "abc", &"zz".repeat(32), &"0a".repeat(33), &"0".repeat(100_000)] {
            std::fs::write(&path, text).expect("write");
            let error = WrappingKey::from_file(&path).expect_err("bad");
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            let shown = text.len() > 2 && format!("{error} {error:?}").contains(text);
            assert!(!shown, "{error}");
        }
    }
}
