//! Attacks on the native format: cuts, flips, swaps, splices; and round trips.

use std::sync::Arc;

use proptest::prelude::*;

use super::format::{FOOTER_BYTES, FRAME_HEADER_BYTES, HEADER_BYTES};
use super::*;
use crate::clock::ManualClock;
use crate::device::SystemFiles;
use crate::error::{Error, ErrorKind, Result};

const VOLUME_BYTES: u64 = 1 << 20;

fn params(first: u64, compression: Compression) -> SegmentParams {
    SegmentParams {
        kind: SegmentKind::Log,
        volume: VolumeId([1; 16]),
        epoch: Epoch(1),
        first_sequence: Sequence(first),
        device_bytes: VOLUME_BYTES,
        block_bytes: 512,
        previous: ChainHash::default(),
        replaces_through: None,
        created: Timestamp(1_000),
        compression,
        frame_bytes: 4096,
    }
}

fn write(records: &[Owned], key: Option<&VolumeKey>, compression: Compression) -> Vec<u8> {
    let clock = ManualClock::new(Timestamp(0), 7);
    let mut writer =
        SegmentWriter::create(Vec::new(), params(1, compression), key, &clock).expect("create");
    assert!(writer.closed_bytes_max() <= RECORD_EXTRA_BYTES_MAX);
    for (at, owned) in records.iter().enumerate() {
        let (before, record) = (writer.closed_bytes_max(), owned.record(at));
        writer.append(&record).expect("append");
        let data = if let Body::Write { data, .. } = record.body { data.len() as u64 } else { 0 };
        let added = writer.closed_bytes_max().saturating_sub(before);
        assert!(added <= data + RECORD_EXTRA_BYTES_MAX, "{added} bytes for {data}");
    }
    let most = writer.closed_bytes_max();
    let bytes = writer.close(None).expect("close").0;
    assert!(bytes.len() as u64 <= most, "{} bytes, and {most} were promised", bytes.len());
    bytes
}

fn open(bytes: &[u8], key: Option<&VolumeKey>) -> Result<Segment> {
    let ring = key.map_or_else(KeyRing::default, |key| key.clone().into());
    Segment::open(Box::new(BytesSource::new("test.hrl", bytes.to_vec())), &ring)
}

/// Returns the records as text, and the summary, after checking everything.
fn read_all(bytes: &[u8], key: Option<&VolumeKey>) -> Result<(Vec<String>, SegmentSummary)> {
    let segment = open(bytes, key)?;
    segment.verify()?;
    let mut records = Vec::new();
    for number in 0..segment.frame_count() {
        let frame = segment.frame(number)?;
        for record in frame.records() {
            records.push(format!("{:?}", record?));
        }
    }
    Ok((records, segment.summary().clone()))
}

/// A record that owns its data.
#[derive(Clone, Debug)]
enum Owned {
    Write(u64, Vec<u8>),
    Zero(Extent),
    Discard(Extent, Discarded),
    Touch(Extent),
    Flush,
    Mark(Mark),
    Begin(Cause),
    End,
}

impl Owned {
    fn record(&self, at: usize) -> Record<'_> {
        let body = match self {
            Self::Write(offset, data) => Body::Write { offset: *offset, data },
            Self::Zero(extent) => Body::Zero(*extent),
            Self::Discard(extent, what) => Body::Discard(*extent, *what),
            Self::Touch(extent) => Body::Touch(*extent),
            Self::Flush => Body::Flush,
            Self::Mark(mark) => Body::Mark(mark.clone()),
            Self::Begin(cause) => Body::UnorderedBegin(*cause),
            Self::End => Body::UnorderedEnd,
        };
        let at = at as u64;
        Record { sequence: Sequence(at * 2 + 1), time: Timestamp(at.cast_signed() * 10), body }
    }
}

