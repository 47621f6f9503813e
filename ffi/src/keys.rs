//! Key-encryption keys: their handles, rotating them, and shredding what they wrap.

use std::ffi::{CString, c_char};
use std::path::Path;

use engine::journal::WrappingKey;
use engine::vault::ShredOptions;

use crate::boundary::{bad_argument, guard, guard_value, hrl_status};
use crate::handle::{self, Out, Text};
use crate::vault::hrl_vault;

/// Length of a key, in bytes.
pub const HRL_KEY_BYTES: usize = 32;

/// A key-encryption key: it wraps the keys of volumes.
pub struct hrl_key {
    pub(crate) inner: WrappingKey,
    id: CString,
}

fn give(out: Out<'_, *mut hrl_key>, inner: WrappingKey) -> engine::Result<()> {
    let id = handle::c_text(&inner.id().to_string());
    out.give(hrl_key { inner, id })
}

/// Makes a key of `HRL_KEY_BYTES` random bytes; they are copied. Free it with `hrl_key_free`.
/// Statuses: HRL_ERROR_INVALID_INPUT (another length). Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_key_from_bytes(
    bytes: *const u8,
    length: usize,
    out: Out<'_, *mut hrl_key>,
) -> hrl_status {
    guard(|| {
        out.check("out")?;
        // SAFETY: the caller promises that the buffer has the length beside it.
        let bytes = unsafe { handle::bytes(bytes, length, "bytes")? };
        let key = bytes.try_into().map_err(|_| {
            bad_argument("length").expected(format_args!("{HRL_KEY_BYTES} bytes")).found(length)
        })?;
        give(out, WrappingKey::from_bytes(key))
    })
}

/// Reads a key from a file: 32 bytes, or 64 hexadecimal digits and white space around them.
/// Statuses: HRL_ERROR_NOT_FOUND, HRL_ERROR_INVALID_INPUT, HRL_ERROR_IO. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_key_from_file(
    path: Text<'_>,
    out: Out<'_, *mut hrl_key>,
) -> hrl_status {
    guard(|| {
        out.check("out")?;
        give(out, WrappingKey::from_file(Path::new(path.read("path")?))?)
    })
}

/// Name of the key in hexadecimal digits, which tells nothing about it: errors name by it the key that is needed. Valid as
/// long as the handle lives; empty for NULL. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_key_id(key: Option<&hrl_key>) -> *const c_char {
    guard_value(c"".as_ptr(), || {
        handle::given(key, "key").map_or(c"".as_ptr(), |key| key.id.as_ptr())
    })
}

/// Frees a key; NULL is fine. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_key_free(key: Option<Box<hrl_key>>) {
    guard_value((), || drop(key));
}

/// What a rotation did.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hrl_rotation_report {
    /// The new key opens the volume since now; false when it did before.
    pub wrapped: bool,
    /// The old key opens it no more since now; false when it did not before.
    pub unwrapped: bool,
    /// Other keys that still open it, as interrupted rotations leave them. Rotating from each takes it away.
    pub others: u64,
}

/// Wraps the key of a volume anew with `new_key` and takes the wrapping of the key that the vault was opened with away. No
/// data is rewritten, and who has the volume open goes on. When it was interrupted the volume opens with the old or the
/// new key; run it again to finish. `report` may be NULL.
/// Statuses: HRL_ERROR_NOT_FOUND, HRL_ERROR_WRONG_KEY, HRL_ERROR_INVALID_INPUT (not encrypted, or the same key),
/// HRL_ERROR_CORRUPT, HRL_ERROR_UNAVAILABLE. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_vault_rotate_key(
    vault: Option<&hrl_vault>,
    volume: Text<'_>,
    new_key: Option<&hrl_key>,
    report: Out<'_, hrl_rotation_report>,
) -> hrl_status {
    guard(|| {
        let vault = handle::given(vault, "vault")?;
        let volume = volume.read("volume")?;
        let done = vault.inner.rotate_key(volume, &handle::given(new_key, "new_key")?.inner)?;
        let told = hrl_rotation_report {
            wrapped: done.wrapped,
            unwrapped: done.unwrapped,
            others: done.others.len() as u64,
        };
        report.put_optional(told);
        Ok(())
    })
}

/// Flag of `hrl_vault_shred`: also delete everything else of the volume, which frees its name.
pub const HRL_SHRED_DATA: u32 = 1;
/// Flag of `hrl_vault_shred`: also what is under legal hold, or where that cannot be known without the key.
pub const HRL_SHRED_OVERRIDE_LEGAL_HOLD: u32 = 2;

/// What shredding did.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hrl_shred_report {
    /// The volume was shredded before.
    pub was_shredded: bool,
    /// Wrapped keys deleted.
    pub keys_deleted: u64,
    /// Other objects deleted.
    pub objects_deleted: u64,
    /// Their bytes.
    pub bytes_deleted: u64,
}

/// Makes an encrypted volume unreadable for ever by deleting every wrapped key of it. `flags` are of HRL_SHRED_. Stop its source
/// first. Versions, snapshots and copies that a store keeps of deleted objects are beyond it. It can be run again, and
/// finishes what was interrupted. `report` may be NULL.
/// Statuses: HRL_ERROR_NOT_FOUND, HRL_ERROR_FENCED (legal hold), HRL_ERROR_WRONG_KEY (holds cannot be read),
/// HRL_ERROR_INVALID_INPUT (not encrypted, and HRL_SHRED_DATA not given), HRL_ERROR_UNAVAILABLE. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_vault_shred(
    vault: Option<&hrl_vault>,
    volume: Text<'_>,
    flags: u32,
    report: Out<'_, hrl_shred_report>,
) -> hrl_status {
    guard(|| {
        if flags & !(HRL_SHRED_DATA | HRL_SHRED_OVERRIDE_LEGAL_HOLD) != 0 {
            return Err(bad_argument("flags").expected("HRL_SHRED_ flags").found(flags));
        }
        let options = ShredOptions {
            data: flags & HRL_SHRED_DATA != 0,
            override_legal_hold: flags & HRL_SHRED_OVERRIDE_LEGAL_HOLD != 0,
        };
        let vault = handle::given(vault, "vault")?;
        let done = vault.inner.shred(volume.read("volume")?, options)?;
        let told = hrl_shred_report {
            was_shredded: done.was_shredded,
            keys_deleted: done.keys_deleted,
            objects_deleted: done.objects_deleted,
            bytes_deleted: done.bytes_deleted,
        };
        report.put_optional(told);
        Ok(())
    })
}
