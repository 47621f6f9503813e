//! A gateway as its clients see it. It acknowledges segments before the vault has them, forwards
//! them before a catalog version, and may die with all its content.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use hrl::device::Files;
use hrl::store::{ObjectInfo, PutOutcome, Store};
use hrl::{Error, ErrorKind, Result};

use crate::files::SimFiles;
use crate::store::{Server, SimStore};
use crate::world::{Incarnation, World};

#[derive(Default)]
struct State {
    cache: BTreeMap<String, Vec<u8>>,
    /// Identity of the cache.
    identity: u64,
}

/// The gateway.
pub struct Gateway {
    state: Mutex<State>,
    server: Arc<Server>,
}

/// A client of the gateway.
struct Client {
    gateway: Arc<Gateway>,
    files: Arc<SimFiles>,
    vault: Arc<SimStore>,
    /// The cache that took segments since the last catalog version.
    took: Mutex<Option<u64>>,
}

impl Gateway {
    pub fn new(server: &Arc<Server>) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), server: server.clone() })
    }

    pub fn connect(
        self: &Arc<Self>,
        machine: &Arc<Incarnation>,
        files: Arc<SimFiles>,
    ) -> Arc<dyn Store> {
        let vault = self.server.connect(machine, Some(files.clone()));
        Arc::new(Client { gateway: self.clone(), files, vault, took: Mutex::default() })
    }

    /// The gateway dies forever, and another one replaces it.
    pub fn dies(&self) {
        let mut state = self.lock();
        state.cache.clear();
        state.identity += 1;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("one thread")
    }
}

impl Client {
    /// Forwards waiting objects to the vault.
    fn forward(&self) -> Result<()> {
        loop {
            let next =
                self.gateway.lock().cache.first_key_value().map(|(n, c)| (n.clone(), c.clone()));
            let Some((name, content)) = next else { return Ok(()) };
            self.vault.put(&name, &content)?;
            self.gateway.lock().cache.remove(&name);
        }
    }
}

impl Store for Client {
    fn name(&self) -> String {
        "simulated gateway".to_owned()
    }

    fn put(&self, name: &str, content: &[u8]) -> Result<PutOutcome> {
        let identity = self.gateway.lock().identity;
        if name.contains("/segments/") {
            // A request to the vault shows whether the way is open at all.
            if self.vault.head(name)?.is_some() {
                return Ok(PutOutcome::AlreadyExists);
            }
            let mut state = self.gateway.lock();
            let known = state.cache.insert(name.to_owned(), content.to_vec()).is_some();
            let identity = state.identity;
            drop(state);
            self.took.lock().expect("one thread").get_or_insert(identity);
            World::current().takes_time();
            return Ok(if known { PutOutcome::AlreadyExists } else { PutOutcome::Created });
        }
        let took = *self.took.lock().expect("one thread");
        if took.is_some_and(|took| took != identity) {
            *self.took.lock().expect("one thread") = None;
            return Err(Error::new(ErrorKind::Changed, "put", name).message("another cache"));
        }
        self.forward()?;
        if self.gateway.lock().identity != identity {
            *self.took.lock().expect("one thread") = None;
            return Err(Error::new(ErrorKind::Changed, "put", name).message("another cache"));
        }
        let outcome = self.vault.put(name, content)?;
        *self.took.lock().expect("one thread") = None;
        Ok(outcome)
    }

    fn put_file(&self, name: &str, path: &Path) -> Result<PutOutcome> {
        let content = self.files.read(path);
        self.put(name, &content.map_err(|error| Error::io("read file", path.display(), error))?)
    }

    fn get(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>> {
        let cached = self.gateway.lock().cache.get(name).cloned();
        match cached.as_ref().and_then(|c| c.get(range.start as usize..range.end as usize)) {
            Some(bytes) => Ok(bytes.to_vec()),
            None => self.vault.get(name, range),
        }
    }

    fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        let mut found = self.vault.list(prefix)?;
        let state = self.gateway.lock();
        let cached = state.cache.iter().filter(|(name, _)| name.starts_with(prefix));
        found.extend(cached.map(|(name, content)| ObjectInfo {
            name: name.clone(),
            length: content.len() as u64,
        }));
        found.sort_by(|a, b| a.name.cmp(&b.name));
        found.dedup_by(|a, b| a.name == b.name);
        Ok(found)
    }

    fn head(&self, name: &str) -> Result<Option<ObjectInfo>> {
        let cached = self.gateway.lock().cache.get(name).map(Vec::len);
        match cached {
            Some(length) => Ok(Some(ObjectInfo { name: name.to_owned(), length: length as u64 })),
            None => self.vault.head(name),
        }
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.gateway.lock().cache.remove(name);
        self.vault.delete(name)
    }
}
