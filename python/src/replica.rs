//! `Vault`, `Replica` and what is read from them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hrl::SystemClock;
use hrl::journal::{KeyRing, WrappingKey};
use hrl::replica::{At, CompactOptions, RestoreTarget, ViewOptions};
use hrl::store::{DirStore, Store};
use hrl::vault::ShredOptions;
use hrl_planner::Churn;
use hrl_stores::{create_url, open_url};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyIterator, PyList};

use crate::callback::CallbackStore;
use crate::device::{Device, Disk};
use crate::errors::run;
use crate::group::GroupPoint;
use crate::handle::Handle;
use crate::key::Key;
use crate::planner::{churn_dict, churn_options};
use crate::protection::{RecoveryPoint, TimelineEntry};
use crate::retention::{Pin, Verdict, pin_until, report_dict, verdict_kind};
use crate::running::ends_with_block;

fn store_at(url: &Path, create: bool) -> hrl::Result<Arc<dyn Store>> {
    match url.to_str() {
        Some(url) if create => create_url(url),
        Some(url) => open_url(url),
        // No URL then, but the name of a directory.
        None if create => Ok(Arc::new(DirStore::create(url)?)),
        None => Ok(Arc::new(DirStore::open(url)?)),
    }
}

/// A store with volumes in it.
#[pyclass(frozen, module = "hrl")]
pub(crate) struct Vault {
    inner: Handle<hrl::vault::Vault>,
}

impl Vault {
    pub(crate) fn inner(&self) -> PyResult<hrl::vault::Vault> {
        self.inner.get()
    }
}

#[pymethods]
impl Vault {
    #[new]
    #[pyo3(signature = (url=None, *, store=None, key=None, key_file=None, create=false))]
    fn new(
        py: Python<'_>,
        url: Option<PathBuf>,
        store: Option<&Bound<'_, PyAny>>,
        key: Option<&Key>,
        key_file: Option<PathBuf>,
        create: bool,
    ) -> PyResult<Self> {
        if key.is_some() && key_file.is_some() {
            return Err(PyTypeError::new_err("a vault is opened by a key or a key_file"));
        }
        let store: Arc<dyn Store> = match (url, store) {
            (Some(url), None) => run(py, || store_at(&url, create))?,
            (None, Some(store)) => Arc::new(CallbackStore::new(store)?),
            _ => return Err(PyTypeError::new_err("a vault is opened by its url or in a store")),
        };
        let inner = run(py, || {
            let key = match key_file {
                Some(path) => Some(WrappingKey::from_file(&path)?),
                None => key.map(|key| key.0.clone()),
            };
            let clock = SystemClock::shared();
            if create {
                hrl::vault::Vault::create(store, key, clock)
            } else {
                hrl::vault::Vault::open(store, key, clock)
            }
        })?;
        Ok(Self { inner: Handle::new("the vault", inner) })
    }

    fn volumes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let vault = self.inner()?;
        let volumes = run(py, || vault.volumes())?;
        let list = PyList::empty(py);
        for info in volumes {
            list.append(info_dict(py, &info)?)?;
        }
        Ok(list)
    }

    fn group_points(&self, py: Python<'_>) -> PyResult<Vec<GroupPoint>> {
        let vault = self.inner()?;
        Ok(run(py, || vault.group_points())?.into_iter().map(Into::into).collect())
    }

    fn replica(&self, py: Python<'_>, name: &str) -> PyResult<Replica> {
        let vault = self.inner()?;
        let replica = run(py, || vault.replica(name))?;
        Ok(Replica { inner: Handle::new("the replica", Arc::new(replica)) })
    }

    fn rotate_key<'py>(
        &self,
        py: Python<'py>,
        volume: &str,
        new_key: &Key,
    ) -> PyResult<Bound<'py, PyDict>> {
        let vault = self.inner()?;
        let report = run(py, || vault.rotate_key(volume, &new_key.0))?;
        let dict = PyDict::new(py);
        dict.set_item("wrapped", report.wrapped)?;
        dict.set_item("unwrapped", report.unwrapped)?;
        dict.set_item("others", report.others)?;
        Ok(dict)
    }

    #[pyo3(signature = (volume, *, data=false, override_legal_hold=false))]
    fn shred<'py>(
        &self,
        py: Python<'py>,
        volume: &str,
        data: bool,
        override_legal_hold: bool,
    ) -> PyResult<Bound<'py, PyDict>> {
        let vault = self.inner()?;
        let options = ShredOptions { data, override_legal_hold };
        let report = run(py, || vault.shred(volume, options))?;
        let dict = PyDict::new(py);
        dict.set_item("was_shredded", report.was_shredded)?;
        dict.set_item("keys_deleted", report.keys_deleted)?;
        dict.set_item("objects_deleted", report.objects_deleted)?;
        dict.set_item("bytes_deleted", report.bytes_deleted)?;
        Ok(dict)
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

