//! The shipper: puts closed segments of the spool into the vault, and publishes them in its
//! catalog.
//!
//! Invariants: segments are put and published in write order. A segment leaves the spool only once
//! the catalog lists it.
//!
//! Behaviour on failure: every call may be repeated. A repeated put finds its object in the vault
//! and compares it byte by byte. After an append without an answer, the next call reads the catalog
//! first.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::anchor::AnchorFile;
use super::next::Next;
use super::spool::{Spool, Spooled};
use crate::clock::Clock;
use crate::device::Files;
use crate::error::{Error, ErrorKind, Result};
use crate::parallel;
use crate::policy::{Policy, Throttle};
use crate::store::{PutOutcome, Store};
use crate::sync::lock::Mutex;
use crate::units::Sequence;
use crate::vault::{Catalog, CatalogEdit, SegmentEntry, SourceIdentity, check_marker, layout};

/// Most segments that are put before the catalog is read again.
pub const BATCH_MAX: usize = 64;
/// Most segments that wait to be published. With so many, the policy's interval is not waited for.
pub const UNPUBLISHED_MAX: usize = 1024;
/// Longest time of a batch of puts. After it the batch is published, so that points are of use soon
/// on a slow link.
pub const BATCH_TIME: Duration = Duration::from_secs(5);
/// Pause before the spool is looked at again.
pub(super) const WAIT: Duration = Duration::from_millis(100);
/// Bytes compared at once with an object that is in the vault already.
const COMPARED_BYTES: usize = 1 << 20;
/// Weight of the newest batch in the measured speed.
const SPEED_WEIGHT: f64 = 0.3;

/// Segments that are in the vault and not in its catalog: the oldest of the spool, which still has
/// them.
#[derive(Default)]
struct Unpublished {
    entries: Vec<SegmentEntry>,
    /// When the first of them was put.
    put_since: Option<Duration>,
    /// When the catalog was appended to last.
    published_at: Option<Duration>,
}

impl Unpublished {
    fn add(&mut self, entry: SegmentEntry) {
        if let Some(before) = self.entries.last() {
            let before = &before.summary;
            assert!(entry.summary.previous == before.chain, "segments are put in order");
            assert!(entry.summary.first_sequence > before.last_sequence, "sequences grow");
        }
        self.entries.push(entry);
    }

    fn clear(&mut self) {
        self.entries.clear();
        self.put_since = None;
    }
}

/// What a call of [`Shipper::ship`] did.
pub(crate) struct Shipped {
    /// Last sequence in the catalog, if the call published something.
    pub published: Option<Sequence>,
    /// When to call again: once there are segments, or bandwidth.
    pub next: Next,
}

/// Whose segments a shipper moves.
pub(crate) struct Sender {
    /// Name of the volume.
    pub volume: String,
    /// The source that owns it.
    pub source: SourceIdentity,
    /// The anchor of its state directory.
    pub anchor: Arc<AnchorFile>,
}

/// Moves the segments of one source from a spool to the vault.
pub(crate) struct Shipper {
    store: Arc<dyn Store>,
    files: Arc<dyn Files>,
    catalog: Mutex<Catalog>,
    sender: Sender,
    puts_in_flight_max: usize,
    catalog_interval: Duration,
    heartbeat_interval: Duration,
    throttle: Throttle,
    clock: Arc<dyn Clock>,
    /// When the session began to ship.
    began: Duration,
    unpublished: Mutex<Unpublished>,
    /// Recent throughput in bytes per second; zero before the first batch.
    speed: Mutex<f64>,
    /// The last append failed: the catalog may list segments that are still in the spool.
    unsure: AtomicBool,
}

