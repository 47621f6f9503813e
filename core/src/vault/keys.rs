//! The wrapped keys of a volume in its vault: opening them, rotating the key-encryption key or the
//! volume key, shredding the volume.
//!
//! Invariants: a wrapping is deleted only after another one was read back and opened, or by
//! shredding. After an interrupted rotation the old or the new key-encryption key opens the volume.
//! A new volume key is read back before anything is encrypted with it. Everything here can be run
//! again and then finishes. A shredded volume stays shredded: a rotation that finds a marker ends
//! with an error and deletes the wrapping that it put, and a shredder deletes wrappings until none is
//! left. A marker that nobody proved keeps nobody from reading while a wrapping opens (`shredded`
//! says why).

use std::cmp::Reverse;

use super::catalog::Catalog;
use super::edit::{CatalogEdit, SourceIdentity};
use super::record::{RECORD_BYTES_MAX, VolumeInfo, binding, properties};
use super::shredded::{self, Marker};
use super::{Vault, layout};
use crate::clock::random_bytes;
use crate::error::{Error, ErrorKind, Result};
use crate::journal::{KeyRing, VolumeKey, WrappingKey, wrong_key};
use crate::store::{ObjectInfo, PutOutcome, get_all};
use crate::units::{KeyId, VolumeId};

/// Rounds in which wrappings are deleted. Only rotations that run meanwhile add any.
const ROUNDS_MAX: u32 = 16;
/// Most wrappings of later keys that are tried.
const LATER_KEYS_MAX: usize = 256;

/// Host of the source that a catalog names after its volume was shredded.
pub const SHREDDER: &str = "(shredded)";

/// What a rotation of the key-encryption key did to a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RotationReport {
    /// Whether the new key-encryption key wraps the volume's key only since now.
    pub wrapped: bool,
    /// Whether the old key opened the volume until now.
    pub unwrapped: bool,
    /// Object names of wrapped keys that neither the old nor the new key opens. Interrupted
    /// rotations leave them, and their key-encryption keys still open the volume. Rotating from
    /// each of those removes it.
    pub others: Vec<String>,
}

/// What drawing another volume key did to a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RekeyReport {
    /// Name of the key that encrypts what is new.
    pub key: KeyId,
    /// Its generation; the first key of a volume has 1.
    pub generation: u32,
    /// Whether an interrupted run had drawn it.
    pub was_drawn: bool,
}

/// What to shred beside the keys, and which check to skip.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShredOptions {
    /// Also delete everything else of the volume, which frees its name.
    pub data: bool,
    /// Also shred volumes under legal hold, and volumes whose catalog cannot be read.
    pub override_legal_hold: bool,
}

/// What shredding deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShredReport {
    /// Whether the volume was shredded before.
    pub was_shredded: bool,
    /// Wrapped keys deleted.
    pub keys_deleted: u64,
    /// Other objects deleted.
    pub objects_deleted: u64,
    /// Their bytes.
    pub bytes_deleted: u64,
}