fn arbitrary() -> impl Strategy<Value = Owned> {
    let extent =
        (0..VOLUME_BYTES / 2, 1_u64..9_000).prop_map(|(offset, length)| Extent { offset, length });
    let data = prop_oneof![
        prop::collection::vec(any::<u8>(), 1..2_000),
        (any::<u8>(), 1_usize..9_000).prop_map(|(byte, length)| vec![byte; length]),
    ];
    let mark = ("[a-zé]{0,20}", any::<[u8; 16]>(), 0_usize..5, any::<bool>()).prop_map(
        |(label, id, kind, group)| Mark {
            point: PointId(id),
            kind: PointKind::ALL[kind],
            label,
            group: group.then_some(PointId([9; 16])),
        },
    );
    prop_oneof![
        6 => (0..VOLUME_BYTES / 2, data).prop_map(|(offset, data)| Owned::Write(offset, data)),
        1 => extent.clone().prop_map(Owned::Zero),
        1 => extent.clone().prop_map(|e| Owned::Discard(e, Discarded::Zeroes)),
        1 => extent.clone().prop_map(|e| Owned::Discard(e, Discarded::Undefined)),
        1 => extent.prop_map(Owned::Touch),
        1 => Just(Owned::Flush),
        1 => mark.prop_map(Owned::Mark),
        1 => (0_usize..8).prop_map(|at| Owned::Begin(Cause::ALL[at])),
        1 => Just(Owned::End),
    ]
}

fn some_key() -> VolumeKey {
    VolumeKey::from_bytes([3; 32])
}

fn sample() -> Vec<Owned> {
    let mark = Mark {
        point: PointId([4; 16]),
        kind: PointKind::App,
        label: "before upgrade".into(),
        group: None,
    };
    vec![
        Owned::Write(4096, b"the quick brown fox jumps over the lazy dog".repeat(4)),
        Owned::Zero(Extent { offset: 8192, length: 512 }),
        Owned::Write(4100, vec![5; 40]),
        Owned::Mark(mark),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_record_is_read_as_it_was_written(
        records in prop::collection::vec(arbitrary(), 0..60), encrypted in any::<bool>(), packed in any::<bool>()
    ) {
        let key = encrypted.then(some_key);
        let compression = if packed { Compression::Zstd(1) } else { Compression::None };
        let bytes = write(&records, key.as_ref(), compression);
        let (found, summary) = read_all(&bytes, key.as_ref()).expect("sound");
        let expected: Vec<_> =
            records.iter().enumerate().map(|(at, r)| format!("{:?}", r.record(at))).collect();
        prop_assert_eq!(found, expected);
        prop_assert_eq!(summary.records, records.len() as u64);
        prop_assert_eq!(summary.stored_bytes, bytes.len() as u64);
    }

    #[test]
    fn the_index_at_any_sequence_agrees_with_a_byte_map(
        records in prop::collection::vec(arbitrary(), 1..40), cut in 0_u64..90
    ) {
        let bytes = write(&records, None, Compression::Zstd(1));
        let segment = open(&bytes, None).expect("sound");
        let mut model = vec![0_u64; VOLUME_BYTES as usize];
        for (at, owned) in records.iter().enumerate() {
            let record = owned.record(at);
            let extent = record.body.extent();
            if record.sequence.0 <= cut {
                model[extent.offset as usize..extent.end() as usize].fill(record.sequence.0);
            }
        }
        let mut found = vec![0_u64; VOLUME_BYTES as usize];
        for entry in segment.index_at(Sequence(cut)).expect("index") {
            found[entry.extent.offset as usize..entry.extent.end() as usize].fill(entry.sequence.0);
        }
        prop_assert!(model == found);
        prop_assert_eq!(&*segment.index().expect("index"), segment.index_at(Sequence::MAX).expect("index"));
    }

    #[test]
    fn promise_11_random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let mut with_magic = super::format::MAGIC.to_vec();
        with_magic.extend_from_slice(&bytes);
        prop_assert!(read_all(&bytes, None).is_err());
        prop_assert!(read_all(&with_magic, None).is_err());
    }
}

