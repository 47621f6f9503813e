//! Quiesces applications around a mark.
//!
//! A point is application-consistent if its mark was placed while the applications were quiesced and
//! the disk was flushed. [`Quiesce::release`] is called exactly once for each [`Quiesce::quiesce`],
//! even if that failed or a step panicked.
//!
//! The point is exact: the mark is placed under the lock that orders writes, and only if
//! [`Quiesce::still_quiesced`] succeeds there. The journal records it as application-consistent only
//! if `release` then reports that no application went on before. If a step fails there is no such
//! point.

use std::path::PathBuf;
use std::time::Duration;

use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};

/// Describes the point for which an application is quiesced.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct QuiesceRequest {
    /// Name of the volume.
    pub volume: String,
    /// Label of the point that is taken.
    pub label: String,
    /// Time from the beginning of `quiesce` to the mark. Afterwards applications go on in any case.
    pub limit: Duration,
    /// Files and directories that are written while the application is quiesced: the state directory
    /// and the disk itself. A provider that would stop writes to any of them refuses.
    pub written: Vec<PathBuf>,
}

impl QuiesceRequest {
    /// Makes a request for a point of `volume` within `limit`, without label and paths.
    pub fn new(volume: &str, limit: Duration) -> Self {
        let volume = volume.to_owned();
        Self { volume, label: String::new(), limit, written: Vec::new() }
    }
}

/// Brings an application to a condition in which its data on disk is consistent.
///
/// Contract: `quiesce` returns within the limit of the request, or fails. `release` succeeds if there
/// is nothing to release. It fails if the application may have gone on before; then the point is not
/// application-consistent.
pub trait Quiesce: Send + Sync {
    /// Returns the name for errors and events.
    fn name(&self) -> String;
    /// Makes the disk consistent and keeps it so until `release`.
    fn quiesce(&self, request: &QuiesceRequest) -> Result<()>;
    /// Fails if the application already went on. Called at the instant of the mark while all writers
    /// wait, so it returns at once and does no I/O on the volume. Default: succeeds, so that the time
    /// limit alone decides.
    fn still_quiesced(&self) -> Result<()> {
        Ok(())
    }
    /// Lets the application go on.
    fn release(&self) -> Result<()>;
}

/// The steps of [`quiesced`] between quiescing and releasing, and after.
pub(crate) struct Steps<Flush, Mark, Confirm> {
    /// Flushes the disk.
    pub flush: Flush,
    /// Places the mark, if the check that it is given succeeds at that instant.
    pub mark: Mark,
    /// Confirms the mark, or demotes it if the flag is false.
    pub confirm: Confirm,
}

/// Quiesces, flushes, marks, releases and confirms. Returns the mark and the time that all took.
///
/// `Unavailable`, without a point, if the mark came after the limit: the application may have gone on
/// by itself.
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
    let still_quiesced = || {
        let taken = clock.elapsed().saturating_sub(start);
        if taken > request.limit {
            return Err(Error::new(ErrorKind::Unavailable, "quiesce", provider.name())
                .expected(format_args!("it quiesced and flushed within {:?}", request.limit))
                .found(format_args!("{taken:?}")));
        }
        provider.still_quiesced()
    };
    let placed = (steps.mark)(&still_quiesced)?;
    let released = release.now();
    (steps.confirm)(&placed, released.is_ok());
    released?;
    Ok((placed, clock.elapsed().saturating_sub(start)))
}

/// Releases on drop, unless [`Release::now`] did before.
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
            // The failure that led here is the one to report.
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

    /// Records its calls, and fails at one step.
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

        fn still_quiesced(&self) -> Result<()> {
            self.step("still_quiesced")
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
            mark: |check: &dyn Fn() -> Result<()>| {
                check()?;
                provider.step("mark")
            },
            confirm: |(): &(), good| drop(provider.step(if good { "good" } else { "bad" })),
        };
        let result = quiesced(&provider, &request, &clock, steps).map(drop);
        (provider.log.into_inner(), result)
    }

    #[test]
    fn promise_8_whatever_fails_the_application_is_released_once() {
        let all = ["quiesce", "flush", "still_quiesced", "mark", "release", "good"];
        assert_eq!(play(1, None).0, all);
        for (fails, steps) in [("quiesce", 1), ("flush", 2), ("still_quiesced", 3), ("mark", 4)] {
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
        assert_eq!(result.expect_err("released too early").operation(), "release");
        assert_eq!(log.last(), Some(&"bad"));
    }

    #[test]
    fn a_quiesce_that_takes_too_long_gives_no_mark() {
        let (log, result) = play(101, None);
        assert_eq!(result.expect_err("too late").kind(), ErrorKind::Unavailable);
        assert_eq!(log, ["quiesce", "flush", "release"]);
    }
}
