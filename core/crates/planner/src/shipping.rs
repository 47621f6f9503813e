//! The model of shipping: a trace passes through rotation, spool, throttle, link and catalog as in
//! `agent`.
//!
//! The limits and the throttle are the product's own code. A segment is closed at its age, its size
//! or a point. Up to `BATCH_SEGMENTS_MAX` segments of the spool go in chunks of
//! `puts_in_flight_max`; each waits for its turn at the throttle. Once a batch is put and the
//! catalog's interval is over, one append publishes it, and it leaves the spool.
//!
//! Simplifications: the link carries one put after the other at full speed, in the order in which
//! they begin. Each request takes the same latency, and closing takes no time. A segment that is
//! cut or joined compresses as well as before. The spool has no limit; the result shows how much
//! was needed.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use super::prediction::PlanOptions;
use super::trace::Atom;
use hrl::rules::{BATCH_SEGMENTS_MAX, BATCH_TIME, Throttle, UNPUBLISHED_SEGMENTS_MAX};
use hrl::{Clock, ManualClock, Policy, Timestamp};

/// How far past its interval a segment may be and still count as closed by it: the journal checks
/// the clock this often.
const SLACK_NS: i64 = 250_000_000;

/// How long shippers are idle before the trace begins.
const IDLE_NS: i64 = 10_000_000_000;

/// A segment as the planned policy makes it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Planned {
    /// Times of the first record, the last record and the closing, in nanoseconds since 1970.
    pub first: i64,
    pub last: i64,
    pub closed: i64,
    pub records: u64,
    pub data_bytes: u64,
    pub stored_bytes: u64,
    pub ends_with_point: bool,
    /// When it goes over the link: begin and end.
    pub sent: (i64, i64),
    /// When it is published.
    pub shipped: i64,
}

/// Result of shipping.
#[derive(Default)]
pub(super) struct Shipped {
    pub segments: Vec<Planned>,
    /// Appends to the catalog.
    pub appends: u64,
}

/// Cuts and joins the segments of the source as `policy` would.
pub(super) fn rotate(atoms: &[Atom], policy: &Policy) -> Vec<Planned> {
    let interval = nanos(policy.segment_interval).max(1);
    let size_max = policy.segment_bytes_max;
    let mut planned: Vec<Planned> = Vec::with_capacity(atoms.len());
    let mut open: Option<Planned> = None;
    for atom in atoms.iter().flat_map(|atom| chunks(atom, interval, size_max)) {
        if let Some(current) = open.take_if(|open| {
            atom.first >= open.closed
                || open.stored_bytes.saturating_add(atom.stored_bytes) > size_max
        }) {
            // A segment that does not fit closes the open one.
            let closed = current.closed.min(atom.first.max(current.last));
            planned.push(Planned { closed, ..current });
        }
        let mut joined = match open.take() {
            None => Planned {
                first: atom.first,
                last: atom.last,
                // By the record after which it is old enough, or by the clock.
                closed: atom.first.saturating_add(interval),
                records: 0,
                data_bytes: 0,
                stored_bytes: 0,
                ends_with_point: false,
                sent: (0, 0),
                shipped: 0,
            },
            Some(open) => open,
        };
        joined.last = atom.last;
        joined.records += atom.records;
        joined.data_bytes += atom.data_bytes;
        joined.stored_bytes += atom.stored_bytes;
        joined.closed = joined.closed.max(atom.last);
        if atom.ends_with_point || joined.stored_bytes >= size_max {
            joined.ends_with_point = atom.ends_with_point;
            joined.closed = atom.last;
            planned.push(joined);
        } else {
            open = Some(joined);
        }
    }
    planned.extend(open);
    planned
}

/// Cuts an atom into chunks within the age and size of a segment.
fn chunks(atom: &Atom, interval: i64, size_max: u64) -> impl Iterator<Item = Atom> + use<> {
    let atom = *atom;
    let span = atom.last - atom.first;
    let by_size = atom.stored_bytes.div_ceil(size_max.max(1)).clamp(1, 1 << 20).cast_signed();
    let by_time = if span > interval + SLACK_NS { span / interval + 1 } else { 1 };
    let (count, width) =
        if by_time > by_size { (by_time, interval) } else { (by_size, span / by_size) };
    (0..count).map(move |at| {
        let begin = |at: i64| if at == count { span } else { at * width };
        // Chunks of a fixed time get shares by time; otherwise all shares are equal.
        let (share, of) = if by_time > by_size { (begin(at), span) } else { (at, count) };
        let next = if by_time > by_size { begin(at + 1) } else { at + 1 };
        let part = |all: u64| {
            let upto = |share: i64| {
                let part = u128::from(all) * u128::from(share.cast_unsigned());
                (part / u128::from(of.cast_unsigned())) as u64
            };
            upto(next) - upto(share)
        };
        // A chunk ends before the next begins.
        let last = if at + 1 == count { span } else { (begin(at + 1) - 1).max(begin(at)) };
        Atom {
            first: atom.first + begin(at),
            last: atom.first + last,
            records: part(atom.records),
            data_bytes: part(atom.data_bytes),
            stored_bytes: part(atom.stored_bytes),
            ends_with_point: atom.ends_with_point && at + 1 == count,
        }
    })
}

