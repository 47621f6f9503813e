//! An agent that starts while its vault is away: it serves and spools, calls nothing replicated, and
//! compares once the vault answers, as any other start does.

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hrl::device::{BlockDevice, Durability, FileDevice, FileDeviceOptions, MemoryDevice};
use hrl::failover::FailoverOptions;
use hrl::journal::{PointKind, WrappingKey};
use hrl::replica::{At, Replica, ViewOptions};
use hrl::store::DirStore;
use hrl::testing::{content, until};
use hrl::vault::{SegmentEntry, Vault};
use hrl::{
    Cause, ErrorKind, Event, EventKind, KeyId, Mode, Policy, Protection, ProtectionOptions,
    SystemClock,
};

const LIMIT: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_millis(300);
const BLOCK: u64 = 64 << 10;
const BLOCKS: u64 = 64;

/// A machine, and a vault that can be unmounted.
struct Site {
    directory: tempfile::TempDir,
    events: Arc<Mutex<Vec<Event>>>,
    policy: Policy,
    key: Option<WrappingKey>,
}

impl Site {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("directory");
        let policy = Policy {
            segment_interval: Duration::from_millis(20),
            region_bytes: BLOCK,
            crash_point_interval: Duration::ZERO,
            catalog_interval: Duration::ZERO,
            failover_poll_interval: Duration::from_millis(50),
            retry_interval_max: Duration::from_millis(100),
            ..Policy::default()
        };
        let key = Some(WrappingKey::from_bytes([7; 32]));
        let site = Self { directory, events: Arc::default(), policy, key };
        std::fs::create_dir(site.path("machine")).expect("machine");
        std::fs::create_dir(site.path("vault")).expect("vault");
        let disk = std::fs::File::create(site.path("machine/disk")).expect("disk");
        disk.set_len(BLOCK * BLOCKS).expect("size");
        Vault::create(site.store(), site.key.clone(), SystemClock::shared()).expect("vault");
        site
    }

    /// A site whose volume has a first history.
    fn protected() -> Self {
        let site = Self::new();
        let protection = site.open();
        protection.wait_ordered(LIMIT).expect("ordered");
        work(&protection, 0..4);
        protection.stop(LIMIT).expect("stop");
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn copy(&self, from: &str, to: &str) {
        let _ = std::fs::remove_dir_all(self.path(to));
        let status = Command::new("cp").arg("-a").args([self.path(from), self.path(to)]).status();
        assert!(status.expect("cp").success());
    }

    fn unmount(&self) {
        std::fs::rename(self.path("vault"), self.path("unmounted")).expect("rename");
        std::fs::create_dir(self.path("vault")).expect("an empty mount point");
    }

    fn mount(&self) {
        std::fs::remove_dir(self.path("vault")).expect("nothing was made at the mount point");
        std::fs::rename(self.path("unmounted"), self.path("vault")).expect("rename");
    }

    fn store(&self) -> Arc<DirStore> {
        Arc::new(DirStore::open(&self.path("vault")).expect("store"))
    }

    fn vault(&self) -> Vault {
        Vault::awaited(self.store(), self.key.clone(), SystemClock::shared())
    }

    fn disk(&self) -> Arc<FileDevice> {
        let path = self.path("machine/disk");
        Arc::new(FileDevice::open(&path, &FileDeviceOptions::default()).expect("disk"))
    }

    fn try_open(&self, state: &str, disk: Arc<dyn BlockDevice>) -> hrl::Result<Protection> {
        let events = self.events.clone();
        let sink =
            Arc::new(move |event: &Event| events.lock().expect("events").push(event.clone()));
        ProtectionOptions::new("disk", disk, self.vault(), self.path(state))
            .policy(self.policy.clone())
            .events(sink)
            .open()
    }

    fn open(&self) -> Protection {
        self.try_open("machine/state", self.disk()).expect("protect")
    }

    fn replica(&self) -> Replica {
        self.vault().replica("disk").expect("replica")
    }

    fn labels(&self) -> Vec<String> {
        self.replica().points().into_iter().map(|point| point.label).collect()
    }

    fn has(&self, kind: &EventKind) -> bool {
        self.events.lock().expect("events").iter().any(|event| event.kind == *kind)
    }

    fn causes(&self) -> Vec<Cause> {
        let events = self.events.lock().expect("events");
        let cause = |event: &Event| match event.kind {
            EventKind::Diverged { cause } => Some(cause),
            _ => None,
        };
        events.iter().filter_map(cause).collect()
    }

    /// Marks a point, ships it, and compares it with the disk.
    fn check_point(&self, protection: &Protection) {
        protection.wait_replicated(LIMIT).expect("in order");
        let point = protection.mark(PointKind::Crash, "check").expect("mark");
        protection.wait_replicated(LIMIT).expect("replicated");
        assert!(!protection.stats().vault_away);
        let replica = self.replica();
        let view = replica.view(&At::Point(point.id), &ViewOptions::default()).expect("view");
        assert!(content(&view) == content(&*self.disk()), "the point is not the disk");
        assert!(replica.verify(&|_, _| true).expect("verify").is_sound());
    }
}

