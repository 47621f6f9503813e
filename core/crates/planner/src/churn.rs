//! Churn: how much is written to a volume over time, counted from its journals.
//!
//! A segment within one bucket is counted from its summary and index. A segment that crosses the
//! border of a bucket, or has no data, is counted from its record tables. Data is never read. What
//! the first copy and resyncs read is counted apart, because no application wrote it then. Folded
//! segments lack overwritten data, so they are counted but not measured.
//!
//! Memory: one bucket's extents, up to [`EXTENTS_MAX`] (beyond it a sample of them), and a few
//! words for each bucket with writes. Nothing is written; an error identifies the segment that
//! could not be read.

use std::collections::BTreeMap;
use std::time::Duration;

use super::footprint::Footprint;
use hrl::journal::{Body, IndexKind, Segment, SegmentKind, SegmentSummary};
use hrl::replica::{Progress, Replica};
use hrl::{Error, ErrorKind, Extent, Result, Timestamp};

/// Most extents of one bucket that are counted exactly; beyond it, a sample is.
const EXTENTS_MAX: usize = 1 << 20;
/// Most buckets from the first to the last; a longer time needs longer buckets.
pub const CHURN_BUCKETS_MAX: u64 = 1 << 20;

/// What to count.
#[derive(Clone, Debug)]
pub struct ChurnOptions {
    /// Length of a bucket, at least 1 s. Buckets are counted from 1970. Default 60 s.
    pub bucket: Duration,
    /// Records before this time are left out. Default: none.
    pub from: Option<Timestamp>,
    /// Records at or after this time are left out. Default: none.
    pub to: Option<Timestamp>,
}

impl Default for ChurnOptions {
    fn default() -> Self {
        Self { bucket: Duration::from_secs(60), from: None, to: None }
    }
}

impl ChurnOptions {
    fn bucket_ns(&self) -> Result<i64> {
        let nanos = i64::try_from(self.bucket.as_nanos()).unwrap_or(i64::MAX);
        if (1_000_000_000..=366 * 86_400_000_000_000).contains(&nanos) {
            return Ok(nanos);
        }
        Err(Error::new(ErrorKind::InvalidInput, "count churn", "bucket")
            .expected("1 s to 366 days")
            .found(format_args!("{:?}", self.bucket)))
    }
}

/// Counts of one bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChurnBucket {
    /// When the bucket begins.
    pub start: Timestamp,
    /// Writes, zeroes, discards and flushes.
    pub records: u64,
    /// Bytes written. For a volume that is tracked without data, bytes touched.
    pub written_bytes: u64,
    /// Bytes written, counting each byte of the volume once.
    pub unique_bytes: u64,
    /// Bytes of the journals, compressed and encrypted: what must be shipped.
    pub stored_bytes: u64,
    /// Stored bytes of the first copy and of resyncs. Not included in the other counts.
    pub resync_stored_bytes: u64,
}

impl ChurnBucket {
    fn add(&mut self, other: &Self) {
        let add = |to: &mut u64, more: u64| *to = to.saturating_add(more);
        add(&mut self.records, other.records);
        add(&mut self.written_bytes, other.written_bytes);
        add(&mut self.unique_bytes, other.unique_bytes);
        add(&mut self.stored_bytes, other.stored_bytes);
        add(&mut self.resync_stored_bytes, other.resync_stored_bytes);
    }
}

/// Churn over time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Churn {
    /// Length of a bucket.
    pub bucket: Duration,
    /// The buckets with activity, oldest first.
    pub buckets: Vec<ChurnBucket>,
    /// Segments counted.
    pub segments: u64,
    /// Folded segments, which are not measured.
    pub segments_folded: u64,
    /// Some bucket had too many extents, so its unique bytes are an estimate.
    pub is_sampled: bool,
}

impl Churn {
    /// Counts the segments in the catalog of a volume. `progress` receives segments done and in
    /// all; returning false ends the work with `Unavailable`.
    ///
    /// `InvalidInput` if the bucket is out of range or too short for the time (see
    /// [`CHURN_BUCKETS_MAX`]). Also fails if a segment cannot be read.
    pub fn of_replica(
        replica: &Replica,
        options: &ChurnOptions,
        progress: Progress<'_>,
    ) -> Result<Self> {
        let mut counter = Counter::new(options, replica.info().device_bytes)?;
        let total = replica.catalog().segments().len() as u64;
        let (mut ahead, mut order, mut done) = (Order::default(), Order::default(), 0);
        let mut wanted =
            |summary: &SegmentSummary| !ahead.is_resync(summary) && counts(summary, options);
        replica.each_segment(&mut wanted, &mut |summary, segment| {
            let resync = order.is_resync(summary);
            match segment {
                Some(segment) => counter.add(&segment)?,
                None => counter.add_unread(summary, resync)?,
            }
            done += 1;
            if progress(done, total) {
                return Ok(());
            }
            Err(Error::new(ErrorKind::Unavailable, "count churn of", &replica.info().name)
                .message("it was cancelled"))
        })?;
        Ok(counter.finish())
    }

