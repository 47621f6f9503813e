//! Gateways: the store's contract through one, rights of clients, outages, kills and failover.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hrl::device::{BlockDevice, Durability, MemoryDevice};
use hrl::journal::PointKind;
use hrl::replica::{At, ViewOptions};
use hrl::store::{DirStore, FaultStore, ObjectInfo, PutOutcome, Store};
use hrl::vault::{PinUntil, Vault};
use hrl::{ErrorKind, Policy, ProtectionOptions, Result, SystemClock};
use hrl_gateway::{Acknowledge, Gateway, GatewayOptions, RemoteStore};
use hrl_tls::{Enrollment, Role, create_authority, enroll_client};

const LIMIT: Duration = Duration::from_secs(60);

struct Site {
    directory: tempfile::TempDir,
}

impl Site {
    /// An authority, and the bundle of an admin with volumes `disk` and `other`.
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let site = Self { directory };
        create_authority(&site.path("pki"), &["localhost".into(), "127.0.0.1".into()])
            .expect("authority");
        Enrollment::new("agent", &["disk".to_owned(), "other".to_owned()])
            .role(Role::Admin)
            .enroll(&site.path("pki"), &site.path("agent"))
            .expect("enroll");
        site
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    fn enroll(&self, name: &str, volumes: &[&str]) {
        let volumes: Vec<String> = volumes.iter().map(|v| (*v).to_owned()).collect();
        enroll_client(&self.path("pki"), name, &volumes, &self.path(name)).expect("enroll");
    }

    fn vault_store(&self) -> Arc<DirStore> {
        Arc::new(DirStore::create(&self.path("vault")).expect("store"))
    }

    fn gateway(
        &self,
        vault: Arc<dyn Store>,
        change: impl Fn(GatewayOptions) -> GatewayOptions,
    ) -> Gateway {
        change(GatewayOptions::new("127.0.0.1:0", self.path("pki"))).start(vault).expect("gateway")
    }

    fn client(&self, name: &str, gateways: &[&Gateway]) -> RemoteStore {
        let addresses: Vec<String> = gateways.iter().map(|g| g.address().to_string()).collect();
        RemoteStore::open(&addresses, &self.path(name)).expect("client")
    }
}

/// Puts the names of the conformance test below a volume that the client may touch.
struct Below(RemoteStore);

const BELOW: &str = "volumes/disk/";

impl Store for Below {
    fn name(&self) -> String {
        self.0.name()
    }
    fn put(&self, name: &str, content: &[u8]) -> Result<PutOutcome> {
        self.0.put(&format!("{BELOW}{name}"), content)
    }
    fn get(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>> {
        self.0.get(&format!("{BELOW}{name}"), range)
    }
    fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        let mut found = self.0.list(&format!("{BELOW}{prefix}"))?;
        for object in &mut found {
            object.name = object.name[BELOW.len()..].to_owned();
        }
        Ok(found)
    }
    fn head(&self, name: &str) -> Result<Option<ObjectInfo>> {
        let found = self.0.head(&format!("{BELOW}{name}"))?;
        Ok(found.map(|info| ObjectInfo { name: name.to_owned(), ..info }))
    }
    fn delete(&self, name: &str) -> Result<()> {
        self.0.delete(&format!("{BELOW}{name}"))
    }
}

#[test]
fn the_contract_of_a_store_holds_through_a_gateway() {
    let kept = std::cell::RefCell::new(Vec::new());
    hrl::store::conformance::check(&|| {
        let site = Site::new();
        let gateway = site.gateway(site.vault_store(), |options| options);
        let store = Arc::new(Below(site.client("agent", &[&gateway])));
        kept.borrow_mut().push((site, gateway));
        store
    });
}

/// A vault in which a segment arrives just after the vault was listed.
struct ArrivesAfter {
    inner: Arc<DirStore>,
    was_listed: AtomicBool,
}

const ARRIVES: &str = "volumes/disk/segments/e00000001-0000000000000001-0000000000000002-aa.hrl";

