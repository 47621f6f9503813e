//! Churn against a model: a list of writes gives the same figures as the journals.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::{CHURN_BUCKETS_MAX, Churn, ChurnOptions};
use hrl::journal::{
    Body, BytesSource, KeyRing, Record, Segment, SegmentKind, SegmentParams, SegmentWriter,
};
use hrl::{
    Cause, ChainHash, Compression, Epoch, ErrorKind, Extent, ManualClock, Sequence, Timestamp,
    VolumeId,
};

const SECOND: i64 = 1_000_000_000;
const SECTORS: usize = 2048;
const DEVICE_BYTES: u64 = SECTORS as u64 * 512;

/// Returns a segment with these records: times in nanoseconds, and bodies.
fn segment(first: u64, records: &[(i64, Body<'_>)]) -> Segment {
    let clock = ManualClock::new(Timestamp(0), first);
    let params = SegmentParams {
        kind: SegmentKind::Log,
        volume: VolumeId([1; 16]),
        epoch: Epoch(1),
        first_sequence: Sequence(first),
        device_bytes: DEVICE_BYTES,
        block_bytes: 512,
        previous: ChainHash::default(),
        replaces_through: None,
        created: Timestamp(0),
        compression: Compression::Zstd(1),
        frame_bytes: 4096,
    };
    let mut writer = SegmentWriter::create(Vec::new(), params, None, &clock).expect("begin");
    for (at, (time, body)) in records.iter().enumerate() {
        let sequence = Sequence(first + at as u64);
        let record = Record { sequence, time: Timestamp(*time), body: body.clone() };
        writer.append(&record).expect("append");
    }
    let (bytes, _) = writer.close(None).expect("close");
    let source = Box::new(BytesSource::new("test", bytes));
    Segment::open(source, &KeyRing::default()).expect("open")
}

fn options(bucket_s: u64) -> ChurnOptions {
    ChurnOptions { bucket: Duration::from_secs(bucket_s), ..ChurnOptions::default() }
}

/// Time since the previous write in milliseconds, offset and length in sectors.
type Write = (u64, u64, u64);

proptest! {
    #[test]
    fn journals_and_the_list_of_writes_give_the_same_churn(
        logs in prop::collection::vec(
            prop::collection::vec((0_u64..3000, 0_u64..2000, 1_u64..40), 1..20), 1..12),
        bucket_s in 1_u64..8,
    ) {
        let data = vec![7; 40 * 512];
        let (mut time, mut sequence) = (1_000 * SECOND, 1);
        let mut segments = Vec::new();
        let mut model: BTreeMap<i64, (u64, u64, Vec<bool>)> = BTreeMap::new();
        let mut from_time = None;
        for writes in &logs {
            let writes: &Vec<Write> = writes;
            let mut records = Vec::new();
            for (wait, offset, length) in writes {
                time += (*wait * 1_000_000).cast_signed();
                from_time.get_or_insert(time);
                let (offset, length) = (offset * 512, (length * 512) as usize);
                records.push((time, Body::Write { offset, data: &data[..length] }));
                let place = time / (SECOND * bucket_s.cast_signed());
                let bucket = model.entry(place).or_insert((0, 0, vec![false; SECTORS]));
                bucket.0 += 1;
                bucket.1 += length as u64;
                let sector = offset as usize / 512;
                bucket.2[sector..sector + length / 512].fill(true);
            }
            segments.push(segment(sequence, &records));
            sequence += records.len() as u64;
        }
        let churn = Churn::of_segments(&segments, &options(bucket_s)).expect("count");
        prop_assert_eq!(churn.buckets.len(), model.len());
        for (bucket, (place, (records, written, unique))) in churn.buckets.iter().zip(&model) {
            prop_assert_eq!(bucket.start.0, place * SECOND * bucket_s.cast_signed());
            prop_assert_eq!(bucket.records, *records);
            prop_assert_eq!(bucket.written_bytes, *written);
            let sectors = unique.iter().filter(|written| **written).count();
            prop_assert_eq!(bucket.unique_bytes, sectors as u64 * 512);
        }
        let stored: u64 = segments.iter().map(|segment| segment.summary().stored_bytes).sum();
        let counted = churn.total().stored_bytes;
        prop_assert!(counted <= stored && stored - counted <= model.len() as u64 + logs.len() as u64 * 20);
    }
}

#[test]
fn the_first_copy_is_counted_apart_and_marks_are_not_counted() {
    let data = [1; 4096];
    let write = |offset| Body::Write { offset, data: &data };
    let copy = [
        (SECOND, Body::UnorderedBegin(Cause::InitialReplication)),
        (SECOND, write(0)),
        (2 * SECOND, Body::UnorderedEnd),
    ];
    let segments =
        [segment(1, &copy), segment(4, &[(3 * SECOND, write(0)), (3 * SECOND, Body::Flush)])];
    let churn = Churn::of_segments(&segments, &options(60)).expect("count");
    let total = churn.total();
    assert_eq!((total.records, total.written_bytes, total.unique_bytes), (2, 4096, 4096));
    assert_eq!(total.resync_stored_bytes, segments[0].summary().stored_bytes);
    assert_eq!(total.stored_bytes, segments[1].summary().stored_bytes);
}

#[test]
fn a_volume_without_data_counts_touched_bytes_and_zeroes_cost_nothing() {
    let touch = |offset| Body::Touch(Extent { offset, length: 8192 });
    let zero = Body::Zero(Extent { offset: 0, length: 512 << 10 });
    let log = segment(1, &[(0, touch(0)), (0, touch(4096)), (0, zero)]);
    let churn = Churn::of_segments([&log], &options(60)).expect("count");
    let total = churn.total();
    assert_eq!((total.records, total.written_bytes, total.unique_bytes), (3, 16_384, 12_288));
}

#[test]
fn segments_are_cut_at_times_and_percentiles_include_quiet_buckets() {
    let data = [1; 1000];
    let write = Body::Write { offset: 0, data: &data };
    let records: Vec<_> = (0..10).map(|at| (at * 60 * SECOND, write.clone())).collect();
    let log = segment(1, &records);
    let options = ChurnOptions {
        from: Some(Timestamp(2 * 60 * SECOND)),
        to: Some(Timestamp(8 * 60 * SECOND)),
        ..options(30)
    };
    let churn = Churn::of_segments([&log], &options).expect("count");
    assert_eq!(churn.total().written_bytes, 6000);
    assert_eq!(churn.duration(), Duration::from_secs(330));
    let percentile = |p| churn.percentile(p, |bucket| bucket.written_bytes);
    // 6 of 11 buckets have writes.
    assert_eq!((percentile(45.0), percentile(50.0), percentile(100.0)), (0, 1000, 1000));
    assert_eq!(Churn::default().percentile(50.0, |bucket| bucket.records), 0);
}

#[test]
fn promise_12_buckets_are_bounded_and_the_error_suggests_a_remedy() {
    let body = Body::Write { offset: 0, data: &[0; 512] };
    let far = (CHURN_BUCKETS_MAX + 1).cast_signed() * SECOND;
    let log = segment(1, &[(0, body.clone()), (far, body)]);
    let error = Churn::of_segments([&log], &options(1)).expect_err("too many");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(Churn::of_segments([&log], &options(60)).is_ok());
    assert!(Churn::of_segments([&log], &options(0)).is_err());
}
