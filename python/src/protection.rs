//! `Protection`: one protected volume, running.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hrl::ErrorKind;
use hrl::device::{BlockDevice, FileDeviceOptions};
use hrl::journal::PointKind;
use hrl_suspicion::Suspicion;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyMapping};

use crate::device::{Device, Source, Volume};
use crate::errors::{raise, run};
use crate::events::{Trouble, sink};
use crate::group::GroupMember;
use crate::point::{RecoveryPoint, TimelineEntry};
use crate::quiesce::applications;
use crate::running::{Running, alone, ends_with_block};
use crate::tap::Tap;
use crate::value::{Shown, mirror};
use crate::vault::Vault;
use crate::wait::{in_slices, seconds, seconds_or_ever};

mirror! {
    /// The condition of a protection.
    Stats(stats: hrl::ProtectionStats) {
        /// Mode of capture.
        mode: &'static str,
        /// Newest sequence captured.
        last_sequence: u64,
        /// Newest sequence that is durable in the local journal.
        journaled_sequence: u64,
        /// Newest sequence that is published in the vault.
        replicated_sequence: u64,
        /// Age of the oldest change that the vault lacks, captured or not; zero if none.
        rpo_seconds: f64 = stats.rpo,
        /// Number of changes captured: writes, zeroes and discards.
        changes: u64,
        /// Bytes of data captured.
        bytes_captured: u64,
        /// Bytes of closed segments written.
        bytes_stored: u64,
        /// Memory of the queue in bytes.
        queue_bytes: u64,
        /// Bytes of closed segments that wait for the vault.
        spool_bytes: u64,
        /// Bytes captured that are not in the vault: queue and spool.
        backlog_bytes: u64,
        /// Recent throughput of shipping, or the bandwidth allowed now if that is less; 0 if
        /// unknown.
        ship_bytes_per_second: u64,
        /// Time until the backlog is in the vault if nothing more is written; None if the vault
        /// does not answer or the throughput is unknown.
        eta_seconds: Option<f64> = stats.eta,
        /// Number of dirty regions, which a crash now would have to read again.
        marked_regions: u64,
        /// Bytes that a resync has still to read.
        resync_bytes_left: u64,
        /// Bytes that the resync under way, or the last one, has read.
        resync_bytes_read: u64,
        /// Number of points taken in this session.
        points: u64,
        /// Whether the vault took the last segment.
        vault_available: bool,
        /// Whether the vault has not answered since the start, so that nothing is shipped and
        /// nothing counts as replicated.
        vault_away: bool,
        /// Whether another source has the volume, so that nothing is replicated any more.
        fenced: bool,
        /// Whether a failover to here is not committed, so that changes stay in the spool.
        provisional: bool,
        /// Whether a planned failover took the volume over, so that writes are refused.
        handed_over: bool,
        /// Newest version of the catalog, as this agent knows it.
        catalog_version: u64,
        /// Time of the newest record or heartbeat that the version lists, in nanoseconds since 1970;
        /// None before both.
        catalog_time_ns: Option<i64> = stats.catalog_time,
    }
    shows mode last_sequence replicated_sequence rpo_seconds backlog_bytes vault_available;
}

