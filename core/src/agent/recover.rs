//! What an agent finds when it starts, and what of the disk must be read again because of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::resync::Baseline;
use super::spool::Spooled;
use super::state::StateDirectory;
use crate::capture::{CleanStop, DirtyMap, DirtyMapParams, LastSession, RegionRange};
use crate::clock::Clock;
use crate::device::BlockDevice;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Cause;
use crate::journal::{FileSink, Segment, SegmentSummary, open_mapped_in, repair_source};
use crate::policy::{CaptureContent, Policy};
use crate::replica::{Replica, View, ViewOptions};
use crate::units::{ChainHash, Sequence};
use crate::vault::VolumeInfo;
use crate::vault::layout;

/// Samples of the disk that are hashed at a clean stop, and their size.
const SAMPLES: u64 = 64;
const SAMPLE_BYTES: u64 = 4096;
/// A comparison with the replica holds the index of at most this many records; beyond it everything marked is sent.
const COMPARE_RECORDS_MAX: u64 = 200_000;
const COMPARE_CACHE_BYTES: u64 = 8 << 20;

/// The journal as it was left.
pub(super) struct Left {
    /// Sealed segments that the catalog does not have yet, oldest first.
    pub spooled: Vec<Spooled>,
    /// Newest sequence in catalog or spool.
    pub last_sequence: Sequence,
    /// Chain hash of the newest segment.
    pub chain: ChainHash,
    /// The journal ended inside an unordered interval.
    pub open_unordered: Option<Cause>,
    /// What was repaired or put aside, for people.
    pub notes: Vec<String>,
    /// Some of the journal could not be used: the disk must be compared with the replica.
    pub broken: bool,
}

impl Left {
    /// Segments were put aside, now or at a start that did not come to its end. A version that names them may have been put by
    /// the agent before and arrive late: were their sequences given to others by then, those would not follow the vault's history.
    pub(super) fn may_lack_what_was_named(&self, state: &StateDirectory) -> bool {
        let is_fresh = self.last_sequence == Sequence::ZERO && !self.broken;
        self.broken || (!is_fresh && !state.files().exists(&state.dirty_map()))
    }

    /// What is left by a newer catalog; of before stays what was found broken.
    pub(super) fn again(self, newer: Self) -> Self {
        let notes = self.notes.into_iter().chain(newer.notes).collect();
        Self { notes, broken: self.broken || newer.broken, ..newer }
    }
}

/// Brings the spool into order: repairs the torn segment, drops what the catalog has, puts aside what does not fit.
pub(super) fn journal(
    state: &StateDirectory,
    replica: &Replica,
    clock: &dyn Clock,
) -> Result<Left> {
    let catalog = replica.catalog();
    let spool = sealed_in_spool(state, replica, clock)?;
    let mut left = Left {
        spooled: Vec::new(),
        last_sequence: catalog.last_sequence(),
        chain: catalog.last_chain(),
        open_unordered: catalog.open_unordered(),
        notes: spool.notes,
        broken: spool.broken,
    };
    for (path, summary) in spool.segments {
        let object = layout::segment(&replica.info().name, &summary);
        let shipped = catalog.segments().iter().any(|entry| entry.object == object)
            || catalog.retired().contains_key(&object);
        if shipped {
            state.remove(&path)?;
        } else if summary.previous != left.chain || summary.first_sequence <= left.last_sequence {
            left.notes.push(give_up(state, &path, "it does not follow the vault's history")?);
            left.broken = true;
        } else {
            left.last_sequence = summary.last_sequence;
            left.chain = summary.chain;
            if let Some(change) = summary.order_changes.last() {
                left.open_unordered = change.begin;
            }
            left.spooled.push(Spooled { path, summary });
        }
    }
    Ok(left)
}

/// The sealed segments of a spool.
pub(super) struct SealedSpool {
    /// The segments, oldest first.
    pub segments: Vec<(PathBuf, SegmentSummary)>,
    /// What was repaired or put aside, for people.
    pub notes: Vec<String>,
    /// A segment cannot be read, and was put aside.
    pub broken: bool,
}

