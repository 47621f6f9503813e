//! Roles: what the clients of a gateway may do to history, with real requests and certificates.

mod parts;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use hrl::device::{BlockDevice, Durability, MemoryDevice};
use hrl::journal::{PointKind, WrappingKey};
use hrl::replica::{At, CompactOptions, ViewOptions};
use hrl::store::{DirStore, PutOutcome, Store};
use hrl::vault::{
    CatalogEdit, LegalHold, PinUntil, ShredOptions, Vault, VersionEnvelope, mend_catalog_version,
};
use hrl::{ErrorKind, Event, EventKind, Policy, ProtectionOptions, RetentionPolicy, SystemClock};
use hrl_audit::Outcome;
use hrl_gateway::{Gateway, GatewayOptions};
use hrl_maintain::{MaintainOptions, Maintainer};
use hrl_tls::{Role, enroll_without_role};

use parts::{LIMIT, Site, within};

fn key() -> WrappingKey {
    WrappingKey::from_bytes([7; 32])
}

fn vault_by(site: &Site, client: &str, gateway: &Gateway, key: Option<WrappingKey>) -> Vault {
    Vault::open(Arc::new(site.client(client, gateway)), key, SystemClock::shared()).expect("vault")
}

fn direct(site: &Site, key: Option<WrappingKey>) -> Vault {
    Vault::create(site.vault(), key, SystemClock::shared()).expect("vault")
}

/// Protects a disk through the gateway as a source, with retention in its policy, and takes three
/// points. Returns the disk's content and the kinds of events.
fn live(site: &Site, gateway: &Gateway, key: Option<WrappingKey>) -> (Vec<u8>, Vec<&'static str>) {
    let disk = Arc::new(MemoryDevice::new(2 << 20));
    let kinds = Arc::new(Mutex::new(Vec::new()));
    let seen = kinds.clone();
    let policy = Policy {
        segment_interval: Duration::from_millis(20),
        crash_point_interval: Duration::ZERO,
        retention: Some("1h all".parse().expect("policy")),
        retention_interval: Duration::from_millis(50),
        ..Policy::default()
    };
    let vault = vault_by(site, "source", gateway, key);
    let protection = ProtectionOptions::new("disk", disk.clone(), vault, site.path("state"))
        .policy(policy)
        .events(Arc::new(move |event: &Event| seen.lock().expect("lock").push(event.kind.name())))
        .open()
        .expect("protect");
    protection.wait_replicated(LIMIT).expect("first copy");
    for label in ["first", "second", "third"] {
        for block in 0..8 {
            let bytes = [label.as_bytes()[0]; 4096];
            protection.volume().write(block * 8192, &bytes, Durability::Cached).expect("write");
        }
        protection.mark(PointKind::Crash, label).expect("mark");
        protection.wait_replicated(LIMIT).expect("replicated");
    }
    std::thread::sleep(Duration::from_millis(300));
    protection.stop(LIMIT).expect("stop");
    let mut content = vec![0; 2 << 20];
    disk.read(0, &mut content).expect("read");
    let kinds = kinds.lock().expect("lock").clone();
    (content, kinds)
}

/// What a reader of the vault sees: points, and the newest state.
fn seen(vault: &Vault) -> (Vec<String>, Vec<u8>) {
    let replica = vault.replica("disk").expect("replica");
    let report = replica.verify(&|_, _| true).expect("verify");
    assert!(report.is_sound(), "{report:?}");
    let labels = replica.points().iter().map(|point| point.label.clone()).collect();
    let view = replica.view(&At::Newest, &ViewOptions::default()).expect("view");
    let mut content = vec![0; 2 << 20];
    view.read(0, &mut content).expect("read");
    (labels, content)
}

