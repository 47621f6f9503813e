//! Changes that the journal lacks: since when, and where a resync has made up for them.
//!
//! A *stretch* begins with the first change that was not captured, or that the journal lost. It
//! ends with the `UnorderedEnd` after the resync that read the changed regions again. Until the
//! replica has that end, it lacks every change of the stretch.

use crate::units::{Sequence, Timestamp};

/// Beyond this many, the newest two stretches merge: bounded memory, at the price of a later end.
const STRETCHES_MAX: usize = 16;

struct Stretch {
    since: Timestamp,
    /// Sequence of the end; `None` while the resync is not complete.
    end: Option<Sequence>,
}

/// The stretches whose end is not known to be in the replica, oldest first. Only the newest has no
/// end.
#[derive(Default)]
pub(super) struct Uncaptured(Vec<Stretch>);

impl Uncaptured {
    /// Records that a change of this time was not captured.
    pub fn begin(&mut self, since: Timestamp) {
        let merges = self.0.len() >= STRETCHES_MAX;
        match self.0.last_mut().filter(|last| merges || last.end.is_none()) {
            Some(last) => {
                last.since = last.since.min(since);
                last.end = None;
            }
            None => self.0.push(Stretch { since, end: None }),
        }
    }

    /// Records that `sequence` ends the unordered interval.
    pub fn end(&mut self, sequence: Sequence) {
        if let Some(last) = self.0.last_mut() {
            last.end.get_or_insert(sequence);
        }
    }

    /// Records that the journal lost all records after `durable`, even ends of stretches. `since` is
    /// the time of the oldest lost change.
    pub fn lost(&mut self, durable: Sequence, since: Timestamp) {
        let mut oldest = since;
        let lacks_end = |stretch: &mut Stretch| stretch.end.is_none_or(|end| end > durable);
        while let Some(stretch) = self.0.pop_if(lacks_end) {
            oldest = oldest.min(stretch.since);
        }
        self.begin(oldest);
    }

    /// Returns the time of the oldest change that is missing from a replica which has everything
    /// captured up to `replicated`.
    pub fn since(&mut self, replicated: Sequence) -> Option<Timestamp> {
        self.0.retain(|stretch| stretch.end.is_none_or(|end| end > replicated));
        self.0.iter().map(|stretch| stretch.since).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_missing_until_the_replica_has_the_end_of_their_resync() {
        let mut uncaptured = Uncaptured::default();
        assert_eq!(uncaptured.since(Sequence(9)), None);
        uncaptured.begin(Timestamp(50));
        uncaptured.begin(Timestamp(60));
        uncaptured.end(Sequence(20));
        uncaptured.begin(Timestamp(80));
        assert_eq!(uncaptured.since(Sequence(19)), Some(Timestamp(50)));
        assert_eq!(uncaptured.since(Sequence(20)), Some(Timestamp(80)));
        uncaptured.end(Sequence(30));
        assert_eq!(uncaptured.since(Sequence(30)), None);
    }

    #[test]
    fn an_end_that_the_journal_lost_is_none() {
        let mut uncaptured = Uncaptured::default();
        for (since, end) in [(50, 20), (60, 30), (70, 40)] {
            uncaptured.begin(Timestamp(since));
            uncaptured.end(Sequence(end));
        }
        uncaptured.lost(Sequence(20), Timestamp(75));
        assert_eq!(uncaptured.since(Sequence(19)), Some(Timestamp(50)));
        assert_eq!(uncaptured.since(Sequence(50)), Some(Timestamp(60)), "both lost their end");
    }

    #[test]
    fn many_stretches_take_bounded_memory() {
        let mut uncaptured = Uncaptured::default();
        for at in 0..1000_u32 {
            uncaptured.begin(Timestamp(at.into()));
            uncaptured.end(Sequence(at.into()));
        }
        assert!(uncaptured.0.len() <= STRETCHES_MAX);
        assert_eq!(uncaptured.since(Sequence(998)), Some(Timestamp(15)), "never too late");
        assert_eq!(uncaptured.since(Sequence(999)), None);
    }
}
