//! Disks that are attached together: a point of all is one cut, however their writes depend on one
//! another, and whoever comes or goes.
//!
//! Needs root, loop devices and BPF; without them the tests say so and pass.
#![allow(clippy::disallowed_methods, reason = "real disks take real time")]

mod parts;

use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use hrl::device::{BlockDevice, Buffer};
use hrl::journal::PointKind;
use hrl::replica::{At, RecoveryPoint, ViewOptions};
use hrl::store::DirStore;
use hrl::sync::lock::Mutex;
use hrl::vault::Vault;
use hrl::{Cause, ErrorKind, Event, EventKind, Policy, SystemClock};
use hrl_attach::{Attachment, AttachmentOptions};

use parts::mounted::{crash_point, is_lacking, point_after};
use parts::{Disk, setting};

const MINUTE: Duration = Duration::from_secs(60);
const BLOCK: u64 = 4096;
/// Blocks that a writer goes round in, on each disk.
const ROUND: u64 = 1301;
const WRITERS: u64 = 3;

struct Site {
    home: tempfile::TempDir,
    vault: Vault,
    events: Arc<Mutex<Vec<Event>>>,
}

impl Site {
    fn new() -> Self {
        let home = tempfile::tempdir().expect("directory");
        let store = Arc::new(DirStore::create(&home.path().join("vault")).expect("store"));
        let vault = Vault::create(store, None, SystemClock::shared()).expect("vault");
        Self { home, vault, events: Arc::default() }
    }

    fn state(&self, number: usize) -> PathBuf {
        self.home.path().join(format!("state{number}"))
    }

    fn options(&self, disk: &Disk, number: usize) -> AttachmentOptions {
        let policy =
            Policy { crash_point_interval: Duration::ZERO, retention: None, ..Policy::default() };
        let (events, name) = (self.events.clone(), format!("disk{number}"));
        AttachmentOptions::new(&name, &disk.path, self.vault.clone(), self.state(number))
            .policy(policy)
            .events(Arc::new(move |event| events.lock().push(event.clone())))
    }