fn write(protection: &Protection, block: u64, tag: u8) {
    let data = [tag; BLOCK as usize];
    protection.volume().write(block * BLOCK, &data, Durability::Cached).expect("write");
}

/// Writes some blocks, with a point after each.
fn mark_all(protection: &Protection, blocks: std::ops::Range<u64>) {
    for block in blocks {
        write(protection, block, block as u8 + 1);
        protection.mark(PointKind::Crash, &format!("p{block}")).expect("mark");
    }
}

fn work(protection: &Protection, blocks: std::ops::Range<u64>) {
    mark_all(protection, blocks);
    protection.wait_replicated(LIMIT).expect("replicated");
}

#[test]
fn promise_2_a_start_without_the_vault_spools_and_ships_all_of_it_later() {
    for killed in [false, true] {
        let site = Site::protected();
        if killed {
            let protection = site.open();
            mark_all(&protection, 4..6);
            drop(protection);
        }
        site.unmount();
        // Two sessions without the vault.
        for blocks in [10..12, 12..14] {
            let protection = site.open();
            assert!(site.has(&EventKind::VaultUnavailable));
            protection.wait_ordered(LIMIT).expect("dirty regions are read without the vault");
            mark_all(&protection, blocks);
            let stats = protection.stats();
            assert!(stats.vault_away && !stats.vault_available && stats.rpo > Duration::ZERO);
            assert_eq!(stats.replicated_sequence.0, 0);
            let error = protection.wait_replicated(SOON).expect_err("nothing is replicated");
            assert_eq!(error.kind(), ErrorKind::Unavailable);
            if killed {
                drop(protection);
            } else {
                protection.stop(Duration::ZERO).expect("stop");
            }
        }
        site.mount();
        let protection = site.open();
        site.check_point(&protection);
        let labels = site.labels();
        for label in ["p3", "p10", "p11", "p12", "p13"] {
            assert!(labels.iter().any(|known| known == label), "{label} in {labels:?}");
        }
        assert_eq!(site.causes(), [], "killed: {killed}");
    }
}

/// Returns the names of the keys of the volume's segments, oldest segment first.
fn segment_keys(site: &Site) -> Vec<Option<KeyId>> {
    let replica = site.replica();
    let key = |entry: &SegmentEntry| replica.open_segment(&entry.object).expect("open").key_id();
    replica.catalog().segments().iter().map(key).collect()
}

