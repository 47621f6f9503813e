//! Keeps tap and dirty map in step: sets dirty what writers wait for, and cleans what a crash would
//! not need any more.
//!
//! Invariants kept: the tap learns of a dirty region when that is durable; a region that the tap
//! forgot is cleared before it can become dirty again, because both happen under the lock of the
//! map (promise 4). Writers go on even if the map is lost (promise 6).

use std::time::Duration;

use super::dirty::DirtyMap;
use super::region::RegionRange;
use super::tap::Tap;
use crate::device::BlockDevice;
use crate::error::Result;
use crate::event::Cause;
use crate::sync::Mutex;
use crate::units::Sequence;

/// Sets dirty the regions that writers wait for, and lets the writers go on. Returns false if there
/// were none.
///
/// If the map cannot be written, `give_up` must make sure that the next session reads the whole
/// disk. Then the writers go on without dirty regions, and the error is returned.
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
    let durable = map.set_dirty(&wanted).inspect_err(|_| give_up());
    // Under the map's lock, so that no cleaning comes between.
    tap.set_dirty(&wanted);
    drop(map);
    durable.map(|()| true)
}

/// Cleans the regions last changed at or before `through`, which is durable in the journal. Flushes
/// the disk first.
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

/// Sets regions dirty and begins an unordered interval in which they are read again.
pub(crate) fn require_resync(
    tap: &Tap,
    map: &Mutex<DirtyMap>,
    regions: RegionRange,
    cause: Cause,
) -> Result<()> {
    let mut map = map.lock();
    map.set_dirty(&[regions])?;
    // Under the map's lock: a cleaning in between would clear regions that the tap relies on from
    // now on.
    tap.require_resync(&[regions], cause, None);
    Ok(())
}
