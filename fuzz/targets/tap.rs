//! Any sequence of calls of a tap, against a model of the disk, the durable dirty map and the
//! journal.
//!
//! - promise 1: sequences grow, and overlapping changes are never in flight together;
//! - promise 3: the disk at each mark is what the records up to it make;
//! - promise 4: where disk and durable journal differ, the durable dirty map has the region;
//! - promise 6: whoever waits is woken, and then has its turn.
//!
//! An input is one byte of configuration, and then steps of four bytes: what, and three arguments.
#![no_main]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Poll, Wake, Waker};
use std::time::Duration;

use hrl::capture::{Change, QueuedBody, QueuedRecord, RegionRange, Tap, Ticket};
use hrl::device::{Buffer, Discarded};
use hrl::journal::{Mark, PointKind};
use hrl::{
    Cause, ErrorKind, Extent, ManualClock, Mode, PointId, Policy, Sequence, Timestamp, WhenFull,
};
use libfuzzer_sys::fuzz_target;

/// Above 64 regions, so that some changes are kept as wide marks; the last region is short.
const REGIONS: u64 = 75;
const REGION_BYTES: u64 = 1024;
const DISK_BYTES: u64 = REGIONS * REGION_BYTES - 100;
const BLOCK_BYTES: u64 = 4096;
const STEPS_MAX: usize = 400;
const IN_FLIGHT_MAX: usize = 16;
const MARKS_MAX: usize = 8;

fuzz_target!(|input: &[u8]| {
    let Some((config, steps)) = input.split_first() else { return };
    let mut model = Model::new(*config);
    for step in steps.chunks_exact(4).take(STEPS_MAX) {
        model.step(step[0], [step[1], step[2], step[3]].map(u64::from));
    }
    model.settle();
});

/// A change that waits to be let in.
struct Waiting {
    extent: Extent,
    woken: Arc<Woken>,
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

struct Model {
    tap: Tap,
    when_full: WhenFull,
    budget_bytes: u64,
    disk: Vec<u8>,
    in_flight: Vec<Ticket>,
    waiting: Vec<Waiting>,
    /// The durable dirty map.
    marked: Vec<bool>,
    /// Records that were drained and are not yet durable, oldest first.
    journal: Vec<QueuedRecord>,
    /// Last record of the durable journal, and the disk that it makes.
    durable: Sequence,
    replica: Vec<u8>,
    last: Sequence,
    /// The disk at each mark that was not lost.
    marks: BTreeMap<Sequence, Vec<u8>>,
}

impl Model {
    fn new(config: u8) -> Self {
        let budget_bytes = [8 << 10, 64 << 10, 1 << 20, 1 << 30][usize::from(config & 3)];
        let when_full = if config & 4 == 0 { WhenFull::Degrade } else { WhenFull::Block };
        let policy = Policy {
            region_bytes: REGION_BYTES,
            memory_budget_bytes: budget_bytes,
            when_full,
            ..Policy::default()
        };
        let clock = Arc::new(ManualClock::new(Timestamp(0), 1));
        Self {
            tap: Tap::new(DISK_BYTES, Sequence::ZERO, &policy, clock),
            when_full,
            budget_bytes,
            disk: vec![0; DISK_BYTES as usize],
            in_flight: Vec::new(),
            waiting: Vec::new(),
            marked: vec![false; REGIONS as usize],
            journal: Vec::new(),
            durable: Sequence::ZERO,
            replica: vec![0; DISK_BYTES as usize],
            last: Sequence::ZERO,
            marks: BTreeMap::new(),
        }
    }

    fn step(&mut self, what: u8, [a, b, c]: [u64; 3]) {
        match what % 20 {
            0..=2 => self.begin(extent_of(a, b, c)),
            3 => self.begin(Extent { offset: a << 57 | b << 10, length: c << 56 | b }),
            4 | 5 => self.end(a, |model, ticket| model.complete(ticket, b, c)),
            6 => self.end(a, |model, ticket| model.fail(ticket, b)),
            7 => self.end(a, |model, ticket| model.tap.cancel(ticket)),
            8 => self.try_again(a),
            9 | 10 => self.keep(),
            11 | 12 => drop(self.drain(b << 10)),
            13 => self.sync(),
            14 => self.clean(a),
            15 => self.mark(),
            16 => self.see_sequence(self.tap.flush()),
            17 => self.resync_step(a),
            18 => self.lose_journal(a),
            _ => self.require_resync(a, b),
        }
        let sequence = self.tap.stats().last_sequence;
        self.see_sequence(sequence);
    }

