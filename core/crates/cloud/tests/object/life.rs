//! A protected volume whose vault is an object store.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hrl::device::{BlockDevice, Durability, MemoryDevice};
use hrl::journal::{PointKind, WrappingKey};
use hrl::replica::{At, RestoreTarget, ViewOptions};
use hrl::store::Store;
use hrl::testing::content;
use hrl::vault::Vault;
use hrl::{Clock, Compression, Mode, Policy, Protection, ProtectionOptions, SystemClock};

use crate::proxy::{Fault, Proxy};
use crate::servers::Server;

const LIMIT: Duration = Duration::from_secs(120);
const MIB: u64 = 1 << 20;

fn vault(store: Arc<dyn Store>, key: Option<[u8; 32]>) -> Vault {
    let key = key.map(WrappingKey::from_bytes);
    Vault::create(store, key, SystemClock::shared()).expect("vault")
}

/// Small intervals, for many segments.
fn policy() -> Policy {
    Policy {
        segment_interval: Duration::from_millis(50),
        region_bytes: 64 << 10,
        crash_point_interval: Duration::ZERO,
        retry_interval_max: Duration::from_millis(500),
        ..Policy::default()
    }
}

fn protect(device: &Arc<MemoryDevice>, vault: &Vault, state: &Path, policy: Policy) -> Protection {
    let options = ProtectionOptions::new("disk", device.clone(), vault.clone(), state);
    // Shown when the test fails.
    let events = Arc::new(|event: &hrl::Event| println!("{:?}: {}", event.kind, event.message));
    let protection = options.policy(policy).events(events).open().expect("protect");
    protection.wait_ordered(LIMIT).expect("ordered");
    protection
}

fn content_at(vault: &Vault, at: &At) -> Vec<u8> {
    let replica = vault.replica("disk").expect("replica");
    content(&replica.view(at, &ViewOptions::default()).expect("view"))
}

/// Bytes that do not compress, different for each `seed`.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(|_| next()).collect()
}

/// Checks points, views, a restore, verification, and the race of two sources for one volume.
pub fn protect_and_restore(server: &Server) {
    let directory = tempfile::tempdir().expect("directory");
    let store = Arc::new(server.store("site/life", server.port()).expect("store"));
    let vault = vault(store, Some([7; 32]));
    let device = Arc::new(MemoryDevice::new(4 * MIB));
    let protection = protect(&device, &vault, &directory.path().join("state"), policy());
    let mut points = Vec::new();
    for round in 0..4_u64 {
        for step in 0..20 {
            let offset = (round * 20 + step) * 37 % 1000 * 4096;
            let data = noise(round * 100 + step, 8192);
            protection.volume().write(offset, &data, Durability::Cached).expect("write");
        }
        let point = protection.mark(PointKind::Crash, &format!("round {round}")).expect("mark");
        points.push((point, content(&*device)));
    }
    protection.wait_replicated(LIMIT).expect("replicated");
    let other = ProtectionOptions::new(
        "disk",
        device.clone(),
        vault.clone(),
        directory.path().join("other"),
    );
    let error = other.open().map(drop).expect_err("promise 9: the volume has a source");
    assert_eq!(error.kind(), hrl::ErrorKind::Fenced);
    protection.stop(LIMIT).expect("stop");
    let replica = vault.replica("disk").expect("replica");
    for (point, bytes) in &points {
        assert!(content_at(&vault, &At::Point(point.id)) == *bytes, "{}", point.label);
    }
    let path = directory.path().join("restored");
    let target = RestoreTarget::File { path: path.clone(), overwrite: false };
    replica.restore(&At::Newest, &target, &|_, _| true).expect("restore");
    assert!(std::fs::read(&path).expect("read") == content(&*device));
    assert!(replica.verify(&|_, _| true).expect("verify").is_sound());
}

