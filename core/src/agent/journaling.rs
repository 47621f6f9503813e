//! The journal task: moves captured changes from the tap into segments in the spool.
//!
//! A segment is closed at each mark and at the end of an unordered interval, by size and time of
//! the policy, and on request.
//!
//! Invariants: a segment is in the spool before it counts as durable. The closed segments do not
//! exceed the limit of the spool; only a single change that is larger than the limit does, in an
//! empty spool.
//!
//! Behaviour on failure: the open segment is lost, and the regions of its changes become dirty. The
//! journal then tries to write the begin of the unordered interval, whose time is that of the first
//! lost change, until that is durable. With a full spool the tap falls back to dirty regions too.
//! Writers never wait for the journal's disk.

use std::task::Waker;
use std::time::Duration;

use super::away;
use super::failures::{JOURNAL, REWIND};
use super::next::Next;
use super::requests::Request;
use super::rewind;
use super::session::Rewind;
use super::shared::Shared;
use super::spool::Spooled;
use super::task::Task;
use crate::capture::{QueuedBody, QueuedRecord};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Cause;
use crate::journal::{
    Body, FileSink, RECORD_DATA_BYTES_MAX, RECORD_EXTRA_BYTES_MAX, Record, SegmentKind,
    SegmentParams, SegmentWriter, VolumeKey,
};
use crate::units::{Sequence, Timestamp};

/// Records are taken from the tap in batches of about this much.
const DRAIN_BYTES: u64 = 1 << 20;
/// Pause in which more records gather.
const DRAIN_WAIT: Duration = Duration::from_millis(5);
/// Records of a batch may add this many times their cost in the queue to a segment: the cost of a
/// small one is an eighth of [`RECORD_EXTRA_BYTES_MAX`].
const BATCH_SHARE: u64 = 8;
/// Pause while the spool is full, and after the first failure of its disk.
const PAUSE: Duration = Duration::from_millis(50);
/// Longest pause while the disk of the spool fails.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Segments pile up if they fill this part of the spool.
const PILE_ONE_IN: u64 = 8;
/// Smallest limit of the open segment on a disk that is nearly full.
const SEGMENT_BYTES_MIN: u64 = 64 << 10;
/// Compression may spend its share of this much time at once.
const COMPRESSION_WINDOW: Duration = Duration::from_millis(200);

/// Processor time that compression may still take: a bucket that fills with time and empties with
/// work. Work that took more than was left is a debt.
struct CompressionBudget {
    percent_max: u32,
    /// Other threads need the processors.
    crowded: bool,
    earned: Duration,
    spent: Duration,
    filled: Duration,
}

impl CompressionBudget {
    fn new(percent_max: u32, now: Duration) -> Self {
        let (earned, spent) = (Duration::ZERO, Duration::ZERO);
        Self { percent_max, crowded: false, earned, spent, filled: now }
    }

    /// Returns whether the next batch may be compressed. While the processors are crowded it may
    /// not, unless segments `pile_up` because the link is slow.
    fn allows(&mut self, now: Duration, pile_up: bool) -> bool {
        let share = |time: Duration| time * self.percent_max / 100;
        self.earned += share(now.saturating_sub(self.filled));
        self.earned = self.earned.min(self.spent + share(COMPRESSION_WINDOW));
        self.filled = now;
        let gives_way = self.crowded && !pile_up;
        self.percent_max >= 100 || (self.spent <= self.earned && !gives_way)
    }

    fn spend(&mut self, worked: Duration) {
        self.spent += worked;
    }
}

/// The open segment.
struct Open {
    writer: SegmentWriter<FileSink>,
    since: Duration,
}

/// Runs until the protection stops and the queue is empty.
pub(super) struct Journaling {
    open: Option<Open>,
    budget: CompressionBudget,
    /// Pause after the next loss.
    pause: Duration,
    /// A larger open segment is closed. Less than the policy's while the disk of the spool is nearly
    /// full, because what is closed is not lost.
    segment_bytes_max: u64,
    /// The key of the last segment, which the state directory has.
    key: Option<VolumeKey>,
}

