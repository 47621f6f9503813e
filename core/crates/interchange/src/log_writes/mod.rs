//! Reads and writes logs of the kernel's dm-log-writes target, version 1, and exchanges them with
//! native segments.
//!
//! A log is a row of sectors: the superblock, then for each entry a sector that describes it and,
//! for a write, its data. There are no checksums, times or identities. The kernel logs a write
//! after its flush, so a log is in the order in which writes became durable. A native segment is in
//! the order in which they completed. Both agree wherever everything was flushed.
//!
//! An export reports all that it cannot carry. A malformed entry is an error with its offset. The
//! superblock counts the entries, and nothing after the last one is read.
//!
//! The format: <https://docs.kernel.org/admin-guide/device-mapper/log-writes.html>,
//! `drivers/md/dm-log-writes.c`.

use std::borrow::Cow;
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use hrl::device::{Discarded, file_mode};
use hrl::journal::{
    Body, LABEL_BYTES_MAX, Mark, PointKind, RECORD_DATA_BYTES_MAX, Record, Segment, SegmentParams,
    SegmentSink, SegmentSource, SegmentSummary, SegmentWriter, VolumeKey, open_mapped,
};
use hrl::{Clock, Error, ErrorKind, Extent, PointId, Result};

use crate::export::{ExportReport, chunks};
use crate::random_id;

const MAGIC: u64 = 0x006a_7366_7773_6872;
const VERSION: u64 = 1;
/// Magic, version, number of entries, bytes of a sector.
pub(crate) const SUPER_BYTES: u64 = 28;
/// First sector, number of sectors, flags, bytes of a mark.
const ENTRY_BYTES: u64 = 32;
/// Sector size of exported logs, which every device can address.
const SECTOR_BYTES: u64 = 512;
const SECTOR_BYTES_MAX: u64 = 64 << 10;
/// The kernel's mark at the end of a log.
const END: &str = "dm-log-writes-end";

const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;
const MARK: u64 = 8;
const METADATA: u64 = 16;

/// Content of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogWritesBody<'a> {
    /// Data was written.
    Write {
        /// First byte of the disk written.
        offset: u64,
        /// The data; never empty.
        data: Cow<'a, [u8]>,
    },
    /// The extent was discarded.
    Discard(Extent),
    /// A mark with this text.
    Mark(String),
    /// Nothing but a flush.
    Nothing,
}

/// An entry of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogWritesEntry<'a> {
    /// Everything before it was flushed.
    pub flush: bool,
    /// It was durable when it completed.
    pub forced: bool,
    /// Its content.
    pub body: LogWritesBody<'a>,
}

/// A log of dm-log-writes: a copy of its log device, or an export.
pub struct LogWritesLog {
    source: Box<dyn SegmentSource>,
    sector_bytes: u64,
    entries: u64,
}

impl LogWritesLog {
    /// Opens a log file. `Corrupt` carries the offset of the first wrong byte; `Unsupported` means
    /// another version.
    pub fn open(path: &Path) -> Result<Self> {
        Self::from_source(open_mapped(path)?)
    }

    /// Opens a log from any source.
    pub fn from_source(source: Box<dyn SegmentSource>) -> Result<Self> {
        let name = source.name();
        let bytes = source.read(0..SUPER_BYTES)?;
        if u64_at(&bytes, 0) != MAGIC {
            return Err(bad(&name, 0)
                .expected(format_args!("magic {MAGIC:#x}"))
                .found(format_args!("{:#x}", u64_at(&bytes, 0))));
        }
        let version = u64_at(&bytes, 8);
        if version != VERSION {
            return Err(Error::new(ErrorKind::Unsupported, "read dm-log-writes log", name)
                .at(8)
                .expected(format_args!("version {VERSION}"))
                .found(version));
        }
        let entries = u64_at(&bytes, 16);
        let sector_bytes = u64::from(u32_at(&bytes, 24));
        if !sector_bytes.is_power_of_two()
            || !(SECTOR_BYTES..=SECTOR_BYTES_MAX).contains(&sector_bytes)
        {
            return Err(bad(&name, 24)
                .expected(format_args!(
                    "a power of two from {SECTOR_BYTES} to {SECTOR_BYTES_MAX} bytes a sector"
                ))
                .found(sector_bytes));
        }
        let room = (source.length() / sector_bytes).saturating_sub(1);
        if entries > room {
            return Err(bad(&name, 16)
                .expected(format_args!("at most {room} entries in {} bytes", source.length()))
                .found(entries));
        }
        drop(bytes);
        Ok(Self { source, sector_bytes, entries })
    }

