//! Compares merged segments with a map of single bytes.

use proptest::prelude::*;

use super::format::IndexKind;
use super::*;
use crate::clock::ManualClock;
use crate::error::{ErrorKind, Result};

const VOLUME_BYTES: u64 = 4096;

/// Last writer of one byte, and its value if the writer has data.
type Byte = Option<(Sequence, IndexKind, u8)>;

#[derive(Clone, Debug)]
enum Step {
    Write(u64, u64, u8),
    Zero(u64, u64),
    Undefined(u64, u64),
    Touch(u64, u64),
    Mark,
    Close,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let place = || (0..VOLUME_BYTES - 600, 1_u64..600);
    let step = prop_oneof![
        8 => (place(), any::<u8>()).prop_map(|((o, l), value)| Step::Write(o, l, value)),
        1 => place().prop_map(|(o, l)| Step::Zero(o, l)),
        1 => place().prop_map(|(o, l)| Step::Undefined(o, l)),
        1 => place().prop_map(|(o, l)| Step::Touch(o, l)),
        1 => Just(Step::Mark),
        3 => Just(Step::Close),
    ];
    prop::collection::vec(step, 1..80)
}

fn params(first: u64, previous: ChainHash) -> SegmentParams {
    SegmentParams {
        kind: SegmentKind::Log,
        volume: VolumeId([1; 16]),
        epoch: Epoch(1),
        first_sequence: Sequence(first),
        device_bytes: VOLUME_BYTES,
        block_bytes: 512,
        previous,
        replaces_through: None,
        created: Timestamp(1),
        compression: Compression::None,
        frame_bytes: 1500,
    }
}

fn clock() -> ManualClock {
    ManualClock::new(Timestamp(77), 3)
}

fn open(bytes: Vec<u8>, key: Option<&VolumeKey>) -> Segment {
    let keys = key.map_or_else(KeyRing::default, |key| key.clone().into());
    let segment = Segment::open(Box::new(BytesSource::new("s.hrl", bytes)), &keys).expect("sound");
    segment.verify().expect("sound");
    segment
}

fn mark(number: u64) -> Mark {
    let mut point = [0; 16];
    point[..8].copy_from_slice(&number.to_le_bytes());
    Mark { point: PointId(point), kind: PointKind::Crash, label: String::new(), group: None }
}

/// Writes chained logs. Now and then a sequence is left out, as flushes would.
fn write_logs(steps: &[Step], key: Option<&VolumeKey>) -> (Vec<Segment>, Vec<Byte>) {
    let clock = clock();
    let (mut segments, mut model) = (Vec::new(), vec![None; VOLUME_BYTES as usize]);
    let mut previous = ChainHash::default();
    let mut sequence = 0;
    for part in steps.split(|step| matches!(step, Step::Close)) {
        let mut writer =
            SegmentWriter::create(Vec::new(), params(sequence + 1, previous), key, &clock)
                .expect("create");
        for step in part {
            sequence += 1 + sequence % 2;
            let data;
            let (body, kind, value) = match step {
                Step::Write(offset, length, value) => {
                    data = vec![*value; *length as usize];
                    (Body::Write { offset: *offset, data: &data }, IndexKind::Data, *value)
                }
                Step::Zero(offset, length) => {
                    (Body::Zero(Extent { offset: *offset, length: *length }), IndexKind::Zero, 0)
                }
                Step::Undefined(offset, length) => {
                    let extent = Extent { offset: *offset, length: *length };
                    (Body::Discard(extent, Discarded::Undefined), IndexKind::Undefined, 0)
                }
                Step::Touch(offset, length) => {
                    (Body::Touch(Extent { offset: *offset, length: *length }), IndexKind::Touch, 0)
                }
                _ => (Body::Mark(mark(sequence)), IndexKind::Zero, 0),
            };
            let extent = body.extent();
            model[extent.offset as usize..extent.end() as usize].fill(Some((
                Sequence(sequence),
                kind,
                value,
            )));
            let time = Timestamp(sequence.cast_signed() * 100);
            writer.append(&Record { sequence: Sequence(sequence), time, body }).expect("append");
        }
        if writer.records() > 0 {
            let (bytes, summary) = writer.close(None).expect("close");
            previous = summary.chain;
            segments.push(open(bytes, key));
        }
    }
    (segments, model)
}

