//! Giving a failover up: the catalog says so first, then what the state directory has of it goes.

use std::path::Path;
use std::sync::Arc;

use crate::clock::Clock;
use crate::device::SystemFiles;
use crate::error::{Error, ErrorKind, Result};
use crate::protect::provisional::Provisional;
use crate::protect::state::StateDirectory;
use crate::replica::{StepKind, Vault};

/// Gives up a failover that is not committed: the catalog says so first, then what the state directory has is dropped. The
/// source goes on as before. May be repeated; without anything under way nothing is done.
pub fn cancel(vault: &Vault, volume: &str, state: &Path, clock: &dyn Clock) -> Result<()> {
    let state = StateDirectory::open(Arc::new(SystemFiles), state)?;
    cancel_in(vault, volume, &state, clock)
}

pub(super) fn cancel_in(
    vault: &Vault,
    volume: &str,
    state: &StateDirectory,
    clock: &dyn Clock,
) -> Result<()> {
    let Some(under_way) = Provisional::read(state)? else { return Ok(()) };
    let mut replica = vault.replica(volume)?;
    if under_way.is_committed(replica.catalog()) {
        return Err(Error::new(ErrorKind::InvalidInput, "cancel failover of", volume)
            .message("it was committed; fail over again to go back")
            .found(format_args!("epoch {}", under_way.epoch)));
    }
    if under_way.check_current(replica.catalog()).is_ok() {
        replica.record_step(&under_way.step(StepKind::Cancel, clock))?;
    }
    state.clear_spool()?;
    state.remove(&state.presence_log())?;
    state.remove(&state.base())?;
    state.remove(&state.dirty_map())?;
    state.forget_identity()?;
    // While the failover's own record is there, all of this is done again.
    state.sync_names()?;
    Provisional::forget(state)
}