    /// Returns the name of the source.
    pub fn name(&self) -> String {
        self.source.name()
    }

    /// Returns the number of entries, with marks and flushes.
    pub fn entry_count(&self) -> u64 {
        self.entries
    }

    /// Returns the entries in order, up to and including the first error.
    pub fn entries(&self) -> impl Iterator<Item = Result<LogWritesEntry<'_>>> + '_ {
        let mut at = self.sector_bytes;
        let mut left = self.entries;
        std::iter::from_fn(move || {
            left = left.checked_sub(1)?;
            let entry = self.entry(at).map(|(entry, end)| {
                at = end;
                entry
            });
            if entry.is_err() {
                left = 0;
            }
            Some(entry)
        })
    }

    /// Reads the entry at `at`. Returns it and the offset of the next one.
    fn entry(&self, at: u64) -> Result<(LogWritesEntry<'_>, u64)> {
        let name = self.name();
        let data_at = at.saturating_add(self.sector_bytes);
        let sector = self.source.read(at..data_at)?;
        let flags = u64_at(&sector, 16);
        if flags & !(FLUSH | FUA | DISCARD | MARK | METADATA) != 0
            || flags & (DISCARD | MARK) == DISCARD | MARK
        {
            return Err(bad(&name, at + 16)
                .expected("flags of a write, a discard or a mark")
                .found(format_args!("{flags:#x}")));
        }
        let extent = self.extent(&sector, &name, at)?;
        let is_discard = flags & DISCARD != 0;
        let end = if is_discard { data_at } else { data_at.saturating_add(extent.length) };
        let body = if flags & MARK != 0 {
            LogWritesBody::Mark(mark_text(&sector, &name, at)?)
        } else if extent.is_empty() {
            LogWritesBody::Nothing
        } else if is_discard {
            LogWritesBody::Discard(extent)
        } else {
            LogWritesBody::Write { offset: extent.offset, data: self.source.read(data_at..end)? }
        };
        let (flush, forced) = (flags & FLUSH != 0, flags & FUA != 0);
        Ok((LogWritesEntry { flush, forced, body }, end))
    }

    /// Returns the extent of the disk that an entry covers.
    fn extent(&self, sector: &[u8], name: &str, at: u64) -> Result<Extent> {
        let (first, count) = (u64_at(sector, 0), u64_at(sector, 8));
        let bytes = |sectors: u64| sectors.checked_mul(self.sector_bytes);
        first
            .checked_add(count)
            .and_then(bytes)
            .and_then(|_| Some(Extent { offset: bytes(first)?, length: bytes(count)? }))
            .ok_or_else(|| {
                bad(name, at)
                    .expected(format_args!("sectors of {} that end below 2^64", self.sector_bytes))
                    .found(format_args!("{first}+{count}"))
            })
    }
}

/// Returns the text of a mark, which follows its entry in the same sector.
fn mark_text(sector: &[u8], name: &str, at: u64) -> Result<String> {
    let room = sector.len() as u64 - ENTRY_BYTES;
    let length = u64_at(sector, 24);
    if length > room {
        return Err(bad(name, at + 24)
            .expected(format_args!("a mark of at most {room} bytes"))
            .found(length));
    }
    let text = &sector[ENTRY_BYTES as usize..][..length as usize];
    Ok(String::from_utf8_lossy(text).into_owned())
}

