//! Instant recovery: a view served writable at once, copied to a disk behind the reads, and left as
//! a plain disk.
//!
//! The target is the upper layer over the view ([`Layers`]): present blocks are read from it, the
//! rest from the view. All changes go to it; [`InstantDisk::hydrate`] copies what is missing. After
//! a crash the presence log says which blocks are durable in the target. It never lists a block
//! that is not: an entry is written after the target was flushed, and before the flush or durable
//! write that asked for it is answered. All other blocks are read from the view again, which loses
//! only what was not flushed, as on any disk.
//!
//! In a target of zeroes, ranges that read as zeroes need no copy. If the target was opened before,
//! or a change failed, it may contain writes whose presence was lost. Then such ranges are zeroed.
//!
//! After a failed flush, of target or log, changes and flushes fail with `Poisoned` until the disk
//! is opened again.

mod hydrate;
mod log;
#[cfg(test)]
mod tests;

#[cfg(any(test, feature = "testing"))]
pub use self::log::mend_presence_log;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

pub(crate) use self::log::present_in;
use self::log::{Identity, PresenceLog, sync_directory};
use super::Progress;
use super::layers::Layers;
use super::restore::RestoreTarget;
use super::view::View;
use crate::clock::{Clock, SystemClock};
use crate::device::{
    Allocation, BlockDevice, Discarded, Durability, FileDevice, FileDeviceOptions, Files,
    FlushTurns, Operation, RingTarget, SystemFiles, Unmap, Witness, remove_if_there,
};
use crate::error::{Error, ErrorKind, Result};
use crate::extent::{Extent, ExtentSet};
use crate::policy::{Bandwidth, Throttle};
use crate::sync::lock::Mutex;
use crate::units::{Epoch, Sequence, Timestamp, VolumeId};

/// Most extents that wait in memory for the presence log. The change that goes beyond it flushes.
const UNLOGGED_MAX: usize = 1 << 15;

/// The recovery state that an [`InstantDisk`] begins with: a read-only device, and what it is.
#[derive(Clone)]
pub struct InstantBase {
    device: Arc<dyn BlockDevice>,
    view: Option<Arc<View>>,
    volume: VolumeId,
    epoch: Epoch,
    sequence: Sequence,
}

impl InstantBase {
    /// Uses a view. It is hydrated frame by frame, many at once if each is a request to a store.
    pub fn view(view: Arc<View>) -> Self {
        Self {
            volume: view.volume(),
            epoch: view.epoch(),
            sequence: view.sequence(),
            device: view.clone(),
            view: Some(view),
        }
    }

    /// Uses any device that does not change, as the recovery state of `volume` at `sequence`. It is
    /// hydrated by offset; ranges that [`BlockDevice::allocation`] reports as holes are not copied.
    pub fn device(device: Arc<dyn BlockDevice>, volume: VolumeId, sequence: Sequence) -> Self {
        Self { device, view: None, volume, epoch: Epoch(0), sequence }
    }
}

/// What is known of a target before its first use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TargetContent {
    /// It reads as zeroes, like a new file. `Changed` if the presence log lists blocks of it.
    Zeroes,
    /// It may contain anything outside the blocks that the presence log lists.
    #[default]
    Unknown,
}

/// Options of an [`InstantDisk`].
#[derive(Clone)]
pub struct InstantOptions {
    /// Most bytes a second that hydration reads from the base. Default: no limit.
    pub bandwidth: Bandwidth,
    /// Clock for the limit. Default: that of the system.
    pub clock: Arc<dyn Clock>,
    /// The files that the presence log is among. Default: those of the system.
    pub files: Arc<dyn Files>,
}

impl Default for InstantOptions {
    fn default() -> Self {
        let (clock, files) = (SystemClock::shared(), Arc::new(SystemFiles));
        Self { bandwidth: Bandwidth::default(), clock, files }
    }
}

/// Progress of the hydration of an [`InstantDisk`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hydration {
    /// Bytes of blocks with data in the base.
    pub data_bytes: u64,
    /// Those of them that are not in the target yet.
    pub missing_bytes: u64,
    /// Bytes without data in the base that are not known to be zeroes in the target.
    pub unzeroed_bytes: u64,
}

impl Hydration {
    /// Returns whether the target has all.
    pub fn is_whole(&self) -> bool {
        self.missing_bytes == 0 && self.unzeroed_bytes == 0
    }
}

