//! One volume through its whole life, by the public API: capture, points, crash, resync, faults.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hrl::device::{
    BlockDevice, Durability, FaultDevice, FaultPlan, FileDevice, FileDeviceOptions, MemoryDevice,
    Unmap,
};
use hrl::journal::{Body, PointKind, WrappingKey};
use hrl::replica::{At, Replica, ViewOptions};
use hrl::store::{DirStore, FaultStore, Store};
use hrl::testing::content;
use hrl::vault::Vault;
use hrl::{
    CaptureContent, Cause, Clock, ErrorKind, Event, EventKind, Extent, Mode, Policy, Protection,
    ProtectionOptions, Sequence, SystemClock,
};

const LIMIT: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;

fn vault_on(store: Arc<dyn Store>, key: Option<WrappingKey>) -> Vault {
    Vault::create(store, key, SystemClock::shared()).expect("vault")
}

fn vault(directory: &Path) -> Vault {
    vault_on(Arc::new(DirStore::create(&directory.join("vault")).expect("store")), None)
}

fn options(
    device: Arc<dyn BlockDevice>,
    vault: &Vault,
    state: &Path,
    policy: Policy,
) -> ProtectionOptions {
    ProtectionOptions::new("disk", device, vault.clone(), state).policy(policy)
}

fn protect(
    device: Arc<dyn BlockDevice>,
    vault: &Vault,
    state: &Path,
    policy: Policy,
) -> Protection {
    let protection = options(device, vault, state, policy).open().expect("protect");
    protection.wait_ordered(LIMIT).expect("ordered");
    protection
}

/// Small intervals and regions, so that tests see many segments and dirty regions.
fn policy() -> Policy {
    Policy {
        segment_interval: Duration::from_millis(20),
        region_bytes: 64 << 10,
        crash_point_interval: Duration::ZERO,
        ..Policy::default()
    }
}

fn replica(vault: &Vault) -> Replica {
    vault.replica("disk").expect("replica")
}

fn content_at(vault: &Vault, at: &At) -> Vec<u8> {
    content(&replica(vault).view(at, &ViewOptions::default()).expect("view"))
}

/// A small generator, so that a seed gives the same run everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Makes one random change within the first `bytes` of a volume; writes carry `tag`.
fn change(volume: &dyn BlockDevice, random: &mut Random, bytes: u64, tag: u64) {
    let length = 512 * (1 + random.below(40));
    let extent = Extent { offset: 512 * random.below((bytes - length) / 512), length };
    match random.below(12) {
        0 => volume.zero(extent, Unmap::Allowed, Durability::Cached).expect("zero"),
        1 => drop(volume.discard(extent).expect("discard")),
        2 => volume.flush().expect("flush"),
        _ => {
            let mut data = vec![tag as u8 | 1; length as usize];
            data[..8].copy_from_slice(&tag.to_le_bytes());
            volume.write(extent.offset, &data, Durability::Cached).expect("write");
        }
    }
}

#[test]
fn points_are_restored_byte_for_byte() {
    let directory = tempfile::tempdir().expect("directory");
    let store = Arc::new(DirStore::create(&directory.path().join("vault")).expect("store"));
    let vault = vault_on(store, Some(WrappingKey::from_bytes([7; 32])));
    let device = Arc::new(MemoryDevice::new(8 * MIB));
    device.write(3 * MIB, &[9; 100_000], Durability::Cached).expect("content from before");
    let protection = protect(device.clone(), &vault, &directory.path().join("state"), policy());
    let mut random = Random(5);
    let mut expected = Vec::new();
    for round in 0..5_u64 {
        for step in 0..200 {
            change(&**protection.volume(), &mut random, 8 * MIB, round * 1000 + step);
        }
        let point = protection.mark(PointKind::Crash, &format!("round {round}")).expect("mark");
        expected.push((point, content(&*device)));
    }
    protection.wait_replicated(LIMIT).expect("replicated");
    protection.stop(LIMIT).expect("stop");
    let points = replica(&vault).points();
    assert_eq!(points, expected.iter().map(|(point, _)| point.clone()).collect::<Vec<_>>());
    for (point, bytes) in &expected {
        assert!(content_at(&vault, &At::Point(point.id)) == *bytes, "{}", point.label);
    }
    assert!(replica(&vault).verify(&|_, _| true).expect("verify").is_sound());
}

