//! The request of a planned failover: the new site asks the source, through the catalog, to hand
//! the volume over.
//!
//! `STATE/request` holds the identity of the failover. It is written before the catalog is, so
//! after a crash the same request is repeated or taken back, and the source is never asked twice.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::agent::state::{StateDirectory, host};
use crate::clock::{Clock, random_bytes};
use crate::error::{Error, ErrorKind, Result};
use crate::replica::Replica;
use crate::units::{Epoch, PointId, Sequence, Timestamp};
use crate::vault::{Step, StepKind, Vault};

const POLL: Duration = Duration::from_millis(200);

/// Lets a time pass.
pub(super) type Wait = Arc<dyn Fn(Duration) + Send + Sync>;

/// Returns a wait that sleeps.
pub(super) fn by_sleeping() -> Wait {
    Arc::new(std::thread::sleep)
}

/// Returns the identity of the failover that this directory asked for, or a new one, written before
/// it is used.
pub(super) fn requested_id(
    state: &StateDirectory,
    replica: &Replica,
    clock: &dyn Clock,
) -> Result<PointId> {
    let lifecycle = replica.catalog().lifecycle();
    let is_over = |id: PointId| lifecycle.step_of(id, StepKind::Cancel).is_some();
    if let Some(id) = asked_for(state)?.filter(|id| !is_over(*id)) {
        return Ok(id);
    }
    let id = PointId(random_bytes(clock));
    state.write_text(&request_path(state), format!("{id}\n"))?;
    Ok(id)
}

/// Returns the identity of the failover that this directory asked for and that has not begun.
pub(super) fn asked_for(state: &StateDirectory) -> Result<Option<PointId>> {
    let parse = |text: &str| Some(PointId::parse(text.trim()));
    Ok(state.read_text(&request_path(state), "a failover", parse)?.flatten())
}

/// Returns a step of a planned failover that has no recovery state yet.
pub(super) fn of_request(
    kind: StepKind,
    failover: PointId,
    note: String,
    clock: &dyn Clock,
) -> Step {
    Step {
        kind,
        failover,
        time: clock.now(),
        host: host(),
        at: Sequence::ZERO,
        point: None,
        at_time: Timestamp(0),
        epoch: Epoch(0),
        note,
    }
}

/// Asks the source to hand the volume over, and returns the sequence that it handed over at.
///
/// `Unavailable` if it did not within `limit`; the request is cancelled then.
pub(super) fn request(
    vault: &Vault,
    replica: &mut Replica,
    failover: PointId,
    limit: Duration,
    clock: &dyn Clock,
    wait: &Wait,
) -> Result<Sequence> {
    let name = replica.info().name.clone();
    let step = |kind, note| of_request(kind, failover, note, clock);
    replica.record_step(&step(StepKind::Request, String::new()))?;
    let begun = clock.elapsed();
    loop {
        replica.refresh()?;
        let lifecycle = replica.catalog().lifecycle();
        if let Some(handed) = lifecycle.step_of(failover, StepKind::HandOver) {
            let at = handed.at;
            *replica = vault.replica(&name)?;
            return Ok(at);
        }
        if clock.elapsed().saturating_sub(begun) >= limit {
            let reason = format!("the source did not hand over within {limit:?}");
            replica.record_step(&step(StepKind::Cancel, reason.clone()))?;
            return Err(Error::new(ErrorKind::Unavailable, "fail over as planned", &name)
                .message(format_args!(
                    "{reason}; if the source is gone, fail over unplanned, to the newest point in the vault"
                )));
        }
        wait(POLL.min(limit));
    }
}

/// Returns the path of `STATE/request`.
pub(super) fn request_path(state: &StateDirectory) -> PathBuf {
    state.path().join("request")
}