impl ArrivesAfter {
    fn wait(condition: impl Fn() -> bool) {
        for _ in 0..500 {
            if condition() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Store for ArrivesAfter {
    fn name(&self) -> String {
        self.inner.name()
    }
    fn put(&self, name: &str, content: &[u8]) -> Result<PutOutcome> {
        Self::wait(|| self.was_listed.load(Ordering::SeqCst));
        self.inner.put(name, content)
    }
    fn get(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>> {
        self.inner.get(name, range)
    }
    fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        let found = self.inner.list(prefix)?;
        self.was_listed.store(true, Ordering::SeqCst);
        Self::wait(|| matches!(self.inner.head(ARRIVES), Ok(Some(_))));
        // The gateway records that it is there.
        std::thread::sleep(Duration::from_millis(200));
        Ok(found)
    }
    fn head(&self, name: &str) -> Result<Option<ObjectInfo>> {
        self.inner.head(name)
    }
    fn delete(&self, name: &str) -> Result<()> {
        self.inner.delete(name)
    }
}

/// Once a segment was missing from a list: the vault was listed before it came, the cache after it
/// left.
#[test]
fn a_segment_on_its_way_to_the_vault_is_listed() {
    let site = Site::new();
    let vault = Arc::new(ArrivesAfter { inner: site.vault_store(), was_listed: false.into() });
    let cache = site.path("cache");
    let gateway = site.gateway(vault.clone(), |options| options.cache(&cache).pack_bytes(0));
    let agent = site.client("agent", &[&gateway]);
    agent.put(ARRIVES, b"segment").expect("into the cache");
    let past = agent.get(ARRIVES, 0..100).expect_err("past its end");
    assert_eq!(past.kind(), ErrorKind::InvalidInput, "{past}");
    let found = agent.list("volumes/disk/segments/").expect("list");
    assert!(
        vault.was_listed.load(Ordering::SeqCst) && vault.head(ARRIVES).expect("head").is_some()
    );
    assert_eq!(found.iter().map(|info| info.name.as_str()).collect::<Vec<_>>(), [ARRIVES]);
}

#[test]
fn a_client_touches_only_its_own_volumes() {
    let site = Site::new();
    site.enroll("stranger", &["theirs"]);
    let gateway = site.gateway(site.vault_store(), |options| options);
    let agent = site.client("agent", &[&gateway]);
    let stranger = site.client("stranger", &[&gateway]);
    agent.put("volumes/disk/volume", b"mine").expect("its own");
    for error in [
        stranger.put("volumes/disk/other", b"x").expect_err("put"),
        stranger.get("volumes/disk/volume", 0..4).expect_err("get"),
        stranger.head("volumes/disk/volume").expect_err("head"),
        stranger.delete("volumes/disk/volume").expect_err("delete"),
        stranger.put("hrl-vault", b"x").expect_err("the vault's mark"),
        stranger.put("volumes/diskette", b"x").expect_err("a name that only begins so"),
    ] {
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
        assert!(error.to_string().contains("stranger"), "{error}");
    }
    assert!(stranger.list("volumes/").expect("list").is_empty());
    assert_eq!(agent.list("volumes/").expect("list").len(), 1);
    assert_eq!(agent.list("").expect("list").len(), 1);
    // Removing a client's pin locks it out, although its certificate is still valid.
    std::fs::remove_file(site.path("pki/clients/agent")).expect("remove");
    let again = site.client("agent", &[&gateway]);
    let error = again.get("volumes/disk/volume", 0..4).expect_err("not enrolled any more");
    assert!(error.to_string().contains("not enrolled"), "{error}");
    assert!(gateway.stats().connections_refused > 0);
}

#[test]
fn foreign_certificates_plain_text_and_oversized_requests_are_refused() {
    let (site, elsewhere) = (Site::new(), Site::new());
    let gateway = site.gateway(site.vault_store(), |options| options.request_bytes_max(1 << 20));
    let foreign = elsewhere.client("agent", &[&gateway]);
    assert_eq!(
        foreign.head("volumes/disk/volume").expect_err("foreign").kind(),
        ErrorKind::Unavailable
    );
    // Whatever a client sends, the gateway continues.
    for bytes in [&b"GET /metrics HTTP/1.1\r\n\r\n"[..], &[0x16, 3, 1, 0xff, 0xff, 1, 2, 3], &[]] {
        let mut socket = TcpStream::connect(gateway.address()).expect("connect");
        socket.write_all(bytes).expect("write");
        socket.shutdown(std::net::Shutdown::Write).expect("shutdown");
        let _ = socket.read_to_end(&mut Vec::new());
    }
    let agent = site.client("agent", &[&gateway]);
    let error = agent.put("volumes/disk/big", &vec![0; (1 << 20) + 1]).expect_err("oversized");
    assert!(matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unavailable), "{error}");
    assert_eq!(agent.put("volumes/disk/small", b"x").expect("goes on"), PutOutcome::Created);
    let error = agent.put("volumes/disk/../../x", b"x").expect_err("a path that climbs");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

#[test]
fn acknowledged_segments_survive_an_outage_and_the_end_of_the_gateway() {
    let site = Site::new();
    let vault = Arc::new(FaultStore::new(site.vault_store()));
    let cached = |options: GatewayOptions| options.cache(site.path("cache"));
    let gateway = site.gateway(vault.clone(), cached);
    let agent = site.client("agent", &[&gateway]);
    vault.set_down(true);
    let segment = "volumes/disk/segments/one.hrl";
    assert_eq!(agent.put(segment, b"sealed").expect("cached"), PutOutcome::Created);
    assert_eq!(agent.put(segment, b"sealed").expect("again"), PutOutcome::AlreadyExists);
    assert_eq!(agent.get(segment, 1..4).expect("from the cache"), b"eal");
    assert_eq!(gateway.stats().cached_objects, 1);
    // Objects that name segments wait for them, and never go first.
    drop(gateway);
    assert!(!site.path("vault").join(segment).exists());
    vault.set_down(false);
    let gateway = site.gateway(vault, cached);
    let agent = site.client("agent", &[&gateway]);
    agent.put("volumes/disk/catalog/1", b"names it").expect("after the segments");
    assert!(site.path("vault").join(segment).exists(), "the segment went first");
    assert!(gateway.stop(LIMIT), "the cache is empty");
}

fn restored_equals(vault: &Vault, disk: &MemoryDevice) {
    let replica = vault.replica("disk").expect("replica");
    let view = replica.view(&At::Newest, &ViewOptions::default()).expect("view");
    let (mut left, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    for offset in (0..disk.size_bytes()).step_by(1 << 20) {
        view.read(offset, &mut left).expect("view");
        disk.read(offset, &mut right).expect("disk");
        assert!(left == right, "MiB at {offset} differs");
    }
    let report = replica.verify(&|_, _| true).expect("verify");
    assert!(report.is_sound(), "{report:?}");
}

fn write_some(volume: &dyn BlockDevice, seed: u64) {
    let mut random = seed;
    for _ in 0..200 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let offset = (random >> 33) % (volume.size_bytes() / 4096) * 4096;
        volume.write(offset, &[random as u8; 4096], Durability::Cached).expect("write");
    }
}

#[test]
fn promise_4_and_6_the_agent_uses_another_gateway_after_one_dies() {
    for cache in [false, true] {
        let site = Site::new();
        let store = site.vault_store();
        let main = Vault::create(store.clone(), None, SystemClock::shared()).expect("vault");
        let start = |name: &str| {
            site.gateway(store.clone(), |options| {
                if cache { options.cache(site.path(name)) } else { options }
            })
        };
        let (first, second) = (start("cache1"), start("cache2"));
        let remote = Arc::new(site.client("agent", &[&first, &second]));
        let vault = Vault::open(remote, None, SystemClock::shared()).expect("vault by gateway");
        let disk = Arc::new(MemoryDevice::new(8 << 20));
        let policy = Policy {
            segment_interval: Duration::from_millis(20),
            retry_interval_max: Duration::from_millis(200),
            crash_point_interval: Duration::ZERO,
            ..Policy::default()
        };
        let protection = ProtectionOptions::new("disk", disk.clone(), vault, site.path("state"))
            .policy(policy)
            .open()
            .expect("protect");
        protection.wait_replicated(LIMIT).expect("first copy");
        write_some(&**protection.volume(), 1);
        let point = protection.mark(PointKind::Crash, "before").expect("mark");
        protection.wait_replicated(LIMIT).expect("replicated");
        drop(first);
        write_some(&**protection.volume(), 2);
        protection.wait_replicated(LIMIT).expect("by the second");
        // The first gateway comes back with the content of its cache, and the second goes.
        let back = start("cache1");
        drop(second);
        write_some(&**protection.volume(), 3);
        let error = protection.wait_replicated(Duration::from_millis(500));
        assert!(error.is_err(), "no gateway at the known addresses");
        drop(back);
        protection.stop(Duration::from_millis(100)).expect("the rest stays in the spool");
        // Directly to the vault: the spool is shipped, nothing is read again.
        let protection =
            ProtectionOptions::new("disk", disk.clone(), main.clone(), site.path("state"))
                .open()
                .expect("protect again");
        protection.wait_replicated(LIMIT).expect("replicated");
        assert_eq!(protection.stats().resync_bytes_read, 0);
        protection.stop(LIMIT).expect("stop");
        restored_equals(&main, &disk);
        let replica = main.replica("disk").expect("replica");
        assert!(replica.points().iter().any(|known| known.id == point.id));
    }
}

#[test]
fn metrics_and_health_can_be_read_without_a_certificate() {
    let site = Site::new();
    let vault = site.vault_store();
    Vault::create(vault.clone(), None, SystemClock::shared()).expect("vault");
    let gateway = site.gateway(vault, |options| options.metrics("127.0.0.1:0"));
    let store = site.client("agent", &[&gateway]);
    assert_eq!(store.head("hrl-vault").expect("head").map(|o| o.length > 0), Some(true));
    let fetch = |target: &str| {
        let address = gateway.metrics_address().expect("metrics");
        let mut socket = TcpStream::connect(address).expect("connect");
        write!(socket, "GET {target} HTTP/1.1\r\n\r\n").expect("write");
        let mut text = String::new();
        socket.read_to_string(&mut text).expect("read");
        text
    };
    assert!(fetch("/healthz").contains("200 OK"));
    let metrics = fetch("/metrics");
    assert!(metrics.contains("hrl_gateway_requests_total 1\n"), "{metrics}");
    assert!(fetch("/secret").contains("404"));
    assert!(RemoteStore::open(&[], Path::new("x")).is_err());
}

#[test]
fn the_policy_decides_when_a_segment_is_acknowledged() {
    let site = Site::new();
    let options = GatewayOptions::new("127.0.0.1:0", site.path("pki"));
    let error = options.acknowledge(Acknowledge::Gateway).start(site.vault_store()).map(drop);
    let error = error.expect_err("from what cache?");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let vault = Arc::new(FaultStore::new(site.vault_store()));
    vault.set_down(true);
    let cached = |options: GatewayOptions| options.cache(site.path("cache"));
    let gateway = site.gateway(vault.clone(), cached);
    let agent = site.client("agent", &[&gateway]);
    agent.put("volumes/disk/segments/one.hrl", b"1").expect("durable in the cache");
    drop(gateway);
    // The cache takes no new segments, and forwards those it has.
    let through = |options: GatewayOptions| cached(options).acknowledge(Acknowledge::Vault);
    let gateway = site.gateway(vault.clone(), through);
    let agent = site.client("agent", &[&gateway]);
    let error = agent.put("volumes/disk/segments/two.hrl", b"2").expect_err("not in the vault");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(gateway.stats().cached_objects, 1);
    vault.set_down(false);
    agent.put("volumes/disk/segments/two.hrl", b"2").expect("through");
    assert!(site.path("vault/volumes/disk/segments/two.hrl").exists());
    assert!(gateway.stop(LIMIT), "the cache is drained");
    assert!(site.path("vault/volumes/disk/segments/one.hrl").exists());
    for name in ["gateway", "vault"] {
        Acknowledge::parse(name).expect(name);
    }
    assert!(Acknowledge::parse("never").is_err());
}

#[test]
fn a_client_deletes_many_objects_at_once_but_only_its_own() {
    let site = Site::new();
    site.enroll("stranger", &["theirs"]);
    let gateway = site.gateway(site.vault_store(), |options| options);
    let (agent, stranger) =
        (site.client("agent", &[&gateway]), site.client("stranger", &[&gateway]));
    let names: Vec<String> = (0..1500).map(|n| format!("volumes/disk/segments/{n}")).collect();
    for name in &names {
        std::fs::create_dir_all(site.path("vault/volumes/disk/segments")).expect("directory");
        std::fs::write(site.path("vault").join(name), b"x").expect("object");
    }
    let mixed = ["volumes/theirs/one".to_owned(), names[0].clone()];
    assert_eq!(stranger.delete_many(&mixed).expect_err("not its own").kind(), ErrorKind::Denied);
    assert_eq!(agent.list("volumes/disk/").expect("list").len(), names.len());
    let before = gateway.stats().requests;
    agent.delete_many(&names).expect("delete");
    assert_eq!(gateway.stats().requests, before + 2, "a thousand with each request");
    assert!(agent.list("volumes/disk/").expect("list").is_empty());
}

/// Found with a hundred volumes: segments in the cache of a dead gateway were published through the
/// other one.
#[test]
fn promise_4_a_version_goes_only_to_the_gateway_of_its_segments() {
    let site = Site::new();
    let vault = Arc::new(FaultStore::new(site.vault_store()));
    let start = |name: &str| site.gateway(vault.clone(), |options| options.cache(site.path(name)));
    let (first, second) = (start("cache1"), start("cache2"));
    let agent = site.client("agent", &[&first, &second]);
    let (segment, version) = ("volumes/disk/segments/one.hrl", "volumes/disk/catalog/1");
    vault.set_down(true);
    agent.put(segment, b"sealed").expect("in the cache of the first");
    drop(first);
    vault.set_down(false);
    // The version may have been put when the gateway died; from now on it must not be.
    for kind in [ErrorKind::Unavailable, ErrorKind::Changed] {
        let error = agent.put(version, b"names it").expect_err("the second does not have it");
        assert_eq!(error.kind(), kind, "{error}");
    }
    assert_eq!(vault.head(version).expect("head"), None);
    agent.put(segment, b"sealed").expect("again, to the second");
    agent.put(version, b"names it").expect("after it");
    assert!(vault.head(segment).expect("head").is_some());
    // The next version needs no segment, so any gateway can take it.
    agent.put("volumes/disk/catalog/2", b"a pin").expect("put");
    assert!(second.stop(LIMIT));
}

/// A gateway that comes back at its address with an empty disk lacks what it acknowledged.
#[test]
fn promise_4_a_version_is_refused_if_the_cache_was_lost() {
    let site = Site::new();
    let vault = Arc::new(FaultStore::new(site.vault_store()));
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").expect("bind").local_addr().expect("port");
    let start = || {
        let options = GatewayOptions::new(&port.to_string(), site.path("pki"));
        options.cache(site.path("cache")).start(vault.clone()).expect("gateway")
    };
    let first = start();
    let agent = site.client("agent", &[&first]);
    let (segment, version) = ("volumes/disk/segments/one.hrl", "volumes/disk/catalog/1");
    vault.set_down(true);
    agent.put(segment, b"sealed").expect("in its cache");
    drop(first);
    std::fs::remove_dir_all(site.path("cache")).expect("the disk is lost");
    vault.set_down(false);
    let second = start();
    let error = agent.put(version, b"names it").expect_err("it does not have the segment");
    assert_eq!(error.kind(), ErrorKind::Changed, "{error}");
    assert_eq!(vault.head(version).expect("head"), None);
    agent.put(segment, b"sealed").expect("again");
    agent.put(version, b"names it").expect("after it");
    assert!(vault.head(segment).expect("head").is_some());
    assert!(second.stop(LIMIT));
}

/// Once a pin came first and took the report of the lost cache from the shipper, which then
/// published lost segments.
#[test]
fn promise_4_a_lost_cache_is_reported_to_the_shipper_even_if_another_writer_comes_first() {
    let site = Site::new();
    let vault = Arc::new(FaultStore::new(site.vault_store()));
    let main = Vault::create(vault.clone(), None, SystemClock::shared()).expect("vault");
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").expect("bind").local_addr().expect("port");
    let start = || {
        let options = GatewayOptions::new(&port.to_string(), site.path("pki"));
        options.cache(site.path("cache")).start(vault.clone()).expect("gateway")
    };
    let first = start();
    let remote = Arc::new(site.client("agent", &[&first]));
    let shared = Vault::open(remote, None, SystemClock::shared()).expect("vault by gateway");
    let disk = Arc::new(MemoryDevice::new(8 << 20));
    let policy = Policy {
        segment_interval: Duration::from_millis(20),
        catalog_interval: Duration::from_secs(60),
        crash_point_interval: Duration::ZERO,
        ..Policy::default()
    };
    let protection =
        ProtectionOptions::new("disk", disk.clone(), shared.clone(), site.path("state"))
            .policy(policy)
            .open()
            .expect("protect");
    let point = {
        protection.wait_replicated(LIMIT).expect("first copy");
        let point = protection.mark(PointKind::Crash, "kept").expect("mark");
        protection.wait_replicated(LIMIT).expect("replicated");
        point
    };
    vault.set_down(true);
    write_some(&**protection.volume(), 1);
    ArrivesAfter::wait(|| first.stats().cached_objects > 0);
    assert!(first.stats().cached_objects > 0, "the gateway acknowledged segments");
    drop(first);
    std::fs::remove_dir_all(site.path("cache")).expect("the disk is lost");
    vault.set_down(false);
    let second = start();
    let mut replica = shared.replica("disk").expect("replica");
    replica.pin(&At::Point(point.id), PinUntil::Forever, "first").expect("pin");
    protection.wait_replicated(LIMIT).expect("put again");
    protection.stop(LIMIT).expect("stop");
    assert!(second.stop(LIMIT));
    restored_equals(&main, &disk);
}
