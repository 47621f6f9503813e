//! The table of dirty regions: which ones may differ between disk and replica, and since which
//! write.
//!
//! A region is *dirty* while a write to it may be missing from the replica after a crash. There are
//! three sorts. *Captured* regions carry the sequence of their last write and become clean once
//! that is durable. *Wide* ranges do the same for changes of many regions at once, so that a
//! discard of the whole disk costs one entry. *Resync* regions were written without capture and
//! must be read again.
//!
//! Invariants: a region in `resync` is never clean, whatever its sequence. Memory is bounded by two
//! bits for each region and by the captured regions, never by the size of the volume alone.

use crate::units::Sequence;

/// A change of more regions than this becomes one wide range.
const WIDE_REGIONS_MIN: u64 = 64;
/// Most wide ranges. Beyond it changes set regions dirty one by one.
const WIDE_RANGES_MAX: usize = 64;
/// Regions in one leaf of the sequence table, and bits in one chunk of a set.
const LEAF_REGIONS: u64 = 512;
const CHUNK_REGIONS: u64 = 4096;
const CHUNK_WORDS: usize = (CHUNK_REGIONS / 64) as usize;

/// The regions `first ..= last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionRange {
    /// Number of the first region.
    pub first: u64,
    /// Number of the last region.
    pub last: u64,
}

impl RegionRange {
    /// Returns the number of regions.
    pub const fn count(self) -> u64 {
        self.last - self.first + 1
    }

    const fn contains(self, other: Self) -> bool {
        self.first <= other.first && other.last <= self.last
    }

    const fn touches(self, other: Self) -> bool {
        self.first <= other.last.saturating_add(1) && other.first <= self.last.saturating_add(1)
    }

    const fn has(self, region: u64) -> bool {
        self.first <= region && region <= self.last
    }
}

/// A set of regions that is small when it is empty, full, or full in long stretches.
#[derive(Debug, Default)]
pub(crate) struct RegionSet {
    chunks: Vec<Chunk>,
    regions: u64,
    count: u64,
}

#[derive(Debug)]
enum Chunk {
    Zeros,
    Ones,
    Bits(Box<[u64; CHUNK_WORDS]>),
}

