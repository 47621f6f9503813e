//! Writes one segment: records into frames, frames into a sink, index and footer at the end.
//!
//! Invariants: the sequences of a log only grow, the offsets of an image or merged segment only
//! grow. The sink gets whole frames. After a crash `repair` finds everything that a successful
//! `sync` covered. The data of a record is copied once, into the open frame; that is checksummed
//! and encrypted in place.
//!
//! A refused record leaves the writer as it was. After a failure of the sink the end of the segment
//! is unknown: the writer is poisoned, and the segment is abandoned or repaired.

use super::cipher::SegmentCipher;
use super::format::{
    self, Aead, Codec, DATA_FRAMES_MAX, EXTENT_RECORDS_MAX, FOOTER_BYTES, FOOTER_NUMBER,
    FRAME_HEADER_BYTES, FRAME_TARGET_BYTES_MAX, Footer, FrameHeader, FrameKind, HEADER_BYTES,
    Header, INDEX_ENTRY_BYTES, INDEX_FRAME_ENTRIES_MAX, IndexEntry, IndexKind, NOTES_RECORDS_MAX,
    Notes, RECORD_BYTES,
};
use super::index::last_writers;
use super::{
    Body, LABEL_BYTES_MAX, RECORD_DATA_BYTES_MAX, Record, SegmentKind, SegmentParams, SegmentSink,
    SegmentSummary, VolumeKey,
};
use crate::clock::{Clock, random_bytes};
use crate::device::Discarded;
use crate::error::{Error, ErrorKind, Result};
use crate::extent::Extent;
use crate::policy::Compression;
use crate::units::{ChainHash, KeyId, Sequence, Timestamp};

/// Size and number of the samples of a frame that show whether compression can pay.
const PROBE_PIECE_BYTES: usize = 128;
const PROBE_PIECES: usize = 64;
/// Compression must save at least one part in this many, or the frame is stored.
const PAYS_ONE_IN: usize = 16;
/// Most bytes that a record adds to a segment beside its data: its row in the frame, its places in
/// index and notes, and the header of a frame. A segment without records takes no more than this
/// either.
pub(crate) const RECORD_EXTRA_BYTES_MAX: u64 = 1024;
/// Frames shorter than this are compressed without a probe.
const PROBE_FRAME_BYTES_MIN: usize = 64 << 10;

/// Writes one segment to a sink.
pub struct SegmentWriter<S: SegmentSink> {
    sink: S,
    /// The sink failed, or a call of it has not returned.
    poisoned: bool,
    params: SegmentParams,
    salt: [u8; 16],
    cipher: Option<SegmentCipher>,
    zstd: Option<zstd::bulk::Compressor<'static>>,
    compressing: bool,
    chain: blake3::Hasher,
    /// Content of the open frame: data first, then (at the flush) the record table.
    frame: Vec<u8>,
    table: Vec<u8>,
    packed: Vec<u8>,
    frame_records: u32,
    /// Lowest and highest sequence in the open frame.
    frame_span: Option<(Sequence, Sequence)>,
    /// What is known of the footer; its length is what was written.
    footer: Footer,
    pieces: Vec<IndexEntry>,
    notes: Notes,
    /// Bytes of the marks and order changes in the notes.
    notes_bytes: u64,
    last_offset: u64,
    /// Times of the records of lowest and highest sequence.
    times: Option<(Timestamp, Timestamp)>,
    first_record: Sequence,
}

impl<S: SegmentSink> SegmentWriter<S> {
    /// Writes the header of a new segment. With a key, frames are encrypted.
    /// `InvalidInput` if the block size is no power of two, or `frame_bytes` is zero or above 8
    /// MiB.
    pub fn create(
        mut sink: S,
        params: SegmentParams,
        key: Option<&VolumeKey>,
        clock: &dyn Clock,
    ) -> Result<Self> {
        check_params(&params)?;
        let salt = random_bytes(clock);
        let header = header_of(&params, salt, key);
        let aead = header.aead;
        let header = header.encode();
        sink.append(&header)?;
        let zstd = match params.compression {
            Compression::None => None,
            Compression::Zstd(level) => Some(
                zstd::bulk::Compressor::new(level)
                    .map_err(|error| Error::io("compress segment", "zstd", error))?,
            ),
        };
        let mut chain = blake3::Hasher::new();
        chain.update(&header);
        Ok(Self {
            sink,
            poisoned: false,
            salt,
            cipher: key.and_then(|key| SegmentCipher::new(key, &header, aead)),
            zstd,
            compressing: true,
            chain,
            frame: Vec::new(),
            table: Vec::new(),
            packed: Vec::new(),
            frame_records: 0,
            frame_span: None,
            footer: Footer { length: HEADER_BYTES as u64, ..Footer::default() },
            pieces: Vec::new(),
            notes: Notes::default(),
            notes_bytes: 0,
            last_offset: 0,
            times: None,
            first_record: Sequence::MAX,
            params,
        })
    }