impl Journaling {
    pub(super) fn new(shared: &Shared) -> Self {
        let percent_max = shared.policy.compression_cpu_percent_max;
        let budget = CompressionBudget::new(percent_max, shared.clock.elapsed());
        let segment_bytes_max = shared.policy.segment_bytes_max;
        Self { open: None, budget, pause: PAUSE, segment_bytes_max, key: shared.keys.newest() }
    }
}

impl Task for Journaling {
    fn name(&self) -> &'static str {
        "journal"
    }

    fn step(&mut self, shared: &Shared, _waker: &Waker) -> Next {
        let next = self.go_on(shared);
        if matches!(next, Next::Ended) {
            // No segment is closed after it.
            shared.journal.drained();
        }
        next
    }

    fn gives_way(&self) -> bool {
        true
    }

    fn set_crowded(&mut self, yes: bool) {
        self.budget.crowded = yes;
    }

    fn wait_for_work(&self, shared: &Shared, limit: Duration) {
        shared.tap.wait_to_drain(limit);
    }
}

impl Journaling {
    fn go_on(&mut self, shared: &Shared) -> Next {
        if let Some(rewind) = shared.session.take_rewind() {
            self.open = None;
            continue_vault(shared, rewind);
            return Next::Now;
        }
        // A stop goes on while shipping may still make room.
        let ends = shared.requests.has_ended();
        let pause = |pause| if ends { Next::Ended } else { Next::Later(pause) };
        if shared.session.is_fenced() {
            if !shared.journal.is_drained() {
                self.drain(shared);
                shared.journal.drained();
            }
            return if shared.requests.is_stopping() { Next::Ended } else { Next::Later(PAUSE) };
        }
        match self.journal(shared, shared.policy.spool_bytes_max) {
            Ok(Step::SpoolFull) => pause(PAUSE),
            Ok(Step::Idle) if shared.requests.is_stopping() => Next::Ended,
            Ok(Step::TookLittle) => Next::Now,
            Ok(Step::Idle | Step::Worked) => {
                if !shared.journal.is_stalled() {
                    self.pause = PAUSE;
                }
                Next::Work(DRAIN_WAIT)
            }
            Err(error) => {
                let lost = self.open.take().map_or(0, |open| open.writer.bytes());
                if error.kind() == ErrorKind::Full {
                    self.segment_bytes_max = (lost / 2).max(SEGMENT_BYTES_MIN);
                }
                lose(shared, &error);
                let now = self.pause;
                self.pause = (2 * now).min(PAUSE_MAX);
                pause(now)
            }
        }
    }

    /// Closes what was captured until now, once this source is fenced, whatever the limit of the spool:
    /// from here on only the dirty map follows the disk.
    fn drain(&mut self, shared: &Shared) {
        let target = shared.tap.stats().last_sequence;
        while self.open.is_some() || shared.journal.now().durable < target {
            shared.requests.ask(Request::Close);
            match self.journal(shared, u64::MAX) {
                Ok(Step::Idle | Step::SpoolFull) => break,
                Ok(Step::Worked | Step::TookLittle) => {}
                Err(error) => {
                    self.open = None;
                    lose(shared, &error);
                    break;
                }
            }
        }
    }

    /// Journals one batch, in a spool of at most `bytes_max`.
    fn journal(&mut self, shared: &Shared, bytes_max: u64) -> Result<Step> {
        let batch_bytes = self.batch_bytes(shared, bytes_max);
        shared.journal.set_spool_full(batch_bytes.is_none());
        let Some(batch_bytes) = batch_bytes else {
            shared.tap.set_pressure(Cause::SpoolFull);
            // Wakes writers at the end of a barrier.
            shared.tap.drain(0, Duration::ZERO);
            // The vault can take it then.
            self.close(shared)?;
            return Ok(Step::SpoolFull);
        };
        shared.tap.set_pressure(Cause::MemoryBudget);
        let records = shared.tap.drain(batch_bytes, Duration::ZERO);
        let idle = records.is_empty();
        let start = shared.clock.elapsed();
        let pile_up = shared.shipping.spool.bytes() > shared.policy.spool_bytes_max / PILE_ONE_IN;
        let compressing = self.budget.allows(start, pile_up);
        for record in records {
            self.append(shared, &record)?;
            if let Some(open) = &mut self.open {
                open.writer.set_compressing(compressing);
            }
            let ends_segment = match &record.body {
                QueuedBody::Mark(mark) => !mark.is_commitment(),
                // The point of an observer follows.
                QueuedBody::UnorderedEnd => !shared.tap.is_observed(),
                _ => false,
            };
            let bytes = self.open.as_ref().map_or(0, |open| open.writer.bytes());
            if ends_segment || bytes >= self.segment_bytes_max {
                self.close(shared)?;
            }
        }
        if compressing {
            self.budget.spend(shared.clock.elapsed().saturating_sub(start));
        }
        // The begin of an unordered interval proves that the disk takes segments again.
        let wanted = shared.requests.take(Request::Close) || shared.journal.is_stalled();
        if let Some(current) = &self.open {
            let age = shared.clock.elapsed().saturating_sub(current.since);
            if wanted || shared.requests.is_stopping() || age >= shared.policy.segment_interval {
                self.close(shared)?;
            }
        }
        Ok(match (idle, &self.open) {
            (true, None) => Step::Idle,
            (false, _) if batch_bytes < DRAIN_BYTES => Step::TookLittle,
            _ => Step::Worked,
        })
    }

