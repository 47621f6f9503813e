//! Disk, state directory and vault that are not of one history: one of them went back, was copied,
//! or is another copy. Whatever is marked afterwards must be the disk, and someone must hear of it.

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hrl::device::{BlockDevice, Durability, FileDevice, FileDeviceOptions, MemoryDevice};
use hrl::failover::{FailoverOptions, Follower};
use hrl::journal::{PointKind, WrappingKey};
use hrl::replica::{At, Replica, ViewOptions};
use hrl::store::DirStore;
use hrl::testing::{content, until};
use hrl::vault::Vault;
use hrl::{
    Cause, ErrorKind, Event, EventKind, Mode, Policy, Protection, ProtectionOptions, SystemClock,
};

const LIMIT: Duration = Duration::from_secs(60);
const BLOCK: u64 = 64 << 10;
const BLOCKS: u64 = 64;

/// A machine with a disk and a state directory, and a vault beside it.
struct Site {
    directory: tempfile::TempDir,
    events: Arc<Mutex<Vec<Event>>>,
}

impl Site {
    fn new() -> Self {
        let site =
            Self { directory: tempfile::tempdir().expect("directory"), events: Arc::default() };
        std::fs::create_dir(site.path("machine")).expect("machine");
        let disk = std::fs::File::create(site.path("machine/disk")).expect("disk");
        disk.set_len(BLOCK * BLOCKS).expect("size");
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn copy(&self, from: &str, to: &str) {
        let status = Command::new("cp").arg("-a").args([self.path(from), self.path(to)]).status();
        assert!(status.expect("cp").success());
    }

    /// Puts a copy that was made before in the place of a directory.
    /// An agent that looks meanwhile sees the old one, none, or the copy, and never half of one.
    fn revert(&self, name: &str, copy: &str) {
        let (new, old) = (format!("{name}-new"), format!("{name}-old"));
        self.copy(copy, &new);
        std::fs::rename(self.path(name), self.path(&old)).expect("rename");
        std::fs::rename(self.path(&new), self.path(name)).expect("rename");
        std::fs::remove_dir_all(self.path(&old)).expect("remove");
    }

    fn vault(&self, name: &str) -> Vault {
        let store = Arc::new(DirStore::create(&self.path(name)).expect("store"));
        let key = WrappingKey::from_bytes([7; 32]);
        Vault::create(store, Some(key), SystemClock::shared()).expect("vault")
    }

    fn disk(&self, machine: &str) -> Arc<FileDevice> {
        let path = self.path(machine).join("disk");
        Arc::new(FileDevice::open(&path, &FileDeviceOptions::default()).expect("disk"))
    }

    fn open(&self, machine: &str, vault: &str) -> hrl::Result<Protection> {
        let events = self.events.clone();
        let sink =
            Arc::new(move |event: &Event| events.lock().expect("events").push(event.clone()));
        let state = self.path(machine).join("state");
        ProtectionOptions::new("disk", self.disk(machine), self.vault(vault), state)
            .policy(policy())
            .events(sink)
            .open()
    }

    fn protect(&self, machine: &str, vault: &str) -> Protection {
        let protection = self.open(machine, vault).expect("protect");
        protection.wait_ordered(LIMIT).expect("ordered");
        protection
    }

    fn replica(&self, vault: &str) -> Replica {
        self.vault(vault).replica("disk").expect("replica")
    }

    /// Marks a point, ships it, and compares it with the disk.
    fn check_point(&self, protection: &Protection, machine: &str, vault: &str) {
        let point = protection.mark(PointKind::Crash, "check").expect("mark");
        protection.wait_replicated(LIMIT).expect("replicated");
        let replica = self.replica(vault);
        let view = replica.view(&At::Point(point.id), &ViewOptions::default()).expect("view");
        assert!(content(&view) == content(&*self.disk(machine)), "the point is not the disk");
        assert!(replica.verify(&|_, _| true).expect("verify").is_sound());
    }

    fn causes(&self) -> Vec<Cause> {
        let events = self.events.lock().expect("events");
        let cause = |event: &Event| match event.kind {
            EventKind::Diverged { cause } => Some(cause),
            _ => None,
        };
        events.iter().filter_map(cause).collect()
    }

    fn forget_events(&self) {
        self.events.lock().expect("events").clear();
    }
}

fn policy() -> Policy {
    Policy {
        segment_interval: Duration::from_millis(20),
        region_bytes: 64 << 10,
        crash_point_interval: Duration::ZERO,
        catalog_interval: Duration::ZERO,
        failover_poll_interval: Duration::from_millis(50),
        retry_interval_max: Duration::from_millis(200),
        ..Policy::default()
    }
}

fn write(volume: &dyn BlockDevice, block: u64, tag: u8) {
    volume.write(block * BLOCK, &[tag; BLOCK as usize], Durability::Cached).expect("write");
}

/// Writes some blocks and a point with each, and ships them.
fn work(protection: &Protection, blocks: std::ops::Range<u64>) {
    for block in blocks {
        write(&**protection.volume(), block, block as u8 + 1);
        protection.mark(PointKind::Crash, &format!("p{block}")).expect("mark");
    }
    protection.wait_replicated(LIMIT).expect("replicated");
}

fn labels(replica: &Replica) -> Vec<String> {
    replica.points().into_iter().map(|point| point.label).collect()
}

#[test]
fn a_normal_restart_or_a_kill_raises_no_event_and_compares_nothing() {
    let site = Site::new();
    let protection = site.protect("machine", "vault");
    work(&protection, 0..4);
    protection.stop(LIMIT).expect("stop");
    let protection = site.protect("machine", "vault");
    assert_eq!(protection.stats().resync_bytes_read, 0);
    work(&protection, 4..8);
    drop(protection);
    let protection = site.protect("machine", "vault");
    assert!(protection.stats().resync_bytes_read < BLOCK * BLOCKS, "dirty regions alone");
    site.check_point(&protection, "machine", "vault");
    assert_eq!(site.causes(), []);
}

#[test]
fn promise_3_a_machine_that_was_reverted_is_compared_and_its_next_point_is_its_disk() {
    for running in [false, true] {
        let site = Site::new();
        let mut protection = site.protect("machine", "vault");
        work(&protection, 0..3);
        if running {
            site.copy("machine", "snapshot");
        } else {
            protection.stop(LIMIT).expect("stop");
            site.copy("machine", "snapshot");
            protection = site.protect("machine", "vault");
        }
        write(&**protection.volume(), 1, 99);
        work(&protection, 20..24);
        protection.stop(LIMIT).expect("stop");
        let before = labels(&site.replica("vault"));
        site.revert("machine", "snapshot");
        site.forget_events();
        let protection = site.protect("machine", "vault");
        assert_eq!(site.causes(), [Cause::StateWentBack], "running: {running}");
        site.check_point(&protection, "machine", "vault");
        let after = labels(&site.replica("vault"));
        assert_eq!(after[..before.len()], before, "no point that was offered is lost");
        let timeline = protection.timeline();
        let gap = timeline.iter().find(|stretch| stretch.unordered == Some(Cause::StateWentBack));
        assert!(gap.is_some(), "{timeline:?}");
    }
}

/// Returns the catalog versions in the vault, oldest first.
fn catalog_versions(site: &Site) -> Vec<PathBuf> {
    let catalog = site.path("vault/volumes/disk/catalog");
    let entries = std::fs::read_dir(catalog).expect("catalog");
    let mut versions: Vec<_> = entries.map(|entry| entry.expect("entry").path()).collect();
    versions.sort();
    versions
}

/// Copies the newest version out of the way of a vault that goes back.
fn roll_back(site: &Site, how: &str) {
    match how {
        "restored" => site.revert("vault", "backup"),
        "suffix" => {
            for version in catalog_versions(site).iter().rev().take(4) {
                std::fs::remove_file(version).expect("remove");
            }
        }
        other => panic!("{other}"),
    }
}

#[test]
fn promise_3_a_vault_that_went_back_is_noticed_at_the_next_start() {
    for how in ["restored", "suffix", "mirror"] {
        for killed in [false, true] {
            let site = Site::new();
            let protection = site.protect("machine", "vault");
            work(&protection, 0..3);
            site.copy("vault", "backup");
            work(&protection, 3..9);
            let last = protection.stats().last_sequence;
            if killed {
                drop(protection);
            } else {
                protection.stop(LIMIT).expect("stop");
            }
            let vault = if how == "mirror" { "backup" } else { "vault" };
            if how != "mirror" {
                roll_back(&site, how);
            }
            let before = labels(&site.replica(vault));
            site.forget_events();
            let protection = site.protect("machine", vault);
            assert_eq!(site.causes(), [Cause::VaultWentBack], "{how}, killed: {killed}");
            assert!(protection.stats().last_sequence > last, "no sequence is given twice");
            site.check_point(&protection, "machine", vault);
            work(&protection, 30..32);
            site.check_point(&protection, "machine", vault);
            assert_eq!(labels(&site.replica(vault))[..before.len()], before);
            protection.stop(LIMIT).expect("stop");
            site.forget_events();
            let protection = site.protect("machine", vault);
            assert_eq!(protection.stats().resync_bytes_read, 0, "it agrees again");
            assert_eq!(site.causes(), []);
        }
    }
}

#[test]
fn promise_3_a_vault_that_goes_back_under_a_running_agent_is_gone_on_with() {
    for how in ["restored", "suffix"] {
        for idle in [false, true] {
            let site = Site::new();
            let protection = site.protect("machine", "vault");
            work(&protection, 0..3);
            site.copy("vault", "backup");
            work(&protection, 3..9);
            let last = protection.stats().last_sequence;
            roll_back(&site, how);
            if !idle {
                write(&**protection.volume(), 40, 41);
            }
            until(LIMIT, "an event", || site.causes() == [Cause::VaultWentBack]);
            protection.wait_ordered(LIMIT).expect("ordered again");
            site.check_point(&protection, "machine", "vault");
            work(&protection, 30..32);
            site.check_point(&protection, "machine", "vault");
            assert!(protection.stats().last_sequence > last);
            protection.stop(LIMIT).expect("stop");
            assert_eq!(site.causes(), [Cause::VaultWentBack], "{how}, idle: {idle}");
        }
    }
}

#[test]
fn promise_3_a_catalog_version_that_goes_missing_is_made_good_by_its_running_source() {
    for idle in [false, true] {
        let site = Site::new();
        let protection = site.protect("machine", "vault");
        work(&protection, 0..6);
        let before = labels(&site.replica("vault"));
        let versions = catalog_versions(&site);
        std::fs::remove_file(&versions[versions.len() - 3]).expect("remove");
        if !idle {
            write(&**protection.volume(), 40, 41);
        }
        until(LIMIT, "the catalog can be read", || site.vault("vault").replica("disk").is_ok());
        assert_eq!(labels(&site.replica("vault")), before);
        work(&protection, 30..32);
        site.check_point(&protection, "machine", "vault");
        assert_eq!(protection.stats().mode, Mode::Ordered);
        protection.stop(LIMIT).expect("stop");
        assert_eq!(site.causes(), [], "nothing is lost");
        let told = |event: &Event| event.kind == EventKind::JournalRepaired;
        assert!(site.events.lock().expect("events").iter().any(told));
    }
}

#[test]
fn a_vault_without_the_volume_ends_the_session_and_one_without_anything_is_waited_for() {
    let site = Site::new();
    let protection = site.protect("machine", "vault");
    work(&protection, 0..3);
    std::fs::rename(site.path("vault"), site.path("unmounted")).expect("rename");
    std::fs::create_dir(site.path("vault")).expect("an empty mount point");
    write(&**protection.volume(), 9, 10);
    until(LIMIT, "an event", || {
        let events = site.events.lock().expect("events");
        events.iter().any(|event| event.kind == EventKind::VaultUnavailable)
    });
    assert!(!protection.stats().fenced && protection.stats().mode == Mode::Ordered);
    std::fs::remove_dir_all(site.path("vault")).expect("remove");
    std::fs::rename(site.path("unmounted"), site.path("vault")).expect("mounted again");
    site.check_point(&protection, "machine", "vault");
    assert_eq!(site.causes(), []);

    std::fs::remove_dir_all(site.path("vault/volumes")).expect("the volumes are gone");
    write(&**protection.volume(), 10, 11);
    until(LIMIT, "an event", || {
        let events = site.events.lock().expect("events");
        events.iter().any(|event| event.kind == EventKind::VolumeLost)
    });
    let error = protection.mark(PointKind::Crash, "").expect_err("nothing is replicated");
    assert_eq!(error.kind(), ErrorKind::Diverged);
    let error = protection.stop(LIMIT).expect_err("nor was it");
    assert_eq!(error.kind(), ErrorKind::Diverged);
    let error = site.open("machine", "vault").map(drop).expect_err("a volume is missing");
    assert_eq!(error.kind(), ErrorKind::Changed, "{error}");
}

#[test]
fn promise_9_of_two_agents_on_copies_of_a_state_directory_one_is_fenced_and_loses_nothing() {
    for first_publishes in [false, true] {
        let site = Site::new();
        let protection = site.protect("machine", "vault");
        work(&protection, 0..3);
        protection.stop(LIMIT).expect("stop");
        site.copy("machine", "clone");
        // A machine that is cloned as an image keeps the inodes and times of its files, unlike here.
        std::fs::remove_file(site.path("clone/state/witness")).expect("remove");
        let first = site.protect("machine", "vault");
        let second = site.protect("clone", "vault");
        if first_publishes {
            work(&first, 10..11);
        } else {
            work(&second, 10..11);
        }
        let (winner, loser, machine) =
            if first_publishes { (first, second, "machine") } else { (second, first, "clone") };
        until(LIMIT, "a fence", || {
            write(&**loser.volume(), 20, 21);
            loser.stats().fenced
        });
        assert_eq!(loser.mark(PointKind::Crash, "").expect_err("fenced").kind(), ErrorKind::Fenced);
        assert_eq!(loser.stop(LIMIT).expect_err("fenced").kind(), ErrorKind::Fenced);
        site.check_point(&winner, machine, "vault");
        winner.stop(LIMIT).expect("stop");
        // The one that was fenced may come back, and is compared.
        let other = if first_publishes { "clone" } else { "machine" };
        site.forget_events();
        let protection = site.protect(other, "vault");
        assert_eq!(site.causes(), [Cause::StateWentBack]);
        site.check_point(&protection, other, "vault");
    }
}

/// Leaves a machine whose last changes were in the spool alone, and are lost with it.
fn lose_spool(site: &Site) {
    let protection = site.protect("machine", "vault");
    work(&protection, 0..3);
    std::fs::rename(site.path("vault"), site.path("away")).expect("no vault");
    for block in 5..9 {
        write(&**protection.volume(), block, 77);
    }
    let limit = Duration::from_millis(100);
    protection.stop(limit).expect("what the vault does not take stays in the spool");
    std::fs::rename(site.path("away"), site.path("vault")).expect("the vault is back");
    let spool = std::fs::read_dir(site.path("machine/state/spool")).expect("spool");
    let segments: Vec<_> = spool.map(|entry| entry.expect("entry").path()).collect();
    assert!(!segments.is_empty());
    segments.iter().for_each(|path| std::fs::remove_file(path).expect("remove"));
}

#[test]
fn promise_9_a_disk_whose_spool_is_lost_comes_home_whole() {
    let site = Site::new();
    lose_spool(&site);
    let over = fail_over(&site, "vault");
    over.protection().wait_replicated(LIMIT).expect("replicated");
    let mut follower = site.follow("vault").expect("follow");
    let why = follower.why_everywhere().map(str::to_owned).unwrap_or_default();
    assert!(why.contains("journaled up to sequence"), "{why}");
    follower.catch_up(&At::Newest, &|_, _| true).expect("catch up");
    site.check_home("vault");
}

#[test]
fn a_spool_that_lost_segments_which_the_dirty_map_relies_on_is_noticed() {
    let site = Site::new();
    lose_spool(&site);
    let protection = site.protect("machine", "vault");
    site.check_point(&protection, "machine", "vault");
}

#[test]
fn promise_9_a_disk_whose_source_was_ahead_of_a_lagging_mirror_comes_home_whole() {
    for killed in [false, true] {
        let site = Site::new();
        let source = site.protect("machine", "vault");
        work(&source, 0..3);
        site.copy("vault", "mirror");
        work(&source, 3..9);
        if killed {
            // Long enough for the dirty map to be cleaned.
            std::thread::sleep(Duration::from_millis(2500));
            drop(source);
        } else {
            source.stop(LIMIT).expect("stop");
        }
        let over = fail_over(&site, "mirror");
        write(&**over.volume(), 1, 52);
        over.protection().wait_replicated(LIMIT).expect("replicated");
        let mut follower = site.follow("mirror").expect("follow");
        follower.catch_up(&At::Newest, &|_, _| true).expect("catch up");
        site.check_home("mirror");
    }
}

/// Sequences alone said that the disk was a state of that vault. A block that had changed in between
/// and changed back kept what the vault never had.
#[test]
fn promise_9_a_disk_that_followed_what_its_vault_lost_is_written_whole() {
    let site = Site::new();
    let source = site.protect("machine", "vault");
    work(&source, 0..3);
    source.stop(LIMIT).expect("stop");
    let over = fail_over(&site, "vault");
    site.copy("vault", "mirror");
    write(&**over.volume(), 2, 77);
    over.protection().mark(PointKind::Crash, "followed").expect("mark");
    over.protection().wait_replicated(LIMIT).expect("replicated");
    let mut follower = site.follow("vault").expect("follow");
    follower.catch_up(&At::Newest, &|_, _| true).expect("catch up");
    drop(follower);
    let refused = site.follow("mirror").map(drop).expect_err("the disk may be the newest copy");
    assert_eq!(refused.kind(), ErrorKind::Diverged, "{refused}");

    write(&**over.volume(), 2, 3);
    over.protection().wait_replicated(LIMIT).expect("replicated");
    site.revert("vault", "mirror");
    write(&**over.volume(), 60, 61);
    until(LIMIT, "the write", || {
        let replica = site.vault("vault").replica("disk");
        let view = replica.and_then(|replica| replica.view(&At::Newest, &ViewOptions::default()));
        view.is_ok_and(|view| content(&view)[(60 * BLOCK) as usize] == 61)
    });
    let mut follower = site.follow("vault").expect("follow");
    let why = follower.why_everywhere().expect("the history is another").to_owned();
    assert!(why.contains("does not have the history"), "{why}");
    follower.catch_up(&At::Newest, &|_, _| true).expect("catch up");
    site.check_home("vault");
}

/// A place on the disk that no sample of a clean stop is at.
const BETWEEN_SAMPLES: u64 = 33 * (BLOCK * BLOCKS - 4096) / 63 / 512 * 512 + 16_384;

/// Writes to the disk as somebody does who knows nothing of agents, and sets its time back.
fn scribble(path: &std::path::Path, offset: u64, data: &[u8]) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::options().read(true).write(true).open(path).expect("open");
    let time = file.metadata().expect("metadata").modified().expect("time");
    // The clock of a file system moves every few milliseconds.
    std::thread::sleep(Duration::from_millis(20));
    file.write_all_at(data, offset).expect("write");
    file.sync_all().expect("sync");
    if file.metadata().expect("metadata").is_file() {
        file.set_modified(time).expect("time");
    }
}

