//! Where events go: to a callable, or to the logger "hrl".

use std::sync::Arc;

use hrl::sync::lock::Mutex;
use hrl::{Event, EventKind, EventSink, Mode, Severity};
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// A sink that calls `on_event`, or logs where there is none.
pub(crate) fn sink(on_event: Option<Py<PyAny>>) -> EventSink {
    Arc::new(move |event: &Event| {
        deliver(|py| {
            let told = as_dict(py, event)?;
            match &on_event {
                Some(callback) => callback.call1(py, (told,)).map(drop),
                None => log(event, told),
            }
        });
    })
}

/// A sink of lines that calls `on_line`, or logs them as warnings where there is none.
pub(crate) fn line_sink(on_line: Option<Py<PyAny>>) -> Arc<dyn Fn(&str) + Send + Sync> {
    Arc::new(move |line: &str| {
        deliver(|py| match &on_line {
            Some(callback) => callback.call1(py, (line,)).map(drop),
            None => logger(py)?.call_method1("warning", ("%s", clean(py, line)?)).map(drop),
        });
    })
}

/// Runs `call` with the interpreter's lock, unless the interpreter is shutting down. An
/// exception goes where Python sends those that nobody can catch.
fn deliver(call: impl FnOnce(Python<'_>) -> PyResult<()>) {
    let _ = Python::try_attach(|py| {
        if let Err(error) = call(py) {
            error.write_unraisable(py, None);
        }
    });
}

fn as_dict<'py>(py: Python<'py>, event: &Event) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("time", event.time.to_string())?;
    dict.set_item("volume", &event.volume)?;
    dict.set_item("kind", event.kind.name())?;
    dict.set_item("message", &event.message)?;
    if let EventKind::ModeChanged { to, cause, .. } = &event.kind {
        dict.set_item("mode", to.name())?;
        dict.set_item("cause", cause.name())?;
    }
    Ok(dict)
}

fn logger(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    py.import("logging")?.call_method1("getLogger", ("hrl",))
}

/// Returns text as one line that cannot control a terminal: a message may contain foreign names.
fn clean<'py>(py: Python<'py>, text: &str) -> PyResult<Bound<'py, PyAny>> {
    py.import("hrl.words")?.call_method1("clean", (text,))
}

/// Logs an event; its dictionary is the attribute `hrl_event` of the record.
fn log(event: &Event, told: Bound<'_, PyDict>) -> PyResult<()> {
    let py = told.py();
    let extra = PyDict::new(py);
    extra.set_item("hrl_event", told)?;
    let options = PyDict::new(py);
    options.set_item("extra", extra)?;
    let message = clean(py, &event.message)?;
    let message = (level(event.kind.severity()), "%s: %s", &event.volume, message);
    logger(py)?.call_method("log", message, Some(&options)).map(drop)
}

/// Returns the level of `logging` for a severity.
fn level(severity: Severity) -> u8 {
    match severity {
        Severity::Error => 40,
        Severity::Warning => 30,
        _ => 20,
    }
}

/// What is wrong with a volume.
#[derive(Default)]
struct Troubles {
    /// The newest warning that is not over.
    warning: Option<String>,
    /// The newest change to a mode without order.
    mode: Option<String>,
}

/// The newest trouble of a volume, for the error of a wait.
#[derive(Clone, Default)]
pub(crate) struct Trouble(Arc<Mutex<Troubles>>);

impl Trouble {
    /// A sink that remembers troubles and passes every event on.
    pub(crate) fn watch(&self, sink: EventSink) -> EventSink {
        let newest = self.0.clone();
        Arc::new(move |event: &Event| {
            match event.kind {
                EventKind::ModeChanged { to: Mode::Ordered, .. } => newest.lock().mode = None,
                EventKind::ModeChanged { .. } => newest.lock().mode = Some(event.message.clone()),
                EventKind::TaskRecovered | EventKind::VaultAvailable | EventKind::RpoMet => {
                    newest.lock().warning = None;
                }
                _ if event.kind.severity() > Severity::Info => {
                    newest.lock().warning = Some(event.message.clone());
                }
                _ => {}
            }
            sink(event);
        })
    }

    /// The message of the newest warning, unless it is over, or of the newest change to a mode
    /// without order.
    pub(crate) fn newest(&self) -> Option<String> {
        let troubles = self.0.lock();
        troubles.warning.clone().or_else(|| troubles.mode.clone())
    }
}
