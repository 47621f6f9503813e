//! What the watchdog asks of each kind of application.
//!
//! Quiescing has two steps, so that applications are held for as short as may be: all are prepared (what takes long and
//! holds nobody: checkpoints, syncs), then all are taken. What is taken is a [`Hold`].

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hrl::{Clock, Error, ErrorKind, Result};

/// An end of time that is common to many steps.
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

    /// The earlier of this one and `limit` from now.
    pub(crate) fn within(&self, limit: Duration) -> Self {
        let at = self.at.min(self.clock.elapsed().saturating_add(limit));
        Self { clock: self.clock.clone(), at }
    }

    /// `limit` from now, whatever this one says: for releasing.
    pub(crate) fn anew(&self, limit: Duration) -> Self {
        Self::after(self.clock.clone(), limit)
    }

    /// Zero when it is over.
    pub(crate) fn left(&self) -> Duration {
        self.at.saturating_sub(self.clock.elapsed())
    }

    pub(crate) fn is_over(&self) -> bool {
        self.left().is_zero()
    }

    /// `Unavailable` when it is over.
    pub(crate) fn check(&self, name: &str) -> Result<()> {
        if self.is_over() { Err(too_late(name)) } else { Ok(()) }
    }
}

pub(crate) fn too_late(name: &str) -> Error {
    Error::new(ErrorKind::Unavailable, "quiesce", name).message("it took longer than its limit")
}

/// What a provider is told of the point to be.
#[derive(Clone)]
pub(crate) struct Occasion {
    pub volume: String,
    pub label: String,
    pub deadline: Deadline,
    /// A file system is frozen after all others, so what they wrote is on the disk then.
    pub freezes: bool,
}

/// Where in the order a provider stands: what writes to another comes before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rank {
    Script,
    Database,
    Guest,
    FileSystem,
}

/// One application, as its specification says.
pub(crate) trait Provider: Send + Sync {
    /// Name for errors.
    fn name(&self) -> String;
    fn rank(&self) -> Rank;
    /// Refuses, in the agent and before anything is done, what can never work or would stop the writes to one of `written`.
    fn check(&self, _written: &[&Path]) -> Result<()> {
        Ok(())
    }
    /// Does what takes long and holds nobody.
    fn prepare(&self, occasion: &Occasion) -> Result<Box<dyn Prepared>>;
    /// In the agent, when the watchdog was killed while it took or held this one: lets go what did not end with it.
    fn rescue(&self, _volume: &str) -> Result<()> {
        Ok(())
    }
}

/// An application that is ready to be taken. Dropped, it is as it was before.
pub(crate) trait Prepared: Send {
    /// Quiesces it within the deadline. On failure nothing is held.
    fn take(self: Box<Self>, occasion: &Occasion) -> Result<Box<dyn Hold>>;
}

/// An application that is quiesced.
pub(crate) trait Hold: Send {
    /// An error when it is known to have gone on. Returns at once.
    fn intact(&mut self) -> Result<()> {
        Ok(())
    }
    /// Lets it go on. An error when it may have gone on before: then the point is not consistent.
    fn release(self: Box<Self>) -> Result<()>;
}
