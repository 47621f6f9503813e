//! What a catalog knows beside the chain of segments: pins, verdicts, and objects that wait for
//! their deletion.
//!
//! None of it changes what a point is. A pin keeps its point through retention until its time. A
//! legal hold keeps it until it is lifted as such, whatever else is decided. A verdict is what a
//! check of the point found. A retired object is listed by no later version of the catalog. Its
//! deletion is due some time after it was retired, so that readers of an older version can finish.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashSet};

use crate::journal::Mark;
use crate::macros::{coded, named};
use crate::point::read_commitment;
use crate::units::{PointId, Timestamp};

/// Longest reason of a pin or text of a verdict, in bytes of UTF-8.
pub const ANNOTATION_BYTES_MAX: usize = 512;
/// Most pins of a volume; further ones are refused with `Full`.
pub const PINS_MAX: usize = 4096;
/// Most verdicts kept for one point: the newest of each kind.
const VERDICTS_OF_POINT_MAX: usize = VerdictKind::ALL.len();

/// How long a pin is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PinUntil {
    /// Until this time; then retention decides again.
    Time(Timestamp),
    /// Until it is removed.
    Forever,
    /// Legal hold: until it is lifted as such. Beside it the point may have an ordinary pin.
    LegalHold,
}

/// Keeps a recovery point through retention. A point has at most one pin and one legal hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// The point.
    pub point: PointId,
    /// How long.
    pub until: PinUntil,
    /// The reason, for people; at most [`ANNOTATION_BYTES_MAX`] bytes.
    pub reason: String,
    /// When it was set.
    pub since: Timestamp,
}

impl Pin {
    /// Returns whether it is a legal hold.
    pub fn is_legal_hold(&self) -> bool {
        self.until == PinUntil::LegalHold
    }

    /// Returns whether its time is over.
    pub fn has_expired(&self, now: Timestamp) -> bool {
        matches!(self.until, PinUntil::Time(until) if until <= now)
    }
}

named! {
    /// What was checked.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub enum VerdictKind {
        /// Checksums, encryption and chain of the segments that make the point.
        Integrity = "integrity",
        /// Comparison with the source.
        Comparison = "comparison",
        /// A file system was checked or mounted.
        FileSystem = "file-system",
        /// A database or other application was opened on it.
        Application = "application",
        /// A command of the user.
        Command = "command",
        /// What was written before it; bad from a sudden change on, as when data is encrypted.
        Suspicious = "suspicious",
        /// The files of its file systems were scanned for malware.
        Scan = "scan",
    }
}
coded!(pub(super) VerdictKind);

/// What a check of a recovery point found. A point keeps the newest verdict of each kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The point.
    pub point: PointId,
    /// What was checked.
    pub kind: VerdictKind,
    /// Nothing was wrong.
    pub ok: bool,
    /// When it was checked.
    pub time: Timestamp,
    /// For people; at most [`ANNOTATION_BYTES_MAX`] bytes.
    pub text: String,
}

/// The annotations of one catalog version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Annotations {
    pub(super) pins: Vec<Pin>,
    pub(super) verdicts: Vec<Verdict>,
    /// Objects to be deleted, and when they were retired.
    pub(super) retired: BTreeMap<String, Timestamp>,
    /// Group points that were committed, and have a mark here.
    pub(super) committed: BTreeMap<PointId, Commitment>,
}

/// What is known of a group point that was committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commitment {
    /// Its identity.
    pub group: PointId,
    /// Members that it was made of.
    pub members: u16,
    /// Name of the group.
    pub name: String,
}

impl Annotations {
    pub(super) fn pin(&mut self, pin: Pin) {
        self.unpin(pin.point, pin.is_legal_hold());
        self.pins.push(pin);
    }

    pub(super) fn unpin(&mut self, point: PointId, legal_hold: bool) {
        self.pins.retain(|pin| pin.point != point || pin.is_legal_hold() != legal_hold);
    }

    pub(super) fn judge(&mut self, verdict: Verdict) {
        self.verdicts.retain(|old| old.point != verdict.point || old.kind != verdict.kind);
        debug_assert!(self.of(verdict.point).count() < VERDICTS_OF_POINT_MAX);
        self.verdicts.push(verdict);
    }

    fn of(&self, point: PointId) -> impl Iterator<Item = &Verdict> {
        self.verdicts.iter().filter(move |verdict| verdict.point == point)
    }

    /// Returns whether checks of the point found it good, and none found it bad.
    pub(super) fn is_verified(&self, point: PointId) -> bool {
        self.of(point).next().is_some() && self.of(point).all(|verdict| verdict.ok)
    }

    /// Retires objects, and returns those that were not retired before.
    pub(super) fn retire(&mut self, mut objects: Vec<String>, at: Timestamp) -> HashSet<String> {
        // The first time counts: retiring twice does not put the deletion off.
        objects.retain(|object| !self.retired.contains_key(object));
        self.retired.extend(objects.iter().map(|object| (object.clone(), at)));
        objects.into_iter().collect()
    }

    /// Remembers a mark that commits a group point, because folding drops it. Returns the group if
    /// it is new.
    pub(super) fn record_commitment(&mut self, mark: &Mark) -> Option<PointId> {
        let (members, name) = read_commitment(mark)?;
        let (group, name) = (mark.point, name.to_owned());
        let Entry::Vacant(entry) = self.committed.entry(group) else { return None };
        entry.insert(Commitment { group, members, name });
        Some(group)
    }

    /// Forgets annotations of points that are gone; `points` has the identities of those that are
    /// left and of their groups.
    pub(super) fn keep_points(&mut self, points: &HashSet<PointId>) {
        self.committed.retain(|group, _| points.contains(group));
        self.pins.retain(|pin| points.contains(&pin.point));
        self.verdicts.retain(|verdict| points.contains(&verdict.point));
    }
}
