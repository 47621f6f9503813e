//! How long a coordinator may hold a member's writers: a share of the time that the member sets.
//!
//! Time to hold accrues with the share, up to what it gives in [`WINDOW`]. Barriers and quiesced
//! applications spend it. Whatever a coordinator asks for, the member lets go when it is spent.

use std::time::Duration;

/// A share of a tenth permits the longest barrier at once.
const WINDOW: Duration = Duration::from_secs(100);

/// What a member permits, by its own monotonic clock.
#[derive(Debug)]
pub(crate) struct Hold {
    share: f64,
    left: Duration,
    /// When `left` was true.
    at: Duration,
    since: Option<Duration>,
}

impl Hold {
    /// Permits `share`, above 0 and up to 1, of the time from `now` on.
    pub(crate) fn new(share: f64, now: Duration) -> Self {
        Self { share, left: WINDOW.mul_f64(share), at: now, since: None }
    }

    /// Returns how much longer writers may be held.
    pub(crate) fn left(&self, now: Duration) -> Duration {
        let held = self.since.map_or(Duration::ZERO, |since| now.saturating_sub(since));
        self.accrued(now).saturating_sub(held)
    }

    /// Begins to count, unless it counts already.
    pub(crate) fn begin(&mut self, now: Duration) {
        self.since.get_or_insert(now);
    }

    /// Spends the time since it began to count.
    pub(crate) fn end(&mut self, now: Duration) {
        self.left = self.left(now);
        self.at = now;
        self.since = None;
    }

    #[cfg(test)]
    pub(crate) fn is_under_way(&self) -> bool {
        self.since.is_some()
    }

    fn accrued(&self, now: Duration) -> Duration {
        let more = now.saturating_sub(self.at).mul_f64(self.share);
        (self.left + more).min(WINDOW.mul_f64(self.share))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holding_spends_what_the_share_gives() {
        let second = Duration::from_secs(1);
        let mut hold = Hold::new(0.1, Duration::ZERO);
        assert_eq!(hold.left(Duration::ZERO), 10 * second);
        hold.begin(Duration::ZERO);
        hold.begin(3 * second);
        assert_eq!(hold.left(4 * second), 6 * second);
        hold.end(10 * second);
        assert_eq!(hold.left(10 * second), Duration::ZERO);
        assert_eq!(hold.left(30 * second), 2 * second);
        assert_eq!(hold.left(3000 * second), 10 * second, "no more than that is saved");
    }
}
