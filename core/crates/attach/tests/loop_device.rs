//! Cuts of loop devices under load: every change acknowledged before a cut is in it, none that began
//! after it, and whatever a writer waited for.
//!
//! Needs root, loop devices and BPF; without them the tests say so and pass.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hrl::device::{Buffer, DirectIo, FileDevice, FileDeviceOptions};
use hrl::{ErrorKind, Extent};
use hrl_attach::{Audit, CutOptions, Follower, Tracker};

const BLOCK: u64 = 4096;
const BLOCKS: u64 = 4096;
const WRITERS: u64 = 3;

/// A loop device over a file, removed at the end.
struct Loop {
    path: PathBuf,
    _directory: tempfile::TempDir,
}

impl Loop {
    fn new() -> Option<Self> {
        let directory = tempfile::tempdir().expect("directory");
        let file = directory.path().join("disk");
        File::create(&file).and_then(|file| file.set_len(BLOCKS * BLOCK)).expect("file");
        let made = Command::new("losetup").args(["--find", "--show"]).arg(&file).output().ok()?;
        let path = String::from_utf8(made.stdout).ok()?.trim().to_owned();
        if path.is_empty() {
            return None;
        }
        Some(Self { path: path.into(), _directory: directory })
    }

    fn device(&self) -> FileDevice {
        let options =
            FileDeviceOptions { direct: DirectIo::Always, ..FileDeviceOptions::default() };
        FileDevice::open(&self.path, &options).expect("open")
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.path).status();
    }
}

