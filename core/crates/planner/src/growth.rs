//! The model of the vault: the trace repeats, and retention folds and deletes as for a real volume.
//!
//! [`hrl::rules`], which the product itself uses, decides about the folds of each run and which of
//! them pay. `trace::Reuse` predicts how many bytes a fold keeps.
//!
//! Assumptions: the trace repeats on the same blocks (a trace of one day misses blocks that are
//! written weekly). Folded segments compress as the trace did. There are no pins, verdicts or
//! application-consistent points to keep. The vault is an object store (folds fetch what they
//! read). Over long times retention runs less often than in the policy, at most [`RUNS_MAX`] times
//! in all, so the predicted vault is slightly larger.

use std::collections::HashMap;
use std::time::Duration;

use super::prediction::{PlanOptions, Requests};
use super::shipping::{Planned, nanos};
use super::trace::Trace;
use hrl::journal::{Mark, MarkEntry, PointKind, SegmentKind, SegmentSummary};
use hrl::replica::{Fold, FoldReason};
use hrl::rules::{
    FETCH_BYTES, SNAPSHOT_EVERY, folds_of, is_too_small_to_fold, least_bytes_to_fold, look_again_at,
};
use hrl::vault::SegmentEntry;
use hrl::{ChainHash, Epoch, PointId, Policy, RetentionPolicy, Sequence, Timestamp, VolumeId};

pub(super) const DAY_NS: i64 = 86_400_000_000_000;
/// Most runs of retention that are simulated.
const RUNS_MAX: i64 = 1000;
/// Most segments of all repetitions of a trace.
const SEGMENTS_MAX: u64 = 1 << 24;
/// Approximate size of a segment's entry in a catalog version, see `vault::codec`.
const CATALOG_ENTRY_BYTES: u64 = 300;
const CATALOG_ENVELOPE_BYTES: u64 = 136;

/// The vault at the end of each day, and the requests of that day.
pub(super) struct Growth {
    pub days: Vec<(u64, Requests)>,
}

/// Simulates `days` days of a volume whose trace becomes `segments`, shipped with `appends` appends
/// each time.
pub(super) fn play(
    trace: &Trace,
    segments: &[Planned],
    appends: u64,
    options: &PlanOptions,
    days: u32,
) -> Growth {
    let policy = &options.policy;
    let end = trace.begin.saturating_add(DAY_NS.saturating_mul(i64::from(days)));
    let interval = nanos(policy.retention_interval).max((end - trace.begin) / RUNS_MAX).max(1);
    let mut vault = Vault::new(trace, segments, appends, policy);
    vault.delay = nanos(options.deletion_delay);
    let mut run_at = trace.begin.saturating_add(interval);
    let mut growth = Growth { days: Vec::new() };
    for day in 1..=i64::from(days) {
        let midnight = trace.begin + day * DAY_NS;
        while run_at < midnight {
            vault.ship_until(run_at);
            if let Some(retention) = &policy.retention {
                vault.compact(retention, run_at);
            }
            run_at = run_at.saturating_add(interval);
        }
        vault.ship_until(midnight);
        vault.purge(midnight);
        growth.days.push((vault.bytes(), std::mem::take(&mut vault.requests)));
    }
    // Skipped runs would still have listed objects and read the newest catalog.
    if policy.retention.is_some() {
        let left_out = interval / nanos(policy.retention_interval).max(1) - 1;
        let runs = (DAY_NS / interval * left_out).cast_unsigned();
        growth.days.iter_mut().for_each(|(_, requests)| requests.count_looks(runs));
    }
    growth
}

/// Returns the most days whose segments stay within [`SEGMENTS_MAX`].
pub(super) fn days_max(trace: &Trace, segments: &[Planned]) -> u64 {
    let per_day = segments.len() as u128 * u128::from(DAY_NS.cast_unsigned())
        / u128::from(trace.period.cast_unsigned());
    u64::try_from(u128::from(SEGMENTS_MAX) / per_day.max(1)).unwrap_or(u64::MAX)
}

struct Vault<'a> {
    trace: &'a Trace,
    planned: &'a [Planned],
    /// Average number of segments that one append publishes.
    batch: f64,
    entries: Vec<SegmentEntry>,
    /// Place of the next segment in all repetitions.
    next: u64,
    versions: f64,
    /// Objects that wait for deletion: when they were retired, how many, and their bytes.
    retired: Vec<(i64, u64, u64)>,
    /// How long deleted bytes stay.
    delay: i64,
    /// Bytes of deleted objects that stay, and when they were deleted.
    deleted: Vec<(i64, u64)>,
    /// Bytes of catalog versions that were deleted since the last purge.
    forgotten: f64,
    judged: HashMap<Sequence, u64>,
    requests: Requests,
}

