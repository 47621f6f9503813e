//! Points of consistency groups: one cut across several volumes.
//!
//! The commitment of a group point is a mark in each member's own journal, so the members' volumes
//! alone suffice to find the point again. The commitment of one member is enough: it is written only
//! when the marks of all members are durable.

use std::time::Duration;

use crate::journal::{Mark, PointKind};
use crate::units::{PointId, Sequence, Timestamp};

/// A point of a consistency group: one cut across its members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupPoint {
    /// Identity of the point; each member's mark contains it.
    pub id: PointId,
    /// `GroupCrash` or `GroupApp`.
    pub kind: PointKind,
    /// When the coordinator began it.
    pub time: Timestamp,
    /// Name of the group.
    pub group: String,
    /// Label of the point; may be empty.
    pub label: String,
    /// Number of members that took part.
    pub members: u16,
    /// Its places in the members' volumes, by name.
    pub marks: Vec<GroupMark>,
    /// Longest barrier of a member; `None` for a point that was read from a vault.
    pub held: Option<Duration>,
}

impl GroupPoint {
    /// Returns whether the marks of all members are known, so that all can be restored to this cut.
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
    /// Time of the mark by the clock of its machine.
    pub time: Timestamp,
}

/// Returns the commitment of a group point for a member's journal: a mark with the identity of the
/// group point.
pub(crate) fn commitment(group: PointId, kind: PointKind, name: &str, members: u16) -> Mark {
    Mark { point: group, kind, label: format!("{members} {name}"), group: Some(group) }
}

/// Returns the number of members and the name of the group from the label of a commitment.
pub(crate) fn read_commitment(mark: &Mark) -> Option<(u16, &str)> {
    let (members, name) = mark.label.split_once(' ').filter(|_| mark.is_commitment())?;
    Some((members.parse().ok()?, name))
}
