//! Runners that are killed, stopped or replaced: a run is resumed where it was, and no finished
//! step runs twice.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use hrl::store::{DirStore, ObjectInfo, PutOutcome, Store};
use hrl::vault::Vault;
use hrl::{ErrorKind, Result, SystemClock};
use hrl_plan::{self as plan, Plan, RunMode, RunOptions, RunOutcome, StepOutcome};

use parts::{Host, POLL, Site, options, outcome, step};

mod parts;

const CHILD: &str = "HRL_TEST_PLAN_CHILD";

#[test]
fn a_stopped_run_interrupts_its_steps_and_can_be_resumed() {
    let site = Site::new(&["db"]);
    let text = r#"
        name = "p"
        [[group]]
        name = "g"
        [[group.member]]
        volume = "db"
        [[group.after]]
        command = "echo x >>DIR/log; test $HRL_TRY = 2 || sleep 1000"
    "#;
    let stopped = || site.log().len() == 2;
    let report = site.run(text, &RunOptions { stopped: &stopped, ..options(RunMode::Test) });
    assert_eq!(
        (report.outcome, outcome(&report, "g/after/1")),
        (RunOutcome::Stopped, StepOutcome::Stopped)
    );
    assert_eq!(outcome(&report, "g/db/clean-up"), StepOutcome::Skipped);
    let report = site.resume(text, &options(RunMode::Test)).expect("resumed");
    assert_eq!(
        (report.outcome, outcome(&report, "g/db/clean-up")),
        (RunOutcome::Done, StepOutcome::Done)
    );
    assert_eq!(site.log(), ["start db test newest", "x", "x", "clean-up db"]);
}

/// Promise 9 for plans: of two runners of one run, one continues and the other stops with an error.
#[test]
fn promise_9_of_two_runners_of_a_run_only_one_continues() {
    let site = Site::new(&["db"]);
    let text = r#"
        name = "p"
        [[group]]
        name = "g"
        [[group.before]]
        command = "echo $HRL_TRY >>DIR/log; test $HRL_TRY = 2 || exec sleep 1000"
        [[group.member]]
        volume = "db"
    "#;
    let (first, vault) = (site.plan(text), site.vault.clone());
    let host = site.host();
    let first =
        std::thread::spawn(move || plan::run(&first, &vault, &host, &options(RunMode::Test)));
    while site.log().is_empty() {
        std::thread::sleep(POLL);
    }
    let lives = site.resume(text, &options(RunMode::Test)).expect_err("it lives");
    assert_eq!(lives.kind(), ErrorKind::Fenced);
    assert!(lives.to_string().contains(&std::process::id().to_string()), "{lives}");
    let take_over = RunOptions { take_over: true, ..options(RunMode::Test) };
    let report = site.resume(text, &take_over).expect("taken");
    let lost = first.join().expect("ended").expect_err("lost");
    assert_eq!(lost.kind(), ErrorKind::Fenced);
    assert!(lost.to_string().contains("another runner"), "{lost}");
    assert_eq!((report.outcome, step(&report, "g/before/1").interrupted), (RunOutcome::Done, 1));
    assert_eq!(site.log(), ["1", "2", "start db test newest", "clean-up db"]);
}

/// A store that kills its process at the Nth record, before or after it is put.
struct Killing {
    inner: DirStore,
    left: AtomicU32,
    after: bool,
}

impl Store for Killing {
    fn name(&self) -> String {
        self.inner.name()
    }
    fn put(&self, name: &str, content: &[u8]) -> Result<PutOutcome> {
        let dies = name.starts_with("plans/") && self.left.fetch_sub(1, Ordering::SeqCst) == 1;
        let put = if dies && !self.after { None } else { Some(self.inner.put(name, content)) };
        if dies {
            let pid = rustix::process::getpid();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("kill");
        }
        put.expect("killed")
    }
    fn get(&self, name: &str, range: std::ops::Range<u64>) -> Result<Vec<u8>> {
        self.inner.get(name, range)
    }
    fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        self.inner.list(prefix)
    }
    fn head(&self, name: &str) -> Result<Option<ObjectInfo>> {
        self.inner.head(name)
    }
    fn delete(&self, name: &str) -> Result<()> {
        self.inner.delete(name)
    }
    fn local_path(&self, name: &str) -> Option<PathBuf> {
        self.inner.local_path(name)
    }
}

const SWEPT: &str = r#"
    name = "p"
    commit = "automatic"
    [[group]]
    name = "g"
    [[group.before]]
    name = "one"
    command = "echo one >>DIR/log"
    [[group.before]]
    name = "ask"
    manual = "Is it so?"
    [[group.member]]
    volume = "db"
    state = "DIR"
    boot = { command = "echo $$ >DIR/pid; echo boot >>DIR/log; touch DIR/ready; exec sleep 30", ready = "test -e DIR/ready" }
    verify = "echo verify >>DIR/log"
    [[group.after]]
    name = "two"
    command = "echo two >>DIR/log"
