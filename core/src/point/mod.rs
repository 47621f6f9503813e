//! Recovery points that need more than a mark in the write order.

mod quiesce;

pub use quiesce::{InOrder, Quiesce, QuiesceRequest};
pub(crate) use quiesce::{Steps, quiesced};
