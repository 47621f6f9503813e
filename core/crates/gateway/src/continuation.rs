//! Checks that a catalog version which a source puts continues the catalog, as far as anybody can
//! see without the key: it is whole, of this volume, and the next one.
//!
//! So a client with a source's certificate cannot make a catalog unreadable by an object under the
//! name of a version. The newest version of each volume is remembered, so a source that goes on
//! costs no further request.

use std::collections::HashMap;
use std::sync::Arc;

use hrl::store::{Store, get_all};
use hrl::sync::lock::Mutex;
use hrl::vault::{PackedStore, SNAPSHOT_EVERY, Vault, VersionEnvelope, VersionNames, layout};
use hrl::{Error, ErrorKind, Result, SystemClock, VolumeId};

/// Largest version that is read.
const VERSION_BYTES_MAX: u64 = 256 << 20;
/// A source whose vault went back goes on at most this far beyond what is there. So numbers, of which
/// a catalog has enough for ever, are not used up.
const BEYOND_MAX: u64 = 1 << 26;
/// Volumes that are remembered.
const VOLUMES_MAX: usize = 10_000;

/// What is known of a volume.
#[derive(Clone, Copy)]
struct Known {
    id: VolumeId,
    is_encrypted: bool,
    /// Its newest version, and the hash of that.
    newest: (u64, [u8; 32]),
}

/// The volumes whose catalogs grew through this gateway.
#[derive(Default)]
pub(crate) struct Continuation {
    volumes: Mutex<HashMap<String, Known>>,
}

/// A version that may be put, and what is known once it is there.
pub(crate) struct Continued<'a> {
    volume: &'a str,
    known: Known,
}

impl Continuation {
    /// Checks the bytes of version `number` of a volume. `Diverged` if they do not continue the
    /// catalog, `InvalidInput` if they are no version of it. A version that is there already passes:
    /// it cannot be replaced.
    pub(crate) fn check<'a>(
        &self,
        vault: &Arc<PackedStore>,
        volume: &'a str,
        number: u64,
        bytes: &[u8],
    ) -> Result<Option<Continued<'a>>> {
        let object = layout::catalog_version(&layout::catalog_prefix(volume), number);
        let envelope = VersionEnvelope::read(bytes, &object).map_err(|error| {
            Error::new(ErrorKind::InvalidInput, "put", &object)
                .message("this is no catalog version")
                .caused_by(error)
        })?;
        let newest = (number, VersionEnvelope::hash(bytes));
        let remembered = self.volumes.lock().get(volume).copied();
        if let Some(known) = remembered
            && known.newest.0 + 1 == number
            && is_of(known, &envelope)
            && envelope.previous == known.newest.1
        {
            return Ok(Some(Continued { volume, known: Known { newest, ..known } }));
        }
        let known = read_volume(vault, volume)?;
        if !is_of(known, &envelope) || envelope.number != number {
            return Err(Error::new(ErrorKind::InvalidInput, "put", &object)
                .message("this is a catalog version of another volume or number"));
        }
        let catalog = layout::catalog_prefix(volume);
        let names = VersionNames::of(&catalog, &vault.list(&catalog)?);
        if names.has(number) {
            return Ok(None);
        }
        let last = names.newest();
        let diverged = |found: &str| {
            Error::new(ErrorKind::Diverged, "put", &object)
                .message("it does not continue the catalog in the vault")
                .expected(format_args!("the version after {last}"))
                .found(found)
        };
        let known = Known { newest, ..known };
        if number == last + 1 {
            let before = match last {
                0 => [0; 32],
                _ => {
                    let name = layout::catalog_version(&catalog, last);
                    VersionEnvelope::hash(&get_all(&**vault, &name, VERSION_BYTES_MAX)?)
                }
            };
            if before != envelope.previous {
                return Err(diverged("one that follows another"));
            }
            return Ok(Some(Continued { volume, known }));
        }
        // A source whose vault went back goes beyond what it knew, with a snapshot.
        let is_near = number > last && number - last <= BEYOND_MAX;
        if is_near && number.is_multiple_of(SNAPSHOT_EVERY) {
            return Ok(Some(Continued { volume, known }));
        }
        Err(diverged("another number"))
    }

    /// Remembers a version that was put.
    pub(crate) fn put(&self, continued: Continued<'_>) {
        let mut volumes = self.volumes.lock();
        if volumes.len() >= VOLUMES_MAX {
            volumes.clear();
        }
        volumes.insert(continued.volume.to_owned(), continued.known);
    }
}

fn is_of(known: Known, envelope: &VersionEnvelope) -> bool {
    envelope.volume == known.id && (envelope.generation != 0) == known.is_encrypted
}

fn read_volume(vault: &Arc<PackedStore>, volume: &str) -> Result<Known> {
    let store: Arc<dyn Store> = vault.clone();
    let info = Vault::awaited(store, None, SystemClock::shared()).volume(volume)?;
    let is_encrypted = info.key_id.is_some();
    Ok(Known { id: info.id, is_encrypted, newest: (0, [0; 32]) })
}
