//! One flush at a time, and none after a failed one.
//!
//! The kernel reports a lost write to one flush of a descriptor only. Of two flushes at once, one
//! would fail and the other succeed over the same loss, so they take turns. A caller need not flush
//! if a flush that began after its call succeeded, so waiting costs little.

use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Makes the flushes of one descriptor, or of a device made of several, take turns.
#[derive(Debug, Default)]
pub(crate) struct FlushTurns {
    poisoned: AtomicBool,
    /// Number of flushes begun so far.
    begun: AtomicU64,
    /// Number of the last flush that succeeded. Locked while a flush runs.
    succeeded: Mutex<u64>,
}

impl FlushTurns {
    /// Runs `sync`, or waits for one that covers this call. `None` if poisoned, before or
    /// meanwhile.
    pub(crate) fn run<E>(&self, sync: impl FnOnce() -> Result<(), E>) -> Option<Result<(), E>> {
        let begun_before = self.begun.load(Ordering::SeqCst);
        let mut succeeded = self.succeeded.lock();
        if self.is_poisoned() {
            return None;
        }
        if *succeeded > begun_before {
            return Some(Ok(()));
        }
        let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let result = sync();
        match &result {
            Ok(()) => *succeeded = number,
            Err(_) => self.poison(),
        }
        Some(result)
    }

    /// Makes every later flush fail.
    pub(crate) fn poison(&self) {
        self.poisoned.store(true, Ordering::Release);
    }

    pub(crate) fn is_poisoned(&self) -> bool {
        self.poisoned.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::mpsc;

    #[test]
    fn a_flush_that_waited_for_a_failed_one_fails_too() {
        let turns = FlushTurns::default();
        let (running, is_running) = mpsc::channel();
        let (go_on, may_go_on) = mpsc::channel::<()>();
        std::thread::scope(|scope| {
            let first = scope.spawn(|| {
                turns.run(move || {
                    running.send(()).expect("test waits");
                    may_go_on.recv().expect("test sends");
                    Err(io::Error::from(io::ErrorKind::Other))
                })
            });
            is_running.recv().expect("the first flush runs");
            let second = scope.spawn(|| turns.run(|| io::Result::Ok(())));
            go_on.send(()).expect("the first flush waits");
            assert!(first.join().expect("no panic").expect("it ran").is_err());
            assert!(second.join().expect("no panic").is_none(), "the loss was reported once only");
        });
        assert!(turns.run(|| io::Result::Ok(())).is_none(), "poisoned for good");
    }

    #[test]
    fn a_flush_begun_before_the_call_does_not_count() {
        let turns = FlushTurns::default();
        let mut runs = 0;
        for _ in 0..3 {
            turns.run(|| {
                runs += 1;
                io::Result::Ok(())
            });
        }
        assert_eq!(runs, 3);
    }
}

#[cfg(all(test, loom))]
mod concurrency {
    use std::sync::Arc;

    use super::*;
    use crate::sync::explore;

    /// A disk with the kernel's behaviour: a failed flush loses what was cached, and no later one
    /// reports it.
    #[derive(Default)]
    struct Disk {
        cached: u32,
        durable: u32,
        flushes: u32,
    }

    /// Writes bit `mine`, flushes, and checks that a flush that succeeded made it durable.
    fn write_and_flush(turns: &FlushTurns, disk: &Mutex<Disk>, mine: u32, failing: u32) {
        let lock = || disk.lock();
        lock().cached |= 1 << mine;
        let flushed = turns.run(|| {
            let (taken, number) = {
                let mut disk = lock();
                disk.flushes += 1;
                (std::mem::take(&mut disk.cached), disk.flushes)
            };
            if number == failing {
                return Err(());
            }
            lock().durable |= taken;
            Ok(())
        });
        if flushed == Some(Ok(())) {
            assert_eq!(
                lock().durable >> mine & 1,
                1,
                "a flush that returned covers what was before"
            );
        }
    }

    #[test]
    fn promise_4_a_flush_that_succeeds_covers_its_caller_even_if_another_ran_it() {
        for failing in 0..3 {
            explore(move || {
                let (turns, disk) = (Arc::<FlushTurns>::default(), Arc::<Mutex<Disk>>::default());
                let others = [1, 2].map(|mine| {
                    let (turns, disk) = (turns.clone(), disk.clone());
                    loom::thread::spawn(move || write_and_flush(&turns, &disk, mine, failing))
                });
                write_and_flush(&turns, &disk, 0, failing);
                others.into_iter().for_each(|other| other.join().expect("no panic"));
            });
        }
    }
}
