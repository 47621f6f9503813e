//! Finds where the disk of an old source differs from the volume, from journals and dirty map.
//!
//! Up to the recovery state at which its epoch ended, the source's history is the volume's. Later
//! writes are on the branch of that epoch, in the spool, or in dirty regions. If one of the three
//! is missing or damaged, the whole disk counts as different. It does so too if the source had
//! published more than this vault has, which the anchor of its state directory shows.
//!
//! What only the disk has goes to the branch first ([`keep`]), before the follower overwrites it.

use super::keep::{self, Old};
use crate::agent::anchor::{Anchor, End, contains};
use crate::agent::provisional::Provisional;
use crate::agent::state::StateDirectory;
use crate::agent::surrender::hand_in;
use crate::agent::witness::{Moment, Seen};
use crate::capture::{DirtyMap, LastSession};
use crate::device::BlockDevice;
use crate::error::{Error, ErrorKind, Result};
use crate::extent::{Extent, ExtentSet};
use crate::replica::{Replica, present_in};
use crate::units::{Epoch, Sequence};
use crate::vault::{CatalogContent, SourceIdentity, StepKind, Vault};

/// A recovery state of the volume, and the extents in which a disk differs from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Divergence {
    /// Epoch of the recovery state.
    pub epoch: Epoch,
    /// Sequence of the recovery state.
    pub at: Sequence,
    /// End of the segment that it lies in. A vault without that has another history. `None` if an
    /// older version wrote the record.
    pub history: Option<End>,
    /// Extents in which the disk may differ.
    pub differs: ExtentSet,
    /// Why the whole disk counts as different, if it does.
    pub everywhere: Option<String>,
    /// End of the branch that has what otherwise only the disk has, until the disk is written. `None`
    /// if the disk never was a whole copy: it cannot be handed in again.
    pub kept: Option<End>,
}

impl Divergence {
    /// Returns the differences `differs` from the state at `at` of `epoch`, in this vault.
    pub(super) fn new(
        replica: &Replica,
        (epoch, at): (Epoch, Sequence),
        differs: ExtentSet,
        everywhere: Option<String>,
    ) -> Self {
        let history = look_at(replica, epoch, |content| End::around(content, at));
        Self { epoch, at, history, differs, everywhere, kept: None }
    }

    /// Returns whether this vault's branch lacks what otherwise only the disk has. It was handed in to
    /// another copy of the vault, or to this one before it went back.
    pub(super) fn is_lacking_in(&self, replica: &Replica) -> bool {
        let is_lacking = |end| {
            let branch = replica.branch(self.epoch);
            branch.is_ok_and(|branch| !contains(branch.catalog(), end))
        };
        self.kept.is_some_and(is_lacking)
    }
}

/// Looks at the history of an epoch, up to the end of its branch; `None` if that is not there.
fn look_at<T>(
    replica: &Replica,
    epoch: Epoch,
    look: impl FnOnce(&CatalogContent) -> T,
) -> Option<T> {
    let catalog = replica.catalog();
    if epoch == catalog.epoch() {
        return Some(look(catalog));
    }
    replica.branch(epoch).ok().map(|branch| look(branch.catalog()))
}

