//! RPO under a sustained load through a gateway, requests saved by packing, and the cost of a write
//! by the size of its volume.
//!
//! ```text
//! cargo run --release -p hrl-benches --features gateway --bin rpo -- DIRECTORY VAULT_URL [SECONDS] [WRITES_PER_SECOND]
//! ```
//! `VAULT_URL` is a store behind the gateway, emptied by nobody afterwards. Agent and gateway are
//! one process here; the store is asked over the network.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hrl::device::{BlockDevice, Durability, FileDevice, FileDeviceOptions, MemoryDevice};
use hrl::store::{DirStore, ObjectInfo, PutOutcome, Store};
use hrl::vault::Vault;
use hrl::{Clock, Policy, Protection, ProtectionOptions, Result, SystemClock};
use hrl_gateway::{GatewayOptions, RemoteStore};
use hrl_stores::open_url;
use hrl_tls::{create_authority, enroll_client};

const LIMIT: Duration = Duration::from_secs(600);
const GIB: u64 = 1 << 30;
const DISK_BYTES: u64 = GIB / 4;
/// Writes of a case that compares sizes.
const SIZED_WRITES: u64 = 20_000;

/// Counts the requests to a store, and the bytes.
struct Counted {
    inner: Arc<dyn Store>,
    requests: AtomicU64,
    bytes: AtomicU64,
}

impl Counted {
    fn over(inner: Arc<dyn Store>) -> Arc<Self> {
        Arc::new(Self { inner, requests: AtomicU64::new(0), bytes: AtomicU64::new(0) })
    }

    fn count(&self, bytes: usize) -> &dyn Store {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        &*self.inner
    }

