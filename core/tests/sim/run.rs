//! One life, decided by a seed, and the report of a failure.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hrl::device::Discarded;
use hrl::journal::WrappingKey;
use hrl::replica::At;
use hrl::{Clock, Compression, Mode, Policy, RetentionPolicy, Thinning, Timestamp};

use crate::away::Wish;
use crate::cloning::Clones;
use crate::failing::Failovers;
use crate::gateway::Gateway;
use crate::going_back::Histories;
use crate::oracle::{Oracle, last_in_vault};
use crate::site::{Plan, SITES, Site, state_directory};
use crate::store::Server;
use crate::swapping::Swaps;
use crate::world::{Counts, Faults, Random, World};

/// What a run did.
#[derive(Debug, Default)]
pub struct Outcome {
    pub hash: u64,
    pub counts: Counts,
    pub injected: BTreeMap<&'static str, u64>,
}

impl Outcome {
    pub fn add(&mut self, other: Self) {
        self.counts.add(other.counts);
        for (what, count) in other.injected {
            *self.injected.entry(what).or_default() += count;
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let c = &self.counts;
        write!(
            f,
            "{} steps, {} requests, {} kills, {} power failures, {} points, {} states compared, {} faults",
            c.steps, c.requests, c.kills, c.power_failures, c.points, c.states_compared, c.faults
        )?;
        self.injected.iter().try_for_each(|(what, count)| write!(f, "\n  {what}: {count}"))
    }
}

/// What was found.
#[derive(Debug)]
pub struct Found {
    pub message: String,
    pub lines: Vec<String>,
}

thread_local! {
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Panics are stored for the report instead of printed at once.
pub fn quiet_panics() {
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map(|at| format!(" ({}:{})", at.file(), at.line()));
        let payload = info.payload();
        let text = payload.downcast_ref::<String>().cloned();
        let text = text.or_else(|| payload.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        let text = text.unwrap_or_else(|| "a panic".to_owned());
        PANIC.set(text + &place.unwrap_or_default());
    }));
}

/// Runs one seed, for `steps` steps if given.
pub fn simulate(seed: u64, steps: Option<u64>, verbose: bool) -> Result<Outcome, Found> {
    let world = World::enter(seed, verbose);
    let result = catch_unwind(AssertUnwindSafe(|| {
        live(&world, seed, steps.unwrap_or_else(|| steps_of(seed)));
    }));
    world.set_others(None);
    SITES.set(Vec::new());
    let counts = world.counts.get();
    match result {
        Ok(()) => Ok(Outcome { hash: world.hash(), counts, injected: world.injected.take() }),
        Err(payload) => {
            // Anything that the run still owns may be locked.
            std::mem::forget(payload);
            Err(Found { message: PANIC.take(), lines: world.lines() })
        }
    }
}

/// Finds about the smallest number of steps with the failure `message`, and prints it with its trace.
pub fn explain(seed: u64, message: &str) {
    // Numbers differ.
    let kind = |message: &str| -> String {
        message.chars().filter(|c| !c.is_ascii_hexdigit()).take(KIND_CHARS).collect()
    };
    let (mut low, mut high) = (0, steps_of(seed));
    while high - low > 1 {
        let middle = low.midpoint(high);
        let found = simulate(seed, Some(middle), false);
        let is_it = found.is_err_and(|found| kind(&found.message) == kind(message));
        if is_it { high = middle } else { low = middle }
    }
    let Err(found) = simulate(seed, Some(high), true) else {
        return println!("seed {seed} failed, and does not when it is played again");
    };
    found.lines.iter().for_each(|line| println!("{line}"));
    println!("\nseed {seed}, {high} steps: {}", found.message);
    println!(
        "replay: SIM_SEED={seed} cargo test -p hrl --test sim promises_are_kept_in_many_simulated -- --nocapture"
    );
}

/// Characters of a message that tell one kind of failure from another.
const KIND_CHARS: usize = 30;

fn steps_of(seed: u64) -> u64 {
    Random::new(!seed).within(150, 2000)
}

