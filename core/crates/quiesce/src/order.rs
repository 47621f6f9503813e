//! Several applications quiesced as one: in order, released in reverse, under one limit.
//!
//! The first failure ends quiescing. A release continues after a failure and returns the first one.

use std::sync::Arc;

use hrl::sync::lock::{Mutex, MutexGuard};
use hrl::{Clock, Error, ErrorKind, Quiesce, QuiesceRequest, Result, SystemClock};

/// Applications in the order of quiescing. An application comes before those that it writes to,
/// such as a database before its file system.
pub struct InOrder {
    parts: Vec<Arc<dyn Quiesce>>,
    clock: Arc<dyn Clock>,
    /// How many parts were asked to quiesce and not yet released.
    asked: Mutex<usize>,
}

impl InOrder {
    /// Quiesces `parts` first to last, and releases them last to first.
    pub fn new(parts: Vec<Arc<dyn Quiesce>>) -> Self {
        Self { parts, clock: SystemClock::shared(), asked: Mutex::new(0) }
    }

    fn asked(&self) -> MutexGuard<'_, usize> {
        self.asked.lock()
    }
}

impl Quiesce for InOrder {
    fn name(&self) -> String {
        self.parts.iter().map(|part| part.name()).collect::<Vec<_>>().join(", ")
    }

    fn quiesce(&self, request: &QuiesceRequest) -> Result<()> {
        let start = self.clock.elapsed();
        for (number, part) in self.parts.iter().enumerate() {
            let taken = self.clock.elapsed().saturating_sub(start);
            let left = request.limit.saturating_sub(taken);
            if left.is_zero() {
                return Err(Error::new(ErrorKind::Unavailable, "quiesce", part.name())
                    .expected(format_args!("all before it quiesced within {:?}", request.limit))
                    .found(format_args!("{taken:?}")));
            }
            *self.asked() = number + 1;
            let mut request = request.clone();
            request.limit = left;
            part.quiesce(&request)?;
        }
        Ok(())
    }

    fn still_quiesced(&self) -> Result<()> {
        self.parts.iter().try_for_each(|part| part.still_quiesced())
    }

    fn release(&self) -> Result<()> {
        let asked = std::mem::take(&mut *self.asked());
        let released = self.parts[..asked].iter().rev().map(|part| part.release());
        released.fold(Ok(()), Result::and)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    struct Part {
        name: &'static str,
        log: Arc<Mutex<Vec<String>>>,
        fails: &'static str,
    }

    impl Part {
        fn step(&self, step: &str) -> Result<()> {
            let text = format!("{step} {}", self.name);
            let fails = text == self.fails;
            self.log.lock().push(text);
            if fails { Err(Error::new(ErrorKind::Io, "quiesce", self.name)) } else { Ok(()) }
        }
    }

    impl Quiesce for Part {
        fn name(&self) -> String {
            self.name.to_owned()
        }

        fn quiesce(&self, request: &QuiesceRequest) -> Result<()> {
            assert!(request.limit <= Duration::from_secs(1));
            self.step("quiesce")
        }

        fn release(&self) -> Result<()> {
            self.step("release")
        }
    }

    fn play(fails: &'static str) -> (Vec<String>, bool) {
        let log = Arc::new(Mutex::default());
        let parts = ["a", "b", "c"].map(|name| -> Arc<dyn Quiesce> {
            Arc::new(Part { name, log: Arc::clone(&log), fails })
        });
        let all = InOrder::new(parts.into());
        let quiesced = all.quiesce(&QuiesceRequest::new("disk", Duration::from_secs(1)));
        let released = all.release();
        let log = log.lock().clone();
        (log, quiesced.is_ok() && released.is_ok())
    }

    #[test]
    fn the_last_quiesced_is_released_first_and_only_what_was_asked() {
        let (log, good) = play("");
        let all = ["quiesce a", "quiesce b", "quiesce c", "release c", "release b", "release a"];
        assert_eq!(
            (log.iter().map(String::as_str).collect::<Vec<_>>(), good),
            (all.to_vec(), true)
        );
        let (log, good) = play("quiesce b");
        assert_eq!(
            (log.join(", ").as_str(), good),
            ("quiesce a, quiesce b, release b, release a", false)
        );
    }

    #[test]
    fn a_release_that_fails_does_not_keep_the_others_quiesced() {
        let (log, good) = play("release c");
        assert_eq!((log.last().map(String::as_str), good), (Some("release a"), false));
    }
}