ends_with_block!(Vault, |it, py| it.close(py));

fn info_dict<'py>(py: Python<'py>, info: &hrl::vault::VolumeInfo) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("name", &info.name)?;
    dict.set_item("id", info.id.to_string())?;
    dict.set_item("size_bytes", info.device_bytes)?;
    dict.set_item("block_bytes", info.block_bytes)?;
    dict.set_item("created", info.created.to_string())?;
    dict.set_item("sealed", info.key_id.is_some())?;
    dict.set_item("extents_only", info.extents_only)?;
    dict.set_item("shredded", info.shredded)?;
    Ok(dict)
}

/// Passes progress on to a Python callable; false from it, or an exception, stops the work.
pub(crate) fn progress(callback: Option<Py<PyAny>>) -> impl Fn(u64, u64) -> bool + Sync {
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
#[pyclass(frozen, module = "hrl")]
pub(crate) struct Replica {
    inner: Handle<Arc<hrl::replica::Replica>>,
}

impl Replica {
    /// The volume at `at`, opened without the interpreter's lock.
    pub(crate) fn view_at(&self, py: Python<'_>, at: &str) -> PyResult<Arc<hrl::replica::View>> {
        let replica = self.inner.get()?;
        run(py, || Ok(Arc::new(replica.view(&At::parse(at)?, &ViewOptions::default())?)))
    }

    /// Changes what the vault says of the volume, and sees it from then on.
    pub(crate) fn amend<R: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&mut hrl::replica::Replica) -> hrl::Result<R> + Send,
    ) -> PyResult<R> {
        let mut replica = hrl::replica::Replica::clone(&*self.inner.get()?);
        let result = run(py, || work(&mut replica));
        // Also after a failure: some of it may have been done.
        self.inner.replace(Arc::new(replica));
        result
    }

    pub(crate) fn name(&self) -> PyResult<String> {
        Ok(self.inner.get()?.info().name.clone())
    }

    pub(crate) fn inner(&self) -> PyResult<Arc<hrl::replica::Replica>> {
        self.inner.get()
    }

    /// The keys that open its segments.
    pub(crate) fn keys(&self) -> PyResult<KeyRing> {
        Ok(self.inner.get()?.keys().clone())
    }
}

