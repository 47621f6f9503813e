//! The tasks that come round: marking regions for writers, and what happens by the clock (points, cleaning the dirty map,
//! events, handing over).

use std::task::Waker;
use std::time::Duration;

use super::hand_over::HandOver;
use super::task::{Next, Task};
use super::{PlacedMark, Shared};
use crate::capture::set_wanted_dirty;
use crate::error::Result;
use crate::event::EventKind;
use crate::journal::PointKind;
use crate::units::Sequence;

const TICK: Duration = Duration::from_millis(50);
/// Regions that nobody wrote to for this long, or up to twice as long, are cleaned: one flush of the disk each time.
const IDLE: Duration = Duration::from_secs(1);
/// Writers feel the flush. So it has to free one in this many of the marked regions, or the last one was so long ago.
const FREES_ONE_IN: u64 = 4;
const IDLE_MAX: Duration = Duration::from_secs(10);
const WAIT: Duration = Duration::from_millis(100);

/// Marks the regions that writers wait for.
pub(super) struct Keeper;

impl Task for Keeper {
    fn name(&self) -> &'static str {
        "keeper"
    }

    fn step(&mut self, shared: &Shared, _waker: &Waker) -> Next {
        if shared.has_ended() {
            return Next::Ended;
        }
        // Without its map the next session reads the whole disk, so nothing is lost.
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

/// Points by policy, cleaning, and events of mode and RPO.
pub(super) struct Timer {
    last_point: Duration,
    looked: Duration,
    last_clean: Duration,
    idle_since: Sequence,
    rpo_exceeded: bool,
    /// The last point that was due was skipped, which has been told.
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

    fn tell_rpo(&mut self, shared: &Shared) {
        let (rpo, threshold) = (shared.stats().rpo, shared.policy.rpo_threshold);
        if !threshold.is_zero() && (rpo > threshold) != self.rpo_exceeded {
            self.rpo_exceeded = !self.rpo_exceeded;
            let kind = if self.rpo_exceeded { EventKind::RpoExceeded } else { EventKind::RpoMet };
            shared.event(kind, format!("the RPO is {rpo:?}, its threshold {threshold:?}"));
        }
    }

    fn mark(&mut self, shared: &Shared, now: Duration) {
        if let Some(placed) = &self.point {
            let Some(result) = shared.confirmed(placed) else { return };
            self.point = None;
            self.note_point(shared, result.map(drop));
        }
        let interval = shared.policy.crash_point_interval;
        if interval.is_zero()
            || now.saturating_sub(self.last_point) < interval
            || shared.is_stopping()
            || shared.is_handed_over()
        {
            return;
        }
        self.last_point = now;
        match shared.place_mark(PointKind::Crash, "", |mark| shared.tap.mark(mark)) {
            Ok(placed) => self.point = Some(placed),
            Err(error) => self.note_point(shared, Err(error)),
        }
    }

    fn note_point(&mut self, shared: &Shared, result: Result<()>) {
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
            let freed = shared.tap.changed_through(idle.min(shared.journal().durable));
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
        if shared.has_ended() {
            // What happened at the end is told, too.
            tell_mode_changes(shared);
            let _ = self.point.take().and_then(|placed| shared.confirmed(&placed));
            return Next::Ended;
        }
        tell_mode_changes(shared);
        self.hand_over.follow(shared);
        let now = shared.clock.elapsed();
        self.tell_rpo(shared);
        self.mark(shared, now);
        self.clean(shared, now);
        Next::Later(TICK)
    }
}

/// Cleans regions last written at or before `through`, as far as disk and journal are durable.
fn clean(shared: &Shared, through: Sequence) {
    let journaled = shared.journal().durable;
    let through = through.min(journaled);
    if through == Sequence::ZERO || shared.tap.stats().marked_regions == 0 {
        return;
    }
    if let Err(error) =
        crate::capture::clean(&shared.tap, &shared.dirty, &**shared.volume.device(), through)
    {
        shared.event(EventKind::TaskFailed, format!("the dirty map is not cleaned: {error}"));
    }
}

fn tell_mode_changes(shared: &Shared) {
    for change in shared.tap.take_mode_changes() {
        let message = format!("{} to {} ({})", change.from.name(), change.to.name(), change.cause);
        let kind = EventKind::ModeChanged { from: change.from, to: change.to, cause: change.cause };
        shared.event(kind, message);
    }
}