    /// Returns how many bytes may be taken from the queue so that the open segment, once it is closed,
    /// fits a spool of `bytes_max`; zero if nothing is queued, `None` if not even the next record fits.
    ///
    /// Into an empty spool every record fits: otherwise nothing would ever make room for a large one.
    fn batch_bytes(&self, shared: &Shared, bytes_max: u64) -> Option<u64> {
        let Some(next) = shared.tap.next_bytes() else { return Some(0) };
        let spool = &shared.shipping.spool;
        let taken = self
            .open
            .as_ref()
            .map_or(RECORD_EXTRA_BYTES_MAX, |open| open.writer.closed_bytes_max());
        let left = bytes_max.saturating_sub(spool.bytes()).saturating_sub(taken);
        // Long data becomes several records.
        let records = 1 + next / RECORD_DATA_BYTES_MAX as u64;
        let fits = next.saturating_add(records * RECORD_EXTRA_BYTES_MAX) <= left;
        let is_alone = self.open.is_none() && spool.is_empty();
        (fits || is_alone).then_some((left / BATCH_SHARE).clamp(1, DRAIN_BYTES))
    }

    fn append(&mut self, shared: &Shared, queued: &QueuedRecord) -> Result<()> {
        let QueuedRecord { sequence, time, body } = queued;
        let simple = |body| Record { sequence: *sequence, time: *time, body };
        let record = match body {
            QueuedBody::Write(offset, data) => {
                let chunks = data.len().div_ceil(RECORD_DATA_BYTES_MAX) as u64;
                for (at, chunk) in data.chunks(RECORD_DATA_BYTES_MAX).enumerate() {
                    let offset = offset + (at * RECORD_DATA_BYTES_MAX) as u64;
                    let sequence = Sequence(sequence.0 - (chunks - 1) + at as u64);
                    let body = Body::Write { offset, data: chunk };
                    if let Some(inspector) = &shared.inspector {
                        inspector.wrote(offset, chunk);
                    }
                    self.opened(shared, sequence, *time)?.append(&Record {
                        sequence,
                        time: *time,
                        body,
                    })?;
                }
                return Ok(());
            }
            QueuedBody::Zero(extent) => simple(Body::Zero(*extent)),
            QueuedBody::Discard(extent, what) => simple(Body::Discard(*extent, *what)),
            QueuedBody::Touch(extent) => simple(Body::Touch(*extent)),
            QueuedBody::Flush => simple(Body::Flush),
            QueuedBody::Mark(mark) => simple(Body::Mark(mark.clone())),
            QueuedBody::UnorderedBegin(cause) => simple(Body::UnorderedBegin(*cause)),
            QueuedBody::UnorderedEnd => simple(Body::UnorderedEnd),
        };
        self.opened(shared, *sequence, *time)?.append(&record)
    }

