//! A value for each byte of a volume, in bounded memory: a map of extents that becomes a sample of
//! itself.
//!
//! Below its limit the map is exact. Beyond it, half of the volume's chunks are left out (then half
//! of the rest, and so on), chosen by a hash of the chunk's number, and each remaining chunk counts
//! double. This is spatial sampling, as used for miss-ratio curves (Waldspurger et al., "Efficient
//! MRC Construction with SHARDS", FAST 2015). Each count stays an unbiased estimate; with a million
//! extents left its error is well below one per cent.
//!
//! Invariants: extents are disjoint. Once anything was left out, an extent lies within one chunk.
//! At most `extents_max` extents remain after a call.

use std::collections::BTreeMap;

use hrl::Extent;

/// Smallest chunk that is sampled as a whole.
const CHUNK_BYTES_MIN: u64 = 1 << 20;
/// About the most chunks of a volume, which bounds the extents that cutting at chunks makes.
const CHUNKS_MAX: u64 = 1 << 20;

/// A value for each byte that was touched.
pub(super) struct Footprint<T> {
    /// Start of each extent, with its end and value.
    extents: BTreeMap<u64, (u64, T)>,
    chunk_bytes: u64,
    /// One chunk of 2^shift is in the sample.
    shift: u32,
    extents_max: usize,
}

impl<T: Copy + PartialEq> Footprint<T> {
    pub(super) fn new(device_bytes: u64, extents_max: usize) -> Self {
        let chunk_bytes = (device_bytes / CHUNKS_MAX).max(CHUNK_BYTES_MIN);
        Self { extents: BTreeMap::new(), chunk_bytes, shift: 0, extents_max: extents_max.max(1) }
    }

    /// Sets the value of every byte of `extent` to what `change` returns for its old value.
    /// `change` receives a number of bytes, scaled up from the sample.
    pub(super) fn update(&mut self, extent: Extent, change: &mut impl FnMut(u64, Option<T>) -> T) {
        if self.shift == 0 {
            self.update_extent(extent, change);
        } else {
            let mut at = extent.offset;
            while at < extent.end() {
                let chunk = at / self.chunk_bytes;
                let end = extent.end().min((chunk + 1).saturating_mul(self.chunk_bytes));
                if is_sampled(chunk, self.shift) {
                    self.update_extent(Extent::from_bounds(at, end), change);
                }
                at = end;
            }
        }
        while self.extents.len() > self.extents_max {
            self.halve();
        }
    }

    /// Returns values with their numbers of bytes, scaled up from the sample.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, T)> {
        let shift = self.shift;
        self.extents.iter().map(move |(start, (end, value))| (scaled(end - start, shift), *value))
    }

    /// Removes everything; the map is exact again.
    pub(super) fn clear(&mut self) {
        self.extents.clear();
        self.shift = 0;
    }

    /// Returns whether part of the volume was left out.
    pub(super) fn is_sample(&self) -> bool {
        self.shift > 0
    }

    fn update_extent(&mut self, extent: Extent, change: &mut impl FnMut(u64, Option<T>) -> T) {
        let (start, end) = (extent.offset, extent.end());
        if start >= end {
            return;
        }
        self.cut(start);
        self.cut(end);
        let known: Vec<_> =
            self.extents.range(start..end).map(|(s, (e, v))| (*s, *e, *v)).collect();
        let mut at = start;
        let mut made: Option<(u64, u64, T)> = None;
        let shift = self.shift;
        let mut make = |extents: &mut BTreeMap<u64, (u64, T)>, from: u64, to: u64, old| {
            let value = change(scaled(to - from, shift), old);
            match &mut made {
                Some((_, made_end, made_value)) if *made_value == value => *made_end = to,
                _ => {
                    if let Some((from, to, value)) = made.replace((from, to, value)) {
                        extents.insert(from, (to, value));
                    }
                }
            }
        };
        for (from, to, value) in known {
            self.extents.remove(&from);
            if at < from {
                make(&mut self.extents, at, from, None);
            }
            make(&mut self.extents, from, to, Some(value));
            at = to;
        }
        if at < end {
            make(&mut self.extents, at, end, None);
        }
        if let Some((from, to, value)) = made {
            self.extents.insert(from, (to, value));
        }
    }

    /// Makes `at` a border between extents.
    fn cut(&mut self, at: u64) {
        if let Some((_, extent)) = self.extents.range_mut(..at).next_back()
            && extent.0 > at
        {
            let (end, value) = std::mem::replace(extent, (at, extent.1));
            self.extents.insert(at, (end, value));
        }
    }

    /// Leaves out half of the remaining chunks.
    fn halve(&mut self) {
        self.shift += 1;
        let (chunk_bytes, shift) = (self.chunk_bytes, self.shift);
        for (start, (end, value)) in std::mem::take(&mut self.extents) {
            let mut at = start;
            while at < end {
                let chunk = at / chunk_bytes;
                let to = end.min((chunk + 1).saturating_mul(chunk_bytes));
                if is_sampled(chunk, shift) {
                    self.extents.insert(at, (to, value));
                }
                at = to;
            }
        }
    }
}