impl Vault {
    /// Wraps the keys of a volume with the key-encryption key `new`, and removes the wrappings of the
    /// key that the vault was opened with. No data is rewritten, and open handles of the volume
    /// stay valid.
    ///
    /// If it is interrupted, the old or the new key opens the volume, and a second run finishes.
    /// Two rotations in opposite directions must not run at once. `WrongKey` if neither key opens
    /// the volume, `InvalidInput` if the volume is not encrypted or both keys are the same,
    /// `Corrupt` while an object claims without proof that the volume was shredded.
    pub fn rotate_key(&self, name: &str, new: &WrappingKey) -> Result<RotationReport> {
        let (info, old) = self.encrypted(name)?;
        if old == new {
            return Err(Error::new(ErrorKind::InvalidInput, "rotate key of", name)
                .message("the new key-encryption key is the old one"));
        }
        // The operator thinks of the old key, so its error is the one to report.
        let keys = Wrappings::list(self, &info)?;
        let keys = keys.unwrap(old).or_else(|error| match error.kind() {
            ErrorKind::WrongKey => keys.unwrap(new).map_err(|_| error),
            _ => Err(error),
        })?;
        let (mut report, mut put) = (RotationReport::default(), Vec::<String>::new());
        // A round puts what is missing or else deletes; the next finds what was drawn meanwhile.
        for _ in 0..ROUNDS_MAX {
            let found = Wrappings::list(self, &info)?;
            if let Err(error) = found.check_unmarked(&keys) {
                // Shredded meanwhile: a wrapping put after the keys were deleted must not stay. If
                // somebody only claims that, the old wrappings are still there.
                put.iter().try_for_each(|object| self.store.delete(object))?;
                return Err(error);
            }
            let (old, before) = (found.opened_by(old)?, put.len());
            // Whoever has either key-encryption key has all volume keys or not the first.
            for (wrapping, key) in old.iter().rev() {
                put.extend(self.put_wrapping(&info, wrapping.generation, key, new)?);
            }
            if put.len() > before {
                continue;
            }
            if old.is_empty() {
                report.wrapped = !put.is_empty();
                let others = found.found.into_iter().filter(|w| w.wrapped_by != Some(new.id()));
                report.others = others.map(|wrapping| wrapping.object).collect();
                return Ok(report);
            }
            for (wrapping, _) in old {
                self.store.delete(&wrapping.object)?;
                report.unwrapped = true;
            }
        }
        Err(busy("rotate key of", name))
    }

    /// Draws another key for a volume: what is written from now on is encrypted with it, and what
    /// is folded. Earlier data keeps its key, which stays readable.
    ///
    /// Open handles and running agents go on: they find the key when they next read the catalog or
    /// publish, if their key-encryption key still opens it.
    ///
    /// If it is interrupted, a second run finishes with the key that was drawn. Errors as of
    /// [`Vault::rotate_key`]; `Changed` if the key-encryption key was rotated meanwhile.
    pub fn rekey(&self, name: &str) -> Result<RekeyReport> {
        let (info, by) = self.encrypted(name)?;
        let found = Wrappings::list(self, &info)?;
        let mut keys = found.open(by)?;
        found.check_unmarked(&keys)?;
        let newest = keys.all().last().map_or(1, |(newest, _)| *newest);
        let was_drawn = self.catalog(&info, &keys)?.generation.max(1) < newest;
        if !was_drawn {
            let generation = newest.saturating_add(1);
            let key = VolumeKey::generate(&*self.clock);
            let put = self.put_wrapping(&info, generation, &key, by)?;
            let found = Wrappings::list(self, &info)?;
            if let Err(error) = found.check_unmarked(&keys) {
                put.iter().try_for_each(|object| self.store.delete(object))?;
                return Err(error);
            }
            // With that of another run that came at the same time, whose key may be the newer one.
            keys = found.open(by).map_err(|error| {
                Error::new(ErrorKind::Changed, "draw another key for", name)
                    .message("its key-encryption key was rotated meanwhile; rotate that again")
                    .caused_by(error)
            })?;
        }
        self.catalog(&info, &keys)?.amend(&[], &|| Ok(()))?;
        let (generation, key) = keys.all().pop().ok_or_else(|| no_keys(&info))?;
        Ok(RekeyReport { key: key.id(), generation, was_drawn })
    }

