//! Key-encryption keys: their handles, rotation, and shredding of what they wrap.

use std::ffi::{CString, c_char};
use std::path::Path;

use engine::journal::WrappingKey;
use engine::vault::{RekeyReport, RotationReport, ShredOptions, ShredReport};

use crate::boundary::{bad_argument, guard, guard_value, hrl_status};
use crate::handle::{self, Out, Room, Text};
use crate::report::report;
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

/// Makes a key of `HRL_KEY_BYTES` random bytes, which are copied. Free it with `hrl_key_free`.
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

/// Returns the name of the key in hexadecimal digits, which reveals nothing about it. Errors
/// identify by it the key that is needed. Valid as long as the handle lives; empty for NULL. Since
/// 0.1.
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

report! {
    /// Reports what a rotation did.
    pub struct hrl_rotation_report from done: RotationReport {
        /// Whether this rotation wrapped the volume key with the new key; false if it was wrapped
        /// before.
        wrapped: bool,
        /// Whether this rotation removed the wrapping of the old key; false if there was none.
        unwrapped: bool,
        /// Other keys that still open it, as interrupted rotations leave them. Rotating from each
        /// removes it.
        others: u64,
    }
}

report! {
    /// Reports what another volume key is.
    pub struct hrl_rekey_report from done: RekeyReport {
        /// Generation of the key that encrypts what is new; the first key of a volume has 1.
        generation: u32,
        /// Whether an interrupted call had drawn it.
        was_drawn: bool,
    }
}

/// Draws another key for a volume. What is written and folded from now on is encrypted with it, so
/// that whoever has the earlier key cannot read it; earlier data stays readable with the earlier key.
/// Agents that run go on with it when they next publish, if their key-encryption key still opens the
/// volume. After an interruption run it again to finish. `report` may be NULL.
/// Statuses: HRL_ERROR_NOT_FOUND, HRL_ERROR_WRONG_KEY, HRL_ERROR_INVALID_INPUT (not encrypted),
/// HRL_ERROR_CHANGED (the key-encryption key was rotated meanwhile), HRL_ERROR_CORRUPT,
/// HRL_ERROR_UNAVAILABLE. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_vault_rekey(
    vault: Option<&hrl_vault>,
    volume: Text<'_>,
    report: Room<'_, hrl_rekey_report>,
) -> hrl_status {
    guard(|| {
        let report = report.optional()?;
        let vault = handle::given(vault, "vault")?;
        let done = vault.inner.rekey(volume.read("volume")?)?;
        report.fill(hrl_rekey_report::from(&done));
        Ok(())
    })
}

/// Wraps the keys of a volume anew with `new_key`, and removes the wrapping by the key of the
/// vault's handle. No data is rewritten, and agents that have the volume open go on. After an
/// interruption the volume opens with either key; run it again to finish. `report` may be NULL.
/// Statuses: HRL_ERROR_NOT_FOUND, HRL_ERROR_WRONG_KEY, HRL_ERROR_INVALID_INPUT (not encrypted, or
/// the same key), HRL_ERROR_CORRUPT, HRL_ERROR_UNAVAILABLE. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_vault_rotate_key(
    vault: Option<&hrl_vault>,
    volume: Text<'_>,
    new_key: Option<&hrl_key>,
    report: Room<'_, hrl_rotation_report>,
) -> hrl_status {
    guard(|| {
        let report = report.optional()?;
        let vault = handle::given(vault, "vault")?;
        let volume = volume.read("volume")?;
        let done = vault.inner.rotate_key(volume, &handle::given(new_key, "new_key")?.inner)?;
        report.fill(hrl_rotation_report::from(&done));
        Ok(())
    })
}

/// Flag of `hrl_vault_shred`: also delete everything else of the volume, which frees its name.
pub const HRL_SHRED_DATA: u32 = 1;
/// Flag of `hrl_vault_shred`: go on despite a legal hold, or if legal holds cannot be read without
/// the key.
pub const HRL_SHRED_OVERRIDE_LEGAL_HOLD: u32 = 2;

report! {
    /// Reports what shredding did.
    pub struct hrl_shred_report from done: ShredReport {
        /// Whether the volume was shredded before.
        was_shredded: bool,
        /// Wrapped keys deleted.
        keys_deleted: u64,
        /// Other objects deleted.
        objects_deleted: u64,
        /// Bytes of these objects.
        bytes_deleted: u64,
    }
}

/// Makes an encrypted volume unreadable for ever: deletes every wrapped key of it. `flags` are of
/// HRL_SHRED_. Stop its source first. It does not reach versions, snapshots and copies that a store
/// keeps of deleted objects. It can be run again, and finishes what was interrupted. `report` may
/// be NULL.
/// Statuses: HRL_ERROR_NOT_FOUND, HRL_ERROR_FENCED (legal hold), HRL_ERROR_WRONG_KEY (legal holds
/// cannot be read), HRL_ERROR_INVALID_INPUT (not encrypted, and HRL_SHRED_DATA not given),
/// HRL_ERROR_UNAVAILABLE. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_vault_shred(
    vault: Option<&hrl_vault>,
    volume: Text<'_>,
    flags: u32,
    report: Room<'_, hrl_shred_report>,
) -> hrl_status {
    guard(|| {
        let report = report.optional()?;
        if flags & !(HRL_SHRED_DATA | HRL_SHRED_OVERRIDE_LEGAL_HOLD) != 0 {
            return Err(bad_argument("flags").expected("HRL_SHRED_ flags").found(flags));
        }
        let options = ShredOptions {
            data: flags & HRL_SHRED_DATA != 0,
            override_legal_hold: flags & HRL_SHRED_OVERRIDE_LEGAL_HOLD != 0,
        };
        let vault = handle::given(vault, "vault")?;
        let done = vault.inner.shred(volume.read("volume")?, options)?;
        report.fill(hrl_shred_report::from(&done));
        Ok(())
    })
}
