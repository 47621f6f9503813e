//! Capture: every write to a volume is copied once, put in order, and queued for the journal.
//!
//! [`Tap`] is the state machine, without I/O. [`DirtyMap`] makes its memory survivable. [`Volume`]
//! joins a device and a tap, for callers who leave the I/O to us. The crate `hrl-nbd` serves
//! volumes to software that cannot link this library.
#![doc = include_str!("driving.md")]

#[cfg(all(test, shuttle))]
mod concurrency;
mod dirty;
mod keep;
mod region;
mod tap;
mod volume;
mod wait;

#[cfg(any(test, feature = "testing"))]
pub use dirty::mend_dirty_map;
pub use dirty::{CleanStop, DirtyMap, DirtyMapParams, LastSession};
pub(crate) use keep::{clean, require_resync, set_wanted_dirty};
pub use region::RegionRange;
pub use tap::{Barrier, Change, ModeChange, QueuedBody, QueuedRecord, Tap, TapStats, Ticket};
pub use volume::Volume;
pub(crate) use wait::thread_waker;
