//! Stores by URL, for programs that get URLs from their users.
//!
//! A path or `file://PATH` is a directory. With the feature `cloud`, `s3://`, `az://` and `gs://`
//! are object stores, whose credentials come from the environment. With the feature `gateway`,
//! `gateway://HOST[:PORT],…[?identity=DIR]` are gateways.

use std::path::Path;
use std::sync::Arc;

use hrl::store::{DirStore, Store};
use hrl::{Error, ErrorKind, Result};

/// Opens the store that `url` names.
///
/// `NotFound` if the directory or bucket is absent, `InvalidInput` if the URL is malformed,
/// `Unsupported` if this build lacks its kind of store, `Unavailable` if the server does not
/// answer.
pub fn open_url(url: &str) -> Result<Arc<dyn Store>> {
    match local(url) {
        Some(path) => Ok(Arc::new(DirStore::open(path)?)),
        None => open_remote(url),
    }
}

/// Opens the store that `url` names, as [`open_url`] does, and creates an absent directory. Buckets
/// are never created.
pub fn create_url(url: &str) -> Result<Arc<dyn Store>> {
    match local(url) {
        Some(path) => Ok(Arc::new(DirStore::create(path)?)),
        None => open_remote(url),
    }
}

/// Returns the path, if the URL is that of a directory.
fn local(url: &str) -> Option<&Path> {
    match url.strip_prefix("file://") {
        Some(path) => Some(Path::new(path)),
        None => (!url.contains("://")).then(|| Path::new(url)),
    }
}

fn open_remote(url: &str) -> Result<Arc<dyn Store>> {
    match url.strip_prefix("gateway://") {
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
