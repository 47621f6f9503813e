//! Instant disks: a presence log of any bytes (promise 11), as it is and with right checksums, and
//! any sequence of calls with crashes between, against a model.
//!
//! - a log is refused, or each block of the disk is the target's where an entry names it and the
//!   base's elsewhere, now and after the disk is opened again;
//! - promises 3 and 4: each byte is what was flushed last or came after, a byte that was seen after
//!   a crash stays, and the disk that hydrated is what was read before.
//!
//! An input is one byte (bit 0: steps; bit 1: a target of zeroes), and then what follows the header
//! of the log, or steps of four bytes.
#![no_main]

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

use hrl::device::{BlockDevice, Durability, FaultDevice, MemoryDevice, Unmap};
use hrl::replica::{InstantBase, InstantDisk, InstantOptions, TargetContent, mend_presence_log};
use hrl::{ErrorKind, Extent, Result, Sequence, VolumeId};
use hrl_fuzz::scratch;
use libfuzzer_sys::fuzz_target;

const BLOCK: u64 = 4096;
/// The last block is short.
const SIZE: u64 = 15 * BLOCK + 512;
const HEADER_BYTES: usize = 64;
const HEAD_BYTES: usize = 32;
const ENTRIES_MAX: usize = 1 << 16;
const STEPS_MAX: usize = 100;
/// Content of an unknown target, which nothing writes.
const GARBAGE: u8 = 7;

static LOG: LazyLock<PathBuf> = LazyLock::new(|| scratch("instant").join("presence"));
/// Beginning of a new log.
static HEADER: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let _ = std::fs::remove_file(&*LOG);
    open(Arc::new(MemoryDevice::new(SIZE)), TargetContent::Unknown).expect("a new log");
    let mut bytes = std::fs::read(&*LOG).expect("it was made");
    bytes.truncate(HEADER_BYTES);
    bytes
});

fuzz_target!(|input: &[u8]| {
    let Some((kind, rest)) = input.split_first() else { return };
    if kind & 1 == 1 {
        let mut model = Model::new(kind & 2 == 2);
        for step in rest.chunks_exact(4).take(STEPS_MAX) {
            model.step([step[0], step[1], step[2], step[3]]);
        }
        return model.settle();
    }
    let mut bytes = HEADER.clone();
    bytes.extend_from_slice(rest);
    check(&bytes, false);
    mend_presence_log(&mut bytes);
    check(&bytes, true);
});

/// Returns the bytes of the base: zeroes in every other four blocks.
fn base_byte(offset: u64) -> u8 {
    if (offset / BLOCK / 4).is_multiple_of(2) { 1 + (offset / 700 % 2) as u8 } else { 0 }
}

fn base() -> Vec<u8> {
    (0..SIZE).map(base_byte).collect()
}

fn open(target: Arc<dyn BlockDevice>, content: TargetContent) -> Result<InstantDisk> {
    let device = MemoryDevice::new(SIZE);
    for at in (0..SIZE).step_by(BLOCK as usize).filter(|at| (at / BLOCK / 4).is_multiple_of(2)) {
        let block: Vec<u8> = (at..(at + BLOCK).min(SIZE)).map(base_byte).collect();
        device.write(at, &block, Durability::Cached).expect("memory");
    }
    let base = InstantBase::device(Arc::new(device), VolumeId([3; 16]), Sequence(7));
    InstantDisk::over(base, target, content, &LOG, InstantOptions::default())
}

fn all_of(device: &dyn BlockDevice) -> Vec<u8> {
    let mut bytes = vec![0; SIZE as usize];
    device.read(0, &mut bytes).expect("memory");
    bytes
}

// --- logs of any bytes ---

