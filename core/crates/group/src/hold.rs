//! How long a coordinator may keep a member's writers waiting: a share of the time, which the member
//! sets.
//!
//! Time to wait accrues with the share, up to what it gives in [`WINDOW`]. Barriers and quiesced
//! applications spend it. Whatever a coordinator asks for, the member lets go when it is spent.

use std::time::Duration;

/// At a share of a tenth, the time accrued covers the longest barrier that is permitted.
const WINDOW: Duration = Duration::from_secs(100);

/// What a member permits, by its own monotonic clock.
#[derive(Debug)]
pub(crate) struct Hold {
    share: f64,
    /// Seconds that were left at `at`; below zero after a hold that ended late.
    balance: f64,
    at: Duration,
    since: Option<Duration>,
}

impl Hold {
    /// Permits `share`, above 0 and up to 1, of the time from `now` on.
    pub(crate) fn new(share: f64, now: Duration) -> Self {
        Self { share, balance: WINDOW.as_secs_f64() * share, at: now, since: None }
    }

    /// Returns how much longer writers may be held.
    pub(crate) fn left(&self, now: Duration) -> Duration {
        Duration::try_from_secs_f64(self.balance_at(now)).unwrap_or_default()
    }

    /// Begins to count, unless it counts already.
    pub(crate) fn begin(&mut self, now: Duration) {
        self.since.get_or_insert(now);
    }

    /// Spends the time since it began to count.
    pub(crate) fn end(&mut self, now: Duration) {
        self.balance = self.balance_at(now);
        self.at = now;
        self.since = None;
    }

    #[cfg(test)]
    pub(crate) fn is_under_way(&self) -> bool {
        self.since.is_some()
    }

    fn balance_at(&self, now: Duration) -> f64 {
        let seconds = |from: Duration| now.saturating_sub(from).as_secs_f64();
        let accrued = self.balance + seconds(self.at) * self.share;
        accrued.min(WINDOW.as_secs_f64() * self.share) - self.since.map_or(0.0, seconds)
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp, reason = "whole seconds")]
mod tests {
    use super::*;

    #[test]
    fn holding_spends_what_the_share_gives() {
        let second = Duration::from_secs(1);
        let mut hold = Hold::new(0.1, Duration::ZERO);
        let left = |hold: &Hold, at: Duration| hold.left(at).as_secs_f64().round();
        assert_eq!(left(&hold, Duration::ZERO), 10.0);
        hold.begin(Duration::ZERO);
        hold.begin(3 * second);
        assert_eq!(left(&hold, 4 * second), 6.0);
        hold.end(20 * second);
        assert_eq!(left(&hold, 20 * second), 0.0);
        assert_eq!(left(&hold, 120 * second), 0.0, "what was held too long is made up for");
        assert_eq!(left(&hold, 140 * second), 2.0);
        assert_eq!(left(&hold, 3000 * second), 10.0, "no more than that is saved");
    }
}
