//! A volume as of one sequence, readable without a restore.
//!
//! The indexes of all segments up to the sequence are merged into one array, sorted by offset, with
//! each byte's last writer. Ranges that nobody wrote are absent and read as zeroes. Frames are
//! decoded when they are read, and cached up to a bound.

use std::collections::HashMap;
use std::sync::Arc;

use super::{At, Replica};
use crate::device::{Allocation, BlockDevice, Discarded, Durability, Unmap, read_only_error};
use crate::error::{Error, ErrorKind, Result};
use crate::extent::Extent;
use crate::journal::{Frame, IndexEntry, IndexKind, Segment};
use crate::parallel;
use crate::sync::lock::Mutex;
use crate::units::{Epoch, Sequence, VolumeId};
use crate::vault::VolumeInfo;

impl Replica {
    /// Opens the volume as of `at`, readable without a restore.
    pub fn view(&self, at: &At, options: &ViewOptions) -> Result<View> {
        let sequence = match options.unordered.then(|| self.meaning_of(at)) {
            Some(At::Sequence(sequence)) => sequence,
            _ => self.resolve(at)?,
        };
        let segments = self.segments_through(sequence)?;
        View::from_segments(self.info(), segments, sequence, options)
    }
}

/// Options of a [`View`].
#[derive(Clone, Debug)]
pub struct ViewOptions {
    /// Memory for decoded frames, in bytes. Default 32 MiB.
    pub cache_bytes: u64,
    /// Allow a sequence inside an unordered interval, for forensics. Default false.
    pub unordered: bool,
}

impl Default for ViewOptions {
    fn default() -> Self {
        Self { cache_bytes: 32 << 20, unordered: false }
    }
}

/// Maps an extent to its bytes in a frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mapping {
    pub extent: Extent,
    pub segment: u32,
    pub frame: u32,
    data_offset: u32,
    pub kind: IndexKind,
}

impl Mapping {
    fn of(entry: &IndexEntry, segment: u32) -> Self {
        Self {
            extent: entry.extent,
            segment,
            frame: entry.frame,
            data_offset: entry.data_offset,
            kind: entry.kind,
        }
    }

    /// Returns the part in `window`, which it covers.
    fn part(mut self, window: Extent) -> Self {
        if self.kind == IndexKind::Data {
            self.data_offset += (window.offset - self.extent.offset) as u32;
        }
        self.extent = window;
        self
    }
}

struct Cache {
    /// By segment and number.
    frames: HashMap<(u32, u32), (Arc<Frame>, u64)>,
    bytes: u64,
    tick: u64,
}

/// A read-only device that shows a volume as of one sequence. May be used from any thread.
pub struct View {
    name: String,
    volume: VolumeId,
    epoch: Epoch,
    size_bytes: u64,
    block_bytes: u32,
    sequence: Sequence,
    segments: Vec<Arc<Segment>>,
    mappings: Vec<Mapping>,
    cache: Mutex<Cache>,
    cache_bytes: u64,
}

impl View {
    /// Opens a view over `segments`, which follow each other from the base of the volume or an
    /// image on.
    pub fn from_segments(
        info: &VolumeInfo,
        segments: Vec<Arc<Segment>>,
        sequence: Sequence,
        options: &ViewOptions,
    ) -> Result<Self> {
        let mut mappings = merge_indexes(&segments, sequence)?;
        let touched = mappings.iter().find(|mapping| mapping.kind == IndexKind::Touch);
        if let Some(touched) = touched {
            return Err(Error::new(ErrorKind::Unsupported, "view", &info.name)
                .at(touched.extent.offset)
                .message("the volume's changes were tracked without their data"));
        }
        mappings.retain(|mapping| mapping.kind == IndexKind::Data);
        mappings.shrink_to_fit();
        Ok(Self {
            volume: info.id,
            epoch: segments.last().map_or(Epoch(0), |segment| segment.summary().epoch),
            name: format!("{} at sequence {sequence}", info.name),
            size_bytes: info.device_bytes,
            block_bytes: info.block_bytes,
            sequence,
            segments,
            mappings,
            cache: Mutex::new(Cache { frames: HashMap::new(), bytes: 0, tick: 0 }),
            cache_bytes: options.cache_bytes,
        })
    }

