//! The tasks that come round: marking regions for writers, shipping, and what happens by the clock (points, cleaning
//! the dirty map, events).

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Shared, forget, hand_over, surrender};
use crate::error::{Error, ErrorKind};
use crate::event::EventKind;
use crate::journal::PointKind;
use crate::units::Sequence;

const TICK: Duration = Duration::from_millis(50);
/// Regions that nobody wrote to for this long, or up to twice as long, are cleaned: one flush of the disk each time.
const IDLE: Duration = Duration::from_secs(1);
const WAIT: Duration = Duration::from_millis(100);
const RETRY_MIN: Duration = Duration::from_millis(100);

/// Marks the regions that writers wait for.
pub(super) fn run_keeper(shared: &Shared) {
    while !shared.has_ended() {
        let wanted = shared.tap.wanted(WAIT);
        if wanted.is_empty() {
            continue;
        }
        let mut dirty = shared.dirty();
        if let Err(error) = dirty.mark(&wanted) {
            // The writer is not stopped for it. Without its map the next session reads the whole disk, so nothing is lost.
            forget(&shared.dirty_path());
            drop(dirty);
            shared.event(EventKind::TaskFailed, format!("the dirty map is lost: {error}"));
            shared.tap.marked(&wanted);
            continue;
        }
        // Under the map's lock, so that no cleaning comes between.
        shared.tap.marked(&wanted);
    }
}

/// Ships segments, with growing pauses while the vault does not answer.
pub(super) fn run_shipper(shared: &Shared) {
    let mut pause = RETRY_MIN;
    let mut looked = shared.clock.elapsed();
    while !shared.has_ended() && !shared.is_fenced() {
        if shared.is_provisional() {
            std::thread::sleep(WAIT);
            continue;
        }
        let now = shared.clock.elapsed();
        let interval = shared.policy.failover_poll_interval;
        if !interval.is_zero() && now.saturating_sub(looked) >= interval {
            looked = now;
            // Anything else that is wrong, shipping finds out too.
            if let Err(error) = shared.shipper.look()
                && error.kind() == ErrorKind::Fenced
            {
                fence(shared, &error);
                break;
            }
        }
        let urgent = shared.name_now.swap(false, Ordering::AcqRel) || shared.is_stopping();
        match shared.shipper.ship(&shared.spool, WAIT, urgent, &|| shared.has_ended()) {
            Ok(last) => {
                pause = RETRY_MIN;
                if let Some(last) = last {
                    shared.replicated.store(last.0, Ordering::Release);
                    if !shared.vault_available.swap(true, Ordering::Relaxed) {
                        shared.event(
                            EventKind::VaultAvailable,
                            "the vault takes segments again".into(),
                        );
                    }
                }
            }
            Err(error) if error.kind() == ErrorKind::Fenced => fence(shared, &error),
            Err(error) => {
                if shared.vault_available.swap(false, Ordering::Relaxed) {
                    shared.event(EventKind::VaultUnavailable, error.to_string());
                }
                sleep(shared, jittered(shared, pause));
                pause = (pause * 2).min(shared.policy.retry_interval_max);
            }
        }
    }
    hand_in(shared);
}

fn fence(shared: &Shared, error: &Error) {
    shared.fenced.store(true, Ordering::Release);
    shared.event(EventKind::Fenced, error.to_string());
}

/// Once fenced: hands in what the journal has sealed, with growing pauses while the vault does not answer.
fn hand_in(shared: &Shared) {
    let mut pause = RETRY_MIN;
    while shared.is_fenced() && !shared.has_ended() {
        if !shared.drained.load(Ordering::Acquire) {
            std::thread::sleep(TICK);
            continue;
        }
        let result =
            shared.vault.replica_with_keys(&shared.info.name, &shared.keys).and_then(|replica| {
                let (source, clock) = (shared.shipper.source(), &*shared.clock);
                surrender::hand_in(&shared.state, &replica, source, clock)
            });
        match result {
            Ok(done) => {
                let (segments, records) = (done.segments, done.records);
                let message = if segments == 0 {
                    "nothing was captured here after the failover".to_owned()
                } else {
                    format!("{segments} segments with {records} records are kept as a branch")
                };
                shared.event(EventKind::LateWrites { segments, records }, message);
                for note in done.notes {
                    shared.event(EventKind::JournalRepaired, note);
                }
                return;
            }
            Err(_) => {
                sleep(shared, jittered(shared, pause));
                pause = (pause * 2).min(shared.policy.retry_interval_max);
            }
        }
    }
}

