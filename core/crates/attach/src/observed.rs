//! The attached disk as the protection sees it: read with direct I/O, never written.
//!
//! Direct I/O is right although file systems write through the page cache. What counts is what
//! requests have completed, and only that is on the disk; the cache of the block device may be older
//! or newer. The disk is never flushed either: what its writers did not flush may be lost with a
//! power failure, and after a boot the whole disk is compared.

use std::path::Path;

use hrl::device::{
    Access, BlockDevice, DirectIo, Discarded, Durability, FileDevice, FileDeviceOptions, Operation,
    Unmap, Witness,
};
use hrl::{Error, ErrorKind, Extent, Result};

pub(crate) struct ObservedDisk(FileDevice);

impl ObservedDisk {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let (access, direct) = (Access::ReadOnly, DirectIo::Always);
        let options = FileDeviceOptions { access, direct, ..FileDeviceOptions::default() };
        FileDevice::open(path, &options).map(Self)
    }

    fn refused(&self, operation: &'static str) -> Error {
        Error::new(ErrorKind::ReadOnly, operation, self.name())
            .message("it is attached: its users write to it, not hrl")
    }
}

impl BlockDevice for ObservedDisk {
    fn name(&self) -> String {
        self.0.name()
    }

    fn size_bytes(&self) -> u64 {
        self.0.size_bytes()
    }

    fn block_bytes(&self) -> u32 {
        self.0.block_bytes()
    }

    fn is_read_only(&self) -> bool {
        true
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.0.read(offset, buffer)
    }

    fn write(&self, _offset: u64, _data: &[u8], _durability: Durability) -> Result<()> {
        Err(self.refused("write to"))
    }

    fn zero(&self, _extent: Extent, _unmap: Unmap, _durability: Durability) -> Result<()> {
        Err(self.refused("zero"))
    }

    fn discard(&self, _extent: Extent) -> Result<Discarded> {
        Err(self.refused("discard"))
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn batch(&self, operations: &mut [Operation<'_>]) -> Vec<Result<()>> {
        self.0.batch(operations)
    }

    fn witness(&self) -> Witness {
        self.0.witness()
    }
}