impl RegionSet {
    pub(crate) fn new(regions: u64) -> Self {
        let chunks = (0..regions.div_ceil(CHUNK_REGIONS)).map(|_| Chunk::Zeros).collect();
        Self { chunks, regions, count: 0 }
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    pub(crate) fn contains(&self, region: u64) -> bool {
        match &self.chunks[(region / CHUNK_REGIONS) as usize] {
            Chunk::Zeros => false,
            Chunk::Ones => true,
            Chunk::Bits(words) => {
                let bit = region % CHUNK_REGIONS;
                words[(bit / 64) as usize] >> (bit % 64) & 1 == 1
            }
        }
    }

    pub(crate) fn insert_range(&mut self, range: RegionRange) {
        self.set_range(range, true);
    }

    pub(crate) fn remove(&mut self, region: u64) {
        self.set_range(RegionRange { first: region, last: region }, false);
    }

    /// Returns the first member at or after `region`.
    pub(crate) fn next(&self, region: u64) -> Option<u64> {
        let mut at = region;
        while at < self.regions {
            let chunk_end = (at / CHUNK_REGIONS + 1) * CHUNK_REGIONS;
            match &self.chunks[(at / CHUNK_REGIONS) as usize] {
                Chunk::Zeros => {}
                Chunk::Ones => return Some(at),
                Chunk::Bits(words) => {
                    let mut bit = at % CHUNK_REGIONS;
                    while bit < CHUNK_REGIONS {
                        let rest = words[(bit / 64) as usize] >> (bit % 64);
                        if rest != 0 {
                            let found =
                                at - at % CHUNK_REGIONS + bit + u64::from(rest.trailing_zeros());
                            return (found < self.regions).then_some(found);
                        }
                        bit = (bit / 64 + 1) * 64;
                    }
                }
            }
            at = chunk_end;
        }
        None
    }

    fn set_range(&mut self, range: RegionRange, value: bool) {
        assert!(range.last < self.regions, "regions of the volume");
        let mut at = range.first;
        while at <= range.last {
            let chunk = at / CHUNK_REGIONS;
            let chunk_first = chunk * CHUNK_REGIONS;
            let chunk_last = (chunk_first + CHUNK_REGIONS - 1).min(self.regions - 1);
            let last = range.last.min(chunk_last);
            if at == chunk_first && last == chunk_last {
                let had = self.count_in(chunk as usize);
                self.count = self.count - had + if value { last - at + 1 } else { 0 };
                self.chunks[chunk as usize] = if value { Chunk::Ones } else { Chunk::Zeros };
            } else {
                self.set_bits(chunk as usize, at - chunk_first, last - chunk_first, value);
            }
            at = last + 1;
        }
    }

    fn set_bits(&mut self, chunk: usize, first: u64, last: u64, value: bool) {
        let slot = &mut self.chunks[chunk];
        let words = match slot {
            Chunk::Zeros if !value => return,
            Chunk::Ones if value => return,
            Chunk::Bits(words) => words,
            Chunk::Zeros | Chunk::Ones => {
                let fill = if matches!(slot, Chunk::Ones) { u64::MAX } else { 0 };
                *slot = Chunk::Bits(Box::new([fill; CHUNK_WORDS]));
                let Chunk::Bits(words) = slot else { unreachable!("set one line above") };
                words
            }
        };
        for bit in first..=last {
            let word = &mut words[(bit / 64) as usize];
            let mask = 1 << (bit % 64);
            if (*word & mask != 0) != value {
                *word ^= mask;
                if value { self.count += 1 } else { self.count -= 1 }
            }
        }
        if words.iter().all(|word| *word == 0) {
            *slot = Chunk::Zeros;
        }
    }

    fn count_in(&self, chunk: usize) -> u64 {
        let chunk_regions = (self.regions - chunk as u64 * CHUNK_REGIONS).min(CHUNK_REGIONS);
        match &self.chunks[chunk] {
            Chunk::Zeros => 0,
            Chunk::Ones => chunk_regions,
            Chunk::Bits(words) => (0..chunk_regions)
                .filter(|bit| words[(bit / 64) as usize] >> (bit % 64) & 1 == 1)
                .count() as u64,
        }
    }
}

#[derive(Debug)]
struct WideRange {
    range: RegionRange,
    sequence: Sequence,
}

/// The dirty regions of one volume.
#[derive(Debug, Default)]
pub(crate) struct RegionTable {
    leaves: Vec<Option<Box<[u64; LEAF_REGIONS as usize]>>>,
    wide: Vec<WideRange>,
    pub(crate) resync: RegionSet,
    captured: u64,
    regions: u64,
}

impl RegionTable {
    pub(crate) fn new(regions: u64) -> Self {
        Self {
            leaves: (0..regions.div_ceil(LEAF_REGIONS)).map(|_| None).collect(),
            wide: Vec::new(),
            resync: RegionSet::new(regions),
            captured: 0,
            regions,
        }
    }

    /// Returns the number of regions of the volume.
    pub(crate) fn regions(&self) -> u64 {
        self.regions
    }

    /// Returns the number of dirty regions; wide ranges count as a whole.
    pub(crate) fn dirty_count(&self) -> u64 {
        self.captured + self.resync.count() + self.wide.iter().map(|w| w.range.count()).sum::<u64>()
    }

    /// Returns whether every region of the range is dirty.
    pub(crate) fn is_dirty(&self, range: RegionRange) -> bool {
        if self.wide.iter().any(|wide| wide.range.contains(range)) {
            return true;
        }
        if range.count() > WIDE_REGIONS_MIN {
            return false;
        }
        (range.first..=range.last).all(|region| self.has(region))
    }

    /// Returns whether a region is dirty.
    fn has(&self, region: u64) -> bool {
        self.sequence(region) != 0
            || self.resync.contains(region)
            || self.wide.iter().any(|wide| wide.range.has(region))
    }

    /// Adds a range that is durable in the dirty map. `now` is the newest sequence.
    pub(crate) fn set_dirty(&mut self, range: RegionRange, now: Sequence) {
        let now = Sequence(now.0.max(1));
        if range.count() > WIDE_REGIONS_MIN && self.set_wide(range, now) {
            return;
        }
        for region in range.first..=range.last {
            if self.sequence(region) == 0 {
                self.set_sequence(region, now.0);
            }
        }
    }

    /// Records that a captured change of the range has `sequence`.
    pub(crate) fn changed(&mut self, range: RegionRange, sequence: Sequence) {
        if range.count() > WIDE_REGIONS_MIN
            && let Some(wide) = self.wide.iter_mut().find(|wide| wide.range.contains(range))
        {
            wide.sequence = sequence;
            return;
        }
        for region in range.first..=range.last {
            self.set_sequence(region, sequence.0);
        }
    }

    /// Ends the resync of a region whose content was captured at `sequence`.
    pub(crate) fn resynced(&mut self, region: u64, sequence: Sequence) {
        self.resync.remove(region);
        self.set_sequence(region, sequence.0.max(1));
    }