#[test]
fn promise_3_many_threads_and_the_view_at_random_sequences_is_the_prefix() {
    let directory = tempfile::tempdir().expect("directory");
    let vault = vault(directory.path());
    let device = Arc::new(MemoryDevice::new(4 * MIB));
    let protection = protect(device.clone(), &vault, &directory.path().join("state"), policy());
    std::thread::scope(|scope| {
        for thread in 0..8_u64 {
            let volume = protection.volume();
            scope.spawn(move || {
                let mut random = Random(thread + 1);
                for step in 0..400 {
                    // A small hot area, so that threads overlap all the time.
                    change(&**volume, &mut random, 128 << 10, thread * 1000 + step);
                }
            });
        }
    });
    protection.wait_replicated(LIMIT).expect("replicated");
    let last = protection.stats().last_sequence;
    protection.stop(LIMIT).expect("stop");
    assert!(content_at(&vault, &At::Newest) == content(&*device), "the replica is the source");
    // The model is built from the records in order; views are built from the indexes.
    let replica = replica(&vault);
    let mut model = vec![0_u8; 4 << 20];
    let mut random = Random(99);
    let mut checks: Vec<u64> = (0..40).map(|_| 1 + random.below(last.0)).collect();
    checks.sort_unstable();
    let mut next = 0;
    let mut previous = Sequence::ZERO;
    for entry in replica.catalog().segments() {
        let segment = replica.open_segment(&entry.object).expect("segment");
        for number in 0..segment.frame_count() {
            for record in segment.frame(number).expect("frame").records() {
                let record = record.expect("record");
                assert!(record.sequence > previous, "promise 1: sequences grow");
                previous = record.sequence;
                while next < checks.len() && checks[next] < record.sequence.0 {
                    let at = Sequence(checks[next]);
                    next += 1;
                    if replica.catalog().is_ordered_at(at) {
                        assert!(content_at(&vault, &At::Sequence(at)) == model, "sequence {at}");
                    }
                }
                let extent = record.body.extent();
                let range = extent.offset as usize..extent.end() as usize;
                match record.body {
                    Body::Write { data, .. } => model[range].copy_from_slice(data),
                    _ => model[range].fill(0),
                }
            }
        }
    }
    assert!(next > 30 && model == content(&*device));
}

#[test]
fn promise_4_after_a_crash_only_marked_regions_are_read_and_old_points_stay() {
    let directory = tempfile::tempdir().expect("directory");
    let vault = vault(directory.path());
    let state = directory.path().join("state");
    let inner: Arc<dyn BlockDevice> = Arc::new(MemoryDevice::new(64 * MIB));
    inner.write(0, &vec![3; 64 << 20], Durability::Cached).expect("content");
    let device = Arc::new(FaultDevice::new(inner, 11));
    let mut points = Vec::new();
    for round in 0..6_u64 {
        let before = device.bytes_read();
        let protection = protect(device.clone(), &vault, &state, policy());
        let read = device.bytes_read() - before;
        assert!(round == 0 || read <= 2 * MIB, "{read} bytes read again for a hot MiB");
        let point = protection.mark(PointKind::Crash, "").expect("mark");
        points.push((point.id, content(&*device)));
        if round == 0 {
            // Until the cleaner has run, everything that was just copied may have to be read again.
            std::thread::sleep(Duration::from_secs(4));
        }
        for step in 0..300_u64 {
            let data = vec![(round * 31 + step) as u8; 4096];
            protection
                .volume()
                .write((step * 7 % 256) * 4096, &data, Durability::Cached)
                .expect("write");
        }
        // The process dies without warning, and the disk's cache with it.
        drop(protection);
        device.crash().expect("crash");
    }
    let protection = protect(device.clone(), &vault, &state, policy());
    protection.wait_replicated(LIMIT).expect("replicated");
    protection.stop(LIMIT).expect("stop");
    assert!(content_at(&vault, &At::Newest) == content(&*device), "the newest state is the disk");
    for (id, bytes) in points {
        assert!(
            content_at(&vault, &At::Point(id)) == bytes,
            "promise 5: an old point is as it was"
        );
    }
}

