//! The rules of shipping, the catalog and retention, for programs that predict what an agent does.
//!
//! Every number and decision here is the product's own, so a rule that changes changes the
//! prediction too. Nothing here reads or writes anything.

use std::time::Duration;

use crate::agent;
use crate::policy::RetentionPolicy;
pub use crate::policy::Throttle;
use crate::replica::{self, Fold};
use crate::units::Timestamp;
use crate::vault::{self, SegmentEntry};

/// Interval of the catalog versions that list everything. A version is one if its number is a
/// multiple of this. Versions before the last but one of them are deleted.
pub const SNAPSHOT_EVERY: u64 = vault::SNAPSHOT_EVERY;
/// Most segments that are put before the catalog is read again.
pub const BATCH_SEGMENTS_MAX: usize = agent::BATCH_MAX;
/// Time after which a batch of puts ends and may be published.
pub const BATCH_TIME: Duration = agent::BATCH_TIME;
/// Number of unpublished segments from which on the policy's interval is not waited for.
pub const UNPUBLISHED_SEGMENTS_MAX: usize = agent::UNPUBLISHED_MAX;
/// Most bytes of one read while a segment is fetched from an object store to be folded.
pub const FETCH_BYTES: u64 = replica::FETCH_BYTES;

/// Returns what retention would fold of these segments at `now`, newest first. Assumes a volume
/// that was always in order, without pins, verdicts and branches, whose points are
/// crash-consistent.
pub fn folds_of(entries: &[SegmentEntry], policy: &RetentionPolicy, now: Timestamp) -> Vec<Fold> {
    replica::folds_of(entries, policy, now)
}

/// Returns whether a run of segments is too small to consider folding it for the bytes saved.
pub fn is_too_small_to_fold(segments: usize, stored_bytes: u64) -> bool {
    replica::is_few(segments, stored_bytes)
}

/// Returns the stored bytes of a run from which on a fold that writes `folded_bytes` pays.
pub fn least_bytes_to_fold(folded_bytes: u64) -> u64 {
    replica::least_bytes_in(folded_bytes)
}

/// Returns the stored bytes at which to consider a run again that has `stored_bytes` and needs
/// `least_bytes`.
pub fn look_again_at(least_bytes: u64, stored_bytes: u64) -> u64 {
    replica::look_again_at(least_bytes, stored_bytes)
}
