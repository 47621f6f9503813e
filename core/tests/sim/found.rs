//! Faults that the simulation found, each as a test.

use std::path::Path;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use hrl::device::{BlockDevice, Discarded, Durability, Files, Unmap};
use hrl::journal::PointKind;
use hrl::replica::{At, CompactOptions, Replica, ViewOptions};
use hrl::vault::Vault;
use hrl::{
    Clock, ErrorKind, EventSink, Extent, Mode, PlacedPoint, Policy, ProtectionOptions,
    RetentionPolicy, Sequence, SteppedProtection, SteppedTask, no_events,
};

use crate::disk::Platter;
use crate::files::{FileSystem, SimFiles};
use crate::store::Server;
use crate::world::{Faults, Incarnation, World};

pub const REGION: u64 = 16 << 10;
pub const BLOCK: Extent = Extent { offset: 4096, length: 4096 };

/// What survives the death of an agent.
pub struct Machine {
    pub world: std::rc::Rc<World>,
    pub files: Arc<FileSystem>,
    pub platter: Arc<Platter>,
    pub server: Arc<Server>,
}

/// An agent whose tasks step in turns, without any fault except the test's own.
pub struct Agent {
    pub protection: SteppedProtection,
    pub tasks: Vec<SteppedTask>,
    pub files: Arc<SimFiles>,
    pub world: std::rc::Rc<World>,
}

impl Machine {
    pub fn new() -> Self {
        let server = Arc::new(Server::default());
        server.set_content("hrl-vault", b"hrl vault 1\n".as_slice().into());
        let platter = Platter::new(4 * REGION, Discarded::Zeroes);
        Self { world: World::enter(1, false), files: FileSystem::new(), platter, server }
    }

    /// Returns another machine at the same vault.
    pub fn beside(&self) -> Self {
        let (files, platter) = (FileSystem::new(), Platter::new(4 * REGION, Discarded::Zeroes));
        Self { world: self.world.clone(), files, platter, server: self.server.clone() }
    }

    pub fn start(&self) -> Agent {
        self.open(false).expect("open")
    }

    fn open(&self, take_over: bool) -> hrl::Result<Agent> {
        self.open_with(policy(), take_over)
    }

    pub fn open_with(&self, policy: Policy, take_over: bool) -> hrl::Result<Agent> {
        self.open_reporting(policy, take_over, no_events())
    }

    pub fn open_reporting(
        &self,
        policy: Policy,
        take_over: bool,
        events: EventSink,
    ) -> hrl::Result<Agent> {
        let machine = Incarnation::start();
        let files = self.files.mount(&machine);
        let store = self.server.connect(&machine, Some(files.clone()));
        let clock: Arc<dyn Clock> = self.world.clock.clone();
        let vault = Vault::open(store, None, clock.clone()).expect("vault");
        let options =
            ProtectionOptions::new("disk", self.platter.attach(&machine, false), vault, "/state")
                .policy(policy)
                .clock(clock)
                .take_over(take_over)
                .events(events)
                .files(files.clone());
        let mut protection = SteppedProtection::open(options)?;
        let (tasks, world) = (protection.take_tasks(), self.world.clone());
        Ok(Agent { protection, tasks, files, world })
    }

    /// The agent dies; what it wrote stays.
    pub fn kill(&self, agent: Agent) {
        drop(agent);
        self.files.killed();
    }

    /// A point that is durable once the volume is ordered survives a kill.
    fn check_that_a_point_stays(&self, mut agent: Agent) {
        agent.run(|protection| protection.stats().mode == Mode::Ordered);
        let placed = agent.protection.place(PointKind::Crash, "").expect("in order");
        let sequence = agent.confirmed(&placed);
        self.kill(agent);
        let mut agent = self.start();
        agent.settle();
        let points = self.replica().points();
        assert!(points.iter().any(|p| p.id == placed.id() && p.sequence == sequence));
    }

    pub fn replica(&self) -> Replica {
        let clock: Arc<dyn Clock> = self.world.clock.clone();
        let vault = Vault::open(self.server.clear_sight(), None, clock).expect("vault");
        vault.replica("disk").expect("replica")
    }

    /// Folds and deletes as much as possible.
    pub fn fold_all(&self) {
        let options = CompactOptions::default();
        self.replica().compact(&keeps_nothing(), &options, &|_, _| true).expect("fold");
    }

