//! Byte ranges of a volume, and sets of them.
//!
//! Invariants: an [`Extent`] never reaches past `u64::MAX`. The extents of an [`ExtentSet`] are
//! sorted, not empty, and neither overlap nor touch (neighbours are joined).

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use crate::error::{Error, ErrorKind, Result};

/// The bytes `offset .. offset + length` of a volume. May be empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Extent {
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub length: u64,
}

impl Extent {
    /// Makes an extent; `InvalidInput` if its end overflows.
    pub fn new(offset: u64, length: u64) -> Result<Self> {
        if offset.checked_add(length).is_none() {
            return Err(Error::new(ErrorKind::InvalidInput, "form extent", "volume")
                .at(offset)
                .expected("an end below 2^64")
                .found(format_args!("length {length}")));
        }
        Ok(Self { offset, length })
    }

    /// Makes the extent from `start` up to, not including, `end`. It is empty if `end` is not after
    /// `start`.
    pub const fn from_bounds(start: u64, end: u64) -> Self {
        Self { offset: start, length: end.saturating_sub(start) }
    }

    /// Returns the first byte after the extent.
    pub const fn end(self) -> u64 {
        self.offset + self.length
    }

    /// Returns whether it has no bytes.
    pub const fn is_empty(self) -> bool {
        self.length == 0
    }

    /// Returns whether it shares at least one byte with `other`.
    pub const fn overlaps(self, other: Self) -> bool {
        self.offset < other.end() && other.offset < self.end()
    }

    /// Returns whether it has every byte of `other`.
    pub const fn contains(self, other: Self) -> bool {
        self.offset <= other.offset && other.end() <= self.end()
    }

    /// Returns the shared bytes; empty if there are none.
    pub fn intersection(self, other: Self) -> Self {
        Self::from_bounds(self.offset.max(other.offset), self.end().min(other.end()))
    }

    /// Splits the extent into chunks of at most `bytes_max`, in order.
    pub(crate) fn chunks(self, bytes_max: u64) -> impl Iterator<Item = Self> {
        let mut at = self.offset;
        std::iter::from_fn(move || {
            let chunk = Self { offset: at, length: (self.end() - at).min(bytes_max) };
            at = chunk.end();
            (!chunk.is_empty()).then_some(chunk)
        })
    }

    /// Checks that the extent lies within a volume of `size_bytes`; `InvalidInput` if not.
    pub fn check_within(
        self,
        size_bytes: u64,
        operation: &'static str,
        object: &str,
    ) -> Result<()> {
        match self.offset.checked_add(self.length) {
            Some(end) if end <= size_bytes => Ok(()),
            _ => Err(Error::new(ErrorKind::InvalidInput, operation, object)
                .at(self.offset)
                .expected(format_args!("a range within {size_bytes} bytes"))
                .found(format_args!("length {}", self.length))),
        }
    }

    /// Widens the extent to multiples of `alignment`, a power of two.
    pub fn aligned_outwards(self, alignment: u64) -> Self {
        debug_assert!(alignment.is_power_of_two());
        let start = self.offset & !(alignment - 1);
        let end = self.end().checked_next_multiple_of(alignment).unwrap_or(u64::MAX);
        Self::from_bounds(start, end)
    }
}

impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.offset, self.length)
    }
}

/// A set of bytes as sorted, disjoint, joined extents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExtentSet {
    /// End of each extent, by its start.
    ends: BTreeMap<u64, u64>,
}

impl ExtentSet {
    /// Makes an empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds every byte of `extent`.
    pub fn insert(&mut self, extent: Extent) {
        if extent.is_empty() {
            return;
        }
        let (mut start, mut end) = (extent.offset, extent.end());
        if let Some((&before, &before_end)) = self.ends.range(..=start).next_back() {
            if before_end >= end {
                return;
            }
            if before_end >= start {
                start = before;
            }
        }
        while let Some((&next, &next_end)) = self.ends.range(start..=end).next() {
            end = end.max(next_end);
            self.ends.remove(&next);
        }
        self.ends.insert(start, end);
    }

    /// Removes every byte of `extent`.
    pub fn remove(&mut self, extent: Extent) {
        if extent.is_empty() {
            return;
        }
        let (start, end) = (extent.offset, extent.end());
        if let Some((&before, &before_end)) = self.ends.range(..start).next_back()
            && before_end > start
        {
            self.ends.insert(before, start);
            if before_end > end {
                self.ends.insert(end, before_end);
                return;
            }
        }
        while let Some((&next, &next_end)) = self.ends.range(start..end).next() {
            self.ends.remove(&next);
            if next_end > end {
                self.ends.insert(end, next_end);
            }
        }
    }

