//! Capture: every write to a volume is copied once, put in order, and queued for the journal.
//!
//! [`Tap`] is the state machine, without I/O; the dirty map makes what it holds in memory survivable; [`Volume`]
//! joins a device and a tap for callers who let us do the I/O; the NBD server is the front for everybody else.

#[cfg(all(test, shuttle))]
mod concurrency;
mod dirty;
mod keep;
mod nbd;
mod region;
mod tap;
mod volume;
mod wait;

#[cfg(any(test, feature = "testing"))]
pub use dirty::mend_dirty_map;
pub use dirty::{CleanStop, DirtyMap, DirtyMapParams, MapState};
pub(crate) use keep::{clean, mark_wanted, require_resync};
pub use nbd::{Export, ExportContext, ExportTarget, NbdAddress, NbdLimits, NbdServer, NbdStats};
#[cfg(feature = "tls")]
pub use nbd::{NbdTls, RefusalSink};
pub use region::RegionRange;
pub use tap::{Change, Hold, ModeChange, QueuedBody, QueuedRecord, Tap, TapStats, Ticket};
pub use volume::Volume;
pub(crate) use wait::thread_waker;
