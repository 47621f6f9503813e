//! The one way from C into the crate and back. Results become statuses, panics are caught, and the
//! last error of each thread is kept for its getters.

use std::cell::RefCell;
use std::ffi::{CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

use engine::{Error, ErrorKind, Result};

use crate::handle::{self, Out};

/// Major version of this header.
pub const HRL_VERSION_MAJOR: u32 = 0;
/// Minor version of this header.
pub const HRL_VERSION_MINOR: u32 = 1;
/// Patch version of this header.
pub const HRL_VERSION_PATCH: u32 = 0;

/// Result of a function: 0 is success, and a negative value is one of the `HRL_ERROR_` numbers. A
/// positive value is neither; the few functions that return one say so.
pub type hrl_status = i32;

/// Success.
pub const HRL_OK: hrl_status = 0;
/// Not yet: ask again after the callback was called. Only `hrl_tap_try_begin` returns it.
pub const HRL_PENDING: hrl_status = 1;
/// Fix the request: an argument, option or file can never work as given. Also for NULL instead of a
/// needed pointer.
pub const HRL_ERROR_INVALID_INPUT: hrl_status = -1;
/// Ask for another object: this one does not exist.
pub const HRL_ERROR_NOT_FOUND: hrl_status = -2;
/// The object exists already and is never overwritten.
pub const HRL_ERROR_ALREADY_EXISTS: hrl_status = -3;
/// Use another copy: bytes are not as they were written.
pub const HRL_ERROR_CORRUPT: hrl_status = -4;
/// Supply the right key.
pub const HRL_ERROR_WRONG_KEY: hrl_status = -5;
/// Upgrade: this build does not know a feature or version.
pub const HRL_ERROR_UNSUPPORTED: hrl_status = -6;
/// Retry later: a store, socket or device does not answer now.
pub const HRL_ERROR_UNAVAILABLE: hrl_status = -7;
/// Make room: a disk, quota or named limit is exhausted.
pub const HRL_ERROR_FULL: hrl_status = -8;
/// Reopen: a flush failed, so no write through this handle can be trusted.
pub const HRL_ERROR_POISONED: hrl_status = -9;
/// Stop: another agent or a newer epoch owns the volume.
pub const HRL_ERROR_FENCED: hrl_status = -10;
/// Resync or choose again: the disk is not the protected one, or it changed while unprotected.
pub const HRL_ERROR_CHANGED: hrl_status = -11;
/// Write elsewhere: the object is read-only.
pub const HRL_ERROR_READ_ONLY: hrl_status = -12;
/// Wait for the resync: the volume is in an unordered interval, where no point can exist.
pub const HRL_ERROR_NOT_ORDERED: hrl_status = -13;
/// The operating system refused; `hrl_error_os_code` returns its code.
pub const HRL_ERROR_IO: hrl_status = -14;
/// Use another identity: the server knows this one, and denies it the request.
pub const HRL_ERROR_DENIED: hrl_status = -15;
/// Compare: the history of the vault and the records of it here diverged.
pub const HRL_ERROR_DIVERGED: hrl_status = -16;
/// A defect of the library was caught at its boundary. The handles in use may be unusable. Please
/// report it.
pub const HRL_ERROR_PANIC: hrl_status = -100;

const KINDS: [(ErrorKind, hrl_status); 16] = [
    (ErrorKind::InvalidInput, HRL_ERROR_INVALID_INPUT),
    (ErrorKind::NotFound, HRL_ERROR_NOT_FOUND),
    (ErrorKind::AlreadyExists, HRL_ERROR_ALREADY_EXISTS),
    (ErrorKind::Corrupt, HRL_ERROR_CORRUPT),
    (ErrorKind::WrongKey, HRL_ERROR_WRONG_KEY),
    (ErrorKind::Unsupported, HRL_ERROR_UNSUPPORTED),
    (ErrorKind::Unavailable, HRL_ERROR_UNAVAILABLE),
    (ErrorKind::Full, HRL_ERROR_FULL),
    (ErrorKind::Poisoned, HRL_ERROR_POISONED),
    (ErrorKind::Fenced, HRL_ERROR_FENCED),
    (ErrorKind::Changed, HRL_ERROR_CHANGED),
    (ErrorKind::ReadOnly, HRL_ERROR_READ_ONLY),
    (ErrorKind::NotOrdered, HRL_ERROR_NOT_ORDERED),
    (ErrorKind::Io, HRL_ERROR_IO),
    (ErrorKind::Denied, HRL_ERROR_DENIED),
    (ErrorKind::Diverged, HRL_ERROR_DIVERGED),
];

struct LastError {
    message: CString,
    operation: CString,
    object: CString,
    offset: Option<u64>,
    os_code: i32,
}

thread_local! {
    static LAST: RefCell<Option<LastError>> = const { RefCell::new(None) };
}

/// Runs the body of an exported function.
pub(crate) fn guard(work: impl FnOnce() -> Result<()>) -> hrl_status {
    guard_status(|| work().map(|()| HRL_OK))
}

/// Runs the body of an exported function that returns more than success.
pub(crate) fn guard_status(work: impl FnOnce() -> Result<hrl_status>) -> hrl_status {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(status)) => status,
        Ok(Err(error)) => {
            let status = status_of(error.kind());
            keep(LastError {
                message: handle::c_text(&error.to_string()),
                operation: handle::c_text(error.operation()),
                object: handle::c_text(error.object()),
                offset: error.place(),
                os_code: error.os_code().unwrap_or(0),
            });
            status
        }
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("unknown");
            keep(LastError {
                message: handle::c_text(&format!("the library panicked: {text}")),
                operation: CString::default(),
                object: CString::default(),
                offset: None,
                os_code: 0,
            });
            HRL_ERROR_PANIC
        }
    }
}