#[test]
fn promise_13_a_source_changes_nothing_that_a_reader_sees() {
    let cached = |options: GatewayOptions, site: &Site| {
        options.cache(site.path("cache")).pack_bytes(1 << 20).pack_wait_max(Duration::ZERO)
    };
    for (with_cache, key) in [(false, Some(key())), (true, Some(key())), (false, None)] {
        let site = Site::new();
        let vault = direct(&site, key.clone());
        let gateway =
            site.gateway(|options| if with_cache { cached(options, &site) } else { options });
        let (content, kinds) = live(&site, &gateway, key.clone());
        assert_eq!(kinds.iter().filter(|kind| **kind == "retention-left").count(), 1, "{kinds:?}");
        assert!(!kinds.contains(&"task-failed"), "the agent works on: {kinds:?}");
        let before = site.objects();
        let ask = |method: &str, target: &str, body: &[u8]| {
            site.ask("source", &gateway, method, target, body)
        };
        // The client sees a segment by its own name, even if it lies in a pack.
        let listed = site.client("source", &gateway).list("volumes/disk/").expect("list");
        let mut names: Vec<_> = listed.into_iter().map(|info| info.name).collect();
        names.extend(before.keys().cloned());
        for name in &names {
            let target = format!("/v1/objects/{name}");
            assert_eq!(ask("DELETE", &target, b""), 403, "{name}");
            assert_eq!(ask("POST", "/v1/delete", name.as_bytes()), 403, "{name}");
            let put = ask("PUT", &target, b"other bytes");
            assert!(matches!(put, 201 | 403 | 412 | 416 | 503), "{name}: {put}");
            assert_ne!(ask("PATCH", &target, b"other bytes"), 200, "{name}");
        }
        let version = names.iter().filter(|name| name.contains("/catalog/")).max().expect("one");
        let number = u64::from_str_radix(&version[version.len() - 16..], 16).expect("number");
        let sound = before[version].clone();
        let other = |number: u64| {
            let mut bytes = sound.clone();
            bytes[28..36].copy_from_slice(&number.to_le_bytes());
            bytes
        };
        let id = vault.volume("disk").expect("volume").id;
        let follows_another = |number: u64| {
            let mut bytes = sound.clone();
            mend_catalog_version(&mut bytes, id, number, [9; 32]);
            bytes
        };
        for (name, body) in [
            (format!("catalog/{:016x}", number + 1), follows_another(number + 1)),
            (format!("catalog/{:016x}", number + 3), follows_another(number + 3)),
            ("keys/shredded".to_owned(), b"".to_vec()),
            ("keys/00000000.11111111".to_owned(), b"a key".to_vec()),
            (format!("catalog/{number:016x}-{:016x}", number + 9), b"".to_vec()),
            (format!("catalog/{:016x}", number + 1), b"garbage".to_vec()),
            (format!("catalog/{:016x}", number + 1), sound.clone()),
            (format!("catalog/{:016x}", number + 1), other(number + 1)),
            (format!("catalog/{:016x}", number + 2), other(number + 2)),
            (format!("catalog/{:016x}", u64::MAX >> 1), b"garbage".to_vec()),
            ("packs/0000000000000001-0000000000000002-aa.pack".to_owned(), b"garbage".to_vec()),
            ("notes".to_owned(), b"x".to_vec()),
        ] {
            let status = ask("PUT", &format!("/v1/objects/volumes/disk/{name}"), &body);
            assert!(matches!(status, 403 | 416 | 503), "{name}: {status}");
        }
        for name in ["hrl-vault", "audit/0000000000000001", "revoked/00", "deleted/x", "plans/x"] {
            assert_eq!(ask("PUT", &format!("/v1/objects/{name}"), b"x"), 403, "{name}");
            assert_eq!(ask("DELETE", &format!("/v1/objects/{name}"), b""), 403, "{name}");
        }
        assert!(gateway.stop(LIMIT), "the cache is empty");
        let after = site.objects();
        for (name, bytes) in &before {
            assert_eq!(after.get(name), Some(bytes), "{name}");
        }
        assert_eq!(after.len(), before.len(), "{:?}", after.keys());
        let (labels, shown) = seen(&vault);
        assert_eq!(labels, ["first", "second", "third"]);
        assert!(shown == content, "the newest state is as the disk was");
        let log = site.audit();
        let denied = log.entries.iter().filter(|(.., entry)| entry.outcome == Outcome::Denied);
        let count: u64 = denied.clone().map(|(.., entry)| entry.count).sum();
        assert!(count >= 2 * before.len() as u64, "{count} refusals are recorded");
        assert!(denied.clone().all(|(.., entry)| entry.role == "source"));
        let entry = &denied.clone().next().expect("one").2;
        assert_eq!((entry.client.as_str(), entry.verb.as_str()), ("source", "delete"));
        let puts = log.entries.iter().find(|(.., entry)| entry.outcome == Outcome::Done);
        assert!(puts.is_some_and(|(.., entry)| entry.verb == "put" && entry.count > 0));
        let lines = site.lines.lock().expect("lock");
        let named = |line: &String| line.contains("client source (source) has no right to delete");
        assert!(lines.iter().any(named), "{lines:?}");
        assert!(lines.len() < 60, "nobody fills the log: {}", lines.len());
    }
}

