//! Many requests at once, for segments in a store where each read is a round trip.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::{Error, ErrorKind, Result};

/// Requests in flight at once. Memory: each holds the end of a segment, or a frame.
pub(super) const REQUESTS: usize = 16;

/// The results of `work` on each item, in order; on one thread each, at most [`REQUESTS`] at once, when they are `remote`.
/// After a failure no more items are begun, and the first of them in order is returned.
pub(super) fn each<T: Sync, R: Send>(
    items: &[T],
    remote: bool,
    work: impl Fn(&T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    if !remote || items.len() < 2 {
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
        let threads: Vec<_> = (0..items.len().min(REQUESTS)).map(|_| scope.spawn(take)).collect();
        let mut results = Vec::with_capacity(items.len());
        for thread in threads {
            results.extend(thread.join().map_err(|_| panicked())?);
        }
        Ok::<_, Error>(results)
    })?;
    results.sort_by_key(|(at, _)| *at);
    results.into_iter().map(|(_, result)| result).collect()
}

fn panicked() -> Error {
    Error::new(ErrorKind::Unavailable, "read from", "the store").message("the store panicked")
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
