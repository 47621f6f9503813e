//! Vaults: stores with protected volumes in them.
//!
//! A [`Vault`] contains volumes: the record of each, its wrapped keys, its catalog, and the
//! segments that the catalog lists. `layout` has the names of the objects; the module `replica`
//! reads volumes.

mod amendment;
mod annotations;
mod branch;
mod catalog;
mod codec;
mod content;
mod edit;
mod history;
mod holds;
mod keepsake;
mod keys;
pub mod layout;
mod lifecycle;
mod losses;
pub(crate) mod pack;
mod protected;
mod read;
mod record;
mod shredded;
mod version;
mod versions;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub use annotations::{
    ANNOTATION_BYTES_MAX, Commitment, PINS_MAX, Pin, PinUntil, Verdict, VerdictKind,
};
pub use branch::BRANCHES_MAX;
pub use catalog::Catalog;
pub use content::CatalogContent;
pub(crate) use edit::host;
pub use edit::{Branch, CatalogEdit, Division, SegmentEntry, SourceIdentity, SourceInstance};
pub use history::TimelineEntry;
pub(crate) use history::{Intervals, missing_since, unordered_at};
pub use holds::LegalHold;
pub(crate) use keepsake::Keepsake;
pub use keys::{RekeyReport, RotationReport, SHREDDER, ShredOptions, ShredReport};
pub use lifecycle::{
    Lifecycle, NOTE_BYTES_MAX, STEPS_MAX, Stage, Step, StepKind, TESTS_MAX, TestFailover,
};
pub use pack::{PACK_DATA_BYTES_MAX, PACK_MEMBERS_MAX, PackedStore};
pub use protected::KeepReason;
pub use record::VolumeInfo;
#[cfg(any(test, feature = "testing"))]
pub use record::mend_volume_record;
pub use version::VersionEnvelope;
#[cfg(any(test, feature = "testing"))]
pub use version::mend_catalog_version;
#[cfg(test)]
pub(crate) use version::{VersionId, encode as encode_version};
pub use versions::{SNAPSHOT_EVERY, VersionNames};

use self::losses::Losses;
use self::record::{RECORD_BYTES_MAX, decode_volume, encode_volume};
use crate::clock::{Clock, random_bytes};
use crate::error::{Error, ErrorKind, Result};
use crate::journal::{VolumeKey, WrappingKey};
use crate::store::{PROBE_PREFIX, PutOutcome, Store, check_put_if_absent, get_all};
use crate::units::VolumeId;

const MARKER_CONTENT: &[u8] = b"hrl vault 1\n";

/// A store with volumes in it. Cheap to clone; may be used from any thread.
#[derive(Clone)]
pub struct Vault {
    /// Shows segments under their names, even those in packs.
    store: Arc<dyn Store>,
    /// The store below, with all its objects.
    objects: Arc<dyn Store>,
    wrapping_key: Option<WrappingKey>,
    clock: Arc<dyn Clock>,
    /// Shared by all writers of this handle.
    losses: Arc<Losses>,
    /// The store was seen to be a vault that this version knows.
    is_seen: Arc<AtomicBool>,
}

impl Vault {
    /// Opens a vault, and makes one of an empty store. `InvalidInput` if other objects are in the
    /// store, `Unsupported` if the store does not implement put-if-absent. Stores of local files
    /// are not tested for that.
    pub fn create(
        store: Arc<dyn Store>,
        wrapping_key: Option<WrappingKey>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        if store.head(layout::MARKER)?.is_none() {
            let objects = store.list("")?;
            if let Some(other) = objects.iter().find(|info| !info.name.starts_with(PROBE_PREFIX)) {
                return Err(Error::new(ErrorKind::InvalidInput, "create vault", store.name())
                    .expected("an empty store, or a vault")
                    .found(&other.name));
            }
            if store.local_path(layout::MARKER).is_none() {
                check_put_if_absent(&*store, &*clock)?;
            }
            store.put(layout::MARKER, MARKER_CONTENT)?;
        }
        Self::open(store, wrapping_key, clock)
    }

