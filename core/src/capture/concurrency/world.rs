//! A volume with its tap, dirty map, disk and journal, and what runs beside the writers.
//!
//! Tap, volume, dirty map and its keeper are the product's. Disk, journal and files are models that
//! check what must be true.

use std::path::Path;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::disk::{Disk, Known, MapFile};
use super::facts::{BLOCK_BYTES, REGION_BYTES, Stamp, stamp_of};
use crate::capture::{
    Change, DirtyMap, DirtyMapParams, QueuedBody, QueuedRecord, RegionRange, Tap, Ticket, Volume,
    clean, set_wanted_dirty, thread_waker,
};
use crate::clock::ManualClock;
use crate::device::{BlockDevice, Buffer, Durability};
use crate::error::Result;
use crate::event::{Cause, Mode};
use crate::extent::Extent;
use crate::journal::{Mark, PointKind};
use crate::policy::{Policy, WhenFull};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::thread::{self, JoinHandle, switch};
use crate::sync::{Condvar, Mutex, choose};
use crate::units::{PointId, Sequence, Timestamp, VolumeId};

pub(super) const REGIONS: u64 = 4;
/// Most bytes that may be queued above the budget, beside one change. They are what a resync found
/// in a region, of which at most three blocks are in use, and marks, begins and ends of gaps.
const ABOVE_BUDGET_BYTES: u64 = 3 * (BLOCK_BYTES + 128) + 1024;
const CLEANINGS_MAX: u32 = 500;

/// Parameters of a model.
#[derive(Clone, Copy)]
pub(super) struct Setup {
    pub budget_bytes: u64,
    pub when_full: WhenFull,
    /// See [`Disk`].
    pub failing: u32,
    /// Limit of the waits beside the writers. If it is short, they look for work at any moment; if
    /// it is long, they must be woken.
    pub patience: Duration,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            budget_bytes: 1 << 20,
            when_full: WhenFull::Degrade,
            failing: 0,
            patience: Duration::from_millis(1),
        }
    }
}

pub(super) struct World {
    pub setup: Setup,
    pub known: Known,
    pub tap: Arc<Tap>,
    pub clock: Arc<ManualClock>,
    pub map: Mutex<DirtyMap>,
    disk: Arc<Disk>,
    volume: Volume,
    /// The sequence that the journal reported durable.
    durable: Mutex<Sequence>,
    journaled: Condvar,
    stopping: AtomicBool,
}

impl World {
    pub(super) fn new(setup: Setup) -> Arc<Self> {
        let size_bytes = REGIONS * REGION_BYTES;
        let known = Known::new(REGIONS as usize);
        let policy = Policy {
            memory_budget_bytes: setup.budget_bytes,
            when_full: setup.when_full,
            region_bytes: REGION_BYTES,
            ..Policy::default()
        };
        let clock = Arc::new(ManualClock::new(Timestamp(0), 0));
        let tap = Arc::new(Tap::new(size_bytes, Sequence(0), &policy, clock.clone()));
        let disk = Arc::new(Disk { known: known.clone(), size_bytes, failing: setup.failing });
        let files = MapFile { known: known.clone(), content: Arc::default() };
        let params = DirtyMapParams {
            volume: VolumeId([0; 16]),
            device_bytes: size_bytes,
            region_bytes: REGION_BYTES,
        };
        let map = DirtyMap::create(&files, Path::new("dirty"), params, false).expect("a map");
        Arc::new(Self {
            setup,
            known,
            volume: Volume::new(disk.clone(), tap.clone()),
            tap,
            clock,
            map: Mutex::new(map),
            disk,
            durable: Mutex::new(Sequence(0)),
            journaled: Condvar::new(),
            stopping: AtomicBool::new(false),
        })
    }

    // --- writers ---

    /// Writes whole blocks; returns the stamp of the write.
    pub(super) fn write(&self, first_block: u64, blocks: u64) -> Result<Stamp> {
        let extent = Extent { offset: first_block * BLOCK_BYTES, length: blocks * BLOCK_BYTES };
        let stamp = self.known.facts().submit(extent);
        let mut data = Buffer::zeroed(extent.length as usize);
        for block in data.chunks_mut(BLOCK_BYTES as usize) {
            block[..8].copy_from_slice(&stamp.to_le_bytes());
        }
        self.volume.write(extent.offset, &data, Durability::Cached)?;
        self.known.facts().returned(stamp);
        let limit = self.setup.budget_bytes + extent.length + ABOVE_BUDGET_BYTES;
        let queued = self.tap.stats().queue_bytes;
        assert!(queued <= limit, "promise 12: {queued} bytes are queued, {limit} may be");
        Ok(stamp)
    }

    /// Marks a point; `None` if the volume is not in order.
    pub(super) fn mark(&self) -> Option<Sequence> {
        let called = self.known.facts().moment();
        let (sequence, _) = self.tap.mark(a_mark()).ok()?;
        self.known.facts().point(sequence, called);
        Some(sequence)
    }

    // --- beside the writers ---

    /// Sets wanted regions dirty until the end.
    pub(super) fn keep(&self) {
        while !self.is_stopping() {
            let found = set_wanted_dirty(&self.tap, &self.map, || unreachable!("syncs succeed"));
            if !found.expect("syncs succeed") {
                self.tap.wait_to_set_dirty(self.setup.patience);
            }
        }
    }

