//! A writable device over a read-only one: changes go to a scratch device, and reads find them
//! there.
//!
//! The scratch device is as large as the base and is read only where it was written. What was
//! changed is known while the overlay is open. An [`InstantDisk`](super::InstantDisk) that is never
//! hydrated is an overlay that survives.

use std::sync::Arc;

use super::layers::Layers;
use crate::device::{Allocation, BlockDevice, Discarded, Durability, Unmap};
use crate::error::Result;
use crate::extent::{Extent, ExtentSet};

/// A device whose changes stay apart from its base. May be used from any thread. Takes one bit of
/// memory for each 4 KiB of the parts that were changed, at most 64 MiB (beyond 2 TiB blocks are
/// larger).
pub struct Overlay {
    layers: Layers,
}

impl Overlay {
    /// Opens an overlay without changes. `InvalidInput` if `scratch` is smaller than `base`.
    pub fn new(base: Arc<dyn BlockDevice>, scratch: Arc<dyn BlockDevice>) -> Result<Self> {
        Ok(Self { layers: Layers::new(base, scratch)? })
    }

    /// Returns the blocks changed so far.
    pub fn changed(&self) -> ExtentSet {
        let runs = self.layers.presence.runs(self.layers.whole());
        runs.filter(|(_, present)| *present).map(|(run, _)| run).collect()
    }

    fn change(&self, extent: Extent, apply: impl FnOnce() -> Result<()>) -> Result<()> {
        extent.check_within(self.size_bytes(), "write to", &self.name())?;
        if extent.is_empty() {
            return Ok(());
        }
        self.layers.change(extent, drop, apply)
    }
}

impl BlockDevice for Overlay {
    fn name(&self) -> String {
        format!("overlay of {}", self.layers.base.name())
    }

    fn size_bytes(&self) -> u64 {
        self.layers.base.size_bytes()
    }

    fn block_bytes(&self) -> u32 {
        self.layers.base.block_bytes()
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let window = Extent { offset, length: buffer.len() as u64 };
        window.check_within(self.size_bytes(), "read from", &self.name())?;
        self.layers.read(offset, buffer)
    }

    fn write(&self, offset: u64, data: &[u8], durability: Durability) -> Result<()> {
        let extent = Extent { offset, length: data.len() as u64 };
        self.change(extent, || self.layers.upper.write(offset, data, durability))
    }

    fn zero(&self, extent: Extent, unmap: Unmap, durability: Durability) -> Result<()> {
        self.change(extent, || self.layers.upper.zero(extent, unmap, durability))
    }

    fn discard(&self, extent: Extent) -> Result<Discarded> {
        self.zero(extent, Unmap::Allowed, Durability::Cached)?;
        Ok(Discarded::Zeroes)
    }

    fn flush(&self) -> Result<()> {
        self.layers.upper.flush()
    }

    fn allocation(&self, extent: Extent) -> Result<Vec<Allocation>> {
        extent.check_within(self.size_bytes(), "map", &self.name())?;
        self.layers.allocation(extent)
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
