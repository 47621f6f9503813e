//! Failures of tasks that go on by themselves: what is reported of them, and how often.
//!
//! A task may fail twenty times a second for days, or fail and work in turns. Each cause is
//! reported at once, then at most once a minute, and the end of what was reported once.

use std::time::Duration;

use crate::error::ErrorKind;
use crate::sync::lock::Mutex;

/// Shortest time between two reports of one cause.
const INTERVAL: Duration = Duration::from_secs(60);

/// Something that a task does again and again, in words.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Work {
    pub fails: &'static str,
    pub works: &'static str,
}

pub(super) static JOURNAL: Work =
    Work { fails: "the journal cannot be written", works: "the journal is written again" };
pub(super) static CLEANING: Work =
    Work { fails: "the dirty map is not cleaned", works: "the dirty map is cleaned again" };
pub(super) static REWIND: Work =
    Work { fails: "going on in the vault", works: "the journal goes on in the vault" };
pub(super) static RESYNC: Work = Work { fails: "resync", works: "the resync goes on" };

pub(super) static HAND_OVER: Work =
    Work { fails: "handing the volume over", works: "the volume can be handed over" };

pub(super) static COMPARING: Work = Work {
    fails: "the vault cannot be compared with what is known here",
    works: "the vault was compared with what is known here",
};

struct Failing {
    work: &'static Work,
    cause: ErrorKind,
    /// When it was reported last.
    reported: Duration,
    /// Whether its end is to be reported.
    is_open: bool,
}

/// What failed in this session, by cause.
#[derive(Default)]
pub(super) struct Failures(Mutex<Vec<Failing>>);

impl Failures {
    /// Records a failure at `now`. Returns whether it is to be reported.
    pub fn add(&self, work: &'static Work, cause: ErrorKind, now: Duration) -> bool {
        let mut failing = self.0.lock();
        match failing.iter_mut().find(|known| known.work == work && known.cause == cause) {
            Some(known) if now.saturating_sub(known.reported) < INTERVAL => false,
            Some(known) => {
                (known.reported, known.is_open) = (now, true);
                true
            }
            None => {
                failing.push(Failing { work, cause, reported: now, is_open: true });
                true
            }
        }
    }

    /// Records that it works. Returns whether that is to be reported.
    pub fn end(&self, work: &'static Work) -> bool {
        let mut failing = self.0.lock();
        let open = failing.iter_mut().filter(|known| known.work == work && known.is_open);
        let mut any = false;
        for known in open {
            (known.is_open, any) = (false, true);
        }
        any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_is_reported_once_a_minute_and_its_end_once() {
        let failures = Failures::default();
        let reported = |cause, second| failures.add(&JOURNAL, cause, Duration::from_secs(second));
        let reports = (100..220).filter(|second| reported(ErrorKind::Full, *second)).count();
        assert_eq!(reports, 2);
        assert!(reported(ErrorKind::Io, 220), "another cause");
        assert!(!failures.end(&RESYNC) && failures.end(&JOURNAL));
        assert!(!failures.end(&JOURNAL), "reported once");
        assert!(!reported(ErrorKind::Io, 221) && !failures.end(&JOURNAL), "works now and then");
        assert!(reported(ErrorKind::Full, 221) && failures.end(&JOURNAL), "a minute later");
    }
}
