//! A vault: a store with protected volumes in it, and the door to each one's replica.
//!
//! ```text
//! hrl-vault                          marks the store as a vault, with its version
//! volumes/NAME/volume                identity, size, key (immutable)
//! volumes/NAME/keys/…                see `keys`
//! volumes/NAME/catalog/…             see `catalog`
//! volumes/NAME/segments/…            see `journal`
//! ```

use std::collections::HashMap;
use std::sync::Arc;

use super::annotations::{Pin, PinUntil, Verdict, VerdictKind};
use super::at::At;
use super::catalog::Catalog;
use super::changes::ChangeSet;
use super::codec::{Decoder, Encoder};
use super::compact::{CompactOptions, CompactReport, Compactor};
use super::edit::{CatalogEdit, Division, SegmentEntry};
use super::history::TimelineEntry;
use super::keys::mark_name;
use super::lifecycle::Step;
use super::restore::{RestoreReport, RestoreTarget};
use super::retention::RetentionPlan;
use super::verify::VerifyReport;
use super::view::{View, ViewOptions};
use super::{Progress, changes, parallel, restore, retention, verify};
use crate::clock::{Clock, random_bytes};
use crate::error::{Error, ErrorKind, Result};
use crate::extent::ExtentSet;
use crate::journal::{
    KeyRing, MarkEntry, ObjectSource, PointKind, Segment, SegmentKind, SegmentSource,
    SegmentSummary, WrappingKey,
};
use crate::policy::RetentionPolicy;
use crate::store::{PROBE_PREFIX, PackedStore, PutOutcome, Store, check_put_if_absent, get_all};
use crate::units::{ChainHash, Epoch, KeyId, PointId, Sequence, Timestamp, VolumeId};

const MARKER: &str = "hrl-vault";
const MARKER_CONTENT: &[u8] = b"hrl vault 1\n";
const VOLUME_MAGIC: &[u8; 8] = b"HRLVOL\x01\x00";
pub(super) const RECORD_BYTES_MAX: u64 = 64 << 10;
/// Segments of a view whose ends, read with their footers, are kept for their indexes: 16 MiB. With more segments each index
/// is a request of its own.
const TAILS_MAX: usize = 256;
/// Segments open at once where all are gone through.
const OPENED_MAX: usize = 64;
/// Longest name of a volume.
const NAME_BYTES_MAX: usize = 128;

/// What the vault says of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeInfo {
    /// Name in the vault.
    pub name: String,
    /// Random identity.
    pub id: VolumeId,
    /// Size in bytes.
    pub device_bytes: u64,
    /// Logical block size in bytes.
    pub block_bytes: u32,
    /// When it was first protected.
    pub created: Timestamp,
    /// Name of the key that it is sealed with; `None` when it is not encrypted.
    pub key_id: Option<KeyId>,
    /// Changes are tracked without their data.
    pub extents_only: bool,
    /// Its keys were deleted: nothing of it can be read any more.
    pub shredded: bool,
}

/// A recovery point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveryPoint {
    /// Its identity.
    pub id: PointId,
    /// What it promises.
    pub kind: PointKind,
    /// Its place in the write order.
    pub sequence: Sequence,
    /// When it was marked.
    pub time: Timestamp,
    /// Its label; may be empty.
    pub label: String,
    /// Epoch of its writes.
    pub epoch: Epoch,
    /// Identity shared by the members of a group point. With a kind that is none of a group's, its round made no point of the
    /// group as far as this volume knows; see [`Vault::group_points`].
    pub group: Option<PointId>,
    /// Chain hash of the segment that ends with it: names everything before it.
    pub chain: ChainHash,
    /// What keeps it through retention; expired pins included until retention takes them off.
    pub pins: Vec<Pin>,
    /// What checks of it found.
    pub verdicts: Vec<Verdict>,
}

/// Why a point is the newest good one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GoodBecause {
    /// Checks of it found it good.
    Checked,
    /// Nothing was checked; it is application-consistent.
    ApplicationConsistent,
    /// Nothing was checked; it is the newest point.
    Newest,
}

