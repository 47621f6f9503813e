//! Journal files: inspection of segments, and conversion to and from other formats.

use std::ffi::{c_char, c_void};
use std::path::{Path, PathBuf};

use engine::journal::{Body, KeyRing, Record, Segment, SegmentKind, SegmentSummary, open_mapped};
use engine::{Result, SystemClock};
use hrl_interchange::{ExportReport, convert_to_hyperv, convert_to_log_writes, convert_to_native};

use crate::boundary::{bad_argument, guard, guard_value, hrl_status};
use crate::handle::{self, Checked, Out, Room, Text};
use crate::points::{HRL_HASH_CHARS, HRL_ID_CHARS};
use crate::replica::{hrl_note_fn, hrl_replica};
use crate::report::report;

/// A closed segment of a journal. All threads may use it at once.
pub struct hrl_segment {
    inner: Segment,
}

/// Opens a `.hrl` segment. The file must not change while it is open. An encrypted one is opened
/// with the keys of `replica`, which may be NULL. Free it with `hrl_segment_free`.
/// Statuses: HRL_ERROR_NOT_FOUND, HRL_ERROR_CORRUPT, HRL_ERROR_WRONG_KEY, HRL_ERROR_UNSUPPORTED.
/// Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_segment_open(
    path: Text<'_>,
    replica: Option<&hrl_replica>,
    out: Out<'_, *mut hrl_segment>,
) -> hrl_status {
    guard(|| {
        out.check("out")?;
        let path = Path::new(path.read("path")?);
        let inner = Segment::open(open_mapped(path)?, &keys_of(replica))?;
        out.give(hrl_segment { inner })
    })
}

fn keys_of(replica: Option<&hrl_replica>) -> KeyRing {
    replica.map_or_else(KeyRing::default, |replica| replica.read().keys().clone())
}

/// Kind of a segment.
#[repr(C)]
#[derive(Clone, Copy)]
pub enum hrl_segment_kind {
    /// Changes in write order.
    HRL_SEGMENT_LOG = 0,
    /// Several segments as one, superseded data dropped.
    HRL_SEGMENT_MERGED = 1,
    /// All of a volume's data as of one sequence, in order of offsets.
    HRL_SEGMENT_IMAGE = 2,
}

report! {
    /// Describes what a segment contains.
    pub struct hrl_segment_summary from found: SegmentSummary {
        /// A `hrl_segment_kind`.
        kind: u32 = segment_kind_code(found.kind),
        /// Epoch of the source.
        epoch: u32,
        /// Identity of the volume, in hexadecimal digits.
        volume: [c_char; HRL_ID_CHARS],
        /// First sequence covered.
        first_sequence: u64,
        /// Last sequence covered.
        last_sequence: u64,
        /// Time of the first record, in nanoseconds since 1970 in UTC.
        first_time_ns: i64 = found.first_time,
        /// Time of the last record.
        last_time_ns: i64 = found.last_time,
        /// Number of records.
        records: u64,
        /// Bytes of data in write records.
        data_bytes: u64,
        /// Bytes of the whole file.
        stored_bytes: u64,
        /// Recovery points in it.
        points: u64 = found.marks,
        /// Chain hash of the segment before, in hexadecimal digits.
        previous: [c_char; HRL_HASH_CHARS],
        /// Chain hash of the segment.
        chain: [c_char; HRL_HASH_CHARS],
    }
}

fn segment_kind_code(kind: SegmentKind) -> u32 {
    let kind = match kind {
        SegmentKind::Log => hrl_segment_kind::HRL_SEGMENT_LOG,
        SegmentKind::Merged => hrl_segment_kind::HRL_SEGMENT_MERGED,
        SegmentKind::Image => hrl_segment_kind::HRL_SEGMENT_IMAGE,
    };
    kind as u32
}

/// Describes what the segment contains.
/// Statuses: HRL_ERROR_INVALID_INPUT. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_segment_get_summary(
    segment: Option<&hrl_segment>,
    summary: Room<'_, hrl_segment_summary>,
) -> hrl_status {
    guard(|| {
        let summary = summary.needed("summary")?;
        let segment = handle::given(segment, "segment")?;
        summary.fill(hrl_segment_summary::from(segment.inner.summary()));
        Ok(())
    })
}

