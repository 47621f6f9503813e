//! The only place that reads time and entropy, so that tests and simulation can replace both.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::units::Timestamp;

/// Gives time and entropy.
///
/// Contract: `now` is UTC and may jump in either direction. `elapsed` never goes back.
/// `fill_random` gives bytes that no other run gives, unless a simulation is seeded. May be called
/// from any thread.
pub trait Clock: Send + Sync {
    /// Returns the wall-clock time, for people.
    fn now(&self) -> Timestamp;
    /// Returns the time since an arbitrary start, for intervals and deadlines.
    fn elapsed(&self) -> Duration;
    /// Fills `out` with unpredictable bytes.
    fn fill_random(&self, out: &mut [u8]);
}

/// Returns unpredictable bytes. 16 or more make a unique identity.
pub(crate) fn random_bytes<const N: usize>(clock: &dyn Clock) -> [u8; N] {
    let mut bytes = [0; N];
    clock.fill_random(&mut bytes);
    bytes
}

/// Returns half of `pause` to all of it, so that clients that failed together do not retry
/// together.
pub(crate) fn jittered(pause: Duration, clock: &dyn Clock) -> Duration {
    let [random] = random_bytes(clock);
    pause.mul_f64(0.5 + f64::from(random) / 510.0)
}

/// The clock and entropy of the operating system.
#[derive(Debug)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// Makes a shared handle, the form that constructors take.
    pub fn shared() -> Arc<dyn Clock> {
        Arc::new(Self::default())
    }
}

impl Default for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "the clock is where time is read")]
    fn default() -> Self {
        Self { start: Instant::now() }
    }
}

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "the clock is where time is read")]
    fn now(&self) -> Timestamp {
        let now = SystemTime::now();
        let nanos = now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos());
        Timestamp(i64::try_from(nanos).unwrap_or(i64::MAX))
    }

    #[allow(clippy::disallowed_methods, reason = "the clock is where time is read")]
    fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    #[allow(clippy::disallowed_methods, reason = "the clock is where entropy is read")]
    fn fill_random(&self, out: &mut [u8]) {
        getrandom::fill(out).expect("the operating system supplies entropy");
    }
}

/// A clock that moves only on request, with seeded entropy: equal seeds give equal runs.
#[derive(Debug)]
pub struct ManualClock {
    now_ns: AtomicI64,
    elapsed_ns: AtomicU64,
    random: AtomicU64,
}

impl ManualClock {
    /// Starts at `now`, with entropy from `seed`.
    pub fn new(now: Timestamp, seed: u64) -> Self {
        Self {
            now_ns: AtomicI64::new(now.0),
            elapsed_ns: AtomicU64::new(0),
            random: AtomicU64::new(seed),
        }
    }

    /// Lets time pass, on both the wall clock and the interval clock.
    pub fn advance(&self, by: Duration) {
        let nanos = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        self.elapsed_ns.fetch_add(nanos, Ordering::SeqCst);
        self.now_ns.fetch_add(i64::try_from(nanos).unwrap_or(i64::MAX), Ordering::SeqCst);
    }

    /// Makes the wall clock jump, forwards or back.
    pub fn jump(&self, to: Timestamp) {
        self.now_ns.store(to.0, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.now_ns.load(Ordering::SeqCst))
    }

    fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.elapsed_ns.load(Ordering::SeqCst))
    }

    fn fill_random(&self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            // splitmix64 (Steele, Lea, Flood 2014).
            let mut z = self
                .random
                .fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::SeqCst)
                .wrapping_add(0x9e37_79b9_7f4a_7c15);
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            chunk.copy_from_slice(&(z ^ (z >> 31)).to_le_bytes()[..chunk.len()]);
        }
    }
}
