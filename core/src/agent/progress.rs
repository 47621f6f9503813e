//! Wakes callers that wait for what the tasks do.

use std::time::Duration;

use crate::sync::lock::{Condvar, Mutex};

/// Counts the steps forward of all tasks.
#[derive(Default)]
pub(super) struct Progress {
    steps: Mutex<u64>,
    moved: Condvar,
}

impl Progress {
    /// Records that a task got something done that a caller may wait for.
    pub fn moved(&self) {
        *self.steps.lock() += 1;
        self.moved.notify_all();
    }

    /// Returns the steps until now. Ask for it *before* the look at what is waited for.
    pub fn now(&self) -> u64 {
        *self.steps.lock()
    }

    /// Waits up to `limit` for a step after the first `seen`.
    pub fn wait(&self, seen: u64, limit: Duration) {
        drop(self.moved.wait_timeout_while(self.steps.lock(), limit, |steps| *steps == seen));
    }
}
