//! Waits for a ticket on the calling thread, for callers without an event loop.
//!
//! A thread has one waker for all its waits, so a wait costs no allocation. A wait that ended at
//! its limit leaves at most one idle wake-up behind: every wait asks the tap again after it was
//! woken.

use std::sync::Arc;
use std::task::{Poll, Wake, Waker};
use std::time::Duration;

use super::tap::{Tap, Ticket};
use crate::error::{Error, ErrorKind, Result};
use crate::extent::Extent;
use crate::sync::thread::{self, Thread};
use crate::sync::thread_local;

impl Tap {
    /// Waits on the calling thread until [`Tap::begin`] gives a ticket. A thread that has a ticket
    /// and asks for an overlapping one waits for itself: [`Tap::begin_within`] ends such a wait.
    pub fn begin_blocking(&self, extent: Extent) -> Result<Ticket> {
        self.begin_within(extent, Duration::MAX)
    }

    /// Waits for a ticket up to `limit`; `Unavailable` then.
    pub fn begin_within(&self, extent: Extent, limit: Duration) -> Result<Ticket> {
        WAKER.with(|waker| {
            if let Poll::Ready(result) = self.begin(extent, waker) {
                return result;
            }
            let deadline = self.clock().elapsed().saturating_add(limit);
            loop {
                thread::park_timeout(deadline.saturating_sub(self.clock().elapsed()));
                if let Poll::Ready(result) = self.begin(extent, waker) {
                    return result;
                }
                if self.clock().elapsed() >= deadline {
                    return Err(Error::new(ErrorKind::Unavailable, "change", "volume")
                        .at(extent.offset)
                        .expected(format_args!("permission within {limit:?}"))
                        .found(
                            "an overlapping change in flight, or a region that is not dirty yet",
                        ));
                }
            }
        })
    }
}

/// Returns a waker that unparks the calling thread.
pub(crate) fn thread_waker() -> Waker {
    WAKER.with(Waker::clone)
}

thread_local! {
    static WAKER: Waker = Waker::from(Arc::new(Unpark(thread::current())));
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.unpark();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use crate::policy::Policy;
    use crate::units::Sequence;

    const BLOCK: Extent = Extent { offset: 0, length: 4096 };
    const SHORT: Duration = Duration::from_millis(20);

    /// Makes a tap whose regions are all dirty.
    fn tap() -> Tap {
        let policy = Policy::default();
        let tap = Tap::new(1 << 20, Sequence(0), &policy, SystemClock::shared());
        tap.set_dirty(&[crate::capture::RegionRange { first: 0, last: 0 }]);
        tap
    }

    #[test]
    fn a_wait_ends_with_the_change_before() {
        let tap = tap();
        let first = tap.begin_within(BLOCK, SHORT).expect("nothing in flight");
        thread::scope(|scope| {
            let second = scope.spawn(|| tap.begin_blocking(BLOCK));
            thread::sleep(SHORT);
            tap.cancel(first);
            tap.cancel(second.join().expect("thread").expect("ticket"));
        });
    }

    #[test]
    fn a_wait_ends_at_its_limit_and_leaves_the_tap_usable() {
        let tap = tap();
        let first = tap.begin_within(BLOCK, SHORT).expect("nothing in flight");
        for _ in 0..3 {
            let error = tap.begin_within(BLOCK, SHORT).expect_err("it overlaps");
            assert_eq!(error.kind(), ErrorKind::Unavailable);
        }
        tap.cancel(first);
        let again = tap.begin_within(BLOCK, SHORT).expect("nothing in flight any more");
        tap.cancel(again);
    }

    #[test]
    fn closing_ends_every_wait() {
        let tap = Tap::new(1 << 20, Sequence(0), &Policy::default(), SystemClock::shared());
        thread::scope(|scope| {
            let waits = scope.spawn(|| tap.begin_blocking(BLOCK));
            thread::sleep(SHORT);
            tap.close();
            let error =
                waits.join().expect("thread").expect_err("the region does not become dirty");
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
        });
        assert!(tap.begin_within(BLOCK, SHORT).is_err());
    }
}
