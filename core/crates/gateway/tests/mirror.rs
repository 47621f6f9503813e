//! A vault that follows another. It is a sound vault at any time, even if the mirror or the source
//! dies at any call.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hrl::device::{BlockDevice, Durability, MemoryDevice};
use hrl::failover::FailoverOptions;
use hrl::journal::{PointKind, WrappingKey};
use hrl::replica::{At, CompactOptions, ViewOptions};
use hrl::store::{DirStore, FaultStore, Store};
use hrl::testing::content;
use hrl::vault::Vault;
use hrl::{ErrorKind, Policy, Protection, ProtectionOptions, RetentionPolicy, SystemClock};
use hrl_gateway::{Mirror, MirrorOptions, MirroredVolume};

const LIMIT: Duration = Duration::from_secs(60);
const DISK_BYTES: u64 = 2 << 20;

struct Sites {
    directory: tempfile::TempDir,
    device: Arc<MemoryDevice>,
    source: Arc<FaultStore>,
    target: Arc<FaultStore>,
}

impl Sites {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("directory");
        let store = |name: &str| {
            let inner = DirStore::create(&directory.path().join(name)).expect("store");
            Arc::new(FaultStore::new(Arc::new(inner)))
        };
        let (source, target) = (store("a"), store("b"));
        let device = Arc::new(MemoryDevice::new(DISK_BYTES));
        Self { directory, device, source, target }
    }

    fn protect(&self, key: Option<WrappingKey>) -> Protection {
        let policy = Policy {
            segment_interval: Duration::from_millis(10),
            crash_point_interval: Duration::ZERO,
            retry_interval_max: Duration::from_millis(50),
            retention: None,
            ..Policy::default()
        };
        let state = self.directory.path().join("state");
        let protection =
            ProtectionOptions::new("disk", self.device.clone(), vault(&self.source, key), state)
                .policy(policy)
                .open()
                .expect("protect");
        protection.wait_replicated(LIMIT).expect("first copy");
        protection
    }

    fn mirror(&self) -> Mirror {
        let (from, to) = (vault(&self.source, None), vault(&self.target, None));
        Mirror::new(from, to, MirrorOptions::default(), SystemClock::shared())
    }
}

fn vault(store: &Arc<FaultStore>, key: Option<WrappingKey>) -> Vault {
    Vault::create(store.clone(), key, SystemClock::shared()).expect("vault")
}

fn run(mirror: &mut Mirror) -> MirroredVolume {
    let mut report = mirror.run(&|| true).expect("run");
    assert_eq!(report.len(), 1);
    report.remove(0)
}

fn write(protection: &Protection, tag: u64) {
    for block in 0..8 {
        let data = vec![(tag * 8 + block) as u8 | 1; 4096];
        let offset = (tag * 37 + block * 11) % 512 * 4096;
        protection.volume().write(offset, &data, Durability::Cached).expect("write");
    }
}

/// Each write and point is a separate state in the vault.
fn states(
    protection: &Protection,
    device: &MemoryDevice,
    tags: std::ops::Range<u64>,
) -> Vec<(At, Vec<u8>)> {
    tags.map(|tag| {
        write(protection, tag);
        let point = protection.mark(PointKind::Crash, &format!("state {tag}")).expect("mark");
        let bytes = content(device);
        protection.wait_replicated(LIMIT).expect("replicated");
        (At::Point(point.id), bytes)
    })
    .collect()
}

/// Checks that everything that the catalog of `vault` names exists and is sound, and that these
/// states are unchanged.
fn check(vault: &Vault, states: &[(At, Vec<u8>)]) {
    let replica = vault.replica("disk").expect("replica");
    let report = replica.verify(&|_, _| true).expect("verify");
    assert!(report.is_sound(), "{report:?}");
    for (at, bytes) in states {
        let view = replica.view(at, &ViewOptions::default()).expect("view");
        assert!(content(&view) == *bytes, "{at}");
    }
}

