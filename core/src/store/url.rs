//! Stores by URL: what programs take from their users.
//!
//! A path or `file://PATH` is a directory. `s3://`, `az://` and `gs://` are object stores, in builds with the feature
//! `cloud`; their credentials come from the environment.

use std::path::Path;
use std::sync::Arc;

use super::{DirStore, Store};
use crate::error::{Error, ErrorKind, Result};

/// Opens the store that `url` names. `NotFound` when the directory or bucket is absent, `InvalidInput` for a URL that cannot
/// be understood, `Unsupported` for one that this build does not reach, `Unavailable` when the server does not answer.
pub fn open_url(url: &str) -> Result<Arc<dyn Store>> {
    match local(url) {
        Some(path) => Ok(Arc::new(DirStore::open(path)?)),
        None => open_remote(url),
    }
}

/// As [`open_url`], and creates a directory that is absent. Buckets are never created.
pub fn create_url(url: &str) -> Result<Arc<dyn Store>> {
    match local(url) {
        Some(path) => Ok(Arc::new(DirStore::create(path)?)),
        None => open_remote(url),
    }
}

/// The path, where the URL is one of a directory.
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

/// `HOST[:PORT],…[?identity=DIR]`; without a directory that of the environment's `HRL_IDENTITY`.
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
    Ok(Arc::new(super::RemoteStore::open(&addresses, Path::new(&identity))?))
}

#[cfg(not(feature = "gateway"))]
fn open_gateway(url: &str, _rest: &str) -> Result<Arc<dyn Store>> {
    Err(Error::new(ErrorKind::Unsupported, "open store", url).message(
        "this build reaches no gateways; build the crate `hrl` with its feature `gateway`",
    ))
}

#[cfg(feature = "cloud")]
fn open_object_store(url: &str) -> Result<Arc<dyn Store>> {
    Ok(Arc::new(super::ObjectStore::open(url, super::ObjectStoreOptions::default())?))
}

#[cfg(not(feature = "cloud"))]
fn open_object_store(url: &str) -> Result<Arc<dyn Store>> {
    let known = ["s3://", "az://", "gs://"].iter().any(|scheme| url.starts_with(scheme));
    let (kind, message) = if known {
        (
            ErrorKind::Unsupported,
            "this build reaches directories only; build the crate `hrl` with its feature `cloud`",
        )
    } else {
        (ErrorKind::InvalidInput, "the scheme of the URL is unknown")
    };
    Err(Error::new(kind, "open store", url)
        .message(message)
        .expected("a directory, file://PATH, s3://, az://, gs:// or gateway://"))
}
