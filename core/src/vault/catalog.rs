//! The catalog: what belongs to a volume, as a chain of numbered versions made with put-if-absent.
//!
//! Each version is an object: envelope, edits, checksum. Every [`SNAPSHOT_EVERY`]th holds the whole state, so that a
//! reader needs the newest of those and the versions after it. A version names the hash of the object before it and,
//! with a volume key, is sealed with a key derived from it.
//!
//! Invariants: a version never changes; a gap or a wrong hash is `Corrupt`; only the source that took the volume last
//! adds segments, and a source that finds the volume taken by another is `Fenced`. Everything else (folding, pins,
//! verdicts, deletions) may come from anybody who has the key: such an amendment never touches the end of the chain, so
//! it fences no source, and a source's append never invalidates it.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use chacha20poly1305::XChaCha20Poly1305;
use chacha20poly1305::aead::{AeadInOut, KeyInit};

use super::annotations::{ANNOTATION_BYTES_MAX, Annotations, Commitment, PINS_MAX, Pin, Verdict};
use super::codec::{Decoder, Encoder};
use super::edit::{Branch, CatalogEdit, SegmentEntry, SourceIdentity};
use super::layout;
use super::lifecycle::{Lifecycle, Step};
use super::losses::VolumeLosses;
use super::versions::VersionNames;
use crate::clock::{Clock, random_bytes};
use crate::error::{Error, ErrorKind, Result};
use crate::journal::VolumeKey;
use crate::store::{PutOutcome, Store, get_all};
use crate::units::{ChainHash, Epoch, PointId, Sequence, Timestamp, VolumeId};

const MAGIC: &[u8; 8] = b"HRLCAT\x01\x00";
const KEY_CONTEXT: &str = "hrl 2026-11-21 catalog key v1";
/// A version whose number is a multiple of this holds the whole state.
pub const SNAPSHOT_EVERY: u64 = 64;
/// Largest version that is read.
const VERSION_BYTES_MAX: u64 = 256 << 20;
/// Highest number of a version. A volume that gets a thousand versions a second takes longer than the sun will.
const VERSIONS_MAX: u64 = 1 << 62;
/// Races lost in a row before an append gives up.
const RACES_MAX: u32 = 16;
const ENVELOPE_BYTES: usize = 8 + 4 + 16 + 8 + 32 + 16 + 24 + 16;

/// The catalog as of one version, and the way to append the next. One owner at a time.
#[derive(Clone)]
pub struct Catalog {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    losses: Arc<VolumeLosses>,
    /// Losses that this writer knows of.
    losses_seen: u64,
    prefix: String,
    volume: VolumeId,
    key: Option<VolumeKey>,
    version: u64,
    hash: [u8; 32],
    pub(super) epoch: Epoch,
    pub(super) source: Option<SourceIdentity>,
    pub(super) segments: Vec<SegmentEntry>,
    pub(super) branches: Vec<Branch>,
    lifecycle: Lifecycle,
    annotations: Annotations,
}

impl Catalog {
    /// Reads the newest version. An empty catalog is version 0.
    pub(super) fn load(
        store: &Arc<dyn Store>,
        clock: &Arc<dyn Clock>,
        losses: Arc<VolumeLosses>,
        volume_name: &str,
        volume: VolumeId,
        key: Option<&VolumeKey>,
    ) -> Result<Self> {
        let mut catalog = Self {
            store: store.clone(),
            clock: clock.clone(),
            losses_seen: losses.reported(),
            losses,
            prefix: layout::catalog_prefix(volume_name),
            volume,
            key: key.cloned(),
            version: 0,
            hash: [0; 32],
            epoch: Epoch(1),
            source: None,
            segments: Vec::new(),
            branches: Vec::new(),
            lifecycle: Lifecycle::default(),
            annotations: Annotations::default(),
        };
        catalog.refresh()?;
        Ok(catalog)
    }

    /// Number of the version.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The segments, in write order.
    pub fn segments(&self) -> &[SegmentEntry] {
        &self.segments
    }

    /// Who writes the volume.
    pub fn source(&self) -> Option<&SourceIdentity> {
        self.source.as_ref()
    }

    /// Last sequence in the catalog.
    pub fn last_sequence(&self) -> Sequence {
        self.segments.last().map_or(Sequence::ZERO, |entry| entry.summary.last_sequence)
    }

