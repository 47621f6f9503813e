//! The simulated source disk: a volatile cache in front of a platter. Sectors are written whole or
//! not at all.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use hrl::device::{BlockDevice, Discarded, Durability, Unmap};
use hrl::{Error, ErrorKind, Extent, Result};

use crate::world::{Incarnation, Random, World};

pub const SECTOR: u64 = 512;

#[derive(Clone)]
struct State {
    content: Vec<u8>,
    /// Content of the platter under each sector that was written since the last flush.
    unflushed: BTreeMap<u64, Vec<u8>>,
    /// What was read while reads were recorded.
    reads: Option<Vec<Extent>>,
}

/// A disk. It survives the machine.
pub struct Platter {
    state: Mutex<State>,
    /// Whether a discard leaves zeroes.
    discard: Discarded,
}

/// The disk as a running machine sees it.
pub struct SimDisk {
    platter: Arc<Platter>,
    machine: Arc<Incarnation>,
    poisoned: Mutex<bool>,
    locks: bool,
}

impl Platter {
    pub fn new(bytes: u64, discard: Discarded) -> Arc<Self> {
        let content = vec![0; bytes as usize];
        let state = State { content, unflushed: BTreeMap::new(), reads: None };
        Arc::new(Self { state: Mutex::new(state), discard })
    }

    /// Returns a disk with the same content, written and flushed.
    pub fn copy(&self) -> Arc<Self> {
        let state = State { reads: None, ..self.lock().clone() };
        Arc::new(Self { state: Mutex::new(state), discard: self.discard })
    }

    /// With `locks` the caller has locks, so nothing else runs during a request.
    pub fn attach(self: &Arc<Self>, machine: &Arc<Incarnation>, locks: bool) -> Arc<SimDisk> {
        let (platter, machine) = (self.clone(), machine.clone());
        Arc::new(SimDisk { platter, machine, poisoned: Mutex::new(false), locks })
    }

    /// The power fails: each sector written since the last flush is kept or lost.
    pub fn power_failed(&self, random: &Random) {
        let mut state = self.lock();
        let style = random.below(4);
        for (sector, before) in std::mem::take(&mut state.unflushed) {
            let lost = match style {
                0 => true,
                1 => false,
                _ => random.one_in(2),
            };
            if lost {
                let at = (sector * SECTOR) as usize;
                state.content[at..at + before.len()].copy_from_slice(&before);
            }
        }
    }

    /// Fills the disk with arbitrary content.
    pub fn fill(&self, random: &Random) {
        let mut state = self.lock();
        let sectors = (state.content.len() as u64 / SECTOR).min(40);
        for _ in 0..random.below(sectors) {
            let at = random.below(state.content.len() as u64 / SECTOR) * SECTOR;
            state.content[at as usize..][..SECTOR as usize].fill(random.next() as u8);
        }
    }

    /// Returns the content now, without a request.
    pub fn peek(&self) -> Vec<u8> {
        self.lock().content.clone()
    }

    /// Records reads from now on; returns those recorded before.
    pub fn watch(&self, yes: bool) -> Vec<Extent> {
        std::mem::replace(&mut self.lock().reads, yes.then(Vec::new)).unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("one thread")
    }

    fn put(&self, offset: u64, data: &[u8]) {
        let mut state = self.lock();
        let State { content, unflushed, .. } = &mut *state;
        for sector in offset / SECTOR..(offset + data.len() as u64).div_ceil(SECTOR) {
            let at = (sector * SECTOR) as usize;
            unflushed.entry(sector).or_insert_with(|| content[at..at + SECTOR as usize].to_vec());
        }
        content[offset as usize..offset as usize + data.len()].copy_from_slice(data);
    }
}

impl SimDisk {
    fn request(&self, what: &'static str, at: u64, length: u64) -> Result<()> {
        let world = World::current();
        if !world.request(&self.machine) {
            return Err(Self::failed(what, "the machine is dead"));
        }
        world.note(what, at, length);
        Ok(())
    }

    fn done(&self, what: &'static str) -> Result<()> {
        if World::current().request(&self.machine) {
            return Ok(());
        }
        Err(Self::failed(what, "the machine is dead"))
    }

    fn failed(what: &'static str, why: &str) -> Error {
        Error::new(ErrorKind::Io, what, "simulated disk").message(why)
    }

