//! Planning of retention: which recovery states of a volume stay, and which segments can fold
//! because of that.
//!
//! Pure: a catalog, a policy and a time give a [`RetentionPlan`], which `compact` carries out.
//! Equal inputs give equal plans, and a plan that was carried out in part leaves the same rest.
//!
//! Invariants: a segment younger than `full`, the newest segment, and everything from an open
//! unordered interval on are never folded. No fold crosses the end of a kept state or an epoch, and
//! a fold ends where the volume was in order. So every kept state remains, and no state inside an
//! unordered interval can become one.
//!
//! A state is thinned out by its place on the calendar, not by its distance from others. Of each
//! interval the first point stays, so that growing older never changes the choice. A point that is
//! not kept stays usable until its segments are folded, which waits until folding pays.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::time::Duration;

use super::Replica;
use crate::journal::SegmentKind;
use crate::policy::RetentionPolicy;
use crate::units::{PointId, Sequence, Timestamp};
use crate::vault::{Catalog, Intervals, KeepReason, SegmentEntry};

/// Small segments beyond the full window are folded once there are more than this, even if that
/// saves no bytes: each costs a view time to open. Below it folding waits, because overwritten data
/// is not written again.
const SMALL_SEGMENTS_MAX: usize = 4096;
/// Fewest small segments of a fold that is made for their number.
const SMALL_RUN_MIN: usize = 16;
/// A segment below this size, in stored bytes, is small.
const SMALL_BYTES: u64 = 16 << 20;
/// Most stored bytes of the small segments of one fold.
const SMALL_FOLD_BYTES_MAX: u64 = 1 << 30;
/// Most stored bytes of the segments of any fold.
const FOLD_BYTES_MAX: u64 = 64 << 30;
/// Most segments of a fold.
const FOLD_SEGMENTS_MAX: usize = 8192;
/// Most records of a fold's segments together (40 bytes of memory each).
const FOLD_RECORDS_MAX: u64 = 4 << 20;
/// Most begins and ends of unordered intervals in a fold.
const FOLD_ORDER_CHANGES_MAX: usize = 4096;

/// A recovery state that stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptPoint {
    /// Its place in the write order.
    pub sequence: Sequence,
    /// Its time.
    pub time: Timestamp,
    /// The point at it; `None` for the end of a segment without one.
    pub point: Option<PointId>,
    /// Why it stays.
    pub reason: KeepReason,
}

/// Why segments are folded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoldReason {
    /// They are small, and there are too many of them.
    Many,
    /// Folding saves enough of their bytes. Decided when the plan is carried out.
    Saves,
    /// The volume has more bytes than it may have.
    Budget,
    /// A merged segment or image is encrypted with an earlier volume key.
    Key,
}

/// Segments that can become one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fold {
    /// Their places in the catalog.
    pub segments: Range<usize>,
    /// What they become: merged, or an image.
    pub kind: SegmentKind,
    /// Why they are folded.
    pub reason: FoldReason,
    /// Points that this drops.
    pub points_dropped: Vec<PointId>,
}

/// What retention would do to a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetentionPlan {
    /// States older than `full` that stay, oldest first. Everything younger stays as it is.
    pub kept: Vec<KeptPoint>,
    /// Possible folds, newest segments first, so that carrying one out leaves the places of the
    /// others as they are.
    pub folds: Vec<Fold>,
    /// Points whose pins have expired.
    pub pins_expired: Vec<PointId>,
    /// Retired objects whose grace is over.
    pub objects_due: Vec<String>,
    /// Bytes above the limit of the policy.
    pub over_budget_bytes: u64,
}

impl Replica {
    /// Returns what retention would do now; only the catalog is read.
    pub fn retention_plan(&self, policy: &RetentionPolicy) -> RetentionPlan {
        plan(&self.catalog, policy, self.clock().now())
    }
}

/// Plans retention of the volume as of `now`.
pub fn plan(catalog: &Catalog, policy: &RetentionPolicy, now: Timestamp) -> RetentionPlan {
    let grace = nanos(policy.grace);
    let mut plan = RetentionPlan {
        pins_expired: catalog
            .pins()
            .iter()
            .filter(|p| p.has_expired(now))
            .map(|p| p.point)
            .collect(),
        objects_due: catalog
            .retired()
            .iter()
            .filter(|(_, at)| now.nanos_since(**at) >= grace)
            .map(|(object, _)| object.clone())
            .collect(),
        ..RetentionPlan::default()
    };
    let planner = Planner::new(catalog, policy, now);
    let mut kept = planner.kept();
    plan.over_budget_bytes = planner.over_budget();
    let forced = planner.give_up(&mut kept, plan.over_budget_bytes);
    plan.folds = planner.folds(&kept, forced);
    plan.kept = kept.into_iter().map(|kept| kept.state).collect();
    plan
}

