#![allow(unused, missing_docs, clippy::all, clippy::pedantic)] // stub
use crate::capture::Volume;
use crate::clock::Clock;
use crate::device::BlockDevice;
use crate::error::Result;
use crate::event::{EventSink, Mode};
use crate::journal::PointKind;
use crate::policy::Policy;
use crate::replica::{Progress, RecoveryPoint, TimelineEntry, Vault};
use crate::units::*;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How to open a [`Protection`]: required arguments in `new`, the rest chained.
pub struct ProtectionOptions {}
impl ProtectionOptions {
    /// `volume`: name in the vault. `state`: local directory of this agent (dirty map, spool, identity); created when absent.
    pub fn new(
        volume: &str,
        device: Arc<dyn BlockDevice>,
        vault: Vault,
        state: impl Into<PathBuf>,
    ) -> Self {
        todo!()
    }
    pub fn policy(self, policy: Policy) -> Self {
        todo!()
    }
    pub fn events(self, sink: EventSink) -> Self {
        todo!()
    }
    pub fn clock(self, clock: Arc<dyn Clock>) -> Self {
        todo!()
    }
    /// Takes the volume over from another source (default false: `Fenced` error that names it).
    pub fn take_over(self, yes: bool) -> Self {
        todo!()
    }
    pub fn open(self) -> Result<Protection> {
        todo!()
    }
}
#[derive(Clone, Debug)]
pub struct ProtectionStats {
    pub mode: Mode,
    pub last_sequence: Sequence,
    /** durable in the local journal */
    pub journaled_sequence: Sequence,
    /** in the vault's catalog */
    pub replicated_sequence: Sequence,
    /** age of the oldest write not yet replicated; zero when all is */
    pub rpo: Duration,
    pub writes: u64,
    pub bytes_captured: u64,
    pub bytes_stored: u64,
    pub queue_bytes: u64,
    pub spool_bytes: u64,
    pub marked_regions: u64,
    /** bytes still to be read by the resync or initial replication */
    pub resync_bytes_left: u64,
    pub resync_bytes_read: u64,
    pub points: u64,
    pub vault_available: bool,
}
/// Everything that one protected volume needs, running. Drop without `stop` = crash as far as state is concerned (resync of marked regions at next open).
pub struct Protection {}
impl Protection {
    pub fn volume(&self) -> &Arc<Volume> {
        todo!()
    }
    pub fn mark(&self, kind: PointKind, label: &str) -> Result<RecoveryPoint> {
        todo!()
    }
    pub fn stats(&self) -> ProtectionStats {
        todo!()
    }
    pub fn timeline(&self) -> Result<Vec<TimelineEntry>> {
        todo!()
    }
    /// Waits until `Ordered` mode and everything up to now is in the vault's catalog; `Unavailable` at the time limit.
    pub fn wait_replicated(&self, limit: Duration) -> Result<Sequence> {
        todo!()
    }
    /// Waits until initial replication / resync is complete.
    pub fn wait_ordered(&self, limit: Duration) -> Result<()> {
        todo!()
    }
    /// Asks for a resync of everything (compared with the replica).
    pub fn resync(&self) -> Result<()> {
        todo!()
    }
    /// Clean end: drains, seals, ships (up to `limit`), flushes the disk, leaves a clean dirty map.
    pub fn stop(self, limit: Duration) -> Result<()> {
        todo!()
    }
}