/// Repairs the torn segment, and opens what is there.
pub(super) fn sealed_in_spool(
    state: &StateDirectory,
    replica: &Replica,
    clock: &dyn Clock,
) -> Result<SealedSpool> {
    let mut spool = SealedSpool { segments: Vec::new(), notes: Vec::new(), broken: false };
    spool.notes.extend(repair_open_segment(state, replica, clock)?);
    for path in spool_files(state)? {
        match open_mapped_in(&**state.files(), &path)
            .and_then(|source| Segment::open(source, replica.keys()))
            .and_then(|segment| segment.verify().map(|()| segment))
        {
            Ok(segment) => spool.segments.push((path, segment.summary().clone())),
            // What cannot be read now may be read at the next start, and is all that there is of it.
            Err(error) if error.kind() == ErrorKind::Io => return Err(error),
            Err(error) => {
                spool.notes.push(give_up(state, &path, &error.to_string())?);
                spool.broken = true;
            }
        }
    }
    spool.segments.sort_by_key(|(_, summary)| (summary.epoch, summary.first_sequence));
    put_superseded_aside(state, &mut spool)?;
    Ok(spool)
}

/// Of segments that follow the same one, the newest counts: the journal gave the others up for lost and went on without
/// them, in an interval without order that covers what they hold.
fn put_superseded_aside(state: &StateDirectory, spool: &mut SealedSpool) -> Result<()> {
    let mut kept: Vec<(PathBuf, SegmentSummary)> = Vec::new();
    for (path, summary) in std::mem::take(&mut spool.segments) {
        while let Some((old, _)) = kept.pop_if(|(_, before)| before.previous == summary.previous) {
            spool.notes.push(put_aside(state, &old, "the journal went on without it")?);
        }
        kept.push((path, summary));
    }
    spool.segments = kept;
    Ok(())
}

/// Puts a segment aside whose changes are in no other place than on the disk; says so. The dirty map, which does not mark
/// them any more, goes first: should this start end before all is marked, the next one finds no map and marks all.
pub(super) fn give_up(state: &StateDirectory, path: &Path, why: &str) -> Result<String> {
    state.forget_dirty_map()?;
    put_aside(state, path, why)
}

fn put_aside(state: &StateDirectory, path: &Path, why: &str) -> Result<String> {
    let target = state.reject(path)?;
    Ok(format!("a spooled segment was put aside as {}: {why}", target.display()))
}

fn spool_files(state: &StateDirectory) -> Result<Vec<PathBuf>> {
    let directory = state.spool();
    let mut paths = state
        .files()
        .list(&directory)
        .map_err(|error| Error::io("list spool", directory.display(), error))?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "hrl"));
    Ok(paths)
}

/// The segment that was being written when the agent died becomes a sealed one.
fn repair_open_segment(
    state: &StateDirectory,
    replica: &Replica,
    clock: &dyn Clock,
) -> Result<Option<String>> {
    let (torn, files) = (state.open_segment(), &**state.files());
    if !files.exists(&torn) {
        return Ok(None);
    }
    let target = state.spool().join("repaired.part");
    state.remove(&target)?;
    let source = open_mapped_in(files, &torn)?;
    let sink = FileSink::create_in(files, &target)?;
    let (_, summary, report) = repair_source(&*source, sink, replica.keys(), clock)?;
    let note = match summary {
        Some(summary) => {
            state.spool_sealed(&target, &summary)?;
            Some(format!(
                "the open segment was repaired: {} records kept, {} bytes dropped",
                report.records_kept, report.bytes_dropped
            ))
        }
        None => {
            state.remove(&target)?;
            None
        }
    };
    // Were it to come back once the repaired one has left the spool, it would not follow the vault's history.
    state.remove_durably(&torn)?;
    Ok(note)
}

/// What of the disk must be read again.
pub(super) struct Needed {
    pub map: DirtyMap,
    pub regions: Vec<RegionRange>,
    pub cause: Cause,
    /// Nothing of the disk was ever replicated.
    pub fresh: bool,
}