    /// Sets whether frames are compressed from now on, if the parameters ask for it and it pays.
    /// Default: yes.
    pub fn set_compressing(&mut self, yes: bool) {
        self.compressing = yes;
    }

    /// Adds a record. In a log its sequence must be above the last one's. In a merged segment or
    /// image its offset must not be below the last one's.
    ///
    /// `InvalidInput` otherwise, and for a record outside the volume or above the limits of a
    /// record. `Full` at a limit of the segment: close it and go on in another. After an error of
    /// the sink, every later call fails with `Poisoned`.
    pub fn append(&mut self, record: &Record<'_>) -> Result<()> {
        self.check_sound()?;
        self.check(record)?;
        let data_offset = self.frame.len() as u32;
        format::encode_record(record, &mut self.table, &mut self.frame);
        self.note(record, data_offset);
        self.frame_records += 1;
        self.footer.records += 1;
        self.note_place(record);
        if (self.frame.len() + self.table.len()) as u64 >= self.params.frame_bytes {
            self.flush_frame()?;
        }
        Ok(())
    }

    /// Passes the open frame to the sink, unless it is empty.
    pub fn flush_frame(&mut self) -> Result<()> {
        if self.frame_records == 0 {
            return Ok(());
        }
        let mut raw = std::mem::take(&mut self.frame);
        raw.append(&mut self.table);
        self.notes.frame_offsets.push(self.footer.length);
        let count = std::mem::take(&mut self.frame_records);
        self.write_frame(FrameKind::Data, &mut raw, count)?;
        self.frame_span = None;
        raw.clear();
        self.frame = raw;
        self.footer.data_frames += 1;
        Ok(())
    }

    /// Passes the open frame to the sink and makes everything durable.
    pub fn sync(&mut self) -> Result<()> {
        self.flush_frame()?;
        self.check_sound()?;
        self.poisoned = true;
        self.sink.sync()?;
        self.poisoned = false;
        Ok(())
    }

    /// Returns the bytes passed to the sink and those waiting in the open frame.
    pub fn bytes(&self) -> u64 {
        self.footer.length + (self.frame.len() + self.table.len()) as u64
    }

    /// Returns the most bytes that the segment takes if it is closed now.
    pub fn closed_bytes_max(&self) -> u64 {
        // Where changes overlap, what is left of one may be several pieces: at most two for each.
        let entries = 2 * self.pieces.len() as u64;
        let index_frames = entries.div_ceil(u64::from(INDEX_FRAME_ENTRIES_MAX));
        let notes = self.notes_bytes + 8 * (self.notes.frame_offsets.len() as u64 + 1);
        // The open frame and the notes have a header each.
        let headers = (index_frames + 2) * FRAME_HEADER_BYTES as u64;
        let index = entries * INDEX_ENTRY_BYTES as u64;
        self.bytes() + headers + index + notes + FOOTER_BYTES as u64
    }

    /// Returns the number of records appended.
    pub fn records(&self) -> u64 {
        self.footer.records
    }

    /// Returns the sequence of the last record appended.
    pub fn last_sequence(&self) -> Sequence {
        self.footer.last_sequence
    }