    /// Returns the volume that it shows.
    pub fn volume(&self) -> VolumeId {
        self.volume
    }

    /// Returns the epoch of its last change; zero for a volume without changes.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Returns the sequence that it shows.
    pub fn sequence(&self) -> Sequence {
        self.sequence
    }

    /// Returns the extents with data, by offset; all else reads as zeroes.
    pub fn data_extents(&self) -> impl Iterator<Item = Extent> + '_ {
        self.mappings.iter().map(|mapping| mapping.extent)
    }

    pub(super) fn mappings(&self) -> &[Mapping] {
        &self.mappings
    }

    /// Returns whether each frame is a request to a store.
    pub(super) fn is_remote(&self) -> bool {
        self.segments.iter().any(|segment| segment.is_remote())
    }

    pub(super) fn segment_count(&self) -> usize {
        self.segments.len()
    }

    /// Decodes a frame without caching it.
    pub(super) fn decode(&self, mapping: &Mapping) -> Result<Frame> {
        self.segments[mapping.segment as usize].frame(mapping.frame)
    }

    /// Returns the data of a mapping in its frame.
    pub(super) fn data_of<'a>(frame: &'a Frame, mapping: &Mapping) -> Result<&'a [u8]> {
        frame.data_at(mapping.data_offset, mapping.extent.length as usize)
    }

    /// Returns the mappings that overlap `window`, cut to it.
    pub(super) fn within(&self, window: Extent) -> impl Iterator<Item = Mapping> + '_ {
        let first = self.mappings.partition_point(|mapping| mapping.extent.end() <= window.offset);
        self.mappings[first..]
            .iter()
            .take_while(move |mapping| mapping.extent.offset < window.end())
            .map(move |mapping| mapping.part(mapping.extent.intersection(window)))
    }

    fn frame(&self, mapping: &Mapping) -> Result<Arc<Frame>> {
        let key = (mapping.segment, mapping.frame);
        {
            let mut cache = self.cache.lock();
            cache.tick += 1;
            let tick = cache.tick;
            if let Some((frame, used)) = cache.frames.get_mut(&key) {
                *used = tick;
                return Ok(frame.clone());
            }
        }
        // Decoded outside the lock: two readers may both decode it, and neither waits for the
        // other.
        let frame = Arc::new(self.decode(mapping)?);
        let mut cache = self.cache.lock();
        cache.insert(key, frame.clone(), self.cache_bytes);
        Ok(frame)
    }
}

impl Cache {
    fn insert(&mut self, key: (u32, u32), frame: Arc<Frame>, bytes_max: u64) {
        self.bytes += frame.memory_bytes() as u64;
        if let Some((replaced, _)) = self.frames.insert(key, (frame, self.tick)) {
            self.bytes -= replaced.memory_bytes() as u64;
        }
        while self.bytes > bytes_max && self.frames.len() > 1 {
            let oldest = self.frames.iter().min_by_key(|(_, (_, used))| *used).map(|(key, _)| *key);
            let Some((frame, _)) = oldest.and_then(|key| self.frames.remove(&key)) else { return };
            self.bytes -= frame.memory_bytes() as u64;
        }
    }
}

impl BlockDevice for View {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn block_bytes(&self) -> u32 {
        self.block_bytes
    }

    fn is_read_only(&self) -> bool {
        true
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let window = Extent { offset, length: buffer.len() as u64 };
        window.check_within(self.size_bytes, "read from", &self.name)?;
        let mut at = offset;
        for mapping in self.within(window) {
            buffer[(at - offset) as usize..(mapping.extent.offset - offset) as usize].fill(0);
            let frame = self.frame(&mapping)?;
            let range =
                (mapping.extent.offset - offset) as usize..(mapping.extent.end() - offset) as usize;
            buffer[range].copy_from_slice(Self::data_of(&frame, &mapping)?);
            at = mapping.extent.end();
        }
        buffer[(at - offset) as usize..].fill(0);
        Ok(())
    }

    fn write(&self, _offset: u64, _data: &[u8], _durability: Durability) -> Result<()> {
        Err(read_only_error("write to", &self.name))
    }

    fn zero(&self, _extent: Extent, _unmap: Unmap, _durability: Durability) -> Result<()> {
        Err(read_only_error("zero", &self.name))
    }

