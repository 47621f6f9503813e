//! Recovery points that need more than a mark in the write order.

mod group;
mod quiesce;

pub use group::{GroupMark, GroupPoint};
pub(crate) use group::{commitment, read_commitment};
pub use quiesce::{Quiesce, QuiesceRequest};
pub(crate) use quiesce::{Steps, quiesced};