#[test]
fn promise_10_an_agent_takes_another_volume_key_and_starts_with_it_without_the_vault() {
    for killed in [false, true] {
        let site = Site::protected();
        let protection = site.open();
        work(&protection, 4..6);
        let first = site.replica().info().key_id;
        let drawn = Some(site.vault().rekey("disk").expect("another key").key);
        // Its next publication finds the key.
        work(&protection, 6..7);
        work(&protection, 7..8);
        let keys = segment_keys(&site);
        assert!(keys.first() == Some(&first) && keys.last() == Some(&drawn), "{keys:?}");
        site.unmount();
        mark_all(&protection, 10..12);
        if killed {
            drop(protection);
        } else {
            protection.stop(Duration::ZERO).expect("stop");
        }
        let protection = site.open();
        protection.wait_ordered(LIMIT).expect("dirty regions are read without the vault");
        mark_all(&protection, 12..14);
        site.mount();
        site.check_point(&protection);
        let labels = site.labels();
        for label in ["p3", "p7", "p10", "p11", "p12", "p13"] {
            assert!(labels.iter().any(|known| known == label), "{label} in {labels:?}");
        }
        assert_eq!(site.causes(), [], "killed: {killed}");
        assert_eq!(segment_keys(&site).last(), Some(&drawn));
    }
}

#[test]
fn promise_10_a_vault_that_went_back_to_before_a_key_was_drawn_gets_that_key_again() {
    for running in [false, true] {
        let site = Site::protected();
        site.copy("vault", "backup");
        let protection = site.open();
        let drawn = Some(site.vault().rekey("disk").expect("another key").key);
        work(&protection, 30..32);
        work(&protection, 32..34);
        assert_eq!(segment_keys(&site).last(), Some(&drawn));
        let protection = if running {
            protection
        } else {
            protection.stop(LIMIT).expect("stop");
            site.copy("backup", "vault");
            site.open()
        };
        if running {
            site.unmount();
            site.copy("backup", "unmounted");
            site.mount();
            mark_all(&protection, 50..52);
        }
        until(LIMIT, "a comparison", || !site.causes().is_empty());
        site.check_point(&protection);
        // Whoever has the key-encryption key alone reads it.
        assert_eq!(segment_keys(&site).last(), Some(&drawn));
        assert_eq!(site.causes(), [Cause::VaultWentBack]);
    }
}

#[test]
fn an_agent_whose_key_does_not_open_the_new_volume_key_spools_until_it_is_started_with_one_that_does()
 {
    let mut site = Site::protected();
    let protection = site.open();
    work(&protection, 4..6);
    let new = WrappingKey::from_bytes([8; 32]);
    site.vault().rotate_key("disk", &new).expect("rotate");
    site.key = Some(new);
    let drawn = Some(site.vault().rekey("disk").expect("another key").key);
    mark_all(&protection, 6..8);
    until(LIMIT, "a failure", || site.has(&EventKind::VaultUnavailable));
    let events = format!("{:?}", site.events.lock().expect("events"));
    assert!(events.contains("generation 2"), "{events}");
    protection.stop(Duration::ZERO).expect("stop");
    let protection = site.open();
    site.check_point(&protection);
    assert_eq!(segment_keys(&site).last(), Some(&drawn));
    assert!(site.labels().contains(&"p7".to_owned()) && site.causes().is_empty());
}

#[test]
fn a_vault_that_comes_back_under_a_session_is_compared_and_shipped_to() {
    let site = Site::protected();
    site.unmount();
    let protection = site.open();
    assert_eq!(protection.stats().mode, Mode::Ordered, "after a clean stop nothing is read");
    mark_all(&protection, 10..14);
    site.mount();
    site.check_point(&protection);
    assert!(site.has(&EventKind::VaultAvailable) && site.causes().is_empty());
    assert!(site.labels().contains(&"p12".to_owned()));
    protection.stop(LIMIT).expect("stop");
    let protection = site.open();
    assert_eq!(protection.stats().resync_bytes_read, 0);
    site.check_point(&protection);
}

