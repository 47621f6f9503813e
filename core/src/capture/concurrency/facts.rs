//! What really happened in a model, and what must be true of it at every instant.

use std::collections::BTreeMap;

use crate::capture::{QueuedBody, QueuedRecord};
use crate::extent::Extent;
use crate::units::Sequence;

pub(super) const BLOCK_BYTES: u64 = 4096;
pub(super) const REGION_BYTES: u64 = 64 << 10;

/// Identifies the content of a block: each write has its own. Zero is the initial content.
pub(super) type Stamp = u64;

/// Numbers all events, in order.
pub(super) type Moment = u64;

/// One block of the disk: the contents that it had or was getting, oldest first.
struct Block {
    versions: Vec<Stamp>,
    /// The newest content that is whole.
    completed: usize,
    /// The oldest content that a power failure could bring back.
    flushed: usize,
    /// The content at the end of the durable journal.
    journaled: usize,
    changing: bool,
}

impl Default for Block {
    fn default() -> Self {
        Self { versions: vec![0], completed: 0, flushed: 0, journaled: 0, changing: false }
    }
}

/// A write as its caller saw it.
pub(super) struct Write {
    pub stamp: Stamp,
    pub blocks: std::ops::Range<u64>,
    pub submitted: Moment,
    /// When the device had it.
    pub done: Option<Moment>,
    /// When its caller got the result.
    pub returned: Option<Moment>,
    /// Sequence of its first record.
    pub sequence: Option<Sequence>,
}

/// A point that was marked.
struct Point {
    sequence: Sequence,
    called: Moment,
    returned: Moment,
}

#[derive(Default)]
pub(super) struct Facts {
    now: Moment,
    blocks: BTreeMap<u64, Block>,
    pub writes: Vec<Write>,
    points: Vec<Point>,
    /// Regions that are dirty after every possible power failure.
    dirty: Vec<bool>,
    /// Sequence of the last durable record.
    pub durable: Sequence,
    /// Content of each block in the journal at each durable point.
    contents: BTreeMap<u64, BTreeMap<u64, usize>>,
    unordered: bool,
}

impl Facts {
    pub(super) fn new(regions: usize) -> Self {
        Self { dirty: vec![false; regions], ..Self::default() }
    }

    pub(super) fn moment(&mut self) -> Moment {
        self.now += 1;
        self.now
    }

    // --- the writer ---

    pub(super) fn submit(&mut self, extent: Extent) -> Stamp {
        let submitted = self.moment();
        let stamp = self.writes.len() as Stamp + 1;
        let blocks = blocks_of(extent);
        let write = Write { stamp, blocks, submitted, done: None, returned: None, sequence: None };
        self.writes.push(write);
        stamp
    }

    pub(super) fn returned(&mut self, stamp: Stamp) {
        let now = self.moment();
        self.writes[stamp as usize - 1].returned = Some(now);
    }

    pub(super) fn point(&mut self, sequence: Sequence, called: Moment) {
        let returned = self.moment();
        self.points.push(Point { sequence, called, returned });
    }

    // --- the disk ---

    pub(super) fn begin_change(&mut self, extent: Extent, stamp: Stamp) {
        for number in blocks_of(extent) {
            let block = self.blocks.entry(number).or_default();
            assert!(!block.changing, "promise 1: two changes of block {number} are in flight");
            block.changing = true;
            block.versions.push(stamp);
        }
        self.check_covered();
    }

    /// Records that the device completed the change.
    pub(super) fn end_change(&mut self, extent: Extent, stamp: Stamp) {
        let now = self.moment();
        for number in blocks_of(extent) {
            let block = self.blocks.get_mut(&number).expect("begun");
            block.changing = false;
            block.completed = block.versions.len() - 1;
        }
        self.writes[stamp as usize - 1].done = Some(now);
    }

    /// Records that the device failed: some of the blocks have the new content, some the old.
    pub(super) fn tear_change(&mut self, extent: Extent, mut is_new: impl FnMut() -> bool) {
        for number in blocks_of(extent) {
            let block = self.blocks.get_mut(&number).expect("begun");
            block.changing = false;
            if is_new() {
                block.completed = block.versions.len() - 1;
            } else {
                block.versions.pop();
            }
        }
    }

    pub(super) fn content(&self, number: u64) -> Stamp {
        let Some(block) = self.blocks.get(&number) else { return 0 };
        assert!(!block.changing, "block {number} is read while it changes");
        block.versions[block.completed]
    }

    /// Returns what a flush that begins now will make durable.
    pub(super) fn begin_flush(&self) -> Vec<(u64, usize)> {
        self.blocks.iter().map(|(number, block)| (*number, block.completed)).collect()
    }

    pub(super) fn end_flush(&mut self, flushed: &[(u64, usize)]) {
        for (number, version) in flushed {
            let block = self.blocks.get_mut(number).expect("it was there");
            block.flushed = block.flushed.max(*version);
        }
    }

    // --- the dirty map ---

    /// Records that the bits of these regions are durable.
    pub(super) fn map_synced(&mut self, regions: std::ops::Range<usize>, bits: &[u8]) {
        for region in regions.start..regions.end.min(self.dirty.len()) {
            self.dirty[region] = is_dirty(bits, region);
        }
        self.check_covered();
    }

    /// Records that `bits` may become durable, or not.
    pub(super) fn map_changed(&mut self, bits: &[u8]) {
        for (region, dirty) in self.dirty.iter_mut().enumerate() {
            *dirty &= is_dirty(bits, region);
        }
        self.check_covered();
    }

