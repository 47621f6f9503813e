//! `Segment`, its records, and conversion to and from other journals.

use std::path::PathBuf;
use std::sync::Arc;

use hrl::journal::{Body, Frame, KeyRing, open_mapped};
use hrl::sync::lock::Mutex;
use hrl::{Clock, PointId, SystemClock};
use hrl_interchange::{ExportReport as Exported, ForeignFormat, HypervHeader, HypervLog};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyMemoryView;

use crate::buffer::RecordData;
use crate::errors::run;
use crate::handle::{Handle, closes_handle};
use crate::replica::Replica;
use crate::value::{Shown, mirror};

mirror! {
    /// A mark in a segment. It unpacks as `sequence, kind, point, label`.
    unpacking MarkEntry(entry: hrl::journal::MarkEntry) {
        /// Place in the write order.
        sequence: u64,
        /// Kind of the recovery point.
        kind: &'static str = entry.mark.kind,
        /// Identity of the recovery point.
        point: String = entry.mark.point,
        /// Free text; may be empty.
        label: String = entry.mark.label,
    }
}

mirror! {
    /// The description of a segment that it carries itself.
    SegmentSummary(segment: &hrl::journal::Segment) {
        /// Kind: "log" in write order, "merged" or "image" in disk order.
        kind: &'static str = segment.summary().kind.name(),
        /// Identity of the volume.
        volume: String = segment.summary().volume,
        /// Epoch of the volume.
        epoch: u32 = segment.summary().epoch,
        /// First sequence.
        first_sequence: u64 = segment.summary().first_sequence,
        /// Last sequence.
        last_sequence: u64 = segment.summary().last_sequence,
        /// Time of the first change in UTC.
        first_time: String = segment.summary().first_time,
        /// Time of the last change in UTC.
        last_time: String = segment.summary().last_time,
        /// Number of records.
        records: u64 = segment.summary().records,
        /// Bytes of data.
        data_bytes: u64 = segment.summary().data_bytes,
        /// Bytes stored.
        stored_bytes: u64 = segment.summary().stored_bytes,
        /// Number of frames.
        frames: u32 = segment.frame_count(),
        /// Identity of the volume key that encrypts it; None if it is not encrypted.
        key: Option<String> = segment.key_id(),
        /// Chain hash of the segment before.
        previous: String = segment.summary().previous,
        /// Chain hash of this segment.
        chain: String = segment.summary().chain,
        /// Marks, in write order.
        marks: Vec<MarkEntry> = segment.summary().marks.clone(),
    }
    shows kind volume first_sequence last_sequence;
}

mirror! {
    /// The result of `convert` to another format.
    ExportReport(report: Exported) {
        /// Paths of the logs written.
        logs: Vec<PathBuf>,
        /// Number of writes in them.
        writes: u64,
        /// Bytes of data in them.
        bytes: u64,
        /// Warnings about what the format cannot carry.
        notes: Vec<String> = report.warnings,
    }
}

mirror! {
    /// The result of `convert` to a native segment.
    ImportReport(summary: hrl::journal::SegmentSummary) {
        /// Number of records.
        records: u64,
        /// Bytes of data.
        bytes: u64 = summary.data_bytes,
        /// Bytes stored.
        stored_bytes: u64,
    }
}

mirror! {
    /// The content of a Hyper-V Replica log.
    HypervSummary(log: (HypervHeader, bool, u64, u64)) {
        /// Format: "ms-hrl".
        kind: &'static str = "ms-hrl",
        /// Time in UTC at which it was created.
        created: String = log.0.created,
        /// Identity of the log.
        id: String = PointId(log.0.unique_id),
        /// Identity of the log before.
        previous: String = PointId(log.0.previous_unique_id),
        /// Whether it was finished; a log under way is not.
        closed: bool = log.1,
        /// Number of writes.
        records: u64 = log.2,
        /// Bytes of data.
        data_bytes: u64 = log.3,
    }
}

