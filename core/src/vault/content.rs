//! What a catalog says as of one version, and how edits change it.
//!
//! Edits are applied in place and taken back if the version that lists them cannot be written, so
//! that an append costs what its edits cost and not a copy of the catalog.
//!
//! Invariant: [`CatalogContent::apply_all`] applies every edit or none, and
//! [`CatalogContent::take_back`] restores exactly what was there before.

use std::collections::BTreeMap;

use super::annotations::{Annotations, Commitment, Pin, Verdict};
use super::edit::{Branch, CatalogEdit, SegmentEntry, SourceIdentity, SourceInstance};
use super::lifecycle::Lifecycle;
use crate::error::{Error, ErrorKind, Result};
use crate::units::{ChainHash, Epoch, PointId, Sequence, Timestamp, VolumeId};

/// The content of a catalog as of one version: segments, branches, source, life cycle, pins and
/// verdicts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogContent {
    pub(super) volume: VolumeId,
    /// Prefix of the catalog's objects, for errors.
    pub(super) prefix: String,
    pub(super) epoch: Epoch,
    pub(super) source: Option<SourceIdentity>,
    pub(super) instance: Option<SourceInstance>,
    pub(super) heartbeat: Option<Timestamp>,
    pub(super) segments: Vec<SegmentEntry>,
    pub(super) branches: Vec<Branch>,
    pub(super) lifecycle: Lifecycle,
    pub(super) annotations: Annotations,
}

/// Takes one change back.
pub(super) type Inverse = Box<dyn FnOnce(&mut CatalogContent)>;

/// Takes the changes of [`CatalogContent::apply_all`] back, or keeps them when it is dropped.
#[must_use]
pub(super) struct Undo {
    /// In the order of the changes.
    inverses: Vec<Inverse>,
    #[cfg(debug_assertions)]
    before: CatalogContent,
}

/// Queries.
impl CatalogContent {
    /// Returns the content of version 0, which lists nothing.
    pub(super) fn empty(volume: VolumeId, prefix: String) -> Self {
        Self {
            volume,
            prefix,
            epoch: Epoch(1),
            source: None,
            instance: None,
            heartbeat: None,
            segments: Vec::new(),
            branches: Vec::new(),
            lifecycle: Lifecycle::default(),
            annotations: Annotations::default(),
        }
    }

    /// Returns the segments, in write order.
    pub fn segments(&self) -> &[SegmentEntry] {
        &self.segments
    }

    /// Returns the source that writes the volume.
    pub fn source(&self) -> Option<&SourceIdentity> {
        self.source.as_ref()
    }

    /// Returns the session of the source that published last; `None` before the first.
    pub fn instance(&self) -> Option<&SourceInstance> {
        self.instance.as_ref()
    }

    /// Returns the latest time that the catalog knows of: that of the newest record, or of the newest
    /// heartbeat of an idle source. `None` before both.
    pub fn time(&self) -> Option<Timestamp> {
        let newest = self.segments.last().map(|entry| entry.summary.last_time);
        newest.max(self.heartbeat)
    }

    /// Returns the last sequence in the catalog.
    pub fn last_sequence(&self) -> Sequence {
        self.segments.last().map_or(Sequence::ZERO, |entry| entry.summary.last_sequence)
    }

    /// Returns the chain hash that the next segment must name.
    pub fn last_chain(&self) -> ChainHash {
        self.segments.last().map_or(ChainHash::default(), |entry| entry.summary.chain)
    }

    /// Returns the epoch: 1, and one more with each committed failover.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Returns where the volume is in its life cycle.
    pub fn lifecycle(&self) -> &Lifecycle {
        &self.lifecycle
    }

    /// Returns the branches, oldest first.
    pub fn branches(&self) -> &[Branch] {
        &self.branches
    }

    /// Returns the branch of an ended epoch; `NotFound` lists those that there are.
    pub fn branch(&self, epoch: Epoch) -> Result<&Branch> {
        self.branches.iter().find(|branch| branch.epoch == epoch).ok_or_else(|| {
            let known: Vec<_> = self.branches.iter().map(|b| b.epoch.to_string()).collect();
            Error::new(ErrorKind::NotFound, "find branch of epoch", epoch)
                .expected(format_args!("one of [{}]", known.join(", ")))
                .found(epoch)
        })
    }

    /// Returns the segments of the volume and of its branches: all that belongs to the volume.
    pub fn published(&self) -> impl Iterator<Item = &SegmentEntry> {
        self.segments.iter().chain(self.branches.iter().flat_map(|branch| &branch.segments))
    }