/// Calls every reading function, so that a decoder that can panic does.
fn read_in_every_way(bytes: &[u8]) -> Result<()> {
    let segment = open(bytes, None)?;
    let _ = segment.verify();
    let _ = segment.index_at(Sequence(5));
    let index = segment.index()?;
    for entry in index.iter() {
        let frame = segment.frame(entry.frame)?;
        if entry.kind == IndexKind::Data {
            frame.data_at(
                entry.data_offset,
                usize::try_from(entry.extent.length).expect("bounded"),
            )?;
        }
        frame.records().try_for_each(|record| record.map(drop))?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Without a key anyone can correct checksums, so the decoders below them must withstand any
    /// bytes.
    #[test]
    fn promise_11_altered_content_with_right_checksums_never_panics(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<[u8; 8]>(), 1_usize..9), 1..4)
    ) {
        let mut bytes = write(&sample(), None, Compression::None);
        for (at, values, length) in &changes {
            let at = at.index(bytes.len() - 8);
            bytes[at..at + length].copy_from_slice(&values[..*length]);
        }
        mend_segment(&mut bytes);
        let _ = read_in_every_way(&bytes);
    }

    /// Aims at single fields of the places that contain offsets and lengths.
    #[test]
    fn promise_11_extreme_fields_never_panic(
        part in 0_usize..5, field in 0_usize..32,
        value in prop_oneof![Just(u64::MAX), Just(u64::MAX - 63), Just(1 << 63), Just(u64::from(u32::MAX)), Just(0_u64)]
    ) {
        let mut bytes = write(&sample(), None, Compression::None);
        let places = frames(&bytes);
        let (data, index, notes) = (places[0].clone(), places[1].clone(), places[2].clone());
        let table_at = data.end - 4 * super::format::RECORD_BYTES;
        let start = [0, bytes.len() - FOOTER_BYTES, table_at, index.start, notes.start][part];
        let at = (start + field * 8).min(bytes.len() - 12);
        bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        mend_segment(&mut bytes);
        let _ = read_in_every_way(&bytes);
    }
}

/// The length is sound for the volume, and more than the frame has.
#[test]
fn promise_11_a_record_that_claims_more_data_than_its_frame_has_is_an_error() {
    let good = write(&sample(), None, Compression::None);
    let table_at = frames(&good)[0].end - 4 * super::format::RECORD_BYTES;
    for record in [0, 2] {
        let at = table_at + record * super::format::RECORD_BYTES;
        let mut bad = good.clone();
        bad[at + 4..at + 8].copy_from_slice(&9_000_u32.to_le_bytes());
        bad[at + 16..at + 24].copy_from_slice(&9_000_u64.to_le_bytes());
        mend_segment(&mut bad);
        let error = read_in_every_way(&bad).expect_err("more than there is");
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    }
}

/// Asserts that reading fails. What must never happen is content that differs from the original.
fn assert_refused(bytes: &[u8], key: Option<&VolumeKey>, what: &str) -> Error {
    match read_all(bytes, key) {
        Err(error) => error,
        Ok(_) => panic!("{what} was not noticed"),
    }
}

#[test]
fn promise_11_every_cut_and_every_flipped_bit_is_noticed() {
    for key in [None, Some(some_key())] {
        let good = write(&sample(), key.as_ref(), Compression::Zstd(1));
        read_all(&good, key.as_ref()).expect("sound");
        for length in 0..good.len() {
            let error = assert_refused(&good[..length], key.as_ref(), "a cut");
            assert!(error.to_string().contains("test.hrl"), "{error}");
        }
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_refused(&bad, key.as_ref(), "a flipped bit");
        }
        let mut longer = good.clone();
        longer.push(0);
        assert_refused(&longer, key.as_ref(), "a longer file");
    }
}

#[test]
fn promise_11_swapped_words_are_noticed() {
    for key in [None, Some(some_key())] {
        let good = write(&sample(), key.as_ref(), Compression::None);
        for a in (0..good.len() - 4).step_by(4) {
            for b in (a + 4..good.len() - 4).step_by(36) {
                let mut bad = good.clone();
                for byte in 0..4 {
                    bad.swap(a + byte, b + byte);
                }
                if bad != good {
                    assert_refused(&bad, key.as_ref(), "a swap of words");
                }
            }
        }
    }
}

/// Places of the frames of a segment.
fn frames(bytes: &[u8]) -> Vec<std::ops::Range<usize>> {
    let mut at = HEADER_BYTES;
    let mut ranges = Vec::new();
    while at < bytes.len() - FOOTER_BYTES {
        let stored = u32::from_le_bytes(bytes[at + 12..at + 16].try_into().expect("4")) as usize;
        ranges.push(at..at + FRAME_HEADER_BYTES + stored);
        at += FRAME_HEADER_BYTES + stored;
    }
    ranges
}

/// Corrects the checksum of a changed frame, as an attacker who knows the format does.
fn mend_checksum(bytes: &mut [u8], frame: &std::ops::Range<usize>) {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&bytes[frame.start..frame.start + 60]);
    crc.update(&bytes[frame.start + FRAME_HEADER_BYTES..frame.end]);
    let crc = crc.finalize().to_le_bytes();
    bytes[frame.start + 60..frame.start + 64].copy_from_slice(&crc);
}