    /// Opens a vault. `NotFound` if the store is none, `Unsupported` if it is of a newer version.
    pub fn open(
        store: Arc<dyn Store>,
        wrapping_key: Option<WrappingKey>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        let vault = Self::awaited(store, wrapping_key, clock);
        vault.check_version()?;
        Ok(vault)
    }

    /// Returns a vault without asking the store whether it is one, for an agent that knows its
    /// volume: it may start while the store is away. What finds no vault there fails with
    /// `Unavailable`, and makes none.
    pub fn awaited(
        store: Arc<dyn Store>,
        wrapping_key: Option<WrappingKey>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            store: PackedStore::over(store.clone()),
            objects: store,
            wrapping_key,
            clock,
            losses: Arc::default(),
            is_seen: Arc::default(),
        }
    }

    /// Checks that the store is a vault of a version that this build knows; `NotFound` if it is none.
    fn check_version(&self) -> Result<()> {
        let objects = &*self.objects;
        if objects.head(layout::MARKER)?.is_none() {
            return Err(no_vault(ErrorKind::NotFound, "open vault", objects));
        }
        let content = get_all(objects, layout::MARKER, RECORD_BYTES_MAX)?;
        if content != MARKER_CONTENT {
            return Err(Error::new(ErrorKind::Unsupported, "open vault", objects.name())
                .expected(format_args!("an object {} that says hrl vault 1", layout::MARKER))
                .found(String::from_utf8_lossy(&content).trim()));
        }
        self.is_seen.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Checks that a vault that is known to exist is there, unless it was seen before. `Unavailable`
    /// if there is none.
    pub(crate) fn check_seen(&self) -> Result<()> {
        if self.is_seen.load(Ordering::Relaxed) {
            return Ok(());
        }
        check_marker(&*self.objects)?;
        self.check_version()
    }

    /// Returns the store of the vault, which shows segments under their names, even those in packs.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Returns the store below [`Vault::store`], in which packs are objects and their segments are
    /// not.
    pub fn objects(&self) -> &Arc<dyn Store> {
        &self.objects
    }

    /// Returns the clock.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Returns the key-encryption key that the vault was opened with.
    pub fn wrapping_key(&self) -> Option<&WrappingKey> {
        self.wrapping_key.as_ref()
    }

    /// Returns the volumes, by name.
    pub fn volumes(&self) -> Result<Vec<VolumeInfo>> {
        let objects = self.objects.list(layout::VOLUMES)?;
        objects
            .iter()
            .filter_map(|info| layout::volume_of_record(&info.name))
            .map(|name| {
                let info = self.read_volume(name)?;
                let mark = layout::shredded(name);
                let is_marked = objects.iter().any(|info| info.name == mark);
                let shredded = is_marked && Self::is_gone(&info, &objects);
                Ok(VolumeInfo { shredded, ..info })
            })
            .collect()
    }

    /// Returns the names of the volumes, in order, without reading their records. So a damaged
    /// record hides no other volume.
    pub fn volume_names(&self) -> Result<Vec<String>> {
        let objects = self.objects.list(layout::VOLUMES)?;
        let names = objects.iter().filter_map(|info| layout::volume_of_record(&info.name));
        Ok(names.map(str::to_owned).collect())
    }

    /// Returns what the vault records of a volume; `NotFound` lists those that it has.
    pub fn volume(&self, name: &str) -> Result<VolumeInfo> {
        layout::check_volume_name(name)?;
        if self.store.head(&layout::volume_record(name))?.is_none() {
            let known = self.volume_names()?;
            return Err(Error::new(ErrorKind::NotFound, "find volume", name)
                .expected(format_args!("one of [{}]", known.join(", ")))
                .found(name));
        }
        let info = self.read_volume(name)?;
        Ok(VolumeInfo { shredded: self.is_shredded(&info)?, ..info })
    }

    /// Checks that the vault records the volume that was opened before.
    pub(crate) fn check_recorded(&self, known: &VolumeInfo) -> Result<()> {
        let found = self.read_volume(&known.name)?;
        if found.is_same_volume(known) {
            return Ok(());
        }
        let object = layout::volume_record(&known.name);
        Err(Error::new(ErrorKind::Corrupt, "read volume record", object)
            .expected(format_args!("volume {} as it was opened", known.id))
            .found(format_args!("volume {} or other properties", found.id)))
    }

    /// Reads the record of a volume. Whether it was shredded is not asked.
    fn read_volume(&self, name: &str) -> Result<VolumeInfo> {
        let object = layout::volume_record(name);
        let record = get_all(&*self.store, &object, RECORD_BYTES_MAX)?;
        decode_volume(name, &record, &object)
    }

    /// Adds a volume. `AlreadyExists` if the name is taken, or if objects of a shredded volume are
    /// left under it. If the vault was opened with a key-encryption key, a volume key is drawn and
    /// everything of the volume is encrypted.
    pub fn create_volume(
        &self,
        name: &str,
        device_bytes: u64,
        block_bytes: u32,
        extents_only: bool,
    ) -> Result<VolumeInfo> {
        layout::check_volume_name(name)?;
        let taken = |why: &str| {
            Err(Error::new(ErrorKind::AlreadyExists, "create volume", name).message(why))
        };
        let left = self.store.list(&layout::catalog_prefix(name))?;
        if self.store.head(&layout::shredded(name))?.is_some() || !left.is_empty() {
            return taken("objects of a volume of this name are left; shred it with its data");
        }
        let id = VolumeId(random_bytes(&*self.clock));
        let key = self.wrapping_key.as_ref().map(|by| (VolumeKey::generate(&*self.clock), by));
        let info = VolumeInfo {
            name: name.to_owned(),
            id,
            device_bytes,
            block_bytes,
            created: self.clock.now(),
            key_id: key.as_ref().map(|(key, _)| key.id()),
            extents_only,
            shredded: false,
        };
        let wrapped =
            key.as_ref().map(|(key, by)| self.put_wrapping(&info, 1, key, by)).transpose()?;
        match self.store.put(&layout::volume_record(name), &encode_volume(&info))? {
            PutOutcome::Created => Ok(info),
            PutOutcome::AlreadyExists => {
                if let Some(object) = wrapped.flatten().filter(|_| self.store.may_delete()) {
                    self.store.delete(&object)?;
                }
                taken("the vault has a volume of this name")
            }
        }
    }
}

/// Checks that the store of a vault that is known to exist is one now. `Unavailable` if it is none:
/// its file system may not be mounted.
pub(crate) fn check_marker(store: &dyn Store) -> Result<()> {
    match store.head(layout::MARKER)? {
        Some(_) => Ok(()),
        None => Err(no_vault(ErrorKind::Unavailable, "find vault", store)),
    }
}

/// Returns the error for a store without the marker of a vault. It says what is there instead, as far
/// as that can be known.
fn no_vault(kind: ErrorKind, operation: &'static str, store: &dyn Store) -> Error {
    let directory = store.local_path(layout::MARKER);
    let is_empty = directory.as_ref().and_then(|marker| marker.parent()?.read_dir().ok());
    let message = match (&directory, is_empty.map(|mut entries| entries.next().is_none())) {
        (None, _) => "this is no vault",
        (Some(_), Some(true)) => "the directory is empty: is its file system mounted?",
        (Some(_), _) => "this is no vault: is its file system mounted?",
    };
    Error::new(kind, operation, store.name())
        .message(message)
        .expected(format_args!("an object named {}", layout::MARKER))
        .found("none")
}
