#![allow(unused, missing_docs, clippy::all, clippy::pedantic)] // stub
use crate::device::*; use crate::error::Result; use crate::extent::Extent; use super::Tap; use std::sync::Arc;
/// A device whose every change goes through a tap. It is a BlockDevice itself.
pub struct Volume {}
impl Volume {
    pub fn device(&self) -> &Arc<dyn BlockDevice> { todo!() }
    /// None: protection is off, writes go straight to the device.
    pub fn tap(&self) -> Option<&Arc<Tap>> { todo!() }
}
impl BlockDevice for Volume {
    fn name(&self) -> String { todo!() }
    fn size_bytes(&self) -> u64 { todo!() }
    fn block_bytes(&self) -> u32 { todo!() }
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> { todo!() }
    fn write(&self, offset: u64, data: &[u8], durability: Durability) -> Result<()> { todo!() }
    fn zero(&self, extent: Extent, unmap: Unmap, durability: Durability) -> Result<()> { todo!() }
    fn discard(&self, extent: Extent) -> Result<Discarded> { todo!() }
    fn flush(&self) -> Result<()> { todo!() }
}
