//! Keys: the volume key that seals segments, the key-encryption key that wraps it, and the ring that readers search.

#![allow(unused, missing_docs, clippy::all, clippy::pedantic)] // stub
use crate::clock::Clock;
use crate::error::Result;
use crate::units::KeyId;
use std::path::Path;

/// Secret of one volume; every segment key and the catalog key derive from it.
#[derive(Clone)]
pub struct VolumeKey([u8; 32]);
impl VolumeKey {
    pub fn generate(clock: &dyn Clock) -> Self {
        todo!()
    }
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        todo!()
    }
    pub fn id(&self) -> KeyId {
        todo!()
    }
    /// Derives a key for `context` (a constant sentence) and `salt`.
    pub fn derive(&self, context: &'static str, salt: &[u8]) -> [u8; 32] {
        todo!()
    }
}

/// Key-encryption key: wraps volume keys so that it can change without rewriting data.
#[derive(Clone)]
pub struct WrappingKey([u8; 32]);
impl WrappingKey {
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        todo!()
    }
    /// 32 raw bytes or 64 hexadecimal digits (and a newline). `InvalidInput` otherwise.
    pub fn from_file(path: &Path) -> Result<Self> {
        todo!()
    }
    pub fn wrap(&self, key: &VolumeKey, clock: &dyn Clock) -> Vec<u8> {
        todo!()
    }
    /// `WrongKey` when it was wrapped with another key, `Corrupt` when the layout is wrong.
    pub fn unwrap(&self, wrapped: &[u8], object: &str) -> Result<VolumeKey> {
        todo!()
    }
}

/// Volume keys by id. An empty ring reads unencrypted segments only.
#[derive(Clone, Default)]
pub struct KeyRing {
    keys: Vec<VolumeKey>,
}
impl KeyRing {
    pub fn insert(&mut self, key: VolumeKey) {
        todo!()
    }
    pub fn find(&self, id: KeyId) -> Option<&VolumeKey> {
        todo!()
    }
    /// The key that new segments are sealed with: the last inserted.
    pub fn newest(&self) -> Option<&VolumeKey> {
        todo!()
    }
}