    /// Attaches disks together; `None` where there is no BPF.
    fn attach(&self, disks: &[&Disk]) -> Option<Vec<Attachment>> {
        let options = disks.iter().enumerate().map(|(number, disk)| self.options(disk, number));
        match AttachmentOptions::open_together("shop", options.collect()) {
            Ok(attachments) => Some(attachments),
            Err(error) if is_lacking(&error) => {
                eprintln!("not run: {error}");
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn compared(&self) -> usize {
        let is_whole = |event: &&Event| {
            matches!(event.kind, EventKind::ResyncStarted { cause: Cause::Untracked, .. })
                && event.message.starts_with("the whole disk")
        };
        self.events.lock().iter().filter(is_whole).count()
    }

    /// Returns what a volume has at a point of the group.
    fn copy_at(&self, number: usize, point: &RecoveryPoint, disk: &Disk) -> Vec<u8> {
        let replica = self.vault.replica(&format!("disk{number}")).expect("replica");
        let of_group = |other: &&RecoveryPoint| other.group == point.group;
        let points = replica.points();
        let own = points.iter().find(of_group).expect("a point of each volume");
        let view = replica.view(&At::Point(own.id), &ViewOptions::default()).expect("view");
        let mut copy = vec![0; disk.bytes() as usize];
        view.read(0, &mut copy).expect("read");
        copy
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        for number in 0..3 {
            let _ = Attachment::detach(&self.state(number));
        }
    }
}

fn stop(attachments: Vec<Attachment>) {
    attachments.into_iter().for_each(|one| one.stop(MINUTE).expect("stop"));
}

/// Writers of which each writes a number to the next block of one disk, then to that of the next disk.
struct Chain {
    stopping: Arc<AtomicBool>,
    done: Arc<Vec<AtomicU64>>,
    threads: Vec<JoinHandle<()>>,
}

impl Chain {
    fn begin(disks: &[&Disk]) -> Self {
        let stopping = Arc::new(AtomicBool::new(false));
        let done: Arc<Vec<_>> = Arc::new((0..WRITERS).map(|_| AtomicU64::new(0)).collect());
        let threads = (0..WRITERS)
            .map(|writer| {
                let paths: Vec<PathBuf> = disks.iter().map(|disk| disk.path.clone()).collect();
                let (stopping, done) = (stopping.clone(), done.clone());
                std::thread::spawn(move || write_on(&paths, writer, &stopping, &done))
            })
            .collect();
        Self { stopping, done, threads }
    }

    fn done(&self) -> Vec<u64> {
        self.done.iter().map(|number| number.load(Ordering::SeqCst)).collect()
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

fn write_on(paths: &[PathBuf], writer: u64, stopping: &AtomicBool, done: &[AtomicU64]) {
    let open = |path: &PathBuf| {
        let mut options = std::fs::OpenOptions::new();
        options.read(true).write(true).custom_flags(libc::O_DIRECT).open(path).expect("open")
    };
    let files: Vec<_> = paths.iter().map(open).collect();
    let mut block = Buffer::zeroed(BLOCK as usize);
    for number in 1_u64.. {
        if stopping.load(Ordering::Relaxed) {
            return;
        }
        block[..8].copy_from_slice(&number.to_le_bytes());
        for file in &files {
            let at = writer * ROUND + number % ROUND;
            file.write_all_at(&block, at * BLOCK).expect("write");
        }
        done[writer as usize].store(number, Ordering::SeqCst);
        std::thread::sleep(Duration::from_micros(300));
    }
}

/// Returns the newest number of a writer in a copy, all of whose older numbers are there.
fn newest_in(copy: &[u8], writer: u64, what: &str) -> u64 {
    let number_at = |at: u64| {
        let start = ((writer * ROUND + at) * BLOCK) as usize;
        u64::from_le_bytes(copy[start..start + 8].try_into().expect("8 bytes"))
    };
    let newest = (0..ROUND).map(number_at).max().expect("numbers");
    for number in newest.saturating_sub(ROUND - 1).max(1)..=newest {
        assert_eq!(number_at(number % ROUND), number, "{what}: of writer {writer}, up to {newest}");
    }
    newest
}

fn check(site: &Site, disks: &[&Disk], point: &RecoveryPoint, done: &[u64], what: &str) {
    let numbers = 0..disks.len();
    let copies: Vec<_> = numbers.map(|at| site.copy_at(at, point, disks[at])).collect();
    for writer in 0..WRITERS {
        let newest: Vec<u64> = copies.iter().map(|copy| newest_in(copy, writer, what)).collect();
        let is_causal = newest.windows(2).all(|two| two[0] >= two[1])
            && newest.last().is_some_and(|last| newest[0] <= last + 1);
        assert!(is_causal, "{what}: writer {writer}: {newest:?}");
        assert!(newest.last() >= Some(&done[writer as usize]), "{what}: {newest:?}, {done:?}");
    }
}

#[test]
fn promise_14_no_disk_of_a_cut_has_a_write_whose_cause_another_one_lacks() {
    let (Some(a), Some(b), Some(c)) = (Disk::new(), Disk::new(), Disk::new()) else { return };
    let (disks, site) = ([&a, &b, &c], Site::new());
    let chain = Chain::begin(&disks);
    let Some(attachments) = site.attach(&disks) else { return };
    let mut taken = Vec::new();
    for number in 0..setting("HRL_ATTACH_POINTS", 20) {
        // Any of them makes the points of all.
        let own = &attachments[number as usize % attachments.len()];
        taken.push(point_after(|| crash_point(own), || chain.done()));
    }
    let stats: Vec<_> = attachments.iter().map(Attachment::stats).collect();
    println!("{} points, {stats:?}, {:?} writes", taken.len(), chain.done());
    stop(attachments);
    drop(chain);
    for (number, (point, done)) in taken.iter().enumerate() {
        assert_eq!(point.kind, PointKind::GroupCrash);
        check(&site, &disks, point, done, &format!("point {number}"));
    }
    let listed = site.vault.group_points().expect("points of groups");
    let of_group =
        listed.points.iter().filter(|point| point.group == "shop" && point.is_complete());
    assert!(of_group.count() >= taken.len(), "{listed:?}");
}

#[test]
fn promise_14_marks_are_kept_when_others_are_attached_together_than_before() {
    let (Some(a), Some(b)) = (Disk::new(), Disk::new()) else { return };
    let (disks, site) = ([&a, &b], Site::new());
    let chain = Chain::begin(&disks);
    // Alone, together, killed, together, alone: each with what was written meanwhile.
    let Some(alone) = site.attach(&[&a]) else { return };
    let (point, ()) = point_after(|| crash_point(&alone[0]), || ());
    assert_eq!((point.kind, point.group), (PointKind::Crash, None));
    stop(alone);
    let pause = || std::thread::sleep(Duration::from_millis(50));
    pause();
    let together = site.attach(&disks).expect("attach");
    let (first, done) = point_after(|| crash_point(&together[0]), || chain.done());
    drop(together);
    pause();
    let together = site.attach(&disks).expect("attach");
    let (second, done_then) = point_after(|| crash_point(&together[1]), || chain.done());
    assert!(together.iter().all(|one| one.stats().pinned));
    let error = together[0].mark(PointKind::GroupApp, "").expect_err("kinds that others make");
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    stop(together);
    pause();
    let alone = site.attach(&[&a]).expect("attach");
    let (last, ()) = point_after(|| crash_point(&alone[0]), || ());
    drop(chain);
    let (still, ()) = point_after(|| crash_point(&alone[0]), || ());
    stop(alone);
    check(&site, &disks, &first, &done, "together");
    check(&site, &disks, &second, &done_then, "again");
    assert!(last.sequence < still.sequence);
    let replica = site.vault.replica("disk0").expect("replica");
    let view = replica.view(&At::Point(still.id), &ViewOptions::default()).expect("view");
    let mut copy = vec![0; a.bytes() as usize];
    view.read(0, &mut copy).expect("read");
    assert!(copy == a.content(), "alone again");
    assert_eq!(site.compared(), 0, "{:?}", site.events.lock());
}

#[test]
fn what_cannot_be_cut_together_is_refused() {
    let (Some(a), Some(b)) = (Disk::new(), Disk::new()) else { return };
    let site = Site::new();
    let refused = |options: Vec<AttachmentOptions>, expected: &str| {
        let Err(error) = AttachmentOptions::open_together("shop", options) else {
            panic!("{expected}");
        };
        if is_lacking(&error) {
            return eprintln!("not run: {error}");
        }
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    };
    refused(Vec::new(), "one at least");
    let other = Policy { cut_limit: Duration::from_secs(3), ..Policy::default() };
    let own = site.options(&a, 0).policy(Policy::default());
    refused(vec![own, site.options(&b, 1).policy(other)], "cut_limit");
    refused(vec![site.options(&a, 0), site.options(&b, 0)], "a state directory of its own");
    refused(vec![site.options(&a, 0), site.options(&a, 1)], "another disk");
    assert!(!Path::new(&site.state(0)).exists(), "nothing was begun");
}
