//! Failover: `FailedOver`, `Follower`, and what the life cycle of a volume says.

use std::path::PathBuf;
use std::sync::Arc;

use hrl::SystemClock;
use hrl::device::FileDeviceOptions;
use hrl::failover::{FailoverOptions, begin_test, end_test};
use hrl::journal::PointKind;
use hrl::replica::At;
use hrl::vault::{Step, TestFailover};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyMapping};

use crate::device::{Source, Volume};
use crate::errors::run;
use crate::protection::{Protection, RecoveryPoint, Stats, chosen_policy, events};
use crate::replica::{Replica, Vault, progress};
use crate::running::{Running, alone, ends_with_block};
use crate::tap::seconds;

/// A volume that failed over to here, running.
#[pyclass(frozen, module = "hrl")]
pub(crate) struct FailedOver {
    inner: Arc<Running<Arc<hrl::failover::FailedOver>>>,
    volume: Py<Volume>,
}

impl FailedOver {
    fn open_handle(&self) -> PyResult<Arc<hrl::failover::FailedOver>> {
        self.inner
            .with(Arc::clone)
            .ok_or_else(|| PyValueError::new_err("the failover is stopped here"))
    }

    /// The volume, for a server.
    pub(crate) fn inner_volume(&self) -> PyResult<Arc<hrl::capture::Volume>> {
        Ok(self.open_handle()?.volume().clone())
    }

    /// Ends it by `work`, which has it alone.
    fn end(
        &self,
        py: Python<'_>,
        work: impl FnOnce(hrl::failover::FailedOver) -> hrl::Result<()> + Send,
    ) -> PyResult<()> {
        let Some(handle) = self.inner.take() else { return Ok(()) };
        let volume = self.volume.bind(py).as_super().get().take();
        run(py, move || {
            drop(volume);
            work(alone(handle))
        })
    }
}

#[allow(clippy::too_many_arguments, reason = "they are keyword arguments")]
fn options(
    py: Python<'_>,
    volume: &str,
    vault: &Vault,
    state: PathBuf,
    disk: Source,
    at: &str,
    planned: Option<f64>,
    policy: Option<&Bound<'_, PyMapping>>,
    on_event: Option<Py<PyAny>>,
) -> PyResult<FailoverOptions> {
    let vault = vault.inner()?;
    let policy = policy.map_or_else(|| Ok(hrl::Policy::default()), chosen_policy)?;
    let planned = planned.map(seconds).transpose()?;
    let at = run(py, || At::parse(at))?;
    let device = disk.open(py, FileDeviceOptions { exclusive: true, ..Default::default() })?;
    let quiesced = run(py, || crate::quiesce::of_policy(&policy))?;
    let mut options = FailoverOptions::new(volume, vault, state, device).at(at).policy(policy);
    if let Some(quiesced) = quiesced {
        options = options.applications(quiesced);
    }
    if let Some(limit) = planned {
        options = options.planned(limit);
    }
    if let Some(sink) = on_event.map(events) {
        options = options.events(sink);
    }
    Ok(options)
}

#[pymethods]
impl FailedOver {
    #[staticmethod]
    #[pyo3(signature = (volume, *, vault, state, disk, at="newest-good", planned=None, change_point=false, disk_reads_zero=false, policy=None, on_event=None))]
    #[allow(clippy::too_many_arguments, reason = "they are keyword arguments")]
    fn start(
        py: Python<'_>,
        volume: &str,
        vault: &Vault,
        state: PathBuf,
        disk: Source,
        at: &str,
        planned: Option<f64>,
        change_point: bool,
        disk_reads_zero: bool,
        policy: Option<&Bound<'_, PyMapping>>,
        on_event: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let options = options(py, volume, vault, state, disk, at, planned, policy, on_event)?
            .change_point(change_point)
            .disk_reads_zero(disk_reads_zero);
        let over = run(py, || options.start())?;
        let volume = Volume::of(py, over.volume().clone())?;
        Ok(Self { inner: Running::new(Arc::new(over)), volume })
    }

