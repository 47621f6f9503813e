//! Handing the volume over to a planned failover, so that nothing is lost: the last writes go first.
//!
//! Who wants the volume records a request in its catalog, and the agent sees it the next time it looks. It refuses further
//! writes, waits for those in flight, flushes, marks a point, sees everything into the vault, and records that it handed over.
//! When the failover is cancelled, writes are taken again; when it is committed, the agent is fenced like any old source.

use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use super::Shared;
use super::provisional::host;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{EventKind, Mode};
use crate::journal::PointKind;
use crate::replica::{Stage, Step, StepKind};
use crate::units::PointId;

/// Label of the point that a planned failover begins with.
const LABEL: &str = "planned failover";
/// What is in flight and in the spool must be through in this time; else writes are taken again until the next try.
const LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(5);

/// Does what the catalog, as it was read last, asks for.
pub(super) fn follow(shared: &Shared) {
    if shared.is_provisional() || shared.is_fenced() || shared.is_stopping() {
        return;
    }
    let Some((stage, failover)) = shared.shipper.stage() else { return };
    let handed_over = *handed_over(shared);
    match stage {
        Stage::Requested if handed_over != failover => {
            if let Err(error) = hand_over(shared) {
                take_back(shared);
                shared.event(EventKind::TaskFailed, format!("handing the volume over: {error}"));
            }
        }
        // An agent that was restarted after it handed over.
        Stage::HandedOver | Stage::FailedOver if handed_over.is_none() && is_ours(shared) => {
            shared.tap.refuse(true);
            *self::handed_over(shared) = failover;
        }
        Stage::Protected | Stage::Committed | Stage::Reprotected if handed_over.is_some() => {
            take_back(shared);
            let message = "the planned failover was cancelled; writes are taken again";
            shared.event(EventKind::TakenBack, message.to_owned());
        }
        _ => {}
    }
}

/// The failover under way was handed over by its source: an unplanned one does not stop who still runs.
fn is_ours(shared: &Shared) -> bool {
    let catalog = shared.shipper.catalog();
    let lifecycle = catalog.lifecycle();
    lifecycle.current().is_some_and(|current| {
        let handed =
            |step: &&Step| step.kind == StepKind::HandOver && step.failover == current.failover;
        lifecycle.steps().iter().rev().any(|step| handed(&step))
    })
}

fn hand_over(shared: &Shared) -> Result<()> {
    let catalog = shared.shipper.catalog();
    let Some(request) = catalog.lifecycle().current().cloned() else { return Ok(()) };
    wait(shared, "in order", || shared.tap.mode() == Mode::Ordered)?;
    shared.tap.refuse(true);
    *handed_over(shared) = Some(request.failover);
    wait(shared, "without writes in flight", || shared.tap.is_idle())?;
    shared.volume.device().flush()?;
    let point = shared.mark(PointKind::Crash, LABEL)?;
    wait(shared, "in the vault", || {
        let done = shared.replicated.load(Ordering::Acquire) >= point.sequence.0;
        shared.seal_now.store(!done, Ordering::Release);
        shared.name_now.store(!done, Ordering::Release);
        done
    })?;
    let step = Step {
        kind: StepKind::HandOver,
        failover: request.failover,
        time: shared.clock.now(),
        host: host(),
        at: point.sequence,
        point: Some(point.id),
        at_time: point.time,
        epoch: request.epoch,
        note: String::new(),
    };
    let mut catalog = shared.shipper.catalog();
    catalog.record_step(&step)?;
    shared.event(
        EventKind::HandedOver,
        format!("handed over to {} at sequence {}", request.host, point.sequence),
    );
    Ok(())
}

fn take_back(shared: &Shared) {
    shared.tap.refuse(false);
    *handed_over(shared) = None;
}

fn handed_over(shared: &Shared) -> MutexGuard<'_, Option<PointId>> {
    shared.handed_over.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wait(shared: &Shared, what: &str, done: impl Fn() -> bool) -> Result<()> {
    let start = shared.clock.elapsed();
    while !done() {
        if shared.is_fenced() || shared.is_stopping() {
            return Err(shared.fenced_error("hand over"));
        }
        if shared.clock.elapsed().saturating_sub(start) > LIMIT {
            return Err(Error::new(ErrorKind::Unavailable, "hand over", &shared.info.name)
                .expected(format_args!("the volume {what} within {LIMIT:?}")));
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}
