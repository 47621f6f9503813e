//! Reads segments; never writes.
//!
//! Opening a sealed segment checks its header, footer and notes; frames and index are checked when they are read.
//! A segment without a sound footer is refused: only `repair` reads what a crash left.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};

use super::format::{
    self, Aead, Codec, Descriptor, FOOTER_BYTES, FOOTER_NONCE, FRAME_HEADER_BYTES, Footer,
    FrameHeader, FrameKind, HEADER_BYTES, Header, INDEX_ENTRY_BYTES, INDEX_FRAME_ENTRIES_MAX,
    IndexEntry, Notes, RECORD_BYTES,
};
use super::index::last_writers;
use super::seal::SegmentSeal;
use super::source::SegmentSource;
use super::writer::summary_of;
use super::{KeyRing, Record, SegmentParams, SegmentSummary};
use crate::error::{Error, ErrorKind, Result};
use crate::policy::Compression;
use crate::units::{ChainHash, Sequence};

/// A sealed segment. May be used from any thread.
pub struct Segment {
    source: Box<dyn SegmentSource>,
    opener: Opener,
    params: SegmentParams,
    footer: Footer,
    summary: SegmentSummary,
    frame_offsets: Vec<u64>,
    index: Mutex<Option<Arc<[IndexEntry]>>>,
}

impl Segment {
    /// Opens a sealed segment. `Corrupt` names the place that is not as it was written, `WrongKey` the key that is
    /// missing, `Unsupported` the feature.
    pub fn open(source: Box<dyn SegmentSource>, keys: &KeyRing) -> Result<Self> {
        let name = source.name();
        let (opener, header) = Opener::open(&*source, keys)?;
        let footer = read_footer(&*source, &opener, &name)?;
        let (frame, _) =
            opener.read_frame(&*source, footer.notes_offset, Some(footer.frames - 1))?;
        if frame.header.kind != FrameKind::Notes {
            return Err(misplaced(&name, footer.notes_offset, FrameKind::Notes, &frame.header));
        }
        let mut notes = Notes::decode(
            &frame.raw,
            frame.header.count,
            footer.data_frames,
            &name,
            footer.notes_offset,
        )?;
        let frame_offsets = std::mem::take(&mut notes.frame_offsets);
        let params = params_of(&header);
        let summary = summary_of(&params, header.salt, &footer, notes);
        let index = Mutex::new(None);
        Ok(Self { source, opener, params, footer, summary, frame_offsets, index })
    }

    /// Name of the source.
    pub fn name(&self) -> String {
        self.source.name()
    }

    /// What the header says.
    pub fn params(&self) -> &SegmentParams {
        &self.params
    }

    /// What the segment holds.
    pub fn summary(&self) -> &SegmentSummary {
        &self.summary
    }

    /// Number of data frames.
    pub fn frame_count(&self) -> u32 {
        self.footer.data_frames
    }

    /// Name of the key that it is sealed with; `None` when it is not encrypted.
    pub fn key_id(&self) -> Option<crate::units::KeyId> {
        self.opener.key_id
    }

    /// The last writers of the segment, by offset and disjoint. Kept in memory until [`Segment::forget_index`].
    pub fn index(&self) -> Result<Arc<[IndexEntry]>> {
        let mut kept = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(index) = &*kept {
            return Ok(index.clone());
        }
        let index: Arc<[IndexEntry]> = self.read_index()?.into();
        *kept = Some(index.clone());
        Ok(index)
    }

