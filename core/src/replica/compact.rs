//! Compaction: carries a retention plan out while sources append and readers read.
//!
//! A fold merges segments in a scratch directory, checks the result, puts it, and appends one
//! catalog version that lists it in place of its inputs and retires those. Retired objects are
//! deleted when their grace is over, so that readers of an older version can finish. Then the
//! catalog forgets them; an agent's compaction waits some time more, because another object may get
//! the name from then on. If it is killed, the next run goes on: an object that no catalog lists is
//! a stray, and is retired in its turn.
//!
//! Any number may run at once: the catalog's compare-and-swap decides, and the loser removes the
//! object that it put. A stray is retired if it is older than the grace and can never belong to the
//! volume, because the catalog has passed its sequences. Retiring and publishing exclude each other
//! through the catalog. The maker of a fold checks that its object is still there after it has read
//! the newest version. So nothing that the catalog lists is ever deleted.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::retention::{Fold, FoldReason, RetentionPlan, plan, stored_bytes};
use super::verify::Finding;
use super::{Progress, Replica};
use crate::clock::{Clock, random_bytes};
use crate::device::SystemFiles;
use crate::error::{Error, ErrorKind, Result};
use crate::journal::{
    FileSink, Segment, SegmentKind, SegmentSink, SegmentSummary, merge, merged_data_bytes,
    open_mapped,
};
use crate::parallel;
use crate::policy::{Compression, RetentionPolicy};
use crate::store::{PutOutcome, Store, delete_unlocked};
use crate::units::{Sequence, Timestamp};
use crate::vault::{CatalogEdit, SegmentEntry, layout};

/// A fold that saves bytes must drop at least this share of them, so that folding writes less than
/// was shipped.
const SAVES_PERCENT_MIN: u64 = 60;
/// A run that did not save enough is looked at again when it has grown by this share: each look is
/// two requests a segment.
const GROWTH_PERCENT_MIN: u64 = 25;
/// Fewer segments of fewer bytes are not looked at: what a fold could save is not worth the
/// requests.
const FEW_SEGMENTS: usize = 16;
const FEW_BYTES: u64 = 64 << 20;
/// Logs are first merged in batches of this much data, so that each of their frames is decoded a
/// few times at most.
const SORT_BYTES: u64 = 256 << 20;
/// Most bytes of one read while a segment is fetched from an object store to be folded.
pub const FETCH_BYTES: u64 = 32 << 20;
/// A delete that was given up may arrive this much later; a network may deliver one twice.
const LATE: Duration = Duration::from_secs(30);
/// Most folds remembered as not worth their bytes.
const JUDGED_MAX: usize = 1 << 16;

/// A clock that is further ahead of the newest record and heartbeat of a volume is not believed:
/// every point could seem too old, and every pin expired.
pub const CLOCK_AHEAD_MAX: Duration = Duration::from_secs(7 * 86_400);

/// Options of a compaction.
#[derive(Clone, Debug, Default)]
pub struct CompactOptions {
    /// Whether to change nothing and report what would be done. Default false.
    pub dry_run: bool,
    /// Whether to fold every state that the policy does not keep, even if that saves few bytes.
    /// Default false: such a state goes when folding it pays.
    pub fold_all: bool,
    /// Whether to rewrite what was folded before under an earlier volume key. Default false: that
    /// moves to the newest key when it is folded again. Logs move when they are folded.
    pub rekey: bool,
    /// Directory for temporary files, with room for the largest fold twice. Default: the directory
    /// of the system for temporary files.
    pub scratch: Option<PathBuf>,
    /// Compression of folded segments. Default zstd level 3.
    pub compression: Option<Compression>,
    /// Whether to trust a clock that is more than [`CLOCK_AHEAD_MAX`] ahead of the newest time in
    /// the catalog. Default false.
    pub accept_clock: bool,
}

