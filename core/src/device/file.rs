#![allow(unused, missing_docs, clippy::all, clippy::pedantic)] // stub
use super::*;
use crate::error::Result;
use crate::extent::Extent;
use std::path::Path;
/// Whether to bypass the page cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DirectIo {
    /** Where the file system and alignment allow it. */
    #[default]
    Auto,
    Always,
    Never,
}
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    ReadOnly,
    #[default]
    ReadWrite,
}
/// Chained options with defaults.
#[derive(Clone, Debug, Default)]
pub struct FileDeviceOptions {
    pub access: Access,
    pub direct: DirectIo,
    /** Take an exclusive advisory lock (flock); Fenced error if another holds it. */
    pub exclusive: bool,
    /** Create (or check) with this size. */
    pub create_bytes: Option<u64>,
}
/// A regular file or block device.
pub struct FileDevice {}
impl FileDevice {
    pub fn open(path: &Path, options: &FileDeviceOptions) -> Result<Self> {
        todo!()
    }
}
impl BlockDevice for FileDevice {
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
