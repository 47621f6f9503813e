//! Copies of a disk under load, by the marks alone. They are right, and a fault that is built into the
//! programs makes them wrong or is found by the audit: so the tests can fail.

use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::loops::{BLOCK, Loop, direct, write_block};
use hrl::device::Buffer;
use hrl::{ErrorKind, Extent};
use hrl_attach::{Audit, Fault, Tracker};

const BLOCKS: u64 = 64;
const BYTES: u64 = BLOCKS * BLOCK;

/// Returns a tracker with a fault; `None` where there is no BPF.
fn tracker(disk: &Loop, fault: Fault) -> Option<Tracker> {
    match Tracker::attach_with(&disk.path, fault) {
        Ok(tracker) => Some(tracker),
        Err(error) if matches!(error.kind(), ErrorKind::Denied | ErrorKind::Unsupported) => {
            eprintln!("not run: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// Result of copying a disk while it is written.
#[derive(Debug)]
struct Copied {
    wrong_blocks: usize,
    failed_audits: u32,
}

/// Copies what is marked, round by round, while a writer goes on; compares when it has stopped. The
/// whole disk is copied after a failed audit, if `audits`.
fn copy(disk: &Loop, tracker: &Tracker, audits: bool, rounds: u32, pause_ms: u64) -> Copied {
    // The loop driver answers one request at a time, so the file below it is read.
    let below = direct(&disk.file);
    let mut copy = Buffer::zeroed(BYTES as usize);
    below.read_exact_at(&mut copy, 0).expect("read");
    let stopping = Arc::new(AtomicBool::new(false));
    let writer = {
        let (path, stopping): (PathBuf, _) = (disk.path.clone(), stopping.clone());
        std::thread::spawn(move || {
            let file = direct(&path);
            let mut random: u64 = 1;
            for number in 1.. {
                if stopping.load(Ordering::Relaxed) {
                    break;
                }
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                write_block(&file, (random >> 33) % BLOCKS, number);
            }
        })
    };
    let mut copied = Copied { wrong_blocks: 0, failed_audits: 0 };
    let mut round = |copy: &mut Buffer| {
        let mut changed = tracker.flip().expect("flip");
        if tracker.audit().expect("audit") != Audit::Clean {
            copied.failed_audits += 1;
            if audits {
                changed = vec![Extent { offset: 0, length: BYTES }];
            }
        }
        let mut buffer = Buffer::zeroed(BYTES as usize);
        for extent in changed {
            let part = &mut buffer[..extent.length as usize];
            below.read_exact_at(part, extent.offset).expect("read");
            copy[extent.offset as usize..extent.end() as usize].copy_from_slice(part);
        }
    };
    for _ in 0..rounds {
        std::thread::sleep(std::time::Duration::from_millis(pause_ms));
        round(&mut copy);
    }
    stopping.store(true, Ordering::Relaxed);
    writer.join().expect("writer");
    round(&mut copy);
    let mut found = Buffer::zeroed(BYTES as usize);
    below.read_exact_at(&mut found, 0).expect("read");
    let pairs = copy.chunks(BLOCK as usize).zip(found.chunks(BLOCK as usize));
    copied.wrong_blocks = pairs.filter(|(copy, disk)| copy != disk).count();
    copied
}

#[test]
fn a_mark_at_completion_is_needed_while_writes_are_under_way() {
    for (fault, is_right) in [(Fault::None, true), (Fault::NoCompletionMarks, false)] {
        let Some(disk) = Loop::slow(BYTES, 20) else {
            return eprintln!("not run: no nbdfuse, nbdkit or loop device");
        };
        let Some(tracker) = tracker(&disk, fault) else { return };
        let copied = copy(&disk, &tracker, true, 40, 7);
        println!("{fault:?}: {copied:?}");
        assert_eq!(copied.wrong_blocks == 0, is_right, "{fault:?}: {copied:?}");
        assert_eq!(copied.failed_audits, 0, "{fault:?}: the requests themselves were counted");
    }
}

#[test]
fn programs_that_are_skipped_are_found_by_the_audit_and_by_nothing_else() {
    for (fault, audits, is_right) in
        [(Fault::None, true, true), (Fault::Skipped, true, true), (Fault::Skipped, false, false)]
    {
        let Some(disk) = Loop::new(BYTES) else { return eprintln!("not run: no loop device") };
        let Some(tracker) = tracker(&disk, fault) else { return };
        let copied = copy(&disk, &tracker, audits, 20, 5);
        println!("{fault:?}, audits {audits}: {copied:?}");
        assert_eq!(copied.wrong_blocks == 0, is_right, "{fault:?}, audits {audits}: {copied:?}");
        assert_eq!(copied.failed_audits > 0, fault == Fault::Skipped, "{fault:?}: {copied:?}");
    }
}
