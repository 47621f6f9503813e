//! Catalogs that are edited by whoever wants to, with edits of every kind that fit or do not,
//! against the catalog itself as others read it (promises 5 and 9).
//!
//! - what was refused changed nothing, neither the catalog nor the store;
//! - what was accepted reads back, from single versions and from whole states;
//! - an amendment leaves the end of the chain, the epoch and the source alone, loses no pinned
//!   point, and stays in the limits.
//!
//! An input is one byte (bit 0: the whole state is two versions away), and then edits; see
//! `Rig::edit`.
#![no_main]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};

use hrl::journal::{Mark, MarkEntry, OrderChange, PointKind, SegmentKind, SegmentSummary};
use hrl::vault::{
    BRANCHES_MAX, Branch, Catalog, CatalogEdit, Commitment, Division, Lifecycle, Pin, PinUntil,
    STEPS_MAX, SegmentEntry, SourceIdentity, Step, StepKind, TESTS_MAX, Vault, Verdict,
    VerdictKind,
};
use hrl::{
    Cause, ChainHash, Clock, Epoch, ErrorKind, ManualClock, PointId, Sequence, Timestamp, VolumeId,
};
use hrl_fuzz::Memory;
use libfuzzer_sys::arbitrary::{Result as Parsed, Unstructured};
use libfuzzer_sys::fuzz_target;

const VERSIONS_MAX: usize = 80;
const EDITS_MAX: usize = 3;

fuzz_target!(|input: &[u8]| {
    let mut input = Unstructured::new(input);
    let Ok(config) = input.arbitrary::<u8>() else { return };
    let mut rig = Rig::new(usize::from(config & 1));
    for _ in 0..VERSIONS_MAX {
        if input.is_empty() || rig.step(&mut input).is_err() {
            return;
        }
    }
});

/// Vaults whose catalog has no version, and 62 versions.
static BASES: LazyLock<[BTreeMap<String, Vec<u8>>; 2]> = LazyLock::new(|| {
    [0, 62].map(|versions| {
        let store = Arc::new(Memory::default());
        let vault = Vault::create(store.clone(), None, clock()).expect("vault");
        vault.create_volume("v", 64 << 10, 512, false).expect("volume");
        let mut catalog = vault.replica("v").expect("replica").into_catalog();
        for _ in 0..versions {
            let taken = vec![CatalogEdit::Source(source(0))];
            catalog.append(&source(0), taken).expect("append");
        }
        store.all()
    })
});

fn clock() -> Arc<dyn Clock> {
    Arc::new(ManualClock::new(Timestamp(1), 1))
}

fn source(number: u8) -> SourceIdentity {
    let host = format!("host{number}");
    SourceIdentity { id: [number; 16], host, since: Timestamp(number.into()) }
}

/// Everything that a catalog contains.
#[derive(Debug, PartialEq)]
struct Said {
    version: u64,
    epoch: Epoch,
    source: Option<SourceIdentity>,
    segments: Vec<SegmentEntry>,
    branches: Vec<Branch>,
    lifecycle: Lifecycle,
    pins: Vec<Pin>,
    verdicts: Vec<Verdict>,
    retired: BTreeMap<String, Timestamp>,
    commitments: Vec<Option<Commitment>>,
}

impl Said {
    fn of(catalog: &Catalog) -> Self {
        Self {
            version: catalog.version(),
            epoch: catalog.epoch(),
            source: catalog.source().cloned(),
            segments: catalog.segments().to_vec(),
            branches: catalog.branches().to_vec(),
            lifecycle: catalog.lifecycle().clone(),
            pins: catalog.pins().to_vec(),
            verdicts: catalog.verdicts().to_vec(),
            retired: catalog.retired().clone(),
            commitments: (0..4).map(|n| catalog.commitment(point(n)).cloned()).collect(),
        }
    }

    fn points(&self) -> BTreeSet<PointId> {
        self.segments.iter().flat_map(|e| &e.summary.marks).map(|m| m.mark.point).collect()
    }
}

fn point(number: u8) -> PointId {
    PointId([number & 15; 16])
}

struct Rig {
    store: Arc<Memory>,
    vault: Vault,
    volume: VolumeId,
    catalog: Catalog,
    /// Objects and chain hashes so far.
    made: u64,
}

impl Rig {
    fn new(base: usize) -> Self {
        let store = Arc::new(Memory::default());
        BASES[base].iter().for_each(|(name, content)| store.add(name.clone(), content));
        let vault = Vault::open(store.clone(), None, clock()).expect("a vault");
        let replica = vault.replica("v").expect("a volume");
        let volume = replica.info().id;
        Self { store, vault, volume, catalog: replica.into_catalog(), made: 0 }
    }

