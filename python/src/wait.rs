//! Waits that a signal of the process, such as Ctrl-C, ends.

use std::time::Duration;

use hrl::ErrorKind;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::errors::raise;

/// Signals are looked at this often during a wait.
const SIGNAL_CHECK: Duration = Duration::from_millis(100);

/// A wait of this many seconds. Negative numbers become zero, and numbers above what a
/// `Duration` holds become its maximum.
pub(crate) fn seconds(limit: f64) -> PyResult<Duration> {
    if limit.is_nan() {
        return Err(PyValueError::new_err("a limit is a number of seconds"));
    }
    Ok(Duration::try_from_secs_f64(limit.max(0.0)).unwrap_or(Duration::MAX))
}

/// A wait of this many seconds, or without end.
pub(crate) fn seconds_or_ever(limit: Option<f64>) -> PyResult<Duration> {
    limit.map_or(Ok(Duration::MAX), seconds)
}

/// Calls `wait` with short limits until it gives something other than `Unavailable`, or
/// `limit` is over. `late` is the error at the limit.
pub(crate) fn in_slices<T: Send>(
    py: Python<'_>,
    limit: Duration,
    wait: impl Fn(Duration) -> hrl::Result<T> + Sync,
    late: impl FnOnce() -> hrl::Error,
) -> PyResult<T> {
    let mut left = limit;
    loop {
        let slice = left.min(SIGNAL_CHECK);
        match py.detach(|| wait(slice)) {
            Err(error) if error.kind() == ErrorKind::Unavailable => {}
            done => return done.map_err(|error| raise(&error)),
        }
        py.check_signals()?;
        left = left.saturating_sub(slice);
        if left.is_zero() {
            return Err(raise(&late()));
        }
    }
}