    fn now(&self) -> (u64, u64) {
        (self.requests.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }
}

impl Store for Counted {
    fn name(&self) -> String {
        self.inner.name()
    }
    fn put(&self, name: &str, content: &[u8]) -> Result<PutOutcome> {
        self.count(content.len()).put(name, content)
    }
    fn get(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>> {
        self.count((range.end - range.start) as usize).get(name, range)
    }
    fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        self.count(0).list(prefix)
    }
    fn head(&self, name: &str) -> Result<Option<ObjectInfo>> {
        self.count(0).head(name)
    }
    fn delete(&self, name: &str) -> Result<()> {
        self.count(0).delete(name)
    }
    fn delete_many(&self, names: &[String]) -> Result<()> {
        self.count(0).delete_many(names)
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [root, url, rest @ ..] = &arguments[..] else {
        panic!("rpo DIRECTORY VAULT_URL [SECONDS] [WRITES_PER_SECOND]")
    };
    let number =
        |at: usize, default| rest.get(at).map_or(default, |text| text.parse().expect("number"));
    let (seconds, rate) = (number(0, 60), number(1, 1000));
    let root = Path::new(root);
    let _ = std::fs::remove_dir_all(root);
    std::fs::create_dir_all(root).expect("directory");
    println!(
        "| catalog interval | writes/s | RPO p50 | p99 | max | segments | requests to the store | per segment | per write |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for interval_s in [0, 5] {
        sustained(root, url, Duration::from_secs(seconds), rate, interval_s);
    }
    println!(
        "\n| volume | requests per 1,000 writes | bytes per byte written | processor µs per write |"
    );
    println!("|---|---|---|---|");
    for size in [GIB, 64 * GIB, 1024 * GIB] {
        sized(root, size);
    }
}

fn sustained(root: &Path, url: &str, time: Duration, rate: u64, interval_s: u64) {
    let root = root.join(format!("interval{interval_s}"));
    std::fs::create_dir_all(&root).expect("directory");
    let mut random = [0; 4];
    SystemClock::default().fill_random(&mut random);
    let volume = format!("rpo-{interval_s}-{:08x}", u32::from_le_bytes(random));
    create_authority(&root.join("pki"), &["127.0.0.1".into()]).expect("authority");
    enroll_client(&root.join("pki"), "agent", std::slice::from_ref(&volume), &root.join("agent"))
        .expect("enroll");
    let store = Counted::over(open_url(url).expect("store"));
    Vault::create(store.clone(), None, SystemClock::shared()).expect("vault");
    let gateway = GatewayOptions::new("127.0.0.1:0", root.join("pki"))
        .cache(root.join("cache"))
        .start(store.clone())
        .expect("gateway");
    let remote = RemoteStore::open(&[gateway.address().to_string()], &root.join("agent"));
    let vault = Vault::open(Arc::new(remote.expect("client")), None, SystemClock::shared());
    let device = Arc::new(MemoryDevice::new(DISK_BYTES));
    let policy = Policy { catalog_interval: Duration::from_secs(interval_s), ..Policy::default() };
    let protection =
        ProtectionOptions::new(&volume, device, vault.expect("vault"), root.join("state"))
            .policy(policy)
            .open()
            .expect("protect");
    protection.wait_replicated(LIMIT).expect("first copy");
    let (before, segments) = (store.now().0, gateway.stats().forwarded_objects);
    let (samples, writes) = load(&protection, time, rate);
    let requests = store.now().0 - before;
    let segments = gateway.stats().forwarded_objects - segments;
    let at = |share: f64| samples[(((samples.len() - 1) as f64) * share) as usize];
    println!(
        "| {interval_s} s | {} | {:.2?} | {:.2?} | {:.2?} | {segments} | {requests} | {:.2} | {:.5} |",
        writes / time.as_secs().max(1),
        at(0.5),
        at(0.99),
        at(1.0),
        requests as f64 / segments.max(1) as f64,
        requests as f64 / writes as f64
    );
    protection.stop(LIMIT).expect("stop");
}

/// Writes at a rate. Returns the RPO, sampled every 10 ms and sorted, and the number of writes.
fn load(protection: &Protection, time: Duration, rate: u64) -> (Vec<Duration>, u64) {
    let ended = AtomicBool::new(false);
    let blocks = hrl_benches::disk_like(256, 3);
    std::thread::scope(|scope| {
        let sampler = scope.spawn(|| {
            let mut samples = Vec::new();
            while !ended.load(Ordering::Relaxed) {
                samples.push(protection.stats().rpo);
                std::thread::sleep(Duration::from_millis(10));
            }
            samples.sort();
            samples
        });
        let clock = SystemClock::default();
        let mut writes = 0;
        while clock.elapsed() < time {
            let due = clock.elapsed().as_millis() as u64 * rate / 1000;
            while writes < due {
                write(protection, &blocks, writes);
                writes += 1;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        ended.store(true, Ordering::Relaxed);
        (sampler.join().expect("sampler"), writes)
    })
}

fn write(protection: &Protection, blocks: &[u8], number: u64) {
    let block = &blocks[(number % 256) as usize * 4096..][..4096];
    let offset = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % (DISK_BYTES / 4096) * 4096;
    protection.volume().write(offset, block, Durability::Cached).expect("write");
}

/// Makes the same writes to volumes of different sizes, directly to a store.
fn sized(root: &Path, size: u64) {
    let root = root.join(format!("size{}", size >> 30));
    std::fs::create_dir_all(&root).expect("directory");
    let store = Counted::over(Arc::new(DirStore::create(&root.join("vault")).expect("store")));
    let vault = Vault::create(store.clone(), None, SystemClock::shared()).expect("vault");
    let options = FileDeviceOptions { create_bytes: Some(size), ..Default::default() };
    let disk = FileDevice::open(&root.join("disk"), &options).expect("disk");
    let disk: Arc<dyn BlockDevice> = Arc::new(disk);
    let protection =
        ProtectionOptions::new("disk", disk, vault, root.join("state")).open().expect("protect");
    protection.wait_replicated(LIMIT).expect("first copy");
    let blocks = hrl_benches::disk_like(256, 3);
    let ((requests, bytes), processor) = (store.now(), processor_ticks());
    let clock = SystemClock::default();
    for number in 0..SIZED_WRITES {
        write(&protection, &blocks, number);
        // A steady rate, so that each size sees as many segments.
        let due = Duration::from_micros(number * 500);
        std::thread::sleep(due.saturating_sub(clock.elapsed()));
    }
    protection.wait_replicated(LIMIT).expect("replicated");
    let (requests, bytes) = (store.now().0 - requests, store.now().1 - bytes);
    let processor = (processor_ticks() - processor) * 10_000;
    println!(
        "| {} GiB | {:.2} | {:.2} | {:.1} |",
        size >> 30,
        requests as f64 * 1000.0 / SIZED_WRITES as f64,
        bytes as f64 / (SIZED_WRITES * 4096) as f64,
        processor as f64 / SIZED_WRITES as f64
    );
    protection.stop(LIMIT).expect("stop");
    let _ = std::fs::remove_dir_all(root);
}

/// Returns processor time of this process, in hundredths of a second.
fn processor_ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("stat");
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    fields[11].parse::<u64>().expect("utime") + fields[12].parse::<u64>().expect("stime")
}
