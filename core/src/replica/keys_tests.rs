//! Promise 10 at the keys of a vault: rotation, shredding, and what a hop without the key can see
//! or change.

use std::sync::Arc;

use super::tests::{Rig, SIZE, mark, record};
use super::*;
use crate::device::BlockDevice;
use crate::error::{ErrorKind, Result};
use crate::journal::{Binding, Body, VolumeKey, WrappingKey, wrap_version_1};
use crate::store::{FaultStore, Store, get_all};
use crate::units::PointId;
use crate::vault::*;

const SECRET: &[u8] = b"the merger is announced on friday, not on monday";

fn key(byte: u8) -> WrappingKey {
    WrappingKey::from_bytes([byte; 32])
}

/// An encrypted volume with one write of the secret and one point, labelled "quarter-end".
fn rig() -> Rig {
    rig_of(42)
}

fn rig_of(seed: u64) -> Rig {
    let mut rig = Rig::seeded(true, seed);
    let data = SECRET.repeat(100);
    rig.add(&[record(1, Body::Write { offset: 512, data: &data }), mark(2, "quarter-end")]);
    rig
}

fn vault(rig: &Rig, store: &Arc<dyn Store>, key: Option<WrappingKey>) -> Vault {
    Vault::open(store.clone(), key, rig.clock.clone()).expect("open")
}

/// Opens the volume with a key and reads the secret.
fn read(rig: &Rig, key: Option<WrappingKey>) -> Result<()> {
    let replica = vault(rig, &rig.store, key).replica("disk")?;
    let mut found = [0; SECRET.len()];
    replica.view(&At::Newest, &ViewOptions::default())?.read(512, &mut found)?;
    assert_eq!(found, SECRET);
    Ok(())
}

fn key_objects(rig: &Rig) -> Vec<String> {
    let objects = rig.store.list("volumes/disk/keys/").expect("list");
    objects.into_iter().map(|info| info.name).collect()
}

#[test]
fn a_rotated_volume_opens_with_the_new_key_alone() {
    let rig = rig();
    let report = rig.vault.rotate_key("disk", &key(2)).expect("rotate");
    assert_eq!(report, RotationReport { wrapped: true, unwrapped: true, others: Vec::new() });
    read(&rig, Some(key(2))).expect("the new key");
    for wrong in [Some(key(1)), Some(key(3)), None] {
        let error = read(&rig, wrong.clone()).expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::WrongKey);
        assert!(error.to_string().contains(&key(2).id().to_string()), "which is needed: {error}");
        if let Some(wrong) = wrong {
            assert!(error.to_string().contains(&wrong.id().to_string()), "which is given: {error}");
        }
    }
    assert_eq!(rig.vault.rotate_key("disk", &key(2)).expect("again"), RotationReport::default());
    let refused = |new| rig.vault.rotate_key("disk", &new).expect_err("refused").kind();
    assert_eq!(refused(key(1)), ErrorKind::InvalidInput, "the same key");
    assert_eq!(refused(key(3)), ErrorKind::WrongKey);
}

#[test]
fn promise_4_a_rotation_killed_at_any_call_leaves_the_volume_openable_and_is_finished_by_another() {
    for old_layout in [false, true] {
        for calls in 0.. {
            let rig = rig();
            if old_layout {
                to_version_1(&rig);
            }
            let mortal = Arc::new(FaultStore::new(rig.store.clone()));
            let store: Arc<dyn Store> = mortal.clone();
            let vault = vault(&rig, &store, Some(key(1)));
            mortal.fail_after(calls);
            let killed = vault.rotate_key("disk", &key(2)).is_err();
            read(&rig, Some(key(1)))
                .or_else(|_| read(&rig, Some(key(2))))
                .unwrap_or_else(|error| panic!("lost after {calls} calls: {error}"));
            mortal.fail_after(u64::MAX);
            vault.rotate_key("disk", &key(2)).expect("the second run finishes");
            read(&rig, Some(key(2))).expect("the new key");
            assert_eq!(read(&rig, Some(key(1))).expect_err("old").kind(), ErrorKind::WrongKey);
            assert_eq!(key_objects(&rig).len(), 1);
            if !killed {
                assert!(calls > 5);
                break;
            }
        }
    }
}

#[test]
fn the_old_wrapping_stays_when_the_new_one_does_not_open() {
    let rig = rig();
    let id = rig.info.key_id.expect("encrypted");
    let damaged = format!("volumes/disk/keys/{id}.{}", key(2).id());
    let to = Binding { volume: rig.info.id, properties: b"" };
    let other = key(2).wrap(&VolumeKey::from_bytes([9; 32]), &to, &*rig.clock);
    rig.store.put(&damaged, &other).expect("put");
    let error = rig.vault.rotate_key("disk", &key(2)).expect_err("damaged");
    assert!(error.kind() == ErrorKind::Corrupt && error.object() == damaged, "{error}");
    read(&rig, Some(key(1))).expect("nothing was deleted");
}