fn check(bytes: &[u8], is_mended: bool) {
    std::fs::write(&*LOG, bytes).expect("room for scratch files");
    let target = Arc::new(MemoryDevice::new(SIZE));
    target.write(0, &vec![GARBAGE; SIZE as usize], Durability::Cached).expect("memory");
    let first = match open(target.clone(), TargetContent::Unknown) {
        Ok(disk) => all_of(&disk),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
            return;
        }
    };
    let base = base();
    for at in (0..SIZE).step_by(BLOCK as usize) {
        let range = at as usize..(at + BLOCK).min(SIZE) as usize;
        let block = &first[range.clone()];
        let is_there = block.iter().all(|byte| *byte == GARBAGE);
        assert!(is_there || *block == base[range], "a block is of one layer");
        if is_mended {
            assert_eq!(is_there, is_named(&bytes[HEADER_BYTES..], at), "block at {at}");
        }
    }
    let again = open(target, TargetContent::Unknown).expect("it was written anew");
    assert!(all_of(&again) == first, "it stays what it is");
}

/// Returns whether an entry of the complete frames at the beginning names the block at `at`.
fn is_named(mut frames: &[u8], at: u64) -> bool {
    while let Some((head, rest)) = frames.split_at_checked(HEAD_BYTES) {
        let count = u32::from_le_bytes(head[4..8].try_into().expect("4 bytes")) as usize;
        let entries = rest.split_at_checked(count.saturating_mul(16));
        let Some((entries, rest)) = entries.filter(|_| (1..=ENTRIES_MAX).contains(&count)) else {
            return false;
        };
        for entry in entries.chunks_exact(16) {
            let word = |at: usize| u64::from_le_bytes(entry[at..at + 8].try_into().expect("8"));
            if word(0) <= at && at < word(0) + word(8) {
                return true;
            }
        }
        frames = rest;
    }
    false
}

// --- calls ---

struct Model {
    target: Arc<MemoryDevice>,
    faulty: Arc<FaultDevice>,
    disk: Option<InstantDisk>,
    /// What the disk reads as.
    bytes: Vec<u8>,
    /// What each byte may be after a crash: a bit for each value.
    possible: Vec<u8>,
    is_detached: bool,
    steps: u64,
}

impl Model {
    fn new(zeroes: bool) -> Self {
        let _ = std::fs::remove_file(&*LOG);
        let target = Arc::new(MemoryDevice::new(SIZE));
        let mut content = TargetContent::Zeroes;
        if !zeroes {
            let garbage = vec![GARBAGE; SIZE as usize];
            target.write(0, &garbage, Durability::Cached).expect("memory");
            content = TargetContent::Unknown;
        }
        let faulty = Arc::new(FaultDevice::new(target.clone(), 1));
        let disk = Some(open(faulty.clone(), content).expect("a new disk"));
        let bytes = base();
        let possible = bytes.iter().map(|byte| 1 << byte).collect();
        Self { target, faulty, disk, bytes, possible, is_detached: false, steps: 0 }
    }

    fn disk(&self) -> &InstantDisk {
        self.disk.as_ref().expect("it is open between steps")
    }

    fn step(&mut self, [what, a, b, c]: [u8; 4]) {
        self.steps += 1;
        let (extent, value) = (extent_of(a, b, c), (a ^ b) % GARBAGE);
        let durability = if what & 0x80 == 0 { Durability::Cached } else { Durability::Durable };
        let is_durable = durability == Durability::Durable;
        match what % 10 {
            0..=2 => {
                let data = vec![value; extent.length as usize];
                self.disk().write(extent.offset, &data, durability).expect("write");
                self.changed(extent, value, is_durable);
            }
            3 => {
                let unmap = if what & 0x40 == 0 { Unmap::Allowed } else { Unmap::Forbidden };
                self.disk().zero(extent, unmap, durability).expect("zero");
                self.changed(extent, 0, is_durable);
            }
            4 => {
                self.disk().discard(extent).expect("discard");
                // What a device of its own leaves there is its business.
                let mut left = vec![0; extent.length as usize];
                self.disk().read(extent.offset, &mut left).expect("read");
                let range = extent.offset as usize..extent.end() as usize;
                assert!(left.iter().all(|byte| *byte == 0) || left == self.bytes[range]);
                if left.iter().all(|byte| *byte == 0) {
                    self.changed(extent, 0, false);
                }
            }
            5 => {
                self.disk().flush().expect("flush");
                self.settle_bytes();
            }
            6 => {
                let pieces = AtomicU64::new(u64::from(a % 4) + 1);
                let progress = |_, _| pieces.fetch_sub(1, Ordering::SeqCst) > 1;
                self.disk().hydrate(&progress).expect("hydrate");
            }
            7 => self.crash(what & 0x80 == 0, u64::from(a) << 8 | u64::from(b)),
            8 => self.detach(),
            _ => self.read(extent),
        }
    }

