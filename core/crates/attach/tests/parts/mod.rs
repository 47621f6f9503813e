//! A loop device, and writers whose operations are numbered, so that a copy shows which it has.
#![allow(dead_code, reason = "each test uses its own")]

pub mod mounted;
pub mod postgresql;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use hrl::device::{Buffer, DirectIo, FileDevice, FileDeviceOptions};
use hrl::sync::lock::Mutex;

const BLOCK: u64 = 4096;
const BLOCKS: u64 = 4096;
const WRITERS: u64 = 3;

/// Returns a number from the environment.
pub fn setting(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().expect("a number"))
}

/// Operations of one writer, by their numbers.
#[derive(Default)]
pub struct Progress {
    begun: AtomicU64,
    done: AtomicU64,
}

impl Progress {
    pub fn begin(&self, number: u64) {
        self.begun.store(number, Ordering::SeqCst);
    }

    pub fn end(&self, number: u64) {
        self.done.store(number, Ordering::SeqCst);
    }

    pub fn done(&self) -> u64 {
        self.done.load(Ordering::SeqCst)
    }

    pub fn begun(&self) -> u64 {
        self.begun.load(Ordering::SeqCst)
    }
}

/// A loop device over a file, removed at the end.
pub struct Disk {
    pub path: PathBuf,
    file: PathBuf,
    directory: Option<tempfile::TempDir>,
}

impl Disk {
    /// Makes a disk for [`Load`]; `None`, and says so, where there are no loop devices.
    pub fn new() -> Option<Self> {
        Self::with_bytes(BLOCKS * BLOCK)
    }

    pub fn with_bytes(bytes: u64) -> Option<Self> {
        let directory = tempfile::tempdir().expect("directory");
        let file = directory.path().join("disk");
        File::create(&file).and_then(|file| file.set_len(bytes)).expect("file");
        let mut disk = Self::over(&file)?;
        disk.directory = Some(directory);
        Some(disk)
    }

    /// Makes a disk of a file that stays.
    pub fn over(file: &Path) -> Option<Self> {
        let made = Command::new("losetup").args(["--find", "--show"]).arg(file).output().ok();
        let path = made.and_then(|made| String::from_utf8(made.stdout).ok()).unwrap_or_default();
        if path.trim().is_empty() {
            eprintln!("not run: no loop device");
            return None;
        }
        Some(Self { path: path.trim().into(), file: file.to_owned(), directory: None })
    }

    pub fn bytes(&self) -> u64 {
        std::fs::metadata(&self.file).expect("file").len()
    }

    /// Makes it larger.
    pub fn grow(&self, more_bytes: u64) {
        let file = OpenOptions::new().write(true).open(&self.file).expect("file");
        file.set_len(self.bytes() + more_bytes).expect("size");
        let told = Command::new("losetup").arg("--set-capacity").arg(&self.path).status();
        assert!(told.expect("losetup").success());
    }

    pub fn device(&self) -> FileDevice {
        let direct = DirectIo::Always;
        let options = FileDeviceOptions { direct, ..FileDeviceOptions::default() };
        FileDevice::open(&self.path, &options).expect("open")
    }

    pub fn write(&self, block: u64, number: u64) {
        direct(&self.path).write_all_at(&block_of(number), block * BLOCK).expect("write");
    }

    /// Reads all of it.
    pub fn content(&self) -> Vec<u8> {
        use hrl::device::BlockDevice;
        let mut content = vec![0; self.bytes() as usize];
        self.device().read(0, &mut content).expect("read");
        content
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.path).status();
    }
}

/// A mounted file system, unmounted at the end.
pub struct Mount {
    pub path: PathBuf,
}

impl Mount {
    /// Makes a file system and mounts it; `None`, and says so, without its programs or rights.
    pub fn new(disk: &Path, kind: &str, path: &Path) -> Option<Self> {
        let _ = Command::new("wipefs").arg("-aq").arg(disk).status();
        let made = Command::new(format!("mkfs.{kind}")).arg("-q").arg(disk).output();
        if !made.is_ok_and(|made| made.status.success()) {
            eprintln!("not run: no mkfs.{kind}");
            return None;
        }
        Self::over(disk, path)
    }

