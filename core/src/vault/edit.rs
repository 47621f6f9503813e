//! What a catalog is made of: the edits that its versions list, and what they speak of.

use super::annotations::{Commitment, Pin, Verdict};
use super::lifecycle::{Lifecycle, Step};
use crate::error::{Error, ErrorKind, Result};
use crate::journal::{Segment, SegmentSummary};
use crate::units::{ChainHash, Epoch, PointId, Sequence, Timestamp};

/// Who writes a volume: drawn at random for each state directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceIdentity {
    /// Random identity.
    pub id: [u8; 16],
    /// Name of the host, for people.
    pub host: String,
    /// When it took the volume.
    pub since: Timestamp,
}

/// A segment that belongs to the volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentEntry {
    /// Full name of its object in the store.
    pub object: String,
    /// What it holds.
    pub summary: SegmentSummary,
}

impl SegmentEntry {
    /// `Corrupt` when `segment` is not the one that the entry describes.
    pub(crate) fn check(&self, segment: &Segment) -> Result<()> {
        let found = segment.summary();
        if found.chain == self.summary.chain && found.salt == self.summary.salt {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Corrupt, "open segment", &self.object)
            .expected(format_args!("the one with chain hash {}", self.summary.chain))
            .found(found.chain))
    }
}

/// One change of the catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CatalogEdit {
    /// A source takes the volume; edits of any other are refused from now on.
    Source(SourceIdentity),
    /// Segments at the end of the chain.
    Segments(Vec<SegmentEntry>),
    /// These entries take the place of these objects.
    Replace {
        /// What replaces them.
        with: Vec<SegmentEntry>,
        /// The objects replaced.
        objects: Vec<String>,
    },
    /// A recovery point is kept through retention.
    Pin(Pin),
    /// The pin of a point, or its legal hold, is taken off.
    Unpin {
        /// The point.
        point: PointId,
        /// The legal hold is meant, not the pin.
        hold: bool,
    },
    /// What a check of a recovery point found.
    Verdict(Verdict),
    /// These objects will be deleted; no later version may name them.
    Retired {
        /// Full names in the store.
        objects: Vec<String>,
        /// When they were retired.
        at: Timestamp,
    },
    /// These retired objects are deleted.
    Deleted(Vec<String>),
    /// A group point is one; only whole states say so, the history itself has it in a mark.
    Committed(Commitment),
    /// The epoch ends at a state, and another source has the volume from there on.
    Divide(Division),
    /// Segments of an ended epoch, at the end of its branch.
    Late {
        /// The ended epoch.
        epoch: Epoch,
        /// Its segments.
        segments: Vec<SegmentEntry>,
    },
    /// The branch of this epoch is no longer part of the volume.
    DropBranch(Epoch),
    /// A step in the life cycle of the volume.
    Step(Step),
    /// The epoch; only whole states say so.
    Epoch(Epoch),
    /// A branch; only whole states say so.
    Branch(Branch),
    /// The life cycle; only whole states say so.
    Lifecycle(Lifecycle),
}

impl CatalogEdit {
    /// Whether the version lists segments that its writer has put just before.
    pub(super) fn lists_segments(&self) -> bool {
        match self {
            Self::Segments(_) | Self::Replace { .. } | Self::Late { .. } => true,
            Self::Divide(division) => division.cut.is_some(),
            _ => false,
        }
    }
}

/// Ends the epoch of a volume at a state; who does it is its source in the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Division {
    /// The epoch that begins.
    pub epoch: Epoch,
    /// The state that it begins with.
    pub at: Sequence,
    /// What stands for the segment that the state is in, up to the state; `None` where it is the end of one.
    pub cut: Option<SegmentEntry>,
    /// The source from now on.
    pub source: SourceIdentity,
    /// When.
    pub time: Timestamp,
}

/// What the source of an ended epoch wrote after the state at which it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Branch {
    /// The ended epoch.
    pub epoch: Epoch,
    /// The state at which it ended.
    pub at: Sequence,
    /// The end of the volume's segment on which the first segment of the branch stands: `at`, or before it.
    pub base: Sequence,
    /// Chain hash that its next segment must name.
    pub chain: ChainHash,
    /// Who wrote it; `None` when nobody had the volume.
    pub source: Option<SourceIdentity>,
    /// When the epoch was ended.
    pub time: Timestamp,
    /// Its segments, in write order.
    pub segments: Vec<SegmentEntry>,
}

impl Branch {
    /// Last sequence of its segments; the state at which the epoch ended where it has none.
    pub fn last_sequence(&self) -> Sequence {
        self.segments.last().map_or(self.at, |entry| entry.summary.last_sequence)
    }

    /// Nothing was written after the state, as far as is known.
    pub fn is_empty(&self) -> bool {
        self.last_sequence() <= self.at
    }

    /// Stored bytes of its segments.
    pub fn stored_bytes(&self) -> u64 {
        let bytes = self.segments.iter().map(|entry| entry.summary.stored_bytes);
        bytes.fold(0, u64::saturating_add)
    }
}