    pub fn content(&self, at: &At) -> Vec<u8> {
        let view = self.replica().view(at, &ViewOptions::default()).expect("view");
        let mut bytes = vec![0; view.size_bytes() as usize];
        view.read(0, &mut bytes).expect("read");
        bytes
    }
}

impl Agent {
    pub fn step(&mut self, name: &str) {
        let task = self.tasks.iter_mut().find(|task| task.name() == name).expect("a task");
        task.step();
    }

    pub fn run(&mut self, until: impl Fn(&SteppedProtection) -> bool) {
        for _ in 0..2000 {
            if until(&self.protection) {
                return;
            }
            self.tasks.iter_mut().for_each(|task| {
                task.step();
            });
            self.world.clock.advance(Duration::from_millis(5));
        }
        panic!("it does not come to its end: {:?}", self.protection.stats());
    }

    pub fn settle(&mut self) {
        self.run(|protection| {
            let stats = protection.stats();
            stats.mode == Mode::Ordered && stats.replicated_sequence == stats.last_sequence
        });
    }

    /// Writes once the region is set dirty.
    pub fn write(&mut self, extent: Extent, byte: u8) {
        let volume = self.protection.volume().clone();
        let tap = volume.tap().expect("it is protected");
        loop {
            match tap.begin(extent, Waker::noop()) {
                Poll::Ready(ticket) => break tap.cancel(ticket.expect("within the volume")),
                Poll::Pending => self.step("keeper"),
            }
        }
        match byte {
            0 => volume.zero(extent, Unmap::Allowed, Durability::Cached).expect("zero"),
            _ => volume
                .write(extent.offset, &vec![byte; extent.length as usize], Durability::Cached)
                .expect("write"),
        }
    }

    fn spooled(&self) -> usize {
        let files = self.files.list(Path::new("/state/spool")).expect("list");
        files.iter().filter(|path| path.extension().is_some_and(|e| e == "hrl")).count()
    }

    fn confirmed(&mut self, placed: &PlacedPoint) -> Sequence {
        self.run(|protection| protection.outcome(placed).is_some());
        self.protection.outcome(placed).expect("just asked").expect("durable").sequence
    }
}

pub fn policy() -> Policy {
    Policy {
        region_bytes: REGION,
        segment_interval: Duration::from_millis(20),
        retention: None,
        ..Policy::default()
    }
}

/// A policy that keeps almost nothing.
pub fn keeps_nothing() -> RetentionPolicy {
    let (full, bytes_max) = (Duration::ZERO, Some(1));
    RetentionPolicy { full, bytes_max, thinning: Vec::new(), ..Default::default() }
}

/// Leaves an agent in the middle of a resync after a crash. A block is journaled that the replica
/// had as zeroes before.
fn in_the_middle_of_a_resync(machine: &Machine) -> Agent {
    let mut agent = machine.start();
    agent.settle();
    agent.write(BLOCK, 7);
    machine.kill(agent);
    let mut agent = machine.start();
    agent.write(Extent { offset: 3 * REGION, length: 512 }, 1);
    for _ in 0..3 {
        agent.step("resync");
    }
    assert_eq!(agent.protection.stats().mode, Mode::Resync);
    agent
}

#[test]
fn promise_3_a_resync_requested_within_a_resync_uses_no_stale_content() {
    let machine = Machine::new();
    let mut agent = in_the_middle_of_a_resync(&machine);
    agent.protection.resync().expect("resync");
    // As the replica had it when the agent started, not as it has it now.
    agent.write(BLOCK, 0);
    agent.settle();
    assert_eq!(machine.content(&At::Newest), machine.platter.peek());
}

#[test]
fn promise_3_writes_to_a_region_that_waits_for_its_resync_are_left_to_it() {
    let machine = Machine::new();
    let mut agent = machine.start();
    agent.settle();
    let waits = Extent { offset: 3 * REGION, length: 512 };
    agent.write(waits, 1);
    machine.kill(agent);
    let policy = Policy { memory_budget_bytes: 4 * REGION, ..policy() };
    let mut agent = machine.open_with(policy, false).expect("open");
    agent.step("resync");
    agent.step("resync");
    // If it were journaled and the second change not, the disk would be what the replica had at the
    // start, and equal to it.
    agent.write(waits, 5);
    for byte in 1..5 {
        agent.write(Extent { offset: 0, length: REGION }, byte);
    }
    let stats = agent.protection.stats();
    assert!(stats.mode == Mode::Resync && stats.resync_bytes_left > 0, "{stats:?}");
    agent.write(waits, 0);
    agent.settle();
    assert_eq!(machine.content(&At::Newest), machine.platter.peek());
}

