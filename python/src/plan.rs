//! Recovery plans: `Plan`, its hosts, and the runs in a vault. Reports are dictionaries.

use std::path::PathBuf;

use hrl::{Error, ErrorKind, PointId, Sequence, Timestamp};
use hrl_plan::{
    self as plan, Member, PlanHost, RunMode, RunOptions, StartRequest, Started, StepReport,
    StopFlag,
};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::at::Moment;
use crate::callback::{Object, need};
use crate::errors::{from_callback, raise, run, shutting_down};
use crate::vault::Vault;
use crate::wait::seconds;

/// A volume of a plan.
#[pyclass(frozen, get_all, module = "hrl")]
#[derive(Clone)]
pub(crate) struct PlanMember {
    /// Name in the vault.
    volume: String,
    /// Disk that a failover fills.
    disk: Option<PathBuf>,
    /// Directory of the failover's state.
    state: Option<PathBuf>,
    /// Address at which it is served.
    nbd: Option<String>,
    /// Address at which it is served in a test.
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

/// A request to a `PlanHost`.
#[pyclass(frozen, module = "hrl")]
pub(crate) struct PlanRequest {
    /// Identity of the run.
    #[pyo3(get)]
    run: String,
    /// Mode of the run.
    #[pyo3(get)]
    mode: &'static str,
    /// Whether the source is still there, so that its last bytes come first.
    #[pyo3(get)]
    planned: bool,
    /// Recovery state to come up at: "newest", "sequence:N", or "point:" and the id of a point or
    /// group point.
    #[pyo3(get)]
    at: String,
    /// Directory for the failover's state: the member's, or in a test one of the run's inside
    /// it.
    #[pyo3(get)]
    state: Option<PathBuf>,
    /// Address of this mode.
    #[pyo3(get)]
    nbd: Option<String>,
    /// Time limit in seconds, which the host observes.
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
    /// Whether the run was stopped. A host looks at it regularly, and then gives up with an
    /// error.
    #[getter]
    fn stopped(&self) -> bool {
        self.stop.is_set()
    }

    fn __repr__(&self) -> String {
        format!("PlanRequest({} run {} at {})", self.mode, self.run, self.at)
    }
}

/// A host of plans: an object with the methods of `hrl.PlanHost`.
struct CallbackHost {
    object: Object,
}

impl CallbackHost {
    /// `TypeError` names a missing method.
    fn new(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        need(object, "a host of plans", &["start", "commit", "clean_up"])?;
        Ok(Self { object: Object::new(object, ErrorKind::Unavailable)? })
    }

    fn ask<T>(
        &self,
        method: &'static str,
        member: &Member,
        request: &StartRequest<'_>,
        read: impl FnOnce(&Bound<'_, PyAny>) -> PyResult<T>,
    ) -> hrl::Result<T> {
        let done = Python::try_attach(|py| {
            let arguments = (PlanMember::from(member), PlanRequest::from(request));
            let given = self.object.object.bind(py).call_method1(method, arguments);
            given.and_then(|given| read(&given)).map_err(|raised| {
                from_callback(py, raised, method, &member.volume, self.object.otherwise)
            })
        });
        done.unwrap_or_else(|| Err(shutting_down(method, &member.volume)))
    }
}

impl PlanHost for CallbackHost {
    fn start(&self, member: &Member, request: &StartRequest<'_>) -> hrl::Result<Started> {
        self.ask("start", member, request, started)
    }

    fn commit(&self, member: &Member, request: &StartRequest<'_>) -> hrl::Result<()> {
        self.ask("commit", member, request, |_| Ok(()))
    }

    fn clean_up(&self, member: &Member, request: &StartRequest<'_>) -> hrl::Result<()> {
        self.ask("clean_up", member, request, |_| Ok(()))
    }
}

/// The answer of a host about a volume that is up: a mapping.
fn started(given: &Bound<'_, PyAny>) -> PyResult<Started> {
    let wrong = |name: &str, found: &str| {
        PyValueError::new_err(format!("start gave no good {name}: {found:?}"))
    };
    let point: Option<String> = given.get_item("point")?.extract()?;
    let time: String = given.get_item("point_time")?.extract()?;
    Ok(Started {
        uri: given.get_item("uri")?.extract()?,
        point: point
            .map(|text| PointId::parse(&text).ok_or_else(|| wrong("point", &text)))
            .transpose()?,
        sequence: Sequence(given.get_item("sequence")?.extract()?),
        point_time: Timestamp::parse(&time).map_err(|_| wrong("point_time", &time))?,
    })
}

/// A recovery plan, from TOML. An error names the key, its line, what was expected and what
/// was found.
#[pyclass(frozen, module = "hrl")]
pub(crate) struct Plan(plan::Plan);

#[pymethods]
impl Plan {
    #[new]
    #[pyo3(signature = (text, *, name="the plan"))]
    fn new(py: Python<'_>, text: &str, name: &str) -> PyResult<Self> {
        run(py, || plan::Plan::parse(text, name)).map(Self)
    }

    /// Reads a plan from a file.
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

    /// Name of the plan.
    #[getter]
    fn name(&self) -> &str {
        self.0.name()
    }

    /// TOML that it was read from.
    #[getter]
    fn text(&self) -> &str {
        self.0.text()
    }

    /// Names of its groups, in the order of the file.
    #[getter]
    fn groups(&self) -> Vec<String> {
        self.0.groups().iter().map(|group| group.name.clone()).collect()
    }