    fn check_poison(&self, what: &'static str) -> Result<()> {
        if *self.poisoned.lock().expect("one thread") {
            return Err(Error::new(ErrorKind::Poisoned, what, "simulated disk"));
        }
        Ok(())
    }

    fn takes_time(&self) {
        if !self.locks {
            World::current().takes_time();
        }
    }

    /// Returns some of `data`, when a write of it failed.
    fn put_some(&self, offset: u64, data: &[u8]) {
        let world = World::current();
        for (number, sector) in data.chunks(SECTOR as usize).enumerate() {
            if world.random.one_in(2) {
                self.platter.put(offset + number as u64 * SECTOR, sector);
            }
        }
    }

    /// A durable write makes only its own data durable.
    fn settle(&self, offset: u64, length: u64, durability: Durability) {
        if durability == Durability::Durable {
            let mut state = self.platter.lock();
            let sectors = offset / SECTOR..(offset + length).div_ceil(SECTOR);
            sectors.for_each(|sector| drop(state.unflushed.remove(&sector)));
        }
    }

    fn change(&self, what: &'static str, offset: u64, data: &[u8]) -> Result<()> {
        self.check_poison(what)?;
        let world = World::current();
        self.request(what, offset, data.len() as u64)?;
        if world.strikes(world.faults.get().disk_error, "disk write error") {
            self.put_some(offset, data);
            return Err(Self::failed(what, "injected"));
        }
        if world.random.one_in(2) {
            self.platter.put(offset, data);
            self.takes_time();
        } else {
            self.takes_time();
            if !self.machine.is_alive() {
                return Err(Self::failed(what, "the machine is dead"));
            }
            self.platter.put(offset, data);
        }
        self.done(what)
    }
}

impl BlockDevice for SimDisk {
    fn name(&self) -> String {
        "simulated disk".to_owned()
    }

    fn size_bytes(&self) -> u64 {
        self.platter.lock().content.len() as u64
    }

    fn block_bytes(&self) -> u32 {
        SECTOR as u32
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let length = buffer.len() as u64;
        self.request("read disk", offset, length)?;
        let world = World::current();
        if world.strikes(world.faults.get().disk_error, "disk read error") {
            return Err(Self::failed("read disk", "injected"));
        }
        let who = world.doing.get();
        self.takes_time();
        let mut state = self.platter.lock();
        if let Some(reads) = state.reads.as_mut().filter(|_| who == "resync") {
            reads.push(Extent { offset, length });
        }
        buffer.copy_from_slice(&state.content[offset as usize..][..buffer.len()]);
        drop(state);
        self.done("read disk")
    }

    fn write(&self, offset: u64, data: &[u8], durability: Durability) -> Result<()> {
        self.change("write disk", offset, data)?;
        self.settle(offset, data.len() as u64, durability);
        Ok(())
    }

    fn zero(&self, extent: Extent, _unmap: Unmap, durability: Durability) -> Result<()> {
        self.change("zero disk", extent.offset, &vec![0; extent.length as usize])?;
        self.settle(extent.offset, extent.length, durability);
        Ok(())
    }

    fn discard(&self, extent: Extent) -> Result<Discarded> {
        match self.platter.discard {
            Discarded::Ignored => {}
            _ => self.change("discard", extent.offset, &vec![0; extent.length as usize])?,
        }
        Ok(self.platter.discard)
    }

    fn flush(&self) -> Result<()> {
        self.check_poison("flush disk")?;
        self.request("flush disk", 0, 0)?;
        let world = World::current();
        if world.strikes(world.faults.get().disk_flush_error, "disk flush error") {
            *self.poisoned.lock().expect("one thread") = true;
            return Err(Self::failed("flush disk", "injected"));
        }
        // Data written during a flush is not covered by it.
        let before: Vec<u64> = self.platter.lock().unflushed.keys().copied().collect();
        let marked = self.platter.lock().content.clone();
        self.takes_time();
        if !self.machine.is_alive() {
            return Err(Self::failed("flush disk", "the machine is dead"));
        }
        let mut state = self.platter.lock();
        for sector in before {
            let at = (sector * SECTOR) as usize..((sector + 1) * SECTOR) as usize;
            if state.content[at.clone()] == marked[at.clone()] {
                state.unflushed.remove(&sector);
            } else if let Some(platter) = state.unflushed.get_mut(&sector) {
                platter.copy_from_slice(&marked[at]);
            }
        }
        drop(state);
        self.done("flush disk")
    }
}
