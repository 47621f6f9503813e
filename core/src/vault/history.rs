//! The history of a volume as its catalog has it: stretches, gaps, and which states can be
//! restored.
//!
//! A state can be restored if no unordered interval is open at it. A folded segment stands for one
//! state alone, that at its last sequence; the states before it are gone, and the timeline shows
//! that.

use super::content::CatalogContent;
use super::edit::SegmentEntry;
use crate::event::Cause;
use crate::journal::{MarkEntry, OrderChange, SegmentKind, SegmentSummary};
use crate::units::{PointId, Sequence, Timestamp};

/// One stretch of a volume's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimelineEntry {
    /// First sequence of the stretch.
    pub from: Sequence,
    /// Last sequence of the stretch.
    pub to: Sequence,
    /// When it began.
    pub from_time: Timestamp,
    /// When it ended.
    pub to_time: Timestamp,
    /// The cause of an unordered interval; `None` for an ordered stretch, in which every sequence
    /// can be restored.
    pub unordered: Option<Cause>,
    /// Whether retention folded the stretch into one state. Only the last sequence of the fold can
    /// be restored.
    pub folded: bool,
}

/// Returns the first time at which a change may be missing from a journal that ends with these
/// segments, oldest first; `None` without segments.
///
/// That is the begin of an unordered interval that they leave open, or else the time after their
/// last record. A first copy or a requested resync begins without a missing change.
pub(crate) fn missing_since<'a>(
    summaries: impl Iterator<Item = &'a SegmentSummary>,
) -> Option<Timestamp> {
    let (mut open, mut newest) = (None, None);
    for summary in summaries {
        newest = Some(summary.last_time);
        for change in &summary.order_changes {
            open = match change.begin {
                None => None,
                Some(Cause::InitialReplication | Cause::Requested) => open,
                Some(_) => open.or(Some(change.time)),
            };
        }
    }
    open.or_else(|| newest.map(|time| Timestamp(time.0.saturating_add(1))))
}

/// Returns the sequence of the order change that leaves the volume out of order at `time`; `None`
/// if it is in order.
pub(crate) fn unordered_at(changes: &[OrderChange], time: Timestamp) -> Option<Sequence> {
    let mut open = None;
    for change in changes.iter().take_while(|change| change.time <= time) {
        open = change.begin.and(open.or(Some(change.sequence)));
    }
    open
}

/// The unordered intervals of a catalog, each without its end. Sequences that the journal lost are
/// in one, too.
#[derive(Default)]
pub(crate) struct Intervals(Vec<(Sequence, Sequence)>);

impl Intervals {
    /// Returns whether `sequence` is in none of them.
    pub(crate) fn is_ordered_at(&self, sequence: Sequence) -> bool {
        let next = self.0.partition_point(|(begin, _)| *begin <= sequence);
        next == 0 || self.0[next - 1].1 <= sequence
    }

    /// Returns the newest state before the run of touching intervals at the end.
    fn before_the_end(&self) -> Sequence {
        let mut before = Sequence(u64::MAX);
        for (begin, end) in self.0.iter().rev() {
            if end.0 == u64::MAX || end.0 > before.0 {
                before = Sequence(begin.0.saturating_sub(1));
            }
        }
        before
    }

    /// Returns the begin of an interval that has not ended.
    pub(crate) fn open_from(&self) -> Option<Sequence> {
        self.0.last().filter(|(_, end)| end.0 == u64::MAX).map(|(begin, _)| *begin)
    }
}

impl CatalogContent {
    /// Returns the cause of an unordered interval that has not ended.
    pub fn open_unordered(&self) -> Option<Cause> {
        self.segments()
            .iter()
            .rev()
            .find_map(|entry| entry.summary.order_changes.last())
            .and_then(|change| change.begin)
    }

