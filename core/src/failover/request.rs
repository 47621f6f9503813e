//! The request of a planned failover: the new site asks the source, through the catalog, to hand
//! the volume over.
//!
//! `STATE/request` holds the identity of the failover. It is written before the catalog is, so
//! after a crash the same request is repeated or taken back, and the source is never asked twice.

use std::sync::Arc;
use std::time::Duration;

use crate::agent::state::StateDirectory;
use crate::clock::{Clock, random_bytes};
use crate::error::{Error, ErrorKind, Result};
use crate::replica::Replica;
use crate::units::{PointId, Sequence};
use crate::vault::{Step, StepKind, Vault};

/// File of the state directory with the identity.
pub(super) const FILE: &str = "request";
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
    state.write_text(&state.file(FILE), format!("{id}\n"))?;
    Ok(id)
}

/// Returns the identity of the failover that this directory asked for and that has not begun.
pub(super) fn asked_for(state: &StateDirectory) -> Result<Option<PointId>> {
    let parse = |text: &str| Some(PointId::parse(text.trim()));
    Ok(state.read_text(&state.file(FILE), "a failover", parse)?.flatten())
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
    replica.catalog_mut().record_step(&Step::new(StepKind::Request, failover, clock))?;
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
            let cancel = Step::new(StepKind::Cancel, failover, clock);
            let cancel = Step { note: reason.clone(), ..cancel };
            replica.catalog_mut().record_step(&cancel)?;
            return Err(Error::new(ErrorKind::Unavailable, "fail over as planned", &name)
                .message(format_args!(
                    "{reason}; if the source is gone, fail over unplanned, to the newest point in the vault"
                )));
        }
        wait(POLL.min(limit));
    }
}
