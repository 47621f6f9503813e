#![allow(unused, missing_docs, clippy::all, clippy::pedantic)] // stub
use super::*;
use crate::clock::Clock;
use crate::error::Result;
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MergeReport {
    pub segments: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub data_bytes_dropped: u64,
}
/// Folds consecutive segments (oldest first, chained) into one of `kind` (Merged or Image).
pub fn merge<S: SegmentSink>(
    segments: &[&Segment],
    kind: SegmentKind,
    sink: S,
    compression: Compression,
    key: Option<&VolumeKey>,
    clock: &dyn Clock,
) -> Result<(S, SegmentSummary, MergeReport)> {
    todo!()
}
