//! The disk cache of a gateway: segments that are acknowledged as durable, on their way to the
//! vault.
//!
//! It is a directory store, so acknowledged segments survive a kill and a power failure. A segment
//! leaves once the vault has it. If packing pays, small segments wait for others of their volume:
//! until there are enough, the oldest has waited its time, the cache is half full, or a catalog
//! version waits for them. They are then put as one object (`vault::pack`). After a kill between
//! the put and the deletion, the next gateway puts them once more, with the same bytes and no
//! effect.
//!
//! If the vault does not take a volume's segments, they are tried again after growing pauses, and
//! other volumes continue. If the vault has other bytes under a segment's name, the first one wins,
//! as with any put-if-absent: the later one is moved aside into `.conflicts` and reported, so that
//! it holds up nobody. Each client has a share of the cache.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hrl::bytes::hex;
use hrl::store::{DirStore, ObjectInfo, PutOutcome, Store, get_all};
use hrl::sync::lock::{Condvar, Mutex, MutexGuard};
use hrl::vault::{PACK_DATA_BYTES_MAX, PACK_MEMBERS_MAX, PackedStore, layout};
use hrl::{Clock, Error, ErrorKind, Result};
use hrl_tls::EnrolledClient;

use crate::client::OBJECT_BYTES_MAX;
use crate::newness::Newness;

/// Most packs and single objects forwarded at once.
const FORWARDS_IN_FLIGHT: usize = 4;
/// Pauses between two tries to forward the segments of a volume.
const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(15);

/// How segments are packed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packing {
    /// Approximate bytes of a pack; zero packs nothing.
    pub bytes_max: u64,
    /// How long a segment waits for others.
    pub wait_max: Duration,
}

struct Waiting {
    info: ObjectInfo,
    since: Duration,
}

/// A volume with segments in the cache.
#[derive(Default)]
struct Volume {
    /// Requests that wait until its segments are in the vault.
    drains: u32,
    /// Time of the next try after a failure.
    retry_at: Duration,
    pause: Duration,
}

#[derive(Default)]
struct CacheState {
    /// Objects that are not in the vault yet, in order of arrival.
    waiting: BTreeMap<u64, Waiting>,
    volumes: HashMap<String, Volume>,
    next: u64,
    bytes: u64,
    /// Bytes of each volume with waiting objects.
    volume_bytes: HashMap<String, u64>,
}

/// A segment under whose name the vault has other bytes.
#[derive(Debug)]
pub(crate) struct Conflict {
    pub name: String,
    pub error: Error,
}

/// Objects that go to the vault in one request.
struct Unit {
    volume: String,
    objects: Vec<(u64, ObjectInfo)>,
}

/// Result of a round of forwarding.
#[derive(Debug, Default)]
pub(crate) struct Forwarded {
    pub objects: u64,
    /// Puts that moved them to the vault.
    pub puts: u64,
    /// The last failure.
    pub failure: Option<Error>,
    /// Segments that were moved aside.
    pub conflicts: Vec<Conflict>,
}

/// File with the identity of a cache; object names never begin with a dot.
const IDENTITY: &str = ".identity";
/// Directory of segments that were moved aside.
const CONFLICTS: &str = ".conflicts";
/// Segments that are kept there; further ones are dropped.
const CONFLICTS_MAX: usize = 100;

/// Objects between acknowledgement and vault.
pub(crate) struct Cache {
    store: DirStore,
    identity: String,
    directory: PathBuf,
    bytes_max: u64,
    packing: Packing,
    clock: Arc<dyn Clock>,
    newness: Newness,
    state: Mutex<CacheState>,
    changed: Condvar,
}

impl Cache {
    /// Opens the cache with the segments that an earlier gateway left.
    pub(crate) fn open(
        directory: &Path,
        bytes_max: u64,
        packing: Packing,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        let store = DirStore::create(directory)?;
        let identity = identity(directory, &*clock)?;
        let mut state = CacheState::default();
        // Names of segments sort by sequence within a volume, which was the order of arrival.
        for info in store.list("")? {
            state.add(info, clock.elapsed());
        }
        let (state, changed) = (Mutex::new(state), Condvar::new());
        let newness = Newness::new(clock.clone());
        let directory = directory.to_owned();
        Ok(Self { store, identity, directory, bytes_max, packing, clock, newness, state, changed })
    }

