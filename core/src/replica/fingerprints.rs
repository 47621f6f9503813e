//! What a view holds in some extents, as a hash for each block: enough to tell whether a disk holds the same.
//!
//! A view read by offset decodes a frame again and again where writes were random. Here the view is gone through by its
//! frames, so that each is decoded once, and what is kept of a block is 16 bytes.

use super::is_zero;
use super::restore::{Job, each_job, jobs};
use super::view::View;
use crate::device::BlockDevice;
use crate::error::Result;
use crate::extent::Extent;
use crate::sync::lock::Mutex;

/// Blocks of this size are compared, at multiples of it; the last of a volume may be shorter.
pub(crate) const COMPARED_BYTES: usize = 4096;

/// What is known of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Print {
    /// Nobody wrote it: zeroes.
    Absent,
    /// The first bytes of its BLAKE3 hash.
    Hash([u8; 16]),
    /// Parts of it come from several records: the view is to be read.
    Mixed,
}

/// Fingerprints of the blocks of some extents of a view.
pub(crate) struct Fingerprints {
    /// Sorted; each begins and ends at a block.
    extents: Vec<Extent>,
    /// Of the blocks of `extents`, one extent after the other.
    prints: Vec<Print>,
    /// Where the blocks of each extent begin in `prints`.
    starts: Vec<usize>,
}

impl Fingerprints {
    /// Takes the fingerprints of `extents`, which are sorted and disjoint, and begin at multiples of [`COMPARED_BYTES`].
    /// `None` when `go_on` said no. 17 bytes of memory for each block.
    pub fn take(
        view: &View,
        extents: Vec<Extent>,
        go_on: &(dyn Fn() -> bool + Sync),
    ) -> Result<Option<Self>> {
        let mut starts = Vec::with_capacity(extents.len());
        let mut blocks = 0;
        for extent in &extents {
            debug_assert!(extent.offset.is_multiple_of(COMPARED_BYTES as u64));
            starts.push(blocks);
            blocks += extent.length.div_ceil(COMPARED_BYTES as u64) as usize;
        }
        let jobs = jobs(extents.iter().flat_map(|extent| view.within(*extent)).collect());
        let mut taken = Self { extents, prints: vec![Print::Absent; blocks], starts };
        let prints = Mutex::new(std::mem::take(&mut taken.prints));
        let whole = each_job(view, &jobs, |job| {
            let found = taken.prints_of(view, job)?;
            let mut prints = prints.lock();
            found.into_iter().for_each(|(number, print)| prints[number] = print);
            Ok(go_on())
        })?;
        taken.prints = prints.into_inner();
        Ok(whole.then_some(taken))
    }

    /// The blocks that the records of one frame reach. A block is either covered by one piece, or mixed for each that
    /// reaches it.
    fn prints_of(&self, view: &View, job: &Job) -> Result<Vec<(usize, Print)>> {
        let Some(first) = job.pieces.first() else { return Ok(Vec::new()) };
        let frame = view.decode(first)?;
        let mut found = Vec::new();
        for piece in &job.pieces {
            let data = View::data_of(&frame, piece)?;
            let Some(at) = self.extent_with(piece.extent.offset) else { continue };
            let (within, block_bytes) = (self.extents[at], COMPARED_BYTES as u64);
            let mut offset = piece.extent.offset - piece.extent.offset % block_bytes;
            while offset < piece.extent.end() {
                let block = Extent { offset, length: block_bytes }.intersection(within);
                let print = if piece.extent.contains(block) {
                    let start = (block.offset - piece.extent.offset) as usize;
                    print_of(&data[start..start + block.length as usize])
                } else {
                    Print::Mixed
                };
                found.push((self.starts[at] + self.block_in(at, offset), print));
                offset += block_bytes;
            }
        }
        Ok(found)
    }

    fn extent_with(&self, offset: u64) -> Option<usize> {
        let at = self.extents.partition_point(|extent| extent.end() <= offset);
        self.extents.get(at).filter(|extent| extent.offset <= offset).map(|_| at)
    }

    fn block_in(&self, extent: usize, offset: u64) -> usize {
        ((offset - self.extents[extent].offset) / COMPARED_BYTES as u64) as usize
    }

    /// Every block of `extent` is among them.
    pub fn cover(&self, extent: Extent) -> bool {
        self.extent_with(extent.offset).is_some_and(|at| self.extents[at].contains(extent))
    }

    /// For each block of `extent`, which they cover: whether `found`, which a disk holds there, is what the view holds.
    pub fn compare(&self, view: &View, extent: Extent, found: &[u8]) -> Result<Vec<bool>> {
        let at = self.extent_with(extent.offset).expect("they cover it");
        let first = self.starts[at] + self.block_in(at, extent.offset);
        let mut expected = [0; COMPARED_BYTES];
        found
            .chunks(COMPARED_BYTES)
            .enumerate()
            .map(|(number, block)| match self.prints[first + number] {
                Print::Absent => Ok(is_zero(block)),
                Print::Mixed => {
                    let expected = &mut expected[..block.len()];
                    view.read(extent.offset + (number * COMPARED_BYTES) as u64, expected)?;
                    Ok(block == expected)
                }
                known @ Print::Hash(_) => Ok(print_of(block) == known),
            })
            .collect()
    }
}

fn print_of(block: &[u8]) -> Print {
    let hash = blake3::hash(block);
    Print::Hash(*hash.as_bytes().first_chunk().expect("a hash has 32 bytes"))
}
