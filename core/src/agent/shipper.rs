//! Shipping: moves closed segments from the spool to the vault, and publishes them in its catalog.
//!
//! Invariants: segments leave in write order, and a segment leaves the spool only after the catalog names it. A crash
//! repeats at most a put, which put-if-absent makes harmless: an object that is there already is compared byte by byte.
//!
//! Behaviour on failure: while the vault does not answer, shipping tries again with growing pauses for as long as it takes.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::spool::{Spool, Spooled};
use crate::clock::Clock;
use crate::device::Files;
use crate::error::{Error, ErrorKind, Result};
use crate::parallel;
use crate::policy::{Policy, Throttle};
use crate::store::{PutOutcome, Store};
use crate::sync::lock::Mutex;
use crate::units::Sequence;
use crate::vault::{Catalog, CatalogEdit, SegmentEntry, SourceIdentity, layout};

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

/// What is in the vault, and that its catalog does not name yet: the oldest segments of the spool, which keeps them.
#[derive(Default)]
struct Unnamed {
    entries: Vec<SegmentEntry>,
    /// When the first of them was put.
    put_since: Option<Duration>,
    /// When the catalog was appended to last.
    named_at: Option<Duration>,
}

impl Unnamed {
    fn clear(&mut self) {
        self.entries.clear();
        self.put_since = None;
    }
}

/// What a call of [`Shipper::ship`] did.
pub(crate) struct Shipped {
    /// The last sequence in the catalog, when it named something.
    pub named: Option<Sequence>,
    /// When to call again.
    pub next: ShipNext,
}

/// What shipping waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ShipNext {
    /// Nothing: there may be more in the spool.
    Now,
    /// Segments in the spool.
    Segments,
    /// Bandwidth, which is asked again after this time.
    Bandwidth(Duration),
}