impl GoodBecause {
    /// Stable lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Checked => "checked",
            Self::ApplicationConsistent => "application-consistent",
            Self::Newest => "newest",
        }
    }
}

/// A store with volumes in it. Cheap to clone; may be used from any thread.
#[derive(Clone)]
pub struct Vault {
    /// Shows segments under their names also where they lie in packs.
    pub(super) store: Arc<dyn Store>,
    /// The store below, with all its objects.
    pub(super) objects: Arc<dyn Store>,
    pub(super) wrapping_key: Option<WrappingKey>,
    pub(super) clock: Arc<dyn Clock>,
}

impl Vault {
    /// Opens a vault, and makes an empty store one. `InvalidInput` when other things are in the store, `Unsupported` when
    /// it does not keep put-if-absent; stores whose objects are local files are not asked.
    pub fn create(
        store: Arc<dyn Store>,
        wrapping_key: Option<WrappingKey>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        if store.head(MARKER)?.is_none() {
            let objects = store.list("")?;
            if let Some(other) = objects.iter().find(|info| !info.name.starts_with(PROBE_PREFIX)) {
                return Err(Error::new(ErrorKind::InvalidInput, "create vault", store.name())
                    .expected("an empty store, or a vault")
                    .found(&other.name));
            }
            if store.local_path(MARKER).is_none() {
                check_put_if_absent(&*store, &*clock)?;
            }
            store.put(MARKER, MARKER_CONTENT)?;
        }
        Self::open(store, wrapping_key, clock)
    }

    /// Opens a vault. `NotFound` when the store is none, `Unsupported` when it is of a newer version.
    pub fn open(
        store: Arc<dyn Store>,
        wrapping_key: Option<WrappingKey>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        if store.head(MARKER)?.is_none() {
            return Err(Error::new(ErrorKind::NotFound, "open vault", store.name())
                .expected(format_args!("an object named {MARKER}"))
                .found("none: this is no vault"));
        }
        let content = get_all(&*store, MARKER, RECORD_BYTES_MAX)?;
        if content != MARKER_CONTENT {
            return Err(Error::new(ErrorKind::Unsupported, "open vault", store.name())
                .expected(format_args!("an object {MARKER} that says hrl vault 1"))
                .found(String::from_utf8_lossy(&content).trim()));
        }
        Ok(Self { store: PackedStore::over(store.clone()), objects: store, wrapping_key, clock })
    }

    /// The same vault by a handle of its own, see [`Store::separate`].
    pub(crate) fn separate(&self) -> Self {
        let mut vault = self.clone();
        if let Some(objects) = self.objects.separate() {
            vault.store = PackedStore::over(objects.clone());
            vault.objects = objects;
        }
        vault
    }

    /// The store of the vault. Segments have their names in it also where they lie in packs.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The store below, with all its objects.
    pub(crate) fn objects(&self) -> &Arc<dyn Store> {
        &self.objects
    }

    /// Returns the clock of the vault.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Returns the key-encryption key that the vault was opened with.
    pub fn wrapping_key(&self) -> Option<&WrappingKey> {
        self.wrapping_key.as_ref()
    }

    /// The volumes, by name.
    pub fn volumes(&self) -> Result<Vec<VolumeInfo>> {
        let objects = self.objects.list("volumes/")?;
        objects
            .iter()
            .filter_map(|info| info.name.strip_prefix("volumes/")?.strip_suffix("/volume"))
            .map(|name| {
                let mark = mark_name(name);
                let shredded = objects.iter().any(|info| info.name == mark);
                self.read_volume(name, shredded)
            })
            .collect()
    }

