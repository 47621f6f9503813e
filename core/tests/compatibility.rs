//! Data of an older version is read, continued and failed over: a vault, disks, and state
//! directories of agents.
//!
//! `core/tests/fixtures/VERSION` holds what the version made, as an archive, and the program that
//! made it. In the archive: a vault with four volumes, two of them encrypted with wrapped keys
//! (rotated since: `old-key`, `key`); and the file `expected`, with the BLAKE3 hash of the disk at
//! each point, at the newest state, and of each disk as it was left.
//!
//! | volume | what is special |
//! |---|---|
//! | `ledger` | points of every kind, folded and not; pin, legal hold, verdicts; a test failover; in a group; agent stopped |
//! | `packed` | written through a gateway that packs; in the same group; agent stopped |
//! | `spooled` | agent killed with segments in its spool, and a write that only its dirty map knows |
//! | `moved` | failed over to a second agent, stopped since; what the fenced first one wrote later is a branch |
//!
//! `fixtures/segments` holds the encrypted example of `core/docs/format.md` as each version of the
//! segment format wrote it.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use hrl::capture::{DirtyMap, LastSession};
use hrl::device::{BlockDevice, Durability, FileDevice, FileDeviceOptions, SystemFiles};
use hrl::failover::{FailoverOptions, Follower};
use hrl::journal::{BytesSource, KeyRing, PointKind, Segment, SegmentKind, VolumeKey, WrappingKey};
use hrl::replica::{At, Replica, ViewOptions};
use hrl::store::{DirStore, Store};
use hrl::vault::{Stage, Vault};
use hrl::{Epoch, ErrorKind, PointId, Policy, Protection, ProtectionOptions, SystemClock};

const LIMIT: Duration = Duration::from_secs(60);
const REGION_BYTES: u64 = 64 << 10;
const BLOCK: usize = 4096;

/// A line of the file `expected`.
struct Expected {
    kind: String,
    /// A volume, a branch, or a disk.
    name: String,
    point: String,
    hash: String,
}

/// The unpacked data of an older version.
struct Left {
    directory: tempfile::TempDir,
    expected: Vec<Expected>,
}

