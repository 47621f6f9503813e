//! `Replica`: one volume in a vault.

use std::path::PathBuf;
use std::sync::Arc;

use hrl::SystemClock;
use hrl::failover::{begin_test, end_test};
use hrl::journal::KeyRing;
use hrl::replica::{CompactOptions, RestoreTarget, ViewOptions};
use hrl::vault::SegmentEntry as Entry;
use hrl_planner::ChurnOptions;
use pyo3::prelude::*;

use crate::at::{Expectation, Moment, State};
use crate::callback::Progress;
use crate::changes::ChangeSet;
use crate::churn::{Churn, churn_options};
use crate::errors::{raise, run};
use crate::handle::{Handle, closes_handle};
use crate::lifecycle::{Lifecycle, TestFailover};
use crate::point::{Pin, RecoveryPoint, TimelineEntry, Verdict, pin_until, verdict_kind};
use crate::retention::{CompactReport, Finding, RetentionPlan};
use crate::value::{Shown, mirror};
use crate::view::View;
use crate::volume_info::VolumeInfo;
use crate::wait::seconds;

mirror! {
    /// The size of a replica. It unpacks as `segments, data_bytes, stored_bytes`.
    unpacking ReplicaTotals(entries: &[Entry]) {
        /// Number of segments.
        segments: u64 = entries.len() as u64,
        /// Bytes of data captured.
        data_bytes: u64 = entries.iter().map(|entry| entry.summary.data_bytes).sum::<u64>(),
        /// Bytes stored.
        stored_bytes: u64 = entries.iter().map(|entry| entry.summary.stored_bytes).sum::<u64>(),
    }
}

mirror! {
    /// What was captured for a point. It unpacks as `point, data_bytes, stored_bytes`.
    unpacking PointBytes(found: (hrl::PointId, u64, u64)) {
        /// Identity of the point.
        point: String = found.0,
        /// Bytes of data captured since the point before.
        data_bytes: u64 = found.1,
        /// Bytes stored since the point before.
        stored_bytes: u64 = found.2,
    }
}

mirror! {
    /// The newest good point. It unpacks as `point, reason`.
    unpacking GoodPoint(found: (hrl::replica::RecoveryPoint, hrl::replica::GoodBecause)) {
        /// The point.
        point: RecoveryPoint = found.0,
        /// Reason for the choice: "checked", "application-consistent" or "newest".
        reason: &'static str = found.1,
    }
}

mirror! {
    /// A segment of a replica.
    SegmentEntry(entry: (&hrl::replica::Replica, &Entry)) {
        /// Name of its object in the vault; `Replica.open_segment` opens it.
        object: String = entry.1.object.clone(),
        /// Kind: "log" in write order, "merged" or "image" in disk order.
        kind: &'static str = entry.1.summary.kind.name(),
        /// First sequence.
        first_sequence: u64 = entry.1.summary.first_sequence,
        /// Last sequence.
        last_sequence: u64 = entry.1.summary.last_sequence,
        /// Time of the first change in nanoseconds since 1970.
        first_time_ns: i64 = entry.1.summary.first_time,
        /// Time of the last change in nanoseconds since 1970.
        last_time_ns: i64 = entry.1.summary.last_time,
        /// Number of records.
        records: u64 = entry.1.summary.records,
        /// Bytes of data.
        data_bytes: u64 = entry.1.summary.data_bytes,
        /// Bytes stored.
        stored_bytes: u64 = entry.1.summary.stored_bytes,
        /// Time of its file if the vault is a local directory, in nanoseconds since 1970.
        arrived_ns: Option<i64> = entry.0.arrived(&entry.1.object),
    }
    shows object kind first_sequence last_sequence;
}

mirror! {
    /// The result of a restore.
    RestoreReport(report: hrl::replica::RestoreReport) {
        /// Sequence of the restored state.
        sequence: u64,
        /// Bytes written to the target.
        bytes_written: u64,
        /// Size of the volume.
        volume_bytes: u64,
        /// Number of segments read.
        segments: u64,
    }
}

