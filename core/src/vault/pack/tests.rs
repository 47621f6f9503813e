use proptest::prelude::*;

use super::super::layout::PACK_NAME_BYTES_MAX;
use super::format::{FOOTER_BYTES, FOOTER_FIELDS, MAGIC, decode, encode};
use super::*;
use crate::journal::specification::{SPECIFICATION, check_fields};
use crate::store::{DirStore, FaultStore, conformance, get_all};

fn member_name(number: u64) -> String {
    format!(
        "e00000001-{:016x}-{:016x}-{:08x}.hrl",
        number * 10 + 1,
        number * 10 + 10,
        number ^ 0xabcd
    )
}

fn name(number: u64) -> String {
    format!("volumes/disk/segments/{}", member_name(number))
}

fn content(number: u64) -> Vec<u8> {
    (0..number * 7 % 50).map(|at| (number + at) as u8).collect()
}

fn objects(numbers: Range<u64>) -> Vec<(String, Vec<u8>)> {
    numbers.map(|number| (name(number), content(number))).collect()
}

/// A store on a directory that is removed at the end.
fn directory() -> (tempfile::TempDir, Arc<dyn Store>) {
    let directory = tempfile::tempdir().expect("directory");
    let store = Arc::new(DirStore::create(directory.path()).expect("store"));
    (directory, store)
}

fn read(store: &dyn Store, number: u64) -> Option<Vec<u8>> {
    get_all(store, &name(number), 1 << 20).ok()
}

#[test]
fn the_contract_of_a_store_holds_over_packs() {
    let kept = std::cell::RefCell::new(Vec::new());
    conformance::check(&|| {
        let (directory, store) = directory();
        kept.borrow_mut().push(directory);
        PackedStore::over(store)
    });
}

/// The name of a pack is that of its content, so it is there already when deleted members are put
/// again.
#[test]
fn what_was_deleted_from_a_pack_can_be_put_again_with_the_rest() {
    let (_directory, inner) = directory();
    let store = PackedStore::over(inner.clone());
    store.put_packed("disk", &objects(0..3)).expect("pack");
    store.delete(&name(1)).expect("delete");
    store.put_packed("disk", &objects(0..3)).expect("the same pack again");
    let there: Vec<_> = (0..3).map(|number| read(&*store, number)).collect();
    assert_eq!(there, (0..3).map(|number| Some(content(number))).collect::<Vec<_>>());
    store.delete_many(&(0..3).map(name).collect::<Vec<_>>()).expect("delete");
    assert!(inner.list("").expect("list").is_empty(), "nothing of them stays");
}

#[test]
fn segments_of_a_pack_are_found_listed_read_and_deleted_under_their_names() {
    let (_directory, inner) = directory();
    let (store, reader) = (PackedStore::over(inner.clone()), PackedStore::over(inner.clone()));
    assert_eq!(read(&*reader, 3), None);
    store.put_packed("disk", &objects(0..20)).expect("pack");
    store.put_packed("disk", &objects(0..20)).expect("again, as after a lost answer");
    store.put(&name(20), &content(20)).expect("beside it");
    store.put("volumes/disk/volume", b"v").expect("another object");
    for number in 0..21 {
        assert_eq!(read(&*reader, number), Some(content(number)), "{number}");
        let info = reader.head(&name(number)).expect("head").expect("there");
        assert_eq!(info.length, content(number).len() as u64);
    }
    assert_eq!(reader.get(&name(5), 10..20).expect("a range"), content(5)[10..20]);
    let past = reader.get(&name(5), 30..36).expect_err("past its end, though not that of the pack");
    assert_eq!(past.kind(), ErrorKind::InvalidInput);
    let names: Vec<String> = (0..21).map(name).collect();
    for prefix in [
        "",
        "volumes/",
        "volumes/di",
        "volumes/disk/",
        "volumes/disk/seg",
        "volumes/disk/segments/e",
    ] {
        let found = reader.list(prefix).expect("list");
        let found: Vec<_> =
            found.into_iter().map(|i| i.name).filter(|n| n.contains("segments")).collect();
        assert_eq!(found, names, "{prefix}");
    }
    assert!(reader.list("volumes/disk/catalog/").expect("list").is_empty());
    assert_eq!(inner.list("volumes/disk/packs/").expect("list").len(), 1);
    // Deleted by one reader, gone for the other, and the rest stays.
    let some: Vec<String> = (0..20).step_by(2).map(name).collect();
    reader.delete_many(&some).expect("delete");
    reader.delete(&name(1)).expect("delete one more");
    for number in 0..21 {
        let there = number == 20 || (number % 2 == 1 && number != 1);
        assert_eq!(store.head(&name(number)).expect("head").is_some(), there, "{number}");
        assert!(!there || read(&*store, number) == Some(content(number)));
    }
    assert_eq!(inner.list("volumes/disk/packs/").expect("list").len(), 1, "a pack of the rest");
    store.delete_many(&names).expect("delete all");
    assert_eq!(inner.list("").expect("list").len(), 1, "nothing is left but the other object");
}

