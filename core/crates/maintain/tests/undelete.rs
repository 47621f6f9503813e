//! Vaults that are attacked with the rights of a maintainer, and restored.

mod parts;

use std::sync::Arc;

use hrl::replica::At;
use hrl::store::{DirStore, FaultStore, Store, conformance};
use hrl::vault::{PackedStore, PinUntil, ShredOptions, layout};
use hrl::{ErrorKind, SystemClock};
use hrl_maintain::{DelayedStore, UndeleteOptions, deleted, set_delay, undelete};

use crate::parts::{DELAY, Site, now, objects};

/// The vault as a gateway with a deletion delay shows it to a maintainer.
fn through_a_gateway(site: &Site) -> Arc<PackedStore> {
    PackedStore::over(site.delayed(SystemClock::shared()))
}

#[test]
fn a_store_with_delayed_deletes_keeps_the_contract_of_stores() {
    let directory = tempfile::tempdir().expect("directory");
    let number = std::cell::Cell::new(0);
    for delay in [DELAY, std::time::Duration::ZERO] {
        conformance::check(&|| {
            number.set(number.get() + 1);
            let path = directory.path().join(number.get().to_string());
            let raw: Arc<dyn Store> = Arc::new(DirStore::create(&path).expect("store"));
            set_delay(&*raw, delay).expect("delay");
            DelayedStore::over(raw, SystemClock::shared(), "tester")
        });
    }
}

#[test]
fn promise_13_everything_that_a_maintainer_can_delete_comes_back_byte_for_byte() {
    for encrypted in [false, true] {
        let site = Site::new(encrypted);
        site.write(1..5);
        let (before, points) = (objects(&*site.raw), site.points().expect("points"));
        assert_eq!(points.len(), 4);
        let since = now();
        let store = through_a_gateway(&site);
        for info in store.list("").expect("list") {
            store.delete(&info.name).expect("delete");
            assert_eq!(store.head(&info.name).expect("head"), None, "{}", info.name);
        }
        assert!(store.list("").expect("list").is_empty());
        site.vault().replica("disk").err().expect("the volume is gone");
        let waiting = deleted(&*site.raw).expect("deleted");
        let bytes: u64 = waiting.iter().map(|volume| volume.bytes).sum();
        let stored: u64 = before.values().map(|bytes| bytes.len() as u64).sum();
        assert!(bytes >= stored, "bytes are counted");

        let report = site.undelete(since, true);
        assert_eq!(report.iter().map(|v| v.objects).sum::<u64>(), before.len() as u64);
        assert!(site.vault().replica("disk").is_err(), "a dry run changes nothing");
        let report = site.undelete(since, false);
        assert!(report.iter().all(|volume| volume.failure.is_none()), "{report:?}");
        assert_eq!(objects(&*site.raw), before);
        assert_eq!(objects(&*store), before, "and a gateway shows it again");
        assert_eq!(site.points().expect("points"), points);
        site.write(5..6);
        assert_eq!(site.points().expect("points").len(), 5, "the agent goes on");
    }
}

#[test]
fn promise_13_readers_do_not_notice_that_segments_were_deleted() {
    let site = Site::new(true);
    site.write(1..3);
    let points = site.points().expect("points");
    let store = through_a_gateway(&site);
    for info in store.list(&layout::segments_prefix("disk")).expect("list") {
        store.delete(&info.name).expect("delete");
    }
    assert_eq!(site.points().expect("points"), points);
}

#[test]
fn promise_13_a_shredded_volume_comes_back() {
    for (encrypted, data) in [(true, false), (true, true), (false, true)] {
        let site = Site::new(encrypted);
        site.write(1..4);
        let points = site.points().expect("points");
        let since = now();
        let options = ShredOptions { data, override_legal_hold: true };
        site.vault().shred("disk", options).expect("shred");
        site.points().expect_err("nobody can read it");
        let report = site.undelete(since, false);
        let volume = report.iter().find(|v| v.volume.is_some()).expect("the volume");
        assert!(volume.failure.is_none(), "{volume:?}");
        assert_eq!(volume.was_shredded, encrypted && !data);
        assert_eq!(site.points().expect("points"), points, "encrypted {encrypted}, data {data}");
        site.write(4..5);
        assert_eq!(site.points().expect("points").len(), 4, "the same source goes on");
        site.undelete(since, false);
        assert_eq!(site.points().expect("a second time").len(), 4);
    }
}