/// Returns the folds, newest first, of a volume that was always in order, without pins, verdicts and
/// branches, whose points are crash-consistent. Capacity planning uses it.
pub fn folds_of(entries: &[SegmentEntry], policy: &RetentionPolicy, now: Timestamp) -> Vec<Fold> {
    let planner = Planner::of(entries, Intervals::default(), HashMap::new(), policy, now);
    let mut kept = planner.kept();
    let forced = planner.give_up(&mut kept, planner.over_budget());
    planner.folds(&kept, forced)
}

/// A state that may be kept: a point, or the end of a segment.
#[derive(Clone, Copy)]
struct Candidate {
    state: KeptPoint,
    /// Index of its segment.
    segment: usize,
    /// Whether it is the end of its segment, so that the segments up to it can fold.
    at_end: bool,
    /// The group point that it belongs to.
    group: Option<PointId>,
}

impl Candidate {
    /// Returns its rank: of one interval the first of the highest rank stays. A group point comes
    /// before a point of this volume alone, so that all members keep the same; the end of a segment
    /// comes last.
    fn rank(&self) -> u8 {
        match (self.group, self.state.point) {
            (Some(_), _) => 2,
            (None, Some(_)) => 1,
            (None, None) => 0,
        }
    }

    /// Returns the time that places it on the calendar: members of a group agree on it.
    fn time(&self) -> Timestamp {
        self.group.map_or(self.state.time, PointId::group_time)
    }
}

struct Planner<'a> {
    entries: &'a [SegmentEntry],
    policy: &'a RetentionPolicy,
    now: Timestamp,
    intervals: Intervals,
    /// Index of the first segment that is not touched.
    full_from: usize,
    protected: HashMap<PointId, KeepReason>,
    /// Group points that were committed.
    committed: HashSet<PointId>,
    /// States on which branches and failovers stand.
    bases: HashSet<Sequence>,
    /// Whether there are too many small segments.
    is_crowded: bool,
}

impl<'a> Planner<'a> {
    fn new(catalog: &'a Catalog, policy: &'a RetentionPolicy, now: Timestamp) -> Self {
        let protected = catalog.protected_points(|pin| !pin.has_expired(now));
        let mut planner =
            Self::of(catalog.segments(), catalog.unordered_intervals(), protected, policy, now);
        planner.bases = catalog.needed_states().collect();
        planner.committed = catalog.commitments().map(|commitment| commitment.group).collect();
        planner
    }

    fn of(
        entries: &'a [SegmentEntry],
        intervals: Intervals,
        protected: HashMap<PointId, KeepReason>,
        policy: &'a RetentionPolicy,
        now: Timestamp,
    ) -> Self {
        let full = nanos(policy.full);
        let open_from = intervals.open_from().unwrap_or(Sequence(u64::MAX));
        let is_young = |entry: &SegmentEntry| {
            now.nanos_since(entry.summary.last_time) <= full
                || entry.summary.last_sequence >= open_from
        };
        let newest = entries.len().saturating_sub(1);
        let full_from = entries.iter().position(is_young).unwrap_or(newest).min(newest);
        let is_small = |entry: &&SegmentEntry| entry.summary.stored_bytes < SMALL_BYTES;
        let small = entries[..full_from].iter().filter(is_small).count();
        let is_crowded = small > SMALL_SEGMENTS_MAX;
        let (committed, bases) = (HashSet::new(), HashSet::new());
        Self { entries, policy, now, intervals, full_from, protected, committed, bases, is_crowded }
    }

    /// Returns points and ends of segments before `full_from` at which the volume was in order, in
    /// write order.
    fn candidates(&self) -> Vec<Candidate> {
        let mut candidates = Vec::new();
        for (segment, entry) in self.entries[..self.full_from].iter().enumerate() {
            let summary = &entry.summary;
            let mut end_is_point = false;
            let mut push = |sequence, time, point, group| {
                let state = KeptPoint { sequence, time, point, reason: KeepReason::Thinned };
                let at_end = sequence == summary.last_sequence;
                if self.intervals.is_ordered_at(sequence) {
                    candidates.push(Candidate { state, segment, at_end, group });
                }
            };
            for mark in summary.marks.iter().filter(|mark| !mark.mark.is_commitment()) {
                end_is_point |= mark.sequence == summary.last_sequence;
                let group = mark.mark.group.filter(|group| self.committed.contains(group));
                push(mark.sequence, mark.time, Some(mark.mark.point), group);
            }
            if !end_is_point {
                push(summary.last_sequence, summary.last_time, None, None);
            }
        }
        candidates
    }

