//! Change sets: the exact extents that differ between two recovery states, for incremental backup.

use std::path::Path;

use super::restore;
use super::view::ViewOptions;
use super::{At, Replica};
use crate::error::{Error, ErrorKind, Result};
use crate::extent::{Extent, ExtentSet};
use crate::journal::{IndexEntry, IndexKind, SegmentKind};
use crate::units::Sequence;

/// A stretch of a change set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangeRun {
    /// Its bytes of the volume.
    pub extent: Extent,
    /// Whether it reads as zeroes in the later state.
    pub zero: bool,
}

/// Extents written after one state, up to another. Exact: not rounded to blocks.
#[derive(Clone)]
pub struct ChangeSet {
    replica: Replica,
    from: Sequence,
    to: Sequence,
    extents: ExtentSet,
    /// Parts whose last change made them zero (or undefined, which reads as zero).
    zeroes: ExtentSet,
}

impl ChangeSet {
    /// Returns the earlier state.
    pub fn from(&self) -> Sequence {
        self.from
    }

    /// Returns the later state.
    pub fn to(&self) -> Sequence {
        self.to
    }

    /// Returns every byte that was written, zeroed or discarded.
    pub fn extents(&self) -> &ExtentSet {
        &self.extents
    }

    /// Returns the change set in order, with zeroed stretches apart.
    pub fn runs(&self) -> Vec<ChangeRun> {
        let mut runs = Vec::with_capacity(self.extents.count());
        for extent in self.extents.iter() {
            let mut at = extent.offset;
            for zero in self.zeroes.within(extent) {
                let data = Extent::from_bounds(at, zero.offset);
                if !data.is_empty() {
                    runs.push(ChangeRun { extent: data, zero: false });
                }
                runs.push(ChangeRun { extent: zero, zero: true });
                at = zero.end();
            }
            let data = Extent::from_bounds(at, extent.end());
            if !data.is_empty() {
                runs.push(ChangeRun { extent: data, zero: false });
            }
        }
        runs
    }

    /// Writes the changed bytes, as of the later state, at their own offsets into a new sparse file
    /// of the volume's size. Returns the bytes written. `Unsupported` if the volume is tracked
    /// without data.
    pub fn write_to_file(&self, path: &Path) -> Result<u64> {
        let view = self.replica.view(&At::Sequence(self.to), &ViewOptions::default())?;
        if path.symlink_metadata().is_ok() {
            return Err(Error::new(ErrorKind::AlreadyExists, "write changes to", path.display())
                .message("a file of this name exists"));
        }
        let mut data = self.extents.clone();
        self.zeroes.iter().for_each(|zero| data.remove(zero));
        restore::copy_extents(&view, &data, path)
    }
}

impl Replica {
    /// Returns what was written after `from`, up to `to`.
    pub fn changes(&self, from: &At, to: &At) -> Result<ChangeSet> {
        let (from, to) = (self.resolve(from)?, self.resolve(to)?);
        if from > to {
            return Err(Error::new(ErrorKind::InvalidInput, "list changes of", &self.info().name)
                .expected("the earlier state first")
                .found(format_args!("sequences {from} and {to}")));
        }
        let (mut extents, mut zeroes) = (ExtentSet::new(), ExtentSet::new());
        self.each_change(from, to, true, |entry| {
            extents.insert(entry.extent);
            match entry.kind {
                IndexKind::Zero | IndexKind::Undefined => zeroes.insert(entry.extent),
                IndexKind::Data | IndexKind::Touch => zeroes.remove(entry.extent),
            }
        })?;
        Ok(ChangeSet { replica: self.clone(), from, to, extents, zeroes })
    }

    /// Returns every byte that may have changed after `from`, up to `to`: more than a change set if
    /// segments were folded.
    pub(crate) fn touched(&self, from: Sequence, to: Sequence) -> Result<ExtentSet> {
        let mut extents = ExtentSet::new();
        self.each_change(from, to, false, |entry| extents.insert(entry.extent))?;
        Ok(extents)
    }

    /// Calls `work` for all that was written after `from`, up to `to`. A fold that reaches beyond
    /// counts as a whole, or is `NotFound` if the answer must be `exact`.
    fn each_change(
        &self,
        from: Sequence,
        to: Sequence,
        exact: bool,
        mut work: impl FnMut(&IndexEntry),
    ) -> Result<()> {
        for entry in self.catalog.segments() {
            let summary = &entry.summary;
            if summary.last_sequence <= from || summary.first_sequence > to {
                continue;
            }
            let is_log = summary.kind == SegmentKind::Log;
            let whole = summary.first_sequence > from && summary.last_sequence <= to;
            if exact && !whole && !is_log {
                return Err(Error::new(ErrorKind::NotFound, "list changes of", &self.info().name)
                    .message(format_args!(
                        "sequences {} to {} were merged and cannot be told apart",
                        summary.first_sequence, summary.last_sequence
                    )));
            }
            let segment = self.open_entry(entry)?;
            let takes_all = whole || !is_log;
            let index =
                if takes_all { segment.read_index() } else { segment.index_between(from, to) };
            index?.iter().for_each(&mut work);
        }
        Ok(())
    }
}
