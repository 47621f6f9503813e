//! Capacity plans against measurements: real protections on a slow link, and days of retention in
//! simulated time.
//!
//! The tolerances are those of `benches/RESULTS.md`. Everything is printed: `-- --nocapture`.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hrl::device::{BlockDevice, Durability, MemoryDevice};
use hrl::journal::{Body, Mark, PointKind, Record, SegmentKind, SegmentParams, SegmentWriter};
use hrl::replica::{CompactOptions, Compactor};
use hrl::store::{DirStore, ObjectInfo, PutOutcome, Store};
use hrl::vault::{CatalogEdit, SegmentEntry, SourceIdentity, Vault};
use hrl::{
    ChainHash, Clock, Compression, Epoch, Error, ErrorKind, ManualClock, PointId, Policy,
    Protection, ProtectionOptions, Sequence, SystemClock, Timestamp,
};
use hrl_planner::{Plan, PlanOptions, plan_capacity};

const LIMIT: Duration = Duration::from_secs(60);
const BLOCK: usize = 4096;

/// A small generator, so that a seed gives the same run everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    fn block(&mut self) -> Vec<u8> {
        (0..BLOCK / 8).flat_map(|_| self.below(u64::MAX).to_le_bytes()).collect()
    }
}

/// Objects in memory, so that days of retention do not wait for a disk.
#[derive(Default)]
struct Memory(Mutex<BTreeMap<String, Vec<u8>>>);

impl Store for Memory {
    fn name(&self) -> String {
        "memory".into()
    }
    fn put(&self, name: &str, content: &[u8]) -> hrl::Result<PutOutcome> {
        let mut objects = self.0.lock().expect("lock");
        if objects.contains_key(name) {
            return Ok(PutOutcome::AlreadyExists);
        }
        objects.insert(name.into(), content.into());
        Ok(PutOutcome::Created)
    }
    fn get(&self, name: &str, range: Range<u64>) -> hrl::Result<Vec<u8>> {
        let objects = self.0.lock().expect("lock");
        let bytes = objects.get(name).and_then(|o| o.get(range.start as usize..range.end as usize));
        bytes.map(Vec::from).ok_or_else(|| Error::new(ErrorKind::NotFound, "get", name))
    }
    fn list(&self, prefix: &str) -> hrl::Result<Vec<ObjectInfo>> {
        let objects = self.0.lock().expect("lock");
        let from =
            objects.range(prefix.to_owned()..).take_while(|(name, _)| name.starts_with(prefix));
        let info = |(name, content): (&String, &Vec<u8>)| ObjectInfo {
            name: name.clone(),
            length: content.len() as u64,
        };
        Ok(from.map(info).collect())
    }
    fn head(&self, name: &str) -> hrl::Result<Option<ObjectInfo>> {
        let objects = self.0.lock().expect("lock");
        let info =
            |content: &Vec<u8>| ObjectInfo { name: name.into(), length: content.len() as u64 };
        Ok(objects.get(name).map(info))
    }
    fn delete(&self, name: &str) -> hrl::Result<()> {
        self.0.lock().expect("lock").remove(name);
        Ok(())
    }
}

/// Counts requests by verb; a put takes its time on a link.
struct Slow {
    inner: Arc<dyn Store>,
    counts: Mutex<BTreeMap<&'static str, u64>>,
    bytes_per_second: AtomicU64,
    link: Mutex<()>,
    latency: Duration,
}

impl Slow {
    fn new(inner: Arc<dyn Store>, latency: Duration) -> Self {
        let (counts, bytes_per_second, link) = Default::default();
        Self { inner, counts, bytes_per_second, link, latency }
    }

    fn count(&self, verb: &'static str) {
        *self.counts.lock().expect("lock").entry(verb).or_default() += 1;
    }

    fn take_counts(&self) -> BTreeMap<&'static str, u64> {
        std::mem::take(&mut self.counts.lock().expect("lock"))
    }

    /// Puts go one after the other, as on a link of this speed.
    fn carry(&self, bytes: usize) {
        let rate = self.bytes_per_second.load(Ordering::Relaxed);
        if rate > 0 {
            let _link = self.link.lock().expect("lock");
            std::thread::sleep(Duration::from_secs_f64(bytes as f64 / rate as f64));
        }
        std::thread::sleep(self.latency);
    }
}