fn plan(random: &Random) -> Plan {
    let milliseconds = |low, high| Duration::from_millis(random.within(low, high));
    let region_bytes = random.pick(&[4096, 8192, 16 << 10, 32 << 10]);
    let policy = Policy {
        memory_budget_bytes: random.pick(&[24 << 10, 256 << 10, 1 << 20, 1 << 20]),
        region_bytes,
        marked_regions_max: random.within(1, 12),
        segment_bytes_max: random.pick(&[4 << 10, 16 << 10, 128 << 10]),
        segment_interval: milliseconds(1, 200),
        frame_bytes: random.pick(&[1 << 10, 4 << 10, 32 << 10]),
        compression: random.pick(&[Compression::None, Compression::None, Compression::Zstd(1)]),
        spool_bytes_max: random.pick(&[64 << 10, 512 << 10, 4 << 20, 4 << 20]),
        crash_point_interval: random.pick(&[Duration::ZERO, Duration::from_millis(100)]),
        puts_in_flight_max: random.within(1, 4) as u32,
        catalog_interval: random.pick(&[Duration::ZERO, Duration::from_millis(300)]),
        retry_interval_max: milliseconds(100, 4000),
        retention: random.one_in(4).then(|| RetentionPolicy {
            full: milliseconds(200, 3000),
            thinning: vec![Thinning {
                age: milliseconds(4000, 9000),
                interval: milliseconds(200, 1000),
            }],
            bytes_max: (!random.one_in(3)).then(|| random.within(5_000, 120_000)),
            grace: milliseconds(1000, 3000),
        }),
        retention_interval: milliseconds(100, 1000),
        failover_poll_interval: milliseconds(10, 800),
        ..Policy::default()
    };
    let key = random.one_in(3).then(|| WrappingKey::from_bytes([7; 32]));
    let discard = random.pick(&[Discarded::Zeroes, Discarded::Zeroes, Discarded::Ignored]);
    Plan {
        policy,
        disk_bytes: random.pick(&[64 << 10, 128 << 10, 256 << 10]),
        key,
        discard,
        hot: random.pick(&[1, 2, 4]),
        write_sectors_max: random.pick(&[16, 32, 100]),
        flushes: random.one_in(2),
    }
}

fn faults(random: &Random) -> Faults {
    let often = |choices: &[u64]| random.pick(choices);
    Faults {
        file_error: often(&[0, 0, 400, 60]),
        file_sync_error: often(&[0, 0, 200, 30]),
        directory_sync_error: often(&[0, 0, 100, 20]),
        disk_error: often(&[0, 0, 300, 60]),
        disk_flush_error: often(&[0, 0, 0, 100]),
        store_refuses: often(&[0, 50, 10]),
        store_loses_answer: often(&[0, 50, 10]),
        store_is_late: often(&[0, 0, 50, 10]),
        store_repeats: often(&[0, 50, 10]),
    }
}

/// Everything of a run.
pub struct Life {
    pub world: Rc<World>,
    pub server: Arc<Server>,
    gateway: Option<Arc<Gateway>>,
    pub sites: Vec<Rc<Site>>,
    /// The site that owns the volume.
    pub owner: usize,
    /// The site that takes it over, until it owns it.
    pub taker: Option<usize>,
    pub oracle: Oracle,
    pub failovers: Failovers,
    pub histories: Histories,
    pub clones: Clones,
    pub swaps: Swaps,
    pub faulty: Faults,
    /// A crash happens once in this many steps; zero is never.
    pub crashes: u64,
    /// Another machine takes the volume over once in this many steps; zero is never.
    takeovers: u64,
    down_until: Duration,
    /// Whether faults strike. Otherwise only crashes do, so that the volume becomes ordered now and
    /// then.
    pub stormy: bool,
}