    /// Returns the states that stay.
    fn kept(&self) -> Vec<Candidate> {
        let candidates = self.candidates();
        let mut chosen: HashMap<(usize, i64), usize> = HashMap::new();
        let mut reasons: HashMap<usize, KeepReason> = HashMap::new();
        for (at, candidate) in candidates.iter().enumerate() {
            let state = &candidate.state;
            if let Some(reason) = state.point.and_then(|point| self.protected.get(&point)) {
                reasons.insert(at, *reason);
            } else if self.bases.contains(&state.sequence) {
                reasons.insert(at, KeepReason::Branch);
            }
            // Without steps each state is an interval of its own, and the newest is the base.
            let place = self.interval_of(candidate.time()).unwrap_or((0, at as i64));
            let chosen = chosen.entry(place).or_insert(at);
            if candidates[*chosen].rank() < candidate.rank() {
                *chosen = at;
            }
        }
        let beyond = self.policy.thinning.len();
        let base = chosen.iter().filter(|((step, _), _)| *step == beyond).map(|(_, at)| *at).max();
        for ((_, _), at) in chosen.into_iter().filter(|((step, _), _)| *step != beyond) {
            reasons.entry(at).or_insert(KeepReason::Thinned);
        }
        if let Some(base) = base {
            reasons.entry(base).or_insert(KeepReason::Base);
        }
        let mut kept: Vec<Candidate> = reasons
            .into_iter()
            .map(|(at, reason)| {
                let mut candidate = candidates[at];
                candidate.state.reason = reason;
                candidate
            })
            .collect();
        kept.sort_by_key(|candidate| candidate.state.sequence);
        kept
    }

    /// Returns the step that keeps a state of `time` and the number of the interval in it; `None`
    /// without steps. A number one above the last step is beyond the window. An interval belongs to
    /// a step until all of it is too old for that, so that the choice in it never changes. Beyond
    /// the window the last step goes on, so that the base moves by whole intervals.
    fn interval_of(&self, time: Timestamp) -> Option<(usize, i64)> {
        let steps = &self.policy.thinning;
        let mut last = None;
        for (number, step) in steps.iter().enumerate() {
            let interval = nanos(step.interval).max(1).cast_signed();
            let place = time.0.div_euclid(interval);
            let end = Timestamp(place.saturating_add(1).saturating_mul(interval));
            if self.now.nanos_since(end) <= nanos(step.age) {
                return Some((number, place));
            }
            last = Some((steps.len(), place));
        }
        last
    }

    fn over_budget(&self) -> u64 {
        let total = stored_bytes(self.entries);
        self.policy.bytes_max.map_or(0, |limit| total.saturating_sub(limit))
    }

    /// Gives up the oldest states until folding up to the next one may save `excess` bytes. Returns
    /// the number of segments that must fold. The next plan sees what it really saved.
    fn give_up(&self, kept: &mut Vec<Candidate>, excess: u64) -> usize {
        if excess == 0 {
            return 0;
        }
        let is_free = |candidate: &Candidate| candidate.state.reason >= KeepReason::Thinned;
        let (mut bytes, mut largest, mut forced) = (0_u64, 0_u64, 0);
        for (segment, entry) in self.entries[..self.full_from].iter().enumerate() {
            let size = entry.summary.stored_bytes;
            (bytes, largest) = (bytes.saturating_add(size), largest.max(size));
            let ends_in_order = self.intervals.is_ordered_at(entry.summary.last_sequence);
            if bytes - largest >= excess && ends_in_order {
                forced = segment + 1;
                break;
            }
            if ends_in_order {
                forced = segment + 1;
            }
        }
        if forced == 0 {
            return 0;
        }
        kept.retain(|candidate| !is_free(candidate) || candidate.segment >= forced);
        let summary = &self.entries[forced - 1].summary;
        let is_there = |candidate: &Candidate| candidate.segment == forced - 1 && candidate.at_end;
        if !kept.iter().any(is_there) {
            let end = summary.marks.last().filter(|m| m.sequence == summary.last_sequence);
            let end = end.filter(|mark| !mark.mark.is_commitment());
            let (sequence, time) = (summary.last_sequence, summary.last_time);
            let point = end.map(|mark| mark.mark.point);
            let state = KeptPoint { sequence, time, point, reason: KeepReason::Base };
            kept.push(Candidate { state, segment: forced - 1, at_end: true, group: None });
            kept.sort_by_key(|candidate| candidate.state.sequence);
        }
        forced
    }

