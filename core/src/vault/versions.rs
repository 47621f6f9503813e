//! The names of catalog versions, and of the gates that a mirror puts before those that it is
//! adding.
//!
//! The name of a version is its number in 16 hexadecimal digits. A mirror that adds versions A+1 to
//! B first puts a gate `A-B` (two such numbers), then version B, and then the others, the newest
//! first. While one is missing between A and B the catalog ends with A. So readers see what a run
//! adds when all of it is there.
//!
//! A vault that went back has such a gap, too, if its source put a version since. Whoever accepts
//! that the versions between are lost puts a gate.
//!
//! Anybody may put a gate, and nothing proves one. But it explains a gap only: a catalog without a
//! gap ends with its newest version, whatever gates lie there.

use std::collections::BTreeMap;

use super::layout;
use crate::store::ObjectInfo;

/// A version whose number is a multiple of this contains the whole content.
pub const SNAPSHOT_EVERY: u64 = 64;

pub(super) fn is_snapshot(number: u64) -> bool {
    number.is_multiple_of(SNAPSHOT_EVERY)
}

/// The versions of a catalog, by the names of its objects.
#[derive(Clone, Debug, Default)]
pub struct VersionNames {
    prefix: String,
    /// Length of each version's object.
    lengths: BTreeMap<u64, u64>,
    gates: Vec<(u64, u64)>,
}

impl VersionNames {
    /// Reads the names that a listing of `prefix`, the directory of a catalog, returned. Others are
    /// ignored.
    pub fn of(prefix: &str, objects: &[ObjectInfo]) -> Self {
        let mut names = Self { prefix: prefix.to_owned(), ..Self::default() };
        for info in objects {
            let Some(name) = info.name.strip_prefix(prefix) else { continue };
            match name.split_once('-') {
                None => {
                    names.lengths.extend(layout::number(name).map(|number| (number, info.length)));
                }
                Some((from, until)) => {
                    names.gates.extend(layout::number(from).zip(layout::number(until)));
                }
            }
        }
        names
    }

    /// Returns the name of an object that ends the catalog with version `from` until version
    /// `until` is there.
    pub fn gate(prefix: &str, from: u64, until: u64) -> String {
        format!("{prefix}{from:016x}-{until:016x}")
    }

    /// Leaves a version out.
    pub(super) fn remove(&mut self, number: u64) {
        self.lengths.remove(&number);
    }

    /// Returns the newest version that is there, or zero.
    pub fn newest(&self) -> u64 {
        self.lengths.keys().last().copied().unwrap_or(0)
    }

    /// Returns the newest version that can be read.
    pub fn readable(&self) -> u64 {
        self.gate_in_force().map_or(self.newest(), |(from, _)| from)
    }

    /// Returns the gate that explains a gap before the newest version, as the version at which the
    /// catalog ends and the one that a mirror put first.
    pub(super) fn gate_in_force(&self) -> Option<(u64, u64)> {
        self.gap_before(self.newest())?;
        let explains = |(from, until): &&(u64, u64)| {
            *from < *until && self.has(*until) && self.gap_before(*from).is_none()
        };
        self.gates.iter().filter(explains).max().copied()
    }

    /// Returns the first version that is missing to read this one: it and those before it, from the
    /// newest snapshot on.
    pub(super) fn gap_before(&self, number: u64) -> Option<u64> {
        let snapshot = number / SNAPSHOT_EVERY * SNAPSHOT_EVERY;
        (snapshot.max(1)..=number).find(|number| !self.has(*number))
    }

    /// Returns the newest version that can be read without any after the first gap.
    pub(super) fn end_before_gap(&self) -> u64 {
        let mut end = self.newest();
        while let Some(gap) = self.gap_before(end) {
            end = gap - 1;
        }
        end
    }

    /// Returns whether this version is there.
    pub fn has(&self, number: u64) -> bool {
        self.lengths.contains_key(&number)
    }

    /// Returns the length of a version's object; `None` if it is not there.
    pub(super) fn length_of(&self, number: u64) -> Option<u64> {
        self.lengths.get(&number).copied()
    }

    /// Returns the versions that are there, in order.
    pub fn numbers(&self) -> impl Iterator<Item = u64> {
        self.lengths.keys().copied()
    }

    /// Returns the names of the gates.
    pub fn gates(&self) -> Vec<String> {
        self.gates.iter().map(|(from, until)| Self::gate(&self.prefix, *from, *until)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(numbers: &[u64], gates: &[(u64, u64)]) -> VersionNames {
        let versions = numbers.iter().map(|number| format!("c/{number:016x}"));
        let gates = gates.iter().map(|(from, until)| VersionNames::gate("c/", *from, *until));
        let other = ["c/x".to_owned(), "c/1".to_owned(), "c/+000000000000001".to_owned()];
        let objects: Vec<_> =
            versions.chain(gates).chain(other).map(|name| ObjectInfo { name, length: 1 }).collect();
        VersionNames::of("c/", &objects)
    }

    #[test]
    fn a_gate_ends_the_catalog_until_no_version_is_missing() {
        for (numbers, gates, readable) in [
            (&[][..], &[][..], 0),
            (&[1, 2, 3], &[], 3),
            (&[1], &[(1, 4)], 1),
            (&[1, 4], &[(1, 4)], 1),
            (&[1, 3, 4], &[(1, 4)], 1),
            (&[1, 2, 3, 4], &[(1, 4)], 4),
            (&[4], &[(0, 4)], 0),
            (&[1, 3, 4, 9], &[(1, 4), (1, 9)], 1),
            (&[1, 3, 4], &[(1, 4), (1, 9)], 1),
            (&[1, 65], &[(1, 65)], 1),
            (&[1, 64, 65], &[(1, 65)], 65),
        ] {
            assert_eq!(names(numbers, gates).readable(), readable, "{numbers:?} {gates:?}");
        }
        assert_eq!(names(&[1, 2, 3, 4], &[(1, 4), (1, 9)]).gates().len(), 2);
    }

    #[test]
    fn promise_10_a_gate_hides_no_version_of_a_catalog_without_a_gap() {
        for gate in [(1, u64::MAX >> 1), (1, 4), (1, 3), (0, 2), (3, 4), (2, 2), (3, 1)] {
            assert_eq!(names(&[1, 2, 3], &[gate]).readable(), 3, "{gate:?}");
        }
        // In the middle of a run, a gate after an older version does not count.
        assert_eq!(names(&[1, 2, 3, 5, 6], &[(3, 6), (1, 6)]).readable(), 3);
    }
}