    /// What `start` would do now.
    #[staticmethod]
    #[pyo3(signature = (volume, *, vault, state, disk, at="newest-good", planned=None))]
    fn preview<'py>(
        py: Python<'py>,
        volume: &str,
        vault: &Vault,
        state: PathBuf,
        disk: Source,
        at: &str,
        planned: Option<f64>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let options = options(py, volume, vault, state, disk, at, planned, None, None)?;
        let preview = run(py, || options.preview())?;
        let dict = PyDict::new(py);
        dict.set_item("stage", preview.stage.name())?;
        dict.set_item("owner", preview.owner)?;
        dict.set_item("sequence", preview.sequence.0)?;
        dict.set_item("point", preview.point.map(|point| point.to_string()))?;
        dict.set_item("time", preview.time.to_string())?;
        dict.set_item("epoch", preview.epoch.0)?;
        dict.set_item("records_later", preview.records_later)?;
        dict.set_item("seconds_later", preview.time_later.as_secs_f64())?;
        dict.set_item("steps", preview.steps)?;
        Ok(dict)
    }

    #[getter]
    fn volume(&self, py: Python<'_>) -> Py<Volume> {
        self.volume.clone_ref(py)
    }

    #[getter]
    fn volume_name(&self) -> PyResult<String> {
        Ok(self.open_handle()?.protection().info().name.clone())
    }

    #[getter]
    fn started<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let handle = self.open_handle()?;
        let started = handle.started();
        let dict = PyDict::new(py);
        dict.set_item("sequence", started.sequence.0)?;
        dict.set_item("point", started.point.map(|point| point.to_string()))?;
        dict.set_item("time", started.time.to_string())?;
        dict.set_item("time_ns", started.time.0)?;
        dict.set_item("seconds", started.took.as_secs_f64())?;
        Ok(dict)
    }

    /// Bytes in the disk, bytes that must be, and whether it is whole.
    fn hydration(&self, py: Python<'_>) -> PyResult<(u64, u64, bool)> {
        let handle = self.open_handle()?;
        let hydration = py.detach(|| handle.hydration());
        let done = hydration.data_bytes - hydration.missing_bytes;
        Ok((done, hydration.data_bytes, hydration.is_whole()))
    }

    #[pyo3(signature = (limit=60.0))]
    fn wait_hydrated(&self, py: Python<'_>, limit: f64) -> PyResult<()> {
        let handle = self.open_handle()?;
        let limit = seconds(limit)?;
        run(py, || handle.wait_hydrated(limit))
    }

    fn commit(&self, py: Python<'_>) -> PyResult<()> {
        let handle = self.open_handle()?;
        run(py, || handle.commit())
    }

    fn stats(&self, py: Python<'_>) -> PyResult<Stats> {
        let handle = self.open_handle()?;
        Ok(py.detach(|| handle.protection().stats()).into())
    }

    #[pyo3(signature = (label=""))]
    fn mark(&self, py: Python<'_>, label: &str) -> PyResult<RecoveryPoint> {
        let handle = self.open_handle()?;
        run(py, || handle.protection().mark(PointKind::Crash, label)).map(Into::into)
    }

    #[pyo3(signature = (label=""))]
    fn mark_app(&self, py: Python<'_>, label: &str) -> PyResult<RecoveryPoint> {
        let handle = self.open_handle()?;
        run(py, || handle.protection().mark_app(label)).map(Into::into)
    }

    #[pyo3(signature = (limit=60.0))]
    fn wait_replicated(&self, py: Python<'_>, limit: f64) -> PyResult<u64> {
        let handle = self.open_handle()?;
        let limit = seconds(limit)?;
        run(py, || handle.protection().wait_replicated(limit)).map(|sequence| sequence.0)
    }

    fn cancel(&self, py: Python<'_>) -> PyResult<()> {
        self.end(py, hrl::failover::FailedOver::cancel)
    }

    #[pyo3(signature = (limit=60.0))]
    fn stop(&self, py: Python<'_>, limit: f64) -> PyResult<()> {
        let limit = seconds(limit)?;
        self.end(py, move |over| over.stop(limit))
    }

    #[pyo3(signature = (limit=60.0))]
    fn detach(&self, py: Python<'_>, limit: f64) -> PyResult<()> {
        let limit = seconds(limit)?;
        self.end(py, move |over| over.detach(limit))
    }
}

