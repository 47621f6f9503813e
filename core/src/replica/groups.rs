//! Group points of a vault, collected from the volumes of their members. Each is listed once.
//!
//! A group point exists if any member's volume says so: a member writes that only after the marks
//! of all were durable. A mark that no volume commits was left by a round that failed; it is a
//! crash-consistent point of its volume alone.

use std::collections::BTreeMap;

use super::Replica;
use crate::error::Result;
use crate::journal::PointKind;
use crate::point::{GroupMark, GroupPoint};
use crate::units::PointId;
use crate::vault::{Commitment, Vault};

#[derive(Default)]
struct Found {
    kind: Option<PointKind>,
    label: String,
    marks: Vec<GroupMark>,
    commitment: Option<Commitment>,
}

impl Vault {
    /// Returns the committed group points, oldest first, with those members that are in this vault
    /// and that retention has left: see [`GroupPoint::is_complete`]. Reads the catalog of every
    /// volume; errors are those of [`Vault::replica`].
    pub fn group_points(&self) -> Result<Vec<GroupPoint>> {
        let mut found: BTreeMap<PointId, Found> = BTreeMap::new();
        for volume in self.volumes()? {
            collect(&self.replica(&volume.name)?, &mut found);
        }
        let point = |(id, found): (PointId, Found)| {
            let commitment = found.commitment?;
            Some(GroupPoint {
                id,
                kind: found.kind?,
                time: id.group_time(),
                group: commitment.name,
                label: found.label,
                members: commitment.members,
                marks: found.marks,
                held: None,
            })
        };
        Ok(found.into_iter().filter_map(point).collect())
    }
}

fn collect(replica: &Replica, found: &mut BTreeMap<PointId, Found>) {
    for (_, entry) in replica.catalog().point_marks() {
        let Some(group) = entry.mark.group else { continue };
        let known = found.entry(group).or_default();
        known.kind = Some(entry.mark.kind);
        known.label.clone_from(&entry.mark.label);
        known.marks.push(GroupMark {
            volume: replica.info().name.clone(),
            point: entry.mark.point,
            sequence: entry.sequence,
            time: entry.time,
        });
        if let Some(commitment) = replica.catalog().commitment(group) {
            known.commitment = Some(commitment.clone());
        }
    }
}
