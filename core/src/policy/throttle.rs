//! Limits shipping, and copying to a served disk, to a bandwidth.
//!
//! What is sent is added to a debt, which shrinks at the scheduled rate. The next chunk may go once
//! there is no debt. So chunks go at the speed of the link, and pauses between them make the
//! average right. A change of the schedule acts at once. What an idle second left unused may be
//! used in the next.

use std::sync::Arc;
use std::time::Duration;

use super::Bandwidth;
use crate::clock::Clock;
use crate::sync::lock::Mutex;

/// How long unused bandwidth may be saved.
const CREDIT_SECONDS: f64 = 1.0;
/// Longest pause before the schedule is read again.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Limits the sender of one volume to a bandwidth. Threads may share it.
pub struct Throttle {
    bandwidth: Bandwidth,
    clock: Arc<dyn Clock>,
    state: Mutex<Debt>,
}

struct Debt {
    /// Bytes owed; below zero it is credit.
    bytes: f64,
    as_of: Duration,
}

impl Throttle {
    /// Starts without debt or credit.
    pub fn new(bandwidth: Bandwidth, clock: Arc<dyn Clock>) -> Self {
        let state = Mutex::new(Debt { bytes: 0.0, as_of: clock.elapsed() });
        Self { bandwidth, clock, state }
    }

    /// Returns the bytes per second that the schedule allows now; `None` is no limit.
    pub fn limit(&self) -> Option<u64> {
        self.bandwidth.at(self.clock.now())
    }

    /// Takes the right to send `bytes` now. An error is the time to wait before asking again.
    pub fn take(&self, bytes: u64) -> Result<(), Duration> {
        let mut debt = self.state.lock();
        let now = self.clock.elapsed();
        let passed = now.saturating_sub(std::mem::replace(&mut debt.as_of, now)).as_secs_f64();
        let Some(rate) = self.limit() else {
            debt.bytes = 0.0;
            return Ok(());
        };
        let rate = rate as f64;
        debt.bytes = (debt.bytes - passed * rate).max(-CREDIT_SECONDS * rate);
        if debt.bytes > 0.0 {
            let wait = Duration::from_secs_f64(debt.bytes / rate);
            return Err(wait.clamp(Duration::from_millis(1), LOOK_AGAIN));
        }
        debt.bytes += bytes as f64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::units::Timestamp;

    const MIB: u64 = 1 << 20;

    /// Returns the bytes sent in `seconds` by a sender that always has a segment of `segment`
    /// bytes.
    fn sent(throttle: &Throttle, clock: &ManualClock, seconds: u64, segment: u64) -> u64 {
        let (end, mut sent) = (clock.elapsed() + Duration::from_secs(seconds), 0);
        while clock.elapsed() < end {
            match throttle.take(segment) {
                Ok(()) => sent += segment,
                Err(wait) => clock.advance(wait),
            }
        }
        sent
    }

    #[test]
    fn the_average_is_the_limit_whatever_the_size_of_segments() {
        for segment in [1000, MIB, 64 * MIB] {
            let clock = Arc::new(ManualClock::new(Timestamp(0), 1));
            let throttle = Throttle::new("8M".parse().expect("schedule"), clock.clone());
            let bytes = sent(&throttle, &clock, 1000, segment);
            let most = 8 * MIB * 1000 + segment + 8 * MIB;
            assert!((8 * MIB * 990..=most).contains(&bytes), "{bytes} of {segment}");
        }
    }

    #[test]
    fn the_schedule_acts_while_a_debt_is_paid() {
        // Thursday, 07:59:00.
        let clock = Arc::new(ManualClock::new(Timestamp((8 * 60 - 1) * 60_000_000_000), 1));
        let throttle =
            Throttle::new("64K; 08:00-18:00 none".parse().expect("schedule"), clock.clone());
        throttle.take(64 * MIB).expect("the first goes");
        assert!(throttle.take(1).is_err(), "a thousand seconds are owed");
        clock.advance(Duration::from_secs(60));
        throttle.take(64 * MIB).expect("no limit any more");
    }

    #[test]
    fn idle_time_gives_a_second_of_credit_and_no_more() {
        let clock = Arc::new(ManualClock::new(Timestamp(0), 1));
        let throttle = Throttle::new("1M".parse().expect("schedule"), clock.clone());
        clock.advance(Duration::from_secs(3600));
        throttle.take(MIB).expect("first");
        throttle.take(MIB / 2).expect("out of the credit");
        let wait = throttle.take(1).expect_err("half a second is owed");
        assert!(wait <= LOOK_AGAIN && !wait.is_zero());
        assert_eq!(Throttle::new(Bandwidth::default(), clock).take(u64::MAX), Ok(()));
    }
}