/// Moves segments from the spool to the vault.
pub(crate) struct Shipper {
    store: Arc<dyn Store>,
    files: Arc<dyn Files>,
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
        files: Arc<dyn Files>,
        volume: String,
        catalog: Catalog,
        source: SourceIdentity,
        policy: &Policy,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            store,
            files,
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
        self.catalog.lock().clone()
    }

    /// Bytes a second that went of late, or that the bandwidth allows where that is less; zero when nothing is known.
    pub(crate) fn bytes_per_second(&self) -> u64 {
        // Never negative; a fraction of a byte does not matter.
        #[allow(clippy::cast_sign_loss, reason = "an average of positive speeds")]
        let speed = *self.speed.lock() as u64;
        self.throttle
            .limit()
            .map_or(speed, |limit| if speed == 0 { limit } else { speed.min(limit) })
    }

    /// Puts what waits, oldest first, and names it in the catalog when that is due, or at once when `urgent`. Begins no
    /// put any more once `stopped`.
    pub(crate) fn ship(
        &self,
        spool: &Spool,
        urgent: bool,
        stopped: &dyn Fn() -> bool,
    ) -> Result<Shipped> {
        let mut unnamed = self.unnamed.lock();
        if let Some(last) = self.settle(spool, &mut unnamed)? {
            return Ok(Shipped { named: Some(last), next: ShipNext::Now });
        }
        let batch = spool.oldest_batch(unnamed.entries.len(), BATCH_MAX);
        let start = self.clock.elapsed();
        let mut next = if batch.is_empty() { ShipNext::Segments } else { ShipNext::Now };
        let (mut rest, mut bytes) = (batch.as_slice(), 0);
        while !rest.is_empty() {
            let (allowed, wait) = self.allowed(rest);
            if let (0, Some(wait)) = (allowed, wait) {
                next = ShipNext::Bandwidth(wait);
                break;
            }
            if stopped() {
                return Ok(Shipped { named: None, next });
            }
            let (chunk, after) = rest.split_at(allowed);
            for result in parallel::all(chunk, |spooled| self.put(spooled)) {
                let entry = result?;
                bytes += entry.summary.stored_bytes;
                unnamed.put_since.get_or_insert(start);
                unnamed.entries.push(entry);
            }
            rest = after;
            if self.clock.elapsed().saturating_sub(start) > BATCH_TIME {
                break;
            }
        }
        let more = matches!(next, ShipNext::Bandwidth(_));
        let named = self.name(spool, &mut unnamed, urgent, more)?;
        if bytes > 0 {
            self.note_speed(bytes, self.clock.elapsed().saturating_sub(start));
        }
        Ok(Shipped { named, next })
    }

    /// How many of the oldest segments may be put at once now; when none, the time until the bandwidth is asked again.
    fn allowed(&self, segments: &[Spooled]) -> (usize, Option<Duration>) {
        for (number, spooled) in segments.iter().take(self.puts_in_flight_max).enumerate() {
            if let Err(wait) = self.throttle.take(spooled.summary.stored_bytes) {
                return (number, Some(wait));
            }
        }
        (segments.len().min(self.puts_in_flight_max), None)
    }

    /// Waits up to `wait` for a segment that was not put.
    pub(crate) fn wait_for_segments(&self, spool: &Spool, wait: Duration) {
        let put = self.unnamed.lock().entries.len();
        spool.wait_for_more(put, wait);
    }

    /// Names what was put, when it is time.
    ///
    /// Where there is `more`, which waits for bandwidth, it is put first, for a time.
    fn name(
        &self,
        spool: &Spool,
        unnamed: &mut Unnamed,
        urgent: bool,
        more: bool,
    ) -> Result<Option<Sequence>> {
        let now = self.clock.elapsed();
        let slow = unnamed.put_since.is_some_and(|put| now.saturating_sub(put) > BATCH_TIME);
        let filling = more && !slow && unnamed.entries.len() < BATCH_MAX;
        let early =
            unnamed.named_at.is_some_and(|named| now.saturating_sub(named) < self.catalog_interval);
        let waits = (early || filling)
            && !urgent
            && unnamed.entries.len() < UNNAMED_MAX
            && !spool.is_crowded();
        if unnamed.entries.is_empty() || waits {
            return Ok(None);
        }
        let mut catalog = self.catalog.lock();
        let edit = CatalogEdit::Segments(unnamed.entries.clone());
        let appended = catalog.append(&self.source, vec![edit]);
        self.unsure.store(appended.is_err(), Ordering::Relaxed);
        if appended.as_ref().is_err_and(|error| error.kind() == ErrorKind::Changed) {
            // Not everything that was put is where this version would be put.
            unnamed.clear();
        }
        appended?;
        let last = catalog.last_sequence();
        drop(catalog);
        unnamed.named_at = Some(now);
        spool.shipped(unnamed.entries.len());
        unnamed.clear();
        Ok(Some(last))
    }

    /// After an append that failed: takes from the spool what the catalog names all the same, or has named, if it was folded
    /// since. More may have been put, and an append of segments that are there already would not continue the chain.
    fn settle(&self, spool: &Spool, unnamed: &mut Unnamed) -> Result<Option<Sequence>> {
        if !self.unsure.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let mut catalog = self.catalog.lock();
        catalog.refresh()?;
        // While the volume is this source's, nobody else adds sequences; one that lost it is told so by its next append.
        let is_ours = catalog.source().is_some_and(|owner| owner.id == self.source.id);
        let last = catalog.last_sequence();
        drop(catalog);
        let named = |put: &&SegmentEntry| is_ours && put.summary.last_sequence <= last;
        let count = unnamed.entries.iter().take_while(named).count();
        self.unsure.store(false, Ordering::Relaxed);
        spool.shipped(count);
        unnamed.entries.drain(..count);
        Ok((count > 0).then_some(last))
    }

    fn note_speed(&self, bytes: u64, took: Duration) {
        let newest = bytes as f64 / took.as_secs_f64().max(0.001);
        let mut speed = self.speed.lock();
        let weight = if *speed == 0.0 { 1.0 } else { SPEED_WEIGHT };
        *speed += weight * (newest - *speed);
    }

    fn put(&self, spooled: &Spooled) -> Result<SegmentEntry> {
        let object = layout::segment(&self.volume, &spooled.summary);
        let length = spooled.summary.stored_bytes;
        put_checked(&*self.store, &object, &*self.files, &spooled.path, length)?;
        Ok(SegmentEntry { object, summary: spooled.summary.clone() })
    }

    /// Looks whether others appended to the catalog, and reads what they did. One request when nobody did.
    pub(crate) fn look(&self) -> Result<()> {
        let mut catalog = self.catalog.lock();
        if catalog.is_behind()? {
            catalog.refresh()?;
        }
        let owner = catalog.source().filter(|owner| owner.id != self.source.id);
        owner.map_or(Ok(()), |owner| Err(fenced(&self.volume, owner)))
    }

    /// A short look at the catalog as it was read last; `None` while it is being appended to.
    pub(crate) fn peek<T>(&self, look: impl FnOnce(&Catalog) -> T) -> Option<T> {
        self.catalog.try_lock().map(|catalog| look(&catalog))
    }

    /// From now on this is the catalog.
    pub(crate) fn set_catalog(&self, catalog: Catalog) {
        *self.catalog.lock() = catalog;
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
            .message("another object of its name is in the vault")
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
