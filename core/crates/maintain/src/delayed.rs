//! A store whose deletes can be taken back.
//!
//! Each delete puts a tombstone first (`tombstone` says which), and only then deletes anything. A
//! crash in between leaves the object where it was: the delete did not return, so it may not have
//! happened.
//!
//! Invariants: nothing is removed from the store below without a tombstone that names or contains
//! it; nobody puts or deletes below `deleted/` through this store; a name whose object was moved
//! into a tombstone is free; a name whose object stays is free as well, although the object is still
//! there (`put` sees to that).
//!
//! A `get` still returns a deleted segment or pack, as a reader that began before may ask for it.
//! So a delete of segments that the catalog names is in no reader's way.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hrl::store::{ObjectInfo, PutOutcome, Store, check_name, delete_unlocked, get_all};
use hrl::sync::lock::Mutex;
use hrl::vault::layout;
use hrl::{Clock, Error, ErrorKind, Result, Timestamp};

use crate::delay::delay_of;
use crate::tombstone::{
    self, DELETED, Entry, Kind, TombstoneName, encode, kind_of, later, prefix_of, reserved,
};

/// How long a look at the delay, or at a vault without one, is believed.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Approximate bytes of a tombstone with the objects in it.
const BATCH_BYTES: u64 = 16 << 20;
/// Largest object that is moved into a tombstone.
const MOVED_BYTES_MAX: u64 = 512 << 20;
/// A name whose tombstone is due sooner is not given out: a purge may be under way.
const PURGE_MARGIN: Duration = Duration::from_secs(3600);
/// A delete of at most as many objects asks for each; of more, their directories are listed.
const HEADS_MAX: usize = 4;

/// A store over another one that keeps what is deleted for the deletion delay of the vault. Without
/// a delay it passes everything on. May be used from any thread.
pub struct DelayedStore {
    inner: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    by: String,
    known: Mutex<Known>,
}

/// What is known of the store below.
#[derive(Default)]
struct Known {
    /// The delay, whether anything lies below `deleted/`, and when that was looked up.
    look: Option<(Duration, bool, Duration)>,
    /// Names in each tombstone of [`Kind::Names`].
    tombstones: BTreeMap<String, HashSet<String>>,
}

impl Known {
    fn hides(&self, name: &str) -> bool {
        self.tombstones.values().any(|names| names.contains(name))
    }
}

impl DelayedStore {
    /// Keeps what is deleted from `inner`, in the name of `by`.
    pub fn over(inner: Arc<dyn Store>, clock: Arc<dyn Clock>, by: &str) -> Arc<Self> {
        Arc::new(Self { inner, clock, by: by.to_owned(), known: Mutex::default() })
    }

    /// Returns the store below, in which tombstones can be put and removed.
    pub fn inner(&self) -> &Arc<dyn Store> {
        &self.inner
    }

    /// Returns the delay, and whether tombstones may be there.
    fn look(&self) -> Result<(Duration, bool)> {
        let now = self.clock.elapsed();
        if let Some((delay, any, at)) = self.known.lock().look
            && now.saturating_sub(at) < LOOK_EVERY
        {
            return Ok((delay, any));
        }
        let delay = delay_of(&*self.inner)?;
        let any = !delay.is_zero() || !self.inner.list(DELETED)?.is_empty();
        self.known.lock().look = Some((delay, any, now));
        Ok((delay, any))
    }

    /// Reads the tombstones of a volume, or of all, that are not known yet. Returns the time of the
    /// newest.
    fn refresh(&self, volume: Option<&str>) -> Result<Timestamp> {
        let prefix = volume.map_or(DELETED.to_owned(), |volume| prefix_of(Some(volume)));
        let found = tombstone::list(&*self.inner, &prefix)?;
        let newest = found.iter().map(|name| name.time).max().unwrap_or(Timestamp(0));
        let names: Vec<_> = found.iter().filter(|name| name.kind == Kind::Names).collect();
        let new: Vec<_> = {
            let mut known = self.known.lock();
            let there: HashSet<_> = names.iter().map(|name| name.object.as_str()).collect();
            known.tombstones.retain(|object, _| {
                !object.starts_with(&prefix) || there.contains(object.as_str())
            });
            names.into_iter().filter(|name| !known.tombstones.contains_key(&name.object)).collect()
        };
        for name in new {
            let entries = match name.read(&*self.inner) {
                Ok(tombstone) => tombstone.entries,
                // Purged, or taken back, meanwhile.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                // It hides nothing. A purge reports it.
                Err(error) if error.kind() == ErrorKind::Corrupt => Vec::new(),
                Err(error) => return Err(error),
            };
            let names = entries.into_iter().map(|entry| entry.name).collect();
            self.known.lock().tombstones.insert(name.object.clone(), names);
        }
        Ok(newest)
    }

