//! Which blocks of a disk are present in the upper of two layers: a bit for each block, set once
//! and never cleared.
//!
//! Readers take no lock: a block that is seen as present stays present. Memory is allocated for the
//! parts of the disk that are touched, at most [`BLOCKS_MAX`] bits (64 MiB): a disk of more than 2
//! TiB has larger blocks than 4 KiB.

use crate::extent::Extent;
use crate::sync::OnceLock;
use crate::sync::atomic::{AtomicU64, Ordering};

/// Most blocks.
const BLOCKS_MAX: u64 = 1 << 29;
const BLOCK_BYTES_MIN: u64 = 4096;
/// Two where every schedule is tried, because each word makes that slower.
const WORDS: usize = if cfg!(all(test, loom)) { 2 } else { 512 };
const CHUNK_BLOCKS: u64 = WORDS as u64 * 64;

type Chunk = Box<[AtomicU64]>;

pub struct Presence {
    size_bytes: u64,
    block_bytes: u64,
    /// `None` if no block in it is present.
    chunks: Vec<OnceLock<Chunk>>,
}

impl Presence {
    /// Makes a set with no block present.
    pub fn new(size_bytes: u64) -> Self {
        let mut block_bytes = BLOCK_BYTES_MIN;
        while size_bytes.div_ceil(block_bytes) > BLOCKS_MAX {
            block_bytes *= 2;
        }
        let chunks = size_bytes.div_ceil(block_bytes).div_ceil(CHUNK_BLOCKS);
        Self { size_bytes, block_bytes, chunks: (0..chunks).map(|_| OnceLock::new()).collect() }
    }

    pub fn block_bytes(&self) -> u64 {
        self.block_bytes
    }

    /// Returns the whole blocks around `extent`; the last block of the disk may be short.
    pub fn blocks(&self, extent: Extent) -> Extent {
        extent
            .aligned_outwards(self.block_bytes)
            .intersection(Extent { offset: 0, length: self.size_bytes })
    }

    /// Returns whether every block that `extent` touches is present.
    pub fn contains(&self, extent: Extent) -> bool {
        let end = extent.end().div_ceil(self.block_bytes);
        extent.is_empty() || self.first_other(extent.offset / self.block_bytes, end, true) >= end
    }