#[test]
fn promise_13_a_certificate_from_before_there_were_roles_deletes_nothing() {
    let site = Site::new();
    enroll_without_role(&site.path("pki"), "old", &site.path("old")).expect("enroll");
    let gateway = site.gateway(|options| options);
    let old = site.client("old", &gateway);
    let segment = "volumes/disk/segments/one.hrl";
    assert_eq!(old.put(segment, b"1").expect("put"), PutOutcome::Created);
    assert!(!old.may_delete());
    let error = old.delete(segment).expect_err("no right");
    assert_eq!(error.kind(), ErrorKind::Denied);
    for word in ["old", "source", "delete", segment] {
        assert!(error.to_string().contains(word), "{error}");
    }
}

#[test]
fn a_reader_reads_and_adds_nothing() {
    let site = Site::new();
    direct(&site, None);
    let gateway = site.gateway(|options| options);
    let (content, _) = live(&site, &gateway, None);
    let vault = vault_by(&site, "reader", &gateway, None);
    assert!(seen(&vault).1 == content);
    let reader = site.client("reader", &gateway);
    for name in ["segments/x", "volume", "catalog/0000000000000009", "keys/x"] {
        let error = reader.put(&format!("volumes/disk/{name}"), b"x").expect_err("no right");
        assert_eq!(error.kind(), ErrorKind::Denied, "{name}");
    }
    let error = vault.replica("disk").expect("replica").pin(
        &At::Label("first".into()),
        PinUntil::Forever,
        "x",
    );
    assert_eq!(error.expect_err("no right").kind(), ErrorKind::Denied);
}

#[test]
fn a_maintainer_carries_retention_out_and_an_admin_shreds() {
    let site = Site::new();
    direct(&site, Some(key()));
    let gateway = site.gateway(|options| options);
    let (content, _) = live(&site, &gateway, Some(key()));
    // A source forgets no catalog version; a maintainer does.
    let mut replica =
        vault_by(&site, "source", &gateway, Some(key())).replica("disk").expect("replica");
    let at = At::Point(replica.points().last().expect("a point").id);
    for number in 0..130 {
        replica.pin(&at, PinUntil::Forever, &number.to_string()).expect("pin");
    }
    let versions = || site.objects().keys().filter(|name| name.contains("/catalog/")).count();
    assert!(versions() > 130);
    let vault = vault_by(&site, "maintainer", &gateway, Some(key()));
    let mut replica = vault.replica("disk").expect("replica");
    replica.unpin(&at, false).expect("unpin");
    assert!(versions() <= 128, "{}", versions());
    let policy: RetentionPolicy = "1ms all; 10ms daily".parse().expect("policy");
    let policy = RetentionPolicy { grace: Duration::from_secs(1), ..policy };
    let options = CompactOptions { fold_all: true, ..CompactOptions::default() };
    let report = replica.compact(&policy, &options, &|_, _| true).expect("compact");
    assert!(report.folds > 0, "{report:?}");
    std::thread::sleep(Duration::from_millis(1500));
    let mut replica = vault.replica("disk").expect("replica");
    let report = replica.compact(&policy, &options, &|_, _| true).expect("delete");
    assert!(report.objects_deleted > 0, "{report:?}");
    assert!(seen(&vault).1 == content);
    let error = vault.shred("disk", ShredOptions { data: true, ..ShredOptions::default() });
    assert_eq!(error.expect_err("no right").kind(), ErrorKind::Denied);
    assert!(seen(&vault).1 == content);
    let admin = vault_by(&site, "admin", &gateway, Some(key()));
    admin.shred("disk", ShredOptions { data: true, ..ShredOptions::default() }).expect("shred");
    drop(gateway);
    let log = site.audit();
    for (client, verb) in [("maintainer", "delete"), ("admin", "delete")] {
        let found = log.entries.iter().find(|(.., entry)| {
            entry.client == client && entry.verb == verb && entry.outcome == Outcome::Permitted
        });
        assert!(found.is_some(), "{client}: {:?}", log.entries);
    }
}