    /// Mounts what is there.
    pub fn over(disk: &Path, path: &Path) -> Option<Self> {
        std::fs::create_dir_all(path).expect("directory");
        let mounted = Command::new("mount").arg(disk).arg(path).status();
        if !mounted.is_ok_and(|status| status.success()) {
            eprintln!("not run: {} cannot be mounted", disk.display());
            return None;
        }
        Some(Self { path: path.to_owned() })
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.path).status();
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

/// Writers that go on until the end, each with numbered operations, one after the other.
pub struct Load {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

struct Shared {
    /// Number of the last operation that each writer was told is done.
    done: Vec<AtomicU64>,
    /// Number of the last operation that each writer has begun.
    begun: Vec<AtomicU64>,
    stopping: AtomicBool,
}

impl Load {
    pub fn begin(disk: &Path) -> Self {
        Self::with(disk, BLOCKS, Duration::from_micros(300))
    }

    /// Begins to write to the first blocks of a disk, with a pause after each write.
    pub fn with(disk: &Path, blocks: u64, pause: Duration) -> Self {
        let numbers = || (0..WRITERS).map(|_| AtomicU64::new(0)).collect();
        let stopping = AtomicBool::new(false);
        let shared = Arc::new(Shared { done: numbers(), begun: numbers(), stopping });
        let threads = (0..WRITERS)
            .map(|writer| {
                let (shared, disk) = (shared.clone(), disk.to_owned());
                std::thread::spawn(move || write_on(&disk, &shared, writer, blocks, pause))
            })
            .collect();
        Self { shared, threads: Mutex::new(threads) }
    }

    pub fn done(&self) -> Vec<u64> {
        self.shared.done.iter().map(|number| number.load(Ordering::SeqCst)).collect()
    }

    pub fn begun(&self) -> Vec<u64> {
        self.shared.begun.iter().map(|number| number.load(Ordering::SeqCst)).collect()
    }

    pub fn end(&self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        self.threads.lock().drain(..).for_each(|thread| thread.join().expect("writer"));
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end();
    }
}

fn next(random: u64) -> u64 {
    random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407)
}

/// Writes blocks with growing numbers, each once the one before is done. Writer `w` has every third
/// block.
fn write_on(path: &Path, load: &Shared, writer: u64, blocks: u64, pause: Duration) {
    let file = direct(path);
    let mut random = writer + 1;
    let mut number = 0;
    while !load.stopping.load(Ordering::Relaxed) {
        random = next(random);
        number += 1;
        load.begun[writer as usize].store(number, Ordering::SeqCst);
        let at = (random >> 33) % (blocks / WRITERS) * WRITERS + writer;
        file.write_all_at(&block_of(number), at * BLOCK).expect("write");
        load.done[writer as usize].store(number, Ordering::SeqCst);
        std::thread::sleep(pause);
    }
}

/// Checks that a copy is what the writers had made after some of their operations, all that were
/// acknowledged among them, and none that had not begun.
pub fn check_copy(copy: &[u8], acknowledged: &[u64], begun: Option<&[u64]>, what: &str) {
    if let Some(wrong) = wrong_in(copy, acknowledged, begun) {
        panic!("{what}: {wrong}");
    }
}

/// Returns what is wrong with a copy.
pub fn wrong_in(copy: &[u8], acknowledged: &[u64], begun: Option<&[u64]>) -> Option<String> {
    let blocks = copy.len() as u64 / BLOCK;
    let mut newest = vec![0; WRITERS as usize];
    for (at, block) in copy.chunks(BLOCK as usize).enumerate() {
        let number = u64::from_le_bytes(block[..8].try_into().expect("8 bytes"));
        let writer = at % WRITERS as usize;
        newest[writer] = newest[writer].max(number);
    }
    for writer in 0..WRITERS as usize {
        if newest[writer] < acknowledged[writer] {
            return Some(format!("{acknowledged:?} were acknowledged, {newest:?} are there"));
        }
        if begun.is_some_and(|begun| newest[writer] > begun[writer]) {
            return Some(format!("{newest:?} are there, and only {begun:?} had begun"));
        }
    }
    let mut expected = vec![0; blocks as usize];
    for (writer, last) in newest.iter().enumerate() {
        let mut random = writer as u64 + 1;
        for number in 1..=*last {
            random = next(random);
            let at = (random >> 33) % (blocks / WRITERS) * WRITERS + writer as u64;
            expected[at as usize] = number;
        }
    }
    let blocks = expected.into_iter().zip(copy.chunks(BLOCK as usize)).enumerate();
    for (at, (number, block)) in blocks {
        if block != &block_of(number)[..] {
            return Some(format!("block {at} is not that of operation {number}"));
        }
    }
    None
}
