//! Verification: everything that a catalog lists is read and checked. Findings are collected, so
//! that one bad object does not hide another.

use std::collections::HashSet;

use super::{Progress, Replica};
use crate::error::{Error, ErrorKind, Result};
use crate::journal::SegmentKind;
use crate::vault::{Catalog, layout};

/// An object that differs from what was written.
#[derive(Debug)]
pub struct Finding {
    /// Name of the object.
    pub object: String,
    /// What is wrong with it.
    pub error: Error,
}

/// Result of a verification.
#[derive(Debug, Default)]
pub struct VerifyReport {
    /// Segments checked.
    pub segments: u64,
    /// Bytes checked.
    pub bytes: u64,
    /// Recovery points that the catalog offers.
    pub points: u64,
    /// The damage found; empty if the replica is sound.
    pub findings: Vec<Finding>,
    /// Objects that the catalog does not list, not even for deletion. They were put without a
    /// catalog version that followed. They do no harm, and retention removes them in time.
    pub strays: Vec<String>,
    /// Markers that are ignored because nothing proves them, each with the reason, and gates of a
    /// mirror.
    pub notes: Vec<String>,
}

impl VerifyReport {
    /// Returns whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }
}

impl Replica {
    /// Checks everything that the catalog lists.
    pub fn verify(&self, progress: Progress<'_>) -> Result<VerifyReport> {
        let catalog = &self.catalog;
        let entries: Vec<_> = catalog.published().collect();
        // A catalog may claim any sizes.
        let total = entries
            .iter()
            .fold(0_u64, |total, entry| total.saturating_add(entry.summary.stored_bytes));
        let mut report =
            VerifyReport { points: self.points().len() as u64, ..VerifyReport::default() };
        let newest = self.keys().newest().map(|key| key.id());
        let (mut previous, mut earlier_keys) = (None, 0_u64);
        for (at, entry) in entries.iter().enumerate() {
            if begins_branch(catalog, at) {
                previous = None;
            }
            let object = &entry.object;
            let mut check = || -> Result<()> {
                if let Some(chain) = previous.filter(|chain| *chain != entry.summary.previous) {
                    return Err(Error::new(ErrorKind::Corrupt, "verify chain at", object)
                        .expected(format_args!("a segment after {chain}"))
                        .found(format_args!("one after {}", entry.summary.previous)));
                }
                let segment = self.open_segment(object)?;
                let mut found = segment.summary().clone();
                if found.kind != SegmentKind::Log {
                    found.chain = entry.summary.chain;
                }
                if found != entry.summary {
                    return Err(Error::new(ErrorKind::Corrupt, "verify", object)
                        .expected("the segment that the catalog describes")
                        .found("another"));
                }
                // It opened, so its key is one of the volume's.
                if segment.key_id().is_some() != newest.is_some() {
                    return Err(Error::new(ErrorKind::Corrupt, "verify", object)
                        .expected("an encrypted segment if the volume is encrypted")
                        .found("another"));
                }
                earlier_keys += u64::from(segment.key_id() != newest);
                segment.verify()
            };
            if let Err(error) = check() {
                report.findings.push(Finding { object: object.clone(), error });
            }
            previous = Some(entry.summary.chain);
            report.segments += 1;
            report.bytes = report.bytes.saturating_add(entry.summary.stored_bytes);
            if !progress(report.bytes, total) {
                return Err(Error::new(ErrorKind::Unavailable, "verify", &self.info().name)
                    .message("it was cancelled"));
            }
        }
        let published: HashSet<_> = entries.iter().map(|entry| &entry.object).collect();
        let retired = catalog.retired();
        for info in self.store().list(&layout::segments_prefix(&self.info().name))? {
            if !published.contains(&info.name) && !retired.contains_key(&info.name) {
                report.strays.push(info.name);
            }
        }
        report.notes = self.notes()?;
        let note = || format!("{earlier_keys} segments are encrypted with earlier volume keys");
        report.notes.extend((earlier_keys > 0).then(note));
        Ok(report)
    }

    /// Returns what a reader ignores, each with the reason: markers that nothing proves, and gates of
    /// a mirror. One request.
    pub fn notes(&self) -> Result<Vec<String>> {
        let mut notes = self.catalog.gate_notes();
        let mark = layout::shredded(&self.info().name);
        if self.store().head(&mark)?.is_some() {
            notes.push(format!("{mark}: it is ignored: the volume can be read"));
        }
        Ok(notes)
    }
}

/// Returns whether the entry at this place, among all that are listed, is the first of a branch.
fn begins_branch(catalog: &Catalog, at: usize) -> bool {
    let mut begin = catalog.segments().len();
    catalog.branches().iter().any(|branch| {
        let first = begin == at;
        begin += branch.segments.len();
        first
    })
}
