//! Records on their way from the tap to the journal.

use crate::device::{Buffer, Discarded};
use crate::event::Cause;
use crate::extent::Extent;
use crate::journal::Mark;
use crate::units::{Sequence, Timestamp};

/// Memory of a queued record beside its data, as counted against the budget.
const RECORD_OVERHEAD_BYTES: u64 = 128;

/// Content of a queued record.
#[derive(Debug)]
pub enum QueuedBody {
    /// Data at an offset. Data above
    /// [`RECORD_DATA_BYTES_MAX`](crate::journal::RECORD_DATA_BYTES_MAX) takes one sequence per
    /// chunk of that size; the record carries the last of them.
    Write(u64, Buffer),
    /// The extent was made to read as zeroes.
    Zero(Extent),
    /// The extent was discarded.
    Discard(Extent, Discarded),
    /// The extent changed; its data was not captured.
    Touch(Extent),
    /// The writer flushed.
    Flush,
    /// A recovery point.
    Mark(Mark),
    /// An unordered interval begins.
    UnorderedBegin(Cause),
    /// The unordered interval ends.
    UnorderedEnd,
}

/// A record on its way to the journal.
#[derive(Debug)]
pub struct QueuedRecord {
    /// Place in the write order.
    pub sequence: Sequence,
    /// Time of capture.
    pub time: Timestamp,
    /// Content.
    pub body: QueuedBody,
}

impl QueuedRecord {
    #[inline]
    pub(super) fn cost_bytes(&self) -> u64 {
        RECORD_OVERHEAD_BYTES
            + if let QueuedBody::Write(_, data) = &self.body { data.capacity() as u64 } else { 0 }
    }
}
