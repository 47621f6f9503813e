//! What is deleted goes when its delay is over, and not before.

mod parts;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use hrl::store::Store;
use hrl::vault::{LegalHold, layout};
use hrl::{Clock, ErrorKind, ManualClock, SystemClock, Timestamp};
use hrl_audit::AuditLog;
use hrl_maintain::{
    MaintainOptions, Maintainer, PurgeOptions, PurgeReport, delay_of, deleted, purge, set_delay,
};

use crate::parts::{DAY, DELAY, Site, far, objects};

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(SystemClock::shared().now(), 9))
}

fn delete_segments(site: &Site, clock: &Arc<ManualClock>) -> u64 {
    let store = site.delayed(clock.clone());
    let names = store.list(&layout::segments_prefix("disk")).expect("list");
    let names: Vec<_> = names.into_iter().map(|info| info.name).collect();
    store.delete_many(&names).expect("delete");
    store.delete(&layout::volume_record("disk")).expect("delete");
    names.len() as u64
}

fn run(site: &Site, clock: &ManualClock) -> PurgeReport {
    purge(&*site.raw, clock, &PurgeOptions::default()).expect("purge")
}

#[test]
fn promise_13_what_is_deleted_goes_when_its_delay_is_over_and_not_before() {
    let site = Site::new(false);
    site.write(1..4);
    let clock = clock();
    let objects_before = objects(&*site.raw).len() as u64;
    let segments = delete_segments(&site, &clock);
    set_delay(&*site.raw, Duration::from_secs(1)).expect("a shorter delay");
    for _ in 0..6 {
        clock.advance(2 * DAY);
        let report = run(&site, &clock);
        assert_eq!((report.tombstones, report.clock_ahead), (0, None), "a delay is not shortened");
    }
    set_delay(&*site.raw, DELAY).expect("the delay as before");
    clock.advance(2 * DAY + Duration::from_secs(1));
    let report = run(&site, &clock);
    assert_eq!((report.tombstones, report.objects, report.waiting), (2, segments, 0));
    assert_eq!(objects(&*site.raw).len() as u64, objects_before - segments - 1);
    assert!(deleted(&*site.raw).expect("deleted").is_empty());
}

#[test]
fn promise_13_a_longer_delay_counts_for_what_is_deleted_already() {
    let site = Site::new(false);
    site.write(1..2);
    let clock = clock();
    delete_segments(&site, &clock);
    set_delay(&*site.raw, 2 * DELAY).expect("a longer delay");
    for _ in 0..13 {
        clock.advance(2 * DAY);
        assert_eq!(run(&site, &clock).tombstones, 0);
    }
    clock.advance(2 * DAY + Duration::from_secs(1));
    assert_eq!(run(&site, &clock).tombstones, 2);
}

#[test]
fn promise_13_a_clock_that_is_far_ahead_purges_nothing() {
    let site = Site::new(false);
    site.write(1..3);
    let clock = clock();
    delete_segments(&site, &clock);
    let before = objects(&*site.raw);
    clock.jump(far(&*clock));
    for _ in 0..3 {
        let report = run(&site, &clock);
        assert!(report.clock_ahead.is_some_and(|ahead| ahead > 399 * DAY), "{report:?}");
        assert_eq!((report.tombstones, objects(&*site.raw) == before), (0, true));
    }
    let options = PurgeOptions { accept_clock: true, ..PurgeOptions::default() };
    let report = purge(&*site.raw, &*clock, &options).expect("purge");
    assert_eq!(report.tombstones, 2, "an operator says that it is right");
}

#[test]
fn promise_13_a_clock_that_was_set_back_makes_nothing_due_early() {
    let site = Site::new(false);
    site.write(1..3);
    let clock = clock();
    let right = clock.now();
    let store = site.delayed(clock.clone());
    let names = store.list(&layout::segments_prefix("disk")).expect("list");
    store.delete(&names[0].name).expect("delete");
    clock.jump(Timestamp(0));
    store.delete(&names[1].name).expect("delete");
    clock.jump(right);
    clock.advance(DAY);
    assert_eq!(run(&site, &clock).tombstones, 0);
}

#[test]
fn promise_13_retention_with_a_far_clock_does_nothing() {
    let site = Site::new(true);
    site.write(1..6);
    let before = objects(&*site.raw);
    let clock = clock();
    clock.jump(far(&*clock));
    let retention = Some("1s all; grace 1s".parse().expect("policy"));
    let options = MaintainOptions { retention, ..MaintainOptions::default() };
    let maintainer = Maintainer::new(site.raw.clone(), site.key.clone(), clock, options);
    let (volumes, _) = maintainer.expect("maintainer").run(&|| true).expect("run");
    let failure = volumes[0].failure.as_ref().expect("it is stopped");
    assert_eq!(failure.kind(), ErrorKind::Unavailable);
    assert!(failure.to_string().contains("clock"), "{failure}");
    assert_eq!(objects(&*site.raw), before);
}

#[test]
fn promise_13_a_maintainer_purges_nothing_that_a_catalog_lists() {
    let site = Site::new(true);
    site.write(1..4);
    let clock = clock();
    let store = site.delayed(clock.clone());
    let names = store.list(&layout::segments_prefix("disk")).expect("list");
    for info in &names {
        store.delete(&info.name).expect("delete");
    }
    let start = || {
        let options = MaintainOptions::default();
        Maintainer::new(site.raw.clone(), site.key.clone(), clock.clone(), options).expect("it")
    };
    let (_, report) = start().run(&|| true).expect("run");
    assert_eq!(report.in_use.len(), names.len(), "it is seen at once");
    let mut maintainer = start();
    for _ in 0..10 {
        clock.advance(2 * DAY);
        let (_, report) = maintainer.run(&|| true).expect("run");
        assert_eq!((report.objects, report.in_use.len()), (0, names.len()));
    }
    assert_eq!(site.points().expect("points").len(), 3);
}

