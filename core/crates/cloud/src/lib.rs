//! Stores on S3, Azure Blob Storage and Google Cloud Storage, for vaults of `hrl`.
//!
//! [`ObjectStore`] keeps the contract of [`hrl::store::Store`] on services that need to support
//! only conditional puts. The HTTP client and its runtime live on one thread of each store.

mod failure;
mod http;
mod lock;
mod options;
mod runtime;
mod signing;
mod store;

pub use lock::HiddenObject;
pub use options::ObjectStoreOptions;
pub use store::ObjectStore;
