//! Reads and verifies the log of a vault.

use std::fmt;

use hrl::store::{Store, get_all};
use hrl::vault::layout;
use hrl::{ErrorKind, Result};

use crate::batch::{self, BATCH_BYTES_MAX, Batch, Head, number_of, object_of};
use crate::entry::Entry;

/// Something that an honest log does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The object that it is about.
    pub object: String,
    /// What is wrong.
    pub text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.object, self.text)
    }
}

/// The log of a vault, as it was read.
#[derive(Clone, Debug, Default)]
pub struct AuditLog {
    /// Entries in the order of the log, each with the number and the writer of its batch.
    pub entries: Vec<(u64, String, Entry)>,
    /// What is wrong with the log; nothing if it is as its writers left it.
    pub findings: Vec<Finding>,
    /// The end of the log.
    pub head: Head,
}

impl AuditLog {
    /// Reads and verifies the log in a store.
    pub fn read(store: &dyn Store) -> Result<Self> {
        Self::read_expecting(store, None)
    }

    /// Reads and verifies the log, and reports if it does not contain the end that it had before.
    pub fn read_expecting(store: &dyn Store, expected: Option<Head>) -> Result<Self> {
        let objects = store.list(layout::AUDIT)?;
        let newest = batch::newest(&objects);
        let mut log = Self::default();
        for info in objects.iter().filter(|info| number_of(&info.name).is_none()) {
            log.find(&info.name, "this is no batch of the log");
        }
        let there = objects.iter().filter_map(|info| number_of(&info.name));
        let mut before = Some(Head::default());
        let mut next = 1;
        for number in there {
            if number > next {
                let what = if number == next + 1 { "it was" } else { "it and those up to" };
                let until = if number == next + 1 {
                    String::new()
                } else {
                    format!(" {} were", number - 1)
                };
                log.find(&object_of(next), format!("{what}{until} removed"));
                before = None;
            }
            before = log.read_batch(store, number, before)?;
            if let (Some(head), Some(expected)) = (before, expected)
                && head.number == expected.number
                && head.hash != expected.hash
            {
                log.find(&object_of(number), "it is another than the one that is expected");
            }
            next = number + 1;
        }
        log.head = before.unwrap_or(Head { number: newest, hash: [0; 32] });
        if let Some(expected) = expected.filter(|expected| expected.number > newest) {
            log.find(
                &object_of(newest + 1),
                format!("the end of the log was removed: it had {} batches", expected.number),
            );
        }
        Ok(log)
    }

    /// Returns whether the log is as its writers left it.
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }

    /// Reads batch `number`, which follows `before` unless that is unknown. Returns the head that
    /// it makes; `None` if it cannot be known.
    fn read_batch(
        &mut self,
        store: &dyn Store,
        number: u64,
        before: Option<Head>,
    ) -> Result<Option<Head>> {
        let object = object_of(number);
        let bytes = match get_all(store, &object, BATCH_BYTES_MAX) {
            Ok(bytes) => bytes,
            Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NotFound) => {
                self.find(&object, error.to_string());
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let head = Head { number, hash: batch::hash(&bytes) };
        match batch::decode(&bytes, &object) {
            Ok(found) => self.take(found, &object, number, before),
            Err(error) if error.kind() == ErrorKind::Unsupported => return Err(error),
            Err(error) => self.find(&object, format!("it was altered: {error}")),
        }
        Ok(Some(head))
    }

    fn take(&mut self, found: Batch, object: &str, number: u64, before: Option<Head>) {
        if found.number != number {
            self.find(object, format!("it was moved here: it is batch {}", found.number));
        }
        if before.is_some_and(|before| before.hash != found.previous) {
            self.find(object, "it does not follow the batch before: one of both was altered");
        }
        let Batch { writer, entries, .. } = found;
        self.entries.extend(entries.into_iter().map(|entry| (number, writer.clone(), entry)));
    }

    fn find(&mut self, object: &str, text: impl Into<String>) {
        self.findings.push(Finding { object: object.to_owned(), text: text.into() });
    }
}
