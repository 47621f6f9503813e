#![allow(unused, missing_docs, clippy::all, clippy::pedantic)] // stub
use super::*;
use crate::clock::Clock;
use crate::error::Result;
use crate::journal::{KeyRing, PointKind, VolumeKey, WrappingKey};
use crate::store::Store;
use crate::units::*;
use std::sync::Arc;
/// Which state of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum At {
    /** The last sequence at which the replica is ordered. */
    Newest,
    Sequence(Sequence),
    Time(Timestamp),
    Point(PointId),
    /** The newest point with this label. */
    Label(String),
}
impl At {
    /** `newest`, a number (sequence), 32 hex digits or a unique prefix of at least 8 `point:PREFIX`, RFC 3339 time, else a label. */
    pub fn parse(text: &str) -> Result<Self> {
        todo!()
    }
}
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveryPoint {
    pub id: PointId,
    pub kind: PointKind,
    pub sequence: Sequence,
    pub time: Timestamp,
    pub label: String,
    pub epoch: Epoch,
    pub group: Option<PointId>,
    pub chain: ChainHash,
}
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeInfo {
    pub name: String,
    pub id: VolumeId,
    pub device_bytes: u64,
    pub block_bytes: u32,
    pub created: Timestamp,
    pub key_id: Option<KeyId>,
    pub extents_only: bool,
}
/// A store with volumes in it.
#[derive(Clone)]
pub struct Vault {}
impl Vault {
    /// Marks the store as a vault when it is empty; opens it otherwise.
    pub fn create(
        store: Arc<dyn Store>,
        wrapping_key: Option<WrappingKey>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        todo!()
    }
    pub fn open(
        store: Arc<dyn Store>,
        wrapping_key: Option<WrappingKey>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        todo!()
    }
    pub fn store(&self) -> &Arc<dyn Store> {
        todo!()
    }
    pub fn volumes(&self) -> Result<Vec<VolumeInfo>> {
        todo!()
    }
    /// Adds a volume (put if absent): `AlreadyExists` when the name is taken. With a wrapping key a volume key is generated and wrapped.
    pub fn create_volume(
        &self,
        name: &str,
        device_bytes: u64,
        block_bytes: u32,
        extents_only: bool,
    ) -> Result<VolumeInfo> {
        todo!()
    }
    /// Opens the replica of a volume as of its newest catalog version. `WrongKey` when it is sealed and the key is missing or another.
    pub fn replica(&self, name: &str) -> Result<Replica> {
        todo!()
    }
}
/// One volume in a vault, as of the catalog version read last.
#[derive(Clone)]
pub struct Replica {}
impl Replica {
    pub fn info(&self) -> &VolumeInfo {
        todo!()
    }
    pub fn keys(&self) -> &KeyRing {
        todo!()
    }
    pub fn catalog(&self) -> &Catalog {
        todo!()
    }
    pub fn points(&self) -> Vec<RecoveryPoint> {
        todo!()
    }
    pub fn timeline(&self) -> Vec<TimelineEntry> {
        todo!()
    }
    /// The sequence that `at` means. `NotFound` names the nearest points; `NotOrdered` when it lies in an unordered interval.
    pub fn resolve(&self, at: &At) -> Result<Sequence> {
        todo!()
    }
    pub fn view(&self, at: &At, options: &ViewOptions) -> Result<View> {
        todo!()
    }
    pub fn restore(
        &self,
        at: &At,
        target: &RestoreTarget,
        progress: Progress<'_>,
    ) -> Result<RestoreReport> {
        todo!()
    }
    pub fn changes(&self, from: &At, to: &At) -> Result<ChangeSet> {
        todo!()
    }
    pub fn verify(&self, progress: Progress<'_>) -> Result<VerifyReport> {
        todo!()
    }
}
