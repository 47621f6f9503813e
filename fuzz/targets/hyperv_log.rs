//! A Hyper-V Replica log of any bytes (promise 11), as it is and with correct checksums. A readable
//! log comes back unchanged from a native segment, and from an export of that.
//!
//! An input is the used part of the header and then the log from its first block or data on, so
//! that inputs stay short.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use hrl::journal::{Body, BytesSource};
use hrl::{ManualClock, Timestamp};
use hrl_fuzz::{log_params, open_segment, scratch};
use hrl_interchange::{
    HypervLog, convert_to_native, export_hyperv, import_hyperv, mend_hyperv_log,
};
use libfuzzer_sys::fuzz_target;

const HEADER_BYTES: usize = 4096;
const HEADER_BYTES_USED: usize = 128;
/// Most bytes that are written to disk for the round trip.
const DATA_BYTES_MAX: usize = 64 << 10;

static DIRECTORY: LazyLock<PathBuf> = LazyLock::new(|| scratch("hyperv"));

fuzz_target!(|input: &[u8]| {
    let (header, rest) = input.split_at(input.len().min(HEADER_BYTES_USED));
    let mut bytes = header.to_vec();
    if !rest.is_empty() {
        bytes.resize(HEADER_BYTES, 0);
        bytes.extend_from_slice(rest);
    }
    check(&bytes);
    mend_hyperv_log(&mut bytes);
    check(&bytes);
});

/// Offset, seconds and data of each write.
type Writes = Vec<(u64, i64, Vec<u8>)>;

fn check(bytes: &[u8]) {
    let source = Box::new(BytesSource::new("input", bytes.to_vec()));
    let Ok(log) = HypervLog::from_source(source) else { return };
    let Some(writes) = read(&log) else { return };
    assert_eq!(writes.len() as u64, log.write_count());
    if writes.iter().map(|(_, _, data)| data.len()).sum::<usize>() > DATA_BYTES_MAX {
        return;
    }
    let header = log.header();
    if header.unique_id == header.previous_unique_id && header.unique_id != [0; 16] {
        // It follows itself, so it is in no chain.
        return;
    }
    let clock = ManualClock::new(Timestamp(0), 1);
    let (native, summary) = import_hyperv(&[log], log_params(u64::MAX), Vec::new(), None, &clock)
        .expect("what was read can be imported");
    let segment = open_segment(&native).expect("what was written can be opened");
    segment.verify().expect("what was written is sound");
    assert_eq!((segment.summary(), summary.marks.len()), (&summary, 1));
    let mut imported = Writes::new();
    for number in 0..segment.frame_count() {
        for record in segment.frame(number).expect("sound").records() {
            let record = record.expect("sound");
            if let Body::Write { offset, data } = record.body {
                imported.push((offset, record.time.seconds(), data.to_vec()));
            }
        }
    }
    assert!(imported == writes, "an import changes nothing");

    let (logs, file) = (DIRECTORY.join("logs"), DIRECTORY.join("native.hrl"));
    let _ = std::fs::remove_dir_all(&logs);
    let _ = std::fs::remove_file(&file);
    let report = export_hyperv(&[&segment], &logs, &clock).expect("an import can be exported");
    let mut exported = Writes::new();
    for path in &report.logs {
        let log = HypervLog::open(path).expect("what was written can be opened");
        assert!(log.is_closed());
        exported.extend(read(&log).expect("what was written is sound"));
    }
    assert!(exported == writes, "an export changes nothing");
    if !report.logs.is_empty() {
        convert_to_native(&report.logs, &file, &clock).expect("and comes back");
    }
}

fn read(log: &HypervLog) -> Option<Writes> {
    let writes = log.writes().map(|write| {
        let write = write.ok()?;
        Some((write.offset, write.time.seconds(), write.data.into_owned()))
    });
    writes.collect()
}