#[test]
fn promise_4_and_5_a_mirror_follows_and_is_complete_without_its_source() {
    let sites = Sites::new();
    let key = || Some(WrappingKey::from_bytes([3; 32]));
    let protection = sites.protect(key());
    let mut mirror = sites.mirror();
    let mut known = states(&protection, &sites.device, 0..3);
    let first = run(&mut mirror);
    assert!(first.failure.is_none() && first.objects_copied >= 3, "{first:?}");
    assert_eq!(first.version, first.source_version);
    check(&vault(&sites.target, key()), &known);
    let idle = run(&mut mirror);
    assert_eq!((idle.objects_copied, idle.lag), (0, Duration::ZERO), "nothing to do");
    // A new mirror continues where the other ended.
    let mut mirror = sites.mirror();
    known.extend(states(&protection, &sites.device, 3..5));
    let report = run(&mut mirror);
    assert!(report.failure.is_none() && report.objects_copied < 10, "{report:?}");
    protection.stop(LIMIT).expect("stop");
    sites.source.set_down(true);
    let error = mirror.run(&|| true).expect("the volume is known").remove(0).failure;
    assert_eq!(error.expect("the source is gone").kind(), ErrorKind::Unavailable);
    let mirrored = vault(&sites.target, key());
    check(&mirrored, &known);
    let replica = mirrored.replica("disk").expect("replica");
    let view = replica.view(&At::Newest, &ViewOptions::default()).expect("view");
    assert!(content(&view) == content(&*sites.device), "served from the mirror alone");
}

#[test]
fn a_mirror_with_its_own_history_is_left_alone() {
    let sites = Sites::new();
    let protection = sites.protect(None);
    states(&protection, &sites.device, 0..2);
    let mut mirror = sites.mirror();
    assert!(run(&mut mirror).failure.is_none());
    // An operator fails over to it.
    let target = vault(&sites.target, None);
    let other = Arc::new(MemoryDevice::new(DISK_BYTES));
    let state = sites.directory.path().join("other");
    let taken = ProtectionOptions::new("disk", other, target, state).take_over(true).open();
    taken.expect("take over").stop(LIMIT).expect("stop");
    states(&protection, &sites.device, 2..20);
    let report = run(&mut mirror);
    let error = report.failure.expect("two histories");
    assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
    assert!(error.to_string().contains("history of its own"), "{error}");
    protection.stop(LIMIT).expect("stop");
}

#[test]
fn promise_5_a_lost_source_does_not_harm_the_mirror() {
    let sites = Sites::new();
    let protection = sites.protect(None);
    let known = states(&protection, &sites.device, 0..3);
    protection.stop(LIMIT).expect("stop");
    let mut mirror = sites.mirror();
    run(&mut mirror);
    // Segments vanish while the catalog still names them, then everything vanishes.
    for info in sites.source.list("volumes/disk/segments/").expect("list") {
        sites.source.delete(&info.name).expect("delete");
    }
    let mut fresh = sites.mirror();
    for mirror in [&mut mirror, &mut fresh] {
        for _ in 0..2 {
            let report = run(mirror);
            assert_eq!(report.objects_deleted, 0, "{report:?}");
        }
    }
    assert!(run(&mut mirror).source_lacks > 0);
    for info in sites.source.list("volumes/").expect("list") {
        sites.source.delete(&info.name).expect("delete");
    }
    assert!(run(&mut mirror).failure.is_some());
    check(&vault(&sites.target, None), &known);
}

fn compact_all(store: &Arc<FaultStore>) {
    let mut policy: RetentionPolicy = "1h all".parse().expect("policy");
    (policy.full, policy.grace) = (Duration::from_millis(1), Duration::from_secs(1));
    let options = CompactOptions { fold_all: true, ..CompactOptions::default() };
    let mut replica = vault(store, None).replica("disk").expect("replica");
    replica.compact(&policy, &options, &|_, _| true).expect("compact");
}