/// One protected volume, running. Leaving the `with` block stops it cleanly.
///
/// `disk` is a path, a `Device` or an object with the methods of `BlockDevice`. Nothing
/// else may write to it from now on. `volume` is the name in the vault, by default that of
/// the file. `state` is the local state directory of this agent (dirty map, spool,
/// identity); it must not be on the protected disk.
///
/// `policy` sets limits and choices by name. `take_over` takes the volume from another
/// source, which must be gone. `adopt_disk` goes on with another disk than the one that was
/// protected, and compares all of it. `applications` are quiesced by `mark_app` and by the
/// policy.
///
/// Unless `suspicion` is False, a sudden change of what is written, as when data is encrypted,
/// raises the event "suspicious-change". Points from then on have the bad verdict "suspicious"
/// until they are trusted (`Replica.trust`).
///
/// With `outside_writer` a copy writes to the volume, such as the mirror of a running machine. It is
/// unordered until the copy's driver says otherwise (`set_writer_in_sync`).
///
/// `on_event` is called with each event, from any thread, and must return soon. An event is
/// a dictionary of `time`, `volume`, `kind` and `message`; the kind "mode-changed" adds
/// `mode` and `cause`. The sinks of `hrl.events` are made for it. None sends events to the
/// logger "hrl" of `logging`, as the attribute `hrl_event` of its records.
///
/// Raises `FencedError` if another agent or source has the volume, and `UnavailableError`
/// if the vault cannot be reached and `state` is new. With a `state` that knows the volume the
/// protection begins without the vault, if that was opened with `state`. If the disk is not
/// the one that was protected, the kind of the `HrlError` is "changed".
///
/// >>> vault = hrl.Vault("vault", create=True)
/// >>> disk = hrl.MemoryDevice(1 << 20)
/// >>> with hrl.Protection(disk, vault=vault, state="state", volume="v") as protection:
/// ...     protection.wait_ordered()
/// ...     protection.volume.write(4096, bytearray(b"captured"))
/// ...     point = protection.mark("first", kind="declared")
/// >>> vault.replica("v").view(point).read(4096, 8)
/// b'captured'
#[pyclass(frozen, module = "hrl")]
pub(crate) struct Protection {
    inner: Arc<Running<Arc<hrl::Protection>>>,
    trouble: Trouble,
    size_bytes: u64,
    volume: Py<Volume>,
    tap: Py<Tap>,
}