/// Returns whether a file that begins with `bytes` is a log.
pub(crate) fn is_log_writes(bytes: &[u8]) -> bool {
    bytes.len() as u64 >= SUPER_BYTES && u64_at(bytes, 0) == MAGIC
}

/// Exports consecutive segments to one log in a new file. `Unsupported` for extents-only segments,
/// which have no data, and for changes that are not whole sectors of 512 bytes.
pub fn export_log_writes(segments: &[&Segment], path: &Path) -> Result<ExportReport> {
    let mut log = LogWriter::create(path)?;
    let mut lost = Lost::default();
    let zeroes = vec![0; RECORD_DATA_BYTES_MAX];
    for segment in segments {
        for number in 0..segment.frame_count() {
            let frame = segment.frame(number)?;
            for record in frame.records() {
                let record = record?;
                lost.records += 1;
                match &record.body {
                    Body::Write { offset, data } => log.write(*offset, data)?,
                    Body::Discard(extent, Discarded::Undefined) => log.discard(*extent)?,
                    Body::Zero(extent) | Body::Discard(extent, _) => {
                        lost.zeroes += 1;
                        for chunk in chunks(*extent) {
                            log.write(chunk.offset, &zeroes[..chunk.length as usize])?;
                        }
                    }
                    Body::Touch(extent) => {
                        return Err(Error::new(ErrorKind::Unsupported, "export", segment.name())
                            .message(format_args!("the data of {extent} was not captured")));
                    }
                    Body::Flush => log.entry(Extent::default(), FLUSH, &[])?,
                    Body::UnorderedBegin(_) | Body::UnorderedEnd => lost.unordered += 1,
                    Body::Mark(mark) => {
                        lost.marks += 1;
                        log.mark(&mark.label)?;
                    }
                }
            }
        }
    }
    log.mark(END)?;
    let mut report = log.close()?;
    report.warnings = lost.warnings();
    Ok(report)
}

#[derive(Default)]
struct Lost {
    records: u64,
    marks: u64,
    zeroes: u64,
    unordered: u64,
}

impl Lost {
    fn warnings(&self) -> Vec<String> {
        let counted = [
            (self.marks, "marks kept their labels; their kinds and identities are not carried"),
            (self.zeroes, "zeroed ranges became writes of zeroes"),
            (self.unordered, "begins and ends of unordered intervals are not carried"),
            (self.records, "records lost their sequence numbers and times"),
        ];
        counted.iter().filter(|(n, _)| *n > 0).map(|(n, text)| format!("{n} {text}")).collect()
    }
}

/// Writes one log. Until it is closed its superblock counts no entries.
struct LogWriter {
    path: PathBuf,
    file: BufWriter<File>,
    entries: u64,
    writes: u64,
    bytes: u64,
}

impl LogWriter {
    fn create(path: &Path) -> Result<Self> {
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(file_mode(path))
            .open(path)
            .map_err(|error| Error::io("export to", path.display(), error))?;
        let file = BufWriter::new(file);
        let mut log = Self { path: path.to_owned(), file, entries: 0, writes: 0, bytes: 0 };
        log.superblock()?;
        Ok(log)
    }

