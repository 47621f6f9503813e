//! Compares `core/docs/format.md` with the code: its tables, its limits, and its examples.

use std::fmt::Write;

use super::specification::{SPECIFICATION, check_fields, rows_after};
use super::{
    DATA_FRAMES_MAX, EXTENT_RECORDS_MAX, FRAME_RAW_BYTES_MAX, FRAME_TARGET_BYTES_MAX,
    INDEX_FRAME_ENTRIES_MAX, NOTES_RECORDS_MAX, frame, header, index, record,
};
use crate::clock::Clock;
use crate::event::Cause;
use crate::journal::{
    Body, BytesSource, KeyRing, LABEL_BYTES_MAX, Mark, PointKind, RECORD_DATA_BYTES_MAX, Record,
    Segment, SegmentKind, SegmentParams, SegmentWriter, VolumeKey,
};
use crate::policy::Compression;
use crate::units::{ChainHash, Epoch, PointId, Sequence, Timestamp, VolumeId};

/// Returns the text of the fenced block with this language.
fn block(language: &str) -> &'static str {
    let (_, after) = SPECIFICATION.split_once(&format!("```{language}\n")).expect("the block");
    after.split_once("```").expect("its end").0
}

#[test]
fn the_tables_are_the_layout_of_the_code() {
    for (name, bytes, fields) in [
        ("header", header::header::BYTES, header::header::FIELDS),
        ("frame", frame::frame::BYTES, frame::frame::FIELDS),
        ("footer", frame::footer::BYTES, frame::footer::FIELDS),
        ("record", record::record::BYTES, record::record::FIELDS),
        ("mark", record::mark::BYTES, record::mark::FIELDS),
        ("index_entry", index::index_entry::BYTES, index::index_entry::FIELDS),
    ] {
        let marker = format!("Structure `{name}`, {bytes} bytes");
        assert_eq!(rows_after(&marker).len(), fields.len(), "{name}");
        let next = check_fields(&marker, fields);
        assert_eq!(next, bytes, "{name} has no gap at its end");
    }
}

#[test]
fn the_limits_and_codes_are_those_of_the_code() {
    let limits = [
        ("FRAME_RAW_BYTES_MAX", FRAME_RAW_BYTES_MAX as u64),
        ("FRAME_TARGET_BYTES_MAX", FRAME_TARGET_BYTES_MAX),
        ("RECORD_DATA_BYTES_MAX", RECORD_DATA_BYTES_MAX as u64),
        ("LABEL_BYTES_MAX", LABEL_BYTES_MAX as u64),
        ("DATA_FRAMES_MAX", u64::from(DATA_FRAMES_MAX)),
        ("NOTES_RECORDS_MAX", u64::from(NOTES_RECORDS_MAX)),
        ("EXTENT_RECORDS_MAX", EXTENT_RECORDS_MAX),
        ("INDEX_FRAME_ENTRIES_MAX", u64::from(INDEX_FRAME_ENTRIES_MAX)),
    ];
    let rows = rows_after("## 11. Limits");
    let found: Vec<_> =
        rows.iter().map(|row| (row[0], row[1].parse().expect("a number"))).collect();
    assert_eq!(found, limits);
    let list = |names: Vec<&str>| {
        let numbered = names.iter().enumerate().map(|(at, name)| format!("{} {name}", at + 1));
        numbered.collect::<Vec<_>>().join(", ")
    };
    let text = SPECIFICATION.replace('\n', " ");
    let causes = Cause::ALL.iter().map(|cause| cause.name()).collect();
    assert!(text.contains(&list(causes)), "causes");
    let kinds = PointKind::ALL.iter().map(|kind| kind.name()).collect();
    assert!(text.contains(&list(kinds)), "kinds of points");
}

#[test]
fn the_greatest_notes_and_frames_fit() {
    let notes = DATA_FRAMES_MAX as usize * 8
        + NOTES_RECORDS_MAX as usize * (record::RECORD_BYTES + record::MARK_BYTES_MAX);
    assert!(notes <= FRAME_RAW_BYTES_MAX);
    let data = FRAME_TARGET_BYTES_MAX as usize + RECORD_DATA_BYTES_MAX + record::RECORD_BYTES;
    assert!(data <= FRAME_RAW_BYTES_MAX);
    let index = INDEX_FRAME_ENTRIES_MAX as usize * index::INDEX_ENTRY_BYTES;
    assert!(index <= FRAME_RAW_BYTES_MAX);
}

