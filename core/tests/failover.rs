//! Failover, there and home again, by the public API: fencing, branches, planned hand-over, only
//! differences copied, crashes anywhere.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hrl::device::{BlockDevice, Durability, MemoryDevice, Unmap};
use hrl::failover::{FailedOver, FailoverOptions, Follower, abandon, begin_test, cancel, end_test};
use hrl::journal::{PointKind, WrappingKey};
use hrl::replica::{At, CompactOptions, Replica, ViewOptions};
use hrl::store::{DirStore, FaultStore, Store};
use hrl::testing::{content, until};
use hrl::vault::{PinUntil, Stage, StepKind, Vault};
use hrl::{
    Epoch, ErrorKind, Extent, ManualClock, Mode, Policy, Protection, ProtectionOptions,
    RetentionPolicy, Sequence, SystemClock,
};

const LIMIT: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;
const SIZE: u64 = 16 * MIB;
const BLOCK: u64 = 4096;

/// Two sites and the vault between them.
struct World {
    directory: tempfile::TempDir,
    store: Arc<dyn Store>,
    vault: Vault,
    home: Arc<MemoryDevice>,
    away: Arc<MemoryDevice>,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("directory");
        let store: Arc<dyn Store> =
            Arc::new(DirStore::create(&directory.path().join("vault")).expect("store"));
        Self::on(directory, store)
    }

    fn on(directory: tempfile::TempDir, store: Arc<dyn Store>) -> Self {
        let key = WrappingKey::from_bytes([7; 32]);
        let vault = Vault::create(store.clone(), Some(key), SystemClock::shared()).expect("vault");
        let (home, away) = (Arc::new(MemoryDevice::new(SIZE)), Arc::new(MemoryDevice::new(SIZE)));
        Self { directory, store, vault, home, away }
    }

    fn state(&self, site: &str) -> PathBuf {
        self.directory.path().join(site)
    }

    fn protect(&self, disk: &Arc<MemoryDevice>, site: &str) -> hrl::Result<Protection> {
        ProtectionOptions::new("disk", disk.clone(), self.vault.clone(), self.state(site))
            .policy(policy())
            .open()
    }

    /// Starts the source, ordered and with known content.
    fn source(&self) -> Protection {
        self.home.write(SIZE - MIB, &[3; 70_000], Durability::Cached).expect("content from before");
        let source = self.protect(&self.home, "home").expect("protect");
        source.wait_ordered(LIMIT).expect("ordered");
        source
    }

    fn failover(&self, at: At) -> FailoverOptions {
        FailoverOptions::new("disk", self.vault.clone(), self.state("away"), self.away.clone())
            .policy(policy())
            .disk_reads_zero(true)
            .at(at)
    }

    fn replica(&self) -> Replica {
        self.vault.replica("disk").expect("replica")
    }

    fn stage(&self) -> Stage {
        self.replica().catalog().lifecycle().stage()
    }

    fn follow(&self, site: &str, disk: &Arc<MemoryDevice>) -> hrl::Result<Follower> {
        let clock = SystemClock::shared();
        Follower::open("disk", self.vault.clone(), self.state(site), disk.clone(), clock)
    }
}

fn policy() -> Policy {
    Policy {
        segment_interval: Duration::from_millis(20),
        region_bytes: 64 << 10,
        crash_point_interval: Duration::ZERO,
        failover_poll_interval: Duration::from_millis(50),
        retry_interval_max: Duration::from_millis(200),
        ..Policy::default()
    }
}

fn write(volume: &dyn BlockDevice, block: u64, tag: u8) {
    volume.write(block * BLOCK, &[tag; BLOCK as usize], Durability::Cached).expect("write");
}

fn seen(replica: &Replica, at: &At) -> Vec<u8> {
    content(&replica.view(at, &ViewOptions::default()).expect("view"))
}

fn blank(disk: &MemoryDevice) {
    let whole = Extent { offset: 0, length: disk.size_bytes() };
    disk.zero(whole, Unmap::Allowed, Durability::Cached).expect("zero");
}

