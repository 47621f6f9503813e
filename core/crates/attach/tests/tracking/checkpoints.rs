//! Change sets between named checkpoints of loop devices and partitions.
#![allow(unsafe_code, reason = "umask(2)")]

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::loops::{BLOCK, Loop, blocks, direct, write_block};
use hrl::{ErrorKind, Extent, Result};
use hrl_attach::{Checkpoints, DiskChanges, Everything, Fault, TrackOptions, Tracker};

const BYTES: u64 = 16 << 20;

/// A disk that is tracked, until the end of a test.
struct Tracked {
    checkpoints: Checkpoints,
    options: TrackOptions,
    disk: Loop,
}

impl Tracked {
    fn new(bytes: u64, fault: Fault) -> Option<Self> {
        let Some(disk) = Loop::new(bytes) else {
            eprintln!("not run: no loop device");
            return None;
        };
        let options =
            TrackOptions { state: disk.directory().join("state"), ..TrackOptions::default() };
        match Checkpoints::start_with(&disk.path, &options, fault) {
            Ok(checkpoints) => Some(Self { checkpoints, options, disk }),
            Err(error) if matches!(error.kind(), ErrorKind::Denied | ErrorKind::Unsupported) => {
                eprintln!("not run: {error}");
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn write(&self, block: u64) {
        write_block(&direct(&self.disk.path), block, block);
    }

    fn changes(&self, from: &str, to: Option<&str>) -> DiskChanges {
        self.checkpoints.changes(from, to).expect("changes")
    }

    /// Returns the blocks that changed between two checkpoints.
    fn blocks(&self, from: &str, to: Option<&str>) -> Vec<u64> {
        let found = self.changes(from, to);
        assert_eq!(found.everything, None);
        let extents = found.extents.iter();
        extents.flat_map(|extent| extent.offset / BLOCK..extent.end() / BLOCK).collect()
    }

    fn kind(result: Result<impl std::fmt::Debug>) -> ErrorKind {
        result.expect_err("an error").kind()
    }

    /// Returns the directories of this disk in bpffs.
    fn pinned(&self) -> Vec<PathBuf> {
        let name = self.disk.path.file_name().expect("name").to_string_lossy().into_owned();
        let entries = fs::read_dir(&self.options.pins).expect("bpffs").flatten();
        let paths = entries.map(|entry| entry.path());
        paths.filter(|path| path.to_string_lossy().contains(&format!("-{name}-"))).collect()
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        let _ = self.checkpoints.clone().stop();
    }
}

#[test]
fn sets_between_checkpoints_are_exact_and_nothing_stays_after_a_stop() {
    let Some(it) = Tracked::new(BYTES, Fault::None) else { return };
    it.write(1);
    let first = it.checkpoints.checkpoint("a").expect("checkpoint");
    assert_eq!((first.bytes_changed, first.everything, first.is_current), (BLOCK, None, true));
    it.write(5);
    it.write(6);
    assert_eq!(it.blocks("a", None), [5, 6]);
    assert_eq!(it.blocks("a", None), [5, 6], "looking takes nothing");
    it.checkpoints.checkpoint("b").expect("checkpoint");
    it.write(6);
    it.write(9);
    it.checkpoints.checkpoint("c").expect("checkpoint");
    it.write(4095);
    assert_eq!(it.blocks("a", Some("b")), [5, 6]);
    assert_eq!(it.blocks("b", Some("c")), [6, 9]);
    assert_eq!(it.blocks("a", Some("c")), [5, 6, 9]);
    assert_eq!(it.blocks("c", Some("c")), [0_u64; 0]);
    assert_eq!(it.blocks("a", None), [5, 6, 9, 4095]);

    assert_eq!(Tracked::kind(it.checkpoints.checkpoint("b")), ErrorKind::AlreadyExists);
    assert_eq!(Tracked::kind(it.checkpoints.checkpoint("")), ErrorKind::InvalidInput);
    assert_eq!(Tracked::kind(it.checkpoints.checkpoint("a\nb")), ErrorKind::InvalidInput);
    assert_eq!(Tracked::kind(it.checkpoints.changes("d", None)), ErrorKind::NotFound);
    assert_eq!(Tracked::kind(it.checkpoints.changes("b", Some("a"))), ErrorKind::InvalidInput);
    let again = Checkpoints::start(&it.disk.path, &it.options);
    assert_eq!(Tracked::kind(again), ErrorKind::AlreadyExists);

    // Another process.
    let opened = Checkpoints::open(&it.disk.path, &it.options).expect("open");
    opened.forget("b").expect("forget");
    assert_eq!(it.blocks("a", Some("c")), [5, 6, 9]);
    let names: Vec<_> = opened.list().expect("list").into_iter().map(|one| one.name).collect();
    assert_eq!(names, ["a", "c"]);
    let status = opened.status().expect("status");
    assert_eq!((status.disk_bytes, status.bytes_changed, status.lost), (BYTES, BLOCK, None));
    assert_eq!(status.memory_bytes, Tracker::memory_bytes_for(BYTES));
    assert_eq!(Checkpoints::all(&it.options).expect("all").len(), 1);

    assert_eq!(it.pinned().len(), 1);
    opened.stop().expect("stop");
    assert_eq!(it.pinned(), Vec::<PathBuf>::new());
    let error = Checkpoints::open(&it.disk.path, &it.options).expect_err("stopped");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(Checkpoints::all(&it.options).expect("all").len(), 0);
}

#[test]
fn only_the_owner_enters_what_is_pinned_whatever_the_umask() {
    // SAFETY: a call with a number.
    let before = unsafe { libc::umask(0) };
    let tracked = Tracked::new(BYTES, Fault::None);
    // SAFETY: as above.
    unsafe { libc::umask(before) };
    let Some(it) = tracked else { return };
    for path in it.pinned() {
        let mode = fs::metadata(&path).expect("metadata").permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "{}", path.display());
    }
    let mode = fs::metadata(it.options.state.join(it.disk.path.file_name().expect("name")));
    assert_eq!(mode.expect("metadata").permissions().mode() & 0o777, 0o700);
}

/// Makes a state directory that of another boot.
fn reboot(it: &Tracked) {
    let path = it.options.state.join(it.disk.path.file_name().expect("name")).join("tracked");
    let text = fs::read_to_string(&path).expect("read");
    let lines = text.lines().filter(|line| !line.starts_with("end "));
    let changed: String = lines
        .map(|line| if line.starts_with("boot ") { "boot another" } else { line })
        .flat_map(|line| [line, "\n"])
        .collect();
    let end = format!("end {:08x}\n", crc32fast::hash(changed.as_bytes()));
    fs::write(&path, changed + &end).expect("write");
}

#[test]
fn a_checkpoint_of_another_boot_is_refused() {
    let Some(it) = Tracked::new(BYTES, Fault::None) else { return };
    it.checkpoints.checkpoint("a").expect("checkpoint");
    it.write(3);
    it.checkpoints.checkpoint("b").expect("checkpoint");
    reboot(&it);
    let error = it.checkpoints.changes("a", None).expect_err("another boot");
    assert_eq!(error.kind(), ErrorKind::Changed);
    assert!(error.to_string().contains("everything may have changed"), "{error}");
    assert_eq!(Tracked::kind(it.checkpoints.checkpoint("c")), ErrorKind::Changed);
    assert!(it.checkpoints.status().expect("status").lost.is_some());
    // What was recorded stays true.
    assert_eq!(it.blocks("a", Some("b")), [3]);

    Checkpoints::start(&it.disk.path, &it.options).expect("start again");
    assert_eq!(Tracked::kind(it.checkpoints.changes("a", None)), ErrorKind::Changed);
    it.checkpoints.checkpoint("c").expect("checkpoint");
    assert_eq!(Tracked::kind(it.checkpoints.changes("b", Some("c"))), ErrorKind::Changed);
    // The name of one of before may be used again.
    it.checkpoints.checkpoint("a").expect("checkpoint");
    it.write(7);
    assert_eq!(it.blocks("a", None), [7]);
    assert_eq!(it.blocks("c", Some("a")), [0_u64; 0]);
    let current: Vec<_> = it.checkpoints.list().expect("list");
    let current: Vec<_> = current.iter().map(|one| (&one.name[..], one.is_current)).collect();
    assert_eq!(current, [("b", false), ("c", true), ("a", true)]);
}

#[test]
fn a_tracker_that_was_detached_or_is_another_ones_is_refused() {
    let Some(it) = Tracked::new(BYTES, Fault::None) else { return };
    it.checkpoints.checkpoint("a").expect("checkpoint");
    let pins = it.pinned().pop().expect("pinned");
    Tracker::detach(&pins).expect("detach");
    assert_eq!(Tracked::kind(it.checkpoints.changes("a", None)), ErrorKind::Changed);
    Tracker::attach(&it.disk.path).expect("attach").pin(&pins).expect("pin");
    assert_eq!(Tracked::kind(it.checkpoints.changes("a", None)), ErrorKind::Changed);
    assert_eq!(Tracked::kind(it.checkpoints.checkpoint("b")), ErrorKind::Changed);
}

#[test]
fn requests_that_nobody_saw_make_a_set_the_whole_disk_once() {
    let Some(it) = Tracked::new(BYTES, Fault::Skipped) else { return };
    it.checkpoints.checkpoint("a").expect("checkpoint");
    it.write(8);
    assert_eq!(it.blocks("a", None), [8]);
    it.write(13);
    let whole = [Extent { offset: 0, length: BYTES }];
    for _ in 0..2 {
        let now = it.changes("a", None);
        assert_eq!(now.everything, Some(Everything::Missed(8)), "looking accepts nothing");
        assert!(now.extents.iter().eq(whole));
    }
    let checkpoint = it.checkpoints.checkpoint("b").expect("checkpoint");
    assert_eq!(checkpoint.everything, Some(Everything::Missed(8)));
    assert_eq!(checkpoint.bytes_changed, BYTES);
    it.write(16);
    it.checkpoints.checkpoint("c").expect("checkpoint");
    assert_eq!(it.blocks("b", Some("c")), [16]);
    let across = it.changes("a", Some("c"));
    assert_eq!(across.everything, Some(Everything::Missed(8)));
    assert!(across.extents.iter().eq(whole));
    it.checkpoints.forget("b").expect("forget");
    assert_eq!(it.changes("a", Some("c")).everything, Some(Everything::Missed(8)));
}

#[test]
fn a_checkpoint_that_cannot_be_recorded_loses_nothing() {
    for fault in [Fault::None, Fault::Skipped] {
        let Some(it) = Tracked::new(BYTES, fault) else { return };
        it.checkpoints.checkpoint("a").expect("checkpoint");
        it.write(2);
        if fault == Fault::Skipped {
            it.write(5);
        }
        let state = it.options.state.join(it.disk.path.file_name().expect("name"));
        let in_the_way = state.join("checkpoint-0000000002.new");
        for block in [3, 4] {
            fs::create_dir(&in_the_way).expect("directory");
            it.checkpoints.checkpoint("b").expect_err("a file in the way");
            fs::remove_dir(&in_the_way).expect("remove");
            it.write(block);
        }
        if fault == Fault::Skipped {
            assert_eq!(it.changes("a", None).everything, Some(Everything::Missed(8)));
            let checkpoint = it.checkpoints.checkpoint("b").expect("checkpoint");
            assert_eq!(checkpoint.everything, Some(Everything::Missed(8)));
            continue;
        }
        assert_eq!(it.blocks("a", None), [2, 3, 4]);
        it.checkpoints.checkpoint("b").expect("checkpoint");
        assert_eq!(it.blocks("a", Some("b")), [2, 3, 4]);
        assert_eq!(it.blocks("b", None), [0_u64; 0]);
    }
}

#[test]
fn a_disk_that_has_grown_is_tracked_on_from_its_next_checkpoint() {
    let Some(it) = Tracked::new(BYTES, Fault::None) else { return };
    it.checkpoints.checkpoint("a").expect("checkpoint");
    let other = Tracker::attach(&it.disk.path).expect("attach");
    let file = fs::OpenOptions::new().write(true).open(&it.disk.file).expect("open");
    file.set_len(2 * BYTES).expect("grow");
    let grown = Command::new("losetup").arg("-c").arg(&it.disk.path).status();
    assert!(grown.expect("losetup").success());
    assert_eq!(other.audit().expect("audit"), hrl_attach::Audit::Unknown);
    it.write(2 * BYTES / BLOCK - 1);
    let now = it.changes("a", None);
    assert_eq!(now.everything, Some(Everything::Resized));
    assert!(now.extents.iter().eq([Extent { offset: 0, length: 2 * BYTES }]));
    let checkpoint = it.checkpoints.checkpoint("b").expect("checkpoint");
    assert_eq!(checkpoint.everything, Some(Everything::Resized));
    assert_eq!(checkpoint.disk_bytes, 2 * BYTES);
    it.write(2 * BYTES / BLOCK - 2);
    it.write(1);
    assert_eq!(it.blocks("b", None), [1, 2 * BYTES / BLOCK - 2]);
    assert_eq!(it.pinned().len(), 1);
}

#[test]
fn a_partition_has_the_changes_within_it_by_whatever_way() {
    let Some(disk) = Loop::new(64 << 20) else { return eprintln!("not run: no loop device") };
    let mut table = Command::new("sfdisk");
    table.args(["--quiet", "--wipe=never"]).arg(&disk.path).stdin(Stdio::piped());
    let Ok(mut made) = table.spawn() else { return eprintln!("not run: no sfdisk") };
    // The second one begins at a sector that is not that of a block.
    let partitions = b"label: dos\n2048,16387\n18435,40960\n";
    made.stdin.take().expect("pipe").write_all(partitions).expect("write");
    assert!(made.wait().expect("sfdisk").success());
    let Some(paths) = [1, 2].map(|number| disk.partition(number)).into_iter().collect() else {
        return eprintln!("not run: no partitions");
    };
    let paths: Vec<PathBuf> = paths;
    let partition = |number: usize| paths[number - 1].clone();
    let start = 18_435 * 512;
    let bytes = 40_960 * 512;
    let trackers: Vec<_> = [disk.path.clone(), partition(1), partition(2)]
        .iter()
        .map(|path| Tracker::attach(path).expect("attach"))
        .collect();
    let [whole, first, second] = &trackers[..] else { panic!("three") };
    assert_eq!((first.disk_bytes(), second.disk_bytes()), (16_387 * 512, bytes));

    write_block(&direct(&partition(2)), 3, 1);
    assert_eq!(second.take(), [blocks(3, 1)]);
    assert_eq!(first.take(), Vec::<hrl::Extent>::new());
    assert_eq!(whole.take().iter().map(|extent| extent.length).sum::<u64>(), 2 * BLOCK);
    // Through the whole disk, across the end of the first partition into the second one.
    let at = (start - 2 * 512) / BLOCK;
    let wide = hrl::device::Buffer::zeroed(3 * BLOCK as usize);
    std::os::unix::fs::FileExt::write_all_at(&direct(&disk.path), &wide, at * BLOCK)
        .expect("write");
    let of_second = (at + 3) * BLOCK - start;
    let expected = Extent { offset: 0, length: of_second.next_multiple_of(BLOCK) };
    assert_eq!(second.take(), [expected]);
    let of_first = 16_387 * 512 - (at * BLOCK - (1 << 20));
    assert_eq!(first.take(), [Extent { offset: at * BLOCK - (1 << 20), length: of_first }]);
    // The end of the partition.
    write_block(&direct(&partition(2)), bytes / BLOCK - 1, 1);
    assert_eq!(second.take(), [blocks(bytes / BLOCK - 1, 1)]);
    for tracker in &trackers {
        assert_eq!(tracker.audit().expect("audit"), hrl_attach::Audit::Clean);
    }
}

#[test]
fn a_disk_of_a_tebibyte_takes_the_memory_that_was_computed() {
    let Some(it) = Tracked::new(1 << 40, Fault::None) else { return };
    let status = it.checkpoints.status().expect("status");
    assert_eq!(status.memory_bytes, Tracker::memory_bytes_for(1 << 40));
    assert!(status.memory_bytes < 68 << 20, "{}", status.memory_bytes);
    it.checkpoints.checkpoint("a").expect("checkpoint");
    it.write((1 << 40) / BLOCK - 1);
    assert_eq!(it.blocks("a", None), [(1 << 40) / BLOCK - 1]);
}

#[test]
fn what_cannot_be_tracked_is_refused_by_name() {
    let Some(disk) = Loop::new(BYTES) else { return eprintln!("not run: no loop device") };
    let error = Tracker::attach(&disk.file).expect_err("a file");
    if error.kind() == ErrorKind::Denied {
        return eprintln!("not run: {error}");
    }
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    let read_only = Command::new("blockdev").arg("--setro").arg(&disk.path).status();
    assert!(read_only.expect("blockdev").success());
    let error = Tracker::attach(&disk.path).expect_err("read-only");
    assert_eq!(error.kind(), ErrorKind::ReadOnly, "{error}");
    assert!(error.to_string().contains("--setrw"), "{error}");
    let writable = Command::new("blockdev").arg("--setrw").arg(&disk.path).status();
    assert!(writable.expect("blockdev").success());
    let name = disk.path.file_name().expect("name");
    let counts = PathBuf::from("/sys/block").join(name).join("queue/iostats");
    fs::write(&counts, "0").expect("write");
    let error = Tracker::attach(&disk.path).expect_err("no counters");
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("queue/iostats"), "{error}");
    fs::write(&counts, "1").expect("write");
    let tracker = Tracker::attach(&disk.path).expect("attach");
    let error = tracker.pin(&disk.directory().join("pins")).expect_err("no bpffs");
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("mount -t bpf"), "{error}");
}
