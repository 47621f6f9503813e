//! Callbacks of C: a function and the pointer that it takes back.

use std::ffi::c_void;
use std::io;

use engine::{Error, Result};

use crate::boundary::bad_argument;

/// Pointer of a callback, as C gave it.
///
/// The header asks that callbacks may be called with it from any thread.
#[derive(Clone, Copy)]
pub(crate) struct User(pub(crate) *mut c_void);

// SAFETY: it is only ever handed back to the callbacks that came with it, which the header asks to
// allow any thread.
unsafe impl Send for User {}
// SAFETY: as above.
unsafe impl Sync for User {}

impl User {
    /// Returns the pointer. A method, so that closures capture all of it and not the bare pointer.
    pub(crate) fn pointer(self) -> *mut c_void {
        self.0
    }
}

/// Receives the progress of a long operation, in bytes; returns false to stop it. Called from
/// several threads, never after its own operation has returned.
pub type hrl_progress_fn =
    Option<unsafe extern "C" fn(user: *mut c_void, bytes_done: u64, bytes_total: u64) -> bool>;

/// Returns the progress of the crate from that of C.
pub(crate) fn progress_of(
    callback: hrl_progress_fn,
    user: *mut c_void,
) -> impl Fn(u64, u64) -> bool + Sync {
    let user = User(user);
    move |done, total| match callback {
        // SAFETY: a function of this type, called as the header says.
        Some(callback) => unsafe { callback(user.pointer(), done, total) },
        None => true,
    }
}

/// Converts the result of an embedder's callback: 0, or an errno.
pub(crate) fn outcome(code: i32, operation: &'static str, object: &str) -> Result<()> {
    if code == 0 {
        return Ok(());
    }
    Err(Error::io(operation, object, io::Error::from_raw_os_error(code.saturating_abs())))
}

/// Returns a callback; `InvalidInput` for NULL.
pub(crate) fn needed<F>(callback: Option<F>, name: &str) -> Result<F> {
    callback.ok_or_else(|| bad_argument(name).expected("a function").found("NULL"))
}
