//! A machine that protects a volume: its disk and files, its writers, and the agent whose tasks are
//! stepped.
//!
//! Nothing here stays borrowed across a call of the product, because others may run within it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hrl::capture::Tap;
use hrl::device::{BlockDevice, Discarded};
use hrl::failover::SteppedCopy;
use hrl::journal::{PointKind, WrappingKey};
use hrl::replica::InstantDisk;
use hrl::store::Store;
use hrl::vault::Vault;
use hrl::{
    Cause, Clock, ErrorKind, Event, EventKind, EventSink, Extent, Mode, PlacedPoint, PointId,
    Policy, ProtectionOptions, SteppedProtection, SteppedTask, Timestamp,
};

use crate::application::Application;
use crate::disk::{Platter, SECTOR, SimDisk};
use crate::files::{FileSystem, SimFiles};
use crate::gateway::Gateway;
use crate::model::{Model, tags_of};
use crate::oracle::last_in_vault;
use crate::store::Server;
use crate::swapping::OtherHistory;
use crate::world::{Incarnation, World};
use crate::writing::Op;

/// Moments of the past that a site remembers.
const MOMENTS: usize = 24;

/// Choices that a seed makes once.
#[derive(Clone)]
pub struct Plan {
    pub policy: Policy,
    pub disk_bytes: u64,
    pub key: Option<WrappingKey>,
    pub discard: Discarded,
    /// Share of the disk that most writes go to, as a divisor.
    pub hot: u64,
    pub write_sectors_max: u64,
    /// Writers flush now and then.
    pub flushes: bool,
}

/// Things that step on a machine.
pub enum Work {
    Task(SteppedTask),
    /// The copy behind the reads of a volume that failed over to here.
    Copy(SteppedCopy),
}

impl Work {
    fn name(&self) -> &'static str {
        match self {
            Self::Task(task) => task.name(),
            Self::Copy(_) => "hydrate",
        }
    }

    fn step(&mut self) -> Option<Duration> {
        match self {
            Self::Task(task) => task.step(),
            Self::Copy(copy) => copy.step(),
        }
    }
}

pub struct Slot {
    pub name: &'static str,
    pub task: Option<Work>,
    is_stepping: Cell<bool>,
    due: Duration,
}

impl Slot {
    pub fn new(work: Work, due: Duration) -> Self {
        Self { name: work.name(), task: Some(work), is_stepping: Cell::new(false), due }
    }
}

/// A machine that is on.
pub struct Machine {
    pub incarnation: Arc<Incarnation>,
    pub files: Arc<SimFiles>,
    pub disk: Arc<SimDisk>,
    pub store: Arc<dyn Store>,
}

/// Everything of a machine that ends with it.
pub struct Running {
    pub machine: Arc<Incarnation>,
    pub files: Arc<SimFiles>,
    /// What writers write to.
    pub disk: Arc<dyn BlockDevice>,
    /// The same, while it is not a plain disk.
    pub instant: RefCell<Option<Arc<InstantDisk>>>,
    pub protection: SteppedProtection,
    pub slots: RefCell<Vec<Slot>>,
    pub ops: RefCell<Vec<Op>>,
    /// Changes between begin and end at the tap.
    pub in_flight: RefCell<Vec<Extent>>,
    pub points: RefCell<Vec<(PlacedPoint, u64)>>,
    pub keeper_steps: Cell<u64>,
    /// An application is quiesced; one at a time.
    pub quiescing: Cell<bool>,
    /// Bytes that the last session left in the spool.
    pub spooled_at_start: u64,
    /// Losses of the journal that the model knows.
    pub losses: Cell<u64>,
    /// Regions that were dirty when the agent started, as far as that limits the resync, and
    /// regions written since.
    pub marked: RefCell<Option<BTreeSet<u64>>>,
}

/// Events in order, with the tap's answer at each.
type Seen = Arc<Mutex<Vec<Event>>>;

