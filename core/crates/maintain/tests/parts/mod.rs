//! A protected volume whose vault keeps what is deleted, and attackers of it.

#![allow(dead_code, reason = "each test file uses some of it")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hrl::device::{BlockDevice, Durability, MemoryDevice};
use hrl::journal::{PointKind, WrappingKey};
use hrl::replica::{At, CompactOptions, ViewOptions};
use hrl::store::{DirStore, Store};
use hrl::vault::Vault;
use hrl::{
    Clock, ManualClock, PointId, Policy, Protection, ProtectionOptions, RetentionPolicy,
    SystemClock, Timestamp,
};
use hrl_maintain::{DelayedStore, UndeleteOptions, Undeleted, set_delay, undelete};

pub const LIMIT: Duration = Duration::from_secs(60);
pub const DAY: Duration = Duration::from_secs(86_400);
pub const DELAY: Duration = Duration::from_secs(14 * 86_400);
pub const DISK_BYTES: u64 = 1 << 20;

pub struct Site {
    pub directory: tempfile::TempDir,
    pub device: Arc<MemoryDevice>,
    /// The store below, as whoever has the credentials of the vault sees it.
    pub raw: Arc<dyn Store>,
    pub key: Option<WrappingKey>,
}

impl Site {
    pub fn new(encrypted: bool) -> Self {
        let directory = tempfile::tempdir().expect("directory");
        let raw: Arc<dyn Store> =
            Arc::new(DirStore::create(&directory.path().join("vault")).expect("store"));
        let key = encrypted.then(|| WrappingKey::from_bytes([7; 32]));
        let device = Arc::new(MemoryDevice::new(DISK_BYTES));
        let site = Self { directory, device, raw, key };
        Vault::create(site.raw.clone(), None, SystemClock::shared()).expect("vault");
        set_delay(&*site.raw, DELAY).expect("delay");
        site
    }

    pub fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// The store as clients of a gateway with a deletion delay see it.
    pub fn delayed(&self, clock: Arc<dyn Clock>) -> Arc<DelayedStore> {
        DelayedStore::over(self.raw.clone(), clock, "tester")
    }

    pub fn vault(&self) -> Vault {
        self.vault_at(SystemClock::shared())
    }

    pub fn vault_at(&self, clock: Arc<dyn Clock>) -> Vault {
        Vault::awaited(self.delayed(clock.clone()), self.key.clone(), clock)
    }

    pub fn protect(&self) -> Protection {
        let policy = Policy {
            segment_interval: Duration::from_millis(5),
            crash_point_interval: Duration::ZERO,
            retry_interval_max: Duration::from_millis(50),
            retention: None,
            ..Policy::default()
        };
        let protection =
            ProtectionOptions::new("disk", self.device.clone(), self.vault(), self.state())
                .policy(policy)
                .open()
                .expect("protect");
        protection.wait_replicated(LIMIT).expect("replicated");
        protection
    }

    /// Writes generations `of`, with a point after each, and ships them.
    pub fn write(&self, of: std::ops::Range<u8>) {
        let protection = self.protect();
        for generation in of {
            for block in 0..8_u64 {
                let bytes = [generation ^ block as u8; 4096];
                protection
                    .volume()
                    .write(block * 65536, &bytes, Durability::Cached)
                    .expect("write");
            }
            let label = format!("g{generation}");
            protection.mark(PointKind::Crash, &label).expect("mark");
            protection.wait_replicated(LIMIT).expect("shipped");
        }
        protection.stop(LIMIT).expect("stop");
    }

    /// Returns the content of the volume at each point.
    pub fn points(&self) -> hrl::Result<BTreeMap<PointId, Vec<u8>>> {
        let replica = self.vault().replica("disk")?;
        let mut found = BTreeMap::new();
        for point in replica.points() {
            let view = replica.view(&At::Point(point.id), &ViewOptions::default())?;
            let mut bytes = vec![0; DISK_BYTES as usize];
            view.read(0, &mut bytes)?;
            found.insert(point.id, bytes);
        }
        Ok(found)
    }

    pub fn undelete(&self, since: Timestamp, dry_run: bool) -> Vec<Undeleted> {
        let options = UndeleteOptions { dry_run, ..UndeleteOptions::new(since) };
        let clock = SystemClock::shared();
        undelete(&self.raw, self.key.as_ref(), &clock, &options).expect("undelete")
    }

    /// Retention by somebody whose clock is 400 days ahead and who believes it: pins expire,
    /// everything folds, and what was replaced is deleted.
    pub fn fold_with_a_far_clock(&self) {
        let clock = Arc::new(ManualClock::new(far(&*SystemClock::shared()), 3));
        let vault = self.vault_at(clock.clone());
        let policy: RetentionPolicy = "1s all; grace 1s".parse().expect("policy");
        let scratch = Some(self.directory.path().join("scratch"));
        let options =
            CompactOptions { fold_all: true, accept_clock: true, scratch, ..Default::default() };
        for _ in 0..3 {
            let mut replica = vault.replica("disk").expect("replica");
            replica.compact(&policy, &options, &|_, _| true).expect("compact");
            clock.advance(Duration::from_secs(3600));
        }
    }
}

pub fn now() -> Timestamp {
    // Later than everything before, and earlier than everything after.
    std::thread::sleep(Duration::from_millis(3));
    let now = SystemClock::shared().now();
    std::thread::sleep(Duration::from_millis(3));
    now
}

pub fn far(clock: &dyn Clock) -> Timestamp {
    Timestamp(clock.now().0 + 400 * DAY.as_nanos() as i64)
}

/// Returns all objects of a store with their bytes, tombstones and the audit log aside.
pub fn objects(store: &dyn Store) -> BTreeMap<String, Vec<u8>> {
    let listed = store.list("").expect("list");
    let aside = ["deleted/", "audit/"];
    let kept = listed.into_iter().filter(|info| !aside.iter().any(|at| info.name.starts_with(at)));
    kept.map(|info| {
        let bytes = store.get(&info.name, 0..info.length).expect("get");
        (info.name, bytes)
    })
    .collect()
}
