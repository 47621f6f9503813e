//! Replicas: one volume of a vault, and what can be done with it without its source.
//!
//! A [`Replica`] is a volume as of a version of its catalog. It gives points, views, restores,
//! change sets and verification. Reading never writes to the vault.

mod at;
mod changes;
pub(crate) mod compact;
mod expected;
mod fingerprints;
mod groups;
mod instant;
#[cfg(test)]
mod keys_tests;
mod layers;
mod overlay;
mod point;
#[cfg(test)]
mod rekey_tests;
mod restore;
pub(crate) mod retention;
#[cfg(test)]
mod retention_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod thief_tests;
mod verify;
mod view;

use std::sync::Arc;

pub use at::At;
pub use changes::{ChangeRun, ChangeSet};
pub use compact::{CLOCK_AHEAD_MAX, CompactOptions, CompactReport, Compactor};
pub use expected::{CatalogVersion, Expected};
pub(crate) use fingerprints::{COMPARED_BYTES, Fingerprints};
pub use groups::{GroupPoints, UnreadVolume};
#[cfg(any(test, feature = "testing"))]
pub use instant::mend_presence_log;
pub(crate) use instant::present_in;
pub use instant::{Hydration, InstantBase, InstantDisk, InstantOptions, TargetContent};
pub use overlay::Overlay;
pub use point::{GoodBecause, RecoveryPoint};
pub(crate) use restore::is_zero;
pub use restore::{RestoreReport, RestoreTarget};
pub use retention::{Fold, FoldReason, KeptPoint, RetentionPlan, plan};
pub use verify::{Finding, VerifyReport};
pub use view::{View, ViewOptions};

use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::journal::{KeyRing, ObjectSource, Segment, SegmentKind, SegmentSource, SegmentSummary};
use crate::parallel;
use crate::store::Store;
use crate::units::{Epoch, Sequence, Timestamp};
pub use crate::vault::KeepReason;
use crate::vault::{
    Catalog, CatalogEdit, Division, SegmentEntry, TimelineEntry, Vault, VolumeInfo, layout,
};

/// Segments of a view whose ends, read with their footers, are cached for their indexes: 16 MiB.
/// With more segments each index is a request of its own.
const TAILS_MAX: usize = 256;
/// Segments open at once when all are read.
const OPENED_MAX: usize = 64;

/// Reports bytes done and bytes in all of a long operation, which stops if it returns false. Called
/// from several threads.
pub type Progress<'a> = &'a (dyn Fn(u64, u64) -> bool + Sync);

/// One volume in a vault, as of the catalog version read last. May be used from any thread.
#[derive(Clone)]
pub struct Replica {
    catalog: Catalog,
}

impl Replica {
    /// Returns what the vault records of the volume.
    pub fn info(&self) -> &VolumeInfo {
        &self.catalog.info
    }

    /// Returns the keys that open its segments.
    pub fn keys(&self) -> &KeyRing {
        &self.catalog.keys
    }

    /// Returns its catalog.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// Returns its catalog, to append to.
    pub fn into_catalog(self) -> Catalog {
        self.catalog
    }

    /// Returns the branch of an ended epoch as a replica: the history up to the failover, then what
    /// the old source wrote after it. Nothing can be pinned or folded in it. `NotFound` lists the
    /// branches.
    pub fn branch(&self, epoch: Epoch) -> Result<Self> {
        Ok(Self { catalog: self.catalog.of_branch(epoch)? })
    }

    /// Returns the volume as it will be after a division; nothing is written.
    pub(crate) fn divided(&self, division: &Division) -> Result<Self> {
        Ok(Self { catalog: self.catalog.divided(division)? })
    }

    /// Drops a branch: its objects are retired, and retention deletes them when their grace is
    /// over. Durable when it returns. `NotFound` lists the branches, `InvalidInput` names an older
    /// branch that stands on this one.
    pub fn drop_branch(&mut self, epoch: Epoch) -> Result<()> {
        self.refresh()?;
        if let Some(older) = self.catalog.stands_on(epoch) {
            return Err(Error::new(ErrorKind::InvalidInput, "drop branch of epoch", epoch)
                .message("a branch stands on it, drop that first")
                .found(format_args!(
                    "the branch of epoch {} from sequence {}",
                    older.epoch, older.at
                )));
        }
        let segments = &self.catalog.branch(epoch)?.segments;
        let objects = segments.iter().map(|entry| entry.object.clone()).collect();
        let retired = CatalogEdit::Retired { objects, at: self.clock().now() };
        self.catalog.amend(&[CatalogEdit::DropBranch(epoch), retired], &|| Ok(()))
    }

    /// Reads what was appended to the catalog since.
    pub fn refresh(&mut self) -> Result<()> {
        self.catalog.refresh()
    }

    pub(crate) fn store(&self) -> &Arc<dyn Store> {
        self.catalog.vault.store()
    }

    pub(super) fn clock(&self) -> &Arc<dyn Clock> {
        self.catalog.vault.clock()
    }

    pub(crate) fn catalog_mut(&mut self) -> &mut Catalog {
        &mut self.catalog
    }

    /// Returns the history in stretches, ordered or not.
    pub fn timeline(&self) -> Vec<TimelineEntry> {
        self.catalog.timeline()
    }