    /// Writes index and footer, syncs, and returns the sink and a summary of the segment.
    ///
    /// A log ends with its last record; a merged segment or image covers up to `last_sequence`.
    pub fn close(mut self, last_sequence: Option<Sequence>) -> Result<(S, SegmentSummary)> {
        self.flush_frame()?;
        self.footer.last_sequence =
            self.footer.last_sequence.max(last_sequence.unwrap_or_default());
        self.footer.index_offset = self.footer.length;
        self.write_index()?;
        self.footer.notes_offset = self.footer.length;
        let (mut raw, count) = self.notes.encode();
        self.write_frame(FrameKind::Notes, &mut raw, count)?;
        let mut footer = self.footer;
        footer.chain = ChainHash(*self.chain.finalize().as_bytes());
        footer.length += FOOTER_BYTES as u64;
        let created = self.params.created;
        (footer.first_time, footer.last_time) = self.times.unwrap_or((created, created));
        if let Some(cipher) = &self.cipher {
            footer.tag = cipher.encrypt(FOOTER_NUMBER, &footer.encode_aad(), &mut []);
        }
        self.sink.append(&footer.encode())?;
        self.sink.sync()?;
        let summary = summary_of(&self.params, self.salt, &footer, self.notes);
        Ok((self.sink, summary))
    }

    /// Sets the times of the first and last record that a merged segment or image stands for,
    /// instead of the times of the records in it.
    pub(super) fn set_times(&mut self, first: Timestamp, last: Timestamp) {
        debug_assert!(self.params.kind != SegmentKind::Log);
        self.times = Some((first, last));
    }

    fn check_sound(&self) -> Result<()> {
        if self.poisoned {
            return Err(Error::new(ErrorKind::Poisoned, "append to", "segment")
                .message("an earlier append or sync failed, so its end is unknown"));
        }
        Ok(())
    }

    fn check(&self, record: &Record<'_>) -> Result<()> {
        let extent = record.body.extent();
        if self.params.kind == SegmentKind::Log {
            let least = self.params.first_sequence.max(self.footer.last_sequence.next());
            if record.sequence < least || record.sequence == Sequence::MAX {
                let expected = format_args!("sequence {least} or above, below 2^64 - 1");
                return Err(refused(record).expected(expected).found(record.sequence));
            }
        } else if !extent.is_empty() && extent.offset < self.last_offset {
            let expected = format_args!("offset {} or above", self.last_offset);
            return Err(refused(record).expected(expected).found(extent));
        }
        check_body(&record.body, record)?;
        match extent.offset.checked_add(extent.length) {
            Some(end) if end <= self.params.device_bytes => {}
            _ => {
                return Err(refused(record)
                    .expected(format_args!("a range within {} bytes", self.params.device_bytes))
                    .found(format_args!("{} bytes at {}", extent.length, extent.offset)));
            }
        }
        self.check_room(record)
    }

    fn check_room(&self, record: &Record<'_>) -> Result<()> {
        let full = |what: &str, limit: u64| {
            Err(Error::new(ErrorKind::Full, "append to", "segment")
                .at(record.body.extent().offset)
                .message("the segment is at a limit of the format: close it and go on in another")
                .expected(format_args!("at most {limit} {what}")))
        };
        if self.footer.data_frames >= DATA_FRAMES_MAX {
            return full("data frames", u64::from(DATA_FRAMES_MAX));
        }
        match record.body {
            Body::Flush => Ok(()),
            Body::Mark(_) | Body::UnorderedBegin(_) | Body::UnorderedEnd => {
                if self.notes.records() >= NOTES_RECORDS_MAX {
                    return full("marks and order changes", u64::from(NOTES_RECORDS_MAX));
                }
                Ok(())
            }
            _ if self.pieces.len() as u64 >= EXTENT_RECORDS_MAX => {
                full("changes", EXTENT_RECORDS_MAX)
            }
            _ => Ok(()),
        }
    }

    /// Records what frame header and footer will say of the record's place.
    fn note_place(&mut self, record: &Record<'_>) {
        let sequence = record.sequence;
        let (low, high) = self.frame_span.unwrap_or((sequence, sequence));
        self.frame_span = Some((low.min(sequence), high.max(sequence)));
        let (mut first, mut last) = self.times.unwrap_or((record.time, record.time));
        if sequence < self.first_record {
            (self.first_record, first) = (sequence, record.time);
        }
        if sequence >= self.footer.last_sequence {
            (self.footer.last_sequence, last) = (sequence, record.time);
        }
        self.times = Some((first, last));
        let extent = record.body.extent();
        if !extent.is_empty() {
            self.last_offset = extent.offset;
        }
    }

