//! Divisions of a volume's history: a failover ends an epoch at one state, and what its source wrote after that state becomes
//! a branch.
//!
//! The history of a volume goes on from the state in the next epoch. A branch keeps the segments of the ended epoch from that
//! state on: those that the catalog had by then, and those that the old source hands in later. It changes nothing of the
//! volume; [`Replica::branch`](super::Replica::branch) reads it like one. Branches stay until they are dropped by name.
//!
//! A state inside a segment ends the epoch with a *cut*: a copy of the segment up to the state takes its place, and the whole
//! segment is the first of the branch.

use super::catalog::Catalog;
use super::edit::{Branch, CatalogEdit, Division, SegmentEntry, SourceIdentity};
use super::lifecycle::Stage;
use crate::error::{Error, ErrorKind, Result};
use crate::units::{ChainHash, Epoch, Sequence};

/// Branches kept by one volume; a division beyond is refused with `Full`, so that one is dropped first.
pub const BRANCHES_MAX: usize = 64;

impl Catalog {
    /// The branches, oldest first.
    pub fn branches(&self) -> &[Branch] {
        &self.branches
    }

    /// The branch of an ended epoch; `NotFound` lists those that there are.
    pub fn branch(&self, epoch: Epoch) -> Result<&Branch> {
        self.branches.iter().find(|branch| branch.epoch == epoch).ok_or_else(|| {
            let known: Vec<_> = self.branches.iter().map(|b| b.epoch.to_string()).collect();
            Error::new(ErrorKind::NotFound, "find branch of epoch", epoch)
                .expected(format_args!("one of [{}]", known.join(", ")))
                .found(epoch)
        })
    }

    /// The branch of what a source wrote last, where it lost the volume.
    pub fn branch_of(&self, source: &SourceIdentity) -> Option<&Branch> {
        let theirs = |branch: &&Branch| branch.source.as_ref().is_some_and(|s| s.id == source.id);
        self.branches.iter().rev().find(theirs)
    }

    /// The segments of the volume and of its branches: all that is named.
    pub fn named(&self) -> impl Iterator<Item = &SegmentEntry> {
        self.segments.iter().chain(self.branches.iter().flat_map(|branch| &branch.segments))
    }

    /// States that stay though no point says so: those that branches stand on, and those of failovers that are under way
    /// and of tests.
    pub(crate) fn needed_states(&self) -> impl Iterator<Item = Sequence> {
        let lifecycle = self.lifecycle();
        // Handed over, it is the state that the failover is about to begin with.
        let is_open = matches!(lifecycle.stage(), Stage::HandedOver | Stage::FailedOver);
        let open = lifecycle.current().filter(|_| is_open);
        let tests = lifecycle.tests().iter().map(|test| test.begin.at);
        self.branches.iter().map(|branch| branch.base).chain(open.map(|step| step.at)).chain(tests)
    }

    /// The catalog as a branch sees it: the history up to its base, then its segments. It cannot be appended to.
    pub(crate) fn of_branch(&self, epoch: Epoch) -> Result<Self> {
        let branch = self.branch(epoch)?.clone();
        let mut catalog = self.clone();
        // A later failover to an older state has put on its own branch what this one stands on.
        for later in self.branches.iter().rev().take_while(|later| later.epoch >= epoch) {
            catalog.segments.retain(|entry| entry.summary.last_sequence <= later.base);
            catalog.segments.extend(later.segments.iter().cloned());
        }
        catalog.epoch = branch.epoch;
        catalog.source = branch.source;
        catalog.branches.clear();
        Ok(catalog)
    }

    /// The branch of an older epoch that stands on segments of the branch of `epoch`; `None` where there is none.
    pub(crate) fn stands_on(&self, epoch: Epoch) -> Option<&Branch> {
        let at = self.branches.iter().position(|branch| branch.epoch == epoch)?;
        let first = self.branches[at].segments.first()?.summary.last_sequence;
        let mut reach = Sequence(u64::MAX);
        self.branches[..at].iter().rev().find(|older| {
            reach = reach.min(older.base);
            first <= reach
        })
    }

    /// The catalog as it will be after a division; nothing is written.
    pub(crate) fn divided(&self, division: &Division) -> Result<Self> {
        let mut next = self.clone();
        next.divide(division.clone())?;
        Ok(next)
    }