    /// Puts a tombstone. Its time is the later of the clock and `newest`, so that a clock that was
    /// set back makes nothing due early.
    fn put_tombstone(
        &self,
        volume: Option<&str>,
        kind: Kind,
        entries: &[Entry],
        (newest, delay): (Timestamp, Duration),
    ) -> Result<()> {
        let time = self.clock.now().max(newest);
        let mut id = [0; 8];
        self.clock.fill_random(&mut id);
        let times = (time, later(time, delay));
        let name = TombstoneName::new(volume, kind, times, u64::from_le_bytes(id));
        let content = encode(&self.by, kind, entries);
        if self.inner.put(&name.object, &content)? == PutOutcome::AlreadyExists {
            return Err(Error::new(ErrorKind::Unavailable, "delete", &name.object)
                .message("a tombstone has its name; try again"));
        }
        if kind == Kind::Names {
            let names = entries.iter().map(|entry| entry.name.clone()).collect();
            self.known.lock().tombstones.insert(name.object, names);
        }
        Ok(())
    }

    /// Deletes segments and packs of a volume: a tombstone names those that are there.
    fn bury(&self, volume: &str, names: &[&String], delay: Duration) -> Result<()> {
        let newest = self.refresh(Some(volume))?;
        let left: Vec<_> = {
            let known = self.known.lock();
            names.iter().filter(|name| !known.hides(name)).copied().collect()
        };
        let there = self.there(&left)?;
        if there.is_empty() {
            return Ok(());
        }
        let entry =
            |info: ObjectInfo| Entry { name: info.name, length: info.length, content: Vec::new() };
        let entries: Vec<_> = there.into_iter().map(entry).collect();
        self.put_tombstone(Some(volume), Kind::Names, &entries, (newest, delay))
    }

    /// Deletes other objects of a volume, or of none: their bytes go into tombstones first.
    fn put_away(&self, volume: Option<&str>, names: &[&String], delay: Duration) -> Result<()> {
        let found = tombstone::list(&*self.inner, &prefix_of(volume))?;
        let newest = found.iter().map(|name| name.time).max().unwrap_or(Timestamp(0));
        let mut there = self.there(names)?;
        // No tombstone for what stays in its place.
        let mut locked = None;
        for at in (0..there.len()).rev() {
            if self.inner.is_locked(&there[at].name)? {
                locked = Some(there.swap_remove(at).name);
            }
        }
        let mut waiting = there.iter().peekable();
        while waiting.peek().is_some() {
            let (mut batch, mut gone, mut bytes) = (Vec::new(), Vec::new(), 0_u64);
            while bytes < BATCH_BYTES
                && let Some(ObjectInfo { name, length }) = waiting.next()
            {
                if *length > MOVED_BYTES_MAX {
                    return Err(Error::new(ErrorKind::Full, "delete", name)
                        .message("it is too large to be kept for the deletion delay")
                        .expected(format_args!("at most {MOVED_BYTES_MAX} bytes"))
                        .found(length));
                }
                let content = match self.inner.get(name, 0..*length) {
                    Err(error) if error.kind() == ErrorKind::NotFound => continue,
                    content => content?,
                };
                bytes += content.len() as u64;
                gone.push(name.clone());
                batch.push(Entry { name: name.clone(), length: content.len() as u64, content });
            }
            if !batch.is_empty() {
                self.put_tombstone(volume, Kind::Bytes, &batch, (newest, delay))?;
                self.inner.delete_many(&gone)?;
            }
        }
        match locked {
            None => Ok(()),
            Some(name) => Err(Error::new(ErrorKind::Denied, "delete", name)
                .message("it is locked; delete it again when its lock is over")),
        }
    }