impl Life {
    fn begin(world: &Rc<World>, seed: u64) -> Self {
        let random = &world.random;
        let server = Arc::new(Server::default());
        // An empty vault: creating one probes the store with threads.
        server.set_content("hrl-vault", b"hrl vault 1\n".as_slice().into());
        let plan = plan(random);
        let can_clone = plan.policy.retention.is_none();
        let gateway = random.one_in(3).then(|| Gateway::new(&server));
        let takeovers = random.pick(&[0, 0, 0, 300]);
        let every = if takeovers > 0 { 0 } else { random.pick(&[0, 60, 200]) };
        let count = if takeovers + every > 0 { 2 } else { 1 };
        let sites: Vec<_> = (0..count)
            .map(|number| Site::new(world, plan.clone(), &server, gateway.clone(), number))
            .collect();
        sites[1..].iter().for_each(|site| site.replace());
        let weak: Vec<_> = sites.iter().map(Rc::downgrade).collect();
        SITES.set(weak.clone());
        let others = World::current();
        world.set_others(Some(Rc::new(move || {
            let site = &weak[others.random.below(weak.len() as u64) as usize];
            if let Some(site) = site.upgrade() {
                site.act();
            }
        })));
        Self {
            world: world.clone(),
            server,
            gateway,
            sites,
            owner: 0,
            taker: None,
            oracle: Oracle::default(),
            failovers: Failovers::new(every),
            histories: Histories::new(seed),
            clones: Clones::new(seed, can_clone && count == 1),
            swaps: Swaps::new(seed),
            faulty: faults(random),
            crashes: random.pick(&[0, 150, 300, 600]),
            stormy: false,
            takeovers,
            down_until: Duration::ZERO,
        }
    }

    pub fn owner(&self) -> &Rc<Site> {
        &self.sites[self.owner]
    }

    /// Starts a machine that is down. One that lost the volume stays down.
    pub fn revive(&mut self, number: usize) {
        let world = self.world.clone();
        let random = &world.random;
        let site = self.sites[number].clone();
        let takes = self.taker == Some(number);
        let is_absent = self.swaps.is_absent(number, self.owner);
        if site.is_alive() || is_absent || (number != self.owner && !takes) {
            return;
        }
        site.crash(random.one_in(2));
        world.faults.set(if random.one_in(4) { self.faulty } else { Faults::default() });
        world.dies_at.set(None);
        let from = takes.then(|| self.owner());
        if site.comes_home() && random.one_in(2) {
            // A second attempt to take it home gets the answer that it is home.
            let (machine, follower) = site.follow();
            assert!(follower.is_err(), "promise 9: who has the volume follows");
            site.switch_off(&machine, false);
        }
        self.rot(number);
        let started = if site.has_failover() {
            let wish = Wish { at: At::Newest, planned: None, changes: false };
            site.fail_over(&wish, &site).is_ok()
        } else {
            site.start(false, from.map(|site| &**site))
        };
        if started {
            if takes {
                self.forget_sequences();
                self.owner = number;
                self.taker = None;
            }
        } else {
            if takes && site.is_unreadable() {
                // The old source must go on with what is left first.
                self.taker = None;
            }
            world.clock.advance(Duration::from_millis(random.within(1, 500)));
        }
        world.faults.set(if self.stormy { self.faulty } else { Faults::default() });
    }

    /// The disk under a spool returns something else than what was synced.
    fn rot(&self, number: usize) {
        let (world, site) = (&self.world, &self.sites[number]);
        if !self.stormy || !world.random.one_in(6) {
            return;
        }
        if site.files().rot(&world.random, &state_directory().join("spool")) {
            world.inject("a synced segment in the spool is altered");
            // Data that only the journal had is read again from the disk; points in it are gone.
            let last = world.in_peace(|| last_in_vault(self.owner()));
            site.model.borrow_mut().confirmed.retain(|_, sequence| *sequence <= last);
        }
    }