impl Protection {
    /// A protection whose events `trouble` watches.
    pub(crate) fn of(
        py: Python<'_>,
        protection: hrl::Protection,
        trouble: Trouble,
    ) -> PyResult<Self> {
        let volume = protection.volume().clone();
        let tap = volume.tap().expect("a protection has a tap").clone();
        Ok(Self {
            trouble,
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

/// Waits as the crate does, and for signals, too: a first copy may take hours.
fn wait_ordered(
    py: Python<'_>,
    handle: &hrl::Protection,
    trouble: &Trouble,
    limit: Duration,
) -> PyResult<()> {
    in_slices(
        py,
        limit,
        |slice| handle.wait_ordered(slice),
        || {
            let stats = handle.stats();
            let (mode, left) = (stats.mode.name(), stats.resync_bytes_left);
            let cause = trouble.newest().map_or_else(String::new, |cause| format!("; {cause}"));
            hrl::Error::new(ErrorKind::Unavailable, "wait for order of", &handle.info().name)
                .expected(format_args!("it within {limit:?}"))
                .found(format_args!("mode {mode}, {left} bytes left to read{cause}"))
        },
    )
}

/// A policy from names and values. A value may be text or any object with the same text.
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
    #[pyo3(signature = (disk, *, vault, state, volume=None, policy=None, take_over=false, adopt_disk=false, on_event=None, applications=None, suspicion=true, outside_writer=false))]
    #[allow(clippy::too_many_arguments, reason = "they are keyword arguments")]
    #[allow(clippy::fn_params_excessive_bools, reason = "they are keyword arguments")]
    fn new(
        py: Python<'_>,
        disk: Source,
        vault: &Vault,
        state: PathBuf,
        volume: Option<String>,
        policy: Option<&Bound<'_, PyMapping>>,
        take_over: bool,
        adopt_disk: bool,
        on_event: Option<Py<PyAny>>,
        applications: Option<&Bound<'_, PyAny>>,
        suspicion: bool,
        outside_writer: bool,
    ) -> PyResult<Self> {
        let vault = vault.inner()?;
        let trouble = Trouble::default();
        let events = trouble.watch(sink(on_event));
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
            let watched =
                suspicion.then(|| Suspicion::begin(&name, vault.clone(), &state, events.clone()));
            let mut options = hrl::ProtectionOptions::new(&name, device, vault, state)
                .policy(chosen)
                .take_over(take_over)
                .adopt_disk(adopt_disk)
                .outside_writer(outside_writer)
                .events(events);
            if let Some(quiesced) = quiesced {
                options = options.applications(quiesced);
            }
            if let Some(watched) = watched {
                options = options.inspector(watched);
            }
            options.open()
        })?;
        Self::of(py, protection, trouble)
    }

    /// Name in the vault.
    #[getter]
    fn volume_name(&self) -> PyResult<String> {
        Ok(self.open_handle()?.info().name.clone())
    }

    /// Size of the volume in bytes.
    #[getter]
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Volume to read and write. It is closed when the protection is stopped.
    #[getter]
    fn volume(&self, py: Python<'_>) -> Py<Volume> {
        self.volume.clone_ref(py)
    }

    /// Write order, for callers that do the I/O themselves. It is closed when the protection
    /// is stopped.
    #[getter]
    fn tap(&self, py: Python<'_>) -> Py<Tap> {
        self.tap.clone_ref(py)
    }

    /// Takes a recovery point now. It is durable in the local journal when the call returns.
    ///
    /// With `kind="declared"` the application says that it is at a transaction boundary of its
    /// own. Points of other kinds need a quiesced application or a group.
    ///
    /// Raises `NotOrderedError` during initial replication, resync or overflow.
    #[pyo3(signature = (label="", *, kind="crash"))]
    fn mark(&self, py: Python<'_>, label: &str, kind: &str) -> PyResult<RecoveryPoint> {
        let kind = PointKind::ALL
            .into_iter()
            .find(|known| known.name() == kind)
            .ok_or_else(|| PyValueError::new_err(format!("no point kind {kind:?}")))?;
        let handle = self.open_handle()?;
        run(py, || handle.mark(kind, label)).map(Shown::shown)
    }

    /// Takes an application-consistent point: quiesce, flush, mark, release, in this order.
    ///
    /// `application` is one of `FileSystemFreeze`, `PostgreSql` and their like, its text, an
    /// object with the methods of `Quiesce`, or a list of these. A list is quiesced in order
    /// and released in reverse. Applications that the library knows are quiesced by a process
    /// of their own, which releases them at the limit even if this process dies.
    ///
    /// Raises `UnavailableError` if the application cannot be quiesced, or if that took more
    /// than `limit` seconds, and the errors of `mark`. The application is released and no point
    /// is taken then.
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
        run(py, || handle.mark_quiesced(&*application, label, limit)).map(Shown::shown)
    }

    /// Takes a point as `mark_quiesced` does, with `applications` or those of the policy
    /// (`quiesce`), and its `quiesce_limit_ms`.
    #[pyo3(signature = (label=""))]
    fn mark_app(&self, py: Python<'_>, label: &str) -> PyResult<RecoveryPoint> {
        let handle = self.open_handle()?;
        run(py, || handle.mark_app(label)).map(Shown::shown)
    }

