//! Hashes of a view's blocks, to find out whether a disk has the same content.
//!
//! A view that is read by offset decodes a frame again and again if writes were random. Here the
//! view is read by its frames, so that each is decoded once; a block takes 16 bytes of memory.

use super::is_zero;
use super::restore::{Job, each_job, jobs};
use super::view::View;
use crate::device::BlockDevice;
use crate::error::Result;
use crate::extent::Extent;
use crate::sync::lock::Mutex;

/// Size of a compared block. Blocks begin at its multiples; the last of a volume may be shorter.
pub(crate) const COMPARED_BYTES: usize = 4096;

/// What is known of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Print {
    /// Nobody wrote it: zeroes.
    Absent,
    /// The first bytes of its BLAKE3 hash.
    Hash([u8; 16]),
    /// Parts of it come from several records: the view must be read.
    Mixed,
}

/// Fingerprints of the blocks of some extents of a view.
pub(crate) struct Fingerprints {
    /// Sorted; each begins and ends at the border of a block.
    extents: Vec<Extent>,
    /// One for each block of `extents`, one extent after the other.
    prints: Vec<Print>,
    /// Index in `prints` of each extent's first block.
    starts: Vec<usize>,
}

impl Fingerprints {
    /// Takes the fingerprints of `extents`, which are sorted and disjoint, and begin at multiples
    /// of [`COMPARED_BYTES`]. `None` if `go_on` returned false. Takes 17 bytes of memory for each
    /// block.
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

    /// Returns prints of the blocks that the records of one frame reach. A block that one mapping
    /// does not cover is mixed.
    fn prints_of(&self, view: &View, job: &Job) -> Result<Vec<(usize, Print)>> {
        let Some(first) = job.mappings.first() else { return Ok(Vec::new()) };
        let frame = view.decode(first)?;
        let mut found = Vec::new();
        for mapping in &job.mappings {
            let data = View::data_of(&frame, mapping)?;
            let Some(at) = self.extent_with(mapping.extent.offset) else { continue };
            let (within, block_bytes) = (self.extents[at], COMPARED_BYTES as u64);
            let mut offset = mapping.extent.offset - mapping.extent.offset % block_bytes;
            while offset < mapping.extent.end() {
                let block = Extent { offset, length: block_bytes }.intersection(within);
                let print = if mapping.extent.contains(block) {
                    let start = (block.offset - mapping.extent.offset) as usize;
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

    /// Returns whether every block of `extent` has a fingerprint.
    pub fn cover(&self, extent: Extent) -> bool {
        self.extent_with(extent.offset).is_some_and(|at| self.extents[at].contains(extent))
    }

    /// Compares `found`, the content of a disk at `extent`, with the view. Returns for each block
    /// whether it is the same.
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