mirror! {
    /// A version of a volume's catalog, which a reader may remember.
    CatalogVersion(version: hrl::replica::CatalogVersion) {
        /// Its number; 0 for a volume without a catalog.
        number: u64,
        /// Its text for `Replica.check_at_least`: "v", the number, ":" and the hash of its object.
        text: String = version.to_string(),
        /// The last sequence that it lists.
        sequence: u64,
        /// Time in UTC of its newest record or heartbeat; None before both.
        time: Option<String> = version.time,
        /// That time in nanoseconds since 1970.
        time_ns: Option<i64> = version.time,
    }
}

mirror! {
    /// The result of `Replica.verify`.
    VerifyReport(report: hrl::replica::VerifyReport) {
        /// Number of segments read.
        segments: u64,
        /// Bytes read.
        bytes: u64,
        /// Number of points whose states were checked.
        points: u64,
        /// Damaged or missing objects.
        findings: Vec<Finding> = report.findings.iter().collect::<Vec<_>>(),
        /// Names of objects that no catalog version lists.
        strays: Vec<String> = report.strays.clone(),
        /// Markers that are ignored because nothing proves them, and gates of a mirror.
        notes: Vec<String> = report.notes.clone(),
        /// Whether everything that the catalog lists is right.
        sound: bool = report.is_sound(),
    }
}

/// One volume in a vault, as of the moment it was opened.
#[pyclass(frozen, module = "hrl")]
pub(crate) struct Replica {
    inner: Handle<Arc<hrl::replica::Replica>>,
}

impl Replica {
    pub(crate) fn of(what: &'static str, replica: hrl::replica::Replica) -> Self {
        Self { inner: Handle::new(what, Arc::new(replica)) }
    }

    pub(crate) fn inner(&self) -> PyResult<Arc<hrl::replica::Replica>> {
        self.inner.get()
    }

    pub(crate) fn name(&self) -> PyResult<String> {
        Ok(self.inner()?.info().name.clone())
    }

    /// The keys that open its segments.
    pub(crate) fn keys(&self) -> PyResult<KeyRing> {
        Ok(self.inner()?.keys().clone())
    }

    /// A view at `at`, opened without the interpreter's lock.
    pub(crate) fn view_at(&self, py: Python<'_>, at: &State) -> PyResult<Arc<hrl::replica::View>> {
        let replica = self.inner()?;
        run(py, || Ok(Arc::new(replica.view(&at.0, &ViewOptions::default())?)))
    }

    /// Changes the catalog of the volume, which this handle sees from then on.
    fn amend<R: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&mut hrl::replica::Replica) -> hrl::Result<R> + Send,
    ) -> PyResult<R> {
        self.amend_with(&Progress::new(None), py, |replica, _| work(replica))
    }

    fn amend_with<R: Send>(
        &self,
        progress: &Progress,
        py: Python<'_>,
        work: impl FnOnce(
            &mut hrl::replica::Replica,
            &(dyn Fn(u64, u64) -> bool + Sync),
        ) -> hrl::Result<R>
        + Send,
    ) -> PyResult<R> {
        let mut replica = hrl::replica::Replica::clone(&*self.inner()?);
        let result = progress.run(py, |report| work(&mut replica, report));
        // A failed call may have changed the catalog, too.
        self.inner.replace(Arc::new(replica));
        result
    }
}

fn policy_of(retention: Option<&str>) -> hrl::Result<hrl::RetentionPolicy> {
    retention.map_or_else(|| Ok(hrl::RetentionPolicy::default()), str::parse)
}

#[pymethods]
impl Replica {
    /// Record of the volume.
    #[getter]
    fn info(&self) -> PyResult<VolumeInfo> {
        Ok(self.inner()?.info().clone().shown())
    }

    /// Number of segments, bytes captured and bytes stored.
    #[getter]
    fn totals(&self) -> PyResult<ReplicaTotals> {
        Ok(self.inner()?.catalog().segments().shown())
    }