    /// Returns pins and legal holds. Expired ones are included until retention removes them.
    pub fn pins(&self) -> &[Pin] {
        &self.annotations.pins
    }

    /// Returns the verdicts of checks.
    pub fn verdicts(&self) -> &[Verdict] {
        &self.annotations.verdicts
    }

    /// Returns the objects that no version lists any more and that are not deleted yet, and when
    /// they were retired.
    pub fn retired(&self) -> &BTreeMap<String, Timestamp> {
        &self.annotations.retired
    }

    /// Returns whether checks of the point found it good, and none found it bad.
    pub(crate) fn is_verified(&self, point: PointId) -> bool {
        self.annotations.is_verified(point)
    }

    /// Returns the group points that were committed and have a mark here.
    pub(crate) fn commitments(&self) -> impl Iterator<Item = &Commitment> {
        self.annotations.committed.values()
    }

    /// Returns what is known of a committed group point, as far as this volume knows.
    pub fn commitment(&self, group: PointId) -> Option<&Commitment> {
        self.annotations.committed.get(&group)
    }

    /// Returns the edits that make this content from nothing.
    pub(super) fn snapshot(&self) -> Vec<CatalogEdit> {
        let mut edits: Vec<_> = self.source.clone().map(CatalogEdit::Source).into_iter().collect();
        edits.extend(self.instance.clone().map(CatalogEdit::Instance));
        edits.extend(self.heartbeat.map(CatalogEdit::Heartbeat));
        edits.push(CatalogEdit::Segments(self.segments.clone()));
        edits.push(CatalogEdit::Epoch(self.epoch));
        edits.extend(self.branches.iter().cloned().map(CatalogEdit::Branch));
        if !self.lifecycle.is_new() {
            edits.push(CatalogEdit::Lifecycle(self.lifecycle.clone()));
        }
        edits.extend(self.annotations.pins.iter().cloned().map(CatalogEdit::Pin));
        edits.extend(self.annotations.verdicts.iter().cloned().map(CatalogEdit::Verdict));
        let committed = self.annotations.committed.values().cloned();
        edits.extend(committed.map(CatalogEdit::Committed));
        let mut times: BTreeMap<Timestamp, Vec<String>> = BTreeMap::new();
        for (object, at) in &self.annotations.retired {
            times.entry(*at).or_default().push(object.clone());
        }
        edits.extend(times.into_iter().map(|(at, objects)| CatalogEdit::Retired { objects, at }));
        debug_assert!(
            Self::from_snapshot(self.volume, self.prefix.clone(), edits.clone())
                .is_ok_and(|read| read == *self),
            "a snapshot of {} would be read as another content",
            self.prefix
        );
        edits
    }

    /// Returns the content that a snapshot's edits make.
    ///
    /// A compacted history has no chain from the first segment on, so the entries are taken as they
    /// are: their chain was checked when they were appended.
    pub(super) fn from_snapshot(
        volume: VolumeId,
        prefix: String,
        edits: Vec<CatalogEdit>,
    ) -> Result<Self> {
        let mut content = Self::empty(volume, prefix);
        let mut undo = Vec::new();
        for edit in edits {
            match edit {
                CatalogEdit::Segments(entries) if content.segments.is_empty() => {
                    let epochs = entries.iter().map(|entry| entry.summary.epoch);
                    content.epoch = epochs.fold(content.epoch, Epoch::max);
                    content.segments = entries;
                }
                other => content.apply(other, &mut undo)?,
            }
            undo.clear();
        }
        Ok(content)
    }

    /// Returns the position of the first of `objects` if they follow each other in the catalog.
    pub(super) fn position_of(&self, objects: &[String]) -> Option<usize> {
        let first = self.segments.iter().position(|e| Some(&e.object) == objects.first())?;
        let run = self.segments[first..].iter().take(objects.len()).map(|e| &e.object);
        run.eq(objects).then_some(first)
    }
}

/// Changes.
impl CatalogContent {
    /// Applies all edits, or none. `check` is asked before each, with the edits before it applied.
    pub(super) fn apply_all(
        &mut self,
        edits: impl IntoIterator<Item = CatalogEdit>,
        check: impl Fn(&Self, &CatalogEdit) -> Result<()>,
    ) -> Result<Undo> {
        let mut undo = Undo {
            inverses: Vec::new(),
            #[cfg(debug_assertions)]
            before: self.clone(),
        };
        for edit in edits {
            let applied = check(self, &edit).and_then(|()| self.apply(edit, &mut undo.inverses));
            if let Err(error) = applied {
                self.take_back(undo);
                return Err(error);
            }
        }
        Ok(undo)
    }

