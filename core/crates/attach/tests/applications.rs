//! Points of an attached disk for which something waits: applications that are quiesced, and file
//! systems that are frozen because a load lets no cut be clean.
//!
//! Needs root, loop devices, BPF and ext4; without them the tests say so and pass.
#![allow(clippy::disallowed_methods, reason = "real disks take real time")]

mod parts;

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hrl::device::Buffer;
use hrl::journal::PointKind;
use hrl::{ErrorKind, EventKind, Policy};
use hrl_quiesce::{Applications, set_watchdog};

use parts::mounted::{Site, crash_point, point_after};
use parts::{Disk, Mount};

const BYTES: u64 = 128 << 20;
const MINUTE: Duration = Duration::from_secs(60);
const BLOCK: usize = 4096;

/// Names the watchdog, which is built if it is not there.
fn watchdog() {
    let test = std::env::current_exe().expect("this test");
    let programs = test.parent().and_then(Path::parent).expect("the directory of programs");
    let path = programs.join("hrl-watchdog");
    if !path.exists() {
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "-q", "-p", "hrl-quiesce", "--bin", "hrl-watchdog"]);
        if programs.ends_with("release") {
            build.arg("--release");
        }
        assert!(build.status().expect("cargo").success());
    }
    set_watchdog([path]);
}

