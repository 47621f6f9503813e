//! Shipping: sealed segments wait in a spool on the local disk until they are in the vault and its catalog.
//!
//! Invariants: segments leave in write order; one leaves the spool only after the catalog names it; a crash anywhere
//! repeats a put at most, which put-if-absent makes harmless: what is found there is compared byte by byte. When the vault does not answer, shipping tries again with
//! growing pauses for as long as it takes; the spool's limit is what capture falls back on.

#[cfg(feature = "gateway")]
pub(crate) mod gateway;
pub(crate) mod mirror;

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::journal::SegmentSummary;
use crate::policy::{Policy, Throttle};
use crate::replica::{Catalog, CatalogEdit, SegmentEntry, SourceIdentity, Stage};
use crate::store::{PutOutcome, Store};
use crate::units::{PointId, Sequence, Timestamp};

/// Segments put by one call at most.
pub(crate) const BATCH_MAX: usize = 64;
/// Catalog entries made by one append at most: with so many the interval of the policy is not waited for.
pub(crate) const UNNAMED_MAX: usize = 1024;
/// A batch ends early, and may be named in the catalog, when its puts have taken this long: on a slow link points are of
/// use soon.
pub(crate) const BATCH_TIME: Duration = Duration::from_secs(5);
/// Bytes compared at once, of an object that is there already.
const COMPARED_BYTES: usize = 1 << 20;
/// Weight of the newest batch in the measured speed.
const SPEED_WEIGHT: f64 = 0.3;

/// A sealed segment in the spool.
#[derive(Clone, Debug)]
pub(crate) struct Spooled {
    pub path: PathBuf,
    pub summary: SegmentSummary,
}

#[derive(Default)]
struct SpoolState {
    queue: VecDeque<Spooled>,
    bytes: u64,
}

/// Sealed segments on the local disk, oldest first.
pub(crate) struct Spool {
    state: Mutex<SpoolState>,
    changed: Condvar,
    bytes_max: u64,
}

impl Spool {
    pub(crate) fn new(bytes_max: u64) -> Self {
        Self { state: Mutex::default(), changed: Condvar::new(), bytes_max }
    }

    pub(crate) fn push(&self, spooled: Spooled) {
        let mut state = self.lock();
        state.bytes += spooled.summary.stored_bytes;
        state.queue.push_back(spooled);
        self.changed.notify_all();
    }

    /// Above half of its limit.
    fn is_crowded(&self) -> bool {
        self.lock().bytes > self.bytes_max / 2
    }

    /// Below its limit.
    pub(crate) fn has_room(&self) -> bool {
        self.lock().bytes < self.bytes_max
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.lock().bytes
    }

    /// Time of the oldest record in the spool.
    pub(crate) fn oldest(&self) -> Option<Timestamp> {
        self.lock().queue.front().map(|spooled| spooled.summary.first_time)
    }