#[test]
fn wrappings_by_other_keys_stay_and_are_reported() {
    let rig = rig();
    let other_way = vault(&rig, &rig.store, Some(key(1)));
    rig.vault.rotate_key("disk", &key(2)).expect("rotate");
    // An interrupted rotation to a third key leaves such a wrapping.
    let mortal = Arc::new(FaultStore::new(rig.store.clone()));
    let store: Arc<dyn Store> = mortal.clone();
    let from_2 = vault(&rig, &store, Some(key(2)));
    for calls in 0.. {
        mortal.fail_after(calls);
        let _ = from_2.rotate_key("disk", &key(3));
        if key_objects(&rig).len() == 2 {
            break;
        }
    }
    let report =
        vault(&rig, &rig.store, Some(key(3))).rotate_key("disk", &key(4)).expect("rotate on");
    let id = rig.info.key_id.expect("encrypted");
    assert_eq!(report.others, [format!("volumes/disk/keys/{id}.{}", key(2).id())]);
    vault(&rig, &rig.store, Some(key(2))).rotate_key("disk", &key(4)).expect("the rest");
    assert_eq!(key_objects(&rig).len(), 1);
    read(&rig, Some(key(4))).expect("opens");
    assert!(other_way.rotate_key("disk", &key(5)).is_err());
}

/// Gives the volume's key object the name that vaults used before keys could be rotated.
fn to_version_1(rig: &Rig) {
    let id = rig.info.key_id.expect("encrypted");
    let objects = key_objects(rig);
    let replica = rig.vault.replica("disk").expect("open");
    let volume_key = replica.keys().newest().expect("encrypted");
    let old = wrap_version_1(&key(1), &volume_key, &*rig.clock);
    rig.store.put(&format!("volumes/disk/keys/{id}"), &old).expect("put");
    objects.iter().for_each(|object| rig.store.delete(object).expect("delete"));
}

#[test]
fn vaults_of_the_old_layout_open() {
    let rig = rig();
    to_version_1(&rig);
    read(&rig, Some(key(1))).expect("opens");
    assert_eq!(read(&rig, Some(key(2))).expect_err("other").kind(), ErrorKind::WrongKey);
}

