//! A writable device over a read-only one: changes go to a scratch device, reads find them there.
//!
//! Presence is kept by block of [`BLOCK_BYTES`]; the first write to a part of a block copies the rest from the base.
//! The scratch device is as large as the base and is never read where it was not written.

use std::sync::{Arc, PoisonError, RwLock};

use crate::device::{Allocation, BlockDevice, Discarded, Durability, Unmap};
use crate::error::{Error, ErrorKind, Result};
use crate::extent::{Extent, ExtentSet};

const BLOCK_BYTES: u64 = 4096;

/// A device whose changes stay apart from its base. May be used from any thread.
pub struct Overlay {
    base: Arc<dyn BlockDevice>,
    scratch: Arc<dyn BlockDevice>,
    /// Whole blocks that the scratch device holds.
    present: RwLock<ExtentSet>,
}

impl Overlay {
    /// An overlay without changes. `InvalidInput` when `scratch` is smaller than `base`.
    pub fn new(base: Arc<dyn BlockDevice>, scratch: Arc<dyn BlockDevice>) -> Result<Self> {
        if scratch.size_bytes() < base.size_bytes() {
            return Err(Error::new(ErrorKind::InvalidInput, "overlay", base.name())
                .expected(format_args!("a scratch device of {} bytes", base.size_bytes()))
                .found(scratch.size_bytes()));
        }
        Ok(Self { base, scratch, present: RwLock::new(ExtentSet::new()) })
    }

    /// The blocks changed so far.
    pub fn changed(&self) -> ExtentSet {
        self.present.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn blocks(&self, extent: Extent) -> Extent {
        extent
            .aligned_outwards(BLOCK_BYTES)
            .intersection(Extent { offset: 0, length: self.base.size_bytes() })
    }

    /// Copies the block around a boundary of a change from the base, when it is cut and not there yet.
    fn fill_edge(&self, present: &ExtentSet, boundary: u64) -> Result<()> {
        let block = self.blocks(Extent { offset: boundary, length: 1 });
        if boundary == block.offset || block.is_empty() || present.contains(block) {
            return Ok(());
        }
        let mut bytes = vec![0; block.length as usize];
        self.base.read(block.offset, &mut bytes)?;
        self.scratch.write(block.offset, &bytes, Durability::Cached)
    }

    fn change(&self, extent: Extent, apply: impl FnOnce() -> Result<()>) -> Result<()> {
        extent.check_within(self.size_bytes(), "write to", &self.name())?;
        if extent.is_empty() {
            return Ok(());
        }
        let blocks = self.blocks(extent);
        {
            let present = self.present.read().unwrap_or_else(PoisonError::into_inner);
            if present.contains(blocks) {
                return apply();
            }
        }
        let mut present = self.present.write().unwrap_or_else(PoisonError::into_inner);
        self.fill_edge(&present, extent.offset)?;
        if extent.end() < self.size_bytes() {
            self.fill_edge(&present, extent.end())?;
        }
        apply()?;
        present.insert(blocks);
        Ok(())
    }
}

impl BlockDevice for Overlay {
    fn name(&self) -> String {
        format!("overlay of {}", self.base.name())
    }

    fn size_bytes(&self) -> u64 {
        self.base.size_bytes()
    }

    fn block_bytes(&self) -> u32 {
        self.base.block_bytes()
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let window = Extent { offset, length: buffer.len() as u64 };
        window.check_within(self.size_bytes(), "read from", &self.name())?;
        // Held while reading, so that a block does not move to the scratch device half-way.
        let present = self.present.read().unwrap_or_else(PoisonError::into_inner);
        let place =
            |extent: Extent| (extent.offset - offset) as usize..(extent.end() - offset) as usize;
        let mut at = offset;
        for changed in present.within(window) {
            let before = Extent::from_bounds(at, changed.offset);
            self.base.read(before.offset, &mut buffer[place(before)])?;
            self.scratch.read(changed.offset, &mut buffer[place(changed)])?;
            at = changed.end();
        }
        self.base.read(at, &mut buffer[(at - offset) as usize..])
    }

    fn write(&self, offset: u64, data: &[u8], durability: Durability) -> Result<()> {
        let extent = Extent { offset, length: data.len() as u64 };
        self.change(extent, || self.scratch.write(offset, data, durability))
    }

    fn zero(&self, extent: Extent, unmap: Unmap, durability: Durability) -> Result<()> {
        self.change(extent, || self.scratch.zero(extent, unmap, durability))
    }

    fn discard(&self, extent: Extent) -> Result<Discarded> {
        self.zero(extent, Unmap::Allowed, Durability::Cached)?;
        Ok(Discarded::Zeroes)
    }

    fn flush(&self) -> Result<()> {
        self.scratch.flush()
    }

    fn allocation(&self, extent: Extent) -> Result<Vec<Allocation>> {
        let present = self.present.read().unwrap_or_else(PoisonError::into_inner);
        let mut runs = Vec::new();
        let mut at = extent.offset;
        for changed in present.within(extent) {
            let before = Extent::from_bounds(at, changed.offset);
            if !before.is_empty() {
                runs.extend(self.base.allocation(before)?);
            }
            runs.push(Allocation { extent: changed, allocated: true });
            at = changed.end();
        }
        let rest = Extent::from_bounds(at, extent.end());
        if !rest.is_empty() {
            runs.extend(self.base.allocation(rest)?);
        }
        Ok(runs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::MemoryDevice;

    #[test]
    fn the_contract_of_a_device_holds() {
        crate::device::conformance::check(&|size| {
            let base = Arc::new(MemoryDevice::new(size));
            Arc::new(Overlay::new(base, Arc::new(MemoryDevice::new(size))).expect("overlay"))
        });
    }

    #[test]
    fn the_base_stays_and_dirty_scratch_is_not_read() {
        let (base, scratch) =
            (Arc::new(MemoryDevice::new(1 << 20)), Arc::new(MemoryDevice::new(1 << 20)));
        base.write(0, &[1; 1 << 20], Durability::Cached).expect("base");
        scratch.write(0, &[9; 1 << 20], Durability::Cached).expect("dirty scratch");
        let overlay = Overlay::new(base.clone(), scratch).expect("overlay");
        overlay.write(5000, &[2; 10_000], Durability::Cached).expect("write");
        let mut found = vec![0; 1 << 20];
        overlay.read(0, &mut found).expect("read");
        let mut expected = vec![1; 1 << 20];
        expected[5000..15_000].fill(2);
        assert!(found == expected);
        assert_eq!(overlay.changed().total_bytes(), 12_288);
        base.read(0, &mut found).expect("read");
        assert!(found.iter().all(|byte| *byte == 1));
    }
}
