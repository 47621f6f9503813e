//! The simulated store: objects that survive everything, behind a network that loses requests and
//! answers and delivers some late.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use hrl::device::Files;
use hrl::store::{ObjectInfo, PutOutcome, Store};
use hrl::{Clock, Error, ErrorKind, Result};

use crate::files::SimFiles;
use crate::world::{Incarnation, World};

/// An agent looks at its vault by length alone if it looked so shortly before: a real store is not
/// exchanged in less.
pub const EXCHANGE: Duration = Duration::from_secs(5);

#[derive(Default)]
struct State {
    objects: Objects,
    /// Requests that their sender gave up and that still arrive, or arrive a second time. A delete
    /// has no content.
    late: Vec<(Duration, String, Option<Arc<[u8]>>)>,
    down: bool,
    /// Puts of names with this part arrive late.
    delayed: Option<&'static str>,
    /// Number of catalog versions that were put.
    versions: u64,
}

impl State {
    fn add(&mut self, name: String, content: Arc<[u8]>) -> PutOutcome {
        if self.objects.contains_key(&name) {
            return PutOutcome::AlreadyExists;
        }
        self.versions += u64::from(name.contains("/catalog/"));
        self.objects.insert(name, content);
        PutOutcome::Created
    }
}

/// The objects of a store at some instant.
pub type Objects = BTreeMap<String, Arc<[u8]>>;

/// The store itself.
#[derive(Default)]
pub struct Server(Mutex<State>);

/// The store as a running machine reaches it.
pub struct SimStore {
    server: Arc<Server>,
    machine: Arc<Incarnation>,
    files: Option<Arc<SimFiles>>,
    /// No faults: the oracle's access.
    clear: bool,
}

impl Server {
    pub fn connect(
        self: &Arc<Self>,
        machine: &Arc<Incarnation>,
        files: Option<Arc<SimFiles>>,
    ) -> Arc<SimStore> {
        let (server, machine) = (self.clone(), machine.clone());
        Arc::new(SimStore { server, machine, files, clear: false })
    }

    /// Returns the store without faults.
    pub fn clear_sight(self: &Arc<Self>) -> Arc<SimStore> {
        let machine = Incarnation::start();
        Arc::new(SimStore { server: self.clone(), machine, files: None, clear: true })
    }

    pub fn set_down(&self, down: bool) {
        self.lock().down = down;
    }

    /// From now on puts of names with `part` arrive an hour late.
    pub fn delay(&self, part: Option<&'static str>) {
        self.lock().delayed = part;
    }

    /// Returns the number of catalog versions so far.
    pub fn versions(&self) -> u64 {
        self.lock().versions
    }

    pub fn is_down(&self) -> bool {
        self.lock().down
    }

    /// Delivers late requests whose time has come; with `all`, all of them.
    pub fn deliver(&self, now: Duration, all: bool) {
        let mut state = self.lock();
        let (due, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut state.late).into_iter().partition(|(at, ..)| all || *at <= now);
        state.late = rest;
        for (_, name, content) in due {
            match content {
                Some(content) => drop(state.add(name, content)),
                None => drop(state.objects.remove(&name)),
            }
        }
    }

    pub fn names(&self, prefix: &str) -> Vec<String> {
        let state = self.lock();
        state.objects.keys().filter(|name| name.starts_with(prefix)).cloned().collect()
    }

    pub fn content(&self, name: &str) -> Option<Arc<[u8]>> {
        self.lock().objects.get(name).cloned()
    }

    pub fn set_content(&self, name: &str, content: Arc<[u8]>) {
        self.lock().objects.insert(name.to_owned(), content);
    }

    /// Returns all objects as they are at this instant.
    pub fn copy(&self) -> Objects {
        self.lock().objects.clone()
    }

    /// Has these objects from now on, and no others. Requests that are under way never arrive.
    pub fn go_back_to(&self, objects: Objects) {
        let mut state = self.lock();
        state.objects = objects;
        state.late.clear();
        // Who looks for new versions must look again.
        state.versions += 1;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("one thread")
    }
}

impl SimStore {
    fn unavailable(what: &'static str, name: &str, why: &str) -> Error {
        Error::new(ErrorKind::Unavailable, what, name).message(why)
    }

