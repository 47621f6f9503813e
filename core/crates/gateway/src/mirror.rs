//! Mirroring: one vault follows another, object by object, without the keys of its volumes.
//!
//! For each volume a run copies what the newest catalog version may name, then the versions in
//! order, then deletes what the source deleted. Segments are listed after the versions, so every
//! segment that a listed version names existed. If retention removed one meanwhile, the run of the
//! volume begins anew with a newer version.
//!
//! Invariants: the mirror's catalog is a prefix of the source's, or begins at a snapshot of it.
//! Every segment that its newest version names exists. Of several versions the newest is added first
//! and the oldest last; a gate explains the gap and keeps readers at the version before until all
//! are there, because those between may name segments that the source has deleted. A failover to a
//! mirror that died in a run ends the gate and drops those versions; if the run goes on all the
//! same, it takes back what it added. A run never deletes what the mirror's catalog names (if it
//! can be read), and deletes nothing once the source lacks the volume: a lost source does no harm.
//!
//! A mirror with its own history (after a failover to it) is `Fenced`. A run killed anywhere is
//! continued by the next.
//!
//! A mirror is a vault of last resort, so what it deletes should be kept for a deletion delay (a
//! store of `hrl-maintain` does that). A shred is not followed at all for [`MirrorOptions::keep`]:
//! wrapped keys stay, and the marker of the shredded volume is not copied. `gone/TIME.NAME` says
//! since when the source lacks a key. A source whose history shrinks is reported.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hrl::store::{ObjectInfo, PutOutcome, Store, get_all};
use hrl::vault::{
    PACK_DATA_BYTES_MAX, PACK_MEMBERS_MAX, PackedStore, SNAPSHOT_EVERY, Vault, VersionNames, layout,
};
use hrl::{Clock, Error, ErrorKind, Result, Timestamp};

/// Most objects, or packs of small ones, copied at once.
const COPIES_IN_FLIGHT: usize = 4;
/// Larger objects go through a file, in chunks of this size.
const CHUNK_BYTES: u64 = 32 << 20;
/// Segments up to this size are packed together, before stores whose objects are not local files.
const SMALL_BYTES: u64 = 1 << 20;
/// Approximate bytes of a pack.
const PACK_BYTES: u64 = 8 << 20;
/// Most restarts of a volume's run because retention removed what was to be copied.
const RESTARTS_MAX: u32 = 8;
/// Largest object other than a segment: catalog versions, keys, records.
const RECORD_BYTES_MAX: u64 = 256 << 20;
/// Less is not reported as a history that shrank: it may be one fold.
const SHRUNK_BYTES_MIN: u64 = 64 << 20;
/// Names below a volume that say since when its source lacks a key.
const GONE: &str = "gone/";
/// How often the source's volumes are listed.
const VOLUMES_EVERY: Duration = Duration::from_secs(60);

/// Options of a mirror. Start from [`MirrorOptions::default`] and change fields.
#[derive(Clone, Debug, Default)]
pub struct MirrorOptions {
    /// Volumes to mirror. Default `None`: all volumes of the source.
    pub volumes: Option<Vec<String>>,
    /// Directory for temporary copies of objects above 32 MiB, with room for four of them. Default:
    /// the system's directory for temporary files.
    pub scratch: Option<PathBuf>,
    /// How long wrapped keys stay that the source has deleted. Default zero: as long as the store of
    /// the mirror keeps what is deleted.
    pub keep: Duration,
}

/// State of a volume's mirror after a run.
#[derive(Debug, Default)]
pub struct MirroredVolume {
    /// Name of the volume.
    pub volume: String,
    /// The source's catalog version when it was last seen.
    pub source_version: u64,
    /// The mirror's catalog version; never above that of the source.
    pub version: u64,
    /// How long the mirror has been behind, or was until this run caught up; zero if there was
    /// nothing to do.
    pub lag: Duration,
    /// Objects copied by this run, except catalog versions.
    pub objects_copied: u64,
    /// Bytes of these objects.
    pub bytes_copied: u64,
    /// Objects deleted by this run because the source had deleted them.
    pub objects_deleted: u64,
    /// Objects that the source has lost although the catalog names them; the mirror keeps its
    /// copies.
    pub source_lacks: u64,
    /// How the history of the source shrank since the last run, if it did: it was shredded, or lost
    /// more than half of what the mirror has. Retention does not do that. The mirror keeps what the
    /// source lost for as long as it is configured to; raise an alarm.
    pub shrunk: Option<String>,
    /// Why this run did not catch up, if so.
    pub failure: Option<Error>,
}

