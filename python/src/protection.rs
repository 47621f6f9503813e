//! `Protection` and the values that it gives.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hrl::ErrorKind;
use hrl::device::{BlockDevice, FileDeviceOptions};
use hrl::journal::PointKind;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyMapping};

use crate::device::{Device, Source, Volume};
use crate::errors::{raise, run};
use crate::group::GroupMember;
use crate::quiesce::applications;
use crate::replica::Vault;
use crate::retention::{Pin, Verdict};
use crate::running::{Running, alone, ends_with_block};
use crate::tap::{SIGNAL_CHECK, Tap, seconds};

/// A recovery point.
#[pyclass(frozen, get_all, module = "hrl")]
pub(crate) struct RecoveryPoint {
    id: String,
    kind: String,
    sequence: u64,
    time: String,
    time_ns: i64,
    label: String,
    epoch: u32,
    group: Option<String>,
    chain: String,
    pins: Vec<Pin>,
    verdicts: Vec<Verdict>,
}

impl From<hrl::replica::RecoveryPoint> for RecoveryPoint {
    fn from(point: hrl::replica::RecoveryPoint) -> Self {
        Self {
            id: point.id.to_string(),
            kind: point.kind.name().to_owned(),
            sequence: point.sequence.0,
            time: point.time.to_string(),
            time_ns: point.time.0,
            label: point.label,
            epoch: point.epoch.0,
            group: point.group.map(|group| group.to_string()),
            chain: point.chain.to_string(),
            pins: point.pins.into_iter().map(Into::into).collect(),
            verdicts: point.verdicts.into_iter().map(Into::into).collect(),
        }
    }
}

#[pymethods]
impl RecoveryPoint {
    fn __repr__(&self) -> String {
        format!(
            "RecoveryPoint({} {} at sequence {}, {})",
            self.kind, self.id, self.sequence, self.time
        )
    }
}

/// A stretch of a volume's history.
#[pyclass(frozen, get_all, module = "hrl")]
pub(crate) struct TimelineEntry {
    first: u64,
    last: u64,
    from_time: String,
    to_time: String,
    unordered: Option<String>,
    folded: bool,
}

impl From<hrl::vault::TimelineEntry> for TimelineEntry {
    fn from(entry: hrl::vault::TimelineEntry) -> Self {
        Self {
            first: entry.from.0,
            last: entry.to.0,
            from_time: entry.from_time.to_string(),
            to_time: entry.to_time.to_string(),
            unordered: entry.unordered.map(|cause| cause.name().to_owned()),
            folded: entry.folded,
        }
    }
}

/// How a protection is doing.
#[pyclass(frozen, get_all, module = "hrl")]
pub(crate) struct Stats {
    mode: String,
    last_sequence: u64,
    journaled_sequence: u64,
    replicated_sequence: u64,
    rpo_seconds: f64,
    changes: u64,
    bytes_captured: u64,
    bytes_stored: u64,
    queue_bytes: u64,
    spool_bytes: u64,
    backlog_bytes: u64,
    ship_bytes_per_second: u64,
    eta_seconds: Option<f64>,
    marked_regions: u64,
    resync_bytes_left: u64,
    resync_bytes_read: u64,
    points: u64,
    vault_available: bool,
    fenced: bool,
    provisional: bool,
    handed_over: bool,
}

impl From<hrl::ProtectionStats> for Stats {
    fn from(stats: hrl::ProtectionStats) -> Self {
        Self {
            mode: stats.mode.name().to_owned(),
            last_sequence: stats.last_sequence.0,
            journaled_sequence: stats.journaled_sequence.0,
            replicated_sequence: stats.replicated_sequence.0,
            rpo_seconds: stats.rpo.as_secs_f64(),
            changes: stats.changes,
            bytes_captured: stats.bytes_captured,
            bytes_stored: stats.bytes_stored,
            queue_bytes: stats.queue_bytes,
            spool_bytes: stats.spool_bytes,
            backlog_bytes: stats.backlog_bytes,
            ship_bytes_per_second: stats.ship_bytes_per_second,
            eta_seconds: stats.eta.map(|eta| eta.as_secs_f64()),
            marked_regions: stats.marked_regions,
            resync_bytes_left: stats.resync_bytes_left,
            resync_bytes_read: stats.resync_bytes_read,
            points: stats.points,
            vault_available: stats.vault_available,
            fenced: stats.fenced,
            provisional: stats.provisional,
            handed_over: stats.handed_over,
        }
    }
}

/// One protected volume, running.
#[pyclass(frozen, module = "hrl")]
pub(crate) struct Protection {
    inner: Arc<Running<Arc<hrl::Protection>>>,
    size_bytes: u64,
    volume: Py<Volume>,
    tap: Py<Tap>,
}

