//! Points of consistency groups: one cut across several volumes.
//!
//! The commitment of a group point is a record in each member's own journal. So a group point is found again with nothing
//! but the members' volumes, and the record of one member is enough: it is written only when the marks of all are durable.

use std::time::Duration;

use crate::journal::{Mark, PointKind};
use crate::units::{PointId, Sequence, Timestamp};

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

/// Returns the commitment of a group point, as a member journals it: a mark whose identity is that of the group point.
pub(crate) fn commitment(group: PointId, kind: PointKind, name: &str, members: u16) -> Mark {
    Mark { point: group, kind, label: format!("{members} {name}"), group: Some(group) }
}

/// Members and name of the group from the label of a commitment.
pub(crate) fn read_commitment(mark: &Mark) -> Option<(u16, &str)> {
    let (members, name) = mark.label.split_once(' ').filter(|_| mark.is_commitment())?;
    Some((members.parse().ok()?, name))
}