/// Promise 10: whoever may put, and not delete, takes nothing away.
#[test]
fn promise_10_a_marker_that_says_that_members_are_gone_takes_none_away() {
    let (_directory, inner) = directory();
    let store = PackedStore::over(inner.clone());
    store.put_packed("disk", &objects(0..4)).expect("pack");
    let pack = inner.list("volumes/disk/packs/").expect("list").remove(0).name;
    inner.put(&format!("{pack}.gone-{}", "ff".repeat(32)), b"").expect("put");
    let reader = PackedStore::over(inner.clone());
    assert_eq!(reader.list("volumes/disk/segments/").expect("list").len(), 4);
    reader.delete(&name(0)).expect("delete one");
    for number in 1..4 {
        assert!(reader.head(&name(number)).expect("head").is_some(), "{number} is lost");
        assert_eq!(read(&*PackedStore::over(inner.clone()), number), Some(content(number)));
    }
    let left = inner.list("volumes/disk/packs/").expect("list");
    assert_eq!(left.len(), 1, "the marker went with its pack: {left:?}");
}

#[test]
fn promise_10_another_object_in_the_place_of_the_rest_keeps_the_old_pack() {
    let (_directory, inner) = directory();
    let store = PackedStore::over(inner.clone());
    store.put_packed("disk", &objects(0..4)).expect("pack");
    let members: Vec<_> = (1..4).map(|number| (member_name(number), content(number))).collect();
    let rest: Vec<_> = members.iter().map(|(name, bytes)| (name.as_str(), &bytes[..])).collect();
    let forged = format!("volumes/disk/packs/{}", encode(&rest).0);
    inner.put(&forged, b"nothing").expect("put");
    let error = store.delete(&name(0)).expect_err("the rest would be lost");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains(&forged), "{error}");
    for number in 0..4 {
        assert_eq!(read(&*store, number), Some(content(number)));
    }
    inner.delete(&forged).expect("delete");
    store.delete(&name(0)).expect("delete");
    assert_eq!(read(&*store, 3), Some(content(3)));
}

/// Two clients that delete at once put two packs, each with what the other deletes.
#[test]
fn what_two_clients_delete_at_once_stays_deleted() {
    let (_directory, inner) = directory();
    let store = PackedStore::over(inner.clone());
    store.put_packed("disk", &objects(0..4)).expect("pack");
    let pack = inner.list("volumes/disk/packs/").expect("list").remove(0).name;
    let whole = get_all(&*inner, &pack, 1 << 20).expect("read");
    PackedStore::over(inner.clone()).delete(&name(1)).expect("delete");
    // The other client has read the old pack before, and its delete comes after.
    inner.put(&pack, &whole).expect("put");
    store.delete(&name(2)).expect("delete");
    PackedStore::over(inner.clone()).delete(&name(1)).expect("its second round");
    let there: Vec<_> = (0..4).map(|number| read(&*store, number).is_some()).collect();
    assert_eq!(there, [true, false, false, true]);
}

#[test]
fn what_cannot_be_packed_is_refused_and_a_broken_pack_hides_nothing_else() {
    let (_directory, inner) = directory();
    let store = PackedStore::over(inner.clone());
    let foreign = [(
        "volumes/other/segments/e00000001-0000000000000001-0000000000000002-0.hrl".into(),
        vec![],
    )];
    for bad in [&foreign[..], &[("volumes/disk/segments/x".into(), vec![])], &objects(0..257)] {
        assert_eq!(
            store.put_packed("disk", bad).expect_err("refused").kind(),
            ErrorKind::InvalidInput
        );
    }
    store.put_packed("disk", &objects(0..4)).expect("pack");
    store.put(&name(4), &content(4)).expect("beside it");
    let broken = format!("volumes/disk/packs/{:016x}-{:016x}-{}.pack", 0, 500, "0".repeat(32));
    inner.put(&broken, &[7; 100]).expect("put");
    for number in 0..5 {
        assert_eq!(read(&*store, number), Some(content(number)));
    }
    assert_eq!(store.list("volumes/disk/segments/").expect("list").len(), 5);
    store.delete(&name(0)).expect("delete");
    let error = store.get(&name(9), 0..1).expect_err("perhaps it is in the broken one");
    assert!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NotFound), "{error}");
}