/// Whoever deletes waits for the log: what it did is known even if the gateway dies at once.
#[test]
fn promise_13_what_is_deleted_is_in_the_log_before() {
    let site = Site::new();
    let vault = site.vault();
    let gateway = site.gateway(|options| options);
    let segment = "volumes/disk/segments/one.hrl";
    vault.put(segment, b"1").expect("put");
    site.client("maintainer", &gateway).delete(segment).expect("delete");
    let log = site.audit();
    let (_, writer, entry) = log.entries.iter().find(|(.., e)| e.verb == "delete").expect("there");
    assert_eq!(entry.objects, [segment]);
    assert_eq!((entry.client.as_str(), entry.role.as_str()), ("maintainer", "maintainer"));
    assert!(writer.starts_with("gateway 127.0.0.1:"), "{writer}");
    // A client of all volumes reads it, and nobody writes it.
    site.enroll("auditor", Role::Reader, "*");
    let auditor = site.client("auditor", &gateway);
    assert_eq!(hrl_audit::AuditLog::read(&auditor).expect("log").head, log.head);
    assert!(site.client("reader", &gateway).list("audit/").expect("list").is_empty());
    site.enroll("root", Role::Admin, "*");
    let error = site.client("root", &gateway).delete("audit/0000000000000001").expect_err("none");
    assert_eq!(error.kind(), ErrorKind::Denied);
}

/// The vault of a source goes back, and the source goes on beyond what is gone.
#[test]
fn a_source_goes_on_through_a_gateway_whose_vault_went_back() {
    let site = Site::new();
    let vault = direct(&site, None);
    let gateway = site.gateway(|options| options);
    let disk = Arc::new(MemoryDevice::new(2 << 20));
    let diverged = Arc::new(Mutex::new(false));
    let seen_it = diverged.clone();
    let policy = Policy {
        segment_interval: Duration::from_millis(20),
        retry_interval_max: Duration::from_millis(100),
        crash_point_interval: Duration::ZERO,
        ..Policy::default()
    };
    let through = vault_by(&site, "source", &gateway, None);
    let protection = ProtectionOptions::new("disk", disk.clone(), through, site.path("state"))
        .policy(policy)
        .events(Arc::new(move |event: &Event| {
            if matches!(event.kind, EventKind::Diverged { .. }) {
                *seen_it.lock().expect("lock") = true;
            }
        }))
        .open()
        .expect("protect");
    protection.wait_replicated(LIMIT).expect("first copy");
    let old = site.objects();
    for number in 0..3_u64 {
        protection.volume().write(number * 4096, &[9; 4096], Durability::Cached).expect("write");
        protection.wait_replicated(LIMIT).expect("replicated");
    }
    let store = site.vault();
    for name in site.objects().keys().filter(|name| !old.contains_key(*name)) {
        store.delete(name).expect("delete");
    }
    protection.volume().write(1 << 20, &[8; 4096], Durability::Cached).expect("write");
    let done = within(LIMIT, || {
        *diverged.lock().expect("lock") && protection.wait_replicated(LIMIT).is_ok()
    });
    assert!(done, "it went on");
    protection.mark(PointKind::Crash, "after").expect("mark");
    protection.wait_replicated(LIMIT).expect("replicated");
    protection.stop(LIMIT).expect("stop");
    let replica = vault.replica("disk").expect("replica");
    let view = replica.view(&At::Newest, &ViewOptions::default()).expect("view");
    let (mut left, mut right) = (vec![0; 2 << 20], vec![0; 2 << 20]);
    view.read(0, &mut left).expect("view");
    disk.read(0, &mut right).expect("disk");
    assert!(left == right);
}