#[test]
fn a_maintainer_folds_by_its_policy_and_deletes_with_delay() {
    let site = Site::new(true);
    set_delay(&*site.raw, Duration::ZERO).expect("none");
    site.write(1..6);
    let clock = clock();
    clock.advance(DAY);
    let retention = Some("1h all; 30d every 2d; grace 1s".parse().expect("policy"));
    let options = MaintainOptions { retention, ..MaintainOptions::default() };
    set_delay(&*site.raw, DELAY).expect("delay");
    let mut maintainer =
        Maintainer::new(site.raw.clone(), site.key.clone(), clock.clone(), options).expect("it");
    assert_eq!(delay_of(&*site.raw).expect("delay"), DELAY);
    let (volumes, report) = maintainer.run(&|| true).expect("run");
    assert!(volumes[0].failure.is_none(), "{volumes:?}");
    assert!(volumes[0].compaction.is_some() && report.in_use.is_empty());
}

#[test]
fn promise_13_what_a_maintainer_removes_is_in_the_audit_log() {
    let site = Site::new(false);
    site.write(1..4);
    let clock = clock();
    let names: HashSet<String> = delete_all(&site, &clock);
    clock.advance(DELAY);
    let options =
        MaintainOptions { by: "root@vault".to_owned(), accept_clock: true, ..Default::default() };
    let mut maintainer =
        Maintainer::new(site.raw.clone(), None, clock.clone(), options).expect("it");
    let before: HashSet<String> = objects_of(&site);
    let (_, report) = maintainer.run(&|| true).expect("run");
    assert_eq!(report.objects, names.len() as u64);
    let gone: HashSet<_> = before.difference(&objects_of(&site)).cloned().collect();
    assert!(names.is_subset(&gone), "{gone:?}");
    let log = AuditLog::read(&*site.raw).expect("log");
    assert!(log.findings.is_empty(), "{:?}", log.findings);
    let permitted = log.entries.iter().filter(|(_, writer, entry)| {
        let by = (writer.as_str(), entry.client.as_str(), entry.role.as_str());
        by == ("root@vault", "root@vault", "maintainer") && entry.verb == "delete"
    });
    let recorded: HashSet<_> =
        permitted.flat_map(|(_, _, entry)| entry.objects.iter().cloned()).collect();
    let gone = gone.into_iter().filter(|name| !name.starts_with("deleted/clock-"));
    for name in gone {
        assert!(recorded.contains(&name), "{name} is not in the log");
    }
}

#[test]
fn promise_13_what_is_brought_back_is_in_the_audit_log() {
    let site = Site::new(false);
    site.write(1..3);
    let since = parts::now();
    delete_all(&site, &clock());
    let tombstones: Vec<_> =
        objects_of(&site).into_iter().filter(|name| is_tombstone(name)).collect();
    assert!(!tombstones.is_empty());
    site.undelete(since, true);
    assert!(AuditLog::read(&*site.raw).expect("log").entries.is_empty(), "a dry run does nothing");
    site.undelete(since, false);
    let log = AuditLog::read(&*site.raw).expect("log");
    let recorded = |name| log.entries.iter().any(|(_, _, entry)| entry.objects.contains(name));
    assert!(tombstones.iter().all(recorded), "{:?}", log.entries);
    assert!(log.entries.iter().any(|(_, _, entry)| entry.verb == "put"), "puts are counted");
}

fn is_tombstone(name: &str) -> bool {
    name.starts_with("deleted/volumes/")
}

fn delete_all(site: &Site, clock: &Arc<ManualClock>) -> HashSet<String> {
    delete_segments(site, clock);
    let all = site.raw.list(&layout::segments_prefix("disk")).expect("list");
    all.into_iter().map(|info| info.name).collect()
}

fn objects_of(site: &Site) -> HashSet<String> {
    site.raw.list("").expect("list").into_iter().map(|info| info.name).collect()
}

#[test]
fn promise_13_a_purge_leaves_what_a_legal_hold_keeps() {
    let site = Site::new(false);
    site.write(1..4);
    let clock = clock();
    let mut replica = site.vault().replica("disk").expect("replica");
    let point = replica.points()[0].id;
    delete_segments(&site, &clock);
    let hold = LegalHold { point, sequence: replica.points()[0].sequence, version: 1 };
    site.raw.put(&hold.object("disk"), b"").expect("a hold");
    for _ in 0..8 {
        clock.advance(2 * DAY);
        run(&site, &clock);
    }
    let before = objects(&*site.raw);
    let report = run(&site, &clock);
    assert!(report.locked > 0 && report.waiting == 1, "{report:?}");
    let after = objects(&*site.raw);
    assert!(before.iter().all(|(name, bytes)| !hold.keeps(name) || after.get(name) == Some(bytes)));
    replica.refresh().expect("the catalog stays");
    site.raw.delete(&hold.object("disk")).expect("lift");
    let report = run(&site, &clock);
    assert_eq!((report.tombstones, report.locked), (1, 0), "{report:?}");
}