#[test]
fn promise_13_points_that_a_far_clock_took_away_come_back() {
    for encrypted in [false, true] {
        let site = Site::new(encrypted);
        site.write(1..9);
        let mut replica = site.vault().replica("disk").expect("replica");
        let ids: Vec<_> = replica.points().iter().map(|point| point.id).collect();
        let until = hrl::Timestamp(SystemClock::shared().now().0 + DELAY.as_nanos() as i64);
        replica.pin(&At::Point(ids[1]), PinUntil::Time(until), "audit").expect("pin");
        replica.pin(&At::Point(ids[2]), PinUntil::LegalHold, "court").expect("hold");
        let points = site.points().expect("points");
        let since = now();
        replica.unpin(&At::Point(ids[2]), true).expect("a thief with the key lifts the hold");
        site.fold_with_a_far_clock();
        let left = site.points().expect("points").len();
        assert!(left < 3, "retention took points away, {left} are left");
        site.write(9..10);

        let report = site.undelete(since, true);
        assert!(report[0].points.len() >= 6, "{report:?}");
        let report = site.undelete(since, false);
        assert!(report[0].failure.is_none() && report[0].version.is_some(), "{report:?}");
        let found = site.points().expect("points");
        for (point, content) in &points {
            assert!(found.get(point) == Some(content), "point {point}");
        }
        assert_eq!(found.len(), 9, "what was shipped since stays");
        let replica = site.vault().replica("disk").expect("replica");
        assert_eq!(replica.catalog().pins().len(), 2, "{:?}", replica.catalog().pins());
        assert!(replica.verify(&|_, _| true).expect("verify").findings.is_empty());
        let again = site.undelete(since, false);
        assert_eq!(again[0].version, None, "nothing is left to do: {again:?}");
        site.write(10..11);
        assert_eq!(site.points().expect("points").len(), 10);
    }
}

#[test]
fn promise_13_names_that_were_taken_meanwhile_are_given_back() {
    let site = Site::new(true);
    site.write(1..4);
    let points = site.points().expect("points");
    let before = objects(&*site.raw);
    let since = now();
    let store = through_a_gateway(&site);
    let keys = layout::keys_prefix("disk");
    let catalog = layout::catalog_prefix("disk");
    let newest = before.keys().rfind(|n| n.starts_with(&catalog)).expect("a version");
    let wrapped = before.keys().find(|n| n.starts_with(&keys)).expect("a wrapped key");
    for name in [newest, wrapped] {
        store.delete(name).expect("delete");
        store.put(name, b"garbage").expect("put");
    }
    let beyond = layout::catalog_version(&catalog, 1 << 40);
    store.put(&beyond, b"garbage").expect("put");
    site.points().expect_err("the catalog cannot be read");
    let report = site.undelete(since, false);
    assert!(report.iter().all(|volume| volume.failure.is_none()), "{report:?}");
    assert_eq!(report.iter().flat_map(|v| &v.replaced).count(), 3, "{report:?}");
    assert_eq!(objects(&*site.raw), before);
    assert_eq!(site.points().expect("points"), points);
    site.undelete(since, false);
    assert_eq!(objects(&*site.raw), before, "what gave way is not brought back");
}

#[test]
fn promise_13_tombstones_cannot_be_put_or_deleted_through_the_store() {
    let site = Site::new(false);
    site.write(1..2);
    let store = through_a_gateway(&site);
    store.delete(&layout::volume_record("disk")).expect("delete");
    let tombstone = store.list("deleted/volumes/").expect("any reader sees it").remove(0);
    for result in [
        store.delete(&tombstone.name),
        store.delete_many(&["x".to_owned(), "deleted/delay-0000000000000000".to_owned()]),
        store.put("deleted/delay-0000000000000000", b"").map(drop),
        store.put("deleted/volumes/disk/x", b"").map(drop),
    ] {
        assert_eq!(result.expect_err("refused").kind(), ErrorKind::Denied);
    }
}