/// Ships volumes over one link, each by its own shipper.
pub(super) fn ship(
    volumes: Vec<Vec<Planned>>,
    options: &PlanOptions,
    link: Option<u64>,
) -> Vec<Shipped> {
    let mut shippers: Vec<_> =
        volumes.into_iter().map(|segments| Shipper::new(segments, options)).collect();
    let mut link = Link { free: i64::MIN, rate: link };
    // The shipper whose next put can begin first has its turn.
    let mut turns: BinaryHeap<Reverse<(i64, usize)>> = BinaryHeap::new();
    for (number, shipper) in shippers.iter().enumerate() {
        turns.extend(shipper.ready().map(|at| Reverse((at, number))));
    }
    while let Some(Reverse((_, number))) = turns.pop() {
        shippers[number].put_next(&mut link);
        turns.extend(shippers[number].ready().map(|at| Reverse((at, number))));
    }
    shippers.into_iter().map(|shipper| shipper.done).collect()
}

struct Link {
    /// When the put under way ends.
    free: i64,
    /// Bytes per second; `None` takes no time.
    rate: Option<u64>,
}

impl Link {
    /// Returns when `bytes` that are ready at `at` begin to move, and when they have arrived.
    fn carry(&mut self, at: i64, bytes: u64) -> (i64, i64) {
        let Some(rate) = self.rate else { return (at, at) };
        let took = u128::from(bytes) * 1_000_000_000 / u128::from(rate.max(1));
        let begin = self.free.max(at);
        self.free = begin.saturating_add(i64::try_from(took).unwrap_or(i64::MAX));
        (begin, self.free)
    }
}

/// The shipper of one volume: models the shipper of `agent`, put by put.
struct Shipper {
    done: Shipped,
    next: usize,
    /// The first unpublished segment, and the time of the last append.
    published_to: usize,
    published_at: i64,
    catalog_interval: i64,
    /// End of the batch and of the chunk being put.
    batch_to: usize,
    chunk_to: usize,
    batch_begun: i64,
    /// When the chunk ends, as far as it is known.
    chunk_end: i64,
    /// When the shipper is free.
    at: i64,
    in_flight_max: usize,
    latency: i64,
    throttle: Throttle,
    clock: std::sync::Arc<ManualClock>,
}

impl Shipper {
    fn new(segments: Vec<Planned>, options: &PlanOptions) -> Self {
        let begin = segments.first().map_or(0, |segment| segment.first);
        // An idle shipper's throttle has its full credit.
        let clock = std::sync::Arc::new(ManualClock::new(Timestamp(begin - IDLE_NS), 0));
        Self {
            done: Shipped { segments, appends: 0 },
            next: 0,
            published_to: 0,
            published_at: i64::MIN,
            catalog_interval: nanos(options.policy.catalog_interval),
            batch_to: 0,
            chunk_to: 0,
            batch_begun: 0,
            chunk_end: begin,
            at: begin,
            in_flight_max: options.policy.puts_in_flight_max.max(1) as usize,
            latency: nanos(options.request_latency),
            throttle: Throttle::new(options.policy.bandwidth.clone(), clock.clone()),
            clock,
        }
    }

    /// Returns when the next put can begin, apart from the throttle; `None` if all is shipped.
    fn ready(&self) -> Option<i64> {
        let segment = self.done.segments.get(self.next)?;
        Some(if self.next < self.batch_to { self.at } else { self.at.max(segment.closed) })
    }

    fn put_next(&mut self, link: &mut Link) {
        let Some(ready) = self.ready() else { return };
        if self.next == self.batch_to {
            self.begin_batch(ready);
        }
        let bytes = self.done.segments[self.next].stored_bytes;
        self.at = self.take(self.at.max(ready), bytes);
        let sent = link.carry(self.at, bytes);
        self.done.segments[self.next].sent = sent;
        self.chunk_end = self.chunk_end.max(sent.1.saturating_add(self.latency));
        self.next += 1;
        if self.next < self.chunk_to {
            return;
        }
        self.at = self.chunk_end;
        let long = self.at - self.batch_begun > nanos(BATCH_TIME);
        if self.next == self.batch_to || long {
            self.batch_to = self.next;
            self.publish_when_due();
        } else {
            self.begin_chunk();
        }
    }

    fn begin_batch(&mut self, ready: i64) {
        self.batch_begun = ready;
        self.at = ready;
        let waiting = self.done.segments[self.next..]
            .iter()
            .take(BATCH_SEGMENTS_MAX)
            .take_while(|segment| segment.closed <= ready);
        self.batch_to = self.next + waiting.count().max(1);
        self.begin_chunk();
    }

    fn begin_chunk(&mut self) {
        self.chunk_to = self.batch_to.min(self.next + self.in_flight_max);
        self.chunk_end = self.at;
    }

    /// Publishes what was put, unless the next segment comes before the policy's interval is over.
    fn publish_when_due(&mut self) {
        let due = self.published_at.saturating_add(self.catalog_interval).max(self.at);
        let waits = self.ready().is_some_and(|next| next < due);
        if due > self.at && waits && self.next - self.published_to < UNPUBLISHED_SEGMENTS_MAX {
            return;
        }
        self.at =
            if self.next - self.published_to < UNPUBLISHED_SEGMENTS_MAX { due } else { self.at };
        self.published_at = self.at;
        self.at = self.at.saturating_add(self.latency);
        for segment in &mut self.done.segments[self.published_to..self.next] {
            segment.shipped = self.at;
        }
        self.published_to = self.next;
        self.done.appends += 1;
    }

    /// Returns when the throttle admits `bytes` that are ready at `at`.
    fn take(&mut self, at: i64, bytes: u64) -> i64 {
        let now = self.clock.now().0;
        self.clock.advance(Duration::from_nanos(at.saturating_sub(now).max(0).cast_unsigned()));
        while let Err(wait) = self.throttle.take(bytes) {
            self.clock.advance(wait);
        }
        self.clock.now().0.max(at)
    }
}

pub(super) fn nanos(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}