fn all(_: u64, _: u64) -> bool {
    true
}

#[test]
fn promise_9_a_volume_fails_over_and_its_old_source_is_fenced_with_its_late_writes_on_a_branch() {
    let world = World::new();
    let source = world.source();
    for block in 0..64 {
        write(&**source.volume(), block, 1);
    }
    let point = source.mark(PointKind::Crash, "good").expect("mark");
    let at_point = content(&*world.home);
    for block in 32..48 {
        write(&**source.volume(), block, 2);
    }
    source.wait_replicated(LIMIT).expect("replicated");

    let over = world.failover(At::Point(point.id)).start().expect("fail over");
    assert_eq!((over.started().sequence, over.started().point), (point.sequence, Some(point.id)));
    assert_eq!(world.stage(), Stage::FailedOver);
    assert!(content(&**over.volume()) == at_point, "the volume as of the point");
    write(&**over.volume(), 100, 9);
    // Nothing is final: the source continues, and its points still count.
    write(&**source.volume(), 48, 3);
    source.wait_replicated(LIMIT).expect("replicated before the commit");
    assert!(!source.stats().fenced);

    over.commit().expect("commit");
    over.commit().expect("committing again is no error");
    over.wait_hydrated(LIMIT).expect("hydrated");
    assert_eq!(world.stage(), Stage::Committed);
    // Split brain: the old source still writes.
    write(&**source.volume(), 49, 4);
    until(LIMIT, "the fence", || source.stats().fenced);
    over.protection().wait_replicated(LIMIT).expect("replicated");
    until(LIMIT, "the branch", || {
        let replica = world.replica();
        let branch = replica.catalog().branch(Epoch(1)).expect("branch").clone();
        let branch_end = At::Sequence(branch.last_sequence());
        seen(&replica.branch(Epoch(1)).expect("branch"), &branch_end) == content(&*world.home)
    });
    assert_eq!(
        source.mark(PointKind::Crash, "late").expect_err("fenced").kind(),
        ErrorKind::Fenced
    );
    drop(source);

    // The disk becomes a plain one, and its agent continues with it without reading it.
    let not_whole = world.protect(&world.away, "away").err().expect("is not whole");
    assert!(matches!(not_whole.kind(), ErrorKind::Fenced | ErrorKind::InvalidInput), "{not_whole}");
    let shown = content(&**over.volume());
    over.detach(LIMIT).expect("detach");
    assert!(content(&*world.away) == shown);
    let over = world.protect(&world.away, "away").expect("protect the plain disk");
    assert_eq!((over.stats().resync_bytes_left, over.stats().provisional), (0, false));

    let replica = world.replica();
    assert_eq!(replica.catalog().epoch(), Epoch(2));
    assert!(
        seen(&replica, &At::Newest) == content(&**over.volume()),
        "the replica is the new site's"
    );
    assert!(seen(&replica, &At::Point(point.id)) == at_point, "the point stays");
    assert!(replica.verify(&all).expect("verify").is_sound());
    let again = world.protect(&world.home, "home").err().expect("the old agent is refused");
    assert_eq!(again.kind(), ErrorKind::Fenced);
    assert!(again.to_string().contains("branch of epoch 1"), "{again}");
}

