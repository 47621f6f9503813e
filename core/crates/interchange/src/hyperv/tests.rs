//! The published example, exchange with native segments, and damage.

use proptest::prelude::*;

use hrl::journal::{
    Body, BytesSource, KeyRing, Mark, PointKind, Record, Segment, SegmentKind, SegmentParams,
    SegmentWriter, open_mapped,
};
use hrl::{
    ChainHash, Compression, Epoch, ErrorKind, Extent, ManualClock, PointId, Result, Sequence,
    Timestamp, VolumeId,
};

use super::codec::{BlockHeader, Entry, HEADER_BYTES, METADATA_BYTES, checksum};
use super::*;
use crate::convert_to_native;

/// The structure of the example that the specification prints: 58 writes of 320,000 bytes in all.
fn published_example() -> Vec<u8> {
    let mut lengths = vec![512_u32; 56];
    lengths.extend([31_232, 320_000 - 56 * 512 - 31_232]);
    // The last would be too long for the example's range, so it is spread over the others.
    let excess = lengths[57] - 31_232;
    lengths[57] = 31_232;
    let mut left = excess;
    for length in &mut lengths[..56] {
        let more = left.min(30_720) / 512 * 512;
        *length += more;
        left -= more;
    }
    assert_eq!((lengths.len(), lengths.iter().sum::<u32>(), left), (58, 320_000, 0));
    let mut log = vec![0; HEADER_BYTES];
    let mut block = vec![0; METADATA_BYTES];
    block[..32].copy_from_slice(&BlockHeader { previous: 0, entries: 0 }.encode());
    log.extend_from_slice(&block);
    let mut entries = Vec::new();
    for (at, length) in lengths.iter().enumerate() {
        let data = vec![at as u8; *length as usize];
        let time = Timestamp(1_400_000_000_000_000_000);
        entries.push(Entry {
            offset: at as u64 * 65_536,
            length: *length,
            time,
            data_checksum: checksum(&data),
        });
        log.extend_from_slice(&data);
    }
    assert_eq!(log.len(), 328_192, "block 2 is where the example has it");
    let mut block = vec![0; METADATA_BYTES];
    block[..32].copy_from_slice(&BlockHeader { previous: 324_096, entries: 58 }.encode());
    for (slot, entry) in block[32..].chunks_exact_mut(32).zip(&entries) {
        slot.copy_from_slice(&entry.encode());
    }
    log.extend_from_slice(&block);
    let header = HypervHeader {
        created: Timestamp(1_400_000_000_000_000_000),
        current_bytes: 332_288,
        end_of_log: 332_288,
        error_code: 0,
        metadata_bytes: 4096,
        unique_id: [1; 16],
        previous_unique_id: [2; 16],
        entries: 58,
        data_write_guid: [3; 16],
    };
    log[..HEADER_BYTES].copy_from_slice(&header.encode());
    log
}

fn open(bytes: Vec<u8>) -> Result<HypervLog> {
    HypervLog::from_source(Box::new(BytesSource::new("example.hrl", bytes)))
}

fn read_all(log: &HypervLog) -> Result<Vec<(u64, Vec<u8>)>> {
    log.writes().map(|write| write.map(|w| (w.offset, w.data.into_owned()))).collect()
}

#[test]
fn the_published_example_checks() {
    let bytes = published_example();
    assert_eq!(bytes.len(), 332_288);
    let sum = |at: usize| u32::from_le_bytes(bytes[at + 12..at + 16].try_into().expect("4 bytes"));
    assert_eq!(sum(4096), 4_294_967_295, "the checksum printed for block 1");
    assert_eq!(sum(328_192), 4_294_966_991, "the checksum printed for block 2");
    let log = open(bytes).expect("sound");
    assert_eq!(
        (log.header().end_of_log, log.header().current_bytes, log.header().metadata_bytes),
        (332_288, 332_288, 4096)
    );
    assert_eq!(log.write_count(), 58);
    let writes = read_all(&log).expect("sound");
    assert_eq!(writes.iter().map(|(_, data)| data.len()).sum::<usize>(), 328_192 - 8192);
    assert!(writes.iter().all(|(_, data)| (512..=31_232).contains(&data.len())));
}

#[test]
fn an_unclosed_log_is_read_as_far_as_it_is_sound() {
    let mut bytes = published_example();
    let mut header = HypervHeader::decode(&bytes, "x").expect("sound");
    header.end_of_log = 0;
    bytes[..HEADER_BYTES].copy_from_slice(&header.encode());
    let log = open(bytes.clone()).expect("readable");
    assert!(!log.is_closed());
    assert_eq!(log.write_count(), 58);
    bytes.truncate(300_000);
    assert_eq!(open(bytes).expect("readable").write_count(), 0, "the block of the writes is gone");
}

