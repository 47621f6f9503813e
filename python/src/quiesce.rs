//! What `mark_quiesced` and `applications=` take, and the watchdog as a program of the package.

use std::ffi::OsString;
use std::sync::Arc;

use hrl::{Policy, Quiesce};
use hrl_quiesce::{Applications, InOrder};
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};

use crate::callback::CallbackQuiesce;
use crate::errors::raise;

/// Specifications, objects that have one as `spec`, objects with `quiesce` and `release`, or a list or tuple of these.
pub(crate) fn applications(given: &Bound<'_, PyAny>) -> PyResult<Arc<dyn Quiesce>> {
    let mut parts: Vec<Arc<dyn Quiesce>> = Vec::new();
    // Neighbours of the library's own kinds share a watchdog, which puts them into the order that fits.
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
    // Where nothing was given this says so.
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

/// Runs the watchdog in this process; gives its exit code.
#[pyfunction]
pub(crate) fn run_watchdog(py: Python<'_>) -> u8 {
    let done = py.detach(hrl_quiesce::run_watchdog);
    u8::from(done != std::process::ExitCode::SUCCESS)
}

/// The watchdog of a Python process is the interpreter with a module of the package.
pub(crate) fn use_interpreter(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let executable = module.py().import("sys")?.getattr("executable")?;
    // An interpreter that is embedded elsewhere has none; then the program hrl-watchdog is looked for.
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