    /// What a division at `at` needs: the segment that is cut, where the state is inside of one.
    pub(crate) fn cut_by(&self, at: Sequence) -> Option<&SegmentEntry> {
        self.segments
            .iter()
            .find(|entry| entry.summary.first_sequence <= at && at < entry.summary.last_sequence)
    }

    pub(super) fn divide(&mut self, division: Division) -> Result<()> {
        let Division { epoch, at, cut, source, time } = division;
        let refused = |kind| Error::new(kind, "divide history of", self.prefix());
        if epoch.0 != self.epoch.0.saturating_add(1) {
            return Err(refused(ErrorKind::Fenced)
                .message("another failover was committed meanwhile")
                .expected(format_args!("epoch {}", self.epoch.0.saturating_add(1)))
                .found(format_args!("epoch {epoch}")));
        }
        if self.branches.len() >= BRANCHES_MAX {
            return Err(refused(ErrorKind::Full)
                .message("drop a branch first")
                .expected(format_args!("fewer than {BRANCHES_MAX} branches")));
        }
        let kept = self.segments.partition_point(|entry| entry.summary.last_sequence <= at);
        let straddles =
            self.segments.get(kept).is_some_and(|entry| entry.summary.first_sequence <= at);
        let ends_there = match kept.checked_sub(1) {
            Some(last) => self.segments[last].summary.last_sequence == at,
            None => at == Sequence::ZERO,
        };
        let fits = match &cut {
            None => ends_there,
            Some(cut) => {
                let (old, new) = (self.segments.get(kept).map(|e| &e.summary), &cut.summary);
                straddles
                    && new.last_sequence == at
                    && old.is_some_and(|old| {
                        old.previous == new.previous
                            && old.first_sequence == new.first_sequence
                            && old.epoch == new.epoch
                            && old.volume == new.volume
                    })
            }
        };
        if !fits {
            return Err(refused(ErrorKind::Changed)
                .message("the state is no longer there, or another segment is cut")
                .expected(format_args!("a segment that ends at sequence {at}")));
        }
        let base = match kept.checked_sub(1) {
            Some(last) => self.segments[last].summary.last_sequence,
            None => Sequence::ZERO,
        };
        let segments = self.segments.split_off(kept);
        let before = self.segments.last().map_or(ChainHash::default(), |e| e.summary.chain);
        self.branches.push(Branch {
            epoch: self.epoch,
            at,
            base,
            chain: segments.last().map_or(before, |entry| entry.summary.chain),
            source: self.source.replace(source),
            time,
            segments,
        });
        self.segments.extend(cut);
        self.epoch = epoch;
        Ok(())
    }

    /// Segments that the source of an ended epoch hands in late must go on where its branch ends.
    pub(super) fn check_late(&self, epoch: Epoch, entries: &[SegmentEntry]) -> Result<()> {
        let branch = self.branch(epoch)?;
        let (mut chain, mut last) = (branch.chain, branch.last_sequence());
        for entry in entries {
            let summary = &entry.summary;
            let refused = || Error::new(ErrorKind::Changed, "add to branch", &entry.object);
            if summary.previous != chain || summary.epoch != epoch {
                return Err(refused()
                    .expected(format_args!("a segment of epoch {epoch} after chain hash {chain}"))
                    .found(format_args!("epoch {} after {}", summary.epoch, summary.previous)));
            }
            if summary.first_sequence <= last || summary.last_sequence < summary.first_sequence {
                return Err(refused().expected(format_args!("sequences above {last}")).found(
                    format_args!("{} to {}", summary.first_sequence, summary.last_sequence),
                ));
            }
            if self.retired().contains_key(&entry.object) {
                return Err(refused().message("it was given up for a stray; hand it in later"));
            }
            (chain, last) = (summary.chain, summary.last_sequence);
        }
        Ok(())
    }

    pub(super) fn add_late(&mut self, epoch: Epoch, entries: Vec<SegmentEntry>) -> Result<()> {
        self.check_late(epoch, &entries)?;
        let branch = self.branches.iter_mut().find(|branch| branch.epoch == epoch);
        if let (Some(branch), Some(last)) = (branch, entries.last()) {
            branch.chain = last.summary.chain;
            branch.segments.extend(entries);
        }
        Ok(())
    }

    /// Adds late segments of an ended epoch to its branch. `Changed` when they do not go on where it ends.
    pub(crate) fn hand_in(&mut self, epoch: Epoch, entries: Vec<SegmentEntry>) -> Result<()> {
        self.amend(&[CatalogEdit::Late { epoch, segments: entries }], &|| Ok(()))
    }
}