pub struct Site {
    pub world: Rc<World>,
    pub plan: Plan,
    pub server: Arc<Server>,
    pub model: RefCell<Model>,
    pub files: RefCell<Arc<FileSystem>>,
    pub platter: RefCell<Arc<Platter>>,
    pub running: RefCell<Option<Rc<Running>>>,
    /// What the disk contained at some times, while no change was in flight.
    pub moments: RefCell<Vec<(Timestamp, Vec<u64>)>>,
    pub events: Seen,
    pub next_tag: Cell<u64>,
    /// The agent reported that another source owns the volume.
    pub fenced: Cell<bool>,
    /// Number of the site in the run.
    pub number: usize,
    /// The state that the model stands on, after a failover to here began.
    pub basis: Cell<Option<u64>>,
    /// That state may have changed by now.
    pub changes: Cell<bool>,
    gateway: Option<Arc<Gateway>>,
    /// Last sequences given and known to be in the vault, when the machine was last on.
    pub ends: Cell<(u64, u64)>,
    /// What the state directory said of the vault when it came to several histories, until the agent
    /// notices.
    pub must_notice: RefCell<Option<Vec<String>>>,
    /// Counts the machines that ran here. An earlier one may go on as the original of a copy.
    pub incarnation: Cell<u64>,
    pub original_is_fenced: Cell<bool>,
    /// The history of the vault in place, until the agent notices that it is not its own.
    pub other_history: RefCell<Option<OtherHistory>>,
    /// How often the agent began to go on in another history.
    pub turns: Cell<u64>,
}

/// Only what retention folds is on a real disk.
pub fn state_directory() -> PathBuf {
    let thread = format!("{:?}", std::thread::current().id());
    let number: String = thread.chars().filter(char::is_ascii_digit).collect();
    std::env::temp_dir().join(format!("hrl-sim-{}-{number}", std::process::id()))
}

impl Site {
    pub fn new(
        world: &Rc<World>,
        plan: Plan,
        server: &Arc<Server>,
        gateway: Option<Arc<Gateway>>,
        number: usize,
    ) -> Rc<Self> {
        let sectors = (plan.disk_bytes / SECTOR) as usize;
        Rc::new(Self {
            world: world.clone(),
            server: server.clone(),
            model: RefCell::new(Model::new(sectors)),
            files: RefCell::new(FileSystem::new()),
            platter: RefCell::new(Platter::new(plan.disk_bytes, plan.discard)),
            basis: Cell::new(None),
            changes: Cell::new(false),
            number,
            gateway,
            running: RefCell::new(None),
            moments: RefCell::default(),
            events: Seen::default(),
            next_tag: Cell::new(world.random.next() >> 20 << 4 | 1),
            fenced: Cell::new(false),
            ends: Cell::default(),
            must_notice: RefCell::default(),
            incarnation: Cell::new(0),
            original_is_fenced: Cell::new(false),
            other_history: RefCell::default(),
            turns: Cell::default(),
            plan,
        })
    }

    pub fn running(&self) -> Option<Rc<Running>> {
        self.running.borrow().clone()
    }

    pub fn is_alive(&self) -> bool {
        self.running().is_some_and(|running| running.machine.is_alive())
    }

    /// Switches the machine on. Nobody else runs during a request to its disk if locks are held.
    pub fn switch_on(&self, locks: bool) -> Machine {
        let incarnation = Incarnation::start();
        let files = self.files().mount(&incarnation);
        let disk = self.platter().attach(&incarnation, locks);
        let store: Arc<dyn Store> = match &self.gateway {
            Some(gateway) => gateway.connect(&incarnation, files.clone()),
            None => self.server.connect(&incarnation, Some(files.clone())),
        };
        self.events.lock().expect("one thread").clear();
        Machine { incarnation, files, disk, store }
    }

    pub fn vault(&self, store: Arc<dyn Store>) -> hrl::Result<Vault> {
        Vault::open(store, self.plan.key.clone(), self.world.clock.clone())
    }