/// What compaction did, or would do.
#[derive(Debug, Default)]
pub struct CompactReport {
    /// Recovery states beyond the full window that stay.
    pub states_kept: u64,
    /// Segments in the catalog before.
    pub segments_before: u64,
    /// Segments in the catalog after.
    pub segments_after: u64,
    /// Folds made; in a dry run those that would be made.
    pub folds: u64,
    /// Points that the folds dropped.
    pub points_dropped: u64,
    /// Bytes of the segments that were folded.
    pub bytes_read: u64,
    /// Bytes of the segments that took their place; an estimate in a dry run.
    pub bytes_written: u64,
    /// Objects deleted because their grace was over; in a dry run those that would be deleted.
    pub objects_deleted: u64,
    /// Objects that no catalog lists and that were retired.
    pub strays_retired: u64,
    /// Objects that wait for the end of their grace.
    pub objects_waiting: u64,
    /// Bytes above the limit of the policy, before the compaction.
    pub over_budget_bytes: u64,
    /// Whether another compaction or pin came first. The next run plans the rest anew.
    pub lost_race: bool,
    /// Segments that could not be folded.
    pub findings: Vec<Finding>,
}

/// Compacts a volume repeatedly, and remembers which folds were not worth it.
#[derive(Debug, Default)]
pub struct Compactor {
    /// Bytes below which a fold cannot save enough, by the first object of a fold that did not.
    judged: HashMap<String, u64>,
    /// Objects whose delete was answered, and when; the catalog still lists them as retired.
    deleted: HashMap<String, Duration>,
    /// Time from the delete of an object to its end in the catalog.
    late: Duration,
}

impl Replica {
    /// Compacts once, see [`Compactor::run`].
    pub fn compact(
        &mut self,
        policy: &RetentionPolicy,
        options: &CompactOptions,
        progress: Progress<'_>,
    ) -> Result<CompactReport> {
        Compactor::default().run(self, policy, options, progress)
    }
}

impl Replica {
    /// Returns `Unavailable` if the clock is more than [`CLOCK_AHEAD_MAX`] ahead of the newest time
    /// in the catalog, so that no age can be judged.
    pub fn check_clock(&self) -> Result<()> {
        let Some(newest) = self.catalog.time() else { return Ok(()) };
        let ahead = Duration::from_nanos(self.clock().now().nanos_since(newest));
        if ahead <= CLOCK_AHEAD_MAX {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Unavailable, "compact", &self.info().name)
            .message(
                "the clock is far ahead of the newest catalog version, so no age is certain; if the clock is right and \
                 the source is off, accept the clock",
            )
            .expected(format_args!("a time within {} days of {newest}", CLOCK_AHEAD_MAX.as_secs() / 86_400))
            .found(self.clock().now()))
    }
}

impl Compactor {
    /// Makes a compactor that runs again after some time. It forgets a deleted object only when no
    /// delete of it can arrive any more, because a source that lost the volume may then hand in a
    /// segment under the name of a stray.
    pub fn that_stays() -> Self {
        Self { late: LATE, ..Self::default() }
    }

    /// Plans and carries out retention once. `progress` counts bytes of segments to fold. If it
    /// returns false, the run ends soon with `Unavailable`, and what was done stays done.
    ///
    /// `Unavailable` and `Full` if a store or the scratch directory fails: run it again later.
    /// `Unavailable` also while the clock is too far ahead, see [`CompactOptions::accept_clock`].
    /// Damaged segments are left as they are and named in the report.
    pub fn run(
        &mut self,
        replica: &mut Replica,
        policy: &RetentionPolicy,
        options: &CompactOptions,
        progress: Progress<'_>,
    ) -> Result<CompactReport> {
        policy.validate()?;
        if self.judged.len() > JUDGED_MAX {
            self.judged.clear();
        }
        replica.refresh()?;
        if !options.accept_clock && !options.dry_run {
            replica.check_clock()?;
        }
        let plan = plan(replica.catalog(), policy, replica.clock().now());
        let mut run = Run {
            replica,
            policy,
            options,
            report: CompactReport {
                states_kept: plan.kept.len() as u64,
                over_budget_bytes: plan.over_budget_bytes,
                ..CompactReport::default()
            },
            compactor: self,
            progress,
            done: 0,
            total: 0,
        };
        run.report.segments_before = run.replica.catalog().segments().len() as u64;
        run.all(&plan)?;
        run.report.segments_after = run.replica.catalog().segments().len() as u64;
        run.report.objects_waiting = run.replica.catalog().retired().len() as u64;
        Ok(run.report)
    }
}

struct Run<'a> {
    replica: &'a mut Replica,
    policy: &'a RetentionPolicy,
    options: &'a CompactOptions,
    report: CompactReport,
    compactor: &'a mut Compactor,
    progress: Progress<'a>,
    /// Bytes of segments that were folded or left, and of all that are looked at.
    done: u64,
    total: u64,
}

