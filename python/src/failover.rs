//! Failover to here: `FailedOver`.

use std::path::PathBuf;
use std::sync::Arc;

use hrl::SystemClock;
use hrl::device::FileDeviceOptions;
use hrl::failover::FailoverOptions;
use hrl::journal::PointKind;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyMapping;

use crate::at::State;
use crate::device::{Source, Volume};
use crate::errors::run;
use crate::events::sink;
use crate::lifecycle::FailoverStep;
use crate::point::RecoveryPoint;
use crate::protection::{Stats, chosen_policy};
use crate::running::{Running, alone, ends_with_block};
use crate::value::{Shown, mirror};
use crate::vault::Vault;
use crate::wait::seconds;

mirror! {
    /// What `FailedOver.start` would do now.
    FailoverPreview(preview: hrl::failover::Preview) {
        /// Stage of the volume.
        stage: &'static str,
        /// Host of the source that has the volume.
        owner: String,
        /// Sequence of the recovery state.
        sequence: u64,
        /// Identity of the recovery point; None if the state is not a point.
        point: Option<String>,
        /// Time of the recovery state in UTC.
        time: String,
        /// Epoch that a commit begins.
        epoch: u32,
        /// Number of records in the vault that are later than the state; they become a branch.
        records_later: u64,
        /// Time between the state and the newest record in the vault.
        seconds_later: f64 = preview.time_later,
        /// Steps in sentences.
        steps: Vec<String>,
    }
    shows stage sequence point time;
}

mirror! {
    /// The recovery state that a failover serves.
    FailoverStart(started: hrl::failover::Started) {
        /// Sequence of the recovery state.
        sequence: u64,
        /// Identity of the recovery point; None if the state is not a point.
        point: Option<String>,
        /// Time of the recovery state in UTC.
        time: String,
        /// Time of the recovery state in nanoseconds since 1970.
        time_ns: i64 = started.time,
        /// Time from the call until the volume could be read and written.
        seconds: f64 = started.took,
    }
}

mirror! {
    /// How much of a volume is in its disk. It unpacks as `hydrated_bytes, data_bytes,
    /// whole`.
    unpacking Hydration(hydration: hrl::replica::Hydration) {
        /// Bytes of data in the disk.
        hydrated_bytes: u64 = hydration.data_bytes - hydration.missing_bytes,
        /// Bytes of data in all.
        data_bytes: u64,
        /// Whether the disk is whole.
        whole: bool = hydration.is_whole(),
    }
}

/// A volume that failed over to here, running. It is writable at once, and its disk is
/// filled behind the reads.
///
/// Nothing is final before `commit`. Leaving the `with` block stops it cleanly; `start`
/// with the same state directory continues.
///
/// >>> vault = hrl.Vault("vault", create=True)
/// >>> disk = hrl.MemoryDevice(1 << 20)
/// >>> with hrl.Protection(disk, vault=vault, state="home", volume="v") as protection:
/// ...     protection.wait_ordered()
/// ...     point = protection.mark("good")
/// >>> spare = hrl.MemoryDevice(1 << 20)
/// >>> with hrl.FailedOver.start("v", vault=vault, state="away", disk=spare, at=point) as over:
/// ...     over.volume.write(0, b"written here")
/// ...     over.commit()
/// >>> vault.replica("v").lifecycle().stage
/// 'committed'
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
    at: State,
    planned: Option<f64>,
    policy: Option<&Bound<'_, PyMapping>>,
    on_event: Option<Py<PyAny>>,
) -> PyResult<FailoverOptions> {
    let vault = vault.inner()?;
    let policy = policy.map_or_else(|| Ok(hrl::Policy::default()), chosen_policy)?;
    let planned = planned.map(seconds).transpose()?;
    let device = disk.open(py, FileDeviceOptions { exclusive: true, ..Default::default() })?;
    let quiesced = run(py, || crate::quiesce::of_policy(&policy))?;
    let mut options = FailoverOptions::new(volume, vault, state, device)
        .at(at.0)
        .policy(policy)
        .events(sink(on_event));
    if let Some(quiesced) = quiesced {
        options = options.applications(quiesced);
    }
    if let Some(limit) = planned {
        options = options.planned(limit);
    }
    Ok(options)
}

