//! Makes the points of an attachment: journals what changed, and ends each interval by a clean cut.
//!
//! Several disks are one cut: one store begins the epoch of all of them. So whoever waits for a write
//! on one disk before he writes to another finds the first wherever he finds the second.
//!
//! Invariants: a point is placed only after a cut that was clean on each disk and whose audits passed,
//! and only if no resync has read a disk since the cut began. Marks that were taken are forgotten once
//! a point behind them is durable, so whoever opens the pinned marks again misses nothing. What a flip
//! leaves is taken at once, on each disk, before anything can fail.
//!
//! Behaviour on failure: without a point the interval stays open, and the next cut goes on with it.
//! After a failed audit the whole disk is compared with the replica. Applications and file systems
//! are released whatever happens.

use std::cell::Cell;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hrl::device::BlockDevice;
use hrl::journal::PointKind;
use hrl::replica::RecoveryPoint;
use hrl::{
    Cause, Clock, Error, ErrorKind, Extent, Observation, PointId, Quiesce, QuiesceRequest, Result,
    Timestamp,
};
use hrl_quiesce::Applications;

use crate::cut::{Attempt, Cut, CutOptions, Follower};
use crate::place;
use crate::stopwatch::Stopwatch;
use crate::tracker::{Base, Tracker};

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

/// A disk, and what the cuts know of it.
pub(crate) struct Member {
    pub tracker: Tracker,
    pub device: Arc<dyn BlockDevice>,
    pub observation: Observation,
    /// What the journal may lack beside what is marked.
    pub pending: Vec<Extent>,
    pub stats: AttachmentStats,
    /// Name of the volume, and what the agent writes to.
    pub volume: String,
    pub written: Vec<PathBuf>,
    /// Bytes of the blocks that had changed, each once a cut.
    pub bytes_changed: u64,
    /// The cut under way.
    pub cut: Cut,
    pub changed: Vec<Extent>,
}

/// Makes points. Used by one thread at a time.
pub(crate) struct Cutter {
    /// The disks of each cut, at least one.
    pub members: Vec<Member>,
    /// Name of the group of the disks, if they are several.
    pub group: Option<String>,
    pub limits: Limits,
    pub clock: Arc<dyn Clock>,
    /// A cut under way is given up.
    pub stopping: Arc<AtomicBool>,
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
    /// Makes a point of each disk, all of one cut. `NotOrdered` while the first copy or another resync
    /// is under way, `Unavailable` if no cut is clean in time or an audit failed.
    pub(crate) fn point(&mut self, wanted: Wanted<'_>) -> Result<Vec<RecoveryPoint>> {
        let began = Stopwatch::start(&self.clock);
        for member in &mut self.members {
            member.cut = Cut::default();
            member.changed.clear();
        }
        let points = self.cut(wanted);
        self.members.iter_mut().for_each(Member::count);
        if points.is_ok() {
            self.members.iter_mut().for_each(|member| member.count_point(began.elapsed()));
        }
        points
    }

    fn cut(&mut self, wanted: Wanted<'_>) -> Result<Vec<RecoveryPoint>> {
        self.begin_intervals();
        if let Some(applications) = wanted.applications {
            self.copy_ahead()?;
            let limit = self.limits.quiesce;
            return self
                .quiesced(wanted, applications, limit, true)?
                .ok_or_else(|| self.no_cut("applications quiesced"));
        }
        // Copying ahead may take long before the first try.
        let mut tried = None;
        loop {
            if let Some(points) = self.try_once(wanted, &mut || Ok(()))? {
                return Ok(points);
            }
            let since = tried.get_or_insert_with(|| Stopwatch::start(&self.clock));
            if since.elapsed() >= self.limits.cut {
                break;
            }
            std::thread::sleep(self.limits.options.pause);
        }
        let mut mounted: Vec<PathBuf> =
            self.members.iter().flat_map(|member| place::mounted(member.tracker.disk())).collect();
        mounted.sort_unstable();
        mounted.dedup();
        if self.limits.freeze.is_zero() || mounted.is_empty() {
            return Err(self.no_cut("file systems to freeze: none"));
        }
        let frozen = Applications::parse(mounted.iter().map(|at| format!("fs:{}", at.display())))?;
        let points = self.quiesced(wanted, &frozen, self.limits.freeze, false)?;
        self.members.iter_mut().for_each(|member| member.stats.freezes += 1);
        points.ok_or_else(|| self.no_cut("file systems frozen"))
    }

    /// Tries with applications quiesced. They must be quiesced at the cut if it `needs` them.
    fn quiesced(
        &mut self,
        wanted: Wanted<'_>,
        applications: &dyn Quiesce,
        limit: Duration,
        needs: bool,
    ) -> Result<Option<Vec<RecoveryPoint>>> {
        let mut request = QuiesceRequest::new(&self.volumes(), limit);
        wanted.label.clone_into(&mut request.label);
        request.written = self.members.iter().flat_map(|member| member.written.clone()).collect();
        let began = Stopwatch::start(&self.clock);
        let mut quiesced = Quiesced(Some(applications));
        applications.quiesce(&request)?;
        let mut release = || {
            let held = applications.still_quiesced();
            let released = quiesced.release();
            if needs { held.and(released) } else { Ok(()) }
        };
        loop {
            if let Some(points) = self.try_once(wanted, &mut release)? {
                return Ok(Some(points));
            }
            if began.elapsed() >= limit {
                return Ok(None);
            }
        }
    }

