//! The retention task: folds and deletes by policy, beside everything else.
//!
//! It works on a catalog of its own, so that neither it nor the shipper waits for the other. Nothing depends on it: when it
//! fails, the vault holds more than the policy asks for, and the next run goes on where this one ended.

use std::time::Duration;

use super::Shared;
use crate::error::{Error, ErrorKind, Result};
use crate::event::EventKind;
use crate::policy::RetentionPolicy;
use crate::replica::{CompactOptions, CompactReport, Compactor};
use crate::units::Timestamp;

/// A wall clock that has moved against the interval clock by more than this since the start is not trusted: points would
/// seem old that are not, and be given up.
const CLOCK_SLACK: Duration = Duration::from_secs(1800);
const TICK: Duration = Duration::from_millis(100);

/// Runs until the protection stops.
pub(super) fn run(shared: &Shared) {
    let Some(policy) = &shared.policy.retention else { return };
    let mut compactor = Compactor::default();
    let mut last = shared.clock.elapsed();
    let (began, began_elapsed) = (shared.clock.now(), last);
    let mut failing = false;
    while !is_over(shared) {
        std::thread::sleep(TICK);
        if shared.clock.elapsed().saturating_sub(last) < shared.policy.retention_interval {
            continue;
        }
        if shared.is_provisional() {
            continue;
        }
        let passed = shared.clock.elapsed().saturating_sub(began_elapsed);
        let jump = clock_jump(began, passed, shared.clock.now());
        let result = check_clock(&shared.info.name, jump)
            .and_then(|()| compact(shared, policy, &mut compactor));
        last = shared.clock.elapsed();
        let message = match result {
            Ok(report) => complaint(&report),
            Err(_) if is_over(shared) => return,
            Err(error) => Some(error.to_string()),
        };
        // Told once, until it works again.
        if let Some(message) = message.as_ref().filter(|_| !failing) {
            shared.event(EventKind::TaskFailed, format!("retention: {message}"));
        }
        failing = message.is_some();
    }
}

fn is_over(shared: &Shared) -> bool {
    shared.has_ended() || shared.is_stopping() || shared.is_fenced()
}

/// How far the wall clock is from where it would be, had it gone like the interval clock.
fn clock_jump(began: Timestamp, passed: Duration, now: Timestamp) -> Duration {
    let expected = began.0.saturating_add(i64::try_from(passed.as_nanos()).unwrap_or(i64::MAX));
    Duration::from_nanos(now.0.abs_diff(expected))
}

fn check_clock(volume: &str, jump: Duration) -> Result<()> {
    if jump <= CLOCK_SLACK {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Unavailable, "compact", volume).message(format_args!(
        "the clock jumped by {jump:.0?}, so no age is certain; if it is right now, start the agent again"
    )))
}

fn compact(
    shared: &Shared,
    policy: &RetentionPolicy,
    compactor: &mut Compactor,
) -> Result<CompactReport> {
    let scratch = shared.state.scratch();
    // What a run that was killed left there.
    let _ = std::fs::remove_dir_all(&scratch);
    let options = CompactOptions { scratch: Some(scratch), ..CompactOptions::default() };
    let mut replica = shared.vault.replica_with_keys(&shared.info.name, &shared.keys)?;
    compactor.run(&mut replica, policy, &options, &|_, _| !is_over(shared))
}

fn complaint(report: &CompactReport) -> Option<String> {
    if let Some(finding) = report.findings.first() {
        return Some(finding.error.to_string());
    }
    (report.over_budget_bytes > 0 && report.folds == 0).then(|| {
        format!(
            "the volume holds {} bytes more than it may, and nothing can be given up",
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
