//! A dm-log-writes log of any bytes (promise 11): what can be read comes back the same from a
//! native segment, from an export of that, and from an import of the export.
//!
//! An input is one byte and then a log. With bit 0 of the byte the log is short for one: 28 bytes
//! of superblock, and entries of 32 bytes of words, one byte for the length of a text, the text,
//! and, for a write of up to 16 sectors, one byte that fills them; what follows in the sectors is
//! zeroes.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use hrl::device::Discarded;
use hrl::journal::{Body, BytesSource, LABEL_BYTES_MAX, SegmentSummary};
use hrl::{Extent, ManualClock, Timestamp};
use hrl_fuzz::{log_params, open_segment, scratch};
use hrl_interchange::{
    LogWritesBody, LogWritesLog, convert_to_native, export_log_writes, import_log_writes,
};
use libfuzzer_sys::arbitrary::Unstructured;
use libfuzzer_sys::fuzz_target;

const END: &str = "dm-log-writes-end";
const SUPER_BYTES: usize = 28;
const ENTRY_BYTES: usize = 32;
const FILLED_SECTORS_MAX: u64 = 16;
/// Most bytes that are written to disk for the round trip.
const LOG_BYTES_MAX: usize = 512 << 10;

static DIRECTORY: LazyLock<PathBuf> = LazyLock::new(|| scratch("log-writes"));

fuzz_target!(|input: &[u8]| {
    let Some((kind, rest)) = input.split_first() else { return };
    if kind & 1 == 0 {
        check(rest.to_vec());
    } else if let Some(log) = long(&mut Unstructured::new(rest)) {
        check(log);
    }
});

fn long(input: &mut Unstructured<'_>) -> Option<Vec<u8>> {
    let mut log = input.bytes(SUPER_BYTES).ok()?.to_vec();
    let sector = u32::from_le_bytes(log[24..28].try_into().expect("4 bytes")) as usize;
    let sector = if sector.is_power_of_two() { sector.clamp(512, 4096) } else { 512 };
    log.resize(sector, 0);
    while log.len() < LOG_BYTES_MAX {
        let Ok(words) = input.bytes(ENTRY_BYTES) else { break };
        let word = |at: usize| u64::from_le_bytes(words[at..at + 8].try_into().expect("8 bytes"));
        let (count, is_write) = (word(8), word(16) & (4 | 8) == 0);
        log.extend_from_slice(words);
        let text = usize::from(input.arbitrary::<u8>().ok()?).min(input.len());
        log.extend_from_slice(input.bytes(text).ok()?);
        log.resize(log.len().next_multiple_of(sector), 0);
        if is_write && count <= FILLED_SECTORS_MAX {
            let fill = input.arbitrary::<u8>().ok()?;
            log.resize(log.len() + count as usize * sector, fill);
        }
    }
    Some(log)
}

/// What a log says, as far as a segment can express it.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Flush,
    Write(u64, Vec<u8>),
    Discard(Extent),
    Mark(String),
}

fn check(bytes: Vec<u8>) {
    if bytes.len() > LOG_BYTES_MAX {
        return;
    }
    let source = Box::new(BytesSource::new("input", bytes));
    let Ok(log) = LogWritesLog::from_source(source) else { return };
    let Some(said) = read(&log) else { return };
    let clock = ManualClock::new(Timestamp(0), 1);
    let import = |log: &LogWritesLog| -> (Vec<u8>, SegmentSummary) {
        import_log_writes(log, log_params(u64::MAX), Vec::new(), None, &clock)
            .expect("what was read can be imported")
    };
    let (native, summary) = import(&log);
    let segment = open_segment(&native).expect("what was written can be opened");
    segment.verify().expect("what was written is sound");
    assert_eq!(segment.summary(), &summary);
    assert!(records(&native) == said, "an import changes nothing");

    let (path, file) = (DIRECTORY.join("log"), DIRECTORY.join("native.hrl"));
    for path in [&path, &file] {
        let _ = std::fs::remove_file(path);
    }
    let report = export_log_writes(&[&segment], &path).expect("an import can be exported");
    let exported = LogWritesLog::open(&path).expect("what was written can be opened");
    assert!(read(&exported).expect("and read") == said, "an export changes nothing");
    let data = said.iter().map(|said| if let Said::Write(_, data) = said { data.len() } else { 0 });
    assert_eq!(report.bytes, data.sum::<usize>() as u64);
    assert!(records(&import(&exported).0) == said, "and comes back");
    // Of a size that the log needs, which may be more than there is.
    if convert_to_native(std::slice::from_ref(&path), &file, &clock).is_ok() {
        let converted = std::fs::read(&file).expect("it was written");
        assert!(records(&converted) == said, "a conversion changes nothing");
    }
}

/// Returns everything that a log says; `None` if an entry is bad.
fn read(log: &LogWritesLog) -> Option<Vec<Said>> {
    let mut said = Vec::new();
    let mut count = 0;
    for entry in log.entries() {
        let entry = entry.ok()?;
        count += 1;
        if entry.flush {
            said.push(Said::Flush);
        }
        match entry.body {
            LogWritesBody::Write { offset, data } => {
                assert!(!data.is_empty() && offset.checked_add(data.len() as u64).is_some());
                said.push(Said::Write(offset, data.into_owned()));
            }
            LogWritesBody::Discard(extent) => {
                assert!(!extent.is_empty());
                said.push(Said::Discard(extent));
            }
            LogWritesBody::Mark(text) if text != END => said.push(Said::Mark(label(&text))),
            LogWritesBody::Mark(_) | LogWritesBody::Nothing => {}
        }
    }
    assert_eq!(count, log.entry_count());
    Some(said)
}

/// As many whole characters as a label has room for.
fn label(text: &str) -> String {
    let mut label = String::new();
    for character in text.chars() {
        if label.len() + character.len_utf8() > LABEL_BYTES_MAX {
            break;
        }
        label.push(character);
    }
    label
}

fn records(native: &[u8]) -> Vec<Said> {
    let segment = open_segment(native).expect("it was opened before");
    let mut said = Vec::new();
    for number in 0..segment.frame_count() {
        for record in segment.frame(number).expect("sound").records() {
            said.push(match record.expect("sound").body {
                Body::Flush => Said::Flush,
                Body::Write { offset, data } => Said::Write(offset, data.to_vec()),
                Body::Discard(extent, Discarded::Undefined) => Said::Discard(extent),
                Body::Mark(mark) => Said::Mark(mark.label),
                other => panic!("a log has no {other:?}"),
            });
        }
    }
    said
}