    /// Puts the wrapped keys that the vault lacks, because it went back to before they were drawn. For
    /// a source that has encrypted with them. `Denied` by a gateway that lets no source add any.
    pub(crate) fn put_back_keys(&self, info: &VolumeInfo, keys: &KeyRing) -> Result<()> {
        let later: Vec<_> = keys.all().into_iter().filter(|(of, _)| *of > 1).collect();
        let Some(by) = self.wrapping_key.as_ref().filter(|_| !later.is_empty()) else {
            return Ok(());
        };
        let found = Wrappings::list(self, info)?;
        for (generation, key) in later {
            let is_it = |w: &Wrapping| w.generation == generation && w.key == key.id();
            if found.found.iter().any(|w| is_it(w) && w.wrapped_by == Some(by.id())) {
                continue;
            }
            let put = self.put_wrapping(info, generation, &key, by)?;
            if let Some(object) = put
                && self.store.head(&layout::shredded(&info.name))?.is_some()
            {
                return self.store.delete(&object);
            }
        }
        Ok(())
    }

    /// Returns an encrypted volume and the key-encryption key. `WrongKey` without that, `InvalidInput`
    /// if the volume is not encrypted.
    fn encrypted(&self, name: &str) -> Result<(VolumeInfo, &WrappingKey)> {
        let info = self.volume(name)?;
        let (kind, why) = match &self.wrapping_key {
            _ if info.key_id.is_none() => (ErrorKind::InvalidInput, "the volume is not encrypted"),
            None => (ErrorKind::WrongKey, "the vault was opened without a key-encryption key"),
            Some(by) => return Ok((info, by)),
        };
        Err(Error::new(kind, "rotate key of", name).message(why))
    }

    /// Puts the key of a volume wrapped by `by`, and opens what was stored. Returns the object's name
    /// unless it was there before.
    pub(crate) fn put_wrapping(
        &self,
        info: &VolumeInfo,
        generation: u32,
        key: &VolumeKey,
        by: &WrappingKey,
    ) -> Result<Option<String>> {
        let object = layout::wrapped_key(&info.name, generation, key.id(), by.id());
        let properties = properties(info, generation);
        let wrapped = by.wrap(key, &binding(info, &properties), &*self.clock);
        let outcome = self.store.put(&object, &wrapped)?;
        // Opening checks the key, too: its identity is part of the authenticated data.
        let read_back = get_all(&*self.store, &object, RECORD_BYTES_MAX)?;
        by.unwrap(&read_back, &binding(info, &properties), key.id(), &object)?;
        Ok((outcome == PutOutcome::Created).then_some(object))
    }

    /// Makes an encrypted volume unreadable forever by deleting its wrapped keys. With
    /// [`ShredOptions::data`] everything else is deleted, too.
    ///
    /// A source that is still running is fenced if the vault was opened with the right key; stop it
    /// before its data is deleted. Copies of deleted objects that the store keeps (versions,
    /// snapshots) are out of reach: for those the key-encryption key must be destroyed, too.
    ///
    /// Can be run again, and finishes what was interrupted. `InvalidInput` for an unencrypted
    /// volume unless data is deleted; `Fenced` while a point is under legal hold; `WrongKey` if
    /// that cannot be known without the key; `NotFound` if nothing has the name.
    pub fn shred(&self, name: &str, options: ShredOptions) -> Result<ShredReport> {
        layout::check_volume_name(name)?;
        let objects = self.objects.list(&layout::volume_prefix(name))?;
        if objects.is_empty() {
            return self.volume(name).map(|_| ShredReport::default());
        }
        let record = layout::volume_record(name);
        let info = objects.iter().any(|info| info.name == record).then(|| self.volume(name));
        let was_shredded = self.was_shredded(name, &objects, info.as_ref())?;
        let mut report = ShredReport { was_shredded, ..ShredReport::default() };
        if !was_shredded {
            let info = info.transpose()?;
            let key = info.as_ref().map(|info| self.check_and_fence(info, options)).transpose()?;
            let volume = info.map_or(VolumeId::default(), |info| info.id);
            self.put_marker(name, &shredded::encode(name, volume, key.flatten().as_ref()))?;
        }
        self.delete_keys(name, &mut report)?;
        if options.data {
            self.delete_volume(name, &mut report)?;
        }
        Ok(report)
    }

