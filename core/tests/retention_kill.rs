//! Promise 5 against SIGKILL: a compacting process is killed at random instants, again and again,
//! while a source appends.
//!
//! After each kill every point that the catalog offers must be unchanged, and what the policy keeps
//! must be offered. In the end the next runs have removed whatever the kills left.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use hrl::device::BlockDevice;
use hrl::journal::{Body, Mark, PointKind, Record, SegmentKind, SegmentParams, SegmentWriter};
use hrl::replica::{At, CompactOptions, Replica, ViewOptions};
use hrl::store::{DirStore, Store};
use hrl::vault::{Catalog, CatalogEdit, SegmentEntry, SourceIdentity, Vault};
use hrl::{
    ChainHash, Clock, Compression, Epoch, PointId, RetentionPolicy, Sequence, SystemClock,
    Timestamp,
};

const DISK_BYTES: u64 = 1 << 20;
const CHILD: &str = "HRL_TEST_RETENTION_CHILD";
const POLICY: &str = "1h all; 1d every 20m; 9d every 3h; grace 1s";
const DAY_SECONDS: i64 = 86_400;

fn vault(directory: &Path) -> (Arc<DirStore>, Vault) {
    let store = Arc::new(DirStore::create(&directory.join("vault")).expect("store"));
    let vault = Vault::create(store.clone(), None, SystemClock::shared()).expect("vault");
    (store, vault)
}

fn compact(replica: &mut Replica, directory: &Path) {
    let policy: RetentionPolicy = POLICY.parse().expect("policy");
    let scratch = Some(directory.join("scratch"));
    let options =
        CompactOptions { fold_all: true, scratch, accept_clock: true, ..CompactOptions::default() };
    replica.compact(&policy, &options, &|_, _| true).expect("compact");
}

/// The child process, until it is killed.
#[test]
fn child_compactor() {
    let Ok(directory) = std::env::var(CHILD) else { return };
    let (_, vault) = vault(directory.as_ref());
    println!("compacting");
    loop {
        compact(&mut vault.replica("disk").expect("replica"), directory.as_ref());
    }
}

/// A source whose writes lie in the past.
struct Source {
    store: Arc<DirStore>,
    catalog: Catalog,
    identity: SourceIdentity,
    params: SegmentParams,
    clock: SystemClock,
    sequence: u64,
    time: i64,
    model: Vec<u8>,
    points: HashMap<PointId, [u8; 32]>,
}

impl Source {
    fn new(store: Arc<DirStore>, vault: &Vault) -> Self {
        let info = vault.create_volume("disk", DISK_BYTES, 512, false).expect("volume");
        let clock = SystemClock::default();
        let identity = SourceIdentity { id: [1; 16], host: "alpha".into(), since: clock.now() };
        let mut catalog = vault.replica("disk").expect("replica").into_catalog();
        catalog.append(&identity, vec![CatalogEdit::Source(identity.clone())]).expect("take");
        let params = SegmentParams {
            kind: SegmentKind::Log,
            volume: info.id,
            epoch: Epoch(1),
            first_sequence: Sequence(1),
            device_bytes: DISK_BYTES,
            block_bytes: 512,
            previous: ChainHash::default(),
            replaces_through: None,
            created: clock.now(),
            compression: Compression::None,
            frame_bytes: 64 << 10,
        };
        Self {
            store,
            catalog,
            identity,
            params,
            time: clock.now().0 - 10 * DAY_SECONDS * 1_000_000_000,
            clock,
            sequence: 0,
            model: vec![0; DISK_BYTES as usize],
            points: HashMap::new(),
        }
    }

    /// Ships a segment of two writes and a point, five minutes after the last.
    fn segment(&mut self) {
        self.time += 300 * 1_000_000_000;
        self.params.first_sequence = Sequence(self.sequence + 1);
        let mut writer = SegmentWriter::create(Vec::new(), self.params.clone(), None, &self.clock)
            .expect("create");
        let mut random = [0; 32];
        self.clock.fill_random(&mut random);
        let time = Timestamp(self.time);
        for write in 0..2 {
            let offset = u64::from(random[write]) * 4096;
            let data = [random[write + 2]; 4096];
            self.model[offset as usize..][..4096].copy_from_slice(&data);
            self.sequence += 1;
            let body = Body::Write { offset, data: &data };
            writer
                .append(&Record { sequence: Sequence(self.sequence), time, body })
                .expect("write");
        }
        let point = PointId(random[16..].try_into().expect("16 bytes"));
        let mark = Mark { point, kind: PointKind::Crash, label: String::new(), group: None };
        self.sequence += 1;
        let body = Body::Mark(mark);
        writer.append(&Record { sequence: Sequence(self.sequence), time, body }).expect("mark");
        self.points.insert(point, *blake3::hash(&self.model).as_bytes());
        let (bytes, summary) = writer.close(None).expect("close");
        self.params.previous = summary.chain;
        let object = format!("volumes/disk/segments/{}", summary.object_name());
        self.store.put(&object, &bytes).expect("put");
        let edits = vec![CatalogEdit::Segments(vec![SegmentEntry { object, summary }])];
        self.catalog.append(&self.identity, edits).expect("append");
    }

    fn check(&self, replica: &Replica, kill: u64) -> usize {
        let points = replica.points();
        let mut found = vec![0; DISK_BYTES as usize];
        for point in &points {
            let view = replica.view(&At::Point(point.id), &ViewOptions::default()).expect("view");
            view.read(0, &mut found).expect("read");
            let same = *blake3::hash(&found).as_bytes() == self.points[&point.id];
            assert!(same, "kill {kill}: point {} changed", point.id);
        }
        let plan = replica.retention_plan(&POLICY.parse().expect("policy"));
        for kept in plan.kept.iter().filter_map(|kept| kept.point) {
            assert!(points.iter().any(|point| point.id == kept), "kill {kill}: {kept} is gone");
        }
        points.len()
    }
}

fn sweep(kills: u64) {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("directory");
    let root = directory.path();
    let (store, vault) = vault(root);
    let mut source = Source::new(store, &vault);
    let mut offered = 0;
    for kill in 0..kills {
        for _ in 0..10 {
            source.segment();
        }
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "child_compactor", "--nocapture"])
            .env(CHILD, root)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("child");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        assert!(output.lines().any(|line| line.expect("line").contains("compacting")));
        let mut random = [0; 4];
        source.clock.fill_random(&mut random);
        // Meanwhile the source continues.
        source.segment();
        std::thread::sleep(Duration::from_micros(u64::from(u32::from_le_bytes(random)) % 150_000));
        child.kill().expect("kill");
        child.wait().expect("wait");
        offered = source.check(&vault.replica("disk").expect("replica"), kill);
    }
    let mut replica = vault.replica("disk").expect("replica");
    // What a kill left is retired, and deleted after the grace period.
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(1100));
        compact(&mut replica, root);
    }
    source.check(&replica, kills);
    let report = replica.verify(&|_, _| true).expect("verify");
    assert!(report.is_sound() && report.strays.is_empty(), "{report:?}");
    assert!(replica.catalog().retired().is_empty());
    let marked = source.points.len();
    assert!(offered < marked, "{offered} of {marked} points are left");
    println!("{kills} kills, {offered} of {marked} points left");
}

#[test]
fn promise_5_holds_through_15_kills_of_a_compaction() {
    sweep(15);
}

#[test]
#[ignore = "long: 200 kills"]
fn promise_5_holds_through_200_kills_of_a_compaction() {
    sweep(200);
}