impl Shipper {
    /// Makes the shipper of `sender`, whose volume has `catalog`.
    pub(crate) fn new(
        store: Arc<dyn Store>,
        files: Arc<dyn Files>,
        catalog: Catalog,
        sender: Sender,
        policy: &Policy,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            store,
            files,
            catalog: Mutex::new(catalog),
            sender,
            puts_in_flight_max: policy.puts_in_flight_max as usize,
            catalog_interval: policy.catalog_interval,
            heartbeat_interval: policy.heartbeat_interval,
            throttle: Throttle::new(policy.bandwidth.clone(), clock.clone()),
            began: clock.elapsed(),
            clock,
            unpublished: Mutex::default(),
            speed: Mutex::new(0.0),
            unsure: AtomicBool::new(false),
        }
    }

    /// Returns a copy of the catalog as this source knows it.
    pub(crate) fn catalog(&self) -> Catalog {
        self.catalog.lock().clone()
    }

    /// Returns a sentence about objects in the catalog that are ignored, once after new ones.
    pub(crate) fn report_intruders(&self) -> Option<String> {
        self.catalog.lock().report_intruders()
    }

    /// Returns the newest catalog version that this source knows, and its hash.
    pub(crate) fn known_version(&self) -> (u64, [u8; 32]) {
        let catalog = self.catalog.lock();
        (catalog.version(), catalog.version_hash())
    }

    /// Returns the recent throughput, or the bandwidth allowed now if that is less, in bytes per
    /// second. Zero if neither is known.
    pub(crate) fn bytes_per_second(&self) -> u64 {
        #[allow(clippy::cast_sign_loss, reason = "an average of positive speeds")]
        let speed = *self.speed.lock() as u64;
        self.throttle
            .limit()
            .map_or(speed, |limit| if speed == 0 { limit } else { speed.min(limit) })
    }

    /// Puts a batch of segments, oldest first, and publishes it when that is due, or now if
    /// `urgent`. Begins no put once `stopped`.
    pub(crate) fn ship(
        &self,
        spool: &Spool,
        urgent: bool,
        stopped: &dyn Fn() -> bool,
    ) -> Result<Shipped> {
        let mut unpublished = self.unpublished.lock();
        if let Some(last) = self.reconcile(spool, &mut unpublished)? {
            return Ok(Shipped { published: Some(last), next: Next::Now });
        }
        // Segments that are put where a file system should be mounted would be missing afterwards.
        if self.store.local_path(layout::MARKER).is_some() {
            check_marker(&*self.store)?;
        }
        let waited = unpublished.entries.len();
        let batch = spool.oldest_batch(waited, BATCH_MAX);
        let start = self.clock.elapsed();
        let mut next = if batch.is_empty() { Next::Work(WAIT) } else { Next::Now };
        let (mut rest, mut bytes) = (batch.as_slice(), 0);
        while !rest.is_empty() {
            let (allowed, wait) = self.allowed(rest);
            if let (0, Some(wait)) = (allowed, wait) {
                next = Next::Later(wait);
                break;
            }
            if stopped() {
                return Ok(Shipped { published: None, next });
            }
            let (chunk, after) = rest.split_at(allowed);
            for result in parallel::all(chunk, |spooled| self.put(spooled)) {
                let entry = result?;
                bytes += entry.summary.stored_bytes;
                unpublished.put_since.get_or_insert(start);
                unpublished.add(entry);
            }
            rest = after;
            if self.clock.elapsed().saturating_sub(start) > BATCH_TIME {
                break;
            }
        }
        let more = matches!(next, Next::Later(_));
        let mut published = self.publish(spool, &mut unpublished, (waited, more), urgent)?;
        if batch.is_empty() && unpublished.entries.is_empty() && published.is_none() {
            published = self.beat(&mut unpublished)?;
        }
        if bytes > 0 {
            self.record_speed(bytes, self.clock.elapsed().saturating_sub(start));
        }
        Ok(Shipped { published, next })
    }

    /// Returns how many of the oldest segments may be put at once now. If none may, also the pause
    /// until the bandwidth is asked for again.
    fn allowed(&self, segments: &[Spooled]) -> (usize, Option<Duration>) {
        for (number, spooled) in segments.iter().take(self.puts_in_flight_max).enumerate() {
            if let Err(wait) = self.throttle.take(spooled.summary.stored_bytes) {
                return (number, Some(wait));
            }
        }
        (segments.len().min(self.puts_in_flight_max), None)
    }

    /// Waits up to `wait` for a segment that is not in the vault yet.
    pub(crate) fn wait_for_segments(&self, spool: &Spool, wait: Duration) {
        let put = self.unpublished.lock().entries.len();
        spool.wait_for_more(put, wait);
    }

    /// Publishes what was put, if that is due or `urgent`. Waits for a time if `more` segments wait
    /// for bandwidth. Returns the last sequence in the catalog, if it published something.
    ///
    /// The first `waited` segments were put by earlier calls, perhaps into another vault in the place of
    /// this one. Those that are not here are put again.
    fn publish(
        &self,
        spool: &Spool,
        unpublished: &mut Unpublished,
        (waited, more): (usize, bool),
        urgent: bool,
    ) -> Result<Option<Sequence>> {
        let now = self.clock.elapsed();
        let slow = unpublished.put_since.is_some_and(|put| now.saturating_sub(put) > BATCH_TIME);
        let filling = more && !slow && unpublished.entries.len() < BATCH_MAX;
        let early = unpublished
            .published_at
            .is_some_and(|at| now.saturating_sub(at) < self.catalog_interval);
        let waits = (early || filling)
            && !urgent
            && unpublished.entries.len() < UNPUBLISHED_MAX
            && !spool.is_crowded();
        if unpublished.entries.is_empty() || waits {
            return Ok(None);
        }
        if let Some(gone) = self.first_gone(&unpublished.entries[..waited])? {
            // Nothing is put into a vault that the volume has left.
            self.look(spool)?;
            unpublished.entries.truncate(gone);
            return Ok(None);
        }
        let mut catalog = self.catalog.lock();
        let edit = CatalogEdit::Segments(unpublished.entries.clone());
        let appended = catalog.append(&self.sender.source, vec![edit]);
        self.unsure.store(appended.is_err(), Ordering::Relaxed);
        let lacks =
            |error: &Error| matches!(error.kind(), ErrorKind::Changed | ErrorKind::Diverged);
        if appended.as_ref().is_err_and(lacks) {
            // A store that this version would go to lacks some of the objects: put them again.
            unpublished.clear();
        }
        appended?;
        let last = catalog.last_sequence();
        let newest = unpublished.entries.last().map(|entry| entry.summary.last_sequence);
        assert!(newest == Some(last), "the catalog ends with what was published");
        self.record_and_remove(&catalog, spool, &unpublished.entries)?;
        drop(catalog);
        unpublished.published_at = Some(now);
        unpublished.clear();
        Ok(Some(last))
    }

    /// Returns the place of the first segment that the vault does not have; `None` if it has all.
    fn first_gone(&self, entries: &[SegmentEntry]) -> Result<Option<usize>> {
        let found = parallel::each(entries, true, |entry| self.store.head(&entry.object))?;
        Ok(found.iter().position(Option::is_none))
    }

    /// Publishes a version that says only that the source is there, if none was published for the
    /// policy's interval. Returns the last sequence in the catalog, if it did.
    ///
    /// A reader of a frozen copy sees by its age that it is one.
    fn beat(&self, unpublished: &mut Unpublished) -> Result<Option<Sequence>> {
        let now = self.clock.elapsed();
        let since = unpublished.published_at.unwrap_or(self.began);
        let interval = self.heartbeat_interval;
        if interval.is_zero() || now.saturating_sub(since) < interval {
            return Ok(None);
        }
        let mut catalog = self.catalog.lock();
        let edits = vec![CatalogEdit::Heartbeat(self.clock.now())];
        let appended = catalog.append(&self.sender.source, edits);
        self.unsure.store(appended.is_err(), Ordering::Relaxed);
        appended?;
        self.record(&catalog)?;
        unpublished.published_at = Some(now);
        Ok(Some(catalog.last_sequence()))
    }

    /// After a failed append, removes from the spool what the catalog lists all the same, or listed
    /// before a fold. To append that again would not continue the chain.
    fn reconcile(&self, spool: &Spool, unpublished: &mut Unpublished) -> Result<Option<Sequence>> {
        if !self.unsure.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let mut catalog = self.catalog.lock();
        catalog.refresh()?;
        // A batch is published whole or not at all, and nobody else adds to the end. So it is
        // published if the catalog ends with one of its segments, even if a fold came since.
        let (last, chain) = (catalog.last_sequence(), catalog.last_chain());
        let newest = unpublished.entries.iter().rposition(|entry| entry.summary.chain == chain);
        let count = newest.map_or(0, |at| at + 1);
        if count == 0 {
            self.check_end(&catalog, spool)?;
        } else {
            self.record_and_remove(&catalog, spool, &unpublished.entries[..count])?;
        }
        drop(catalog);
        self.unsure.store(false, Ordering::Relaxed);
        unpublished.entries.drain(..count);
        Ok((count > 0).then_some(last))
    }

    /// Records in the anchor what the catalog lists, and removes the oldest segments from the spool,
    /// which are `published` there.
    ///
    /// On a full disk the segments have the room of the anchor. The newest leaves last: until the
    /// anchor knows it, the next start knows by it which sequences were given.
    fn record_and_remove(
        &self,
        catalog: &Catalog,
        spool: &Spool,
        published: &[SegmentEntry],
    ) -> Result<()> {
        let mut is_recorded = self.record(catalog)?;
        let (older, newest) = published.split_at(published.len().saturating_sub(1));
        for removed in [older, newest] {
            spool.remove_published(removed);
            // If there still is no room, the next publication records it.
            is_recorded = is_recorded || self.sender.anchor.published(catalog).is_ok();
        }
        Ok(())
    }

    /// Records in the anchor what the catalog lists. Returns false if the disk is full.
    ///
    /// If that fails otherwise, the next call finds it in the catalog and records it.
    fn record(&self, catalog: &Catalog) -> Result<bool> {
        match self.sender.anchor.published(catalog) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::Full => Ok(false),
            Err(error) => {
                self.unsure.store(true, Ordering::Relaxed);
                Err(error)
            }
        }
    }

    fn record_speed(&self, bytes: u64, took: Duration) {
        let newest = bytes as f64 / took.as_secs_f64().max(0.001);
        let mut speed = self.speed.lock();
        let weight = if *speed == 0.0 { 1.0 } else { SPEED_WEIGHT };
        *speed += weight * (newest - *speed);
    }

    fn put(&self, spooled: &Spooled) -> Result<SegmentEntry> {
        let object = layout::segment(&self.sender.volume, &spooled.summary);
        let length = spooled.summary.stored_bytes;
        put_checked(&*self.store, &object, &*self.files, &spooled.path, length)?;
        Ok(SegmentEntry { object, summary: spooled.summary.clone() })
    }

    /// Reads what others appended to the catalog: two requests if nobody did. `Fenced` if another
    /// source owns the volume, or another session of this one publishes. `Diverged` if what was
    /// published from here is gone.
    pub(crate) fn look(&self, spool: &Spool) -> Result<()> {
        let mut catalog = self.catalog.lock();
        catalog.refresh()?;
        let owner = catalog.source().filter(|owner| owner.id != self.sender.source.id);
        owner.map_or(Ok(()), |owner| Err(fenced(&self.sender.volume, owner)))?;
        catalog.check_session()?;
        self.check_end(&catalog, spool)
    }

    /// Fails if the catalog ends with a segment that is not of this state directory. `Fenced` if it
    /// follows what was published from here: another session runs on a copy of the directory.
    /// `Diverged` if what was published from here is gone, or the spool does not continue it.
    fn check_end(&self, catalog: &Catalog, spool: &Spool) -> Result<()> {
        let chain = catalog.last_chain();
        let is_ours = catalog.source().is_some_and(|owner| owner.id == self.sender.source.id);
        let is_known = chain == self.sender.anchor.chain();
        if !is_ours || spool.contains(chain) || is_known && spool.follows(chain) {
            return Ok(());
        }
        let (kind, why) = if is_known {
            // Some of it was put aside for another vault, which was in the place of this one.
            (ErrorKind::Diverged, "the spool does not continue what was published")
        } else if self.sender.anchor.is_in(catalog) {
            let why =
                "another session of this source publishes: is there a copy of the state directory?";
            (ErrorKind::Fenced, why)
        } else {
            (ErrorKind::Diverged, "the vault went back, or is another copy")
        };
        Err(Error::new(kind, "ship segments of", &self.sender.volume)
            .message(why)
            .expected(format_args!(
                "a catalog that ends with chain hash {}",
                self.sender.anchor.chain()
            ))
            .found(chain))
    }

    /// Publishes all that the catalog says again, beyond a version that went missing before the newest.
    /// Returns the first such version; `None` if there is none.
    pub(crate) fn bridge_gap(&self) -> Result<Option<u64>> {
        let mut catalog = self.catalog.lock();
        let gap = catalog.bridge_gap(&self.sender.source)?;
        if gap.is_some() {
            self.record(&catalog)?;
        }
        Ok(gap)
    }

    /// Looks at the catalog as it was read last. Returns `None` while it is appended to.
    pub(crate) fn peek<T>(&self, look: impl FnOnce(&Catalog) -> T) -> Option<T> {
        self.catalog.try_lock().map(|catalog| look(&catalog))
    }

    /// Replaces the catalog by the one that a commit of this session made.
    pub(crate) fn set_catalog(&self, catalog: Catalog) {
        // A failure is told to nobody: the next publication records it.
        let _ = self.go_on_with(catalog, |new| self.sender.anchor.published(new).or(Ok(())));
    }

    /// Goes on with the catalog of a vault that was away and agrees with the anchor.
    pub(crate) fn join(&self, catalog: Catalog) -> Result<()> {
        self.go_on_with(catalog, |new| self.sender.anchor.published(new))
    }

    /// Forgets what is in the vault and not in its catalog, because that is not to be published.
    pub(crate) fn forget_put(&self) {
        self.unpublished.lock().clear();
    }

    /// Lets a catalog that was read anew be published as this session. `Fenced` if one that began later
    /// has published there.
    pub(crate) fn enter(&self, catalog: &mut Catalog) -> Result<()> {
        let current = self.catalog.lock();
        current.check_later_session(catalog)?;
        catalog.go_on_with_session_of(&current);
        Ok(())
    }

    /// Goes on with the catalog of a vault that went back. `given` is the last sequence given.
    pub(crate) fn go_back_to(&self, catalog: Catalog, given: Sequence) -> Result<()> {
        self.go_on_with(catalog, |new| {
            self.sender.anchor.went_back(new, given)?;
            self.unsure.store(false, Ordering::Relaxed);
            Ok(())
        })
    }

    /// Goes on with another catalog, once the anchor has recorded it.
    fn go_on_with(
        &self,
        mut catalog: Catalog,
        record: impl FnOnce(&Catalog) -> Result<()>,
    ) -> Result<()> {
        let mut current = self.catalog.lock();
        catalog.go_on_with_session_of(&current);
        record(&catalog)?;
        *current = catalog;
        Ok(())
    }

    /// Returns the source that ships.
    pub(crate) fn source(&self) -> &SourceIdentity {
        &self.sender.source
    }
}

