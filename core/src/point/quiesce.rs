//! Quiescing applications around a mark.
//!
//! An application-consistent point is a mark that was taken while its applications were quiesced and the disk flushed.
//! Whatever happens between, [`Quiesce::release`] is called exactly once for each [`Quiesce::quiesce`], also when that
//! failed or something panicked. A quiesce that came too late yields no point.

use std::time::Duration;

use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};

/// Brings an application to a state whose disk is consistent.
///
/// Contract: `quiesce` returns within `limit`, or fails; `release` succeeds when there is nothing to release.
pub trait Quiesce: Send + Sync {
    /// Name for errors and events.
    fn name(&self) -> String;
    /// Makes the disk consistent and keeps it so until `release`.
    fn quiesce(&self, limit: Duration) -> Result<()>;
    /// Lets the application go on.
    fn release(&self) -> Result<()>;
}

/// Quiesces, runs `prepare`, then `mark`, then releases. `Unavailable`, without a mark, when more than `limit` went by
/// before the mark: the application may have gone on by itself.
pub(crate) fn quiesced<T>(
    provider: &dyn Quiesce,
    limit: Duration,
    clock: &dyn Clock,
    prepare: impl FnOnce() -> Result<()>,
    mark: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let start = clock.elapsed();
    let mut release = Release { provider, pending: true };
    provider.quiesce(limit)?;
    prepare()?;
    let taken = clock.elapsed().saturating_sub(start);
    if taken > limit {
        return Err(Error::new(ErrorKind::Unavailable, "quiesce", provider.name())
            .expected(format_args!("it quiesced and flushed within {limit:?}"))
            .found(format_args!("{taken:?}")));
    }
    let done = mark()?;
    release.now()?;
    Ok(done)
}

/// Releases when it is dropped, if nobody did before.
struct Release<'a> {
    provider: &'a dyn Quiesce,
    pending: bool,
}

impl Release<'_> {
    fn now(&mut self) -> Result<()> {
        self.pending = false;
        self.provider.release()
    }
}

impl Drop for Release<'_> {
    fn drop(&mut self) {
        if self.pending {
            // The failure that led here is the one that is told.
            let _ = self.provider.release();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::units::Timestamp;
    use std::sync::Mutex;

    /// Writes down what it is asked, and does as it is told.
    struct Scripted<'a> {
        log: Mutex<Vec<&'static str>>,
        clock: &'a ManualClock,
        takes: Duration,
        fails: Option<&'static str>,
    }

    impl Scripted<'_> {
        fn step(&self, name: &'static str) -> Result<()> {
            self.log.lock().expect("no panic").push(name);
            if self.fails == Some(name) {
                return Err(Error::new(ErrorKind::Io, name, "application"));
            }
            Ok(())
        }
    }

    impl Quiesce for Scripted<'_> {
        fn name(&self) -> String {
            "application".to_owned()
        }

        fn quiesce(&self, _limit: Duration) -> Result<()> {
            self.clock.advance(self.takes);
            self.step("quiesce")
        }

        fn release(&self) -> Result<()> {
            self.step("release")
        }
    }

    fn play(takes: u64, fails: Option<&'static str>) -> (Vec<&'static str>, Result<()>) {
        let clock = ManualClock::new(Timestamp(0), 1);
        let takes = Duration::from_millis(takes);
        let provider = Scripted { log: Mutex::default(), clock: &clock, takes, fails };
        let limit = Duration::from_millis(100);
        let flush = || provider.step("flush");
        let result = quiesced(&provider, limit, &clock, flush, || provider.step("mark"));
        (provider.log.into_inner().expect("no panic"), result)
    }

    #[test]
    fn promise_8_whatever_fails_the_application_is_released_once() {
        assert_eq!(play(1, None).0, ["quiesce", "flush", "mark", "release"]);
        for (fails, steps) in [("quiesce", 1), ("flush", 2), ("mark", 3)] {
            let (log, result) = play(1, Some(fails));
            assert_eq!(result.expect_err(fails).operation(), fails);
            let mut expected = ["quiesce", "flush", "mark"][..steps].to_vec();
            expected.push("release");
            assert_eq!(log, expected);
        }
        assert!(play(1, Some("release")).1.is_err());
    }

    #[test]
    fn a_quiesce_that_takes_too_long_gives_no_mark() {
        let (log, result) = play(101, None);
        assert_eq!(result.expect_err("too late").kind(), ErrorKind::Unavailable);
        assert_eq!(log, ["quiesce", "flush", "release"]);
    }
}
