//! Sizing: what a volume's own journals say of its churn, and what links and stores it will need.
//!
//! [`Churn`] counts what was written.
//!
//! Everything here reads; nothing is written, neither to a vault nor to a volume. Equal inputs give equal results.

mod churn;
#[cfg(test)]
mod churn_tests;
mod footprint;

pub use churn::{CHURN_BUCKETS_MAX, Churn, ChurnBucket, ChurnOptions};
