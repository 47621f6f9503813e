//! Brings back what was deleted from a vault since a time.
//!
//! For each volume: objects in tombstones are put back, the tombstones of segments are removed, and
//! the catalog says again what it said, by one appended version. So readers, agents, and whoever
//! remembers the highest version go on without a gap; what was shipped since stays.
//!
//! Each step can be repeated, and a tombstone goes only when its objects are back. So a run that was
//! killed anywhere is finished by the next one. Objects are put back in an order in which readers
//! find a whole catalog before they find the volume.
//!
//! An object that took the name of a deleted one gives way, into a tombstone of its own that is never
//! brought back. Versions of the catalog that can be read stay: somebody continued it meanwhile.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use hrl::journal::WrappingKey;
use hrl::replica::Replica;
use hrl::store::{PutOutcome, Store, get_all};
use hrl::vault::{CatalogEdit, SNAPSHOT_EVERY, Vault, VersionNames, layout};
use hrl::{Clock, Error, ErrorKind, PointId, Result, Timestamp};
use hrl_audit::{Audit, AuditedStore};

use crate::delay::{DEFAULT_DELAY, delay_of};
use crate::delayed::{DelayedStore, rewrite};
use crate::history::{History, Reinstated};
use crate::overlay::Overlay;
use crate::tombstone::{
    self, DELETED, Entry, Kind, Tombstone, TombstoneName, encode, later, prefix_of,
};

/// Versions that nobody with the key can have made, removed from the end of a catalog.
const UNREADABLE_MAX: usize = 256;
/// Times that a catalog is planned for anew because others appended meanwhile.
const RACES_MAX: u32 = 8;
/// Largest object that may be in the way of another.
const OBJECT_BYTES_MAX: u64 = 512 << 20;

/// Options of [`undelete`].
#[derive(Clone, Debug)]
pub struct UndeleteOptions {
    /// What was deleted at this time or later comes back.
    pub since: Timestamp,
    /// Volumes to bring back. Default `None`: all, and the objects of no volume.
    pub volumes: Option<Vec<String>>,
    /// Whether to change nothing and report what would come back. Default true.
    pub dry_run: bool,
    /// Who brings it back, in the audit log. Default "undelete".
    pub by: String,
}

impl UndeleteOptions {
    /// Makes options for what was deleted since a time, that change nothing yet.
    pub fn new(since: Timestamp) -> Self {
        Self { since, volumes: None, dry_run: true, by: "undelete".to_owned() }
    }
}

/// What came back of a volume, or would.
#[derive(Debug, Default)]
pub struct Undeleted {
    /// The volume; `None` for objects of no volume.
    pub volume: Option<String>,
    /// Objects that were deleted and are back.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Names that other objects had taken, which gave way.
    pub replaced: Vec<String>,
    /// Names in tombstones whose objects are gone all the same.
    pub lost: Vec<String>,
    /// Whether the volume had been shredded.
    pub was_shredded: bool,
    /// Points that the catalog lists again.
    pub points: Vec<PointId>,
    /// Segments that the catalog lists again.
    pub segments: u64,
    /// Pins and legal holds that are in force again.
    pub pins: u64,
    /// Folds that stay folded, because what they were made of is gone.
    pub folds_left: u64,
    /// The catalog version that says it again; `None` if the catalog needs none, or in a dry run.
    pub version: Option<u64>,
    /// Why the volume did not come back, or why its catalog could not be read. Objects come back
    /// without the key; folds do not.
    pub failure: Option<Error>,
}