    /// Records what index and notes will say of the record.
    fn note(&mut self, record: &Record<'_>, data_offset: u32) {
        let kind = match &record.body {
            Body::Write { data, .. } => {
                self.footer.data_bytes += data.len() as u64;
                IndexKind::Data
            }
            Body::Discard(_, Discarded::Undefined) => IndexKind::Undefined,
            Body::Zero(_) | Body::Discard(..) => IndexKind::Zero,
            Body::Touch(_) => IndexKind::Touch,
            Body::Flush => return,
            Body::Mark(_) | Body::UnorderedBegin(_) | Body::UnorderedEnd => {
                self.notes.add(record);
                self.notes_bytes +=
                    (RECORD_BYTES + self.frame.len()) as u64 - u64::from(data_offset);
                return;
            }
        };
        self.pieces.push(IndexEntry {
            extent: record.body.extent(),
            kind,
            sequence: record.sequence,
            frame: self.footer.data_frames,
            data_offset,
        });
    }

    fn write_index(&mut self) -> Result<()> {
        let entries = last_writers(std::mem::take(&mut self.pieces));
        let mut raw = Vec::new();
        for chunk in entries.chunks(INDEX_FRAME_ENTRIES_MAX as usize) {
            raw.clear();
            for entry in chunk {
                format::encode_index_entry(entry, &mut raw);
            }
            let count = chunk.len() as u32;
            self.write_frame(FrameKind::Index, &mut raw, count)?;
        }
        Ok(())
    }

    /// Compresses, encrypts, checksums and appends one frame. Overwrites `raw`.
    fn write_frame(&mut self, kind: FrameKind, raw: &mut [u8], count: u32) -> Result<()> {
        self.check_sound()?;
        assert!(
            raw.len() <= format::FRAME_RAW_BYTES_MAX,
            "the limits of records keep frames small"
        );
        let (first_sequence, last_sequence) = self.frame_span.unwrap_or_default();
        let raw_bytes = raw.len() as u32;
        let packed = self.compress(raw);
        let stored: &mut [u8] = if packed { &mut self.packed } else { raw };
        let mut header = FrameHeader {
            number: self.footer.frames,
            kind,
            codec: if packed { Codec::Zstd } else { Codec::Stored },
            stored_bytes: stored.len() as u32,
            raw_bytes,
            count,
            first_sequence,
            last_sequence,
            tag: [0; 16],
        };
        if let Some(cipher) = &self.cipher {
            header.tag = cipher.encrypt(header.number, &header.encode_aad(), stored);
        }
        let encoded = header.encode(stored);
        self.chain.update(&encoded);
        self.poisoned = true;
        self.sink.append(&encoded)?;
        self.sink.append(stored)?;
        self.poisoned = false;
        self.footer.length += (FRAME_HEADER_BYTES + stored.len()) as u64;
        self.footer.frames += 1;
        Ok(())
    }

    /// Compresses `raw` into `self.packed`; returns false if that does not pay.
    fn compress(&mut self, raw: &[u8]) -> bool {
        let Some(zstd) = self.zstd.as_mut().filter(|_| self.compressing) else { return false };
        if raw.len() >= PROBE_FRAME_BYTES_MIN && looks_random(raw) {
            return false;
        }
        self.packed.clear();
        self.packed.reserve(zstd::zstd_safe::compress_bound(raw.len()));
        zstd.compress_to_buffer(raw, &mut self.packed).is_ok()
            && self.packed.len() <= raw.len() - raw.len() / PAYS_ONE_IN
    }
}

fn refused(record: &Record<'_>) -> Error {
    Error::new(ErrorKind::InvalidInput, "append to", "segment").at(record.body.extent().offset)
}

fn check_params(params: &SegmentParams) -> Result<()> {
    let refused = || Error::new(ErrorKind::InvalidInput, "create", "segment");
    if !params.block_bytes.is_power_of_two() {
        return Err(refused()
            .expected("a block size that is a power of two")
            .found(params.block_bytes));
    }
    if params.frame_bytes == 0 || params.frame_bytes > FRAME_TARGET_BYTES_MAX {
        return Err(refused()
            .expected(format_args!("frames of 1 to {FRAME_TARGET_BYTES_MAX} bytes"))
            .found(params.frame_bytes));
    }
    Ok(())
}

