//! Group points of a vault, collected from the volumes of their members. Each is listed once.
//!
//! A group point exists if any member's volume says so: a member writes that only after the marks
//! of all were durable. A mark that no volume commits was left by a round that failed; it is a
//! crash-consistent point of its volume alone.

use std::collections::BTreeMap;

use super::Replica;
use crate::error::{Error, ErrorKind, Result};
use crate::journal::PointKind;
use crate::point::{GroupMark, GroupPoint};
use crate::units::PointId;
use crate::vault::{Commitment, Vault};

/// The group points of a vault.
#[derive(Debug)]
pub struct GroupPoints {
    /// The committed ones, oldest first.
    pub points: Vec<GroupPoint>,
    /// The volumes whose catalogs could not be read. Their marks are missing above.
    pub unread: Vec<UnreadVolume>,
}

/// A volume that could not be read.
#[derive(Debug)]
pub struct UnreadVolume {
    /// Its name.
    pub volume: String,
    /// Why.
    pub error: Error,
}

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
    /// volume.
    ///
    /// A volume that cannot be read, such as one with another key, hides no other: it is in
    /// [`GroupPoints::unread`]. Shredded ones are left out. `Unavailable` if the vault does not answer.
    pub fn group_points(&self) -> Result<GroupPoints> {
        let mut found: BTreeMap<PointId, Found> = BTreeMap::new();
        let mut unread = Vec::new();
        for volume in self.volume_names()? {
            match self.replica(&volume) {
                Ok(replica) => collect(&replica, &mut found),
                Err(error) if error.kind() == ErrorKind::Unavailable => return Err(error),
                Err(_) if self.volume(&volume).is_ok_and(|info| info.shredded) => {}
                Err(error) => unread.push(UnreadVolume { volume, error }),
            }
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
        Ok(GroupPoints { points: found.into_iter().filter_map(point).collect(), unread })
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
