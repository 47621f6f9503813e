//! Recovery points that need more than a mark in the write order.

mod quiesce;

pub use quiesce::Quiesce;
pub(crate) use quiesce::quiesced;