#[test]
fn promise_10_equal_content_is_encrypted_differently_each_time() {
    let key = some_key();
    let equal: Vec<_> = (0_u64..6).map(|n| Owned::Write(n * 8192, vec![7; 4096])).collect();
    let mut seen = std::collections::HashSet::new();
    for seed in [98, 99] {
        let clock = ManualClock::new(Timestamp(0), seed);
        let mut writer =
            SegmentWriter::create(Vec::new(), params(1, Compression::None), Some(&key), &clock)
                .expect("create");
        for (at, owned) in equal.iter().enumerate() {
            writer.append(&owned.record(at)).expect("append");
        }
        let (bytes, _) = writer.close(None).expect("close");
        for frame in frames(&bytes).iter().take(equal.len()) {
            // Under one nonce and one key, equal content would have equal bytes.
            let content = &bytes[frame.start + FRAME_HEADER_BYTES..][..64];
            assert!(seen.insert(content.to_vec()), "frame at {} of seed {seed}", frame.start);
        }
    }
    assert_eq!(seen.len(), 2 * equal.len());
}

#[test]
fn promise_10_an_attacker_without_the_key_is_noticed() {
    let key = some_key();
    let many: Vec<_> =
        (0_u8..6).map(|n| Owned::Write(u64::from(n) * 8192, vec![n; 4096])).collect();
    let good = write(&many, Some(&key), Compression::None);
    let places = frames(&good);
    assert!(places.len() >= 7, "six data frames, index and notes");

    let mut altered = good.clone();
    altered[places[0].start + FRAME_HEADER_BYTES] ^= 1;
    mend_checksum(&mut altered, &places[0]);
    assert_refused(&altered, Some(&key), "an altered frame with a right checksum");

    // Every byte but tag and checksum.
    for at in 0..FRAME_HEADER_BYTES - 20 {
        let mut altered = good.clone();
        altered[places[1].start + at] ^= 1;
        mend_checksum(&mut altered, &places[1]);
        assert_refused(&altered, Some(&key), "an altered frame header with a right checksum");
    }

    let footer = good.len() - FOOTER_BYTES;
    for at in footer..good.len() - 20 {
        let mut altered = good.clone();
        altered[at] ^= 1;
        let checksum = crc32fast::hash(&altered[footer..good.len() - 4]);
        altered[good.len() - 4..].copy_from_slice(&checksum.to_le_bytes());
        assert_refused(&altered, Some(&key), "an altered footer with a right checksum");
    }

    let mut swapped = good.clone();
    swapped[places[0].clone()].copy_from_slice(&good[places[1].clone()]);
    swapped[places[1].clone()].copy_from_slice(&good[places[0].clone()]);
    for (at, number) in [(0_usize, 0_u32), (1, 1)] {
        let start = places[at].start;
        swapped[start + 4..start + 8].copy_from_slice(&number.to_le_bytes());
        mend_checksum(&mut swapped, &places[at]);
    }
    assert_refused(&swapped, Some(&key), "two frames in each other's place");

    let mut repeated = good.clone();
    repeated[places[1].clone()].copy_from_slice(&good[places[0].clone()]);
    let start = places[1].start;
    repeated[start + 4..start + 8].copy_from_slice(&1_u32.to_le_bytes());
    mend_checksum(&mut repeated, &places[1]);
    assert_refused(&repeated, Some(&key), "a frame twice");

    let clock = ManualClock::new(Timestamp(0), 99);
    let mut writer =
        SegmentWriter::create(Vec::new(), params(1, Compression::None), Some(&key), &clock)
            .expect("create");
    for (at, owned) in many.iter().enumerate() {
        writer.append(&owned.record(at)).expect("append");
    }
    let other = writer.close(None).expect("close").0;
    let mut spliced = good.clone();
    spliced[places[2].clone()].copy_from_slice(&other[places[2].clone()]);
    assert_refused(&spliced, Some(&key), "a frame of another segment under the same key");

    // A shorter segment: the last data frame cut out, and everything unauthenticated corrected.
    let mut cut = good.clone();
    cut.drain(places[5].clone());
    mend_segment(&mut cut);
    assert_refused(&cut, Some(&key), "a frame cut out");
}