/// A clock with the salt of the example.
struct ExampleClock;

impl Clock for ExampleClock {
    fn now(&self) -> Timestamp {
        Timestamp(0)
    }
    fn elapsed(&self) -> std::time::Duration {
        std::time::Duration::ZERO
    }
    fn fill_random(&self, out: &mut [u8]) {
        (0xa0..).zip(out).for_each(|(value, byte)| *byte = value);
    }
}

fn example(key: Option<&VolumeKey>) -> Vec<u8> {
    let created = Timestamp::parse("2026-11-21T09:30:00Z").expect("a time");
    let params = SegmentParams {
        kind: SegmentKind::Log,
        volume: VolumeId([0x11; 16]),
        epoch: Epoch(1),
        first_sequence: Sequence(1),
        device_bytes: 1 << 20,
        block_bytes: 512,
        previous: ChainHash::default(),
        replaces_through: None,
        created,
        compression: Compression::None,
        frame_bytes: 4096,
    };
    let mark = Mark {
        point: PointId([0x22; 16]),
        kind: PointKind::Crash,
        label: "demo".into(),
        group: None,
    };
    let mut writer = SegmentWriter::create(Vec::new(), params, key, &ExampleClock).expect("create");
    let bodies = [Body::Write { offset: 4096, data: b"0123456789abcdef" }, Body::Mark(mark)];
    for (body, at) in bodies.into_iter().zip(1..) {
        let (sequence, time) = (Sequence(at), Timestamp(created.0 + at.cast_signed()));
        writer.append(&Record { sequence, time, body }).expect("append");
    }
    writer.close(None).expect("close").0
}

/// Dumps lines of 16 bytes, with a line of text before each part.
fn dump(bytes: &[u8], parts: &[(usize, &str)]) -> String {
    let mut text = String::new();
    let ends = parts.iter().skip(1).map(|(start, _)| *start).chain([bytes.len()]);
    for ((start, name), end) in parts.iter().zip(ends) {
        let _ = writeln!(text, "; {name}");
        for (line, at) in bytes[*start..end].chunks(16).zip((*start..).step_by(16)) {
            let _ = writeln!(text, "{at:04x}  {}", hex(line, " "));
        }
    }
    text
}

fn hex(bytes: &[u8], between: &str) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(between)
}

#[test]
fn the_example_is_what_the_code_writes() {
    let bytes = example(None);
    let dumped = dump(
        &bytes,
        &[
            (0, "header"),
            (256, "frame 0, data: its header"),
            (320, "its data area: the write, then the mark"),
            (376, "its record table"),
            (456, "frame 1, index: its header"),
            (520, "its entry"),
            (560, "frame 2, notes: its header"),
            (624, "data of the mark, offset of frame 0, descriptor of the mark"),
            (712, "footer"),
        ],
    );
    assert!(dumped == block("hex"), "the example should be:\n{dumped}");
    let source = Box::new(BytesSource::new("example.hrl", bytes));
    Segment::open(source, &KeyRing::default()).expect("sound").verify().expect("sound");
}

#[test]
fn the_encrypted_example_is_what_the_code_writes() {
    let mut secret = [0; 32];
    (0..).zip(&mut secret).for_each(|(value, byte)| *byte = value);
    let key = VolumeKey::from_bytes(secret);
    let bytes = example(Some(&key));
    let segment_key = key.derive("hrl 2026-11-21 segment key v1", &bytes[..256]);
    let mut text = String::new();
    for (name, value) in [
        ("key id", &bytes[64..80]),
        ("header checksum", &bytes[252..256]),
        ("segment key", &segment_key),
        ("frame 0 tag", &bytes[296..312]),
        ("frame 0 checksum", &bytes[316..320]),
        ("frame 0 content", &bytes[320..336]),
        ("chain", &bytes[760..792]),
        ("footer tag", &bytes[820..836]),
    ] {
        let _ = writeln!(text, "{name:17} {}", hex(value, ""));
    }
    assert!(text == block("encrypted"), "the encrypted example should be:\n{text}");
}
