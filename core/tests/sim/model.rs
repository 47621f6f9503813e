//! The oracle's own model of one volume: every change in the order of acknowledgement, where the
//! volume was ordered, and which points were promised.
//!
//! A sector is known by its tag, a number that determines all of its bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use hrl::capture::TapStats;
use hrl::{Mode, PointId};

use crate::disk::SECTOR;

/// Changes between two snapshots.
const SNAPSHOT_EVERY: usize = 48;

/// Content of a whole disk.
pub type Tags = Rc<Vec<u64>>;

/// Returns the bytes of sectors with these tags.
pub fn bytes_of(tags: &[u64]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(tags.len() * SECTOR as usize);
    for tag in tags {
        for word in 0..SECTOR / 8 {
            let value = if *tag == 0 { 0 } else { tag ^ word.wrapping_mul(0x0101_0101_0000_0000) };
            bytes.extend_from_slice(&value.to_le_bytes());
        }
    }
    bytes
}

/// Returns the tags of sectors with these bytes. A sector with any other content gets a tag of its
/// own.
pub fn tags_of(bytes: &[u8]) -> Vec<u64> {
    bytes
        .chunks(SECTOR as usize)
        .map(|sector| {
            let tag = u64::from_le_bytes(sector[..8].try_into().expect("8 bytes"));
            if bytes_of(&[tag]) == sector {
                tag
            } else {
                crate::store::hash_bytes(sector) | 1 << 63
            }
        })
        .collect()
}

#[derive(Clone)]
struct Entry {
    /// Twice the sequence, plus one if the change was not captured: then only later states contain
    /// it.
    key: u64,
    first: usize,
    tags: Rc<[u64]>,
}

/// An unordered interval: after the first sequence, before the second.
#[derive(Clone, Copy, Debug)]
struct Gap {
    begin: u64,
    end: Option<u64>,
}

#[derive(Clone)]
pub struct Model {
    now: Vec<u64>,
    log: Vec<Entry>,
    /// Returns the state before the entry with this number.
    snapshots: BTreeMap<usize, Tags>,
    gaps: Vec<Gap>,
    ordered: bool,
    /// Points whose mark returned: they are never lost.
    pub confirmed: BTreeMap<PointId, u64>,
    /// Points that were placed and lost with the journal: they are never offered.
    pub lost: BTreeSet<PointId>,
    placed: BTreeMap<PointId, u64>,
    losses: Vec<Loss>,
    /// Sequences after the first, up to the second, that may never arrive in the vault.
    holes: Vec<(u64, u64)>,
}

/// Knowledge from before the journal lost something. A crash soon after may bring it back, because
/// the segment may exist after all.
#[derive(Clone)]
struct Loss {
    /// Where the journal continued.
    begin: u64,
    keys: Vec<u64>,
    gaps: Vec<Gap>,
    placed: BTreeMap<PointId, u64>,
    lost: BTreeSet<PointId>,
}

impl Model {
    pub fn new(sectors: usize) -> Self {
        Self {
            now: vec![0; sectors],
            log: Vec::new(),
            snapshots: BTreeMap::from([(0, Rc::new(vec![0; sectors]))]),
            gaps: Vec::new(),
            ordered: true,
            confirmed: BTreeMap::new(),
            lost: BTreeSet::new(),
            placed: BTreeMap::new(),
            losses: Vec::new(),
            holes: Vec::new(),
        }
    }

    /// What the disk contains according to its writers.
    pub fn now(&self) -> &[u64] {
        &self.now
    }

    /// Records an acknowledged change; `before` and `after` are the tap's answers around it.
    pub fn changed(&mut self, first: usize, tags: &[u64], before: &TapStats, after: &TapStats) {
        let captured = after.last_sequence > before.last_sequence
            && !(before.mode == Mode::Ordered && after.mode != Mode::Ordered);
        let key = 2 * after.last_sequence.0 + u64::from(!captured);
        self.observe(after);
        self.push(key, first, tags);
    }

