//! Churn: how much was written over time.

use std::time::Duration;

use hrl_planner::ChurnOptions;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::at::Moment;
use crate::value::{Shown, mirror};

const PERCENTS: [f64; 6] = [50.0, 75.0, 90.0, 95.0, 99.0, 100.0];

/// Values by percent, in this order; a dict in Python.
#[derive(Clone, PartialEq)]
pub(crate) struct ByPercent(Vec<(String, u64)>);

impl ByPercent {
    fn of(churn: &hrl_planner::Churn, value: fn(&hrl_planner::ChurnBucket) -> u64) -> Self {
        let at = |percent: f64| (percent.to_string(), churn.percentile(percent, value));
        Self(PERCENTS.map(at).to_vec())
    }
}

impl Shown<ByPercent> for ByPercent {
    fn shown(self) -> Self {
        self
    }
}

impl<'py> IntoPyObject<'py> for ByPercent {
    type Target = PyDict;
    type Output = Bound<'py, PyDict>;
    type Error = PyErr;

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Self::Output> {
        let dict = PyDict::new(py);
        self.0.into_iter().try_for_each(|(percent, value)| dict.set_item(percent, value))?;
        Ok(dict)
    }
}

mirror! {
    /// How much was written in one interval.
    ChurnBucket(bucket: hrl_planner::ChurnBucket) {
        /// Time in UTC at which it begins.
        start: String,
        /// Number of writes, zeroes, discards and flushes.
        records: u64,
        /// Bytes written; bytes touched if the volume is tracked without data.
        written_bytes: u64,
        /// Bytes written, each byte of the volume counted once.
        unique_bytes: u64,
        /// Stored size of the journal, which has to be shipped.
        stored_bytes: u64,
        /// Stored size of a first copy or resync, which is in none of the others.
        resync_stored_bytes: u64,
    }
}

mirror! {
    /// How much was written in all.
    ChurnTotal(total: hrl_planner::ChurnBucket) {
        /// Number of writes, zeroes, discards and flushes.
        records: u64,
        /// Bytes written; bytes touched if the volume is tracked without data.
        written_bytes: u64,
        /// Bytes written, each byte of the volume counted once an interval.
        unique_bytes: u64,
        /// Stored size of the journal, which has to be shipped.
        stored_bytes: u64,
        /// Stored size of first copies and resyncs, which is in none of the others.
        resync_stored_bytes: u64,
    }
}

mirror! {
    /// Percentiles over all intervals, those without writes included. Keys are "50", "75",
    /// "90", "95", "99" and "100".
    ChurnPercentiles(churn: &hrl_planner::Churn) {
        /// Bytes written.
        written_bytes: ByPercent = ByPercent::of(churn, |bucket| bucket.written_bytes),
        /// Bytes written, each byte of the volume counted once an interval.
        unique_bytes: ByPercent = ByPercent::of(churn, |bucket| bucket.unique_bytes),
        /// Stored size of the journal.
        stored_bytes: ByPercent = ByPercent::of(churn, |bucket| bucket.stored_bytes),
    }
}

mirror! {
    /// How much was written over time.
    Churn(churn: &hrl_planner::Churn) {
        /// Length of an interval.
        bucket_seconds: f64 = churn.bucket,
        /// Time from the first write to the last.
        duration_seconds: f64 = churn.duration(),
        /// Number of segments counted.
        segments: u64,
        /// Number of folded segments, which are not counted because older churn is lost in them.
        segments_folded: u64,
        /// Whether the unique bytes of some interval are an estimate.
        is_sampled: bool,
        /// Sum of all intervals.
        total: ChurnTotal = churn.total(),
        /// Interval with the most bytes; None if nothing was written.
        top: Option<ChurnBucket> = churn.top().copied(),
        /// Percentiles over all intervals.
        percentiles: ChurnPercentiles = churn,
        /// Intervals with writes, oldest first.
        buckets: Vec<ChurnBucket> = churn.buckets.clone(),
    }
    shows bucket_seconds duration_seconds segments total;
}

/// Options of churn from a call's arguments.
pub(crate) fn churn_options(
    bucket: Duration,
    since: Option<Moment>,
    until: Option<Moment>,
) -> ChurnOptions {
    ChurnOptions { bucket, from: since.map(|time| time.0), to: until.map(|time| time.0) }
}
