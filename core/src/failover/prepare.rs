//! Makes a state directory that of a failover, before the disk is served or taken home.

use super::chosen::ChosenState;
use super::request;
use crate::agent::provisional::{Provisional, cut};
use crate::agent::state::{Identity, StateDirectory, new_source};
use crate::agent::witness;
use crate::capture::{DirtyMap, DirtyMapParams};
use crate::clock::Clock;
use crate::error::Result;
use crate::replica::Replica;
use crate::units::{Epoch, PointId};

/// Creates an empty dirty map, the copy of the segment that the recovery state lies inside of, and
/// `STATE/failover`.
///
/// `STATE/failover` comes last: until it is there, the next start begins anew.
pub(super) fn prepare(
    state: &StateDirectory,
    replica: &Replica,
    failover: PointId,
    chosen: ChosenState,
    home: bool,
    region_bytes: u64,
    clock: &dyn Clock,
) -> Result<Provisional> {
    let info = replica.info();
    let params = DirtyMapParams { volume: info.id, device_bytes: info.device_bytes, region_bytes };
    if !home {
        // The disk gets the volume, whatever disk was here before.
        witness::forget(state)?;
    }
    state.remove(&state.dirty_map())?;
    DirtyMap::create(&**state.files(), &state.dirty_map(), params, false)?;
    let cut = cut(state, replica, chosen.sequence, clock)?;
    let under_way = Provisional {
        failover,
        epoch: Epoch(replica.catalog().epoch().0.saturating_add(1)),
        at: chosen.sequence,
        at_time: chosen.time,
        point: chosen.point,
        home,
        cut,
        source: new_source(clock),
    };
    under_way.write(state)?;
    state.remove(&state.file(request::FILE))?;
    Ok(under_way)
}

/// Makes the state directory that of the new source.
pub(super) fn take_identity(
    state: &StateDirectory,
    replica: &Replica,
    under_way: &Provisional,
) -> Result<()> {
    state.set_identity(&Identity {
        volume_name: replica.info().name.clone(),
        volume: replica.info().id,
        source: under_way.source.clone(),
    })
}