    /// Restores what was there before [`CatalogContent::apply_all`]. Nothing may have changed
    /// since.
    pub(super) fn take_back(&mut self, undo: Undo) {
        undo.inverses.into_iter().rev().for_each(|inverse| inverse(self));
        #[cfg(debug_assertions)]
        assert!(*self == undo.before, "edits of {} were not taken back exactly", self.prefix);
    }

    /// Applies an edit. After an error, `undo` takes back what was done so far.
    fn apply(&mut self, edit: CatalogEdit, undo: &mut Vec<Inverse>) -> Result<()> {
        match edit {
            CatalogEdit::Source(source) => {
                set(self, undo, |content| &mut content.source, Some(source));
                set(self, undo, |content| &mut content.instance, None);
            }
            CatalogEdit::Instance(instance) => {
                set(self, undo, |content| &mut content.instance, Some(instance));
            }
            CatalogEdit::Heartbeat(at) => {
                set(self, undo, |content| &mut content.heartbeat, Some(at));
            }
            CatalogEdit::Next(_) => {}
            CatalogEdit::Segments(entries) => self.add_segments(entries, undo)?,
            CatalogEdit::Replace { with, objects } => self.replace(with, &objects, undo)?,
            CatalogEdit::Pin(pin) => {
                self.remember_pins(undo);
                self.annotations.pin(pin);
            }
            CatalogEdit::Unpin { point, legal_hold } => {
                self.remember_pins(undo);
                self.annotations.unpin(point, legal_hold);
            }
            CatalogEdit::Verdict(verdict) => {
                let old = self.annotations.verdicts.clone();
                undo.push(Box::new(move |content| content.annotations.verdicts = old));
                self.annotations.judge(verdict);
            }
            CatalogEdit::Retired { objects, at } => {
                let new = self.annotations.retire(objects, at);
                undo.push(Box::new(move |content| {
                    content.annotations.retired.retain(|object, _| !new.contains(object));
                }));
            }
            CatalogEdit::Deleted(objects) => {
                let retired = &mut self.annotations.retired;
                let old: Vec<_> =
                    objects.iter().filter_map(|object| retired.remove_entry(object)).collect();
                undo.push(Box::new(move |content| content.annotations.retired.extend(old)));
            }
            CatalogEdit::Committed(commitment) => {
                let group = commitment.group;
                let old = self.annotations.committed.insert(group, commitment);
                undo.push(Box::new(move |content| {
                    content.annotations.committed.remove(&group);
                    content.annotations.committed.extend(old.map(|old| (group, old)));
                }));
            }
            CatalogEdit::Divide(division) => self.divide(division, undo)?,
            CatalogEdit::Late { epoch, segments } => self.add_late(epoch, segments, undo)?,
            CatalogEdit::DropBranch(epoch) => {
                while let Some(at) = self.branches.iter().position(|b| b.epoch == epoch) {
                    let dropped = self.branches.remove(at);
                    undo.push(Box::new(move |content| content.branches.insert(at, dropped)));
                }
            }
            CatalogEdit::Step(step) => {
                let old = self.lifecycle.clone();
                undo.push(Box::new(move |content| content.lifecycle = old));
                self.lifecycle.apply(step);
            }
            CatalogEdit::Epoch(epoch) => {
                set(self, undo, |content| &mut content.epoch, epoch);
            }
            CatalogEdit::Branch(branch) => {
                self.branches.push(branch);
                undo.push(Box::new(|content| drop(content.branches.pop())));
            }
            CatalogEdit::Lifecycle(lifecycle) => {
                set(self, undo, |content| &mut content.lifecycle, lifecycle);
            }
        }
        Ok(())
    }

    fn remember_pins(&self, undo: &mut Vec<Inverse>) {
        let old = self.annotations.pins.clone();
        undo.push(Box::new(move |content| content.annotations.pins = old));
    }

    fn add_segments(&mut self, entries: Vec<SegmentEntry>, undo: &mut Vec<Inverse>) -> Result<()> {
        let count = self.segments.len();
        undo.push(Box::new(move |content| content.segments.truncate(count)));
        self.segments.reserve(entries.len());
        for entry in entries {
            self.check_chain(&entry)?;
            self.record_marks(&entry, undo);
            self.segments.push(entry);
        }
        Ok(())
    }

