//! Recovery plans against a host of the test's own: order, parallelism, limits, policies, approvals, both modes, reports, and
//! runners that are killed at every record.

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hrl::device::{BlockDevice, Durability, MemoryDevice};
use hrl::journal::{PointKind, WrappingKey};
use hrl::replica::At;
use hrl::store::{DirStore, ObjectInfo, PutOutcome, Store};
use hrl::vault::{PinUntil, Vault, VerdictKind};
use hrl::{
    Clock, Error, ErrorKind, Policy, ProtectionOptions, Result, Sequence, SystemClock, Timestamp,
};
use hrl_plan::{
    self as plan, Member, Plan, PlanHost, RunMode, RunOptions, RunOutcome, RunReport, StartRequest,
    Started, StepOutcome, StepReport,
};

const LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);
const CHILD: &str = "HRL_TEST_PLAN_CHILD";

/// A directory with a vault of volumes with two points each, "first" and "second".
struct Site {
    directory: tempfile::TempDir,
    vault: Vault,
}

impl Site {
    fn new(volumes: &[&str]) -> Self {
        Self::sealed(volumes, None)
    }

    fn sealed(volumes: &[&str], key: Option<WrappingKey>) -> Self {
        let directory = tempfile::tempdir().expect("directory");
        let store = Arc::new(DirStore::create(&directory.path().join("vault")).expect("store"));
        let vault = Vault::create(store, key, SystemClock::shared()).expect("vault");
        for volume in volumes {
            let state = directory.path().join(format!("source-{volume}"));
            let policy = Policy { crash_point_interval: Duration::ZERO, ..Policy::default() };
            let device = Arc::new(MemoryDevice::new(1 << 20));
            let protection = ProtectionOptions::new(volume, device, vault.clone(), state);
            let protection = protection.policy(policy).open().expect("protect");
            protection.wait_ordered(LIMIT).expect("ordered");
            for label in ["first", "second"] {
                protection.volume().write(0, label.as_bytes(), Durability::Cached).expect("write");
                protection.mark(PointKind::Crash, label).expect("mark");
            }
            protection.stop(LIMIT).expect("stop");
        }
        Self { directory, vault }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The lines that hosts and commands wrote, as DIR/log.
    fn log(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.path("log")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// A plan in which DIR stands for the directory.
    fn plan(&self, text: &str) -> Plan {
        let text = text.replace("DIR", &self.directory.path().display().to_string());
        Plan::parse(&text, "plan.toml").expect("a plan")
    }

    fn host(&self) -> Host {
        Host::new(self.directory.path())
    }

    fn run(&self, text: &str, options: &RunOptions<'_>) -> RunReport {
        plan::run(&self.plan(text), &self.vault, &self.host(), options).expect("a run")
    }
}

fn options(mode: RunMode) -> RunOptions<'static> {
    RunOptions { run: Some("r".into()), mode, poll: POLL, ..RunOptions::default() }
}

/// Brings volumes up by making files.
struct Host {
    directory: PathBuf,
    /// Members that have to be in `start` at the same time.
    together: u32,
    inside: AtomicU32,
    takes: Duration,
    refuses: Option<String>,
}

impl Host {
    fn new(directory: &Path) -> Self {
        let directory = directory.to_owned();
        let inside = AtomicU32::new(0);
        Self { directory, together: 1, inside, takes: Duration::ZERO, refuses: None }
    }

    fn say(&self, line: String) {
        let file =
            std::fs::File::options().create(true).append(true).open(self.directory.join("log"));
        file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes())).expect("log");
    }
}

