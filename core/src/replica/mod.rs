//! Replicas: the volumes in a vault, and what can be done with them without their source.
//!
//! A [`Vault`] holds volumes; a [`Replica`] is one of them as of a version of its catalog. It gives points, views,
//! restores, change sets and verification. Reading never writes to the vault.

mod annotations;
mod at;
mod branch;
mod catalog;
mod changes;
mod codec;
mod compact;
mod edit;
mod fingerprints;
mod groups;
mod history;
mod instant;
mod keys;
#[cfg(test)]
mod keys_tests;
mod layers;
mod lifecycle;
mod overlay;
mod restore;
mod retention;
#[cfg(test)]
mod retention_tests;
#[cfg(test)]
mod tests;
mod vault;
mod verify;
mod versions;
mod view;

use crate::parallel;
pub use annotations::{
    ANNOTATION_BYTES_MAX, Commitment, PINS_MAX, Pin, PinUntil, Verdict, VerdictKind,
};
pub use at::At;
pub use branch::BRANCHES_MAX;
pub use catalog::Catalog;
pub(crate) use catalog::SNAPSHOT_EVERY;
#[cfg(any(test, feature = "testing"))]
pub use catalog::mend_catalog_version;
pub use changes::{ChangeRun, ChangeSet};
pub use compact::{CompactOptions, CompactReport, Compactor};
pub(crate) use compact::{FETCH_BYTES, is_few, least_bytes_in, look_again_at};
pub use edit::{Branch, CatalogEdit, Division, SegmentEntry, SourceIdentity};
pub(crate) use fingerprints::{COMPARED_BYTES, Fingerprints};
pub use history::TimelineEntry;
#[cfg(any(test, feature = "testing"))]
pub use instant::mend_presence_log;
pub(crate) use instant::present_in;
pub use instant::{Hydration, InstantBase, InstantDisk, InstantOptions, TargetContent};
pub use keys::{RotationReport, ShredOptions, ShredReport};
pub use lifecycle::{
    Lifecycle, NOTE_BYTES_MAX, STEPS_MAX, Stage, Step, StepKind, TESTS_MAX, TestFailover,
};
pub use overlay::Overlay;
pub(crate) use restore::is_zero;
pub use restore::{RestoreReport, RestoreTarget};
pub(crate) use retention::folds_of;
pub use retention::{Fold, FoldReason, KeepReason, KeptState, RetentionPlan, plan};
#[cfg(any(test, feature = "testing"))]
pub use vault::mend_volume_record;
pub use vault::{GoodBecause, RecoveryPoint, Replica, Vault, VolumeInfo};
pub use verify::{Finding, VerifyReport};
pub(crate) use versions::VersionNames;
pub use view::{View, ViewOptions};

/// Tells how far a long operation is, as bytes done and bytes in all, and stops it when it returns false. Called from
/// several threads.
pub type Progress<'a> = &'a (dyn Fn(u64, u64) -> bool + Sync);
