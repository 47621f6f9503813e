//! What the catalog of a volume said at a time, and the edits that make it say so again.
//!
//! A version has no time of its own. What it says has: segments, heartbeats, retirements, pins. The
//! catalog "at T" is its last version that is certainly from before: one that knows a later time than
//! all before it, and none after T. Versions between that one and the first from after T may be of
//! either side, so what they took away comes back, too.
//!
//! Nothing that was added since T is taken away. A fold made since T is replaced by what it was made
//! of: by the entries of the catalog at T, or else by the smallest entries that any version since
//! has listed. What has no objects any more stays folded.

use std::collections::{HashMap, HashSet};

use hrl::journal::SegmentKind;
use hrl::vault::{
    Branch, Catalog, CatalogContent, CatalogEdit, Pin, SHREDDER, SegmentEntry, SourceIdentity,
    Verdict, VersionNames,
};
use hrl::{ChainHash, ErrorKind, PointId, Result, Timestamp};

/// Versions before the boundary that are tried, if those nearer to it cannot be read.
const TRIES_MAX: usize = 192;

/// What versions of a catalog say that the newest may not.
pub(crate) struct History {
    /// The catalog at the time; `None` if no version of then is left.
    then: Option<Catalog>,
    /// Every entry that a version lists, by the chain hash that it follows.
    entries: HashMap<ChainHash, Vec<SegmentEntry>>,
    /// The newest source that is no shredder.
    source: Option<SourceIdentity>,
}

/// How the catalog says again what it said.
#[derive(Default)]
pub(crate) struct Reinstated {
    /// The source that the volume gets back, before the edits.
    pub source: Option<SourceIdentity>,
    pub edits: Vec<CatalogEdit>,
    /// Points that come back.
    pub points: Vec<PointId>,
    /// Segments that take the places of folds, and those of branches.
    pub segments: u64,
    /// Pins and legal holds that come back.
    pub pins: u64,
    /// Folds that stay, because what they were made of is gone.
    pub folds_left: u64,
}

