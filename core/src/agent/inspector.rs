//! What an embedding program sees of the journal while it is written.

use crate::journal::SegmentSummary;

/// Sees what the journal records, on the journal's thread.
///
/// Each call must return soon and wait for nothing: writers go on, but the queue fills meanwhile.
/// `hrl_suspicion` is one that notices data being encrypted.
pub trait Inspector: Send + Sync {
    /// Sees `data` that was written at `offset`. Called in write order; long data comes in parts.
    fn wrote(&self, offset: u64, data: &[u8]);

    /// Learns that what it saw since the last call is durable in this segment.
    fn closed(&self, segment: &SegmentSummary);
}
