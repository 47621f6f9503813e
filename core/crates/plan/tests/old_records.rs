//! Runs recorded before records were written by `serde_json` are read, continued and decrypted.
//!
//! `records/plain.jsonl` contains a run's records, one on each line, and `records/report.json` its
//! report of that time. `records/sealed` contains the objects of another run, encrypted with the
//! key-encryption key 07…07.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hrl::journal::WrappingKey;
use hrl::store::{DirStore, PutOutcome};
use hrl::vault::Vault;
use hrl::{Result, Sequence, SystemClock, Timestamp};
use hrl_plan::{
    Member, Plan, PlanHost, RunMode, RunOptions, RunOutcome, StartRequest, Started, StepOutcome,
    report, resume,
};
use serde_json::Value;

const PLAIN: &str = include_str!("records/plain.jsonl");
const REPORT: &str = include_str!("records/report.json");

fn vault(directory: &Path, key: Option<WrappingKey>) -> Vault {
    let store = Arc::new(DirStore::create(&directory.join("vault")).expect("store"));
    Vault::create(store, key, SystemClock::shared()).expect("vault")
}

fn put(vault: &Vault, name: &str, content: &[u8]) {
    let put = vault.store().put(&format!("plans/old/{name}"), content).expect("put");
    assert_eq!(put, PutOutcome::Created);
}

fn put_lines(vault: &Vault, count: usize) {
    for (number, line) in (1..).zip(PLAIN.lines().take(count)) {
        put(vault, &format!("{number:06}"), line.as_bytes());
    }
}

/// Reports every volume as up.
struct Host;

impl PlanHost for Host {
    fn start(&self, _: &Member, _: &StartRequest<'_>) -> Result<Started> {
        let point_time = Timestamp::parse("2026-01-01T00:00:00Z").expect("a time");
        Ok(Started { uri: "nbd:new".into(), point: None, sequence: Sequence(4), point_time })
    }
    fn commit(&self, _: &Member, _: &StartRequest<'_>) -> Result<()> {
        Ok(())
    }
    fn clean_up(&self, _: &Member, _: &StartRequest<'_>) -> Result<()> {
        Ok(())
    }
}

#[test]
fn the_report_of_an_old_run_is_unchanged() {
    let directory = tempfile::tempdir().expect("directory");
    let vault = vault(directory.path(), None);
    put_lines(&vault, usize::MAX);
    let found = report(&vault, "old").expect("read").to_json();
    let found: Value = serde_json::from_str(&found).expect("JSON");
    let expected: Value = serde_json::from_str(REPORT).expect("JSON");
    assert_eq!(found, expected);
    let keys = |value: &Value| value.as_object().expect("an object").keys().cloned().collect();
    let (found, expected): (Vec<_>, Vec<_>) = (keys(&found), keys(&expected));
    assert_eq!(found, expected, "fields keep their order");
}

#[test]
fn an_old_run_is_continued_from_each_of_its_records() {
    let records = PLAIN.lines().count();
    for count in 7..records {
        let directory = tempfile::tempdir().expect("directory");
        let vault = vault(directory.path(), None);
        put_lines(&vault, count);
        let first: Value =
            serde_json::from_str(PLAIN.lines().next().expect("a record")).expect("JSON");
        let plan = Plan::parse(first["text"].as_str().expect("a text"), "plan").expect("a plan");
        let mode = RunMode::from_name(first["mode"].as_str().expect("a text")).expect("a mode");
        let (poll, planned) = (Duration::from_millis(10), first["planned"] == true);
        let options =
            RunOptions { poll, mode, planned, plan: Some(&plan), ..RunOptions::default() };
        let report = resume(&vault, "old", &Host, &options).expect("resumed");
        assert_eq!(report.outcome, RunOutcome::DoneWithFailures, "after {count} records");
        assert_eq!(report.runners, 2, "after {count} records");
        let said = &report.steps[0];
        assert_eq!(said.output, "é \"quoted\" \\ \t \u{7f} \u{1} end");
        let approval = report.steps[1].approval.as_ref().expect("an approval");
        assert_eq!((&*approval.by, &*approval.note), ("ada", "looks good 👍"));
        assert_eq!(report.steps[5].outcome, StepOutcome::Done);
    }
}

#[test]
fn old_encrypted_records_open_with_their_key() {
    let directory = tempfile::tempdir().expect("directory");
    let vault = vault(directory.path(), Some(WrappingKey::from_bytes([7; 32])));
    let encrypted = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/records/sealed");
    for entry in std::fs::read_dir(encrypted).expect("records") {
        let entry = entry.expect("entry");
        let content = std::fs::read(entry.path()).expect("record");
        put(&vault, &entry.file_name().to_string_lossy(), &content);
    }
    let report = report(&vault, "old").expect("opened");
    assert_eq!((report.outcome, report.steps.len()), (RunOutcome::DoneWithFailures, 6));
    assert_eq!(report.steps[0].output, "é \"quoted\" \\ \t \u{7f} \u{1} end");
}
