//! Promise 4 and 5 against SIGKILL: an agent under load is killed at random instants, again and
//! again.
//!
//! After each kill the next session may read dirty regions only, the replica's newest state must be
//! the disk, and every older point must be unchanged.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hrl::capture::{DirtyMap, LastSession};
use hrl::device::{
    BlockDevice, Discarded, Durability, FileDevice, FileDeviceOptions, SystemFiles, Unmap, Witness,
};
use hrl::journal::PointKind;
use hrl::replica::{At, ViewOptions};
use hrl::store::DirStore;
use hrl::testing::content;
use hrl::vault::Vault;
use hrl::{Clock, Extent, Policy, Protection, ProtectionOptions, Result, SystemClock};

const DISK_BYTES: u64 = 16 << 20;
const REGION_BYTES: u64 = 64 << 10;
const LIMIT: Duration = Duration::from_secs(60);
const CHILD: &str = "HRL_TEST_KILL_CHILD";

fn policy() -> Policy {
    Policy {
        segment_interval: Duration::from_millis(15),
        region_bytes: REGION_BYTES,
        crash_point_interval: Duration::ZERO,
        // Few enough that regions are cleaned and set dirty all the time.
        marked_regions_max: 40,
        memory_budget_bytes: 1 << 20,
        ..Policy::default()
    }
}

fn disk(directory: &Path) -> Arc<dyn BlockDevice> {
    let options = FileDeviceOptions { create_bytes: Some(DISK_BYTES), ..Default::default() };
    Arc::new(FileDevice::open(&directory.join("disk"), &options).expect("disk"))
}

fn vault(directory: &Path) -> Vault {
    let store = Arc::new(DirStore::create(&directory.join("vault")).expect("store"));
    Vault::create(store, None, SystemClock::shared()).expect("vault")
}

fn protect(device: Arc<dyn BlockDevice>, directory: &Path) -> Protection {
    ProtectionOptions::new("disk", device, vault(directory), directory.join("state"))
        .policy(policy())
        .open()
        .expect("protect")
}

struct Random(u64);

impl Random {
    fn new() -> Self {
        let mut seed = [0; 8];
        SystemClock::default().fill_random(&mut seed);
        Self(u64::from_le_bytes(seed) | 1)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// The child process, until it is killed.
#[test]
fn child_agent() {
    let Ok(directory) = std::env::var(CHILD) else { return };
    let protection = protect(disk(directory.as_ref()), directory.as_ref());
    println!("writing");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let volume = protection.volume();
            scope.spawn(move || {
                let mut random = Random::new();
                loop {
                    let length = 512 * (1 + random.below(32));
                    // Mostly a hot quarter, so that the rest of the disk need not be read again.
                    let reach = if random.below(100) == 0 { DISK_BYTES } else { DISK_BYTES / 4 };
                    let extent =
                        Extent { offset: 512 * random.below((reach - length) / 512), length };
                    match random.below(30) {
                        0 => volume.zero(extent, Unmap::Allowed, Durability::Cached).expect("zero"),
                        1 => drop(volume.discard(extent).expect("discard")),
                        2 => volume.flush().expect("flush"),
                        _ => {
                            let mut data = vec![random.below(255) as u8 + 1; length as usize];
                            data[..8].copy_from_slice(&random.0.to_le_bytes());
                            volume.write(extent.offset, &data, Durability::Cached).expect("write");
                        }
                    }
                }
            });
        }
        scope.spawn(|| {
            loop {
                // Points come and go with the order; the parent checks those that were kept.
                let _ = protection.mark(PointKind::Crash, "under load");
                std::thread::sleep(Duration::from_millis(20));
            }
        });
    });
}

/// Remembers what was read.
struct Watched {
    inner: Arc<dyn BlockDevice>,
    reads: Mutex<Vec<Extent>>,
}

