//! A native segment of any bytes (promise 11), as it is and with correct checksums.
//!
//! A segment that verifies must read without an error, say the same in each way to read it, and
//! come out of a merge with the same last writers.
#![no_main]

use hrl::journal::{IndexEntry, IndexKind, Segment, SegmentKind, mend_segment, merge};
use hrl::{Compression, ErrorKind, ManualClock, Result, Sequence, Timestamp};
use hrl_fuzz::{key, open_segment};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    check(input);
    let mut mended = input.to_vec();
    mend_segment(&mut mended);
    check(&mended);
});

fn check(bytes: &[u8]) {
    let Ok(segment) = open_segment(bytes) else { return };
    let sound = segment.verify().is_ok();
    let read = read_in_every_way(&segment);
    if !sound {
        return;
    }
    let (records, last_writers) = read.expect("what verifies can be read");
    assert_eq!(records, segment.summary().records);
    assert_eq!(segment.summary().stored_bytes, bytes.len() as u64);
    check_merge(&segment, &last_writers);
}

/// Returns the number of records and the last writers. Continues after an error, to reach more, and
/// returns the first.
fn read_in_every_way(segment: &Segment) -> Result<(u64, Vec<IndexEntry>)> {
    let mut records = 0;
    let mut first_error = Ok(());
    let mut note = |result: Result<()>| {
        if first_error.is_ok() {
            first_error = result;
        }
    };
    for number in 0..segment.frame_count() {
        let frame = match segment.frame(number) {
            Ok(frame) => frame,
            Err(error) => {
                note(Err(error));
                continue;
            }
        };
        for record in frame.records() {
            records += 1;
            note(record.map(drop));
        }
    }
    let middle = segment.summary().first_sequence.0.midpoint(segment.summary().last_sequence.0);
    note(segment.index_at(Sequence(middle)).map(drop));
    let last_writers = segment.index_at(Sequence::MAX);
    let index = segment.index();
    if let Ok(index) = &index {
        for entry in index.iter().filter(|entry| entry.kind == IndexKind::Data) {
            let length = usize::try_from(entry.extent.length).expect("bounded by the format");
            note(
                segment
                    .frame(entry.frame)
                    .and_then(|f| f.data_at(entry.data_offset, length).map(drop)),
            );
        }
    }
    let _ = (segment.summary().object_name(), format!("{segment:?}"));
    first_error?;
    Ok((records, last_writers?))
}

fn check_merge(segment: &Segment, last_writers: &[IndexEntry]) {
    let clock = ManualClock::new(Timestamp(0), 1);
    let merged =
        merge(&[segment], SegmentKind::Merged, Vec::new(), Compression::None, Some(&key()), &clock);
    let (bytes, summary, _) = match merged {
        Ok(merged) => merged,
        Err(error) => {
            let expected = [ErrorKind::InvalidInput, ErrorKind::NotOrdered, ErrorKind::Full];
            assert!(expected.contains(&error.kind()), "{error}");
            return;
        }
    };
    let merged = open_segment(&bytes).expect("what was written can be opened");
    merged.verify().expect("what was written is sound");
    assert_eq!(merged.summary(), &summary);
    let found = merged.index().expect("what verifies can be read");
    assert_eq!(places(&found), places(last_writers));
}

/// What entries say of the volume, however it is cut into records and frames.
fn places(entries: &[IndexEntry]) -> Vec<(u64, u64, IndexKind, Sequence)> {
    let mut places: Vec<(u64, u64, IndexKind, Sequence)> = Vec::new();
    for entry in entries {
        let (start, end) = (entry.extent.offset, entry.extent.end());
        match places.last_mut() {
            Some(last) if (last.1, last.2, last.3) == (start, entry.kind, entry.sequence) => {
                last.1 = end;
            }
            _ => places.push((start, end, entry.kind, entry.sequence)),
        }
    }
    places
}