/// Opens the dirty map, or makes one, and decides which regions are read again and why.
pub(super) fn disk(
    state: &StateDirectory,
    device: &dyn BlockDevice,
    info: &VolumeInfo,
    policy: &Policy,
    left: &Left,
) -> Result<Needed> {
    let params = DirtyMapParams {
        volume: info.id,
        device_bytes: info.device_bytes,
        region_bytes: policy.region_bytes,
    };
    let (path, files) = (state.dirty_map(), &**state.files());
    let tracked_only = policy.content == CaptureContent::ExtentsOnly;
    let fresh = left.last_sequence == Sequence::ZERO && !left.broken;
    let everything = |cause| -> Result<Needed> {
        // A tracker's first state is the disk as it is: nothing to copy.
        let nothing = fresh && tracked_only;
        let map = DirtyMap::create_in(files, &path, params, !nothing)?;
        Ok(Needed { regions: map.dirty_regions(), map, cause, fresh })
    };
    if !files.exists(&path) {
        return everything(if fresh { Cause::InitialReplication } else { Cause::Untracked });
    }
    let (map, map_state) = match DirtyMap::open_in(files, &path) {
        Ok(opened) if *opened.0.params() == params => opened,
        Ok(_) => return everything(Cause::Requested),
        Err(error) if error.kind() == ErrorKind::Corrupt => return everything(Cause::Crash),
        Err(error) => return Err(error),
    };
    if left.broken {
        return everything(Cause::JournalError);
    }
    match map_state {
        LastSession::InUse => {
            let cause = left.open_unordered.unwrap_or(Cause::Crash);
            Ok(Needed { regions: map.dirty_regions(), map, cause, fresh: false })
        }
        LastSession::Clean(stop) => {
            if !is_as_left(device, &stop)? {
                return everything(Cause::Untracked);
            }
            let cause = left.open_unordered.unwrap_or(Cause::Requested);
            Ok(Needed { regions: map.dirty_regions(), map, cause, fresh: false })
        }
    }
}

/// What to remember of the disk at a clean stop.
pub(super) fn clean_stop(device: &dyn BlockDevice, last_sequence: Sequence) -> Result<CleanStop> {
    Ok(CleanStop { last_sequence, modified: device.modified(), sample: sample(device)? })
}

/// The disk is, as far as can be told, as it was at the clean stop.
pub(crate) fn is_as_left(device: &dyn BlockDevice, stop: &CleanStop) -> Result<bool> {
    Ok(stop.modified == device.modified() && stop.sample == sample(device)?)
}

/// Hash of pieces spread evenly over the disk, its first and last block among them.
fn sample(device: &dyn BlockDevice) -> Result<[u8; 32]> {
    let mut hasher = blake3::Hasher::new();
    let size = device.size_bytes();
    let length = SAMPLE_BYTES.min(size);
    let mut buffer = vec![0; length as usize];
    for number in 0..SAMPLES {
        let at = u128::from(size - length) * u128::from(number) / u128::from(SAMPLES - 1);
        device.read(at as u64 & !511, &mut buffer)?;
        hasher.update(&buffer);
    }
    Ok(*hasher.finalize().as_bytes())
}

/// What the replica holds, to compare with, where that is affordable.
pub(super) fn baseline(
    state: &StateDirectory,
    replica: &Replica,
    left: &Left,
    needed: &Needed,
) -> Baseline {
    if needed.fresh {
        return Baseline::Empty;
    }
    let records: u64 = replica
        .catalog()
        .segments()
        .iter()
        .map(|entry| entry.summary.records)
        .chain(left.spooled.iter().map(|spooled| spooled.summary.records))
        .sum();
    if needed.regions.is_empty() || records > COMPARE_RECORDS_MAX {
        return Baseline::Unknown;
    }
    let open = || -> Result<View> {
        let mut segments = Vec::new();
        for entry in replica.catalog().segments() {
            segments.push(Arc::new(replica.open_segment(&entry.object)?));
        }
        for spooled in &left.spooled {
            let source = open_mapped_in(&**state.files(), &spooled.path)?;
            segments.push(Arc::new(Segment::open(source, replica.keys())?));
        }
        let options = ViewOptions { cache_bytes: COMPARE_CACHE_BYTES, unordered: true };
        View::from_segments(replica.info(), segments, left.last_sequence, &options)
    };
    // Without a comparison everything marked is sent: more bytes, the same result.
    open().map_or(Baseline::Unknown, |view| Baseline::View(Box::new(view)))
}