/// Kind of a record.
#[repr(C)]
#[derive(Clone, Copy)]
pub enum hrl_record_kind {
    /// Data was written.
    HRL_RECORD_WRITE = 0,
    /// The range was made to read as zeroes.
    HRL_RECORD_ZERO = 1,
    /// The range was discarded.
    HRL_RECORD_DISCARD = 2,
    /// The range changed; its data was not captured.
    HRL_RECORD_TOUCH = 3,
    /// The writer flushed.
    HRL_RECORD_FLUSH = 4,
    /// A recovery point.
    HRL_RECORD_MARK = 5,
    /// Unordered from here.
    HRL_RECORD_UNORDERED_BEGIN = 6,
    /// Ordered again.
    HRL_RECORD_UNORDERED_END = 7,
}

report! {
    /// A record of a segment. The data lives until the callback returns.
    pub struct hrl_record from record: Record<'_> {
        /// Its place in the write order.
        sequence: u64,
        /// Time of the capture, in nanoseconds since 1970 in UTC.
        time_ns: i64 = record.time,
        /// A `hrl_record_kind`.
        kind: u32 = kind_and_data(&record.body).0 as u32,
        /// First byte of the extent; 0 for a record without an extent.
        offset: u64 = record.body.extent().offset,
        /// Bytes of the extent; 0 for a record without an extent.
        length: u64 = record.body.extent().length,
        /// Data of a write, `length` bytes; NULL for other records.
        data: *const u8 = kind_and_data(&record.body).1,
    }
}

/// Receives one record; returns false to stop.
pub type hrl_record_fn =
    Option<unsafe extern "C" fn(user: *mut c_void, record: *const hrl_record) -> bool>;

/// Passes every record, in the order of the segment, to `each` on the calling thread.
/// Statuses: HRL_ERROR_CORRUPT, HRL_ERROR_UNSUPPORTED. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_segment_records(
    segment: Option<&hrl_segment>,
    each: hrl_record_fn,
    user: *mut c_void,
) -> hrl_status {
    guard(|| {
        let each = each.ok_or_else(|| bad_argument("each").expected("a function").found("NULL"))?;
        let segment = &handle::given(segment, "segment")?.inner;
        for number in 0..segment.frame_count() {
            for record in segment.frame(number)?.records() {
                let shown = hrl_record::from(&record?);
                // SAFETY: a function of this type, called as the header says; record and data live
                // during the call.
                if !unsafe { each(user, &raw const shown) } {
                    return Ok(());
                }
            }
        }
        Ok(())
    })
}

fn kind_and_data(body: &Body<'_>) -> (hrl_record_kind, *const u8) {
    use hrl_record_kind as Kind;
    let kind = match body {
        Body::Write { data, .. } => return (Kind::HRL_RECORD_WRITE, data.as_ptr()),
        Body::Zero(_) => Kind::HRL_RECORD_ZERO,
        Body::Discard(..) => Kind::HRL_RECORD_DISCARD,
        Body::Touch(_) => Kind::HRL_RECORD_TOUCH,
        Body::Flush => Kind::HRL_RECORD_FLUSH,
        Body::Mark(_) => Kind::HRL_RECORD_MARK,
        Body::UnorderedBegin(_) => Kind::HRL_RECORD_UNORDERED_BEGIN,
        Body::UnorderedEnd => Kind::HRL_RECORD_UNORDERED_END,
    };
    (kind, std::ptr::null())
}

/// Checks every byte of the segment.
/// Statuses: HRL_ERROR_CORRUPT, HRL_ERROR_WRONG_KEY. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_segment_verify(segment: Option<&hrl_segment>) -> hrl_status {
    guard(|| handle::given(segment, "segment")?.inner.verify())
}

/// Frees the handle; NULL is fine. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_segment_free(segment: Option<Box<hrl_segment>>) {
    guard_value((), || drop(segment));
}

