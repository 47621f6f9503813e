//! Recovery plans: `Plan`, what its hosts are asked, and the runs of a vault. Reports are dictionaries.

use std::path::PathBuf;

use hrl::{Error, ErrorKind, Timestamp};
use hrl_plan::{self as plan, Member, RunMode, RunOptions, StartRequest, StepReport, StopFlag};
use pyo3::prelude::*;

use crate::callback::CallbackHost;
use crate::errors::{raise, run};
use crate::planner::seconds;
use crate::replica::Vault;

/// A volume of a plan.
#[pyclass(frozen, get_all, module = "hrl")]
#[derive(Clone)]
pub(crate) struct PlanMember {
    volume: String,
    disk: Option<PathBuf>,
    state: Option<PathBuf>,
    nbd: Option<String>,
    test_nbd: Option<String>,
}

impl From<&Member> for PlanMember {
    fn from(member: &Member) -> Self {
        Self {
            volume: member.volume.clone(),
            disk: member.disk.clone(),
            state: member.state.clone(),
            nbd: member.nbd.clone(),
            test_nbd: member.test_nbd.clone(),
        }
    }
}

#[pymethods]
impl PlanMember {
    fn __repr__(&self) -> String {
        format!("PlanMember({})", self.volume)
    }
}

/// What a host is asked for.
#[pyclass(frozen, module = "hrl")]
pub(crate) struct PlanRequest {
    #[pyo3(get)]
    run: String,
    #[pyo3(get)]
    mode: &'static str,
    #[pyo3(get)]
    planned: bool,
    #[pyo3(get)]
    at: String,
    #[pyo3(get)]
    state: Option<PathBuf>,
    #[pyo3(get)]
    nbd: Option<String>,
    #[pyo3(get)]
    limit: f64,
    stop: StopFlag,
}

impl From<&StartRequest<'_>> for PlanRequest {
    fn from(request: &StartRequest<'_>) -> Self {
        Self {
            run: request.run.to_owned(),
            mode: request.mode.name(),
            planned: request.planned,
            at: request.at_text(),
            state: request.state.clone(),
            nbd: request.nbd.map(str::to_owned),
            limit: request.limit.as_secs_f64(),
            stop: request.stop.clone(),
        }
    }
}

#[pymethods]
impl PlanRequest {
    #[getter]
    fn stopped(&self) -> bool {
        self.stop.is_set()
    }

    fn __repr__(&self) -> String {
        format!("PlanRequest({} run {} at {})", self.mode, self.run, self.at)
    }
}

/// A recovery plan.
#[pyclass(frozen, module = "hrl")]
pub(crate) struct Plan(plan::Plan);

#[pymethods]
impl Plan {
    #[new]
    #[pyo3(signature = (text, *, name="the plan"))]
    fn new(py: Python<'_>, text: &str, name: &str) -> PyResult<Self> {
        run(py, || plan::Plan::parse(text, name)).map(Self)
    }

    #[staticmethod]
    fn from_file(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        run(py, || {
            let name = path.display().to_string();
            let text =
                std::fs::read(&path).map_err(|error| Error::io("read plan", &name, error))?;
            let text = String::from_utf8(text).map_err(|error| {
                Error::new(ErrorKind::InvalidInput, "read plan", &name)
                    .at(error.utf8_error().valid_up_to() as u64)
                    .expected("UTF-8")
            })?;
            plan::Plan::parse(&text, &name)
        })
        .map(Self)
    }

    #[getter]
    fn name(&self) -> &str {
        self.0.name()
    }

    #[getter]
    fn text(&self) -> &str {
        self.0.text()
    }

    #[getter]
    fn groups(&self) -> Vec<String> {
        self.0.groups().iter().map(|group| group.name.clone()).collect()
    }

    #[getter]
    fn members(&self) -> Vec<PlanMember> {
        self.0.members().map(|(_, member)| member.into()).collect()
    }

    fn steps<'py>(&self, py: Python<'py>, mode: &str) -> PyResult<Bound<'py, PyAny>> {
        let steps = self.0.steps(mode_of(mode)?);
        let steps: Vec<_> = steps.iter().map(plan::Step::to_json).collect();
        loads(py, &format!("[{}]", steps.join(",")))
    }

    fn check<'py>(&self, py: Python<'py>, vault: &Vault) -> PyResult<Bound<'py, PyAny>> {
        let vault = vault.inner()?;
        let check = run(py, || self.0.check(&vault))?;
        loads(py, &check.to_json())
    }

    #[pyo3(signature = (vault, host, *, run=None, mode="test", planned=false, failed_at=None, commit=false, poll=1.0, stopped=None, on_step=None))]
    #[allow(clippy::too_many_arguments, reason = "they are keyword arguments")]
    fn run<'py>(
        &self,
        py: Python<'py>,
        vault: &Vault,
        host: &Bound<'py, PyAny>,
        run: Option<String>,
        mode: &str,
        planned: bool,
        failed_at: Option<&str>,
        commit: bool,
        poll: f64,
        stopped: Option<Py<PyAny>>,
        on_step: Option<Py<PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let failed_at = failed_at.map(Timestamp::parse).transpose().map_err(|e| raise(&e))?;
        let options = RunOptions {
            run,
            mode: mode_of(mode)?,
            planned,
            failed_at,
            commit,
            ..RunOptions::default()
        };
        let (vault, host) = (vault.inner()?, CallbackHost::new(host)?);
        with_callbacks(py, options, poll, stopped, on_step, |options| {
            plan::run(&self.0, &vault, &host, options)
        })
    }

    fn __repr__(&self) -> String {
        format!("Plan({})", self.0.name())
    }
}

