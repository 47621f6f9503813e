//! Deletion that can be taken back, and the maintenance of vaults.
//!
//! A vault with a *deletion delay* keeps what is deleted from it: [`DelayedStore`] puts a tombstone
//! for each delete, and [`undelete`] brings back what was deleted since a time, folds included. A
//! [`Maintainer`] carries retention out under its own identity, and purges tombstones whose delay is
//! over.
//!
//! The delay protects against whoever may delete through a `DelayedStore`, for example through a
//! gateway over it. Whoever has the credentials of the store below can delete for good.

mod delay;
mod delayed;
mod history;
mod maintainer;
mod overlay;
mod purge;
mod tombstone;
mod undelete;

pub use delay::{DEFAULT_DELAY, DELAY_MAX, delay_of, ensure_delay, set_delay};
pub use delayed::DelayedStore;
pub use maintainer::{MaintainOptions, MaintainedVolume, Maintainer};
pub use purge::{PurgeOptions, PurgeReport, purge};
pub use tombstone::{DELETED, Deleted, deleted};
pub use undelete::{UndeleteOptions, Undeleted, undelete};
