//! Recovery states and times as callers name them.

use hrl::replica::{At, Expected};
use hrl::{PointId, Sequence, Timestamp};
use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyInt};

use crate::errors::raise;
use crate::point::{GroupPoint, RecoveryPoint};

/// A recovery state: a point, a sequence number, a time, or text.
#[derive(Clone)]
pub(crate) struct State(pub(crate) At);

impl State {
    /// The newest state that can be restored.
    pub(crate) const NEWEST: Self = Self(At::Newest);
    /// The newest point that checks found good, or the best that is known.
    pub(crate) const NEWEST_GOOD: Self = Self(At::NewestGood);

    fn of_point(id: &str) -> PyResult<Self> {
        let point = PointId::parse(id);
        point.map(|id| Self(At::Point(id))).ok_or_else(|| PyValueError::new_err("no identity"))
    }
}

impl<'py> FromPyObject<'_, 'py> for State {
    type Error = PyErr;

    fn extract(given: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if let Ok(text) = given.extract::<String>() {
            return At::parse(&text).map(Self).map_err(|error| raise(&error));
        }
        if let Ok(point) = given.cast::<RecoveryPoint>() {
            return Self::of_point(&point.get().id);
        }
        if let Ok(point) = given.cast::<GroupPoint>() {
            return Self::of_point(&point.get().id);
        }
        if given.is_instance_of::<PyInt>() && !given.is_instance_of::<PyBool>() {
            let sequence = given.extract().map_err(|_: PyErr| {
                PyOverflowError::new_err("a sequence is a number from 0 to 2**64 - 1")
            })?;
            return Ok(Self(At::Sequence(Sequence(sequence))));
        }
        if let Some(time) = of_datetime(&given)? {
            return Ok(Self(At::Time(time)));
        }
        Err(PyTypeError::new_err(format!(
            "a recovery state is a point, a sequence number, a datetime or text, and not {}",
            given.get_type().qualname()?
        )))
    }
}

/// The least that a volume must have: what a state may be, or a version of its catalog as text.
pub(crate) struct Expectation(pub(crate) Expected);

impl<'py> FromPyObject<'_, 'py> for Expectation {
    type Error = PyErr;

    fn extract(given: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if let Ok(text) = given.extract::<String>() {
            return Expected::parse(&text).map(Self).map_err(|error| raise(&error));
        }
        Ok(Self(Expected::State(given.extract::<State>()?.0)))
    }
}

/// A time: a `datetime` with a time zone, or text such as "2026-11-21T09:30:00Z".
pub(crate) struct Moment(pub(crate) Timestamp);

impl<'py> FromPyObject<'_, 'py> for Moment {
    type Error = PyErr;

    fn extract(given: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if let Ok(text) = given.extract::<String>() {
            return Timestamp::parse(&text).map(Self).map_err(|error| raise(&error));
        }
        of_datetime(&given)?.map(Self).ok_or_else(|| {
            PyTypeError::new_err("a time is a datetime, or text such as 2026-11-21T09:30:00Z")
        })
    }
}

/// The time of a `datetime.datetime`; `None` for any other object. `ValueError` without
/// a time zone.
fn of_datetime(given: &Bound<'_, PyAny>) -> PyResult<Option<Timestamp>> {
    let datetime = given.py().import("datetime")?;
    let class = datetime.getattr("datetime")?;
    if !given.is_instance(&class)? {
        return Ok(None);
    }
    if given.call_method0("utcoffset")?.is_none() {
        return Err(PyValueError::new_err("a datetime needs a time zone, such as datetime.UTC"));
    }
    let epoch = class.call_method1("fromtimestamp", (0, datetime.getattr("UTC")?))?;
    let since = given.sub(epoch)?;
    let whole = |name: &str| since.getattr(name)?.extract::<i64>();
    let seconds = whole("days")? * 86_400 + whole("seconds")?;
    let nanoseconds = whole("microseconds")? * 1000;
    let time = seconds.checked_mul(1_000_000_000).and_then(|ns| ns.checked_add(nanoseconds));
    let time = time.ok_or_else(|| PyOverflowError::new_err("the time does not fit 64 bits"))?;
    Ok(Some(Timestamp(time)))
}