/// A recovery state of a volume as a writable disk: usable at once, whole when it is hydrated.
///
/// May be used from any thread, even while it hydrates. Memory: a bit for each 4 KiB block of the
/// parts in use (64 MiB at most: disks of more than 2 TiB have larger blocks), and up to 32,768
/// changed extents that wait for the next flush.
///
/// With a scratch file as target, never hydrated, it is an overlay that survives restarts.
pub struct InstantDisk {
    base: InstantBase,
    layers: Layers,
    name: String,
    unlogged: Mutex<Unlogged>,
    log: Mutex<PresenceLog>,
    turns: FlushTurns,
    /// Whether the target is zero outside present blocks and failed changes.
    fresh: bool,
    /// Whether the log says that all is present: requests go straight to the target.
    complete: AtomicBool,
    /// Guests' requests that wait for the base.
    guests: AtomicUsize,
    /// Bytes copied since hydration flushed last.
    unflushed_bytes: AtomicU64,
    throttle: Throttle,
}

/// Present blocks that are not, or not surely, in the log.
#[derive(Default)]
struct Unlogged {
    waiting: ExtentSet,
    /// Extents that are being written to the log.
    going: Arc<ExtentSet>,
}

impl InstantDisk {
    /// Opens a disk in a file or on a block device, for this process alone. `log` is the path of
    /// the presence log, in a directory that exists.
    ///
    /// If there is a log, the disk that it belongs to is continued. If there is none,
    /// [`RestoreTarget::File`] creates a sparse file, and all of the volume's size on a
    /// [`RestoreTarget::Device`] will be overwritten.
    ///
    /// `AlreadyExists` if there is a file with data that may not be overwritten; `Changed` if the
    /// log belongs to another state; `NotFound` if there is a log but no disk (remove the log to
    /// begin anew); `InvalidInput` if the target is too small; `Fenced` if another process uses the
    /// target; `Corrupt` if the log is damaged.
    pub fn open(
        base: InstantBase,
        target: &RestoreTarget,
        log: &Path,
        options: InstantOptions,
    ) -> Result<Self> {
        let (path, content) = match target {
            RestoreTarget::Device(path) => (path, TargetContent::Unknown),
            RestoreTarget::File { path, .. } if log.exists() => (path, TargetContent::Unknown),
            RestoreTarget::File { path, overwrite } => {
                make_file(path, base.device.size_bytes(), *overwrite)?;
                (path, TargetContent::Zeroes)
            }
        };
        let file_options = FileDeviceOptions { exclusive: true, ..Default::default() };
        let device = FileDevice::open(path, &file_options)?;
        if content == TargetContent::Zeroes {
            sync_directory(&SystemFiles, path)?;
        }
        Self::over(base, Arc::new(device), content, log, options)
    }

    /// Opens a disk on any device, which nothing else may change meanwhile. Errors as of
    /// [`InstantDisk::open`].
    pub fn over(
        base: InstantBase,
        target: Arc<dyn BlockDevice>,
        content: TargetContent,
        log: &Path,
        options: InstantOptions,
    ) -> Result<Self> {
        let layers = Layers::new(base.device.clone(), target)?;
        let identity = Identity {
            volume: base.volume,
            epoch: base.epoch,
            sequence: base.sequence,
            size_bytes: base.device.size_bytes(),
            block_bytes: layers.presence.block_bytes(),
        };
        let (presence_log, existed) =
            PresenceLog::open(options.files, log, identity, &layers.presence)?;
        let present = layers.presence.runs(layers.whole()).filter(|(_, present)| *present);
        let present_bytes: u64 = present.map(|(run, _)| run.length).sum();
        if content == TargetContent::Zeroes && present_bytes > 0 {
            return Err(Error::new(ErrorKind::Changed, "open", layers.upper.name())
                .expected(format_args!(
                    "a disk with {present_bytes} bytes, as {} says",
                    log.display()
                ))
                .found("a new disk"));
        }
        Ok(Self {
            name: format!("instant disk of {}", base.device.name()),
            complete: AtomicBool::new(layers.presence.contains(layers.whole())),
            base,
            layers,
            unlogged: Mutex::default(),
            log: Mutex::new(presence_log),
            turns: FlushTurns::default(),
            fresh: content == TargetContent::Zeroes && !existed,
            guests: AtomicUsize::new(0),
            unflushed_bytes: AtomicU64::new(0),
            throttle: Throttle::new(options.bandwidth, options.clock),
        })
    }

    /// Copies what is not in the target yet, in the middle of reads and writes, and makes it
    /// durable.
    ///
    /// Blocks until all is there and returns true, or until `progress` returns false and returns
    /// false. `progress` gets the bytes of the base copied by this call and in all. Steps back for
    /// guests that wait for the base. Call it again after an error: it goes on where it was. One
    /// call at a time is enough; more are no faster.
    pub fn hydrate(&self, progress: Progress<'_>) -> Result<Hydration> {
        hydrate::run(self, progress)
    }

