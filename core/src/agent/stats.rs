//! A snapshot of a protection, for callers and for events by the clock.

use std::time::Duration;

use super::shared::Shared;
use crate::event::Mode;
use crate::units::{Sequence, Timestamp};
use crate::vault::missing_since;

/// A snapshot of a protection.
#[derive(Clone, Debug, PartialEq)]
pub struct ProtectionStats {
    /// Mode of capture.
    pub mode: Mode,
    /// Newest sequence captured.
    pub last_sequence: Sequence,
    /// Newest sequence that is durable in the local journal.
    pub journaled_sequence: Sequence,
    /// Newest sequence in the vault's catalog.
    pub replicated_sequence: Sequence,
    /// Age of the oldest change that the vault lacks, whether it was captured or not; zero if it
    /// has all. A change that was not captured counts until the resync that reads its region again
    /// is complete and in the vault.
    pub rpo: Duration,
    /// Changes captured: writes, zeroes and discards.
    pub changes: u64,
    /// Bytes of data captured.
    pub bytes_captured: u64,
    /// Bytes of the closed segments of this session.
    pub bytes_stored: u64,
    /// Memory of the queue, in bytes.
    pub queue_bytes: u64,
    /// Bytes of the segments in the spool.
    pub spool_bytes: u64,
    /// Captured bytes that are not in the vault: queue and spool.
    pub backlog_bytes: u64,
    /// Recent throughput of shipping, or the bandwidth allowed now if that is less, in bytes per
    /// second. Zero before the first segment is shipped.
    pub ship_bytes_per_second: u64,
    /// Time until the backlog is in the vault at that speed, if nothing more were written. `None`
    /// while the vault does not answer or the speed is not known.
    pub eta: Option<Duration>,
    /// Dirty regions: those that are read again after a crash now.
    pub marked_regions: u64,
    /// Bytes that a resync has still to read.
    pub resync_bytes_left: u64,
    /// Bytes read by the resync under way, or by the last one.
    pub resync_bytes_read: u64,
    /// Points taken in this session.
    pub points: u64,
    /// The vault answered last.
    pub vault_available: bool,
    /// The vault has not answered since the start, and was not compared with what is known here.
    /// Nothing is shipped, and nothing counts as replicated.
    pub vault_away: bool,
    /// Another source owns the volume; nothing is replicated any more.
    pub fenced: bool,
    /// A failover to here is not committed; what is written stays in the spool.
    pub provisional: bool,
    /// The volume was handed over to a planned failover; writes are refused.
    pub handed_over: bool,
    /// Newest version of the catalog, as this agent knows it.
    pub catalog_version: u64,
    /// Time of the newest record or heartbeat that the version lists; `None` before both.
    pub catalog_time: Option<Timestamp>,
}

impl Shared {
    /// Returns a snapshot.
    pub(super) fn stats(&self) -> ProtectionStats {
        let tap = self.tap.stats();
        let (journaled, stored, open_since) = {
            let journal = self.journal.now();
            (journal.durable, journal.bytes_stored, journal.open_since)
        };
        let spool = &self.shipping.spool;
        let replicated = self.shipping.replicated();
        let uncaptured = self.tap.uncaptured_since(replicated);
        let oldest = [spool.oldest(), open_since, tap.oldest_queued, uncaptured];
        let oldest = oldest.into_iter().flatten().min();
        let now = self.clock.now();
        let vault_available = self.shipping.is_vault_available();
        let spool_bytes = spool.bytes();
        let backlog_bytes = spool_bytes + tap.queue_bytes;
        let speed = self.shipping.shipper.bytes_per_second();
        let (catalog_version, catalog_time) = self.shipping.newest_version();
        ProtectionStats {
            mode: tap.mode,
            last_sequence: tap.last_sequence,
            journaled_sequence: journaled,
            replicated_sequence: replicated,
            rpo: oldest.map_or(Duration::ZERO, |time| Duration::from_nanos(now.nanos_since(time))),
            changes: tap.changes,
            bytes_captured: tap.bytes_captured,
            bytes_stored: stored,
            queue_bytes: tap.queue_bytes,
            spool_bytes,
            backlog_bytes,
            ship_bytes_per_second: speed,
            eta: eta(backlog_bytes, speed).filter(|_| backlog_bytes == 0 || vault_available),
            marked_regions: tap.marked_regions,
            resync_bytes_left: (tap.resync_regions * self.policy.region_bytes)
                .min(self.info.device_bytes),
            resync_bytes_read: self.resync.bytes_read(),
            points: self.points.taken(),
            vault_available,
            vault_away: self.session.is_away(),
            fenced: self.session.is_fenced(),
            provisional: self.session.is_provisional(),
            handed_over: self.session.handed_over().is_some(),
            catalog_version,
            catalog_time,
        }
    }

    /// Returns the first time at which a change of earlier sessions may be missing from their
    /// journal; `None` if there were none.
    pub(super) fn unknown_since(&self) -> Option<Timestamp> {
        let spooled = self.shipping.spool.oldest_batch(0, usize::MAX);
        let catalog = self.shipping.shipper.catalog();
        let published = catalog.segments().iter().map(|entry| &entry.summary);
        let summaries = published.chain(spooled.iter().map(|spooled| &spooled.summary));
        let since = missing_since(summaries);
        if !self.session.is_away() {
            return since;
        }
        // The spool alone does not show an interval that the vault leaves open.
        let anchor = self.anchor.now();
        let is_open = anchor.unordered.is_some() || since.is_none();
        let known = anchor.missing_since().filter(|_| is_open);
        since.into_iter().chain(known).min()
    }
}

/// Returns the time that `backlog` bytes take; `None` if the speed is not known.
fn eta(backlog: u64, bytes_per_second: u64) -> Option<Duration> {
    match (backlog, bytes_per_second) {
        (0, _) => Some(Duration::ZERO),
        (_, 0) => None,
        (bytes, speed) => Some(Duration::from_secs_f64(bytes as f64 / speed as f64)),
    }
}