    fn see_sequence(&mut self, sequence: Sequence) {
        assert!(sequence >= self.last, "sequences never go back");
        self.last = sequence;
    }

    // --- changes ---

    fn begin(&mut self, extent: Extent) {
        if self.in_flight.len() + self.waiting.len() < IN_FLIGHT_MAX {
            self.ask(extent);
        }
    }

    /// Requests a ticket; returns whether it was granted or finally refused.
    fn ask(&mut self, extent: Extent) -> bool {
        let woken = Arc::<Woken>::default();
        let possible =
            !extent.is_empty() && extent.check_within(DISK_BYTES, "change", "disk").is_ok();
        match self.tap.begin(extent, &Waker::from(woken.clone())) {
            Poll::Ready(Err(error)) => {
                assert!(!possible && error.kind() == ErrorKind::InvalidInput, "{error}");
                return true;
            }
            Poll::Ready(Ok(ticket)) => {
                assert!(possible, "{extent} is not within the disk");
                assert!(!self.is_busy(extent), "{extent} overlaps a change in flight");
                assert!(self.is_marked(extent), "{extent} is not marked durably");
                self.in_flight.push(ticket);
                return true;
            }
            Poll::Pending => {}
        }
        assert!(possible && self.has_to_wait(extent), "{extent} waits for nothing");
        self.waiting.push(Waiting { extent, woken });
        false
    }

    fn has_to_wait(&self, extent: Extent) -> bool {
        let full = self.when_full == WhenFull::Block
            && self.tap.stats().queue_bytes >= self.budget_bytes
            && self.tap.mode() == Mode::Ordered;
        // A change of many regions waits until all of them are set dirty as a whole, even if each
        // of them is.
        let wide = regions_of(extent).count() > 64;
        full || wide || self.is_busy(extent) || !self.is_marked(extent)
    }

    fn is_busy(&self, extent: Extent) -> bool {
        let blocks = extent.aligned_outwards(BLOCK_BYTES);
        let mut busy = self.in_flight.iter().map(Ticket::extent);
        busy.any(|other| other.aligned_outwards(BLOCK_BYTES).overlaps(blocks))
    }

    fn is_marked(&self, extent: Extent) -> bool {
        let range = regions_of(extent);
        self.marked[range.first as usize..=range.last as usize].iter().all(|marked| *marked)
    }

    /// A waiter that was woken asks again.
    fn try_again(&mut self, which: u64) {
        if self.waiting.is_empty() {
            return;
        }
        let at = which as usize % self.waiting.len();
        if self.waiting[at].woken.0.load(Ordering::SeqCst) {
            let waiting = self.waiting.swap_remove(at);
            self.ask(waiting.extent);
        }
    }

    fn end(&mut self, which: u64, how: impl FnOnce(&mut Self, Ticket)) {
        if !self.in_flight.is_empty() {
            let ticket = self.in_flight.swap_remove(which as usize % self.in_flight.len());
            how(self, ticket);
        }
    }

    fn complete(&mut self, ticket: Ticket, how: u64, value: u64) {
        let extent = ticket.extent();
        assert!(self.is_marked(extent), "{extent} became clean under a change");
        let range = extent.offset as usize..extent.end() as usize;
        let change = match how % 8 {
            0 => Change::Zero,
            1 => Change::Discard(Discarded::Zeroes),
            // A view reads undefined bytes as zeroes, so this disk leaves zeroes too.
            2 => Change::Discard(Discarded::Undefined),
            3 => Change::Discard(Discarded::Ignored),
            _ => Change::Write(Buffer::copy_of(&vec![value as u8; extent.length as usize])),
        };
        match &change {
            Change::Discard(Discarded::Ignored) => {}
            Change::Write(data) => self.disk[range].copy_from_slice(data),
            _ => self.disk[range].fill(0),
        }
        let sequence = self.tap.complete(ticket, change);
        self.see_sequence(sequence);
    }