    /// Returns the progress of the hydration. Takes time in proportion to the extents of the base.
    pub fn hydration(&self) -> Hydration {
        if self.is_complete() {
            let data_bytes = self.data_blocks().map(|extent| extent.length).sum();
            return Hydration { data_bytes, missing_bytes: 0, unzeroed_bytes: 0 };
        }
        let absent = |extent| self.layers.presence.absent(extent).map(|e| e.length).sum::<u64>();
        let (mut data_bytes, mut missing_bytes) = (0, 0);
        for extent in self.data_blocks() {
            data_bytes += extent.length;
            missing_bytes += absent(extent);
        }
        let whole = self.layers.whole();
        let unzeroed_bytes = if self.is_zero_where_absent() { 0 } else { absent(whole) };
        // Changes go on meanwhile, so there may be less absent by now than was missing.
        let unzeroed_bytes = unzeroed_bytes.saturating_sub(missing_bytes);
        Hydration { data_bytes, missing_bytes, unzeroed_bytes }
    }

    /// Ends the dependence on the base: makes all durable and removes the presence log. From then
    /// on the target alone is the disk, and this handle passes on to it. May be repeated.
    /// `Unavailable` before the disk is whole, with what is missing.
    pub fn detach(&self) -> Result<()> {
        if !self.is_complete() {
            self.finish()?;
        }
        if !self.is_complete() {
            let Hydration { data_bytes, missing_bytes, unzeroed_bytes } = self.hydration();
            return Err(Error::new(ErrorKind::Unavailable, "detach", &self.name).message(
                format_args!(
                    "{missing_bytes} of {data_bytes} bytes are still to be copied and {unzeroed_bytes} to be zeroed; \
                     hydrate it first"
                ),
            ));
        }
        self.flush()?;
        self.log.lock().remove()
    }

    /// Returns the device that the disk is in.
    pub fn target(&self) -> &Arc<dyn BlockDevice> {
        &self.layers.upper
    }

    fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }

    fn is_zero_where_absent(&self) -> bool {
        self.fresh && !self.layers.is_disturbed()
    }

    /// Returns the blocks with data in the base, by offset, joined.
    fn data_blocks(&self) -> impl Iterator<Item = Extent> + '_ {
        let extents: Box<dyn Iterator<Item = Extent> + '_> = match &self.base.view {
            Some(view) => Box::new(view.data_extents()),
            None => match self.base.device.allocation(self.layers.whole()) {
                Ok(runs) => Box::new(runs.into_iter().filter(|r| r.allocated).map(|r| r.extent)),
                // Not knowing costs a copy.
                Err(_) => Box::new(std::iter::once(self.layers.whole())),
            },
        };
        let mut blocks =
            extents.filter(|e| !e.is_empty()).map(|e| self.layers.presence.blocks(e)).peekable();
        std::iter::from_fn(move || {
            let mut extent = blocks.next()?;
            while let Some(next) = blocks.next_if(|next| next.offset <= extent.end()) {
                extent = Extent::from_bounds(extent.offset, extent.end().max(next.end()));
            }
            Some(extent)
        })
    }

    /// Records extents that are in the target now and must be logged before anything in them is
    /// promised.
    fn landed(&self, extent: Extent) {
        self.unlogged.lock().waiting.insert(extent);
    }

    fn check_change(&self, extent: Extent, operation: &'static str) -> Result<()> {
        extent.check_within(self.size_bytes(), operation, &self.name)?;
        if self.turns.is_poisoned() { Err(self.poisoned(operation)) } else { Ok(()) }
    }

    fn poisoned(&self, operation: &'static str) -> Error {
        Error::new(ErrorKind::Poisoned, operation, &self.name)
            .message("an earlier flush failed; reopen the disk")
    }

    fn change(&self, extent: Extent, apply: impl FnOnce() -> Result<()>) -> Result<()> {
        if extent.is_empty() {
            return Ok(());
        }
        let _guest = self.guest();
        self.layers.change(extent, |blocks| self.landed(blocks), apply)?;
        if self.unlogged.lock().waiting.count() > UNLOGGED_MAX {
            self.flush_presence()
        } else {
            Ok(())
        }
    }

    /// Makes a change that is as durable as asked for when it returns.
    fn change_as(
        &self,
        durability: Durability,
        extent: Extent,
        apply: impl FnOnce(Durability) -> Result<()>,
    ) -> Result<()> {
        if durability == Durability::Cached {
            return self.change(extent, || apply(Durability::Cached));
        }
        // Looked at in this order: a present block is in the log unless it is found unlogged.
        let logged = self.layers.presence.contains(extent) && {
            let unlogged = self.unlogged.lock();
            !unlogged.waiting.overlaps(extent) && !unlogged.going.overlaps(extent)
        };
        if logged {
            return apply(Durability::Durable);
        }
        self.change(extent, || apply(Durability::Cached))?;
        self.flush_presence()
    }

    /// Counts a guest that may wait for the base, so that hydration steps back.
    fn guest(&self) -> impl Drop + '_ {
        struct Guest<'a>(&'a AtomicUsize);
        impl Drop for Guest<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        self.guests.fetch_add(1, Ordering::Relaxed);
        Guest(&self.guests)
    }

    /// Makes everything that returned before durable, and its presence.
    fn flush_presence(&self) -> Result<()> {
        self.turns.run(|| self.flush_presence_now()).unwrap_or_else(|| Err(self.poisoned("flush")))
    }

    fn flush_presence_now(&self) -> Result<()> {
        let going = {
            let mut unlogged = self.unlogged.lock();
            unlogged.going = Arc::new(std::mem::take(&mut unlogged.waiting));
            unlogged.going.clone()
        };
        self.layers.upper.flush()?;
        let mut log = self.log.lock();
        if !going.is_empty() {
            log.append(going.iter())?;
        }
        let mut unlogged = self.unlogged.lock();
        unlogged.going = Arc::default();
        if log.should_be_rewritten() {
            // Under the lock nothing becomes present that is not waiting.
            log.rewrite(&self.layers.presence, &unlogged.waiting)?;
        }
        Ok(())
    }

    /// Lets the log say that everything is in the target, if it is.
    fn finish(&self) -> Result<()> {
        let whole = self.layers.finish(|| self.hydration().is_whole(), |all| self.landed(all));
        self.flush_presence()?;
        self.complete.fetch_or(whole, Ordering::AcqRel);
        Ok(())
    }
}

