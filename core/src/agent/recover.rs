//! Recovers what the last session left: the spool, and what of the disk must be read again.
//!
//! Invariants: the spool continues the catalog once what that lists is removed. Changes of a segment that is put aside
//! are read from the disk again, unless a later unordered interval covers them.
//!
//! Behaviour on failure: a recovery that dies is repeated by the next start. Nothing in the spool
//! is deleted unless the catalog lists it; segments that do not fit go to `STATE/rejected`.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::anchor::{Anchor, Difference, End};
use super::baseline::Baseline;
use super::spool::Spooled;
use super::state::StateDirectory;
use super::witness::{Moment, Seen};
use crate::capture::{DirtyMap, DirtyMapParams, LastSession, RegionRange};
use crate::clock::Clock;
use crate::error::{ErrorKind, Result};
use crate::event::Cause;
use crate::journal::{FileSink, KeyRing, Segment, SegmentSummary, open_mapped_in, repair_source};
use crate::policy::{CaptureContent, Policy};
use crate::replica::Replica;
use crate::units::{ChainHash, Epoch, Sequence};
use crate::vault::layout;
use crate::vault::{SegmentEntry, SourceIdentity, VolumeInfo};

/// The journal as it was left.
pub(super) struct Left {
    /// Closed segments that the catalog does not list yet, oldest first.
    pub spooled: Vec<Spooled>,
    /// Newest sequence in catalog or spool.
    pub last_sequence: Sequence,
    /// The same, even if higher sequences were given before and `last_sequence` is the last of those.
    pub end: Sequence,
    /// Chain hash of the newest segment.
    pub chain: ChainHash,
    /// The journal ended inside an unordered interval.
    pub open_unordered: Option<Cause>,
    /// What was repaired or put aside, in sentences.
    pub repairs: Vec<String>,
    /// Some of the journal could not be used: the whole disk must be read again.
    pub broken: bool,
    /// Closed segments that the catalog lists. They are removed once the anchor knows that.
    listed: Vec<PathBuf>,
    /// Ends of the closed segments that were in the spool, published or not.
    ends: Vec<End>,
    /// Vault and state directory are not of one history.
    pub difference: Option<Difference>,
}

impl Left {
    /// Returns whether segments were put aside, now or by a start that died.
    ///
    /// The catalog version that lists them may still be on its way. If their sequences were given
    /// to other changes before it arrives, those would not continue the vault's history.
    pub(super) fn may_lack_what_was_published(&self, state: &StateDirectory) -> bool {
        let is_fresh = self.last_sequence == Sequence::ZERO && !self.broken;
        self.broken || (!is_fresh && !state.files().exists(&state.dirty_map()))
    }

    /// Returns whether the vault went back.
    pub(super) fn vault_went_back(&self) -> bool {
        self.difference.as_ref().is_some_and(|found| found.cause == Cause::VaultWentBack)
    }

    /// Compares vault and spool with the anchor of the last session.
    pub(super) fn compare(&mut self, anchor: &Anchor, replica: &Replica, source: &SourceIdentity) {
        if anchor.source != source.id {
            return;
        }
        let difference = anchor.compare(replica.catalog(), source, &self.ends);
        self.difference = self.difference.take().or(difference);
        self.rely_on(anchor);
    }

    /// Compares the spool with the anchor of the last session. No sequence that was given before is
    /// given again.
    pub(super) fn rely_on(&mut self, anchor: &Anchor) {
        // The dirty map relies on segments that are neither in the vault nor in the spool.
        self.broken |= self.end < anchor.end();
        self.last_sequence = self.last_sequence.max(anchor.given).max(anchor.end());
    }

    /// Removes from the spool what the catalog lists, and the anchor of this session knows.
    pub(super) fn remove_listed(&self, state: &StateDirectory) -> Result<()> {
        self.listed.iter().try_for_each(|path| state.remove(path))
    }

