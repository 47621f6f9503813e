//! The tap, for agents that do their own I/O.

use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Poll, Wake, Waker};

use engine::Extent;
use engine::capture::{Change, Tap};
use engine::device::{Buffer, Discarded};

use crate::boundary::{
    HRL_OK, HRL_PENDING, bad_argument, guard, guard_status, guard_value, hrl_status,
};
use crate::buffer::hrl_buffer;
use crate::callbacks::{User, needed};
use crate::handle::{self, Out};

/// Gives each change of a volume its place in the write order, for agents with their own I/O path.
/// Ask before you change the disk (`hrl_tap_begin`), change it, and report the result
/// (`hrl_tap_complete_write` and its like). All threads may use it at once.
pub struct hrl_tap {
    pub(crate) inner: Arc<Tap>,
}

/// Permission to change these bytes of the disk. Ends with exactly one of the `hrl_tap_complete_`
/// functions, `hrl_tap_fail` and `hrl_tap_cancel`, on any thread. It is passed by value, and so
/// never grows.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hrl_ticket {
    /// First byte that may be changed.
    pub offset: u64,
    /// Bytes that may be changed.
    pub length: u64,
}

/// Effect of a discard.
#[repr(C)]
#[derive(Clone, Copy)]
pub enum hrl_discarded {
    /// The range reads as zeroes now.
    HRL_DISCARDED_ZEROES = 0,
    /// The range reads as anything until it is written again.
    HRL_DISCARDED_UNDEFINED = 1,
    /// Nothing happened.
    HRL_DISCARDED_IGNORED = 2,
}

impl From<Discarded> for hrl_discarded {
    fn from(discarded: Discarded) -> Self {
        match discarded {
            Discarded::Zeroes => Self::HRL_DISCARDED_ZEROES,
            Discarded::Undefined => Self::HRL_DISCARDED_UNDEFINED,
            Discarded::Ignored => Self::HRL_DISCARDED_IGNORED,
        }
    }
}

/// Waits for permission to change `length` bytes at `offset`. It waits while an overlapping change
/// is in flight, and at the first write to a region until the dirty map has it. If the policy says
/// `when_full = block`, it also waits while the queue is full. Two tickets that overlap in blocks
/// of 4096 bytes exclude each other: a thread with one that asks for the other waits for itself.
/// Statuses: HRL_ERROR_INVALID_INPUT (empty, or outside the volume). Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_tap_begin(
    tap: Option<&hrl_tap>,
    offset: u64,
    length: u64,
    ticket: Out<'_, hrl_ticket>,
) -> hrl_status {
    guard(|| {
        ticket.check("ticket")?;
        let granted = handle::given(tap, "tap")?.inner.begin_blocking(Extent { offset, length })?;
        granted.into_extent();
        ticket.put(hrl_ticket { offset, length }, "ticket")
    })
}

/// Does the same as `hrl_tap_begin` without waiting. HRL_PENDING means that there is no ticket yet.
/// Then `wake(user)` is called exactly once, from any thread, when it is worth asking again, at the
/// latest when the protection ends. It may free `user`. It must return soon and must not call the
/// tap. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_tap_try_begin(
    tap: Option<&hrl_tap>,
    offset: u64,
    length: u64,
    wake: Option<unsafe extern "C" fn(user: *mut c_void)>,
    user: *mut c_void,
    ticket: Out<'_, hrl_ticket>,
) -> hrl_status {
    guard_status(|| {
        ticket.check("ticket")?;
        let wake = needed(wake, "wake")?;
        let (waiting, woken) = (AtomicBool::new(false), AtomicBool::new(false));
        let waiter = Arc::new(Waiter { wake, user: User(user), waiting, woken });
        let waker = Waker::from(waiter.clone());
        match handle::given(tap, "tap")?.inner.begin(Extent { offset, length }, &waker) {
            Poll::Pending => {
                // `waiter` is still alive here, so its end sees this.
                waiter.waiting.store(true, Relaxed);
                Ok(HRL_PENDING)
            }
            Poll::Ready(granted) => {
                granted?.into_extent();
                ticket.put(hrl_ticket { offset, length }, "ticket")?;
                Ok(HRL_OK)
            }
        }
    })
}

/// A wait of C for a ticket. Wakes exactly once, even if the tap drops it without a wake: `user`
/// may own memory that `wake` frees.
struct Waiter {
    wake: unsafe extern "C" fn(user: *mut c_void),
    user: User,
    /// Set once C has to wait. Before, nothing is due.
    waiting: AtomicBool,
    woken: AtomicBool,
}

impl Waiter {
    fn call(&self) {
        // SAFETY: a function of this type, called as the header says.
        unsafe { (self.wake)(self.user.pointer()) }
    }
}

impl Wake for Waiter {
    fn wake(self: Arc<Self>) {
        if !self.woken.swap(true, Relaxed) {
            self.call();
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        if *self.waiting.get_mut() && !*self.woken.get_mut() {
            self.call();
        }
    }
}

/// Reports that the disk took the write. `data` are the bytes that are now on it, as long as the
/// ticket; they are copied. They must be the memory that was written, unchanged since. First copy
/// memory that others may change meanwhile, such as a guest's, into a buffer:
/// `hrl_tap_complete_buffer`. Never waits. `sequence`, which may be NULL, receives the newest
/// sequence.
/// Statuses: HRL_ERROR_INVALID_INPUT (no such change in flight, or another length; the ticket
/// stays). Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_tap_complete_write(
    tap: Option<&hrl_tap>,
    ticket: hrl_ticket,
    data: *const u8,
    length: usize,
    sequence: Out<'_, u64>,
) -> hrl_status {
    guard(|| {
        // SAFETY: the caller promises that the buffer has the length beside it.
        let data = unsafe { handle::bytes(data, length, "data")? };
        check_length(ticket, length)?;
        complete(tap, ticket, Change::Write(Buffer::copy_of(data)), sequence)
    })
}

