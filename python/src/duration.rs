//! Lengths of time as text.

use std::time::Duration;

use hrl::{Error, ErrorKind, TimeUnit};
use pyo3::prelude::*;

use crate::errors::raise;

/// Reads a length of time such as `500ms`, `60s`, `5m`, `2h`, `1d` or `1w`.
///
/// A bare number counts `bare`, the name of a unit. Without `bare` it is refused, unless it
/// is zero.
///
/// >>> hrl.parse_duration("1.5h")
/// datetime.timedelta(seconds=5400)
#[pyfunction]
#[pyo3(signature = (text, *, bare=None))]
pub(crate) fn parse_duration(text: &str, bare: Option<&str>) -> PyResult<Duration> {
    let unit = |name| {
        TimeUnit::from_name(name).ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, "use", "bare")
                .expected(TimeUnit::ALL.map(TimeUnit::name).join(", "))
                .found(name)
        })
    };
    let parse = || hrl::parse_duration(text, bare.map(unit).transpose()?);
    parse().map_err(|error| raise(&error))
}
