//! A trace of a volume: its segments as they came, and how its writes overwrite each other.
//!
//! The trace begins after the last folded segment. It omits the first copy and resyncs, which no
//! application wrote. What came before it is the base, which the vault contains from the start.
//! Summary and index of each segment are read.
//!
//! The trace is cut into [`SLOTS`] equal slots. For bytes written in each slot, [`Reuse`] knows
//! when they are next overwritten if the trace repeats on the same blocks. So it predicts how many
//! bytes a fold of any run of slots keeps. Memory: a word for each pair of slots, up to
//! [`EXTENTS_MAX`] extents of the volume (beyond it a sample), and 72 bytes for each segment.

use super::churn::{Order, records_of};
use super::footprint::Footprint;
use hrl::journal::{IndexKind, Segment, SegmentKind, SegmentSummary};
use hrl::replica::{Progress, Replica};
use hrl::{Error, ErrorKind, Result, Timestamp};

/// Slots of a trace.
pub(super) const SLOTS: usize = 240;
/// Most extents of a volume that are tracked exactly.
const EXTENTS_MAX: usize = 2 << 20;
/// Most segments of a trace.
const ATOMS_MAX: usize = 4 << 20;
const BASE: u16 = u16::MAX;

/// A segment of the trace as the source closed it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Atom {
    /// Times of the first and last record, in nanoseconds since 1970.
    pub first: i64,
    pub last: i64,
    pub records: u64,
    pub data_bytes: u64,
    pub stored_bytes: u64,
    /// The segment ends with a recovery point, which closed it.
    pub ends_with_point: bool,
}

/// What a volume's journals contain.
pub(super) struct Trace {
    pub name: String,
    pub atoms: Vec<Atom>,
    /// Begin and length of the trace, in nanoseconds.
    pub begin: i64,
    pub period: i64,
    /// Bytes in the vault from before the trace.
    pub base_data_bytes: u64,
    pub base_stored_bytes: u64,
    pub reuse: Reuse,
}

impl Trace {
    /// Reads the trace of a volume between two times. `NotFound` if nothing was written then,
    /// `Full` beyond [`ATOMS_MAX`] segments.
    pub(super) fn read(
        replica: &Replica,
        from: Option<Timestamp>,
        to: Option<Timestamp>,
        progress: Progress<'_>,
    ) -> Result<Self> {
        let name = replica.info().name.clone();
        let choice = Choice::new(replica, from, to);
        let mut order = Order::default();
        let (mut atoms, mut base) = (Vec::new(), (0_u64, 0_u64));
        for entry in replica.catalog().segments() {
            match choice.of(&entry.summary, order.is_resync(&entry.summary)) {
                Part::Base => {
                    base.0 = base.0.saturating_add(entry.summary.data_bytes);
                    base.1 = base.1.saturating_add(entry.summary.stored_bytes);
                }
                Part::Trace => atoms.push(atom(&entry.summary)),
                Part::Neither => {}
            }
        }
        let (Some(first), Some(last)) = (atoms.first(), atoms.last()) else {
            return Err(Error::new(ErrorKind::NotFound, "plan capacity of", name)
                .expected("journals of ordered writes that retention has not folded")
                .found("none in this time"));
        };
        if atoms.len() > ATOMS_MAX {
            return Err(Error::new(ErrorKind::Full, "plan capacity of", name)
                .expected(format_args!("at most {ATOMS_MAX} segments: plan from less time"))
                .found(atoms.len()));
        }
        let begin = from.map_or(first.first, |from| from.0.min(first.first));
        let end = to.map_or(last.last, |to| to.0.max(last.last));
        let period = end.saturating_sub(begin).max(1_000_000_000);
        let reuse = Reuse::read(replica, &choice, begin, period, progress)?;
        let (base_data_bytes, base_stored_bytes) = base;
        Ok(Self { name, atoms, begin, period, base_data_bytes, base_stored_bytes, reuse })
    }
}

/// Role of a segment in a trace.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Base,
    Trace,
    Neither,
}

/// Which segments belong to the trace.
struct Choice {
    /// Last sequence of the last folded segment; later segments may belong to the trace.
    after_folded: u64,
    from: i64,
    to: i64,
}

impl Choice {
    fn new(replica: &Replica, from: Option<Timestamp>, to: Option<Timestamp>) -> Self {
        let mut segments = replica.catalog().segments().iter().map(|entry| &entry.summary);
        let folded = segments.rfind(|summary| summary.kind != SegmentKind::Log);
        Self {
            after_folded: folded.map_or(0, |summary| summary.last_sequence.0),
            from: from.map_or(i64::MIN, |from| from.0),
            to: to.map_or(i64::MAX, |to| to.0),
        }
    }

    fn of(&self, summary: &SegmentSummary, resync: bool) -> Part {
        if summary.first_sequence.0 <= self.after_folded || summary.last_time.0 < self.from {
            Part::Base
        } else if summary.first_time.0 >= self.to {
            Part::Neither
        } else if resync {
            Part::Base
        } else {
            Part::Trace
        }
    }
}

fn atom(summary: &SegmentSummary) -> Atom {
    let mark = summary.marks.last();
    Atom {
        first: summary.first_time.0,
        last: summary.last_time.0.max(summary.first_time.0),
        records: records_of(summary),
        data_bytes: summary.data_bytes,
        stored_bytes: summary.stored_bytes,
        ends_with_point: mark.is_some_and(|mark| mark.sequence == summary.last_sequence),
    }
}

/// When bytes are overwritten.
pub(super) struct Reuse {
    /// For each slot, and last the base: bytes written in it and next overwritten in slot `j` or
    /// later, counted from the begin of the slot's own repetition. `j` spans two repetitions; its
    /// last place is "never".
    after: Vec<[u64; 2 * SLOTS + 1]>,
    begin: i64,
    period: i64,
    /// Counted on a sample of the volume.
    pub is_sampled: bool,
}

