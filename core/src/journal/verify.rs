//! Verifies one segment: everything that it says twice must agree.

use super::format::{FOOTER_BYTES, FrameKind, HEADER_BYTES, IndexEntry, NOTES_RECORDS_MAX, Notes};
use super::frame::{Frame, misplaced};
use super::index::last_writers;
use super::{Body, Segment, SegmentKind};
use crate::error::{Error, ErrorKind, Result};
use crate::units::{ChainHash, Sequence, Timestamp};

/// Sums over the records of the data frames.
#[derive(Default)]
struct Totals {
    pieces: Vec<IndexEntry>,
    records: u64,
    data_bytes: u64,
    notes: Notes,
    first: Option<(Sequence, Timestamp)>,
    last: Option<(Sequence, Timestamp)>,
}

pub(super) fn verify(segment: &Segment) -> Result<()> {
    let footer = &segment.footer;
    let mut chain = blake3::Hasher::new();
    chain.update(&segment.source.read(0..HEADER_BYTES as u64)?);
    let mut totals = Totals::default();
    let mut at = HEADER_BYTES as u64;
    for number in 0..footer.frames {
        let (frame, next) =
            segment.opener.read_frame(&*segment.source, at, segment.frame_end(number), number)?;
        if let Some(offset) = segment.frame_offsets.get(number as usize) {
            if frame.header.kind != FrameKind::Data || *offset != at {
                return Err(misplaced(&segment.name(), at, FrameKind::Data, &frame.header));
            }
            totals.add(segment, &frame, at)?;
        }
        chain.update(&frame.head);
        at = next;
    }
    let end = footer.length - FOOTER_BYTES as u64;
    if at != end {
        return Err(differs(segment, "frames up to the footer", end));
    }
    if ChainHash(*chain.finalize().as_bytes()) != footer.chain {
        return Err(differs(segment, "the chain hash of the header and the frame headers", end));
    }
    totals.compare(segment)
}

fn differs(segment: &Segment, expected: &str, at: u64) -> Error {
    Error::new(ErrorKind::Corrupt, "verify segment", segment.name())
        .at(at)
        .expected(expected)
        .found("another")
}

impl Totals {
    fn add(&mut self, segment: &Segment, frame: &Frame, at: u64) -> Result<()> {
        let is_log = segment.params().kind == SegmentKind::Log;
        let mut span: Option<(Sequence, Sequence)> = None;
        for record in frame.records() {
            let record = record?;
            let (sequence, time) = (record.sequence, record.time);
            let least = self.last.map_or(segment.params().first_sequence, |(last, _)| last.next());
            if is_log && sequence < least || sequence > segment.footer.last_sequence {
                return Err(differs(segment, "sequences that grow up to the last one", at));
            }
            let (low, high) = span.unwrap_or((sequence, sequence));
            span = Some((low.min(sequence), high.max(sequence)));
            if self.first.is_none_or(|(first, _)| sequence < first) {
                self.first = Some((sequence, time));
            }
            if self.last.is_none_or(|(last, _)| sequence >= last) {
                self.last = Some((sequence, time));
            }
            self.records += 1;
            if self.notes.records() > NOTES_RECORDS_MAX {
                return Err(differs(segment, "no more marks and order changes than fit", at));
            }
            self.notes.add(&record);
            if let Body::Write { data, .. } = record.body {
                self.data_bytes += data.len() as u64;
            }
        }
        if span != Some((frame.header.first_sequence, frame.header.last_sequence)) {
            return Err(differs(segment, "the lowest and highest sequence of the frame", at));
        }
        frame.collect(|_| true, &mut self.pieces)
    }

    fn compare(self, segment: &Segment) -> Result<()> {
        let (footer, summary) = (&segment.footer, segment.summary());
        let end = footer.length - FOOTER_BYTES as u64;
        if (self.records, self.data_bytes) != (footer.records, footer.data_bytes) {
            return Err(differs(segment, "the number of records and bytes in the frames", end));
        }
        let created = segment.params().created;
        let times = [self.first, self.last].map(|end| end.map_or(created, |(_, time)| time));
        // A merged segment has the times of the records that it replaced.
        if summary.kind == SegmentKind::Log && times != [footer.first_time, footer.last_time] {
            return Err(differs(segment, "the times of the first and last record", end));
        }
        if (&self.notes.marks, &self.notes.order_changes)
            != (&summary.marks, &summary.order_changes)
        {
            return Err(differs(segment, "the marks and order changes", footer.notes_offset));
        }
        if last_writers(self.pieces) != segment.read_index()? {
            return Err(differs(segment, "the index of the records", footer.index_offset));
        }
        Ok(())
    }
}
