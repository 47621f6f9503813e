//! Promise 10 against somebody who has no key and may put, move and alter objects of a vault: what
//! belongs to another volume is refused, and no marker takes anything away.

use super::tests::{Rig, SIZE, mark, record};
use super::*;
use crate::bytes::Writer;
use crate::error::ErrorKind;
use crate::journal::{Body, WrappingKey, wrap_version_2};
use crate::store::get_all;
use crate::units::{PointId, Timestamp};
use crate::vault::*;

const KEY: [u8; 32] = [1; 32];

/// A volume with two points, after which each write was another.
fn rig(encrypted: bool) -> Rig {
    let mut rig = Rig::seeded(encrypted, 42);
    rig.add(&[record(1, Body::Write { offset: 0, data: &[1; 512] }), mark(2, "first")]);
    rig.add(&[record(3, Body::Write { offset: 0, data: &[2; 512] }), mark(4, "second")]);
    rig
}

fn content(rig: &Rig, object: &str) -> Vec<u8> {
    get_all(&*rig.store, object, 1 << 20).expect("read")
}

fn replace(rig: &Rig, object: &str, bytes: &[u8]) {
    rig.store.delete(object).expect("delete");
    rig.store.put(object, bytes).expect("put");
}

/// Lays the directory of the volume over that of another one.
fn lay_over(rig: &Rig, victim: &str) {
    for object in rig.store.list(&layout::volume_prefix(victim)).expect("list") {
        rig.store.delete(&object.name).expect("delete");
    }
    for object in rig.store.list("volumes/disk/").expect("list") {
        let below = object.name.strip_prefix("volumes/disk/").expect("below");
        let to = format!("volumes/{victim}/{below}");
        rig.store.put(&to, &content(rig, &object.name)).expect("put");
    }
}

/// Returns a record with these bytes in place of its own, and a checksum that is right.
fn altered(record: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut record = record.to_vec();
    record[at..at + bytes.len()].copy_from_slice(bytes);
    mend_volume_record(&mut record);
    record
}

/// Returns a record as version 1.0 wrote it, which had no name.
fn without_name(record: &[u8]) -> Vec<u8> {
    let mut old = record[..62].to_vec();
    old[7] = 0;
    old.put_crc32_le();
    old
}

fn refused(rig: &Rig, volume: &str) -> Error {
    rig.vault.replica(volume).map(drop).expect_err("another volume's bytes")
}

/// Wraps the volume's key as version 2 did, which bound it to identities alone.
fn wrap_as_version_2(rig: &Rig, volume: &str) {
    let keys = rig.store.list(&layout::keys_prefix(volume)).expect("list");
    let key = rig.vault.replica("disk").expect("open").keys().newest().expect("key");
    let wrapping = WrappingKey::from_bytes(KEY);
    replace(rig, &keys[0].name, &wrap_version_2(&wrapping, &key, rig.info.id, &*rig.clock));
}

#[test]
fn promise_10_the_directory_of_one_volume_is_never_read_as_another() {
    for encrypted in [false, true] {
        let rig = rig(encrypted);
        rig.vault.create_volume("amy", SIZE, 512, false).expect("the victim");
        lay_over(&rig, "amy");
        let error = refused(&rig, "amy");
        assert_eq!((error.kind(), error.object()), (ErrorKind::Corrupt, "volumes/amy/volume"));
        assert!(error.to_string().contains("disk"), "{error}");
        // The thief gives the record the other name. The names are of different lengths on purpose.
        let record = content(&rig, "volumes/disk/volume");
        let mut renamed = without_name(&record)[..62].to_vec();
        renamed[7] = 1;
        renamed.put_u16_le(3).put_bytes(b"amy").put_crc32_le();
        replace(&rig, "volumes/amy/volume", &renamed);
        let error = refused(&rig, "amy");
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        // A record without a name.
        replace(&rig, "volumes/amy/volume", &without_name(&record));
        let error = refused(&rig, "amy");
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        rig.vault.replica("disk").expect("the other one is unharmed");
    }
}