/// Reports the bytes of `buffer` as written, without a copy. The buffer belongs to the library
/// afterwards, even if the call failed. As `hrl_tap_complete_write` otherwise. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_tap_complete_buffer(
    tap: Option<&hrl_tap>,
    ticket: hrl_ticket,
    buffer: Option<Box<hrl_buffer>>,
    sequence: Out<'_, u64>,
) -> hrl_status {
    guard(|| {
        let buffer =
            buffer.ok_or_else(|| bad_argument("buffer").expected("a pointer").found("NULL"))?;
        check_length(ticket, buffer.inner.len())?;
        complete(tap, ticket, Change::Write(buffer.inner), sequence)
    })
}

/// Reports that the range reads as zeroes now. As `hrl_tap_complete_write` otherwise. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_tap_complete_zero(
    tap: Option<&hrl_tap>,
    ticket: hrl_ticket,
    sequence: Out<'_, u64>,
) -> hrl_status {
    guard(|| complete(tap, ticket, Change::Zero, sequence))
}

/// Reports that the range was discarded, with this effect. As `hrl_tap_complete_write` otherwise.
/// Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_tap_complete_discard(
    tap: Option<&hrl_tap>,
    ticket: hrl_ticket,
    effect: u32,
    sequence: Out<'_, u64>,
) -> hrl_status {
    guard(|| {
        let known = [Discarded::Zeroes, Discarded::Undefined, Discarded::Ignored];
        let effect =
            known
                .into_iter()
                .find(|known| hrl_discarded::from(*known) as u32 == effect)
                .ok_or_else(|| bad_argument("effect").expected("a hrl_discarded").found(effect))?;
        complete(tap, ticket, Change::Discard(effect), sequence)
    })
}

/// Reports that the disk failed the change. Its content is unknown there and will be read again;
/// until then there are no points.
/// Statuses: HRL_ERROR_INVALID_INPUT (no such change in flight). Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_tap_fail(tap: Option<&hrl_tap>, ticket: hrl_ticket) -> hrl_status {
    guard(|| {
        let tap = &handle::given(tap, "tap")?.inner;
        tap.fail(tap.resume(extent(ticket))?);
        Ok(())
    })
}

/// Reports that the disk was not touched.
/// Statuses: HRL_ERROR_INVALID_INPUT (no such change in flight). Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_tap_cancel(tap: Option<&hrl_tap>, ticket: hrl_ticket) -> hrl_status {
    guard(|| {
        let tap = &handle::given(tap, "tap")?.inner;
        tap.cancel(tap.resume(extent(ticket))?);
        Ok(())
    })
}

/// Records that the writer flushed. Call it after the disk's own flush returned.
/// Statuses: HRL_ERROR_INVALID_INPUT. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_tap_flush(
    tap: Option<&hrl_tap>,
    sequence: Out<'_, u64>,
) -> hrl_status {
    guard(|| {
        sequence.put_optional(handle::given(tap, "tap")?.inner.flush().0);
        Ok(())
    })
}

/// Frees the handle; NULL is fine. The protection goes on. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_tap_free(tap: Option<Box<hrl_tap>>) {
    guard_value((), || drop(tap));
}

fn extent(ticket: hrl_ticket) -> Extent {
    Extent { offset: ticket.offset, length: ticket.length }
}

fn check_length(ticket: hrl_ticket, length: usize) -> engine::Result<()> {
    if ticket.length == length as u64 {
        return Ok(());
    }
    Err(bad_argument("length")
        .expected(format_args!("the {} bytes of the ticket", ticket.length))
        .found(length))
}

fn complete(
    tap: Option<&hrl_tap>,
    ticket: hrl_ticket,
    change: Change,
    sequence: Out<'_, u64>,
) -> engine::Result<()> {
    let tap = &handle::given(tap, "tap")?.inner;
    let newest = tap.complete(tap.resume(extent(ticket))?, change);
    sequence.put_optional(newest.0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    unsafe extern "C" fn count(user: *mut c_void) {
        // SAFETY: the tests give a counter.
        unsafe { *user.cast::<u32>() += 1 }
    }

    fn wakes(waiting: bool, wake: bool) -> u32 {
        let mut calls = 0_u32;
        let waiter = Arc::new(Waiter {
            wake: count,
            user: User((&raw mut calls).cast()),
            waiting: AtomicBool::new(waiting),
            woken: AtomicBool::new(false),
        });
        let waker = Waker::from(waiter);
        if wake {
            waker.wake_by_ref();
            waker.wake();
        } else {
            drop(waker);
        }
        calls
    }

    #[test]
    fn a_wait_is_woken_exactly_once() {
        assert_eq!((wakes(true, true), wakes(true, false)), (1, 1));
        assert_eq!(wakes(false, false), 0, "C got its answer at once");
    }
}