impl Store for Slow {
    fn name(&self) -> String {
        self.inner.name()
    }
    fn put(&self, name: &str, content: &[u8]) -> hrl::Result<PutOutcome> {
        self.count("put");
        self.carry(content.len());
        self.inner.put(name, content)
    }
    fn get(&self, name: &str, range: Range<u64>) -> hrl::Result<Vec<u8>> {
        self.count("get");
        self.inner.get(name, range)
    }
    fn list(&self, prefix: &str) -> hrl::Result<Vec<ObjectInfo>> {
        self.count("list");
        self.inner.list(prefix)
    }
    fn head(&self, name: &str) -> hrl::Result<Option<ObjectInfo>> {
        self.count("head");
        self.inner.head(name)
    }
    fn delete(&self, name: &str) -> hrl::Result<()> {
        self.count("delete");
        self.inner.delete(name)
    }
}

/// Returns whether `planned` is within `percent` of `measured`, or nearer than `slack`.
fn is_near(what: &str, planned: f64, measured: f64, percent: f64, slack: f64) -> bool {
    let off = (planned - measured) / measured * 100.0;
    println!("{what:>24}: planned {planned:>12.2}, measured {measured:>12.2}, {off:+.1} %");
    (planned - measured).abs() <= (measured * percent / 100.0).max(slack)
}

/// Fails unless `planned` is within `percent` of `measured`, or nearer than `slack`.
fn near(what: &str, planned: f64, measured: f64, percent: f64, slack: f64) {
    let near = is_near(what, planned, measured, percent, slack);
    assert!(near, "{what}: {planned} planned, {measured} measured");
}

struct Measured {
    /// Seconds, sampled every few milliseconds.
    rpo: Vec<f64>,
    spool_max: u64,
    puts: u64,
    from: Timestamp,
    written: u64,
}

impl Measured {
    fn quantile(&self, percent: f64) -> f64 {
        let mut rpo = self.rpo.clone();
        rpo.sort_by(f64::total_cmp);
        #[allow(clippy::cast_sign_loss, reason = "a rank")]
        let rank = (percent / 100.0 * rpo.len() as f64) as usize;
        rpo[rank.min(rpo.len() - 1)]
    }
}

/// Protects a volume, writes in two bursts with a pause between, and measures until all is in the
/// vault.
fn measure(vault: &Vault, store: &Slow, state: &Path, policy: &Policy, rate: u64) -> Measured {
    let device = Arc::new(MemoryDevice::new(32 << 20));
    let protection = ProtectionOptions::new("disk", device, vault.clone(), state)
        .policy(policy.clone())
        .open()
        .expect("protect");
    protection.wait_ordered(LIMIT).expect("ordered");
    protection.wait_replicated(LIMIT).expect("replicated");
    // The throttle has its full credit, as in the plan.
    std::thread::sleep(Duration::from_millis(1100));
    store.take_counts();
    store.bytes_per_second.store(rate, Ordering::Relaxed);
    let clock = SystemClock::shared();
    let (from, start) = (clock.now(), clock.elapsed());
    let mut measured = Measured { rpo: Vec::new(), spool_max: 0, puts: 0, from, written: 0 };
    let mut random = Random(7);
    let mut sample = |protection: &Protection| {
        let stats = protection.stats();
        measured.rpo.push(stats.rpo.as_secs_f64());
        measured.spool_max = measured.spool_max.max(stats.spool_bytes);
        stats.replicated_sequence == stats.last_sequence
    };
    let mut written = 0;
    loop {
        let at = clock.elapsed().saturating_sub(start).as_secs_f64();
        if at > 4.5 {
            break;
        }
        // 800 KB per second for a second and a half, then nothing, then again.
        let due = at.min(1.5) + (at - 3.0).clamp(0.0, 1.0);
        while (written as f64) < due * 800e3 {
            let offset = random.below(32 << 8) * BLOCK as u64;
            protection.volume().write(offset, &random.block(), Durability::Cached).expect("write");
            written += BLOCK as u64;
        }
        sample(&protection);
        std::thread::sleep(Duration::from_millis(4));
    }
    while !sample(&protection) {
        std::thread::sleep(Duration::from_millis(4));
    }
    measured.puts = store.take_counts()["put"];
    measured.written = written;
    protection.stop(LIMIT).expect("stop");
    measured
}