/// A closed journal segment. Iterating it gives its records in order, with one frame in
/// memory at a time.
///
/// `path` is a local file; `Replica.open_segment` opens one in a vault. `replica` has the
/// key of an encrypted segment.
///
/// >>> vault = hrl.Vault("vault", create=True)
/// >>> disk = hrl.MemoryDevice(1 << 20)
/// >>> with hrl.Protection(disk, vault=vault, state="state", volume="v") as protection:
/// ...     protection.wait_ordered()
/// ...     protection.write(4096, b"hello")
/// >>> for path in pathlib.Path("vault").rglob("*.hrl"):
/// ...     with hrl.Segment(path) as segment:
/// ...         for record in segment:
/// ...             if record.kind == "write":
/// ...                 print(record.offset, bytes(record.data))
/// 4096 b'hello'
#[pyclass(frozen, module = "hrl")]
pub(crate) struct Segment {
    inner: Handle<Arc<hrl::journal::Segment>>,
}

impl Segment {
    pub(crate) fn inner(&self) -> PyResult<Arc<hrl::journal::Segment>> {
        self.inner.get()
    }
}

fn keys_of(replica: Option<&Replica>) -> PyResult<KeyRing> {
    replica.map_or_else(|| Ok(KeyRing::default()), Replica::keys)
}

#[pymethods]
impl Segment {
    #[new]
    #[pyo3(signature = (path, *, replica=None))]
    fn new(py: Python<'_>, path: PathBuf, replica: Option<&Replica>) -> PyResult<Self> {
        let keys = keys_of(replica)?;
        let inner = run(py, || hrl::journal::Segment::open(open_mapped(&path)?, &keys))?;
        Ok(Self { inner: Handle::new("the segment", Arc::new(inner)) })
    }

    /// Returns the description that the segment carries.
    fn summary(&self) -> PyResult<SegmentSummary> {
        Ok((&*self.inner.get()?).shown())
    }

    fn __iter__(&self) -> PyResult<RecordIterator> {
        let segment = self.inner.get()?;
        Ok(RecordIterator { segment, place: Mutex::new(Place::default()) })
    }

    /// Reads and checks all of it. Raises `CorruptError`, which names the place.
    fn verify(&self, py: Python<'_>) -> PyResult<()> {
        let segment = self.inner.get()?;
        run(py, || segment.verify())
    }

    fn __repr__(&self) -> String {
        match self.inner.get() {
            Ok(segment) => {
                let summary = segment.summary();
                let (first, last) = (summary.first_sequence, summary.last_sequence);
                format!("<Segment {}, sequences {first} to {last}>", segment.name())
            }
            Err(_) => "<Segment, closed>".to_owned(),
        }
    }
}

closes_handle! {
    /// Closes it. The data of records stays readable.
    Segment
}

#[pymethods]
impl Replica {
    /// Opens a segment of the volume by the name of its object; see `segments`.
    fn open_segment(&self, py: Python<'_>, object: &str) -> PyResult<Segment> {
        let replica = self.inner()?;
        let inner = run(py, || replica.open_segment(object))?;
        Ok(Segment { inner: Handle::new("the segment", Arc::new(inner)) })
    }
}

/// One change of a volume, in its place in the write order.
#[pyclass(frozen, get_all, module = "hrl")]
pub(crate) struct Record {
    /// Place in the write order.
    sequence: u64,
    /// Time of capture in UTC; for people, never for order.
    time: String,
    /// Time of capture in nanoseconds since 1970.
    time_ns: i64,
    /// Kind of the change; "touch" is a write whose data was not captured.
    kind: &'static str,
    /// First byte of the volume that it changes.
    offset: u64,
    /// Number of bytes; 0 if it changes none.
    length: u64,
    /// Data of a write: a read-only view without a copy, which keeps its frame in memory. None
    /// for other kinds.
    data: Option<Py<PyMemoryView>>,
    /// Label of a mark, or cause of an unordered interval; else empty.
    detail: String,
}

#[pymethods]
impl Record {
    fn __repr__(&self) -> String {
        format!("Record({} {}: {} bytes at {})", self.sequence, self.kind, self.length, self.offset)
    }
}

/// An iterator over the records of a segment, for one thread at a time.
#[pyclass(frozen, module = "hrl")]
pub(crate) struct RecordIterator {
    segment: Arc<hrl::journal::Segment>,
    place: Mutex<Place>,
}

#[derive(Default)]
struct Place {
    next_frame: u32,
    /// Records of the frame, last first.
    left: Vec<Record>,
}

