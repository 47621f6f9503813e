//! The recovery state that a failover goes to, and what the catalog knows of it.

use crate::replica::Replica;
use crate::units::{PointId, Sequence, Timestamp};

/// A recovery state that a failover goes to.
#[derive(Clone, Copy, Debug)]
pub(super) struct ChosenState {
    pub sequence: Sequence,
    pub time: Timestamp,
    pub point: Option<PointId>,
}

/// Returns the recovery state at `sequence` with its time and its point, if it has one.
pub(super) fn chosen(replica: &Replica, sequence: Sequence) -> ChosenState {
    let points = replica.points();
    let point = points.iter().rev().find(|point| point.sequence == sequence);
    let entries = replica.catalog().segments();
    let after = entries.partition_point(|entry| entry.summary.first_sequence <= sequence);
    let summary = after.checked_sub(1).map(|before| &entries[before].summary);
    // Sequences between two segments were never recorded: the state is the end of the one before.
    let sequence = summary.map_or(sequence, |summary| sequence.min(summary.last_sequence));
    let time = match (point, summary) {
        (Some(point), _) => point.time,
        (None, Some(summary)) => summary.last_time,
        (None, None) => replica.info().created,
    };
    ChosenState { sequence, time, point: point.map(|point| point.id) }
}