impl Protection {
    pub(crate) fn of(py: Python<'_>, protection: hrl::Protection) -> PyResult<Self> {
        let volume = protection.volume().clone();
        let tap = volume.tap().expect("a protection has a tap").clone();
        Ok(Self {
            size_bytes: volume.size_bytes(),
            volume: Volume::of(py, volume)?,
            tap: Py::new(py, Tap::of(tap))?,
            inner: Running::new(Arc::new(protection)),
        })
    }

    /// The volume, for a server.
    pub(crate) fn inner_volume(&self) -> PyResult<Arc<hrl::capture::Volume>> {
        Ok(self.open_handle()?.volume().clone())
    }

    fn open_handle(&self) -> PyResult<Arc<hrl::Protection>> {
        self.inner
            .with(Arc::clone)
            .ok_or_else(|| PyValueError::new_err("the protection is stopped"))
    }

    fn device<'a>(&'a self, py: Python<'a>) -> &'a Device {
        self.volume.bind(py).as_super().get()
    }
}

pub(crate) fn events(callback: Py<PyAny>) -> hrl::EventSink {
    Arc::new(move |event: &hrl::Event| {
        // Not at the end of the process, when there is nobody to tell.
        let _ = Python::try_attach(|py| {
            let told = PyDict::new(py);
            let fill = || -> PyResult<()> {
                told.set_item("time", event.time.to_string())?;
                told.set_item("volume", &event.volume)?;
                told.set_item("kind", event.kind.name())?;
                told.set_item("message", &event.message)?;
                if let hrl::EventKind::ModeChanged { to, cause, .. } = &event.kind {
                    told.set_item("mode", to.name())?;
                    told.set_item("cause", cause.name())?;
                }
                callback.call1(py, (&told,))?;
                Ok(())
            };
            if let Err(error) = fill() {
                // As the interpreter does for exceptions that have nobody to go to.
                error.write_unraisable(py, None);
            }
        });
    })
}

/// Waits as the crate does, and looks at signals meanwhile: a first copy may take hours.
fn wait_ordered(py: Python<'_>, handle: &hrl::Protection, limit: Duration) -> PyResult<()> {
    let mut left = limit;
    loop {
        let slice = left.min(SIGNAL_CHECK);
        match py.detach(|| handle.wait_ordered(slice)) {
            Err(error) if error.kind() == ErrorKind::Unavailable => {}
            done => return done.map_err(|error| raise(&error)),
        }
        py.check_signals()?;
        left = left.saturating_sub(slice);
        if left.is_zero() {
            let stats = handle.stats();
            let name = &handle.info().name;
            return Err(raise(
                &hrl::Error::new(ErrorKind::Unavailable, "wait for order of", name)
                    .expected(format_args!("it within {limit:?}"))
                    .found(format_args!(
                        "mode {}, {} bytes left to read",
                        stats.mode.name(),
                        stats.resync_bytes_left
                    )),
            ));
        }
    }
}

