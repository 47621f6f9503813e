//! Reads segments; never writes.
//!
//! Opening a closed segment checks its header, footer and notes; reading checks frames and index. A
//! segment without a sound footer is refused: only `repair` reads what a crash left.

use std::sync::Arc;

use super::format::{
    self, Codec, FOOTER_BYTES, FOOTER_NUMBER, FRAME_HEADER_BYTES, Footer, FrameKind, HEADER_BYTES,
    Header, INDEX_ENTRY_BYTES, INDEX_FRAME_ENTRIES_MAX, IndexEntry, Notes,
};
use super::frame::{Frame, Opener, misplaced};
use super::index::last_writers;
use super::source::SegmentSource;
use super::writer::summary_of;
use super::{KeyRing, SegmentKind, SegmentParams, SegmentSummary};
use crate::error::{Error, ErrorKind, Result};
use crate::macros::shown;
use crate::policy::Compression;
use crate::sync::lock::Mutex;
use crate::units::{ChainHash, KeyId, Sequence};

/// A closed segment. May be used from any thread.
pub struct Segment {
    pub(super) source: Box<dyn SegmentSource>,
    pub(super) opener: Opener,
    params: SegmentParams,
    pub(super) footer: Footer,
    summary: SegmentSummary,
    pub(super) frame_offsets: Vec<u64>,
    index: Mutex<Option<Arc<[IndexEntry]>>>,
}

impl Segment {
    /// Opens a closed segment. `Corrupt` identifies the place that is not as written, `WrongKey`
    /// the missing key, `Unsupported` the feature.
    pub fn open(source: Box<dyn SegmentSource>, keys: &KeyRing) -> Result<Self> {
        let name = source.name();
        let (opener, header) = Opener::open(&*source, keys)?;
        let footer = read_footer(&*source, &opener, &name)?;
        let end = footer.length - FOOTER_BYTES as u64;
        let (frame, _) =
            opener.read_frame(&*source, footer.notes_offset, Some(end), footer.frames - 1)?;
        if frame.header.kind != FrameKind::Notes {
            return Err(misplaced(&name, footer.notes_offset, FrameKind::Notes, &frame.header));
        }
        let mut notes = Notes::decode(&frame.raw, frame.header.count, &footer, &name)?;
        let frame_offsets = std::mem::take(&mut notes.frame_offsets);
        let params = params_of(&header);
        let summary = summary_of(&params, header.salt, &footer, notes);
        let index = Mutex::new(None);
        Ok(Self { source, opener, params, footer, summary, frame_offsets, index })
    }

    /// Returns the name of the segment's source.
    pub fn name(&self) -> String {
        self.source.name()
    }

    /// Returns what the header says.
    pub fn params(&self) -> &SegmentParams {
        &self.params
    }

    /// Returns what the segment contains.
    pub fn summary(&self) -> &SegmentSummary {
        &self.summary
    }

    /// Returns the number of data frames.
    pub fn frame_count(&self) -> u32 {
        self.footer.data_frames
    }

    /// Returns the name of the key that encrypts it; `None` if it is not encrypted.
    pub fn key_id(&self) -> Option<KeyId> {
        self.opener.key_id
    }

    /// Returns the last writers of the segment, by offset and disjoint. Keeps them in memory until
    /// [`Segment::forget_index`].
    pub fn index(&self) -> Result<Arc<[IndexEntry]>> {
        let mut kept = self.index.lock();
        if let Some(index) = &*kept {
            return Ok(index.clone());
        }
        let index: Arc<[IndexEntry]> = self.read_index()?.into();
        *kept = Some(index.clone());
        Ok(index)
    }

    /// Returns whether each frame is a request to a store, so that reading many at once is faster.
    pub fn is_remote(&self) -> bool {
        self.source.is_remote()
    }

    /// Frees the memory of the index; the next call of [`Segment::index`] reads it again.
    pub fn forget_index(&self) {
        self.source.forget();
        *self.index.lock() = None;
    }

    /// Computes the last writers among the records up to `sequence`, from the records themselves.
    pub fn index_at(&self, sequence: Sequence) -> Result<Vec<IndexEntry>> {
        self.index_between(Sequence::ZERO, sequence)
    }

    /// Computes the last writers among the records after `after` and up to `through`.
    pub fn index_between(&self, after: Sequence, through: Sequence) -> Result<Vec<IndexEntry>> {
        let mut pieces = Vec::new();
        for number in 0..self.frame_count() {
            let frame = self.frame(number)?;
            if frame.header.first_sequence > through {
                if self.params.kind == SegmentKind::Log {
                    break;
                }
                continue;
            }
            frame.collect(|sequence| sequence > after && sequence <= through, &mut pieces)?;
        }
        Ok(last_writers(pieces))
    }