    /// Returns those of `names` that are in the store below, by few requests.
    fn there(&self, names: &[&String]) -> Result<Vec<ObjectInfo>> {
        let mut there = Vec::new();
        if names.len() <= HEADS_MAX {
            for name in names {
                there.extend(self.inner.head(name)?);
            }
            return Ok(there);
        }
        let wanted: HashSet<_> = names.iter().map(|name| name.as_str()).collect();
        let directory = |name: &str| name.rfind('/').map_or(0, |end| end + 1);
        let directories: BTreeSet<&str> =
            wanted.iter().map(|name| &name[..directory(name)]).collect();
        for prefix in directories {
            let all = self.inner.list(prefix)?;
            let found = all.into_iter().filter(|info| {
                wanted.contains(info.name.as_str()) && directory(&info.name) == prefix.len()
            });
            there.extend(found);
        }
        Ok(there)
    }

    /// Answers a put of a name that is taken in the store below: if that object was deleted, the
    /// name is free.
    fn put_again(
        &self,
        name: &str,
        content: &dyn Fn() -> Result<Vec<u8>>,
        put: &dyn Fn() -> Result<PutOutcome>,
    ) -> Result<PutOutcome> {
        let volume = layout::split_volume(name).map(|(volume, _)| volume);
        let (_, any) = self.look()?;
        let Some(volume) = volume.filter(|_| any && kind_of(name) == Kind::Names) else {
            return Ok(PutOutcome::AlreadyExists);
        };
        self.refresh(Some(volume))?;
        if !self.known.lock().hides(name) {
            return Ok(PutOutcome::AlreadyExists);
        }
        let content = content()?;
        let old = match get_all(&*self.inner, name, MOVED_BYTES_MAX) {
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            old => Some(old?),
        };
        let is_same = old.as_ref() == Some(&content);
        let (delay, _) = self.look()?;
        if let Some(content) = old.filter(|_| !is_same) {
            let entry = Entry { name: name.to_owned(), length: content.len() as u64, content };
            let newest = self.refresh(Some(volume))?;
            self.put_tombstone(Some(volume), Kind::Bytes, &[entry], (newest, delay))?;
            self.inner.delete(name)?;
        }
        self.take_back(volume, name)?;
        if is_same { Ok(PutOutcome::Created) } else { put() }
    }

    /// Removes a name from the tombstones of a volume.
    fn take_back(&self, volume: &str, name: &str) -> Result<()> {
        for old in tombstone::list(&*self.inner, &prefix_of(Some(volume)))? {
            if old.kind != Kind::Names {
                continue;
            }
            let tombstone = old.read(&*self.inner)?;
            let (these, others): (Vec<_>, Vec<_>) =
                tombstone.entries.into_iter().partition(|entry| entry.name == name);
            if these.is_empty() {
                continue;
            }
            if old.until <= later(self.clock.now(), PURGE_MARGIN) {
                return Err(Error::new(ErrorKind::Unavailable, "put", name)
                    .message("a deleted object of its name is about to be purged; try later"));
            }
            rewrite(&*self.inner, &*self.clock, &old, &tombstone.by, &others)?;
            self.known.lock().tombstones.remove(&old.object);
        }
        self.refresh(Some(volume)).map(drop)
    }
}

/// Replaces a tombstone by one of `left` entries, or by none if nothing is left.
pub(crate) fn rewrite(
    store: &dyn Store,
    clock: &dyn Clock,
    old: &TombstoneName,
    by: &str,
    left: &[Entry],
) -> Result<()> {
    if !left.is_empty() {
        let mut id = [0; 8];
        clock.fill_random(&mut id);
        let (volume, times) = (old.volume.as_deref(), (old.time, old.until));
        let name = TombstoneName::new(volume, old.kind, times, u64::from_le_bytes(id));
        store.put(&name.object, &encode(by, old.kind, left))?;
    }
    // A locked one goes with a later purge; until then it says the same twice.
    delete_unlocked(store, std::slice::from_ref(&old.object)).map(drop)
}

/// Whose segments and packs a listing may show.
enum Shows<'a> {
    Nobodys,
    One(&'a str),
    All,
}

/// Returns whose segments and packs a listing of `prefix` may show.
fn shows(prefix: &str) -> Shows<'_> {
    match layout::split_volume(prefix) {
        Some((volume, rest)) => {
            let part = |part: &str| part.starts_with(rest) || rest.starts_with(part);
            if part("segments/") || part("packs/") { Shows::One(volume) } else { Shows::Nobodys }
        }
        None if layout::VOLUMES.starts_with(prefix) || prefix.starts_with(layout::VOLUMES) => {
            Shows::All
        }
        None => Shows::Nobodys,
    }
}

