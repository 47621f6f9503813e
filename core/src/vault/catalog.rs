//! The catalog: what belongs to a volume, as a chain of numbered versions made with put-if-absent.
//!
//! Each version is an object: envelope, edits, checksum. Every [`SNAPSHOT_EVERY`]th contains the
//! whole content, so that a reader needs the newest of those and the versions after it. The number of
//! the next version is one higher, unless a version announces a later snapshot. A version
//! names the hash of the object before it and, with a volume key, is encrypted with a key derived
//! from the newest one. A handle that reads a version under a newer key than it has looks for that
//! key in the vault, and uses it from then on.
//!
//! Invariants: a version never changes; a gap or a wrong hash is `Corrupt`; objects at the end that
//! nobody with the key has made are ignored (`intruders`); only the source that took the volume last
//! adds segments, and a source that finds the volume taken by another is `Fenced`, as is a session
//! of the source that finds another one publishing. A handle that finds the version it knows gone or
//! replaced is `Diverged`: the vault went back, or is another copy. Everything else (folding, pins,
//! verdicts, deletions) may come from anybody who has the key. Such an amendment never touches the end of the chain: it fences no source, and a source's
//! append never invalidates it.

mod beyond;
mod gates;
mod intruders;

use std::borrow::Cow;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use self::intruders::Intruders;
use super::content::{CatalogContent, Undo};
use super::edit::{CatalogEdit, Division, SegmentEntry, SourceIdentity, SourceInstance};
use super::lifecycle::Step;
use super::losses::VolumeLosses;
use super::version::{self, VERSION_BYTES_MAX, Version, VersionId};
use super::versions::{SNAPSHOT_EVERY, VersionNames, is_snapshot};
use super::{Vault, VolumeInfo, amendment, layout};
use crate::clock::random_bytes;
use crate::error::{Error, ErrorKind, Result};
use crate::journal::KeyRing;
use crate::store::{PutOutcome, delete_unlocked, get_all};
use crate::units::Epoch;

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
    losses: Arc<VolumeLosses>,
    /// Losses that this writer knows of.
    losses_seen: u64,
    /// Where keys that are drawn later are found.
    pub(crate) vault: Vault,
    pub(crate) info: VolumeInfo,
    pub(crate) keys: KeyRing,
    /// Generation of the key of the version that was read last: no later one has an earlier key.
    pub(super) generation: u32,
    /// The session that publishes through this handle.
    session: Option<PublishingSession>,
    version: u64,
    /// The number of the next version.
    next: u64,
    /// The version's object; zeroes for version 0.
    known: Object,
    /// When the store was last seen to be the one that has that object. `None` after a failure.
    checked: Option<Duration>,
    content: CatalogContent,
    /// Gates that were listed last.
    gates: Vec<String>,
    /// The version up to which a mirror is adding versions, while a gate ends the catalog before.
    gated: Option<u64>,
    intruders: Intruders,
}

/// A session of a source, and what it found when it began.
#[derive(Clone)]
struct PublishingSession {
    instance: SourceInstance,
    /// The sessions before it: of its state directory, and the one that had published last.
    before: Vec<[u8; 16]>,
}

impl Deref for Catalog {
    type Target = CatalogContent;

    fn deref(&self) -> &CatalogContent {
        &self.content
    }
}

/// A store is exchanged for another in no less time.
const EXCHANGE: Duration = Duration::from_secs(5);

/// What tells the object of a version from every other one.
#[derive(Clone, Copy, Default)]
struct Object {
    hash: [u8; 32],
    length: u64,
    /// Its last bytes, which can be read without the others.
    checksum: [u8; version::CHECKSUM_BYTES],
}

impl Object {
    fn of(bytes: &[u8]) -> Self {
        let checksum = bytes.last_chunk().copied().unwrap_or_default();
        Self { hash: version::hash(bytes), length: bytes.len() as u64, checksum }
    }
}

/// Why a version is not the next one now.
enum NotPut {
    /// Another object has its number: perhaps the same version, put by an earlier try whose answer
    /// was lost.
    Taken { found: Box<Read>, is_ours: bool },
    /// An object that nobody with the key has made has its number.
    Intruded,
    /// It was written, and is no part of the catalog: others went on far beyond it.
    Passed,
    /// It was removed again: the version before it is gone or another.
    Diverged(Error),
    /// It may have been written.
    Failed(Error),
}

