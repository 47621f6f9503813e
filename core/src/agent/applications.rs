//! The task that takes application-consistent points by policy. It is separate from the timer,
//! because applications may take seconds to quiesce.
//!
//! Behaviour on failure: there is an event and no point, until the next one is due.

use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use super::next::Next;
use super::points::PlacedMark;
use super::shared::Shared;
use super::task::Task;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Mode;
use crate::point::Quiesce;
use crate::policy::Policy;

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
#[derive(Default)]
pub(super) struct AppPoints {
    last: Option<Duration>,
    /// A point that is not durable yet.
    point: Option<PlacedMark>,
}

impl Task for AppPoints {
    fn name(&self) -> &'static str {
        "applications"
    }

    fn step(&mut self, shared: &Shared, _waker: &Waker) -> Next {
        let interval = shared.policy.app_point_interval;
        let is_over = shared.requests.is_stopping() || shared.session.is_fenced();
        if interval.is_zero() || is_over || shared.tap.is_observed() {
            return Next::Ended;
        }
        if self.point.as_ref().is_some_and(|placed| shared.outcome(placed).is_some()) {
            self.point = None;
        }
        let now = shared.clock.elapsed();
        let due = self.last.is_none_or(|last| now.saturating_sub(last) >= interval);
        // Applications are quiesced only if there can be a point.
        if due && self.point.is_none() && shared.tap.mode() == Mode::Ordered {
            self.last = Some(now);
            // `place_app` has reported a failure.
            self.point = shared.place_app("").ok();
        }
        Next::Later(TICK)
    }
}