    /// Checks whether the volume came into order or fell out of it.
    pub fn observe(&mut self, stats: &TapStats) {
        let ordered = stats.mode == Mode::Ordered;
        if ordered == self.ordered {
            return;
        }
        self.ordered = ordered;
        let sequence = stats.last_sequence.0;
        match self.gaps.last_mut().filter(|gap| gap.end.is_none()) {
            Some(gap) if ordered => gap.end = Some(sequence),
            None if !ordered => self.gaps.push(Gap { begin: sequence, end: None }),
            _ => {}
        }
    }

    /// The journal lost everything after `durable` and began a gap, whose last sequence is the
    /// current one.
    pub fn journal_lost(&mut self, durable: u64, stats: &TapStats) {
        let begin = stats.last_sequence.0;
        self.losses.push(Loss {
            begin,
            keys: self.log.iter().map(|entry| entry.key).collect(),
            gaps: self.gaps.clone(),
            placed: self.placed.clone(),
            lost: self.lost.clone(),
        });
        self.forget_after(durable);
        for entry in self.log.iter_mut().filter(|entry| entry.key > 2 * durable + 1) {
            entry.key = 2 * begin + 1;
        }
        self.ordered = false;
        if self.gaps.last().is_none_or(|gap| gap.end.is_some()) {
            self.gaps.push(Gap { begin, end: None });
        }
    }

    /// A session began after `last`; the disk contains `tags`.
    pub fn restarted(&mut self, last: u64, tags: &[u64], stats: &TapStats) {
        if let Some(at) = self.losses.iter().position(|loss| loss.begin > last) {
            let loss = self.losses.swap_remove(at);
            self.losses.truncate(at);
            self.log.truncate(loss.keys.len());
            self.snapshots.split_off(&(self.log.len() + 1));
            self.log.iter_mut().zip(loss.keys).for_each(|(entry, key)| entry.key = key);
            (self.gaps, self.placed, self.lost) = (loss.gaps, loss.placed, loss.lost);
        }
        self.forget_after(last);
        let kept = self.log.partition_point(|entry| entry.key <= 2 * last + 1);
        self.log.truncate(kept);
        self.snapshots.split_off(&(kept + 1));
        let now = self.state_at(u64::MAX / 2);
        self.now.clone_from(&now);
        if self.now != tags {
            self.push(2 * last + 1, 0, tags);
        }
        self.ordered = self.gaps.last().is_none_or(|gap| gap.end.is_some());
        self.observe(stats);
        assert!(
            self.ordered == (stats.mode == Mode::Ordered),
            "promise 7: a gap was open before the restart, and the volume says that it is in order"
        );
    }

    /// Sequences after `last` are given anew.
    fn forget_after(&mut self, last: u64) {
        self.gaps.retain(|gap| gap.begin <= last);
        if let Some(gap) = self.gaps.last_mut() {
            gap.end = gap.end.filter(|end| *end <= last);
        }
        let lost = self.placed.iter().filter(|(_, sequence)| **sequence > last);
        self.lost.extend(lost.map(|(point, _)| *point));
        self.placed.retain(|_, sequence| *sequence <= last);
        for (point, sequence) in &self.confirmed {
            assert!(
                *sequence <= last,
                "promise 4: point {point} at {sequence} was durable, and only {last} is left"
            );
        }
    }

    /// The vault went back: it has everything up to `last`. Later points are gone with it.
    pub fn vault_went_back(&mut self, last: u64) {
        self.confirmed.retain(|_, sequence| *sequence <= last);
    }

    /// Nothing is known any more of what came after `last`.
    pub fn is_cut_off(&mut self, last: u64) {
        self.vault_went_back(last);
        self.forget_after(last);
        self.losses.retain(|loss| loss.begin <= last);
        self.log.truncate(self.log.partition_point(|entry| entry.key <= 2 * last + 1));
        self.snapshots.split_off(&(self.log.len() + 1));
        let now = self.state_at(u64::MAX / 2);
        self.now.clone_from(&now);
    }

