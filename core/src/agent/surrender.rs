//! What an old source does once it finds that the volume went on without it: it hands its journal in.
//!
//! Whatever it captured after the state at which its epoch was ended, and before it noticed, is in its spool. Those
//! segments go to the vault as the end of the epoch's branch, where they can be read and restored; the volume is not changed.
//! What the disk got later still is marked in the dirty map, and found there when the disk follows the volume again.

use super::recover::{give_up, sealed_in_spool};
use super::shipper::put_checked;
use super::state::StateDirectory;
use crate::clock::Clock;
use crate::error::{ErrorKind, Result};
use crate::replica::Replica;
use crate::vault::layout;
use crate::vault::{Catalog, SegmentEntry, SourceIdentity};

/// What was handed in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Surrendered {
    /// Segments on the branch now that were not before.
    pub segments: u64,
    /// Records in them.
    pub records: u64,
    /// What was repaired, and what did not fit and lies in `STATE/rejected`, for people.
    pub notes: Vec<String>,
    /// Something could not be read or did not fit.
    pub broken: bool,
}

/// Hands in what the spool of `source` has, which is not written to any more. May be repeated after any failure.
///
/// Nothing is done when no failover took the volume from this source (another agent took it over: there is no branch).
pub(crate) fn hand_in(
    state: &StateDirectory,
    replica: &Replica,
    source: &SourceIdentity,
    clock: &dyn Clock,
) -> Result<Surrendered> {
    let mut done = Surrendered::default();
    let Some(branch) = replica.catalog().branch_of(source).cloned() else { return Ok(done) };
    let files = &**state.files();
    let spool = sealed_in_spool(state, replica, clock)?;
    (done.notes, done.broken) = (spool.notes, spool.broken);
    let mut catalog = replica.clone().into_catalog();
    for (path, summary) in spool.segments {
        let object = layout::segment(&replica.info().name, &summary);
        if is_known(&catalog, &object) {
            let _ = files.remove(&path);
            continue;
        }
        let fits = catalog.branch(branch.epoch).is_ok_and(|now| now.chain == summary.previous);
        if !fits {
            let why = "it does not follow the branch of its epoch";
            done.notes.push(give_up(state, &path, why)?);
            done.broken = true;
            continue;
        }
        put_checked(&**replica.store(), &object, files, &path, summary.stored_bytes)?;
        let records = summary.records;
        let entry = SegmentEntry { object: object.clone(), summary };
        match catalog.hand_in(branch.epoch, vec![entry]) {
            Ok(()) => {}
            // The answer of an earlier try was lost.
            Err(error) if error.kind() == ErrorKind::Changed && is_known(&catalog, &object) => {}
            Err(error) => return Err(error),
        }
        done.segments += 1;
        done.records += records;
        let _ = files.remove(&path);
    }
    Ok(done)
}

fn is_known(catalog: &Catalog, object: &str) -> bool {
    catalog.published().any(|entry| entry.object == object)
}
