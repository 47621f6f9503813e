//! How volume records and catalog versions are written as bytes: little-endian, length before content, bounded.

use super::annotations::{Commitment, Pin, PinUntil, Verdict, VerdictKind};
use super::edit::{Branch, CatalogEdit, Division, SegmentEntry, SourceIdentity};
use super::lifecycle::{Lifecycle, Stage, Step, StepKind};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Cause;
use crate::journal::{Mark, MarkEntry, OrderChange, PointKind, SegmentKind, SegmentSummary};
use crate::units::{ChainHash, Epoch, PointId, Sequence, Timestamp, VolumeId};

/// Longest text in a record.
const TEXT_BYTES_MAX: usize = 1024;
/// A step of the life cycle takes at least this much.
const STEP_BYTES_MIN: usize = 1 + 16 + 8 + 4 + 8 + 1 + 8 + 4 + 4;
/// The stages of a life cycle, in the order of their codes (code 1 is the first).
const STAGES: [Stage; 6] = [
    Stage::Protected,
    Stage::Requested,
    Stage::HandedOver,
    Stage::FailedOver,
    Stage::Committed,
    Stage::Reprotected,
];

fn stage_code(stage: Stage) -> u8 {
    STAGES.iter().position(|known| *known == stage).map_or(0, |at| at as u8 + 1)
}

/// Writes values.
#[derive(Default)]
pub(super) struct Encoder(pub Vec<u8>);

impl Encoder {
    pub(super) fn u8(&mut self, value: u8) -> &mut Self {
        self.0.push(value);
        self
    }

    pub(super) fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(super) fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(super) fn time(&mut self, value: Timestamp) -> &mut Self {
        self.bytes(&value.0.to_le_bytes())
    }

