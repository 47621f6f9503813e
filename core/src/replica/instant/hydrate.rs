//! Hydration: blocks that are not in the target of an instant disk yet are copied from the base.
//!
//! A view is read by its frames, as in a restore, so that each is read and decoded once; a block
//! with data of several frames comes with the frame of its first. Other bases are read by offset.
//! The base is read before blocks are claimed, and only blocks that are still absent are written.
//! So what guests wrote meanwhile stays, and guests wait for one write at most. Each chunk waits
//! for the bandwidth, and for a while for guests that wait for the base.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{Hydration, InstantDisk, UNLOGGED_MAX};
use crate::device::{Buffer, Durability, Operation, Unmap};
use crate::error::Result;
use crate::extent::Extent;
use crate::replica::Progress;
use crate::replica::restore::{Job, each_job, jobs};
use crate::replica::view::{Mapping, View};

/// Bytes read and written at once if the base is read by offset.
const CHUNK_BYTES: u64 = 1 << 20;
/// Bytes zeroed at once.
const ZERO_BYTES: u64 = 64 << 20;
/// Bytes after which the copy is made durable; a crash costs at most these to be copied again.
const FLUSH_BYTES: u64 = 256 << 20;
/// Number and length of the pauses of a chunk for guests that wait for the base.
const STEPS_BACK: u32 = 20;
const STEP_BACK: Duration = Duration::from_millis(1);

pub(super) fn run(disk: &InstantDisk, progress: Progress<'_>) -> Result<Hydration> {
    // Runs again if a guest's change failed at the end, so that its blocks are zeroed, too.
    while !disk.is_complete() {
        let copied = match &disk.base.view {
            Some(view) => copy_view(disk, view, progress)?,
            None => copy_device(disk, progress)?,
        };
        if !copied || !zero_the_rest(disk, progress)? {
            disk.flush_presence()?;
            break;
        }
        disk.finish()?;
    }
    Ok(disk.hydration())
}

/// Copies a view by its frames; returns false if it was stopped.
fn copy_view(disk: &InstantDisk, view: &View, progress: Progress<'_>) -> Result<bool> {
    let presence = &disk.layers.presence;
    let missing = view.mappings().iter().filter(|mapping| !presence.contains(mapping.extent));
    let jobs = jobs(missing.copied().collect());
    let done = Done::new(jobs.iter().map(|job| job.bytes).sum(), progress);
    each_job(view, &jobs, |job| {
        if !may_go_on(disk, job.bytes, &done) {
            return Ok(false);
        }
        copy_frame(disk, view, job)?;
        flush_when_due(disk, job.bytes)?;
        Ok(done.add(job.bytes))
    })
}