#[test]
fn what_was_published_before_a_kill_and_not_recorded_is_not_shipped_twice() {
    let site = Site::protected();
    site.unmount();
    let protection = site.open();
    mark_all(&protection, 10..13);
    protection.stop(Duration::ZERO).expect("stop");
    site.copy("machine/state", "spooled");
    site.mount();
    let protection = site.open();
    protection.wait_replicated(LIMIT).expect("shipped");
    protection.stop(LIMIT).expect("stop");
    site.copy("spooled", "machine/state");
    site.unmount();
    let protection = site.open();
    mark_all(&protection, 20..22);
    site.mount();
    site.check_point(&protection);
    assert_eq!(site.causes(), []);
    let labels = site.labels();
    assert_eq!(labels.iter().filter(|label| *label == "p11").count(), 1, "{labels:?}");
}

#[test]
fn promise_3_a_machine_that_went_back_is_compared_once_its_vault_is_back() {
    let site = Site::protected();
    site.copy("machine", "snapshot");
    let protection = site.open();
    work(&protection, 30..40);
    protection.stop(LIMIT).expect("stop");
    let before = site.labels();
    site.copy("snapshot", "machine");
    site.unmount();
    let protection = site.open();
    // The files of the copy are others.
    protection.wait_ordered(LIMIT).expect("ordered");
    write(&protection, 50, 99);
    protection.mark(PointKind::Crash, "other").expect("mark");
    site.mount();
    until(LIMIT, "a comparison", || !site.causes().is_empty());
    site.check_point(&protection);
    assert_eq!(site.causes(), [Cause::StateWentBack]);
    assert_eq!(site.labels()[..before.len()], before, "no point that was offered is lost");
}

#[test]
fn promise_3_a_vault_that_went_back_while_it_was_away_is_compared() {
    let site = Site::protected();
    site.copy("vault", "backup");
    let protection = site.open();
    work(&protection, 30..40);
    protection.stop(LIMIT).expect("stop");
    site.unmount();
    let protection = site.open();
    mark_all(&protection, 50..52);
    site.copy("backup", "unmounted");
    site.mount();
    until(LIMIT, "a comparison", || !site.causes().is_empty());
    site.check_point(&protection);
    assert_eq!(site.causes(), [Cause::VaultWentBack]);
}

