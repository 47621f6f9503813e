//! Cost of retention at the target: operations and bytes of the store for each I/O and byte of the
//! source. Uniform random 4 KiB writes, once the window is full.
//!
//! `cargo run --release -p hrl-benches --bin retention`
//!
//! Time is simulated: a segment of 256 writes every five minutes for two windows, retention every
//! hour. Only the second window counts. A store in memory without local files serves as an object
//! store.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hrl::journal::{Body, Mark, PointKind, Record, SegmentKind, SegmentParams, SegmentWriter};
use hrl::replica::{CompactOptions, Compactor};
use hrl::store::{ObjectInfo, PutOutcome, Store};
use hrl::sync::lock::{Mutex, MutexGuard};
use hrl::vault::{CatalogEdit, SegmentEntry, SourceIdentity, Vault};
use hrl::{
    ChainHash, Clock, Compression, Epoch, Error, ErrorKind, ManualClock, PointId, Result,
    RetentionPolicy, Sequence, Timestamp,
};
use hrl_benches::{BLOCK_BYTES, disk_like, random};

const POLICY: &str = "2h all; 24h hourly; 7d daily; grace 1h";
const WINDOW_DAYS: u64 = 7;
const SEGMENT_WRITES: u64 = 256;
const SEGMENT_SECONDS: u64 = 300;
/// Blocks of source data that writes choose from.
const POOL_BLOCKS: usize = 16 << 10;

#[derive(Default)]
struct Counted {
    objects: Mutex<BTreeMap<String, Vec<u8>>>,
    /// Counts by verb and kind of object.
    operations: Mutex<BTreeMap<String, u64>>,
    bytes_written: AtomicU64,
    bytes_read: AtomicU64,
}

impl Counted {
    fn objects(&self, verb: &str, name: &str) -> MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        let kind = name.split('/').nth(2).unwrap_or(name);
        let mut operations = self.operations.lock();
        *operations.entry(format!("{verb} {kind}")).or_default() += 1;
        self.objects.lock()
    }

    fn counts(&self) -> [u64; 3] {
        let operations = self.operations().values().sum();
        let [written, read] =
            [&self.bytes_written, &self.bytes_read].map(|count| count.load(Ordering::Relaxed));
        [operations, written, read]
    }

    fn operations(&self) -> BTreeMap<String, u64> {
        self.operations.lock().clone()
    }
}

impl Store for Counted {
    fn name(&self) -> String {
        "memory".into()
    }

    fn put(&self, name: &str, content: &[u8]) -> Result<PutOutcome> {
        match self.objects("put", name).entry(name.to_owned()) {
            Entry::Occupied(_) => Ok(PutOutcome::AlreadyExists),
            Entry::Vacant(free) => {
                self.bytes_written.fetch_add(content.len() as u64, Ordering::Relaxed);
                free.insert(content.to_vec());
                Ok(PutOutcome::Created)
            }
        }
    }

    fn get(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>> {
        self.bytes_read.fetch_add(range.end - range.start, Ordering::Relaxed);
        let objects = self.objects("get", name);
        let content =
            objects.get(name).ok_or_else(|| Error::new(ErrorKind::NotFound, "get", name))?;
        Ok(content[range.start as usize..range.end as usize].to_vec())
    }

    fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        let objects = self.objects("list", prefix);
        let found =
            objects.range(prefix.to_owned()..).take_while(|(name, _)| name.starts_with(prefix));
        Ok(found
            .map(|(name, content)| ObjectInfo { name: name.clone(), length: content.len() as u64 })
            .collect())
    }

    fn head(&self, name: &str) -> Result<Option<ObjectInfo>> {
        let objects = self.objects("head", name);
        let info =
            |content: &Vec<u8>| ObjectInfo { name: name.into(), length: content.len() as u64 };
        Ok(objects.get(name).map(info))
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.objects("delete", name).remove(name);
        Ok(())
    }
}

fn main() {
    println!(
        "| volume | data | churn a day | operations for each I/O | bytes written for each byte | bytes read | segments at the end | stored |\n|---|---|---|---|---|---|---|---|"
    );
    for mib in [256, 1024] {
        for (name, pool) in [
            ("compresses 2 : 1", disk_like(POOL_BLOCKS, 1)),
            ("does not compress", random(POOL_BLOCKS, 2)),
        ] {
            measure(mib << 20, name, &pool);
        }
    }
}

