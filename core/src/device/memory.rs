//! A sparse disk in memory: for tests, benchmarks and scratch space.

use std::collections::HashMap;

use super::{Allocation, BlockDevice, Discarded, Durability, Unmap};
use crate::error::Result;
use crate::extent::Extent;
use crate::sync::lock::RwLock;

const CHUNK_BYTES: u64 = 64 << 10;
/// Number of locks that the chunks are spread over.
const STRIPES: u64 = 64;

type Chunks = HashMap<u64, Box<[u8]>>;

/// A disk of any size. Chunks exist once they are written; the rest reads as zeroes.
pub struct MemoryDevice {
    size_bytes: u64,
    stripes: Vec<RwLock<Chunks>>,
}

impl MemoryDevice {
    /// Makes an empty disk.
    pub fn new(size_bytes: u64) -> Self {
        Self { size_bytes, stripes: (0..STRIPES).map(|_| RwLock::default()).collect() }
    }

    fn check(&self, extent: Extent, operation: &'static str) -> Result<()> {
        extent.check_within(self.size_bytes, operation, "memory device")
    }

    fn stripe(&self, chunk: u64) -> &RwLock<Chunks> {
        &self.stripes[(chunk % STRIPES) as usize]
    }
}

/// Splits an extent into its parts, one for each chunk: number, place in the chunk, length.
fn parts(extent: Extent) -> impl Iterator<Item = (u64, usize, usize)> {
    let mut at = extent.offset;
    std::iter::from_fn(move || {
        if at >= extent.end() {
            return None;
        }
        let within = at % CHUNK_BYTES;
        let length = (CHUNK_BYTES - within).min(extent.end() - at);
        let chunk = at / CHUNK_BYTES;
        at += length;
        Some((chunk, within as usize, length as usize))
    })
}

impl BlockDevice for MemoryDevice {
    fn name(&self) -> String {
        "memory".to_owned()
    }

    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn block_bytes(&self) -> u32 {
        512
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let extent = Extent { offset, length: buffer.len() as u64 };
        self.check(extent, "read from")?;
        let mut rest = buffer;
        for (chunk, within, length) in parts(extent) {
            let (piece, after) = rest.split_at_mut(length);
            match self.stripe(chunk).read().get(&chunk) {
                Some(bytes) => piece.copy_from_slice(&bytes[within..within + length]),
                None => piece.fill(0),
            }
            rest = after;
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8], _durability: Durability) -> Result<()> {
        let extent = Extent { offset, length: data.len() as u64 };
        self.check(extent, "write to")?;
        let mut rest = data;
        for (chunk, within, length) in parts(extent) {
            let (piece, after) = rest.split_at(length);
            self.stripe(chunk)
                .write()
                .entry(chunk)
                .or_insert_with(|| vec![0; CHUNK_BYTES as usize].into())[within..within + length]
                .copy_from_slice(piece);
            rest = after;
        }
        Ok(())
    }

    fn zero(&self, extent: Extent, _unmap: Unmap, _durability: Durability) -> Result<()> {
        self.check(extent, "zero")?;
        for (chunk, within, length) in parts(extent) {
            let mut chunks = self.stripe(chunk).write();
            if length as u64 == CHUNK_BYTES {
                chunks.remove(&chunk);
            } else if let Some(bytes) = chunks.get_mut(&chunk) {
                bytes[within..within + length].fill(0);
            }
        }
        Ok(())
    }

    fn discard(&self, extent: Extent) -> Result<Discarded> {
        self.zero(extent, Unmap::Allowed, Durability::Cached)?;
        Ok(Discarded::Zeroes)
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn allocation(&self, extent: Extent) -> Result<Vec<Allocation>> {
        self.check(extent, "map")?;
        let mut runs: Vec<Allocation> = Vec::new();
        let mut at = extent.offset;
        for (chunk, _, length) in parts(extent) {
            let allocated = self.stripe(chunk).read().contains_key(&chunk);
            let extent = Extent { offset: at, length: length as u64 };
            Allocation { extent, allocated }.add_to(&mut runs);
            at += length as u64;
        }
        Ok(runs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_memory_device_keeps_the_contract() {
        crate::device::conformance::check(&|size| Arc::new(MemoryDevice::new(size)));
    }
}