    /// Records what a new segment says beside its data: its epoch, and group points that its marks
    /// commit.
    pub(super) fn record_marks(&mut self, entry: &SegmentEntry, undo: &mut Vec<Inverse>) {
        let epoch = self.epoch.max(entry.summary.epoch);
        set(self, undo, |content| &mut content.epoch, epoch);
        for mark in &entry.summary.marks {
            if let Some(group) = self.annotations.record_commitment(&mark.mark) {
                undo.push(Box::new(move |content| {
                    content.annotations.committed.remove(&group);
                }));
            }
        }
    }

    fn check_chain(&self, entry: &SegmentEntry) -> Result<()> {
        let bad = || Error::new(ErrorKind::Corrupt, "add to catalog", &entry.object);
        let summary = &entry.summary;
        if summary.volume != self.volume {
            return Err(bad()
                .expected(format_args!("volume {}", self.volume))
                .found(format_args!("volume {}", summary.volume)));
        }
        if summary.previous != self.last_chain() {
            return Err(bad()
                .expected(format_args!("a segment after chain hash {}", self.last_chain()))
                .found(format_args!("one after {}", summary.previous)));
        }
        let ordered = summary.first_sequence > self.last_sequence()
            && summary.last_sequence >= summary.first_sequence
            && summary.epoch >= self.epoch;
        if !ordered {
            return Err(bad()
                .expected(format_args!("sequences above {}", self.last_sequence()))
                .found(format_args!("{} to {}", summary.first_sequence, summary.last_sequence)));
        }
        Ok(())
    }

    fn replace(
        &mut self,
        with: Vec<SegmentEntry>,
        objects: &[String],
        undo: &mut Vec<Inverse>,
    ) -> Result<()> {
        let Some(first) = self.position_of(objects) else {
            return Err(Error::new(ErrorKind::InvalidInput, "replace in catalog", &self.prefix)
                .expected("objects that follow each other in the catalog")
                .found(objects.join(", ")));
        };
        let annotations = self.annotations.clone();
        let count = with.len();
        // What takes the place of a fold may commit group points that the fold had dropped.
        with.iter().for_each(|entry| self.record_marks(entry, undo));
        let old: Vec<_> = self.segments.splice(first..first + objects.len(), with).collect();
        undo.push(Box::new(move |content| {
            content.segments.splice(first..first + count, old);
            content.annotations = annotations;
        }));
        let marks = self.published().flat_map(|entry| &entry.summary.marks);
        let points = marks
            .filter(|mark| !mark.mark.is_commitment())
            .flat_map(|mark| std::iter::once(mark.mark.point).chain(mark.mark.group))
            .collect();
        self.annotations.keep_points(&points);
        Ok(())
    }
}

