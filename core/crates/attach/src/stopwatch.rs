//! Time that passes by a clock.

use std::sync::Arc;
use std::time::Duration;

use hrl::Clock;

/// Measures time since its start.
pub(crate) struct Stopwatch {
    clock: Arc<dyn Clock>,
    began: Duration,
}

impl Stopwatch {
    pub(crate) fn start(clock: &Arc<dyn Clock>) -> Self {
        Self { clock: clock.clone(), began: clock.elapsed() }
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.clock.elapsed().saturating_sub(self.began)
    }
}
