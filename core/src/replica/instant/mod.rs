//! Instant recovery: a view served writable at once, copied to a disk behind the reads, and left as a plain disk.
//!
//! The target is the upper layer over the view ([`Layers`]): what it holds is read from there, the rest from the view; all
//! changes go there; [`InstantDisk::hydrate`] copies what is missing. The presence log says after a crash what the target
//! holds. It never says so of anything that is not durable there: an entry is written after the target was flushed, and
//! before the flush or durable write that asked for it is answered. What the log does not say is read from the view again,
//! which loses only what was not flushed, as on any disk.
//!
//! A target of zeroes needs no copy of what reads as zeroes. That is not known of a target any more that was opened before
//! or where a change failed: writes whose presence was lost may be there. Then such ranges are zeroed.
//!
//! After a failed flush, of target or log, changes and flushes fail with `Poisoned` until the disk is opened again.

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
    FlushTurns, Operation, RingTarget, SystemFiles, Unmap,
};
use crate::error::{Error, ErrorKind, Result};
use crate::extent::{Extent, ExtentSet};
use crate::policy::{Bandwidth, Throttle};
use crate::sync::lock::{Mutex, MutexGuard};
use crate::units::{Epoch, Sequence, Timestamp, VolumeId};

/// Extents that wait in memory for the presence log. The change that goes beyond it flushes.
const UNLOGGED_MAX: usize = 1 << 15;

/// The state that an [`InstantDisk`] begins with: a read-only device, and what it is.
#[derive(Clone)]
pub struct InstantBase {
    device: Arc<dyn BlockDevice>,
    view: Option<Arc<View>>,
    volume: VolumeId,
    epoch: Epoch,
    sequence: Sequence,
}

impl InstantBase {
    /// A view. It is hydrated frame by frame, many at once where each is a request to a store.
    pub fn view(view: Arc<View>) -> Self {
        Self {
            volume: view.volume(),
            epoch: view.epoch(),
            sequence: view.sequence(),
            device: view.clone(),
            view: Some(view),
        }
    }

    /// Any device that does not change, as the state of `volume` at `sequence`. It is hydrated by offset; ranges that
    /// [`BlockDevice::allocation`] tells as holes are not copied.
    pub fn device(device: Arc<dyn BlockDevice>, volume: VolumeId, sequence: Sequence) -> Self {
        Self { device, view: None, volume, epoch: Epoch(0), sequence }
    }
}

/// What is known of a target before the first use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TargetContent {
    /// It reads as zeroes: a new file. `Changed` when the presence log says that it holds something.
    Zeroes,
    /// It may hold anything where the presence log does not say what.
    #[default]
    Unknown,
}

/// How to open an [`InstantDisk`].
#[derive(Clone)]
pub struct InstantOptions {
    /// The most that hydration reads from the base. Default: no limit.
    pub bandwidth: Bandwidth,
    /// Time for the limit. Default: of the system.
    pub clock: Arc<dyn Clock>,
}

impl Default for InstantOptions {
    fn default() -> Self {
        Self { bandwidth: Bandwidth::default(), clock: SystemClock::shared() }
    }
}

/// How far the hydration of an [`InstantDisk`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hydration {
    /// Bytes of blocks with data in the base.
    pub data_bytes: u64,
    /// Those of them that the target does not hold yet.
    pub missing_bytes: u64,
    /// Bytes without data in the base that are not known to be zeroes in the target.
    pub unzeroed_bytes: u64,
}

impl Hydration {
    /// The target has all.
    pub fn is_whole(&self) -> bool {
        self.missing_bytes == 0 && self.unzeroed_bytes == 0
    }
}

/// A state of a volume as a writable disk: usable at once, whole when it is hydrated.
///
/// May be used from any thread, and while it hydrates. Memory: a bit for each 4 KiB block of the parts in use (64 MiB at
/// most: disks of more than 2 TiB have larger blocks), and what 32,768 changed extents take that wait for the next flush;
/// the change that goes beyond those flushes.
///
/// With a scratch file as target, never hydrated, it is an overlay that survives restarts.
pub struct InstantDisk {
    base: InstantBase,
    layers: Layers,
    name: String,
    unlogged: Mutex<Unlogged>,
    log: Mutex<PresenceLog>,
    turns: FlushTurns,
    /// Zeroes outside of what is present, but for failed changes.
    fresh: bool,
    /// The log says that all is present: requests go straight to the target.
    settled: AtomicBool,
    /// Guests' requests that wait for the base.
    guests: AtomicUsize,
    /// Bytes copied since the last flush by hydration.
    unsettled_bytes: AtomicU64,
    throttle: Throttle,
}

/// What is present and not, or not surely, in the log.
#[derive(Default)]
struct Unlogged {
    waiting: ExtentSet,
    /// Being written to the log.
    going: Arc<ExtentSet>,
}

