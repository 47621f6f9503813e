//! Divisions of a volume's history: a failover ends an epoch at a recovery state, and what its
//! source wrote after that state becomes a branch.
//!
//! The history of a volume goes on from the state in the next epoch. A branch keeps the segments of
//! the ended epoch from that state on: those that the catalog had by then, and those that the old
//! source hands in later. It changes nothing of the volume; `Replica::branch` reads it like one.
//! Branches stay until they are dropped.
//!
//! If the state lies inside a segment, the epoch ends with a *cut*. A copy of the segment up to the
//! state takes its place, and the whole segment is the first of the branch.

use super::content::{CatalogContent, Inverse};
use super::edit::{Branch, Division, SegmentEntry, SourceIdentity};
use super::lifecycle::Stage;
use crate::error::{Error, ErrorKind, Result};
use crate::units::{ChainHash, Epoch, Sequence};

/// Most branches of a volume; a further division is refused with `Full` until one is dropped.
pub const BRANCHES_MAX: usize = 64;

impl CatalogContent {
    /// Returns the branch of what a source wrote last, if it lost the volume.
    pub fn branch_of(&self, source: &SourceIdentity) -> Option<&Branch> {
        let theirs = |branch: &&Branch| branch.source.as_ref().is_some_and(|s| s.id == source.id);
        self.branches.iter().rev().find(theirs)
    }

    /// Returns the recovery states that stay without a point: the bases of branches, and the states
    /// of test failovers and of a failover under way.
    pub(crate) fn needed_states(&self) -> impl Iterator<Item = Sequence> {
        let lifecycle = self.lifecycle();
        // After the hand-over it is the state that the failover is about to begin with.
        let is_open = matches!(lifecycle.stage(), Stage::HandedOver | Stage::FailedOver);
        let open = lifecycle.current().filter(|_| is_open);
        let tests = lifecycle.tests().iter().map(|test| test.begin.at);
        self.branches.iter().map(|branch| branch.base).chain(open.map(|step| step.at)).chain(tests)
    }

    /// Returns the content as a branch sees it: the history up to its base, then its segments.
    pub(super) fn of_branch(&self, epoch: Epoch) -> Result<Self> {
        let branch = self.branch(epoch)?.clone();
        let mut content = self.clone();
        // A later failover to an older state has put on its own branch what this one stands on.
        for later in self.branches.iter().rev().take_while(|later| later.epoch >= epoch) {
            content.segments.retain(|entry| entry.summary.last_sequence <= later.base);
            content.segments.extend(later.segments.iter().cloned());
        }
        content.epoch = branch.epoch;
        content.source = branch.source;
        content.instance = None;
        content.branches.clear();
        Ok(content)
    }

    /// Returns the branch of an older epoch that stands on segments of the branch of `epoch`.
    pub(crate) fn stands_on(&self, epoch: Epoch) -> Option<&Branch> {
        let at = self.branches.iter().position(|branch| branch.epoch == epoch)?;
        let first = self.branches[at].segments.first()?.summary.last_sequence;
        let mut reach = Sequence(u64::MAX);
        self.branches[..at].iter().rev().find(|older| {
            reach = reach.min(older.base);
            first <= reach
        })
    }

    /// Returns the content as it will be after a division.
    pub(super) fn divided(&self, division: &Division) -> Result<Self> {
        let mut next = self.clone();
        next.divide(division.clone(), &mut Vec::new())?;
        Ok(next)
    }

    /// Returns the segment that a division at `at` cuts, if the state is inside one.
    pub(crate) fn cut_by(&self, at: Sequence) -> Option<&SegmentEntry> {
        self.segments
            .iter()
            .find(|entry| entry.summary.first_sequence <= at && at < entry.summary.last_sequence)
    }

    pub(super) fn divide(&mut self, division: Division, undo: &mut Vec<Inverse>) -> Result<()> {
        let Division { epoch, at, cut, source, time } = division;
        let refused = |kind| Error::new(kind, "divide history of", &self.prefix);
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
        let instance = self.instance.take();
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
        undo.push(Box::new(move |content| {
            let branch = content.branches.pop().expect("the division added a branch");
            content.segments.truncate(kept);
            content.segments.extend(branch.segments);
            (content.epoch, content.source) = (branch.epoch, branch.source);
            content.instance = instance;
        }));
        Ok(())
    }

    /// Checks that segments which the source of an ended epoch hands in late go on where its branch
    /// ends.
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

    pub(super) fn add_late(
        &mut self,
        epoch: Epoch,
        entries: Vec<SegmentEntry>,
        undo: &mut Vec<Inverse>,
    ) -> Result<()> {
        self.check_late(epoch, &entries)?;
        entries.iter().for_each(|entry| self.record_marks(entry, undo));
        let at = self.branches.iter().position(|branch| branch.epoch == epoch);
        if let (Some(at), Some(last)) = (at, entries.last()) {
            let branch = &mut self.branches[at];
            let (chain, count) = (branch.chain, branch.segments.len());
            branch.chain = last.summary.chain;
            branch.segments.extend(entries);
            undo.push(Box::new(move |content| {
                content.branches[at].chain = chain;
                content.branches[at].segments.truncate(count);
            }));
        }
        Ok(())
    }
}
