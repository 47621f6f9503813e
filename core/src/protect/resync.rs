//! The resync task: reads the regions that capture could not follow, and brings the volume back to `Ordered`.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Shared;
use crate::capture::Change;
use crate::device::{BlockDevice, Buffer};
use crate::error::Result;
use crate::event::{EventKind, Mode};
use crate::extent::Extent;
use crate::policy::CaptureContent;
use crate::replica::{View, is_zero};

/// Blocks of this size are compared and journaled.
const BLOCK_BYTES: usize = 4096;
const POLL: Duration = Duration::from_millis(10);
/// Pause after the device failed a read.
const RETRY: Duration = Duration::from_millis(500);

/// What the replica is known to hold in the regions that wait.
pub(super) enum Baseline {
    /// Nothing was ever replicated: zeroes.
    Empty,
    /// This.
    View(Box<View>),
    /// Not known.
    Unknown,
}

/// Runs until the protection stops. The baseline serves the first resync only.
pub(super) fn run(shared: &Shared, mut baseline: Baseline) {
    while !shared.is_stopping() {
        if !shared.tap.wait_unordered(Duration::from_millis(200)) || shared.is_fenced() {
            continue;
        }
        if !wait_for_room(shared) {
            return;
        }
        let cause = shared.tap.start_resync();
        let bytes = shared.tap.stats().resync_regions * shared.policy.region_bytes;
        let bytes = bytes.min(shared.info.device_bytes);
        let message = format!("reading {bytes} bytes again ({cause})");
        shared.event(EventKind::ResyncStarted { bytes, cause }, message);
        shared.reset_resync_counters();
        let losses = shared.journal().losses;
        resync(shared, &baseline);
        baseline = Baseline::Unknown;
        if shared.journal().losses != losses {
            // The journal cannot be written now; reading the disk again at once would only lose it again.
            std::thread::sleep(RETRY);
        }
    }
}

/// Reads regions until none waits; returns early when the protection stops or capture fell to `Dirty` once more.
fn resync(shared: &Shared, baseline: &Baseline) {
    let mut cursor = 0;
    loop {
        if shared.is_stopping() || shared.is_fenced() || shared.tap.mode() != Mode::Resync {
            return;
        }
        let next = shared.tap.next_resync(cursor).or_else(|| shared.tap.next_resync(0));
        let Some((region, extent)) = next else {
            if wait_until_durable(shared) && shared.tap.finish_resync() {
                let (bytes_read, bytes_journaled) = shared.resync_counters();
                let message =
                    format!("read {bytes_read} bytes, {bytes_journaled} of them had changed");
                shared.event(EventKind::ResyncFinished { bytes_read, bytes_journaled }, message);
                return;
            }
            continue;
        };
        if !wait_for_room(shared) {
            return;
        }
        cursor = region + 1;
        if let Err(error) = resync_region(shared, baseline, region, extent) {
            shared.event(EventKind::TaskFailed, format!("resync: {error}"));
            std::thread::sleep(RETRY);
        }
    }
}

fn resync_region(shared: &Shared, baseline: &Baseline, region: u64, extent: Extent) -> Result<()> {
    let ticket = shared.tap.begin_blocking(extent)?;
    if shared.policy.content == CaptureContent::ExtentsOnly {
        shared.tap.complete_resync(ticket, region, vec![(extent, Change::Zero)]);
        return Ok(());
    }
    let known = if shared.tap.may_compare() { baseline } else { &Baseline::Unknown };
    match read_changes(shared, known, extent) {
        Ok((changes, bytes_read)) => {
            let journaled = changes.iter().map(|(extent, _)| extent.length).sum();
            shared.count_resync(bytes_read, journaled);
            shared.tap.complete_resync(ticket, region, changes);
            Ok(())
        }
        Err(error) => {
            // The region keeps waiting.
            shared.tap.cancel(ticket);
            Err(error)
        }
    }
}

/// What the disk holds in `extent` that the replica lacks, and how many bytes were read to find out.
fn read_changes(
    shared: &Shared,
    known: &Baseline,
    extent: Extent,
) -> Result<(Vec<(Extent, Change)>, u64)> {
    let device = shared.volume.device();
    if matches!(known, Baseline::Empty)
        && device.allocation(extent)?.iter().all(|run| !run.allocated)
    {
        return Ok((Vec::new(), 0));
    }
    let mut found = Buffer::zeroed(extent.length as usize);
    device.read(extent.offset, &mut found)?;
    let mut expected = Vec::new();
    if let Baseline::View(view) = known {
        expected.resize(found.len(), 0);
        view.read(extent.offset, &mut expected)?;
    }
    let sort = |start: usize, block: &[u8]| -> Block {
        let same = match known {
            Baseline::Empty => is_zero(block),
            Baseline::View(_) => *block == expected[start..start + block.len()],
            Baseline::Unknown => false,
        };
        match (same, is_zero(block)) {
            (true, _) => Block::Same,
            (false, true) => Block::Zero,
            (false, false) => Block::Data,
        }
    };
    let mut runs: Vec<(usize, usize, Block)> = Vec::new();
    for (number, block) in found.chunks(BLOCK_BYTES).enumerate() {
        let start = number * BLOCK_BYTES;
        let kind = sort(start, block);
        match runs.last_mut() {
            Some((_, end, last)) if *last == kind => *end = start + block.len(),
            _ => runs.push((start, start + block.len(), kind)),
        }
    }
    let changes = runs
        .into_iter()
        .filter(|(_, _, kind)| *kind != Block::Same)
        .map(|(start, end, kind)| {
            let extent =
                Extent { offset: extent.offset + start as u64, length: (end - start) as u64 };
            let change = match kind {
                Block::Zero => Change::Zero,
                _ => Change::Write(Buffer::copy_of(&found[start..end])),
            };
            (extent, change)
        })
        .collect();
    Ok((changes, extent.length))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Block {
    Same,
    Zero,
    Data,
}

/// Waits until what was read is durable in the journal: only then is the volume `Ordered` again. False when it was
/// lost, or the protection stops.
fn wait_until_durable(shared: &Shared) -> bool {
    let target = shared.tap.stats().last_sequence;
    let losses = shared.journal().losses;
    while shared.journal().durable < target {
        if shared.is_stopping() || shared.is_fenced() || shared.journal().losses != losses {
            return false;
        }
        shared.seal_now.store(true, Ordering::Release);
        std::thread::sleep(POLL);
    }
    true
}

/// Waits until the journal follows; false when the protection stops.
fn wait_for_room(shared: &Shared) -> bool {
    while !shared.is_stopping() && !shared.fenced.load(Ordering::Acquire) {
        if shared.tap.has_room() && shared.spool.has_room() {
            return true;
        }
        std::thread::sleep(POLL);
    }
    false
}
