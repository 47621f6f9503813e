//! Consistency groups: `GroupCoordinator`, `GroupMember`, and the points that they make.

use std::path::PathBuf;
use std::sync::Arc;

use hrl::Quiesce;
use hrl_group::GroupOptions;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::errors::run;
use crate::running::{Running, ends_with_block};
use crate::tap::seconds;

/// The place of a group point in one member.
#[pyclass(frozen, get_all, module = "hrl")]
#[derive(Clone)]
pub(crate) struct GroupMark {
    volume: String,
    point: String,
    sequence: u64,
    time: String,
}

/// One cut across the volumes of a group.
#[pyclass(frozen, get_all, module = "hrl")]
pub(crate) struct GroupPoint {
    id: String,
    kind: String,
    time: String,
    group: String,
    label: String,
    members: u16,
    complete: bool,
    marks: Vec<GroupMark>,
    held_seconds: Option<f64>,
}

impl From<hrl::GroupPoint> for GroupPoint {
    fn from(point: hrl::GroupPoint) -> Self {
        Self {
            id: point.id.to_string(),
            kind: point.kind.name().to_owned(),
            time: point.time.to_string(),
            complete: point.is_complete(),
            members: point.members,
            held_seconds: point.held.map(|held| held.as_secs_f64()),
            marks: point
                .marks
                .into_iter()
                .map(|mark| GroupMark {
                    volume: mark.volume,
                    point: mark.point.to_string(),
                    sequence: mark.sequence.0,
                    time: mark.time.to_string(),
                })
                .collect(),
            group: point.group,
            label: point.label,
        }
    }
}

#[pymethods]
impl GroupPoint {
    fn __repr__(&self) -> String {
        let Self { kind, id, group, members, .. } = self;
        format!("GroupPoint({kind} {id} of {group}, {members} members)")
    }
}

/// The coordinator of a consistency group.
#[pyclass(frozen, module = "hrl")]
pub(crate) struct GroupCoordinator {
    inner: Arc<Running<Arc<hrl_group::GroupCoordinator>>>,
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
    #[pyo3(signature = (name, *, state, pki, listen="0.0.0.0:20004", budget=0.3, interval=0.0, app_interval=0.0, quiesce_limit=10.0, on_event=None))]
    #[allow(clippy::too_many_arguments, reason = "they are keyword arguments")]
    fn new(
        py: Python<'_>,
        name: &str,
        state: PathBuf,
        pki: PathBuf,
        listen: &str,
        budget: f64,
        interval: f64,
        app_interval: f64,
        quiesce_limit: f64,
        on_event: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let mut options = GroupOptions::new(name, state, pki)
            .listen(listen)
            .budget(seconds(budget)?)
            .interval(seconds(interval)?)
            .app_interval(seconds(app_interval)?)
            .quiesce_limit(seconds(quiesce_limit)?);
        if let Some(callback) = on_event {
            options = options.events(crate::protection::events(callback));
        }
        let inner = run(py, move || options.start())?;
        let address = inner.address().to_string();
        Ok(Self { inner: Running::new(Arc::new(inner)), address })
    }

    #[getter]
    fn address(&self) -> &str {
        &self.address
    }

    #[pyo3(signature = (label="", *, app=false))]
    fn point(&self, py: Python<'_>, label: &str, app: bool) -> PyResult<GroupPoint> {
        let handle = self.open_handle()?;
        run(py, || handle.point(app, label)).map(Into::into)
    }

    fn remove(&self, py: Python<'_>, volume: &str) -> PyResult<()> {
        let handle = self.open_handle()?;
        run(py, || handle.remove(volume))
    }

    fn status<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let status = self.open_handle()?.status();
        let dict = PyDict::new(py);
        let mut members = Vec::new();
        for member in status.members {
            let one = PyDict::new(py);
            one.set_item("volume", member.volume)?;
            one.set_item("address", member.address)?;
            one.set_item("unconfirmed", member.unconfirmed)?;
            members.push(one);
        }
        dict.set_item("members", members)?;
        dict.set_item("points", status.points)?;
        dict.set_item("failures", status.failures)?;
        dict.set_item("newest", status.newest.map(GroupPoint::from))?;
        dict.set_item("problem", status.problem)?;
        dict.set_item("held_p50_seconds", status.held_p50.as_secs_f64())?;
        dict.set_item("held_p99_seconds", status.held_p99.as_secs_f64())?;
        dict.set_item("held_max_seconds", status.held_max.as_secs_f64())?;
        Ok(dict)
    }

    fn stop(&self, py: Python<'_>) {
        let taken = self.inner.take();
        py.detach(move || drop(taken));
    }
}

ends_with_block!(GroupCoordinator, |it, py| it.stop(py));

/// A volume's membership in a group.
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
        quiesce: Option<Arc<dyn Quiesce>>,
    ) -> hrl::Result<Self> {
        let mut join = hrl_group::GroupJoin::new(group, coordinators, identity);
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
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = self.open_handle()?.stats();
        let dict = PyDict::new(py);
        dict.set_item("connected", stats.connected)?;
        dict.set_item("rounds", stats.rounds)?;
        dict.set_item("points", stats.points)?;
        dict.set_item("held_max_seconds", stats.held_max.as_secs_f64())?;
        dict.set_item("problem", stats.problem)?;
        Ok(dict)
    }

    #[pyo3(signature = (limit=30.0))]
    fn wait_connected(&self, py: Python<'_>, limit: f64) -> PyResult<()> {
        let (handle, limit) = (self.open_handle()?, seconds(limit)?);
        run(py, || handle.wait_connected(limit))
    }

    #[pyo3(signature = (limit=30.0))]
    fn leave(&self, py: Python<'_>, limit: f64) -> PyResult<()> {
        let limit = seconds(limit)?;
        let Some(handle) = self.inner.take() else { return Ok(()) };
        run(py, move || handle.leave(limit))
    }

    fn close(&self, py: Python<'_>) {
        let taken = self.inner.take();
        py.detach(move || drop(taken));
    }
}

ends_with_block!(GroupMember, |it, py| it.close(py));