/// Returns the byte map of a segment; checks the time of each record.
fn map_of(segment: &Segment) -> Vec<Byte> {
    let mut map = vec![None; VOLUME_BYTES as usize];
    for entry in segment.index().expect("index").iter() {
        let frame = segment.frame(entry.frame).expect("frame");
        let record = frame.records().map(|record| record.expect("sound"));
        let record = record.into_iter().find(|record| record.sequence == entry.sequence);
        assert_eq!(record.expect("a record").time, Timestamp(entry.sequence.0.cast_signed() * 100));
        for at in 0..entry.extent.length {
            let value = match entry.kind {
                IndexKind::Data => {
                    frame.data_at(entry.data_offset + at as u32, 1).expect("data")[0]
                }
                _ => 0,
            };
            map[(entry.extent.offset + at) as usize] = Some((entry.sequence, entry.kind, value));
        }
    }
    map
}

fn fold(
    segments: &[&Segment],
    kind: SegmentKind,
    key: Option<&VolumeKey>,
) -> Result<(Segment, MergeReport)> {
    let (bytes, summary, report) =
        merge(segments, kind, Vec::new(), Compression::Zstd(1), key, &clock())?;
    let merged = open(bytes, key);
    assert_eq!(merged.summary(), &summary);
    Ok((merged, report))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_merged_segment_has_the_recovery_state_at_its_end(steps in steps(), encrypted in any::<bool>(), cut in 1_usize..6) {
        let key = encrypted.then(|| VolumeKey::from_bytes([5; 32]));
        let (segments, model) = write_logs(&steps, key.as_ref());
        prop_assume!(!segments.is_empty());
        let all: Vec<_> = segments.iter().collect();
        let (merged, report) = fold(&all, SegmentKind::Merged, key.as_ref()).expect("merge");
        prop_assert!(map_of(&merged) == model);
        let (first, last) = (segments[0].summary(), segments[segments.len() - 1].summary());
        let summary = merged.summary();
        prop_assert_eq!((summary.first_sequence, summary.last_sequence), (first.first_sequence, last.last_sequence));
        prop_assert_eq!((summary.first_time, summary.last_time), (first.first_time, last.last_time));
        prop_assert_eq!((summary.previous, summary.chain), (first.previous, last.chain));
        let kept: Vec<_> = last.marks.iter().filter(|mark| mark.sequence == last.last_sequence).cloned().collect();
        prop_assert_eq!(&summary.marks, &kept);
        let live = model.iter().flatten().filter(|byte| byte.1 == IndexKind::Data).count() as u64;
        let written: u64 = segments.iter().map(|segment| segment.summary().data_bytes).sum();
        prop_assert_eq!(report.data_bytes_dropped, written - live);

        // Merging in two steps gives the same as in one, even with tiny windows.
        let (left, right) = all.split_at(cut.min(all.len()));
        let (left, _) = fold(left, SegmentKind::Merged, key.as_ref()).expect("merge");
        let again: Vec<_> = std::iter::once(&left).chain(right.iter().copied()).collect();
        let (twice, _) = fold(&again, SegmentKind::Merged, key.as_ref()).expect("merge again");
        prop_assert!(map_of(&twice) == model);
        prop_assert_eq!(twice.summary().chain, last.chain);

        let (image, _) = fold(&again, SegmentKind::Image, key.as_ref()).expect("image");
        let without_zeroes: Vec<_> =
            model.iter().map(|byte| byte.filter(|byte| byte.1 != IndexKind::Zero)).collect();
        prop_assert!(map_of(&image) == without_zeroes);
    }

    #[test]
    fn small_windows_change_nothing(steps in steps(), window_bytes in 1_usize..2000) {
        let (segments, model) = write_logs(&steps, None);
        prop_assume!(!segments.is_empty());
        let all: Vec<_> = segments.iter().collect();
        let params = SegmentParams {
            kind: SegmentKind::Merged,
            replaces_through: Some(ChainHash([1; 32])),
            ..params(1, ChainHash::default())
        };
        let writer = SegmentWriter::create(Vec::new(), params, None, &clock()).expect("create");
        let (bytes, ..) =
            super::merge::merge_into(writer, &all, SegmentKind::Merged, window_bytes).expect("merge");
        prop_assert!(map_of(&open(bytes, None)) == model);
    }
}

