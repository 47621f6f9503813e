//! The log of a run in the vault: numbered objects `plans/RUN/NNNNNN` made with put-if-absent,
//! beside the approvals.
//!
//! A runner that finds its next record already written has lost the run: `Fenced`. With a
//! key-encryption key every object is encrypted with a key derived from it and bound to the
//! object's name. Without the key no one can read the output of commands or make a runner do
//! something else. Runs from before a rotation of the key need the old key.

use std::collections::BTreeSet;
use std::sync::Arc;

use chacha20poly1305::XChaCha20Poly1305;
use chacha20poly1305::aead::{AeadInOut, KeyInit};

use super::fields::is_name;
use hrl::journal::{WrappingKey, nonce_for};
use hrl::store::{PutOutcome, Store, get_all};
use hrl::vault::Vault;
use hrl::vault::layout::PLANS;
use hrl::{Clock, Error, ErrorKind, KeyId, Result};
use serde_json::Value;

/// Most records of a run.
const RECORDS_MAX: u32 = 999_999;
/// Largest record: the first contains the plan.
const RECORD_BYTES_MAX: u64 = 8 << 20;
const MAGIC: &[u8; 8] = b"HRLPLAN\x01";
const KEY_CONTEXT: &str = "hrl 2026-11-21 records of plans key v1";
/// Length of magic and key id; nonce, tag and text follow.
const HEAD_BYTES: usize = 8 + 16;
/// Longest identity of a run.
const RUN_BYTES_MAX: usize = 128;

/// Returns the identities of a vault's runs.
pub fn runs(vault: &Vault) -> Result<Vec<String>> {
    let objects = vault.store().list(PLANS)?;
    let names: BTreeSet<_> = objects
        .iter()
        .filter_map(|info| Some(info.name.strip_prefix(PLANS)?.split_once('/')?.0.to_owned()))
        .collect();
    Ok(names.into_iter().collect())
}

/// The records of one run.
#[derive(Clone)]
pub(super) struct Log {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    key: Option<WrappingKey>,
    run: String,
}

impl Log {
    pub(super) fn new(vault: &Vault, run: &str) -> Result<Self> {
        if !is_name(run, RUN_BYTES_MAX) {
            return Err(Error::new(ErrorKind::InvalidInput, "name run", run)
                .expected("1 to 128 of A-Z a-z 0-9 . _ - that do not begin with a dot"));
        }
        Ok(Self {
            store: vault.store().clone(),
            clock: vault.clock().clone(),
            key: vault.wrapping_key().cloned(),
            run: run.to_owned(),
        })
    }

    pub(super) fn run(&self) -> &str {
        &self.run
    }

    /// Returns whether a key proves the records.
    pub(super) fn is_sealed(&self) -> bool {
        self.key.is_some()
    }

    /// Returns all records in order. `NotFound` if there is no such run.
    pub(super) fn read(&self) -> Result<Vec<Value>> {
        let mut records = Vec::new();
        let listed = self.store.list(&format!("{PLANS}{}/", self.run))?;
        while listed.iter().any(|info| info.name == self.record(records.len() as u32 + 1)) {
            records.push(self.get(&self.record(records.len() as u32 + 1))?);
        }
        if records.is_empty() {
            return Err(Error::new(ErrorKind::NotFound, "find run of a plan", &self.run));
        }
        Ok(records)
    }

    /// Writes record `number`; `AlreadyExists` if it exists.
    pub(super) fn append(&self, number: u32, record: &Value) -> Result<()> {
        if number > RECORDS_MAX {
            return Err(Error::new(ErrorKind::Full, "record run", &self.run)
                .expected(format_args!("at most {RECORDS_MAX} records")));
        }
        self.put(&self.record(number), record)
    }

    /// Returns whether record `number` exists.
    pub(super) fn has(&self, number: u32) -> Result<bool> {
        Ok(self.store.head(&self.record(number))?.is_some())
    }

    /// Records a decision, once for each time that a step waits; `AlreadyExists` if there is one.
    pub(super) fn put_approval(&self, step: u32, waited: u32, approval: &Value) -> Result<()> {
        self.put(&self.approval(step, waited), approval)
    }

    /// Returns the decision, if there is one.
    pub(super) fn approval_of(&self, step: u32, waited: u32) -> Result<Option<Value>> {
        let object = self.approval(step, waited);
        if self.store.head(&object)?.is_none() {
            return Ok(None);
        }
        self.get(&object).map(Some)
    }