    /// Returns what can fold between the kept states, newest first.
    fn folds(&self, kept: &[Candidate], forced: usize) -> Vec<Fold> {
        let mut ends: Vec<usize> =
            kept.iter().filter(|k| k.at_end).map(|k| k.segment + 1).collect();
        ends.dedup();
        // A kept state inside a segment keeps the segment as it is.
        let whole: HashSet<usize> = kept.iter().filter(|k| !k.at_end).map(|k| k.segment).collect();
        let mut folds = Vec::new();
        let mut start = 0;
        for end in ends {
            let mut from = start;
            for at in start..=end {
                let epoch_ends = at > from
                    && at < end
                    && self.entries[at].summary.epoch != self.entries[at - 1].summary.epoch;
                if at == end || epoch_ends || whole.contains(&at) {
                    self.fold_group(from..at, end <= forced, &mut folds);
                    from = if whole.contains(&at) { at + 1 } else { at };
                }
            }
            start = end;
        }
        folds.reverse();
        folds
    }

    /// Adds folds of consecutive segments of which none but the last must remain a state.
    fn fold_group(&self, group: Range<usize>, forced: bool, folds: &mut Vec<Fold>) {
        let runs = self.runs(group.clone(), FOLD_BYTES_MAX, u64::MAX);
        if forced {
            return folds.extend(runs.into_iter().map(|p| self.fold(p, FoldReason::Budget)));
        }
        let small = self.runs(group, SMALL_FOLD_BYTES_MAX, SMALL_BYTES);
        let many = small.into_iter().filter(|run| self.is_crowded && run.len() >= SMALL_RUN_MIN);
        let mut many: Vec<Fold> = many.map(|run| self.fold(run, FoldReason::Many)).collect();
        // A run that may save bytes is looked at only if it has no fold that is made anyway: that
        // one goes first.
        for run in runs {
            if !many.iter().any(|fold| overlap(&fold.segments, &run)) {
                many.push(self.fold(run, FoldReason::Saves));
            }
        }
        many.sort_by_key(|fold| fold.segments.start);
        folds.extend(many);
    }

    /// Cuts a group into runs of at least two segments, each below `segment_bytes`, that fit into
    /// one fold and end where the volume was in order.
    fn runs(&self, group: Range<usize>, fold_bytes: u64, segment_bytes: u64) -> Vec<Range<usize>> {
        let mut runs = Vec::new();
        let mut start = group.start;
        let mut good_end = start;
        let mut at = start;
        let (mut bytes, mut records, mut changes) = (0, 0, 0);
        while at <= group.end {
            let entry = self.entries[..group.end].get(at);
            let room = entry.is_some_and(|entry| {
                entry.summary.stored_bytes < segment_bytes
                    && at - start < FOLD_SEGMENTS_MAX
                    && entry.summary.stored_bytes.saturating_add(bytes) <= fold_bytes
                    && entry.summary.records.saturating_add(records) <= FOLD_RECORDS_MAX
                    && changes + entry.summary.order_changes.len() <= FOLD_ORDER_CHANGES_MAX
            });
            if let (Some(entry), true) = (entry, room) {
                bytes += entry.summary.stored_bytes;
                records += entry.summary.records;
                changes += entry.summary.order_changes.len();
                at += 1;
                if self.intervals.is_ordered_at(entry.summary.last_sequence) {
                    good_end = at;
                }
                continue;
            }
            if good_end >= start + 2 {
                runs.push(start..good_end);
            }
            // A segment that is too large or does not fit stands alone.
            start = if at > start { good_end.max(start + 1) } else { at + 1 };
            (at, good_end, bytes, records, changes) = (start, start, 0, 0, 0);
        }
        runs
    }

    fn fold(&self, segments: Range<usize>, reason: FoldReason) -> Fold {
        let run = &self.entries[segments.clone()];
        let first = &run[0].summary;
        let from_image = first.kind == SegmentKind::Image;
        let is_base = segments.start == 0 && reason != FoldReason::Many;
        let kind = if from_image || is_base { SegmentKind::Image } else { SegmentKind::Merged };
        let last = run.last().map_or(Sequence::ZERO, |entry| entry.summary.last_sequence);
        let points_dropped = run
            .iter()
            .flat_map(|entry| &entry.summary.marks)
            .filter(|mark| mark.sequence != last && self.intervals.is_ordered_at(mark.sequence))
            .filter(|mark| !mark.mark.is_commitment())
            .map(|mark| mark.mark.point)
            .collect();
        Fold { segments, kind, reason, points_dropped }
    }
}

/// Returns the stored bytes of segments; a catalog may claim anything.
pub(super) fn stored_bytes(entries: &[SegmentEntry]) -> u64 {
    entries.iter().fold(0, |sum, entry| entry.summary.stored_bytes.saturating_add(sum))
}

fn overlap(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.start < b.end && b.start < a.end
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
