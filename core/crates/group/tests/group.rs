//! Consistency groups by the public API: real protections, TLS on loopback, and chains of writes
//! across members.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hrl::device::{BlockDevice, Durability, MemoryDevice};
use hrl::journal::PointKind;
use hrl::replica::{At, ViewOptions};
use hrl::store::DirStore;
use hrl::vault::Vault;
use hrl::{
    ErrorKind, GroupPoint, Policy, Protection, ProtectionOptions, Quiesce, QuiesceRequest, Result,
    SystemClock,
};
use hrl_group::{GroupCoordinator, GroupJoin, GroupMember, GroupOptions};
use hrl_tls::{create_authority, enroll_client};

const LIMIT: Duration = Duration::from_secs(60);
const BLOCK: u64 = 4096;
const WRITERS: u64 = 3;

struct Site {
    directory: tempfile::TempDir,
    vault: Vault,
}

impl Site {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let store = DirStore::create(&directory.path().join("vault")).expect("store");
        let vault = Vault::create(Arc::new(store), None, SystemClock::shared()).expect("vault");
        let site = Self { directory, vault };
        create_authority(&site.path("pki"), &["localhost".into()]).expect("authority");
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn protect(&self, volume: &str) -> Protection {
        let policy = Policy {
            segment_interval: Duration::from_millis(100),
            crash_point_interval: Duration::ZERO,
            ..Policy::default()
        };
        let disk = Arc::new(MemoryDevice::new(1 << 20));
        let state = self.path(&format!("state-{volume}"));
        let options = ProtectionOptions::new(volume, disk, self.vault.clone(), state);
        let protection = options.policy(policy).open().expect("protect");
        protection.wait_ordered(LIMIT).expect("ordered");
        protection
    }

    fn identity(&self, volume: &str) -> PathBuf {
        let bundle = self.path(&format!("identity-{volume}"));
        if !bundle.exists() {
            enroll_client(&self.path("pki"), volume, &[volume.into()], &bundle).expect("enroll");
        }
        bundle
    }

    fn coordinator(&self, change: impl Fn(GroupOptions) -> GroupOptions) -> GroupCoordinator {
        let options = GroupOptions::new("orders", self.path("group"), self.path("pki"));
        change(options.listen("127.0.0.1:0")).start().expect("coordinator")
    }

    fn join(&self, protection: &Protection, at: &GroupCoordinator) -> GroupMember {
        let member =
            self.begin_to_join(protection, &[format!("localhost:{}", at.address().port())]);
        member.wait_connected(LIMIT).expect("connected");
        member
    }

    fn begin_to_join(&self, protection: &Protection, at: &[String]) -> GroupMember {
        let join = GroupJoin::new("orders", at, self.identity(&protection.info().name));
        join.join(protection).expect("join")
    }

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|n| format!("disk{n}")).collect()
    }
}

