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
pub use quiesce::{Applications, InOrder, Quiesce, QuiesceRequest, run_watchdog, set_watchdog};
pub(crate) use quiesce::{Steps, quiesced};