    /// Returns the identity of the cache. It changes if the directory is lost.
    pub(crate) fn identity(&self) -> &str {
        &self.identity
    }

    /// Stores an object of a client durably. `Full` at the limit of the cache, and at the client's
    /// share of it.
    pub(crate) fn put(
        &self,
        client: &EnrolledClient,
        share_bytes_max: u64,
        name: &str,
        content: &[u8],
    ) -> Result<PutOutcome> {
        let length = content.len() as u64;
        let full = |bytes_max: u64, found: &str| {
            Error::new(ErrorKind::Full, "cache", name)
                .expected(format_args!("room for {length} bytes below {bytes_max} in all"))
                .found(format_args!("{found}: the vault does not take segments"))
        };
        {
            let state = self.lock();
            if state.bytes + length > self.bytes_max {
                return Err(full(self.bytes_max, "a full cache"));
            }
            let of_client = state.volume_bytes.iter().filter(|(name, _)| client.has_volume(name));
            if of_client.map(|(_, bytes)| bytes).sum::<u64>() + length > share_bytes_max {
                let found = format!("the share of client {} in use", client.name);
                return Err(full(share_bytes_max, &found));
            }
        }
        let outcome = self.store.put(name, content)?;
        if outcome == PutOutcome::Created {
            self.lock().add(ObjectInfo { name: name.to_owned(), length }, self.clock.elapsed());
            self.changed.notify_all();
        }
        Ok(outcome)
    }

    /// Returns an object that waits for the vault.
    pub(crate) fn head(&self, name: &str) -> Option<ObjectInfo> {
        let state = self.lock();
        state.waiting.values().find(|waiting| waiting.info.name == name).map(|w| w.info.clone())
    }

