//! Finds out whether a thread has to wait for a processor, from the time that the kernel counts.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

const WINDOW: Duration = Duration::from_millis(100);
/// Crowded from the first window on in which the thread waited for this part of the time...
const CROWDED_ONE_IN: u32 = 20;
/// ...until the thread waited for less than this part...
const FREE_ONE_IN: u32 = 50;
/// ...in this many windows one after the other.
const FREE_WINDOWS: u32 = 20;

/// How long one thread waits for processors.
pub(super) struct Crowding {
    /// Nanoseconds on a processor, nanoseconds waiting for one, and number of runs.
    schedstat: File,
    since: Duration,
    waited: Duration,
    verdict: Verdict,
}

impl Crowding {
    /// Begins to watch the calling thread; `None` if the kernel does not count.
    pub fn of_this_thread(now: Duration) -> Option<Self> {
        let schedstat = File::open("/proc/thread-self/schedstat").ok()?;
        let waited = waited(&schedstat)?;
        Some(Self { schedstat, since: now, waited, verdict: Verdict::default() })
    }

    /// Returns whether processors are crowded, if that changed. Call it at least every few windows.
    pub fn look(&mut self, now: Duration) -> Option<bool> {
        let window = now.saturating_sub(self.since);
        if window < WINDOW {
            return None;
        }
        let waited = waited(&self.schedstat)?;
        let lost = waited.saturating_sub(self.waited);
        (self.since, self.waited) = (now, waited);
        self.verdict.add(lost, window)
    }
}

fn waited(schedstat: &File) -> Option<Duration> {
    let mut text = [0; 128];
    let length = schedstat.read_at(&mut text, 0).ok()?;
    let text = std::str::from_utf8(&text[..length]).ok()?;
    text.split_whitespace().nth(1)?.parse().ok().map(Duration::from_nanos)
}

/// Becomes crowded at once and free slowly: what the thread does when it is free may be what crowds
/// it.
#[derive(Default)]
struct Verdict {
    crowded: bool,
    free_windows: u32,
}

impl Verdict {
    fn add(&mut self, waited: Duration, window: Duration) -> Option<bool> {
        self.free_windows = if waited * FREE_ONE_IN < window { self.free_windows + 1 } else { 0 };
        let crowded = if self.crowded {
            self.free_windows < FREE_WINDOWS
        } else {
            waited * CROWDED_ONE_IN >= window
        };
        let before = std::mem::replace(&mut self.crowded, crowded);
        (before != crowded).then_some(crowded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_crowded_at_once_and_free_after_a_while() {
        let mut verdict = Verdict::default();
        let mut add = |waited_ms| verdict.add(Duration::from_millis(waited_ms), WINDOW);
        assert_eq!([add(0), add(4), add(5), add(4)], [None, None, Some(true), None]);
        (1..FREE_WINDOWS).for_each(|_| assert_eq!(add(1), None));
        assert_eq!(add(2), None, "not free in every window");
        (1..FREE_WINDOWS).for_each(|_| assert_eq!(add(0), None));
        assert_eq!(add(0), Some(false));
    }

    #[test]
    fn the_kernel_counts_how_long_a_thread_waited() {
        let mut crowding = Crowding::of_this_thread(Duration::ZERO).expect("Linux counts");
        assert_eq!(crowding.look(WINDOW / 2), None, "too early");
        crowding.waited = Duration::ZERO;
        crowding.look(WINDOW);
        assert!(crowding.since == WINDOW);
    }
}
