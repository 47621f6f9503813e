//! The bytes of a catalog version's edits: little-endian, length before content, every length
//! bounded.

use super::annotations::{Commitment, Pin, PinUntil, Verdict, VerdictKind};
use super::edit::{Branch, CatalogEdit, Division, SegmentEntry, SourceIdentity, SourceInstance};
use super::lifecycle::{Lifecycle, Stage, Step, StepKind};
use crate::bytes::{Reader, Writer};
use crate::error::Result;
use crate::event::Cause;
use crate::journal::{Mark, MarkEntry, OrderChange, PointKind, SegmentKind, SegmentSummary};
use crate::units::{ChainHash, Epoch, PointId, Sequence, Timestamp, VolumeId};

/// Longest text in a record.
const TEXT_BYTES_MAX: usize = 1024;
/// A step of the life cycle takes at least this much.
const STEP_BYTES_MIN: usize = 1 + 16 + 8 + 4 + 8 + 1 + 8 + 4 + 4;
/// A segment takes more than this.
const ENTRY_BYTES_MIN: usize = 150;
/// A mark takes at least this much.
const MARK_BYTES_MIN: usize = 8 + 8 + 16 + 1 + 4 + 1;
/// A change of the order takes exactly this much.
const ORDER_CHANGE_BYTES: usize = 8 + 8 + 1;

/// Appends one edit.
pub(super) fn put_edit(out: &mut Vec<u8>, edit: &CatalogEdit) {
    match edit {
        CatalogEdit::Source(source) => {
            out.put_u8(1);
            put_source(out, source);
        }
        CatalogEdit::Segments(entries) => {
            out.put_u8(2);
            put_entries(out, entries);
        }
        CatalogEdit::Replace { with, objects } => {
            out.put_u8(3);
            put_entries(out, with);
            put_texts(out, objects);
        }
        CatalogEdit::Pin(pin) => {
            let (kind, until) = match pin.until {
                PinUntil::Time(until) => (1, until),
                PinUntil::Forever => (2, Timestamp(0)),
                PinUntil::LegalHold => (3, Timestamp(0)),
            };
            out.put_u8(4)
                .put_bytes(&pin.point.0)
                .put_u8(kind)
                .put_i64_le(until.0)
                .put_i64_le(pin.since.0);
            put_text(out, &pin.reason);
        }
        CatalogEdit::Unpin { point, legal_hold } => {
            out.put_u8(5).put_bytes(&point.0).put_u8(u8::from(*legal_hold));
        }
        CatalogEdit::Verdict(verdict) => {
            out.put_u8(6).put_bytes(&verdict.point.0).put_u8(verdict.kind.code());
            out.put_u8(u8::from(verdict.ok)).put_i64_le(verdict.time.0);
            put_text(out, &verdict.text);
        }
        CatalogEdit::Retired { objects, at } => {
            out.put_u8(7).put_i64_le(at.0);
            put_texts(out, objects);
        }
        CatalogEdit::Deleted(objects) => {
            out.put_u8(8);
            put_texts(out, objects);
        }
        CatalogEdit::Committed(commitment) => {
            out.put_u8(9).put_bytes(&commitment.group.0).put_u32_le(u32::from(commitment.members));
            put_text(out, &commitment.name);
        }
        CatalogEdit::Divide(division) => {
            out.put_u8(10)
                .put_u32_le(division.epoch.0)
                .put_u64_le(division.at.0)
                .put_i64_le(division.time.0);
            put_source(out, &division.source);
            put_entries(out, division.cut.as_slice());
        }
        CatalogEdit::Late { epoch, segments } => {
            out.put_u8(11).put_u32_le(epoch.0);
            put_entries(out, segments);
        }
        CatalogEdit::DropBranch(epoch) => {
            out.put_u8(12).put_u32_le(epoch.0);
        }
        CatalogEdit::Step(step) => {
            out.put_u8(13);
            put_step(out, step);
        }
        CatalogEdit::Epoch(epoch) => {
            out.put_u8(14).put_u32_le(epoch.0);
        }
        CatalogEdit::Branch(branch) => {
            out.put_u8(15)
                .put_u32_le(branch.epoch.0)
                .put_u64_le(branch.at.0)
                .put_u64_le(branch.base.0);
            out.put_bytes(&branch.chain.0).put_i64_le(branch.time.0);
            out.put_u8(u8::from(branch.source.is_some()));
            if let Some(source) = &branch.source {
                put_source(out, source);
            }
            put_entries(out, &branch.segments);
        }
        CatalogEdit::Instance(instance) => {
            out.put_u8(17).put_bytes(&instance.id);
            put_text(out, &instance.host);
            out.put_i64_le(instance.since.0);
        }
        CatalogEdit::Heartbeat(at) => {
            out.put_u8(18).put_i64_le(at.0);
        }
        CatalogEdit::Next(number) => {
            out.put_u8(19).put_u64_le(*number);
        }
        CatalogEdit::Lifecycle(lifecycle) => {
            let (stage, before, current, tests, steps) = lifecycle.parts();
            out.put_u8(16).put_u8(stage.code()).put_u8(before.code());
            let current: Vec<_> = current.into_iter().collect();
            let steps: Vec<_> = steps.iter().collect();
            for list in [current, tests, steps] {
                put_list(out, &list, |out, step| put_step(out, step));
            }
        }
    }
}