ends_with_block!(FailedOver, |it, py| it.stop(py, 60.0)?);

/// A disk at the old site that follows the volume.
#[pyclass(frozen, module = "hrl")]
pub(crate) struct Follower {
    inner: Arc<Running<hrl::failover::Follower>>,
}

impl Follower {
    /// Works with it without the interpreter's lock; one thread at a time has it.
    fn with<R: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&mut hrl::failover::Follower) -> hrl::Result<R> + Send,
    ) -> PyResult<R> {
        let mut taken = self.inner.take().ok_or_else(|| {
            PyValueError::new_err("the follower is closed, or another thread uses it")
        })?;
        let result = run(py, || work(&mut taken));
        self.inner.put_back(taken);
        result
    }
}

#[pymethods]
impl Follower {
    #[new]
    #[pyo3(signature = (volume, *, vault, state, disk))]
    fn new(
        py: Python<'_>,
        volume: &str,
        vault: &Vault,
        state: PathBuf,
        disk: Source,
    ) -> PyResult<Self> {
        let vault = vault.inner()?;
        let device = disk.open(py, FileDeviceOptions { exclusive: true, ..Default::default() })?;
        let clock = SystemClock::shared();
        let follower =
            run(py, || hrl::failover::Follower::open(volume, vault, state, device, clock))?;
        Ok(Self { inner: Running::new(follower) })
    }

    /// The state that the disk holds, the bytes in which it may differ, and why where that is all of it.
    fn status<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let (sequence, differs, why) = self.with(py, |follower| {
            let why = follower.why_everywhere().map(str::to_owned);
            Ok((follower.sequence(), follower.differs().total_bytes(), why))
        })?;
        let dict = PyDict::new(py);
        dict.set_item("sequence", sequence.0)?;
        dict.set_item("bytes_differing", differs)?;
        dict.set_item("why_everywhere", why)?;
        Ok(dict)
    }

    #[pyo3(signature = (at="newest"))]
    fn bytes_behind(&self, py: Python<'_>, at: &str) -> PyResult<u64> {
        self.with(py, |follower| follower.bytes_behind(&At::parse(at)?))
    }

    #[pyo3(signature = (at="newest", *, progress=None))]
    fn catch_up<'py>(
        &self,
        py: Python<'py>,
        at: &str,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let tell = self::progress(progress);
        let done = self.with(py, |follower| {
            let done = follower.catch_up(&At::parse(at)?, &tell)?;
            follower.record()?;
            Ok(done)
        })?;
        catch_up_dict(py, done)
    }

    #[pyo3(signature = (*, planned=None, policy=None, on_event=None, progress=None))]
    fn fail_back<'py>(
        &self,
        py: Python<'py>,
        planned: Option<f64>,
        policy: Option<&Bound<'_, PyMapping>>,
        on_event: Option<Py<PyAny>>,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<(Protection, Bound<'py, PyDict>)> {
        let planned = planned.map(seconds).transpose()?;
        let policy = policy.map_or_else(|| Ok(hrl::Policy::default()), chosen_policy)?;
        let sink = on_event.map_or_else(hrl::no_events, events);
        let tell = self::progress(progress);
        let quiesced = run(py, || crate::quiesce::of_policy(&policy))?;
        let mut follower =
            self.inner.take().ok_or_else(|| PyValueError::new_err("the follower is closed"))?;
        if let Some(quiesced) = quiesced {
            follower = follower.applications(quiesced);
        }
        let (protection, done) = run(py, || follower.fail_back(planned, policy, sink, &tell))?;
        Ok((Protection::of(py, protection)?, catch_up_dict(py, done)?))
    }

    fn close(&self, py: Python<'_>) {
        let taken = self.inner.take();
        py.detach(move || drop(taken));
    }
}

ends_with_block!(Follower, |it, py| it.close(py));

fn catch_up_dict(py: Python<'_>, done: hrl::failover::CatchUp) -> PyResult<Bound<'_, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("from", done.from.0)?;
    dict.set_item("to", done.to.0)?;
    dict.set_item("bytes_diverged", done.bytes_diverged)?;
    dict.set_item("bytes_written", done.bytes_written)?;
    Ok(dict)
}

