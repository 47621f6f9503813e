//! The keeper task, which sets regions dirty for writers, and the timer task: points by policy,
//! cleaning the dirty map, events, and the hand-over of the volume.
//!
//! Invariant: a region becomes clean only up to a sequence that is durable in the journal, after a
//! flush of the disk.
//!
//! Behaviour on failure: without a dirty map the session goes on, and the next one reads the whole
//! disk.

use std::task::Waker;
use std::time::Duration;

use super::failures::CLEANING;
use super::hand_over::HandOver;
use super::next::Next;
use super::points::PlacedMark;
use super::shared::Shared;
use super::task::Task;
use crate::capture::{ModeChange, set_wanted_dirty};
use crate::error::Result;
use crate::event::{Cause, EventKind};
use crate::journal::PointKind;
use crate::units::Sequence;

const TICK: Duration = Duration::from_millis(50);
/// Regions without a write for this long, or up to twice as long, are cleaned. Each time flushes
/// the disk.
const IDLE: Duration = Duration::from_secs(1);
/// The flush slows writers down. So it must clean at least one in this many dirty regions...
const FREES_ONE_IN: u64 = 4;
/// ...unless the last one was this long ago.
const IDLE_MAX: Duration = Duration::from_secs(10);
const WAIT: Duration = Duration::from_millis(100);

/// Sets the regions dirty that writers wait for.
pub(super) struct Keeper;

impl Task for Keeper {
    fn name(&self) -> &'static str {
        "keeper"
    }

    fn step(&mut self, shared: &Shared, _waker: &Waker) -> Next {
        if shared.requests.has_ended() {
            return Next::Ended;
        }
        // Without a dirty map the next session reads the whole disk, so nothing is lost.
        let give_up = || drop(shared.state.forget_dirty_map());
        match set_wanted_dirty(&shared.tap, &shared.dirty, give_up) {
            Ok(true) => Next::Now,
            Ok(false) => Next::Work(WAIT),
            Err(error) => {
                shared.event(EventKind::TaskFailed, format!("the dirty map is lost: {error}"));
                Next::Now
            }
        }
    }

    fn wait_for_work(&self, shared: &Shared, limit: Duration) {
        shared.tap.wait_to_set_dirty(limit);
    }
}

/// Takes points by policy, cleans the dirty map, and reports mode and RPO.
pub(super) struct Timer {
    last_point: Duration,
    looked: Duration,
    last_clean: Duration,
    idle_since: Sequence,
    rpo_exceeded: bool,
    /// The last point that was due was skipped, and that was reported.
    skipped: bool,
    /// A point that is not durable yet.
    point: Option<PlacedMark>,
    hand_over: HandOver,
}

impl Timer {
    pub(super) fn new(shared: &Shared) -> Self {
        let now = shared.clock.elapsed();
        Self {
            last_point: now,
            looked: now,
            last_clean: now,
            idle_since: shared.tap.stats().last_sequence,
            rpo_exceeded: false,
            skipped: false,
            point: None,
            hand_over: HandOver::default(),
        }
    }

    fn report_rpo(&mut self, shared: &Shared) {
        let (rpo, threshold) = (shared.stats().rpo, shared.policy.rpo_threshold);
        if !threshold.is_zero() && (rpo > threshold) != self.rpo_exceeded {
            self.rpo_exceeded = !self.rpo_exceeded;
            let kind = if self.rpo_exceeded { EventKind::RpoExceeded } else { EventKind::RpoMet };
            shared.event(kind, format!("the RPO is {rpo:?}, its threshold {threshold:?}"));
        }
    }

    fn mark(&mut self, shared: &Shared, now: Duration) {
        if let Some(placed) = &self.point {
            let Some(result) = shared.outcome(placed) else { return };
            self.point = None;
            self.report_skipped(shared, result.map(drop));
        }
        let interval = shared.policy.crash_point_interval;
        if interval.is_zero()
            || now.saturating_sub(self.last_point) < interval
            || shared.requests.is_stopping()
            || shared.session.handed_over().is_some()
            || shared.tap.is_observed()
        {
            return;
        }
        self.last_point = now;
        match shared.place_mark(PointKind::Crash, "", |mark| shared.tap.mark(mark)) {
            Ok(placed) => self.point = Some(placed),
            Err(error) => self.report_skipped(shared, Err(error)),
        }
    }

    fn report_skipped(&mut self, shared: &Shared, result: Result<()>) {
        if let Err(error) = &result
            && !self.skipped
        {
            shared.event(EventKind::PointSkipped, error.to_string());
        }
        self.skipped = result.is_err();
    }

    fn clean(&mut self, shared: &Shared, now: Duration) {
        let tap = shared.tap.stats();
        let captured = tap.marked_regions.saturating_sub(tap.resync_regions);
        if captured > shared.policy.marked_regions_max {
            self.last_clean = now;
            clean(shared, shared.tap.half_way());
        } else if now.saturating_sub(self.looked) >= IDLE {
            self.looked = now;
            let idle = std::mem::replace(&mut self.idle_since, tap.last_sequence);
            let freed = shared.tap.changed_through(idle.min(shared.journal.now().durable));
            let overdue = now.saturating_sub(self.last_clean) >= IDLE_MAX;
            if freed > 0 && (overdue || freed * FREES_ONE_IN >= captured) {
                self.last_clean = now;
                clean(shared, idle);
            }
        }
    }
}

impl Task for Timer {
    fn name(&self) -> &'static str {
        "timer"
    }

    fn step(&mut self, shared: &Shared, _waker: &Waker) -> Next {
        if shared.requests.has_ended() {
            // Events of the end.
            report_mode_changes(shared);
            let _ = self.point.take().and_then(|placed| shared.outcome(&placed));
            return Next::Ended;
        }
        report_mode_changes(shared);
        self.hand_over.follow(shared);
        let now = shared.clock.elapsed();
        self.report_rpo(shared);
        self.mark(shared, now);
        self.clean(shared, now);
        Next::Later(TICK)
    }
}

/// Cleans regions last written at or before `through`, as far as the journal is durable.
fn clean(shared: &Shared, through: Sequence) {
    let journaled = shared.journal.now().durable;
    let through = through.min(journaled);
    if through == Sequence::ZERO || shared.tap.stats().marked_regions == 0 {
        return;
    }
    let cleaned = shared.anchor.promise(through).and_then(|()| {
        crate::capture::clean(&shared.tap, &shared.dirty, &**shared.volume.device(), through)
    });
    match cleaned {
        Ok(()) => shared.works_again(&CLEANING),
        Err(error) => shared.failed(&CLEANING, &error),
    }
}

fn report_mode_changes(shared: &Shared) {
    let is_news = |change: &ModeChange| change.cause != Cause::Observed;
    for ModeChange { from, to, cause } in shared.tap.take_mode_changes().into_iter().filter(is_news)
    {
        let message = format!("{} to {} ({cause})", from.name(), to.name());
        shared.event(EventKind::ModeChanged { from, to, cause }, message);
    }
}