    /// Returns the writer of the open segment. Without one, opens a segment that begins with this
    /// record.
    fn opened(
        &mut self,
        shared: &Shared,
        first_sequence: Sequence,
        first_time: Timestamp,
    ) -> Result<&mut SegmentWriter<FileSink>> {
        if self.open.is_none() {
            // Even if the file cannot be created, the record is known to be lost.
            shared.journal.opens(first_time);
            let path = shared.state.open_segment();
            let params = SegmentParams {
                kind: SegmentKind::Log,
                volume: shared.info.id,
                epoch: shared.epoch,
                first_sequence,
                device_bytes: shared.info.device_bytes,
                block_bytes: shared.info.block_bytes,
                previous: shared.journal.now().chain,
                replaces_through: None,
                created: shared.clock.now(),
                compression: shared.policy.compression,
                frame_bytes: shared.policy.frame_bytes,
            };
            shared.state.remove(&path)?;
            let sink = FileSink::create(&**shared.state.files(), &path)?;
            let key = shared.keys.newest();
            if self.key != key && shared.session.provisional().is_none() {
                // A start without the vault must be able to read what lies in the spool.
                away::keep(&shared.state, &shared.vault, &shared.info, &shared.keys)?;
                self.key.clone_from(&key);
            }
            let writer = SegmentWriter::create(sink, params, key.as_ref(), &*shared.clock)?;
            self.open = Some(Open { writer, since: shared.clock.elapsed() });
        }
        let open = self.open.as_mut().expect("opened above");
        Ok(&mut open.writer)
    }

    /// Closes the open segment and hands it to the spool.
    fn close(&mut self, shared: &Shared) -> Result<()> {
        let Some(Open { writer, .. }) = self.open.take() else { return Ok(()) };
        let (sink, summary) = writer.close(None)?;
        let path = shared.state.spool_closed(sink.path(), &summary)?;
        // Before it counts as durable: those who wait for that, and then for an empty spool, must find
        // it there.
        shared.shipping.spool.push(Spooled { path, summary: summary.clone() });
        shared.journal.closed(&summary);
        self.segment_bytes_max = (2 * self.segment_bytes_max).min(shared.policy.segment_bytes_max);
        if let Some(inspector) = &shared.inspector {
            inspector.closed(&summary);
        }
        shared.progress.moved();
        shared.works_again(&JOURNAL);
        Ok(())
    }
}

/// Continues a vault that went back. If that fails, shipping finds it out again.
fn continue_vault(shared: &Shared, rewind: Rewind) {
    match rewind::carry_out(shared, rewind) {
        Ok(()) => shared.works_again(&REWIND),
        Err(error) => {
            give_up_open(shared, Cause::JournalError);
            shared.failed(&REWIND, &error);
        }
    }
    shared.session.went_back();
}

/// What a step did.
enum Step {
    /// Nothing: the queue is empty and no segment is open.
    Idle,
    Worked,
    /// It took little from the queue, because little room is left in the spool.
    TookLittle,
    /// The next record does not fit the spool.
    SpoolFull,
}

/// Gives the open segment up: everything after the last closed one is read from the disk again.
fn lose(shared: &Shared, error: &Error) {
    let cause =
        if error.kind() == ErrorKind::Full { Cause::SpoolFull } else { Cause::JournalError };
    give_up_open(shared, cause);
    shared.failed(&JOURNAL, error);
}

fn give_up_open(shared: &Shared, cause: Cause) {
    // Frees the space of the torn segment.
    let _ = shared.state.remove(&shared.state.open_segment());
    let (durable, since) = shared.journal.lost();
    shared.tap.journal_lost(durable, since, cause);
    shared.journal.wake();
    shared.progress.moved();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compression_takes_its_share_and_no_more() {
        let (mut now, mut compressed) = (Duration::ZERO, Duration::ZERO);
        let mut budget = CompressionBudget::new(25, now);
        let batch = Duration::from_millis(7);
        for _ in 0..10_000 {
            if budget.allows(now, false) {
                budget.spend(batch);
                compressed += batch;
            }
            // A batch stored as it is takes a seventh of the time.
            now += if budget.spent == compressed { batch } else { batch / 7 };
        }
        let share = compressed.as_secs_f64() / now.as_secs_f64();
        assert!((0.24..0.26).contains(&share), "{share}");
        now += COMPRESSION_WINDOW;
        budget.crowded = true;
        assert!(!budget.allows(now, false), "other threads need the processors");
        assert!(budget.allows(now, true), "bytes matter more");
    }
}
