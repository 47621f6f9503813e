//! Somebody who may write to a vault without a key edits the records of a run. Nothing that he
//! writes is carried out: the plan comes from the operator.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::Arc;

use hrl::journal::WrappingKey;
use hrl::store::DirStore;
use hrl::vault::Vault;
use hrl::{ErrorKind, SystemClock};
use hrl_plan::{self as plan, RunMode, RunOptions, RunOutcome, StepOutcome};
use serde_json::json;

use parts::{Site, options};

mod parts;

/// A plan whose run can be resumed: its last action fails once.
const TEXT: &str = r#"
    name = "p"
    [[group]]
    name = "g"
    [[group.before]]
    command = "echo before >>DIR/log"
    [[group.member]]
    volume = "db"
    [[group.after]]
    command = "test $HRL_TRY = 2"
"#;

/// Begins a run, and edits one of its records.
fn edited(site: &Site, mode: RunMode, from: &str, to: &str) {
    let report = site.run(TEXT, &options(mode));
    assert_eq!(report.outcome, RunOutcome::Failed);
    let record = site.path("vault/plans/r/000001");
    let text = std::fs::read_to_string(&record).expect("record");
    assert!(text.contains(from), "{text}");
    std::fs::write(&record, text.replace(from, to)).expect("write");
}

#[test]
fn an_edited_record_runs_no_command() {
    let site = Site::new(&["db"]);
    let owned = site.path("owned");
    edited(&site, RunMode::Real, "test $HRL_TRY = 2", &format!("touch {}", owned.display()));
    let bare = options(RunMode::Real);
    let denied = plan::resume(&site.vault, "r", &site.host(), &bare).expect_err("denied");
    assert_eq!(denied.kind(), ErrorKind::Denied, "{denied}");
    let found = site.resume(TEXT, &options(RunMode::Real)).expect_err("another plan");
    assert_eq!(found.kind(), ErrorKind::InvalidInput, "{found}");
    assert!(found.to_string().contains("line 10"), "{found}");
    assert!(!owned.exists());
}

#[test]
fn an_edited_record_makes_no_test_a_failover_and_no_failover_a_commit() {
    for (from, to, expected) in [
        ("\"mode\":\"real\"", "\"mode\":\"test\"", "a test run"),
        ("\"planned\":false", "\"planned\":true", "a planned run"),
    ] {
        let site = Site::new(&["db"]);
        edited(&site, RunMode::Real, from, to);
        let found = site.resume(TEXT, &options(RunMode::Real)).expect_err("another run");
        assert_eq!(found.kind(), ErrorKind::InvalidInput, "{found}");
        assert!(found.to_string().contains(expected), "{found}");
    }
    let site = Site::new(&["db"]);
    edited(&site, RunMode::Real, "\"commit\":false", "\"commit\":true");
    let report = site.resume(TEXT, &options(RunMode::Real)).expect("resumed");
    assert!(report.outcome == RunOutcome::Done && report.commit_is_due);
    assert!(!site.log().contains(&"commit db".to_owned()), "{:?}", site.log());
}

#[test]
fn with_a_key_the_records_are_proof_enough() {
    let site = Site::with_key(&["db"], Some(WrappingKey::from_bytes([7; 32])));
    site.run(TEXT, &options(RunMode::Real));
    let bare = options(RunMode::Real);
    let report = plan::resume(&site.vault, "r", &site.host(), &bare).expect("resumed");
    assert_eq!(report.outcome, RunOutcome::Done);
    let store = Arc::new(DirStore::open(&site.path("vault")).expect("store"));
    let unsealed = Vault::open(store, None, SystemClock::shared()).expect("vault");
    let refused = plan::resume(&unsealed, "r", &site.host(), &bare).expect_err("sealed");
    assert_eq!(refused.kind(), ErrorKind::WrongKey);
}

#[test]
fn a_record_makes_no_runner_end_a_process_of_others() {
    let site = Site::new(&["db"]);
    site.run(TEXT, &options(RunMode::Real));
    // The leader of a group, as a runner's own processes are: groups get the signal.
    let mut sleep = Command::new("sleep");
    let mut bystander =
        sleep.arg("1000").stdin(Stdio::null()).process_group(0).spawn().expect("run");
    let pid = bystander.id();
    let read = |path: &str| std::fs::read_to_string(path).expect("read");
    let stat = read(&format!("/proc/{pid}/stat"));
    let began: u64 = stat
        .rsplit_once(") ")
        .expect("a name")
        .1
        .split(' ')
        .nth(19)
        .expect("a time")
        .parse()
        .expect("a number");
    let (boot, host) = (read("/proc/sys/kernel/random/boot_id"), read("/proc/sys/kernel/hostname"));
    let process = json!({ "pid": pid, "began": began, "boot": boot.trim(), "host": host.trim() });
    let records = std::fs::read_dir(site.path("vault/plans/r")).expect("records").count();
    let time = "2026-01-01T00:00:00Z";
    for (number, record) in (records + 1..).zip([
        json!({ "kind": "begin", "step": 3, "try": 2, "time": time }),
        json!({ "kind": "process", "step": 3, "process": process }),
    ]) {
        let path = site.path(&format!("vault/plans/r/{number:06}"));
        std::fs::write(path, record.to_string()).expect("write");
    }
    let report = site.resume(TEXT, &options(RunMode::Real)).expect("resumed");
    assert_eq!(report.steps[2].outcome, StepOutcome::Failed, "it is the third try: {report:?}");
    let ended = bystander.try_wait().expect("wait");
    bystander.kill().expect("kill");
    bystander.wait().expect("wait");
    assert!(ended.is_none(), "the record ended it: {ended:?}");
}

#[test]
fn words_of_the_caller_go_before_what_verifies() {
    let site = Site::new(&["db"]);
    let text = TEXT.replace("volume = \"db\"", "volume = \"db\"\n    verify = \"echo looked\"");
    let words = ["sh", "-c", "echo in a box: $HRL_URI; shift; exec \"$@\"", "sh", "--"];
    let words = words.map(str::to_owned);
    let report = site.run(&text, &RunOptions { verify_with: &words, ..options(RunMode::Test) });
    let verify = report.steps.iter().find(|step| step.id == "g/db/verify").expect("a step");
    assert_eq!(verify.output, "in a box: nbd+unix:///db\nlooked\n");
}
