//! What everything in a simulation shares: seeded random numbers, the clock, the trace, and the
//! points of I/O at which the power may fail, a request may fail, and others may run.
//!
//! A simulation is one thread. The product reaches devices, files and stores through its `Send +
//! Sync` traits, so they find the world in a thread-local variable.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hrl::{Clock, ManualClock, Timestamp};

/// Lines of the trace that are shown with a finding, unless `SIM_LINES` sets another number.
const TRACE_LINES: usize = 120;
/// Nesting depth up to which others run inside requests.
const NESTING_MAX: u32 = 2;

thread_local! {
    static WORLD: RefCell<Option<Rc<World>>> = const { RefCell::new(None) };
}

/// Seeded random numbers (splitmix64).
pub struct Random(Cell<u64>);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(Cell::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d))
    }

    pub fn next(&self) -> u64 {
        let state = self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.0.set(state);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number below `limit`, which must not be zero.
    pub fn below(&self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// Returns a number in `low..=high`.
    pub fn within(&self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// Returns true once in `times`.
    pub fn one_in(&self, times: u64) -> bool {
        self.below(times) == 0
    }

    pub fn pick<T: Copy>(&self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

/// A running machine, from start to end. Everything it owns is cut off when it dies.
pub struct Incarnation {
    alive: AtomicBool,
}

impl Incarnation {
    pub fn start() -> Arc<Self> {
        Arc::new(Self { alive: AtomicBool::new(true) })
    }

    pub fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Relaxed)
    }

    pub fn kill(&self) {
        self.alive.store(false, Ordering::Relaxed);
    }
}

/// How likely requests fail: once in this many; zero is never.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    pub file_error: u64,
    pub file_sync_error: u64,
    pub directory_sync_error: u64,
    pub disk_error: u64,
    pub disk_flush_error: u64,
    pub store_refuses: u64,
    pub store_loses_answer: u64,
    pub store_is_late: u64,
    /// A put or delete that was answered arrives once more, later.
    pub store_repeats: u64,
}

/// Counts of what a run did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub steps: u64,
    pub requests: u64,
    pub faults: u64,
    pub kills: u64,
    pub power_failures: u64,
    pub points: u64,
    pub states_compared: u64,
}

impl Counts {
    pub fn add(&mut self, other: Self) {
        self.steps += other.steps;
        self.requests += other.requests;
        self.faults += other.faults;
        self.kills += other.kills;
        self.power_failures += other.power_failures;
        self.points += other.points;
        self.states_compared += other.states_compared;
    }
}

/// The shared world of one run.
pub struct World {
    pub random: Random,
    pub clock: Arc<ManualClock>,
    pub faults: Cell<Faults>,
    pub counts: Cell<Counts>,
    /// The machine dies at the request with this number.
    pub dies_at: Cell<Option<u64>>,
    /// How often each kind of fault was injected.
    pub injected: RefCell<BTreeMap<&'static str, u64>>,
    /// Runs others during a request.
    others: RefCell<Option<Rc<dyn Fn()>>>,
    nesting: Cell<u32>,
    /// The store answers, even if it is faulty otherwise.
    pub peace: Cell<bool>,
    /// The current task or writer.
    pub doing: Cell<&'static str>,
    hash: Cell<u64>,
    lines: RefCell<VecDeque<String>>,
    lines_max: usize,
    verbose: bool,
}

impl World {
    /// Creates the world of `seed` for the calling thread.
    pub fn enter(seed: u64, verbose: bool) -> Rc<Self> {
        let start = Timestamp(1_800_000_000_000_000_000);
        let world = Rc::new(Self {
            random: Random::new(seed),
            clock: Arc::new(ManualClock::new(start, seed ^ 0xabcd)),
            faults: Cell::default(),
            counts: Cell::default(),
            dies_at: Cell::new(None),
            injected: RefCell::default(),
            others: RefCell::new(None),
            nesting: Cell::new(0),
            peace: Cell::new(false),
            doing: Cell::new(""),
            hash: Cell::new(0xcbf2_9ce4_8422_2325),
            lines: RefCell::default(),
            lines_max: crate::variable("SIM_LINES").map_or(TRACE_LINES, |lines| lines as usize),
            verbose,
        });
        WORLD.with(|current| *current.borrow_mut() = Some(world.clone()));
        world
    }