fn measure(device_bytes: u64, name: &str, pool: &[u8]) {
    let store = Arc::new(Counted::default());
    let clock = Arc::new(ManualClock::new(Timestamp(1_800_000_000_000_000_000), 42));
    let vault = Vault::create(store.clone(), None, clock.clone()).expect("vault");
    let info = vault.create_volume("disk", device_bytes, 512, false).expect("volume");
    let source = SourceIdentity { id: [1; 16], host: "source".into(), since: clock.now() };
    let mut catalog = vault.replica("disk").expect("replica").into_catalog();
    catalog.append(&source, vec![CatalogEdit::Source(source.clone())]).expect("take");
    let policy: RetentionPolicy = POLICY.parse().expect("policy");
    let mut replica = vault.replica("disk").expect("replica");
    let mut compactor = Compactor::default();
    let mut params = SegmentParams {
        kind: SegmentKind::Log,
        volume: info.id,
        epoch: Epoch(1),
        first_sequence: Sequence(1),
        device_bytes,
        block_bytes: 512,
        previous: ChainHash::default(),
        replaces_through: None,
        created: clock.now(),
        compression: Compression::Zstd(1),
        frame_bytes: 512 << 10,
    };
    let segments_a_day = 86_400 / SEGMENT_SECONDS;
    let mut before = [0; 3];
    let mut by_verb = BTreeMap::new();
    let mut sequence = 0;
    for number in 0..2 * WINDOW_DAYS * segments_a_day {
        if number == WINDOW_DAYS * segments_a_day {
            before = store.counts();
            by_verb = store.operations();
        }
        clock.advance(Duration::from_secs(SEGMENT_SECONDS));
        params.first_sequence = Sequence(sequence + 1);
        params.created = clock.now();
        let mut writer =
            SegmentWriter::create(Vec::new(), params.clone(), None, &*clock).expect("create");
        let mut append = |body: Body<'_>| {
            sequence += 1;
            let record = Record { sequence: Sequence(sequence), time: clock.now(), body };
            writer.append(&record).expect("append");
        };
        for _ in 0..SEGMENT_WRITES {
            let offset = below(&clock, device_bytes / BLOCK_BYTES as u64) * BLOCK_BYTES as u64;
            let from = below(&clock, POOL_BLOCKS as u64) as usize * BLOCK_BYTES;
            append(Body::Write { offset, data: &pool[from..from + BLOCK_BYTES] });
        }
        let mut id = [0; 16];
        clock.fill_random(&mut id);
        let (point, kind) = (PointId(id), PointKind::Crash);
        append(Body::Mark(Mark { point, kind, label: String::new(), group: None }));
        let (bytes, summary) = writer.close(None).expect("close");
        params.previous = summary.chain;
        let object = format!("volumes/disk/segments/{}", summary.object_name());
        store.put(&object, &bytes).expect("put");
        let edits = vec![CatalogEdit::Segments(vec![SegmentEntry { object, summary }])];
        catalog.append(&source, edits).expect("append");
        if number % 12 == 11 {
            compactor
                .run(&mut replica, &policy, &CompactOptions::default(), &|_, _| true)
                .expect("compact");
        }
    }
    let writes = (WINDOW_DAYS * segments_a_day * SEGMENT_WRITES) as f64;
    let [operations, written, read] = [0, 1, 2].map(|at| (store.counts()[at] - before[at]) as f64);
    let stored: u64 = catalog.segments().iter().map(|e| e.summary.stored_bytes).sum();
    println!(
        "| {} MiB | {name} | {:.0} % | {:.4} | {:.2} | {:.2} | {} | {} MiB |",
        device_bytes >> 20,
        100.0 * (segments_a_day * SEGMENT_WRITES * BLOCK_BYTES as u64) as f64 / device_bytes as f64,
        operations / writes,
        written / writes / BLOCK_BYTES as f64,
        read / writes / BLOCK_BYTES as f64,
        replica.catalog().segments().len(),
        stored >> 20,
    );
    let segments = (WINDOW_DAYS * segments_a_day) as f64;
    let each: Vec<_> = store
        .operations()
        .into_iter()
        .map(|(verb, count)| (count - by_verb.get(&verb).unwrap_or(&0), verb))
        .filter(|(count, _)| *count > 0)
        .map(|(count, verb)| format!("{verb} {:.2}", count as f64 / segments))
        .collect();
    println!("  operations for each segment: {}", each.join(", "));
}

fn below(clock: &ManualClock, limit: u64) -> u64 {
    let mut random = [0; 8];
    clock.fill_random(&mut random);
    u64::from_le_bytes(random) % limit
}