impl<'a> Vault<'a> {
    fn new(trace: &'a Trace, planned: &'a [Planned], appends: u64, policy: &Policy) -> Self {
        let mut vault = Self {
            trace,
            planned,
            batch: planned.len() as f64 / appends.max(1) as f64,
            entries: Vec::new(),
            next: 0,
            versions: 1.0,
            retired: Vec::new(),
            delay: 0,
            deleted: Vec::new(),
            forgotten: 0.0,
            judged: HashMap::new(),
            requests: Requests::default(),
        };
        let size = policy.segment_bytes_max.max(1);
        // What the vault contained before comes in segments of full size, as from a first copy.
        let count = trace.base_stored_bytes.div_ceil(size);
        for at in 0..count {
            let part = |all: u64| all / count;
            let summary = summary(
                SegmentKind::Log,
                (at + 1, at + 1),
                (trace.begin - 1, trace.begin - 1),
                part(trace.base_data_bytes),
                part(trace.base_stored_bytes),
                false,
            );
            vault.entries.push(SegmentEntry { object: String::new(), summary });
        }
        vault
    }

    /// Adds the segments that were shipped before `time`.
    fn ship_until(&mut self, time: i64) {
        let base = self.trace.base_stored_bytes.saturating_add(1);
        loop {
            let count = self.planned.len() as u64;
            let (repetition, at) = (self.next / count, (self.next % count) as usize);
            let shift = self.trace.period.saturating_mul(repetition.cast_signed());
            let segment = &self.planned[at];
            if segment.shipped.saturating_add(shift) >= time {
                return;
            }
            let sequence = base + self.next;
            let times = (segment.first + shift, segment.last + shift);
            let (data, stored) = (segment.data_bytes, segment.stored_bytes);
            let point = segment.ends_with_point;
            let summary =
                summary(SegmentKind::Log, (sequence, sequence), times, data, stored, point);
            self.entries.push(SegmentEntry { object: String::new(), summary });
            self.next += 1;
            self.requests.put += 1.0;
            self.append(1.0 / self.batch);
        }
    }

    /// Adds versions to the catalog.
    fn append(&mut self, versions: f64) {
        self.versions += versions;
        self.requests.put += versions;
        // After each put the writer lists, to see that it was not overtaken.
        self.requests.list += versions;
        // One old version is deleted for each new one, found by a list at each snapshot.
        if self.versions > 2.0 * SNAPSHOT_EVERY as f64 {
            self.requests.delete += versions;
            self.requests.list += versions / SNAPSHOT_EVERY as f64;
            if self.delay > 0 {
                // Each is read and goes into a tombstone, with up to a snapshot's worth of others.
                self.requests.get += versions;
                self.requests.put += versions / SNAPSHOT_EVERY as f64;
                let entry = CATALOG_ENTRY_BYTES as f64;
                let snapshot = self.entries.len() as f64 * entry / SNAPSHOT_EVERY as f64;
                let small = self.batch * entry + CATALOG_ENVELOPE_BYTES as f64;
                self.forgotten += versions * (small + snapshot);
            }
        }
    }

    fn compact(&mut self, policy: &RetentionPolicy, now: i64) {
        self.requests.count_looks(1);
        let folds = folds_of(&self.entries, policy, Timestamp(now));
        for fold in &folds {
            self.fold(fold, now);
        }
        let grace = nanos(policy.grace);
        let (due, waiting): (Vec<_>, Vec<_>) =
            self.retired.drain(..).partition(|(at, _, _)| now - at >= grace);
        self.retired = waiting;
        if !due.is_empty() {
            if self.delay > 0 {
                self.requests.put += 1.0;
                let bytes = due.iter().map(|(_, _, bytes)| *bytes).fold(0, u64::saturating_add);
                self.deleted.push((now, bytes));
            }
            self.requests.delete += due.iter().map(|(_, objects, _)| *objects as f64).sum::<f64>();
            self.append(1.0);
        }
    }

    /// Removes what was deleted and whose delay is over.
    fn purge(&mut self, now: i64) {
        #[allow(clippy::cast_sign_loss, reason = "a sum of sizes")]
        let forgotten = std::mem::take(&mut self.forgotten) as u64;
        if forgotten > 0 {
            self.deleted.push((now, forgotten));
        }
        let delay = self.delay;
        self.deleted.retain(|(at, _)| now - at < delay);
    }