    /// Something happens to the world.
    fn happen(&mut self) {
        let world = self.world.clone();
        let random = &world.random;
        if random.one_in(100) {
            self.stormy = !self.stormy;
            world.note(if self.stormy { "storm" } else { "calm" }, 0, 0);
            world.faults.set(if self.stormy { self.faulty } else { Faults::default() });
        }
        match random.below(if self.stormy { 1000 } else { 990 }) {
            990..=994 => {
                self.server.set_down(true);
                world.inject("store is down");
                self.down_until = world.clock.elapsed()
                    + Duration::from_millis(random.pick(&[10, 300, 5_000, 60_000]));
            }
            995..=997 => {
                let site = self.owner();
                site.files().set_room(site.files().bytes() + random.within(0, 40_000) as usize);
            }
            5..=8 => self.sites.iter().for_each(|site| site.files().set_room(usize::MAX)),
            // A clock that jumped must not make anyone give up.
            9..=10 if self.owner().plan.policy.retention.is_none() => {
                world.inject("clock jumps");
                let by = random.within(0, 7_200_000_000_000) as i64 - 3_600_000_000_000;
                world.clock.jump(Timestamp(world.clock.now().0 + by));
            }
            11..=25 => {
                self.see_commits(false);
                let owner = self.owner().clone();
                self.oracle.look(&owner, false);
                self.look_at_some_branch();
            }
            26..=30 => world.clock.advance(Duration::from_millis(random.within(100, 3000))),
            31..=42 => self.owner().idle(),
            998..=999 => {
                if let Some(gateway) = &self.gateway {
                    world.inject("gateway dies with its cache");
                    gateway.dies();
                }
            }
            _ => self.sites[random.below(self.sites.len() as u64) as usize].act(),
        }
        if self.server.is_down() && world.clock.elapsed() >= self.down_until {
            self.server.set_down(false);
        }
        if self.takeovers > 0 && random.one_in(self.takeovers) && self.taker.is_none() {
            let to = 1 - self.owner;
            world.inject("another source takes the volume over");
            self.sites[to].crash(random.one_in(2));
            self.taker = Some(to);
        }
        self.fail_over_or_back();
        self.go_back();
        self.go_on_as_two();
        self.swap_vaults();
        let site = if self.failovers.is_quiet() || random.one_in(2) {
            self.owner()
        } else {
            &self.sites[1 - self.owner]
        };
        if self.crashes > 0 && random.one_in(self.crashes) && site.is_alive() {
            if random.one_in(2) {
                site.crash(random.one_in(2));
            } else {
                world.dies_at.set(Some(world.counts.get().requests + random.within(1, 60)));
            }
        }
    }

    /// Without faults everything comes together.
    fn end(mut self) {
        let world = self.world.clone();
        world.faults.set(Faults::default());
        world.dies_at.set(None);
        self.server.set_down(false);
        self.server.deliver(Duration::ZERO, true);
        self.sites.iter().for_each(|site| site.files().set_room(usize::MAX));
        self.end_clones();
        if let Some(taker) = self.taker {
            self.faulty = Faults::default();
            self.revive(taker);
            assert!(self.taker.is_none(), "nobody can take the volume over");
        }
        self.end_failovers();
        self.swaps.come_back();
        let site = self.owner().clone();
        self.sites.iter().filter(|other| other.number != site.number).for_each(|s| s.crash(false));
        if world.random.one_in(2) || !site.is_alive() {
            site.crash(world.random.one_in(2));
            self.revive(self.owner);
            assert!(site.is_alive(), "an agent does not start although nothing is wrong");
        }
        site.settle();
        self.check_usable();
        self.oracle.look_at_the_end(&site);
        if site.plan.policy.retention.is_some() {
            for _ in 0..200 {
                world.clock.advance(Duration::from_millis(world.random.within(1, 100)));
                site.act();
                if world.random.one_in(25) {
                    self.oracle.look(&site, false);
                }
            }
            site.settle();
            self.oracle.look_at_the_end(&site);
        }
        // A record of a failover that could not be removed does no harm.
        let whole = site.running().is_some_and(|running| running.instant.borrow().is_some());
        let stopped = if whole {
            // A failed flush is final for a disk until it is opened again.
            site.crash(false);
            self.revive(self.owner);
            site.settle();
            site.finish_copy();
            site.detach(false);
            !site.has_failover()
        } else {
            site.stop()
        };
        assert!(stopped || !whole, "a disk is not left as a plain one");
        if stopped {
            site.files().killed();
            // A segment that could not be removed is found, and then nothing is trusted.
            let clean = !world.injected.borrow().contains_key("file error");
            assert!(site.start(clean, None), "an agent does not start after a clean stop");
            assert!(!clean || site.mode() == Some(Mode::Ordered));
            site.settle();
            self.oracle.look_at_the_end(&site);
        }
        site.crash(false);
        if world.random.one_in(2) {
            Oracle::look_at_altered(&site);
        }
    }
}

fn live(world: &Rc<World>, seed: u64, steps: u64) {
    let mut life = Life::begin(world, seed);
    if world.random.one_in(4) {
        life.stormy = true;
    } else {
        // The first copy is complete.
        assert!(life.owner().start(false, None), "an agent does not start");
        life.owner().settle();
    }
    for _ in 0..steps {
        world.count(|counts| counts.steps += 1);
        (0..life.sites.len()).for_each(|number| life.revive(number));
        life.happen();
    }
    life.end();
}
