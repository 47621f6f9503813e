//! Legal holds as objects, which whoever serves a vault respects without its key.
//!
//! The catalog says which points are under legal hold, and whoever has the key can say otherwise. So
//! a hold is an object, too, and its name says what must stay: the segments and packs up to the
//! point, and the catalog versions that listed it. A gateway lets nobody but an `admin` delete those
//! or the hold, and no purge removes them.

use std::ops::RangeInclusive;

use super::layout;
use super::versions::SNAPSHOT_EVERY;
use crate::bytes::parse_hex;
use crate::error::Result;
use crate::store::Store;
use crate::units::{PointId, Sequence};

/// A legal hold that lies in a vault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LegalHold {
    /// The point.
    pub point: PointId,
    /// Its place in the write order.
    pub sequence: Sequence,
    /// A catalog version that lists it.
    pub version: u64,
}

impl LegalHold {
    /// Returns the name of its object.
    pub fn object(&self, volume: &str) -> String {
        let prefix = layout::holds_prefix(volume);
        format!("{prefix}{}-{:016x}-{:016x}", self.point, self.sequence.0, self.version)
    }

    /// Lists the holds of a volume.
    pub fn list(store: &dyn Store, volume: &str) -> Result<Vec<Self>> {
        let prefix = layout::holds_prefix(volume);
        let of = |object: &str| {
            let mut parts = object.strip_prefix(&prefix)?.split('-');
            let point = PointId(parse_hex(parts.next()?)?);
            let (sequence, version) =
                (layout::number(parts.next()?)?, layout::number(parts.next()?)?);
            Some(Self { point, sequence: Sequence(sequence), version })
        };
        Ok(store.list(&prefix)?.iter().filter_map(|info| of(&info.name)).collect())
    }

    /// Returns whether an object of its volume must stay.
    pub fn keeps(&self, object: &str) -> bool {
        let Some((volume, rest)) = layout::split_volume(object) else { return false };
        if let Some(digits) = object.strip_prefix(&layout::catalog_prefix(volume)) {
            return layout::number(digits).is_some_and(|number| self.versions().contains(&number));
        }
        let first = match object.strip_prefix(&layout::packs_prefix(volume)) {
            Some(pack) => pack.split('-').next().and_then(layout::number),
            None if object.starts_with(&layout::segments_prefix(volume)) => {
                rest.rsplit('/').next().and_then(layout::span_of).map(|(first, _)| first)
            }
            None => return false,
        };
        first.is_none_or(|first| first <= self.sequence.0)
    }

    fn versions(&self) -> RangeInclusive<u64> {
        self.version / SNAPSHOT_EVERY * SNAPSHOT_EVERY..=self.version
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::DirStore;

    #[test]
    fn promise_13_a_hold_keeps_what_its_point_needs_and_nothing_else() {
        let hold = LegalHold { point: PointId([7; 16]), sequence: Sequence(0x20), version: 130 };
        let directory = tempfile::tempdir().expect("directory");
        let store = DirStore::create(directory.path()).expect("store");
        store.put(&hold.object("disk"), b"").expect("put");
        store.put("volumes/disk/holds/else", b"").expect("put");
        assert_eq!(LegalHold::list(&store, "disk").expect("list"), [hold]);
        let segment = |first: u64| format!("segments/e1-{first:016x}-{:016x}-00.hrl", first + 16);
        for (name, kept) in [
            (segment(1), true),
            (segment(0x20), true),
            (segment(0x21), false),
            ("segments/unknown".to_owned(), true),
            (format!("packs/{:016x}-{:016x}-ab.pack", 1, 99), true),
            (format!("packs/{:016x}-{:016x}-ab.pack", 0x21, 99), false),
            (format!("catalog/{:016x}", 127), false),
            (format!("catalog/{:016x}", 128), true),
            (format!("catalog/{:016x}", 130), true),
            (format!("catalog/{:016x}", 131), false),
            (format!("catalog/{:016x}-{:016x}", 128, 130), false),
            ("keys/00.11".to_owned(), false),
        ] {
            assert_eq!(hold.keeps(&format!("volumes/disk/{name}")), kept, "{name}");
        }
        assert!(!hold.keeps(&hold.object("disk")));
    }
}