/// Returns whether times and spool were as planned. Counts of bytes and requests must be.
fn is_as_planned(plan: &Plan, measured: &Measured) -> bool {
    let volume = &plan.volumes[0];
    assert_eq!(volume.written_bytes, measured.written);
    let repetitions = 86_400.0 / (plan.to.nanos_since(plan.from) as f64 / 1e9);
    let puts = volume.days[0].requests.put / repetitions;
    near("puts", puts, measured.puts as f64, 15.0, 3.0);
    let slack = 2.0 * volume.shipped_bytes as f64 / volume.segments as f64;
    [
        ("RPO max, s", volume.rpo_max.as_secs_f64(), measured.quantile(100.0), 10.0, 0.4),
        ("RPO p99, s", volume.rpo_p99.as_secs_f64(), measured.quantile(99.0), 10.0, 0.4),
        ("RPO median, s", volume.rpo_median.as_secs_f64(), measured.quantile(50.0), 15.0, 0.4),
        ("spool max, B", volume.spool_bytes_max as f64, measured.spool_max as f64, 10.0, slack),
    ]
    .into_iter()
    .all(|(what, planned, measured, percent, slack)| {
        is_near(what, planned, measured, percent, slack)
    })
}

/// A vault, its store and a state directory.
fn rig(directory: &Path, latency: Duration) -> (Vault, Arc<Slow>) {
    let inner = DirStore::create(&directory.join("vault")).expect("store");
    let store = Arc::new(Slow::new(Arc::new(inner), latency));
    let vault = Vault::create(store.clone(), None, SystemClock::shared()).expect("vault");
    (vault, store)
}

fn policy() -> Policy {
    Policy {
        segment_interval: Duration::from_millis(200),
        crash_point_interval: Duration::ZERO,
        retention: None,
        ..Policy::default()
    }
}

#[test]
fn rpo_spool_and_puts_of_slow_links_and_throttles_are_as_planned() {
    let run = |link: Option<u64>, throttle: &str| {
        let directory = tempfile::tempdir().expect("directory");
        let latency = Duration::from_millis(10);
        let (vault, store) = rig(directory.path(), latency);
        let policy = Policy { bandwidth: throttle.parse().expect("schedule"), ..policy() };
        let state = directory.path().join("state");
        let measured = measure(&vault, &store, &state, &policy, link.unwrap_or(0));
        let options = PlanOptions {
            policy,
            link_bytes_per_second: link,
            request_latency: latency,
            from: Some(measured.from),
            days: Some(1),
            ..PlanOptions::default()
        };
        let replicas = [vault.replica("disk").expect("replica")];
        let plan = plan_capacity(&replicas, &options, &|_, _| true).expect("plan");
        (plan, measured)
    };
    // A machine that is busy with something else is slower than any plan, so a run may be repeated.
    let near = (0..3).any(|_| {
        let (link, throttle) = std::thread::scope(|scope| {
            let link = scope.spawn(|| run(Some(400_000), ""));
            let throttle = scope.spawn(|| run(None, "400K"));
            (link.join().expect("link"), throttle.join().expect("throttle"))
        });
        assert_eq!(throttle.0.link_use, None);
        assert!(link.0.link_use.expect("a link") > 0.5);
        println!("a link of 400 kB/s");
        let near = is_as_planned(&link.0, &link.1);
        println!("a throttle of 400 KiB/s");
        is_as_planned(&throttle.0, &throttle.1) && near
    });
    assert!(near, "three runs were not as planned");
}

/// A volume whose source writes on a manual clock, with retention every hour.
struct Days {
    clock: Arc<ManualClock>,
    store: Arc<Slow>,
    vault: Vault,
    source: SourceIdentity,
    chain: ChainHash,
    sequence: u64,
    random: Random,
}

const VOLUME_BLOCKS: u64 = 8192;
/// Segments of a day, and writes of each.
const SEGMENTS: u64 = 288;
const WRITES: u64 = 48;

impl Days {
    fn new() -> Self {
        // A Monday.
        let start = Timestamp::parse("2026-11-16T00:00:00Z").expect("time");
        let clock = Arc::new(ManualClock::new(start, 7));
        let store = Arc::new(Slow::new(Arc::new(Memory::default()), Duration::ZERO));
        let vault = Vault::create(store.clone(), None, clock.clone()).expect("vault");
        vault.create_volume("disk", VOLUME_BLOCKS * BLOCK as u64, 512, false).expect("volume");
        let source = SourceIdentity { id: [1; 16], host: "alpha".into(), since: start };
        let mut catalog = vault.replica("disk").expect("replica").into_catalog();
        catalog.append(&source, vec![CatalogEdit::Source(source.clone())]).expect("take");
        let (chain, sequence, random) = (ChainHash::default(), 0, Random(3));
        Self { clock, store, vault, source, chain, sequence, random }
    }

