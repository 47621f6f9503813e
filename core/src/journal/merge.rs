//! Merges consecutive segments into one, in disk order, without what was overwritten.
//!
//! The result stands for its inputs as a whole: it has the recovery state at their last sequence
//! and none before. Each block keeps the sequence and time of its last write, so that change sets
//! that begin before the inputs stay exact. Of the marks only one at the very last sequence is
//! kept, because no other can be restored. Begins and ends of unordered intervals are kept for the
//! timeline. The result takes the place of its inputs in the chain: it has the chain hash before
//! its first and that of its last input.
//!
//! Memory: the indexes of the inputs, one frame, and `WINDOW_BYTES` of data. A frame is decoded
//! once for each window of the volume that it has data in.

use super::format::{IndexEntry, IndexKind};
use super::index::last_writers;
use super::{
    Body, Frame, Record, Segment, SegmentKind, SegmentParams, SegmentSink, SegmentSummary,
    SegmentWriter, VolumeKey,
};
use crate::clock::Clock;
use crate::device::Discarded;
use crate::error::{Error, ErrorKind, Result};
use crate::policy::{Compression, Policy};
use crate::units::{ChainHash, Sequence, Timestamp};

/// Data gathered before it is written in disk order.
const WINDOW_BYTES: usize = 64 << 20;
/// Most index entries of all inputs together (40 bytes of memory each).
const MERGE_ENTRIES_MAX: usize = 1 << 24;

/// What a merge did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MergeReport {
    /// Segments read.
    pub segments: u64,
    /// Their bytes as stored.
    pub bytes_in: u64,
    /// Bytes of the new segment as stored.
    pub bytes_out: u64,
    /// Bytes of data left out because later writes of the inputs covered them.
    pub data_bytes_dropped: u64,
}

/// Folds consecutive segments (oldest first) into one of `kind`, which must not be a log. An image
/// begins with an image or with the first segment of the volume, and omits what reads as zeroes.
///
/// `InvalidInput` if the inputs do not follow each other or would lose their encryption.
/// `NotOrdered` if they end inside an unordered interval. `Full` if they contain more than one
/// segment can: merge fewer.
pub fn merge<S: SegmentSink>(
    segments: &[&Segment],
    kind: SegmentKind,
    sink: S,
    compression: Compression,
    key: Option<&VolumeKey>,
    clock: &dyn Clock,
) -> Result<(S, SegmentSummary, MergeReport)> {
    let params = params_of_merged(segments, kind, compression, key, clock)?;
    let writer = SegmentWriter::create(sink, params, key, clock)?;
    merge_into(writer, segments, kind, WINDOW_BYTES)
}

/// Returns the bytes of data that a merge would keep, from the indexes alone; `None` if there are
/// more entries than [`merge`] takes.
pub(crate) fn merged_data_bytes(indexes: Vec<Vec<IndexEntry>>, kind: SegmentKind) -> Option<u64> {
    if indexes.iter().map(Vec::len).sum::<usize>() > MERGE_ENTRIES_MAX {
        return None;
    }
    let kept = last_writers_for(kind, indexes.concat());
    Some(kept.iter().map(|entry| data_bytes(entry) as u64).sum())
}

pub(super) fn merge_into<S: SegmentSink>(
    mut writer: SegmentWriter<S>,
    segments: &[&Segment],
    kind: SegmentKind,
    window_bytes: usize,
) -> Result<(S, SegmentSummary, MergeReport)> {
    let inputs = Inputs::new(segments)?;
    let entries = inputs.last_writers(kind)?;
    let mut rest = entries.as_slice();
    while !rest.is_empty() {
        let (window, after) = rest.split_at(window_length(rest, window_bytes));
        inputs.copy_window(window, &mut writer)?;
        rest = after;
    }
    drop(entries);
    let last_sequence = append_notes(segments, &mut writer)?;
    if let (Some(first), Some(last)) = (segments.first(), segments.last()) {
        writer.set_times(first.summary().first_time, last.summary().last_time);
    }
    let (sink, summary) = writer.close(Some(last_sequence))?;
    // Not checked against the records: only `verify` does that.
    let data_bytes_in = segments
        .iter()
        .fold(0_u64, |total, segment| total.saturating_add(segment.summary().data_bytes));
    let report = MergeReport {
        segments: segments.len() as u64,
        bytes_in: segments.iter().map(|segment| segment.summary().stored_bytes).sum(),
        bytes_out: summary.stored_bytes,
        data_bytes_dropped: data_bytes_in.saturating_sub(summary.data_bytes),
    };
    Ok((sink, summary, report))
}