    /// Returns whether a shredder did all of its checks before, and put its marker. Without proof
    /// the marker counts only if what it claims is so: the keys are gone, or of an unencrypted
    /// volume, which nobody can prove, its checksum is right.
    fn was_shredded(
        &self,
        name: &str,
        objects: &[ObjectInfo],
        info: Option<&Result<VolumeInfo>>,
    ) -> Result<bool> {
        let (mark, keys) = (layout::shredded(name), layout::keys_prefix(name));
        if !objects.iter().any(|info| info.name == mark) {
            return Ok(false);
        }
        let no_keys = !objects.iter().any(|info| Wrapping::parse(&info.name, &keys).is_some());
        match info {
            // The record goes after everything else.
            None => Ok(true),
            Some(Err(_)) => Ok(no_keys),
            Some(Ok(info)) if info.key_id.is_none() => {
                Ok(shredded::read(&*self.store, info, None)? != Marker::None)
            }
            Some(Ok(info)) => Ok(no_keys || self.is_proven_shredded(info)?),
        }
    }

    /// Returns whether the key of the volume can be had and proves the marker.
    fn is_proven_shredded(&self, info: &VolumeInfo) -> Result<bool> {
        let Some(by) = &self.wrapping_key else { return Ok(false) };
        let found = Wrappings::list(self, info)?;
        match found.unwrap(by) {
            Ok(keys) => found.is_proven(&keys),
            Err(error) if error.kind() == ErrorKind::Unavailable => Err(error),
            Err(_) => Ok(false),
        }
    }

    /// Checks that the volume may be shredded, and takes it from its source. Returns its key, if it
    /// has one that can be had.
    fn check_and_fence(
        &self,
        info: &VolumeInfo,
        options: ShredOptions,
    ) -> Result<Option<VolumeKey>> {
        if info.key_id.is_none() && !options.data {
            return Err(Error::new(ErrorKind::InvalidInput, "shred", &info.name).message(
                "the volume is not encrypted: only deleting its data makes it unreadable",
            ));
        }
        match self.check_holds_and_fence(info, options.override_legal_hold) {
            Err(_) if options.override_legal_hold => {}
            checked => checked?,
        }
        Ok(self.keys(info).ok().and_then(|keys| keys.find(info.key_id?)))
    }

    /// Puts the marker, in place of one that somebody else put.
    fn put_marker(&self, name: &str, content: &[u8]) -> Result<()> {
        let mark = layout::shredded(name);
        if self.store.put(&mark, content)? == PutOutcome::AlreadyExists
            && get_all(&*self.store, &mark, RECORD_BYTES_MAX).ok().as_deref() != Some(content)
        {
            self.store.delete(&mark)?;
            self.store.put(&mark, content)?;
        }
        Ok(())
    }

    /// Deletes wrapped keys until none is left. A rotation that put one before the marker was there
    /// may have put it after the first listing.
    fn delete_keys(&self, name: &str, report: &mut ShredReport) -> Result<()> {
        let (mark, keys) = (layout::shredded(name), layout::keys_prefix(name));
        for _ in 0..ROUNDS_MAX {
            let objects = self.store.list(&keys)?;
            let mut left: Vec<_> = objects.iter().filter(|object| object.name != mark).collect();
            // Those of later keys have one part more. The first key proves the marker.
            left.sort_by_key(|object| Reverse(object.name.matches('.').count()));
            if left.is_empty() {
                return Ok(());
            }
            for object in left {
                self.store.delete(&object.name)?;
                report.keys_deleted += 1;
            }
        }
        Err(busy("shred", name))
    }

