//! Protection: everything that one protected volume needs, running, as one handle.
//!
//! Opening finds out how the last session ended, begins a session in the dirty map and starts the tasks: journal,
//! keeper (dirty map marks), resync, shipping, retention, and a timer for points, cleaning and events. Writes go through
//! [`Protection::volume`].
//!
//! Dropping the handle without [`Protection::stop`] leaves what a crash would leave: the next session reads the
//! marked regions again.

mod applications;
mod crowding;
mod cut;
mod hand_over;
mod journaling;
mod open;
pub(crate) mod provisional;
pub(crate) mod recover;
mod resync;
mod retention;
mod shipper;
mod shipping;
mod spool;
pub(crate) mod state;
#[cfg(any(test, feature = "testing"))]
mod stepped;
pub(crate) mod surrender;
mod task;
mod timer;

pub(crate) use applications::check as check_applications;
pub use cut::VolumeCut;
pub use open::ProtectionOptions;
#[cfg(any(test, feature = "testing"))]
pub use provisional::reprint_failover;
pub(crate) use shipper::{BATCH_MAX, BATCH_TIME, UNNAMED_MAX};
#[cfg(any(test, feature = "testing"))]
pub use state::reprint_state;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
#[cfg(any(test, feature = "testing"))]
pub use stepped::{PlacedPoint, SteppedProtection, SteppedTask};

use self::provisional::Provisional;
use self::shipper::Shipper;
use self::spool::Spool;
use self::task::Task;
use crate::capture::{DirtyMap, RegionRange, Tap, Volume, require_resync};
use crate::clock::{Clock, random_bytes};
use crate::device::BlockDevice;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Cause, Event, EventKind, EventSink, Mode};
use crate::journal::{KeyRing, LABEL_BYTES_MAX, Mark, PointKind};
use crate::point::{Quiesce, QuiesceRequest, Steps, quiesced};
use crate::policy::Policy;
use crate::replica::RecoveryPoint;
use crate::sync;
use crate::sync::lock::{Condvar, Mutex, MutexGuard};
use crate::units::{ChainHash, Epoch, PointId, Sequence, Timestamp};
use crate::vault::{TimelineEntry, Vault, VolumeInfo};

/// How long a mark waits for its segment to be sealed.
const MARK_WAIT: Duration = Duration::from_secs(30);
/// Points whose chain hash is remembered for those who wait for it.
const POINTS_KEPT: usize = 1024;
const POLL: Duration = Duration::from_millis(5);

/// A snapshot of how a protection is doing.
#[derive(Clone, Debug, PartialEq)]
pub struct ProtectionStats {
    /// Mode of capture.
    pub mode: Mode,
    /// Newest sequence captured.
    pub last_sequence: Sequence,
    /// Newest sequence that is durable in the local journal.
    pub journaled_sequence: Sequence,
    /// Newest sequence that is in the vault's catalog.
    pub replicated_sequence: Sequence,
    /// Age of the oldest captured change that is not in the vault; zero when all are.
    pub rpo: Duration,
    /// Changes captured: writes, zeroes, discards.
    pub changes: u64,
    /// Bytes of data captured.
    pub bytes_captured: u64,
    /// Bytes of sealed segments written.
    pub bytes_stored: u64,
    /// Memory of the queue, in bytes.
    pub queue_bytes: u64,
    /// Segments waiting for the vault, in bytes.
    pub spool_bytes: u64,
    /// What is captured and not in the vault, in bytes: queue and spool.
    pub backlog_bytes: u64,
    /// Speed of shipping of late, or the bandwidth allowed now where that is less; zero when nothing has gone yet.
    pub ship_bytes_per_second: u64,
    /// Time until the backlog is in the vault at that speed, if nothing more were written; `None` when the vault does not
    /// answer or the speed is not known.
    pub eta: Option<Duration>,
    /// Regions that a crash now would have to read again.
    pub marked_regions: u64,
    /// Bytes that a resync has still to read.
    pub resync_bytes_left: u64,
    /// Bytes that the resync under way, or the last, has read.
    pub resync_bytes_read: u64,
    /// Points marked in this session.
    pub points: u64,
    /// The vault took the last segment.
    pub vault_available: bool,
    /// Another source has the volume now; nothing is replicated any more.
    pub fenced: bool,
    /// A failover to here is not committed: what is written stays in the spool.
    pub provisional: bool,
    /// A planned failover has the volume: writes are refused.
    pub handed_over: bool,
}