    /// Returns `extent` as consecutive runs that are present or not.
    pub fn runs(&self, extent: Extent) -> impl Iterator<Item = (Extent, bool)> + '_ {
        let last = extent.end().div_ceil(self.block_bytes);
        let mut at = extent.offset;
        std::iter::from_fn(move || {
            if at >= extent.end() {
                return None;
            }
            let block = at / self.block_bytes;
            let present = self.word(block) >> (block % 64) & 1 == 1;
            let next = self.first_other(block, last, present);
            let run = Extent::from_bounds(at, (next * self.block_bytes).min(extent.end()));
            at = run.end();
            Some((run, present))
        })
    }

    /// Returns the parts of `extent` that are not present.
    pub fn absent(&self, extent: Extent) -> impl Iterator<Item = Extent> + '_ {
        self.runs(extent).filter(|(_, present)| !present).map(|(run, _)| run)
    }

    /// Makes the blocks of `extent`, which are whole, present. A thread that sees that also sees
    /// what was written before.
    pub fn set_present(&self, extent: Extent) {
        debug_assert_eq!(extent, self.blocks(extent), "whole blocks");
        let end = extent.end().div_ceil(self.block_bytes);
        let mut at = extent.offset / self.block_bytes;
        while at < end {
            let chunk = self.chunks[(at / CHUNK_BLOCKS) as usize]
                .get_or_init(|| (0..WORDS).map(|_| AtomicU64::new(0)).collect());
            let bits = (64 - at % 64).min(end - at);
            let mask = (u64::MAX >> (64 - bits)) << (at % 64);
            chunk[(at % CHUNK_BLOCKS / 64) as usize].fetch_or(mask, Ordering::AcqRel);
            at += bits;
        }
    }

    /// Returns the first block from `at` up to `end` whose presence is not `present`, or `end`.
    fn first_other(&self, mut at: u64, end: u64, present: bool) -> u64 {
        while at < end {
            let word = self.word(at);
            let others = if present { !word } else { word } >> (at % 64);
            if others != 0 {
                return end.min(at + u64::from(others.trailing_zeros()));
            }
            let step = if self.chunk(at).is_some() { 64 } else { CHUNK_BLOCKS };
            at = (at / step + 1) * step;
        }
        end
    }

    fn chunk(&self, block: u64) -> Option<&Chunk> {
        self.chunks.get((block / CHUNK_BLOCKS) as usize)?.get()
    }

    /// Returns the word that has the bit of `block`.
    fn word(&self, block: u64) -> u64 {
        let at = (block % CHUNK_BLOCKS / 64) as usize;
        self.chunk(block).map_or(0, |chunk| chunk[at].load(Ordering::Acquire))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extent::ExtentSet;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn presence_behaves_like_a_set_of_blocks(
            marks in prop::collection::vec((0_u64..70_000, 1_u64..40_000), 0..12),
            (offset, length) in (0_u64..100_000 * 4096, 1_u64..60_000 * 4096),
        ) {
            let size = 110_000 * 4096 + 512;
            let presence = Presence::new(size);
            let mut set = ExtentSet::new();
            for (block, count) in marks {
                let extent = Extent { offset: block * 4096, length: count * 4096 };
                presence.set_present(extent);
                set.insert(extent);
            }
            let window = Extent { offset, length }.intersection(Extent { offset: 0, length: size });
            let (mut at, mut before) = (window.offset, None);
            for (run, present) in presence.runs(window) {
                prop_assert_eq!(run.offset, at);
                prop_assert!(before != Some(present), "runs are joined");
                let right = if present { set.contains(run) } else { !set.overlaps(run) };
                prop_assert!(right, "{} {}", run, present);
                (at, before) = (run.end(), Some(present));
            }
            prop_assert_eq!(at, window.end());
            prop_assert_eq!(presence.contains(window), set.contains(window));
        }
    }

    #[test]
    fn memory_is_bounded_by_larger_blocks() {
        for (size, block) in
            [(1_u64 << 40, 4096), (1 << 41, 4096), (1 << 42, 8192), (1 << 46, 128 << 10)]
        {
            let presence = Presence::new(size);
            assert_eq!(presence.block_bytes(), block, "{size}");
            let last = presence.blocks(Extent { offset: size - 1, length: 1 });
            presence.set_present(last);
            assert!(presence.contains(last));
            assert_eq!(presence.chunks.iter().filter(|chunk| chunk.get().is_some()).count(), 1);
        }
    }
}

#[cfg(all(test, loom))]
mod concurrency {
    use std::sync::Arc;

    use super::*;
    use crate::sync::explore;

    fn blocks(first: u64, count: u64) -> Extent {
        Extent { offset: first * BLOCK_BYTES_MIN, length: count * BLOCK_BYTES_MIN }
    }

    #[test]
    fn whoever_sees_a_block_present_sees_what_was_done_before() {
        explore(|| {
            let presence = Arc::new(Presence::new(200 * BLOCK_BYTES_MIN));
            // The order must come from the bits, not from the memory that they are in.
            presence.set_present(blocks(0, 1));
            let content = Arc::new(AtomicU64::new(0));
            let writer = loom::thread::spawn({
                let (presence, content) = (presence.clone(), content.clone());
                move || {
                    content.store(1, Ordering::Relaxed);
                    presence.set_present(blocks(63, 2));
                }
            });
            for block in [63, 64] {
                if presence.contains(blocks(block, 1)) {
                    assert_eq!(content.load(Ordering::Relaxed), 1, "block {block}");
                }
            }
            writer.join().expect("no panic");
            assert!(presence.contains(blocks(63, 2)));
        });
    }

    #[test]
    fn bits_of_neighbours_are_never_lost_and_never_taken_back() {
        explore(|| {
            let presence = Arc::new(Presence::new(200 * BLOCK_BYTES_MIN));
            let markers = [0, 1].map(|at| {
                let presence = presence.clone();
                loom::thread::spawn(move || presence.set_present(blocks(62 + at, 2)))
            });
            let seen = presence.contains(blocks(63, 1));
            assert!(!seen || presence.contains(blocks(63, 1)), "it was there before");
            markers.into_iter().for_each(|marker| marker.join().expect("no panic"));
            assert!(presence.contains(blocks(62, 3)));
            assert_eq!(presence.absent(blocks(61, 5)).count(), 2);
        });
    }
}
