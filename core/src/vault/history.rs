//! The history of a volume as its catalog tells it: stretches, gaps, and which states can be restored.
//!
//! A state is honest when no unordered interval is open at it. A folded segment stands for one state alone, that at its
//! last sequence; the states before it are gone, and the timeline says so.

use super::catalog::Catalog;
use super::edit::SegmentEntry;
use crate::event::Cause;
use crate::journal::{MarkEntry, SegmentKind};
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
    /// `None` for an ordered stretch, where every sequence can be restored; else why it is not.
    pub unordered: Option<Cause>,
    /// Retention folded the stretch into one state: only the last sequence of the fold can be restored.
    pub folded: bool,
}

/// The unordered intervals of a catalog: each from its begin up to, not including, its end. What the journal lost
/// is in one too.
#[derive(Default)]
pub(crate) struct Intervals(Vec<(Sequence, Sequence)>);

impl Intervals {
    /// True when `sequence` is in none.
    pub(crate) fn is_ordered_at(&self, sequence: Sequence) -> bool {
        let next = self.0.partition_point(|(begin, _)| *begin <= sequence);
        next == 0 || self.0[next - 1].1 <= sequence
    }

    /// The newest state before the intervals that are last and touch each other.
    fn before_the_end(&self) -> Sequence {
        let mut before = Sequence(u64::MAX);
        for (begin, end) in self.0.iter().rev() {
            if end.0 == u64::MAX || end.0 > before.0 {
                before = Sequence(begin.0.saturating_sub(1));
            }
        }
        before
    }

    /// Where an interval that has not ended begins.
    pub(crate) fn open_from(&self) -> Option<Sequence> {
        self.0.last().filter(|(_, end)| end.0 == u64::MAX).map(|(begin, _)| *begin)
    }
}

impl Catalog {
    /// The cause of an unordered interval that has not ended.
    pub fn open_unordered(&self) -> Option<Cause> {
        self.segments()
            .iter()
            .rev()
            .find_map(|entry| entry.summary.order_changes.last())
            .and_then(|change| change.begin)
    }

    /// The history in stretches, oldest first.
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
                if let Some(last) = entries.last_mut() {
                    last.to = Sequence(change.sequence.0.saturating_sub(1));
                    last.to_time = change.time;
                }
                // A gap that the journal began because of a loss begins where the loss does.
                let lost = change.sequence == summary.first_sequence;
                let from = if lost { before.next() } else { change.sequence };
                entries.push(stretch(from, change.time, unordered, folded));
            }
            before = summary.last_sequence;
            if let Some(last) = entries.last_mut() {
                last.to = summary.last_sequence;
                last.to_time = summary.last_time;
            }
        }
        entries.retain(|entry| entry.from <= entry.to);
        entries
    }

    /// True when the volume as of `sequence` is a state that it really had, as far as order goes.
    pub fn is_ordered_at(&self, sequence: Sequence) -> bool {
        self.unordered_intervals().is_ordered_at(sequence)
    }

    /// The newest sequence that can be restored; `None` before the first copy is complete.
    pub fn newest_ordered(&self) -> Option<Sequence> {
        let last = self.segments().last()?.summary.last_sequence;
        let intervals = self.unordered_intervals();
        match intervals.open_from() {
            None => Some(last),
            Some(_) => Some(intervals.before_the_end()).filter(|s| s.0 > 0),
        }
    }

    pub(crate) fn unordered_intervals(&self) -> Intervals {
        let mut intervals = Vec::new();
        let mut begun: Option<Sequence> = None;
        let mut last = Sequence::ZERO;
        for SegmentEntry { summary, .. } in self.segments() {
            // What has these sequences never arrived: the journal lost it.
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

    /// The folded segment in which `sequence` lies before its end, as its first and last sequence.
    pub(crate) fn folded_around(&self, sequence: Sequence) -> Option<(Sequence, Sequence)> {
        let after = self.segments().partition_point(|e| e.summary.first_sequence <= sequence);
        let summary = &self.segments()[after.checked_sub(1)?].summary;
        let inside = summary.kind != SegmentKind::Log && sequence < summary.last_sequence;
        inside.then_some((summary.first_sequence, summary.last_sequence))
    }

    /// The marks that are recovery points: those outside of unordered intervals, oldest first.
    pub(crate) fn point_marks(&self) -> impl Iterator<Item = (&SegmentEntry, &MarkEntry)> {
        let intervals = self.unordered_intervals();
        self.segments()
            .iter()
            .flat_map(|entry| entry.summary.marks.iter().map(move |mark| (entry, mark)))
            .filter(move |(_, mark)| {
                !mark.mark.is_commitment() && intervals.is_ordered_at(mark.sequence)
            })
    }

    /// True when the catalog has a recovery point of this identity.
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