    /// Copies most of what changed, so that applications need not wait for it.
    fn copy_ahead(&mut self) -> Result<()> {
        let readings = self.wait_ready()?;
        let now = Cell::new(self.clock.now());
        match self.copy_most(&readings, &now) {
            Err(error) if error.kind() == ErrorKind::NotOrdered => Ok(()),
            copied => copied,
        }
    }

    fn copy_most(&mut self, readings: &[u64], time: &Cell<Timestamp>) -> Result<()> {
        let (options, waits) = (self.limits.options.clone(), self.waits());
        // While one disk is copied, the others change.
        for _ in 0..self.members.len().min(2) {
            for (member, readings) in self.members.iter_mut().zip(readings) {
                member.follow(*readings, time, &waits, |follower, receive, cut| {
                    follower.copy_most(&options, receive, cut)
                })?;
            }
        }
        Ok(())
    }

    /// Tries a cut. Calls `at_cut` once it is clean. Returns `None` if it was not.
    fn try_once(
        &mut self,
        wanted: Wanted<'_>,
        at_cut: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Option<Vec<RecoveryPoint>>> {
        self.check_places()?;
        self.begin_intervals();
        let readings = self.wait_ready()?;
        let time = Cell::new(self.clock.now());
        match self.attempt(&readings, &time) {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            // The journal lost something, or the vault went back.
            Err(error) if error.kind() == ErrorKind::NotOrdered => return Ok(None),
            Err(error) => return Err(error),
        }
        at_cut()?;
        let points = self.end_intervals(wanted, &readings, time.get());
        points.or_else(
            |error| if error.kind() == ErrorKind::NotOrdered { Ok(None) } else { Err(error) },
        )
    }

    /// Copies, flips and copies the rest. Returns whether the cut is clean on each disk.
    fn attempt(&mut self, readings: &[u64], time: &Cell<Timestamp>) -> Result<bool> {
        self.copy_most(readings, time)?;
        // Before the flip: what is completed at this time is in the cut.
        time.set(self.clock.now());
        let trackers: Vec<&Tracker> = self.members.iter().map(|member| &member.tracker).collect();
        Tracker::begin_epoch_of(&trackers)?;
        self.members.iter_mut().for_each(Member::take_left);
        let waits = self.waits();
        for (member, readings) in self.members.iter_mut().zip(readings) {
            let copied = member.follow(*readings, time, &waits, |follower, receive, cut| {
                follower.copy_left(receive, cut)
            });
            if !copied? {
                return Ok(false);
            }
        }
        let mut is_clean = true;
        for (member, readings) in self.members.iter_mut().zip(readings) {
            match member.follow(*readings, time, &waits, |follower, _, _| follower.judge())? {
                Attempt::Clean => {}
                Attempt::Rewritten | Attempt::Unproven => is_clean = false,
                Attempt::Missed(base) => {
                    member.compare(&base)?;
                    return Err(Error::new(ErrorKind::Unavailable, "take point of", &member.volume)
                        .message("the audit failed: the kernel has completed changes that the programs did not see; the whole disk is compared with the replica"));
                }
            }
        }
        Ok(is_clean)
    }

    /// Refuses a disk that was resized or moved meanwhile, before it is compared for nothing.
    fn check_places(&self) -> Result<()> {
        let moved = self.members.iter().find(|member| !member.tracker.disk().is_as_it_was());
        moved.map_or(Ok(()), |member| {
            Err(Error::new(ErrorKind::Changed, "take point of", &member.volume)
                .message("the disk was resized, or its partition moved: attach it again, as a new volume")
                .expected(format_args!("{} bytes", member.tracker.disk_bytes())))
        })
    }

    fn begin_intervals(&self) {
        for member in &self.members {
            member.observation.begin(member.stats.last_point);
        }
    }

    /// Ends the interval of each disk by its point. If that fails on one, the others have points of
    /// their own, which are true, but of no group.
    fn end_intervals(
        &mut self,
        wanted: Wanted<'_>,
        readings: &[u64],
        time: Timestamp,
    ) -> Result<Option<Vec<RecoveryPoint>>> {
        let group = self.group.as_ref().map(|_| {
            let mut bytes = [0; 16];
            self.clock.fill_random(&mut bytes);
            PointId(bytes)
        });
        let kind = match wanted.kind {
            kind if group.is_none() => kind,
            PointKind::App => PointKind::GroupApp,
            _ => PointKind::GroupCrash,
        };
        let mut points = Vec::new();
        for (member, readings) in self.members.iter_mut().zip(readings) {
            let point = member.observation.end(*readings, kind, wanted.label, time, group)?;
            member.tracker.forget();
            member.stats.last_point = Some(point.time);
            points.push(point);
        }
        let Some(name) = &self.group else { return Ok(Some(points)) };
        let count = u16::try_from(points.len()).unwrap_or(u16::MAX);
        let mut committed = Ok(());
        let mut is_any = false;
        for (member, point) in self.members.iter().zip(&points) {
            match member.observation.commit(point, name, count) {
                Ok(()) => is_any = true,
                failed => committed = failed,
            }
        }
        if is_any { Ok(Some(points)) } else { committed.map(|()| None) }
    }

    /// Waits until no resync has a region to read.
    fn wait_ready(&self) -> Result<Vec<u64>> {
        let began = Stopwatch::start(&self.clock);
        loop {
            let readings = self.members.iter().map(|member| member.observation.readings());
            if let Some(readings) = readings.collect() {
                return Ok(readings);
            }
            if began.elapsed() >= READY_WAIT || self.stopping.load(Ordering::Relaxed) {
                return Err(Error::new(ErrorKind::NotOrdered, "take point of", self.volumes())
                    .message("the first copy or a resync of the disk is under way"));
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn waits(&self) -> Waits {
        Waits { clock: self.clock.clone(), stopping: self.stopping.clone() }
    }

    fn volumes(&self) -> String {
        let names: Vec<&str> = self.members.iter().map(|member| &*member.volume).collect();
        names.join(", ")
    }

    fn no_cut(&self, with: &str) -> Error {
        let tries = self.members.first().map_or(0, |member| member.cut.tries);
        Error::new(ErrorKind::Unavailable, "take point of", self.volumes())
            .expected("a cut in which no copied block is rewritten")
            .found(format_args!(
                "blocks that are rewritten all the time, in {tries} tries ({with})"
            ))
    }
}

impl Member {
    /// Goes on with the copy by `step`.
    fn follow<T>(
        &mut self,
        readings: u64,
        time: &Cell<Timestamp>,
        waits: &Waits,
        step: impl FnOnce(&mut Follower<'_>, &mut crate::Receiver<'_>, &mut Cut) -> Result<T>,
    ) -> Result<T> {
        let (observation, volume, changed) = (&self.observation, &self.volume, &mut self.changed);
        let mut receive = |extent: Extent, data: &[u8]| {
            waits.for_room(observation, volume)?;
            changed.push(extent);
            observation.journal(readings, extent.offset, data, time.get())
        };
        let pending = std::mem::take(&mut self.pending);
        let mut follower = Follower::resume(&self.tracker, &*self.device, pending);
        let result = step(&mut follower, &mut receive, &mut self.cut);
        self.pending = follower.into_pending();
        result
    }

    fn take_left(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        let mut follower = Follower::resume(&self.tracker, &*self.device, pending);
        follower.take_left(&mut self.cut);
        self.pending = follower.into_pending();
    }

    /// Makes the protection compare the whole disk. Until that has begun durably, the next audit
    /// fails, too.
    fn compare(&mut self, base: &Base) -> Result<()> {
        self.stats.audits_failed += 1;
        self.observation.compare(Cause::Untracked)?;
        self.tracker.accept(base);
        Ok(())
    }

    /// Counts what the cut has copied, whether or not it ended in a point.
    fn count(&mut self) {
        self.stats.bytes_copied += self.cut.bytes_copied;
        crate::cut::join(&mut self.changed);
        self.bytes_changed += self.changed.iter().map(|extent| extent.length).sum::<u64>();
        let ratio = self.stats.bytes_copied as f64 / self.bytes_changed.max(1) as f64;
        self.stats.read_amplification = ratio.max(1.0);
    }

    fn count_point(&mut self, took: Duration) {
        self.stats.points += 1;
        self.stats.last_took = took;
        self.stats.last_tries = self.cut.tries;
        self.stats.last_bytes_copied = self.cut.bytes_copied;
        self.stats.last_bytes_in_cut = self.cut.bytes_in_cut;
    }
}

/// What ends the wait for a journal without room.
struct Waits {
    clock: Arc<dyn Clock>,
    stopping: Arc<AtomicBool>,
}

impl Waits {
    fn for_room(&self, observation: &Observation, volume: &str) -> Result<()> {
        let began = Stopwatch::start(&self.clock);
        while !observation.has_room() {
            if began.elapsed() >= ROOM_WAIT || self.stopping.load(Ordering::Relaxed) {
                return Err(Error::new(ErrorKind::Unavailable, "journal changes of", volume)
                    .message("the journal has no room: the spool is full, or its disk fails"));
            }
            std::thread::sleep(PAUSE);
        }
        if self.stopping.load(Ordering::Relaxed) {
            let error = Error::new(ErrorKind::Unavailable, "journal changes of", volume);
            return Err(error.message("the attachment is being stopped"));
        }
        Ok(())
    }
}
