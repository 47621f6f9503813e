//! Churn of segments, and what a vault and its link need.

use std::collections::HashMap;

use hrl::Policy;
use hrl_planner::{Plan, PlanOptions};
use pyo3::prelude::*;

use crate::at::Moment;
use crate::callback::Progress;
use crate::churn::{Churn, churn_options};
use crate::errors::run;
use crate::journal::Segment;
use crate::replica::Replica;
use crate::value::{Shown, mirror};
use crate::wait::seconds;

mirror! {
    /// What a vault holds and is asked for on one day.
    CapacityDay(day: hrl_planner::DayPlan) {
        /// Bytes in the vault at the end of the day.
        vault_bytes: u64,
        /// Number of put requests.
        put: f64 = day.requests.put,
        /// Number of get requests.
        get: f64 = day.requests.get,
        /// Number of list requests.
        list: f64 = day.requests.list,
        /// Number of head requests.
        head: f64 = day.requests.head,
        /// Number of delete requests.
        delete: f64 = day.requests.delete,
    }
}

mirror! {
    /// A point of the curves over time.
    CapacitySample(sample: hrl_planner::PlanSample) {
        /// Time in UTC at which it begins.
        start: String,
        /// Greatest RPO.
        rpo_max_seconds: f64 = sample.rpo_max,
        /// Greatest size of all spools.
        spool_bytes_max: u64,
        /// Bytes of closed segments.
        sealed_bytes: u64,
        /// Bytes shipped.
        sent_bytes: u64,
    }
}

mirror! {
    /// What one volume needs.
    CapacityVolume(volume: hrl_planner::VolumePlan) {
        /// Name of the volume.
        name: String,
        /// Greatest RPO.
        rpo_max_seconds: f64 = volume.rpo_max,
        /// RPO that is kept for 99 % of the time.
        rpo_p99_seconds: f64 = volume.rpo_p99,
        /// Median RPO.
        rpo_median_seconds: f64 = volume.rpo_median,
        /// Greatest size of the spool.
        spool_bytes_max: u64,
        /// Time in UTC at which the spool reaches the policy's limit; None if it never does.
        spool_full_at: Option<String>,
        /// Number of segments.
        segments: u64,
        /// Bytes written.
        written_bytes: u64,
        /// Bytes written, each byte of the volume counted once a segment.
        unique_bytes: u64,
        /// Bytes shipped.
        shipped_bytes: u64,
        /// Time in UTC at which the last segment is in the vault.
        shipped_at: String,
        /// Whether the unique bytes are an estimate.
        is_sampled: bool,
        /// The vault's days, for this volume.
        days: Vec<CapacityDay>,
    }
    shows name rpo_p99_seconds spool_bytes_max shipped_bytes;
}

mirror! {
    /// What volumes need of a link and a vault.
    CapacityPlan(plan: Plan) {
        /// Time in UTC of the first change.
        from_time: String = plan.from,
        /// Time in UTC of the last change.
        to_time: String = plan.to,
        /// Share of the link that is used; None without a limit.
        link_use: Option<f64>,
        /// Whether the backlog of one repetition of the journals is gone in the next.
        is_sustainable: bool,
        /// Slowest link that keeps `rpo_target` for 99 % of the time; None if no link does.
        least_bytes_per_second: Option<u64>,
        /// Bytes at which the vault no longer grows; None if it still grows.
        steady_bytes: Option<u64>,
        /// Volumes.
        volumes: Vec<CapacityVolume>,
        /// The vault's days, for all volumes.
        days: Vec<CapacityDay>,
        /// Curves over time.
        samples: Vec<CapacitySample>,
    }
    shows from_time to_time link_use is_sustainable;
}

/// Returns how much was written over time, from segments that follow each other in write
/// order.
///
/// `bucket` is the length of an interval in seconds; `since` and `until` bound the time.
/// Index and record tables are read, not data.
#[pyfunction]
#[pyo3(signature = (segments, *, bucket=60.0, since=None, until=None))]
pub(crate) fn churn<'py>(
    py: Python<'py>,
    segments: Vec<PyRef<'py, Segment>>,
    bucket: f64,
    since: Option<Moment>,
    until: Option<Moment>,
) -> PyResult<Churn> {
    let options = churn_options(seconds(bucket)?, since, until);
    let segments = segments.iter().map(|s| s.inner()).collect::<PyResult<Vec<_>>>()?;
    let churn = run(py, || {
        let segments = segments.iter().map(std::convert::AsRef::as_ref);
        hrl_planner::Churn::of_segments(segments, &options)
    })?;
    Ok((&churn).shown())
}

/// Simulates shipping and retention with the journals of volumes, and predicts what they
/// need.
///
/// `policy` is as for `Protection`. `link` is the throughput of the link to the vault in
/// bytes per second, shared by all volumes; None is as much as the policy allows. `latency`
/// is the time of one request to the store. `days` of the vault are simulated, by default
/// two more than the window of the retention. `rpo_target` asks for the slowest link that
/// keeps the RPO below it for 99 % of the time. What was deleted takes space for
/// `deletion_delay` seconds.
#[pyfunction]
#[pyo3(signature = (
    replicas, *, policy=None, link=None, latency=0.02, since=None, until=None, days=None, rpo_target=None, progress=None,
    deletion_delay=0.0
))]
#[allow(clippy::too_many_arguments, reason = "they are named in Python")]
pub(crate) fn plan_capacity<'py>(
    py: Python<'py>,
    replicas: Vec<PyRef<'py, Replica>>,
    policy: Option<HashMap<String, String>>,
    link: Option<u64>,
    latency: f64,
    since: Option<Moment>,
    until: Option<Moment>,
    days: Option<u32>,
    rpo_target: Option<f64>,
    progress: Option<Py<PyAny>>,
    deletion_delay: f64,
) -> PyResult<CapacityPlan> {
    let replicas: Vec<hrl::replica::Replica> = replicas
        .iter()
        .map(|replica| replica.inner().map(|replica| (*replica).clone()))
        .collect::<PyResult<_>>()?;
    let mut options = PlanOptions {
        link_bytes_per_second: link,
        request_latency: seconds(latency)?,
        deletion_delay: seconds(deletion_delay)?,
        from: since.map(|time| time.0),
        to: until.map(|time| time.0),
        days,
        rpo_target: rpo_target.map(seconds).transpose()?,
        policy: Policy::default(),
    };
    let plan = Progress::new(progress).run(py, |report| {
        for (name, value) in policy.iter().flatten() {
            options.policy.set(name, value)?;
        }
        hrl_planner::plan_capacity(&replicas, &options, report)
    })?;
    Ok(plan.shown())
}
