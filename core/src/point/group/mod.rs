//! Consistency groups: one cut across the volumes of many machines.
//!
//! Members connect to a [`GroupCoordinator`] over TLS with client certificates (port [`GROUP_PORT`]) and stay connected. A
//! round holds the writers of every member, marks in each, lets all go, and commits when every mark is durable; see `round` for
//! why that is one cut. A mark whose round did not commit is a crash-consistent point of its volume, and no point of a group.
//!
//! The commitment is a record in each member's own journal, sealed and replicated as everything else, so that a group point
//! needs nothing but the members' volumes to be found again; one member's record is enough, because it is written only when the
//! marks of all are durable.
//!
//! Behaviour on failure: a member lets its writers go when the budget is over, whatever the coordinator does (promise 6); a
//! coordinator that dies leaves no point; no point is made while a member is missing or not `Ordered` (promise 7).

#[cfg(feature = "tls")]
mod coordinator;
#[cfg(feature = "tls")]
mod link;
#[cfg(feature = "tls")]
mod member;
#[cfg(feature = "tls")]
pub(crate) mod round;
#[cfg(all(feature = "tls", any(test, feature = "testing")))]
mod stage;
#[cfg(feature = "tls")]
pub(crate) mod wire;

use std::time::Duration;

#[cfg(feature = "tls")]
pub use coordinator::{
    GroupCoordinator, GroupMemberStatus, GroupOptions, GroupStatus, MEMBERS_MAX,
};
#[cfg(feature = "tls")]
pub use member::{GroupMember, GroupMemberStats};
#[cfg(feature = "tls")]
pub(crate) use member::{JoinOptions, Target};

#[cfg(all(feature = "tls", any(test, feature = "testing")))]
pub use stage::{GroupStage, SaidInRound, reprint_group_message, take_group_frame};

use crate::journal::{Mark, PointKind};
use crate::units::{PointId, Sequence, Timestamp};

/// Port of coordinators.
pub const GROUP_PORT: u16 = 20004;
/// No writer is held longer, whatever a coordinator says.
#[cfg(feature = "tls")]
const BUDGET_MAX: Duration = Duration::from_secs(10);

/// A point of a group: one cut across its members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupPoint {
    /// Its identity, which every member's mark names.
    pub id: PointId,
    /// Crash- or application-consistent.
    pub kind: PointKind,
    /// When the coordinator began it.
    pub time: Timestamp,
    /// Name of the group.
    pub group: String,
    /// Its label; may be empty.
    pub label: String,
    /// Members that it was made of.
    pub members: u16,
    /// Where it is in each member's volume, by name.
    pub marks: Vec<GroupMark>,
    /// Longest hold of a member's writers; `None` for a point found in a vault.
    pub held: Option<Duration>,
}

impl GroupPoint {
    /// Every member's mark is known, so that all can be restored to this cut.
    pub fn is_complete(&self) -> bool {
        self.marks.len() >= usize::from(self.members)
    }
}

/// The place of a group point in one member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMark {
    /// Name of the volume.
    pub volume: String,
    /// Identity of the recovery point in it.
    pub point: PointId,
    /// Its place in the write order of the volume.
    pub sequence: Sequence,
    /// When it was marked, by the clock of its machine.
    pub time: Timestamp,
}

/// The commitment of a group point, as a member journals it: a mark whose identity is that of the group point itself.
#[cfg(feature = "tls")]
pub(crate) fn commitment(group: PointId, app: bool, name: &str, members: u16) -> Mark {
    let kind = if app { PointKind::GroupApp } else { PointKind::GroupCrash };
    Mark { point: group, kind, label: format!("{members} {name}"), group: Some(group) }
}

/// Members and name of the group from the label of a commitment.
pub(crate) fn read_commitment(mark: &Mark) -> Option<(u16, &str)> {
    let (members, name) = mark.label.split_once(' ').filter(|_| mark.is_commitment())?;
    Some((members.parse().ok()?, name))
}

#[cfg(all(test, feature = "tls"))]
mod tests;
