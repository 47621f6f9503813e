//! Cuts across several volumes of one process, by the handle that consistency groups use.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hrl::device::{BlockDevice, Durability, MemoryDevice};
use hrl::journal::PointKind;
use hrl::replica::{At, ViewOptions};
use hrl::store::DirStore;
use hrl::vault::Vault;
use hrl::{
    Clock, ErrorKind, GroupMark, PointId, Policy, Protection, ProtectionOptions, Quiesce,
    QuiesceRequest, Result, SystemClock, VolumeCut,
};

const LIMIT: Duration = Duration::from_secs(60);
const NAMES: [&str; 2] = ["system", "data"];

struct Rig {
    _directory: tempfile::TempDir,
    vault: Vault,
    volumes: Vec<Protection>,
}

impl Rig {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("directory");
        let store = DirStore::create(&directory.path().join("vault")).expect("store");
        let vault = Vault::create(Arc::new(store), None, SystemClock::shared()).expect("vault");
        let policy = Policy {
            segment_interval: Duration::from_millis(50),
            crash_point_interval: Duration::ZERO,
            ..Policy::default()
        };
        let protect = |name: &str| {
            let disk = Arc::new(MemoryDevice::new(1 << 20));
            let state = directory.path().join(name);
            let options = ProtectionOptions::new(name, disk, vault.clone(), state);
            let protection = options.policy(policy.clone()).open().expect("protect");
            protection.wait_ordered(LIMIT).expect("ordered");
            protection
        };
        let volumes = NAMES.map(protect).into();
        Self { _directory: directory, vault, volumes }
    }

    fn cuts(&self) -> Vec<VolumeCut> {
        self.volumes.iter().map(Protection::cut).collect()
    }
}

/// Ends the writer even if the test fails in between, because its scope waits for it.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn new_id() -> PointId {
    let clock = SystemClock::default();
    let mut random = [0; 10];
    clock.fill_random(&mut random);
    PointId::of_group(clock.now(), random)
}

#[test]
fn promise_7_a_cut_of_one_process_is_a_point_of_the_group() {
    let rig = Rig::new();
    let (ends, written) = (AtomicBool::new(false), AtomicU32::new(0));
    let id = new_id();
    let marks: Vec<GroupMark> = std::thread::scope(|scope| {
        let _stop = Stop(&ends);
        // Each number goes to the first volume, and to the second once the first has acknowledged
        // it.
        scope.spawn(|| {
            while !ends.load(Ordering::Relaxed) {
                let number = (written.load(Ordering::Relaxed) + 1).to_le_bytes();
                for volume in &rig.volumes {
                    volume
                        .volume()
                        .write(0, &number.repeat(128), Durability::Cached)
                        .expect("write");
                }
                written.fetch_add(1, Ordering::Relaxed);
            }
        });
        while written.load(Ordering::Relaxed) < 10 {
            std::thread::sleep(Duration::from_millis(1));
        }
        let cuts = rig.cuts();
        cuts.iter().for_each(|cut| cut.raise_barrier(LIMIT).expect("barrier"));
        let before = written.load(Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(20));
        assert!(written.load(Ordering::Relaxed) <= before + 1, "the writer waits");
        let again = cuts[0].raise_barrier(LIMIT).expect_err("it is up");
        assert_eq!(again.kind(), ErrorKind::AlreadyExists);
        let mark = |cut: &VolumeCut| cut.mark(id, PointKind::GroupCrash, "both").expect("mark");
        let marks: Vec<_> = cuts.iter().map(mark).collect();
        for cut in &cuts {
            assert!(cut.lift_barrier().expect("it was up") >= Duration::from_millis(20));
            assert_eq!(cut.lift_barrier(), None);
        }
        for (cut, mark) in cuts.iter().zip(&marks) {
            cut.wait_durable(mark.point).expect("durable");
        }
        for cut in &cuts {
            cut.commit(id, PointKind::GroupCrash, "machine", 2).expect("commit");
        }
        marks
    });
    for volume in &rig.volumes {
        volume.wait_replicated(LIMIT).expect("replicated");
    }
    let points = rig.vault.group_points().expect("list").points;
    let [point] = points.as_slice() else { panic!("one point: {points:?}") };
    assert_eq!((point.id, point.group.as_str(), point.members), (id, "machine", 2));
    let sorted = |mut marks: Vec<GroupMark>| {
        marks.sort_by(|a, b| a.volume.cmp(&b.volume));
        marks
    };
    assert_eq!(sorted(point.marks.clone()), sorted(marks));
    let number = |name: &str| {
        let replica = rig.vault.replica(name).expect("replica");
        let view = replica.view(&At::Point(id), &ViewOptions::default()).expect("view");
        let mut number = [0; 4];
        view.read(0, &mut number).expect("read");
        u32::from_le_bytes(number)
    };
    let (system, data) = (number("system"), number("data"));
    assert!(system == data || system == data + 1, "{data} without its cause {system}");
    rig.volumes.into_iter().for_each(|volume| volume.stop(LIMIT).expect("stop"));
}

/// Records what it is asked.
#[derive(Default)]
struct App(Mutex<Vec<&'static str>>);

impl Quiesce for App {
    fn name(&self) -> String {
        "app".into()
    }
    fn quiesce(&self, _: &QuiesceRequest) -> Result<()> {
        self.0.lock().expect("lock").push("quiesce");
        Ok(())
    }
    fn release(&self) -> Result<()> {
        self.0.lock().expect("lock").push("release");
        Ok(())
    }
}

#[test]
fn promise_6_what_a_cut_that_fails_barred_and_quiesced_goes_on() {
    let rig = Rig::new();
    let app = Arc::new(App::default());
    let cut = rig.volumes[0].cut().applications(app.clone());
    let mark = |kind, label: &str| cut.mark(new_id(), kind, label);
    let early = mark(PointKind::GroupCrash, "").expect_err("no barrier");
    assert_eq!(early.kind(), ErrorKind::Unavailable);
    cut.raise_barrier(Duration::from_millis(5)).expect("barrier");
    assert_eq!(mark(PointKind::App, "").expect_err("kind").kind(), ErrorKind::InvalidInput);
    let long = "x".repeat(256);
    assert_eq!(
        mark(PointKind::GroupCrash, &long).expect_err("label").kind(),
        ErrorKind::InvalidInput
    );
    std::thread::sleep(Duration::from_millis(10));
    let late = mark(PointKind::GroupCrash, "").expect_err("the barrier is over");
    assert_eq!(late.kind(), ErrorKind::Unavailable);
    cut.lift_barrier();
    cut.release().expect("nothing is quiesced");
    assert!(app.0.lock().expect("lock").is_empty());

    cut.quiesce(LIMIT).expect("quiesce");
    cut.raise_barrier(LIMIT).expect("barrier");
    drop(cut);
    assert_eq!(*app.0.lock().expect("lock"), ["quiesce", "release"]);
    rig.volumes[0].volume().write(0, &[1; 512], Durability::Cached).expect("the barrier is lifted");
}