    /// What the vault says of a volume; `NotFound` lists those that it has.
    pub fn volume(&self, name: &str) -> Result<VolumeInfo> {
        check_volume_name(name)?;
        if self.store.head(&record_name(name))?.is_none() {
            let known: Vec<_> = self
                .objects
                .list("volumes/")?
                .iter()
                .filter_map(|info| {
                    Some(info.name.strip_prefix("volumes/")?.strip_suffix("/volume")?.to_owned())
                })
                .collect();
            return Err(Error::new(ErrorKind::NotFound, "find volume", name)
                .expected(format_args!("one of [{}]", known.join(", ")))
                .found(name));
        }
        self.read_volume(name, self.is_shredded(name)?)
    }

    fn read_volume(&self, name: &str, shredded: bool) -> Result<VolumeInfo> {
        let object = record_name(name);
        let record = get_all(&*self.store, &object, RECORD_BYTES_MAX)?;
        Ok(VolumeInfo { shredded, ..decode_volume(name, &record, &object)? })
    }

    /// Adds a volume. `AlreadyExists` when the name is taken, also by what shredding left. When the vault was opened with
    /// a wrapping key, a new volume key is made and everything of the volume is sealed.
    pub fn create_volume(
        &self,
        name: &str,
        device_bytes: u64,
        block_bytes: u32,
        extents_only: bool,
    ) -> Result<VolumeInfo> {
        check_volume_name(name)?;
        let taken = |why: &str| {
            Err(Error::new(ErrorKind::AlreadyExists, "create volume", name).message(why))
        };
        let left = self.store.list(&format!("volumes/{name}/catalog/"))?;
        if self.is_shredded(name)? || !left.is_empty() {
            return taken("objects of a volume of this name are left; shred it with its data");
        }
        let id = VolumeId(random_bytes(&*self.clock));
        let key = self.add_key(name, id)?;
        let info = VolumeInfo {
            name: name.to_owned(),
            id,
            device_bytes,
            block_bytes,
            created: self.clock.now(),
            key_id: key.as_ref().map(|(key_id, _)| *key_id),
            extents_only,
            shredded: false,
        };
        match self.store.put(&record_name(name), &encode_volume(&info))? {
            PutOutcome::Created => Ok(info),
            PutOutcome::AlreadyExists => {
                if let Some((_, object)) = key {
                    self.store.delete(&object)?;
                }
                taken("the vault has a volume of this name")
            }
        }
    }

    /// Opens the replica of a volume as of its newest catalog version. `WrongKey` when it is sealed and the wrapping
    /// key is missing or another, when it was shredded, and when it is not sealed and a wrapping key was given.
    ///
    /// `NAME@EPOCH` is the branch of an ended epoch, see [`Replica::branch`].
    pub fn replica(&self, name: &str) -> Result<Replica> {
        if let Some((name, epoch)) = name.split_once('@') {
            let epoch = epoch.parse().map(Epoch).map_err(|_| {
                Error::new(ErrorKind::InvalidInput, "open branch of", name)
                    .expected("the number of an epoch after the @")
                    .found(epoch)
            })?;
            return self.replica(name)?.branch(epoch);
        }
        let info = self.volume(name)?;
        let keys = self.keys(&info)?;
        self.open_replica(info, keys)
    }

    /// As [`Vault::replica`] for who has its keys already, so that a rotated key-encryption key does not matter.
    pub(crate) fn replica_with_keys(&self, name: &str, keys: &KeyRing) -> Result<Replica> {
        self.open_replica(self.volume(name)?, keys.clone())
    }

    fn open_replica(&self, info: VolumeInfo, keys: KeyRing) -> Result<Replica> {
        let catalog = Catalog::load(&self.store, &self.clock, &info.name, info.id, keys.newest())?;
        Ok(Replica { store: self.store.clone(), info, keys, catalog })
    }
}

/// One volume in a vault, as of the catalog version read last. May be used from any thread.
#[derive(Clone)]
pub struct Replica {
    store: Arc<dyn Store>,
    info: VolumeInfo,
    keys: KeyRing,
    catalog: Catalog,
}

impl Replica {
    /// What the vault says of the volume.
    pub fn info(&self) -> &VolumeInfo {
        &self.info
    }