impl PlanHost for Host {
    fn start(&self, member: &Member, request: &StartRequest<'_>) -> Result<Started> {
        let volume = &member.volume;
        self.inside.fetch_add(1, Ordering::SeqCst);
        for _ in 0..500 {
            if self.inside.load(Ordering::SeqCst) >= self.together {
                break;
            }
            std::thread::sleep(POLL);
        }
        if self.inside.load(Ordering::SeqCst) < self.together
            || self.refuses.as_ref() == Some(volume)
        {
            return Err(Error::new(ErrorKind::Unavailable, "start", volume));
        }
        std::thread::sleep(self.takes);
        let up = self.directory.join(format!("up-{volume}"));
        let word = if up.exists() { "found" } else { "start" };
        std::fs::write(up, request.at.to_string()).expect("up");
        self.say(format!("{word} {volume} {} {}", request.mode.name(), request.at));
        Ok(Started {
            uri: format!("nbd+unix:///{volume}"),
            point: None,
            sequence: Sequence(7),
            point_time: Timestamp(SystemClock::default().now().0 - 5_000_000_000),
        })
    }

    fn commit(&self, member: &Member, _: &StartRequest<'_>) -> Result<()> {
        self.say(format!("commit {}", member.volume));
        Ok(())
    }

    fn clean_up(&self, member: &Member, _: &StartRequest<'_>) -> Result<()> {
        let _ = std::fs::remove_file(self.directory.join(format!("up-{}", member.volume)));
        self.say(format!("clean-up {}", member.volume));
        Ok(())
    }
}

/// Whether a process runs, and is not only waited for.
fn runs(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
    stat.is_ok_and(|stat| !stat.contains(") Z"))
}

fn step<'a>(report: &'a RunReport, id: &str) -> &'a StepReport {
    report.steps.iter().find(|step| step.id == id).expect(id)
}

fn outcome(report: &RunReport, id: &str) -> StepOutcome {
    step(report, id).outcome
}

#[test]
fn groups_come_in_order_and_their_volumes_at_once() {
    let site = Site::new(&["db", "web1", "web2", "mail"]);
    let text = r#"
        name = "shop"
        [[group]]
        name = "database"
        [[group.before]]
        command = "echo before $HRL_MODE $HRL_GROUP $HRL_VOLUME >>DIR/log"
        [[group.member]]
        volume = "db"
        at = "second"
        [[group.after]]
        command = ["sh", "-c", "echo after $HRL_URI $HRL_POINT $HRL_TRY $SITE; env >DIR/env"]
        env = { SITE = "new" }
        [[group]]
        name = "web"
        [[group.member]]
        volume = "web1"
        [[group.member]]
        volume = "web2"
        at = "first"
        [[group.after]]
        only = "test"
        command = "echo after web $HRL_VOLUME >>DIR/log; echo $HRL_MEMBERS >DIR/members"
    "#;
    let host = Host { together: 2, inside: AtomicU32::new(1), ..site.host() };
    let report =
        plan::run(&site.plan(text), &site.vault, &host, &options(RunMode::Real)).expect("run");
    assert_eq!(report.outcome, RunOutcome::Done, "{report:?}");
    let log = site.log();
    assert_eq!(log.len(), 4, "{log:?}");
    assert_eq!(log[0], "before real database db");
    assert!(log[1].starts_with("start db real point "), "{log:?}");
    let points = site.vault.replica("web2").expect("replica").points();
    let first = format!("start web2 real point {}", points[0].id);
    assert!(log.contains(&first) && log.contains(&"start web1 real newest".to_owned()), "{log:?}");
    assert_eq!(step(&report, "database/after/1").output, "after nbd+unix:///db 7 1 new\n");
    assert_eq!(report.left_out, ["web/after/1"]);
    assert!(report.commit_is_due);
    assert!(std::fs::read_to_string(site.path("env")).expect("env").contains("HRL_RUN=r\n"));

    // Committing is going on with the run.
    let commit = RunOptions { commit: true, ..options(RunMode::Real) };
    let report = plan::resume(&site.vault, "r", &host, &commit).expect("commit");
    assert!(!report.commit_is_due && report.outcome == RunOutcome::Done);
    let mut committed = site.log().split_off(4);
    committed.sort();
    assert_eq!(committed, ["commit db", "commit web1", "commit web2"]);
    plan::resume(&site.vault, "r", &host, &commit).expect("it is over");
    assert_eq!(site.log().len(), 7);
    let again = plan::run(&site.plan(text), &site.vault, &host, &options(RunMode::Real));
    assert_eq!(again.expect_err("there is one").kind(), ErrorKind::AlreadyExists);
    assert_eq!(plan::runs(&site.vault).expect("runs"), ["r"]);
}