/// Runs the body of a function that cannot fail; returns `otherwise` if it panics.
pub(crate) fn guard_value<T>(otherwise: T, work: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or(otherwise)
}

pub(crate) fn status_of(kind: ErrorKind) -> hrl_status {
    KINDS.iter().find(|(known, _)| *known == kind).map_or(HRL_ERROR_IO, |(_, status)| *status)
}

fn keep(error: LastError) {
    LAST.with(|last| *last.borrow_mut() = Some(error));
}

fn last<T>(otherwise: T, look: impl FnOnce(&LastError) -> T) -> T {
    LAST.with(|last| last.borrow().as_ref().map_or(otherwise, look))
}

/// Returns an error for an argument that cannot be used.
pub(crate) fn bad_argument(name: &str) -> Error {
    Error::new(ErrorKind::InvalidInput, "use argument", name)
}

/// Returns the name of a status, such as "not-found". Static; never NULL. Since 0.1.
#[unsafe(no_mangle)]
pub extern "C" fn hrl_status_name(status: hrl_status) -> *const c_char {
    let name = match status {
        HRL_OK => c"ok",
        HRL_PENDING => c"pending",
        HRL_ERROR_INVALID_INPUT => c"invalid-input",
        HRL_ERROR_NOT_FOUND => c"not-found",
        HRL_ERROR_ALREADY_EXISTS => c"already-exists",
        HRL_ERROR_CORRUPT => c"corrupt",
        HRL_ERROR_WRONG_KEY => c"wrong-key",
        HRL_ERROR_UNSUPPORTED => c"unsupported",
        HRL_ERROR_UNAVAILABLE => c"unavailable",
        HRL_ERROR_FULL => c"full",
        HRL_ERROR_POISONED => c"poisoned",
        HRL_ERROR_FENCED => c"fenced",
        HRL_ERROR_CHANGED => c"changed",
        HRL_ERROR_READ_ONLY => c"read-only",
        HRL_ERROR_NOT_ORDERED => c"not-ordered",
        HRL_ERROR_IO => c"io",
        HRL_ERROR_DENIED => c"denied",
        HRL_ERROR_DIVERGED => c"diverged",
        HRL_ERROR_PANIC => c"panic",
        _ => c"unknown",
    };
    name.as_ptr()
}

/// Returns the last error of the calling thread as a sentence: operation, object, place, expected,
/// found, cause. Never NULL; empty if there was none. Valid until the next function of the library
/// fails on this thread. Since 0.1.
#[unsafe(no_mangle)]
pub extern "C" fn hrl_error_message() -> *const c_char {
    last(c"".as_ptr(), |error| error.message.as_ptr())
}

/// Returns what the library was doing, such as "read segment". As `hrl_error_message` otherwise.
/// Since 0.1.
#[unsafe(no_mangle)]
pub extern "C" fn hrl_error_operation() -> *const c_char {
    last(c"".as_ptr(), |error| error.operation.as_ptr())
}

/// Returns the name of the object of that operation. As `hrl_error_message` otherwise. Since 0.1.
#[unsafe(no_mangle)]
pub extern "C" fn hrl_error_object() -> *const c_char {
    last(c"".as_ptr(), |error| error.object.as_ptr())
}

/// Stores the byte offset of the last error in its object, and returns true. Returns false, with
/// `offset` untouched, if there is none. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_error_offset(offset: Out<'_, u64>) -> bool {
    let Some(place) = last(None, |error| error.offset) else { return false };
    guard_value(false, || offset.put(place, "offset").is_ok())
}

/// Returns the operating system's code (errno) of the last error; 0 for another cause. Since 0.1.
#[unsafe(no_mangle)]
pub extern "C" fn hrl_error_os_code() -> i32 {
    last(0, |error| error.os_code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CStr;

    fn message() -> String {
        // SAFETY: never NULL, and valid until the next failure on this thread.
        unsafe { CStr::from_ptr(hrl_error_message()) }.to_string_lossy().into_owned()
    }

    #[test]
    fn a_panic_is_caught_and_told() {
        let status = guard(|| panic!("number {}", 7));
        assert_eq!(status, HRL_ERROR_PANIC);
        assert_eq!(message(), "the library panicked: number 7");
    }

    #[test]
    fn every_kind_has_its_status_and_its_name() {
        let mut seen = std::collections::HashSet::new();
        for (kind, status) in KINDS {
            assert!(seen.insert(status) && status < 0);
            // SAFETY: static text.
            let name = unsafe { CStr::from_ptr(hrl_status_name(status)) };
            assert_eq!(name.to_str(), Ok(kind.name()));
        }
        let error = || Error::new(ErrorKind::Corrupt, "read", "a\0b").at(9);
        assert_eq!(guard(|| Err(error())), HRL_ERROR_CORRUPT);
        assert_eq!(message(), "cannot read a?b at offset 9");
    }
}