/// Creates a sparse file, or takes one without data, as a crash just after its creation leaves it.
fn make_file(path: &Path, size_bytes: u64, overwrite: bool) -> Result<()> {
    if overwrite {
        remove_if_there(&SystemFiles, path)?;
    }
    let options = FileDeviceOptions { create_bytes: Some(size_bytes), ..Default::default() };
    let file = FileDevice::open(path, &options)?;
    let whole = Extent { offset: 0, length: size_bytes };
    if file.allocation(whole)?.iter().any(|run| run.allocated) {
        return Err(Error::new(ErrorKind::AlreadyExists, "recover to", path.display())
            .message("a file of this name has data"));
    }
    Ok(())
}

impl BlockDevice for InstantDisk {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn size_bytes(&self) -> u64 {
        self.layers.base.size_bytes()
    }

    fn block_bytes(&self) -> u32 {
        self.layers.base.block_bytes()
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let window = Extent { offset, length: buffer.len() as u64 };
        window.check_within(self.size_bytes(), "read from", &self.name)?;
        if self.layers.presence.contains(window) {
            return self.layers.upper.read(offset, buffer);
        }
        let _guest = self.guest();
        self.layers.read(offset, buffer)
    }

    fn write(&self, offset: u64, data: &[u8], durability: Durability) -> Result<()> {
        let extent = Extent { offset, length: data.len() as u64 };
        self.check_change(extent, "write to")?;
        self.change_as(durability, extent, |durability| {
            self.layers.upper.write(offset, data, durability)
        })
    }

    fn zero(&self, extent: Extent, unmap: Unmap, durability: Durability) -> Result<()> {
        self.check_change(extent, "zero")?;
        self.change_as(durability, extent, |durability| {
            self.layers.upper.zero(extent, unmap, durability)
        })
    }

    fn discard(&self, extent: Extent) -> Result<Discarded> {
        if self.is_complete() {
            extent.check_within(self.size_bytes(), "discard", &self.name)?;
            return self.layers.upper.discard(extent);
        }
        self.zero(extent, Unmap::Allowed, Durability::Cached)?;
        Ok(Discarded::Zeroes)
    }

    fn flush(&self) -> Result<()> {
        self.flush_presence()
    }

    fn allocation(&self, extent: Extent) -> Result<Vec<Allocation>> {
        extent.check_within(self.size_bytes(), "map", &self.name)?;
        self.layers.allocation(extent)
    }

    fn batch(&self, operations: &mut [Operation<'_>]) -> Vec<Result<()>> {
        let straight = !self.turns.is_poisoned()
            && operations.iter().map(Operation::extent).all(|extent| {
                extent.check_within(self.size_bytes(), "", "").is_ok()
                    && self.layers.presence.contains(extent)
            });
        if straight {
            return self.layers.upper.batch(operations);
        }
        operations.iter_mut().map(|operation| operation.run(self)).collect()
    }

    /// Returns none before the disk is hydrated, then that of the target.
    fn ring_target(&self) -> Option<RingTarget<'_>> {
        let straight = self.is_complete() && !self.turns.is_poisoned();
        straight.then(|| self.layers.upper.ring_target()).flatten()
    }

    fn modified(&self) -> Option<Timestamp> {
        self.layers.upper.modified()
    }

    fn witness(&self) -> Witness {
        self.layers.upper.witness()
    }

    fn poison(&self) {
        self.turns.poison();
        self.layers.upper.poison();
    }
}