#[test]
fn a_missing_or_wrong_key_is_named_in_the_error() {
    let key = some_key();
    let bytes = write(&sample(), Some(&key), Compression::Zstd(1));
    let other = VolumeKey::from_bytes([8; 32]);
    for (ring, found) in [(None, "no key".to_owned()), (Some(&other), other.id().to_string())] {
        let error = open(&bytes, ring).expect_err("not this key");
        assert_eq!(error.kind(), ErrorKind::WrongKey);
        let text = error.to_string();
        assert!(text.contains(&key.id().to_string()) && text.contains(&found), "{text}");
    }
}

#[test]
fn unknown_features_are_refused_or_skipped_by_their_class() {
    let good = write(&sample(), None, Compression::None);
    let with_bit = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] = 1;
        let crc = crc32fast::hash(&bytes[..252]);
        bytes[252..256].copy_from_slice(&crc.to_le_bytes());
        open(&bytes, None)
    };
    assert_eq!(with_bit(16).expect_err("incompatible").kind(), ErrorKind::Unsupported);
    with_bit(24).expect("an unknown compatible feature is skipped");
    with_bit(32).expect("an unknown auto-clear feature is skipped");
}

#[test]
fn repair_keeps_whole_frames_and_can_run_twice() {
    let clock = ManualClock::new(Timestamp(0), 5);
    let directory = tempfile::tempdir().expect("temporary directory");
    let torn = directory.path().join("torn");
    let many: Vec<_> =
        (0_u8..6).map(|n| Owned::Write(u64::from(n) * 8192, vec![n; 4096])).collect();
    for key in [None, Some(some_key())] {
        let keys: KeyRing = key.clone().map_or_else(KeyRing::default, Into::into);
        let whole = write(&many, key.as_ref(), Compression::None);
        let places = frames(&whole);
        for length in (0..whole.len()).step_by(97) {
            std::fs::write(&torn, &whole[..length]).expect("write");
            let expected = places[..6].iter().filter(|place| place.end <= length).count();
            let (bytes, summary, report) =
                repair(&torn, Vec::new(), &keys, &clock).expect("repair");
            assert_eq!(report.frames_kept, expected as u64, "cut at {length}");
            assert_eq!(summary.is_some(), expected > 0);
            if let Some(summary) = summary {
                let (records, again) = read_all(&bytes, key.as_ref()).expect("sound");
                assert_eq!((records.len(), &again), (expected, &summary));
                std::fs::write(&torn, &bytes).expect("write");
                let (_, _, second) = repair(&torn, Vec::new(), &keys, &clock).expect("repair");
                assert_eq!((second.records_kept, second.bytes_dropped), (expected as u64, 0));
            }
        }
    }
}

#[test]
fn promise_11_a_frame_whose_records_are_not_sound_ends_a_torn_journal() {
    let clock = ManualClock::new(Timestamp(0), 5);
    let directory = tempfile::tempdir().expect("temporary directory");
    let torn = directory.path().join("torn");
    let many: Vec<_> =
        (0_u8..3).map(|n| Owned::Write(u64::from(n) * 8192, vec![n; 4096])).collect();
    let good = write(&many, None, Compression::None);
    let second = frames(&good)[1].clone();
    let record = second.end - super::format::RECORD_BYTES;
    // An unknown kind, and a sequence that goes back.
    for (at, value) in [(record, 99_u8), (record + 24, 1)] {
        let mut bad = good.clone();
        bad[at] = value;
        mend_segment(&mut bad);
        std::fs::write(&torn, &bad).expect("write");
        let (_, _, report) =
            repair(&torn, Vec::new(), &KeyRing::default(), &clock).expect("repair");
        assert_eq!((report.frames_kept, report.last_sequence), (1, Some(Sequence(1))));
        assert_eq!(report.bytes_dropped, (bad.len() - second.start) as u64);
    }
}

/// A few bytes can unpack to hundreds of thousands of records, so their number must be bounded.
#[test]
#[ignore = "takes 1 GiB of memory"]
fn promise_12_frames_that_unpack_to_more_records_than_a_segment_has_are_refused() {
    let most = super::format::EXTENT_RECORDS_MAX as usize;
    let record = |n: u64| Record {
        sequence: Sequence(n),
        time: Timestamp(0),
        body: Body::Zero(Extent { offset: 0, length: 512 }),
    };
    let mut params = params(1, Compression::Zstd(1));
    params.frame_bytes = super::format::FRAME_TARGET_BYTES_MAX;
    let clock = ManualClock::new(Timestamp(0), 7);
    let mut writer = SegmentWriter::create(Vec::new(), params, None, &clock).expect("create");
    for n in 1..=300_000 {
        writer.append(&record(n)).expect("append");
    }
    let bytes = writer.close(None).expect("close").0;
    let segment = open(&bytes, None).expect("sound");
    let frame = segment.frame(0).expect("sound");
    let mut pieces = Vec::new();
    let error = loop {
        if let Err(error) = frame.collect(|_| true, &mut pieces) {
            break error;
        }
    };
    assert_eq!((error.kind(), pieces.len()), (ErrorKind::Corrupt, most));
}

