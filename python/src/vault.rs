//! `Vault`: a store with the replicas of volumes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hrl::SystemClock;
use hrl::journal::WrappingKey;
use hrl::store::{DirStore, Store};
use hrl::vault::ShredOptions;
use hrl_stores::{agent_vault, create_url, open_recorded, open_url};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

use crate::at::Expectation;
use crate::callback_store::CallbackStore;
use crate::errors::run;
use crate::handle::{Handle, closes_handle};
use crate::key::Key;
use crate::point::GroupPoint;
use crate::replica::Replica;
use crate::value::{Shown, mirror};
use crate::volume_info::VolumeInfo;

mirror! {
    /// The result of `Vault.rotate_key`.
    KeyRotation(report: hrl::vault::RotationReport) {
        /// Whether this call wrapped the volume's key with the new key; False if that was done
        /// before.
        wrapped: bool,
        /// Whether this call deleted the vault key's wrapping; False if that was done before.
        unwrapped: bool,
        /// Objects that wrap the volume's key with other keys.
        others: Vec<String>,
    }
}

mirror! {
    /// The result of `Vault.rekey`.
    VolumeRekeyed(report: hrl::vault::RekeyReport) {
        /// Name of the key that encrypts what is new.
        key: String = report.key,
        /// Its generation; the first key of a volume has 1.
        generation: u32,
        /// Whether an interrupted call had drawn it.
        was_drawn: bool,
    }
}

mirror! {
    /// The result of `Vault.shred`.
    ShredReport(report: hrl::vault::ShredReport) {
        /// Whether the volume had been shredded before.
        was_shredded: bool,
        /// Number of wrapped keys deleted.
        keys_deleted: u64,
        /// Number of all objects deleted.
        objects_deleted: u64,
        /// Size of all objects deleted.
        bytes_deleted: u64,
    }
}

mirror! {
    /// The result of `Vault.group_points`.
    GroupPoints(found: hrl::replica::GroupPoints) {
        /// The points, oldest first, each once with its members in this vault.
        points: Vec<GroupPoint>,
        /// The volumes that could not be read, whose marks are missing.
        unread: Vec<UnreadVolume>,
    }
}

mirror! {
    /// A volume that could not be read. It unpacks as `volume, error`.
    unpacking UnreadVolume(unread: hrl::replica::UnreadVolume) {
        /// Its name.
        volume: String,
        /// The reason.
        error: String = unread.error.to_string(),
    }
}

fn store_at(url: &Path, create: bool) -> hrl::Result<Arc<dyn Store>> {
    match url.to_str() {
        Some(url) if create => create_url(url),
        Some(url) => open_url(url),
        // Not a URL, but the name of a directory.
        None if create => Ok(Arc::new(DirStore::create(url)?)),
        None => Ok(Arc::new(DirStore::open(url)?)),
    }
}

fn key_of(key: Option<&Key>, file: Option<PathBuf>) -> hrl::Result<Option<WrappingKey>> {
    match file {
        Some(path) => WrappingKey::from_file(&path).map(Some),
        None => Ok(key.map(|key| key.0.clone())),
    }
}

/// A store with the replicas of volumes.
///
/// `url` is a directory (a path or file://PATH) or an object store (s3://, az:// or gs://,
/// with credentials from the environment). Instead of it, `store` is a store of your own,
/// with the methods of `Store`.
///
/// `key`, or the content of `key_file`, is the key-encryption key of encrypted volumes.
/// `create` makes a new vault.
///
/// With `recorded_as`, such as "root@host (cleanup)", what is deleted through the vault is in its
/// audit log before it is deleted, unless a gateway sees to that.
///
/// `state` is the state directory of the agent that the vault is opened for. A new one makes a
/// new vault. One that knows a volume makes none, and its `Protection` begins even while the
/// vault is away.
#[pyclass(frozen, module = "hrl")]
pub(crate) struct Vault {
    inner: Handle<hrl::vault::Vault>,
}

impl Vault {
    pub(crate) fn inner(&self) -> PyResult<hrl::vault::Vault> {
        self.inner.get()
    }
}

#[pymethods]
impl Vault {
    #[new]
    #[pyo3(signature = (url=None, *, store=None, key=None, key_file=None, create=false, state=None, recorded_as=None))]
    #[allow(clippy::too_many_arguments, reason = "they are keyword arguments")]
    fn new(
        py: Python<'_>,
        url: Option<PathBuf>,
        store: Option<&Bound<'_, PyAny>>,
        key: Option<&Key>,
        key_file: Option<PathBuf>,
        create: bool,
        state: Option<PathBuf>,
        recorded_as: Option<&str>,
    ) -> PyResult<Self> {
        if key.is_some() && key_file.is_some() {
            return Err(PyTypeError::new_err("a vault is opened by a key or a key_file"));
        }
        let clock = SystemClock::shared();
        if let (Some(url), None, Some(state)) = (&url, store, state) {
            let url = url.to_str().ok_or_else(|| PyTypeError::new_err("the url is not UTF-8"))?;
            let inner = run(py, || agent_vault(url, &state, key_of(key, key_file)?, clock))?;
            return Ok(Self { inner: Handle::new("the vault", inner) });
        }
        let store: Arc<dyn Store> = match (url, store) {
            (Some(url), None) => run(py, || match (recorded_as, url.to_str()) {
                (Some(client), Some(url)) if !create => open_recorded(url, client, "admin"),
                _ => store_at(&url, create),
            })?,
            (None, Some(store)) => Arc::new(CallbackStore::new(store)?),
            _ => return Err(PyTypeError::new_err("a vault is opened by its url or in a store")),
        };
        let inner = run(py, || {
            let key = key_of(key, key_file)?;
            if create {
                hrl::vault::Vault::create(store, key, clock)
            } else {
                hrl::vault::Vault::open(store, key, clock)
            }
        })?;
        Ok(Self { inner: Handle::new("the vault", inner) })
    }