impl Store for DelayedStore {
    fn name(&self) -> String {
        self.inner.name()
    }

    fn put(&self, name: &str, content: &[u8]) -> Result<PutOutcome> {
        if name.starts_with(DELETED) {
            return Err(reserved("put", name));
        }
        match self.inner.put(name, content)? {
            PutOutcome::Created => Ok(PutOutcome::Created),
            PutOutcome::AlreadyExists => {
                self.put_again(name, &|| Ok(content.to_vec()), &|| self.inner.put(name, content))
            }
        }
    }

    fn put_file(&self, name: &str, path: &Path) -> Result<PutOutcome> {
        if name.starts_with(DELETED) {
            return Err(reserved("put", name));
        }
        match self.inner.put_file(name, path)? {
            PutOutcome::Created => Ok(PutOutcome::Created),
            PutOutcome::AlreadyExists => {
                let read = || {
                    std::fs::read(path)
                        .map_err(|error| Error::io("read file", path.display(), error))
                };
                self.put_again(name, &read, &|| self.inner.put_file(name, path))
            }
        }
    }

    fn get(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>> {
        self.inner.get(name, range)
    }

    fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        if prefix.starts_with(DELETED) {
            return self.inner.list(prefix);
        }
        let volume = match shows(prefix) {
            Shows::One(volume) if self.look()?.1 => Some(volume),
            Shows::All if self.look()?.1 => None,
            _ => {
                let mut found = self.inner.list(prefix)?;
                found.retain(|info| !info.name.starts_with(DELETED));
                return Ok(found);
            }
        };
        self.refresh(volume)?;
        let mut found = self.inner.list(prefix)?;
        let known = self.known.lock();
        let hidden: HashSet<&str> =
            known.tombstones.values().flatten().map(String::as_str).collect();
        found
            .retain(|info| !info.name.starts_with(DELETED) && !hidden.contains(info.name.as_str()));
        Ok(found)
    }

    fn head(&self, name: &str) -> Result<Option<ObjectInfo>> {
        if kind_of(name) == Kind::Names
            && let Some((volume, _)) = layout::split_volume(name)
            && self.look()?.1
        {
            self.refresh(Some(volume))?;
            if self.known.lock().hides(name) {
                return Ok(None);
            }
        }
        self.inner.head(name)
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.delete_many(&[name.to_owned()])
    }

    fn delete_many(&self, names: &[String]) -> Result<()> {
        names.iter().try_for_each(|name| check_name(name))?;
        if let Some(name) = names.iter().find(|name| name.starts_with(DELETED)) {
            return Err(reserved("delete", name));
        }
        let (delay, _) = self.look()?;
        if delay.is_zero() {
            return self.inner.delete_many(names);
        }
        let mut groups: BTreeMap<(Option<&str>, bool), Vec<&String>> = BTreeMap::new();
        for name in names {
            let volume = layout::split_volume(name).map(|(volume, _)| volume);
            let stays = kind_of(name) == Kind::Names;
            groups.entry((volume, stays)).or_default().push(name);
        }
        for ((volume, _), names) in groups {
            match volume {
                Some(volume) if kind_of(names[0]) == Kind::Names => {
                    self.bury(volume, &names, delay)?;
                }
                volume => self.put_away(volume, &names, delay)?,
            }
        }
        Ok(())
    }

    fn may_delete(&self) -> bool {
        self.inner.may_delete()
    }

    fn is_locked(&self, name: &str) -> Result<bool> {
        // What stays in its place may be deleted: a tombstone names it.
        let (delay, _) = self.look()?;
        if !delay.is_zero() && kind_of(name) == Kind::Names {
            return Ok(false);
        }
        self.inner.is_locked(name)
    }

    fn renew_locks(&self, prefix: &str, is_unwanted: &dyn Fn(&str) -> bool) -> Result<()> {
        let volume = layout::split_volume(prefix).map(|(volume, _)| volume);
        if volume.is_some() && self.look()?.1 {
            self.refresh(volume)?;
        }
        self.inner.renew_locks(prefix, &|name| {
            // Not locked any more when the other is asked, which may list here.
            let is_hidden = self.known.lock().hides(name);
            is_hidden || is_unwanted(name)
        })
    }

    fn local_path(&self, name: &str) -> Option<PathBuf> {
        self.inner.local_path(name)
    }
}