    /// Frees the memory of the index; the next call of [`Segment::index`] reads it again.
    pub fn forget_index(&self) {
        *self.index.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The last writers among the records up to `sequence`, made from the records themselves.
    pub fn index_at(&self, sequence: Sequence) -> Result<Vec<IndexEntry>> {
        self.index_between(Sequence::ZERO, sequence)
    }

    /// The last writers among the records after `after` and up to `through`.
    pub fn index_between(&self, after: Sequence, through: Sequence) -> Result<Vec<IndexEntry>> {
        let mut pieces = Vec::new();
        for number in 0..self.frame_count() {
            let frame = self.frame(number)?;
            if frame.header.first_sequence > through && self.params.kind == super::SegmentKind::Log
            {
                break;
            }
            frame.collect(
                number,
                |sequence| sequence > after && sequence <= through,
                &mut pieces,
            )?;
        }
        Ok(last_writers(pieces))
    }

    /// Reads, checks, opens and decompresses a data frame.
    pub fn frame(&self, number: u32) -> Result<Frame> {
        let at = *self.frame_offsets.get(number as usize).ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, "read frame of", self.name())
                .expected(format_args!("a number below {}", self.frame_count()))
                .found(number)
        })?;
        let (frame, _) = self.opener.read_frame(&*self.source, at, Some(number))?;
        if frame.header.kind != FrameKind::Data {
            return Err(misplaced(&self.name(), at, FrameKind::Data, &frame.header));
        }
        Ok(frame)
    }

    /// Reads everything and checks everything: frames, seals, chain hash, and that index and notes say what the
    /// records say.
    pub fn verify(&self) -> Result<()> {
        let name = self.name();
        let mut chain = blake3::Hasher::new();
        chain.update(&self.source.read(0..HEADER_BYTES as u64)?);
        let mut at = HEADER_BYTES as u64;
        let end = self.footer.length - FOOTER_BYTES as u64;
        let mut pieces = Vec::new();
        let mut records = 0;
        let mut number = 0;
        while at < end {
            let (frame, next) = self.opener.read_frame(&*self.source, at, Some(number))?;
            if number < self.footer.data_frames {
                if frame.header.kind != FrameKind::Data || self.frame_offsets[number as usize] != at
                {
                    return Err(misplaced(&name, at, FrameKind::Data, &frame.header));
                }
                frame.collect(number, |_| true, &mut pieces)?;
                for record in frame.records() {
                    record?;
                    records += 1;
                }
            }
            chain.update(&self.source.read(at..at + FRAME_HEADER_BYTES as u64)?);
            at = next;
            number += 1;
        }
        let differs = |what: &str, at: u64| {
            Error::new(ErrorKind::Corrupt, "verify segment", &name)
                .at(at)
                .expected(format_args!("{what} as the frames have it"))
                .found("another")
        };
        if at != end || number != self.footer.frames || records != self.footer.records {
            return Err(differs("the number of frames and records", end));
        }
        if ChainHash(*chain.finalize().as_bytes()) != self.footer.chain {
            return Err(differs("the chain hash", end + 48));
        }
        if last_writers(pieces) != self.read_index()? {
            return Err(differs("the index", self.footer.index_offset));
        }
        Ok(())
    }

    fn read_index(&self) -> Result<Vec<IndexEntry>> {
        let name = self.name();
        let mut entries: Vec<IndexEntry> = Vec::new();
        let mut at = self.footer.index_offset;
        let mut number = self.footer.data_frames;
        while at < self.footer.notes_offset {
            let (frame, next) = self.opener.read_frame(&*self.source, at, Some(number))?;
            let count = frame.header.count as usize;
            if frame.header.kind != FrameKind::Index || count > INDEX_FRAME_ENTRIES_MAX {
                return Err(misplaced(&name, at, FrameKind::Index, &frame.header));
            }
            if frame.raw.len() != count * INDEX_ENTRY_BYTES {
                return Err(Error::new(ErrorKind::Corrupt, "read index of", &name)
                    .at(at)
                    .expected(format_args!("{count} entries"))
                    .found(format_args!("{} bytes", frame.raw.len())));
            }
            entries.reserve(count);
            for bytes in frame.raw.chunks_exact(INDEX_ENTRY_BYTES) {
                let entry = format::decode_index_entry(bytes, &name, at)?;
                let after = entries.last().map_or(0, |last| last.extent.end());
                if entry.extent.offset < after || entry.frame >= self.footer.data_frames {
                    return Err(Error::new(ErrorKind::Corrupt, "read index of", &name)
                        .at(at)
                        .expected(format_args!(
                            "an extent at {after} or above, in a frame that exists"
                        ))
                        .found(format_args!("{} in frame {}", entry.extent, entry.frame)));
                }
                entries.push(entry);
            }
            at = next;
            number += 1;
        }
        Ok(entries)
    }
}

impl std::fmt::Debug for Segment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Segment({})", self.name())
    }
}