/// Records had no names once, and keys were not bound to one; but the catalog lists objects by
/// their full names.
#[test]
fn promise_10_the_directory_of_an_old_volume_is_never_read_as_another() {
    for encrypted in [false, true] {
        let rig = rig(encrypted);
        let record = content(&rig, "volumes/disk/volume");
        replace(&rig, "volumes/disk/volume", &without_name(&record));
        if encrypted {
            // The key of this version is bound to the name, so the record alone was no way back.
            wrap_as_version_2(&rig, "disk");
        }
        let view = rig.vault.replica("disk").expect("old volumes are read");
        view.view(&At::Newest, &ViewOptions::default()).expect("view");
        rig.vault.create_volume("amy", SIZE, 512, false).expect("the victim");
        lay_over(&rig, "amy");
        let error = refused(&rig, "amy");
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert!(error.to_string().contains("volumes/disk/segments/"), "{error}");
    }
}

#[test]
fn promise_10_an_altered_record_of_an_encrypted_volume_is_refused() {
    let rig = rig(true);
    let object = "volumes/disk/volume";
    let record = content(&rig, object);
    let alterations: [(&str, Vec<u8>); 6] = [
        ("another size", altered(&record, 24, &(SIZE * 2).to_le_bytes())),
        ("another block size", altered(&record, 32, &4096_u32.to_le_bytes())),
        ("another time", altered(&record, 36, &7_i64.to_le_bytes())),
        ("another kind", altered(&record, 44, &[1])),
        ("another identity", altered(&record, 8, &[9; 16])),
        ("no name, and another kind", without_name(&altered(&record, 44, &[1]))),
    ];
    for (what, bytes) in alterations {
        replace(&rig, object, &bytes);
        let error = refused(&rig, "disk");
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error}");
        assert!(error.object().starts_with("volumes/disk/keys/"), "{what}: {error}");
    }
    // Without its name the record says nothing else, and the key is bound to the name all the same.
    replace(&rig, object, &without_name(&record));
    rig.vault.replica("disk").expect("the same volume");
    replace(&rig, object, &altered(&record, 45, &[0]));
    let error = refused(&rig, "disk");
    assert_eq!(error.kind(), ErrorKind::WrongKey, "no key at all: {error}");
}

/// An agent has the key in memory and opens nothing again.
#[test]
fn promise_10_an_agent_notices_another_record_under_the_name_of_its_volume() {
    let rig = rig(false);
    let keys = crate::journal::KeyRing::default();
    rig.vault.replica_with_keys(&rig.info, &keys).expect("as it was opened");
    let record = content(&rig, "volumes/disk/volume");
    replace(&rig, "volumes/disk/volume", &altered(&record, 24, &(SIZE * 2).to_le_bytes()));
    let error = rig.vault.replica_with_keys(&rig.info, &keys).map(drop).expect_err("another size");
    assert_eq!((error.kind(), error.object()), (ErrorKind::Corrupt, "volumes/disk/volume"));
}

#[test]
fn a_rotation_binds_the_key_of_an_old_volume_to_its_name_and_properties() {
    let rig = rig(true);
    let record = content(&rig, "volumes/disk/volume");
    wrap_as_version_2(&rig, "disk");
    replace(&rig, "volumes/disk/volume", &altered(&record, 44, &[1]));
    rig.vault.replica("disk").expect("nothing notices that in an old volume");
    replace(&rig, "volumes/disk/volume", &record);
    let new = WrappingKey::from_bytes([2; 32]);
    rig.vault.rotate_key("disk", &new).expect("rotate");
    let vault = Vault::open(rig.store.clone(), Some(new), rig.clock.clone()).expect("open");
    vault.replica("disk").expect("opens");
    replace(&rig, "volumes/disk/volume", &altered(&record, 44, &[1]));
    let error = vault.replica("disk").map(drop).expect_err("altered");
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
}

/// Markers of a shredded volume that nobody made who has its key.
fn forged_markers(rig: &Rig) -> Vec<Vec<u8>> {
    let mut with_checksum = b"HRLSHR\x01\x00".to_vec();
    with_checksum.put_bytes(&rig.info.id.0).put_zeroes(32).put_crc32_le();
    let mut with_tag = with_checksum[..24].to_vec();
    with_tag.put_bytes(&[7; 32]).put_crc32_le();
    vec![Vec::new(), b"hrl shredded 1\n".to_vec(), with_checksum, with_tag]
}

