//! The layout that the kernel's sources describe, exchange with native segments, and damage.

use std::borrow::Cow;

use proptest::prelude::*;

use hrl::device::Discarded;
use hrl::journal::{
    Body, BytesSource, KeyRing, Mark, PointKind, Record, Segment, SegmentKind, SegmentParams,
    SegmentWriter,
};
use hrl::{
    ChainHash, Compression, Epoch, ErrorKind, Extent, ManualClock, PointId, Result, Sequence,
    Timestamp, VolumeId,
};

use super::{LogWritesBody, LogWritesEntry, LogWritesLog, export_log_writes, import_log_writes};

/// A log put together by hand, of sectors of `sector` bytes: words of each entry and what stands
/// behind them.
fn log_of(sector: usize, entries: &[([u64; 4], &[u8], &[u8])]) -> Vec<u8> {
    let mut log = vec![0; sector];
    log[..8].copy_from_slice(b"rhswfsj\0");
    log[8] = 1;
    log[16..24].copy_from_slice(&(entries.len() as u64).to_le_bytes());
    log[24..28].copy_from_slice(&(sector as u32).to_le_bytes());
    for (words, inside, behind) in entries {
        let start = log.len();
        log.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        log.extend_from_slice(inside);
        log.resize(start + sector, 0);
        log.extend_from_slice(behind);
    }
    log
}

fn open(bytes: Vec<u8>) -> Result<LogWritesLog> {
    LogWritesLog::from_source(Box::new(BytesSource::new("log", bytes)))
}

fn entries(bytes: Vec<u8>) -> Result<Vec<LogWritesEntry<'static>>> {
    let log = open(bytes)?;
    log.entries()
        .map(|entry| {
            entry.map(|entry| LogWritesEntry {
                body: match entry.body {
                    LogWritesBody::Write { offset, data } => {
                        LogWritesBody::Write { offset, data: Cow::Owned(data.into_owned()) }
                    }
                    LogWritesBody::Discard(extent) => LogWritesBody::Discard(extent),
                    LogWritesBody::Mark(text) => LogWritesBody::Mark(text),
                    LogWritesBody::Nothing => LogWritesBody::Nothing,
                },
                ..entry
            })
        })
        .collect()
}

/// A log as the kernel writes it to a device of 4 KiB blocks, whose numbers are those of its
/// sectors.
fn example() -> Vec<u8> {
    let mut log = log_of(
        4096,
        &[
            ([2, 1, 16, 0], b"", &[7; 4096]),
            ([0, 0, 1, 0], b"", b""),
            ([5, 3, 4, 0], b"", b""),
            ([1, 2, 1 | 2, 0], b"", &[9; 8192]),
            ([0, 0, 8, 5], b"mkfs\n", b""),
            ([0, 0, 8, 17], b"dm-log-writes-end", b""),
        ],
    );
    // The rest of the log device.
    log.extend_from_slice(&[0xee; 8192]);
    log
}

#[test]
fn a_log_is_read_as_the_kernel_describes_it() {
    let plain = |body| LogWritesEntry { flush: false, forced: false, body };
    let expected = [
        plain(LogWritesBody::Write { offset: 8192, data: vec![7; 4096].into() }),
        LogWritesEntry { flush: true, forced: false, body: LogWritesBody::Nothing },
        plain(LogWritesBody::Discard(Extent { offset: 20480, length: 12288 })),
        LogWritesEntry {
            flush: true,
            forced: true,
            body: LogWritesBody::Write { offset: 4096, data: vec![9; 8192].into() },
        },
        plain(LogWritesBody::Mark("mkfs\n".into())),
        plain(LogWritesBody::Mark("dm-log-writes-end".into())),
    ];
    assert_eq!(entries(example()).expect("sound"), expected);
}

fn params() -> SegmentParams {
    SegmentParams {
        kind: SegmentKind::Log,
        volume: VolumeId([1; 16]),
        epoch: Epoch(1),
        first_sequence: Sequence(1),
        device_bytes: 1 << 20,
        block_bytes: 512,
        previous: ChainHash::default(),
        replaces_through: None,
        created: Timestamp(5),
        compression: Compression::None,
        frame_bytes: 64 << 10,
    }
}

/// What the records of a segment say.
fn bodies(segment: &[u8]) -> Vec<Body<'static>> {
    let source = Box::new(BytesSource::new("segment", segment.to_vec()));
    let segment = Segment::open(source, &KeyRing::default()).expect("sound");
    let mut bodies = Vec::new();
    for number in 0..segment.frame_count() {
        for record in segment.frame(number).expect("sound").records() {
            bodies.push(match record.expect("sound").body {
                Body::Write { offset, data } => {
                    Body::Write { offset, data: Vec::leak(data.to_vec()) }
                }
                Body::Zero(extent) => Body::Zero(extent),
                Body::Discard(extent, what) => Body::Discard(extent, what),
                Body::Touch(extent) => Body::Touch(extent),
                Body::Flush => Body::Flush,
                Body::Mark(mark) => Body::Mark(mark),
                Body::UnorderedBegin(cause) => Body::UnorderedBegin(cause),
                Body::UnorderedEnd => Body::UnorderedEnd,
            });
        }
    }
    bodies
}