    /// Returns `Fenced` if a point is under legal hold. Takes the volume from its source, so that a
    /// pin or legal hold that came meanwhile is seen, and nothing is added after the keys are gone.
    fn check_holds_and_fence(&self, info: &VolumeInfo, override_hold: bool) -> Result<()> {
        let name = &info.name;
        let read = || self.catalog(info, &self.keys(info)?);
        let mut catalog = read().map_err(|error: Error| {
            Error::new(error.kind(), "shred", name)
                .message("whether a legal hold is on it cannot be read")
                .caused_by(error)
        })?;
        let check = |catalog: &Catalog| match catalog.pins().iter().find(|pin| pin.is_legal_hold())
        {
            Some(pin) if !override_hold => Err(Error::new(ErrorKind::Fenced, "shred", name)
                .message(format_args!("point {} is under legal hold", pin.point))),
            _ => Ok(()),
        };
        check(&catalog)?;
        let id = random_bytes(&*self.clock);
        let (host, since) = (SHREDDER.to_owned(), self.clock.now());
        let shredder = SourceIdentity { id, host, since };
        catalog.append(&shredder, vec![CatalogEdit::Source(shredder.clone())])?;
        check(&catalog)
    }

    /// Deletes everything of a volume: the marker last, and before it the record, so that the name
    /// is free only then.
    fn delete_volume(&self, name: &str, report: &mut ShredReport) -> Result<()> {
        let (record, mark) = (layout::volume_record(name), layout::shredded(name));
        // Packs are listed as objects in this store.
        let objects = self.objects.list(&layout::volume_prefix(name))?;
        let last = |name: &str| name == mark || name == record;
        let first = objects.iter().map(|object| &object.name).filter(|name| !last(name));
        self.objects.delete_many(&first.cloned().collect::<Vec<_>>())?;
        self.objects.delete(&record)?;
        self.objects.delete(&mark)?;
        for object in objects.iter().filter(|object| object.name != mark) {
            report.objects_deleted += 1;
            report.bytes_deleted += object.length;
        }
        Ok(())
    }

    /// Returns the keys that open a volume. `WrongKey` if they cannot be had. Also `WrongKey` if a
    /// key was given and the volume is not encrypted: anybody could have written such data.
    pub(crate) fn keys(&self, info: &VolumeInfo) -> Result<KeyRing> {
        let refused = || Error::new(ErrorKind::WrongKey, "open volume", &info.name);
        match (info.key_id, &self.wrapping_key) {
            (None, None) => Ok(KeyRing::default()),
            (None, Some(_)) => {
                Err(refused().message("the volume is not encrypted; open it without a key"))
            }
            (Some(_), None) => {
                let wrappings = Wrappings::list(self, info)?;
                if wrappings.of_first().next().is_none() {
                    return Err(no_keys(info));
                }
                Err(refused()
                    .message("the volume is encrypted and no key-encryption key was given")
                    .expected(wrappings.wanted()))
            }
            (Some(_), Some(by)) => Wrappings::list(self, info)?.open(by),
        }
    }

    /// Adds the keys that were drawn since to those of an open volume, which lacks one of this
    /// generation. `WrongKey` if the vault has one that the key-encryption key does not open. If it
    /// has none, then nobody with the key has drawn any.
    pub(super) fn learn_keys(
        &self,
        info: &VolumeInfo,
        keys: &KeyRing,
        generation: u32,
    ) -> Result<()> {
        let Some(by) = &self.wrapping_key else { return self.keys(info).map(drop) };
        let found = Wrappings::list(self, info)?;
        found.open(by)?.all().into_iter().for_each(|(of, key)| keys.insert(of, key));
        if keys.all().iter().any(|(of, _)| *of == generation) {
            return Ok(());
        }
        match found.found.iter().find(|found| found.generation == generation) {
            Some(other) => Err(Error::new(ErrorKind::WrongKey, "open volume key", &other.object)
                .message("the key-encryption key that was given does not open it")),
            None => Ok(()),
        }
    }

    /// Returns whether a volume was shredded: the marker is there, and what made it readable is
    /// gone. Costs one request if there is no marker.
    pub(super) fn is_shredded(&self, info: &VolumeInfo) -> Result<bool> {
        if self.store.head(&layout::shredded(&info.name))?.is_none() {
            return Ok(false);
        }
        let needed = match info.key_id {
            Some(_) => layout::keys_prefix(&info.name),
            None => layout::catalog_prefix(&info.name),
        };
        Ok(Self::is_gone(info, &self.store.list(&needed)?))
    }