impl History {
    /// Reads all versions that `names` lists. Those that cannot be read are left out.
    pub fn read(catalog: &Catalog, names: &VersionNames, at: Timestamp) -> Result<Self> {
        let mut history = Self { then: None, entries: HashMap::new(), source: None };
        let (mut newest_time, mut before) = (None, Vec::new());
        let mut is_before = true;
        for number in names.numbers() {
            let edits = match catalog.edits_of(number) {
                Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NotFound) => {
                    continue;
                }
                edits => edits?,
            };
            let time = edits.iter().filter_map(time_of).max();
            is_before &= time.is_none_or(|time| time <= at);
            if is_before && time > newest_time {
                before.push(number);
            }
            newest_time = newest_time.max(time);
            edits.into_iter().for_each(|edit| history.note(edit));
        }
        history.then = before.iter().rev().take(TRIES_MAX).find_map(|n| catalog.past(*n).ok());
        Ok(history)
    }

    fn note(&mut self, edit: CatalogEdit) {
        let entries = match edit {
            CatalogEdit::Segments(entries)
            | CatalogEdit::Late { segments: entries, .. }
            | CatalogEdit::Replace { with: entries, .. } => entries,
            CatalogEdit::Branch(branch) => branch.segments,
            CatalogEdit::Divide(division) => {
                self.note_source(&division.source);
                division.cut.into_iter().collect()
            }
            CatalogEdit::Source(source) => return self.note_source(&source),
            _ => return,
        };
        for entry in entries {
            let known = self.entries.entry(entry.summary.previous).or_default();
            if known.iter().all(|other| other.object != entry.object) {
                known.push(entry);
            }
        }
    }

    fn note_source(&mut self, source: &SourceIdentity) {
        if source.host != SHREDDER {
            self.source = Some(source.clone());
        }
    }

    /// Returns what the catalog `now` lacks of what it said, as far as the objects are there.
    pub fn reinstate(
        &self,
        now: &CatalogContent,
        is_there: &dyn Fn(&str) -> bool,
        at: Timestamp,
    ) -> Reinstated {
        let mut done = Reinstated::default();
        if now.source().is_some_and(|source| source.host == SHREDDER) {
            let then = self.then.as_ref().and_then(|then| then.source());
            let then = then.filter(|source| source.host != SHREDDER);
            done.source = then.or(self.source.as_ref()).cloned();
        }
        let then: HashSet<&str> = self.then.iter().flat_map(names).collect();
        let (mut replaced, mut retired, mut wanted) = (Vec::new(), Vec::new(), Vec::new());
        for fold in now.segments() {
            let is_old = then.contains(fold.object.as_str());
            if is_old || fold.summary.kind == SegmentKind::Log {
                continue;
            }
            let Some(with) = self.made_of(fold, &then, is_there) else {
                done.folds_left += 1;
                continue;
            };
            if with.len() == 1 && with[0].object == fold.object {
                continue;
            }
            let left = points(std::slice::from_ref(fold));
            done.points.extend(points(&with).difference(&left));
            done.segments += with.len() as u64;
            wanted.extend(with.iter().map(|entry| entry.object.clone()));
            retired.push(fold.object.clone());
            let objects = vec![fold.object.clone()];
            replaced.push(CatalogEdit::Replace { with, objects });
        }
        let branches = self.dropped_branches(now, is_there);
        for branch in &branches {
            done.points.extend(points(&branch.segments));
            done.segments += branch.segments.len() as u64;
            wanted.extend(branch.segments.iter().map(|entry| entry.object.clone()));
        }
        wanted.retain(|object| now.retired().contains_key(object));
        if !wanted.is_empty() {
            done.edits.push(CatalogEdit::Deleted(wanted));
        }
        done.edits.extend(branches.into_iter().map(CatalogEdit::Branch));
        done.edits.extend(replaced);
        if !retired.is_empty() {
            done.edits.push(CatalogEdit::Retired { objects: retired, at });
        }
        let there: HashSet<PointId> =
            points(now.segments()).into_iter().chain(done.points.iter().copied()).collect();
        let pins = self.lost_pins(now).filter(|pin| there.contains(&pin.point));
        let pins: Vec<_> = pins.cloned().map(CatalogEdit::Pin).collect();
        done.pins = pins.len() as u64;
        done.edits.extend(pins);
        let verdicts = self.lost_verdicts(now).filter(|verdict| there.contains(&verdict.point));
        done.edits.extend(verdicts.cloned().map(CatalogEdit::Verdict));
        done
    }

    /// Returns the entries that a fold was made of, in write order.
    fn made_of(
        &self,
        fold: &SegmentEntry,
        then: &HashSet<&str>,
        is_there: &dyn Fn(&str) -> bool,
    ) -> Option<Vec<SegmentEntry>> {
        let (end, last) = (fold.summary.chain, fold.summary.last_sequence);
        let (mut with, mut chain) = (Vec::new(), fold.summary.previous);
        let mut next = fold.summary.first_sequence;
        while chain != end {
            let fits = |entry: &&SegmentEntry| {
                entry.object != fold.object
                    && entry.summary.first_sequence >= next
                    && entry.summary.last_sequence <= last
                    && is_there(&entry.object)
            };
            let found = self.entries.get(&chain)?.iter().filter(fits);
            let entry = found.min_by_key(|entry| {
                (!then.contains(entry.object.as_str()), entry.summary.last_sequence)
            })?;
            (chain, next) = (entry.summary.chain, entry.summary.last_sequence.next());
            with.push(entry.clone());
        }
        (!with.is_empty() && with[0].summary.first_sequence == fold.summary.first_sequence)
            .then_some(with)
    }

    fn dropped_branches(
        &self,
        now: &CatalogContent,
        is_there: &dyn Fn(&str) -> bool,
    ) -> Vec<Branch> {
        let then = self.then.iter().flat_map(|then| then.branches());
        let is_lost = |branch: &&Branch| {
            branch.epoch < now.epoch()
                && now.branches().iter().all(|other| other.epoch != branch.epoch)
                && branch.segments.iter().all(|entry| is_there(&entry.object))
        };
        then.filter(is_lost).cloned().collect()
    }

    fn lost_pins<'a>(&'a self, now: &'a CatalogContent) -> impl Iterator<Item = &'a Pin> {
        let is_lost = |pin: &&Pin| {
            let is_same =
                |o: &Pin| o.point == pin.point && o.is_legal_hold() == pin.is_legal_hold();
            !now.pins().iter().any(is_same)
        };
        self.then.iter().flat_map(|then| then.pins()).filter(is_lost)
    }

    fn lost_verdicts<'a>(&'a self, now: &'a CatalogContent) -> impl Iterator<Item = &'a Verdict> {
        let is_lost = |verdict: &&Verdict| {
            let is_same = |o: &Verdict| o.point == verdict.point && o.kind == verdict.kind;
            !now.verdicts().iter().any(is_same)
        };
        self.then.iter().flat_map(|then| then.verdicts()).filter(is_lost)
    }
}

fn names(catalog: &Catalog) -> impl Iterator<Item = &str> {
    catalog.segments().iter().map(|entry| entry.object.as_str())
}

fn points(entries: &[SegmentEntry]) -> HashSet<PointId> {
    let marks = entries.iter().flat_map(|entry| &entry.summary.marks);
    marks.filter(|mark| !mark.mark.is_commitment()).map(|mark| mark.mark.point).collect()
}

/// Returns the latest time that an edit knows of.
fn time_of(edit: &CatalogEdit) -> Option<Timestamp> {
    let last = |entries: &[SegmentEntry]| entries.iter().map(|e| e.summary.last_time).max();
    match edit {
        CatalogEdit::Source(source) => Some(source.since),
        CatalogEdit::Instance(instance) => Some(instance.since),
        CatalogEdit::Segments(entries) | CatalogEdit::Late { segments: entries, .. } => {
            last(entries)
        }
        CatalogEdit::Pin(pin) => Some(pin.since),
        CatalogEdit::Verdict(verdict) => Some(verdict.time),
        CatalogEdit::Retired { at, .. } | CatalogEdit::Heartbeat(at) => Some(*at),
        CatalogEdit::Divide(division) => Some(division.time),
        CatalogEdit::Step(step) => Some(step.time),
        CatalogEdit::Branch(branch) => Some(branch.time),
        CatalogEdit::Replace { .. }
        | CatalogEdit::Unpin { .. }
        | CatalogEdit::Deleted(_)
        | CatalogEdit::Committed(_)
        | CatalogEdit::DropBranch(_)
        | CatalogEdit::Next(_)
        | CatalogEdit::Epoch(_)
        | CatalogEdit::Lifecycle(_) => None,
    }
}