/// One protected volume, running. May be used from any thread.
pub struct Protection {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

impl Protection {
    /// The volume to write to. Nothing else may write to its device.
    pub fn volume(&self) -> &Arc<Volume> {
        &self.shared.volume
    }

    /// What the vault says of the volume.
    pub fn info(&self) -> &VolumeInfo {
        &self.shared.info
    }

    /// Marks a recovery point now, and returns once it is durable in the local journal.
    ///
    /// `NotOrdered` during initial replication, resync or overflow; `InvalidInput` when the label is too long; `Fenced` when
    /// another source has the volume or it was handed over to one.
    pub fn mark(&self, kind: PointKind, label: &str) -> Result<RecoveryPoint> {
        self.shared.mark(kind, label)
    }

    /// Marks an application-consistent point: quiesce, flush, mark, release, in this order. Returns once the point is
    /// durable in the local journal; the application was released long before.
    ///
    /// No point, and the application released, when it cannot be quiesced, when quiesce to mark took more than `limit`
    /// (`Unavailable`), and for the errors of [`Protection::mark`].
    pub fn mark_quiesced(
        &self,
        provider: &dyn Quiesce,
        label: &str,
        limit: Duration,
    ) -> Result<RecoveryPoint> {
        self.shared.mark_quiesced(provider, label, limit)
    }

    /// As [`Protection::mark_quiesced`], with the applications and the limit of the policy or the options.
    ///
    /// `InvalidInput` when they name none.
    pub fn mark_app(&self, label: &str) -> Result<RecoveryPoint> {
        self.shared.mark_app(label)
    }

    /// How it is doing.
    pub fn stats(&self) -> ProtectionStats {
        self.shared.stats()
    }

    /// The history that the vault knows, in stretches.
    pub fn timeline(&self) -> Vec<TimelineEntry> {
        self.shared.shipper.catalog().timeline()
    }

    /// Waits until the volume is `Ordered` and everything captured before the call is in the vault; returns the newest
    /// sequence there. `Unavailable` at the limit.
    pub fn wait_replicated(&self, limit: Duration) -> Result<Sequence> {
        self.wait_ordered(limit)?;
        let target = self.shared.tap.stats().last_sequence.0;
        self.wait(limit, "replicate", || {
            let done = self.shared.replicated.load(Ordering::Acquire) >= target;
            self.shared.seal_now.store(!done, Ordering::Release);
            self.shared.name_now.store(!done, Ordering::Release);
            done
        })?;
        Ok(Sequence(self.shared.replicated.load(Ordering::Acquire)))
    }

    /// Waits until initial replication or resync is complete. `Unavailable` at the limit.
    pub fn wait_ordered(&self, limit: Duration) -> Result<()> {
        self.wait(limit, "wait for order of", || self.shared.tap.mode() == Mode::Ordered)
    }

    /// Reads the whole disk again, beside the writes. Older points stay usable; none is marked until it is complete.
    pub fn resync(&self) -> Result<()> {
        self.shared.resync()
    }

    /// Makes a failover to here final: the old source is fenced, and what was captured since the failover began is shipped.
    /// Durable when it returns; nothing when no failover is under way. May be repeated after any failure.
    ///
    /// `Fenced` when the failover was cancelled or another one was committed meanwhile, `Unavailable` when the vault cannot be
    /// reached.
    pub fn commit_failover(&self) -> Result<()> {
        self.shared.commit_failover()
    }

    /// While true, retention waits: something still reads what it might delete.
    pub(crate) fn retention_waits(&self) -> Arc<AtomicBool> {
        self.shared.retention_waits.clone()
    }

