//! Recovery points that need more than a mark in the write order.

mod quiesce;

pub use quiesce::{Applications, InOrder, Quiesce, QuiesceRequest, run_watchdog, set_watchdog};
pub(crate) use quiesce::{Steps, quiesced};
