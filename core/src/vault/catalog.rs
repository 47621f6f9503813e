//! The catalog: what belongs to a volume, as a chain of numbered versions made with put-if-absent.
//!
//! Each version is an object: envelope, edits, checksum. Every [`SNAPSHOT_EVERY`]th contains the
//! whole content, so that a reader needs the newest of those and the versions after it. A version
//! names the hash of the object before it and, with a volume key, is encrypted with a key derived
//! from it.
//!
//! Invariants: a version never changes; a gap or a wrong hash is `Corrupt`; only the source that
//! took the volume last adds segments, and a source that finds the volume taken by another is
//! `Fenced`. Everything else (folding, pins, verdicts, deletions) may come from anybody who has the
//! key. Such an amendment never touches the end of the chain: it fences no source, and a source's
//! append never invalidates it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;

use super::content::{CatalogContent, Undo};
use super::edit::{CatalogEdit, Division, SegmentEntry, SourceIdentity};
use super::lifecycle::Step;
use super::losses::VolumeLosses;
use super::version::{self, VERSION_BYTES_MAX, Version, VersionId};
use super::versions::VersionNames;
use super::{amendment, layout};
use crate::clock::{Clock, random_bytes};
use crate::error::{Error, ErrorKind, Result};
use crate::journal::VolumeKey;
use crate::store::{PutOutcome, Store, get_all};
use crate::units::{Epoch, VolumeId};

/// A version whose number is a multiple of this contains the whole content.
pub const SNAPSHOT_EVERY: u64 = 64;
/// Highest number of a version. A volume that gets a thousand versions a second takes longer than
/// the sun will.
const VERSIONS_MAX: u64 = 1 << 62;
/// Races lost in a row before an append gives up.
const RACES_MAX: u32 = 16;

/// The catalog as of one version, and the way to append the next. One owner at a time.
///
/// It dereferences to its [`CatalogContent`], which answers all questions about the volume.
#[derive(Clone)]
pub struct Catalog {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    losses: Arc<VolumeLosses>,
    /// Losses that this writer knows of.
    losses_seen: u64,
    key: Option<VolumeKey>,
    version: u64,
    /// Hash of the version's object; zeroes for version 0.
    hash: [u8; 32],
    content: CatalogContent,
}

impl Deref for Catalog {
    type Target = CatalogContent;

    fn deref(&self) -> &CatalogContent {
        &self.content
    }
}

/// Why a version is not the next one now.
enum NotPut {
    /// Another object has its number: perhaps the same version, put by an earlier try whose answer
    /// was lost.
    Taken { version: Version, hash: [u8; 32], is_ours: bool },
    /// It was written, and is no part of the catalog: others went on far beyond it.
    Passed,
    /// It may have been written.
    Failed(Error),
}