    /// Ends the session cleanly: seals and ships what there is (waiting for the vault up to `limit`; the rest stays in
    /// the spool, as does all of it before a failover is committed), flushes the disk and leaves a clean dirty map, so that
    /// the next session reads nothing again.
    ///
    /// Every writer must be gone before: an NBD server is stopped first. `Fenced` when another source has the volume; what was
    /// captured here was handed in then, as far as the vault answered.
    pub fn stop(mut self, limit: Duration) -> Result<()> {
        let shared = self.shared.clone();
        shared.begin_stop()?;
        let limit_journal = limit.max(Duration::from_secs(10));
        let journaled = self.wait(limit_journal, "journal", || shared.is_journaled());
        // Before a failover is committed nothing leaves the spool.
        if !shared.is_provisional() {
            shared.spool.wait_empty(limit);
        }
        self.end();
        journaled?;
        shared.leave_clean()?;
        if shared.is_fenced() { Err(shared.fenced_error("stop")) } else { Ok(()) }
    }

    fn wait(&self, limit: Duration, what: &'static str, done: impl Fn() -> bool) -> Result<()> {
        let start = self.shared.clock.elapsed();
        while !done() {
            if self.shared.is_fenced() {
                return Err(self.shared.fenced_error(what));
            }
            if self.shared.clock.elapsed().saturating_sub(start) > limit {
                let stats = self.stats();
                return Err(Error::new(ErrorKind::Unavailable, what, &self.shared.info.name)
                    .expected(format_args!("it done within {limit:?}"))
                    .found(format_args!(
                        "mode {}, sequence {} of {} replicated",
                        stats.mode.name(),
                        stats.replicated_sequence,
                        stats.last_sequence
                    )));
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// Ends the tasks.
    fn end(&mut self) {
        self.shared.end();
        for task in self.tasks.drain(..) {
            task.thread().unpark();
            // A task that panicked has told so; the state it leaves is that of a crash.
            let _ = task.join();
        }
    }
}

impl Drop for Protection {
    fn drop(&mut self) {
        self.end();
    }
}

/// What the tasks share.
struct Shared {
    vault: Vault,
    tap: Arc<Tap>,
    volume: Arc<Volume>,
    info: VolumeInfo,
    epoch: Epoch,
    keys: KeyRing,
    policy: Policy,
    clock: Arc<dyn Clock>,
    events: EventSink,
    state: state::StateDirectory,
    dirty: sync::Mutex<DirtyMap>,
    spool: Spool,
    shipper: Shipper,
    journal: Mutex<JournalState>,
    journal_changed: Condvar,
    /// Held while applications are quiesced: one point at a time.
    quiescing: Mutex<()>,
    /// What is quiesced by policy and on demand.
    applications: Option<Arc<dyn Quiesce>>,
    replicated: AtomicU64,
    points: AtomicU64,
    resync_read: AtomicU64,
    resync_journaled: AtomicU64,
    vault_available: AtomicBool,
    fenced: AtomicBool,
    /// What was captured before the fence was noticed is sealed in the spool.
    drained: AtomicBool,
    /// The failover that is not committed yet: nothing is shipped until it is.
    provisional: Mutex<Option<Provisional>>,
    /// Held while a failover is committed.
    committing: Mutex<()>,
    /// Retention waits: something still reads what it might delete.
    retention_waits: Arc<AtomicBool>,
    /// The planned failover that has the volume; it is not written to.
    handed_over: Mutex<Option<PointId>>,
    seal_now: AtomicBool,
    /// What is in the vault is named in its catalog without waiting for the policy's interval.
    name_now: AtomicBool,
    /// No more points and resyncs; the journal and the shipper finish what there is.
    stopping: AtomicBool,
    /// The tasks return.
    ended: AtomicBool,
}

/// A mark that is in the write order, and not yet durable.
struct PlacedMark {
    point: PointId,
    kind: PointKind,
    label: String,
    sequence: Sequence,
    time: Timestamp,
    losses: u64,
    /// When it was placed, by the interval clock.
    since: Duration,
    /// How long applications were held for it.
    held: Option<Duration>,
}

/// The journal as far as it is sealed.
struct JournalState {
    durable: Sequence,
    chain: ChainHash,
    open_since: Option<Timestamp>,
    bytes_stored: u64,
    losses: u64,
    points: Vec<(PointId, ChainHash)>,
}

/// What became of a mark.
enum Fate {
    /// Its segment is sealed, and has this chain hash.
    Durable(ChainHash),
    /// It is in the queue or the open segment.
    Open,
    /// The journal lost it.
    Lost,
}

impl JournalState {
    fn new(durable: Sequence, chain: ChainHash) -> Self {
        Self { durable, chain, open_since: None, bytes_stored: 0, losses: 0, points: Vec::new() }
    }

    /// What became of a mark that was placed when there had been so many losses.
    fn fate_of(&self, point: PointId, losses: u64) -> Fate {
        match self.points.iter().rev().find(|(id, _)| *id == point) {
            Some((_, chain)) => Fate::Durable(*chain),
            None if self.losses == losses => Fate::Open,
            None => Fate::Lost,
        }
    }

    fn note_point(&mut self, point: PointId, chain: ChainHash) {
        if self.points.len() >= POINTS_KEPT {
            self.points.drain(..POINTS_KEPT / 2);
        }
        self.points.push((point, chain));
    }
}

impl Shared {
    fn mark(&self, kind: PointKind, label: &str) -> Result<RecoveryPoint> {
        self.check_has_volume("mark point of")?;
        self.wait_confirmed(&self.place_mark(kind, label, |mark| self.tap.mark(mark))?)
    }

    fn mark_quiesced(
        &self,
        provider: &dyn Quiesce,
        label: &str,
        limit: Duration,
    ) -> Result<RecoveryPoint> {
        self.wait_confirmed(&self.place_quiesced(provider, label, limit)?)
    }

    /// Quiesces, marks and releases.
    fn place_quiesced(
        &self,
        provider: &dyn Quiesce,
        label: &str,
        limit: Duration,
    ) -> Result<PlacedMark> {
        let _one = self.quiescing.lock();
        self.check_has_volume("mark point of")?;
        self.check_markable(label)?;
        let request = self.quiesce_request(label, limit);
        let steps = Steps {
            flush: || self.volume.flush(),
            mark: |holds: &dyn Fn() -> Result<()>| {
                self.place_mark(PointKind::App, label, |mark| {
                    self.tap.mark_unconfirmed(mark, holds)
                })
            },
            confirm: |placed: &PlacedMark, good| self.tap.confirm(placed.sequence, good),
        };
        let (placed, held) = quiesced(provider, &request, &*self.clock, steps)
            .inspect_err(|error| self.event(EventKind::PointSkipped, error.to_string()))?;
        Ok(PlacedMark { held: Some(held), ..placed })
    }

    fn quiesce_request(&self, label: &str, limit: Duration) -> QuiesceRequest {
        QuiesceRequest {
            volume: self.info.name.clone(),
            label: label.to_owned(),
            limit,
            written: vec![self.state.path().to_owned(), self.volume.device().name().into()],
        }
    }

    /// Refuses what can be no point, before anybody is quiesced for it.
    fn check_markable(&self, label: &str) -> Result<()> {
        if label.len() > LABEL_BYTES_MAX {
            return Err(Error::new(ErrorKind::InvalidInput, "mark point of", &self.info.name)
                .expected(format_args!("a label of at most {LABEL_BYTES_MAX} bytes"))
                .found(label.len()));
        }
        if self.is_fenced() {
            return Err(self.fenced_error("mark point of"));
        }
        Ok(())
    }

    /// The last point of a source is that of its hand-over: a later one would be on a branch, or nowhere.
    fn check_has_volume(&self, operation: &'static str) -> Result<()> {
        if !self.is_handed_over() || self.is_fenced() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Fenced, operation, &self.info.name)
            .message("it was handed over for a planned failover, which is neither committed nor cancelled here yet"))
    }

    /// Puts a mark into the write order.
    fn place_mark(
        &self,
        kind: PointKind,
        label: &str,
        place: impl FnOnce(Mark) -> Result<(Sequence, Timestamp)>,
    ) -> Result<PlacedMark> {
        self.check_markable(label)?;
        let point = PointId(random_bytes(&*self.clock));
        let losses = self.journal().losses;
        let mark = Mark { point, kind, label: label.to_owned(), group: None };
        let since = self.clock.elapsed();
        // The tap does not know the name of its volume.
        let (sequence, time) = place(mark).map_err(|error| error.about(&self.info.name))?;
        let label = label.to_owned();
        Ok(PlacedMark { point, kind, label, sequence, time, losses, since, held: None })
    }

    /// Waits until the mark is durable in the journal.
    fn wait_confirmed(&self, placed: &PlacedMark) -> Result<RecoveryPoint> {
        self.confirm(placed, self.wait_for_point(placed.point, placed.losses))
    }

    /// What became of the mark; `None` while it may still become durable.
    fn confirmed(&self, placed: &PlacedMark) -> Option<Result<RecoveryPoint>> {
        let found = self.journal().fate_of(placed.point, placed.losses);
        let waited = self.clock.elapsed().saturating_sub(placed.since);
        let found = match found {
            Fate::Durable(chain) => Ok(chain),
            Fate::Open if waited < MARK_WAIT => return None,
            Fate::Open | Fate::Lost => Err(self.lost_point()),
        };
        Some(self.confirm(placed, found))
    }

    fn confirm(&self, placed: &PlacedMark, chain: Result<ChainHash>) -> Result<RecoveryPoint> {
        let PlacedMark { point, kind, label, sequence, time, held, .. } = placed;
        let chain = chain?;
        self.points.fetch_add(1, Ordering::Relaxed);
        self.event(
            EventKind::PointMarked { point: *point, sequence: *sequence },
            match held {
                Some(held) => format!(
                    "point {point} at sequence {sequence}, applications quiesced and released in {} ms",
                    held.as_millis()
                ),
                None => format!("point {point} at sequence {sequence}"),
            },
        );
        Ok(RecoveryPoint {
            id: *point,
            kind: *kind,
            sequence: *sequence,
            time: *time,
            label: label.clone(),
            epoch: self.epoch,
            group: None,
            chain,
            pins: Vec::new(),
            verdicts: Vec::new(),
        })
    }

    fn wait_for_point(&self, point: PointId, losses: u64) -> Result<ChainHash> {
        let waited =
            self.journal_changed.wait_timeout_while(self.journal(), MARK_WAIT, |journal| {
                matches!(journal.fate_of(point, losses), Fate::Open)
            });
        let journal = waited.0;
        match journal.fate_of(point, losses) {
            Fate::Durable(chain) => Ok(chain),
            Fate::Open | Fate::Lost => Err(self.lost_point()),
        }
    }

    fn lost_point(&self) -> Error {
        Error::new(ErrorKind::NotOrdered, "mark point of", &self.info.name)
            .message("the journal could not be written, so the point was lost")
    }

    fn stats(&self) -> ProtectionStats {
        let tap = self.tap.stats();
        let (journaled, stored, open_since) = {
            let journal = self.journal();
            (journal.durable, journal.bytes_stored, journal.open_since)
        };
        let oldest =
            [self.spool.oldest(), open_since, tap.oldest_queued].into_iter().flatten().min();
        let now = self.clock.now();
        let replicated = self.replicated.load(Ordering::Acquire);
        let vault_available = self.vault_available.load(Ordering::Relaxed);
        let spool_bytes = self.spool.bytes();
        let backlog_bytes = spool_bytes + tap.queue_bytes;
        let speed = self.shipper.bytes_per_second();
        ProtectionStats {
            mode: tap.mode,
            last_sequence: tap.last_sequence,
            journaled_sequence: journaled,
            replicated_sequence: Sequence(replicated),
            rpo: oldest.map_or(Duration::ZERO, |time| Duration::from_nanos(now.nanos_since(time))),
            changes: tap.changes,
            bytes_captured: tap.bytes_captured,
            bytes_stored: stored,
            queue_bytes: tap.queue_bytes,
            spool_bytes,
            backlog_bytes,
            ship_bytes_per_second: speed,
            eta: eta(backlog_bytes, speed).filter(|_| backlog_bytes == 0 || vault_available),
            marked_regions: tap.marked_regions,
            resync_bytes_left: (tap.resync_regions * self.policy.region_bytes)
                .min(self.info.device_bytes),
            resync_bytes_read: self.resync_read.load(Ordering::Relaxed),
            points: self.points.load(Ordering::Relaxed),
            vault_available,
            fenced: self.is_fenced(),
            provisional: self.is_provisional(),
            handed_over: self.is_handed_over(),
        }
    }

    fn is_handed_over(&self) -> bool {
        self.handed_over.lock().is_some()
    }

    fn is_provisional(&self) -> bool {
        self.provisional().is_some()
    }

    fn provisional(&self) -> MutexGuard<'_, Option<Provisional>> {
        self.provisional.lock()
    }

