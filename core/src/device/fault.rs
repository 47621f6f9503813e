//! A disk with a volatile write cache that fails and loses power on demand, for tests. Equal seeds
//! give equal runs.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{BlockDevice, Discarded, Durability, Unmap, Witness};
use crate::error::{Error, ErrorKind, Result};
use crate::extent::Extent;
use crate::sync::lock::{Mutex, MutexGuard};
use crate::units::Timestamp;

const BLOCK_BYTES: u64 = 512;

/// Which requests fail: the next ones of each sort, as many as stated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultPlan {
    /// Reads that fail.
    pub reads: u64,
    /// Writes that fail; half of each is written.
    pub writes: u64,
    /// Flushes that fail.
    pub flushes: u64,
}

struct State {
    plan: FaultPlan,
    /// Content on stable storage of each block that was written since the last flush.
    unflushed: BTreeMap<u64, Vec<u8>>,
    random: u64,
    bytes_read: u64,
}

/// Injects faults into a device.
pub struct FaultDevice {
    inner: Arc<dyn BlockDevice>,
    state: Mutex<State>,
}

impl FaultDevice {
    /// Passes requests on to `inner`. `seed` decides what a crash loses.
    pub fn new(inner: Arc<dyn BlockDevice>, seed: u64) -> Self {
        let state = State {
            plan: FaultPlan::default(),
            unflushed: BTreeMap::new(),
            random: seed | 1,
            bytes_read: 0,
        };
        Self { inner, state: Mutex::new(state) }
    }

    /// Sets which requests fail from now on.
    pub fn set_plan(&self, plan: FaultPlan) {
        self.lock().plan = plan;
    }

    /// Returns the bytes read so far.
    pub fn bytes_read(&self) -> u64 {
        self.lock().bytes_read
    }

    /// Fails the power: each block written since the last flush is kept or lost by chance, in any
    /// order.
    pub fn crash(&self) -> Result<()> {
        let mut state = self.lock();
        for (block, before) in std::mem::take(&mut state.unflushed) {
            state.random ^= state.random << 13;
            state.random ^= state.random >> 7;
            state.random ^= state.random << 17;
            if state.random & 1 == 0 {
                self.inner.write(block * BLOCK_BYTES, &before, Durability::Cached)?;
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Records the content on stable storage under `extent`, unless a write there is durable at once.
    fn remember(&self, state: &mut State, extent: Extent, durability: Durability) -> Result<()> {
        let blocks = extent.aligned_outwards(BLOCK_BYTES);
        for block in blocks.offset / BLOCK_BYTES..blocks.end() / BLOCK_BYTES {
            if durability == Durability::Durable {
                state.unflushed.remove(&block);
            } else if let std::collections::btree_map::Entry::Vacant(vacant) =
                state.unflushed.entry(block)
            {
                let mut before = vec![0; BLOCK_BYTES as usize];
                self.inner.read(block * BLOCK_BYTES, &mut before)?;
                vacant.insert(before);
            }
        }
        Ok(())
    }

    fn injected(operation: &'static str, offset: u64) -> Error {
        Error::new(ErrorKind::Io, operation, "faulty device").at(offset).message("injected fault")
    }
}

fn take(left: &mut u64) -> bool {
    let some = *left > 0;
    *left -= u64::from(some);
    some
}

impl BlockDevice for FaultDevice {
    fn name(&self) -> String {
        format!("faulty {}", self.inner.name())
    }

    fn size_bytes(&self) -> u64 {
        self.inner.size_bytes()
    }

    fn block_bytes(&self) -> u32 {
        self.inner.block_bytes()
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let mut state = self.lock();
        state.bytes_read += buffer.len() as u64;
        if take(&mut state.plan.reads) {
            return Err(Self::injected("read from", offset));
        }
        drop(state);
        self.inner.read(offset, buffer)
    }

    fn write(&self, offset: u64, data: &[u8], durability: Durability) -> Result<()> {
        let extent = Extent { offset, length: data.len() as u64 };
        extent.check_within(self.size_bytes(), "write to", &self.name())?;
        let mut state = self.lock();
        self.remember(&mut state, extent, durability)?;
        if take(&mut state.plan.writes) {
            self.inner.write(offset, &data[..data.len() / 2], durability)?;
            return Err(Self::injected("write to", offset));
        }
        self.inner.write(offset, data, durability)
    }

    fn zero(&self, extent: Extent, unmap: Unmap, durability: Durability) -> Result<()> {
        extent.check_within(self.size_bytes(), "zero", &self.name())?;
        let mut state = self.lock();
        self.remember(&mut state, extent, durability)?;
        if take(&mut state.plan.writes) {
            return Err(Self::injected("zero", extent.offset));
        }
        self.inner.zero(extent, unmap, durability)
    }

    fn discard(&self, extent: Extent) -> Result<Discarded> {
        self.zero(extent, Unmap::Allowed, Durability::Cached)?;
        Ok(Discarded::Zeroes)
    }

    fn modified(&self) -> Option<Timestamp> {
        self.inner.modified()
    }

    fn witness(&self) -> Witness {
        self.inner.witness()
    }

    fn flush(&self) -> Result<()> {
        let mut state = self.lock();
        if take(&mut state.plan.flushes) {
            return Err(Self::injected("flush", 0));
        }
        self.inner.flush()?;
        state.unflushed.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::MemoryDevice;

    #[test]
    fn a_device_without_faults_keeps_the_contract() {
        crate::device::conformance::check(&|size| {
            Arc::new(FaultDevice::new(Arc::new(MemoryDevice::new(size)), 1))
        });
    }

    /// `FaultDevice` uses the default of `allocation`.
    #[test]
    fn an_allocation_outside_the_device_is_refused() {
        let device = FaultDevice::new(Arc::new(MemoryDevice::new(4096)), 1);
        for (offset, length) in [(4096, 1), (8192, 0), (u64::MAX, 1)] {
            let error = device.allocation(Extent { offset, length }).expect_err("outside");
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn a_crash_loses_some_unflushed_writes_and_nothing_else() {
        let device = FaultDevice::new(Arc::new(MemoryDevice::new(1 << 20)), 3);
        device.write(0, &[1; 65_536], Durability::Cached).expect("write");
        device.flush().expect("flush");
        device.write(0, &[2; 65_536], Durability::Cached).expect("write");
        device.crash().expect("crash");
        let mut found = vec![0; 65_536];
        device.read(0, &mut found).expect("read");
        assert!(found.contains(&1) && found.contains(&2) && !found.contains(&0));
    }
}
