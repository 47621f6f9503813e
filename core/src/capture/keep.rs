//! Keeping the dirty map beside the writers: marking what they wait for, and cleaning what a crash would not need any more.
//!
//! Invariants kept: the tap learns of a mark when it is durable, and a region that the tap forgot is cleared before it can be
//! marked again, because both happen under the lock of the map (promise 4). Writers are let go on even when the map is
//! lost (promise 6).

use std::time::Duration;

use super::dirty::DirtyMap;
use super::region::RegionRange;
use super::tap::Tap;
use crate::device::BlockDevice;
use crate::error::Result;
use crate::event::Cause;
use crate::sync::Mutex;
use crate::units::Sequence;

/// Marks the regions that writers wait for, and lets them go on; false when there were none.
///
/// When the map cannot be written, `give_up` must make sure that the next session reads the whole disk; then the writers
/// go on without a mark, and the error is returned.
pub(crate) fn set_wanted_dirty(
    tap: &Tap,
    map: &Mutex<DirtyMap>,
    give_up: impl FnOnce(),
) -> Result<bool> {
    let wanted = tap.wanted(Duration::ZERO);
    if wanted.is_empty() {
        return Ok(false);
    }
    let mut map = map.lock();
    let marked = map.set_dirty(&wanted).inspect_err(|_| give_up());
    // Under the map's lock, so that no cleaning comes between.
    tap.set_dirty(&wanted);
    drop(map);
    marked.map(|()| true)
}

/// Cleans the regions last changed at or before `through`, which is durable in the journal already. Flushes the disk first.
pub(crate) fn clean(
    tap: &Tap,
    map: &Mutex<DirtyMap>,
    device: &dyn BlockDevice,
    through: Sequence,
) -> Result<()> {
    // It comes after every write up to `through` completed, so it covers them.
    device.flush()?;
    let mut map = map.lock();
    let cleaned = tap.clean(through);
    map.clear(&cleaned)
}

/// Marks regions and begins an unordered interval in which they are read again.
pub(crate) fn require_resync(
    tap: &Tap,
    map: &Mutex<DirtyMap>,
    regions: RegionRange,
    cause: Cause,
) -> Result<()> {
    let mut map = map.lock();
    map.set_dirty(&[regions])?;
    // Under the map's lock: a cleaning in between would take away marks that the tap counts on from now on.
    tap.require_resync(&[regions], cause);
    Ok(())
}
