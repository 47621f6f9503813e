//! Points of an attached loop device under load: each holds every change acknowledged before the cut
//! began, none that began after it, and whatever a writer waited for; even if agents are killed.
//!
//! Needs root, loop devices and BPF; without them the tests say so and pass.
#![allow(clippy::disallowed_methods, reason = "real disks take real time")]

mod parts;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hrl::journal::PointKind;
use hrl::replica::{At, ViewOptions};
use hrl::store::DirStore;
use hrl::sync::lock::Mutex;
use hrl::vault::Vault;
use hrl::{
    Cause, ErrorKind, Event, EventKind, Policy, Protection, ProtectionOptions, SystemClock,
    Timestamp,
};
use hrl_attach::{Attachment, AttachmentOptions};

use parts::{Disk, Load, check_copy, setting};

const MINUTE: Duration = Duration::from_secs(60);

type Events = Arc<Mutex<Vec<Event>>>;

/// A vault and a state directory, beside an attached disk. What is pinned is taken away at the end.
struct Site {
    home: tempfile::TempDir,
    events: Events,
}

impl Site {
    fn new() -> Self {
        Self { home: tempfile::tempdir().expect("directory"), events: Events::default() }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn vault(&self) -> Vault {
        vault_in(&self.at("vault"))
    }

    /// Attaches without points by the clock; `None` where there is no BPF.
    fn attach(&self, disk: &Path) -> Option<Attachment> {
        let events = self.events.clone();
        opened(
            options(disk, &self.at("vault"), &self.at("state"))
                .events(Arc::new(move |event| events.lock().push(event.clone()))),
        )
    }

    fn compared(&self) -> usize {
        let is_whole = |event: &&Event| {
            matches!(event.kind, EventKind::ResyncStarted { cause: Cause::Untracked, .. })
                && event.message.starts_with("the whole disk")
        };
        self.events.lock().iter().filter(is_whole).count()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = Attachment::detach(&self.at("state"));
    }
}

fn vault_in(path: &Path) -> Vault {
    let store = if path.exists() { DirStore::open(path) } else { DirStore::create(path) };
    let store = Arc::new(store.expect("store"));
    let opened = Vault::open(store.clone(), None, SystemClock::shared());
    opened.or_else(|_| Vault::create(store, None, SystemClock::shared())).expect("vault")
}

fn policy() -> Policy {
    Policy { crash_point_interval: Duration::ZERO, retention: None, ..Policy::default() }
}

fn options(disk: &Path, vault: &Path, state: &Path) -> AttachmentOptions {
    AttachmentOptions::new("disk", disk, vault_in(vault), state).policy(policy())
}

fn opened(options: AttachmentOptions) -> Option<Attachment> {
    match options.open() {
        Ok(attachment) => Some(attachment),
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::Denied | ErrorKind::Io | ErrorKind::Unsupported
            ) =>
        {
            eprintln!("not run: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// Makes a point once the first copy or a resync is over.
fn marked(attachment: &Attachment, label: &str) -> hrl::replica::RecoveryPoint {
    let begun = Instant::now();
    loop {
        match attachment.mark(PointKind::Crash, label) {
            Ok(point) => return point,
            // A machine that does much else lets no cut be clean for a while, or audits fail.
            Err(error)
                if matches!(error.kind(), ErrorKind::NotOrdered | ErrorKind::Unavailable)
                    && begun.elapsed() < 2 * MINUTE =>
            {
                eprintln!("again: {error}");
            }
            Err(error) => panic!("{error}"),
        }
    }
}

fn copy_at(vault: &Vault, at: &At, bytes: u64) -> Vec<u8> {
    use hrl::device::BlockDevice;
    let replica = vault.replica("disk").expect("replica");
    let view = replica.view(at, &ViewOptions::default()).expect("view");
    let mut copy = vec![0; bytes as usize];
    view.read(0, &mut copy).expect("read");
    copy
}

#[test]
fn promise_14_each_point_of_an_attached_disk_is_the_disk_at_one_instant() {
    let Some(disk) = Disk::new() else { return };
    let site = Site::new();
    let load = Load::begin(&disk.path);
    let Some(attachment) = site.attach(&disk.path) else { return };
    let mut points = Vec::new();
    for number in 0..setting("HRL_ATTACH_POINTS", 6) {
        let acknowledged = load.done();
        let point = marked(&attachment, &format!("point {number}"));
        points.push((point, acknowledged, load.begun()));
        std::thread::sleep(Duration::from_millis(20));
    }
    let stats = attachment.stats();
    assert_eq!(stats.points, points.len() as u64);
    assert_eq!(stats.last_point, points.last().map(|(point, ..)| point.time));
    assert!(stats.map_bytes > 0 && stats.read_amplification >= 1.0, "{stats:?}");
    attachment.stop(MINUTE).expect("stop");
    load.end();

    let vault = site.vault();
    for (number, (point, acknowledged, begun)) in points.iter().enumerate() {
        let copy = copy_at(&vault, &At::Point(point.id), disk.bytes());
        check_copy(&copy, acknowledged, Some(begun), &format!("point {number}"));
    }
    let replica = vault.replica("disk").expect("replica");
    assert!(replica.points().len() >= points.len());
    // Nothing between the points is offered.
    let (first, second) = (&points[1].0, &points[2].0);
    for sequence in first.sequence.0 + 1..second.sequence.0 - 1 {
        let at = At::Sequence(hrl::Sequence(sequence));
        let error =
            replica.view(&at, &ViewOptions::default()).map(drop).expect_err("between points");
        assert_eq!(error.kind(), ErrorKind::NotOrdered, "{error}");
    }
    let between = Timestamp(first.time.0 + (second.time.0 - first.time.0) / 2);
    let error =
        replica.view(&At::Time(between), &ViewOptions::default()).map(drop).expect_err("between");
    assert_eq!(error.kind(), ErrorKind::NotOrdered, "{error}");
    let stretches: Vec<_> = replica.timeline().iter().map(|stretch| stretch.unordered).collect();
    assert_eq!(stretches.last(), Some(&Some(Cause::Observed)), "{stretches:?}");
    assert!(stretches.len() <= 3, "{stretches:?}");
}

#[test]
fn promise_14_an_agent_that_comes_back_reads_only_what_changed_meanwhile() {
    let Some(disk) = Disk::new() else { return };
    let site = Site::new();
    let Some(attachment) = site.attach(&disk.path) else { return };
    marked(&attachment, "first");
    attachment.stop(MINUTE).expect("stop");
    let load = Load::begin(&disk.path);
    std::thread::sleep(Duration::from_millis(200));
    load.end();

    let attachment = site.attach(&disk.path).expect("attach");
    let acknowledged = load.done();
    let point = marked(&attachment, "second");
    let copied = attachment.stats().bytes_copied;
    assert!(attachment.stats().pinned);
    attachment.stop(MINUTE).expect("stop");
    assert_eq!(site.compared(), 0);
    assert!(copied > 0 && copied < disk.bytes() / 2, "{copied} bytes");
    let copy = copy_at(&site.vault(), &At::Point(point.id), disk.bytes());
    check_copy(&copy, &acknowledged, Some(&acknowledged), "second");

    // Without the programs nobody knows what changed.
    Attachment::detach(&site.at("state")).expect("detach");
    let load = Load::begin(&disk.path);
    std::thread::sleep(Duration::from_millis(100));
    load.end();
    let attachment = site.attach(&disk.path).expect("attach");
    let point = marked(&attachment, "third");
    attachment.stop(MINUTE).expect("stop");
    assert_eq!(site.compared(), 1);
    let copy = copy_at(&site.vault(), &At::Point(point.id), disk.bytes());
    assert!(copy == disk.content(), "what changed without programs");
}

/// The dirty map knows nothing of what an observer knew.
#[test]
fn promise_14_a_protection_after_an_attachment_compares_the_whole_disk() {
    let Some(disk) = Disk::new() else { return };
    let site = Site::new();
    let Some(attachment) = site.attach(&disk.path) else { return };
    marked(&attachment, "attached");
    // As if it were killed.
    drop(attachment);
    disk.write(3, 77);
    let protection = protected(&site, &disk);
    protection.wait_ordered(MINUTE).expect("ordered");
    let point = protection.mark(PointKind::Crash, "protected").expect("mark");
    protection.stop(MINUTE).expect("stop");
    let copy = copy_at(&site.vault(), &At::Point(point.id), disk.bytes());
    assert!(copy == disk.content(), "what changed before");
}

fn protected(site: &Site, disk: &Disk) -> Protection {
    ProtectionOptions::new("disk", Arc::new(disk.device()), site.vault(), site.at("state"))
        .policy(policy())
        .open()
        .expect("protect")
}

#[test]
fn promise_14_nothing_but_a_cut_makes_points_of_an_attached_disk() {
    let Some(disk) = Disk::new() else { return };
    let site = Site::new();
    let Some(attachment) = site.attach(&disk.path) else { return };
    marked(&attachment, "cut");
    let protection = attachment.protection();
    let refused =
        [protection.mark(PointKind::Crash, "").map(drop), protection.cut().raise_barrier(MINUTE)];
    for result in refused {
        let error = result.expect_err("no cut");
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    }
    let error = attachment.mark(PointKind::App, "").expect_err("no application was quiesced");
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    let error = attachment.mark_app("").expect_err("no applications");
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    attachment.stop(MINUTE).expect("stop");
}

#[test]
fn promise_14_an_agent_on_its_own_disk_is_refused() {
    let Some(disk) = Disk::with_bytes(64 << 20) else { return };
    let site = Site::new();
    let mount = parts::Mount::new(&disk.path, "ext4", &site.at("mnt"));
    let Some(mount) = mount else { return };
    for (vault, state) in
        [(site.at("vault"), mount.path.join("state")), (mount.path.join("vault"), site.at("state"))]
    {
        let Err(error) = options(&disk.path, &vault, &state).open() else {
            panic!("an agent that makes work of its work");
        };
        if matches!(error.kind(), ErrorKind::Denied | ErrorKind::Io | ErrorKind::Unsupported) {
            return eprintln!("not run: {error}");
        }
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        assert!(error.to_string().contains("lies on the disk itself"), "{error}");
    }
    let fast = Policy { crash_point_interval: Duration::from_secs(1), ..Policy::default() };
    let fast = options(&disk.path, &site.at("vault"), &site.at("state")).policy(fast);
    let Err(error) = fast.open() else { panic!("points every second") };
    assert!(error.to_string().contains("crash_point_interval"), "{error}");
}

/// Name of the variable that makes this test an agent.
const AGENT: &str = "HRL_ATTACH_TEST_AGENT";

/// The agent that another test kills. Alone it does nothing.
#[test]
fn agent() {
    let Ok(places) = std::env::var(AGENT) else { return };
    let [disk, home] = places.split('\n').collect::<Vec<_>>()[..] else { panic!("{places}") };
    let home = Path::new(home);
    let log = Mutex::new(
        std::fs::OpenOptions::new().append(true).create(true).open(home.join("log")).expect("log"),
    );
    let attachment = options(Path::new(disk), &home.join("vault"), &home.join("state"))
        .events(Arc::new(move |event| {
            use std::io::Write;
            writeln!(log.lock(), "{event}").expect("log");
        }))
        .open()
        .expect("attach");
    loop {
        match attachment.mark(PointKind::Crash, "") {
            Ok(_) => {}
            Err(error) => eprintln!("{error}"),
        }
    }
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn agent_in(disk: &Path, home: &Path) -> Killed {
    let child = Command::new(std::env::current_exe().expect("this test"))
        .args(["agent", "--exact", "--nocapture"])
        .env(AGENT, format!("{}\n{}", disk.display(), home.display()))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("start");
    Killed(child)
}

#[test]
fn promise_14_an_agent_killed_at_any_time_makes_no_wrong_point() {
    let Some(disk) = Disk::new() else { return };
    let site = Site::new();
    let load = Load::begin(&disk.path);
    let Some(attachment) = site.attach(&disk.path) else { return };
    marked(&attachment, "first");
    attachment.stop(MINUTE).expect("stop");
    let mut seen = vec![(SystemClock::shared().now(), load.done())];
    let mut pause = 1;
    for _ in 0..setting("HRL_ATTACH_KILLS", 5) {
        let agent = agent_in(&disk.path, site.home.path());
        let until = Instant::now() + Duration::from_millis(300 + pause % 900);
        pause = pause * 48_271 % 0x7fff_ffff;
        while Instant::now() < until {
            let done = load.done();
            seen.push((SystemClock::shared().now(), done));
            std::thread::sleep(Duration::from_millis(1));
        }
        drop(agent);
    }
    let attachment = site.attach(&disk.path).expect("attach");
    let acknowledged = load.done();
    let last = marked(&attachment, "last");
    let begun = load.begun();
    attachment.stop(MINUTE).expect("stop");
    load.end();

    let vault = site.vault();
    let replica = vault.replica("disk").expect("replica");
    let points = replica.points();
    println!("{} points, {} writes", points.len(), load.done().iter().sum::<u64>());
    for point in &points {
        let before = seen.iter().take_while(|(time, _)| *time <= point.time).last();
        let none = vec![0; load.done().len()];
        let acknowledged = before.map_or(&none, |(_, done)| done);
        let copy = copy_at(&vault, &At::Point(point.id), disk.bytes());
        check_copy(&copy, acknowledged, None, &format!("point {}", point.sequence));
    }
    let copy = copy_at(&vault, &At::Point(last.id), disk.bytes());
    check_copy(&copy, &acknowledged, Some(&begun), "last");
    let log = std::fs::read_to_string(site.at("log")).expect("log");
    assert!(!log.contains("the whole disk is compared with the replica:"), "{log}");
    assert_eq!(site.compared(), 0);
}

#[test]
fn promise_14_a_disk_that_has_grown_makes_no_point_of_what_it_was() {
    let Some(disk) = Disk::new() else { return };
    let site = Site::new();
    let Some(attachment) = site.attach(&disk.path) else { return };
    marked(&attachment, "before");
    disk.grow(1 << 20);
    let error = attachment.mark(PointKind::Crash, "after").expect_err("another size");
    assert_eq!(error.kind(), ErrorKind::Changed, "{error}");
    assert!(error.to_string().contains("resized"), "{error}");
    attachment.stop(MINUTE).expect("stop");
    assert_eq!(site.compared(), 0, "nothing is compared for it");
    let points = site.vault().replica("disk").expect("replica").points();
    assert_eq!(points.len(), 1, "{points:?}");
}

#[test]
fn promise_14_a_new_agent_takes_over_the_programs_of_the_one_before() {
    let Some(disk) = Disk::new() else { return };
    let site = Site::new();
    let load = Load::begin(&disk.path);
    let Some(attachment) = site.attach(&disk.path) else { return };
    marked(&attachment, "first");
    attachment.stop(MINUTE).expect("stop");
    let old = agent_in(&disk.path, site.home.path());
    let points = || site.vault().replica("disk").expect("replica").points().len();
    let begun = Instant::now();
    while points() < 3 {
        assert!(begun.elapsed() < MINUTE, "points of the old agent");
        std::thread::sleep(Duration::from_millis(50));
    }
    // Two at once are refused, and the second takes nothing from the first.
    let Err(error) = options(&disk.path, &site.at("vault"), &site.at("state")).open() else {
        panic!("two agents with one state directory");
    };
    assert!(error.to_string().contains("state"), "{error}");
    let known = points();
    while points() < known + 2 {
        assert!(begun.elapsed() < 2 * MINUTE, "points of the old agent after that");
        std::thread::sleep(Duration::from_millis(50));
    }
    drop(old);
    let new = site.attach(&disk.path).expect("attach");
    let acknowledged = load.done();
    let point = marked(&new, "upgraded");
    let begun = load.begun();
    assert!(new.stats().pinned && new.stats().bytes_copied < 2 * disk.bytes(), "{:?}", new.stats());
    new.stop(MINUTE).expect("stop");
    load.end();
    assert_eq!(site.compared(), 0, "{:?}", site.events.lock());
    let copy = copy_at(&site.vault(), &At::Point(point.id), disk.bytes());
    check_copy(&copy, &acknowledged, Some(&begun), "upgraded");
}

#[test]
fn promise_14_points_come_by_the_clock_and_what_changes_meanwhile_counts_as_missing() {
    let Some(disk) = Disk::new() else { return };
    let site = Site::new();
    let by_clock = Policy { crash_point_interval: Duration::from_secs(5), ..policy() };
    let options = options(&disk.path, &site.at("vault"), &site.at("state")).policy(by_clock);
    let Some(attachment) = opened(options) else { return };
    attachment.wait_point(MINUTE).expect("the first at once");
    attachment.protection().wait_replicated(MINUTE).expect("replicated");
    std::thread::sleep(Duration::from_secs(1));
    let rpo = attachment.protection().stats().rpo;
    assert!(rpo >= Duration::from_secs(1), "{rpo:?}");
    disk.write(5, 5);
    let begun = Instant::now();
    while attachment.stats().points < 2 {
        assert!(begun.elapsed() < MINUTE);
        std::thread::sleep(Duration::from_millis(50));
    }
    attachment.stop(MINUTE).expect("stop");
    let copy = copy_at(&site.vault(), &At::Newest, disk.bytes());
    assert!(copy == disk.content());
    assert!(!site.events.lock().iter().any(|e| e.kind == EventKind::PointSkipped));
}
