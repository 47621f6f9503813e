//! The agent: all that one protected volume needs, running, as one handle.
//!
//! [`ProtectionOptions::open`] finds out how the last session ended ([`recover`]), begins a session
//! in the dirty map and starts the tasks. Writes go through [`Protection::volume`]. The tasks are:
//!
//! - `journal` moves captured changes into segments in the spool;
//! - `keeper` sets regions dirty for the writers that wait for it;
//! - `resync` journals dirty regions again after a crash or an overflow;
//! - `ship` moves segments from the spool to the vault;
//! - `retention` removes recovery states by policy;
//! - `timer` and `applications` take points by policy; `timer` also hands the volume over.
//!
//! A task is a step function (`task.rs`). It learns what it is asked for from one queue
//! (`requests.rs`) and shares state with others through parts that have a lock each (`shared.rs`).
//!
//! Behaviour on failure: dropping the handle without [`Protection::stop`] leaves what a crash would
//! leave. The next session reads the dirty regions again.

pub(crate) mod anchor;
mod applications;
mod away;
mod baseline;
mod clean_stop;
mod crowding;
mod cut;
mod disk_names;
mod failures;
mod hand_over;
mod inspector;
mod journal_progress;
mod journaling;
mod marking;
mod next;
mod observation;
mod open;
mod points;
mod progress;
mod protection;
pub(crate) mod provisional;
mod recover;
mod requests;
mod resync;
mod resync_progress;
mod retention;
mod rewind;
mod session;
mod shared;
mod shipments;
mod shipper;
mod shipping;
mod spool;
pub(crate) mod state;
mod stats;
#[cfg(any(test, feature = "testing"))]
mod stepped;
pub(crate) mod surrender;
mod task;
mod timer;
pub(crate) mod witness;

#[cfg(any(test, feature = "testing"))]
pub use anchor::reprint_anchor;
pub(crate) use applications::check as check_applications;
#[cfg(any(test, feature = "testing"))]
pub use away::reprint_volume;
pub use cut::VolumeCut;
pub use inspector::Inspector;
pub use observation::Observation;
pub use open::ProtectionOptions;
pub use protection::Protection;
#[cfg(any(test, feature = "testing"))]
pub use provisional::reprint_failover;
pub use shipper::{BATCH_MAX, BATCH_TIME, UNPUBLISHED_MAX};
#[cfg(any(test, feature = "testing"))]
pub use state::reprint_state;
pub use stats::ProtectionStats;
#[cfg(any(test, feature = "testing"))]
pub use stepped::{PlacedPoint, SteppedProtection, SteppedTask};
#[cfg(any(test, feature = "testing"))]
pub use witness::reprint_witness;
