//! Files with and without the page cache, and loop devices if the tests may make them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::device::conformance;

/// Not in /tmp, which may be a memory file system without direct I/O.
fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("directory")
}

fn create(path: &Path, size: u64, direct: DirectIo) -> FileDevice {
    let options = FileDeviceOptions { direct, create_bytes: Some(size), ..Default::default() };
    FileDevice::open(path, &options).expect("open")
}

fn make(direct: DirectIo) -> impl Fn(u64) -> Arc<dyn BlockDevice> {
    let directory = directory();
    let count = AtomicU64::new(0);
    move |size| {
        let path = directory.path().join(count.fetch_add(1, Ordering::Relaxed).to_string());
        Arc::new(create(&path, size, direct))
    }
}

#[test]
fn a_file_keeps_the_contract_with_and_without_the_page_cache() {
    conformance::check(&make(DirectIo::Auto));
    conformance::check(&make(DirectIo::Never));
}

#[test]
fn odd_sizes_and_other_users_are_refused_by_name() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("disk");
    for (size, whole) in [(0, 512), (1000, 1024)] {
        std::fs::write(&path, vec![0; size]).expect("write");
        let error = FileDevice::open(&path, &FileDeviceOptions::default()).expect_err("size");
        assert!(error.to_string().contains(&format!("{size} bytes")), "{error}");
        assert!(error.to_string().contains(&format!("-s {whole}")), "{error}");
    }
    std::fs::write(&path, vec![0; 4096]).expect("write");
    let options = FileDeviceOptions { exclusive: true, ..Default::default() };
    let first = FileDevice::open(&path, &options).expect("first");
    let error = FileDevice::open(&path, &options).expect_err("second");
    assert_eq!(error.kind(), ErrorKind::Fenced);
    drop(first);
    FileDevice::open(&path, &options).expect("after the first is gone");
}

#[test]
fn a_file_is_created_with_a_size_that_works_or_not_at_all() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("disk");
    let with_size = |size| FileDeviceOptions { create_bytes: Some(size), ..Default::default() };
    for size in [0, 1000] {
        let error = FileDevice::open(&path, &with_size(size)).expect_err("size");
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(!path.exists(), "no file of {size} bytes is left behind");
    }
    FileDevice::open(&path, &with_size(4096)).expect("created");
    FileDevice::open(&path, &with_size(4096)).expect("exists with the size");
    let error = FileDevice::open(&path, &with_size(8192)).expect_err("exists with another size");
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert_eq!(std::fs::metadata(&path).expect("metadata").len(), 4096);
}

#[test]
fn a_device_whose_size_excludes_direct_io_keeps_its_lock() {
    let directory = directory();
    let path = directory.path().join("disk");
    let mut opened = open::open(
        &path,
        &FileDeviceOptions { create_bytes: Some(4096), exclusive: true, ..Default::default() },
    )
    .expect("open");
    // As on a disk of 4 KiB blocks whose size ends in half a block.
    opened.size_bytes = 512 + 256;
    opened.settle_alignment(&path, DirectIo::Auto).expect("goes back to the page cache");
    let mut buffer = [0; 3];
    opened.file.read_exact_at(&mut buffer, 1).expect("an unaligned read by the page cache");
    let options = FileDeviceOptions { exclusive: true, ..Default::default() };
    assert_eq!(FileDevice::open(&path, &options).expect_err("locked").kind(), ErrorKind::Fenced);
}

#[test]
fn a_poisoned_device_refuses_every_write_and_flush() {
    let directory = directory();
    for direct in [DirectIo::Auto, DirectIo::Never] {
        let device = create(&directory.path().join(format!("{direct:?}")), 1 << 20, direct);
        assert!(device.ring_target().is_some());
        device.poison();
        let whole = Extent { offset: 0, length: 4096 };
        let data = Buffer::zeroed(4096);
        let poisoned = |result: Result<()>| {
            assert_eq!(result.expect_err("poisoned").kind(), ErrorKind::Poisoned);
        };
        poisoned(device.write(0, &data, Durability::Cached));
        poisoned(device.zero(whole, Unmap::Allowed, Durability::Cached));
        poisoned(device.discard(whole).map(drop));
        poisoned(device.flush());
        let mut batch = [Operation::Write(0, &data), Operation::Write(4096, &data)];
        device.batch(&mut batch).into_iter().for_each(poisoned);
        assert!(device.ring_target().is_none());
        device.read(0, &mut [0; 100]).expect("reads still work");
    }
}

#[test]
fn a_read_only_device_refuses_every_change() {
    let directory = directory();
    let path = directory.path().join("disk");
    drop(create(&path, 1 << 20, DirectIo::Never));
    let options = FileDeviceOptions { access: Access::ReadOnly, ..Default::default() };
    let device = FileDevice::open(&path, &options).expect("open");
    let data = Buffer::zeroed(4096);
    let error = device.write(0, &data, Durability::Cached).expect_err("write");
    assert_eq!(error.kind(), ErrorKind::ReadOnly);
    let mut batch = [Operation::Write(0, &data), Operation::Write(4096, &data)];
    assert!(device.batch(&mut batch).iter().all(Result::is_err));
    device.flush().expect("a flush works on it");
}

