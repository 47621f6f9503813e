//! Churn and capacity planning, as dictionaries.

use std::time::Duration;

use hrl::Timestamp;
use hrl::planner::{Churn, ChurnBucket, ChurnOptions};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use crate::errors::run;
use crate::journal::Segment;

const PERCENTS: [f64; 6] = [50.0, 75.0, 90.0, 95.0, 99.0, 100.0];

/// Options of churn from a call's arguments.
pub(crate) fn churn_options(
    bucket: f64,
    since: Option<&str>,
    until: Option<&str>,
) -> hrl::Result<ChurnOptions> {
    Ok(ChurnOptions {
        bucket: seconds(bucket, "bucket")?,
        from: since.map(Timestamp::parse).transpose()?,
        to: until.map(Timestamp::parse).transpose()?,
    })
}

/// A number of seconds as a duration; `InvalidInput` when it is none.
pub(crate) fn seconds(value: f64, name: &'static str) -> hrl::Result<Duration> {
    Duration::try_from_secs_f64(value).map_err(|_| {
        hrl::Error::new(hrl::ErrorKind::InvalidInput, "use", name)
            .expected("seconds, zero or more")
            .found(value)
    })
}

#[pyfunction]
#[pyo3(signature = (segments, *, bucket=60.0, since=None, until=None))]
pub(crate) fn churn<'py>(
    py: Python<'py>,
    segments: Vec<PyRef<'py, Segment>>,
    bucket: f64,
    since: Option<&str>,
    until: Option<&str>,
) -> PyResult<Bound<'py, PyDict>> {
    let segments = segments.iter().map(|s| s.inner()).collect::<PyResult<Vec<_>>>()?;
    let churn = run(py, || {
        let segments = segments.iter().map(std::convert::AsRef::as_ref);
        Churn::of_segments(segments, &churn_options(bucket, since, until)?)
    })?;
    churn_dict(py, &churn)
}

/// Churn as a dictionary.
pub(crate) fn churn_dict<'py>(py: Python<'py>, churn: &Churn) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("bucket_seconds", churn.bucket.as_secs_f64())?;
    dict.set_item("duration_seconds", churn.duration().as_secs_f64())?;
    dict.set_item("segments", churn.segments)?;
    dict.set_item("segments_folded", churn.segments_folded)?;
    dict.set_item("is_sampled", churn.is_sampled)?;
    let total = bucket_dict(py, &churn.total())?;
    total.del_item("start")?;
    dict.set_item("total", total)?;
    dict.set_item("top", churn.top().map(|top| bucket_dict(py, top)).transpose()?)?;
    let percentiles = PyDict::new(py);
    for (name, value) in [
        ("written_bytes", (|b| b.written_bytes) as fn(&ChurnBucket) -> u64),
        ("unique_bytes", |b| b.unique_bytes),
        ("stored_bytes", |b| b.stored_bytes),
    ] {
        let of_value = PyDict::new(py);
        for percent in PERCENTS {
            of_value.set_item(format!("{percent}"), churn.percentile(percent, value))?;
        }
        percentiles.set_item(name, of_value)?;
    }
    dict.set_item("percentiles", percentiles)?;
    let buckets = PyList::empty(py);
    for bucket in &churn.buckets {
        buckets.append(bucket_dict(py, bucket)?)?;
    }
    dict.set_item("buckets", buckets)?;
    Ok(dict)
}

fn bucket_dict<'py>(py: Python<'py>, bucket: &ChurnBucket) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("start", bucket.start.to_string())?;
    dict.set_item("records", bucket.records)?;
    dict.set_item("written_bytes", bucket.written_bytes)?;
    dict.set_item("unique_bytes", bucket.unique_bytes)?;
    dict.set_item("stored_bytes", bucket.stored_bytes)?;
    dict.set_item("resync_stored_bytes", bucket.resync_stored_bytes)?;
    Ok(dict)
}
