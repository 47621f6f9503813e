#![allow(unused, missing_docs, clippy::all, clippy::pedantic)] // stub
use crate::error::Result;
use crate::{Extent, ExtentSet, Sequence};
use std::path::Path;
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangeRun {
    pub extent: Extent,
    /** reads as zeroes at `to` without data */
    pub zero: bool,
}
/// The exact extents that differ in history between two states (written after `from`, up to `to`).
pub struct ChangeSet {}
impl ChangeSet {
    pub fn from(&self) -> Sequence {
        todo!()
    }
    pub fn to(&self) -> Sequence {
        todo!()
    }
    pub fn extents(&self) -> &ExtentSet {
        todo!()
    }
    pub fn runs(&self) -> impl Iterator<Item = ChangeRun> + '_ {
        std::iter::empty()
    }
    /// Writes the changed bytes into a sparse file of the volume's size at their own offsets. `Unsupported` for an extents-only volume.
    pub fn write_to_file(&self, path: &Path) -> Result<u64> {
        todo!()
    }
}
