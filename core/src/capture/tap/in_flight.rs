//! The set of changes in flight: their extents, and the wakers that wait for each.

use std::task::Waker;

use crate::extent::Extent;

pub(super) struct InFlight {
    start: u64,
    end: u64,
    pub waiters: Vec<Waker>,
}

/// Extents that are being changed: disjoint, sorted by offset. An array, because there are tens of
/// them, and moving some costs less than the allocations of a tree.
#[derive(Default)]
pub(super) struct InFlightSet(Vec<InFlight>);

impl InFlightSet {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes the wakers that wait for any extent.
    pub fn take_waiters(&mut self) -> Vec<Waker> {
        self.0.iter_mut().flat_map(|busy| std::mem::take(&mut busy.waiters)).collect()
    }

    /// Returns the position of the first extent that ends after `offset`.
    #[inline]
    fn first_ending_after(&self, offset: u64) -> usize {
        self.0.partition_point(|busy| busy.end <= offset)
    }

    /// Returns the first one that overlaps `extent`.
    #[inline]
    pub fn overlapping(&mut self, extent: Extent) -> Option<&mut InFlight> {
        let at = self.first_ending_after(extent.offset);
        self.0.get_mut(at).filter(|busy| busy.start < extent.end())
    }

    pub fn overlaps(&self, extent: Extent) -> bool {
        let first = self.0.get(self.first_ending_after(extent.offset));
        first.is_some_and(|busy| busy.start < extent.end())
    }

    /// Returns whether exactly this extent is in the set.
    #[inline]
    pub fn contains(&self, extent: Extent) -> bool {
        let first = self.0.get(self.first_ending_after(extent.offset));
        first.is_some_and(|busy| (busy.start, busy.end) == (extent.offset, extent.end()))
    }

    /// Adds an extent that overlaps none.
    #[inline]
    pub fn insert(&mut self, extent: Extent) {
        let at = self.first_ending_after(extent.offset);
        let is_free = |busy: &InFlight| busy.start >= extent.end();
        assert!(self.0.get(at).is_none_or(is_free), "changes in flight are disjoint");
        let busy = InFlight { start: extent.offset, end: extent.end(), waiters: Vec::new() };
        self.0.insert(at, busy);
    }

    /// Removes exactly this extent and returns the wakers that wait for it; `None` if it is not
    /// there.
    #[inline]
    pub fn remove(&mut self, extent: Extent) -> Option<Vec<Waker>> {
        let at = self.first_ending_after(extent.offset);
        let busy = self.0.get(at)?;
        let found = (busy.start, busy.end) == (extent.offset, extent.end());
        found.then(|| self.0.remove(at).waiters)
    }
}