    /// Returns the record of every volume.
    fn volumes(&self, py: Python<'_>) -> PyResult<Vec<VolumeInfo>> {
        let vault = self.inner()?;
        run(py, || vault.volumes()).map(Shown::shown)
    }

    /// Returns the name of every volume, without reading their records. So a damaged record
    /// hides no other volume.
    fn volume_names(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        let vault = self.inner()?;
        run(py, || vault.volume_names())
    }

    /// Returns the record of one volume. Raises `NotFoundError` if there is none of that
    /// name.
    fn volume(&self, py: Python<'_>, name: &str) -> PyResult<VolumeInfo> {
        let vault = self.inner()?;
        run(py, || vault.volume(name)).map(Shown::shown)
    }

    /// Returns the points of consistency groups, and the volumes that could not be read.
    fn group_points(&self, py: Python<'_>) -> PyResult<GroupPoints> {
        let vault = self.inner()?;
        run(py, || vault.group_points()).map(Shown::shown)
    }

    /// Opens one volume as of now. Raises `NotFoundError` if there is none of that name.
    ///
    /// `name` may be "VOLUME@EPOCH", which names the branch of an ended epoch. With `at_least`
    /// raises `DivergedError` for a volume that does not have it, see `Replica.check_at_least`.
    #[pyo3(signature = (name, *, at_least=None))]
    fn replica(
        &self,
        py: Python<'_>,
        name: &str,
        at_least: Option<Expectation>,
    ) -> PyResult<Replica> {
        let vault = self.inner()?;
        let opened = run(py, || {
            let replica = vault.replica(name)?;
            at_least.map_or(Ok(()), |expected| replica.check_at_least(&expected.0))?;
            Ok(replica)
        });
        Ok(Replica::of("the replica", opened?))
    }

    /// Accepts that versions of a volume's catalog are lost, for a vault that went back and
    /// whose source is lost with what it put since.
    ///
    /// Readers and failovers go on with the last version before the gap. Returns its number and
    /// that of the newest version; `None` if no version is missing. Nothing is deleted, and the
    /// catalog is whole again if the versions return. Raises `CorruptError` if no version can be
    /// read.
    fn accept_gap(&self, py: Python<'_>, volume: &str) -> PyResult<Option<(u64, u64)>> {
        let vault = self.inner()?;
        run(py, || vault.accept_gap(volume))
    }

    /// Wraps the key of a volume with `new_key`, and deletes the wrapping of the vault's
    /// key.
    ///
    /// No data is rewritten, and agents that have the volume open continue. An interrupted call
    /// leaves the volume openable with one of the two keys; repeat it to finish.
    fn rotate_key(&self, py: Python<'_>, volume: &str, new_key: &Key) -> PyResult<KeyRotation> {
        let vault = self.inner()?;
        run(py, || vault.rotate_key(volume, &new_key.0)).map(Shown::shown)
    }

    /// Draws another key for a volume, which encrypts what is written and folded from now on.
    ///
    /// Earlier data keeps its key and stays readable. Agents that run go on with the new key when
    /// they next publish. An interrupted call is finished by another.
    fn rekey(&self, py: Python<'_>, volume: &str) -> PyResult<VolumeRekeyed> {
        let vault = self.inner()?;
        run(py, || vault.rekey(volume)).map(Shown::shown)
    }

    /// Makes an encrypted volume unreadable forever by deleting every wrapped key of it.
    /// Stop its source first.
    ///
    /// With `data` everything else of the volume is deleted too, which frees its name. Raises
    /// `FencedError` while a point is under legal hold, and `WrongKeyError` if that cannot be
    /// known. `override_legal_hold` skips both checks.
    #[pyo3(signature = (volume, *, data=false, override_legal_hold=false))]
    fn shred(
        &self,
        py: Python<'_>,
        volume: &str,
        data: bool,
        override_legal_hold: bool,
    ) -> PyResult<ShredReport> {
        let vault = self.inner()?;
        let options = ShredOptions { data, override_legal_hold };
        run(py, || vault.shred(volume, options)).map(Shown::shown)
    }

    fn __repr__(&self) -> String {
        match self.inner() {
            Ok(vault) => format!("<Vault {}>", vault.store().name()),
            Err(_) => "<Vault, closed>".to_owned(),
        }
    }
}

closes_handle! {
    /// Releases the store. Handles that were opened from the vault stay usable.
    Vault
}