impl BlockDevice for Watched {
    fn name(&self) -> String {
        self.inner.name()
    }
    fn size_bytes(&self) -> u64 {
        self.inner.size_bytes()
    }
    fn block_bytes(&self) -> u32 {
        self.inner.block_bytes()
    }
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.reads.lock().expect("lock").push(Extent { offset, length: buffer.len() as u64 });
        self.inner.read(offset, buffer)
    }
    fn write(&self, offset: u64, data: &[u8], durability: Durability) -> Result<()> {
        self.inner.write(offset, data, durability)
    }
    fn zero(&self, extent: Extent, unmap: Unmap, durability: Durability) -> Result<()> {
        self.inner.zero(extent, unmap, durability)
    }
    fn discard(&self, extent: Extent) -> Result<Discarded> {
        self.inner.discard(extent)
    }
    fn flush(&self) -> Result<()> {
        self.inner.flush()
    }
    fn modified(&self) -> Option<hrl::Timestamp> {
        self.inner.modified()
    }
    fn witness(&self) -> Witness {
        self.inner.witness()
    }
}

fn hash_at(vault: &Vault, at: &At) -> [u8; 32] {
    let replica = vault.replica("disk").expect("replica");
    let view = replica.view(at, &ViewOptions::default()).expect("view");
    *blake3::hash(&content(&view)).as_bytes()
}

fn sweep(kills: u64) {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("directory");
    let root = directory.path();
    let mut random = Random::new();
    println!("seed {}", random.0);
    // The first copy is undisturbed.
    let first = protect(disk(root), root);
    first.wait_ordered(LIMIT).expect("first copy");
    first.stop(LIMIT).expect("stop");
    let vault = vault(root);
    let mut known: Vec<(At, [u8; 32])> = Vec::new();
    let mut marked_most = 0;
    for kill in 0..kills {
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "child_agent", "--nocapture"])
            .env(CHILD, root)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("child");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        assert!(
            output.lines().any(|line| line.expect("line").contains("writing")),
            "the child writes"
        );
        std::thread::sleep(Duration::from_micros(random.below(120_000)));
        child.kill().expect("kill");
        child.wait().expect("wait");

        let (map, state) =
            DirtyMap::open(&SystemFiles, &root.join("state/dirty")).expect("dirty map");
        assert_eq!(state, LastSession::InUse);
        let marked = map.dirty_regions();
        drop(map);
        let device = Arc::new(Watched { inner: disk(root), reads: Mutex::default() });
        let protection = protect(device.clone(), root);
        protection.wait_replicated(LIMIT).expect("replicated");
        for read in device.reads.lock().expect("lock").iter() {
            let inside = marked.iter().any(|range| {
                range.first * REGION_BYTES <= read.offset
                    && read.end() <= (range.last + 1) * REGION_BYTES
            });
            assert!(inside, "kill {kill}: {read} was read and is not marked");
        }
        marked_most = marked_most.max(marked.iter().map(|range| range.count()).sum());
        let point = protection.mark(PointKind::Crash, "after resync").expect("mark");
        protection.wait_replicated(LIMIT).expect("replicated");
        protection.stop(LIMIT).expect("stop");
        let hash = *blake3::hash(&content(&*disk(root))).as_bytes();
        assert_eq!(hash_at(&vault, &At::Newest), hash, "kill {kill}: the newest state is the disk");
        for _ in 0..known.len().min(3) {
            let (at, before) = &known[random.below(known.len() as u64) as usize];
            assert_eq!(hash_at(&vault, at), *before, "kill {kill}: {at} changed");
        }
        // Points that the child took are new; from now on they must not change.
        let replica = vault.replica("disk").expect("replica");
        for point in replica.points().into_iter().filter(|p| p.label == "under load").rev().take(2)
        {
            let at = At::Point(point.id);
            known.push((at.clone(), hash_at(&vault, &at)));
        }
        known.push((At::Point(point.id), hash));
    }
    for (at, before) in &known {
        assert_eq!(hash_at(&vault, at), *before, "{at} changed");
    }
    let report = vault.replica("disk").expect("replica").verify(&|_, _| true).expect("verify");
    assert!(report.is_sound(), "{:?}", report.findings);
    println!(
        "{kills} kills, {} points, at most {marked_most} of {} regions read again",
        known.len(),
        DISK_BYTES / REGION_BYTES
    );
}

#[test]
fn promise_4_and_5_hold_through_12_kills() {
    sweep(12);
}

#[test]
#[ignore = "long: 200 kills"]
fn promise_4_and_5_hold_through_200_kills() {
    sweep(200);
}
