//! Sizing: the churn of a volume from its own journals, and the links and stores that it will need.
//!
//! [`Churn`] counts what was written. [`plan_capacity`] plays the same journals through models of
//! shipping and retention. It predicts the RPO, the spool, the vault and its requests, for any
//! policy and link. The modules `shipping` and `growth` list the models' simplifications;
//! `benches/RESULTS.md` compares predictions with measurements.
//!
//! Everything here only reads; no vault and no volume is written. Equal inputs give equal results.

mod churn;
#[cfg(test)]
mod churn_tests;
mod curve;
mod footprint;
mod growth;
mod plan;
mod prediction;
mod shipping;
#[cfg(test)]
mod tests;
mod trace;

pub use churn::{CHURN_BUCKETS_MAX, Churn, ChurnBucket, ChurnOptions};
pub use plan::plan_capacity;
pub use prediction::{DayPlan, Plan, PlanOptions, PlanSample, Requests, VolumePlan};