report! {
    /// Reports what a conversion wrote.
    pub struct hrl_convert_report from (files, writes, bytes): (u64, u64, u64) {
        /// Files written.
        files: u64 = *files,
        /// Writes in them.
        writes: u64 = *writes,
        /// Bytes of data in them.
        bytes: u64 = *bytes,
    }
}

/// Writes native segments as a chain of Hyper-V logs ([MS-HRL] version 2) into a new directory.
/// `inputs` are files, or directories that are searched for `.hrl` files. `note` (may be NULL)
/// receives a sentence for each thing that the format cannot carry. `replica` gives the keys, and
/// may be NULL; so may `report`.
/// Statuses: HRL_ERROR_NOT_FOUND, HRL_ERROR_CORRUPT, HRL_ERROR_WRONG_KEY, HRL_ERROR_ALREADY_EXISTS,
/// HRL_ERROR_FULL, HRL_ERROR_IO. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_convert_to_hyperv(
    inputs: *const Text<'_>,
    input_count: usize,
    directory: Text<'_>,
    replica: Option<&hrl_replica>,
    note: hrl_note_fn,
    user: *mut c_void,
    report: Room<'_, hrl_convert_report>,
) -> hrl_status {
    guard(|| {
        let report = report.optional()?;
        // SAFETY: the caller promises that the array has the length beside it.
        let inputs = unsafe { paths(inputs, input_count)? };
        let directory = Path::new(directory.read("directory")?);
        let clock = SystemClock::default();
        let done = convert_to_hyperv(&inputs, directory, &keys_of(replica), &clock)?;
        tell_export(&done, note, user, report);
        Ok(())
    })
}

/// Writes native segments as a log of the kernel's dm-log-writes (version 1) into a new file.
/// HRL_ERROR_UNSUPPORTED if a change is not of whole sectors of 512 bytes. As
/// `hrl_convert_to_hyperv` otherwise. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_convert_to_log_writes(
    inputs: *const Text<'_>,
    input_count: usize,
    file: Text<'_>,
    replica: Option<&hrl_replica>,
    note: hrl_note_fn,
    user: *mut c_void,
    report: Room<'_, hrl_convert_report>,
) -> hrl_status {
    guard(|| {
        let report = report.optional()?;
        // SAFETY: the caller promises that the array has the length beside it.
        let inputs = unsafe { paths(inputs, input_count)? };
        let file = Path::new(file.read("file")?);
        let done = convert_to_log_writes(&inputs, file, &keys_of(replica))?;
        tell_export(&done, note, user, report);
        Ok(())
    })
}

/// Writes a chain of Hyper-V logs, or one log of dm-log-writes, as one native segment into a new
/// file. As `hrl_convert_to_hyperv` otherwise. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_convert_to_native(
    inputs: *const Text<'_>,
    input_count: usize,
    file: Text<'_>,
    report: Room<'_, hrl_convert_report>,
) -> hrl_status {
    guard(|| {
        let report = report.optional()?;
        // SAFETY: the caller promises that the array has the length beside it.
        let inputs = unsafe { paths(inputs, input_count)? };
        let file = Path::new(file.read("file")?);
        let done = convert_to_native(&inputs, file, &SystemClock::default())?;
        report.fill(hrl_convert_report::from(&(1, done.records, done.data_bytes)));
        Ok(())
    })
}

fn tell_export(
    done: &ExportReport,
    note: hrl_note_fn,
    user: *mut c_void,
    report: Checked<'_, hrl_convert_report>,
) {
    if let Some(note) = note {
        for text in &done.warnings {
            let text = handle::c_text(text);
            // SAFETY: a function of this type, called as the header says; the text lives during the
            // call.
            unsafe { note(user, text.as_ptr()) }
        }
    }
    let files = done.logs.len() as u64;
    report.fill(hrl_convert_report::from(&(files, done.writes, done.bytes)));
}

/// # Safety
/// As for [`handle::array`].
unsafe fn paths(inputs: *const Text<'_>, count: usize) -> Result<Vec<PathBuf>> {
    // SAFETY: the premise of this function.
    unsafe { handle::array(inputs, count, "inputs")? }
        .iter()
        .map(|path| Ok(PathBuf::from(path.read("inputs")?)))
        .collect()
}