impl From<Error> for NotPut {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
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
            key: key.cloned(),
            version: 0,
            hash: [0; 32],
            content: CatalogContent::empty(volume, layout::catalog_prefix(volume_name)),
        };
        catalog.refresh()?;
        Ok(catalog)
    }

    /// Returns the number of the version.
    pub fn version(&self) -> u64 {
        self.version
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Returns the name of a version's object.
    pub(crate) fn object(&self, number: u64) -> String {
        layout::catalog_version(&self.content.prefix, number)
    }

    /// Writes the next version and applies it here. Durable when it returns.
    ///
    /// `Fenced` if another source took the volume; `Corrupt` if segments do not continue the chain;
    /// `Changed` if segments that were put for it may be lost: nothing was written, and they are to
    /// be put again. May be called again with the same edits after any other failure, even if the
    /// answer of a put was lost.
    pub fn append(&mut self, source: &SourceIdentity, edits: Vec<CatalogEdit>) -> Result<()> {
        for _ in 0..RACES_MAX {
            self.check_source(source, &edits)?;
            self.check_steps(&edits)?;
            let undo = self.content.apply_all(edits.iter().cloned(), |_, _| Ok(()))?;
            if self.put_applied(source.id, &edits, undo)? {
                return Ok(());
            }
        }
        Err(self.lost_races())
    }

    /// Writes the next version for somebody who is not the source: folding, pins, verdicts,
    /// deletions. Durable when it returns. `valid` is asked after the newest version was read and
    /// before each try.
    ///
    /// `InvalidInput` for edits that only a source makes, `NotFound` for points that do not exist,
    /// `Full` at a limit. `Changed` if the catalog changed so that the edits no longer fit: nothing
    /// was written, plan again. After any other failure the edits may have been written.
    pub(crate) fn amend(
        &mut self,
        edits: &[CatalogEdit],
        valid: &dyn Fn() -> Result<()>,
    ) -> Result<()> {
        let author = random_bytes(&*self.clock);
        self.refresh()?;
        for _ in 0..RACES_MAX {
            let undo = self.content.apply_all(edits.iter().cloned(), amendment::check)?;
            if let Err(error) = valid() {
                self.content.take_back(undo);
                return Err(error);
            }
            if self.put_applied(author, edits, undo)? {
                return Ok(());
            }
        }
        Err(self.lost_races())
    }

    /// Amends, for fuzz targets. Feature `testing`.
    #[cfg(any(test, feature = "testing"))]
    pub fn amend_with(&mut self, edits: &[CatalogEdit]) -> Result<()> {
        self.amend(edits, &|| Ok(()))
    }

    /// Records a step of the life cycle, unless it is recorded already. Durable when it returns.
    ///
    /// `Fenced` while another failover is under way, `InvalidInput` if the step does not follow
    /// from the stage, `Full` and `AlreadyExists` for test failovers.
    pub(crate) fn record_step(&mut self, step: &Step) -> Result<()> {
        self.refresh()?;
        if self.lifecycle().has(step) {
            return Ok(());
        }
        self.amend(&[CatalogEdit::Step(step.clone())], &|| Ok(()))
    }

    /// Adds late segments of an ended epoch to its branch. `Changed` if they do not go on where it
    /// ends.
    pub(crate) fn hand_in(&mut self, epoch: Epoch, entries: Vec<SegmentEntry>) -> Result<()> {
        self.amend(&[CatalogEdit::Late { epoch, segments: entries }], &|| Ok(()))
    }

    /// Returns the catalog as a branch sees it: the history up to its base, then its segments. It
    /// cannot be appended to.
    pub(crate) fn of_branch(&self, epoch: Epoch) -> Result<Self> {
        Ok(Self { content: self.content.of_branch(epoch)?, ..self.clone() })
    }

    /// Returns the catalog as it will be after a division; nothing is written.
    pub(crate) fn divided(&self, division: &Division) -> Result<Self> {
        Ok(Self { content: self.content.divided(division)?, ..self.clone() })
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

    /// Returns whether others appended versions that were not read yet. One request.
    pub(crate) fn is_behind(&self) -> Result<bool> {
        Ok(self.store.head(&self.object(self.version + 1))?.is_some())
    }

    fn lost_races(&self) -> Error {
        Error::new(ErrorKind::Unavailable, "append to catalog", &self.content.prefix)
            .message("other writers were faster each time")
            .found(format_args!("{RACES_MAX} lost races"))
    }

    fn check_source(&self, source: &SourceIdentity, edits: &[CatalogEdit]) -> Result<()> {
        let takes = match edits.first() {
            Some(CatalogEdit::Source(taker)) => taker.id == source.id,
            Some(CatalogEdit::Divide(division)) => division.source.id == source.id,
            _ => false,
        };
        match self.source() {
            Some(owner) if owner.id != source.id && !takes => {
                Err(Error::new(ErrorKind::Fenced, "append to catalog", &self.content.prefix)
                    .message(format_args!(
                        "the volume belongs to the source on {} since {}",
                        owner.host, owner.since
                    )))
            }
            _ => Ok(()),
        }
    }

    fn check_steps(&self, edits: &[CatalogEdit]) -> Result<()> {
        edits.iter().try_for_each(|edit| match edit {
            CatalogEdit::Step(step) => self.lifecycle().check(step, &self.content.prefix),
            _ => Ok(()),
        })
    }

    /// Tries to write the next version, whose edits were applied to the content. If that fails they
    /// are taken back. Returns false if another version was there first; that one is applied then.
    fn put_applied(&mut self, author: [u8; 16], edits: &[CatalogEdit], undo: Undo) -> Result<bool> {
        let number = self.version + 1;
        let not_put = match self.put_version(number, author, edits) {
            Ok(hash) => {
                assert_ne!(hash, self.hash, "a version names the one before it, so it differs");
                self.version = number;
                self.hash = hash;
                self.forget_old_versions();
                return Ok(true);
            }
            Err(not_put) => not_put,
        };
        self.content.take_back(undo);
        match not_put {
            NotPut::Failed(error) => Err(error),
            NotPut::Taken { version, hash, is_ours } => {
                self.apply_read(version, hash, number)?;
                Ok(is_ours)
            }
            NotPut::Passed => {
                self.refresh()?;
                Err(Error::new(ErrorKind::Unavailable, "append to catalog", self.object(number))
                    .message("others went on far beyond this version meanwhile")
                    .found(format_args!("version {}", self.version)))
            }
        }
    }

    /// Puts version `number` with these edits, or with the whole content if it is a snapshot.
    /// Returns its hash. Leaves the content as it is.
    fn put_version(
        &mut self,
        number: u64,
        author: [u8; 16],
        edits: &[CatalogEdit],
    ) -> Result<[u8; 32], NotPut> {
        let lists_segments = edits.iter().any(CatalogEdit::lists_segments);
        let edits = if is_snapshot(number) {
            Cow::Owned(self.content.snapshot())
        } else {
            Cow::Borrowed(edits)
        };
        let encryption = self.key.as_ref().map(|key| (key, random_bytes(&*self.clock)));
        let bytes = version::encode(self.id(number), self.hash, author, &edits, encryption);
        let object = self.object(number);
        let put = || self.store.put(&object, &bytes);
        match self.losses.publish(&mut self.losses_seen, lists_segments, &object, put)? {
            PutOutcome::Created => {
                let hash = version::hash(&bytes);
                if self.is_part(number, hash)? { Ok(hash) } else { Err(NotPut::Passed) }
            }
            PutOutcome::AlreadyExists => {
                let (version, hash) = self.read(number, None)?;
                let is_ours = version.author == author && version.edits == *edits;
                if is_ours && !self.is_part(number, hash)? {
                    return Err(NotPut::Passed);
                }
                Err(NotPut::Taken { version, hash, is_ours })
            }
        }
    }

    /// Returns whether version `number`, which has this hash and was put from here, is part of the
    /// catalog: it is the newest, or the next one names its hash.
    ///
    /// It is not if others were two snapshots on and had forgotten the version of that number
    /// before it was put. Then it is in no reader's way.
    fn is_part(&self, number: u64, hash: [u8; 32]) -> Result<bool> {
        let prefix = &self.content.prefix;
        let names = VersionNames::of(prefix, &self.store.list(prefix)?);
        if names.newest() <= number {
            return Ok(true);
        }
        if !names.has(number + 1) {
            return Ok(false);
        }
        match self.read(number + 1, None) {
            Ok((after, _)) => Ok(after.previous == hash),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reads what a listing names. What was read before a failure is kept.
    fn read_listed(&mut self) -> Result<()> {
        let numbers = self.numbers()?;
        let newest = numbers.keys().last().copied().unwrap_or(0);
        // A snapshot says all that the versions before it said; a mirror may have none of those.
        let first = (self.version + 1).max(newest / SNAPSHOT_EVERY * SNAPSHOT_EVERY);
        for number in first..=newest {
            let (version, hash) = self.read(number, numbers.get(&number).copied())?;
            self.apply_read(version, hash, number)?;
        }
        Ok(())
    }

    /// Returns the numbers of the versions in the store, and their sizes. They must follow each
    /// other from the newest snapshot on. Objects with other names are ignored.
    fn numbers(&self) -> Result<BTreeMap<u64, u64>> {
        let prefix = &self.content.prefix;
        let objects = self.store.list(prefix)?;
        let numbers = VersionNames::of(prefix, &objects).into_readable();
        if let Some(newest) = numbers.keys().last() {
            if *newest > VERSIONS_MAX {
                return Err(Error::new(ErrorKind::Corrupt, "read catalog", prefix)
                    .expected(format_args!("versions up to {VERSIONS_MAX}"))
                    .found(format_args!("version {newest}")));
            }
            let first = (newest / SNAPSHOT_EVERY * SNAPSHOT_EVERY).max(1);
            for number in first..=*newest {
                if !numbers.contains_key(&number) {
                    return Err(Error::new(ErrorKind::Corrupt, "read catalog", prefix)
                        .expected(format_args!("version {number}"))
                        .found("a gap"));
                }
            }
        }
        Ok(numbers)
    }

    /// Applies version `number` as it was read, or nothing of it. Only a snapshot may be beyond the
    /// next one.
    fn apply_read(&mut self, version: Version, hash: [u8; 32], number: u64) -> Result<()> {
        let whole = is_snapshot(number);
        assert!(number == self.version + 1 || whole && number > self.version);
        if version.previous != self.hash && !(whole && self.version + 1 != number) {
            return Err(Error::new(ErrorKind::Corrupt, "read catalog", self.object(number))
                .expected("the version that follows the one before")
                .found("one that follows another"));
        }
        if whole {
            let (volume, prefix) = (self.content.volume, self.content.prefix.clone());
            self.content = CatalogContent::from_snapshot(volume, prefix, version.edits)?;
        } else {
            let _kept = self.content.apply_all(version.edits, |_, _| Ok(()))?;
        }
        self.version = number;
        self.hash = hash;
        Ok(())
    }

    /// Reads a version and its hash. The object's length is asked for unless it is known.
    fn read(&self, number: u64, length: Option<u64>) -> Result<(Version, [u8; 32])> {
        let object = self.object(number);
        let bytes = match length {
            Some(length) if length <= VERSION_BYTES_MAX => self.store.get(&object, 0..length)?,
            _ => get_all(&*self.store, &object, VERSION_BYTES_MAX)?,
        };
        let version = version::decode(&bytes, &object, self.id(number), self.key.as_ref())?;
        Ok((version, version::hash(&bytes)))
    }

    fn id(&self, number: u64) -> VersionId {
        VersionId { volume: self.content.volume, number }
    }

    /// Removes versions that no reader needs. A failure costs nothing but space.
    fn forget_old_versions(&self) {
        if !is_snapshot(self.version) || self.version < 2 * SNAPSHOT_EVERY {
            return;
        }
        let first_kept = self.version - SNAPSHOT_EVERY;
        let numbers = self.numbers().unwrap_or_default();
        let old = numbers.into_keys().filter(|number| *number < first_kept);
        let _ = self.store.delete_many(&old.map(|number| self.object(number)).collect::<Vec<_>>());
    }
}

fn is_snapshot(number: u64) -> bool {
    number.is_multiple_of(SNAPSHOT_EVERY)
}