    /// The keys that open its segments.
    pub fn keys(&self) -> &KeyRing {
        &self.keys
    }

    /// Its catalog.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// Its catalog, to append to.
    pub fn into_catalog(self) -> Catalog {
        self.catalog
    }

    /// The branch of an ended epoch, to be read like a volume: the history up to the failover, then what the old source wrote
    /// after it. Nothing can be pinned or folded in it. `NotFound` lists the branches.
    pub fn branch(&self, epoch: Epoch) -> Result<Self> {
        Ok(Self { catalog: self.catalog.of_branch(epoch)?, ..self.clone() })
    }

    /// The volume as it will be after a division; nothing is written.
    pub(crate) fn divided(&self, division: &Division) -> Result<Self> {
        Ok(Self { catalog: self.catalog.divided(division)?, ..self.clone() })
    }

    /// Gives a branch up: its objects are retired, and deleted by retention when their grace is over. Durable when it returns.
    /// `NotFound` lists the branches, `InvalidInput` names an older branch that stands on this one.
    pub fn drop_branch(&mut self, epoch: Epoch) -> Result<()> {
        self.refresh()?;
        if let Some(older) = self.catalog.stands_on(epoch) {
            return Err(Error::new(ErrorKind::InvalidInput, "drop branch of epoch", epoch)
                .message("a branch stands on it, drop that first")
                .found(format_args!(
                    "the branch of epoch {} from sequence {}",
                    older.epoch, older.at
                )));
        }
        let segments = &self.catalog.branch(epoch)?.segments;
        let objects = segments.iter().map(|entry| entry.object.clone()).collect();
        let retired = CatalogEdit::Retired { objects, at: self.clock().now() };
        self.catalog.amend(&[CatalogEdit::DropBranch(epoch), retired], &|| Ok(()))
    }

    /// Records a step of the volume's life cycle, see [`Lifecycle`](super::Lifecycle).
    pub(crate) fn record_step(&mut self, step: &Step) -> Result<()> {
        self.catalog.record_step(step)
    }

    /// Reads what was appended to the catalog since.
    pub fn refresh(&mut self) -> Result<()> {
        self.catalog.refresh()
    }

    pub(crate) fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    pub(super) fn clock(&self) -> &Arc<dyn Clock> {
        self.catalog.clock()
    }

    pub(super) fn catalog_mut(&mut self) -> &mut Catalog {
        &mut self.catalog
    }

    /// Keeps a point through retention, in place of an earlier pin (or legal hold) of it. Durable when it returns.
    /// `NotFound` when there is no such point, `Full` beyond [`PINS_MAX`](super::PINS_MAX) pins.
    pub fn pin(&mut self, at: &At, until: PinUntil, reason: &str) -> Result<Pin> {
        let point = self.find_point(at)?;
        let since = self.clock().now();
        let pin = Pin { point, until, reason: reason.to_owned(), since };
        self.catalog.amend(&[CatalogEdit::Pin(pin.clone())], &|| Ok(()))?;
        Ok(pin)
    }

    /// Takes the pin of a point off, or with `hold` its legal hold: neither takes off the other. `NotFound` when there
    /// is none.
    pub fn unpin(&mut self, at: &At, hold: bool) -> Result<()> {
        let point = self.find_point(at)?;
        self.catalog.amend(&[CatalogEdit::Unpin { point, hold }], &|| Ok(()))
    }

    /// Stores what a check of a point found. The last point whose checks were all good is never dropped.
    pub fn record_verdict(
        &mut self,
        at: &At,
        kind: VerdictKind,
        ok: bool,
        text: &str,
    ) -> Result<Verdict> {
        let point = self.find_point(at)?;
        let time = self.clock().now();
        let verdict = Verdict { point, kind, ok, time, text: text.to_owned() };
        self.catalog.amend(&[CatalogEdit::Verdict(verdict.clone())], &|| Ok(()))?;
        Ok(verdict)
    }

    /// What retention would do now; nothing is read but the catalog.
    pub fn retention_plan(&self, policy: &RetentionPolicy) -> RetentionPlan {
        retention::plan(&self.catalog, policy, self.clock().now())
    }