/// Returns the error of a source whose volume belongs to another.
pub(super) fn fenced(volume: &str, owner: &SourceIdentity) -> Error {
    Error::new(ErrorKind::Fenced, "ship segments of", volume).message(format_args!(
        "the volume belongs to the source on {} since {}",
        owner.host, owner.since
    ))
}

/// Puts the file at `path` as `object`. If the object exists, an earlier try put it, so it must be
/// equal. `Corrupt` if it is not.
pub(crate) fn put_checked(
    store: &dyn Store,
    object: &str,
    files: &dyn Files,
    path: &Path,
    length: u64,
) -> Result<()> {
    if store.put_file(object, path)? == PutOutcome::Created {
        return Ok(());
    }
    let other = |at: u64| {
        Error::new(ErrorKind::Corrupt, "put segment", object)
            .at(at)
            .message("the vault has another object of this name")
    };
    let found = store.head(object)?.map_or(0, |info| info.length);
    if found != length {
        return Err(other(0).expected(format_args!("{length} bytes")).found(found));
    }
    let ours = files.map(path)?;
    let ours = (*ours).as_ref();
    if ours.len() as u64 != length {
        return Err(Error::new(ErrorKind::Corrupt, "read segment", path.display())
            .expected(format_args!("{length} bytes"))
            .found(ours.len()));
    }
    for at in (0..length).step_by(COMPARED_BYTES) {
        let end = length.min(at + COMPARED_BYTES as u64);
        let ours = &ours[at as usize..end as usize];
        if store.get(object, at..end)? != ours {
            return Err(other(at).expected("the same bytes").found("others"));
        }
    }
    Ok(())
}