    fn discard(&self, _extent: Extent) -> Result<Discarded> {
        Err(read_only_error("discard", &self.name))
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn allocation(&self, extent: Extent) -> Result<Vec<Allocation>> {
        extent.check_within(self.size_bytes, "map", &self.name)?;
        let mut runs: Vec<Allocation> = Vec::new();
        let mut push = |extent, allocated| Allocation { extent, allocated }.add_to(&mut runs);
        let mut at = extent.offset;
        for mapping in self.within(extent) {
            push(Extent::from_bounds(at, mapping.extent.offset), false);
            push(mapping.extent, true);
            at = mapping.extent.end();
        }
        push(Extent::from_bounds(at, extent.end()), false);
        Ok(runs)
    }
}

/// Merges the indexes of segments in write order; the newest wins. Works like a binary counter:
/// arrays of similar size are merged with each other, so each entry is handled once per doubling.
fn merge_indexes(segments: &[Arc<Segment>], sequence: Sequence) -> Result<Vec<Mapping>> {
    let mut stack: Vec<Vec<Mapping>> = Vec::new();
    for (number, segment) in segments.iter().enumerate() {
        if number.is_multiple_of(parallel::REQUESTS) {
            let window = &segments[number..segments.len().min(number + parallel::REQUESTS)];
            read_ahead(window, sequence)?;
        }
        let number = number as u32;
        let mappings: Vec<Mapping> = if segment.summary().last_sequence <= sequence {
            let index = segment.index()?;
            segment.forget_index();
            index.iter().map(|entry| Mapping::of(entry, number)).collect()
        } else {
            check_cut(segment, sequence)?;
            segment.index_at(sequence)?.iter().map(|entry| Mapping::of(entry, number)).collect()
        };
        stack.push(mappings);
        while stack.len() >= 2 && stack[stack.len() - 2].len() <= 2 * stack[stack.len() - 1].len() {
            merge_top(&mut stack);
        }
    }
    while stack.len() >= 2 {
        merge_top(&mut stack);
    }
    Ok(stack.pop().unwrap_or_default())
}

/// Fetches the indexes of remote segments a few at a time, all at once; each is dropped when it was
/// merged.
fn read_ahead(segments: &[Arc<Segment>], sequence: Sequence) -> Result<()> {
    let whole = |segment: &&Arc<Segment>| {
        segment.is_remote() && segment.summary().last_sequence <= sequence
    };
    let wanted: Vec<_> = segments.iter().filter(whole).collect();
    parallel::each(&wanted, true, |segment| segment.index().map(drop)).map(drop)
}

fn merge_top(stack: &mut Vec<Vec<Mapping>>) {
    if let (Some(newer), Some(older)) = (stack.pop(), stack.pop()) {
        stack.push(overlay(older, newer));
    }
}

/// Refuses a sequence inside a merged segment or image, which is one state and cannot be cut.
fn check_cut(segment: &Segment, sequence: Sequence) -> Result<()> {
    let summary = segment.summary();
    if summary.kind == crate::journal::SegmentKind::Log {
        return Ok(());
    }
    Err(Error::new(ErrorKind::NotFound, "view", format_args!("sequence {sequence}")).message(
        format_args!(
            "sequences {} to {} were merged; only the last can be restored",
            summary.first_sequence, summary.last_sequence
        ),
    ))
}

/// Merges two sorted, disjoint arrays: all of `newer`, and `older` wherever `newer` has nothing.
fn overlay(older: Vec<Mapping>, newer: Vec<Mapping>) -> Vec<Mapping> {
    if older.is_empty() {
        return newer;
    }
    let mut out = Vec::with_capacity(older.len() + newer.len());
    let mut newer = newer.into_iter().peekable();
    for old in older {
        let mut at = old.extent.offset;
        while let Some(new) = newer.peek() {
            if new.extent.offset >= old.extent.end() {
                break;
            }
            if new.extent.offset > at {
                out.push(old.part(Extent::from_bounds(at, new.extent.offset)));
            }
            at = at.max(new.extent.end());
            if new.extent.end() > old.extent.end() {
                // It may cover the next older mapping, too, so it is emitted when it is passed.
                break;
            }
            out.push(*new);
            newer.next();
        }
        if at < old.extent.end() {
            out.push(old.part(Extent::from_bounds(at, old.extent.end())));
        }
    }
    out.extend(newer);
    out
}