    /// Cleans regions as far as is allowed.
    pub(super) fn clean(&self) {
        let through = self.durable();
        clean(&self.tap, &self.map, &*self.disk, through).expect("flushes succeed");
    }

    /// Cleans repeatedly, until the end or up to a limit. Some schedules always clean a region
    /// before the writer that waited for it goes on, and would never end. An agent cleans at most
    /// once a second.
    pub(super) fn clean_often(&self) {
        for _ in 0..CLEANINGS_MAX {
            if self.is_stopping() {
                return;
            }
            self.clean();
            thread::yield_now();
        }
    }

    /// Journals until the end, and loses up to `losses` times what is not durable yet.
    pub(super) fn journal(&self, mut losses: u32) {
        let mut open = Vec::new();
        loop {
            let stopping = self.is_stopping();
            let records = self.tap.drain(1, self.setup.patience);
            let idle = records.is_empty();
            open.extend(records);
            if losses > 0 && choose(8) == 0 {
                losses -= 1;
                let taken_since = open.first().map(|record: &QueuedRecord| record.time);
                open.clear();
                self.tap.journal_lost(self.durable(), taken_since, Cause::JournalError);
                continue;
            }
            // A mark ends a segment, so it is durable soon.
            let ends = |record: &QueuedRecord| matches!(record.body, QueuedBody::Mark(_));
            if stopping || idle || open.iter().any(ends) || choose(2) == 0 {
                self.known.facts().journal(std::mem::take(&mut open));
                switch();
                let durable = self.known.facts().durable;
                *self.durable.lock() = durable;
                self.journaled.notify_all();
            }
            if stopping && idle {
                return;
            }
        }
    }

    /// Reads regions again whenever the volume is out of order, until the end.
    pub(super) fn resync(&self) {
        while !self.is_stopping() {
            if self.tap.mode() == Mode::Ordered {
                self.tap.wait_unordered(self.setup.patience);
            } else if self.tap.has_room() {
                self.tap.start_resync();
                self.resync_regions();
            } else {
                thread::yield_now();
            }
        }
    }

    fn resync_regions(&self) {
        while self.tap.mode() == Mode::Resync && !self.is_stopping() {
            let Some((region, extent)) = self.tap.next_resync(0) else {
                let target = self.tap.stats().last_sequence;
                while self.durable() < target && self.tap.mode() == Mode::Resync {
                    thread::yield_now();
                }
                self.tap.finish_resync();
                continue;
            };
            if !self.tap.has_room() {
                thread::yield_now();
                continue;
            }
            let ticket = self.begin_resync(extent);
            let mut found = Buffer::zeroed(extent.length as usize);
            if self.disk.read(extent.offset, &mut found).is_err() {
                self.tap.cancel(ticket);
                continue;
            }
            let blocks = found.chunks(BLOCK_BYTES as usize).enumerate();
            let written = blocks.filter(|(_, block)| stamp_of(block) != 0);
            let changes = written.map(|(at, block)| {
                let offset = extent.offset + at as u64 * BLOCK_BYTES;
                (Extent { offset, length: BLOCK_BYTES }, Change::Write(Buffer::copy_of(block)))
            });
            self.tap.complete_resync(ticket, region, changes.collect());
        }
    }

    fn begin_resync(&self, extent: Extent) -> Ticket {
        loop {
            match self.tap.begin_resync(extent, &thread_waker()) {
                Poll::Ready(ticket) => return ticket.expect("the tap is open"),
                Poll::Pending => thread::park(),
            }
        }
    }

    // --- the end ---

    /// Waits until the journal reported `sequence` durable.
    pub(super) fn wait_durable(&self, sequence: Sequence) {
        let mut durable = self.durable.lock();
        while *durable < sequence {
            durable = self.journaled.wait(durable);
        }
    }

    /// Waits until the volume is in order and everything is durable.
    pub(super) fn settle(&self) {
        loop {
            let stats = self.tap.stats();
            if stats.mode == Mode::Ordered && self.durable() >= stats.last_sequence {
                return;
            }
            thread::yield_now();
        }
    }

    /// Ends what runs beside the writers.
    pub(super) fn end(&self, beside: Vec<JoinHandle<()>>) {
        self.stopping.store(true, Ordering::Release);
        self.tap.close();
        join(beside);
    }

    /// Ends the model after the writers ended, and checks that all promises were kept.
    pub(super) fn stop(&self, beside: Vec<JoinHandle<()>>) {
        self.end(beside);
        let facts = self.known.facts();
        facts.check_same();
        facts.check_points();
        drop(facts);
        self.clean();
        let map = self.map.lock();
        assert!(map.dirty_regions().is_empty(), "what is durable everywhere is cleaned");
    }

    fn durable(&self) -> Sequence {
        *self.durable.lock()
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }
}

pub(super) fn a_mark() -> Mark {
    Mark { point: PointId([0; 16]), kind: PointKind::App, label: "app".into(), group: None }
}

pub(super) fn all_regions() -> RegionRange {
    RegionRange { first: 0, last: REGIONS - 1 }
}

pub(super) fn spawn(
    world: &Arc<World>,
    what: impl FnOnce(&World) + Send + 'static,
) -> JoinHandle<()> {
    let world = world.clone();
    thread::spawn(move || what(&world))
}

pub(super) fn join(threads: impl IntoIterator<Item = JoinHandle<()>>) {
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
}