fn untracked(protection: &Protection) -> usize {
    let is = |cause: &Option<Cause>| *cause == Some(Cause::Untracked);
    protection.timeline().iter().filter(|stretch| is(&stretch.unordered)).count()
}

#[test]
fn promise_3_a_disk_that_was_written_without_its_agent_is_compared() {
    let site = Site::new();
    let protection = site.protect("machine", "vault");
    work(&protection, 0..4);
    protection.stop(LIMIT).expect("stop");
    scribble(&site.path("machine/disk"), BETWEEN_SAMPLES, &[0xbb; 512]);
    let protection = site.protect("machine", "vault");
    assert_eq!(protection.stats().resync_bytes_read, BLOCK * BLOCKS);
    site.check_point(&protection, "machine", "vault");
    assert_eq!(untracked(&protection), 1);
    protection.stop(LIMIT).expect("stop");
    // As a version left it that knew nothing of witnesses.
    std::fs::remove_file(site.path("machine/state/witness")).expect("remove");
    let protection = site.protect("machine", "vault");
    assert_eq!(protection.stats().resync_bytes_read, 0);
}

/// A file system's superblock with this number in its name, and nothing else.
fn format(path: &std::path::Path, number: u8) {
    scribble(path, 1024 + 56, b"\x53\xef");
    scribble(path, 1024 + 104, &[number; 16]);
}

