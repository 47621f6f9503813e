//! Application-consistent points: what is offered when quiescing, holding or releasing goes wrong.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hrl::device::{BlockDevice, Durability, MemoryDevice};
use hrl::journal::PointKind;
use hrl::replica::{At, ViewOptions};
use hrl::store::{DirStore, ObjectInfo, PutOutcome, Store};
use hrl::vault::Vault;
use hrl::{
    Error, ErrorKind, Event, Policy, Protection, ProtectionOptions, Quiesce, QuiesceRequest,
    Result, SystemClock,
};

const LIMIT: Duration = Duration::from_secs(60);

struct Rig {
    _directory: tempfile::TempDir,
    vault: Vault,
    protection: Protection,
    events: Arc<Mutex<Vec<String>>>,
}

impl Rig {
    fn new() -> Self {
        Self::with(Arc::new(MemoryDevice::new(4 << 20)), Policy::default())
    }

    fn with(device: Arc<dyn BlockDevice>, policy: Policy) -> Self {
        Self::over(device, policy, |store| store)
    }

    fn over(
        device: Arc<dyn BlockDevice>,
        policy: Policy,
        wrap: impl FnOnce(Arc<dyn Store>) -> Arc<dyn Store>,
    ) -> Self {
        let directory = tempfile::tempdir().expect("directory");
        let store =
            wrap(Arc::new(DirStore::create(&directory.path().join("vault")).expect("store")));
        let vault = Vault::create(store, None, SystemClock::shared()).expect("vault");
        let events = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&events);
        let protection =
            ProtectionOptions::new("disk", device, vault.clone(), directory.path().join("state"))
                .policy(Policy { crash_point_interval: Duration::ZERO, ..policy })
                .events(Arc::new(move |event: &Event| {
                    let text = format!("{}: {}", event.kind.name(), event.message);
                    told.lock().expect("no panic").push(text);
                }))
                .open()
                .expect("protect");
        protection.wait_ordered(LIMIT).expect("ordered");
        Self { _directory: directory, vault, protection, events }
    }

    fn points(&self) -> Vec<(PointKind, String)> {
        self.protection.wait_replicated(LIMIT).expect("replicated");
        let replica = self.vault.replica("disk").expect("replica");
        replica.points().into_iter().map(|point| (point.kind, point.label)).collect()
    }

    fn told(&self, what: &str) -> bool {
        self.events.lock().expect("no panic").iter().any(|event| event.contains(what))
    }
}

/// An application whose writer continues as soon as it is released.
#[derive(Default)]
struct Application {
    quiesced: AtomicBool,
    lost: AtomicBool,
    release_fails: bool,
}

impl Quiesce for Application {
    fn name(&self) -> String {
        "application".to_owned()
    }

    fn quiesce(&self, _request: &QuiesceRequest) -> Result<()> {
        self.quiesced.store(true, Ordering::SeqCst);
        Ok(())
    }

    fn still_quiesced(&self) -> Result<()> {
        if self.lost.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Unavailable, "hold", "application"));
        }
        Ok(())
    }

    fn release(&self) -> Result<()> {
        self.quiesced.store(false, Ordering::SeqCst);
        if self.release_fails {
            // Long enough for the journal to take the mark, if it could.
            std::thread::sleep(Duration::from_millis(200));
            return Err(Error::new(ErrorKind::Unavailable, "release", "application"));
        }
        Ok(())
    }
}