fn wait(what: &str, done: impl Fn() -> bool) {
    for _ in 0..LIMIT.as_millis() / 5 {
        if done() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("never: {what}");
}

/// Ends the writers even if the test fails in between, because their scope waits for them.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Writes rising numbers, each to the next member once the one before was acknowledged.
fn chain(members: &[Protection], writer: u64, written: &AtomicU64, stop: &AtomicBool) {
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let mut block = vec![0; BLOCK as usize];
        block[..8].copy_from_slice(&u64::to_le_bytes(number));
        let member = &members[number as usize % members.len()];
        member.volume().write(writer * BLOCK, &block, Durability::Cached).expect("write");
        written.fetch_add(1, Ordering::Relaxed);
        // The disks are memory: without a pause the journals could not follow.
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Checks that each write in the point has the one before it in the point too; returns the number
/// of writes.
fn check(vault: &Vault, names: &[String], point: &GroupPoint) -> u64 {
    let views: Vec<_> = names
        .iter()
        .map(|name| {
            let replica = vault.replica(name).expect("replica");
            replica.view(&At::Point(point.id), &ViewOptions::default()).expect("view")
        })
        .collect();
    let mut newest = 0;
    for writer in 0..WRITERS {
        let found: Vec<u64> = views
            .iter()
            .map(|view| {
                let mut number = [0; 8];
                view.read(writer * BLOCK, &mut number).expect("read");
                u64::from_le_bytes(number)
            })
            .collect();
        let last = found.iter().copied().max().expect("members");
        newest = newest.max(last);
        let count = names.len() as u64;
        for (member, number) in found.iter().enumerate() {
            let expected = (0..count).map(|back| last.saturating_sub(back));
            let expected = expected.filter(|n| n % count == member as u64).max().unwrap_or(0);
            assert_eq!(*number, expected, "member {member}, writer {writer}: {found:?}");
        }
    }
    newest
}

#[test]
fn promise_7_a_group_point_is_one_cut_across_all_members() {
    let site = Site::new();
    let names = Site::names(4);
    let members: Vec<_> = names.iter().map(|name| site.protect(name)).collect();
    let coordinator = site.coordinator(|options| options);
    let joined: Vec<_> = members.iter().map(|member| site.join(member, &coordinator)).collect();
    let (written, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let points: Vec<GroupPoint> = std::thread::scope(|scope| {
        let _stop = Stop(&stop);
        for writer in 0..WRITERS {
            let (members, written, stop) = (&members, &written, &stop);
            scope.spawn(move || chain(members, writer, written, stop));
        }
        // Writes must happen between two cuts, even on a slow machine.
        let cut = |n| {
            let wanted = written.load(Ordering::Relaxed) + 10 * WRITERS;
            wait("writes between two cuts", || written.load(Ordering::Relaxed) >= wanted);
            coordinator.point(false, &format!("cut {n}")).ok()
        };
        (0..20).filter_map(cut).collect()
    });
    assert!(points.len() >= 10, "{}: {:?}", points.len(), coordinator.status());
    members.iter().for_each(|member| {
        member.wait_replicated(LIMIT).expect("replicated");
    });

    let listed = site.vault.group_points().expect("list").points;
    let ids = |points: &[GroupPoint]| points.iter().map(|point| point.id).collect::<Vec<_>>();
    assert_eq!(ids(&listed), ids(&points), "each once, oldest first");
    let mut newest = 0;
    for (point, made) in listed.iter().zip(&points) {
        assert!(point.is_complete() && point.members == 4 && point.group == "orders", "{point:?}");
        assert_eq!((&point.marks, &point.label, point.kind), (&made.marks, &made.label, made.kind));
        let number = check(&site.vault, &names, point);
        assert!(number >= newest, "points follow each other");
        newest = number;
    }
    assert!(newest > 100, "the writers wrote {newest}");
    let status = coordinator.status();
    assert_eq!(status.points, points.len() as u64);
    assert!(status.held_p50 <= status.held_p99 && status.held_p99 <= Duration::from_millis(300));
    for member in &joined {
        assert!(member.stats().held_max <= Duration::from_millis(300), "{:?}", member.stats());
    }
    // The members' own lists show the point as one of a group.
    let own = site.vault.replica("disk0").expect("replica").points();
    assert!(own.iter().any(|p| p.group == Some(points[0].id) && p.kind == PointKind::GroupCrash));
}

#[test]
fn no_point_is_made_without_a_member_and_strangers_cannot_join() {
    let site = Site::new();
    let names = Site::names(3);
    let members: Vec<_> = names.iter().map(|name| site.protect(name)).collect();
    let coordinator = site.coordinator(|options| options.budget(Duration::from_millis(200)));
    let error = coordinator.point(false, "").expect_err("nobody is there");
    assert!(error.to_string().contains("no members"), "{error}");
    let mut joined: Vec<_> = members.iter().map(|m| site.join(m, &coordinator)).collect();
    coordinator.point(false, "all").expect("all are there");

    // A member goes away: its writers continue, and no point is made without it.
    drop(joined.pop());
    let error = coordinator.point(false, "").expect_err("one is away");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("disk2"), "{error}");
    members[2].volume().write(0, &[1; 4096], Durability::Cached).expect("write");

    // The same holds after a restart of the coordinator, whose members are on disk.
    let port = coordinator.address().port();
    drop(coordinator);
    let coordinator = site.coordinator(|options| options.listen(&format!("127.0.0.1:{port}")));
    for member in &joined {
        member.wait_connected(LIMIT).expect("back by itself");
    }
    wait("both are back", || {
        coordinator.status().members.iter().filter(|m| m.address.is_some()).count() == 2
    });
    let error = coordinator.point(false, "").expect_err("still one away");
    assert!(error.to_string().contains("disk2"), "{error}");

    // The member returns, and then leaves for good.
    let back = site.join(&members[2], &coordinator);
    coordinator.point(false, "again").expect("all are there");
    back.leave(LIMIT).expect("leave");
    let point = coordinator.point(false, "two").expect("two are all");
    assert_eq!(point.members, 2);
    coordinator.remove("disk1").expect("remove");
    assert_eq!(coordinator.remove("disk1").expect_err("gone").kind(), ErrorKind::NotFound);
    assert_eq!(coordinator.point(false, "one").expect("one is all").members, 1);

    // A client may join only with its own volumes and only the right group.
    let at = format!("localhost:{port}");
    let stranger = GroupJoin::new("orders", &[&at], site.identity("disk0"));
    let member = stranger.join(&members[1]).expect("begins");
    let error = member.wait_connected(Duration::from_secs(3)).expect_err("not its volume");
    assert!(error.to_string().contains("not enrolled"), "{error}");
    let wrong = GroupJoin::new("invoices", &[&at], site.identity("disk1"));
    let member = wrong.join(&members[1]).expect("begins");
    let error = member.wait_connected(Duration::from_secs(3)).expect_err("another group");
    assert!(error.to_string().contains("invoices"), "{error}");
}

/// An enrolled client that no list names would be waited for at every point.
#[test]
fn a_group_with_a_list_admits_its_members_alone() {
    let site = Site::new();
    let [known, guest] = ["disk0", "disk1"].map(|name| site.protect(name));
    let open = site.coordinator(|options| options);
    drop((site.join(&known, &open), site.join(&guest, &open)));
    drop(open);

    let coordinator = site.coordinator(|options| options.members(&["disk0"]));
    let _member = site.join(&known, &coordinator);
    let at = [format!("localhost:{}", coordinator.address().port())];
    let refused = site.begin_to_join(&guest, &at);
    let error = refused.wait_connected(Duration::from_secs(3)).expect_err("not listed");
    assert!(error.to_string().contains("list of members"), "{error}");
    assert_eq!(coordinator.point(false, "").expect("nobody else is waited for").members, 1);
}

/// An application that records what it is asked, and fails on request.
#[derive(Default)]
struct App {
    log: std::sync::Mutex<Vec<&'static str>>,
    fails: AtomicBool,
}

impl Quiesce for App {
    fn name(&self) -> String {
        "app".into()
    }
    fn quiesce(&self, _: &QuiesceRequest) -> Result<()> {
        self.log.lock().expect("lock").push("quiesce");
        if self.fails.load(Ordering::Relaxed) {
            return Err(hrl::Error::new(ErrorKind::Unavailable, "quiesce", "app"));
        }
        Ok(())
    }
    fn release(&self) -> Result<()> {
        self.log.lock().expect("lock").push("release");
        Ok(())
    }
}

#[test]
fn app_points_quiesce_every_member_first_and_always_release_all() {
    let site = Site::new();
    let names = Site::names(2);
    let members: Vec<_> = names.iter().map(|name| site.protect(name)).collect();
    let coordinator = site.coordinator(|options| options);
    let apps = [Arc::new(App::default()), Arc::new(App::default())];
    let joined: Vec<_> = members
        .iter()
        .zip(&apps)
        .map(|(member, app)| {
            let at = [format!("localhost:{}", coordinator.address().port())];
            let join = GroupJoin::new("orders", &at, site.identity(&member.info().name));
            let joined = join.quiesce(app.clone()).join(member).expect("join");
            joined.wait_connected(LIMIT).expect("connected");
            joined
        })
        .collect();
    let point = coordinator.point(true, "nightly").expect("point");
    assert_eq!(point.kind, PointKind::GroupApp);
    for app in &apps {
        assert_eq!(*app.log.lock().expect("lock"), ["quiesce", "release"]);
    }
    apps[1].fails.store(true, Ordering::Relaxed);
    let error = coordinator.point(true, "").expect_err("one cannot");
    assert!(
        error.to_string().contains("disk1") && error.to_string().contains("quiesce"),
        "{error}"
    );
    // The member whose application failed is released as well, once it hears of the end.
    wait("released", || apps.iter().all(|app| app.log.lock().expect("lock").len() == 4));
    for member in &members {
        member.wait_replicated(LIMIT).expect("replicated");
    }
    let listed = site.vault.group_points().expect("list").points;
    assert_eq!(listed.iter().map(|p| (p.id, p.kind)).collect::<Vec<_>>(), [(point.id, point.kind)]);
    drop(joined);
}
