//! Promises 4 and 10 when a volume gets another key.

use std::sync::Arc;

use super::tests::{Rig, mark, record};
use super::*;
use crate::device::BlockDevice;
use crate::error::{Error, ErrorKind, Result};
use crate::journal::{Body, KeyRing, WrappingKey};
use crate::policy::RetentionPolicy;
use crate::store::{FaultStore, Store, get_all};
use crate::vault::*;

const FIRST: [u8; 512] = [1; 512];
const SECOND: [u8; 512] = [2; 512];

fn key(byte: u8) -> WrappingKey {
    WrappingKey::from_bytes([byte; 32])
}

/// An encrypted volume with a write and a point.
fn rig() -> Rig {
    let mut rig = Rig::new(true);
    rig.add(&[record(1, Body::Write { offset: 512, data: &FIRST }), mark(2, "first")]);
    rig
}

fn vault(rig: &Rig, store: &Arc<dyn Store>, key: Option<WrappingKey>) -> Vault {
    Vault::open(store.clone(), key, rig.clock.clone()).expect("open")
}

/// Opens the volume with a key and reads a sector.
fn read(rig: &Rig, by: WrappingKey, offset: u64) -> Result<[u8; 512]> {
    let replica = vault(rig, &rig.store, Some(by)).replica("disk")?;
    let mut found = [0; 512];
    replica.view(&At::Newest, &ViewOptions::default())?.read(offset, &mut found)?;
    assert!(replica.verify(&|_, _| true)?.is_sound());
    Ok(found)
}

/// Returns what is read of the newest state if the error says that the key opens no state at all.
fn opens_nothing(error: &Error) -> [u8; 512] {
    assert_eq!(error.kind(), ErrorKind::WrongKey, "{error}");
    assert!(!error.to_string().contains("generation"), "it opens the first key alone: {error}");
    SECOND
}

fn key_objects(rig: &Rig) -> Vec<String> {
    let objects = rig.store.list("volumes/disk/keys/").expect("list");
    objects.into_iter().map(|info| info.name).collect()
}

fn newest_generation(rig: &Rig) -> u32 {
    let newest = rig.store.list("volumes/disk/catalog/").expect("list").pop().expect("one").name;
    let bytes = get_all(&*rig.store, &newest, 1 << 20).expect("read");
    VersionEnvelope::read(&bytes, &newest).expect("a version").generation
}

#[test]
fn promise_10_a_thief_with_an_earlier_key_reads_nothing_that_is_new() {
    let mut rig = rig();
    let old = KeyRing::from(rig.vault.replica("disk").expect("open").keys().newest().expect("key"));
    let done = rig.vault.rekey("disk").expect("another key");
    assert_eq!((done.generation, done.was_drawn), (2, false));
    let new = rig.add(&[record(3, Body::Write { offset: 1024, data: &SECOND }), mark(4, "second")]);
    // The thief has a copy of the vault and the old volume key, and not the key-encryption key.
    let thief = vault(&rig, &rig.store, None);
    let refused = thief.replica_with_keys(&rig.info, &old).map(drop).expect_err("the catalog");
    assert_eq!(refused.kind(), ErrorKind::WrongKey, "{refused}");
    let source = ObjectSource::open(&rig.store, &new.object).expect("there");
    let refused = Segment::open(source, &old).map(drop).expect_err("the segment");
    assert_eq!(refused.kind(), ErrorKind::WrongKey, "{refused}");
    assert!(refused.to_string().contains(&done.key.to_string()), "which is needed: {refused}");
    // Whoever has the key-encryption key reads both.
    assert_eq!(read(&rig, key(1), 512).expect("the old one"), FIRST);
    assert_eq!(read(&rig, key(1), 1024).expect("the new one"), SECOND);
    let replica = rig.vault.replica("disk").expect("open");
    assert_eq!(replica.points().len(), 2);
    let notes = replica.verify(&|_, _| true).expect("verify").notes;
    assert_eq!(notes, ["1 segments are encrypted with earlier volume keys"]);
}