fn frozen(mount: &Mount) -> Arc<Applications> {
    Arc::new(Applications::parse([format!("fs:{}", mount.path.display())]).expect("a file system"))
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < MINUTE, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Writes without a sync, all the time, and notes its longest pause.
struct Cached {
    stopping: Arc<AtomicBool>,
    longest_ms: Arc<AtomicU64>,
    done: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Cached {
    fn begin(path: &Path) -> Self {
        let stopping = Arc::new(AtomicBool::new(false));
        let (longest_ms, done) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let thread = {
            let (stopping, longest, done) = (stopping.clone(), longest_ms.clone(), done.clone());
            let mut file = File::create(path).expect("file");
            std::thread::spawn(move || {
                let mut number = 0;
                while !stopping.load(Ordering::Relaxed) {
                    number += 1;
                    let begun = Instant::now();
                    writeln!(file, "{number}").expect("write");
                    done.store(number, Ordering::SeqCst);
                    longest.fetch_max(begun.elapsed().as_millis() as u64, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(1));
                }
            })
        };
        Self { stopping, longest_ms, done, thread: Some(thread) }
    }
}

impl Drop for Cached {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.thread.take().map(JoinHandle::join);
    }
}

#[test]
fn promise_14_an_application_consistent_point_has_what_was_in_the_page_cache() {
    watchdog();
    let site = Site::new();
    let Some(disk) = Disk::with_bytes(BYTES) else { return };
    let Some(mount) = Mount::new(&disk.path, "ext4", &site.at("mnt")) else { return };
    let applications = frozen(&mount);
    let attached = site
        .attach(&disk.path, |options, policy| options.policy(policy).applications(applications));
    let Some(attachment) = attached else { return };
    point_after(|| crash_point(&attachment), || ());
    let cached = Cached::begin(&mount.path.join("cached"));
    wait_until("it writes", || cached.done.load(Ordering::SeqCst) > 10);
    let mut taken = Vec::new();
    for _ in 0..3 {
        let done = || cached.done.load(Ordering::SeqCst);
        let (point, acknowledged) = point_after(|| attachment.mark_app("app"), done);
        assert_eq!((point.kind, &*point.label), (PointKind::App, "app"));
        taken.push((point, acknowledged));
        std::thread::sleep(Duration::from_millis(100));
    }
    let stats = attachment.stats();
    println!("{stats:?}, writers waited for {:?} ms", cached.longest_ms);
    assert_eq!(stats.freezes, 0, "applications are no freeze of the fallback");
    attachment.stop(MINUTE).expect("stop");
    drop(cached);
    drop(mount);
    for (number, (point, acknowledged)) in taken.iter().enumerate() {
        let (mount, _disk) = site.mounted(point, "an application-consistent point");
        let text = std::fs::read_to_string(mount.path.join("cached")).expect("file");
        let last: u64 = text.lines().last().map_or(0, |line| line.parse().expect("a number"));
        assert!(last >= *acknowledged, "point {number}: {last} of {acknowledged}");
    }
}

#[test]
fn promise_14_application_consistent_points_come_by_the_clock() {
    watchdog();
    let site = Site::new();
    let Some(disk) = Disk::with_bytes(BYTES) else { return };
    let Some(mount) = Mount::new(&disk.path, "ext4", &site.at("mnt")) else { return };
    let applications = frozen(&mount);
    let attached = site.attach(&disk.path, |options, policy| {
        let policy = Policy { app_point_interval: Duration::from_secs(1), ..policy };
        options.policy(policy).applications(applications)
    });
    let Some(attachment) = attached else { return };
    wait_until("two points", || attachment.stats().points >= 2);
    attachment.protection().wait_replicated(MINUTE).expect("replicated");
    let points = site.vault.replica("disk").expect("replica").points();
    assert!(points.iter().filter(|point| point.kind == PointKind::App).count() >= 2, "{points:?}");
    attachment.stop(MINUTE).expect("stop");
}

/// Writes the same number to one block and then to another one of a file, with direct I/O, so that a
/// cut with either of them is never clean.
struct Rewriter {
    stopping: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Rewriter {
    fn begin(directory: &Path) -> Self {
        let stopping = Arc::new(AtomicBool::new(false));
        let threads = (0..2)
            .map(|writer| {
                let (path, stopping) = (directory.join(format!("w{writer}")), stopping.clone());
                std::thread::spawn(move || rewrite(&path, &stopping))
            })
            .collect();
        Self { stopping, threads }
    }
}

fn rewrite(path: &Path, stopping: &AtomicBool) {
    let mut options = OpenOptions::new();
    options.create(true).truncate(true).read(true).write(true).custom_flags(libc::O_DIRECT);
    let file = options.open(path).expect("file");
    let mut block = Buffer::zeroed(BLOCK);
    for at in 0..2 {
        file.write_all_at(&block, at * BLOCK as u64).expect("write");
    }
    file.sync_all().expect("sync");
    for number in 1_u64.. {
        if stopping.load(Ordering::Relaxed) {
            return;
        }
        block[..8].copy_from_slice(&number.to_le_bytes());
        for at in 0..2 {
            file.write_all_at(&block, at * BLOCK as u64).expect("write");
        }
    }
}

impl Drop for Rewriter {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

#[test]
fn promise_14_a_load_that_lets_no_cut_be_clean_is_frozen_for_a_moment_or_has_no_point() {
    watchdog();
    let site = Site::new();
    let Some(disk) = Disk::with_bytes(BYTES) else { return };
    let Some(mount) = Mount::new(&disk.path, "ext4", &site.at("mnt")) else { return };
    let freeze_limit = Duration::from_secs(2);
    // One try, and then the freeze.
    let cut_limit = Duration::ZERO;
    let attached = site.attach(&disk.path, |options, policy| {
        options.policy(Policy { cut_limit, freeze_limit, ..policy })
    });
    let Some(attachment) = attached else { return };
    point_after(|| crash_point(&attachment), || ());
    let rewriter = Rewriter::begin(&mount.path);
    let mut taken = Vec::new();
    let begun = Instant::now();
    while attachment.stats().freezes < 3 {
        assert!(begun.elapsed() < MINUTE, "each cut is clean: {:?}", attachment.stats());
        taken.push(point_after(|| crash_point(&attachment), || ()).0);
    }
    println!("{} points, {:?}", taken.len(), attachment.stats());
    attachment.stop(MINUTE).expect("stop");

    // Without a freeze there is an error, or an event for a point of the clock.
    let interval = Duration::from_secs(5);
    let attached = site.attach(&disk.path, |options, policy| {
        let policy = Policy { cut_limit, crash_point_interval: interval, ..policy };
        options.policy(policy)
    });
    let attachment = attached.expect("attach");
    let begun = Instant::now();
    let error = loop {
        match crash_point(&attachment) {
            Err(error) if error.kind() == ErrorKind::Unavailable => break error,
            _ => assert!(begun.elapsed() < MINUTE, "each cut is clean"),
        }
    };
    assert!(error.to_string().contains("rewritten all the time"), "{error}");
    let is_skipped = || {
        let events = site.events.lock();
        events.iter().any(|event| {
            event.kind == EventKind::PointSkipped && event.message.starts_with("no point for ")
        })
    };
    wait_until("a point was due and not made", is_skipped);
    assert_eq!(attachment.stats().freezes, 0);
    assert!(attachment.stats().skipped > 0);
    attachment.stop(MINUTE).expect("stop");
    drop(rewriter);
    drop(mount);
    for (number, point) in taken.iter().enumerate() {
        let (mount, _disk) = site.mounted(point, "a point with a freeze");
        for writer in 0..2 {
            let Ok(bytes) = std::fs::read(mount.path.join(format!("w{writer}"))) else { continue };
            let number_at = |at: usize| {
                let word = bytes.get(at * BLOCK..at * BLOCK + 8);
                word.map_or(0, |word| u64::from_le_bytes(word.try_into().expect("8 bytes")))
            };
            let (first, second) = (number_at(0), number_at(1));
            let is_ordered = first == second || first == second + 1;
            assert!(
                is_ordered,
                "point {number}: {second} is there, and of the first block {first}"
            );
        }
    }
}
