//! Repairs torn segments: copies what a crash left into a closed segment.
//!
//! Repair reads the torn file up to its last whole frame, and never changes it. The records go into
//! a *new* segment with a salt of its own: appending to the torn one could repeat a nonce under its
//! key. Repair can run twice: of a closed, sound segment it copies every record.

use std::path::Path;

use super::format::FrameKind;
use super::frame::{Frame, Opener};
use super::reader::params_of;
use super::source::{SegmentSource, open_mapped};
use super::{KeyRing, Record, SegmentKind, SegmentSink, SegmentSummary, SegmentWriter};
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::units::Sequence;

/// What repair found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RepairReport {
    /// Whole data frames.
    pub frames_kept: u64,
    /// Records in them.
    pub records_kept: u64,
    /// Bytes after the last whole frame.
    pub bytes_dropped: u64,
    /// Sequence of the last record kept.
    pub last_sequence: Option<Sequence>,
}

/// Writes the whole frames of the torn segment at `torn` to `sink`, as a closed segment.
///
/// Without a whole record the summary is `None`, and the sink is unchanged or contains a header.
/// `WrongKey` if the torn segment cannot be opened, `InvalidInput` if it is no log; else the errors
/// of the new segment.
///
/// A damaged frame ends the journal, as a cut does. Compare `last_sequence` with what was known to
/// be durable, and resync if it is lower.
pub fn repair<S: SegmentSink>(
    torn: &Path,
    sink: S,
    keys: &KeyRing,
    clock: &dyn Clock,
) -> Result<(S, Option<SegmentSummary>, RepairReport)> {
    repair_source(&*open_mapped(torn)?, sink, keys, clock)
}

/// Repairs a torn segment that was opened, as [`repair`] does.
pub(crate) fn repair_source<S: SegmentSink>(
    source: &dyn SegmentSource,
    sink: S,
    keys: &KeyRing,
    clock: &dyn Clock,
) -> Result<(S, Option<SegmentSummary>, RepairReport)> {
    let mut report = RepairReport { bytes_dropped: source.length(), ..RepairReport::default() };
    let (opener, header) = match Opener::open(source, keys) {
        Ok(opened) => opened,
        Err(error) if error.kind() == ErrorKind::Corrupt => return Ok((sink, None, report)),
        Err(error) => return Err(error),
    };
    if header.kind != SegmentKind::Log {
        return Err(Error::new(ErrorKind::InvalidInput, "repair", source.name())
            .message("a merged segment or an image is valid as a whole only: make it again")
            .expected("a log")
            .found(format_args!("{:?}", header.kind)));
    }
    let key = opener.key_id.and_then(|id| keys.find(id));
    let mut at = super::format::HEADER_BYTES as u64;
    report.bytes_dropped = source.length().saturating_sub(at);
    let mut writer: Option<SegmentWriter<S>> = None;
    let mut sink = Some(sink);
    let mut number = 0;
    while let Ok((frame, next)) = opener.read_frame(source, at, None, number) {
        if frame.header.kind != FrameKind::Data {
            report.bytes_dropped = 0;
            break;
        }
        let least = report.last_sequence.map_or(header.first_sequence, Sequence::next);
        let Some(records) = whole_records(&frame, least) else { break };
        for record in records {
            if writer.is_none() {
                let sink = sink.take().expect("the sink is taken once");
                writer =
                    Some(SegmentWriter::create(sink, params_of(&header), key.as_ref(), clock)?);
            }
            if let Some(writer) = &mut writer {
                writer.append(&record)?;
            }
            report.records_kept += 1;
            report.last_sequence = Some(record.sequence);
        }
        report.frames_kept += 1;
        at = next;
        number += 1;
        report.bytes_dropped = source.length().saturating_sub(at);
    }
    match writer {
        Some(writer) => {
            let (sink, summary) = writer.close(None)?;
            Ok((sink, Some(summary), report))
        }
        None => Ok((sink.expect("not taken without a record"), None, report)),
    }
}

/// Returns the records of a frame, if all of them are sound and their sequences grow from `least`
/// on.
fn whole_records(frame: &Frame, mut least: Sequence) -> Option<Vec<Record<'_>>> {
    let records = frame.records().map(|record| {
        let record = record.ok().filter(|record| record.sequence >= least)?;
        least = record.sequence.next();
        Some(record)
    });
    records.collect()
}
