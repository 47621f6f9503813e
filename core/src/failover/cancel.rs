//! Cancels a failover that is not committed: in the catalog first, then in the state directory.

use std::path::Path;
use std::sync::Arc;

use super::request::{self, asked_for};
use crate::agent::provisional::Provisional;
use crate::agent::state::StateDirectory;
use crate::clock::Clock;
use crate::device::SystemFiles;
use crate::error::{Error, ErrorKind, Result};
use crate::replica::Replica;
use crate::vault::{Step, StepKind, Vault};

/// Cancels a failover that is not committed, or takes back the request of a planned one.
///
/// The source goes on as before, and what was written here is dropped. May be repeated; does
/// nothing if no failover is under way. `InvalidInput` if it was committed.
pub fn cancel(vault: &Vault, volume: &str, state: &Path, clock: &dyn Clock) -> Result<()> {
    let state = StateDirectory::open(Arc::new(SystemFiles), state)?;
    cancel_in(vault, volume, &state, clock)
}

/// Cancels the failover under way when its site is lost with the state directory. Returns its
/// newest step; `None` if no failover is under way.
///
/// What was written at that site is lost with it, and the source goes on as before. If the site
/// comes back, its commit fails with `Fenced`, and [`cancel`] there removes what is left.
pub fn abandon(vault: &Vault, volume: &str, clock: &dyn Clock) -> Result<Option<Step>> {
    let mut replica = vault.replica(volume)?;
    let lifecycle = replica.catalog().lifecycle();
    let Some(step) = lifecycle.current().filter(|_| lifecycle.stage().is_open()).cloned() else {
        return Ok(None);
    };
    replica.catalog_mut().record_step(&Step::new(StepKind::Cancel, step.failover, clock))?;
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
    // STATE/failover goes last: while it is there, all of this is done again.
    state.sync_names()?;
    Provisional::forget(state)
}

/// Cancels the request of a planned failover that never began here, so that the source accepts
/// writes again.
fn take_back_request(
    vault: &Vault,
    volume: &str,
    state: &StateDirectory,
    clock: &dyn Clock,
) -> Result<()> {
    let Some(failover) = asked_for(state)? else { return Ok(()) };
    let mut replica = vault.replica(volume)?;
    record_cancel(&mut replica, &Step::new(StepKind::Cancel, failover, clock))?;
    state.remove_durably(&state.file(request::FILE))
}

/// Records in the catalog that a failover is cancelled, even if the catalog lacks its start.
///
/// A put whose answer was lost may arrive late. Without the record, it would leave a failover under
/// way that nobody continues. If another failover is under way, nothing needs to be recorded.
fn record_cancel(replica: &mut Replica, step: &Step) -> Result<()> {
    match replica.catalog_mut().record_step(step) {
        Err(error) if error.kind() == ErrorKind::Fenced => Ok(()),
        result => result,
    }
}