    /// Lets a resync read all regions changed after `durable`, because their capture is lost.
    pub(crate) fn lose_after(&mut self, durable: Sequence) {
        for (leaf, entries) in self.leaves.iter().enumerate() {
            for (at, sequence) in entries.iter().flat_map(|entries| entries.iter().enumerate()) {
                if *sequence > durable.0 {
                    let region = leaf as u64 * LEAF_REGIONS + at as u64;
                    self.resync.insert_range(RegionRange { first: region, last: region });
                }
            }
        }
        for wide in self.wide.iter().filter(|wide| wide.sequence > durable) {
            self.resync.insert_range(wide.range);
        }
    }

    /// Returns a sequence up to which cleaning would free about half of the captured regions.
    pub(crate) fn half_way(&self) -> Sequence {
        let mut sequences: Vec<u64> = self
            .leaves
            .iter()
            .flatten()
            .flat_map(|entries| entries.iter().copied().filter(|s| *s != 0))
            .chain(self.wide.iter().map(|wide| wide.sequence.0))
            .collect();
        if sequences.is_empty() {
            return Sequence::ZERO;
        }
        let middle = sequences.len() / 2;
        Sequence(*sequences.select_nth_unstable(middle).1)
    }

    /// Returns the number of regions last changed at or before `through`.
    pub(crate) fn changed_through(&self, through: Sequence) -> u64 {
        let old = |sequence: &&u64| **sequence != 0 && **sequence <= through.0;
        let single =
            self.leaves.iter().flatten().map(|leaf| leaf.iter().filter(old).count() as u64);
        let wide = self.wide.iter().filter(|wide| wide.sequence <= through);
        single.sum::<u64>() + wide.map(|wide| wide.range.count()).sum::<u64>()
    }

    /// Removes and returns what was last changed at or before `through` and is not `busy`.
    pub(crate) fn clean(
        &mut self,
        through: Sequence,
        busy: impl Fn(RegionRange) -> bool,
    ) -> Vec<RegionRange> {
        let mut cleaned = Vec::new();
        let wide = std::mem::take(&mut self.wide);
        for mark in wide {
            if mark.sequence > through || busy(mark.range) {
                self.wide.push(mark);
            } else {
                self.clean_wide(mark.range, &mut cleaned);
            }
        }
        for leaf in 0..self.leaves.len() {
            self.clean_leaf(leaf, through, &busy, &mut cleaned);
        }
        cleaned
    }

    /// Adds the regions of a removed wide range that are not dirty for another reason.
    fn clean_wide(&self, range: RegionRange, cleaned: &mut Vec<RegionRange>) {
        let mut start = None;
        for region in range.first..=range.last {
            match (self.has(region), start) {
                (false, None) => start = Some(region),
                (true, Some(first)) => {
                    cleaned.push(RegionRange { first, last: region - 1 });
                    start = None;
                }
                _ => {}
            }
        }
        if let Some(first) = start {
            cleaned.push(RegionRange { first, last: range.last });
        }
    }

    fn clean_leaf(
        &mut self,
        leaf: usize,
        through: Sequence,
        busy: &impl Fn(RegionRange) -> bool,
        cleaned: &mut Vec<RegionRange>,
    ) {
        let Some(entries) = &mut self.leaves[leaf] else { return };
        let mut left = false;
        for (at, sequence) in entries.iter_mut().enumerate() {
            if *sequence == 0 {
                continue;
            }
            let region = leaf as u64 * LEAF_REGIONS + at as u64;
            let range = RegionRange { first: region, last: region };
            if *sequence > through.0 || self.resync.contains(region) || busy(range) {
                left = true;
                continue;
            }
            *sequence = 0;
            self.captured -= 1;
            if self.wide.iter().any(|wide| wide.range.has(region)) {
                continue;
            }
            match cleaned.last_mut() {
                Some(run) if run.last + 1 == region => run.last = region,
                _ => cleaned.push(range),
            }
        }
        if !left {
            self.leaves[leaf] = None;
        }
    }

    fn set_wide(&mut self, range: RegionRange, now: Sequence) -> bool {
        if let Some(wide) = self.wide.iter_mut().find(|wide| wide.range.touches(range)) {
            wide.range.first = wide.range.first.min(range.first);
            wide.range.last = wide.range.last.max(range.last);
            wide.sequence = wide.sequence.max(now);
            return true;
        }
        if self.wide.len() >= WIDE_RANGES_MAX {
            return false;
        }
        self.wide.push(WideRange { range, sequence: now });
        true
    }

