//! Quiescing applications around a mark.
//!
//! An application-consistent point is a mark that was taken while its applications were quiesced and the disk flushed.
//! Whatever happens between, [`Quiesce::release`] is called exactly once for each [`Quiesce::quiesce`], also when that
//! failed or something panicked.
//!
//! The point is exact: [`Quiesce::holds`] is asked under the lock that orders the writes, and the mark reaches the journal
//! as application-consistent only when `release` has said that nothing went on in between. Where anything fails there is
//! no such point.

use std::path::PathBuf;
use std::time::Duration;

use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};

/// What an application is quiesced for.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct QuiesceRequest {
    /// Name of the volume.
    pub volume: String,
    /// Label of the point to be.
    pub label: String,
    /// Time from the beginning of `quiesce` to the mark. Applications go on after it, whatever happens.
    pub limit: Duration,
    /// Files and directories that are written while the application is quiesced: the agent's state, the disk itself. A
    /// provider that would stop writes to any of them refuses.
    pub written: Vec<PathBuf>,
}

impl QuiesceRequest {
    /// A request for a point of `volume` within `limit`; label and paths are empty.
    pub fn new(volume: &str, limit: Duration) -> Self {
        let volume = volume.to_owned();
        Self { volume, label: String::new(), limit, written: Vec::new() }
    }
}

/// Brings an application to a state whose disk is consistent.
///
/// Contract: `quiesce` returns within the limit of the request, or fails; `release` succeeds when there is nothing to
/// release, and fails when the application may have gone on before: then the point is not application-consistent.
pub trait Quiesce: Send + Sync {
    /// Name for errors and events.
    fn name(&self) -> String;
    /// Makes the disk consistent and keeps it so until `release`.
    fn quiesce(&self, request: &QuiesceRequest) -> Result<()>;
    /// An error when the application went on already. Asked at the instant of the mark while all writers wait: it returns
    /// at once and does no I/O on the volume. By default the time limit alone decides.
    fn holds(&self) -> Result<()> {
        Ok(())
    }
    /// Lets the application go on.
    fn release(&self) -> Result<()>;
}

/// What [`quiesced`] does between quiescing and releasing.
pub(crate) struct Steps<Flush, Mark, Settle> {
    /// Flushes the disk.
    pub flush: Flush,
    /// Places the mark if what it is given says so at that instant.
    pub mark: Mark,
    /// Is told whether the mark proved good.
    pub settle: Settle,
}

/// Quiesces, flushes, marks, releases, settles. `Unavailable`, without a point, when more than the limit went by before the
/// mark: the application may have gone on by itself. Gives the mark, and the time from the beginning to the end.
pub(crate) fn quiesced<T>(
    provider: &dyn Quiesce,
    request: &QuiesceRequest,
    clock: &dyn Clock,
    steps: Steps<
        impl FnOnce() -> Result<()>,
        impl FnOnce(&dyn Fn() -> Result<()>) -> Result<T>,
        impl FnOnce(&T, bool),
    >,
) -> Result<(T, Duration)> {
    let start = clock.elapsed();
    let mut release = Release { provider, pending: true };
    provider.quiesce(request)?;
    (steps.flush)()?;
    let holds = || {
        let taken = clock.elapsed().saturating_sub(start);
        if taken > request.limit {
            return Err(Error::new(ErrorKind::Unavailable, "quiesce", provider.name())
                .expected(format_args!("it quiesced and flushed within {:?}", request.limit))
                .found(format_args!("{taken:?}")));
        }
        provider.holds()
    };
    let placed = (steps.mark)(&holds)?;
    let released = release.now();
    (steps.settle)(&placed, released.is_ok());
    released?;
    Ok((placed, clock.elapsed().saturating_sub(start)))
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
    use crate::sync::lock::Mutex;
    use crate::units::Timestamp;

    /// Writes down what it is asked, and does as it is told.
    struct Scripted<'a> {
        log: Mutex<Vec<&'static str>>,
        clock: &'a ManualClock,
        takes: Duration,
        fails: Option<&'static str>,
    }

    impl Scripted<'_> {
        fn step(&self, name: &'static str) -> Result<()> {
            self.log.lock().push(name);
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

        fn quiesce(&self, _request: &QuiesceRequest) -> Result<()> {
            self.clock.advance(self.takes);
            self.step("quiesce")
        }

        fn holds(&self) -> Result<()> {
            self.step("holds")
        }

        fn release(&self) -> Result<()> {
            self.step("release")
        }
    }

    fn play(takes: u64, fails: Option<&'static str>) -> (Vec<&'static str>, Result<()>) {
        let clock = ManualClock::new(Timestamp(0), 1);
        let takes = Duration::from_millis(takes);
        let provider = Scripted { log: Mutex::default(), clock: &clock, takes, fails };
        let request = QuiesceRequest::new("disk", Duration::from_millis(100));
        let steps = Steps {
            flush: || provider.step("flush"),
            mark: |holds: &dyn Fn() -> Result<()>| {
                holds()?;
                provider.step("mark")
            },
            settle: |(): &(), good| drop(provider.step(if good { "good" } else { "bad" })),
        };
        let result = quiesced(&provider, &request, &clock, steps).map(drop);
        (provider.log.into_inner(), result)
    }

    #[test]
    fn promise_8_whatever_fails_the_application_is_released_once() {
        let all = ["quiesce", "flush", "holds", "mark", "release", "good"];
        assert_eq!(play(1, None).0, all);
        for (fails, steps) in [("quiesce", 1), ("flush", 2), ("holds", 3), ("mark", 4)] {
            let (log, result) = play(1, Some(fails));
            assert_eq!(result.expect_err(fails).operation(), fails);
            let mut expected = all[..steps].to_vec();
            expected.push("release");
            assert_eq!(log, expected);
        }
    }

    #[test]
    fn promise_7_a_mark_whose_release_fails_is_not_good() {
        let (log, result) = play(1, Some("release"));
        assert_eq!(result.expect_err("not held").operation(), "release");
        assert_eq!(log.last(), Some(&"bad"));
    }

    #[test]
    fn a_quiesce_that_takes_too_long_gives_no_mark() {
        let (log, result) = play(101, None);
        assert_eq!(result.expect_err("too late").kind(), ErrorKind::Unavailable);
        assert_eq!(log, ["quiesce", "flush", "release"]);
    }
}
