//! Failover: a protected volume continues elsewhere from a recovery state, and comes home again.
//!
//! [`FailoverOptions::start`] serves the volume as of the recovery state at once, on an
//! [`InstantDisk`](crate::replica::InstantDisk), and captures writes from the first one on. Nothing
//! is final until [`FailedOver::commit`], which fences the old source and makes what it wrote after
//! the recovery state a branch. [`cancel`] ends a failover that is not committed.
//!
//! [`Follower`] brings the disk at the old site up to date by writing only what differs.
//! [`Follower::fail_back`] takes the volume home, by a planned failover in the other direction.
//! [`begin_test`] and [`end_test`] record test failovers. The crate `hrl-plan` orders the failovers
//! of many volumes.
//!
//! Invariant: every step is recorded in the catalog before it acts, or is the record itself.
//!
//! Behaviour on failure: every step can be repeated after a crash. The state directory of the new
//! site records what is under way there, so that `start` goes on where it was.

mod cancel;
mod chosen;
mod divergence;
mod follow;
mod keep;
mod options;
mod over;
mod prepare;
mod request;
mod serve;
#[cfg(any(test, feature = "testing"))]
mod stepped;
mod test;

pub use cancel::{abandon, cancel};
#[cfg(any(test, feature = "testing"))]
pub use follow::reprint_follow;
pub use follow::{CatchUp, Follower};
pub use options::{FailoverOptions, Preview};
pub use over::FailedOver;
pub use serve::Started;
#[cfg(any(test, feature = "testing"))]
pub use stepped::{SteppedCopy, SteppedFailover};
pub use test::{begin_test, end_test};
