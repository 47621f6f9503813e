//! Recovery points that need more than a mark in the write order.

pub(crate) mod group;
mod quiesce;

pub(crate) use group::read_commitment;
pub use group::{GROUP_PORT, GroupMark, GroupPoint};
#[cfg(feature = "tls")]
pub use group::{
    GroupCoordinator, GroupMember, GroupMemberStats, GroupMemberStatus, GroupOptions, GroupStatus,
    MEMBERS_MAX,
};
#[cfg(all(feature = "tls", any(test, feature = "testing")))]
pub use group::{GroupStage, SaidInRound, reprint_group_message, take_group_frame};
pub use quiesce::{Quiesce, QuiesceRequest};
pub(crate) use quiesce::{Steps, quiesced};