impl Left {
    fn unpack() -> Self {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("directory");
        let archive = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/0.1.0/made.tar.gz");
        // Unpacked by `tar`, because an agent compares the modification time of its disk to the
        // nanosecond.
        let done = Command::new("tar")
            .args(["--strip-components=1", "-xzf", archive, "-C"])
            .arg(directory.path())
            .status();
        assert!(done.expect("tar").success());
        let text = std::fs::read_to_string(directory.path().join("expected")).expect("expected");
        let parse = |line: &str| {
            let [kind, name, point, hash] =
                line.split(' ').map(str::to_owned).collect::<Vec<_>>().try_into().expect("4 words");
            Expected { kind, name, point, hash }
        };
        Self { directory, expected: text.lines().map(parse).collect() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn disk(&self, name: &str) -> Arc<dyn BlockDevice> {
        let path = self.path(name);
        Arc::new(FileDevice::open(&path, &FileDeviceOptions::default()).expect("disk"))
    }

    fn store(&self) -> Arc<dyn Store> {
        Arc::new(DirStore::open(&self.path("vault")).expect("store"))
    }

    fn vault_with(&self, key: Option<&str>) -> Vault {
        let key = key.map(|key| WrappingKey::from_file(&self.path(key)).expect("key"));
        Vault::open(self.store(), key, SystemClock::shared()).expect("vault")
    }

    /// Opens the vault for a volume or its branch.
    fn vault(&self, volume: &str) -> Vault {
        let encrypted = volume.starts_with("ledger") || volume.starts_with("moved");
        self.vault_with(encrypted.then_some("key"))
    }

    fn replica(&self, volume: &str) -> Replica {
        self.vault(volume).replica(volume).expect("replica")
    }

    fn expected(&self, kind: &str, name: &str) -> Vec<&Expected> {
        self.expected.iter().filter(|line| line.kind == kind && line.name == name).collect()
    }

    fn protect(&self, volume: &str, at: &str) -> hrl::Result<Protection> {
        let (disk, state) = (self.disk(&format!("{at}/disk")), self.path(&format!("{at}/state")));
        ProtectionOptions::new(volume, disk, self.vault(volume), state).policy(policy()).open()
    }

    /// Checks that every expected point has its bytes, and that everything in the vault is sound.
    fn check_points(&self, volume: &str) {
        let replica = self.replica(volume);
        let points = self.expected("point", volume);
        assert!(!points.is_empty());
        for line in points {
            let point = PointId::parse(&line.point).expect("an identity");
            assert_eq!(seen(&replica, &At::Point(point)), line.hash, "{volume} at {point}");
        }
        check_sound(&replica);
    }

    /// Checks that the agent's disk, the newest state and a new point are the same, and that older
    /// points are unchanged.
    fn check_going_on(&self, protection: &Protection, volume: &str) {
        for number in 0..20 {
            write(protection, number * 3, 200 + number as u8);
        }
        let point = protection.mark(PointKind::Crash, "new").expect("mark");
        protection.wait_replicated(LIMIT).expect("replicated");
        let disk = hash(&**protection.volume());
        assert_eq!(seen(&self.replica(volume), &At::Point(point.id)), disk);
        assert_eq!(seen(&self.replica(volume), &At::Newest), disk);
        self.check_points(volume);
    }
}

fn policy() -> Policy {
    Policy {
        segment_interval: Duration::from_millis(20),
        region_bytes: REGION_BYTES,
        crash_point_interval: Duration::ZERO,
        failover_poll_interval: Duration::from_millis(50),
        retry_interval_max: Duration::from_millis(100),
        ..Policy::default()
    }
}

fn write(protection: &Protection, block: u64, tag: u8) {
    let data = [tag; BLOCK];
    protection.volume().write(block * BLOCK as u64, &data, Durability::Cached).expect("write");
}

fn hash(device: &dyn BlockDevice) -> String {
    let mut bytes = vec![0; device.size_bytes() as usize];
    device.read(0, &mut bytes).expect("read");
    blake3::hash(&bytes).to_hex().to_string()
}

fn seen(replica: &Replica, at: &At) -> String {
    hash(&replica.view(at, &ViewOptions::default()).expect("view"))
}

fn check_sound(replica: &Replica) {
    let report = replica.verify(&|_, _| true).expect("verify");
    assert!(report.is_sound(), "{report:?}");
}

#[test]
fn encrypted_segments_of_each_version_of_the_format_are_read() {
    let mut secret = [0; 32];
    (0..).zip(&mut secret).for_each(|(value, byte)| *byte = value);
    let keys = KeyRing::from(VolumeKey::from_bytes(secret));
    for version in ["1.0", "1.1"] {
        let name = format!("tests/fixtures/segments/encrypted-{version}.hrl");
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name);
        let bytes = std::fs::read(path).expect("read");
        let open = |bytes: Vec<u8>| Segment::open(Box::new(BytesSource::new("old", bytes)), &keys);
        let segment = open(bytes.clone()).expect("opens");
        segment.verify().expect("sound");
        let frame = segment.frame(0).expect("a frame");
        assert_eq!(frame.data()[..16], *b"0123456789abcdef", "{version}");
        assert_eq!(segment.summary().marks[0].mark.label, "demo");
        for (at, what) in [(297, "tag"), (330, "content"), (825, "tag of the footer")] {
            let mut altered = bytes.clone();
            altered[at] ^= 1;
            mend_checksums(&mut altered);
            let read = open(altered).and_then(|segment| segment.verify());
            assert_eq!(read.expect_err(what).kind(), ErrorKind::Corrupt, "{version}");
        }
    }
}

/// Corrects the checksums of the first frame and of the footer, as an attacker can.
fn mend_checksums(segment: &mut [u8]) {
    let frame = crc32fast::hash(&[&segment[256..316], &segment[320..456]].concat());
    segment[316..320].copy_from_slice(&frame.to_le_bytes());
    let end = segment.len() - 4;
    let footer = crc32fast::hash(&segment[end - 124..end]);
    segment[end..].copy_from_slice(&footer.to_le_bytes());
}

#[test]
fn every_state_of_an_older_vault_is_read_with_the_bytes_that_it_had() {
    let left = Left::unpack();
    for volume in ["ledger", "packed", "moved", "moved@1"] {
        left.check_points(volume);
        let [newest] = left.expected("newest", volume)[..] else { panic!("one newest state") };
        assert_eq!(seen(&left.replica(volume), &At::Newest), newest.hash, "{volume}");
    }
    for line in left.expected.iter().filter(|line| line.kind == "disk") {
        assert_eq!(hash(&*left.disk(&line.name)), line.hash, "{}", line.name);
    }
    // Only one of the killed agent's points was shipped.
    let shipped = left.replica("spooled");
    let points = left.expected("point", "spooled");
    let known =
        |line: &&&Expected| shipped.points().iter().any(|point| point.id.to_string() == line.point);
    assert_eq!((points.iter().filter(known).count(), points.len()), (1, 5));
    check_sound(&shipped);
}

#[test]
fn annotations_folds_packs_groups_and_the_life_cycle_of_an_older_vault_are_understood() {
    let left = Left::unpack();
    let replica = left.replica("ledger");
    let points = replica.points();
    let labelled = |label: &str| points.iter().find(|point| point.label == label).expect("a point");
    assert_eq!(labelled("step 2").kind, PointKind::Declared);
    assert_eq!(labelled("step 2").pins[0].reason, "kept");
    assert!(labelled("step 6").pins[0].is_legal_hold());
    let verdict = &labelled("step 4").verdicts[0];
    assert_eq!((verdict.ok, verdict.text.as_str()), (true, "clean"));
    let kinds = |kind: SegmentKind| {
        replica.catalog().segments().iter().filter(|entry| entry.summary.kind == kind).count()
    };
    assert!(kinds(SegmentKind::Image) > 0 && kinds(SegmentKind::Merged) > 0);
    assert!(kinds(SegmentKind::Log) > 3);
    assert!(!left.store().list("volumes/packed/packs/").expect("list").is_empty());

    let both = labelled("both");
    assert_eq!(both.kind, PointKind::GroupCrash);
    let other = left.replica("packed").points();
    assert!(other.iter().any(|point| point.group == both.group && point.group.is_some()));

    let moved = left.replica("moved");
    assert_eq!(moved.catalog().epoch(), Epoch(2));
    assert_eq!(moved.catalog().lifecycle().stage(), Stage::Committed);
    assert!(!moved.catalog().branch(Epoch(1)).expect("branch").is_empty());

    let old = left.vault_with(Some("old-key")).replica("ledger").err().expect("rotated since");
    assert_eq!(old.kind(), ErrorKind::WrongKey, "{old}");
    let none = left.vault_with(None).replica("ledger").err().expect("encrypted");
    assert_eq!(none.kind(), ErrorKind::WrongKey, "{none}");
}

#[test]
fn an_agent_that_an_older_version_stopped_goes_on_without_reading_its_disk() {
    let left = Left::unpack();
    for volume in ["ledger", "packed"] {
        let protection = left.protect(volume, volume).expect("protect");
        protection.wait_ordered(LIMIT).expect("ordered");
        let stats = protection.stats();
        assert_eq!((stats.resync_bytes_read, stats.resync_bytes_left), (0, 0), "{volume}");
        left.check_going_on(&protection, volume);
        protection.stop(LIMIT).expect("stop");
    }
}

#[test]
fn an_agent_that_was_killed_ships_its_spool_and_reads_what_its_map_marks() {
    let left = Left::unpack();
    let (map, state) =
        DirtyMap::open(&SystemFiles, &left.path("spooled/state/dirty")).expect("dirty map");
    assert_eq!(state, LastSession::InUse);
    let marked: u64 = map.dirty_regions().iter().map(|range| range.count()).sum();
    drop(map);
    let protection = left.protect("spooled", "spooled").expect("protect");
    protection.wait_ordered(LIMIT).expect("ordered");
    protection.wait_replicated(LIMIT).expect("replicated");
    let read = protection.stats().resync_bytes_read;
    assert!(read > 0 && read <= marked * REGION_BYTES, "{read} bytes, {marked} regions marked");
    let [newest] = left.expected("newest", "spooled")[..] else { panic!("one newest state") };
    assert_eq!(seen(&left.replica("spooled"), &At::Newest), newest.hash);
    left.check_going_on(&protection, "spooled");
    protection.stop(LIMIT).expect("stop");
}

#[test]
fn a_volume_of_an_older_version_fails_over_and_back() {
    let left = Left::unpack();
    let home = left.protect("ledger", "ledger").expect("protect");
    home.wait_ordered(LIMIT).expect("ordered");
    write(&home, 1, 91);
    home.stop(LIMIT).expect("stop");
    let at_home = left.disk("ledger/disk");
    let (away, options) = (left.path("away"), FileDeviceOptions::default());
    let options = FileDeviceOptions { create_bytes: Some(at_home.size_bytes()), ..options };
    let disk = Arc::new(FileDevice::open(&away, &options).expect("disk"));
    let over = FailoverOptions::new("ledger", left.vault("ledger"), left.path("away-state"), disk)
        .policy(policy())
        .disk_reads_zero(true)
        .at(At::Newest)
        .start()
        .expect("fail over");
    assert_eq!(hash(&**over.volume()), hash(&*at_home));
    over.commit().expect("commit");
    left.check_going_on(over.protection(), "ledger");
    back_home(&left, "ledger", "ledger", over.protection());
}

#[test]
fn a_volume_that_an_older_version_failed_over_comes_home() {
    let left = Left::unpack();
    let fenced = left.protect("moved", "moved/home").err().expect("the old agent is refused");
    assert_eq!(fenced.kind(), ErrorKind::Fenced, "{fenced}");
    let away = left.protect("moved", "moved/away").expect("protect");
    away.wait_ordered(LIMIT).expect("ordered");
    assert_eq!(away.stats().resync_bytes_read, 0, "promise 4");
    left.check_going_on(&away, "moved");
    back_home(&left, "moved", "moved/home", &away);
    left.check_points("moved@1");
}

/// The first agent's disk follows by its differences, and its agent takes the volume back.
fn back_home(left: &Left, volume: &str, at: &str, away: &Protection) {
    let (state, disk) = (left.path(&format!("{at}/state")), left.disk(&format!("{at}/disk")));
    let clock = SystemClock::shared();
    let mut follower =
        Follower::open(volume, left.vault(volume), state, disk.clone(), clock).expect("follow");
    assert_eq!(follower.why_everywhere(), None, "what differs is known");
    follower.catch_up(&At::Newest, &|_, _| true).expect("catch up");
    follower.record().expect("record");
    assert_eq!(hash(&*disk), hash(&**away.volume()));
    write(away, 2, 92);
    let (home, _) = follower
        .fail_back(Some(LIMIT), policy(), hrl::no_events(), &|_, _| true)
        .expect("fail back");
    assert_eq!(left.replica(volume).catalog().lifecycle().stage(), Stage::Protected);
    let refused = away.volume().write(0, &[1; BLOCK], Durability::Cached).expect_err("handed over");
    assert_eq!(refused.kind(), ErrorKind::Fenced, "{refused}");
    assert_eq!(hash(&*disk), hash(&**away.volume()));
    left.check_going_on(&home, volume);
    home.stop(LIMIT).expect("stop");
}
