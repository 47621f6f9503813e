#![allow(unused, missing_docs, clippy::all, clippy::pedantic)] // stub
use crate::Sequence;
use crate::error::Result;
use crate::event::Cause;
use crate::journal::{SegmentSummary, VolumeKey};
use crate::store::Store;
use crate::units::*;
use std::sync::Arc;
/// Who writes the volume: drawn at random per state directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceIdentity {
    pub id: [u8; 16],
    pub host: String,
    pub since: Timestamp,
}
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentEntry {
    /** full object name */
    pub object: String,
    pub summary: SegmentSummary,
}
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CatalogEdit {
    /** A source took the volume. Any later edit by another source is refused for it. */
    Source(SourceIdentity),
    Segments(Vec<SegmentEntry>),
    /** compaction: the new one replaces these objects */
    Replace {
        with: Vec<SegmentEntry>,
        objects: Vec<String>,
    },
}
/// One stretch of the timeline: ordered, or not and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimelineEntry {
    pub from: Sequence,
    pub to: Sequence,
    pub from_time: Timestamp,
    pub to_time: Timestamp,
    pub unordered: Option<Cause>,
}
/// State of a volume's catalog at one version, and the way to append the next.
#[derive(Clone)]
pub struct Catalog {}
impl Catalog {
    /// Reads the newest version.
    pub fn load(store: &Arc<dyn Store>, volume: &str, key: Option<&VolumeKey>) -> Result<Self> {
        todo!()
    }
    pub fn version(&self) -> u64 {
        todo!()
    }
    pub fn segments(&self) -> &[SegmentEntry] {
        todo!()
    }
    pub fn source(&self) -> Option<&SourceIdentity> {
        todo!()
    }
    /// Writes the next version by put-if-absent and applies the edits here. `Fenced` when another writer took that version and it
    /// belongs to another source; retried by itself when it was a compaction.
    pub fn append(&mut self, source: &SourceIdentity, edits: Vec<CatalogEdit>) -> Result<()> {
        todo!()
    }
}