#[test]
fn promise_11_damage_is_an_error_and_never_a_panic() {
    let good = published_example();
    let check = |bytes: Vec<u8>| open(bytes).and_then(|log| read_all(&log).map(drop));
    for at in (0..126).chain(328_192..332_288).filter(|at| !matches!(at, 7)) {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        let unused = at >= 328_192 + 32 + 58 * 32;
        assert!(check(bad).is_err() || unused, "byte {at}");
    }
    for length in [0, 7, 4095, 4096, 100_000, 332_287] {
        assert!(check(good[..length].to_vec()).is_err(), "cut at {length}");
    }
    // A block that is its own predecessor, and one that lies before the log.
    for previous in [1_u64, 4095, 400_000, u64::MAX] {
        let mut bad = good.clone();
        bad[328_192..328_224].copy_from_slice(&BlockHeader { previous, entries: 58 }.encode());
        assert_eq!(check(bad).expect_err("no such block").kind(), ErrorKind::Corrupt);
    }
}

/// Found by fuzzing: a log without a GUID of its own was taken for its own predecessor.
#[test]
fn a_log_that_names_no_predecessor_is_the_first() {
    let mut bytes = published_example();
    bytes[60..92].fill(0);
    mend_hyperv_log(&mut bytes);
    let log = open(bytes).expect("sound");
    let clock = ManualClock::new(Timestamp(0), 3);
    let (_, summary) =
        import_hyperv(&[log], params(1 << 30), Vec::new(), None, &clock).expect("import");
    assert_eq!(summary.records, 58 + 1);
}

#[test]
fn promise_11_ranges_up_to_the_last_byte_are_cut_into_chunks() {
    let extent = Extent { offset: u64::MAX - (1 << 20) - 5, length: (1 << 20) + 5 };
    let found: Vec<_> = crate::export::chunks(extent).map(|chunk| chunk.length).collect();
    assert_eq!(found, [1 << 20, 5]);
}

fn params(device_bytes: u64) -> SegmentParams {
    SegmentParams {
        kind: SegmentKind::Log,
        volume: VolumeId([1; 16]),
        epoch: Epoch(1),
        first_sequence: Sequence(1),
        device_bytes,
        block_bytes: 512,
        previous: ChainHash::default(),
        replaces_through: None,
        created: Timestamp(0),
        compression: Compression::Zstd(1),
        frame_bytes: 65_536,
    }
}

fn native(records: &[(u64, Vec<u8>)], marks_every: usize) -> Segment {
    let clock = ManualClock::new(Timestamp(0), 3);
    let params = params(1 << 20);
    let mut writer = SegmentWriter::create(Vec::new(), params, None, &clock).expect("create");
    let mut sequence = Sequence(0);
    let mut append = |body: Body<'_>| {
        sequence = sequence.next();
        let time = Timestamp(1_700_000_000_000_000_000);
        writer.append(&Record { sequence, time, body }).expect("append");
    };
    for (at, (offset, data)) in records.iter().enumerate() {
        append(Body::Write { offset: *offset, data });
        if at % marks_every == 0 {
            let point = PointId([at as u8; 16]);
            append(Body::Mark(Mark {
                point,
                kind: PointKind::App,
                label: "x".into(),
                group: None,
            }));
        }
    }
    append(Body::Flush);
    let bytes = writer.close(None).expect("close").0;
    Segment::open(Box::new(BytesSource::new("native.hrl", bytes)), &KeyRing::default())
        .expect("open")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn an_exported_chain_imports_to_the_same_writes(
        records in prop::collection::vec((0_u64..1_000_000, prop::collection::vec(any::<u8>(), 1..2_000)), 1..200),
        marks_every in 5_usize..60,
    ) {
        let directory = tempfile::tempdir().expect("directory");
        let clock = ManualClock::new(Timestamp(0), 9);
        let out = directory.path().join("chain");
        let report = export_hyperv(&[&native(&records, marks_every)], &out, &clock).expect("export");
        prop_assert_eq!(report.writes, records.len() as u64);
        prop_assert_eq!(report.logs.len(), 1 + (records.len() - 1).div_ceil(marks_every));
        prop_assert!(report.warnings.iter().any(|warning| warning.contains("marks")));
        prop_assert!(report.warnings.iter().any(|warning| warning.contains("1 flushes")));
        let file = directory.path().join("back.hrl");
        let summary = convert_to_native(std::slice::from_ref(&out), &file, &clock).expect("import");
        prop_assert_eq!(summary.marks.len(), report.logs.len());
        let segment = Segment::open(
            open_mapped(&file).expect("map"), &KeyRing::default()).expect("open");
        let mut found = Vec::new();
        for number in 0..segment.frame_count() {
            for record in segment.frame(number).expect("frame").records() {
                if let Body::Write { offset, data } = record.expect("record").body {
                    found.push((offset, data.to_vec()));
                }
            }
        }
        prop_assert!(found == records);
        prop_assert!(convert_to_native(std::slice::from_ref(&out), &file, &clock).is_err(), "never overwrites");
        if report.logs.len() > 2 {
            std::fs::remove_file(&report.logs[1]).expect("remove");
            let error = convert_to_native(&[out], &directory.path().join("gap.hrl"), &clock).expect_err("a link is missing");
            prop_assert!(error.to_string().contains("missing"), "{}", error);
        }
    }
}