/// Stopped after every number of calls to the source or the target: the target is a sound vault
/// each time and never ahead, and the next run catches up. Meanwhile the source folds and deletes.
#[test]
fn promise_4_and_5_the_mirror_is_a_sound_vault_after_a_crash_at_any_call() {
    let sites = Sites::new();
    let protection = sites.protect(None);
    let early = states(&protection, &sites.device, 0..4);
    assert!(run(&mut sites.mirror()).failure.is_none());
    // What the mirror lacks is then folded and deleted: some versions between name objects that
    // exist nowhere.
    states(&protection, &sites.device, 4..8);
    compact_all(&sites.source);
    let late = states(&protection, &sites.device, 8..10);
    protection.stop(LIMIT).expect("stop");
    std::thread::sleep(Duration::from_millis(1100));
    compact_all(&sites.source);
    let before = copy_of(&sites, "b", "saved");
    let mut deepest = 0;
    for calls in 0.. {
        restore(&sites, "saved", "b");
        sites.target.fail_after(u64::MAX);
        let mut mirror = sites.mirror();
        sites.target.fail_after(calls);
        let report = mirror.run(&|| true).expect("run").remove(0);
        let ended = sites.target.calls() <= calls;
        sites.target.fail_after(u64::MAX);
        let target = vault(&sites.target, None);
        assert!(report.version <= report.source_version, "never ahead");
        let caught_up = target.replica("disk").expect("replica").catalog().version()
            == vault(&sites.source, None).replica("disk").expect("replica").catalog().version();
        if caught_up {
            check(&target, &late);
        } else {
            check(&target, &early);
        }
        assert_eq!(ended, report.failure.is_none(), "{calls}: {report:?}");
        if ended {
            assert!(caught_up && deepest > 10, "{deepest} calls");
            break;
        }
        deepest = calls;
        let report = run(&mut sites.mirror());
        assert!(report.failure.is_none(), "{calls}: {report:?}");
        check(&target, &late);
        let holds = sites.target.list("volumes/disk/catalog/").expect("list");
        assert!(
            holds.iter().all(|info| !info.name.rsplit('/').next().expect("name").contains('-'))
        );
    }
    drop(before);
}

/// Killed at every number of calls while its source is lost: the mirror is failed over to by one
/// call, and goes on as a volume of its own.
#[test]
fn a_mirror_that_died_in_a_run_can_be_failed_over_to() {
    let sites = Sites::new();
    let protection = sites.protect(None);
    states(&protection, &sites.device, 0..3);
    assert!(run(&mut sites.mirror()).failure.is_none());
    states(&protection, &sites.device, 3..8);
    compact_all(&sites.source);
    states(&protection, &sites.device, 8..10);
    protection.stop(LIMIT).expect("stop");
    std::thread::sleep(Duration::from_millis(1100));
    compact_all(&sites.source);
    copy_of(&sites, "b", "saved");
    let mut in_the_middle = 0;
    for calls in 0.. {
        restore(&sites, "saved", "b");
        let mut mirror = sites.mirror();
        sites.target.fail_after(calls);
        let ended = mirror.run(&|| true).expect("run").remove(0).failure.is_none();
        sites.target.fail_after(u64::MAX);
        let gates = |store: &Arc<FaultStore>| {
            let names = store.list("volumes/disk/catalog/").expect("list");
            names
                .iter()
                .filter(|info| info.name.rsplit('/').next().is_some_and(|n| n.contains('-')))
                .count()
        };
        in_the_middle += usize::from(gates(&sites.target) > 0);
        let away = sites.directory.path().join(format!("away-{calls}"));
        let disk = Arc::new(MemoryDevice::new(DISK_BYTES));
        let over = FailoverOptions::new("disk", vault(&sites.target, None), away, disk)
            .disk_reads_zero(true)
            .at(At::Newest)
            .start()
            .unwrap_or_else(|error| panic!("{calls}: {error}"));
        over.wait_hydrated(LIMIT).expect("whole");
        over.commit().expect("commit");
        over.volume().write(0, &[9; 4096], Durability::Cached).expect("write");
        over.protection().wait_replicated(LIMIT).expect("replicated");
        let expected = content(&**over.volume());
        over.stop(LIMIT).expect("stop");
        check(&vault(&sites.target, None), &[]);
        let replica = vault(&sites.target, None).replica("disk").expect("replica");
        let view = replica.view(&At::Newest, &ViewOptions::default()).expect("view");
        assert!(content(&view) == expected, "{calls}: what was written there");
        assert_eq!(gates(&sites.target), 0, "{calls}");
        if ended {
            break;
        }
    }
    assert!(in_the_middle > 3, "{in_the_middle}");
}