    /// Returns for each point the bytes captured and stored since the one before.
    fn point_bytes(&self) -> PyResult<Vec<PointBytes>> {
        let replica = self.inner()?;
        let (mut data, mut stored) = (0, 0);
        let mut found = Vec::new();
        for entry in replica.catalog().segments() {
            data += entry.summary.data_bytes;
            stored += entry.summary.stored_bytes;
            for mark in &entry.summary.marks {
                let since = (std::mem::take(&mut data), std::mem::take(&mut stored));
                found.push((mark.mark.point, since.0, since.1).shown());
            }
        }
        Ok(found)
    }

    /// Reads the newest version of the catalog, which this handle shows from then on.
    fn refresh(&self, py: Python<'_>) -> PyResult<()> {
        self.amend(py, hrl::replica::Replica::refresh)
    }

    /// Returns the catalog version that was read. Remember it to notice later that a vault went
    /// back: `check_at_least` takes its `text`.
    fn version(&self) -> PyResult<CatalogVersion> {
        Ok(self.inner()?.version().shown())
    }

    /// Checks that the volume has at least what is expected.
    ///
    /// `expected` is the `text` of a version that was seen before, a version such as "v12", a
    /// time (a record or heartbeat of then or later), a sequence, or a point. Raises
    /// `DivergedError` if the volume does not have it: the vault went back, or is an old copy.
    fn check_at_least(&self, py: Python<'_>, expected: Expectation) -> PyResult<()> {
        let replica = self.inner()?;
        run(py, || replica.check_at_least(&expected.0))
    }

    /// Returns what a reader ignores, each with the reason: markers that nothing proves, and
    /// gates of a mirror.
    fn notes(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        let replica = self.inner()?;
        run(py, || replica.notes())
    }

    /// Returns every recovery point, oldest first.
    fn points(&self) -> PyResult<Vec<RecoveryPoint>> {
        Ok(self.inner()?.points().shown())
    }

    /// Returns the point that "newest-good" names, and why.
    fn newest_good(&self) -> PyResult<GoodPoint> {
        let found = self.inner()?.newest_good();
        found.map(Shown::shown).map_err(|error| raise(&error))
    }

    /// Returns the stage, epoch, source, failover steps, test failovers and branches of the
    /// volume.
    fn lifecycle(&self) -> PyResult<Lifecycle> {
        Ok(Lifecycle::of(&*self.inner()?))
    }

    /// Opens the branch of an ended epoch for reading. Raises `NotFoundError`, which lists
    /// the branches.
    fn branch(&self, epoch: u32) -> PyResult<Self> {
        let branch = self.inner()?.branch(hrl::Epoch(epoch));
        Ok(Self::of("the branch", branch.map_err(|error| raise(&error))?))
    }

    /// Gives a branch up, so that retention deletes its data.
    fn drop_branch(&self, py: Python<'_>, epoch: u32) -> PyResult<()> {
        self.amend(py, |replica| replica.drop_branch(hrl::Epoch(epoch)))
    }

    /// Records that a test failover begins, and keeps its recovery state through retention.
    ///
    /// Serve the `sequence` of the result. Raises `AlreadyExistsError` if another host has a
    /// test of this name. Repeating the call on one host is fine.
    #[pyo3(signature = (name, at=State::NEWEST_GOOD), text_signature = "($self, name, at='newest-good')")]
    fn begin_test(&self, py: Python<'_>, name: &str, at: State) -> PyResult<TestFailover> {
        let clock = SystemClock::shared();
        self.amend(py, |replica| begin_test(replica, name, &at.0, &*clock)).map(Shown::shown)
    }

    /// Records that a test failover is cleaned up. Raises `NotFoundError`, which lists the
    /// tests.
    fn end_test(&self, py: Python<'_>, name: &str) -> PyResult<()> {
        self.amend(py, |replica| end_test(replica, name, &*SystemClock::shared()))
    }