/// Returns the last writers that a segment of this kind contains. An image begins with zeroes, so
/// it omits those that read as zeroes.
fn last_writers_for(kind: SegmentKind, entries: Vec<IndexEntry>) -> Vec<IndexEntry> {
    let mut entries = last_writers(entries);
    if kind == SegmentKind::Image {
        entries.retain(|entry| entry.kind != IndexKind::Zero);
    }
    entries
}

/// Checks the inputs and returns the header of the result.
fn params_of_merged(
    segments: &[&Segment],
    kind: SegmentKind,
    compression: Compression,
    key: Option<&VolumeKey>,
    clock: &dyn Clock,
) -> Result<SegmentParams> {
    let (Some(first), Some(last)) = (segments.first(), segments.last()) else {
        return Err(refused("nothing").expected("at least one segment"));
    };
    if kind == SegmentKind::Log {
        return Err(refused(first.name()).expected("a merged segment or image to make"));
    }
    for pair in segments.windows(2) {
        check_follows(pair[0], pair[1])?;
    }
    let from_image = first.params().kind == SegmentKind::Image;
    let from_base = from_image || first.params().previous == ChainHash::default();
    if from_image && kind != SegmentKind::Image || kind == SegmentKind::Image && !from_base {
        return Err(refused(first.name())
            .message("an image begins with an image or the first segment of the volume"));
    }
    let encrypted = segments.iter().find(|segment| segment.key_id().is_some());
    if let Some(encrypted) = encrypted.filter(|_| key.is_none()) {
        return Err(refused(encrypted.name())
            .message("its content would be stored without encryption")
            .expected("a key for the result")
            .found("none"));
    }
    let change = segments.iter().rev().find_map(|segment| segment.summary().order_changes.last());
    if let Some(cause) = change.and_then(|change| change.begin) {
        return Err(Error::new(ErrorKind::NotOrdered, "merge", last.name())
            .message("the segments end inside an unordered interval")
            .expected("its end")
            .found(cause));
    }
    Ok(SegmentParams {
        kind,
        epoch: last.params().epoch,
        replaces_through: Some(last.summary().chain),
        created: clock.now(),
        compression,
        frame_bytes: Policy::default().frame_bytes,
        ..first.params().clone()
    })
}

fn refused(object: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::InvalidInput, "merge", object)
}

/// Checks that `next` is the segment after `before`; `InvalidInput` if not.
fn check_follows(before: &Segment, next: &Segment) -> Result<()> {
    let (a, b) = (before.params(), next.params());
    let same_volume =
        a.volume == b.volume && a.device_bytes == b.device_bytes && a.block_bytes == b.block_bytes;
    if !same_volume || a.epoch > b.epoch || b.kind == SegmentKind::Image {
        return Err(refused(next.name())
            .expected(format_args!("a later segment of volume {}", a.volume))
            .found(format_args!("one of volume {} in epoch {}", b.volume, b.epoch)));
    }
    let (chain, last) = (before.summary().chain, before.summary().last_sequence);
    if b.previous != chain || b.first_sequence <= last {
        return Err(refused(next.name())
            .expected(format_args!("the segment after sequence {last} and chain hash {chain}"))
            .found(format_args!(
                "one from sequence {} after chain hash {}",
                b.first_sequence, b.previous
            )));
    }
    Ok(())
}

/// Counts the entries at the begin of `entries` whose data fits into a window; at least one.
fn window_length(entries: &[IndexEntry], window_bytes: usize) -> usize {
    let mut bytes = 0;
    let fits = |entry: &&IndexEntry| {
        bytes += data_bytes(entry);
        bytes <= window_bytes
    };
    entries.iter().take_while(fits).count().max(1)
}

/// Returns the bytes of an entry in its frame. They are bounded: reading the index checked them.
fn data_bytes(entry: &IndexEntry) -> usize {
    if entry.kind == IndexKind::Data { entry.extent.length as usize } else { 0 }
}

/// Writes the marks and order changes that are kept; returns the last sequence of the inputs.
fn append_notes<S: SegmentSink>(
    segments: &[&Segment],
    writer: &mut SegmentWriter<S>,
) -> Result<Sequence> {
    for change in segments.iter().flat_map(|segment| &segment.summary().order_changes) {
        writer.append(&change.record())?;
    }
    let Some(last) = segments.last().map(|segment| segment.summary()) else {
        return Ok(Sequence::ZERO);
    };
    if let Some(mark) = last.marks.last().filter(|mark| mark.sequence == last.last_sequence) {
        writer.append(&mark.record())?;
    }
    Ok(last.last_sequence)
}