#[test]
fn a_shredded_volume_opens_with_nothing_and_the_others_do() {
    let rig = rig();
    rig.vault.create_volume("other", SIZE, 512, false).expect("another");
    let mut source = rig.vault.replica("disk").expect("open").into_catalog();
    let report = rig.vault.shred("disk", ShredOptions::default()).expect("shred");
    assert_eq!(report, ShredReport { keys_deleted: 1, ..ShredReport::default() });
    for tried in [Some(key(1)), Some(key(2)), None] {
        let error = read(&rig, tried).expect_err("shredded");
        assert_eq!(error.kind(), ErrorKind::WrongKey);
        assert!(error.to_string().contains("shredded"), "{error}");
    }
    let error = rig.vault.rotate_key("disk", &key(2)).expect_err("shredded");
    assert_eq!(error.kind(), ErrorKind::WrongKey);
    let take = vec![CatalogEdit::Source(rig.source.clone())];
    let fenced = source.append(&rig.source, vec![CatalogEdit::Segments(Vec::new())]);
    assert_eq!(fenced.expect_err("fenced").kind(), ErrorKind::Fenced, "{take:?}");
    let error = rig.vault.create_volume("disk", SIZE, 512, false).expect_err("taken");
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    rig.vault.replica("other").expect("the other volume opens");
    let listed = rig.vault.volumes().expect("volumes");
    let states: Vec<_> = listed.iter().map(|v| (v.name.as_str(), v.shredded)).collect();
    assert_eq!(states, [("disk", true), ("other", false)]);
    // Again, and with its data: then the name is free.
    let again = rig.vault.shred("disk", ShredOptions::default()).expect("again");
    assert_eq!(again, ShredReport { was_shredded: true, ..ShredReport::default() });
    let data = ShredOptions { data: true, ..ShredOptions::default() };
    let report = rig.vault.shred("disk", data).expect("data");
    assert!(report.objects_deleted >= 4 && report.bytes_deleted > 0, "{report:?}");
    assert!(rig.store.list("volumes/disk/").expect("list").is_empty());
    rig.vault.create_volume("disk", SIZE, 512, false).expect("the name is free");
    let error = rig.vault.shred("no-such-volume", data).expect_err("none");
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[test]
fn a_damaged_record_hides_no_other_volume() {
    let rig = rig();
    rig.vault.create_volume("other", SIZE, 512, false).expect("another");
    let record = layout::volume_record("other");
    rig.store.delete(&record).expect("delete");
    rig.store.put(&record, b"damaged").expect("put");
    assert_eq!(rig.vault.volumes().expect_err("one of them").kind(), ErrorKind::Corrupt);
    assert_eq!(rig.vault.volume_names().expect("names"), ["disk", "other"]);
    read(&rig, Some(key(1))).expect("the volume beside it");
}

#[test]
fn shredding_killed_at_any_call_never_gives_the_name_or_a_key_back_and_is_finished_by_another() {
    for calls in 0.. {
        let rig = rig();
        let mortal = Arc::new(FaultStore::new(rig.store.clone()));
        let store: Arc<dyn Store> = mortal.clone();
        let vault = vault(&rig, &store, Some(key(1)));
        let data = ShredOptions { data: true, ..ShredOptions::default() };
        mortal.fail_after(calls);
        let killed = vault.shred("disk", data).is_err();
        mortal.fail_after(u64::MAX);
        let left = rig.store.list("volumes/disk/").expect("list");
        if !left.is_empty() {
            let error = vault.create_volume("disk", SIZE, 512, false).expect_err("taken");
            assert_eq!(error.kind(), ErrorKind::AlreadyExists);
            vault.shred("disk", data).expect("the second run finishes");
        }
        assert!(rig.store.list("volumes/disk/").expect("list").is_empty());
        if !killed {
            assert!(calls > 10);
            break;
        }
    }
}

#[test]
fn a_legal_hold_stops_the_shredder() {
    let rig = rig();
    let point = At::Point(PointId([2; 16]));
    let mut replica = rig.vault.replica("disk").expect("open");
    replica.pin(&point, PinUntil::LegalHold, "case 7").expect("legal hold");
    let shred = |key, options| vault(&rig, &rig.store, key).shred("disk", options);
    let error = shred(Some(key(1)), ShredOptions::default()).expect_err("under legal hold");
    assert_eq!(error.kind(), ErrorKind::Fenced);
    assert!(error.to_string().contains("legal hold"), "{error}");
    // Without the key it cannot be known.
    for wrong in [None, Some(key(2))] {
        let error = shred(wrong, ShredOptions::default()).expect_err("unknown");
        assert_eq!(error.kind(), ErrorKind::WrongKey);
    }
    read(&rig, Some(key(1))).expect("nothing was deleted");
    let overridden = ShredOptions { override_legal_hold: true, ..ShredOptions::default() };
    assert_eq!(shred(None, overridden).expect("shred").keys_deleted, 1);
    assert_eq!(read(&rig, Some(key(1))).expect_err("gone").kind(), ErrorKind::WrongKey);
}

#[test]
fn a_rotation_that_races_a_shredder_brings_no_key_back() {
    let rig = rig();
    let id = rig.info.key_id.expect("encrypted");
    // The rotation has opened the key when the shredder runs: its put comes after.
    let racing: Arc<dyn Store> = Arc::new(ShredAtPut { rig_vault: rig.vault.clone() });
    let error =
        vault(&rig, &racing, Some(key(1))).rotate_key("disk", &key(2)).expect_err("shredded");
    assert_eq!(error.kind(), ErrorKind::WrongKey);
    assert_eq!(key_objects(&rig), ["volumes/disk/keys/shredded"], "no wrapping of {id}");
}

/// Shreds the volume just before a put.
struct ShredAtPut {
    rig_vault: Vault,
}

impl Store for ShredAtPut {
    fn name(&self) -> String {
        self.rig_vault.store().name()
    }
    fn put(&self, name: &str, content: &[u8]) -> Result<crate::store::PutOutcome> {
        self.rig_vault.shred("disk", ShredOptions::default())?;
        self.rig_vault.store().put(name, content)
    }
    fn get(&self, name: &str, range: std::ops::Range<u64>) -> Result<Vec<u8>> {
        self.rig_vault.store().get(name, range)
    }
    fn list(&self, prefix: &str) -> Result<Vec<crate::store::ObjectInfo>> {
        self.rig_vault.store().list(prefix)
    }
    fn head(&self, name: &str) -> Result<Option<crate::store::ObjectInfo>> {
        self.rig_vault.store().head(name)
    }
    fn delete(&self, name: &str) -> Result<()> {
        self.rig_vault.store().delete(name)
    }
}

#[test]
fn an_unencrypted_volume_is_shredded_only_by_deleting_its_data() {
    let rig = Rig::new(false);
    let error = rig.vault.shred("disk", ShredOptions::default()).expect_err("not encrypted");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let data = ShredOptions { data: true, ..ShredOptions::default() };
    rig.vault.shred("disk", data).expect("deleted");
    assert_eq!(rig.vault.volume("disk").expect_err("gone").kind(), ErrorKind::NotFound);
}

#[test]
fn promise_10_nothing_of_an_encrypted_volume_can_be_read_in_the_vault() {
    let rig = rig();
    let mut replica = rig.vault.replica("disk").expect("open");
    let point = At::Point(PointId([2; 16]));
    replica.pin(&point, PinUntil::Forever, "the audit of may").expect("pin");
    replica.record_verdict(&point, VerdictKind::Integrity, true, "all is well").expect("verdict");
    let volume_key = replica.keys().newest().expect("encrypted");
    let secrets: [&[u8]; 7] = [
        &SECRET[..16],
        b"quarter-end",
        b"the audit of may",
        b"all is well",
        b"alpha",
        &[1; 32],
        &volume_key.derive("hrl 2026-11-21 catalog key v1", &[]),
    ];
    let mut bytes_seen = 0;
    for info in rig.store.list("").expect("list") {
        let content = get_all(&*rig.store, &info.name, 1 << 20).expect("read");
        bytes_seen += content.len();
        for secret in secrets {
            let shown = content.windows(secret.len()).any(|window| window == secret);
            assert!(!shown, "{} shows {:?}", info.name, String::from_utf8_lossy(secret));
        }
    }
    assert!(bytes_seen > 1000, "the vault was read");
}

#[test]
fn promise_10_each_alteration_of_the_vault_is_noticed() {
    let mut rig = rig();
    rig.add(&[record(3, Body::Write { offset: 0, data: &[5; 512] }), mark(4, "second")]);
    let twin = rig_of(43);
    let good: Vec<(String, Vec<u8>)> = rig
        .store
        .list("volumes/disk/")
        .expect("list")
        .into_iter()
        .map(|info| (info.name.clone(), get_all(&*rig.store, &info.name, 1 << 20).expect("read")))
        .collect();
    let twins = |object: &str| {
        // The same object of another volume; names of segments and keys differ in their random
        // part.
        let directory = &object[..=object.rfind('/').expect("a directory")];
        let other = twin.store.list(directory).expect("list").into_iter().next().expect("one");
        get_all(&*twin.store, &other.name, 1 << 20).expect("read")
    };
    let check = |what: &str, object: &str, bytes: &[u8]| {
        let path = rig.path(object);
        std::fs::remove_file(&path).expect("remove");
        std::fs::write(&path, bytes).expect("write");
        let found = rig.vault.replica("disk").and_then(|replica| {
            let report = replica.verify(&|_, _| true)?;
            Ok(report.is_sound() && report.points == 2)
        });
        assert!(!matches!(found, Ok(true)), "{what} of {object} is not noticed");
    };
    for (object, bytes) in &good {
        for at in (0..bytes.len()).step_by((bytes.len() / 40).max(1)) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x10;
            check("a flipped bit", object, &flipped);
        }
        check("a cut", object, &bytes[..bytes.len() - 1]);
        check("a tail", object, &[bytes.as_slice(), b"x"].concat());
        check("another volume's object in the place", object, &twins(object));
        let path = rig.path(object);
        std::fs::remove_file(&path).expect("remove");
        std::fs::write(&path, bytes).expect("mend");
    }
    let report = rig.vault.replica("disk").expect("mended").verify(&|_, _| true).expect("verify");
    assert!(report.is_sound() && report.points == 2);
}