#[test]
fn promise_3_another_disk_under_the_same_name_is_refused_until_it_is_adopted() {
    let site = Site::new();
    let disk = site.path("machine/disk");
    format(&disk, 0x11);
    let protection = site.protect("machine", "vault");
    work(&protection, 4..8);
    protection.stop(LIMIT).expect("stop");
    let other = site.path("machine/other");
    std::fs::copy(&disk, &other).expect("copy");
    std::fs::rename(&other, &disk).expect("a copy has the same names");
    let protection = site.protect("machine", "vault");
    site.check_point(&protection, "machine", "vault");
    protection.stop(LIMIT).expect("stop");

    std::fs::write(&other, vec![7; (BLOCK * BLOCKS) as usize]).expect("other");
    format(&other, 0x22);
    std::fs::rename(&other, &disk).expect("swap");
    let before = labels(&site.replica("vault"));
    let error = site.open("machine", "vault").map(drop).expect_err("another disk");
    assert_eq!(error.kind(), ErrorKind::Changed);
    for number in ["11", "22"] {
        assert!(error.to_string().contains(&format!("ext {}", number.repeat(16))), "{error}");
    }
    assert_eq!(labels(&site.replica("vault")), before);
    let state = site.path("machine/state");
    let options = ProtectionOptions::new("disk", site.disk("machine"), site.vault("vault"), state);
    let protection = options.policy(policy()).adopt_disk(true).open().expect("adopt");
    protection.wait_ordered(LIMIT).expect("ordered");
    site.check_point(&protection, "machine", "vault");
    assert_eq!(untracked(&protection), 2, "the copy, and the other disk");
    protection.stop(LIMIT).expect("stop");
    let protection = site.protect("machine", "vault");
    assert_eq!(protection.stats().resync_bytes_read, 0, "it is the disk now");
}

