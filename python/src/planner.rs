//! Churn and capacity planning, as dictionaries.

use std::collections::HashMap;
use std::time::Duration;

use hrl::{Policy, Timestamp};
use hrl_planner::{
    Churn, ChurnBucket, ChurnOptions, DayPlan, Plan, PlanOptions, PlanSample, Requests, VolumePlan,
};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use crate::errors::run;
use crate::journal::Segment;
use crate::replica::{Replica, progress};

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

#[pyfunction]
#[pyo3(signature = (
    replicas, *, policy=None, link=None, latency=0.02, since=None, until=None, days=None, rpo_target=None, progress=None
))]
#[allow(clippy::too_many_arguments, reason = "they are named in Python")]
pub(crate) fn plan_capacity<'py>(
    py: Python<'py>,
    replicas: Vec<PyRef<'py, Replica>>,
    policy: Option<HashMap<String, String>>,
    link: Option<u64>,
    latency: f64,
    since: Option<&str>,
    until: Option<&str>,
    days: Option<u32>,
    rpo_target: Option<f64>,
    progress: Option<Py<PyAny>>,
) -> PyResult<Bound<'py, PyDict>> {
    let replicas: Vec<hrl::replica::Replica> = replicas
        .iter()
        .map(|replica| replica.inner().map(|replica| (*replica).clone()))
        .collect::<PyResult<_>>()?;
    let tell = self::progress(progress);
    let plan = run(py, || {
        let mut options = PlanOptions {
            link_bytes_per_second: link,
            request_latency: seconds(latency, "latency")?,
            from: since.map(Timestamp::parse).transpose()?,
            to: until.map(Timestamp::parse).transpose()?,
            days,
            rpo_target: rpo_target.map(|target| seconds(target, "rpo_target")).transpose()?,
            policy: Policy::default(),
        };
        for (name, value) in policy.iter().flatten() {
            options.policy.set(name, value)?;
        }
        hrl_planner::plan_capacity(&replicas, &options, &tell)
    })?;
    plan_dict(py, &plan)
}

fn plan_dict<'py>(py: Python<'py>, plan: &Plan) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("from", plan.from.to_string())?;
    dict.set_item("to", plan.to.to_string())?;
    dict.set_item("link_use", plan.link_use)?;
    dict.set_item("is_sustainable", plan.is_sustainable)?;
    dict.set_item("least_bytes_per_second", plan.least_bytes_per_second)?;
    dict.set_item("steady_bytes", plan.steady_bytes)?;
    dict.set_item("volumes", list(py, &plan.volumes, volume_dict)?)?;
    dict.set_item("days", list(py, &plan.days, day_dict)?)?;
    dict.set_item("samples", list(py, &plan.samples, sample_dict)?)?;
    Ok(dict)
}

fn list<'py, T>(
    py: Python<'py>,
    items: &[T],
    dict: impl Fn(Python<'py>, &T) -> PyResult<Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, PyList>> {
    let list = PyList::empty(py);
    items.iter().try_for_each(|item| list.append(dict(py, item)?))?;
    Ok(list)
}

fn volume_dict<'py>(py: Python<'py>, volume: &VolumePlan) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("name", &volume.name)?;
    dict.set_item("rpo_max_seconds", volume.rpo_max.as_secs_f64())?;
    dict.set_item("rpo_p99_seconds", volume.rpo_p99.as_secs_f64())?;
    dict.set_item("rpo_median_seconds", volume.rpo_median.as_secs_f64())?;
    dict.set_item("spool_bytes_max", volume.spool_bytes_max)?;
    dict.set_item("spool_full_at", volume.spool_full_at.map(|time| time.to_string()))?;
    dict.set_item("segments", volume.segments)?;
    dict.set_item("written_bytes", volume.written_bytes)?;
    dict.set_item("unique_bytes", volume.unique_bytes)?;
    dict.set_item("shipped_bytes", volume.shipped_bytes)?;
    dict.set_item("shipped_at", volume.shipped_at.to_string())?;
    dict.set_item("is_sampled", volume.is_sampled)?;
    dict.set_item("days", list(py, &volume.days, day_dict)?)?;
    Ok(dict)
}

fn day_dict<'py>(py: Python<'py>, day: &DayPlan) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    let Requests { put, get, list, head, delete } = day.requests;
    dict.set_item("vault_bytes", day.vault_bytes)?;
    for (verb, count) in
        [("put", put), ("get", get), ("list", list), ("head", head), ("delete", delete)]
    {
        dict.set_item(verb, count)?;
    }
    Ok(dict)
}

fn sample_dict<'py>(py: Python<'py>, sample: &PlanSample) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("start", sample.start.to_string())?;
    dict.set_item("rpo_max_seconds", sample.rpo_max.as_secs_f64())?;
    dict.set_item("spool_bytes_max", sample.spool_bytes_max)?;
    dict.set_item("sealed_bytes", sample.sealed_bytes)?;
    dict.set_item("sent_bytes", sample.sent_bytes)?;
    Ok(dict)
}