impl InstantDisk {
    /// A disk in a file or on a block device, opened for this process alone. `log` is the path of the presence log, in a
    /// directory that exists. When there is a log, what was begun goes on. When there is none:
    /// [`RestoreTarget::File`] makes a sparse file (`AlreadyExists` when there is one that holds data and may not be
    /// overwritten), and on a [`RestoreTarget::Device`] all of the volume's size will be overwritten.
    ///
    /// `Changed`: the log belongs to another state. `NotFound`: there is a log but no disk; remove the log to begin anew.
    /// `InvalidInput`: the target is too small. `Fenced`: another process uses the target. `Corrupt`: the log is damaged.
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

    /// A disk on any device, which nothing else may change meanwhile. Errors as of [`InstantDisk::open`].
    pub fn over(
        base: InstantBase,
        target: Arc<dyn BlockDevice>,
        content: TargetContent,
        log: &Path,
        options: InstantOptions,
    ) -> Result<Self> {
        Self::over_in(Arc::new(SystemFiles), base, target, content, log, options)
    }

    /// As [`InstantDisk::over`], with the log among these files.
    pub(crate) fn over_in(
        files: Arc<dyn Files>,
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
        let (presence_log, existed) = PresenceLog::open(files, log, identity, &layers.presence)?;
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
            settled: AtomicBool::new(layers.presence.holds(layers.whole())),
            base,
            layers,
            unlogged: Mutex::default(),
            log: Mutex::new(presence_log),
            turns: FlushTurns::default(),
            fresh: content == TargetContent::Zeroes && !existed,
            guests: AtomicUsize::new(0),
            unsettled_bytes: AtomicU64::new(0),
            throttle: Throttle::new(options.bandwidth, options.clock),
        })
    }

    /// Copies what the target does not hold yet, in the middle of reads and writes, and makes it durable. Blocks until all is
    /// there, or `progress`, which gets bytes of the base copied by this call and in all, returns false; the result tells
    /// which. Steps back for guests that wait for the base. Call it again after an error: it goes on where it was. One call
    /// at a time is enough; more are no faster.
    pub fn hydrate(&self, progress: Progress<'_>) -> Result<Hydration> {
        hydrate::run(self, progress)
    }

    /// How far it is. Takes time in proportion to the extents of the base.
    pub fn hydration(&self) -> Hydration {
        if self.is_settled() {
            let data_bytes = self.data_blocks().map(|extent| extent.length).sum();
            return Hydration { data_bytes, missing_bytes: 0, unzeroed_bytes: 0 };
        }
        let (mut data_bytes, mut missing_bytes, mut absent_bytes) = (0, 0, 0);
        for extent in self.data_blocks() {
            data_bytes += extent.length;
            missing_bytes += self.layers.presence.absent(extent).map(|e| e.length).sum::<u64>();
        }
        if !self.is_zero_where_absent() {
            absent_bytes =
                self.layers.presence.absent(self.layers.whole()).map(|e| e.length).sum::<u64>();
        }
        // Changes go on meanwhile, so there may be less absent by now than was missing.
        let unzeroed_bytes = absent_bytes.saturating_sub(missing_bytes);
        Hydration { data_bytes, missing_bytes, unzeroed_bytes }
    }

    /// Ends the dependence on the base: makes all durable and removes the presence log. From then on the target alone is the
    /// disk, and this handle passes on to it. May be repeated. `Unavailable` before the disk is whole, saying what is missing.
    pub fn detach(&self) -> Result<()> {
        if !self.is_settled() {
            self.finish()?;
        }
        if !self.is_settled() {
            let Hydration { data_bytes, missing_bytes, unzeroed_bytes } = self.hydration();
            return Err(Error::new(ErrorKind::Unavailable, "detach", &self.name).message(
                format_args!(
                    "{missing_bytes} of {data_bytes} bytes are still to be copied and {unzeroed_bytes} to be zeroed; \
                     hydrate it first"
                ),
            ));
        }
        self.flush()?;
        self.lock_log().remove()
    }

    /// The device that the disk is in.
    pub fn target(&self) -> &Arc<dyn BlockDevice> {
        &self.layers.upper
    }

    fn is_settled(&self) -> bool {
        self.settled.load(Ordering::Acquire)
    }

    fn is_zero_where_absent(&self) -> bool {
        self.fresh && !self.layers.is_disturbed()
    }

    fn unlogged(&self) -> MutexGuard<'_, Unlogged> {
        self.unlogged.lock()
    }

    fn lock_log(&self) -> MutexGuard<'_, PresenceLog> {
        self.log.lock()
    }

    /// Blocks that hold data in the base, by offset, joined.
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

    /// Extents that the target holds now and the log must learn of before anything in them is promised.
    fn landed(&self, extent: Extent) {
        self.unlogged().waiting.insert(extent);
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
        if self.unlogged().waiting.count() > UNLOGGED_MAX { self.settle() } else { Ok(()) }
    }

    /// A change that is durable when it returns.
    fn change_durably(
        &self,
        extent: Extent,
        apply: impl FnOnce(Durability) -> Result<()>,
    ) -> Result<()> {
        // Looked at in this order: what is present is in the log unless it is found unlogged.
        let logged = self.layers.presence.holds(extent) && {
            let unlogged = self.unlogged();
            !unlogged.waiting.overlaps(extent) && !unlogged.going.overlaps(extent)
        };
        if logged {
            return apply(Durability::Durable);
        }
        self.change(extent, || apply(Durability::Cached))?;
        self.settle()
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
    fn settle(&self) -> Result<()> {
        self.turns.run(|| self.settle_now()).unwrap_or_else(|| Err(self.poisoned("flush")))
    }

    fn settle_now(&self) -> Result<()> {
        let going = {
            let mut unlogged = self.unlogged();
            unlogged.going = Arc::new(std::mem::take(&mut unlogged.waiting));
            unlogged.going.clone()
        };
        self.layers.upper.flush()?;
        let mut log = self.lock_log();
        if !going.is_empty() {
            log.append(going.iter())?;
        }
        let mut unlogged = self.unlogged();
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
        self.settle()?;
        self.settled.fetch_or(whole, Ordering::AcqRel);
        Ok(())
    }
}

