//! Stores the changes of a volume in write order, as `.hrl` segments.
//!
//! [`SegmentWriter`] writes a segment once: compressed, checksummed, encrypted if there is a key,
//! indexed and chained to the segment before. A closed segment is only read: by memory map on a
//! local file, by ranges in a store. `core/docs/format.md` specifies the bytes; only `format` knows
//! them.

mod cipher;
mod format;
mod frame;
mod index;
mod merge;
#[cfg(test)]
mod merge_tests;
mod reader;
mod repair;
mod sink;
mod source;
#[cfg(test)]
mod tests;
mod trim;
mod verify;
mod wrapping;
mod writer;

pub use cipher::{KeyRing, VolumeKey, nonce_for};
#[cfg(any(test, feature = "testing"))]
pub use format::mend_segment;
#[cfg(test)]
pub(crate) use format::specification;
pub use format::{IndexEntry, IndexKind};
pub use frame::Frame;
pub(crate) use merge::merged_data_bytes;
pub use merge::{MergeReport, merge};
pub use reader::Segment;
pub(crate) use repair::repair_source;
pub use repair::{RepairReport, repair};
pub use sink::{FileSink, SegmentSink};
pub(crate) use source::open_mapped_in;
pub use source::{BytesSource, ObjectSource, SegmentSource, open_mapped};
pub(crate) use trim::trim;
pub(crate) use wrapping::wrong_key;
pub use wrapping::{Binding, WrappingKey};
#[cfg(any(test, feature = "testing"))]
pub use wrapping::{wrap_version_1, wrap_version_2};
pub(crate) use writer::RECORD_EXTRA_BYTES_MAX;
pub use writer::SegmentWriter;

use crate::event::Cause;
use crate::macros::{coded, named};
use crate::policy::Compression;
use crate::units::{ChainHash, Epoch, PointId, Sequence, Timestamp, VolumeId};
use crate::{Extent, device::Discarded};

named! {
    /// What a recovery point promises.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub enum PointKind {
        /// Crash-consistent: what a power failure would leave.
        Crash = "crash",
        /// Applications were quiesced and flushed.
        App = "app",
        /// One cut across the volumes of a group, crash-consistent.
        GroupCrash = "group-crash",
        /// One cut across a group whose applications were quiesced.
        GroupApp = "group-app",
        /// The application declared it at a transaction boundary of its own, without a freeze.
        Declared = "declared",
    }
}
coded!(pub(crate) PointKind);

/// A recovery point in its place in the write order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Its identity.
    pub point: PointId,
    /// What it promises.
    pub kind: PointKind,
    /// Free text for people, at most [`LABEL_BYTES_MAX`] bytes; may be empty.
    pub label: String,
    /// Identity shared by the members of a group point.
    pub group: Option<PointId>,
}

impl Mark {
    /// Returns whether this mark commits the group point whose identity it has, and is no point
    /// itself. It says that every member's mark is durable; its label is the member count and the
    /// group's name.
    pub fn is_commitment(&self) -> bool {
        self.group == Some(self.point)
    }
}

/// Longest label of a mark, in bytes of UTF-8.
pub const LABEL_BYTES_MAX: usize = 255;

/// Most data in one write record, in bytes. Longer writes become several records.
pub const RECORD_DATA_BYTES_MAX: usize = 1 << 20;

/// What a record says happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Body<'a> {
    /// These bytes were written at this offset.
    Write {
        /// First byte of the volume written.
        offset: u64,
        /// What was written; never empty.
        data: &'a [u8],
    },
    /// The extent was made to read as zeroes.
    Zero(Extent),
    /// The extent was discarded, and this is what the device did (never `Ignored`).
    Discard(Extent, Discarded),
    /// The extent changed; its data was not captured (extents-only capture).
    Touch(Extent),
    /// The writer asked for durability.
    Flush,
    /// A recovery point.
    Mark(Mark),
    /// The journal is unordered from here on, for this cause. No prefix that ends before the
    /// matching end is a point.
    UnorderedBegin(Cause),
    /// The journal is complete and ordered again.
    UnorderedEnd,
}

impl Body<'_> {
    /// Returns the bytes of the volume that the record changes; empty if it changes none.
    pub fn extent(&self) -> Extent {
        match self {
            Self::Write { offset, data } => Extent { offset: *offset, length: data.len() as u64 },
            Self::Zero(extent) | Self::Discard(extent, _) | Self::Touch(extent) => *extent,
            _ => Extent::default(),
        }
    }
}

