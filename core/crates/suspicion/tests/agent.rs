//! An agent whose disk is encrypted: the event, the verdicts, the pin, trust, and what a restart
//! remembers.

use std::sync::Arc;
use std::time::Duration;

use hrl::device::{BlockDevice, Durability, MemoryDevice};
use hrl::journal::PointKind;
use hrl::replica::{At, RecoveryPoint};
use hrl::store::DirStore;
use hrl::sync::lock::Mutex;
use hrl::vault::{Vault, VerdictKind};
use hrl::{Clock, EventKind, EventSink, Policy, Protection, ProtectionOptions, SystemClock};
use hrl_suspicion::{Suspicion, trust};

const MIB: u64 = 1 << 20;
const MINUTE: Duration = Duration::from_secs(60);

struct Site {
    directory: tempfile::TempDir,
    vault: Vault,
    disk: Arc<MemoryDevice>,
    kinds: Arc<Mutex<Vec<EventKind>>>,
}

impl Site {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("directory");
        let store = DirStore::create(&directory.path().join("vault")).expect("store");
        let vault = Vault::create(Arc::new(store), None, SystemClock::shared()).expect("vault");
        let disk = Arc::new(MemoryDevice::new(64 * MIB));
        Self { directory, vault, disk, kinds: Arc::default() }
    }

    fn state(&self) -> std::path::PathBuf {
        self.directory.path().join("state")
    }

    fn protect(&self) -> (Protection, Arc<Suspicion>) {
        let state = self.state();
        let suspicion = Suspicion::begin("disk", self.vault.clone(), &state, self.events());
        let options = ProtectionOptions::new("disk", self.disk.clone(), self.vault.clone(), state);
        let policy = Policy {
            segment_interval: Duration::from_millis(50),
            crash_point_interval: Duration::ZERO,
            ..Policy::default()
        };
        let options = options.policy(policy).inspector(suspicion.clone());
        let protection = options.open().expect("protect");
        protection.wait_ordered(MINUTE).expect("ordered");
        (protection, suspicion)
    }

    fn events(&self) -> EventSink {
        let kinds = self.kinds.clone();
        Arc::new(move |event| kinds.lock().push(event.kind.clone()))
    }

    fn points(&self) -> Vec<RecoveryPoint> {
        self.vault.replica("disk").expect("replica").points()
    }

    fn point(&self, label: &str) -> RecoveryPoint {
        self.points().into_iter().find(|point| point.label == label).expect(label)
    }

    /// Waits until the point has the verdict, or has none.
    fn until_judged(&self, label: &str, ok: Option<bool>) {
        for _ in 0..600 {
            if verdict(&self.point(label)) == ok {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("{label} has {:?}, not {ok:?}", verdict(&self.point(label)));
    }
}

fn verdict(point: &RecoveryPoint) -> Option<bool> {
    let found = point.verdicts.iter().find(|verdict| verdict.kind == VerdictKind::Suspicious);
    found.map(|verdict| verdict.ok)
}

fn write(protection: &Protection, bytes: u64, content: impl Fn(u64) -> Vec<u8>) {
    for at in 0..bytes / MIB {
        protection.volume().write(at * MIB, &content(at), Durability::Cached).expect("write");
    }
}

fn text(at: u64) -> Vec<u8> {
    (0..MIB).map(|byte| b'0' + ((byte * byte + at) / 97 % 60) as u8).collect()
}

fn random(_: u64) -> Vec<u8> {
    let mut content = vec![0; MIB as usize];
    SystemClock::default().fill_random(&mut content);
    content
}

fn mark(protection: &Protection, label: &str) {
    protection.mark(PointKind::Crash, label).expect(label);
    protection.wait_replicated(MINUTE).expect(label);
}

#[test]
fn promise_5_newest_good_goes_before_the_points_of_an_encrypted_disk() {
    let site = Site::new();
    let (protection, suspicion) = site.protect();
    write(&protection, 48 * MIB, text);
    mark(&protection, "good");
    write(&protection, 48 * MIB, random);
    mark(&protection, "encrypted");
    mark(&protection, "later");
    site.until_judged("later", Some(false));
    site.until_judged("encrypted", Some(false));
    assert_eq!(verdict(&site.point("good")), None);
    let kinds = site.kinds.lock().clone();
    let alarms = kinds.iter().filter(|kind| **kind == EventKind::SuspiciousChange).count();
    assert_eq!(alarms, 1, "{kinds:?}");
    let replica = site.vault.replica("disk").expect("replica");
    assert_eq!(replica.newest_good().expect("good").0.label, "good");
    // Retention keeps the last good point.
    assert_eq!(site.point("good").pins.len(), 1);
    let since = suspicion.since().expect("suspicious");
    assert!(since > site.point("good").sequence && since < site.point("encrypted").sequence);
    drop(suspicion);
    protection.stop(MINUTE).expect("stop");
    // A restart goes on where it was.
    let (protection, suspicion) = site.protect();
    assert_eq!(suspicion.since(), Some(since));
    mark(&protection, "restarted");
    site.until_judged("restarted", Some(false));
    // Trust ends it, from any machine.
    let mut replica = site.vault.replica("disk").expect("replica");
    assert_eq!(trust(&mut replica, "we encrypted it").expect("trust").len(), 3);
    assert_eq!(trust(&mut replica, "").expect("nothing is left").len(), 0);
    assert_eq!(site.point("good").pins.len(), 0);
    mark(&protection, "trusted");
    let end = 600;
    for round in 0..=end {
        if suspicion.since().is_none() {
            break;
        }
        assert!(round < end, "trust is not seen");
        std::thread::sleep(Duration::from_millis(50));
    }
    mark(&protection, "after");
    drop(suspicion);
    protection.stop(MINUTE).expect("stop");
    assert_eq!(verdict(&site.point("after")), None);
    let newest = site.vault.replica("disk").expect("replica").resolve(&At::NewestGood);
    assert!(newest.expect("good") >= site.point("encrypted").sequence);
}

#[test]
fn a_state_directory_that_is_lost_learns_the_change_from_the_vault() {
    let site = Site::new();
    let (protection, suspicion) = site.protect();
    write(&protection, 48 * MIB, text);
    mark(&protection, "good");
    write(&protection, 48 * MIB, random);
    mark(&protection, "encrypted");
    site.until_judged("encrypted", Some(false));
    drop(suspicion);
    protection.stop(MINUTE).expect("stop");
    std::fs::remove_file(site.state().join("suspicion")).expect("the file of what was learned");
    let (protection, suspicion) = site.protect();
    mark(&protection, "next");
    site.until_judged("next", Some(false));
    drop(suspicion);
    protection.stop(MINUTE).expect("stop");
}

#[test]
fn a_first_copy_of_an_encrypted_disk_is_no_change() {
    let site = Site::new();
    for at in 0..64 {
        site.disk.write(at * MIB, &random(at), Durability::Cached).expect("write");
    }
    let (protection, suspicion) = site.protect();
    write(&protection, 48 * MIB, random);
    mark(&protection, "usual");
    assert_eq!(suspicion.since(), None);
    drop(suspicion);
    protection.stop(MINUTE).expect("stop");
    assert!(!site.kinds.lock().contains(&EventKind::SuspiciousChange));
}
