//! Hands the spool of a fenced source in to the branch of its epoch.
//!
//! The spool has what the source captured after the recovery state at which its epoch ended, and
//! before it noticed. In the branch those segments can be read and restored; the volume does not
//! change. Later writes to the disk are in dirty regions, and are found when the disk follows the
//! volume.
//!
//! Behaviour on failure: a hand-in may be repeated. A segment leaves the spool once the catalog
//! lists it.

use super::recover::{closed_in_spool, put_aside_for_resync};
use super::shipper::put_checked;
use super::state::StateDirectory;
use crate::clock::Clock;
use crate::error::{ErrorKind, Result};
use crate::replica::Replica;
use crate::units::ChainHash;
use crate::vault::layout;
use crate::vault::{Catalog, SegmentEntry, SourceIdentity};

/// What a hand-in did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Surrendered {
    /// Segments added to the branch.
    pub segments: u64,
    /// Records in them.
    pub records: u64,
    /// Repairs, and segments that do not fit and lie in `STATE/rejected`, in sentences.
    pub repairs: Vec<String>,
    /// A segment could not be read or does not fit.
    pub broken: bool,
    /// Chain hashes of the segments that were in the spool.
    pub spooled: Vec<ChainHash>,
}

/// Hands in the spool of `source`, whose journal must have ended.
///
/// Does nothing if no failover took the volume from this source: without one there is no branch.
pub(crate) fn hand_in(
    state: &StateDirectory,
    replica: &Replica,
    source: &SourceIdentity,
    clock: &dyn Clock,
) -> Result<Surrendered> {
    let mut done = Surrendered::default();
    let Some(branch) = replica.catalog().branch_of(source).cloned() else { return Ok(done) };
    let files = &**state.files();
    let spool = closed_in_spool(state, replica.keys(), clock)?;
    (done.repairs, done.broken) = (spool.repairs, spool.broken);
    done.spooled = spool.segments.iter().map(|(_, summary)| summary.chain).collect();
    let mut catalog = replica.clone().into_catalog();
    for (path, summary) in spool.segments {
        let object = layout::segment(&replica.info().name, &summary);
        if is_listed(&catalog, &object) {
            let _ = files.remove(&path);
            continue;
        }
        let fits = catalog.branch(branch.epoch).is_ok_and(|now| now.chain == summary.previous);
        if !fits {
            let why = "it does not follow the branch of its epoch";
            done.repairs.push(put_aside_for_resync(state, &path, why)?);
            done.broken = true;
            continue;
        }
        put_checked(&**replica.store(), &object, files, &path, summary.stored_bytes)?;
        let records = summary.records;
        let entry = SegmentEntry { object: object.clone(), summary };
        match catalog.hand_in(branch.epoch, vec![entry]) {
            Ok(()) => {}
            // The version is in the catalog, but its answer was lost.
            Err(error) if error.kind() == ErrorKind::Changed && is_listed(&catalog, &object) => {}
            Err(error) => return Err(error),
        }
        done.segments += 1;
        done.records += records;
        let _ = files.remove(&path);
    }
    Ok(done)
}

fn is_listed(catalog: &Catalog, object: &str) -> bool {
    catalog.published().any(|entry| entry.object == object)
}