/// Brings back what was deleted since a time. `store` is the store below any
/// [`DelayedStore`]; `key` the key-encryption key of encrypted volumes.
///
/// Run it again after any failure. Agents may run meanwhile; stop retention that would remove the
/// same again. One at a time.
pub fn undelete(
    store: &Arc<dyn Store>,
    key: Option<&WrappingKey>,
    clock: &Arc<dyn Clock>,
    options: &UndeleteOptions,
) -> Result<Vec<Undeleted>> {
    let audit = Arc::new(Audit::new(store.clone(), &options.by, clock.clone()));
    let recorded: Arc<dyn Store> =
        Arc::new(AuditedStore::new(store.clone(), audit, &options.by, "admin"));
    let store = if options.dry_run { store } else { &recorded };
    let run = Run { store, key, clock, options };
    let volumes: BTreeSet<Option<String>> = match &options.volumes {
        Some(volumes) => volumes.iter().cloned().map(Some).collect(),
        None => {
            let names = tombstone::list(&**store, DELETED)?;
            let names = names.into_iter().filter(|name| name.time >= options.since);
            let objects = store.list(layout::VOLUMES)?;
            let there = objects.iter().filter_map(|info| layout::volume_of_record(&info.name));
            let there = there.map(|name| Some(name.to_owned()));
            names.map(|name| name.volume).chain(there).collect()
        }
    };
    let one = |volume: Option<String>| {
        let mut done = Undeleted { volume: volume.clone(), ..Undeleted::default() };
        match run.bring_back(volume.as_deref(), &mut done) {
            Err(error) if error.kind() == ErrorKind::Unavailable => return Err(error),
            Err(error) => done.failure = Some(error),
            Ok(()) => {}
        }
        Ok(done)
    };
    volumes.into_iter().map(one).collect()
}

struct Run<'a> {
    store: &'a Arc<dyn Store>,
    key: Option<&'a WrappingKey>,
    clock: &'a Arc<dyn Clock>,
    options: &'a UndeleteOptions,
}

/// What is to be done for one volume.
struct Plan {
    tombstones: Vec<(TombstoneName, Tombstone)>,
    /// Objects out of tombstones, by name.
    restored: BTreeMap<String, Arc<[u8]>>,
    /// Objects that give way.
    hidden: HashSet<String>,
    /// The newest version that the key has made, if the catalog can be read.
    newest: Option<u64>,
}

