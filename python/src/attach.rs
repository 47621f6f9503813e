//! `Attachment`: a disk in use, protected by points at intervals.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hrl::ErrorKind;
use hrl::journal::PointKind;
use hrl_attach::AttachmentOptions;
use hrl_suspicion::Suspicion;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyMapping;

use crate::errors::run;
use crate::events::{Trouble, sink};
use crate::point::{RecoveryPoint, TimelineEntry};
use crate::protection::{Stats, chosen_policy};
use crate::running::{Running, alone, ends_with_block};
use crate::value::{Shown, mirror};
use crate::vault::Vault;
use crate::wait::{in_slices, seconds, seconds_or_ever};

mirror! {
    /// What the cuts of an attachment have taken, as of the last one.
    AttachmentStats(stats: hrl_attach::AttachmentStats) {
        /// Time of the last point of this session, in nanoseconds since 1970; None before. Later
        /// changes are not in the replica.
        last_point_time_ns: Option<i64> = stats.last_point,
        /// How long the last cut took, from its begin until its point was durable.
        last_cut_seconds: f64 = stats.last_took,
        /// Cuts that were tried for the last point.
        last_cut_tries: u32 = stats.last_tries,
        /// Bytes that were copied for the last point.
        last_cut_bytes_copied: u64 = stats.last_bytes_copied,
        /// Bytes that were copied after the flip of the last point.
        last_cut_bytes_in_cut: u64 = stats.last_bytes_in_cut,
        /// Bytes copied for each byte of the blocks that had changed, in this session. At least 1.
        read_amplification: f64,
        /// Bytes that were copied in this session, without those of a compared disk.
        bytes_copied: u64,
        /// Memory of the maps of changed blocks, which is never swapped.
        map_bytes: u64,
        /// Points of this session that were made by cuts.
        cuts: u64 = stats.points,
        /// Points that were due and could not be made.
        skipped: u64,
        /// Audits that failed: the whole disk was compared after each.
        audits_failed: u64,
        /// Points for which file systems were frozen, because no cut was clean without that.
        freezes: u64,
        /// The programs and their maps outlive this process.
        pinned: bool,
    }
}

/// A disk in use, protected by points at intervals, without a driver, a remount or a freeze.
///
/// `disk` is a block device that others write to. `volume` is the name in the vault, by default
/// that of the disk. `state` is the local state directory of this agent; neither it nor the vault
/// may lie on the disk. The other arguments are those of `Protection`. The policy's
/// `crash_point_interval` says how often a point is made: at least 5 s, or 0 for points on demand.
///
/// Each point is a clean, audited cut: every write that was completed before it is in it, and none
/// that began after. Between points nothing can be restored. If no cut is clean within the policy's
/// `cut_limit`, the file systems on the disk are frozen for at most its `freeze_limit`; 0 freezes
/// none.
///
/// Raises the errors of `Protection`, and `HrlError` of the kind "unsupported" if the disk cannot
/// be observed or "invalid-input" if the agent would write to it.
#[pyclass(frozen, module = "hrl")]
pub(crate) struct Attachment {
    inner: Arc<Running<Arc<hrl_attach::Attachment>>>,
    trouble: Trouble,
    name: String,
    size_bytes: u64,
}

/// What disks that are attached have in common.
struct Given {
    vault: hrl::vault::Vault,
    policy: hrl::Policy,
    take_over: bool,
    adopt_disk: bool,
    suspicion: bool,
}

impl Given {
    fn options(
        &self,
        name: &str,
        disk: PathBuf,
        state: PathBuf,
        events: hrl::EventSink,
        quiesced: Option<Arc<dyn hrl::Quiesce>>,
    ) -> AttachmentOptions {
        let vault = self.vault.clone();
        let watched =
            self.suspicion.then(|| Suspicion::begin(name, vault.clone(), &state, events.clone()));
        let mut options = AttachmentOptions::new(name, disk, vault, state)
            .policy(self.policy.clone())
            .take_over(self.take_over)
            .adopt_disk(self.adopt_disk)
            .events(events);
        if let Some(quiesced) = quiesced {
            options = options.applications(quiesced);
        }
        if let Some(watched) = watched {
            options = options.inspector(watched);
        }
        options
    }
}