#[test]
fn promise_3_a_resync_with_a_device_error_in_it_uses_no_stale_content() {
    let machine = Machine::new();
    let mut agent = in_the_middle_of_a_resync(&machine);
    agent.protection.volume().device().zero(BLOCK, Unmap::Allowed, Durability::Cached).expect("z");
    let volume = agent.protection.volume().clone();
    let tap = volume.tap().expect("it is protected");
    let Poll::Ready(Ok(ticket)) = tap.begin(BLOCK, Waker::noop()) else {
        panic!("the region is marked and nothing is in flight");
    };
    tap.fail(ticket);
    agent.settle();
    assert_eq!(machine.content(&At::Newest), machine.platter.peek());
}

#[test]
fn promise_4_a_failed_start_that_put_a_segment_aside_hides_no_change() {
    let machine = Machine::new();
    let mut agent = machine.start();
    agent.settle();
    machine.server.set_down(true);
    agent.write(BLOCK, 7);
    // Only a closed segment contains it, and no dirty region covers it.
    agent.run(|protection| {
        let stats = protection.stats();
        stats.marked_regions == 0 && stats.journaled_sequence == stats.last_sequence
    });
    assert_eq!(agent.spooled(), 1);
    machine.kill(agent);
    machine.server.set_down(false);
    while !machine.files.rot(&machine.world.random, Path::new("/state/spool")) {}
    machine.files.set_room(machine.files.bytes() + 1024);
    let first = machine.open(false);
    machine.files.set_room(usize::MAX);
    let mut agent = first.unwrap_or_else(|_| {
        machine.files.killed();
        machine.start()
    });
    agent.settle();
    assert!(machine.content(&At::Newest) == machine.platter.peek(), "something is missing");
}

/// By then its sequences had been given to others, which the next start put aside, points included.
#[test]
fn promise_4_a_late_version_that_lists_a_segment_put_aside_does_no_harm() {
    let machine = Machine::new();
    let mut agent = machine.start();
    agent.settle();
    agent.write(BLOCK, 7);
    machine.server.delay(Some("/catalog/"));
    agent.run(|protection| {
        let stats = protection.stats();
        stats.journaled_sequence == stats.last_sequence && !stats.vault_available
    });
    machine.kill(agent);
    machine.server.delay(None);
    while !machine.files.rot(&machine.world.random, Path::new("/state/spool")) {}
    let agent = machine.start();
    machine.server.deliver(Duration::ZERO, true);
    machine.check_that_a_point_stays(agent);
    assert_eq!(machine.content(&At::Newest), machine.platter.peek());
}

/// Shipping stopped: a late version named a segment that was folded and deleted before its source
/// looked.
#[test]
fn promise_4_a_segment_of_a_late_version_may_be_folded_before_its_source_looks() {
    for forgotten in [false, true] {
        let machine = Machine::new();
        let mut agent = machine.start();
        agent.settle();
        machine.server.delay(Some("/catalog/"));
        for byte in 1..6 {
            agent.write(BLOCK, byte);
            agent.step("journal");
            agent.world.clock.advance(Duration::from_secs(1));
            agent.step("journal");
        }
        agent.step("ship");
        machine.server.delay(None);
        machine.server.deliver(Duration::ZERO, true);
        let named = machine.replica().catalog().segments().len();
        for _ in 0..=u32::from(forgotten) {
            machine.world.clock.advance(Duration::from_secs(7200));
            machine.fold_all();
        }
        assert!(named >= 5 && machine.replica().catalog().segments().len() < named);
        assert_eq!(machine.replica().catalog().retired().is_empty(), forgotten);
        assert!(agent.spooled() >= 5, "it does not know");
        agent.write(BLOCK, 9);
        agent.settle();
        assert_eq!(agent.spooled(), 0);
        machine.check_that_a_point_stays(agent);
        assert_eq!(machine.content(&At::Newest), machine.platter.peek());
    }
}

