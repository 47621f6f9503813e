//! Signals that must not end the watchdog while an application is quiesced.
//!
//! A service manager sends SIGTERM to every process of a service, a terminal sends SIGHUP and
//! SIGINT. The signals are blocked rather than ignored, because started programs would inherit the
//! ignoring.

#![allow(unsafe_code, reason = "the standard library does not know signals")]

use std::mem::MaybeUninit;

/// Blocks the signals that ask a process to end, in this thread and those that it starts.
pub(crate) fn block_endings() {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set before the others use it; all pointers are to live
    // memory of this frame, and the old mask is not asked for.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in [libc::SIGTERM, libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGUSR1] {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut());
    }
}