    /// Commits the failover that is under way; nothing when there is none.
    fn commit_failover(&self) -> Result<()> {
        let _one = self.committing.lock();
        // Nobody who asks how the protection is doing waits for the vault.
        let under_way = self.provisional().clone();
        let Some(under_way) = under_way else { return Ok(()) };
        let replica = self.vault.replica_with_keys(&self.info.name, &self.keys)?;
        let catalog = under_way.commit(&self.state, &self.vault, replica, &*self.clock)?;
        let (at, epoch) = (under_way.at, under_way.epoch);
        self.shipper.set_catalog(catalog);
        *self.provisional() = None;
        // What is not removed now is at the next start: the catalog says that it is over.
        let _ = Provisional::forget(&self.state);
        let message = format!("epoch {epoch} begins after sequence {at}");
        self.event(EventKind::FailoverCommitted, message);
        Ok(())
    }

    fn resync(&self) -> Result<()> {
        let regions = self.info.device_bytes.div_ceil(self.policy.region_bytes).max(1);
        let all = RegionRange { first: 0, last: regions - 1 };
        require_resync(&self.tap, &self.dirty, all, Cause::Requested)
    }

    fn begin_stop(&self) -> Result<()> {
        self.stopping.store(true, Ordering::Release);
        // A point that is being made is finished first.
        drop(self.quiescing.lock());
        self.volume.device().flush()
    }