#[test]
fn promise_4_the_disk_at_home_receives_only_what_differs_and_takes_the_volume_back() {
    let world = World::new();
    let source = world.source();
    for block in 0..1024 {
        write(&**source.volume(), block, 1);
    }
    let point = source.mark(PointKind::Crash, "").expect("mark");
    source.wait_replicated(LIMIT).expect("replicated");
    until(LIMIT, "a clean dirty map", || source.stats().marked_regions == 0);
    write(&**source.volume(), 2000, 5);
    // Killed with a write that never left the machine.
    drop(source);
    let over = world.failover(At::Point(point.id)).start().expect("fail over");
    over.commit().expect("commit");
    for block in 10..20 {
        write(&**over.volume(), block, 7);
    }
    over.protection().wait_replicated(LIMIT).expect("replicated");

    let mut follower = world.follow("home", &world.home).expect("follow");
    assert_eq!(follower.why_everywhere(), None);
    let first = follower.catch_up(&At::Newest, &all).expect("catch up");
    let regions = 3 * policy().region_bytes;
    assert!(first.bytes_written <= regions, "{first:?} for 11 blocks in 2 regions");
    follower.record().expect("record");
    assert_eq!(world.stage(), Stage::Reprotected);
    assert!(content(&*world.home) == content(&**over.volume()), "home is as the other site");
    write(&**over.volume(), 11, 8);
    over.protection().wait_replicated(LIMIT).expect("replicated");
    let next = follower.catch_up(&At::Newest, &all).expect("catch up");
    assert_eq!((next.bytes_diverged, next.bytes_written), (0, BLOCK), "{next:?}");
    drop(follower);

    // Home again: the other site hands over its last writes.
    write(&**over.volume(), 12, 6);
    let away = content(&*world.away).len();
    let follower = world.follow("home", &world.home).expect("follow again");
    let (home, moved) =
        follower.fail_back(Some(LIMIT), policy(), hrl::no_events(), &all).expect("fail back");
    assert_eq!((moved.bytes_written, away as u64), (BLOCK, SIZE));
    assert_eq!(world.stage(), Stage::Protected);
    let refused = over.volume().write(0, &[1; 4096], Durability::Cached).expect_err("handed over");
    assert_eq!(refused.kind(), ErrorKind::Fenced, "{refused}");
    assert!(content(&*world.home) == content(&**over.volume()));
    write(&**home.volume(), 13, 5);
    home.wait_replicated(LIMIT).expect("replicated");
    assert!(seen(&world.replica(), &At::Newest) == content(&*world.home));
    let replica = world.replica();
    assert!(replica.catalog().branch(Epoch(2)).expect("branch").is_empty(), "nothing was lost");
    home.stop(LIMIT).expect("stop");
    let home = world.protect(&world.home, "home").expect("the agent goes on at home");
    assert_eq!(home.stats().resync_bytes_left, 0);
}

#[test]
fn promise_4_changes_that_only_the_disk_at_home_has_go_to_the_branch_before_they_are_overwritten() {
    let world = World::new();
    let source = world.source();
    write(&**source.volume(), 1, 1);
    let point = source.mark(PointKind::Crash, "").expect("mark");
    source.wait_replicated(LIMIT).expect("replicated");
    until(LIMIT, "a clean dirty map", || source.stats().marked_regions == 0);
    // Killed between the write to the device and its place in the journal: only the dirty map
    // covers it.
    let tap = source.volume().tap().expect("tap").clone();
    let torn = Extent { offset: 2000 * BLOCK, length: 3 * BLOCK };
    let ticket = tap.begin_blocking(torn).expect("ticket");
    world.home.write(torn.offset, &[5; 3 * BLOCK as usize], Durability::Durable).expect("write");
    drop(source);
    let _ = ticket.into_extent();
    let at_home = content(&*world.home);

    let over = world.failover(At::Point(point.id)).start().expect("fail over");
    over.commit().expect("commit");
    let mut follower = world.follow("home", &world.home).expect("follow");
    assert_eq!(follower.why_everywhere(), None);
    let kept = world.vault.replica("disk@1").expect("branch");
    assert!(seen(&kept, &At::Newest) == at_home, "the end of the branch is the disk at home");
    assert!(kept.catalog().open_unordered().is_none());
    follower.catch_up(&At::Newest, &all).expect("catch up");
    assert!(content(&*world.home) == content(&**over.volume()));
    drop(follower);
    // Opening it again stores nothing twice.
    world.follow("home", &world.home).expect("follow again");
    let again = world.vault.replica("disk@1").expect("branch");
    assert_eq!(again.catalog().last_sequence(), kept.catalog().last_sequence());
}