impl Reuse {
    fn read(
        replica: &Replica,
        choice: &Choice,
        begin: i64,
        period: i64,
        progress: Progress<'_>,
    ) -> Result<Self> {
        let mut reuse =
            Self { after: vec![[0; 2 * SLOTS + 1]; SLOTS + 1], begin, period, is_sampled: false };
        let mut footprint: Footprint<(u16, u16)> =
            Footprint::new(replica.info().device_bytes, EXTENTS_MAX);
        let total = replica.catalog().segments().len() as u64;
        let (mut ahead, mut order, mut done) = (Order::default(), Order::default(), 0);
        let mut wanted = |summary: &SegmentSummary| {
            choice.of(summary, ahead.is_resync(summary)) != Part::Neither
        };
        replica.each_segment(&mut wanted, &mut |summary, segment| {
            let part = choice.of(summary, order.is_resync(summary));
            if let Some(segment) = segment {
                let slot = match part {
                    Part::Trace => reuse.slot(summary.last_time.0),
                    _ => BASE,
                };
                reuse.add(&segment, slot, &mut footprint)?;
            }
            done += 1;
            if progress(done, total) {
                return Ok(());
            }
            Err(Error::new(ErrorKind::Unavailable, "plan capacity of", &replica.info().name)
                .message("it was cancelled"))
        })?;
        reuse.is_sampled = footprint.is_sample();
        for (bytes, (last, first)) in footprint.iter() {
            let next = if first == BASE { 2 * SLOTS } else { SLOTS + usize::from(first) };
            reuse.count(last, next, bytes);
        }
        reuse.sum();
        Ok(reuse)
    }

    fn add(
        &mut self,
        segment: &Segment,
        slot: u16,
        footprint: &mut Footprint<(u16, u16)>,
    ) -> Result<()> {
        for entry in segment.index()?.iter() {
            if !matches!(entry.kind, IndexKind::Data | IndexKind::Touch) {
                continue;
            }
            footprint.update(entry.extent, &mut |bytes, old| match old {
                None => (slot, slot),
                Some((last, first)) => {
                    self.count(last, if slot == BASE { 0 } else { usize::from(slot) }, bytes);
                    (slot, if first == BASE { slot } else { first })
                }
            });
        }
        segment.forget_index();
        Ok(())
    }

    fn slot(&self, time: i64) -> u16 {
        position(time, self.begin, self.period, SLOTS).min(SLOTS - 1) as u16
    }

    fn count(&mut self, slot: u16, next: usize, bytes: u64) {
        let row = usize::from(slot).min(SLOTS);
        self.after[row][next] = self.after[row][next].saturating_add(bytes);
    }

    /// Turns the counts into sums from each place on.
    fn sum(&mut self) {
        for row in &mut self.after {
            for at in (0..2 * SLOTS).rev() {
                row[at] = row[at].saturating_add(row[at + 1]);
            }
        }
    }

    /// Returns how many bytes a fold of everything written from `first` to `last` keeps, including
    /// the base if `with_base`. Times may lie in any repetition of the trace.
    pub(super) fn unique_bytes(&self, first: i64, last: i64, with_base: bool) -> u64 {
        let place = |time: i64| position(time, self.begin, self.period, SLOTS);
        let (start, end) = (place(first), place(last).saturating_add(1));
        // Data written a whole repetition before the end has been overwritten.
        let start = if with_base { 0 } else { start }.max(end.saturating_sub(SLOTS));
        let written = (start..end).fold(0_u64, |sum, slot| {
            let (row, repetition) = (slot % SLOTS, slot / SLOTS);
            sum.saturating_add(self.after[row][end - repetition * SLOTS])
        });
        let base = if with_base { self.after[SLOTS][end.min(2 * SLOTS)] } else { 0 };
        written.saturating_add(base)
    }

    /// Places the trace in a longer time whose rest is quiet.
    pub(super) fn stretch(&mut self, begin: i64, period: i64) {
        if (begin, period) == (self.begin, self.period) {
            return;
        }
        let mut stretched = vec![[0_u64; 2 * SLOTS + 1]; SLOTS + 1];
        let place = |slot: usize| {
            let time = self.begin + (self.period / SLOTS as i64) * (slot % SLOTS) as i64;
            position(time, begin, period, SLOTS).min(SLOTS - 1) + slot / SLOTS * SLOTS
        };
        for (slot, row) in self.after.iter().enumerate() {
            let to = if slot == SLOTS { SLOTS } else { place(slot) };
            for next in 0..=2 * SLOTS {
                let upto = row.get(next + 1).copied().unwrap_or(0);
                let at = if next == 2 * SLOTS { next } else { place(next) };
                stretched[to][at] = stretched[to][at].saturating_add(row[next] - upto);
            }
        }
        (self.after, self.begin, self.period) = (stretched, begin, period);
        self.sum();
    }

    /// Returns how many bytes of the volume the trace writes to.
    pub(super) fn footprint_bytes(&self) -> u64 {
        self.unique_bytes(self.begin, self.begin.saturating_add(self.period - 1), false)
    }
}

/// Returns which of the `parts` of `period` contains `time`; times before the begin are in the
/// first.
pub(super) fn position(time: i64, begin: i64, period: i64, parts: usize) -> usize {
    let since = u128::from(time.saturating_sub(begin).max(0).cast_unsigned());
    let period = u128::from(period.max(1).cast_unsigned());
    usize::try_from(since * parts as u128 / period).unwrap_or(usize::MAX)
}
