#![allow(unused, missing_docs, clippy::all, clippy::pedantic)] // stub
use super::*;
use crate::clock::Clock;
use crate::error::Result;
use std::path::Path;
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepairReport {
    pub frames_kept: u64,
    pub records_kept: u64,
    pub bytes_dropped: u64,
    pub last_sequence: Option<Sequence>,
}
/// Reads a torn segment up to its last whole frame and writes those records to a new, sealed segment (new salt) in `sink`.
/// Returns None for the summary when no record is whole. The torn file is not changed. A sealed, sound segment is copied
/// as it is (report says nothing dropped), so that repair can run twice.
pub fn repair<S: SegmentSink>(
    torn: &Path,
    sink: S,
    keys: &KeyRing,
    clock: &dyn Clock,
) -> Result<(S, Option<SegmentSummary>, RepairReport)> {
    todo!()
}