    fn superblock(&mut self) -> Result<()> {
        let mut sector = [0; SECTOR_BYTES as usize];
        sector[..8].copy_from_slice(&MAGIC.to_le_bytes());
        sector[8..16].copy_from_slice(&VERSION.to_le_bytes());
        sector[16..24].copy_from_slice(&self.entries.to_le_bytes());
        sector[24..28].copy_from_slice(&(SECTOR_BYTES as u32).to_le_bytes());
        self.append(&sector)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|error| self.failed(error))
    }

    fn failed(&self, error: std::io::Error) -> Error {
        Error::io("write", self.path.display(), error)
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        self.entry(Extent { offset, length: data.len() as u64 }, 0, &[])?;
        self.writes += 1;
        self.bytes += data.len() as u64;
        self.append(data)
    }

    fn discard(&mut self, extent: Extent) -> Result<()> {
        self.entry(extent, DISCARD, &[])
    }

    fn mark(&mut self, text: &str) -> Result<()> {
        self.entry(Extent::default(), MARK, text.as_bytes())
    }

    fn entry(&mut self, extent: Extent, flags: u64, mark: &[u8]) -> Result<()> {
        if !extent.offset.is_multiple_of(SECTOR_BYTES)
            || !extent.length.is_multiple_of(SECTOR_BYTES)
        {
            return Err(Error::new(ErrorKind::Unsupported, "export to", self.path.display())
                .expected(format_args!("changes of whole sectors of {SECTOR_BYTES} bytes"))
                .found(extent));
        }
        let words =
            [extent.offset / SECTOR_BYTES, extent.length / SECTOR_BYTES, flags, mark.len() as u64];
        let mut sector = [0; SECTOR_BYTES as usize];
        for (slot, word) in sector.chunks_exact_mut(8).zip(words) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        // A label has at most 255 bytes, and a sector has space for 480.
        sector[ENTRY_BYTES as usize..][..mark.len()].copy_from_slice(mark);
        self.entries += 1;
        self.append(&sector)
    }

    fn close(mut self) -> Result<ExportReport> {
        self.file.seek(SeekFrom::Start(0)).map_err(|error| self.failed(error))?;
        self.superblock()?;
        self.file
            .flush()
            .and_then(|()| self.file.get_ref().sync_all())
            .map_err(|error| self.failed(error))?;
        let Self { path, writes, bytes, .. } = self;
        Ok(ExportReport { logs: vec![path], writes, bytes, warnings: Vec::new() })
    }
}

/// Imports a log into one native segment. A mark becomes a crash-consistent point whose label is
/// the mark's text, cut to 255 bytes; the kernel's mark at the end becomes no point. Records get
/// the time at which `params` was created. The flag that a write was durable when it completed is
/// lost.
pub fn import_log_writes<S: SegmentSink>(
    log: &LogWritesLog,
    params: SegmentParams,
    sink: S,
    key: Option<&VolumeKey>,
    clock: &dyn Clock,
) -> Result<(S, SegmentSummary)> {
    let (mut sequence, time) = (params.first_sequence, params.created);
    let mut writer = SegmentWriter::create(sink, params, key, clock)?;
    let mut append = |body: Body<'_>| -> Result<()> {
        writer.append(&Record { sequence, time, body })?;
        sequence = sequence.next();
        Ok(())
    };
    for entry in log.entries() {
        let entry = entry?;
        if entry.flush {
            append(Body::Flush)?;
        }
        match entry.body {
            LogWritesBody::Write { mut offset, data } => {
                for data in data.chunks(RECORD_DATA_BYTES_MAX) {
                    append(Body::Write { offset, data })?;
                    offset += data.len() as u64;
                }
            }
            LogWritesBody::Discard(extent) => {
                append(Body::Discard(extent, Discarded::Undefined))?;
            }
            LogWritesBody::Mark(text) if text != END => {
                let point = PointId(random_id(clock));
                let (kind, label) = (PointKind::Crash, label_of(&text));
                append(Body::Mark(Mark { point, kind, label, group: None }))?;
            }
            LogWritesBody::Mark(_) | LogWritesBody::Nothing => {}
        }
    }
    writer.close(None)
}

/// Cuts a text to the length of a label.
fn label_of(text: &str) -> String {
    let mut end = text.len().min(LABEL_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

/// Returns the end of the highest extent that a log changes.
pub(crate) fn end_of_changes(log: &LogWritesLog) -> Result<u64> {
    let mut end = 0;
    for entry in log.entries() {
        end = end.max(match entry?.body {
            LogWritesBody::Write { offset, data } => offset + data.len() as u64,
            LogWritesBody::Discard(extent) => extent.end(),
            LogWritesBody::Mark(_) | LogWritesBody::Nothing => 0,
        });
    }
    Ok(end)
}

fn bad(name: &str, at: u64) -> Error {
    Error::new(ErrorKind::Corrupt, "read dm-log-writes log", name).at(at)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

#[cfg(test)]
mod tests;