/// Kills the server while the volume is written, for longer than memory and spool last, and starts
/// it again on its data.
pub fn promises_4_and_6_a_server_is_killed_while_the_volume_is_written(server: &mut Server) {
    let directory = tempfile::tempdir().expect("directory");
    let vault = vault(Arc::new(server.store("killed", server.port()).expect("store")), None);
    let device = Arc::new(MemoryDevice::new(16 * MIB));
    let policy = Policy {
        memory_budget_bytes: MIB,
        spool_bytes_max: 2 * MIB,
        compression: Compression::None,
        ..policy()
    };
    let protection = protect(&device, &vault, &directory.path().join("state"), policy);
    let before = protection.mark(PointKind::Crash, "before").expect("mark");
    let at_point = content(&*device);
    protection.wait_replicated(LIMIT).expect("replicated");
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for step in 0..3000_u64 {
                let data = noise(step, 4096);
                let offset = step * 7 % 4096 * 4096;
                let clock = SystemClock::default();
                let start = clock.elapsed();
                protection.volume().write(offset, &data, Durability::Cached).expect("write");
                let taken = clock.elapsed().saturating_sub(start);
                assert!(taken < Duration::from_secs(5), "the writer is not held up");
                std::thread::sleep(Duration::from_micros(500));
            }
        });
        std::thread::sleep(Duration::from_millis(300));
        server.kill();
        writer.join().expect("the writer goes on without a server");
    });
    let stats = protection.stats();
    assert_ne!(stats.replicated_sequence, stats.last_sequence);
    assert!(stats.mode != Mode::Ordered && stats.backlog_bytes > 0, "{stats:?}");
    assert_eq!(stats.eta, None, "nobody knows when the server comes back");
    server.launch();
    protection.wait_replicated(LIMIT).expect("replicated");
    let stats = protection.stats();
    assert!(stats.vault_available && stats.eta == Some(Duration::ZERO), "{stats:?}");
    let after = protection.mark(PointKind::Crash, "after").expect("mark");
    protection.wait_replicated(LIMIT).expect("replicated");
    protection.stop(LIMIT).expect("stop");
    assert!(content_at(&vault, &At::Point(after.id)) == content(&*device), "promise 4");
    assert!(content_at(&vault, &At::Point(before.id)) == at_point, "promise 5");
    let report = vault.replica("disk").expect("replica").verify(&|_, _| true).expect("verify");
    assert!(report.is_sound(), "{:?}", report.findings);
}

/// Checks lost answers, overload and cut connections while the volume is written.
pub fn promise_6_a_bad_network_loses_nothing(server: &Server) {
    let directory = tempfile::tempdir().expect("directory");
    let proxy = Proxy::start(server.port());
    let vault = vault(Arc::new(server.store("bad", proxy.port()).expect("store")), None);
    let device = Arc::new(MemoryDevice::new(4 * MIB));
    let protection = protect(&device, &vault, &directory.path().join("state"), policy());
    let mut points = Vec::new();
    for round in 0..6_u64 {
        let (fault, count) = match round % 3 {
            0 => (Fault::AnswerLost, 9),
            1 => (Fault::Overload, 12),
            _ => (Fault::CutAnswer, 5),
        };
        proxy.fail(fault, count);
        for step in 0..100_u64 {
            let data = noise(round * 1000 + step, 4096);
            let offset = step * 11 % 1024 * 4096;
            protection.volume().write(offset, &data, Durability::Cached).expect("write");
        }
        let point = protection.mark(PointKind::Crash, "").expect("mark");
        points.push((point, content(&*device)));
        protection.wait_replicated(LIMIT).expect("replicated");
    }
    protection.stop(LIMIT).expect("stop");
    for (point, bytes) in points {
        assert!(content_at(&vault, &At::Point(point.id)) == bytes);
    }
    let report = vault.replica("disk").expect("replica").verify(&|_, _| true).expect("verify");
    assert!(report.is_sound() && report.strays.is_empty(), "{report:?}");
}

/// Checks that opening a view and reading 4 KiB needs few requests and bytes, not whole segments.
pub fn a_first_read_takes_few_requests(server: &Server) {
    const SEGMENTS: u64 = 20;
    let directory = tempfile::tempdir().expect("directory");
    let proxy = Proxy::start(server.port());
    let vault = vault(Arc::new(server.store("view", proxy.port()).expect("store")), None);
    let device = Arc::new(MemoryDevice::new(64 * MIB));
    let policy = Policy { segment_interval: Duration::from_secs(600), ..policy() };
    let protection = protect(&device, &vault, &directory.path().join("state"), policy);
    for segment in 0..SEGMENTS {
        for step in 0..256_u64 {
            let data = noise(segment * 1000 + step, 8192);
            let offset = (segment * 256 + step) * 5 % 8192 * 8192;
            protection.volume().write(offset, &data, Durability::Cached).expect("write");
        }
        // A mark closes the segment: 2 MiB.
        protection.mark(PointKind::Crash, "").expect("mark");
    }
    protection.wait_replicated(LIMIT).expect("replicated");
    protection.stop(LIMIT).expect("stop");
    let replica = vault.replica("disk").expect("replica");
    let segments = replica.catalog().segments().len() as u64;
    let stored: u64 = replica.catalog().segments().iter().map(|e| e.summary.stored_bytes).sum();
    assert!(segments >= SEGMENTS && stored > 30 * MIB);
    proxy.take_counts();
    let view = replica.view(&At::Newest, &ViewOptions::default()).expect("view");
    let mut block = [0; 4096];
    view.read(5 * 8192, &mut block).expect("read");
    let (requests, bytes) = proxy.take_counts();
    println!(
        "first read of {segments} segments, {stored} bytes: {requests} requests, {bytes} bytes"
    );
    assert!(requests <= 2 * segments + 2, "{requests} requests for {segments} segments");
    assert!(bytes < segments * (80 << 10) + MIB, "{bytes} of {stored} bytes");
    let mut expected = [0; 4096];
    device.read(5 * 8192, &mut expected).expect("read");
    assert!(block == expected);
}
