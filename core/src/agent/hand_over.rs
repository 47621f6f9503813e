//! Handing the volume over to a planned failover, so that nothing is lost: the last writes go first.
//!
//! Who wants the volume records a request in its catalog, and the agent sees it the next time it looks. It refuses further
//! writes, waits for those in flight, flushes, marks a point, sees everything into the vault, and records that it handed over.
//! When the failover is cancelled, writes are taken again; when it is committed, the agent is fenced like any old source.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::state::host;
use super::{PlacedMark, Shared};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{EventKind, Mode};
use crate::journal::PointKind;
use crate::replica::RecoveryPoint;
use crate::sync::lock::MutexGuard;
use crate::units::PointId;
use crate::vault::{Catalog, Stage, Step, StepKind};

/// Label of the point that a planned failover begins with.
const LABEL: &str = "planned failover";
/// What is in flight and in the spool must be through in this time; else writes are taken again until the next try.
const LIMIT: Duration = Duration::from_secs(60);

/// Handing over, as far as it is.
#[derive(Default)]
pub(super) struct HandOver {
    under_way: Option<UnderWay>,
}

struct UnderWay {
    request: Step,
    stage: Doing,
    /// When the stage began.
    since: Duration,
}

/// What is waited for.
enum Doing {
    Order,
    WritesInFlight,
    Mark(PlacedMark),
    Vault(RecoveryPoint),
}

impl HandOver {
    /// Does what the catalog, as it was read last, asks for.
    pub(super) fn follow(&mut self, shared: &Shared) {
        if let Some(under_way) = &mut self.under_way {
            let result = under_way.go_on(shared);
            if let Err(error) = &result {
                take_back(shared);
                shared.event(EventKind::TaskFailed, format!("handing the volume over: {error}"));
            }
            if !matches!(result, Ok(false)) {
                self.under_way = None;
            }
            return;
        }
        if shared.is_provisional() || shared.is_fenced() || shared.is_stopping() {
            return;
        }
        let handed_over = *handed_over(shared);
        match shared.shipper.peek(|catalog| asked(catalog, handed_over)) {
            Some(Asked::HandOver { request, has_copy }) => {
                // A writer that is faster than the journal would never let it come into order. Where there is no whole copy yet,
                // it goes on until there is one.
                if has_copy {
                    refuse(shared, request.failover);
                }
                let since = shared.clock.elapsed();
                self.under_way = Some(UnderWay { request, stage: Doing::Order, since });
            }
            Some(Asked::Refuse(failover)) => refuse(shared, failover),
            Some(Asked::TakeBack) => {
                take_back(shared);
                let message = "the planned failover was cancelled; writes are taken again";
                shared.event(EventKind::TakenBack, message.to_owned());
            }
            Some(Asked::Nothing) | None => {}
        }
    }
}

/// An agent that starts after it handed over takes no write: it would be later than the state that was handed over.
pub(super) fn resume(shared: &Shared) {
    if shared.is_provisional() {
        return;
    }
    if let Some(Asked::Refuse(failover)) = shared.shipper.peek(|catalog| asked(catalog, None)) {
        refuse(shared, failover);
    }
}

impl UnderWay {
    /// Goes as far as it can; true when the volume is handed over.
    fn go_on(&mut self, shared: &Shared) -> Result<bool> {
        if shared.is_fenced() || shared.is_stopping() {
            return Err(shared.fenced_error("hand over"));
        }
        loop {
            let next = match &self.stage {
                Doing::Order if shared.tap.mode() == Mode::Ordered => {
                    refuse(shared, self.request.failover);
                    Doing::WritesInFlight
                }
                Doing::WritesInFlight if shared.tap.is_idle() => {
                    shared.volume.device().flush()?;
                    let place = |mark| shared.tap.mark(mark);
                    Doing::Mark(shared.place_mark(PointKind::Crash, LABEL, place)?)
                }
                Doing::Mark(placed) => match shared.confirmed(placed) {
                    Some(point) => Doing::Vault(point?),
                    None => return self.check_time(shared),
                },
                Doing::Vault(point) => {
                    let done = shared.replicated.load(Ordering::Acquire) >= point.sequence.0;
                    shared.seal_now.store(!done, Ordering::Release);
                    shared.name_now.store(!done, Ordering::Release);
                    if done {
                        return record(shared, &self.request, point).map(|()| true);
                    }
                    return self.check_time(shared);
                }
                Doing::Order | Doing::WritesInFlight => return self.check_time(shared),
            };
            self.stage = next;
            self.since = shared.clock.elapsed();
        }
    }

    /// False while there is time, else `Unavailable`.
    fn check_time(&self, shared: &Shared) -> Result<bool> {
        if shared.clock.elapsed().saturating_sub(self.since) <= LIMIT {
            return Ok(false);
        }
        let what = match self.stage {
            Doing::Order => "in order",
            Doing::WritesInFlight => "without writes in flight",
            Doing::Mark(_) => "marked",
            Doing::Vault(_) => "in the vault",
        };
        Err(Error::new(ErrorKind::Unavailable, "hand over", &shared.info.name)
            .expected(format_args!("the volume {what} within {LIMIT:?}")))
    }
}

/// What the catalog asks of the source.
enum Asked {
    Nothing,
    /// To hand over; whether there is a whole copy already.
    HandOver {
        request: Step,
        has_copy: bool,
    },
    /// To take no writes: an agent that was restarted after it handed over.
    Refuse(PointId),
    /// To take writes again.
    TakeBack,
}

/// What the catalog asks of a source that handed over in the failover `handed_over`, or in none.
fn asked(catalog: &Catalog, handed_over: Option<PointId>) -> Asked {
    let lifecycle = catalog.lifecycle();
    let Some(current) = lifecycle.current() else { return Asked::Nothing };
    // An unplanned failover does not stop who still runs.
    let is_planned = || lifecycle.step_of(current.failover, StepKind::HandOver).is_some();
    match lifecycle.stage() {
        Stage::Requested if handed_over != Some(current.failover) => Asked::HandOver {
            request: current.clone(),
            has_copy: catalog.newest_ordered().is_some(),
        },
        Stage::HandedOver | Stage::FailedOver if handed_over.is_none() && is_planned() => {
            Asked::Refuse(current.failover)
        }
        Stage::Protected | Stage::Committed | Stage::Reprotected if handed_over.is_some() => {
            Asked::TakeBack
        }
        _ => Asked::Nothing,
    }
}

/// Says in the catalog that the volume was handed over at `point`.
fn record(shared: &Shared, request: &Step, point: &RecoveryPoint) -> Result<()> {
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
    let message = format!("handed over to {} at sequence {}", request.host, point.sequence);
    shared.event(EventKind::HandedOver, message);
    Ok(())
}

fn refuse(shared: &Shared, failover: PointId) {
    shared.tap.refuse(true);
    *handed_over(shared) = Some(failover);
}

fn take_back(shared: &Shared) {
    shared.tap.refuse(false);
    *handed_over(shared) = None;
}

fn handed_over(shared: &Shared) -> MutexGuard<'_, Option<PointId>> {
    shared.handed_over.lock()
}