"#;

/// The runner of the sweep: starts the run or resumes it, and is killed at the given record.
#[test]
fn child_runner() {
    let Ok(arguments) = std::env::var(CHILD) else { return };
    let [directory, left, after, mode] = arguments.split(' ').collect::<Vec<_>>()[..] else {
        panic!("{arguments}")
    };
    let directory = Path::new(directory);
    let left = AtomicU32::new(left.parse().expect("number"));
    let inner = DirStore::open(&directory.join("vault")).expect("store");
    let store = Arc::new(Killing { inner, left, after: after == "after" });
    let vault = Vault::open(store, None, SystemClock::shared()).expect("vault");
    let text = SWEPT.replace("DIR", &directory.display().to_string());
    let parsed = Plan::parse(&text, "plan.toml").expect("plan");
    let mode = if mode == "test" { RunMode::Test } else { RunMode::Real };
    let (host, options) = (Host::new(directory), options(mode));
    let report = if plan::runs(&vault).expect("runs").is_empty() {
        plan::run(&parsed, &vault, &host, &options)
    } else {
        plan::resume(&vault, "r", &host, &RunOptions { plan: Some(&parsed), ..options })
    };
    assert_eq!(report.expect("run").outcome, RunOutcome::Done);
}

/// Kills the runner at a record and resumes the run. Returns whether the record was reached.
fn killed_and_resumed(record: u32, after: bool, mode: RunMode) -> bool {
    let site = Site::new(&["db"]);
    let child = |record: u32| {
        let when = if after { "after" } else { "before" };
        let arguments =
            format!("{} {record} {when} {}", site.directory.path().display(), mode.name());
        let mut command = Command::new(std::env::current_exe().expect("program"));
        command.args(["--exact", "child_runner", "--nocapture"]).env(CHILD, arguments);
        let output = command.stdin(Stdio::null()).output().expect("child");
        (output.status.signal(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let vault = site.vault.clone();
    let done = Arc::new(AtomicU32::new(0));
    let finished = done.clone();
    let approver = std::thread::spawn(move || {
        while finished.load(Ordering::SeqCst) == 0 {
            let _ = plan::approve(&vault, "r", "g/before/ask", true, "ada", "");
            std::thread::sleep(POLL);
        }
    });
    let (signal, _) = child(record);
    let was_killed = signal.is_some();
    // The resumed runner is killed twice more, then left alone.
    for kill in [2, 3, 0] {
        let (signal, said) = child(if was_killed { kill } else { 0 });
        assert!(kill != 0 || signal.is_none() && said.contains("1 passed"), "{said}");
    }
    done.store(1, Ordering::SeqCst);
    approver.join().expect("approver");
    let report = plan::report(&site.vault, "r").expect("report");
    let context = || format!("killed at {record}, after: {after}\n{report:#?}\n{:?}", site.log());
    assert_eq!(report.outcome, RunOutcome::Done, "{}", context());
    for (word, id) in [
        ("one", "g/before/one"),
        ("boot", "g/db/boot"),
        ("verify", "g/db/verify"),
        ("two", "g/after/two"),
    ] {
        let (count, step) =
            (site.log().iter().filter(|line| *line == word).count() as u32, step(&report, id));
        assert_eq!(step.outcome, StepOutcome::Done);
        // A step runs once, plus at most once for each reported interruption.
        assert!(count >= 1 && count <= 1 + step.interrupted, "{word} {count} times, {}", context());
        assert_eq!(step.tries, 1 + step.interrupted, "{}", context());
        if word == "boot" {
            assert_eq!(count, 1, "a boot that runs is not started twice, {}", context());
        }
    }
    let started = site.log().iter().filter(|line| line.starts_with("start db")).count();
    assert_eq!(started, 1, "{}", context());
    let last = site.log().into_iter().rfind(|line| line.ends_with(" db")).expect("an end");
    assert_eq!(last, if mode == RunMode::Test { "clean-up db" } else { "commit db" });
    let boot = site.process();
    assert_eq!(boot.runs(), mode == RunMode::Real, "{}", context());
    if mode == RunMode::Real {
        boot.end();
    }
    was_killed
}

fn sweep(step_by: usize, mode: RunMode) {
    for after in [false, true] {
        let mut reached = 0;
        for record in (1..=60).step_by(step_by) {
            if !killed_and_resumed(record, after, mode) {
                break;
            }
            reached = record;
        }
        assert!(reached > 15, "{reached}");
    }
}

/// Promise 4 for plans: a killed runner loses no step and repeats no finished one.
#[test]
fn promise_4_a_run_continues_where_its_runner_was_killed() {
    sweep(6, RunMode::Test);
}

#[test]
#[ignore = "minutes: every record, both modes"]
fn promise_4_a_run_continues_after_a_kill_at_every_record() {
    sweep(1, RunMode::Test);
    sweep(1, RunMode::Real);
}