    /// Chain hash that the next segment must name.
    pub fn last_chain(&self) -> ChainHash {
        self.segments.last().map_or(ChainHash::default(), |entry| entry.summary.chain)
    }

    /// The epoch: 1, and one more with each failover that was committed.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Where the volume is in its life cycle.
    pub fn lifecycle(&self) -> &Lifecycle {
        &self.lifecycle
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Pins and legal holds, expired ones included until retention takes them off.
    pub fn pins(&self) -> &[Pin] {
        &self.annotations.pins
    }

    /// Verdicts of checks.
    pub fn verdicts(&self) -> &[Verdict] {
        &self.annotations.verdicts
    }

    /// Objects that no version names any more and that are not deleted yet, and when they were retired.
    pub fn retired(&self) -> &BTreeMap<String, Timestamp> {
        &self.annotations.retired
    }

    pub(crate) fn is_verified(&self, point: PointId) -> bool {
        self.annotations.is_verified(point)
    }

    /// The group points that were committed and have a mark here.
    pub(crate) fn commitments(&self) -> impl Iterator<Item = &Commitment> {
        self.annotations.committed.values()
    }

    /// What is known of a group point, when it was committed as far as this volume knows.
    pub fn commitment(&self, group: PointId) -> Option<&Commitment> {
        self.annotations.committed.get(&group)
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Writes the next version and applies it here. Durable when it returns.
    ///
    /// `Fenced` when another source took the volume; `Corrupt` when segments do not continue the chain; `Changed` when
    /// segments that were put for it may be lost: nothing was written, and they are to be put again. May be called
    /// again with the same edits after any other failure, also when the answer of a put was lost.
    pub fn append(&mut self, source: &SourceIdentity, edits: Vec<CatalogEdit>) -> Result<()> {
        for _ in 0..RACES_MAX {
            self.check_source(source, &edits)?;
            self.check_steps(&edits)?;
            if self.put_next(source.id, &edits)? {
                return Ok(());
            }
        }
        Err(self.lost_races())
    }

    /// Writes the next version for somebody who is not the source: folding, pins, verdicts, deletions. Durable when it
    /// returns. `valid` is asked after the newest version was read and before each try.
    ///
    /// `InvalidInput` for edits that only a source makes, `NotFound` for points that do not exist, `Changed` when the
    /// catalog changed so that the edits no longer fit (nothing was written: plan again), `Full` at a limit. After any
    /// other failure the edits may have been written.
    pub(crate) fn amend(
        &mut self,
        edits: &[CatalogEdit],
        valid: &dyn Fn() -> Result<()>,
    ) -> Result<()> {
        let author = random_bytes(&*self.clock);
        self.refresh()?;
        for _ in 0..RACES_MAX {
            let mut next = self.clone();
            for edit in edits {
                next.check_amendment(edit)?;
                next.apply(edit.clone())?;
            }
            valid()?;
            if self.put_next(author, edits)? {
                return Ok(());
            }
        }
        Err(self.lost_races())
    }

    /// As `amend`, for fuzz targets. Feature `testing`.
    #[cfg(any(test, feature = "testing"))]
    pub fn amend_with(&mut self, edits: &[CatalogEdit]) -> Result<()> {
        self.amend(edits, &|| Ok(()))
    }

    /// Records a step of the life cycle; nothing when it is recorded already. Durable when it returns.
    ///
    /// `Fenced` when another failover is under way, `InvalidInput` when the step does not follow from the stage, `Full` and
    /// `AlreadyExists` for test failovers.
    pub(crate) fn record_step(&mut self, step: &Step) -> Result<()> {
        self.refresh()?;
        if self.lifecycle.has(step) {
            return Ok(());
        }
        self.amend(&[CatalogEdit::Step(step.clone())], &|| Ok(()))
    }

    fn lost_races(&self) -> Error {
        Error::new(ErrorKind::Unavailable, "append to catalog", &self.prefix)
            .message("other writers were faster each time")
            .found(format_args!("{RACES_MAX} lost races"))
    }

    /// Tries to write the next version; false when another one was there first, which is applied then.
    fn put_next(&mut self, author: [u8; 16], edits: &[CatalogEdit]) -> Result<bool> {
        let mut next = self.clone();
        edits.iter().try_for_each(|edit| next.apply(edit.clone()))?;
        let number = self.version + 1;
        let whole = number.is_multiple_of(SNAPSHOT_EVERY);
        let bytes = if whole {
            self.encode(number, author, &next.state())
        } else {
            self.encode(number, author, edits)
        };
        let (object, lists) = (self.object(number), edits.iter().any(CatalogEdit::lists_segments));
        let put = || self.store.put(&object, &bytes);
        match self.losses.publish(&mut self.losses_seen, lists, &object, put)? {
            PutOutcome::Created => {
                let hash = *blake3::hash(&bytes).as_bytes();
                self.check_place(number, hash)?;
                (next.version, next.hash) = (number, hash);
                *self = next;
                self.forget_old_versions();
                Ok(true)
            }
            PutOutcome::AlreadyExists => {
                let version = self.read(number, None)?;
                let ours = version.author == author
                    && (version.edits == edits || version.edits == next.state());
                if ours {
                    self.check_place(number, version.hash)?;
                }
                self.apply_read(version, number, whole)?;
                Ok(ours)
            }
        }
    }

    /// The version `number` with this hash, which was put from here, is one of the catalog: it is the newest, or the next one
    /// follows it. Where others were two snapshots on and had forgotten the version of that number, it is in no reader's way
    /// and says nothing: `Unavailable`, and what they appended is read.
    fn check_place(&mut self, number: u64, hash: [u8; 32]) -> Result<()> {
        let names = VersionNames::of(&self.prefix, &self.store.list(&self.prefix)?);
        if names.newest() <= number {
            return Ok(());
        }
        if names.has(number + 1) {
            match self.read(number + 1, None) {
                Ok(after) if after.previous == hash => return Ok(()),
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        self.refresh()?;
        Err(Error::new(ErrorKind::Unavailable, "append to catalog", self.object(number))
            .message("others went on far beyond this version meanwhile")
            .found(format_args!("version {}", self.version)))
    }

    /// Reads versions that others appended since.
    pub fn refresh(&mut self) -> Result<()> {
        for _ in 1..RACES_MAX {
            match self.read_listed() {
                // It was listed, and forgotten before it was read: others are two snapshots on.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                result => return result,
            }
        }
        self.read_listed()
    }

    /// Reads what a listing names. What was read before a failure is kept.
    fn read_listed(&mut self) -> Result<()> {
        let numbers = self.numbers()?;
        let newest = numbers.keys().last().copied().unwrap_or(0);
        // A snapshot says all that the versions before it said; a mirror may have none of those.
        let first = (self.version + 1).max(newest / SNAPSHOT_EVERY * SNAPSHOT_EVERY);
        for number in first..=newest {
            let version = self.read(number, numbers.get(&number).copied())?;
            self.apply_read(version, number, number.is_multiple_of(SNAPSHOT_EVERY))?;
        }
        Ok(())
    }

    /// Others appended versions that were not read yet. One request.
    pub(crate) fn is_behind(&self) -> Result<bool> {
        Ok(self.store.head(&self.object(self.version + 1))?.is_some())
    }

    fn check_source(&self, source: &SourceIdentity, edits: &[CatalogEdit]) -> Result<()> {
        let takes = match edits.first() {
            Some(CatalogEdit::Source(taker)) => taker.id == source.id,
            Some(CatalogEdit::Divide(division)) => division.source.id == source.id,
            _ => false,
        };
        match &self.source {
            Some(owner) if owner.id != source.id && !takes => {
                Err(Error::new(ErrorKind::Fenced, "append to catalog", &self.prefix).message(
                    format_args!(
                        "the volume belongs to the source on {} since {}",
                        owner.host, owner.since
                    ),
                ))
            }
            _ => Ok(()),
        }
    }

    fn check_steps(&self, edits: &[CatalogEdit]) -> Result<()> {
        edits.iter().try_for_each(|edit| match edit {
            CatalogEdit::Step(step) => self.lifecycle.check(step, &self.prefix),
            _ => Ok(()),
        })
    }

    fn apply(&mut self, edit: CatalogEdit) -> Result<()> {
        match edit {
            CatalogEdit::Source(source) => self.source = Some(source),
            CatalogEdit::Segments(entries) => {
                for entry in entries {
                    self.check_chain(&entry)?;
                    self.note(&entry);
                    self.segments.push(entry);
                }
            }
            CatalogEdit::Replace { with, objects } => self.replace(with, &objects)?,
            CatalogEdit::Pin(pin) => self.annotations.pin(pin),
            CatalogEdit::Unpin { point, hold } => self.annotations.unpin(point, hold),
            CatalogEdit::Verdict(verdict) => self.annotations.judge(verdict),
            CatalogEdit::Retired { objects, at } => self.annotations.retire(objects, at),
            CatalogEdit::Deleted(objects) => {
                for object in &objects {
                    self.annotations.retired.remove(object);
                }
            }
            CatalogEdit::Committed(commitment) => {
                self.annotations.committed.insert(commitment.group, commitment);
            }
            CatalogEdit::Divide(division) => self.divide(division)?,
            CatalogEdit::Late { epoch, segments } => {
                segments.iter().for_each(|entry| self.note(entry));
                self.add_late(epoch, segments)?;
            }
            CatalogEdit::DropBranch(epoch) => {
                self.branches.retain(|branch| branch.epoch != epoch);
            }
            CatalogEdit::Step(step) => self.lifecycle.apply(step),
            CatalogEdit::Epoch(epoch) => self.epoch = epoch,
            CatalogEdit::Branch(branch) => self.branches.push(branch),
            CatalogEdit::Lifecycle(lifecycle) => self.lifecycle = lifecycle,
        }
        Ok(())
    }

    /// Remembers what a new segment says beside its data.
    fn note(&mut self, entry: &SegmentEntry) {
        self.epoch = self.epoch.max(entry.summary.epoch);
        for mark in &entry.summary.marks {
            self.annotations.note_commitment(&mark.mark);
        }
    }

    /// What must hold for an edit of [`Catalog::amend`].
    fn check_amendment(&self, edit: &CatalogEdit) -> Result<()> {
        let refused = |kind, object: &dyn std::fmt::Display| {
            Error::new(kind, "amend catalog", format_args!("{}{object}", self.prefix))
        };
        let check_point = |point: &PointId| {
            if self.has_point(*point) {
                return Ok(());
            }
            Err(Error::new(ErrorKind::NotFound, "annotate point", point)
                .message("the catalog has no such recovery point"))
        };
        let check_text = |text: &str| {
            if text.len() <= ANNOTATION_BYTES_MAX {
                return Ok(());
            }
            Err(Error::new(ErrorKind::InvalidInput, "annotate point", &self.prefix)
                .expected(format_args!("a text of at most {ANNOTATION_BYTES_MAX} bytes"))
                .found(text.len()))
        };
        match edit {
            CatalogEdit::Source(_)
            | CatalogEdit::Segments(_)
            | CatalogEdit::Committed(_)
            | CatalogEdit::Divide(_)
            | CatalogEdit::Epoch(_)
            | CatalogEdit::Branch(_)
            | CatalogEdit::Lifecycle(_) => Err(refused(ErrorKind::InvalidInput, &"")
                .message("only a source takes a volume or adds segments")),
            CatalogEdit::Late { epoch, segments } => self.check_late(*epoch, segments),
            CatalogEdit::DropBranch(epoch) => self.branch(*epoch).map(|_| ()),
            CatalogEdit::Step(step) => self.lifecycle.check(step, &self.prefix),
            CatalogEdit::Replace { with, objects } => self.check_replace(with, objects),
            CatalogEdit::Pin(pin) => {
                check_point(&pin.point)?;
                check_text(&pin.reason)?;
                if self.annotations.pins.len() >= PINS_MAX {
                    return Err(refused(ErrorKind::Full, &"")
                        .expected(format_args!("at most {PINS_MAX} pins")));
                }
                Ok(())
            }
            CatalogEdit::Unpin { point, hold } => {
                let has = self.pins().iter().any(|p| p.point == *point && p.is_hold() == *hold);
                if has {
                    return Ok(());
                }
                Err(Error::new(ErrorKind::NotFound, "unpin point", point)
                    .expected(if *hold { "a legal hold" } else { "a pin that is no legal hold" })
                    .found("none"))
            }
            CatalogEdit::Verdict(verdict) => {
                check_point(&verdict.point)?;
                check_text(&verdict.text)
            }
            CatalogEdit::Retired { objects, .. } => {
                match self.named().find(|entry| objects.contains(&entry.object)) {
                    None => Ok(()),
                    Some(entry) => Err(refused(ErrorKind::Changed, &"")
                        .message(format_args!("{} belongs to the volume", entry.object))),
                }
            }
            CatalogEdit::Deleted(_) => Ok(()),
        }
    }

    /// What replaces segments must stand for exactly those: same place in the chain, same sequences, and every point
    /// that is protected now.
    fn check_replace(&self, with: &[SegmentEntry], objects: &[String]) -> Result<()> {
        let changed = |message: &str| {
            Error::new(ErrorKind::Changed, "fold segments of", &self.prefix).message(message)
        };
        let Some(first) = self.position_of(objects) else {
            return Err(changed("the segments were folded by another already"));
        };
        if let Some(gone) = with.iter().find(|e| self.retired().contains_key(&e.object)) {
            return Err(changed("the new segment took too long and was given up for a stray")
                .found(&gone.object));
        }
        let old = &self.segments[first..first + objects.len()];
        let (Some(old_first), Some(old_last)) = (old.first(), old.last()) else {
            return Err(changed("nothing is to be replaced"));
        };
        let (Some(new_first), Some(new_last)) = (with.first(), with.last()) else {
            return Err(changed("nothing takes the place of the segments"));
        };
        let same = new_first.summary.previous == old_first.summary.previous
            && new_first.summary.first_sequence == old_first.summary.first_sequence
            && new_last.summary.chain == old_last.summary.chain
            && new_last.summary.last_sequence == old_last.summary.last_sequence;
        if !same {
            return Err(changed("the new segment does not stand for those that it replaces"));
        }
        let inside = old_first.summary.first_sequence..old_last.summary.last_sequence;
        if let Some(needed) = self.needed_states().find(|state| inside.contains(state)) {
            return Err(changed("a branch or a failover stands on a state inside").found(needed));
        }
        let marks = |entries: &[SegmentEntry]| -> HashSet<PointId> {
            entries.iter().flat_map(|e| &e.summary.marks).map(|m| m.mark.point).collect()
        };
        let (before, after) = (marks(old), marks(with));
        match self
            .protected_points(|_| true)
            .keys()
            .find(|p| before.contains(p) && !after.contains(p))
        {
            None => Ok(()),
            Some(point) => Err(changed("a protected point would be lost").found(point)),
        }
    }

    fn position_of(&self, objects: &[String]) -> Option<usize> {
        let first = self.segments.iter().position(|e| Some(&e.object) == objects.first())?;
        let run = self.segments[first..].iter().take(objects.len()).map(|e| &e.object);
        run.eq(objects).then_some(first)
    }

    fn check_chain(&self, entry: &SegmentEntry) -> Result<()> {
        let bad = || Error::new(ErrorKind::Corrupt, "add to catalog", &entry.object);
        let summary = &entry.summary;
        if summary.volume != self.volume {
            return Err(bad()
                .expected(format_args!("volume {}", self.volume))
                .found(format_args!("volume {}", summary.volume)));
        }
        if summary.previous != self.last_chain() {
            return Err(bad()
                .expected(format_args!("a segment after chain hash {}", self.last_chain()))
                .found(format_args!("one after {}", summary.previous)));
        }
        let ordered = summary.first_sequence > self.last_sequence()
            && summary.last_sequence >= summary.first_sequence
            && summary.epoch >= self.epoch;
        if !ordered {
            return Err(bad()
                .expected(format_args!("sequences above {}", self.last_sequence()))
                .found(format_args!("{} to {}", summary.first_sequence, summary.last_sequence)));
        }
        Ok(())
    }

    fn replace(&mut self, with: Vec<SegmentEntry>, objects: &[String]) -> Result<()> {
        let Some(first) = self.position_of(objects) else {
            return Err(Error::new(ErrorKind::InvalidInput, "replace in catalog", &self.prefix)
                .expected("objects that follow each other in the catalog")
                .found(objects.join(", ")));
        };
        self.segments.splice(first..first + objects.len(), with);
        let marks = self.named().flat_map(|entry| &entry.summary.marks);
        let points = marks
            .filter(|mark| !mark.mark.is_commitment())
            .flat_map(|mark| std::iter::once(mark.mark.point).chain(mark.mark.group))
            .collect();
        self.annotations.keep_points(&points);
        Ok(())
    }

    /// The edits that make this state from nothing.
    fn state(&self) -> Vec<CatalogEdit> {
        let mut edits: Vec<_> = self.source.clone().map(CatalogEdit::Source).into_iter().collect();
        edits.push(CatalogEdit::Segments(self.segments.clone()));
        edits.push(CatalogEdit::Epoch(self.epoch));
        edits.extend(self.branches.iter().cloned().map(CatalogEdit::Branch));
        if !self.lifecycle.is_new() {
            edits.push(CatalogEdit::Lifecycle(self.lifecycle.clone()));
        }
        edits.extend(self.annotations.pins.iter().cloned().map(CatalogEdit::Pin));
        edits.extend(self.annotations.verdicts.iter().cloned().map(CatalogEdit::Verdict));
        let committed = self.annotations.committed.values().cloned();
        edits.extend(committed.map(CatalogEdit::Committed));
        let mut times: BTreeMap<Timestamp, Vec<String>> = BTreeMap::new();
        for (object, at) in &self.annotations.retired {
            times.entry(*at).or_default().push(object.clone());
        }
        edits.extend(times.into_iter().map(|(at, objects)| CatalogEdit::Retired { objects, at }));
        edits
    }

    pub(crate) fn object(&self, number: u64) -> String {
        layout::catalog_version(&self.prefix, number)
    }

    /// Numbers of the versions in the store, and their sizes. They must follow each other from the newest snapshot on.
    /// Objects whose names are not those of versions are none.
    fn numbers(&self) -> Result<BTreeMap<u64, u64>> {
        let objects = self.store.list(&self.prefix)?;
        let numbers = VersionNames::of(&self.prefix, &objects).into_readable();
        if let Some(newest) = numbers.keys().last() {
            if *newest > VERSIONS_MAX {
                return Err(Error::new(ErrorKind::Corrupt, "read catalog", &self.prefix)
                    .expected(format_args!("versions up to {VERSIONS_MAX}"))
                    .found(format_args!("version {newest}")));
            }
            let first = (newest / SNAPSHOT_EVERY * SNAPSHOT_EVERY).max(1);
            for number in first..=*newest {
                if !numbers.contains_key(&number) {
                    return Err(Error::new(ErrorKind::Corrupt, "read catalog", &self.prefix)
                        .expected(format_args!("version {number}"))
                        .found("a gap"));
                }
            }
        }
        Ok(numbers)
    }

    fn apply_read(&mut self, version: Version, number: u64, whole: bool) -> Result<()> {
        if version.previous != self.hash && !(whole && self.version + 1 != number) {
            return Err(Error::new(ErrorKind::Corrupt, "read catalog", self.object(number))
                .expected("the version that follows the one before")
                .found("one that follows another"));
        }
        if whole {
            self.epoch = Epoch(1);
            self.segments.clear();
            self.branches.clear();
            self.lifecycle = Lifecycle::default();
            self.source = None;
            self.annotations = Annotations::default();
        }
        version.edits.into_iter().try_for_each(|edit| match edit {
            CatalogEdit::Segments(entries) if whole && self.segments.is_empty() => {
                self.restore_segments(entries);
                Ok(())
            }
            other => self.apply(other),
        })?;
        self.version = number;
        self.hash = version.hash;
        Ok(())
    }

    /// A compacted history has no chain from the first segment on, so a snapshot's entries are taken as they are; the checks
    /// were made when they were appended.
    fn restore_segments(&mut self, entries: Vec<SegmentEntry>) {
        self.epoch = entries.iter().map(|e| e.summary.epoch).fold(self.epoch, Epoch::max);
        self.segments = entries;
    }

    /// Removes versions that no reader needs. A failure costs nothing but space.
    fn forget_old_versions(&self) {
        if !self.version.is_multiple_of(SNAPSHOT_EVERY) || self.version < 2 * SNAPSHOT_EVERY {
            return;
        }
        let keep = self.version - SNAPSHOT_EVERY;
        let numbers = self.numbers().unwrap_or_default();
        let old = numbers.into_iter().filter(|(number, _)| *number < keep);
        let _ =
            self.store.delete_many(&old.map(|(number, _)| self.object(number)).collect::<Vec<_>>());
    }

    fn encode(&self, number: u64, author: [u8; 16], edits: &[CatalogEdit]) -> Vec<u8> {
        let mut body = Encoder::default();
        body.u32(edits.len() as u32);
        edits.iter().for_each(|edit| body.edit(edit));
        let mut body = body.0;
        let mut out = Encoder::default();
        out.bytes(MAGIC).u32(u32::from(self.key.is_some())).bytes(&self.volume.0).u64(number);
        out.bytes(&self.hash).bytes(&author);
        let mut nonce = [0; 24];
        let mut tag = [0; 16];
        if let Some(key) = &self.key {
            self.clock.fill_random(&mut nonce);
            tag = cipher(key)
                .encrypt_inout_detached(&nonce.into(), &out.0, body.as_mut_slice().into())
                .expect("a catalog version is far below the limit of the cipher")
                .into();
        }
        out.bytes(&nonce).bytes(&tag).bytes(&body);
        let crc = crc32fast::hash(&out.0);
        out.u32(crc);
        out.0
    }

    /// Reads a version; its `length` is asked for where nobody knows it.
    fn read(&self, number: u64, length: Option<u64>) -> Result<Version> {
        let object = self.object(number);
        let bytes = match length {
            Some(length) if length <= VERSION_BYTES_MAX => self.store.get(&object, 0..length)?,
            _ => get_all(&*self.store, &object, VERSION_BYTES_MAX)?,
        };
        let bad = |at: usize| Error::new(ErrorKind::Corrupt, "read catalog", &object).at(at as u64);
        if bytes.len() < ENVELOPE_BYTES + 4 || &bytes[..8] != MAGIC {
            return Err(bad(0)
                .expected("magic HRLCAT")
                .found(format_args!("{} bytes", bytes.len())));
        }
        let (content, crc) = bytes.split_at(bytes.len() - 4);
        let found = u32::from_le_bytes(crc.try_into().expect("4 bytes"));
        let expected = crc32fast::hash(content);
        if found != expected {
            return Err(bad(content.len())
                .expected(format_args!("checksum {expected:#010x}"))
                .found(format_args!("{found:#010x}")));
        }
        let mut decoder = Decoder::new(&content[8..], &object);
        let sealed = decoder.u32()? != 0;
        if decoder.array::<16>()? != self.volume.0 || decoder.u64()? != number {
            return Err(bad(12)
                .expected(format_args!("version {number} of volume {}", self.volume))
                .found("another version or volume"));
        }
        let previous = decoder.array()?;
        let author = decoder.array()?;
        let mut body = content[ENVELOPE_BYTES..].to_vec();
        match (&self.key, sealed) {
            (None, false) => {}
            (Some(key), true) => {
                let nonce: [u8; 24] = decoder.array()?;
                let tag: [u8; 16] = decoder.array()?;
                let aad = &content[..ENVELOPE_BYTES - 40];
                cipher(key)
                    .decrypt_inout_detached(
                        &nonce.into(),
                        aad,
                        body.as_mut_slice().into(),
                        &tag.into(),
                    )
                    .map_err(|_| {
                        bad(0).expected("the version that was sealed here").found("another")
                    })?;
            }
            (None, true) => {
                return Err(Error::new(ErrorKind::WrongKey, "read catalog", &object)
                    .message("the catalog is sealed and no key was given"));
            }
            (Some(_), false) => {
                return Err(bad(8).expected("a sealed version").found("one that is not"));
            }
        }
        let mut decoder = Decoder::new(&body, &object);
        let count = decoder.count(1)?;
        let edits = (0..count).map(|_| decoder.edit()).collect::<Result<_>>()?;
        decoder.end()?;
        Ok(Version { previous, author, edits, hash: *blake3::hash(&bytes).as_bytes() })
    }
}

struct Version {
    previous: [u8; 32],
    author: [u8; 16],
    edits: Vec<CatalogEdit>,
    hash: [u8; 32],
}

/// Makes an altered catalog version one that follows the version with the hash `previous`, in volume `volume` under
/// `number`, and its checksum right; returns its hash. Feature `testing`.
#[cfg(any(test, feature = "testing"))]
pub fn mend_catalog_version(
    bytes: &mut [u8],
    volume: VolumeId,
    number: u64,
    previous: [u8; 32],
) -> [u8; 32] {
    if bytes.len() >= ENVELOPE_BYTES + 4 {
        bytes[12..28].copy_from_slice(&volume.0);
        bytes[28..36].copy_from_slice(&number.to_le_bytes());
        bytes[36..68].copy_from_slice(&previous);
        let checked = bytes.len() - 4;
        let crc = crc32fast::hash(&bytes[..checked]);
        bytes[checked..].copy_from_slice(&crc.to_le_bytes());
    }
    *blake3::hash(bytes).as_bytes()
}

fn cipher(key: &VolumeKey) -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new(&key.derive(KEY_CONTEXT, &[]).into())
}
