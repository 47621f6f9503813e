//! Converts files from one journal format into another.

use std::path::{Path, PathBuf};

use hrl::device::SystemFiles;
use hrl::journal::{
    FileSink, KeyRing, Segment, SegmentKind, SegmentParams, SegmentSummary, open_mapped,
};
use hrl::{
    ChainHash, Clock, Compression, Epoch, Error, ErrorKind, Policy, Result, Sequence, VolumeId,
};

use crate::export::ExportReport;
use crate::foreign::ForeignFormat;
use crate::hyperv::{HypervLog, export_hyperv, import_hyperv};
use crate::log_writes::{LogWritesLog, end_of_changes, export_log_writes, import_log_writes};
use crate::random_id;

const BLOCK_BYTES: u64 = 4096;

/// Converts native segments to a chain of Hyper-V logs in a new directory. Inputs may come in any
/// order; directories are searched for `.hrl` files. `Corrupt` if the segments do not follow each
/// other.
pub fn convert_to_hyperv(
    inputs: &[PathBuf],
    directory: &Path,
    keys: &KeyRing,
    clock: &dyn Clock,
) -> Result<ExportReport> {
    let segments = chain(inputs, keys)?;
    export_hyperv(&segments.iter().collect::<Vec<_>>(), directory, clock)
}

/// Converts native segments to a log of dm-log-writes in a new file, which the kernel's tools
/// replay. Inputs are as for [`convert_to_hyperv`].
pub fn convert_to_log_writes(
    inputs: &[PathBuf],
    file: &Path,
    keys: &KeyRing,
) -> Result<ExportReport> {
    let segments = chain(inputs, keys)?;
    export_log_writes(&segments.iter().collect::<Vec<_>>(), file)
}

/// Converts a chain of Hyper-V logs, or one log of dm-log-writes, to one native segment in a new
/// file.
pub fn convert_to_native(
    inputs: &[PathBuf],
    file: &Path,
    clock: &dyn Clock,
) -> Result<SegmentSummary> {
    let inputs = files(inputs)?;
    if let [input] = &inputs[..]
        && ForeignFormat::of(input)? == Some(ForeignFormat::LogWrites)
    {
        let log = LogWritesLog::open(input)?;
        let params = native_params(end_of_changes(&log)?, clock);
        let sink = FileSink::create(&SystemFiles, file)?;
        return import_log_writes(&log, params, sink, None, clock).map(|(_, summary)| summary);
    }
    let logs = inputs.iter().map(|path| HypervLog::open(path)).collect::<Result<Vec<_>>>()?;
    let mut device_bytes = 0;
    for log in &logs {
        for write in log.writes() {
            let write = write?;
            device_bytes = device_bytes.max(write.offset + write.data.len() as u64);
        }
    }
    let params = native_params(device_bytes, clock);
    import_hyperv(&logs, params, FileSink::create(&SystemFiles, file)?, None, clock)
        .map(|(_, summary)| summary)
}

/// Returns the header of a segment of a new volume that is just large enough for its changes.
fn native_params(device_bytes: u64, clock: &dyn Clock) -> SegmentParams {
    SegmentParams {
        kind: SegmentKind::Log,
        volume: VolumeId(random_id(clock)),
        epoch: Epoch(1),
        first_sequence: Sequence(1),
        device_bytes: device_bytes.checked_next_multiple_of(BLOCK_BYTES).unwrap_or(device_bytes),
        block_bytes: 512,
        previous: ChainHash::default(),
        replaces_through: None,
        created: clock.now(),
        compression: Compression::Zstd(3),
        frame_bytes: Policy::default().frame_bytes,
    }
}

/// Opens the segments and returns them in the order of their chain, which must have no gap.
fn chain(inputs: &[PathBuf], keys: &KeyRing) -> Result<Vec<Segment>> {
    let mut segments = files(inputs)?
        .iter()
        .map(|path| Segment::open(open_mapped(path)?, keys))
        .collect::<Result<Vec<_>>>()?;
    segments.sort_by_key(|segment| segment.params().first_sequence);
    for pair in segments.windows(2) {
        if pair[1].summary().previous != pair[0].summary().chain {
            return Err(Error::new(ErrorKind::Corrupt, "chain", pair[1].name())
                .message(format_args!("it does not follow {}", pair[0].name())));
        }
    }
    Ok(segments)
}

/// Lists the inputs that are files, and the segments in those that are directories.
fn files(inputs: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for input in inputs {
        if !input.is_dir() {
            found.push(input.clone());
            continue;
        }
        let io = |error| Error::io("list", input.display(), error);
        for entry in std::fs::read_dir(input).map_err(io)? {
            let path = entry.map_err(io)?.path();
            if path.extension().is_some_and(|extension| extension == "hrl") {
                found.push(path);
            }
        }
    }
    found.sort();
    if found.is_empty() {
        return Err(Error::new(ErrorKind::InvalidInput, "convert", "journals")
            .expected("at least one file")
            .found("none"));
    }
    Ok(found)
}