/// Makes one vault follow another. Each target permits one at a time.
pub struct Mirror {
    from: Vault,
    to: Vault,
    source: Arc<PackedStore>,
    target: Arc<PackedStore>,
    options: MirrorOptions,
    clock: Arc<dyn Clock>,
    volumes: Vec<String>,
    asked: Option<Duration>,
    /// For each volume: the source's objects, listed before its newest version was.
    seen: HashMap<String, HashSet<String>>,
    behind_since: HashMap<String, Duration>,
    scratch_files: AtomicU64,
}

impl Mirror {
    /// Mirrors `from` to `to`. Neither needs the keys of encrypted volumes. If `to` has them,
    /// objects that its catalog names are never deleted, whatever the source has lost.
    pub fn new(from: Vault, to: Vault, options: MirrorOptions, clock: Arc<dyn Clock>) -> Self {
        let (source, target) =
            (PackedStore::over(from.objects().clone()), PackedStore::over(to.objects().clone()));
        Self {
            from,
            to,
            source,
            target,
            options,
            clock,
            volumes: Vec::new(),
            asked: None,
            seen: HashMap::new(),
            behind_since: HashMap::new(),
            scratch_files: AtomicU64::new(0),
        }
    }

    /// Catches up once, volume by volume; call it repeatedly to follow. Calls `go_on` before each
    /// copy; returning false ends the run. A volume's failure is in its entry and does not stop the
    /// others.
    ///
    /// `Unavailable` if the source's volumes cannot be listed.
    pub fn run(&mut self, go_on: &(dyn Fn() -> bool + Sync)) -> Result<Vec<MirroredVolume>> {
        self.find_volumes()?;
        let mut report = Vec::new();
        for volume in self.volumes.clone() {
            let mut entry = MirroredVolume { volume: volume.clone(), ..MirroredVolume::default() };
            let result = self.catch_up(&volume, &mut entry, go_on);
            let now = self.clock.elapsed();
            if let Some(since) = self.behind_since.get(&volume) {
                entry.lag = now.saturating_sub(*since);
            }
            match result {
                Ok(()) => drop(self.behind_since.remove(&volume)),
                Err(error) => entry.failure = Some(error),
            }
            report.push(entry);
        }
        Ok(report)
    }

    fn find_volumes(&mut self) -> Result<()> {
        if let Some(wanted) = &self.options.volumes {
            self.volumes.clone_from(wanted);
            return Ok(());
        }
        let now = self.clock.elapsed();
        if self.asked.is_some_and(|asked| now.saturating_sub(asked) < VOLUMES_EVERY) {
            return Ok(());
        }
        // By name, so that a damaged record stops its own volume alone.
        self.volumes = self.from.volume_names()?;
        self.asked = Some(now);
        Ok(())
    }

    fn catch_up(
        &mut self,
        volume: &str,
        entry: &mut MirroredVolume,
        go_on: &(dyn Fn() -> bool + Sync),
    ) -> Result<()> {
        for _ in 0..RESTARTS_MAX {
            match self.try_once(volume, entry, go_on) {
                // Retention removed something between the listing and the copy.
                Err(error) if error.kind() == ErrorKind::NotFound && go_on() => {
                    if self.source.head(&layout::volume_record(volume))?.is_none() {
                        return Err(error
                            .message("the source does not have the volume; the mirror keeps it"));
                    }
                }
                result => return result,
            }
        }
        Err(Error::new(ErrorKind::Unavailable, "mirror", volume)
            .message("the source deletes faster than it is copied"))
    }