/// Hands in to the branch what only the spool or the disk has, and returns where the disk differs.
/// `before` is what an earlier call returned, if this vault lacks what that handed in.
///
/// `InvalidInput` if no agent used the directory, or its agent still owns the volume; `AlreadyExists`
/// if a failback took it home.
pub(super) fn of_old_source(
    vault: &Vault,
    volume: &str,
    old: &Old<'_>,
    before: Option<&Divergence>,
) -> Result<Divergence> {
    let Old { disk, state, clock } = *old;
    let mut replica = vault.replica(volume)?;
    let source = check_old_source(state, &replica)?;
    // Before anything is changed: another disk is refused.
    drop(dirty(disk, state)?);
    let whole = Extent { offset: 0, length: replica.info().device_bytes };
    let Some(branch) = replica.catalog().branch_of(&source).cloned() else {
        let (epoch, at) = (replica.catalog().epoch(), Sequence::ZERO);
        let why = "another agent took the volume over without a failover".to_owned();
        return Ok(everywhere(&replica, (epoch, at), whole, why));
    };
    let handed_in = hand_in(state, &replica, &source, clock)?;
    let (epoch, at, taken) = (branch.epoch, branch.at, branch);
    replica.refresh()?;
    let branch = replica.catalog().branch(epoch)?.clone();
    let anchor = Anchor::read(state)?.filter(|anchor| anchor.source == source.id);
    let lacking = anchor.as_ref().and_then(|anchor| {
        anchor.lacking_in(&branch).or_else(|| anchor.lacks(&taken, &handed_in.spooled))
    });
    let dirty = dirty(disk, state)?;
    let present = present(state)?;
    let why = if handed_in.broken {
        Some(handed_in.repairs.join("; "))
    } else if lacking.is_some() {
        lacking
    } else if present.is_some() {
        Some("the volume had failed over to it, and it was not a whole copy yet".to_owned())
    } else if let Some(why) = before.and_then(|before| before.everywhere.clone()) {
        Some(why)
    } else {
        dirty.as_ref().err().cloned()
    };
    let unsure = match (dirty, &why) {
        (Ok(dirty), None) => dirty,
        _ => std::iter::once(whole).collect(),
    };
    let is_whole = present.is_none();
    // An extent that the disk never held has no writes of its own.
    let unsure = present.map_or(unsure.clone(), |present| {
        present.iter().flat_map(|extent| unsure.within(extent).collect::<Vec<_>>()).collect()
    });
    let kept = before.and_then(|before| before.kept).map_or(Sequence::ZERO, |kept| kept.sequence);
    let given = anchor.map_or(kept, |anchor| kept.max(anchor.given).max(anchor.end()));
    if keep::journal_difference(old, &replica, &branch, given, &unsure)? {
        hand_in(state, &replica, &source, clock)?;
        replica.refresh()?;
    }
    state.clear_spool()?;
    let branch = replica.catalog().branch(epoch)?;
    let end = End { sequence: branch.last_sequence(), chain: branch.chain };
    let kept = is_whole.then_some(end);
    if let Some(why) = why {
        return Ok(Divergence { kept, ..everywhere(&replica, (epoch, at), whole, why) });
    }
    let mut differs = replica.branch(epoch)?.touched(at, end.sequence)?;
    unsure.iter().for_each(|extent| differs.insert(extent));
    Ok(Divergence { kept, ..Divergence::new(&replica, (epoch, at), differs, None) })
}

/// Returns the source whose directory this is, once it is sure that the source lost the volume.
fn check_old_source(state: &StateDirectory, replica: &Replica) -> Result<SourceIdentity> {
    let volume = &replica.info().name;
    let Some(known) = state.identity()? else {
        return Err(Error::new(ErrorKind::InvalidInput, "follow with", state.path().display())
            .expected("the state directory of the agent that protected the disk")
            .found("none; restore the volume to a new disk instead"));
    };
    known.check_volume(replica.info(), "follow")?;
    check_lost(state, replica, &known.source)?;
    if Provisional::read(state)?.is_some() {
        return Err(Error::new(ErrorKind::InvalidInput, "follow", volume)
            .message("a failover to this directory is under way: commit or cancel it first"));
    }
    Ok(known.source)
}

/// Fails if the volume belongs to `source`, as in a vault that went back to before the failover.
fn check_lost(state: &StateDirectory, replica: &Replica, source: &SourceIdentity) -> Result<()> {
    match replica.catalog().source().filter(|owner| owner.id == source.id) {
        Some(_) => Err(has_volume(state, replica)),
        None => Ok(()),
    }
}

/// Returns the error for a directory whose agent owns the volume: `AlreadyExists` if a failback took it
/// home, or else `InvalidInput`.
pub(super) fn has_volume(state: &StateDirectory, replica: &Replica) -> Error {
    let newest = replica.catalog().lifecycle().current();
    let (kind, why) = match newest.map(|step| step.kind) {
        Some(StepKind::FailBack) => {
            (ErrorKind::AlreadyExists, "it is home already; go on with protecting the disk")
        }
        _ => (
            ErrorKind::InvalidInput,
            "the agent of this directory owns the volume, and may write to the disk",
        ),
    };
    let volume = &replica.info().name;
    Error::new(kind, "follow", volume).message(format_args!("{why} ({})", state.path().display()))
}

