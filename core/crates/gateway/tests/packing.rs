//! Small segments, packed by a gateway on their way to the vault: fewer requests, and no other
//! difference.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hrl::device::{BlockDevice, Durability, MemoryDevice};
use hrl::journal::{PointKind, WrappingKey};
use hrl::replica::{At, CompactOptions, ViewOptions};
use hrl::store::{DirStore, ObjectInfo, PutOutcome, Store};
use hrl::testing::content;
use hrl::vault::Vault;
use hrl::{Policy, Protection, ProtectionOptions, Result, SystemClock};
use hrl_gateway::{Gateway, GatewayOptions, RemoteStore};
use hrl_tls::{Enrollment, Role, create_authority};

const LIMIT: Duration = Duration::from_secs(60);
const DISK_BYTES: u64 = 4 << 20;

/// A directory that is reached only by requests, and counts them.
struct Counted {
    inner: DirStore,
    requests: AtomicU64,
}

impl Counted {
    fn count(&self) -> &DirStore {
        self.requests.fetch_add(1, Ordering::SeqCst);
        &self.inner
    }
}

impl Store for Counted {
    fn name(&self) -> String {
        self.inner.name()
    }
    fn put(&self, name: &str, content: &[u8]) -> Result<PutOutcome> {
        self.count().put(name, content)
    }
    fn get(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>> {
        self.count().get(name, range)
    }
    fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        self.count().list(prefix)
    }
    fn head(&self, name: &str) -> Result<Option<ObjectInfo>> {
        self.count().head(name)
    }
    fn delete(&self, name: &str) -> Result<()> {
        self.count().delete(name)
    }
    fn delete_many(&self, names: &[String]) -> Result<()> {
        let inner = self.count();
        names.iter().try_for_each(|name| inner.delete(name))
    }
}

struct Site {
    directory: tempfile::TempDir,
    vault: Arc<Counted>,
}

impl Site {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("directory");
        let path = |name: &str| directory.path().join(name);
        create_authority(&path("pki"), &["127.0.0.1".into()]).expect("authority");
        Enrollment::new("agent", &["disk".into()])
            .role(Role::Maintainer)
            .enroll(&path("pki"), &path("agent"))
            .expect("enroll");
        let inner = DirStore::create(&path("vault")).expect("store");
        let vault = Arc::new(Counted { inner, requests: AtomicU64::new(0) });
        Vault::create(vault.clone(), Some(key()), SystemClock::shared()).expect("vault");
        Self { directory, vault }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn gateway(&self) -> Gateway {
        GatewayOptions::new("127.0.0.1:0", self.path("pki"))
            .cache(self.path("cache"))
            .pack_wait_max(Duration::from_secs(1))
            .start(self.vault.clone())
            .expect("gateway")
    }

    fn vault_at(&self, gateway: &Gateway) -> Vault {
        let store = RemoteStore::open(&[gateway.address().to_string()], &self.path("agent"));
        Vault::open(Arc::new(store.expect("client")), Some(key()), SystemClock::shared())
            .expect("vault by gateway")
    }

    /// Without a gateway.
    fn direct(&self) -> Vault {
        Vault::open(self.vault.clone(), Some(key()), SystemClock::shared()).expect("vault")
    }

    fn packs(&self) -> usize {
        self.vault.inner.list("volumes/disk/packs/").expect("list").len()
    }
}

fn key() -> WrappingKey {
    WrappingKey::from_bytes([7; 32])
}

fn protect(device: &Arc<MemoryDevice>, vault: Vault, state: &Path, interval: u64) -> Protection {
    let policy = Policy {
        segment_interval: Duration::from_millis(20),
        catalog_interval: Duration::from_millis(interval),
        crash_point_interval: Duration::ZERO,
        retry_interval_max: Duration::from_millis(200),
        ..Policy::default()
    };
    let options = ProtectionOptions::new("disk", device.clone(), vault, state).policy(policy);
    let protection = options.open().expect("protect");
    protection.wait_replicated(LIMIT).expect("first copy");
    protection
}

/// Makes one write, then waits until its segment is closed.
fn write_slowly(protection: &Protection, rounds: Range<u64>) {
    for round in rounds {
        let data = vec![round as u8 | 1; 4096];
        protection.volume().write(round % 1024 * 4096, &data, Durability::Cached).expect("write");
        std::thread::sleep(Duration::from_millis(25));
    }
}

fn assert_replica_is(vault: &Vault, at: &At, bytes: &[u8]) {
    let replica = vault.replica("disk").expect("replica");
    let view = replica.view(at, &ViewOptions::default()).expect("view");
    assert!(content(&view) == bytes, "{at}");
    let report = replica.verify(&|_, _| true).expect("verify");
    assert!(report.is_sound() && report.strays.is_empty(), "{report:?}");
}