#[test]
fn promise_4_another_key_drawn_by_a_run_that_is_killed_at_any_call_is_finished_by_another_run() {
    for calls in 0.. {
        let mut rig = rig();
        let mortal = Arc::new(FaultStore::new(rig.store.clone()));
        let store: Arc<dyn Store> = mortal.clone();
        let vault = vault(&rig, &store, Some(key(1)));
        let mut source = rig.vault.replica("disk").expect("open").into_catalog();
        mortal.fail_after(calls);
        let killed = vault.rekey("disk").is_err();
        assert_eq!(read(&rig, key(1), 512).expect("readable"), FIRST);
        // A source that knew the first key alone goes on, and one that begins now.
        source.append(&rig.source, vec![CatalogEdit::Source(rig.source.clone())]).expect("go on");
        rig.add(&[record(3, Body::Write { offset: 1024, data: &SECOND })]);
        let drawn = key_objects(&rig).len() == 2;
        let in_use = newest_generation(&rig) == 2;
        assert!(!in_use || drawn, "a key in use is in the vault");
        mortal.fail_after(u64::MAX);
        let done = vault.rekey("disk").expect("the second run finishes");
        assert_eq!(done.was_drawn, drawn && !in_use, "after {calls} calls");
        assert_eq!(newest_generation(&rig), done.generation);
        assert_eq!(key_objects(&rig).len(), done.generation as usize);
        assert_eq!(read(&rig, key(1), 1024).expect("readable"), SECOND);
        if !killed {
            assert!(calls > 8);
            break;
        }
    }
}

#[test]
fn handles_that_were_open_before_go_on_with_the_new_key() {
    let rig = rig();
    let reader = rig.vault.replica("disk").expect("open");
    let mut source = rig.vault.replica("disk").expect("open").into_catalog();
    let done = rig.vault.rekey("disk").expect("another key");
    source.append(&rig.source, vec![CatalogEdit::Source(rig.source.clone())]).expect("go on");
    assert_eq!(newest_generation(&rig), 2);
    let mut reader = reader;
    reader.refresh().expect("read on");
    assert_eq!(reader.keys().newest().map(|key| key.id()), Some(done.key));
    // One whose key-encryption key does not open the new key says so.
    let late = vault(&rig, &rig.store, None);
    let first = KeyRing::from(reader.keys().all()[0].1.clone());
    let refused = late.replica_with_keys(&rig.info, &first).map(drop).expect_err("refused");
    assert!(refused.to_string().contains("generation 2"), "{refused}");
}

#[test]
fn promise_4_rotating_the_key_encryption_key_wraps_every_generation_whenever_it_is_killed() {
    for calls in 0.. {
        let mut rig = rig();
        rig.vault.rekey("disk").expect("another key");
        rig.add(&[record(3, Body::Write { offset: 1024, data: &SECOND })]);
        let mortal = Arc::new(FaultStore::new(rig.store.clone()));
        let store: Arc<dyn Store> = mortal.clone();
        let vault = vault(&rig, &store, Some(key(1)));
        mortal.fail_after(calls);
        let killed = vault.rotate_key("disk", &key(2)).is_err();
        let each = [read(&rig, key(1), 1024), read(&rig, key(2), 1024)];
        assert!(each.iter().any(Result::is_ok), "one of both opens all, after {calls} calls");
        for found in each {
            // Never an earlier state.
            assert_eq!(found.unwrap_or_else(|error| opens_nothing(&error)), SECOND);
        }
        mortal.fail_after(u64::MAX);
        vault.rotate_key("disk", &key(2)).expect("the second run finishes");
        assert_eq!(read(&rig, key(2), 512).expect("the new key"), FIRST);
        assert_eq!(read(&rig, key(1), 512).expect_err("old").kind(), ErrorKind::WrongKey);
        assert_eq!(key_objects(&rig).len(), 2);
        if !killed {
            assert!(calls > 10);
            break;
        }
    }
}

#[test]
fn promise_4_a_key_drawn_while_the_key_encryption_key_is_rotated_is_wrapped_too() {
    let mut rig = rig();
    // It was drawn after the rotation had listed the keys, and before it deleted the old wrapping.
    let rotating = Arc::new(FaultStore::new(rig.store.clone()));
    let store: Arc<dyn Store> = rotating.clone();
    let other = vault(&rig, &store, Some(key(1)));
    for calls in 0.. {
        rotating.fail_after(calls);
        let _killed = other.rotate_key("disk", &key(2));
        if key_objects(&rig).len() == 2 {
            break;
        }
    }
    rig.vault.rekey("disk").expect("the old key still opens it");
    rotating.fail_after(u64::MAX);
    other.rotate_key("disk", &key(2)).expect("rotate on");
    rig.vault = vault(&rig, &rig.store, Some(key(2)));
    rig.add(&[record(3, Body::Write { offset: 1024, data: &SECOND })]);
    assert_eq!(read(&rig, key(2), 1024).expect("both generations"), SECOND);
    assert!(key_objects(&rig).iter().all(|name| name.contains(&key(2).id().to_string())));
}

