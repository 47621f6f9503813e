//! Two layers of one disk: a base that never changes, and an upper device with the blocks that were
//! changed or copied.
//!
//! Once a block is present in the upper device it is read from there, and never from the base
//! again. A change or copy that brings blocks there *claims* them. Claims never overlap, and the
//! owner of a claim looks again which of its blocks are absent. So a copy never overwrites a
//! change, and two changes of parts of one block both stay. Reads, and changes of present blocks,
//! take no lock; the base is read without any lock but the claim of the blocks concerned. The first
//! change to a part of a block copies the rest.
//!
//! After a failed change its blocks are as absent as before, but their content in the upper device
//! is unknown: see [`Layers::is_disturbed`].

#[cfg(all(test, shuttle))]
mod concurrency;
mod presence;

use std::sync::Arc;

pub(super) use self::presence::Presence;
use crate::device::{Allocation, BlockDevice, Durability};
use crate::error::{Error, ErrorKind, Result};
use crate::extent::{Extent, ExtentSet};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Condvar, Mutex};

pub(super) struct Layers {
    pub base: Arc<dyn BlockDevice>,
    pub upper: Arc<dyn BlockDevice>,
    pub presence: Presence,
    claims: Mutex<Claims>,
    released: Condvar,
    disturbed: AtomicBool,
}

#[derive(Default)]
struct Claims {
    claimed: ExtentSet,
    /// A thread waits for the whole disk: no more claims until it had it.
    closed: bool,
}

/// Blocks that only the owner of the claim brings to the upper device.
struct Claim<'a> {
    layers: &'a Layers,
    extents: Vec<Extent>,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut claims = self.layers.claims.lock();
        self.extents.iter().for_each(|extent| claims.claimed.remove(*extent));
        drop(claims);
        self.layers.released.notify_all();
    }
}

impl Layers {
    /// Makes layers with no block present. `InvalidInput` if `upper` is smaller than `base`.
    pub fn new(base: Arc<dyn BlockDevice>, upper: Arc<dyn BlockDevice>) -> Result<Self> {
        if upper.size_bytes() < base.size_bytes() {
            return Err(Error::new(ErrorKind::InvalidInput, "overlay", base.name())
                .expected(format_args!("a device of {} bytes", base.size_bytes()))
                .found(format_args!("{} of {} bytes", upper.name(), upper.size_bytes())));
        }
        let presence = Presence::new(base.size_bytes());
        Ok(Self {
            base,
            upper,
            presence,
            claims: Mutex::default(),
            released: Condvar::new(),
            disturbed: AtomicBool::new(false),
        })
    }

    pub fn whole(&self) -> Extent {
        Extent { offset: 0, length: self.base.size_bytes() }
    }

    /// Returns whether a change failed, so that absent blocks of the upper device may contain
    /// anything.
    pub fn is_disturbed(&self) -> bool {
        self.disturbed.load(Ordering::Acquire)
    }

    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let window = Extent { offset, length: buffer.len() as u64 };
        for (run, present) in self.presence.runs(window) {
            let layer = if present { &self.upper } else { &self.base };
            let range = (run.offset - offset) as usize..(run.end() - offset) as usize;
            layer.read(run.offset, &mut buffer[range])?;
        }
        Ok(())
    }

    /// Applies a change of `extent`, which is within the disk, to the upper device. `landed` gets
    /// the blocks before any reader can find them present.
    pub fn change(
        &self,
        extent: Extent,
        landed: impl FnOnce(Extent),
        apply: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let blocks = self.presence.blocks(extent);
        if self.presence.contains(blocks) {
            return apply();
        }
        let _claim = self.claim(vec![blocks]);
        if self.presence.contains(blocks) {
            return apply();
        }
        self.fill_edges(extent).and_then(|()| apply()).inspect_err(|_| self.disturb())?;
        landed(blocks);
        self.presence.set_present(blocks);
        Ok(())
    }

    /// Brings blocks of `wanted`, which are disjoint and whole blocks, to the upper device. `bring`
    /// gets those that are absent. Returns their bytes.
    pub fn bring(
        &self,
        wanted: Vec<Extent>,
        mut landed: impl FnMut(Extent),
        bring: impl FnOnce(&[Extent]) -> Result<()>,
    ) -> Result<u64> {
        let claim = self.claim(wanted);
        let absent: Vec<_> =
            claim.extents.iter().flat_map(|extent| self.presence.absent(*extent)).collect();
        if !absent.is_empty() {
            bring(&absent).inspect_err(|_| self.disturb())?;
        }
        for extent in &absent {
            landed(*extent);
            self.presence.set_present(*extent);
        }
        Ok(absent.iter().map(|extent| extent.length).sum())
    }

    /// Declares every block present if `whole` returns true, which is asked while nothing is
    /// claimed.
    pub fn finish(&self, whole: impl FnOnce() -> bool, landed: impl FnOnce(Extent)) -> bool {
        let mut claims = self.claims.lock();
        claims.closed = true;
        while !claims.claimed.is_empty() {
            claims = self.released.wait(claims);
        }
        let whole = whole();
        if whole {
            landed(self.whole());
            self.presence.set_present(self.whole());
        }
        claims.closed = false;
        drop(claims);
        self.released.notify_all();
        whole
    }

    pub fn allocation(&self, extent: Extent) -> Result<Vec<Allocation>> {
        let mut runs: Vec<Allocation> = Vec::new();
        for (run, present) in self.presence.runs(extent) {
            let layer = if present { &self.upper } else { &self.base };
            layer.allocation(run)?.into_iter().for_each(|found| found.add_to(&mut runs));
        }
        Ok(runs)
    }

    /// Claims all of `extents` at once, so that no thread waits while it has claimed some.
    fn claim(&self, extents: Vec<Extent>) -> Claim<'_> {
        let mut claims = self.claims.lock();
        while claims.closed || extents.iter().any(|extent| claims.claimed.overlaps(*extent)) {
            claims = self.released.wait(claims);
        }
        extents.iter().for_each(|extent| claims.claimed.insert(*extent));
        Claim { layers: self, extents }
    }

    /// Copies the blocks that a change begins or ends in the middle of.
    fn fill_edges(&self, extent: Extent) -> Result<()> {
        let first = self.presence.blocks(Extent { offset: extent.offset, length: 1 });
        let last = self.presence.blocks(Extent { offset: extent.end() - 1, length: 1 });
        if first.offset < extent.offset || (first == last && extent.end() < last.end()) {
            self.fill(first)?;
        }
        if first != last && extent.end() < last.end() {
            self.fill(last)?;
        }
        Ok(())
    }

    fn fill(&self, block: Extent) -> Result<()> {
        if self.presence.contains(block) {
            return Ok(());
        }
        let mut bytes = vec![0; block.length as usize];
        self.base.read(block.offset, &mut bytes)?;
        self.upper.write(block.offset, &bytes, Durability::Cached)
    }

    fn disturb(&self) {
        self.disturbed.store(true, Ordering::Release);
    }
}
