//! Retention: folds, deletion of what they replaced, and strays, while points come and go.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hrl::device::Files;
use hrl::replica::CompactOptions;
use hrl::store::{DirStore, ObjectInfo, PutOutcome, Store};
use hrl::vault::Vault;
use hrl::{RetentionPolicy, Thinning};

use crate::image::Image;
use crate::life::{self, Author, History, Known};
use crate::machine::{Machine, VAULT};
use crate::sweep::Recording;

const HOUR: Duration = Duration::from_secs(3600);
const GRACE: Duration = Duration::from_secs(60);

/// The vault. It also takes folded segments from real files: scratch files are no part of what a
/// crash leaves.
struct WithScratch {
    inner: DirStore,
    files: Arc<dyn Files>,
}

impl Store for WithScratch {
    fn name(&self) -> String {
        self.inner.name()
    }
    fn put(&self, name: &str, content: &[u8]) -> hrl::Result<PutOutcome> {
        self.inner.put(name, content)
    }
    fn put_file(&self, name: &str, path: &Path) -> hrl::Result<PutOutcome> {
        if self.files.exists(path) {
            return self.inner.put_file(name, path);
        }
        self.put(name, &std::fs::read(path).expect("the scratch file is there"))
    }
    fn get(&self, name: &str, range: Range<u64>) -> hrl::Result<Vec<u8>> {
        self.inner.get(name, range)
    }
    fn list(&self, prefix: &str) -> hrl::Result<Vec<ObjectInfo>> {
        self.inner.list(prefix)
    }
    fn head(&self, name: &str) -> hrl::Result<Option<ObjectInfo>> {
        self.inner.head(name)
    }
    fn delete(&self, name: &str) -> hrl::Result<()> {
        self.inner.delete(name)
    }
}

fn policy() -> RetentionPolicy {
    RetentionPolicy {
        full: HOUR,
        thinning: vec![Thinning { age: 1000 * HOUR, interval: 4 * HOUR }],
        bytes_max: None,
        grace: GRACE,
    }
}

fn compact(machine: &Machine) {
    let inner = DirStore::open_in(machine.files.clone(), Path::new(VAULT)).expect("vault");
    let store = WithScratch { inner, files: machine.files.clone() };
    let vault = Vault::open(Arc::new(store), machine.setup.key.clone(), machine.clock());
    let mut replica = vault.and_then(|vault| vault.replica("disk")).expect("replica");
    let directory = tempfile::tempdir().expect("directory");
    let scratch = Some(directory.path().to_owned());
    let options = CompactOptions { fold_all: true, scratch, ..CompactOptions::default() };
    let report = replica.compact(&policy(), &options, &|_, _| true).expect("compact");
    assert!(report.findings.is_empty(), "promise 5: {:?}", report.findings);
}

/// Points of two days, folded in between.
pub fn write_folds(name: &str) -> (Recording<Known>, History) {
    let mut author = Author::new(life::setup(false));
    let disk = author.machine.disk.content();
    let mut agent = author.start();
    author.settle(&mut agent);
    for round in 0..12 {
        author.write(&mut agent, round % 6, 3 * round % 20, 6);
        author.mark(&agent);
        author.settle(&mut agent);
        author.wait(HOUR);
        if round % 4 == 3 {
            author.does(compact);
            author.wait(2 * GRACE);
            author.does(compact);
        }
    }
    // The result of the last fold is known to be kept.
    let replica = author.machine.replica().expect("replica");
    let kept: BTreeSet<_> = replica.points().iter().map(|point| point.id).collect();
    assert!(kept.len() < 12, "something was folded");
    author.keep_points(|point| kept.contains(&point));
    author.recorded(name, disk)
}

/// Checks what the power failure left: kept points are intact before and after retention continues,
/// and in the end nothing else is left.
pub fn check(image: &Image, known: &Known, history: &History) {
    let machine = Machine::found(image, life::setup(false), known.time);
    life::look_into_vault(&machine, known, history);
    if machine.replica().is_ok() {
        for _ in 0..3 {
            compact(&machine);
            machine.world.clock.advance(2 * GRACE);
        }
        life::look_into_vault(&machine, known, history);
        let replica = machine.replica().expect("replica");
        let named: BTreeSet<_> =
            replica.catalog().segments().iter().map(|entry| entry.object.clone()).collect();
        let last = replica.catalog().last_sequence();
        let there = machine.store().list("volumes/disk/segments/").expect("list");
        for object in there.iter().filter(|info| !named.contains(&info.name)) {
            // A log that may still come is never taken for a stray.
            let first = object.name.split('-').nth(1).expect("a segment's name");
            let first = u64::from_str_radix(first, 16).expect("a sequence");
            assert!(first > last.0, "promise 12: {} is left for ever", object.name);
        }
    }
    life::check_agent(&machine, image, known, history);
}