#[test]
fn promise_6_a_dead_vault_never_blocks_the_writer_and_nothing_is_lost() {
    let directory = tempfile::tempdir().expect("directory");
    let inner = DirStore::create(&directory.path().join("vault")).expect("store");
    let store = Arc::new(FaultStore::new(Arc::new(inner)));
    let vault = vault_on(store.clone(), None);
    let device = Arc::new(MemoryDevice::new(32 * MIB));
    let policy = Policy {
        memory_budget_bytes: MIB,
        spool_bytes_max: 2 * MIB,
        compression: hrl::Compression::None,
        retry_interval_max: Duration::from_millis(50),
        ..policy()
    };
    let modes = Arc::new(Mutex::new(Vec::new()));
    let seen = modes.clone();
    let protection = options(device.clone(), &vault, &directory.path().join("state"), policy)
        .events(Arc::new(move |event: &Event| {
            if let EventKind::ModeChanged { to, cause, .. } = event.kind {
                seen.lock().expect("lock").push((to, cause));
            }
        }))
        .open()
        .expect("protect");
    protection.wait_ordered(LIMIT).expect("ordered");
    let before = protection.mark(PointKind::Crash, "before").expect("mark");
    protection.wait_replicated(LIMIT).expect("replicated");
    let at_point = content(&*device);
    store.set_down(true);
    for step in 0..4000_u64 {
        let data = vec![step as u8; 4096];
        protection.volume().write((step % 8192) * 4096, &data, Durability::Cached).expect("write");
        if step % 100 == 0 {
            // Let the journal fill the spool, so that the spool is the cause and not this loop's
            // speed.
            std::thread::sleep(Duration::from_millis(10));
            let spooled = protection.stats().spool_bytes;
            assert!(spooled <= 2 * MIB, "promise 12: the spool has {spooled} bytes");
        }
    }
    assert_ne!(protection.stats().mode, Mode::Ordered);
    let error = protection.mark(PointKind::Crash, "in the gap").expect_err("promise 7: no point");
    assert_eq!(error.kind(), ErrorKind::NotOrdered);
    assert!(error.to_string().starts_with("cannot mark point of disk: "), "{error}");
    store.set_down(false);
    protection.wait_replicated(LIMIT).expect("replicated");
    let after = protection.mark(PointKind::Crash, "after").expect("mark");
    protection.wait_replicated(LIMIT).expect("replicated");
    protection.stop(LIMIT).expect("stop");
    assert!(content_at(&vault, &At::Point(after.id)) == content(&*device));
    assert!(content_at(&vault, &At::Point(before.id)) == at_point, "promise 5");
    let modes = modes.lock().expect("lock").clone();
    assert!(modes.contains(&(Mode::Dirty, Cause::SpoolFull)), "{modes:?}");
    let timeline = replica(&vault).timeline();
    assert!(
        timeline.iter().any(|e| e.unordered == Some(Cause::SpoolFull)),
        "promise 7: {timeline:?}"
    );
}

#[test]
fn promise_6_a_stop_with_a_full_spool_takes_no_longer_than_its_limit() {
    let directory = tempfile::tempdir().expect("directory");
    let inner = DirStore::create(&directory.path().join("vault")).expect("store");
    let store = Arc::new(FaultStore::new(Arc::new(inner)));
    let vault = vault_on(store.clone(), None);
    let device = Arc::new(MemoryDevice::new(8 * MIB));
    let policy = Policy {
        memory_budget_bytes: MIB,
        spool_bytes_max: MIB,
        compression: hrl::Compression::None,
        retry_interval_max: Duration::from_millis(50),
        ..policy()
    };
    let state = directory.path().join("state");
    let protection = protect(device.clone(), &vault, &state, policy.clone());
    store.set_down(true);
    let clock = SystemClock::default();
    for batch in 0..64_u64 {
        let data = vec![batch as u8 | 1; 64 << 10];
        protection.volume().write(batch * (64 << 10), &data, Durability::Cached).expect("write");
        // The queue is not to overflow: what it drops needs no room in the spool.
        let written = clock.elapsed();
        let waits = || {
            let stats = protection.stats();
            stats.journaled_sequence < stats.last_sequence
        };
        while waits() && clock.elapsed() < written + Duration::from_millis(500) {
            std::thread::sleep(Duration::from_millis(1));
        }
        if waits() {
            break;
        }
    }
    let began = clock.elapsed();
    let error = protection.stop(Duration::from_secs(1)).expect_err("there is no room");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    let took = clock.elapsed().checked_sub(began).expect("time goes on");
    assert!(took < Duration::from_secs(5), "{took:?}");
    store.set_down(false);
    let protection = protect(device.clone(), &vault, &state, policy);
    protection.wait_replicated(LIMIT).expect("replicated");
    protection.stop(LIMIT).expect("stop");
    assert!(content_at(&vault, &At::Newest) == content(&*device));
}