#[test]
fn promise_10_a_catalog_that_was_rolled_back_is_noticed_when_its_source_goes_on() {
    let mut rig = rig();
    rig.add(&[mark(3, "second")]);
    let mut source = rig.vault.replica("disk").expect("open").into_catalog();
    let newest = format!("volumes/disk/catalog/{:016x}", source.version());
    let before = format!("volumes/disk/catalog/{:016x}", source.version() - 1);
    let version = |object: &str| get_all(&*rig.store, object, 1 << 20).expect("read");
    let (good, older) = (version(&newest), version(&before));
    rig.store.delete(&newest).expect("delete");
    rig.store.put(&newest, &older).expect("put");
    let replayed = rig.vault.replica("disk").expect("the state before");
    assert_eq!(replayed.catalog().version(), source.version() - 1);
    assert!(replayed.notes().expect("notes").iter().any(|note| note.contains(&newest)));
    rig.store.delete(&newest).expect("delete");
    let edits = || vec![CatalogEdit::Source(rig.source.clone())];
    let error = source.append(&rig.source, edits()).expect_err("the version before it is gone");
    assert_eq!(error.kind(), ErrorKind::Diverged);
    rig.vault.replica("disk").expect("no gap is left");
    rig.store.put(&newest, &good).expect("put");
    source.append(&rig.source, edits()).expect("whole again");
}

