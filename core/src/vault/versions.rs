//! The names of catalog versions, and of the gates that a mirror puts before those that it is
//! adding.
//!
//! The name of a version is its number in 16 hexadecimal digits. A gate `A-B` (two such numbers)
//! means: until version B is there, the catalog ends with version A, whatever lies between. So the
//! versions of one run of the mirror appear at once.

use std::collections::BTreeMap;

use super::layout;
use crate::store::ObjectInfo;

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

    /// Returns the newest version that is there, or zero.
    pub fn newest(&self) -> u64 {
        self.lengths.keys().last().copied().unwrap_or(0)
    }

    /// Returns the newest version that readers may see.
    pub fn readable(&self) -> u64 {
        let newest = self.newest();
        let open = self.gates.iter().filter(|(_, until)| *until > newest);
        open.map(|(from, _)| *from).min().map_or(newest, |from| from.min(newest))
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

    /// Returns the names of the gates that are of no more use once version `newest` is there.
    pub fn passed_gates(&self, newest: u64) -> Vec<String> {
        let over = self.gates.iter().filter(|(_, until)| *until <= newest);
        over.map(|(from, until)| Self::gate(&self.prefix, *from, *until)).collect()
    }

    /// Returns the versions that readers may see, and the lengths of their objects.
    pub(super) fn into_readable(mut self) -> BTreeMap<u64, u64> {
        let end = self.readable();
        self.lengths.retain(|number, _| *number <= end);
        self.lengths
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_ends_the_catalog_until_its_last_version_is_there() {
        let names = |numbers: &[u64], gates: &[(u64, u64)]| {
            let versions = numbers.iter().map(|number| format!("c/{number:016x}"));
            let gates = gates.iter().map(|(from, until)| VersionNames::gate("c/", *from, *until));
            let other = ["c/x".to_owned(), "c/1".to_owned(), "c/+000000000000001".to_owned()];
            let objects: Vec<_> = versions
                .chain(gates)
                .chain(other)
                .map(|name| ObjectInfo { name, length: 1 })
                .collect();
            VersionNames::of("c/", &objects)
        };
        assert_eq!(names(&[], &[]).readable(), 0);
        assert_eq!(names(&[1, 2, 3], &[]).readable(), 3);
        assert_eq!(names(&[1, 2, 3], &[(1, 4)]).readable(), 1);
        assert_eq!(names(&[1, 2, 3, 4], &[(1, 4)]).readable(), 4);
        assert_eq!(
            names(&[1, 2, 3, 4], &[(1, 4), (1, 9)]).readable(),
            1,
            "the gate of a later run is closed"
        );
        assert_eq!(names(&[1, 64, 65], &[(1, 4)]).readable(), 65, "passed by a snapshot");
        assert_eq!(names(&[1, 2], &[(1, 4)]).into_readable().len(), 1);
        assert_eq!(names(&[1, 2, 3, 4], &[(1, 4), (1, 9)]).passed_gates(4).len(), 1);
    }
}