    /// Volumes of the plan.
    #[getter]
    fn members(&self) -> Vec<PlanMember> {
        self.0.members().map(|(_, member)| member.into()).collect()
    }

    /// Returns the steps of a run in the order of the plan.
    fn steps<'py>(&self, py: Python<'py>, mode: &str) -> PyResult<Bound<'py, PyAny>> {
        let steps = self.0.steps(mode_of(mode)?);
        let steps: Vec<_> = steps.iter().map(plan::Step::to_json).collect();
        loads(py, &format!("[{}]", steps.join(",")))
    }

    /// Returns the recovery state that each volume would come up at, what that loses
    /// (`rpo_ms`), and `problems`.
    fn check<'py>(&self, py: Python<'py>, vault: &Vault) -> PyResult<Bound<'py, PyAny>> {
        let vault = vault.inner()?;
        let check = run(py, || self.0.check(&vault))?;
        loads(py, &check.to_json())
    }

    /// Runs the plan to its end, and returns its report. A step that failed is in the report's
    /// `outcome`, not an error.
    ///
    /// `stopped` is called every `poll` seconds, on a thread of the library. True from it ends
    /// what is under way, and the run can be resumed. `on_step` is called with the run and the
    /// step when one begins and when it ends. The words of `verify_with` go before each
    /// `verify` program, such as those of a sandbox.
    #[pyo3(signature = (vault, host, *, run=None, mode="test", planned=false, failed_at=None, commit=false, verify_with=None, poll=1.0, stopped=None, on_step=None))]
    #[allow(clippy::too_many_arguments, reason = "they are keyword arguments")]
    fn run<'py>(
        &self,
        py: Python<'py>,
        vault: &Vault,
        host: &Bound<'py, PyAny>,
        run: Option<String>,
        mode: &str,
        planned: bool,
        failed_at: Option<Moment>,
        commit: bool,
        verify_with: Option<Vec<String>>,
        poll: f64,
        stopped: Option<Py<PyAny>>,
        on_step: Option<Py<PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let verify_with = verify_with.unwrap_or_default();
        let failed_at = failed_at.map(|time| time.0);
        let options = RunOptions {
            run,
            mode: mode_of(mode)?,
            planned,
            failed_at,
            commit,
            verify_with: &verify_with,
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

/// Continues a run of a plan, and returns its report. If the run is over only the report is
/// returned.
///
/// Raises `FencedError` if its runner lives on this machine, unless `take_over`, or if
/// another process takes the run meanwhile. `commit` commits a real run that succeeded.
///
/// In a vault without a key anybody who writes to it can write records, so `plan` is needed:
/// the records must name the same plan, `mode` and `planned`. Raises `DeniedError` without
/// it, and `InvalidInputError` if they name another one. `verify_with` is as for `Plan.run`.
#[pyfunction]
#[pyo3(signature = (vault, run, host, *, plan=None, mode="test", planned=false, commit=false, take_over=false, verify_with=None, poll=1.0, stopped=None, on_step=None))]
#[allow(clippy::too_many_arguments, reason = "they are keyword arguments")]
pub(crate) fn resume_plan<'py>(
    py: Python<'py>,
    vault: &Vault,
    run: &str,
    host: &Bound<'py, PyAny>,
    plan: Option<PyRef<'py, Plan>>,
    mode: &str,
    planned: bool,
    commit: bool,
    take_over: bool,
    verify_with: Option<Vec<String>>,
    poll: f64,
    stopped: Option<Py<PyAny>>,
    on_step: Option<Py<PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let (vault, host) = (vault.inner()?, CallbackHost::new(host)?);
    let verify_with = verify_with.unwrap_or_default();
    let options = RunOptions {
        mode: mode_of(mode)?,
        planned,
        commit,
        take_over,
        plan: plan.as_ref().map(|plan| &plan.0),
        verify_with: &verify_with,
        ..RunOptions::default()
    };
    with_callbacks(py, options, poll, stopped, on_step, |options| {
        plan::resume(&vault, run, &host, options)
    })
}

/// Decides about a manual step that waits, by its name or number. Raises `NotFoundError`,
/// which lists those that wait.
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

/// Returns the report of a run, which may be under way.
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

/// Returns the identities of the runs of plans in a vault.
#[pyfunction]
pub(crate) fn plan_runs(py: Python<'_>, vault: &Vault) -> PyResult<Vec<String>> {
    let vault = vault.inner()?;
    run(py, || plan::runs(&vault))
}

/// Runs `work` with the options and the caller's callbacks, without the interpreter's
/// lock.
fn with_callbacks<'py>(
    py: Python<'py>,
    options: RunOptions<'_>,
    poll: f64,
    stopped: Option<Py<PyAny>>,
    on_step: Option<Py<PyAny>>,
    work: impl FnOnce(&RunOptions<'_>) -> hrl::Result<plan::RunReport> + Send,
) -> PyResult<Bound<'py, PyAny>> {
    let poll = seconds(poll)?;
    // An exception in a callback does not stop a failover: it goes where Python sends those that nobody can catch.
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
    let (plan, verify_with) = (options.plan, options.verify_with);
    let report = crate::errors::run(py, || {
        work(&RunOptions {
            run,
            mode,
            planned,
            failed_at,
            commit,
            take_over,
            plan,
            verify_with,
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
