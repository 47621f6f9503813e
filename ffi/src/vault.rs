//! Vaults.

use std::ffi::c_void;

use engine::SystemClock;
use engine::journal::WrappingKey;
use engine::vault::Vault;

use crate::boundary::{guard, guard_value, hrl_status};
use crate::handle::{self, Out};
use crate::keys::hrl_key;
use crate::points::{hrl_volume_fn, hrl_volume_info, visit};
use crate::store::hrl_store;

/// A store with volumes in it. All threads may use it at once.
pub struct hrl_vault {
    pub(crate) inner: Vault,
}

/// Makes a store into a vault, or opens the vault that it is. With a key, volumes made through this
/// handle are encrypted; NULL: no key. Store and key may be freed afterwards. Free the vault with
/// `hrl_vault_free`.
/// Statuses: HRL_ERROR_UNAVAILABLE, HRL_ERROR_UNSUPPORTED (a later version), HRL_ERROR_FULL,
/// HRL_ERROR_READ_ONLY, HRL_ERROR_IO. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_vault_create(
    store: Option<&hrl_store>,
    key: Option<&hrl_key>,
    out: Out<'_, *mut hrl_vault>,
) -> hrl_status {
    open(store, key, out, Vault::create)
}

/// Opens a vault. As `hrl_vault_create` otherwise, and HRL_ERROR_NOT_FOUND if the store is no
/// vault. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_vault_open(
    store: Option<&hrl_store>,
    key: Option<&hrl_key>,
    out: Out<'_, *mut hrl_vault>,
) -> hrl_status {
    open(store, key, out, Vault::open)
}

type Opener = fn(
    std::sync::Arc<dyn engine::store::Store>,
    Option<WrappingKey>,
    std::sync::Arc<dyn engine::Clock>,
) -> engine::Result<Vault>;

fn open(
    store: Option<&hrl_store>,
    key: Option<&hrl_key>,
    out: Out<'_, *mut hrl_vault>,
    opener: Opener,
) -> hrl_status {
    guard(|| {
        out.check("out")?;
        let store = handle::given(store, "store")?.inner.clone();
        let key = key.map(|key| key.inner.clone());
        out.give(hrl_vault { inner: opener(store, key, SystemClock::shared())? })
    })
}

/// Passes every volume of the vault to `each` on the calling thread.
/// Statuses: HRL_ERROR_UNAVAILABLE, HRL_ERROR_CORRUPT, HRL_ERROR_IO. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_vault_volumes(
    vault: Option<&hrl_vault>,
    each: hrl_volume_fn,
    user: *mut c_void,
) -> hrl_status {
    guard(|| {
        let volumes = handle::given(vault, "vault")?.inner.volumes()?;
        visit(volumes.iter().map(hrl_volume_info::from), each, user)
    })
}

/// Frees the handle; NULL is fine. Protections and replicas of the vault go on. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_vault_free(vault: Option<Box<hrl_vault>>) {
    guard_value((), || drop(vault));
}
