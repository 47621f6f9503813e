//! The edits that catalog versions list, and what they speak of.

use super::annotations::{Commitment, Pin, Verdict};
use super::lifecycle::{Lifecycle, Step};
use crate::error::{Error, ErrorKind, Result};
use crate::journal::{Segment, SegmentSummary};
use crate::units::{ChainHash, Epoch, PointId, Sequence, Timestamp};

/// Identity of the source that writes a volume: drawn at random for each state directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceIdentity {
    /// Random identity.
    pub id: [u8; 16],
    /// Name of the host, for people.
    pub host: String,
    /// When it took the volume.
    pub since: Timestamp,
}

/// One session of a source: drawn at random each time that an agent opens a protection.
///
/// The catalog names the instance that published last. So two agents on copies of one state
/// directory, which share the identity of their source, are told apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceInstance {
    /// Random identity.
    pub id: [u8; 16],
    /// Name of the host, for people.
    pub host: String,
    /// When it began.
    pub since: Timestamp,
}

/// Returns the name of this host.
pub(crate) fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// A segment that belongs to the volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentEntry {
    /// Full name of its object in the store.
    pub object: String,
    /// What it contains.
    pub summary: SegmentSummary,
}

impl SegmentEntry {
    /// Returns `Corrupt` if `segment` is not the one that the entry describes.
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
    /// A source takes the volume; edits of any other source are refused from now on.
    Source(SourceIdentity),
    /// A session of the source publishes from now on; other sessions of it are refused.
    Instance(SourceInstance),
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
    /// The pin of a point, or its legal hold, is removed.
    Unpin {
        /// The point.
        point: PointId,
        /// Whether the legal hold is meant, not the pin.
        legal_hold: bool,
    },
    /// What a check of a recovery point found.
    Verdict(Verdict),
    /// These objects will be deleted; no later version may list them.
    Retired {
        /// Full names in the store.
        objects: Vec<String>,
        /// When they were retired.
        at: Timestamp,
    },
    /// These retired objects are deleted.
    Deleted(Vec<String>),
    /// A group point was committed. Snapshots only: the history has it in a mark.
    Committed(Commitment),
    /// The epoch ends at a recovery state, and another source has the volume from there on.
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
    /// The epoch; snapshots only.
    Epoch(Epoch),
    /// A branch; snapshots only.
    Branch(Branch),
    /// The life cycle; snapshots only.
    Lifecycle(Lifecycle),
    /// The source was there at this time and had nothing else to publish.
    Heartbeat(Timestamp),
    /// The next version is the snapshot of this number.
    Next(u64),
}

impl CatalogEdit {
    /// Returns whether the version lists segments that its writer has put just before.
    pub(super) fn lists_segments(&self) -> bool {
        match self {
            Self::Segments(_) | Self::Replace { .. } | Self::Late { .. } => true,
            Self::Divide(division) => division.cut.is_some(),
            _ => false,
        }
    }
}

/// Ends the epoch of a volume at a recovery state. Its author is the source of the next epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Division {
    /// The epoch that begins.
    pub epoch: Epoch,
    /// The recovery state that it begins with.
    pub at: Sequence,
    /// Replaces the segment that the state lies in, up to the state. `None` if the state is the end
    /// of a segment.
    pub cut: Option<SegmentEntry>,
    /// The source from now on.
    pub source: SourceIdentity,
    /// When the epoch ended.
    pub time: Timestamp,
}

/// What the source of an ended epoch wrote after the recovery state at which it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Branch {
    /// The ended epoch.
    pub epoch: Epoch,
    /// The recovery state at which it ended.
    pub at: Sequence,
    /// The end of the volume's segment on which the first segment of the branch stands: `at`, or
    /// before it.
    pub base: Sequence,
    /// Chain hash that its next segment must name.
    pub chain: ChainHash,
    /// The source that wrote it; `None` if nobody had the volume.
    pub source: Option<SourceIdentity>,
    /// When the epoch ended.
    pub time: Timestamp,
    /// Its segments, in write order.
    pub segments: Vec<SegmentEntry>,
}

impl Branch {
    /// Returns the last sequence of its segments, or of the state at which the epoch ended if it
    /// has none.
    pub fn last_sequence(&self) -> Sequence {
        self.segments.last().map_or(self.at, |entry| entry.summary.last_sequence)
    }

    /// Returns whether nothing is known to have been written after that state.
    pub fn is_empty(&self) -> bool {
        self.last_sequence() <= self.at
    }

    /// Returns the stored bytes of its segments.
    pub fn stored_bytes(&self) -> u64 {
        let bytes = self.segments.iter().map(|entry| entry.summary.stored_bytes);
        bytes.fold(0, u64::saturating_add)
    }
}