/// Compares the same disk with the history as it is now: an epoch may have ended since, at a
/// sequence before that of the disk. In a vault with another history the whole disk differs.
///
/// `Diverged` if the vault has not come as far as the disk, which may be all that is left of the
/// volume's newest state. `InvalidInput` if the volume is of this directory's agent there.
pub(super) fn rebased(
    replica: &Replica,
    state: &StateDirectory,
    mut known: Divergence,
) -> Result<Divergence> {
    if let Some(identity) = state.identity()? {
        check_lost(state, replica, &identity.source)?;
    }
    let is_there = |end| look_at(replica, known.epoch, |content| contains(content, end));
    if known.history.and_then(is_there) != Some(true) {
        return another_history(replica, &known);
    }
    while let Ok(branch) = replica.catalog().branch(known.epoch).cloned() {
        if branch.at < known.at {
            let gone = replica.branch(branch.epoch)?.touched(branch.at, known.at)?;
            gone.iter().for_each(|extent| known.differs.insert(extent));
            known.at = branch.at;
        }
        known.epoch = Epoch(branch.epoch.0 + 1);
    }
    known.history = look_at(replica, known.epoch, |content| End::around(content, known.at));
    Ok(known)
}

/// Returns that a disk which followed the volume in a history that this vault lacks differs everywhere.
fn another_history(replica: &Replica, known: &Divergence) -> Result<Divergence> {
    let (catalog, info) = (replica.catalog(), replica.info());
    let (epoch, last) = (catalog.epoch(), catalog.last_sequence());
    let followed = format!("sequence {} of epoch {}", known.at, known.epoch);
    if (epoch, last) < (known.epoch, known.at) {
        return Err(Error::new(ErrorKind::Diverged, "follow", &info.name)
            .message(format_args!(
                "the disk followed the volume to {followed}: the vault went back, or is another copy, and the disk may be \
                 all that is left of what it lacks"
            ))
            .found(format_args!("sequence {last} of epoch {epoch}")));
    }
    let why = format!("this vault does not have the history that the disk followed to {followed}");
    let whole = Extent { offset: 0, length: info.device_bytes };
    Ok(everywhere(replica, (epoch, Sequence::ZERO), whole, why))
}

/// Returns that all of a disk differs.
pub(super) fn everywhere(
    replica: &Replica,
    state: (Epoch, Sequence),
    whole: Extent,
    why: String,
) -> Divergence {
    Divergence::new(replica, state, std::iter::once(whole).collect(), Some(why))
}

/// Returns the extents that a disk holds which is not whole; `None` for a whole one.
fn present(state: &StateDirectory) -> Result<Option<ExtentSet>> {
    let (files, log) = (&**state.files(), state.presence_log());
    files.exists(&log).then(|| present_in(files, &log)).transpose()
}

/// Returns the dirty extents, or why they do not show where the disk differs. `Changed` if it is
/// another disk.
fn dirty(
    disk: &dyn BlockDevice,
    state: &StateDirectory,
) -> Result<std::result::Result<ExtentSet, String>> {
    let seen = Seen::of(state, disk)?;
    if let Some(other) = seen.other_disk() {
        return Err(seen.refused("follow with", other, "restore the volume to it"));
    }
    let path = state.dirty_map();
    if !state.files().exists(&path) || state.files().exists(&state.observed()) {
        return Ok(Err("no dirty map has its changes".to_owned()));
    }
    let (map, found) = match DirtyMap::open(&**state.files(), &path) {
        Ok(opened) => opened,
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            return Ok(Err("its dirty map is damaged".to_owned()));
        }
        Err(error) => return Err(error),
    };
    if let LastSession::Clean(stop) = found {
        if let Some(other) = seen.other_than_left(Moment::Stop(map.generation()))? {
            return Err(seen.refused("follow with", other, "restore the volume to it"));
        }
        if let Some(why) = seen.touched(map.generation(), &stop)? {
            return Ok(Err(why));
        }
    }
    let (region, size) = (map.params().region_bytes, map.params().device_bytes);
    let extent = |first: u64, last: u64| {
        let end = (last + 1).saturating_mul(region).min(size);
        Extent::from_bounds(first * region, end)
    };
    Ok(Ok(map.dirty_regions().iter().map(|range| extent(range.first, range.last)).collect()))
}