#[test]
fn groups_that_do_not_wait_for_each_other_run_at_once() {
    let site = Site::new(&[]);
    let wait = "for i in $(seq 500); do test -e DIR/there && exit 0; sleep 0.01; done; exit 1";
    let text = format!(
        r#"
        name = "p"
        [[group]]
        name = "waits"
        [[group.before]]
        command = "{wait}"
        [[group]]
        name = "makes"
        depends_on = []
        [[group.before]]
        command = "touch DIR/there"
        [[group]]
        name = "both"
        depends_on = ["waits", "makes"]
        [[group.before]]
        command = "test -e DIR/there"
    "#
    );
    assert_eq!(site.run(&text, &options(RunMode::Test)).outcome, RunOutcome::Done);
}

#[test]
fn a_program_that_hangs_is_killed_with_all_that_it_started() {
    let site = Site::new(&["db"]);
    let text = r#"
        name = "p"
        [[group]]
        name = "g"
        [[group.before]]
        command = "trap '' TERM; sleep 1000 & echo $! >DIR/pid; echo said; wait; sleep 1000"
        limit = "300ms"
        [[group.member]]
        volume = "db"
    "#;
    let report = site.run(text, &options(RunMode::Test));
    assert_eq!(report.outcome, RunOutcome::Failed);
    let hung = step(&report, "g/before/1");
    assert_eq!((hung.outcome, hung.output.as_str()), (StepOutcome::TimedOut, "said\n"));
    assert!(hung.message.contains("300ms"), "{}", hung.message);
    assert_eq!(outcome(&report, "g/db/start"), StepOutcome::Skipped);
    let pid = std::fs::read_to_string(site.path("pid")).expect("pid");
    assert!(!runs(&pid), "it runs");
}

#[test]
fn a_failure_stops_continues_or_is_tried_again() {
    let site = Site::new(&["db", "web"]);
    let text = r#"
        name = "p"
        [[group]]
        name = "a"
        [[group.before]]
        name = "third-time"
        command = "echo x >>DIR/tries; test $(wc -l <DIR/tries) = 3"
        on_failure = "retry"
        tries = 3
        pause = "1ms"
        [[group.before]]
        name = "whatever"
        command = ["/nowhere/nothing"]
        on_failure = "continue"
        [[group.member]]
        volume = "web"
        on_failure = "continue"
        boot = { command = "touch DIR/booted" }
        [[group.after]]
        name = "stops"
        command = "test -e DIR/mended"
        [[group]]
        name = "b"
        [[group.member]]
        volume = "db"
    "#;
    let host = Host { refuses: Some("web".into()), ..site.host() };
    let run = |report: Result<RunReport>| report.expect("run");
    let report = run(plan::run(&site.plan(text), &site.vault, &host, &options(RunMode::Real)));
    assert_eq!(
        (report.outcome, report.message.as_str()),
        (RunOutcome::Failed, "a/after/stops failed")
    );
    assert_eq!(
        (outcome(&report, "a/before/third-time"), step(&report, "a/before/third-time").tries),
        (StepOutcome::Done, 3)
    );
    assert_eq!(outcome(&report, "a/before/whatever"), StepOutcome::Failed);
    assert_eq!(outcome(&report, "a/web/start"), StepOutcome::Failed);
    assert_eq!(outcome(&report, "a/web/boot"), StepOutcome::Skipped);
    assert_eq!(outcome(&report, "b/db/start"), StepOutcome::Skipped);
    assert!(!site.path("booted").exists());

    // What failed is tried once more when the run is resumed; what was passed over and what is done is not.
    std::fs::write(site.path("mended"), "").expect("write");
    let report = run(plan::resume(&site.vault, "r", &host, &options(RunMode::Real)));
    assert_eq!(report.outcome, RunOutcome::DoneWithFailures);
    assert_eq!((report.runners, step(&report, "a/after/stops").tries), (2, 2));
    assert_eq!(std::fs::read_to_string(site.path("tries")).expect("tries").lines().count(), 3);
    assert_eq!(outcome(&report, "b/db/start"), StepOutcome::Done);
    assert_eq!(report.rto, None, "one volume is not up");
}