    /// Counts segments of any origin that follow each other in write order.
    pub fn of_segments<'a>(
        segments: impl IntoIterator<Item = &'a Segment>,
        options: &ChurnOptions,
    ) -> Result<Self> {
        let mut counter: Option<Counter<'_>> = None;
        let mut order = Order::default();
        for segment in segments {
            if counter.is_none() {
                counter = Some(Counter::new(options, segment.params().device_bytes)?);
            }
            let Some(counter) = &mut counter else { continue };
            let resync = order.is_resync(segment.summary());
            if counts(segment.summary(), options) && !resync {
                counter.add(segment)?;
            } else {
                counter.add_unread(segment.summary(), resync)?;
            }
        }
        match counter {
            Some(counter) => Ok(counter.finish()),
            None => Ok(Counter::new(options, 0)?.finish()),
        }
    }

    /// Returns the sum of all buckets; `start` is that of the first.
    pub fn total(&self) -> ChurnBucket {
        let mut total = ChurnBucket::default();
        self.buckets.iter().for_each(|bucket| total.add(bucket));
        total.start = self.buckets.first().map_or(Timestamp(0), |bucket| bucket.start);
        total
    }

    /// Returns the time from the begin of the first bucket to the end of the last.
    pub fn duration(&self) -> Duration {
        match (self.buckets.first(), self.buckets.last()) {
            (Some(first), Some(last)) => {
                Duration::from_nanos(last.start.nanos_since(first.start)) + self.bucket
            }
            _ => Duration::ZERO,
        }
    }

    /// Returns the bucket with the most bytes written.
    pub fn top(&self) -> Option<&ChurnBucket> {
        self.buckets.iter().max_by_key(|bucket| bucket.written_bytes)
    }

    /// Returns the smallest `value` that `percent` of the buckets do not exceed, including buckets
    /// without writes.
    pub fn percentile(&self, percent: f64, value: impl Fn(&ChurnBucket) -> u64) -> u64 {
        let mut values: Vec<_> = self.buckets.iter().map(value).collect();
        values.sort_unstable();
        let all = (self.duration().as_nanos() / self.bucket.as_nanos().max(1)) as usize;
        #[allow(clippy::cast_sign_loss, reason = "a rank is at least one")]
        let rank = ((percent / 100.0 * all as f64).ceil().max(1.0)) as usize;
        let empty = all.saturating_sub(values.len());
        match rank.checked_sub(empty + 1) {
            Some(at) => values.get(at).or(values.last()).copied().unwrap_or(0),
            None => 0,
        }
    }
}

/// Tracks unordered intervals from segment to segment.
#[derive(Default)]
pub(super) struct Order {
    unordered: bool,
}

impl Order {
    /// Returns whether the segment belongs, at least in part, to a first copy or resync. Expects
    /// segments in write order.
    pub(super) fn is_resync(&mut self, summary: &SegmentSummary) -> bool {
        let before = self.unordered;
        if let Some(change) = summary.order_changes.last() {
            self.unordered = change.begin.is_some();
        }
        before || summary.order_changes.iter().any(|change| change.begin.is_some())
    }
}

/// Returns whether the segment contains records that count.
fn counts(summary: &SegmentSummary, options: &ChurnOptions) -> bool {
    summary.kind == SegmentKind::Log
        && options.from.is_none_or(|from| summary.last_time >= from)
        && options.to.is_none_or(|to| summary.first_time < to)
}

/// Returns the number of records other than marks, begins and ends of unordered intervals.
pub(super) fn records_of(summary: &SegmentSummary) -> u64 {
    let notes = summary.marks.len() + summary.order_changes.len();
    summary.records.saturating_sub(notes as u64)
}

struct Counter<'a> {
    options: &'a ChurnOptions,
    bucket_ns: i64,
    buckets: BTreeMap<i64, ChurnBucket>,
    /// The extents of the bucket being counted.
    footprint: Footprint<()>,
    current: i64,
    churn: Churn,
}

impl<'a> Counter<'a> {
    fn new(options: &'a ChurnOptions, device_bytes: u64) -> Result<Self> {
        Ok(Self {
            options,
            bucket_ns: options.bucket_ns()?,
            buckets: BTreeMap::new(),
            footprint: Footprint::new(device_bytes, EXTENTS_MAX),
            current: i64::MIN,
            churn: Churn { bucket: options.bucket, ..Churn::default() },
        })
    }