fn put_source(out: &mut Vec<u8>, source: &SourceIdentity) {
    out.put_bytes(&source.id);
    put_text(out, &source.host);
    out.put_i64_le(source.since.0);
}

fn put_step(out: &mut Vec<u8>, step: &Step) {
    out.put_u8(step.kind.code()).put_bytes(&step.failover.0).put_i64_le(step.time.0);
    put_text(out, &step.host);
    out.put_u64_le(step.at.0);
    put_point(out, step.point);
    out.put_i64_le(step.at_time.0).put_u32_le(step.epoch.0);
    put_text(out, &step.note);
}

fn put_texts(out: &mut Vec<u8>, texts: &[String]) {
    put_list(out, texts, |out, text| put_text(out, text));
}

fn put_entries(out: &mut Vec<u8>, entries: &[SegmentEntry]) {
    put_list(out, entries, |out, entry| {
        put_text(out, &entry.object);
        put_summary(out, &entry.summary);
    });
}

fn put_summary(out: &mut Vec<u8>, s: &SegmentSummary) {
    out.put_u8(s.kind.code()).put_bytes(&s.volume.0).put_u32_le(s.epoch.0);
    out.put_u64_le(s.first_sequence.0)
        .put_u64_le(s.last_sequence.0)
        .put_i64_le(s.first_time.0)
        .put_i64_le(s.last_time.0);
    out.put_bytes(&s.salt).put_bytes(&s.previous.0).put_bytes(&s.chain.0);
    out.put_u64_le(s.records).put_u64_le(s.data_bytes).put_u64_le(s.stored_bytes);
    put_list(out, &s.marks, |out, MarkEntry { sequence, time, mark }| {
        out.put_u64_le(sequence.0).put_i64_le(time.0).put_bytes(&mark.point.0);
        // Here, and only here, the first kind has code 0.
        out.put_u8(mark.kind.code() - 1);
        put_text(out, &mark.label);
        put_point(out, mark.group);
    });
    put_list(out, &s.order_changes, |out, change| {
        out.put_u64_le(change.sequence.0).put_i64_le(change.time.0);
        out.put_u8(change.begin.map_or(0, Cause::code));
    });
}

