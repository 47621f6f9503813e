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

use super::anchor::Anchor;
use super::baseline::Baseline;
use super::hand_over;
use super::session::Rewind;
use super::shared::Shared;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Cause, EventKind};
use crate::journal::KeyRing;
use crate::replica::Replica;
use crate::vault::{
    Catalog, CatalogEdit, SourceIdentity, Vault, VolumeInfo, check_marker, layout, missing_since,
};

/// Reads what the vault has now; `None` if it has no such volume. `Unavailable` if it is no vault: its file system may not be
/// mounted. `Fenced` if another source owns the volume there, or another session goes on with it.
pub(super) fn look(shared: &Shared, why: &Error) -> Result<Option<Box<Rewind>>> {
    check_marker(&**shared.vault.objects())?;
    let mut replica = match shared.vault.replica_up_to_gap(&shared.info, &shared.keys) {
        Err(error) if has_no_volume(&error, &shared.info) => return Ok(None),
        replica => replica?,
    };
    let known = shared.shipping.shipper.known_version();
    shared.shipping.shipper.enter(replica.catalog_mut())?;
    // Each try would put a whole catalog, and a full disk here may fail them for long.
    if !shared.session.is_beyond(replica.catalog()) {
        go_beyond(replica.catalog_mut(), known, shared.shipping.shipper.source())?;
        shared.session.goes_beyond(replica.catalog());
    }
    let baseline = Baseline::of(&shared.state, &replica, &[], replica.catalog().last_sequence());
    let (catalog, why) = (replica.into_catalog(), why.to_string());
    Ok(Some(Box::new(Rewind { why, cause: Cause::VaultWentBack, catalog, baseline })))
}

/// Returns whether an error means that the vault has no record of the volume, or that of another.
pub(super) fn has_no_volume(error: &Error, info: &VolumeInfo) -> bool {
    error.kind() == ErrorKind::NotFound
        || error.kind() == ErrorKind::Corrupt && error.object() == layout::volume_record(&info.name)
}

/// Opens the replica of a vault that went back, whose catalog cannot be read beyond a gap. Fails with
/// `why` if the vault did not go back.
pub(super) fn up_to_gap(
    vault: &Vault,
    info: &VolumeInfo,
    keys: &KeyRing,
    anchor: &Anchor,
    why: Error,
) -> Result<Replica> {
    let replica = vault.replica_up_to_gap(info, keys)?;
    let catalog = replica.catalog();
    // What the anchor knows is gone, or all of it can be read.
    let went_back =
        catalog.version() >= anchor.version || !catalog.has_version(anchor.version, anchor.hash)?;
    if went_back { Ok(replica) } else { Err(why) }
}

/// Goes on with a catalog that went back to before the version `known` with its hash. Takes the
/// volume again if no source was recorded then.
///
/// Does nothing if the catalog has that version and ends with the newest. `Unavailable` if the vault
/// has it and does not list it: the listing lags behind. `Fenced` if another source owned the volume then.
pub(super) fn go_beyond(
    catalog: &mut Catalog,
    (known, hash): (u64, [u8; 32]),
    source: &SourceIdentity,
) -> Result<()> {
    let object = catalog.object(known);
    if catalog.has_version(known, hash)? {
        if !catalog.is_listed(known)? {
            return Err(Error::new(ErrorKind::Unavailable, "go on with", object)
                .message("the vault has this version, and does not list it"));
        }
        if catalog.version() >= known && catalog.is_newest_listed()? {
            return Ok(());
        }
    }
    let edits = match catalog.source() {
        Some(owner) if owner.id == source.id => Vec::new(),
        Some(owner) => {
            return Err(Error::new(ErrorKind::Fenced, "go on with", object).message(format_args!(
                "the vault went back to when the volume belonged to the source on {} since {}",
                owner.host, owner.since
            )));
        }
        None => vec![CatalogEdit::Source(source.clone())],
    };
    catalog.go_beyond(known, source, &edits)
}

/// Makes the journal continue the vault. Called by the journal task, which has given up the open
/// segment.
///
/// The anchor is last: until it knows what the vault has now, the next start finds the same.
pub(super) fn carry_out(shared: &Shared, rewind: Rewind) -> Result<()> {
    let (last, chain) = (rewind.catalog.last_sequence(), rewind.catalog.last_chain());
    // What was published later is gone.
    let published = rewind.catalog.segments().iter().map(|entry| &entry.summary);
    let vault_since = missing_since(published);
    shared.shipping.shipper.forget_put();
    shared.state.remove(&shared.state.open_segment())?;
    put_spool_aside(shared)?;
    shared.shipping.went_back(last);
    let (durable, lost_since) = shared.journal.goes_on_after(chain);
    shared.resync.offer(rewind.baseline);
    let since = vault_since.into_iter().chain(lost_since).min();
    // In a vault that is ahead, these sequences were given already.
    shared.tap.skip_to(last);
    shared.tap.journal_lost(durable, since, rewind.cause);
    shared.journal.wake();
    let marked = shared.require_resync_of_all(rewind.cause);
    let kind = EventKind::Diverged { cause: rewind.cause };
    shared.event(kind, format!("{}; the disk is compared with what the vault has", rewind.why));
    marked?;
    shared.shipping.shipper.go_back_to(rewind.catalog, shared.tap.stats().last_sequence)?;
    if shared.session.is_away() {
        hand_over::join(shared);
        shared.session.join();
    }
    Ok(())
}

/// Puts all segments of the spool aside. Those that it fails to put aside stay for the next try.
fn put_spool_aside(shared: &Shared) -> Result<()> {
    let mut spooled = shared.shipping.spool.take_all().into_iter();
    while let Some(next) = spooled.next() {
        if let Err(error) = shared.state.reject(&next.path) {
            let left = std::iter::once(next).chain(spooled);
            left.filter(|left| shared.state.files().exists(&left.path))
                .for_each(|left| shared.shipping.spool.push(left));
            return Err(error);
        }
    }
    Ok(())
}
