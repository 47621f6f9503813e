//! The retention task: folds segments and deletes objects by policy.
//!
//! It has its own copy of the catalog, so that it and the shipper never wait for each other.
//!
//! Behaviour on failure: the vault keeps more than the policy asks for, and the next run goes on
//! where this one ended.

use std::sync::atomic::Ordering;
use std::task::Waker;
use std::time::Duration;

use super::shared::Shared;
use super::task::{Next, Task};
use crate::error::{Error, ErrorKind, Result};
use crate::event::EventKind;
use crate::policy::RetentionPolicy;
use crate::replica::{CompactOptions, CompactReport, Compactor};
use crate::units::Timestamp;

/// Largest difference between wall clock and interval clock since the start. Beyond it, points
/// could seem older than they are and be removed, so nothing is.
const CLOCK_SLACK: Duration = Duration::from_secs(1800);
const TICK: Duration = Duration::from_millis(100);

/// Runs until the protection stops.
pub(super) struct Retention {
    compactor: Compactor,
    last: Duration,
    began: (Timestamp, Duration),
    failing: bool,
}

impl Retention {
    pub(super) fn new(shared: &Shared) -> Self {
        let last = shared.clock.elapsed();
        let began = (shared.clock.now(), last);
        Self { compactor: Compactor::that_stays(), last, began, failing: false }
    }

    fn run(&mut self, shared: &Shared, policy: &RetentionPolicy) {
        let passed = shared.clock.elapsed().saturating_sub(self.began.1);
        let jump = clock_jump(self.began.0, passed, shared.clock.now());
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
        let interval = shared.policy.retention_interval;
        // Until the catalog records the hand-over, nothing protects its recovery state from a fold.
        let waits = shared.session.is_provisional()
            || shared.session.handed_over().is_some()
            || shared.session.retention_waits().load(Ordering::Acquire);
        if shared.clock.elapsed().saturating_sub(self.last) >= interval && !waits {
            self.run(shared, policy);
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

/// Returns how far the wall clock has moved against the interval clock.
fn clock_jump(began: Timestamp, passed: Duration, now: Timestamp) -> Duration {
    let expected = began.0.saturating_add(i64::try_from(passed.as_nanos()).unwrap_or(i64::MAX));
    Duration::from_nanos(now.0.abs_diff(expected))
}

fn check_clock(volume: &str, jump: Duration) -> Result<()> {
    if jump <= CLOCK_SLACK {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Unavailable, "compact", volume).message(format_args!(
        "the clock jumped by {jump:.0?}, so no age is certain; if the clock is right now, restart the agent"
    )))
}

fn compact(
    shared: &Shared,
    policy: &RetentionPolicy,
    compactor: &mut Compactor,
) -> Result<CompactReport> {
    let scratch = shared.state.scratch();
    // A run that was killed left files there.
    let _ = std::fs::remove_dir_all(&scratch);
    let options = CompactOptions { scratch: Some(scratch), ..CompactOptions::default() };
    let mut replica = shared.vault.replica_with_keys(&shared.info.name, &shared.keys)?;
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

    #[test]
    fn promise_5_nothing_is_given_up_by_a_clock_that_jumped() {
        let (began, hour) = (Timestamp(1_000_000_000_000_000), 3_600_000_000_000_i64);
        let passed = Duration::from_secs(600);
        let at = |jump: i64| clock_jump(began, passed, Timestamp(began.0 + 600_000_000_000 + jump));
        assert_eq!(at(0), Duration::ZERO);
        assert!(check_clock("disk", at(hour / 4)).is_ok(), "a correction");
        for jump in [hour, -hour, 24 * hour] {
            let error = check_clock("disk", at(jump)).expect_err("a jump");
            assert_eq!(error.kind(), ErrorKind::Unavailable);
        }
    }
}
