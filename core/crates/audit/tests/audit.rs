//! The log: what is in it, and what happens to it.

use std::sync::Arc;
use std::time::Duration;

use hrl::store::{DirStore, FaultStore, PutOutcome, Store, get_all};
use hrl::{Clock, Error, ErrorKind, ManualClock, Timestamp};
use hrl_audit::{Audit, AuditLog, AuditedStore, Entry, Head, INTERVAL, Outcome};

struct Rig {
    directory: tempfile::TempDir,
    inner: Arc<DirStore>,
    store: Arc<FaultStore>,
    clock: Arc<ManualClock>,
}

impl Rig {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("directory");
        let inner = Arc::new(DirStore::create(directory.path()).expect("store"));
        let store = Arc::new(FaultStore::new(inner.clone()));
        let clock = Arc::new(ManualClock::new(Timestamp(1_800_000_000_000_000_000), 1));
        Self { directory, inner, store, clock }
    }

    fn audit(&self, writer: &str) -> Audit {
        Audit::new(self.store.clone(), writer, self.clock.clone())
    }

    fn log(&self) -> AuditLog {
        AuditLog::read(&*self.inner).expect("log")
    }

    fn entry(&self, object: &str) -> Entry {
        Entry::new(self.clock.now(), "agent", "maintainer", "delete", &[object.to_owned()])
    }

    fn object(number: u64) -> String {
        format!("audit/{number:016x}")
    }

    fn replace(&self, object: &str, bytes: &[u8]) {
        self.inner.delete(object).expect("delete");
        self.inner.put(object, bytes).expect("put");
    }
}

/// A log of five batches by two writers.
fn five() -> Rig {
    let rig = Rig::new();
    let writers = [rig.audit("one"), rig.audit("two")];
    for number in 0..5 {
        let entry = rig.entry(&format!("volumes/disk/segments/{number}"));
        writers[number % 2].permit(&entry).expect("append");
    }
    rig
}

#[test]
fn promise_13_a_removed_altered_or_reordered_entry_is_found() {
    let rig = five();
    let log = rig.log();
    assert!(log.is_sound(), "{:?}", log.findings);
    let names: Vec<_> = log.entries.iter().map(|(_, _, entry)| &entry.objects[0]).collect();
    assert_eq!(names.len(), 5, "two writers share one chain: {names:?}");
    assert!(names.is_sorted());
    assert_eq!((log.entries[1].0, log.entries[1].1.as_str()), (2, "two"));
    let head = log.head;
    assert_eq!(Head::parse(&head.to_string()).expect("its text"), head);
    let finds = |rig: &Rig, text: &str| {
        let log = AuditLog::read_expecting(&*rig.inner, Some(head)).expect("log");
        assert!(log.findings.iter().any(|found| found.to_string().contains(text)), "{log:?}");
    };
    let bytes =
        |rig: &Rig, number| get_all(&*rig.inner, &Rig::object(number), 1 << 20).expect("it");

    let removed = five();
    for number in [2, 3] {
        removed.inner.delete(&Rig::object(number)).expect("delete");
    }
    finds(&removed, "audit/0000000000000002: it and those up to 3 were removed");
    let first = five();
    first.inner.delete(&Rig::object(1)).expect("delete");
    finds(&first, "audit/0000000000000001: it was removed");
    let end = five();
    end.inner.delete(&Rig::object(5)).expect("delete");
    finds(&end, "the end of the log was removed: it had 5 batches");

    let altered = five();
    let text = String::from_utf8(bytes(&altered, 3)).expect("text");
    altered.replace(&Rig::object(3), text.replace("segments/2", "segments/9").as_bytes());
    finds(&altered, "audit/0000000000000004: it does not follow the batch before");
    let garbage = five();
    garbage.replace(&Rig::object(3), b"{}\n");
    finds(&garbage, "audit/0000000000000003: it was altered");
    let last = five();
    let text = String::from_utf8(bytes(&last, 5)).expect("text");
    last.replace(&Rig::object(5), text.replace("segments/4", "segments/9").as_bytes());
    finds(&last, "it is another than the one that is expected");

    let reordered = five();
    let (two, three) = (bytes(&reordered, 2), bytes(&reordered, 3));
    reordered.replace(&Rig::object(2), &three);
    reordered.replace(&Rig::object(3), &two);
    finds(&reordered, "audit/0000000000000002: it was moved here: it is batch 3");
    let added = five();
    added.inner.put("audit/more", b"").expect("put");
    finds(&added, "this is no batch");
}

