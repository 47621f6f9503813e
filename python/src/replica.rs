//! `Vault`, `Replica` and what is read from them.

use std::path::PathBuf;
use std::sync::Arc;

use hrl::device::BlockDevice;
use hrl::journal::{Body, KeyRing, WrappingKey, open_mapped};
use hrl::replica::{At, RestoreTarget, ViewOptions};
use hrl::store::{DirStore, Store};
use hrl::{Clock, SystemClock};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList};

use crate::errors::run;
use crate::protection::{RecoveryPoint, TimelineEntry};

/// Reads from a device into a new bytes object.
pub(crate) fn read_bytes<'py>(
    py: Python<'py>,
    device: &dyn BlockDevice,
    offset: u64,
    length: usize,
) -> PyResult<Bound<'py, PyBytes>> {
    if length as u64 > device.size_bytes() {
        return Err(PyValueError::new_err(format!("{length} bytes are more than the volume has")));
    }
    PyBytes::new_with(py, length, |buffer| run(py, || device.read(offset, buffer)))
}

fn store_of(url: &str, create: bool) -> hrl::Result<Arc<dyn Store>> {
    let path = url.strip_prefix("file://").unwrap_or(url);
    if let Some((scheme, _)) = path.split_once("://") {
        return Err(hrl::Error::new(hrl::ErrorKind::Unsupported, "open vault", url)
            .expected("a directory or file://PATH")
            .found(format_args!("{scheme}://, which this build does not reach")));
    }
    let path = PathBuf::from(path);
    Ok(Arc::new(if create { DirStore::create(&path)? } else { DirStore::open(&path)? }))
}

/// A store with volumes in it.
#[pyclass(frozen)]
pub(crate) struct Vault {
    inner: hrl::replica::Vault,
}

impl Vault {
    pub(crate) fn inner(&self) -> &hrl::replica::Vault {
        &self.inner
    }
}

#[pymethods]
impl Vault {
    #[new]
    #[pyo3(signature = (url, *, key_file=None, create=false))]
    fn new(py: Python<'_>, url: &str, key_file: Option<PathBuf>, create: bool) -> PyResult<Self> {
        let inner = run(py, || {
            let key = key_file.as_deref().map(WrappingKey::from_file).transpose()?;
            let store = store_of(url, create)?;
            let clock = SystemClock::shared();
            if create {
                hrl::replica::Vault::create(store, key, clock)
            } else {
                hrl::replica::Vault::open(store, key, clock)
            }
        })?;
        Ok(Self { inner })
    }

    fn volumes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let volumes = run(py, || self.inner.volumes())?;
        let list = PyList::empty(py);
        for info in volumes {
            list.append(info_dict(py, &info)?)?;
        }
        Ok(list)
    }

    fn replica(&self, py: Python<'_>, name: &str) -> PyResult<Replica> {
        Ok(Replica { inner: run(py, || self.inner.replica(name))? })
    }
}

fn info_dict<'py>(
    py: Python<'py>,
    info: &hrl::replica::VolumeInfo,
) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("name", &info.name)?;
    dict.set_item("id", info.id.to_string())?;
    dict.set_item("size_bytes", info.device_bytes)?;
    dict.set_item("block_bytes", info.block_bytes)?;
    dict.set_item("created", info.created.to_string())?;
    dict.set_item("sealed", info.key_id.is_some())?;
    dict.set_item("extents_only", info.extents_only)?;
    Ok(dict)
}

/// Passes progress on to a Python callable; false from it, or an exception, stops the work.
fn progress(callback: Option<Py<PyAny>>) -> impl Fn(u64, u64) -> bool + Sync {
    move |done, total| {
        let Some(callback) = &callback else { return true };
        Python::attach(|py| {
            py.check_signals().is_ok()
                && callback
                    .call1(py, (done, total))
                    .is_ok_and(|answer| !answer.bind(py).eq(false).unwrap_or(false))
        })
    }
}

/// One volume in a vault.
#[pyclass(frozen)]
pub(crate) struct Replica {
    inner: hrl::replica::Replica,
}

impl Replica {
    pub(crate) fn view_at(&self, at: &str) -> hrl::Result<hrl::replica::View> {
        self.inner.view(&At::parse(at)?, &ViewOptions::default())
    }
}