/// Sets a field, until `undo` is taken back.
fn set<T: 'static>(
    content: &mut CatalogContent,
    undo: &mut Vec<Inverse>,
    field: fn(&mut CatalogContent) -> &mut T,
    value: T,
) {
    let old = std::mem::replace(field(content), value);
    undo.push(Box::new(move |content| *field(content) = old));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{SegmentKind, SegmentSummary};
    use crate::vault::{Division, PinUntil, Step, StepKind, VerdictKind};

    const VOLUME: VolumeId = VolumeId([1; 16]);
    const POINT: PointId = PointId([2; 16]);

    fn segment(number: u8, previous: u8, epoch: u32) -> SegmentEntry {
        let sequence = Sequence(u64::from(number) * 2);
        let summary = SegmentSummary {
            kind: SegmentKind::Log,
            volume: VOLUME,
            epoch: Epoch(epoch),
            first_sequence: sequence,
            last_sequence: sequence.next(),
            first_time: Timestamp(0),
            last_time: Timestamp(0),
            salt: [number; 16],
            previous: ChainHash([previous; 32]),
            chain: ChainHash([number; 32]),
            records: 2,
            data_bytes: 0,
            stored_bytes: 100,
            marks: Vec::new(),
            order_changes: Vec::new(),
        };
        SegmentEntry { object: format!("segment-{number}"), summary }
    }

    fn source(id: u8) -> SourceIdentity {
        SourceIdentity { id: [id; 16], host: "host".into(), since: Timestamp(0) }
    }

    fn instance(id: u8) -> SourceInstance {
        SourceInstance { id: [id; 16], host: "host".into(), since: Timestamp(0) }
    }

    fn names(numbers: &[u8]) -> Vec<String> {
        numbers.iter().map(|number| format!("segment-{number}")).collect()
    }

    /// An edit of each kind, each of which changes what the ones before it made.
    fn edits() -> Vec<CatalogEdit> {
        let (at, time) = (Sequence(5), Timestamp(7));
        let until = PinUntil::LegalHold;
        let pin = Pin { point: POINT, until, reason: String::new(), since: time };
        let (kind, text) = (VerdictKind::Command, String::new());
        let verdict = Verdict { point: POINT, kind, ok: true, time, text };
        let division = Division { epoch: Epoch(2), at, cut: None, source: source(2), time };
        let step = Step {
            kind: StepKind::Start,
            failover: POINT,
            time,
            host: String::new(),
            at,
            point: None,
            at_time: time,
            epoch: Epoch(2),
            note: String::new(),
        };
        let mut lifecycle = Lifecycle::default();
        lifecycle.apply(Step { kind: StepKind::TestBegin, ..step.clone() });
        let branch = Branch {
            epoch: Epoch(9),
            at,
            base: at,
            chain: ChainHash::default(),
            source: None,
            time,
            segments: vec![segment(9, 8, 9)],
        };
        let commitment = Commitment { group: POINT, members: 2, name: "group".into() };
        vec![
            CatalogEdit::Source(source(1)),
            CatalogEdit::Instance(instance(1)),
            CatalogEdit::Instance(instance(2)),
            CatalogEdit::Heartbeat(time),
            CatalogEdit::Segments(vec![segment(1, 0, 1), segment(2, 1, 1), segment(3, 2, 1)]),
            CatalogEdit::Verdict(verdict.clone()),
            CatalogEdit::Verdict(Verdict { ok: false, ..verdict }),
            CatalogEdit::Pin(pin.clone()),
            CatalogEdit::Unpin { point: POINT, legal_hold: true },
            CatalogEdit::Pin(pin),
            CatalogEdit::Committed(commitment.clone()),
            CatalogEdit::Committed(Commitment { members: 3, ..commitment }),
            CatalogEdit::Divide(division),
            CatalogEdit::Late { epoch: Epoch(1), segments: vec![segment(4, 3, 1)] },
            CatalogEdit::Step(step),
            CatalogEdit::Retired { objects: names(&[7, 8]), at: time },
            CatalogEdit::Retired { objects: names(&[8, 9]), at: Timestamp(8) },
            CatalogEdit::Deleted(names(&[6, 7, 8])),
            CatalogEdit::Branch(branch),
            CatalogEdit::Epoch(Epoch(3)),
            CatalogEdit::Lifecycle(lifecycle),
            CatalogEdit::Replace { with: vec![segment(2, 0, 1)], objects: names(&[1, 2]) },
            CatalogEdit::DropBranch(Epoch(1)),
        ]
    }

    #[test]
    fn edits_that_are_taken_back_leave_no_trace() {
        let empty = CatalogContent::empty(VOLUME, "catalog/".into());
        let mut content = empty.clone();
        for edit in edits() {
            let before = content.clone();
            let undo = content.apply_all([edit.clone()], |_, _| Ok(())).expect("it fits");
            let after = content.clone();
            assert_ne!(after, before, "{edit:?}");
            content.take_back(undo);
            assert_eq!(content, before, "{edit:?}");
            let _kept = content.apply_all([edit], |_, _| Ok(())).expect("it fits again");
            assert_eq!(content, after);
        }
        let read = CatalogContent::from_snapshot(VOLUME, empty.prefix.clone(), content.snapshot());
        assert_eq!(read.expect("its own snapshot"), content);
        let mut at_once = empty.clone();
        let undo = at_once.apply_all(edits(), |_, _| Ok(())).expect("all fit");
        assert_eq!(at_once, content);
        at_once.take_back(undo);
        assert_eq!(at_once, empty);
    }

    #[test]
    fn edits_before_one_that_does_not_fit_are_not_applied() {
        let empty = CatalogContent::empty(VOLUME, "catalog/".into());
        let mut content = empty.clone();
        let misfit = CatalogEdit::Segments(vec![segment(1, 0, 1), segment(3, 2, 1)]);
        let edits = [CatalogEdit::Source(source(1)), misfit];
        let error = content.apply_all(edits, |_, _| Ok(())).err().expect("a gap in the chain");
        assert_eq!((error.kind(), content), (ErrorKind::Corrupt, empty));
    }
}