    fn sequence(&self, region: u64) -> u64 {
        match &self.leaves[(region / LEAF_REGIONS) as usize] {
            Some(entries) => entries[(region % LEAF_REGIONS) as usize],
            None => 0,
        }
    }

    fn set_sequence(&mut self, region: u64, sequence: u64) {
        let entries = self.leaves[(region / LEAF_REGIONS) as usize]
            .get_or_insert_with(|| Box::new([0; LEAF_REGIONS as usize]));
        let entry = &mut entries[(region % LEAF_REGIONS) as usize];
        if *entry == 0 {
            self.captured += 1;
        }
        *entry = sequence;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn a_region_set_behaves_like_a_set(ops in prop::collection::vec((any::<bool>(), 0_u64..9_000, 0_u64..9_000), 0..40)) {
            const REGIONS: u64 = 9_000;
            let mut set = RegionSet::new(REGIONS);
            let mut model = BTreeSet::new();
            for (insert, first, length) in ops {
                let last = (first + length).min(REGIONS - 1);
                if insert {
                    set.insert_range(RegionRange { first, last });
                    model.extend(first..=last);
                } else {
                    set.remove(first);
                    model.remove(&first);
                }
                prop_assert_eq!(set.count(), model.len() as u64);
                for probe in [0, first, last, first.saturating_sub(1), 4_095, 4_096, REGIONS - 1] {
                    prop_assert_eq!(set.contains(probe), model.contains(&probe));
                    prop_assert_eq!(set.next(probe), model.range(probe..).next().copied());
                }
            }
        }
    }

    fn one(region: u64) -> RegionRange {
        RegionRange { first: region, last: region }
    }

    #[test]
    fn regions_are_cleaned_only_up_to_the_sequence_and_never_while_busy() {
        let mut table = RegionTable::new(10_000);
        assert!(!table.is_dirty(one(7)));
        table.set_dirty(one(7), Sequence(0));
        table.set_dirty(RegionRange { first: 20, last: 22 }, Sequence(3));
        table.changed(one(7), Sequence(10));
        assert!(table.is_dirty(one(7)));
        assert_eq!(table.dirty_count(), 4);
        assert_eq!(table.clean(Sequence(9), |_| false), [RegionRange { first: 20, last: 22 }]);
        assert_eq!(table.clean(Sequence(10), |range| range == one(7)), []);
        assert_eq!(table.clean(Sequence(10), |_| false), [one(7)]);
        assert_eq!(table.dirty_count(), 0);
    }

    #[test]
    fn a_wide_range_costs_one_entry_and_leaves_newer_writes_dirty() {
        let mut table = RegionTable::new(1 << 26);
        let all = RegionRange { first: 0, last: (1 << 26) - 1 };
        table.set_dirty(all, Sequence(1));
        table.changed(all, Sequence(2));
        assert_eq!(table.captured, 0);
        assert!(table.is_dirty(one(5_000)));
        table.changed(one(5_000), Sequence(3));
        let cleaned = table.clean(Sequence(2), |_| false);
        assert_eq!(
            cleaned,
            [
                RegionRange { first: 0, last: 4_999 },
                RegionRange { first: 5_001, last: (1 << 26) - 1 }
            ]
        );
        assert!(table.is_dirty(one(5_000)));
    }

    /// Found by fuzzing: such a change waited for regions that were already dirty.
    #[test]
    fn a_change_across_a_wide_range_and_a_single_region_is_dirty() {
        let mut table = RegionTable::new(1_000);
        table.set_dirty(RegionRange { first: 0, last: 99 }, Sequence(1));
        table.set_dirty(one(100), Sequence(1));
        assert!(table.is_dirty(RegionRange { first: 90, last: 100 }));
        assert!(!table.is_dirty(RegionRange { first: 90, last: 101 }));
    }

    #[test]
    fn a_resync_region_is_never_cleaned() {
        let mut table = RegionTable::new(100);
        table.set_dirty(one(1), Sequence(1));
        table.resync.insert_range(one(1));
        assert_eq!(table.clean(Sequence::MAX, |_| false), []);
        table.resynced(1, Sequence(5));
        assert_eq!(table.clean(Sequence(4), |_| false), []);
        assert_eq!(table.clean(Sequence(5), |_| false), [one(1)]);
    }

    #[test]
    fn regions_changed_after_the_durable_sequence_are_read_again() {
        let mut table = RegionTable::new(100);
        table.set_dirty(one(1), Sequence(1));
        table.set_dirty(one(2), Sequence(1));
        table.changed(one(1), Sequence(5));
        table.changed(one(2), Sequence(9));
        table.lose_after(Sequence(5));
        assert!(!table.resync.contains(1) && table.resync.contains(2));
    }
}