const MANUAL: &str = r#"
    name = "p"
    [[group]]
    name = "g"
    [[group.before]]
    name = "dns"
    manual = "Switch it."
    limit = "20s"
    [[group.member]]
    volume = "db"
"#;

/// Approves from another thread as soon as the step waits.
fn decide(vault: &Vault, approved: bool) {
    for _ in 0..1000 {
        match plan::approve(vault, "r", "g/before/dns", approved, "ada", "done") {
            Err(error) if error.kind() == ErrorKind::NotFound => std::thread::sleep(POLL),
            decided => return drop(decided.expect("decided")),
        }
    }
    panic!("it never waited");
}

#[test]
fn a_person_approves_or_rejects_within_the_limit() {
    let site = Site::new(&["db"]);
    let vault = site.vault.clone();
    let other = std::thread::spawn(move || decide(&vault, false));
    let report = site.run(MANUAL, &options(RunMode::Real));
    other.join().expect("decided");
    assert_eq!(
        (report.outcome, outcome(&report, "g/before/dns")),
        (RunOutcome::Failed, StepOutcome::Rejected)
    );
    let error = plan::approve(&site.vault, "r", "g/before/dns", true, "", "").expect_err("late");
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");

    // Resumed, it waits anew; the second decision does not count.
    let vault = site.vault.clone();
    let other = std::thread::spawn(move || {
        decide(&vault, true);
        plan::approve(&vault, "r", "1", false, "bob", "")
    });
    let report =
        plan::resume(&site.vault, "r", &site.host(), &options(RunMode::Real)).expect("run");
    let second = other.join().expect("decided").expect_err("decided before");
    assert!(matches!(second.kind(), ErrorKind::AlreadyExists | ErrorKind::NotFound), "{second}");
    let approval = step(&report, "g/before/dns").approval.clone().expect("approval");
    assert_eq!(
        (approval.approved, approval.by.as_str(), approval.note.as_str()),
        (true, "ada", "done")
    );
    assert!(report.waited > Duration::ZERO && report.outcome == RunOutcome::Done);

    let short = MANUAL.replace("20s", "50ms");
    let options = RunOptions { run: Some("late".into()), ..options(RunMode::Real) };
    assert_eq!(outcome(&site.run(&short, &options), "g/before/dns"), StepOutcome::TimedOut);
}