#[test]
fn promise_4_a_read_only_device_flushes_what_others_wrote() {
    let directory = directory();
    let Some(made) = Loop::new(&directory.path().join("file"), 1 << 20, 512) else {
        eprintln!("skipped: no loop devices");
        return;
    };
    let options = FileDeviceOptions { access: Access::ReadOnly, ..Default::default() };
    let device = FileDevice::open(&made.0, &options).expect("open");
    let before = device.witness().writes;
    let other = std::fs::File::options().write(true).open(&made.0).expect("open");
    other.write_all_at(&[7; 4096], 8192).expect("write");
    assert_eq!(device.witness().writes, before, "the write is cached");
    device.flush().expect("flush");
    assert_ne!(device.witness().writes, before, "the flush wrote it");
}

/// Several threads write unaligned parts of shared blocks, beside batches to the blocks between
/// them.
#[test]
fn unaligned_writes_lose_nothing_beside_batches() {
    const BLOCKS: u64 = 64;
    let directory = directory();
    let device = create(&directory.path().join("disk"), 2 * BLOCKS * 4096, DirectIo::Auto);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let data = Buffer::copy_of(&[0xee; 4096]);
            for _ in 0..20 {
                let mut batch: Vec<_> =
                    (0..BLOCKS).map(|b| Operation::Write(b * 8192, &data)).collect();
                assert!(device.batch(&mut batch).iter().all(Result::is_ok));
            }
        });
        for thread in 0..4 {
            let device = &device;
            scope.spawn(move || {
                // Parts of 256 bytes, thread by thread: each block of the disk belongs to two or
                // more threads.
                for part in (thread..BLOCKS * 16).step_by(4) {
                    let offset = part / 16 * 8192 + 4096 + part % 16 * 256;
                    let data = [thread as u8 + 1; 256];
                    device.write(offset, &data, Durability::Cached).expect("write");
                }
            });
        }
    });
    let mut all = vec![0; 2 * BLOCKS as usize * 4096];
    device.read(0, &mut all).expect("read");
    for (at, part) in all.chunks(256).enumerate() {
        let expected = if at % 32 < 16 { 0xee } else { (at % 4) as u8 + 1 };
        assert!(part.iter().all(|byte| *byte == expected), "part {at}");
    }
}

#[test]
fn an_odd_extent_is_narrowed_to_its_whole_blocks() {
    let inwards = |offset, length| aligned_inwards(Extent { offset, length }, 512);
    assert_eq!(inwards(1, 1535), Extent { offset: 512, length: 1024 });
    assert_eq!(inwards(512, 512), Extent { offset: 512, length: 512 });
    assert!(inwards(1, 600).is_empty() && inwards(100, 100).is_empty());
}

/// A loop device over a new file, removed when dropped. `None` if the tests may not make one.
struct Loop(PathBuf);

impl Loop {
    fn new(file: &Path, size: u64, sector: u32) -> Option<Self> {
        std::fs::File::create(file).and_then(|file| file.set_len(size)).expect("file");
        let sector = sector.to_string();
        let output = Command::new("losetup")
            .args(["--find", "--show", "--sector-size", &sector])
            .arg(file)
            .output()
            .ok()?;
        let path = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| Self(PathBuf::from(path.trim())))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.0).status();
    }
}

#[test]
fn a_block_device_keeps_the_contract() {
    for sector in [512, 4096] {
        let directory = directory();
        let loops = std::cell::RefCell::new(Vec::new());
        let Some(probe) = Loop::new(&directory.path().join("probe"), 1 << 20, sector) else {
            eprintln!("skipped: no loop devices");
            return;
        };
        let options = FileDeviceOptions { exclusive: true, ..Default::default() };
        let device = FileDevice::open(&probe.0, &options).expect("open");
        assert_eq!((device.size_bytes(), device.block_bytes()), (1 << 20, sector));
        let error = FileDevice::open(&probe.0, &options).expect_err("claimed");
        assert_eq!(error.kind(), ErrorKind::Fenced);
        device.write(0, &[7; 8192], Durability::Durable).expect("write");
        assert!(device.discard_blocks(Extent { offset: 0, length: 8192 }).expect("discard"));
        assert!(
            !device.discard_blocks(Extent { offset: 1, length: 512 }).expect("not whole blocks")
        );
        conformance::check(&|size| {
            let mut loops = loops.borrow_mut();
            let file = directory.path().join(format!("file{}", loops.len()));
            let made = Loop::new(&file, size, sector).expect("loop device");
            let device = FileDevice::open(&made.0, &options).expect("open");
            loops.push(made);
            Arc::new(device)
        });
    }
}
