//! Application-consistent points by policy: a task of its own, because applications may take seconds to be quiesced.
//!
//! One that fails gives no point and an event with the reason; it is tried again when the next is due.

use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use super::task::{Next, Task};
use super::{PlacedMark, Shared};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Mode;
use crate::point::Quiesce;
use crate::policy::Policy;
use crate::replica::RecoveryPoint;

const TICK: Duration = Duration::from_millis(50);

/// Fails with `InvalidInput` if the policy needs applications and `given` provides none.
pub(crate) fn check(given: Option<&Arc<dyn Quiesce>>, policy: &Policy) -> Result<()> {
    if given.is_some() {
        return Ok(());
    }
    if !policy.quiesce.is_empty() {
        return Err(Error::new(ErrorKind::InvalidInput, "use policy", "quiesce")
            .message(
                "the policy names applications and the options have no provider of them, \
                 which hrl_quiesce::Applications::of_policy makes",
            )
            .found(policy.quiesce.join(", ")));
    }
    if !policy.app_point_interval.is_zero() {
        return Err(Error::new(ErrorKind::InvalidInput, "use policy", "app_point_interval")
            .expected("applications to quiesce")
            .found("none"));
    }
    Ok(())
}

/// Runs until the protection stops.
pub(super) struct AppPoints {
    last: Option<Duration>,
    /// A point that is not durable yet.
    point: Option<PlacedMark>,
}

impl AppPoints {
    pub(super) fn new() -> Self {
        Self { last: None, point: None }
    }
}

impl Task for AppPoints {
    fn name(&self) -> &'static str {
        "applications"
    }

    fn step(&mut self, shared: &Shared, _waker: &Waker) -> Next {
        let interval = shared.policy.app_point_interval;
        if interval.is_zero() || shared.has_ended() || shared.is_stopping() || shared.is_fenced() {
            return Next::Ended;
        }
        if self.point.as_ref().is_some_and(|placed| shared.confirmed(placed).is_some()) {
            self.point = None;
        }
        let now = shared.clock.elapsed();
        let due = self.last.is_none_or(|last| now.saturating_sub(last) >= interval);
        // Nobody is quiesced for a point that cannot be.
        if due && self.point.is_none() && shared.tap.mode() == Mode::Ordered {
            self.last = Some(now);
            // A failure has been told as an event.
            self.point = shared.place_app("").ok();
        }
        Next::Later(TICK)
    }
}

impl Shared {
    pub(super) fn mark_app(&self, label: &str) -> Result<RecoveryPoint> {
        self.wait_confirmed(&self.place_app(label)?)
    }

    fn place_app(&self, label: &str) -> Result<PlacedMark> {
        let applications = self.applications.as_ref().ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, "mark point of", &self.info.name)
                .expected("applications to quiesce, such as the policy's")
                .found("none")
        })?;
        self.place_quiesced(&**applications, label, self.policy.quiesce_limit)
    }
}