    /// Reads, checks, decrypts and decompresses a data frame. `InvalidInput` if there is none of
    /// this number.
    pub fn frame(&self, number: u32) -> Result<Frame> {
        let at = *self.frame_offsets.get(number as usize).ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, "read frame of", self.name())
                .expected(format_args!("a number below {}", self.frame_count()))
                .found(number)
        })?;
        let end = self.frame_end(number);
        let (frame, _) = self.opener.read_frame(&*self.source, at, end, number)?;
        if frame.header.kind != FrameKind::Data {
            return Err(misplaced(&self.name(), at, FrameKind::Data, &frame.header));
        }
        Ok(frame)
    }

    /// Reads and checks everything: frames, tags and chain hash, and that index, notes, frame
    /// headers and footer agree with the records.
    pub fn verify(&self) -> Result<()> {
        super::verify::verify(self)
    }

    /// Returns where frame `number` ends, from notes and footer; `None` inside the index.
    pub(super) fn frame_end(&self, number: u32) -> Option<u64> {
        let footer = &self.footer;
        let next = number.checked_add(1)?;
        if next == footer.data_frames {
            Some(footer.index_offset)
        } else if next.checked_add(1)? == footer.frames {
            Some(footer.notes_offset)
        } else if next == footer.frames {
            Some(footer.length - FOOTER_BYTES as u64)
        } else {
            self.frame_offsets.get(next as usize).copied()
        }
    }

    /// Reads the index without keeping it.
    pub(crate) fn read_index(&self) -> Result<Vec<IndexEntry>> {
        let frames = self.footer.frames - self.footer.data_frames - 1;
        let mut entries: Vec<IndexEntry> = Vec::new();
        let mut at = self.footer.index_offset;
        for number in 0..frames {
            let number = self.footer.data_frames + number;
            let end = self.frame_end(number);
            let (frame, next) = self.opener.read_frame(&*self.source, at, end, number)?;
            self.decode_index(&frame, at, &mut entries)?;
            at = next;
        }
        if at != self.footer.notes_offset {
            return Err(Error::new(ErrorKind::Corrupt, "read index of", self.name())
                .at(at)
                .expected(format_args!("index frames up to {}", self.footer.notes_offset))
                .found(format_args!("{frames} of them")));
        }
        Ok(entries)
    }

    fn decode_index(&self, frame: &Frame, at: u64, entries: &mut Vec<IndexEntry>) -> Result<()> {
        let name = self.name();
        let corrupt = || Error::new(ErrorKind::Corrupt, "read index of", &name).at(at);
        let count = frame.header.count;
        if frame.header.kind != FrameKind::Index || count > INDEX_FRAME_ENTRIES_MAX {
            return Err(misplaced(&name, at, FrameKind::Index, &frame.header));
        }
        if frame.raw.len() != count as usize * INDEX_ENTRY_BYTES {
            return Err(corrupt()
                .expected(format_args!("{count} entries"))
                .found(format_args!("{} bytes", frame.raw.len())));
        }
        // Each record adds at most two boundaries between extents.
        let most = self.footer.records.min(format::EXTENT_RECORDS_MAX) * 2;
        if entries.len() as u64 + u64::from(count) > most {
            return Err(corrupt()
                .expected(format_args!("at most {most} entries"))
                .found(entries.len() as u64 + u64::from(count)));
        }
        entries.reserve(count as usize);
        let mut free_from = entries.last().map_or(0, |last| last.extent.end());
        for bytes in frame.raw.chunks_exact(INDEX_ENTRY_BYTES) {
            let entry = format::decode_index_entry(bytes, self.params.device_bytes, &name, at)?;
            if entry.extent.offset < free_from || entry.frame >= self.footer.data_frames {
                return Err(corrupt()
                    .expected(format_args!("an extent from {free_from} on, in a frame there is"))
                    .found(format_args!("{} in frame {}", entry.extent, entry.frame)));
            }
            free_from = entry.extent.end();
            entries.push(entry);
        }
        Ok(())
    }
}

shown!(Segment, value => value.name());

fn read_footer(source: &dyn SegmentSource, opener: &Opener, name: &str) -> Result<Footer> {
    let length = source.length();
    let least = (HEADER_BYTES + FRAME_HEADER_BYTES + FOOTER_BYTES) as u64;
    if length < least {
        return Err(Error::new(ErrorKind::Corrupt, "read segment", name)
            .at(length)
            .message("the segment was not closed, or its end was cut off")
            .expected(format_args!("at least {least} bytes"))
            .found(length));
    }
    let at = length - FOOTER_BYTES as u64;
    let bytes = source.read(at..length)?;
    let bytes: &[u8; FOOTER_BYTES] = bytes.as_ref().try_into().expect("as long as was asked");
    let footer = Footer::decode(bytes, name, length)?;
    if !opener.authenticates(FOOTER_NUMBER, &footer.encode_aad(), &footer.tag) {
        return Err(Error::new(ErrorKind::Corrupt, "read segment", name)
            .at(at)
            .expected("the footer that was written here")
            .found("another: the footer or the segment's header was altered"));
    }
    Ok(footer)
}

/// Returns what a header says. It does not contain frame size and level of compression.
pub(super) fn params_of(header: &Header) -> SegmentParams {
    let replaces = header.replaces_through;
    SegmentParams {
        kind: header.kind,
        volume: header.volume,
        epoch: header.epoch,
        first_sequence: header.first_sequence,
        device_bytes: header.device_bytes,
        block_bytes: header.block_bytes,
        previous: header.previous,
        replaces_through: (replaces != ChainHash::default()).then_some(replaces),
        created: header.created,
        compression: match header.codec {
            Codec::Stored => Compression::None,
            Codec::Zstd => Compression::Zstd(1),
        },
        frame_bytes: crate::policy::Policy::default().frame_bytes,
    }
}