#[test]
fn promise_10_an_unencrypted_volume_is_refused_if_a_key_is_given() {
    let rig = rig();
    let forger = Rig::new(false);
    let record = get_all(&*forger.store, "volumes/disk/volume", 1000).expect("read");
    for object in rig.store.list("volumes/disk/").expect("list") {
        rig.store.delete(&object.name).expect("delete");
    }
    rig.store.put("volumes/disk/volume", &record).expect("put");
    let error = rig.vault.replica("disk").map(drop).expect_err("forged");
    assert_eq!(error.kind(), ErrorKind::WrongKey);
}

/// Returns the newest version, and its object.
fn newest_version(rig: &Rig) -> (String, Vec<u8>) {
    let newest = rig.store.list("volumes/disk/catalog/").expect("list").pop().expect("one").name;
    let bytes = get_all(&*rig.store, &newest, 1 << 20).expect("read");
    (newest, bytes)
}

#[test]
fn promise_10_an_unencrypted_version_is_ignored_if_there_is_a_key() {
    let (rig, forger) = (rig(), Rig::new(false));
    let thief = SourceIdentity { id: [6; 16], host: "thief".into(), ..rig.source.clone() };
    let mut catalog = forger.vault.replica("disk").expect("open").into_catalog();
    catalog.append(&thief, vec![CatalogEdit::Source(thief.clone())]).expect("append");
    // The envelope: magic, encrypted or not, volume, number, hash of the version before.
    let ((_, newest), (_, mut forged)) = (newest_version(&rig), newest_version(&forger));
    let number = rig.vault.replica("disk").expect("open").catalog().version() + 1;
    forged[12..28].copy_from_slice(&rig.info.id.0);
    forged[28..36].copy_from_slice(&number.to_le_bytes());
    forged[36..68].copy_from_slice(blake3::hash(&newest).as_bytes());
    let (content, crc) = forged.split_last_chunk_mut::<4>().expect("a version");
    *crc = crc32fast::hash(content).to_le_bytes();
    let object = format!("volumes/disk/catalog/{number:016x}");
    rig.store.put(&object, &forged).expect("put");
    let replica = rig.vault.replica("disk").expect("it is ignored");
    assert_eq!(replica.catalog().version(), number - 1);
    assert!(replica.catalog().source().is_none_or(|source| source.host != "thief"));
    assert!(replica.notes().expect("notes").iter().any(|note| note.contains(&object)));
    // Nor is a snapshot, where a reader begins that has seen nothing before.
    while catalog.version() < SNAPSHOT_EVERY {
        catalog.append(&thief, vec![CatalogEdit::Source(thief.clone())]).expect("append");
    }
    let (_, mut snapshot) = newest_version(&forger);
    mend_catalog_version(&mut snapshot, rig.info.id, 2 * SNAPSHOT_EVERY, [0; 32]);
    let object = format!("volumes/disk/catalog/{:016x}", 2 * SNAPSHOT_EVERY);
    rig.store.put(&object, &snapshot).expect("put");
    let replica = rig.vault.replica("disk").expect("it is ignored");
    assert_eq!(replica.catalog().version(), number - 1);
}

#[test]
fn promise_10_versions_of_two_histories_are_not_mixed() {
    let rig = rig();
    let mut source = rig.vault.replica("disk").expect("open").into_catalog();
    let again = || vec![CatalogEdit::Source(rig.source.clone())];
    source.append(&rig.source, again()).expect("append");
    let (fork, one) = newest_version(&rig);
    // The vault is restored to an earlier copy, and the source goes on from there.
    rig.store.delete(&fork).expect("delete");
    let mut other = rig.vault.replica("disk").expect("open").into_catalog();
    other.append(&rig.source, again()).expect("append");
    assert!(newest_version(&rig).1 != one, "each version is encrypted under a nonce of its own");
    other.append(&rig.source, again()).expect("append");
    rig.vault.replica("disk").expect("one history");
    rig.store.delete(&fork).expect("delete");
    rig.store.put(&fork, &one).expect("put");
    let error = rig.vault.replica("disk").map(drop).expect_err("mixed");
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
}
