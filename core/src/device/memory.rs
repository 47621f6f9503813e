#![allow(unused, missing_docs, clippy::all, clippy::pedantic)] // stub
use super::*;
use crate::error::Result;
use crate::extent::Extent;
/// A sparse disk in memory.
pub struct MemoryDevice {}
impl MemoryDevice {
    pub fn new(size_bytes: u64) -> Self {
        todo!()
    }
}
impl BlockDevice for MemoryDevice {
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