#[pymethods]
impl Replica {
    #[getter]
    fn info<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        info_dict(py, self.inner.info())
    }

    /// Bytes of data captured and bytes stored, as the catalog has them.
    #[getter]
    fn totals(&self) -> (u64, u64, u64) {
        let segments = self.inner.catalog().segments();
        let data = segments.iter().map(|entry| entry.summary.data_bytes).sum();
        let stored = segments.iter().map(|entry| entry.summary.stored_bytes).sum();
        (segments.len() as u64, data, stored)
    }

    /// For each point: bytes captured and stored since the one before.
    fn point_bytes(&self) -> Vec<(String, u64, u64)> {
        let (mut data, mut stored) = (0, 0);
        let mut found = Vec::new();
        for entry in self.inner.catalog().segments() {
            data += entry.summary.data_bytes;
            stored += entry.summary.stored_bytes;
            for mark in &entry.summary.marks {
                found.push((
                    mark.mark.point.to_string(),
                    std::mem::take(&mut data),
                    std::mem::take(&mut stored),
                ));
            }
        }
        found
    }

    fn points(&self) -> Vec<RecoveryPoint> {
        self.inner.points().into_iter().map(Into::into).collect()
    }

    fn timeline(&self) -> Vec<TimelineEntry> {
        self.inner.timeline().into_iter().map(Into::into).collect()
    }

    #[pyo3(signature = (at="newest"))]
    fn resolve(&self, py: Python<'_>, at: &str) -> PyResult<u64> {
        run(py, || self.inner.resolve(&At::parse(at)?)).map(|sequence| sequence.0)
    }

    #[pyo3(signature = (at="newest"))]
    fn view(&self, py: Python<'_>, at: &str) -> PyResult<View> {
        Ok(View { inner: Arc::new(run(py, || self.view_at(at))?) })
    }

    #[pyo3(signature = (at, to, *, overwrite=false, device=false, progress=None))]
    fn restore<'py>(
        &self,
        py: Python<'py>,
        at: &str,
        to: PathBuf,
        overwrite: bool,
        device: bool,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let target = if device {
            RestoreTarget::Device(to)
        } else {
            RestoreTarget::File { path: to, overwrite }
        };
        let tell = self::progress(progress);
        let report = run(py, || self.inner.restore(&At::parse(at)?, &target, &tell))?;
        let dict = PyDict::new(py);
        dict.set_item("sequence", report.sequence.0)?;
        dict.set_item("bytes_written", report.bytes_written)?;
        dict.set_item("volume_bytes", report.volume_bytes)?;
        dict.set_item("segments", report.segments)?;
        Ok(dict)
    }

    fn changes(&self, py: Python<'_>, since: &str, until: &str) -> PyResult<ChangeSet> {
        let inner = run(py, || self.inner.changes(&At::parse(since)?, &At::parse(until)?))?;
        Ok(ChangeSet { inner })
    }

    #[pyo3(signature = (*, progress=None))]
    fn verify<'py>(
        &self,
        py: Python<'py>,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let tell = self::progress(progress);
        let report = run(py, || self.inner.verify(&tell))?;
        let dict = PyDict::new(py);
        dict.set_item("segments", report.segments)?;
        dict.set_item("bytes", report.bytes)?;
        dict.set_item("points", report.points)?;
        let findings: Vec<_> =
            report.findings.iter().map(|f| (&f.object, f.error.to_string())).collect();
        dict.set_item("findings", findings)?;
        dict.set_item("strays", &report.strays)?;
        dict.set_item("sound", report.is_sound())?;
        Ok(dict)
    }
}

/// A volume as of one sequence.
#[pyclass(frozen)]
pub(crate) struct View {
    inner: Arc<hrl::replica::View>,
}

#[pymethods]
impl View {
    #[getter]
    fn sequence(&self) -> u64 {
        self.inner.sequence().0
    }

    #[getter]
    fn size_bytes(&self) -> u64 {
        self.inner.size_bytes()
    }

    fn read<'py>(
        &self,
        py: Python<'py>,
        offset: u64,
        length: usize,
    ) -> PyResult<Bound<'py, PyBytes>> {
        read_bytes(py, &*self.inner, offset, length)
    }
}

/// What was written between two states.
#[pyclass(frozen)]
pub(crate) struct ChangeSet {
    inner: hrl::replica::ChangeSet,
}

impl ChangeSet {
    pub(crate) fn extents(&self) -> Arc<hrl::ExtentSet> {
        Arc::new(self.inner.extents().clone())
    }
}

#[pymethods]
impl ChangeSet {
    #[getter]
    fn since(&self) -> u64 {
        self.inner.from().0
    }

    #[getter]
    fn until(&self) -> u64 {
        self.inner.to().0
    }

    #[getter]
    fn total_bytes(&self) -> u64 {
        self.inner.extents().total_bytes()
    }