fn segment_of(bodies: &[Body<'_>]) -> Vec<u8> {
    let clock = ManualClock::new(Timestamp(5), 1);
    let mut writer = SegmentWriter::create(Vec::new(), params(), None, &clock).expect("made");
    for (number, body) in bodies.iter().enumerate() {
        let sequence = Sequence(number as u64 + 1);
        writer.append(&Record { sequence, time: Timestamp(5), body: body.clone() }).expect("put");
    }
    writer.close(None).expect("sealed").0
}

fn import(bytes: Vec<u8>) -> Vec<u8> {
    let clock = ManualClock::new(Timestamp(5), 1);
    import_log_writes(&open(bytes).expect("sound"), params(), Vec::new(), None, &clock)
        .expect("imported")
        .0
}

fn export(segment: &[u8]) -> Result<(Vec<u8>, Vec<String>)> {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("log");
    let source = Box::new(BytesSource::new("segment", segment.to_vec()));
    let segment = Segment::open(source, &KeyRing::default())?;
    let report = export_log_writes(&[&segment], &path)?;
    assert_eq!(
        export_log_writes(&[&segment], &path).expect_err("refused").kind(),
        ErrorKind::AlreadyExists
    );
    Ok((std::fs::read(&path).expect("there"), report.warnings))
}

#[test]
fn a_log_becomes_records_in_its_order() {
    let found = bodies(&import(example()));
    let Some(Body::Mark(mark)) = found.last() else { panic!("{found:?}") };
    assert_eq!((mark.label.as_str(), mark.kind), ("mkfs\n", PointKind::Crash));
    let expected = [
        Body::Write { offset: 8192, data: &[7; 4096] },
        Body::Flush,
        Body::Discard(Extent { offset: 20480, length: 12288 }, Discarded::Undefined),
        Body::Flush,
        Body::Write { offset: 4096, data: &[9; 8192] },
    ];
    assert_eq!(found[..found.len() - 1], expected);
}

#[test]
fn an_export_says_what_it_could_not_carry() {
    let mark =
        Mark {
            point: PointId([3; 16]), kind: PointKind::App, label: "ü".repeat(127), group: None
        };
    let extent = Extent { offset: 512, length: 1024 };
    let segment = segment_of(&[
        Body::Write { offset: 4096, data: &[1; 512] },
        Body::Zero(extent),
        Body::Discard(extent, Discarded::Zeroes),
        Body::Mark(mark.clone()),
    ]);
    let (log, warnings) = export(&segment).expect("exported");
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    assert!(warnings.iter().any(|warning| warning.starts_with("2 zeroed ranges")), "{warnings:?}");
    let zeroes = LogWritesBody::Write {
        offset: extent.offset,
        data: vec![0; extent.length as usize].into(),
    };
    let found: Vec<_> = entries(log).expect("sound").into_iter().map(|entry| entry.body).collect();
    assert_eq!(found[1..3], [zeroes.clone(), zeroes]);
    assert_eq!(
        found[3..],
        [LogWritesBody::Mark(mark.label), LogWritesBody::Mark("dm-log-writes-end".into())]
    );
    for unfit in [
        Body::Touch(extent),
        Body::Write { offset: 100, data: &[1; 512] },
        Body::Write { offset: 0, data: &[1; 5] },
    ] {
        let error = export(&segment_of(&[unfit])).expect_err("cannot be carried");
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    }
}

#[test]
fn promise_11_damage_is_an_error_and_never_a_panic() {
    let good = example();
    for (at, value, place) in [
        (0, 0, "magic"),
        (8, 2, "version"),
        (16, 0xff, "entries"),
        (25, 0, "sector"),
        (26, 0xff, "sector"),
        (4096 + 16, 0x20, "flags"),
        (4096 + 16, 4 | 8, "flags"),
        (4096 + 15, 0xff, "2^64"),
        (4096 + 7, 0xff, "2^64"),
        (4096 + 13, 1, "bytes"),
        (4096 * 8 + 30, 1, "mark"),
    ] {
        let mut bad = good.clone();
        bad[at] = value;
        let error = entries(bad).expect_err(place);
        assert!(error.to_string().contains(place), "byte {at}: {error}");
    }
    for length in [0, 27, 4095, 4096, 8191, good.len() - 8192 - 1] {
        assert!(entries(good[..length].to_vec()).is_err(), "cut at {length}");
    }
}

fn any_body() -> impl Strategy<Value = Body<'static>> {
    let extent = (0_u64..1000, 1_u64..64)
        .prop_map(|(first, count)| Extent { offset: first * 512, length: count * 512 });
    prop_oneof![
        (extent.clone(), any::<u8>()).prop_map(|(extent, byte)| Body::Write {
            offset: extent.offset,
            data: Vec::leak(vec![byte; extent.length as usize]),
        }),
        extent.prop_map(|extent| Body::Discard(extent, Discarded::Undefined)),
        Just(Body::Flush),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_a_log_can_carry_comes_back(records in proptest::collection::vec(any_body(), 1..20)) {
        let (log, _) = export(&segment_of(&records)).expect("exported");
        prop_assert_eq!(bodies(&import(log)), records);
    }

    #[test]
    fn promise_11_random_bytes_never_panic(noise in proptest::collection::vec((0_usize..20_480, any::<u8>()), 1..8)) {
        let mut bytes = example();
        for (at, value) in noise {
            bytes[at] = value;
        }
        let _ = entries(bytes);
    }
}