#[pymethods]
impl Replica {
    #[getter]
    fn info<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        info_dict(py, self.inner.get()?.info())
    }

    /// Bytes of data captured and bytes stored, as the catalog has them.
    #[getter]
    fn totals(&self) -> PyResult<(u64, u64, u64)> {
        let replica = self.inner.get()?;
        let segments = replica.catalog().segments();
        let data = segments.iter().map(|entry| entry.summary.data_bytes).sum();
        let stored = segments.iter().map(|entry| entry.summary.stored_bytes).sum();
        Ok((segments.len() as u64, data, stored))
    }

    /// For each point: bytes captured and stored since the one before.
    fn point_bytes(&self) -> PyResult<Vec<(String, u64, u64)>> {
        let replica = self.inner.get()?;
        let (mut data, mut stored) = (0, 0);
        let mut found = Vec::new();
        for entry in replica.catalog().segments() {
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
        Ok(found)
    }

    /// Where the volume is in its life cycle.
    fn lifecycle<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        crate::failover::lifecycle_dict(py, &*self.inner.get()?)
    }

    fn branch(&self, epoch: u32) -> PyResult<Self> {
        let branch = self.inner.get()?.branch(hrl::Epoch(epoch));
        let branch = branch.map_err(|error| crate::errors::raise(&error))?;
        Ok(Self { inner: Handle::new("the branch", Arc::new(branch)) })
    }

    fn drop_branch(&self, py: Python<'_>, epoch: u32) -> PyResult<()> {
        self.amend(py, |replica| replica.drop_branch(hrl::Epoch(epoch)))
    }

    #[pyo3(signature = (name, at="newest-good"))]
    fn begin_test<'py>(
        &self,
        py: Python<'py>,
        name: &str,
        at: &str,
    ) -> PyResult<Bound<'py, PyDict>> {
        crate::failover::begin(py, self, name, at)
    }

    fn end_test(&self, py: Python<'_>, name: &str) -> PyResult<()> {
        crate::failover::end(py, self, name)
    }

    /// The newest good point, and why it is.
    fn newest_good(&self) -> PyResult<(RecoveryPoint, String)> {
        let found = self.inner.get()?.newest_good();
        let (point, why) = found.map_err(|error| crate::errors::raise(&error))?;
        Ok((point.into(), why.name().to_owned()))
    }

    fn points(&self) -> PyResult<Vec<RecoveryPoint>> {
        Ok(self.inner.get()?.points().into_iter().map(Into::into).collect())
    }

    fn timeline(&self) -> PyResult<Vec<TimelineEntry>> {
        Ok(self.inner.get()?.timeline().into_iter().map(Into::into).collect())
    }

    /// The segments of the catalog, in write order.
    fn segments<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let replica = self.inner.get()?;
        let list = PyList::empty(py);
        for entry in replica.catalog().segments() {
            let summary = &entry.summary;
            let dict = PyDict::new(py);
            dict.set_item("object", &entry.object)?;
            dict.set_item("kind", format!("{:?}", summary.kind).to_lowercase())?;
            dict.set_item("first_sequence", summary.first_sequence.0)?;
            dict.set_item("last_sequence", summary.last_sequence.0)?;
            dict.set_item("first_time_ns", summary.first_time.0)?;
            dict.set_item("last_time_ns", summary.last_time.0)?;
            dict.set_item("records", summary.records)?;
            dict.set_item("data_bytes", summary.data_bytes)?;
            dict.set_item("stored_bytes", summary.stored_bytes)?;
            dict.set_item("arrived_ns", replica.arrived(&entry.object).map(|time| time.0))?;
            list.append(dict)?;
        }
        Ok(list)
    }

    #[pyo3(signature = (at="newest"))]
    fn resolve(&self, py: Python<'_>, at: &str) -> PyResult<u64> {
        let replica = self.inner.get()?;
        run(py, || replica.resolve(&At::parse(at)?)).map(|sequence| sequence.0)
    }

    #[pyo3(signature = (at="newest"))]
    fn view(&self, py: Python<'_>, at: &str) -> PyResult<Py<View>> {
        View::of(py, self.view_at(py, at)?)
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
        let replica = self.inner.get()?;
        let report = run(py, || replica.restore(&At::parse(at)?, &target, &tell))?;
        let dict = PyDict::new(py);
        dict.set_item("sequence", report.sequence.0)?;
        dict.set_item("bytes_written", report.bytes_written)?;
        dict.set_item("volume_bytes", report.volume_bytes)?;
        dict.set_item("segments", report.segments)?;
        Ok(dict)
    }

    fn changes(&self, py: Python<'_>, since: &str, until: &str) -> PyResult<ChangeSet> {
        let replica = self.inner.get()?;
        let inner = run(py, || replica.changes(&At::parse(since)?, &At::parse(until)?))?;
        Ok(ChangeSet { inner })
    }

    #[pyo3(signature = (*, bucket=60.0, since=None, until=None, progress=None))]
    fn churn<'py>(
        &self,
        py: Python<'py>,
        bucket: f64,
        since: Option<&str>,
        until: Option<&str>,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let tell = self::progress(progress);
        let replica = self.inner.get()?;
        let churn =
            run(py, || Churn::of_replica(&replica, &churn_options(bucket, since, until)?, &tell))?;
        churn_dict(py, &churn)
    }

    #[pyo3(signature = (*, progress=None))]
    fn verify<'py>(
        &self,
        py: Python<'py>,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let tell = self::progress(progress);
        let replica = self.inner.get()?;
        let report = run(py, || replica.verify(&tell))?;
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

    #[pyo3(signature = (point, *, until=None, hold=false, reason=""))]
    fn pin(
        &self,
        py: Python<'_>,
        point: &str,
        until: Option<&str>,
        hold: bool,
        reason: &str,
    ) -> PyResult<Pin> {
        let pinned = self
            .amend(py, |replica| replica.pin(&At::parse(point)?, pin_until(until, hold)?, reason));
        pinned.map(Into::into)
    }

    #[pyo3(signature = (point, *, hold=false))]
    fn unpin(&self, py: Python<'_>, point: &str, hold: bool) -> PyResult<()> {
        self.amend(py, |replica| replica.unpin(&At::parse(point)?, hold))
    }

    #[pyo3(signature = (point, kind, ok, text=""))]
    fn record_verdict(
        &self,
        py: Python<'_>,
        point: &str,
        kind: &str,
        ok: bool,
        text: &str,
    ) -> PyResult<Verdict> {
        let recorded = self.amend(py, |replica| {
            replica.record_verdict(&At::parse(point)?, verdict_kind(kind)?, ok, text)
        });
        recorded.map(Into::into)
    }

    #[pyo3(signature = (retention=None, *, dry_run=false, fold_all=false, scratch=None, progress=None))]
    fn compact<'py>(
        &self,
        py: Python<'py>,
        retention: Option<&str>,
        dry_run: bool,
        fold_all: bool,
        scratch: Option<PathBuf>,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let tell = self::progress(progress);
        let options = CompactOptions { dry_run, fold_all, scratch, ..CompactOptions::default() };
        let report = self.amend(py, |replica| {
            let policy = match retention {
                Some(text) => text.parse()?,
                None => hrl::RetentionPolicy::default(),
            };
            replica.compact(&policy, &options, &tell)
        })?;
        report_dict(py, &report)
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

ends_with_block!(Replica, |it, py| it.close(py));

/// A volume as of one sequence.
#[pyclass(frozen, extends = Device, module = "hrl")]
pub(crate) struct View {
    #[pyo3(get)]
    sequence: u64,
}

impl View {
    fn of(py: Python<'_>, view: Arc<hrl::replica::View>) -> PyResult<Py<Self>> {
        let sequence = view.sequence().0;
        let device = Device::of("the view", Disk::Device(view));
        Py::new(py, PyClassInitializer::from(device).add_subclass(Self { sequence }))
    }
}

/// What was written between two states.
#[pyclass(frozen, module = "hrl")]
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

    fn __iter__(slf: &Bound<'_, Self>) -> PyResult<Py<PyIterator>> {
        Ok(slf.get().runs().into_pyobject(slf.py())?.try_iter()?.unbind())
    }

    fn __len__(&self) -> usize {
        self.inner.runs().len()
    }

    fn write_to_file(&self, py: Python<'_>, path: PathBuf) -> PyResult<u64> {
        run(py, || self.inner.write_to_file(&path))
    }
}
