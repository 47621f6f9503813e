//! Exports native segments to Hyper-V logs, and imports them again.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use hrl::device::{Discarded, Files, SystemFiles, file_mode};
use hrl::journal::{
    Body, Mark, PointKind, RECORD_DATA_BYTES_MAX, Record, Segment, SegmentParams, SegmentSink,
    SegmentSummary, SegmentWriter, VolumeKey,
};
use hrl::{Clock, Error, ErrorKind, PointId, Result, Timestamp};

use super::codec::{
    BLOCK_HEADER_BYTES, BlockHeader, ENTRY_BYTES, Entry, HEADER_BYTES, HypervHeader,
    METADATA_BYTES, checksum,
};
use super::reader::HypervLog;
use crate::export::{ExportReport, chunks};
use crate::random_id;

const ENTRIES_MAX: usize = (METADATA_BYTES - BLOCK_HEADER_BYTES) / ENTRY_BYTES;
/// Most data before a metadata block.
const BLOCK_DATA_BYTES_MAX: u64 = 8 << 20;
/// Most logs of one chain.
const LOGS_MAX: usize = 1 << 16;

#[derive(Default)]
struct Lost {
    marks: u64,
    flushes: u64,
    zeroes: u64,
    discards: u64,
    unordered: u64,
}

impl Lost {
    fn warnings(&self, records: u64) -> Vec<String> {
        let mut warnings = Vec::new();
        let mut warn = |count: u64, text: &str| {
            if count > 0 {
                warnings.push(format!("{count} {text}"));
            }
        };
        warn(
            self.marks,
            "marks became ends of logs; their kinds, labels and identities are not carried",
        );
        warn(self.flushes, "flushes are not carried");
        warn(self.zeroes, "zeroed ranges became writes of zeroes");
        warn(self.discards, "discarded ranges with undefined content became writes of zeroes");
        warn(self.unordered, "begins and ends of unordered intervals are not carried");
        warn(records, "records lost their sequence numbers, and their times below a second");
        warnings
    }
}

/// Exports consecutive segments to a chain of logs in a new or empty directory. Each mark ends a
/// log. `Unsupported` for extents-only segments, which have no data.
pub fn export_hyperv(
    segments: &[&Segment],
    directory: &Path,
    clock: &dyn Clock,
) -> Result<ExportReport> {
    let io = |error| Error::io("export to", directory.display(), error);
    SystemFiles.create_directory(directory).map_err(io)?;
    if std::fs::read_dir(directory).map_err(io)?.next().is_some() {
        return Err(Error::new(ErrorKind::AlreadyExists, "export to", directory.display())
            .expected("a new or empty directory")
            .found("one with files in it"));
    }
    let mut report = ExportReport::default();
    let (mut lost, mut records) = (Lost::default(), 0);
    let mut log: Option<LogWriter> = None;
    let mut previous = [0; 16];
    let zeroes = vec![0; RECORD_DATA_BYTES_MAX];
    for segment in segments {
        for number in 0..segment.frame_count() {
            let frame = segment.frame(number)?;
            for record in frame.records() {
                let record = record?;
                records += 1;
                let mut write = |offset: u64, data: &[u8]| -> Result<()> {
                    let log = match &mut log {
                        Some(log) => log,
                        None => log.insert(LogWriter::create(
                            directory,
                            report.logs.len(),
                            previous,
                            record.time,
                            clock,
                        )?),
                    };
                    report.writes += 1;
                    report.bytes += data.len() as u64;
                    log.write(offset, data, record.time)
                };
                match &record.body {
                    Body::Write { offset, data } => write(*offset, data)?,
                    Body::Zero(extent) | Body::Discard(extent, _) => {
                        let undefined =
                            matches!(record.body, Body::Discard(_, Discarded::Undefined));
                        lost.discards += u64::from(undefined);
                        lost.zeroes += u64::from(!undefined);
                        for chunk in chunks(*extent) {
                            write(chunk.offset, &zeroes[..chunk.length as usize])?;
                        }
                    }
                    Body::Touch(extent) => {
                        return Err(Error::new(ErrorKind::Unsupported, "export", segment.name())
                            .message(format_args!("the data of {extent} was not captured")));
                    }
                    Body::Flush => lost.flushes += 1,
                    Body::UnorderedBegin(_) | Body::UnorderedEnd => lost.unordered += 1,
                    Body::Mark(_) => {
                        lost.marks += 1;
                        if let Some(log) = log.take() {
                            previous = log.unique_id;
                            report.logs.push(log.close()?);
                        }
                    }
                }
            }
        }
    }
    if let Some(log) = log {
        report.logs.push(log.close()?);
    }
    report.warnings = lost.warnings(records);
    Ok(report)
}

/// Writes one log.
struct LogWriter {
    path: PathBuf,
    file: File,
    unique_id: [u8; 16],
    previous_unique_id: [u8; 16],
    created: Timestamp,
    at: u64,
    last_block: u64,
    entries: Vec<Entry>,
    data_bytes: u64,
    total_entries: u64,
}

impl LogWriter {
    fn create(
        directory: &Path,
        number: usize,
        previous: [u8; 16],
        created: Timestamp,
        clock: &dyn Clock,
    ) -> Result<Self> {
        if number >= LOGS_MAX {
            return Err(Error::new(ErrorKind::Full, "export to", directory.display())
                .expected(format_args!("at most {LOGS_MAX} logs"))
                .found(number));
        }
        let path = directory.join(format!("{number:06}.hrl"));
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(file_mode(&path))
            .open(&path)
            .map_err(|error| Error::io("export to", path.display(), error))?;
        let mut log = Self {
            path,
            file,
            unique_id: random_id(clock),
            previous_unique_id: previous,
            created,
            at: 0,
            last_block: 0,
            entries: Vec::new(),
            data_bytes: 0,
            total_entries: 0,
        };
        // Not closed until the end is known, so that readers of a partial export see a torn log.
        let header = log.header(0);
        log.append(&header)?;
        // Real logs begin with an empty block.
        log.write_block()?;
        Ok(log)
    }

