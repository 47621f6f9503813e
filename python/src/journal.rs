//! `Segment`, its records, and conversion to and from other journals.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use hrl::journal::{Body, Frame, KeyRing, open_mapped};
use hrl::{Clock, SystemClock};
use hrl_interchange::{ForeignFormat, HypervLog};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyMemoryView};

use crate::buffer::RecordData;
use crate::errors::run;
use crate::handle::Handle;
use crate::replica::Replica;
use crate::running::ends_with_block;

/// A sealed journal segment.
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

    fn summary<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let segment = self.inner.get()?;
        let summary = segment.summary();
        let dict = PyDict::new(py);
        dict.set_item("kind", format!("{:?}", summary.kind).to_lowercase())?;
        dict.set_item("volume", summary.volume.to_string())?;
        dict.set_item("epoch", summary.epoch.0)?;
        dict.set_item("first_sequence", summary.first_sequence.0)?;
        dict.set_item("last_sequence", summary.last_sequence.0)?;
        dict.set_item("first_time", summary.first_time.to_string())?;
        dict.set_item("last_time", summary.last_time.to_string())?;
        dict.set_item("records", summary.records)?;
        dict.set_item("data_bytes", summary.data_bytes)?;
        dict.set_item("stored_bytes", summary.stored_bytes)?;
        dict.set_item("frames", segment.frame_count())?;
        dict.set_item("key", segment.key_id().map(|id| id.to_string()))?;
        dict.set_item("previous", summary.previous.to_string())?;
        dict.set_item("chain", summary.chain.to_string())?;
        let marks: Vec<_> = summary
            .marks
            .iter()
            .map(|mark| {
                (
                    mark.sequence.0,
                    mark.mark.kind.name(),
                    mark.mark.point.to_string(),
                    mark.mark.label.clone(),
                )
            })
            .collect();
        dict.set_item("marks", marks)?;
        Ok(dict)
    }

    fn __iter__(&self) -> PyResult<RecordIterator> {
        let segment = self.inner.get()?;
        Ok(RecordIterator { segment, place: Mutex::new(Place::default()) })
    }

    fn verify(&self, py: Python<'_>) -> PyResult<()> {
        let segment = self.inner.get()?;
        run(py, || segment.verify())
    }

    #[getter]
    fn closed(&self) -> bool {
        self.inner.is_closed()
    }

    fn close(&self, py: Python<'_>) {
        let taken = self.inner.close();
        py.detach(move || drop(taken));
    }
}

ends_with_block!(Segment, |it, py| it.close(py));

/// One change of a volume, in its place in the write order.
#[pyclass(frozen, get_all, module = "hrl")]
pub(crate) struct Record {
    sequence: u64,
    time: String,
    time_ns: i64,
    kind: &'static str,
    offset: u64,
    length: u64,
    /// What was written, read-only; `None` for every other kind.
    data: Option<Py<PyMemoryView>>,
    /// Label of a mark, or cause of an unordered interval.
    detail: String,
}

#[pymethods]
impl Record {
    fn __repr__(&self) -> String {
        format!("Record({} {}: {} bytes at {})", self.sequence, self.kind, self.length, self.offset)
    }
}

/// Gives the records of a segment, with one frame in memory at a time.
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
                let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
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
            self.place.lock().unwrap_or_else(PoisonError::into_inner).left.append(&mut records);
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

/// 64 hexadecimal digits for a key file.
#[pyfunction]
pub(crate) fn generate_key() -> String {
    let mut key = [0_u8; 32];
    SystemClock::default().fill_random(&mut key);
    key.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Converts journals: native segments to a chain of Hyper-V logs in a new directory or to a log of dm-log-writes, or such logs
/// to one native segment.
#[pyfunction]
#[pyo3(signature = (inputs, output, *, to, replica=None))]
pub(crate) fn convert<'py>(
    py: Python<'py>,
    inputs: Vec<PathBuf>,
    output: PathBuf,
    to: &str,
    replica: Option<&Replica>,
) -> PyResult<Bound<'py, PyDict>> {
    let keys = keys_of(replica)?;
    let clock = SystemClock::default();
    let dict = PyDict::new(py);
    match to {
        "ms-hrl" | "log-writes" => {
            let report = run(py, || match to {
                "ms-hrl" => hrl_interchange::convert_to_hyperv(&inputs, &output, &keys, &clock),
                _ => hrl_interchange::convert_to_log_writes(&inputs, &output, &keys),
            })?;
            dict.set_item("logs", report.logs)?;
            dict.set_item("writes", report.writes)?;
            dict.set_item("bytes", report.bytes)?;
            dict.set_item("notes", report.warnings)?;
        }
        "native" => {
            let summary = run(py, || hrl_interchange::convert_to_native(&inputs, &output, &clock))?;
            dict.set_item("records", summary.records)?;
            dict.set_item("bytes", summary.data_bytes)?;
            dict.set_item("stored_bytes", summary.stored_bytes)?;
        }
        _ => {
            return Err(PyValueError::new_err(format!(
                "{to:?} is not native, ms-hrl or log-writes"
            )));
        }
    }
    Ok(dict)
}

/// What a Hyper-V log holds, after checking all of it; `None` when the file is not one.
#[pyfunction]
pub(crate) fn inspect_hyperv(py: Python<'_>, path: PathBuf) -> PyResult<Option<Bound<'_, PyDict>>> {
    // A file that cannot be read is reported when it is opened as a segment.
    if !matches!(ForeignFormat::of(&path), Ok(Some(ForeignFormat::Hyperv))) {
        return Ok(None);
    }
    let (header, closed, writes, bytes) = run(py, || {
        let log = HypervLog::open(&path)?;
        let mut bytes = 0;
        for write in log.writes() {
            bytes += write?.data.len() as u64;
        }
        Ok((log.header().clone(), log.is_closed(), log.write_count(), bytes))
    })?;
    let dict = PyDict::new(py);
    dict.set_item("kind", "ms-hrl")?;
    dict.set_item("created", header.created.to_string())?;
    dict.set_item("id", hrl::PointId(header.unique_id).to_string())?;
    dict.set_item("previous", hrl::PointId(header.previous_unique_id).to_string())?;
    dict.set_item("closed", closed)?;
    dict.set_item("records", writes)?;
    dict.set_item("data_bytes", bytes)?;
    Ok(Some(dict))
}