#[test]
fn promise_13_another_volume_of_the_name_is_left_alone() {
    let site = Site::new(false);
    site.write(1..2);
    let since = now();
    site.vault()
        .shred("disk", ShredOptions { data: true, override_legal_hold: true })
        .expect("shred");
    std::fs::remove_dir_all(site.state()).expect("a new state directory");
    site.write(5..6);
    let before = objects(&*site.raw);
    let report = site.undelete(since, false);
    let failure = report.iter().find_map(|volume| volume.failure.as_ref()).expect("a failure");
    assert_eq!(failure.kind(), ErrorKind::AlreadyExists);
    assert_eq!(objects(&*site.raw), before);
}

/// Kills deletes and undeletes after each call of the store, and finishes them.
#[test]
fn promise_13_an_undelete_that_is_killed_anywhere_is_finished_by_the_next() {
    let clock = SystemClock::shared();
    for kill_delete in [true, false] {
        for calls in (0..).step_by(if kill_delete { 1 } else { 2 }) {
            let site = Site::new(true);
            site.write(1..4);
            let points = site.points().expect("points");
            let since = now();
            let faulty = Arc::new(FaultStore::new(site.raw.clone()));
            let store: Arc<dyn Store> = faulty.clone();
            let attack = |store: Arc<dyn Store>| -> hrl::Result<()> {
                let delayed = DelayedStore::over(store, clock.clone(), "thief");
                let store = PackedStore::over(delayed);
                let all = store.list("volumes/")?;
                store.delete_many(&all.into_iter().map(|info| info.name).collect::<Vec<_>>())
            };
            let options = UndeleteOptions { dry_run: false, ..UndeleteOptions::new(since) };
            let bring_back = |store: &Arc<dyn Store>| {
                undelete(store, site.key.as_ref(), &clock, &options).map(drop)
            };
            let killed = if kill_delete {
                faulty.fail_after(calls);
                attack(store.clone())
            } else {
                attack(site.raw.clone()).expect("attack");
                faulty.fail_after(calls);
                bring_back(&store)
            };
            faulty.fail_after(u64::MAX);
            bring_back(&store).expect("the next run");
            assert_eq!(site.points().expect("points"), points, "killed after {calls} calls");
            if killed.is_ok() {
                assert!(calls > 5, "calls were counted");
                break;
            }
        }
    }
}

#[test]
fn promise_13_folds_that_are_undone_by_a_killed_run_are_undone_by_the_next() {
    let site = Site::new(true);
    site.write(1..6);
    let points = site.points().expect("points");
    let since = now();
    site.fold_with_a_far_clock();
    assert!(site.points().expect("points").len() < 3, "folds were made");
    let folded = objects(&*site.raw);
    let tombstones = site.raw.list("deleted/").expect("list");
    let tombstones: Vec<_> = tombstones
        .into_iter()
        .map(|i| (i.name.clone(), site.raw.get(&i.name, 0..i.length).expect("get")))
        .collect();
    let clock = SystemClock::shared();
    let options = UndeleteOptions { dry_run: false, ..UndeleteOptions::new(since) };
    for calls in (0..).step_by(3) {
        let directory = tempfile::tempdir().expect("directory");
        let raw: Arc<dyn Store> = Arc::new(DirStore::create(directory.path()).expect("store"));
        for (name, bytes) in folded.iter().chain(tombstones.iter().map(|(n, b)| (n, b))) {
            raw.put(name, bytes).expect("put");
        }
        let faulty = Arc::new(FaultStore::new(raw.clone()));
        faulty.fail_after(calls);
        let store: Arc<dyn Store> = faulty.clone();
        let killed = undelete(&store, site.key.as_ref(), &clock, &options);
        faulty.fail_after(u64::MAX);
        let report = undelete(&store, site.key.as_ref(), &clock, &options).expect("the next run");
        assert!(report.iter().all(|volume| volume.failure.is_none()), "{report:?}");
        let copy = Site { raw, device: site.device.clone(), key: site.key.clone(), directory };
        assert_eq!(copy.points().expect("points"), points, "killed after {calls} calls");
        if killed.is_ok() {
            break;
        }
    }
}