    // --- the journal ---

    /// Records that these records are durable.
    pub(super) fn journal(&mut self, records: Vec<QueuedRecord>) {
        for record in records {
            assert!(record.sequence > self.durable, "promise 1: the journal is in order");
            self.durable = record.sequence;
            match record.body {
                QueuedBody::Write(offset, data) => self.journal_write(offset, &data),
                QueuedBody::UnorderedBegin(_) => self.unordered = true,
                QueuedBody::UnorderedEnd => self.unordered = false,
                QueuedBody::Mark(_) => {
                    assert!(!self.unordered, "promise 7: a point inside a gap");
                    let content =
                        self.blocks.iter().map(|(number, block)| (*number, block.journaled));
                    self.contents.insert(record.sequence.0, content.collect());
                }
                _ => {}
            }
        }
        self.check_covered();
    }

    fn journal_write(&mut self, offset: u64, data: &[u8]) {
        for (at, bytes) in data.chunks(BLOCK_BYTES as usize).enumerate() {
            let number = offset / BLOCK_BYTES + at as u64;
            let stamp = stamp_of(bytes);
            if stamp == 0 {
                continue;
            }
            let block = self.blocks.get_mut(&number).expect("promise 2: the disk never had it");
            let version = block.versions.iter().position(|version| *version == stamp);
            let version = version.expect("promise 2: the disk never had it");
            assert!(
                version >= block.journaled,
                "promise 1: block {number} goes back to write {stamp} in the journal"
            );
            block.journaled = version;
            self.writes[stamp as usize - 1].sequence.get_or_insert(self.durable);
        }
    }

    // --- what must be true ---

    /// Promise 4: what a crash now could leave on the disk is in the durable journal, or its region
    /// is dirty.
    fn check_covered(&self) {
        for (number, block) in &self.blocks {
            let region = number * BLOCK_BYTES / REGION_BYTES;
            let same =
                block.flushed == block.versions.len() - 1 && block.flushed == block.journaled;
            assert!(
                same || self.dirty[region as usize],
                "promise 4: block {number} may be any of the writes {:?} after a crash, the journal has {}, and its region \
                 is not dirty",
                &block.versions[block.flushed..],
                block.versions[block.journaled],
            );
        }
    }

    /// Promise 3: each durable point contains all writes that returned before it and none that
    /// began after it. With a write it contains all that the writer knew of.
    pub(super) fn check_points(&self) {
        for point in &self.points {
            let Some(content) = self.contents.get(&point.sequence.0) else { continue };
            let is_in = |write: &Write| {
                let mut parts = write.blocks.clone().map(|number| {
                    let versions = &self.blocks[&number].versions;
                    let version = versions.iter().position(|version| *version == write.stamp);
                    version <= Some(content.get(&number).copied().unwrap_or(0))
                });
                let first = parts.next();
                assert!(parts.all(|part| Some(part) == first), "promise 3: a part of a write");
                first == Some(true)
            };
            for write in self.writes.iter().filter(|write| write.done.is_some()) {
                let included = is_in(write);
                let (stamp, at) = (write.stamp, point.sequence);
                if write.returned.is_some_and(|returned| returned < point.called) {
                    assert!(included, "promise 3: write {stamp} is missing in the point at {at}");
                }
                if write.submitted > point.returned {
                    assert!(
                        !included,
                        "promise 3: write {stamp} is in the point before it, at {at}"
                    );
                }
                for cause in self.writes.iter().filter(|cause| precedes(cause, write)) {
                    let causes = is_in(cause);
                    assert!(
                        !included || causes,
                        "promise 1: {stamp} without {} at {at}",
                        cause.stamp
                    );
                }
            }
        }
    }

    /// Promise 1, for a volume that was always in order: the sequence of a write is above those of
    /// the writes that ended before it.
    pub(super) fn check_sequences(&self) {
        for write in &self.writes {
            let sequence = write.sequence.expect("captured, as all in order");
            for other in self.writes.iter().filter(|other| other.returned < write.done) {
                assert!(other.sequence < Some(sequence), "promise 1: completions in order");
            }
        }
    }

    /// Checks that replica and disk are equal.
    pub(super) fn check_same(&self) {
        for (number, block) in &self.blocks {
            assert_eq!(block.completed, block.journaled, "block {number} of replica and disk");
        }
    }

    /// Returns whether the journal contains the write at the point; `None` if the point is not
    /// durable.
    pub(super) fn contains_at(&self, point: Sequence, stamp: Stamp) -> Option<bool> {
        let content = self.contents.get(&point.0)?;
        let write = &self.writes[stamp as usize - 1];
        let number = write.blocks.start;
        let version = self.blocks[&number].versions.iter().position(|version| *version == stamp);
        Some(version <= Some(content.get(&number).copied().unwrap_or(0)))
    }
}

/// Returns whether the caller of `after` could know of `before`.
fn precedes(before: &Write, after: &Write) -> bool {
    before.returned.is_some_and(|returned| returned < after.submitted)
}

fn is_dirty(bits: &[u8], region: usize) -> bool {
    bits[region / 8] >> (region % 8) & 1 == 1
}

pub(super) fn blocks_of(extent: Extent) -> std::ops::Range<u64> {
    extent.offset / BLOCK_BYTES..extent.end() / BLOCK_BYTES
}

pub(super) fn stamp_of(bytes: &[u8]) -> Stamp {
    Stamp::from_le_bytes(*bytes.first_chunk().expect("a whole block"))
}
