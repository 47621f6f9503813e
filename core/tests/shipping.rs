//! Segments on their way into the vault: lost answers, a foreign object in their place, a bandwidth
//! limit, the RPO.

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hrl::device::{BlockDevice, Durability, MemoryDevice};
use hrl::journal::PointKind;
use hrl::replica::{At, ViewOptions};
use hrl::store::{DirStore, FaultStore, ObjectInfo, PutOutcome, Store, StoreFault};
use hrl::testing::content;
use hrl::vault::Vault;
use hrl::{
    Clock, Compression, Error, ErrorKind, Event, EventKind, Policy, Protection, ProtectionOptions,
    Result, SystemClock,
};

const LIMIT: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;

fn policy() -> Policy {
    Policy {
        segment_interval: Duration::from_millis(20),
        segment_bytes_max: 64 << 10,
        frame_bytes: 32 << 10,
        compression: Compression::None,
        crash_point_interval: Duration::ZERO,
        retry_interval_max: Duration::from_millis(50),
        ..Policy::default()
    }
}

type Events = Arc<Mutex<Vec<Event>>>;

fn protect(
    device: &Arc<MemoryDevice>,
    vault: &Vault,
    state: &Path,
    policy: Policy,
) -> (Protection, Events) {
    let events = Events::default();
    let sink = events.clone();
    let protection = ProtectionOptions::new("disk", device.clone(), vault.clone(), state)
        .policy(policy)
        .events(Arc::new(move |event: &Event| sink.lock().expect("lock").push(event.clone())))
        .open()
        .expect("protect");
    protection.wait_ordered(LIMIT).expect("ordered");
    (protection, events)
}

fn vault(store: Arc<dyn Store>) -> Vault {
    Vault::create(store, None, SystemClock::shared()).expect("vault")
}

fn write(protection: &Protection, from: u64, count: u64) {
    for step in from..from + count {
        let data = vec![step as u8 | 1; 4096];
        protection.volume().write(step % 1024 * 4096, &data, Durability::Cached).expect("write");
    }
}

fn check_replica(vault: &Vault, device: &MemoryDevice) {
    let replica = vault.replica("disk").expect("replica");
    let view = replica.view(&At::Newest, &ViewOptions::default()).expect("view");
    assert!(content(&view) == content(device), "the replica is the source");
    let report = replica.verify(&|_, _| true).expect("verify");
    assert!(report.is_sound() && report.strays.is_empty(), "{report:?}");
}

fn saw(events: &Events, wanted: impl Fn(&Event) -> bool) -> bool {
    events.lock().expect("lock").iter().any(wanted)
}

