//! Failover: a protected volume goes on elsewhere, as of a state of its replica, and comes home again.
//!
//! [`FailoverOptions::start`] serves the volume writable as of the state at once ([`InstantDisk`](crate::replica::InstantDisk))
//! and captures what is written from the first moment on; nothing is final. [`FailedOver::commit`] makes it final: the old
//! source is fenced, and what it wrote after the state is a branch. [`Follower`] brings the disk at the old site up to date
//! by what differs alone, and [`Follower::fail_back`] takes the volume home by a planned failover in the other direction.
//! Test failovers are recorded by [`begin_test`] and [`end_test`].
//!
//! The crate `hrl-plan` orders the failovers of many volumes, with actions, boots and approvals between.
//!
//! Every step is recorded in the catalog before it acts, or is the record itself, and can be repeated after a crash. The
//! state directory of the new site says what is under way there, so `start` after a crash goes on where it was.

mod cancel;
mod divergence;
mod follow;
mod keep;
mod options;
mod over;
mod start;
#[cfg(any(test, feature = "testing"))]
mod stepped;
mod test;

pub use cancel::{abandon, cancel};
#[cfg(any(test, feature = "testing"))]
pub use follow::reprint_follow;
pub use follow::{CatchUp, Follower};
pub use options::{FailoverOptions, Preview};
pub use over::{FailedOver, Started};
#[cfg(any(test, feature = "testing"))]
pub use stepped::{SteppedCopy, SteppedFailover};
pub use test::{begin_test, end_test};