    /// Makes the volume a member of a consistency group. Connects in the background.
    ///
    /// `coordinators` are tried in order, each as HOST or HOST:PORT (20004 by default).
    /// `identity` is the bundle with the client's certificate; see `enroll_client`.
    /// `application` is quiesced for the group's application-consistent points. `hold_share` is
    /// the greatest share of the time for which the coordinator may hold writers; what it
    /// gives in 100 s may be spent at once.
    #[pyo3(signature = (group, coordinators, *, identity, hold_share=0.1, application=None))]
    fn join_group(
        &self,
        py: Python<'_>,
        group: &str,
        coordinators: Vec<String>,
        identity: PathBuf,
        hold_share: f64,
        application: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<GroupMember> {
        let application = application.map(applications).transpose()?;
        let handle = self.open_handle()?;
        run(py, || {
            GroupMember::join(&handle, group, &coordinators, identity, hold_share, application)
        })
    }

    /// Returns counters and conditions as of now.
    fn stats(&self, py: Python<'_>) -> PyResult<Stats> {
        let handle = self.open_handle()?;
        Ok(py.detach(|| handle.stats()).shown())
    }

    /// Returns the history that the vault knows, in stretches.
    fn timeline(&self, py: Python<'_>) -> PyResult<Vec<TimelineEntry>> {
        let handle = self.open_handle()?;
        Ok(py.detach(|| handle.timeline()).shown())
    }

    /// Waits until initial replication or resync is complete.
    ///
    /// Raises `UnavailableError`, with the newest trouble, after `limit` seconds; None waits
    /// without a limit.
    #[pyo3(signature = (limit=None))]
    fn wait_ordered(&self, py: Python<'_>, limit: Option<f64>) -> PyResult<()> {
        let handle = self.open_handle()?;
        wait_ordered(py, &handle, &self.trouble, seconds_or_ever(limit)?)
    }

    /// Waits until everything captured before the call is in the vault. Returns the newest
    /// sequence there.
    ///
    /// Raises `UnavailableError` after `limit` seconds.
    #[pyo3(signature = (limit=60.0))]
    fn wait_replicated(&self, py: Python<'_>, limit: f64) -> PyResult<u64> {
        let handle = self.open_handle()?;
        let limit = seconds(limit)?;
        wait_ordered(py, &handle, &self.trouble, limit)?;
        run(py, || handle.wait_replicated(limit)).map(|sequence| sequence.0)
    }

    /// Reads the whole disk again, beside the writes. Older points stay usable; no point is
    /// taken until it is complete.
    fn resync(&self, py: Python<'_>) -> PyResult<()> {
        let handle = self.open_handle()?;
        run(py, || handle.resync())
    }

    /// Says whether the outside writer is in sync. From True on its writes are in order, and points
    /// can be marked once what must be read again is read; False begins an unordered interval. An NBD
    /// server begins one by itself when a client that wrote goes away or a change fails.
    ///
    /// Raises `InvalidInputError` unless the protection has an `outside_writer`.
    fn set_writer_in_sync(&self, py: Python<'_>, in_sync: bool) -> PyResult<()> {
        let handle = self.open_handle()?;
        run(py, || handle.set_writer_in_sync(in_sync))
    }

    /// Reads from the volume, as `Device.read` does.
    fn read<'py>(
        &self,
        py: Python<'py>,
        offset: u64,
        length: usize,
    ) -> PyResult<Bound<'py, PyBytes>> {
        self.device(py).read(py, offset, length)
    }

    /// Writes to the volume, as `Device.write` does.
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

    /// Flushes the volume, as `Device.flush` does.
    fn flush(&self, py: Python<'_>) -> PyResult<()> {
        self.device(py).flush(py)
    }

    /// Ends the session cleanly: ships the journal, waiting for the vault up to `limit`
    /// seconds.
    ///
    /// The volume and the tap are closed; stop servers of the volume before. A protection that
    /// ends without a stop leaves what a crash leaves, and the next session reads its dirty
    /// regions again.
    #[pyo3(signature = (limit=60.0))]
    fn stop(&self, py: Python<'_>, limit: f64) -> PyResult<()> {
        let limit = seconds(limit)?;
        let Some(handle) = self.inner.take() else { return Ok(()) };
        // New writes are refused from here on. Writes under way are waited for below.
        let volume = self.device(py).take();
        self.tap.get().close();
        run(py, move || {
            drop(volume);
            alone(handle).stop(limit)
        })
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        let Ok(handle) = self.open_handle() else { return "<Protection, stopped>".to_owned() };
        let stats = py.detach(|| handle.stats());
        let (name, mode) = (&handle.info().name, stats.mode.name());
        format!("<Protection of {name}, {mode}, sequence {}>", stats.last_sequence)
    }
}

ends_with_block!(Protection, |it, py| it.stop(py, 60.0)?);
