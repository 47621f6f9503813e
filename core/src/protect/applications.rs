//! Application-consistent points by policy: a task of its own, because applications may take seconds to be quiesced.
//!
//! One that fails gives no point and an event with the reason; it is tried again when the next is due.

use std::sync::Arc;
use std::time::Duration;

use super::Shared;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Mode;
use crate::point::{Applications, Quiesce};
use crate::policy::Policy;
use crate::replica::RecoveryPoint;

const TICK: Duration = Duration::from_millis(50);

/// What is quiesced: what the embedder gave, or what the policy names.
pub(super) fn chosen(
    given: Option<Arc<dyn Quiesce>>,
    policy: &Policy,
) -> Result<Option<Arc<dyn Quiesce>>> {
    let chosen = match given {
        Some(given) => Some(given),
        None if policy.quiesce.is_empty() => None,
        None => Some(Arc::new(Applications::parse(&policy.quiesce)?) as Arc<dyn Quiesce>),
    };
    if chosen.is_none() && !policy.app_point_interval.is_zero() {
        return Err(Error::new(ErrorKind::InvalidInput, "use policy", "app_point_interval_ms")
            .expected("applications to quiesce")
            .found("none"));
    }
    Ok(chosen)
}

/// Runs until the protection stops.
pub(super) fn run(shared: &Shared) {
    let interval = shared.policy.app_point_interval;
    if interval.is_zero() {
        return;
    }
    let mut last = None;
    while !shared.has_ended() && !shared.is_stopping() && !shared.is_fenced() {
        std::thread::sleep(TICK);
        let now = shared.clock.elapsed();
        let due = last.is_none_or(|last| now.saturating_sub(last) >= interval);
        // Nobody is quiesced for a point that cannot be.
        if due && shared.tap.mode() == Mode::Ordered {
            last = Some(now);
            // A failure has been told as an event.
            let _ = shared.mark_app("");
        }
    }
}

impl Shared {
    pub(super) fn mark_app(&self, label: &str) -> Result<RecoveryPoint> {
        let applications = self.applications.as_ref().ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, "mark point", &self.info.name)
                .expected("applications to quiesce, such as the policy's")
                .found("none")
        })?;
        self.mark_quiesced(&**applications, label, self.policy.quiesce_limit)
    }
}