    /// The request is sent; fails if it does not arrive.
    fn send(&self, what: &'static str, name: &str) -> Result<()> {
        if self.clear {
            return Ok(());
        }
        let world = World::current();
        if !world.request(&self.machine) {
            return Err(Self::unavailable(what, name, "the machine is dead"));
        }
        world.trace(what, hash(name), 0);
        world.say(format!("{what} {name}"));
        // Readers of packs have locks during their requests.
        if matches!(what, "put" | "delete") {
            world.takes_time();
        }
        if !self.machine.is_alive() {
            return Err(Self::unavailable(what, name, "the machine is dead"));
        }
        self.server.deliver(world.clock.elapsed(), false);
        if self.server.is_down() && !world.peace.get() {
            return Err(Self::unavailable(what, name, "the store is down"));
        }
        if world.strikes(world.faults.get().store_refuses, "store does not answer") {
            return Err(Self::unavailable(what, name, "injected"));
        }
        Ok(())
    }

    /// Now and then the network delivers a request twice.
    fn repeat(&self, name: &str, content: Option<Arc<[u8]>>) {
        let world = World::current();
        if !self.clear && world.strikes(world.faults.get().store_repeats, "a request arrives twice")
        {
            let at = world.clock.elapsed() + Duration::from_millis(world.random.within(1, 3000));
            self.server.lock().late.push((at, name.to_owned(), content));
        }
    }

    /// The answer is sent back; fails if it does not arrive.
    fn answer(&self, what: &'static str, name: &str) -> Result<()> {
        if self.clear {
            return Ok(());
        }
        let world = World::current();
        if !world.request(&self.machine) {
            return Err(Self::unavailable(what, name, "the machine is dead"));
        }
        if world.strikes(world.faults.get().store_loses_answer, "store loses an answer") {
            return Err(Self::unavailable(what, name, "the answer was lost"));
        }
        Ok(())
    }
}

pub fn hash(name: &str) -> u64 {
    hash_bytes(name.as_bytes())
}

impl Store for SimStore {
    fn name(&self) -> String {
        "simulated store".to_owned()
    }

    fn put(&self, name: &str, content: &[u8]) -> Result<PutOutcome> {
        self.send("put", name)?;
        let world = World::current();
        let content: Arc<[u8]> = content.into();
        let delayed = self.server.lock().delayed.is_some_and(|part| name.contains(part));
        let late = world.faults.get().store_is_late;
        if !self.clear && (delayed || world.strikes(late, "a put arrives late")) {
            let by = if delayed { 3_600_000 } else { world.random.within(1, 3000) };
            let at = world.clock.elapsed() + Duration::from_millis(by);
            self.server.lock().late.push((at, name.to_owned(), Some(content)));
            return Err(Self::unavailable("put", name, "no answer in time"));
        }
        let outcome = self.server.lock().add(name.to_owned(), content.clone());
        self.repeat(name, Some(content));
        self.answer("put", name)?;
        Ok(outcome)
    }

    fn put_file(&self, name: &str, path: &Path) -> Result<PutOutcome> {
        let content = match &self.files {
            Some(files) if files.exists(path) => files.read(path),
            _ => std::fs::read(path),
        };
        self.put(name, &content.map_err(|error| Error::io("read file", path.display(), error))?)
    }

    fn get(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>> {
        self.send("get", name)?;
        let state = self.server.lock();
        let object = state.objects.get(name).cloned();
        drop(state);
        self.answer("get", name)?;
        let object = object.ok_or_else(|| Error::new(ErrorKind::NotFound, "get", name))?;
        let bytes = object.get(range.start as usize..range.end as usize);
        bytes.map(<[u8]>::to_vec).ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, "get", name)
                .expected(format_args!("a range within {} bytes", object.len()))
                .found(format_args!("{range:?}"))
        })
    }

    fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        self.send("list", prefix)?;
        let state = self.server.lock();
        let inside = state.objects.range(prefix.to_owned()..);
        let found = inside
            .take_while(|(name, _)| name.starts_with(prefix))
            .map(|(name, content)| ObjectInfo { name: name.clone(), length: content.len() as u64 })
            .collect();
        drop(state);
        self.answer("list", prefix)?;
        Ok(found)
    }

    fn head(&self, name: &str) -> Result<Option<ObjectInfo>> {
        self.send("head", name)?;
        let state = self.server.lock();
        let length = state.objects.get(name).map(|content| content.len() as u64);
        drop(state);
        self.answer("head", name)?;
        Ok(length.map(|length| ObjectInfo { name: name.to_owned(), length }))
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.send("delete", name)?;
        let world = World::current();
        if !self.clear && world.strikes(world.faults.get().store_is_late, "a delete arrives late") {
            let at = world.clock.elapsed() + Duration::from_millis(world.random.within(1, 3000));
            self.server.lock().late.push((at, name.to_owned(), None));
            return Err(Self::unavailable("delete", name, "no answer in time"));
        }
        self.server.lock().objects.remove(name);
        self.repeat(name, None);
        self.answer("delete", name)
    }
}

pub fn hash_bytes(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
