//! The notes frame of a closed segment: places of its data frames, its marks and its order changes.
//!
//! Opening a segment needs the notes, and neither index nor data.

use super::{
    Descriptor, Footer, HEADER_BYTES, NOTES_RECORDS_MAX, RECORD_BYTES, bad, encode_record, u64_at,
};
use crate::error::Result;
use crate::journal::{Body, MarkEntry, OrderChange, Record};

/// The notes of a segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notes {
    pub frame_offsets: Vec<u64>,
    pub marks: Vec<MarkEntry>,
    pub order_changes: Vec<OrderChange>,
}

impl Notes {
    /// Encodes the content of the notes frame; returns it with the number of records in it.
    pub fn encode(&self) -> (Vec<u8>, u32) {
        let mut raw = Vec::with_capacity(self.frame_offsets.len() * 8 + 64);
        let mut table = Vec::new();
        let marks = self.marks.iter().map(MarkEntry::record);
        for record in marks.chain(self.order_changes.iter().map(OrderChange::record)) {
            encode_record(&record, &mut table, &mut raw);
        }
        for offset in &self.frame_offsets {
            raw.extend_from_slice(&offset.to_le_bytes());
        }
        raw.extend_from_slice(&table);
        (raw, self.records())
    }

    /// Counts marks and order changes.
    pub fn records(&self) -> u32 {
        (self.marks.len() + self.order_changes.len()) as u32
    }

    /// Decodes the notes frame, which has `count` records, of the segment that ends with `footer`.
    pub fn decode(raw: &[u8], count: u32, footer: &Footer, name: &str) -> Result<Self> {
        let at = footer.notes_offset;
        let table_bytes = count as usize * RECORD_BYTES;
        let offset_bytes = footer.data_frames as usize * 8;
        let data_bytes = raw.len().checked_sub(table_bytes + offset_bytes);
        let Some(data_bytes) = data_bytes.filter(|_| count <= NOTES_RECORDS_MAX) else {
            return Err(bad(name, at)
                .expected(format_args!(
                    "notes of {} data frames and {count} records (at most {NOTES_RECORDS_MAX})",
                    footer.data_frames
                ))
                .found(format_args!("{} bytes", raw.len())));
        };
        let (data, rest) = raw.split_at(data_bytes);
        let (offsets, table) = rest.split_at(offset_bytes);
        let mut notes =
            Self { frame_offsets: decode_offsets(offsets, footer, name)?, ..Self::default() };
        let mut data_at = 0;
        for bytes in table.chunks_exact(RECORD_BYTES) {
            // Marks and order changes have no extent, so the size of the volume is irrelevant.
            let descriptor = Descriptor::decode(bytes, 0, name, at)?;
            let end = data_at + descriptor.data_bytes as usize;
            let data = data.get(data_at..end).ok_or_else(|| {
                bad(name, at).expected("data within the notes").found(format_args!("end {end}"))
            })?;
            data_at = end;
            if !notes.add(&descriptor.record(data, name, at)?) {
                return Err(bad(name, at)
                    .expected("marks and order changes")
                    .found("a record of another kind"));
            }
        }
        notes.check_order(footer, name)?;
        Ok(notes)
    }

    /// Adds a mark or an order change; returns false for any other record.
    pub fn add(&mut self, record: &Record<'_>) -> bool {
        let (sequence, time) = (record.sequence, record.time);
        let begin = match &record.body {
            Body::Mark(mark) => {
                self.marks.push(MarkEntry { sequence, time, mark: mark.clone() });
                return true;
            }
            Body::UnorderedBegin(cause) => Some(*cause),
            Body::UnorderedEnd => None,
            _ => return false,
        };
        self.order_changes.push(OrderChange { sequence, time, begin });
        true
    }

    fn check_order(&self, footer: &Footer, name: &str) -> Result<()> {
        let last = footer.last_sequence;
        let marks_rise = self.marks.is_sorted_by(|a, b| a.sequence < b.sequence);
        let changes_rise = self.order_changes.is_sorted_by(|a, b| a.sequence < b.sequence);
        let within = self.marks.last().is_none_or(|mark| mark.sequence <= last)
            && self.order_changes.last().is_none_or(|change| change.sequence <= last);
        if marks_rise && changes_rise && within {
            return Ok(());
        }
        Err(bad(name, footer.notes_offset)
            .expected(format_args!("marks and order changes by sequence, none above {last}"))
            .found("others"))
    }
}

/// Decodes the offsets of the data frames. They rise from the end of the header up to the index.
fn decode_offsets(bytes: &[u8], footer: &Footer, name: &str) -> Result<Vec<u64>> {
    let offsets: Vec<u64> = bytes.chunks_exact(8).map(|chunk| u64_at(chunk, 0..8)).collect();
    let first = offsets.first().copied().unwrap_or(footer.index_offset);
    let last = offsets.last().copied().unwrap_or_default();
    let rising = offsets.is_sorted_by(|a, b| a < b);
    if first == HEADER_BYTES as u64 && rising && last < footer.index_offset {
        return Ok(offsets);
    }
    Err(bad(name, footer.notes_offset)
        .expected(format_args!(
            "data frames from {HEADER_BYTES} up to the index at {}",
            footer.index_offset
        ))
        .found(format_args!("{} frames from {first} to {last}", offsets.len())))
}