/// The mirror goes on although somebody has failed over to it in the middle of its run.
#[test]
fn a_mirror_that_goes_on_after_a_failover_to_it_adds_nothing() {
    // The failover has put a version of its own, or is about to.
    check_that_nothing_is_added(3, true);
    check_that_nothing_is_added(2, false);
}

/// Lets a failover drop what a run added, once its version `seen` after those before is there.
fn check_that_nothing_is_added(seen: u64, has_put: bool) {
    let sites = Sites::new();
    let protection = sites.protect(None);
    states(&protection, &sites.device, 0..3);
    assert!(run(&mut sites.mirror()).failure.is_none());
    let before = vault(&sites.target, None).replica("disk").expect("replica").catalog().version();
    states(&protection, &sites.device, 3..7);
    protection.stop(LIMIT).expect("stop");
    // The newest version is copied first: the hook takes the versions of the run away, as a failover
    // does, before the last one.
    let steps = std::sync::atomic::AtomicU64::new(0);
    let target = sites.target.clone();
    let newest = vault(&sites.source, None).replica("disk").expect("replica").catalog().version();
    let go_on = || {
        let there = |number: u64| format!("volumes/disk/catalog/{number:016x}");
        if target.head(&there(before + seen)).expect("head").is_some()
            && steps.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0
        {
            for number in before + seen..=newest {
                target.delete(&there(number)).expect("delete");
            }
            if has_put {
                target.put(&there(before + 1), b"of the failover").expect("put");
            }
        }
        true
    };
    let error = sites.mirror().run(&go_on).expect("run").remove(0).failure.expect("refused");
    assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
    let names = sites.target.list("volumes/disk/catalog/").expect("list");
    let newest_left = names.iter().filter(|info| !info.name.contains('-')).map(|i| &i.name).max();
    let own = format!("volumes/disk/catalog/{:016x}", before + u64::from(has_put));
    assert_eq!(newest_left, Some(&own));
}

fn copy_of(sites: &Sites, from: &str, to: &str) -> std::path::PathBuf {
    restore(sites, from, to);
    sites.directory.path().join(to)
}

fn restore(sites: &Sites, from: &str, to: &str) {
    let (from, to) = (sites.directory.path().join(from), sites.directory.path().join(to));
    let _ = std::fs::remove_dir_all(&to);
    copy_directory(&from, &to);
}

fn copy_directory(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("directory");
    for entry in std::fs::read_dir(from).expect("read") {
        let entry = entry.expect("entry");
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_directory(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).expect("copy");
        }
    }
}

