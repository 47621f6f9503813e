//! The disk cache of a gateway: segments that clients were told are durable, on their way to the vault.
//!
//! It is a directory store of its own, so that what a put acknowledged survives a kill and a power failure. Oldest first,
//! a segment leaves once the vault has it. A name that the vault has with another length stays, and is told: it is
//! never dropped silently.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::store::remote::OBJECT_BYTES_MAX;
use crate::store::{DirStore, ObjectInfo, PutOutcome, Store, get_all};

#[derive(Default)]
struct State {
    /// Name and length of what is not in the vault yet, in the order in which it came.
    waiting: BTreeMap<u64, ObjectInfo>,
    next: u64,
    bytes: u64,
}

/// Objects between their acknowledgement and the vault.
pub(super) struct Cache {
    store: DirStore,
    bytes_max: u64,
    state: Mutex<State>,
    changed: Condvar,
}

impl Cache {
    /// Opens the cache, with what an earlier gateway left in it.
    pub(super) fn open(directory: &Path, bytes_max: u64) -> Result<Self> {
        let store = DirStore::create(directory)?;
        let mut state = State::default();
        // Names of segments sort by sequence within a volume, which is the order in which they came.
        for object in store.list("")? {
            state.bytes += object.length;
            state.waiting.insert(state.next, object);
            state.next += 1;
        }
        Ok(Self { store, bytes_max, state: Mutex::new(state), changed: Condvar::new() })
    }

    /// Takes an object; durable when it returns. `Full` at the limit.
    pub(super) fn put(&self, name: &str, content: &[u8]) -> Result<PutOutcome> {
        let length = content.len() as u64;
        if self.lock().bytes + length > self.bytes_max {
            return Err(Error::new(ErrorKind::Full, "cache", name)
                .expected(format_args!("room for {length} bytes below {} in all", self.bytes_max))
                .found("a full cache: the vault does not take segments"));
        }
        let outcome = self.store.put(name, content)?;
        if outcome == PutOutcome::Created {
            let mut state = self.lock();
            let number = state.next;
            state.next += 1;
            state.bytes += length;
            state.waiting.insert(number, ObjectInfo { name: name.to_owned(), length });
            self.changed.notify_all();
        }
        Ok(outcome)
    }

    /// An object that waits here.
    pub(super) fn head(&self, name: &str) -> Option<ObjectInfo> {
        self.lock().waiting.values().find(|object| object.name == name).cloned()
    }

    pub(super) fn get(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>> {
        self.store.get(name, range)
    }

    /// What waits here under a prefix.
    pub(super) fn list(&self, prefix: &str) -> Vec<ObjectInfo> {
        self.lock().waiting.values().filter(|o| o.name.starts_with(prefix)).cloned().collect()
    }

    /// Objects and bytes that wait.
    pub(super) fn size(&self) -> (u64, u64) {
        let state = self.lock();
        (state.waiting.len() as u64, state.bytes)
    }

    /// Waits until nothing under `prefix` waits any more; false when the time is over.
    pub(super) fn wait_drained(&self, prefix: &str, limit: Duration) -> bool {
        let waited = self.changed.wait_timeout_while(self.lock(), limit, |state| {
            state.waiting.values().any(|object| object.name.starts_with(prefix))
        });
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Moves the oldest objects to the vault, at most `count`; returns how many. Waits up to `wait` for the first.
    pub(super) fn forward(&self, vault: &dyn Store, count: usize, wait: Duration) -> Result<usize> {
        let oldest: Vec<(u64, ObjectInfo)> = {
            let mut state = self.lock();
            if state.waiting.is_empty() {
                let waited = self.changed.wait_timeout(state, wait);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
            state.waiting.iter().take(count).map(|(n, object)| (*n, object.clone())).collect()
        };
        let results: Vec<Result<()>> = std::thread::scope(|scope| {
            let moves: Vec<_> = oldest
                .iter()
                .map(|(_, object)| scope.spawn(|| self.move_to(vault, object)))
                .collect();
            moves.into_iter().map(|m| m.join().unwrap_or_else(|_| Err(panicked()))).collect()
        });
        let mut moved = 0;
        let mut failure = None;
        for ((number, object), result) in oldest.iter().zip(results) {
            match result {
                Ok(()) => {
                    self.store.delete(&object.name)?;
                    let mut state = self.lock();
                    state.waiting.remove(number);
                    state.bytes -= object.length;
                    moved += 1;
                }
                Err(error) => failure = Some(error),
            }
        }
        self.changed.notify_all();
        match failure {
            Some(error) => Err(error),
            None => Ok(moved),
        }
    }

    fn move_to(&self, vault: &dyn Store, object: &ObjectInfo) -> Result<()> {
        let content = get_all(&self.store, &object.name, OBJECT_BYTES_MAX)?;
        if vault.put(&object.name, &content)? == PutOutcome::Created {
            return Ok(());
        }
        // Put before, by this gateway or another: then it is the same.
        let found = get_all(vault, &object.name, OBJECT_BYTES_MAX)?;
        if found == content {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Corrupt, "forward", &object.name)
            .message("another object of its name is in the vault"))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn panicked() -> Error {
    Error::new(ErrorKind::Unavailable, "forward", "vault").message("the store panicked")
}