#[test]
fn a_planned_failover_loses_nothing_and_can_be_cancelled() {
    let world = World::new();
    let source = world.source();
    let volume = source.volume().clone();
    let writer = std::thread::spawn(move || {
        let written = |count: &u64| {
            volume.write(count % 4000 * BLOCK, &[*count as u8; 4096], Durability::Cached).is_ok()
        };
        (0..u64::MAX).take_while(written).count()
    });
    until(LIMIT, "some writes", || source.stats().changes > 100);
    let over = world.failover(At::Newest).planned(LIMIT).start().expect("fail over");
    assert!(writer.join().expect("writer") > 100);
    assert!(content(&**over.volume()) == content(&*world.home), "every write that succeeded");
    assert!(source.stats().handed_over);
    assert_eq!(world.stage(), Stage::FailedOver);
    over.cancel().expect("cancel");
    assert_eq!(world.stage(), Stage::Protected);
    until(LIMIT, "the source takes writes again", || !source.stats().handed_over);
    write(&**source.volume(), 1, 77);
    source.wait_replicated(LIMIT).expect("replicated");
    assert!(seen(&world.replica(), &At::Newest) == content(&*world.home));

    let over = world.failover(At::Newest).planned(LIMIT).start().expect("fail over again");
    over.commit().expect("commit");
    let replica = world.replica();
    assert!(replica.catalog().branch(Epoch(1)).expect("branch").is_empty());
    assert!(seen(&replica, &At::Newest) == content(&*world.home));
}

#[test]
fn a_planned_failover_ends_an_overflow_that_the_writer_keeps_up() {
    let world = World::new();
    let policy = Policy { memory_budget_bytes: MIB, ..policy() };
    let source = ProtectionOptions::new(
        "disk",
        world.home.clone(),
        world.vault.clone(),
        world.state("home"),
    )
    .policy(policy)
    .open()
    .expect("protect");
    source.wait_ordered(LIMIT).expect("ordered");
    source.wait_replicated(LIMIT).expect("replicated");
    let volume = source.volume().clone();
    let writer = std::thread::spawn(move || {
        let written = |count: &u64| {
            let offset = count % 15 * MIB;
            let data = vec![*count as u8; MIB as usize];
            volume.write(offset, &data, Durability::Cached).is_ok()
        };
        (0..u64::MAX).take_while(written).count()
    });
    until(LIMIT, "an overflow", || source.stats().mode != Mode::Ordered);
    let over = world.failover(At::Newest).planned(LIMIT).start().expect("fail over");
    writer.join().expect("writer");
    assert!(content(&**over.volume()) == content(&*world.home), "every write that succeeded");
}

#[test]
fn a_planned_failover_waits_for_a_silent_source_no_longer_than_its_limit() {
    let world = World::new();
    let source = world.source();
    source.mark(PointKind::Crash, "").expect("mark");
    source.wait_replicated(LIMIT).expect("replicated");
    drop(source);
    let planned = world.failover(At::Newest).planned(Duration::from_millis(300)).start();
    let error = planned.err().expect("no source hands over");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert_eq!(world.stage(), Stage::Protected);
    world.failover(At::Newest).start().expect("unplanned").commit().expect("commit");
}

