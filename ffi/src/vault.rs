//! Vaults.

use std::ffi::c_void;
use std::path::Path;

use engine::SystemClock;
use engine::journal::WrappingKey;
use engine::vault::Vault;
use hrl_stores::agent_vault;

use crate::boundary::{guard, guard_value, hrl_status};
use crate::handle::{self, Out, Text};
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

/// Opens the vault at `url`, as `hrl_store_open_url` takes it, for the agent of the directory
/// `state`. A new state directory makes a vault of an empty or absent directory. One that knows a
/// volume makes none, and `hrl_protection_open` then succeeds even while the vault is away.
/// Statuses: HRL_ERROR_INVALID_INPUT, HRL_ERROR_UNSUPPORTED, and with a new state directory those of
/// `hrl_store_open_url` and `hrl_vault_create`. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_vault_open_for_agent(
    url: Text<'_>,
    state: Text<'_>,
    key: Option<&hrl_key>,
    out: Out<'_, *mut hrl_vault>,
) -> hrl_status {
    guard(|| {
        out.check("out")?;
        let (url, state) = (url.read("url")?, Path::new(state.read("state")?));
        let key = key.map(|key| key.inner.clone());
        out.give(hrl_vault { inner: agent_vault(url, state, key, SystemClock::shared())? })
    })
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

/// Accepts that versions of a volume's catalog are lost, for a vault that went back and whose source
/// is lost with what it put since. Readers and failovers go on with the version `from` before the
/// gap; `until` is the newest one. Both are 0 if no version is missing, and may be NULL. Nothing is
/// deleted, and the catalog is whole again if the versions return.
/// Statuses: HRL_ERROR_NOT_FOUND, HRL_ERROR_CORRUPT (no version can be read), HRL_ERROR_WRONG_KEY,
/// HRL_ERROR_UNAVAILABLE, HRL_ERROR_READ_ONLY, HRL_ERROR_IO. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_vault_accept_gap(
    vault: Option<&hrl_vault>,
    volume: Text<'_>,
    from: Out<'_, u64>,
    until: Out<'_, u64>,
) -> hrl_status {
    guard(|| {
        let vault = &handle::given(vault, "vault")?.inner;
        let accepted = vault.accept_gap(volume.read("volume")?)?.unwrap_or_default();
        from.put_optional(accepted.0);
        until.put_optional(accepted.1);
        Ok(())
    })
}

/// Frees the handle; NULL is fine. Protections and replicas of the vault go on. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_vault_free(vault: Option<Box<hrl_vault>>) {
    guard_value((), || drop(vault));
}