    /// Returns the history in stretches, oldest first.
    pub fn timeline(&self) -> Vec<TimelineEntry> {
        let mut entries: Vec<TimelineEntry> = Vec::new();
        let mut unordered = None;
        let mut before = Sequence::ZERO;
        for SegmentEntry { summary, .. } in self.segments() {
            let folded = summary.kind != SegmentKind::Log;
            if folded || entries.last().is_none_or(|last| last.folded) {
                let (from, time) = (summary.first_sequence, summary.first_time);
                entries.push(stretch(from, time, unordered, folded));
            }
            for change in &summary.order_changes {
                if unordered.is_some() && change.begin.is_some() {
                    continue;
                }
                unordered = change.begin;
                // A gap that the journal began because of a loss begins where the loss does. Its
                // time is that of the first lost change.
                let lost = change.begin.is_some() && change.sequence == summary.first_sequence;
                let from = if lost { before.next() } else { change.sequence };
                if let Some(last) = entries.last_mut() {
                    last.to = Sequence(from.0.saturating_sub(1));
                    last.to_time = change.time;
                }
                entries.push(stretch(from, change.time, unordered, folded));
            }
            before = summary.last_sequence;
            if let Some(last) = entries.last_mut() {
                last.to = summary.last_sequence;
                last.to_time = summary.last_time;
            }
        }
        entries.retain(|entry| entry.from <= entry.to);
        // Between the points of an attached disk is one stretch, in which nothing can be restored.
        entries.dedup_by(|next, last| {
            let joins = last.unordered == Some(Cause::Observed)
                && next.unordered.is_none_or(|cause| cause == Cause::Observed)
                && !(last.folded || next.folded);
            if joins {
                (last.to, last.to_time) = (next.to, next.to_time);
            }
            joins
        });
        entries
    }

    /// Returns whether the volume was in order at `sequence`, so that this state can be restored
    /// unless it was folded.
    pub fn is_ordered_at(&self, sequence: Sequence) -> bool {
        self.unordered_intervals().is_ordered_at(sequence)
    }

    /// Returns the newest sequence that can be restored; `None` before the first copy is complete.
    pub fn newest_ordered(&self) -> Option<Sequence> {
        let last = self.segments().last()?.summary.last_sequence;
        let intervals = self.unordered_intervals();
        match intervals.open_from() {
            None => Some(last),
            Some(_) => Some(intervals.before_the_end()).filter(|s| s.0 > 0),
        }
    }

    /// Returns the unordered intervals, oldest first.
    pub(crate) fn unordered_intervals(&self) -> Intervals {
        let mut intervals = Vec::new();
        let mut begun: Option<Sequence> = None;
        let mut last = Sequence::ZERO;
        for SegmentEntry { summary, .. } in self.segments() {
            // Records with these sequences never arrived: the journal lost them.
            if begun.is_none() && summary.first_sequence > last.next() {
                intervals.push((last.next(), summary.first_sequence));
            }
            last = summary.last_sequence;
            for change in &summary.order_changes {
                match (change.begin, begun) {
                    (Some(_), None) => begun = Some(change.sequence),
                    (None, Some(begin)) => {
                        intervals.push((begin, change.sequence));
                        begun = None;
                    }
                    _ => {}
                }
            }
        }
        intervals.extend(begun.map(|begin| (begin, Sequence(u64::MAX))));
        Intervals(intervals)
    }

    /// Returns first and last sequence of the folded segment in which `sequence` lies before the
    /// end.
    pub(crate) fn folded_around(&self, sequence: Sequence) -> Option<(Sequence, Sequence)> {
        let after = self.segments().partition_point(|e| e.summary.first_sequence <= sequence);
        let summary = &self.segments()[after.checked_sub(1)?].summary;
        let inside = summary.kind != SegmentKind::Log && sequence < summary.last_sequence;
        inside.then_some((summary.first_sequence, summary.last_sequence))
    }

    /// Returns the marks that are recovery points, oldest first: those outside unordered intervals.
    pub(crate) fn point_marks(&self) -> impl Iterator<Item = (&SegmentEntry, &MarkEntry)> {
        let intervals = self.unordered_intervals();
        self.segments()
            .iter()
            .flat_map(|entry| entry.summary.marks.iter().map(move |mark| (entry, mark)))
            .filter(move |(_, mark)| {
                !mark.mark.is_commitment() && intervals.is_ordered_at(mark.sequence)
            })
    }

    /// Returns whether the catalog has a recovery point of this identity.
    pub(super) fn has_point(&self, point: PointId) -> bool {
        self.point_marks().any(|(_, mark)| mark.mark.point == point)
    }
}

fn stretch(
    from: Sequence,
    time: Timestamp,
    unordered: Option<Cause>,
    folded: bool,
) -> TimelineEntry {
    let folded = folded && unordered.is_none();
    TimelineEntry { from, to: from, from_time: time, to_time: time, unordered, folded }
}