/// Fails over to memory, and writes there.
fn fail_over(site: &Site, vault: &str) -> hrl::failover::FailedOver {
    let away = Arc::new(MemoryDevice::new(BLOCK * BLOCKS));
    let over = FailoverOptions::new("disk", site.vault(vault), site.path("away"), away)
        .policy(policy())
        .disk_reads_zero(true)
        .start()
        .expect("fail over");
    over.commit().expect("commit");
    write(&**over.volume(), 50, 51);
    over.protection().mark(PointKind::Crash, "there").expect("mark");
    over.protection().wait_replicated(LIMIT).expect("replicated");
    over
}

impl Site {
    fn follow(&self, vault: &str) -> hrl::Result<Follower> {
        let state = self.path("machine/state");
        let clock = SystemClock::shared();
        Follower::open("disk", self.vault(vault), state, self.disk("machine"), clock)
    }

    fn check_home(&self, vault: &str) {
        let replica = self.replica(vault);
        let newest = replica.view(&At::Newest, &ViewOptions::default()).expect("view");
        assert!(content(&*self.disk("machine")) == content(&newest), "home is not the volume");
    }
}

#[test]
fn promise_9_an_old_disk_that_was_written_is_written_whole_and_another_one_is_refused() {
    let site = Site::new();
    let disk = site.path("machine/disk");
    format(&disk, 0x11);
    let source = site.protect("machine", "vault");
    work(&source, 4..8);
    source.stop(LIMIT).expect("stop");
    let over = fail_over(&site, "vault");
    site.copy("machine", "untouched");
    scribble(&disk, BETWEEN_SAMPLES, &[0xbb; 512]);
    let mut follower = site.follow("vault").expect("follow");
    let why = follower.why_everywhere().map(str::to_owned).unwrap_or_default();
    assert!(why.contains("written since its agent stopped"), "{why}");
    follower.catch_up(&At::Newest, &|_, _| true).expect("catch up");
    site.check_home("vault");
    drop(follower);

    // A disk that follows already, and is written between two runs.
    write(&**over.volume(), 51, 52);
    over.protection().wait_replicated(LIMIT).expect("replicated");
    let mut follower = site.follow("vault").expect("follow");
    assert_eq!(follower.why_everywhere(), None);
    let done = follower.catch_up(&At::Newest, &|_, _| true).expect("catch up");
    assert_eq!(done.bytes_written, BLOCK);
    drop(follower);
    scribble(&disk, BETWEEN_SAMPLES, &[0xcc; 512]);
    let mut follower = site.follow("vault").expect("follow");
    assert!(follower.why_everywhere().is_some());
    follower.catch_up(&At::Newest, &|_, _| true).expect("catch up");
    site.check_home("vault");
    drop(follower);

    let other = site.path("machine/other");
    std::fs::write(&other, vec![7; (BLOCK * BLOCKS) as usize]).expect("other");
    format(&other, 0x22);
    std::fs::rename(&other, &disk).expect("swap");
    let error = site.follow("vault").map(drop).expect_err("another disk");
    assert_eq!(error.kind(), ErrorKind::Changed, "{error}");
    assert_eq!(std::fs::read(&disk).expect("read")[100_000], 7, "it was not written");
}

