//! Vaults and the keys that open them.

use std::ffi::{c_char, c_void};
use std::path::Path;

use engine::SystemClock;
use engine::journal::WrappingKey;
use engine::replica::Vault;

use crate::boundary::{bad_argument, guard, guard_value, hrl_status};
use crate::handle;
use crate::points::{hrl_volume_fn, hrl_volume_info, visit};
use crate::store::hrl_store;

/// Length of a key, in bytes.
pub const HRL_KEY_BYTES: usize = 32;

/// A key-encryption key: it wraps the keys of volumes.
pub struct hrl_key {
    inner: WrappingKey,
}

/// A store with volumes in it. All threads may use it at once.
pub struct hrl_vault {
    pub(crate) inner: Vault,
}

/// Makes a key of `HRL_KEY_BYTES` random bytes; they are copied. Free it with `hrl_key_free`.
/// Statuses: HRL_ERROR_INVALID_INPUT (another length). Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_key_from_bytes(
    bytes: *const u8,
    length: usize,
    out: *mut *mut hrl_key,
) -> hrl_status {
    guard(|| {
        handle::check_out(out, "out")?;
        let bytes = handle::bytes(bytes, length, "bytes")?;
        let key = bytes.try_into().map_err(|_| {
            bad_argument("length").expected(format_args!("{HRL_KEY_BYTES} bytes")).found(length)
        })?;
        handle::give(out, hrl_key { inner: WrappingKey::from_bytes(key) })
    })
}

/// Reads a key from a file: 64 hexadecimal digits. Statuses: HRL_ERROR_NOT_FOUND, HRL_ERROR_INVALID_INPUT, HRL_ERROR_IO.
/// Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_key_from_file(
    path: *const c_char,
    out: *mut *mut hrl_key,
) -> hrl_status {
    guard(|| {
        handle::check_out(out, "out")?;
        let inner = WrappingKey::from_file(Path::new(handle::text(path, "path")?))?;
        handle::give(out, hrl_key { inner })
    })
}

/// Frees a key; NULL is fine. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_key_free(key: *mut hrl_key) {
    guard_value((), || drop(handle::take(key)));
}

/// Makes a store into a vault, or opens it when it is one. With a key (NULL: none) the volumes made through this handle are
/// sealed. Store and key may be freed afterwards. Free the vault with `hrl_vault_free`.
/// Statuses: HRL_ERROR_UNAVAILABLE, HRL_ERROR_UNSUPPORTED (a later version), HRL_ERROR_FULL, HRL_ERROR_READ_ONLY, HRL_ERROR_IO.
/// Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_vault_create(
    store: *const hrl_store,
    key: *const hrl_key,
    out: *mut *mut hrl_vault,
) -> hrl_status {
    open(store, key, out, Vault::create)
}

/// Opens a vault. As `hrl_vault_create` otherwise, and HRL_ERROR_NOT_FOUND when the store is none. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_vault_open(
    store: *const hrl_store,
    key: *const hrl_key,
    out: *mut *mut hrl_vault,
) -> hrl_status {
    open(store, key, out, Vault::open)
}

type Opener = fn(
    std::sync::Arc<dyn engine::store::Store>,
    Option<WrappingKey>,
    std::sync::Arc<dyn engine::Clock>,
) -> engine::Result<Vault>;

fn open(
    store: *const hrl_store,
    key: *const hrl_key,
    out: *mut *mut hrl_vault,
    opener: Opener,
) -> hrl_status {
    guard(|| {
        handle::check_out(out, "out")?;
        let store = handle::borrow(store, "store")?.inner.clone();
        let key = handle::borrow_optional(key).map(|key| key.inner.clone());
        handle::give(out, hrl_vault { inner: opener(store, key, SystemClock::shared())? })
    })
}

/// Gives every volume of the vault to `each` on the calling thread. Statuses: HRL_ERROR_UNAVAILABLE, HRL_ERROR_CORRUPT,
/// HRL_ERROR_IO. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_vault_volumes(
    vault: *const hrl_vault,
    each: hrl_volume_fn,
    user: *mut c_void,
) -> hrl_status {
    guard(|| {
        let volumes = handle::borrow(vault, "vault")?.inner.volumes()?;
        visit(volumes.iter().map(hrl_volume_info::from), each, user)
    })
}

/// Frees the handle; NULL is fine. Protections and replicas of the vault go on. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_vault_free(vault: *mut hrl_vault) {
    guard_value((), || drop(handle::take(vault)));
}