    fn header(&self, end_of_log: u64) -> [u8; HEADER_BYTES] {
        HypervHeader {
            created: self.created,
            current_bytes: self.at,
            end_of_log,
            error_code: 0,
            metadata_bytes: METADATA_BYTES as u32,
            unique_id: self.unique_id,
            previous_unique_id: self.previous_unique_id,
            entries: self.total_entries,
            data_write_guid: [0; 16],
        }
        .encode()
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file
            .write_all(bytes)
            .map_err(|error| Error::io("write", self.path.display(), error))?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn write(&mut self, offset: u64, data: &[u8], time: Timestamp) -> Result<()> {
        self.append(data)?;
        self.entries.push(Entry {
            offset,
            length: data.len() as u32,
            time,
            data_checksum: checksum(data),
        });
        self.data_bytes += data.len() as u64;
        if self.entries.len() == ENTRIES_MAX || self.data_bytes >= BLOCK_DATA_BYTES_MAX {
            self.write_block()?;
        }
        Ok(())
    }

    fn write_block(&mut self) -> Result<()> {
        let mut block = vec![0; METADATA_BYTES];
        let previous = if self.last_block == 0 { 0 } else { self.at - self.last_block };
        let header = BlockHeader { previous, entries: self.entries.len() as u32 };
        block[..BLOCK_HEADER_BYTES].copy_from_slice(&header.encode());
        for (slot, entry) in
            block[BLOCK_HEADER_BYTES..].chunks_exact_mut(ENTRY_BYTES).zip(&self.entries)
        {
            slot.copy_from_slice(&entry.encode());
        }
        self.last_block = self.at;
        self.total_entries += self.entries.len() as u64;
        self.entries.clear();
        self.data_bytes = 0;
        self.append(&block)
    }

    fn close(mut self) -> Result<PathBuf> {
        if !self.entries.is_empty() {
            self.write_block()?;
        }
        let header = self.header(self.at);
        self.file
            .seek(SeekFrom::Start(0))
            .and_then(|_| self.file.write_all(&header))
            .and_then(|()| self.file.sync_all())
            .map_err(|error| Error::io("write", self.path.display(), error))?;
        Ok(self.path)
    }
}

/// Imports logs, in the order of their chain, into one native segment. The end of each log becomes
/// a crash-consistent point whose identity is the log's GUID.
pub fn import_hyperv<S: SegmentSink>(
    logs: &[HypervLog],
    params: SegmentParams,
    sink: S,
    key: Option<&VolumeKey>,
    clock: &dyn Clock,
) -> Result<(S, SegmentSummary)> {
    let mut sequence = params.first_sequence;
    let mut writer = SegmentWriter::create(sink, params, key, clock)?;
    for log in ordered(logs)? {
        let mut time = log.header().created;
        for write in log.writes() {
            let write = write?;
            time = write.time;
            let mut offset = write.offset;
            for data in write.data.chunks(RECORD_DATA_BYTES_MAX) {
                writer.append(&Record { sequence, time, body: Body::Write { offset, data } })?;
                sequence = sequence.next();
                offset += data.len() as u64;
            }
        }
        let mark = Mark {
            point: PointId(log.header().unique_id),
            kind: PointKind::Crash,
            label: "end of Hyper-V log".to_owned(),
            group: None,
        };
        writer.append(&Record { sequence, time, body: Body::Mark(mark) })?;
        sequence = sequence.next();
    }
    writer.close(None)
}

/// Returns the logs in the order of their chain. `Corrupt` if one is there twice, has two
/// successors or no predecessor.
fn ordered(logs: &[HypervLog]) -> Result<Vec<&HypervLog>> {
    let bad = |log: &HypervLog| Error::new(ErrorKind::Corrupt, "chain", log.name());
    for (at, log) in logs.iter().enumerate() {
        if let Some(twin) =
            logs[..at].iter().find(|l| l.header().unique_id == log.header().unique_id)
        {
            return Err(bad(log).message(format_args!("{} has the same GUID", twin.name())));
        }
        let previous = log.header().previous_unique_id;
        if let Some(rival) = logs[..at].iter().find(|l| l.header().previous_unique_id == previous) {
            return Err(bad(log).message(format_args!("{} follows the same log", rival.name())));
        }
    }
    let first = logs.iter().find(|log| !logs.iter().any(|other| follows(log, other)));
    let mut chain: Vec<&HypervLog> = first.into_iter().collect();
    while let Some(next) = chain.last().and_then(|last| logs.iter().find(|log| follows(log, last)))
    {
        if chain.len() == logs.len() {
            return Err(bad(next).message("the logs form a circle"));
        }
        chain.push(next);
    }
    if chain.len() != logs.len() {
        let lost = logs
            .iter()
            .find(|log| !chain.iter().any(|c| c.header().unique_id == log.header().unique_id));
        return Err(lost.or(logs.first()).map_or_else(
            || {
                Error::new(ErrorKind::InvalidInput, "import", "Hyper-V logs")
                    .expected("at least one log")
                    .found("none")
            },
            |log| bad(log).message("the log before it is missing"),
        ));
    }
    Ok(chain)
}

/// Returns true if `log` follows `before`. A log without a predecessor is the first, even if
/// another log's GUID is zero.
fn follows(log: &HypervLog, before: &HypervLog) -> bool {
    let previous = log.header().previous_unique_id;
    previous != [0; 16] && previous == before.header().unique_id
}
