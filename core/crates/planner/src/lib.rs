//! Sizing: what a volume's own journals say of its churn, and what links and stores it will need.
//!
//! [`Churn`] counts what was written. [`plan_capacity`] plays the same journals through a model of shipping and of
//! retention, and predicts the RPO, the spool, the vault and its requests for a policy and a link that need not be those
//! that the journals were made with. What the models leave out is said at the head of `shipping` and `growth`; how near
//! they come to what is measured, in `benches/RESULTS.md`.
//!
//! Everything here reads; nothing is written, neither to a vault nor to a volume. Equal inputs give equal results.

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