#[pymethods]
impl RecordIterator {
    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Record>> {
        loop {
            let frame = {
                let mut place = self.place.lock();
                if let Some(record) = place.left.pop() {
                    return Ok(Some(record));
                }
                if place.next_frame >= self.segment.frame_count() {
                    return Ok(None);
                }
                place.next_frame += 1;
                place.next_frame - 1
            };
            // Not under the lock, which a thread that has the interpreter's lock may wait for.
            let frame = Arc::new(run(py, || self.segment.frame(frame))?);
            let mut records = decode(py, &frame)?;
            records.reverse();
            self.place.lock().left.append(&mut records);
        }
    }
}

fn decode(py: Python<'_>, frame: &Arc<Frame>) -> PyResult<Vec<Record>> {
    let area = frame.data().as_ptr().addr();
    frame
        .records()
        .map(|record| {
            let record = record.map_err(|error| crate::errors::raise(&error))?;
            let data = match &record.body {
                Body::Write { data, .. } => {
                    let start = data.as_ptr().addr() - area;
                    let part = start..start + data.len();
                    Some(RecordData::view(py, frame.clone(), part)?.unbind())
                }
                _ => None,
            };
            let detail = match &record.body {
                Body::Mark(mark) => mark.label.clone(),
                Body::UnorderedBegin(cause) => cause.name().to_owned(),
                _ => String::new(),
            };
            let extent = record.body.extent();
            Ok(Record {
                sequence: record.sequence.0,
                time: record.time.to_string(),
                time_ns: record.time.0,
                kind: kind_name(&record.body),
                offset: extent.offset,
                length: extent.length,
                data,
                detail,
            })
        })
        .collect()
}

fn kind_name(body: &Body<'_>) -> &'static str {
    match body {
        Body::Write { .. } => "write",
        Body::Zero(_) => "zero",
        Body::Discard(..) => "discard",
        Body::Touch(_) => "touch",
        Body::Flush => "flush",
        Body::Mark(_) => "mark",
        Body::UnorderedBegin(_) => "unordered-begin",
        Body::UnorderedEnd => "unordered-end",
    }
}

/// Returns a new random key as 64 hexadecimal digits, for a key file.
#[pyfunction]
pub(crate) fn generate_key() -> String {
    let mut key = [0_u8; 32];
    SystemClock::default().fill_random(&mut key);
    key.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Converts journals, and returns what was written.
///
/// `to` is "native" for a new segment file, or "ms-hrl" for a new directory with a chain of
/// Hyper-V Replica logs. "log-writes" is a new file as the kernel's dm-log-writes writes
/// it. `replica` has the key of encrypted segments.
#[pyfunction]
#[pyo3(signature = (inputs, output, *, to, replica=None))]
pub(crate) fn convert(
    py: Python<'_>,
    inputs: Vec<PathBuf>,
    output: PathBuf,
    to: &str,
    replica: Option<&Replica>,
) -> PyResult<Py<PyAny>> {
    let keys = keys_of(replica)?;
    let clock = SystemClock::default();
    let exported = match to {
        "native" => {
            let summary = run(py, || hrl_interchange::convert_to_native(&inputs, &output, &clock))?;
            let report: ImportReport = summary.shown();
            return Ok(Py::new(py, report)?.into_any());
        }
        "ms-hrl" => {
            run(py, || hrl_interchange::convert_to_hyperv(&inputs, &output, &keys, &clock))?
        }
        "log-writes" => {
            run(py, || hrl_interchange::convert_to_log_writes(&inputs, &output, &keys))?
        }
        _ => {
            return Err(PyValueError::new_err(format!(
                "{to:?} is not native, ms-hrl or log-writes"
            )));
        }
    };
    let report: ExportReport = exported.shown();
    Ok(Py::new(py, report)?.into_any())
}

/// Checks all of a Hyper-V Replica log and describes it. Returns None if the file is not
/// such a log.
#[pyfunction]
pub(crate) fn inspect_hyperv(py: Python<'_>, path: PathBuf) -> PyResult<Option<HypervSummary>> {
    // A file that cannot be read is reported when it is opened as a segment.
    if !matches!(ForeignFormat::of(&path), Ok(Some(ForeignFormat::Hyperv))) {
        return Ok(None);
    }
    let found = run(py, || {
        let log = HypervLog::open(&path)?;
        let mut bytes = 0;
        for write in log.writes() {
            bytes += write?.data.len() as u64;
        }
        Ok((log.header().clone(), log.is_closed(), log.write_count(), bytes))
    })?;
    Ok(Some(found.shown()))
}
