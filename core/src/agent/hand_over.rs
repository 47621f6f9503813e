//! Hands the volume over to a planned failover, so that no write is lost.
//!
//! The new site records a request in the catalog, and the agent sees it the next time it looks. The
//! agent refuses further writes, waits for those in flight, flushes, takes a point, waits until
//! everything is in the vault, and records the hand-over.
//!
//! If the failover is cancelled, the agent accepts writes again. If it is committed, the agent is
//! fenced like any old source.
//!
//! Behaviour on failure: the agent accepts writes again, until the next try.

use std::time::Duration;

use super::failures::HAND_OVER;
use super::points::PlacedMark;
use super::shared::Shared;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{EventKind, Mode};
use crate::journal::PointKind;
use crate::replica::RecoveryPoint;
use crate::units::PointId;
use crate::vault::{Catalog, Stage, Step, StepKind};

/// Label of the point that a planned failover begins with.
const LABEL: &str = "planned failover";
/// Longest time of one stage. After it the agent accepts writes again, until the next try.
const LIMIT: Duration = Duration::from_secs(60);

/// Follows what the catalog asks of the source.
#[derive(Default)]
pub(super) struct HandOver {
    under_way: Option<UnderWay>,
}

struct UnderWay {
    request: Step,
    stage: HandOverStage,
    /// When the stage began.
    since: Duration,
}

/// What the hand-over waits for.
enum HandOverStage {
    /// The volume to be `Ordered`.
    Order,
    /// The writes that began before they were refused.
    WritesInFlight,
    /// Its point to be durable.
    Mark(PlacedMark),
    /// Its point to be in the vault.
    Vault(RecoveryPoint),
}

