//! Promise 6 on full or missing disks: under the spool, the vault and the dirty map. Nothing is
//! lost, the writer continues, and errors name the full disk.
//!
//! Small memory file systems serve as full disks, so most tests need root; without it they are
//! skipped with a message.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use hrl::device::{BlockDevice, Durability, MemoryDevice};
use hrl::journal::PointKind;
use hrl::replica::{At, ViewOptions};
use hrl::store::{DirStore, FaultStore, Store};
use hrl::testing::until;
use hrl::vault::Vault;
use hrl::{Compression, ErrorKind, Mode, Policy, Protection, ProtectionOptions, SystemClock};

const LIMIT: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;

/// A mounted memory file system.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts it; `None` without the permission.
    fn mount(path: &Path, size: &str) -> Option<Self> {
        std::fs::create_dir_all(path).expect("directory");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", size, "tmpfs"]).arg(path).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self(path.to_owned()));
        }
        eprintln!("skipped: a small file system cannot be mounted here");
        None
    }

    fn resize(&self, size: &str) {
        let options = format!("remount,{size}");
        let done =
            Command::new("mount").args(["-o", &options]).arg(&self.0).output().expect("mount");
        assert!(done.status.success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

fn policy() -> Policy {
    Policy {
        segment_interval: Duration::from_millis(20),
        region_bytes: 64 << 10,
        crash_point_interval: Duration::ZERO,
        compression: Compression::None,
        retry_interval_max: Duration::from_millis(100),
        ..Policy::default()
    }
}

fn protect(device: Arc<MemoryDevice>, store: Arc<dyn Store>, state: &Path) -> (Vault, Protection) {
    protect_by(policy(), device, store, state)
}

fn protect_by(
    policy: Policy,
    device: Arc<MemoryDevice>,
    store: Arc<dyn Store>,
    state: &Path,
) -> (Vault, Protection) {
    let vault = Vault::create(store, None, SystemClock::shared()).expect("vault");
    let protection = ProtectionOptions::new("disk", device, vault.clone(), state)
        .policy(policy)
        .open()
        .expect("protect");
    // Whoever waits by a call has open segments closed.
    until(LIMIT, "the volume is ordered", || protection.stats().mode == Mode::Ordered);
    (vault, protection)
}

fn write_all_over(protection: &Protection, tag: u8) {
    for block in 0..2048_u64 {
        let data = vec![tag.wrapping_add(block as u8); 4096];
        protection
            .volume()
            .write(block * 4096, &data, Durability::Cached)
            .expect("the writer goes on");
    }
}

fn assert_replica_is(vault: &Vault, at: &At, device: &MemoryDevice) {
    let view =
        vault.replica("disk").expect("replica").view(at, &ViewOptions::default()).expect("view");
    let (mut expected, mut found) = (vec![0; 8 << 20], vec![0; 8 << 20]);
    device.read(0, &mut expected).expect("read");
    view.read(0, &mut found).expect("read");
    assert!(expected == found);
}

/// Waits, takes a point, and checks that it equals the disk.
fn assert_recovers(vault: &Vault, protection: Protection, device: &MemoryDevice) {
    protection.wait_replicated(LIMIT).expect("replicated");
    let point = protection.mark(PointKind::Crash, "after").expect("mark");
    protection.wait_replicated(LIMIT).expect("replicated");
    protection.stop(LIMIT).expect("stop");
    assert_replica_is(vault, &At::Point(point.id), device);
    assert!(
        vault.replica("disk").expect("replica").verify(&|_, _| true).expect("verify").is_sound()
    );
}

#[test]
fn a_full_disk_under_the_spool() {
    let directory = tempfile::tempdir().expect("directory");
    let Some(_disk) = SmallDisk::mount(&directory.path().join("state"), "size=2m") else { return };
    let inner = DirStore::create(&directory.path().join("vault")).expect("store");
    let store = Arc::new(FaultStore::new(Arc::new(inner)));
    let device = Arc::new(MemoryDevice::new(8 * MIB));
    let (vault, protection) =
        protect(device.clone(), store.clone(), &directory.path().join("state"));
    let before = protection.mark(PointKind::Crash, "before").expect("mark");
    protection.wait_replicated(LIMIT).expect("replicated");
    store.set_down(true);
    write_all_over(&protection, 1);
    std::thread::sleep(Duration::from_millis(500));
    assert_ne!(protection.stats().mode, Mode::Ordered, "the spool's disk is full");
    write_all_over(&protection, 2);
    store.set_down(false);
    assert_recovers(&vault, protection, &device);
    let empty = MemoryDevice::new(8 * MIB);
    assert_replica_is(&vault, &At::Point(before.id), &empty);
}

#[test]
fn a_disk_under_the_spool_that_is_smaller_than_what_is_drained_at_once() {
    let directory = tempfile::tempdir().expect("directory");
    let Some(_disk) = SmallDisk::mount(&directory.path().join("state"), "size=640k") else {
        return;
    };
    let store = Arc::new(DirStore::create(&directory.path().join("vault")).expect("store"));
    let device = Arc::new(MemoryDevice::new(8 * MIB));
    device.write(0, &vec![7; 3 << 20], Durability::Cached).expect("write");
    // Nothing but its size closes a segment in time.
    let policy = Policy { segment_interval: 100 * LIMIT, ..policy() };
    let state = directory.path().join("state");
    let (vault, protection) = protect_by(policy, device.clone(), store, &state);
    assert_recovers(&vault, protection, &device);
}

#[test]
fn a_full_disk_under_the_vault() {
    let directory = tempfile::tempdir().expect("directory");
    let Some(disk) = SmallDisk::mount(&directory.path().join("vault"), "size=2m") else { return };
    let store = Arc::new(DirStore::create(&directory.path().join("vault")).expect("store"));
    let device = Arc::new(MemoryDevice::new(8 * MIB));
    let (vault, protection) = protect(device.clone(), store, &directory.path().join("state"));
    write_all_over(&protection, 1);
    std::thread::sleep(Duration::from_millis(500));
    assert!(!protection.stats().vault_available);
    assert_eq!(protection.stats().mode, Mode::Ordered, "the spool holds what the vault cannot");
    let error = protection.wait_replicated(Duration::from_millis(300)).expect_err("not yet");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    disk.resize("size=64m");
    assert_recovers(&vault, protection, &device);
}

#[test]
fn a_vault_whose_directory_vanishes_and_comes_back() {
    let directory = tempfile::tempdir().expect("directory");
    let (path, away) = (directory.path().join("vault"), directory.path().join("away"));
    let store = Arc::new(DirStore::create(&path).expect("store"));
    let device = Arc::new(MemoryDevice::new(8 * MIB));
    let (vault, protection) = protect(device.clone(), store, &directory.path().join("state"));
    std::fs::rename(&path, &away).expect("rename");
    write_all_over(&protection, 1);
    std::thread::sleep(Duration::from_millis(300));
    assert!(!protection.stats().vault_available && !path.exists());
    let error = vault.replica("disk").map(drop).expect_err("gone");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "a vanished vault is not an empty one");
    std::fs::rename(&away, &path).expect("rename");
    assert_recovers(&vault, protection, &device);
}

#[test]
fn a_full_disk_under_the_dirty_map_is_said_before_anything_is_written() {
    let directory = tempfile::tempdir().expect("directory");
    let state = directory.path().join("state");
    let Some(_disk) = SmallDisk::mount(&state, "size=64k") else { return };
    std::fs::write(state.join("ballast"), vec![1; 48 << 10]).expect("ballast");
    let store = Arc::new(DirStore::create(&directory.path().join("vault")).expect("store"));
    let vault = Vault::create(store, None, SystemClock::shared()).expect("vault");
    let device = Arc::new(MemoryDevice::new(1 << 40));
    let error =
        ProtectionOptions::new("disk", device, vault, &state).open().map(drop).expect_err("full");
    assert!(error.kind() == ErrorKind::Full && error.to_string().contains("dirty"), "{error}");
}
