//! Ranges of a disk.

use crate::value::mirror;

mirror! {
    /// A range of a disk. It unpacks as `offset, length`.
    unpacking Extent(extent: hrl::Extent) {
        /// First byte.
        offset: u64,
        /// Number of bytes.
        length: u64,
    }
}

mirror! {
    /// A changed range. It unpacks as `offset, length, zero`.
    unpacking ChangedRun(run: hrl::replica::ChangeRun) {
        /// First byte.
        offset: u64 = run.extent.offset,
        /// Number of bytes.
        length: u64 = run.extent.length,
        /// Whether the range reads as zeroes in the later state.
        zero: bool,
    }
}