impl Run<'_> {
    fn all(&mut self, plan: &RetentionPlan) -> Result<()> {
        self.unpin(plan)?;
        self.folds(plan)?;
        self.delete_due(plan)?;
        self.retire_strays()?;
        if self.options.dry_run {
            return Ok(());
        }
        let (store, catalog) = (self.replica.store(), self.replica.catalog());
        store.renew_locks(layout::MARKER, &|_| false)?;
        let prefix = layout::volume_prefix(&self.replica.info().name);
        let is_unwanted =
            |name: &str| catalog.retired().contains_key(name) || catalog.forgets(name);
        store.renew_locks(&prefix, &is_unwanted)
    }

    /// Removes expired pins, so that folds may drop their points.
    fn unpin(&mut self, plan: &RetentionPlan) -> Result<()> {
        if plan.pins_expired.is_empty() || self.options.dry_run {
            return Ok(());
        }
        let unpin = |point: &_| CatalogEdit::Unpin { point: *point, legal_hold: false };
        let edits: Vec<_> = plan.pins_expired.iter().map(unpin).collect();
        match self.replica.catalog_mut().amend(&edits, &|| Ok(())) {
            // Another client removed one already: the next run sees what is left.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn folds(&mut self, plan: &RetentionPlan) -> Result<()> {
        let entries = self.replica.catalog().segments().to_vec();
        let size = |fold: &Fold| stored_bytes(&entries[fold.segments.clone()]);
        let mut folds = plan.folds.clone();
        if self.options.rekey {
            folds.extend(self.under_earlier_keys(&entries, &plan.folds)?);
        }
        self.total = folds.iter().fold(0, |sum, fold| size(fold).saturating_add(sum));
        for fold in &folds {
            self.go_on()?;
            let inputs = &entries[fold.segments.clone()];
            match self.fold(fold, inputs) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::Changed => {
                    self.report.lost_race = true;
                    break;
                }
                Err(error) if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Full) => {
                    return Err(error);
                }
                Err(error) => {
                    let object = inputs.first().map(|e| e.object.clone()).unwrap_or_default();
                    self.report.findings.push(Finding { object, error });
                }
            }
            self.done = self.done.saturating_add(size(fold));
        }
        Ok(())
    }

    /// Returns what rewrites the merged segments and images that are under an earlier volume key, and
    /// that no other fold replaces. A log stays: it has states that only its own bytes can show.
    fn under_earlier_keys(&self, entries: &[SegmentEntry], folds: &[Fold]) -> Result<Vec<Fold>> {
        let newest = self.replica.keys().newest().map(|key| key.id());
        let mut found = Vec::new();
        for (at, entry) in entries.iter().enumerate() {
            let (kind, reason, segments) = (entry.summary.kind, FoldReason::Key, at..at + 1);
            let stays = folds.iter().any(|f| f.segments.contains(&at)) || kind == SegmentKind::Log;
            if !stays && self.replica.open_entry(entry)?.key_id() != newest {
                found.push(Fold { segments, kind, reason, points_dropped: Vec::new() });
            }
        }
        Ok(found)
    }

    /// Returns `Unavailable` if the caller wants the compaction to end.
    fn go_on(&self) -> Result<()> {
        if (self.progress)(self.done, self.total) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Unavailable, "compact", &self.replica.info().name)
            .message("it was cancelled; what was done stays done"))
    }

    fn fold(&mut self, fold: &Fold, entries: &[SegmentEntry]) -> Result<()> {
        let bytes_in = stored_bytes(entries);
        let must_pay = fold.reason == FoldReason::Saves && !self.options.fold_all;
        let estimate =
            if must_pay { self.saving_estimate(fold, entries, bytes_in)? } else { Some(bytes_in) };
        let Some(estimate) = estimate else { return Ok(()) };
        if self.options.dry_run {
            self.count(fold, bytes_in, estimate);
            return Ok(());
        }
        let scratch = Scratch::create(self.options, &**self.replica.clock())?;
        let (path, summary) = self.merge(fold, entries, &scratch)?;
        let bytes_out = summary.stored_bytes;
        self.publish(entries, &path, summary)?;
        self.count(fold, bytes_in, bytes_out);
        Ok(())
    }

    fn count(&mut self, fold: &Fold, bytes_in: u64, bytes_out: u64) {
        self.report.folds += 1;
        self.report.points_dropped += fold.points_dropped.len() as u64;
        self.report.bytes_read = self.report.bytes_read.saturating_add(bytes_in);
        self.report.bytes_written = self.report.bytes_written.saturating_add(bytes_out);
    }

    /// Estimates the bytes that the fold would write, if it saves enough.
    fn saving_estimate(
        &mut self,
        fold: &Fold,
        entries: &[SegmentEntry],
        bytes_in: u64,
    ) -> Result<Option<u64>> {
        let Some(first) = entries.first() else { return Ok(None) };
        if is_few(entries.len(), bytes_in)
            || self.compactor.judged.get(&first.object).is_some_and(|least| bytes_in < *least)
        {
            return Ok(None);
        }
        let index = |entry: &SegmentEntry| self.replica.open_entry(entry)?.read_index();
        let indexes = parallel::each(entries, true, index)?;
        let Some(kept) = merged_data_bytes(indexes, fold.kind) else { return Ok(None) };
        let data: u64 = entries.iter().map(|entry| entry.summary.data_bytes).sum();
        let share = u128::from(kept) * u128::from(bytes_in) / u128::from(data.max(1));
        let estimate = u64::try_from(share).unwrap_or(u64::MAX);
        // More segments keep at least these bytes, too, so a fold of fewer bytes in all cannot save
        // enough.
        let least = least_bytes_in(estimate);
        if least <= bytes_in {
            return Ok(Some(estimate));
        }
        self.compactor.judged.insert(first.object.clone(), look_again_at(least, bytes_in));
        Ok(None)
    }

    /// Makes the new segment as a local file and checks it.
    fn merge(
        &self,
        fold: &Fold,
        entries: &[SegmentEntry],
        scratch: &Scratch,
    ) -> Result<(PathBuf, SegmentSummary)> {
        let kind = match fold.kind {
            // No state of a volume that is tracked without data can be read.
            SegmentKind::Image if self.replica.info().extents_only => SegmentKind::Merged,
            kind => kind,
        };
        let segments =
            entries.iter().map(|entry| self.fetch(entry, scratch)).collect::<Result<Vec<_>>>()?;
        let segments = self.sorted(segments, scratch)?;
        let compression = self.options.compression.unwrap_or(Compression::Zstd(3));
        let (path, summary) = self.merge_into(&segments, kind, compression, scratch)?;
        // The originals will be deleted on the strength of this file.
        Segment::open(open_mapped(&path)?, self.replica.keys())?.verify()?;
        Ok((path, summary))
    }

    fn merge_into(
        &self,
        segments: &[Segment],
        kind: SegmentKind,
        compression: Compression,
        scratch: &Scratch,
    ) -> Result<(PathBuf, SegmentSummary)> {
        let path = scratch.file();
        let sink =
            Watched { sink: FileSink::create(&SystemFiles, &path)?, go_on: &|| self.go_on() };
        let segments: Vec<_> = segments.iter().collect();
        let (key, clock) = (self.replica.keys().newest(), &**self.replica.clock());
        let (_, summary, _) = merge(&segments, kind, sink, compression, key.as_ref(), clock)?;
        Ok((path, summary))
    }

    /// Merges logs in batches if they contain much data. A merge reads a log's frame again for each
    /// window of the volume that the frame has data in, but a frame of a merged segment once.
    fn sorted(&self, segments: Vec<Segment>, scratch: &Scratch) -> Result<Vec<Segment>> {
        let data: u64 = segments.iter().map(|segment| segment.summary().data_bytes).sum();
        if data <= SORT_BYTES {
            return Ok(segments);
        }
        let mut sorted = Vec::new();
        let mut batch: Vec<Segment> = Vec::new();
        let (mut bytes, mut in_order) = (0, true);
        for segment in segments {
            let is_log = segment.summary().kind == SegmentKind::Log;
            if in_order && (!is_log || bytes >= SORT_BYTES) {
                self.merge_batch(&mut batch, &mut sorted, scratch)?;
                bytes = 0;
            }
            bytes += segment.summary().data_bytes;
            if let Some(change) = segment.summary().order_changes.last() {
                in_order = change.begin.is_none();
            }
            if is_log || !batch.is_empty() {
                batch.push(segment);
            } else {
                sorted.push(segment);
                bytes = 0;
            }
        }
        self.merge_batch(&mut batch, &mut sorted, scratch)?;
        Ok(sorted)
    }

    fn merge_batch(
        &self,
        batch: &mut Vec<Segment>,
        sorted: &mut Vec<Segment>,
        scratch: &Scratch,
    ) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let batch = std::mem::take(batch);
        let (path, _) =
            self.merge_into(&batch, SegmentKind::Merged, Compression::Zstd(1), scratch)?;
        sorted.push(Segment::open(open_mapped(&path)?, self.replica.keys())?);
        Ok(())
    }

    /// Opens a segment in place if its bytes are local, or fetches it: a merge reads all of it,
    /// some of it more than once.
    fn fetch(&self, entry: &SegmentEntry, scratch: &Scratch) -> Result<Segment> {
        let store = self.replica.store();
        if store.local_path(&entry.object).is_some() {
            return self.replica.open_entry(entry);
        }
        let path = scratch.file();
        let mut sink = FileSink::create(&SystemFiles, &path)?;
        let mut at = 0;
        while at < entry.summary.stored_bytes {
            self.go_on()?;
            let end = at.saturating_add(FETCH_BYTES).min(entry.summary.stored_bytes);
            let bytes = store.get(&entry.object, at..end)?;
            sink.append(&bytes)?;
            at = end;
        }
        drop(sink);
        let segment = self.replica.opened(open_mapped(&path)?)?;
        entry.check(&segment)?;
        Ok(segment)
    }

    /// Puts the new segment and publishes it in place of `entries`.
    fn publish(
        &mut self,
        entries: &[SegmentEntry],
        path: &Path,
        summary: SegmentSummary,
    ) -> Result<()> {
        let store = self.replica.store().clone();
        let clock = self.replica.clock().clone();
        let object = layout::segment(&self.replica.info().name, &summary);
        if store.put_file(&object, path)? == PutOutcome::AlreadyExists {
            return Err(Error::new(ErrorKind::Unavailable, "put folded segment", object)
                .message("another object has its name; the next run takes another"));
        }
        let objects: Vec<_> = entries.iter().map(|entry| entry.object.clone()).collect();
        let edits = [
            CatalogEdit::Replace {
                with: vec![SegmentEntry { object: object.clone(), summary }],
                objects: objects.clone(),
            },
            CatalogEdit::Retired { objects, at: clock.now() },
        ];
        let valid = || check_there(&*store, &object);
        let appended = self.replica.catalog_mut().amend(&edits, &valid);
        if let Err(error) = &appended
            && error.kind() == ErrorKind::Changed
        {
            // It is certainly not in the catalog. If it stays, it is retired as a stray.
            let _ = store.delete(&object);
        }
        appended
    }

    /// Deletes retired objects whose grace is over, then lets the catalog forget them.
    fn delete_due(&mut self, plan: &RetentionPlan) -> Result<()> {
        let is_due: HashSet<_> = plan.objects_due.iter().collect();
        self.compactor.deleted.retain(|object, _| is_due.contains(object));
        let objects =
            plan.objects_due.iter().filter(|object| !self.compactor.deleted.contains_key(*object));
        let mut objects: Vec<_> = objects.cloned().collect();
        self.report.objects_deleted = objects.len() as u64;
        if plan.objects_due.is_empty() || self.options.dry_run {
            return Ok(());
        }
        let published: HashSet<_> =
            self.replica.catalog().published().map(|entry| &entry.object).collect();
        // No catalog that was made by these rules lists a retired object.
        let unlisted = objects.iter().filter(|object| !published.contains(object));
        let unlisted: Vec<_> = unlisted.cloned().collect();
        let kept = delete_unlocked(&**self.replica.store(), &unlisted)?;
        objects.retain(|object| !kept.contains(object));
        self.report.objects_deleted = objects.len() as u64;
        let now = self.replica.clock().elapsed();
        self.compactor.deleted.extend(objects.into_iter().map(|object| (object, now)));
        let is_gone = |at: &Duration| now.saturating_sub(*at) >= self.compactor.late;
        let gone = self.compactor.deleted.iter().filter(|(_, at)| is_gone(at));
        let mut gone: Vec<_> = gone.map(|(object, _)| object.clone()).collect();
        if gone.is_empty() {
            return Ok(());
        }
        gone.sort_unstable();
        self.replica.catalog_mut().amend(&[CatalogEdit::Deleted(gone)], &|| Ok(()))
    }

    fn retire_strays(&mut self) -> Result<()> {
        let now = self.replica.clock().now();
        let strays = self.strays(now)?;
        self.report.strays_retired = strays.len() as u64;
        if strays.is_empty() || self.options.dry_run {
            return Ok(());
        }
        let edits = [CatalogEdit::Retired { objects: strays, at: now }];
        match self.replica.catalog_mut().amend(&edits, &|| Ok(())) {
            // One of them belongs to the volume by now.
            Err(error) if error.kind() == ErrorKind::Changed => {
                self.report.strays_retired = 0;
                Ok(())
            }
            other => other,
        }
    }

    /// Returns objects older than the grace that can never belong to the volume.
    fn strays(&self, now: Timestamp) -> Result<Vec<String>> {
        let catalog = self.replica.catalog();
        let published: HashSet<_> = catalog.published().map(|entry| &entry.object).collect();
        let prefix = layout::segments_prefix(&self.replica.info().name);
        let mut strays = Vec::new();
        for info in self.replica.store().list(&prefix)? {
            if published.contains(&info.name) || catalog.retired().contains_key(&info.name) {
                continue;
            }
            let first = info.name.strip_prefix(&prefix).and_then(first_sequence);
            let passed = first.is_some_and(|first| first <= catalog.last_sequence());
            if !passed {
                continue;
            }
            // Objects that are no segments of this volume are left alone.
            let Ok(segment) = self.replica.open_segment(&info.name) else { continue };
            let age = Duration::from_nanos(now.nanos_since(segment.params().created));
            if age >= self.policy.grace {
                strays.push(info.name);
            }
        }
        Ok(strays)
    }
}

