//! Recovery points that take more than a mark: of quiesced applications and of groups.

mod group;
mod quiesce;

pub use group::{GroupMark, GroupPoint};
pub(crate) use group::{commitment, read_commitment};
pub use quiesce::{Quiesce, QuiesceRequest};
pub(crate) use quiesce::{Steps, quiesced};