    /// Returns the history in stretches: those in write order, and gaps with their cause.
    fn timeline(&self) -> PyResult<Vec<TimelineEntry>> {
        Ok(self.inner()?.timeline().shown())
    }

    /// Returns the segments in write order.
    fn segments(&self) -> PyResult<Vec<SegmentEntry>> {
        let replica = self.inner()?;
        let entries = replica.catalog().segments().iter();
        Ok(entries.map(|entry| (&*replica, entry).shown()).collect())
    }

    /// Returns the sequence of a recovery state. Raises `NotFoundError` if it cannot be
    /// restored.
    #[pyo3(signature = (at=State::NEWEST), text_signature = "($self, at='newest')")]
    fn resolve(&self, py: Python<'_>, at: State) -> PyResult<u64> {
        let replica = self.inner()?;
        run(py, || replica.resolve(&at.0)).map(|sequence| sequence.0)
    }

    /// Opens a recovery state for reading, without a restore.
    #[pyo3(signature = (at=State::NEWEST), text_signature = "($self, at='newest')")]
    fn view(&self, py: Python<'_>, at: State) -> PyResult<Py<View>> {
        View::of(py, self.view_at(py, &at)?)
    }

    /// Writes a recovery state to a new sparse file, or with `device` over an existing disk.
    ///
    /// `overwrite` replaces an existing file. `progress` is called with the bytes done and in
    /// all. False from it, or an exception, stops the restore.
    #[pyo3(signature = (at, to, *, overwrite=false, device=false, progress=None))]
    fn restore(
        &self,
        py: Python<'_>,
        at: State,
        to: PathBuf,
        overwrite: bool,
        device: bool,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<RestoreReport> {
        let target = if device {
            RestoreTarget::Device(to)
        } else {
            RestoreTarget::File { path: to, overwrite }
        };
        let replica = self.inner()?;
        let progress = Progress::new(progress);
        progress.run(py, |report| replica.restore(&at.0, &target, report)).map(Shown::shown)
    }

    /// Returns what was written after one recovery state, up to another.
    fn changes(&self, py: Python<'_>, since: State, until: State) -> PyResult<ChangeSet> {
        let replica = self.inner()?;
        run(py, || replica.changes(&since.0, &until.0)).map(ChangeSet::of)
    }

    /// Returns how much was written over time, from the volume's journal; see `hrl.churn`.
    ///
    /// `progress` is called with the segments done and in all. False from it, or an exception,
    /// stops the call.
    #[pyo3(signature = (*, bucket=60.0, since=None, until=None, progress=None))]
    fn churn(
        &self,
        py: Python<'_>,
        bucket: f64,
        since: Option<Moment>,
        until: Option<Moment>,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Churn> {
        let options: ChurnOptions = churn_options(seconds(bucket)?, since, until);
        let replica = self.inner()?;
        let churn = Progress::new(progress)
            .run(py, |report| hrl_planner::Churn::of_replica(&replica, &options, report))?;
        Ok((&churn).shown())
    }

    /// Reads and checks everything that is stored of the volume.
    ///
    /// `progress` is called with the bytes done and in all. False from it, or an exception,
    /// stops the call.
    #[pyo3(signature = (*, progress=None))]
    fn verify(&self, py: Python<'_>, progress: Option<Py<PyAny>>) -> PyResult<VerifyReport> {
        let replica = self.inner()?;
        Progress::new(progress).run(py, |report| replica.verify(report)).map(Shown::shown)
    }

    /// Keeps a point through retention: forever, until a time, or with `hold` as a legal
    /// hold.
    #[pyo3(signature = (point, *, until=None, hold=false, reason=""))]
    fn pin(
        &self,
        py: Python<'_>,
        point: State,
        until: Option<Moment>,
        hold: bool,
        reason: &str,
    ) -> PyResult<Pin> {
        let until = until.map(|time| time.0);
        self.amend(py, |replica| replica.pin(&point.0, pin_until(until, hold)?, reason))
            .map(Shown::shown)
    }

    /// Removes the pin of a point, or with `hold` its legal hold. Neither removes the other.
    ///
    /// Through a gateway an `admin` alone lifts a legal hold.
    #[pyo3(signature = (point, *, hold=false))]
    fn unpin(&self, py: Python<'_>, point: State, hold: bool) -> PyResult<()> {
        self.amend(py, |replica| replica.unpin(&point.0, hold))
    }

    /// Stores the result of a check of a point.
    ///
    /// Retention never drops the last point whose checks all found nothing wrong.
    #[pyo3(signature = (point, kind, ok, text=""))]
    fn record_verdict(
        &self,
        py: Python<'_>,
        point: State,
        kind: &str,
        ok: bool,
        text: &str,
    ) -> PyResult<Verdict> {
        self.amend(py, |replica| replica.record_verdict(&point.0, verdict_kind(kind)?, ok, text))
            .map(Shown::shown)
    }

    /// Declares suspicious points to be good, and removes the pin that their change has set.
    ///
    /// Returns the identities of the points. Points that are taken later are suspicious only after
    /// another change.
    #[pyo3(signature = (text=""))]
    fn trust(&self, py: Python<'_>, text: &str) -> PyResult<Vec<String>> {
        let trusted = self.amend(py, |replica| hrl_suspicion::trust(replica, text))?;
        Ok(trusted.iter().map(ToString::to_string).collect())
    }

    /// Returns what retention would do now, from the catalog alone.
    ///
    /// `retention` is text such as "2h all; 24h hourly; 30d daily; bytes 100G"; None is the
    /// default policy.
    #[pyo3(signature = (retention=None))]
    fn retention_plan(&self, py: Python<'_>, retention: Option<&str>) -> PyResult<RetentionPlan> {
        let replica = self.inner()?;
        run(py, || Ok(replica.retention_plan(&policy_of(retention)?))).map(Shown::shown)
    }

    /// Carries retention out once, or with `dry_run` reports what that would do.
    ///
    /// `retention` is text such as "2h all; 24h hourly; 30d daily; bytes 100G"; None is the
    /// default policy. With `fold_all` every state that it does not keep is dropped at once,
    /// even if that saves few bytes. `scratch` is a directory for temporary files. Restores and
    /// views under way continue. Raises `UnavailableError` if the clock is more than 7 days ahead of
    /// the newest time in the catalog, unless `accept_clock` says that it is right. `rekey` also
    /// rewrites what was folded under an earlier volume key.
    #[pyo3(signature = (retention=None, *, dry_run=false, fold_all=false, scratch=None, progress=None, accept_clock=false, rekey=false))]
    #[allow(clippy::too_many_arguments, reason = "they are keyword arguments")]
    #[allow(clippy::fn_params_excessive_bools, reason = "they are keyword arguments")]
    fn compact(
        &self,
        py: Python<'_>,
        retention: Option<&str>,
        dry_run: bool,
        fold_all: bool,
        scratch: Option<PathBuf>,
        progress: Option<Py<PyAny>>,
        accept_clock: bool,
        rekey: bool,
    ) -> PyResult<CompactReport> {
        let options = CompactOptions {
            dry_run,
            fold_all,
            scratch,
            accept_clock,
            rekey,
            ..CompactOptions::default()
        };
        self.amend_with(&Progress::new(progress), py, |replica, report| {
            replica.compact(&policy_of(retention)?, &options, report)
        })
        .map(Shown::shown)
    }

    fn __repr__(&self) -> String {
        match self.inner() {
            Ok(replica) => {
                let (name, points) = (&replica.info().name, replica.points().len());
                format!("<Replica {name}, {points} points>")
            }
            Err(_) => "<Replica, closed>".to_owned(),
        }
    }
}

closes_handle! {
    /// Releases the store. Views and change sets that were opened from the replica stay
    /// usable.
    Replica
}
