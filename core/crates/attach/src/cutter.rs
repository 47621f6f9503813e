//! Makes the points of an attachment: journals what changed, and ends each interval by a clean cut.
//!
//! Invariants: a point is placed only after a clean cut whose audit passed, and only if no resync has
//! read the disk since the cut began. Marks that were taken are forgotten once a point behind them is
//! durable, so whoever opens the pinned marks again misses nothing.
//!
//! Behaviour on failure: without a point the interval stays open, and the next cut goes on with it.
//! After a failed audit the whole disk is compared with the replica. Applications and file systems
//! are released whatever happens.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hrl::device::BlockDevice;
use hrl::journal::PointKind;
use hrl::replica::RecoveryPoint;
use hrl::{
    Cause, Clock, Error, ErrorKind, Extent, Observation, Quiesce, QuiesceRequest, Result, Timestamp,
};
use hrl_quiesce::Applications;

use crate::cut::{Attempt, Cut, CutOptions, Follower};
use crate::place;
use crate::stopwatch::Stopwatch;
use crate::tracker::Tracker;

/// Wait for the protection to let the observer go on.
const READY_WAIT: Duration = Duration::from_secs(2);
/// Wait for a journal that has no room.
const ROOM_WAIT: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(5);

/// What bounds a cut.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// Time from the first try to the last without a freeze.
    pub cut: Duration,
    /// Longest freeze, if no cut was clean until then. Zero: none.
    pub freeze: Duration,
    /// Longest time for which applications are quiesced.
    pub quiesce: Duration,
    pub options: CutOptions,
}

/// What cuts have taken.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AttachmentStats {
    /// Time of the last point of this session: later changes are not in the replica.
    pub last_point: Option<Timestamp>,
    /// How long the last cut took, from its begin until its point was durable.
    pub last_took: Duration,
    /// Cuts that were tried for the last point.
    pub last_tries: u32,
    /// Bytes that were copied for the last point.
    pub last_bytes_copied: u64,
    /// Bytes that were copied after the flip of the last point.
    pub last_bytes_in_cut: u64,
    /// Bytes copied for each byte of the blocks that had changed, in this session. At least 1.
    pub read_amplification: f64,
    /// Bytes that were copied in this session, without those of a compared disk.
    pub bytes_copied: u64,
    /// Memory of the maps of changed blocks, which is never swapped.
    pub map_bytes: u64,
    /// Points of this session.
    pub points: u64,
    /// Points that were due and could not be made.
    pub skipped: u64,
    /// Audits that failed: the whole disk was compared after each.
    pub audits_failed: u64,
    /// Points for which file systems were frozen, because no cut was clean without that.
    pub freezes: u64,
    /// The programs and their maps outlive this process.
    pub pinned: bool,
}

/// Makes points. Used by one thread at a time.
pub(crate) struct Cutter {
    pub tracker: Tracker,
    pub device: Arc<dyn BlockDevice>,
    pub observation: Observation,
    pub limits: Limits,
    pub clock: Arc<dyn Clock>,
    /// What the journal may lack beside what is marked.
    pub pending: Vec<Extent>,
    pub stats: AttachmentStats,
    /// A cut under way is given up.
    pub stopping: Arc<AtomicBool>,
    /// Name of the volume, and what the agent writes to.
    pub volume: String,
    pub written: Vec<std::path::PathBuf>,
    /// Bytes of the blocks that had changed, each once a cut.
    pub bytes_changed: u64,
}

/// A point that is asked for.
#[derive(Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub label: &'a str,
    pub kind: PointKind,
    pub applications: Option<&'a dyn Quiesce>,
}

/// Applications that are released at the end, whatever happens.
struct Quiesced<'a>(Option<&'a dyn Quiesce>);

impl Quiesced<'_> {
    fn release(&mut self) -> Result<()> {
        self.0.take().map_or(Ok(()), Quiesce::release)
    }
}

impl Drop for Quiesced<'_> {
    fn drop(&mut self) {
        // There is no point that the failure could spoil.
        let _ = self.release();
    }
}