#[test]
fn segments_that_do_not_follow_each_other_are_refused() {
    let write = |value| Step::Write(0, 10, value);
    let steps = [write(1), Step::Close, write(2), Step::Close, write(3)];
    let (segments, _) = write_logs(&steps, None);
    let [a, b, c] = segments.as_slice() else { panic!("three segments") };
    let kind_of =
        |segments: &[&Segment], kind| fold(segments, kind, None).expect_err("refused").kind();
    for wrong in [&[][..], &[a, c], &[b, a], &[a, a], &[c, b]] {
        assert_eq!(kind_of(wrong, SegmentKind::Merged), ErrorKind::InvalidInput);
    }
    assert_eq!(kind_of(&[a, b], SegmentKind::Log), ErrorKind::InvalidInput);
    assert_eq!(kind_of(&[b, c], SegmentKind::Image), ErrorKind::InvalidInput, "not from the base");
    let (image, _) = fold(&[a, b], SegmentKind::Image, None).expect("image");
    fold(&[&image, c], SegmentKind::Image, None).expect("an image goes on");
    assert_eq!(kind_of(&[&image, c], SegmentKind::Merged), ErrorKind::InvalidInput);
    assert_eq!(kind_of(&[a, &image], SegmentKind::Image), ErrorKind::InvalidInput);
    let (other, _) = write_logs(&steps, Some(&VolumeKey::from_bytes([5; 32])));
    assert_eq!(kind_of(&[&other[0]], SegmentKind::Merged), ErrorKind::InvalidInput, "no key");
}

#[test]
fn promise_7_a_merge_ends_ordered_and_keeps_the_gaps() {
    let log = |first: u64, previous, bodies: &[Body<'_>]| {
        let mut writer = SegmentWriter::create(Vec::new(), params(first, previous), None, &clock())
            .expect("create");
        for (at, body) in bodies.iter().enumerate() {
            let sequence = Sequence(first + at as u64);
            let time = Timestamp(sequence.0.cast_signed() * 100);
            writer.append(&Record { sequence, time, body: body.clone() }).expect("append");
        }
        open(writer.close(None).expect("close").0, None)
    };
    let write = Body::Write { offset: 8, data: &[1; 4] };
    let a = log(
        1,
        ChainHash::default(),
        &[write.clone(), Body::UnorderedBegin(Cause::Crash), write.clone(), Body::Mark(mark(4))],
    );
    let b = log(5, a.summary().chain, &[write.clone(), Body::UnorderedEnd, Body::Mark(mark(7))]);
    let error = fold(&[&a], SegmentKind::Merged, None).expect_err("unordered at its end");
    assert_eq!(error.kind(), ErrorKind::NotOrdered);
    for kind in [SegmentKind::Merged, SegmentKind::Image] {
        let (merged, _) = fold(&[&a, &b], kind, None).expect("ordered at its end");
        let changes: Vec<_> =
            merged.summary().order_changes.iter().map(|c| (c.sequence.0, c.begin)).collect();
        assert_eq!(changes, [(2, Some(Cause::Crash)), (6, None)]);
        let marks: Vec<_> = merged.summary().marks.iter().map(|mark| mark.sequence.0).collect();
        assert_eq!(marks, [7]);
    }
}