    /// Joins this recovery with another one by a newer catalog.
    pub(super) fn again(self, newer: Self) -> Self {
        let repairs = self.repairs.into_iter().chain(newer.repairs).collect();
        let ends = self.ends.into_iter().chain(newer.ends).collect();
        let difference = self.difference.or(newer.difference);
        Self { repairs, ends, difference, broken: self.broken || newer.broken, ..newer }
    }
}

/// What the journal continues.
pub(super) struct Published<'a> {
    pub keys: &'a KeyRing,
    pub epoch: Epoch,
    /// End of the catalog.
    pub end: End,
    /// The catalog ends inside an unordered interval.
    pub open_unordered: Option<Cause>,
}

impl<'a> Published<'a> {
    fn of(replica: &'a Replica) -> Self {
        let catalog = replica.catalog();
        Self {
            keys: replica.keys(),
            epoch: catalog.epoch(),
            end: End { sequence: catalog.last_sequence(), chain: catalog.last_chain() },
            open_unordered: catalog.open_unordered(),
        }
    }
}

/// Recovers the spool: repairs the torn segment, finds what the catalog lists, and puts aside what
/// does not fit.
pub(super) fn journal(
    state: &StateDirectory,
    replica: &Replica,
    clock: &dyn Clock,
) -> Result<Left> {
    let catalog = replica.catalog();
    let spool = closed_in_spool(state, replica.keys(), clock)?;
    let is_listed = |summary: &SegmentSummary| {
        let object = layout::segment(&replica.info().name, summary);
        let is_same =
            |entry: &SegmentEntry| entry.object == object && entry.summary.chain == summary.chain;
        catalog.segments().iter().any(is_same) || catalog.retired().contains_key(&object)
    };
    continued(state, &Published::of(replica), spool, &is_listed)
}

/// Recovers the spool as [`journal`] does, by what is known of a vault that is away. What was published
/// later than that counts as not published.
pub(super) fn journal_away(
    state: &StateDirectory,
    known: &Published<'_>,
    clock: &dyn Clock,
) -> Result<Left> {
    let spool = closed_in_spool(state, known.keys, clock)?;
    let (mut listed, mut chain) = (HashSet::new(), known.end.chain);
    for (_, summary) in spool.segments.iter().rev() {
        if summary.chain == chain {
            listed.insert(chain);
            chain = summary.previous;
        }
    }
    continued(state, known, spool, &|summary| listed.contains(&summary.chain))
}

