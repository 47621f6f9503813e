//! Applications as `mark_quiesced` and `applications=` take them, and the watchdog as a program of the package.

use std::ffi::OsString;
use std::sync::Arc;

use hrl::{ErrorKind, Policy, Quiesce, QuiesceRequest};
use hrl_quiesce::{Applications, InOrder};
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};

use crate::callback::{Object, need};
use crate::errors::raise;

/// An application that an object with the methods of `hrl.Quiesce` quiesces.
struct CallbackQuiesce {
    object: Object,
}

impl CallbackQuiesce {
    /// `TypeError` names a missing method.
    fn new(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        need(object, "an object", &["quiesce", "release"])?;
        Ok(Self { object: Object::new(object, ErrorKind::Unavailable)? })
    }
}

impl Quiesce for CallbackQuiesce {
    fn name(&self) -> String {
        self.object.name.clone()
    }

    fn quiesce(&self, request: &QuiesceRequest) -> hrl::Result<()> {
        self.object.call("quiesce", |object| {
            object.call_method1("quiesce", (request.limit.as_secs_f64(),)).map(drop)
        })
    }

    fn release(&self) -> hrl::Result<()> {
        self.object.call("release", |object| object.call_method0("release").map(drop))
    }
}

/// The applications for a specification, an object with a `spec`, an object with
/// `quiesce` and `release`, or a list or tuple of these.
pub(crate) fn applications(given: &Bound<'_, PyAny>) -> PyResult<Arc<dyn Quiesce>> {
    let mut parts: Vec<Arc<dyn Quiesce>> = Vec::new();
    // Neighbours that the library knows share a watchdog, which orders them.
    let mut specs: Vec<String> = Vec::new();
    let gathered = |specs: &mut Vec<String>| -> PyResult<Arc<dyn Quiesce>> {
        let parsed = Applications::parse(std::mem::take(specs));
        Ok(Arc::new(parsed.map_err(|error| raise(&error))?))
    };
    for item in flat(given)? {
        if let Some(spec) = specification(&item)? {
            specs.push(spec);
            continue;
        }
        if !specs.is_empty() {
            parts.push(gathered(&mut specs)?);
        }
        parts.push(Arc::new(CallbackQuiesce::new(&item)?));
    }
    // An empty list is an error of `gathered`.
    if !specs.is_empty() || parts.is_empty() {
        parts.push(gathered(&mut specs)?);
    }
    Ok(if parts.len() == 1 { parts.remove(0) } else { Arc::new(InOrder::new(parts)) })
}

/// The applications that a policy names.
pub(crate) fn of_policy(policy: &Policy) -> hrl::Result<Option<Arc<dyn Quiesce>>> {
    Applications::of_policy(policy)
}

fn flat<'py>(given: &Bound<'py, PyAny>) -> PyResult<Vec<Bound<'py, PyAny>>> {
    if given.is_instance_of::<PyList>() || given.is_instance_of::<PyTuple>() {
        return given.try_iter()?.collect();
    }
    Ok(vec![given.clone()])
}

fn specification(item: &Bound<'_, PyAny>) -> PyResult<Option<String>> {
    if let Ok(text) = item.extract::<String>() {
        return Ok(Some(text));
    }
    if !item.hasattr("spec")? {
        return Ok(None);
    }
    item.getattr("spec")?.extract().map(Some)
}

/// Runs the watchdog in this process, which a protection started for it. Returns the exit
/// code.
#[pyfunction]
pub(crate) fn run_watchdog(py: Python<'_>) -> u8 {
    let done = py.detach(hrl_quiesce::run_watchdog);
    u8::from(done != std::process::ExitCode::SUCCESS)
}

/// Makes the interpreter, with a module of the package, the watchdog of this process.
pub(crate) fn use_interpreter(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let executable = module.py().import("sys")?.getattr("executable")?;
    // An embedded interpreter may have no executable. The program hrl-watchdog is used then.
    let Some(executable) = executable.extract::<Option<OsString>>()?.filter(|e| !e.is_empty())
    else {
        return Ok(());
    };
    let file: OsString = module
        .py()
        .import("importlib.util")?
        .call_method1("find_spec", ("hrl",))?
        .getattr("origin")?
        .extract()?;
    let script = std::path::Path::new(&file).with_file_name("watchdog.py");
    if std::env::var_os("HRL_WATCHDOG").is_none() {
        hrl_quiesce::set_watchdog([executable, script.into_os_string()]);
    }
    Ok(())
}