/// Points by policy, cleaning, and events of mode and RPO.
pub(super) fn run_timer(shared: &Shared) {
    let mut last_point = shared.clock.elapsed();
    let mut last_clean = shared.clock.elapsed();
    let mut idle_since = shared.tap.stats().last_sequence;
    let mut rpo_exceeded = false;
    let mut skipped = false;
    while !shared.has_ended() {
        std::thread::sleep(TICK);
        tell_mode_changes(shared);
        hand_over::follow(shared);
        let now = shared.clock.elapsed();
        let stats = shared.stats();
        let threshold = shared.policy.rpo_threshold;
        if !threshold.is_zero() && (stats.rpo > threshold) != rpo_exceeded {
            rpo_exceeded = !rpo_exceeded;
            let kind = if rpo_exceeded { EventKind::RpoExceeded } else { EventKind::RpoMet };
            shared.event(kind, format!("the RPO is {:?}, its threshold {threshold:?}", stats.rpo));
        }
        let interval = shared.policy.crash_point_interval;
        if !interval.is_zero()
            && now.saturating_sub(last_point) >= interval
            && !shared.is_stopping()
            && !shared.is_handed_over()
        {
            last_point = now;
            let result = shared.mark(PointKind::Crash, "");
            if let Err(error) = &result
                && !skipped
            {
                shared.event(EventKind::PointSkipped, error.to_string());
            }
            skipped = result.is_err();
        }
        let tap = shared.tap.stats();
        let captured = tap.marked_regions.saturating_sub(tap.resync_regions);
        let crowded = captured > shared.policy.marked_regions_max;
        if crowded {
            clean(shared, shared.tap.half_way());
        } else if now.saturating_sub(last_clean) >= IDLE {
            last_clean = now;
            clean(shared, std::mem::replace(&mut idle_since, stats.last_sequence));
        }
    }
}

/// Cleans regions last written at or before `through`, as far as disk and journal are durable.
fn clean(shared: &Shared, through: Sequence) {
    let journaled = shared.journal().durable;
    let through = through.min(journaled);
    if through == Sequence::ZERO || shared.tap.stats().marked_regions == 0 {
        return;
    }
    // The flush comes after every write up to `through` completed, so it covers them.
    if let Err(error) = shared.volume.device().flush() {
        shared.event(EventKind::TaskFailed, format!("the dirty map is not cleaned: {error}"));
        return;
    }
    let mut dirty = shared.dirty();
    let cleaned = shared.tap.clean(through);
    if let Err(error) = dirty.clear(&cleaned) {
        shared.event(EventKind::TaskFailed, error.to_string());
    }
}

fn tell_mode_changes(shared: &Shared) {
    for change in shared.tap.take_mode_changes() {
        let message = format!("{} to {} ({})", change.from.name(), change.to.name(), change.cause);
        let kind = EventKind::ModeChanged { from: change.from, to: change.to, cause: change.cause };
        shared.event(kind, message);
    }
}

/// Half of `pause` to all of it: the volumes that lost a vault together do not all come back at once.
fn jittered(shared: &Shared, pause: Duration) -> Duration {
    let mut random = [0];
    shared.clock.fill_random(&mut random);
    pause.mul_f64(0.5 + f64::from(random[0]) / 510.0)
}

/// Sleeps in short pieces, so that an end is noticed.
fn sleep(shared: &Shared, pause: Duration) {
    let start = shared.clock.elapsed();
    while !shared.has_ended() && shared.clock.elapsed().saturating_sub(start) < pause {
        std::thread::sleep(TICK.min(pause));
    }
}