    /// The device did a part of the write, or something else in its range.
    fn fail(&mut self, ticket: Ticket, value: u64) {
        let extent = ticket.extent();
        assert!(self.is_marked(extent), "{extent} became clean under a change");
        let end = extent.offset + extent.length.div_ceil(2);
        self.disk[extent.offset as usize..end as usize].fill(value as u8);
        self.tap.fail(ticket);
        assert_ne!(self.tap.mode(), Mode::Ordered, "the disk's content is unknown");
    }

    fn mark(&mut self) {
        if self.marks.len() >= MARKS_MAX {
            return;
        }
        let point = Mark {
            point: PointId::default(),
            kind: PointKind::Crash,
            label: String::new(),
            group: None,
        };
        let ordered = self.tap.mode() == Mode::Ordered;
        match self.tap.mark(point) {
            Ok((sequence, _)) => {
                assert!(ordered && sequence > self.last);
                self.marks.insert(sequence, self.disk.clone());
            }
            Err(error) => assert!(!ordered && error.kind() == ErrorKind::NotOrdered, "{error}"),
        }
    }

    // --- the dirty map ---

    /// The keeper sets the wanted regions dirty.
    fn keep(&mut self) {
        let wanted = self.tap.wanted(Duration::ZERO);
        for range in &wanted {
            self.marked[range.first as usize..=range.last as usize].fill(true);
        }
        self.tap.set_dirty(&wanted);
    }

    fn clean(&mut self, which: u64) {
        let through = Sequence(self.durable.0.saturating_sub(which % 4));
        let through = if which & 4 == 0 { through } else { through.min(self.tap.half_way()) };
        for range in self.tap.clean(through) {
            for region in range.first..=range.last {
                let region = region as usize;
                assert!(self.marked[region], "only what is marked becomes clean");
                self.marked[region] = false;
            }
        }
        self.check_loss();
    }

    // --- the journal ---

    /// Returns whether there was anything.
    fn drain(&mut self, bytes_max: u64) -> bool {
        let mut newest = self.journal.last().map_or(self.durable, |record| record.sequence);
        let records = self.tap.drain(bytes_max, Duration::ZERO);
        let some = !records.is_empty();
        for record in records {
            assert!(newest < record.sequence && record.sequence <= self.last);
            newest = record.sequence;
            self.journal.push(record);
        }
        some
    }

    /// Drained records become durable. A mark among them must find the disk as it was.
    fn sync(&mut self) {
        for record in self.journal.drain(..) {
            let disk = &mut self.replica;
            match record.body {
                QueuedBody::Write(offset, data) => {
                    disk[offset as usize..offset as usize + data.len()].copy_from_slice(&data);
                }
                QueuedBody::Zero(extent) | QueuedBody::Discard(extent, _) => {
                    disk[extent.offset as usize..extent.end() as usize].fill(0);
                }
                QueuedBody::Mark(_) => {
                    let marked = self.marks.remove(&record.sequence);
                    assert!(marked.as_ref() == Some(&*disk), "a mark is a prefix");
                }
                QueuedBody::Touch(_) => panic!("data is captured"),
                QueuedBody::Flush | QueuedBody::UnorderedBegin(_) | QueuedBody::UnorderedEnd => {}
            }
            self.durable = record.sequence;
        }
    }

    /// The journal falls back to its durable part.
    fn lose_journal(&mut self, which: u64) {
        let cause = Cause::ALL[which as usize % Cause::ALL.len()];
        let taken_since = self.journal.first().map(|record| record.time);
        self.tap.journal_lost(self.durable, taken_since, cause);
        self.journal.clear();
        self.marks.clear();
        assert_ne!(self.tap.mode(), Mode::Ordered, "records are missing");
    }

