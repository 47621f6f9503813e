//! The clock of an attachment: makes points when they are due, and on demand.
//!
//! Invariant: one cut at a time. Behaviour on failure: a point that was due and not made is an event
//! of each disk, and the next is due an interval later.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use hrl::journal::PointKind;
use hrl::replica::RecoveryPoint;
use hrl::sync::lock::{Condvar, Mutex};
use hrl::{
    Clock, Error, ErrorKind, Event, EventKind, EventSink, Policy, Quiesce, Result, Timestamp,
};
use hrl_quiesce::InOrder;

use crate::cutter::{AttachmentStats, Cutter, Wanted};

/// Pause while the disk is read for the first time, or compared.
const RESYNC_PAUSE: Duration = Duration::from_millis(500);
/// Time in which the last point is tried.
const LAST_CUT: Duration = Duration::from_secs(5);

/// Where the events and statistics of a disk go.
pub(crate) struct Place {
    events: EventSink,
    volume: String,
    /// As of the last cut, so that nobody waits for one under way.
    stats: Mutex<AttachmentStats>,
}

impl Place {
    pub(crate) fn new(events: EventSink, volume: String, stats: AttachmentStats) -> Self {
        Self { events, volume, stats: Mutex::new(stats) }
    }
}

/// What the thread and the callers share.
pub(crate) struct Shared {
    cutter: Mutex<Cutter>,
    places: Vec<Place>,
    applications: Option<InOrder>,
    clock: Arc<dyn Clock>,
    ended: Mutex<bool>,
    ending: Condvar,
    stopping: Arc<AtomicBool>,
}

impl Shared {
    pub(crate) fn new(
        cutter: Cutter,
        places: Vec<Place>,
        applications: Vec<Arc<dyn Quiesce>>,
    ) -> Self {
        let (clock, stopping) = (cutter.clock.clone(), cutter.stopping.clone());
        Self {
            cutter: Mutex::new(cutter),
            places,
            applications: (!applications.is_empty()).then(|| InOrder::new(applications)),
            clock,
            ended: Mutex::new(false),
            ending: Condvar::new(),
            stopping,
        }
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    pub(crate) fn volume(&self, at: usize) -> &str {
        &self.places[at].volume
    }

    pub(crate) fn stats(&self, at: usize) -> AttachmentStats {
        self.places[at].stats.lock().clone()
    }

    /// Makes points by policy until the end.
    fn run(&self, policy: &Policy) {
        let mut crash = Due::new(policy.crash_point_interval, &self.clock);
        let mut app = Due::new(policy.app_point_interval, &self.clock);
        loop {
            let pause = crash.left().min(app.left());
            if self.wait(pause) {
                return;
            }
            let is_app = app.left().is_zero();
            let due = if is_app { &mut app } else { &mut crash };
            if !due.left().is_zero() {
                continue;
            }
            let asked = self.clock.now();
            match self.points("", PointKind::Crash, is_app) {
                Ok(_) => due.done(),
                // The disk is read for the first time, or compared.
                Err(error) if error.kind() == ErrorKind::NotOrdered => {
                    if self.wait(RESYNC_PAUSE) {
                        return;
                    }
                }
                Err(error) => {
                    if *self.ended.lock() {
                        return;
                    }
                    due.done();
                    self.skipped(asked, &error);
                    if matches!(error.kind(), ErrorKind::Fenced | ErrorKind::Diverged) {
                        return;
                    }
                }
            }
        }
    }

    /// Makes a point of each disk.
    pub(crate) fn points(
        &self,
        label: &str,
        kind: PointKind,
        is_app: bool,
    ) -> Result<Vec<RecoveryPoint>> {
        let applications = match (is_app, &self.applications) {
            (false, _) => None,
            (true, Some(applications)) => Some(applications as &dyn Quiesce),
            (true, None) => {
                return Err(Error::new(ErrorKind::InvalidInput, "mark point of", self.volume(0))
                    .expected("applications to quiesce, such as the policy's")
                    .found("none"));
            }
        };
        let kind = if is_app { PointKind::App } else { kind };
        let mut cutter = self.cutter.lock();
        if *self.ended.lock() {
            return Err(Error::new(ErrorKind::Unavailable, "mark point of", self.volume(0))
                .message("the attachment is being stopped"));
        }
        let points = cutter.point(Wanted { label, kind, applications });
        for (place, member) in self.places.iter().zip(&cutter.members) {
            let mut stats = place.stats.lock();
            *stats = AttachmentStats { skipped: stats.skipped, ..member.stats.clone() };
        }
        points
    }

    /// Makes a last point of each disk, unless that was done before.
    pub(crate) fn last_points(&self) {
        let mut cutter = self.cutter.lock();
        if !cutter.stopping.swap(false, Ordering::Relaxed) {
            return;
        }
        cutter.limits.cut = cutter.limits.cut.min(LAST_CUT);
        cutter.limits.freeze = Duration::ZERO;
        // The next session goes on from the marks all the same.
        let _ = cutter.point(Wanted { label: "", kind: PointKind::Crash, applications: None });
    }

    fn skipped(&self, asked: Timestamp, error: &Error) {
        for place in &self.places {
            place.stats.lock().skipped += 1;
            let message = format!("no point for {asked}: {error}");
            let (time, volume) = (self.clock.now(), place.volume.clone());
            (place.events)(&Event { time, volume, kind: EventKind::PointSkipped, message });
        }
    }

    /// Waits. Returns whether the end has come.
    fn wait(&self, pause: Duration) -> bool {
        let ended = self.ended.lock();
        if *ended {
            return true;
        }
        let (ended, _) = self.ending.wait_timeout_while(ended, pause, |ended| !*ended);
        *ended
    }
}

/// The thread that makes points by policy.
pub(crate) struct Clockwork {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Clockwork {
    pub(crate) fn start(shared: Shared, policy: &Policy) -> Result<Self> {
        let shared = Arc::new(shared);
        let (of_thread, policy) = (shared.clone(), policy.clone());
        let thread = std::thread::Builder::new()
            .name("hrl-cut".to_owned())
            .spawn(move || of_thread.run(&policy))
            .map_err(|error| Error::io("start", "thread", error))?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Ends the thread, and gives up a cut under way. Does nothing if it has ended.
    pub(crate) fn end(&self) {
        let Some(thread) = self.thread.lock().take() else { return };
        *self.shared.ended.lock() = true;
        self.shared.stopping.store(true, Ordering::Relaxed);
        self.shared.ending.notify_all();
        // A thread that panicked made no wrong point, and std printed why.
        let _ = thread.join();
    }
}

/// When a point is due.
struct Due {
    interval: Duration,
    clock: Arc<dyn Clock>,
    next: Duration,
}

impl Due {
    fn new(interval: Duration, clock: &Arc<dyn Clock>) -> Self {
        Self { interval, clock: clock.clone(), next: clock.elapsed() }
    }

    fn left(&self) -> Duration {
        if self.interval.is_zero() {
            return Duration::from_secs(3600);
        }
        self.next.saturating_sub(self.clock.elapsed())
    }

    fn done(&mut self) {
        self.next = (self.next + self.interval).max(self.clock.elapsed());
    }
}
