//! The log of a run in the vault: numbered objects `plans/RUN/NNNNNN` made with put-if-absent, beside the approvals.
//!
//! Whoever writes a record that another runner has written already has lost the run: `Fenced`. With a key-encryption key every
//! object is sealed with a key derived from it and bound to its name, so that nobody without the key can read what commands
//! printed, or have a runner do something else; runs from before a rotation of that key open with the old one.

use std::collections::BTreeSet;
use std::sync::Arc;

use chacha20poly1305::XChaCha20Poly1305;
use chacha20poly1305::aead::{AeadInOut, KeyInit};

use hrl::journal::WrappingKey;
use hrl::store::{PutOutcome, Store, get_all};
use hrl::vault::Vault;
use hrl::vault::layout::PLANS;
use hrl::{Clock, Error, ErrorKind, KeyId, Result};
use serde_json::Value;

/// Records of a run at most.
const RECORDS_MAX: u32 = 999_999;
/// Largest record: the first holds the plan.
const RECORD_BYTES_MAX: u64 = 8 << 20;
const MAGIC: &[u8; 8] = b"HRLPLAN\x01";
const KEY_CONTEXT: &str = "hrl 2026-11-21 records of plans key v1";
/// Magic and key id; then nonce, tag and text.
const HEAD_BYTES: usize = 8 + 16;
/// Longest identity of a run.
const RUN_BYTES_MAX: usize = 128;

/// The runs of a vault, by their identities.
pub fn runs(vault: &Vault) -> Result<Vec<String>> {
    let objects = vault.store().list(PLANS)?;
    let names: BTreeSet<_> = objects
        .iter()
        .filter_map(|info| Some(info.name.strip_prefix(PLANS)?.split_once('/')?.0.to_owned()))
        .collect();
    Ok(names.into_iter().collect())
}

/// Where the records of one run are.
#[derive(Clone)]
pub(super) struct Log {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    key: Option<WrappingKey>,
    run: String,
}

impl Log {
    pub(super) fn new(vault: &Vault, run: &str) -> Result<Self> {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        let fits = !run.is_empty() && run.len() <= RUN_BYTES_MAX && !run.starts_with('.');
        if !fits || !run.bytes().all(good) {
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

    /// All records in order. `NotFound` when there is no such run.
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

    /// Writes record `number`; `AlreadyExists` when it is there.
    pub(super) fn append(&self, number: u32, record: &Value) -> Result<()> {
        if number > RECORDS_MAX {
            return Err(Error::new(ErrorKind::Full, "record run", &self.run)
                .expected(format_args!("at most {RECORDS_MAX} records")));
        }
        self.put(&self.record(number), record)
    }

    /// Whether somebody wrote record `number`.
    pub(super) fn has(&self, number: u32) -> Result<bool> {
        Ok(self.store.head(&self.record(number))?.is_some())
    }

    /// Decides about a step, once for each time that it waits; `AlreadyExists` when that was done.
    pub(super) fn put_approval(&self, step: u32, waited: u32, approval: &Value) -> Result<()> {
        self.put(&self.approval(step, waited), approval)
    }

    /// What was decided, if anything.
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
            Some(key) => seal(key, object, text.into_bytes(), &*self.clock),
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
        let text = open(self.key.as_ref(), object, bytes)?;
        let value = serde_json::from_slice(&text);
        value.map_err(|error| {
            Error::new(ErrorKind::Corrupt, "read run of a plan", object)
                .expected("JSON")
                .found(format_args!("{} bytes that are none", text.len()))
                .caused_by(error)
        })
    }
}

fn seal(key: &WrappingKey, object: &str, mut text: Vec<u8>, clock: &dyn Clock) -> Vec<u8> {
    let mut nonce = [0; 24];
    clock.fill_random(&mut nonce);
    let head = [&MAGIC[..], &key.id().0].concat();
    let tag = XChaCha20Poly1305::new(&key.derive(KEY_CONTEXT).into())
        .encrypt_inout_detached(
            &nonce.into(),
            &[&head, object.as_bytes()].concat(),
            (&mut text[..]).into(),
        )
        .expect("a record is far below the limit of the cipher");
    [&head[..], &nonce, &tag, &text].concat()
}

fn open(key: Option<&WrappingKey>, object: &str, bytes: Vec<u8>) -> Result<Vec<u8>> {
    let refused = || Error::new(ErrorKind::WrongKey, "read run of a plan", object);
    let sealed = bytes.starts_with(MAGIC) && bytes.len() >= HEAD_BYTES + 24 + 16;
    let Some(key) = key else {
        return if sealed {
            Err(refused().message("the run is sealed and no key-encryption key was given"))
        } else {
            Ok(bytes)
        };
    };
    if !sealed {
        return Err(refused().message("the run is not sealed; open the vault without a key"));
    }
    let (head, rest) = bytes.split_at(HEAD_BYTES);
    let sealed_by = KeyId(head[8..].try_into().expect("16 bytes"));
    if sealed_by != key.id() {
        return Err(refused()
            .expected(format_args!("key-encryption key {sealed_by}"))
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
                .expected("the record that was sealed here")
                .found("another, or altered bytes")
        })?;
    Ok(text)
}