#[test]
fn the_writer_refuses_what_would_break_the_order() {
    let clock = ManualClock::new(Timestamp(0), 5);
    let mut writer = SegmentWriter::create(Vec::new(), params(5, Compression::None), None, &clock)
        .expect("create");
    let at =
        |sequence| Record { sequence: Sequence(sequence), time: Timestamp(0), body: Body::Flush };
    assert!(writer.append(&at(4)).is_err(), "below the first sequence");
    writer.append(&at(5)).expect("first");
    assert!(writer.append(&at(5)).is_err(), "not above the last");
    assert!(writer.append(&at(u64::MAX)).is_err(), "nothing could follow");
    let end = VOLUME_BYTES;
    for (body, what) in [
        (Body::Write { offset: 0, data: &[] }, "a write of nothing"),
        (Body::Write { offset: end - 1, data: &[1, 2] }, "a write past the end"),
        (Body::Write { offset: 0, data: &vec![0; RECORD_DATA_BYTES_MAX + 1] }, "a long write"),
        (Body::Zero(Extent { offset: u64::MAX, length: 2 }), "an end past 2^64"),
        (Body::Touch(Extent { offset: 0, length: 0 }), "an empty extent"),
        (Body::Discard(Extent { offset: 0, length: 1 }, Discarded::Ignored), "nothing done"),
    ] {
        let error = writer.append(&Record { body, ..at(6) }).expect_err(what);
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{what}");
    }
    writer.append(&at(6)).expect("a refused record changes nothing");
    assert_eq!(writer.close(None).expect("close").1.records, 2);
    for frame_bytes in [0, u64::MAX] {
        let params = SegmentParams { frame_bytes, ..params(1, Compression::None) };
        assert!(SegmentWriter::create(Vec::new(), params, None, &clock).is_err());
    }
}

#[test]
fn a_segment_in_a_new_file_is_read_by_its_map() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("new.hrl");
    let clock = ManualClock::new(Timestamp(0), 5);
    let sink = FileSink::create(&SystemFiles, &path).expect("create");
    let mut writer =
        SegmentWriter::create(sink, params(1, Compression::None), None, &clock).expect("create");
    let record = Record { sequence: Sequence(1), time: Timestamp(1), body: Body::Flush };
    writer.append(&record).expect("append");
    let (_, summary) = writer.close(None).expect("close");
    let segment = Segment::open(open_mapped(&path).expect("map"), &KeyRing::default());
    assert_eq!(segment.expect("sound").summary(), &summary);
    assert_eq!(
        FileSink::create(&SystemFiles, &path).expect_err("exists").kind(),
        ErrorKind::AlreadyExists
    );
}

#[test]
fn objects_without_a_local_path_are_read_by_ranges() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let store: Arc<dyn crate::store::Store> =
        Arc::new(Remote(crate::store::DirStore::create(directory.path()).expect("store")));
    let many: Vec<_> =
        (0_u8..60).map(|n| Owned::Write(u64::from(n) * 8192, vec![n; 4096])).collect();
    store.put("s.hrl", &write(&many, None, Compression::None)).expect("put");
    let source = ObjectSource::open(&store, "s.hrl").expect("source");
    let segment = Segment::open(source, &KeyRing::default()).expect("sound");
    segment.verify().expect("sound");
    assert_eq!(segment.index().expect("index").len(), 60);
    let short: Arc<dyn crate::store::Store> = Arc::new(Short);
    assert!(
        ObjectSource::open(&short, "s.hrl").is_err(),
        "a store that returns less than requested"
    );
}

/// A store without local paths.
struct Remote(crate::store::DirStore);

