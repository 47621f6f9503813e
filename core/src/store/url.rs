//! Stores by URL: what programs take from their users.
//!
//! A path or `file://PATH` is a directory. `s3://`, `az://` and `gs://` are object stores, in builds with the feature
//! `cloud`; their credentials come from the environment.

use std::path::Path;
use std::sync::Arc;

use super::{DirStore, Store};
use crate::error::Result;
#[cfg(not(feature = "cloud"))]
use crate::error::{Error, ErrorKind};

/// Opens the store that `url` names. `NotFound` when the directory or bucket is absent, `InvalidInput` for a URL that cannot
/// be understood, `Unsupported` for one that this build does not reach, `Unavailable` when the server does not answer.
pub fn open_url(url: &str) -> Result<Arc<dyn Store>> {
    match local(url) {
        Some(path) => Ok(Arc::new(DirStore::open(path)?)),
        None => open_object_store(url),
    }
}

/// As [`open_url`], and creates a directory that is absent. Buckets are never created.
pub fn create_url(url: &str) -> Result<Arc<dyn Store>> {
    match local(url) {
        Some(path) => Ok(Arc::new(DirStore::create(path)?)),
        None => open_object_store(url),
    }
}

/// The path, where the URL is one of a directory.
fn local(url: &str) -> Option<&Path> {
    match url.strip_prefix("file://") {
        Some(path) => Some(Path::new(path)),
        None => (!url.contains("://")).then(|| Path::new(url)),
    }
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
        .expected("a directory, file://PATH, s3://, az:// or gs://"))
}