    /// The oldest segments but the first `skipped`, at most `count`; waits up to `wait` for one.
    fn oldest_batch(&self, skipped: usize, count: usize, wait: Duration) -> Vec<Spooled> {
        let mut state = self.lock();
        if state.queue.len() <= skipped {
            state =
                self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.queue.iter().skip(skipped).take(count).cloned().collect()
    }

    /// Waits up to `wait` for the spool to be empty.
    pub(crate) fn wait_empty(&self, wait: Duration) -> bool {
        let state = self.lock();
        let waited = self.changed.wait_timeout_while(state, wait, |state| !state.queue.is_empty());
        waited.unwrap_or_else(PoisonError::into_inner).0.queue.is_empty()
    }

    /// Wakes those who wait, so that they see a stop.
    pub(crate) fn wake(&self) {
        self.changed.notify_all();
    }

    /// The `count` oldest segments are in the vault: they are forgotten and their files removed.
    fn shipped(&self, count: usize) {
        let gone: Vec<_> = {
            let mut state = self.lock();
            let gone: Vec<_> = state.queue.drain(..count).collect();
            state.bytes -= gone.iter().map(|spooled| spooled.summary.stored_bytes).sum::<u64>();
            gone
        };
        for spooled in gone {
            // A file that stays is found at the next start to be in the catalog already, and removed then.
            let _ = std::fs::remove_file(&spooled.path);
        }
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, SpoolState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is in the vault, and that its catalog does not name yet: the oldest segments of the spool, which keeps them.
#[derive(Default)]
struct Unnamed {
    entries: Vec<SegmentEntry>,
    /// When the catalog was appended to last.
    named_at: Option<Duration>,
}

/// Moves segments from the spool to the vault.
pub(crate) struct Shipper {
    store: Arc<dyn Store>,
    volume: String,
    catalog: Mutex<Catalog>,
    source: SourceIdentity,
    puts_in_flight_max: usize,
    catalog_interval: Duration,
    throttle: Throttle,
    clock: Arc<dyn Clock>,
    unnamed: Mutex<Unnamed>,
    /// Bytes a second of late; zero before the first batch.
    speed: Mutex<f64>,
    /// The answer of the last append was lost: the catalog may name segments that are still in the spool.
    unsure: AtomicBool,
}

impl Shipper {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        volume: String,
        catalog: Catalog,
        source: SourceIdentity,
        policy: &Policy,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            store,
            volume,
            catalog: Mutex::new(catalog),
            source,
            puts_in_flight_max: policy.puts_in_flight_max as usize,
            catalog_interval: policy.catalog_interval,
            throttle: Throttle::new(policy.bandwidth.clone(), clock.clone()),
            clock,
            unnamed: Mutex::default(),
            speed: Mutex::new(0.0),
            unsure: AtomicBool::new(false),
        }
    }

    /// The catalog as this source knows it.
    pub(crate) fn catalog(&self) -> Catalog {
        self.catalog.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Bytes a second that went of late, or that the bandwidth allows where that is less; zero when nothing is known.
    pub(crate) fn bytes_per_second(&self) -> u64 {
        // Never negative; a fraction of a byte does not matter.
        #[allow(clippy::cast_sign_loss, reason = "an average of positive speeds")]
        let speed = *self.speed.lock().unwrap_or_else(PoisonError::into_inner) as u64;
        self.throttle
            .limit()
            .map_or(speed, |limit| if speed == 0 { limit } else { speed.min(limit) })
    }

    /// Puts what waits, oldest first, and names it in the catalog when that is due, or at once when `urgent`. Returns the
    /// last sequence in the catalog when it named something. Begins no put any more once `stopped`.
    pub(crate) fn ship(
        &self,
        spool: &Spool,
        wait: Duration,
        urgent: bool,
        stopped: &(dyn Fn() -> bool + Sync),
    ) -> Result<Option<Sequence>> {
        let mut unnamed = self.unnamed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = self.settle(spool, &mut unnamed)? {
            return Ok(Some(last));
        }
        let batch = spool.oldest_batch(unnamed.entries.len(), BATCH_MAX, wait);
        let start = self.clock.elapsed();
        let mut bytes = 0;
        for chunk in batch.chunks(self.puts_in_flight_max) {
            for result in self.put_at_once(chunk, stopped) {
                let Some(entry) = result? else { return Ok(None) };
                bytes += entry.summary.stored_bytes;
                unnamed.entries.push(entry);
            }
            if self.clock.elapsed().saturating_sub(start) > BATCH_TIME {
                break;
            }
        }
        let named = self.name(spool, &mut unnamed, urgent)?;
        if bytes > 0 {
            self.note_speed(bytes, self.clock.elapsed().saturating_sub(start));
        }
        Ok(named)
    }

    /// Puts segments at the same time; `None` for those that were not begun because it is to stop.
    fn put_at_once(
        &self,
        segments: &[Spooled],
        stopped: &(dyn Fn() -> bool + Sync),
    ) -> Vec<Result<Option<SegmentEntry>>> {
        std::thread::scope(|scope| {
            let put = |spooled| scope.spawn(move || self.put_in_turn(spooled, stopped));
            let puts: Vec<_> = segments.iter().map(put).collect();
            let ended = |put: std::thread::ScopedJoinHandle<'_, _>| {
                put.join().unwrap_or_else(|_| Err(put_panicked()))
            };
            puts.into_iter().map(ended).collect()
        })
    }

    /// Names what was put, when it is time.
    fn name(&self, spool: &Spool, unnamed: &mut Unnamed, urgent: bool) -> Result<Option<Sequence>> {
        let now = self.clock.elapsed();
        let early =
            unnamed.named_at.is_some_and(|named| now.saturating_sub(named) < self.catalog_interval);
        let waits = early && !urgent && unnamed.entries.len() < UNNAMED_MAX && !spool.is_crowded();
        if unnamed.entries.is_empty() || waits {
            return Ok(None);
        }
        let mut catalog = self.catalog.lock().unwrap_or_else(PoisonError::into_inner);
        let edit = CatalogEdit::Segments(unnamed.entries.clone());
        let appended = catalog.append(&self.source, vec![edit]);
        self.unsure.store(appended.is_err(), Ordering::Relaxed);
        if appended.as_ref().is_err_and(|error| error.kind() == ErrorKind::Changed) {
            // Not everything that was put is where this version would be put.
            unnamed.entries.clear();
        }
        appended?;
        let last = catalog.last_sequence();
        drop(catalog);
        unnamed.named_at = Some(now);
        spool.shipped(unnamed.entries.len());
        unnamed.entries.clear();
        Ok(Some(last))
    }

    /// After an append that failed: takes from the spool what the catalog names all the same. More may have been put
    /// since, and an append of segments that are there already would not continue the chain.
    fn settle(&self, spool: &Spool, unnamed: &mut Unnamed) -> Result<Option<Sequence>> {
        if !self.unsure.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let mut catalog = self.catalog.lock().unwrap_or_else(PoisonError::into_inner);
        catalog.refresh()?;
        let named = |put: &&SegmentEntry| {
            catalog.segments().iter().rev().any(|entry| entry.object == put.object)
        };
        let count = unnamed.entries.iter().take_while(named).count();
        let last = catalog.last_sequence();
        drop(catalog);
        self.unsure.store(false, Ordering::Relaxed);
        spool.shipped(count);
        unnamed.entries.drain(..count);
        Ok((count > 0).then_some(last))
    }

    fn note_speed(&self, bytes: u64, took: Duration) {
        let newest = bytes as f64 / took.as_secs_f64().max(0.001);
        let mut speed = self.speed.lock().unwrap_or_else(PoisonError::into_inner);
        let weight = if *speed == 0.0 { 1.0 } else { SPEED_WEIGHT };
        *speed += weight * (newest - *speed);
    }

    /// Waits for bandwidth, then puts; `None` when stopped before.
    fn put_in_turn(
        &self,
        spooled: &Spooled,
        stopped: &(dyn Fn() -> bool + Sync),
    ) -> Result<Option<SegmentEntry>> {
        while let Err(wait) = self.throttle.take(spooled.summary.stored_bytes) {
            if stopped() {
                return Ok(None);
            }
            std::thread::sleep(wait);
        }
        self.put(spooled).map(Some)
    }

    fn put(&self, spooled: &Spooled) -> Result<SegmentEntry> {
        let object = segment_object(&self.volume, &spooled.summary);
        put_checked(&*self.store, &object, &spooled.path, spooled.summary.stored_bytes)?;
        Ok(SegmentEntry { object, summary: spooled.summary.clone() })
    }

    /// Looks whether others appended to the catalog, and reads what they did. One request when nobody did.
    pub(crate) fn look(&self) -> Result<()> {
        let mut catalog = self.catalog.lock().unwrap_or_else(PoisonError::into_inner);
        if catalog.is_behind()? {
            catalog.refresh()?;
        }
        let owner = catalog.source().filter(|owner| owner.id != self.source.id);
        owner.map_or(Ok(()), |owner| Err(fenced(&self.volume, owner)))
    }

    /// Where the volume is in its life cycle, as read last, and in which failover; `None` while the catalog is being
    /// appended to.
    pub(crate) fn stage(&self) -> Option<(Stage, Option<PointId>)> {
        let catalog = self.catalog.try_lock().ok()?;
        let lifecycle = catalog.lifecycle();
        Some((lifecycle.stage(), lifecycle.current().map(|step| step.failover)))
    }

    /// From now on this is the catalog.
    pub(crate) fn set_catalog(&self, catalog: Catalog) {
        *self.catalog.lock().unwrap_or_else(PoisonError::into_inner) = catalog;
    }

    /// Who ships.
    pub(crate) fn source(&self) -> &SourceIdentity {
        &self.source
    }
}

fn fenced(volume: &str, owner: &SourceIdentity) -> Error {
    Error::new(ErrorKind::Fenced, "ship segments of", volume).message(format_args!(
        "the volume belongs to the source on {} since {}",
        owner.host, owner.since
    ))
}

/// Puts the file at `path` as `object`. One that is there must be the same: put before by us, when its answer or what
/// followed was lost, and by nobody else; else `Corrupt`.
pub(crate) fn put_checked(store: &dyn Store, object: &str, path: &Path, length: u64) -> Result<()> {
    if store.put_file(object, path)? == PutOutcome::Created {
        return Ok(());
    }
    let other = |at: u64| {
        Error::new(ErrorKind::Corrupt, "put segment", object)
            .at(at)
            .message("another object of its name is in the vault")
    };
    let found = store.head(object)?.map_or(0, |info| info.length);
    if found != length {
        return Err(other(0).expected(format_args!("{length} bytes")).found(found));
    }
    let io = |error| Error::io("read segment", path.display(), error);
    let file = File::open(path).map_err(io)?;
    let mut ours = vec![0; COMPARED_BYTES];
    for at in (0..length).step_by(COMPARED_BYTES) {
        let ours = &mut ours[..(length - at).min(COMPARED_BYTES as u64) as usize];
        file.read_exact_at(ours, at).map_err(io)?;
        if store.get(object, at..at + ours.len() as u64)? != ours {
            return Err(other(at).expected("the same bytes").found("others"));
        }
    }
    Ok(())
}

/// Name of a segment's object in the vault.
pub(crate) fn segment_object(volume: &str, summary: &SegmentSummary) -> String {
    format!("volumes/{volume}/segments/{}", summary.object_name())
}

/// Path of a sealed segment in a spool directory.
pub(crate) fn spool_path(directory: &Path, summary: &SegmentSummary) -> PathBuf {
    directory.join(summary.object_name())
}

fn put_panicked() -> Error {
    Error::new(ErrorKind::Unavailable, "ship segment", "vault").message("the store panicked")
}
