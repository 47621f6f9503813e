//! The disk behind a front.

use std::sync::Arc;

use hrl::Result;
use hrl::capture::{Tap, Volume};
use hrl::device::{BlockDevice, Buffer, Durability};

/// The disk behind a front.
#[derive(Clone)]
pub enum Disk {
    /// A volume, whose changes go through its tap.
    Volume(Arc<Volume>),
    /// Any device, without a tap.
    Device(Arc<dyn BlockDevice>),
}

impl Disk {
    /// Returns what requests are made to: the volume, or the device.
    pub fn device(&self) -> &dyn BlockDevice {
        match self {
            Self::Volume(volume) => &**volume,
            Self::Device(device) => &**device,
        }
    }

    /// Returns the device below the tap if there is one, and else the device.
    pub fn below_tap(&self) -> &Arc<dyn BlockDevice> {
        match self {
            Self::Volume(volume) => volume.device(),
            Self::Device(device) => device,
        }
    }

    /// Returns the tap of a protected volume.
    pub fn tap(&self) -> Option<&Arc<Tap>> {
        match self {
            Self::Volume(volume) => volume.tap(),
            Self::Device(_) => None,
        }
    }

    /// Writes a buffer that the caller gives up. A protected volume journals the same memory.
    pub fn write(&self, offset: u64, data: Buffer, durability: Durability) -> Result<()> {
        match self {
            Self::Volume(volume) => volume.write_buffer(offset, data, durability),
            Self::Device(device) => device.write(offset, &data, durability),
        }
    }

    /// Tells a protected volume that its outside writer went away, or that a change failed: a copy
    /// onto it is not in order any more.
    pub fn lose_sync(&self) {
        if let Some(tap) = self.tap() {
            tap.writer_lost_sync();
        }
    }
}