#[test]
fn promise_10_what_anybody_put_among_the_keys_is_no_key() {
    let mut rig = rig();
    let by = key(1).id();
    for name in [format!("{by}.{by}.00000009"), format!("{by}.{by}.1"), format!("{by}.{by}.x.y")] {
        rig.store.put(&format!("volumes/disk/keys/{name}"), &[7; 96]).expect("put");
    }
    // The first key, in the place of a later one.
    let first = rig.store.list("volumes/disk/keys/").expect("list");
    let id = rig.info.key_id.expect("encrypted");
    let own = first.iter().find(|info| info.name.contains(&id.to_string())).expect("its own");
    let bytes = get_all(&*rig.store, &own.name, 1000).expect("read");
    rig.store.put(&format!("volumes/disk/keys/{id}.{by}.00000005"), &bytes).expect("put");
    assert_eq!(read(&rig, key(1), 512).expect("readable"), FIRST);
    assert_eq!(rig.vault.rekey("disk").expect("another key").generation, 2);
    rig.add(&[record(3, Body::Write { offset: 1024, data: &SECOND })]);
    assert_eq!(read(&rig, key(1), 1024).expect("readable"), SECOND);
}

/// A reader that has the earlier keys alone must not take what is under the newest one for what
/// anybody put there: it would show an earlier state.
#[test]
fn promise_10_a_version_under_a_key_that_does_not_open_ends_no_catalog() {
    let mut rig = rig();
    // A rotation was killed between the keys, as older builds did it.
    let first = rig.vault.replica("disk").expect("open").keys().newest().expect("encrypted");
    rig.vault.put_wrapping(&rig.info, 1, &first, &key(2)).expect("put");
    rig.vault.rekey("disk").expect("another key");
    rig.add(&[record(3, Body::Write { offset: 1024, data: &SECOND })]);
    assert_eq!(read(&rig, key(1), 1024).expect("both keys"), SECOND);
    let refused = read(&rig, key(2), 1024).expect_err("the first key alone");
    assert_eq!(refused.kind(), ErrorKind::WrongKey, "{refused}");
    let text = format!("{refused} {:?}", std::error::Error::source(&refused));
    assert!(text.contains("generation 2") && text.contains(".00000002"), "{text}");
}

#[test]
fn promise_10_a_thief_with_an_earlier_key_adds_nothing_after_the_new_one() {
    let mut rig = rig();
    let old = rig.vault.replica("disk").expect("open").keys().newest().expect("encrypted");
    rig.vault.rekey("disk").expect("another key");
    rig.add(&[mark(3, "second")]);
    let before = rig.vault.replica("disk").expect("open");
    let number = before.catalog().version() + 1;
    let (id, hash) = (VersionId { volume: rig.info.id, number }, before.catalog().version_hash());
    let bytes = encode_version(id, hash, [9; 16], &[], Some((1, &old, &*rig.clock)));
    let object = layout::catalog_version("volumes/disk/catalog/", number);
    rig.store.put(&object, &bytes).expect("put");
    let replica = rig.vault.replica("disk").expect("it is ignored");
    assert_eq!(replica.catalog().version(), number - 1);
    assert!(replica.notes().expect("notes").iter().any(|note| note.contains(&object)));
    rig.add(&[mark(5, "third")]);
    assert_eq!(rig.vault.replica("disk").expect("open").points().len(), 3);
}

#[test]
fn promise_10_keys_are_not_hidden_among_many() {
    let mut rig = rig();
    rig.vault.rekey("disk").expect("another key");
    rig.add(&[record(3, Body::Write { offset: 1024, data: &SECOND })]);
    let (by, first) = (key(1).id(), rig.info.key_id.expect("encrypted"));
    for number in 0..300 {
        for name in [format!("{number:032x}.{by}"), format!("{first}.{number:032x}")] {
            rig.store.put(&format!("volumes/disk/keys/{name}"), &[7; 96]).expect("put");
        }
    }
    assert_eq!(read(&rig, key(1), 1024).expect("readable"), SECOND);
    for number in 0..300 {
        let name = format!("volumes/disk/keys/{number:032x}.{by}.00000002");
        rig.store.put(&name, &[7; 96]).expect("put");
    }
    let refused = read(&rig, key(1), 1024).expect_err("too many");
    assert_eq!(refused.kind(), ErrorKind::Corrupt, "{refused}");
}