#[test]
fn promise_3_a_recovery_state_inside_a_segment_is_cut_out_and_a_cancelled_failover_leaves_no_trace()
{
    let world = World::new();
    let source = world.source();
    source.wait_replicated(LIMIT).expect("replicated");
    let mut states = Vec::new();
    for tag in 1..40 {
        write(&**source.volume(), u64::from(tag) % 7, tag);
        states.push((source.stats().last_sequence, content(&*world.home)));
    }
    source.mark(PointKind::Crash, "later").expect("mark");
    source.wait_replicated(LIMIT).expect("replicated");
    let (at, expected) = &states[20];
    let inside = |replica: &Replica| {
        replica.catalog().segments().iter().any(|entry| entry.summary.last_sequence == *at)
    };
    let before = world.replica();
    let over = world.failover(At::Sequence(*at)).start().expect("fail over");
    assert!(content(&**over.volume()) == *expected);
    write(&**over.volume(), 3, 99);
    over.cancel().expect("cancel");
    assert_eq!(world.replica().catalog().segments(), before.catalog().segments());
    write(&**source.volume(), 3, 50);
    source.wait_replicated(LIMIT).expect("the source goes on");

    let (at, expected) = &states[30];
    blank(&world.away);
    let over = world.failover(At::Sequence(states[20].0)).start().expect("fail over");
    write(&**over.volume(), 4, 98);
    drop(over);
    blank(&world.away);
    let over = world.failover(At::Sequence(*at)).change_point(true).start().expect("change point");
    assert!(content(&**over.volume()) == *expected, "the other point, without what was written");
    write(&**over.volume(), 5, 97);
    over.commit().expect("commit");
    over.protection().wait_replicated(LIMIT).expect("replicated");
    let replica = world.replica();
    assert!(inside(&replica) || !inside(&before));
    assert!(seen(&replica, &At::Sequence(*at)) == *expected);
    assert!(seen(&replica, &At::Newest) == content(&**over.volume()));
    let branch = replica.branch(Epoch(1)).expect("branch");
    for (sequence, expected) in &states {
        assert!(seen(&branch, &At::Sequence(*sequence)) == *expected, "{sequence} on the branch");
    }
    assert!(replica.verify(&all).expect("verify").is_sound());
    assert!(branch.verify(&all).expect("verify").is_sound());
}

/// Data that is not shipped before the commit is not waited for: a stop once took its whole limit.
#[test]
fn an_uncommitted_failover_stops_at_once_and_goes_on_where_it_was() {
    let world = World::new();
    let source = world.source();
    write(&**source.volume(), 1, 1);
    source.wait_replicated(LIMIT).expect("replicated");
    let clock = SystemClock::shared();
    let over = world.failover(At::Newest).start().expect("fail over");
    write(&**over.volume(), 2, 2);
    let begun = clock.elapsed();
    over.stop(LIMIT).expect("stop");
    assert!(clock.elapsed().saturating_sub(begun) < LIMIT / 4, "it waited for what cannot come");
    let over = world.failover(At::Newest).start().expect("go on");
    let (mut first, mut second) = ([0; 1], [0; 1]);
    over.volume().read(BLOCK, &mut first).expect("read");
    over.volume().read(2 * BLOCK, &mut second).expect("read");
    assert_eq!((first, second), ([1], [2]));
    // Detached now, its writes would be lost when it continues.
    over.wait_hydrated(LIMIT).expect("whole");
    let error = over.detach(LIMIT).expect_err("not committed");
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    let over = world.failover(At::Newest).start().expect("go on again");
    over.volume().read(2 * BLOCK, &mut second).expect("read");
    assert_eq!(second, [2]);
    over.commit().expect("commit");
    over.protection().wait_replicated(LIMIT).expect("replicated");
    assert!(seen(&world.replica(), &At::Newest) == content(&**over.volume()));
}

/// Each request to the vault fails in its turn, and the process "dies" there. Repeating the command
/// must then succeed.
#[test]
fn promise_9_every_step_of_a_failover_can_be_repeated_after_a_crash_at_any_request() {
    let directory = tempfile::tempdir().expect("directory");
    let faulty = Arc::new(FaultStore::new(Arc::new(
        DirStore::create(&directory.path().join("vault")).expect("store"),
    )));
    let world = World::on(directory, faulty.clone());
    let source = world.source();
    for tag in 1..30 {
        write(&**source.volume(), u64::from(tag), tag);
    }
    let expected = content(&*world.home);
    let at = source.stats().last_sequence;
    write(&**source.volume(), 1, 200);
    source.wait_replicated(LIMIT).expect("replicated");
    drop(source);

    let mut over: Option<FailedOver> = None;
    let mut failures = 0;
    for request in 0..500 {
        faulty.fail_after(request);
        let begun = match over.take() {
            Some(over) => Ok(over),
            None => world.failover(At::Sequence(at)).start(),
        };
        let committed = begun.and_then(|over| over.commit().map(|()| over));
        faulty.fail_after(u64::MAX);
        match committed {
            Ok(done) => {
                over = Some(done);
                break;
            }
            Err(error) => {
                failures += 1;
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
            }
        }
    }
    let over = over.expect("committed in the end");
    assert!(failures > 5, "{failures}");
    assert!(content(&**over.volume()) == expected);
    write(&**over.volume(), 2, 201);
    over.protection().wait_replicated(LIMIT).expect("replicated");
    let replica = world.replica();
    assert_eq!((replica.catalog().epoch(), world.stage()), (Epoch(2), Stage::Committed));
    let starts = replica.catalog().lifecycle().steps().iter();
    assert_eq!(starts.filter(|step| step.kind == StepKind::Commit).count(), 1);
    assert!(seen(&replica, &At::Newest) == content(&**over.volume()));
    assert!(replica.verify(&all).expect("verify").is_sound());
}