    pub(crate) fn get(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>> {
        self.store.get(name, range)
    }

    /// Returns the waiting objects under a prefix.
    pub(crate) fn list(&self, prefix: &str) -> Vec<ObjectInfo> {
        let state = self.lock();
        let infos = state.waiting.values().map(|waiting| &waiting.info);
        infos.filter(|info| info.name.starts_with(prefix)).cloned().collect()
    }

    /// Returns the number and the bytes of waiting objects.
    pub(crate) fn size(&self) -> (u64, u64) {
        let state = self.lock();
        (state.waiting.len() as u64, state.bytes)
    }

    /// Waits until all present objects of a volume, or of all volumes (an empty name), are in the
    /// vault. Returns false at the limit.
    pub(crate) fn wait_drained(&self, volume: &str, limit: Duration) -> bool {
        let mut state = self.lock();
        let last = state.next;
        let is_meant = |info: &ObjectInfo| volume.is_empty() || volume_of(&info.name) == volume;
        let waits =
            |state: &mut CacheState| state.waiting.range(..last).any(|(_, w)| is_meant(&w.info));
        if !waits(&mut state) {
            return true;
        }
        state.volumes.entry(volume.to_owned()).or_default().drains += 1;
        self.changed.notify_all();
        let waited = self.changed.wait_timeout_while(state, limit, waits);
        let (mut state, waited) = waited;
        if let Some(known) = state.volumes.get_mut(volume) {
            known.drains -= 1;
            if known.drains == 0 && known.pause.is_zero() {
                state.volumes.remove(volume);
            }
        }
        !waited.timed_out()
    }

    /// Moves due objects to the vault, oldest first, and waits up to `wait` if none is due.
    pub(crate) fn forward(&self, vault: &PackedStore, wait: Duration) -> Forwarded {
        let units = {
            let mut state = self.lock();
            let mut units = self.due(&state);
            if units.is_empty() {
                let waited = self.changed.wait_timeout(state, wait);
                state = waited.0;
                units = self.due(&state);
            }
            units
        };
        let results: Vec<Result<Vec<Conflict>>> = std::thread::scope(|scope| {
            let moves: Vec<_> =
                units.iter().map(|unit| scope.spawn(|| self.move_to(vault, unit))).collect();
            moves.into_iter().map(|m| m.join().unwrap_or_else(|_| Err(panicked()))).collect()
        });
        let mut forwarded = Forwarded::default();
        for (unit, result) in units.into_iter().zip(results) {
            match result {
                Ok(conflicts) => {
                    forwarded.objects += (unit.objects.len() - conflicts.len()) as u64;
                    forwarded.puts += u64::from(unit.objects.len() > conflicts.len());
                    forwarded.conflicts.extend(conflicts);
                    self.lock().arrived(&unit);
                }
                Err(error) => {
                    let now = self.clock.elapsed();
                    let mut state = self.lock();
                    let volume = state.volumes.entry(unit.volume).or_default();
                    volume.pause = (volume.pause * 2).clamp(RETRY_MIN, RETRY_MAX);
                    volume.retry_at = now + volume.pause;
                    forwarded.failure = Some(error);
                }
            }
        }
        self.changed.notify_all();
        forwarded
    }

    /// Returns what goes next: at most [`FORWARDS_IN_FLIGHT`] units, each of one volume.
    fn due(&self, state: &CacheState) -> Vec<Unit> {
        let now = self.clock.elapsed();
        let mut units: Vec<Unit> = Vec::new();
        let mut small: HashMap<&str, Vec<(u64, &Waiting)>> = HashMap::new();
        let is_paused = |volume: &str| state.volumes.get(volume).is_some_and(|v| now < v.retry_at);
        for (number, waiting) in &state.waiting {
            let volume = volume_of(&waiting.info.name);
            if is_paused(volume) {
                continue;
            }
            if self.is_small(&waiting.info) {
                small.entry(volume).or_default().push((*number, waiting));
            } else if units.len() < FORWARDS_IN_FLIGHT {
                let objects = vec![(*number, waiting.info.clone())];
                units.push(Unit { volume: volume.to_owned(), objects });
            }
        }
        let drains = |volume: &str| state.volumes.get(volume).is_some_and(|v| v.drains > 0);
        let crowded = state.bytes > self.bytes_max / 2 || drains("");
        let mut volumes: Vec<_> = small.into_iter().collect();
        // Volumes that a request waits for go first, then the oldest.
        volumes.sort_by_key(|(volume, waiting)| (!drains(volume), waiting[0].0));
        for (volume, waiting) in volumes {
            let bytes: u64 = waiting.iter().map(|(_, waiting)| waiting.info.length).sum();
            let waited = now.saturating_sub(waiting[0].1.since);
            let due = crowded
                || drains(volume)
                || waited >= self.packing.wait_max
                || bytes >= self.packing.bytes_max
                || waiting.len() >= PACK_MEMBERS_MAX;
            if due && units.len() < FORWARDS_IN_FLIGHT {
                units.push(self.pack_of(volume, &waiting));
            }
        }
        units
    }

    /// Returns as many of the oldest objects as fit into a pack.
    fn pack_of(&self, volume: &str, waiting: &[(u64, &Waiting)]) -> Unit {
        let mut bytes = 0;
        let limit = self.packing.bytes_max.min(PACK_DATA_BYTES_MAX);
        let fit = waiting.iter().take(PACK_MEMBERS_MAX).take_while(|(_, waiting)| {
            bytes += waiting.info.length;
            bytes <= limit
        });
        let objects = fit.map(|(number, waiting)| (*number, waiting.info.clone())).collect();
        Unit { volume: volume.to_owned(), objects }
    }

    /// Returns whether an object goes into a pack: it leaves room for others.
    fn is_small(&self, info: &ObjectInfo) -> bool {
        info.length <= self.packing.bytes_max.min(PACK_DATA_BYTES_MAX) / 4
            && self.packing.bytes_max > 0
            && PackedStore::packable(&info.name).is_some()
    }

    /// Puts a unit into the vault, and takes it from the cache. Returns the segments that were moved
    /// aside.
    fn move_to(&self, vault: &PackedStore, unit: &Unit) -> Result<Vec<Conflict>> {
        let (mut new, mut conflicts) = (Vec::new(), Vec::new());
        // In the order of sequences, which a source that puts many at once need not keep.
        let mut objects: Vec<_> = unit.objects.iter().map(|(_, info)| info).collect();
        objects.sort_by(|a, b| a.name.cmp(&b.name));
        for info in objects {
            let content = get_all(&self.store, &info.name, OBJECT_BYTES_MAX)?;
            // A gateway may have put it before: then the bytes are the same.
            if self.newness.is_new(vault, &info.name)? {
                new.push((info.name.clone(), content));
            } else {
                conflicts.extend(compare(vault, &info.name, &content)?);
            }
        }
        match &new[..] {
            [] => {}
            [(name, content)] => {
                if vault.put(name, content)? == PutOutcome::AlreadyExists {
                    conflicts.extend(compare(vault, name, content)?);
                }
            }
            contents => vault.put_packed(&unit.volume, contents)?,
        }
        for conflict in &conflicts {
            self.move_aside(&conflict.name);
        }
        let names: Vec<_> = unit.objects.iter().map(|(_, info)| info.name.clone()).collect();
        self.store.delete_many(&names)?;
        Ok(conflicts)
    }

    /// Keeps a copy of a segment outside of the cache, unless there are many already.
    fn move_aside(&self, name: &str) {
        let directory = self.directory.join(CONFLICTS);
        let kept = std::fs::create_dir_all(&directory).and_then(|()| directory.read_dir());
        if kept.is_ok_and(|kept| kept.count() < CONFLICTS_MAX)
            && let Some(path) = self.store.local_path(name)
        {
            // The first one is in the vault; this copy is for people alone.
            let _ = std::fs::rename(path, directory.join(name.replace('/', ".")));
        }
    }

    fn lock(&self) -> MutexGuard<'_, CacheState> {
        self.state.lock()
    }
}