    fn step(&mut self, input: &mut Unstructured<'_>) -> Parsed<()> {
        let who = input.arbitrary::<u8>()?;
        let count = 1 + usize::from(who >> 4) % EDITS_MAX;
        let mut edits = Vec::new();
        for _ in 0..count {
            edits.push(self.edit(input)?);
        }
        let before = Said::of(&self.catalog);
        let objects = self.store.all();
        let is_amendment = who & 1 == 1;
        let result = if is_amendment {
            self.catalog.amend(&edits, &|| Ok(()))
        } else {
            self.catalog.append(&source(who >> 1 & 1), edits.clone())
        };
        let after = Said::of(&self.catalog);
        match result {
            Err(error) => {
                assert!(after == before, "what was refused changed the catalog: {error}");
                assert!(self.store.all() == objects, "what was refused is in the store: {error}");
                assert_ne!(error.kind(), ErrorKind::Unavailable, "{error}");
            }
            Ok(()) => {
                assert_eq!(after.version, before.version + 1);
                let read = self.vault.replica("v").expect("what was written can be read");
                let read = Said::of(read.catalog());
                assert!(read == after, "{edits:?} reads back as\n{read:?}, not\n{after:?}");
                self.check_limits(&after);
                if is_amendment {
                    check_amendment(&before, &after, &edits);
                }
            }
        }
        Ok(())
    }

    fn check_limits(&self, said: &Said) {
        assert!(said.lifecycle.tests().len() <= TESTS_MAX);
        assert!(said.lifecycle.steps().len() <= STEPS_MAX);
        for stretch in self.catalog.timeline() {
            assert!(stretch.from <= stretch.to);
        }
        for branch in &said.branches {
            assert!(branch.stored_bytes() < u64::MAX && branch.base <= branch.at);
            let replica = self.vault.replica("v").expect("read before");
            replica.branch(branch.epoch).expect("a branch is a volume");
        }
    }

    // --- edits ---

    fn edit(&mut self, input: &mut Unstructured<'_>) -> Parsed<CatalogEdit> {
        let kind = input.arbitrary::<u8>()?;
        let time = Timestamp(input.arbitrary::<u8>()?.into());
        Ok(match kind % 20 {
            0 => CatalogEdit::Source(source(kind >> 7)),
            1..=3 => {
                let (chain, last) = (self.catalog.last_chain(), self.catalog.last_sequence());
                CatalogEdit::Segments(self.entries(input, self.catalog.epoch(), chain, last)?)
            }
            4 => self.replace(input)?,
            5 => {
                let (point, until) = (point(input.arbitrary()?), input.arbitrary::<u8>()?);
                let until = match until % 3 {
                    0 => PinUntil::Time(Timestamp(until.into())),
                    1 => PinUntil::Forever,
                    _ => PinUntil::LegalHold,
                };
                CatalogEdit::Pin(Pin { point, until, reason: self.text(input)?, since: time })
            }
            6 => {
                CatalogEdit::Unpin { point: point(input.arbitrary()?), legal_hold: kind >> 7 == 1 }
            }
            7 => {
                let (point, ok) = (point(input.arbitrary()?), kind >> 7 == 1);
                let kind = VerdictKind::ALL[input.choose_index(VerdictKind::ALL.len())?];
                CatalogEdit::Verdict(Verdict { point, kind, ok, time, text: self.text(input)? })
            }
            8 => CatalogEdit::Retired { objects: self.objects(input)?, at: time },
            9 => CatalogEdit::Deleted(self.objects(input)?),
            10..=12 => self.divide(input, time)?,
            13 => {
                let epoch = self.epoch(input)?;
                let branch = self.catalog.branch(epoch).ok().cloned();
                let (chain, last) = branch.map_or((ChainHash::default(), Sequence::ZERO), |b| {
                    (b.chain, b.last_sequence())
                });
                CatalogEdit::Late { epoch, segments: self.entries(input, epoch, chain, last)? }
            }
            14 => CatalogEdit::DropBranch(self.epoch(input)?),
            15 | 16 => self.life(input, time)?,
            17 => {
                let (group, name) = (point(input.arbitrary()?), self.text(input)?);
                CatalogEdit::Committed(Commitment { group, members: kind.into(), name })
            }
            18 => CatalogEdit::Epoch(self.epoch(input)?),
            _ if kind >> 7 == 1 => CatalogEdit::Lifecycle(Lifecycle::default()),
            _ => {
                let (epoch, at) = (self.epoch(input)?, self.catalog.last_sequence());
                let chain = self.catalog.last_chain();
                let segments = self.entries(input, epoch, chain, at)?;
                let source = Some(source(1));
                CatalogEdit::Branch(Branch { epoch, at, base: at, chain, source, time, segments })
            }
        })
    }

