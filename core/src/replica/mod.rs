//! Replicas: the volumes in a vault, and what can be done with them without their source.

mod catalog;
mod changes;
mod overlay;
mod restore;
mod vault;
mod verify;
mod view;

pub use catalog::{Catalog, CatalogEdit, SegmentEntry, SourceIdentity, TimelineEntry};
pub use changes::{ChangeRun, ChangeSet};
pub use overlay::Overlay;
pub use restore::{RestoreReport, RestoreTarget};
pub use vault::{At, RecoveryPoint, Replica, Vault, VolumeInfo};
pub use verify::{Finding, VerifyReport};
pub use view::{View, ViewOptions};

/// Tells how far a long operation is: bytes done, bytes in all. Called from the calling thread or workers; return false to stop.
pub type Progress<'a> = &'a (dyn Fn(u64, u64) -> bool + Sync);