impl From<Error> for NotPut {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl Catalog {
    /// Returns version 0 of the catalog, which lists nothing, before anything of it is read.
    pub(crate) fn unread(vault: &Vault, info: &VolumeInfo, keys: &KeyRing) -> Self {
        let losses = vault.losses.of(&info.name);
        Self {
            losses_seen: losses.reported(),
            losses,
            vault: vault.clone(),
            info: info.clone(),
            keys: keys.clone(),
            generation: 0,
            session: None,
            version: 0,
            next: 1,
            known: Object::default(),
            checked: None,
            content: CatalogContent::empty(info.id, layout::catalog_prefix(&info.name)),
            gates: Vec::new(),
            gated: None,
            intruders: Intruders::default(),
        }
    }

    /// Returns the number of the version.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Returns the hash of the version's object; zeroes for version 0.
    pub(crate) fn version_hash(&self) -> [u8; 32] {
        self.known.hash
    }

    /// Publishes as `instance` from now on. Once it has published, any other session of the source
    /// is `Fenced`. So is this one if another has published since now, unless it is one of the
    /// sessions `before` it, whose put may come late.
    pub(crate) fn begin_session(&mut self, instance: SourceInstance, before: &[[u8; 16]]) {
        let newest = self.content.instance().map(|newest| newest.id);
        let before = before.iter().copied().chain(newest).collect();
        self.session = Some(PublishingSession { instance, before });
    }

    /// Publishes as the session of another handle, which replaces what this one had found.
    pub(crate) fn go_on_with_session_of(&mut self, other: &Self) {
        if let Some(session) = &other.session {
            self.begin_session(session.instance.clone(), &session.before);
        }
    }

    /// Returns the name of a version's object.
    pub(crate) fn object(&self, number: u64) -> String {
        layout::catalog_version(&self.content.prefix, number)
    }