    pub(super) fn bad(&self, number: u32, expected: &str) -> Error {
        Error::new(ErrorKind::Corrupt, "read run of a plan", self.record(number)).expected(expected)
    }

    fn record(&self, number: u32) -> String {
        format!("{PLANS}{}/{number:06}", self.run)
    }

    fn approval(&self, step: u32, waited: u32) -> String {
        format!("{PLANS}{}/approval-{step:04}-{waited:04}", self.run)
    }

    fn put(&self, object: &str, value: &Value) -> Result<()> {
        let text = value.to_string();
        let bytes = match &self.key {
            None => text.into_bytes(),
            Some(key) => encrypt(key, object, text.into_bytes(), &*self.clock),
        };
        match self.store.put(object, &bytes)? {
            PutOutcome::Created => Ok(()),
            PutOutcome::AlreadyExists => {
                Err(Error::new(ErrorKind::AlreadyExists, "record run of a plan", object))
            }
        }
    }

    fn get(&self, object: &str) -> Result<Value> {
        let bytes = get_all(&*self.store, object, RECORD_BYTES_MAX)?;
        let text = decrypt(self.key.as_ref(), object, bytes)?;
        let value = serde_json::from_slice(&text);
        value.map_err(|error| {
            Error::new(ErrorKind::Corrupt, "read run of a plan", object)
                .expected("JSON")
                .found(format_args!("{} bytes of something else", text.len()))
                .caused_by(error)
        })
    }
}

fn encrypt(key: &WrappingKey, object: &str, mut text: Vec<u8>, clock: &dyn Clock) -> Vec<u8> {
    let head = [&MAGIC[..], &key.id().0].concat();
    let aad = [&head, object.as_bytes()].concat();
    let key = key.derive(KEY_CONTEXT);
    let nonce = nonce_for(&key, &[&aad, &text], clock);
    let tag = XChaCha20Poly1305::new(&key.into())
        .encrypt_inout_detached(&nonce.into(), &aad, (&mut text[..]).into())
        .expect("a record is far below the limit of the cipher");
    [&head[..], &nonce, &tag, &text].concat()
}

fn decrypt(key: Option<&WrappingKey>, object: &str, bytes: Vec<u8>) -> Result<Vec<u8>> {
    let refused = || Error::new(ErrorKind::WrongKey, "read run of a plan", object);
    let is_encrypted = bytes.starts_with(MAGIC) && bytes.len() >= HEAD_BYTES + 24 + 16;
    let Some(key) = key else {
        return if is_encrypted {
            Err(refused().message("the run is encrypted and no key-encryption key was given"))
        } else {
            Ok(bytes)
        };
    };
    if !is_encrypted {
        return Err(refused().message("the run is not encrypted; open the vault without a key"));
    }
    let (head, rest) = bytes.split_at(HEAD_BYTES);
    let encrypted_by = KeyId(head[8..].try_into().expect("16 bytes"));
    if encrypted_by != key.id() {
        return Err(refused()
            .expected(format_args!("key-encryption key {encrypted_by}"))
            .found(format_args!("key-encryption key {}", key.id())));
    }
    let nonce: [u8; 24] = rest[..24].try_into().expect("24 bytes");
    let tag: [u8; 16] = rest[24..40].try_into().expect("16 bytes");
    let mut text = rest[40..].to_vec();
    XChaCha20Poly1305::new(&key.derive(KEY_CONTEXT).into())
        .decrypt_inout_detached(
            &nonce.into(),
            &[head, object.as_bytes()].concat(),
            (&mut text[..]).into(),
            &tag.into(),
        )
        .map_err(|_| {
            Error::new(ErrorKind::Corrupt, "read run of a plan", object)
                .expected("the record that was encrypted here")
                .found("another, or altered bytes")
        })?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hrl::{ManualClock, Timestamp};

    #[test]
    fn promise_10_two_records_have_two_nonces_although_random_bytes_repeat() {
        let key = WrappingKey::from_text(&[1; 32], "test").expect("32 bytes");
        let nonce = |text: &str| {
            let clock = ManualClock::new(Timestamp(0), 1);
            let bytes = encrypt(&key, "plans/run/000001", text.into(), &clock);
            let opened = decrypt(Some(&key), "plans/run/000001", bytes.clone()).expect("sound");
            assert_eq!(opened, text.as_bytes());
            bytes[HEAD_BYTES..][..24].to_vec()
        };
        assert_ne!(nonce("one"), nonce("two"));
    }
}