    fn try_once(
        &mut self,
        volume: &str,
        entry: &mut MirroredVolume,
        go_on: &(dyn Fn() -> bool + Sync),
    ) -> Result<()> {
        let (all, record) = (layout::volume_prefix(volume), layout::volume_record(volume));
        let catalog = layout::catalog_prefix(volume);
        let before = match self.seen.remove(volume) {
            Some(names) => names,
            None => names_of(&self.source.list(&all)?),
        };
        let theirs = VersionNames::of(&catalog, &self.source.list(&catalog)?);
        let theirs_all = self.source.list(&all)?;
        if !theirs_all.iter().any(|info| info.name == record) {
            return Err(Error::new(ErrorKind::NotFound, "mirror", volume));
        }
        let ours_all = self.target.list(&all)?;
        let ours = VersionNames::of(&catalog, &ours_all);
        entry.source_version = theirs.newest();
        entry.version = ours.readable();
        if theirs.newest() > entry.version {
            self.behind_since.entry(volume.to_owned()).or_insert_with(|| self.clock.elapsed());
        }
        if ours.newest() > theirs.newest() {
            return Err(own_history(volume, theirs.newest(), ours.newest()));
        }
        let have: HashMap<&str, u64> =
            ours_all.iter().map(|info| (info.name.as_str(), info.length)).collect();
        let there = names_of(&theirs_all);
        let kept = self.keep_keys(volume, &there, &ours_all)?;
        entry.shrunk = shrunk(volume, &there, &ours_all);
        let own = format!("{all}{GONE}");
        let marker = layout::shredded(volume);
        let missing = theirs_all.iter().filter(|info| {
            !info.name.starts_with(&catalog)
                && !info.name.starts_with(&own)
                && (kept.is_empty() || info.name != marker)
                && have.get(info.name.as_str()) != Some(&info.length)
        });
        self.copy(volume, &missing.cloned().collect::<Vec<_>>(), entry, go_on)?;
        self.check_same(&record, volume)?;
        self.copy_versions(&catalog, &theirs, &ours, go_on)?;
        entry.version = theirs.newest();
        let gone = ours_all.iter().map(|info| &info.name).filter(|name| {
            let is_gone = !before.contains(*name) && !there.contains(*name);
            is_gone
                && !name.starts_with(&catalog)
                && !name.starts_with(&own)
                && !kept.contains(*name)
        });
        self.delete(volume, gone.cloned().collect(), entry)?;
        self.seen.insert(volume.to_owned(), there);
        Ok(())
    }

    /// Returns the wrapped keys that the source lacks and that the mirror keeps for now.
    fn keep_keys(
        &self,
        volume: &str,
        there: &HashSet<String>,
        ours: &[ObjectInfo],
    ) -> Result<HashSet<String>> {
        let (keys, own) =
            (layout::keys_prefix(volume), format!("{}{GONE}", layout::volume_prefix(volume)));
        let (now, marker) = (self.clock.now(), layout::shredded(volume));
        let mut since: HashMap<String, (Timestamp, String)> = HashMap::new();
        for info in ours {
            let Some((time, name)) =
                info.name.strip_prefix(&own).and_then(|rest| rest.split_once('.'))
            else {
                continue;
            };
            let Ok(time) = i64::from_str_radix(time, 16) else { continue };
            since.insert(format!("{keys}{name}"), (Timestamp(time), info.name.clone()));
        }
        let mut kept = HashSet::new();
        let mut ended = Vec::new();
        let names = ours.iter().map(|info| &info.name);
        for name in names.filter(|name| name.starts_with(&keys) && **name != marker) {
            let known = since.remove(name);
            if there.contains(name) {
                ended.extend(known.map(|(_, object)| object));
                continue;
            }
            let at = known.as_ref().map_or(now, |(at, _)| *at);
            if u128::from(now.nanos_since(at)) < self.options.keep.as_nanos() {
                if known.is_none() {
                    let short = name.strip_prefix(&keys).unwrap_or(name);
                    self.target.put(&format!("{own}{:016x}.{short}", now.0.max(0)), b"")?;
                }
                kept.insert(name.clone());
            }
        }
        // Of keys that the mirror does not have any more, and of those that are back.
        ended.extend(since.into_values().map(|(_, object)| object));
        if !ended.is_empty() {
            self.target.delete_many(&ended)?;
        }
        Ok(kept)
    }