#[test]
fn promise_10_a_marker_that_nobody_proved_shreds_nothing() {
    for encrypted in [false, true] {
        let rig = rig(encrypted);
        let mark = "volumes/disk/keys/shredded";
        for forged in forged_markers(&rig) {
            rig.store.put(mark, &forged).expect("put");
            let replica = rig.vault.replica("disk").expect("it can still be read");
            let report = replica.verify(&|_, _| true).expect("verify");
            assert!(report.is_sound() && report.points == 2);
            assert!(matches!(&report.notes[..], [note] if note.contains(mark)), "{report:?}");
            assert!(rig.vault.volumes().expect("volumes").iter().all(|info| !info.shredded));
            assert!(!rig.vault.volume("disk").expect("volume").shredded);
            rig.store.delete(mark).expect("delete");
        }
        let replica = rig.vault.replica("disk").expect("open");
        assert!(replica.verify(&|_, _| true).expect("verify").notes.is_empty());
    }
}

#[test]
fn promise_10_a_marker_that_nobody_proved_stops_a_rotation_and_no_key_is_lost() {
    let rig = rig(true);
    let new = WrappingKey::from_bytes([2; 32]);
    let mark = "volumes/disk/keys/shredded";
    for forged in forged_markers(&rig) {
        rig.store.put(mark, &forged).expect("put");
        let error = rig.vault.rotate_key("disk", &new).expect_err("which is true?");
        assert_eq!((error.kind(), error.object()), (ErrorKind::Corrupt, mark), "{error}");
        rig.vault.replica("disk").expect("the old key opens it");
        rig.store.delete(mark).expect("delete");
    }
    rig.vault.rotate_key("disk", &new).expect("rotate");
}

#[test]
fn promise_10_a_marker_that_nobody_proved_does_not_lift_a_legal_hold() {
    let rig = rig(true);
    let mut replica = rig.vault.replica("disk").expect("open");
    replica.pin(&At::Point(PointId([2; 16])), PinUntil::LegalHold, "case 7").expect("legal hold");
    for forged in forged_markers(&rig) {
        rig.store.put("volumes/disk/keys/shredded", &forged).expect("put");
        let error = rig.vault.shred("disk", ShredOptions::default()).expect_err("legal hold");
        assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
        rig.store.delete("volumes/disk/keys/shredded").expect("delete");
    }
    rig.vault.replica("disk").expect("nothing was deleted");
}

#[test]
fn a_marker_that_the_key_proves_counts_while_keys_are_left() {
    let rig = rig(true);
    let keys = rig.store.list("volumes/disk/keys/").expect("list");
    let wrapped = content(&rig, &keys[0].name);
    rig.store.put("volumes/disk/keys/shredded", b"").expect("a forged one is replaced");
    rig.vault.shred("disk", ShredOptions::default()).expect("shred");
    rig.store.put(&keys[0].name, &wrapped).expect("a wrapped key from a backup");
    let error = refused(&rig, "disk");
    assert_eq!(error.kind(), ErrorKind::WrongKey);
    assert!(error.to_string().contains("shredded"), "{error}");
    // The legal hold was checked before, and is not asked for again.
    let again = rig.vault.shred("disk", ShredOptions::default()).expect("again");
    assert_eq!(again, ShredReport { was_shredded: true, keys_deleted: 1, ..again });
    assert!(rig.vault.volume("disk").expect("record").shredded);
}

/// The shredder without the key proves nothing, so it deletes what a rotation adds meanwhile.
#[test]
fn shredding_without_the_key_deletes_keys_until_none_is_left() {
    let rig = rig(true);
    let id = rig.info.key_id.expect("encrypted");
    let adds = Arc::new(AddKeyAtDelete { rig_store: rig.store.clone(), id });
    let vault = Vault::open(adds, None, rig.clock.clone()).expect("open");
    let options = ShredOptions { override_legal_hold: true, ..ShredOptions::default() };
    assert_eq!(vault.shred("disk", options).expect("shred").keys_deleted, 2);
    let left = rig.store.list("volumes/disk/keys/").expect("list");
    assert_eq!(left.len(), 1, "the marker: {left:?}");
}