/// Makes a sparse file, or takes one without data: what a crash just after it was made leaves.
fn make_file(path: &Path, size_bytes: u64, overwrite: bool) -> Result<()> {
    if overwrite {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("replace", path.display(), error));
            }
            _ => {}
        }
    }
    let options = FileDeviceOptions { create_bytes: Some(size_bytes), ..Default::default() };
    let file = FileDevice::open(path, &options)?;
    let whole = Extent { offset: 0, length: size_bytes };
    if file.allocation(whole)?.iter().any(|run| run.allocated) {
        return Err(Error::new(ErrorKind::AlreadyExists, "recover to", path.display())
            .message("a file of this name holds data"));
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
        if self.layers.presence.holds(window) {
            return self.layers.upper.read(offset, buffer);
        }
        let _guest = self.guest();
        self.layers.read(offset, buffer)
    }

    fn write(&self, offset: u64, data: &[u8], durability: Durability) -> Result<()> {
        let extent = Extent { offset, length: data.len() as u64 };
        self.check_change(extent, "write to")?;
        let apply = |durability| self.layers.upper.write(offset, data, durability);
        match durability {
            Durability::Cached => self.change(extent, || apply(Durability::Cached)),
            Durability::Durable => self.change_durably(extent, apply),
        }
    }

    fn zero(&self, extent: Extent, unmap: Unmap, durability: Durability) -> Result<()> {
        self.check_change(extent, "zero")?;
        let apply = |durability| self.layers.upper.zero(extent, unmap, durability);
        match durability {
            Durability::Cached => self.change(extent, || apply(Durability::Cached)),
            Durability::Durable => self.change_durably(extent, apply),
        }
    }

    fn discard(&self, extent: Extent) -> Result<Discarded> {
        if self.is_settled() {
            extent.check_within(self.size_bytes(), "discard", &self.name)?;
            return self.layers.upper.discard(extent);
        }
        self.zero(extent, Unmap::Allowed, Durability::Cached)?;
        Ok(Discarded::Zeroes)
    }

    fn flush(&self) -> Result<()> {
        self.settle()
    }

    fn allocation(&self, extent: Extent) -> Result<Vec<Allocation>> {
        extent.check_within(self.size_bytes(), "map", &self.name)?;
        self.layers.allocation(extent)
    }

    fn batch(&self, operations: &mut [Operation<'_>]) -> Vec<Result<()>> {
        let straight = !self.turns.is_poisoned()
            && operations.iter().all(|operation| {
                let (offset, length) = match operation {
                    Operation::Read(offset, buffer) => (*offset, buffer.len()),
                    Operation::Write(offset, data) => (*offset, data.len()),
                };
                let extent = Extent { offset, length: length as u64 };
                extent.check_within(self.size_bytes(), "", "").is_ok()
                    && self.layers.presence.holds(extent)
            });
        if straight {
            return self.layers.upper.batch(operations);
        }
        let one = |operation: &mut Operation<'_>| match operation {
            Operation::Read(offset, buffer) => self.read(*offset, buffer),
            Operation::Write(offset, data) => self.write(*offset, data, Durability::Cached),
        };
        operations.iter_mut().map(one).collect()
    }

    /// None before the disk is hydrated; then the target's.
    fn ring_target(&self) -> Option<RingTarget<'_>> {
        let straight = self.is_settled() && !self.turns.is_poisoned();
        straight.then(|| self.layers.upper.ring_target()).flatten()
    }

    fn modified(&self) -> Option<Timestamp> {
        self.layers.upper.modified()
    }

    fn poison(&self) {
        self.turns.poison();
        self.layers.upper.poison();
    }
}