    /// Copies objects other than catalog versions; small segments in packs, if that saves requests.
    fn copy(
        &self,
        volume: &str,
        objects: &[ObjectInfo],
        entry: &mut MirroredVolume,
        go_on: &(dyn Fn() -> bool + Sync),
    ) -> Result<()> {
        let packs = self.target.local_path(layout::MARKER).is_none();
        let units = units_of(objects, packs);
        for some in units.chunks(COPIES_IN_FLIGHT) {
            if !go_on() {
                return Err(Error::new(ErrorKind::Unavailable, "mirror", volume)
                    .message("it was stopped; what was copied stays"));
            }
            let results: Vec<Result<()>> = std::thread::scope(|scope| {
                let copies: Vec<_> =
                    some.iter().map(|unit| scope.spawn(|| self.copy_unit(volume, unit))).collect();
                let ended = |copy: std::thread::ScopedJoinHandle<'_, _>| {
                    copy.join().unwrap_or_else(|_| Err(panicked(volume)))
                };
                copies.into_iter().map(ended).collect()
            });
            for (unit, result) in some.iter().zip(results) {
                result?;
                entry.objects_copied += unit.len() as u64;
                entry.bytes_copied += unit.iter().map(|info| info.length).sum::<u64>();
            }
        }
        Ok(())
    }

    fn copy_unit(&self, volume: &str, unit: &[&ObjectInfo]) -> Result<()> {
        if let [object] = unit {
            return self.copy_object(object);
        }
        let read = |info: &&ObjectInfo| {
            Ok((info.name.clone(), self.source.get(&info.name, 0..info.length)?))
        };
        let contents = unit.iter().map(read).collect::<Result<Vec<_>>>()?;
        self.target.put_packed(volume, &contents)
    }

    fn copy_object(&self, object: &ObjectInfo) -> Result<()> {
        let outcome = if object.length <= CHUNK_BYTES {
            let content = self.source.get(&object.name, 0..object.length)?;
            self.target.put(&object.name, &content)?
        } else {
            self.copy_by_file(object)?
        };
        if outcome == PutOutcome::Created {
            return Ok(());
        }
        let length = self.target.head(&object.name)?.map(|info| info.length);
        if length != Some(object.length) {
            return Err(Error::new(ErrorKind::Changed, "mirror", &object.name)
                .message("the mirror has another object of its name")
                .expected(format_args!("{} bytes", object.length))
                .found(length.unwrap_or_default()));
        }
        Ok(())
    }

    fn copy_by_file(&self, object: &ObjectInfo) -> Result<PutOutcome> {
        let mut random = [0; 8];
        self.clock.fill_random(&mut random);
        let random = u64::from_le_bytes(random);
        let number = self.scratch_files.fetch_add(1, Ordering::Relaxed);
        let directory = self.options.scratch.clone().unwrap_or_else(std::env::temp_dir);
        let path = directory.join(format!("hrl-mirror-{random:016x}-{number}"));
        let copied = || {
            let io = |error| Error::io("write", path.display(), error);
            let new = File::options().write(true).create_new(true).mode(0o600).open(&path);
            let mut file = new.map_err(io)?;
            let mut at = 0;
            while at < object.length {
                let end = object.length.min(at + CHUNK_BYTES);
                file.write_all(&self.source.get(&object.name, at..end)?).map_err(io)?;
                at = end;
            }
            file.sync_all().map_err(io)?;
            self.target.put_file(&object.name, &path)
        };
        let outcome = copied();
        // A leftover is in a directory for temporary files.
        let _ = std::fs::remove_file(&path);
        outcome
    }

    /// Adds the versions that the mirror lacks, so that readers see none or all of them.
    fn copy_versions(
        &self,
        catalog: &str,
        theirs: &VersionNames,
        ours: &VersionNames,
        go_on: &(dyn Fn() -> bool + Sync),
    ) -> Result<()> {
        let (newest, readable) = (theirs.newest(), ours.readable());
        let name = |number: u64| layout::catalog_version(catalog, number);
        if readable > 0 && theirs.has(readable) {
            self.check_same(&name(readable), catalog)?;
        }
        let first = (readable + 1).max(newest / SNAPSHOT_EVERY * SNAPSHOT_EVERY);
        if first < newest {
            self.target.put(&VersionNames::gate(catalog, readable, newest), &[])?;
        }
        let mut added = Vec::new();
        let copied = (first..=newest).rev().try_for_each(|number| {
            if !go_on() {
                return Err(Error::new(ErrorKind::Unavailable, "mirror", catalog)
                    .message("it was stopped; the next run goes on"));
            }
            let content = get_all(&*self.source, &name(number), RECORD_BYTES_MAX)?;
            match self.target.put(&name(number), &content)? {
                PutOutcome::Created => added.push(name(number)),
                PutOutcome::AlreadyExists => self.check_same(&name(number), catalog)?,
            }
            Ok(())
        });
        if copied.as_ref().is_err_and(|error| error.kind() == ErrorKind::Fenced) {
            self.target.delete_many(&added)?;
        }
        copied?;
        let there = VersionNames::of(catalog, &self.target.list(catalog)?);
        let is_whole = (first..=newest).all(|number| there.has(number));
        if !is_whole || (first < newest && !self.is_same(&name(first))?) {
            self.target.delete_many(&added)?;
            return Err(Error::new(ErrorKind::Fenced, "mirror", catalog).message(
                "a failover to the mirror began meanwhile and dropped versions of this run",
            ));
        }
        // Gates of runs that ended. A run that is under way elsewhere is not permitted.
        let holds = there.gates();
        let old = ours.numbers().filter(|number| *number + SNAPSHOT_EVERY < first);
        let old = old.filter(|number| !theirs.has(*number)).map(name);
        self.target.delete_many(&holds.into_iter().chain(old).collect::<Vec<_>>())
    }

    /// Fails with `Fenced` if an object of the mirror differs from the source's.
    fn check_same(&self, name: &str, object: &str) -> Result<()> {
        if self.is_same(name)? {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Fenced, "mirror", object).message(format_args!(
            "{name} is another one in the mirror, which has a history of its own"
        )))
    }

    fn is_same(&self, name: &str) -> Result<bool> {
        let theirs = get_all(&*self.source, name, RECORD_BYTES_MAX)?;
        Ok(theirs == get_all(&*self.target, name, RECORD_BYTES_MAX)?)
    }

    /// Deletes what the source deleted before its newest version was listed.
    fn delete(&self, volume: &str, gone: Vec<String>, entry: &mut MirroredVolume) -> Result<()> {
        if gone.is_empty() {
            return Ok(());
        }
        // Without the key the mirror's catalog cannot be read; the source's deletion decides.
        let named: HashSet<String> = match self.to.replica(volume) {
            Ok(replica) => replica.catalog().segments().iter().map(|e| e.object.clone()).collect(),
            Err(error) if error.kind() == ErrorKind::Unavailable => return Err(error),
            Err(_) => HashSet::new(),
        };
        let (kept, gone): (Vec<_>, Vec<_>) =
            gone.into_iter().partition(|name| named.contains(name));
        self.target.delete_many(&gone)?;
        entry.source_lacks = kept.len() as u64;
        entry.objects_deleted += gone.len() as u64;
        Ok(())
    }
}