/// Puts another wrapped key when the first one is deleted.
struct AddKeyAtDelete {
    rig_store: Arc<dyn Store>,
    id: crate::units::KeyId,
}

impl Store for AddKeyAtDelete {
    fn name(&self) -> String {
        self.rig_store.name()
    }
    fn put(&self, name: &str, content: &[u8]) -> Result<crate::store::PutOutcome> {
        self.rig_store.put(name, content)
    }
    fn get(&self, name: &str, range: std::ops::Range<u64>) -> Result<Vec<u8>> {
        self.rig_store.get(name, range)
    }
    fn list(&self, prefix: &str) -> Result<Vec<crate::store::ObjectInfo>> {
        self.rig_store.list(prefix)
    }
    fn head(&self, name: &str) -> Result<Option<crate::store::ObjectInfo>> {
        self.rig_store.head(name)
    }
    fn delete(&self, name: &str) -> Result<()> {
        let another = format!("volumes/disk/keys/{}.{}", self.id, "7".repeat(32));
        if name != another {
            self.rig_store.put(&another, b"wrapped by a new key")?;
        }
        self.rig_store.delete(name)
    }
}

#[test]
fn promise_10_a_gate_hides_no_state_of_a_catalog_without_a_gap() {
    for encrypted in [false, true] {
        let mut rig = rig(encrypted);
        for (from, until) in [(1, u64::MAX >> 1), (0, 9), (2, 3), (7, 9), (1, 2)] {
            let gate = VersionNames::gate("volumes/disk/catalog/", from, until);
            rig.store.put(&gate, b"").expect("put");
            let replica = rig.vault.replica("disk").expect("open");
            assert_eq!((replica.catalog().version(), replica.points().len()), (2, 2));
            let notes = replica.verify(&|_, _| true).expect("verify").notes;
            assert!(matches!(&notes[..], [note] if note.contains(&gate)), "{notes:?}");
            rig.store.delete(&gate).expect("delete");
        }
        // The source goes on under such a gate.
        rig.store.put(&VersionNames::gate("volumes/disk/catalog/", 1, 99), b"").expect("put");
        rig.add(&[mark(5, "third")]);
        let mut replica = rig.vault.replica("disk").expect("open");
        assert_eq!(replica.points().len(), 3);
        // A failover removes it, and nothing else.
        replica.catalog_mut().end_gates().expect("end");
        let left = rig.store.list("volumes/disk/catalog/").expect("list");
        assert_eq!(left.len(), 3, "{left:?}");
    }
}

/// A gate alone makes no gap, and without the key nobody makes a version to make one before.
#[test]
fn promise_10_nobody_without_the_key_makes_a_gap() {
    let rig = rig(true);
    let catalog = "volumes/disk/catalog/";
    rig.store.put(&VersionNames::gate(catalog, 1, 9), b"").expect("put");
    let newest = content(&rig, &format!("{catalog}{:016x}", 2));
    for forged in [b"version".to_vec(), newest] {
        let object = format!("{catalog}{:016x}", 9);
        rig.store.put(&object, &forged).expect("put");
        let replica = rig.vault.replica("disk").expect("it is ignored");
        assert_eq!((replica.catalog().version(), replica.points().len()), (2, 2));
        let notes = replica.notes().expect("notes");
        assert!(notes.iter().any(|note| note.contains(&object)), "{notes:?}");
        rig.store.delete(&object).expect("delete");
    }
    assert_eq!(rig.vault.replica("disk").expect("open").points().len(), 2);
}

/// Adds a third point, and leaves the catalog as a mirror does that died between its versions.
fn died_in_a_run(rig: &mut Rig) -> (String, Vec<u8>) {
    rig.add(&[mark(5, "third")]);
    rig.store.put(&VersionNames::gate("volumes/disk/catalog/", 1, 3), b"").expect("put");
    let missing = format!("volumes/disk/catalog/{:016x}", 2);
    let bytes = content(rig, &missing);
    rig.store.delete(&missing).expect("delete");
    (missing, bytes)
}