fn scaled(bytes: u64, shift: u32) -> u64 {
    bytes.checked_shl(shift).filter(|scaled| scaled >> shift == bytes).unwrap_or(u64::MAX)
}

/// Returns whether a chunk is in the sample. A larger shift selects a subset of a smaller one.
fn is_sampled(chunk: u64, shift: u32) -> bool {
    // The finaliser of splitmix64 (Steele, Lea, Flood 2014).
    let z = (chunk ^ (chunk >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)).trailing_zeros() >= shift
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
            #[test]
    fn below_the_limit_the_footprint_agrees_with_a_byte_map(
                writes in prop::collection::vec((0_u64..200, 0_u64..60), 0..60)
            ) {
                let mut footprint = Footprint::new(1 << 20, 1000);
                let mut model = [None; 300];
                for (number, (offset, length)) in writes.iter().enumerate() {
                    let extent = Extent { offset: *offset, length: *length };
                    let mut seen = Vec::new();
                    footprint.update(extent, &mut |bytes, old: Option<usize>| {
                        seen.extend(std::iter::repeat_n(old, bytes as usize));
                        number
                    });
                    let range = extent.offset as usize..extent.end() as usize;
                    prop_assert_eq!(&seen[..], &model[range.clone()]);
                    model[range].fill(Some(number));
                }
                let mut kept = [0_u64; 60];
                footprint.iter().for_each(|(bytes, value)| kept[value] += bytes);
                for (number, bytes) in kept.iter().enumerate() {
                    let expected = model.iter().filter(|value| **value == Some(number)).count();
                    prop_assert_eq!(*bytes, expected as u64);
                }
            }
        }

    #[test]
    fn promise_12_beyond_the_limit_memory_is_bounded_and_counts_are_close() {
        let (blocks, limit) = (200_000_u64, 10_000);
        // Every other block of 800 MB, so that no two extents join.
        let mut footprint = Footprint::new(blocks * 8192, limit);
        let mut fresh = 0;
        for block in 0..blocks {
            // In an order other than that of the disk.
            let offset = block * 7919 % blocks * 8192;
            footprint.update(Extent { offset, length: 4096 }, &mut |bytes, old| {
                fresh += if old.is_none() { bytes } else { 0 };
            });
            assert!(footprint.extents.len() <= limit);
        }
        assert!(footprint.is_sample());
        let left: u64 = footprint.iter().map(|(bytes, ())| bytes).sum();
        for found in [fresh, left] {
            let share = found as f64 / (blocks * 4096) as f64;
            assert!((0.9..1.1).contains(&share), "{share}");
        }
    }

    #[test]
    fn a_long_extent_of_a_large_volume_stays_few_extents() {
        let mut footprint = Footprint::new(64 << 40, 1 << 12);
        footprint.update(Extent { offset: 0, length: 64 << 40 }, &mut |_, _| 1_u8);
        for at in 0..5000_u64 {
            footprint.update(Extent { offset: at << 30, length: 512 }, &mut |_, _| 2);
        }
        assert!(footprint.extents.len() <= 1 << 12);
        let share =
            footprint.iter().map(|(bytes, _)| bytes).sum::<u64>() as f64 / (64_u64 << 40) as f64;
        assert!((0.9..1.1).contains(&share), "{share}");
    }
}