impl crate::store::Store for Remote {
    fn name(&self) -> String {
        "remote".into()
    }
    fn put(&self, name: &str, content: &[u8]) -> Result<crate::store::PutOutcome> {
        self.0.put(name, content)
    }
    fn get(&self, name: &str, range: std::ops::Range<u64>) -> Result<Vec<u8>> {
        self.0.get(name, range)
    }
    fn list(&self, prefix: &str) -> Result<Vec<crate::store::ObjectInfo>> {
        self.0.list(prefix)
    }
    fn head(&self, name: &str) -> Result<Option<crate::store::ObjectInfo>> {
        self.0.head(name)
    }
    fn delete(&self, name: &str) -> Result<()> {
        self.0.delete(name)
    }
}

/// A store that returns less than requested.
struct Short;

impl crate::store::Store for Short {
    fn name(&self) -> String {
        "short".into()
    }
    fn put(&self, _: &str, _: &[u8]) -> Result<crate::store::PutOutcome> {
        Ok(crate::store::PutOutcome::Created)
    }
    fn get(&self, _: &str, _: std::ops::Range<u64>) -> Result<Vec<u8>> {
        Ok(vec![0; 3])
    }
    fn list(&self, _: &str) -> Result<Vec<crate::store::ObjectInfo>> {
        Ok(Vec::new())
    }
    fn head(&self, name: &str) -> Result<Option<crate::store::ObjectInfo>> {
        Ok(Some(crate::store::ObjectInfo { name: name.into(), length: 1000 }))
    }
    fn delete(&self, _: &str) -> Result<()> {
        Ok(())
    }
}

#[test]
fn after_a_failed_append_the_writer_is_poisoned() {
    /// Fails the second append, halfway as a full disk does.
    struct Fails(u32);
    impl SegmentSink for Fails {
        fn append(&mut self, _: &[u8]) -> Result<()> {
            self.0 += 1;
            if self.0 == 2 {
                return Err(Error::new(ErrorKind::Full, "write", "disk"));
            }
            Ok(())
        }
        fn sync(&mut self) -> Result<()> {
            Ok(())
        }
    }
    let clock = ManualClock::new(Timestamp(0), 5);
    let mut writer = SegmentWriter::create(Fails(0), params(1, Compression::None), None, &clock)
        .expect("create");
    let at =
        |sequence| Record { sequence: Sequence(sequence), time: Timestamp(0), body: Body::Flush };
    writer.append(&at(1)).expect("in memory");
    assert_eq!(writer.sync().expect_err("full").kind(), ErrorKind::Full);
    assert_eq!(writer.append(&at(2)).expect_err("poisoned").kind(), ErrorKind::Poisoned);
    assert_eq!(writer.sync().expect_err("poisoned").kind(), ErrorKind::Poisoned);
    assert_eq!(writer.close(None).map(drop).expect_err("poisoned").kind(), ErrorKind::Poisoned);
}

#[test]
fn all_but_random_data_is_compressed() {
    let clock = ManualClock::new(Timestamp(0), 3);
    let mut noise = vec![0; 256 << 10];
    crate::clock::Clock::fill_random(&clock, &mut noise);
    let digits: Vec<u8> = noise.iter().map(|byte| b'0' + byte % 64).collect();
    let stored_bytes = |data: &[u8]| {
        let params = SegmentParams { frame_bytes: 1 << 20, ..params(1, Compression::Zstd(1)) };
        let mut writer = SegmentWriter::create(Vec::new(), params, None, &clock).expect("create");
        let body = Body::Write { offset: 0, data };
        let record = Record { sequence: Sequence(1), time: Timestamp(1), body };
        writer.append(&record).expect("append");
        writer.close(None).expect("close").1.stored_bytes as usize
    };
    assert!(stored_bytes(&noise) > noise.len());
    assert!(stored_bytes(&digits) < digits.len() * 4 / 5, "six bits in eight");
    assert!(stored_bytes(&vec![7; 256 << 10]) < 2048);
    let mut mixed = noise.clone();
    for block in mixed.chunks_exact_mut(4096).step_by(4) {
        block.fill(0);
    }
    assert!(stored_bytes(&mixed) < mixed.len() * 4 / 5, "a quarter of the blocks is zero");
}

#[test]
fn a_segment_may_be_shared_between_threads() {
    fn assert_shared<T: Send + Sync>(_: &T) {}
    let segment = Arc::new(open(&write(&sample(), None, Compression::None), None).expect("sound"));
    assert_shared(&segment);
}