#[test]
fn a_test_is_taken_down_also_after_a_failure() {
    let site = Site::new(&["db", "web"]);
    let text = r#"
        name = "p"
        [[group]]
        name = "g"
        [[group.member]]
        volume = "db"
        state = "DIR"
        boot = { command = "echo $$ >DIR/pid; exec sleep 1000", ready = "test -s DIR/pid", stop = "echo stop $HRL_URI >>DIR/log", limit = "20s" }
        verify = "echo looked; exit 3"
        [[group]]
        name = "h"
        [[group.member]]
        volume = "web"
    "#;
    let report = site.run(text, &options(RunMode::Test));
    assert_eq!(
        (report.outcome, report.message.as_str()),
        (RunOutcome::Failed, "g/db/verify failed")
    );
    let verify = step(&report, "g/db/verify");
    assert_eq!(
        (verify.message.as_str(), verify.output.as_str()),
        ("it ended with code 3", "looked\n")
    );
    assert_eq!(report.members[0].verified, Some(false));
    assert_eq!(outcome(&report, "h/web/clean-up"), StepOutcome::Skipped);
    assert_eq!(site.log()[1..], ["stop nbd+unix:///db", "clean-up db"]);
    let pid = std::fs::read_to_string(site.path("pid")).expect("pid");
    assert!(!runs(&pid), "the boot runs");
    let again =
        plan::resume(&site.vault, "r", &site.host(), &options(RunMode::Test)).expect("over");
    assert_eq!((again.outcome, site.log().len()), (RunOutcome::Failed, 3));
}

#[test]
fn a_boot_that_is_ready_goes_on_after_a_real_run() {
    let site = Site::new(&["db"]);
    let text = r#"
        name = "p"
        commit = "automatic"
        [[group]]
        name = "g"
        [[group.member]]
        volume = "db"
        state = "DIR"
        boot = { command = "echo booting; sleep 0.3; touch DIR/ready; echo $$ >DIR/pid; exec sleep 1000", ready = "test -e DIR/ready" }
    "#;
    let report = site.run(text, &options(RunMode::Real));
    assert_eq!(report.outcome, RunOutcome::Done);
    assert_eq!(site.log()[1..], ["commit db"]);
    assert!(
        report.rto >= Some(Duration::from_millis(300))
            && report.members[0].usable < Some(Duration::from_millis(300))
    );
    assert_eq!(std::fs::read_to_string(site.path("boot.log")).expect("log"), "booting\n");
    let pid = std::fs::read_to_string(site.path("pid")).expect("pid");
    assert!(runs(&pid), "the boot does not run");
    Command::new("kill").arg(pid.trim()).status().expect("kill");

    std::fs::remove_file(site.path("ready")).expect("remove");
    let dead = text.replace("sleep 0.3", "exit 4");
    let report =
        site.run(&dead, &RunOptions { run: Some("dead".into()), ..options(RunMode::Real) });
    let boot = step(&report, "g/db/boot");
    assert_eq!(boot.message, "it ended with code 4", "{boot:?}");
    assert!(boot.output.ends_with("booting\n"), "{boot:?}");
}

#[test]
fn a_report_measures_what_was_lost_and_how_long_it_took() {
    let site = Site::new(&["db", "web"]);
    let text = r#"
        name = "p"
        rto_target = "1h"
        rpo_target = "1s"
        [[group]]
        name = "g"
        [[group.before]]
        command = "sleep 0.2"
        [[group.member]]
        volume = "db"
        [[group]]
        name = "h"
        [[group.member]]
        volume = "web"
        [[group]]
        name = "empty"
    "#;
    let host = Host { takes: Duration::from_millis(100), ..site.host() };
    let told = Mutex::new(Vec::new());
    let on_step = |run: &str, step: &StepReport| {
        told.lock().expect("lock").push(format!("{run} {} {}", step.id, step.outcome.name()));
    };
    let failed_at = Timestamp(SystemClock::default().now().0 + 60_000_000_000);
    let options =
        RunOptions { failed_at: Some(failed_at), on_step: &on_step, ..options(RunMode::Test) };
    let report = plan::run(&site.plan(text), &site.vault, &host, &options).expect("run");
    let [db, web] = &report.members[..] else { panic!("two members") };
    let ms = Duration::from_millis;
    assert!(db.usable >= Some(ms(100)) && db.usable < Some(ms(200)), "{db:?}");
    assert!(
        db.usable_since_run >= Some(ms(300)) && web.usable_since_run >= Some(ms(400)),
        "{web:?}"
    );
    assert_eq!(
        (report.rto, report.groups[1].rto, report.groups[2].rto),
        (web.ready_since_run, web.ready_since_run, None)
    );
    // The source failed in a minute, and the host's states are 5 s older than their start.
    assert!(db.rpo > Some(ms(64_000)) && db.rpo < Some(ms(66_000)), "{db:?}");
    assert_eq!(report.rpo, db.rpo.max(web.rpo));
    let told = told.into_inner().expect("told");
    assert_eq!(told[..3], ["r g/before/1 running", "r g/before/1 done", "r g/db/start running"]);
    assert_eq!(told.len(), 2 * report.steps.len());
    let json = report.to_json();
    for part in [
        "\"outcome\":\"done\"",
        "\"rto_met\":true",
        "\"rpo_met\":false",
        "\"kind\":\"clean-up\"",
        "\"sequence\":7",
    ] {
        assert!(json.contains(part), "{part}: {json}");
    }
    assert_eq!(
        plan::report(&site.vault, "r").expect("report"),
        report,
        "it is the same from the vault"
    );
    assert_eq!(plan::report(&site.vault, "x").expect_err("none").kind(), ErrorKind::NotFound);
}

