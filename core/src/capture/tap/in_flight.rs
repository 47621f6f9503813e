//! The changes in flight: which bytes of the volume they have, and who waits for them.

use std::task::Waker;

use crate::extent::Extent;

pub(super) struct InFlight {
    start: u64,
    end: u64,
    pub waiters: Vec<Waker>,
}

/// Extents being changed: disjoint, sorted by offset. A plain array: there are tens of them, so moving some costs less
/// than the allocations of a tree.
#[derive(Default)]
pub(super) struct InFlightSet(Vec<InFlight>);

impl InFlightSet {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All those that wait, for whichever.
    pub fn take_waiters(&mut self) -> Vec<Waker> {
        self.0.iter_mut().flat_map(|busy| std::mem::take(&mut busy.waiters)).collect()
    }

    /// Position of the first one that ends after `offset`.
    fn first_ending_after(&self, offset: u64) -> usize {
        self.0.partition_point(|busy| busy.end <= offset)
    }

    /// The first one that overlaps `extent`.
    pub fn overlapping(&mut self, extent: Extent) -> Option<&mut InFlight> {
        let at = self.first_ending_after(extent.offset);
        self.0.get_mut(at).filter(|busy| busy.start < extent.end())
    }

    pub fn overlaps(&self, extent: Extent) -> bool {
        let first = self.0.get(self.first_ending_after(extent.offset));
        first.is_some_and(|busy| busy.start < extent.end())
    }

    /// Exactly this extent is in it.
    pub fn holds(&self, extent: Extent) -> bool {
        let first = self.0.get(self.first_ending_after(extent.offset));
        first.is_some_and(|busy| (busy.start, busy.end) == (extent.offset, extent.end()))
    }

    /// Adds an extent that overlaps none.
    pub fn insert(&mut self, extent: Extent) {
        let at = self.first_ending_after(extent.offset);
        let busy = InFlight { start: extent.offset, end: extent.end(), waiters: Vec::new() };
        self.0.insert(at, busy);
    }

    /// Takes the extent that starts at `offset` out; those that wait for it.
    pub fn remove(&mut self, offset: u64) -> Option<Vec<Waker>> {
        let at = self.first_ending_after(offset);
        let found = self.0.get(at).is_some_and(|busy| busy.start == offset);
        found.then(|| self.0.remove(at).waiters)
    }
}