#[test]
fn promise_4_and_5_packed_segments_are_read_folded_and_deleted_like_others() {
    let site = Site::new();
    let gateway = site.gateway();
    let device = Arc::new(MemoryDevice::new(DISK_BYTES));
    let state = site.path("state");
    let protection = protect(&device, site.vault_at(&gateway), &state, 400);
    write_slowly(&protection, 0..40);
    let point = protection.mark(PointKind::Crash, "packed").expect("mark");
    let at_point = content(&*device);
    protection.wait_replicated(LIMIT).expect("replicated");
    let stats = gateway.stats();
    assert!(stats.forwarded_puts * 3 < stats.forwarded_objects, "{stats:?}");
    assert!(site.packs() > 0, "small segments were packed");
    // The gateway dies with segments in its cache and others on their way; another one continues.
    write_slowly(&protection, 40..50);
    drop(gateway);
    let error = protection.wait_replicated(Duration::from_millis(100));
    assert!(error.is_err(), "nobody answers at its address");
    protection.stop(Duration::ZERO).expect("the rest stays in the spool");
    let gateway = site.gateway();
    let protection = protect(&device, site.vault_at(&gateway), &state, 400);
    assert_eq!(protection.stats().resync_bytes_read, 0, "promise 4");
    write_slowly(&protection, 50..60);
    protection.stop(LIMIT).expect("stop");
    for vault in [site.direct(), site.vault_at(&gateway)] {
        assert_replica_is(&vault, &At::Newest, &content(&*device));
        assert_replica_is(&vault, &At::Point(point.id), &at_point);
    }
    // Through the gateway, retention removes all but the pinned point and the newest state; then no
    // pack is left.
    let vault = site.vault_at(&gateway);
    let mut replica = vault.replica("disk").expect("replica");
    replica.pin(&At::Point(point.id), hrl::vault::PinUntil::Forever, "kept").expect("pin");
    let mut policy: hrl::RetentionPolicy = "1h all".parse().expect("policy");
    (policy.full, policy.grace) = (Duration::from_millis(1), Duration::from_secs(1));
    let options = CompactOptions { fold_all: true, ..CompactOptions::default() };
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(1100));
        replica.compact(&policy, &options, &|_, _| true).expect("compact");
    }
    assert!(gateway.stop(LIMIT), "the cache is empty");
    assert!(replica.catalog().segments().len() < 8, "{}", replica.catalog().segments().len());
    let direct = site.direct();
    assert_replica_is(&direct, &At::Newest, &content(&*device));
    assert_replica_is(&direct, &At::Point(point.id), &at_point);
    assert!(site.packs() <= 3, "{} packs and markers for the newest segments", site.packs());
}

#[test]
fn requests_for_each_segment_fall_with_the_catalog_interval() {
    let mut figures = Vec::new();
    for interval in [0, 500] {
        let site = Site::new();
        let gateway = site.gateway();
        let device = Arc::new(MemoryDevice::new(DISK_BYTES));
        let protection = protect(&device, site.vault_at(&gateway), &site.path("state"), interval);
        std::thread::sleep(Duration::from_millis(200));
        let before = site.vault.requests.load(Ordering::SeqCst);
        let segments = gateway.stats().forwarded_objects;
        write_slowly(&protection, 0..40);
        protection.wait_replicated(LIMIT).expect("replicated");
        let requests = site.vault.requests.load(Ordering::SeqCst) - before;
        let segments = gateway.stats().forwarded_objects - segments;
        figures.push(requests as f64 / segments as f64);
        protection.stop(LIMIT).expect("stop");
        assert_replica_is(&site.direct(), &At::Newest, &content(&*device));
    }
    println!("requests for each segment: {figures:.2?}");
    assert!(figures[0] <= 3.5, "its put, its version and the list after it: {figures:?}");
    assert!(figures[1] <= 0.6, "most of both are shared: {figures:?}");
}

/// A shredded volume leaves nothing, packs included.
#[test]
fn deleting_a_volume_deletes_its_packs() {
    let site = Site::new();
    let gateway = site.gateway();
    let device = Arc::new(MemoryDevice::new(DISK_BYTES));
    let protection = protect(&device, site.vault_at(&gateway), &site.path("state"), 400);
    write_slowly(&protection, 0..20);
    protection.stop(LIMIT).expect("stop");
    assert!(site.packs() > 0);
    let options = hrl::vault::ShredOptions { data: true, ..Default::default() };
    site.direct().shred("disk", options).expect("shred");
    assert!(site.vault.inner.list("volumes/").expect("list").is_empty());
    drop(gateway);
}