#[test]
fn promise_9_the_second_of_two_failovers_is_refused() {
    let world = World::new();
    let source = world.source();
    source.mark(PointKind::Crash, "").expect("mark");
    source.wait_replicated(LIMIT).expect("replicated");
    let first = world.failover(At::Newest).start().expect("first");
    let other = FailoverOptions::new(
        "disk",
        world.vault.clone(),
        world.state("third"),
        Arc::new(MemoryDevice::new(SIZE)),
    );
    let error = other.start().err().expect("second");
    assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
    // Cancelled behind its back, the first cannot commit.
    drop(first);
    let clock = SystemClock::shared();
    cancel(&world.vault, "disk", &world.state("third"), &*clock).expect("cancel the second");
    cancel(&world.vault, "disk", &world.state("away"), &*clock).expect("cancel the first");
    assert_eq!(world.stage(), Stage::Protected);
    cancel(&world.vault, "disk", &world.state("away"), &*clock).expect("again");
    let home = world.failover(At::Newest).start().expect("anew");
    home.commit().expect("commit");
    let fenced = world.follow("away", &world.away).err().expect("this agent has the volume");
    assert!(matches!(fenced.kind(), ErrorKind::Fenced | ErrorKind::InvalidInput), "{fenced}");
}

#[test]
fn promise_9_any_site_can_abandon_a_failover_to_a_lost_site() {
    let world = World::new();
    let source = world.source();
    source.mark(PointKind::Crash, "").expect("mark");
    source.wait_replicated(LIMIT).expect("replicated");
    let clock = SystemClock::shared();
    let abandon = || abandon(&world.vault, "disk", &*clock).expect("abandon");
    assert_eq!(abandon(), None, "nothing is under way");
    let lost = world.failover(At::Newest).start().expect("start");
    write(&**lost.volume(), 3, 77);
    let step = abandon().expect("one is under way");
    assert_eq!((step.kind, world.stage()), (StepKind::Start, Stage::Protected));
    assert_eq!(abandon(), None, "once");
    // It was not lost after all.
    assert_eq!(lost.commit().expect_err("given up").kind(), ErrorKind::Fenced);
    drop(lost);
    let third = Arc::new(MemoryDevice::new(SIZE));
    let other = FailoverOptions::new("disk", world.vault.clone(), world.state("third"), third)
        .start()
        .expect("another site");
    assert!(content(&**other.volume()) == content(&*world.home));
    other.commit().expect("commit");
    assert_eq!(abandon(), None, "what was committed stays");
    cancel(&world.vault, "disk", &world.state("away"), &*clock).expect("tidy up");
    assert_eq!(world.stage(), Stage::Committed);
}