/// Promise 5: a process killed between any two calls loses nothing that was put and restores
/// nothing that was deleted; a repeat finishes.
#[test]
fn promise_5_packs_survive_a_crash_after_any_number_of_calls() {
    for calls in 0..40 {
        let (_directory, inner) = directory();
        let fault = Arc::new(FaultStore::new(inner.clone()));
        let store = PackedStore::over(fault.clone());
        fault.fail_after(calls);
        let first = store.put_packed("disk", &objects(0..8));
        let second = store.put_packed("disk", &objects(4..12));
        let some: Vec<String> = (2..6).map(name).collect();
        let deleted = store.delete_many(&some);
        let rest: Vec<String> = (0..10).map(name).collect();
        let deleted_rest = store.delete_many(&rest);
        let after = PackedStore::over(inner.clone());
        for number in 0..12 {
            let put = (number < 8 && first.is_ok()) || (number >= 4 && second.is_ok());
            let maybe_gone = number < 10;
            let gone = (deleted.is_ok() && (2..6).contains(&number))
                || (deleted_rest.is_ok() && number < 10);
            let found = read(&*after, number);
            assert!(found.is_none() || found == Some(content(number)), "whole or not at all");
            assert!(!put || maybe_gone || found.is_some(), "{calls}: {number} is lost");
            assert!(!gone || found.is_none(), "{calls}: {number} came back");
        }
        // A crash before the first delete leaves everything.
        if second.is_err() && first.is_ok() {
            assert!((0..8).all(|number| read(&*after, number).is_some()), "{calls}");
        }
        after.put_packed("disk", &objects(4..12)).expect("repeated");
        let all: Vec<String> = (0..12).map(name).collect();
        after.delete_many(&all).expect("repeated");
        assert!(after.list("").expect("list").is_empty());
        assert!(inner.list("").expect("list").is_empty(), "{calls}: leftovers");
    }
}

#[test]
fn the_specification_is_the_layout_of_the_code() {
    let next =
        check_fields(&format!("Structure `pack_footer`, {FOOTER_BYTES} bytes"), &FOOTER_FIELDS);
    assert_eq!(next, FOOTER_BYTES);
    for (limit, value) in [
        ("PACK_MEMBERS_MAX", PACK_MEMBERS_MAX as u64),
        ("PACK_DATA_BYTES_MAX", PACK_DATA_BYTES_MAX),
        ("PACK_NAME_BYTES_MAX", PACK_NAME_BYTES_MAX as u64),
    ] {
        assert!(SPECIFICATION.contains(&format!("| {limit} | {value} |")), "{limit}");
    }
    assert!(SPECIFICATION.contains("48 52 4C 50 41 4B 01 00"), "magic");
    assert_eq!(MAGIC, &[0x48, 0x52, 0x4c, 0x50, 0x41, 0x4b, 1, 0]);
}

proptest! {
    #[test]
    fn what_is_packed_is_unpacked(lengths in prop::collection::vec(0_usize..3000, 0..40)) {
        let names: Vec<String> = (0..lengths.len() as u64).map(member_name).collect();
        let contents: Vec<Vec<u8>> = lengths.iter().map(|length| vec![*length as u8; *length]).collect();
        let members: Vec<_> = names.iter().map(String::as_str).zip(contents.iter().map(Vec::as_slice)).collect();
        let (pack, bytes) = encode(&members);
        prop_assert!(parse_name(&pack).is_some());
        let table = decode(&bytes, bytes.len() as u64, "pack").expect("decode");
        prop_assert_eq!(table.len(), members.len());
        for (member, (name, content)) in table.iter().zip(&members) {
            prop_assert_eq!(&member.name, name);
            prop_assert_eq!(&bytes[member.bytes.start as usize..member.bytes.end as usize], *content);
        }
    }

    /// Promise 11: any changed byte and any cut length gives a table or an error, and never members
    /// beyond the pack.
    #[test]
    fn promise_11_any_bytes_give_a_table_or_an_error(
        changes in prop::collection::vec((0_usize..400, any::<u8>()), 0..4),
        cut in 0_usize..40,
        mend in any::<bool>(),
        claimed in prop::option::of(any::<u64>()),
    ) {
        let names: Vec<String> = (0..4).map(member_name).collect();
        let members: Vec<_> = names.iter().map(|name| (name.as_str(), &[1_u8; 20][..])).collect();
        let (_, mut bytes) = encode(&members);
        for (at, value) in changes {
            let end = bytes.len();
            bytes[at % end] = value;
        }
        bytes.drain(..cut);
        if mend {
            let table = u32::from_le_bytes(bytes[bytes.len() - 20..bytes.len() - 16].try_into().expect("4")) as usize;
            let end = bytes.len();
            if let Some(start) = (end - FOOTER_BYTES).checked_sub(table) {
                let crc = crc32fast::hash(&bytes[start..end - 4]);
                bytes[end - 4..].copy_from_slice(&crc.to_le_bytes());
            }
        }
        let length = claimed.unwrap_or(bytes.len() as u64);
        match decode(&bytes, length, "pack") {
            Ok(table) => prop_assert!(table.iter().all(|m| m.bytes.start <= m.bytes.end && m.bytes.end <= length)),
            Err(error) => prop_assert_eq!(error.kind(), ErrorKind::Corrupt),
        }
    }

    #[test]
    fn promise_11_random_bytes_are_no_pack(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(decode(&bytes, bytes.len() as u64, "pack").is_err());
        let text = String::from_utf8_lossy(&bytes);
        prop_assert!(parse_name(&text).is_none());
    }
}