impl HandOver {
    /// Does what the catalog asks for, as it was read last.
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
        if shared.session.is_provisional()
            || shared.session.is_fenced()
            || shared.requests.is_stopping()
        {
            return;
        }
        let handed_over = shared.session.handed_over();
        match shared.shipping.shipper.peek(|catalog| asked(catalog, handed_over)) {
            Some(Asked::HandOver { .. }) if shared.tap.is_observed() => {
                let error = Error::new(ErrorKind::Unsupported, "hand over", &shared.info.name)
                    .message("its disk is attached, so its writers cannot be stopped here: shut the machine down, and fail over unplanned");
                shared.failed(&HAND_OVER, &error);
            }
            Some(Asked::HandOver { request, has_copy }) => {
                // A writer that is faster than the journal would keep the volume unordered forever,
                // so it is stopped first. Without a whole copy in the vault it goes on until there
                // is one.
                if has_copy {
                    refuse(shared, request.failover);
                }
                let since = shared.clock.elapsed();
                self.under_way = Some(UnderWay { request, stage: HandOverStage::Order, since });
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

/// Refuses writes if the volume was handed over before this start: they would be later than the
/// recovery state that was handed over.
pub(super) fn resume(shared: &Shared) {
    if shared.session.is_provisional() {
        return;
    }
    if let Some(failover) = shared.anchor.now().handed_over {
        refuse(shared, failover);
    }
    if let Some(Asked::Refuse(failover)) =
        shared.shipping.shipper.peek(|catalog| asked(catalog, None))
    {
        refuse(shared, failover);
    }
}

/// Does as the catalog of a vault asks that was away: the anchor may know of a hand-over that was
/// not recorded there, or that was cancelled since.
pub(super) fn join(shared: &Shared) {
    let handed_over = shared.session.handed_over();
    match shared.shipping.shipper.peek(|catalog| asked(catalog, None)) {
        Some(Asked::Refuse(failover)) => refuse(shared, failover),
        _ if handed_over.is_some() => take_back(shared),
        _ => {}
    }
}

impl UnderWay {
    /// Goes on as far as it can. Returns whether the volume is handed over.
    fn go_on(&mut self, shared: &Shared) -> Result<bool> {
        if shared.session.is_fenced() || shared.requests.is_stopping() {
            return Err(shared.fenced_error("hand over"));
        }
        loop {
            let next = match &self.stage {
                HandOverStage::Order if shared.tap.mode() == Mode::Ordered => {
                    refuse(shared, self.request.failover);
                    HandOverStage::WritesInFlight
                }
                HandOverStage::WritesInFlight if shared.tap.is_idle() => {
                    shared.volume.device().flush()?;
                    let place = |mark| shared.tap.mark(mark);
                    HandOverStage::Mark(shared.place_mark(PointKind::Crash, LABEL, place)?)
                }
                HandOverStage::Mark(placed) => match shared.outcome(placed) {
                    Some(point) => HandOverStage::Vault(point?),
                    None => return self.check_time(shared),
                },
                HandOverStage::Vault(point) => {
                    let done = shared.shipping.replicated() >= point.sequence;
                    shared.requests.hurry_until(done);
                    if done {
                        return record(shared, &self.request, point).map(|()| true);
                    }
                    return self.check_time(shared);
                }
                HandOverStage::Order | HandOverStage::WritesInFlight => {
                    return self.check_time(shared);
                }
            };
            self.stage = next;
            self.since = shared.clock.elapsed();
        }
    }

    /// Returns false while there is time, and fails with `Unavailable` after it.
    fn check_time(&self, shared: &Shared) -> Result<bool> {
        if shared.clock.elapsed().saturating_sub(self.since) <= LIMIT {
            return Ok(false);
        }
        let what = match self.stage {
            HandOverStage::Order => "in order",
            HandOverStage::WritesInFlight => "without writes in flight",
            HandOverStage::Mark(_) => "with a durable point",
            HandOverStage::Vault(_) => "in the vault",
        };
        Err(Error::new(ErrorKind::Unavailable, "hand over", &shared.info.name)
            .expected(format_args!("the volume {what} within {LIMIT:?}")))
    }
}

/// What the catalog asks of the source.
enum Asked {
    Nothing,
    /// To hand over.
    HandOver {
        request: Step,
        /// The vault has a whole copy of the volume.
        has_copy: bool,
    },
    /// To refuse writes: the agent restarted after it handed over.
    Refuse(PointId),
    /// To accept writes again.
    TakeBack,
}

/// Returns what the catalog asks of a source that handed over to the failover `handed_over`, or to
/// none.
fn asked(catalog: &Catalog, handed_over: Option<PointId>) -> Asked {
    let lifecycle = catalog.lifecycle();
    let Some(current) = lifecycle.current() else { return Asked::Nothing };
    // An unplanned failover does not stop a source that still runs.
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

/// Records in the catalog that the volume was handed over at `point`.
fn record(shared: &Shared, request: &Step, point: &RecoveryPoint) -> Result<()> {
    let step = Step {
        at: point.sequence,
        point: Some(point.id),
        at_time: point.time,
        epoch: request.epoch,
        ..Step::new(StepKind::HandOver, request.failover, &*shared.clock)
    };
    let mut catalog = shared.shipping.shipper.catalog();
    catalog.record_step(&step)?;
    let message = format!("handed over to {} at sequence {}", request.host, point.sequence);
    shared.event(EventKind::HandedOver, message);
    Ok(())
}

fn refuse(shared: &Shared, failover: PointId) {
    shared.tap.refuse(true);
    shared.session.hand_over(failover);
    remember(shared, Some(failover));
}

fn take_back(shared: &Shared) {
    shared.tap.refuse(false);
    shared.session.take_back();
    remember(shared, None);
}

/// Records the hand-over in the anchor, for a start while the vault is away.
fn remember(shared: &Shared, failover: Option<PointId>) {
    if let Err(error) = shared.anchor.hand_over(failover) {
        shared.event(EventKind::TaskFailed, format!("recording the hand-over: {error}"));
    }
}
