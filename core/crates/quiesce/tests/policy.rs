//! Protections whose policy names applications.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use hrl::device::{BlockDevice, Discarded, Durability, MemoryDevice, Unmap};
use hrl::failover::{FailoverOptions, Follower};
use hrl::journal::PointKind;
use hrl::store::DirStore;
use hrl::vault::Vault;
use hrl::{ErrorKind, Event, Extent, Policy, ProtectionOptions, Result, SystemClock, no_events};
use hrl_quiesce::{Applications, set_watchdog};

const LIMIT: Duration = Duration::from_secs(60);

fn vault(directory: &tempfile::TempDir) -> Vault {
    let store = DirStore::create(&directory.path().join("vault")).expect("store");
    Vault::create(Arc::new(store), None, SystemClock::shared()).expect("vault")
}

/// A disk whose flush hangs on request.
struct Hanging {
    disk: MemoryDevice,
    hang: Mutex<Duration>,
}

impl BlockDevice for Hanging {
    fn name(&self) -> String {
        "hanging disk".to_owned()
    }
    fn size_bytes(&self) -> u64 {
        self.disk.size_bytes()
    }
    fn block_bytes(&self) -> u32 {
        self.disk.block_bytes()
    }
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.disk.read(offset, buffer)
    }
    fn write(&self, offset: u64, data: &[u8], durability: Durability) -> Result<()> {
        self.disk.write(offset, data, durability)
    }
    fn zero(&self, extent: Extent, unmap: Unmap, durability: Durability) -> Result<()> {
        self.disk.zero(extent, unmap, durability)
    }
    fn discard(&self, extent: Extent) -> Result<Discarded> {
        self.disk.discard(extent)
    }
    fn flush(&self) -> Result<()> {
        std::thread::sleep(*self.hang.lock().expect("no panic"));
        self.disk.flush()
    }
}

#[test]
fn promise_8_applications_resume_while_the_disk_hangs() {
    set_watchdog([env!("CARGO_BIN_EXE_hrl-watchdog")]);
    let directory = tempfile::tempdir().expect("directory");
    let log = directory.path().join("log");
    let device =
        Arc::new(Hanging { disk: MemoryDevice::new(4 << 20), hang: Mutex::new(Duration::ZERO) });
    let spec = format!("script:?pre=date +%25s%25N >{0}&post=date +%25s%25N >>{0}", log.display());
    let policy = Policy {
        quiesce: vec![spec],
        quiesce_limit: Duration::from_secs(1),
        crash_point_interval: Duration::ZERO,
        ..Policy::default()
    };
    let applications = Applications::of_policy(&policy).expect("valid").expect("one");
    let vault = vault(&directory);
    let events = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&events);
    let protection = ProtectionOptions::new(
        "disk",
        device.clone(),
        vault.clone(),
        directory.path().join("state"),
    )
    .policy(policy)
    .applications(applications)
    .events(Arc::new(move |event: &Event| {
        told.lock().expect("no panic").push(event.kind.name());
    }))
    .open()
    .expect("protect");
    protection.wait_ordered(LIMIT).expect("ordered");
    let points = || -> Vec<_> {
        protection.wait_replicated(LIMIT).expect("replicated");
        let points = vault.replica("disk").expect("replica").points();
        points.into_iter().map(|point| (point.kind, point.label)).collect()
    };
    *device.hang.lock().expect("no panic") = Duration::from_secs(3);
    protection.mark_app("never").expect_err("the flush came too late");
    *device.hang.lock().expect("no panic") = Duration::ZERO;
    let text = std::fs::read_to_string(&log).expect("log");
    let times: Vec<u64> = text.lines().map(|line| line.parse().expect("nanoseconds")).collect();
    let quiesced = Duration::from_nanos(times[1] - times[0]);
    assert!(quiesced < Duration::from_secs(2), "{quiesced:?}");
    assert!(events.lock().expect("no panic").contains(&"point-skipped"));
    assert_eq!(points(), []);
    protection.mark_app("now").expect("it flushes again");
    assert_eq!(points(), [(PointKind::App, "now".to_owned())]);
    protection.stop(LIMIT).expect("stop");
}

#[test]
fn a_policy_without_applications_needs_no_provider() {
    assert!(Applications::of_policy(&Policy::default()).expect("valid").is_none());
    let unknown = Policy { quiesce: vec!["vss:C".to_owned()], ..Policy::default() };
    let error = Applications::of_policy(&unknown).err().expect("no such kind");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

#[test]
fn failover_and_failback_quiesce_what_the_policy_names() {
    let directory = tempfile::tempdir().expect("directory");
    set_watchdog([env!("CARGO_BIN_EXE_hrl-watchdog")]);
    let log = directory.path().join("log");
    let spec = format!("script:?pre=echo pre >>{0}&post=echo post >>{0}", log.display());
    let policy = Policy { quiesce: vec![spec], ..Policy::default() };
    let provider = || Applications::of_policy(&policy).expect("valid").expect("one");
    let (here, there) = (directory.path().join("here"), directory.path().join("there"));
    let disk = || Arc::new(MemoryDevice::new(1 << 20));
    let (vault, first, second) = (vault(&directory), disk(), disk());
    let protect = ProtectionOptions::new("disk", first.clone(), vault.clone(), &here);
    let protection = protect.open().expect("protect");
    protection.volume().write(0, &[1; 512], Durability::Cached).expect("write");
    protection.wait_replicated(LIMIT).expect("replicated");
    protection.stop(LIMIT).expect("stop");

    let over = || {
        let options = FailoverOptions::new("disk", vault.clone(), &there, second.clone());
        options.at(hrl::replica::At::Newest).policy(policy.clone())
    };
    let refused = over().start().err().expect("no provider");
    assert_eq!((refused.kind(), refused.object()), (ErrorKind::InvalidInput, "quiesce"));
    assert!(!there.exists(), "it is refused before anything is done");
    let over = over().applications(provider()).start().expect("failed over");
    over.protection().wait_ordered(LIMIT).expect("ordered");
    over.protection().mark_app("there").expect("marked");
    over.commit().expect("commit");
    over.stop(LIMIT).expect("stop");

    let follow = || {
        Follower::open("disk", vault.clone(), &here, first.clone(), SystemClock::shared())
            .expect("follows")
    };
    let back = follow().fail_back(None, policy.clone(), no_events(), &|_, _| true);
    let refused = back.err().expect("no provider");
    assert_eq!((refused.kind(), refused.object()), (ErrorKind::InvalidInput, "quiesce"));
    let follower = follow().applications(provider());
    let back = follower.fail_back(None, policy.clone(), no_events(), &|_, _| true);
    let (protection, _) = back.expect("home");
    protection.wait_ordered(LIMIT).expect("ordered");
    protection.mark_app("here").expect("marked");
    protection.stop(LIMIT).expect("stop");
    assert_eq!(std::fs::read_to_string(&log).expect("log"), "pre\npost\npre\npost\n");
}