#[pyfunction]
#[pyo3(signature = (vault, run, host, *, commit=false, take_over=false, poll=1.0, stopped=None, on_step=None))]
#[allow(clippy::too_many_arguments, reason = "they are keyword arguments")]
pub(crate) fn resume_plan<'py>(
    py: Python<'py>,
    vault: &Vault,
    run: &str,
    host: &Bound<'py, PyAny>,
    commit: bool,
    take_over: bool,
    poll: f64,
    stopped: Option<Py<PyAny>>,
    on_step: Option<Py<PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let (vault, host) = (vault.inner()?, CallbackHost::new(host)?);
    let options = RunOptions { commit, take_over, ..RunOptions::default() };
    with_callbacks(py, options, poll, stopped, on_step, |options| {
        plan::resume(&vault, run, &host, options)
    })
}

#[pyfunction]
#[pyo3(signature = (vault, run, step, *, approved=true, by="", note=""))]
pub(crate) fn approve_plan_step(
    py: Python<'_>,
    vault: &Vault,
    run: &str,
    step: &str,
    approved: bool,
    by: &str,
    note: &str,
) -> PyResult<()> {
    let vault = vault.inner()?;
    crate::errors::run(py, || plan::approve(&vault, run, step, approved, by, note)).map(drop)
}

#[pyfunction]
pub(crate) fn plan_report<'py>(
    py: Python<'py>,
    vault: &Vault,
    run: &str,
) -> PyResult<Bound<'py, PyAny>> {
    let vault = vault.inner()?;
    let report = crate::errors::run(py, || plan::report(&vault, run))?;
    loads(py, &report.to_json())
}

#[pyfunction]
pub(crate) fn plan_runs(py: Python<'_>, vault: &Vault) -> PyResult<Vec<String>> {
    let vault = vault.inner()?;
    run(py, || plan::runs(&vault))
}

/// Runs `work` with the options and the caller's callbacks, without the interpreter's lock.
fn with_callbacks<'py>(
    py: Python<'py>,
    options: RunOptions<'_>,
    poll: f64,
    stopped: Option<Py<PyAny>>,
    on_step: Option<Py<PyAny>>,
    work: impl FnOnce(&RunOptions<'_>) -> hrl::Result<plan::RunReport> + Send,
) -> PyResult<Bound<'py, PyAny>> {
    let poll = seconds(poll, "poll").map_err(|error| raise(&error))?;
    // What goes wrong in a callback is no reason to stop a failover: it is written to standard error, as of other callbacks.
    let stop = || {
        let Some(callback) = &stopped else { return false };
        Python::try_attach(|py| {
            let asked = callback.call0(py).and_then(|given| given.is_truthy(py));
            asked.unwrap_or_else(|error| {
                error.write_unraisable(py, None);
                false
            })
        })
        .unwrap_or(true)
    };
    let tell = |run: &str, step: &StepReport| {
        let Some(callback) = &on_step else { return };
        Python::try_attach(|py| {
            let told = loads(py, &step.to_json()).and_then(|step| callback.call1(py, (run, step)));
            if let Err(error) = told {
                error.write_unraisable(py, None);
            }
        });
    };
    let (run, mode, failed_at) = (options.run, options.mode, options.failed_at);
    let (planned, commit, take_over) = (options.planned, options.commit, options.take_over);
    let report = crate::errors::run(py, || {
        work(&RunOptions {
            run,
            mode,
            planned,
            failed_at,
            commit,
            take_over,
            poll,
            stopped: &stop,
            on_step: &tell,
        })
    })?;
    loads(py, &report.to_json())
}

fn mode_of(name: &str) -> PyResult<RunMode> {
    RunMode::from_name(name).ok_or_else(|| {
        raise(
            &Error::new(ErrorKind::InvalidInput, "run plan", name)
                .expected("test or real")
                .found(name),
        )
    })
}

fn loads<'py>(py: Python<'py>, json: &str) -> PyResult<Bound<'py, PyAny>> {
    py.import("json")?.call_method1("loads", (json,))
}
