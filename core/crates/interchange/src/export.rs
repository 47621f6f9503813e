//! What exports into all formats share.

use std::path::PathBuf;

use hrl::Extent;
use hrl::journal::RECORD_DATA_BYTES_MAX;

/// What an export wrote, and what the format could not carry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExportReport {
    /// The logs of the chain, first to last.
    pub logs: Vec<PathBuf>,
    /// Writes in them.
    pub writes: u64,
    /// Bytes of data in them.
    pub bytes: u64,
    /// One sentence for each thing that was not carried, or was carried as something else.
    pub warnings: Vec<String>,
}

/// Cuts an extent into chunks that each fit a record.
pub(crate) fn chunks(extent: Extent) -> impl Iterator<Item = Extent> {
    (extent.offset..extent.end()).step_by(RECORD_DATA_BYTES_MAX).map(move |at| {
        let length = (extent.end() - at).min(RECORD_DATA_BYTES_MAX as u64);
        Extent { offset: at, length }
    })
}