/// Returns the name of a disk as that of its volume.
fn name_of(disk: &Path) -> String {
    disk.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

impl Attachment {
    fn of(attachment: hrl_attach::Attachment, trouble: Trouble, name: String) -> Self {
        let size_bytes = attachment.protection().info().device_bytes;
        Self { inner: Running::new(Arc::new(attachment)), trouble, name, size_bytes }
    }

    fn open_handle(&self) -> PyResult<Arc<hrl_attach::Attachment>> {
        self.inner
            .with(Arc::clone)
            .ok_or_else(|| PyValueError::new_err("the attachment is stopped"))
    }
}

#[pymethods]
impl Attachment {
    #[new]
    #[pyo3(signature = (disk, *, vault, state, volume=None, policy=None, take_over=false, adopt_disk=false, on_event=None, applications=None, suspicion=true))]
    #[allow(clippy::too_many_arguments, reason = "they are keyword arguments")]
    fn new(
        py: Python<'_>,
        disk: PathBuf,
        vault: &Vault,
        state: PathBuf,
        volume: Option<String>,
        policy: Option<&Bound<'_, PyMapping>>,
        take_over: bool,
        adopt_disk: bool,
        on_event: Option<Py<PyAny>>,
        applications: Option<&Bound<'_, PyAny>>,
        suspicion: bool,
    ) -> PyResult<Self> {
        let given = Given {
            vault: vault.inner()?,
            policy: policy.map_or_else(|| Ok(hrl::Policy::default()), chosen_policy)?,
            take_over,
            adopt_disk,
            suspicion,
        };
        let quiesced = applications.map(crate::quiesce::applications).transpose()?;
        let trouble = Trouble::default();
        let events = trouble.watch(sink(on_event));
        let name = volume.unwrap_or_else(|| name_of(&disk));
        let of = name.clone();
        let attachment = run(py, move || {
            let quiesced = match quiesced {
                None => crate::quiesce::of_policy(&given.policy)?,
                given => given,
            };
            given.options(&of, disk, state, events, quiesced).open()
        })?;
        Ok(Self::of(attachment, trouble, name))
    }

    /// Attaches several disks of a machine, whose points are one cut: no disk has a write whose cause
    /// another one lacks. Returns an attachment for each disk, in their order.
    ///
    /// Each point is one of the group `group`: `Vault.group_points` lists them. A point that any of
    /// the attachments makes is made of all disks. Each disk is a volume with the disk's name, and has
    /// the directory of that name in `state`. Stop all of them; the first that is stopped makes the
    /// last point of all.
    #[staticmethod]
    #[pyo3(signature = (group, disks, *, vault, state, policy=None, take_over=false, adopt_disk=false, on_event=None, applications=None, suspicion=true))]
    #[allow(clippy::too_many_arguments, reason = "they are keyword arguments")]
    fn together(
        py: Python<'_>,
        group: String,
        disks: Vec<PathBuf>,
        vault: &Vault,
        state: PathBuf,
        policy: Option<&Bound<'_, PyMapping>>,
        take_over: bool,
        adopt_disk: bool,
        on_event: Option<Py<PyAny>>,
        applications: Option<&Bound<'_, PyAny>>,
        suspicion: bool,
    ) -> PyResult<Vec<Self>> {
        let given = Given {
            vault: vault.inner()?,
            policy: policy.map_or_else(|| Ok(hrl::Policy::default()), chosen_policy)?,
            take_over,
            adopt_disk,
            suspicion,
        };
        let mut quiesced = applications.map(crate::quiesce::applications).transpose()?;
        let heard = sink(on_event);
        let named: Vec<_> = disks
            .into_iter()
            .map(|disk| {
                let trouble = Trouble::default();
                let events = trouble.watch(heard.clone());
                (name_of(&disk), disk, trouble, events)
            })
            .collect();
        let opened = run(py, move || {
            if quiesced.is_none() {
                quiesced = crate::quiesce::of_policy(&given.policy)?;
            }
            std::fs::create_dir_all(&state)
                .map_err(|error| hrl::Error::io("make", state.display(), error))?;
            let mut all = Vec::new();
            let mut rest = Vec::new();
            for (name, disk, trouble, events) in named {
                // One of them quiesces the applications, for all.
                let quiesced = quiesced.take();
                all.push(given.options(&name, disk, state.join(&name), events, quiesced));
                rest.push((trouble, name));
            }
            let opened = AttachmentOptions::open_together(&group, all)?;
            Ok(opened.into_iter().zip(rest).collect::<Vec<_>>())
        })?;
        Ok(opened.into_iter().map(|(one, (trouble, name))| Self::of(one, trouble, name)).collect())
    }

    /// Takes the programs of a stopped or killed agent out of the kernel, by its state directory.
    /// Does nothing if there are none. The next attachment compares the whole disk.
    #[staticmethod]
    fn detach(py: Python<'_>, state: PathBuf) -> PyResult<()> {
        run(py, move || hrl_attach::Attachment::detach(&state))
    }

    /// Name in the vault.
    #[getter]
    fn volume_name(&self) -> String {
        self.name.clone()
    }

    /// Size of the disk in bytes.
    #[getter]
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Makes a point now: a clean, audited cut of the disk. It is durable in the local journal when
    /// the call returns, and has everything that was completed before the call.
    ///
    /// Raises `NotOrderedError` during the first copy or a resync, `UnavailableError` if no cut is
    /// clean in time or an audit failed.
    #[pyo3(signature = (label="", *, kind="crash"))]
    fn mark(&self, py: Python<'_>, label: &str, kind: &str) -> PyResult<RecoveryPoint> {
        let kind = PointKind::ALL
            .into_iter()
            .find(|known| known.name() == kind)
            .ok_or_else(|| PyValueError::new_err(format!("no point kind {kind:?}")))?;
        let handle = self.open_handle()?;
        run(py, || handle.mark(kind, label)).map(Shown::shown)
    }

    /// Makes an application-consistent point: copies most of what changed, quiesces `applications`
    /// or those of the policy, cuts and releases.
    #[pyo3(signature = (label=""))]
    fn mark_app(&self, py: Python<'_>, label: &str) -> PyResult<RecoveryPoint> {
        let handle = self.open_handle()?;
        run(py, || handle.mark_app(label)).map(Shown::shown)
    }

    /// Returns the counters and conditions of the protection behind, as of now. Its `rpo_seconds`
    /// counts from the last point that is in the vault.
    fn stats(&self, py: Python<'_>) -> PyResult<Stats> {
        let handle = self.open_handle()?;
        Ok(py.detach(|| handle.protection().stats()).shown())
    }

    /// Returns what cuts have taken, as of the last one.
    fn cuts(&self, py: Python<'_>) -> PyResult<AttachmentStats> {
        let handle = self.open_handle()?;
        Ok(py.detach(|| handle.stats()).shown())
    }

    /// Returns the history that the vault knows, in stretches.
    fn timeline(&self, py: Python<'_>) -> PyResult<Vec<TimelineEntry>> {
        let handle = self.open_handle()?;
        Ok(py.detach(|| handle.protection().timeline()).shown())
    }

    /// Waits until a point was made in this session. With a `crash_point_interval` of 0, call `mark`
    /// instead.
    ///
    /// Raises `UnavailableError`, with the newest trouble, after `limit` seconds; None waits
    /// without a limit.
    #[pyo3(signature = (limit=None))]
    fn wait_point(&self, py: Python<'_>, limit: Option<f64>) -> PyResult<()> {
        let handle = self.open_handle()?;
        let limit = seconds_or_ever(limit)?;
        in_slices(
            py,
            limit,
            |slice: Duration| handle.wait_point(slice),
            || {
                let left = handle.protection().stats().resync_bytes_left;
                let cause =
                    self.trouble.newest().map_or_else(String::new, |cause| format!("; {cause}"));
                hrl::Error::new(ErrorKind::Unavailable, "wait for point of", &self.name)
                    .expected(format_args!("one within {limit:?}"))
                    .found(format_args!("none, {left} bytes left to read{cause}"))
            },
        )
    }

    /// Waits until everything of the last point is in the vault. Returns the newest sequence there.
    ///
    /// Raises `UnavailableError` after `limit` seconds.
    #[pyo3(signature = (limit=60.0))]
    fn wait_replicated(&self, py: Python<'_>, limit: f64) -> PyResult<u64> {
        let handle = self.open_handle()?;
        let limit = seconds(limit)?;
        run(py, || handle.protection().wait_replicated(limit)).map(|sequence| sequence.0)
    }

    /// Reads the whole disk again. Older points stay usable; no point is made until it is complete.
    fn resync(&self, py: Python<'_>) -> PyResult<()> {
        let handle = self.open_handle()?;
        run(py, || handle.protection().resync())
    }

    /// Makes a last point if one is clean soon, and ends the session cleanly: ships the journal,
    /// waiting for the vault up to `limit` seconds. The programs go on marking what changes.
    #[pyo3(signature = (limit=60.0))]
    fn stop(&self, py: Python<'_>, limit: f64) -> PyResult<()> {
        let limit = seconds(limit)?;
        let Some(handle) = self.inner.take() else { return Ok(()) };
        run(py, move || alone(handle).stop(limit))
    }

    fn __repr__(&self) -> String {
        format!("<Attachment of {}>", self.name)
    }
}

ends_with_block!(Attachment, |it, py| it.stop(py, 60.0)?);