/// One change, in its place in the write order.
#[derive(Clone, Debug, PartialEq)]
pub struct Record<'a> {
    /// Its place.
    pub sequence: Sequence,
    /// When it was captured; for people, never for order.
    pub time: Timestamp,
    /// What it says.
    pub body: Body<'a>,
}

named! {
    /// Kind of a segment.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub enum SegmentKind {
        /// Records in write order.
        Log = "log",
        /// Several logs folded into one: the last writer of each block, in disk order. Valid only
        /// as a whole.
        Merged = "merged",
        /// The whole volume as of its last sequence, in disk order. Absent ranges read as zeroes.
        Image = "image",
    }
}
coded!(pub(crate) SegmentKind);

/// Header of a new segment, and how it is written.
#[derive(Clone, Debug)]
pub struct SegmentParams {
    /// Kind of the segment.
    pub kind: SegmentKind,
    /// Volume whose changes it contains.
    pub volume: VolumeId,
    /// Epoch in which they were made.
    pub epoch: Epoch,
    /// First sequence covered, even if the first record comes later.
    pub first_sequence: Sequence,
    /// Size of the volume in bytes.
    pub device_bytes: u64,
    /// Logical block size of the volume in bytes.
    pub block_bytes: u32,
    /// Chain hash of the segment before it; zeroes for the first. A merged segment or image has the
    /// hash *before the first* segment that it replaces.
    pub previous: ChainHash,
    /// For a merged segment or image: the chain hash of the last segment that it replaces.
    pub replaces_through: Option<ChainHash>,
    /// When it was begun.
    pub created: Timestamp,
    /// How frames are compressed.
    pub compression: Compression,
    /// Bytes of records per frame before compression.
    pub frame_bytes: u64,
}

/// A mark with its place and time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarkEntry {
    /// Place in the write order.
    pub sequence: Sequence,
    /// When it was marked.
    pub time: Timestamp,
    /// The mark.
    pub mark: Mark,
}

impl MarkEntry {
    fn record(&self) -> Record<'static> {
        Record { sequence: self.sequence, time: self.time, body: Body::Mark(self.mark.clone()) }
    }
}

/// Begin or end of an unordered interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrderChange {
    /// Place in the write order.
    pub sequence: Sequence,
    /// When it happened.
    pub time: Timestamp,
    /// The cause at a begin; `None` at an end.
    pub begin: Option<Cause>,
}

impl OrderChange {
    fn record(&self) -> Record<'static> {
        let body = self.begin.map_or(Body::UnorderedEnd, Body::UnorderedBegin);
        Record { sequence: self.sequence, time: self.time, body }
    }
}

/// What a closed segment contains, according to its footer and notes. Catalogs keep it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentSummary {
    /// Kind of the segment.
    pub kind: SegmentKind,
    /// Volume of the changes.
    pub volume: VolumeId,
    /// Epoch of the changes.
    pub epoch: Epoch,
    /// First sequence covered.
    pub first_sequence: Sequence,
    /// Last sequence covered.
    pub last_sequence: Sequence,
    /// Time of the first record.
    pub first_time: Timestamp,
    /// Time of the last record.
    pub last_time: Timestamp,
    /// Random identity (the salt of its header).
    pub salt: [u8; 16],
    /// Chain hash of the segment before.
    pub previous: ChainHash,
    /// Its own chain hash.
    pub chain: ChainHash,
    /// Number of records.
    pub records: u64,
    /// Bytes of data in write records.
    pub data_bytes: u64,
    /// Bytes of the whole segment as stored.
    pub stored_bytes: u64,
    /// Marks, by sequence.
    pub marks: Vec<MarkEntry>,
    /// Begins and ends of unordered intervals, by sequence.
    pub order_changes: Vec<OrderChange>,
}

impl SegmentSummary {
    /// Returns the object name of the segment, without folder:
    /// `e00000001-00000000000000000001-00000000000000000fff-1a2b3c4d.hrl`. The parts are epoch,
    /// first and last sequence in hexadecimal, and the begin of the salt. An image starts with `i`,
    /// a merged segment with `m`.
    pub fn object_name(&self) -> String {
        let letter = match self.kind {
            SegmentKind::Log => 'e',
            SegmentKind::Merged => 'm',
            SegmentKind::Image => 'i',
        };
        let salt = u32::from_be_bytes([self.salt[0], self.salt[1], self.salt[2], self.salt[3]]);
        format!(
            "{letter}{:08x}-{:016x}-{:016x}-{salt:08x}.hrl",
            self.epoch.0, self.first_sequence.0, self.last_sequence.0
        )
    }
}