/// Returns how the source's history shrank, given the names that it has.
fn shrunk(volume: &str, there: &HashSet<String>, ours: &[ObjectInfo]) -> Option<String> {
    let (keys, marker) = (layout::keys_prefix(volume), layout::shredded(volume));
    let wrapped = |name: &&String| name.starts_with(&keys) && **name != marker;
    let had_keys = ours.iter().any(|info| wrapped(&&info.name));
    if had_keys && !there.iter().any(|name| wrapped(&name)) {
        return Some(format!("the source has no wrapped key of volume {volume} any more"));
    }
    let segments = layout::segments_prefix(volume);
    let (mut all, mut gone) = (0_u64, 0_u64);
    for info in ours.iter().filter(|info| info.name.starts_with(&segments)) {
        all += info.length;
        if !there.contains(&info.name) {
            gone += info.length;
        }
    }
    let left: HashSet<&String> = there.iter().filter(|n| n.starts_with(&segments)).collect();
    let had = ours.iter().any(|info| info.name.starts_with(&segments));
    if had && left.is_empty() {
        return Some(format!("the source has no segment of volume {volume} any more"));
    }
    (gone > all / 2 && gone > SHRUNK_BYTES_MIN).then(|| {
        format!("the source lacks {gone} of the {all} bytes of volume {volume} that the mirror has")
    })
}

fn names_of(objects: &[ObjectInfo]) -> HashSet<String> {
    objects.iter().map(|info| info.name.clone()).collect()
}

/// Returns groups of objects for one put each: records before segments, and small segments
/// together.
fn units_of(objects: &[ObjectInfo], packs: bool) -> Vec<Vec<&ObjectInfo>> {
    let is_small = |info: &ObjectInfo| {
        packs && info.length <= SMALL_BYTES && PackedStore::packable(&info.name).is_some()
    };
    let mut units: Vec<Vec<&ObjectInfo>> = Vec::new();
    let mut bytes = 0;
    for info in objects {
        bytes += info.length;
        match units.last_mut() {
            Some(last)
                if is_small(info)
                    && is_small(last[0])
                    && last.len() < PACK_MEMBERS_MAX
                    && bytes <= PACK_BYTES.min(PACK_DATA_BYTES_MAX) =>
            {
                last.push(info);
            }
            _ => {
                units.push(vec![info]);
                bytes = info.length;
            }
        }
    }
    units
}

fn own_history(volume: &str, theirs: u64, ours: u64) -> Error {
    Error::new(ErrorKind::Fenced, "mirror", volume)
        .message("the mirror is ahead of its source: it has a history of its own")
        .expected(format_args!("at most catalog version {theirs}"))
        .found(ours)
}

fn panicked(volume: &str) -> Error {
    Error::new(ErrorKind::Unavailable, "mirror", volume).message("a store panicked")
}
