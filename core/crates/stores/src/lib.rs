//! Stores by URL, for programs that get URLs from their users.
//!
//! A path or `file://PATH` is a directory; with `file://PATH?lock=TIME` its objects are immutable for
//! that time, which needs root. With the feature `cloud`, `s3://`, `az://` and `gs://`
//! are object stores, whose credentials come from the environment. With the feature `gateway`,
//! `gateway://HOST[:PORT],…[?identity=DIR]` are gateways.
//!
//! If the vault there has a deletion delay, what is deleted through the store can be brought back. A
//! gateway sees to that itself.

mod immutable;
mod late;
#[cfg(feature = "cloud")]
mod versions;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hrl::journal::WrappingKey;
use hrl::store::{DirStore, Store};
use hrl::vault::Vault;
use hrl::{Clock, Error, ErrorKind, ProtectionOptions, Result, SystemClock};
use hrl_audit::{Audit, AuditedStore};
use hrl_maintain::{DelayedStore, UndeleteOptions, Undeleted};

use crate::immutable::ImmutableStore;
use crate::late::LateStore;
#[cfg(feature = "cloud")]
pub use crate::versions::undelete_in_bucket;

const GATEWAY: &str = "gateway://";
/// Shortest lock of a directory's objects.
const LOCK_MIN: Duration = Duration::from_secs(3600);

/// Opens the store that `url` names.
///
/// `NotFound` if the directory or bucket is absent, `InvalidInput` if the URL is malformed,
/// `Unsupported` if this build lacks its kind of store, `Unavailable` if the server does not
/// answer.
pub fn open_url(url: &str) -> Result<Arc<dyn Store>> {
    Ok(delayed(url, open_below(url)?))
}

/// Opens the store that `url` names, as [`open_url`] does, for somebody who may delete: what they
/// delete is in the audit log of the vault before it is deleted, and what they put is counted there.
/// A gateway sees to that itself, under the name of its client.
///
/// `client` and `role` are for people, such as `root@host (hrl shred)` and `admin`.
pub fn open_recorded(url: &str, client: &str, role: &str) -> Result<Arc<dyn Store>> {
    let below = open_below(url)?;
    if url.starts_with(GATEWAY) {
        return Ok(below);
    }
    let clock = SystemClock::shared();
    let audit = Arc::new(Audit::new(below.clone(), client, clock.clone()));
    let delayed = DelayedStore::over(below, clock, client);
    Ok(Arc::new(AuditedStore::new(delayed, audit, client, role)))
}

/// Opens the store that `url` names without its deletion delay, for maintenance: what is deleted
/// through it is gone. `InvalidInput` for a gateway, which never gives that out; otherwise the errors
/// of [`open_url`].
pub fn open_for_maintenance(url: &str) -> Result<Arc<dyn Store>> {
    if url.starts_with(GATEWAY) {
        return Err(Error::new(ErrorKind::InvalidInput, "maintain", url)
            .message("a vault is maintained where its gateways reach it, not through one of them")
            .expected("the URL or directory that the gateway was given"));
    }
    open_below(url)
}

/// Brings back what was deleted since a time from the vault that `url` names: what tombstones have,
/// and in a bucket with versions also what was deleted or replaced by whoever had its credentials.
/// The errors are those of [`open_for_maintenance`] and of [`hrl_maintain::undelete`].
pub fn undelete(
    url: &str,
    key: Option<&WrappingKey>,
    options: &UndeleteOptions,
) -> Result<Vec<Undeleted>> {
    #[cfg(feature = "cloud")]
    if let Some(bucket) = object_store(url)? {
        return undelete_in_bucket(bucket, key, options);
    }
    hrl_maintain::undelete(&open_for_maintenance(url)?, key, &SystemClock::shared(), options)
}

fn open_below(url: &str) -> Result<Arc<dyn Store>> {
    match local(url)? {
        Some((path, lock)) => Ok(locked(Arc::new(DirStore::open(path)?), lock)),
        None => open_remote(url),
    }
}

fn locked(store: Arc<dyn Store>, lock: Option<Duration>) -> Arc<dyn Store> {
    match lock {
        Some(time) => Arc::new(ImmutableStore::over(store, time, SystemClock::shared())),
        None => store,
    }
}

/// Returns the store as its clients see it.
fn delayed(url: &str, store: Arc<dyn Store>) -> Arc<dyn Store> {
    if url.starts_with(GATEWAY) {
        return store;
    }
    DelayedStore::over(store, SystemClock::shared(), "client without a gateway")
}

/// Opens the store that `url` names, as [`open_url`] does, and creates an absent directory. Buckets
/// are never created.
pub fn create_url(url: &str) -> Result<Arc<dyn Store>> {
    let store = match local(url)? {
        Some((path, lock)) => locked(Arc::new(DirStore::create(path)?), lock),
        None => open_remote(url)?,
    };
    Ok(delayed(url, store))
}