    fn is_journaled(&self) -> bool {
        self.journal().durable >= self.tap.stats().last_sequence
    }

    /// Makes the tasks return.
    fn end(&self) {
        self.stopping.store(true, Ordering::Release);
        self.ended.store(true, Ordering::Release);
        self.tap.close();
        self.spool.wake();
    }

    /// Leaves a dirty map that says that the session ended cleanly.
    fn leave_clean(&self) -> Result<()> {
        let last = self.tap.stats().last_sequence;
        let durable = self.journal().durable;
        let cleaned = self.tap.clean(durable);
        let stop = recover::clean_stop(&**self.volume.device(), last)?;
        let mut dirty = self.dirty();
        dirty.clear(&cleaned)?;
        dirty.end_session(stop)
    }

    fn event(&self, kind: EventKind, message: String) {
        let (time, volume) = (self.clock.now(), self.info.name.clone());
        (self.events)(&Event { time, volume, kind, message });
    }

    fn fenced_error(&self, operation: &'static str) -> Error {
        Error::new(ErrorKind::Fenced, operation, &self.info.name).message(
            "another source has taken the volume; nothing is replicated from here any more",
        )
    }

    fn journal(&self) -> MutexGuard<'_, JournalState> {
        self.journal.lock()
    }

    fn dirty(&self) -> sync::MutexGuard<'_, DirtyMap> {
        self.dirty.lock()
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    fn is_fenced(&self) -> bool {
        self.fenced.load(Ordering::Acquire)
    }