/// Somebody with a source's certificate, and without the key, puts versions that nobody can read.
#[test]
fn promise_13_versions_that_nobody_can_read_change_nothing_and_the_source_goes_on() {
    let site = Site::new();
    let vault = direct(&site, Some(key()));
    let gateway = site.gateway(|options| options);
    let disk = Arc::new(MemoryDevice::new(2 << 20));
    let kinds = Arc::new(Mutex::new(Vec::new()));
    let seen_kinds = kinds.clone();
    let policy = Policy {
        segment_interval: Duration::from_millis(20),
        crash_point_interval: Duration::ZERO,
        ..Policy::default()
    };
    let through = vault_by(&site, "source", &gateway, Some(key()));
    let protection = ProtectionOptions::new("disk", disk.clone(), through, site.path("state"))
        .policy(policy)
        .events(Arc::new(move |event: &Event| {
            seen_kinds.lock().expect("lock").push(event.kind.name());
        }))
        .open()
        .expect("protect");
    protection.wait_replicated(LIMIT).expect("first copy");
    let take = |label: &str| {
        let bytes = [label.as_bytes()[0]; 4096];
        protection.volume().write(8192, &bytes, Durability::Cached).expect("write");
        protection.mark(PointKind::Crash, label).expect("mark");
        protection.wait_replicated(LIMIT).expect("replicated");
    };
    take("first");
    let before = seen(&vault);
    let objects = site.objects();
    let newest = objects.keys().rfind(|name| name.contains("/catalog/")).expect("a version");
    let number = u64::from_str_radix(&newest[newest.len() - 16..], 16).expect("number");
    let id = vault.volume("disk").expect("volume").id;
    let put = |number: u64, previous: [u8; 32]| {
        let mut bytes = objects[newest].clone();
        let hash = mend_catalog_version(&mut bytes, id, number, previous);
        let target = format!("/v1/objects/volumes/disk/catalog/{number:016x}");
        (site.ask("source", &gateway, "PUT", &target, &bytes), hash)
    };
    let (status, hash) = put(number + 1, VersionEnvelope::hash(&objects[newest]));
    assert_eq!(status, 201);
    assert_eq!(put(number + 2, hash).0, 201);
    assert_eq!(put((number / 64 + 9) * 64, [9; 32]).0, 201);
    assert_ne!(put(1 << 60, [9; 32]).0, 201, "nobody uses all numbers up");
    assert!(seen(&vault) == before, "readers see what they saw");
    take("second");
    let (labels, shown) = seen(&vault);
    assert_eq!(labels, ["first", "second"]);
    let mut content = vec![0; 2 << 20];
    disk.read(0, &mut content).expect("read");
    assert!(shown == content);
    protection.stop(LIMIT).expect("stop");
    let kinds = kinds.lock().expect("lock");
    assert_eq!(kinds.iter().filter(|kind| **kind == "version-ignored").count(), 1, "{kinds:?}");
    assert!(!kinds.contains(&"diverged"), "{kinds:?}");
}