/// Appends an identity that may be absent: a flag, then the identity if there is one.
fn put_point(out: &mut Vec<u8>, point: Option<PointId>) {
    out.put_u8(u8::from(point.is_some()));
    if let Some(point) = point {
        out.put_bytes(&point.0);
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    debug_assert!(text.len() <= TEXT_BYTES_MAX);
    out.put_u32_le(text.len() as u32).put_bytes(text.as_bytes());
}

fn put_list<T>(out: &mut Vec<u8>, list: &[T], put: impl Fn(&mut Vec<u8>, &T)) {
    out.put_u32_le(list.len() as u32);
    list.iter().for_each(|entry| put(out, entry));
}

/// Reads one edit.
pub(super) fn read_edit(from: &mut Reader<'_>) -> Result<CatalogEdit> {
    match from.u8()? {
        1 => Ok(CatalogEdit::Source(read_source(from)?)),
        2 => Ok(CatalogEdit::Segments(read_entries(from)?)),
        3 => Ok(CatalogEdit::Replace { with: read_entries(from)?, objects: read_texts(from)? }),
        4 => Ok(CatalogEdit::Pin(read_pin(from)?)),
        5 => Ok(CatalogEdit::Unpin { point: PointId(from.array()?), legal_hold: from.flag()? }),
        6 => Ok(CatalogEdit::Verdict(read_verdict(from)?)),
        7 => {
            let at = read_time(from)?;
            Ok(CatalogEdit::Retired { objects: read_texts(from)?, at })
        }
        8 => Ok(CatalogEdit::Deleted(read_texts(from)?)),
        9 => {
            let (group, members) = (PointId(from.array()?), from.u32_le()?);
            let members = u16::try_from(members)
                .map_err(|_| from.invalid("at most 65,535 members", members))?;
            Ok(CatalogEdit::Committed(Commitment { group, members, name: read_text(from)? }))
        }
        10 => {
            let (epoch, at, time) = (read_epoch(from)?, Sequence(from.u64_le()?), read_time(from)?);
            let source = read_source(from)?;
            let mut cut = read_entries(from)?;
            if cut.len() > 1 {
                return Err(from.invalid("one cut at most", cut.len()));
            }
            Ok(CatalogEdit::Divide(Division { epoch, at, cut: cut.pop(), source, time }))
        }
        11 => Ok(CatalogEdit::Late { epoch: read_epoch(from)?, segments: read_entries(from)? }),
        12 => Ok(CatalogEdit::DropBranch(read_epoch(from)?)),
        13 => Ok(CatalogEdit::Step(read_step(from)?)),
        14 => Ok(CatalogEdit::Epoch(read_epoch(from)?)),
        15 => {
            let (epoch, at) = (read_epoch(from)?, Sequence(from.u64_le()?));
            let base = Sequence(from.u64_le()?);
            let (chain, time) = (ChainHash(from.array()?), read_time(from)?);
            let source = if from.flag()? { Some(read_source(from)?) } else { None };
            let segments = read_entries(from)?;
            let branch = Branch { epoch, at, base, chain, source, time, segments };
            Ok(CatalogEdit::Branch(branch))
        }
        16 => {
            let stages = (read_stage(from)?, read_stage(from)?);
            let mut current = read_steps(from)?;
            if current.len() > 1 {
                return Err(from.invalid("one failover at most", current.len()));
            }
            let (tests, steps) = (read_steps(from)?, read_steps(from)?);
            let lifecycle = Lifecycle::restored(stages, current.pop(), tests, steps);
            Ok(CatalogEdit::Lifecycle(lifecycle))
        }
        17 => {
            let (id, host, since) = (from.array()?, read_text(from)?, read_time(from)?);
            Ok(CatalogEdit::Instance(SourceInstance { id, host, since }))
        }
        18 => Ok(CatalogEdit::Heartbeat(read_time(from)?)),
        19 => Ok(CatalogEdit::Next(from.u64_le()?)),
        other => Err(from.invalid("a known edit", other)),
    }
}

fn read_source(from: &mut Reader<'_>) -> Result<SourceIdentity> {
    Ok(SourceIdentity { id: from.array()?, host: read_text(from)?, since: read_time(from)? })
}

fn read_epoch(from: &mut Reader<'_>) -> Result<Epoch> {
    from.u32_le().map(Epoch)
}

fn read_stage(from: &mut Reader<'_>) -> Result<Stage> {
    let code = from.u8()?;
    Stage::from_code(code).ok_or_else(|| from.invalid("a known stage", code))
}

fn read_steps(from: &mut Reader<'_>) -> Result<Vec<Step>> {
    read_list(from, STEP_BYTES_MIN, read_step)
}

fn read_step(from: &mut Reader<'_>) -> Result<Step> {
    let code = from.u8()?;
    let kind = StepKind::from_code(code).ok_or_else(|| from.invalid("a known step", code))?;
    let (failover, time) = (PointId(from.array()?), read_time(from)?);
    let (host, at) = (read_text(from)?, Sequence(from.u64_le()?));
    let point = if from.flag()? { Some(PointId(from.array()?)) } else { None };
    let (at_time, epoch, note) = (read_time(from)?, read_epoch(from)?, read_text(from)?);
    Ok(Step { kind, failover, time, host, at, point, at_time, epoch, note })
}

fn read_texts(from: &mut Reader<'_>) -> Result<Vec<String>> {
    read_list(from, 4, read_text)
}

fn read_pin(from: &mut Reader<'_>) -> Result<Pin> {
    let (point, kind, until) = (PointId(from.array()?), from.u8()?, read_time(from)?);
    let until = match kind {
        1 => PinUntil::Time(until),
        2 => PinUntil::Forever,
        3 => PinUntil::LegalHold,
        other => return Err(from.invalid("a known kind of pin", other)),
    };
    Ok(Pin { point, until, since: read_time(from)?, reason: read_text(from)? })
}

fn read_verdict(from: &mut Reader<'_>) -> Result<Verdict> {
    let (point, code) = (PointId(from.array()?), from.u8()?);
    let kind = VerdictKind::from_code(code);
    let kind = kind.ok_or_else(|| from.invalid("a known kind of verdict", code))?;
    Ok(Verdict { point, kind, ok: from.flag()?, time: read_time(from)?, text: read_text(from)? })
}

fn read_entries(from: &mut Reader<'_>) -> Result<Vec<SegmentEntry>> {
    read_list(from, ENTRY_BYTES_MIN, |from| {
        Ok(SegmentEntry { object: read_text(from)?, summary: read_summary(from)? })
    })
}

fn read_summary(from: &mut Reader<'_>) -> Result<SegmentSummary> {
    let code = from.u8()?;
    Ok(SegmentSummary {
        kind: SegmentKind::from_code(code)
            .ok_or_else(|| from.invalid("a known segment kind", code))?,
        volume: VolumeId(from.array()?),
        epoch: Epoch(from.u32_le()?),
        first_sequence: Sequence(from.u64_le()?),
        last_sequence: Sequence(from.u64_le()?),
        first_time: read_time(from)?,
        last_time: read_time(from)?,
        salt: from.array()?,
        previous: ChainHash(from.array()?),
        chain: ChainHash(from.array()?),
        records: from.u64_le()?,
        data_bytes: from.u64_le()?,
        stored_bytes: from.u64_le()?,
        marks: read_list(from, MARK_BYTES_MIN, read_mark)?,
        order_changes: read_list(from, ORDER_CHANGE_BYTES, read_order_change)?,
    })
}

fn read_mark(from: &mut Reader<'_>) -> Result<MarkEntry> {
    let (sequence, time) = (Sequence(from.u64_le()?), read_time(from)?);
    let point = PointId(from.array()?);
    let code = from.u8()?;
    let kind = PointKind::from_code(code.saturating_add(1))
        .ok_or_else(|| from.invalid("a known point kind", code))?;
    let label = read_text(from)?;
    let group = match from.u8()? {
        0 => None,
        _ => Some(PointId(from.array()?)),
    };
    Ok(MarkEntry { sequence, time, mark: Mark { point, kind, label, group } })
}

fn read_order_change(from: &mut Reader<'_>) -> Result<OrderChange> {
    let (sequence, time) = (Sequence(from.u64_le()?), read_time(from)?);
    let code = from.u8()?;
    let begin = match code {
        0 => None,
        _ => Some(Cause::from_code(code).ok_or_else(|| from.invalid("a known cause", code))?),
    };
    Ok(OrderChange { sequence, time, begin })
}

fn read_time(from: &mut Reader<'_>) -> Result<Timestamp> {
    from.i64_le().map(Timestamp)
}

fn read_text(from: &mut Reader<'_>) -> Result<String> {
    let length = from.u32_le()?;
    from.text(length as usize, TEXT_BYTES_MAX).map(str::to_owned)
}

/// Reads a list whose entries take at least `entry_bytes_min` each.
fn read_list<T>(
    from: &mut Reader<'_>,
    entry_bytes_min: usize,
    read: impl Fn(&mut Reader<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    let count = from.u32_le()?;
    let count = from.count(count, entry_bytes_min)?;
    (0..count).map(|_| read(from)).collect()
}