/// Sorts the segments of a spool into those that are published, those that continue them, and the rest.
fn continued(
    state: &StateDirectory,
    published: &Published<'_>,
    spool: ClosedSpool,
    is_listed: &dyn Fn(&SegmentSummary) -> bool,
) -> Result<Left> {
    let mut left = Left {
        spooled: Vec::new(),
        last_sequence: published.end.sequence,
        end: published.end.sequence,
        chain: published.end.chain,
        open_unordered: published.open_unordered,
        repairs: spool.repairs,
        broken: spool.broken,
        listed: Vec::new(),
        ends: spool.segments.iter().map(|(_, summary)| End::of_segment(summary)).collect(),
        difference: None,
    };
    for (path, summary) in spool.segments {
        if is_listed(&summary) {
            left.listed.push(path);
        } else if summary.previous != left.chain || summary.first_sequence <= left.last_sequence {
            let why = "it does not follow the vault's history";
            left.repairs.push(put_aside_for_resync(state, &path, why)?);
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
    left.end = left.last_sequence;
    left.last_sequence = left.last_sequence.max(last_named(state, published.epoch)?);
    Ok(left)
}

/// Returns the last sequence in the names of the segments of an epoch that were spooled or put aside.
/// Some may have been published, although neither vault nor anchor shows it any more.
fn last_named(state: &StateDirectory, epoch: Epoch) -> Result<Sequence> {
    let mut last = Sequence::ZERO;
    for directory in [state.spool(), state.rejected()] {
        if !state.files().exists(&directory) {
            continue;
        }
        let paths = state.list(&directory)?;
        let of_epoch = format!("e{:08x}-", epoch.0);
        let names = paths.iter().filter_map(|path| path.file_name()?.to_str());
        let spans = names.filter(|name| name.starts_with(&of_epoch)).filter_map(layout::span_of);
        last = spans.map(|(_, to)| Sequence(to)).fold(last, Sequence::max);
    }
    Ok(last)
}

/// The closed segments of a spool.
pub(super) struct ClosedSpool {
    /// The segments, oldest first.
    pub segments: Vec<(PathBuf, SegmentSummary)>,
    /// What was repaired or put aside, in sentences.
    pub repairs: Vec<String>,
    /// A segment could not be read, and was put aside.
    pub broken: bool,
}

/// Repairs the torn segment, and verifies all segments.
pub(super) fn closed_in_spool(
    state: &StateDirectory,
    keys: &KeyRing,
    clock: &dyn Clock,
) -> Result<ClosedSpool> {
    let mut spool = ClosedSpool { segments: Vec::new(), repairs: Vec::new(), broken: false };
    spool.repairs.extend(repair_open_segment(state, keys, clock)?);
    let mut paths = state.list(&state.spool())?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "hrl"));
    for path in paths {
        match open_mapped_in(&**state.files(), &path)
            .and_then(|source| Segment::open(source, keys))
            .and_then(|segment| segment.verify().map(|()| segment))
        {
            Ok(segment) => spool.segments.push((path, segment.summary().clone())),
            // It may be the only copy, and the next start may be able to read it.
            Err(error) if error.kind() == ErrorKind::Io => return Err(error),
            Err(error) => {
                let why = error.to_string();
                spool.repairs.push(put_aside_for_resync(state, &path, &why)?);
                spool.broken = true;
            }
        }
    }
    spool.segments.sort_by_key(|(_, summary)| (summary.epoch, summary.first_sequence));
    put_superseded_aside(state, &mut spool)?;
    Ok(spool)
}

/// Puts aside all but the newest of segments that follow the same one. The journal had lost the
/// others, and went on with an unordered interval that covers what they contain.
fn put_superseded_aside(state: &StateDirectory, spool: &mut ClosedSpool) -> Result<()> {
    let mut kept: Vec<(PathBuf, SegmentSummary)> = Vec::new();
    for (path, summary) in std::mem::take(&mut spool.segments) {
        while let Some((old, _)) = kept.pop_if(|(_, before)| before.previous == summary.previous) {
            spool.repairs.push(put_aside(state, &old, "the journal went on without it")?);
        }
        kept.push((path, summary));
    }
    spool.segments = kept;
    Ok(())
}

/// Puts a segment aside whose changes are otherwise only on the disk. Returns a sentence about it.
///
/// The dirty map goes first, because it may no longer have their regions. If this start dies, the
/// next one finds no dirty map and reads the whole disk.
pub(super) fn put_aside_for_resync(
    state: &StateDirectory,
    path: &Path,
    why: &str,
) -> Result<String> {
    state.forget_dirty_map()?;
    put_aside(state, path, why)
}

fn put_aside(state: &StateDirectory, path: &Path, why: &str) -> Result<String> {
    let target = state.reject(path)?;
    Ok(format!("a spooled segment was put aside as {}: {why}", target.display()))
}

/// Makes a closed segment of the torn one that a killed agent leaves.
fn repair_open_segment(
    state: &StateDirectory,
    keys: &KeyRing,
    clock: &dyn Clock,
) -> Result<Option<String>> {
    let (torn, files) = (state.open_segment(), &**state.files());
    if !files.exists(&torn) {
        return Ok(None);
    }
    let target = state.spool().join("repaired.part");
    state.remove(&target)?;
    let source = open_mapped_in(files, &torn)?;
    let sink = FileSink::create(files, &target)?;
    let (_, summary, report) = repair_source(&*source, sink, keys, clock)?;
    match &summary {
        Some(summary) => drop(state.spool_closed(&target, summary)?),
        None => state.remove(&target)?,
    }
    // If it came back after the repaired one has left the spool, it would not follow the vault's
    // history.
    state.remove_durably(&torn)?;
    Ok(summary.map(|_| {
        format!(
            "the open segment was repaired: {} records kept, {} bytes dropped",
            report.records_kept, report.bytes_dropped
        )
    }))
}

