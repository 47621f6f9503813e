//! Capture: every write to a volume is copied once, put in order, and queued for the journal.
//!
//! [`Tap`] is the state machine, without I/O. [`DirtyMap`] makes its memory survivable. [`Volume`]
//! joins a device and a tap, for callers who leave the I/O to us. The crate `hrl-nbd` serves
//! volumes to software that cannot link this library.
//!
//! # Driving a tap from an event loop
//!
//! A server with its own I/O path uses the parts of a volume directly, as `hrl-nbd` does on its
//! io_uring:
//!
//! 1. [`Tap::begin`] returns a ticket, or registers the caller's [`Waker`](std::task::Waker) and
//!    returns `Pending`. The loop sets the request aside, and asks again after the next wake.
//! 2. Under the ticket it changes [`Volume::device`]: by the methods of
//!    [`BlockDevice`](crate::device::BlockDevice), or by its own ring on the descriptor of
//!    [`ring_target`](crate::device::BlockDevice::ring_target). The descriptor is asked for anew
//!    with each request; after a failed durable write on it the loop calls `poison`.
//! 3. [`Tap::complete`] takes the [`Buffer`](crate::device::Buffer) that was written, without a
//!    second copy. [`Tap::fail`] ends a ticket whose write failed, so that the range is read again.
//!    [`Tap::cancel`] ends one whose device is untouched.
//! 4. After each flush of the device, [`Tap::flush`] records it.
//!
//! Every ticket must end in one of these ways, even if the client of the request is gone.

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