#[test]
fn promise_4_a_segment_whose_name_was_not_synced_never_takes_the_place_of_its_successor() {
    let machine = Machine::new();
    let mut agent = machine.start();
    agent.settle();
    agent.write(BLOCK, 7);
    agent.world.clock.advance(Duration::from_secs(1));
    agent.world.faults.set(Faults { directory_sync_error: 1, ..Faults::default() });
    agent.step("journal");
    agent.world.faults.set(Faults::default());
    assert_eq!(agent.spooled(), 0, "it counts as lost");
    machine.check_that_a_point_stays(agent);
}

/// A later start offered a point that was reported as lost, and that the start before did not find.
#[test]
fn promise_7_a_segment_that_a_start_does_not_find_does_not_come_back() {
    let machine = Machine::new();
    let mut agent = machine.start();
    agent.settle();
    let placed = agent.protection.place(PointKind::Crash, "").expect("in order");
    agent.world.faults.set(Faults { directory_sync_error: 1, ..Faults::default() });
    agent.step("journal");
    agent.world.faults.set(Faults::default());
    assert!(agent.protection.outcome(&placed).expect("it is decided").is_err());
    machine.kill(agent);
    let comes_back = |files: &FileSystem| {
        (0..64).any(|_| {
            let files = files.copy();
            files.power_failed(&machine.world.random);
            !files.is_empty(Path::new("/state/spool"))
        })
    };
    assert!(comes_back(&machine.files), "its removal is not durable");
    machine.kill(machine.start());
    assert!(!comes_back(&machine.files), "the journal went on without it");
}

#[test]
fn promise_7_there_is_no_recovery_state_before_the_first_record_that_arrived() {
    let machine = Machine::new();
    machine
        .platter
        .attach(&Incarnation::start(), false)
        .write(0, &[9; 512], Durability::Cached)
        .expect("w");
    let mut agent = machine.start();
    machine.files.set_room(machine.files.bytes());
    for _ in 0..3 {
        agent.step("journal");
    }
    machine.files.set_room(usize::MAX);
    agent.step("journal");
    agent.world.clock.advance(Duration::from_secs(1));
    agent.step("journal");
    agent.step("ship");
    let replica = machine.replica();
    assert!(replica.catalog().segments()[0].summary.first_sequence > Sequence(1));
    for at in [At::Newest, At::Sequence(Sequence(1))] {
        let error = replica.resolve(&at).expect_err("the disk was never empty");
        assert!(matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotOrdered), "{error}");
    }
    agent.settle();
    assert_eq!(machine.content(&At::Newest), machine.platter.peek());
}

#[test]
fn promise_4_an_agent_that_takes_a_volume_back_trusts_no_old_dirty_map() {
    let home = Machine::new();
    let away = home.beside();
    let mut agent = home.start();
    agent.write(BLOCK, 7);
    agent.settle();
    // Long enough that no region is dirty any more.
    agent.run(|protection| protection.stats().marked_regions == 0);
    home.kill(agent);
    let mut agent = away.open(true).expect("open");
    agent.write(Extent { offset: 2 * REGION, length: 512 }, 5);
    agent.settle();
    assert_eq!(home.content(&At::Newest), away.platter.peek());
    away.kill(agent);
    let mut agent = home.open(true).expect("open");
    agent.settle();
    assert_eq!(home.content(&At::Newest), home.platter.peek());
}

#[test]
fn promise_7_a_change_that_the_journal_lost_is_in_no_recovery_state() {
    let machine = Machine::new();
    let mut agent = machine.start();
    agent.settle();
    let durable = agent.protection.stats().last_sequence;
    agent.write(BLOCK, 7);
    let lost = agent.protection.stats().last_sequence;
    assert!(lost > durable);
    machine.files.set_room(machine.files.bytes());
    agent.step("journal");
    machine.files.set_room(usize::MAX);
    agent.settle();
    let replica = machine.replica();
    assert_eq!(replica.resolve(&At::Sequence(durable)).expect("it arrived"), durable);
    let error = replica.resolve(&At::Sequence(lost)).expect_err("it did not arrive");
    assert_eq!(error.kind(), ErrorKind::NotOrdered);
    let gap = replica.timeline().into_iter().find(|entry| entry.from == lost).expect("the gap");
    assert!(gap.unordered.is_some());
    assert_eq!(machine.content(&At::Newest), machine.platter.peek());
}