fn wait_for(what: &str, done: impl Fn() -> bool) {
    let clock = SystemClock::default();
    while !done() {
        assert!(clock.elapsed() < LIMIT, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn puts_whose_answers_are_lost_are_repeated_and_found() {
    let directory = tempfile::tempdir().expect("directory");
    let inner = DirStore::create(&directory.path().join("vault")).expect("store");
    let store = Arc::new(FaultStore::new(Arc::new(inner)));
    let vault = vault(store.clone());
    let device = Arc::new(MemoryDevice::new(4 * MIB));
    let (protection, events) = protect(&device, &vault, &directory.path().join("state"), policy());
    for round in 0..10 {
        store.fail_puts(StoreFault::AnswerLost, 3);
        write(&protection, round * 64, 64);
        protection.wait_replicated(LIMIT).expect("replicated");
    }
    protection.stop(LIMIT).expect("stop");
    assert!(saw(&events, |event| event.kind == EventKind::VaultUnavailable));
    assert!(saw(&events, |event| event.kind == EventKind::VaultAvailable));
    check_replica(&vault, &device);
}

fn is_segment(name: &str) -> bool {
    name.contains("/segments/")
}

/// The answer of an append is lost, and more segments wait when it is tried again.
#[test]
fn an_append_whose_answer_was_lost_is_found_although_the_batch_has_grown() {
    let directory = tempfile::tempdir().expect("directory");
    let inner = DirStore::create(&directory.path().join("vault")).expect("store");
    let store = Arc::new(FaultStore::new(Arc::new(inner)));
    let vault = vault(store.clone());
    let device = Arc::new(MemoryDevice::new(4 * MIB));
    let slow = Policy { retry_interval_max: Duration::from_millis(400), ..policy() };
    let (protection, events) = protect(&device, &vault, &directory.path().join("state"), slow);
    for round in 0..8 {
        protection.wait_replicated(LIMIT).expect("replicated");
        // One segment: its put, then the catalog's.
        write(&protection, round * 64, 1);
        let puts = store.puts();
        wait_for("the segment's put", || store.puts() > puts);
        store.fail_puts(StoreFault::AnswerLost, 1);
        write(&protection, round * 64 + 1, 40);
    }
    protection.wait_replicated(LIMIT).expect("replicated");
    protection.stop(LIMIT).expect("stop");
    assert!(saw(&events, |event| event.kind == EventKind::VaultUnavailable));
    check_replica(&vault, &device);
}

/// A store that once stores something else of the same length, silently.
struct Swapping {
    inner: DirStore,
    armed: AtomicBool,
    swapped: Mutex<Option<String>>,
}

impl Store for Swapping {
    fn name(&self) -> String {
        self.inner.name()
    }

    fn put(&self, name: &str, content: &[u8]) -> Result<PutOutcome> {
        if is_segment(name) && self.armed.swap(false, Ordering::SeqCst) {
            let mut other = content.to_vec();
            *other.last_mut().expect("a segment") ^= 1;
            self.inner.put(name, &other)?;
            *self.swapped.lock().expect("lock") = Some(name.to_owned());
            return Err(Error::new(ErrorKind::Unavailable, "put to store", name));
        }
        self.inner.put(name, content)
    }

    fn get(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>> {
        self.inner.get(name, range)
    }

    fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        self.inner.list(prefix)
    }

    fn head(&self, name: &str) -> Result<Option<ObjectInfo>> {
        self.inner.head(name)
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.inner.delete(name)
    }
}

#[test]
fn another_object_under_a_segments_name_never_gets_into_the_catalog() {
    let directory = tempfile::tempdir().expect("directory");
    let inner = DirStore::create(&directory.path().join("vault")).expect("store");
    let store =
        Arc::new(Swapping { inner, armed: AtomicBool::new(false), swapped: Mutex::default() });
    let vault = vault(store.clone());
    let device = Arc::new(MemoryDevice::new(4 * MIB));
    let (protection, events) = protect(&device, &vault, &directory.path().join("state"), policy());
    protection.wait_replicated(LIMIT).expect("replicated");
    store.armed.store(true, Ordering::SeqCst);
    write(&protection, 0, 1);
    wait_for("the swap", || store.swapped.lock().expect("lock").is_some());
    let newest = store.swapped.lock().expect("lock").take().expect("the other object");
    wait_for("the shipper tells", || saw(&events, |e| e.kind == EventKind::VaultUnavailable));
    std::thread::sleep(Duration::from_millis(300));
    let named = vault.replica("disk").expect("replica");
    assert!(named.catalog().segments().iter().all(|entry| entry.object != newest));
    // Once it is removed, the right one takes its place.
    store.delete(&newest).expect("delete");
    protection.wait_replicated(LIMIT).expect("replicated");
    protection.stop(LIMIT).expect("stop");
    check_replica(&vault, &device);
}

#[test]
fn bandwidth_is_kept_and_never_holds_up_the_writer_or_the_stop() {
    let directory = tempfile::tempdir().expect("directory");
    let vault = vault(Arc::new(DirStore::create(&directory.path().join("vault")).expect("store")));
    let state = directory.path().join("state");
    let device = Arc::new(MemoryDevice::new(4 * MIB));
    let limited = Policy { bandwidth: "1M".parse().expect("bandwidth"), ..policy() };
    let (protection, _) = protect(&device, &vault, &state, limited);
    let clock = SystemClock::default();
    for round in 0..4 {
        write(&protection, round * 256, 256);
        protection.wait_replicated(LIMIT).expect("replicated");
    }
    // 4 MiB, less a second's credit and the permitted debt: a segment, of all that one round wrote.
    assert!(clock.elapsed() > Duration::from_millis(1900), "{:?}", clock.elapsed());
    let clock = SystemClock::default();
    write(&protection, 0, 1024);
    assert!(clock.elapsed() < Duration::from_secs(2), "promise 6: {:?}", clock.elapsed());
    wait_for("a backlog", || protection.stats().eta.is_some_and(|eta| !eta.is_zero()));
    let stats = protection.stats();
    assert!(stats.ship_bytes_per_second <= MIB && stats.backlog_bytes > 0, "{stats:?}");
    let clock = SystemClock::default();
    protection.stop(Duration::from_millis(100)).expect("the rest stays in the spool");
    assert!(clock.elapsed() < Duration::from_secs(15), "{:?}", clock.elapsed());
    let (protection, _) = protect(&device, &vault, &state, policy());
    protection.wait_replicated(LIMIT).expect("replicated");
    protection.stop(LIMIT).expect("stop");
    check_replica(&vault, &device);
}

#[test]
fn an_rpo_that_is_missed_and_met_again_is_told() {
    let directory = tempfile::tempdir().expect("directory");
    let inner = DirStore::create(&directory.path().join("vault")).expect("store");
    let store = Arc::new(FaultStore::new(Arc::new(inner)));
    let vault = vault(store.clone());
    let device = Arc::new(MemoryDevice::new(4 * MIB));
    let policy = Policy { rpo_threshold: Duration::from_millis(300), ..policy() };
    let (protection, events) = protect(&device, &vault, &directory.path().join("state"), policy);
    protection.wait_replicated(LIMIT).expect("replicated");
    store.set_down(true);
    write(&protection, 0, 8);
    wait_for("missed", || saw(&events, |event| event.kind == EventKind::RpoExceeded));
    assert!(protection.stats().rpo > Duration::from_millis(300));
    assert_eq!(protection.stats().eta, None);
    store.set_down(false);
    wait_for("met", || saw(&events, |event| event.kind == EventKind::RpoMet));
    protection.mark(PointKind::Crash, "after").expect("mark");
    protection.stop(LIMIT).expect("stop");
    check_replica(&vault, &device);
}

/// Segments are put at once and published together: few versions, and nothing is lost if the agent
/// dies in between.
#[test]
fn promise_4_segments_are_named_together_by_the_interval_of_the_catalog() {
    let directory = tempfile::tempdir().expect("directory");
    let state = directory.path().join("state");
    let store = Arc::new(DirStore::create(&directory.path().join("vault")).expect("store"));
    let vault = vault(store.clone());
    let device = Arc::new(MemoryDevice::new(4 * MIB));
    let policy = Policy { catalog_interval: Duration::from_secs(60), ..policy() };
    let (protection, _) = protect(&device, &vault, &state, policy.clone());
    protection.wait_replicated(LIMIT).expect("the caller does not wait for the interval");
    // A caller that waits for a segment at that moment publishes it without waiting for the
    // interval.
    std::thread::sleep(Duration::from_millis(300));
    let catalog = || vault.replica("disk").expect("replica").catalog().clone();
    let put = || store.list("volumes/disk/segments/").expect("list").len();
    let (version, before) = (catalog().version(), put());
    for round in 0..8 {
        write(&protection, round * 4, 4);
        wait_for("put", || put() > before + round as usize);
    }
    let stats = protection.stats();
    assert_eq!(catalog().version(), version, "nothing is named yet");
    assert!(stats.replicated_sequence < stats.last_sequence && !stats.rpo.is_zero(), "{stats:?}");
    // After a crash the next session publishes what was put.
    drop(protection);
    let (protection, _) = protect(&device, &vault, &state, policy);
    write(&protection, 100, 4);
    protection.stop(LIMIT).expect("a stop does not wait either");
    // Eight segments and more were shipped; each would have had a version of its own.
    assert!(catalog().version() <= version + 6, "{} versions", catalog().version() - version);
    check_replica(&vault, &device);
}