    /// Carries retention out once, see [`Compactor::run`].
    pub fn compact(
        &mut self,
        policy: &RetentionPolicy,
        options: &CompactOptions,
        progress: Progress<'_>,
    ) -> Result<CompactReport> {
        Compactor::default().run(self, policy, options, progress)
    }

    /// The recovery point that `at` means; `NotFound` when it is a state, but no point.
    fn find_point(&mut self, at: &At) -> Result<PointId> {
        self.refresh()?;
        let sequence = self.resolve(at)?;
        let points = self.points();
        let found = points.iter().rev().find(|point| match at {
            At::Point(id) => point.id == *id || point.group == Some(*id),
            _ => point.sequence == sequence,
        });
        found.map(|point| point.id).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "find point", at)
                .expected("a recovery point")
                .found(format_args!("sequence {sequence}, which is none"))
        })
    }

    /// The recovery points, oldest first. Those in unordered intervals are none.
    pub fn points(&self) -> Vec<RecoveryPoint> {
        let mut pins: HashMap<PointId, Vec<Pin>> = HashMap::new();
        for pin in self.catalog.pins() {
            pins.entry(pin.point).or_default().push(pin.clone());
        }
        let mut verdicts: HashMap<PointId, Vec<Verdict>> = HashMap::new();
        for verdict in self.catalog.verdicts() {
            verdicts.entry(verdict.point).or_default().push(verdict.clone());
        }
        let point = |(entry, mark): (&SegmentEntry, &MarkEntry)| RecoveryPoint {
            id: mark.mark.point,
            kind: match mark.mark.group {
                Some(group) if self.catalog.commitment(group).is_none() => PointKind::Crash,
                _ => mark.mark.kind,
            },
            sequence: mark.sequence,
            time: mark.time,
            label: mark.mark.label.clone(),
            epoch: entry.summary.epoch,
            group: mark.mark.group,
            chain: entry.summary.chain,
            pins: pins.remove(&mark.mark.point).unwrap_or_default(),
            verdicts: verdicts.remove(&mark.mark.point).unwrap_or_default(),
        };
        self.catalog.point_marks().map(point).collect()
    }

    /// The history in stretches, ordered or not.
    pub fn timeline(&self) -> Vec<TimelineEntry> {
        self.catalog.timeline()
    }

    /// The sequence that `at` means. `NotFound` lists the newest points or names the fold that the state is gone in,
    /// `NotOrdered` the cause of the gap.
    pub fn resolve(&self, at: &At) -> Result<Sequence> {
        let points = self.points();
        let found = match at {
            At::Newest => self.catalog.newest_ordered(),
            At::NewestGood => Some(self.newest_good()?.0.sequence),
            At::Sequence(sequence) => {
                Some(*sequence).filter(|s| *s <= self.catalog.last_sequence())
            }
            At::Time(time) => self.sequence_at(*time)?,
            At::Point(id) => {
                points.iter().find(|p| p.id == *id || p.group == Some(*id)).map(|p| p.sequence)
            }
            At::PointPrefix(digits) => {
                let begins = |id: PointId| id.to_string().starts_with(digits.as_str());
                let mut fits =
                    points.iter().filter(|p| begins(p.id) || p.group.is_some_and(begins));
                match (fits.next(), fits.next()) {
                    (Some(_), Some(_)) => {
                        return Err(Error::new(ErrorKind::InvalidInput, "find", at)
                            .expected("digits that one point alone begins with")
                            .found("more than one"));
                    }
                    (found, _) => found.map(|p| p.sequence),
                }
            }
            At::Label(label) => points.iter().rev().find(|p| p.label == *label).map(|p| p.sequence),
        };
        let Some(sequence) = found else {
            let newest: Vec<_> = points
                .iter()
                .rev()
                .take(3)
                .map(|p| format!("{} at sequence {} ({})", p.id, p.sequence, p.time))
                .collect();
            return Err(Error::new(
                ErrorKind::NotFound,
                "find",
                format_args!("{at} of {}", self.info.name),
            )
            .expected(format_args!(
                "a sequence up to {} or a point; the newest are [{}]",
                self.catalog.last_sequence(),
                newest.join(", ")
            )));
        };
        self.check_ordered(sequence)?;
        self.check_kept(sequence)?;
        Ok(sequence)
    }

    /// The volume as of `at`, readable without a restore.
    pub fn view(&self, at: &At, options: &ViewOptions) -> Result<View> {
        let sequence = match at {
            At::Sequence(sequence) if options.unordered => *sequence,
            _ => self.resolve(at)?,
        };
        let segments = self.segments_through(sequence)?;
        View::from_segments(&self.info, segments, sequence, options)
    }

    /// Writes the volume as of `at` to a file or device.
    pub fn restore(
        &self,
        at: &At,
        target: &RestoreTarget,
        progress: Progress<'_>,
    ) -> Result<RestoreReport> {
        restore::run(&self.view(at, &ViewOptions::default())?, target, progress)
    }

    /// What was written after `from`, up to `to`.
    pub fn changes(&self, from: &At, to: &At) -> Result<ChangeSet> {
        let (from, to) = (self.resolve(from)?, self.resolve(to)?);
        changes::between(self, from, to)
    }

    /// Every byte that may have changed after `from`, up to `to`; more than a change set where segments were folded.
    pub(crate) fn touched(&self, from: Sequence, to: Sequence) -> Result<ExtentSet> {
        changes::touched(self, from, to)
    }

    /// The newest point that checks found good, and none bad; where there is none the newest application-consistent point,
    /// and where there is none of these the newest point: never one that a check found bad. With it, why it is.
    ///
    /// `NotFound` when there is no such point.
    pub fn newest_good(&self) -> Result<(RecoveryPoint, GoodBecause)> {
        let mut left = self.points();
        left.retain(|point| point.verdicts.iter().all(|verdict| verdict.ok));
        let is_app = |kind| matches!(kind, PointKind::App | PointKind::GroupApp);
        let verified = left.iter().rposition(|point| !point.verdicts.is_empty());
        let app = || left.iter().rposition(|point| is_app(point.kind));
        let (at, why) = match verified {
            Some(at) => (at, GoodBecause::Checked),
            None => match app() {
                Some(at) => (at, GoodBecause::ApplicationConsistent),
                None => (left.len().wrapping_sub(1), GoodBecause::Newest),
            },
        };
        if at < left.len() {
            return Ok((left.swap_remove(at), why));
        }
        Err(Error::new(ErrorKind::NotFound, "find newest-good of", &self.info.name)
            .expected("a point that no check found bad")
            .found("none"))
    }

    /// Checks everything that the catalog names.
    pub fn verify(&self, progress: Progress<'_>) -> Result<VerifyReport> {
        verify::run(self, progress)
    }

    /// Opens a segment of the catalog; errors name its object. `Corrupt` when it is of a volume of another size, so that
    /// nothing reaches past the volume's end.
    pub fn open_segment(&self, object: &str) -> Result<Segment> {
        self.opened(ObjectSource::open(&self.store, object)?)
    }

    pub(super) fn opened(&self, source: Box<dyn SegmentSource>) -> Result<Segment> {
        let segment = Segment::open(source, &self.keys)?;
        let (expected, found) = (self.info.device_bytes, segment.params().device_bytes);
        if found != expected {
            return Err(Error::new(ErrorKind::Corrupt, "open segment", segment.name())
                .expected(format_args!("a volume of {expected} bytes"))
                .found(format_args!("one of {found}")));
        }
        Ok(segment)
    }

    /// The segments that a view at `sequence` needs: from the newest image on.
    fn segments_through(&self, sequence: Sequence) -> Result<Vec<Arc<Segment>>> {
        let entries = self.catalog.segments();
        let end = entries.partition_point(|entry| entry.summary.first_sequence <= sequence);
        let start = entries[..end]
            .iter()
            .rposition(|entry| {
                entry.summary.kind == SegmentKind::Image && entry.summary.last_sequence <= sequence
            })
            .unwrap_or(0);
        let remote = self.store.local_path(MARKER).is_none();
        let many = end - start > TAILS_MAX;
        parallel::each(&entries[start..end], remote, |entry| {
            let segment = self.open_entry(entry)?;
            if many {
                segment.forget_index();
            }
            Ok(Arc::new(segment))
        })
    }

    /// When an object of the volume arrived in the vault, as its store tells: the time of the file where objects are local
    /// files, `None` otherwise. The catalog does not record it.
    pub fn arrived(&self, object: &str) -> Option<Timestamp> {
        let modified = self.store.local_path(object)?.metadata().ok()?.modified().ok()?;
        let since = modified.duration_since(std::time::UNIX_EPOCH).ok()?;
        i64::try_from(since.as_nanos()).ok().map(Timestamp)
    }

    /// Calls `work` for every segment of the catalog in write order, and opens those that `wanted` chooses. The segments
    /// of a remote store are opened many at once. The first error ends it and is returned.
    pub fn each_segment(
        &self,
        wanted: &mut dyn FnMut(&SegmentSummary) -> bool,
        work: &mut dyn FnMut(&SegmentSummary, Option<Segment>) -> Result<()>,
    ) -> Result<()> {
        let remote = self.store.local_path(MARKER).is_none();
        for entries in self.catalog.segments().chunks(OPENED_MAX) {
            let entries: Vec<_> = entries.iter().map(|e| (e, wanted(&e.summary))).collect();
            let opened = parallel::each(&entries, remote, |(entry, wanted)| {
                wanted.then(|| self.open_entry(entry)).transpose()
            })?;
            for ((entry, _), segment) in entries.iter().zip(opened) {
                work(&entry.summary, segment)?;
            }
        }
        Ok(())
    }

    /// Opens the segment that an entry of the catalog names, and no other.
    pub(super) fn open_entry(&self, entry: &SegmentEntry) -> Result<Segment> {
        let (object, length) = (&entry.object, entry.summary.stored_bytes);
        let segment = self.opened(ObjectSource::open_sized(&self.store, object, length)?)?;
        entry.check(&segment)?;
        Ok(segment)
    }

    /// Returns the time of the last record up to `sequence`; `None` before the first.
    pub fn time_of(&self, sequence: Sequence) -> Result<Option<Timestamp>> {
        let entries = self.catalog.segments();
        let end = entries.partition_point(|entry| entry.summary.first_sequence <= sequence);
        let Some(entry) = entries[..end].last() else { return Ok(None) };
        if entry.summary.last_sequence <= sequence {
            return Ok(Some(entry.summary.last_time));
        }
        let segment = self.open_segment(&entry.object)?;
        let mut found = None;
        for number in 0..segment.frame_count() {
            for record in segment.frame(number)?.records() {
                let record = record?;
                if record.sequence <= sequence {
                    found = Some(record.time);
                }
            }
        }
        Ok(found)
    }

    fn check_ordered(&self, sequence: Sequence) -> Result<()> {
        if self.catalog.is_ordered_at(sequence) {
            return Ok(());
        }
        let gap = self.timeline().into_iter().find(|entry| {
            entry.unordered.is_some() && entry.from <= sequence && sequence <= entry.to
        });
        let mut error =
            Error::new(ErrorKind::NotOrdered, "use", format_args!("sequence {sequence}"));
        if let Some(gap) = gap {
            error = error.message(format_args!(
                "sequences {} to {} are unordered ({})",
                gap.from,
                gap.to,
                gap.unordered.map_or("unknown", crate::event::Cause::name)
            ));
        }
        Err(error)
    }

    /// A folded segment is a state as a whole: nothing before its end is left.
    fn check_kept(&self, sequence: Sequence) -> Result<()> {
        let Some((first, last)) = self.catalog.folded_around(sequence) else { return Ok(()) };
        Err(Error::new(ErrorKind::NotFound, "use", format_args!("sequence {sequence}"))
            .message(format_args!("retention folded sequences {first} to {last} into one state"))
            .expected(format_args!("sequence {last}, or one outside of the fold"))
            .found(sequence))
    }

    /// Last sequence that is left and whose record is not later than `time`, in write order: a clock that jumped back
    /// does not matter.
    fn sequence_at(&self, time: Timestamp) -> Result<Option<Sequence>> {
        let entries = self.catalog.segments();
        let Some(at) = entries.iter().rposition(|entry| entry.summary.first_time <= time) else {
            return Ok(None);
        };
        if entries[at].summary.last_time <= time {
            return Ok(Some(entries[at].summary.last_sequence));
        }
        if entries[at].summary.kind != SegmentKind::Log {
            // Only the end of the fold is left, and it is later: the state before the fold is the answer.
            return Ok(at.checked_sub(1).map(|before| entries[before].summary.last_sequence));
        }
        let segment = self.open_segment(&entries[at].object)?;
        let mut found = None;
        for number in 0..segment.frame_count() {
            for record in segment.frame(number)?.records() {
                let record = record?;
                if record.time <= time {
                    found = found.max(Some(record.sequence));
                }
            }
        }
        Ok(found)
    }
}

