//! Cuts of a disk under load, each of which is the disk at one instant; and what becomes of them if a
//! mark, the check for conflicts or the audit is left out. The same check finds each of that.

use std::time::Duration;

use super::loops::{BLOCK, Loop};
use super::parts::{Load, setting, wrong_in};
use hrl::ErrorKind;
use hrl::device::{Access, DirectIo, FileDevice, FileDeviceOptions};
use hrl_attach::{CutOptions, Fault, Follower, Tracker};

/// A disk, and how it is written.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Writes are quick, so they come between a flip and the read after it.
    Quick,
    /// Writes are under way for long, so blocks are read meanwhile.
    Slow,
}

impl Kind {
    fn blocks(self) -> u64 {
        match self {
            Self::Quick => 4096,
            Self::Slow => 64,
        }
    }
}

/// Cuts until one is wrong. Returns what is wrong, if any; `Err` where something is missing.
fn first_wrong(fault: Fault, kind: Kind, cuts: u64) -> Result<Option<String>, &'static str> {
    let bytes = kind.blocks() * BLOCK;
    let (disk, pause) = match kind {
        Kind::Quick => (Loop::new(bytes), Duration::from_micros(300)),
        Kind::Slow => (Loop::slow(bytes, 20), Duration::ZERO),
    };
    let disk = disk.ok_or("no loop device, or no nbdkit and nbdfuse")?;
    let tracker = match Tracker::attach_with(&disk.path, fault) {
        Ok(tracker) => tracker,
        Err(error) if matches!(error.kind(), ErrorKind::Denied | ErrorKind::Unsupported) => {
            return Err("no BPF");
        }
        Err(error) => panic!("{error}"),
    };
    // The loop driver answers one request at a time, so the file below it is read.
    let (access, direct) = (Access::ReadOnly, DirectIo::Always);
    let options = FileDeviceOptions { access, direct, ..FileDeviceOptions::default() };
    let below = FileDevice::open(&disk.file, &options).expect("open");
    let load = Load::with(&disk.path, kind.blocks(), pause);
    let mut follower = Follower::new(&tracker, &below);
    let mut copy = vec![0; bytes as usize];
    let tries_max = if fault == Fault::Skipped { 20 } else { 2000 };
    let options = CutOptions { tries_max, ..CutOptions::default() };
    for number in 0..cuts {
        let acknowledged = load.done();
        let cut = follower.cut(&options, &mut |extent, data| {
            copy[extent.offset as usize..extent.end() as usize].copy_from_slice(data);
            Ok(())
        });
        match cut {
            Ok(_) => {}
            // No cut is no wrong cut.
            Err(error) if fault == Fault::Skipped && error.kind() == ErrorKind::Unavailable => {
                continue;
            }
            Err(error) => panic!("{fault:?}, {kind:?}: {error}"),
        }
        if let Some(wrong) = wrong_in(&copy, &acknowledged, Some(&load.begun())) {
            return Ok(Some(format!("cut {number}: {wrong}")));
        }
        std::thread::sleep(Duration::from_millis(7));
    }
    Ok(None)
}

#[test]
fn promise_14_a_cut_is_wrong_without_either_mark_the_conflict_check_or_the_audit() {
    let cuts = setting("HRL_ATTACH_POINTS", 12);
    for (fault, kind, is_right) in [
        (Fault::None, Kind::Quick, true),
        (Fault::None, Kind::Slow, true),
        (Fault::Skipped, Kind::Quick, true),
        (Fault::SkippedUnaudited, Kind::Quick, false),
        (Fault::NoConflictCheck, Kind::Quick, false),
        (Fault::NoSubmissionMarks, Kind::Quick, false),
        (Fault::NoCompletionMarks, Kind::Slow, false),
    ] {
        // What is found in some cuts alone is looked for in many.
        let cuts = if is_right { cuts } else { 400 };
        match first_wrong(fault, kind, cuts) {
            Err(missing) => eprintln!("not run, {fault:?}: {missing}"),
            Ok(wrong) => {
                println!("{fault:?}, {kind:?}: {wrong:?}");
                assert_eq!(wrong.is_none(), is_right, "{fault:?}, {kind:?}: {wrong:?}");
            }
        }
    }
}