#[test]
fn promise_5_retention_keeps_what_branches_and_tests_need_and_a_dropped_branch_is_deleted() {
    let world = World::new();
    let clock = Arc::new(ManualClock::new(SystemClock::shared().now(), 3));
    let vault =
        Vault::open(world.store.clone(), Some(WrappingKey::from_bytes([7; 32])), clock.clone())
            .expect("vault");
    let source = world.source();
    let mut states = Vec::new();
    for tag in 1..30 {
        write(&**source.volume(), u64::from(tag) % 9, tag);
        source.mark(PointKind::Crash, "").expect("mark");
        states.push((source.stats().last_sequence, content(&*world.home)));
    }
    source.wait_replicated(LIMIT).expect("replicated");
    let mut replica = vault.replica("disk").expect("replica");
    let tested = &states[10];
    let test = begin_test(&mut replica, "drill", &At::Sequence(tested.0), &*clock).expect("begin");
    assert_eq!(test.begin.at, tested.0);
    begin_test(&mut replica, "drill", &At::Newest, &*clock).expect("the same test again");
    // A fold ends at a state that stays, and so reaches across the one that is tested.
    replica.pin(&At::Sequence(states[15].0), PinUntil::Forever, "").expect("pin");
    let over = world.failover(At::Sequence(states[20].0)).start().expect("fail over");
    over.commit().expect("commit");
    drop(source);

    let policy: RetentionPolicy = "1s all; 10s daily".parse().expect("policy");
    let policy = RetentionPolicy { grace: Duration::from_secs(1), ..policy };
    clock.advance(Duration::from_secs(90 * 86_400));
    let everything =
        CompactOptions { fold_all: true, accept_clock: true, ..CompactOptions::default() };
    let report = replica.compact(&policy, &everything, &all).expect("compact");
    assert!(report.folds > 0 && !report.lost_race, "nothing else is even tried: {report:?}");
    for (sequence, expected) in [tested, &states[15], &states[20]] {
        assert!(seen(&replica, &At::Sequence(*sequence)) == *expected, "state {sequence} stays");
    }
    let branch = replica.branch(Epoch(1)).expect("branch");
    for (sequence, expected) in &states[21..] {
        assert!(seen(&branch, &At::Sequence(*sequence)) == *expected, "{sequence} on the branch");
    }
    assert!(replica.verify(&all).expect("verify").is_sound());

    end_test(&mut replica, "drill", &*clock).expect("end");
    assert_eq!(
        end_test(&mut replica, "other", &*clock).expect_err("none").kind(),
        ErrorKind::NotFound
    );
    let objects = replica.catalog().branch(Epoch(1)).expect("branch").segments.clone();
    assert!(!objects.is_empty());
    replica.drop_branch(Epoch(1)).expect("drop");
    assert_eq!(replica.branch(Epoch(1)).err().expect("gone").kind(), ErrorKind::NotFound);
    clock.advance(Duration::from_secs(86_400));
    replica.compact(&policy, &everything, &all).expect("compact");
    let left = world.store.list("volumes/disk/segments/").expect("list");
    assert!(objects.iter().all(|gone| left.iter().all(|info| info.name != gone.object)));
    assert!(seen(&replica, &At::Sequence(states[20].0)) == states[20].1);
}

#[test]
fn a_preview_reports_what_a_failover_would_do_and_does_nothing() {
    let world = World::new();
    let source = world.source();
    let point = source.mark(PointKind::Declared, "app").expect("mark");
    write(&**source.volume(), 1, 1);
    source.wait_replicated(LIMIT).expect("replicated");
    let version = world.replica().catalog().version();
    let preview = world.failover(At::NewestGood).preview().expect("preview");
    assert_eq!((preview.point, preview.epoch), (Some(point.id), Epoch(2)));
    assert_eq!(preview.sequence, point.sequence);
    assert!(preview.records_later >= 1 && preview.steps.len() == 2, "{preview:?}");
    assert_eq!(world.replica().catalog().version(), version);
    assert!(!Path::new(&world.state("away")).exists());
    let small = FailoverOptions::new(
        "disk",
        world.vault.clone(),
        world.state("small"),
        Arc::new(MemoryDevice::new(MIB)),
    );
    let error = small.preview().expect_err("too small");
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    assert!(Sequence::ZERO < preview.sequence);
}