/// The segments to merge. Their data frames are numbered through.
struct Inputs<'a> {
    segments: &'a [&'a Segment],
    /// Number of the first frame of each segment.
    first_frames: Vec<u32>,
}

impl<'a> Inputs<'a> {
    fn new(segments: &'a [&'a Segment]) -> Result<Self> {
        let mut first_frames = Vec::with_capacity(segments.len());
        let mut next = 0_u32;
        for segment in segments {
            first_frames.push(next);
            next = next.checked_add(segment.frame_count()).ok_or_else(|| too_much(segment))?;
        }
        Ok(Self { segments, first_frames })
    }

    /// Finds the last writers among all inputs, by offset. Their frames are numbered through.
    fn last_writers(&self, kind: SegmentKind) -> Result<Vec<IndexEntry>> {
        let mut entries = Vec::new();
        for (segment, first_frame) in self.segments.iter().zip(&self.first_frames) {
            let index = segment.read_index()?;
            if entries.len() + index.len() > MERGE_ENTRIES_MAX {
                return Err(too_much(segment));
            }
            let numbered =
                |entry: IndexEntry| IndexEntry { frame: entry.frame + first_frame, ..entry };
            entries.extend(index.into_iter().map(numbered));
        }
        Ok(last_writers_for(kind, entries))
    }

    fn frame(&self, number: u32) -> Result<Frame> {
        let at = self.first_frames.partition_point(|first| *first <= number) - 1;
        self.segments[at].frame(number - self.first_frames[at])
    }

    /// Gathers data and times of `entries` frame by frame, then appends them in their own order.
    fn copy_window<S: SegmentSink>(
        &self,
        entries: &[IndexEntry],
        writer: &mut SegmentWriter<S>,
    ) -> Result<()> {
        let mut starts = Vec::with_capacity(entries.len());
        let mut bytes = 0;
        for entry in entries {
            starts.push(bytes);
            bytes += data_bytes(entry);
        }
        let mut data = vec![0; bytes];
        let mut times = vec![Timestamp::default(); entries.len()];
        let mut by_frame: Vec<usize> = (0..entries.len()).collect();
        by_frame.sort_unstable_by_key(|at| (entries[*at].frame, entries[*at].data_offset));
        for group in by_frame.chunk_by(|a, b| entries[*a].frame == entries[*b].frame) {
            let frame = self.frame(entries[group[0]].frame)?;
            let known = times_of(&frame)?;
            for at in group {
                let entry = &entries[*at];
                times[*at] = time_of(&known, entry, &frame)?;
                let length = data_bytes(entry);
                if length > 0 {
                    let found = frame.data_at(entry.data_offset, length)?;
                    data[starts[*at]..starts[*at] + length].copy_from_slice(found);
                }
            }
        }
        for (at, entry) in entries.iter().enumerate() {
            let body = match entry.kind {
                IndexKind::Data => Body::Write {
                    offset: entry.extent.offset,
                    data: &data[starts[at]..starts[at] + data_bytes(entry)],
                },
                IndexKind::Zero => Body::Zero(entry.extent),
                IndexKind::Undefined => Body::Discard(entry.extent, Discarded::Undefined),
                IndexKind::Touch => Body::Touch(entry.extent),
            };
            writer.append(&Record { sequence: entry.sequence, time: times[at], body })?;
        }
        Ok(())
    }
}

fn too_much(segment: &Segment) -> Error {
    Error::new(ErrorKind::Full, "merge", segment.name())
        .message("the segments contain more changes than one can: merge fewer of them")
        .expected(format_args!("at most {MERGE_ENTRIES_MAX} extents"))
}

/// Returns sequence and time of each record of a frame, by sequence.
fn times_of(frame: &Frame) -> Result<Vec<(Sequence, Timestamp)>> {
    let mut times = frame
        .descriptors()
        .map(|item| item.map(|(descriptor, _)| (descriptor.sequence, descriptor.time)))
        .collect::<Result<Vec<_>>>()?;
    times.sort_unstable_by_key(|(sequence, _)| *sequence);
    Ok(times)
}

fn time_of(
    times: &[(Sequence, Timestamp)],
    entry: &IndexEntry,
    frame: &Frame,
) -> Result<Timestamp> {
    match times.binary_search_by_key(&entry.sequence, |(sequence, _)| *sequence) {
        Ok(at) => Ok(times[at].1),
        Err(_) => Err(Error::new(ErrorKind::Corrupt, "merge", format_args!("{frame:?}"))
            .expected(format_args!("a record of sequence {}, as the index has it", entry.sequence))
            .found("none")),
    }
}
