//! What a server offers: devices under names.

use std::sync::Arc;

use hrl::ExtentSet;
use hrl::capture::{Tap, Volume};
use hrl::device::BlockDevice;
use hrl_front::Disk;

use crate::wire::*;

/// A meta context beside `base:allocation`. Its extents have flag 1 and all else has flag 0, as in
/// QEMU's dirty bitmaps.
#[derive(Clone, Debug)]
pub struct ExportContext {
    /// Name, such as `qemu:dirty-bitmap:changes`.
    pub name: String,
    /// Extents with flag 1.
    pub extents: Arc<ExtentSet>,
}

/// A device under a name.
#[derive(Clone)]
pub struct Export {
    /// Name that clients ask for. The empty name selects the first export.
    pub name: String,
    /// Text for people.
    pub description: String,
    /// The disk.
    pub target: Disk,
    /// Refuses changes, even if the device would accept them.
    pub read_only: bool,
    /// Meta contexts for block status.
    pub contexts: Vec<ExportContext>,
}

impl Export {
    /// Returns an export of a volume, read-only if the volume is.
    pub fn volume(name: &str, volume: Arc<Volume>) -> Self {
        Self::new(name, Disk::Volume(volume))
    }

    /// Returns an export of a device, read-only if the device is.
    pub fn device(name: &str, device: Arc<dyn BlockDevice>) -> Self {
        Self::new(name, Disk::Device(device))
    }

    fn new(name: &str, target: Disk) -> Self {
        let mut export = Self {
            name: name.to_owned(),
            description: String::new(),
            target,
            read_only: false,
            contexts: Vec::new(),
        };
        export.read_only = export.backing().is_read_only();
        export
    }

    /// Returns the device that requests go to, which lies below the tap if there is one.
    pub(crate) fn backing(&self) -> &Arc<dyn BlockDevice> {
        self.target.below_tap()
    }

    pub(crate) fn tap(&self) -> Option<&Arc<Tap>> {
        self.target.tap()
    }

    /// Returns the transmission flags. A client that did not ask for structured replies may not be
    /// offered to keep one whole.
    pub(crate) fn flags(&self, structured: bool) -> u16 {
        let mut flags = FLAG_HAS_FLAGS
            | FLAG_SEND_FLUSH
            | FLAG_SEND_FUA
            | FLAG_CAN_MULTI_CONN
            | FLAG_SEND_CACHE;
        if structured {
            flags |= FLAG_SEND_DF;
        }
        flags |= if self.read_only {
            FLAG_READ_ONLY
        } else {
            FLAG_SEND_TRIM | FLAG_SEND_WRITE_ZEROES | FLAG_SEND_FAST_ZERO
        };
        flags
    }
}