/// Opens the vault of an agent, for [`ProtectionOptions::new`].
///
/// If the state directory is new, a store that is empty or absent becomes a vault, as with
/// [`Vault::create`]. If it knows a volume, no vault is ever made: a store that is away or no vault
/// is asked again at each use, so that the agent can begin without it.
///
/// `InvalidInput` and `Unsupported` for the URL, and for a new state directory the errors of
/// [`create_url`] and [`Vault::create`].
pub fn agent_vault(
    url: &str,
    state: &Path,
    key: Option<WrappingKey>,
    clock: Arc<dyn Clock>,
) -> Result<Vault> {
    if !ProtectionOptions::knows_vault(state) {
        return Vault::create(create_url(url)?, key, clock);
    }
    let store: Arc<dyn Store> = match open_url(url) {
        Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => {
            return Err(error);
        }
        Err(_) => Arc::new(LateStore::new(url)),
        Ok(store) => store,
    };
    Ok(Vault::awaited(store, key, clock))
}

/// Returns the path, and for how long objects are locked, if the URL is that of a directory.
fn local(url: &str) -> Result<Option<(&Path, Option<Duration>)>> {
    let Some(rest) = url.strip_prefix("file://") else {
        return Ok((!url.contains("://")).then(|| (Path::new(url), None)));
    };
    let Some((path, query)) = rest.split_once('?') else {
        return Ok(Some((Path::new(rest), None)));
    };
    let time = query.strip_prefix("lock=").and_then(|time| hrl::parse_duration(time, None).ok());
    match time.filter(|time| *time >= LOCK_MIN) {
        Some(time) => Ok(Some((Path::new(path), Some(time)))),
        None => Err(Error::new(ErrorKind::InvalidInput, "open store", url)
            .expected("lock=TIME of at least 1 hour, such as lock=30d, after the question mark")
            .found(query)),
    }
}

fn open_remote(url: &str) -> Result<Arc<dyn Store>> {
    match url.strip_prefix(GATEWAY) {
        Some(rest) => open_gateway(url, rest),
        None => open_object_store(url),
    }
}

/// Opens gateways. Without an identity in the URL, uses that of the environment's `HRL_IDENTITY`.
#[cfg(feature = "gateway")]
fn open_gateway(url: &str, rest: &str) -> Result<Arc<dyn Store>> {
    let (addresses, identity) = match rest.split_once("?identity=") {
        Some((addresses, directory)) => (addresses, Some(directory.into())),
        None => (rest, std::env::var_os("HRL_IDENTITY")),
    };
    let Some(identity) = identity else {
        return Err(Error::new(ErrorKind::InvalidInput, "open store", url)
            .expected("?identity=DIRECTORY, or the environment's HRL_IDENTITY")
            .found("neither"));
    };
    let addresses: Vec<String> =
        addresses.trim_end_matches('/').split(',').map(str::to_owned).collect();
    Ok(Arc::new(hrl_gateway::RemoteStore::open(&addresses, Path::new(&identity))?))
}

#[cfg(not(feature = "gateway"))]
fn open_gateway(url: &str, _rest: &str) -> Result<Arc<dyn Store>> {
    Err(Error::new(ErrorKind::Unsupported, "open store", url).message(
        "this build reaches no gateways; build the crate `hrl-stores` with its feature `gateway`",
    ))
}

/// Opens the object store that `url` names, for what only object stores have: locks, and versions of
/// deleted objects. `None` for other stores.
#[cfg(feature = "cloud")]
pub fn object_store(url: &str) -> Result<Option<hrl_cloud::ObjectStore>> {
    if !["s3://", "az://", "gs://"].iter().any(|scheme| url.starts_with(scheme)) {
        return Ok(None);
    }
    hrl_cloud::ObjectStore::open(url, hrl_cloud::ObjectStoreOptions::default()).map(Some)
}

#[cfg(feature = "cloud")]
fn open_object_store(url: &str) -> Result<Arc<dyn Store>> {
    Ok(Arc::new(hrl_cloud::ObjectStore::open(url, hrl_cloud::ObjectStoreOptions::default())?))
}

#[cfg(not(feature = "cloud"))]
fn open_object_store(url: &str) -> Result<Arc<dyn Store>> {
    let known = ["s3://", "az://", "gs://"].iter().any(|scheme| url.starts_with(scheme));
    let (kind, message) = if known {
        (
            ErrorKind::Unsupported,
            "this build reaches directories only; build the crate `hrl-stores` with its feature `cloud`",
        )
    } else {
        (ErrorKind::InvalidInput, "the scheme of the URL is unknown")
    };
    Err(Error::new(kind, "open store", url)
        .message(message)
        .expected("a directory, file://PATH, s3://, az://, gs:// or gateway://"))
}
