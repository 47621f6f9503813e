//! What a resync compares the disk with: the replica's content, as far as it is known.

use std::sync::Arc;

use super::spool::Spooled;
use super::state::StateDirectory;
use crate::error::Result;
use crate::journal::{Segment, open_mapped_in};
use crate::replica::{Replica, View, ViewOptions};
use crate::units::Sequence;

/// Most records of a replica that is compared with. Beyond it, dirty regions are journaled as they
/// are.
const COMPARE_RECORDS_MAX: u64 = 200_000;
const COMPARE_CACHE_BYTES: u64 = 8 << 20;

/// What is known of the replica's content in the dirty regions.
pub(super) enum Baseline {
    /// Nothing was ever replicated: the content is zeroes.
    Empty,
    /// The content of this view.
    View(Box<View>),
    /// Nothing is known: everything is journaled.
    Unknown,
}

impl Baseline {
    /// Returns the replica's content with these segments after it, unless that costs too much memory or
    /// fails.
    ///
    /// Without a comparison dirty regions are journaled as they are: more bytes, the same result.
    pub(super) fn of(
        state: &StateDirectory,
        replica: &Replica,
        spooled: &[Spooled],
        at: Sequence,
    ) -> Self {
        let published = replica.catalog().segments().iter().map(|entry| entry.summary.records);
        let records: u64 = published.chain(spooled.iter().map(|s| s.summary.records)).sum();
        if records > COMPARE_RECORDS_MAX {
            return Self::Unknown;
        }
        let open = || -> Result<View> {
            let mut segments = Vec::new();
            for entry in replica.catalog().segments() {
                segments.push(Arc::new(replica.open_segment(&entry.object)?));
            }
            for spooled in spooled {
                let source = open_mapped_in(&**state.files(), &spooled.path)?;
                segments.push(Arc::new(Segment::open(source, replica.keys())?));
            }
            let options = ViewOptions { cache_bytes: COMPARE_CACHE_BYTES, unordered: true };
            View::from_segments(replica.info(), segments, at, &options)
        };
        open().map_or(Self::Unknown, |view| Self::View(Box::new(view)))
    }
}