impl Cutter {
    /// Makes a point. `NotOrdered` while the first copy or another resync is under way,
    /// `Unavailable` if no cut is clean in time or an audit failed.
    pub(crate) fn point(&mut self, wanted: Wanted<'_>) -> Result<RecoveryPoint> {
        let began = Stopwatch::start(&self.clock);
        let mut cut = Cut::default();
        let mut changed = Vec::new();
        let point = self.cut(wanted, &mut cut, &mut changed);
        self.stats.bytes_copied += cut.bytes_copied;
        crate::cut::join(&mut changed);
        self.bytes_changed += changed.iter().map(|extent| extent.length).sum::<u64>();
        let ratio = self.stats.bytes_copied as f64 / self.bytes_changed.max(1) as f64;
        self.stats.read_amplification = ratio.max(1.0);
        if let Ok(point) = &point {
            self.stats.points += 1;
            self.stats.last_point = Some(point.time);
            self.stats.last_took = began.elapsed();
            self.stats.last_tries = cut.tries;
            self.stats.last_bytes_copied = cut.bytes_copied;
            self.stats.last_bytes_in_cut = cut.bytes_in_cut;
        }
        point
    }

    fn cut(
        &mut self,
        wanted: Wanted<'_>,
        cut: &mut Cut,
        changed: &mut Vec<Extent>,
    ) -> Result<RecoveryPoint> {
        self.observation.begin(self.stats.last_point);
        if let Some(applications) = wanted.applications {
            self.copy_ahead(cut, changed)?;
            let limit = self.limits.quiesce;
            return self
                .quiesced(wanted, applications, limit, true, cut, changed)?
                .ok_or_else(|| self.no_cut(cut, "applications quiesced"));
        }
        // Copying ahead may take long before the first try.
        let mut tried = None;
        loop {
            if let Some(point) = self.try_once(wanted, &mut || Ok(()), cut, changed)? {
                return Ok(point);
            }
            let since = tried.get_or_insert_with(|| Stopwatch::start(&self.clock));
            if since.elapsed() >= self.limits.cut {
                break;
            }
            std::thread::sleep(self.limits.options.pause);
        }
        let mounted = place::mounted(self.tracker.disk());
        if self.limits.freeze.is_zero() || mounted.is_empty() {
            return Err(self.no_cut(cut, "file systems to freeze: none"));
        }
        let frozen = Applications::parse(mounted.iter().map(|at| format!("fs:{}", at.display())))?;
        self.stats.freezes += 1;
        self.quiesced(wanted, &frozen, self.limits.freeze, false, cut, changed)?
            .ok_or_else(|| self.no_cut(cut, "file systems frozen"))
    }

    /// Tries with applications quiesced. They must be quiesced at the cut if it `needs` them.
    fn quiesced(
        &mut self,
        wanted: Wanted<'_>,
        applications: &dyn Quiesce,
        limit: Duration,
        needs: bool,
        cut: &mut Cut,
        changed: &mut Vec<Extent>,
    ) -> Result<Option<RecoveryPoint>> {
        let mut request = QuiesceRequest::new(&self.volume, limit);
        wanted.label.clone_into(&mut request.label);
        request.written.clone_from(&self.written);
        let began = Stopwatch::start(&self.clock);
        let mut quiesced = Quiesced(Some(applications));
        applications.quiesce(&request)?;
        let mut release = || {
            let held = applications.still_quiesced();
            let released = quiesced.release();
            if needs { held.and(released) } else { Ok(()) }
        };
        loop {
            if let Some(point) = self.try_once(wanted, &mut release, cut, changed)? {
                return Ok(Some(point));
            }
            if began.elapsed() >= limit {
                return Ok(None);
            }
        }
    }

    /// Copies most of what changed, so that applications need not wait for it.
    fn copy_ahead(&mut self, cut: &mut Cut, changed: &mut Vec<Extent>) -> Result<()> {
        let readings = self.wait_ready()?;
        let now = Cell::new(self.clock.now());
        let result = self.follow(readings, &now, cut, changed, |_, _, _| Ok(()));
        result.or_else(
            |error| if error.kind() == ErrorKind::NotOrdered { Ok(()) } else { Err(error) },
        )
    }