/// Retention folds and deletes at the source all the while.
#[test]
fn promise_5_a_mirror_keeps_up_with_retention() {
    let sites = Sites::new();
    let protection = sites.protect(None);
    let mut mirror = sites.mirror();
    for round in 0..4 {
        let known = states(&protection, &sites.device, round * 4..round * 4 + 4);
        compact_all(&sites.source);
        let report = run(&mut mirror);
        assert!(report.failure.is_none(), "{report:?}");
        check(&vault(&sites.target, None), &known[3..]);
        std::thread::sleep(Duration::from_millis(350));
    }
    protection.stop(LIMIT).expect("stop");
    std::thread::sleep(Duration::from_millis(1100));
    compact_all(&sites.source);
    for _ in 0..2 {
        let report = run(&mut mirror);
        assert!(report.failure.is_none(), "{report:?}");
    }
    let names = |store: &Arc<FaultStore>| {
        let found = store.list("volumes/disk/segments/").expect("list");
        found.into_iter().map(|info| info.name).collect::<Vec<_>>()
    };
    assert_eq!(names(&sites.target), names(&sites.source), "deletes follow");
}

/// A mirror whose vault keeps what is deleted for 14 days.
fn last_resort(sites: &Sites, key: Option<WrappingKey>) -> Mirror {
    let clock = SystemClock::shared();
    let (from, _) = (vault(&sites.source, None), vault(&sites.target, None));
    hrl_maintain::set_delay(&*sites.target, hrl_maintain::DEFAULT_DELAY).expect("delay");
    let store = hrl_maintain::DelayedStore::over(sites.target.clone(), clock.clone(), "mirror");
    let to = Vault::open(store, key, clock.clone()).expect("vault");
    let options = MirrorOptions { keep: hrl_maintain::DEFAULT_DELAY, ..MirrorOptions::default() };
    Mirror::new(from, to, options, clock)
}

#[test]
fn promise_13_a_mirror_follows_no_shred_and_reports_it() {
    let sites = Sites::new();
    let key = || Some(WrappingKey::from_bytes([3; 32]));
    let protection = sites.protect(key());
    let known = states(&protection, &sites.device, 0..3);
    protection.stop(LIMIT).expect("stop");
    let mut mirror = last_resort(&sites, None);
    assert_eq!(run(&mut mirror).shrunk, None);
    let options = hrl::vault::ShredOptions { data: false, override_legal_hold: true };
    vault(&sites.source, key()).shred("disk", options).expect("shred");
    for _ in 0..3 {
        let report = run(&mut mirror);
        assert!(report.failure.is_none(), "{report:?}");
        assert!(report.shrunk.expect("it is reported").contains("wrapped key"));
        check(&vault(&sites.target, key()), &known);
        mirror = last_resort(&sites, None);
    }
    let mut mirror = Mirror::new(
        vault(&sites.source, None),
        vault(&sites.target, None),
        MirrorOptions::default(),
        SystemClock::shared(),
    );
    run(&mut mirror);
    run(&mut mirror);
    vault(&sites.target, key()).replica("disk").err().expect("a mirror that keeps nothing follows");
}

#[test]
fn promise_13_a_mirror_brings_back_what_its_source_lost() {
    let sites = Sites::new();
    let protection = sites.protect(None);
    let known = states(&protection, &sites.device, 0..6);
    let mut mirror = last_resort(&sites, None);
    run(&mut mirror);
    let since = SystemClock::shared().now();
    protection.stop(LIMIT).expect("stop");
    compact_all(&sites.source);
    std::thread::sleep(Duration::from_millis(1100));
    compact_all(&sites.source);
    for _ in 0..3 {
        let report = run(&mut mirror);
        assert!(report.failure.is_none(), "{report:?}");
    }
    let store: Arc<dyn Store> = sites.target.clone();
    let listed = vault(&sites.target, None).replica("disk").expect("replica").points().len();
    assert!(listed < known.len(), "the mirror followed the folds");
    let options = hrl_maintain::UndeleteOptions {
        dry_run: false,
        ..hrl_maintain::UndeleteOptions::new(since)
    };
    let report = hrl_maintain::undelete(&store, None, &SystemClock::shared(), &options);
    let report = report.expect("undelete");
    assert!(report.iter().all(|volume| volume.failure.is_none()), "{report:?}");
    check(&vault(&sites.target, None), &known);
}
