//! What retention says of points and does to replicas, as Python values.

use hrl::Timestamp;
use hrl::replica::CompactReport;
use hrl::vault::{PinUntil, VerdictKind};
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// What keeps a recovery point through retention.
#[pyclass(frozen, get_all, module = "hrl")]
#[derive(Clone)]
pub(crate) struct Pin {
    point: String,
    until: Option<String>,
    hold: bool,
    reason: String,
    since: String,
}

impl From<hrl::vault::Pin> for Pin {
    fn from(pin: hrl::vault::Pin) -> Self {
        let until = match pin.until {
            PinUntil::Time(until) => Some(until.to_string()),
            PinUntil::Forever | PinUntil::LegalHold => None,
        };
        Self {
            point: pin.point.to_string(),
            until,
            hold: pin.is_hold(),
            since: pin.since.to_string(),
            reason: pin.reason,
        }
    }
}

/// What a check of a recovery point found.
#[pyclass(frozen, get_all, module = "hrl")]
#[derive(Clone)]
pub(crate) struct Verdict {
    point: String,
    kind: String,
    ok: bool,
    time: String,
    text: String,
}

impl From<hrl::vault::Verdict> for Verdict {
    fn from(verdict: hrl::vault::Verdict) -> Self {
        Self {
            point: verdict.point.to_string(),
            kind: verdict.kind.name().to_owned(),
            ok: verdict.ok,
            time: verdict.time.to_string(),
            text: verdict.text,
        }
    }
}

/// How long a pin is to hold.
pub(crate) fn pin_until(until: Option<&str>, hold: bool) -> hrl::Result<PinUntil> {
    match (until, hold) {
        (None, false) => Ok(PinUntil::Forever),
        (None, true) => Ok(PinUntil::LegalHold),
        (Some(until), false) => Timestamp::parse(until).map(PinUntil::Time),
        (Some(until), true) => Err(hrl::Error::new(hrl::ErrorKind::InvalidInput, "pin", "point")
            .expected("a legal hold without a time")
            .found(until)),
    }
}

/// The kind of a verdict by its name.
pub(crate) fn verdict_kind(name: &str) -> hrl::Result<VerdictKind> {
    VerdictKind::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| {
        hrl::Error::new(hrl::ErrorKind::InvalidInput, "record verdict", name)
            .expected(format_args!("one of {}", VerdictKind::ALL.map(VerdictKind::name).join(", ")))
            .found(name)
    })
}

/// A report as a dictionary.
pub(crate) fn report_dict<'py>(
    py: Python<'py>,
    report: &CompactReport,
) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("states_kept", report.states_kept)?;
    dict.set_item("segments_before", report.segments_before)?;
    dict.set_item("segments_after", report.segments_after)?;
    dict.set_item("folds", report.folds)?;
    dict.set_item("points_dropped", report.points_dropped)?;
    dict.set_item("bytes_read", report.bytes_read)?;
    dict.set_item("bytes_written", report.bytes_written)?;
    dict.set_item("objects_deleted", report.objects_deleted)?;
    dict.set_item("objects_waiting", report.objects_waiting)?;
    dict.set_item("strays_retired", report.strays_retired)?;
    dict.set_item("over_budget_bytes", report.over_budget_bytes)?;
    dict.set_item("lost_race", report.lost_race)?;
    let findings: Vec<_> =
        report.findings.iter().map(|f| (&f.object, f.error.to_string())).collect();
    dict.set_item("findings", findings)?;
    Ok(dict)
}