    /// Opens a segment of the catalog; errors name its object. `Corrupt` if it is of a volume of
    /// another size, so that nothing reaches past the volume's end.
    pub fn open_segment(&self, object: &str) -> Result<Segment> {
        self.opened(ObjectSource::open(self.store(), object)?)
    }

    pub(super) fn opened(&self, source: Box<dyn SegmentSource>) -> Result<Segment> {
        let segment = Segment::open(source, self.keys())?;
        let (expected, found) = (self.info().device_bytes, segment.params().device_bytes);
        if found != expected {
            return Err(Error::new(ErrorKind::Corrupt, "open segment", segment.name())
                .expected(format_args!("a volume of {expected} bytes"))
                .found(format_args!("one of {found}")));
        }
        Ok(segment)
    }

    /// Returns the segments that a view at `sequence` needs: from the newest image on.
    fn segments_through(&self, sequence: Sequence) -> Result<Vec<Arc<Segment>>> {
        let entries = self.catalog.segments();
        let end = entries.partition_point(|entry| entry.summary.first_sequence <= sequence);
        let start = entries[..end]
            .iter()
            .rposition(|entry| {
                entry.summary.kind == SegmentKind::Image && entry.summary.last_sequence <= sequence
            })
            .unwrap_or(0);
        let remote = self.store().local_path(layout::MARKER).is_none();
        let many = end - start > TAILS_MAX;
        parallel::each(&entries[start..end], remote, |entry| {
            let segment = self.open_entry(entry)?;
            if many {
                segment.forget_index();
            }
            Ok(Arc::new(segment))
        })
    }

    /// Returns when an object of the volume arrived in the vault: the time of its file, or `None`
    /// if objects are no local files. The catalog does not record it.
    pub fn arrived(&self, object: &str) -> Option<Timestamp> {
        let modified = self.store().local_path(object)?.metadata().ok()?.modified().ok()?;
        let since = modified.duration_since(std::time::UNIX_EPOCH).ok()?;
        i64::try_from(since.as_nanos()).ok().map(Timestamp)
    }

    /// Calls `work` for every segment of the catalog in write order, opened if `wanted` selects it.
    /// Segments of a remote store are opened many at once. The first error ends it and is returned.
    pub fn each_segment(
        &self,
        wanted: &mut dyn FnMut(&SegmentSummary) -> bool,
        work: &mut dyn FnMut(&SegmentSummary, Option<Segment>) -> Result<()>,
    ) -> Result<()> {
        let remote = self.store().local_path(layout::MARKER).is_none();
        for entries in self.catalog.segments().chunks(OPENED_MAX) {
            let entries: Vec<_> = entries.iter().map(|e| (e, wanted(&e.summary))).collect();
            let opened = parallel::each(&entries, remote, |(entry, wanted)| {
                wanted.then(|| self.open_entry(entry)).transpose()
            })?;
            for ((entry, _), segment) in entries.iter().zip(opened) {
                work(&entry.summary, segment)?;
            }
        }
        Ok(())
    }

    /// Opens the segment that an entry of the catalog describes; any other is an error.
    pub(super) fn open_entry(&self, entry: &SegmentEntry) -> Result<Segment> {
        let (object, length) = (&entry.object, entry.summary.stored_bytes);
        let segment = self.opened(ObjectSource::open_sized(self.store(), object, length)?)?;
        entry.check(&segment)?;
        Ok(segment)
    }
}

impl Vault {
    /// Opens the replica of a volume as of its newest catalog version.
    ///
    /// `WrongKey` if the volume is encrypted and the key-encryption key is missing or another, if
    /// it was shredded, or if it is not encrypted and a key was given.
    ///
    /// `NAME@EPOCH` is the branch of an ended epoch, see [`Replica::branch`].
    pub fn replica(&self, name: &str) -> Result<Replica> {
        if let Some((name, epoch)) = name.split_once('@') {
            let epoch = epoch.parse().map(Epoch).map_err(|_| {
                Error::new(ErrorKind::InvalidInput, "open branch of", name)
                    .expected("the number of an epoch after the @")
                    .found(epoch)
            })?;
            return self.replica(name)?.branch(epoch);
        }
        let info = self.volume(name)?;
        let keys = self.keys(&info)?;
        Ok(Replica { catalog: self.catalog(&info, &keys)? })
    }

    /// Opens the replica of a volume with keys that the caller has already, so that a rotated
    /// key-encryption key does not matter. `Corrupt` if another volume has its name since.
    pub(crate) fn replica_with_keys(&self, known: &VolumeInfo, keys: &KeyRing) -> Result<Replica> {
        self.check_recorded(known)?;
        Ok(Replica { catalog: self.catalog(known, keys)? })
    }

    /// Opens the replica as of the newest catalog version before the first that is missing or follows
    /// another.
    ///
    /// For a source that knows that the vault went back: to others a missing version is damage.
    pub(crate) fn replica_up_to_gap(&self, known: &VolumeInfo, keys: &KeyRing) -> Result<Replica> {
        self.check_recorded(known)?;
        Ok(Replica { catalog: self.catalog_up_to_gap(known, keys)? })
    }
}