#[test]
fn a_gate_holds_readers_while_versions_are_missing_and_a_failover_ends_it() {
    let mut rig = rig(true);
    let (missing, bytes) = died_in_a_run(&mut rig);
    let mut replica = rig.vault.replica("disk").expect("open");
    assert_eq!((replica.catalog().version(), replica.points().len()), (1, 1), "the state before");
    let report = replica.verify(&|_, _| true).expect("verify");
    assert!(report.is_sound() && report.notes.len() == 1, "{report:?}");
    let pin = At::Point(PointId([2; 16]));
    let error = replica.pin(&pin, PinUntil::Forever, "").expect_err("it would be in the middle");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    // The mirror goes on: all states appear at once.
    rig.store.put(&missing, &bytes).expect("put");
    replica.refresh().expect("refresh");
    assert_eq!((replica.catalog().version(), replica.points().len()), (3, 3));
    // It does not, and a failover drops what it cannot use.
    rig.store.delete(&missing).expect("delete");
    let mut replica = rig.vault.replica("disk").expect("open");
    replica.catalog_mut().end_gates().expect("end");
    let left = rig.store.list("volumes/disk/catalog/").expect("list");
    assert_eq!(left.len(), 1, "{left:?}");
    replica.pin(&pin, PinUntil::Forever, "").expect("it can be appended to");
    assert_eq!(rig.vault.replica("disk").expect("open").points()[0].pins.len(), 1);
    assert_eq!(replica.catalog().version(), 2);
}

/// A vault that lost versions, and whose source put one since and is lost.
#[test]
fn a_gap_that_is_accepted_ends_the_catalog_before_it() {
    let mut rig = rig(true);
    assert_eq!(rig.vault.accept_gap("disk").expect("no gap"), None);
    let (missing, bytes) = died_in_a_run(&mut rig);
    for gate in rig.store.list("volumes/disk/catalog/").expect("list") {
        if gate.name.contains('-') {
            rig.store.delete(&gate.name).expect("delete");
        }
    }
    let error = refused(&rig, "disk");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("up to version 1"), "{error}");
    assert_eq!(rig.vault.accept_gap("disk").expect("accept"), Some((1, 3)));
    let replica = rig.vault.replica("disk").expect("open");
    assert_eq!((replica.catalog().version(), replica.points().len()), (1, 1));
    let report = replica.verify(&|_, _| true).expect("verify");
    assert!(report.notes.iter().any(|note| note.contains("lost")), "{:?}", report.notes);
    // What was only away is all there when it returns.
    rig.store.put(&missing, &bytes).expect("put");
    assert_eq!(rig.vault.replica("disk").expect("open").points().len(), 3);
    assert_eq!(rig.vault.accept_gap("disk").expect("no gap any more"), None);
    for number in [1, 2] {
        rig.store.delete(&format!("volumes/disk/catalog/{number:016x}")).expect("delete");
    }
    let error = rig.vault.accept_gap("disk").expect_err("nothing is left");
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
}

#[test]
fn a_failover_drops_nothing_if_the_state_before_the_gate_is_damaged() {
    let mut rig = rig(false);
    died_in_a_run(&mut rig);
    for info in rig.store.list("volumes/disk/segments/").expect("list") {
        rig.store.delete(&info.name).expect("delete");
    }
    let mut replica = rig.vault.replica("disk").expect("open");
    let error = replica.catalog_mut().end_gates().expect_err("nothing is whole");
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert_eq!(rig.store.list("volumes/disk/catalog/").expect("list").len(), 3);
}

fn version(number: u64) -> String {
    layout::catalog_version("volumes/disk/catalog/", number)
}

