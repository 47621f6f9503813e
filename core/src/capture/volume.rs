//! A device and its tap, for callers who leave the I/O to us.
//!
//! A write copies the caller's bytes once. That copy goes to the device and to the journal, so both
//! get the same bytes whatever the caller does to its own (promise 2). If the device fails a write,
//! what it has now is read back under the ticket and journaled. If that fails too, a resync reads
//! the extent later.

use std::sync::Arc;

use super::tap::{Change, Tap};
use crate::device::{
    Allocation, BlockDevice, Buffer, Discarded, Durability, RingTarget, Unmap, Witness,
};
use crate::error::Result;
use crate::extent::Extent;
use crate::units::Timestamp;

/// Most bytes of one write to the device. Longer writes become several changes.
const WRITE_BYTES_MAX: usize = 4 << 20;

/// A device with all its changes going through a tap. May be used from any thread.
pub struct Volume {
    device: Arc<dyn BlockDevice>,
    tap: Option<Arc<Tap>>,
}

impl Volume {
    /// Puts `tap` in front of `device`. From now on nothing else may write to the device.
    pub fn new(device: Arc<dyn BlockDevice>, tap: Arc<Tap>) -> Self {
        Self { device, tap: Some(tap) }
    }

    /// Makes a volume without protection: writes go straight to the device.
    pub fn unprotected(device: Arc<dyn BlockDevice>) -> Self {
        Self { device, tap: None }
    }

    /// Returns the device below.
    pub fn device(&self) -> &Arc<dyn BlockDevice> {
        &self.device
    }

    /// Returns the tap; `None` if the volume is unprotected.
    pub fn tap(&self) -> Option<&Arc<Tap>> {
        self.tap.as_ref()
    }

    /// Writes a buffer that the caller gives up, without a copy. Otherwise does the same as
    /// `write`.
    pub fn write_buffer(&self, offset: u64, data: Buffer, durability: Durability) -> Result<()> {
        match &self.tap {
            Some(tap) if !data.is_empty() && data.len() <= WRITE_BYTES_MAX => {
                self.write_tapped(tap, offset, data, durability)
            }
            _ => self.write(offset, &data, durability),
        }
    }

    fn write_tapped(
        &self,
        tap: &Tap,
        offset: u64,
        mut buffer: Buffer,
        durability: Durability,
    ) -> Result<()> {
        let ticket = tap.begin_blocking(Extent::new(offset, buffer.len() as u64)?)?;
        match self.device.write(offset, &buffer, durability) {
            Ok(()) => {
                tap.complete(ticket, Change::Write(buffer));
                Ok(())
            }
            Err(error) => {
                match self.device.read(offset, &mut buffer) {
                    Ok(()) => drop(tap.complete(ticket, Change::Write(buffer))),
                    Err(_) => tap.fail(ticket),
                }
                Err(error)
            }
        }
    }
}

impl BlockDevice for Volume {
    fn name(&self) -> String {
        self.device.name()
    }

    fn size_bytes(&self) -> u64 {
        self.device.size_bytes()
    }

    fn block_bytes(&self) -> u32 {
        self.device.block_bytes()
    }

    fn is_read_only(&self) -> bool {
        self.device.is_read_only()
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.device.read(offset, buffer)
    }

    fn write(&self, offset: u64, data: &[u8], durability: Durability) -> Result<()> {
        let Some(tap) = &self.tap else { return self.device.write(offset, data, durability) };
        Extent { offset, length: data.len() as u64 }.check_within(
            self.size_bytes(),
            "write to",
            &self.name(),
        )?;
        let mut at = offset;
        for piece in data.chunks(WRITE_BYTES_MAX) {
            self.write_tapped(tap, at, Buffer::copy_of(piece), durability)?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    fn zero(&self, extent: Extent, unmap: Unmap, durability: Durability) -> Result<()> {
        let Some(tap) = &self.tap else { return self.device.zero(extent, unmap, durability) };
        if extent.is_empty() {
            return extent.check_within(self.size_bytes(), "zero", &self.name());
        }
        let ticket = tap.begin_blocking(extent)?;
        let result = self.device.zero(extent, unmap, durability);
        match &result {
            Ok(()) => drop(tap.complete(ticket, Change::Zero)),
            Err(_) => tap.fail(ticket),
        }
        result
    }

    fn discard(&self, extent: Extent) -> Result<Discarded> {
        let Some(tap) = &self.tap else { return self.device.discard(extent) };
        if extent.is_empty() {
            extent.check_within(self.size_bytes(), "discard", &self.name())?;
            return Ok(Discarded::Ignored);
        }
        let ticket = tap.begin_blocking(extent)?;
        let result = self.device.discard(extent);
        match &result {
            Ok(Discarded::Ignored) => tap.cancel(ticket),
            Ok(discarded) => drop(tap.complete(ticket, Change::Discard(*discarded))),
            Err(_) => tap.fail(ticket),
        }
        result
    }

    fn flush(&self) -> Result<()> {
        self.device.flush()?;
        if let Some(tap) = &self.tap {
            tap.flush();
        }
        Ok(())
    }

    fn allocation(&self, extent: Extent) -> Result<Vec<Allocation>> {
        self.device.allocation(extent)
    }

    fn ring_target(&self) -> Option<RingTarget<'_>> {
        // Writes to the bare descriptor would bypass the tap.
        if self.tap.is_some() { None } else { self.device.ring_target() }
    }

    fn poison(&self) {
        self.device.poison();
    }

    fn modified(&self) -> Option<Timestamp> {
        self.device.modified()
    }

    fn witness(&self) -> Witness {
        self.device.witness()
    }
}
