//! Runs many requests at once, for stores to which each is a round trip.

#[cfg(any(test, feature = "testing"))]
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::{Error, ErrorKind, Result};

/// Most requests in flight at once. Memory: each has the end of a segment, or a frame.
pub(crate) const REQUESTS: usize = 16;

/// Returns the results of `work` on each item, in order. If `remote`, at most [`REQUESTS`] run at
/// once. Fails as [`each_on`].
pub(crate) fn each<T: Sync, R: Send>(
    items: &[T],
    remote: bool,
    work: impl Fn(&T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    each_on(if remote { REQUESTS } else { 1 }, items, work)
}

/// Returns the results of `work` on each item, in order, from at most so many threads. After a
/// failure no more items are begun, and the first failure in order is returned.
pub(crate) fn each_on<T: Sync, R: Send>(
    threads: usize,
    items: &[T],
    work: impl Fn(&T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    if threads < 2 || items.len() < 2 || is_alone() {
        return items.iter().map(work).collect();
    }
    let next = AtomicUsize::new(0);
    let take = || {
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(at) else { return done };
            let result = work(item);
            if result.is_err() {
                next.store(items.len(), Ordering::Relaxed);
            }
            done.push((at, result));
        }
    };
    let mut results = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..items.len().min(threads)).map(|_| scope.spawn(take)).collect();
        let mut results = Vec::with_capacity(items.len());
        for thread in threads {
            results.extend(thread.join().map_err(|_| panicked())?);
        }
        Ok::<_, Error>(results)
    })?;
    results.sort_by_key(|(at, _)| *at);
    results.into_iter().map(|(_, result)| result).collect()
}

/// Returns the results of `work` on all items, in order. Each item has a thread of its own.
pub(crate) fn all<T: Sync, R: Send>(
    items: &[T],
    work: impl Fn(&T) -> Result<R> + Sync,
) -> Vec<Result<R>> {
    if items.len() < 2 || is_alone() {
        return items.iter().map(work).collect();
    }
    let work = &work;
    std::thread::scope(|scope| {
        let threads: Vec<_> = items.iter().map(|item| scope.spawn(move || work(item))).collect();
        let ended = |thread: std::thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|_| Err(panicked()))
        };
        threads.into_iter().map(ended).collect()
    })
}

fn panicked() -> Error {
    Error::new(ErrorKind::Unavailable, "ask", "the store").message("the store panicked")
}

#[cfg(any(test, feature = "testing"))]
thread_local! {
    static ALONE: Cell<bool> = const { Cell::new(false) };
}

/// Makes this thread do everything itself from now on, so that a simulation replays exactly.
/// Feature `testing`.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn stay_on_this_thread() {
    ALONE.set(true);
}

#[cfg(any(test, feature = "testing"))]
/// Returns whether this thread must do everything itself.
pub(crate) fn is_alone() -> bool {
    ALONE.get()
}

#[cfg(not(any(test, feature = "testing")))]
pub(crate) const fn is_alone() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_in_order_and_a_failure_ends_the_work() {
        let items: Vec<u64> = (0..100).collect();
        for remote in [false, true] {
            let doubled = each(&items, remote, |item| Ok(item * 2)).expect("all succeed");
            assert!(doubled.iter().enumerate().all(|(at, value)| *value == at as u64 * 2));
            let begun = AtomicUsize::new(0);
            let error = each(&items, remote, |item| {
                begun.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(std::time::Duration::from_millis(1));
                if *item < 5 { Ok(()) } else { Err(panicked()) }
            });
            assert_eq!(error.expect_err("the sixth fails").kind(), ErrorKind::Unavailable);
            assert!(begun.into_inner() < 60, "the rest is not begun");
        }
    }
}
