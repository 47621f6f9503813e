//! The wrapped keys of a volume in its vault: opening them, rotating the key-encryption key,
//! shredding the volume.
//!
//! Invariants: a wrapping is deleted only after another one was read back and opened, or by
//! shredding. After an interrupted rotation the old or the new key-encryption key opens the volume.
//! Everything here can be run again and then finishes. A shredded volume stays shredded: a rotation
//! that finds a marker ends with an error and deletes the wrapping that it put, and a shredder
//! deletes wrappings until none is left. A marker that nobody proved keeps nobody from reading
//! while a wrapping opens (`shredded` says why).

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

/// Rounds in which a shredder deletes wrappings. Only rotations that run meanwhile add any.
const SHRED_ROUNDS_MAX: u32 = 16;
/// Most wrappings of a volume that are tried; a rotation leaves one.
const WRAPPINGS_MAX: usize = 256;

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
    /// Wraps the key of a volume with the key-encryption key `new`, and removes the wrapping of the
    /// key that the vault was opened with. No data is rewritten, and open handles of the volume
    /// stay valid.
    ///
    /// If it is interrupted, the old or the new key opens the volume, and a second run finishes.
    /// Two rotations in opposite directions must not run at once. `WrongKey` if neither key opens
    /// the volume, `InvalidInput` if the volume is not encrypted or both keys are the same,
    /// `Corrupt` while an object claims without proof that the volume was shredded.
    pub fn rotate_key(&self, name: &str, new: &WrappingKey) -> Result<RotationReport> {
        let info = self.volume(name)?;
        let refused = |kind| Error::new(kind, "rotate key of", name);
        let Some(id) = info.key_id else {
            return Err(refused(ErrorKind::InvalidInput).message("the volume is not encrypted"));
        };
        let Some(old) = &self.wrapping_key else {
            return Err(refused(ErrorKind::WrongKey)
                .message("the vault was opened without a key-encryption key"));
        };
        if old == new {
            return Err(refused(ErrorKind::InvalidInput)
                .message("the new key-encryption key is the old one"));
        }
        let before = Wrappings::list(self, &info)?;
        let key = match before.open(id, old) {
            Err(error) if error.kind() == ErrorKind::WrongKey => before
                .open(id, new)
                // The operator thinks of the old key, so its error is the one to report.
                .map_err(|_| error)?,
            opened => opened?,
        };
        before.check_unmarked(&key)?;
        let wrapped = self.put_wrapping(&info, &key, new)?;
        let after = Wrappings::list(self, &info)?;
        if let Err(error) = after.check_unmarked(&key) {
            // Shredded meanwhile: a wrapping put after the keys were deleted must not stay. If
            // somebody only claims that, the old wrapping is still there.
            if wrapped {
                self.store.delete(&layout::wrapped_key(name, id, new.id()))?;
            }
            return Err(error);
        }
        let mut report = RotationReport { wrapped, ..RotationReport::default() };
        for wrapping in after.of(id).filter(|w| w.wrapped_by != Some(new.id())) {
            let is_old = match wrapping.wrapped_by {
                Some(by) => by == old.id(),
                None => wrapping.open(self, &info, old).is_ok(),
            };
            if is_old {
                self.store.delete(&wrapping.object)?;
                report.unwrapped = true;
            } else {
                report.others.push(wrapping.object.clone());
            }
        }
        Ok(report)
    }

    /// Puts the key of a volume wrapped by `new`, and opens what was stored. Returns false if it
    /// was there before.
    fn put_wrapping(&self, info: &VolumeInfo, key: &VolumeKey, new: &WrappingKey) -> Result<bool> {
        let (object, outcome) = self.add_key(info, key, new)?;
        let read_back = get_all(&*self.store, &object, RECORD_BYTES_MAX)?;
        // Opening checks the key, too: its identity is part of the name and of the authenticated
        // data.
        new.unwrap(&read_back, &binding(info, &properties(info)), key.id(), &object)?;
        Ok(outcome == PutOutcome::Created)
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
        let (Some(id), Some(wrapping)) = (info.key_id, &self.wrapping_key) else {
            return Ok(false);
        };
        let found = Wrappings::list(self, info)?;
        match found.unwrap(id, wrapping) {
            Ok(key) => found.is_proven(&key),
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
        Ok(self.keys(info).ok().and_then(|keys| keys.newest().cloned()))
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
        for _ in 0..SHRED_ROUNDS_MAX {
            let objects = self.store.list(&keys)?;
            let left: Vec<_> = objects.iter().filter(|object| object.name != mark).collect();
            if left.is_empty() {
                return Ok(());
            }
            for object in left {
                self.store.delete(&object.name)?;
                report.keys_deleted += 1;
            }
        }
        Err(Error::new(ErrorKind::Unavailable, "shred", name)
            .message("somebody adds keys as fast as they are deleted; run it again"))
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

    /// Stores the key of a volume, wrapped. Returns the name of its object, which the caller deletes
    /// if it was put for a volume that is not created.
    pub(super) fn add_key(
        &self,
        info: &VolumeInfo,
        key: &VolumeKey,
        wrapping: &WrappingKey,
    ) -> Result<(String, PutOutcome)> {
        let object = layout::wrapped_key(&info.name, key.id(), wrapping.id());
        let wrapped = wrapping.wrap(key, &binding(info, &properties(info)), &*self.clock);
        let outcome = self.store.put(&object, &wrapped)?;
        Ok((object, outcome))
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
            (Some(id), None) => {
                let wrappings = Wrappings::list(self, info)?;
                if wrappings.of(id).next().is_none() {
                    return Err(no_keys(info));
                }
                Err(refused()
                    .message("the volume is encrypted and no key-encryption key was given")
                    .expected(wrappings.wanted(id)))
            }
            (Some(id), Some(wrapping)) => {
                Wrappings::list(self, info)?.open(id, wrapping).map(Into::into)
            }
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
        Ok(is_gone(info, &self.store.list(&needed)?))
    }
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

/// The object of a wrapped key.
struct Wrapping {
    object: String,
    key: KeyId,
    /// `None` in vaults of the old layout, whose names do not say it.
    wrapped_by: Option<KeyId>,
}

impl Wrapping {
    /// Parses an object's name; `None` if it is not that of a wrapped key.
    fn parse(object: &str, prefix: &str) -> Option<Self> {
        let name = object.strip_prefix(prefix)?;
        let (key, wrapped_by) = match name.split_once('.') {
            Some((key, wrapped_by)) => (KeyId::parse(key)?, Some(KeyId::parse(wrapped_by)?)),
            None => (KeyId::parse(name)?, None),
        };
        Some(Self { object: object.to_owned(), key, wrapped_by })
    }

    fn open(&self, vault: &Vault, info: &VolumeInfo, wrapping: &WrappingKey) -> Result<VolumeKey> {
        let wrapped = get_all(&*vault.store, &self.object, RECORD_BYTES_MAX)?;
        let properties = properties(info);
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
        let found = found.take(WRAPPINGS_MAX).collect();
        Ok(Self { vault, info, found, is_marked })
    }

    fn of(&self, id: KeyId) -> impl Iterator<Item = &Wrapping> {
        self.found.iter().filter(move |wrapping| wrapping.key == id)
    }

    /// Opens the key `id` of a volume. `WrongKey` if the volume was shredded, which that key
    /// proves.
    fn open(&self, id: KeyId, wrapping: &WrappingKey) -> Result<VolumeKey> {
        let key = self.unwrap(id, wrapping)?;
        if self.is_marked && self.is_proven(&key)? {
            return Err(shredded_error(self.info));
        }
        Ok(key)
    }

    /// Returns whether the key proves the marker.
    fn is_proven(&self, key: &VolumeKey) -> Result<bool> {
        Ok(shredded::read(&*self.vault.store, self.info, Some(key))? == Marker::Proven)
    }

    /// Checks that nobody says that the volume was shredded. `WrongKey` if it was, `Corrupt` if
    /// nobody proved it.
    fn check_unmarked(&self, key: &VolumeKey) -> Result<()> {
        if !self.is_marked {
            return Ok(());
        }
        if self.is_proven(key)? {
            return Err(shredded_error(self.info));
        }
        Err(Error::new(ErrorKind::Corrupt, "rotate key of", layout::shredded(&self.info.name))
            .expected("no marker of a shredded volume, because a key opens it")
            .found("one that anybody may have put; finish shredding, or delete the object"))
    }

    /// Opens the key `id` of a volume, shredded or not. A wrapping whose name has the
    /// key-encryption key is tried alone.
    fn unwrap(&self, id: KeyId, wrapping: &WrappingKey) -> Result<VolumeKey> {
        if let Some(named) = self.of(id).find(|w| w.wrapped_by == Some(wrapping.id())) {
            return named.open(self.vault, self.info, wrapping);
        }
        if let Some(unnamed) = self.of(id).find(|w| w.wrapped_by.is_none()) {
            return unnamed.open(self.vault, self.info, wrapping);
        }
        let needed: Vec<KeyId> = self.of(id).filter_map(|w| w.wrapped_by).collect();
        if needed.is_empty() {
            return Err(no_keys(self.info));
        }
        Err(wrong_key(&self.info.name, &needed, wrapping.id()))
    }

    /// Describes what opens the key `id`, for an error.
    fn wanted(&self, id: KeyId) -> String {
        let named: Vec<_> =
            self.of(id).filter_map(|w| w.wrapped_by).map(|id| id.to_string()).collect();
        if named.is_empty() {
            return "the key-encryption key that it was encrypted with".to_owned();
        }
        format!("key-encryption key {}", named.join(" or "))
    }
}

fn shredded_error(info: &VolumeInfo) -> Error {
    Error::new(ErrorKind::WrongKey, "open volume", &info.name)
        .message("the volume was shredded; run shred again to delete the keys that are left")
}

fn no_keys(info: &VolumeInfo) -> Error {
    Error::new(ErrorKind::WrongKey, "open volume", &info.name)
        .message("none of its wrapped keys is left: the volume was shredded, or they were lost")
}
