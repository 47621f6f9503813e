//! Giving a failover up: the catalog says so first, then what the state directory has of it goes.

use std::path::Path;
use std::sync::Arc;

use super::start::{asked_for, of_request, request_path};
use crate::agent::provisional::Provisional;
use crate::agent::state::StateDirectory;
use crate::clock::Clock;
use crate::device::SystemFiles;
use crate::error::{Error, ErrorKind, Result};
use crate::replica::Replica;
use crate::vault::{Step, StepKind, Vault};

/// Gives up a failover that is not committed, or one that was asked of the source and not begun: the catalog says so first,
/// then what the state directory has is dropped. The source goes on as before. May be repeated; without anything under way nothing is done.
pub fn cancel(vault: &Vault, volume: &str, state: &Path, clock: &dyn Clock) -> Result<()> {
    let state = StateDirectory::open(Arc::new(SystemFiles), state)?;
    cancel_in(vault, volume, &state, clock)
}

/// Gives up the failover that is under way, when the site that it was to is lost with its state directory. Returns its newest
/// step; `None` when none is under way. What was written there is lost with it, and the source goes on as before. Should
/// that site come back after all, its commit is refused (`Fenced`), and [`cancel`] there tidies up.
pub fn abandon(vault: &Vault, volume: &str, clock: &dyn Clock) -> Result<Option<Step>> {
    let mut replica = vault.replica(volume)?;
    let lifecycle = replica.catalog().lifecycle();
    let Some(step) = lifecycle.current().filter(|_| lifecycle.stage().is_open()).cloned() else {
        return Ok(None);
    };
    replica.record_step(&of_request(StepKind::Cancel, step.failover, String::new(), clock))?;
    Ok(Some(step))
}

pub(super) fn cancel_in(
    vault: &Vault,
    volume: &str,
    state: &StateDirectory,
    clock: &dyn Clock,
) -> Result<()> {
    let Some(under_way) = Provisional::read(state)? else {
        return take_back_request(vault, volume, state, clock);
    };
    let mut replica = vault.replica(volume)?;
    if under_way.is_committed(replica.catalog()) {
        return Err(Error::new(ErrorKind::InvalidInput, "cancel failover of", volume)
            .message("it was committed; fail over again to go back")
            .found(format_args!("epoch {}", under_way.epoch)));
    }
    record_cancel(&mut replica, &under_way.step(StepKind::Cancel, clock))?;
    state.clear_spool()?;
    state.remove(&state.presence_log())?;
    state.remove(&state.base())?;
    state.remove(&state.dirty_map())?;
    state.forget_identity()?;
    // While the failover's own record is there, all of this is done again.
    state.sync_names()?;
    Provisional::forget(state)
}

/// The source takes writes again when it was asked for the volume by a planned failover that never began here.
fn take_back_request(
    vault: &Vault,
    volume: &str,
    state: &StateDirectory,
    clock: &dyn Clock,
) -> Result<()> {
    let Some(failover) = asked_for(state)? else { return Ok(()) };
    let mut replica = vault.replica(volume)?;
    let step = of_request(StepKind::Cancel, failover, String::new(), clock);
    record_cancel(&mut replica, &step)?;
    state.remove_durably(&request_path(state))
}

/// Says in the catalog that a failover is given up, also where it does not have its start: a put whose answer was lost may
/// arrive late, and would leave a failover under way that nobody goes on with. Where another one is under way, that one took the place.
fn record_cancel(replica: &mut Replica, step: &Step) -> Result<()> {
    match replica.record_step(step) {
        Err(error) if error.kind() == ErrorKind::Fenced => Ok(()),
        result => result,
    }
}