#[test]
fn promise_7_a_point_that_was_not_held_is_not_application_consistent() {
    let rig = Rig::new();
    for kind in [PointKind::App, PointKind::GroupCrash, PointKind::GroupApp] {
        let error = rig.protection.mark(kind, "claimed").expect_err("nothing is quiesced");
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().ends_with(&format!("found {}", kind.name())), "{error}");
    }
    let volume = rig.protection.volume();
    volume.write(0, &[1; 512], Durability::Cached).expect("write");
    rig.protection.mark_quiesced(&Application::default(), "good", LIMIT).expect("mark");

    let lost = Application { lost: true.into(), ..Application::default() };
    rig.protection.mark_quiesced(&lost, "lost", LIMIT).expect_err("not held");
    let fails = Application { release_fails: true, ..Application::default() };
    let error = rig.protection.mark_quiesced(&fails, "failed", LIMIT).expect_err("not held");
    assert_eq!(error.operation(), "release");
    assert!(!fails.quiesced.load(Ordering::SeqCst));

    volume.write(0, &[2; 512], Durability::Cached).expect("write");
    rig.protection.mark_quiesced(&Application::default(), "good again", LIMIT).expect("mark");
    // A mark placed before the release failed is an ordinary place in the write order.
    assert_eq!(
        rig.points(),
        [
            (PointKind::App, "good".to_owned()),
            (PointKind::Crash, String::new()),
            (PointKind::App, "good again".to_owned())
        ]
    );
    assert!(rig.told("point-skipped: cannot hold application"));
    assert!(rig.told("point-skipped: cannot release application"));
    let replica = rig.vault.replica("disk").expect("replica");
    let mut bytes = [0; 512];
    let at = At::parse("good").expect("at");
    replica.view(&at, &ViewOptions::default()).expect("view").read(0, &mut bytes).expect("read");
    assert_eq!(bytes, [1; 512]);
    rig.protection.stop(LIMIT).expect("stop");
}

/// A store whose puts do not return while it hangs.
struct HangingStore {
    inner: Arc<dyn Store>,
    hangs: Arc<AtomicBool>,
}

impl Store for HangingStore {
    fn name(&self) -> String {
        self.inner.name()
    }
    fn put(&self, name: &str, content: &[u8]) -> Result<PutOutcome> {
        while self.hangs.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
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
fn promise_8_a_store_that_hangs_holds_no_application() {
    let hangs = Arc::new(AtomicBool::new(false));
    let switch = hangs.clone();
    let policy = Policy { segment_interval: Duration::from_millis(20), ..Policy::default() };
    let rig = Rig::over(Arc::new(MemoryDevice::new(4 << 20)), policy, |inner| {
        Arc::new(HangingStore { inner, hangs: switch })
    });
    rig.protection.wait_replicated(LIMIT).expect("replicated");
    hangs.store(true, Ordering::SeqCst);
    rig.protection.volume().write(0, &[1; 512], Durability::Cached).expect("write");
    // Until a put hangs.
    while rig.protection.stats().spool_bytes == 0 {
        std::thread::sleep(Duration::from_millis(5));
    }
    let application = Application::default();
    let limit = Duration::from_secs(5);
    for number in 0..3 {
        rig.protection.mark_quiesced(&application, &format!("{number}"), limit).expect("mark");
        assert!(!application.quiesced.load(Ordering::SeqCst), "it was let go");
    }
    assert_eq!(rig.vault.replica("disk").expect("replica").points().len(), 0, "none went");
    hangs.store(false, Ordering::SeqCst);
    let kinds: Vec<_> = rig.points().into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, [PointKind::App; 3]);
}

#[test]
fn a_policy_that_needs_applications_needs_their_provider() {
    let interval = Policy { app_point_interval: Duration::from_secs(1), ..Policy::default() };
    let directory = tempfile::tempdir().expect("directory");
    let open = |policy| {
        let store = Arc::new(DirStore::create(&directory.path().join("vault")).expect("store"));
        let vault = Vault::create(store, None, SystemClock::shared()).expect("vault");
        let disk = Arc::new(MemoryDevice::new(1 << 20));
        let state = directory.path().join("state");
        ProtectionOptions::new("disk", disk, vault, state).policy(policy).open().map(drop)
    };
    let error = open(interval).expect_err("nobody to quiesce");
    assert_eq!(error.object(), "app_point_interval");
    let named = Policy { quiesce: vec!["fs:/srv".to_owned()], ..Policy::default() };
    let error = open(named).expect_err("no provider");
    assert_eq!((error.kind(), error.object()), (ErrorKind::InvalidInput, "quiesce"));
    assert!(error.to_string().contains("hrl_quiesce::Applications"), "{error}");
}
