//! The rules of shipping, the catalog and retention, for programs that predict what the product does.
//!
//! Every number and decision here is the one that the product itself goes by, so a rule that changes changes the
//! prediction too. Nothing here reads or writes anything.

use std::time::Duration;

use crate::agent;
use crate::policy::RetentionPolicy;
pub use crate::policy::Throttle;
use crate::replica::{self, Fold};
use crate::units::Timestamp;
use crate::vault::{self, SegmentEntry};

/// Every catalog version whose number is a multiple of this holds the whole state. Versions before the last but one of
/// those are deleted.
pub const SNAPSHOT_EVERY: u64 = vault::SNAPSHOT_EVERY;
/// Most segments that are put before the catalog is looked at.
pub const BATCH_SEGMENTS_MAX: usize = agent::BATCH_MAX;
/// A batch of puts ends, and may be published, when it has taken this long.
pub const BATCH_TIME: Duration = agent::BATCH_TIME;
/// With so many segments put and not published, the policy's interval is not waited for.
pub const UNPUBLISHED_SEGMENTS_MAX: usize = agent::UNPUBLISHED_MAX;
/// Most bytes of one read when a segment of an object store is fetched to be folded.
pub const FETCH_BYTES: u64 = replica::FETCH_BYTES;

/// Returns what retention would fold of these segments at `now`, newest first. Assumes a volume that was in order
/// throughout, without pins, verdicts and branches, whose points are crash-consistent.
pub fn folds_of(entries: &[SegmentEntry], policy: &RetentionPolicy, now: Timestamp) -> Vec<Fold> {
    replica::folds_of(entries, policy, now)
}

/// Returns whether a run of segments is too small to be looked at for the bytes that a fold saves.
pub fn is_too_small_to_fold(segments: usize, stored_bytes: u64) -> bool {
    replica::is_few(segments, stored_bytes)
}

/// Returns the stored bytes that a run must hold for a fold that writes `folded_bytes` to pay.
pub fn least_bytes_to_fold(folded_bytes: u64) -> u64 {
    replica::least_bytes_in(folded_bytes)
}

/// Returns the stored bytes at which a run is looked at again that holds `stored_bytes` and needs `least_bytes`.
pub fn look_again_at(least_bytes: u64, stored_bytes: u64) -> u64 {
    replica::look_again_at(least_bytes, stored_bytes)
}
