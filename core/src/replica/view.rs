#![allow(unused, missing_docs, clippy::all, clippy::pedantic)] // stub
use crate::Sequence;
use crate::device::*;
use crate::error::Result;
use crate::extent::Extent;
#[derive(Clone, Debug)]
pub struct ViewOptions {
    /** Decoded frames kept in memory. Default 32 MiB. */
    pub cache_bytes: u64,
    /** Allow a sequence inside an unordered interval (forensics; default false). */
    pub unordered: bool,
}
impl Default for ViewOptions {
    fn default() -> Self {
        Self { cache_bytes: 32 << 20, unordered: false }
    }
}
/// A volume as of one sequence: a read-only device.
pub struct View {}
impl View {
    pub fn sequence(&self) -> Sequence {
        todo!()
    }
}
impl BlockDevice for View {
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