    /// A running agent has `now` on its disk, of which nothing is captured.
    pub fn is_given(&mut self, now: &[u64], stats: &TapStats) {
        if self.now != now {
            self.push(2 * stats.last_sequence.0 + 1, 0, now);
        }
        self.ordered = stats.mode == Mode::Ordered;
        if !self.ordered && self.gaps.last().is_none_or(|gap| gap.end.is_some()) {
            self.gaps.push(Gap { begin: stats.last_sequence.0, end: None });
        }
    }

    /// Sequences after `last` up to `given` may never arrive.
    pub fn hole(&mut self, last: u64, given: u64) {
        if last < given {
            self.holes.push((last, given));
        }
    }

    /// A running agent goes on in a vault that has everything up to `last`.
    pub fn goes_on_after(&mut self, last: u64, stats: &TapStats) {
        self.vault_went_back(last);
        self.hole(last, stats.last_sequence.0);
        self.journal_lost(last, stats);
    }

    /// The machine went back to when it had the history `then`, of which the vault has everything up
    /// to `published`, and nothing else.
    pub fn went_back_to(&mut self, then: &Self, published: u64) {
        let now = std::mem::replace(self, then.clone());
        let kept = now.confirmed.into_iter().filter(|(_, sequence)| *sequence <= published);
        self.confirmed.extend(kept);
    }

    /// Another source owns the volume from now on, with its content up to `last`.
    pub fn taken_over(&mut self, last: u64) {
        let late = self.confirmed.iter().filter(|(_, sequence)| **sequence > last);
        self.lost.extend(late.map(|(point, _)| *point));
        self.confirmed.retain(|_, sequence| *sequence <= last);
    }

    /// Returns the history as it is on another site that continues after `at`.
    pub fn divided(&self, at: u64) -> Self {
        let mut model = self.clone();
        model.taken_over(at);
        model.losses.retain(|loss| loss.begin <= at);
        model
    }

    /// Whatever the last session may have captured after `at` stays: the journal lost nothing.
    pub fn is_certain_after(&self, at: u64) -> bool {
        self.losses.iter().all(|loss| loss.begin <= at)
    }

    /// A point is in the write order.
    pub fn placed(&mut self, point: PointId, sequence: u64) {
        assert!(self.ordered, "promise 7: a point was marked while the volume was not in order");
        self.placed.insert(point, sequence);
    }

    /// Returns whether the volume was ordered at `sequence`: `Some(false)` strictly inside a gap,
    /// `None` at its very edges.
    pub fn is_ordered_at(&self, sequence: u64) -> Option<bool> {
        for gap in &self.gaps {
            let end = gap.end.unwrap_or(u64::MAX);
            if gap.begin < sequence && sequence < end {
                return Some(false);
            }
            if gap.begin == sequence {
                return None;
            }
        }
        let may_lack =
            self.holes.iter().any(|(last, given)| (*last + 1..=*given).contains(&sequence));
        if may_lack { None } else { Some(true) }
    }

    /// Returns the content of the volume at `sequence`.
    pub fn state_at(&self, sequence: u64) -> Tags {
        let end = self.log.partition_point(|entry| entry.key <= 2 * sequence);
        let (from, base) =
            self.snapshots.range(..=end).next_back().expect("there is one of the beginning");
        let mut tags = (**base).clone();
        for entry in &self.log[*from..end] {
            tags[entry.first..entry.first + entry.tags.len()].copy_from_slice(&entry.tags);
        }
        Rc::new(tags)
    }

    /// The content of a range became known without any reported change.
    pub fn set(&mut self, first: usize, tags: &[u64], sequence: u64) {
        self.push(2 * sequence + 1, first, tags);
    }

    fn push(&mut self, key: u64, first: usize, tags: &[u64]) {
        if self.log.len().is_multiple_of(SNAPSHOT_EVERY) {
            self.snapshots.insert(self.log.len(), Rc::new(self.now.clone()));
        }
        let key = key.max(self.log.last().map_or(0, |entry| entry.key));
        self.log.push(Entry { key, first, tags: tags.into() });
        self.now[first..first + tags.len()].copy_from_slice(tags);
    }
}