/// A decoded frame.
pub struct Frame {
    pub(super) header: FrameHeader,
    pub(super) raw: Vec<u8>,
    name: String,
    at: u64,
}

impl Frame {
    /// The records, in order.
    pub fn records(&self) -> impl Iterator<Item = Result<Record<'_>>> + '_ {
        let mut data_at = 0;
        self.table().chunks_exact(RECORD_BYTES).map(move |bytes| {
            let descriptor = Descriptor::decode(bytes, &self.name, self.at)?;
            let data = self.data_of(&mut data_at, &descriptor)?;
            descriptor.record(data, &self.name, self.at)
        })
    }

    /// The data area, as index entries address it.
    pub fn data(&self) -> &[u8] {
        &self.raw[..self.raw.len() - self.table_bytes()]
    }

    /// The bytes of `entry` from byte `skip` of it; `Corrupt` when the frame does not hold them.
    pub fn entry_data(&self, entry: &IndexEntry, skip: u64, length: usize) -> Result<&[u8]> {
        let start = u64::from(entry.data_offset) + skip;
        usize::try_from(start)
            .ok()
            .and_then(|start| self.data().get(start..start.checked_add(length)?))
            .ok_or_else(|| {
                Error::new(ErrorKind::Corrupt, "read frame of", &self.name)
                    .at(self.at)
                    .expected(format_args!("{length} bytes at {start} of its data"))
                    .found(format_args!("{} bytes of data", self.data().len()))
            })
    }

    /// Memory that the frame takes, in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.raw.capacity() + size_of::<Self>()
    }

    /// Index entries of the records whose sequence is `wanted`.
    fn collect(
        &self,
        number: u32,
        wanted: impl Fn(Sequence) -> bool,
        pieces: &mut Vec<IndexEntry>,
    ) -> Result<()> {
        let mut data_at = 0;
        for bytes in self.table().chunks_exact(RECORD_BYTES) {
            let descriptor = Descriptor::decode(bytes, &self.name, self.at)?;
            let data_offset = data_at as u32;
            self.data_of(&mut data_at, &descriptor)?;
            if let Some(kind) = descriptor.index_kind().filter(|_| wanted(descriptor.sequence)) {
                let (extent, sequence) = (descriptor.extent, descriptor.sequence);
                pieces.push(IndexEntry { extent, kind, sequence, frame: number, data_offset });
            }
        }
        Ok(())
    }

    fn table_bytes(&self) -> usize {
        self.header.count as usize * RECORD_BYTES
    }

    fn table(&self) -> &[u8] {
        &self.raw[self.raw.len() - self.table_bytes()..]
    }

    fn data_of(&self, at: &mut usize, descriptor: &Descriptor) -> Result<&[u8]> {
        let start = *at;
        *at += descriptor.data_bytes as usize;
        self.data().get(start..*at).ok_or_else(|| {
            Error::new(ErrorKind::Corrupt, "read frame of", &self.name)
                .at(self.at)
                .expected(format_args!("data up to {at}"))
                .found(format_args!("{} bytes of data", self.data().len()))
        })
    }
}

/// Reads and opens the frames of one segment.
pub(super) struct Opener {
    seal: Option<SegmentSeal>,
    pub(super) key_id: Option<crate::units::KeyId>,
}

impl Opener {
    /// Reads the header and finds the key.
    pub(super) fn open(source: &dyn SegmentSource, keys: &KeyRing) -> Result<(Self, Header)> {
        let name = source.name();
        let bytes = source.read(0..source.length().min(HEADER_BYTES as u64))?;
        let header = Header::decode(&bytes, &name)?;
        let opener = match header.aead {
            Aead::None => Self { seal: None, key_id: None },
            Aead::ChaCha20Poly1305 => {
                let key =
                    keys.find(header.key_id).ok_or_else(|| {
                        Error::new(ErrorKind::WrongKey, "open segment", &name)
                            .expected(format_args!("key {}", header.key_id))
                            .found(keys.newest().map_or_else(
                                || "no key".to_owned(),
                                |key| format!("key {}", key.id()),
                            ))
                    })?;
                Self { seal: Some(SegmentSeal::new(key, &bytes)), key_id: Some(header.key_id) }
            }
        };
        Ok((opener, header))
    }