/// Gives up a failover that is not committed and whose process has ended.
#[pyfunction]
pub(crate) fn cancel_failover(
    py: Python<'_>,
    vault: &Vault,
    volume: &str,
    state: PathBuf,
) -> PyResult<()> {
    let vault = vault.inner()?;
    run(py, || hrl::failover::cancel(&vault, volume, &state, &*SystemClock::shared()))
}

/// Gives up the failover that is under way, when its site is lost; its newest step, or none.
#[pyfunction]
pub(crate) fn abandon_failover<'py>(
    py: Python<'py>,
    vault: &Vault,
    volume: &str,
) -> PyResult<Option<Bound<'py, PyDict>>> {
    let vault = vault.inner()?;
    let step = run(py, || hrl::failover::abandon(&vault, volume, &*SystemClock::shared()))?;
    step.map(|step| step_dict(py, &step)).transpose()
}

fn step_dict<'py>(py: Python<'py>, step: &Step) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("step", step.kind.name())?;
    dict.set_item("failover", step.failover.to_string())?;
    dict.set_item("time", step.time.to_string())?;
    dict.set_item("host", &step.host)?;
    dict.set_item("sequence", step.at.0)?;
    dict.set_item("point", step.point.map(|point| point.to_string()))?;
    dict.set_item("point_time", step.at_time.to_string())?;
    dict.set_item("epoch", step.epoch.0)?;
    dict.set_item("note", &step.note)?;
    Ok(dict)
}

fn test_dict<'py>(py: Python<'py>, test: &TestFailover) -> PyResult<Bound<'py, PyDict>> {
    let dict = step_dict(py, &test.begin)?;
    dict.set_item("name", &test.name)?;
    Ok(dict)
}

/// Where a volume is in its life cycle, its branches and its test failovers.
pub(crate) fn lifecycle_dict<'py>(
    py: Python<'py>,
    replica: &hrl::replica::Replica,
) -> PyResult<Bound<'py, PyDict>> {
    let catalog = replica.catalog();
    let lifecycle = catalog.lifecycle();
    let dict = PyDict::new(py);
    dict.set_item("stage", lifecycle.stage().name())?;
    dict.set_item("epoch", catalog.epoch().0)?;
    dict.set_item("source", catalog.source().map(|source| source.host.clone()))?;
    dict.set_item("current", lifecycle.current().map(|step| step_dict(py, step)).transpose()?)?;
    let steps = PyList::empty(py);
    for step in lifecycle.steps() {
        steps.append(step_dict(py, step)?)?;
    }
    dict.set_item("steps", steps)?;
    let tests = PyList::empty(py);
    for test in lifecycle.tests() {
        tests.append(test_dict(py, test)?)?;
    }
    dict.set_item("tests", tests)?;
    let branches = PyList::empty(py);
    for branch in catalog.branches() {
        let entry = PyDict::new(py);
        entry.set_item("epoch", branch.epoch.0)?;
        entry.set_item("from_sequence", branch.at.0)?;
        entry.set_item("last_sequence", branch.last_sequence().0)?;
        entry.set_item("segments", branch.segments.len())?;
        entry.set_item("stored_bytes", branch.stored_bytes())?;
        entry.set_item("source", branch.source.as_ref().map(|source| source.host.clone()))?;
        entry.set_item("ended", branch.time.to_string())?;
        branches.append(entry)?;
    }
    dict.set_item("branches", branches)?;
    Ok(dict)
}

/// Records that a test failover begins.
pub(crate) fn begin<'py>(
    py: Python<'py>,
    replica: &Replica,
    name: &str,
    at: &str,
) -> PyResult<Bound<'py, PyDict>> {
    let test = replica
        .amend(py, |replica| begin_test(replica, name, &At::parse(at)?, &*SystemClock::shared()))?;
    test_dict(py, &test)
}

/// Records that a test failover is over.
pub(crate) fn end(py: Python<'_>, replica: &Replica, name: &str) -> PyResult<()> {
    replica.amend(py, |replica| end_test(replica, name, &*SystemClock::shared()))
}