#[test]
fn a_check_finds_states_and_all_problems() {
    let site = Site::new(&["db", "web"]);
    let mut replica = site.vault.replica("db").expect("replica");
    let verdict = |r: &mut hrl::replica::Replica, label: &str, ok| {
        r.record_verdict(&At::Label(label.into()), VerdictKind::Integrity, ok, "")
            .expect("verdict");
    };
    verdict(&mut replica, "second", false);
    let text = r#"
        name = "p"
        [[group]]
        name = "g"
        [[group.member]]
        volume = "db"
        at = "newest-good"
        [[group.member]]
        volume = "web"
    "#;
    let check = site.plan(text).check(&site.vault).expect("check");
    assert!(check.problems.is_empty());
    let points = site.vault.replica("db").expect("replica").points();
    assert_eq!(
        (check.members[0].point, &check.members[0].at),
        (Some(points[0].id), &At::Point(points[0].id))
    );
    assert_eq!(check.rpo(), Some(check.members[0].age.max(check.members[1].age)));
    assert!(check.to_json().contains("\"asked\":\"newest-good\""));

    verdict(&mut replica, "first", false);
    let text = text.replace(
        "volume = \"web\"",
        "volume = \"web\"\nat = \"newest-group:shop\"\n[[group.member]]\nvolume = \"lost\"",
    );
    let check = site.plan(&text).check(&site.vault).expect("check");
    let problems: Vec<_> = check.problems.iter().map(ToString::to_string).collect();
    assert_eq!((problems.len(), check.members.len()), (3, 0), "{problems:?}");
    assert!(
        problems[0].contains("lost") && problems[1].contains("newest-good of db"),
        "{problems:?}"
    );
    assert!(
        problems[2].contains("consistency group shop") && problems[2].contains("[web]"),
        "{problems:?}"
    );
    let refused = plan::run(&site.plan(&text), &site.vault, &site.host(), &options(RunMode::Test));
    assert_eq!(refused.expect_err("problems").kind(), ErrorKind::NotFound);
    assert!(plan::runs(&site.vault).expect("runs").is_empty() && site.log().is_empty());
}