/// A policy of names and values, the latter as text or as whatever says the same as text.
pub(crate) fn chosen_policy(given: &Bound<'_, PyMapping>) -> PyResult<hrl::Policy> {
    let mut policy = hrl::Policy::default();
    for item in given.items()? {
        let (name, value): (String, Bound<'_, PyAny>) = item.extract()?;
        policy.set(&name, &value.str()?.to_string()).map_err(|error| raise(&error))?;
    }
    Ok(policy)
}

#[pymethods]
impl Protection {
    #[new]
    #[pyo3(signature = (disk, *, vault, state, volume=None, policy=None, take_over=false, on_event=None, applications=None))]
    #[allow(clippy::too_many_arguments, reason = "they are keyword arguments")]
    fn new(
        py: Python<'_>,
        disk: Source,
        vault: &Vault,
        state: PathBuf,
        volume: Option<String>,
        policy: Option<&Bound<'_, PyMapping>>,
        take_over: bool,
        on_event: Option<Py<PyAny>>,
        applications: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let vault = vault.inner()?;
        let sink = on_event.map(events);
        let quiesced = applications.map(crate::quiesce::applications).transpose()?;
        let name = match (volume, &disk) {
            (Some(name), _) => name,
            (None, Source::Path(path)) => {
                path.file_name().unwrap_or_default().to_string_lossy().into_owned()
            }
            _ => return Err(PyTypeError::new_err("volume= names what is not protected by path")),
        };
        let device = disk.open(py, FileDeviceOptions { exclusive: true, ..Default::default() })?;
        let chosen = policy.map_or_else(|| Ok(hrl::Policy::default()), chosen_policy)?;
        let protection = run(py, move || {
            let quiesced = match quiesced {
                None => crate::quiesce::of_policy(&chosen)?,
                given => given,
            };
            let mut options = hrl::ProtectionOptions::new(&name, device, vault, state)
                .policy(chosen)
                .take_over(take_over);
            if let Some(sink) = sink {
                options = options.events(sink);
            }
            if let Some(quiesced) = quiesced {
                options = options.applications(quiesced);
            }
            options.open()
        })?;
        Self::of(py, protection)
    }

    #[getter]
    fn volume_name(&self) -> PyResult<String> {
        Ok(self.open_handle()?.info().name.clone())
    }

    #[getter]
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// What to read and write; closed when the protection is stopped.
    #[getter]
    fn volume(&self, py: Python<'_>) -> Py<Volume> {
        self.volume.clone_ref(py)
    }

    /// For callers who do the I/O themselves; closed when the protection is stopped.
    #[getter]
    fn tap(&self, py: Python<'_>) -> Py<Tap> {
        self.tap.clone_ref(py)
    }

    #[pyo3(signature = (label="", *, kind="crash"))]
    fn mark(&self, py: Python<'_>, label: &str, kind: &str) -> PyResult<RecoveryPoint> {
        let kind = PointKind::ALL
            .into_iter()
            .find(|known| known.name() == kind)
            .ok_or_else(|| PyValueError::new_err(format!("no point kind {kind:?}")))?;
        let handle = self.open_handle()?;
        run(py, || handle.mark(kind, label)).map(Into::into)
    }

    #[pyo3(signature = (application, label="", *, limit=10.0))]
    fn mark_quiesced(
        &self,
        py: Python<'_>,
        application: &Bound<'_, PyAny>,
        label: &str,
        limit: f64,
    ) -> PyResult<RecoveryPoint> {
        let application = applications(application)?;
        let limit = seconds(limit)?;
        let handle = self.open_handle()?;
        run(py, || handle.mark_quiesced(&*application, label, limit)).map(Into::into)
    }

    #[pyo3(signature = (label=""))]
    fn mark_app(&self, py: Python<'_>, label: &str) -> PyResult<RecoveryPoint> {
        let handle = self.open_handle()?;
        run(py, || handle.mark_app(label)).map(Into::into)
    }

    #[pyo3(signature = (group, coordinators, *, identity, application=None))]
    fn join_group(
        &self,
        py: Python<'_>,
        group: &str,
        coordinators: Vec<String>,
        identity: PathBuf,
        application: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<GroupMember> {
        let application = application.map(applications).transpose()?;
        let handle = self.open_handle()?;
        run(py, || GroupMember::join(&handle, group, &coordinators, identity, application))
    }

    fn stats(&self, py: Python<'_>) -> PyResult<Stats> {
        let handle = self.open_handle()?;
        Ok(py.detach(|| handle.stats()).into())
    }

    fn timeline(&self, py: Python<'_>) -> PyResult<Vec<TimelineEntry>> {
        let handle = self.open_handle()?;
        Ok(py.detach(|| handle.timeline()).into_iter().map(Into::into).collect())
    }

    #[pyo3(signature = (limit=60.0))]
    fn wait_ordered(&self, py: Python<'_>, limit: f64) -> PyResult<()> {
        let handle = self.open_handle()?;
        wait_ordered(py, &handle, seconds(limit)?)
    }

    #[pyo3(signature = (limit=60.0))]
    fn wait_replicated(&self, py: Python<'_>, limit: f64) -> PyResult<u64> {
        let handle = self.open_handle()?;
        let limit = seconds(limit)?;
        wait_ordered(py, &handle, limit)?;
        run(py, || handle.wait_replicated(limit)).map(|sequence| sequence.0)
    }

    fn resync(&self, py: Python<'_>) -> PyResult<()> {
        let handle = self.open_handle()?;
        run(py, || handle.resync())
    }

    fn read<'py>(
        &self,
        py: Python<'py>,
        offset: u64,
        length: usize,
    ) -> PyResult<Bound<'py, PyBytes>> {
        self.device(py).read(py, offset, length)
    }

    #[pyo3(signature = (offset, data, *, durable=false))]
    fn write(
        &self,
        py: Python<'_>,
        offset: u64,
        data: &Bound<'_, PyAny>,
        durable: bool,
    ) -> PyResult<()> {
        self.device(py).write(py, offset, data, durable)
    }

    fn flush(&self, py: Python<'_>) -> PyResult<()> {
        self.device(py).flush(py)
    }

    #[pyo3(signature = (limit=60.0))]
    fn stop(&self, py: Python<'_>, limit: f64) -> PyResult<()> {
        let limit = seconds(limit)?;
        let Some(handle) = self.inner.take() else { return Ok(()) };
        // Who writes from now on is told so; who is writing is waited for below.
        let volume = self.device(py).take();
        self.tap.get().close();
        run(py, move || {
            drop(volume);
            alone(handle).stop(limit)
        })
    }
}

ends_with_block!(Protection, |it, py| it.stop(py, 60.0)?);