/// A loop device over the machine's disk, removed when dropped. `None` if the tests may not make
/// one.
struct Loop(PathBuf);

impl Loop {
    fn new(file: &std::path::Path) -> Option<Self> {
        let output = Command::new("losetup").args(["-f", "--show"]).arg(file).output().ok()?;
        let path = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| Self(PathBuf::from(path.trim())))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.0).status();
    }
}

#[test]
fn promise_3_a_block_device_is_compared_unless_its_counters_prove_it_untouched() {
    let site = Site::new();
    let Some(device) = Loop::new(&site.path("machine/disk")) else {
        eprintln!("skipped: no loop devices");
        return;
    };
    let path = device.0.clone();
    let protect = || {
        let options = FileDeviceOptions { exclusive: true, ..Default::default() };
        let disk: Arc<dyn BlockDevice> = Arc::new(FileDevice::open(&path, &options).expect("disk"));
        let state = site.path("machine/state");
        let options = ProtectionOptions::new("disk", disk.clone(), site.vault("vault"), state);
        let protection = options.policy(policy()).open().expect("protect");
        protection.wait_ordered(LIMIT).expect("ordered");
        let read = protection.stats().resync_bytes_read;
        work(&protection, 0..4);
        protection.mark(PointKind::Crash, "check").expect("mark");
        protection.wait_replicated(LIMIT).expect("replicated");
        let replica = site.replica("vault");
        let view = replica.view(&At::Newest, &ViewOptions::default()).expect("view");
        assert!(content(&view) == content(&*disk), "the point is not the disk");
        protection.stop(LIMIT).expect("stop");
        read
    };
    protect();
    assert_eq!(protect(), 0, "untouched");
    scribble(&path, BETWEEN_SAMPLES, &[0xbb; 512]);
    assert_eq!(protect(), BLOCK * BLOCKS, "written");
    assert_eq!(protect(), 0, "untouched");
    // As a version left it that knew nothing of witnesses.
    std::fs::remove_file(site.path("machine/state/witness")).expect("remove");
    assert_eq!(protect(), BLOCK * BLOCKS, "nothing is known");
    assert_eq!(protect(), 0, "untouched");
    // Its file was written, not the device.
    scribble(&site.path("machine/disk"), BETWEEN_SAMPLES + 4096, &[0xdd; 512]);
    let _ = Command::new("blockdev").arg("--flushbufs").arg(&path).status();
    assert_eq!(protect(), BLOCK * BLOCKS, "written below");
}
