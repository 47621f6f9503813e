//! Readers of a vault that went back, or of a copy that no longer grows: each such vault is sound in
//! itself, so only what a reader saw before, or expects, can tell.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use hrl::device::{BlockDevice, Durability, MemoryDevice};
use hrl::journal::{PointKind, WrappingKey};
use hrl::replica::{At, Expected, Replica};
use hrl::store::DirStore;
use hrl::vault::{CatalogEdit, ShredOptions, Vault};
use hrl::{ErrorKind, Policy, Protection, ProtectionOptions, Sequence, SystemClock, Timestamp};

const LIMIT: Duration = Duration::from_secs(60);

fn vault_with(path: &Path, key: u8) -> Vault {
    let store = Arc::new(DirStore::create(path).expect("store"));
    let key = WrappingKey::from_bytes([key; 32]);
    Vault::create(store, Some(key), SystemClock::shared()).expect("vault")
}

fn vault(path: &Path) -> Vault {
    vault_with(path, 7)
}

fn policy() -> Policy {
    Policy {
        segment_interval: Duration::from_millis(20),
        crash_point_interval: Duration::ZERO,
        retention: None,
        ..Policy::default()
    }
}

fn protect(vault: Vault, state: PathBuf, policy: Policy) -> Protection {
    let disk = Arc::new(MemoryDevice::new(1 << 20));
    let protection = ProtectionOptions::new("disk", disk, vault, state)
        .policy(policy)
        .take_over(true)
        .open()
        .expect("protect");
    protection.wait_ordered(LIMIT).expect("ordered");
    protection.wait_replicated(LIMIT).expect("replicated");
    protection
}

/// Ships a point, and returns the volume with it.
fn point(protection: &Protection, vault: &Vault, label: &str) -> Replica {
    protection.volume().write(0, &[label.as_bytes()[0]; 4096], Durability::Cached).expect("write");
    protection.mark(PointKind::Crash, label).expect("mark");
    protection.wait_replicated(LIMIT).expect("replicated");
    vault.replica("disk").expect("replica")
}

fn copy(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    assert!(Command::new("cp").arg("-a").args([from, to]).status().expect("cp").success());
}

fn refused(replica: &Replica, expected: &Expected) -> String {
    let error = replica.check_at_least(expected).expect_err("too old");
    assert_eq!(error.kind(), ErrorKind::Diverged, "{error}");
    error.to_string()
}

#[test]
fn promise_10_a_reader_notices_a_vault_that_went_back_by_the_version_that_it_saw() {
    let directory = tempfile::tempdir().expect("directory");
    let path = |name: &str| directory.path().join(name);
    let whole = vault(&path("vault"));
    let protection = protect(whole.clone(), path("state"), policy());
    let early = point(&protection, &whole, "early").version();
    copy(&path("vault"), &path("old"));
    let late = point(&protection, &whole, "late").version();
    protection.stop(LIMIT).expect("stop");

    let newest = whole.replica("disk").expect("replica");
    for seen in [early, late] {
        newest.check_at_least(&seen.into()).expect("it has both");
    }
    assert!(late.number > early.number && late.sequence > early.sequence && late.time > early.time);

    let old = vault(&path("old")).replica("disk").expect("sound in itself");
    assert!(old.verify(&|_, _| true).expect("verify").is_sound());
    old.check_at_least(&early.into()).expect("the version that it has");
    let told = refused(&old, &late.into());
    for part in ["disk in", "/old", &format!("version {}", late.number)] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert!(told.contains(&format!("found catalog version {}", early.number)), "{told}");

    // A copy that went on by itself: the version of the same number is another one.
    let other = protect(vault(&path("old")), path("other"), policy());
    for label in ["a", "b"] {
        point(&other, &vault(&path("old")), label);
    }
    let other = vault(&path("old")).replica("disk").expect("replica");
    assert!(other.version().number > late.number);
    other.check_at_least(&early.into()).expect("the version that both have");
    assert!(refused(&other, &late.into()).contains("another history"));
}

