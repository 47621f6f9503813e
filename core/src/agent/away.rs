//! A session that begins while the vault is away, and joins it once it answers. `STATE/volume` has the
//! volume's record and wrapped key, so that the journal can be written until then.
//!
//! The anchor says where the journal continues. Until the vault was compared with it, as each start
//! does, nothing is shipped and nothing counts as replicated. The comparison ends as at a start:
//! the vault agrees and shipping goes on; or the disk is compared with the replica; or the volume
//! belongs to another source, and this one is fenced.
//!
//! Invariant: `STATE/volume` is of a volume that this source owned when it last heard of it.
//!
//! Behaviour on failure: a comparison is repeated until it succeeds. A session that ends before
//! leaves spool and anchor as a session whose vault does not answer does.

use super::anchor::{Anchor, Difference, End};
use super::baseline::Baseline;
use super::hand_over;
use super::recover::{self, Left, Published};
use super::rewind::{go_beyond, has_no_volume, up_to_gap};
use super::session::Rewind;
use super::shared::Shared;
use super::shipper::fenced;
use super::state::{Identity, StateDirectory, lines_after};
use crate::bytes::{hex, parse_hex_vec};
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Cause, EventKind};
use crate::journal::KeyRing;
use crate::replica::Replica;
use crate::units::KeyId;
use crate::vault::{Keepsake, Vault, VolumeInfo, check_marker};

const FILE: &str = "volume";
const FIRST_LINE: &str = "hrl volume 1";
/// Files of a state directory whose disk does not simply belong to its volume. Only the vault says
/// what became of that.
const NOT_SETTLED: [&str; 4] = ["failover", "follow", "request", "base"];

/// What a state directory knows of its volume.
pub(super) struct Known {
    pub info: VolumeInfo,
    pub keys: KeyRing,
    pub identity: Identity,
    pub anchor: Anchor,
}

/// Returns whether a start may go on without a vault that fails like this.
pub(super) fn is_away(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Io | ErrorKind::Denied)
}

/// Records what the next start needs if the vault is away then.
pub(super) fn keep(
    state: &StateDirectory,
    vault: &Vault,
    info: &VolumeInfo,
    keys: &KeyRing,
) -> Result<()> {
    let Some(kept) = vault.keepsake(info, keys) else { return forget(state) };
    if let Ok(Some((known, of))) = read(state, vault, &info.name)
        && known == *info
        && of.newest() == keys.newest()
    {
        return Ok(());
    }
    state.write_text(&state.file(FILE), print(&kept))
}

/// Puts keys that the state directory has into a vault that went back to before they were drawn: the
/// spool may be encrypted with them.
pub(super) fn put_back_keys(state: &StateDirectory, vault: &Vault, name: &str) -> Result<()> {
    match read(state, vault, name) {
        Ok(Some((known, keys))) if vault.volume(name).is_ok_and(|info| info == known) => {
            vault.put_back_keys(&known, &keys)
        }
        _ => Ok(()),
    }
}

/// Removes what [`keep`] recorded, because the volume is not of this source any more.
pub(super) fn forget(state: &StateDirectory) -> Result<()> {
    state.remove_durably(&state.file(FILE))
}

/// Returns what the state directory knows of the volume `name`; `None` if that does not suffice to
/// begin a session. `WrongKey` if the key given does not open its key.
pub(super) fn recall(state: &StateDirectory, vault: &Vault, name: &str) -> Result<Option<Known>> {
    if NOT_SETTLED.iter().any(|file| state.files().exists(&state.path().join(file))) {
        return Ok(None);
    }
    let (Some(identity), Some(anchor)) = (state.identity()?, Anchor::read(state)?) else {
        return Ok(None);
    };
    if identity.volume_name != name || anchor.source != identity.source.id {
        return Ok(None);
    }
    let Some((info, keys)) = read(state, vault, name)? else { return Ok(None) };
    Ok((info.id == identity.volume).then_some(Known { info, keys, identity, anchor }))
}

fn read(
    state: &StateDirectory,
    vault: &Vault,
    name: &str,
) -> Result<Option<(VolumeInfo, KeyRing)>> {
    let path = state.file(FILE);
    let kept = state.read_text(&path, "the record of a volume", parse)?;
    kept.map(|kept| vault.recall(name, &kept, &path.display().to_string())).transpose()
}

impl Known {
    /// Recovers the spool by what is known.
    pub(super) fn journal(&self, state: &StateDirectory, clock: &dyn Clock) -> Result<Left> {
        let published = Published {
            keys: &self.keys,
            epoch: self.anchor.epoch,
            end: self.anchor.published,
            open_unordered: self.anchor.unordered.map(|(cause, _)| cause),
        };
        let mut left = recover::journal_away(state, &published, clock)?;
        left.rely_on(&self.anchor);
        Ok(left)
    }
}

/// What became of a vault that was away.
pub(super) enum Arrival {
    /// It agrees with what is known here, but for this.
    Agrees(Box<Replica>, Option<Difference>),
    /// It does not.
    Differs(Box<Rewind>),
    /// The vault is there, and has no such volume.
    Nothing,
}