    /// Puts a segment: half of the writes go to a twentieth of the volume, the others anywhere in
    /// half of it.
    fn segment(&mut self) {
        let mut catalog = self.vault.replica("disk").expect("replica").into_catalog();
        let info = self.vault.volume("disk").expect("volume");
        let params = SegmentParams {
            kind: SegmentKind::Log,
            volume: info.id,
            epoch: Epoch(1),
            first_sequence: Sequence(self.sequence + 1),
            device_bytes: info.device_bytes,
            block_bytes: 512,
            previous: self.chain,
            replaces_through: None,
            created: self.clock.now(),
            compression: Compression::Zstd(1),
            frame_bytes: 64 << 10,
        };
        let mut writer =
            SegmentWriter::create(Vec::new(), params, None, &*self.clock).expect("begin");
        let mut append = |body: Body<'_>| {
            self.sequence += 1;
            let (sequence, time) = (Sequence(self.sequence), self.clock.now());
            writer.append(&Record { sequence, time, body }).expect("append");
        };
        for write in 0..WRITES {
            let range = VOLUME_BLOCKS / if write % 2 == 0 { 20 } else { 2 };
            let offset = self.random.below(range) * BLOCK as u64;
            append(Body::Write { offset, data: &self.random.block() });
        }
        let mut id = [0; 16];
        self.clock.fill_random(&mut id);
        let kind = PointKind::Crash;
        append(Body::Mark(Mark { point: PointId(id), kind, label: String::new(), group: None }));
        let (bytes, summary) = writer.close(None).expect("close");
        let object = format!("volumes/disk/segments/{}", summary.object_name());
        self.chain = summary.chain;
        self.store.put(&object, &bytes).expect("put");
        let edits = vec![CatalogEdit::Segments(vec![SegmentEntry { object, summary }])];
        catalog.append(&self.source, edits).expect("append");
    }

    fn day(&mut self, mut hourly: impl FnMut(&Self)) {
        for at in 0..SEGMENTS {
            self.clock.advance(Duration::from_secs(86_400 / SEGMENTS));
            self.segment();
            if (at + 1) % (SEGMENTS / 24) == 0 {
                hourly(self);
            }
        }
    }

    fn vault_bytes(&self) -> u64 {
        self.store.list("").expect("list").iter().map(|info| info.length).sum()
    }
}

#[test]
fn a_vault_over_days_of_retention_is_as_planned() {
    let directory = tempfile::tempdir().expect("directory");
    let policy = Policy {
        retention: Some("2h all; 24h hourly; 3d daily; grace 1h".parse().expect("policy")),
        retention_interval: Duration::from_secs(3600),
        ..Policy::default()
    };
    // The plan is made from a day without retention.
    let mut sample = Days::new();
    sample.day(|_| {});
    let replicas = [sample.vault.replica("disk").expect("replica")];
    let options = PlanOptions { policy: policy.clone(), ..PlanOptions::default() };
    let plan = plan_capacity(&replicas, &options, &|_, _| true).expect("plan");
    assert_eq!(plan.days.len(), 5, "the window and two days more");
    assert!(plan.volumes[0].rpo_max < Duration::from_secs(2) && plan.is_sustainable);

    let mut real = Days::new();
    let retention = policy.retention.as_ref().expect("set above");
    let mut compactor = Compactor::default();
    let scratch = Some(directory.path().join("scratch"));
    let options = CompactOptions { scratch, ..CompactOptions::default() };
    let mut sums: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
    // A new vault tests whether its store keeps put-if-absent.
    real.store.take_counts();
    for (number, day) in plan.days.iter().enumerate() {
        println!("day {}", number + 1);
        let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
        real.day(|days| {
            // This test opens the catalog for each segment, which a source does not. A source lists
            // once after each version, and each segment has one version here.
            let shipped = days.store.take_counts();
            *counts.entry("list").or_default() += SEGMENTS / 24;
            *counts.entry("put").or_default() += shipped["put"];
            *counts.entry("delete").or_default() += shipped.get("delete").copied().unwrap_or(0);
            let mut replica = days.vault.replica("disk").expect("replica");
            let report = compactor.run(&mut replica, retention, &options, &|_, _| true);
            assert!(report.expect("compact").findings.is_empty());
            days.store.take_counts().into_iter().for_each(|(verb, count)| {
                *counts.entry(verb).or_default() += count;
            });
        });
        let requests = day.requests;
        for (what, planned, measured, percent) in [
            ("put", requests.put, counts["put"], 5.0),
            ("get", requests.get, counts["get"], 20.0),
            ("list", requests.list, counts["list"], 40.0),
            ("head", requests.head, counts["head"], 40.0),
            // A few blocks decide whether a fold pays, so it may come a day sooner or later.
            ("delete", requests.delete, counts["delete"], 60.0),
            ("vault, B", day.vault_bytes as f64, real.vault_bytes(), 35.0),
        ] {
            near(what, planned, measured as f64, percent, 5.0);
            let sum = sums.entry(what).or_default();
            *sum = (sum.0 + planned, sum.1 + measured as f64);
        }
    }
    println!("all days");
    for (what, (planned, measured)) in sums {
        near(what, planned, measured, 20.0, 0.0);
    }
    assert_eq!(plan.steady_bytes, plan.days.last().map(|day| day.vault_bytes));
}