    /// Receives the agent's events.
    pub fn sink(&self) -> EventSink {
        let (events, number, incarnation) =
            (self.events.clone(), self.number, self.incarnation.get());
        Arc::new(move |event: &Event| {
            let site = SITES.with(|sites| sites.borrow().get(number).cloned());
            let site = site.as_ref().and_then(Weak::upgrade);
            if let Some(site) = site.as_ref().filter(|site| site.incarnation.get() != incarnation) {
                return site.original_reports(event);
            }
            // The tap's current answer belongs to the event.
            let mut events = events.lock().expect("one thread");
            events.push(event.clone());
            drop(events);
            if let Some(site) = site {
                site.look_at_events();
            }
        })
    }

    /// Starts the machine and its agent, which takes the volume over from another one if given.
    /// Returns false if the agent could not start, which only faults may explain.
    pub fn start(&self, expect_clean: bool, from: Option<&Self>) -> bool {
        let world = &self.world;
        self.begins_elsewhere();
        let marked = self.marked_regions();
        let machine = self.switch_on(false);
        let open = || {
            // It may be away.
            let (store, key) = (machine.store.clone(), self.plan.key.clone());
            let vault = Vault::awaited(store, key, world.clock.clone());
            let options =
                ProtectionOptions::new("disk", machine.disk.clone(), vault, state_directory())
                    .policy(self.plan.policy.clone())
                    .clock(world.clock.clone())
                    .files(machine.files.clone())
                    .take_over(from.is_some())
                    .events(self.sink());
            SteppedProtection::open(options)
        };
        let protection = match open() {
            Ok(protection) => protection,
            Err(error) => {
                self.fenced.set(error.kind() == ErrorKind::Fenced);
                self.did_not_start(&machine, &error, from.is_none());
                return false;
            }
        };
        if !machine.incarnation.is_alive() {
            self.ended_early();
            self.files().killed();
            return false;
        }
        if !protection.stats().vault_away {
            self.check_noticed();
        } else if self.has_gone_back() || self.knows_less(&protection) {
            // It is noticed once the vault was compared. Until then nobody can say what the volume is.
            self.has_reported();
            drop(protection);
            machine.incarnation.kill();
            self.ended_early();
            self.files().killed();
            return false;
        }
        let last = last_of(&protection);
        let unordered = tap_of(&protection).mode() != Mode::Ordered;
        assert!(!(expect_clean && unordered), "promise 4: a clean stop needs no resync");
        // The content of the spool continues the vault's end, if no other agent added to it.
        let nothing_spooled = self.files().is_empty(&state_directory().join("spool"));
        if let Some(from) = from.filter(|_| nothing_spooled) {
            *self.model.borrow_mut() = from.history().clone();
            self.model.borrow_mut().taken_over(last);
        }
        let disk: Arc<dyn BlockDevice> = machine.disk.clone();
        self.run(machine, disk, protection, marked);
        true
    }

    /// Returns whether the vault has more than an agent that began without it knows of.
    fn knows_less(&self, protection: &SteppedProtection) -> bool {
        last_of(protection) < self.world.in_peace(|| last_in_vault(self)) || !self.owns_in_vault()
    }