    /// Returns whether nothing among `objects` makes the volume readable: no wrapped key, or of an
    /// unencrypted volume no version of its catalog.
    pub(super) fn is_gone(info: &VolumeInfo, objects: &[ObjectInfo]) -> bool {
        let (keys, catalog) = (layout::keys_prefix(&info.name), layout::catalog_prefix(&info.name));
        let is_needed = |object: &ObjectInfo| match info.key_id {
            Some(_) => Wrapping::parse(&object.name, &keys).is_some(),
            None => object.name.starts_with(&catalog),
        };
        !objects.iter().any(is_needed)
    }
}

/// The object of a wrapped key.
struct Wrapping {
    object: String,
    generation: u32,
    key: KeyId,
    /// `None` in vaults of the old layout, whose names do not say it.
    wrapped_by: Option<KeyId>,
}

impl Wrapping {
    /// Parses an object's name; `None` if it is not that of a wrapped key.
    fn parse(object: &str, prefix: &str) -> Option<Self> {
        let name = object.strip_prefix(prefix)?;
        let mut parts = name.split('.');
        let key = KeyId::parse(parts.next()?)?;
        let wrapped_by = parts.next().map(|part| KeyId::parse(part).ok_or(())).transpose().ok()?;
        let later = |part| u32::from_str_radix(part, 16).ok().filter(|later| *later > 1).ok_or(());
        let generation = parts.next().map(later).transpose().ok()?.unwrap_or(1);
        let object = object.to_owned();
        parts.next().is_none().then_some(Self { object, generation, key, wrapped_by })
    }

    fn open(&self, vault: &Vault, info: &VolumeInfo, wrapping: &WrappingKey) -> Result<VolumeKey> {
        let wrapped = get_all(&*vault.store, &self.object, RECORD_BYTES_MAX)?;
        let properties = properties(info, self.generation);
        wrapping.unwrap(&wrapped, &binding(info, &properties), self.key, &self.object)
    }
}

/// The wrapped keys of a volume in its vault.
struct Wrappings<'a> {
    vault: &'a Vault,
    info: &'a VolumeInfo,
    found: Vec<Wrapping>,
    /// An object says that the volume was shredded.
    is_marked: bool,
}

impl<'a> Wrappings<'a> {
    fn list(vault: &'a Vault, info: &'a VolumeInfo) -> Result<Self> {
        let prefix = layout::keys_prefix(&info.name);
        let objects = vault.store.list(&prefix)?;
        let mark = layout::shredded(&info.name);
        let is_marked = objects.iter().any(|object| object.name == mark);
        let found = objects.iter().filter_map(|object| Wrapping::parse(&object.name, &prefix));
        // Anybody may put another first key.
        let found = found.filter(|found| found.generation > 1 || Some(found.key) == info.key_id);
        let mut found: Vec<_> = found.collect();
        found.sort_by_key(|found| found.generation);
        Ok(Self { vault, info, found, is_marked })
    }

    /// Returns those of the first key.
    fn of_first(&self) -> impl Iterator<Item = &Wrapping> {
        self.found.iter().filter(|wrapping| wrapping.generation == 1)
    }

    /// Opens the keys of a volume. `WrongKey` if it was shredded, which the first one proves.
    fn open(&self, by: &WrappingKey) -> Result<KeyRing> {
        let keys = self.unwrap(by)?;
        if self.is_marked && self.is_proven(&keys)? {
            return Err(shredded_error(self.info));
        }
        Ok(keys)
    }

    /// Returns whether the first key proves the marker. A shredder deletes that one last.
    fn is_proven(&self, keys: &KeyRing) -> Result<bool> {
        let first = self.info.key_id.and_then(|id| keys.find(id));
        Ok(shredded::read(&*self.vault.store, self.info, first.as_ref())? == Marker::Proven)
    }