fn check_body(body: &Body<'_>, record: &Record<'_>) -> Result<()> {
    match body {
        Body::Write { data, .. } if data.is_empty() || data.len() > RECORD_DATA_BYTES_MAX => {
            Err(refused(record)
                .expected(format_args!("1 to {RECORD_DATA_BYTES_MAX} bytes"))
                .found(data.len()))
        }
        Body::Mark(mark) if mark.label.len() > LABEL_BYTES_MAX => Err(refused(record)
            .expected(format_args!("a label of at most {LABEL_BYTES_MAX} bytes"))
            .found(mark.label.len())),
        Body::Zero(Extent { length: 0, .. })
        | Body::Discard(Extent { length: 0, .. }, _)
        | Body::Touch(Extent { length: 0, .. }) => {
            Err(refused(record).expected("a range that is not empty").found("0 bytes"))
        }
        Body::Discard(_, Discarded::Ignored) => {
            Err(refused(record).expected("a discard that did something").found("an ignored one"))
        }
        _ => Ok(()),
    }
}

/// Returns whether a sample, spread over `raw`, has every byte about as often as random data has.
/// Then compression cannot pay, unless repetitions lie further apart than a piece of the sample is
/// long. The sample costs a hundredth of compressing.
fn looks_random(raw: &[u8]) -> bool {
    let mut counts = [[0_u32; 256]; 2];
    for piece in 0..PROBE_PIECES {
        // Irregular places, to meet every kind of block; not the end, which is the record table.
        let place = (piece as u32).wrapping_mul(0x9e37_79b9);
        let room = (raw.len() - raw.len() / 16 - PROBE_PIECE_BYTES) as u64;
        let start = ((room * u64::from(place)) >> 32) as usize;
        for pair in raw[start..start + PROBE_PIECE_BYTES].chunks_exact(2) {
            // Two tables, so that equal neighbours do not wait for each other.
            counts[0][usize::from(pair[0])] += 1;
            counts[1][usize::from(pair[1])] += 1;
        }
    }
    let count = |byte: usize| u64::from(counts[0][byte] + counts[1][byte]);
    let squares: u64 = (0..256).map(|byte| count(byte) * count(byte)).sum();
    // Of n random bytes the sum of squares is n * n / 256 + n, within a quarter of a hundredth.
    let bytes = (PROBE_PIECES * PROBE_PIECE_BYTES) as u64;
    squares < (bytes * bytes / 256 + bytes) * 104 / 100
}

fn header_of(params: &SegmentParams, salt: [u8; 16], key: Option<&VolumeKey>) -> Header {
    Header {
        kind: params.kind,
        codec: match params.compression {
            Compression::None => Codec::Stored,
            Compression::Zstd(_) => Codec::Zstd,
        },
        aead: if key.is_some() { Aead::ChaCha20Blake3 } else { Aead::None },
        block_bytes: params.block_bytes,
        volume: params.volume,
        key_id: key.map_or(KeyId::default(), VolumeKey::id),
        salt,
        epoch: params.epoch,
        first_sequence: params.first_sequence,
        device_bytes: params.device_bytes,
        created: params.created,
        previous: params.previous,
        replaces_through: params.replaces_through.unwrap_or_default(),
    }
}

/// Summarises a closed segment.
pub(super) fn summary_of(
    params: &SegmentParams,
    salt: [u8; 16],
    footer: &Footer,
    notes: Notes,
) -> SegmentSummary {
    SegmentSummary {
        kind: params.kind,
        volume: params.volume,
        epoch: params.epoch,
        first_sequence: params.first_sequence,
        last_sequence: footer.last_sequence,
        first_time: footer.first_time,
        last_time: footer.last_time,
        salt,
        previous: params.previous,
        // A merged segment takes the place of the last one that it replaces; the chain goes on
        // there.
        chain: params.replaces_through.unwrap_or(footer.chain),
        records: footer.records,
        data_bytes: footer.data_bytes,
        stored_bytes: footer.length,
        marks: notes.marks,
        order_changes: notes.order_changes,
    }
}