    fn text(&self, input: &mut Unstructured<'_>) -> Parsed<String> {
        let length = usize::from(input.arbitrary::<u8>()?);
        // Some are longer than may be.
        Ok("x".repeat(if length > 250 { length * 4 - 400 } else { length }))
    }

    /// Returns mostly the current epoch, the one before, or the next.
    fn epoch(&self, input: &mut Unstructured<'_>) -> Parsed<Epoch> {
        let now = self.catalog.epoch().0;
        Ok(Epoch(match input.arbitrary::<u8>()? {
            255 => u32::MAX,
            number => now.saturating_add(1).saturating_sub(u32::from(number % 6)),
        }))
    }

    fn objects(&self, input: &mut Unstructured<'_>) -> Parsed<Vec<String>> {
        let count = input.choose_index(4)?;
        (0..count)
            .map(|_| Ok(object(u64::from(input.arbitrary::<u8>()?) % (self.made + 3))))
            .collect()
    }

    /// Returns segments that mostly continue at an end.
    fn entries(
        &mut self,
        input: &mut Unstructured<'_>,
        epoch: Epoch,
        mut chain: ChainHash,
        mut last: Sequence,
    ) -> Parsed<Vec<SegmentEntry>> {
        let count = input.choose_index(4)?;
        let mut entries = Vec::new();
        for _ in 0..count {
            let (shape, length) = (input.arbitrary::<u8>()?, input.arbitrary::<u8>()?);
            let first = Sequence(last.0.saturating_add(1 + u64::from(shape >> 6)));
            let mut entry = self.entry(epoch, chain, first, first.0.saturating_add(length.into()));
            match shape & 15 {
                0 => entry.summary.previous = ChainHash([9; 32]),
                1 => entry.summary.epoch = Epoch(epoch.0.wrapping_add(1)),
                2 => entry.summary.first_sequence = last,
                3 => entry.summary.last_sequence = last,
                4 => entry.summary.volume = VolumeId([0xaa; 16]),
                5 => entry.object = object(u64::from(length) % (self.made + 1)),
                6 | 7 => self.mark(&mut entry.summary, input)?,
                8 => {
                    let begin = (shape & 16 == 0).then_some(Cause::Crash);
                    let time = Timestamp(3);
                    let change = OrderChange { sequence: first, time, begin };
                    entry.summary.order_changes.push(change);
                }
                _ => {}
            }
            (chain, last) = (entry.summary.chain, entry.summary.last_sequence);
            entries.push(entry);
        }
        Ok(entries)
    }

    fn mark(&self, summary: &mut SegmentSummary, input: &mut Unstructured<'_>) -> Parsed<()> {
        let (id, kind) = (point(input.arbitrary()?), input.arbitrary::<u8>()?);
        let kinds =
            [PointKind::Crash, PointKind::App, PointKind::GroupCrash, PointKind::GroupCrash];
        let kind_of = kinds[usize::from(kind & 3)];
        let is_commitment = kind & 3 == 3;
        let group = (kind & 2 == 2).then(|| if is_commitment { id } else { point(kind >> 4) });
        let label = if is_commitment { "3 shop".to_owned() } else { "label".to_owned() };
        let mark = Mark { point: id, kind: kind_of, label, group };
        let (sequence, time) = (summary.first_sequence, summary.first_time);
        summary.marks.push(MarkEntry { sequence, time, mark });
        Ok(())
    }

    fn entry(
        &mut self,
        epoch: Epoch,
        previous: ChainHash,
        first: Sequence,
        last: u64,
    ) -> SegmentEntry {
        self.made += 1;
        let mut chain = [0x11; 32];
        chain[..8].copy_from_slice(&self.made.to_le_bytes());
        let summary = SegmentSummary {
            kind: SegmentKind::Log,
            volume: self.volume,
            epoch,
            first_sequence: first,
            last_sequence: Sequence(last),
            first_time: Timestamp(1),
            last_time: Timestamp(2),
            salt: [self.made as u8; 16],
            previous,
            chain: ChainHash(chain),
            records: 1,
            data_bytes: 2,
            stored_bytes: 3,
            marks: Vec::new(),
            order_changes: Vec::new(),
        };
        SegmentEntry { object: object(self.made), summary }
    }

