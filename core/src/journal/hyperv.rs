#![allow(unused, missing_docs, clippy::all, clippy::pedantic)] // stub
use super::*;
use crate::clock::Clock;
use crate::error::Result;
use std::path::{Path, PathBuf};
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HypervHeader {
    pub unique_id: [u8; 16],
    pub previous_unique_id: [u8; 16],
}
pub struct HypervLog;
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExportReport {
    pub logs: Vec<PathBuf>,
    pub writes: u64,
    pub bytes: u64,
    pub notes: Vec<String>,
}
pub fn export_hyperv(
    segments: &[&Segment],
    directory: &Path,
    clock: &dyn Clock,
) -> Result<ExportReport> {
    todo!()
}
pub fn import_hyperv<S: SegmentSink>(
    logs: &[&HypervLog],
    params: SegmentParams,
    sink: S,
    key: Option<&VolumeKey>,
    clock: &dyn Clock,
) -> Result<(S, SegmentSummary)> {
    todo!()
}