    fn fold(&mut self, fold: &Fold, now: i64) {
        let run = &self.entries[fold.segments.clone()];
        let (Some(first), Some(last)) = (run.first(), run.last()) else { return };
        let (first, last) = (&first.summary, &last.summary);
        let sum = |of: fn(&SegmentSummary) -> u64| {
            run.iter().fold(0_u64, |sum, entry| sum.saturating_add(of(&entry.summary)))
        };
        let (data, stored) = (sum(|s| s.data_bytes), sum(|s| s.stored_bytes));
        let with_base = first.first_time.0 < self.trace.begin;
        let (from, to) = (first.first_time.0, last.last_time.0);
        let kept = self.trace.reuse.unique_bytes(from, to, with_base).min(data);
        let share = u128::from(kept) * u128::from(stored) / u128::from(data.max(1));
        let bytes_out = u64::try_from(share).unwrap_or(u64::MAX);
        let count = run.len() as u64;
        if fold.reason == FoldReason::Saves {
            let too_early = self.judged.get(&first.first_sequence).is_some_and(|b| stored < *b);
            if is_too_small_to_fold(run.len(), stored) || too_early {
                return;
            }
            // Head or tail, and index, of each segment.
            self.requests.get += 2.0 * count as f64;
            let least = least_bytes_to_fold(bytes_out);
            if least > stored {
                self.judged.insert(first.first_sequence, look_again_at(least, stored));
                return;
            }
        }
        let reads = run.iter().map(|entry| entry.summary.stored_bytes.div_ceil(FETCH_BYTES));
        self.requests.get += reads.sum::<u64>() as f64;
        self.requests.put += 1.0;
        self.requests.head += 1.0;
        let sequences = (first.first_sequence.0, last.last_sequence.0);
        let point = last.marks.last().is_some();
        let summary = summary(fold.kind, sequences, (from, to), kept, bytes_out, point);
        let summary = SegmentSummary { records: sum(|s| s.records), ..summary };
        let entry = SegmentEntry { object: String::new(), summary };
        self.entries.splice(fold.segments.clone(), [entry]);
        self.retired.push((now, count, stored));
        self.append(1.0);
    }

    /// Returns the bytes of all objects.
    fn bytes(&self) -> u64 {
        let segments = self.entries.iter().map(|entry| entry.summary.stored_bytes);
        let retired = self.retired.iter().map(|(_, _, bytes)| *bytes);
        let deleted = self.deleted.iter().map(|(_, bytes)| *bytes);
        let all = segments.chain(retired).chain(deleted).fold(0_u64, u64::saturating_add);
        all.saturating_add(self.catalog_bytes())
    }

    /// Returns the bytes of the catalog versions that exist: up to two snapshots, and the versions
    /// between and after them.
    fn catalog_bytes(&self) -> u64 {
        let every = SNAPSHOT_EVERY as f64;
        let since_snapshot = self.versions % every;
        let snapshots = (self.versions / every).floor().min(2.0);
        let small =
            if snapshots < 2.0 { self.versions - snapshots } else { every - 1.0 + since_snapshot };
        let entry = CATALOG_ENTRY_BYTES as f64;
        let bytes = snapshots * self.entries.len() as f64 * entry
            + small * (self.batch * entry + CATALOG_ENVELOPE_BYTES as f64);
        #[allow(clippy::cast_sign_loss, reason = "a sum of sizes")]
        let bytes = bytes as u64;
        bytes
    }
}

/// Returns the summary of a simulated segment.
fn summary(
    kind: SegmentKind,
    sequences: (u64, u64),
    times: (i64, i64),
    data_bytes: u64,
    stored_bytes: u64,
    ends_with_point: bool,
) -> SegmentSummary {
    let (sequence, time) = (Sequence(sequences.1), Timestamp(times.1));
    let mut id = [0; 16];
    id[..8].copy_from_slice(&sequences.1.to_le_bytes());
    let point = PointId(id);
    let mark = Mark { point, kind: PointKind::Crash, label: String::new(), group: None };
    SegmentSummary {
        kind,
        volume: VolumeId::default(),
        epoch: Epoch(1),
        first_sequence: Sequence(sequences.0),
        last_sequence: sequence,
        first_time: Timestamp(times.0),
        last_time: time,
        salt: [0; 16],
        previous: ChainHash::default(),
        chain: ChainHash::default(),
        records: 1,
        data_bytes,
        stored_bytes,
        marks: ends_with_point.then_some(MarkEntry { sequence, time, mark }).into_iter().collect(),
        order_changes: Vec::new(),
    }
}

impl Requests {
    /// Counts runs of retention with nothing to do: each opens the catalog, reads its newest
    /// versions and looks for strays.
    fn count_looks(&mut self, runs: u64) {
        let versions = SNAPSHOT_EVERY as f64 / 2.0;
        self.list += 5.0 * runs as f64;
        self.get += (versions + 1.0) * runs as f64;
        self.head += 3.0 * runs as f64;
    }
}

/// Returns the days after which a vault no longer grows: the window of its retention and the
/// deletion delay, plus two.
pub(super) fn steady_days(options: &PlanOptions) -> Option<u32> {
    let window: Duration = options.policy.retention.as_ref()?.window();
    let window = window.saturating_add(options.deletion_delay);
    u32::try_from(window.as_secs() / 86_400 + 2).ok()
}
