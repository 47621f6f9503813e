//! The retention task: folds segments and deletes objects by policy.
//!
//! It has its own copy of the catalog, so that it and the shipper never wait for each other.
//!
//! Behaviour on failure: the vault keeps more than the policy asks for, and the next run goes on
//! where this one ended.

use std::sync::atomic::Ordering;
use std::task::Waker;
use std::time::Duration;

use super::next::Next;
use super::shared::Shared;
use super::task::Task;
use crate::error::{Error, ErrorKind, Result};
use crate::event::EventKind;
use crate::policy::RetentionPolicy;
use crate::replica::{CLOCK_AHEAD_MAX, CompactOptions, CompactReport, Compactor};
use crate::units::Timestamp;

/// Largest difference between wall clock and interval clock since the start. Beyond it, points
/// could seem older than they are and be removed, so nothing is.
const CLOCK_SLACK: Duration = Duration::from_secs(1800);
/// A clock that kept in step for this long after a jump is taken to be right: it was wrong before,
/// or the machine slept. Until then, whatever sets clocks has time to correct a wrong one.
const CLOCK_SETTLES: Duration = Duration::from_secs(6 * 3600);
const TICK: Duration = Duration::from_millis(100);

/// Runs until the protection stops.
pub(super) struct Retention {
    compactor: Compactor,
    last: Duration,
    clock: ClockWatch,
    failing: bool,
}

impl Retention {
    pub(super) fn new(shared: &Shared) -> Self {
        let last = shared.clock.elapsed();
        let newest = shared.shipping.newest_version().1;
        let clock = ClockWatch::since(newest, (shared.clock.now(), last));
        Self { compactor: Compactor::that_stays(), last, clock, failing: false }
    }

    fn run(&mut self, shared: &Shared, policy: &RetentionPolicy, jump: Duration) {
        let result = check_clock(&shared.info.name, jump)
            .and_then(|()| compact(shared, policy, &mut self.compactor));
        self.last = shared.clock.elapsed();
        let message = match result {
            Ok(report) => complaint(&report),
            Err(_) if gives_way(shared) => return,
            Err(error) => Some(error.to_string()),
        };
        // Reported once, until it works again.
        if let Some(message) = message.as_ref().filter(|_| !self.failing) {
            shared.event(EventKind::TaskFailed, format!("retention: {message}"));
        }
        self.failing = message.is_some();
    }
}

impl Task for Retention {
    fn name(&self) -> &'static str {
        "retention"
    }

    fn step(&mut self, shared: &Shared, _waker: &Waker) -> Next {
        let Some(policy) = &shared.policy.retention else { return Next::Ended };
        if is_over(shared) {
            return Next::Ended;
        }
        if !shared.vault.store().may_delete() {
            let message = "this source may not delete from the vault; a maintainer carries it out";
            shared.event(EventKind::RetentionLeft, message.to_owned());
            return Next::Ended;
        }
        let interval = shared.policy.retention_interval;
        // At each step, so that the time of a jump is known.
        let jump = self.clock.look((shared.clock.now(), shared.clock.elapsed()));
        // Until the catalog records the hand-over, nothing protects its recovery state from a fold.
        let waits = shared.session.is_provisional()
            || shared.session.is_away()
            || shared.session.handed_over().is_some()
            || shared.session.retention_waits().load(Ordering::Acquire);
        if shared.clock.elapsed().saturating_sub(self.last) >= interval && !waits {
            self.run(shared, policy, jump);
        }
        Next::Later(TICK)
    }
}

fn is_over(shared: &Shared) -> bool {
    shared.requests.is_stopping() || shared.session.is_fenced()
}

/// Returns whether a run is to end before its next fold.
fn gives_way(shared: &Shared) -> bool {
    is_over(shared) || shared.session.handed_over().is_some()
}

/// A moment by the wall clock and by the interval clock.
type Moment = (Timestamp, Duration);

/// Compares the wall clock with the interval clock.
struct ClockWatch {
    /// A moment at which the wall clock was right.
    right: Moment,
    /// When it was first seen out of step with that, and from then on in step with itself.
    jumped: Option<Moment>,
}

impl ClockWatch {
    fn new(right: Moment) -> Self {
        Self { right, jumped: None }
    }

    /// Starts at `now`. A clock that is far ahead of the catalog's `newest` time has jumped while
    /// nobody looked, or the machine was off: it has to keep in step first.
    fn since(newest: Option<Timestamp>, now: Moment) -> Self {
        match newest {
            Some(newest) if now.0.nanos_since(newest) > CLOCK_AHEAD_MAX.as_nanos() as u64 => {
                Self { right: (newest, now.1), jumped: Some(now) }
            }
            _ => Self::new(now),
        }
    }

    /// Returns how far the wall clock has jumped; zero if it is right.
    fn look(&mut self, now: Moment) -> Duration {
        let jump = difference(self.right, now);
        if jump <= CLOCK_SLACK {
            self.jumped = None;
            return Duration::ZERO;
        }
        let in_step = self.jumped.filter(|jumped| difference(*jumped, now) <= CLOCK_SLACK);
        let since = *self.jumped.insert(in_step.unwrap_or(now));
        if now.1.saturating_sub(since.1) < CLOCK_SETTLES {
            return jump;
        }
        *self = Self::new(now);
        Duration::ZERO
    }
}