/// Whoever may add and has no key puts what looks like the next versions, snapshots too.
#[test]
fn promise_13_versions_that_nobody_with_the_key_made_change_nothing() {
    let mut rig = rig(true);
    let sound = content(&rig, &version(2));
    let mut reader = rig.vault.replica("disk").expect("open");
    let mut rival = rig.vault.replica("disk").expect("open").into_catalog();
    let mut late = rig.vault.replica("disk").expect("open").into_catalog();
    let (mut previous, mut put) = (VersionEnvelope::hash(&sound), Vec::new());
    for number in (3..70).chain([128, 1 << 30]) {
        let mut bytes = sound.clone();
        previous = mend_catalog_version(&mut bytes, rig.info.id, number, previous);
        rig.store.put(&version(number), &bytes).expect("put");
        put.push(version(number));
    }
    reader.refresh().expect("refresh");
    for replica in [&reader, &rig.vault.replica("disk").expect("open")] {
        assert_eq!((replica.catalog().version(), replica.points().len()), (2, 2));
        let report = replica.verify(&|_, _| true).expect("verify");
        assert!(report.is_sound(), "{report:?}");
        let noted = |object: &&String| report.notes.iter().any(|note| note.contains(*object));
        assert_eq!(put.iter().filter(noted).count(), put.len(), "{:?}", report.notes);
    }
    assert!(reader.catalog().report_intruders().is_some_and(|text| text.starts_with("69 objects")));
    assert_eq!(reader.catalog().report_intruders(), None, "reported once");
    // A source that has not seen them goes on, and so does everybody else.
    late.append(&rig.source, vec![CatalogEdit::Source(rig.source.clone())]).expect("append");
    assert!(late.report_intruders().is_some());
    rig.add(&[mark(5, "third")]);
    let (point, until) = (PointId([2; 16]), PinUntil::Forever);
    let pin = Pin { point, until, reason: "rival".into(), since: Timestamp(9) };
    rival.amend(&[CatalogEdit::Pin(pin)], &|| Ok(())).expect("amend");
    reader.pin(&At::Point(PointId([4; 16])), PinUntil::Forever, "reader").expect("pin");
    let replica = rig.vault.replica("disk").expect("open");
    assert_eq!((replica.points().len(), replica.catalog().pins().len()), (3, 2));
    assert_eq!(replica.catalog().version(), (1 << 30) + 64 + 3, "beyond all of them");
    assert!(replica.verify(&|_, _| true).expect("verify").is_sound());
    assert!(replica.notes().expect("notes").is_empty(), "nobody reads there any more");
    // Somebody removes them: nothing changes, for a handle of before either.
    for object in &put {
        rig.store.delete(object).expect("delete");
    }
    rival.refresh().expect("refresh");
    rig.add(&[mark(6, "fourth")]);
    assert_eq!(rig.vault.replica("disk").expect("open").points().len(), 4);
}

/// An altered version is no intruder, unless it is the newest. Then whoever saw it notices.
#[test]
fn promise_10_an_altered_version_is_noticed_by_those_that_follow_or_remember_it() {
    let mut rig = rig(true);
    rig.add(&[mark(5, "third")]);
    let reader = rig.vault.replica("disk").expect("open");
    let (newest, hash) = (reader.catalog().version(), reader.catalog().version_hash());
    for number in 1..=newest {
        let sound = content(&rig, &version(number));
        let mut altered = sound.clone();
        let at = altered.len() / 2;
        altered[at] ^= 1;
        replace(&rig, &version(number), &altered);
        if number < newest {
            let error = refused(&rig, "disk");
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        } else {
            let replica = rig.vault.replica("disk").expect("the state before");
            assert_eq!((replica.catalog().version(), replica.points().len()), (newest - 1, 2));
            let notes = replica.notes().expect("notes");
            assert!(matches!(&notes[..], [note] if note.contains(&version(newest))), "{notes:?}");
            assert!(!replica.catalog().has_version(newest, hash).expect("ask"), "it went back");
        }
        replace(&rig, &version(number), &sound);
    }
}

/// Without a key nothing tells a version from another object.
#[test]
fn promise_10_in_a_vault_without_a_key_garbage_is_an_error() {
    let rig = rig(false);
    rig.store.put(&version(3), b"garbage").expect("put");
    assert_eq!(refused(&rig, "disk").kind(), ErrorKind::Corrupt);
}