    /// Offset, length, and whether the range reads as zeroes.
    fn runs(&self) -> Vec<(u64, u64, bool)> {
        self.inner
            .runs()
            .into_iter()
            .map(|run| (run.extent.offset, run.extent.length, run.zero))
            .collect()
    }

    fn write_to_file(&self, py: Python<'_>, path: PathBuf) -> PyResult<u64> {
        run(py, || self.inner.write_to_file(&path))
    }
}

/// A sealed journal segment.
#[pyclass(frozen)]
pub(crate) struct Segment {
    inner: hrl::journal::Segment,
}

#[pymethods]
impl Segment {
    #[new]
    #[pyo3(signature = (path, *, replica=None))]
    fn new(py: Python<'_>, path: PathBuf, replica: Option<&Replica>) -> PyResult<Self> {
        let keys = replica.map_or_else(KeyRing::default, |replica| replica.inner.keys().clone());
        let inner = run(py, || hrl::journal::Segment::open(open_mapped(&path)?, &keys))?;
        Ok(Self { inner })
    }

    fn summary<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let summary = self.inner.summary();
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
        dict.set_item("frames", self.inner.frame_count())?;
        dict.set_item("key", self.inner.key_id().map(|id| id.to_string()))?;
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

    /// Sequence, time, kind, offset, length of every record, in order.
    fn records(&self, py: Python<'_>) -> PyResult<Vec<(u64, String, &'static str, u64, u64)>> {
        run(py, || {
            let mut found = Vec::new();
            for number in 0..self.inner.frame_count() {
                for record in self.inner.frame(number)?.records() {
                    let record = record?;
                    let kind = match record.body {
                        Body::Write { .. } => "write",
                        Body::Zero(_) => "zero",
                        Body::Discard(..) => "discard",
                        Body::Touch(_) => "touch",
                        Body::Flush => "flush",
                        Body::Mark(_) => "mark",
                        Body::UnorderedBegin(_) => "unordered-begin",
                        Body::UnorderedEnd => "unordered-end",
                    };
                    let extent = record.body.extent();
                    found.push((
                        record.sequence.0,
                        record.time.to_string(),
                        kind,
                        extent.offset,
                        extent.length,
                    ));
                }
            }
            Ok(found)
        })
    }

    fn verify(&self, py: Python<'_>) -> PyResult<()> {
        run(py, || self.inner.verify())
    }
}

/// 64 hexadecimal digits for a key file.
#[pyfunction]
pub(crate) fn generate_key() -> String {
    let mut key = [0_u8; 32];
    SystemClock::default().fill_random(&mut key);
    key.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Converts journals: native segments to a chain of Hyper-V logs in a new directory, or such logs to one native segment.
#[pyfunction]
#[pyo3(signature = (inputs, output, *, to, replica=None))]
pub(crate) fn convert<'py>(
    py: Python<'py>,
    inputs: Vec<PathBuf>,
    output: PathBuf,
    to: &str,
    replica: Option<&Replica>,
) -> PyResult<Bound<'py, PyDict>> {
    let keys = replica.map_or_else(KeyRing::default, |replica| replica.inner.keys().clone());
    let clock = SystemClock::default();
    let dict = PyDict::new(py);
    match to {
        "ms-hrl" => {
            let report =
                run(py, || hrl::journal::convert_to_hyperv(&inputs, &output, &keys, &clock))?;
            dict.set_item("logs", report.logs)?;
            dict.set_item("writes", report.writes)?;
            dict.set_item("bytes", report.bytes)?;
            dict.set_item("notes", report.notes)?;
        }
        "native" => {
            let summary = run(py, || hrl::journal::convert_to_native(&inputs, &output, &clock))?;
            dict.set_item("records", summary.records)?;
            dict.set_item("bytes", summary.data_bytes)?;
            dict.set_item("stored_bytes", summary.stored_bytes)?;
        }
        _ => return Err(PyValueError::new_err(format!("{to:?} is neither native nor ms-hrl"))),
    }
    Ok(dict)
}

/// What a Hyper-V log holds, after checking all of it; `None` when the file is not one.
#[pyfunction]
pub(crate) fn inspect_hyperv(py: Python<'_>, path: PathBuf) -> PyResult<Option<Bound<'_, PyDict>>> {
    let mut cookie = [0; 7];
    let begins = std::fs::File::open(&path)
        .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut cookie))
        .is_ok();
    if !begins || &cookie != b"msctlog" {
        return Ok(None);
    }
    let (header, closed, writes, bytes) = run(py, || {
        let log = hrl::journal::HypervLog::open(&path)?;
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