fn copy_device(disk: &InstantDisk, progress: Progress<'_>) -> Result<bool> {
    let presence = &disk.layers.presence;
    let missing: Vec<Extent> =
        disk.data_blocks().flat_map(|extent| presence.absent(extent)).collect();
    let done = Done::new(missing.iter().map(|extent| extent.length).sum(), progress);
    for chunk in missing.into_iter().flat_map(|extent| extent.chunks(CHUNK_BYTES)) {
        if !may_go_on(disk, chunk.length, &done) {
            return Ok(false);
        }
        let mut bytes = Buffer::zeroed(chunk.length as usize);
        disk.base.device.read(chunk.offset, &mut bytes)?;
        put(disk, vec![(chunk, bytes)])?;
        flush_when_due(disk, chunk.length)?;
        if !done.add(chunk.length) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Zeroes ranges without data in the base if the target may contain some.
fn zero_the_rest(disk: &InstantDisk, progress: Progress<'_>) -> Result<bool> {
    if disk.is_zero_where_absent() {
        return Ok(true);
    }
    let done = disk.data_blocks().map(|extent| extent.length).sum();
    let mut at = 0;
    for data in disk.data_blocks().chain([Extent { offset: disk.layers.whole().length, length: 0 }])
    {
        let gap = Extent::from_bounds(at, data.offset);
        at = data.end();
        for chunk in gap.chunks(ZERO_BYTES) {
            if disk.layers.presence.contains(chunk) {
                continue;
            }
            disk.layers.bring(
                vec![chunk],
                |extent| disk.landed(extent),
                |absent| absent.iter().try_for_each(|extent| zero(disk, *extent)),
            )?;
            flush_when_due(disk, 0)?;
            if !progress(done, done) {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

fn zero(disk: &InstantDisk, extent: Extent) -> Result<()> {
    let target = &disk.layers.upper;
    for run in target.allocation(extent)?.into_iter().filter(|run| run.allocated) {
        target.zero(run.extent, Unmap::Allowed, Durability::Cached)?;
    }
    Ok(())
}

/// Counts bytes done of a whole, and reports them.
struct Done<'a> {
    bytes: AtomicU64,
    total: u64,
    progress: Progress<'a>,
}

impl<'a> Done<'a> {
    fn new(total: u64, progress: Progress<'a>) -> Self {
        Self { bytes: AtomicU64::new(0), total, progress }
    }

    /// Counts bytes; returns false to stop.
    fn add(&self, bytes: u64) -> bool {
        let done = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        (self.progress)(done, self.total)
    }
}

/// Waits for bandwidth and for guests; returns false if it was stopped.
fn may_go_on(disk: &InstantDisk, bytes: u64, done: &Done<'_>) -> bool {
    while let Err(wait) = disk.throttle.take(bytes) {
        if !done.add(0) {
            return false;
        }
        std::thread::sleep(wait);
    }
    for _ in 0..STEPS_BACK {
        if disk.guests.load(Ordering::Relaxed) == 0 {
            break;
        }
        std::thread::sleep(STEP_BACK);
    }
    true
}

fn flush_when_due(disk: &InstantDisk, bytes: u64) -> Result<()> {
    let before = disk.unflushed_bytes.fetch_add(bytes, Ordering::Relaxed);
    if before + bytes >= FLUSH_BYTES || disk.unlogged.lock().waiting.count() > UNLOGGED_MAX {
        disk.unflushed_bytes.store(0, Ordering::Relaxed);
        return disk.flush_presence();
    }
    Ok(())
}

/// Decodes a frame and copies the blocks that it has data of.
fn copy_frame(disk: &InstantDisk, view: &View, job: &Job) -> Result<()> {
    let Some(first) = job.mappings.first() else { return Ok(()) };
    let presence = &disk.layers.presence;
    let mut runs: Vec<Extent> = Vec::new();
    for mapping in &job.mappings {
        let blocks = presence.blocks(mapping.extent);
        match runs.last_mut() {
            Some(run) if blocks.offset <= run.end() => {
                *run = Extent::from_bounds(run.offset, run.end().max(blocks.end()));
            }
            _ => runs.push(blocks),
        }
    }
    runs.retain(|run| !presence.contains(*run));
    if runs.is_empty() {
        return Ok(());
    }
    let frame = view.decode(first)?;
    let same = |mapping: &Mapping| (mapping.segment, mapping.frame) == (first.segment, first.frame);
    let mut found = Vec::with_capacity(runs.len());
    for run in runs {
        let alone = view.within(run).all(|mapping| same(&mapping));
        for part in run.chunks(if alone { u64::MAX } else { presence.block_bytes() }) {
            let mut bytes = Buffer::zeroed(part.length as usize);
            if view.within(part).all(|mapping| same(&mapping)) {
                for mapping in view.within(part) {
                    let start = (mapping.extent.offset - part.offset) as usize;
                    let range = start..start + mapping.extent.length as usize;
                    bytes[range].copy_from_slice(View::data_of(&frame, &mapping)?);
                }
            } else if view.within(part).next().is_some_and(|mapping| same(&mapping)) {
                crate::device::BlockDevice::read(view, part.offset, &mut bytes)?;
            } else {
                continue;
            }
            found.push((part, bytes));
        }
    }
    put(disk, found)
}

/// Writes those blocks that are still absent.
fn put(disk: &InstantDisk, found: Vec<(Extent, Buffer)>) -> Result<()> {
    let wanted = found.iter().map(|(extent, _)| *extent).collect();
    let write = |absent: &[Extent]| {
        let mut operations: Vec<_> = absent
            .iter()
            .map(|extent| {
                let at = found.partition_point(|(found, _)| found.end() <= extent.offset);
                let (around, bytes) = &found[at];
                let start = (extent.offset - around.offset) as usize;
                Operation::Write(extent.offset, &bytes[start..start + extent.length as usize])
            })
            .collect();
        disk.layers.upper.batch(&mut operations).into_iter().collect()
    };
    disk.layers.bring(wanted, |extent| disk.landed(extent), write).map(drop)
}
