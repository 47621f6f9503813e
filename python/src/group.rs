//! Consistency groups: `GroupCoordinator` and `GroupMember`.

use std::path::PathBuf;
use std::sync::Arc;

use hrl::Quiesce;
use hrl_group::GroupOptions;
use pyo3::prelude::*;

use crate::errors::run;
use crate::events::sink;
use crate::point::GroupPoint;
use crate::running::{Running, ends_with_block};
use crate::value::{Shown, mirror};
use crate::wait::seconds;

mirror! {
    /// A member of a consistency group, as its coordinator sees it.
    GroupMemberStatus(member: hrl_group::GroupMemberStatus) {
        /// Name of the volume.
        volume: String,
        /// Address that it is connected from; None if it is not connected.
        address: Option<String>,
        /// Number of group points that the member has not confirmed.
        unconfirmed: u64,
    }
}

mirror! {
    /// The condition of a group's coordinator.
    GroupStatus(status: hrl_group::GroupStatus) {
        /// Members, connected or not.
        members: Vec<GroupMemberStatus>,
        /// Number of group points made.
        points: u64,
        /// Number of rounds that made no point.
        failures: u64,
        /// Newest group point; None if there is none.
        newest: Option<GroupPoint>,
        /// What failed in the newest round; empty if nothing did.
        problem: String,
        /// Median of a round's longest barrier.
        held_p50_seconds: f64 = status.held_p50,
        /// 99th percentile of a round's longest barrier.
        held_p99_seconds: f64 = status.held_p99,
        /// Maximum of a round's longest barrier.
        held_max_seconds: f64 = status.held_max,
    }
    shows members points failures problem;
}

mirror! {
    /// The condition of a membership.
    GroupMemberStats(stats: hrl_group::GroupMemberStats) {
        /// Whether it is connected to a coordinator.
        connected: bool,
        /// Number of rounds that it took part in.
        rounds: u64,
        /// Number of group points that it took part in.
        points: u64,
        /// Longest barrier.
        held_max_seconds: f64 = stats.held_max,
        /// What is wrong; empty if nothing is.
        problem: String,
    }
}

/// The coordinator of a consistency group. Leaving the `with` block stops it.
///
/// It remembers its members in the directory `state`. It admits clients that are enrolled
/// in `pki`, each with the volumes of its certificate. `members` lists the volumes that may
/// be members; without it any of those clients may join, and from then on no point is made
/// without it. Writers never wait longer than `budget` seconds at the barrier of a cut.
///
/// With `interval` and `app_interval` crash- and application-consistent points are made
/// periodically; zero is never. Applications are quiesced within `quiesce_limit`.
/// `on_event` is as for `Protection`.
#[pyclass(frozen, module = "hrl")]
pub(crate) struct GroupCoordinator {
    inner: Arc<Running<Arc<hrl_group::GroupCoordinator>>>,
    name: String,
    address: String,
}

impl GroupCoordinator {
    fn open_handle(&self) -> PyResult<Arc<hrl_group::GroupCoordinator>> {
        self.inner
            .with(Arc::clone)
            .ok_or_else(|| pyo3::exceptions::PyValueError::new_err("the coordinator is stopped"))
    }
}

#[pymethods]
impl GroupCoordinator {
    #[new]
    #[pyo3(signature = (name, *, state, pki, listen="0.0.0.0:20004", members=None, budget=0.3, interval=0.0, app_interval=0.0, quiesce_limit=10.0, on_event=None))]
    #[allow(clippy::too_many_arguments, reason = "they are keyword arguments")]
    fn new(
        py: Python<'_>,
        name: &str,
        state: PathBuf,
        pki: PathBuf,
        listen: &str,
        members: Option<Vec<String>>,
        budget: f64,
        interval: f64,
        app_interval: f64,
        quiesce_limit: f64,
        on_event: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let mut options = GroupOptions::new(name, state, pki);
        if let Some(members) = members {
            options = options.members(&members);
        }
        let options = options
            .listen(listen)
            .budget(seconds(budget)?)
            .interval(seconds(interval)?)
            .app_interval(seconds(app_interval)?)
            .quiesce_limit(seconds(quiesce_limit)?)
            .events(sink(on_event));
        let inner = run(py, move || options.start())?;
        let address = inner.address().to_string();
        Ok(Self { inner: Running::new(Arc::new(inner)), name: name.to_owned(), address })
    }