    /// An agent could not start, which `owns` the volume or is to get it.
    pub fn did_not_start(&self, machine: &Machine, error: &hrl::Error, owns: bool) {
        self.world.note("start failed", 0, 0);
        self.has_reported();
        self.world.say(format!("site {} start: {error}", self.number));
        assert!(
            !matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Changed)
                || !machine.incarnation.is_alive()
                || (!owns && self.is_unreadable()),
            "an agent cannot start any more: {error}"
        );
        self.ended_early();
        machine.incarnation.kill();
        self.files().killed();
    }

    /// An agent started on `disk`; from now on its tasks step and writers write.
    pub fn run(
        &self,
        machine: Machine,
        disk: Arc<dyn BlockDevice>,
        mut protection: SteppedProtection,
        marked: Option<BTreeSet<u64>>,
    ) -> Rc<Running> {
        let world = &self.world;
        let stats = tap_of(&protection).stats();
        let unordered = stats.mode != Mode::Ordered;
        let last = last_of(&protection);
        world.note("started", last, u64::from(unordered));
        world.say(format!(
            "site {} started after {last}, {}, marked {marked:?}",
            self.number,
            stats.mode.name()
        ));
        self.fenced.set(false);
        let tags = self.seen_through(&*disk);
        self.model.borrow_mut().restarted(last, &tags, &stats);
        self.see_hole(last);
        let now = world.clock.elapsed();
        let slots = protection.take_tasks().into_iter();
        let slots = slots.map(|task| Slot::new(Work::Task(task), now));
        let running = Rc::new(Running {
            machine: machine.incarnation,
            files: machine.files,
            disk,
            instant: RefCell::new(None),
            slots: RefCell::new(slots.collect()),
            ops: RefCell::default(),
            in_flight: RefCell::default(),
            points: RefCell::default(),
            keeper_steps: Cell::new(0),
            quiescing: Cell::new(false),
            marked: RefCell::new(marked.filter(|_| unordered)),
            spooled_at_start: protection.stats().spool_bytes,
            losses: Cell::new(protection.journal_losses()),
            protection,
        });
        self.platter().watch(true);
        *self.running.borrow_mut() = Some(running.clone());
        self.look_at_events();
        running
    }

    /// Returns the content of a disk, without faults.
    pub fn seen_through(&self, disk: &dyn BlockDevice) -> Vec<u64> {
        let mut bytes = vec![0; self.plan.disk_bytes as usize];
        self.world.in_peace(|| disk.read(0, &mut bytes)).expect("nothing fails in peace");
        tags_of(&bytes)
    }

    /// Returns the content of the volume here, as its users see it.
    pub fn disk_now(&self) -> Vec<u64> {
        match self.running().filter(|running| running.machine.is_alive()) {
            // Whatever it happens within does not read.
            Some(running) => self.world.doing("model", || self.seen_through(&*running.disk)),
            None => tags_of(&self.platter().peek()),
        }
    }

    pub fn files(&self) -> Arc<FileSystem> {
        self.files.borrow().clone()
    }

    pub fn platter(&self) -> Arc<Platter> {
        self.platter.borrow().clone()
    }

    /// Replaces the machine: nothing of the old one is left, and its disk contains anything.
    pub fn replace(&self) {
        assert!(self.running().is_none(), "it is off");
        self.files.replace(FileSystem::new());
        let platter = Platter::new(self.plan.disk_bytes, self.plan.discard);
        platter.fill(&self.world.random);
        self.platter.replace(platter);
        self.basis.set(None);
        self.changes.set(false);
    }

    /// Returns the regions of the dirty map, if there is one that can be read.
    pub fn marked_regions(&self) -> Option<BTreeSet<u64>> {
        let bytes = self.files().peek(&state_directory().join("dirty"))?;
        let regions = self.plan.disk_bytes / self.plan.policy.region_bytes;
        let bits = bytes.get(4096..)?;
        Some((0..regions).filter(|r| bits[*r as usize / 8] >> (r % 8) & 1 == 1).collect())
    }

    /// Ends the machine: killed, or with the power.
    pub fn crash(&self, power: bool) {
        self.see_ends();
        let Some(running) = self.running.borrow_mut().take() else { return };
        running.machine.kill();
        let running = Rc::into_inner(running).expect("nothing runs within a crash");
        drop(running);
        self.events.lock().expect("one thread").clear();
        if power {
            self.world.note("power fails", 0, 0);
            self.world.count(|counts| counts.power_failures += 1);
            self.files().power_failed(&self.world.random);
            self.platter().power_failed(&self.world.random);
        } else {
            self.world.note("killed", 0, 0);
            self.world.count(|counts| counts.kills += 1);
            self.files().killed();
        }
        self.ended_early();
    }

    /// One thing happens: a task steps, or a writer does.
    pub fn act(&self) {
        let Some(running) = self.running() else { return };
        if !running.machine.is_alive() {
            return;
        }
        match self.world.random.below(20) {
            0..=9 => self.step_some_task(&running),
            10..=17 => self.write_something(&running),
            18 => self.mark_something(&running),
            _ => self.flush_or_wait(&running),
        }
        self.look(&running);
    }

    /// Nobody writes for some seconds.
    pub fn idle(&self) {
        self.world.note("idle", 0, 0);
        for _ in 0..self.world.random.within(20, 120) {
            let Some(running) = self.running() else { return };
            if !running.machine.is_alive() {
                return;
            }
            self.step_some_task(&running);
            self.look(&running);
            self.world.clock.advance(Duration::from_millis(self.world.random.within(1, 60)));
        }
    }

    /// Steps a task whose time has come, or any.
    pub fn step_some_task(&self, running: &Running) {
        let (now, random) = (self.world.clock.elapsed(), &self.world.random);
        let any = random.one_in(12);
        let picked = {
            let mut slots = running.slots.borrow_mut();
            // These two wait for each other's lock of the catalog, which one thread cannot do.
            let locks = |slot: &Slot| matches!(slot.name, "ship" | "timer");
            let locked = slots.iter().any(|slot| locks(slot) && slot.is_stepping.get());
            let ready: Vec<usize> = (0..slots.len())
                .filter(|at| slots[*at].task.is_some() && (any || slots[*at].due <= now))
                .filter(|at| !(locked && locks(&slots[*at])))
                .collect();
            if ready.is_empty() {
                None
            } else {
                let at = random.pick(&ready);
                slots[at].is_stepping.set(true);
                slots[at].task.take().map(|task| (at, task))
            }
        };
        let Some((at, mut task)) = picked else {
            return self.world.clock.advance(Duration::from_micros(random.within(1, 3000)));
        };
        self.world.note(task.name(), 0, 0);
        let again = self.world.doing(task.name(), || task.step());
        self.world.count(|counts| counts.steps += 1);
        if task.name() == "keeper" {
            running.keeper_steps.set(running.keeper_steps.get() + 1);
        }
        let mut slots = running.slots.borrow_mut();
        slots[at].is_stepping.set(false);
        slots[at].due = self.world.clock.elapsed() + again.unwrap_or(Duration::MAX / 4);
        if again.is_some() {
            slots[at].task = Some(task);
        }
    }

    fn flush_or_wait(&self, running: &Running) {
        let random = &self.world.random;
        match random.below(3) {
            0 => {
                if self.plan.flushes {
                    self.world.note("writer flushes", 0, 0);
                    let _ = running.protection.volume().flush();
                }
            }
            1 => self.world.clock.advance(Duration::from_millis(random.within(1, 50))),
            _ => self.world.clock.advance(Duration::from_micros(random.within(1, 900))),
        }
    }

    fn mark_something(&self, running: &Running) {
        let random = &self.world.random;
        let placed = if random.one_in(4) && !running.quiescing.replace(true) {
            let placed = self.mark_an_application(running);
            running.quiescing.set(false);
            placed
        } else {
            running.protection.place(PointKind::Crash, "")
        };
        match placed {
            Ok(placed) => {
                let sequence = placed.sequence().0;
                self.world.note("point placed", sequence, 0);
                self.model.borrow_mut().placed(placed.id(), sequence);
                running.points.borrow_mut().push((placed, sequence));
            }
            Err(error) => {
                self.world.say(format!("no point: {error}"));
                let kind = error.kind();
                let refused = matches!(kind, ErrorKind::NotOrdered | ErrorKind::Fenced);
                // The application cannot be quiesced, or the disk cannot be flushed. One that is
                // being copied writes what it has to a file for that.
                let failed = matches!(
                    kind,
                    ErrorKind::Unavailable | ErrorKind::Io | ErrorKind::Poisoned | ErrorKind::Full
                );
                assert!(refused || failed, "no point: {error}");
            }
        }
        if random.one_in(30) {
            self.world.note("resync asked for", 0, 0);
            *running.marked.borrow_mut() = None;
            let _ = running.protection.resync();
        }
    }

    /// Promise 8: whatever happens meanwhile, the application resumes afterwards.
    fn mark_an_application(&self, running: &Running) -> hrl::Result<PlacedPoint> {
        let random = &self.world.random;
        let application = Application {
            refuses: random.one_in(6),
            lets_go_early: random.one_in(6),
            held: AtomicBool::new(false),
        };
        let limit = Duration::from_millis(random.within(1, 200));
        let placed = running.protection.place_quiesced(&application, "", limit);
        assert!(!application.held.load(Ordering::Relaxed), "promise 8: the application is held");
        placed
    }

    /// Checks what is visible from outside after every action.
    pub fn look(&self, running: &Running) {
        if !running.machine.is_alive() {
            return;
        }
        self.look_at_events();
        self.remember_moment(running);
        let points = std::mem::take(&mut *running.points.borrow_mut());
        for (placed, sequence) in points {
            match running.protection.outcome(&placed) {
                None => running.points.borrow_mut().push((placed, sequence)),
                Some(Ok(point)) => {
                    assert_eq!(point.sequence.0, sequence, "a point moved");
                    self.confirm(placed.id(), sequence);
                }
                Some(Err(_)) => {}
            }
        }
        let stats = running.protection.stats();
        let policy = &self.plan.policy;
        // One change beyond the budget, what a resync may add, and a record that order ended.
        let slack = 2 * policy.region_bytes.max(self.plan.write_sectors_max * SECTOR) + 65_536;
        assert!(
            stats.queue_bytes <= policy.memory_budget_bytes + slack,
            "promise 12: the queue has {} bytes",
            stats.queue_bytes
        );
        // A source that lost the volume closes its queue in any case. A repaired segment may be
        // longer than the torn one.
        let spool_bytes_max = policy.spool_bytes_max.max(running.spooled_at_start);
        assert!(
            stats.spool_bytes <= spool_bytes_max || self.fenced.get(),
            "promise 12: the spool has {} bytes",
            stats.spool_bytes
        );
    }

    /// Perhaps remembers what the disk contains now.
    fn remember_moment(&self, running: &Running) {
        if !self.world.random.one_in(60) || !tap_of(&running.protection).is_idle() {
            return;
        }
        let mut moments = self.moments.borrow_mut();
        if moments.len() == MOMENTS {
            moments.remove(self.world.random.below(MOMENTS as u64) as usize);
        }
        // Every earlier change has an earlier time, even one that a crash loses, and every later
        // change a later one.
        self.world.clock.advance(Duration::from_nanos(1));
        moments.push((self.world.clock.now(), self.disk_now()));
        self.world.clock.advance(Duration::from_nanos(1));
    }

    fn confirm(&self, point: PointId, sequence: u64) {
        let mut model = self.model.borrow_mut();
        if model.confirmed.insert(point, sequence).is_none() {
            self.world.note("point durable", sequence, 0);
            self.world.count(|counts| counts.points += 1);
        }
    }

    /// Processes the product's events. Also called from its event sink, so that the tap's answer
    /// belongs to the event.
    pub fn look_at_events(&self) {
        let Some(running) = self.running() else { return };
        let events = std::mem::take(&mut *self.events.lock().expect("one thread"));
        if !running.machine.is_alive() {
            return;
        }
        let stats = tap_of(&running.protection).stats();
        // Not every loss is reported.
        if running.losses.replace(running.protection.journal_losses())
            < running.protection.journal_losses()
        {
            let durable = running.protection.stats().journaled_sequence.0;
            self.model.borrow_mut().journal_lost(durable, &stats);
        }
        for event in events {
            self.world.note(event.kind.name(), 0, 0);
            self.world.say(format!(
                "site {} event {}: {}",
                self.number,
                event.kind.name(),
                event.message
            ));
            match event.kind {
                EventKind::PointMarked { point, sequence } => self.confirm(point, sequence.0),
                EventKind::ResyncStarted { cause, .. } => {
                    let bound = matches!(cause, Cause::Crash | Cause::InitialReplication);
                    if !bound {
                        *running.marked.borrow_mut() = None;
                    }
                }
                EventKind::ResyncFinished { .. } => self.check_reads(&running),
                EventKind::Fenced => self.fenced.set(true),
                EventKind::Diverged { .. } => self.diverged(&event.message, &stats),
                _ => {}
            }
        }
        self.model.borrow_mut().observe(&stats);
    }

    /// Promise 4: after a crash only dirty regions are read again.
    fn check_reads(&self, running: &Running) {
        let reads = self.platter().watch(false);
        let Some(marked) = running.marked.borrow_mut().take() else { return };
        let region_bytes = self.plan.policy.region_bytes;
        for read in reads {
            let regions = read.offset / region_bytes..=(read.end() - 1) / region_bytes;
            for region in regions {
                assert!(
                    marked.contains(&region),
                    "promise 4: region {region} was read, and not marked"
                );
            }
        }
    }

    /// Lets everything come to its end, without faults. Fails if it does not.
    pub fn settle(&self) {
        let world = &self.world;
        world.note("settles", 0, 0);
        let begin = world.clock.elapsed();
        let limit = Duration::from_secs(600);
        while world.clock.elapsed().saturating_sub(begin) < limit {
            let Some(running) = self.running() else { return };
            let op = running.ops.borrow_mut().pop();
            if let Some(op) = op.and_then(|op| self.advance(&running, op)) {
                running.ops.borrow_mut().insert(0, op);
            }
            let stats = running.protection.stats();
            let busy = !running.ops.borrow().is_empty();
            let done =
                stats.mode == Mode::Ordered && stats.replicated_sequence == stats.last_sequence;
            let done = done && self.must_notice.borrow().is_none();
            if !busy && (done || self.fenced.get()) {
                self.look(&running);
                return;
            }
            running.protection.hurry();
            self.step_some_task(&running);
            self.look(&running);
            if world.random.one_in(3) {
                world.clock.advance(Duration::from_millis(world.random.within(1, 20)));
            }
        }
        let stats = self.running().map(|running| running.protection.stats());
        panic!("promise 4: source and replica do not come together: {stats:?}");
    }

    /// Stops cleanly. Returns false if a fault prevented it; the machine must then be ended.
    pub fn stop(&self) -> bool {
        self.settle();
        self.world.note("stops", 0, 0);
        self.see_ends();
        let Some(running) = self.running.borrow_mut().take() else { return false };
        let Ok(mut running) = Rc::try_unwrap(running) else { panic!("nothing runs within a stop") };
        if self.fenced.get() || running.protection.begin_stop().is_err() {
            return false;
        }
        for _ in 0..10_000 {
            if running.protection.is_journaled() {
                break;
            }
            self.step_some_task(&running);
            self.world.clock.advance(Duration::from_millis(1));
        }
        running.slots.get_mut().clear();
        running.points.get_mut().clear();
        running.protection.end_stop().is_ok()
    }

    pub fn mode(&self) -> Option<Mode> {
        self.running().map(|running| running.protection.stats().mode)
    }
}

thread_local! {
    /// The sites of the run, for their events.
    pub static SITES: RefCell<Vec<Weak<Site>>> = const { RefCell::new(Vec::new()) };
}

/// What is left of the journal of earlier sessions ends here. The sequences of this one may begin
/// later.
fn last_of(protection: &SteppedProtection) -> u64 {
    let stats = tap_of(protection).stats();
    let given = stats.last_sequence.0 - u64::from(stats.mode != Mode::Ordered);
    given.min(protection.newest_closed().0)
}

pub fn tap_of(protection: &SteppedProtection) -> Arc<Tap> {
    protection.volume().tap().expect("a protected volume has one").clone()
}