    pub(super) fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.0.extend_from_slice(value);
        self
    }

    pub(super) fn text(&mut self, value: &str) -> &mut Self {
        debug_assert!(value.len() <= TEXT_BYTES_MAX);
        self.u32(value.len() as u32).bytes(value.as_bytes())
    }

    pub(super) fn edit(&mut self, edit: &CatalogEdit) {
        match edit {
            CatalogEdit::Source(source) => {
                self.u8(1).source(source);
            }
            CatalogEdit::Segments(entries) => {
                self.u8(2);
                self.entries(entries);
            }
            CatalogEdit::Replace { with, objects } => {
                self.u8(3);
                self.entries(with);
                self.texts(objects);
            }
            CatalogEdit::Pin(pin) => {
                let (kind, until) = match pin.until {
                    PinUntil::Time(until) => (1, until),
                    PinUntil::Forever => (2, Timestamp(0)),
                    PinUntil::LegalHold => (3, Timestamp(0)),
                };
                self.u8(4).bytes(&pin.point.0).u8(kind).time(until).time(pin.since);
                self.text(&pin.reason);
            }
            CatalogEdit::Unpin { point, hold } => {
                self.u8(5).bytes(&point.0).u8(u8::from(*hold));
            }
            CatalogEdit::Verdict(verdict) => {
                let kind = VerdictKind::ALL.iter().position(|kind| *kind == verdict.kind);
                self.u8(6).bytes(&verdict.point.0).u8(kind.map_or(0, |at| at as u8 + 1));
                self.u8(u8::from(verdict.ok)).time(verdict.time).text(&verdict.text);
            }
            CatalogEdit::Retired { objects, at } => {
                self.u8(7).time(*at);
                self.texts(objects);
            }
            CatalogEdit::Deleted(objects) => {
                self.u8(8);
                self.texts(objects);
            }
            CatalogEdit::Committed(commitment) => {
                self.u8(9).bytes(&commitment.group.0).u32(u32::from(commitment.members));
                self.text(&commitment.name);
            }
            CatalogEdit::Divide(division) => {
                self.u8(10).u32(division.epoch.0).u64(division.at.0).time(division.time);
                self.source(&division.source);
                self.entries(division.cut.as_slice());
            }
            CatalogEdit::Late { epoch, segments } => {
                self.u8(11).u32(epoch.0);
                self.entries(segments);
            }
            CatalogEdit::DropBranch(epoch) => {
                self.u8(12).u32(epoch.0);
            }
            CatalogEdit::Step(step) => {
                self.u8(13).step(step);
            }
            CatalogEdit::Epoch(epoch) => {
                self.u8(14).u32(epoch.0);
            }
            CatalogEdit::Branch(branch) => {
                self.u8(15).u32(branch.epoch.0).u64(branch.at.0).u64(branch.base.0);
                self.bytes(&branch.chain.0).time(branch.time);
                self.u8(u8::from(branch.source.is_some()));
                if let Some(source) = &branch.source {
                    self.source(source);
                }
                self.entries(&branch.segments);
            }
            CatalogEdit::Lifecycle(lifecycle) => {
                let (stage, settled, current, tests, steps) = lifecycle.parts();
                self.u8(16).u8(stage_code(stage)).u8(stage_code(settled));
                let current: Vec<_> = current.into_iter().collect();
                let steps: Vec<_> = steps.iter().collect();
                for list in [current, tests, steps] {
                    self.u32(list.len() as u32);
                    for step in list {
                        self.step(step);
                    }
                }
            }
        }
    }

    fn source(&mut self, source: &SourceIdentity) -> &mut Self {
        self.bytes(&source.id).text(&source.host).time(source.since)
    }

    fn step(&mut self, step: &Step) -> &mut Self {
        let kind = StepKind::ALL.iter().position(|kind| *kind == step.kind);
        self.u8(kind.map_or(0, |at| at as u8 + 1)).bytes(&step.failover.0).time(step.time);
        self.text(&step.host).u64(step.at.0).u8(u8::from(step.point.is_some()));
        if let Some(point) = step.point {
            self.bytes(&point.0);
        }
        self.time(step.at_time).u32(step.epoch.0).text(&step.note)
    }

    fn texts(&mut self, texts: &[String]) {
        self.u32(texts.len() as u32);
        for text in texts {
            self.text(text);
        }
    }

    fn entries(&mut self, entries: &[SegmentEntry]) {
        self.u32(entries.len() as u32);
        for entry in entries {
            self.text(&entry.object);
            self.summary(&entry.summary);
        }
    }

    fn summary(&mut self, s: &SegmentSummary) {
        let kind = match s.kind {
            SegmentKind::Log => 1,
            SegmentKind::Merged => 2,
            SegmentKind::Image => 3,
        };
        self.u8(kind).bytes(&s.volume.0).u32(s.epoch.0);
        self.u64(s.first_sequence.0).u64(s.last_sequence.0).time(s.first_time).time(s.last_time);
        self.bytes(&s.salt).bytes(&s.previous.0).bytes(&s.chain.0);
        self.u64(s.records).u64(s.data_bytes).u64(s.stored_bytes);
        self.u32(s.marks.len() as u32);
        for entry in &s.marks {
            let mark = &entry.mark;
            let kind = PointKind::ALL.iter().position(|kind| *kind == mark.kind).unwrap_or(0) as u8;
            self.u64(entry.sequence.0).time(entry.time).bytes(&mark.point.0).u8(kind);
            self.text(&mark.label).u8(u8::from(mark.group.is_some()));
            if let Some(group) = mark.group {
                self.bytes(&group.0);
            }
        }
        self.u32(s.order_changes.len() as u32);
        for change in &s.order_changes {
            self.u64(change.sequence.0).time(change.time);
            self.u8(change.begin.map_or(0, Cause::code));
        }
    }
}

/// Reads values; every failure names the object and the place.
pub(super) struct Decoder<'a> {
    bytes: &'a [u8],
    at: usize,
    object: &'a str,
}

impl<'a> Decoder<'a> {
    pub(super) fn new(bytes: &'a [u8], object: &'a str) -> Self {
        Self { bytes, at: 0, object }
    }