    pub fn current() -> Rc<Self> {
        WORLD.with(|current| current.borrow().clone()).expect("a simulation runs on this thread")
    }

    pub fn set_others(&self, others: Option<Rc<dyn Fn()>>) {
        *self.others.borrow_mut() = others;
    }

    /// Adds to the trace: a word and two numbers.
    pub fn note(&self, what: &'static str, a: u64, b: u64) {
        self.trace(what, a, b);
        if self.verbose {
            self.say(format!("{what} {a} {b}"));
        }
    }

    /// As `note`, without a line.
    pub fn trace(&self, what: &'static str, a: u64, b: u64) {
        let mut hash = self.hash.get();
        let numbers = a.to_le_bytes().into_iter().chain(b.to_le_bytes());
        for byte in what.bytes().chain(numbers) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self.hash.set(hash);
    }

    /// Adds a line for people, if the trace is shown.
    pub fn say(&self, line: String) {
        if !self.verbose {
            return;
        }
        let mut lines = self.lines.borrow_mut();
        if lines.len() >= self.lines_max {
            lines.pop_front();
        }
        let (time, depth) = (self.clock.elapsed().as_micros(), self.nesting.get() as usize);
        lines.push_back(format!("{time:>12} {}{line}", "  ".repeat(depth)));
    }

    /// Returns a hash of the whole trace.
    pub fn hash(&self) -> u64 {
        self.hash.get()
    }

    pub fn lines(&self) -> Vec<String> {
        self.lines.borrow().iter().cloned().collect()
    }

    pub fn count(&self, change: impl FnOnce(&mut Counts)) {
        let mut counts = self.counts.get();
        change(&mut counts);
        self.counts.set(counts);
    }

    /// Returns whether a fault strikes that does once in `times`.
    pub fn strikes(&self, times: u64, what: &'static str) -> bool {
        let yes = times > 0 && self.random.one_in(times);
        if yes {
            self.inject(what);
        }
        yes
    }

    /// Runs `work` as `who`.
    pub fn doing<T>(&self, who: &'static str, work: impl FnOnce() -> T) -> T {
        let before = self.doing.replace(who);
        let result = work();
        self.doing.set(before);
        result
    }

    /// Counts a fault.
    pub fn inject(&self, what: &'static str) {
        self.note(what, 0, 0);
        self.count(|counts| counts.faults += 1);
        *self.injected.borrow_mut().entry(what).or_default() += 1;
    }

    /// A request of `machine` begins or ends: the machine may die here. Returns false if it is
    /// dead.
    pub fn request(&self, machine: &Incarnation) -> bool {
        self.count(|counts| counts.requests += 1);
        if self.dies_at.get().is_some_and(|at| self.counts.get().requests >= at) {
            self.dies_at.set(None);
            self.note("dies within a request", self.counts.get().requests, 0);
            machine.kill();
        }
        machine.is_alive()
    }

    /// Runs something without faults, without anyone else, and without a death of the machine.
    pub fn in_peace<T>(&self, work: impl FnOnce() -> T) -> T {
        let (faults, dies_at) = (self.faults.take(), self.dies_at.take());
        let (nesting, peace) = (self.nesting.replace(NESTING_MAX), self.peace.replace(true));
        let result = work();
        self.peace.set(peace);
        self.nesting.set(nesting);
        self.faults.set(faults);
        self.dies_at.set(dies_at);
        result
    }

    /// Lets time pass, in which others run.
    pub fn waits(&self, by: Duration) {
        let depth = self.nesting.replace(1);
        let others = self.others.borrow().clone();
        if let Some(others) = others.filter(|_| depth == 0) {
            for _ in 0..self.random.within(2, 12) {
                others();
            }
        }
        self.nesting.set(depth);
        self.clock.advance(by);
    }

    /// A request takes its time, and others run meanwhile. Nothing that they need may be locked.
    pub fn takes_time(&self) {
        let depth = self.nesting.get();
        if depth >= NESTING_MAX || !self.random.one_in(3) {
            return;
        }
        let Some(others) = self.others.borrow().clone() else { return };
        self.nesting.set(depth + 1);
        for _ in 0..self.random.within(1, 4) {
            others();
        }
        self.nesting.set(depth);
    }
}