#[test]
fn promise_10_a_reader_names_the_least_that_it_expects() {
    let directory = tempfile::tempdir().expect("directory");
    let vault = vault(&directory.path().join("vault"));
    let protection = protect(vault.clone(), directory.path().join("state"), policy());
    let replica = point(&protection, &vault, "here");
    let version = replica.version();
    let here = replica.points().pop().expect("the point");
    let time = version.time.expect("a time");
    let later = Timestamp(time.0 + 1);
    let next = version.sequence.0 + 1;
    for text in [
        format!("v{}", version.number),
        version.to_string(),
        time.to_string(),
        version.sequence.to_string(),
        here.id.to_string(),
        format!("point:{}", &here.id.to_string()[..8]),
        "here".into(),
        "label:here".into(),
    ] {
        replica.check_at_least(&Expected::parse(&text).expect(&text)).expect(&text);
    }
    for expected in [
        Expected::Version(version.number + 1),
        Expected::State(At::Time(later)),
        Expected::State(At::Sequence(Sequence(next))),
        Expected::State(At::Label("there".into())),
        Expected::State(At::PointPrefix("ffffffffffffffff".into())),
        Expected::Seen { number: version.number, hash: [1; 32] },
    ] {
        refused(&replica, &expected);
    }
}

#[test]
fn an_idle_source_gives_a_sign_of_life_that_a_frozen_copy_lacks() {
    let directory = tempfile::tempdir().expect("directory");
    let path = |name: &str| directory.path().join(name);
    let beating = Policy { heartbeat_interval: Duration::from_millis(50), ..policy() };
    let silent = Policy { heartbeat_interval: Duration::ZERO, ..policy() };
    let (alive, quiet) = (vault(&path("alive")), vault(&path("quiet")));
    let protection = protect(alive.clone(), path("a"), beating);
    let other = protect(quiet.clone(), path("b"), silent);
    let (first, still) = (point(&protection, &alive, "p"), point(&other, &quiet, "p"));
    copy(&path("alive"), &path("frozen"));

    let mut looks = 0..1000;
    let mut newest = first.clone();
    while newest.version().number < first.version().number + 66 {
        assert!(looks.next().is_some(), "{:?}", newest.version());
        std::thread::sleep(Duration::from_millis(50));
        newest.refresh().expect("refresh");
    }
    assert_eq!(newest.version().sequence, first.version().sequence, "nothing was written");
    assert!(newest.version().time > first.version().time);
    assert!(newest.verify(&|_, _| true).expect("verify").is_sound());
    let again = alive.replica("disk").expect("read from a snapshot on");
    assert!(again.version().time >= newest.version().time);
    let time = Expected::State(At::Time(newest.version().time.expect("a time")));
    let frozen = vault(&path("frozen")).replica("disk").expect("replica");
    refused(&frozen, &time);

    let unchanged = quiet.replica("disk").expect("replica").version();
    assert_eq!(unchanged, still.version(), "an interval of zero switches it off");
    let mut catalog = again.into_catalog();
    let error =
        catalog.amend(&[CatalogEdit::Heartbeat(Timestamp(1))], &|| Ok(())).expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "only the source is alive by its own word");
}

#[test]
fn a_volume_that_cannot_be_read_hides_no_group_points_of_others() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("vault");
    for (name, key) in [("mine", 7), ("foreign", 8), ("gone", 7), ("damaged", 7)] {
        vault_with(&path, key).create_volume(name, 1 << 20, 512, false).expect("volume");
    }
    std::fs::write(path.join("volumes/damaged/volume"), b"x").expect("damage");
    vault(&path).shred("gone", ShredOptions::default()).expect("shred");
    let found = vault(&path).group_points().expect("listed");
    let unread: Vec<_> =
        found.unread.iter().map(|one| (one.volume.as_str(), one.error.kind())).collect();
    assert_eq!(unread, [("damaged", ErrorKind::Corrupt), ("foreign", ErrorKind::WrongKey)]);
}