impl CacheState {
    fn add(&mut self, info: ObjectInfo, since: Duration) {
        self.bytes += info.length;
        *self.volume_bytes.entry(volume_of(&info.name).to_owned()).or_default() += info.length;
        self.waiting.insert(self.next, Waiting { info, since });
        self.next += 1;
    }

    fn arrived(&mut self, unit: &Unit) {
        for (number, info) in &unit.objects {
            self.waiting.remove(number);
            self.bytes -= info.length;
            if let Some(bytes) = self.volume_bytes.get_mut(&unit.volume) {
                *bytes -= info.length;
            }
        }
        self.volume_bytes.retain(|_, bytes| *bytes > 0);
        let left = self.waiting.values().any(|w| volume_of(&w.info.name) == unit.volume);
        match self.volumes.get_mut(&unit.volume) {
            Some(volume) if left || volume.drains > 0 => volume.pause = Duration::ZERO,
            Some(_) => drop(self.volumes.remove(&unit.volume)),
            None => {}
        }
    }
}

/// Returns the identity of the cache in a directory; draws it when the cache is first opened.
fn identity(directory: &Path, clock: &dyn Clock) -> Result<String> {
    let path = directory.join(IDENTITY);
    match std::fs::read_to_string(&path) {
        Ok(known) if known.len() == 32 && known.bytes().all(|b| b.is_ascii_hexdigit()) => {
            return Ok(known);
        }
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::io("open cache", path.display(), error));
        }
        // No identity, or half of one after a crash: nothing was acknowledged under it.
        _ => {}
    }
    let mut random = [0_u8; 16];
    clock.fill_random(&mut random);
    let text = hex(&random).to_string();
    std::fs::write(&path, &text)
        .and_then(|()| std::fs::File::open(&path)?.sync_all())
        .and_then(|()| std::fs::File::open(directory)?.sync_all())
        .map_err(|error| Error::io("make cache", path.display(), error))?;
    Ok(text)
}

/// Returns the volume that a segment belongs to.
fn volume_of(name: &str) -> &str {
    layout::split_volume(name).map_or("", |(volume, _)| volume)
}

/// Returns a conflict if the vault has other bytes under a name.
fn compare(vault: &PackedStore, name: &str, content: &[u8]) -> Result<Option<Conflict>> {
    let found = get_all(vault, name, OBJECT_BYTES_MAX)?;
    if found == content {
        return Ok(None);
    }
    let error = Error::new(ErrorKind::Corrupt, "forward", name)
        .message("another object of its name was in the vault first and stays")
        .expected(format_args!("its {} bytes", content.len()))
        .found(format_args!("{} others", found.len()));
    Ok(Some(Conflict { name: name.to_owned(), error }))
}

fn panicked() -> Error {
    Error::new(ErrorKind::Unavailable, "forward", "vault").message("the store panicked")
}