#[test]
fn promise_2_a_failed_device_write_leaves_the_replica_equal_to_the_disk() {
    let directory = tempfile::tempdir().expect("directory");
    let vault = vault(directory.path());
    let device = Arc::new(FaultDevice::new(Arc::new(MemoryDevice::new(4 * MIB)), 1));
    let protection = protect(device.clone(), &vault, &directory.path().join("state"), policy());
    // Each write in a different region: a region that cannot be read back is read again whole.
    for (reads, offset) in [(0, 8192), (1, 2 * MIB)] {
        device.set_plan(FaultPlan { writes: 1, reads, flushes: 0 });
        let data = [6 + reads as u8; 8192];
        let result = protection.volume().write(offset, &data, Durability::Cached);
        result.expect_err("the fault reaches the writer");
        protection.volume().write(65_536, &[7; 512], Durability::Cached).expect("write");
    }
    protection.wait_replicated(LIMIT).expect("replicated");
    assert!(content_at(&vault, &At::Newest) == content(&*device));
    protection.stop(LIMIT).expect("stop");
}

#[test]
fn a_clean_stop_needs_no_resync_and_a_changed_disk_is_noticed() {
    let directory = tempfile::tempdir().expect("directory");
    let vault = vault(directory.path());
    let state = directory.path().join("state");
    let path = directory.path().join("disk.img");
    let open = || -> Arc<dyn BlockDevice> {
        let options = FileDeviceOptions { create_bytes: Some(8 * MIB), ..Default::default() };
        Arc::new(FileDevice::open(&path, &options).expect("disk"))
    };
    let protection = protect(open(), &vault, &state, policy());
    protection.volume().write(0, &[1; 4096], Durability::Cached).expect("write");
    protection.stop(LIMIT).expect("stop");

    let protection = options(open(), &vault, &state, policy()).open().expect("protect");
    assert_eq!(protection.stats().mode, Mode::Ordered, "nothing to read again");
    protection.stop(LIMIT).expect("stop");

    open().write(5 * MIB, &[2; 512], Durability::Cached).expect("behind our back");
    let protection = protect(open(), &vault, &state, policy());
    protection.wait_replicated(LIMIT).expect("replicated");
    protection.stop(LIMIT).expect("stop");
    assert!(content_at(&vault, &At::Newest) == content(&*open()));

    let file = std::fs::OpenOptions::new().write(true).open(&path).expect("open");
    file.set_len(16 * MIB).expect("resize");
    let bigger = Arc::new(FileDevice::open(&path, &FileDeviceOptions::default()).expect("disk"));
    let error = options(bigger, &vault, &state, policy()).open().map(drop).expect_err("resized");
    assert!(
        error.kind() == ErrorKind::Changed && error.to_string().contains("16777216"),
        "{error}"
    );
}

#[test]
fn two_agents_on_one_volume_are_told_apart() {
    let directory = tempfile::tempdir().expect("directory");
    let vault = vault(directory.path());
    let device: Arc<dyn BlockDevice> = Arc::new(MemoryDevice::new(4 * MIB));
    let first = protect(device.clone(), &vault, &directory.path().join("one"), policy());
    let open = |state: &str, take_over| {
        options(device.clone(), &vault, &directory.path().join(state), policy())
            .take_over(take_over)
            .open()
    };
    assert_eq!(open("one", false).map(drop).expect_err("same state").kind(), ErrorKind::Fenced);
    assert_eq!(open("two", false).map(drop).expect_err("other source").kind(), ErrorKind::Fenced);
    let second = open("two", true).expect("take over");
    second.wait_replicated(LIMIT).expect("replicated");
    first.volume().write(0, &[1; 512], Durability::Cached).expect("the writer is not stopped");
    let error = first.wait_replicated(Duration::from_secs(20)).expect_err("fenced");
    assert_eq!(error.kind(), ErrorKind::Fenced);
    assert_eq!(first.mark(PointKind::Crash, "").expect_err("fenced").kind(), ErrorKind::Fenced);
    second.stop(LIMIT).expect("stop");
}

#[test]
fn a_tracker_gives_exact_change_sets_without_data() {
    let directory = tempfile::tempdir().expect("directory");
    let vault = vault(directory.path());
    let device = Arc::new(MemoryDevice::new(1 << 40));
    let policy = Policy { content: CaptureContent::ExtentsOnly, ..policy() };
    let state = directory.path().join("state");
    let protection = options(device, &vault, &state, policy).open().expect("protect");
    assert_eq!(protection.stats().mode, Mode::Ordered, "a tracker has nothing to copy");
    let from = protection.mark(PointKind::Crash, "from").expect("mark");
    protection.volume().write(1 << 39, &[1; 1536], Durability::Cached).expect("write");
    protection.volume().write(4096, &[1; 512], Durability::Cached).expect("write");
    let to = protection.mark(PointKind::Crash, "to").expect("mark");
    protection.wait_replicated(LIMIT).expect("replicated");
    let changes = replica(&vault).changes(&At::Point(from.id), &At::Point(to.id)).expect("changes");
    let extents: Vec<_> = changes.extents().iter().map(|e| (e.offset, e.length)).collect();
    assert_eq!(extents, [(4096, 512), (1 << 39, 1536)]);
    let error = changes.write_to_file(&directory.path().join("out")).expect_err("no data");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    protection.stop(LIMIT).expect("stop");
}