    /// Writes the next version and applies it here. Durable when it returns.
    ///
    /// `Fenced` if another source took the volume or another session of this one publishes;
    /// `Diverged` if the version before it is gone or another; `Corrupt` if segments do not continue the chain;
    /// `Changed` if segments that were put for it may be lost: nothing was written, and they are to
    /// be put again. May be called again with the same edits after any other failure, even if the
    /// answer of a put was lost.
    pub fn append(&mut self, source: &SourceIdentity, edits: Vec<CatalogEdit>) -> Result<()> {
        for _ in 0..RACES_MAX {
            self.check_source(source, &edits)?;
            self.check_steps(&edits)?;
            let edits = self.with_instance(source, &edits)?;
            self.next_after(self.next_number(), &edits)?;
            let undo = self.content.apply_all(edits.iter().cloned(), |_, _| Ok(()))?;
            if self.put_applied(self.next_number(), source.id, &edits, undo)? {
                if is_snapshot(self.version) {
                    self.forget_old_versions();
                }
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
    pub fn amend(&mut self, edits: &[CatalogEdit], valid: &dyn Fn() -> Result<()>) -> Result<()> {
        let author = random_bytes(&*self.vault.clock);
        self.refresh()?;
        for _ in 0..RACES_MAX {
            let undo = self.content.apply_all(edits.iter().cloned(), amendment::check)?;
            if let Err(error) = valid() {
                self.content.take_back(undo);
                return Err(error);
            }
            if self.put_applied(self.next_number(), author, edits, undo)? {
                // Its source may have no right to delete them.
                self.forget_old_versions();
                return Ok(());
            }
        }
        Err(self.lost_races())
    }

    /// Returns the edits of version `number` as its object says them: of a snapshot, those that make
    /// the whole content.
    pub fn edits_of(&self, number: u64) -> Result<Vec<CatalogEdit>> {
        Ok(self.read(number, None)?.version.edits)
    }

    /// Returns the catalog as of version `number`, to read. `Corrupt` if that version, or one before
    /// it back to the newest snapshot, is missing.
    pub fn past(&self, number: u64) -> Result<Self> {
        let mut past = Self::unread(&self.vault, &self.info, &self.keys);
        past.read_to(&self.listed()?, number)?;
        Ok(past)
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

    /// Reads versions up to the first that is missing or follows another.
    pub(super) fn read_up_to_gap(&mut self) -> Result<()> {
        self.read_to_intruders(Self::read_to_gap)
    }

    fn read_to_gap(&mut self, names: &VersionNames) -> Result<()> {
        let end = names.end_before_gap();
        for number in (end / SNAPSHOT_EVERY * SNAPSHOT_EVERY).max(self.version + 1)..=end {
            let found = self.read(number, names.length_of(number))?;
            if number == self.version + 1 && found.version.previous != self.known.hash {
                break;
            }
            self.apply_read(found, number)?;
        }
        Ok(())
    }

    /// Returns whether the catalog ends with the newest version in the store.
    pub(crate) fn is_newest_listed(&self) -> Result<bool> {
        Ok(self.listed()?.newest() == self.version)
    }

    /// Returns whether the store lists version `number`.
    pub(crate) fn is_listed(&self, number: u64) -> Result<bool> {
        Ok(self.listed()?.has(number))
    }

    /// Returns whether the vault has version `number` with this hash.
    pub(crate) fn has_version(&self, number: u64, hash: [u8; 32]) -> Result<bool> {
        Ok(self.hash_of(number)? == Some(hash))
    }

    /// Returns the hash of version `number` in the vault; `None` if the vault does not have it.
    pub(crate) fn hash_of(&self, number: u64) -> Result<Option<[u8; 32]>> {
        match get_all(&*self.vault.store, &self.object(number), VERSION_BYTES_MAX) {
            Ok(bytes) => Ok(Some(version::hash(&bytes))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
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

    fn lost_races(&self) -> Error {
        Error::new(ErrorKind::Unavailable, "append to catalog", &self.content.prefix)
            .message("other writers were faster each time")
            .found(format_args!("{RACES_MAX} lost races"))
    }

    /// Returns the edits of a source, with its session after them unless that published last.
    /// `Fenced` if another session has published since this one began.
    fn with_instance<'a>(
        &self,
        source: &SourceIdentity,
        edits: &'a [CatalogEdit],
    ) -> Result<Cow<'a, [CatalogEdit]>> {
        let Some(session) = &self.session else { return Ok(Cow::Borrowed(edits)) };
        if !takes(source, edits) {
            self.check_session()?;
            if self.content.instance().is_some_and(|newest| newest.id == session.instance.id) {
                return Ok(Cow::Borrowed(edits));
            }
        }
        let mut edits = edits.to_vec();
        edits.push(CatalogEdit::Instance(session.instance.clone()));
        Ok(Cow::Owned(edits))
    }

    /// Fails with `Fenced` if another session of the source has published since this one began.
    pub(crate) fn check_session(&self) -> Result<()> {
        self.check_instance(&self.content, |_, _| false)
    }

    /// Fails with `Fenced` if a session of the source that began later than this one has published in
    /// `found`, which is of a vault that went back.
    pub(crate) fn check_later_session(&self, found: &CatalogContent) -> Result<()> {
        self.check_instance(found, |newest, session| newest.since <= session.since)
    }

    fn check_instance(
        &self,
        found: &CatalogContent,
        is_harmless: impl FnOnce(&SourceInstance, &SourceInstance) -> bool,
    ) -> Result<()> {
        let (Some(session), Some(newest)) = (&self.session, found.instance()) else {
            return Ok(());
        };
        let is_known = newest.id == session.instance.id || session.before.contains(&newest.id);
        if is_known || is_harmless(newest, &session.instance) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Fenced, "append to catalog", &self.content.prefix).message(
            format_args!(
                "another session of this source has published since, begun on {} at {}: is there a copy of the state \
                 directory?",
                newest.host, newest.since
            ),
        ))
    }

    fn check_source(&self, source: &SourceIdentity, edits: &[CatalogEdit]) -> Result<()> {
        let other = self.source().filter(|owner| owner.id != source.id && !takes(source, edits));
        let Some(owner) = other else { return Ok(()) };
        Err(Error::new(ErrorKind::Fenced, "append to catalog", &self.content.prefix).message(
            format_args!(
                "the volume belongs to the source on {} since {}",
                owner.host, owner.since
            ),
        ))
    }

    fn check_steps(&self, edits: &[CatalogEdit]) -> Result<()> {
        edits.iter().try_for_each(|edit| match edit {
            CatalogEdit::Step(step) => self.lifecycle().check(step, &self.content.prefix),
            _ => Ok(()),
        })
    }

    /// Tries to write version `number`, whose edits were applied to the content. If that fails they
    /// are taken back. Returns false if another version was there first; that one is applied then.
    fn put_applied(
        &mut self,
        number: u64,
        author: [u8; 16],
        edits: &[CatalogEdit],
        undo: Undo,
    ) -> Result<bool> {
        let not_put = match self.put_version(number, author, edits) {
            Ok(put) => {
                let before = self.known.hash;
                assert_ne!(put.hash, before, "a version names the one before it, so it differs");
                let said = if is_snapshot(number) { &[] } else { edits };
                (self.version, self.next, self.known) =
                    (number, self.next_after(number, said)?, put);
                return Ok(true);
            }
            Err(not_put) => not_put,
        };
        self.content.take_back(undo);
        match not_put {
            NotPut::Failed(error) | NotPut::Diverged(error) => Err(error),
            NotPut::Taken { found, is_ours } => {
                self.apply_read(*found, number)?;
                Ok(is_ours)
            }
            NotPut::Intruded => {
                self.refresh()?;
                Ok(false)
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
    /// Returns its object. Leaves the content as it is.
    fn put_version(
        &mut self,
        number: u64,
        author: [u8; 16],
        edits: &[CatalogEdit],
    ) -> Result<Object, NotPut> {
        self.check_gate()?;
        let lists_segments = edits.iter().any(CatalogEdit::lists_segments);
        let edits = if is_snapshot(number) {
            Cow::Owned(self.content.snapshot())
        } else {
            Cow::Borrowed(edits)
        };
        let newest = self.keys.all().pop();
        let encryption = newest.as_ref().map(|(of, key)| (*of, key, &*self.vault.clock));
        let bytes = version::encode(self.id(number), self.known.hash, author, &edits, encryption);
        let object = self.object(number);
        let put = || self.vault.store.put(&object, &bytes);
        match self.losses.publish(&mut self.losses_seen, lists_segments, &object, put)? {
            PutOutcome::Created => {
                let put = Object::of(&bytes);
                self.check_part(number, put.hash)?;
                self.generation = newest.map_or(0, |(of, _)| of);
                Ok(put)
            }
            PutOutcome::AlreadyExists => {
                let found = self.read_taken(number)?;
                let version = &found.version;
                if version.previous != self.known.hash {
                    return Err(NotPut::Diverged(self.diverged("another version in its place")));
                }
                let is_ours = version.author == author && version.edits == *edits;
                if is_ours {
                    self.check_part(number, found.object.hash)?;
                }
                Err(NotPut::Taken { found: Box::new(found), is_ours })
            }
        }
    }

    /// Checks that version `number`, which has this hash and was put from here, is part of the
    /// catalog: it is the newest and follows the one that is known here, or the next one names its
    /// hash.
    ///
    /// `Passed` if others were two snapshots on and had forgotten the version of that number before
    /// it was put. Then it is in no reader's way. `Diverged` if the version before it is gone or
    /// another: then it is removed again, because readers would find a gap.
    fn check_part(&mut self, number: u64, hash: [u8; 32]) -> Result<(), NotPut> {
        let checked = self.checked.take();
        let mut names = self.listed()?;
        while names.newest() > number && self.strip_end(&mut names)? {}
        if names.newest() <= number {
            let found = self.check_known(&names).and_then(|()| self.check_same(&names, checked));
            let diverged = match found {
                Ok(()) => return Ok(()),
                Err(diverged) if diverged.kind() == ErrorKind::Diverged => diverged,
                Err(error) => return Err(error.into()),
            };
            // Whoever may not delete it goes beyond it.
            if self.vault.store.may_delete() {
                delete_unlocked(&*self.vault.store, &[self.object(number)])?;
            }
            return Err(NotPut::Diverged(diverged));
        }
        if !names.has(number + 1) {
            return Err(NotPut::Passed);
        }
        match self.read(number + 1, None) {
            Ok(after) if after.version.previous == hash => Ok(()),
            Ok(_) => Err(NotPut::Passed),
            Err(error) if error.kind() == ErrorKind::NotFound => Err(NotPut::Passed),
            Err(error) => Err(error.into()),
        }
    }

    /// Fails with `Diverged` if the version that was read last is gone from a listing, or has
    /// another length there. It may have been forgotten if two snapshots follow.
    fn check_known(&self, names: &VersionNames) -> Result<()> {
        match names.length_of(self.version) {
            _ if self.version == 0 => Ok(()),
            Some(length) if length == self.known.length => Ok(()),
            Some(length) => Err(self.diverged(format_args!("one of {length} bytes"))),
            None if self.may_be_forgotten(names) => Ok(()),
            None => Err(self.diverged(format_args!("versions up to {}", names.newest()))),
        }
    }

    /// Fails with `Diverged` if the version that was read last is another one of the same length now.
    ///
    /// Two vaults that parted may both have a version of that number. Nobody exchanges them within
    /// [`EXCHANGE`] of the last look, `checked`, without a request that fails.
    fn check_same(&mut self, names: &VersionNames, checked: Option<Duration>) -> Result<()> {
        let Object { length, checksum, .. } = self.known;
        let now = self.vault.clock.elapsed();
        let is_sure = checked.is_some_and(|at| now.saturating_sub(at) < EXCHANGE);
        if self.version != 0 && names.has(self.version) && !is_sure {
            let range = length - checksum.len() as u64..length;
            if self.vault.store.get(&self.object(self.version), range)? != checksum {
                return Err(self.diverged("another one of that length"));
            }
        }
        self.checked = Some(now);
        Ok(())
    }

    /// Returns whether others may have removed the version that was read last, because two snapshots
    /// follow it. A source whose vault went back makes one snapshot without any before it.
    fn may_be_forgotten(&self, names: &VersionNames) -> bool {
        let newest = names.newest() / SNAPSHOT_EVERY * SNAPSHOT_EVERY;
        let follow = newest >= (self.version / SNAPSHOT_EVERY + 2) * SNAPSHOT_EVERY;
        follow && (self.session.is_none() || names.has(newest - SNAPSHOT_EVERY))
    }

    fn diverged(&self, found: impl std::fmt::Display) -> Error {
        Error::new(ErrorKind::Diverged, "append to catalog", self.object(self.version))
            .message("the vault went back, or is another copy")
            .expected("the version that was read or put from here")
            .found(found)
    }

    /// Reads what a listing names. What was read before a failure is kept.
    ///
    /// A gate ends the catalog before a gap only if the version that a mirror put first can be
    /// read: with a key nobody but its source can have made it.
    fn read_listed(&mut self) -> Result<()> {
        self.read_to_intruders(Self::read_names)
    }

    fn read_names(&mut self, names: &VersionNames) -> Result<()> {
        let checked = self.checked.take();
        self.check_known(names)?;
        let end = names.readable();
        // The next version names the hash of this one.
        let reads_next =
            (end / SNAPSHOT_EVERY * SNAPSHOT_EVERY..=end).contains(&(self.version + 1));
        if !reads_next {
            self.check_same(names, checked)?;
        }
        (self.gates, self.gated) = (names.gates(), None);
        if let Some((_, until)) = names.gate_in_force() {
            self.read(until, names.length_of(until))?;
            self.gated = Some(until);
        }
        self.read_to(names, end)
    }

    /// Reads the versions up to `end`. They must follow each other from the newest snapshot on.
    fn read_to(&mut self, names: &VersionNames, end: u64) -> Result<()> {
        if let Some(number) = names.gap_before(end) {
            if self.session.is_some() {
                // The source goes on with what is left.
                return Err(self.diverged(format_args!("a gap at version {number}")));
            }
            return Err(Error::new(ErrorKind::Corrupt, "read catalog", &self.content.prefix)
                .message(format_args!(
                    "the vault went back or is damaged: its source can go on by itself; without it, accept what is left up \
                     to version {} (--accept-rollback)",
                    names.end_before_gap()
                ))
                .expected(format_args!("version {number}"))
                .found("a gap"));
        }
        let known = self.version;
        // A snapshot says all that the versions before it said; a mirror may have none of those.
        for number in (known + 1).max(end / SNAPSHOT_EVERY * SNAPSHOT_EVERY)..=end {
            let found = self.read(number, names.length_of(number))?;
            if number == known + 1 && known > 0 && found.version.previous != self.known.hash {
                return Err(self.diverged("another version in its place"));
            }
            self.apply_read(found, number)?;
        }
        Ok(())
    }

    /// Lists the versions in the store, and gates. Objects with other names, and intruders that are
    /// known, are ignored.
    fn listed(&self) -> Result<VersionNames> {
        let prefix = &self.content.prefix;
        let mut names = VersionNames::of(prefix, &self.vault.store.list(prefix)?);
        self.intruders.leave_out(&mut names);
        if names.newest() > VERSIONS_MAX {
            return Err(Error::new(ErrorKind::Corrupt, "read catalog", prefix)
                .expected(format_args!("versions up to {VERSIONS_MAX}"))
                .found(format_args!("version {}", names.newest())));
        }
        Ok(names)
    }

    /// Applies version `number` as it was read, or nothing of it. Only a snapshot may be beyond the
    /// next one.
    fn apply_read(&mut self, found: Read, number: u64) -> Result<()> {
        let Read { version, object } = found;
        if version.generation < self.generation {
            return Err(Error::new(ErrorKind::Corrupt, "read catalog", self.object(number))
                .expected(format_args!("generation {} of the volume key", self.generation))
                .found(version.generation));
        }
        let (whole, generation) = (is_snapshot(number), version.generation);
        let next = self.next_after(number, &version.edits)?;
        assert!(number == self.version + 1 || whole && number > self.version);
        if version.previous != self.known.hash && !(whole && self.version + 1 != number) {
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
        (self.version, self.next, self.known) = (number, next, object);
        self.generation = generation;
        Ok(())
    }

    /// Reads a version. The object's length is asked for unless it is known.
    fn read(&self, number: u64, length: Option<u64>) -> Result<Read> {
        let object = self.object(number);
        let bytes = match length {
            Some(length) if length <= VERSION_BYTES_MAX => {
                self.vault.store.get(&object, 0..length)?
            }
            _ => get_all(&*self.vault.store, &object, VERSION_BYTES_MAX)?,
        };
        let decode = || version::decode(&bytes, &object, self.id(number), &self.keys);
        let version = match decode() {
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                self.learn_key_of(&bytes, number)?;
                decode()?
            }
            decoded => decoded?,
        };
        Ok(Read { version, object: Object::of(&bytes) })
    }

    fn id(&self, number: u64) -> VersionId {
        VersionId { volume: self.content.volume, number }
    }

    /// Returns whether an object is a version that no reader needs.
    pub(crate) fn forgets(&self, object: &str) -> bool {
        let digits = object.strip_prefix(&*self.content.prefix);
        digits.and_then(layout::number).is_some_and(|number| number < self.first_kept())
    }

    fn first_kept(&self) -> u64 {
        (self.version / SNAPSHOT_EVERY).saturating_sub(1) * SNAPSHOT_EVERY
    }

    /// Removes versions that no reader needs. A failure costs nothing but space.
    fn forget_old_versions(&self) {
        let first_kept = self.first_kept();
        if first_kept == 0 || !self.vault.store.may_delete() {
            return;
        }
        let names = self.listed().unwrap_or_default();
        // The newest snapshot may be far beyond the one before it.
        let newest = self.version / SNAPSHOT_EVERY * SNAPSHOT_EVERY;
        let snapshots = names.numbers().filter(|number| is_snapshot(*number) && *number < newest);
        let first_kept = first_kept.min(snapshots.last().unwrap_or(0));
        let old = names.numbers().filter(|number| *number < first_kept);
        let old: Vec<_> = old.map(|number| self.object(number)).collect();
        let _ = delete_unlocked(&*self.vault.store, &old);
    }
}

/// A version as it was read.
struct Read {
    version: Version,
    object: Object,
}

/// Returns whether the edits take the volume for `source`.
fn takes(source: &SourceIdentity, edits: &[CatalogEdit]) -> bool {
    match edits.first() {
        Some(CatalogEdit::Source(taker)) => taker.id == source.id,
        Some(CatalogEdit::Divide(division)) => division.source.id == source.id,
        _ => false,
    }
}