    /// Checks that nobody says that the volume was shredded. `WrongKey` if it was, `Corrupt` if
    /// nobody proved it.
    fn check_unmarked(&self, keys: &KeyRing) -> Result<()> {
        if !self.is_marked {
            return Ok(());
        }
        if self.is_proven(keys)? {
            return Err(shredded_error(self.info));
        }
        Err(Error::new(ErrorKind::Corrupt, "rotate key of", layout::shredded(&self.info.name))
            .expected("no marker of a shredded volume, because a key opens it")
            .found("one that anybody may have put; finish shredding, or delete the object"))
    }

    /// Opens the first key of a volume, shredded or not, and those later ones that the key-encryption
    /// key opens. Anybody may have put another, so it is no error here; what is encrypted with a key
    /// that is missing is one.
    fn unwrap(&self, by: &WrappingKey) -> Result<KeyRing> {
        let keys = KeyRing::default();
        for (found, key) in self.opened_by(by)? {
            keys.insert(found.generation, key);
        }
        match self.info.key_id.and_then(|first| keys.find(first)) {
            Some(_) => Ok(keys),
            None => Err(self.not_opened_by(by)),
        }
    }

    /// Returns the wrappings that the key-encryption key opens, those of the first key first.
    fn opened_by(&self, by: &WrappingKey) -> Result<Vec<(&Wrapping, VolumeKey)>> {
        let ours = self.found.iter().filter(|w| w.wrapped_by.is_none_or(|id| id == by.id()));
        let ours: Vec<_> = ours.collect();
        if ours.len() > LATER_KEYS_MAX {
            return Err(Error::new(ErrorKind::Corrupt, "open volume", &self.info.name)
                .expected(format_args!("at most {LATER_KEYS_MAX} wrapped keys"))
                .found(ours.len()));
        }
        let mut opened = Vec::new();
        for found in ours {
            match found.open(self.vault, self.info, by) {
                Ok(key) => opened.push((found, key)),
                Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::WrongKey) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(opened)
    }

    /// Returns why the key-encryption key does not open the first key.
    fn not_opened_by(&self, by: &WrappingKey) -> Error {
        let (named, unnamed): (Vec<_>, Vec<_>) =
            self.of_first().partition(|found| found.wrapped_by.is_some());
        let ours = named.iter().find(|found| found.wrapped_by == Some(by.id()));
        if let Some(Err(error)) =
            ours.or(unnamed.first()).map(|found| found.open(self.vault, self.info, by))
        {
            return error;
        }
        let needed: Vec<KeyId> = named.iter().filter_map(|found| found.wrapped_by).collect();
        match &needed[..] {
            [] => no_keys(self.info),
            needed => wrong_key(&self.info.name, needed, by.id()),
        }
    }

    /// Describes what opens the first key, for an error.
    fn wanted(&self) -> String {
        let named = self.of_first().filter_map(|found| found.wrapped_by);
        let named: Vec<_> = named.map(|id| id.to_string()).collect();
        if named.is_empty() {
            return "the key-encryption key that it was encrypted with".to_owned();
        }
        format!("key-encryption key {}", named.join(" or "))
    }
}

fn busy(operation: &'static str, name: &str) -> Error {
    Error::new(ErrorKind::Unavailable, operation, name)
        .message("somebody adds keys as fast as they are deleted; run it again")
}

fn shredded_error(info: &VolumeInfo) -> Error {
    Error::new(ErrorKind::WrongKey, "open volume", &info.name)
        .message("the volume was shredded; run shred again to delete the keys that are left")
}

fn no_keys(info: &VolumeInfo) -> Error {
    Error::new(ErrorKind::WrongKey, "open volume", &info.name)
        .message("none of its wrapped keys is left: the volume was shredded, or they were lost")
}