/// A legal hold is lifted by an `admin` alone, although sources and maintainers have the key.
#[test]
fn promise_13_a_legal_hold_is_lifted_by_an_admin_alone() {
    let site = Site::new();
    let direct = direct(&site, Some(key()));
    let gateway = site.gateway(|options| options);
    live(&site, &gateway, Some(key()));
    let at = At::Label("first".to_owned());
    let replica =
        |role: &str| vault_by(&site, role, &gateway, Some(key())).replica("disk").expect("replica");
    let is_held = || {
        let points = direct.replica("disk").expect("replica").points();
        points.iter().any(|point| point.label == "first" && !point.pins.is_empty())
    };
    let shown = || -> hrl::Result<Vec<u8>> {
        let replica = direct.replica("disk").expect("replica");
        let mut bytes = vec![0; 2 << 20];
        replica.view(&at, &ViewOptions::default())?.read(0, &mut bytes)?;
        Ok(bytes)
    };
    let holds = || site.objects().into_keys().filter(|name| name.contains("/holds/")).count();
    let error = replica("source").pin(&at, PinUntil::LegalHold, "court").expect_err("no right");
    assert_eq!((error.kind(), holds(), is_held()), (ErrorKind::Denied, 0, false), "{error}");
    replica("maintainer").pin(&at, PinUntil::LegalHold, "court").expect("hold");
    assert!(is_held() && holds() == 1);
    let before = site.objects();
    let content = shown().expect("view");
    assert_eq!(content[0], b'f');
    for role in ["source", "maintainer"] {
        let error = replica(role).unpin(&at, true).expect_err("no right");
        assert_eq!((error.kind(), holds(), is_held()), (ErrorKind::Denied, 1, true), "{error}");
    }
    let point = direct.replica("disk").expect("replica").points()[0].id;
    let hold = &LegalHold::list(&*site.vault(), "disk").expect("list")[0];
    assert_eq!(hold.point, point);
    // With the key the catalog says that it is over.
    let lift = || {
        let mut catalog = replica("source").into_catalog();
        let edits = [CatalogEdit::Unpin { point, legal_hold: true }];
        catalog.amend(&edits, &|| Ok(())).expect("anybody with the key amends");
        assert!(!is_held());
    };
    lift();
    let kept: Vec<_> = before.keys().filter(|name| hold.keeps(name)).collect();
    assert!(kept.iter().any(|name| name.contains("/segments/")), "{kept:?}");
    assert!(kept.iter().any(|name| name.contains("/catalog/")), "{kept:?}");
    for role in ["source", "maintainer"] {
        for name in kept.iter().copied().chain([&hold.object("disk")]) {
            let target = format!("/v1/objects/{name}");
            assert_eq!(site.ask(role, &gateway, "DELETE", &target, b""), 403, "{role} {name}");
            let status = site.ask(role, &gateway, "POST", "/v1/delete", name.as_bytes());
            assert_eq!(status, 403, "{role} {name}");
        }
    }
    // The maintainer at the vault says it again, so retention keeps the point.
    let policy: RetentionPolicy = "1ms all".parse().expect("policy");
    let policy = RetentionPolicy { grace: Duration::from_secs(1), ..policy };
    let options = MaintainOptions {
        retention: Some(policy.clone()),
        deletion_delay: Duration::ZERO,
        ..MaintainOptions::default()
    };
    let clock = SystemClock::shared();
    let mut maintainer =
        Maintainer::new(site.vault(), Some(key()), clock, options).expect("maintainer");
    let (volumes, _) = maintainer.run(&|| true).expect("run");
    assert!(volumes.iter().all(|volume| volume.failure.is_none()), "{volumes:?}");
    assert!(is_held());
    // Retention of somebody whose catalog has no hold takes the point, and no byte of it.
    lift();
    let options = CompactOptions { fold_all: true, ..CompactOptions::default() };
    let report = replica("maintainer").compact(&policy, &options, &|_, _| true).expect("compact");
    assert!(report.folds > 0, "{report:?}");
    std::thread::sleep(Duration::from_millis(1500));
    let mut retired = replica("maintainer");
    retired.compact(&policy, &options, &|_, _| true).expect("retention goes on");
    assert!(shown().is_err(), "the catalog has forgotten the point");
    let now = site.objects();
    assert!(kept.iter().all(|name| now.get(*name) == before.get(*name)), "{:?}", now.keys());
    let salvaged = Arc::new(DirStore::create(&site.path("salvaged")).expect("store"));
    for (name, bytes) in
        now.iter().filter(|(name, _)| hold.keeps(name) || !name.contains("/catalog/"))
    {
        salvaged.put(name, bytes).expect("put");
    }
    let vault = Vault::open(salvaged, Some(key()), SystemClock::shared()).expect("vault");
    let view = vault.replica("disk").expect("replica").view(&at, &ViewOptions::default());
    let mut bytes = vec![0; 2 << 20];
    view.expect("view").read(0, &mut bytes).expect("read");
    assert!(bytes == content, "the point is as it was, of what the gateway kept");
    // An admin lifts it, and what it kept goes.
    site.client("admin", &gateway).delete(&hold.object("disk")).expect("an admin lifts it");
    replica("maintainer").compact(&policy, &options, &|_, _| true).expect("retention");
    assert!(kept.iter().any(|name| !site.objects().contains_key(*name)));
}

#[test]
fn an_admin_lifts_a_legal_hold_by_the_ordinary_way() {
    let site = Site::new();
    let direct = direct(&site, Some(key()));
    let gateway = site.gateway(|options| options);
    live(&site, &gateway, Some(key()));
    let at = At::Label("first".to_owned());
    let mut admin =
        vault_by(&site, "admin", &gateway, Some(key())).replica("disk").expect("replica");
    admin.pin(&at, PinUntil::LegalHold, "court").expect("hold");
    let holds = || LegalHold::list(&*site.vault(), "disk").expect("list").len();
    assert_eq!(holds(), 1);
    admin.unpin(&at, true).expect("lift");
    assert_eq!(holds(), 0);
    let points = direct.replica("disk").expect("replica").points();
    assert!(points.iter().all(|point| point.pins.is_empty()));
    assert_eq!(admin.unpin(&at, true).expect_err("none is left").kind(), ErrorKind::NotFound);
}