    /// Reads the frame at `at`; gives it and the place after it. `number` is the one it must have.
    pub(super) fn read_frame(
        &self,
        source: &dyn SegmentSource,
        at: u64,
        number: Option<u32>,
    ) -> Result<(Frame, u64)> {
        let name = source.name();
        let content_at = at.saturating_add(FRAME_HEADER_BYTES as u64);
        let head = source.read(at..content_at)?;
        let header = FrameHeader::decode(&head, &name, at)?;
        let end = content_at.saturating_add(u64::from(header.stored_bytes));
        let stored = source.read(content_at..end)?;
        FrameHeader::check_content(&head, &stored, &name, at)?;
        if number.is_some_and(|number| number != header.number) {
            return Err(Error::new(ErrorKind::Corrupt, "read segment", &name)
                .at(at)
                .expected(format_args!("frame {}", number.unwrap_or_default()))
                .found(format_args!("frame {}", header.number)));
        }
        let raw = self.decode(&header, stored, &name, at)?;
        let table = u64::from(header.count) * RECORD_BYTES as u64;
        if header.kind == FrameKind::Data && table > raw.len() as u64 {
            return Err(Error::new(ErrorKind::Corrupt, "read segment", &name)
                .at(at + 20)
                .expected(format_args!("{} records", header.count))
                .found(format_args!("{} bytes", raw.len())));
        }
        Ok((Frame { header, raw, name, at }, end))
    }

    fn decode(
        &self,
        header: &FrameHeader,
        stored: Cow<'_, [u8]>,
        name: &str,
        at: u64,
    ) -> Result<Vec<u8>> {
        let bad = || Error::new(ErrorKind::Corrupt, "read segment", name).at(at);
        let plain = match &self.seal {
            None => stored,
            Some(seal) => {
                let mut content = stored.into_owned();
                if !seal.open(header.number, &header.encode_aad(), &mut content, &header.tag) {
                    return Err(bad().expected("the frame that was sealed here").found(
                        "another: the frame, its place or the segment's header was altered",
                    ));
                }
                Cow::Owned(content)
            }
        };
        match header.codec {
            Codec::Stored => Ok(plain.into_owned()),
            Codec::Zstd => {
                let raw =
                    zstd::bulk::decompress(&plain, header.raw_bytes as usize).map_err(|error| {
                        bad().message("the frame does not decompress").source(error)
                    })?;
                if raw.len() != header.raw_bytes as usize {
                    return Err(bad()
                        .expected(format_args!("{} bytes", header.raw_bytes))
                        .found(raw.len()));
                }
                Ok(raw)
            }
        }
    }
}

fn read_footer(source: &dyn SegmentSource, opener: &Opener, name: &str) -> Result<Footer> {
    let length = source.length();
    let least = (HEADER_BYTES + FRAME_HEADER_BYTES + FOOTER_BYTES) as u64;
    if length < least {
        return Err(Error::new(ErrorKind::Corrupt, "read segment", name)
            .at(length)
            .message("the segment was not sealed, or its end was cut off")
            .expected(format_args!("at least {least} bytes"))
            .found(length));
    }
    let at = length - FOOTER_BYTES as u64;
    let bytes = source.read(at..length)?;
    let bytes: &[u8; FOOTER_BYTES] = bytes.as_ref().try_into().expect("as long as was asked");
    let footer = Footer::decode(bytes, name, length)?;
    if let Some(seal) = &opener.seal {
        if !seal.open(FOOTER_NONCE, &footer.encode_aad(), &mut [], &footer.tag) {
            return Err(Error::new(ErrorKind::Corrupt, "read segment", name)
                .at(at)
                .expected("the footer that was sealed here")
                .found("another"));
        }
    }
    Ok(footer)
}

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

fn misplaced(name: &str, at: u64, expected: FrameKind, found: &FrameHeader) -> Error {
    Error::new(ErrorKind::Corrupt, "read segment", name)
        .at(at)
        .expected(format_args!("a frame of kind {expected:?}"))
        .found(format_args!("kind {:?}, frame {}", found.kind, found.number))
}