/// The end of a log is missing from the moment its writer goes on.
#[test]
fn promise_13_a_removed_end_is_found_once_its_writer_goes_on() {
    let rig = Rig::new();
    let audit = rig.audit("gateway");
    for number in 0..3 {
        audit.permit(&rig.entry(&format!("volumes/disk/segments/{number}"))).expect("append");
    }
    rig.inner.delete(&Rig::object(3)).expect("delete");
    assert!(rig.log().is_sound(), "nobody knows");
    audit.permit(&rig.entry("volumes/disk/segments/4")).expect("append");
    let found = rig.log().findings;
    assert_eq!(found[0].to_string(), "audit/0000000000000003: it was removed");
}

#[test]
fn puts_are_counted_together_and_refusals_are_recorded_at_once() {
    let rig = Rig::new();
    let audit = rig.audit("gateway");
    for number in 0..1000 {
        let object = format!("volumes/disk/segments/{number}");
        audit.count("agent", "source", "put", &object, 10);
        audit.tick().expect("not due");
    }
    assert!(rig.log().entries.is_empty(), "they cost no request");
    rig.clock.advance(INTERVAL);
    audit.tick().expect("due");
    let log = rig.log();
    assert_eq!(log.entries.len(), 1);
    let entry = &log.entries[0].2;
    assert_eq!((entry.count, entry.bytes, &entry.outcome), (1000, 10_000, &Outcome::Done));
    assert_eq!(entry.objects, ["volumes/disk/segments/"]);
    // Of ten thousand refusals a hundred are recorded and the others counted.
    let reason = Error::new(ErrorKind::Denied, "delete", "it").message("no right");
    for number in 0..10_000 {
        audit.refused(rig.entry(&format!("volumes/disk/segments/{number}")).denied(&reason));
    }
    audit.tick().expect("not due");
    rig.clock.advance(Duration::from_secs(1));
    audit.tick().expect("due");
    let log = rig.log();
    assert_eq!(log.entries.len(), 1 + 100 + 1);
    let denied = log.entries.iter().filter(|(_, _, entry)| entry.outcome == Outcome::Denied);
    assert_eq!(denied.map(|(_, _, entry)| entry.count).sum::<u64>(), 10_000);
    assert_eq!(log.head.number, 2);
}

#[test]
fn promise_13_nothing_is_deleted_that_is_not_recorded_first() {
    let rig = Rig::new();
    let objects = Arc::new(DirStore::create(&rig.directory.path().join("other")).expect("store"));
    let audit = Arc::new(rig.audit("host"));
    let store = AuditedStore::new(objects.clone(), audit.clone(), "root@host", "admin");
    assert_eq!(store.put("volumes/disk/one", b"1").expect("put"), PutOutcome::Created);
    rig.store.set_down(true);
    let error = store.delete("volumes/disk/one").expect_err("it cannot be recorded");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(objects.head("volumes/disk/one").expect("head").is_some());
    rig.store.set_down(false);
    store.delete_many(&["volumes/disk/one".to_owned()]).expect("delete");
    assert!(objects.head("volumes/disk/one").expect("head").is_none());
    let bad = store.delete("..").expect_err("no name");
    assert_eq!(bad.kind(), ErrorKind::InvalidInput);
    audit.flush().expect("append");
    let log = rig.log();
    assert!(log.is_sound(), "{:?}", log.findings);
    let of = |wanted: Outcome| log.entries.iter().filter(|(.., e)| e.outcome == wanted).count();
    let permitted = log
        .entries
        .iter()
        .filter(|(.., e)| e.outcome == Outcome::Permitted && e.objects == ["volumes/disk/one"]);
    assert_eq!(permitted.count(), 1, "not the one that was refused: {:?}", log.entries);
    assert_eq!((of(Outcome::Done), of(Outcome::Failed) > 0), (1, true));
}