    pub(super) fn bad(&self, expected: &str, found: impl std::fmt::Display) -> Error {
        Error::new(ErrorKind::Corrupt, "read", self.object)
            .at(self.at as u64)
            .expected(expected)
            .found(found)
    }

    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len());
        let Some(end) = end else {
            return Err(self.bad(&format!("{length} more bytes"), self.bytes.len() - self.at));
        };
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(self.take(N)?.try_into().expect("as long as was asked"))
    }

    pub(super) fn u8(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(super) fn time(&mut self) -> Result<Timestamp> {
        Ok(Timestamp(i64::from_le_bytes(self.array()?)))
    }

    pub(super) fn text(&mut self) -> Result<String> {
        let length = self.u32()? as usize;
        if length > TEXT_BYTES_MAX {
            return Err(self.bad("a text of at most 1024 bytes", length));
        }
        let bytes = self.take(length)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| self.bad("UTF-8", "other bytes"))
    }

    /// A count of things that take at least `least_bytes` each, so that it cannot ask for more than there is.
    pub(super) fn count(&mut self, least_bytes: usize) -> Result<usize> {
        let count = self.u32()? as usize;
        let possible = (self.bytes.len() - self.at) / least_bytes;
        if count > possible {
            return Err(self.bad(&format!("at most {possible} entries"), count));
        }
        Ok(count)
    }

    /// Everything must have been read.
    pub(super) fn end(&self) -> Result<()> {
        if self.at == self.bytes.len() {
            return Ok(());
        }
        Err(self.bad("the end", format_args!("{} more bytes", self.bytes.len() - self.at)))
    }

    pub(super) fn edit(&mut self) -> Result<CatalogEdit> {
        match self.u8()? {
            1 => Ok(CatalogEdit::Source(self.source()?)),
            2 => Ok(CatalogEdit::Segments(self.entries()?)),
            3 => Ok(CatalogEdit::Replace { with: self.entries()?, objects: self.texts()? }),
            4 => Ok(CatalogEdit::Pin(self.pin()?)),
            5 => Ok(CatalogEdit::Unpin { point: PointId(self.array()?), hold: self.flag()? }),
            6 => Ok(CatalogEdit::Verdict(self.verdict()?)),
            7 => {
                let at = self.time()?;
                Ok(CatalogEdit::Retired { objects: self.texts()?, at })
            }
            8 => Ok(CatalogEdit::Deleted(self.texts()?)),
            9 => {
                let (group, members) = (PointId(self.array()?), self.u32()?);
                let members = u16::try_from(members)
                    .map_err(|_| self.bad("at most 65,535 members", members))?;
                Ok(CatalogEdit::Committed(Commitment { group, members, name: self.text()? }))
            }
            10 => {
                let (epoch, at, time) = (self.epoch()?, Sequence(self.u64()?), self.time()?);
                let source = self.source()?;
                let mut cut = self.entries()?;
                if cut.len() > 1 {
                    return Err(self.bad("one cut at most", cut.len()));
                }
                Ok(CatalogEdit::Divide(Division { epoch, at, cut: cut.pop(), source, time }))
            }
            11 => Ok(CatalogEdit::Late { epoch: self.epoch()?, segments: self.entries()? }),
            12 => Ok(CatalogEdit::DropBranch(self.epoch()?)),
            13 => Ok(CatalogEdit::Step(self.step()?)),
            14 => Ok(CatalogEdit::Epoch(self.epoch()?)),
            15 => {
                let (epoch, at) = (self.epoch()?, Sequence(self.u64()?));
                let base = Sequence(self.u64()?);
                let (chain, time) = (ChainHash(self.array()?), self.time()?);
                let source = if self.flag()? { Some(self.source()?) } else { None };
                let segments = self.entries()?;
                let branch = Branch { epoch, at, base, chain, source, time, segments };
                Ok(CatalogEdit::Branch(branch))
            }
            16 => {
                let stages = (self.stage()?, self.stage()?);
                let mut current = self.steps()?;
                if current.len() > 1 {
                    return Err(self.bad("one failover at most", current.len()));
                }
                let (tests, steps) = (self.steps()?, self.steps()?);
                let lifecycle = Lifecycle::restored(stages, current.pop(), tests, steps);
                Ok(CatalogEdit::Lifecycle(lifecycle))
            }
            other => Err(self.bad("a known edit", other)),
        }
    }

    fn source(&mut self) -> Result<SourceIdentity> {
        Ok(SourceIdentity { id: self.array()?, host: self.text()?, since: self.time()? })
    }

    fn epoch(&mut self) -> Result<Epoch> {
        self.u32().map(Epoch)
    }

    fn stage(&mut self) -> Result<Stage> {
        let code = self.u8()?;
        STAGES
            .get(usize::from(code).wrapping_sub(1))
            .copied()
            .ok_or_else(|| self.bad("a known stage", code))
    }

    fn steps(&mut self) -> Result<Vec<Step>> {
        let count = self.count(STEP_BYTES_MIN)?;
        (0..count).map(|_| self.step()).collect()
    }

    fn step(&mut self) -> Result<Step> {
        let code = self.u8()?;
        let kind = StepKind::ALL.get(usize::from(code).wrapping_sub(1)).copied();
        let kind = kind.ok_or_else(|| self.bad("a known step", code))?;
        let (failover, time) = (PointId(self.array()?), self.time()?);
        let (host, at) = (self.text()?, Sequence(self.u64()?));
        let point = if self.flag()? { Some(PointId(self.array()?)) } else { None };
        let (at_time, epoch, note) = (self.time()?, self.epoch()?, self.text()?);
        Ok(Step { kind, failover, time, host, at, point, at_time, epoch, note })
    }

    fn texts(&mut self) -> Result<Vec<String>> {
        let count = self.count(4)?;
        (0..count).map(|_| self.text()).collect()
    }

    fn flag(&mut self) -> Result<bool> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(self.bad("0 or 1", other)),
        }
    }

    fn pin(&mut self) -> Result<Pin> {
        let (point, kind, until) = (PointId(self.array()?), self.u8()?, self.time()?);
        let until = match kind {
            1 => PinUntil::Time(until),
            2 => PinUntil::Forever,
            3 => PinUntil::LegalHold,
            other => return Err(self.bad("a known kind of pin", other)),
        };
        Ok(Pin { point, until, since: self.time()?, reason: self.text()? })
    }

    fn verdict(&mut self) -> Result<Verdict> {
        let (point, code) = (PointId(self.array()?), self.u8()?);
        let kind = VerdictKind::ALL.get(usize::from(code).wrapping_sub(1));
        let kind = *kind.ok_or_else(|| self.bad("a known kind of verdict", code))?;
        Ok(Verdict { point, kind, ok: self.flag()?, time: self.time()?, text: self.text()? })
    }

    fn entries(&mut self) -> Result<Vec<SegmentEntry>> {
        let count = self.count(150)?;
        (0..count)
            .map(|_| Ok(SegmentEntry { object: self.text()?, summary: self.summary()? }))
            .collect()
    }

    fn summary(&mut self) -> Result<SegmentSummary> {
        let kind = match self.u8()? {
            1 => SegmentKind::Log,
            2 => SegmentKind::Merged,
            3 => SegmentKind::Image,
            other => return Err(self.bad("a known segment kind", other)),
        };
        Ok(SegmentSummary {
            kind,
            volume: VolumeId(self.array()?),
            epoch: Epoch(self.u32()?),
            first_sequence: Sequence(self.u64()?),
            last_sequence: Sequence(self.u64()?),
            first_time: self.time()?,
            last_time: self.time()?,
            salt: self.array()?,
            previous: ChainHash(self.array()?),
            chain: ChainHash(self.array()?),
            records: self.u64()?,
            data_bytes: self.u64()?,
            stored_bytes: self.u64()?,
            marks: {
                let count = self.count(38)?;
                (0..count).map(|_| self.mark()).collect::<Result<_>>()?
            },
            order_changes: {
                let count = self.count(17)?;
                (0..count).map(|_| self.order_change()).collect::<Result<_>>()?
            },
        })
    }

    fn mark(&mut self) -> Result<MarkEntry> {
        let (sequence, time) = (Sequence(self.u64()?), self.time()?);
        let point = PointId(self.array()?);
        let code = self.u8()?;
        let kind = *PointKind::ALL
            .get(usize::from(code))
            .ok_or_else(|| self.bad("a known point kind", code))?;
        let label = self.text()?;
        let group = match self.u8()? {
            0 => None,
            _ => Some(PointId(self.array()?)),
        };
        Ok(MarkEntry { sequence, time, mark: Mark { point, kind, label, group } })
    }

    fn order_change(&mut self) -> Result<OrderChange> {
        let (sequence, time) = (Sequence(self.u64()?), self.time()?);
        let code = self.u8()?;
        let begin = match code {
            0 => None,
            _ => Some(Cause::from_code(code).ok_or_else(|| self.bad("a known cause", code))?),
        };
        Ok(OrderChange { sequence, time, begin })
    }
}