    /// Counts a segment from its summary alone.
    fn add_unread(&mut self, summary: &SegmentSummary, resync: bool) -> Result<()> {
        if summary.kind != SegmentKind::Log {
            self.churn.segments_folded += 1;
        } else if resync && counts(summary, self.options) {
            self.churn.segments += 1;
            let stored = summary.stored_bytes;
            let bucket = self.bucket(self.place(summary.last_time))?;
            bucket.resync_stored_bytes = bucket.resync_stored_bytes.saturating_add(stored);
        }
        Ok(())
    }

    fn add(&mut self, segment: &Segment) -> Result<()> {
        let summary = segment.summary();
        self.churn.segments += 1;
        let (first, last) = (self.place(summary.first_time), self.place(summary.last_time));
        let inside = self.options.from.is_none_or(|from| summary.first_time >= from)
            && self.options.to.is_none_or(|to| summary.last_time < to);
        if first != last || !inside || summary.data_bytes == 0 {
            return self.add_records(segment);
        }
        for entry in segment.index()?.iter() {
            if matches!(entry.kind, IndexKind::Data | IndexKind::Touch) {
                self.cover(first, entry.extent);
            }
        }
        segment.forget_index();
        let bucket = self.bucket(first)?;
        bucket.add(&ChurnBucket {
            records: records_of(summary),
            written_bytes: summary.data_bytes,
            stored_bytes: summary.stored_bytes,
            ..ChurnBucket::default()
        });
        Ok(())
    }

    /// Counts record by record, and divides the stored bytes in proportion to the bytes written.
    fn add_records(&mut self, segment: &Segment) -> Result<()> {
        let mut parts: BTreeMap<i64, ChurnBucket> = BTreeMap::new();
        let (mut weight, mut records) = (0_u64, 0_u64);
        for number in 0..segment.frame_count() {
            for record in segment.frame(number)?.records() {
                let record = record?;
                let bytes = match record.body {
                    Body::Mark(_) | Body::UnorderedBegin(_) | Body::UnorderedEnd => continue,
                    Body::Write { .. } | Body::Touch(_) => record.body.extent().length,
                    _ => 0,
                };
                weight = weight.saturating_add(bytes);
                records += 1;
                let outside = self.options.from.is_some_and(|from| record.time < from)
                    || self.options.to.is_some_and(|to| record.time >= to);
                if outside {
                    continue;
                }
                let place = self.place(record.time);
                if bytes > 0 {
                    self.cover(place, record.body.extent());
                }
                let part = parts.entry(place).or_default();
                part.records += 1;
                part.written_bytes = part.written_bytes.saturating_add(bytes);
            }
        }
        let stored = u128::from(segment.summary().stored_bytes);
        for (place, mut part) in parts {
            let share = match weight {
                0 => stored * u128::from(part.records) / u128::from(records.max(1)),
                _ => stored * u128::from(part.written_bytes) / u128::from(weight),
            };
            part.stored_bytes = u64::try_from(share).unwrap_or(u64::MAX);
            self.bucket(place)?.add(&part);
        }
        Ok(())
    }

    /// Counts the bytes of `extent` that are new in the bucket.
    fn cover(&mut self, place: i64, extent: Extent) {
        if place != self.current {
            self.churn.is_sampled |= self.footprint.is_sample();
            self.footprint.clear();
            self.current = place;
        }
        let mut fresh = 0_u64;
        self.footprint.update(extent, &mut |bytes, old| {
            fresh = fresh.saturating_add(if old.is_none() { bytes } else { 0 });
        });
        if fresh > 0 {
            let bucket = self.buckets.entry(place).or_default();
            bucket.unique_bytes = bucket.unique_bytes.saturating_add(fresh);
        }
    }

    fn place(&self, time: Timestamp) -> i64 {
        time.0.div_euclid(self.bucket_ns)
    }

    fn bucket(&mut self, place: i64) -> Result<&mut ChurnBucket> {
        let first = self.buckets.keys().next().map_or(place, |first| place.min(*first));
        let last = self.buckets.keys().next_back().map_or(place, |last| place.max(*last));
        if last.abs_diff(first) >= CHURN_BUCKETS_MAX {
            return Err(Error::new(ErrorKind::InvalidInput, "count churn", "bucket")
                .expected(format_args!(
                    "at most {CHURN_BUCKETS_MAX} of them: larger ones, or less time"
                ))
                .found(format_args!("{}", last.abs_diff(first))));
        }
        Ok(self.buckets.entry(place).or_default())
    }

    fn finish(mut self) -> Churn {
        self.churn.is_sampled |= self.footprint.is_sample();
        let bucket_ns = self.bucket_ns;
        let buckets = self.buckets.into_iter().map(|(place, bucket)| ChurnBucket {
            start: Timestamp(place.saturating_mul(bucket_ns)),
            ..bucket
        });
        self.churn.buckets = buckets.collect();
        self.churn
    }
}