    /// Address that it listens on.
    #[getter]
    fn address(&self) -> &str {
        &self.address
    }

    /// Makes a point of the group now. Raises `UnavailableError`, which names the member that
    /// prevents it.
    #[pyo3(signature = (label="", *, app=false))]
    fn point(&self, py: Python<'_>, label: &str, app: bool) -> PyResult<GroupPoint> {
        let handle = self.open_handle()?;
        run(py, || handle.point(app, label)).map(Shown::shown)
    }

    /// Removes a member that is not coming back. Raises `NotFoundError` if there is none of
    /// that name.
    fn remove(&self, py: Python<'_>, volume: &str) -> PyResult<()> {
        let handle = self.open_handle()?;
        run(py, || handle.remove(volume))
    }

    /// Returns members, counters, the newest point and the length of barriers.
    fn status(&self) -> PyResult<GroupStatus> {
        Ok(self.open_handle()?.status().shown())
    }

    /// Stops the coordinator.
    fn stop(&self, py: Python<'_>) {
        let taken = self.inner.take();
        py.detach(move || drop(taken));
    }

    fn __repr__(&self) -> String {
        match self.open_handle() {
            Ok(_) => format!("<GroupCoordinator of {} at {}>", self.name, self.address),
            Err(_) => format!("<GroupCoordinator of {}, stopped>", self.name),
        }
    }
}

ends_with_block!(GroupCoordinator, |it, py| it.stop(py));

/// A volume's membership in a group; see `Protection.join_group`.
///
/// Leaving the `with` block closes it. The volume stays a member then, and points of the
/// group wait for it.
#[pyclass(frozen, module = "hrl")]
pub(crate) struct GroupMember {
    inner: Arc<Running<Arc<hrl_group::GroupMember>>>,
}

impl GroupMember {
    pub(crate) fn join(
        protection: &hrl::Protection,
        group: &str,
        coordinators: &[String],
        identity: PathBuf,
        hold_share: f64,
        quiesce: Option<Arc<dyn Quiesce>>,
    ) -> hrl::Result<Self> {
        let join = hrl_group::GroupJoin::new(group, coordinators, identity);
        let mut join = join.hold_share(hold_share);
        if let Some(provider) = quiesce {
            join = join.quiesce(provider);
        }
        Ok(Self { inner: Running::new(Arc::new(join.join(protection)?)) })
    }

    fn open_handle(&self) -> PyResult<Arc<hrl_group::GroupMember>> {
        self.inner
            .with(Arc::clone)
            .ok_or_else(|| pyo3::exceptions::PyValueError::new_err("the membership is closed"))
    }
}

#[pymethods]
impl GroupMember {
    /// Returns counters and conditions as of now.
    fn stats(&self) -> PyResult<GroupMemberStats> {
        Ok(self.open_handle()?.stats().shown())
    }

    /// Waits until a coordinator has admitted it. Raises `UnavailableError` after `limit`
    /// seconds.
    #[pyo3(signature = (limit=30.0))]
    fn wait_connected(&self, py: Python<'_>, limit: f64) -> PyResult<()> {
        let (handle, limit) = (self.open_handle()?, seconds(limit)?);
        run(py, || handle.wait_connected(limit))
    }

    /// Leaves the group. Raises `UnavailableError` if no coordinator confirms that within
    /// `limit` seconds.
    #[pyo3(signature = (limit=30.0))]
    fn leave(&self, py: Python<'_>, limit: f64) -> PyResult<()> {
        let limit = seconds(limit)?;
        let Some(handle) = self.inner.take() else { return Ok(()) };
        run(py, move || handle.leave(limit))
    }

    /// Ends the connection.
    fn close(&self, py: Python<'_>) {
        let taken = self.inner.take();
        py.detach(move || drop(taken));
    }

    fn __repr__(&self) -> String {
        match self.open_handle() {
            Ok(member) if member.stats().connected => "<GroupMember, connected>".to_owned(),
            Ok(_) => "<GroupMember, not connected>".to_owned(),
            Err(_) => "<GroupMember, closed>".to_owned(),
        }
    }
}

ends_with_block!(GroupMember, |it, py| it.close(py));
