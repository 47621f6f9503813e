//! The interface between the watchdog and each kind of application.
//!
//! Quiescing has two steps, to keep the interruption short. First all applications are prepared:
//! long work that stops nobody, such as checkpoints and syncs. Then each is quiesced, which gives a
//! [`Quiesced`].

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hrl::{Clock, Error, ErrorKind, Result};

/// A point in time that ends many steps.
#[derive(Clone)]
pub(crate) struct Deadline {
    clock: Arc<dyn Clock>,
    at: Duration,
}

impl Deadline {
    pub(crate) fn after(clock: Arc<dyn Clock>, limit: Duration) -> Self {
        let at = clock.elapsed().saturating_add(limit);
        Self { clock, at }
    }

    /// Returns the earlier of this deadline and `limit` from now.
    pub(crate) fn within(&self, limit: Duration) -> Self {
        let at = self.at.min(self.clock.elapsed().saturating_add(limit));
        Self { clock: self.clock.clone(), at }
    }

    /// Returns a deadline `limit` from now, even if this one is over; for releasing.
    pub(crate) fn anew(&self, limit: Duration) -> Self {
        Self::after(self.clock.clone(), limit)
    }

    /// Returns the time that is left; zero once it is over.
    pub(crate) fn left(&self) -> Duration {
        self.at.saturating_sub(self.clock.elapsed())
    }

    pub(crate) fn is_over(&self) -> bool {
        self.left().is_zero()
    }

    /// Fails with `Unavailable` once the deadline is over.
    pub(crate) fn check(&self, name: &str) -> Result<()> {
        if self.is_over() { Err(too_late(name)) } else { Ok(()) }
    }
}

pub(crate) fn too_late(name: &str) -> Error {
    Error::new(ErrorKind::Unavailable, "quiesce", name).message("it took longer than its limit")
}

/// What a provider knows about the coming point.
#[derive(Clone)]
pub(crate) struct Occasion {
    pub volume: String,
    pub label: String,
    pub deadline: Deadline,
    /// A file system is frozen after all other applications, which puts their writes on disk.
    pub freezes: bool,
}

/// Position in the order of quiescing. A writer comes before what it writes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rank {
    Script,
    Database,
    Guest,
    FileSystem,
}

/// One application, as its specification describes it.
pub(crate) trait Provider: Send + Sync {
    /// Returns the name for errors.
    fn name(&self) -> String;
    fn rank(&self) -> Rank;
    /// Refuses what can never work or would block a write to one of `written`. Runs in the agent,
    /// before anything is quiesced.
    fn check(&self, _written: &[&Path]) -> Result<()> {
        Ok(())
    }
    /// Does long work that stops nobody.
    fn prepare(&self, occasion: &Occasion) -> Result<Box<dyn Prepared>>;
    /// Releases what a killed watchdog left quiesced. Runs in the agent.
    fn rescue(&self, _volume: &str) -> Result<()> {
        Ok(())
    }
}

/// An application ready to be quiesced. Dropping it restores its condition.
pub(crate) trait Prepared: Send {
    /// Quiesces the application within the deadline. On failure it is not quiesced.
    fn quiesce(self: Box<Self>, occasion: &Occasion) -> Result<Box<dyn Quiesced>>;
}

/// A quiesced application.
pub(crate) trait Quiesced: Send {
    /// Fails if the application is known to have resumed. Returns at once.
    fn still_quiesced(&mut self) -> Result<()> {
        Ok(())
    }
    /// Releases the application. Fails if it may have resumed earlier: the point is then not
    /// consistent.
    fn release(self: Box<Self>) -> Result<()>;
}