/// Returns how far the wall clock has moved against the interval clock.
fn difference(from: Moment, now: Moment) -> Duration {
    let passed = i64::try_from(now.1.saturating_sub(from.1).as_nanos()).unwrap_or(i64::MAX);
    Duration::from_nanos(now.0.0.abs_diff(from.0.0.saturating_add(passed)))
}

fn check_clock(volume: &str, jump: Duration) -> Result<()> {
    if jump <= CLOCK_SLACK {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Unavailable, "compact", volume).message(format_args!(
        "the clock jumped by {jump:.0?}, so no age is certain; retention goes on when it is as \
         before, or {} h after the jump",
        CLOCK_SETTLES.as_secs() / 3600
    )))
}

fn compact(
    shared: &Shared,
    policy: &RetentionPolicy,
    compactor: &mut Compactor,
) -> Result<CompactReport> {
    let scratch = shared.state.file("scratch");
    // A run that was killed left files there.
    let _ = std::fs::remove_dir_all(&scratch);
    // The task watches the clock itself, also against what its own heartbeats say.
    let options =
        CompactOptions { scratch: Some(scratch), accept_clock: true, ..CompactOptions::default() };
    let mut replica = shared.vault.replica_with_keys(&shared.info, &shared.keys)?;
    compactor.run(&mut replica, policy, &options, &|_, _| !gives_way(shared))
}

fn complaint(report: &CompactReport) -> Option<String> {
    if let Some(finding) = report.findings.first() {
        return Some(finding.error.to_string());
    }
    (report.over_budget_bytes > 0 && report.folds == 0).then(|| {
        format!(
            "the volume takes {} bytes more than its budget, and nothing can be removed",
            report.over_budget_bytes
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTES: i64 = 60_000_000_000;
    const HOURS: i64 = 60 * MINUTES;

    /// The moment `passed` after the start, by a wall clock that is `jump` off.
    fn moment(passed: i64, jump: i64) -> Moment {
        (Timestamp(1_000 * HOURS + passed + jump), Duration::from_nanos(passed.unsigned_abs()))
    }

    #[test]
    fn promise_5_nothing_is_given_up_by_a_clock_that_jumped() {
        for jump in [HOURS, -HOURS, 24 * HOURS] {
            let mut clock = ClockWatch::new(moment(0, 0));
            assert_eq!(clock.look(moment(10 * MINUTES, HOURS / 4)), Duration::ZERO, "a correction");
            let found = clock.look(moment(20 * MINUTES, jump));
            assert_eq!(found, Duration::from_nanos(jump.unsigned_abs()));
            let error = check_clock("disk", found).expect_err("a jump");
            assert_eq!(error.kind(), ErrorKind::Unavailable);
            assert!(!clock.look(moment(6 * HOURS, jump)).is_zero(), "not for long enough");
        }
        check_clock("disk", Duration::ZERO).expect("no jump");
    }

    #[test]
    fn promise_13_nothing_is_given_up_by_a_clock_that_was_set_while_the_agent_was_off() {
        let newest = Some(Timestamp(1_000 * HOURS));
        let mut clock = ClockWatch::since(newest, moment(0, 400 * 24 * HOURS));
        assert!(!clock.look(moment(HOURS, 400 * 24 * HOURS)).is_zero());
        assert!(!clock.look(moment(5 * HOURS, 400 * 24 * HOURS)).is_zero());
        assert!(clock.look(moment(7 * HOURS, 400 * 24 * HOURS)).is_zero(), "it was off for long");
        let mut clock = ClockWatch::since(newest, moment(0, 6 * 24 * HOURS));
        assert!(clock.look(moment(HOURS, 6 * 24 * HOURS)).is_zero(), "a week off is no jump");
    }

    #[test]
    fn retention_goes_on_when_the_clock_is_right_again() {
        let mut clock = ClockWatch::new(moment(0, 0));
        assert!(!clock.look(moment(HOURS, 5 * HOURS)).is_zero());
        assert!(clock.look(moment(2 * HOURS, 0)).is_zero(), "it was corrected");
        // Wrong at the start, and corrected in two steps.
        assert!(!clock.look(moment(3 * HOURS, 5 * HOURS)).is_zero());
        assert!(!clock.look(moment(8 * HOURS, 7 * HOURS)).is_zero());
        assert!(!clock.look(moment(13 * HOURS, 7 * HOURS)).is_zero(), "the second jump counts");
        assert!(clock.look(moment(14 * HOURS, 7 * HOURS)).is_zero(), "it has kept in step");
        assert!(clock.look(moment(15 * HOURS, 7 * HOURS)).is_zero());
        assert!(!clock.look(moment(16 * HOURS, 0)).is_zero(), "a jump from the new time");
    }
}