/// Name of the object that says what a volume is.
fn record_name(volume: &str) -> String {
    format!("volumes/{volume}/volume")
}

pub(super) fn check_volume_name(name: &str) -> Result<()> {
    let good = !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && !name.starts_with('.')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    if good {
        return Ok(());
    }
    Err(Error::new(ErrorKind::InvalidInput, "name volume", name)
        .expected("1 to 128 of A-Z a-z 0-9 . _ - that do not begin with a dot"))
}

fn encode_volume(info: &VolumeInfo) -> Vec<u8> {
    let mut out = Encoder::default();
    out.bytes(VOLUME_MAGIC).bytes(&info.id.0).u64(info.device_bytes).u32(info.block_bytes);
    out.time(info.created).u8(u8::from(info.extents_only)).u8(u8::from(info.key_id.is_some()));
    out.bytes(&info.key_id.unwrap_or_default().0);
    let crc = crc32fast::hash(&out.0);
    out.u32(crc);
    out.0
}

fn decode_volume(name: &str, bytes: &[u8], object: &str) -> Result<VolumeInfo> {
    let mut decoder = Decoder::new(bytes, object);
    if decoder.take(8)? != VOLUME_MAGIC {
        return Err(decoder.bad("magic HRLVOL", "another"));
    }
    let id = VolumeId(decoder.array()?);
    let (device_bytes, block_bytes, created) = (decoder.u64()?, decoder.u32()?, decoder.time()?);
    let extents_only = decoder.u8()? != 0;
    let sealed = decoder.u8()? != 0;
    let key = KeyId(decoder.array()?);
    let checked = bytes.len().saturating_sub(4);
    let found = decoder.u32()?;
    decoder.end()?;
    if crc32fast::hash(&bytes[..checked]) != found {
        return Err(decoder.bad("a right checksum", format_args!("{found:#010x}")));
    }
    if !block_bytes.is_power_of_two() {
        return Err(decoder.bad("a block size that is a power of two", block_bytes));
    }
    let key_id = sealed.then_some(key);
    Ok(VolumeInfo {
        name: name.to_owned(),
        id,
        device_bytes,
        block_bytes,
        created,
        key_id,
        extents_only,
        shredded: false,
    })
}

/// Makes the checksum of an altered volume record right again. Feature `testing`.
#[cfg(any(test, feature = "testing"))]
pub fn mend_volume_record(bytes: &mut [u8]) {
    if let Some(checked) = bytes.len().checked_sub(4) {
        let crc = crc32fast::hash(&bytes[..checked]);
        bytes[checked..].copy_from_slice(&crc.to_le_bytes());
    }
}
