//! Writes one segment.
#![allow(unused, missing_docs, clippy::all, clippy::pedantic)] // stub
use super::{Record, SegmentParams, SegmentSummary, VolumeKey};
use crate::clock::Clock;
use crate::error::Result;

/// Where a segment's bytes go: append-only, synced by `sync`.
pub trait SegmentSink {
    fn append(&mut self, bytes: &[u8]) -> Result<()>;
    fn sync(&mut self) -> Result<()>;
}
/// A sink on a new local file.
pub struct FileSink {}
impl FileSink {
    /// Creates the file; `AlreadyExists` when there is one.
    pub fn create(path: &std::path::Path) -> Result<Self> {
        todo!()
    }
}
impl SegmentSink for FileSink {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        todo!()
    }
    fn sync(&mut self) -> Result<()> {
        todo!()
    }
}
impl SegmentSink for Vec<u8> {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        todo!()
    }
    fn sync(&mut self) -> Result<()> {
        todo!()
    }
}

pub struct SegmentWriter<S: SegmentSink> {
    sink: S,
}
impl<S: SegmentSink> SegmentWriter<S> {
    pub fn create(
        sink: S,
        params: SegmentParams,
        key: Option<&VolumeKey>,
        clock: &dyn Clock,
    ) -> Result<Self> {
        todo!()
    }
    /// Adds a record; its sequence must be above the last one (a Log), its offset not below (Merged, Image).
    pub fn append(&mut self, record: &Record<'_>) -> Result<()> {
        todo!()
    }
    /// Writes the open frame to the sink, if it has records.
    pub fn flush_frame(&mut self) -> Result<()> {
        todo!()
    }
    /// `flush_frame`, then makes everything durable (a reader of a torn file then finds it).
    pub fn sync(&mut self) -> Result<()> {
        todo!()
    }
    /// Bytes given to the sink and waiting in the open frame.
    pub fn bytes(&self) -> u64 {
        todo!()
    }
    pub fn records(&self) -> u64 {
        todo!()
    }
    /// Writes index and footer, syncs, and returns sink and summary. `last_sequence` of a Log is its last record's;
    /// a merged segment or image takes it from the argument.
    pub fn seal(self, last_sequence: Option<crate::Sequence>) -> Result<(S, SegmentSummary)> {
        todo!()
    }
}
