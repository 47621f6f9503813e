//! Recovery plans on a host that makes files: order, parallelism, limits, policies, approvals, both
//! modes and reports.

use std::sync::Mutex;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use hrl::replica::At;
use hrl::vault::{PinUntil, Vault, VerdictKind};
use hrl::{Clock, ErrorKind, Result, SystemClock, Timestamp};
use hrl_plan::{self as plan, RunMode, RunOptions, RunOutcome, RunReport, StepOutcome, StepReport};

use parts::{Host, POLL, Site, options, outcome, step};

mod parts;

#[test]
fn groups_run_in_order_and_their_volumes_in_parallel() {
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

    // Resuming with `commit` commits the run.
    let began_with = site.plan(text);
    let commit = RunOptions { commit: true, plan: Some(&began_with), ..options(RunMode::Real) };
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
fn independent_groups_run_in_parallel() {
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
    assert!(!site.process().runs(), "it runs");
}

#[test]
fn a_failed_step_stops_the_run_continues_or_is_tried_again() {
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

    // A resumed run tries the failed step once more, but no step that is done or was passed over.
    std::fs::write(site.path("mended"), "").expect("write");
    let report = run(plan::resume(
        &site.vault,
        "r",
        &host,
        &RunOptions { plan: Some(&site.plan(text)), ..options(RunMode::Real) },
    ));
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

/// Decides about the step as soon as it waits.
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

    // After a resume the step waits again; a second decision does not count.
    let vault = site.vault.clone();
    let other = std::thread::spawn(move || {
        decide(&vault, true);
        plan::approve(&vault, "r", "1", false, "bob", "")
    });
    let report = site.resume(MANUAL, &options(RunMode::Real)).expect("run");
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
fn a_test_is_taken_down_even_after_a_failure() {
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
    assert!(!site.process().runs(), "the boot runs");
    let again = site.resume(text, &options(RunMode::Test)).expect("over");
    assert_eq!((again.outcome, site.log().len()), (RunOutcome::Failed, 3));
}

#[test]
fn a_ready_boot_keeps_running_after_a_real_run() {
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
    let boot = site.process();
    assert!(boot.runs(), "the boot does not run");
    boot.end();

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
    let reported = Mutex::new(Vec::new());
    let on_step = |run: &str, step: &StepReport| {
        reported.lock().expect("lock").push(format!("{run} {} {}", step.id, step.outcome.name()));
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
    let reported = reported.into_inner().expect("reported");
    assert_eq!(
        reported[..3],
        ["r g/before/1 running", "r g/before/1 done", "r g/db/start running"]
    );
    assert_eq!(reported.len(), 2 * report.steps.len());
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

/// Promise 5: retention removes no point that a run still needs, and pins of others stay.
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