/// Returns whether a run of segments is too small to consider folding it for the bytes saved.
pub fn is_few(segments: usize, bytes_in: u64) -> bool {
    segments < FEW_SEGMENTS && bytes_in < FEW_BYTES
}

/// Returns the stored bytes that a run must contain so that a fold which writes `bytes_out` of them
/// saves enough.
pub fn least_bytes_in(bytes_out: u64) -> u64 {
    let least = u128::from(bytes_out) * 100 / u128::from(100 - SAVES_PERCENT_MIN);
    u64::try_from(least).unwrap_or(u64::MAX)
}

/// Returns the stored bytes from which a run that has `bytes_in` and needs `least` is looked at again.
pub fn look_again_at(least: u64, bytes_in: u64) -> u64 {
    least.max(bytes_in.saturating_add(bytes_in / 100 * GROWTH_PERCENT_MIN))
}

/// Returns `Changed` if a new segment was retired as a stray and deleted before its maker published
/// it.
fn check_there(store: &dyn Store, object: &str) -> Result<()> {
    if store.head(object)?.is_some() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Changed, "fold segments into", object)
        .message("it was given up for a stray: making it took longer than the grace of the policy"))
}

/// Returns the first sequence in the name of a segment's object, see
/// [`SegmentSummary::object_name`].
fn first_sequence(name: &str) -> Option<Sequence> {
    let digits = name.split('-').nth(1).filter(|digits| digits.len() == 16)?;
    u64::from_str_radix(digits, 16).ok().map(Sequence)
}

/// A sink that ends the work if the caller wants it to end.
struct Watched<'a> {
    sink: FileSink,
    go_on: &'a dyn Fn() -> Result<()>,
}

impl SegmentSink for Watched<'_> {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        (self.go_on)()?;
        self.sink.append(bytes)
    }

    fn sync(&mut self) -> Result<()> {
        self.sink.sync()
    }
}

/// A directory that is removed with its content.
struct Scratch {
    path: PathBuf,
    files: AtomicU64,
}

impl Scratch {
    fn create(options: &CompactOptions, clock: &dyn Clock) -> Result<Self> {
        let random = u64::from_le_bytes(random_bytes(clock));
        let parent = options.scratch.clone().unwrap_or_else(std::env::temp_dir);
        let path = parent.join(format!("hrl-compact-{random:016x}"));
        std::fs::create_dir_all(&path)
            .map_err(|error| Error::io("create scratch directory", path.display(), error))?;
        Ok(Self { path, files: AtomicU64::new(0) })
    }

    /// Returns the path of a new file.
    fn file(&self) -> PathBuf {
        let number = self.files.fetch_add(1, Ordering::Relaxed);
        self.path.join(format!("{number}.hrl"))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Files that stay are in a directory for temporary files.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}