    /// Returns whether the set shares at least one byte with `extent`.
    pub fn overlaps(&self, extent: Extent) -> bool {
        !extent.is_empty()
            && self
                .ends
                .range(..extent.end())
                .next_back()
                .is_some_and(|(_, &end)| end > extent.offset)
    }

    /// Returns whether the set has every byte of `extent`.
    pub fn contains(&self, extent: Extent) -> bool {
        extent.is_empty()
            || self
                .ends
                .range(..=extent.offset)
                .next_back()
                .is_some_and(|(_, &end)| end >= extent.end())
    }

    /// Returns the extents, by offset.
    pub fn iter(&self) -> impl Iterator<Item = Extent> + '_ {
        self.ends.iter().map(|(&start, &end)| Extent::from_bounds(start, end))
    }

    /// Returns the parts of the set inside `window`, by offset.
    pub fn within(&self, window: Extent) -> impl Iterator<Item = Extent> + '_ {
        let first = self
            .ends
            .range(..window.offset)
            .next_back()
            .filter(|(_, end)| **end > window.offset)
            .map_or(window.offset, |(&start, _)| start);
        self.ends
            .range(first..window.end().max(first))
            .map(move |(&start, &end)| Extent::from_bounds(start, end).intersection(window))
            .filter(|extent| !extent.is_empty())
    }

    /// Returns the number of extents.
    pub fn count(&self) -> usize {
        self.ends.len()
    }

    /// Returns whether the set has no bytes.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Returns the number of bytes in the set.
    pub fn total_bytes(&self) -> u64 {
        self.ends.iter().map(|(start, end)| end - start).sum()
    }
}

impl FromIterator<Extent> for ExtentSet {
    fn from_iter<I: IntoIterator<Item = Extent>>(extents: I) -> Self {
        let mut set = Self::new();
        extents.into_iter().for_each(|extent| set.insert(extent));
        set
    }
}

/// Splits `bytes` into runs of blocks of one kind, in order. `kind` gets where a block begins, and
/// its bytes.
pub(crate) fn block_runs<K: Copy + PartialEq>(
    bytes: &[u8],
    block_bytes: usize,
    kind: impl Fn(usize, &[u8]) -> K,
) -> impl Iterator<Item = (Range<usize>, K)> {
    let mut blocks = bytes
        .chunks(block_bytes)
        .enumerate()
        .map(move |(number, block)| {
            let start = number * block_bytes;
            (start..start + block.len(), kind(start, block))
        })
        .peekable();
    std::iter::from_fn(move || {
        let (mut run, kind) = blocks.next()?;
        while let Some((more, _)) = blocks.next_if(|(_, next)| *next == kind) {
            run.end = more.end;
        }
        Some((run, kind))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_blocks_join_neighbours_and_end_with_a_short_block() {
        let bytes = [0, 0, 0, 0, 7, 7, 7, 7, 9, 0];
        let runs =
            |size| -> Vec<_> { block_runs(&bytes, size, |_, block| block == [0, 0]).collect() };
        assert_eq!(runs(2), [(0..4, true), (4..10, false)]);
        let at = |size| block_runs(&bytes, size, |at, _| at / 8).map(|(run, _)| run);
        assert_eq!(at(4).collect::<Vec<_>>(), [0..8, 8..10]);
        assert_eq!(block_runs(&[], 4, |at, _| at).count(), 0);
    }
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_set_behaves_like_a_bitmap(ops in prop::collection::vec((any::<bool>(), 0_u64..64, 0_u64..20), 0..60)) {
            let mut set = ExtentSet::new();
            let mut bits = [false; 96];
            for (insert, offset, length) in ops {
                let extent = Extent { offset, length };
                if insert { set.insert(extent) } else { set.remove(extent) }
                bits[offset as usize..(offset + length) as usize].fill(insert);
                let listed: Vec<_> = set.iter().collect();
                prop_assert!(listed.windows(2).all(|w| w[0].end() < w[1].offset));
                prop_assert!(listed.iter().all(|e| !e.is_empty()));
                prop_assert_eq!(set.total_bytes(), bits.iter().filter(|b| **b).count() as u64);
                for e in &listed {
                    prop_assert!(bits[e.offset as usize..e.end() as usize].iter().all(|b| *b));
                }
                let window = Extent { offset: 10, length: 30 };
                let inside: u64 = set.within(window).map(|e| e.length).sum();
                prop_assert_eq!(inside, bits[10..40].iter().filter(|b| **b).count() as u64);
                prop_assert_eq!(set.overlaps(window), inside > 0);
                prop_assert_eq!(set.contains(window), inside == 30);
            }
        }
    }
}