    fn changed(&mut self, extent: Extent, value: u8, is_durable: bool) {
        let range = extent.offset as usize..extent.end() as usize;
        self.bytes[range.clone()].fill(value);
        for possible in &mut self.possible[range] {
            *possible = 1 << value | if is_durable { 0 } else { *possible };
        }
    }

    /// Checks that everything written is still there.
    fn settle_bytes(&mut self) {
        for (possible, byte) in self.possible.iter_mut().zip(&self.bytes) {
            *possible = 1 << byte;
        }
    }

    fn read(&self, extent: Extent) {
        let mut bytes = vec![0xff; extent.length as usize];
        self.disk().read(extent.offset, &mut bytes).expect("read");
        assert!(bytes == self.bytes[extent.offset as usize..extent.end() as usize]);
    }

    /// The process ends; or the power fails, and sectors of the target that were not flushed may be
    /// as before.
    fn crash(&mut self, power: bool, seed: u64) {
        drop(self.disk.take());
        if power {
            self.faulty.crash().expect("memory");
        }
        if self.is_detached {
            return self.reopen_plain();
        }
        self.faulty = Arc::new(FaultDevice::new(self.target.clone(), seed));
        self.disk = Some(open(self.faulty.clone(), TargetContent::Unknown).expect("open again"));
        self.see();
    }

    /// A detached disk is the target alone, so nothing is lost and the model ends there.
    fn reopen_plain(&mut self) {
        let found = all_of(&*self.target);
        self.check_possible(&found);
        *self = Self::new(true);
    }

    fn see(&mut self) {
        let found = all_of(self.disk());
        self.check_possible(&found);
        self.bytes = found;
        self.settle_bytes();
    }

    fn check_possible(&self, found: &[u8]) {
        let mut both = found.iter().zip(&self.possible).enumerate();
        let bad = both.find(|(_, (byte, possible))| **byte >= 8 || *possible >> **byte & 1 == 0);
        if let Some((at, (byte, possible))) = bad {
            panic!("byte {at} is {byte} after {} steps, not of {possible:08b}", self.steps);
        }
    }

    fn detach(&mut self) {
        match self.disk().detach() {
            Ok(()) => {
                assert!(self.disk().hydration().is_whole() && !LOG.exists());
                self.is_detached = true;
                self.settle_bytes();
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
                assert!(!self.disk().hydration().is_whole());
            }
        }
    }

    fn settle(&mut self) {
        assert!(all_of(self.disk()) == self.bytes, "before it hydrates");
        let hydration = self.disk().hydrate(&|_, _| true).expect("hydrate");
        assert!(hydration.is_whole());
        assert!(all_of(self.disk()) == self.bytes, "hydration changes nothing");
        self.detach();
        assert!(self.is_detached && all_of(&*self.target) == self.bytes, "the target alone");
    }
}

/// Returns an extent within the disk, half of the time of whole blocks.
fn extent_of(a: u8, b: u8, c: u8) -> Extent {
    let offset = (u64::from(a) << 8 | u64::from(b)) % SIZE;
    let extent = Extent { offset, length: (u64::from(c) * 97 + 1).min(SIZE - offset) };
    if c & 1 == 0 {
        return extent;
    }
    extent.aligned_outwards(BLOCK).intersection(Extent { offset: 0, length: SIZE })
}