#[test]
fn a_shredded_volume_gets_no_key_and_all_its_keys_are_deleted() {
    let mut rig = rig();
    rig.vault.rekey("disk").expect("another key");
    rig.add(&[mark(3, "second")]);
    // A marker that is proven counts while any wrapped key is left.
    let keys = key_objects(&rig);
    let kept: Vec<_> =
        keys.iter().map(|name| (name, get_all(&*rig.store, name, 1000).expect("read"))).collect();
    assert_eq!(rig.vault.shred("disk", ShredOptions::default()).expect("shred").keys_deleted, 2);
    for (name, bytes) in kept {
        rig.store.put(name, &bytes).expect("put");
        assert_eq!(read(&rig, key(1), 512).expect_err("shredded").kind(), ErrorKind::WrongKey);
    }
    assert_eq!(rig.vault.rekey("disk").expect_err("shredded").kind(), ErrorKind::WrongKey);
    for calls in 0.. {
        let mut rig = self::rig();
        rig.vault.rekey("disk").expect("another key");
        rig.add(&[mark(3, "second")]);
        let mortal = Arc::new(FaultStore::new(rig.store.clone()));
        let store: Arc<dyn Store> = mortal.clone();
        let vault = vault(&rig, &store, Some(key(1)));
        mortal.fail_after(calls);
        let killed = vault.shred("disk", ShredOptions::default()).is_err();
        mortal.fail_after(u64::MAX);
        vault.shred("disk", ShredOptions::default()).expect("the second run finishes");
        assert_eq!(key_objects(&rig), ["volumes/disk/keys/shredded"], "after {calls} calls");
        if !killed {
            break;
        }
    }
    let plain = Rig::new(false);
    assert_eq!(plain.vault.rekey("disk").expect_err("plain").kind(), ErrorKind::InvalidInput);
}

#[test]
fn what_is_folded_moves_to_the_new_key_and_what_was_folded_before_if_asked() {
    let mut rig = rig();
    for sequence in (3..40).step_by(2) {
        let data = [sequence as u8; 512];
        let body = Body::Write { offset: sequence * 512, data: &data };
        rig.add(&[record(sequence, body), mark(sequence + 1, "point")]);
    }
    let scratch = tempfile::tempdir().expect("directory");
    let options = |rekey| CompactOptions {
        fold_all: true,
        accept_clock: true,
        scratch: Some(scratch.path().to_owned()),
        rekey,
        ..CompactOptions::default()
    };
    let policy: RetentionPolicy = "0s all; bytes 1".parse().expect("policy");
    let compact = |rig: &Rig, rekey| {
        let mut replica = rig.vault.replica("disk").expect("open");
        replica.compact(&policy, &options(rekey), &|_, _| true).expect("compact")
    };
    compact(&rig, false);
    let keys = |rig: &Rig| {
        let replica = rig.vault.replica("disk").expect("open");
        let newest = replica.keys().newest().map(|key| key.id());
        let of = |entry: &SegmentEntry| replica.open_segment(&entry.object).expect("open").key_id();
        replica.catalog().segments().iter().filter(|entry| of(entry) != newest).count() as u64
    };
    rig.vault.rekey("disk").expect("another key");
    let points = rig.vault.replica("disk").expect("open").points();
    let before = keys(&rig);
    assert_eq!(compact(&rig, false).folds, 0, "nothing else is to be folded");
    assert!(compact(&rig, true).folds > 0);
    assert!(keys(&rig) < before && before > 0);
    assert_eq!(rig.vault.replica("disk").expect("open").points(), points, "no state is lost");
    assert_eq!(read(&rig, key(1), 512).expect("readable"), FIRST);
    assert_eq!(compact(&rig, true).folds, 0);
}

/// Whoever may add and has no key says that a version is under a key that nobody drew.
#[test]
fn promise_13_a_version_under_a_key_that_nobody_drew_changes_nothing() {
    let mut rig = rig();
    for (generation, drawn) in [(2_u32, 1), (7, 1), (u32::MAX, 1), (2, 2), (3, 2), (u32::MAX, 2)] {
        if newest_generation(&rig) < drawn {
            rig.vault.rekey("disk").expect("another key");
            rig.add(&[mark(3, "second")]);
        }
        let before = rig.vault.replica("disk").expect("open");
        let number = before.catalog().version() + 1;
        let object = layout::catalog_version("volumes/disk/catalog/", number);
        let newest = layout::catalog_version("volumes/disk/catalog/", number - 1);
        let mut bytes = get_all(&*rig.store, &newest, 1 << 20).expect("read");
        bytes[8..12].copy_from_slice(&generation.to_le_bytes());
        mend_catalog_version(&mut bytes, rig.info.id, number, before.catalog().version_hash());
        rig.store.put(&object, &bytes).expect("put");
        let replica = rig.vault.replica("disk").expect("it is ignored");
        assert_eq!(replica.catalog().version(), number - 1);
        assert!(replica.notes().expect("notes").iter().any(|note| note.contains(&object)));
        rig.store.delete(&object).expect("delete");
    }
}