/// Returns a disk and its tracker; `None` where there is no BPF or no loop device.
fn tracked() -> Option<(Loop, Tracker)> {
    let Some(disk) = Loop::new() else {
        eprintln!("not run: no loop device");
        return None;
    };
    match Tracker::attach(&disk.path) {
        Ok(tracker) => Some((disk, tracker)),
        Err(error) if matches!(error.kind(), ErrorKind::Io | ErrorKind::Unsupported) => {
            eprintln!("not run: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn direct(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(path).expect("open")
}

fn block_of(number: u64) -> Buffer {
    let mut block = Buffer::zeroed(BLOCK as usize);
    block.chunks_exact_mut(8).for_each(|word| word.copy_from_slice(&number.to_le_bytes()));
    block
}

#[test]
fn each_kind_of_change_is_marked_and_counted() {
    let Some((disk, tracker)) = tracked() else { return };
    assert_eq!(tracker.take(), []);
    let file = direct(&disk.path);
    file.write_all_at(&block_of(1), 7 * BLOCK).expect("write");
    file.write_all_at(&block_of(2), 8 * BLOCK).expect("write");
    file.write_all_at(&block_of(3), (BLOCKS - 1) * BLOCK).expect("write");
    let expected = [
        Extent { offset: 7 * BLOCK, length: 2 * BLOCK },
        Extent { offset: (BLOCKS - 1) * BLOCK, length: BLOCK },
    ];
    assert_eq!(tracker.take(), expected);
    assert!(tracker.is_submitted(&expected[..1]));
    assert_eq!(tracker.audit().expect("audit"), Audit::Clean);

    let wide = Buffer::zeroed(1 << 20);
    file.write_all_at(&wide, 60 * BLOCK).expect("write");
    assert_eq!(tracker.flip().expect("flip"), [Extent { offset: 60 * BLOCK, length: 1 << 20 }]);
    assert!(!tracker.is_submitted(&expected), "a new epoch");

    for mode in ["--zeroout", ""] {
        let mut command = Command::new("blkdiscard");
        if !mode.is_empty() {
            command.arg(mode);
        }
        let range = ["--offset", "40960", "--length", "1048576"];
        assert!(command.args(range).arg(&disk.path).status().expect("blkdiscard").success());
        let taken = tracker.take();
        assert_eq!(taken, [Extent { offset: 40_960, length: 1 << 20 }], "{mode}");
    }
    assert_eq!(tracker.audit().expect("audit"), Audit::Clean);
}

#[test]
fn a_pinned_tracker_misses_nothing_while_no_process_has_it() {
    let Some((disk, tracker)) = tracked() else { return };
    let directory = PathBuf::from(format!("/sys/fs/bpf/hrl-test-{}", std::process::id()));
    if let Err(error) = tracker.pin(&directory) {
        return eprintln!("not run: {error}");
    }
    drop(tracker);
    direct(&disk.path).write_all_at(&block_of(1), 9 * BLOCK).expect("write");
    let tracker = Tracker::reopen(&directory, &disk.path).expect("reopen");
    assert_eq!(tracker.take(), [Extent { offset: 9 * BLOCK, length: BLOCK }]);
    assert_eq!(tracker.audit().expect("audit"), Audit::Clean);

    let other = Loop::new().expect("another disk");
    let error = Tracker::reopen(&directory, &other.path).expect_err("another disk");
    assert_eq!(error.kind(), ErrorKind::Changed, "{error}");
    Tracker::detach(&directory).expect("detach");
    Tracker::detach(&directory).expect("nothing to do");
    let error = Tracker::reopen(&directory, &disk.path).expect_err("detached");
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
}

/// What writers have done, by their numbers.
struct Load {
    /// Number of the last operation that each writer was told is done.
    done: Vec<AtomicU64>,
    /// Number of the last operation that each writer has begun.
    begun: Vec<AtomicU64>,
    stopping: AtomicBool,
}

/// Writes blocks with growing numbers, each once the one before is done. Writer `w` has every third
/// block.
fn write_on(path: &Path, load: &Load, writer: u64) {
    let file = direct(path);
    let mut random = writer + 1;
    let mut number = 0;
    while !load.stopping.load(Ordering::Relaxed) {
        random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        number += 1;
        load.begun[writer as usize].store(number, Ordering::SeqCst);
        let at = (random >> 33) % (BLOCKS / WRITERS) * WRITERS + writer;
        file.write_all_at(&block_of(number), at * BLOCK).expect("write");
        load.done[writer as usize].store(number, Ordering::SeqCst);
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Returns the newest number of each writer in a copy.
fn newest_in(copy: &[u8]) -> Vec<u64> {
    let mut newest = vec![0; WRITERS as usize];
    for (at, block) in copy.chunks(BLOCK as usize).enumerate() {
        let number = u64::from_le_bytes(block[..8].try_into().expect("8 bytes"));
        let writer = at % WRITERS as usize;
        newest[writer] = newest[writer].max(number);
    }
    newest
}

/// Replays the writers up to these numbers.
fn expected(newest: &[u64]) -> Vec<u64> {
    let mut disk = vec![0; BLOCKS as usize];
    for (writer, last) in newest.iter().enumerate() {
        let mut random = writer as u64 + 1;
        for number in 1..=*last {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let at = (random >> 33) % (BLOCKS / WRITERS) * WRITERS + writer as u64;
            disk[at as usize] = number;
        }
    }
    disk
}

#[test]
fn every_cut_is_the_disk_between_two_instants() {
    let Some((disk, tracker)) = tracked() else { return };
    let numbers = || (0..WRITERS).map(|_| AtomicU64::new(0)).collect::<Vec<_>>();
    let load = Load { done: numbers(), begun: numbers(), stopping: AtomicBool::new(false) };
    let load = Arc::new(load);
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (load, path) = (load.clone(), disk.path.clone());
            std::thread::spawn(move || write_on(&path, &load, writer))
        })
        .collect();
    let device = disk.device();
    let mut copy = vec![0; (BLOCKS * BLOCK) as usize];
    let mut follower = Follower::new(&tracker, &device);
    // Other tests may leave this one little of a processor.
    let options = CutOptions { tries_max: 2000, ..CutOptions::default() };
    let cuts = std::env::var("CUTS").map_or(12, |text| text.parse().expect("a number"));
    let mut tries = 0;
    for number in 0..cuts {
        let of = |numbers: &[AtomicU64]| -> Vec<u64> {
            numbers.iter().map(|number| number.load(Ordering::SeqCst)).collect()
        };
        let acknowledged = of(&load.done);
        let cut = follower
            .cut(&options, &mut |extent, data| {
                copy[extent.offset as usize..extent.end() as usize].copy_from_slice(data);
                Ok(())
            })
            .expect("cut");
        tries += cut.tries;
        let begun = of(&load.begun);
        let newest = newest_in(&copy);
        for writer in 0..WRITERS as usize {
            assert!(newest[writer] >= acknowledged[writer], "cut {number}");
            assert!(newest[writer] <= begun[writer], "cut {number}");
        }
        for (at, expected) in expected(&newest).into_iter().enumerate() {
            let block = &copy[at * BLOCK as usize..(at + 1) * BLOCK as usize];
            assert!(block == &block_of(expected)[..], "cut {number}, block {at}, {expected}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    load.stopping.store(true, Ordering::Relaxed);
    writers.into_iter().for_each(|writer| writer.join().expect("writer"));
    let written: u64 = load.done.iter().map(|number| number.load(Ordering::Relaxed)).sum();
    println!("{cuts} cuts, {tries} tries, {written} writes, audit {:?}", tracker.audit());
}