/// Compares a vault that was away with the anchor and the spool. `Fenced` if another source owns
/// the volume.
pub(super) fn compare(shared: &Shared) -> Result<Arrival> {
    check_marker(&**shared.vault.objects())?;
    shared.vault.check_seen()?;
    let (vault, anchor) = (&shared.vault, shared.anchor.now());
    let source = shared.shipping.shipper.source();
    let read = || match vault.replica_with_keys(&shared.info, &shared.keys) {
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            Ok((up_to_gap(vault, &shared.info, &shared.keys, &anchor, error)?, true))
        }
        replica => Ok((replica?, false)),
    };
    let (mut replica, has_gap) = match read() {
        Err(error) if has_no_volume(&error, &shared.info) => return Ok(Arrival::Nothing),
        read => read?,
    };
    let catalog = replica.catalog();
    if let Some(owner) = catalog.source().filter(|owner| owner.id != source.id) {
        return Err(fenced(&shared.info.name, owner));
    }
    if catalog.epoch() != anchor.epoch {
        return Err(Error::new(ErrorKind::Fenced, "ship segments of", &shared.info.name)
            .expected(format_args!("epoch {}", anchor.epoch))
            .found(catalog.epoch()));
    }
    let spooled = shared.shipping.spool.oldest_batch(0, usize::MAX);
    let ends: Vec<_> = spooled.iter().map(|spooled| End::of_segment(&spooled.summary)).collect();
    let mut difference = anchor.compare(catalog, source, &ends);
    let went_back = difference.as_ref().is_some_and(|found| found.cause == Cause::VaultWentBack);
    if has_gap || went_back {
        // Once this try has gone beyond, the next one finds nothing amiss.
        if let Some(found) = difference.take_if(|found| !found.content) {
            shared.event(EventKind::Diverged { cause: found.cause }, found.message);
        }
        go_beyond(replica.catalog_mut(), (anchor.version, anchor.hash), source)?;
    } else if difference.is_some() || shared.session.lacks_spooled() {
        // A put of the session before may still be on its way. See `ProtectionOptions::open`.
        replica.into_catalog().append(source, Vec::new())?;
        replica = vault.replica_with_keys(&shared.info, &shared.keys)?;
        difference = difference.or(anchor.compare(replica.catalog(), source, &ends));
    }
    Ok(match difference {
        Some(Difference { cause, message: why, content: true }) => {
            let at = replica.catalog().last_sequence();
            let baseline = Baseline::of(&shared.state, &replica, &[], at);
            let catalog = replica.into_catalog();
            Arrival::Differs(Box::new(Rewind { why, cause, catalog, baseline }))
        }
        difference => Arrival::Agrees(Box::new(replica), difference),
    })
}

/// Goes on as a session whose vault answered at its start. The journal continues that vault.
pub(super) fn join(
    shared: &Shared,
    replica: Replica,
    difference: Option<Difference>,
) -> Result<()> {
    let (last, chain) = (replica.catalog().last_sequence(), replica.catalog().last_chain());
    if shared.resync.waits() {
        let spooled = shared.shipping.spool.oldest_batch(0, usize::MAX);
        let after = spooled.iter().position(|spooled| spooled.summary.chain == chain);
        let spooled = &spooled[after.map_or(0, |at| at + 1)..];
        let end = spooled.last().map_or(last, |newest| newest.summary.last_sequence);
        shared.resync.offer(Baseline::of(&shared.state, &replica, spooled, end));
    }
    shared.shipping.shipper.join(replica.into_catalog())?;
    shared.shipping.spool.remove_through(chain);
    hand_over::join(shared);
    if let Some(Difference { cause, message, .. }) = difference {
        shared.event(EventKind::Diverged { cause }, message);
    }
    shared.session.join();
    if shared.shipping.published(last) {
        let message = "the vault answers, and agrees with what is known here";
        shared.event(EventKind::VaultAvailable, message.to_owned());
    }
    shared.progress.moved();
    Ok(())
}

fn print(kept: &Keepsake) -> String {
    let line = |(generation, id, wrapped): &(u32, KeyId, Vec<u8>)| {
        let later = if *generation > 1 { format!("{generation}.{id}=") } else { String::new() };
        format!("key={later}{}", hex(wrapped))
    };
    let mut lines = vec![FIRST_LINE.to_owned(), format!("record={}", hex(&kept.record))];
    lines.extend(kept.wrapped.iter().map(line));
    if kept.wrapped.is_empty() {
        lines.push("key=none".to_owned());
    }
    lines.join("\n") + "\n"
}

fn parse(text: &str) -> Option<Keepsake> {
    let mut lines = lines_after(FIRST_LINE, text)?;
    let mut field = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix('=');
    let record = parse_hex_vec(field("record")?)?;
    let first = match field("key")? {
        "none" => return Some(Keepsake { record, wrapped: Vec::new() }),
        digits => parse_hex_vec(digits)?,
    };
    let mut wrapped = vec![(1, KeyId::default(), first)];
    for line in lines {
        let (key, digits) = line.strip_prefix("key=")?.split_once('=')?;
        let (generation, id) = key.split_once('.')?;
        let generation = generation.parse().ok().filter(|generation| *generation > 1)?;
        wrapped.push((generation, KeyId::parse(id)?, parse_hex_vec(digits)?));
    }
    Some(Keepsake { record, wrapped })
}

/// Parses the text of `STATE/volume` and prints it again; `None` if it is not valid. Feature
/// `testing`.
#[cfg(any(test, feature = "testing"))]
pub fn reprint_volume(text: &str) -> Option<String> {
    parse(text).map(|kept| print(&kept))
}