#[test]
fn promise_9_a_source_whose_volume_was_taken_while_the_vault_was_away_is_fenced() {
    let site = Site::protected();
    let away = Arc::new(MemoryDevice::new(BLOCK * BLOCKS));
    let over = FailoverOptions::new("disk", site.vault(), site.path("away"), away)
        .policy(site.policy.clone())
        .disk_reads_zero(true)
        .start()
        .expect("fail over");
    over.commit().expect("commit");
    over.stop(LIMIT).expect("stop");
    site.unmount();
    let protection = site.open();
    mark_all(&protection, 30..33);
    site.mount();
    until(LIMIT, "a fence", || protection.stats().fenced);
    until(LIMIT, "its late writes", || {
        let events = site.events.lock().expect("events");
        events.iter().any(|event| matches!(event.kind, EventKind::LateWrites { records: 6.., .. }))
    });
    assert_eq!(protection.stop(LIMIT).expect_err("fenced").kind(), ErrorKind::Fenced);
    let branch = site.replica().branch(hrl::Epoch(1)).expect("branch");
    let view = branch.view(&At::Newest, &ViewOptions::default()).expect("view");
    assert!(content(&view) == content(&*self::Site::disk(&site)), "its changes are on the branch");
    // From now on it knows that, with or without a vault.
    assert!(!site.path("machine/state/volume").exists());
    site.unmount();
    let error = site.try_open("machine/state", site.disk()).map(drop).expect_err("not its own");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

#[test]
fn a_vault_that_comes_back_without_the_volume_ends_the_session() {
    let site = Site::protected();
    site.unmount();
    let protection = site.open();
    mark_all(&protection, 30..32);
    std::fs::remove_dir_all(site.path("unmounted/volumes")).expect("remove");
    site.mount();
    until(LIMIT, "an event", || site.has(&EventKind::VolumeLost));
    let error = protection.stop(LIMIT).expect_err("nothing is replicated");
    assert_eq!(error.kind(), ErrorKind::Diverged);
}

#[test]
fn no_vault_is_made_at_a_mount_point_and_only_a_known_volume_is_served_without_it() {
    let site = Site::protected();
    site.unmount();
    let fresh = Arc::new(MemoryDevice::new(BLOCK * BLOCKS));
    let error = site.try_open("fresh", fresh).map(drop).expect_err("nothing is known");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let text = error.to_string();
    assert!(text.contains("hrl-vault") && text.contains("mounted"), "{text}");
    assert!(text.contains(&site.path("vault").display().to_string()), "{text}");
    let protection = site.open();
    write(&protection, 1, 2);
    assert!(site.path("vault").read_dir().expect("list").next().is_none());
    let events = site.events.lock().expect("events");
    let told = events.iter().find(|event| event.kind == EventKind::VaultUnavailable);
    assert!(told.is_some_and(|event| event.message.contains("mounted")), "{told:?}");
}

#[test]
fn promise_10_a_volume_is_not_served_without_its_vault_by_another_key() {
    let mut site = Site::protected();
    site.unmount();
    site.key = Some(WrappingKey::from_bytes([8; 32]));
    let error = site.try_open("machine/state", site.disk()).map(drop).expect_err("another key");
    assert_eq!(error.kind(), ErrorKind::WrongKey);
    site.key = None;
    let error = site.try_open("machine/state", site.disk()).map(drop).expect_err("no key");
    assert_eq!(error.kind(), ErrorKind::WrongKey);
}

#[test]
fn a_disk_that_must_be_read_whole_waits_for_the_vault_instead_of_filling_the_spool() {
    let mut site = Site::new();
    let protection = site.open();
    protection.wait_ordered(LIMIT).expect("ordered");
    work(&protection, 0..60);
    protection.stop(LIMIT).expect("stop");
    // Nothing proves what the disk is.
    std::fs::remove_file(site.path("machine/state/dirty")).expect("remove");
    site.policy.spool_bytes_max = 8 << 20;
    site.unmount();
    let protection = site.open();
    protection.wait_ordered(SOON).expect_err("it waits");
    write(&protection, 5, 77);
    let stats = protection.stats();
    assert_eq!((stats.mode, stats.resync_bytes_read), (Mode::Dirty, 0));
    assert!(stats.rpo > Duration::ZERO);
    site.mount();
    site.check_point(&protection);
    let journaled = site.events.lock().expect("events").iter().find_map(|event| match event.kind {
        EventKind::ResyncFinished { bytes_journaled, .. } if event.message.contains("read 4") => {
            Some(bytes_journaled)
        }
        _ => None,
    });
    assert_eq!(journaled, Some(BLOCK), "the rest is in the vault already");
    assert_eq!(site.causes(), []);
}

#[test]
fn promise_9_a_volume_that_was_handed_over_takes_no_writes_without_its_vault() {
    let site = Site::protected();
    let protection = site.open();
    let away = Arc::new(MemoryDevice::new(BLOCK * BLOCKS));
    let over = FailoverOptions::new("disk", site.vault(), site.path("away"), away)
        .policy(site.policy.clone())
        .disk_reads_zero(true)
        .planned(LIMIT)
        .start()
        .expect("fail over");
    assert!(protection.stats().handed_over);
    drop(protection);
    site.unmount();
    let protection = site.open();
    assert!(protection.stats().handed_over && protection.stats().vault_away);
    let error = protection.volume().write(0, &[1; 4096], Durability::Cached);
    assert_eq!(error.expect_err("handed over").kind(), ErrorKind::Fenced);
    site.mount();
    over.cancel().expect("cancel");
    until(LIMIT, "the volume back", || !protection.stats().handed_over);
    site.check_point(&protection);
}
