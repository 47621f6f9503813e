//! Reads segments; never writes.
#![allow(unused, missing_docs, clippy::all, clippy::pedantic)] // stub
use super::{KeyRing, Record, SegmentParams, SegmentSummary, hyperv::HypervLog};
use crate::error::Result;
use crate::store::Store;
use crate::{Extent, Sequence};
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

/// Random access to a segment's bytes.
pub trait SegmentSource: Send + Sync {
    fn name(&self) -> String;
    fn length(&self) -> u64;
    fn read(&self, range: Range<u64>) -> Result<Cow<'_, [u8]>>;
}
pub struct BytesSource;
impl BytesSource {
    pub fn new(name: impl Into<String>, bytes: Vec<u8>) -> Self {
        todo!()
    }
}
impl SegmentSource for BytesSource {
    fn name(&self) -> String {
        todo!()
    }
    fn length(&self) -> u64 {
        todo!()
    }
    fn read(&self, range: Range<u64>) -> Result<Cow<'_, [u8]>> {
        todo!()
    }
}
pub struct ObjectSource;
/// An object of a store, read by ranges (memory-mapped when the store has a local path for it).
impl ObjectSource {
    pub fn open(store: &Arc<dyn Store>, name: &str) -> Result<Box<dyn SegmentSource>> {
        todo!()
    }
}
pub fn open_mapped(path: &std::path::Path) -> Result<Box<dyn SegmentSource>> {
    todo!()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexKind {
    Data,
    Zero,
    Undefined,
    Touch,
}
/// Last writer of an extent within one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    pub extent: Extent,
    pub kind: IndexKind,
    pub sequence: Sequence,
    pub frame: u32,
    /** Offset in the frame's data area. */
    pub data_offset: u32,
}

/// A sealed segment, checked at open: header, footer, index; frames are checked when they are read.
pub struct Segment;
impl Segment {
    pub fn open(source: Box<dyn SegmentSource>, keys: &KeyRing) -> Result<Self> {
        todo!()
    }
    pub fn name(&self) -> String {
        todo!()
    }
    pub fn params(&self) -> &SegmentParams {
        todo!()
    }
    pub fn summary(&self) -> &SegmentSummary {
        todo!()
    }
    /// By offset, disjoint. Decoded on the first call, then kept until `forget_index`.
    pub fn index(&self) -> Result<Arc<[IndexEntry]>> {
        todo!()
    }
    /// The index as of `sequence` (records after it left out), made from the record tables.
    pub fn index_at(&self, sequence: Sequence) -> Result<Vec<IndexEntry>> {
        todo!()
    }
    pub fn frame_count(&self) -> u32 {
        todo!()
    }
    /// Reads, checks, opens and decompresses a frame.
    pub fn frame(&self, number: u32) -> Result<Frame> {
        todo!()
    }
    /// Reads every frame and checks everything there is to check, the chain hash included.
    pub fn verify(&self) -> Result<()> {
        todo!()
    }
}
/// A decoded frame.
pub struct Frame;
impl Frame {
    pub fn records(&self) -> impl Iterator<Item = Result<Record<'_>>> + '_ {
        std::iter::empty()
    }
    /// The data area.
    pub fn data(&self) -> &[u8] {
        todo!()
    }
    pub fn memory_bytes(&self) -> usize {
        todo!()
    }
}
/// Any journal file: native or Hyper-V.
pub enum Journal {
    Native(Segment),
    Hyperv(HypervLog),
}
impl Journal {
    pub fn open(path: &std::path::Path, keys: &KeyRing) -> Result<Self> {
        todo!()
    }
}
