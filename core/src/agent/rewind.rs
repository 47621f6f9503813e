//! Goes on in a vault that went back while the agent runs.
//!
//! The vault lacks what was published from here, so nothing in the spool continues it. The shipping
//! task finds that out, and reads what there is. The journal task puts the spool aside, continues
//! the chain of the vault, and begins an unordered interval in which the disk is compared with the
//! replica.
//!
//! Invariant: no sequence is given again, and nothing is shipped until the journal continues the
//! vault.
//!
//! Behaviour on failure: both steps are repeated. A start that comes before they are done finds the
//! same by the anchor.

use super::baseline::Baseline;
use super::session::Rewind;
use super::shared::Shared;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Cause, EventKind};
use crate::replica::Replica;
use crate::vault::{CatalogEdit, layout, missing_since};

/// What became of a vault that lacks what was published.
pub(super) enum Found {
    /// The volume as it is there now.
    Volume(Box<Rewind>),
    /// The vault is there, and has no such volume.
    Nothing,
}

/// Reads what the vault has now. `Unavailable` if it is no vault: its file system may not be
/// mounted. `Fenced` if another source owns the volume there.
pub(super) fn look(shared: &Shared, why: &Error) -> Result<Found> {
    if shared.vault.objects().head(layout::MARKER)?.is_none() {
        return Err(Error::new(
            ErrorKind::Unavailable,
            "read vault",
            shared.vault.objects().name(),
        )
        .message("it is no vault any more: is its file system mounted?")
        .expected(format_args!("an object named {}", layout::MARKER))
        .found("none"));
    }
    let replica = match shared.vault.replica_with_keys(&shared.info, &shared.keys) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Found::Nothing),
        // The record is that of another volume.
        Err(error)
            if error.kind() == ErrorKind::Corrupt
                && error.object() == layout::volume_record(&shared.info.name) =>
        {
            return Ok(Found::Nothing);
        }
        replica => replica?,
    };
    let replica = owned(shared, replica)?;
    let baseline = Baseline::of(&shared.state, &replica, &[], replica.catalog().last_sequence());
    let (catalog, why) = (replica.into_catalog(), why.to_string());
    Ok(Found::Volume(Box::new(Rewind { why, catalog, baseline })))
}

/// Takes the volume again if the vault went back to before its source was recorded.
fn owned(shared: &Shared, replica: Replica) -> Result<Replica> {
    let source = shared.shipping.shipper.source();
    match replica.catalog().source() {
        Some(owner) if owner.id == source.id => Ok(replica),
        Some(owner) => Err(Error::new(ErrorKind::Fenced, "go on with", &shared.info.name).message(
            format_args!(
                "the vault went back to when the volume belonged to the source on {} since {}",
                owner.host, owner.since
            ),
        )),
        None => {
            replica.into_catalog().append(source, vec![CatalogEdit::Source(source.clone())])?;
            shared.vault.replica_with_keys(&shared.info, &shared.keys)
        }
    }
}

/// Makes the journal continue the vault. Called by the journal task, which has given up the open
/// segment.
pub(super) fn carry_out(shared: &Shared, rewind: Rewind) -> Result<()> {
    let (last, chain) = (rewind.catalog.last_sequence(), rewind.catalog.last_chain());
    let given = shared.tap.stats().last_sequence;
    // What was published later is gone.
    let published = rewind.catalog.segments().iter().map(|entry| &entry.summary);
    let vault_since = missing_since(published);
    shared.state.remove(&shared.state.open_segment())?;
    for spooled in shared.shipping.spool.take_all() {
        shared.state.reject(&spooled.path)?;
    }
    shared.shipping.shipper.go_back_to(rewind.catalog, given)?;
    shared.shipping.went_back(last);
    let (durable, lost_since) = shared.journal.goes_on_after(chain);
    shared.resync.offer(rewind.baseline);
    let since = vault_since.into_iter().chain(lost_since).min();
    shared.tap.journal_lost(durable, since, Cause::VaultWentBack);
    shared.journal.wake();
    shared.require_resync(Cause::VaultWentBack)?;
    let kind = EventKind::Diverged { cause: Cause::VaultWentBack };
    shared.event(kind, format!("{}; the disk is compared with what the vault has", rewind.why));
    Ok(())
}