/// What of the disk must be read again, and why.
pub(super) struct Needed {
    pub map: DirtyMap,
    pub regions: Vec<RegionRange>,
    pub cause: Cause,
    /// Nothing of the disk was ever replicated.
    pub fresh: bool,
}

/// Forgets the dirty map if the disk may have changed without it. That is so if an observer begins
/// that does not know all changes (`Some(false)`), and if none goes on after one.
pub(super) fn leave_to_observer(state: &StateDirectory, knows_all: Option<bool>) -> Result<()> {
    let marker = state.observed();
    let was_observed = state.files().exists(&marker);
    if !knows_all.unwrap_or(!was_observed) {
        state.forget_dirty_map()?;
    }
    match knows_all {
        Some(_) if !was_observed => state.write_text(&marker, "hrl observed 1\n"),
        None if was_observed => state.remove_durably(&marker),
        _ => Ok(()),
    }
}

/// Opens or creates the dirty map, and decides which regions are read again and why.
///
/// `Changed` if it is another disk than before, unless that one is `adopted`. The changes of an
/// `observed` disk since the last session are known otherwise.
pub(super) fn disk(
    state: &StateDirectory,
    seen: &Seen<'_>,
    (adopted, observed): (bool, bool),
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
        // A tracker begins with the disk as it is: nothing to copy.
        let nothing = fresh && tracked_only;
        let map = DirtyMap::create(files, &path, params, !nothing)?;
        Ok(Needed { regions: map.dirty_regions(), map, cause, fresh })
    };
    let opened = match files.exists(&path).then(|| DirtyMap::open(files, &path)) {
        Some(Err(error)) if error.kind() != ErrorKind::Corrupt => return Err(error),
        opened => opened,
    };
    let other = match &opened {
        Some(Ok((map, LastSession::Clean(_)))) => {
            seen.other_than_left(Moment::Stop(map.generation()))?
        }
        _ => seen.other_disk(),
    };
    match other {
        Some(other) if !adopted => {
            let instead = "adopt it if the volume shall go on with it";
            return Err(seen.refused("protect", other, instead));
        }
        Some(_) => return everything(Cause::Untracked),
        None => {}
    }
    if let Some(difference) = left.difference.as_ref().filter(|difference| difference.content) {
        return everything(difference.cause);
    }
    let (map, last_session) = match opened {
        None if fresh => return everything(Cause::InitialReplication),
        None => return everything(Cause::Untracked),
        Some(Ok(opened)) if *opened.0.params() == params => opened,
        Some(Ok(_)) => return everything(Cause::Requested),
        Some(Err(_)) => return everything(Cause::Crash),
    };
    if left.broken {
        return everything(Cause::JournalError);
    }
    let cause = match last_session {
        LastSession::InUse => Cause::Crash,
        LastSession::Clean(_) if observed => Cause::Requested,
        LastSession::Clean(stop) if seen.touched(map.generation(), &stop)?.is_some() => {
            return everything(Cause::Untracked);
        }
        LastSession::Clean(_) => Cause::Requested,
    };
    let cause = left.open_unordered.unwrap_or(cause);
    Ok(Needed { regions: map.dirty_regions(), map, cause, fresh: false })
}

/// Returns the replica's content to compare dirty regions with, unless that costs too much memory or
/// the vault is away.
pub(super) fn baseline(
    state: &StateDirectory,
    replica: Option<&Replica>,
    left: &Left,
    needed: &Needed,
) -> Baseline {
    if needed.fresh {
        return Baseline::Empty;
    }
    match replica.filter(|_| !needed.regions.is_empty()) {
        Some(replica) => Baseline::of(state, replica, &left.spooled, left.last_sequence),
        None => Baseline::Unknown,
    }
}