/// Promise 5: retention takes no point away that a run still needs, and a pin of somebody else stays as it is.
#[test]
fn promise_5_the_points_of_a_run_are_kept_until_it_ends() {
    let site = Site::new(&["db", "web"]);
    let pins = |volume: &str| -> Vec<String> {
        let points = site.vault.replica(volume).expect("replica").points();
        points[0].pins.iter().map(|pin| pin.reason.clone()).collect()
    };
    let mut web = site.vault.replica("web").expect("replica");
    web.pin(&At::Label("first".into()), PinUntil::LegalHold, "a lawyer").expect("pin");
    let vault = site.vault.clone();
    let (seen, volume) = (Mutex::new(Vec::new()), "\n[[group.member]]\nvolume = \"web\"\n");
    let text = format!("at = \"first\"\n{MANUAL}{volume}");
    let on_step = |_: &str, step: &StepReport| {
        if step.kind == plan::StepKind::Manual && step.outcome == StepOutcome::Running {
            while pins("db").is_empty() {
                std::thread::sleep(POLL);
            }
            seen.lock().expect("lock").extend([pins("db"), pins("web")]);
            plan::approve(&vault, "r", &step.id, true, "", "").expect("approve");
        }
    };
    let report = site.run(&text, &RunOptions { on_step: &on_step, ..options(RunMode::Real) });
    assert_eq!(report.outcome, RunOutcome::Done);
    assert_eq!(seen.into_inner().expect("seen"), [["recovery plan run r"], ["a lawyer"]]);
    assert_eq!((pins("db").len(), pins("web")), (0, vec!["a lawyer".to_owned()]));
}

#[test]
fn a_run_that_is_asked_to_stop_ends_what_is_under_way_and_is_resumed() {
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
    let report =
        plan::resume(&site.vault, "r", &site.host(), &options(RunMode::Test)).expect("resumed");
    assert_eq!(
        (report.outcome, outcome(&report, "g/db/clean-up")),
        (RunOutcome::Done, StepOutcome::Done)
    );
    assert_eq!(site.log(), ["start db test newest", "x", "x", "clean-up db"]);
}

/// Promise 9 in the small: of two runners of one run, one goes on and the other says so and does no more.
#[test]
fn promise_9_of_two_runners_one_wins() {
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
    let lives = plan::resume(&site.vault, "r", &site.host(), &options(RunMode::Test))
        .expect_err("it lives");
    assert_eq!(lives.kind(), ErrorKind::Fenced);
    assert!(lives.to_string().contains(&std::process::id().to_string()), "{lives}");
    let take_over = RunOptions { take_over: true, ..options(RunMode::Test) };
    let report = plan::resume(&site.vault, "r", &site.host(), &take_over).expect("taken");
    let lost = first.join().expect("ended").expect_err("lost");
    assert_eq!(lost.kind(), ErrorKind::Fenced);
    assert!(lost.to_string().contains("another runner"), "{lost}");
    assert_eq!((report.outcome, step(&report, "g/before/1").interrupted), (RunOutcome::Done, 1));
    assert_eq!(site.log(), ["1", "2", "start db test newest", "clean-up db"]);
}