#[test]
fn the_least_bandwidth_keeps_the_target_and_a_smaller_one_does_not() {
    let mut sample = Days::new();
    sample.day(|_| {});
    let replicas = [sample.vault.replica("disk").expect("replica")];
    let plan = |link: Option<u64>, policy: Policy| {
        let rpo_target = Some(Duration::from_secs(60));
        let options = PlanOptions {
            policy,
            link_bytes_per_second: link,
            days: Some(1),
            rpo_target,
            ..PlanOptions::default()
        };
        plan_capacity(&replicas, &options, &|_, _| true).expect("plan")
    };
    let least = plan(None, Policy::default()).least_bytes_per_second.expect("a link does");
    let p99 = |rate: u64| plan(Some(rate), Policy::default()).volumes[0].rpo_p99;
    assert!(p99(least) <= Duration::from_secs(60), "{least}");
    assert!(p99(least * 97 / 100) > Duration::from_secs(60), "{least}");
    // No link helps if each request takes a minute, and half of a link cannot carry the writes.
    let slow = PlanOptions {
        request_latency: Duration::from_secs(60),
        rpo_target: Some(Duration::from_secs(60)),
        ..PlanOptions::default()
    };
    let slow = plan_capacity(&replicas, &slow, &|_, _| true).expect("plan");
    assert_eq!(slow.least_bytes_per_second, None);
    assert!(!plan(Some(333), Policy::default()).is_sustainable);
    let small = Policy { spool_bytes_max: 1 << 20, ..Policy::default() };
    let full = plan(Some(333), small);
    assert!(full.volumes[0].spool_full_at.expect("full") > full.from);
}

#[test]
fn what_cannot_be_planned_is_refused_with_a_reason() {
    let mut days = Days::new();
    let plan = |days: &Days, options: &PlanOptions| {
        let replicas = [days.vault.replica("disk").expect("replica")];
        plan_capacity(&replicas, options, &|_, _| true).expect_err("refused").kind()
    };
    assert_eq!(plan(&days, &PlanOptions::default()), ErrorKind::NotFound);
    days.segment();
    for options in [
        PlanOptions { days: Some(0), ..PlanOptions::default() },
        PlanOptions { link_bytes_per_second: Some(1), ..PlanOptions::default() },
        PlanOptions { request_latency: LIMIT * 2, ..PlanOptions::default() },
        PlanOptions {
            policy: Policy { region_bytes: 3, ..Policy::default() },
            ..PlanOptions::default()
        },
    ] {
        assert_eq!(plan(&days, &options), ErrorKind::InvalidInput);
    }
    let none = plan_capacity(&[], &PlanOptions::default(), &|_, _| true).expect_err("no volumes");
    assert_eq!(none.kind(), ErrorKind::InvalidInput);
    let replicas = [days.vault.replica("disk").expect("replica")];
    let cancelled = plan_capacity(&replicas, &PlanOptions::default(), &|_, _| false);
    assert_eq!(cancelled.expect_err("cancelled").kind(), ErrorKind::Unavailable);
}
