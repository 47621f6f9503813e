//! Repair of a torn segment of any bytes (promise 11): its output is sound, matches the report, and
//! is unchanged by a second repair.
#![no_main]

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use hrl::journal::{RepairReport, SegmentSummary, mend_segment, repair};
use hrl::{ManualClock, Timestamp};
use hrl_fuzz::{key, open_segment, scratch};
use libfuzzer_sys::fuzz_target;

static TORN: LazyLock<PathBuf> = LazyLock::new(|| scratch("repair").join("torn.hrl"));

fuzz_target!(|input: &[u8]| {
    check(input);
    let mut mended = input.to_vec();
    mend_segment(&mut mended);
    check(&mended);
});

fn check(torn: &[u8]) {
    let Some((bytes, summary, report)) = run(torn, &TORN) else { return };
    assert!(report.bytes_dropped <= torn.len() as u64);
    assert_eq!(summary.is_some(), report.records_kept > 0);
    let Some(summary) = summary else { return };
    assert_eq!(
        (summary.records, Some(summary.last_sequence)),
        (report.records_kept, report.last_sequence)
    );
    let segment = open_segment(&bytes).expect("what was written can be opened");
    segment.verify().expect("what was written is sound");
    assert_eq!(segment.summary(), &summary);
    let (_, again, second) = run(&bytes, &TORN).expect("a sound segment can be repaired");
    let again = again.expect("it has records");
    assert_eq!((second.records_kept, second.bytes_dropped), (report.records_kept, 0));
    assert_eq!((again.marks, again.order_changes), (summary.marks, summary.order_changes));
}

fn run(torn: &[u8], path: &Path) -> Option<(Vec<u8>, Option<SegmentSummary>, RepairReport)> {
    std::fs::write(path, torn).expect("room for scratch files");
    let clock = ManualClock::new(Timestamp(0), 1);
    repair(path, Vec::new(), &key().into(), &clock).ok()
}