/// Promise 10: what a plan does and its programs print is sealed, and nobody without the key can put words into a run.
#[test]
fn promise_10_records_are_sealed_and_bound_to_their_place() {
    let key = WrappingKey::from_bytes([7; 32]);
    let site = Site::sealed(&["db"], Some(key));
    let text =
        "name = \"p\"\n[[group]]\nname = \"g\"\n[[group.before]]\ncommand = \"echo secret word\"\n";
    let report = site.run(text, &options(RunMode::Test));
    assert_eq!(report.steps[0].output, "secret word\n");
    let directory = site.path("vault/plans/r");
    let path = |number: u32| directory.join(format!("{number:06}"));
    for number in 1..=report.steps.len() as u32 + 4 {
        let bytes = std::fs::read(path(number)).expect("record");
        assert!(!bytes.windows(6).any(|window| window == b"secret"), "record {number}");
    }
    let open = |key| {
        let store = Arc::new(DirStore::open(&site.path("vault")).expect("store"));
        plan::report(&Vault::open(store, key, SystemClock::shared()).expect("vault"), "r")
    };
    let kind =
        |key: Option<[u8; 32]>| open(key.map(WrappingKey::from_bytes)).expect_err("refused").kind();
    assert_eq!((kind(None), kind(Some([8; 32]))), (ErrorKind::WrongKey, ErrorKind::WrongKey));
    let (two, three) =
        (std::fs::read(path(2)).expect("record"), std::fs::read(path(3)).expect("record"));
    let put = |number, bytes: &[u8]| {
        std::fs::remove_file(path(number)).expect("remove");
        std::fs::write(path(number), bytes).expect("write");
    };
    put(2, &three);
    assert_eq!(kind(Some([7; 32])), ErrorKind::Corrupt);
    put(2, br#"{"kind":"ended","outcome":"done","message":"","time":"2026-01-01T00:00:00Z"}"#);
    assert_eq!(kind(Some([7; 32])), ErrorKind::WrongKey);
    put(2, &two);
    assert_eq!(open(Some(WrappingKey::from_bytes([7; 32]))).expect("whole"), report);
}

/// Promise 11: whatever lies in a log is a report or an error that names the record.
#[test]
fn promise_11_damaged_records_are_errors() {
    let site = Site::new(&["db"]);
    site.run(
        "name = \"p\"\n[[group]]\nname = \"g\"\n[[group.member]]\nvolume = \"db\"\n",
        &options(RunMode::Test),
    );
    let mut refused = 0;
    for number in 1..=6 {
        let path = site.path(&format!("vault/plans/r/{number:06}"));
        let whole = std::fs::read(&path).expect("record");
        for at in 0..whole.len().min(400) {
            for byte in [b'"', b'}', b'9', 0xff] {
                let mut bytes = whole.clone();
                bytes[at] = byte;
                std::fs::remove_file(&path).expect("remove");
                std::fs::write(&path, &bytes).expect("write");
                if let Err(error) = plan::report(&site.vault, "r") {
                    refused += 1;
                    let kind = error.kind();
                    assert!(
                        matches!(kind, ErrorKind::Corrupt | ErrorKind::InvalidInput),
                        "{error}"
                    );
                    assert!(
                        error.to_string().contains(" r") || error.to_string().contains("plans/r/"),
                        "{error}"
                    );
                }
            }
        }
        std::fs::remove_file(&path).expect("remove");
        std::fs::write(&path, &whole).expect("write");
    }
    assert!(refused > 1000, "{refused}");
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

/// The runner of the sweep: starts the run or resumes it, and is killed where it is told.
#[test]
fn child_runner() {
    let Ok(told) = std::env::var(CHILD) else { return };
    let [directory, left, after, mode] = told.split(' ').collect::<Vec<_>>()[..] else {
        panic!("{told}")
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
        plan::resume(&vault, "r", &host, &options)
    };
    assert_eq!(report.expect("run").outcome, RunOutcome::Done);
}

/// Kills the runner at a record, resumes, and says whether that record was reached.
fn killed_and_resumed(record: u32, after: bool, mode: RunMode) -> bool {
    let site = Site::new(&["db"]);
    let child = |record: u32| {
        let when = if after { "after" } else { "before" };
        let told = format!("{} {record} {when} {}", site.directory.path().display(), mode.name());
        let mut command = Command::new(std::env::current_exe().expect("program"));
        command.args(["--exact", "child_runner", "--nocapture"]).env(CHILD, told);
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
    // Then killed twice more in the same place of what is left, and left alone.
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
        // Done once, and once more at most for each time that it was told to have been cut off.
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
    let pid = std::fs::read_to_string(site.path("pid")).expect("pid");
    assert_eq!(runs(&pid), mode == RunMode::Real, "{}", context());
    if mode == RunMode::Real {
        Command::new("kill").arg(pid.trim()).status().expect("kill");
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

/// Promise 4 for plans: a runner that is killed at any record loses no step and repeats no finished one.
#[test]
fn promise_4_a_killed_runner_is_resumed_where_it_was() {
    sweep(6, RunMode::Test);
}

#[test]
#[ignore = "minutes: every record, both modes"]
fn promise_4_a_runner_killed_at_every_record() {
    sweep(1, RunMode::Test);
    sweep(1, RunMode::Real);
}