    /// Returns a fold of some segments, mostly one that replaces them.
    fn replace(&mut self, input: &mut Unstructured<'_>) -> Parsed<CatalogEdit> {
        let segments = self.catalog.segments().to_vec();
        let Some(last) = segments.len().checked_sub(1) else {
            return Ok(CatalogEdit::Replace { with: Vec::new(), objects: self.objects(input)? });
        };
        let (from, shape) = (input.choose_index(segments.len())?, input.arbitrary::<u8>()?);
        let to = (from + usize::from(shape & 3)).min(last);
        let (old_first, old_last) = (&segments[from].summary, &segments[to].summary);
        let mut with = self.entry(
            old_last.epoch,
            old_first.previous,
            old_first.first_sequence,
            old_last.last_sequence.0,
        );
        with.summary.chain = old_last.chain;
        with.summary.kind = SegmentKind::Merged;
        if shape & 4 == 0 {
            with.summary.marks.clone_from(&old_last.marks);
        }
        match shape >> 4 {
            0 => with.summary.previous = ChainHash([1; 32]),
            1 => with.summary.last_sequence = Sequence(old_last.last_sequence.0.wrapping_sub(1)),
            2 => with.object = object(0),
            _ => {}
        }
        let objects = segments[from..=to].iter().map(|entry| entry.object.clone()).collect();
        let with = if shape >> 4 == 15 { Vec::new() } else { vec![with] };
        Ok(CatalogEdit::Replace { with, objects })
    }

    fn divide(&mut self, input: &mut Unstructured<'_>, time: Timestamp) -> Parsed<CatalogEdit> {
        let epoch = self.epoch(input)?;
        let (place, shape) = (input.arbitrary::<u8>()?, input.arbitrary::<u8>()?);
        let segments = self.catalog.segments().to_vec();
        let found = segments.get(usize::from(place) % (segments.len() + 1));
        let (at, cut) = match found {
            None => (Sequence::ZERO, None),
            Some(entry) if shape & 1 == 0 => (entry.summary.last_sequence, None),
            Some(entry) => {
                let summary = &entry.summary;
                let length = summary.last_sequence.0.saturating_sub(summary.first_sequence.0);
                let inside = u64::from(shape >> 4) % length.max(1);
                let at = summary.first_sequence.0.saturating_add(inside);
                let first = summary.first_sequence;
                (Sequence(at), Some(self.entry(summary.epoch, summary.previous, first, at)))
            }
        };
        let cut = if shape & 14 == 14 { None } else { cut };
        let source = source(shape >> 1 & 1);
        Ok(CatalogEdit::Divide(Division { epoch, at, cut, source, time }))
    }

    fn life(&self, input: &mut Unstructured<'_>, time: Timestamp) -> Parsed<CatalogEdit> {
        let (kind, failover) = (input.arbitrary::<u8>()?, input.arbitrary::<u8>()?);
        let at = self.catalog.segments().get(usize::from(failover >> 4));
        Ok(CatalogEdit::Step(Step {
            kind: StepKind::ALL[usize::from(kind) % StepKind::ALL.len()],
            failover: point(failover & 3),
            time,
            host: "here".into(),
            at: at.map_or(Sequence::ZERO, |entry| entry.summary.last_sequence),
            point: (kind >> 7 == 1).then(|| point(failover)),
            at_time: Timestamp(4),
            epoch: Epoch(self.catalog.epoch().0.wrapping_add(1)),
            note: if kind >> 6 & 1 == 1 { self.text(input)? } else { "test".into() },
        }))
    }
}

fn object(number: u64) -> String {
    format!("volumes/v/segments/{number}.hrl")
}

fn check_amendment(before: &Said, after: &Said, edits: &[CatalogEdit]) {
    let end =
        |said: &Said| said.segments.last().map(|e| (e.summary.chain, e.summary.last_sequence));
    assert_eq!(end(before), end(after), "the end of the chain is the source's");
    assert!(before.source == after.source && before.epoch == after.epoch);
    assert!(after.branches.len() <= BRANCHES_MAX.max(before.branches.len()));
    let unpinned: Vec<_> = edits
        .iter()
        .filter_map(
            |edit| if let CatalogEdit::Unpin { point, .. } = edit { Some(point) } else { None },
        )
        .collect();
    let points = before.points();
    let pinned = before.pins.iter().map(|pin| pin.point).filter(|point| points.contains(point));
    for point in pinned.filter(|point| !unpinned.contains(&point)) {
        assert!(after.points().contains(&point), "a pinned point is lost");
    }
}
