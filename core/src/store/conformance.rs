//! The contract of a store as a test that embedders can run on their own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{PutOutcome, Store};
use crate::error::ErrorKind;

/// Clients that race for one name.
const RACERS: usize = 8;
const RACES: usize = 20;
/// Numbers the temporary files of this process.
static FILES: AtomicU64 = AtomicU64::new(0);

/// Checks the contract of [`Store`] on fresh, empty stores from `make`.
///
/// # Panics
/// If the contract is broken; the message says which part.
pub fn check(make: &dyn Fn() -> Arc<dyn Store>) {
    check_verbs(&*make());
    check_names(&*make());
    check_race(&make());
}

fn check_verbs(store: &dyn Store) {
    assert!(store.list("").expect("list an empty store").is_empty());
    assert_eq!(store.put("a/one", b"first").expect("put"), PutOutcome::Created);
    assert_eq!(store.put("a/one", b"other").expect("put again"), PutOutcome::AlreadyExists);
    assert_eq!(store.put("a/two", b"").expect("put nothing"), PutOutcome::Created);
    let number = FILES.fetch_add(1, Ordering::Relaxed);
    let file = std::env::temp_dir().join(format!("hrl-file-{}-{number}", std::process::id()));
    std::fs::write(&file, b"of a file").expect("temporary file");
    assert_eq!(store.put_file("f/one", &file).expect("put a file"), PutOutcome::Created);
    assert_eq!(store.put_file("f/one", &file).expect("again"), PutOutcome::AlreadyExists);
    std::fs::remove_file(&file).expect("remove");
    assert_eq!(store.get("f/one", 0..9).expect("get"), b"of a file", "an object of its own");
    store.delete("f/one").expect("delete");
    assert_eq!(store.put("b", b"x").expect("put at the top"), PutOutcome::Created);
    assert_eq!(store.get("a/one", 0..5).expect("get"), b"first", "an object never changes");
    assert_eq!(store.get("a/one", 1..3).expect("get a range"), b"ir");
    assert!(store.get("a/one", 5..5).expect("get nothing").is_empty());
    let past = store.get("a/one", 3..6).expect_err("a range past the end");
    assert_eq!(past.kind(), ErrorKind::InvalidInput);
    let absent = store.get("a/three", 0..1).expect_err("an absent object");
    assert_eq!(absent.kind(), ErrorKind::NotFound);
    assert!(absent.to_string().contains("a/three"), "{absent}");
    let names = |prefix: &str| -> Vec<String> {
        store.list(prefix).expect("list").into_iter().map(|info| info.name).collect()
    };
    assert_eq!(names(""), ["a/one", "a/two", "b"]);
    assert_eq!(names("a/"), ["a/one", "a/two"]);
    assert_eq!(names("a/t"), ["a/two"]);
    assert!(names("c/").is_empty());
    assert_eq!(store.head("a/one").expect("head").map(|info| info.length), Some(5));
    assert_eq!(store.head("a/three").expect("head of nothing"), None);
    store.delete("a/one").expect("delete");
    store.delete("a/one").expect("delete once more");
    assert_eq!(store.head("a/one").expect("head of a deleted object"), None);
    assert_eq!(store.put("a/one", b"new").expect("put after delete"), PutOutcome::Created);
    check_delete_many(store);
}

fn check_delete_many(store: &dyn Store) {
    let names: Vec<String> = (0..5).map(|number| format!("many/{number}")).collect();
    for name in &names {
        store.put(name, b"x").expect("put");
    }
    let (kept, gone) = names.split_first().expect("names");
    let absent = "many/absent".to_owned();
    let asked: Vec<String> = gone.iter().cloned().chain([absent]).collect();
    store.delete_many(&asked).expect("delete many, one of which is absent");
    let left = store.list("many/").expect("list");
    assert_eq!(left.iter().map(|info| &info.name).collect::<Vec<_>>(), [kept]);
    store.delete_many(&[]).expect("delete none");
    let bad = ["many/0".to_owned(), "many//0".to_owned()];
    let error = store.delete_many(&bad).expect_err("a name against the rules");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    store.delete_many(&names).expect("delete all");
}

fn check_names(store: &dyn Store) {
    for name in
        ["", "/a", "a/", "a//b", "../a", "a/../b", "a/./b", "a b", "a\0b", "é", &"x".repeat(600)]
    {
        for result in
            [store.put(name, b"x").map(drop), store.head(name).map(drop), store.delete(name)]
        {
            let error = result.expect_err("a name against the rules");
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{name:?}");
        }
    }
}

/// Checks that of several puts of one name exactly one creates it, and that all clients then read
/// its bytes.
fn check_race(store: &Arc<dyn Store>) {
    for race in 0..RACES {
        let name = format!("race/{race}");
        let winners: Vec<usize> = std::thread::scope(|scope| {
            let racers: Vec<_> = (0..RACERS)
                .map(|racer| {
                    let (store, name) = (store, &name);
                    scope.spawn(move || store.put(name, &[racer as u8; 4096]).expect("put"))
                })
                .collect();
            racers
                .into_iter()
                .enumerate()
                .filter_map(|(racer, thread)| {
                    (thread.join().expect("racer") == PutOutcome::Created).then_some(racer)
                })
                .collect()
        });
        assert_eq!(winners.len(), 1, "put-if-absent has one winner");
        assert_eq!(store.get(&name, 0..4096).expect("get"), [winners[0] as u8; 4096]);
    }
}
