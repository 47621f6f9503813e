//! A machine that protects a volume: its disk and files, its writers, and the agent whose tasks are stepped.
//!
//! What is borrowed here is never borrowed across a call of the product, because others may run within it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::time::Duration;

use hrl::capture::{Change, Tap, TapStats, Ticket};
use hrl::device::{BlockDevice, Buffer, Discarded, Durability, Unmap};
use hrl::journal::{PointKind, WrappingKey};
use hrl::replica::Vault;
use hrl::store::Store;
use hrl::{
    Cause, Clock, ErrorKind, Event, EventKind, Extent, Mode, PlacedPoint, PointId, Policy,
    ProtectionOptions, Quiesce, QuiesceRequest, Sequence, SteppedProtection, SteppedTask,
};

use crate::disk::{Platter, SECTOR, SimDisk};
use crate::files::FileSystem;
use crate::gateway::Gateway;
use crate::model::{Model, bytes_of, tags_of};
use crate::store::Server;
use crate::world::{Incarnation, World};

/// Writes that may be under way at once.
const WRITERS: usize = 5;

/// Marks that a writer may miss one after the other.
const MARKS_MAX: u32 = 12;

/// What a seed decides once.
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Write,
    Zero,
    Discard,
}

enum Stage {
    Waiting,
    Begun(Ticket),
    Done(Ticket, Option<Change>),
}

struct Op {
    kind: Kind,
    extent: Extent,
    tags: Vec<u64>,
    stage: Stage,
    /// Steps of the keeper when it was last told to wait for a mark, and how often it was.
    waits: Option<(u64, u32)>,
}

struct Slot {
    name: &'static str,
    task: Option<SteppedTask>,
    due: Duration,
}

/// An application that is quiesced for points.
struct Application {
    refuses: bool,
    lets_go_early: bool,
    held: AtomicBool,
}

impl Application {
    fn failed(what: &str) -> hrl::Error {
        hrl::Error::new(ErrorKind::Unavailable, "quiesce", "application").message(what)
    }
}

impl Quiesce for Application {
    fn name(&self) -> String {
        "application".to_owned()
    }

    fn quiesce(&self, _request: &QuiesceRequest) -> hrl::Result<()> {
        self.held.store(true, Ordering::Relaxed);
        World::current().takes_time();
        if self.refuses { Err(Self::failed("it refuses")) } else { Ok(()) }
    }

    fn release(&self) -> hrl::Result<()> {
        self.held.store(false, Ordering::Relaxed);
        if self.lets_go_early { Err(Self::failed("it went on before")) } else { Ok(()) }
    }
}

/// Everything of a machine that ends with it.
struct Running {
    machine: Arc<Incarnation>,
    disk: Arc<SimDisk>,
    protection: SteppedProtection,
    slots: RefCell<Vec<Slot>>,
    ops: RefCell<Vec<Op>>,
    /// What is between begin and end at the tap.
    in_flight: RefCell<Vec<Extent>>,
    points: RefCell<Vec<(PlacedPoint, u64)>>,
    keeper_steps: Cell<u64>,
    /// An application is quiesced: one at a time.
    quiescing: Cell<bool>,
    /// Regions that were marked when the agent started, as far as that binds the resync, and those written since.
    marked: RefCell<Option<BTreeSet<u64>>>,
}

/// Events as they come, with what the tap said then.
type Seen = Arc<Mutex<Vec<Event>>>;

pub struct Site {
    pub world: Rc<World>,
    pub plan: Plan,
    pub server: Arc<Server>,
    pub model: RefCell<Model>,
    pub files: Arc<FileSystem>,
    pub platter: Arc<Platter>,
    running: RefCell<Option<Rc<Running>>>,
    events: Seen,
    next_tag: Cell<u64>,
    /// The agent says that another source has the volume.
    pub fenced: Cell<bool>,
    /// Which site of the run it is.
    pub number: usize,
    gateway: Option<Arc<Gateway>>,
}

