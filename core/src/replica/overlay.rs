#![allow(unused, missing_docs, clippy::all, clippy::pedantic)] // stub
use crate::device::*;
use crate::error::Result;
use crate::extent::Extent;
use std::sync::Arc;
/// A writable device over a read-only one: changes go to a scratch device.
pub struct Overlay {}
impl Overlay {
    /** `scratch`: as large as the base (a sparse file); its content is not read before it is written. */
    pub fn new(base: Arc<dyn BlockDevice>, scratch: Arc<dyn BlockDevice>) -> Result<Self> {
        todo!()
    }
    pub fn changed(&self) -> crate::ExtentSet {
        todo!()
    }
}
impl BlockDevice for Overlay {
    fn name(&self) -> String {
        todo!()
    }
    fn size_bytes(&self) -> u64 {
        todo!()
    }
    fn block_bytes(&self) -> u32 {
        todo!()
    }
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        todo!()
    }
    fn write(&self, offset: u64, data: &[u8], durability: Durability) -> Result<()> {
        todo!()
    }
    fn zero(&self, extent: Extent, unmap: Unmap, durability: Durability) -> Result<()> {
        todo!()
    }
    fn discard(&self, extent: Extent) -> Result<Discarded> {
        todo!()
    }
    fn flush(&self) -> Result<()> {
        todo!()
    }
}