    /// Tries a cut. Calls `at_cut` once it is clean. Returns `None` if it was not.
    fn try_once(
        &mut self,
        wanted: Wanted<'_>,
        at_cut: &mut dyn FnMut() -> Result<()>,
        cut: &mut Cut,
        changed: &mut Vec<Extent>,
    ) -> Result<Option<RecoveryPoint>> {
        let readings = self.wait_ready()?;
        let time = Cell::new(self.clock.now());
        let clock = self.clock.clone();
        let tried = self.follow(readings, &time, cut, changed, |follower, receive, cut| {
            // Before the flip: what is completed at this time is in the cut.
            time.set(clock.now());
            follower.attempt(receive, cut)
        });
        let attempt = match tried {
            // The journal lost something, or the vault went back.
            Err(error) if error.kind() == ErrorKind::NotOrdered => return Ok(None),
            tried => tried?,
        };
        match attempt {
            Attempt::Clean => at_cut()?,
            Attempt::Rewritten | Attempt::Unproven => return Ok(None),
            Attempt::Missed(base) => {
                self.stats.audits_failed += 1;
                // Until the comparison has begun durably, the next audit fails, too.
                self.observation.compare(Cause::Untracked)?;
                self.tracker.accept(&base);
                return Err(Error::new(ErrorKind::Unavailable, "take point of", &self.volume)
                    .message("the audit failed: the kernel has completed changes that the programs did not see; the whole disk is compared with the replica"));
            }
        }
        match self.observation.end(readings, wanted.kind, wanted.label, time.get()) {
            Err(error) if error.kind() == ErrorKind::NotOrdered => Ok(None),
            point => {
                let point = point?;
                self.tracker.forget();
                Ok(Some(point))
            }
        }
    }

    /// Copies most of what changed, and goes on with `then`.
    fn follow<T>(
        &mut self,
        readings: u64,
        time: &Cell<Timestamp>,
        cut: &mut Cut,
        changed: &mut Vec<Extent>,
        then: impl FnOnce(&mut Follower<'_>, &mut crate::Receiver<'_>, &mut Cut) -> Result<T>,
    ) -> Result<T> {
        let (observation, stopping, volume) = (&self.observation, &self.stopping, &self.volume);
        let clock = &self.clock;
        let mut receive = |extent: Extent, data: &[u8]| {
            wait_for_room(observation, clock, stopping, volume)?;
            changed.push(extent);
            observation.journal(readings, extent.offset, data, time.get())
        };
        let pending = std::mem::take(&mut self.pending);
        let mut follower = Follower::resume(&self.tracker, &*self.device, pending);
        let result = follower
            .copy_most(&self.limits.options, &mut receive, cut)
            .and_then(|()| then(&mut follower, &mut receive, cut));
        self.pending = follower.into_pending();
        result
    }

    /// Waits until no resync has a region to read.
    fn wait_ready(&self) -> Result<u64> {
        let began = Stopwatch::start(&self.clock);
        loop {
            if let Some(readings) = self.observation.readings() {
                return Ok(readings);
            }
            if began.elapsed() >= READY_WAIT || self.stopping.load(Ordering::Relaxed) {
                return Err(Error::new(ErrorKind::NotOrdered, "take point of", &self.volume)
                    .message("the first copy or a resync of the disk is under way"));
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn no_cut(&self, cut: &Cut, with: &str) -> Error {
        Error::new(ErrorKind::Unavailable, "take point of", &self.volume)
            .expected("a cut in which no copied block is rewritten")
            .found(format_args!(
                "blocks that are rewritten all the time, in {} tries ({with})",
                cut.tries
            ))
    }
}

fn wait_for_room(
    observation: &Observation,
    clock: &Arc<dyn Clock>,
    stopping: &AtomicBool,
    volume: &str,
) -> Result<()> {
    let began = Stopwatch::start(clock);
    while !observation.has_room() {
        if began.elapsed() >= ROOM_WAIT || stopping.load(Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::Unavailable, "journal changes of", volume)
                .message("the journal has no room: the spool is full, or its disk fails"));
        }
        std::thread::sleep(PAUSE);
    }
    if stopping.load(Ordering::Relaxed) {
        let error = Error::new(ErrorKind::Unavailable, "journal changes of", volume);
        return Err(error.message("the attachment is being stopped"));
    }
    Ok(())
}