/// Nothing of it is on a real disk but what retention folds.
fn state_directory() -> PathBuf {
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
            files: FileSystem::new(),
            platter: Platter::new(plan.disk_bytes, plan.discard),
            number,
            gateway,
            running: RefCell::new(None),
            events: Seen::default(),
            next_tag: Cell::new(world.random.next() >> 20 << 4 | 1),
            fenced: Cell::new(false),
            plan,
        })
    }

    fn running(&self) -> Option<Rc<Running>> {
        self.running.borrow().clone()
    }

    pub fn is_alive(&self) -> bool {
        self.running().is_some_and(|running| running.machine.is_alive())
    }

    /// Starts the machine and its agent, which takes the volume over from another one where that is given. False when the
    /// agent could not start, which is for faults to explain.
    pub fn start(&self, expect_clean: bool, from: Option<&Self>) -> bool {
        let world = &self.world;
        let machine = Incarnation::start();
        let files = self.files.mount(&machine);
        let disk = self.platter.attach(&machine);
        let marked = self.marked_regions();
        let store: Arc<dyn Store> = match &self.gateway {
            Some(gateway) => gateway.connect(&machine, files.clone()),
            None => self.server.connect(&machine, Some(files.clone())),
        };
        let clock: Arc<dyn Clock> = world.clock.clone();
        self.events.lock().expect("one thread").clear();
        let (events, number) = (self.events.clone(), self.number);
        let open = || {
            let vault = Vault::open(store, self.plan.key.clone(), clock.clone())?;
            let options = ProtectionOptions::new("disk", disk.clone(), vault, state_directory())
                .policy(self.plan.policy.clone())
                .clock(clock)
                .files(files)
                .take_over(from.is_some())
                .events(Arc::new(move |event: &Event| {
                    // What the tap says now belongs to what is told.
                    let mut events = events.lock().expect("one thread");
                    events.push(event.clone());
                    drop(events);
                    let site = SITES.with(|sites| sites.borrow().get(number).cloned());
                    if let Some(site) = site.as_ref().and_then(Weak::upgrade) {
                        site.look_at_events();
                    }
                }));
            SteppedProtection::open(options)
        };
        let mut protection = match open() {
            Ok(protection) => protection,
            Err(error) => {
                world.note("start failed", 0, 0);
                world.say(format!("start: {error}"));
                assert!(
                    !matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Changed)
                        || !machine.is_alive(),
                    "an agent cannot start any more: {error}"
                );
                self.fenced.set(error.kind() == ErrorKind::Fenced);
                machine.kill();
                self.files.killed();
                return false;
            }
        };
        if !machine.is_alive() {
            self.files.killed();
            return false;
        }
        let stats = tap_of(&protection).stats();
        let unordered = stats.mode != Mode::Ordered;
        let last = stats.last_sequence.0 - u64::from(unordered);
        world.note("started", last, u64::from(unordered));
        world.say(format!(
            "site {} started after {last}, {}, marked {marked:?}",
            self.number,
            stats.mode.name()
        ));
        assert!(!(expect_clean && unordered), "promise 4: a clean stop needs no resync: {stats:?}");
        // What is still in the spool goes on where the vault ends, when nobody else added to it.
        if let Some(from) = from.filter(|_| last <= crate::oracle::last_in_vault(self)) {
            *self.model.borrow_mut() = from.model.borrow().clone();
            self.model.borrow_mut().taken_over(last);
        }
        self.fenced.set(false);
        self.model.borrow_mut().restarted(last, &tags_of(&self.platter.peek()), &stats);
        let now = world.clock.elapsed();
        let slots = protection.take_tasks().into_iter();
        let slots = slots.map(|task| Slot { name: task.name(), task: Some(task), due: now });
        let running = Running {
            machine,
            disk,
            slots: RefCell::new(slots.collect()),
            ops: RefCell::default(),
            in_flight: RefCell::default(),
            points: RefCell::default(),
            keeper_steps: Cell::new(0),
            quiescing: Cell::new(false),
            marked: RefCell::new(marked.filter(|_| unordered)),
            protection,
        };
        self.platter.watch(true);
        *self.running.borrow_mut() = Some(Rc::new(running));
        self.look_at_events();
        true
    }

    /// Regions that the dirty map has, when there is one that can be read.
    fn marked_regions(&self) -> Option<BTreeSet<u64>> {
        let bytes = self.files.peek(&state_directory().join("dirty"))?;
        let regions = self.plan.disk_bytes / self.plan.policy.region_bytes;
        let bits = bytes.get(4096..)?;
        Some((0..regions).filter(|r| bits[*r as usize / 8] >> (r % 8) & 1 == 1).collect())
    }

    /// Ends the machine: killed, or with the power.
    pub fn crash(&self, power: bool) {
        let Some(running) = self.running.borrow_mut().take() else { return };
        running.machine.kill();
        let running = Rc::into_inner(running).expect("nothing runs within a crash");
        drop(running);
        self.events.lock().expect("one thread").clear();
        if power {
            self.world.note("power fails", 0, 0);
            self.world.count(|counts| counts.power_failures += 1);
            self.files.power_failed(&self.world.random);
            self.platter.power_failed(&self.world.random);
        } else {
            self.world.note("killed", 0, 0);
            self.world.count(|counts| counts.kills += 1);
            self.files.killed();
        }
    }

    /// One thing that happens: a task steps, or a writer does.
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

    /// A task whose time has come steps, or any.
    fn step_some_task(&self, running: &Running) {
        let (now, random) = (self.world.clock.elapsed(), &self.world.random);
        let any = random.one_in(12);
        let picked = {
            let mut slots = running.slots.borrow_mut();
            let ready: Vec<usize> = (0..slots.len())
                .filter(|at| slots[*at].task.is_some() && (any || slots[*at].due <= now))
                .collect();
            if ready.is_empty() {
                None
            } else {
                let at = random.pick(&ready);
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
                // An application that cannot be held, or a disk that cannot be flushed.
                let failed =
                    matches!(kind, ErrorKind::Unavailable | ErrorKind::Io | ErrorKind::Poisoned);
                assert!(refused || failed, "no point: {error}");
            }
        }
        if random.one_in(30) {
            self.world.note("resync asked for", 0, 0);
            *running.marked.borrow_mut() = None;
            let _ = running.protection.resync();
        }
    }

    /// Promise 8: whatever happens meanwhile, the application goes on afterwards.
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

    /// What can be seen from outside after anything was done.
    fn look(&self, running: &Running) {
        if !running.machine.is_alive() {
            return;
        }
        self.look_at_events();
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
        // One change more than the budget, what a resync may add, and a record that says that order ended.
        let slack = 2 * policy.region_bytes.max(self.plan.write_sectors_max * SECTOR) + 65_536;
        assert!(
            stats.queue_bytes <= policy.memory_budget_bytes + slack,
            "promise 12: the queue holds {} bytes",
            stats.queue_bytes
        );
        let segment = policy.segment_bytes_max + policy.memory_budget_bytes + slack;
        assert!(
            stats.spool_bytes <= policy.spool_bytes_max + segment,
            "promise 12: the spool holds {} bytes",
            stats.spool_bytes
        );
    }

    fn confirm(&self, point: PointId, sequence: u64) {
        let mut model = self.model.borrow_mut();
        if model.confirmed.insert(point, sequence).is_none() {
            self.world.note("point durable", sequence, 0);
            self.world.count(|counts| counts.points += 1);
        }
    }

    /// Takes in what the product told. Called from within its event sink too, so that what the tap says belongs to it.
    fn look_at_events(&self) {
        let events = std::mem::take(&mut *self.events.lock().expect("one thread"));
        let Some(running) = self.running() else { return };
        if !running.machine.is_alive() {
            return;
        }
        let stats = tap_of(&running.protection).stats();
        for event in events {
            self.world.note(event.kind.name(), 0, 0);
            self.world.say(format!(
                "site {} event {}: {}",
                self.number,
                event.kind.name(),
                event.message
            ));
            match event.kind {
                EventKind::TaskFailed if event.message.starts_with("the journal cannot") => {
                    let durable = running.protection.stats().journaled_sequence.0;
                    self.model.borrow_mut().journal_lost(durable, &stats);
                }
                EventKind::PointMarked { point, sequence } => self.confirm(point, sequence.0),
                EventKind::ResyncStarted { cause, .. } => {
                    let bound = matches!(cause, Cause::Crash | Cause::InitialReplication);
                    if !bound {
                        *running.marked.borrow_mut() = None;
                    }
                }
                EventKind::ResyncFinished { .. } => self.check_reads(&running),
                EventKind::Fenced => self.fenced.set(true),
                _ => {}
            }
        }
        self.model.borrow_mut().observe(&stats);
    }

    /// Promise 4: after a crash only marked regions are read again.
    fn check_reads(&self, running: &Running) {
        let reads = self.platter.watch(false);
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

    /// Lets a writer go on, or a new one begin.
    fn write_something(&self, running: &Running) {
        let random = &self.world.random;
        let op = {
            let ops = running.ops.borrow();
            let begins = ops.is_empty() || (ops.len() < WRITERS && random.one_in(3));
            if begins { None } else { Some(ops.len()) }
        };
        let op = match op {
            None => self.new_op(),
            Some(count) => {
                running.ops.borrow_mut().swap_remove(random.below(count as u64) as usize)
            }
        };
        let left = self.world.doing("writer", || self.advance(running, op));
        running.ops.borrow_mut().extend(left);
    }

    fn new_op(&self) -> Op {
        let random = &self.world.random;
        let sectors = self.plan.disk_bytes / SECTOR;
        let length = match random.below(12) {
            0 => random.within(1, self.plan.write_sectors_max),
            1..=3 => 8,
            _ => random.within(1, 16),
        };
        let reach = if random.one_in(6) { sectors } else { (sectors / self.plan.hot).max(length) };
        let first = random.below(reach - length + 1);
        let kind = match random.below(14) {
            0 => Kind::Zero,
            1 => Kind::Discard,
            _ => Kind::Write,
        };
        let tags = (0..length).map(|_| if kind == Kind::Write { self.tag() } else { 0 }).collect();
        let extent = Extent { offset: first * SECTOR, length: length * SECTOR };
        Op { kind, extent, tags, stage: Stage::Waiting, waits: None }
    }

    fn tag(&self) -> u64 {
        self.next_tag.set(self.next_tag.get() + 1);
        // Content that comes back now and then is found to be the same.
        if self.world.random.one_in(10) { 7 } else { self.next_tag.get() & !(1 << 63) }
    }

    /// Brings a write one stage further; `None` when it ended.
    fn advance(&self, running: &Running, mut op: Op) -> Option<Op> {
        let tap = tap_of(&running.protection);
        match op.stage {
            Stage::Waiting => match tap.begin(op.extent, Waker::noop()) {
                Poll::Ready(Ok(ticket)) => {
                    running.in_flight.borrow_mut().push(op.extent);
                    if let Some(marked) = &mut *running.marked.borrow_mut() {
                        let region_bytes = self.plan.policy.region_bytes;
                        let last = (op.extent.end() - 1) / region_bytes;
                        marked.extend(op.extent.offset / region_bytes..=last);
                    }
                    op.stage = Stage::Begun(ticket);
                    op.waits = None;
                    Some(op)
                }
                Poll::Ready(Err(_)) => None,
                Poll::Pending => {
                    Self::check_wait(running, &mut op);
                    Some(op)
                }
            },
            Stage::Begun(ticket) => {
                self.world.note("writes", op.extent.offset, op.extent.length);
                let change = self.change_disk(running, op.kind, op.extent, &op.tags);
                op.stage = Stage::Done(ticket, change);
                Some(op)
            }
            Stage::Done(ticket, change) => {
                if running.machine.is_alive() {
                    self.complete(&tap, ticket, change);
                } else {
                    let _ = ticket.into_extent();
                }
                running.in_flight.borrow_mut().retain(|extent| *extent != op.extent);
                None
            }
        }
    }

    /// Does the change as [`hrl::capture::Volume`] does, in stages. `None`: nobody knows what the disk holds.
    fn change_disk(
        &self,
        running: &Running,
        kind: Kind,
        extent: Extent,
        tags: &[u64],
    ) -> Option<Change> {
        let disk = &running.disk;
        match kind {
            Kind::Write => {
                let durability = if self.world.random.one_in(8) {
                    Durability::Durable
                } else {
                    Durability::Cached
                };
                let mut data = Buffer::copy_of(&bytes_of(tags));
                match disk.write(extent.offset, &data, durability) {
                    Ok(()) => Some(Change::Write(data)),
                    Err(_) => {
                        disk.read(extent.offset, &mut data).ok().map(|()| Change::Write(data))
                    }
                }
            }
            Kind::Zero => {
                disk.zero(extent, Unmap::Allowed, Durability::Cached).ok().map(|()| Change::Zero)
            }
            Kind::Discard => disk.discard(extent).ok().map(Change::Discard),
        }
    }

    fn complete(&self, tap: &Tap, ticket: Ticket, change: Option<Change>) {
        let extent = ticket.extent();
        let first = (extent.offset / SECTOR) as usize;
        let sectors = (extent.length / SECTOR) as usize;
        let before = tap.stats();
        let ignored = matches!(change, Some(Change::Discard(Discarded::Ignored)));
        let tags = match &change {
            Some(Change::Write(data)) => tags_of(data),
            Some(Change::Zero | Change::Discard(_)) => vec![0; sectors],
            None => {
                let content = self.platter.peek();
                tags_of(&content[extent.offset as usize..extent.end() as usize])
            }
        };
        let Some(change) = change else {
            tap.fail(ticket);
            let after = tap.stats();
            let mut model = self.model.borrow_mut();
            model.observe(&after);
            model.set(first, &tags, after.last_sequence.0);
            return;
        };
        tap.complete(ticket, change);
        let after = tap.stats();
        self.world.note("completed", after.last_sequence.0, extent.offset);
        Self::check_order(&before, &after, ignored);
        if ignored {
            self.model.borrow_mut().observe(&after);
        } else {
            self.model.borrow_mut().changed(first, &tags, &before, &after);
        }
    }

    /// Promise 1: what is completed later has a higher sequence.
    fn check_order(before: &TapStats, after: &TapStats, ignored: bool) {
        assert!(after.last_sequence >= before.last_sequence, "promise 1: sequences went back");
        let captured = before.mode == Mode::Ordered && after.mode == Mode::Ordered && !ignored;
        assert!(
            !captured || after.last_sequence == Sequence(before.last_sequence.0 + 1),
            "promise 1: a change has no place of its own"
        );
    }

    /// Promise 6: a writer waits for a change under way, or once for a mark.
    fn check_wait(running: &Running, op: &mut Op) {
        let block = |extent: &Extent| extent.aligned_outwards(4096);
        let overlaps = |busy: &Extent| {
            let (a, b) = (block(busy), block(&op.extent));
            a.offset < b.end() && b.offset < a.end()
        };
        let busy = running.in_flight.borrow().iter().any(overlaps);
        let reading = running.slots.borrow().iter().any(|s| s.name == "resync" && s.task.is_none());
        let keeping = running.slots.borrow().iter().any(|s| s.name == "keeper" && s.task.is_none());
        if busy || reading || keeping {
            op.waits = None;
            return;
        }
        let steps = running.keeper_steps.get();
        let (since, times) = op.waits.unwrap_or((steps, 0));
        let again = times + u32::from(steps > since);
        // A region may be cleaned again before its writer came; not every time.
        assert!(again <= MARKS_MAX, "promise 6: a writer waits for nothing");
        op.waits = Some((steps, again));
    }

    /// Lets everything come to its end, without faults. Fails when it does not.
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

    /// Stops cleanly; false when a fault was in the way, and the machine is to be ended.
    pub fn stop(&self) -> bool {
        self.settle();
        self.world.note("stops", 0, 0);
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
    /// The sites of the run, for events that come from them.
    pub static SITES: RefCell<Vec<Weak<Site>>> = const { RefCell::new(Vec::new()) };
}

fn tap_of(protection: &SteppedProtection) -> Arc<Tap> {
    protection.volume().tap().expect("a protected volume has one").clone()
}