#[test]
fn crash_points_are_marked_by_policy() {
    let directory = tempfile::tempdir().expect("directory");
    let vault = vault(directory.path());
    let marked = Arc::new(AtomicU64::new(0));
    let count = marked.clone();
    let policy = Policy { crash_point_interval: Duration::from_millis(100), ..policy() };
    let device = Arc::new(MemoryDevice::new(4 * MIB));
    let protection = options(device, &vault, &directory.path().join("state"), policy)
        .events(Arc::new(move |event: &Event| {
            if matches!(event.kind, EventKind::PointMarked { .. }) {
                count.fetch_add(1, Ordering::SeqCst);
            }
        }))
        .open()
        .expect("protect");
    std::thread::sleep(Duration::from_millis(900));
    protection.stop(LIMIT).expect("stop");
    let points = replica(&vault).points().len() as u64;
    assert!(points >= 4, "{points} points");
    assert_eq!(points, marked.load(Ordering::SeqCst));
}

/// Blocks of a copy come in an order that no disk ever had.
#[test]
fn promise_7_while_an_outside_writer_is_not_in_sync_no_point_is_taken() {
    let directory = tempfile::tempdir().expect("directory");
    let vault = vault(directory.path());
    let device = Arc::new(MemoryDevice::new(8 * MIB));
    let open = |outside: bool| {
        let state = directory.path().join("state");
        let options = ProtectionOptions::new("disk", device.clone(), vault.clone(), state);
        options.policy(policy()).outside_writer(outside).open().expect("protect")
    };
    let refused = |protection: &Protection| {
        let error = protection.mark(PointKind::Crash, "").expect_err("not in order");
        assert_eq!(error.kind(), ErrorKind::NotOrdered, "{error}");
        assert!(error.to_string().contains("outside-writer"), "{error}");
        let error = protection.wait_ordered(Duration::from_millis(300)).expect_err("never");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    };
    let write = |protection: &Protection, tag: u8| {
        let volume = protection.volume();
        volume.write(u64::from(tag) * 4096, &[tag; 4096], Durability::Cached).expect("write");
    };

    let protection = open(true);
    write(&protection, 1);
    let error = protection.wait_ordered(Duration::from_millis(300)).expect_err("never");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    protection.mark(PointKind::Crash, "").expect_err("not in order");
    protection.set_writer_in_sync(true).expect("it has one");
    protection.wait_ordered(LIMIT).expect("in sync");
    write(&protection, 2);
    let point = protection.mark(PointKind::Crash, "in sync").expect("mark");
    let at_point = content(&*device);

    protection.set_writer_in_sync(false).expect("it has one");
    write(&protection, 3);
    refused(&protection);
    assert!(protection.stats().rpo > Duration::from_millis(200), "{:?}", protection.stats());
    protection.set_writer_in_sync(true).expect("it has one");
    protection.wait_ordered(LIMIT).expect("in sync again");
    write(&protection, 4);
    protection.mark(PointKind::Crash, "in sync again").expect("mark");
    protection.stop(LIMIT).expect("stop");

    // A new session knows nothing of the driver.
    let protection = open(true);
    refused(&protection);
    protection.stop(LIMIT).expect("stop");
    let protection = open(false);
    protection.wait_ordered(LIMIT).expect("its writers keep their order");
    let error = protection.set_writer_in_sync(true).expect_err("it has none");
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    protection.wait_replicated(LIMIT).expect("replicated");
    protection.stop(LIMIT).expect("stop");

    assert!(content_at(&vault, &At::Point(point.id)) == at_point);
    assert!(content_at(&vault, &At::Newest) == content(&*device));
    let gaps: Vec<_> = replica(&vault).timeline().iter().filter_map(|e| e.unordered).collect();
    assert_eq!(gaps, [Cause::InitialReplication, Cause::OutsideWriter, Cause::OutsideWriter]);
}