    fn count_resync(&self, bytes_read: u64, bytes_journaled: u64) {
        self.resync_read.fetch_add(bytes_read, Ordering::Relaxed);
        self.resync_journaled.fetch_add(bytes_journaled, Ordering::Relaxed);
    }

    fn resync_counters(&self) -> (u64, u64) {
        (self.resync_read.load(Ordering::Relaxed), self.resync_journaled.load(Ordering::Relaxed))
    }

    fn reset_resync_counters(&self) {
        self.resync_read.store(0, Ordering::Relaxed);
        self.resync_journaled.store(0, Ordering::Relaxed);
    }
}

/// The tasks of a protection.
fn tasks(shared: &Shared, baseline: resync::Baseline) -> Vec<Box<dyn Task>> {
    vec![
        Box::new(journaling::Journaling::new(shared)),
        Box::new(timer::Keeper),
        Box::new(resync::Resync::new(baseline)),
        Box::new(shipping::Shipping::new(shared)),
        Box::new(retention::Retention::new(shared)),
        Box::new(timer::Timer::new(shared)),
        Box::new(applications::AppPoints::new()),
    ]
}

/// Time that `backlog` bytes take; `None` when that is not known.
fn eta(backlog: u64, bytes_per_second: u64) -> Option<Duration> {
    match (backlog, bytes_per_second) {
        (0, _) => Some(Duration::ZERO),
        (_, 0) => None,
        (bytes, speed) => Some(Duration::from_secs_f64(bytes as f64 / speed as f64)),
    }
}