#[pymethods]
impl FailedOver {
    /// Fails over, and returns as soon as the volume can be read and written. A failover under
    /// way in `state` continues.
    ///
    /// `planned` asks the source to hand the volume over, and waits so many seconds for it.
    /// `change_point` begins again at another state, before the commit. `disk_reads_zero` says
    /// that the disk is a new sparse file. `on_event` is as for `Protection`.
    ///
    /// Raises `FencedError` if another failover is under way or was committed, and
    /// `UnavailableError` if the source does not hand over in time.
    #[staticmethod]
    #[pyo3(
        signature = (volume, *, vault, state, disk, at=State::NEWEST_GOOD, planned=None, change_point=false, disk_reads_zero=false, policy=None, on_event=None),
        text_signature = "(volume, *, vault, state, disk, at='newest-good', planned=None, change_point=False, disk_reads_zero=False, policy=None, on_event=None)"
    )]
    #[allow(clippy::too_many_arguments, reason = "they are keyword arguments")]
    fn start(
        py: Python<'_>,
        volume: &str,
        vault: &Vault,
        state: PathBuf,
        disk: Source,
        at: State,
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

    /// Returns what `start` would do. Nothing is changed.
    #[staticmethod]
    #[pyo3(
        signature = (volume, *, vault, state, disk, at=State::NEWEST_GOOD, planned=None),
        text_signature = "(volume, *, vault, state, disk, at='newest-good', planned=None)"
    )]
    fn preview(
        py: Python<'_>,
        volume: &str,
        vault: &Vault,
        state: PathBuf,
        disk: Source,
        at: State,
        planned: Option<f64>,
    ) -> PyResult<FailoverPreview> {
        let options = options(py, volume, vault, state, disk, at, planned, None, None)?;
        run(py, || options.preview()).map(Shown::shown)
    }

    /// Volume to read and write.
    #[getter]
    fn volume(&self, py: Python<'_>) -> Py<Volume> {
        self.volume.clone_ref(py)
    }

    /// Name in the vault.
    #[getter]
    fn volume_name(&self) -> PyResult<String> {
        Ok(self.open_handle()?.protection().info().name.clone())
    }

    /// Recovery state that is served, and the time that it took.
    #[getter]
    fn started(&self) -> PyResult<FailoverStart> {
        Ok(self.open_handle()?.started().clone().shown())
    }

    /// Returns how much of the volume is in its disk.
    fn hydration(&self, py: Python<'_>) -> PyResult<Hydration> {
        let handle = self.open_handle()?;
        Ok(py.detach(|| handle.hydration()).shown())
    }

    /// Waits until the disk is whole. Raises `UnavailableError` after `limit` seconds.
    #[pyo3(signature = (limit=60.0))]
    fn wait_hydrated(&self, py: Python<'_>, limit: f64) -> PyResult<()> {
        let handle = self.open_handle()?;
        let limit = seconds(limit)?;
        run(py, || handle.wait_hydrated(limit))
    }

    /// Makes the failover final: the old source is fenced, its later writes become a branch,
    /// and changes from here are shipped.
    fn commit(&self, py: Python<'_>) -> PyResult<()> {
        let handle = self.open_handle()?;
        run(py, || handle.commit())
    }

    /// Returns counters and conditions of its protection.
    fn stats(&self, py: Python<'_>) -> PyResult<Stats> {
        let handle = self.open_handle()?;
        Ok(py.detach(|| handle.protection().stats()).shown())
    }

    /// Takes a crash-consistent point.
    #[pyo3(signature = (label=""))]
    fn mark(&self, py: Python<'_>, label: &str) -> PyResult<RecoveryPoint> {
        let handle = self.open_handle()?;
        run(py, || handle.protection().mark(PointKind::Crash, label)).map(Shown::shown)
    }

    /// Takes an application-consistent point with the applications of the policy.
    #[pyo3(signature = (label=""))]
    fn mark_app(&self, py: Python<'_>, label: &str) -> PyResult<RecoveryPoint> {
        let handle = self.open_handle()?;
        run(py, || handle.protection().mark_app(label)).map(Shown::shown)
    }

    /// Waits until everything captured before the call is in the vault. Nothing is shipped
    /// before the commit.
    #[pyo3(signature = (limit=60.0))]
    fn wait_replicated(&self, py: Python<'_>, limit: f64) -> PyResult<u64> {
        let handle = self.open_handle()?;
        let limit = seconds(limit)?;
        run(py, || handle.protection().wait_replicated(limit)).map(|sequence| sequence.0)
    }

    /// Gives the failover up before the commit. Changes from here are dropped, and the source
    /// continues.
    fn cancel(&self, py: Python<'_>) -> PyResult<()> {
        self.end(py, hrl::failover::FailedOver::cancel)
    }

    /// Ends the session cleanly. `start` continues from there.
    #[pyo3(signature = (limit=60.0))]
    fn stop(&self, py: Python<'_>, limit: f64) -> PyResult<()> {
        let limit = seconds(limit)?;
        self.end(py, move |over| over.stop(limit))
    }

    /// Ends the session and leaves a plain disk, for a `Protection` with the same state
    /// directory. The disk must be whole.
    #[pyo3(signature = (limit=60.0))]
    fn detach(&self, py: Python<'_>, limit: f64) -> PyResult<()> {
        let limit = seconds(limit)?;
        self.end(py, move |over| over.detach(limit))
    }

    fn __repr__(&self) -> String {
        match self.open_handle() {
            Ok(over) => {
                let (name, sequence) = (&over.protection().info().name, over.started().sequence);
                format!("<FailedOver {name}, from sequence {sequence}>")
            }
            Err(_) => "<FailedOver, stopped>".to_owned(),
        }
    }
}

ends_with_block!(FailedOver, |it, py| it.stop(py, 60.0)?);

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

/// Gives up the failover under way, if its site was lost together with its state
/// directory.
///
/// Returns its newest step, or None if no failover is under way. A commit from that site is
/// refused later.
#[pyfunction]
pub(crate) fn abandon_failover(
    py: Python<'_>,
    vault: &Vault,
    volume: &str,
) -> PyResult<Option<FailoverStep>> {
    let vault = vault.inner()?;
    run(py, || hrl::failover::abandon(&vault, volume, &*SystemClock::shared())).map(Shown::shown)
}