impl Run<'_> {
    fn bring_back(&self, volume: Option<&str>, done: &mut Undeleted) -> Result<()> {
        let mut plan = self.read_tombstones(volume)?;
        let reinstated = match volume {
            Some(volume) => self.plan_volume(volume, &mut plan, done)?,
            None => None,
        };
        let back = self.objects_back(volume, &plan, done)?;
        if let Some(reinstated) = &reinstated {
            done.points.clone_from(&reinstated.points);
            (done.segments, done.pins) = (reinstated.segments, reinstated.pins);
            done.folds_left = reinstated.folds_left;
        }
        if self.options.dry_run {
            return Ok(());
        }
        self.put_back(volume, &plan, &back)?;
        self.remove_tombstones(&plan, &back)?;
        match (volume, reinstated) {
            (Some(volume), Some(reinstated)) => self.reinstate(volume, reinstated, &plan, done),
            _ => Ok(()),
        }
    }

    fn read_tombstones(&self, volume: Option<&str>) -> Result<Plan> {
        let mut plan = Plan {
            tombstones: Vec::new(),
            restored: BTreeMap::new(),
            hidden: HashSet::new(),
            newest: None,
        };
        let marker = volume.map(layout::shredded);
        for name in tombstone::list(&**self.store, &prefix_of(volume))? {
            if name.time < self.options.since || name.kind == Kind::Replaced {
                continue;
            }
            let tombstone = name.read(&**self.store)?;
            for entry in tombstone.entries.iter().filter(|_| name.kind == Kind::Bytes) {
                // The first delete since then removed what was there then.
                if marker.as_ref() != Some(&entry.name) {
                    let content = || entry.content.as_slice().into();
                    plan.restored.entry(entry.name.clone()).or_insert_with(content);
                }
            }
            plan.tombstones.push((name, tombstone));
        }
        Ok(plan)
    }

    /// Reads the volume as it would be with what comes back. Returns what its catalog is to say
    /// again, if it can be read.
    fn plan_volume(
        &self,
        volume: &str,
        plan: &mut Plan,
        done: &mut Undeleted,
    ) -> Result<Option<Reinstated>> {
        let (record, marker) = (layout::volume_record(volume), layout::shredded(volume));
        if let Some(old) = plan.restored.get(&record)
            && self.store.head(&record)?.is_some()
            && get_all(&**self.store, &record, OBJECT_BYTES_MAX)?[..] != old[..]
        {
            return Err(Error::new(ErrorKind::AlreadyExists, "undelete volume", volume)
                .message("another volume has its name since; nothing of either was changed"));
        }
        let keys = layout::keys_prefix(volume);
        let keys_back = plan.restored.keys().any(|name| name.starts_with(&keys));
        if keys_back && self.store.head(&marker)?.is_some() {
            plan.hidden.insert(marker);
            done.was_shredded = true;
        }
        match self.settle_versions(volume, plan).and_then(|()| self.open_restored(volume, plan)) {
            Ok((replica, overlay)) => Ok(Some(self.plan_catalog(volume, &replica, &overlay)?)),
            Err(error) if error.kind() == ErrorKind::Unavailable => Err(error),
            Err(error) => {
                done.failure = Some(error);
                Ok(None)
            }
        }
    }

    /// Decides about deleted versions whose numbers other versions have by now. Those stay if the
    /// catalog can be read with them: somebody continued it. Otherwise they give way.
    fn settle_versions(&self, volume: &str, plan: &mut Plan) -> Result<()> {
        let prefix = layout::catalog_prefix(volume);
        let mut contested = Vec::new();
        for (name, content) in &plan.restored {
            if version_of(&prefix, name).is_some()
                && self.occupant(name)?.is_some_and(|found| found[..] != content[..])
            {
                contested.push(name.clone());
            }
        }
        if contested.is_empty() {
            return Ok(());
        }
        let mut others = plan.restored.clone();
        others.retain(|name, _| !contested.contains(name));
        let hidden = plan.hidden.clone();
        let overlay = Overlay { inner: self.store.clone(), restored: others.clone(), hidden };
        let opened = Vault::awaited(Arc::new(overlay), self.key.cloned(), self.clock.clone());
        match opened.replica(volume) {
            Ok(replica) => {
                // Those that nobody with the key has made are ignored, so nobody continued with them.
                let end = replica.catalog().version();
                let (ignored, continued): (Vec<_>, Vec<_>) = contested
                    .into_iter()
                    .partition(|name| version_of(&prefix, name).is_some_and(|n| n > end));
                plan.restored.retain(|name, _| !continued.contains(name));
                plan.hidden.extend(ignored);
            }
            Err(error) if error.kind() == ErrorKind::Corrupt => plan.hidden.extend(contested),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Opens the volume as it would be. Versions at the end of its catalog that nobody with the key
    /// can have made are left out.
    fn open_restored(&self, volume: &str, plan: &mut Plan) -> Result<(Replica, Arc<Overlay>)> {
        let prefix = layout::catalog_prefix(volume);
        let mut left_out = HashSet::new();
        loop {
            let overlay = Arc::new(Overlay {
                inner: self.store.clone(),
                restored: plan.restored.clone(),
                hidden: plan.hidden.union(&left_out).cloned().collect(),
            });
            let store: Arc<dyn Store> = overlay.clone();
            let opened = Vault::awaited(store, self.key.cloned(), self.clock.clone());
            match opened.replica(volume) {
                Ok(replica) => {
                    // What a reader ignores after the end is in nobody's way, and gives way all the same.
                    let names = VersionNames::of(&prefix, &overlay.list(&prefix)?);
                    let end = replica.catalog().version();
                    let ignored = names.numbers().filter(|n| *n > end && names.gates().is_empty());
                    for name in ignored.map(|number| layout::catalog_version(&prefix, number)) {
                        if plan.restored.remove(&name).is_none() {
                            left_out.insert(name);
                        }
                    }
                    let hidden = plan.hidden.union(&left_out).cloned().collect();
                    let overlay = Arc::new(Overlay {
                        inner: self.store.clone(),
                        restored: plan.restored.clone(),
                        hidden,
                    });
                    plan.newest = Some(end);
                    plan.restored.retain(|name, _| !left_out.contains(name));
                    plan.hidden.extend(left_out);
                    return Ok((replica, overlay));
                }
                Err(error)
                    if error.kind() == ErrorKind::Corrupt && left_out.len() < UNREADABLE_MAX =>
                {
                    let names = VersionNames::of(&prefix, &overlay.list(&prefix)?);
                    if names.newest() <= 1 {
                        return Err(error);
                    }
                    let newest = layout::catalog_version(&prefix, names.newest());
                    if plan.restored.contains_key(&newest) {
                        plan.restored.remove(&newest);
                    } else {
                        left_out.insert(newest);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn plan_catalog(
        &self,
        volume: &str,
        replica: &Replica,
        overlay: &Arc<Overlay>,
    ) -> Result<Reinstated> {
        let prefix = layout::catalog_prefix(volume);
        let names = VersionNames::of(&prefix, &overlay.list(&prefix)?);
        let history = History::read(replica.catalog(), &names, self.options.since)?;
        let store: Arc<dyn Store> = overlay.clone();
        let opened = Vault::awaited(store, None, self.clock.clone());
        let there = opened.store().list(&layout::segments_prefix(volume))?;
        let there: HashSet<String> = there.into_iter().map(|info| info.name).collect();
        let is_there = |object: &str| there.contains(object);
        Ok(history.reinstate(replica.catalog(), &is_there, self.clock.now()))
    }

    /// Returns the names of the objects that are put back out of tombstones, in order. Versions that
    /// no reader needs stay in their tombstones.
    fn objects_back(
        &self,
        volume: Option<&str>,
        plan: &Plan,
        done: &mut Undeleted,
    ) -> Result<Vec<String>> {
        let below = match volume {
            Some(volume) => self.store.list(&layout::volume_prefix(volume))?,
            None => Vec::new(),
        };
        let first = volume.map_or(0, |volume| {
            let prefix = layout::catalog_prefix(volume);
            let is_shown = |name: &str| !plan.hidden.contains(name);
            let shown: Vec<_> = below.iter().filter(|i| is_shown(&i.name)).cloned().collect();
            let newest = VersionNames::of(&prefix, &shown).newest();
            let number = |name: &String| version_of(&prefix, name);
            let there = plan.restored.keys().filter_map(number).max().unwrap_or(0).max(newest);
            let newest = plan.newest.unwrap_or(there);
            (newest / SNAPSHOT_EVERY * SNAPSHOT_EVERY).saturating_sub(SNAPSHOT_EVERY)
        });
        let mut back = Vec::new();
        for (name, content) in &plan.restored {
            let prefix = volume.map(layout::catalog_prefix).unwrap_or_default();
            if version_of(&prefix, name).is_some_and(|number| number < first) {
                continue;
            }
            match self.occupant(name)? {
                Some(found) if found[..] == content[..] => {}
                Some(_) if version_of(&prefix, name).is_some() && !plan.hidden.contains(name) => {
                    // Somebody continued the catalog with another version of this number.
                    continue;
                }
                found => {
                    done.objects += 1;
                    done.bytes += content.len() as u64;
                    done.replaced.extend(found.map(|_| name.clone()));
                }
            }
            back.push(name.clone());
        }
        done.replaced.extend(plan.hidden.iter().filter(|n| !back.contains(n)).cloned());
        done.replaced.sort();
        let there: HashSet<&str> = below.iter().map(|info| info.name.as_str()).collect();
        let named = plan.tombstones.iter().filter(|(name, _)| name.kind == Kind::Names);
        for entry in named.flat_map(|(_, tombstone)| &tombstone.entries) {
            if there.contains(entry.name.as_str()) {
                done.objects += 1;
                done.bytes += entry.length;
            } else {
                done.lost.push(entry.name.clone());
            }
        }
        back.sort_by_key(|name| rank(name));
        Ok(back)
    }

    fn occupant(&self, name: &str) -> Result<Option<Vec<u8>>> {
        match get_all(&**self.store, name, OBJECT_BYTES_MAX) {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn put_back(&self, volume: Option<&str>, plan: &Plan, back: &[String]) -> Result<()> {
        for name in &plan.hidden {
            self.give_way(volume, name)?;
        }
        for name in back {
            let content = &plan.restored[name];
            if self.store.put(name, content)? == PutOutcome::Created {
                continue;
            }
            if self.occupant(name)?.as_deref() != Some(&content[..]) {
                self.give_way(volume, name)?;
                if self.store.put(name, content)? == PutOutcome::AlreadyExists {
                    return Err(Error::new(ErrorKind::Unavailable, "undelete", name)
                        .message("somebody puts another object of its name; try again"));
                }
            }
        }
        Ok(())
    }

    /// Moves an object that is in the way into a tombstone that is not brought back.
    fn give_way(&self, volume: Option<&str>, name: &str) -> Result<()> {
        let Some(content) = self.occupant(name)? else { return Ok(()) };
        let entry = Entry { name: name.to_owned(), length: content.len() as u64, content };
        let delay = delay_of(&**self.store)?;
        let delay = if delay.is_zero() { DEFAULT_DELAY } else { delay };
        let mut id = [0; 8];
        self.clock.fill_random(&mut id);
        let (time, id) = (self.clock.now(), u64::from_le_bytes(id));
        let times = (time, later(time, delay));
        let tombstone = TombstoneName::new(volume, Kind::Replaced, times, id);
        self.store.put(&tombstone.object, &encode("undelete", Kind::Replaced, &[entry]))?;
        self.store.delete(name)
    }

    /// Removes tombstones whose objects are back. What stays away stays in them.
    fn remove_tombstones(&self, plan: &Plan, back: &[String]) -> Result<()> {
        let back: HashSet<&str> = back.iter().map(String::as_str).collect();
        for (name, tombstone) in &plan.tombstones {
            let left: Vec<_> = match name.kind {
                Kind::Names => Vec::new(),
                Kind::Bytes | Kind::Replaced => {
                    let is_left = |entry: &&Entry| {
                        !back.contains(entry.name.as_str())
                            || plan.restored[&entry.name][..] != entry.content[..]
                    };
                    tombstone.entries.iter().filter(is_left).cloned().collect()
                }
            };
            if left.len() < tombstone.entries.len() {
                rewrite(&**self.store, &**self.clock, name, &tombstone.by, &left)?;
            }
        }
        Ok(())
    }

    /// Makes the catalog say again what it said.
    fn reinstate(
        &self,
        volume: &str,
        mut reinstated: Reinstated,
        plan: &Plan,
        done: &mut Undeleted,
    ) -> Result<()> {
        // What this removes of old versions goes into tombstones, too.
        let store: Arc<dyn Store> =
            DelayedStore::over(self.store.clone(), self.clock.clone(), "undelete");
        let vault = Vault::awaited(store, self.key.cloned(), self.clock.clone());
        for _ in 0..RACES_MAX {
            if reinstated.source.is_none() && reinstated.edits.is_empty() {
                return Ok(());
            }
            let mut catalog = vault.replica(volume)?.into_catalog();
            if let Some(source) = reinstated.source.take() {
                let edits = vec![CatalogEdit::Source(source.clone())];
                catalog.append(&source, edits)?;
                done.version = Some(catalog.version());
            }
            if reinstated.edits.is_empty() {
                return Ok(());
            }
            match catalog.amend(&reinstated.edits, &|| Ok(())) {
                Err(error) if error.kind() == ErrorKind::Changed => {}
                amended => {
                    done.version = Some(catalog.version());
                    return amended;
                }
            }
            let mut again = Plan {
                tombstones: Vec::new(),
                restored: plan.restored.clone(),
                hidden: HashSet::new(),
                newest: None,
            };
            let (replica, overlay) = self.open_restored(volume, &mut again)?;
            reinstated = self.plan_catalog(volume, &replica, &overlay)?;
        }
        Err(Error::new(ErrorKind::Unavailable, "undelete volume", volume)
            .message("others changed its catalog each time; run it again"))
    }
}

/// Returns the number of a catalog version.
fn version_of(prefix: &str, name: &str) -> Option<u64> {
    crate::tombstone::hex(name.strip_prefix(prefix).filter(|_| !prefix.is_empty())?)
}

/// Returns the place of an object in the order of putting back: the catalog in the order of its
/// versions, then others, keys, and the record that makes the volume one.
fn rank(name: &str) -> u8 {
    let rest = layout::split_volume(name).map_or("", |(_, rest)| rest);
    match rest {
        "volume" => 3,
        rest if rest.starts_with("keys/") => 2,
        rest if rest.starts_with("catalog/") => 0,
        _ => 1,
    }
}
