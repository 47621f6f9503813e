//! What a step of a task answers.

use std::time::Duration;

/// When to call the next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// At once.
    Now,
    /// Once there is work, and after this time at the latest.
    Work(Duration),
    /// After this time, or once its waker is called.
    Later(Duration),
    /// Never.
    Ended,
}
