//! How the disk of an old source differs from the volume, found from journals and dirty map without reading the disk.
//!
//! The source wrote the volume's history up to the state at which its epoch was ended. Since then the disk may differ in what
//! the branch of that epoch changed, in what the spool still had, and in the regions that the dirty map marks: those written
//! and not known to be both durable on the disk and in the journal. Where one of these cannot be told, the disk is taken to
//! differ everywhere. What the disk alone has is kept on the branch first ([`keep`]).

use super::keep::{self, Old};
use crate::agent::provisional::Provisional;
use crate::agent::recover::is_as_left;
use crate::agent::state::StateDirectory;
use crate::agent::surrender::hand_in;
use crate::capture::{DirtyMap, MapState};
use crate::device::BlockDevice;
use crate::error::{Error, ErrorKind, Result};
use crate::extent::{Extent, ExtentSet};
use crate::replica::{Replica, present_in};
use crate::units::{Epoch, Sequence};
use crate::vault::{Branch, SourceIdentity, Vault};

/// A disk that holds a state of the volume but for some extents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Divergence {
    /// Epoch of the state.
    pub epoch: Epoch,
    /// The state.
    pub at: Sequence,
    /// Where the disk holds something else.
    pub differs: ExtentSet,
    /// Why it is taken to differ everywhere; `None` where it is not.
    pub everywhere: Option<String>,
}

/// How the disk of an old source differs. What its spool has, and what the disk alone has, is handed in to the branch first.
///
/// `InvalidInput` when the directory is no agent's, or its agent still has the volume.
pub(super) fn of_old_source(vault: &Vault, volume: &str, old: &Old<'_>) -> Result<Divergence> {
    let Old { disk, state, clock } = *old;
    let mut replica = vault.replica(volume)?;
    let source = check_old_source(state, &replica)?;
    let whole = Extent { offset: 0, length: replica.info().device_bytes };
    let Some(branch) = replica.catalog().branch_of(&source).cloned() else {
        let (epoch, at) = (replica.catalog().epoch(), Sequence::ZERO);
        let why = "another agent took the volume over without a failover".to_owned();
        return Ok(everywhere(epoch, at, whole, why));
    };
    let handed_in = hand_in(state, &replica, &source, clock)?;
    let (epoch, at) = (branch.epoch, branch.at);
    let marked = marked(disk, state)?;
    let present = present(state)?;
    let why = if handed_in.broken {
        Some(handed_in.notes.join("; "))
    } else if present.is_some() {
        Some("the volume had failed over to it, and it was not whole yet".to_owned())
    } else if marked.is_none() {
        Some("its dirty map is missing, damaged, or not of the disk as it is now".to_owned())
    } else {
        None
    };
    let unsure = match (marked, &why) {
        (Some(marked), None) => marked,
        _ => std::iter::once(whole).collect(),
    };
    replica.refresh()?;
    let branch = replica.catalog().branch(epoch)?.clone();
    // What it never held is nobody's write.
    let unsure = present.map_or(unsure.clone(), |present| {
        present.iter().flat_map(|held| unsure.within(held).collect::<Vec<_>>()).collect()
    });
    if keep::seal_difference(old, &replica, &branch, &unsure)? {
        hand_in(state, &replica, &source, clock)?;
        replica.refresh()?;
    }
    state.clear_spool()?;
    if let Some(why) = why {
        return Ok(everywhere(epoch, at, whole, why));
    }
    let mut differs = on_branch(&replica, replica.catalog().branch(epoch)?, at)?;
    unsure.iter().for_each(|extent| differs.insert(extent));
    Ok(Divergence { epoch, at, differs, everywhere: None })
}

/// The source whose directory this is; it lost the volume.
fn check_old_source(state: &StateDirectory, replica: &Replica) -> Result<SourceIdentity> {
    let volume = &replica.info().name;
    let Some(known) = state.identity()? else {
        return Err(Error::new(ErrorKind::InvalidInput, "follow with", state.path().display())
            .expected("the state directory of the agent that protected the disk")
            .found("none; restore the volume to a new disk instead"));
    };
    known.check_volume(replica.info(), "follow")?;
    let refused = |why: &str| Error::new(ErrorKind::InvalidInput, "follow", volume).message(why);
    if replica.catalog().source().is_some_and(|owner| owner.id == known.source.id) {
        return Err(refused("the agent of this directory has the volume: nothing else writes it"));
    }
    if Provisional::read(state)?.is_some() {
        return Err(refused(
            "a failover to this directory is under way: commit or cancel it first",
        ));
    }
    Ok(known.source)
}

/// The same disk against the history as it is now: epochs may have been ended since, before the state that the disk has.
pub(super) fn rebased(replica: &Replica, mut known: Divergence) -> Result<Divergence> {
    while let Ok(branch) = replica.catalog().branch(known.epoch).cloned() {
        if branch.at < known.at {
            let gone = replica.branch(branch.epoch)?.touched(branch.at, known.at)?;
            gone.iter().for_each(|extent| known.differs.insert(extent));
            known.at = branch.at;
        }
        known.epoch = Epoch(branch.epoch.0 + 1);
    }
    Ok(known)
}

fn everywhere(epoch: Epoch, at: Sequence, whole: Extent, why: String) -> Divergence {
    let differs = std::iter::once(whole).collect();
    Divergence { epoch, at, differs, everywhere: Some(why) }
}

/// What the records of a branch after `at` changed.
fn on_branch(replica: &Replica, branch: &Branch, at: Sequence) -> Result<ExtentSet> {
    replica.branch(branch.epoch)?.touched(at, branch.last_sequence())
}

/// What a disk that is not whole holds; `None` for a whole one.
fn present(state: &StateDirectory) -> Result<Option<ExtentSet>> {
    let (files, log) = (&**state.files(), state.presence_log());
    files.exists(&log).then(|| present_in(files, &log)).transpose()
}

/// The extents that the dirty map marks; `None` when it does not tell.
fn marked(disk: &dyn BlockDevice, state: &StateDirectory) -> Result<Option<ExtentSet>> {
    let path = state.dirty_map();
    if !state.files().exists(&path) {
        return Ok(None);
    }
    let (map, found) = match DirtyMap::open_in(&**state.files(), &path) {
        Ok(opened) => opened,
        Err(error) if error.kind() == ErrorKind::Corrupt => return Ok(None),
        Err(error) => return Err(error),
    };
    if let MapState::Clean(stop) = found
        && !is_as_left(disk, &stop)?
    {
        return Ok(None);
    }
    let (region, size) = (map.params().region_bytes, map.params().device_bytes);
    let extent = |first: u64, last: u64| {
        let end = (last + 1).saturating_mul(region).min(size);
        Extent::from_bounds(first * region, end)
    };
    Ok(Some(map.marked().iter().map(|range| extent(range.first, range.last)).collect()))
}