    // --- the resync ---

    fn require_resync(&mut self, first: u64, count: u64) {
        let first = first % REGIONS;
        let last = (first + count % 8).min(REGIONS - 1);
        self.marked[first as usize..=last as usize].fill(true);
        self.tap.require_resync(&[RegionRange { first, last }], Cause::Requested, None);
        assert_ne!(self.tap.mode(), Mode::Ordered);
    }

    /// Does one step of a resync.
    fn resync_step(&mut self, which: u64) {
        if self.tap.mode() == Mode::Dirty {
            self.tap.start_resync();
            return;
        }
        let next = self.tap.next_resync(which % REGIONS).or_else(|| self.tap.next_resync(0));
        let Some((region, extent)) = next else {
            let resyncing = self.tap.mode() == Mode::Resync;
            assert_eq!(self.tap.finish_resync(), resyncing);
            assert_eq!(self.tap.mode(), Mode::Ordered);
            return;
        };
        let woken = Waker::from(Arc::<Woken>::default());
        if self.tap.mode() != Mode::Resync || !self.tap.has_room() {
            return;
        }
        let Poll::Ready(ticket) = self.tap.begin(extent, &woken) else { return };
        let ticket = ticket.expect("a region lies within the disk");
        let data = &self.disk[extent.offset as usize..extent.end() as usize];
        let change = Change::Write(Buffer::copy_of(data));
        self.tap.complete_resync(ticket, region, vec![(extent, change)]);
    }

    // --- what must hold ---

    /// Promise 4, as if the process were killed now.
    fn check_loss(&self) {
        let regions = self.disk.chunks(REGION_BYTES as usize);
        for (at, (disk, replica)) in
            regions.zip(self.replica.chunks(REGION_BYTES as usize)).enumerate()
        {
            assert!(disk == replica || self.marked[at], "region {at} would be lost");
        }
    }

    /// Ends everything under way: all that wait have their turn, and the journal makes the disk.
    fn settle(&mut self) {
        self.check_loss();
        while !self.in_flight.is_empty() {
            self.end(0, |model, ticket| model.tap.cancel(ticket));
        }
        // At least one change, so that there is a sequence up to which everything can become clean.
        self.waiting
            .push(Waiting { extent: extent_of(0, 0, 0), woken: Arc::new(Woken(true.into())) });
        for _ in 0..2 * IN_FLIGHT_MAX {
            if self.waiting.is_empty() {
                break;
            }
            self.keep();
            while self.drain(u64::MAX) {}
            for waiting in std::mem::take(&mut self.waiting) {
                assert!(waiting.woken.0.load(Ordering::SeqCst), "{} is forgotten", waiting.extent);
                self.ask(waiting.extent);
                self.end(0, |model, ticket| model.complete(ticket, 7, 0x77));
            }
        }
        assert!(self.waiting.is_empty(), "someone never has its turn");
        for _ in 0..2 * REGIONS {
            if self.tap.mode() == Mode::Ordered {
                break;
            }
            self.keep();
            self.resync_step(0);
            self.last = self.tap.stats().last_sequence;
            while self.drain(u64::MAX) {}
        }
        assert_eq!(self.tap.mode(), Mode::Ordered, "the resync ends");
        while self.drain(u64::MAX) {}
        self.sync();
        assert!(self.replica == self.disk, "the journal makes the disk");
        self.clean(0);
        assert_eq!(self.tap.stats().marked_regions, 0);
        assert!(self.marked.iter().all(|marked| !marked), "everything becomes clean");
    }
}

/// Returns an extent within the disk, mostly a short one.
fn extent_of(a: u64, b: u64, c: u64) -> Extent {
    let offset = (a << 8 | b) * 4 % DISK_BYTES;
    let length = if c < 224 { c * 8 + 1 } else { (c - 223) * 2400 };
    Extent::from_bounds(offset, (offset + length).min(DISK_BYTES))
}

fn regions_of(extent: Extent) -> RegionRange {
    RegionRange { first: extent.offset / REGION_BYTES, last: (extent.end() - 1) / REGION_BYTES }
}
